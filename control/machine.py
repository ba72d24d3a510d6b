"""The contract of every protocol machine: sans-IO, and time is an argument.

A machine is driven by three kinds of callers: data that arrived (`receive`), a timer that fired
(`tick`), and its user (`open`, `close` and what else the protocol offers). None of them does I/O.
After any of them the caller drains, in this order, `events()` and then `outgoing()`, and re-arms
one timer from `deadline()`. Events come first because what they announce must be in force before
the peer hears of it (a session is in the tables before its last Configure-Ack leaves).

`now` is a monotonic clock in seconds. A machine never calls a clock, never sleeps, draws its
random octets from the `random` it was given, and raises nothing for bad input from the network:
that is an answer of the protocol, or an event.
"""
from __future__ import annotations

from typing import Any


class Machine:
    """State, an outbox and a list of events; subclasses add `receive` and `tick`."""

    __slots__ = ("_events", "_outgoing")

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._outgoing: list[Any] = []

    @property
    def pending(self) -> bool:
        """Whether there is something to take."""
        return bool(self._events or self._outgoing)

    def events(self) -> list[Any]:
        """What happened since the last call, oldest first."""
        events = self._events
        if events:
            self._events = []
        return events

    def outgoing(self) -> list[Any]:
        """What must be sent, oldest first; the element's shape is the subclass's."""
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
        return outgoing

    def deadline(self) -> float | None:
        """When `tick` must be called at the latest, or None."""
        return None

    def tick(self, now: float) -> None:
        """Let time pass."""
