"""Instructions a packet of each kernel, by callgrind: the same on every run, so that growth can be told from noise.

    valgrind -> this module, as a program: each run of RUNS on a small world, with a mark before and behind it
             -> callgrind's files, one between two marks -> instructions that each kernel executed, with all that it calls, by packet
    results/instructions.json: kernel -> figure, by key

A key is architecture, compiler and path: what HEADRACE_CPU forces. Valgrind knows neither AVX-512 nor the SHA instructions, and what it
knows beyond that depends on the machine, so only forced paths are counted; the others are measured by time (kernels.py). A key that the
file does not have is recorded there; growth of more than GROWTH under a known one is an error, until `update` says that it was on purpose.
"""
from __future__ import annotations

import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from .lab import LabError

FILE = Path(__file__).resolve().parent / "results" / "instructions.json"
PATHS = ("portable", "sse41")
GROWTH = 0.05
SESSIONS = 2000
PACKETS = 1024
TICKS = 300
Figures = dict[str, float]              # kernel -> instructions a packet


class Run(NamedTuple):
    """What is carried through, by how many packets (or segments, or sessions) it is divided, and the functions looked at."""
    name: str
    packets: int
    functions: tuple[str, ...]          # ends of their symbols; with | between, the first of these that a compiler left there
    run: Callable[..., object]          # of a world


