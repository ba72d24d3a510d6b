"""L2TPv2 (RFC 2661): the endpoint that owns all tunnels of a concentrator, or of a load generator.

    datagram -> header and version -> tunnel by our id, peer checked -> Tunnel.receive
                                      tunnel id 0: SCCRQ, known or new -> Tunnel, or a StopCCN that needs no state

Both roles are always there: `dial` and `place_call` make it a LAC, an SCCRQ and an ICRQ that arrive
an LNS. All time is in one heap that is re-armed lazily: a tunnel whose deadline moved away is left
alone until its old entry comes up, so traffic costs no heap operations and idle tunnels cost nothing.

The user drains `events()`, then writes `changed()` to what survives a crash, then sends `outgoing()`.
Messages for a tunnel id that we do not know are dropped: an answer would let anybody probe for ids,
and the sender's own HELLO tells it soon enough.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

from . import avp
from .avp import NO_RESOURCES, ResultCode
from .l2tpcall import FRAMING_SYNC, Call
from .l2tpevents import (
    CallDown,
    CallOpening,
    CallUp,
    Ids,
    Ignored,
    LineErrors,
    LinkInfo,
    Path,
    Settings,
    TunnelDown,
    TunnelState,
    TunnelUp,
)
from .l2tpgreeting import Refusal
from .l2tptunnel import CONTROL, HEADER, Tunnel
from .machine import Machine
from .reason import Reason
from .reliable import NEVER

__all__ = ["CallDown", "CallOpening", "CallUp", "Endpoint", "Ids", "Ignored", "LineErrors", "LinkInfo", "Path", "Settings",
           "TunnelDown", "TunnelState", "TunnelUp"]

# T, L, S set, O and P clear, version 2; reserved bits are ignored (section 3.1).
HEADER_MASK, VERSION_MASK = 0xCB0F, 0x000F
TIE = Reason("tunnel", "tie", "the peer dialled us at the same time, and its tunnel wins")
TIED = Reason("tunnel", "tie", "the peer dialled us at the same time, and neither tunnel wins")
RESTARTED = Reason("tunnel", "restarted", "the concentrator was restarted")


class Endpoint(Machine):
    """All tunnels. `random(n)` gives n random octets. `outgoing()` is a list of (Path, datagram)."""

    __slots__ = ("_dialling", "_dirty", "_gone", "_greeted", "_half_open", "_heap", "_ignored_at", "_opening", "_secret", "_serial",
                 "_tunnels", "counts", "data_heard", "ids", "random", "settings")

    def __init__(self, settings: Settings, ids: Ids, random: Callable[[int], bytes],
                 data_heard: Callable[[int, int], float] | None = None) -> None:
        """`data_heard(tunnel id, session id)`: when data last came in a session, for an endpoint whose data others receive."""
        super().__init__()
        self.settings, self.ids, self.random, self.data_heard = settings, ids, random, data_heard
        self.counts: defaultdict[str, int] = defaultdict(int)           # drops, by name
        self._secret = settings.secret.encode()
        self._tunnels: dict[int, Tunnel] = {}
        self._greeted: dict[tuple[bytes, int, int], Tunnel] = {}        # by peer and the id that it assigned
        self._dialling: dict[bytes, list[Tunnel]] = {}                  # by the address that we dialled, until it answers
        self._opening: defaultdict[bytes, int] = defaultdict(int)       # half-open tunnels of peers, by address
        self._half_open = 0
        self._heap: list[tuple[float, int, Tunnel]] = []
        self._dirty: dict[int, Tunnel] = {}
        self._gone: list[TunnelState] = []
        self._serial = 0
        self._ignored_at = -NEVER

    def configure(self, settings: Settings) -> None:
        """Other settings are in force from now on."""
        self.settings, self._secret = settings, settings.secret.encode()

    def __len__(self) -> int:
        """Tunnels, those that are closing among them."""
        return len(self._tunnels)

    @property
    def settled(self) -> bool:
        """Nothing waits for an acknowledgment: at the end, all goodbyes were heard or given up."""
        return all(tunnel.reliable.idle for tunnel in self._tunnels.values())

    # -- in

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """One control datagram."""
        if len(data) < HEADER.size:
            return self.ignore("header", path, f"a control message of {len(data)} octets", now)
        flags, length, tunnel_id, session_id, ns, nr = HEADER.unpack_from(data)
        if flags & HEADER_MASK != CONTROL:
            name = "version" if (flags ^ CONTROL) & VERSION_MASK else "header"
            return self.ignore(name, path, f"a control message with flags {flags:04x}", now)
        if not HEADER.size <= length <= len(data):
            return self.ignore("length", path, f"length {length} in a datagram of {len(data)} octets", now)
        body = data[HEADER.size:length]
        if not tunnel_id:
            return self._greet(path, session_id, ns, nr, body, now)
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            return self.ignore("unknown_tunnel", path, f"tunnel {tunnel_id} does not exist", now)
        known = tunnel.path
        if path.peer != known.peer or (path.peer_port != known.peer_port and tunnel.state != "wait-ctl-reply"):
            return self.ignore("other_peer", path, f"tunnel {tunnel_id} is another peer's", now)
        tunnel.receive(path, session_id, ns, nr, body, now)

    def _greet(self, path: Path, session_id: int, ns: int, nr: int, body: bytes, now: float) -> None:
        """A message to tunnel 0: from a peer that does not know our id yet (section 4.4.3)."""
        message = avp.decode(body, self._secret)
        peer_id = message.values.get("assigned_tunnel_id", 0)
        key = path.peer, path.peer_port, peer_id
        tunnel = self._greeted.get(key)
        if tunnel is not None:
            # A retransmission has the same content and comes soon. Else the peer restarted and chose
            # the same id: what it had before dies of its silence, not of a datagram with a forged source.
            again = hash(body) == tunnel.fingerprint and (
                tunnel.state == "wait-ctl-conn" or now - tunnel.born <= self.settings.timing.cycle)
            if again or message.name != "SCCRQ":
                return tunnel.receive(path, session_id, ns, nr, body, now)
        if message.name != "SCCRQ" or ns:
            return self.ignore("no_tunnel", path, f"{message.name or 'a message'} to tunnel 0", now)
        if self._half_open >= self.settings.half_open or self._opening.get(path.peer, 0) >= self.settings.half_open_per_peer:
            # Without an answer: the peer asks again, and later there is room.
            return self.ignore("half_open", path, "too many tunnels are being established", now)
        if path.peer in self._dialling and not self._wins_tie(path, message.values.get("tie_breaker", b"")):
            return self.ignore("tie", path, "SCCRQ from a peer that we dialled, and our tunnel wins", now)
        if message.ignored:
            self.counts["ignored_avp"] += len(message.ignored)
        tunnel = Tunnel(self, 0, path, now, self._secret)
        try:
            tunnel.accept(message)
            tunnel.tunnel_id = self.ids.take_tunnel(path.peer) or 0
            if not tunnel.tunnel_id:
                raise Refusal("full", "no room for another tunnel", 2, NO_RESOURCES)
        except Refusal as refusal:
            host = message.values.get("host_name", "")
            self.ignore("refused_tunnel", path, f"SCCRQ of {host!r} refused: {refusal}", now)
            # No state is made, so the answer is repeated when the SCCRQ is.
            body = avp.encode("StopCCN", {"assigned_tunnel_id": 0,
                                          "result_code": ResultCode(refusal.result, refusal.error, refusal.reason.text)})
            return self.transmit(path, HEADER.pack(CONTROL, HEADER.size + len(body), peer_id, 0, 0, 1) + body)
        tunnel.key, tunnel.fingerprint = key, hash(body)
        self._greeted[key] = tunnel
        self._own(tunnel)
        tunnel.reliable.nr = 1
        tunnel.fire("SCCRQ", message)
        tunnel.flush(now)

    def _wins_tie(self, path: Path, theirs: bytes) -> bool:
        """Does the peer's SCCRQ stand beside ours (section 4.4.3, Tie Breaker)? The lower value wins, and
        one that is there wins over none; the loser vanishes without a word."""
        stands = True
        for tunnel in list(self._dialling[path.peer]):
            ours = tunnel.tie_breaker
            if ours and (not theirs or ours < theirs):
                stands = False
            elif theirs and ours == theirs:
                tunnel.discard(TIED)
                stands = False
            elif theirs:
                tunnel.discard(TIE)
        return stands

    # -- commands

    def dial(self, path: Path, now: float, *, secret: str | None = None) -> int:
        """Open a tunnel as LAC; its id, or 0 when there is none left. `secret` is another than the settings'."""
        tunnel_id = self.ids.take_tunnel(path.peer)
        if not tunnel_id:
            return 0
        tunnel = Tunnel(self, tunnel_id, path, now, self._secret if secret is None else secret.encode())
        if self.settings.tie_breaker:
            tunnel.tie_breaker = self.random(8)
        self._own(tunnel)
        tunnel.fire("Open")
        tunnel.flush(now)
        return tunnel_id

    def place_call(self, tunnel_id: int, now: float, *, calling_number: str = "", called_number: str = "",
                   tx_speed: int = 1_000_000_000, framing: int = FRAMING_SYNC, sequencing: bool | None = None,
                   proxy: Mapping[str, Any] | None = None) -> int:
        """Open a call as LAC (ICRQ); its session id, or 0 when there is no room or no such tunnel. A tunnel
        that is not established yet keeps the call waiting. `proxy`: attributes 26 to 33 by name."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None or tunnel.state == "closing" or len(tunnel.calls) >= self.settings.sessions_per_tunnel:
            return 0
        session_id = self.ids.take_session(tunnel_id, tunnel.path.peer)
        if not session_id:
            return 0
        details = {"calling_number": calling_number, "called_number": called_number, "tx_speed": tx_speed, "framing": framing,
                   "sequencing": self.settings.sequencing if sequencing is None else sequencing, "proxy": dict(proxy or {})}
        tunnel.place(Call(tunnel, session_id, tunnel.path, 0, details), now)
        tunnel.flush(now)
        return session_id

    def hang_up(self, tunnel_id: int, session_id: int, reason: Reason, now: float, result: int = 3, error: int = 0) -> None:
        """End a call (CDN); nothing when it is gone already."""
        tunnel = self._tunnels.get(tunnel_id)
        call = tunnel.calls.get(session_id) if tunnel else None
        if tunnel and call:
            call.fire("Close", reason, result, error)
            tunnel.flush(now)

    def close(self, tunnel_id: int, reason: Reason, now: float, result: int = 1, error: int = 0) -> None:
        """End a tunnel with all its calls (StopCCN); nothing when it is gone already."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel and tunnel.state != "closing":
            tunnel.fire("Close", reason, result, error)
            tunnel.flush(now)

    def close_all(self, reason: Reason, now: float, result: int = 6) -> None:
        for tunnel_id in list(self._tunnels):
            self.close(tunnel_id, reason, now, result)

    def heard(self, tunnel_id: int, now: float) -> None:
        """Data arrived in the tunnel: the peer lives, a HELLO can wait."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel:
            tunnel.heard_at = now

    def worker_nr(self, tunnel_id: int, nr: int) -> None:
        """A worker acknowledged HELLOs in our name, up to but without `nr`."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel:
            tunnel.reliable.advance(nr)
            self.touch(tunnel)

    def say_goodbye(self, states: Iterable[TunnelState], now: float, worker_nr: Mapping[int, int] | None = None,
                    reason: Reason = RESTARTED, result: int = 6) -> None:
        """End tunnels of a former life, before any new one: their ids must be taken in Ids, and are given
        back when the peer has acknowledged or is given up. `worker_nr`: by tunnel id, the Nr up to which
        a worker acknowledged while control was dead."""
        for state in states:
            if state.state and state.peer_tunnel_id and state.tunnel_id not in self._tunnels:
                tunnel = Tunnel(self, state.tunnel_id, state.path, now, self._secret)
                self._own(tunnel)
                tunnel.resume(state, reason, result)
                if worker_nr and state.tunnel_id in worker_nr:
                    tunnel.reliable.advance(worker_nr[state.tunnel_id])
                tunnel.flush(now)

    # -- out

    def changed(self) -> list[TunnelState]:
        """Tunnels whose durable state changed since the last call; to be written before `outgoing()` is sent."""
        if not self._dirty and not self._gone:
            return []
        states = self._gone + [tunnel.snapshot() for tunnel in self._dirty.values()]
        self._gone, self._dirty = [], {}
        return states

    def deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def tick(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, tunnel = heappop(heap)
            if when == tunnel.armed:            # else it was armed for an earlier time since
                tunnel.armed = NEVER
                if tunnel.deadline() <= now:
                    tunnel.tick(now)
                if tunnel.state != "idle":
                    self._arm(tunnel)
        if len(heap) > 4 * len(self._tunnels) + 64:
            self._heap = [entry for entry in heap if entry[0] == entry[2].armed]
            heapify(self._heap)

    # -- for tunnels

    def emit(self, event: Any) -> None:
        self._events.append(event)

    def transmit(self, path: Path, datagram: bytes) -> None:
        self._outgoing.append((path, datagram))

    def serial_number(self) -> int:
        """Of a call, for the logs of both sides (section 4.4.4)."""
        self._serial = (self._serial + 1) & 0xFFFFFFFF
        return self._serial

    def ignore(self, name: str, path: Path, text: str, now: float) -> None:
        """Count a drop; say so at most once a second."""
        self.counts[name] += 1
        if now - self._ignored_at >= 1:
            self._ignored_at = now
            self.emit(Ignored(path, text, name))

    def moved(self, tunnel: Tunnel, was: str) -> None:
        """A tunnel changed its state: keep account of those that are being established."""
        peer = tunnel.path.peer
        if was == "wait-ctl-reply":
            dialling = self._dialling[peer]
            dialling.remove(tunnel)
            if not dialling:
                del self._dialling[peer]
        elif was == "wait-ctl-conn":
            self._half_open -= 1
            self._opening[peer] -= 1
            if not self._opening[peer]:
                del self._opening[peer]
        if tunnel.state == "wait-ctl-reply":
            self._dialling.setdefault(peer, []).append(tunnel)
        elif tunnel.state == "wait-ctl-conn":
            self._half_open += 1
            self._opening[peer] += 1

    def touch(self, tunnel: Tunnel) -> None:
        """Something changed in a tunnel."""
        self._dirty[tunnel.tunnel_id] = tunnel
        self._arm(tunnel)

    def forget(self, tunnel: Tunnel) -> None:
        """The end: its state goes, its id may be used again."""
        self._tunnels.pop(tunnel.tunnel_id, None)
        self._dirty.pop(tunnel.tunnel_id, None)
        if tunnel.key and self._greeted.get(tunnel.key) is tunnel:
            del self._greeted[tunnel.key]
        tunnel.state, tunnel.armed = "idle", NEVER
        self._gone.append(tunnel.snapshot())
        self.ids.give_tunnel(tunnel.tunnel_id)

    def _own(self, tunnel: Tunnel) -> None:
        self._serial += 1
        tunnel.serial = self._serial
        self._tunnels[tunnel.tunnel_id] = tunnel

    def _arm(self, tunnel: Tunnel) -> None:
        due = tunnel.deadline()
        if due < tunnel.armed:
            tunnel.armed = due
            heappush(self._heap, (due, tunnel.serial, tunnel))
