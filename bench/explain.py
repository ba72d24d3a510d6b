"""A profile in words: where a packet's time goes, and what the limit is."""
from __future__ import annotations

import time
from typing import Any

import numpy as np

from .stages import DOWN, UP

Row = dict[str, Any]
SAYS = {
    "receive": "recvmmsg from the wire", "deliver": "writes to hr0", "collect": "reads from hr0", "transmit": "sendmmsg to the wire",
    "loop": "epoll", "punt": "the channel to control"}
CALLS = {"receive": "receives", "deliver": "writes", "collect": "reads", "transmit": "sends"}
SUMS = {"deliver": "the checksum that must be right before segments are merged", "encap": "the checksum of each segment that is cut"}
LOOKUPS = {"decap": "headers that the kernel wrote and session records", "route": "headers, the index of addresses and session records"}
SMALL = 200             # octets below which neither a copy nor a sum matters
BUSY, IDLE = 0.9, 0.5


def copy_ns(octets: int) -> float:
    """What copying so many octets costs here, from and to the cache; the least of some rounds."""
    octets = max(octets, 1)
    count = max(1, 65536 // octets)
    source, target = np.ones(count * octets, np.uint8), np.empty(count * octets, np.uint8)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter_ns()
        np.copyto(target, source)
        best = min(best, time.perf_counter_ns() - start)
    return best / count


def explain(report: Row, octets: int = 0) -> list[str]:
    """Sentences, the most important first; `octets` of an inner packet, 0 where that is not known."""
    total = report["packets_up"] + report["packets_down"]
    if not total:
        return ["No packet was moved: there is nothing to explain."]
    kernel = report["kernel_share"]
    words = [f"A packet costs {report['ns_a_packet']:.0f} ns: {kernel:.0%} of it in system calls, "
             f"{report['user_ns_a_packet']:.0f} ns in the forwarder's own code."]
    stages = {row["stage"]: row for row in report["stages"]}
    words.append(limit(report, stages))
    words += [system_calls(row, report) for row in largest(stages, "kernel_ns")
              if row["stage"] in CALLS and row["kernel_ns"] and row["share"] > 0.05]
    if octets > SMALL:
        words += copies(stages, octets)
    words += [sums(row, octets) for name, row in stages.items() if name in SUMS and octets > SMALL and row["share"] > 0.02]
    words += [misses(row) for name, row in stages.items() if name in LOOKUPS and row["packets"] and over(row, report)]
    words += [f"{row['stage']} is over its budget: {row['user_ns_each']:.1f} ns where it may take {row['budget']['ns']:g} "
              f"({row['budget']['text']})." for row in stages.values()
              if row["budget"] and row["packets"] and over(row, report) and row["stage"] not in LOOKUPS | SUMS]
    if report["waited_share"] > 0.05:
        words.append(f"Others used the workers' cores: {report['waited_share']:.0%} of the time that they could have run they waited for "
                     "one. The figures are of the time that they did run, but with caches that others had used.")
    return words


def over(row: Row, report: Row) -> bool:
    """Dearer than its docstring allows, and not by the clock's own readings: a batch has one, and around a system call half of
    either of two is outside."""
    readings = row["batches"] + report["calls"].get(CALLS.get(row["stage"], ""), 0)
    return bool(row["user_ns_each"] > row["budget"]["ns"] + 20 * readings / max(row["packets"], 1))


def largest(stages: dict[str, Row], column: str) -> list[Row]:
    return sorted(stages.values(), key=lambda row: -row[column])


def limit(report: Row, stages: dict[str, Row]) -> str:
    """Who is full."""
    busiest = max(report["awake"])
    top = largest(stages, "ns")[0]
    if busiest < IDLE:
        return f"The forwarder is not the limit: its busiest worker was awake {busiest:.0%} of the time, and waited for packets."
    where = f"{top['stage']} takes most of it, {top['share']:.0%}"
    part = "in the kernel" if top["kernel_ns"] > top["ns"] / 2 else "in our code"
    if busiest < BUSY:
        return f"The busiest worker was awake {busiest:.0%} of the time, so something else was the limit for a part of it; {where}, {part}."
    return f"The forwarder is the limit: a worker was awake {busiest:.0%} of the time; {where}, {part}."


def system_calls(row: Row, report: Row) -> str:
    name = row["stage"]
    calls = report["calls"][CALLS[name]]
    moved = report["packets_up"] if name in UP else report["packets_down"]
    a_call = moved / calls if calls else 0.0
    text = (f"system calls: in {name}, {SAYS[name]} take {row['kernel_ns_a_packet']:.0f} ns a packet, "
            f"{row['kernel_ns_a_packet'] * a_call:.0f} ns a call of {a_call:.1f} packets")
    if a_call < 2 and name in ("deliver", "collect"):
        return text + ": a system call for each packet is the limit here, because nothing can be merged."
    return text + "."


def copies(stages: dict[str, Row], octets: int) -> list[str]:
    """How much of the kernel's part is the copying of the packet, which it does once between a port and us; into a ring it has copied
    before we look."""
    once, words = copy_ns(octets), []
    for direction in (UP, DOWN):
        mine = [stages[name] for name in direction if name in CALLS and name in stages and stages[name]["kernel_ns"]]
        spent = sum(row["kernel_ns_a_packet"] for row in mine)
        if spent:
            share = min(len(mine) * once / spent, 1)
            words.append(f"memcpy: the kernel copies a packet's {octets} octets in {' and in '.join(row['stage'] for row in mine)}; a "
                         f"copy from cache to cache takes {once:.0f} ns here, so {share:.0%} of the {spent:.0f} ns in these system calls "
                         "is copying, and the rest the kernel's way through its stack.")
    return words


def sums(row: Row, octets: int) -> str:
    each = row["user_ns_a_packet"]
    return f"checksum: {row['stage']} spends {each:.1f} ns a packet in our code, nearly all of it {SUMS[row['stage']]} ({octets} octets)."


def misses(row: Row) -> str:
    return (f"lookup misses: {row['stage']}, the first to look at {LOOKUPS[row['stage']]}, takes {row['user_ns_each']:.1f} ns where "
            f"{row['budget']['ns']:g} are enough while they are in the cache: they came from memory.")
