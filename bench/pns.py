"""The far end of PPTP: our own PNS dials calls in one control connection, and speaks PPP in GRE from a raw socket (RFC 2637).

Sequence numbers, and keys where the link is encrypted, are in `ends`, where generator, sink and data plane go on with them.
"""
from __future__ import annotations

import contextlib
import itertools
import math
import socket
import struct
import time

from ..control.address import Path, mapped
from ..control.link import LinkSettings
from ..control.pptp import Endpoint
from ..control.pptpevents import CallDown, CallOpening, CallUp, ConnectionDown, Settings
from .dial import FF03, GOODBYE, IP, PATIENCE, Call, FarEnd
from .lab import LabError

PORT = 1723
PPP, COMPRESSED = 0x880B, 0x00FD
S, A, BASE = 0x1000, 0x0080, 0x2001


class CallIds:
    """They count up, and a bench needs none twice."""

    def __init__(self) -> None:
        self.calls = itertools.count(1)

    def take_call(self, peer: bytes) -> int | None:
        return next(self.calls)

    def give_call(self, peer: bytes, call_id: int) -> None:
        pass


class Pns(FarEnd):
    """`wire` is a raw socket of GRE that is connected to the server."""

    def __init__(self, wire: socket.socket, peer: tuple[str, int], link: LinkSettings) -> None:
        super().__init__(wire, peer, link)
        self.endpoint = Endpoint(Settings(host_name="bench", echo=math.inf, idle=math.inf, setup=math.inf), CallIds())
        host = wire.getsockname()[0]
        self.control = socket.create_connection(peer, timeout=PATIENCE, source_address=(host, 0))
        self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.control.setblocking(False)
        path = Path(0, mapped(socket.inet_aton(host)), self.control.getsockname()[1], mapped(socket.inet_aton(peer[0])), peer[1])
        self.connection = self.endpoint.dial(path, time.monotonic())

    def close(self) -> None:
        with contextlib.suppress(OSError):          # the server may be gone already
            super().close()
        self.control.close()

    def attend(self, timeout: float = 0) -> None:
        with contextlib.suppress(BlockingIOError):
            octets = self.control.recv(65536)
            if octets:
                self.endpoint.receive(self.connection, octets, time.monotonic())
            else:
                self.failure = self.failure or "the server closed the connection"
        super().attend(timeout)

    def _sources(self) -> list[socket.socket]:
        return [self.wire, self.control]

    def _place(self, number: int) -> None:
        if not self.endpoint.place_call(self.connection, time.monotonic()):
            raise LabError("a call could not be placed")

    def _frame(self, call: Call, protocol: int, packet: bytes) -> bytes:
        frame = FF03 + protocol.to_bytes(2, "big") + packet
        return struct.pack("!HHHHL", BASE | S, PPP, len(frame), call.peer_ids[1], self.ends.next(call.number)) + frame

    def _receive(self, data: bytes) -> None:
        """A packet with its IPv4 header; acknowledgments alone and user data are not for us."""
        at = (data[0] & 15) * 4
        if len(data) < at + 12:
            return
        flags, kind, length, number = struct.unpack_from("!HHHH", data, at)
        call = self.calls.get(number)
        if kind != PPP or not flags & S or call is None:
            return
        at += 16 if flags & A else 12
        frame = data[at:at + length].removeprefix(FF03)
        protocol = int.from_bytes(frame[:2], "big")
        if len(frame) > 2 and not frame[0] & 1 and protocol not in (IP, COMPRESSED):
            call.ppp.receive(protocol, frame[2:], time.monotonic())
            self._say(call)

    def _flush(self) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallOpening):
                call = self._opening(event.call_id, (0, event.call_id), (0, event.peer_call_id))
                self.ends.name(call.number, event.call_id)
            elif isinstance(event, CallUp):
                self._answered(event.call_id)
            elif isinstance(event, (CallDown, ConnectionDown)) and event.reason != GOODBYE:
                self.failure = event.reason.text
        for _, octets in self.endpoint.outgoing():
            if octets:
                self.control.sendall(octets)
