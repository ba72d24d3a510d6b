"""Control's doors and the workers at the same time: publish, configure, retire, the index of prefixes, the rings.

`make sanitize` runs this file again with the fast path built for ThreadSanitizer, which reports every access that nothing orders.
It knows neither fences nor what Python itself does; tests/test_ring.py explores what hangs on a fence. A session's counters are
left out: they are read while its worker adds to them, since any of their values is a good one.
"""
from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest
from headrace.fastpath.table import ConfigFlag, State
from reference.mppe import Receiver
from rig.forwarder import Bench, mapped, udp

IP = b"\x00\x21"
INSIDE, OUTSIDE = "10.67.0.2", "10.0.0.1"


def template(number):
    """An encapsulation in which every part says the same number."""
    return struct.pack("!HHH", 2, number, number) + b"\xff\x03\x00\x21"


def all_from(sock):
    """What waits in a non-blocking socket."""
    found = []
    while True:
        try:
            found.append(sock.recv(2000))
        except BlockingIOError:
            return found


@pytest.fixture(params=[1, 3])
def bench(request, tmp_path):
    bench = Bench(tmp_path / "tables", workers=request.param, spin_ns=100_000)
    bench.peer.setblocking(False)
    bench.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    yield bench
    bench.close()


def until(bench, check, seconds=10.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, bench.verdicts()


def patiently(bench, door, *args, **kw):
    """On a busy machine a worker may take longer to a batch boundary than a door waits."""
    def done():
        with contextlib.suppress(BlockingIOError):
            door(*args, **kw)
            return True
    until(bench, done)


def test_a_configuration_is_never_torn(bench):
    """The whole of one configuration or of the other is in each packet, and the last one is in force at the end."""
    owner = len(bench.wires) - 1
    slot, _ = bench.session(owner=owner, flags=0)
    packet = udp(OUTSIDE, INSIDE, bytes(32))
    seen, sent = [], 0
    for number in range(1, 600):
        for worker in range(len(bench.wires)):
            bench.inner_write(packet, worker)
            sent += 1
        patiently(bench, bench.tables.configure, slot, template=template(number), mtu=1000 + number, tos=number & 0xFC)
        seen += all_from(bench.peer)
        if number % 10 == 0:            # not further ahead of the workers than that
            until(bench, lambda sent=sent: bench.verdicts().get("DOWN", 0) >= sent - 20)
    until(bench, lambda: bench.verdicts().get("DOWN", 0) >= sent)
    bench.inner_write(packet, owner)
    until(bench, lambda: seen.extend(all_from(bench.peer)) or seen[-1][:10] == template(599))
    numbers = [struct.unpack("!HHH", each[:6])[1:] for each in seen]
    assert all(each[6:] == b"\xff\x03" + IP + packet for each in seen)
    assert all(a == b or (a, b) == (9, 8) for a, b in numbers), numbers
    assert len(set(numbers)) > 10


def test_a_slot_is_retired_and_taken_again_under_traffic(bench):
    """A packet goes to who has its address when it passes, and never to another who came into the slot."""
    workers = len(bench.wires)
    arrived = []
    for number in range(1, 300):
        address = f"10.67.1.{number % 7 + 1}"
        slot, generation = bench.session(1, 1, address, owner=number % workers, peer_tunnel=number, peer_session=number, flags=0)
        for worker in range(workers):
            bench.inner_write(udp(OUTSIDE, address, struct.pack("!I", number)), worker)
            bench.send(IP + udp(address, OUTSIDE, struct.pack("!I", number)))
        if number % 4:                  # the others are retired with their packets on the way
            until(bench, lambda number=number: sum(bench.verdicts().values()) >= 2 * workers * number)
        arrived += all_from(bench.peer)
        if number % 3 == 0:
            patiently(bench, bench.tables.configure, slot, mtu=1300)
        if number % 5 == 0:
            bench.tables.set_state(slot, State.OPENING)
        bench.tables.delete(mapped(address), 128, slot)
        bench.tables.retire(slot)
        mark = bench.tables.epochs()
        until(bench, lambda mark=mark: bench.tables.passed(mark))
    assert generation == 299
    for each in arrived:
        tunnel, session = struct.unpack("!HH", each[2:6])
        assert tunnel == session and tunnel % 7 == struct.unpack("!I", each[-4:])[0] % 7
    assert len(arrived) > 50 and bench.verdicts()["UP"] > 50


def test_keys_change_under_traffic(bench):
    """Each packet is encrypted with the keys of one generation, whole, and each generation begins at a count of 0."""
    owner = len(bench.wires) - 1
    slot, _ = bench.session(owner=owner)
    packet = udp(OUTSIDE, INSIDE, bytes(32))
    seen, sent, last = [], 0, 60

    def keys(number):
        patiently(bench, bench.tables.set_cipher, slot, send_bits=128, receive_bits=128, send_key=struct.pack("!QQ", number, number),
                  receive_key=bytes(16), send_stateless=number % 2 == 0, receive_stateless=True)
        patiently(bench, bench.tables.configure, slot, flags=ConfigFlag.CONFIG_ENCRYPT | ConfigFlag.CONFIG_REQUIRE | ConfigFlag.CONFIG_IP)
    for number in range(last + 1):
        keys(number)
        for _ in range(5):
            bench.inner_write(packet, owner)
            sent += 1
        if number % 3:                  # the others go with packets on their way
            until(bench, lambda sent=sent: bench.verdicts().get("DOWN", 0) >= sent)
        seen += all_from(bench.peer)
    until(bench, lambda: seen.extend(all_from(bench.peer)) or len(seen) == sent)
    number, receiver = -1, None
    for each in seen:
        frame, read = each[10:], None
        while read is None and frame[0] & 0x0F == frame[1] == 0:        # a count of 0: a later generation, some of which no packet met
            number += 1
            assert number <= last
            receiver = Receiver(struct.pack("!QQ", number, number), 128, stateless=number % 2 == 0)
            read = receiver.receive(frame) if frame[0] >> 7 == receiver.stateless else None
            read = read if read == IP + packet else None
        assert read or receiver.receive(frame) == IP + packet
    assert number == last and set(bench.verdicts()) == {"DOWN"}


def test_prefixes_come_and_go_under_traffic(bench):
    """An address that stays is found at any time, whatever happens to its neighbours, and through rebuilds."""
    bench.session(owner=len(bench.wires) - 1, flags=0)
    packet = udp(OUTSIDE, INSIDE, b"stays")
    sent = 0
    for number in range(4000):
        if number % 20 == 0:
            for worker in range(len(bench.wires)):
                bench.inner_write(packet, worker)
                sent += 1
        prefix = mapped(f"10.80.{number // 250 % 250}.{number % 250}")
        patiently(bench, bench.tables.insert, prefix, 128 - number // 1000, 77)
        assert bench.tables.delete(prefix, 128 - number // 1000, 77)
    until(bench, lambda: bench.verdicts().get("DOWN", 0) >= sent)
    assert "DROP_NO_ROUTE" not in bench.verdicts() and len(all_from(bench.peer)) == sent


def test_nothing_is_lost_or_disordered_in_the_rings(tmp_path):
    """Everything for sessions of other workers, both ways: each flow arrives whole and in order."""
    bench = Bench(tmp_path / "tables", workers=3, spin_ns=100_000, merge=1)         # no two datagrams in one write
    bench.peer.setblocking(False)
    bench.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    try:
        for i in range(30):
            bench.session(1, 1 + i, f"10.67.0.{1 + i}", owner=i % 3, peer_session=100 + i)
        up, down, n = [], [], 3000
        for k in range(n):
            i = k % 30
            bench.send(IP + udp(f"10.67.0.{1 + i}", OUTSIDE, struct.pack("!I", k)), session=1 + i)
            bench.inner_write(udp(OUTSIDE, f"10.67.0.{1 + i}", struct.pack("!I", k)), worker=(i + 1) % 3)
            if k % 100 == 99:
                down += all_from(bench.peer)
                while (got := bench.inner_read(0)) is not None:
                    up.append(got[1])
        until(bench, lambda: down.extend(all_from(bench.peer)) or len(down) == n)
        while len(up) < n:
            up.append(bench.inner_read()[1])
        flows: dict[bytes, list[int]] = {}
        for each in up:
            flows.setdefault(each[12:16], []).append(struct.unpack("!I", each[28:32])[0])
        for each in down:
            flows.setdefault(each[4:6], []).append(struct.unpack("!I", each[-4:])[0])
        assert len(flows) == 60 and all(flow == list(range(i, n, 30)) for flow in flows.values() for i in flow[:1])
        assert bench.tables.worker_records()["ring_in"].min() >= n // 3
    finally:
        bench.close()
