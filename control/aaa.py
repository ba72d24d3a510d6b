"""Who may come in and what he gets: the secrets of the configuration, profiles and pools."""
from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from .auth import Accept, AuthRequest, Reject, verify
from .pool import Pool
from .settings import Config, Profile, Secret


class Authority:
    """Local authentication and addresses."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.pools: dict[str, Pool] = {}
        self.fixed: dict[IPv4Address, str] = {}     # addresses outside the pools that are in use
        self.barred: dict[str, float] = {}          # accounts that may not come in until then
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; addresses that are in use stay so."""
        self.config = config
        reserved = {p.local_address for p in config.profiles.values()}
        fixed, self.fixed = self.fixed, {}
        old, self.pools = self.pools, {}
        for name, networks in config.pools.items():
            pool = Pool(networks, reserved, self.clock)
            if name in old and old[name].ranges == pool.ranges:
                pool = old.pop(name)
                pool.reserve(reserved)
            self.pools[name] = pool
        for address, user in fixed.items():                 # a pool may have come to include it
            self._hold(address, user)
        for pool in old.values():                           # those that are gone or have other prefixes
            for number, user in pool.taken.items():
                self._hold(IPv4Address(number), user)
        resting = sorted((item for pool in old.values() for item in pool.resting.items()), key=lambda item: item[1][0])
        for pool in self.pools.values() if resting else ():
            pool.inherit(resting)

    def check(self, request: AuthRequest, caller_id: str, service: str) -> tuple[str, Secret, str] | Reject:
        """The account, its secret, and the message for the peer, or why not. An account is a name under [secrets]; the whole name that
        the peer said goes before the one without DOMAIN\\."""
        account = request.user if request.user in self.config.secrets else request.account
        secret = self.config.secrets.get(account)
        if secret is None:
            return Reject(f"there is no secret for user {request.user!r}", "unknown-user")
        if secret.service not in ("any", service):
            return Reject(f"user {request.user!r} may not use {service}", "service")
        if secret.caller_id is not None and secret.caller_id != caller_id:
            return Reject(f"user {request.user!r} may not call from {caller_id}", "caller-id")
        message = verify(request, secret.password)
        if message is None:
            return Reject(f"wrong password for user {request.user!r}", "bad-password")
        wait = self.barred.get(account, 0.0) - self.clock()
        if wait > 0:
            return Reject(f"user {request.user!r} is in quarantine for another {wait:.0f} s", "quarantined")
        return account, secret, message

    def bar(self, account: str, until: float) -> None:
        """Keep a user out until then."""
        self.barred[account] = until

    def profile(self, secret: Secret, default: str) -> Profile:
        """The secret's, or the one with the default's name."""
        return self.config.profile_of(secret, default)

    def fixed_address(self, secret: Secret, profile: Profile) -> IPv4Address | None:
        """The one address that a session of this secret can have, if it is not from a pool."""
        wanted = secret.remote_address or profile.remote_address
        return wanted if isinstance(wanted, IPv4Address) else None

    def grant(self, secret: Secret, profile: Profile, user: str, message: str) -> Accept | Reject:
        """Take an address and say what the peer gets."""
        wanted = secret.remote_address or profile.remote_address
        if isinstance(wanted, IPv4Address):
            if not self._hold(wanted, user):
                return Reject(f"address {wanted} of user {user!r} is in use by {self.holder(wanted)!r}", "no-address")
            address: IPv4Address | None = wanted
        elif wanted is None:
            return Reject(f"neither user {user!r} nor his profile has a remote-address", "no-address")
        else:
            address = self.pools[wanted].take(user)
        if address is None:
            return Reject(f"pool {wanted!r} has no address left", "no-address")
        return Accept(profile.local_address, address, profile.dns_server, profile.wins_server, message)

    def holder(self, address: IPv4Address) -> str | None:
        """Who has an address now."""
        for pool in self.pools.values():
            if int(address) in pool.taken:
                return pool.taken[int(address)]
        return self.fixed.get(address)

    def _hold(self, address: IPv4Address, user: str) -> bool:
        for pool in self.pools.values():
            if address in pool:
                return pool.claim(address, user)
        if address in self.fixed:
            return False
        self.fixed[address] = user
        return True

    def release(self, address: IPv4Address) -> None:
        for pool in self.pools.values():
            if int(address) in pool.taken:
                pool.give(address)
        self.fixed.pop(address, None)
