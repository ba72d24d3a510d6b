"""What the PPTP endpoint and its user tell each other: settings, ids, events. A connection is a number that the endpoint gave."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .address import Path
from .reason import Reason


class CallIds(Protocol):
    """Where call ids come from: those of one peer's address differ, and must not be handed out again soon."""
    def take_call(self, peer: bytes) -> int | None: ...
    def give_call(self, peer: bytes, call_id: int) -> None: ...


@dataclass(slots=True)
class Settings:
    """How an endpoint behaves; times in seconds."""
    host_name: str = "headrace"
    vendor_name: str = "headrace"
    receive_window: int = 64            # packets of data that the peer may send ahead of our acknowledgment
    echo: float = 60.0                  # silence on a connection before an Echo-Request, and then until it is given up (section 2.5)
    setup: float = 60.0                 # for a connection or a call to be established (section 3.1.4)
    idle: float = 60.0                  # that an established connection may have no call
    stop: float = 5.0                   # for the answer to our goodbye, to a connection or to a call
    half_open: int = 4096               # connections of peers that have no call yet
    half_open_per_peer: int = 1024      # ... from one address; many clients may share one
    calls_per_connection: int = 65534


@dataclass(frozen=True, slots=True)
class ConnectionUp:
    """The control connection is established."""
    connection: int
    path: Path
    host_name: str
    vendor_name: str


@dataclass(frozen=True, slots=True)
class ConnectionDown:
    """The control connection is gone or says goodbye, or never came up; each of its calls had its CallDown before."""
    connection: int
    path: Path
    reason: Reason


@dataclass(frozen=True, slots=True)
class CallOpening:
    """Both call ids are known; the peer hears of ours after this. Data may arrive from now on."""
    connection: int
    call_id: int
    peer_call_id: int
    path: Path


@dataclass(frozen=True, slots=True)
class CallUp:
    """The call is established. `speed` is the peer's word for its line, in bits a second: of a PAC how fast it is, of a PNS what it takes
    at most; 0: it had no occasion to say."""
    connection: int
    call_id: int
    path: Path
    calling_number: str
    called_number: str
    speed: int = 0


@dataclass(frozen=True, slots=True)
class CallDown:
    """The call is gone; its call id is free again. `statistics` is what a PAC says of it at the end."""
    connection: int
    call_id: int
    path: Path
    reason: Reason
    by_peer: bool
    statistics: str = ""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The peer told the ACCMs of the call (SLI)."""
    connection: int
    call_id: int
    send_accm: int
    receive_accm: int


@dataclass(frozen=True, slots=True)
class LineErrors:
    """The PAC's counters of its line (WEN): CRC, framing, hardware overruns, buffer overruns, time-outs, alignment."""
    connection: int
    call_id: int
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something was dropped or refused, and is counted under this name; at most one of these a second."""
    path: Path
    text: str
    name: str = ""
