"""Build: each fastpath/*.pyx and bench/*.pyx becomes an extension module of headrace.

HEADRACE_DEBUG=1 adds bounds checks, line numbers and annotated sources; HEADRACE_ANNOTATE=1 the
annotated sources alone (tests/test_annotate.py reads them); HEADRACE_SANITIZE=1 builds the fast path
with ASan and UBSan, HEADRACE_SANITIZE=thread with TSan (`make sanitize` says how).
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

PKG = "headrace"
DEBUG, ANNOTATE, SANITIZE = (os.environ.get(f"{PKG.upper()}_{x}") for x in ("DEBUG", "ANNOTATE", "SANITIZE"))
BUILD = Path(os.environ.get(f"{PKG.upper()}_BUILD", "build"))   # where generated C goes
FOLDERS = ("fastpath", "control", "bench")

cflags = ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-cast-function-type",
          "-Wno-missing-field-initializers", "-fno-strict-aliasing"]
ldflags = []
if SANITIZE:
    kind = "thread" if SANITIZE == "thread" else "address,undefined"
    cflags += ["-O1", "-g", f"-fsanitize={kind}", "-fno-omit-frame-pointer", "-DHEADRACE_SANITIZE=1"]
    cflags += ["-Wno-tsan"] * (kind == "thread")      # it warns of each fence that it does not know
    ldflags += [f"-fsanitize={kind}"]
else:
    cflags += ["-O1" if DEBUG else "-O3", "-g"]

DIRECTIVES = {
    "language_level": 3, "boundscheck": bool(DEBUG or SANITIZE), "wraparound": False, "cdivision": True,
    "initializedcheck": False, "freethreading_compatible": True,
}


def declarations():
    """Cython looks for headrace/<folder>/*.pxd on disk; give it that view of this tree."""
    view = Path("build/pxd", PKG)
    view.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        link = view / folder
        if not link.is_symlink():
            link.symlink_to(f"../../../{folder}")
    return ["build/pxd"]


def extensions():
    for folder in ("fastpath",) if SANITIZE else ("fastpath", "bench"):
        for source in sorted(Path(folder).glob("*.pyx")):
            yield Extension(f"{PKG}.{folder}.{source.stem}", [str(source)],
                            extra_compile_args=cflags, extra_link_args=ldflags)


setup(
    packages=[f"{PKG}.{folder}" for folder in FOLDERS],
    package_dir={f"{PKG}.{folder}": folder for folder in FOLDERS},
    package_data={f"{PKG}.{folder}": ["*.pxd", "*.pyi", "py.typed"] for folder in FOLDERS},
    exclude_package_data={"": ["*.c", "*.pyx"]},
    ext_modules=cythonize(
        list(extensions()), build_dir=str(BUILD / "c"), include_path=declarations(),
        annotate=bool(DEBUG or ANNOTATE), emit_linenums=bool(DEBUG or SANITIZE),
        compiler_directives=DIRECTIVES, nthreads=0 if os.environ.get("HEADRACE_SERIAL") else (os.cpu_count() or 1)),
)
