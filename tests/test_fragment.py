"""IPv4 fragments: put together again they are the packet, whatever was cut, and however often."""
import struct

import pytest
from headrace.fastpath._probe_ip import fragments
from hypothesis import given
from hypothesis import strategies as st
from reference.ip import UDP, ip4, ip6, total, udp
from scapy.layers.inet import IP as ScapyIP
from scapy.layers.inet import defragment

COPIED, NOT_COPIED = b"\x94\x04\x00\x07", b"\x44\x08\x05\x00ABCD"


def parts(packet):
    """header, more fragments, offset in octets, payload"""
    n = (packet[0] & 15) * 4
    word = struct.unpack_from("!H", packet, 6)[0]
    return packet[:n], word >> 13 & 1, (word & 0x1FFF) * 8, packet[n:]


def check(packet, pieces, mtu):
    header, more, offset, payload = parts(packet)
    at = offset
    for k, piece in enumerate(pieces):
        head, mf, place, part = parts(piece)
        assert len(piece) <= mtu and struct.unpack_from("!H", piece, 2)[0] == len(piece)
        assert total(head) == 0xFFFF and place == at
        assert mf == (more if k == len(pieces) - 1 else 1)
        assert head[1] == header[1] and head[4:6] == header[4:6] and head[8:10] == header[8:10] and head[12:20] == header[12:20]
        at += len(part)
        assert k == len(pieces) - 1 or len(part) % 8 == 0
    assert b"".join(parts(piece)[3] for piece in pieces) == payload


@given(payload=st.binary(max_size=3000), mtu=st.integers(68, 1500), options=st.sampled_from([b"", COPIED, NOT_COPIED]),
       mf=st.booleans(), offset=st.integers(0, 7000).map(lambda n: n * 8))
def test_put_together_it_is_the_packet(payload, mtu, options, mf, offset):
    packet = ip4(payload, UDP, df=False, options=options, mf=mf, offset=offset, summed=False)
    pieces = fragments(packet, mtu)
    check(packet, pieces, mtu)
    for piece in pieces:
        again = fragments(piece, 68)
        check(piece, again, 68)


def test_options_with_the_copy_bit_go_into_every_fragment():
    packet = ip4(bytes(100), UDP, df=False, options=COPIED + NOT_COPIED + b"\x01\x01\x01\x00", summed=False)
    headers = [parts(piece)[0] for piece in fragments(packet, 76)]
    assert len(headers) == 3
    assert headers[0][20:] == COPIED + NOT_COPIED + b"\x01\x01\x01\x00"
    assert headers[1][20:] == headers[2][20:] == COPIED


@pytest.mark.parametrize("options", [b"\x94\x00\x00\x00", b"\x94\x01\x00\x00", b"\x94\x05\x00\x00", b"\x01\x01\x01\x94"])
def test_broken_options_are_not_copied(options):
    headers = [parts(piece)[0] for piece in fragments(ip4(bytes(100), UDP, df=False, options=options, summed=False), 72)]
    assert headers[0][20:] == options and headers[1][20:] == b""


def test_scapy_puts_it_together():
    packet = ip4(udp(bytes(range(256)) * 10), UDP, df=False)
    whole = defragment([ScapyIP(piece) for piece in fragments(packet, 576)])
    assert [bytes(p) for p in whole] == [packet]


@pytest.mark.parametrize("packet, mtu", [
    (ip4(bytes(100), UDP, df=True, summed=False), 68),
    (ip6(bytes(100), UDP, summed=False), 68),
    (ip4(bytes(100), UDP, df=False, summed=False), 27),
    (ip4(bytes(100), UDP, df=False, offset=65440, summed=False), 68),
    (ip4(bytes(100), UDP, df=False, summed=False)[:-1], 68),
    (b"\x4f" + ip4(bytes(10), UDP, df=False, summed=False)[1:], 68),
    (b"\x45", 68),
    (b"", 68),
])
def test_what_must_not_be_fragmented(packet, mtu):
    assert fragments(packet, mtu) is None


@given(st.binary(max_size=80), st.integers(0, 100))
def test_any_octets(octets, mtu):
    fragments(octets, mtu)
    sized = octets
    if len(octets) > 7:
        sized = b"\x46" + octets[1:2] + len(octets).to_bytes(2, "big") + octets[4:6] + bytes([octets[6] & ~0x40]) + octets[7:]
    pieces = fragments(sized, mtu)
    assert pieces is None or b"".join(parts(p)[3] for p in pieces) == sized[4 * (sized[0] & 15):]
