"""A forwarder in a process of its own, for places that a test cannot be in itself: another kernel, another time.

    bursts.py FOLDER NEAR FAR BURSTS [NETNS-FD]     send so many super-packets; what became of each, as JSON

NEAR is the forwarder's address, FAR the peer's, whose socket is in that namespace. What is in FOLDER already goes on.
"""
from __future__ import annotations

import ctypes
import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from headrace.fastpath import table

from rig.forwarder import NEEDS_CSUM, TCPV4, Bench, tcp

CLONE_NEWNET = 0x40000000
SEGMENTS, SIZE = 10, 1000
PORT = 40000            # of the peer


def peer_socket(address: str, netns: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here:
        assert not netns or libc.setns(netns, CLONE_NEWNET) == 0
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert not netns or libc.setns(here.fileno(), CLONE_NEWNET) == 0
    sock.bind((address, PORT))
    sock.settimeout(10)
    return sock


def main(folder: Path, near: str, far: str, bursts: int, netns: int = 0) -> list[dict[str, object]]:
    new = not (folder / "tables").exists()
    if new:
        table.create(folder / "tables", max_sessions=10, workers=1)
    bench = Bench(folder / "tables", reuse=(near, 0))
    peer = peer_socket(far, netns)
    if new:
        bench.session(peer=peer)
    slot = bench.tables.slot(1, 1)
    done, steps = bench.verdicts().get("DOWN", 0), []
    for burst in range(bursts):
        data = bytes([burst]) + bytes(SEGMENTS * SIZE - 1)
        bench.inner_write(tcp("10.0.0.1", "10.67.0.2", data, 1000), flags=NEEDS_CSUM, gso=TCPV4, size=SIZE, start=20, offset=16)
        got = b"".join(peer.recv(2000)[50:] for _ in range(SEGMENTS))
        done += SEGMENTS
        assert bench.wait_verdict("DOWN", done) == done
        record = bench.tables.worker_records()[0]
        steps.append({"whole": got == data, "failures": int(record["gso_failures"]), "sends": int(record["gso_sends"]),
                      "without": int(bench.tables.sessions()[slot]["no_gso"]), "verdicts": len(bench.verdicts())})
    bench.close()
    peer.close()
    return steps


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))))
