"""The DHCPv6 server of one link (RFC 8415 section 18.3).

One subscriber, so one address of the link's /64 (IA_NA) and one delegated prefix (IA_PD), each bound to the DUID and IAID that asked
for it last: a client that comes back as somebody else, a new router at the old line, takes them over. An offer holds what it names
for a minute. There are no temporary addresses: SLAAC gives better ones.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Protocol

from .dhcp6 import (
    DNS_SERVERS,
    DOMAIN_LIST,
    IA_NA,
    IA_PD,
    REFRESH,
    Association,
    Code,
    Lease,
    Message,
    Status,
    Type,
)

PREFERRED, VALID = 3600, 7200           # seconds
T1, T2 = PREFERRED // 2, PREFERRED * 4 // 5     # section 21.4
OFFER = 60.0
INFORMATION = 86400                     # until a client without leases asks again (section 21.23)
NONE_LEFT = {IA_PD: Status(Code.NO_PREFIX_AVAIL, "no prefix is left for you")}
NO_ADDRESS = Status(Code.NO_ADDRS_AVAIL, "no address is left for you")
NO_BINDING = Status(Code.NO_BINDING, "that is not bound to you")


class Prefixes(Protocol):
    """Where delegated prefixes come from."""
    def take(self) -> IPv6Network | None:
        """One that leads to this link from now on; the same until it is given back."""
    def give(self) -> None:
        """It is free again."""


@dataclass(slots=True)
class Binding:
    client: bytes
    iaid: int
    what: IPv6Address | IPv6Network
    until: float


@dataclass(frozen=True, slots=True)
class Information:
    """What clients are told besides."""
    dns: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Section 16: who must be named in a message, and what answers it."""
    client: bool                # the client must be
    server: bool | None         # the server must be, must not be, may be
    answer: Callable[[Server, Message, float], Message | None]


