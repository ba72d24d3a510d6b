"""Field types and the option walker: what options, AVPs, tags and attributes are made of.

A table of fields is `{type: Field(name, kind)}`; a kind turns bytes into a value and back. A value
that does not fit its kind is a ValueError whose text names what was wrong: callers turn it into
the protocol's own answer.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
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
