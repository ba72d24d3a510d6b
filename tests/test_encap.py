"""Templates of every length in front of whole packets and of segments."""
import struct

import pytest
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, tcp, udp


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables")
    yield b
    b.close()


@pytest.mark.parametrize("length", [7, 8, 10, 14, 31, 32, 33, 40, 63, 64])
@pytest.mark.parametrize("sequenced", [False, True])
def test_the_template_stands_in_front_of_every_packet(bench, length, sequenced):
    slot, _ = bench.session()
    template = bytes(range(100, 100 + length))
    ns_at = length - 3 if sequenced else 0
    bench.tables.configure(slot, template=template, ns_at=ns_at)
    packets = [udp("10.0.0.1", "10.67.0.2", bytes([i]) * (50 + i)) for i in range(3)]
    for packet in packets:
        bench.inner_write(packet)
    for i, packet in enumerate(packets):
        assert bench.peer.recv(2000) == numbered(template, ns_at, i) + packet
    payload = bytes(range(250)) * 12
    whole = tcp("10.0.0.1", "10.67.0.2", payload, 1)
    bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
    for i in range(3):
        part = payload[1000 * i:1000 * (i + 1)]
        assert bench.peer.recv(2000) == numbered(template, ns_at, 3 + i) + segment(part, 1 + 1000 * i, 1 + i)


def numbered(template, at, ns):
    return template[:at] + struct.pack("!H", ns) + template[at + 2:] if at else template


def segment(payload, sequence, ident):
    return tcp("10.0.0.1", "10.67.0.2", payload, sequence, ident=ident)


def test_an_echo_is_answered_behind_a_long_header(bench):
    """The worker's own frames take the template up to PPP, whatever its length."""
    slot, _ = bench.session()
    head = bytes(range(100, 140))
    bench.tables.configure(slot, template=head + b"\xff\x03\x00\x21", ppp_at=len(head))
    bench.send(b"\xc0\x21" + struct.pack("!BBHI", 9, 1, 12, 0x22222222) + b"data")
    assert bench.peer.recv(2000) == head + b"\xff\x03\xc0\x21" + struct.pack("!BBHI", 10, 1, 12, 0x11111111) + b"data"
