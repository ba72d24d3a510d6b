"""PPTP: headrace as its server, and the null tunnel over GRE, each by a packet socket or by the raw one (`gre-transmit`).

    peer    generator -> frames of its own;  raw socket -> sink;  a data plane that sends frames, for TCP

GRE has no offload on the wire, so a packet is a frame on every wire.
"""
from __future__ import annotations

from typing import Any

from ..control.link import LinkSettings
from .dial import Call, FarEnd
from .ends import Ends
from .headrace import Headrace
from .lab import HOST, OTHERS, PEER, Lab, Namespace
from .lac import DataPlane
from .pns import PORT, Pns
from .port import gre_link, open_frames, open_gre, station
from .subject import Far, Null, Session, session_address


class Wire:
    """The peer's way to send frames."""

    def __init__(self, lab: Lab) -> None:
        with lab.host.entered():
            there = station("wire")
        with lab.peer.entered():
            self.link = gre_link(station("wire"), there, PEER, HOST)
            self.socket = open_frames("wire")


class Pptp(Headrace):
    """One concentrator, and calls to it."""
    transmit = "packet"
    _frames: Wire | None = None

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pptp": {"gre-transmit": self.transmit}}

    def _connect(self, link: LinkSettings) -> FarEnd:
        return Pns(open_gre(PEER, HOST), (HOST, PORT), link)

    def _carry(self, lac: FarEnd, call: Call) -> DataPlane:
        assert isinstance(lac, Pns)
        frames = self._frames = Wire(self.lab)
        return DataPlane(self._tun, lac.wire, None, call.ids, call.peer_ids, cpu=OTHERS, ends=lac.ends,
                         frames=(frames.socket, frames.link))

    def attach(self, sessions: int) -> Far:
        lac = self._dial(sessions)
        assert isinstance(lac, Pns)
        frames = self._frames = Wire(self.lab)
        return Far(lac.wire, (HOST, PORT), "gre", self._sessions, self.interface, self.whole, out=frames.socket, link=frames.link,
                   ends=lac.ends)

    def stop(self) -> None:
        super().stop()
        if self._frames:
            self._frames.socket.close()


class PptpRaw(Pptp):
    transmit = "raw"


class GreNull(Null):
    """The null tunnel over GRE."""
    framed = True
    _frames: Wire | None = None

    def _options(self, there: Namespace) -> list[str]:
        with there.entered():
            return ["--gre", "--frames", station("wire").hex()] if self.framed else ["--gre"]

    def attach(self, sessions: int) -> Far:
        with self.lab.peer.entered():
            wire = self._wire = open_gre(PEER, HOST)
        frames = self._frames = Wire(self.lab)
        return Far(wire, (HOST, self.PORT), "gre", [Session(0, n + 1, session_address(n)) for n in range(sessions)], "nt0",
                   out=frames.socket, link=frames.link, ends=Ends(sessions))

    def stop(self) -> None:
        super().stop()
        if self._frames:
            self._frames.socket.close()


class RawNull(GreNull):
    framed = False
