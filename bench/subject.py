"""What is measured: a forwarder on its core, and the far end that its traffic needs.

A subject is started once in a lab. Then either `dial` gives it a peer with a TUN, for TCP by iperf3, or
`attach` gives the peer's outer socket with sessions that are up, for generator and sink.
"""
from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

from .ends import Ends
from .lab import FORWARDER, HOST, OTHERS, PEER, Lab, LabError, Namespace
from .port import open_udp

MTU = 1400
INSIDE = "10.67.0.1"            # the host's inner address; sessions have others of the same /16
# A TUN read makes one UDP_SEGMENT send: 45 segments of MTU, each with up to 16 octets of header, stay below 65000.
GSO_MAX_SIZE = 62000


class Session(NamedTuple):
    """What the forwarder expects from this session, and where it sends what is for it."""
    tunnel: int
    session: int
    address: str


class Far(NamedTuple):
    """The peer's end, bare: what generator and sink need."""
    wire: socket.socket
    host: tuple[str, int]       # where the forwarder listens
    framing: str
    sessions: list[Session]
    interface: str              # the forwarder's TUN
    whole: bool = True          # which takes super-packets
    inside: str = ""            # the peer's own TUN, where the framing is bare: `wire` is a socket behind it then
    out: socket.socket | None = None    # where frames leave by a packet socket: that, and the link header in front of each
    link: bytes = b""
    ends: Ends | None = None    # of the sessions, in their order, where packets are numbered


class Packets(NamedTuple):
    """Inner packets that the forwarder moved."""
    up: int
    down: int


def session_address(number: int) -> str:
    """Of the session with this number, from 0."""
    if not 0 <= number < 65000:
        raise LabError("a bench has at most 65000 sessions")
    return "10.67.%d.%d" % divmod(number + 2, 256)


class Subject:
    """The interface."""
    many = True                 # it has more than one session, where that is asked for
    mtu = MTU                   # of its inner interfaces

    def __init__(self, lab: Lab, workers: int = 1) -> None:
        self.lab, self.workers = lab, workers

    @classmethod
    def check(cls) -> None:
        """LabError when something is not installed that it needs."""

    def start(self) -> None:
        """The forwarder runs on its core in lab.host."""
        raise NotImplementedError

    def dial(self) -> str:
        """A peer with a TUN runs on the other core in lab.peer; its inner address. The host's is INSIDE."""
        raise NotImplementedError

    def attach(self, sessions: int) -> Far:
        """So many sessions are up, and nobody reads the peer's outer socket."""
        raise NotImplementedError

    def attend(self) -> None:
        """Between two runs: what the protocol needs so that sessions stay."""

    def roles(self) -> dict[str, list[int]]:
        """Processes by what they are for: "forwarder" is on the forwarder's core and what is measured; "control" and "peer"
        where there are such."""
        raise NotImplementedError

    def own(self) -> dict[str, list[int]]:
        """Threads of this process, in the same way."""
        return {}

    def packets(self) -> Packets:
        raise NotImplementedError

    def stop(self) -> None:
        """Say goodbye and close the far end's socket; the lab ends what is left. Whatever came before, or did not."""


class Null(Subject):
    """The null tunnel, of one worker, and another one as its peer."""
    PORT = 5000
    _wire: socket.socket | None = None
    _peer: subprocess.Popen[str] | None = None

    def _options(self, there: Namespace) -> list[str]:
        """Of a null tunnel whose other end is there (null.py)."""
        return []

    def start(self) -> None:
        self._forwarder = tunnel(self.lab.host, "nt0", HOST, PEER, self.PORT, FORWARDER, *self._options(self.lab.peer))
        self.lab.host.configure("nt0", f"{INSIDE}/16", self.mtu, GSO_MAX_SIZE)

    def dial(self) -> str:
        self._peer = tunnel(self.lab.peer, "nt1", PEER, HOST, self.PORT, OTHERS, *self._options(self.lab.host))
        self.lab.peer.configure("nt1", f"{session_address(0)}/16", self.mtu, GSO_MAX_SIZE)
        return session_address(0)

    def attach(self, sessions: int) -> Far:
        with self.lab.peer.entered():
            wire = self._wire = open_udp((PEER, self.PORT))
        return Far(wire, (HOST, self.PORT), "null", [Session(1, n + 1, session_address(n)) for n in range(sessions)], "nt0")

    def stop(self) -> None:
        if self._wire:
            self._wire.close()

    def roles(self) -> dict[str, list[int]]:
        return {"forwarder": [self._forwarder.pid], "peer": [self._peer.pid] if self._peer else []}

    def packets(self) -> Packets:
        assert self._forwarder.stdout
        self._forwarder.send_signal(signal.SIGUSR1)
        count = json.loads(self._forwarder.stdout.readline())
        return Packets(count["up"], count["down"])


def tunnel(side: Namespace, name: str, local: str, peer: str, port: int, cpu: int, *options: str) -> subprocess.Popen[str]:
    """A null tunnel that is ready. Where sessions are scheduled as groups, a forwarder must have one of its own as headrace's has:
    else it is woken later when others use its core, moves more at a time, and looks cheaper."""
    process = side.spawn([sys.executable, "-m", "headrace.bench.null", "--tun", name, "--local", f"{local}:{port}",
                          "--peer", f"{peer}:{port}", "--cpu", str(cpu), *options], cpu, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         start_new_session=cpu == FORWARDER)
    assert process.stderr
    line = process.stderr.readline()
    if line != "ready\n":
        raise LabError(f"the null tunnel did not start: {(line + process.stderr.read()).strip().splitlines()[-1:]}")
    return process
