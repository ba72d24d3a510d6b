"""Neighbor discovery on a PPP link (RFC 4861, RFC 4862, RFC 8106): its messages, and ICMPv6 echo beside them.

    |     Type      |     Code      |           Checksum            |
    Router Solicitation 133     | 4 reserved | options
    Router Advertisement 134    | hop limit | M O 6 reserved | router lifetime 2 | reachable time 4 | retrans timer 4 | options
    Neighbor Solicitation 135   | 4 reserved | target 16 | options
    Neighbor Advertisement 136  | R S O 29 reserved | target 16 | options

Options count eight octets at a time. A PPP link has no link-layer addresses, so none is sent and none is looked at.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .fields import Field, Kind, decode_names, encode_names
from .ip6 import FOREVER, ICMPV6, UNSPECIFIED, Datagram6, is_group, is_link_local, solicited_node

ECHO_REQUEST, ECHO_REPLY = 128, 129
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 133, 134, 135, 136
MANAGED, OTHER = 0x80, 0x40                             # of a router advertisement
ROUTER, SOLICITED, OVERRIDE = 1 << 31, 1 << 30, 1 << 29   # of a neighbor advertisement
SOURCE_LINK_LAYER = 1
ON_LINK, AUTONOMOUS = 0x80, 0x40                        # of a prefix
CURRENT_HOP_LIMIT = 64
FOR_EVER = 0xFFFFFFFF                                   # seconds


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """RFC 4861 section 4.6.2. Not on-link: the other end of a PPP link is the router, and it knows where all else is."""
    network: IPv6Network
    valid: int
    preferred: int
    flags: int = AUTONOMOUS


@dataclass(frozen=True, slots=True)
class Servers:
    """Name servers, or search domains, and for how long they are good (RFC 8106 sections 5.1 and 5.2)."""
    lifetime: int
    values: tuple[Any, ...]


def _unpack_prefix(octets: bytes) -> PrefixInformation:
    length, flags, valid, preferred = struct.unpack_from("!BBII", octets)
    if length > 128:
        raise ValueError(f"a prefix of {length} bits")
    return PrefixInformation(IPv6Network((octets[14:30], length), strict=False), valid, preferred, flags)


def _pack_prefix(p: PrefixInformation) -> bytes:
    return struct.pack("!BBIIxxxx", p.network.prefixlen, p.flags, p.valid, p.preferred) + p.network.network_address.packed


def _unpack_rdnss(octets: bytes) -> Servers:
    if len(octets) < 22 or (len(octets) - 6) % 16:
        raise ValueError(f"RDNSS of {len(octets)} octets")
    return Servers(int.from_bytes(octets[2:6]), tuple(IPv6Address(octets[at:at + 16]) for at in range(6, len(octets), 16)))


def _pack_rdnss(s: Servers) -> bytes:
    return struct.pack("!xxI", s.lifetime) + b"".join(address.packed for address in s.values)


def _unpack_dnssl(octets: bytes) -> Servers:
    if len(octets) < 6:
        raise ValueError(f"DNSSL of {len(octets)} octets")
    return Servers(int.from_bytes(octets[2:6]), decode_names(octets[6:].rstrip(b"\0") + b"\0"))


def _pack_dnssl(s: Servers) -> bytes:
    names = encode_names(s.values)
    return struct.pack("!xxI", s.lifetime) + names + bytes(-len(names) % 8)


# By type; a value is without the two octets of type and length.
PREFIX, MTU, RDNSS, DNSSL = 3, 5, 25, 31
OPTIONS = {
    PREFIX: Field("prefix", Kind("prefix", 30, _unpack_prefix, _pack_prefix)),
    MTU: Field("mtu", Kind("mtu", 6, lambda b: int.from_bytes(b[2:]), lambda v: v.to_bytes(6))),
    RDNSS: Field("rdnss", Kind("rdnss", None, _unpack_rdnss, _pack_rdnss)),
    DNSSL: Field("dnssl", Kind("dnssl", None, _unpack_dnssl, _pack_dnssl)),
}


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    lifetime: int                       # seconds as a default router; 0: it is none
    flags: int = 0                      # MANAGED, OTHER
    mtu: int = 0                        # 0: nothing is said of it
    prefixes: tuple[PrefixInformation, ...] = ()
    rdnss: Servers | None = None
    dnssl: Servers | None = None
    hop_limit: int = CURRENT_HOP_LIMIT


@dataclass(frozen=True, slots=True)
class Solicitation:
    """Of routers, or of the neighbor that has `target`."""
    source: bytes
    target: bytes = b""


def nd_options(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each; ValueError for a length of 0, or past the end (RFC 4861 section 4.6)."""
    at = 0
    while at < len(octets):
        size = octets[at + 1] * 8 if at + 1 < len(octets) else 0
        if not 0 < size <= len(octets) - at:
            raise ValueError("an option that is cut off")
        yield octets[at], octets[at + 2:at + size]
        at += size


