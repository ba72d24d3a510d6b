"""The load generator: a peer with many tunnels, and a PPP client behind each of its calls.

    dial -> Endpoint (control/l2tp.py, pptp.py) -> CallUp -> PPP as client (control/ppp.py) -> LinkUp

As LAC (L2tpLoad), many tunnels share a socket, and a link that is up costs nothing here: lines.pyx answers its echoes. pptpload.py is
the PNS, pppoeload.py PPPoE's hosts.

As a process it says "ready" on standard output, begins when a line comes on standard input, and writes a line of JSON when
all sessions are up or no more come; then one for each further line that comes, with what happened since; the end of input is
its end, with a StopCCN to every tunnel. `python -m headrace.bench.load --peer IP:PORT --sessions 1000 --tunnels 10`.
"""
from __future__ import annotations

import argparse
import gc
import json
import math
import random
import select
import socket
import struct
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

from ..control.address import mapped
from ..control.l2tp import CallDown, CallUp, Endpoint, Path, Settings, TunnelDown
from ..control.link import IPV6, LinkSettings
from ..control.ppp import PPP, LinkDown, LinkUp
from ..control.reason import Reason
from .concentrator import password, user
from .lines import Lines
from .port import address

SOCKETS = 64            # at most
BUFFER = 4 << 20
POINTS = 100            # of a run's timeline
LOOK = 0.5              # seconds between looks at a link that is coming up: is its timer due?
HEAD = struct.Struct("!HHHHH")
PPP_DATA, ALL_STATIONS = 0x0002, 0xFF03
ICMPV6, ADVERTISEMENT = 58, 134         # at octets 6 and 40 of an IPv6 packet
LEAVING = Reason("admin", "shutdown", "the load generator ends")


class Ids:
    """Numbers from 1, so that lines.pyx finds a link by its ids; none is used twice."""

    def __init__(self) -> None:
        self.tunnels = 0
        self.sessions: dict[int, int] = {}

    def take_tunnel(self, peer: bytes) -> int:
        self.tunnels += 1
        return self.tunnels

    def give_tunnel(self, tunnel_id: int) -> None: ...

    def take_session(self, tunnel_id: int, peer: bytes) -> int:
        self.sessions[tunnel_id] = self.sessions.get(tunnel_id, 0) + 1
        return self.sessions[tunnel_id]

    def give_session(self, tunnel_id: int, session_id: int) -> None: ...


class Subscriber:
    """One PPP client. `begun` is when its first packet was due, `took` how long until it had all that it wanted."""

    __slots__ = ("advertised", "begun", "head", "heard", "key", "line", "link", "number", "ppp", "sequence", "took")

    def __init__(self, number: int, key: tuple[int, int], begun: float) -> None:
        self.number, self.key, self.begun = number, key, begun
        self.line = 0
        self.head = (0, 0)              # the peer's ids
        self.ppp: PPP | None = None
        self.link: LinkUp | None = None
        self.advertised = False         # our router has said which prefix is ours
        self.took = 0.0
        self.sequence, self.heard = 0, -1       # of what is sent next, and of what came last, where data is numbered


