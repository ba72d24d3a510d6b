"""Bundles through whole workers: loopback UDP is the wire of their links, multilink and MPPE in plain Python are the peer."""
from __future__ import annotations

import contextlib
import struct
import threading
import time

import pytest
from headrace.fastpath import bundle
from headrace.fastpath.bundle import BundleFlag
from headrace.fastpath.packet import Kind
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import ConfigFlag, State
from reference import mppe as rfc
from reference.multilink import BEGIN, END, Receiver, cut, fragment
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, ipv4, mapped, tcp, udp

IP, COMP, MP = b"\x00\x21", b"\x00\xfd", b"\x00\x3d"
SEND, RECEIVE = b"what headrace...", b"...reads or says"
BOTH = ConfigFlag.CONFIG_ENCRYPT | ConfigFlag.CONFIG_DECRYPT | ConfigFlag.CONFIG_REQUIRE
OPENED = ConfigFlag.CONFIG_BUNDLE | ConfigFlag.CONFIG_IP | ConfigFlag.CONFIG_CLAMP_MSS
INSIDE, OUTSIDE = "10.67.0.2", "10.0.0.1"
WHOLE = BEGIN | END
BUNDLE = 1000
LONG = 5_000_000_000


def patiently(door, *args, **named):
    """On a busy machine a worker may take longer to a batch boundary than the door waits."""
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            return door(*args, **named)
    raise AssertionError("the worker hangs")


class Peer:
    """A bundle of L2TP sessions, ids 1, 2 and so on, and its other end."""

    def __init__(self, bench: Bench, links=1, *, owner=0, owners=(), room=1400, rates=(), mtu=1500, mrru=1600, flags=0, own=False):
        self.bench, self.short = bench, flags
        tables = bench.tables
        self.links = [bench.session(1, i + 1, f"10.68.0.{i + 1}", owner=owners[i] if owners else owner, peer_session=i + 1, families=0,
                                    mtu=room, flags=0)[0] for i in range(links)]
        host, port = bench.peer.getsockname()
        path = (0, mapped("127.0.0.1"), bench.address[1], mapped(host), port)
        config = {"mtu": mtu, "mss": mtu - 40, "address": mapped(INSIDE), "gateway": mapped("10.67.0.1"), "flags": OPENED}
        if own:
            self.slot = self.links[0]
            tables.set_state(self.slot, State.OPENING)
            patiently(tables.configure, self.slot, **config)
        else:
            self.slot = tables.publish(Kind.KIND_BUNDLE, 1, BUNDLE, owner, path, **config)[0]
        bundle.open_bundle(tables, self.slot, mrru=mrru, flags=flags)
        for i, link in enumerate(self.links):
            patiently(bundle.join_link, tables, self.slot, link, room=room, rate=rates[i] if rates else 0)
        tables.insert(mapped(INSIDE), 128, self.slot)
        tables.set_state(self.slot, State.OPEN)
        self.receiver = Receiver(1, 65535, 1, short=bool(flags & BundleFlag.BUNDLE_SHORT_TX))
        self.by_link = dict.fromkeys(range(1, links + 1), 0)
        self.frames = []

    def send(self, octets, link=1, protocol=MP):
        self.bench.send(protocol + octets, session=link)

    def frame(self):
        """(link, PPP protocol, the octets behind it) of the next datagram."""
        datagram = self.bench.peer.recv(4000)
        flags, tunnel, link = struct.unpack("!HHH", datagram[:6])
        assert (flags, tunnel, datagram[6:8]) == (2, 9, b"\xff\x03")
        self.by_link[link] += 1
        return link, datagram[8:10], datagram[10:]

    def packets(self, n):
        """The next packets with their protocol field; of the fragments what the other end's join makes."""
        came = []
        while len(came) < n:
            _, protocol, octets = self.frame()
            self.frames.append((protocol, len(octets)))
            came += self.receiver.receive(0, octets, 0) if protocol == MP else [protocol + octets]
        return came


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables", join_ns=LONG)
    yield b
    b.close()


@pytest.fixture
def two(tmp_path):
    """One worker receives all that the peer sends; links of the other are another's. On a busy machine one may be far behind."""
    b = Bench(tmp_path / "tables", 2, join_ns=LONG)
    yield b
    b.close()


