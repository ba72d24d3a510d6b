"""Netlink messages (RFC 3549): requests that need no privilege or little, and their answers as attributes.

    | length u32 | type u16 | flags u16 | sequence u32 | port u32 | family's header | attributes: length u16, type u16, value, padding |

pyroute2 changes things, once at the start; this asks, often.
"""
from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

ROUTE, XFRM, NETFILTER = 0, 6, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ROOT_AND_MATCH = 1, 0x300
HEADER = struct.Struct("=IHHII")
ROOM = 1 << 16
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
TYPE = 0x3FFF               # without the bits for nested and network order

Attributes = dict[int, bytes]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Attributes:
    """What is cut off is left out."""
    found: Attributes = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= length <= len(data) - at:
            break
        found[kind & TYPE] = data[at + 4:at + length]
        at += length + 3 & ~3
    return found


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, what is behind the header) of each whole message."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + HEADER.size:at + length]
        at += length + 3 & ~3


class Netlink:
    """A socket of one family. Requests wait for their answer, which the kernel has at once; events of `groups` are read by `events`,
    from a socket that serves for nothing else."""

    def __init__(self, family: int, groups: tuple[int, ...] = ()) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self.sock.bind((0, 0))
            for group in groups:
                self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.sock.close()
            raise
        if groups:
            self.sock.setblocking(False)
        else:
            self.sock.settimeout(1.0)
        self.sequence = 0

    def close(self) -> None:
        self.sock.close()

    def ask(self, kind: int, body: bytes, *, dump: bool = False) -> list[tuple[int, bytes]]:
        """The messages of the answer; an error of the kernel's is an OSError."""
        self.sequence += 1
        self.sock.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | (ROOT_AND_MATCH if dump else 0), self.sequence, 0) + body)
        answer: list[tuple[int, bytes]] = []
        while True:
            data = self.sock.recv(ROOM)
            if HEADER.unpack_from(data)[3] != self.sequence:
                continue                # of a request that was given up
            for one, rest in messages(data):
                if one == NLMSG_DONE:
                    return answer
                if one == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", rest)[0]
                    raise OSError(number, os.strerror(number))
                answer.append((one, rest))
            if not dump:
                return answer

    def events(self) -> list[tuple[int, bytes]] | None:
        """What came since the last look; None when some of it was lost."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                found += messages(self.sock.recv(ROOM))
            except BlockingIOError:
                return found
            except OSError:             # ENOBUFS: more came than there was room for
                return None
