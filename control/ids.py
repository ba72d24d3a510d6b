"""Tunnel and session ids: chosen by us, so that they lead straight to a slot (design.md 4).

A session id belongs to the bank of its tunnel, slot = bank << 16 | id. Ids are handed out oldest first and rest for a
minute, so that what is still under way for an old session never meets a new one. Those never used come first, from a
random one on.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

REST = 60.0             # seconds
FIRST, LAST = 1, 65534  # of the ids that are handed out


class Bank:
    """The ids of one number space."""

    __slots__ = ("fresh", "resting", "start", "taken")

    def __init__(self, random: Random) -> None:
        self.start = random.randint(FIRST, LAST)
        self.fresh = LAST - FIRST + 1                          # how many were never used
        self.resting: deque[tuple[float, list[int], int]] = deque()     # when it may be used again, the workers' epochs then, id
        self.taken = 0

    def next_fresh(self) -> int:
        used = LAST - FIRST + 1 - self.fresh
        self.fresh -= 1
        return (self.start - FIRST + used) % (LAST - FIRST + 1) + FIRST


class Ids:
    """The ids of one concentrator (l2tpevents.Ids)."""

    def __init__(self, tables: Any, max_sessions: int, random: Random, clock: Callable[[], float], rest: float = REST) -> None:
        self.tables, self.max_sessions, self.clock, self.rest = tables, max_sessions, clock, rest
        self.banks = [Bank(random) for _ in range(tables.banks)]
        self.tunnels = Bank(random)
        self.sessions = 0
        self.reserved: set[int] = set()     # tunnel ids of a former life that still say goodbye

    def take_tunnel(self) -> int | None:
        """An id whose bank has the most room, as far as the next few allow a choice."""
        bank = self.tunnels
        for _ in range(64):
            if bank.fresh:
                tunnel = bank.next_fresh()
            elif bank.resting and bank.resting[0][0] <= self.clock():
                tunnel = bank.resting.popleft()[2]
            else:
                return None
            if tunnel not in self.reserved:
                bank.taken += 1
                return tunnel
        return None

    def give_tunnel(self, tunnel_id: int) -> None:
        self.tunnels.taken -= 1
        self.tunnels.resting.append((self.clock() + self.rest, [], tunnel_id))

    def take_session(self, tunnel_id: int) -> int | None:
        if self.sessions >= self.max_sessions:
            return None
        bank = self.banks[tunnel_id % len(self.banks)]
        session = self._next(bank, tunnel_id)
        if session is not None:
            bank.taken += 1
            self.sessions += 1
        return session

    def _next(self, bank: Bank, tunnel_id: int) -> int | None:
        while bank.fresh:
            session = bank.next_fresh()
            if self.tables.reusable(self.tables.slot(tunnel_id, session)):
                return session
        if bank.resting:
            ready, mark, session = bank.resting[0]
            if ready <= self.clock() and self.tables.passed(mark) and self.tables.reusable(self.tables.slot(tunnel_id, session)):
                bank.resting.popleft()
                return session
        return None

    def give_session(self, tunnel_id: int, session_id: int) -> None:
        bank = self.banks[tunnel_id % len(self.banks)]
        bank.taken -= 1
        self.sessions -= 1
        bank.resting.append((self.clock() + self.rest, self.tables.epochs(), session_id))
