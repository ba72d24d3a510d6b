"""The concentrator's core on real tables, without root or sockets: frames go in and out as a worker would hand them over, and at the
other end of the wire are our own LAC and PPP clients. Time is a number; the wire loses and delays what `fates` says."""
from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from heapq import heappop
from pathlib import Path as File
from random import Random
from typing import Any

from headrace.control.address import mapped
from headrace.control.bundle import Bundle
from headrace.control.concentrator import Concentrator
from headrace.control.l2tp import CallDown, CallOpening, CallUp, Endpoint, Path, Settings, TunnelDown
from headrace.control.link import IPV6, LinkDown, LinkJoined, LinkSettings, LinkUp
from headrace.control.mppe import IN_CLEAR, Policy
from headrace.control.ppp import PPP
from headrace.control.reason import Reason
from headrace.control.settings import Config
from headrace.fastpath import bundle as fastpath_bundle
from headrace.fastpath import table
from headrace.fastpath.packet import Kind
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import State
from l2tp_peer import Ids

from rig.network import Network

LNS = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
METHODS = ("mschap2", "mschap1", "chap", "pap")
DELAY = 0.005
BYE = Reason("admin", "bye", "the test hangs up")


def configuration(**changes: Any) -> Config:
    """Users joe and ann with a pool of their own; `changes` go into the tables of that name."""
    raw: dict[str, Any] = {
        "pools": {"clients": ["10.67.0.0/24"]},
        "profiles": {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients"}},
        "secrets": {"joe": {"password": "1"}, "ann": {"password": "2"}},
        "server": {"l2tp": {"enabled": True, "authentication": list(METHODS)}}}
    for name, value in changes.items():
        if name in ("l2tp", "pptp"):
            raw["server"][name] = raw["server"].get(name, {}) | value
        else:
            raw[name] = raw.get(name, {}) | value
    return Config.model_validate(raw)


class Subscriber:
    """One call of a LAC with a PPP client on it."""

    def __init__(self, lac: Lac, user: str, password: str, method: str, encryption: Policy, ip: bool, ipv6: bool,
                 bundle: Bundle | None, multilink: dict[str, Any]) -> None:
        self.lac, self.session_id = lac, 0
        self.bundle = bundle                        # that it shall join, then the one in which it is
        self.settings = LinkSettings(user=user, password=password, authentication=(method,) if method else METHODS, encryption=encryption,
                                     ip=ip, ipv6=ipv6, **multilink)
        self.heard: list[bytes] = []                # IPv6 packets of its router
        self.ppp: PPP | None = None
        self.far: tuple[int, int] | None = None     # the concentrator's ids
        self.link: LinkUp | None = None
        self.down: Reason | None = None             # why its link ended
        self.call_down: Reason | None = None        # why its call did
        self.silent = False

    def renegotiate(self, user: str = "", password: str = "") -> None:
        """Begin with LCP again, perhaps as somebody else: a new client on the same call."""
        if user:
            self.settings = replace(self.settings, user=user, password=password)
        self.ppp = PPP("client", self.settings, self.lac.rig.random, self.bundle)
        self.ppp.open(self.lac.rig.now)

    def close(self) -> None:
        assert self.ppp
        self.ppp.close(BYE, self.lac.rig.now)

    def hang_up(self) -> None:
        self.lac.endpoint.hang_up(self.lac.tunnel_id, self.session_id, BYE, self.lac.rig.now)


class Lac:
    """An L2TP peer with one tunnel."""

    def __init__(self, rig: Rig, number: int, port: int = 1701, secret: str = "") -> None:
        self.rig = rig
        self.path = Path(0, mapped(bytes((10, 0, 1, number))), port, LNS, 1701)
        self.endpoint = Endpoint(Settings(secret=secret), Ids(), rig.random.randbytes)
        self.calls: dict[int, Subscriber] = {}
        self.silent = False
        self.down: Reason | None = None
        self.tunnel_id = self.endpoint.dial(self.path, rig.now)

    def call(self, user: str = "joe", password: str = "1", method: str = "", encryption: Policy = IN_CLEAR, ip: bool = True,
             ipv6: bool = False, bundle: Bundle | None = None, multilink: dict[str, Any] | None = None, **details: Any) -> Subscriber:
        subscriber = Subscriber(self, user, password, method, encryption, ip, ipv6, bundle, multilink or {})
        subscriber.session_id = self.endpoint.place_call(self.tunnel_id, self.rig.now, **details)
        self.calls[subscriber.session_id] = subscriber
        return subscriber

    def close(self) -> None:
        self.endpoint.close(self.tunnel_id, BYE, self.rig.now)

    def drain(self) -> None:
        now = self.rig.now
        for event in self.endpoint.events():
            if isinstance(event, TunnelDown):
                self.down = event.reason
            subscriber = self.calls.get(getattr(event, "session_id", 0))
            if subscriber is None:
                continue
            if isinstance(event, CallOpening):
                subscriber.far = event.peer_tunnel_id, event.peer_session_id
            elif isinstance(event, CallUp):
                subscriber.ppp = PPP("client", subscriber.settings, self.rig.random, subscriber.bundle)
                subscriber.ppp.open(now)
            elif isinstance(event, CallDown):
                subscriber.call_down = event.reason
                if subscriber.ppp:
                    subscriber.ppp.lower_down(event.reason, now)
        for path, datagram in self.endpoint.outgoing():
            if not self.silent:
                self.rig.wire(("up", path, datagram))
        for subscriber in self.calls.values():
            if subscriber.ppp is None:
                continue
            for event in subscriber.ppp.events():
                if isinstance(event, LinkUp):
                    subscriber.link = event
                elif isinstance(event, LinkDown):
                    subscriber.link, subscriber.down = None, event.reason
                elif isinstance(event, LinkJoined):
                    subscriber.bundle = event.bundle
                    subscriber.link = event.bundle.network.said if event.bundle.network else None
                    self.rig.bundles.setdefault(event.bundle, []).append(subscriber)
            for protocol, payload in subscriber.ppp.outgoing():
                if not (self.silent or subscriber.silent):
                    self.rig.wire(("ppp", self, subscriber.far, protocol, payload))
        for session_id in [s for s, c in self.calls.items() if c.call_down]:
            del self.calls[session_id]


class Rig(Network):
    """A core, its tables, its LACs and the wire between them."""

    def __init__(self, folder: File, config: Config | None = None, *, max_sessions: int = 1000, workers: int = 1, fates: Iterable[int] = (),
                 seed: int = 1, again: bool = False, now: float = 1000.0) -> None:
        path = folder / "tables"
        if not again:
            table.create(path, max_sessions=max_sessions, workers=workers)
        fd = os.open(path, os.O_RDWR)
        self.tables = table.Tables(fd)
        os.close(fd)
        super().__init__(fates, DELAY, DELAY)
        self.now, self.random = now, Random(seed)
        self.core = Concentrator(config or configuration(), self.tables, lambda: self.now, random=Random(seed + 1))
        self.lacs: list[Lac] = []
        self.armed: list[int] = []          # slots whose keepalive a worker was told to start
        self.sent: list[tuple[Any, ...]] = []   # all frames that the core wanted sent
        self.bundles: dict[Bundle, list[Subscriber]] = {}       # of the clients
        self.heard: dict[int, int] = {}         # tick in which a worker would have received something, by slot
        self.core.sessions.bundles.heard = lambda link: self.heard.get(link.slot, 0)   # type: ignore[method-assign]

    # -- people

    def lac(self, **kw: Any) -> Lac:
        self.lacs.append(Lac(self, len(self.lacs) + 1, **kw))
        return self.lacs[-1]

    def dial(self, user: str = "joe", password: str = "1", method: str = "", **kw: Any) -> Subscriber:
        """A client with a tunnel of its own, as far as it gets."""
        subscriber = self.lac().call(user, password, method, **kw)
        self.run(3)
        return subscriber

    def session(self, name: str) -> Any:
        return self.core.sessions.names.sessions[name]

    def slot(self, subscriber: Subscriber) -> int:
        assert subscriber.far
        return self.tables.slot(*subscriber.far)

    def frame(self, subscriber: Subscriber, protocol: int, payload: bytes = b"", kind: int = PuntKind.PUNT_PPP) -> tuple[Any, ...]:
        """What a worker would punt of a subscriber's."""
        slot = self.slot(subscriber)
        return kind, 0, slot, self.tables.generation(slot), protocol, None, payload

    # -- the wire

    def ends(self) -> list[Any]:
        return [self.core, *(lac.endpoint for lac in self.lacs), *(s.ppp for lac in self.lacs for s in lac.calls.values() if s.ppp),
                *self.bundles]

    def collect(self) -> None:
        core = self.core
        core.flush(self.now)
        for worker, frames in enumerate(core.outbox):
            core.outbox[worker] = []
            self.sent += frames
            for kind, slot, generation, protocol, path, payload in frames:
                if kind == PuntKind.PUNT_L2TP:
                    self.wire(("down", path, payload))
                elif self.tables.generation(slot) != generation or self.tables.state(slot) not in (State.OPENING, State.OPEN):
                    continue
                elif kind == PuntKind.PUNT_ARM:
                    self.armed.append(slot)
                elif kind == PuntKind.PUNT_PPP:
                    self.wire(("frame", slot, protocol, payload))
        for lac in self.lacs:
            lac.drain()
        for bundle, subscribers in self.bundles.items():
            for event in bundle.events():
                for subscriber in subscribers:
                    if isinstance(event, LinkUp):
                        subscriber.link = event
            for protocol, payload in bundle.outgoing():
                if not any(s.silent or s.lac.silent for s in subscribers if s.ppp in bundle.links):
                    self.wire(("joint", bundle, protocol, payload))

    def deliver(self, item: tuple[Any, ...]) -> None:
        kind, *rest = item
        if kind == "up":
            path, datagram = rest
            there = path.port, path.peer, path.peer_port, path.local, path.local_port
            self.core.frame((PuntKind.PUNT_L2TP, 0, 0, 0, 0, there, datagram), self.now)
        elif kind == "ppp":
            lac, far, protocol, payload = rest
            slot = self.tables.slot(*far)
            self.heard[slot] = int(self.now * 10)
            row = self.tables.sessions()[slot]
            if row["state"] in (State.OPENING, State.OPEN) and (row["tunnel"], bytes(row["peer"])) == (far[0], lac.path.local):
                self.core.frame((PuntKind.PUNT_PPP, 0, slot, int(row["generation"]), protocol, None, payload), self.now)
        elif kind == "joint":
            bundle, protocol, payload = rest
            link = next((s for s in self.bundles[bundle] if s.ppp in bundle.links), None)
            session = self.core.sessions.get(self.slot(link)) if link else None
            if session and session.bundle:
                self.core.frame((PuntKind.PUNT_PPP, 0, session.bundle.slot, session.bundle.generation, protocol, None, payload), self.now)
        elif kind == "down":
            path, datagram = rest
            for lac in self.lacs:
                if (lac.path.local, lac.path.local_port) == (path.peer, path.peer_port) and not lac.silent:
                    lac.endpoint.receive(lac.path, datagram, self.now)
        else:
            slot, protocol, payload = rest
            if (session := self.core.sessions.get(slot)) and session.links:
                far = session.links[0].call.tunnel_id, session.links[0].call.session_id
                for link in (s for own in self.bundles.values() for s in own if s.far == far and s.ppp and s.ppp.bundle):
                    link.ppp.bundle.receive(protocol, payload, self.now)
                return
            row = self.tables.sessions()[slot]
            far = int(row["tunnel"]), int(row["session"])
            for lac in self.lacs:
                for subscriber in lac.calls.values() if lac.path.local == bytes(row["peer"]) and not lac.silent else ():
                    if subscriber.far == far and subscriber.ppp and not subscriber.silent:
                        if protocol == IPV6:
                            subscriber.heard.append(payload)
                        else:
                            subscriber.ppp.receive(protocol, payload, self.now)

    def run(self, seconds: float) -> None:
        """Let time pass, from one thing that is due to the next; the books are checked after each."""
        end = self.now + seconds
        self.collect()
        while self.due(end):
            ends = self.ends()
            while self.queue and self.queue[0][0] <= self.now:
                self.deliver(heappop(self.queue)[2])
            for e in ends:
                e.tick(self.now)
            self.collect()
            self.check()

    # -- the books

    def check(self) -> None:
        """Whatever happened: counters, names, addresses, slots and the index agree about who is there."""
        core, tables = self.core, self.tables
        sessions = list(core.sessions.values())
        live = [s for s in sessions if not s.ended]
        assert core.sessions.starting == sum(s.opened and not s.up_since for s in live)
        assert set(core.sessions.names.sessions.values()) == {s for s in live if s.name}
        assert all(core.sessions.names.sessions[s.name] is s and s in core.sessions.names.of(s.account) for s in live if s.name)
        given = [s.address for s in live if s.address]
        assert sorted(given) == sorted(core.authority.addresses.in_use())
        assert sorted(p for s in live for p in (s.prefix, s.delegated) if p) == sorted(core.authority.prefixes.in_use())
        slots = tables.used_slots()
        states = dict(zip(slots.tolist(), tables.sessions()["state"][slots].tolist(), strict=True))
        assert {s.slot for s in live} == {slot for slot, state in states.items() if state in (State.OPENING, State.OPEN)}
        for s in live:
            assert states[s.slot] == (State.OPEN if s.link or s.bundle else State.OPENING)
            assert not s.address or tables.lookup(mapped(s.address)) == (s.slot if s.link and s.link.ip else 0)
            six = s.link is not None and s.link.ipv6
            assert (s.router is not None) == six and (six or not s.delegated)
            assert all(tables.lookup(p[9].packed) == (s.slot if six else 0) for p in (s.prefix, s.delegated) if p)
            assert bool(s.link or s.bundle) == (s.state == "open") or s.state == "closing"
        bundles = [s for s in live if s.kind == Kind.KIND_BUNDLE]
        assert set(core.sessions.bundles.of.values()) == set(bundles) and core.ids.bundles == len(bundles)
        assert set(core.sessions.bundles.live.values()) <= set(bundles)
        for s in bundles:
            assert {link.slot for link in s.links} == {slot for slot, *_ in fastpath_bundle.links(tables, s.slot)}
            assert all(link.bundle is s and not link.name and not link.address for link in s.links)
            assert [link.ppp for link in s.links] == s.ppp.links
        assert all(s in s.bundle.links for s in live if s.bundle)
        calls = [call for tunnel in core.l2tp.endpoint._tunnels.values() for call in tunnel.calls.values()]
        assert core.ids.sessions + len(bundles) == sum(bank.taken for bank in core.ids.banks) == len(calls) + len(bundles) == len(sessions)
        assert sum(space.taken for space in core.ids.tunnels) == len(core.l2tp.endpoint)

    def check_empty(self) -> None:
        """Nobody is left, and nothing of anybody."""
        self.check()
        core = self.core
        assert not core.sessions and not core.sessions.names.sessions and not len(core.l2tp.endpoint) and core.sessions.starting == 0
        assert not core.sessions.names._numbers and not core.sessions.names._accounts and not any(core.sessions.waiting)
        assert not self.tables.tunnels()["state"].any()
        assert not any(self.tables.lookup(mapped(bytes((10, 67, 0, n)))) for n in range(256))


def failed(rig: Rig, **want: Any) -> dict[str, Any]:
    """The last failure, if it is as wanted."""
    row = rig.core.sessions.failures.rows[-1]
    assert {k: row[k] for k in want} == want, row
    return row
