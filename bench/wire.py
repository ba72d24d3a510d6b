"""Cost of an inner packet on a wire, against the null tunnel: `python -m headrace.bench.wire`.

    for each wire and kind of traffic: subject and baseline, each in a lab of its own (lab.py, subject.py, headrace.py)
        for each case: runs A B A B ..., and of each run
            cost    run time of every thread on the forwarder's core, by inner data packet (design.md 8)
            beside  Gbit/s, packets a second, loss, and which core was full

Two kinds of traffic: `tcp` is one stream of iperf3 at the inner MTU; `small` is our generator's UDP, coalescible (runs
of one flow) or not (each packet of another flow than the one before). The forwarder has core 0; its peer, iperf3,
generator and sink share core 1, which is full first: then Gbit/s is a floor, and cost is the figure.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Rows
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .generator import Generator
from .headrace import Headrace, Plain
from .lab import OTHERS, WIRES, Lab, LabError, Meter, Usage, interruptible
from .port import merge, open_packet
from .record import write
from .sample import estimate
from .sink import Sink
from .subject import INSIDE, MTU, Far, Null, Packets, Subject

SINK_PORT = 9
SMALL, FLOWS = 64, 64
DIRECTIONS = ("up", "down")
TRAFFIC = ("tcp", "small")
SUBJECTS: dict[str, Callable[[Lab], Subject]] = {"null": Null, "headrace": Headrace, "headrace-none": Plain}


class Case(NamedTuple):
    """A row of the table."""
    traffic: str
    direction: str
    wire: str
    size: int
    sessions: int = 1
    flows: int = 1
    coalescible: bool = True


class Run(NamedTuple):
    """One measurement."""
    cost_ns: float
    packets: int
    gbit_s: float
    pps: float
    loss: float | None
    forwarder: float        # share of its core
    others: float
    foreign: float          # share of the forwarder's core that went elsewhere
    bottleneck: str


def cases(traffic: Iterable[str], directions: Iterable[str], wires: Iterable[str]) -> Iterator[Case]:
    for wire in wires:
        for kind in traffic:
            for direction in directions:
                if kind == "tcp":
                    yield Case(kind, direction, wire, MTU)
                else:
                    yield Case(kind, direction, wire, SMALL)
                    yield Case(kind, direction, wire, SMALL, flows=FLOWS, coalescible=False)


def summary(usage: Usage, packets: int, bits: float, seconds: float, loss: float | None) -> Run:
    if packets <= 0:
        raise LabError("the forwarder moved no packets")
    return Run(usage.cost / packets, packets, bits / seconds / 1e9, packets / seconds, loss,
               usage.cost / usage.elapsed, usage.share(OTHERS), usage.foreign(), usage.bottleneck())


def tcp(subject: Subject, case: Case, seconds: float) -> Run:
    """One stream of iperf3 from the peer to the host, or with -R the other way."""
    server = subject.lab.host.spawn(["iperf3", "-s", "-1", "--forceflush"], OTHERS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdout
    while (line := server.stdout.readline()) and "listening" not in line:
        pass
    if not line:
        raise LabError("iperf3 does not listen: is it installed?")
    meter = Meter(subject.pids())
    before = subject.packets()
    meter.start()
    # iperf3 knows whole seconds only, and takes 0 for ever
    out = subject.lab.peer.run("iperf3", "-c", INSIDE, "-J", "-t", str(math.ceil(seconds)), *(["-R"] if case.direction == "down" else []))
    usage, after = meter.stop(), subject.packets()
    server.communicate()
    subject.lab.host.processes.remove(server)
    received = json.loads(out)["end"]["sum_received"]
    moved = getattr(after, case.direction) - getattr(before, case.direction)
    return summary(usage, moved, received["bytes"] * 8, received["seconds"], None)


@contextlib.contextmanager
def traffic(subject: Subject, far: Far, case: Case, rate: float = 0) -> Iterator[tuple[Generator, Sink]]:
    """A generator and the sink that its packets reach through the forwarder."""
    streams = case.sessions * case.flows
    host = subject.lab.host
    if case.direction == "up":
        with host.entered():
            inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inner:
            inner.bind((INSIDE, SINK_PORT))
            merge(inner)
            yield (Generator(far.wire.fileno(), far.framing, far.sessions, INSIDE, peer=far.host, flows=case.flows, size=case.size,
                             coalescible=case.coalescible, rate=rate, port=SINK_PORT),
                   Sink(inner.fileno(), "bare", streams))
    else:
        with host.entered():
            into, address = open_packet(far.interface, far.whole)
        with into:
            yield (Generator(into.fileno(), "bare", far.sessions, INSIDE, peer=address, flows=case.flows, size=case.size,
                             coalescible=case.coalescible, rate=rate, port=SINK_PORT),
                   Sink(far.wire.fileno(), far.framing, streams))


def small(subject: Subject, far: Far, case: Case, seconds: float, rate: float = 0) -> Run:
    """Our generator for so long; what is under way when it ends is still counted."""
    with traffic(subject, far, case, rate) as (generator, sink):
        sinking = threading.Thread(target=sink.run)
        sending = threading.Thread(target=generator.run, args=(seconds,))
        meter = Meter(subject.pids())
        before = subject.packets()
        meter.start()
        sinking.start()
        sending.start()
        try:
            sending.join()
        finally:
            generator.stop()
            sending.join()
            after = settled(subject)
            sink.stop()
            sinking.join()
        usage = meter.stop()
    moved = getattr(after, case.direction) - getattr(before, case.direction)
    return summary(usage, moved, sink.received * case.size * 8, usage.elapsed / 1e9, 1 - sink.received / generator.sent)


def settled(subject: Subject) -> Packets:
    """Its packets when it has done what was queued; whoever keeps sending to it is not waited for."""
    last = subject.packets()
    for _ in range(50):
        time.sleep(0.01)
        now = subject.packets()
        if now == last:
            break
        last = now
    return last


@contextlib.contextmanager
def prepared(make: Callable[[Lab], Subject], wire: str, kind: str, sessions: int) -> Iterator[Callable[[Case, float], Run]]:
    """A subject in a lab of its own that is ready for one kind of traffic."""
    with Lab(wire) as lab, contextlib.ExitStack() as stack:
        subject = make(lab)
        stack.callback(subject.stop)
        subject.start()
        far: Far | None = None
        if kind == "tcp":
            subject.dial()
        else:
            far = subject.attach(sessions)

        def run(case: Case, seconds: float) -> Run:
            subject.attend()
            return small(subject, far, case, seconds) if far else tcp(subject, case, seconds)
        yield run


def compare(rows: Iterable[Case], name: str, other: str, pairs: int, seconds: float,
            say: Callable[[str], None]) -> Rows[dict[str, Any], None, None]:
    """Each case in interleaved runs of the subject and its baseline."""
    kinds: dict[tuple[str, str, int], list[Case]] = {}
    for case in rows:
        kinds.setdefault((case.wire, case.traffic, case.sessions), []).append(case)
    for (wire, kind, sessions), group in kinds.items():
        with prepared(SUBJECTS[name], wire, kind, sessions) as a, prepared(SUBJECTS[other], wire, kind, sessions) as b:
            for case in group:
                samples: tuple[list[Run], list[Run]] = ([], [])
                for i in range(pairs):
                    say(f"{name} {case.traffic} {case.direction} {case.wire} {'' if case.coalescible else 'not coalescible '}"
                        f"{i + 1}/{pairs}")
                    samples[0].append(a(case, seconds))
                    samples[1].append(b(case, seconds))
                yield result(name, other, case, *samples)


def result(name: str, other: str, case: Case, subject: list[Run], baseline: list[Run]) -> dict[str, Any]:
    """A row; `ratio` is the subject's cost to its baseline's in the run beside it: 1 is as cheap, 1.1 is 10 % dearer."""
    def middle(runs: list[Run], field: str) -> float | None:
        values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
        return statistics.median(values) if values else None
    ratio = estimate([a.cost_ns / b.cost_ns for a, b in zip(subject, baseline, strict=True)])
    return {
        "subject": name, "baseline": other, **case._asdict(),
        "cost_ns": middle(subject, "cost_ns"), "baseline_cost_ns": middle(baseline, "cost_ns"),
        "ratio": ratio.median, "ratio_interval": [ratio.low, ratio.high], "confidence": ratio.confidence,
        "gbit_s": middle(subject, "gbit_s"), "baseline_gbit_s": middle(baseline, "gbit_s"), "pps": middle(subject, "pps"),
        "loss": middle(subject, "loss"), "forwarder_share": middle(subject, "forwarder"), "others_share": middle(subject, "others"),
        "foreign_share": middle(subject, "foreign"),
        "bottleneck": statistics.mode(run.bottleneck for run in subject),
        "samples": {"subject": [run._asdict() for run in subject], "baseline": [run._asdict() for run in baseline]},
    }


def table(results: list[dict[str, Any]]) -> Table:
    t = Table("subject", "traffic", "direction", "wire", title="ns of the forwarder's core an inner packet", box=None)
    for head in ("cost", "baseline", "ratio", "interval", "Gbit/s", "kpps", "loss", "core 0", "core 1", "full"):
        t.add_column(head, justify="right")
    for r in results:
        kind = f"{r['traffic']} {r['size']}" + ("" if r["traffic"] == "tcp" else " runs" if r["coalescible"] else " mixed")
        t.add_row(r["subject"], kind, r["direction"], r["wire"], f"{r['cost_ns']:.0f}", f"{r['baseline_cost_ns']:.0f}", f"{r['ratio']:.3f}",
                  "{:.2f}-{:.2f}".format(*r["ratio_interval"]), f"{r['gbit_s']:.2f}", f"{r['pps'] / 1e3:.0f}",
                  "" if r["loss"] is None else f"{r['loss']:.1%}", f"{r['forwarder_share']:.0%}", f"{r['others_share']:.0%}",
                  r["bottleneck"])
    return t


def pin() -> None:
    """This process, and with it generator and sink, off the forwarder's core."""
    try:
        os.sched_setaffinity(0, {OTHERS})
    except OSError:
        raise LabError("the bench needs two cores: one for the forwarder, one for everything else")


