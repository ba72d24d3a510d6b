"""Tunnel and session ids: chosen by us, so that they lead straight to a slot (design.md 4).

A session id belongs to the bank of its tunnel, slot = bank << 16 | id; in PPTP a hash of the peer's address stands for the tunnel's id.
Ids are handed out oldest first and rest for a minute, so that what is still under way for an old session never meets a new one. Those
never used come first, from a random one on. What a former life left behind counts as used.
"""
from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

REST = 60.0             # seconds
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


class Ids:
    """The ids of one concentrator (l2tpevents.Ids, pptpevents.CallIds)."""

    def __init__(self, tables: Any, max_sessions: int, random: Random, clock: Callable[[], float], rest: float = REST) -> None:
        self.tables, self.max_sessions, self.clock, self.rest = tables, max_sessions, clock, rest
        banks = tables.banks
        self.banks = [Space(random) for _ in range(banks)]
        self.tunnels = [Space(random, bank or banks, banks) for bank in range(banks)]      # by the bank that they lead to
        self.sessions = 0
        self.most: dict[str, int] = {}                          # by service, where it may not have them all
        self.used: Counter[str] = Counter()

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

    def take_tunnel(self) -> int | None:
        """An id whose bank is emptiest."""
        banks, tunnels = self.banks, self.tunnels
        for bank in sorted(range(len(banks)), key=lambda b: (banks[b].taken, tunnels[b].taken)):
            space = tunnels[bank]
            tunnel = space.fresh()
            if tunnel is None and space.resting and space.resting[0][0] <= self.clock():
                tunnel = space.resting.popleft()[2]
            if tunnel is not None:
                space.taken += 1
                return tunnel
        return None

    def give_tunnel(self, tunnel_id: int) -> None:
        space = self.tunnels[tunnel_id % len(self.banks)]
        space.taken -= 1
        space.resting.append((self.clock() + self.rest, [], tunnel_id))

    def take_session(self, tunnel_id: int) -> int | None:
        return self._take("l2tp", tunnel_id)

    def take_call(self, peer: bytes) -> int | None:
        """A PPTP call's, for this peer's address (pptpevents.CallIds)."""
        return self._take("pptp", self.tables.peer_hash(peer))

    def _take(self, service: str, tunnel_id: int) -> int | None:
        if self._full(service):
            return None
        bank = self.banks[tunnel_id % len(self.banks)]
        session = self._next(bank, tunnel_id)
        if session is not None:
            bank.taken += 1
            self.sessions += 1
            self.used[service] += 1
        return session

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

    def give_session(self, tunnel_id: int, session_id: int) -> None:
        self._give("l2tp", tunnel_id, session_id)

    def give_call(self, peer: bytes, call_id: int) -> None:
        self._give("pptp", self.tables.peer_hash(peer), call_id)

    def _give(self, service: str, tunnel_id: int, session_id: int) -> None:
        bank = self.banks[tunnel_id % len(self.banks)]
        bank.taken -= 1
        self.sessions -= 1
        self.used[service] -= 1
        self._rest(bank, session_id)

    def _rest(self, bank: Space, session_id: int) -> None:
        bank.resting.append((self.clock() + self.rest, self.tables.epochs(), session_id))
