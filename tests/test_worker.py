"""The worker end to end, without root: loopback UDP is the wire, a SEQPACKET pair the inner port."""
import contextlib
import socket
import struct
import threading
import time

import pytest
from headrace.fastpath.packet import Verdict
from headrace.fastpath.table import State
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, checksum, ipv4, mapped, tcp, udp


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables")
    yield b
    b.close()


IP = b"\x00\x21"


def test_user_data_goes_up(bench):
    bench.session()
    packet = udp("10.67.0.2", "10.0.0.1", b"hello")
    bench.send(IP + packet)
    assert bench.inner_read() == ((0,) * 6, packet)
    bench.wait_verdict("UP")
    assert bench.tables.counters(bench.tables.slot(1, 1))[:2] == (1, len(packet))


@pytest.mark.parametrize("head", [
    struct.pack("!HHH", 2, 1, 1) + b"\xff\x03\x00",                 # as sent by Linux
    struct.pack("!HHH", 2, 1, 1) + b"\x00",                         # ACFC
    struct.pack("!HHH", 2, 1, 1),                                   # ACFC and PFC
    struct.pack("!HHH", 2, 1, 1) + b"\xff\x03",                     # PFC
    struct.pack("!HHHH", 0x4002, 62, 1, 1) + b"\xff\x03\x00",       # L
    struct.pack("!HHHHH", 0x0802, 1, 1, 0, 0) + b"\xff\x03\x00",    # S
    struct.pack("!HHHH", 0x0202, 1, 1, 0) + b"\xff\x03\x00",        # O, no pad
    struct.pack("!HHHH", 0x0202, 1, 1, 3) + b"pad\xff\x03\x00",     # O
    struct.pack("!HHHHHHH", 0x4B02, 71, 1, 1, 5, 6, 1) + b"p\xff\x03\x00",       # L, S, O, P
])
def test_every_header_is_understood(bench, head):
    bench.session()
    packet = udp("10.67.0.2", "10.0.0.1", bytes(16))
    if head[0] & 0x40:
        head = head[:2] + struct.pack("!H", len(head) + 1 + len(packet)) + head[4:]
    bench.send(b"\x21" + packet, head=head)
    assert bench.inner_read()[1] == packet


@pytest.mark.parametrize("datagram, verdict", [
    (b"\x00", "DROP_SHORT"), (b"\x00\x02\x00\x01\x00", "DROP_SHORT"), (struct.pack("!HHH", 3, 1, 1), "DROP_VERSION"),
    (struct.pack("!HHHH", 0x4002, 100, 1, 1), "DROP_LENGTH"), (struct.pack("!HHHH", 0x4002, 7, 1, 1), "DROP_LENGTH"),
    (struct.pack("!HHHH", 0x0202, 1, 1, 5), "DROP_OFFSET"), (struct.pack("!HHHH", 0x0202, 1, 1, 65535), "DROP_OFFSET"),
    (struct.pack("!HHH", 2, 1, 2) + b"\xff\x03\x00\x21", "DROP_NO_SESSION"), (struct.pack("!HHH", 2, 1, 0), "DROP_NO_SESSION"),
    (struct.pack("!HHH", 2, 3, 1) + b"\xff\x03\x00\x21", "DROP_PEER"),
    (struct.pack("!HHH", 2, 1, 1), "DROP_SHORT"), (struct.pack("!HHH", 2, 1, 1) + b"\xff\x03", "DROP_SHORT"),
    (struct.pack("!HHH", 2, 1, 1) + b"\xff\x03\x00\x21", "DROP_IP"),
    (struct.pack("!HHH", 2, 1, 1) + b"\xff\x03\x00\x21" + udp("10.67.0.2", "10.0.0.1", b"x")[:27], "DROP_IP"),
    (struct.pack("!HHH", 2, 1, 1) + b"\xff\x03\x00\x21" + udp("10.67.0.3", "10.0.0.1", b"x"), "DROP_SPOOF"),
])
def test_bad_input_has_a_verdict_and_disturbs_nothing(bench, datagram, verdict):
    bench.session()
    bench.peer.sendto(datagram, bench.address)
    bench.wait_verdict(verdict)
    packet = udp("10.67.0.2", "10.0.0.1", b"after")
    bench.send(IP + packet)
    assert bench.inner_read()[1] == packet


