"""Packet rings on a veth pair in a network namespace."""
from __future__ import annotations

import select
import socket
import struct
import subprocess

import pytest
from headrace.bench.lab import Namespace
from headrace.fastpath._probe_ring import LONGEST_FRAME, SLOTS, Rx, Tx

pytestmark = pytest.mark.root
KIND = 0x88B5           # for experiments (IEEE 802)
HEAD = bytes.fromhex("ffffffffffff 020000000001") + struct.pack("!H", KIND)


@pytest.fixture
def wire():
    """(a namespace, sockets on both ends of its veth pair, not bound to a protocol yet, and their interfaces)"""
    namespace = Namespace("rings")
    with namespace.entered():
        subprocess.run("""sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link add wa type veth peer name wb
            ip link set wa up mtu 1500; ip link set wb up mtu 1500""", shell=True, check=True)
        a, b = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2))
        interfaces = [socket.if_nametoindex(name) for name in ("wa", "wb")]
        yield namespace, a, b, interfaces
        a.close()
        b.close()


def until(rx, sock, n):
    found = []
    while len(found) < n:
        assert select.select([sock], [], [], 5)[0], f"{len(found)} of {n}"
        found += rx.frames()
    return found


def test_frames_go_out_and_come_in_in_order(wire):
    _, a, b, (out, into) = wire
    tx, rx = Tx(a.fileno()), Rx(b.fileno())
    b.bind(("wb", KIND))
    sent = [HEAD + struct.pack("!I", i) + bytes(i % 1400) for i in range(5000)]
    got = []
    for i, frame in enumerate(sent):
        while not tx.put(frame):
            assert tx.send(out, KIND) >= 0
        if i % 100 == 99:
            assert tx.send(out, KIND) == 0
            got += until(rx, b, 100)
    assert [frame for frame, *_ in got] == sent
    assert {(tpid, tci, interface, outgoing) for _, _, tpid, tci, interface, outgoing in got} == {(0, 0, into, False)}
    assert all(whole == len(frame) for frame, whole, *_ in got)


def test_more_than_there_are_slots(wire):
    _, a, _, (out, _) = wire
    tx = Tx(a.fileno())
    put = 0
    while tx.put(HEAD + bytes(60)):
        put += 1
    assert put == SLOTS
    assert tx.send(out, KIND) == 0 and tx.put(HEAD + bytes(60))


def test_a_socket_outlives_its_rings(wire):
    _, a, b, (out, _) = wire
    b.bind(("wb", 0))
    for _ in range(3):
        tx, rx = Tx(a.fileno()), Rx(b.fileno())
        b.bind(("wb", KIND))
        assert tx.put(HEAD + b"left behind") and tx.send(out, KIND) == 0 and len(until(rx, b, 1)) == 1
        assert tx.put(HEAD + b"never sent")
        del tx, rx


def test_tags_and_what_we_sent_ourselves(wire):
    _, a, b, (out, _) = wire
    tx, rx = Tx(a.fileno()), Rx(b.fileno())
    b.bind(("wb", 3))                                # ETH_P_ALL
    assert tx.put(HEAD[:12] + struct.pack("!HHHHH", 0x88A8, 7, 0x8100, 0x2009, KIND) + b"two tags")
    assert tx.put(HEAD[:12] + struct.pack("!HHH", 0x8100, 0x2009, KIND) + b"one tag")
    assert tx.send(out, KIND) == 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as other:
        other.sendto(HEAD + b"ours", ("wb", KIND))
    tagged = HEAD[:12] + struct.pack("!HHH", 0x8100, 0x2009, KIND) + b"two tags"
    assert sorted((frame, tpid, tci, outgoing) for frame, _, tpid, tci, _, outgoing in until(rx, b, 3)) == sorted([
        (tagged, 0x88A8, 7, False), (HEAD + b"one tag", 0x8100, 0x2009, False), (HEAD + b"ours", 0, 0, True)])


def test_what_cannot_be_sent(wire):
    _, a, b, (out, _) = wire
    tx, rx = Tx(a.fileno()), Rx(b.fileno())
    b.bind(("wb", KIND))
    assert tx.put(HEAD + bytes(LONGEST_FRAME - 14)) and tx.put(HEAD + b"short"), "longer than the device takes: lost"
    tx.send(out, KIND)
    assert [frame for frame, *_ in until(rx, b, 1)] == [HEAD + b"short"]
    assert tx.put(HEAD + b"lost") and tx.send(9999, KIND) == -1
    subprocess.run(["ip", "link", "set", "wa", "down"], check=True)
    assert tx.put(HEAD + b"lost") and tx.send(out, KIND) == -1
    subprocess.run(["ip", "link", "set", "wa", "up"], check=True)
    for n in range(3 * SLOTS):
        assert tx.put(HEAD + struct.pack("!I", n)) and tx.send(out, KIND) == 0
        assert [frame for frame, *_ in until(rx, b, 1)] == [HEAD + struct.pack("!I", n)]


def test_a_buffer_that_fills_up_on_the_way(wire):
    """The kernel takes what there is room for and says that all is well; the rest goes when there is room again, and not by way of
    whatever is sent next."""
    _, a, b, _ = wire
    subprocess.run("""ip link add link wa name slow type macvlan mode vepa; ip link set slow up
        tc qdisc add dev wa root tbf rate 20mbit burst 3000 limit 1000000""", shell=True, check=True)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10000)
    tx, rx = Tx(a.fileno()), Rx(b.fileno())
    b.bind(("wb", KIND))
    sent = [HEAD + struct.pack("!I", i) + bytes(1000) for i in range(100)]
    for frame in sent:
        assert tx.put(frame)
    slow, lefts, got = socket.if_nametoindex("slow"), [100], []
    while lefts[-1]:
        lefts.append(tx.send(slow, KIND))
        got += until(rx, b, lefts[-2] - lefts[-1])
    assert [frame for frame, *_ in got] == sent and 0 < lefts[1] < 100 and lefts == sorted(lefts, reverse=True)
