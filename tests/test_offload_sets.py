"""Every set of offloads that a kernel may leave us, forced by the setting: what arrives is the same, only the bursts differ.

headrace serves a session of our own LAC through a real TUN and a veth pair; the far end always has all offloads.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from headrace.bench.headrace import Headrace
from headrace.bench.lab import Lab, Namespace
from headrace.bench.port import merge
from headrace.bench.subject import INSIDE, MTU
from headrace.fastpath.table import Tables

pytestmark = pytest.mark.root
TRANSFER = 8 << 20
UDP_SEGMENT, SOL_UDP = 103, 17
DATAGRAMS, BURST, SIZE = 960, 40, 1000
COUNTERS = ("super-in", "super-out", "gso-sends", "gso-failures")


class Set(NamedTuple):
    """What is in force, and who may then see super-packets."""
    tun: str
    udp: bool               # UDP_SEGMENT and UDP_GRO on the wire side
    tcp_bursts: bool        # TCP crosses the TUN in super-packets
    udp_bursts: bool


SETS = {"auto": Set("uso", True, True, True), "uso": Set("uso", True, True, True), "tso": Set("tso", True, True, False),
        "csum": Set("csum", True, False, False), "none": Set("none", False, False, False)}


@contextlib.contextmanager
def session(offload: str, mtu: int = 1500) -> Iterator[tuple[Lab, Headrace, str]]:
    """A concentrator with that setting and one session; the peer's inner address."""
    with Lab("offload", mtu) as lab:
        subject = Headrace(lab)
        subject.offload = offload
        try:
            subject.start()
            yield lab, subject, subject.dial()
        finally:
            subject.stop()


def stats(subject: Headrace) -> dict[str, Any]:
    assert subject.concentrator
    found = subject.concentrator.get("stats")
    assert isinstance(found, dict)
    return found


def printed(subject: Headrace) -> dict[str, Any]:
    """`headrace stats --json`."""
    assert subject.concentrator
    out = subprocess.run([sys.executable, "-m", "headrace.control", "stats", "--json", "-c", str(subject.concentrator.file)], check=True,
                         capture_output=True, text=True, cwd="/", timeout=30).stdout
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def bursts(of: dict[str, Any]) -> dict[str, int]:
    return {name: of["workers"][0][name] for name in COUNTERS}


def gained(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before}


def opened(side: Namespace, kind: int, address: str) -> socket.socket:
    with side.entered():
        sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(20)
    sock.bind((address, 0))
    return sock


def transfer(source: Namespace, sender: str, target: Namespace, receiver: str, octets: int = TRANSFER) -> None:
    """Octets over TCP that no two positions share, and their sum at the other end."""
    data = random.Random(octets).randbytes(octets)
    with opened(target, socket.SOCK_STREAM, receiver) as listener, opened(source, socket.SOCK_STREAM, sender) as out:
        listener.listen()
        out.connect(listener.getsockname())
        into, _ = listener.accept()
        thread = threading.Thread(target=lambda: (out.sendall(data), out.shutdown(socket.SHUT_WR)))
        thread.start()
        with into:
            into.settimeout(20)
            got = hashlib.sha256()
            while piece := into.recv(1 << 20):
                got.update(piece)
        thread.join()
    assert got.digest() == hashlib.sha256(data).digest()


def datagrams(source: Namespace, sender: str, target: Namespace, receiver: str) -> None:
    """Bursts by UDP_SEGMENT on the inner socket, each datagram different, all there and in order."""
    with opened(target, socket.SOCK_DGRAM, receiver) as into, opened(source, socket.SOCK_DGRAM, sender) as out:
        merge(into)
        into.setsockopt(SOL_UDP, 104, 0)            # large buffers, but each datagram on its own
        for first in range(0, DATAGRAMS, BURST):
            burst = b"".join(random.Random(n).randbytes(SIZE) for n in range(first, first + BURST))
            out.sendmsg([burst], [(SOL_UDP, UDP_SEGMENT, SIZE.to_bytes(2, sys.byteorder))], 0, into.getsockname())
            for n in range(first, first + BURST):
                assert into.recv(2 * SIZE) == random.Random(n).randbytes(SIZE), n


