"""All sessions, and what becomes of them: from a call that opens, by whatever service, to a link that is up, and to the end of both.

    Opening  ->  tables: OPENING     Up    ->  a PPP machine, started when there is room among those that are starting
    Down     ->  tables: RETIRED     drain ->  a machine's events, each through `handlers`, then its frames and its alarm

`defect` and `break_off` are what must not happen: a mistake of ours ends one session, and the others do not notice.
"""
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any

from ..fastpath.punt import PuntKind
from .aaa import Authority
from .address import Path
from .admission import Admission
from .auth import AuthRequest
from .bundle import Bundle
from .bundles import Bundles
from .holdings import Holdings
from .ids import Ids
from .install import Installer, routes
from .link import IPV6, CipherReset, LinkDown, LinkJoined, LinkReset, LinkUp
from .log import Limited
from .names import Names
from .ppp import PPP
from .reason import Reason
from .service import LIMITED, Down, Opening, Service, Up
from .session import Failures, Session

log = logging.getLogger("headrace.session")

STARTING = 2048     # links that may be starting at once; the rest wait their turn, in order
INTERNAL = Reason("link", "internal", "a defect in headrace, told in its log")
DISCONNECTED = Reason("admin", "disconnected", "disconnected by the administrator")

Frame = tuple[int, int, int, int, Path | None, bytes]   # kind, slot, generation, protocol, path, payload


