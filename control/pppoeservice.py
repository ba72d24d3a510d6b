"""PPPoE as a service: workers answer PADIs by what is in the tables' offer, and put PADRs and PADTs to the machine; control says which
services there are on which interface, and how long an offer waits.

Nothing of a session outlives control but its slot: when control has died, the next one says PADT to all.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from ..fastpath import service
from ..fastpath.packet import Kind
from ..fastpath.punt import PuntKind
from ..fastpath.service import ServiceFlag
from . import mac
from .address import Path
from .interfaces import Interface
from .link import LinkSettings
from .listener import ethernet_ports
from .pppoe import CallDown, CallOpening, CallUp, Endpoint, Offer, Settings
from .reason import Reason
from .service import Down, Event, Opening, Service, Up, link_settings
from .settings import Config
from .settings import Pppoe as Table

log = logging.getLogger("headrace.pppoe")

HEADER = 8                      # octets of PPPoE and PPP in front of a packet, in an interface's MTU
REFUSE = 0xFFFF                 # a delay in the tables: no offer is made
AGAIN = 0.1                     # seconds until an offer that a worker held up is tried again
FLAGS = {"exact": ServiceFlag.SERVICE_EXACT, "any": ServiceFlag.SERVICE_ANY, "blank": 0}


class Call(NamedTuple):
    """A session as the tables know it. What stands for a tunnel's id is a hash of its network, and ids are unique there."""
    opening: CallOpening
    tunnel_id: int
    session_id: int
    path: Path
    table: Table                # that was in force when it began
    link: LinkSettings


class Ids:
    """pppoe.Ids: those of the concentrator."""

    def __init__(self, core: Any) -> None:
        self.core = core

    def take_call(self, network: bytes, station: bytes) -> int | None:
        return self.core.ids.take_call(network, "pppoe", station)

    def give_call(self, network: bytes, session_id: int) -> None:
        self.core.ids.give_call(network, session_id, "pppoe")


class Row(NamedTuple):
    """A service on one interface, in the order in which they are tried."""
    port: int
    table: Table
    offer: Offer
    macs: frozenset[bytes]


