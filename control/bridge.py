"""The Ethernet ports of bridged sessions, as control sees them: a number among its worker's, and a TAP that the supervisor makes."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..fastpath.bridge import PORTS
from .settings import Profile
from .store import Store, StoreError
from .tun import exists


@dataclass(frozen=True, slots=True)
class Port:
    """What a session has while it bridges."""
    worker: int
    number: int
    name: str           # in the store
    bridge: str


class Ports:
    """Numbers are used oldest first: the last session of one is out of its worker's sight when the next comes."""

    def __init__(self, workers: int, store: Store) -> None:
        self.store = store
        self.free = [deque(range(1, PORTS)) for _ in range(workers)]
        for name in store.names("tap/"):        # of a control that is no more
            store.drop(name)

    def has(self, bridge: str) -> bool:
        """Whether there is such an interface at the moment."""
        return exists(bridge)

    def open(self, worker: int, slot: int, generation: int, profile: Profile) -> Port:
        """A port in the profile's bridge. StoreError: a sentence says why not."""
        assert profile.bridge
        if not self.free[worker]:
            raise StoreError(f"worker {worker} has {PORTS - 1} bridged sessions already")
        number = self.free[worker].popleft()
        name = f"tap/{worker}/{number}/{slot}/{generation}"
        try:
            self.store.open("tap", name=name, bridge=profile.bridge, cost=profile.bridge_path_cost or None, priority=profile.port_priority,
                            learning=profile.bridge_learning, isolated=profile.bridge_horizon is not None)
        except StoreError:
            self.free[worker].append(number)
            raise
        return Port(worker, number, name, profile.bridge)

    def close(self, port: Port) -> None:
        """Its session bridges no more: the interface goes."""
        self.store.drop(port.name)
        self.free[port.worker].append(port.number)
