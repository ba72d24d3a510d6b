"""Where PPTP's peers are reached: routes and neighbours, followed by netlink, into the tables file's next hops.

    attach(slot, peer, local)   the session's frames go by its peer's next hop from now on, when there is one
    read()                      the kernel's routing or neighbours changed
    step()                      after a change of routes: some of the peers are looked up again; True while there are more

A next hop is an interface and a neighbour on it, so the thousands behind a router share one. It is good while the kernel's entry of that
neighbour is: the TCP connection that each call hangs on goes the same way, and so keeps the entry in use and checked. What has no
Ethernet header (loopback, tunnels) has no next hop here, and its data stays with the kernel.
"""
from __future__ import annotations

import socket
import struct
from collections import deque

from .netlink import ROUTE, Netlink, attribute, attributes

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_GETROUTE = 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
LINK, NEIGHBOURS, ADDRESSES, ROUTES, RULES = 1, 3, 5, 7, 8      # RTNLGRP_*, of IPv4
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_METRICS, RTAX_MTU = 1, 2, 4, 5, 8, 2
RTN_UNICAST = 1
NDA_DST, NDA_LLADDR = 1, 2
NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80             # reachable, stale, delay, probe, noarp, permanent
IFLA_ADDRESS, IFLA_MTU = 1, 4
ARPHRD_ETHER, IFF_UP, IFF_NOARP = 1, 0x1, 0x80
ETHERTYPE = b"\x08\x00"
HOPS = 4096                     # of the tables file; number 0 is none
SLICE = 200                     # peers that a step looks up

Where = tuple[int, bytes]       # an interface, and a neighbour's IPv4 address


