"""Results drawn: `--plot FILE.svg`, and the pictures of README.md.

    throughput  cost and rate of each kind of packet, a panel for each wire and direction, a bar for each forwarder
                cost over the number of sessions, where there are several
    setup       sessions that are up over time
"""
from __future__ import annotations

from typing import Any

from .lab import LabError
from .svg import Panel, bars, lines, page

Row = dict[str, Any]
NULL = "null tunnel"


def draw(rows: list[Row]) -> str:
    """All that can be drawn of these rows, as SVG."""
    packets = [row for row in rows if row["benchmark"] == "throughput" and "null_cost_ns" in row]
    panels = by_kind(packets) + by_sessions(packets) + over_time([row for row in rows if row["benchmark"] == "setup"])
    if not panels:
        raise LabError("there is nothing to draw: plots are of throughput and of sessions that come up")
    return page(panels)


def group(row: Row) -> str:
    flows = "one flow" if row["flows"] == 1 else f"{row['flows']} flows"
    return f"{row['traffic']} {row['size']}\n{flows}" + (f"\n{row['sessions']} sessions" if row["sessions"] > 1 else "")


def spoken(row: Row) -> str:
    """The protocol, and how it is encrypted: what has a panel of its own."""
    return row["protocol"] + (f" MPPE-{row['mppe']}" if row.get("mppe") else "")


def by_kind(rows: list[Row]) -> list[Panel]:
    panels = []
    for protocol, wire, direction, workers in dict.fromkeys((spoken(r), r["wire"], r["direction"], r["workers"]) for r in rows):
        here = [r for r in rows if (spoken(r), r["wire"], r["direction"], r["workers"]) == (protocol, wire, direction, workers)]
        title = f"{protocol} {direction}, {wire} wire" + (f", {workers} workers" if workers > 1 else "")
        panels.append(bars(f"cost, {title}", "ns a packet", *grouped(here, "cost_ns", "null_cost_ns")))
        panels.append(bars(f"rate, {title}", "Gbit/s", *grouped(here, "gbit_s", "null_gbit_s")))
    return panels


def grouped(rows: list[Row], key: str, null: str) -> tuple[list[str], dict[str, list[float | None]]]:
    """What was sent, and for each forwarder a value for each of that."""
    kinds = list(dict.fromkeys(group(row) for row in rows))
    found: dict[str, dict[str, float]] = {NULL: {}}
    for row in rows:
        found[NULL].setdefault(group(row), row[null])
        found.setdefault(row["subject"], {})[group(row)] = row[key]
    return kinds, {name: [values.get(kind) for kind in kinds] for name, values in found.items()}


def by_sessions(rows: list[Row]) -> list[Panel]:
    """A line for each number of flows: what a comparison must have the same on both sides."""
    panels = []
    rows = [row for row in rows if row["traffic"] == "udp" and row["subject"] == "headrace" and row["workers"] == 1]
    for protocol, wire, direction, size in dict.fromkeys((spoken(r), r["wire"], r["direction"], r["size"]) for r in rows):
        here = [r for r in rows if (spoken(r), r["wire"], r["direction"], r["size"]) == (protocol, wire, direction, size)]
        if len({row["sessions"] for row in here}) > 1:
            series: dict[str, list[tuple[float, float]]] = {}
            for flows in dict.fromkeys(row["flows"] for row in here):
                series[f"{flows} flows"] = sorted((row["sessions"], row["cost_ns"]) for row in here if row["flows"] == flows)
            panels.append(lines(f"{protocol} {size} {direction}, {wire} wire", "ns a packet", "sessions", series, logarithmic=True))
    return panels


def over_time(rows: list[Row]) -> list[Panel]:
    panels = []
    for row in rows:
        runs = {f"run {i + 1}": [(float(x), float(y)) for x, y in run["timeline"]]
                for i, run in enumerate(row["samples"]) if run.get("timeline")}
        if runs:
            panels.append(lines(f"{row['subject']}: {row['sessions']} sessions come up, {row['auth']}", "sessions", "seconds", runs))
    return panels
