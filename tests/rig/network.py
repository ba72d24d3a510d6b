"""Machines back to back in simulated time, over a wire that loses, doubles and delays."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any


class Network:
    """What is between the machines of a test, and their time. `fates` are what becomes of the first things on the wire: 0 is lost, 1
    passes, 2 comes twice, and more comes late by so many tenths of a second. A subclass collects what its machines say, delivers what
    has arrived, and has the machines in `ends`."""

    def __init__(self, fates: Iterable[int] = (), delay: float = 0.01, apart: float = 0.05) -> None:
        self.fates, self.delay, self.apart, self.now = iter(fates), delay, apart, 0.0
        self.queue: list[tuple[float, int, Any]] = []
        self.order = itertools.count()

    def collect(self) -> None:
        raise NotImplementedError

    def deliver(self, item: Any) -> None:
        raise NotImplementedError

    def ends(self) -> Iterable[Any]:
        raise NotImplementedError

    def wire(self, item: Any) -> None:
        """Onto the wire with it."""
        fate = next(self.fates, 1)
        for n in range(0 if fate == 0 else 2 if fate == 2 else 1):
            late = 0.1 * fate if fate > 2 else self.apart * n
            heappush(self.queue, (self.now + self.delay + late, next(self.order), item))

    def due(self, until: float) -> bool:
        """Let time pass to whatever is next; False when there is nothing before `until`, which it is then."""
        times = [self.queue[0][0]] if self.queue else []
        times += [when for end in self.ends() if (when := end.deadline()) is not None]
        if not times or min(times) > until:
            self.now = until
            return False
        self.now = max(self.now, min(times))
        return True

    def run(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let time pass; stop early when enough happened."""
        self.collect()
        while not enough() and self.due(until):
            if self.queue and self.queue[0][0] <= self.now:
                self.deliver(heappop(self.queue)[2])
            for end in self.ends():
                end.tick(self.now)
            self.collect()
