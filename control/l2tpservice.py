"""L2TP as a service: control datagrams come from the workers and go back to them, and a tunnel's state is on record before they do."""
from __future__ import annotations

import logging
from collections.abc import Iterable

from ..fastpath.packet import Kind
from ..fastpath.punt import PuntKind
from ..fastpath.table import TICK_SECONDS
from .address import Path, shown
from .l2tp import Endpoint
from .l2tpevents import CallDown, CallOpening, CallUp, Ignored, Settings, TunnelDown, TunnelState, TunnelUp
from .reason import Reason
from .service import Down, Event, Opening, Service, Up, announced
from .settings import Config

log = logging.getLogger("headrace.l2tp")

# Result and error codes of a CDN (RFC 2661 section 4.4.2): lost carrier, an error of the vendor's, see the error code, no facilities
# for now; else 3, administrative.
CDN_RESULT = {"no-echo": (1, 0), "internal": (2, 6), "peer-terminated": (2, 0), "full": (4, 0), "stalled": (4, 0)}


class L2tp(Service):
    name, kind = "l2tp", Kind.KIND_L2TP
    endpoint: Endpoint

    def configure(self, config: Config) -> None:
        super().configure(config)
        table = config.server.l2tp
        settings = Settings(secret=table.tunnel_secret, require_secret=bool(table.tunnel_secret), hide=table.hidden)
        if not hasattr(self, "endpoint"):
            self.endpoint = Endpoint(settings, self.core.ids, self.core.random.randbytes, self.data_heard)
        self.endpoint.configure(settings)

    # -- in

    def receive(self, path: Path, payload: bytes, now: float) -> None:
        """A control datagram that a worker punted."""
        if self.stopping and payload[4:6] == b"\0\0":
            return                      # who wants a new tunnel must ask who comes after us
        self.endpoint.receive(path, payload, now)

    def defective(self, payload: bytes, reason: Reason, now: float) -> None:
        """What that datagram began went wrong in us: its tunnel ends."""
        self.endpoint.close(int.from_bytes(payload[4:6]), reason, now, *CDN_RESULT[reason.code])

    def data_heard(self, tunnel_id: int, session_id: int) -> float:
        """When its worker last received something in a session."""
        tables = self.core.tables
        return tables.counters(tables.slot(tunnel_id, session_id))[4] * TICK_SECONDS

    def hear_workers(self) -> None:
        """Workers acknowledged HELLOs while we were away: learn what they expect next."""
        tables = self.core.tables
        rows = tables.tunnels()
        for tunnel in ((rows["state"] != 0) & (rows["worker_generation"] == rows["generation"])).nonzero()[0]:
            self.endpoint.worker_nr(int(tunnel), tables.read_tunnel(int(tunnel))[3])

    # -- what a machine does

    def events(self, now: float) -> list[Event]:
        said: list[Event] = []
        events = self.endpoint.events()
        if not events:
            return said
        slot = self.core.tables.slot
        for event in events:
            if isinstance(event, CallOpening):
                said.append(Opening(slot(event.tunnel_id, event.session_id), event, event.path.worker))
            elif isinstance(event, CallUp):
                said.append(Up(slot(event.tunnel_id, event.session_id), event.sequencing_required, announced(event.tx_speed)))
            elif isinstance(event, CallDown):
                said.append(Down(slot(event.tunnel_id, event.session_id), event.reason))
            elif isinstance(event, TunnelUp):
                self.say(logging.INFO, now, "tunnel %d with %s (%s) is up", event.tunnel_id, shown(event.path.peer), event.host_name)
            elif isinstance(event, TunnelDown):
                self.tunnel_down(event, now)
            elif isinstance(event, Ignored):
                self.ignored(event)
            else:
                log.debug("%s", event)
        return said

    def tunnel_down(self, event: TunnelDown, now: float) -> None:
        self.core.ids.tunnel_over(event.tunnel_id)
        self.say(logging.INFO, now, "tunnel %d with %s ended: %s", event.tunnel_id, shown(event.path.peer), event.reason.text)
        if event.reason.code not in ("cleared", "shutdown", "restarted"):
            self.core.sessions.failures.add(self.name, "", shown(event.path.peer), event.reason)

    def ignored(self, event: Ignored) -> None:
        """At most one a second; a tunnel or a call that was refused is somebody's failure."""
        log.warning("%s: %s", shown(event.path.peer), event.text)
        if event.name in ("refused_tunnel", "refused_call"):
            reason = Reason(event.name.removeprefix("refused_"), "refused", event.text)
            self.core.sessions.failures.add(self.name, "", shown(event.path.peer), reason)

    def flush(self) -> None:
        for state in self.endpoint.changed():
            self.core.installer.tunnel(state)
        outbox = self.core.outbox
        for path, datagram in self.endpoint.outgoing():
            outbox[path.worker].append((PuntKind.PUNT_L2TP, 0, 0, 0, path, datagram))

    # -- commands

    def hang_up(self, call: CallOpening, reason: Reason, now: float) -> None:
        self.endpoint.hang_up(call.tunnel_id, call.session_id, reason, now, *CDN_RESULT.get(reason.code, (3, 0)))

    def say_goodbye(self, now: float, slots: Iterable[int]) -> int:
        tables, states = self.core.tables, []
        for tunnel in tables.tunnels()["state"].nonzero()[0]:
            state, peer_tunnel, ns, nr, acked, path = tables.read_tunnel(int(tunnel))
            states.append(TunnelState(int(tunnel), peer_tunnel, Path(*path), ns, nr, acked, state))
        self.core.ids.inherit(tunnels=(s.tunnel_id for s in states))
        self.endpoint.say_goodbye(states, now)
        return len(states)
