"""`headrace bench`: the benchmarks as commands. What they measure is in the modules that they call; here are options,
progress and files."""
from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import throughput as wires
from .lab import WIRES, LabError, interruptible
from .record import write
from .wire import DIRECTIONS, TRAFFIC, pin

app = typer.Typer(help="Benchmarks, as root: without a command a useful part of all, within eight minutes.", add_completion=False,
                  pretty_exceptions_enable=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
Rows = list[dict[str, Any]]
LIMIT = 480                     # seconds that the benchmark without arguments may take
BITS = ("0", "40", "56", "128")
FOREIGN = 0.05                  # share of a core that strangers may use before it is said


def some(choices: Iterable[str]) -> Callable[[str], str]:
    """A callback for an option that is a list of these, with commas between."""
    allowed = tuple(choices)

    def check(text: str) -> str:
        wrong = [name for name in split(text) if name not in allowed]
        if wrong:
            raise typer.BadParameter(f"{', '.join(wrong)}: any of {','.join(allowed)}")
        return text
    return check


def split(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def number(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise typer.BadParameter(f"{text}: a number")
    if value < 1:
        raise typer.BadParameter(f"{text}: at least 1")
    return value


def numbers(text: str) -> str:
    for name in split(text):
        number(name)
    return text


def sizes(text: str) -> str:
    for name in split(text):
        if name != "imix":
            number(name)
    return text


Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", show_default=False, help="Keep all figures there.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", show_default=False, help="Draw them there.")]
Sessions = Annotated[int, typer.Option("--sessions", min=1, max=65000, help="How many.")]
Auth = Annotated[str, typer.Option("--auth", callback=some(("mschap2", "mschap1", "chap", "pap")), help="How they authenticate.")]
Rate = Annotated[float, typer.Option("--rate", min=0, help="Sessions that begin in a second; 0: as many as --window allows.")]
Window = Annotated[int, typer.Option("--window", min=0, help="Sessions that may be coming up at once; 0: all.")]


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """What went wrong in one sentence, and a status that says so; a signal unwinds, so that nothing stays behind."""
    interruptible()
    try:
        yield
    except LabError as error:
        print(f"headrace: {error}", file=sys.stderr)
        raise typer.Exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(130)


def keep(path: Path | None, rows: Rows, picture: Path | None = None) -> None:
    if picture:
        from .plot import draw
        picture.write_text(draw(rows))
    if path:
        given = [Path(name).name if Path(name) in (path, picture) else name for name in sys.argv[1:]]   # where it lies is no result
        write(path, ["headrace", *given], rows)


def ready(*paths: Path | None) -> None:
    """The folders are there: better now than after the runs."""
    for path in paths:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)


def show(table: Any) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def run(options: wires.Options, json: Path | None, plot: Path | None, kept: Rows | None = None) -> None:
    """The wires: a bar where there is a terminal, then a table and the files; what was measured before a signal, too. `kept` are
    rows of other benchmarks that go into the same files."""
    rows: Rows = []
    console = Console(stderr=True)
    cores = os.sched_getaffinity(0)
    pin()
    try:
        if not console.is_terminal:
            for row in wires.measure(options, lambda what: print(what, file=sys.stderr, flush=True)):
                rows.append(row)
            return
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console,
                      transient=True) as progress:
            task = progress.add_task("", total=wires.count(options))

            def say(what: str) -> None:
                progress.update(task, description=what, advance=0 if not progress.tasks[0].description or "loss-free" in what else 1)
            for row in wires.measure(options, say):
                rows.append(row)
    finally:
        os.sched_setaffinity(0, cores)
        if rows:
            show(wires.table(rows))
            strangers(rows)
            keep(json, rows + (kept or []), plot)


def strangers(rows: Rows) -> None:
    most = max((row.get("foreign_share") or 0 for row in rows), default=0)
    if most > FOREIGN:
        print(f"the machine was not the bench's alone: up to {most:.0%} of a core went to other processes", file=sys.stderr)


def minutes(length: float) -> str:
    whole, rest = divmod(round(length), 60)
    return f"{whole} min {rest} s" if whole else f"{rest} s"


@app.callback(invoke_without_command=True, epilog="Example: headrace bench --json all.json --plot all.svg")
def bench(context: typer.Context,
          full: Annotated[bool, typer.Option("--full", help="Everything, also the loss-free rates; hours.")] = False,
          protocol: Annotated[str, typer.Option(callback=some(wires.PROTOCOLS), help="Tunnels.")] = ",".join(wires.DEFAULT.protocols),
          peer: Annotated[str, typer.Option(callback=some(wires.PEERS), help="What runs beside it.")] = "",
          json: Json = None, plot: Plot = None) -> None:
    """Benchmarks, as root: without a command a useful part of all, within eight minutes."""
    if context.invoked_subcommand:
        return
    with sentences():
        ready(json, plot)
        options = chosen(full, split(protocol), split(peer))
        length = wires.seconds(options)
        print(f"{sum(1 for _ in wires.cases(options))} cases, {options.repeat} runs of {options.duration:g} s each; this takes about "
              f"{minutes(length)}", file=sys.stderr, flush=True)
        run(options, json, plot, everything() if full else None)


def everything() -> Rows:
    """What --full runs beside the wires: set-up, idle sessions and kernels as their commands have them."""
    from . import idle as quiet
    from . import kernels as stages
    from . import setup as coming
    say = Console(stderr=True).print
    rows = coming.measure(10000, 10, "mschap2", 0, 256, 3, [], say)
    show(coming.table(rows))
    idle = [quiet.run(60000, 60, "mschap2", 0, 256, 300, "30s", say)]
    show(quiet.table(idle))
    memory = stages.report()
    show(stages.tabled(memory))
    return rows + idle + memory


def chosen(full: bool, protocols: list[str], peers: list[str]) -> wires.Options:
    """What a bench without arguments runs: with many protocols its runs are shorter, so that it stays within its time."""
    from dataclasses import replace
    options = replace(wires.FULL if full else wires.DEFAULT, protocols=protocols, peers=peers)
    while not full and wires.seconds(options) > LIMIT and options.duration > 0.25:
        options = replace(options, duration=options.duration - 0.25)
    return options


@app.command(epilog="Example: headrace bench throughput --size 64,imix --direction down --sessions 1,10000 --wire plain --json down.json")
def throughput(
        protocol: Annotated[str, typer.Option(callback=some(wires.PROTOCOLS), help="Of the tunnels.")] = "l2tp",
        traffic: Annotated[str, typer.Option(callback=some(TRAFFIC), help="iperf3, a stream a flow; generator and sink.")] = "tcp,udp",
        size: Annotated[str, typer.Option(callback=sizes, help="Octets of an inner packet (of udp), or imix.")] = "64,1400,imix",
        direction: Annotated[str, typer.Option(callback=some(DIRECTIONS), help="up is from the client; both: at once.")] = "up,down",
        sessions: Annotated[str, typer.Option(callback=numbers, help="Sessions between which udp goes round.")] = "1",
        flows: Annotated[str, typer.Option(callback=numbers, metavar="N", help="Distinct inner flows in all, one a session at least; "
                                           "packets of a single one follow each other and may be merged. Without it: one a "
                                           f"session; of one {wires.FLOWS} for imix, for small packets 1 and {wires.FLOWS}.")] = "",
        wire: Annotated[str, typer.Option(callback=some(WIRES), help="offload passes super-packets whole.")] = "offload,plain",
        workers: Annotated[str, typer.Option(callback=some(("1", "2")), help="The second shares the core of all the rest.")] = "1",
        mppe: Annotated[str, typer.Option(callback=some(BITS), help="Bits of encryption; 0: in clear.")] = "0",
        duration: Annotated[float, typer.Option(min=0.1, help="Seconds of a run; of tcp, rounded up to whole ones.")] = 5,
        repeat: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 7,
        rate: Annotated[float, typer.Option(min=0, help="Packets a second of udp, each way; 0: flat out.")] = 0,
        loss_free: Annotated[bool, typer.Option("--loss-free", help="Also search the highest rate without loss (RFC 2544).")] = False,
        loss_threshold: Annotated[float, typer.Option(min=0, max=1, help="The share that may be lost there.")] = 0,
        trial: Annotated[float, typer.Option(min=0.1, help="Seconds of a trial of that search; RFC 2544 wants 60.")] = 1,
        peer: Annotated[str, typer.Option(callback=some(wires.PEERS), help="Beside it: any of " + ",".join(wires.PEERS) + ".")] = "",
        json: Json = None, plot: Plot = None) -> None:
    """Packets through a forwarder: cost, rate and loss beside the null tunnel."""
    with sentences():
        ready(json, plot)
        run(wires.Options(
            split(protocol), split(traffic), [s if s == "imix" else int(s) for s in split(size)], split(direction),
            [int(n) for n in split(sessions)], [int(n) for n in split(flows)], split(wire), [int(n) for n in split(workers)], split(peer),
            duration, repeat, rate, loss_threshold if loss_free else None, trial, tuple(map(int, split(mppe)))), json, plot)


@app.command(epilog="Example: headrace bench setup --sessions 10000 --auth pap --json setup.json")
def setup(sessions: Sessions = 10000,
          tunnels: Annotated[int, typer.Option(min=1, help="That carry them; of PPTP, connections.")] = 10,
          protocol: Annotated[str, typer.Option(callback=some(("l2tp", "pptp", "pppoe")), help="Of the tunnels, one of them.")] = "l2tp",
          auth: Auth = "mschap2",
          family: Annotated[str, typer.Option(callback=some(("ip", "dual")), help="ip, or dual: IPv6 and a prefix as well.")] = "ip",
          rate: Rate = 0, window: Window = 256,
          repeat: Annotated[int, typer.Option(min=1, help="Runs, each with a new concentrator.")] = 3,
          peer: Annotated[str, typer.Option(callback=some(("l2tpns",)), help="In turn with it: l2tpns, which knows pap and chap.")] = "",
          json: Json = None, plot: Plot = None) -> None:
    """How many sessions come up in a second, and what one costs."""
    from . import setup as bench
    with sentences():
        ready(json, plot)
        rows = bench.measure(sessions, tunnels, auth, rate, window, repeat, split(peer), Console(stderr=True).print, protocol,
                             family)
        show(bench.table(rows))
        strangers([{"foreign_share": row["foreign"]} for row in rows])
        for row in rows:
            if row["failed"]:
                reason = next(run["reason"] for run in row["samples"] if run["failed"]) or "nothing was heard"
                print(f"{row['subject']}: {row['failed']} did not come up, the first because: {reason}", file=sys.stderr)
        keep(json, rows, plot)


@app.command(epilog="Example: headrace bench idle --sessions 60000 --tunnels 60000 --minutes 2")
def idle(sessions: Sessions = 60000,
         tunnels: Annotated[int, typer.Option(min=1, help="That carry them.")] = 60,
         auth: Auth = "mschap2", rate: Rate = 0, window: Window = 256,
         minutes: Annotated[float, typer.Option(min=0, help="How long nothing happens.")] = 5,
         keepalive: Annotated[str, typer.Option(help="keepalive-timeout of the concentrator.")] = "30s",
         json: Json = None) -> None:
    """Memory and CPU of many sessions with nothing to do but keepalive."""
    from . import idle as bench
    with sentences():
        ready(json)
        row = bench.run(sessions, tunnels, auth, rate, window, 60 * minutes, keepalive, Console(stderr=True).print)
        show(bench.table([row]))
        keep(json, [row])


@app.command(epilog="Example: headrace bench compare before.json after.json --threshold 0.1")
def compare(before: Annotated[Path, typer.Argument(metavar="A.json", help="Results as --json kept them.")],
            after: Annotated[Path, typer.Argument(metavar="B.json", help="The same benchmarks, later.")],
            threshold: Annotated[float, typer.Option(min=0, help="How much worse a figure may be: 0.05 is 5 %.")] = 0.05,
            every: Annotated[bool, typer.Option("--all", help="Also what did not change.")] = False) -> None:
    """What got better or worse beyond the noise; status 1 when something is worse by more than the threshold."""
    from . import compare as bench
    with sentences():
        a, b = bench.rows(before), bench.rows(after)
        found = list(bench.changes(a, b))
        if not found:
            raise LabError(f"{before} and {after} have no figure in common")
        changed = [change for change in found if change.worse is not None]
        if changed or every:
            show(bench.table(found if every else changed))
        worse = [change for change in changed if change.worse and abs(change.by) > threshold]
        print(f"{len(found)} figures compared, {sum(not c.worse for c in changed)} better, {sum(bool(c.worse) for c in changed)} worse, "
              f"{len(worse)} of them by more than {threshold:.0%}; {len(a.keys() ^ b.keys())} rows are in one file only")
        if worse:
            raise typer.Exit(1)


@app.command(epilog="Example: headrace bench kernels -k 'test_up and 64'")
def kernels(words: Annotated[str, typer.Option("-k", metavar="WORDS", help="Only these, as pytest's -k.")] = "",
            json: Json = None) -> None:
    """The stages in memory, without system calls."""
    with sentences():
        try:
            from . import kernels as bench
        except ModuleNotFoundError as error:
            raise LabError(f"this benchmark needs {error.name}: pip install headrace[test]")
        ready(json)
        rows = bench.report(words)
        show(bench.tabled(rows))
        keep(json, rows)


@app.command(epilog="Example: headrace bench mppe --json mppe.json")
def mppe(json: Json = None) -> None:
    """What MPPE costs a packet in memory, beside the kernel's way and OpenSSL."""
    from . import mppe as bench
    with sentences():
        ready(json)
        rows = bench.report()
        show(bench.tabled(rows))
        keep(json, rows)


@app.command(epilog="Example: headrace bench instructions --update")
def instructions(update: Annotated[bool, typer.Option("--update", help="They are more on purpose: keep these figures.")] = False) -> None:
    """Instructions a packet of each kernel, by callgrind, beside those that are on record; status 1 when they grew."""
    from . import instructions as bench
    with sentences():
        recorded = bench.load()
        counted, problems, news = bench.check(update)
        show(bench.table(recorded, counted))
        for line in news:
            print(line, file=sys.stderr)
        if problems:
            raise LabError("; ".join(problems))
