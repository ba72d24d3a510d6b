"""What the kernel knows of threads: their run time by user and kernel, and the processor's counters where it has some."""
from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HARDWARE, SOFTWARE = 0, 1
# name -> type and config of perf_event_open(2)
EVENTS = {"cycles": (HARDWARE, 0), "instructions": (HARDWARE, 1), "cache-misses": (HARDWARE, 3), "context-switches": (SOFTWARE, 3)}
SYSCALL = {"x86_64": 298, "aarch64": 241}
ATTR_SIZE = 64                          # PERF_ATTR_SIZE_VER0


class Times(NamedTuple):
    """Of some threads together, in ns."""
    run: int                # on a core
    waited: int             # for one
    user: int               # of `run`, by the kernel's sampling: coarse
    kernel: int


def threads(pid: int) -> list[int]:
    return [int(t) for t in os.listdir(f"/proc/{pid}/task")]


def times(tids: Iterable[int]) -> Times:
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    total = [0, 0, 0, 0]
    for tid in tids:
        run, waited = Path(f"/proc/{tid}/schedstat").read_text().split()[:2]
        fields = Path(f"/proc/{tid}/stat").read_text().rpartition(")")[2].split()
        for i, value in enumerate((int(run), int(waited), int(fields[11]) * tick, int(fields[12]) * tick)):
            total[i] += value
    return Times(*total)


class Counters:
    """perf_event_open on threads. `missing` says in one sentence what this machine does not count; the others are in `read`."""

    def __init__(self, tids: Iterable[int]) -> None:
        self._open: dict[str, list[int]] = {}
        self.missing = ""
        tids = list(tids)
        refused: dict[str, str] = {}
        for name, (kind, config) in EVENTS.items():
            try:
                self._open[name] = self._counter(kind, config, tids)
            except OSError as e:
                refused[name] = e.strerror or str(e)
        if refused:
            self.missing = f"no {', '.join(refused)} here: perf_event_open says {', '.join(sorted(set(refused.values())))}"

    @staticmethod
    def _counter(kind: int, config: int, tids: list[int]) -> list[int]:
        libc = ctypes.CDLL(None, use_errno=True)
        if platform.machine() not in SYSCALL:
            raise OSError(0, f"nothing that we know on {platform.machine()}")
        attr = struct.pack("=IIQQQQQIIQ", kind, ATTR_SIZE, config, 0, 0, 0, 0, 0, 0, 0)
        fds: list[int] = []
        try:
            for tid in tids:
                fd = libc.syscall(SYSCALL[platform.machine()], ctypes.c_char_p(attr), tid, -1, -1, ctypes.c_ulong(8))    # FD_CLOEXEC
                if fd < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                fds.append(fd)
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def read(self) -> dict[str, int]:
        """Since they were opened, all threads together."""
        return {name: sum(int.from_bytes(os.read(fd, 8), "little") for fd in fds) for name, fds in self._open.items()}

    def close(self) -> None:
        for fds in self._open.values():
            for fd in fds:
                os.close(fd)
        self._open.clear()

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