class Load:
    """So many subscribers in so many tunnels of one concentrator; a subclass brings the wire."""
    endpoint: Any
    sockets: list[socket.socket]

    def __init__(self, peer: tuple[str, int], sessions: int, tunnels: int, method: str, rate: float = 0, window: int = 0,
                 network: IPv4Network | None = None, dual: bool = False) -> None:
        """`rate`: how many begin in a second; `window`: how many may be coming up at once; 0 is no limit. `network`: each
        socket has an address of its own of this network, all of which is local here. `dual`: everybody wants IPv6 too, and is up
        when both families are and a router advertisement has come."""
        self.sessions, self.tunnels, self.method, self.dual = sessions, tunnels, method, dual
        self.rate, self.window = rate or math.inf, window or sessions
        self.random = random.Random()
        self.dialled: list[int] = []                    # tunnel ids, in the order of dialling
        self.subscribers: dict[tuple[int, int], Subscriber] = {}
        self.coming: deque[tuple[float, Subscriber]] = deque()      # when to look at whom, next first
        self.touched: dict[tuple[int, int], Subscriber] = {}
        self.begun = self.up = self.failed = self.lost = 0
        self.first_reason = ""
        self.started = self.finished = 0.0
        self.poller = select.epoll()
        self.readers: dict[int, Callable[[float], None]] = {}
        self.wire(peer, network)
        self.outbox: list[list[bytes]] = [[] for _ in self.sockets]

    # -- what a subclass brings

    def wire(self, peer: tuple[str, int], network: IPv4Network | None) -> None:
        """Make the endpoint and its sockets, which are the lines of what is sent."""
        raise NotImplementedError

    def dial(self, place: int, now: float) -> int:
        """A tunnel's id; `place` counts them."""
        raise NotImplementedError

    def hear(self, now: float) -> None:
        """What happened to calls and tunnels."""
        raise NotImplementedError

    def say(self) -> None:
        """What the endpoint wants sent goes out, or into the outbox."""
        raise NotImplementedError

    def frame(self, s: Subscriber, protocol: int, packet: bytes) -> bytes:
        """A PPP packet with its tunnel's header."""
        raise NotImplementedError

    def send(self, line: int, datagrams: list[bytes]) -> None:
        raise NotImplementedError

    def link_up(self, s: Subscriber, event: LinkUp) -> None: ...

    def link_gone(self, s: Subscriber) -> None: ...

    def watch(self, sock: socket.socket, reader: Callable[[float], None]) -> None:
        """Have it read when something comes."""
        self.readers[sock.fileno()] = reader
        self.poller.register(sock, select.EPOLLIN)

    def unwatch(self, sock: socket.socket) -> None:
        self.poller.unregister(sock)
        del self.readers[sock.fileno()]

    # -- one turn

    def turn(self, until: float) -> bool:
        """Whatever is due now, and what comes in until `until`, once; whether something else became readable."""
        now = time.monotonic()
        self.begin(now)
        self.look(now)
        due = self.endpoint.deadline()
        if due is not None and due <= now:
            self.endpoint.tick(now)
        self.settle(now)
        moments = [until, self.endpoint.deadline() or math.inf]
        if self.coming:
            moments.append(self.coming[0][0])
        if self.begun < self.sessions and self.begun - self.up - self.failed < self.window:
            moments.append(self.started + self.begun / self.rate)
        ready = self.poller.poll(max(min(moments) - time.monotonic(), 0))
        now = time.monotonic()
        asked = False
        for fd, _ in ready:
            if fd in self.readers:
                self.readers[fd](now)
            elif fd == sys.stdin.fileno():
                asked = True
        self.settle(now)
        return asked

    def begin(self, now: float) -> None:
        """Dial whoever is due."""
        due = min(self.sessions, int((now - self.started) * self.rate) + 1 if self.rate < math.inf else self.sessions)
        due = min(due, self.window + self.up + self.failed)
        for number in range(self.begun, due):
            key = self.place(number, now)
            self.subscribers[key] = Subscriber(number, key, max(now, self.started + number / self.rate) if self.rate < math.inf else now)
        self.begun = max(self.begun, due)

    def place(self, number: int, now: float) -> tuple[int, int]:
        """Place a subscriber's call; the ids by which its machine knows it."""
        place = number % self.tunnels
        if place == len(self.dialled):
            self.dialled.append(self.dial(place, now))
        return self.dialled[place], self.endpoint.place_call(self.dialled[place], now)

    def hang_up(self, s: Subscriber, reason: Reason, now: float) -> None:
        self.endpoint.hang_up(*s.key, reason, now)

    def look(self, now: float) -> None:
        """Let time pass for links that are coming up."""
        while self.coming and self.coming[0][0] <= now:
            _, s = self.coming.popleft()
            if s.took or s.ppp is None:
                continue
            due = s.ppp.deadline()
            if due is not None and due <= now:
                s.ppp.tick(now)
                self.touched[s.key] = s
            self.coming.append((now + LOOK, s))

    def answer(self, s: Subscriber, now: float) -> None:
        """A call is up: its link begins."""
        settings = LinkSettings(authentication=(self.method,), name="load", user=user(s.number), password=password(s.number),
                                ipv6=self.dual)
        s.ppp = PPP("client", settings, self.random)
        s.ppp.open(now)
        self.touched[s.key] = s
        self.coming.append((now + LOOK, s))

    def receive(self, s: Subscriber, protocol: int, information: bytes, now: float) -> None:
        """A PPP packet that came for a subscriber."""
        if s.ppp is None:
            return
        if protocol == IPV6:
            s.advertised |= len(information) > 40 and (information[6], information[40]) == (ICMPV6, ADVERTISEMENT)
            self.complete(s, now)
        else:
            s.ppp.receive(protocol, information, now)
            self.touched[s.key] = s

    def complete(self, s: Subscriber, now: float) -> None:
        """Is it up?"""
        if s.took or s.link is None or (self.dual and not (s.link.ip and s.link.ipv6 and s.advertised)):
            return
        self.link_up(s, s.link)
        s.took = now - s.begun
        self.up += 1
        self.finished = now

    def end(self, key: tuple[int, int], reason: Reason) -> None:
        """A session is gone, or never came."""
        s = self.subscribers.pop(key, None)
        if s is None:
            return
        self.first_reason = self.first_reason or reason.text
        if s.took:
            self.link_gone(s)
            self.lost += 1
        else:
            self.failed += 1
        s.ppp = None

    def settle(self, now: float) -> None:
        """Events, then what is to be sent: a call's ICCN before what its link says."""
        self.hear(now)
        self.say()
        while self.touched:
            touched, self.touched = self.touched, {}
            for s in touched.values():
                self.drain(s, now)
        for line, datagrams in enumerate(self.outbox):
            if datagrams:
                self.send(line, datagrams)
                datagrams.clear()

    def drain(self, s: Subscriber, now: float) -> None:
        assert s.ppp is not None
        events = s.ppp.events()
        box = self.outbox[s.line]
        for protocol, packet in s.ppp.outgoing():
            box.append(self.frame(s, protocol, packet))
        for event in events:
            if isinstance(event, LinkUp):
                s.link = event
                if s.took:              # it negotiated anew
                    self.link_up(s, event)
                self.complete(s, now)
            elif isinstance(event, LinkDown):
                self.end(s.key, event.reason)
                self.hang_up(s, event.reason, now)

    # -- a run

    def run(self, patience: float) -> dict[str, Any]:
        """Everybody dials; the end is when all are up or have failed, or nobody came up for so long."""
        self.started = last = time.monotonic()
        seen = 0
        while self.up + self.failed < self.sessions:
            self.turn(time.monotonic() + 0.1)
            if self.up > seen:
                seen, last = self.up, time.monotonic()
            elif time.monotonic() - last > patience:
                break
        there = [s for s in self.subscribers.values() if s.took]
        took = sorted(s.took for s in there)
        seconds = max(self.finished - self.started, 1e-9)
        return {"up": self.up, "failed": self.sessions - self.up, "seconds": seconds, "per_second": self.up / seconds,
                "p50": at(took, 0.50), "p99": at(took, 0.99), "longest": at(took, 1.0), "reason": self.first_reason,
                "timeline": timeline(sorted(s.begun + s.took - self.started for s in there)), **self.counts()}

    def counts(self) -> dict[str, Any]:
        return {"lost": self.lost, "cpu": time.process_time()}

    def serve(self) -> None:
        """Answer until the end of standard input, and say what happened for each line that comes there."""
        self.sessions = self.begun
        self.poller.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            if self.turn(time.monotonic() + 60):
                if not sys.stdin.readline():
                    break
                print(json.dumps(self.counts()), flush=True)
        self.poller.unregister(sys.stdin.fileno())

    def close(self) -> None:
        """StopCCN to all, as far as they are heard within a second."""
        now = time.monotonic()
        self.endpoint.close_all(LEAVING, now)
        until = now + 1
        while not self.endpoint.settled and time.monotonic() < until:
            self.turn(until)
        for s in self.sockets:
            s.close()


