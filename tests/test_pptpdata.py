"""PPTP's data through a worker, without root: a SEQPACKET pair is the raw socket."""
import struct
import threading
import time

import pytest
from headrace.fastpath.table import State
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, mapped, tcp, udp

IP = b"\x00\x21"
DATA, ACKING, ACK = 0x3001, 0x3081, 0x2081


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables", merge=0)
    yield b
    b.close()


def up(number):
    return udp("10.67.0.2", "10.0.0.1", struct.pack("!I", number))


def down(number, **kw):
    return udp("10.0.0.1", "10.67.0.2", struct.pack("!I", number), **kw)


def test_user_data_goes_up_and_is_acknowledged_alone_when_nothing_leaves(bench):
    slot, _ = bench.call()
    bench.gre_send(0, IP + up(0))
    assert bench.inner_read() == ((0,) * 6, up(0))
    assert bench.gre_read() == (ACK, 0x1234, None, 0, b"")
    assert bench.tables.counters(slot)[:2] == (1, len(up(0)))
    assert bench.gre_read(timeout=0.3) is None, "once"
    for n in range(1, 4):
        bench.gre_send(n, IP + up(n))
        assert bench.inner_read()[1] == up(n)
    acks = []
    while not acks or acks[-1] < 3:         # one, unless a tick falls between them
        acks.append(bench.gre_read()[3])
    assert acks == sorted(set(acks)) and bench.gre_read(timeout=0.3) is None


def test_many_packets_are_acknowledged_before_a_tick(bench):
    bench.call()
    for n in range(100):
        bench.gre_send(n, IP + up(n))
    acks = []
    while not acks or acks[-1] < 99:
        flags, _, _, ack, _ = bench.gre_read()
        assert flags == ACK
        acks.append(ack)
    assert acks[0] < 99 or len(acks) == 1
    assert sorted(set(acks)) == acks


def test_data_carries_numbers_and_acknowledges_what_came(bench):
    bench.call()
    bench.inner_write(down(0))
    assert bench.gre_read() == (DATA, 0x1234, 0, None, b"\xff\x03" + IP + down(0))
    bench.gre_send(5, IP + up(5))
    assert bench.inner_read()[1] == up(5)
    bench.inner_write(down(1))
    first = bench.gre_read()
    if first[0] == ACK:             # the tick was faster
        assert first[3] == 5
        first = bench.gre_read()
        assert first == (DATA, 0x1234, 1, None, b"\xff\x03" + IP + down(1))
    else:
        assert first == (ACKING, 0x1234, 1, 5, b"\xff\x03" + IP + down(1))
    bench.inner_write(down(2))
    second = bench.gre_read()
    assert second == (DATA, 0x1234, 2, None, b"\xff\x03" + IP + down(2)), "an acknowledgment is not said twice"


def test_numbers_wrap(bench):
    bench.call()
    for n in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 0xFFFFFFFF, 2):
        bench.gre_send(n, IP + up(n))
    assert [bench.inner_read()[1] for _ in range(5)] == [up(n) for n in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2)]
    assert bench.wait_verdict("DROP_SEQUENCE") == 1
    while bench.gre_read()[3] != 2:
        pass


def test_order_is_restored_and_a_loss_holds_nothing_up(bench):
    bench.call()
    for n in (0, 2, 1, 4, 5, 3, 7, 8):              # 6 is lost
        bench.gre_send(n, IP + up(n))
    assert [bench.inner_read()[1] for _ in range(6)] == [up(n) for n in range(6)]
    since = time.monotonic()
    assert [bench.inner_read()[1] for _ in range(2)] == [up(7), up(8)]
    assert time.monotonic() - since < 0.5
    bench.gre_send(6, IP + up(6))
    bench.wait_verdict("DROP_SEQUENCE")
    for n in range(10, 60):                         # 9 is lost; the window moves on without it
        bench.gre_send(n, IP + up(n))
    assert [bench.inner_read()[1] for _ in range(50)] == [up(n) for n in range(10, 60)]