class Server:
    """`handle` answers a message, `tick` ends what ran out, `close` ends everything."""

    __slots__ = ("bindings", "duid", "host", "information", "prefix", "prefixes")

    def __init__(self, duid: bytes, prefix: IPv6Network | None, prefixes: Prefixes | None, information: Information) -> None:
        self.duid, self.prefix, self.prefixes, self.information = duid, prefix, prefixes, information
        self.host = 1                               # of the address that is given
        self.bindings: dict[int, Binding] = {}      # by IA_NA and IA_PD

    # -- messages

    def handle(self, message: Message, now: float, unicast: bool = False) -> Message | None:
        """The answer, or None where the RFC has none."""
        rule = self.rules.get(Type(message.kind))
        if rule is None or (rule.client and not message.client):
            return None
        if rule.server is None:         # may be named, but then it is us
            if message.server not in (b"", self.duid) or message.associations:
                return None
        elif bool(message.server) != rule.server or (rule.server and message.server != self.duid):
            return None
        if unicast:                     # section 18.3.8: nobody was told to
            return self.reply(message, status=Status(Code.USE_MULTICAST, "send to ff02::1:2")) if rule.server else None
        return rule.answer(self, message, now)

    def reply(self, message: Message, kind: Type = Type.REPLY, associations: tuple[Association, ...] = (), *, status: Status | None = None,
              rapid_commit: bool = False, inform: bool = False, refresh: int | None = None) -> Message:
        asked = message.requested
        return Message(kind, message.transaction, message.client, self.duid, associations, status=status, rapid_commit=rapid_commit,
                       dns=self.information.dns if inform and (asked is None or DNS_SERVERS in asked) else (),
                       domains=self.information.domains if inform and (asked is None or DOMAIN_LIST in asked) else (), refresh=refresh)

    def solicit(self, message: Message, now: float) -> Message:
        rapid = message.rapid_commit
        given = self.give_all(message, now, VALID if rapid else OFFER)
        return self.reply(message, Type.REPLY if rapid else Type.ADVERTISE, given, rapid_commit=rapid, inform=True)

    def request(self, message: Message, now: float) -> Message:
        return self.reply(message, associations=self.give_all(message, now, VALID), inform=True)

    def renew(self, message: Message, now: float) -> Message:
        return self.reply(message, associations=tuple(self.extend(message, a, now) for a in message.associations), inform=True)

    def confirm(self, message: Message, now: float) -> Message | None:
        """Whether its addresses may be used here; nothing is said of none (section 18.3.3)."""
        addresses = [lease.what for a in message.associations for lease in a.leases if isinstance(lease.what, IPv6Address)]
        if not addresses:
            return None
        if self.prefix is not None and all(address in self.prefix for address in addresses):
            return self.reply(message, status=Status(Code.SUCCESS, "you are where you were"))
        return self.reply(message, status=Status(Code.NOT_ON_LINK, "that is not an address of this link"))

    def release(self, message: Message, now: float) -> Message:
        return self.give_up(message, Status(Code.SUCCESS, "released"))

    def decline(self, message: Message, now: float) -> Message:
        """Somebody on the link has the address: the next one is another (section 18.3.8)."""
        bound = self.bindings.get(IA_NA)
        if bound is not None and any(self.bound(message, a) is bound for a in message.associations):
            self.host += 1
        return self.give_up(message, Status(Code.SUCCESS, "noted"))

    def inform(self, message: Message, now: float) -> Message:
        refresh = INFORMATION if message.requested is not None and REFRESH in message.requested else None
        return self.reply(message, inform=True, refresh=refresh)

    # -- bindings

    def bound(self, message: Message, asked: Association) -> Binding | None:
        """The binding of this client's association."""
        binding = self.bindings.get(asked.kind)
        return binding if binding is not None and (binding.client, binding.iaid) == (message.client, asked.iaid) else None

    def give_all(self, message: Message, now: float, seconds: float) -> tuple[Association, ...]:
        """Of each kind the first association gets something."""
        served: set[int] = set()
        answers = []
        for asked in message.associations:
            binding = None if asked.kind in served else self.bind(message, asked, now, seconds)
            served.add(asked.kind)
            if binding is None:
                answers.append(Association(asked.kind, asked.iaid, status=NONE_LEFT.get(asked.kind, NO_ADDRESS)))
            else:
                answers.append(leased(binding, asked))
        return tuple(answers)

    def bind(self, message: Message, asked: Association, now: float, seconds: float) -> Binding | None:
        binding = self.bindings.get(asked.kind)
        if binding is None:
            what = self.pick(asked.kind)
            if what is None:
                return None
            binding = self.bindings[asked.kind] = Binding(message.client, asked.iaid, what, now)
        elif (binding.client, binding.iaid) != (message.client, asked.iaid):
            binding.client, binding.iaid = message.client, asked.iaid
        binding.until = max(binding.until, now + seconds)
        return binding

    def pick(self, kind: int) -> IPv6Address | IPv6Network | None:
        if kind == IA_NA and self.prefix is not None:
            return self.prefix[self.host]
        return self.prefixes.take() if kind == IA_PD and self.prefixes is not None else None

    def extend(self, message: Message, asked: Association, now: float) -> Association:
        """Renew or Rebind (sections 18.3.4 and 18.3.5): what is bound goes on, whatever else the client believes to have is void."""
        binding = self.bound(message, asked)
        foreign = tuple(Lease(lease.what) for lease in asked.leases if binding is None or lease.what != binding.what)
        if binding is None:
            return Association(asked.kind, asked.iaid, leases=foreign, status=NO_BINDING)
        binding.until = now + VALID
        return leased(binding, asked, foreign)

    def give_up(self, message: Message, status: Status) -> Message:
        unknown = []
        for asked in message.associations:
            if self.bound(message, asked) is None:
                unknown.append(Association(asked.kind, asked.iaid, status=NO_BINDING))
            else:
                self.unbind(asked.kind)
        return self.reply(message, associations=tuple(unknown), status=status)

    def unbind(self, kind: int) -> None:
        if self.bindings.pop(kind, None) is not None and kind == IA_PD and self.prefixes is not None:
            self.prefixes.give()

    # -- time

    def deadline(self) -> float | None:
        return min((binding.until for binding in self.bindings.values()), default=None)

    def tick(self, now: float) -> None:
        for kind in [kind for kind, binding in self.bindings.items() if binding.until <= now]:
            self.unbind(kind)

    def close(self) -> None:
        for kind in tuple(self.bindings):
            self.unbind(kind)

    rules = {
        Type.SOLICIT: Rule(True, False, solicit), Type.REQUEST: Rule(True, True, request), Type.CONFIRM: Rule(True, False, confirm),
        Type.RENEW: Rule(True, True, renew), Type.REBIND: Rule(True, False, renew), Type.RELEASE: Rule(True, True, release),
        Type.DECLINE: Rule(True, True, decline), Type.INFORMATION_REQUEST: Rule(False, None, inform),
    }


def leased(binding: Binding, asked: Association, foreign: tuple[Lease, ...] = ()) -> Association:
    return Association(asked.kind, asked.iaid, T1, T2, (Lease(binding.what, PREFERRED, VALID), *foreign))
