"""A bundle of links that carry one network together (RFC 1990).

    first link joins -> network opens ... LinkUp          others join and leave          last link leaves -> LinkDown

Each link keeps what is its own: LCP and authentication. What a bundle's links agreed on must be the same for all of them; one that
differs is refused, and so is one too many. The bundle counts as a link that compresses protocol, address and control field
(section 2), and packets of its NCPs go as its user data does. It follows the contract of machine.py; what it says makes some of its
links say something, and the other way round, so whoever drains one looks at both.
"""
from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from .auth import Accept
from .lcp import PROTOCOL_REJECT, SHORT_SEQUENCE
from .link import LCP_PROTOCOL, MOST_LINKS, MULTILINK, QUIET, CipherReset, LinkDown, LinkReset, LinkSettings, LinkUp, Role
from .machine import Machine
from .mppe import Keys
from .network import Network
from .reason import Reason

if TYPE_CHECKING:
    from .ppp import PPP


@dataclass(frozen=True, slots=True)
class Terms:
    """What all links of a bundle agreed on by LCP."""
    mrru: int                   # the largest packet that the peer may send us
    peer_mrru: int
    short: bool                 # the peer's sequence numbers have 12 bits
    peer_short: bool            # ours have
    discriminator: bytes        # what the peer calls itself; b"": nothing

    @classmethod
    def of(cls, link: PPP) -> Terms:
        lcp = link.lcp
        return cls(lcp.mrru, lcp.peer_mrru, SHORT_SEQUENCE in lcp.ours, SHORT_SEQUENCE in lcp.theirs, lcp.discriminator)

    def differ(self, other: Terms) -> str:
        """In what, for people; "" in nothing."""
        if self.discriminator != other.discriminator:
            return "it leads to another endpoint than the bundle's other links"
        if (self.mrru, self.peer_mrru) != (other.mrru, other.peer_mrru):
            return f"its MRRUs are {other.mrru} and {other.peer_mrru}, those of the bundle {self.mrru} and {self.peer_mrru}"
        return "its sequence numbers have another length than the bundle's" if self != other else ""


class Bundle(Machine):
    """It lives from the first link to the last, once."""

    __slots__ = ("_open_by", "_reason", "ended", "heir", "links", "method", "network", "random", "role", "settings", "terms", "user")

    def __init__(self, role: Role, settings: LinkSettings, random: Random) -> None:
        super().__init__()
        self.role, self.settings, self.random = role, settings, random
        self.links: list[PPP] = []                  # in the order in which they joined
        self.network: Network | None = None         # while there are any
        self.terms = Terms(0, 0, False, False, b"")
        self.user = self.method = ""                # of the first link
        self.ended = False                          # LinkDown was said
        self.heir: Bundle | None = None             # of one that ended, where its links came back
        self._open_by: float | None = None
        self._reason: Reason | None = None          # why it is about to end; the first cause counts

    # What its links do

    def refusal(self, link: PPP) -> Reason | None:
        """Why a link cannot join."""
        if self.ended:
            return Reason("multilink", "ended", "its bundle ended meanwhile")
        differ = self.terms.differ(Terms.of(link)) if self.links else ""
        if differ:
            return Reason("multilink", "mismatch", f"the link cannot join its bundle: {differ}")
        if len(self.links) >= MOST_LINKS:
            return Reason("multilink", "full", f"the link cannot join its bundle, which has {MOST_LINKS} already")
        return None

    def join(self, link: PPP, accept: Accept | None, keys: Keys | None, now: float) -> None:
        """A link that authenticated. The first one's authentication is the network's."""
        self.links.append(link)
        if self.network is None:
            self.terms, self.user, self.method = Terms.of(link), link.user, link.method
            self.network = Network(self, accept, keys)
            self.network_down(now)
            self.network.open(now)

    def leave(self, link: PPP, reason: Reason, now: float) -> None:
        """It is open no more; `reason` is the bundle's if it was the last."""
        self.links.remove(link)
        if not self.links and not self.ended:
            network, self.network = self.network, None
            self.ended, self._open_by = True, None
            if network is not None:
                network.down("multilink", now)
            self._outgoing.clear()
            self._events.append(LinkDown(self._reason or reason))

    def successor(self) -> Bundle:
        """What a client's link joins that would join this one: itself, or when it has ended another, the same for all its links, so that
        those that come back are one bundle at both ends."""
        bundle = self
        while bundle.ended:
            if bundle.heir is None:
                bundle.heir = Bundle(self.role, self.settings, self.random)
            bundle = bundle.heir
        return bundle

    # Commands

    def close(self, reason: Reason, now: float) -> None:
        """All links say goodbye."""
        self.ending(reason)
        for link in tuple(self.links):
            link.close(self._reason or reason, now)

    def lower_down(self, reason: Reason, now: float) -> None:
        """All links are gone at once."""
        self.ending(reason)
        for link in tuple(self.links):
            link.lower_down(self._reason or reason, now)

    # What the wire and the clock bring

    def receive(self, protocol: int, payload: bytes, now: float) -> None:
        """What its links brought together. LCP is each link's own and not spoken here, but for Protocol-Reject (section 2)."""
        if self.network is None or self.network.receive(protocol, payload, now):
            return
        lcp = self.links[0].lcp
        if protocol == LCP_PROTOCOL:
            if payload[:1] == bytes((PROTOCOL_REJECT,)):
                lcp.receive(payload, now)
        elif protocol not in QUIET and protocol != MULTILINK:
            lcp.reject_protocol(protocol & 0xFFFF, payload)

    def tick(self, now: float) -> None:
        if self.network is None:
            return
        self.network.tick(now)
        if self._open_by is not None and self._open_by <= now:
            self._open_by = None
            stage = self.network.shut if self.network else "link"
            self.close(Reason(stage, "timeout", f"the bundle was not open within {self.settings.open_timeout:g} s"), now)

    def deadline(self) -> float | None:
        due = [self._open_by, *(self.network.timers() if self.network else ())]
        return min((moment for moment in due if moment is not None), default=None)

    # What its network asks (network.Carrier)

    @property
    def peer_mru(self) -> int:
        return min(link.peer_mru for link in self.links)

    @property
    def mtu(self) -> int:
        return min(self.settings.mrru, self.terms.peer_mrru)

    def facts(self) -> dict[str, Any]:
        return {"user": self.user, "method": self.method, "mru": self.terms.mrru, "accm": 0, "pfc": True, "acfc": True, "our_magic": 0,
                "peer_magic": 0}

    def send(self, protocol: int, packet: bytes) -> None:
        self._outgoing.append((protocol, packet))

    def network_up(self, link: LinkUp) -> None:
        self._open_by = None
        self._events.append(link)

    def network_event(self, event: LinkReset | CipherReset) -> None:
        self._events.append(event)

    def network_down(self, now: float) -> None:
        if self._open_by is None and not self.ended:
            self._open_by = now + self.settings.open_timeout

    def ending(self, reason: Reason) -> None:
        if self._reason is None:
            self._reason = reason

    def recovered(self) -> None:
        self._reason = None
