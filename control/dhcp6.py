"""DHCPv6 messages and options (RFC 8415 sections 8 and 21; RFC 3646 for name servers).

    |   msg-type    |               transaction-id                  |
    |          option-code          |           option-len          |   option-data ...

A message is a table of fields; identity associations nest options of their own. What is not in the tables is skipped.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .fields import Field, Kind, decode_names, encode_names, flag, tag, tags, u8, u16, u32

CLIENT_PORT, SERVER_PORT = 546, 547
LONGEST_DUID = 130              # octets, its type included (section 11.1)


class Type(IntEnum):
    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION_REQUEST = 11


TYPES = frozenset(Type)


class Code(IntEnum):
    """Status codes (section 21.13)."""
    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


@dataclass(frozen=True, slots=True)
class Status:
    code: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address, or a prefix, and the seconds that are left of it."""
    what: IPv6Address | IPv6Network
    preferred: int = 0
    valid: int = 0


@dataclass(frozen=True, slots=True)
class Association:
    """IA_NA, IA_TA (whose times are 0) or IA_PD."""
    kind: int
    iaid: int
    t1: int = 0
    t2: int = 0
    leases: tuple[Lease, ...] = ()
    status: Status | None = None


CLIENT_ID, SERVER_ID, IA_NA, IA_TA, IA_ADDRESS, OPTION_REQUEST, PREFERENCE, ELAPSED = 1, 2, 3, 4, 5, 6, 7, 8
STATUS, RAPID_COMMIT, DNS_SERVERS, DOMAIN_LIST, IA_PD, IA_PREFIX, REFRESH = 13, 14, 23, 24, 25, 26, 32


def _duid(octets: bytes) -> bytes:
    if not 3 <= len(octets) <= LONGEST_DUID:
        raise ValueError(f"a DUID of {len(octets)} octets")
    return bytes(octets)


def _words(octets: bytes) -> tuple[int, ...]:
    if len(octets) & 1:
        raise ValueError(f"codes in {len(octets)} octets")
    return struct.unpack(f"!{len(octets) // 2}H", octets)


def _addresses(octets: bytes) -> tuple[IPv6Address, ...]:
    if len(octets) % 16:
        raise ValueError(f"addresses in {len(octets)} octets")
    return tuple(IPv6Address(octets[at:at + 16]) for at in range(0, len(octets), 16))


def _status(octets: bytes) -> Status:
    if len(octets) < 2:
        raise ValueError(f"a status of {len(octets)} octets")
    return Status(int.from_bytes(octets[:2]), octets[2:].decode("utf-8", "replace"))


def _unpack_address(octets: bytes) -> Lease:
    if len(octets) < 24:
        raise ValueError(f"an address in {len(octets)} octets")
    preferred, valid = struct.unpack_from("!II", octets, 16)
    return Lease(IPv6Address(octets[:16]), preferred, valid)


def _unpack_prefix(octets: bytes) -> Lease:
    if len(octets) < 25 or octets[8] > 128:
        raise ValueError(f"a prefix in {len(octets)} octets")
    preferred, valid, length = struct.unpack_from("!IIB", octets)
    return Lease(IPv6Network((octets[9:25], length), strict=False), preferred, valid)


def _pack_address(lease: Lease) -> bytes:
    assert isinstance(lease.what, IPv6Address)
    return lease.what.packed + struct.pack("!II", lease.preferred, lease.valid)


def _pack_prefix(lease: Lease) -> bytes:
    assert isinstance(lease.what, IPv6Network)
    return struct.pack("!IIB", lease.preferred, lease.valid, lease.what.prefixlen) + lease.what.network_address.packed


duid = Kind("duid", None, _duid, bytes)
words = Kind("codes", None, _words, lambda v: struct.pack(f"!{len(v)}H", *v))
addresses = Kind("addresses", None, _addresses, lambda v: b"".join(a.packed for a in v))
names = Kind("names", None, decode_names, encode_names)
status = Kind("status", None, _status, lambda v: v.code.to_bytes(2) + v.text.encode())

