"""A concentrator with two sessions and no network, and its API on a real Unix socket."""
from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.control import api
from headrace.control.api import Ambiguous, NotFound, Refused
from headrace.control.config import ConfigError


def row(name: str, user: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "user": user, "service": "l2tp", "caller-id": "192.0.2.7", "address": "10.67.0.9", "uptime": 26658.4,
            "idle-time": 22864.0, "encoding": "", "mtu": 1450, "mru": 1450, "rx-bytes": 1536000, "tx-bytes": 999, "rx-packets": 1200,
            "tx-packets": 9, "state": "open", **more}


class Fake:
    """Says what it holds, and remembers what it was told."""

    def __init__(self) -> None:
        self.rows = [row("<l2tp-joe>", "joe"),
                     row("<l2tp-ann>", "ann", state="authenticating", address=None, uptime=3, **{"idle-time": None})]
        self.failures = [{"time": 0, "user": "eve\x1b[2J", "service": "l2tp", "caller-id": "192.0.2.8", "stage": "authentication",
                          "reason": "wrong password", "code": 691}]
        self.numbers: dict[str, Any] = {
            "uptime": 60, "sessions": {"open": 2}, "verdicts": {"PASS": 9, "DROP_PEER": 0}, "workers": [{"load": 0.25}, {"load": 0.5}],
            "offload": {"tun": "uso", "udp": True}}
        self.told: list[str] = []
        self.reloads: Exception | None = None

    def sessions(self) -> list[dict[str, Any]]:
        return self.rows

    def session(self, name: str) -> dict[str, Any]:
        found = [r for r in self.rows if name in (r["name"], r["user"])]
        if not found:
            raise NotFound(f"there is no session {name}")
        if len(found) > 1:
            raise Ambiguous(f"{name} has {len(found)} sessions; say which: {', '.join(r['name'] for r in found)}")
        return {**found[0], "local-address": "10.67.0.1"}

    def failed(self) -> list[dict[str, Any]]:
        return self.failures

    def stats(self) -> dict[str, Any]:
        if "defect" in self.numbers:
            raise RuntimeError("a defect")
        return self.numbers

    async def disconnect(self, name: str) -> dict[str, Any]:
        found = self.session(name)
        self.told.append(found["name"])
        return {"name": found["name"]}

    async def reload(self) -> dict[str, Any]:
        if self.reloads:
            raise self.reloads
        self.told.append("reload")
        return {"reloaded": "/etc/headrace/headrace.toml"}


REFUSALS = {"config": ConfigError(["headrace.toml:3: pools.x is wrong"]), "busy": Refused("a reload is under way")}


@contextlib.contextmanager
def answering(path: Path) -> Iterator[Fake]:
    """A Fake whose API answers at path, in a loop of its own."""
    fake, loop = Fake(), asyncio.new_event_loop()
    up, end = threading.Event(), asyncio.Event()

    async def live() -> None:
        runner = await api.serve(fake, path)
        up.set()
        await end.wait()
        await runner.cleanup()
    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    try:
        assert up.wait(10)
        yield fake
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
