"""What runs without the GIL is C through and through: no call into Python, no exception to look for, on any line.

The compiler enforces most of this, but not all: a division checked for zero, or an exception that must be looked for, takes the
GIL in the middle of a nogil function, at the cost of everyone else. Cython's annotated pages show that, but not of what stands in
a .pxd, which is where most of ours is; so the generated C is read, and only Cython runs here, no C compiler.
"""
from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import Cython
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("fastpath", "bench") for path in (ROOT / folder).glob("*.p[yx][xd]"))
NOGIL = re.compile(r"^([ ]*)cdef (?:inline )?[^()=\n]*?(\w+)\((?:[^()]|\([^()]*\))*\) noexcept nogil:", re.M)
CLASS = re.compile(r"^cdef class (\w+)", re.M)
DEFINITION = re.compile(r"^static [^;{}=]*?\b(__pyx_f_\w+)\([^;{}]*\) \{\n(.*?)^\}", re.M | re.S)
COMMENT = re.compile(r"/\*.*?\*/", re.S)
PYTHON = re.compile(r"\b(?:__Pyx_\w+|_?Py[A-Z]\w+|__pyx_L\d+_error)\b")


def translate(arguments: list[str], cwd: Path, **environment: str) -> str:
    """Run a program that calls Cython; what it says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def c_name(path: Path, owner: str, name: str) -> str:
    parts = ["headrace", path.parent.name, path.stem, *([owner] if owner else [])]
    return "__pyx_f_" + "".join(f"{len(part)}{part}" if i == 0 else f"_{len(part)}{part}" for i, part in enumerate(parts)) + f"_{name}"


def nogil_functions(path: Path, text: str) -> list[str]:
    """The C names of the functions that a source declares to run without the GIL."""
    names = []
    for found in NOGIL.finditer(text):
        owners = [owner.group(1) for owner in CLASS.finditer(text, 0, found.start())]
        names.append(c_name(path, owners[-1] if found.group(1) else "", found.group(2)))
    return names


def bodies(c: str) -> dict[str, str]:
    return {found.group(1): COMMENT.sub("", found.group(2)) for found in DEFINITION.finditer(c)}


@pytest.fixture(scope="module")
def generated() -> tuple[dict[str, str], str]:
    """Every function of the generated C by its name, and what Cython said; kept while no source changes."""
    content = hashlib.sha256(Cython.__version__.encode() + (ROOT / "setup.py").read_bytes())
    for path in SOURCES:
        content.update(path.name.encode() + path.read_bytes())
    kept = ROOT / "build" / "annotate" / content.hexdigest()[:16]
    if not kept.exists():
        shutil.rmtree(kept.parent, ignore_errors=True)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.mkdir(parents=True)
        log = translate(["setup.py", "--name"], ROOT, HEADRACE_BUILD=str(part))
        (part / "log").write_text(log)
        part.rename(kept)
    functions: dict[str, str] = {}
    for c in sorted(kept.rglob("*.c")):
        for name, body in bodies(c.read_text()).items():
            functions.setdefault(name, "")
            functions[name] += body
    return functions, (kept / "log").read_text()


def test_no_python_without_the_gil(generated):
    functions, _ = generated
    bad, seen = {}, 0
    for path in SOURCES:
        for name in nogil_functions(path, path.read_text()):
            if name not in functions:
                assert path.suffix == ".pxd", f"{name} is not in the generated C"      # an inline function that nobody uses
                continue
            seen += 1
            python = set(PYTHON.findall(functions[name]))
            if python:
                bad[name] = python
    assert not bad
    assert seen > 150


def test_cython_sees_no_hidden_cost(generated):
    """A nogil function without noexcept takes the GIL to ask for an exception. Cython says so, and goes on."""
    _, log = generated
    assert "Cythonizing" in log and "performance hint" not in log


def test_the_gate_closes(tmp_path):
    """A division that may raise is found where the compiler let it through."""
    source = tmp_path / "fastpath" / "bad.pyx"
    source.parent.mkdir()
    source.write_text("cdef int good(int a) noexcept nogil:\n    return a + 1\n\n"
                      "cdef int share(int a, int b) noexcept nogil:\n    return a // b\n\n"
                      "def door(a, b):\n    return share(good(a), b)\n")
    translate(["-m", "cython", "-3", "--module-name", "headrace.fastpath.bad", str(source)], tmp_path)
    functions = bodies(source.with_suffix(".c").read_text())
    good, share = nogil_functions(source, source.read_text())
    assert not PYTHON.search(functions[good]) and PYTHON.search(functions[share])