def test_another_peer_cannot_use_the_session(bench):
    bench.session()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"x"), sock=other)
        bench.wait_verdict("DROP_PEER")


def test_user_data_waits_for_open(bench):
    slot, _ = bench.session(state=State.OPENING)
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"early"))
    bench.wait_verdict("DROP_NOT_OPEN")
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"early"))
    bench.wait_verdict("DROP_NOT_OPEN", 2)
    bench.tables.set_state(slot, State.OPEN)
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"now"))
    assert bench.inner_read()[1].endswith(b"now")
    bench.tables.retire(slot)
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"late"))
    bench.wait_verdict("DROP_NO_SESSION")


def test_user_data_goes_down_with_the_template(bench):
    bench.session(flags=8)
    packet = udp("10.0.0.1", "10.67.0.2", b"down", tos=0xB8)
    bench.inner_write(packet)
    assert bench.peer.recv(2000) == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03" + IP + packet
    bench.wait_verdict("DOWN")
    assert bench.tables.counters(bench.tables.slot(1, 1))[2:4] == (1, len(packet))


@pytest.mark.parametrize("flags, setting, inner, outer", [(8, 0, 0xB9, 0xB9), (0, 0x28, 0xB9, 0x29), (0, 0, 0xB8, 0)])
def test_dscp_is_inherited_or_set_and_ecn_always_inherited(bench, flags, setting, inner, outer):
    bench.session(flags=flags, tos=setting)
    bench.peer.setsockopt(socket.IPPROTO_IP, 13, 1)      # IP_RECVTOS
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"x", tos=inner))
    _, ancillary, _, _ = bench.peer.recvmsg(2000, 100)
    assert ancillary[0][2][0] == outer


def test_no_route(bench):
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"x"))
    bench.wait_verdict("DROP_NO_ROUTE")


def test_an_unfinished_checksum_is_completed(bench):
    bench.session()
    whole = udp("10.0.0.1", "10.67.0.2", b"payload")
    pseudo = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.67.0.2") + struct.pack("!BBH", 0, 17, 15)
    partial = whole[:26] + struct.pack("!H", ~checksum(pseudo) & 0xFFFF) + whole[28:]
    bench.inner_write(partial, flags=NEEDS_CSUM, start=20, offset=6)
    assert bench.peer.recv(2000)[10:] == whole


@pytest.mark.parametrize("gso", [True, False])
def test_a_super_packet_is_cut(tmp_path, gso):
    bench = Bench(tmp_path / "t", gso=gso)
    try:
        bench.session()
        data = bytes(range(256)) * 40
        whole = tcp("10.0.0.1", "10.67.0.2", data, 1000, flags=0x18)
        bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
        got = [bench.peer.recv(2000)[10:] for _ in range(11)]
        for i, p in enumerate(got):
            part = data[1000 * i:1000 * (i + 1)]
            assert p == tcp("10.0.0.1", "10.67.0.2", part, 1000 + 1000 * i, flags=0x18 if i == 10 else 0x10, ident=1 + i)
        assert bench.wait_verdict("DOWN", 11) == 11
        assert bool(bench.tables.worker_records()["gso_sends"][0]) is gso
    finally:
        bench.close()


def test_segments_of_a_flow_arrive_as_one(bench):
    bench.session()
    pieces = [tcp("10.67.0.2", "10.0.0.1", bytes([i]) * 500, 500 * i, ident=i) for i in range(20)]
    segment = b"".join(struct.pack("!HHH", 2, 1, 1) + b"\xff\x03" + IP + p for p in pieces)
    bench.peer.sendmsg([segment], [(17, 103, struct.pack("H", len(pieces[0]) + 10))], 0, bench.address)      # UDP_SEGMENT
    (flags, kind, header, size, start, offset), packet = bench.inner_read()
    assert (flags, kind, size, start, offset, header) == (NEEDS_CSUM, TCPV4, 500, 20, 16, 40)
    assert packet[40:] == b"".join(bytes([i]) * 500 for i in range(20))
    assert bench.wait_verdict("UP", 20) == 20


