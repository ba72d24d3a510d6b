"""Bridged sessions through whole workers (RFC 3518): loopback UDP is the wire, a SEQPACKET pair the TAP, plain Python the other reader."""
from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import struct
import time
import zlib

import pytest
from headrace.fastpath import _probe_bridge as probe
from headrace.fastpath.bridge import BridgeFlag
from headrace.fastpath.packet import Verdict
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reference import mppe as rfc
from reference.multilink import cut
from rig.forwarder import Bench, udp
from test_bundledata import MP, OPENED, RECEIVE, SEND, Peer
from test_encrypted import BOTH, COMP, PLAIN, encrypt, patiently

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.inet import ICMP  # noqa: E402
from scapy.layers.l2 import ARP, Dot1Q, Ether  # noqa: E402

BRIDGED = b"\x00\x31"
PLAIN_FRAME = b"\0\1"           # flags and MAC type of what has nothing special
OPEN = BridgeFlag.BRIDGE_OPEN
ALL = OPEN | BridgeFlag.BRIDGE_TAGGED | BridgeFlag.BRIDGE_STP
HERE, THERE, EVERYBODY, BRIDGES = "02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:00"
INSIDE, OUTSIDE = "10.67.0.2", "10.0.0.1"
EXAMPLES = int(os.environ.get("HEADRACE_FUZZ", "300"))


def ether(size=100, to=THERE, source=HERE, kind=0x88B5, fill=b"x"):
    """A frame of that many octets, without FCS."""
    return bytes(Ether(src=source, dst=to, type=kind)) + fill * (size - 14)


def fcs(frame):
    return struct.pack("<I", zlib.crc32(frame))


class Port:
    """A session's TAP, as the kernel's side of it sees it."""

    def __init__(self, bench, slot, number=1, worker=0, flags=ALL, **config):
        self.bench, self.slot, self.number, self.worker = bench, slot, number, worker
        self.sock, theirs = bench.pair()
        assert bench.forwarder.plug(worker, number, slot, bench.tables.generation(slot), theirs.detach())
        patiently(bench.tables.configure, slot, bridge=flags, tap=number, **config)

    def read(self, timeout=5.0):
        return self.sock.recv(70000) if select.select([self.sock], [], [], timeout)[0] else None

    def write(self, frame):
        self.sock.send(frame)


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables")
    yield b
    b.close()


@pytest.fixture
def slot(bench):
    return bench.session()[0]


@pytest.fixture
def port(bench, slot):
    return Port(bench, slot)


def from_us(bench):
    """What is behind PPP's protocol field of the next datagram, which is a bridged frame's."""
    data = bench.peer.recv(70000)
    assert data[:10] == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03" + BRIDGED, data[:12].hex()
    return data[10:]


# -- headers and sums

def oracle(data):
    """RFC 3518 section 4.2 in plain Python."""
    if len(data) < 2:
        return Verdict.DROP_SHORT
    flags, kind = data[:2]
    if flags & 0x50 or kind != 1:
        return Verdict.DROP_BRIDGED
    frame = data[2:len(data) - (flags & 15)]
    if flags & 15 > len(data) - 2 or len(frame) < 14 + 4 * bool(flags & 0x80):
        return Verdict.DROP_SHORT
    length = len(frame) - 4 * bool(flags & 0x80)
    return {"at": 2, "length": length, "fill": max(0, 60 - length) if flags & 0x20 else 0, "fcs": bool(flags & 0x80)}


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=90) | st.builds(lambda flags, rest: bytes((flags, 1)) + rest, st.integers(0, 255), st.binary(max_size=90)))
@example(b"\0\1" + bytes(13))
@example(b"\x8f\1" + bytes(14 + 4 + 15))
@example(b"\x8f\1" + bytes(14 + 4 + 14))
def test_headers(data):
    assert probe.pull_bridged(data) == oracle(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 46))
def test_check_sums(frame, zeros):
    assert probe.check(frame, zeros) == zlib.crc32(frame + bytes(zeros))


# -- up

@pytest.mark.parametrize("frame", [ether(), ether(60, EVERYBODY), ether(1514), bytes(Ether() / ARP()), ether(14),
                                   bytes(Ether(src=HERE, dst=THERE) / Dot1Q(vlan=7) / ICMP())])
