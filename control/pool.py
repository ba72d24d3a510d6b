"""Address pools: oldest first, and the last address back to the user who had it.

An address that was given back rests for a minute before somebody else gets it, so that nobody inherits the connections
of the one before.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network

REST = 60.0     # seconds


class Pool:
    """The addresses of some prefixes but the reserved ones (our own), and network and broadcast address of each."""

    def __init__(self, networks: Iterable[IPv4Network], reserved: Iterable[IPv4Address], clock: Callable[[], float]) -> None:
        self.ranges = [(int(n[0]) + (n.num_addresses > 2), int(n[-1]) - (n.num_addresses > 2)) for n in networks]
        self.reserved = {int(a) for a in reserved}
        self.clock = clock
        self.taken: dict[int, str] = {}                     # address -> user
        self.resting: dict[int, tuple[float, str]] = {}     # address -> (since, user), oldest first
        self.last: dict[str, int] = {}                      # user -> the address of his that rests since last
        self.range, self.next = 0, self.ranges[0][0]

    def __contains__(self, address: IPv4Address) -> bool:
        return any(low <= int(address) <= high for low, high in self.ranges)

    def reserve(self, reserved: Iterable[IPv4Address]) -> None:
        """Others are reserved now. What is not any more becomes free by and by, who has such an address keeps it."""
        before, self.reserved = self.reserved, {int(a) for a in reserved}
        for address in sorted(before - self.reserved):
            if IPv4Address(address) in self and address not in self.taken:
                self.resting.setdefault(address, (self.clock(), ""))

    def inherit(self, resting: Iterable[tuple[int, tuple[float, str]]]) -> None:
        """Addresses that rest since another pool had them, oldest first."""
        for address, (since, user) in resting:
            if IPv4Address(address) in self and address not in self.taken:
                self.resting[address] = since, user
                self.last[user] = address

    def take(self, user: str) -> IPv4Address | None:
        """An address for the user, or None when there is none."""
        address = self.last.pop(user, None)
        if address is not None and address not in self.reserved:
            del self.resting[address]
        else:
            address = self._fresh()
            if address is None:
                address = self._rested()
        if address is None:
            return None
        self.taken[address] = user
        return IPv4Address(address)

    def claim(self, address: IPv4Address, user: str) -> bool:
        """A given address, for a user who has a fixed one; False when somebody holds it."""
        if int(address) in self.taken:
            return False
        if int(address) in self.resting:
            self._wake(int(address))
        self.taken[int(address)] = user
        return True

    def give(self, address: IPv4Address) -> None:
        user = self.taken.pop(int(address), None)
        if user is not None:
            self.resting[int(address)] = (self.clock(), user)
            self.last[user] = int(address)

    def _wake(self, address: int) -> None:
        """An address rests no more, and nobody's last one it is."""
        _, user = self.resting.pop(address)
        if self.last.get(user) == address:
            del self.last[user]

    def _fresh(self) -> int | None:
        """The next one that was never given."""
        while self.range < len(self.ranges):
            address = self.next
            if address > self.ranges[self.range][1]:
                self.range += 1
                if self.range < len(self.ranges):
                    self.next = self.ranges[self.range][0]
                continue
            self.next += 1
            if address not in self.reserved and address not in self.taken and address not in self.resting:
                return address
        return None

    def _rested(self) -> int | None:
        """The one that rests longest, if that is long enough."""
        while self.resting:
            address = next(iter(self.resting))
            if self.clock() - self.resting[address][0] < REST:
                return None
            self._wake(address)
            if address not in self.reserved:
                return address
        return None
