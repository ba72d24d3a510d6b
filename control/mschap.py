"""The arithmetic of MS-CHAPv1 (RFC 2433 appendix A) and MS-CHAPv2 (RFC 2759 section 8).

Names are those of the RFCs' routines. The LAN Manager response of version 1 is not computed: it is worth
nothing, and every peer of this century sends the NT response. The hash is: short MPPE keys come from it.
"""
from __future__ import annotations

from hashlib import sha1

from Cryptodome.Cipher import DES
from Cryptodome.Hash import MD4

MAGIC_1 = b"Magic server to client signing constant"
MAGIC_2 = b"Pad to make it do more than one iteration"
STANDARD_TEXT = b"KGS!@#$%"


def nt_password_hash(password: str) -> bytes:
    return MD4.new(password.encode("utf-16-le", "surrogatepass")).digest()


def lm_password_hash(password: str) -> bytes:
    """RFC 2433 section A.2: of the first 14 characters, without regard to case."""
    secret = password.upper().encode("cp437", "replace")[:14].ljust(14, b"\0")
    return _des(secret[:7], STANDARD_TEXT) + _des(secret[7:], STANDARD_TEXT)


def challenge_hash(peer_challenge: bytes, authenticator_challenge: bytes, name: bytes) -> bytes:
    """Eight octets; of the name only what follows DOMAIN\\ counts."""
    return sha1(peer_challenge + authenticator_challenge + name.rpartition(b"\\")[2]).digest()[:8]


def _des(key: bytes, clear: bytes) -> bytes:
    """DES with 56 bits of key, spread over eight octets whose parity bits nobody reads."""
    bits = int.from_bytes(key)
    return DES.new(bytes((bits >> shift & 0x7F) << 1 for shift in range(49, -1, -7)), DES.MODE_ECB).encrypt(clear)


def challenge_response(challenge: bytes, password_hash: bytes) -> bytes:
    key = password_hash + bytes(5)
    return _des(key[:7], challenge) + _des(key[7:14], challenge) + _des(key[14:], challenge)


def generate_nt_response(authenticator_challenge: bytes, peer_challenge: bytes, name: bytes, password_hash: bytes) -> bytes:
    return challenge_response(challenge_hash(peer_challenge, authenticator_challenge, name), password_hash)


def generate_authenticator_response(password_hash: bytes, nt_response: bytes, peer_challenge: bytes,
                                    authenticator_challenge: bytes, name: bytes) -> str:
    """"S=" and 40 hexadecimal digits: only who knows the password can say it."""
    digest = sha1(MD4.new(password_hash).digest() + nt_response + MAGIC_1).digest()
    challenge = challenge_hash(peer_challenge, authenticator_challenge, name)
    return "S=" + sha1(digest + challenge + MAGIC_2).hexdigest().upper()
