"""What people ask of a running concentrator: the API's verbs."""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..fastpath import cpu
from ..fastpath.packet import Verdict
from . import config as configuration
from .api import Ambiguous, NotFound
from .concentrator import Concentrator
from .log import set_level
from .session import Session
from .store import Store, memory

log = logging.getLogger("headrace.control")
GOODBYE = 8.0       # seconds until a session that does not end by itself is ended


class Operations:
    """The API's view of the concentrator (api.Concentrator)."""

    def __init__(self, concentrator: Concentrator, store: Store, offload: dict[str, Any], settle: Callable[[], None]) -> None:
        self.concentrator, self.store, self.offload, self.settle = concentrator, store, offload, settle

    def sessions(self) -> Iterator[dict[str, Any]]:
        """Every bundle, and every call that is no link of one, in order of arrival. One that did not authenticate yet is "starting"
        without a user, and named by its origin.
        Each is looked at when its turn comes: whoever lists tens of thousands lets others work meanwhile."""
        own = self.concentrator
        now = own.clock()
        return (s.row(own.tables, now) for s in list(own.sessions.values()) if not s.ended and s.bundle is None)

    def find(self, name: str) -> Session:
        """By its name, or by a user's when he has one session, or by what stands in place of a name before there is a user."""
        own = self.concentrator.sessions
        if name in own.names.sessions:
            return own.names.sessions[name]
        same = own.names.of(name) or [s for s in own.values() if not s.ended and s.bundle is None and name in (s.label, s.name and s.user)]
        if len(same) > 1:
            raise Ambiguous(f"{name!r} has {len(same)} sessions: {', '.join(sorted(s.label for s in same))}")
        if not same:
            raise NotFound(f"there is no session {name!r}")
        return same[0]

    def session(self, name: str) -> dict[str, Any]:
        return self.find(name).details(self.concentrator.tables, self.concentrator.clock())

    def failed(self) -> list[dict[str, Any]]:
        return self.concentrator.sessions.failures.rows

    def stats(self) -> dict[str, Any]:
        """Verdicts over all workers, each worker's own counters, what offloads and what variant of the kernels are in force, what the
        tables hold."""
        own = self.concentrator
        records = own.tables.worker_records()
        verdicts = records["verdicts"].sum(axis=0)
        columns = [n for n in records.dtype.names if n != "verdicts"]
        return {
            "verdicts": {Verdict(i).name.lower().replace("_", "-"): int(verdicts[i]) for i in range(1, Verdict.VERDICTS)},
            "workers": [{c.replace("_", "-"): int(row[c]) for c in columns} for row in records],
            "offload": self.offload,
            "cpu": cpu.name(),
            "tables": {"sessions": len(own.sessions), "tunnels": sum(len(service) for service in own.services),
                       "starting": own.sessions.starting, "waiting": len(own.sessions.waiting),
                       "max-sessions": own.ids.max_sessions, "banks": own.tables.banks},
            **{service.name: dict(service.counts) for service in own.services}}

    async def disconnect(self, name: str) -> dict[str, Any]:
        """End a session with the protocol's goodbye; it is over when this returns."""
        own, session = self.concentrator, self.find(name)
        row = session.row(own.tables, own.clock())
        over = asyncio.Event()
        own.sessions.disconnect(session, own.clock(), over.set)
        self.settle()
        try:
            await asyncio.wait_for(over.wait(), GOODBYE)
        except TimeoutError:
            if session.reason is not None and not session.ended:
                own.sessions.lose(session, session.reason, own.clock())
                self.settle()
        return row

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. The supervisor brings the kernel in line first; a mistake changes nothing."""
        path = Path(os.environ["HEADRACE_CONFIG"])
        config = configuration.load(path)
        fd = memory("config", configuration.dump(config))
        try:
            self.store.put("config", fd)
        finally:
            os.close(fd)
        config = configuration.restore(self.store.read("config"))
        self.concentrator.configure(config)
        set_level(config.concentrator.log)
        log.info("%s was read again", path)
        return {"file": str(path)}
