"""Giving up capabilities, in a process of its own; and whose files stand in the way."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from headrace.control import privilege

NET = sum(1 << n for n in (privilege.NET_ADMIN, privilege.NET_RAW))


def status(pid: int | str, thread: int | str = "self") -> dict[str, int]:
    """The capability sets and NoNewPrivs of a thread, as numbers."""
    path = Path("/proc", str(pid), "status") if thread == "self" else Path("/proc", str(pid), "task", str(thread), "status")
    lines = dict(line.split(":\t") for line in path.read_text().splitlines() if ":\t" in line)
    return {key: int(lines[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}


def after(*wanted: int, then: str = "") -> dict[str, int]:
    """What a process has that kept these; `then` is run by it as a program of its own."""
    code = f"import os; from headrace.control import privilege as p; p.keep({wanted}); p.no_more()\n"
    code += "os.execvp('cat', ['cat', '/proc/self/status'])" if then else "print(open('/proc/self/status').read())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    lines = dict(line.split(":\t") for line in out.splitlines() if ":\t" in line)
    return {key: int(lines[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}


@pytest.mark.root
@pytest.mark.parametrize("then", ["", "cat"])
@pytest.mark.parametrize("wanted, mask", [((), 0), ((privilege.NET_ADMIN, privilege.NET_RAW), NET)])
def test_what_is_kept_is_all_there_is(wanted, mask, then):
    mask &= status("self")["CapBnd"]
    assert after(*wanted, then=then) == {"CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0, "NoNewPrivs": 1}


def test_nothing_is_gained():
    before = status("self")
    kept = after(*range(41))
    assert kept["CapPrm"] == before["CapPrm"] and kept["CapBnd"] == before["CapBnd"]


@pytest.mark.root
def test_whose_files(tmp_path):
    home = tmp_path / "home"
    home.mkdir(0o755)
    file, run_dir = home / "headrace.toml", home / "run"
    file.write_text("")
    file.chmod(0o600)
    run_dir.mkdir()
    above = privilege.foreign((tmp_path,))
    assert above is None, f"{above} is another user's"
    assert privilege.foreign((file,), (run_dir,)) is None
    os.chown(home, 1234, 1234)
    assert privilege.foreign((file,), (run_dir,)) is None       # anybody may look into it
    home.chmod(0o700)
    assert privilege.foreign((file,), ()) == home
    home.chmod(0o755)
    os.chown(file, 1234, 1234)
    assert privilege.foreign((file,), ()) == file
    os.chown(run_dir, 1234, 1234)
    assert privilege.foreign((), (run_dir,)) == run_dir
    link = tmp_path / "link"
    link.symlink_to(file)
    assert privilege.foreign((link,), ()) == file
