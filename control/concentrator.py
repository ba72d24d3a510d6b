"""The concentrator: what the workers punt goes to the machines, what the machines want goes to the tables and the workers.

    frame(worker's)  ->  L2TP endpoint, or the PPP machine of its session  ->  events  ->  tables  ->  outgoing frames

It has no asyncio, socket or clock of its own (server.py does): a batch of frames goes in, `flush` settles what follows, in this
order: events (what they announce must be in force before the peer hears of it), durable state of tunnels, frames to send.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from random import Random, SystemRandom
from typing import Any

from ..fastpath.punt import PuntKind
from ..fastpath.table import TICK_SECONDS
from .aaa import Authority
from .address import shown
from .auth import AuthRequest, Reject
from .ids import Ids
from .install import Installer
from .l2tp import Endpoint
from .l2tpevents import CallDown, CallOpening, CallUp, Ignored, LineErrors, LinkInfo, Path, Settings, TunnelDown, TunnelState, TunnelUp
from .link import LinkDown, LinkReset, LinkSettings, LinkUp
from .log import Limited
from .names import Names
from .ppp import PPP
from .reason import Reason
from .session import Failures, Session
from .settings import Config

log = logging.getLogger("headrace.l2tp")
LIMITED = 20        # lines a second of what strangers can cause

STARTING = 2048     # links that may be starting at once; the rest wait their turn, in order
SHUTDOWN = Reason("admin", "shutdown", "the concentrator is being shut down")
INTERNAL = Reason("link", "internal", "a defect in headrace, told in its log")
NO_ECHO = Reason("link", "no-echo", "the peer answers no echo")
# RFC 2661 section 4.4.2: lost carrier, see the error code, no facilities for now; else 3, administrative
CDN_RESULT = {"no-echo": 1, "peer-terminated": 2, "full": 4, "stalled": 4}
USER = 255                                             # characters of a user's name that are kept of what a peer says

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
        self.endpoint = Endpoint(Settings(), self.ids, self.random.randbytes, self.data_heard)
        self.link_settings = LinkSettings()
        self.sessions: dict[int, Session] = {}              # by slot
        self.names = Names()
        self.failures = Failures()
        self.waiting: deque[Session] = deque()
        self.starting = 0
        self.outbox: list[list[Frame]] = [[] for _ in range(self.workers)]
        self.touched: dict[int, Session] = {}               # sessions whose machine may have something to say
        self.alarms: list[tuple[float, int, Session]] = []
        self.serial = 0
        self.stopping = False
        self.say = Limited(log, LIMITED)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; sessions that are up stay as they are."""
        self.config = config
        l2tp = config.server.l2tp
        own = min(config.concentrator.max_sessions, self.tables.max_sessions)     # the tables keep their size
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
        self.ids.inherit((s.tunnel_id for s in states), self.installer.empty())
        self.endpoint.say_goodbye(states, now)
        return len(states)

    def hear_workers(self) -> None:
        """Workers acknowledged HELLOs while we were away: learn what they expect next."""
        rows = self.tables.tunnels()
        for tunnel in ((rows["state"] != 0) & (rows["worker_generation"] == rows["generation"])).nonzero()[0]:
            self.endpoint.worker_nr(int(tunnel), self.tables.read_tunnel(int(tunnel))[3])

    # -- input

    def frame(self, frame: tuple[int, int, int, int, int, Any, bytes], now: float) -> None:
        """One frame that a worker punted. A defect that it uncovers ends its tunnel or session, and nothing else."""
        try:
            self.take(frame, now)
        except Exception as error:
            self.defect(error, now)
            if frame[0] == PuntKind.PUNT_L2TP:
                with suppress(Exception):
                    self.endpoint.close(int.from_bytes(frame[6][4:6]), INTERNAL, now, 2, 6)
            elif (session := self.sessions.get(frame[2])) is not None:
                self.break_off(session, error, now)

    def take(self, frame: tuple[int, int, int, int, int, Any, bytes], now: float) -> None:
        kind, worker, slot, generation, protocol, path, payload = frame
        if kind == PuntKind.PUNT_L2TP:
            if self.stopping and payload[4:6] == b"\0\0":
                return                  # who wants a new tunnel must ask who comes after us
            port, local, local_port, peer, peer_port = path
            self.endpoint.receive(Path(port, local, local_port, peer, peer_port, worker), payload, now)
            self.l2tp_events(now)       # the next frame may be of a call that this one established
            return
        session = self.sessions.get(slot)
        if session is None or session.generation != generation:
            return
        if kind == PuntKind.PUNT_PPP:
            if session.opened:
                assert session.ppp is not None
                session.ppp.receive(protocol, payload, now)
                self.touched[slot] = session
            elif not session.early:
                session.early = protocol, payload
        elif kind == PuntKind.PUNT_DEAD and not session.ended:
            self.lose(session, NO_ECHO, now)

    def tick(self, now: float) -> None:
        """Let time pass for whatever is due."""
        try:
            self.endpoint.tick(now)
        except Exception as error:      # its timer was taken out, so the others go on
            self.defect(error, now)
        while self.alarms and self.alarms[0][0] <= now:
            when, _, session = heappop(self.alarms)
            if session.alarm != when or session.ppp is None or session.ended:
                continue                # it was set to an earlier time since, or nobody is there to be woken
            session.alarm = None
            self.touched[session.slot] = session
            try:
                session.ppp.tick(now)
            except Exception as error:
                self.break_off(session, error, now)

    def deadline(self) -> float | None:
        """When `tick` is next needed."""
        times = [t for t in (self.endpoint.deadline(), self.alarms[0][0] if self.alarms else None) if t is not None]
        return min(times, default=None)

    # -- what follows

    def flush(self, now: float) -> None:
        """Settle what the last inputs led to; the frames to send are in `outbox` then, a list a worker."""
        while True:
            happened = self.l2tp_events(now)
            touched, self.touched = self.touched, {}
            for session in touched.values():
                self.drain(session, now)
            if not happened and not touched:
                break
        for state in self.endpoint.changed():
            self.installer.tunnel(state)
        for path, datagram in self.endpoint.outgoing():
            self.outbox[path.worker].append((PuntKind.PUNT_L2TP, 0, 0, 0, path, datagram))

    def l2tp_events(self, now: float) -> bool:
        """Deal with what happened to tunnels and calls, and start links as far as there is room; whether anything did."""
        events = self.endpoint.events()
        for event in events:
            try:
                self.handlers[type(event)](self, event, now)
            except Exception as error:
                self.fail(event, error, now)
        while self.waiting and self.starting < STARTING:
            self.start(self.waiting.popleft(), now)
        return bool(events)

    def drain(self, session: Session, now: float) -> None:
        """One link's events, frames and alarm."""
        ppp = session.ppp
        if ppp is None:
            return
        events = ppp.events()
        while events:
            try:
                for event in events:
                    self.handlers[type(event)](self, session, event, now)
            except Exception as error:
                self.break_off(session, error, now)
            events = ppp.events()
        if session.ended:       # its slot is retired: the worker would not send what it still has to say
            return
        frames = self.outbox[session.owner]
        for protocol, payload in ppp.outgoing():
            frames.append((PuntKind.PUNT_PPP, session.slot, session.generation, protocol, None, payload))
        when = ppp.deadline()
        if when is not None and (session.alarm is None or when < session.alarm):
            session.alarm = when
            self.serial += 1
            heappush(self.alarms, (when, self.serial, session))

    # -- what must not happen

    def defect(self, error: Exception, now: float) -> None:
        self.say(logging.ERROR, now, "a defect in headrace: %r", error, exc_info=error)

    def fail(self, event: Any, error: Exception, now: float) -> None:
        """An event of L2TP could not be dealt with: its call ends."""
        session = self.session_of(event) if hasattr(event, "session_id") else None
        if session is not None:
            self.break_off(session, error, now)
        else:
            self.defect(error, now)
            if isinstance(event, CallOpening):
                self.endpoint.hang_up(event.tunnel_id, event.session_id, INTERNAL, now, 2, 6)

    def break_off(self, session: Session, error: Exception, now: float) -> None:
        """The tables take no more, or a defect of ours: this session ends, and the others do not notice."""
        if isinstance(error, BlockingIOError):
            reason = Reason("link", "stalled", str(error))
        elif isinstance(error, ValueError) and str(error).startswith("no room"):
            reason = Reason("link", "full", f"the tables have {error}")
        else:
            self.defect(error, now)
            reason = INTERNAL
        with suppress(Exception):       # the second defect is most likely the first one again
            self.lose(session, reason, now)
        with suppress(Exception):
            self.end(session, reason, now)
        call = session.call
        self.endpoint.hang_up(call.tunnel_id, call.session_id, reason, now, CDN_RESULT.get(reason.code, 3))

    # -- events of L2TP

    def tunnel_up(self, event: TunnelUp, now: float) -> None:
        self.say(logging.INFO, now, "tunnel %d with %s (%s) is up", event.tunnel_id, shown(event.path.peer), event.host_name)

    def tunnel_down(self, event: TunnelDown, now: float) -> None:
        self.say(logging.INFO, now, "tunnel %d with %s ended: %s", event.tunnel_id, shown(event.path.peer), event.reason.text)
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

    def data_heard(self, tunnel_id: int, session_id: int) -> float:
        """When its worker last received something in a session."""
        return self.tables.counters(self.tables.slot(tunnel_id, session_id))[4] * TICK_SECONDS

    def call_up(self, event: CallUp, now: float) -> None:
        session = self.session_of(event)
        if session is None or session.ended:        # its slot could not be had
            return
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
        self.touched[session.slot] = session
        try:
            session.ppp.open(now)
            if session.early:
                session.ppp.receive(*session.early, now)
                session.early = None
        except Exception as error:
            self.break_off(session, error, now)

    def call_down(self, event: CallDown, now: float) -> None:
        session = self.session_of(event)
        if session is None:
            return
        del self.sessions[session.slot]
        if session.ppp is not None:
            session.ppp.lower_down(event.reason, now)
            self.drain(session, now)
        self.end(session, session.reason or event.reason, now)

    # -- events of PPP

    def auth_request(self, session: Session, event: AuthRequest, now: float) -> None:
        ppp = session.ppp
        assert ppp is not None
        session.state = "authenticating"
        user = event.user[:USER]
        if user != session.user:        # another one than before LCP was renegotiated
            self.names.remove(session)
            session.user = user
        checked = self.authority.check(event, session.caller_id)
        if isinstance(checked, Reject):
            self.refuse(session, event, checked, now)
            return
        account, secret, message = checked
        profile = self.authority.profile(secret)
        self.give_back(session)         # authenticated anew: it gets its address again, if that is still what it should have
        fixed = self.authority.fixed_address(secret, profile)
        for other in self.names.of(account):
            if other is not session and (profile.only_one == "yes" or (fixed and other.address == fixed)):
                self.lose(other, Reason("admin", "replaced", f"user {user!r} came in again from {session.caller_id}"), now)
        verdict = self.authority.grant(secret, profile, account, message)
        if isinstance(verdict, Reject):
            self.refuse(session, event, verdict, now)
            return
        session.profile, session.address = profile, verdict.remote_address
        if session.account != account:
            self.names.remove(session)
            session.account = account
        self.names.add(session)
        ppp.authenticated(verdict, now, event)

    def refuse(self, session: Session, event: AuthRequest, verdict: Reject, now: float) -> None:
        assert session.ppp is not None
        session.state = "closing"
        session.ppp.authenticated(verdict, now, event)

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
        if session.opened and not session.up_since:
            self.starting -= 1
        label = session.label
        rx_packets, rx_bytes, tx_packets, tx_bytes, *_ = self.tables.counters(session.slot)
        self.installer.close(session.slot, session.address)
        if session.address is not None:
            self.authority.release(session.address)
        self.names.remove(session)
        if session.up_since:
            log.info("%s: ended after %.0f s: %s (from it %d octets in %d packets, to it %d in %d)", label, now - session.up_since,
                     reason.text, rx_bytes, rx_packets, tx_bytes, tx_packets)
        else:
            self.say(logging.WARNING, now, "%s: user %r from %s did not come up: %s", label, session.user, session.caller_id, reason.text)
        if not session.up_since or reason.stage == "authentication":
            self.failures.add(session.user, session.caller_id, reason)
        for told in session.watchers:
            told()

    def disconnect(self, session: Session, now: float, told: Callable[[], None]) -> None:
        """Say goodbye by PPP and L2TP; `told` is called when it is over."""
        reason = Reason("admin", "disconnected", "disconnected by the administrator")
        session.watchers += (told,)
        session.state, session.reason = "closing", reason
        if session.ppp is not None and session.opened:
            session.ppp.close(reason, now)
            self.touched[session.slot] = session
        else:
            self.lose(session, reason, now)

    def shut_down(self, now: float) -> None:
        """StopCCN to every tunnel, and no new one."""
        self.stopping = True
        self.endpoint.close_all(SHUTDOWN, now)

    def quiet(self, event: Any, now: float) -> None:
        log.debug("%s", event)

    def ignored(self, event: Ignored, now: float) -> None:
        """At most one a second; a tunnel or a call that was refused is somebody's failure."""
        log.warning("%s: %s", shown(event.path.peer), event.text)
        if event.name in ("refused_tunnel", "refused_call"):
            self.failures.add("", shown(event.path.peer), Reason(event.name.removeprefix("refused_"), "refused", event.text))

    handlers: dict[type, Callable[..., None]] = {
        TunnelUp: tunnel_up, TunnelDown: tunnel_down, CallOpening: call_opening, CallUp: call_up, CallDown: call_down,
        LinkInfo: quiet, LineErrors: quiet, Ignored: ignored,
        AuthRequest: auth_request, LinkUp: link_up, LinkReset: link_reset, LinkDown: link_down}
