"""Which links belong together: the sessions that are bundles (RFC 1990), beside those of their links.

    AuthRequest   a link with multilink: `find` its bundle by account and discriminator, or `open` one with a slot of its own
                  there is one -> `approach`: do its links still answer? -> `join`
    LinkJoined    -> joined: the link is OPEN in the tables, and a member      LinkReset, the link's end -> left
    last one left -> the bundle's LinkDown, and it ends as every session does

The bundle is what people see: it has the user's name, address, prefix, router and counters. Its links keep their calls.

A client that lost its state comes back with the discriminator that it had, while its old link still seems to be there. To join it would
be wrong: the two ends count fragments from different numbers, and half of them would go by a dead link. So links of the bundle that
are silent at that moment are asked for an echo, and end if none comes.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from ..fastpath.punt import PuntKind
from ..fastpath.table import TICK_SECONDS
from .auth import AuthRequest, Reject
from .bundle import Bundle
from .ids import Ids
from .link import LinkJoined
from .ppp import PPP
from .reason import Reason
from .session import Session

if TYPE_CHECKING:
    from .sessions import Sessions

log = logging.getLogger("headrace.session")

ANSWER, LOOK = 2.0, 0.1     # seconds that a link of a bundle has for its echo, and from look to look
SILENT = Reason("link", "no-echo", "it answered no echo when another link of its user came in")


@dataclass(slots=True)
class Approach:
    """A link that waits until the others of its bundle were heard."""
    bundle: Session
    request: AuthRequest
    since: int              # tick
    until: float
    when: float             # the next look


class Bundles:
    """Of `sessions`, which has them by slot too."""

    def __init__(self, sessions: Sessions, ids: Ids, random: Random) -> None:
        self.sessions, self.ids, self.random = sessions, ids, random
        self.live: dict[tuple[str, bytes], Session] = {}        # by account and the peer's discriminator
        self.of: dict[Bundle, Session] = {}                     # by machine

    def find(self, account: str, ppp: PPP) -> Session | None:
        bundle = self.live.get((account, ppp.lcp.discriminator))
        return None if bundle is None or bundle.ended or machine(bundle).ended else bundle

    def open(self, link: Session, ppp: PPP) -> Session | Reject:
        """A bundle for a link that authenticated, as yet without it. It gets what the link was given, and belongs to its worker."""
        taken = self.ids.take_bundle()
        if taken is None:
            return Reject("there is no room for another bundle", "full")
        own = Bundle("server", link.service.link_of(link.call), self.random)
        slot, generation = self.sessions.installer.open_bundle(*taken, link.owner, link.call.path, ppp.lcp)
        bundle = Session(link.service, link.call, slot, generation, link.owner, link.started)
        bundle.ppp, bundle.opened, bundle.kind = own, True, link.kind.KIND_BUNDLE
        bundle.user, bundle.account, bundle.discriminator = link.user, link.account, ppp.lcp.discriminator
        bundle.profile, bundle.address, bundle.prefix = link.profile, link.address, link.prefix
        link.address = link.prefix = None
        self.sessions[slot] = bundle
        self.sessions.starting += 1
        self.sessions.touched[slot] = bundle        # whatever becomes of its first link
        self.of[own] = self.live[link.account, ppp.lcp.discriminator] = bundle
        return bundle

    # -- a further link

    def approach(self, bundle: Session, link: Session, request: AuthRequest, now: float) -> bool:
        """Whether it need not wait: all other links were heard this very moment."""
        since = int(now / TICK_SECONDS)
        silent = [other for other in bundle.links if self.heard(other) < since]
        for other in silent:
            assert isinstance(other.ppp, PPP)
            other.ppp.lcp.ask_for_echo()
            self.sessions.touched[other.slot] = other
        if silent:
            link.approach = Approach(bundle, request, since, now + ANSWER, now + LOOK)
            self.sessions.touched[link.slot] = link
        return not silent

    def heard(self, link: Session) -> int:
        """The tick in which its worker last received something of it."""
        return int(self.sessions.tables.counters(link.slot)[4])

    def look(self, link: Session, now: float) -> AuthRequest | None:
        """The request of a link that has waited long enough."""
        waits = link.approach
        assert waits is not None and isinstance(link.ppp, PPP)
        if not link.ppp.waits_for(waits.request):       # it negotiated again, or wants no more
            link.approach = None
            return None
        silent = [other for other in waits.bundle.links if self.heard(other) < waits.since]
        if silent and now < waits.until and not waits.bundle.ended:
            waits.when = now + LOOK
            return None
        link.approach = None
        for other in silent:
            self.sessions.lose(other, SILENT, now)
        self.sessions.drain(waits.bundle, now)      # if it has no links now, its address is free for the new one
        return waits.request

    def join(self, bundle: Session, link: Session, request: AuthRequest, message: str, now: float) -> None:
        network = machine(bundle).network
        assert network is not None and network.accept is not None and isinstance(link.ppp, PPP)
        link.ppp.authenticated(replace(network.accept, message=message), now, request, machine(bundle))

    # -- what a link says

    def joined(self, link: Session, event: LinkJoined, now: float) -> None:
        """It is a member before its peer hears that it may send fragments."""
        sessions, bundle, table = self.sessions, self.of[event.bundle], link.service.table_of(link.call)
        sessions.installer.join(bundle.slot, link.slot, link.service.kind, link.call, event, sequenced=link.sequenced,
                                keepalive=table.keepalive_timeout, dscp=getattr(table, "dscp", 0), rate=link.rate)
        link.bundle, link.state = bundle, "open"
        bundle.links.append(link)
        sessions.outbox[link.owner].append((PuntKind.PUNT_ARM, link.slot, link.generation, 0, None, b""))
        if not link.up_since:
            sessions.starting -= 1
            link.up_since = now
        sessions.change(logging.INFO, now, "%s: %s link from %s, %d in all", bundle.label, link.service.name, link.caller_id,
                        len(bundle.links))

    def left(self, link: Session, now: float) -> None:
        """It is nobody's link any more; nothing when it was none."""
        bundle, link.bundle = link.bundle, None
        if bundle is None:
            return
        bundle.links.remove(link)
        try:
            self.sessions.installer.leave(bundle.slot, link.slot)
        except BlockingIOError as error:            # a worker that stands still would go on to use it
            self.sessions.break_off(bundle, error, now)
        if bundle.links:
            self.sessions.change(logging.INFO, now, "%s: without the %s link from %s, %d remain", bundle.label, link.service.name,
                                 link.caller_id, len(bundle.links))

    def closed(self, bundle: Session) -> None:
        """It has ended, and its slot rests."""
        key = bundle.account, bundle.discriminator
        if self.live.get(key) is bundle:
            del self.live[key]
        del self.of[machine(bundle)], self.sessions[bundle.slot]
        self.ids.give_bundle(bundle.slot)

    # -- who has something to say because another one was heard

    @staticmethod
    def kin(session: Session) -> Iterable[Session]:
        return [session.bundle] if session.bundle is not None else list(session.links)

    def stir(self, kin: Iterable[Session]) -> None:
        for other in kin:
            if other.ppp is not None and other.ppp.pending:
                self.sessions.touched[other.slot] = other


def machine(bundle: Session) -> Bundle:
    assert isinstance(bundle.ppp, Bundle)
    return bundle.ppp
