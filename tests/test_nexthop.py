"""PPTP's data as frames of our own, on a veth pair in a network namespace; what cannot go that way goes by the raw socket."""
from __future__ import annotations

import re
import socket
import struct
import subprocess
import time

import pytest
from headrace.bench.lab import Namespace
from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, checksum, tcp, udp

pytestmark = pytest.mark.root
THERE, HERE = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
ETHERNET = THERE + HERE + b"\x08\0"
PPP = b"\xff\x03\x00\x21"


class Wire:
    def __init__(self, bench, far, interface):
        self.bench, self.far, self.interface = bench, far, interface
        self.slot, _ = bench.call()

    def allow(self, allowed=True):
        """And let the worker see it, which it does at a tick."""
        self.bench.tables.allow_bypass(allowed)
        self.tick()

    def tick(self):
        self.bench.tables.beat(time.monotonic_ns())
        time.sleep(0.25)

    def hop(self, index=1, interface=None, mtu=1500, header=ETHERNET):
        self.bench.tables.write_nexthop(index, self.interface if interface is None else interface, mtu, header)
        self.bench.tables.set_nexthop(self.slot, index)

    def send(self, number, size=20, **kw):
        packet = udp("10.0.0.1", "10.67.0.2", struct.pack("!I", number) + bytes(size), **kw)
        self.bench.inner_write(packet)
        return packet

    def frame(self):
        """(Ethernet header, IPv4 header, GRE's sequence, PPP frame) of the next one."""
        data = self.far.recv(4000)
        ip, gre = data[14:34], data[34:]
        assert checksum(ip) == 0 and struct.unpack("!H", ip[2:4]) == (len(data) - 14,)
        assert ip[0] == 0x45 and ip[6:10] == b"\0\0\x40\x2f" and ip[12:] == socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.9")
        assert gre[:4] == b"\x30\x01\x88\x0b" and gre[6:8] == b"\x12\x34" and struct.unpack("!H", gre[4:6]) == (len(gre) - 12,)
        return data[:14], ip, struct.unpack("!I", gre[8:12])[0], gre[12:]


@pytest.fixture
def wire(tmp_path):
    with Namespace("hops").entered():
        subprocess.run("""sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link add wa type veth peer name wb
            ip link set lo up; ip link set wa up; ip link set wb up""", shell=True, check=True)
        frames, far = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2))
        far.bind(("wb", 0x0800))
        far.settimeout(5)
        bench = Bench(tmp_path / "tables", frames=frames, merge=0)
        bench.tables.beat(time.monotonic_ns())
        yield Wire(bench, far, socket.if_nametoindex("wa"))
        bench.close()
        frames.close()
        far.close()


def test_data_goes_as_frames(wire):
    wire.hop()
    wire.allow()
    first = wire.send(0, tos=0xB9)
    head, ip, sequence, ppp = wire.frame()
    assert (head, sequence, ppp) == (ETHERNET, 0, PPP + first) and ip[1] == 0x01, "ECN goes outside; DSCP when it is asked for"
    identities = set()
    for n in range(1, 50):
        packet = wire.send(n)
        _, ip, sequence, ppp = wire.frame()
        assert (sequence, ppp) == (n, PPP + packet)
        identities.add(ip[4:6])
    assert len(identities) == 49
    assert wire.bench.wait_verdict("DOWN", 50) == 50 and wire.bench.gre_read(timeout=0) is None


def test_a_super_packet_becomes_frames(wire):
    wire.hop()
    wire.allow()
    data = bytes(range(256)) * 200
    wire.bench.inner_write(tcp("10.0.0.1", "10.67.0.2", data, 1), flags=NEEDS_CSUM, gso=TCPV4, size=1000, start=20, offset=16)
    for i in range(52):
        _, _, sequence, ppp = wire.frame()
        assert (sequence, ppp) == (i, PPP + tcp("10.0.0.1", "10.67.0.2", data[1000 * i:1000 * i + 1000], 1 + 1000 * i, ident=1 + i))
    wire.bench.wait_verdict("DOWN", 52)             # counted at the end of the pass
    record = wire.bench.tables.worker_records()[0]
    assert record["frames"] == 52 and record["sends"] == 1


def by_raw(wire, number, **kw):
    packet = wire.send(number, **kw)
    flags, _, sequence, _, ppp = wire.bench.gre_read()
    assert (flags, sequence, ppp) == (0x3001, number, PPP + packet)


def by_frame(wire, number, **kw):
    packet = wire.send(number, **kw)
    assert wire.frame()[2:] == (number, PPP + packet)


def test_it_goes_by_the_raw_socket_when_it_must(wire):
    by_raw(wire, 0)                                     # no next hop, and not allowed
    wire.hop()
    by_raw(wire, 1)                                     # not allowed
    wire.allow()
    by_frame(wire, 2)
    wire.hop(interface=0)
    by_raw(wire, 3)                                     # there is no neighbour
    wire.hop(2, mtu=600)
    by_frame(wire, 4, size=500)
    by_raw(wire, 5, size=600)                           # the kernel makes fragments of it
    wire.hop(2, header=HERE + THERE + b"\x08\0")
    packet = wire.send(6)
    assert wire.frame()[0][:6] == HERE and packet
    wire.allow(False)
    by_raw(wire, 7)
    wire.allow()
    by_frame(wire, 8)
    wire.bench.tables.beat(time.monotonic_ns() - 3_000_000_000)
    time.sleep(0.25)
    by_raw(wire, 9)                                     # control is away
    wire.tick()
    by_frame(wire, 10)


