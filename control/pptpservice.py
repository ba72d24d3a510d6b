"""PPTP as a service: control connections are streams (streams.py), data is GRE between the same two addresses.

Nothing of a connection outlives control: when control dies its connections end, and peers see it.
"""
from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, NamedTuple

from ..fastpath.packet import Kind
from ..fastpath.table import TICK_SECONDS
from .address import Path, shown
from .pptp import Endpoint
from .pptpevents import CallDown, CallOpening, CallUp, ConnectionDown, ConnectionUp, Ignored, Settings
from .pptpmessage import NO_RESOURCE, PAC_ERROR
from .reason import Reason
from .service import Down, Event, Opening, Service, Up, announced

log = logging.getLogger("headrace.pptp")

# Result and error codes of a CDN (RFC 2637 section 2.13): lost carrier, an error of the PAC, no resource; else 3, administrative.
CDN_RESULT = {"no-echo": (1, 0), "peer-terminated": (1, 0), "internal": (2, PAC_ERROR), "full": (2, NO_RESOURCE),
              "stalled": (2, NO_RESOURCE)}
INTERNAL = Reason("tunnel", "internal", "a defect in headrace, told in its log")


class Call(NamedTuple):
    """A call as the tables know it. What stands for a tunnel's id is a hash of the peer: call ids are unique to his address."""
    connection: int
    tunnel_id: int
    session_id: int
    peer_call_id: int
    path: Path              # of the data


class Pptp(Service):
    name, kind, sequenced, patience = "pptp", Kind.KIND_PPTP, True, 1.0
    endpoint: Endpoint

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        self.endpoint = Endpoint(Settings(), core.ids, self.data_heard, self.statistics)
        self.calls: dict[tuple[int, int], int] = {}         # the worker of each call, by connection and call id
        self.load = [0] * core.tables.workers

    def data_heard(self, peer: bytes, call_id: int) -> float:
        """When its worker last received something in a call."""
        return self.core.tables.counters(self.slot(peer, call_id))[4] * TICK_SECONDS

    def statistics(self, peer: bytes, call_id: int) -> str:
        """What a call carried, for who is told of its end."""
        rx_packets, rx_bytes, tx_packets, tx_bytes, *_ = self.core.tables.counters(self.slot(peer, call_id))
        return f"from you {rx_bytes} octets in {rx_packets} packets, to you {tx_bytes} in {tx_packets}"

    def slot(self, peer: bytes, call_id: int) -> int:
        tables = self.core.tables
        return tables.slot(tables.peer_hash(peer), call_id)

    # -- streams

    def accept(self, path: Path, now: float) -> int:
        """A connection came in; 0: it must be closed. `path.port` is the port of its data."""
        return 0 if self.stopping else self.endpoint.accept(path, now)

    def receive(self, connection: int, data: bytes, now: float) -> None:
        """Octets of a connection. A defect that they uncover ends it, and nothing else."""
        try:
            self.endpoint.receive(connection, data, now)
        except Exception as error:
            self.core.sessions.defect(error, now)
            with suppress(Exception):
                self.endpoint.closed(connection, now, INTERNAL)

    def closed(self, connection: int, now: float) -> None:
        self.endpoint.closed(connection, now)

    def outgoing(self) -> list[tuple[int, bytes | None]]:
        """What must be sent, by connection; None closes it."""
        return self.endpoint.outgoing()

    # -- what a machine does

    def events(self, now: float) -> list[Event]:
        said: list[Event] = []
        for event in self.endpoint.events():
            if isinstance(event, CallOpening):
                said.append(self.opening(event))
            elif isinstance(event, CallUp):
                said.append(Up(self.slot(event.path.peer, event.call_id), rate=announced(event.speed)))
            elif isinstance(event, CallDown):
                worker = self.calls.pop((event.connection, event.call_id), None)
                if worker is not None:
                    self.load[worker] -= 1
                said.append(Down(self.slot(event.path.peer, event.call_id), event.reason))
            elif isinstance(event, ConnectionUp):
                self.say(logging.INFO, now, "connection %d with %s (%s) is up", event.connection, shown(event.path.peer), event.host_name)
            elif isinstance(event, ConnectionDown):
                self.connection_down(event, now)
            elif isinstance(event, Ignored):
                self.ignored(event)
            else:
                log.debug("%s", event)
        return said

    def opening(self, event: CallOpening) -> Opening:
        """Which worker will receive it nobody knows yet: it goes to the one that has the fewest."""
        worker = min(range(len(self.load)), key=self.load.__getitem__)
        self.load[worker] += 1
        self.calls[event.connection, event.call_id] = worker
        peer = event.path.peer
        call = Call(event.connection, self.core.tables.peer_hash(peer), event.call_id, event.peer_call_id,
                    event.path._replace(local_port=0, peer_port=0))
        return Opening(self.slot(peer, event.call_id), call, worker)

    def connection_down(self, event: ConnectionDown, now: float) -> None:
        self.say(logging.INFO, now, "connection %d with %s ended: %s", event.connection, shown(event.path.peer), event.reason.text)
        if event.reason.code not in ("cleared", "shutdown", "idle", "lost"):
            self.core.sessions.failures.add(self.name, "", shown(event.path.peer), event.reason)

    def ignored(self, event: Ignored) -> None:
        """At most one a second; a call that was refused is somebody's failure."""
        log.warning("%s: %s", shown(event.path.peer), event.text)
        if event.name == "refused_call":
            self.core.sessions.failures.add(self.name, "", shown(event.path.peer), Reason("call", "refused", event.text))

    # -- commands

    def hang_up(self, call: Call, reason: Reason, now: float) -> None:
        self.endpoint.hang_up(call.connection, call.session_id, reason, now, *CDN_RESULT.get(reason.code, (3, 0)))
