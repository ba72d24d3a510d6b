"""Encrypted sessions through whole workers: loopback UDP is the wire, MPPE in plain Python is the peer."""
from __future__ import annotations

import contextlib
import struct
import threading

import pytest
from headrace.fastpath import cpu
from headrace.fastpath.packet import Verdict
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import mppe as rfc
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, ipv4, tcp, udp

SEND, RECEIVE = b"what headrace...", b"...reads or says"
IP, COMP = b"\x00\x21", b"\x00\xfd"
BOTH = ConfigFlag.CONFIG_ENCRYPT | ConfigFlag.CONFIG_DECRYPT
PLAIN = 2 | ConfigFlag.CONFIG_IP
INSIDE, OUTSIDE = "10.67.0.2", "10.0.0.1"


@pytest.fixture(params=cpu.available())
def bench(request, tmp_path):
    before = cpu.name()
    cpu.use(request.param)
    b = Bench(tmp_path / "tables")
    yield b
    b.close()
    cpu.use(before)


def patiently(door, *args, **named):
    """On a busy machine a worker may take longer to a batch boundary than the door waits."""
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            return door(*args, **named)
    raise AssertionError("the worker hangs")


def encrypt(bench, slot, bits=128, *, stateless=True, flags=BOTH | ConfigFlag.CONFIG_REQUIRE | PLAIN):
    """Put keys in force; return what the peer receives and sends with."""
    send, receive = (key if bits == 128 else key[:8] for key in (SEND, RECEIVE))
    patiently(bench.tables.set_cipher, slot, send_bits=bits, receive_bits=bits, send_key=send, receive_key=receive,
              send_stateless=stateless, receive_stateless=stateless)
    patiently(bench.tables.configure, slot, flags=flags)
    return rfc.Receiver(send, bits, stateless=stateless), rfc.Sender(receive, bits, stateless=stateless)


def from_us(bench):
    """(PPP protocol, the octets behind it) of the next datagram."""
    datagram = bench.peer.recv(2000)
    assert datagram[:8] == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03"
    return datagram[8:10], datagram[10:]


def read(bench, receiver):
    """The next datagram's inner packet; its protocol stands encrypted in front of it."""
    protocol, frame = from_us(bench)
    assert protocol == COMP
    said = receiver.receive(frame)
    assert said is None or said[:2] in (IP, b"\x00\x57")
    return said


@pytest.mark.parametrize("stateless", [True, False])
@pytest.mark.parametrize("bits", [40, 56, 128])
def test_both_ways(bench, bits, stateless):
    slot, _ = bench.session()
    receiver, sender = encrypt(bench, slot, bits, stateless=stateless)
    for n in range(5):
        packet = udp(OUTSIDE, INSIDE, bytes([n]) * 100 * n)
        bench.inner_write(packet)
        assert read(bench, receiver) == IP + packet
        packet = udp(INSIDE, OUTSIDE, bytes([n]) * 101 * n)
        bench.send(COMP + sender.send((IP if n % 2 else b"\x21") + packet))
        assert bench.inner_read()[1] == packet
    counters = bench.tables.counters(slot)
    assert counters[0] == counters[2] == 5


def test_ipv6_both_ways(bench):
    slot, _ = bench.session(prefix="fd00:67::")
    receiver, sender = encrypt(bench, slot, flags=BOTH | PLAIN | ConfigFlag.CONFIG_IPV6)
    head = bytes.fromhex("60000000 0008 11 40".replace(" ", ""))
    client, server = bytes.fromhex("fd000067") + bytes(11) + b"\x02", bytes.fromhex("20010db8") + bytes(11) + b"\x01"
    down, up = head + server + client + bytes(8), head + client + server + bytes(8)
    bench.inner_write(down)
    assert read(bench, receiver) == b"\x00\x57" + down
    bench.send(COMP + sender.send(b"\x57" + up))
    assert bench.inner_read()[1] == up
    patiently(bench.tables.configure, slot, flags=BOTH | PLAIN)
    bench.send(COMP + sender.send(b"\x57" + up))
    bench.wait_verdict("DROP_NOT_OPEN")


def test_through_gre(bench):
    slot, _ = bench.call()
    receiver, sender = encrypt(bench, slot, flags=BOTH | PLAIN | ConfigFlag.CONFIG_SEQUENCED)
    for n in range(3):
        packet = udp(OUTSIDE, INSIDE, b"down")
        bench.inner_write(packet)
        while (got := bench.gre_read())[2] is None:
            pass             # an acknowledgment alone
        _, call, sequence, _, payload = got
        assert (call, sequence, payload[:4]) == (0x1234, n, b"\xff\x03" + COMP) and receiver.receive(payload[4:]) == IP + packet
        packet = udp(INSIDE, OUTSIDE, b"up")
        bench.gre_send(n, COMP + sender.send(IP + packet))
        assert bench.inner_read()[1] == packet


