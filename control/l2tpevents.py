"""What the L2TP endpoint and its user tell each other: addresses, settings, durable state, events."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .address import Path
from .reason import Reason
from .reliable import Timing


class Ids(Protocol):
    """Where tunnel and session ids come from; they must not be handed out again soon."""
    def take_tunnel(self, peer: bytes) -> int | None: ...
    def give_tunnel(self, tunnel_id: int) -> None: ...
    def take_session(self, tunnel_id: int, peer: bytes) -> int | None: ...
    def give_session(self, tunnel_id: int, session_id: int) -> None: ...


@dataclass(slots=True)
class Settings:
    """How an endpoint behaves; times in seconds."""
    host_name: str = "headrace"
    vendor_name: str = "headrace"
    secret: str = ""                    # of tunnel authentication and hidden AVPs; "" is none
    require_secret: bool = False        # challenge every peer
    hide: bool = False                  # hide what may be hidden in an open tunnel; xl2tpd reads it with require_secret only
    receive_window: int = 16            # control messages that we take ahead of the next one
    hello: float = 60.0                 # silence on a control connection before a HELLO
    timing: Timing = field(default_factory=Timing)
    setup: float = 60.0                 # for a tunnel or a call to be established
    sequencing: bool = False            # number data messages though the peer does not ask; as LAC, ask the peer
    tie_breaker: bool = False           # as LAC: want no second tunnel with the same peer
    half_open: int = 4096               # tunnels of peers that are being established
    half_open_per_peer: int = 1024      # ... from one address; a LAC may have thousands of tunnels
    sessions_per_tunnel: int = 65534

    def __post_init__(self) -> None:
        if self.require_secret and not self.secret:
            raise ValueError("require_secret needs a secret")
        if not 4 <= self.receive_window <= 0x7FFF:
            raise ValueError(f"receive_window {self.receive_window} is not from 4 to 32767")


class TunnelState(NamedTuple):
    """What must survive a crash to say goodbye properly (design.md 6); written before anything that
    depends on it is sent. A state of 0 means that the tunnel is forgotten."""
    tunnel_id: int
    peer_tunnel_id: int
    path: Path
    ns: int                 # next to send
    nr: int                 # next expected
    acked: int              # lowest that is not acknowledged
    state: int              # index into STATES


STATES = ("idle", "wait-ctl-reply", "wait-ctl-conn", "established", "closing")


@dataclass(frozen=True, slots=True)
class TunnelUp:
    """The control connection is established."""
    tunnel_id: int
    path: Path
    host_name: str
    vendor_name: str
    peer_tunnel_id: int


@dataclass(frozen=True, slots=True)
class TunnelDown:
    """The tunnel is gone, or never came up; each of its calls had its CallDown before."""
    tunnel_id: int
    path: Path
    reason: Reason


@dataclass(frozen=True, slots=True)
class CallOpening:
    """Both session ids are known; the peer hears of ours after this. Data may arrive from now on."""
    tunnel_id: int
    session_id: int
    peer_tunnel_id: int
    peer_session_id: int
    path: Path


@dataclass(frozen=True, slots=True)
class CallUp:
    """The call is established. `sequencing_required`: we must number the data messages that we send;
    `proxy` holds the attributes 26 to 33 by name (avp.PROXY)."""
    tunnel_id: int
    session_id: int
    peer_tunnel_id: int
    peer_session_id: int
    path: Path
    calling_number: str
    called_number: str
    tx_speed: int
    framing: int
    sequencing_required: bool
    proxy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallDown:
    """The call is gone; its session id is free again."""
    tunnel_id: int
    session_id: int
    reason: Reason
    by_peer: bool


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The peer told the ACCMs of the call (SLI)."""
    tunnel_id: int
    session_id: int
    send_accm: int
    receive_accm: int


@dataclass(frozen=True, slots=True)
class LineErrors:
    """The LAC's counters of its line (WEN): CRC, framing, hardware overruns, buffer overruns,
    time-outs, alignment."""
    tunnel_id: int
    session_id: int
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something was dropped, and is counted under this name; at most one of these a second."""
    path: Path
    text: str
    name: str = ""
