"""The null tunnel as a process: `python -m headrace.bench.null --tun nt0 --local IP:PORT --peer IP:PORT --cpu 0`.

Says "ready" on standard error when its TUN is there; a line of JSON with its counters on standard
output at each SIGUSR1 and at its end, which is SIGTERM or SIGINT.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import sys

from .ends import Ends
from .port import ETH_P_PPP_SES, address, gre_link, open_frames, open_gre, open_session, open_tun, open_udp, station
from .tunnel import Tunnel


def serve(tunnel: Tunnel, cpu: int) -> None:
    """Run until SIGTERM or SIGINT."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: asked.append(number))
    signal.set_wakeup_fd(tunnel.wake_fd)
    print("ready", file=sys.stderr, flush=True)
    while not set(asked) & {signal.SIGTERM, signal.SIGINT}:
        tunnel.run()
        if asked:
            print(json.dumps(tunnel.counters), flush=True)
        asked[:] = [number for number in asked if number != signal.SIGUSR1]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every end of a benchmark's tunnel takes."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tun", required=True, help="the TUN to make")
    p.add_argument("--local", required=True, type=address, help="IP:PORT to bind")
    p.add_argument("--peer", required=True, type=address, help="IP:PORT to send to")
    p.add_argument("--cpu", type=int, default=-1, help="run on this core only")
    p.add_argument("--spin", type=int, default=0, metavar="US", help="look for packets this long before sleeping")
    return p


def main() -> None:
    p = arguments(__doc__)
    p.add_argument("--gre", action="store_true", help="over GRE as PPTP has it, between the same two addresses, and not over UDP")
    p.add_argument("--pppoe", metavar="MAC", type=bytes.fromhex, help="over Ethernet as PPPoE has it, with this station")
    p.add_argument("--frames", metavar="MAC", type=bytes.fromhex, help="with --gre: send frames to this station")
    a = p.parse_args()
    if a.pppoe:
        wire = open_session("wire")
        tunnel = Tunnel(open_tun(a.tun), wire.fileno(), spin_us=a.spin)
        tunnel.pppoe(0, 1, a.pppoe + station("wire") + ETH_P_PPP_SES.to_bytes(2, "big"))
        serve(tunnel, a.cpu)
        return
    if not a.gre:
        wire = open_udp(a.local)
        serve(Tunnel(open_tun(a.tun), wire.fileno(), a.peer, spin_us=a.spin), a.cpu)
        return
    wire = open_gre(a.local[0], a.peer[0])
    tunnel = Tunnel(open_tun(a.tun), wire.fileno(), spin_us=a.spin)
    tunnel.gre(0, 1, Ends(1))
    if a.frames:
        out = open_frames("wire")
        tunnel.frames(out.fileno(), gre_link(station("wire"), a.frames, a.local[0], a.peer[0]))
    serve(tunnel, a.cpu)


if __name__ == "__main__":
    main()
