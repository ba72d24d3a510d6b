"""A call and its link become a session of the fast path: the only writer of the tables.

    Opening     -> open     the record is published OPENING: all PPP is punted
    Up          -> sequence when the peer wants data numbered
    LinkUp      -> up       template, address, keys, OPEN; before the last Configure-Ack leaves
    LinkReset   -> reset    OPENING again
    Down        -> close    RETIRED, its address taken out of the index
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from ..fastpath.packet import Kind
from ..fastpath.table import ConfigFlag, State
from .address import mapped
from .l2tpevents import CallOpening, TunnelState
from .link import LinkUp
from .mppe import Cipher

L2TP_DATA, L2TP_SEQUENCED = 0x0002, 0x0802      # flags and version of a data message (RFC 2661 section 3.1)
GRE_DATA, GRE_PPP = 0x3081, 0x880B              # K, S, A and version 1 (RFC 2637 section 4.1)
TCP_IP = 40                                     # octets of the headers that an MSS leaves out
SINGLE = 128                                    # prefix length of one address


def l2tp(call: CallOpening, sequenced: bool) -> tuple[bytes, int, int]:
    """The header of a data message, where its Ns is, and its length; 0: it has none."""
    head = struct.pack("!HHH", L2TP_SEQUENCED if sequenced else L2TP_DATA, call.peer_tunnel_id, call.peer_session_id)
    return (head + bytes(4), len(head), 0) if sequenced else (head, 0, 0)


def gre(call: Any, sequenced: bool) -> tuple[bytes, int, int]:
    """GRE's with both numbers; the worker leaves out the acknowledgment where there is none."""
    return struct.pack("!HHHHLL", GRE_DATA, GRE_PPP, 0, call.peer_call_id, 0, 0), 8, 4


HEADERS: dict[int, Callable[[Any, bool], tuple[bytes, int, int]]] = {Kind.KIND_L2TP: l2tp, Kind.KIND_PPTP: gre}


def template(kind: Kind, call: Any, *, sequenced: bool, acfc: bool = False, pfc: bool = False) -> dict[str, Any]:
    """The header in front of an IPv4 packet of a call, and where its parts are."""
    head, ns_at, length_at = HEADERS[kind](call, sequenced)
    ppp = (b"" if acfc else b"\xff\x03") + (b"\x21" if pfc else b"\x00\x21")
    return {"template": head + ppp, "ppp_at": len(head), "ns_at": ns_at, "length_at": length_at}


class Installer:
    """The doors of the tables, in the words of the protocols."""

    def __init__(self, tables: Any) -> None:
        self.tables = tables

    def open(self, kind: Kind, call: Any, owner: int, sequenced: bool = False) -> tuple[int, int]:
        """(slot, generation) of the new session."""
        return self.tables.publish(kind, call.tunnel_id, call.session_id, owner, call.path[:5],
                                   flags=ConfigFlag.CONFIG_SEQUENCED if sequenced else 0, **template(kind, call, sequenced=sequenced))

    def sequence(self, slot: int, kind: Kind, call: Any) -> None:
        """Data messages carry Ns from now on, both ways."""
        self.tables.configure(slot, flags=ConfigFlag.CONFIG_SEQUENCED, **template(kind, call, sequenced=True))

    def up(self, slot: int, kind: Kind, call: Any, link: LinkUp, *, sequenced: bool, clamp: bool, keepalive: float,
           dscp: int | str) -> None:
        flags = ConfigFlag.CONFIG_IP | (ConfigFlag.CONFIG_CLAMP_MSS if clamp else 0)
        if dscp == "inherit":
            flags |= ConfigFlag.CONFIG_COPY_DSCP
        if sequenced:
            flags |= ConfigFlag.CONFIG_SEQUENCED
        if link.cipher:
            flags |= self.encrypt(slot, link.cipher)
        self.tables.configure(slot, flags=flags, tos=int(dscp) << 2 if dscp != "inherit" else 0, mtu=link.mtu, mss=link.mtu - TCP_IP,
                              keepalive=min(65535, round(keepalive * 10)),
                              address=mapped(link.remote_address), gateway=mapped(link.local_address), our_magic=link.our_magic,
                              peer_magic=link.peer_magic,
                              **template(kind, call, sequenced=sequenced, acfc=link.acfc, pfc=link.pfc))
        if not link.cipher:
            self.tables.clear_cipher(slot)
        self.tables.insert(mapped(link.remote_address), SINGLE, slot)
        self.tables.set_state(slot, State.OPEN)

    def encrypt(self, slot: int, cipher: Cipher) -> int:
        """Both directions' start keys, in force with the next configuration and its flags, which are returned."""
        receive, send = cipher.receive or cipher.send, cipher.send or cipher.receive
        assert receive and send                 # a cipher has one of them at least
        self.tables.set_cipher(slot, send_bits=send.bits, receive_bits=receive.bits, send_key=send.key, receive_key=receive.key,
                               send_stateless=send.stateless, receive_stateless=receive.stateless)
        return ((ConfigFlag.CONFIG_ENCRYPT if cipher.send else 0) | (ConfigFlag.CONFIG_DECRYPT if cipher.receive else 0)
                | (ConfigFlag.CONFIG_REQUIRE if cipher.required else 0))

    def reset(self, slot: int, address: IPv4Address | None) -> None:
        """User data stops until the link is up again."""
        self.tables.set_state(slot, State.OPENING)
        if address is not None:
            self.tables.delete(mapped(address), SINGLE, slot)

    def close(self, slot: int, address: IPv4Address | None) -> None:
        if address is not None:
            self.tables.delete(mapped(address), SINGLE, slot)
        self.tables.retire(slot)

    def tunnel(self, state: TunnelState) -> None:
        """What a restart needs of a tunnel, before the acknowledgment of what it says leaves."""
        self.tables.write_tunnel(state.tunnel_id, state.state, state.peer_tunnel_id, state.ns, state.nr, state.acked, state.path[:5])

    def empty(self) -> list[int]:
        """After a crash of control: no session is ours any more. The slots that a worker or a peer may still have in mind."""
        tables = self.tables
        tables.clear_addresses()
        slots = tables.used_slots()
        states = tables.sessions()["state"][slots]
        live = slots[(states == State.OPENING) | (states == State.OPEN)].tolist()
        for slot in live:               # once, at the start
            tables.retire(slot)
        return live
