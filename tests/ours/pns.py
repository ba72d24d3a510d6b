"""Our own PNS: control/pptp.py and control/ppp.py as a client, on TCP connections and a raw socket that the test bends.

Each caller has a connection of its own, as clients have, unless it is given one. GRE is written here by hand (RFC 2637 section 4.1).
"""
from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import replace
from typing import Any

from headrace.control.address import Path, shown
from headrace.control.link import LinkSettings
from headrace.control.pptp import Endpoint, Settings
from headrace.control.pptpevents import CallDown, CallOpening, CallUp, ConnectionDown, ConnectionUp
from headrace.control.reason import Reason
from peers.lab import PASSWORD, TookTooLong
from test_pptp import Ids

from . import peer
from .peer import LINK
from .place import CONCENTRATOR, FAR, Place

PORT = 1723
GRE, K, S, A, VERSION, PPP = 47, 0x2000, 0x1000, 0x0080, 1, 0x880B
BYE = Reason("admin", "shutdown", "bye")


class Caller(peer.Caller):
    peer: Pns
    theirs = 0                              # the concentrator's id of the call

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sequence = 0                   # of what is sent next
        self.acks: list[int] = []           # the acknowledgments that came
        self.lone_acks = 0                  # how many of them came alone

    def packet(self, protocol: int, payload: bytes, *, sequence: int | None = None, ack: int | None = None) -> bytes:
        """GRE with a frame, ready to be sent."""
        number = self.sequence if sequence is None else sequence
        self.sequence = (number + 1) & 0xFFFFFFFF
        frame = struct.pack("!HH", 0xFF03, protocol) + payload
        head = struct.pack("!HHHHL", K | S | VERSION | (A if ack is not None else 0), PPP, len(frame), self.theirs, number)
        return head + (b"" if ack is None else struct.pack("!L", ack & 0xFFFFFFFF)) + frame

    def data(self, protocol: int, payload: bytes) -> None:
        self.peer.say(self.packet(protocol, payload, ack=self.numbers[-1] if self.numbers else None))

    def ip(self, packet: bytes) -> None:
        self.data(*self.hidden(packet))

    def acknowledge(self) -> None:
        """Alone, as a peer does that has nothing to say."""
        self.peer.say(struct.pack("!HHHHL", K | A | VERSION, PPP, 0, self.theirs, self.numbers[-1]))


