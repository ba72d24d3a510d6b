"""The kernel's word on cutting and merging: a TUN with virtio_net_hdr, kernel sockets behind it, a peer in plain Python before it."""
import fcntl
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from headrace.fastpath._probe_ip import coalesced, cut, finished
from pyroute2 import netns
from reference.ip import ACK, PSH, SYN, TCP, UDP, burst, right, tcp, wrap

pytestmark = pytest.mark.root

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 1, 0x1000, 0x4000
CSUM, TSO4, TSO6, USO4, USO6 = 1, 2, 4, 0x20, 0x40
UDP_SEGMENT = 103
VNET = struct.Struct("=BBHHHH")
NEEDS_CSUM, GSO_NONE, GSO_UDP = 1, 0, 5
ADDRESS = {False: ("10.67.0.1", "10.67.0.2"), True: ("fd00:67::1", "fd00:67::2")}
FAMILIES = pytest.mark.parametrize("v6", [False, True])
PAYLOAD = bytes(i * 7919 % 256 for i in range(40000))


class Tun:
    """hr-test in a namespace of its own; it speaks for the second address of ADDRESS."""

    def __init__(self):
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", b"hr-test", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        self.uso = True
        try:
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, CSUM | TSO4 | TSO6 | USO4 | USO6)
        except OSError:
            self.uso = False        # before Linux 6.2
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, CSUM | TSO4 | TSO6)
        for command in ("addr add 10.67.0.1/24 dev hr-test", "addr add fd00:67::1/64 dev hr-test nodad", "link set hr-test up"):
            subprocess.run(["ip", *command.split()], check=True)
        # The route to an IPv6 address comes from a kernel thread, after the command that added it has returned.
        local = socket.inet_pton(socket.AF_INET6, ADDRESS[True][0]).hex() + " 80 "
        deadline = time.monotonic() + 10
        while local not in Path("/proc/thread-self/net/ipv6_route").read_text():
            assert time.monotonic() < deadline
            os.sched_yield()

    def write(self, packets):
        """What `deliver` does; return how many writes it took."""
        writes = coalesced(packets, udp=self.uso)
        for v, pieces in writes:
            head = VNET.pack(*(v[k] for k in ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset")))
            os.writev(self.fd, [head, *pieces])
        return len(writes)

    def read(self, v6, transport):
        """Everything that waits: (packets as `cut` makes them, how many were of super-packets)."""
        packets, of_super = [], 0
        while True:
            try:
                octets = os.read(self.fd, 1 << 17)
            except BlockingIOError:
                return packets, of_super
            flags, kind, _, size, start, offset = VNET.unpack_from(octets)
            octets = octets[VNET.size:]
            if (octets[0] >> 4 == 6) != v6 or octets[6 if v6 else 9] != transport:
                continue
            if kind == GSO_NONE:
                packets.append(finished(octets, start, offset) if flags & NEEDS_CSUM else octets)
            else:
                segments = cut(octets, size)
                packets += segments
                of_super += len(segments)


@pytest.fixture
def tun():
    name = f"hr-tun-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    netns.pushns(name)
    try:
        tun = Tun()
        yield tun
        os.close(tun.fd)
    finally:
        netns.popns()
        subprocess.run(["ip", "netns", "del", name], check=True)


def toward_the_kernel(v6):
    family = socket.AF_INET6 if v6 else socket.AF_INET
    ours, theirs = (socket.inet_pton(family, a) for a in ADDRESS[v6])
    return {"source": theirs, "destination": ours}


def opened(v6, kind):
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, kind)
    sock.settimeout(5)
    sock.bind((ADDRESS[v6][0], 53 if kind == socket.SOCK_DGRAM else 80))
    return sock


@FAMILIES
@pytest.mark.parametrize("size", [24, 1000, 1400])
def test_merged_datagrams_arrive_one_by_one(tun, v6, size):
    with opened(v6, socket.SOCK_DGRAM) as sock:
        payload = PAYLOAD[:size * 20 + 11]
        writes = tun.write(burst(v6, UDP, payload, size, **toward_the_kernel(v6)))
        assert writes == (1 if tun.uso else 21)
        got = [sock.recv(2000) for _ in range(21)]
        assert got == [payload[at:at + size] for at in range(0, len(payload), size)]


def connect(tun, v6, listener):
    """Open a TCP connection as the peer; return the accepted socket, our next sequence number and the kernel's."""
    listener.listen()
    syn = tcp(seq=999, ack=0, flags=SYN, window=65535, options=b"\x02\x04\x05\x78\x03\x03\x07\x00")
    tun.write([wrap(v6, syn, TCP, **toward_the_kernel(v6))])
    (answer,), _ = tun.read(v6, TCP)
    assert right(answer)
    theirs = struct.unpack_from("!I", answer, (40 if v6 else 20) + 4)[0] + 1
    tun.write([wrap(v6, tcp(seq=1000, ack=theirs), TCP, **toward_the_kernel(v6))])
    accepted, _ = listener.accept()
    accepted.settimeout(5)
    return accepted, 1000, theirs


@FAMILIES
def test_a_merged_burst_is_a_tcp_stream(tun, v6):
    with opened(v6, socket.SOCK_STREAM) as listener:
        sock, seq, ack = connect(tun, v6, listener)
        with sock:
            packets = burst(v6, TCP, PAYLOAD, 1360, seq=seq, ack=ack, flags=ACK | PSH, **toward_the_kernel(v6))
            assert tun.write(packets) == 1
            got = b""
            while len(got) < len(PAYLOAD):
                got += sock.recv(1 << 16)
            assert got == PAYLOAD


@FAMILIES
def test_a_super_packet_of_the_kernels_tcp(tun, v6):
    with opened(v6, socket.SOCK_STREAM) as listener:
        sock, _, seq = connect(tun, v6, listener)
        with sock:
            sock.sendall(PAYLOAD[:8 * 1400])
            packets, of_super = tun.read(v6, TCP)
            header = 60 if v6 else 40
            assert all(right(p) for p in packets) and of_super >= 8
            assert b"".join(p[header:] for p in packets) == PAYLOAD[:8 * 1400]
            assert [struct.unpack_from("!I", p, header - 16)[0] for p in packets] == [
                (seq + sum(len(q) - header for q in packets[:k])) % 2**32 for k in range(len(packets))]


@FAMILIES
def test_a_super_packet_of_the_kernels_udp(tun, v6):
    with opened(v6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
        sock.sendto(PAYLOAD[:20500], (ADDRESS[v6][1], 4000))
        packets, of_super = tun.read(v6, UDP)
        header = 48 if v6 else 28
        assert of_super == (21 if tun.uso else 0)
        assert all(right(p) for p in packets)
        assert [p[header:] for p in packets] == [PAYLOAD[at:at + 1000] for at in range(0, 20000, 1000)] + [PAYLOAD[20000:20500]]


@FAMILIES
@pytest.mark.parametrize("n", [0, 1, 1399])
def test_a_single_datagram_of_the_kernel_is_completed(tun, v6, n):
    with opened(v6, socket.SOCK_DGRAM) as sock:
        sock.sendto(PAYLOAD[:n], (ADDRESS[v6][1], 4000))
        (packet,), of_super = tun.read(v6, UDP)
        assert right(packet) and of_super == 0 and packet[48 if v6 else 28:] == PAYLOAD[:n]