def nd_option(kind: int, value: Any) -> bytes:
    octets = OPTIONS[kind].kind.encode(value)
    assert len(octets) % 8 == 6
    return bytes((kind, (len(octets) + 2) // 8)) + octets


def pull_solicitation(packet: Datagram6) -> Solicitation | None:
    """A valid Router or Neighbor Solicitation (RFC 4861 sections 6.1.1 and 7.1.1), or None."""
    payload, source = packet.payload, packet.source
    if packet.protocol != ICMPV6 or packet.hops != FOREVER or payload[1] or not (source == UNSPECIFIED or usable(source)):
        return None
    at, target = (24, payload[8:24]) if payload[0] == NEIGHBOR_SOLICITATION else (8, b"")
    if payload[0] not in (ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION) or len(payload) < at or (target and is_group(target)):
        return None
    try:
        kinds = {kind for kind, _ in nd_options(payload[at:])}
    except ValueError:
        return None
    if source == UNSPECIFIED and (SOURCE_LINK_LAYER in kinds or (target and packet.destination != solicited_node(target))):
        return None
    return Solicitation(source, target)


def usable(source: bytes) -> bool:
    """Whether an answer may go there."""
    return is_link_local(source) or not (is_group(source) or source[:8] == bytes(8))


def push_solicitation(source: bytes, destination: bytes, target: bytes = b"") -> Datagram6:
    kind = NEIGHBOR_SOLICITATION if target else ROUTER_SOLICITATION
    return Datagram6(source, destination, ICMPV6, struct.pack("!Bxxxxxxx", kind) + target)


def push_neighbor(target: bytes, destination: bytes, solicited: bool) -> Datagram6:
    """Our own advertisement, as a router, of an address of ours."""
    flags = ROUTER | OVERRIDE | (SOLICITED if solicited else 0)
    return Datagram6(target, destination, ICMPV6, struct.pack("!BxxxI", NEIGHBOR_ADVERTISEMENT, flags) + target)


def push_advertisement(said: RouterAdvertisement, source: bytes, destination: bytes) -> Datagram6:
    payload = struct.pack("!BxxxBBHxxxxxxxx", ROUTER_ADVERTISEMENT, said.hop_limit, said.flags, said.lifetime)
    payload += nd_option(MTU, said.mtu) if said.mtu else b""
    payload += b"".join(nd_option(PREFIX, prefix) for prefix in said.prefixes)
    payload += nd_option(RDNSS, said.rdnss) if said.rdnss else b""
    payload += nd_option(DNSSL, said.dnssl) if said.dnssl else b""
    return Datagram6(source, destination, ICMPV6, payload)


def pull_advertisement(packet: Datagram6) -> RouterAdvertisement | None:
    """A valid Router Advertisement (RFC 4861 section 6.1.2), or None: a host's side."""
    payload = packet.payload
    if packet.protocol != ICMPV6 or payload[0] != ROUTER_ADVERTISEMENT or payload[1] or packet.hops != FOREVER \
            or not is_link_local(packet.source) or len(payload) < 16:
        return None
    found = RouterAdvertisement(payload[6] << 8 | payload[7], payload[5], hop_limit=payload[4])
    try:
        for kind, octets in nd_options(payload[16:]):
            field = OPTIONS.get(kind)
            if field is None:
                continue
            value = field.kind.decode(octets)
            if kind == PREFIX:
                found = replace(found, prefixes=(*found.prefixes, value))
            else:
                found = replace(found, **{field.name: value})
    except ValueError:
        return None
    return found


def echo_reply(packet: Datagram6, own: bytes) -> Datagram6 | None:
    """The answer to an Echo Request to us (RFC 4443 section 4.2), or None."""
    if packet.protocol != ICMPV6 or packet.payload[:2] != bytes((ECHO_REQUEST, 0)) or not usable(packet.source):
        return None
    return Datagram6(own, packet.source, ICMPV6, bytes((ECHO_REPLY, 0, 0, 0)) + packet.payload[4:], CURRENT_HOP_LIMIT)