class Sessions(dict[int, Session]):
    """The sessions by slot; one is here as long as its call, or as its links."""

    def __init__(self, tables: Any, authority: Authority, ids: Ids, random: Random, outbox: list[list[Frame]], duid: bytes, *,
                 owners: str = "") -> None:
        super().__init__()
        self.tables, self.authority, self.random, self.outbox = tables, authority, random, outbox
        self.owners = owners                    # a test's setting: "other" than the worker that receives the call, or each in "turns"
        self.say = Limited(log, LIMITED)
        self.change = Limited(log, LIMITED)     # of links that are up
        self.installer = Installer(tables)
        self.holdings = Holdings(self.installer, authority, duid, random, self.say, self.change)
        self.names = Names()
        self.bundles = Bundles(self, ids, random)
        self.admission = Admission(self)
        self.failures = Failures()
        self.waiting: deque[Session] = deque()
        self.starting = 0
        self.touched: dict[int, Session] = {}               # whose machine may have something to say
        self.alarms: list[tuple[float, int, Session]] = []
        self.serial = self.opened = 0

    # -- what a service says

    def service_event(self, service: Service, event: Opening | Up | Down, now: float) -> None:
        """A call opens, is up, or is down. A defect that it uncovers ends that call."""
        try:
            if isinstance(event, Opening):
                self.opening(service, event, now)
            elif isinstance(event, Up):
                self.up(event, now)
            else:
                self.down(event, now)
        except Exception as error:
            session = self.get(event.slot)
            if session is not None:
                self.break_off(session, error, now)
            else:
                self.defect(error, now)
                if isinstance(event, Opening):
                    service.hang_up(event.call, INTERNAL, now)

    def hang_up(self, session: Session, reason: Reason, now: float) -> None:
        """The call is over; a bundle has none, and its links end by themselves."""
        if not isinstance(session.ppp, Bundle):
            session.service.hang_up(session.call, reason, now)

    def opening(self, service: Service, event: Opening, now: float) -> None:
        owner = event.worker
        if self.owners:
            self.opened += 1
            owner = (owner + 1 if self.owners == "other" else self.opened) % len(self.outbox)
        slot, generation = self.installer.open(service.kind, event.call, owner, service.sequenced)
        self[slot] = Session(service, event.call, slot, generation, owner, now)

    def up(self, event: Up, now: float) -> None:
        session = self.get(event.slot)
        if session is None or session.ended:        # its slot could not be had
            return
        if event.sequenced:
            session.sequenced = True
            self.installer.sequence(session.slot, session.service.kind, session.call)
        session.rate = event.rate
        session.ppp = PPP("server", session.service.link_of(session.call), self.random)
        if session.service.patience and not session.early:
            session.patient = True
            self.wake(session, now + session.service.patience)
        else:
            self.waiting.append(session)

    def down(self, event: Down, now: float) -> None:
        session = self.pop(event.slot, None)
        if session is None:
            return
        if session.ppp is not None:
            session.ppp.lower_down(event.reason, now)
            self.drain(session, now)
        self.end(session, session.reason or event.reason, now)

    def start_waiting(self, now: float) -> None:
        """As far as there is room."""
        while self.waiting and self.starting < STARTING:
            self.start(self.waiting.popleft(), now)

    def start(self, session: Session, now: float) -> None:
        if session.ended or not isinstance(session.ppp, PPP):
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

    # -- links

    def receive(self, session: Session, protocol: int, payload: bytes, now: float) -> None:
        """A PPP packet that a worker punted."""
        if protocol == IPV6:
            session = session.bundle or session
            if session.router is not None:
                session.router.receive(payload, now)
                self.touched[session.slot] = session
        elif session.opened:
            assert session.ppp is not None
            session.ppp.receive(protocol, payload, now)
            self.touched[session.slot] = session
        elif not session.early:
            session.early = protocol, payload
            self.hurry(session)

    def hurry(self, session: Session) -> None:
        """The peer began, or took too long: now it is our turn."""
        if session.patient:
            session.patient = False
            self.waiting.append(session)

    def drain_touched(self, now: float) -> bool:
        """Whether there was any."""
        touched, self.touched = self.touched, {}
        for session in touched.values():
            self.drain(session, now)
        return bool(touched)

    def drain(self, session: Session, now: float) -> None:
        """One link's events, frames and alarm."""
        ppp, kin = session.ppp, self.bundles.kin(session)
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
        self.bundles.stir([*kin, *self.bundles.kin(session)])
        if session.ended:       # its slot is retired: the worker would not send what it still has to say
            return
        frames = self.outbox[session.owner]
        for protocol, payload in ppp.outgoing():
            frames.append((PuntKind.PUNT_PPP, session.slot, session.generation, protocol, None, payload))
        when = ppp.deadline()
        if session.router is not None:
            for payload in session.router.outgoing():
                frames.append((PuntKind.PUNT_PPP, session.slot, session.generation, IPV6, None, payload))
            when = min((due for due in (when, session.router.deadline()) if due is not None), default=None)
        if session.approach is not None:
            when = min(due for due in (when, session.approach.when) if due is not None)
        if when is not None and (session.alarm is None or when < session.alarm):
            self.wake(session, when)

    def wake(self, session: Session, when: float) -> None:
        session.alarm = when
        self.serial += 1
        heappush(self.alarms, (when, self.serial, session))

    def tick(self, now: float) -> None:
        """Wake the links that are due."""
        while self.alarms and self.alarms[0][0] <= now:
            when, _, session = heappop(self.alarms)
            if session.alarm != when or session.ppp is None or session.ended:
                continue                # it was set to an earlier time since, or nobody is there to be woken
            session.alarm = None
            self.hurry(session)
            self.touched[session.slot] = session
            try:
                session.ppp.tick(now)
                if session.router is not None:
                    session.router.tick(now)
                if session.approach is not None and session.approach.when <= now and (request := self.bundles.look(session, now)):
                    self.admission.request(session, request, now, answered=True)
            except Exception as error:
                self.break_off(session, error, now)

    # -- what a link says

    def auth_request(self, session: Session, event: AuthRequest, now: float) -> None:
        self.admission.request(session, event, now)

    def link_up(self, session: Session, event: LinkUp, now: float) -> None:
        profile, table = session.profile, session.service.table_of(session.call)
        assert profile is not None              # nothing is up that was not authenticated
        before, rekey = session.leads, session.cipher is not event.cipher
        if not event.ipv6:
            self.holdings.close_router(session)
        self.holdings.open_port(session, event, now)
        leads = routes(event, session.address, session.prefix, session.delegated)
        session.leads = before | leads          # should the tables refuse, all of them are taken out
        bundle = isinstance(session.ppp, Bundle)    # which its links keep alive
        self.installer.up(session.slot, session.kind, session.call, event, sequenced=session.sequenced and not bundle,
                          clamp=profile.change_tcp_mss, keepalive=0 if bundle else table.keepalive_timeout,
                          dscp=getattr(table, "dscp", 0), leads=leads,
                          prefix=session.prefix, gateway6=profile.local_ipv6_address, rekey=rekey,
                          tap=session.port.number if session.port else 0)
        session.cipher = event.cipher
        self.installer.forget(session.slot, before - leads)
        session.leads = leads
        if event.ipv6:
            self.holdings.open_router(session, event, now)
        if not bundle:
            self.outbox[session.owner].append((PuntKind.PUNT_ARM, session.slot, session.generation, 0, None, b""))
        first = not session.up_since
        if first:
            self.starting -= 1
            session.up_since = now
        given = ", ".join([f"address {session.address}"] * event.ip + [f"prefix {session.prefix}"] * event.ipv6
                          + [f"bridge {profile.bridge}"] * bool(session.port))
        news = f"{'up' if session.link is None else 'still up'}, {given}, {event.method}"
        session.link, session.state = event, "open"
        said = "%s: %s, mtu %d, mru %d, %s", session.name, news, event.mtu, event.mru, event.encoding or "not encrypted"
        if first:
            log.info(*said)
        else:                                   # a peer may negotiate as often as it likes
            self.change(logging.INFO, now, *said)

    def link_joined(self, session: Session, event: LinkJoined, now: float) -> None:
        self.bundles.joined(session, event, now)

    def link_reset(self, session: Session, event: LinkReset, now: float) -> None:
        self.bundles.left(session, now)
        self.holdings.close_router(session)
        self.installer.reset(session.slot, session.leads)
        self.holdings.close_port(session)
        session.link, session.leads = None, frozenset()
        if session.state == "open":
            session.state = "starting"

    def link_down(self, session: Session, event: LinkDown, now: float) -> None:
        self.end(session, event.reason, now)
        self.hang_up(session, event.reason, now)

    def cipher_reset(self, session: Session, event: CipherReset, now: float) -> None:
        """Its worker encrypts the next packet anew; the order leaves before CCP's answer does."""
        self.outbox[session.owner].append((PuntKind.PUNT_REKEY, session.slot, session.generation, 0, None, b""))

    handlers: dict[type, Callable[..., None]] = {AuthRequest: auth_request, LinkUp: link_up, LinkJoined: link_joined,
                                                 LinkReset: link_reset, LinkDown: link_down, CipherReset: cipher_reset}

    # -- how a session ends

    def lose(self, session: Session, reason: Reason, now: float) -> None:
        """End it at once, without waiting for PPP's goodbye: the call is cleared."""
        session.reason = reason
        if session.ppp is not None:
            session.ppp.lower_down(reason, now)
            self.drain(session, now)
        else:
            self.hang_up(session, reason, now)

    def end(self, session: Session, reason: Reason, now: float) -> None:
        """Out of the tables; said once, whatever ended it first."""
        if session.ended:
            return
        session.ended, session.state = True, "closing"
        if session.opened and not session.up_since:
            self.starting -= 1
        label = session.label
        for link in (session, *session.links):
            self.bundles.left(link, now)
        rx_packets, rx_bytes, tx_packets, tx_bytes, *_ = self.tables.counters(session.slot)
        self.holdings.close_router(session)
        self.installer.close(session.slot, session.leads)
        self.holdings.close_port(session)
        session.leads = frozenset()
        self.holdings.release(session)
        self.names.remove(session)
        if session.up_since:
            log.info("%s: ended after %.0f s: %s (from it %d octets in %d packets, to it %d in %d)", label, now - session.up_since,
                     reason.text, rx_bytes, rx_packets, tx_bytes, tx_packets)
        else:
            self.say(logging.WARNING, now, "%s: user %r from %s did not come up: %s", label, session.user, session.caller_id, reason.text)
        if not session.up_since or reason.stage in ("authentication", "ccp"):
            self.failures.add(session.service.name, session.user, session.caller_id, reason)
        if isinstance(session.ppp, Bundle):
            self.bundles.closed(session)
        for told in session.watchers:
            told()

    def disconnect(self, session: Session, now: float, told: Callable[[], None]) -> None:
        """Say goodbye by PPP and by what carries it; `told` is called when it is over."""
        waiting = set(session.links or [session])

        def over(link: Session) -> None:
            waiting.discard(link)
            if not waiting:
                told()
        for link in waiting:
            link.watchers += (partial(over, link),)
        self.close(session, DISCONNECTED, now)

    def close(self, session: Session, reason: Reason, now: float) -> None:
        """End it with PPP's goodbye, if it has come so far."""
        session.state, session.reason = "closing", reason
        if session.ppp is not None and session.opened:
            session.ppp.close(reason, now)
            self.touched[session.slot] = session
        else:
            self.lose(session, reason, now)

    # -- what must not happen

    def defect(self, error: Exception, now: float) -> None:
        self.say(logging.ERROR, now, "a defect in headrace: %r", error, exc_info=error)

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
        self.hang_up(session, reason, now)