# In an identity association.
INNER = {
    IA_ADDRESS: Field("lease", Kind("address", None, _unpack_address, _pack_address)),
    IA_PREFIX: Field("lease", Kind("prefix", None, _unpack_prefix, _pack_prefix)),
    STATUS: Field("status", status),
}
LEASE_OF = {IA_NA: IA_ADDRESS, IA_TA: IA_ADDRESS, IA_PD: IA_PREFIX}


def _association(kind: int) -> Kind:
    head = struct.Struct("!I" if kind == IA_TA else "!III")

    def unpack(octets: bytes) -> Association:
        if len(octets) < head.size:
            raise ValueError(f"an identity association in {len(octets)} octets")
        leases, said = [], None
        for code, value in tags(octets[head.size:]):
            if code == LEASE_OF[kind]:
                leases.append(INNER[code].kind.decode(value))
            elif code == STATUS:
                said = status.decode(value)
        iaid, t1, t2 = (*head.unpack_from(octets), 0, 0)[:3]
        return Association(kind, iaid, t1, t2, tuple(leases), said)

    def pack(a: Association) -> bytes:
        times = () if kind == IA_TA else (a.t1, a.t2)
        inner = b"".join(tag(LEASE_OF[kind], INNER[LEASE_OF[kind]].kind.encode(lease)) for lease in a.leases)
        return head.pack(a.iaid, *times) + inner + (tag(STATUS, status.encode(a.status)) if a.status else b"")
    return Kind("association", None, unpack, pack)


OPTIONS = {
    CLIENT_ID: Field("client", duid), SERVER_ID: Field("server", duid),
    IA_NA: Field("associations", _association(IA_NA)), IA_TA: Field("associations", _association(IA_TA)),
    OPTION_REQUEST: Field("requested", words), PREFERENCE: Field("preference", u8), ELAPSED: Field("elapsed", u16),
    STATUS: Field("status", status), RAPID_COMMIT: Field("rapid_commit", flag),
    DNS_SERVERS: Field("dns", addresses), DOMAIN_LIST: Field("domains", names),
    IA_PD: Field("associations", _association(IA_PD)), REFRESH: Field("refresh", u32),
}


@dataclass(frozen=True, slots=True)
class Message:
    """What is None, empty or False was not in it, and is not sent."""
    kind: int
    transaction: bytes              # three octets
    client: bytes = b""
    server: bytes = b""
    associations: tuple[Association, ...] = ()
    requested: tuple[int, ...] | None = None
    preference: int | None = None
    elapsed: int | None = None
    status: Status | None = None
    rapid_commit: bool = False
    dns: tuple[IPv6Address, ...] = ()
    domains: tuple[str, ...] = ()
    refresh: int | None = None

    def said(self, code: int) -> list[Any]:
        """The values of an option, to be sent."""
        name = OPTIONS[code].name
        value = getattr(self, name)
        if name == "associations":
            return [each for each in value if each.kind == code]
        return [] if value is None or value is False or value in (b"", ()) else [value]


def pull_dhcp6(payload: bytes) -> Message | None:
    """The message, or None when it is none that a client or server sends, or an option that we know is malformed. Of an option that
    comes twice the first counts."""
    if len(payload) < 4 or payload[0] not in TYPES:
        return None
    found: dict[str, Any] = {}
    associations: list[Association] = []
    try:
        for code, octets in tags(payload[4:]):
            row = OPTIONS.get(code)
            if row is None:
                continue
            value = row.kind.decode(octets)
            if row.name == "associations":
                associations.append(value)
            else:
                found.setdefault(row.name, value)
    except ValueError:
        return None
    return Message(payload[0], payload[1:4], associations=tuple(associations), **found)


def push_dhcp6(message: Message) -> bytes:
    return bytes((message.kind,)) + message.transaction + b"".join(
        tag(code, row.kind.encode(value)) for code, row in OPTIONS.items() for value in message.said(code))
