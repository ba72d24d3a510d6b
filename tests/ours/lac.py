"""Our own LAC: control/l2tp.py and control/ppp.py as a client, on a UDP socket that the test bends.

It runs only while somebody waits for it (peer.py). What a test sends by hand (`say`, `data`, `ip`) goes out at once.
"""
from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random
from typing import Any

from headrace.bench.lac import DataPlane
from headrace.bench.port import open_tun
from headrace.control.address import shown
from headrace.control.l2tp import Endpoint, Path, Settings
from headrace.control.l2tpevents import CallDown, CallUp, TunnelDown, TunnelUp
from headrace.control.link import IP, LinkSettings
from l2tp_peer import BYE, Ids
from peers.lab import PASSWORD, TookTooLong

from . import peer
from .peer import LINK
from .place import CONCENTRATOR, FAR, FAR6, Place

SOL_UDP, UDP_SEGMENT = 17, 103


class Caller(peer.Caller):
    peer: Lac
    call: CallUp | None

    def __init__(self, lac: Lac, tunnel: int, *args: Any) -> None:
        super().__init__(lac, *args)
        self.tunnel = tunnel

    def header(self, protocol: int = IP, ns: int | None = None) -> bytes:
        """What goes in front of a PPP payload: L2TP's data header to the concentrator's ids, FF 03 and the protocol."""
        assert self.call
        ids = self.call.peer_tunnel_id, self.call.peer_session_id
        head = struct.pack("!HHH", 2, *ids) if ns is None else struct.pack("!HHHHH", 0x0802, *ids, ns & 0xFFFF, 0)
        return head + struct.pack("!HH", 0xFF03, protocol)

    def data(self, protocol: int, payload: bytes, ns: int | None = None) -> None:
        """A frame, by hand."""
        self.peer.say(self.header(protocol, ns) + payload)

    def ip(self, packet: bytes, ns: int | None = None) -> None:
        self.data(*self.hidden(packet), ns)


