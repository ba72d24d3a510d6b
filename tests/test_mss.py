"""The MSS clamp: only SYNs, only downward, the checksum stays right, options of any shape."""
import struct

import pytest
from headrace.fastpath._probe_ip import clamped
from headrace.fastpath.packet import Flag
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import ACK, SYN, TCP, UDP, ip4, right, tcp, udp, wrap
from scapy.layers.inet import IP as ScapyIP
from scapy.layers.inet import TCP as ScapyTCP

FAMILIES = pytest.mark.parametrize("v6", [False, True])


def mss_of(packet, v6):
    return struct.unpack_from("!H", packet, (40 if v6 else 20) + 20 + 2)[0]


@FAMILIES
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_is_lowered_in_a_syn(v6, flags):
    packet = wrap(v6, tcp(flags=flags, options=b"\x02\x04\x05\xb4\x04\x02\x01\x01"), TCP)
    lowered = clamped(packet, 1360)
    fits = struct.pack("!H", 1340 if v6 else 1360)
    assert lowered == wrap(v6, tcp(flags=flags, options=b"\x02\x04" + fits + b"\x04\x02\x01\x01"), TCP)


@FAMILIES
@pytest.mark.parametrize("packet", [
    (tcp(flags=ACK, options=b"\x02\x04\x05\xb4"), TCP),                   # no SYN
    (tcp(flags=SYN, options=b"\x02\x04\x02\x18"), TCP),                   # small enough
    (tcp(flags=SYN, options=b"\x01\x01\x00\x00\x02\x04\x05\xb4"), TCP),   # behind the end of options
    (tcp(flags=SYN, options=b"\x02\x03\x05\xb4"), TCP),                   # not the length of an MSS
    (udp(tcp(flags=SYN, options=b"\x02\x04\x05\xb4")), UDP),
])
def test_is_left_alone(v6, packet):
    whole = wrap(v6, *packet)
    assert clamped(whole, 1300) == whole


def test_a_later_fragment_has_no_tcp_header():
    packet = ip4(tcp(flags=SYN, options=b"\x02\x04\x05\xb4"), TCP, df=False, offset=8)
    assert clamped(packet, 1300) == packet


def test_no_mss_below_zero_over_ipv6():
    packet = wrap(True, tcp(flags=SYN, options=b"\x02\x04\x05\xb4"), TCP)
    assert clamped(packet, 20) == packet
    assert mss_of(clamped(packet, 21), True) == 1


def test_at_an_odd_place_as_scapy_sees_it():
    packet = bytes(ScapyIP(src="10.0.0.1", dst="10.0.0.2") / ScapyTCP(flags="S", options=[("NOP", None), ("MSS", 1460), ("WScale", 7)]))
    again = ScapyIP(clamped(packet, 1234))
    assert ("MSS", 1234) in again[ScapyTCP].options
    del again[ScapyTCP].chksum
    assert bytes(again) == clamped(packet, 1234)


def test_a_checksum_to_be_computed_is_left_to_who_computes_it():
    packet = ip4(tcp(flags=SYN, options=b"\x02\x04\x05\xb4"), TCP, summed=False)
    partial = packet[:36] + b"\x12\x34" + packet[38:]
    lowered = clamped(partial, 1300, Flag.FLAG_CSUM)
    assert mss_of(lowered, False) == 1300 and lowered[36:38] == b"\x12\x34"


options = st.lists(st.one_of(st.just(b"\x01"), st.just(b"\x02\x04\x05\xb4"), st.binary(min_size=1, max_size=8)), max_size=6).map(
    lambda parts: (b"".join(parts) + bytes(4))[:40]).map(lambda o: o[:len(o) // 4 * 4])


@given(v6=st.booleans(), options=options, mss=st.integers(0, 65535), data=st.data())
def test_any_options(v6, options, mss, data):
    packet = wrap(v6, tcp(b"tfo", flags=SYN, options=options), TCP)
    lowered = clamped(packet, mss)
    assert right(lowered)
    assert lowered == packet or len(lowered) == len(packet)
    n = data.draw(st.integers(0, len(packet)))
    at = 4 if v6 else 2
    cut = packet[:at] + struct.pack("!H", max(0, n - 40 if v6 else n)) + packet[at + 2:n] if n > at + 2 else packet[:n]
    assert len(clamped(cut, mss) or cut) == len(cut)
