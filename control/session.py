"""One subscriber: a call, its PPP link, its slot in the tables, and how people see it."""
from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ..fastpath.table import TICK_SECONDS
from .address import shown
from .bridge import Port
from .bundle import Bundle
from .install import Route
from .ipv6cp import link_local
from .link import LinkUp
from .mppe import Cipher
from .ppp import PPP
from .reason import Reason
from .router import Router
from .service import Call, Service
from .settings import Profile

if TYPE_CHECKING:
    from .bundles import Approach

State = Literal["starting", "authenticating", "open", "closing"]


class Session:
    """From Opening to Down; one that is a bundle (bundles.py) from its first link to its last."""

    __slots__ = ("account", "address", "alarm", "approach", "bundle", "call", "caller_id", "cipher", "delegated", "discriminator", "early",
                 "ended", "generation", "kind", "leads", "link", "links", "name", "number", "opened", "owner", "patient", "port",
                 "port_again", "ppp", "prefix", "profile", "rate", "reason", "router", "sequenced", "service", "slot", "started",
                 "state", "up_since", "user", "watchers")

    def __init__(self, service: Service, call: Call, slot: int, generation: int, owner: int, now: float) -> None:
        self.service, self.call = service, call
        self.slot, self.generation, self.owner, self.started = slot, generation, owner, now
        self.caller_id = shown(call.path.peer)
        self.kind = service.kind                # in the tables
        self.ppp: PPP | Bundle | None = None    # from Up on
        self.bundle: Session | None = None      # whose user data this link carries, with others or alone
        self.links: list[Session] = []          # a bundle's
        self.discriminator = b""                # a bundle's
        self.approach: Approach | None = None   # while it waits to join a bundle
        self.link: LinkUp | None = None         # while user data flows
        self.cipher: Cipher | None = None       # whose keys the tables have
        self.profile: Profile | None = None
        self.address: IPv4Address | None = None
        self.prefix: IPv6Network | None = None          # of its link
        self.delegated: IPv6Network | None = None       # to its router
        self.leads: frozenset[Route] = frozenset()      # what leads to it in the tables
        self.router: Router | None = None               # while IPV6CP is open
        self.port: Port | None = None           # while BCP is
        self.port_again = -inf                  # Holdings.open_port's
        self.user = self.account = self.name = ""   # as the peer says it, the secret's name, how people call this session
        self.number = 0                         # of its name (Names)
        self.state: State = "starting"
        self.reason: Reason | None = None       # why it is ending
        self.up_since = 0.0                     # monotonic, of the first LinkUp
        self.sequenced = service.sequenced      # its data is numbered
        self.rate = 0                           # service.Up's
        self.opened = False                     # its LCP was started
        self.early: tuple[int, bytes] | None = None     # the first frame before that: the peer would repeat it a second later
        self.patient = False                    # it waits for the peer to begin, or for its alarm
        self.ended = False
        self.alarm: float | None = None         # when the timer heap comes to it
        self.watchers: tuple[Callable[[], None], ...] = ()      # who wants to know when it is over

    @property
    def label(self) -> str:
        """How the log calls it: by name, or by where it comes from."""
        return self.name or f"<{self.service.name} from {self.caller_id}>"

    def members(self, now: float) -> list[dict[str, Any]]:
        """A bundle's links."""
        return [{"service": link.service.name, "caller-id": link.caller_id, "uptime": round(now - link.up_since), "mtu": link.ppp.mtu,
                 "mru": link.ppp.lcp.mru, "rate": link.rate} for link in self.links if isinstance(link.ppp, PPP)]

    def row(self, tables: Any, now: float) -> dict[str, Any]:
        """The keys of `sessions --json`; rx is from the peer. The prefixes are keys of sessions that have them, links of bundles."""
        rx_packets, rx_bytes, tx_packets, tx_bytes, _, last_user = tables.counters(self.slot)
        link = self.link
        return {
            "name": self.label, "user": self.user, "service": self.service.name, "caller-id": self.caller_id,
            "address": str(self.address) if self.address else "", "uptime": round(now - self.up_since) if self.up_since else 0,
            "idle-time": max(0, round(now - max(last_user * TICK_SECONDS, self.up_since or now))),
            "encoding": link.encoding if link else "", "mtu": link.mtu if link else 0, "mru": link.mru if link else 0,
            "rx-bytes": rx_bytes, "tx-bytes": tx_bytes, "rx-packets": rx_packets, "tx-packets": tx_packets, "state": self.state,
            **self.service.told(self.call),
            **({"bridge": self.port.bridge} if self.port else {}),
            **({"remote-ipv6-prefix": str(self.prefix)} if self.prefix else {}),
            **({"delegated-ipv6-prefix": str(self.delegated)} if self.delegated else {}),
            **({"links": self.members(now)} if self.links else {})}

    def details(self, tables: Any, now: float) -> dict[str, Any]:
        """What `monitor` shows besides."""
        row, link = self.row(tables, now), self.link
        if link is not None and link.ip:
            row |= {"local-address": str(link.local_address), "remote-address": str(link.remote_address)}
        if link is not None and link.ipv6:
            row |= {"local-ipv6-address": str(link_local(link.local_identifier)),
                    "remote-ipv6-address": str(link_local(link.remote_identifier)) if link.remote_identifier else ""}
        return row


class Failures:
    """The last sessions that did not come up, or were refused, and why."""

    def __init__(self, most: int = 1000) -> None:
        self.rows: list[dict[str, Any]] = []
        self.most = most

    def add(self, service: str, user: str, caller_id: str, reason: Reason) -> None:
        if len(self.rows) >= self.most:
            del self.rows[:self.most // 10]
        self.rows.append({"time": round(time.time()), "user": user, "service": service, "caller-id": caller_id, "stage": reason.stage,
                          "reason": reason.text, "code": reason.code})
