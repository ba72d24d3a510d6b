"""What the stages cost in memory, in ns a packet: `headrace bench kernels`, or pytest on this file.

    up         decap, order, link, admit        of datagrams that lie in a receive buffer
    down       route, encap                     of packets that lie in an arena
    cut        route, encap with cut            a segment of a super-packet
    coalesce   what deliver does before it writes
    keepalive  a session's part of the wheel in one keepalive time: asked once, looked at twice

Sessions: `10` are ten whose records stay in the cache; `10 cold` ten others in each 64 packets, all of whose records were
flushed from every cache; `60000` all of them in random order, one packet each, `60000 cold` the same flushed.
"""
from __future__ import annotations

import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any

import pytest

# By their full names: pytest runs this file outside of its package.
from headrace.bench._kernels import Stages, Trace
from headrace.bench.lab import LabError
from headrace.fastpath import table
from headrace.fastpath.packet import Kind
from rich.table import Table

Packet = tuple[bytes, int, int, bytes, int]      # octets, tunnel, session, address, segment size
SESSIONS, TUNNELS = 60_000, 60
MTU = 1400
IMIX = [64] * 7 + [570] * 4 + [MTU]
SIZES: dict[str, list[int]] = {"64": [64], "512": [512], "1400": [1400], "imix": IMIX}
BATCHES = (1, 64, 256)
SPREADS = ("10", "10 cold", "60000", "60000 cold")
ROUNDS = 7
PEER, PEER_PORT = bytes(10) + b"\xff\xff\xc0\x00\x02\x01", 1701
FAR = IPv4Address("198.51.100.1")
FIRST = IPv4Address("10.64.0.2")
FLAGS = table.ConfigFlag.CONFIG_IP | table.ConfigFlag.CONFIG_CLAMP_MSS | table.ConfigFlag.CONFIG_COPY_DSCP
TICKS = 300                     # keepalive 30 s


def mapped(address: IPv4Address) -> bytes:
    return bytes(10) + b"\xff\xff" + address.packed


