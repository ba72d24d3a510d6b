# Two commands do all the set-up: `make run` and `make test`. Both build into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard fastpath/*.pyx fastpath/*.pxd bench/*.pyx bench/*.pxd)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PIP := $(BIN)/pip -q --disable-pip-version-check install
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300

# Shell: go on only as root, or with sudo; and install the Debian packages in $$missing.
ROOT = [ -z "$(SUDO)" ] || command -v sudo >/dev/null || { echo "this needs root: run make as root, or install sudo" >&2; exit 1; }
INSTALL = command -v apt-get >/dev/null || { echo "this needs what Debian calls $$missing" >&2; exit 1; }; \
	$(ROOT); echo "installing $$missing"; $(APT) update >/dev/null && $(APT) install -y --no-install-recommends $$missing >/dev/null

.PHONY: build run test bench figures lint sanitize packages root clean
build: $(VENV)/.built

# The interpreter's headers and venv are packages of their own on Debian; everything else comes from PyPI.
$(VENV)/.made: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null \
	  && command -v gcc >/dev/null || { missing="python3-venv python3-dev gcc libc6-dev"; $(INSTALL); }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; t = tomllib.load(open("pyproject.toml", "rb")); p = t["project"]; more = p["optional-dependencies"]; \
	  print("\n".join(t["build-system"]["requires"] + p["dependencies"] + more["test"] + more["lint"]))' > $(VENV)/requirements
	$(PIP) -r $(VENV)/requirements
	@touch $@

$(VENV)/.built: $(VENV)/.made $(SOURCES)
	$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

run: build root
	@$(SUDO) $(BIN)/headrace run

test: build packages
	$(SUDO) $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

bench: build packages
	$(SUDO) $(BIN)/headrace bench $(BENCH_ARGS)

# All published figures, and README.md's tables and pictures from them: about half an hour, with nothing else on the machine.
MEASURE = cd bench/results && $(SUDO) $(abspath $(BIN))/headrace bench
figures: build packages
	$(MEASURE) throughput --size 64,imix --duration 1 --json wire.json
	$(MEASURE) throughput --size 64 --duration 1 --repeat 3 --peer l2tpns,wireguard-go,openvpn --json peers.json
	$(MEASURE) throughput --traffic tcp --duration 1 --peer offload-none --json offload.json
	$(MEASURE) throughput --traffic udp --size 64 --sessions 1,10000,60000 --flows 10000,60000 --wire offload --duration 1 --json sessions.json
	$(MEASURE) throughput --protocol pptp --size 64,1400 --wire offload --duration 1 --json pptp.json
	$(MEASURE) throughput --protocol pptp-raw --size 1400 --wire offload --duration 1 --json pptp-raw.json
	$(MEASURE) throughput --protocol pptp --mppe 128 --size 64,1400 --wire offload --duration 1 --repeat 5 --json pptp-mppe.json
	$(MEASURE) throughput --mppe 128 --size 64,1400 --wire offload --duration 1 --repeat 3 --json l2tp-mppe.json
	$(MEASURE) throughput --protocol pppoe --size 64 --duration 1 --json pppoe.json
	$(MEASURE) setup --json setup.json
	$(MEASURE) setup --window 0 --json setup-instant.json
	$(MEASURE) setup --auth pap --peer l2tpns --json setup-pap.json
	$(MEASURE) setup --protocol pppoe --json setup-pppoe.json
	$(MEASURE) setup --protocol pppoe --window 0 --json setup-pppoe-instant.json
	$(MEASURE) setup --protocol pppoe --family dual --json setup-dual.json
	$(MEASURE) idle --minutes 5 --json idle.json
	$(MEASURE) idle --tunnels 60000 --minutes 2 --json idle-tunnels.json
	$(MEASURE) kernels --json kernels.json
	$(MEASURE) mppe --json mppe.json
	$(BIN)/python -m headrace.bench.readme

lint: build
	$(BIN)/ruff check .
	MYPYPATH=build/pxd $(BIN)/mypy --namespace-packages --explicit-package-bases -p headrace.control -p headrace.bench

# The tests of compiled code again, on copies of it: one with ASan and UBSan, and those of threads on one with TSan. An error ends
# the run. pytest must leave stderr alone, or what a sanitizer says dies with it; TSan wants fewer random addresses.
SANITIZED := build/sanitize
RACED := build/race
COPY = HEADRACE_BUILD=$(1) $(BIN)/python setup.py -q build --parallel 2 --build-base $(1) --build-lib $(1)/lib
PRELOADED = LD_PRELOAD="$(foreach name,$(2),$$(gcc -print-file-name=lib$(name).so))" PYTHONPATH=$(1)/lib
HERE = $(BIN)/python -c 'from headrace.fastpath import worker as w; assert "$(1)/" in w.__file__, w.__file__'
SANITIZED_TESTS = $(BIN)/python -m pytest --capture=sys -p no:cacheprovider -m 'not root' $(PYTEST_ARGS)
sanitize: build
	HEADRACE_SANITIZE=1 $(call COPY,$(SANITIZED))
	HEADRACE_SANITIZE=thread $(call COPY,$(RACED))
	@export $(call PRELOADED,$(RACED),tsan) TSAN_OPTIONS=history_size=7; \
	  fixed=$$(setarch -R true 2>/dev/null && echo setarch -R); \
	  set -x; $(call HERE,$(RACED)) && $$fixed $(SANITIZED_TESTS) tests/test_races.py
	@export $(call PRELOADED,$(SANITIZED),asan ubsan) PYTHONMALLOC=malloc HEADRACE_FUZZ=150 \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1; \
	  set -x; $(call HERE,$(SANITIZED)) && $(SANITIZED_TESTS) $$(grep -lE 'fastpath\._probe|fastpath import table|rig\.' tests/test_*.py)

root:
	@$(ROOT)

# Debian's l2tpns starts a service when it is installed; the benchmark needs the program alone.
PEERS := build/peers
$(PEERS)/.unpacked:
	@mkdir -p $(PEERS)
	@echo "unpacking l2tpns"; cd $(PEERS); \
	fetch() { apt-get -q download l2tpns $$(apt-cache depends l2tpns | sed -n 's/.*Depends: \(libcli.*\)/\1/p') >/dev/null 2>&1; }; \
	fetch || { $(APT) update >/dev/null && fetch; } && for package in *.deb; do dpkg-deb -x $$package . || exit 1; done
	@touch $@

packages: root $(PEERS)/.unpacked
	@missing=$$(while read -r name file; do case $$name in \#*) ;; *) [ -e "$$file" ] || echo "$$name" ;; esac; done < tests/packages); \
	  [ -z "$$missing" ] || { missing=$$(echo $$missing); $(INSTALL); }

clean:
	rm -rf build .venv *.egg-info fastpath/*.so bench/*.so
