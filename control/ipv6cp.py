"""The IPv6 Control Protocol (RFC 5072): each end of the link gets an identifier, and with it a link-local address.

A server calls itself 1, which makes its address fe80::1; a client draws its own. Whoever asks for none, or for the other end's,
is told a random one. Header compression is rejected. Addresses beyond fe80::/64 are not this protocol's business: router.py
advertises and delegates them once it is open.
"""
from __future__ import annotations

from ipaddress import IPv6Address
from random import Random
from typing import Any

from .automaton import OPENED, Automaton
from .fields import Field, option, u64
from .link import IPV6CP_PROTOCOL, Link, LinkSettings, Role
from .reason import Reason

IDENTIFIER = 1
SERVER = 1              # a server's identifier; without the universal bit, as all that nobody's hardware vouches for
UNIVERSAL = 1 << 57     # section 4.1: inverted, it says that the identifier is unique in the world
LINK_LOCAL = 0xFE80 << 112


def link_local(identifier: int) -> IPv6Address:
    return IPv6Address(LINK_LOCAL | identifier)


class IPV6CP(Automaton):
    """IPV6CP of one link."""

    PROTOCOL = IPV6CP_PROTOCOL
    NAME = "ipv6cp"
    OPTIONS = {IDENTIFIER: Field("identifier", u64)}
    __slots__ = ("_own", "_suggested")

    def __init__(self, role: Role, link: Link, settings: LinkSettings, random: Random) -> None:
        self._own = SERVER if role == "server" else self._draw(random, 0)
        self._suggested = self._draw(random, self._own)     # for a peer that has none: the same one each time that it asks
        super().__init__(link, settings, random)

    @staticmethod
    def _draw(random: Random, other: int) -> int:
        """An identifier that is not 0 and not the other end's."""
        while True:
            identifier = random.getrandbits(64) & ~UNIVERSAL
            if identifier not in (0, other):
                return identifier

    # What is in force

    @property
    def local_identifier(self) -> int:
        """What the peer would not hear of is in force all the same: it is how we call ourselves."""
        return self.ours.get(IDENTIFIER, self._own)

    @property
    def remote_identifier(self) -> int:
        """0 when the peer will not have one."""
        return self.theirs.get(IDENTIFIER, 0)

    # The policy

    def desired(self) -> dict[int, Any]:
        return {IDENTIFIER: self._own}

    def judge(self, kind: int, value: Any, now: float) -> Any:
        """Section 4.1: 0 and our own are answered by another; anything else is the peer's to choose."""
        if value and value != self.local_identifier:
            return value
        return self._suggestion()

    def _suggestion(self) -> int:
        if self._suggested == self.local_identifier:
            self._suggested = self._draw(self.random, self._suggested)
        return self._suggested

    def missing(self, asked: set[int]) -> bytes:
        if IDENTIFIER in asked:
            return b""
        return option(IDENTIFIER, self._suggestion().to_bytes(8))

    def adapt(self, kind: int, value: Any, now: float) -> None:
        """A Nak names what the peer would rather call us; 0, or what it calls itself, helps nobody."""
        proposed = self._proposal or self.theirs
        theirs = proposed.get(IDENTIFIER, 0)
        self._own = self.ours[kind] = value if value not in (0, theirs) else self._draw(self.random, theirs)

    def unusable(self, what: str) -> None:
        if self.state != OPENED:   # else the link outlives it, and ends for a reason of its own
            self.link.ending(Reason("ipv6cp", "rejected", f"the peer rejected {what} of IPV6CP, and nothing else is open"))
