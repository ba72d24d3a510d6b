"""MPPE as control knows it (RFC 3078, RFC 3079): what policy wants, what authentication yields, what a link has in force.

    Policy (settings) + Keys (authentication) --CCP--> Cipher (LinkUp) -> install.py -> the kernels, which derive session keys

A start key is what RFC 3079 derives the first session key from: 16 octets for 128 bits, 8 for 40 and 56. Names of
functions are those of the RFC's routines.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Literal

from Cryptodome.Hash import MD4

from .mschap import lm_password_hash, nt_password_hash

if TYPE_CHECKING:
    from .auth import AuthRequest

STRENGTHS = (128, 56, 40)       # bits, the strongest first
YIELDING = ("mschap2", "mschap1")       # the authentications that leave both ends with keys

MAGIC_1 = b"This is the MPPE Master Key"
MAGIC_2 = b"On the client side, this is the send key; on the server side, it is the receive key."
MAGIC_3 = b"On the client side, this is the receive key; on the server side, it is the send key."


@dataclass(frozen=True, slots=True)
class Policy:
    """Whether and how a link is encrypted: use-encryption, mppe-strength and mppe-stateful."""
    use: Literal["no", "yes", "require"] = "no"
    strengths: tuple[int, ...] = STRENGTHS
    stateful: bool = False          # ask for keys that last 256 packets; else insist on one a packet

    @property
    def required(self) -> bool:
        return self.use == "require"


IN_CLEAR = Policy()


@dataclass(frozen=True, slots=True)
class Keys:
    """Start keys of 16 octets, as the end that holds them sends and receives. MS-CHAPv1 has another one for
    40 and 56 bits, the same both ways; otherwise the first 8 octets serve (RFC 3079 sections 2 to 4)."""
    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)
    short: bytes = field(default=b"", repr=False)

    def start(self, bits: int) -> tuple[bytes, bytes]:
        """(send, receive) for a strength."""
        if bits == 128:
            return self.send, self.receive
        return self.short or self.send[:8], self.short or self.receive[:8]


@dataclass(frozen=True, slots=True)
class Way:
    """One direction in force."""
    bits: int
    stateless: bool
    key: bytes = field(repr=False)      # its start key

    def __str__(self) -> str:
        return f"MPPE{self.bits} {'stateless' if self.stateless else 'stateful'}"


@dataclass(frozen=True, slots=True)
class Cipher:
    """What CCP agreed on; None for a direction in clear. Each time that CCP opens there is a new one, and both ends begin with their
    start keys; while there is the same one they go on where they are, whatever else is negotiated again."""
    receive: Way | None
    send: Way | None
    required: bool      # nothing may pass in clear

    @property
    def encoding(self) -> str:
        """As RouterOS names it; where the directions differ, what we receive stands first."""
        names = [str(way or "none") for way in (self.receive, self.send)]
        return " / ".join(names if names[0] != names[1] else names[:1])


def keys_of(request: AuthRequest, password: str, *, server: bool) -> Keys | None:
    """What an authentication that succeeded leaves both ends with; PAP and CHAP with MD5 leave nothing."""
    if request.method == "mschap1":
        password_hash = nt_password_hash(password)
        key = get_start_key(request.challenge, MD4.new(password_hash).digest())
        return Keys(key, key, lm_password_hash(password)[:8])
    if request.method == "mschap2":
        password_hash_hash = MD4.new(nt_password_hash(password)).digest()
        master = get_master_key(password_hash_hash, request.response[24:48])
        return Keys(*(get_asymmetric_start_key(master, send=send, server=server) for send in (True, False)))
    return None


def get_start_key(challenge: bytes, password_hash_hash: bytes) -> bytes:
    """RFC 3079 section 2.4: MS-CHAPv1 with 128 bits."""
    return sha1(password_hash_hash + password_hash_hash + challenge).digest()[:16]


def get_master_key(password_hash_hash: bytes, nt_response: bytes) -> bytes:
    """Section 3.4."""
    return sha1(password_hash_hash + nt_response + MAGIC_1).digest()[:16]


def get_asymmetric_start_key(master_key: bytes, *, send: bool, server: bool) -> bytes:
    """Section 3.4, for the longest key; a shorter one is its beginning. Each direction has its own."""
    magic = MAGIC_3 if send == server else MAGIC_2
    return sha1(master_key + bytes(40) + magic + b"\xf2" * 40).digest()[:16]
