"""A look at the stage timers of a forwarder that runs: what each stage cost over a span of time.

    tables file -> Header.profile_until, a little ahead of now and renewed -> workers' timers, before and after -> Report

It writes nothing else, and needs nobody's help: the forwarder may be the lab's or one that serves. Whoever looks may be killed at
any time; the timers then end a few seconds later.
"""
from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..fastpath.packet import Verdict
from ..fastpath.stage import Stage
from ..fastpath.table import Tables
from . import counters
from .budget import BUDGETS

LEASE_NS = 3_000_000_000
RENEW = 1.0                     # seconds
NAMES = [s.name.removeprefix("STAGE_").lower() for s in Stage if s is not Stage.STAGE_COUNT]
UP = ("receive", "decap", "link", "order", "join", "decrypt", "admit", "deliver")
DOWN = ("collect", "route", "police", "cut", "encrypt", "split", "encap", "transmit")
IDLE = "sleep"
CALLS = ("receives", "writes", "reads", "sends", "super_in", "super_out", "gso_sends")
Row = dict[str, Any]


def open_tables(path: Path) -> Tables:
    """OSError, or table.LayoutError: it is of another version."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return Tables(fd)
    finally:
        os.close(fd)


class Look(NamedTuple):
    """All that is read at one time."""
    at: int                     # monotonic ns
    stages: dict[str, np.ndarray[Any, Any]]     # column -> worker, stage
    workers: dict[str, int]     # column of the workers' records, over all of them
    up: int                     # inner packets
    down: int
    times: counters.Times
    counted: dict[str, int]     # by the processor


@contextlib.contextmanager
def timing(tables: Tables) -> Iterator[None]:
    """Stages are timed inside, and no longer behind, however it is left."""
    done = threading.Event()

    def renew() -> None:
        while True:
            tables.profile(time.monotonic_ns() + LEASE_NS)
            if done.wait(RENEW):
                return
    renewer = threading.Thread(target=renew, name="lease", daemon=True)
    try:
        renewer.start()
        yield
    finally:
        done.set()
        renewer.join()
        tables.profile(0)


class Looker:
    """Looks at the workers of one forwarder."""

    def __init__(self, tables: Tables, pid: int) -> None:
        self.tables, self.tids = tables, counters.threads(pid)
        self.counters = counters.Counters(self.tids)

    def look(self) -> Look:
        stages, records = self.tables.stage_records(), self.tables.worker_records()
        verdicts = records["verdicts"].sum(axis=0)
        return Look(time.monotonic_ns(), {c: stages[c].copy() for c in stages.dtype.names or ()},
                    {c: int(records[c].sum()) for c in CALLS}, int(verdicts[Verdict.UP]), int(verdicts[Verdict.DOWN]),
                    counters.times(self.tids), self.counters.read())

    def report(self, seconds: float) -> Row:
        """What stages cost in the next so many seconds; they are being timed."""
        before = self.look()
        time.sleep(seconds)
        return compare(before, self.look(), self.counters.missing)

    def cost(self, seconds: float) -> tuple[int, int]:
        """(run time in ns, inner packets) in the next so many seconds."""
        before = self.look()
        time.sleep(seconds)
        after = self.look()
        return after.times.run - before.times.run, after.up + after.down - before.up - before.down

    def close(self) -> None:
        self.counters.close()


def each(amount: float, number: float) -> float:
    return amount / number if number else 0.0


def compare(a: Look, b: Look, missing: str = "") -> Row:
    """The report: rows of stages that did something, and what they make together.

    A stage's `ns` is the time that passed in it, whoever had the core; `kernel_ns` the part in system calls. All figures below these
    are of the time that the workers ran. `ns_a_packet` divides by inner packets of the stage's direction, so that a column adds up to
    a packet's cost; `user_ns_each` by what the stage itself calls a packet (a read of hr0, a datagram), which is what its budget is
    about; to `encap` a segment that it cut is one.
    """
    elapsed = b.at - a.at
    packets = {"up": b.up - a.up, "down": b.down - a.down}
    total = packets["up"] + packets["down"]
    delta = {c: (b.stages[c] - a.stages[c]).sum(axis=0) for c in a.stages}
    columns = {c: {name: int(delta[c][i]) for i, name in enumerate(NAMES)} for c in delta}
    workers = [int(row.sum() - row[NAMES.index(IDLE)]) for row in b.stages["ns"] - a.stages["ns"]]
    awake = sum(workers)
    run, waited, user, system = (y - x for x, y in zip(a.times, b.times, strict=True))
    # Whoever else had the core meanwhile is not ours to pay: a stage's share of the time that passed is its share of the run time.
    scale = min(each(run, awake), 1.0)
    rows = []
    for name in NAMES:
        ns, kernel = columns["ns"][name], columns["kernel_ns"][name]
        items, batches = columns["packets"][name], columns["batches"][name]
        if name == IDLE or not ns:
            continue
        moved = packets["up"] if name in UP else packets["down"] if name in DOWN else total
        budget = BUDGETS.get(name)
        rows.append({
            "stage": name, "direction": "up" if name in UP else "down" if name in DOWN else "both",
            "ns": ns, "kernel_ns": kernel, "packets": items, "batches": batches, "share": each(ns, awake),
            "ns_a_packet": each(ns * scale, moved), "user_ns_a_packet": each((ns - kernel) * scale, moved),
            "kernel_ns_a_packet": each(kernel * scale, moved),
            "ns_a_batch": each(ns * scale, batches), "packets_a_batch": each(items, batches),
            "user_ns_each": each((ns - kernel) * scale, max(items, moved) if name == "encap" else items),
            "budget": {"ns": budget.ns, "unit": budget.unit, "text": budget.text} if budget else None})
    counted = {c: b.counted[c] - a.counted[c] for c in a.counted}
    kernel = int(sum(columns["kernel_ns"][name] for name in NAMES if name != IDLE))
    return {
        "seconds": elapsed / 1e9, "packets_up": packets["up"], "packets_down": packets["down"], "pps": each(total, elapsed / 1e9),
        "ns_a_packet": each(awake * scale, total), "user_ns_a_packet": each((awake - kernel) * scale, total),
        "kernel_ns_a_packet": each(kernel * scale, total),
        "kernel_share": each(kernel, awake), "run_ns_a_packet": each(run, total),
        "sampled_kernel_share": each(system, user + system), "awake_share": each(awake, elapsed * len(workers)),
        "run_share": each(run, elapsed * len(workers)),
        "waited_share": each(waited, waited + run), "awake": [each(ns, elapsed) for ns in workers],
        "calls": {c: b.workers[c] - a.workers[c] for c in CALLS},
        "counted": {f"{c.replace('-', '_')}_a_packet": each(n, total) for c, n in counted.items()}, "not_counted": missing,
        "stages": rows}
