"""The concentrator: what the workers punt goes to the machines, what the machines want goes to the tables and the workers.

    frame(worker's)  ->  L2TP endpoint, or the PPP machine of its session  ->  events  ->  tables  ->  outgoing frames

It has no asyncio, socket or clock of its own (server.py does): a batch of frames goes in, `flush` settles what follows, in this
order: events (what they announce must be in force before the peer hears of it), durable state of tunnels, frames to send.
"""
from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random, SystemRandom
from typing import Any

from ..fastpath.punt import PuntKind
from .aaa import Authority
from .address import shown
from .auth import AuthRequest, Reject
from .ids import Ids
from .install import Installer
from .l2tp import Endpoint
from .l2tpevents import CallDown, CallOpening, CallUp, Ignored, LineErrors, LinkInfo, Path, Settings, TunnelDown, TunnelState, TunnelUp
from .link import LinkDown, LinkReset, LinkSettings, LinkUp
from .ppp import PPP
from .reason import Reason
from .session import Failures, Session
from .settings import Config

log = logging.getLogger("headrace.l2tp")

STARTING = 2048     # links that may be starting at once; the rest wait their turn, in order
SHUTDOWN = Reason("admin", "shutdown", "the concentrator is being shut down")
NO_ECHO = Reason("link", "no-echo", "the peer answers no echo")
CDN_RESULT = {"no-echo": 1, "peer-terminated": 2}      # RFC 2661 section 4.4.2: lost carrier, see error code; else 3, administrative

Frame = tuple[int, int, int, int, Path | None, bytes]   # kind, slot, generation, protocol, path, payload