def inner(size, n=0, source=INSIDE, destination=OUTSIDE):
    return udp(source, destination, bytes((n + i) % 251 for i in range(size - 28)), sport=1000 + n, ident=n + 1)


def outward(size, n=0):
    return inner(size, n, OUTSIDE, INSIDE)


# --- up

@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("short", [0, BundleFlag.BUNDLE_SHORT_RX])
def test_fragments_and_plain_packets(bench, short, own):
    peer = Peer(bench, flags=short, own=own)
    for octets in cut(IP + inner(1500), 0, [700, 100], short=bool(short)):
        peer.send(octets)
    assert bench.inner_read()[1] == inner(1500)
    peer.send(inner(100), protocol=IP)
    assert bench.inner_read()[1] == inner(100)
    peer.send(fragment(WHOLE, 3, IP + inner(200), short=bool(short)))
    peer.send(fragment(WHOLE, 4, b"\x21" + inner(201), short=bool(short)))           # the protocol field compressed
    assert [bench.inner_read()[1] for _ in range(2)] == [inner(200), inner(201)]
    bench.wait_verdict("UP", 4)
    assert bench.verdicts() == {"UP": 4, "JOINED": 2}
    assert bench.tables.counters(peer.slot)[:2] == (4, 2001)
    if not own:
        assert bench.tables.counters(peer.links[0])[:2] == (6, sum(n + (2 if short else 4) for n in (700, 100, 702, 202, 202)) + 100)


def test_what_is_the_bundles_and_what_the_links(bench):
    peer = Peer(bench)
    peer.send(fragment(WHOLE, 0, b"\x80\x21\x01\x07\x00\x04"))
    peer.send(b"\x01\x08\x00\x04", protocol=b"\x80\x21")
    peer.send(b"\x05\x09\x00\x04", protocol=b"\xc0\x21")
    peer.send(fragment(WHOLE, 1, b"\xc0\x21\x09\x01\x00\x08" + bytes(4)))           # an echo request in a fragment is control's
    frames = []
    while len(frames) < 4:
        frames += bench.frames()
    assert sorted((kind, slot, protocol, payload[:2]) for kind, _, slot, _, protocol, _, payload in frames) == [
        (PuntKind.PUNT_PPP, peer.links[0], 0x8021, b"\x01\x08"), (PuntKind.PUNT_PPP, peer.links[0], 0xC021, b"\x05\x09"),
        (PuntKind.PUNT_PPP, peer.slot, 0x8021, b"\x01\x07"), (PuntKind.PUNT_PPP, peer.slot, 0xC021, b"\x09\x01")]
    peer.send(struct.pack("!BBHI", 9, 3, 8, 0x22222222), protocol=b"\xc0\x21")
    assert peer.frame() == (1, b"\xc0\x21", struct.pack("!BBHI", 10, 3, 8, 0x11111111))


def test_user_data_that_is_not_open(bench):
    """The bundle's families say what passes, and fragments in fragments are nobody's."""
    peer = Peer(bench)
    peer.send(inner(100), protocol=b"\x00\x57")
    peer.send(fragment(WHOLE, 0, b"\x00\x57" + inner(100)))
    peer.send(fragment(WHOLE, 1, COMP + inner(100)))
    bench.wait_verdict("DROP_CIPHER")
    assert bench.verdicts() == {"DROP_NOT_OPEN": 2, "DROP_CIPHER": 1}
    peer.send(fragment(WHOLE, 2, MP + fragment(WHOLE, 0, IP + inner(100))))
    assert bench.frames()[0][4] == 0x3D
    bench.tables.retire(peer.slot)
    peer.send(fragment(WHOLE, 3, IP + inner(100)))
    bench.wait_verdict("DROP_NOT_OPEN", 3)


def test_congestion_seen_by_one_fragment(bench):
    """RFC 6040 for what several datagrams carried: one mark is a mark."""
    peer = Peer(bench)
    packet = udp(INSIDE, OUTSIDE, bytes(1000), tos=2)
    for i, octets in enumerate(cut(IP + packet, 0, [400, 400])):
        bench.peer.setsockopt(0, 1, 3 if i == 1 else 0)          # IP_TOS
        peer.send(octets)
    assert bench.inner_read()[1][1] == 3


