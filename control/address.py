"""Addresses as the tables and paths have them: 16 octets, IPv4 as ::ffff:a.b.c.d."""
from __future__ import annotations

import ipaddress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

_PREFIX = bytes(10) + b"\xff\xff"


def mapped(address: bytes | IPv4Address | IPv6Address) -> bytes:
    """4 or 16 octets, or an address, as 16 octets."""
    packed = address if isinstance(address, bytes) else address.packed
    return packed if len(packed) == 16 else _PREFIX + packed


@lru_cache(4096)
def shown(address: bytes) -> str:
    """16 octets as people write them."""
    return str(IPv4Address(address[12:])) if address[:12] == _PREFIX else str(ipaddress.IPv6Address(address))
