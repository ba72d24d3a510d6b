"""The router of one session's link: what a kernel interface would do there, if there were one.

    Router Solicitation, and now and then   ->  Router Advertisement      prefix, MTU, name servers
    Neighbor Solicitation of our address    ->  Neighbor Advertisement    nothing for a peer that tries out its own
    Echo Request to it                      ->  Echo Reply
    DHCPv6                                  ->  dhcp6server.py            an address, a delegated prefix, name servers

It follows the contract of machine.py: `receive` takes an IPv6 packet that a worker punted, `outgoing` holds packets.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

from .dhcp6 import CLIENT_PORT, SERVER_PORT, pull_dhcp6, push_dhcp6
from .dhcp6server import PREFERRED, VALID, Information, Prefixes, Server
from .ip6 import (
    ALL_NODES,
    DHCP_AGENTS,
    HEADER,
    UDP,
    UNSPECIFIED,
    Datagram6,
    is_link_local,
    pull_ip6,
    push_ip6,
)
from .ipv6cp import link_local
from .machine import Machine
from .nd import (
    MANAGED,
    OTHER,
    PrefixInformation,
    RouterAdvertisement,
    Servers,
    echo_reply,
    pull_solicitation,
    push_advertisement,
    push_neighbor,
)

# RFC 4861 section 6.2.1 and 10, in seconds. Half an hour is the longest interval that it allows.
MOST_INTERVAL = 1800.0
LEAST_INTERVAL = MOST_INTERVAL / 3
LIFETIME = int(3 * MOST_INTERVAL)       # as a default router, and of name servers (RFC 8106 section 5.1)
INITIAL_INTERVAL = 16.0
INITIAL = 3                             # advertisements that come early
FASTEST = 3.0                           # between two to the whole link


@dataclass(frozen=True, slots=True)
class Advertised:
    """What a profile has every peer told; one object serves all its sessions."""
    dns: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()
    managed: bool = False               # addresses by DHCPv6 too


class Router(Machine):
    """One link's, from IPV6CP opened to its end. `prefix` is the link's /64, `prefixes` where delegated ones come from."""

    __slots__ = ("_early", "_next", "_said", "address", "advertisement", "random", "server")

    def __init__(self, identifier: int, mtu: int, prefix: IPv6Network | None, prefixes: Prefixes | None, advertised: Advertised,
                 duid: bytes, random: Random) -> None:
        super().__init__()
        self.address = link_local(identifier).packed
        self.random = random
        self.server = Server(duid, prefix, prefixes, Information(advertised.dns, advertised.domains))
        self.advertisement = RouterAdvertisement(
            LIFETIME, (MANAGED if advertised.managed else 0) | (OTHER if prefixes or advertised.dns or advertised.domains else 0), mtu,
            (PrefixInformation(prefix, VALID, PREFERRED),) if prefix else (),
            Servers(LIFETIME, advertised.dns) if advertised.dns else None,
            Servers(LIFETIME, advertised.domains) if advertised.domains else None)
        self._early = INITIAL
        self._next: float | None = None         # when the next advertisement is due
        self._said = 0.0                        # when the last one to the whole link left

    def open(self, now: float) -> None:
        self._advertise(ALL_NODES, now)

    def resize(self, mtu: int) -> None:
        """The link takes packets of another size now; whoever asks hears it, and all with the next advertisement."""
        self.advertisement = replace(self.advertisement, mtu=mtu)

    def close(self) -> None:
        """The link is gone: nothing more is said, and what was leased is free."""
        self._outgoing.clear()
        self._next = None
        self.server.close()

    # -- what the wire and the clock bring

    def receive(self, packet: bytes, now: float) -> None:
        datagram = pull_ip6(packet)
        if datagram is None:
            return
        if datagram.protocol == UDP:
            self._dhcp(datagram, now)
        elif (solicitation := pull_solicitation(datagram)) is not None:
            if not solicitation.target:
                self._solicited(solicitation.source, now)
            elif solicitation.target == self.address:
                alone = solicitation.source == UNSPECIFIED          # it tries our address out for itself (RFC 4862 section 5.4.3)
                self._send(push_neighbor(self.address, ALL_NODES if alone else solicitation.source, not alone))
        elif datagram.destination == self.address and (answer := echo_reply(datagram, self.address)) is not None:
            self._answer(answer)

    def tick(self, now: float) -> None:
        self.server.tick(now)
        if self._next is not None and self._next <= now:
            self._advertise(ALL_NODES, now)

    def deadline(self) -> float | None:
        return min((when for when in (self._next, self.server.deadline()) if when is not None), default=None)

    # -- router advertisements

    def _solicited(self, source: bytes, now: float) -> None:
        """An answer to one who asks goes to him alone; one that has no address yet hears it with all, but not too often."""
        if source != UNSPECIFIED:
            self._send(push_advertisement(self.advertisement, self.address, source))
        elif now - self._said >= FASTEST:
            self._advertise(ALL_NODES, now)
        elif self._next is not None:
            self._next = min(self._next, self._said + FASTEST)

    def _advertise(self, destination: bytes, now: float) -> None:
        self._send(push_advertisement(self.advertisement, self.address, destination))
        self._said = now
        self._early = max(0, self._early - 1)
        interval = self.random.uniform(LEAST_INTERVAL, MOST_INTERVAL)
        self._next = now + (min(interval, INITIAL_INTERVAL) if self._early else interval)

    # -- DHCPv6

    def _dhcp(self, datagram: Datagram6, now: float) -> None:
        to_us = datagram.destination in (self.address, DHCP_AGENTS) and int.from_bytes(datagram.payload[2:4]) == SERVER_PORT
        if not to_us or not is_link_local(datagram.source):
            return
        message = pull_dhcp6(datagram.payload[8:])
        answer = self.server.handle(message, now, datagram.destination == self.address) if message else None
        if answer is not None:
            said = push_dhcp6(answer)
            head = struct.pack("!HHHH", SERVER_PORT, CLIENT_PORT, 8 + len(said), 0)
            self._answer(Datagram6(self.address, datagram.source, UDP, head + said, 64))

    def _answer(self, datagram: Datagram6) -> None:
        """As long as the peer makes it, but not longer than its link takes: we do not fragment."""
        if HEADER + len(datagram.payload) <= self.advertisement.mtu:
            self._send(datagram)

    def _send(self, datagram: Datagram6) -> None:
        self._outgoing.append(push_ip6(datagram))
