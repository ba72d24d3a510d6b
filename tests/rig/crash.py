"""A forwarder's process that a packet kills, as a defect of its own would: crash.c in front of its system calls."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

UP, DOWN = b"crash-up", b"crash-down"       # what in a packet does it, on its way to the inner port or to the wire


def preload(folder: Path) -> dict[str, str]:
    """Build it; the environment of a process in which it is."""
    library = folder / "crash.so"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("crash.c")], check=True)
    return {"LD_PRELOAD": " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(library))))}