def some(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """An argument that is a list of these, with commas between."""
    allowed = tuple(choices)

    def parse(text: str) -> list[str]:
        given = text.split(",")
        if not set(given) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text}: any of {','.join(allowed)}")
        return given
    return parse


def main() -> int:
    p = argparse.ArgumentParser(prog="headrace.bench.wire", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subject", choices=SUBJECTS, default="null", help="what to measure; null against itself shows the noise")
    p.add_argument("--baseline", choices=SUBJECTS, default="null", help="what to divide by; headrace, to see what its offloads save")
    p.add_argument("--traffic", type=some(TRAFFIC), default=list(TRAFFIC), help="tcp,small")
    p.add_argument("--direction", type=some(DIRECTIONS), default=list(DIRECTIONS), help="up,down")
    p.add_argument("--wire", type=some(WIRES), default=list(WIRES), help="offload,plain")
    p.add_argument("--pairs", type=int, default=7, help="runs of each")
    p.add_argument("--seconds", type=float, default=2, help="of a run; of tcp, rounded up to whole ones")
    p.add_argument("--json", type=Path, help="where the results go")
    a = p.parse_args()
    if a.json:
        a.json.parent.mkdir(parents=True, exist_ok=True)        # better now than after the runs
    interruptible()
    console, progress = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    results: list[dict[str, Any]] = []
    try:
        pin()
        with progress.status("") as status, contextlib.closing(compare(
                cases(a.traffic, a.direction, a.wire), a.subject, a.baseline, a.pairs, a.seconds,
                status.update if progress.is_terminal else progress.print)) as rows:
            results.extend(rows)
    except LabError as e:
        print(f"headrace.bench.wire: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    console.print(table(results))
    disturbed = max(r["foreign_share"] for r in results)
    if disturbed > 0.05:
        print(f"the forwarder's core was not the bench's alone: up to {disturbed:.0%} of it went to other processes", file=sys.stderr)
    if a.json:
        given = [name if Path(name) != a.json else a.json.name for name in sys.argv[1:]]     # where it lies is no result
        write(a.json, ["python", "-m", "headrace.bench.wire", *given], results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
