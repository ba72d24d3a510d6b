"""The IP Control Protocol (RFC 1332), with the name servers of RFC 1877.

A server asks for its own address and makes the peer take the one it was given; a client takes what
it is told. Van Jacobson compression and the old IP-Addresses option are rejected, as is a name
server that nobody configured.
"""
from __future__ import annotations

from ipaddress import IPv4Address
from random import Random
from typing import Any

from .auth import Accept
from .automaton import OPENED, Automaton
from .fields import Field, ip4, option
from .link import IPCP_PROTOCOL, Link, LinkSettings
from .reason import Reason

ADDRESS, DNS, WINS, SECOND_DNS, SECOND_WINS = 3, 129, 130, 131, 132
NOWHERE = IPv4Address(0)


class IPCP(Automaton):
    """IPCP of one link. `accept` is what a server gives; a client has none."""

    PROTOCOL = IPCP_PROTOCOL
    NAME = "ipcp"
    OPTIONS = {
        ADDRESS: Field("address", ip4), DNS: Field("dns", ip4), WINS: Field("wins", ip4),
        SECOND_DNS: Field("second-dns", ip4), SECOND_WINS: Field("second-wins", ip4),
    }
    __slots__ = ("accept",)

    def __init__(self, accept: Accept | None, link: Link, settings: LinkSettings, random: Random) -> None:
        self.accept = accept
        super().__init__(link, settings, random)

    # What is in force

    @property
    def local_address(self) -> IPv4Address:
        return self.accept.local_address if self.accept else self.ours.get(ADDRESS, NOWHERE)

    @property
    def remote_address(self) -> IPv4Address:
        return (self.accept.remote_address or NOWHERE) if self.accept else self.theirs.get(ADDRESS, NOWHERE)

    @property
    def dns(self) -> tuple[IPv4Address, ...]:
        if self.accept:
            return self.accept.dns
        return tuple(self.ours[kind] for kind in (DNS, SECOND_DNS) if self.ours.get(kind, NOWHERE) != NOWHERE)

    # The policy

    def desired(self) -> dict[int, Any]:
        if self.accept:
            return {ADDRESS: self.accept.local_address}
        if self.settings.use_peer_dns:
            return {ADDRESS: NOWHERE, DNS: NOWHERE, SECOND_DNS: NOWHERE}
        return {ADDRESS: NOWHERE}

    def judge(self, kind: int, value: Any, now: float) -> Any:
        if self.accept:
            return self._given(self.accept, kind)
        return value if kind == ADDRESS and value != NOWHERE else None   # a client gives nothing

    @staticmethod
    def _given(accept: Accept, kind: int) -> IPv4Address | None:
        if kind == ADDRESS:
            return accept.remote_address
        servers = accept.dns if kind in (DNS, SECOND_DNS) else accept.wins
        at = 1 if kind in (SECOND_DNS, SECOND_WINS) else 0
        return servers[at] if at < len(servers) else None

    def missing(self, asked: set[int]) -> bytes:
        """RFC 1332 section 3.3: a peer that does not ask for an address is told which to ask for."""
        if self.accept and ADDRESS not in asked:
            return option(ADDRESS, self.remote_address.packed)
        return b""

    def adapt(self, kind: int, value: Any, now: float) -> None:
        if not self.accept:
            self.ours[kind] = value

    def rejected(self, kind: int, now: float) -> None:
        super().rejected(kind, now)
        if kind == ADDRESS and not self.accept:
            self.link.close(Reason("ipcp", "no-address", "the peer would not give us an address"), now)

    def unusable(self, what: str) -> None:
        if self.state != OPENED:   # else the link outlives it, and ends for a reason of its own
            self.link.ending(Reason("ipcp", "rejected", f"the peer rejected {what} of IPCP, and nothing else is open"))

    def this_layer_up(self, now: float, identifier: int, answer: bytes) -> None:
        if self.local_address == NOWHERE:
            self.link.close(Reason("ipcp", "no-address", "the peer acknowledged 0.0.0.0 as our address"), now)
        else:
            super().this_layer_up(now, identifier, answer)
