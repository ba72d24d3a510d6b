"""The far end's control connections: our own client role dials sessions and keeps them. Lac: by L2TP, over any datagram socket;
pns.py has PPTP's.

    datagram -> control message -> L2TP (RFC 2661) -> calls -> PPP client of each -> sessions that are up
             -> data message    -> PPP of its session; user data is not for us

The machines are control's own, in the client's role. Nothing runs by itself: `dial` until all sessions are up,
then `attend` whenever something can be read, or once in a while.
"""
from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import time
from random import Random
from typing import Any

from ..control.address import mapped
from ..control.l2tp import CallDown, CallOpening, CallUp, Endpoint, Path, Settings, TunnelDown
from ..control.ppp import PPP, LinkDown, LinkSettings, LinkUp
from ..control.reason import Reason
from .ends import Ends
from .lab import LabError
from .port import SOL_UDP, UDP_GRO
from .subject import Session

PATIENCE = 20.0             # seconds without another session
AT_ONCE = 64                # calls that are being set up at a time
A_TUNNEL = 1000             # sessions
LARGEST = 65536
GOODBYE = Reason("tunnel", "shutdown", "the bench is over")
T, L, S, O = 0x8000, 0x4000, 0x0800, 0x0200     # of an L2TP header
FF03, IP = b"\xff\x03", 0x0021


class Ids:
    """l2tp.Ids: they count up, and a bench needs none twice."""

    def __init__(self) -> None:
        self.tunnels, self.sessions = itertools.count(1), itertools.count(1)

    def take_tunnel(self, peer: bytes) -> int:
        return next(self.tunnels)

    def take_session(self, tunnel_id: int, peer: bytes) -> int:
        return next(self.sessions)

    def give_tunnel(self, tunnel_id: int) -> None:
        pass

    def give_session(self, tunnel_id: int, session_id: int) -> None:
        pass


class Call:
    """One session: our ids and the concentrator's, tunnel and session, and the PPP client; `number` counts them from 0."""

    def __init__(self, number: int, ids: tuple[int, int], peer_ids: tuple[int, int], ppp: PPP) -> None:
        self.number, self.ids, self.peer_ids, self.ppp = number, ids, peer_ids, ppp
        self.link: LinkUp | None = None


