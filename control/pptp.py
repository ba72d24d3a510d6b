"""PPTP (RFC 2637): the endpoint that owns all control connections of a concentrator, or of a load generator.

    TCP's octets  ->  Connection.receive  ->  messages  ->  its state table, or its call's  ->  events, octets to send

Both roles are always there: `accept` takes a connection that came in, `dial` begins one that we made; `place_call` is the PNS's (an
outgoing call, as clients make it), `ring` the PAC's. The user makes and ends the TCP connections, and knows each by its number: it drains
`events()`, then sends `outgoing()`, where None in place of octets closes the connection behind what was sent.

All time is in one heap that is re-armed lazily, as in l2tp.py. When two peers dial each other at once there are two connections; section
3.1.3 would end one, and here both live, because several clients may share an address.
"""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from .address import Path
from .machine import Machine
from .pptpcall import ADMIN_SHUTDOWN, Call
from .pptpconnection import LOCAL_SHUTDOWN, NONE, Connection
from .pptpevents import CallIds, Ignored, Settings
from .reason import Reason

LOST = Reason("tunnel", "lost", "TCP's connection ended")


class Endpoint(Machine):
    """All connections. `outgoing()` is a list of (connection, octets or None)."""

    __slots__ = ("_connections", "_half_open", "_half_open_by_peer", "_heap", "_ignored_at", "_number", "counts", "data_heard", "ids",
                 "now", "settings", "statistics")

    def __init__(self, settings: Settings, ids: CallIds, data_heard: Callable[[bytes, int], float] | None = None,
                 statistics: Callable[[bytes, int], str] | None = None) -> None:
        """For an endpoint whose data others receive: `data_heard(peer, call id)` is when data last came in a call, and
        `statistics(peer, call id)` what a PAC says of it at its end."""
        super().__init__()
        self.settings, self.ids, self.data_heard, self.statistics = settings, ids, data_heard, statistics
        self.counts: defaultdict[str, int] = defaultdict(int)       # drops, by name
        self.now = -inf                                             # of the last input
        self._connections: dict[int, Connection] = {}
        self._half_open_by_peer: Counter[bytes] = Counter()         # connections of peers without a call, by address
        self._half_open = 0                                         # and in all
        self._heap: list[tuple[float, int, Connection]] = []
        self._number = 0
        self._ignored_at = -inf

    def __len__(self) -> int:
        """Connections, those that are closing among them."""
        return len(self._connections)

    @property
    def settled(self) -> bool:
        """Nobody is left: at the end, all goodbyes were heard or given up."""
        return not self._connections

    # -- in

    def accept(self, path: Path, now: float) -> int:
        """A TCP connection came in; its number, or 0 when it must be closed at once."""
        self.now = now
        if self._half_open >= self.settings.half_open or self._half_open_by_peer[path.peer] >= self.settings.half_open_per_peer:
            self.ignore("half_open", path, "too many connections without a call", now)
            return 0
        connection = self._new(path)
        connection.half_open = True
        self._half_open += 1
        self._half_open_by_peer[path.peer] += 1
        return connection.number

    def receive(self, number: int, data: bytes, now: float) -> None:
        """Octets of a connection; nothing when it is gone already."""
        if connection := self._find(number, now):
            connection.receive(data, now)
            self._settle(connection)

    def closed(self, number: int, now: float, reason: Reason = LOST) -> None:
        """TCP's connection is gone."""
        if connection := self._find(number, now):
            connection.fire("Lost", reason)
            self._settle(connection)

    # -- commands

    def dial(self, path: Path, now: float) -> int:
        """Begin a connection that TCP has made; its number."""
        self.now = now
        connection = self._new(path)
        connection.fire("Open")
        self._settle(connection)
        return connection.number

    def place_call(self, number: int, now: float, *, called_number: str = "") -> int:
        """As PNS, have the peer place a call (OCRQ); its id, or 0 when there is no room or no such connection. A connection that is not
        established yet keeps the call waiting."""
        return self._place(number, now, False, ("", called_number))

    def ring(self, number: int, now: float, *, calling_number: str = "", called_number: str = "") -> int:
        """As PAC, tell the peer of a call that came in (ICRQ)."""
        return self._place(number, now, True, (calling_number, called_number))

    def _place(self, number: int, now: float, pac: bool, numbers: tuple[str, str]) -> int:
        connection = self._find(number, now)
        if (connection is None or connection.state not in ("wait-ctl-reply", "established")
                or len(connection.calls) >= self.settings.calls_per_connection):
            return 0
        call_id = self.ids.take_call(connection.path.peer)
        if call_id is None:
            return 0
        connection.place(Call(connection, pac, call_id, None, numbers))
        self._settle(connection)
        return call_id

    def hang_up(self, number: int, call_id: int, reason: Reason, now: float, result: int = ADMIN_SHUTDOWN, error: int = 0) -> None:
        """End a call (CDN or CCRQ); nothing when it is gone already."""
        connection = self._find(number, now)
        call = connection.calls.get(call_id) if connection else None
        if connection and call:
            call.fire("Close", reason, result, error)
            self._settle(connection)

    def close(self, number: int, reason: Reason, now: float, why: int = NONE) -> None:
        """End a connection with all its calls (StopCCRQ); nothing when it is gone already."""
        if connection := self._find(number, now):
            connection.fire("Close", reason, why)
            self._settle(connection)

    def close_all(self, reason: Reason, now: float, why: int = LOCAL_SHUTDOWN) -> None:
        for number in list(self._connections):
            self.close(number, reason, now, why)

    # -- time

    def deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def tick(self, now: float) -> None:
        self.now = now
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, connection = heappop(heap)
            if when == connection.armed:            # else it was armed for an earlier time since
                connection.armed = inf
                if connection.state != "closed":
                    if connection.deadline() <= now:
                        connection.tick(now)
                    self._settle(connection)
        if len(heap) > 4 * len(self._connections) + 64:
            self._heap = [entry for entry in heap if entry[0] == entry[2].armed and entry[2].state != "closed"]
            heapify(self._heap)

    # -- for connections

    def emit(self, event: Any) -> None:
        self._events.append(event)

    def transmit(self, connection: Connection, octets: bytes) -> None:
        self._outgoing.append((connection.number, octets))

    def ignore(self, name: str, path: Path, text: str, now: float) -> None:
        """Count a drop; say so at most once a second."""
        self.counts[name] += 1
        if now - self._ignored_at >= 1:
            self._ignored_at = now
            self.emit(Ignored(path, text, name))

    def at_home(self, connection: Connection) -> None:
        """A peer's connection has its first call, or is gone."""
        if connection.half_open:
            connection.half_open = False
            self._half_open -= 1
            peers, peer = self._half_open_by_peer, connection.path.peer
            peers[peer] -= 1
            if not peers[peer]:
                del peers[peer]

    def _new(self, path: Path) -> Connection:
        self._number += 1
        connection = self._connections[self._number] = Connection(self, self._number, path, self.now)
        self._arm(connection)
        return connection

    def _find(self, number: int, now: float) -> Connection | None:
        self.now = now
        return self._connections.get(number)

    def _settle(self, connection: Connection) -> None:
        """After every input: forget a connection that is over, and have the user close it."""
        if connection.state != "closed":
            self._arm(connection)
        elif self._connections.pop(connection.number, None):
            self.at_home(connection)
            connection.armed = inf
            self._outgoing.append((connection.number, None))

    def _arm(self, connection: Connection) -> None:
        due = connection.deadline()
        if due < connection.armed:
            connection.armed = due
            heappush(self._heap, (due, connection.number, connection))