class L2tpLoad(Load):
    """Subscribers of an LNS."""

    def wire(self, peer: tuple[str, int], network: IPv4Network | None) -> None:
        self.sockets = [open_socket(peer, str(network[n + 1]) if network else "") for n in range(min(self.tunnels, SOCKETS))]
        each = -(-self.sessions // self.tunnels)
        self.lines = Lines(array("i", [s.fileno() for s in self.sockets]), self.tunnels, each)
        here = [s.getsockname()[:2] for s in self.sockets]
        there = mapped(socket.inet_pton(self.sockets[0].family, peer[0]))
        self.paths = [Path(line, mapped(socket.inet_pton(self.sockets[0].family, host)), port, there, peer[1])
                      for line, (host, port) in enumerate(here)]
        # A peer that keeps quiet is no news to a generator: it is the concentrator that asks whether anybody lives.
        settings = Settings(host_name="load", vendor_name="headrace", hello=math.inf, setup=math.inf, receive_window=64)
        self.endpoint = Endpoint(settings, Ids(), self.random.randbytes)
        for line, sock in enumerate(self.sockets):
            self.watch(sock, lambda now, line=line: self.read(line, now))       # type: ignore[misc]

    def dial(self, place: int, now: float) -> int:
        return self.endpoint.dial(self.paths[place % len(self.paths)], now)

    def read(self, line: int, now: float) -> None:
        more = True
        while more:
            control, data, more = self.lines.receive(line)
            path = self.paths[line]
            for message in control:
                self.endpoint.receive(path, message, now)
            if control:
                self.hear(now)
            for tunnel, session, protocol, information in data:
                s = self.subscribers.get((tunnel, session))
                if s is not None:
                    self.receive(s, protocol, information, now)
            self.settle(now)

    def hear(self, now: float) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallUp):
                s = self.subscribers[event.tunnel_id, event.session_id]
                s.line, s.head = event.path.port, (event.peer_tunnel_id, event.peer_session_id)
                self.answer(s, now)
            elif isinstance(event, CallDown):
                self.end((event.tunnel_id, event.session_id), event.reason)
            elif isinstance(event, TunnelDown):
                self.first_reason = self.first_reason or event.reason.text

    def say(self) -> None:
        for path, datagram in self.endpoint.outgoing():
            self.outbox[path.port].append(datagram)

    def frame(self, s: Subscriber, protocol: int, packet: bytes) -> bytes:
        return HEAD.pack(PPP_DATA, *s.head, ALL_STATIONS, protocol) + packet

    def send(self, line: int, datagrams: list[bytes]) -> None:
        self.lines.send(line, datagrams)

    def link_up(self, s: Subscriber, event: LinkUp) -> None:
        self.lines.up(*s.key, *s.head, event.our_magic)

    def link_gone(self, s: Subscriber) -> None:
        self.lines.down(*s.key)

    def counts(self) -> dict[str, Any]:
        return {**super().counts(), "echoes": self.lines.echoes, "strange": self.lines.strange}


