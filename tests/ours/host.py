"""Our own PPPoE hosts: control/pppoe.py and control/ppp.py as clients, on a packet socket that the test bends. The frames are ours to the
last octet, so that hosts may be in any VLANs, which a kernel of test machines need not know.

They run only while somebody waits for them (peer.py).
"""
from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import replace
from random import Random
from typing import Any

from headrace.control import mac
from headrace.control.address import Path
from headrace.control.link import LinkSettings
from headrace.control.pppoe import CallDown, CallUp, Endpoint, Settings
from l2tp_peer import BYE
from peers.lab import PASSWORD

from . import peer
from .peer import LINK
from .place import Place

DISCOVERY, SESSION = 0x8863, 0x8864
ETH_P_ALL, SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 3, 263, 1, 1
PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, VALID = 8, 23, 0x10


def station(number: int, *vlans: mac.Vlan) -> bytes:
    return mac.station(b"\x02\x00\x5e\x20" + number.to_bytes(2), vlans)


def frame(to: bytes, sender: bytes, ethertype: int, packet: bytes) -> bytes:
    """With the tags of the sender's network, in the frame; padded as Ethernet wants it."""
    tags = b"".join(struct.pack("!HH", *tag) for tag in mac.vlans(sender))
    return (mac.mac(to) + mac.mac(sender) + tags + struct.pack("!H", ethertype) + packet).ljust(60, b"\0")


def read(data: bytes, tag: tuple[int, int] = (0, 0)) -> tuple[bytes, bytes, int, bytes]:
    """Destination and sender as stations, ethertype, packet; `tag` is what the kernel took off."""
    vlans, at = [tag] if tag[0] else [], 12
    while (ethertype := int.from_bytes(data[at:at + 2])) in (mac.C_TAG, mac.S_TAG):
        vlans.append((ethertype, int.from_bytes(data[at + 2:at + 4]) & 0xFFF))
        at += 4
    return mac.station(data[:6], tuple(vlans)), mac.station(data[6:12], tuple(vlans)), ethertype, data[at + 2:]


class Ids:
    """A host takes none."""
    def take_call(self, network: bytes, station: bytes) -> int | None:
        return None

    def give_call(self, network: bytes, session_id: int) -> None:
        pass


class Caller(peer.Caller):
    peer: Hosts
    call: CallUp | None

    def __init__(self, hosts: Hosts, local: bytes, *args: Any) -> None:
        super().__init__(hosts, *args)
        self.local = local

    def data(self, protocol: int, payload: bytes) -> None:
        """A frame, by hand."""
        assert self.call
        opening = self.call.call
        packet = struct.pack("!BBHHH", 0x11, 0, opening.session_id, len(payload) + 2, protocol) + payload
        self.peer.say(frame(opening.path.peer, self.local, SESSION, packet))

    def ip(self, packet: bytes) -> None:
        self.data(*self.hidden(packet))


class Hosts(peer.Peer):
    callers: dict[int, Caller]

    def __init__(self, place: Place, interface: str = "wire", **settings: Any) -> None:
        """`settings` are the endpoint's."""
        super().__init__(place)
        with place.entered(place.far):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            for option in (32, 33):         # SO_SNDBUFFORCE, SO_RCVBUFFORCE
                self.wire.setsockopt(socket.SOL_SOCKET, option, 8 << 20)
            self.wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self.wire.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self.wire.bind((interface, ETH_P_ALL))
            index = socket.if_nametoindex(interface)
            self.wire.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8x", index, PACKET_MR_PROMISC, 0))
        self.endpoint = Endpoint(Settings(**settings), Ids(), Random(3).randbytes)
        self.ended: dict[int, Any] = {}
        self.heard: list[tuple[bytes, bytes, bytes]] = []          # discovery: (to, sender, packet)

    def say(self, data: bytes) -> None:
        if not self.lose(data):
            self.wire.send(data)

    def take(self) -> bool:
        try:
            data, ancillary, *_ = self.wire.recvmsg(65535, 64)
        except BlockingIOError:
            return False
        tag = (0, 0)
        for level, kind, told in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", told[:20])
                tag = (tpid or mac.C_TAG, tci & 0xFFF) if status & VALID else (0, 0)
        to, sender, ethertype, packet = read(data, tag)
        now = time.monotonic()
        if self.lose(data):
            return True
        if ethertype == DISCOVERY:
            self.heard.append((to, sender, packet))
            self.endpoint.receive(Path(0, to, 0, sender, 0), packet, now)
        elif ethertype == SESSION:
            _, code, session, length = struct.unpack_from("!BBHH", packet)
            for caller in self.callers.values():
                if caller.local == to and caller.session == session and not code and caller.cleared is None:
                    caller.heard(int.from_bytes(packet[6:8]), packet[8:6 + length], now)
        return True

    def drain(self, now: float) -> None:
        for event in self.endpoint.events():
            if isinstance(event, CallUp):
                caller = next(c for c in self.callers.values() if c.local == event.call.path.local and c.call is None)
                caller.call, caller.session = event, event.call.session_id
                caller.ppp.open(now)
            elif isinstance(event, CallDown):
                caller = self.callers[event.handle]
                caller.cleared = event
                caller.ppp.lower_down(event.reason, now)
        for path, packet in self.endpoint.outgoing():
            self.say(frame(path.peer, path.local, DISCOVERY, packet))
        for caller in self.callers.values():
            caller.drain()

    @property
    def sources(self) -> list[Any]:
        return [self.wire]

    # -- what a host does

    def call(self, user: str, password: str = PASSWORD, local: bytes = station(1), link: LinkSettings = LINK, wait: bool = True,
             **kw: Any) -> Caller:
        """Dial in as a user; `kw` goes to Endpoint.dial."""
        caller = Caller(self, local, user, replace(link, user=user, password=password), next(self.seeds))
        handle = self.endpoint.dial(Path(0, local, 0, mac.station(mac.BROADCAST, mac.vlans(local)), 0), time.monotonic(), **kw)
        self.callers[handle] = caller
        self.drain(time.monotonic())
        if wait:
            self.until(f"{user} is up", lambda: caller.up)
        return caller

    def hang_up(self, caller: Caller) -> None:
        assert caller.call
        self.endpoint.hang_up(caller.call.call, BYE, time.monotonic())
        self.drain(time.monotonic())

    def close(self) -> None:
        """End all sessions politely."""
        if self.wire.fileno() < 0:
            return
        self.lose = lambda data: False
        self.endpoint.close_all(BYE, time.monotonic())
        with contextlib.suppress(OSError):          # its interface may be gone
            self.drain(time.monotonic())
        self.wire.close()
