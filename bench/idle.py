"""What many sessions cost while nothing happens: `headrace bench idle --sessions 60000 --tunnels 60 --minutes 5`.

All come up, then the peer answers every echo and sends nothing else. Memory is the sum of the PSS of all processes of the
concentrator, at the beginning, with all sessions up, and at the end; the CPU share is theirs together, of one core. What has
gone after that time was lost.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.table import Table

from .concentrator import Concentrator
from .lab import Lab
from .setup import Generator

SETTLE = 5.0            # seconds between the last session's coming and the first look: the set-up's last acknowledgments


def run(sessions: int, tunnels: int, method: str, rate: float, window: int, seconds: float, keepalive: str,
        say: Callable[[str], None]) -> dict[str, Any]:
    with Lab() as lab, Concentrator(lab.host, users=sessions, concentrator={"max-sessions": max(sessions, 65536)},
                                    server={"keepalive-timeout": keepalive}) as concentrator:
        empty = concentrator.memory()
        generator = Generator(lab, sessions, tunnels, method, rate, window)
        load = generator.ask()
        say(f"{load['up']} of {sessions} sessions are up after {load['seconds']:.1f} s")
        time.sleep(min(SETTLE, seconds))
        up, cpu, echoes = concentrator.memory(), concentrator.cpu(), generator.ask()["echoes"]
        begun = time.monotonic()
        say(f"{megabytes(up):.0f} MiB; waiting for {seconds:.0f} s")
        time.sleep(seconds)
        elapsed = time.monotonic() - begun
        used = {role: (after - cpu[role]) / elapsed for role, after in concentrator.cpu().items()}
        end, after = concentrator.memory(), generator.ask()
        tables, verdicts = concentrator.get("stats")["tables"], concentrator.get("stats")["verdicts"]
        begun = time.monotonic()
        listed = len(concentrator.get("sessions"))
        listing = time.monotonic() - begun
        generator.stop()
    return {
        "benchmark": "idle", "sessions": sessions, "tunnels": tunnels, "auth": method, "keepalive": keepalive, "seconds": elapsed,
        **{key: load[key] for key in ("up", "failed", "reason")}, "lost": after["lost"], "there": tables["sessions"],
        "listed": listed, "listing_seconds": listing, "echoes": after["echoes"] - echoes,
        "memory_mib": megabytes(end), "memory_mib_up": megabytes(up), "memory_mib_empty": megabytes(empty),
        "memory_mib_by_role": {role: octets / (1 << 20) for role, octets in end.items()},
        "octets_a_session": (sum(up.values()) - sum(empty.values())) / max(load["up"], 1),
        "cpu_share": sum(used.values()), "cpu_share_by_role": used,
        "dropped": {k: v for k, v in verdicts.items() if v and k.startswith("drop")}}


def megabytes(memory: dict[str, int]) -> float:
    return sum(memory.values()) / (1 << 20)


def table(rows: list[dict[str, Any]]) -> Table:
    t = Table("sessions", "tunnels", title="sessions with nothing to do", box=None)
    for head in ("MiB", "before them", "octets each", "of a core", "echoes", "failed", "lost"):
        t.add_column(head, justify="right")
    for r in rows:
        t.add_row(str(r["sessions"]), str(r["tunnels"]), f"{r['memory_mib']:.0f}", f"{r['memory_mib_empty']:.0f}",
                  f"{r['octets_a_session']:.0f}", f"{r['cpu_share']:.1%}", str(r["echoes"]), str(r["failed"]), str(r["lost"]))
    return t
