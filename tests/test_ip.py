"""Reading the headers of inner packets: lengths, flags, extension headers, any octets."""
import struct

import pytest
from headrace.fastpath._probe_ip import headers
from headrace.fastpath.packet import Flag
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import TCP, UDP, ip4, ip6, tcp, udp

CSUM, DF, V6, FRAGMENT = Flag.FLAG_CSUM, Flag.FLAG_DF, Flag.FLAG_V6, Flag.FLAG_FRAGMENT


def extension(following, octets=8, body=b""):
    return bytes([following, octets // 8 - 1]) + body + bytes(octets - 2 - len(body))


def fragment(following, offset=0, more=0):
    return struct.pack("!BBHI", following, 0, offset | more, 77)


@pytest.mark.parametrize("packet, expected", [
    (ip4(udp(b"abc"), UDP, df=False), (31, 20, UDP, 0)),
    (ip4(udp(b"abc"), UDP), (31, 20, UDP, DF)),
    (ip4(tcp(b"abc"), TCP, options=b"\x94\x04\0\0"), (47, 24, TCP, DF)),
    (ip4(b"12345678", UDP, mf=True, df=False, summed=False), (28, 20, UDP, FRAGMENT)),
    (ip4(b"12345678", UDP, offset=8, df=False, summed=False), (28, 20, UDP, FRAGMENT)),
    (ip4(b"", 47, summed=False), (20, 20, 47, DF)),
    (ip6(udp(b"abc"), UDP), (51, 40, UDP, V6 | DF)),
    (ip6(b"", 59, summed=False), (40, 40, 59, V6 | DF)),
    (ip6(tcp(), TCP, first=0, extensions=extension(60) + extension(TCP, 16)), (84, 64, TCP, V6 | DF)),
    (ip6(tcp(), TCP, first=51, extensions=bytes([TCP, 4]) + bytes(22)), (84, 64, TCP, V6 | DF)),
    (ip6(udp(b"x"), UDP, first=44, extensions=fragment(UDP, more=1)), (57, 48, UDP, V6 | DF | FRAGMENT)),
    (ip6(udp(b"x"), UDP, first=44, extensions=fragment(60, offset=800)), (57, 48, 60, V6 | DF | FRAGMENT)),
    # a route already travelled is walked over, one still ahead is not: the last address is not the header's
    (ip6(tcp(), TCP, first=43, extensions=extension(TCP, 24)), (84, 64, TCP, V6 | DF)),
    (ip6(tcp(), TCP, first=43, extensions=extension(TCP, 24, b"\4\1")), (84, 40, 43, V6 | DF)),
    # chains longer than we walk stay whole
    (ip6(tcp(), TCP, first=60, extensions=extension(60) * 8 + extension(TCP)), (132, 104, 60, V6 | DF)),
    (ip6(tcp(), TCP, first=60, extensions=extension(TCP, 512)), (572, 40, 60, V6 | DF)),
])
def test_headers(packet, expected):
    assert headers(packet) == expected
    assert headers(packet + b"link padding") == expected
    assert headers(packet, CSUM) == expected[:3] + (expected[3] | CSUM,)
    for n in range(len(packet)):
        assert headers(packet[:n]) is None


@pytest.mark.parametrize("packet", [
    b"",
    bytes(60),
    b"\x55" + ip4(udp(), UDP)[1:],
    b"\x44" + ip4(udp(), UDP)[1:],
    b"\x4f" + ip4(udp(), UDP)[1:],
    ip4(udp(), UDP)[:2] + b"\0\x13" + ip4(udp(), UDP)[4:],
    ip6(tcp(), TCP, first=0, extensions=bytes([TCP, 9]) + bytes(6)),
    ip6(b"1234567", 60, summed=False),
])
def test_malformed(packet):
    assert headers(packet) is None


@given(st.one_of(st.binary(max_size=120), st.builds(bytes.__add__, st.sampled_from([b"\x45", b"\x60\0\0\0\0\x20", b"\x46\0\0\x30"]),
                                                    st.binary(max_size=120))))
def test_any_octets(octets):
    found = headers(octets)
    if found:
        length, ip_length, _, _ = found
        assert 20 <= ip_length <= length <= len(octets)