class FarEnd:
    """Sessions to the concentrator at `peer`. `wire` may be replaced once these are up. Who derives from it speaks the tunnel's
    protocol."""
    endpoint: Any
    ends: Ends                  # of the sessions, by their numbers: keys, and where packets are numbered

    def __init__(self, wire: socket.socket, peer: tuple[str, int], link: LinkSettings) -> None:
        self.wire, self.peer, self.settings = wire, peer, link
        self.random = Random(1)
        self.calls: dict[int, Call] = {}
        self.waiting: dict[int, Call] = {}      # of them those for whom time may matter
        self.up = 0
        self.failure = ""

    def _sources(self) -> list[socket.socket]:
        """Where something may come from."""
        return [self.wire]

    def _place(self, number: int) -> None:
        """Place the call with this number."""
        raise NotImplementedError

    def _receive(self, data: bytes) -> None:
        """What came from the wire."""
        raise NotImplementedError

    def _frame(self, call: Call, protocol: int, packet: bytes) -> bytes:
        """A PPP packet with the tunnel's header."""
        raise NotImplementedError

    def _flush(self) -> None:
        """The endpoint's events first, then what is to be sent (machine.py)."""
        raise NotImplementedError

    def dial(self, sessions: int) -> list[Session]:
        """Have so many sessions up; as the concentrator knows them."""
        self.ends = Ends(sessions)
        last = time.monotonic()
        placed = seen = 0
        while self.up < sessions:
            while placed < sessions and placed - self.up < AT_ONCE:
                self._place(placed)
                placed += 1
            self.attend(0.05)
            if self.up > seen:
                seen, last = self.up, time.monotonic()
            elif not self.failure and time.monotonic() > last + PATIENCE:
                self.failure = f"{self.up} of {sessions} sessions were up, and for {PATIENCE:.0f} s no other came"
            if self.failure:
                raise LabError(f"dialling: {self.failure}")
        return [Session(*call.peer_ids, str(call.link.local_address)) for call in self._in_order() if call.link]

    def _in_order(self) -> list[Call]:
        """Calls by their numbers."""
        return sorted(self.calls.values(), key=lambda call: call.number)

    def attend(self, timeout: float = 0) -> None:
        """Take what has arrived, waiting that long for it; let time pass, and answer."""
        self._flush()
        select.select(self._sources(), [], [], timeout)
        while True:
            try:
                data, notes, _, _ = self.wire.recvmsg(LARGEST, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                break
            size = next((struct.unpack("i", note)[0] for level, kind, note in notes if (level, kind) == (SOL_UDP, UDP_GRO)), len(data))
            for at in range(0, len(data), size):
                self._receive(data[at:at + size])
        now = time.monotonic()
        if (due := self.endpoint.deadline()) is not None and due <= now:
            self.endpoint.tick(now)
        for session, call in list(self.waiting.items()):
            if (due := call.ppp.deadline()) is not None and due <= now:
                call.ppp.tick(now)
                self._say(call)
            elif due is None and call.link:
                del self.waiting[session]
        self._flush()

    def close(self) -> None:
        """The protocol's goodbye, and no wait for its acknowledgment."""
        self.endpoint.close_all(GOODBYE, time.monotonic())
        self._flush()

    def _opening(self, key: int, ids: tuple[int, int], peer_ids: tuple[int, int]) -> Call:
        """A call has its ids."""
        call = Call(len(self.calls), ids, peer_ids, PPP("client", self.settings, self.random))
        self.calls[key] = self.waiting[key] = call
        return call

    def _answered(self, key: int) -> None:
        """A call is up: its link begins."""
        call = self.calls[key]
        call.ppp.open(time.monotonic())
        self._say(call)

    def _say(self, call: Call) -> None:
        """What a link has to say: events first."""
        for event in call.ppp.events():
            if isinstance(event, LinkUp):
                if not call.link:
                    self.up += 1
                    if self.settings.encryption.required:
                        assert event.cipher and event.cipher.send and event.cipher.receive
                        self.ends.seal(call.number, event.cipher.send.key, event.cipher.receive.key, event.cipher.send.bits)
                call.link = event
            elif isinstance(event, LinkDown):
                self.failure = event.reason.text
        for protocol, packet in call.ppp.outgoing():
            self._send(self._frame(call, protocol, packet))

    def _send(self, data: bytes) -> None:
        """To the concentrator; through a door to the data plane there is only one way."""
        with contextlib.suppress(BlockingIOError):      # lost, as on a wire
            if self.wire.family == socket.AF_UNIX:
                self.wire.send(data)
            else:
                self.wire.sendto(data, self.peer)


class Lac(FarEnd):
    """By L2TP, in as many tunnels as the sessions need."""

    def __init__(self, wire: socket.socket, peer: tuple[str, int], link: LinkSettings) -> None:
        super().__init__(wire, peer, link)
        self.endpoint = Endpoint(Settings(host_name="bench"), Ids(), os.urandom)
        self._tunnel = 0
        host, port = wire.getsockname()[:2]
        self.path = Path(0, mapped(socket.inet_aton(host)), port, mapped(socket.inet_aton(peer[0])), peer[1])

    def _place(self, number: int) -> None:
        if number % A_TUNNEL == 0:
            self._tunnel = self.endpoint.dial(self.path, time.monotonic())
        self.endpoint.place_call(self._tunnel, time.monotonic())

    def _frame(self, call: Call, protocol: int, packet: bytes) -> bytes:
        return struct.pack("!HHH", 2, *call.peer_ids) + FF03 + protocol.to_bytes(2, "big") + packet

    def _receive(self, data: bytes) -> None:
        now = time.monotonic()
        if len(data) < 6:
            return
        flags = struct.unpack_from("!H", data)[0]
        if flags & T:
            self.endpoint.receive(self.path, data, now)
        else:
            at = 4 if flags & L else 2
            call = self.calls.get(struct.unpack_from("!HH", data, at)[1])
            at += 8 if flags & S else 4
            if flags & O:
                at += 2 + struct.unpack_from("!H", data, at)[0]
            if data[at:at + 2] == FF03:
                at += 2
            if call and len(data) >= at + 2 and not data[at] & 1 and (protocol := struct.unpack_from("!H", data, at)[0]) != IP:
                call.ppp.receive(protocol, data[at + 2:], now)
                self._say(call)
        self._flush()

    def _flush(self) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallOpening):
                call = self._opening(event.session_id, (event.tunnel_id, event.session_id), (event.peer_tunnel_id, event.peer_session_id))
                self.ends.name(call.number, event.session_id)
            elif isinstance(event, CallUp):
                self._answered(event.session_id)
            elif isinstance(event, (CallDown, TunnelDown)) and event.reason != GOODBYE:
                self.failure = event.reason.text
        for _, message in self.endpoint.outgoing():
            self._send(message)
