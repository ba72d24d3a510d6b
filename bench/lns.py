"""A server of tunnels as a subject: whichever it is, its peer is our own client role. Of L2TP that is dial.py's LAC.

For TCP the client's data plane is the null tunnel's with L2TP's header (lac.py), so that what differs between the two sides of
a ratio is the forwarder alone.
"""
from __future__ import annotations

import os
import socket
import threading

from ..control.link import LinkSettings
from ..control.mppe import IN_CLEAR, Policy
from .concentrator import password, user
from .dial import Call, FarEnd, Lac
from .lab import FORWARDER, HOST, OTHERS, PEER, Lab, LabError
from .lac import DataPlane
from .port import merge, open_tun
from .subject import GSO_MAX_SIZE, Far, Subject

PORT = 1701


class Lns(Subject):
    """The far end; who derives from it starts the server in lab.host."""
    interface = ""                  # the server's TUN
    whole = True                    # it takes super-packets
    authentication = "mschap2"
    encryption: Policy = IN_CLEAR
    header = 0                      # octets by which PPP's packets are longer

    def __init__(self, lab: Lab, workers: int = 1) -> None:
        super().__init__(lab, workers)
        self._lac: FarEnd | None = None
        self._plane: DataPlane | None = None
        self._ended = threading.Event()

    def _connect(self, link: LinkSettings) -> FarEnd:
        """Our end, in lab.peer."""
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        wire.bind((PEER, PORT))
        merge(wire)
        return Lac(wire, (HOST, PORT), link)

    def _carry(self, lac: FarEnd, call: Call) -> DataPlane:
        """Its data plane."""
        return DataPlane(self._tun, lac.wire, lac.peer, call.ids, call.peer_ids, cpu=OTHERS, ends=lac.ends)

    def _dial(self, sessions: int) -> FarEnd:
        longest = self.mtu + self.header
        link = LinkSettings(mru=longest, mtu=longest, authentication=(self.authentication,), user=user(0), password=password(0),
                            encryption=self.encryption)
        with self.lab.peer.entered():
            self._lac = self._connect(link)
        here = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {FORWARDER, OTHERS})        # the forwarder has nothing to do yet
        try:
            self._sessions = self._lac.dial(sessions)
        finally:
            os.sched_setaffinity(0, here)
        return self._lac

    def dial(self) -> str:
        lac = self._dial(1)
        call = next(iter(lac.calls.values()))
        with self.lab.peer.entered():
            self._tun = open_tun("lt0")
        self.lab.peer.configure("lt0", f"{self._sessions[0].address}/16", self.mtu, GSO_MAX_SIZE)
        self._plane = self._carry(lac, call)
        self._wire, lac.wire = lac.wire, self._plane.control
        self._plane.start()
        self._keeper = threading.Thread(target=self._keep, name="keeper")
        self._keeper.start()
        return self._sessions[0].address

    def _keep(self) -> None:
        """Answer what is not user data, as long as the data plane runs."""
        assert self._lac
        while not self._ended.is_set():
            self._lac.attend(0.5)

    def attach(self, sessions: int) -> Far:
        lac = self._dial(sessions)
        return Far(lac.wire, (HOST, PORT), "l2tp", self._sessions, self.interface, self.whole, ends=lac.ends if lac.ends.sealed else None)

    def attend(self) -> None:
        if self._lac and not self._plane:
            self._lac.attend()
        if self._lac and self._lac.failure:
            raise LabError(f"the far end: {self._lac.failure}")

    def own(self) -> dict[str, list[int]]:
        return {"peer": [self._plane.thread]} if self._plane else {}

    def stop(self) -> None:
        if self._lac and self._plane:
            self._ended.set()
            self._keeper.join()
            self._plane.stop()
            self._lac.wire = self._wire
            os.close(self._tun)
        if self._lac:
            with self._lac.wire:
                self._lac.close()
