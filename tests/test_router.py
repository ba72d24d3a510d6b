"""The router of a session's link: neighbor discovery and DHCPv6 as packets of scapy's making, time as a number, and any octets."""
import struct
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from headrace.control.dhcp6 import (
    IA_NA,
    Association,
    Message,
    Type,
    pull_dhcp6,
    push_dhcp6,
)
from headrace.control.dhcp6server import PREFERRED, VALID
from headrace.control.ip6 import ICMPV6, UDP, Datagram6, checksum, pull_ip6, push_ip6
from headrace.control.nd import (
    MANAGED,
    OTHER,
    PrefixInformation,
    RouterAdvertisement,
    Servers,
    nd_options,
    pull_advertisement,
    pull_solicitation,
    push_advertisement,
    push_solicitation,
)
from headrace.control.router import FASTEST, LEAST_INTERVAL, LIFETIME, MOST_INTERVAL, Advertised, Router
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import inet6 as scapy6

LINK, DELEGATED = IPv6Network("2001:db8:67:1::/64"), IPv6Network("2001:db8:100::/56")
DNS, DOMAINS = (IPv6Address("2001:db8::53"), IPv6Address("2001:db8::54")), ("example.net", "lan.example.org")
DUID, PEER = b"\x00\x04headrace's own..", bytes.fromhex("00030001020000000001")
NODE, US = IPv6Address("fe80::a:b:c:d").packed, IPv6Address("fe80::1").packed
XID = b"xid"


class Pool:
    """Delegated prefixes: one, or none."""

    def __init__(self, left=1):
        self.left, self.taken = left, 0

    def take(self):
        if self.left == self.taken:
            return None
        self.taken += 1
        return DELEGATED

    def give(self):
        self.taken -= 1


def router(pool="one", prefix=LINK, managed=False, dns=DNS, domains=DOMAINS, seed=1):
    return Router(1, 1400, prefix, Pool() if pool == "one" else pool, Advertised(dns, domains, managed), DUID, Random(seed))


def vectors():
    for paragraph in (Path(__file__).parent / "vectors/link6.hex").read_text().split("\n\n")[1:]:
        lines = paragraph.strip().splitlines()
        text = " ".join(line[2:] for line in lines if line.startswith("#"))
        yield pytest.param(bytes.fromhex("".join(line for line in lines if line[0] not in "#=")), lines[-1][2:], id=text)


VECTORS = list(vectors())


def answers(own, packet, now=100.0):
    """What each answer is, and to whom; all of them well-formed by scapy's reckoning."""
    own.receive(packet, now)
    found = []
    for octets in own.outgoing():
        said = scapy6.IPv6(octets)
        assert said.plen == len(octets) - 40 and said.src == "fe80::1"
        sent = said.payload.cksum if said.nh == ICMPV6 else said.payload.chksum
        clean = scapy6.IPv6(octets)
        if said.nh == ICMPV6:
            del clean.payload.cksum
        else:
            del clean.payload.chksum
        again = scapy6.IPv6(bytes(clean)).payload
        assert sent == (again.cksum if said.nh == ICMPV6 else again.chksum)
        kind = octets[40] if said.nh == ICMPV6 else octets[48]
        found.append(f"{kind} to {said.dst}")
    return found


@pytest.mark.parametrize("packet, wanted", VECTORS)
def test_vectors(packet, wanted):
    assert answers(router(), packet) == ([] if wanted == "nothing" else [wanted])
    assert answers(router(), packet + b"padding") == ([] if wanted == "nothing" else [wanted])


@pytest.mark.parametrize("packet, wanted", VECTORS)
def test_cut_or_changed_nothing_is_answered(packet, wanted):
    """The checksum or the length sees it, but in the fields that neither covers."""
    own, extensions = router(), range(40, 48 if packet[6] == 0 else 40)
    for n in range(len(packet)):
        assert answers(own, packet[:n]) == []
        if n >= 8 and n not in extensions:
            own.receive(packet[:n] + bytes((packet[n] ^ 0x41,)) + packet[n + 1:], 100.0)
            assert own.outgoing() == []


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.tuples(st.sampled_from([p.values[0] for p in VECTORS]), st.binary(max_size=60),
                                                    st.integers(0, 200))),
       st.sampled_from([ICMPV6, UDP, 0, 43, 44, 60]))
