"""Generator and sink against plain Python: what is on the wire, and what is counted."""
from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time

import pytest
from headrace.bench import port
from headrace.bench.ends import Ends
from headrace.bench.generator import Generator
from headrace.bench.sink import Sink
from hypothesis import given, settings
from hypothesis import strategies as st

STAMP = struct.Struct("=QqII")
MARK = 0x68656164
SESSIONS = [(7, 101, "10.67.0.2"), (7, 102, "10.67.0.3"), (8, 103, "10.67.0.4")]


def pair() -> tuple[socket.socket, socket.socket]:
    """A sender's and a receiver's UDP socket on loopback; the kernel cuts what is for a receiver without GRO."""
    out, into = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    into.bind(("127.0.0.1", 0))
    into.settimeout(5)
    return out, into


def words(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def inner(packet: bytes, size: int) -> tuple[str, str, int, tuple[int, int, int, int]]:
    """Source, destination, source port and stamp of a packet whose lengths and checksums are right."""
    assert len(packet) == size and packet[0] == 0x45
    assert struct.unpack_from("!H", packet, 2)[0] == size and packet[9] == 17
    assert words(packet[:20]) == 0xFFFF
    assert struct.unpack_from("!H", packet, 24)[0] == size - 20 and packet[26:28] != b"\0\0"
    assert words(packet[12:20] + struct.pack("!HH", 17, size - 20) + packet[20:]) == 0xFFFF
    return (socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), struct.unpack_from("!H", packet, 20)[0],
            STAMP.unpack_from(packet, 28))


