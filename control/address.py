"""Addresses as the tables and paths have them: 16 octets, IPv4 as ::ffff:a.b.c.d. A link-local address of IPv6 means something on
one link only: octets 4 to 7 of it, which are zero on the wire, are its interface's index. And a path, from one address to another."""
from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from . import mac

_PREFIX = bytes(10) + b"\xff\xff"


class Path(NamedTuple):
    """Where datagrams come from and go to; an IPv4 address is written ::ffff:a.b.c.d."""
    port: int               # index of the listener's socket
    local: bytes            # 16 octets
    local_port: int
    peer: bytes
    peer_port: int
    worker: int = 0         # who received it; no part of a peer's identity


def mapped(address: bytes | IPv4Address | IPv6Address) -> bytes:
    """4 or 16 octets, or an address, as 16 octets."""
    packed = address if isinstance(address, bytes) else address.packed
    return packed if len(packed) == 16 else _PREFIX + packed


def origin(address: bytes) -> bytes:
    """Who stands behind an address: in IPv6 whoever has its /64, else (IPv4, and mac.py's stations) the address itself."""
    return address if address[:12] == _PREFIX or address[:1] == b"\xff" else address[:8]


def link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def scoped(address: bytes, interface: int) -> bytes:
    """16 octets; a link-local address becomes one on that interface's link."""
    return address[:4] + interface.to_bytes(4) + address[8:] if link_local(address) else address


@lru_cache(4096)
def shown(address: bytes) -> str:
    """16 octets as people write them: 192.0.2.1, 2001:db8::1, fe80::1%eth0, 02:00:5E:10:00:01@7."""
    if address[:12] == _PREFIX:
        return str(IPv4Address(address[12:]))
    if mac.is_station(address):
        return mac.shown(address)
    interface = int.from_bytes(address[4:8])
    if not link_local(address) or not interface:
        return str(IPv6Address(address))
    try:
        name = socket.if_indextoname(interface)
    except OSError:             # it is gone
        name = str(interface)
    return f"{IPv6Address(scoped(address, 0))}%{name}"