def test_any_octets(drawn, protocol):
    """Any octets, and any behind right checksums: an answer or none, never more than one, and nothing is lost that was leased."""
    own = router()
    if isinstance(drawn, tuple):
        base, patch, at = drawn
        payload = (base[40:40 + at] + patch + base[40 + at + len(patch):])[:1400]
        if protocol in (ICMPV6, UDP) and len(payload) >= 8:
            clear = payload[:2] + b"\0\0" + payload[4:]
            if protocol == UDP:
                clear = payload[:4] + struct.pack("!HH", len(payload), 0) + payload[8:]
            packet = push_ip6(Datagram6(base[8:24], base[24:40], protocol, clear, base[7]))
        else:
            packet = base[:6] + bytes((protocol,)) + base[7:40] + payload
    else:
        packet = drawn
    own.receive(packet, 5.0)
    assert len(own.outgoing()) <= 1
    own.close()
    assert own.server.prefixes.taken == 0 and own.deadline() is None


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_message_and_options(octets):
    """Parsers are total; what is read is written so that it reads the same."""
    for kind in Type:
        message = pull_dhcp6(bytes((kind,)) + octets)
        if message is not None:
            assert pull_dhcp6(push_dhcp6(message)) == message
    said = pull_advertisement(Datagram6(US, NODE, ICMPV6, b"\x86\0\0\0" + octets))
    assert said is None or pull_advertisement(push_advertisement(said, US, NODE)) == said or said.rdnss or said.dnssl


