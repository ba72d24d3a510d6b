"""IPv6 packets of a link as control meets them (RFC 8200): what a worker punted, and what a session's router says.

    |Version| Traffic class |              Flow label               |
    |        Payload length         |  Next header  |   Hop limit   |
    |                       Source, 16 octets                       |
    |                     Destination, 16 octets                    |

Only ICMPv6 and UDP, both with a checksum that must be right. Addresses stay octets: most of a packet is looked at once.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass

HOP_BY_HOP, UDP, ROUTING, ICMPV6, DESTINATION_OPTIONS = 0, 17, 43, 58, 60
CHECKSUM_AT = {ICMPV6: 2, UDP: 6}
HEADER = 40
EXTENSIONS = 8                  # headers that are walked over
FOREVER = 255                   # the hop limit of what no router has passed on
UNSPECIFIED = bytes(16)
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
DHCP_AGENTS = bytes.fromhex("ff020000000000000000000000010002")      # All_DHCP_Relay_Agents_and_Servers
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")         # and the last three octets of the address


@dataclass(frozen=True, slots=True)
class Datagram6:
    """One packet without its extension headers; the payload begins with the transport's header."""
    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    hops: int = FOREVER


def is_link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_group(address: bytes) -> bool:
    return address[0] == 0xFF


def solicited_node(address: bytes) -> bytes:
    """The group in which a node listens for questions about this address (RFC 4291 section 2.7.1)."""
    return SOLICITED_NODE + address[13:]


def pull_ip6(packet: bytes) -> Datagram6 | None:
    """A whole packet of ICMPv6 or UDP whose checksum is right, or None. What is behind its length is padding."""
    if len(packet) < HEADER or packet[0] >> 4 != 6:
        return None
    end = HEADER + (packet[4] << 8 | packet[5])
    if end > len(packet):
        return None
    following, at = packet[6], HEADER
    for n in range(EXTENSIONS):
        if following in CHECKSUM_AT:
            break
        if following not in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS) or (following == HOP_BY_HOP and n) or at + 8 > end:
            return None
        size = (packet[at + 1] + 1) * 8
        if at + size > end or (packet[at + 3] if following == ROUTING else not acceptable(packet[at + 2:at + size])):
            return None
        following, at = packet[at], at + size
    source, destination, payload = packet[8:24], packet[24:40], packet[at:end]
    if following not in CHECKSUM_AT or len(payload) < 8 or checksum(source + destination, following, payload):
        return None
    if following == UDP and (payload[4] << 8 | payload[5] != len(payload) or payload[6:8] == b"\0\0"):   # no checksum is a wrong one
        return None
    return Datagram6(source, destination, following, payload, packet[7])


def acceptable(options: bytes) -> bool:
    """Whether a node may go on behind these options of a hop-by-hop or destination header (section 4.2): it knows
    them, or their first two bits say so."""
    at = 0
    while at < len(options):
        if options[at] == 0:
            at += 1
        elif options[at] >> 6 or at + 2 > len(options):
            return False
        else:
            at += 2 + options[at + 1]
    return at == len(options)


def push_ip6(datagram: Datagram6) -> bytes:
    """The packet, its transport's checksum computed; what stands in that field must be zeros."""
    protocol, payload, addresses = datagram.protocol, datagram.payload, datagram.source + datagram.destination
    at = CHECKSUM_AT[protocol]
    total = checksum(addresses, protocol, payload)
    if total == 0 and protocol == UDP:
        total = 0xFFFF
    return (struct.pack("!IHBB", 6 << 28, len(payload), protocol, datagram.hops) + addresses
            + payload[:at] + total.to_bytes(2) + payload[at + 2:])


def checksum(addresses: bytes, protocol: int, payload: bytes) -> int:
    """What the checksum's field must hold where it is zero, and 0 where it holds what is right (section 8.1, RFC 1071). A sum of
    16-bit words with carries brought around is the number that they make, modulo 65535."""
    whole = addresses + struct.pack("!II", len(payload), protocol) + payload
    if len(payload) & 1:
        whole += b"\0"
    return (0xFFFF - int.from_bytes(whole) % 0xFFFF) % 0xFFFF
