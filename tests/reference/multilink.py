"""Multilink's receiver in plain Python (RFC 1990 section 4): the oracle of the fast path's join.

It keeps every fragment in a dictionary and looks for packets from the beginning each time one comes; so it has none of what makes the
compiled one fast, and none of its mistakes.
"""
from __future__ import annotations

import struct

WINDOW, CELL, HEADER = 256, 2048, 4
BEGIN, END = 0x80, 0x40


def fragment(flags: int, number: int, data: bytes = b"", *, short: bool = False) -> bytes:
    return (struct.pack("!H", flags << 8 | number & 0xFFF) if short else struct.pack("!I", flags << 24 | number & 0xFFFFFF)) + data


def cut(packet: bytes, number: int, sizes: list[int], *, short: bool = False) -> list[bytes]:
    """A packet in fragments of these sizes; the last one is the rest."""
    parts, at = [], 0
    for size in sizes:
        parts.append(packet[at:at + size])
        at += size
    parts.append(packet[at:])
    return [fragment((BEGIN if i == 0 else 0) | (END if i == len(parts) - 1 else 0), number + i, part, short=short)
            for i, part in enumerate(parts)]


class Receiver:
    """A bundle of so many links, which are numbers here."""

    def __init__(self, links: int, mrru: int, wait: int, *, short: bool = False):
        self.bits = 12 if short else 24
        self.short, self.mrru, self.wait = short, mrru, wait
        self.last: dict[int, int | None] = dict.fromkeys(range(links), -1)     # -1: nothing yet; None: does not count
        self.next: int | None = None
        self.waiting: dict[int, tuple[int, bytes, int]] = {}                   # number -> flags, data, since
        self.lates = self.dropped = 0

    def ahead(self, number: int) -> int:
        distance = (number - self.next) % (1 << self.bits)
        return distance - (1 << self.bits) if distance >= 1 << self.bits - 1 else distance

    def receive(self, link: int, octets: bytes, now: int) -> list[bytes]:
        size = 2 if self.short else 4
        if len(octets) < size:
            self.dropped += 1
            return []
        number, = struct.unpack("!H" if self.short else "!I", octets[:size])
        number &= (1 << self.bits) - 1
        flags, data = octets[0] & (BEGIN | END), octets[size:]
        if self.next is None:
            self.next = 0 if number < WINDOW else number
        ahead = self.ahead(number)
        if ahead < 0:
            self.lates += 1
            if self.lates <= WINDOW:
                self.dropped += 1
                return []
            self.dropped += len(self.waiting)
            self.waiting.clear()
            self.next, ahead = number, 0
            self.last = dict.fromkeys(self.last, -1)
        self.lates = 0
        at = self.next + ahead
        self.last[link] = at
        went = []
        if ahead >= WINDOW:
            went += self.settle(at - WINDOW)
            if self.next <= at - WINDOW:
                self.lose(at - WINDOW + 1)
        alone = flags == BEGIN | END and at == self.next and not self.waiting and len(data) <= self.mrru + HEADER
        if at in self.waiting or (len(data) > CELL and not alone):
            self.dropped += 1
            if at in self.waiting:
                return went
        else:
            self.waiting[at] = flags, data, now
        return went + self.settle(self.minimum())

    def minimum(self) -> int:
        heard = [n for n in self.last.values() if n is not None]
        return self.next - 1 if -1 in heard else min(heard)

    def lose(self, end: int) -> None:
        """Everything before `end` is given up."""
        for number in [n for n in self.waiting if n < end]:
            del self.waiting[number]
            self.dropped += 1
        self.next = end

    def settle(self, lost: int) -> list[bytes]:
        went: list[bytes] = []
        while self.waiting:
            end, size = self.next, 0
            while True:
                if end - self.next == WINDOW:
                    self.lose(end)
                elif end not in self.waiting:
                    if end > lost:
                        return went
                    self.lose(end + 1)
                elif self.waiting[end][0] & BEGIN and end > self.next:
                    self.lose(end)
                elif (not self.waiting[end][0] & BEGIN and end == self.next) or size + len(self.waiting[end][1]) > self.mrru + HEADER:
                    self.lose(end + 1)
                elif self.waiting[end][0] & END:
                    went.append(b"".join(self.waiting.pop(n)[1] for n in range(self.next, end + 1)))
                    self.next = end + 1
                else:
                    size += len(self.waiting[end][1])
                    end += 1
                    continue
                break
        self.next = max(self.next, lost + 1)
        return went

    def due(self, now: int) -> list[bytes]:
        went = []
        while late := [(since, n) for n, (_, _, since) in self.waiting.items() if now - since >= self.wait]:
            number = min(late, key=lambda one: one[0])[1]          # of equals the first that came
            self.last = {link: None if last is not None and last < number else last for link, last in self.last.items()}
            went += self.settle(number)
            if number in self.waiting:
                end = self.next
                while end in self.waiting:
                    end += 1
                went += self.settle(end)
        return went