def test_frames_of_each_kind_come_in(bench, slot, port, frame):
    """Whole, and with what a sender may put around them."""
    for sent in (PLAIN_FRAME + frame, b"\x80\1" + frame + fcs(frame), b"\x05\1" + frame + b"trash",
                 b"\x83\1" + frame + fcs(frame) + b"pad"):
        bench.send(BRIDGED + sent)
        assert port.read() == frame
        bench.send(b"\x31" + sent)          # its protocol field may be compressed
        assert port.read() == frame
    assert bench.wait_verdict("UP", 8) == 8
    rx, octets = bench.tables.counters(slot)[:2]
    assert (rx, octets) == (8, 8 * len(frame))


def test_zeros_that_were_cut_off_come_back(bench, port):
    """Tinygram compression is not asked for, and understood all the same; the sum counts the zeros."""
    frame = ether(42, fill=b"q")
    whole = frame + bytes(18)
    for sent in (b"\x20\1" + frame, b"\xa0\1" + frame + fcs(whole), b"\x24\1" + frame + b"pads"):
        bench.send(BRIDGED + sent)
        assert port.read() == whole
    bench.send(BRIDGED + b"\x20\1" + ether(60))
    assert port.read() == ether(60)


@pytest.mark.parametrize("sent, verdict", [
    (b"\x40\1" + ether(), "DROP_BRIDGED"), (b"\x10\1" + ether(), "DROP_BRIDGED"), (b"\0\2" + ether(), "DROP_BRIDGED"),
    (b"\0\1" + ether(14)[:13], "DROP_SHORT"), (b"\0", "DROP_SHORT"), (b"", "DROP_SHORT"), (b"\x0f\1" + ether(28), "DROP_SHORT"),
    (b"\x80\1" + ether() + fcs(ether(101)), "DROP_FCS"), (b"\xa0\1" + ether(40) + fcs(ether(40)), "DROP_FCS"),
])
def test_what_makes_no_sense_goes_no_further(bench, port, sent, verdict):
    bench.send(BRIDGED + sent)
    bench.send(BRIDGED + PLAIN_FRAME + ether(99))
    assert port.read() == ether(99)
    assert bench.wait_verdict(verdict) == 1


def test_before_and_after_it_is_open(bench, slot):
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.wait_verdict("DROP_NOT_OPEN") == 1, "IPCP is open, BCP is not"
    port = Port(bench, slot)
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert port.read() == ether()
    bench.tables.set_state(slot, State.OPENING)
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.wait_verdict("DROP_NOT_OPEN", 2) == 2
    port.write(ether())
    assert bench.wait_verdict("DROP_NOT_OPEN", 3) == 3


def test_without_a_port(bench, slot):
    """Before its TAP has come, or under a number that is another session's."""
    patiently(bench.tables.configure, slot, bridge=OPEN, tap=0)
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.wait_verdict("DROP_NO_PORT") == 1
    other, _ = bench.session(1, 2, "10.67.0.3")
    theirs = Port(bench, other, 5)
    for number in (5, 6, 1023, 1024, 65535):
        patiently(bench.tables.configure, slot, tap=number)
        bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.wait_verdict("DROP_NO_PORT", 6) == 6 and theirs.read(0) is None


def test_spanning_tree_passes_or_not(bench, slot):
    frame = ether(60, BRIDGES)
    blocked = Port(bench, slot, flags=OPEN)
    bench.send(BRIDGED + PLAIN_FRAME + frame)
    blocked.write(frame)
    assert bench.wait_verdict("DROP_STP", 2) == 2
    patiently(bench.tables.configure, slot, bridge=OPEN | BridgeFlag.BRIDGE_STP)
    bench.send(BRIDGED + PLAIN_FRAME + frame)
    assert blocked.read() == frame
    blocked.write(frame)
    assert from_us(bench) == PLAIN_FRAME + frame
    near = ether(60, "01:80:c2:00:00:01")
    patiently(bench.tables.configure, slot, bridge=OPEN)
    blocked.write(near)
    assert from_us(bench) == PLAIN_FRAME + near, "the group and none beside it"


# -- down

def test_frames_of_each_kind_go_out(bench, slot, port):
    """As they are, and never smaller than a frame may be; an independent reader finds in them what was sent."""
    tagged = bytes(Ether(src=HERE, dst=THERE) / Dot1Q(vlan=7, prio=3) / ICMP() / (b"p" * 40))
    for frame in (ether(), ether(60), ether(1398), tagged):
        port.write(frame)
        assert from_us(bench) == PLAIN_FRAME + frame
    assert Ether(tagged)[Dot1Q].vlan == 7
    question = bytes(Ether(src=HERE, dst=EVERYBODY) / ARP(pdst="10.9.9.9"))
    port.write(question)
    came = from_us(bench)[2:]
    assert came == question + bytes(18) and Ether(came)[ARP].pdst == "10.9.9.9"
    assert bench.wait_verdict("DOWN", 5) == 5
    packets, octets = bench.tables.counters(slot)[2:4]
    assert (packets, octets) == (5, 100 + 60 + 1398 + len(tagged) + 60)


