"""The undo journal: every change to the system is written here before it is made.

A file of JSON lines in the run directory. The supervisor undoes them, last first, when it ends; when
it was killed, the next one does at its start. The first line says which boot and which network
namespace the changes belong to: in any other they are history.
"""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, **change: Any) -> None:
        """Write one change down; return when the file has it."""
        new = not self.path.exists()
        with open(self.path, "a") as file:
            if new:
                file.write(json.dumps(here()) + "\n")
            file.write(json.dumps(change) + "\n")

    def changes(self) -> list[Record]:
        """What is to be undone, in that order. A line cut short by a crash was not acted upon."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records[:0:-1] if records and records[0] == here() else []

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def here() -> Record:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return {"boot": boot, "netns": os.stat("/proc/self/ns/net").st_ino}
