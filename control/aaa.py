"""Who may come in and what he gets: the secrets of the configuration, profiles and pools."""
from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network
from typing import Any

from .auth import Accept, AuthRequest, Reject, verify
from .ipcp import NOWHERE
from .mppe import keys_of
from .pool import Pool, Pools, PrefixPool
from .settings import Config, Profile, Secret


class Authority:
    """Local authentication, addresses and prefixes."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.addresses, self.prefixes = Pools(), Pools()
        self.barred: dict[str, float] = {}          # accounts that may not come in until then
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; addresses that are in use stay so."""
        self.config = config
        profiles = config.profiles.values()
        reserved = {p.local_address for p in profiles if p.local_address}
        self.addresses.configure({name: Pool(networks, reserved, self.clock) for name, networks in config.pools.items()})
        reserved6 = {p.local_ipv6_address for p in profiles if p.local_ipv6_address}
        self.prefixes.configure({name: PrefixPool(pool.prefix, pool.prefix_length, reserved6, self.clock)
                                 for name, pool in config.ipv6_pool.items()})

    def check(self, request: AuthRequest, caller_id: str, service: str) -> tuple[str, Secret, str] | Reject:
        """The account, its secret, and the message for the peer, or why not. An account is a name under [secrets]; the whole name that
        the peer said goes before the one without DOMAIN\\."""
        account = request.user if request.user in self.config.secrets else request.account
        secret = self.config.secrets.get(account)
        if secret is None:
            return Reject(f"there is no secret for user {request.shown!r}", "unknown-user")
        if secret.service not in ("any", service):
            return Reject(f"user {request.shown!r} may not use {service}", "service")
        if secret.caller_id not in (None, caller_id):
            return Reject(f"user {request.shown!r} may not call from {caller_id}", "caller-id")
        message = verify(request, secret.password)
        if message is None:
            return Reject(f"wrong password for user {request.shown!r}", "bad-password")
        wait = self.barred.get(account, 0.0) - self.clock()
        if wait > 0:
            return Reject(f"user {request.shown!r} is in quarantine for another {wait:.0f} s", "quarantined")
        return account, secret, message

    def bar(self, account: str, until: float) -> None:
        """Keep a user out until then."""
        self.barred[account] = until

    def profile(self, secret: Secret, default: str) -> Profile:
        """The secret's, or the one with the default's name."""
        return self.config.profile_of(secret, default)

    def fixed_address(self, secret: Secret, profile: Profile) -> IPv4Address | None:
        """The one address that a session of this secret can have, if it is not from a pool. (A prefix of its own its secret names.)"""
        wanted = secret.remote_address or profile.remote_address
        return wanted if isinstance(wanted, IPv4Address) else None

    def grant(self, secret: Secret, profile: Profile, user: str, message: str, request: AuthRequest) -> Accept | Reject:
        """Take an address and a prefix, as far as there shall be any, and say what the peer gets, with the keys that its
        authentication yields."""
        ipv6 = profile.gives_ipv6(secret)
        address = self._take(self.addresses, secret.remote_address or profile.remote_address, "address", user)
        if isinstance(address, Reject):
            return address
        if address is None and not ipv6 and not profile.bridge:
            return Reject(f"neither user {user!r} nor his profile has a remote-address", "no-address")
        wanted = secret.remote_ipv6_prefix or profile.remote_ipv6_prefix_pool
        prefix = self._take(self.prefixes, wanted if ipv6 else None, "prefix", user)
        if isinstance(prefix, Reject):
            if address is not None:
                self.addresses.release(address)
            return prefix
        encryption = profile.encryption
        keys = keys_of(request, secret.password, server=True) if encryption.use != "no" else None
        return Accept(profile.local_address or NOWHERE, address, profile.dns4, profile.wins_server, message, encryption, keys,
                      ipv6=ipv6, prefix=prefix, bridging=profile.bridging)

    def _take(self, pools: Pools, wanted: Any, what: str, user: str) -> Any:
        """One out of a pool, or a certain one; None when none is wanted."""
        if wanted is None:
            return None
        if isinstance(wanted, str):
            found = pools.pools[wanted].take(user)
            return Reject(f"pool {wanted!r} has no {what} left", "no-address") if found is None else found
        if not pools.hold(wanted, user):
            return Reject(f"{what} {wanted} of user {user!r} is in use by {pools.holder(wanted)!r}", "no-address")
        return wanted

    def own_delegation(self, user: str) -> IPv6Network | None:
        """The one prefix that a user's router can have, if it is not from a pool."""
        secret = self.config.secrets.get(user)
        return secret.delegated_ipv6_prefix if secret else None

    def delegate(self, profile: Profile, user: str) -> IPv6Network | None:
        """A prefix for the networks behind a user; None when there is none, or his own is in use."""
        own = self.own_delegation(user)
        if own is not None:
            return own if self.prefixes.hold(own, user) else None
        pool = self.prefixes.pools.get(profile.dhcpv6_pd_pool or "")
        return pool.take(user) if pool else None