@pytest.mark.parametrize("frame, flags, verdict", [
    (ether(1399), ALL, "DROP_FRAME"), (ether(9000), ALL, "DROP_FRAME"), (ether(14)[:13], ALL, "DROP_SHORT"), (b"x", ALL, "DROP_SHORT"),
    (ether(80, kind=0x8100), OPEN, "DROP_TAGGED"), (ether(80, kind=0x88A8), OPEN, "DROP_TAGGED"), (ether(60, BRIDGES), OPEN, "DROP_STP"),
    (ether(), 0, "DROP_NOT_OPEN"),
])
def test_what_does_not_go_out(bench, slot, frame, flags, verdict):
    """1,400 octets are the session's most, two of them the header's."""
    port = Port(bench, slot, flags=flags)
    port.write(frame)
    assert bench.wait_verdict(verdict) == 1
    patiently(bench.tables.configure, slot, bridge=ALL)
    port.write(ether(99))
    assert from_us(bench) == PLAIN_FRAME + ether(99)


def test_headers_that_the_peer_wants_compressed(bench, slot, port):
    head = struct.pack("!HHH", 2, 9, 8)
    for ppp in (b"\xff\x03\x21", b"\x21", b"\x00\x21"):
        patiently(bench.tables.configure, slot, template=head + ppp, ppp_at=6)
        port.write(ether())
        assert bench.peer.recv(2000) == head + ppp[:-1] + b"\x31" + PLAIN_FRAME + ether()


def test_dscp(bench, slot):
    """The session's own; a frame has none to inherit."""
    bench.peer.setsockopt(socket.IPPROTO_IP, 13, 1)
    port = Port(bench, slot, tos=0xB8)
    port.write(ether())
    _, ancillary, _, _ = bench.peer.recvmsg(2000, 100)
    assert ancillary[0][2][0] == 0xB8


# -- both

def test_side_by_side_with_routing(bench, slot, port):
    """IP goes to the shared port and frames to the TAP, mixed in one batch, each in its order."""
    for n in range(200):
        bench.send(BRIDGED + PLAIN_FRAME + ether(60 + n) if n % 2 else b"\0\x21" + udp(INSIDE, OUTSIDE, struct.pack("!I", n), n))
    assert [len(port.read()) for _ in range(100)] == list(range(61, 260, 2))
    assert [struct.unpack("!I", bench.inner_read()[1][28:])[0] for _ in range(100)] == list(range(0, 200, 2))
    port.write(ether())
    bench.inner_write(udp(OUTSIDE, INSIDE, b"routed"))
    assert sorted(bench.peer.recv(2000)[8:10] for _ in range(2)) == [b"\0\x21", BRIDGED]


def test_bursts_keep_their_order(bench, port):
    """More than a pass takes, each way."""
    for at in range(0, 600, 100):
        for n in range(at, at + 100):
            port.write(ether(64 + n))
        assert [len(from_us(bench)) for _ in range(100)] == list(range(66 + at, 166 + at))
    frames = [BRIDGED + PLAIN_FRAME + ether(64 + n) for n in range(600)]
    for frame in frames:
        bench.send(frame)
    assert [len(port.read()) for _ in frames] == list(range(64, 664))


@pytest.mark.parametrize("stateless", [True, False])
def test_encrypted(bench, slot, stateless):
    """MPPE hides the whole of it, and in clear nothing passes where it is required."""
    receiver, sender = encrypt(bench, slot, stateless=stateless)
    port = Port(bench, slot)
    for n in range(5):
        frame = ether(60 + 200 * n)
        port.write(frame)
        data = bench.peer.recv(2000)
        assert data[8:10] == COMP and receiver.receive(data[10:]) == BRIDGED + PLAIN_FRAME + frame
        bench.send(COMP + sender.send((BRIDGED if n % 2 else b"\x31") + PLAIN_FRAME + frame))
        assert port.read() == frame
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.wait_verdict("DROP_CLEAR") == 1
    patiently(bench.tables.configure, slot, bridge=0)
    bench.send(COMP + sender.send(BRIDGED + PLAIN_FRAME + ether()))
    assert bench.wait_verdict("DROP_NOT_OPEN") == 1


