"""Cost and throughput of packets on a wire, beside the null tunnel and other forwarders: `headrace bench throughput`.

    Options -> cases -> for each group that shares sessions: headrace, null tunnel and peers, each in a lab of its own
                            for each case: runs A B C A B C ..., then the search for the loss-free rate
            -> rows: a subject's medians and its cost's ratio to that of the null tunnel in the run beside it

A protocol is a row of PROTOCOLS: headrace as its subject, and the null tunnel over the same input and output.
"""
from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.table import Table

from .headrace import Headrace, Plain
from .l2tpns import L2tpns
from .lab import Lab, LabError
from .pppoe import Pppoe, PppoeNull
from .pptp import GreNull, Pptp, PptpRaw, RawNull
from .sample import estimate
from .search import TRIALS, LossFree, loss_free
from .subject import MTU, Null, Subject
from .vpn import Openvpn, WireguardGo
from .wire import Case, Ready, Run, prepared

Make = Callable[[Lab, int], Subject]


class Protocol(NamedTuple):
    headrace: type[Headrace]
    null: type[Null]
    merged: bool = False        # super-packets of it cross the wire whole where the wire is one for that; else both wires are alike


PROTOCOLS = {"l2tp": Protocol(Headrace, Null, True), "pptp": Protocol(Pptp, GreNull), "pptp-raw": Protocol(PptpRaw, RawNull),
             "pppoe": Protocol(Pppoe, PppoeNull)}
CIPHERED = ("l2tp", "pptp", "pptp-raw")     # those whose far end does MPPE
# What may run beside the two: other forwarders; headrace without offloads; a second null tunnel, which shows the noise.
PEERS: dict[str, type[Subject]] = {"null": Null, "offload-none": Plain, "l2tpns": L2tpns, "wireguard-go": WireguardGo,
                                   "openvpn": Openvpn}
EXCESS = 1.5                # what the generator must do beyond the forwarder for its throughput to be a figure
# What a run takes beside its duration, in seconds, and what a group of cases takes until its subjects are up; measured.
BETWEEN = 0.17
START, SESSION = 2.0, 1 / 1200
SMALL = 128                 # octets up to which one session's packets are sent both as one flow and as many
FLOWS = 1024                # more than a batch has packets: none meets another of its own flow there


@dataclass
class Options:
    """What is run. `flows` empty: one a session; of one session FLOWS in turn for a mix, and for small packets one and then FLOWS."""
    protocols: list[str]
    traffic: list[str]
    sizes: list[int | str]
    directions: list[str]
    sessions: list[int]
    flows: list[int]
    wires: list[str]
    workers: list[int]
    peers: list[str]
    duration: float
    repeat: int
    rate: float = 0
    loss: float | None = None           # the threshold of the search; None: no search
    trial: float = 1
    mppe: tuple[int, ...] = (0,)        # bits

    def check(self) -> None:
        if any(self.mppe) and (deaf := [name for name in self.protocols if name not in CIPHERED]):
            raise LabError(f"encryption is measured over {', '.join(CIPHERED)}, not over {', '.join(deaf)}")
        for peer in self.peers:
            PEERS[peer].check()
        most = min(PROTOCOLS[name].headrace.mtu for name in self.protocols)
        for size in self.sizes:
            if size != "imix" and not 52 <= int(size) <= most:
                raise LabError(f"a size is imix or from 52 to {most} octets, not {size}")


DEFAULT = Options(protocols=["l2tp", "pptp", "pppoe"], traffic=["tcp", "udp"], sizes=[64, MTU, "imix"], directions=["up", "down"],
                  sessions=[1, 10000], flows=[], wires=["offload", "plain"], workers=[1], peers=[], duration=2, repeat=3)
FULL = Options(protocols=list(PROTOCOLS), traffic=["tcp", "udp"], sizes=[64, 512, MTU, "imix"], directions=["up", "down", "both"],
               sessions=[1, 100, 10000], flows=[], wires=["offload", "plain"], workers=[1, 2], peers=[], duration=5, repeat=7, loss=0.0)


