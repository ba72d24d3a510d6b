"""Authentication of a link: what the methods have in common, and the question that they put.

    server  LCP up -> Authenticator.start ... AuthRequest -> (whoever knows the secrets) -> Accept or Reject
    client  LCP up -> Peer.start ... granted, or the link is closed with the reason

The methods are PAP (RFC 1334) in pap.py; CHAP with MD5 (RFC 1994), MS-CHAPv1 (RFC 2433) and MS-CHAPv2
(RFC 2759) in chap.py. `verify` checks an AuthRequest against a plain password.
"""
from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import md5
from ipaddress import IPv4Address, IPv6Network

from .link import Bridging
from .mppe import IN_CLEAR, Keys, Policy
from .mschap import challenge_response, generate_authenticator_response, generate_nt_response, nt_password_hash

# The value of LCP's option 3 (RFC 1661 section 6.2) for each method.
OPTION_OF = {
    "pap": bytes.fromhex("c023"), "chap": bytes.fromhex("c22305"),
    "mschap1": bytes.fromhex("c22380"), "mschap2": bytes.fromhex("c22381"),
}
LONGEST_USER = 255      # characters of a user's name that are kept of what a peer says
ALLOWED_BY_OPTION = {value: method for method, value in OPTION_OF.items()}


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """All that a verifier needs, here or behind RADIUS."""
    method: str                 # pap | chap | mschap1 | mschap2
    name: bytes                 # the peer's name as it came
    identifier: int
    challenge: bytes = b""      # CHAP: ours
    response: bytes = b""       # CHAP: the Value field: 16 octets of MD5, 49 of MS-CHAP
    password: bytes = b""       # PAP

    @property
    def user(self) -> str:
        """The name for people and tables, with DOMAIN\\ where the peer sent one."""
        return self.name.decode("utf-8", "backslashreplace")

    @property
    def shown(self) -> str:
        """The user as it is kept and told: a peer may say a name as long as a packet."""
        return self.user[:LONGEST_USER]

    @property
    def account(self) -> str:
        """The user without DOMAIN\\."""
        return self.user.rpartition("\\")[2]

    def __repr__(self) -> str:
        return f"AuthRequest({self.method}, {self.user!r})"   # a PAP password must not reach a log


@dataclass(frozen=True, slots=True)
class Accept:
    """The peer is who it says, and this is what it gets. `message` is what `verify` returned."""
    local_address: IPv4Address
    remote_address: IPv4Address | None   # None: no IPCP
    dns: tuple[IPv4Address, ...] = ()    # at most two are told, as RFC 1877 has it
    wins: tuple[IPv4Address, ...] = ()
    message: str = ""                    # to the peer; of MS-CHAPv2 it begins with "S="
    encryption: Policy = IN_CLEAR
    keys: Keys | None = None             # what its authentication yields for MPPE
    ipv6: bool = False                   # whether IPV6CP is spoken
    prefix: IPv6Network | None = None    # the /64 of the link
    bridging: Bridging | None = None     # whether BCP is spoken, and how


@dataclass(frozen=True, slots=True)
class Reject:
    """`text` is for our log, `message` for the peer; without one the method says its own."""
    text: str = "wrong user name or password"
    code: str = "bad-password"
    message: str = ""


def verify(request: AuthRequest, password: str) -> str | None:
    """The message of the Accept when the peer knows the password, None when it does not."""
    if request.method == "pap":
        return "" if hmac.compare_digest(request.password, password.encode("utf-8", "surrogatepass")) else None
    if request.method == "chap":
        expected = chap_response(request.identifier, password, request.challenge)
        return "" if hmac.compare_digest(request.response, expected) else None
    return _verify_mschap(request, nt_password_hash(password))


def chap_response(identifier: int, password: str, challenge: bytes) -> bytes:
    """RFC 1994 section 4.1: the MD5 of identifier, secret and challenge."""
    return md5(bytes((identifier,)) + password.encode("utf-8", "surrogatepass") + challenge, usedforsecurity=False).digest()


def _verify_mschap(request: AuthRequest, password_hash: bytes) -> str | None:
    """The Value field: 24 octets of LAN Manager response (of MS-CHAPv2: 16 of peer challenge, 8 of
    zeros), 24 of NT response, and the flags, whose bit 0 says in version 1 that the NT one counts."""
    if len(request.response) != 49:
        return None
    peer_challenge, nt_response = request.response[:16], request.response[24:48]
    if request.method == "mschap1":
        proven = request.response[48] & 1 and hmac.compare_digest(nt_response, challenge_response(request.challenge, password_hash))
        return "" if proven else None
    if not hmac.compare_digest(nt_response, generate_nt_response(request.challenge, peer_challenge, request.name, password_hash)):
        return None
    return generate_authenticator_response(password_hash, nt_response, peer_challenge, request.challenge, request.name)