def test_encryption_that_is_not_there_yet(bench, slot):
    port = Port(bench, slot, flags=ALL)
    patiently(bench.tables.configure, slot, flags=PLAIN | ConfigFlag.CONFIG_REQUIRE)
    port.write(ether())
    assert bench.wait_verdict("DROP_CLEAR") == 1
    encrypt(bench, slot, flags=BOTH | PLAIN)


def test_by_pptp(bench):
    slot, _ = bench.call()
    port = Port(bench, slot)
    bench.gre_send(0, BRIDGED + PLAIN_FRAME + ether())
    assert port.read() == ether()
    port.write(ether(200))
    while (frame := bench.gre_read())[2] is None:      # an acknowledgment by itself, when a tick was before
        pass
    _flags, call, sequence, _ack, payload = frame
    assert (call, sequence, payload) == (0x1234, 0, b"\xff\x03" + BRIDGED + PLAIN_FRAME + ether(200))


def test_two_workers(tmp_path):
    """What the other worker received crosses the ring; the TAP is the owner's alone."""
    bench = Bench(tmp_path / "tables", 2)
    slots = [bench.session(1, 1 + owner, f"10.67.0.{2 + owner}", owner=owner, peer_session=8)[0] for owner in range(2)]
    ports = [Port(bench, slot, worker=owner) for owner, slot in enumerate(slots)]
    for n in range(100):
        bench.send(BRIDGED + PLAIN_FRAME + ether(64 + n), session=1 + n % 2)
    assert [len(ports[n % 2].read()) for n in range(100)] == list(range(64, 164))
    assert bench.verdicts().get("HANDED", 0) == 50
    for n in range(100):
        ports[n % 2].write(ether(64 + n))
    assert sorted(len(from_us(bench)) for _ in range(100)) == list(range(66, 166))
    bench.close()


# -- multilink

def whole(size):
    return PLAIN_FRAME + ether(size)


