"""A tunnel type as the concentrator sees it: what its calls do, and what can be asked of it.

    its machine's own events  ->  Opening, Up, Down  ->  sessions.py
    hang_up, shut_down, tick  ->  its machine's own commands

A call is an object of the tunnel type's own, such as the CallOpening of its machine. Here it has a path and two ids; what else is in it
the type itself reads, and its template in install.py. Everything above, PPP, users, addresses and tables, knows services only.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..fastpath.packet import Kind
from .address import Path
from .link import LinkSettings
from .log import Limited
from .reason import Reason
from .settings import Config, Serving

if TYPE_CHECKING:
    from .concentrator import Concentrator

LOCALLY_ASSIGNED = b"\x01"     # a class of endpoint discriminators (RFC 1990 section 5.1.3)
LIMITED = 20        # lines a second of what strangers can cause


class Call(Protocol):
    """What carries one session."""
    @property
    def tunnel_id(self) -> int: ...     # ours; with the next it leads to the slot
    @property
    def session_id(self) -> int: ...
    @property
    def path(self) -> Path: ...         # of its data; path.peer is the caller-id


@dataclass(frozen=True, slots=True)
class Opening:
    """The ids of both sides are known, and data may arrive. `worker` is who receives it, as far as that can be told."""
    slot: int
    call: Call
    worker: int


@dataclass(frozen=True, slots=True)
class Up:
    """The call stands: PPP begins. `sequenced`: we must number what we send; `rate`: the bits a second that its line takes toward the
    peer, as far as the peer says so, 0: it does not."""
    slot: int
    sequenced: bool = False
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Down:
    """The call is gone, and its ids are free again."""
    slot: int
    reason: Reason


Event = Opening | Up | Down


def announced(speed: int) -> int:
    """The rate that a connect speed of 32 bits tells: all ones is what those say who do not know."""
    return 0 if speed == 0xFFFFFFFF else speed


class Endpoint(Protocol):
    """What every service asks of its machine; the rest is between the two."""
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def settled(self) -> bool: ...
    def close_all(self, reason: Reason, now: float) -> None: ...
    def deadline(self) -> float | None: ...
    def tick(self, now: float) -> None: ...
    def __len__(self) -> int: ...


def link_settings(table: Serving, duid: bytes) -> LinkSettings:
    """PPP as a server's table wants it. What tells our bundles from another server's is locally assigned, and made of our DUID."""
    return LinkSettings(mru=table.max_mru, mtu=table.max_mtu, authentication=table.authentication, mrru=table.joins,
                        discriminator=LOCALLY_ASSIGNED + duid if table.joins else b"")


class Service:
    """One tunnel type of a concentrator, `core`, whose ids, tables, installer, outbox and failures it uses."""
    name: ClassVar[str]         # of [server.NAME], in sessions' names and listings
    kind: ClassVar[Kind]        # in the tables
    sequenced: ClassVar[bool] = False       # all its data is numbered
    patience: ClassVar[float] = 0.0         # seconds that we let a peer begin with LCP, who may not listen yet when a call is up
    endpoint: Endpoint
    stopping = False            # no peer is new from now on

    def __init__(self, core: Concentrator) -> None:
        self.core = core
        self.say = Limited(logging.getLogger(f"headrace.{self.name}"), LIMITED)
        self.configure(core.config)

    def configure(self, config: Config) -> None:
        """Another configuration is in force; calls that are up stay as they are."""
        self.table: Serving = getattr(config.server, self.name)
        self.link = link_settings(self.table, self.core.duid)

    # -- what a machine does

    def events(self, now: float) -> list[Event]:
        """What happened to calls; what happened to tunnels goes to the log from here."""
        raise NotImplementedError

    def flush(self) -> None:
        """Put what a restart needs on record, then what is to be sent where its shell finds it."""

    def deadline(self) -> float | None:
        return self.endpoint.deadline()

    def tick(self, now: float) -> None:
        self.endpoint.tick(now)

    # -- commands

    def hang_up(self, call: Any, reason: Reason, now: float) -> None:
        """End a call; nothing when it is gone already."""
        raise NotImplementedError

    def shut_down(self, reason: Reason, now: float) -> None:
        """Say goodbye to every peer, and take no new one."""
        self.stopping = True
        self.endpoint.close_all(reason, now)

    def say_goodbye(self, now: float, slots: Iterable[int]) -> int:
        """End what a former life left, as far as it is on record, sessions in `slots` among it; to how many goodbye is said."""
        return 0

    # -- how it stands

    def table_of(self, call: Any) -> Serving:
        """What the configuration says of such calls."""
        return self.table

    def link_of(self, call: Any) -> LinkSettings:
        """And of their PPP."""
        return self.link

    def told(self, call: Any) -> dict[str, str]:
        """What else `sessions` shows of a call."""
        return {}

    @property
    def max_sessions(self) -> int:
        """0: as many as the concentrator takes."""
        return self.table.max_sessions

    @property
    def settled(self) -> bool:
        """All goodbyes were heard, or given up."""
        return self.endpoint.settled

    @property
    def counts(self) -> Mapping[str, int]:
        """What was dropped, by name."""
        return self.endpoint.counts

    def __len__(self) -> int:
        """Tunnels, or what it has in their place."""
        return len(self.endpoint)
