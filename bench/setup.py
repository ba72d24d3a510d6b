"""How fast sessions come up, and what one costs: `headrace bench setup --sessions 10000 --tunnels 10`.

    load.py in namespace peer -- veth -- `headrace serve` in namespace host, on the same cores

A session's time is from the moment it begins to dial (the first of a tunnel: to dial that) to IPCP opened at its client, and with
`--family dual` to IPV6CP opened and a router advertisement heard as well; the rate is that of all of them from the first packet.
The cost is user and system time of all processes of the concentrator, divided by the sessions that came up.
"""
from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.table import Table

from . import l2tpns
from .concentrator import Concentrator
from .lab import HOST, PEER, Lab, LabError, busy

OUTER = "10.200.0.0/16"     # the generator's outer addresses
WHERE = {"l2tp": f"{HOST}:1701", "pptp": f"{HOST}:1723", "pppoe": "wire"}
PATIENCE = 30.0         # seconds without another session
FULL = 0.9              # of a core
SERVERS = ("control", "forwarder", "l2tpns")        # processes that may fill one


class Generator:
    """load.py as a process in the lab; ready to begin once constructed."""

    def __init__(self, lab: Lab, sessions: int, tunnels: int, method: str = "mschap2", rate: float = 0, window: int = 0,
                 protocol: str = "l2tp", family: str = "ip") -> None:
        self.side = lab.peer
        lab.peer.run("ip", "route", "add", "local", OUTER, "dev", "lo")
        lab.host.run("ip", "route", "add", OUTER, "via", PEER)
        self.process = lab.peer.spawn(
            [sys.executable, "-m", "headrace.bench.load", "--peer", WHERE[protocol], "--protocol", protocol,
             "--sessions", str(sessions), "--tunnels", str(tunnels), "--from", OUTER, "--auth", method, "--family", family,
             "--rate", str(rate), "--window", str(window), "--patience", str(PATIENCE)],
            None, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._line() != "ready\n":
            raise LabError("the load generator did not start")

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def ask(self) -> dict[str, Any]:
        """The first time: begin, and say how that went when it is over. Then: what happened since the start."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self._line()
        if not line:
            raise LabError("the load generator ended early; what it said is above")
        return json.loads(line)

    def stop(self) -> None:
        """It ends its tunnels."""
        self.process.communicate()
        self.process.stdin = None           # the lab has nothing left to close
        self.side.processes.remove(self.process)


IPV6_POOL = {"links": {"prefix": "2001:db8::/40"}}
DUAL = {"local-ipv6-address": "2001:db8::1", "remote-ipv6-prefix-pool": "links"}        # of the profile


def headrace(lab: Lab, users: int, protocol: str, family: str) -> Concentrator:
    return Concentrator(lab.host, users=users, concentrator={"max-sessions": max(users, 65536)}, pppoe={} if protocol == "pppoe" else None,
                        profile=DUAL if family == "dual" else None, tables={"ipv6-pool": IPV6_POOL} if family == "dual" else None)


SUBJECTS: dict[str, Callable[[Lab, int, str, str], Concentrator | l2tpns.Server]] = {
    "headrace": headrace, "l2tpns": lambda lab, users, protocol, family: l2tpns.Server(lab.host)}
PEERS = {"l2tpns": l2tpns.found}        # each with what says that it is not installed


def run(sessions: int, tunnels: int, method: str, rate: float, window: int, subject: str = "headrace",
        protocol: str = "l2tp", family: str = "ip") -> dict[str, Any]:
    """One run with a new concentrator."""
    cores = range(os.cpu_count() or 1)
    with Lab() as lab, SUBJECTS[subject](lab, sessions, protocol, family) as concentrator:
        generator = Generator(lab, sessions, tunnels, method, rate, window, protocol, family)
        cpu, ticks, begun = concentrator.cpu(), [busy(core)[0] for core in cores], time.monotonic()
        load = generator.ask()
        elapsed = time.monotonic() - begun
        used = {role: seconds - cpu[role] for role, seconds in concentrator.cpu().items()}
        shares = {role: seconds / elapsed for role, seconds in used.items()} | {"generator": load["cpu"] / elapsed}
        machine = sum(busy(core)[0] - before for core, before in zip(cores, ticks, strict=True)) / 1e9 / elapsed / len(cores)
        there = concentrator.sessions()
        generator.stop()
    each = {role: 1e3 * seconds / load["up"] if load["up"] else None for role, seconds in (used | {"generator": load["cpu"]}).items()}
    return {
        **{key: load[key] for key in ("up", "failed", "reason", "seconds", "per_second", "timeline")}, "there": there,
        **{f"{key}_ms": milli(load[key]) for key in ("p50", "p99", "longest")},
        "cpu_ms": 1e3 * sum(used[role] for role in used if role != "radius") / load["up"] if load["up"] else None, "cpu_ms_by_role": each,
        "shares": shares, "machine": machine, "foreign": max(machine - sum(shares.values()) / len(cores), 0.0),
        "bottleneck": bottleneck(shares, machine)}


def measure(sessions: int, tunnels: int, method: str, rate: float, window: int, repeat: int, peers: list[str],
            say: Callable[[str], None], protocol: str = "l2tp", family: str = "ip") -> list[dict[str, Any]]:
    """So many runs of headrace, and of each peer in turn with it, as rows. A tunnel of PPTP is a control connection."""
    for peer in peers:
        PEERS[peer]()
    case = {"protocol": protocol, "sessions": sessions, "tunnels": tunnels, "auth": method, "rate": rate, "window": window}
    if family == "dual":
        case["family"] = family
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ["headrace", *peers]}
    for i in range(repeat):
        for name, done in runs.items():
            say(f"{name}: {sessions} sessions, {method} {i + 1}/{repeat}")
            done.append(run(sessions, tunnels, method, rate, window, name, protocol, family))
    return [result({"subject": name, **case}, done) for name, done in runs.items()]


def milli(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def bottleneck(shares: dict[str, float], machine: float) -> str:
    """The process that filled a core, the concentrator's before the generator; else the cores, if they were full together."""
    for who in (who for who in (*SERVERS, "radius", "generator") if shares.get(who, 0) >= FULL):
        return who
    return "cores" if machine >= FULL else "none"


def result(case: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A row: medians of the runs, but of what failed the worst."""
    def middle(key: str) -> float | None:
        values = [r[key] for r in runs if r[key] is not None]
        return statistics.median(values) if values else None
    return {"benchmark": "setup", **case, "failed": max(r["failed"] for r in runs),
            **{key: middle(key) for key in ("per_second", "p50_ms", "p99_ms", "longest_ms", "cpu_ms", "foreign")},
            "bottleneck": statistics.mode(r["bottleneck"] for r in runs), "samples": runs}


def table(rows: list[dict[str, Any]]) -> Table:
    t = Table("subject", "protocol", "sessions", "tunnels", "auth", title="sessions that come up", box=None)
    for head in ("a second", "p50 ms", "p99 ms", "CPU ms each", "failed", "full"):
        t.add_column(head, justify="right")
    for r in rows:
        def number(key: str, form: str, row: dict[str, Any] = r) -> str:
            return "" if row[key] is None else format(row[key], form)
        how = r["auth"] + ", dual stack" * ("family" in r)
        t.add_row(r["subject"], r["protocol"], str(r["sessions"]), str(r["tunnels"]), how, number("per_second", ".0f"),
                  number("p50_ms", ".0f"), number("p99_ms", ".0f"), number("cpu_ms", ".3f"), str(r["failed"]), r["bottleneck"])
    return t
