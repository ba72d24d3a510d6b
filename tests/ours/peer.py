"""What our own peers have in common: callers with a PPP link each, on machines that run only while somebody waits for them.

`until` takes what has arrived, lets time pass in the machines and sends what they want sent, until a condition holds.
"""
from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from headrace.control.address import mapped
from headrace.control.ccp import RESET_REQUEST
from headrace.control.link import BRIDGED, CCP_PROTOCOL, IP, CipherReset, LinkDown, LinkReset, LinkSettings, LinkUp, push_packet
from headrace.control.ppp import PPP
from peers.lab import TookTooLong

from .encryption import ENCRYPTED, Encryption
from .place import Place

T = TypeVar("T")
PLAIN_FRAME = b"\0\1"      # in front of an Ethernet frame: nothing special, and the MAC type
LINK = LinkSettings(authentication=("mschap2", "mschap1", "chap", "pap"), restart=1.0, use_peer_dns=True, mru=1400, mtu=1400)


class Caller:
    """One call and its PPP link, as its user sees it."""

    def __init__(self, peer: Any, user: str, settings: LinkSettings, seed: int) -> None:
        self.peer, self.user = peer, user
        self.session = 0                        # our id of the call
        self.call: Any = None                   # the CallUp of its machine
        self.ppp = PPP("client", settings, Random(seed))
        self.address = ""                       # while the link is up
        self.ups = 0                            # how often it came up
        self.down: LinkDown | None = None
        self.cleared: Any = None                # the CallDown
        self.encryption: Encryption | None = None       # while some is in force
        self.clear = 0                          # IP packets that came in clear
        self.received: list[bytes] = []         # IP packets
        self.bridged: list[bytes] = []          # Ethernet frames, with what RFC 3518 puts in front
        self.frames: list[tuple[int, bytes]] = []           # what PPP heard: (protocol, packet)
        self.numbers: list[int] = []            # of the data packets that came, where they had one

    @property
    def up(self) -> bool:
        return bool(self.address)

    def data(self, protocol: int, payload: bytes) -> None:
        """A frame, by hand."""
        raise NotImplementedError

    def hidden(self, packet: bytes, protocol: int = IP) -> tuple[int, bytes]:
        """The frame of a packet: protocol and payload, encrypted where that was agreed on."""
        if self.encryption and self.encryption.sender:
            return ENCRYPTED, self.encryption.hide(protocol, packet)
        return protocol, packet

    def take_in(self, protocol: int, packet: bytes) -> None:
        """User data that came."""
        assert protocol in (IP, BRIDGED), f"user data of protocol {protocol:04x}"
        (self.received if protocol == IP else self.bridged).append(packet)

    def heard(self, protocol: int, payload: bytes, now: float) -> None:
        """A frame that came."""
        if protocol == ENCRYPTED and self.encryption and self.encryption.receiver:
            read = self.encryption.reveal(payload)
            if read is None:
                self.data(CCP_PROTOCOL, push_packet(RESET_REQUEST, self.encryption.unread & 255))
            else:
                self.take_in(*read)
        elif protocol in (IP, BRIDGED):
            self.clear += 1
            self.take_in(protocol, payload)
        else:
            self.frames.append((protocol, payload))
            self.ppp.receive(protocol, payload, now)

    def renegotiate(self) -> None:
        """Start LCP anew, as a client does whose line was switched."""
        now = time.monotonic()
        self.ppp.lcp.fire("Down", now)
        self.ppp.lcp.fire("Up", now)
        self.peer.drain(now)

    def drain(self) -> None:
        for event in self.ppp.events():
            if isinstance(event, LinkUp):
                self.address, self.ups = str(event.local_address), self.ups + 1
                self.encryption = Encryption(event.cipher) if event.cipher else None
            elif isinstance(event, CipherReset):
                assert self.encryption and self.encryption.sender
                self.encryption.sender.flush = True
            elif isinstance(event, LinkReset):
                self.address, self.encryption = "", None
            elif isinstance(event, LinkDown):
                self.address, self.down = "", event
        for protocol, packet in self.ppp.outgoing():
            if self.cleared is None:
                self.data(protocol, packet)


class Line:
    """The TAP of a caller that bridges: what it has goes to the concentrator, and the other way round, while somebody waits."""

    def __init__(self, caller: Caller, tap: int) -> None:
        self.caller, self.tap = caller, tap
        self.carried = 0                        # of the caller's `bridged`
        caller.peer.lines.append(self)

    def fileno(self) -> int:
        return self.tap

    def carry(self) -> None:
        for _ in range(64):
            try:
                frame = os.read(self.tap, 65536)
            except BlockingIOError:
                break
            self.say(frame)
        for frame in self.caller.bridged[self.carried:]:
            assert frame[:2] == PLAIN_FRAME
            os.write(self.tap, frame[2:])
        self.carried = len(self.caller.bridged)

    def say(self, frame: bytes) -> None:
        self.caller.data(*self.caller.hidden(PLAIN_FRAME + frame, BRIDGED))


class Peer:
    """A machine with its callers; subclasses bring the sockets."""
    endpoint: Any
    ended: dict[int, Any]                       # tunnels or connections, and why

    def __init__(self, place: Place) -> None:
        self.place = place
        self.callers: dict[Any, Caller] = {}
        self.seeds = itertools.count(7)
        self.lines: list[Line] = []             # bridged callers' TAPs
        self.lose: Callable[[bytes], bool] = lambda datagram: False     # of what leaves and arrives

    @property
    def sources(self) -> list[socket.socket]:
        """Where something may arrive."""
        raise NotImplementedError

    def take(self) -> bool:
        """One thing that arrived, if there is one."""
        raise NotImplementedError

    def drain(self, now: float) -> None:
        """Carry events between the machines, and send what they want sent."""
        raise NotImplementedError

    def until(self, what: str, condition: Callable[[], T], seconds: float = 10) -> T:
        """Live until the condition holds; return what it returned."""
        deadline = time.monotonic() + seconds
        while True:
            for _ in range(256):
                if not self.take():
                    break
            for line in self.lines:
                line.carry()
            now = time.monotonic()
            self.endpoint.tick(now)
            for caller in self.callers.values():
                caller.ppp.tick(now)
            self.drain(now)
            if value := condition():
                return value
            if now > deadline:
                raise TookTooLong(f"not within {seconds} s: {what}; tunnels that ended: {self.ended}; links: "
                                  f"{[(c.user, c.down) for c in self.callers.values() if c.down]}")
            self.wait(20)

    def wait(self, milliseconds: int) -> bool:
        """Whether something arrives so soon."""
        poll = select.poll()
        for source in (*self.sources, *self.lines):
            poll.register(source, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def settle(self) -> None:
        """Take all that has arrived."""
        self.until("what has arrived is taken", lambda: not self.wait(0))

    @staticmethod
    def octets(address: str) -> bytes:
        return mapped(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))
