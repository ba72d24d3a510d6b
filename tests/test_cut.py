"""Super-packets into segments: against plain Python, against scapy, and with headers of any shape."""
import struct

import pytest
from headrace.fastpath._probe_ip import cut, finished
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import ACK, CWR, ECE, FIN, PSH, TCP, UDP, burst, finish, ip4, ip6, right, super_packet, tcp, total, udp, wrap
from scapy.layers.inet import IP as ScapyIP
from scapy.layers.inet import TCP as ScapyTCP
from scapy.layers.inet import UDP as ScapyUDP
from scapy.layers.inet6 import IPv6 as ScapyIPv6

FAMILIES = pytest.mark.parametrize("v6", [False, True])
TRANSPORTS = pytest.mark.parametrize("transport", [TCP, UDP])
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))


@FAMILIES
@TRANSPORTS
@pytest.mark.parametrize("octets, size", [(1, 1), (1400, 1400), (1401, 1400), (61600, 1400), (65000, 1460), (100, 7), (64, 1)])
def test_segments(v6, transport, octets, size):
    payload = bytes(i * 131 % 256 for i in range(octets))
    assert cut(super_packet(v6, transport, payload), size) == burst(v6, transport, payload, size)


@FAMILIES
@given(flags=st.integers(0, 255), seq=st.integers(0, 2**32 - 1), id=st.integers(0, 65535), payload=st.binary(min_size=1, max_size=600),
       size=st.integers(10, 300), options=st.binary(max_size=10), tos=st.integers(0, 255), df=st.booleans())
def test_flags_sequence_and_id(v6, flags, seq, id, payload, size, options, tos, df):
    fields = {"flags": flags, "options": options * 4, "tos": tos, "df": df, "id": id}
    content = tcp(payload, seq=seq, flags=flags, options=options * 4)
    packet = wrap(v6, content, TCP, summed=False, tos=tos, df=df, id=id)
    segments = cut(packet, size)
    assert segments == burst(v6, TCP, payload, size, seq=seq, **fields)
    assert all(right(segment) for segment in segments)


def test_fin_and_psh_last_cwr_first():
    segments = cut(super_packet(False, TCP, bytes(30), flags=ACK | PSH | FIN | CWR | ECE), 10)
    assert [s[33] for s in segments] == [ACK | CWR | ECE, ACK | ECE, ACK | ECE | PSH | FIN]


@TRANSPORTS
def test_scapy_agrees(transport):
    payload = bytes(range(256)) * 20
    for layer, v6 in ((ScapyIP, False), (ScapyIPv6, True)):
        for segment in cut(super_packet(v6, transport, payload, options=TIMESTAMPS), 1400):
            again = layer(segment)
            inner = again[ScapyTCP if transport == TCP else ScapyUDP]
            del inner.chksum
            if transport == UDP:
                del inner.len
            if v6:
                del again.plen
            else:
                del again.len, again.chksum
            assert bytes(again) == segment


def test_ip_options_and_extension_headers_are_repeated():
    options, hops = b"\x94\x04\0\0", bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
    content = tcp(bytes(250))
    for packet, at in ((ip4(content, TCP, options=options, summed=False), 24),
                       (ip6(content, TCP, extensions=hops, first=0, summed=False), 48)):
        segments = cut(packet, 100)
        assert [len(s) for s in segments] == [at + 120, at + 120, at + 70]
        for s in segments:
            assert finish(s[:at + 16] + b"\0\0" + s[at + 18:], TCP, at) == s
            assert s[20:24] == options and total(s[:24]) == 0xFFFF if at == 24 else s[40:48] == hops


def test_a_udp_checksum_is_never_zero():
    zero = next(p for p in (struct.pack("!H", n) for n in range(65536))
                if total(struct.pack("!BBH", 0, UDP, 10) + ip4(b"", UDP, summed=False)[12:20] + udp(p)) == 0xFFFF)
    assert cut(super_packet(False, UDP, zero + b"\0\0"), 2)[0][26:28] == b"\xff\xff"
    assert finished(ip4(udp(zero), UDP)[:26] + struct.pack("!H", partial(ip4(udp(zero), UDP))) + zero, 20, 6)[26:28] == b"\xff\xff"


def partial(packet):
    """What stands in the checksum field of a packet with NEEDS_CSUM: the pseudo-header's sum."""
    return total(packet[12:20] + struct.pack("!HH", packet[9], len(packet) - 20))


@FAMILIES
@TRANSPORTS
@pytest.mark.parametrize("n", [0, 1, 5, 1400])
def test_a_single_packet_is_completed(v6, transport, n):
    whole = wrap(v6, tcp(bytes(range(256)) * 6) if transport == TCP else udp(b"\x7f" * n), transport)
    at = (40 if v6 else 20) + (16 if transport == TCP else 6)
    start = 40 if v6 else 20
    pseudo = whole[8:40] + struct.pack("!II", len(whole) - 40, transport) if v6 else whole[12:20] + struct.pack("!HH", transport,
                                                                                                               len(whole) - 20)
    half = whole[:at] + struct.pack("!H", total(pseudo)) + whole[at + 2:]
    assert finished(half, start, at - start) == whole


@given(octets=st.binary(max_size=60), start=st.integers(0, 65535) | st.integers(0, 70), offset=st.integers(0, 65535) | st.integers(0, 30))
def test_a_place_outside_the_packet_is_refused(octets, start, offset):
    out = finished(octets, start, offset)
    assert (out is None) == (start + offset + 2 > len(octets))


@pytest.mark.parametrize("packet, size", [
    (super_packet(False, TCP, bytes(100)), 0),
    (super_packet(False, 6, bytes(100))[:32] + b"\x40" + super_packet(False, 6, bytes(100))[33:], 10),   # data offset 4
    (ip4(tcp()[:19], TCP, summed=False), 10),
    (ip4(tcp()[:12] + b"\xf0" + tcp()[13:], TCP, summed=False), 10),
    (ip4(udp()[:7], UDP, summed=False), 10),
    (ip4(bytes(100), 47, summed=False), 10),
    (ip4(tcp(bytes(100)), TCP, df=False, mf=True, summed=False), 10),
    (ip6(tcp(bytes(100), options=bytes(40)), TCP, first=60, extensions=bytes([TCP, 3]) + bytes(30), summed=False), 10),   # headers over 128
])
def test_headers_that_cannot_be_cut(packet, size):
    assert cut(packet, size) is None


@given(v6=st.booleans(), transport=st.sampled_from([TCP, UDP, 1]), octets=st.binary(max_size=300),
       size=st.integers(0, 65535) | st.integers(1, 40))
def test_any_octets_behind_the_ip_header(v6, transport, octets, size):
    packet = (ip6 if v6 else ip4)(octets, transport, summed=False)
    segments = cut(packet, size)
    if segments is not None:
        assert all(right(segment) for segment in segments)
        header = (40 if v6 else 20) + ((octets[12] >> 4) * 4 if transport == TCP else 8)
        assert b"".join(s[header:] for s in segments) == packet[header:]
        assert all(len(s) == header + size for s in segments[:-1])