def test_a_flipped_bit_stays_where_the_kernel_sees_it(bench):
    """Of a merged run the kernel is told that checksums are in order: one that is not goes by itself, for the kernel to drop."""
    bench.session()
    pieces = [tcp("10.67.0.2", "10.0.0.1", bytes([i]) * 500, 500 * i, ident=i) for i in range(20)]
    bad = pieces[7] = pieces[7][:300] + bytes([pieces[7][300] ^ 4]) + pieces[7][301:]
    segment = b"".join(struct.pack("!HHH", 2, 1, 1) + b"\xff\x03" + IP + p for p in pieces)
    bench.peer.sendmsg([segment], [(17, 103, struct.pack("H", len(bad) + 10))], 0, bench.address)       # UDP_SEGMENT
    got = []
    while sum(len(packet) - 40 for _, packet in got) < 20 * 500:
        got.append(bench.inner_read())
    assert [packet for (flags, kind, *_), packet in got if (flags, kind) == (0, 0) and packet == bad] == [bad]
    merged = [packet[40:] for (flags, *_), packet in got if packet != bad]
    assert b"".join(merged) == b"".join(bytes([i]) * 500 for i in range(20) if i != 7)


def test_a_packet_too_large_is_answered(bench):
    bench.session(mtu=1000)
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", bytes(1200)))
    _, answer = bench.inner_read()
    assert answer[9] == 1 and answer[20:22] == b"\x03\x04" and struct.unpack("!H", answer[26:28]) == (1000,)
    assert answer[12:16] == socket.inet_aton("10.67.0.1") and answer[16:20] == socket.inet_aton("10.0.0.1")
    bench.wait_verdict("TOO_BIG")


def test_without_df_it_is_fragmented(bench):
    bench.session(mtu=1000)
    packet = udp("10.0.0.1", "10.67.0.2", bytes(range(200)) * 7, df=False, ident=77)
    bench.inner_write(packet)
    parts = [bench.peer.recv(2000)[10:] for _ in range(2)]
    assert all(len(p) <= 1000 and checksum(p[:20]) == 0 for p in parts)
    assert b"".join(p[20:] for p in sorted(parts, key=lambda p: p[6:8][1] | (p[6] & 0x1F) << 8)) == packet[20:]
    bench.wait_verdict("FRAGMENTED")


def test_mss_is_clamped_both_ways(bench):
    bench.session(mtu=1000)
    option = b"\x02\x04\x05\xb4"
    bench.send(IP + tcp("10.67.0.2", "10.0.0.1", b"", 1, flags=2, options=option))
    up = bench.inner_read()[1]
    bench.inner_write(tcp("10.0.0.1", "10.67.0.2", b"", 1, flags=0x12, options=option))
    down = bench.peer.recv(2000)[10:]
    assert up == tcp("10.67.0.2", "10.0.0.1", b"", 1, flags=2, options=b"\x02\x04\x03\xc0")
    assert down == tcp("10.0.0.1", "10.67.0.2", b"", 1, flags=0x12, options=b"\x02\x04\x03\xc0")


def test_echo_is_answered_by_the_worker(bench):
    bench.session()
    bench.send(b"\xc0\x21" + struct.pack("!BBHI", 9, 7, 12, 0x22222222) + b"data")
    answer = struct.pack("!BBHI", 10, 7, 12, 0x11111111) + b"data"
    assert bench.peer.recv(2000) == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03\xc0\x21" + answer
    bench.wait_verdict("ECHO")


def test_other_ppp_is_punted_and_answered(bench):
    slot, generation = bench.session(state=State.OPENING)
    bench.send(b"\xc0\x21" + b"\x01\x01\x00\x04")
    assert bench.frames() == [(2, 0, slot, generation, 0xC021, None, b"\x01\x01\x00\x04")]
    assert bench.channels[0].send([(2, slot, generation, 0xC021, None, b"\x02\x01\x00\x04")]) == 1
    assert bench.peer.recv(100) == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03\xc0\x21\x02\x01\x00\x04"
    bench.channels[0].send([(2, slot, generation + 1, 0xC021, None, b"stale")])
    bench.wait_verdict("DROP_NO_SESSION")