def cases(o: Options) -> Iterator[Case]:
    """In the order in which they run: those that share sessions follow each other. TCP has one session. What crosses all wires alike
    has the first of them."""
    for protocol in o.protocols:
        for wire in o.wires if PROTOCOLS[protocol].merged else o.wires[:1]:
            for workers in o.workers:
                for kind in o.traffic:
                    for sessions in [1] if kind == "tcp" else o.sessions:
                        for size in [PROTOCOLS[protocol].headrace.mtu] if kind == "tcp" else o.sizes:
                            for flows in flows_of(o, kind, size, sessions):
                                for direction in o.directions:
                                    for bits in o.mppe:
                                        yield Case(protocol, kind, size, direction, wire, sessions, flows, workers, bits)


def flows_of(o: Options, kind: str, size: int | str, sessions: int) -> list[int]:
    if o.flows:
        return sorted({max(flows, sessions) for flows in o.flows})
    if sessions > 1 or kind == "tcp":
        return [sessions]
    return [FLOWS] if size == "imix" else [1, FLOWS] if int(size) <= SMALL else [1]


Group = tuple[str, str, int, str, int, int]


def groups(o: Options) -> dict[Group, list[Case]]:
    """Cases by what they share: protocol, wire, workers, traffic, sessions and encryption."""
    found: dict[Group, list[Case]] = {}
    for case in cases(o):
        found.setdefault((case.protocol, case.wire, case.workers, case.traffic, case.sessions, case.mppe), []).append(case)
    return found


def subjects(o: Options, protocol: str, sessions: int, mppe: int = 0) -> dict[str, Make]:
    """By name, in the order of the runs: headrace, the null tunnel, which encrypts nothing, and peers."""
    own = {"null": PROTOCOLS[protocol].null}
    peers = {name: own.get(name, PEERS[name]) for name in o.peers if sessions == 1 or PEERS[name].many}
    ours = PROTOCOLS[protocol].headrace
    return {"headrace": functools.partial(ours, mppe=mppe) if mppe else ours, "": PROTOCOLS[protocol].null, **peers}


def seconds(o: Options) -> float:
    """How long it will take, about."""
    total = 0.0
    for (protocol, _, _, kind, sessions, _), group in groups(o).items():
        count = len(subjects(o, protocol, sessions))
        total += count * (START + sessions * SESSION)
        total += len(group) * count * o.repeat * (BETWEEN + max(o.duration, 1 if kind == "tcp" else 0))
        if kind == "udp" and o.loss is not None:
            total += len(group) * count * TRIALS * (o.trial + BETWEEN)
    return total


def count(o: Options) -> int:
    """How many runs that will be, for who shows progress."""
    return sum(len(group) * len(subjects(o, key[0], key[4])) * o.repeat for key, group in groups(o).items())


