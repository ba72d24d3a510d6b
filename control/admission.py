"""Who comes in: what a link shows of its user, to the verdict that PPP tells the peer.

    AuthRequest   a Reject says why not; else the account's bundle, which the link joins (bundles.py); else an address and a prefix of
                  its own, with which sessions of that user are ended first where the profile or what is given allows one alone
"""
from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from .auth import Accept, AuthRequest, Reject
from .bundle import Bundle
from .ppp import PPP
from .reason import Reason
from .session import Session
from .settings import Profile

if TYPE_CHECKING:
    from .sessions import Sessions


class Admission:
    """To the sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.authority, self.bundles, self.names, self.holdings = (sessions.authority, sessions.bundles, sessions.names,
                                                                   sessions.holdings)

    def request(self, session: Session, event: AuthRequest, now: float, *, answered: bool = False) -> None:
        """`answered`: the other links of its bundle were asked whether they are there."""
        ppp, service = session.ppp, session.service
        assert isinstance(ppp, PPP)
        session.state, session.approach = "authenticating", None
        user = event.shown
        if user != session.user:        # another one than before LCP was renegotiated
            self.names.remove(session)
            session.user = user
        checked = self.authority.check(event, session.caller_id, service.name)
        if isinstance(checked, Reject):
            self.refuse(session, event, checked, now)
            return
        account, secret, message = checked
        bundle = self.bundles.find(account, ppp) if ppp.lcp.multilink else None
        if bundle is not None:
            self.holdings.give_back(session)
            self.names.remove(session)
            session.account = account
            if answered or self.bundles.approach(bundle, session, event, now):
                service.core.ids.let_in(service.name, session.call.tunnel_id, session.slot)
                self.bundles.join(bundle, session, event, message, now)
            return
        profile = self.authority.profile(secret, service.table_of(session.call).default_profile)
        self.holdings.give_back(session)         # authenticated anew: it gets its address again, if that is still what it should have
        fixed = self.authority.fixed_address(secret, profile)
        alone = profile.only_one == "yes"
        for other in self.names.of(account) if alone or fixed or secret.remote_ipv6_prefix else ():       # thousands may share an account
            same = (fixed and other.address == fixed) or (secret.remote_ipv6_prefix and other.prefix == secret.remote_ipv6_prefix)
            if other is not session and (alone or same):
                self.sessions.lose(other, Reason("admin", "replaced", f"user {user!r} came in again from {session.caller_id}"), now)
        verdict = self.bridging(session, profile, self.authority.grant(secret, profile, account, message, event), now)
        if isinstance(verdict, Reject):
            self.refuse(session, event, verdict, now)
            return
        if session.account != account or ppp.lcp.multilink:
            self.names.remove(session)
            session.account = account
        session.profile, session.address, session.prefix = profile, verdict.remote_address, verdict.prefix
        owner: Session | Reject = self.bundles.open(session, ppp) if ppp.lcp.multilink else session
        if isinstance(owner, Reject):
            self.refuse(session, event, owner, now)
            return
        self.names.add(owner)
        service.core.ids.let_in(service.name, session.call.tunnel_id, session.slot)
        ppp.authenticated(verdict, now, event, owner.ppp if isinstance(owner.ppp, Bundle) else None)

    def bridging(self, session: Session, profile: Profile, verdict: Accept | Reject, now: float) -> Accept | Reject:
        """The verdict, without bridging where its bridge is not there."""
        if isinstance(verdict, Reject) or verdict.bridging is None or self.holdings.may_bridge(profile):
            return verdict
        why = f"there is no interface {profile.bridge}"
        if verdict.remote_address is None and not verdict.ipv6:
            return Reject(f"user {session.user!r} can only be bridged, and {why}", "no-bridge")
        self.sessions.say(logging.WARNING, now, "%s: user %r is not bridged: %s", session.label, session.user, why)
        return replace(verdict, bridging=None)

    def refuse(self, session: Session, event: AuthRequest, verdict: Reject, now: float) -> None:
        assert isinstance(session.ppp, PPP)
        session.state = "closing"
        session.ppp.authenticated(verdict, now, event)