def at(ordered: list[float], share: float) -> float | None:
    """The value below which so many of them lie."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None


def timeline(ordered: list[float]) -> list[tuple[float, int]]:
    """How many are up after how many seconds: POINTS at most, from nobody to all."""
    step = max(-(-len(ordered) // POINTS), 1)
    return [(0.0, 0)] + [(round(ordered[n - 1], 4), n) for n in [*range(step, len(ordered), step), len(ordered)] if n]


def open_socket(peer: tuple[str, int], local: str = "") -> socket.socket:
    s = socket.socket(socket.AF_INET6 if ":" in peer[0] else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):      # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            s.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except PermissionError:
            s.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
    if local:
        s.bind((local, 0))
    s.connect(peer)
    return s


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", required=True, help="IP:PORT of the concentrator, of PPPoE the interface on its wire")
    p.add_argument("--protocol", choices=("l2tp", "pptp", "pppoe"), default="l2tp")
    p.add_argument("--sessions", type=int, default=1000)
    p.add_argument("--tunnels", type=int, default=10)
    p.add_argument("--auth", choices=("mschap2", "mschap1", "chap", "pap"), default="mschap2")
    p.add_argument("--family", choices=("ip", "dual"), default="ip", help="IPv4 alone, or IPv6 as well")
    p.add_argument("--rate", type=float, default=0, help="sessions that begin in a second; 0: as many as --window allows")
    p.add_argument("--window", type=int, default=0, help="sessions that may be coming up at once; 0: all")
    p.add_argument("--from", dest="network", type=IPv4Network, help="a network that is local here: an address of it for each socket")
    p.add_argument("--patience", type=float, default=30, help="seconds without a new session after which the rest has failed")
    a = p.parse_args()
    kind: type[Load] = L2tpLoad
    if a.protocol == "pptp":
        from .pptpload import PptpLoad
        kind = PptpLoad
    elif a.protocol == "pppoe":
        from .pppoeload import PppoeLoad
        kind = PppoeLoad
    load = kind((a.peer, 0) if a.protocol == "pppoe" else address(a.peer), a.sessions, a.tunnels, a.auth, a.rate, a.window, a.network,
                a.family == "dual")
    print("ready", flush=True)
    asked = sys.stdin.readline()
    if not asked:
        return
    gc.disable()                    # what is made stays until the end
    print(json.dumps(load.run(a.patience)), flush=True)
    load.serve()
    load.close()


if __name__ == "__main__":
    main()