class Pppoe(Service):
    name, kind, patience = "pppoe", Kind.KIND_PPPOE, 1.0
    endpoint: Endpoint

    def __init__(self, core: Any) -> None:
        self.endpoint = Endpoint(Settings(), Ids(core), core.random.randbytes, self.offered)
        self.ports = ethernet_ports(core.config.server)
        self.names = {port: name for name, port in self.ports.items()}
        self.there: dict[int, Interface] = {}           # the interfaces that are up, by port
        self.rows: list[Row] = []
        self.delays: list[int] = []                     # that each row has in the tables
        self.links: dict[tuple[str, int], LinkSettings] = {}        # by Offer.name and the largest payload
        self.overdue: float | None = None               # when what is offered must be told again
        self.calls: dict[int, int] = {}                 # the worker of each session, by slot
        self.load = [0] * core.tables.workers
        super().__init__(core)

    # -- what is offered

    def configure(self, config: Config) -> None:
        self.tables = config.server.pppoe
        self.limit = config.concentrator.padi_limit
        self.offer()

    def interface(self, name: str, state: Interface | None) -> None:
        """An interface is there, or is not any more. Its sessions go on when it is back before they are missed."""
        port = self.ports[name]
        if state is None:
            self.there.pop(port, None)
        else:
            self.there[port] = state
        self.offer()

    def offer(self) -> None:
        """Let the workers answer by the configuration, on the interfaces that are there."""
        if not self.ports:
            return
        self.links.clear()
        self.rows = [row for table in self.tables if table.enabled for name in table.interface
                     if (port := self.ports.get(name)) in self.there and (row := self.row(table, port)) is not None]
        self.delays = [self.delay(row) for row in self.rows]
        ports = {row.port: (self.there[row.port].mac, row.table.padi_limit, row.table.padi_limit_per_mac) for row in self.rows}
        services = [{"name": row.table.service_name.encode(), "ac_name": row.offer.ac_name, "port": row.port,
                     "flags": FLAGS[row.table.accept_service_name] | self.list_flag(row.table), "ranges": row.table.ranges,
                     "max_payload": row.offer.max_payload, "delay": delay, "macs": row.macs}
                    for row, delay in zip(self.rows, self.delays, strict=True)]
        try:
            service.offer(self.core.tables, services, ports, self.limit)
            self.overdue = None
        except BlockingIOError as error:            # a worker stands still
            log.debug("%s", error)
            self.overdue = self.core.clock() + AGAIN

    def row(self, table: Table, port: int) -> Row | None:
        payload = self.there[port].mtu - HEADER
        offer = Offer(table.label, table.ac_name.encode(), table.max_sessions, table.one_session_per_host, payload)
        macs = frozenset(map(mac.parse, table.allow_mac)) - frozenset(map(mac.parse, table.deny_mac)) if table.allow_mac \
            else frozenset(map(mac.parse, table.deny_mac))
        return Row(port, table, offer, macs)

    @staticmethod
    def list_flag(table: Table) -> int:
        return ServiceFlag.SERVICE_LISTED if table.allow_mac else ServiceFlag.SERVICE_UNLISTED if table.deny_mac else 0

    def delay(self, row: Row) -> int:
        """Milliseconds."""
        delay = row.table.delay(self.endpoint.sessions(row.offer.name))
        return REFUSE if delay == "refuse" else round(delay * 1000)

    def follow_load(self) -> None:
        """The delays depend on how many sessions there are. While a worker holds up an offer, the tables have other services."""
        if self.overdue is not None:
            return
        for index, row in enumerate(self.rows):
            if len(row.table.pado_delay) > 1 and (delay := self.delay(row)) != self.delays[index]:
                self.delays[index] = delay
                service.set_delay(self.core.tables, index, delay)

    def find(self, path: Path, name: bytes) -> Row | None:
        """Which service a host may have under that name: the worker's rule (offer.pxd)."""
        station, wanted = mac.mac(path.peer), name
        outer, inner = ([vlan for _, vlan in mac.vlans(path.peer)] + [0, 0])[:2]
        for row in self.rows:
            table, own = row.table, row.table.service_name.encode()
            if row.port != path.port or (station in row.macs) != bool(table.allow_mac):
                continue
            if not any(low[0] <= outer <= low[1] and high[0] <= inner <= high[1] for low, high in table.ranges or (((0, 0), (0, 0)),)):
                continue
            if wanted == own or table.accept_service_name == "any" or (not wanted and table.accept_service_name == "blank"):
                return row
        return None

    def offered(self, path: Path, name: bytes) -> Offer | None:
        row = self.find(path, name)
        return replace(row.offer, max_payload=row.offer.max_payload - tag_octets(path.peer)) if row else None

    # -- in

    def receive(self, path: Path, packet: bytes, now: float) -> None:
        """A PADR or PADT that a worker punted."""
        self.endpoint.receive(path, packet, now)

    # -- what a machine does

    def slot(self, opening: CallOpening) -> int:
        tables = self.core.tables
        return tables.slot(tables.peer_hash(mac.network(opening.path.peer, opening.path.port)), opening.session_id)

    def events(self, now: float) -> list[Event]:
        said: list[Event] = []
        events = self.endpoint.events()
        if not events:
            return said
        for event in events:
            if isinstance(event, CallOpening):
                said.append(self.opening(event))
            elif isinstance(event, CallUp):
                said.append(Up(self.slot(event.call), rate=event.call.rate))
            elif isinstance(event, CallDown) and event.call is not None:
                slot = self.slot(event.call)
                self.load[self.calls.pop(slot)] -= 1
                said.append(Down(slot, event.reason))
        self.follow_load()
        return said

    def opening(self, event: CallOpening) -> Opening:
        """One worker reads for all of its interface, so that sessions are spread: each goes to the one that has the fewest."""
        worker = min(range(len(self.load)), key=self.load.__getitem__)
        slot, network, port = self.slot(event), mac.network(event.path.peer, event.path.port), event.path.port
        self.load[worker] += 1
        self.calls[slot] = worker
        table, offer = next((row.table, row.offer) for row in self.rows if row.offer.name == event.service and row.port == port)
        payload = min(event.max_payload, offer.max_payload - tag_octets(event.path.peer))
        link = self.links.get((offer.name, payload))
        if link is None:
            link = link_settings(table, self.core.duid)
            link = self.links[offer.name, payload] = replace(link, mru=min(link.mru, payload), mtu=min(link.mtu, payload))
        call = Call(event, self.core.tables.peer_hash(network), event.session_id, event.path, table, link)
        return Opening(slot, call, worker)

    def flush(self) -> None:
        outbox = self.core.outbox
        for path, packet in self.endpoint.outgoing():
            outbox[path.worker].append((PuntKind.PUNT_PPPOE, 0, 0, 0, path, packet))

    def deadline(self) -> float | None:
        return self.overdue

    def tick(self, now: float) -> None:
        if self.overdue is not None and self.overdue <= now:
            self.offer()

    # -- commands

    def hang_up(self, call: Call, reason: Reason, now: float) -> None:
        self.endpoint.hang_up(call.opening, reason, now)

    def shut_down(self, reason: Reason, now: float) -> None:
        self.tables = ()
        self.offer()
        super().shut_down(reason, now)

    def say_goodbye(self, now: float, slots: Iterable[int]) -> int:
        rows = self.core.tables.sessions()[list(slots)]
        rows = rows[rows["kind"] == self.kind]
        for row in rows:                            # once, at the start
            path = Path(int(row["port"]), bytes(row["local"]), 0, bytes(row["peer"]), 0)
            self.endpoint.terminate(path, int(row["session"]))
        return len(rows)

    # -- how it stands

    def table_of(self, call: Call) -> Table:
        return call.table

    def link_of(self, call: Call) -> LinkSettings:
        return call.link

    def told(self, call: Call) -> dict[str, str]:
        opening = call.opening
        known = {"called-id": call.table.service_name, "interface": self.names[opening.path.port], "circuit-id": text(opening.circuit_id),
                 "remote-id": text(opening.remote_id)}
        return {key: value for key, value in known.items() if value}

    @property
    def max_sessions(self) -> int:
        """Each service has its own, and the machine knows it."""
        return 0

    def __len__(self) -> int:
        """There are no tunnels."""
        return 0


def tag_octets(station: bytes) -> int:
    """How much less of the interface's MTU is left to a host behind tags: Linux lets a packet socket send one of 8100 beyond it."""
    vlans = mac.vlans(station)
    return 4 * len(vlans) - (4 if vlans and vlans[0][0] == mac.C_TAG else 0)


def text(octets: bytes) -> str:
    """What a line is called: mostly text, and hexadecimal where it is none."""
    try:
        name = octets.decode()
    except UnicodeDecodeError:
        name = "\0"
    return name if name.isprintable() else "0x" + octets.hex()
