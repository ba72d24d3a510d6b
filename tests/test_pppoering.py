"""PPPoE through a worker by a packet socket's ring, on a veth pair in a network namespace."""
from __future__ import annotations

import socket
import subprocess
import threading

import pytest
from headrace.bench.lab import Namespace
from headrace.control import listener
from peers.lab import until
from rig.forwarder import Bench
from test_pppoedata import HOST, data, up

pytestmark = pytest.mark.root
ETH_P_ALL = 3


class Wire(Bench):
    """A worker whose Ethernet is the interface wa; `say` sends by its other end."""

    def __init__(self, path, sock, far, **kw):
        super().__init__(path, packets=sock, merge=0, **kw)
        self.sock, self.far = sock, far

    def say(self, frame):
        self.far.sendto(frame, ("wb", 0x8864))


@pytest.fixture
def wire(tmp_path):
    namespace = Namespace("pppoering")
    with namespace.entered():
        subprocess.run("""sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link add wa type veth peer name wb
            ip link set wa address 02:00:5e:10:00:ac up mtu 1500; ip link set wb up mtu 1500""", shell=True, check=True)
        with listener.open_ethernet(1, 0)[0] as sock, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as far:
            sock.bind(("wa", ETH_P_ALL))
            wire = Wire(tmp_path / "tables", sock, far)
            yield wire
            wire.close()


def wakes(wire):
    return int(wire.tables.worker_records()["wakes"][0])


def test_frames_come_by_the_ring(wire):
    wire.pppoe(peer=HOST)
    for n in range(3):
        wire.say(data(b"\0\x21" + up(n)))
        assert wire.inner_read()[1] == up(n)


def test_an_interface_that_is_down_keeps_nobody_awake(wire):
    """The kernel says so by an error of the socket, which epoll reports until somebody takes it."""
    wire.pppoe(peer=HOST)
    subprocess.run(["ip", "link", "set", "wa", "down"], check=True)
    before = wakes(wire)
    threading.Event().wait(0.5)
    assert wakes(wire) - before < 20
    subprocess.run(["ip", "link", "set", "wa", "up"], check=True)

    def arrived():
        """What is sent before the other end has its carrier again is lost, and that takes a moment."""
        wire.say(data(b"\0\x21" + up(1)))
        return wire.inner_read(timeout=0.1)
    assert until("frames come again", arrived)[1] == up(1)