def test_sessions_of_both_ways_in_one_batch(wire):
    wire.hop()
    wire.allow()
    other, _ = wire.bench.call(9, "10.67.0.9", peer_call=0x99)
    assert other != wire.slot
    for n in range(30):
        for to in ("10.67.0.2", "10.67.0.9"):
            wire.bench.inner_write(udp("10.0.0.1", to, struct.pack("!I", n)))
    assert [wire.frame()[2] for _ in range(30)] == list(range(30))
    assert [wire.bench.gre_read()[1:3] for _ in range(30)] == [(0x99, n) for n in range(30)]


def test_a_session_without_a_next_hop_does_not_go_by_anothers(wire):
    wire.hop()
    wire.allow()
    wire.bench.call(9, "10.67.0.9", peer_call=0x99)
    for n in range(3):
        by_frame(wire, n)
        wire.bench.inner_write(udp("10.0.0.1", "10.67.0.9", b"x"))
        assert wire.bench.gre_read()[1:3] == (0x99, n)


def test_a_device_that_is_down(wire):
    wire.hop()
    wire.allow()
    subprocess.run(["ip", "link", "set", "wa", "down"], check=True)
    wire.send(0)
    wire.bench.wait_verdict("DROP_WIRE")
    subprocess.run(["ip", "link", "set", "wa", "up"], check=True)
    time.sleep(0.1)
    packet = wire.send(1)
    assert wire.frame()[2:] == (1, PPP + packet), "and nothing of before"


def test_an_l2tp_session_is_none_of_it(wire):
    wire.allow()
    slot, _ = wire.bench.session(address="10.67.0.7")
    wire.bench.tables.set_nexthop(slot, 1)
    wire.bench.inner_write(udp("10.0.0.1", "10.67.0.7", b"x"))
    assert wire.bench.peer.recv(100)


def test_bad_next_hops_are_refused(wire):
    tables = wire.bench.tables
    for wrong in ((0, 1, 1500, ETHERNET), (4096, 1, 1500, ETHERNET), (1, 1, 1500, b"short")):
        with pytest.raises(ValueError):
            tables.write_nexthop(*wrong)
    with pytest.raises(ValueError):
        tables.set_nexthop(wire.slot, 4096)


def test_a_link_without_a_carrier_holds_nothing_up(wire):
    """What it does not take is lost: the socket is the other links' too, and nobody wants it an hour later."""
    bench = wire.bench
    subprocess.run("ip link add wc type veth peer name wd; ip link set wc up; ip link set wd up", shell=True, check=True)
    other, _ = bench.call(9, "10.67.0.9", peer_call=0x99)
    bench.tables.write_nexthop(2, socket.if_nametoindex("wc"), 1500, ETHERNET)
    bench.tables.set_nexthop(other, 2)
    wire.hop()
    wire.allow()
    subprocess.run(["ip", "link", "set", "wb", "down"], check=True)
    wire.send(0)
    wire.tick()
    wakes = bench.tables.worker_records()["wakes"][0]
    wire.tick()
    assert bench.tables.worker_records()["wakes"][0] - wakes < 20
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far:
        far.bind(("wd", 0x0800))
        far.settimeout(5)
        bench.inner_write(udp("10.0.0.1", "10.67.0.9", b"x"))
        assert far.recv(2000)[:14] == ETHERNET
    subprocess.run(["ip", "link", "set", "wb", "up"], check=True)
    time.sleep(0.1)
    assert wire.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    packet = wire.send(1)
    assert wire.frame()[2:] == (1, PPP + packet), "and nothing of before"


def test_frames_go_through_the_queueing_discipline(wire):
    """As all else that leaves there does."""
    subprocess.run(["tc", "qdisc", "add", "dev", "wa", "root", "tbf", "rate", "100mbit", "burst", "10000", "limit", "100000"], check=True)
    wire.hop()
    wire.allow()
    for n in range(20):
        by_frame(wire, n)
    shown = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "wa"], check=True, capture_output=True, text=True).stdout
    assert re.search(r"\b(\d+) pkt", shown)[1] == "20", shown


def test_next_hops_on_two_links_in_one_batch(wire):
    subprocess.run("ip link add wc type veth peer name wd; ip link set wc up; ip link set wd up", shell=True, check=True)
    other, _ = wire.bench.call(9, "10.67.0.9", peer_call=0x99)
    wire.bench.tables.write_nexthop(2, socket.if_nametoindex("wc"), 1500, ETHERNET)
    wire.bench.tables.set_nexthop(other, 2)
    wire.hop()
    wire.allow()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far:
        far.bind(("wd", 0x0800))
        far.settimeout(5)
        for n in range(30):
            for to in ("10.67.0.2", "10.67.0.9"):
                wire.bench.inner_write(udp("10.0.0.1", to, struct.pack("!I", n)))
        assert [wire.frame()[2] for _ in range(30)] == list(range(30))
        assert [far.recv(2000)[40:46] for _ in range(30)] == [struct.pack("!HI", 0x99, n) for n in range(30)]