@pytest.mark.parametrize("offload", SETS)
def test_what_arrives_is_the_same_and_the_bursts_are_the_sets(offload: str) -> None:
    expected = SETS[offload]
    with session(offload) as (lab, subject, client):
        assert stats(subject)["offload"] == {"tun": expected.tun, "udp": expected.udp}
        zero = bursts(stats(subject))
        transfer(lab.host, INSIDE, lab.peer, client)
        down = bursts(stats(subject))
        transfer(lab.peer, client, lab.host, INSIDE)
        up = bursts(stats(subject))
        datagrams(lab.host, INSIDE, lab.peer, client)
        udp_down = bursts(stats(subject))
        datagrams(lab.peer, client, lab.host, INSIDE)
        udp_up = bursts(end := printed(subject))
    steps = {"tcp down": (zero, down), "tcp up": (down, up), "udp down": (up, udp_down), "udp up": (udp_down, udp_up)}
    moved = {name: gained(*ends) for name, ends in steps.items()}
    full = TRANSFER // 65536                        # a super-packet holds less, so there are more of them
    assert (moved["tcp down"]["super-in"] > full) == (moved["tcp up"]["super-out"] > full) == expected.tcp_bursts, moved
    assert (moved["udp down"]["super-in"] == DATAGRAMS // BURST) == (moved["udp up"]["super-out"] > 0) == expected.udp_bursts, moved
    if not expected.tcp_bursts:
        assert udp_up["super-in"] == udp_up["super-out"] == 0, moved
    if not expected.udp_bursts:
        assert moved["udp down"]["super-in"] == moved["udp up"]["super-out"] == 0, moved
    assert (moved["tcp down"]["gso-sends"] > 0) == (moved["udp down"]["gso-sends"] > 0) == expected.udp, moved
    assert expected.udp or udp_up["gso-sends"] == 0, moved
    assert udp_up["gso-failures"] == 0, moved
    assert not {name: n for name, n in end["verdicts"].items() if n and name.startswith("drop")}


def test_segments_that_the_path_does_not_take_whole_leave_as_fragments() -> None:
    """The outer MTU is smaller than a segment: UDP_SEGMENT is refused (EMSGSIZE), the group leaves singly, the kernel cuts it into IP
    fragments, and the session does without UDP_SEGMENT for a while."""
    with session("auto", mtu=MTU - 100) as (lab, subject, client):
        created = fragments_created(lab)
        transfer(lab.host, INSIDE, lab.peer, client, 2 << 20)
        first = bursts(stats(subject))
        assert first["gso-failures"] > 0
        assert fragments_created(lab) - created > (2 << 20) // MTU
        assert session_without_gso(subject, client)
        transfer(lab.host, INSIDE, lab.peer, client, 2 << 20)
        assert gained(first, bursts(stats(subject))) | {"super-in": 0, "super-out": 0} == dict.fromkeys(COUNTERS, 0)
        assert stats(subject)["verdicts"]["drop-wire"] == 0


def fragments_created(lab: Lab) -> int:
    with lab.host.entered(), open("/proc/thread-self/net/snmp") as counters:
        names, values = [line.split() for line in counters if line.startswith("Ip:")]
    return int(values[names.index("FragCreates")])


def session_without_gso(subject: Headrace, address: str) -> bool:
    assert subject.concentrator
    fd = os.open(subject.concentrator.run_dir / "tables", os.O_RDWR)
    try:
        tables = Tables(fd)
    finally:
        os.close(fd)
    slot = tables.lookup(bytes(10) + b"\xff\xff" + socket.inet_aton(address))
    assert slot
    return bool(tables.sessions()[slot]["no_gso"])