class Concentrator:
    """All tunnels and sessions."""

    def __init__(self, config: Config, tables: Any, clock: Callable[[], float], *, random: Random | None = None,
                 foreign_owner: bool = False) -> None:
        self.random = random or SystemRandom()
        self.config, self.tables, self.clock = config, tables, clock
        self.foreign_owner = foreign_owner      # a test's setting: every owner differs from the worker that received the call
        self.workers = tables.workers
        self.ids = Ids(tables, config.concentrator.max_sessions, self.random, clock)
        self.installer = Installer(tables)
        self.authority = Authority(config, clock)
        self.endpoint = Endpoint(Settings(), self.ids, self.random.randbytes)
        self.link_settings = LinkSettings()
        self.sessions: dict[int, Session] = {}              # by slot
        self.names: dict[str, Session] = {}
        self.by_user: dict[str, list[Session]] = {}
        self.failures = Failures()
        self.waiting: deque[Session] = deque()
        self.starting = 0
        self.outbox: list[list[Frame]] = [[] for _ in range(self.workers)]
        self.touched: dict[int, Session] = {}               # sessions whose machine may have something to say
        self.alarms: list[tuple[float, int, Session]] = []
        self.serial = 0
        self.closed: dict[Session, asyncio.Event] = {}      # who waits for an end
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; sessions that are up stay as they are."""
        self.config = config
        l2tp = config.server.l2tp
        own = config.concentrator.max_sessions
        self.ids.max_sessions = min(own, l2tp.max_sessions or own)
        self.endpoint.configure(Settings(secret=l2tp.tunnel_secret, require_secret=bool(l2tp.tunnel_secret), hide=l2tp.hidden))
        self.link_settings = LinkSettings(mru=l2tp.max_mru, mtu=l2tp.max_mtu, authentication=l2tp.authentication)
        self.authority.configure(config)

    # -- after a crash of our predecessor

    def say_goodbye(self, now: float) -> int:
        """End the tunnels of a former life properly, and begin with empty tables; how many there were."""
        states = []
        for tunnel in self.tables.tunnels()["state"].nonzero()[0]:
            state, peer_tunnel, ns, nr, acked, path = self.tables.read_tunnel(int(tunnel))
            states.append(TunnelState(int(tunnel), peer_tunnel, Path(*path), ns, nr, acked, state))
        self.installer.empty()
        self.ids.reserved.update(s.tunnel_id for s in states)
        self.endpoint.say_goodbye(states, now)
        return len(states)

    def hear_workers(self) -> None:
        """Workers acknowledged HELLOs while we were away: learn what they expect next."""
        rows = self.tables.tunnels()
        for tunnel in ((rows["state"] != 0) & (rows["worker_generation"] == rows["generation"])).nonzero()[0]:
            self.endpoint.worker_nr(int(tunnel), self.tables.read_tunnel(int(tunnel))[3])

    # -- input

    def frame(self, frame: tuple[int, int, int, int, int, Any, bytes], now: float) -> None:
        """One frame that a worker punted."""
        kind, worker, slot, generation, protocol, path, payload = frame
        if kind == PuntKind.PUNT_L2TP:
            port, local, local_port, peer, peer_port = path
            self.endpoint.receive(Path(port, local, local_port, peer, peer_port, worker), payload, now)
            return
        session = self.sessions.get(slot)
        if session is None or session.generation != generation:
            return
        if kind == PuntKind.PUNT_PPP:
            if session.ppp is not None:
                session.ppp.receive(protocol, payload, now)
                self.touched[slot] = session
        elif kind == PuntKind.PUNT_DEAD and not session.ended:
            self.lose(session, NO_ECHO, now)

    def tick(self, now: float) -> None:
        """Let time pass for whatever is due."""
        self.endpoint.tick(now)
        while self.alarms and self.alarms[0][0] <= now:
            when, _, session = heappop(self.alarms)
            if session.alarm == when and session.ppp is not None and not session.ended:
                session.alarm = None
                session.ppp.tick(now)
                self.touched[session.slot] = session

    def deadline(self) -> float | None:
        """When `tick` is next needed."""
        times = [t for t in (self.endpoint.deadline(), self.alarms[0][0] if self.alarms else None) if t is not None]
        return min(times, default=None)

    # -- what follows

    def flush(self, now: float) -> None:
        """Settle what the last inputs led to; the frames to send are in `outbox` then, a list a worker."""
        while True:
            events = self.endpoint.events()
            for event in events:
                self.handlers[type(event)](self, event, now)
            while self.waiting and self.starting < STARTING:
                self.start(self.waiting.popleft(), now)
            touched, self.touched = self.touched, {}
            for session in touched.values():
                self.drain(session, now)
            if not events and not touched:
                break
        for state in self.endpoint.changed():
            self.installer.tunnel(state)
        for path, datagram in self.endpoint.outgoing():
            self.outbox[path.worker].append((PuntKind.PUNT_L2TP, 0, 0, 0, path, datagram))

    def drain(self, session: Session, now: float) -> None:
        """One link's events, frames and alarm."""
        ppp = session.ppp
        if ppp is None:
            return
        events = ppp.events()
        while events:
            for event in events:
                self.handlers[type(event)](self, session, event, now)
            events = ppp.events()
        frames = self.outbox[session.owner]
        for protocol, payload in ppp.outgoing():
            frames.append((PuntKind.PUNT_PPP, session.slot, session.generation, protocol, None, payload))
        if session.ended:
            return
        when = ppp.deadline()
        if when is not None and (session.alarm is None or when < session.alarm):
            session.alarm = when
            self.serial += 1
            heappush(self.alarms, (when, self.serial, session))

    # -- events of L2TP

    def tunnel_up(self, event: TunnelUp, now: float) -> None:
        log.info("tunnel %d with %s (%s) is up", event.tunnel_id, shown(event.path.peer), event.host_name)

    def tunnel_down(self, event: TunnelDown, now: float) -> None:
        log.info("tunnel %d with %s ended: %s", event.tunnel_id, shown(event.path.peer), event.reason.text)
        self.ids.reserved.discard(event.tunnel_id)
        if event.reason.code not in ("cleared", "shutdown", "restarted"):
            self.failures.add("", shown(event.path.peer), event.reason)

    def call_opening(self, event: CallOpening, now: float) -> None:
        owner = event.path.worker
        if self.foreign_owner:
            owner = (owner + 1) % self.workers
        slot, generation = self.installer.open(event, owner)
        self.sessions[slot] = Session(event, slot, generation, owner, now)

    def session_of(self, event: CallUp | CallDown) -> Session | None:
        return self.sessions.get(self.tables.slot(event.tunnel_id, event.session_id))

    def call_up(self, event: CallUp, now: float) -> None:
        session = self.session_of(event)
        assert session is not None          # its CallOpening came before
        if event.calling_number:
            session.caller_id = event.calling_number
        if event.sequencing_required:
            session.sequenced = True
            self.installer.sequence(session.slot, event.peer_tunnel_id, event.peer_session_id)
        session.ppp = PPP("server", self.link_settings, self.random)
        self.waiting.append(session)

    def start(self, session: Session, now: float) -> None:
        if session.ended or session.ppp is None:
            return
        session.opened = True
        self.starting += 1
        session.ppp.open(now)
        self.touched[session.slot] = session

    def call_down(self, event: CallDown, now: float) -> None:
        session = self.session_of(event)
        if session is None:
            return
        if session.ppp is not None:
            session.ppp.lower_down(event.reason, now)
            self.drain(session, now)
        self.end(session, session.reason or event.reason, now)
        del self.sessions[session.slot]

    # -- events of PPP

    def auth_request(self, session: Session, event: AuthRequest, now: float) -> None:
        assert session.ppp is not None
        session.state = "authenticating"
        session.user = event.user
        checked = self.authority.check(event, session.caller_id)
        if isinstance(checked, Reject):
            session.ppp.authenticated(checked, now)
            return
        secret, message = checked
        profile = self.authority.profile(secret)
        if session.address is not None:         # authenticated anew after LCP was renegotiated
            self.give_back(session)
        fixed = secret.remote_address is not None
        for other in list(self.by_user.get(event.user, ())):
            if other is not session and (fixed or profile.only_one == "yes"):
                self.lose(other, Reason("admin", "replaced", f"user {event.user!r} came in again from {session.caller_id}"), now)
        verdict = self.authority.grant(secret, profile, event.user, message)
        if not isinstance(verdict, Reject):
            session.profile, session.address = profile, verdict.remote_address
            self.register(session)
        session.ppp.authenticated(verdict, now)

    def link_up(self, session: Session, event: LinkUp, now: float) -> None:
        call, profile = session.call, session.profile
        assert profile is not None              # nothing is up that was not authenticated
        l2tp = self.config.server.l2tp
        self.installer.up(session.slot, call.peer_tunnel_id, call.peer_session_id, event, sequenced=session.sequenced,
                          clamp=profile.change_tcp_mss, keepalive=l2tp.keepalive_timeout, dscp=l2tp.dscp)
        self.outbox[session.owner].append((PuntKind.PUNT_ARM, session.slot, session.generation, 0, None, b""))
        if not session.up_since:
            self.starting -= 1
            session.up_since = now
        session.link, session.state = event, "open"
        log.info("%s: up, address %s, %s, mtu %d, mru %d", session.name, session.address, event.method, event.mtu, event.mru)

    def link_reset(self, session: Session, event: LinkReset, now: float) -> None:
        self.installer.reset(session.slot, session.address)
        session.link = None
        if session.state == "open":
            session.state = "starting"

    def link_down(self, session: Session, event: LinkDown, now: float) -> None:
        self.end(session, event.reason, now)
        self.endpoint.hang_up(session.call.tunnel_id, session.call.session_id, event.reason, now,
                              CDN_RESULT.get(event.reason.code, 3))

    # -- the life of a session

    def register(self, session: Session) -> None:
        """Give it a name of its own."""
        if session.name:
            return
        name, number = f"<l2tp-{session.user}>", 0
        while name in self.names:
            number += 1
            name = f"<l2tp-{session.user}-{number}>"
        session.name = name
        self.names[name] = session
        self.by_user.setdefault(session.user, []).append(session)

    def give_back(self, session: Session) -> None:
        """Its address is free again."""
        if session.address is not None:
            self.installer.reset(session.slot, session.address)
            self.authority.release(session.address)
            session.address = None

    def lose(self, session: Session, reason: Reason, now: float) -> None:
        """End it at once, without waiting for PPP's goodbye: the call is cleared."""
        session.reason = reason
        if session.ppp is not None:
            session.ppp.lower_down(reason, now)
            self.drain(session, now)
        else:
            self.endpoint.hang_up(session.call.tunnel_id, session.call.session_id, reason, now, CDN_RESULT.get(reason.code, 3))

    def end(self, session: Session, reason: Reason, now: float) -> None:
        """Out of the tables; said once, whatever ended it first."""
        if session.ended:
            return
        session.ended, session.state = True, "closing"
        rx_packets, rx_bytes, tx_packets, tx_bytes, *_ = self.tables.counters(session.slot)
        self.installer.close(session.slot, session.address)
        if session.address is not None:
            self.authority.release(session.address)
        if session.opened and not session.up_since:
            self.starting -= 1
        if session.name:
            del self.names[session.name]
            same = self.by_user[session.user]
            same.remove(session)
            if not same:
                del self.by_user[session.user]
        if session.up_since:
            log.info("%s: ended after %.0f s: %s (from it %d octets in %d packets, to it %d in %d)", session.label, now - session.up_since,
                     reason.text, rx_bytes, rx_packets, tx_bytes, tx_packets)
        else:
            log.warning("%s: user %r from %s did not come up: %s", session.label, session.user, session.caller_id, reason.text)
        if not session.up_since or reason.stage == "authentication":
            self.failures.add(session.user, session.caller_id, reason)
        waiter = self.closed.pop(session, None)
        if waiter is not None:
            waiter.set()

    def disconnect(self, session: Session, now: float) -> asyncio.Event:
        """Say goodbye by PPP and L2TP; the event is set when it is over."""
        reason = Reason("admin", "disconnected", "disconnected by the administrator")
        session.state, session.reason = "closing", reason
        waiter = self.closed.setdefault(session, asyncio.Event())
        if session.ppp is not None and session.opened:
            session.ppp.close(reason, now)
            self.touched[session.slot] = session
        else:
            self.lose(session, reason, now)
        return waiter

    def shut_down(self, now: float) -> None:
        """StopCCN to every tunnel."""
        self.endpoint.close_all(SHUTDOWN, now)

    def quiet(self, event: Any, now: float) -> None:
        log.debug("%s", event)

    def ignored(self, event: Ignored, now: float) -> None:
        log.warning("%s: %s", shown(event.path.peer), event.text)

    handlers: dict[type, Callable[..., None]] = {
        TunnelUp: tunnel_up, TunnelDown: tunnel_down, CallOpening: call_opening, CallUp: call_up, CallDown: call_down,
        LinkInfo: quiet, LineErrors: quiet, Ignored: ignored,
        AuthRequest: auth_request, LinkUp: link_up, LinkReset: link_reset, LinkDown: link_down}
