"""Tunnel and session ids: chosen by us, so that they lead straight to a slot (design.md 4).

A session id belongs to the bank of its tunnel, slot = bank << 16 | id; in PPTP a hash of the peer's address stands for the tunnel's id,
in PPPoE one of the network. Ids are handed out oldest first and rest for a minute, so that what is still under way for an old session
never meets a new one. Those never used come first, from a random one on. What a former life left behind counts as used.

Since ids rest, who opens calls and clears them in a loop would soon have made a bank's 65,534 rest, or all tunnels'. So those calls and
tunnels are counted, by where they came from, in which no user was ever let in: from one place no more than STRANGERS of them may rest.
"""
from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from .address import origin, shown

log = logging.getLogger("headrace.ids")

REST = 60.0             # seconds
STRANGERS = 8192        # an eighth of a bank
FIRST, LAST = 1, 65534  # of the ids that are handed out


class Space:
    """Ids from `first` on, `step` apart."""

    __slots__ = ("first", "former", "resting", "size", "start", "step", "taken", "unused")

    def __init__(self, random: Random, first: int = FIRST, step: int = 1) -> None:
        self.first, self.step = first, step
        self.size = (LAST - first) // step + 1
        self.start = random.randrange(self.size)
        self.unused = self.size                                         # how many we never came to
        self.former: set[int] = set()                                   # of a former life: taken or resting before we came to them
        self.resting: deque[tuple[float, list[int], int]] = deque()     # when it may be used again, the workers' epochs then, id
        self.taken = 0

    def fresh(self) -> int | None:
        """The next one that was never used."""
        while self.unused:
            number = self.first + (self.start + self.size - self.unused) % self.size * self.step
            self.unused -= 1
            if number not in self.former:
                return number
        return None


class Strangers:
    """Those calls, or tunnels, in which nobody was let in: where each that is held came from, and how many rest. There are never more
    than ids."""

    __slots__ = ("held", "leaving", "most", "refused", "resting", "what")

    def __init__(self, what: str, most: int = STRANGERS) -> None:
        self.what, self.most = what, most
        self.held: dict[int, bytes] = {}                            # by slot, or by tunnel id
        self.leaving: deque[tuple[float, bytes]] = deque()          # those that rest: until when, and whose they were
        self.resting: Counter[bytes] = Counter()
        self.refused: set[bytes] = set()                            # who was told of in the log, until none of theirs rests

    def refuses(self, peer: bytes, now: float) -> bool:
        """Whether too many rest that came from there."""
        while self.leaving and self.leaving[0][0] <= now:
            gone = self.leaving.popleft()[1]
            self.resting[gone] -= 1
            if not self.resting[gone]:
                del self.resting[gone]
                self.refused.discard(gone)
        place = origin(peer)
        if self.resting.get(place, 0) < self.most:
            return False
        if place not in self.refused:
            self.refused.add(place)
            log.warning("%s: no more %s for now: of the last, %d ended without a user who was let in", shown(peer), self.what, self.most)
        return True

    def rest(self, number: int, until: float) -> None:
        """One is over."""
        place = self.held.pop(number, None)
        if place is not None:
            self.leaving.append((until, place))
            self.resting[place] += 1


