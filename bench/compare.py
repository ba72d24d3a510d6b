"""What got better or worse between two files of results, beyond their noise: `headrace bench compare A.json B.json`.

    rows of A, of B -> those that measured the same -> figures -> medians and intervals of each -> changes

A figure has changed when the intervals of its two medians (sample.py) do not meet. Fewer than three samples have no interval.
Of packets on a wire the ratio to the null tunnel is compared, which another machine or a busy one moves least.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from .lab import LabError
from .sample import Estimate, estimate

Row = dict[str, Any]
# What says which measurement a row is; a row has those of its benchmark.
IDENTITY = ("benchmark", "subject", "protocol", "traffic", "kernel", "size", "direction", "wire", "sessions", "flows", "workers",
            "tunnels", "auth", "family", "rate", "window", "keepalive", "batch", "spread", "run", "mppe")
COUNTS = ("mppe", "sessions", "flows", "workers", "tunnels", "batch", "run", "rate", "window")
FEWEST = 3                      # samples


class Figure(NamedTuple):
    samples: list[float]
    lower: bool = True          # is better


class Change(NamedTuple):
    """`by` is B's median relative to A's: 0.1 is 10 % more. `worse` is None where that cannot be told from noise."""
    what: str
    a: Estimate
    b: Estimate
    by: float
    worse: bool | None


def figures(row: Row) -> dict[str, Figure]:
    """What of a row is compared, by name."""
    samples = row.get("samples", [])
    if row["benchmark"] == "throughput":
        pairs = zip(samples["subject"], samples["null"], strict=True) if "null" in samples else []
        return {"cost to the null tunnel's": Figure([a["cost_ns"] / b["cost_ns"] for a, b in pairs])}
    if row["benchmark"] == "setup":
        return {"CPU ms a session": Figure([run["cpu_ms"] for run in samples if run["cpu_ms"]]),
                "sessions a second": Figure([run["per_second"] for run in samples], lower=False)}
    if row["benchmark"] == "kernels":
        return {"ns": Figure(samples)} | {f"ns of {stage}": Figure(each) for stage, each in row.get("stage_samples", {}).items()}
    if row["benchmark"] == "mppe":
        return {"ns": Figure(samples["ours"])}
    return {}


def rows(path: Path) -> dict[tuple[Any, ...], Row]:
    """By what they measured."""
    try:
        found = json.loads(path.read_text())["results"]
        return {tuple(row.get(key) or None if key == "mppe" else row.get(key) for key in IDENTITY): row for row in found}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} holds no results of a benchmark: {error}")


def named(key: tuple[Any, ...]) -> str:
    return " ".join(f"{name} {value}" if name in COUNTS else str(value)
                    for name, value in zip(IDENTITY, key, strict=True) if value is not None)


def changes(a: dict[tuple[Any, ...], Row], b: dict[tuple[Any, ...], Row]) -> Iterator[Change]:
    for key in a.keys() & b.keys():
        before, after = figures(a[key]), figures(b[key])
        for name in before.keys() & after.keys():
            if before[name].samples and after[name].samples:
                yield change(f"{named(key)}: {name}", before[name], after[name])


def change(what: str, before: Figure, after: Figure) -> Change:
    a, b = estimate(before.samples), estimate(after.samples)
    by = b.median / a.median - 1 if a.median else 0.0
    apart = min(len(before.samples), len(after.samples)) >= FEWEST and (b.low > a.high or b.high < a.low)
    return Change(what, a, b, by, (by > 0) == before.lower if apart and by else None)


def table(found: list[Change]) -> Table:
    t = Table("figure", box=None)
    for head in ("before", "after", "change", ""):
        t.add_column(head, justify="right")
    for c in sorted(found, key=lambda c: (c.worse is None, not c.worse, -abs(c.by))):
        before, after = (f"{e.median:.4g} ({e.low:.4g} to {e.high:.4g})" for e in (c.a, c.b))
        t.add_row(c.what, before, after, f"{c.by:+.1%}", {True: "worse", False: "better", None: ""}[c.worse])
    return t
