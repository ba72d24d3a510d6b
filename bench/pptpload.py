"""The load generator as PNS: TCP connections in place of tunnels, GRE on a raw socket for each of its addresses.

Nothing here is compiled: a packet of GRE costs some microseconds of Python, on the generator's side. A link that is up answers its echoes
by its own PPP machine.
"""
from __future__ import annotations

import itertools
import math
import resource
import select
import socket
import struct
from ipaddress import IPv4Network
from typing import Any

from ..control.address import Path, mapped
from ..control.link import LCP_PROTOCOL
from ..control.pptp import Endpoint, Settings
from ..control.pptpevents import CallDown, CallOpening, CallUp, ConnectionDown
from .load import ALL_STATIONS, BUFFER, SOCKETS, Load, Subscriber

GRE, PPP = 47, 0x880B
S, A, BASE = 0x1000, 0x0080, 0x2001             # K and version 1 are always there (RFC 2637 section 4.1)
HEAD = struct.Struct("!HHHHLL")
BATCH = 256             # packets of a socket in one turn
PATIENCE = 10.0         # seconds for TCP to connect


class Calls:
    """Call ids from 1, none used twice: they are the subscribers' numbers as well."""

    def __init__(self) -> None:
        self.next = itertools.count(1)

    def take_call(self, peer: bytes) -> int | None:
        number = next(self.next)
        return number if number < 65535 else None

    def give_call(self, peer: bytes, call_id: int) -> None: ...


class PptpLoad(Load):
    """Subscribers of a PPTP server; as many connections as `tunnels` says."""

    def wire(self, peer: tuple[str, int], network: IPv4Network | None) -> None:
        self.peer, self.echoes, self.strange = peer, 0, 0
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        hosts = [str(network[n + 1]) if network else "" for n in range(min(self.tunnels, SOCKETS))]
        self.sockets = [raw_socket(peer[0], host) for host in hosts]
        self.hosts = [sock.getsockname()[0] for sock in self.sockets]
        self.endpoint: Endpoint = Endpoint(Settings(host_name="load", echo=math.inf, setup=math.inf, idle=math.inf), Calls())
        self.connections: dict[int, socket.socket] = {}
        self.by_call: dict[int, Subscriber] = {}
        for line, sock in enumerate(self.sockets):
            self.watch(sock, lambda now, line=line: self.data(line, now))       # type: ignore[misc]

    def dial(self, place: int, now: float) -> int:
        line = place % len(self.hosts)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(PATIENCE)
        sock.bind((self.hosts[line], 0))
        sock.connect(self.peer)
        sock.setblocking(False)
        number = self.endpoint.dial(Path(line, mapped(socket.inet_aton(self.hosts[line])), sock.getsockname()[1],
                                         mapped(socket.inet_aton(self.peer[0])), self.peer[1]), now)
        self.connections[number] = sock
        self.watch(sock, lambda now: self.control(number, now))
        return number

    # -- in

    def control(self, number: int, now: float) -> None:
        sock = self.connections.get(number)
        if sock is None:
            return
        try:
            octets = sock.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            octets = b""
        if octets:
            self.endpoint.receive(number, octets, now)
        else:
            self.drop(number)
            self.endpoint.closed(number, now)

    def data(self, line: int, now: float) -> None:
        """GRE that came for one of our addresses."""
        sock = self.sockets[line]
        for _ in range(BATCH):
            try:
                packet = sock.recv(2048)
            except BlockingIOError:
                return
            at = (packet[0] & 15) * 4
            flags, kind, _, call = struct.unpack_from("!HHHH", packet, at)
            s = self.by_call.get(call)
            if s is None or kind != PPP or not flags & S or s.line != line:
                self.strange += bool(flags & S)
                continue
            s.heard = int.from_bytes(packet[at + 8:at + 12])
            at += 16 if flags & A else 12
            if packet[at:at + 2] == b"\xff\x03":
                at += 2
            protocol, information = int.from_bytes(packet[at:at + 2]), packet[at + 2:]
            if s.ppp is not None:
                self.echoes += protocol == LCP_PROTOCOL and information[:1] == b"\x09"
                self.receive(s, protocol, information, now)

    def hear(self, now: float) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallOpening):
                s = self.subscribers[event.connection, event.call_id]
                s.line, s.head = event.path.port, (event.peer_call_id, 0)
                self.by_call[event.call_id] = s
            elif isinstance(event, CallUp):
                self.answer(self.subscribers[event.connection, event.call_id], now)
            elif isinstance(event, CallDown):
                self.by_call.pop(event.call_id, None)
                self.end((event.connection, event.call_id), event.reason)
            elif isinstance(event, ConnectionDown):
                self.first_reason = self.first_reason or event.reason.text

    # -- out

    def frame(self, s: Subscriber, protocol: int, packet: bytes) -> bytes:
        frame = struct.pack("!HH", ALL_STATIONS, protocol) + packet
        head = HEAD.pack(BASE | S | A, PPP, len(frame), s.head[0], s.sequence, max(s.heard, 0))
        s.sequence += 1
        return (head if s.heard >= 0 else struct.pack("!H", BASE | S) + head[2:12]) + frame

    def say(self) -> None:
        for number, octets in self.endpoint.outgoing():
            sock = self.connections.get(number)
            if sock is None:
                continue
            if octets is None:
                self.drop(number)
            else:
                sock.setblocking(True)
                sock.sendall(octets)
                sock.setblocking(False)

    def send(self, line: int, packets: list[bytes]) -> None:
        for packet in packets:
            select.select([], [self.sockets[line]], [])
            self.sockets[line].send(packet)

    def drop(self, number: int) -> None:
        sock = self.connections.pop(number)
        self.unwatch(sock)
        sock.close()

    def counts(self) -> dict[str, Any]:
        return {**super().counts(), "echoes": self.echoes, "strange": self.strange}

    def close(self) -> None:
        super().close()
        for number in list(self.connections):
            self.drop(number)


def raw_socket(peer: str, local: str) -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, GRE)
    for forced in (33, 32):         # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        s.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
    if local:
        s.bind((local, 0))
    s.connect((peer, 0))
    return s
