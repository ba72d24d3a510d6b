"""PPPoE's interfaces, which come and go: each one's packet sockets are bound to it while it is there.

    read()    something changed (rtnetlink); the new state of each interface that is another now goes to `tell`
    look()    the same, without waiting for news; once, at the start

An interface that was deleted and made again is another one for the kernel, and its sockets hear nothing until they are bound anew. The
forwarder holds the same sockets, and need not know.
"""
from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from .netlink import ROUTE, Netlink, attribute, attributes

log = logging.getLogger("headrace.pppoe")

RTM_GETLINK = 18
LINKS = 1                               # RTNLGRP_LINK
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU = 1, 3, 4
ARPHRD_ETHER, IFF_UP = 1, 0x1
ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1


class Interface(NamedTuple):
    """One that is there and up."""
    number: int                         # the kernel's
    mac: bytes
    mtu: int


class Interfaces:
    """`sockets` are those of each interface by name, a worker's each; those of `promiscuous` must hear VLANs that the kernel does not know,
    which network cards may filter out otherwise."""

    def __init__(self, sockets: dict[str, list[socket.socket]], promiscuous: set[str],
                 tell: Callable[[str, Interface | None], None]) -> None:
        self.sockets, self.promiscuous, self.tell = sockets, promiscuous, tell
        self.netlink = Netlink(ROUTE)
        self.changes = Netlink(ROUTE, (LINKS,))
        self.states: dict[str, Interface | str] = {}        # or what is wrong with it
        self.bound: dict[str, int] = {}

    def fileno(self) -> int:
        return self.changes.sock.fileno()

    def close(self) -> None:
        self.netlink.close()
        self.changes.close()
        for sockets in self.sockets.values():
            for sock in sockets:
                sock.close()

    def read(self) -> None:
        self.changes.events()
        self.look()

    def look(self) -> None:
        for name in self.sockets:
            state = self.state(name)
            if isinstance(state, Interface):
                state = self.bind(name, state)
            before = self.states.get(name)
            if state == before:
                continue
            self.states[name] = state
            if isinstance(state, str):
                log.warning("%s: no PPPoE on it until that changes", state)
                self.tell(name, None)
            else:
                log.info("PPPoE on %s, %s, MTU %d", name, state.mac.hex(":").upper(), state.mtu)
                self.tell(name, state)

    def state(self, name: str) -> Interface | str:
        """How it is now, or a sentence's beginning that says what is wrong."""
        try:
            (_, answer), *_ = self.netlink.ask(RTM_GETLINK, bytes(16) + attribute(IFLA_IFNAME, name.encode() + b"\0"))
        except (OSError, ValueError):
            return f"there is no interface {name}"
        kind, number, flags = struct.unpack_from("=HiI", answer, 2)
        found = attributes(answer[16:])
        if kind != ARPHRD_ETHER or len(found.get(IFLA_ADDRESS, b"")) != 6:
            return f"interface {name} is no Ethernet"
        if not flags & IFF_UP:
            return f"interface {name} is down"
        return Interface(number, found[IFLA_ADDRESS], struct.unpack("=I", found[IFLA_MTU])[0])

    def bind(self, name: str, state: Interface) -> Interface | str:
        """Have the sockets belong to it, unless they do already."""
        if self.bound.get(name) == state.number:
            return state
        try:
            for sock in self.sockets[name]:
                sock.bind((name, ETH_P_ALL))
            self.bound[name] = state.number
            if name in self.promiscuous:
                self.hear(name)
        except OSError as error:        # it went away meanwhile, and that is news to come
            self.bound.pop(name, None)
            return f"interface {name} cannot be used ({error.strerror})"
        return state

    def want(self, promiscuous: set[str]) -> None:
        """By another configuration; what heard all goes on to."""
        for name in sorted(promiscuous - self.promiscuous):
            self.promiscuous.add(name)
            if name in self.bound:
                with contextlib.suppress(OSError):          # it went away meanwhile
                    self.hear(name)

    def hear(self, name: str) -> None:
        """All that is on its wire; what is for others the filter keeps out."""
        for sock in self.sockets[name]:
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8x", self.bound[name], PACKET_MR_PROMISC, 0))
