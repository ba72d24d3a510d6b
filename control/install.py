"""A call and its link become a session of the fast path: the only writer of the tables.

    Opening     -> open     the record is published OPENING: all PPP is punted
    Up          -> sequence when the peer wants data numbered
    LinkUp      -> up       template, addresses, keys, OPEN; before the last Configure-Ack leaves
    LinkReset   -> reset    OPENING again
    LinkJoined  -> join     a link is OPEN and a member of a bundle, which open_bundle made; leave when it is no more
    Down        -> close    RETIRED, its routes taken out of the index

A route is an address or a prefix that leads to a session: 16 octets, and a length that counts from their first bit.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

from ..fastpath import bundle
from ..fastpath.bridge import BridgeFlag
from ..fastpath.bundle import BundleFlag
from ..fastpath.packet import Kind
from ..fastpath.table import ConfigFlag, State
from . import mac
from .address import Path, mapped
from .l2tpevents import CallOpening, TunnelState
from .lcp import LCP, SHORT_SEQUENCE
from .link import LinkJoined, LinkUp
from .mppe import Cipher
from .nexthops import NextHops

L2TP_DATA, L2TP_SEQUENCED = 0x0002, 0x0802      # flags and version of a data message (RFC 2661 section 3.1)
PPPOE_SESSION, PPPOE_VERSION = 0x8864, 0x11     # ethertype; version and type (RFC 2516 section 4)
GRE_DATA, GRE_PPP = 0x3081, 0x880B              # K, S, A and version 1 (RFC 2637 section 4.1)
TCP_IP = 40                                     # octets of the headers that an MSS leaves out
MOST_RATE = 0xFFFFFFFF                          # kilobits a second
SINGLE = 128                                    # prefix length of one address
NONE = bytes(16)                                # no address

Route = tuple[bytes, int]


def l2tp(call: CallOpening, sequenced: bool) -> tuple[bytes, int, int]:
    """The header of a data message, where its Ns is, and its length; 0: it has none."""
    head = struct.pack("!HHH", L2TP_SEQUENCED if sequenced else L2TP_DATA, call.peer_tunnel_id, call.peer_session_id)
    return (head + bytes(4), len(head), 0) if sequenced else (head, 0, 0)


def gre(call: Any, sequenced: bool) -> tuple[bytes, int, int]:
    """GRE's with both numbers; the worker leaves out the acknowledgment where there is none."""
    return struct.pack("!HHHHLL", GRE_DATA, GRE_PPP, 0, call.peer_call_id, 0, 0), 8, 4


def ethernet(call: Any, sequenced: bool) -> tuple[bytes, int, int]:
    """Ethernet's header with the tags of the peer's network, and PPPoE's."""
    peer, local = call.path.peer, call.path.local
    tags = b"".join(struct.pack("!HH", *vlan) for vlan in mac.vlans(peer))
    head = mac.mac(peer) + mac.mac(local) + tags + struct.pack("!HBBHH", PPPOE_SESSION, PPPOE_VERSION, 0, call.session_id, 0)
    return head, 0, len(head) - 2


def none(call: Any, sequenced: bool) -> tuple[bytes, int, int]:
    """A bundle's: its fragments have a header of their own, and their links'."""
    return b"", 0, 0


HEADERS: dict[int, Callable[[Any, bool], tuple[bytes, int, int]]] = {Kind.KIND_L2TP: l2tp, Kind.KIND_PPTP: gre, Kind.KIND_PPPOE: ethernet,
                                                                     Kind.KIND_BUNDLE: none}
BARE = (Kind.KIND_PPPOE,)                       # whose PPP has no address and control field, nor a compressed protocol


def template(kind: Kind, call: Any, *, sequenced: bool, acfc: bool = False, pfc: bool = False) -> dict[str, Any]:
    """The header in front of an IPv4 packet of a call, and where its parts are."""
    head, ns_at, length_at = HEADERS[kind](call, sequenced)
    bare = kind in BARE
    ppp = (b"" if acfc or bare else b"\xff\x03") + (b"\x21" if pfc and not bare else b"\x00\x21")
    return {"template": head + ppp, "ppp_at": len(head), "ns_at": ns_at, "length_at": length_at}


