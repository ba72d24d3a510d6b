"""Too big: what the answer says, and when there is none."""
import ipaddress
import struct

import pytest
from headrace.fastpath._probe_ip import too_big
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import A4, A6, TCP, UDP, ip4, ip6, right, super_packet, tcp, total, udp
from scapy.layers.inet import ICMP, IP, IPerror, TCPerror
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPerror6, IPv6

GATEWAY4 = bytes(10) + b"\xff\xff" + bytes([10, 67, 0, 1])
GATEWAY6 = ipaddress.IPv6Address("2001:db8::ffff").packed


def test_fragmentation_needed():
    packet = ip4(tcp(bytes(1460), sport=4321, seq=77), TCP, tos=8)
    answer = too_big(packet, 1400, GATEWAY4)
    assert len(answer) == 576 and answer[28:] == packet[:548]
    assert total(answer[:20]) == 0xFFFF and total(answer[20:]) == 0xFFFF
    seen = IP(answer)
    assert (seen.src, seen.dst, seen.tos, seen.ttl) == ("10.67.0.1", "10.67.0.2", 0xC0, 64)
    assert (seen[ICMP].type, seen[ICMP].code, seen[ICMP].nexthopmtu) == (3, 4, 1400)
    assert (seen[IPerror].len, seen[TCPerror].sport, seen[TCPerror].seq) == (1500, 4321, 77)


def test_packet_too_big():
    packet = ip6(udp(bytes(1440), sport=4321), UDP)
    answer = too_big(packet, 1400, GATEWAY6)
    assert len(answer) == 1280 and answer[48:] == packet[:1232] and right_icmp6(answer)
    seen = IPv6(answer)
    assert (seen.src, seen.dst, seen.hlim) == ("2001:db8::ffff", str(ipaddress.IPv6Address(A6)), 64)
    assert seen[ICMPv6PacketTooBig].mtu == 1400 and seen[IPerror6].plen == 1448


def right_icmp6(answer):
    return struct.unpack_from("!H", answer, 4)[0] == len(answer) - 40 and \
        total(answer[8:40] + struct.pack("!II", len(answer) - 40, 58) + answer[40:]) == 0xFFFF


def test_a_short_packet_is_quoted_whole():
    packet = ip4(udp(bytes(101)), UDP)
    answer = too_big(packet, 68, GATEWAY4)
    assert answer[28:] == packet and total(answer[20:]) == 0xFFFF


@pytest.mark.parametrize("v6, transport", [(False, TCP), (False, UDP), (True, TCP), (True, UDP)])
def test_of_a_super_packet_the_first_segment_is_quoted(v6, transport):
    quoted = too_big(super_packet(v6, transport, bytes(range(200)) * 200), 200, GATEWAY6 if v6 else GATEWAY4, segment_size=200)
    quoted = quoted[48:] if v6 else quoted[28:]
    assert len(quoted) == (40 if v6 else 20) + (20 if transport == TCP else 8) + 200 and right(quoted)


def icmp4(kind, **fields):
    return ip4(bytes([kind, 0]) + bytes(30), 1, summed=False, **fields)


@pytest.mark.parametrize("packet, sent", [
    *((icmp4(kind), kind in (0, 8, 9, 10, *range(13, 19))) for kind in range(256)),
    (ip4(b"", 1, summed=False), False),
    (ip4(bytes(64), UDP, df=False, mf=True, summed=False), True),                  # the first fragment
    (ip4(bytes(64), UDP, df=False, mf=True, offset=8, summed=False), False),
    (icmp4(8, df=False, mf=True, offset=8), False),
    *((ip4(bytes(64), UDP, source=ipaddress.IPv4Address(a).packed, summed=False), ok) for a, ok in {
        "0.0.0.0": False, "0.1.2.3": False, "127.0.0.1": False, "224.0.0.1": False, "239.9.9.9": False, "240.0.0.1": False,
        "255.255.255.255": False, "1.0.0.1": True, "126.0.0.1": True, "128.0.0.1": True, "223.255.255.254": True}.items()),
    *((ip4(bytes(64), UDP, destination=ipaddress.IPv4Address(a).packed, summed=False), ok) for a, ok in {
        "223.1.1.1": True, "224.0.0.251": False, "239.1.1.1": False, "255.255.255.255": False}.items()),
])
def test_when_ipv4_is_answered(packet, sent):
    assert bool(too_big(packet, 100, GATEWAY4)) == sent


def in_fragment(transport, offset):
    return struct.pack("!BBHI", transport, 0, offset | 1, 5)


@pytest.mark.parametrize("packet, sent", [
    *((ip6(bytes([kind, 0]) + bytes(30), 58, summed=False), kind >= 128 and kind != 137) for kind in range(256)),
    (ip6(b"", 58, summed=False), False),
    (ip6(bytes([128]) + bytes(63), 58, first=44, extensions=in_fragment(58, 0), summed=False), True),
    (ip6(bytes([1]) + bytes(63), 58, first=44, extensions=in_fragment(58, 0), summed=False), False),
    (ip6(bytes([128]) + bytes(63), 58, first=44, extensions=in_fragment(58, 64), summed=False), False),
    (ip6(bytes(64), UDP, first=44, extensions=in_fragment(UDP, 64), summed=False), True),
    (ip6(bytes(64), UDP, destination=ipaddress.IPv6Address("ff05::1").packed, summed=False), True),
    *((ip6(bytes(64), UDP, source=ipaddress.IPv6Address(a).packed, summed=False), ok) for a, ok in {
        "::": False, "::1": False, "ff02::1": False, "::2": True, "2001:db8::1": True}.items()),
])
def test_when_ipv6_is_answered(packet, sent):
    assert bool(too_big(packet, 1300, GATEWAY6)) == sent


def test_the_gateway_must_be_of_the_packets_family():
    assert too_big(ip4(udp(bytes(99)), UDP), 68, GATEWAY6) == b""
    assert too_big(ip6(udp(bytes(99)), UDP), 68, GATEWAY4) == b""


@pytest.mark.parametrize("packet, gateway, least", [(ip4(udp(bytes(99)), UDP), GATEWAY4, 56), (ip6(udp(bytes(99)), UDP), GATEWAY6, 96)])
def test_room(packet, gateway, least):
    for room in range(300):
        answer = too_big(packet, 68, gateway, room=room)
        assert (len(answer) >= least) == (room >= least)


@given(v6=st.booleans(), octets=st.binary(max_size=100), transport=st.sampled_from([1, 6, 17, 58, 44, 60]), room=st.integers(0, 200),
       segment_size=st.integers(0, 50))
def test_any_octets_behind_the_ip_header(v6, octets, transport, room, segment_size):
    packet = (ip6 if v6 else ip4)(octets, transport, summed=False)
    answer = too_big(packet, 1000, GATEWAY6 if v6 else GATEWAY4, room=room, segment_size=segment_size)
    if answer:
        assert right_icmp6(answer) if v6 else total(answer[20:]) == 0xFFFF and answer[16:20] == A4