@pytest.mark.parametrize("framing, length", [("null", False), ("l2tp", False), ("l2tp", True)])
@pytest.mark.parametrize("size", [52, 64, 65, 1400])
def test_every_packet_is_framed_numbered_and_whole(framing: str, length: bool, size: int) -> None:
    flows, count = 4, 240
    out, into = pair()
    with out, into:
        g = Generator(out.fileno(), framing, SESSIONS, "10.67.0.1", peer=into.getsockname(), flows=flows, size=size,
                      coalescible=False, length=length)
        assert g.run(packets=count) == count == g.sent
        nexts: dict[int, int] = {}
        streams = []
        for _ in range(count):
            data = into.recv(65535)
            if framing == "null":
                header, session = 16, struct.unpack_from("!H", data, 6)[0]
                assert data[:2] == b"\x40\x02" and struct.unpack_from("!H", data, 2)[0] == len(data)
                tunnel = None
            else:
                header = 12 if length else 10
                flags, *told = struct.unpack_from("!HH" if length else "!H", data)
                assert flags == (0x4002 if length else 0x0002) and told == ([len(data)] if length else [])
                tunnel, session = struct.unpack_from("!HH", data, header - 8)
            assert data[header - 4:header] == b"\xff\x03\x00\x21"
            source, destination, port, (sequence, stamped, stream, mark) = inner(data[header:], size)
            assert mark == MARK and destination == "10.67.0.1" and 0 < stamped <= time.monotonic_ns()
            assert (session, source) == SESSIONS[stream // flows][1:]
            assert tunnel in (None, SESSIONS[stream // flows][0])
            assert port == 10000 + stream % flows
            assert sequence == nexts.get(stream, 0)
            nexts[stream] = sequence + 1
            streams.append(stream)
        assert nexts == {stream: count // (len(SESSIONS) * flows) for stream in range(len(SESSIONS) * flows)}
        assert all(a != b for a, b in itertools.pairwise(streams)), "neighbours coalesce"


def test_coalescible_packets_come_in_runs() -> None:
    out, into = pair()
    with out, into:
        Generator(out.fileno(), "null", SESSIONS, "10.67.0.1", peer=into.getsockname(), flows=2, burst=10).run(packets=60)
        streams = [inner(into.recv(65535)[16:], 64)[3][2] for _ in range(60)]
    assert streams == [stream for stream in range(6) for _ in range(10)]


def test_a_rate_is_kept() -> None:
    out, into = pair()
    with out, into:
        g = Generator(out.fileno(), "null", SESSIONS[:1], "10.67.0.1", peer=into.getsockname(), rate=2000, burst=1)
        start = time.monotonic()
        g.run(packets=200)
        assert time.monotonic() - start >= 0.099


@pytest.mark.parametrize("wrong", [{"size": 51}, {"size": []}, {"size": [64, 20]}, {"size": [64] * 65}, {"flows": 0}, {"framing": "ipip"},
                                   {"sessions": []}, {"framing": "gre"}, {"framing": "gre", "ends": Ends(2)}, {"link": bytes(20)}])
def test_what_cannot_be_generated_is_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"framing": "null", "sessions": SESSIONS, **wrong}
    with pytest.raises(ValueError):
        Generator(0, given.pop("framing"), given.pop("sessions"), "10.67.0.1", **given)  # type: ignore[arg-type]


LINK = port.gre_link(b"\2\1\1\1\1\1", b"\2\2\2\2\2\2", "192.0.2.1", "192.0.2.2")
KEY, OTHER = bytes(range(16)), bytes(range(100, 116))


def ends_of(send: bytes = b"", receive: bytes = b"") -> Ends:
    """Of all SESSIONS."""
    ends = Ends(len(SESSIONS))
    for n, (_, session, _) in enumerate(SESSIONS):
        ends.name(n, session)
        if send:
            ends.seal(n, send, receive, 128)
    return ends


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("sizes", [[64], [1400], [64, 570, 64, 1400]])
def test_frames_of_gre_are_whole_numbered_on_and_read_by_the_sink(sizes: list[int], sealed: bool) -> None:
    """RFC 2637 section 4.1, in two runs: numbers and keys go on. Loss, reordering and a copy are seen of encrypted packets too."""
    count = 240
    ends, theirs = (ends_of(KEY, OTHER), ends_of(OTHER, KEY)) if sealed else (ends_of(), ends_of())
    numbers: dict[int, int] = {}
    for again in range(2):
        with contextlib.ExitStack() as stack:
            out, into = map(stack.enter_context, pair())
            g = Generator(out.fileno(), "gre", SESSIONS, "10.67.0.1", peer=into.getsockname(), size=sizes, coalescible=False, link=LINK,
                          ends=ends)
            begun = time.monotonic_ns()
            assert g.run(packets=count) == count
            frames = [into.recv(65535) for _ in range(count)]
        for n, frame in enumerate(frames):
            size, behind = sizes[n % len(sizes)], 4 if sealed else 0
            assert frame[:14] == LINK[:14] and frame[26:34] == LINK[26:] and words(frame[14:34]) == 0xFFFF
            assert struct.unpack_from("!H", frame, 16)[0] == len(frame) - 14 == 36 + behind + size
            flags, kind, length, call, sequence = struct.unpack_from("!HHHHL", frame, 34)
            assert (flags, kind, length) == (0x3001, 0x880B, 4 + behind + size)
            assert sequence == numbers.get(call, 0)
            numbers[call] = sequence + 1
            assert frame[46:50] == (b"\xff\x03\0\xfd" if sealed else b"\xff\x03\0\x21")
            if sealed:
                assert struct.unpack_from("!H", frame, 50)[0] == 0x9000 | sequence & 0xFFF       # RFC 3078 section 3.1
                assert frame[52:54] != b"\0\x21" or not again, "it is not encrypted"
            else:
                assert inner(frame[50:], size)[1] == "10.67.0.1"
        frames = [frame[14:] for frame in frames]
        del frames[30]
        frames.insert(100, frames[99])
        if not sealed:                  # a stale packet of a cipher cannot be read any more
            frames[150], frames[151 + len(SESSIONS) - 1] = frames[151 + len(SESSIONS) - 1], frames[150]
        sink = counted("gre", len(SESSIONS), frames, theirs, begun)
        found = sink.counters
        header = 40 if sealed else 36
        assert found["received"] == count - 1 and found["missing"] == 1
        assert found["bytes"] == sum(len(frame) - header for frame in frames) - len(frames[100]) + header
        assert (found["duplicates"], found["other"]) == ((0, 1) if sealed else (1, 0))
        assert found["reordered"] == (0 if sealed else 1)


def test_frames_of_pppoe_are_whole_and_read_by_the_sink() -> None:
    """RFC 2516 section 4: a session's frames are from its own station."""
    link = bytes.fromhex("020000000001 02005e200000 8864")
    with contextlib.ExitStack() as stack:
        out, into = map(stack.enter_context, pair())
        begun = time.monotonic_ns()
        Generator(out.fileno(), "pppoe", SESSIONS, "10.67.0.1", peer=into.getsockname(), size=[64, 1400], link=link).run(packets=60)
        frames = [into.recv(65535) for _ in range(60)]
    for n, frame in enumerate(frames):
        number, size = n % 3, 64 if n % 2 == 0 else 1400
        assert frame[:14] == link[:10] + number.to_bytes(2, "big") + link[12:]
        assert frame[14:22] == struct.pack("!HHHH", 0x1100, SESSIONS[number][1], size + 2, 0x21)
        assert inner(frame[22:], size)[0] == SESSIONS[number][2]
    strangers = [b"", frames[0][:30], frames[0][:12] + b"\x88\x63" + frames[0][14:], frames[0][:15] + b"\1" + frames[0][16:],
                 frames[0][:20] + b"\xc0\x21" + frames[0][22:]]
    sink = counted("pppoe", len(SESSIONS), [frame + bytes(8) for frame in frames] + strangers[1:], since=begun)
    assert sink.counters == {"received": 60, "bytes": 30 * 1464, "missing": 0, "reordered": 0, "duplicates": 0, "stale": 0, "other": 4}


@pytest.mark.parametrize("header, taken", [
    ("3001 880b 0044 0065 00000000 ff03 0021", True), ("3081 880b 0044 0065 00000000 00000009 ff03 0021", True),
    ("3001 880b 0041 0065 00000000 21", True), ("3001 880b 0045 0065 00000000 ff03 0021", False),
    ("2081 880b 0000 0065 00000009", False), ("3002 880b 0044 0065 00000000 ff03 0021", False),
    ("3001 0800 0044 0065 00000000 ff03 0021", False), ("3001 880b 0044 0065 00000000 ff03 c021", False),
    ("3001 880b", False), ("", False)])
def test_every_form_of_a_gre_header(header: str, taken: bool) -> None:
    packet = b"\x45" + bytes(27) + stamp(0)
    sink = counted("gre", 1, [LINK[14:] + bytes.fromhex(header) + (packet if len(header) > 10 else b"")])
    assert (sink.received, sink.counters["other"]) == ((1, 0) if taken else (0, 1))


def counted(framing: str, streams: int, datagrams: list[bytes], ends: Ends | None = None, since: int = 0) -> Sink:
    out, into = pair()
    with out, into:
        for data in datagrams:
            out.sendto(data, into.getsockname())
        sink = Sink(into.fileno(), framing, streams, since, ends)
        thread = threading.Thread(target=sink.run)
        thread.start()
        sink.stop()                 # what has arrived is still counted
        thread.join()
    return sink


def stamp(sequence: int, stream: int = 0, ago: int = 0, mark: int = MARK) -> bytes:
    return STAMP.pack(sequence, time.monotonic_ns() - ago, stream, mark) + bytes(12)


def test_loss_reordering_and_duplication_are_told_apart() -> None:
    sequences = [0, 1, 2, 5, 4, 4, 6, 6, 9, 200, 8, 0]      # missing 3, 7 and 10..199
    sink = counted("bare", 1, [stamp(n) for n in sequences])
    assert sink.counters == {"received": 9, "bytes": 9 * 64, "missing": 2 + 190, "reordered": 2, "duplicates": 3, "stale": 0, "other": 0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 40), st.integers(1000, 1100), st.integers(0, 5000)), max_size=80))