def outer(kind: Kind, sequenced: bool, dscp: int | str) -> int:
    """The flags of what carries user data."""
    return bare(kind) | (ConfigFlag.CONFIG_SEQUENCED if sequenced else 0) | (ConfigFlag.CONFIG_COPY_DSCP if dscp == "inherit" else 0)


def bare(kind: Kind) -> int:
    """The flag of such a session's configuration, or 0."""
    return ConfigFlag.CONFIG_BARE if kind in BARE else 0


def tos(dscp: int | str) -> int:
    return int(dscp) << 2 if dscp != "inherit" else 0


def ticks(keepalive: float) -> int:
    return min(65535, round(keepalive * 10))


def routes(link: LinkUp, address: IPv4Address | None, *prefixes: IPv6Network | None) -> frozenset[Route]:
    """What leads to a session, of the families that are open."""
    four = [(mapped(address), SINGLE)] if link.ip and address else []
    six = [(prefix.network_address.packed, prefix.prefixlen) for prefix in prefixes if prefix] if link.ipv6 else []
    return frozenset(four + six)


class Installer:
    """The doors of the tables, in the words of the protocols."""

    def __init__(self, tables: Any) -> None:
        self.tables = tables
        self.hops: NextHops | None = None           # where PPTP's frames go, when they pass the kernel's output by

    def open(self, kind: Kind, call: Any, owner: int, sequenced: bool = False) -> tuple[int, int]:
        """(slot, generation) of the new session."""
        slot, generation = self.tables.publish(kind, call.tunnel_id, call.session_id, owner, call.path[:5],
                                               flags=(ConfigFlag.CONFIG_SEQUENCED if sequenced else 0) | bare(kind),
                                               **template(kind, call, sequenced=sequenced))
        if self.hops and kind == Kind.KIND_PPTP:
            self.hops.attach(slot, call.path.peer, call.path.local)
        return slot, generation

    def sequence(self, slot: int, kind: Kind, call: Any) -> None:
        """Data messages carry Ns from now on, both ways."""
        self.tables.configure(slot, flags=ConfigFlag.CONFIG_SEQUENCED, **template(kind, call, sequenced=True))

    def up(self, slot: int, kind: Kind, call: Any, link: LinkUp, *, sequenced: bool, clamp: bool, keepalive: float,
           dscp: int | str, leads: Iterable[Route], prefix: IPv6Network | None = None, gateway6: IPv6Address | None = None,
           rekey: bool = True, tap: int = 0) -> None:
        """`leads` are the routes, `prefix` the link's own /64, `gateway6` who says that a packet is too big, `tap` the number of its
        Ethernet port. A link that was up may change without interruption; `rekey` is False when its ciphers go on where they are."""
        flags = (ConfigFlag.CONFIG_IP if link.ip else 0) | (ConfigFlag.CONFIG_IPV6 if link.ipv6 else 0) | outer(kind, sequenced, dscp)
        if clamp:
            flags |= ConfigFlag.CONFIG_CLAMP_MSS
        if kind == Kind.KIND_BUNDLE:
            flags |= ConfigFlag.CONFIG_BUNDLE
        if link.cipher:
            flags |= self.encrypt(slot, link.cipher, rekey)
        bridge = BridgeFlag.BRIDGE_OPEN if tap else 0
        if tap:
            bridge |= (BridgeFlag.BRIDGE_TAGGED if link.tagged else 0) | (BridgeFlag.BRIDGE_STP if link.stp else 0)
        self.tables.configure(slot, flags=flags, tos=tos(dscp), mtu=link.mtu, mss=link.mtu - TCP_IP, keepalive=ticks(keepalive),
                              bridge=bridge, tap=tap,
                              address=mapped(link.remote_address) if link.ip else NONE, gateway=mapped(link.local_address),
                              prefix=prefix.network_address.packed if prefix and link.ipv6 else NONE,
                              gateway6=gateway6.packed if gateway6 else NONE, our_magic=link.our_magic, peer_magic=link.peer_magic,
                              **template(kind, call, sequenced=sequenced, acfc=link.acfc, pfc=link.pfc))
        if not link.cipher:
            self.tables.clear_cipher(slot)
        for route in leads:
            self.lead(slot, route)
        self.tables.set_state(slot, State.OPEN)

    def open_bundle(self, tunnel_id: int, session_id: int, owner: int, path: Path, lcp: LCP) -> tuple[int, int]:
        """(slot, generation) of a bundle without links, on the terms of the first one's LCP."""
        slot, generation = self.tables.publish(Kind.KIND_BUNDLE, tunnel_id, session_id, owner, path[:5], flags=ConfigFlag.CONFIG_BUNDLE,
                                               **template(Kind.KIND_BUNDLE, None, sequenced=False, acfc=True, pfc=True))
        bundle.open_bundle(self.tables, slot, mrru=lcp.mrru,
                           flags=(BundleFlag.BUNDLE_SHORT_RX if SHORT_SEQUENCE in lcp.ours else 0)
                           | (BundleFlag.BUNDLE_SHORT_TX if SHORT_SEQUENCE in lcp.theirs else 0))
        return slot, generation

    def join(self, slot: int, link: int, kind: Kind, call: Any, event: LinkJoined, *, sequenced: bool, keepalive: float,
             dscp: int | str, rate: int) -> None:
        """The session in slot `link` carries fragments of the bundle in `slot` from now on, and is sent some when its peer has shown that
        it knows. `rate`: bits a second, 0: not known."""
        self.tables.configure(link, flags=outer(kind, sequenced, dscp), tos=tos(dscp), mtu=event.mtu, keepalive=ticks(keepalive),
                              address=NONE, prefix=NONE,        # which it may have had when it was no link
                              our_magic=event.our_magic, peer_magic=event.peer_magic,
                              **template(kind, call, sequenced=sequenced, acfc=event.acfc, pfc=event.pfc))
        self.tables.clear_cipher(link)
        bundle.join_link(self.tables, slot, link, rate=min(rate // 1000, MOST_RATE), room=event.mtu, hold=True)
        self.tables.set_state(link, State.OPEN)

    def leave(self, slot: int, link: int) -> None:
        """It carries none any more, and its own user data neither."""
        self.tables.set_state(link, State.OPENING)
        bundle.leave_link(self.tables, slot, link)

    def lead(self, slot: int, route: Route) -> None:
        """Let a route lead to a session from now on. ValueError: there is no room."""
        self.tables.insert(*route, slot)

    def forget(self, slot: int, leads: Iterable[Route]) -> None:
        for route in leads:
            self.tables.delete(*route, slot)

    def encrypt(self, slot: int, cipher: Cipher, rekey: bool) -> int:
        """Both directions' start keys, in force with the next configuration and its flags, which are returned."""
        receive, send = cipher.receive or cipher.send, cipher.send or cipher.receive
        assert receive and send                 # a cipher has one of them at least
        if rekey:
            self.tables.set_cipher(slot, send_bits=send.bits, receive_bits=receive.bits, send_key=send.key, receive_key=receive.key,
                                   send_stateless=send.stateless, receive_stateless=receive.stateless)
        return ((ConfigFlag.CONFIG_ENCRYPT if cipher.send else 0) | (ConfigFlag.CONFIG_DECRYPT if cipher.receive else 0)
                | (ConfigFlag.CONFIG_REQUIRE if cipher.required else 0))

    def reset(self, slot: int, leads: Iterable[Route]) -> None:
        """User data stops until the link is up again."""
        self.tables.set_state(slot, State.OPENING)
        self.forget(slot, leads)

    def close(self, slot: int, leads: Iterable[Route]) -> None:
        self.forget(slot, leads)
        if self.hops:
            self.hops.detach(slot)
        self.tables.retire(slot)

    def tunnel(self, state: TunnelState) -> None:
        """What a restart needs of a tunnel, before the acknowledgment of what it says leaves."""
        self.tables.write_tunnel(state.tunnel_id, state.state, state.peer_tunnel_id, state.ns, state.nr, state.acked, state.path[:5])

    def empty(self) -> list[int]:
        """After a crash of control: no session is ours any more. The slots that a worker or a peer may still have in mind."""
        tables = self.tables
        tables.clear_addresses()
        slots = tables.used_slots()
        sessions = tables.sessions()
        states, keys = sessions["state"][slots], sessions["ciphered"][slots]
        live = slots[(states == State.OPENING) | (states == State.OPEN)].tolist()
        for slot in live:               # once, at the start
            tables.retire(slot)
        for slot in slots[(states == State.RETIRED) & (keys != 0)].tolist():        # whose keys were still to be wiped
            tables.retire(slot)
        return live
