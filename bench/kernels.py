"""What the stages cost in memory, in ns a packet: `headrace bench kernels`, or pytest on this file.

    up         decap, order, link, admit        of datagrams that lie in a receive buffer
    down       route, encap                     of packets that lie in an arena
    cut        route, encap with cut            a segment of a super-packet
    coalesce   what deliver does before it writes, of runs of one flow; turns: of flows in turn
    join       a fragment of 1,000 bundles of two links: one that is whole, or half a packet, with its copy
    split      encap of packets toward 1,000 bundles of two links: a fragment, headers and all
    keepalive  a session's part of the wheel in one keepalive time: asked once, looked at twice

Sessions: `10` are ten whose records stay in the cache; `10 cold` ten others in each 64 packets, all of whose records were
flushed from every cache; `60000` all of them in random order, one packet each, `60000 cold` the same flushed.
"""
from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

# By their full names: pytest runs this file outside of its package.
from headrace.bench.lab import LabError
from headrace.bench.world import SESSIONS, SIZES, TICKS, World
from rich.table import Table

BATCHES = (1, 64, 256)
SPREADS = ("10", "10 cold", "60000", "60000 cold")
ROUNDS = 15
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
    each = {name: sorted(round(ns / packets, 2) for ns in spent) for name, spent in zip(stages, columns, strict=False)}
    benchmark.extra_info["stages"] = {name: median(samples) for name, samples in each.items()}
    benchmark.extra_info["stage_samples"] = each


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
@pytest.mark.parametrize("flows", [16, 64])
def test_turns(benchmark: Any, world: World, flows: int) -> None:
    """Flows in turn, of 64 octets: what is merged is found behind others."""
    trace = world.turns(64, flows)
    measure(benchmark, world, lambda: world.stages.coalesce(trace, 256), trace.count, trace.count // 256 * (flows + 1))


@timed
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("size", [64, 512, 1400])
def test_join(benchmark: Any, world: World, size: int, pieces: int) -> None:
    trace = world.fragments(size, pieces)
    measure(benchmark, world, lambda: world.stages.join(trace, 64), trace.count, trace.count // pieces)


@timed
@pytest.mark.parametrize("size, pieces", [(64, 1), (512, 1), (1390, 1), (1500, 2)])
def test_split(benchmark: Any, world: World, size: int, pieces: int) -> None:
    trace = world.for_bundles(size)
    measure(benchmark, world, lambda: world.stages.split(trace, 64), trace.count * pieces, trace.count * pieces)


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
                     **{key: one["extra_info"][key] for key in ("stages", "stage_samples") if key in one["extra_info"]}})
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
