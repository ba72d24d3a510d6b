"""How answers of the API look to people: tables, and RouterOS' monitor format."""
from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from . import duration

Column = tuple[str, str]        # heading, key
SESSIONS: list[Column] = [("NAME", "name"), ("STATE", "state"), ("CALLER-ID", "caller-id"), ("ADDRESS", "address"),
                          ("PREFIX", "remote-ipv6-prefix"), ("BRIDGE", "bridge"), ("UPTIME", "uptime"),
                          ("IDLE", "idle-time"), ("ENCODING", "encoding"), ("LINKS", "links"), ("MTU", "mtu"), ("MRU", "mru"),
                          ("RX", "rx-bytes"), ("TX", "tx-bytes")]
FAILED: list[Column] = [("TIME", "time"), ("USER", "user"), ("SERVICE", "service"), ("CALLER-ID", "caller-id"), ("STAGE", "stage"),
                        ("REASON", "reason"), ("CODE", "code")]
STATUS = {"starting": "dialing", "authenticating": "verifying password", "open": "connected", "closing": "terminated"}
MONITOR = ("status", "uptime", "idle-time", "encoding", "local-address", "remote-address", "local-ipv6-address",
           "remote-ipv6-address", "remote-ipv6-prefix", "delegated-ipv6-prefix", "bridge", "active-links", "mtu", "mru")
QUOTED = {"status", "encoding"}


def cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in ("uptime", "idle-time"):
        return duration.show(value)
    if key == "time":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if key.endswith("-bytes"):
        return size(value)
    if key == "links":
        return str(len(value))
    # what a peer sent (a user name) must not steer the terminal
    return "".join(c if c.isprintable() else "?" for c in str(value))


def size(octets: float) -> str:
    """1.5M: three digits are enough for a table, --json has them all."""
    for unit in ("", "k", "M", "G"):
        if octets < 1000:
            return f"{octets:.0f}" if not unit else f"{octets:.3g}{unit}"
        octets /= 1000
    return f"{octets:.3g}T"


def table(columns: list[Column], rows: Iterable[dict[str, Any]]) -> str:
    """Columns as wide as their widest cell; a column that nobody has is left out, the first one never."""
    cells = [[cell(key, row.get(key)) for _, key in columns] for row in rows]
    shown = [i for i in range(len(columns)) if i == 0 or not cells or any(row[i] for row in cells)]
    widths = {i: max([len(columns[i][0]), *(len(row[i]) for row in cells)]) for i in shown}
    lines = [[columns[i][0] for i in shown], *([row[i] for i in shown] for row in cells)]
    return "\n".join("  ".join(text.ljust(widths[i]) for i, text in zip(shown, line, strict=True)).rstrip() for line in lines)


def monitor(session: dict[str, Any]) -> str:
    """One session as RouterOS prints it: labels to the right, strings quoted, durations and numbers bare, only what is known."""
    known = {**session, "status": STATUS.get(session.get("state", ""), session.get("state")), "remote-address": session.get("address")}
    if "links" in session:
        known["active-links"] = len(session["links"])
    rows = []
    for key in MONITOR:
        value = known.get(key)
        if value is None or (value == "" and key != "encoding"):
            continue
        text = cell(key, value)
        rows.append((key, f'"{text}"' if key in QUOTED else text))
    width = max(len("idle-time"), *(len(key) for key, _ in rows)) + 2
    return "\n".join(f"{key:>{width}}: {text}" for key, text in rows)


def stats(numbers: dict[str, Any]) -> str:
    """Nested keys as `a.b: value` lines, one a number; verdicts that never happened are left out."""
    return "\n".join(f"{name}: {text}" for name, text in flat("", numbers))


def flat(name: str, value: Any) -> Iterable[tuple[str, str]]:
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = value.items() if not name.endswith("verdicts") else ((k, v) for k, v in value.items() if v)
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield name, json.dumps(value) if isinstance(value, bool) else cell(name.rpartition(".")[2], value)
        return
    for key, inner in items:
        yield from flat(f"{name}.{key}" if name else str(key), inner)