@pytest.mark.parametrize("stateless", [True, False])
def test_a_super_packet_is_cut(bench, stateless):
    """Its segments are more than one flush holds, and lie in two pieces until they are ciphered."""
    slot, _ = bench.session()
    receiver, _ = encrypt(bench, slot, stateless=stateless)
    payload = bytes(range(256)) * 200
    whole = tcp(OUTSIDE, INSIDE, payload, 1000)
    for _ in range(12):
        bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV4, size=1300, start=20, offset=16)
        said = b""
        while len(said) < len(payload):
            packet = read(bench, receiver)[2:]
            assert packet == tcp(OUTSIDE, INSIDE, packet[40:], 1000 + len(said), ident=struct.unpack_from("!H", packet, 4)[0],
                                 flags=packet[33])
            said += packet[40:]
        assert said == payload


def test_without_df_it_is_fragmented_and_with_it_answered(bench):
    slot, _ = bench.session(mtu=600)
    receiver, _ = encrypt(bench, slot)
    bench.inner_write(udp(OUTSIDE, INSIDE, b"a" * 1300, df=False))
    pieces = [read(bench, receiver)[2:] for _ in range(3)]
    assert all(len(piece) <= 600 for piece in pieces) and b"".join(p[20:] for p in pieces) == udp(OUTSIDE, INSIDE, b"a" * 1300)[20:]
    bench.inner_write(udp(OUTSIDE, INSIDE, b"a" * 573))
    assert bench.inner_read()[1][20:22] == b"\x03\x04"
    bench.inner_write(udp(OUTSIDE, INSIDE, b"a" * 572))
    assert len(read(bench, receiver)) == 602


def test_many_sessions_in_one_batch(bench):
    ends = [encrypt(bench, bench.session(session=n, address=f"10.67.0.{n}")[0]) for n in range(1, 60)]
    for _ in range(3):
        for n in range(1, 60):
            bench.inner_write(udp(OUTSIDE, f"10.67.0.{n}", bytes(n)))
            bench.send(COMP + ends[n - 1][1].send(IP + udp(f"10.67.0.{n}", OUTSIDE, bytes(n))), session=n)
        for _ in range(59):
            _, frame = from_us(bench)
            n = len(frame) - 2 - 2 - 28
            assert ends[n - 1][0].receive(frame) == IP + udp(OUTSIDE, f"10.67.0.{n}", bytes(n))
        assert {bench.inner_read()[1][28:] for _ in range(59)} == {bytes(n) for n in range(1, 60)}


def test_nothing_passes_in_clear_where_it_must_not(bench):
    slot, _ = bench.session()
    encrypt(bench, slot)
    bench.send(IP + udp(INSIDE, OUTSIDE, b"clear"))
    bench.wait_verdict("DROP_CLEAR")
    bench.send(b"\xc2\x23challenge")
    assert bench.frames()[0][4] == 0xC223                 # what negotiates stays clear
    patiently(bench.tables.configure, slot, flags=PLAIN | ConfigFlag.CONFIG_REQUIRE)
    bench.inner_write(udp(OUTSIDE, INSIDE, b"clear"))
    bench.channels_send(slot, 0x0021, udp(OUTSIDE, INSIDE, b"clear"))
    bench.wait_verdict("DROP_CLEAR", 3)
    bench.channels_send(slot, 0xC021, b"last word")
    assert from_us(bench) == (b"\xc0\x21", b"last word")


def test_what_control_sends_is_encrypted_if_it_is_user_data(bench):
    slot, _ = bench.session()
    receiver, _ = encrypt(bench, slot)
    advertisement = b"\x60" + bytes(60)
    bench.channels_send(slot, 0x0057, advertisement)
    assert read(bench, receiver) == b"\x00\x57" + advertisement
    bench.channels_send(slot, 0x8057, b"\x01\x01\x00\x04")
    assert from_us(bench) == (b"\x80\x57", b"\x01\x01\x00\x04")