class Lac(peer.Peer):
    callers: dict[tuple[int, int], Caller]

    def __init__(self, place: Place, to: str = CONCENTRATOR, local: str = "", port: int = 0, **settings: Any) -> None:
        """`settings` are the endpoint's."""
        super().__init__(place)
        self.wire = place.udp(place.far, local or (FAR6 if ":" in to else FAR), port)
        self.to, self.port = to, 1701
        host, port = self.wire.getsockname()[:2]
        self.plane: DataPlane | None = None
        self.path = Path(0, self.octets(host), port, self.octets(to), self.port)
        self.ids = Ids(65000)
        self.endpoint = Endpoint(Settings(host_name="lac", **settings), self.ids, Random(1).randbytes)
        self.tunnels: dict[int, TunnelUp] = {}
        self.ended: dict[int, TunnelDown] = {}
        self.froms: set[str] = set()            # who sent us datagrams
        self.heard: list[bytes] = []            # the control messages that came
        self.acknowledged: dict[int, int] = {}  # by our tunnel id: the Nr that came last

    # -- in and out

    def say(self, datagram: bytes) -> None:
        if not self.lose(datagram):
            if self.plane:
                self.plane.control.send(datagram)
            else:
                self.wire.sendto(datagram, (self.to, self.port))

    def burst(self, payloads: list[bytes]) -> None:
        """Datagrams of one size in one system call (UDP_SEGMENT)."""
        self.wire.sendmsg(payloads, [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(payloads[0])))], 0, (self.to, self.port))

    def take(self) -> bool:
        """One datagram that arrived."""
        try:
            if self.plane:
                data, host, port = self.plane.control.recv(65535), self.to, self.port
            else:
                data, (host, port, *_) = self.wire.recvfrom(65535)
        except BlockingIOError:
            return False
        self.froms.add(host)
        if self.lose(data):
            return True
        now = time.monotonic()
        if data[0] & 0x80:
            self.heard.append(data)
            tunnel, nr = struct.unpack_from("!4xH4xH", data)
            self.acknowledged[tunnel] = nr
            self.endpoint.receive(Path(0, self.path.local, self.path.local_port, self.octets(host), port), data, now)
        else:
            self._data(data, now)
        return True

    def _data(self, data: bytes, now: float) -> None:
        flags, tunnel, session = struct.unpack_from("!HHH", data)
        assert flags & ~0x0800 == 2, f"a data message with flags {flags:04x}"
        caller = self.callers.get((tunnel, session))
        if caller is None:
            return
        at = 6
        if flags & 0x0800:
            caller.numbers.append(int.from_bytes(data[6:8]))
            at = 10
        if data[at:at + 2] == b"\xff\x03":
            at += 2
        protocol = int.from_bytes(data[at:at + 2])
        payload = data[at + 2:]
        caller.heard(protocol, payload, now)

    def drain(self, now: float) -> None:
        """Carry events between the machines, and send what they want sent."""
        for event in self.endpoint.events():
            if isinstance(event, TunnelUp):
                self.tunnels[event.tunnel_id] = event
            elif isinstance(event, TunnelDown):
                self.ended[event.tunnel_id] = event
            elif isinstance(event, CallUp):
                caller = self.callers[event.tunnel_id, event.session_id]
                caller.call = event
                caller.ppp.open(now)
            elif isinstance(event, CallDown):
                caller = self.callers[event.tunnel_id, event.session_id]
                caller.cleared = event
                caller.ppp.lower_down(event.reason, now)
        self.endpoint.changed()
        for _, datagram in self.endpoint.outgoing():
            self.say(datagram)
        for caller in self.callers.values():
            caller.drain()

    @property
    def sources(self) -> list[Any]:
        """The wire, or what the data plane leaves of it."""
        return [self.plane.control if self.plane else self.wire]

    # -- what a LAC does

    def tunnel(self, wait: bool = True, **kw: Any) -> int:
        """Open a tunnel; its id."""
        tunnel = self.endpoint.dial(self.path, time.monotonic(), **kw)
        assert tunnel
        if wait:
            self.until("the tunnel is up", lambda: tunnel in self.tunnels)
        return tunnel

    def call(self, user: str, password: str = PASSWORD, tunnel: int = 0, link: LinkSettings = LINK, wait: bool = True, **kw: Any) -> Caller:
        """Dial in as a user; `kw` goes to Endpoint.place_call. Without a tunnel the newest one is taken, or a new one."""
        tunnel = tunnel or max((t for t in self.tunnels if t not in self.ended), default=0) or self.tunnel()
        caller = Caller(self, tunnel, user, replace(link, user=user, password=password), next(self.seeds))
        caller.session = self.endpoint.place_call(tunnel, time.monotonic(), **kw)
        assert caller.session
        self.callers[tunnel, caller.session] = caller
        self.drain(time.monotonic())
        if wait:
            self.until(f"{user} is up", lambda: caller.up)
        return caller

    @contextlib.contextmanager
    def line(self, caller: Caller) -> Iterator[None]:
        """Give a caller's link a network interface: its user data goes by a TUN, at the null tunnel's speed."""
        assert caller.call
        name = "ppp0"
        with self.place.entered(self.place.far):
            tun = open_tun(name)
        for command in (f"addr add {caller.address} dev {name}", f"link set {name} mtu 1400 up", f"route add 10.66.0.0/24 dev {name}"):
            self.place.ip(self.place.far, command)
        ids = caller.tunnel, caller.session
        self.plane = DataPlane(tun, self.wire, (self.to, self.port), ids, (caller.call.peer_tunnel_id, caller.call.peer_session_id))
        self.plane.control.setblocking(False)
        self.plane.start()
        try:
            yield
        finally:
            plane, self.plane = self.plane, None
            plane.stop()
            os.close(tun)

    def close(self) -> None:
        """End all tunnels politely, and wait until the other side has heard it, if it is there."""
        if self.wire.fileno() < 0:
            return
        self.lose = lambda datagram: False
        self.endpoint.close_all(BYE, time.monotonic())
        with contextlib.suppress(TookTooLong, OSError):         # the concentrator is gone, and its test says so
            self.until("the goodbyes are heard", lambda: self.endpoint.settled, 2)
        self.wire.close()

    @property
    def address(self) -> str:
        """How the concentrator shows us."""
        return shown(self.path.local)


def ip4(text: str) -> bytes:
    return IPv4Address(text).packed
