"""The prefix that one session has delegated to its router (dhcp6server.Prefixes): out of the profile's pool, into the tables, and back."""
from __future__ import annotations

import logging
from ipaddress import IPv6Network

from .aaa import Authority
from .install import Installer
from .log import Limited
from .session import Session


class Delegation:
    def __init__(self, session: Session, authority: Authority, installer: Installer, log: Limited) -> None:
        self.session, self.authority, self.installer, self.log = session, authority, installer, log

    def say(self, level: int, text: str, *args: object) -> None:
        """The peer asks and gives back as often as it likes."""
        self.log(level, self.authority.clock(), f"%s: {text}", self.session.label, *args)

    def take(self) -> IPv6Network | None:
        """It leads to the session before the peer hears of it."""
        session = self.session
        assert session.profile is not None          # what is up was authenticated
        prefix = self.authority.delegate(session.profile, session.account)
        if prefix is None:
            own = self.authority.own_delegation(session.account)
            self.say(logging.WARNING, *(("%s is in use, and cannot be delegated", own) if own else
                                        ("ipv6-pool %s has no prefix left to delegate", session.profile.dhcpv6_pd_pool)))
            return None
        route = prefix.network_address.packed, prefix.prefixlen
        try:
            self.installer.lead(session.slot, route)
        except (ValueError, BlockingIOError) as error:      # the session does without; its router asks again
            self.say(logging.WARNING, "%s cannot be delegated: %s", prefix, error)
            self.authority.prefixes.release(prefix)
            return None
        session.delegated, session.leads = prefix, session.leads | {route}
        self.say(logging.INFO, "%s is delegated", prefix)
        return prefix

    def give(self) -> None:
        session, prefix = self.session, self.session.delegated
        if prefix is None:
            return
        route = prefix.network_address.packed, prefix.prefixlen
        self.installer.forget(session.slot, [route])
        self.authority.prefixes.release(prefix)
        session.delegated, session.leads = None, session.leads - {route}
        self.say(logging.INFO, "%s is free again", prefix)