@given(st.binary(max_size=80), st.binary(min_size=32, max_size=32))
def test_the_checksum_is_right(payload, addresses):
    """Against the sum as RFC 1071 has it."""
    payload = bytes(8) + payload
    total = 0
    whole = addresses + struct.pack("!II", len(payload), ICMPV6) + payload + bytes(len(payload) & 1)
    for n in range(0, len(whole), 2):
        total += whole[n] << 8 | whole[n + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(addresses, ICMPV6, payload) in (0xFFFF - total, 0 if total in (0, 0xFFFF) else 0xFFFF - total)
    assert pull_ip6(push_ip6(Datagram6(addresses[:16], addresses[16:], ICMPV6, payload))).payload[4:] == payload[4:]


# -- router advertisements

def heard(own):
    return [(pull_ip6(packet).destination, pull_advertisement(pull_ip6(packet))) for packet in own.outgoing()]


def test_what_is_advertised():
    own = router()
    own.open(0.0)
    packet, = own.outgoing()
    said = scapy6.IPv6(packet)
    advertisement = said[scapy6.ICMPv6ND_RA]
    assert said.dst == "ff02::1" and said.hlim == 255
    assert (advertisement.M, advertisement.O, advertisement.routerlifetime, advertisement.chlim) == (0, 1, LIFETIME, 64)
    prefix = said[scapy6.ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("2001:db8:67:1::", 64, 0, 1)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (VALID, PREFERRED)
    assert said[scapy6.ICMPv6NDOptMTU].mtu == 1400
    assert said[scapy6.ICMPv6NDOptRDNSS].dns == [str(a) for a in DNS] and said[scapy6.ICMPv6NDOptRDNSS].lifetime == LIFETIME
    assert said[scapy6.ICMPv6NDOptDNSSL].searchlist == [name + "." for name in DOMAINS]
    assert pull_advertisement(pull_ip6(packet)) == RouterAdvertisement(
        LIFETIME, OTHER, 1400, (PrefixInformation(LINK, VALID, PREFERRED),), Servers(LIFETIME, DNS), Servers(LIFETIME, DOMAINS))


@pytest.mark.parametrize("changes, flags", [
    ({"pool": None, "dns": (), "domains": ()}, 0), ({"pool": None, "domains": ()}, OTHER), ({"dns": (), "domains": ()}, OTHER),
    ({"managed": True}, MANAGED | OTHER),
])
def test_flags(changes, flags):
    own = router(**changes)
    own.open(0.0)
    (_, said), = heard(own)
    assert said.flags == flags and bool(said.rdnss) == (changes.get("dns") != ()) and bool(said.dnssl) == (changes.get("domains") != ())


def test_a_link_with_a_delegated_prefix_alone():
    own = router(prefix=None)
    own.open(0.0)
    (_, said), = heard(own)
    assert said.prefixes == () and said.lifetime == LIFETIME


def test_advertisements_come_early_and_then_rarely():
    """RFC 4861 section 6.2.4: three soon, later ones spread; each is good for longer than it takes to the next but one."""
    own, now, times = router(), 0.0, [0.0]
    own.open(now)
    own.outgoing()
    while len(times) < 40:
        now = own.deadline()
        own.tick(now - 0.001)
        assert not heard(own)
        own.tick(now)
        assert [to for to, _ in heard(own)] == [IPv6Address("ff02::1").packed]
        times.append(now)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[:2] == [16, 16] and all(LEAST_INTERVAL <= gap <= MOST_INTERVAL for gap in gaps[2:])
    assert len({round(gap) for gap in gaps[2:]}) > 20 and 2 * MOST_INTERVAL <= PREFERRED < VALID


def test_who_has_no_address_waits_for_the_next_to_all():
    own = router()
    own.open(10.0)
    assert len(heard(own)) == 1
    solicitation = push_ip6(push_solicitation(bytes(16), IPv6Address("ff02::2").packed))
    for _ in range(3):
        own.receive(solicitation, 11.0)
    assert heard(own) == [] and own.deadline() == 10.0 + FASTEST
    own.tick(own.deadline())
    assert len(heard(own)) == 1
    own.receive(solicitation, 20.0)
    assert len(heard(own)) == 1


def test_an_answer_to_one_is_no_answer_to_all():
    own = router()
    own.open(10.0)
    when = own.deadline()
    own.outgoing()
    own.receive(push_ip6(push_solicitation(NODE, IPv6Address("ff02::2").packed)), 11.0)
    assert [to for to, _ in heard(own)] == [NODE] and own.deadline() == when


@pytest.mark.parametrize("option", [b"\x03\x00" + bytes(6), b"\x03\x05" + bytes(30), b"\x19\x01" + bytes(6), b"\x19\x02" + bytes(14),
                                    b"\x1f\x02\0\0\0\0\0\1\x07abc" + bytes(4), b"\x03\x04\x81" + bytes(29), b"\x05"])
def test_broken_options_of_an_advertisement(option):
    assert pull_advertisement(Datagram6(US, NODE, ICMPV6, b"\x86" + bytes(15) + option)) is None


def test_an_unknown_option_is_skipped():
    assert list(nd_options(b"\x7f\x01" + bytes(6) + b"\x05\x01\0\0" + bytes(4))) == [(127, bytes(6)), (5, bytes(6))]
    packet = push_solicitation(NODE, IPv6Address("ff02::2").packed)
    packet = Datagram6(packet.source, packet.destination, ICMPV6, packet.payload + b"\x7f\x01" + bytes(6))
    assert pull_solicitation(packet) is not None


def test_no_answer_is_longer_than_the_link_takes():
    """A message of many associations, each answered by a longer one; an echo of what a peer's larger MRU lets through."""
    own = router()
    few, many = (push_dhcp6(Message(Type.SOLICIT, XID, PEER, associations=tuple(Association(IA_NA, n) for n in range(n)))) for n in (9, 80))
    agents = IPv6Address("ff02::1:2").packed
    for message, wanted in ((few, 1), (many, 0)):
        assert len(message) < 1350
        own.receive(push_ip6(Datagram6(NODE, agents, UDP, struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message, 1)), 1.0)
        assert len(own.outgoing()) == wanted
    for size, wanted in ((1400, 1), (1401, 0)):
        own.receive(push_ip6(Datagram6(NODE, US, ICMPV6, b"\x80" + bytes(size - 41), 64)), 1.0)
        assert len(own.outgoing()) == wanted
