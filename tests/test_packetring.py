"""Packet rings on a veth pair in a network namespace."""
from __future__ import annotations

import select
import socket
import struct
import subprocess

import pytest
from headrace.bench.lab import Namespace
from headrace.fastpath._probe_ring import Rx

pytestmark = pytest.mark.root
KIND = 0x88B5           # for experiments (IEEE 802)
HEAD = bytes.fromhex("ffffffffffff 020000000001") + struct.pack("!H", KIND)


@pytest.fixture
def wire():
    """Sockets on both ends of a veth pair, the one that receives not bound to a protocol yet, and its interface."""
    with Namespace("rings").entered():
        subprocess.run("""sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link add wa type veth peer name wb
            ip link set wa up mtu 1500; ip link set wb up mtu 1500""", shell=True, check=True)
        a, b = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2))
        a.bind(("wa", 0))
        yield a, b, socket.if_nametoindex("wb")
        a.close()
        b.close()


def until(rx, sock, n):
    found = []
    while len(found) < n:
        assert select.select([sock], [], [], 5)[0], f"{len(found)} of {n}"
        found += rx.frames()
    return found


def test_frames_come_in_order(wire):
    """More than there are slots, of all sizes."""
    a, b, into = wire
    rx = Rx(b.fileno())
    b.bind(("wb", KIND))
    sent = [HEAD + struct.pack("!I", i) + bytes(i % 1400) for i in range(5000)]
    got = []
    for i, frame in enumerate(sent):
        a.send(frame)
        if i % 100 == 99:
            got += until(rx, b, 100)
    assert [frame for frame, *_ in got] == sent
    assert {(tpid, tci, interface, outgoing) for _, _, tpid, tci, interface, outgoing in got} == {(0, 0, into, False)}
    assert all(whole == len(frame) for frame, whole, *_ in got)


def test_a_socket_outlives_its_rings(wire):
    a, b, _ = wire
    b.bind(("wb", 0))
    for _ in range(3):
        rx = Rx(b.fileno())
        b.bind(("wb", KIND))
        a.send(HEAD + b"read")
        assert len(until(rx, b, 1)) == 1
        a.send(HEAD + b"never read")
        del rx


def test_tags_and_what_we_sent_ourselves(wire):
    a, b, _ = wire
    rx = Rx(b.fileno())
    b.bind(("wb", 3))                                # ETH_P_ALL
    a.send(HEAD[:12] + struct.pack("!HHHHH", 0x88A8, 7, 0x8100, 0x2009, KIND) + b"two tags")
    a.send(HEAD[:12] + struct.pack("!HHH", 0x8100, 0x2009, KIND) + b"one tag")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as other:
        other.sendto(HEAD + b"ours", ("wb", KIND))
    tagged = HEAD[:12] + struct.pack("!HHH", 0x8100, 0x2009, KIND) + b"two tags"
    assert sorted((frame, tpid, tci, outgoing) for frame, _, tpid, tci, _, outgoing in until(rx, b, 3)) == sorted([
        (tagged, 0x88A8, 7, False), (HEAD + b"one tag", 0x8100, 0x2009, False), (HEAD + b"ours", 0, 0, True)])
