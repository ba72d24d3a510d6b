# Two commands do all the set-up: `make run` and `make test`. Both build into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard fastpath/*.pyx fastpath/*.pxd bench/*.pyx bench/*.pxd)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
SANITIZERS = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)

.PHONY: build run test bench lint sanitize clean
build: $(VENV)/.built

# The interpreter's headers and venv are packages of their own on Debian; everything else comes from PyPI.
$(VENV)/.made: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null \
	  && command -v gcc ip >/dev/null \
	  || { $(SUDO) apt-get -q update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
	       python3-venv python3-dev gcc libc6-dev iproute2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip -q --disable-pip-version-check install 'setuptools>=77' 'cython>=3.1' wheel
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + p["optional-dependencies"]["test"] + p["optional-dependencies"]["lint"]))' > $(VENV)/requirements
	$(BIN)/pip -q --disable-pip-version-check install -r $(VENV)/requirements
	@touch $@

$(VENV)/.built: $(VENV)/.made $(SOURCES)
	$(BIN)/pip -q --disable-pip-version-check install --no-build-isolation --no-deps -e .
	@touch $@

run: build
	@$(SUDO) $(BIN)/headrace run

test: build
	$(SUDO) $(BIN)/python -m pytest $(PYTEST_ARGS)

bench: build
	$(SUDO) $(BIN)/python -m headrace.bench.wire $(BENCH_ARGS)

lint: build
	$(BIN)/ruff check .
	MYPYPATH=build/pxd $(BIN)/mypy --namespace-packages --explicit-package-bases -p headrace.control

clean:
	rm -rf build .venv *.egg-info fastpath/*.so bench/*.so
