"""Flame graphs: stacks with their weights, as SVG that needs no script.

    stages    of a report of stages.py: the time of each stage, and above it what its system calls took; exact, but no deeper
    perf      stacks that `perf record` sampled in the forwarder, where it is installed
"""
from __future__ import annotations

import collections
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Stacks = dict[tuple[str, ...], float]       # the root first -> weight
WIDTH, ROW, LEAST = 1200, 18, 0.5           # pixels; a frame narrower than LEAST is left out
LETTER = 6.6                                # pixels that one takes
HEAD = 40
HERTZ = 997                                 # samples a second, in step with nothing
LOOP = "worker.run"
CHAIN = "dwarf,8192"                        # the compiled code keeps no frame pointers


class Frame:
    """A function in one place of the tree."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.children: dict[str, Frame] = collections.defaultdict(Frame)

    def add(self, stack: Iterable[str], weight: float) -> None:
        frame = self
        frame.weight += weight
        for name in stack:
            frame = frame.children[name]
            frame.weight += weight

    def depth(self) -> int:
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def stages(report: dict[str, Any]) -> Stacks:
    """Weights are ns."""
    stacks: Stacks = {}
    for row in report["stages"]:
        root: tuple[str, ...] = ("forwarder", row["direction"], row["stage"])
        if row["direction"] == "both":
            root = ("forwarder", row["stage"])
        stacks[root] = row["ns"] - row["kernel_ns"]
        if row["kernel_ns"]:
            stacks[(*root, "system calls")] = row["kernel_ns"]
    return stacks


def perf_there() -> bool:
    return shutil.which("perf") is not None


class Perf:
    """`perf record` on the threads of a process for so many seconds; it starts at once. `stacks` waits for its end."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-perf-")
        self._data = str(Path(self._folder.name, "data"))
        # cpu-clock is there on every machine, a counter of cycles is not
        self._record = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "--call-graph", CHAIN,
                                         "-o", self._data, "-p", str(pid), "--", "sleep", f"{seconds:g}"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def stacks(self) -> Stacks:
        """Weights are samples. OSError, when perf says why it could not."""
        _, said = self._record.communicate()
        if not Path(self._data).exists():
            raise OSError(f"perf record: {said.strip() or 'it wrote nothing'}")
        script = subprocess.run(["perf", "script", "-i", self._data, "--no-inline", "-F", "comm,tid,ip,sym"],
                                capture_output=True, text=True)
        found = fold(script.stdout.splitlines())
        if not found:
            raise OSError(f"perf script: {(script.stderr or said).strip().splitlines()[-1:] or 'no samples'}")
        return found

    def close(self) -> None:
        if self._record.poll() is None:
            self._record.terminate()
            self._record.communicate()
        self._folder.cleanup()


def fold(lines: Iterable[str]) -> Stacks:
    """What `perf script` prints: a line that begins a sample, its frames indented and the innermost first, an empty line."""
    stacks: Stacks = collections.defaultdict(float)
    stack: list[str] = []
    inside = False
    for line in [*lines, ""]:
        if not line.strip():
            if inside:
                # how Python came to the worker's loop is of no interest
                stacks[("forwarder", *reversed(stack[:stack.index(LOOP) + 1] if LOOP in stack else stack))] += 1
            stack, inside = [], False
        elif line[0] in " \t" and inside:
            _, _, name = line.strip().partition(" ")
            stack.append(plain(name))
        else:
            inside = True
    return dict(stacks)


def plain(symbol: str) -> str:
    """A function's name without what Cython puts before it: __pyx_f_8headrace_8fastpath_2up_link is up.link."""
    symbol = symbol.partition("+0x")[0].removesuffix(".isra.0").removesuffix(".constprop.0")
    rest = symbol.partition("_8headrace_")[2]
    if not symbol.startswith("__pyx_") or not rest:
        return symbol
    names = []
    while (number := re.match(r"\d+", rest)) and re.match(r"_|$", rest[number.end() + int(number[0]):]):
        names.append(rest[number.end():number.end() + int(number[0])])
        rest = rest[number.end() + int(number[0]) + 1:]
    return ".".join([*names[1:], *([rest.lstrip("0123456789")] if rest else [])])


def colour(name: str) -> str:
    """Kernel and system calls are blue, our own code is warm; the same name always alike."""
    shade = sum(name.encode()) * 37 % 60
    if name == "system calls" or name.startswith(("__x64_sys", "do_syscall", "entry_SYSCALL")):
        return f"rgb({90 + shade},{130 + shade},220)"
    return f"rgb(235,{120 + shade * 2 % 110},{60 + shade})"


def svg(stacks: Stacks, title: str, unit: str) -> str:
    """The picture: the root at the bottom, width is weight, and each frame says its share when pointed at."""
    root = Frame()
    for stack, weight in stacks.items():
        root.add(stack, weight)
    height = HEAD + root.depth() * ROW + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
           'font-family="monospace" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', f'<text x="10" y="22" font-size="14">{escape(title)}</text>']

    def draw(name: str, frame: Frame, x: float, level: int) -> None:
        width = frame.weight / root.weight * (WIDTH - 20) if root.weight else 0
        if width < LEAST:
            return
        y = height - 10 - (level + 1) * ROW
        label = name if len(name) * LETTER < width - 4 else name[:max(int((width - 4) / LETTER) - 1, 0)] + "…" if width > 3 * LETTER else ""
        out.append(f'<g><title>{escape(name)}: {frame.weight:.0f} {unit}, {frame.weight / root.weight:.1%}</title>'
                   f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{colour(name)}" rx="1"/>'
                   f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(label)}</text></g>')
        for child, inner in sorted(frame.children.items()):
            draw(child, inner, x, level + 1)
            x += inner.weight / root.weight * (WIDTH - 20)
    x = 10.0
    for name, frame in sorted(root.children.items()):
        draw(name, frame, x, 0)
        x += frame.weight / root.weight * (WIDTH - 20)
    out.append("</svg>")
    return "\n".join(out) + "\n"
