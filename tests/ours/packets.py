"""Inner packets with a number in them, and what came of them."""
from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable

from rig.forwarder import ipv4, udp

NUMBER = struct.Struct("!LL")       # stream, number
ECHO_REPLY, UNREACHABLE = 0, 3


def numbered(source: str, destination: str, stream: int, number: int, size: int = 64, port: int = 2000) -> bytes:
    """A UDP packet of `size` octets, IP header and all, that carries a stream's number and its place in it."""
    return udp(source, destination, NUMBER.pack(stream, number).ljust(size - 28, b"."), dport=port)


def number(packet: bytes) -> tuple[int, int]:
    """What `numbered` put in."""
    stream, n = NUMBER.unpack_from(packet, 28)
    return stream, n


def ping(source: str, destination: str, sequence: int = 1) -> bytes:
    """An ICMP echo request."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, sequence) + b"headrace"
    return ipv4(source, destination, body[:2] + struct.pack("!H", checksum(body)) + body[4:], 1)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answered(packets: Iterable[bytes], sequence: int) -> bool:
    """Whether an echo reply with that number is among them."""
    return any(p[9] == 1 and p[20] == ECHO_REPLY and p[26:28] == sequence.to_bytes(2) for p in packets)


def drained(sock: socket.socket, count: int, seconds: float = 10, between: Callable[[], object] = lambda: None) -> list[tuple[int, int]]:
    """Numbers that arrive at a UDP socket, until there are `count`, or time is up; `between` runs whenever there is nothing to read."""
    found: list[tuple[int, int]] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        try:
            found.append(NUMBER.unpack_from(sock.recv(2048)))
        except BlockingIOError:
            between()
            select.select([sock], [], [], 0.005)
    return found
