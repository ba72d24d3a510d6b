"""What each packet costs, stage by stage: `headrace profile`.

    a lab of its own      lab.py, headrace.py; our generator and sink  \\
    --live: one that serves, by its tables file and its pids           -> stages.py -> table, words, JSON, flame graph

The stages' timers stamp once a batch and are on only while somebody looks. In a lab the cost without them is measured first, so that
what they add can be seen.
"""
from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import sys
import threading
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..control import config as configuration
from ..control.config import ConfigError
from ..fastpath.table import LayoutError
from . import flame, record
from .command import BITS, sentences, sizes, some, split
from .explain import explain
from .headrace import Headrace
from .lab import WIRES, LabError
from .stages import Looker, each, open_tables, timing
from .throughput import CIPHERED, PROTOCOLS
from .wire import Case, Way, pin, prepared, traffic

app = typer.Typer(help="What each packet costs, stage by stage; as root.", add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
DIRECTIONS = ("up", "down")
SMALLEST = 64
LEAD = 0.3              # seconds of traffic before anything is measured
Row = dict[str, Any]


def measure(looker: Looker, seconds: float, pid: int, perf: bool) -> tuple[Row, flame.Stacks | None]:
    """The report of a forwarder in so many seconds, and what perf sampled in them."""
    sampler = flame.Perf(pid, seconds) if perf else None
    try:
        with timing(looker.tables):
            report = looker.report(seconds)
        return report, sampler.stacks() if sampler else None
    finally:
        if sampler:
            sampler.close()


@contextlib.contextmanager
def flowing(way: Way) -> Iterator[None]:
    """Packets flow inside."""
    sinking, sending = threading.Thread(target=way.sink.run), threading.Thread(target=way.generator.run, args=(3600,))
    sinking.start()
    sending.start()
    try:
        yield
    finally:
        way.generator.stop()
        sending.join()
        way.sink.stop()
        sinking.join()


def lab(cases: list[Case], seconds: float, perf: bool) -> Iterator[tuple[Row, flame.Stacks | None]]:
    """A concentrator in a lab, and each case, one way and of the same sessions, profiled in it."""
    pin()
    first = cases[0]
    ours = PROTOCOLS[first.protocol].headrace
    make = functools.partial(ours, mppe=first.mppe) if first.mppe else ours
    with prepared(make, first.wire, "udp", first.sessions) as ready, contextlib.ExitStack() as stack:
        subject = ready.subject
        assert isinstance(subject, Headrace) and ready.far
        pid = subject.roles()["forwarder"][0]
        looker = stack.enter_context(contextlib.closing(subject.looker()))
        for case in cases:
            print(f"{case}: {seconds:g} s without timers, {seconds:g} s with them", file=sys.stderr)
            subject.attend()
            with traffic(subject, ready.far, case) as way, flowing(way):
                threading.Event().wait(LEAD)
                run, packets = looker.cost(seconds)
                report, stacks = measure(looker, seconds, pid, perf)
            yield {**case._asdict(), "untimed_run_ns_a_packet": each(run, packets),
                   "explained": explain(report, round(statistics.mean(case.sizes))), **report}, stacks


def look(run_dir: Path, seconds: float, perf: bool) -> tuple[Row, flame.Stacks | None]:
    """The concentrator of that run directory, as it is."""
    try:
        pid = int(json.loads((run_dir / "pids").read_text())["forwarder"])
        looker = Looker(open_tables(run_dir / "tables"), pid)
    except FileNotFoundError:
        raise LabError(f"no concentrator runs with {run_dir} as its run directory")
    except PermissionError:
        raise LabError(f"the tables file in {run_dir} is root's")
    except (LayoutError, ValueError, KeyError) as e:
        raise LabError(f"{run_dir}: {e}")
    with contextlib.closing(looker):
        report, stacks = measure(looker, seconds, pid, perf)
    return {"live": True, "explained": explain(report), **report}, stacks


def heading(row: Row) -> str:
    if row.get("live"):
        return f"{row['packets_up']} packets up, {row['packets_down']} down in {row['seconds']:.1f} s"
    return f"{Case(*(row[field] for field in Case._fields))}: {row['ns_a_packet']:.0f} ns a packet"


def table(row: Row) -> Table:
    """Of one report: a line a stage. `each` is our own code's time by what the stage calls a packet, to be laid beside the budget."""
    t = Table("stage", title=heading(row), box=None)
    for head in ("ns a packet", "user", "kernel", "share", "ns a batch", "packets", "each", "budget"):
        t.add_column(head, justify="right")
    for stage in row["stages"]:
        budget = stage["budget"]
        t.add_row(stage["stage"], f"{stage['ns_a_packet']:.1f}", f"{stage['user_ns_a_packet']:.1f}", f"{stage['kernel_ns_a_packet']:.1f}",
                  f"{stage['share']:.1%}", f"{stage['ns_a_batch']:.0f}" if stage["batches"] else "",
                  f"{stage['packets_a_batch']:.1f}" if stage["batches"] else "", f"{stage['user_ns_each']:.1f}" if stage["packets"] else "",
                  f"{budget['ns']:g} a {budget['unit']}" if budget else "")
    t.add_row("together", f"{row['ns_a_packet']:.1f}", f"{row['user_ns_a_packet']:.1f}", f"{row['kernel_ns_a_packet']:.1f}", "100.0%")
    return t


def facts(row: Row) -> list[str]:
    """What is beside the table."""
    lines = [f"run time of the forwarder's threads (schedstat): {row['run_ns_a_packet']:.0f} ns a packet"
             + (f", {row['untimed_run_ns_a_packet']:.0f} with the timers off" if "untimed_run_ns_a_packet" in row else "")
             + f"; in the kernel {row['sampled_kernel_share']:.0%} by the kernel's own sampling, {row['kernel_share']:.0%} by the timers",
             f"{row['pps'] / 1e3:.0f} thousand packets a second; workers awake {', '.join(f'{share:.0%}' for share in row['awake'])}"]
    lines += [f"{name.removesuffix('_a_packet').replace('_', ' ')}: {n:.2f} a packet" for name, n in row["counted"].items()]
    return lines + ([row["not_counted"]] if row["not_counted"] else [])


def show(rows: list[Row], words: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for row in rows:
        console.print(table(row))
        for line in facts(row):
            console.print(line, style="dim")
        if words:
            for line in row["explained"]:
                console.print(f"* {line}")
        console.print()


def draw(path: Path, rows: list[Row], sampled: list[flame.Stacks | None]) -> None:
    """All reports in one flame graph; a lab's directions side by side."""
    stacks: flame.Stacks = {}
    for row, one in zip(rows, sampled, strict=True):
        for stack, weight in (one or flame.stages(row)).items():
            place = (stack[0], str(Case(*(row[field] for field in Case._fields))), *stack[1:]) if len(rows) > 1 else stack
            stacks[place] = stacks.get(place, 0) + weight
    perf = all(one is not None for one in sampled)
    path.write_text(flame.svg(stacks, f"headrace, {heading(rows[0])}" if len(rows) == 1 else "headrace", "samples" if perf else "ns"))


@app.callback(invoke_without_command=True, epilog="Example: headrace profile --size 64 --flows 64 --explain")
def profile(
        file: Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", show_default=False,
                                                  help="With --live: the configuration of the one that runs.")] = None,
        live: Annotated[bool, typer.Option("--live", help="Look at the concentrator that runs, and not at one in a lab.")] = False,
        protocol: Annotated[str, typer.Option(callback=some(PROTOCOLS), help="Of the lab's tunnels.")] = "l2tp",
        size: Annotated[str, typer.Option(callback=sizes, help="Octets of an inner packet, or imix.")] = "1400",
        direction: Annotated[str, typer.Option(callback=some(DIRECTIONS), help="up is from the client; one after the other.")] = "up,down",
        wire: Annotated[str, typer.Option(callback=some(WIRES), help="offload passes super-packets whole.")] = "offload",
        sessions: Annotated[int, typer.Option(min=1, max=60000, help="Sessions between which packets go round.")] = 1,
        flows: Annotated[int, typer.Option(min=0, metavar="N", show_default=False, help="Distinct inner flows in all; packets of a single "
                                           "one follow each other and may be merged. Without it: one a session.")] = 0,
        mppe: Annotated[str, typer.Option(callback=some(BITS), help="Bits of encryption of the lab's tunnels; 0: in clear.")] = "0",
        seconds: Annotated[float, typer.Option(min=0.1, help="To look at each.")] = 2,
        words: Annotated[bool, typer.Option("--explain", help="Say where the time goes and what the limit is.")] = False,
        picture: Annotated[Path | None, typer.Option("--flame", metavar="FILE.svg", show_default=False, help="Draw a flame graph.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False) -> None:
    """What each packet costs, stage by stage: in a lab of its own, or --live. As root."""
    perf = picture is not None and flame.perf_there()
    with sentences():
        if os.geteuid() != 0:
            raise LabError("a profile needs root")
        if live:
            try:
                found = iter([look(configuration.run_dir(configuration.find(file)), seconds, perf)])
            except ConfigError as error:
                raise LabError(str(error))
        else:
            cases = [Case(kind, "udp", one if one == "imix" else int(one), way, on, sessions, max(flows, sessions), 1, int(bits))
                     for kind in split(protocol) for on in split(wire) for bits in split(mppe) for one in split(size)
                     for way in split(direction)]
            for case in cases:
                if case.mppe and case.protocol not in CIPHERED:
                    raise LabError(f"encryption is measured over {', '.join(CIPHERED)}, not over {case.protocol}")
                most = PROTOCOLS[case.protocol].headrace.mtu
                if not SMALLEST <= min(case.sizes) <= max(case.sizes) <= most:
                    raise LabError(f"a size is imix or from {SMALLEST} to {most} octets over {case.protocol}, not {case.size}")
            alike = [list(group) for _, group in groupby(cases, lambda case: (case.protocol, case.wire, case.mppe))]
            found = (one for group in alike for one in lab(group, seconds, perf))
        rows: list[Row] = []
        sampled: list[flame.Stacks | None] = []
        try:
            for row, stacks in found:
                rows.append(row)
                sampled.append(stacks)
            if picture:
                draw(picture, rows, sampled)
        except OSError as error:
            raise LabError(str(error))
    if as_json:
        print(json.dumps(record.record(["headrace", *sys.argv[1:]], rows), indent=1))
    else:
        show(rows, words)
    if picture:
        print(f"wrote {picture}, from {'what perf sampled' if perf else 'the stages: perf is not installed'}", file=sys.stderr)