def test_one_direction_by_itself(bench):
    slot, _ = bench.session()
    receiver, sender = encrypt(bench, slot, flags=PLAIN | ConfigFlag.CONFIG_ENCRYPT)
    bench.inner_write(udp(OUTSIDE, INSIDE, b"x"))
    assert read(bench, receiver)
    bench.send(IP + udp(INSIDE, OUTSIDE, b"clear"))
    assert bench.inner_read()[1] == udp(INSIDE, OUTSIDE, b"clear")
    bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, b"x")))
    bench.wait_verdict("DROP_CIPHER")
    patiently(bench.tables.configure, slot, flags=PLAIN | ConfigFlag.CONFIG_DECRYPT)
    bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, b"x")))
    assert bench.inner_read()
    bench.inner_write(udp(OUTSIDE, INSIDE, b"clear"))
    assert from_us(bench) == (IP, udp(OUTSIDE, INSIDE, b"clear"))
    bench.tables.set_state(slot, State.OPENING)
    bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, b"x")))
    bench.wait_verdict("DROP_NOT_OPEN")


def test_new_keys_begin_anew(bench):
    slot, _ = bench.session()
    for _ in range(3):
        receiver, sender = encrypt(bench, slot)
        for _ in range(3):
            bench.inner_write(udp(OUTSIDE, INSIDE, b"x"))
            assert read(bench, receiver) == IP + udp(OUTSIDE, INSIDE, b"x")
            bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, b"x")))
            assert bench.inner_read()


def test_a_cipher_that_is_gone_sends_nothing(bench):
    """Control never says so; a record that was wiped by mistake must not let anything out."""
    slot, _ = bench.session()
    encrypt(bench, slot)
    patiently(bench.tables.configure, slot, flags=0)
    bench.tables.clear_cipher(slot)
    patiently(bench.tables.configure, slot, flags=PLAIN | ConfigFlag.CONFIG_REQUIRE)
    bench.inner_write(udp(OUTSIDE, INSIDE, b"x"))
    bench.send(COMP + b"\x90\x00abc")
    bench.wait_verdict("DROP_CLEAR")
    bench.wait_verdict("DROP_CIPHER")


def test_a_stateful_session_asks_for_what_it_lost(bench):
    slot, _ = bench.session()
    _, sender = encrypt(bench, slot, stateless=False)

    def send(payload, lost=False):
        frame = sender.send(IP + udp(INSIDE, OUTSIDE, payload))
        if not lost:
            bench.send(COMP + frame)
    send(b"1")
    assert bench.inner_read()
    send(b"2", lost=True)
    send(b"3")
    protocol, request = from_us(bench)
    assert protocol == b"\x80\xfd" and (request[0], request[2:]) == (14, b"\x00\x04")
    send(b"4")
    bench.wait_verdict("DROP_COHERENCY", 2)
    assert bench.inner_read(0) is None
    sender.flush = True
    send(b"5")
    assert bench.inner_read()[1] == udp(INSIDE, OUTSIDE, b"5")
    send(b"6", lost=True)
    bench.peer.setblocking(False)
    requests, sent, pause = [], 0, threading.Event()
    while len(requests) < 2 and sent < 200:          # as long as it waits it asks again, but not for each packet
        send(b"7")
        sent += 1
        pause.wait(0.02)
        with contextlib.suppress(BlockingIOError):
            requests.append(bench.peer.recv(2000)[8:11])
    assert [request[:3] for request in requests] == [b"\x80\xfd\x0e"] * 2 and sent > 5


def test_a_peer_that_asks_gets_a_flushed_packet(bench):
    slot, generation = bench.session()
    receiver, _ = encrypt(bench, slot, stateless=False)
    for _ in range(3):
        bench.inner_write(udp(OUTSIDE, INSIDE, b"x"))
    read(bench, receiver)
    from_us(bench)                   # lost
    assert read(bench, receiver) is None
    bench.channels[0].send([(PuntKind.PUNT_REKEY, slot, generation, 0, None, b"")])
    for _ in range(50):              # an order and packets come by different ways
        bench.inner_write(udp(OUTSIDE, INSIDE, b"y"))
        if packet := read(bench, receiver):
            break
    assert packet == IP + udp(OUTSIDE, INSIDE, b"y")
    bench.inner_write(udp(OUTSIDE, INSIDE, b"z"))
    assert read(bench, receiver) == IP + udp(OUTSIDE, INSIDE, b"z")


@pytest.mark.parametrize("stateless", [True, False])
def test_control_hears_of_keys_that_differ(bench, stateless):
    slot, generation = bench.session()
    encrypt(bench, slot, stateless=stateless)
    sender = rfc.Sender(b"another start...", 128, stateless=stateless)
    for _ in range(150):
        sender.flush = True
        bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, bytes(60))))
    frames = bench.frames()
    assert frames[0][:4] == (PuntKind.PUNT_UNREADABLE, 0, slot, generation) and bench.inner_read(0) is None
    assert set(bench.verdicts()) <= {"DROP_CIPHER", "DROP_COHERENCY", "DROP_IP", "PUNT"}     # chance makes some look like IP