class Ids:
    """The ids of one concentrator (l2tpevents.Ids, pptpevents.CallIds)."""

    def __init__(self, tables: Any, max_sessions: int, random: Random, clock: Callable[[], float], rest: float = REST) -> None:
        self.tables, self.max_sessions, self.clock, self.rest = tables, max_sessions, clock, rest
        banks = tables.banks
        self.banks = [Space(random) for _ in range(banks)]
        self.tunnels = [Space(random, bank or banks, banks) for bank in range(banks)]      # by the bank that they lead to
        self.sessions = self.bundles = 0
        self.most: dict[str, int] = {}                          # by service, where it may not have them all
        self.used: Counter[str] = Counter()
        self.strangers, self.greeters = Strangers("calls"), Strangers("tunnels")

    def limit(self, max_sessions: int, services: Mapping[str, int]) -> None:
        """How many sessions there may be in all, and of a service; 0 is all."""
        self.max_sessions = max_sessions
        self.most = {name: most or max_sessions for name, most in services.items()}

    def _full(self, service: str) -> bool:
        return self.sessions >= self.max_sessions or self.used[service] >= self.most.get(service, self.max_sessions)

    def inherit(self, tunnels: Iterable[int] = (), slots: Iterable[int] = ()) -> None:
        """At the start: tunnels of a former life that still say goodbye are taken, slots that it left rest."""
        for tunnel in tunnels:
            space = self.tunnels[tunnel % len(self.banks)]
            space.former.add(tunnel)
            space.taken += 1
        for slot in slots:
            bank, session = self.banks[slot >> 16], slot & 0xFFFF
            bank.former.add(session)
            self._rest(bank, session)

    def take_tunnel(self, peer: bytes) -> int | None:
        """An id whose bank is emptiest."""
        banks, tunnels = self.banks, self.tunnels
        if self.greeters.refuses(peer, self.clock()):
            return None
        for bank in sorted(range(len(banks)), key=lambda b: (banks[b].taken, tunnels[b].taken)):
            space = tunnels[bank]
            tunnel = space.fresh()
            if tunnel is None and space.resting and space.resting[0][0] <= self.clock():
                tunnel = space.resting.popleft()[2]
            if tunnel is not None:
                space.taken += 1
                self.greeters.held[tunnel] = origin(peer)
                return tunnel
        return None

    def tunnel_over(self, tunnel_id: int) -> None:
        """It only says goodbye now, which takes a while: it counts like one that rests."""
        self.greeters.rest(tunnel_id, self.clock() + self.rest)

    def give_tunnel(self, tunnel_id: int) -> None:
        self.tunnel_over(tunnel_id)
        space = self.tunnels[tunnel_id % len(self.banks)]
        space.taken -= 1
        space.resting.append((self.clock() + self.rest, [], tunnel_id))

    def take_session(self, tunnel_id: int, peer: bytes) -> int | None:
        return self._take("l2tp", tunnel_id, peer)

    def take_call(self, peer: bytes, service: str = "pptp", station: bytes = b"") -> int | None:
        """A call's, for this peer's address (pptpevents.CallIds), or for a station of this network (pppoe.Ids), whose others have no
        part in what it does."""
        return self._take(service, self.tables.peer_hash(peer), station or peer)

    def _take(self, service: str, tunnel_id: int, peer: bytes) -> int | None:
        if self._full(service) or self.strangers.refuses(peer, self.clock()):
            return None
        bank = self.banks[tunnel_id % len(self.banks)]
        session = self._next(bank, tunnel_id)
        if session is not None:
            bank.taken += 1
            self.sessions += 1
            self.used[service] += 1
            self.strangers.held[self.tables.slot(tunnel_id, session)] = origin(peer)
        return session

    def let_in(self, service: str, tunnel_id: int, slot: int) -> None:
        """The call's user is who he says."""
        self.strangers.held.pop(slot, None)
        if service == "l2tp":
            self.greeters.held.pop(tunnel_id, None)

    def _next(self, bank: Space, tunnel_id: int) -> int | None:
        tables = self.tables
        while (session := bank.fresh()) is not None:
            if tables.reusable(tables.slot(tunnel_id, session)):
                return session
            self._rest(bank, session)
        if bank.resting:
            ready, mark, session = bank.resting[0]
            if ready <= self.clock() and tables.passed(mark) and tables.reusable(tables.slot(tunnel_id, session)):
                bank.resting.popleft()
                return session
        return None

    def take_bundle(self) -> tuple[int, int] | None:
        """A bundle's: the tunnel id that stands for its bank, the emptiest, and a session id. It is beside the sessions of its links,
        and not counted among them."""
        tunnel_id = min(range(len(self.banks)), key=lambda bank: self.banks[bank].taken)
        session = self._next(self.banks[tunnel_id], tunnel_id)
        if session is None:
            return None
        self.banks[tunnel_id].taken += 1
        self.bundles += 1
        return tunnel_id, session

    def give_bundle(self, slot: int) -> None:
        bank = self.banks[slot >> 16]
        bank.taken -= 1
        self.bundles -= 1
        self._rest(bank, slot & 0xFFFF)

    def give_session(self, tunnel_id: int, session_id: int) -> None:
        self._give("l2tp", tunnel_id, session_id)

    def give_call(self, peer: bytes, call_id: int, service: str = "pptp") -> None:
        self._give(service, self.tables.peer_hash(peer), call_id)

    def _give(self, service: str, tunnel_id: int, session_id: int) -> None:
        bank = self.banks[tunnel_id % len(self.banks)]
        bank.taken -= 1
        self.sessions -= 1
        self.used[service] -= 1
        self.strangers.rest(self.tables.slot(tunnel_id, session_id), self.clock() + self.rest)
        self._rest(bank, session_id)

    def _rest(self, bank: Space, session_id: int) -> None:
        bank.resting.append((self.clock() + self.rest, self.tables.epochs(), session_id))
