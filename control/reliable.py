"""Reliable delivery of control messages (RFC 2661 section 5.8 and appendix A).

    send(message)  ->  queue  ->  flush()   in the peer's window and the congestion window
    receive(ns, nr, item)     ->  items     in order, each once
    tick(now)                 ->  False     when the peer has not answered any retransmission

The queue holds whole datagrams; Ns is written when one is first sent, Nr each time it is sent. So
a message of urgency goes ahead of all that was not sent yet. `ack_due` says that something must be
acknowledged; whatever is flushed does that, else the caller sends an empty message.
"""
from __future__ import annotations

from typing import Any, NamedTuple

NS, NR = 8, 10              # offsets of the two numbers in a control message
LEAST_WINDOW = 4            # what a peer must accept when it says nothing (section 5.8)
NEVER = float("inf")


class Timing(NamedTuple):
    """The retransmission timer: first interval, its cap, and how many times."""
    first: float = 1.0
    cap: float = 8.0
    tries: int = 5

    def interval(self, tries: int) -> float:
        """How long to wait after `tries` retransmissions."""
        return min(self.cap, self.first * float(2 ** tries))

    @property
    def cycle(self) -> float:
        """The full retransmission interval: from a message to giving it up."""
        return sum(self.interval(n) for n in range(self.tries + 1))


class Reliable:
    """One side of a control connection."""

    __slots__ = ("_flight", "_grown", "_kept", "_numbered", "_queue", "ack_due", "acked", "cwnd", "due", "nr",
                 "receive_window", "ssthresh", "timing", "tries", "window")

    def __init__(self, timing: Timing, receive_window: int, ns: int = 0, nr: int = 0) -> None:
        self.timing = timing
        self.receive_window = receive_window
        self.acked = ns                     # Ns of the first message in the queue
        self.nr = nr                        # Ns that we expect next
        self.window = LEAST_WINDOW          # the peer's receive window
        self.cwnd, self.ssthresh = 1, LEAST_WINDOW
        self.ack_due = False
        self.due = NEVER                    # when to retransmit
        self.tries = 0                      # retransmissions since the peer last acknowledged something new
        self._grown = 0                     # acknowledgments since cwnd last grew, in congestion avoidance
        self._queue: list[bytearray] = []
        self._numbered = 0                  # how many of the queue have an Ns; they keep it
        self._flight = 0                    # how many of the queue are thought to be on their way
        self._kept: dict[int, Any] | None = None

    @property
    def ns(self) -> int:
        """The number of the next new message."""
        return (self.acked + self._numbered) & 0xFFFF

    @property
    def idle(self) -> bool:
        """All that was sent is acknowledged, and nothing waits."""
        return not self._queue

    def open_window(self, window: int) -> None:
        """Take the peer's Receive Window Size; slow start goes up to it."""
        self.window = self.ssthresh = window

    def send(self, message: bytearray, urgent: bool = False) -> None:
        """Queue a message; an urgent one goes before those that were not sent yet."""
        if urgent:
            self._queue.insert(self._numbered, message)
        else:
            self._queue.append(message)

    def patch(self, at: int, octets: bytes) -> None:
        """Write into the header of all that waits."""
        for message in self._queue:
            message[at:at + len(octets)] = octets

    def withdraw(self) -> None:
        """Drop what was never sent."""
        del self._queue[self._numbered:]

    def abandon(self) -> None:
        """Drop everything, but go on acknowledging: the peer is closing."""
        self.acked = self.ns
        self._queue.clear()
        self._numbered = self._flight = 0
        self.due = NEVER

    def flush(self, now: float) -> list[bytes]:
        """What may be sent now."""
        queue, flight = self._queue, self._flight
        last = min(len(queue), self.window, self.cwnd)
        if flight >= last:
            return []
        nr = self.nr.to_bytes(2)
        out = []
        while flight < last:
            message = queue[flight]
            if flight == self._numbered:
                message[NS:NS + 2] = self.ns.to_bytes(2)
                self._numbered += 1
            message[NR:NR + 2] = nr
            out.append(bytes(message))
            flight += 1
        if self.due == NEVER:
            self.due = now + self.timing.interval(self.tries)
        self._flight = flight
        self.ack_due = False
        return out

    def acknowledge(self, nr: int, now: float) -> bool:
        """Note the peer's Nr; False when it acknowledges what we never sent."""
        fresh = (nr - self.acked) & 0xFFFF
        if fresh == 0 or fresh >= 0x8000:
            return True                     # nothing new: an old or a reordered message
        if fresh > self._numbered:
            return False
        del self._queue[:fresh]
        self.acked = nr
        self._numbered -= fresh
        self._flight = max(0, self._flight - fresh)
        self.tries = 0
        if self.cwnd < self.ssthresh:
            self.cwnd += 1
        elif self.cwnd < self.window:
            self._grown += 1
            if self._grown >= self.cwnd:
                self.cwnd, self._grown = self.cwnd + 1, 0
        self.due = now + self.timing.interval(0) if self._flight else NEVER
        return True

    def receive(self, ns: int, item: Any) -> tuple[list[Any], str]:
        """Take a message that is not empty: those that are now in order, and why not if none is."""
        ahead = (ns - self.nr) & 0xFFFF
        self.ack_due = True                 # also for a duplicate: our acknowledgment was lost, or is on its way
        if ahead == 0:
            self.nr = (ns + 1) & 0xFFFF
            if not self._kept:
                return [item], ""
            items = [item]
            while (item := self._kept.pop(self.nr, None)) is not None:
                items.append(item)
                self.nr = (self.nr + 1) & 0xFFFF
            self._kept = self._kept or None
            return items, ""
        if ahead >= 0x8000:
            return [], "duplicate"
        if ahead >= self.receive_window:
            return [], "beyond_window"
        if self._kept is None:
            self._kept = {}
        self._kept[ns] = item
        return [], "early"

    def advance(self, nr: int) -> None:
        """Somebody acknowledged the peer's messages before `nr` in our name."""
        while 0 < (nr - self.nr) & 0xFFFF < 0x8000:
            self.nr = (self.nr + 1) & 0xFFFF
            if self._kept:      # the next one among them: the peer repeats it, and then what was kept behind it is in order
                self._kept.pop(self.nr, None)

    def tick(self, now: float) -> bool:
        """Retransmit when it is time: from the oldest on, in slow start again. False: give up."""
        if now < self.due:
            return True
        if self.tries >= self.timing.tries:
            return False
        self.tries += 1
        self.ssthresh = max(self.cwnd // 2, 1)
        self.cwnd, self._grown, self._flight = 1, 0, 0
        self.due = NEVER
        return True