def test_the_sink_counts_as_a_set_does_within_its_window(sequences: list[int]) -> None:
    """The counters against a model that remembers everything."""
    seen: set[int] = set()
    duplicates = reordered = stale = 0
    highest = -1
    for n in sequences:
        if n <= highest - 1024:
            stale += 1
        elif n in seen:
            duplicates += 1
        else:
            reordered += n < highest
            seen.add(n)
            highest = max(highest, n)
    sink = counted("bare", 1, [stamp(n) for n in sequences])
    assert sink.counters == {"received": len(seen), "bytes": len(seen) * 64, "missing": highest + 1 - len(seen), "reordered": reordered,
                             "duplicates": duplicates, "stale": stale, "other": 0}


def test_packets_of_an_earlier_run_are_not_counted() -> None:
    begun = time.monotonic_ns()
    out, into = pair()
    with out, into:
        for data in (stamp(0, ago=1_000_000), stamp(0), stamp(1)):
            out.sendto(data, into.getsockname())
        sink = Sink(into.fileno(), "bare", 1, begun)
        sink.stop()
        sink.run()
    assert sink.received == 2 and sink.counters["other"] == 1


@pytest.mark.parametrize("framing", ["null", "l2tp"])
@pytest.mark.parametrize("coalescible", [True, False])
def test_a_mix_of_sizes_comes_in_its_order_and_whole(framing: str, coalescible: bool) -> None:
    sizes, header = [64, 570, 64, 64, 1400], 16 if framing == "null" else 10
    out, into = pair()
    with out, into:
        g = Generator(out.fileno(), framing, SESSIONS, "10.67.0.1", peer=into.getsockname(), size=sizes, coalescible=coalescible)
        assert g.run(packets=100) == 100
        for n in range(100):
            data = into.recv(65535)[header:]
            inner(data, sizes[n % 5])
            assert not any(data[28 + STAMP.size:])


