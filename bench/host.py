"""The far end of PPPoE: our own hosts on one interface, each with a MAC address of its own (RFC 2516)."""
from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from ..control import mac
from ..control.address import Path
from ..control.link import LinkSettings
from ..control.pppoe import CallDown, CallUp, Endpoint, Settings
from .dial import GOODBYE, IP, Call, FarEnd
from .port import BUFFER, ETH_P_PPP_DISC, ETH_P_PPP_SES

NOBODY = ("", 0)
ETHERNET = 14
HOSTS = b"\x02\x00\x5e\x20"        # and two octets that count them


class Ids:
    """A host takes none."""

    def take_call(self, network: bytes, station: bytes) -> int | None:
        return None

    def give_call(self, network: bytes, session_id: int) -> None:
        pass


class Host(FarEnd):
    """`wire` is a packet socket of sessions that no ring has yet; `out` sends whole frames, discovery has a socket of its own."""

    def __init__(self, wire: socket.socket, out: socket.socket, link: LinkSettings) -> None:
        super().__init__(wire, NOBODY, link)
        self.out = out
        self.endpoint = Endpoint(Settings(), Ids(), os.urandom)
        self.discovery = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.discovery.setsockopt(socket.SOL_SOCKET, 33, BUFFER)        # SO_RCVBUFFORCE
        self.discovery.bind((wire.getsockname()[0], ETH_P_PPP_DISC))
        self.concentrator = bytes(6)

    def _sources(self) -> list[socket.socket]:
        return [self.wire, self.discovery]

    def attend(self, timeout: float = 0) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self.discovery.recv(2048)
                self.concentrator = frame[6:12]
                self.endpoint.receive(Path(0, mac.station(frame[:6]), 0, mac.station(frame[6:12]), 0), frame[ETHERNET:], time.monotonic())
        now = time.monotonic()
        if (due := self.endpoint.deadline()) is not None and due <= now:
            self.endpoint.tick(now)
        super().attend(timeout)

    def close(self) -> None:
        super().close()
        self.discovery.close()

    def _place(self, number: int) -> None:
        local = mac.station(HOSTS + number.to_bytes(2, "big"))
        self.endpoint.dial(Path(0, local, 0, mac.station(mac.BROADCAST), 0), time.monotonic())

    def _frame(self, call: Call, protocol: int, packet: bytes) -> bytes:
        here = HOSTS + call.number.to_bytes(2, "big")
        return (self.concentrator + here + struct.pack("!HBBHHH", ETH_P_PPP_SES, 0x11, 0, call.peer_ids[1], len(packet) + 2, protocol)
                + packet)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            (self.wire if self.wire.family == socket.AF_UNIX else self.out).send(data)

    def _receive(self, data: bytes) -> None:
        if len(data) < ETHERNET + 8:
            return
        kind, _, code, session, length, protocol = struct.unpack_from("!HBBHHH", data, ETHERNET - 2)
        call = self.calls.get(session)
        if kind == ETH_P_PPP_SES and not code and call is not None and protocol != IP:
            call.ppp.receive(protocol, data[ETHERNET + 8:ETHERNET + 6 + length], time.monotonic())
            self._say(call)

    def _flush(self) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallUp):
                session = event.call.session_id
                call = self._opening(session, (0, session), (0, session))
                call.number = int.from_bytes(mac.mac(event.call.path.local)[4:], "big")
                self._answered(session)
            elif isinstance(event, CallDown) and event.reason != GOODBYE:
                self.failure = event.reason.text
        for path, packet in self.endpoint.outgoing():
            self.out.send(mac.mac(path.peer) + mac.mac(path.local) + ETH_P_PPP_DISC.to_bytes(2, "big") + packet)
