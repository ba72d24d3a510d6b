"""Results as JSON that says where they come from: machine, kernel, commit, command, and all samples."""
from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

CHANGES = ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results", ":(top,exclude)README.md")


def machine() -> dict[str, Any]:
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith(("model name", "Model"))]
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(), "architecture": platform.machine()}


def commit() -> str | None:
    """Of the tree that this file is in; with "+" when that was changed since, but for figures and README.md, which shows them."""
    def git(*arguments: str) -> str:
        tree = Path(__file__).resolve().parent
        return subprocess.run(["git", "-c", f"safe.directory={tree.parent}", *arguments], cwd=tree, capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git(*CHANGES) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def record(command: list[str], results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"machine": machine(), "kernel": platform.release(), "commit": commit(), "command": command,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "results": results}


def write(path: Path, command: list[str], results: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(record(command, results), indent=1) + "\n")