def test_control_messages_are_punted_with_their_path(bench):
    message = struct.pack("!HHHHHH", 0xC802, 12, 0, 0, 0, 0)
    bench.tables.beat(1 << 62)
    bench.peer.sendto(message, bench.address)
    (frame,) = bench.frames()
    host, port = bench.peer.getsockname()
    assert frame == (1, 0, 0, 0, 0, (0, mapped("127.0.0.1"), bench.address[1], mapped(host), port), message)
    bench.channels[0].send([(1, 0, 0, 0, frame[5], b"answer")])
    assert bench.peer.recv(100) == b"answer"


def test_control_hears_of_no_unknown_tunnel_and_of_few_new_ones(bench):
    bench.tables.beat(1 << 62)
    bench.peer.sendto(struct.pack("!HHHHHH", 0xC802, 12, 77, 0, 0, 0), bench.address)
    bench.wait_verdict("DROP_NO_TUNNEL")
    greeting = struct.pack("!HHHHHH", 0xC802, 12, 0, 0, 0, 0)
    sent = heard = 0
    pause = threading.Event()
    while "DROP_RATE" not in bench.verdicts() and sent < 100_000:
        for _ in range(1000):
            bench.peer.sendto(greeting, bench.address)
        sent += 1000
        for _ in range(2500):       # its socket does not take them all when the worker has no core
            if sum(bench.verdicts().get(name, 0) for name in ("PUNT", "DROP_RATE", "DROP_PUNT")) >= sent:
                break
            pause.wait(0.002)
    bench.wait_verdict("DROP_RATE")
    while frames := bench.frames(timeout=0.2):
        assert all(f[6] == greeting for f in frames)
        heard += len(frames)
    assert 500 <= heard < sent and heard + bench.verdicts()["DROP_RATE"] + bench.verdicts().get("DROP_PUNT", 0) == sent


def test_a_deleted_interface_is_not_polled_for_ever(tmp_path):
    """epoll reports the dead descriptor at once and always; the loop must come to rest, and say so."""
    bench = Bench(tmp_path / "t")
    try:
        bench.inner[0].close()
        bench.sockets.remove(bench.inner[0])
        records = bench.tables.worker_records()
        deadline = time.monotonic() + 5
        while not bench.forwarder.lost_inner_port():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        wakes = int(records["wakes"][0])
        time.sleep(0.3)
        assert int(records["wakes"][0]) - wakes < 20
    finally:
        bench.close()


def test_sequenced_data(bench):
    bench.session(sequenced=True)
    for ns in (0, 1, 3, 2, 3, 1, 4):
        head = struct.pack("!HHHHH", 0x0802, 1, 1, ns, 0) + b"\xff\x03"
        bench.send(IP + udp("10.67.0.2", "10.0.0.1", bytes([ns]), sport=100 + ns), head=head)
    assert [bench.inner_read()[1][-1] for _ in range(5)] == [0, 1, 2, 3, 4]
    bench.wait_verdict("DROP_SEQUENCE", 2)
    for i in range(3):
        bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"x"))
        assert struct.unpack("!HHHHH", bench.peer.recv(100)[:10]) == (0x0802, 9, 8, i, 0)


def test_ecn_marks_outside_reach_the_inside(bench):
    bench.session()
    bench.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"x", tos=2))
    assert bench.inner_read()[1] == udp("10.67.0.2", "10.0.0.1", b"x", tos=3)
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"x", tos=0))
    bench.wait_verdict("DROP_ECN")


def test_keepalive_asks_five_times_and_tells_control(bench):
    slot, generation = bench.session(keepalive=1)
    bench.channels[0].send([(4, slot, generation, 0, None, b"")])
    for i in range(5):
        echo = bench.peer.recv(100)
        assert echo[8:12] == b"\xc0\x21\x09" + bytes([i + 1])
    frames = bench.frames()
    assert frames[0][:4] == (3, 0, slot, generation)


def test_a_hello_is_acknowledged_while_control_is_away(bench):
    host, port = bench.peer.getsockname()
    bench.tables.write_tunnel(5, 2, 77, 3, 10, 3, (0, mapped("127.0.0.1"), bench.address[1], mapped(host), port))
    hello = lambda ns: struct.pack("!HHHHHHHHHH", 0xC802, 20, 5, 0, ns, 3, 0x8008, 0, 0, 6)
    for ns, acked in ((10, 11), (11, 12), (11, 12)):
        bench.peer.sendto(hello(ns), bench.address)
        assert bench.peer.recv(100) == struct.pack("!HHHHHH", 0xC802, 12, 77, 0, 3, acked)
    assert bench.tables.read_tunnel(5)[3] == 12
    bench.peer.sendto(hello(14), bench.address)
    assert bench.frames()[0][6] == hello(14)