def measure(o: Options, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Rows as they come; `say` hears of each run before it."""
    o.check()
    for (protocol, wire, workers, kind, sessions, mppe), group in groups(o).items():
        with contextlib.ExitStack() as stack:
            ready = {name: stack.enter_context(prepared(make, wire, kind, sessions, workers))
                     for name, make in subjects(o, protocol, sessions, mppe).items()}
            for case in group:
                yield from interleaved(o, case, ready, say)


def interleaved(o: Options, case: Case, ready: dict[str, Ready], say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    samples: dict[str, list[Run]] = {name: [] for name in ready}
    able = ready["headrace"].alone(case)
    for i in range(o.repeat):
        for name, one in ready.items():
            say(f"{name or 'null tunnel'}: {case} {i + 1}/{o.repeat}")
            samples[name].append(one.run(case, o.duration, o.rate))
    found: dict[str, LossFree] = {}
    if o.loss is not None and case.traffic == "udp":
        for name, one in ready.items():
            say(f"{name or 'null tunnel'}: {case}, loss-free")
            most = statistics.median(run.pps for run in samples[name])
            found[name] = loss_free(lambda rate, one=one: one.run(case, o.trial, rate / len(case.ways)), most, o.loss)  # type: ignore[misc]
    if case.mppe:
        say(f"headrace: {case}, stages timed")
    cipher = ready["headrace"].ciphered(case, o.duration, o.rate) if case.mppe else 0.0
    for name in ready:
        if name:
            row = result(name, case, samples, able)
            if cipher and name == "headrace":
                row |= {"cipher_ns": cipher * row["cost_ns"], "cipher_share": cipher}
            if name in found:
                row["loss_free"], row["null_loss_free"] = found[name]._asdict(), found[""]._asdict()
            yield row


def middle(runs: list[Run], field: str) -> float | None:
    values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
    return statistics.median(values) if values else None


def result(name: str, case: Case, samples: dict[str, list[Run]], able: float | None) -> dict[str, Any]:
    """A row; `ratio` is the subject's cost to the null tunnel's in the run beside it: 1 is as cheap, 1.1 is 10 % dearer. `able`:
    packets a second that the generator can do alone."""
    mine, null = samples[name], samples[""]
    full, pps = statistics.mode(run.bottleneck for run in mine), middle(mine, "pps")
    assert pps
    row = {
        "benchmark": "throughput", "subject": name, **case._asdict(),
        "cost_ns": middle(mine, "cost_ns"), "null_cost_ns": middle(null, "cost_ns"), **ratio("ratio", mine, null),
        "gbit_s": middle(mine, "gbit_s"), "null_gbit_s": middle(null, "gbit_s"), "pps": pps, "offered_pps": middle(mine, "offered_pps"),
        "generator_pps": able, "loss": middle(mine, "loss"),
        "latency_us": {key: statistics.median(run.latency_us[key] for run in mine if run.latency_us) for key in mine[0].latency_us or {}},
        "bottleneck": full,
        # Who was slower than its source is what a throughput says; else only its cost is known.
        "claim": "throughput" if full == "forwarder" and (able is None or able >= EXCESS * pps) else "cost",
        "shares": {who: statistics.median(run.shares.get(who, 0.0) for run in mine) for who in mine[0].shares},
        "foreign_share": middle(mine, "foreign"),
        "samples": {"subject": [run._asdict() for run in mine], "null": [run._asdict() for run in null]},
    }
    if name != "headrace" and "headrace" in samples:
        row |= {"headrace_cost_ns": middle(samples["headrace"], "cost_ns"), **ratio("to_headrace", mine, samples["headrace"])}
    return row


def ratio(key: str, runs: list[Run], others: list[Run]) -> dict[str, Any]:
    e = estimate([a.cost_ns / b.cost_ns for a, b in zip(runs, others, strict=True)])
    return {key: e.median, f"{key}_interval": [e.low, e.high], "confidence": e.confidence}


def kind(row: dict[str, Any]) -> str:
    """What was sent, in a few words."""
    flows = "one flow" if row["flows"] == 1 else f"{row['flows']} flows"
    return f"{row['traffic']} {row['size']}, {flows}" + (f", {row['sessions']} sessions" if row["sessions"] > 1 else "")


def table(rows: list[dict[str, Any]]) -> Table:
    t = Table("subject", "traffic", "direction", "wire", title="ns of the forwarder's core an inner packet", box=None)
    for head in ("cost", "cipher", "null", "ratio", "Gbit/s", "kpps", "loss", "p99 us", "loss-free", "full"):
        t.add_column(head, justify="right")
    for r in rows:
        cipher = f"{r['cipher_ns']:.0f} ({r['cipher_share']:.0%})" if "cipher_ns" in r else ""
        subject = f"{r['subject']} {r['protocol']}"
        subject += (f" MPPE-{r['mppe']}" if r.get("mppe") else "") + (f" x{r['workers']}" if r["workers"] > 1 else "")
        t.add_row(subject, kind(r), r["direction"], r["wire"], f"{r['cost_ns']:.0f}", cipher, f"{r['null_cost_ns']:.0f}",
                  "{:.3f} ({:.2f}-{:.2f})".format(r["ratio"], *r["ratio_interval"]), f"{r['gbit_s']:.2f}", f"{r['pps'] / 1e3:.0f}",
                  "" if r["loss"] is None else f"{r['loss']:.1%}", f"{r['latency_us']['p99']:.0f}" if r["latency_us"] else "",
                  f"{r['loss_free']['pps'] / 1e3:.0f}" if "loss_free" in r else "", r["bottleneck"])
    return t