class Pns(peer.Peer):
    callers: dict[tuple[int, int], Caller]

    def __init__(self, place: Place, to: str = CONCENTRATOR, local: str = FAR, **settings: Any) -> None:
        """`settings` are the endpoint's."""
        super().__init__(place)
        self.to, self.local = to, local
        with place.entered(place.far):
            self.wire = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, GRE)
        self.wire.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)        # SO_RCVBUFFORCE
        self.wire.bind((local, 0))
        self.wire.connect((to, 0))
        self.endpoint = Endpoint(Settings(host_name="pns", **settings), Ids(65000))
        self.sockets: dict[int, socket.socket] = {}
        self.connections: dict[int, ConnectionUp] = {}
        self.ended: dict[int, ConnectionDown] = {}
        self.heard: list[bytes] = []            # what came by GRE

    @property
    def sources(self) -> list[socket.socket]:
        return [self.wire, *self.sockets.values()]

    # -- in and out

    def say(self, packet: bytes) -> None:
        if not self.lose(packet):
            self.wire.send(packet)

    def take(self) -> bool:
        try:
            data = self.wire.recv(65535)
        except BlockingIOError:
            return self.take_control()
        data = data[(data[0] & 15) * 4:]
        if not self.lose(data):
            self.heard.append(data)
            self.gre(data, time.monotonic())
        return True

    def take_control(self) -> bool:
        now = time.monotonic()
        for number, sock in list(self.sockets.items()):
            try:
                octets = sock.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionError:
                octets = b""
            if octets:
                self.endpoint.receive(number, octets, now)
            else:
                self.sockets.pop(number).close()
                self.endpoint.closed(number, now)
            return True
        return False

    def gre(self, data: bytes, now: float) -> None:
        flags, kind, length, call = struct.unpack_from("!HHHH", data)
        assert kind == PPP and flags & ~(S | A) == K | VERSION, data.hex()
        caller = next((c for c in self.callers.values() if c.session == call), None)
        if caller is None:
            return
        at = 8
        if flags & S:
            caller.numbers.append(int.from_bytes(data[at:at + 4]))
            at += 4
        if flags & A:
            caller.acks.append(int.from_bytes(data[at:at + 4]))
            caller.lone_acks += not flags & S
            at += 4
        assert len(data) == at + length and bool(flags & S) == bool(length)
        if not length:
            return
        if data[at:at + 2] == b"\xff\x03":
            at += 2
        protocol, payload = int.from_bytes(data[at:at + 2]), data[at + 2:]
        caller.heard(protocol, payload, now)

    def drain(self, now: float) -> None:
        for event in self.endpoint.events():
            if isinstance(event, ConnectionUp):
                self.connections[event.connection] = event
            elif isinstance(event, ConnectionDown):
                self.ended[event.connection] = event
            elif isinstance(event, (CallOpening, CallUp, CallDown)):
                caller = self.callers[event.connection, event.call_id]
                if isinstance(event, CallOpening):
                    caller.theirs = event.peer_call_id
                elif isinstance(event, CallUp):
                    caller.call = event
                    caller.ppp.open(now)
                else:
                    caller.cleared = event
                    caller.ppp.lower_down(event.reason, now)
        for number, octets in self.endpoint.outgoing():
            sock = self.sockets.get(number)
            if sock is None:
                continue
            with contextlib.suppress(ConnectionError):
                if octets is None:
                    self.sockets.pop(number).close()
                else:
                    sock.sendall(octets)
        for caller in self.callers.values():
            caller.drain()

    # -- what a PNS does

    def tcp(self) -> socket.socket:
        """A TCP connection to the concentrator, and nothing said."""
        with self.place.entered(self.place.far):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((self.local, 0))
        sock.settimeout(5)
        sock.connect((self.to, PORT))
        sock.setblocking(False)
        return sock

    def connect(self, wait: bool = True) -> int:
        """A control connection; its number."""
        sock = self.tcp()
        number = self.endpoint.dial(Path(0, self.octets(self.local), sock.getsockname()[1], self.octets(self.to), PORT), time.monotonic())
        self.sockets[number] = sock
        self.drain(time.monotonic())
        if wait:
            self.until("the connection is up", lambda: number in self.connections)
        return number

    def call(self, user: str, password: str = PASSWORD, connection: int = 0, link: LinkSettings = LINK, wait: bool = True) -> Caller:
        """Dial in as a user."""
        connection = connection or self.connect()
        caller = Caller(self, user, replace(link, user=user, password=password), next(self.seeds))
        caller.session = self.endpoint.place_call(connection, time.monotonic())
        assert caller.session
        self.callers[connection, caller.session] = caller
        self.drain(time.monotonic())
        if wait:
            self.until(f"{user} is up", lambda: caller.up)
        return caller

    def hang_up(self, caller: Caller) -> None:
        """By CCRQ."""
        number = next(number for (number, call) in self.callers if call == caller.session)
        self.endpoint.hang_up(number, caller.session, BYE, time.monotonic())
        self.drain(time.monotonic())

    def close(self) -> None:
        """End all connections politely, and wait until the other side has heard it, if it is there."""
        if self.wire.fileno() < 0:
            return
        self.lose = lambda packet: False
        self.endpoint.close_all(BYE, time.monotonic())
        with contextlib.suppress(TookTooLong, OSError):         # the concentrator is gone, and its test says so
            self.until("the goodbyes are heard", lambda: not len(self.endpoint), 2)
        for sock in (self.wire, *self.sockets.values()):
            sock.close()

    @property
    def address(self) -> str:
        """How the concentrator shows us."""
        return shown(self.octets(self.local))
