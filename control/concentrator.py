"""The concentrator: what the workers punt goes to the machines, what the machines want goes to the tables and the workers.

    frame(worker's)  ->  a service, or the PPP machine of its session  ->  events  ->  tables  ->  outgoing frames

Services (service.py) are the tunnel types; sessions.py says what becomes of their calls. It has no asyncio, socket or clock of its own
(server.py does): a batch of frames goes in, `flush` settles what follows, in this order: events (what they announce must be in force
before the peer hears of it), durable state of tunnels, frames to send.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random, SystemRandom
from typing import Any

from ..fastpath.punt import PuntKind
from .aaa import Authority
from .address import Path
from .ids import Ids
from .l2tpservice import L2tp
from .pppoeservice import Pppoe
from .pptpservice import Pptp
from .quarantine import Quarantine
from .reason import Reason
from .service import Service
from .sessions import INTERNAL, Frame, Sessions
from .settings import Config

SHUTDOWN = Reason("admin", "shutdown", "the concentrator is being shut down")
UNNAMED = bytes.fromhex("0004") + bytes(16)      # a DUID for who has no machine to name
NO_ECHO = Reason("link", "no-echo", "the peer answers no echo")
UNREADABLE = Reason("ccp", "unreadable", "what the peer encrypts cannot be read: its key is another than ours")


class Concentrator:
    """All tunnels and sessions."""

    def __init__(self, config: Config, tables: Any, clock: Callable[[], float], *, random: Random | None = None,
                 duid: bytes = UNNAMED, owners: str = "") -> None:
        self.random = random or SystemRandom()
        self.config, self.tables, self.clock, self.duid = config, tables, clock, duid
        self.outbox: list[list[Frame]] = [[] for _ in range(tables.workers)]
        self.ids = Ids(tables, config.concentrator.max_sessions, self.random, clock)
        self.authority = Authority(config, clock)
        self.sessions = Sessions(tables, self.authority, self.ids, self.random, self.outbox, duid, owners=owners)
        self.installer = self.sessions.installer
        self.quarantine = Quarantine(tables, self.sessions, config.concentrator.run_dir)
        self.l2tp = L2tp(self)
        self.pptp = Pptp(self)
        self.pppoe = Pppoe(self)
        self.services: tuple[Service, ...] = (self.l2tp, self.pptp, self.pppoe)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; sessions that are up stay as they are."""
        self.config = config
        own = min(config.concentrator.max_sessions, self.tables.max_sessions)     # the tables keep their size
        for service in self.services:
            service.configure(config)
        self.ids.limit(own, {service.name: service.max_sessions for service in self.services})
        self.authority.configure(config)

    # -- after a crash of our predecessor

    def say_goodbye(self, now: float) -> int:
        """End what a former life left properly, and begin with empty tables; to how many peers goodbye is said."""
        slots = self.installer.empty()
        self.ids.inherit(slots=slots)
        return sum(service.say_goodbye(now, slots) for service in self.services)

    def hear_workers(self) -> None:
        """Workers answered for us while we were away: learn what they said."""
        self.l2tp.hear_workers()

    # -- input

    def frame(self, frame: tuple[int, int, int, int, int, Any, bytes], now: float) -> None:
        """One frame that a worker punted. A defect that it uncovers ends its tunnel or session, and nothing else."""
        try:
            self.take(frame, now)
        except Exception as error:
            self.sessions.defect(error, now)
            if frame[0] == PuntKind.PUNT_L2TP:
                with suppress(Exception):
                    self.l2tp.defective(frame[6], INTERNAL, now)
            elif (session := self.sessions.get(frame[2])) is not None:
                self.sessions.break_off(session, error, now)

    def take(self, frame: tuple[int, int, int, int, int, Any, bytes], now: float) -> None:
        kind, worker, slot, generation, protocol, path, payload = frame
        if path is not None:
            port, local, local_port, peer, peer_port = path
            path = Path(port, local, local_port, peer, peer_port, worker)
        if kind == PuntKind.PUNT_L2TP:
            self.l2tp.receive(path, payload, now)
            self.events(now)            # the next frame may be of a call that this one established
            return
        if kind == PuntKind.PUNT_PPPOE:
            self.pppoe.receive(path, payload, now)
            return
        session = self.sessions.get(slot)
        if session is None or session.generation != generation:
            return
        if kind == PuntKind.PUNT_PPP:
            self.sessions.receive(session, protocol, payload, now)
        elif kind == PuntKind.PUNT_DEAD and not session.ended:
            self.sessions.lose(session, NO_ECHO, now)
        elif kind == PuntKind.PUNT_UNREADABLE and not session.ended:
            self.sessions.close(session, UNREADABLE, now)

    def tick(self, now: float) -> None:
        """Let time pass for whatever is due."""
        for service in self.services:
            try:
                service.tick(now)
            except Exception as error:      # its timer was taken out, so the others go on
                self.sessions.defect(error, now)
        self.sessions.tick(now)

    def deadline(self) -> float | None:
        """When `tick` is next needed."""
        times = [when for service in self.services if (when := service.deadline()) is not None]
        if self.sessions.alarms:
            times.append(self.sessions.alarms[0][0])
        return min(times, default=None)

    # -- what follows

    def flush(self, now: float) -> None:
        """Settle what the last inputs led to; the frames to send are in `outbox` then, a list a worker."""
        while self.events(now) | self.sessions.drain_touched(now):
            pass
        for service in self.services:
            service.flush()

    def events(self, now: float) -> bool:
        """Deal with what happened to calls, and start links as far as there is room; whether anything did."""
        happened = False
        for service in self.services:
            for event in service.events(now):
                happened = True
                self.sessions.service_event(service, event, now)
        if self.sessions.waiting:
            self.sessions.start_waiting(now)
        return happened

    def shut_down(self, now: float) -> None:
        """Goodbye to every peer, and no new one."""
        for service in self.services:
            service.shut_down(SHUTDOWN, now)

    @property
    def settled(self) -> bool:
        """All goodbyes were heard, or given up."""
        return all(service.settled for service in self.services)