def test_streams_are_counted_apart_and_strangers_are_not_counted() -> None:
    sink = counted("bare", 2, [stamp(0), stamp(0, 1), stamp(1, 1), stamp(0, 2), stamp(0, mark=1), b"short", stamp(2, 1)])
    assert sink.counters == {"received": 4, "bytes": 4 * 64, "missing": 0, "reordered": 0, "duplicates": 0, "stale": 0, "other": 3}


def test_latency() -> None:
    sink = counted("bare", 1, [stamp(n, ago=1_000_000_000 if n < 90 else 60_000_000_000) for n in range(100)])
    assert 0.87e9 <= sink.percentile(0.5) <= 3e9
    assert 52e9 <= sink.percentile(0.99) <= 63e9


@pytest.mark.parametrize("framing, length", [("null", False), ("l2tp", False), ("l2tp", True)])
def test_the_sink_reads_what_the_generator_frames(framing: str, length: bool) -> None:
    out, into = pair()
    with out, into:
        sink = Sink(into.fileno(), framing, len(SESSIONS))
        Generator(out.fileno(), framing, SESSIONS, "10.67.0.1", peer=into.getsockname(), length=length).run(packets=300)
        thread = threading.Thread(target=sink.run)
        thread.start()
        sink.stop()
        thread.join()
        assert sink.counters == {"received": 300, "bytes": 300 * 64, "missing": 0, "reordered": 0, "duplicates": 0, "stale": 0, "other": 0}


@pytest.mark.parametrize("header, taken", [
    ("0002 0001 0002 ff03 0021", True), ("0002 0001 0002 21", True), ("0002 0001 0002 0021", True), ("0002 0001 0002 ff03 21", True),
    ("0802 0001 0002 0000 0000 ff03 0021", True), ("0202 0001 0002 0003 000000 ff03 0021", True),
    ("4002 004c 0001 0002 ff03 0021", True), ("4002 004d 0001 0002 ff03 0021", False),
    ("0002 0001 0002 ff03 c021", False), ("c802 0040 0001 0002 0000 0000", False),
    ("0003 0001 0002 ff03 0021", False), ("0202 0001 0002 ffff 0021", False), ("0002 0001", False), ("4002", False), ("02", False)])
def test_every_form_of_an_l2tp_data_header(header: str, taken: bool) -> None:
    """RFC 2661 section 3.1, and PPP with or without address, control and the protocol's first octet (RFC 1661)."""
    packet = b"\x45" + bytes(27) + stamp(0)     # 64 octets; its checksums are not the sink's matter
    whole = bytes.fromhex(header) + (packet if len(header) > 10 else b"")
    sink = counted("l2tp", 1, [whole])
    assert (sink.received, sink.counters["other"]) == ((1, 0) if taken else (0, 1))