def runs() -> list[Run]:
    up, down = ("decap_decap", "order_order", "up_link", "up_admit"), ("down_route", "down_encap")
    merge = ("_kernels_merge|6Stages__timed",)
    rows = []
    for spread, words in (("1", "1 session"), ("10", "10 sessions"), ("60000", f"{SESSIONS} sessions")):
        rows += [Run(f"up, {words}:", PACKETS, up, lambda w, spread=spread: w.stages.up(w.some("up", "64", spread, PACKETS), 64)),
                 Run(f"down, {words}:", PACKETS, down, lambda w, spread=spread: w.stages.down(w.some("down", "64", spread, PACKETS), 64))]
    for size in (64, 1400):
        segments = min(44, 65000 // size)
        rows += [Run(f"cut to {size}:", 16 * segments, ("down_encap",), lambda w, size=size: w.stages.down(w.supers(size, 16), 2)),
                 Run(f"coalesce {size}:", 256, merge, lambda w, size=size: w.stages.coalesce(w.bursts(size, 64, 256), 256))]
    rows.append(Run("coalesce, 16 flows in turn:", 256, merge, lambda w: w.stages.coalesce(w.turns(64, 16, 256), 256)))
    for pieces in (1, 2):
        rows.append(Run(f"join, packets in {pieces}:", 1024, ("join_join",),
                        lambda w, pieces=pieces: w.stages.join(w.fragments(1400, pieces, 1024), 64)))
    for size, pieces in ((64, 1), (1500, 2)):
        rows.append(Run(f"split, packets of {size} in {pieces}:", 1024, ("split_split",),
                        lambda w, size=size, pieces=pieces: w.stages.split(w.for_bundles(size, 1024 // pieces), 64)))
    for sessions in (1, 6):
        rows.append(Run(f"mppe 1400, sessions {sessions}:", 192, ("mppe_mppe_encrypt", "mppe_mppe_run"),
                        lambda w, sessions=sessions: encrypt(sessions)))
    return [*rows, Run("coalesce, no two of a flow:", 256, merge, lambda w: w.stages.coalesce(w.bursts(64, 1, 256), 256)),
            Run("keepalive:", SESSIONS, ("timer_turn",), lambda w: w.stages.turn(TICKS))]


def encrypt(sessions: int) -> None:
    """192 packets of 1400 octets, with a key each."""
    from ._ciphers import Ways
    octets = random.Random(1).randbytes(16 * sessions + 2048 * 192)
    Ways([i % sessions for i in range(192)], 1400, octets, (0, 0, 0)).ours(64)


def program(folder: Path) -> None:
    """What runs under valgrind."""
    from .world import World
    world = World(folder / "tables", SESSIONS)
    world.stages.arm(TICKS)
    for one in runs():
        one.run(world)                  # the first time finds state that later ones do not
        world.stages.done()
        one.run(world)
        world.stages.done()


def inclusive(dump: Path) -> dict[str, int]:
    """Function -> instructions in it and in what it called, over all calls in a dump of callgrind's."""
    names: dict[str, str] = {}
    spent: dict[str, int] = {}
    callee, called = "", False
    for line in dump.read_text().splitlines():
        if called:
            spent[callee] = spent.get(callee, 0) + int(line.split()[-1])
            called = False
        elif line.startswith("calls="):
            called = True
        elif match := re.match(r"(c?fn)=(\(\d+\))?\s?(.*)", line):
            number, name = match[2] or "", match[3]
            if number and name:
                names[number] = name
            if match[1] == "cfn":
                callee = name or names[number]
    return spent


def count(path: str) -> Figures:
    """Each kernel on that path. About ten seconds."""
    if not shutil.which("valgrind"):
        raise LabError("valgrind is not installed")
    with tempfile.TemporaryDirectory(prefix="headrace-instructions-") as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--compress-strings=no", "--compress-pos=no",
             "--dump-after=*6Stages_*done*", sys.executable, "-m", "headrace.bench.instructions", folder],
            capture_output=True, text=True, env={**os.environ, "HEADRACE_CPU": path, "OPENBLAS_NUM_THREADS": "1"})
        if done.returncode:
            raise LabError(f"valgrind: {done.stderr.strip().splitlines()[-1:]}")
        figures: Figures = {}
        for i, one in enumerate(runs()):
            spent = inclusive(Path(folder, f"out.{2 * i + 2}"))
            for ends in one.functions:
                found = [n for end in ends.split("|") for name, n in spent.items() if name.endswith(end)]
                if not found:
                    raise LabError(f"callgrind saw no {ends} in {one.name}")
                figures[f"{one.name} {ends.partition('|')[0].rpartition('_')[2]}"] = round(found[0] / one.packets, 1)
    return figures


def key(path: str) -> str:
    from ._kernels import compiler
    return f"{platform.machine()} {compiler()} {path}"


def grown(recorded: Figures, counted: Figures) -> list[str]:
    """A sentence for each kernel that grew beyond GROWTH, or is gone."""
    said = [f"{name}: {counted[name]:g} instructions a packet, {counted[name] / was - 1:.1%} more than {was:g}"
            for name, was in recorded.items() if name in counted and counted[name] > was * (1 + GROWTH)]
    return said + [f"{name} is not counted any more" for name in recorded if name not in counted]


def load(file: Path = FILE) -> dict[str, Figures]:
    return json.loads(file.read_text()) if file.exists() else {}


def check(update: bool = False, file: Path = FILE,
          measure: Callable[[str], Figures] = count) -> tuple[dict[str, Figures], list[str], list[str]]:
    """Count all paths: (figures by key, what grew, what is new in the file)."""
    known, counted = load(file), {key(path): measure(path) for path in PATHS}
    problems, news = [], []
    for name, figures in counted.items():
        if name not in known:
            news.append(f"{name} was not known: recorded in {file.name}")
            known[name] = figures
        elif update:
            known[name] = figures
        else:
            problems += [f"{name}: {problem}" for problem in grown(known[name], figures)]
            fresh = {kernel: n for kernel, n in figures.items() if kernel not in known[name]}
            news += [f"{name}: {kernel} was not known: recorded in {file.name}" for kernel in fresh]
            known[name] |= fresh
    if news or update:
        file.write_text(json.dumps(known, indent=1) + "\n")
    return counted, problems, news


def table(recorded: dict[str, Figures], counted: dict[str, Figures]) -> Table:
    t = Table("path", "kernel", title="instructions a packet", box=None)
    for head in ("now", "on record", "growth"):
        t.add_column(head, justify="right")
    for name, figures in counted.items():
        for kernel, n in figures.items():
            was = recorded.get(name, {}).get(kernel)
            t.add_row(name, kernel, f"{n:.1f}", "" if was is None else f"{was:.1f}", f"{n / was - 1:+.1%}" if was else "")
    return t


if __name__ == "__main__":
    program(Path(sys.argv[1]))
