"""`headrace serve` as a bench needs it: in a namespace, with a generated configuration, asked through its API.

    with Concentrator(lab.host, users=60000) as concentrator:
        concentrator.get("stats")
        concentrator.pids()             # of each role, for who measures what they use
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..control.client import Client, ClientError
from .lab import LabError, Namespace, end, runtime

INSIDE = "10.67.0.1"                    # its own inner address; sessions have others of the same pool
POOLS = ["10.67.0.0/16", "10.68.0.0/16"]
START, STOP = 30.0, 20.0                # seconds for each, at most
PREFIX = "headrace-bench-"
ROLES = ("supervisor", "control", "forwarder")


def user(number: int) -> str:
    """The name of the user with this number, from 0."""
    return f"u{number}"


def password(number: int) -> str:
    """His own: what is worked out for one user is of no use for the next."""
    return f"bench secret {number}"


def configuration(run_dir: Path, concentrator: dict[str, Any], server: dict[str, Any], pptp: dict[str, Any],
                  profile: dict[str, Any], pppoe: dict[str, Any] | None = None) -> dict[str, Any]:
    """All but the users; the arguments are keys of [concentrator], of each [server.NAME], of [server.pptp] and of the profile that
    shall be others. There is PPPoE only where its keys are given, be they none: its sockets see all that the wire carries."""
    both = {"enabled": True, "authentication": ["mschap2", "mschap1", "chap", "pap"], "default-profile": "default", **server}
    return {
        "concentrator": {"interface": "hr0", "workers": 1, "run-dir": str(run_dir), "log": "info", **concentrator},
        "pools": {"clients": POOLS},
        "profiles": {"default": {"local-address": INSIDE, "remote-address": "clients", **profile}},
        "server": {"l2tp": both, "pptp": {**both, **pptp}} | ({} if pppoe is None else {"pppoe": [{"interface": "wire", **both, **pppoe}]}),
    }


def toml(table: dict[str, Any], path: str = "") -> str:
    """A nested table as TOML; JSON's strings, numbers and arrays are TOML's too."""
    text, inner = f"[{path}]\n" if path else "", ""
    for key, value in table.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            inner += toml(value, below)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner += "".join(f"[[{below}]]\n{toml(one)}" for one in value)
        else:
            text += f"{key} = {json.dumps(value)}\n"
    return text + inner


class Concentrator:
    """Started and answering once constructed; `stop` ends it and takes its files away."""

    def __init__(self, side: Namespace, *, users: int = 1, concentrator: dict[str, Any] | None = None,
                 server: dict[str, Any] | None = None, pptp: dict[str, Any] | None = None, profile: dict[str, Any] | None = None,
                 pppoe: dict[str, Any] | None = None, tables: dict[str, Any] | None = None, environment: dict[str, str] | None = None,
                 cpu: int | None = None) -> None:
        """`tables`: more of the configuration. `users`: how many may log in (`user`, `password`). `cpu`: where all of it runs unless
        `environment` pins its parts (HEADRACE_FORWARDER_CPUS, HEADRACE_CONTROL_CPUS)."""
        self.folder = scratch()
        self.run_dir, self.file, self.log = self.folder / "run", self.folder / "headrace.toml", self.folder / "log"
        config = toml(configuration(self.run_dir, concentrator or {}, server or {}, pptp or {}, profile or {}, pppoe) | (tables or {}))
        self.file.touch(mode=0o600)
        self.file.write_text(config + "[secrets]\n" + "".join(f'{user(n)} = {{password = "{password(n)}"}}\n' for n in range(users)))
        with open(self.log, "wb") as log:
            self.process = side.spawn([sys.executable, "-m", "headrace.control", "serve", "-c", str(self.file)], cpu,
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                      env={**os.environ, **(environment or {})})
        try:
            self.wait("its API", self._answers, START)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise LabError(f"headrace serve ended with status {self.process.returncode}: {self.last_words()}")
        try:
            self.get("stats")
        except ClientError:
            return False
        return True

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Until it is true; LabError when that takes too long."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise LabError(f"waited {seconds:g} s for {what} in vain: {self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def get(self, path: str, timeout: float = 30) -> Any:
        """GET /v1/<path>, decoded."""
        return Client(self.run_dir, timeout).request("GET", *path.split("/"))

    def pids(self) -> dict[str, int]:
        """The process of each role."""
        found = json.loads((self.run_dir / "pids").read_text())
        return {role: found[role] for role in ROLES}

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU, user and system, that each role's threads have used."""
        return {role: cpu_time(pid) for role, pid in self.pids().items()}

    def sessions(self) -> int:
        return self.get("stats")["tables"]["sessions"]

    def memory(self) -> dict[str, int]:
        """Octets of each role: its PSS, in which what several processes share counts once."""
        return {role: pss(pid) for role, pid in self.pids().items()}

    def stop(self) -> None:
        """Goodbye to every tunnel, then nothing is left."""
        end(self.process, STOP)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Concentrator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def scratch() -> Path:
    """A folder for this process; what killed benches left is taken away."""
    memory = Path("/dev/shm")               # where /run is on a disk, the tables file would be written to it
    room = memory if memory.is_dir() else Path(tempfile.gettempdir())
    sweep(room)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=room))


def sweep(room: Path) -> None:
    """Take away what killed benches left there."""
    for folder in room.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)


def cpu_time(pid: int) -> float:
    """Seconds on a core of all threads that a process has now."""
    return sum(runtime(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")) / 1e9


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise LabError("the kernel tells no PSS: it is built without CONFIG_PROC_PAGE_MONITOR")