def test_what_is_missing_is_given_up_in_time(tmp_path):
    bench = Bench(tmp_path / "tables")
    try:
        peer = Peer(bench, 2)
        peer.send(fragment(WHOLE, 0, IP + inner(100)))
        peer.send(fragment(BEGIN, 1, IP + inner(100)[:40]), 1)
        peer.send(fragment(WHOLE, 3, IP + inner(101)), 1)
        assert [bench.inner_read()[1] for _ in range(2)] == [inner(100), inner(101)]
        bench.wait_verdict("DROP_OVERDUE")
        assert bench.verdicts() == {"UP": 2, "DROP_OVERDUE": 1}
    finally:
        bench.close()


# --- down

@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("short", [0, BundleFlag.BUNDLE_SHORT_TX])
def test_one_link_sends_plain_what_fits(bench, short, own):
    peer = Peer(bench, flags=short, own=own, room=1000)
    sizes = [28, 999, 1000, 1001, 1500]
    for n, size in enumerate(sizes):
        bench.inner_write(outward(size, n))
    assert peer.packets(5) == [IP + outward(size, n) for n, size in enumerate(sizes)]
    header = 2 if short else 4
    assert peer.frames == [(IP, 28), (IP, 999), (IP, 1000), *[(MP, header + n) for n in (502, 501, 751, 751)]]
    bench.wait_verdict("DOWN", 5)
    assert bench.verdicts() == {"DOWN": 5}
    assert bench.tables.counters(peer.slot)[2:4] == (5, sum(sizes))
    if not own:
        assert bench.tables.counters(peer.links[0])[2:4] == (7, sum(n for _, n in peer.frames))


