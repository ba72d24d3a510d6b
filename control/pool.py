"""Pools of addresses and of prefixes: oldest first, and the last one back to the user who had it.

What was given back rests for a minute before somebody else gets it, so that nobody inherits the connections
of the one before.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

REST = 60.0     # seconds


class Pool:
    """The addresses of some prefixes but the reserved ones (our own), and network and broadcast address of each."""

    def __init__(self, networks: Iterable[IPv4Network], reserved: Iterable[IPv4Address], clock: Callable[[], float]) -> None:
        self.ranges = [(int(n[0]) + (n.num_addresses > 2), int(n[-1]) - (n.num_addresses > 2)) for n in networks]
        self._start({int(a) for a in reserved}, clock)

    def _start(self, reserved: set[int], clock: Callable[[], float]) -> None:
        self.reserved, self.clock = reserved, clock
        self.taken: dict[int, str] = {}                     # address -> user
        self.resting: dict[int, tuple[float, str]] = {}     # address -> (since, user), oldest first
        self.last: dict[str, int] = {}                      # user -> the address of his that rests since last
        self.range, self.next = 0, self.ranges[0][0]

    # Within, addresses are numbers.

    def number(self, address: Any) -> int:
        return int(address)

    def item(self, number: int) -> Any:
        return IPv4Address(number)

    def __contains__(self, address: Any) -> bool:
        return isinstance(address, IPv4Address) and self._has(int(address))

    def _has(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self.ranges)

    def reserve(self, reserved: Iterable[Any]) -> None:
        """Others are reserved now. What is not any more becomes free by and by, who has such an address keeps it."""
        before, self.reserved = self.reserved, {self.number(a) for a in reserved}
        for address in sorted(before - self.reserved):
            if self._has(address) and address not in self.taken:
                self.resting.setdefault(address, (self.clock(), ""))

    def inherit(self, resting: Iterable[tuple[int, tuple[float, str]]]) -> None:
        """Addresses that rest since another pool had them, oldest first."""
        for address, (since, user) in resting:
            if self._has(address) and address not in self.taken:
                self.resting[address] = since, user
                self.last[user] = address

    def take(self, user: str) -> Any:
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
        return self.item(address)

    def claim(self, address: Any, user: str) -> bool:
        """A given address, for a user who has a fixed one; False when somebody holds it."""
        number = self.number(address)
        if number in self.taken:
            return False
        if number in self.resting:
            self._wake(number)
        self.taken[number] = user
        return True

    def give(self, address: Any) -> None:
        number = self.number(address)
        user = self.taken.pop(number, None)
        if user is not None:
            self.resting[number] = (self.clock(), user)
            self.last[user] = number

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


class PrefixPool(Pool):
    """IPv6 prefixes of one length out of larger ones, but those in which reserved addresses lie."""

    def __init__(self, networks: Iterable[IPv6Network], length: int, reserved: Iterable[IPv6Address], clock: Callable[[], float]) -> None:
        self.length = length
        self.ranges = [(int(n.network_address) >> 128 - length, int(n.broadcast_address) >> 128 - length) for n in networks]
        self._start({self.number(a) for a in reserved}, clock)

    def number(self, address: IPv6Address | IPv6Network) -> int:
        return int(address if isinstance(address, IPv6Address) else address.network_address) >> 128 - self.length

    def item(self, number: int) -> IPv6Network:
        return IPv6Network((number << 128 - self.length, self.length))

    def __contains__(self, prefix: Any) -> bool:
        return isinstance(prefix, IPv6Network) and prefix.prefixlen == self.length and self._has(self.number(prefix))


class Pools:
    """The pools of one family, and what is in use outside of them."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        self.fixed: dict[Any, str] = {}

    def configure(self, pools: dict[str, Pool]) -> None:
        """Others are in force; what is in use stays so, and what rests goes on resting."""
        fixed, self.fixed = self.fixed, {}
        old, self.pools = self.pools, {}
        for name, pool in pools.items():
            before = old.get(name)
            if before is not None and (before.ranges, before.item(0)) == (pool.ranges, pool.item(0)):
                del old[name]
                before.reserve(map(pool.item, pool.reserved))
                pool = before
            self.pools[name] = pool
        for item, user in fixed.items():                    # a pool may have come to include it
            self.hold(item, user)
        for pool in old.values():                           # those that are gone or have other prefixes
            for number, user in pool.taken.items():
                self.hold(pool.item(number), user)
        resting = sorted(((pool, item) for pool in old.values() for item in pool.resting.items()), key=lambda one: one[1][1][0])
        for pool in self.pools.values():
            pool.inherit(item for before, item in resting if before.item(0) == pool.item(0))

    def in_use(self) -> Iterator[Any]:
        yield from (pool.item(number) for pool in self.pools.values() for number in pool.taken)
        yield from self.fixed

    def holder(self, item: Any) -> str | None:
        """Who has it now."""
        for pool in self.pools.values():
            if item in pool and pool.number(item) in pool.taken:
                return pool.taken[pool.number(item)]
        return self.fixed.get(item)

    def hold(self, item: Any, user: str) -> bool:
        """Give a certain one; False when somebody has it."""
        for pool in self.pools.values():
            if item in pool:
                return pool.claim(item, user)
        if item in self.fixed:
            return False
        self.fixed[item] = user
        return True

    def release(self, item: Any) -> None:
        for pool in self.pools.values():
            if item in pool:
                pool.give(item)
        self.fixed.pop(item, None)