def checksum(*pieces: bytes) -> int:
    data = b"".join(pieces)
    data += bytes(len(data) & 1)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(size: int, source: IPv4Address, destination: IPv4Address, *, ident: int = 1, sequence: int = 0, port: int = 5001,
        summed: bool = False) -> bytes:
    """An ACK with payload, `size` octets in all. The stages but for coalesce look at no transport checksum."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, ident & 0xFFFF, 0x4000, 64, 6, 0, source.packed, destination.packed)
    head = struct.pack("!HHIIBBHHH", port, 80, sequence & 0xFFFFFFFF, 1, 0x50, 0x10, 5000, 0, 0)
    payload = bytes(size - 40)
    if summed:
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        pseudo = source.packed + destination.packed + struct.pack("!HH", 6, size - 20)
        head = head[:16] + struct.pack("!H", checksum(pseudo, head, payload)) + head[18:]
    return ip + head + payload


class World:
    """60,000 sessions in 60 tunnels, in a table and a worker of our own; installed as control installs them."""

    def __init__(self, path: Path) -> None:
        table.create(path, max_sessions=SESSIONS, workers=1)
        fd = os.open(path, os.O_RDWR)
        self.tables = table.Tables(fd)
        os.close(fd)
        self.ids: list[tuple[int, int, IPv4Address]] = []
        self.slots: list[int] = []
        next_id = [1] * self.tables.banks
        for i in range(SESSIONS):
            tunnel = i % TUNNELS + 1
            bank = tunnel % self.tables.banks
            self.ids.append((tunnel, next_id[bank], FIRST + i))
            next_id[bank] += 1
        for tunnel, session, address in self.ids:
            head = struct.pack("!HHH", 2, tunnel, session)
            settings = {"template": head + b"\xff\x03\x00\x21", "ppp_at": len(head)}
            slot, _ = self.tables.publish(Kind.KIND_L2TP, tunnel, session, 0, (0, PEER, PEER_PORT, PEER, PEER_PORT), flags=0, **settings)
            self.tables.configure(slot, flags=FLAGS, mtu=MTU, mss=MTU - 40, address=mapped(address), gateway=mapped(FAR),
                                  keepalive=TICKS, our_magic=1, peer_magic=2, **settings)
            self.tables.insert(mapped(address), 128, slot)
            self.tables.set_state(slot, table.State.OPEN)
            self.slots.append(slot)
        self.stages = Stages(self.tables, (PEER, PEER_PORT))
        self.trace = cache(self._trace)

    def order(self, spread: str) -> list[int]:
        """Whose packets come, by the index of the session."""
        rng = random.Random(1)
        if spread.startswith("60000"):
            return rng.sample(range(SESSIONS), SESSIONS)
        chosen = rng.sample(range(SESSIONS), SESSIONS)
        groups = [chosen[:10]] * 256 if spread == "10" else [chosen[k:k + 10] for k in range(0, 2560, 10)]
        return [group[rng.randrange(10)] for group in groups for _ in range(64)]

    def _trace(self, direction: str, size: str, spread: str) -> Trace:
        rng = random.Random(2)
        lengths = SIZES[size] if len(SIZES[size]) == 1 else [rng.choice(IMIX) for _ in range(1201)]
        packets: list[Packet] = []
        for i, k in enumerate(self.order(spread)):
            tunnel, session, address = self.ids[k]
            n = lengths[i % len(lengths)]
            if direction == "up":
                octets = struct.pack("!HHHBBH", 2, tunnel, session, 0xFF, 3, 0x21) + tcp(n, address, FAR)
            else:
                octets = tcp(n, FAR, address)
            packets.append((octets, tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)

    def supers(self, size: int) -> Trace:
        """Super-packets toward ten sessions: as many segments as fit 64 KiB and one UDP_SEGMENT send."""
        packets: list[Packet] = []
        segments = min(44, 65000 // size)
        for k in self.order("10")[:512]:
            tunnel, session, address = self.ids[k]
            packets.append((tcp(40 + (size - 40) * segments, FAR, address), tunnel, session, mapped(address), size - 40))
        return Trace(self.tables, packets)

    def bursts(self, size: int, run: int) -> Trace:
        """TCP segments in runs of one flow."""
        packets: list[Packet] = []
        for i in range(1024 // run):
            tunnel, session, address = self.ids[i]
            for k in range(run):
                octets = tcp(size, address, FAR, ident=k, sequence=k * (size - 40), port=1024 + i, summed=True)
                packets.append((octets, tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)


world_of: list[World] = []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world_of[:] = [World(tmp_path_factory.mktemp("tables") / "tables")]
    return world_of[0]


def clock() -> float:
    """pytest-benchmark's timer: the stages' time alone."""
    return world_of[0].stages.clock()


def measure(benchmark: Any, world: World, run: Callable[[], int], packets: int, expected: int, stages: tuple[str, ...] = ()) -> None:
    """Some rounds of a pass, all of whose packets must have come out; and as many again with each stage timed by itself."""
    came = benchmark.pedantic(run, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    assert came == expected
    benchmark.extra_info["packets"] = packets
    if benchmark.disabled or not stages:
        return
    world.stages.apart = True
    world.stages.laps()
    laps = []
    for _ in range(ROUNDS):
        run()
        laps.append(world.stages.laps())
    world.stages.apart = False
    columns = zip(*laps, strict=True)
    benchmark.extra_info["stages"] = {name: round(median(spent) / packets, 2) for name, spent in zip(stages, columns, strict=False)}


timed = pytest.mark.benchmark(timer=clock)


@timed
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_up(benchmark: Any, world: World, size: str, batch: int, spread: str) -> None:
    trace = world.trace("up", size, spread)
    measure(benchmark, world, lambda: world.stages.up(trace, batch, spread.endswith("cold")), trace.count, trace.count,
            ("decap", "order", "link", "admit"))


@timed
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_down(benchmark: Any, world: World, size: str, batch: int, spread: str) -> None:
    trace = world.trace("down", size, spread)
    measure(benchmark, world, lambda: world.stages.down(trace, batch, spread.endswith("cold")), trace.count, trace.count,
            ("route", "encap"))


@timed
@pytest.mark.parametrize("size", [64, 512, 1400])
def test_cut(benchmark: Any, world: World, size: int) -> None:
    trace = world.supers(size)
    segments = trace.count * min(44, 65000 // size)
    measure(benchmark, world, lambda: world.stages.down(trace, 2), segments, segments)


@timed
@pytest.mark.parametrize("run", [1, 64])
@pytest.mark.parametrize("size", [64, 512, 1400])
def test_coalesce(benchmark: Any, world: World, size: int, run: int) -> None:
    trace = world.bursts(size, run)
    writes = trace.count // run
    if run > 1 and size == 1400:
        writes = trace.count // 64 * 2           # 64 KiB hold 47
    measure(benchmark, world, lambda: world.stages.coalesce(trace, 256), trace.count, writes)


@timed
def test_keepalive(benchmark: Any, world: World) -> None:
    """The whole keepalive time of 60,000 idle sessions, 200 a tick: each is asked once, answers, and is looked at again."""
    came = benchmark.pedantic(lambda: world.stages.turn(TICKS), setup=lambda: world.stages.arm(TICKS), rounds=ROUNDS)
    assert came == SESSIONS
    benchmark.extra_info["packets"] = SESSIONS


def summary(report: dict[str, Any]) -> list[dict[str, Any]]:
    """ns a packet of each benchmark in pytest-benchmark's report."""
    rows = []
    for one in report["benchmarks"]:
        packets, data = one["extra_info"]["packets"], one["stats"]["data"]
        samples = sorted(round(seconds * 1e9 / packets, 2) for seconds in data)
        rows.append({"benchmark": "kernels", "kernel": one["name"].partition("[")[0].removeprefix("test_"), **(one["params"] or {}),
                     "ns": median(samples), "least": samples[0], "samples": samples,
                     **({"stages": one["extra_info"]["stages"]} if "stages" in one["extra_info"] else {})})
    return rows


def report(words: str = "") -> list[dict[str, Any]]:
    """Rows of all benchmarks, or of those that pytest's -k chooses by these words."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        failed = pytest.main(["-qq", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", words, "--benchmark-enable",
                              "--benchmark-columns=min,median", f"--benchmark-json={out.name}", __file__])
        if failed:
            raise LabError(f"the kernels' benchmark failed ({failed!s}); pytest says above what it was")
        return summary(json.loads(Path(out.name).read_text()))


def tabled(rows: list[dict[str, Any]]) -> Table:
    t = Table("kernel", title="ns a packet", box=None)
    for head in ("size", "batch", "sessions", "run", "ns", "least", "stages"):
        t.add_column(head, justify="right")
    for r in rows:
        t.add_row(r["kernel"], *(str(r.get(key, "")) for key in ("size", "batch", "spread", "run")), f"{r['ns']:.1f}", f"{r['least']:.1f}",
                  "  ".join(f"{name} {ns:.1f}" for name, ns in r.get("stages", {}).items()))
    return t
