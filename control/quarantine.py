"""Sessions in whose packets the forwarder dies.

A worker that crashes leaves on record whose packets it had at hand (fastpath/crash.pxd). The session that DEATHS crashes within
WITHIN seconds have in common is ended, and its user stays out for BARRED seconds: whoever sends there has found a defect of ours,
and the others shall not notice.
"""
from __future__ import annotations

import logging
import signal
from collections import Counter
from enum import IntEnum
from pathlib import Path
from typing import Any

from ..fastpath import crash
from ..fastpath.stage import Stage
from .reason import Reason
from .sessions import Sessions

log = logging.getLogger("headrace.quarantine")

DEATHS, WITHIN = 3, 10.0
BARRED = 600.0
NAMED = 3           # sessions that a line of the log names
QUARANTINED = Reason("link", "quarantined",
                     f"the forwarder crashed {DEATHS} times within {WITHIN:.0f} s with packets of this session at hand")


def name_of(kind: type[IntEnum], number: int) -> str:
    """Who wrote the number had gone astray: it need not be one."""
    return next((name for name, value in kind.__members__.items() if value == number), f"{number}?")


class Quarantine:
    def __init__(self, tables: Any, sessions: Sessions, run_dir: Path) -> None:
        self.tables, self.sessions, self.run_dir = tables, sessions, run_dir
        self.seen = crash.count(tables)         # what was before our time is told, but counts

    def look(self, now: float) -> None:
        """Now and then: has a worker crashed since?"""
        if crash.count(self.tables) == self.seen:
            return
        entries = crash.entries(self.tables)
        newest, seen = entries[-1], self.seen
        self.seen = newest[0] + 1
        for number, _, signum, worker, stage, handles in entries:
            if number >= seen:
                log.error("worker %d crashed by %s in %s, at hand: packets of %s; they are in %s", worker, name_of(signal.Signals, signum),
                          name_of(Stage, stage).removeprefix("STAGE_").lower(), self.names(handles), self.run_dir / crash.file_name(number))
        times = Counter(handle for entry in entries if newest[1] - entry[1] < WITHIN for handle in entry[5])
        for (slot, generation), deaths in times.items():
            session = self.sessions.get(slot)
            if deaths >= DEATHS and session is not None and session.generation == generation and not session.ended:
                log.error("%s is ended: %s", session.label, QUARANTINED.text)
                self.sessions.failures.add(session.service.name, session.user, session.caller_id, QUARANTINED)
                if session.account:
                    self.sessions.authority.bar(session.account, now + BARRED)
                self.sessions.lose(session, QUARANTINED, now)

    def names(self, handles: list[tuple[int, int]]) -> str:
        found = [s.label for slot, generation in handles if (s := self.sessions.get(slot)) is not None and s.generation == generation]
        more = len(found) - NAMED
        return (", ".join(found[:NAMED]) or "no session") + (f" and {more} more" if more > 0 else "")
