"""The bench's ground: two network namespaces, a wire between them, pinned processes, and who used which core.

    peer  192.168.77.1 -- veth --  192.168.77.2  host
    everything else, CPU 1                       the forwarder, CPU 0

Nothing here has a name outside this process: the namespaces are held by descriptors and every process dies
with the thread that started it, so that nothing is left behind however the bench ends, SIGKILL included.
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FORWARDER, OTHERS = 0, 1        # cores
CLONE_NEWNET = 0x40000000
BOUND = ("setpriv", "--pdeathsig", "KILL")          # in front of a command that must not outlive this thread
PEER, HOST, PREFIX = "192.168.77.1", "192.168.77.2", 24
WIRES = ("offload", "plain")
TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1", "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0", "net/ipv4/conf/all/send_redirects": "0",
}

libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """One sentence that says what the bench needs and did not find."""


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise LabError(f"{what}: {os.strerror(ctypes.get_errno())}; the bench needs root")


class Namespace:
    """A network namespace that lives as long as its descriptor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fd = -1
        self.processes: list[subprocess.Popen[str]] = []
        failed: list[LabError] = []

        def make() -> None:
            try:
                _checked(libc.unshare(CLONE_NEWNET), "a network namespace")     # of this thread only
                self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except LabError as e:
                failed.append(e)
        maker = threading.Thread(target=make)
        maker.start()
        maker.join()
        if failed:
            raise failed[0]

    @contextlib.contextmanager
    def entered(self, cpu: int | None = None) -> Iterator[None]:
        """This thread is inside, and on that core: sockets opened and processes started here stay so."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        cores = os.sched_getaffinity(0)
        try:
            _checked(libc.setns(self.fd, CLONE_NEWNET), f"entering namespace {self.name}")
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            yield
        finally:
            os.sched_setaffinity(0, cores)
            libc.setns(here, CLONE_NEWNET)
            os.close(here)

    def run(self, *command: str) -> str:
        """A command that ends by itself, or with this process; its output."""
        if not shutil.which(command[0]):
            raise LabError(f"{command[0]} is not installed")
        with self.entered(OTHERS):
            done = subprocess.run([*BOUND, *command], capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def spawn(self, command: list[str], cpu: int | None, **options: Any) -> subprocess.Popen[str]:
        """A process that stays until `close`, or until this process is gone."""
        with self.entered(cpu):
            process = subprocess.Popen([*BOUND, *command], text=True, cwd="/", **options)
        self.processes.append(process)
        return process

    def configure(self, interface: str, address: str, mtu: int, gso_max_size: int = 0) -> None:
        self.run("ip", "address", "add", address, "dev", interface)
        limits = ["gso_max_size", str(gso_max_size)] if gso_max_size else []      # up to 65536 it is IPv4's too
        self.run("ip", "link", "set", interface, "mtu", str(mtu), *limits, "up")

    def close(self) -> None:
        for process in self.processes:
            end(process)
        self.processes.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def carried(side: Namespace, interface: str) -> tuple[int, int]:
    """Packets that an interface brought into the kernel, and that it took from there."""
    with side.entered():
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                fields = numbers.split()
                return int(fields[1]), int(fields[9])
    raise LabError(f"there is no interface {interface} in namespace {side.name}")


def end(process: subprocess.Popen[str], patience: float = 5) -> str:
    """SIGTERM, then SIGKILL; what the process still had to say on standard output."""
    process.terminate()
    try:
        out, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
    return out or ""


class Lab:
    """The two namespaces and their wire: `offload` passes super-packets whole, as a NIC with segmentation and GRO in
    hardware does; `plain` has them cut by software and merged by nobody (design.md 8)."""

    def __init__(self, wire: str = "offload", mtu: int = 1500) -> None:
        if wire not in WIRES:
            raise LabError(f"a wire is {' or '.join(WIRES)}, not {wire}")
        self.wire = wire
        self.peer = Namespace("peer")
        try:
            self.host = Namespace("host")
            try:
                self._build(mtu)
            except BaseException:
                self.host.close()
                raise
        except BaseException:
            self.peer.close()
            raise

    def _build(self, mtu: int) -> None:
        self.peer.run("ip", "link", "add", "wire", "mtu", str(mtu), "type", "veth",
                      "peer", "name", "wire", "mtu", str(mtu), "netns", f"/proc/{os.getpid()}/fd/{self.host.fd}")
        for side, address in ((self.peer, PEER), (self.host, HOST)):
            with side.entered():
                for name, value in SYSCTLS.items():
                    path = Path("/proc/sys", name)
                    if path.exists():                   # a kernel without IPv6 has nothing to switch off
                        path.write_text(value)
            side.run("ip", "link", "set", "lo", "up")
            side.configure("wire", f"{address}/{PREFIX}", mtu)
            if self.wire == "plain":
                side.run("ethtool", "-K", "wire", "tx-udp-segmentation", "off", "gso", "off", "gro", "off", "tso", "off")

    def close(self) -> None:
        self.peer.close()
        self.host.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Usage(NamedTuple):
    """What cores and processes did over a span of time, in ns; `cost` is the forwarder's."""
    elapsed: int
    cost: int
    busy: tuple[int, ...]               # of each core, by /proc/stat: coarse, and of the whole machine
    softirq: tuple[int, ...]            # of that: softirqs, in whoever's time they ran
    roles: dict[str, int]               # of the processes and threads that were named
    workers: int = 1                    # cores that the forwarder has

    def share(self, cpu: int) -> float:
        return self.busy[cpu] / self.elapsed if self.elapsed else 0.0

    def foreign(self) -> float:
        """Share of the forwarder's core that went to processes that are no part of the bench: there should be none."""
        return max(self.share(FORWARDER) - self.cost / self.elapsed, 0.0) if self.elapsed else 0.0

    def shares(self) -> dict[str, float]:
        """Of one core: who used how much."""
        softirq = {"softirq_forwarder_core": self.softirq[FORWARDER], "softirq_other_core": self.softirq[OTHERS]}
        return {role: ns / self.elapsed for role, ns in (self.roles | softirq).items()} if self.elapsed else {}

    def bottleneck(self) -> str:
        """Who filled a core to 90 %: the forwarder its own; on the other one whoever used most of it; or nobody."""
        if self.cost >= 0.9 * self.elapsed * self.workers:
            return "forwarder"
        if self.share(OTHERS) < 0.9:
            return "none"
        others = {role: ns for role, ns in self.roles.items() if role != "forwarder"}
        others["strangers"] = self.busy[OTHERS] - sum(others.values()) if self.workers == 1 else 0
        return max(others, key=lambda role: others[role])