class NextHops:
    def __init__(self, tables: object) -> None:
        self.tables = tables
        self.netlink = Netlink(ROUTE)
        self.changes = Netlink(ROUTE, (LINK, NEIGHBOURS, ADDRESSES, ROUTES, RULES))
        self.peers: dict[bytes, tuple[int, set[int]]] = {}      # his address and ours -> the next hop, and slots
        self.slots: dict[int, bytes] = {}
        self.hops: dict[Where, int] = {}
        self.users = [0] * HOPS
        self.where: dict[int, Where] = {}
        self.mtus = [0] * HOPS
        self.free = deque(range(1, HOPS))
        self.again: deque[bytes] = deque()                      # peers to be looked up again

    def close(self) -> None:
        self.netlink.close()
        self.changes.close()

    def fileno(self) -> int:
        return self.changes.sock.fileno()

    # -- sessions

    def attach(self, slot: int, peer: bytes, local: bytes) -> None:
        """Addresses have 16 octets, as in a path."""
        self.detach(slot)
        peer = peer[12:] + local[12:]
        hop, slots = self.peers.get(peer) or (self.use(peer), set())
        slots.add(slot)
        self.peers[peer] = hop, slots
        self.slots[slot] = peer
        self.tables.set_nexthop(slot, hop)                      # type: ignore[attr-defined]

    def detach(self, slot: int) -> None:
        peer = self.slots.pop(slot, None)
        if peer is None:
            return
        hop, slots = self.peers[peer]
        slots.discard(slot)
        if not slots:
            del self.peers[peer]
            self.leave(hop)

    # -- next hops

    def use(self, peer: bytes) -> int:
        """The next hop of a peer, with one user more; 0: it has none."""
        found = self.route(peer)
        if found is None:
            return 0
        where, mtu = found
        hop = self.hops.get(where, 0)
        if not hop:
            if not self.free:
                return 0
            hop = self.free.popleft()                           # the one that is longest free
            self.hops[where], self.where[hop], self.mtus[hop] = hop, where, mtu
            self.write(hop, self.neighbour(where))
        self.users[hop] += 1
        return hop

    def leave(self, hop: int) -> None:
        if hop:
            self.users[hop] -= 1
            if not self.users[hop]:
                self.write(hop, None)
                del self.hops[self.where.pop(hop)]
                self.free.append(hop)

    def write(self, hop: int, hardware: bytes | None) -> None:
        """`hardware` is the neighbour's address on its link, None: it is not known."""
        interface, _ = self.where[hop]
        link = self.link(interface) if hardware and len(hardware) == 6 else None
        if link is None or not hardware:
            self.tables.write_nexthop(hop, 0, 0, bytes(14))     # type: ignore[attr-defined]
        else:
            own, mtu = link
            self.tables.write_nexthop(hop, interface, min(mtu, self.mtus[hop] or mtu), hardware + own + ETHERTYPE)    # type: ignore[attr-defined]

    # -- what the kernel says

    def route(self, peer: bytes) -> tuple[Where, int] | None:
        """Interface and neighbour, and the route's own MTU, 0: the interface's."""
        request = (struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, peer[:4])
                   + attribute(RTA_SRC, peer[4:]))
        try:
            (_, answer), *_ = self.netlink.ask(RTM_GETROUTE, request)
        except (OSError, ValueError):
            return None
        found = attributes(answer[12:])
        if answer[7] != RTN_UNICAST or RTA_OIF not in found:
            return None
        mtu = attributes(found.get(RTA_METRICS, b"")).get(RTAX_MTU, bytes(4))
        interface, = struct.unpack("=I", found[RTA_OIF])
        return (interface, found.get(RTA_GATEWAY, peer[:4])), struct.unpack("=I", mtu)[0]

    def neighbour(self, where: Where) -> bytes | None:
        interface, address = where
        try:
            (_, answer), *_ = self.netlink.ask(RTM_GETNEIGH, struct.pack("=BxxxiHBB", socket.AF_INET, interface, 0, 0, 0)
                                               + attribute(NDA_DST, address))
        except (OSError, ValueError):
            return None
        return hardware_of(answer)

    def link(self, interface: int) -> tuple[bytes, int] | None:
        """Address and MTU of an Ethernet that is up."""
        try:
            (_, answer), *_ = self.netlink.ask(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, interface, 0, 0))
        except (OSError, ValueError):
            return None
        kind, flags = struct.unpack_from("=H4xI", answer, 2)
        found = attributes(answer[16:])
        if kind != ARPHRD_ETHER or not flags & IFF_UP or flags & IFF_NOARP:
            return None
        return found[IFLA_ADDRESS], struct.unpack("=I", found[IFLA_MTU])[0]

    def read(self) -> None:
        """Follow what changed: a neighbour or a link at once; routes by `step`."""
        events = self.changes.events()
        if events is None:
            self.refresh(None)
            self.again = deque(self.peers)
            return
        for kind, body in events:
            if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
                interface, = struct.unpack_from("=i", body, 4)
                address = attributes(body[12:]).get(NDA_DST, b"")
                hop = self.hops.get((interface, address), 0)
                if hop:
                    self.write(hop, hardware_of(body) if kind == RTM_NEWNEIGH else None)
            elif kind in (RTM_NEWLINK, RTM_DELLINK):
                self.refresh(struct.unpack_from("=i", body, 4)[0])
            else:
                self.again = deque(self.peers)

    def refresh(self, interface: int | None) -> None:
        """An interface changed, or all may have."""
        for where, hop in self.hops.items():
            if interface in (None, where[0]):
                self.write(hop, self.neighbour(where))

    def step(self) -> bool:
        for _ in range(SLICE):
            if not self.again:
                break
            peer = self.again.popleft()
            if peer in self.peers:
                old, slots = self.peers[peer]
                hop = self.use(peer)
                self.leave(old)
                if hop != old:
                    self.peers[peer] = hop, slots
                    for slot in slots:
                        self.tables.set_nexthop(slot, hop)      # type: ignore[attr-defined]
        return bool(self.again)


def hardware_of(body: bytes) -> bytes | None:
    """The address of a neighbour that may be sent to."""
    state, = struct.unpack_from("=H", body, 8)
    return attributes(body[12:]).get(NDA_LLADDR) if state & NUD_VALID else None
