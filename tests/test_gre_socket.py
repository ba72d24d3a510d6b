"""The raw sockets of GRE, in a network namespace of their own."""
from __future__ import annotations

import socket
import struct
import subprocess

import pytest
from headrace.bench.lab import Namespace
from headrace.control import listener

pytestmark = pytest.mark.root
DATA = struct.pack("!HHHHI", 0x3001, 0x880B, 6, 7, 0) + b"\xff\x03\0\x21ab"


@pytest.fixture
def wire():
    """(our sockets, another raw socket of GRE) on a loopback of Ethernet's MTU."""
    namespace = Namespace("gre")
    with namespace.entered():
        subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1500"], check=True)
        ours = listener.open_gre("0.0.0.0", 3)
        other = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
    yield ours, other
    for sock in (*ours, other):
        sock.close()


def received(sock):
    try:
        return sock.recv(1 << 16)[20:]
    except BlockingIOError:
        return None


def test_one_socket_receives_and_only_pptp(wire):
    ours, other = wire
    others = [struct.pack("!HHI", 0x2000, 0x0800, 5) + b"other tunnel", struct.pack("!HHHH", 0x2001, 0x0800, 0, 7), b"\x30", b"",
              struct.pack("!HHHH", 0x3002, 0x880B, 0, 7)]
    for packet in (*others, DATA):
        other.sendto(packet, ("127.0.0.1", 0))
    assert received(ours[0]) == DATA and received(ours[0]) is None
    assert [received(sock) for sock in ours[1:]] == [None, None]
    assert sorted(other.recv(2000)[20:] for _ in range(6)) == sorted([*others, DATA]), "who else speaks GRE here has lost nothing"


def test_fragments_are_put_together(wire):
    ours, other = wire
    payload = bytes(range(256)) * 30
    packet = struct.pack("!HHHHI", 0x3001, 0x880B, len(payload), 7, 1) + payload
    other.sendto(packet, ("127.0.0.1", 0))
    assert received(ours[0]) == packet


def test_each_sends_from_the_address_that_is_asked_for(wire):
    ours, other = wire
    for number, sock in enumerate(ours):
        source = f"127.0.0.{number + 10}"
        sock.sendmsg([DATA], [(socket.IPPROTO_IP, 8, struct.pack("i4s4s", 0, socket.inet_aton(source), bytes(4)))], 0, ("127.0.0.1", 0))
        assert other.recvfrom(2000)[1][0] == source


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_queue_is_not_nobody(workers):
    """A kernel that takes it for that says so to the peer, who hangs up."""
    namespace = Namespace("gre")
    with namespace.entered():
        subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1500"], check=True)
        ours = listener.open_gre("127.0.0.1", workers)
        peer = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_GRE)
        peer.bind(("127.0.0.2", 0))
        heard = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    ours[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    frame = struct.pack("!HHHHI", 0x3001, 0x880B, 1000, 7, 0) + bytes(1000)
    for _ in range(300):
        peer.sendto(frame, ("127.0.0.1", 0))
    with pytest.raises(BlockingIOError):
        heard.recv(100)
    got = 0
    while received(ours[0]):
        got += 1
    assert 0 < got < 300
    for sock in (*ours, peer, heard):
        sock.close()