def tasks(pid: int) -> list[int]:
    """Its threads; none when it is gone."""
    try:
        return [int(t) for t in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


def threads(pids: Iterable[int], cores: Iterable[int]) -> list[int]:
    """The threads of these processes that are pinned to one of these cores."""
    pinned = [{core} for core in cores]
    return [t for pid in pids for t in tasks(pid) if os.sched_getaffinity(t) in pinned]


def ksoftirqd(cpu: int) -> int:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == f"ksoftirqd/{cpu}\n":
                return int(path.parent.name)
    raise LabError(f"core {cpu} has no ksoftirqd: the bench must run where it can see the kernel's threads")


def runtime(tid: int) -> int:
    """Time on a core in ns."""
    return int(Path(f"/proc/{tid}/schedstat").read_text().split()[0])


def busy(cpu: int) -> tuple[int, int]:
    """Time in ns that a core was neither idle nor waiting nor stolen, and of that in softirqs, in ticks of the kernel."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
            return (user + nice + system + irq + softirq) * TICK, softirq * TICK
    raise LabError(f"the bench needs two cores, and core {cpu} is not there")


class Meter:
    """Between `start` and `stop`: run time of every thread on the forwarder's core, and of each role.

    `roles` are processes by what they are for; those of the role "forwarder" are what is measured. `own` are threads of this
    process, likewise; one that ends before `stop` is charged to its role by `charge` instead.
    """

    def __init__(self, roles: dict[str, list[int]], workers: int = 1, own: dict[str, list[int]] | None = None) -> None:
        self._roles, self._own, self._cores = roles, own or {}, (FORWARDER, OTHERS)[:workers]
        self._ksoftirqd = ksoftirqd(FORWARDER)
        self._charged: dict[str, int] = {}

    def _read(self) -> tuple[int, dict[int, int], list[tuple[int, int]], dict[int, tuple[str, int]]]:
        now = time.monotonic_ns()
        cost = {t: runtime(t) for t in [self._ksoftirqd, *threads(self._roles["forwarder"], self._cores)]}
        roles = {t: (role, runtime(t)) for role, pids in self._roles.items() for pid in pids for t in tasks(pid)}
        roles |= {t: (role, runtime(t)) for role, own in self._own.items() for t in own}
        return now, cost, [busy(core) for core in (FORWARDER, OTHERS)], roles

    def start(self) -> None:
        self._before = self._read()

    def charge(self, role: str, ns: int) -> None:
        self._charged[role] = self._charged.get(role, 0) + ns

    def stop(self) -> Usage:
        (t0, c0, b0, r0), (t1, c1, b1, r1) = self._before, self._read()
        roles = dict.fromkeys([*self._roles, *self._own], 0)
        for thread, (role, ns) in r1.items():
            roles[role] += ns - r0.get(thread, ("", 0))[1]
        for role, ns in self._charged.items():
            roles[role] = roles.get(role, 0) + ns
        cores = list(zip(b0, b1, strict=True))
        return Usage(t1 - t0, sum(ns - c0.get(t, 0) for t, ns in c1.items()), tuple(y[0] - x[0] for x, y in cores),
                     tuple(y[1] - x[1] for x, y in cores), roles, len(self._cores))


def interruptible() -> None:
    """SIGTERM ends the bench as Ctrl-C does: by unwinding, so that what it started ends with it."""
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)          # a shell starts background jobs with SIGINT ignored