def test_a_heartbeat_younger_than_the_pass_is_not_stale(bench):
    """Control beats between the worker's look at the clock and the HELLO: it is control's to acknowledge."""
    host, port = bench.peer.getsockname()
    bench.tables.write_tunnel(5, 2, 77, 3, 10, 3, (0, mapped("127.0.0.1"), bench.address[1], mapped(host), port))
    bench.tables.beat(time.monotonic_ns() + 10 ** 9)
    hello = struct.pack("!HHHHHHHHHH", 0xC802, 20, 5, 0, 10, 3, 0x8008, 0, 0, 6)
    bench.peer.sendto(hello, bench.address)
    assert bench.frames()[0][6] == hello and "HELLO" not in bench.verdicts()


def test_a_halt_does_not_take_the_peers_seconds_to_answer(bench):
    """The thread stands still for longer than the echoes take: they still leave a second apart."""
    slot, generation = bench.session(keepalive=1)
    bench.session(1, 2, "10.67.0.3")
    inner = bench.sockets[2]
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    inner.setblocking(True)                       # what is not read holds the worker up
    bench.channels[0].send([(4, slot, generation, 0, None, b"")])
    assert bench.peer.recv(100)[10:12] == b"\x09\x01"
    for i in range(20):
        bench.send(IP + udp("10.67.0.3", "10.0.0.1", bytes(1000), sport=i), session=2)
    time.sleep(4.5)
    while bench.inner_read(0.1):
        pass
    bench.peer.settimeout(0.2)
    echoes = []
    with contextlib.suppress(TimeoutError):
        while True:
            echoes.append(bench.peer.recv(100)[10:12])
    assert echoes in ([b"\x09\x02"], [b"\x09\x02", b"\x09\x03"])


def test_only_known_tunnels_get_through_a_crowded_channel(bench):
    """Whoever invents tunnel ids cannot take the room of those that exist."""
    bench.tables.beat(1 << 62)
    host, port = bench.peer.getsockname()
    bench.tables.write_tunnel(5, 2, 77, 3, 10, 3, (0, mapped("127.0.0.1"), bench.address[1], mapped(host), port))
    message = lambda tunnel, n: struct.pack("!HHHHHHI", 0xC802, 16, tunnel, 0, n & 0xFFFF, 0, n)
    sent = 0
    while bench.verdicts().get("DROP_PUNT", 0) < 1000 and sent < 40000:
        for _ in range(100):
            bench.peer.sendto(message(6, sent), bench.address)
            sent += 1
        time.sleep(0.001)
    for i in range(10):
        bench.peer.sendto(message(5, i), bench.address)
    time.sleep(0.2)
    got = []
    while frames := bench.frames(timeout=0.1):
        got += [f[6] for f in frames]
    assert got[-10:] == [message(5, i) for i in range(10)]


def test_a_restarted_forwarder_goes_on_with_the_sessions(tmp_path):
    bench = Bench(tmp_path / "t")
    bench.session(keepalive=5)
    peer, address = bench.peer, bench.address
    bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"one"))
    assert bench.inner_read()[1].endswith(b"one")
    bench.sockets.remove(peer)
    bench.close()
    again = Bench(tmp_path / "t", reuse=address)
    try:
        again.send(IP + udp("10.67.0.2", "10.0.0.1", b"two"), sock=peer)
        assert again.inner_read()[1].endswith(b"two")
        assert again.tables.counters(again.tables.slot(1, 1))[0] == 2
        peer.settimeout(5)
        assert peer.recv(100)[8:11] == b"\xc0\x21\x09"       # its keepalive runs again
    finally:
        again.close()
        peer.close()


def test_verdicts_are_few_enough_for_the_record():
    assert Verdict.VERDICTS <= 64 and checksum(ipv4("1.2.3.4", "5.6.7.8", b"")) == 0
