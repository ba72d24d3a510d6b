"""PPPoE discovery packets and their tags (RFC 2516 section 5 and appendix A, RFC 4638, TR-101 section 3.9.2).

     0                   1                   2                   3
    |  VER  | TYPE  |      CODE     |          SESSION_ID           |
    |            LENGTH             |   tags: type, length, value ...

What is read and written here begins behind the Ethernet header and its VLAN tags.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .fields import Field, raw, u16

VERSION_TYPE = 0x11
HEADER = 6
CODES = {"PADI": 0x09, "PADO": 0x07, "PADR": 0x19, "PADS": 0x65, "PADT": 0xA7}
NAMES = {code: name for name, code in CODES.items()}

END_OF_LIST = 0x0000
# Names and texts stay octets: they must come back exactly as they were, whatever they are.
TAGS = {
    0x0101: Field("service_name", raw),
    0x0102: Field("ac_name", raw),
    0x0103: Field("host_uniq", raw),
    0x0104: Field("ac_cookie", raw),
    0x0105: Field("vendor", raw),
    0x0110: Field("relay_session_id", raw),
    0x0120: Field("max_payload", u16),              # RFC 4638
    0x0201: Field("service_name_error", raw),
    0x0202: Field("ac_system_error", raw),
    0x0203: Field("generic_error", raw),
}
BY_NAME = {tag.name: kind for kind, tag in TAGS.items()}
ERRORS = ("service_name_error", "ac_system_error", "generic_error")
SEVERAL = ("service_name",)                         # a PADO lists every service

ADSL_FORUM = 0x00000DE9                             # the vendor id of TR-101's line identification
CIRCUIT_ID, REMOTE_ID, DOWNSTREAM = 1, 2, 0x82


@dataclass(slots=True)
class Discovery:
    """One packet. `values` has the first tag of each name; `service_names` all of them. With a `fault`, which says what is wrong,
    `values` is what stands in front of it."""
    name: str                                       # "" when the code is none of ours
    session_id: int
    values: dict[str, Any] = field(default_factory=dict)
    service_names: list[bytes] = field(default_factory=list)
    fault: str = ""


def tags(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) up to the end or an End-Of-List; a tag that runs past the end is a ValueError."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise ValueError("a tag without a length")
        kind, length = int.from_bytes(data[at:at + 2]), int.from_bytes(data[at + 2:at + 4])
        if kind == END_OF_LIST:
            return
        at += 4 + length
        if at > end:
            raise ValueError(f"tag {kind:04x} of length {length} runs past the end")
        yield kind, data[at - length:at]


def decode(data: bytes) -> Discovery:
    """A packet; unknown tags are passed over (RFC 2516 section 5), and so is padding behind LENGTH."""
    if len(data) < HEADER:
        return Discovery("", 0, fault=f"a packet of {len(data)} octets")
    code, session_id, length = data[1], int.from_bytes(data[2:4]), int.from_bytes(data[4:6])
    found = Discovery(NAMES.get(code, ""), session_id)
    if data[0] != VERSION_TYPE:
        found.fault = f"version and type {data[0]:02x}"
    elif HEADER + length > len(data):
        found.fault = f"length {length} in a packet of {len(data)} octets"
    else:
        try:
            for kind, value in tags(data[HEADER:HEADER + length]):
                row = TAGS.get(kind)
                if row is None:
                    continue
                if row.name in SEVERAL:
                    found.service_names.append(value)
                if row.name not in found.values:
                    found.values[row.name] = row.kind.decode(value)
        except ValueError as error:
            found.fault = str(error)
    return found


def encode(name: str, session_id: int, values: dict[str, Any]) -> bytes:
    """A packet with the tags of `values`, in its order; a list is one tag for each of its items."""
    body = bytearray()
    for tag, value in values.items():
        kind = BY_NAME[tag]
        for one in value if isinstance(value, list) else (value,):
            octets = TAGS[kind].kind.encode(one)
            body += kind.to_bytes(2) + len(octets).to_bytes(2) + octets
    return bytes((VERSION_TYPE, CODES[name])) + session_id.to_bytes(2) + len(body).to_bytes(2) + bytes(body)


def line(vendor: bytes) -> tuple[bytes, bytes]:
    """TR-101's Circuit ID and Remote ID from a Vendor-Specific tag; b"" for what is not there, and for anything broken."""
    told = _told(vendor)
    return told.get(CIRCUIT_ID, b""), told.get(REMOTE_ID, b"")


def rate(vendor: bytes) -> int:
    """The line's actual data rate downstream, in bits a second, from the same tag, which has kilobits; 0 when it is not told."""
    octets = _told(vendor).get(DOWNSTREAM, b"")
    return int.from_bytes(octets) * 1000 if len(octets) == 4 else 0


def _told(vendor: bytes) -> dict[int, bytes]:
    """The sub-options of a DSLAM's tag, as far as they are whole."""
    told: dict[int, bytes] = {}
    if len(vendor) < 4 or int.from_bytes(vendor[:4]) != ADSL_FORUM:
        return told
    at = 4
    while at + 2 <= len(vendor):
        kind, length = vendor[at], vendor[at + 1]
        at += 2 + length
        if at > len(vendor):
            break
        told[kind] = vendor[at - length:at]
    return told
