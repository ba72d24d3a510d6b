"""The far end of one L2TP, PPTP or PPPoE session at the null tunnel's cost, so that iperf3 can run through headrace.

Who sets the session up (control/l2tp.py and control/ppp.py, driven over `wire` as long as this does not
run) hands over the socket and the ids; from then on the control connection goes through `control`:
whole L2TP messages, one a datagram, both ways.

As a process, with ids agreed beforehand: `python -m headrace.bench.lac --tun lt0 --local IP:PORT --peer IP:PORT
--ids 1/1 --peer-ids 2/2`.
"""
from __future__ import annotations

import os
import socket
import threading

from .ends import Ends
from .null import arguments, serve
from .port import merge, open_tun, open_udp
from .tunnel import Tunnel


class DataPlane:
    """One session between a TUN and a UDP socket, a raw one of GRE or a packet socket of PPPoE, in a thread that holds no GIL."""

    def __init__(self, tun: int, wire: socket.socket, peer: tuple[str, int] | None, ids: tuple[int, int], peer_ids: tuple[int, int],
                 length: bool = False, cpu: int = -1, spin_us: int = 0, ends: Ends | None = None,
                 frames: tuple[socket.socket, bytes] | None = None) -> None:
        """`ids` are ours (tunnel, session), `peer_ids` the concentrator's; peer is None when `wire` is connected. Of PPTP, and of an
        encrypted session, `ends` of that one; `frames`: a packet socket, and a link header, to send by."""
        self.control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._kept = (wire, inside, frames)
        self._cpu = cpu
        self._tunnel = Tunnel(tun, wire.fileno(), peer, inside.fileno(), spin_us)
        if wire.family == socket.AF_PACKET:
            assert frames
            self._tunnel.pppoe(ids[1], peer_ids[1], frames[1])
        elif wire.type == socket.SOCK_RAW:
            assert ends
            self._tunnel.gre(ids[1], peer_ids[1], ends)
            if frames:
                self._tunnel.frames(frames[0].fileno(), frames[1])
        else:
            merge(wire)
            self._tunnel.l2tp(ids[0], ids[1], peer_ids[0], peer_ids[1], length, ends)
        self._thread = threading.Thread(target=self._run, name="lac")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._tunnel.wake()
        self._thread.join()
        self.control.close()
        self._kept[1].close()

    @property
    def thread(self) -> int:
        """Its id, as long as it runs."""
        assert self._thread.native_id
        return self._thread.native_id

    @property
    def counters(self) -> dict[str, int]:
        return self._tunnel.counters

    def _run(self) -> None:
        if self._cpu >= 0:
            os.sched_setaffinity(0, {self._cpu})    # of this thread alone
        self._tunnel.run()


def ids(text: str) -> tuple[int, int]:
    tunnel, _, session = text.partition("/")
    return int(tunnel), int(session)


def main() -> None:
    p = arguments(__doc__)
    p.add_argument("--ids", required=True, type=ids, help="TUNNEL/SESSION that the peer sends to us")
    p.add_argument("--peer-ids", required=True, type=ids, help="TUNNEL/SESSION that we send to the peer")
    p.add_argument("--length", action="store_true", help="send with a length field")
    a = p.parse_args()
    wire = open_udp(a.local)
    tunnel = Tunnel(open_tun(a.tun), wire.fileno(), a.peer, spin_us=a.spin)
    tunnel.l2tp(a.ids[0], a.ids[1], a.peer_ids[0], a.peer_ids[1], length=a.length)
    serve(tunnel, a.cpu)


if __name__ == "__main__":
    main()