def test_negotiation_waits_for_its_turn_too(bench):
    bench.call(state=State.OPENING)
    for n in (0, 2, 1):
        bench.gre_send(n, b"\xc0\x21\x01" + bytes([n]) + b"\0\4")
    frames = []
    while len(frames) < 3:
        frames += bench.frames()
    assert [f[6][1] for f in frames] == [0, 1, 2]


def test_a_restarted_forwarder_waits_for_nothing_of_the_old_one(tmp_path):
    bench = Bench(tmp_path / "tables", merge=0, window_ns=3_600_000_000_000)
    bench.call()
    bench.gre_send(0, IP + up(0))
    assert bench.inner_read()[1] == up(0)
    bench.gre_send(2, IP + up(2))
    while not bench.tables.sessions()["waits"][7]:
        pass
    bench.close()
    bench = Bench(tmp_path / "tables", merge=0, reuse=("127.0.0.1", 0))
    try:
        bench.gre_send(1, IP + up(1))
        bench.gre_send(2, IP + up(2))
        assert [bench.inner_read()[1] for _ in range(2)] == [up(1), up(2)]
    finally:
        bench.close()


def test_a_super_packet_is_cut_into_numbered_packets(bench):
    bench.call()
    data = bytes(range(256)) * 40
    bench.inner_write(tcp("10.0.0.1", "10.67.0.2", data, 1000), flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
    for i in range(11):
        flags, call, sequence, ack, payload = bench.gre_read()
        assert (flags, call, sequence, ack) == (DATA, 0x1234, i, None)
        assert payload == b"\xff\x03" + IP + tcp("10.0.0.1", "10.67.0.2", data[1000 * i:1000 * (i + 1)], 1000 + 1000 * i, ident=1 + i)
    assert bench.wait_verdict("DOWN", 11) == 11
    assert bench.tables.worker_records()["gso_sends"][0] == 0


def test_a_full_socket_is_tried_once_a_flush(bench):
    bench.call()
    whole = tcp("10.0.0.1", "10.67.0.2", bytes(44 * 1000), 1000)
    writes = lost = 0
    pause = threading.Event()
    while not lost and writes < 1000:           # nobody reads
        bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
        writes += 1
        for _ in range(2500):
            if sum(bench.verdicts().get(name, 0) for name in ("DOWN", "DROP_WIRE")) >= 44 * writes:
                break
            pause.wait(0.002)
        lost = bench.verdicts().get("DROP_WIRE", 0)
    assert lost
    before = int(bench.tables.worker_records()["sends"][0])
    for _ in range(10):
        bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
    bench.wait_verdict("DROP_WIRE", lost + 440)
    assert int(bench.tables.worker_records()["sends"][0]) - before <= 10


def test_fragments_too(bench):
    bench.call(mtu=1000)
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", bytes(1400), df=False))
    parts = [bench.gre_read() for _ in range(2)]
    assert [p[2] for p in parts] == [0, 1] and all(len(p[4]) <= 1004 for p in parts)


def test_ppp_negotiation_is_punted_and_answered(bench):
    slot, generation = bench.call(state=State.OPENING)
    bench.gre_send(0, b"\xc0\x21\x01\x01\x00\x04")
    assert bench.frames() == [(2, 0, slot, generation, 0xC021, None, b"\x01\x01\x00\x04")]
    bench.channels[0].send([(2, slot, generation, 0xC021, None, b"\x02\x01\x00\x04")])
    frames = [bench.gre_read()]
    if frames[0][0] == ACK:
        frames = [bench.gre_read()]
    assert frames[0][1:3] == (0x1234, 0) and frames[0][4] == b"\xff\x03\xc0\x21\x02\x01\x00\x04"
    bench.gre_send(1, IP + up(1))
    bench.wait_verdict("DROP_NOT_OPEN")


def test_echo_is_answered_by_the_worker(bench):
    bench.call()
    bench.gre_send(0, b"\xc0\x21" + struct.pack("!BBHI", 9, 7, 12, 0x22222222) + b"data")
    assert bench.gre_read() == (ACKING, 0x1234, 0, 0, b"\xff\x03\xc0\x21" + struct.pack("!BBHI", 10, 7, 12, 0x11111111) + b"data")


def test_ecn_marks_outside_reach_the_inside(bench):
    bench.call()
    bench.gre_send(0, IP + udp("10.67.0.2", "10.0.0.1", b"x", tos=2), tos=3)
    assert bench.inner_read()[1] == udp("10.67.0.2", "10.0.0.1", b"x", tos=3)


@pytest.mark.parametrize("how, verdict", [
    ({"sequence": None, "ack": 3}, "ACK"), ({"sequence": None}, "ACK"), ({"sequence": 0, "call": 8}, "DROP_NO_SESSION"),
    ({"sequence": 0, "call": 0}, "DROP_NO_SESSION"), ({"sequence": 0}, "DROP_SHORT"),
])
def test_bad_input_has_a_verdict_and_disturbs_nothing(bench, how, verdict):
    bench.call()
    bench.gre_send(**how)
    bench.wait_verdict(verdict)
    bench.gre_send(1, IP + up(1))
    assert bench.inner_read()[1] == up(1)


def test_another_peer_cannot_use_the_call(bench):
    """Where the other's hash leads to the same bank; here there is one."""
    bench.call()
    bench.gre_send(0, IP + up(0), peer="192.0.2.10")
    bench.wait_verdict("DROP_PEER")
    slot, _ = bench.session(tunnel=bench.tables.peer_hash(mapped("192.0.2.9")), session=9, address="10.67.0.9")
    bench.gre_send(0, IP + up(0), call=9)
    bench.wait_verdict("DROP_PEER", 2)
    assert bench.tables.counters(slot)[0] == 0


def test_what_is_not_ipv4_of_sound_length_is_short(bench):
    bench.call()
    for octets in (b"\x45", b"\x4f" + bytes(30), bytes(19)):
        bench.gre[0].send(octets)
    bench.wait_verdict("DROP_SHORT", 3)


@pytest.mark.parametrize("receiver", [0, 1])
def test_two_workers(tmp_path, receiver):
    """One worker reads the socket, the other owns the session."""
    bench = Bench(tmp_path / "tables", workers=2, merge=0)
    try:
        owner = 1 - receiver
        bench.call(owner=owner)
        for n in range(200):
            bench.gre_send(n, IP + up(n), worker=receiver)
        assert [bench.inner_read()[1] for _ in range(200)] == [up(n) for n in range(200)]
        assert bench.wait_verdict("HANDED", 200) == 200
        while bench.gre_read(owner)[3] != 199:
            pass
        for n in range(50):
            bench.inner_write(down(n), receiver)
        sequences = [bench.gre_read(owner)[2] for _ in range(50)]
        assert sequences == list(range(50))
    finally:
        bench.close()


def test_a_slot_that_owes_an_acknowledgment_is_not_used_again(bench):
    slot, _ = bench.call()
    bench.gre_send(0, IP + up(0))
    bench.inner_read()
    bench.tables.retire(slot)
    while not bench.tables.reusable(slot):       # until the next tick
        pass
    again, _ = bench.call()
    assert again == slot
    bench.gre_send(77, IP + up(77))
    assert bench.inner_read()[1] == up(77)
    assert bench.gre_read()[3] in (0, 77)


def test_peer_hash_spreads_peers_over_the_banks(bench):
    found = [bench.tables.peer_hash(mapped(f"10.0.{i}.{k}")) for i in range(16) for k in range(256)]
    assert len(set(found)) > 3800
    for bits in (1, 2, 3, 4):
        counts = [sum(1 for h in found if h & (1 << bits) - 1 == bank) for bank in range(1 << bits)]
        assert max(counts) < 1.15 * 4096 / (1 << bits)
    with pytest.raises(ValueError):
        bench.tables.peer_hash(b"\x0a\0\0\1")
