"""PPPoE: headrace as its access concentrator, and the null tunnel over Ethernet.

    peer    generator -> frames of its own;  packet socket -> sink;  a data plane that receives from a ring, for TCP

Ethernet has no offload on the wire, so a packet is a frame on every wire.
"""
from __future__ import annotations

import socket
from typing import Any

from ..control.link import LinkSettings
from .dial import Call, FarEnd
from .headrace import Headrace
from .host import HOSTS, Host
from .lab import OTHERS, Namespace
from .lac import DataPlane
from .port import ETH_P_PPP_SES, open_frames, open_session, station
from .subject import Far, Null, Session, session_address

LARGEST = 1492              # octets of IP (RFC 2516 section 7)


def link(to: bytes, sender: bytes) -> bytes:
    """Ethernet's header."""
    return to + sender + ETH_P_PPP_SES.to_bytes(2, "big")


class Pppoe(Headrace):
    """One concentrator, and sessions from as many hosts."""
    mtu = LARGEST
    _out: socket.socket | None = None

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pppoe": {"interface": "wire", "padi-limit-per-mac": 1000}}

    def _connect(self, settings: LinkSettings) -> FarEnd:
        self._out = open_frames("wire")
        return Host(open_session("wire", ring=False), self._out, settings)

    def _carry(self, lac: FarEnd, call: Call) -> DataPlane:
        assert isinstance(lac, Host)
        with self.lab.peer.entered():
            into = open_session("wire")
        lac.wire.close()            # it would get a copy of everything
        return DataPlane(self._tun, into, None, call.ids, call.peer_ids, cpu=OTHERS,
                         frames=(into, link(lac.concentrator, HOSTS + bytes(2))))

    def attach(self, sessions: int) -> Far:
        lac = self._dial(sessions)
        assert isinstance(lac, Host) and self._out
        return Far(lac.wire, ("", 0), "pppoe", self._sessions, self.interface, self.whole, out=self._out,
                   link=link(lac.concentrator, HOSTS + bytes(2)))

    def stop(self) -> None:
        super().stop()
        if self._out:
            self._out.close()


class PppoeNull(Null):
    """The null tunnel over Ethernet."""
    mtu = LARGEST
    _out: socket.socket | None = None

    def _options(self, there: Namespace) -> list[str]:
        with there.entered():
            return ["--pppoe", station("wire").hex()]

    def attach(self, sessions: int) -> Far:
        with self.lab.host.entered():
            there = station("wire")
        with self.lab.peer.entered():
            wire, out = open_session("wire", ring=False), open_frames("wire")
        self._wire, self._out = wire, out
        return Far(wire, ("", 0), "pppoe", [Session(0, n + 1, session_address(n)) for n in range(sessions)], "nt0", out=out,
                   link=link(there, HOSTS + bytes(2)))

    def stop(self) -> None:
        super().stop()
        if self._out:
            self._out.close()
