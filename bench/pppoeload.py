"""The load generator as PPPoE hosts: each subscriber has a MAC of its own, and all share one packet socket.

Nothing here is compiled: a frame costs some microseconds of Python, on the generator's side. A link that is up answers its echoes by its
own PPP machine. There are no tunnels.
"""
from __future__ import annotations

import select
import socket
import struct
from ipaddress import IPv4Network
from typing import Any

from ..control import mac
from ..control.address import Path
from ..control.link import LCP_PROTOCOL
from ..control.pppoe import CallDown, CallUp, Endpoint, Settings
from ..control.reason import Reason
from .load import BUFFER, Load, Subscriber

DISCOVERY, SESSION, EVERYTHING = b"\x88\x63", b"\x88\x64", 3
EVERYBODY = mac.station(mac.BROADCAST)
HEAD = struct.Struct("!BBHHH")          # PPPoE's header, and PPP's protocol
BATCH = 256                             # frames in one turn


class NoIds:
    """A host gives none."""

    def take_call(self, network: bytes, station: bytes) -> int | None:
        return None

    def give_call(self, network: bytes, session_id: int) -> None: ...


class PppoeLoad(Load):
    """Subscribers on the wire of an interface."""

    def wire(self, peer: tuple[str, int], network: IPv4Network | None) -> None:
        self.echoes = self.strange = 0
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        for forced in (33, 32):         # SO_RCVBUFFORCE, SO_SNDBUFFORCE
            sock.setsockopt(socket.SOL_SOCKET, forced, 4 * BUFFER)
        sock.bind((peer[0], EVERYTHING))
        self.sockets = [sock]
        # One who is not heard among ten thousand asks again for longer than a single host would.
        self.endpoint: Endpoint = Endpoint(Settings(tries=8), NoIds(), self.random.randbytes)
        self.handles: list[int] = []                    # by the subscriber's number
        self.by_session: dict[int, Subscriber] = {}
        self.concentrator = b""                         # its MAC
        self.watch(sock, self.read)

    def place(self, number: int, now: float) -> tuple[int, int]:
        handle = self.endpoint.dial(Path(0, mac.station(own(number)), 0, EVERYBODY, 0), now)
        self.handles.append(handle)
        return 0, handle

    def read(self, now: float) -> None:
        sock, receive = self.sockets[0], self.endpoint.receive
        for _ in range(BATCH):
            try:
                frame = sock.recv(2048)
            except BlockingIOError:
                break
            kind = frame[12:14]
            if frame[:1] != b"\x02":        # not to a host of ours
                continue
            if kind == DISCOVERY:
                receive(Path(0, mac.station(frame[:6]), 0, mac.station(frame[6:12]), 0), frame[14:], now)
                self.hear(now)              # the next frame may be of the session that this one began
            elif kind == SESSION:
                _, _, session, length, protocol = HEAD.unpack_from(frame, 14)
                s = self.by_session.get(session)
                if s is None or s.ppp is None:
                    self.strange += 1
                    continue
                information = frame[22:20 + length]
                self.echoes += protocol == LCP_PROTOCOL and information[:1] == b"\x09"
                self.receive(s, protocol, information, now)

    def hear(self, now: float) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallUp):
                path = event.call.path
                s = self.subscribers[0, self.handles[int.from_bytes(path.local[-4:])]]
                s.head, self.concentrator = (event.call.session_id, 0), mac.mac(path.peer)
                self.by_session[event.call.session_id] = s
                self.answer(s, now)
            elif isinstance(event, CallDown):
                if event.call is not None:
                    self.by_session.pop(event.call.session_id, None)
                self.end((0, event.handle), event.reason)

    # -- out

    def say(self) -> None:
        for path, packet in self.endpoint.outgoing():
            self.outbox[0].append(mac.mac(path.peer) + mac.mac(path.local) + DISCOVERY + packet)

    def frame(self, s: Subscriber, protocol: int, packet: bytes) -> bytes:
        return self.concentrator + own(s.number) + SESSION + HEAD.pack(0x11, 0, s.head[0], len(packet) + 2, protocol) + packet

    def send(self, line: int, frames: list[bytes]) -> None:
        sock = self.sockets[0]
        for frame in frames:
            while True:
                try:
                    sock.send(frame)
                    break
                except BlockingIOError:
                    select.select([], [sock], [])

    def hang_up(self, s: Subscriber, reason: Reason, now: float) -> None:
        self.endpoint.give_up(s.key[1], reason, now)

    def counts(self) -> dict[str, Any]:
        return {**super().counts(), "echoes": self.echoes, "strange": self.strange}


def own(number: int) -> bytes:
    """A subscriber's MAC."""
    return b"\x02\x01" + number.to_bytes(4)
