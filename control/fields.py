"""Field types and the option walker: what options, AVPs, tags and attributes are made of.

A table of fields is `{type: Field(name, kind)}`; a kind turns bytes into a value and back. A value
that does not fit its kind is a ValueError whose text names what was wrong: callers turn it into
the protocol's own answer.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is written; `size` in octets, None when it varies."""
    name: str
    size: int | None
    unpack: Callable[[bytes], Any]
    pack: Callable[[Any], bytes]

    def decode(self, data: bytes) -> Any:
        if self.size is not None and len(data) != self.size:
            raise ValueError(f"{self.name} of {len(data)} octets")
        return self.unpack(data)

    def encode(self, value: Any) -> bytes:
        return self.pack(value)


def _unsigned(size: int) -> Kind:
    return Kind(f"u{8 * size}", size, lambda b: int.from_bytes(b), lambda v: v.to_bytes(size))


u8, u16, u32, u64 = (_unsigned(n) for n in (1, 2, 4, 8))
raw = Kind("raw", None, bytes, bytes)
flag = Kind("flag", 0, lambda b: True, lambda v: b"")
text = Kind("text", None, lambda b: b.decode("utf-8", "replace"), lambda v: v.encode())
ip4 = Kind("ip4", 4, IPv4Address, lambda v: v.packed)
ip6 = Kind("ip6", 16, IPv6Address, lambda v: v.packed)


@dataclass(frozen=True, slots=True)
class Field:
    """A row of a field table: the name of the field and the kind of its value."""
    name: str
    kind: Kind


def options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The PPP options (type, value) in data (RFC 1661 section 6): a length octet counts the two
    octets of header. A length of 0 or 1, or one past the end, is a ValueError."""
    at, end = 0, len(data)
    while at < end:
        if at + 2 > end:
            raise ValueError("an option without a length")
        length = data[at + 1]
        if length < 2 or at + length > end:
            raise ValueError(f"option {data[at]} of length {length}")
        yield data[at], data[at + 2:at + length]
        at += length


def option(kind: int, value: bytes) -> bytes:
    """One PPP option."""
    return bytes((kind, len(value) + 2)) + value


def tags(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The same where types and lengths have two octets, and a length counts the value alone: DHCPv6's options
    (RFC 8415 section 21.1)."""
    at, end = 0, len(data)
    while at < end:
        stop = at + 4 + (data[at + 2] << 8 | data[at + 3]) if at + 4 <= end else end + 1
        if stop > end:
            raise ValueError("an option that is cut off")
        yield data[at] << 8 | data[at + 1], data[at + 4:stop]
        at = stop


def tag(kind: int, value: bytes) -> bytes:
    """One of these."""
    return kind.to_bytes(2) + len(value).to_bytes(2) + value


def encode_names(names: Iterable[str]) -> bytes:
    """Domain names as labels behind their lengths (RFC 1035 section 3.1), none compressed."""
    labels = ([label.encode("ascii") for label in name.rstrip(".").split(".")] for name in names)
    return b"".join(b"".join(bytes((len(label),)) + label for label in name) + b"\0" for name in labels)


def decode_names(octets: bytes) -> tuple[str, ...]:
    """The names; ValueError when a label is cut off, too long, or not ASCII."""
    names: list[str] = []
    labels: list[str] = []
    at = 0
    while at < len(octets):
        size = octets[at]
        label = octets[at + 1:at + 1 + size]
        if size > 63 or len(label) < size:
            raise ValueError("a domain name that is cut off")
        if size:
            labels.append(label.decode("ascii"))
        elif labels:
            names.append(".".join(labels))
            labels = []
        at += 1 + size
    if labels:
        raise ValueError("a domain name that does not end")
    return tuple(names)