@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("encrypted", [False, True])
def test_frames_of_a_full_network_by_a_bundle(bench, links, encrypted):
    """1,518 octets, tag and all, over links that take 1,400: cut by PPP, and put together, encrypted where that is agreed on."""
    peer = Peer(bench, links, mtu=1600 - 4 * encrypted)
    if encrypted:
        patiently(bench.tables.set_cipher, peer.slot, send_bits=128, receive_bits=128, send_key=SEND, receive_key=RECEIVE,
                  send_stateless=True, receive_stateless=True)
        receiver, sender = rfc.Receiver(SEND, 128, stateless=True), rfc.Sender(RECEIVE, 128, stateless=True)
        patiently(bench.tables.configure, peer.slot, flags=OPENED | BOTH)
    port = Port(bench, peer.slot)
    sizes = [60, 1394, 1395, 1396, 1397, 1398, 1399, 1514, 1518, 1594]
    for size in sizes:
        port.write(ether(size))
    came = peer.packets(len(sizes))
    if encrypted:
        assert all(packet[:2] == COMP for packet in came)
        came = [receiver.receive(packet[2:]) for packet in came]
    assert came == [BRIDGED + whole(size) for size in sizes]
    assert all(octets <= 1400 for _, octets in peer.frames) and any(protocol == MP for protocol, _ in peer.frames)
    number = 0
    for size in sizes:
        packet = BRIDGED + whole(size)
        if encrypted:
            packet = COMP + sender.send(packet)
        parts = cut(packet, number, [len(packet) // 2])
        for at, part in enumerate(parts):
            peer.send(part, link=1 + at % links)
        number += len(parts)
        assert port.read() == ether(size)
    port.write(ether(1599))
    assert bench.wait_verdict("DROP_FRAME") == 1


def test_a_bundle_on_another_worker_than_its_link(tmp_path):
    """Fragments cross the ring both ways; the TAP is the bundle's owner's."""
    bench = Bench(tmp_path / "tables", 2)
    peer = Peer(bench, 2, owner=1, owners=(0, 1), mtu=1600)
    port = Port(bench, peer.slot, worker=1)
    port.write(ether(1514))
    parts = sorted((peer.frame()[2] for _ in range(2)), key=lambda part: part[:4][1:])        # two workers send: in any order
    assert b"".join(part[4:] for part in parts) == BRIDGED + whole(1514) and set(peer.by_link.values()) == {1}
    for at, part in enumerate(cut(BRIDGED + whole(1514), 0, [700])):
        peer.send(part, link=1 + at)
    assert port.read() == ether(1514)
    bench.close()


# -- ports come and go

def gone(port, timeout=5.0):
    """Whether the worker has closed its end."""
    return bool(select.select([port.sock], [], [], timeout)[0]) and port.sock.recv(10) == b""


def test_a_port_ends_with_its_session(bench, slot, port):
    other = Port(bench, bench.session(1, 2, "10.67.0.3")[0], 2)
    bench.tables.retire(slot)
    assert gone(port) and not gone(other, 0.25)
    Port(bench, other.slot, 1)          # the number is free again


def test_a_number_is_one_ports(bench, slot, port):
    _ours, theirs = bench.pair()
    assert not bench.forwarder.plug(0, 1, slot, 1, theirs.fileno()), "its session lives"
    for worker, number in ((0, 0), (0, 1024), (1, 1), (-1, 1)):
        with pytest.raises(ValueError):
            bench.forwarder.plug(worker, number, slot, 1, theirs.fileno())


def test_a_port_of_a_session_that_was_already_gone(bench, slot):
    """Its descriptor came late: it is closed, not kept."""
    bench.tables.retire(slot)
    ours, theirs = bench.pair()
    assert bench.forwarder.plug(0, 3, slot, bench.tables.generation(slot), theirs.detach())
    assert select.select([ours], [], [], 5)[0] and ours.recv(10) == b""


def test_an_interface_that_somebody_deleted(bench, slot, port):
    """The other end is gone: the port is let go of, and the session's frames have none."""
    port.sock.close()
    bench.send(BRIDGED + PLAIN_FRAME + ether())
    until = time.monotonic() + 5
    while not bench.verdicts().get("DROP_NO_PORT") and time.monotonic() < until:
        bench.send(BRIDGED + PLAIN_FRAME + ether())
    assert bench.verdicts()["DROP_NO_PORT"]


def test_as_many_as_there_may_be(bench):
    """Every number of a worker has its port, and each its frames."""
    ports = [Port(bench, bench.session(1, n, f"10.67.{n >> 8}.{n & 255}")[0], n) for n in range(1, 100)]
    for turn in range(3):
        for n, port in enumerate(ports):
            port.write(ether(64 + n))
        assert sorted(len(from_us(bench)) for _ in ports) == list(range(66, 66 + len(ports))), turn
    for n, port in enumerate(ports, 1):
        bench.send(BRIDGED + PLAIN_FRAME + ether(60 + n), session=n)
        assert len(port.read()) == 60 + n


# -- anything

MARKS = itertools.count()


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bridge") / "tables")
    slot, _ = bench.session()
    port = Port(bench, slot)
    yield bench, port
    bench.close()


def settled(bench, before, n):
    """The verdicts of n packets more."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        after = bench.verdicts()
        more = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)}
        if sum(more.values()) >= n:
            break
    return more


octets = st.binary(max_size=80) | st.builds(lambda flags, size, rest: bytes((flags, 1)) + ether(size) + rest,
                                            st.integers(0, 255), st.integers(14, 80), st.binary(max_size=20))
THOROUGH = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@THOROUGH
@given(st.lists(octets, min_size=1, max_size=6), st.sampled_from([BRIDGED, b"\x31"]))
def test_any_octets_from_the_peer(long, data, protocol):
    """Each has one verdict, and what comes out is what plain Python says of it."""
    bench, port = long
    before = bench.verdicts()
    for each in data:
        bench.send(protocol + each)
    mark = ether(60) + struct.pack("!I", next(MARKS))
    bench.send(BRIDGED + PLAIN_FRAME + mark)
    expected = []
    for each in data:
        said = oracle(each)
        if isinstance(said, dict):
            frame = each[2:2 + said["length"]]
            if not said["fcs"] or each[2 + said["length"]:][:4] == fcs(frame + bytes(said["fill"])):
                expected.append(frame + bytes(said["fill"]))
    assert [port.read() for _ in range(len(expected) + 1)] == [*expected, mark]
    verdicts = settled(bench, before, len(data) + 1)
    assert sum(verdicts.values()) == len(data) + 1, verdicts


@THOROUGH
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=80), st.integers(14, 3000).map(ether)), min_size=1, max_size=6))
def test_any_octets_from_the_tap(long, data):
    bench, port = long
    before = bench.verdicts()
    for each in data:
        port.write(each)
    mark = ether(60) + struct.pack("!I", next(MARKS))
    port.write(mark)
    expected = [PLAIN_FRAME + each.ljust(60, b"\0") for each in data if 14 <= len(each) <= 1398]
    assert [from_us(bench) for _ in range(len(expected) + 1)] == [*expected, PLAIN_FRAME + mark]
    verdicts = settled(bench, before, len(data) + 1)
    assert sum(verdicts.values()) == len(data) + 1, verdicts