def test_what_comes_late_or_twice_is_stale(bench):
    slot, _ = bench.session()
    _, sender = encrypt(bench, slot)
    frames = [sender.send(IP + udp(INSIDE, OUTSIDE, bytes([n]), dport=n)) for n in range(4)]       # four flows: none merges
    for n in (0, 2, 1, 2, 3):
        bench.send(COMP + frames[n])
    assert [bench.inner_read()[1][28] for _ in range(3)] == [0, 2, 3]
    bench.wait_verdict("DROP_STALE", 2)


@pytest.mark.parametrize("frame, verdict", [(b"", "DROP_SHORT"), (b"\x90\x00", "DROP_SHORT"), (b"\x80\x00abc", "DROP_CIPHER"),
                                            (b"\xb0\x00abc", "DROP_CIPHER"), (b"\x90\x00abc", "DROP_CIPHER")])
def test_bad_frames(bench, frame, verdict):
    slot, _ = bench.session()
    encrypt(bench, slot)
    bench.send(COMP + frame)
    bench.wait_verdict(verdict)


def test_a_forwarder_goes_on_where_another_stopped(tmp_path):
    first = Bench(tmp_path / "tables")
    slot, _ = first.session()
    receiver, sender = encrypt(first, slot)
    stateful, _ = first.session(session=2, address="10.67.0.3")
    ends = encrypt(first, stateful, stateless=False)

    def exchange(bench):
        bench.inner_write(udp(OUTSIDE, INSIDE, b"x"))
        assert read(bench, receiver) == IP + udp(OUTSIDE, INSIDE, b"x")
        bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, b"x")))
        assert bench.inner_read()[1] == udp(INSIDE, OUTSIDE, b"x")
        bench.inner_write(udp(OUTSIDE, "10.67.0.3", b"x"))
        assert read(bench, ends[0]) == IP + udp(OUTSIDE, "10.67.0.3", b"x")
        bench.send(COMP + ends[1].send(IP + udp("10.67.0.3", OUTSIDE, b"x")), session=2)
        assert bench.inner_read()[1] == udp("10.67.0.3", OUTSIDE, b"x")
    for _ in range(3):
        exchange(first)
    first.forwarder.stop()
    for thread in first.threads:
        thread.join(5)
    peer, address = first.peer, first.address
    for wire in first.wires:
        wire.close()
    second = Bench(tmp_path / "tables", reuse=address)
    second.peer.close()
    second.peer = peer
    for _ in range(3):
        exchange(second)
    second.close()
    first.close()


def test_another_workers_session(tmp_path):
    """What one worker reads for a session of another is ciphered by that one, in order."""
    bench = Bench(tmp_path / "tables", workers=2)
    slot, _ = bench.session(owner=1)
    receiver, sender = encrypt(bench, slot)
    for n in range(200):
        bench.inner_write(udp(OUTSIDE, INSIDE, bytes(n)), worker=0)
        bench.send(COMP + sender.send(IP + udp(INSIDE, OUTSIDE, bytes(n))))
    assert [read(bench, receiver) for _ in range(200)] == [IP + udp(OUTSIDE, INSIDE, bytes(n)) for n in range(200)]
    got = b"".join(bench.inner_read()[1][28:29] or b"." for _ in range(1))
    assert got == b"."
    bench.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=70)), max_size=30))
def test_any_frames(tmp_path_factory, frames):
    """Every packet gets an end of its own, and the workers live."""
    bench = Bench(tmp_path_factory.mktemp("t") / "tables", max_sessions=10)
    for session, stateless in ((1, True), (2, False)):
        encrypt(bench, bench.session(session=session, address=f"10.67.0.{session}")[0], stateless=stateless)
    for second, frame in frames:
        bench.send(COMP + frame, session=1 + second)
    bench.send(b"\x21" + ipv4(INSIDE, OUTSIDE, b""))
    bench.wait_verdict("DROP_CLEAR")
    assert sum(bench.verdicts().values()) >= len(frames) + 1
    assert {Verdict[name] for name in bench.verdicts()} <= {
        Verdict.DROP_SHORT, Verdict.DROP_CIPHER, Verdict.DROP_STALE, Verdict.DROP_COHERENCY, Verdict.DROP_CLEAR, Verdict.DROP_IP,
        Verdict.DROP_SPOOF, Verdict.DROP_NOT_OPEN, Verdict.PUNT, Verdict.UP}
    bench.close()
