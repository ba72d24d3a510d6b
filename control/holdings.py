"""What a session holds beside its record while it is up, and what becomes of it: its link's router, its Ethernet port, its
address and its prefix."""
from __future__ import annotations

import logging
from random import Random

from .aaa import Authority
from .bridge import Ports
from .delegation import Delegation
from .install import Installer
from .ipv6cp import link_local
from .link import LinkUp
from .log import Limited
from .reason import Reason
from .router import Advertised, Router
from .session import Session
from .settings import Profile
from .store import StoreError

PORTS_AT_ONCE = 5   # Ethernet ports that a session may ask for, one after the other: each takes control and supervisor tens of ms,
PORT_EVERY = 10.0   # and one more in so many seconds


class Holdings:
    """Of all sessions."""

    def __init__(self, installer: Installer, authority: Authority, duid: bytes, random: Random, say: Limited, change: Limited) -> None:
        self.installer, self.authority, self.random = installer, authority, random
        self.duid = duid                        # our name as a DHCPv6 server
        self.say, self.change = say, change     # of what goes wrong; of links that are up
        self.ports: Ports | None = None         # of those that bridge; None: nobody does

    def open_router(self, session: Session, link: LinkUp, now: float) -> None:
        """IPV6CP is open: somebody must be the router of that link. One that goes on learns of another MTU."""
        profile, router = session.profile, session.router
        assert profile is not None
        mtu = min(link.mtu, link.mru)
        if router is not None and router.address == link_local(link.local_identifier).packed:
            router.resize(mtu)
            return
        self.close_router(session)
        delegates = profile.dhcpv6_pd_pool or self.authority.own_delegation(session.account)
        prefixes = Delegation(session, self.authority, self.installer, self.change) if delegates else None
        advertised = Advertised(profile.dns6, profile.domain_search, profile.managed_address_configuration)
        session.router = Router(link.local_identifier, mtu, session.prefix, prefixes, advertised, self.duid, self.random)
        session.router.open(now)

    def close_router(self, session: Session) -> None:
        if session.router is not None:
            session.router.close()
            session.router = None

    def open_port(self, session: Session, link: LinkUp, now: float) -> None:
        """BCP is open: the session is a port of its bridge. Where it cannot be, BCP ends, or the link when it is for nothing else."""
        assert session.ppp is not None and session.profile is not None
        if not link.bridged:
            self.close_port(session)
        elif session.port is None:
            try:
                if self.ports is None:
                    raise StoreError("nobody bridges here")
                again = max(session.port_again, now - PORTS_AT_ONCE * PORT_EVERY) + PORT_EVERY
                if again > now:
                    raise StoreError("it has asked for one too often")
                session.port_again = again
                session.port = self.ports.open(session.owner, session.slot, session.generation, session.profile)
            except StoreError as error:
                self.say(logging.WARNING, now, "%s: has no port in bridge %s: %s", session.label, session.profile.bridge, error)
                network = session.ppp.network
                if network is not None and network.bcp is not None and (network.ipcp or network.ipv6cp):
                    network.bcp.fire("Close", now)
                else:
                    session.ppp.close(Reason("bcp", "no-port", f"the bridge takes no port: {error}"), now)

    def close_port(self, session: Session) -> None:
        if session.port is not None:
            assert self.ports
            port, session.port = session.port, None
            self.ports.close(port)

    def may_bridge(self, profile: Profile) -> bool:
        """Whether its bridge is there at the moment."""
        return self.ports is not None and self.ports.has(profile.bridge or "")

    def give_back(self, session: Session) -> None:
        """Its address and its prefix are free again."""
        self.close_router(session)
        if session.leads:
            self.installer.reset(session.slot, session.leads)
            session.leads = frozenset()
        self.close_port(session)
        self.release(session)

    def release(self, session: Session) -> None:
        if session.address is not None:
            self.authority.addresses.release(session.address)
        if session.prefix is not None:
            self.authority.prefixes.release(session.prefix)
        session.address = session.prefix = None