@pytest.mark.parametrize("rates", [(1, 1), (3, 1), (2, 1, 1), (4_000_000_000, 1_000_000_000)])
def test_links_carry_by_their_rate(bench, rates):
    peer = Peer(bench, len(rates), rates=rates, room=1000)
    for n in range(120):
        bench.inner_write(outward(800, n))
    assert peer.packets(120) == [IP + outward(800, n) for n in range(120)]
    assert all(protocol == MP for protocol, _ in peer.frames)
    assert list(peer.by_link.values()) == [120 * rate // sum(rates) for rate in rates]


def test_it_is_octets_that_are_shared(bench):
    """Packets of all sizes, some in several fragments, by links of 1 to 3."""
    peer = Peer(bench, 2, rates=(10_000, 30_000), room=700)
    sizes = [60 + 53 * n % 1400 for n in range(300)]
    for n in range(0, 300, 50):
        for i, size in enumerate(sizes[n:n + 50]):
            bench.inner_write(outward(size, n + i))
        assert peer.packets(50) == [IP + outward(size, n + i) for i, size in enumerate(sizes[n:n + 50])]
    first, second = (bench.tables.counters(link)[3] for link in peer.links)
    assert second / first == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("rates", [(0, 3), (3, 0, 0), (1, 257), (0xFFFFFFFF, 1)])
def test_rates_that_are_not_known_or_cannot_be(bench, rates):
    """One of which nobody said anything, or beside which the other would carry nothing: all carry the same."""
    peer = Peer(bench, len(rates), rates=rates, room=1000)
    for n in range(60):
        bench.inner_write(outward(800, n))
    assert peer.packets(60) == [IP + outward(800, n) for n in range(60)]
    assert list(peer.by_link.values()) == [60 // len(rates)] * len(rates)


def joins(peer, bench, owner=0):
    """A third link, whose peer has not said yet that it is there."""
    link = bench.session(1, 3, "10.68.0.3", owner=owner, families=0, flags=0, peer_session=3)[0]
    patiently(bundle.join_link, bench.tables, peer.slot, link, room=1400, hold=True)
    peer.by_link[3] = 0
    return link


ANSWER = struct.pack("!BBHI", 10, 1, 8, 0x22222222)


@pytest.mark.parametrize("says", [(b"\xc0\x21", ANSWER), (MP, fragment(WHOLE, 0, IP + inner(100))), (IP, inner(100))])
def test_a_link_is_sent_by_when_it_was_heard(bench, says):
    """What joins is left out until its peer shows that it knows of the bundle, and has nothing to make up for then."""
    peer = Peer(bench, 2)
    joins(peer, bench)
    for n in range(30):
        bench.inner_write(outward(500, n))
    assert peer.packets(30) == [IP + outward(500, n) for n in range(30)]
    assert peer.by_link == {1: 15, 2: 15, 3: 0}
    peer.send(struct.pack("!BBHI", 9, 1, 8, 0x22222222), 3, b"\xc0\x21")         # it asks, as it may have before
    assert peer.frame()[0] == 3
    bench.inner_write(outward(500))
    assert peer.packets(1) and peer.by_link[3] == 1
    peer.send(says[1], 3, says[0])
    bench.wait_verdict("ECHO", 2) if says[1] == ANSWER else bench.wait_verdict("UP")
    for n in range(30):
        bench.inner_write(outward(500, n))
    assert peer.packets(30) == [IP + outward(500, n) for n in range(30)]
    assert peer.by_link[3] == 1 + 10 and abs(peer.by_link[1] - peer.by_link[2]) <= 1


def test_a_link_of_another_worker_is_sent_by_when_it_was_heard(two):
    peer = Peer(two, 2)
    joins(peer, two, owner=1)
    for n in range(30):
        two.inner_write(outward(500, n))
    assert len(peer.packets(30)) == 30 and peer.by_link[3] == 0
    peer.send(ANSWER, 3, b"\xc0\x21")
    two.wait_verdict("ECHO")
    for n in range(30):
        two.inner_write(outward(500, n))
    assert [peer.frame()[0] for _ in range(30)].count(3) == 10


def test_who_says_nothing_is_sent_by_all_the_same(bench):
    """Some two seconds after it could have been first; and at once when there is no other."""
    peer = Peer(bench, 2)
    joins(peer, bench)
    began = time.monotonic()
    while not peer.by_link[3]:
        bench.inner_write(outward(500))
        assert peer.packets(1) == [IP + outward(500)]
    assert 1.8 < time.monotonic() - began < 6


def test_the_only_link_need_not_be_heard(bench):
    peer = Peer(bench, 0)
    joins(peer, bench)
    bench.inner_write(outward(100))
    bench.inner_write(outward(1500))
    assert peer.packets(2) == [IP + outward(100), IP + outward(1500)] and peer.by_link == {3: 3}


def test_larger_than_any_link_by_all(bench):
    peer = Peer(bench, 2, room=600)
    for n in range(20):
        bench.inner_write(outward(1500, n))
    assert peer.packets(20) == [IP + outward(1500, n) for n in range(20)]
    assert peer.by_link == {1: 30, 2: 30}
    assert peer.frames == [(MP, 505), (MP, 505), (MP, 504)] * 20


def test_super_packets_are_cut_into_segments_and_these_into_fragments(bench):
    peer = Peer(bench, 2, room=1000)
    payload = bytes(i % 251 for i in range(40 * 1460 - 30))
    bench.inner_write(tcp(OUTSIDE, INSIDE, payload, 1000), flags=NEEDS_CSUM, gso=TCPV4, size=1460, start=20, offset=16)
    assert peer.packets(40) == [
        IP + tcp(OUTSIDE, INSIDE, payload[at:at + 1460], 1000 + at, ident=1 + n) for n, at in enumerate(range(0, len(payload), 1460))]
    assert len(peer.frames) == 80


def test_too_big_is_judged_by_the_bundle(bench):
    peer = Peer(bench, mtu=1500, room=1000)
    bench.inner_write(outward(1501))
    answer = bench.inner_read()[1]
    assert answer[20:22] == b"\x03\x04" and struct.unpack("!H", answer[26:28]) == (1500,)
    bench.inner_write(ipv4(OUTSIDE, INSIDE, bytes(1600), df=False))
    first, second = peer.packets(2)
    assert [len(first), len(second)] == [2 + 1500, 2 + 140]                # IP's fragments, the first of them in two of PPP's
    assert peer.frames == [(MP, 755), (MP, 755), (IP, 140)]


def test_controls_frames(bench):
    """NCPs of a bundle go as its user data, plain by one link, in order by several."""
    peer = Peer(bench)
    bench.channels_send(peer.slot, 0x8021, b"\x01\x01\x00\x04")
    assert peer.packets(1) == [b"\x80\x21\x01\x01\x00\x04"]
    other = bench.session(1, 9, "10.68.0.9", families=0, flags=0, peer_session=9)[0]
    patiently(bundle.join_link, bench.tables, peer.slot, other, room=1400)
    peer.by_link[9] = 0
    for n in range(4):
        bench.channels_send(peer.slot, 0x8021, bytes([1, n, 0, 4]))
    bench.channels_send(peer.slot, 0x80FD, b"\x01\x07" + bytes(1800))
    bench.channels_send(other, 0xC021, b"\x09\x01")
    first = [b"\x80\x21" + bytes([1, n, 0, 4]) for n in range(4)]
    assert peer.packets(6) == [*first, b"\x80\xfd\x01\x07" + bytes(1800), b"\xc0\x21\x09\x01"]
    assert peer.frames[1:] == [(MP, 10)] * 4 + [(MP, 4 + 902)] * 2 + [(b"\xc0\x21", 2)]


def test_links_come_and_go(bench):
    peer = Peer(bench, 2)
    tables = bench.tables
    for n in range(10):
        bench.inner_write(outward(500, n))
    assert peer.packets(10) == [IP + outward(500, n) for n in range(10)]
    patiently(bundle.leave_link, tables, peer.slot, peer.links[0])
    tables.retire(peer.links[0])
    for n in range(10):
        bench.inner_write(outward(500, n))
    assert peer.packets(10) == [IP + outward(500, n) for n in range(10)]
    assert peer.by_link == {1: 5, 2: 15}
    tables.retire(peer.links[1])                                  # gone before control took it out
    bench.inner_write(outward(500))
    bench.wait_verdict("DROP_LINK")
    patiently(bundle.leave_link, tables, peer.slot, peer.links[1])
    bench.inner_write(outward(500))
    bench.wait_verdict("DROP_LINK", 2)
    third = bench.session(1, 3, "10.68.0.3", families=0, flags=0, peer_session=1)[0]
    patiently(bundle.join_link, tables, peer.slot, third, room=1400)
    bench.inner_write(outward(500))
    assert peer.packets(1) == [IP + outward(500)]
    bench.send(MP + fragment(WHOLE, 0, IP + inner(300)), session=3)
    assert bench.inner_read()[1] == inner(300)


# --- encrypted

def encrypt(bench, slot, *, stateless=True):
    patiently(bench.tables.set_cipher, slot, send_bits=128, receive_bits=128, send_key=SEND, receive_key=RECEIVE, send_stateless=stateless,
              receive_stateless=stateless)
    patiently(bench.tables.configure, slot, flags=OPENED | BOTH)
    return rfc.Receiver(SEND, 128, stateless=stateless), rfc.Sender(RECEIVE, 128, stateless=stateless)


@pytest.mark.parametrize("stateless", [True, False])
@pytest.mark.parametrize("links", [1, 2])
def test_encrypted_whole_then_cut(bench, links, stateless):
    peer = Peer(bench, links, room=800)
    receiver, sender = encrypt(bench, peer.slot, stateless=stateless)
    sizes = [100, 1500, 700, 1496, 797] * 8
    for n, size in enumerate(sizes):
        bench.inner_write(outward(size, n))
    for n, packet in enumerate(peer.packets(40)):
        assert packet[:2] == COMP
        assert receiver.receive(packet[2:]) == IP + outward(sizes[n], n)
    number = 0
    for n, size in enumerate(sizes):
        parts = cut(COMP + sender.send(IP + inner(size, n)), number, [700] if size > 1000 else [])
        for i, octets in enumerate(parts):
            peer.send(octets, 1 + (number + i) % links)
        number += len(parts)
    assert [bench.inner_read()[1] for _ in range(40)] == [inner(size, n) for n, size in enumerate(sizes)]


def test_reset_request_of_a_bundle(bench):
    peer = Peer(bench, 2)
    _, sender = encrypt(bench, peer.slot, stateless=False)
    _, after = (sender.send(IP + inner(100, n)) for n in range(2))         # the first is lost
    peer.send(fragment(WHOLE, 0, COMP + after))
    packet, = peer.packets(1)
    assert packet[:3] == b"\x80\xfd\x0e"
    assert peer.frames == [(MP, 10)]


# --- workers

@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("owner, owners", [(0, (1, 1)), (1, (0, 0)), (1, (0, 1)), (0, (0, 1))])
def test_links_of_other_workers(two, owner, owners, secret):
    """Whatever worker receives, owns the links and owns the bundle: all packets, whole, both ways."""
    peer = Peer(two, 2, owner=owner, owners=owners, room=800)
    receiver, sender = encrypt(two, peer.slot) if secret else (None, None)
    for n in range(100):
        two.inner_write(outward(1500, n))
    # two workers send: fragments of a packet come in any order within what a link's peer has to expect
    numbered = sorted((peer.frame() for _ in range(200)), key=lambda one: struct.unpack("!I", one[2][:4])[0] & 0xFFFFFF)
    came = [packet for _, _, octets in numbered for packet in peer.receiver.receive(0, octets, 0)]
    assert [receiver.receive(packet[2:]) if secret else packet for packet in came] == [IP + outward(1500, n) for n in range(100)]
    assert peer.by_link == {1: 100, 2: 100}
    if any(one != owner for one in owners):
        assert two.tables.worker_records()["ring_out"][owner] >= 100
    two.wait_verdict("DOWN", 100)
    for n in range(100):
        body = COMP + sender.send(IP + inner(1500, n)) if secret else IP + inner(1500, n)
        for i, octets in enumerate(cut(body, 2 * n, [750])):
            peer.send(octets, 1 + i)
    assert [two.inner_read()[1] for _ in range(100)] == [inner(1500, n) for n in range(100)]
    two.wait_verdict("UP", 100)
    verdicts = two.verdicts()
    assert verdicts["JOINED"] == 100 and not [name for name in verdicts if name.startswith("DROP")]


def test_plain_packets_and_controls_frames_across_workers(two):
    peer = Peer(two, owner=1, owners=(0,))
    for n in range(20):
        peer.send(inner(100, n), protocol=IP)
        two.inner_write(outward(100, n))
    assert [two.inner_read()[1] for _ in range(20)] == [inner(100, n) for n in range(20)]
    assert peer.packets(20) == [IP + outward(100, n) for n in range(20)]
    peer.send(fragment(WHOLE, 0, b"\x80\x21\x01\x07\x00\x04"))
    assert two.frames(1)[0][2:5:2] == (peer.slot, 0x8021)
    two.channels_send(peer.slot, 0x8021, b"\x01\x01\x00\x04", 1)
    assert peer.packets(1) == [b"\x80\x21\x01\x01\x00\x04"]
    assert set(peer.frames) == {(IP, 100), (b"\x80\x21", 4)}


def test_many_at_once_through_a_small_batch(bench):
    """Fragments of many packets in few receives: more than a batch has room for at a time."""
    peer = Peer(bench, 2)
    seen = []
    reader = threading.Thread(target=lambda: [seen.append(bench.inner_read()) for _ in range(900)])
    waiting = [fragment(WHOLE, n, IP + inner(60, n)) for n in range(1, 250)]
    for octets in waiting:
        peer.send(octets)
    reader.start()
    peer.send(fragment(WHOLE, 0, IP + inner(60)), 2)
    for n in range(250, 900):
        peer.send(fragment(WHOLE, n, IP + inner(60, n)), 1 + n % 2)
    reader.join(20)
    assert [one[1] for one in seen] == [inner(60, n) for n in range(900)]


def test_new_forwarder_goes_on_with_the_numbers(tmp_path):
    bench = Bench(tmp_path / "tables")
    peer = Peer(bench, 2)
    for n in range(4):
        peer.send(fragment(WHOLE, n, IP + inner(100, n)), 1 + n % 2)
        bench.inner_write(outward(100, n))
    assert [bench.inner_read()[1] for _ in range(4)] == [inner(100, n) for n in range(4)]
    assert peer.packets(4) == [IP + outward(100, n) for n in range(4)]
    peer.send(fragment(WHOLE, 5, IP + inner(100)))                # waits, and is lost with the worker
    bench.wait_verdict("UP", 4)
    for _ in range(1000):
        if bundle.counters(bench.tables, peer.slot)[1]:
            break
        threading.Event().wait(0.002)
    address, port = bench.address, bench.peer.getsockname()[1]
    bench.close()
    again = Bench(tmp_path / "tables", reuse=address)
    try:
        again.peer.close()
        again.peer = again.keep(type(again.peer)(again.peer.family, again.peer.type))
        again.peer.bind(("127.0.0.1", port))
        again.peer.settimeout(5)
        peer.bench = again
        for n in range(4, 8):
            peer.send(fragment(WHOLE, n, IP + inner(100, n)), 1 + n % 2)
            again.inner_write(outward(100, n))
        assert [again.inner_read()[1] for _ in range(4)] == [inner(100, n) for n in range(4, 8)]
        assert peer.packets(4) == [IP + outward(100, n) for n in range(4, 8)]
    finally:
        again.close()
