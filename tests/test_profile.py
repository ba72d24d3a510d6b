"""`headrace profile`: reports of stages, their words and pictures; in a lab, and of a concentrator that serves."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from headrace.bench import counters, flame, stages
from headrace.bench.budget import BUDGETS
from headrace.bench.explain import copy_ns, explain
from headrace.fastpath.stage import Stage
from ours.packets import numbered
from ours.place import LAN
from rig.forwarder import Bench, udp

root = pytest.mark.root
TREE = Path(__file__).parents[1]
HEADRACE = str(Path(sys.executable).with_name("headrace"))
KEYS = {"seconds", "packets_up", "packets_down", "pps", "ns_a_packet", "user_ns_a_packet", "kernel_ns_a_packet", "kernel_share",
        "run_ns_a_packet", "sampled_kernel_share", "awake_share", "run_share", "waited_share", "awake", "calls", "counted", "not_counted",
        "stages", "explained"}


# --- budgets

def docstring(file: str, function: str) -> str:
    text = (TREE / "fastpath" / file).read_text()
    found = re.search(rf'^cdef [^\n]*\b{function}\([^"]*?"""(.*?)"""', text, re.MULTILINE | re.DOTALL)
    assert found, f"{function} in {file} has no docstring"
    return " ".join(found[1].split())


@pytest.mark.parametrize("stage", BUDGETS)
def test_budgets_are_the_docstrings(stage):
    budget = BUDGETS[stage]
    said = docstring(budget.file, budget.function).partition("Budget: ")[2].rstrip(".")
    assert said == budget.text
    figure = re.search(r"(\d+) ns an? (\w+)", said)
    assert figure and (float(figure[1]), figure[2]) == (budget.ns, budget.unit)


def test_every_stage_that_packets_pass_has_a_budget():
    passed = [name for name in stages.NAMES if name in stages.UP + stages.DOWN]
    assert set(passed) == set(BUDGETS)


# --- reports

def looks(seconds: float = 1.0, run: float = 1.0, **spent: tuple[int, int, int, int]) -> tuple[stages.Look, stages.Look]:
    """Two looks at one worker between which stages spent (ns, kernel ns, packets, batches) each."""
    zero = {c: np.zeros((1, len(Stage)), np.uint64) for c in ("ns", "kernel_ns", "packets", "batches")}
    later = {c: zero[c].copy() for c in zero}
    for name, values in spent.items():
        for column, value in zip(later, values, strict=True):
            later[column][0, Stage[f"STAGE_{name.upper()}"]] = value
    calls = dict.fromkeys(stages.CALLS, 0)
    awake = sum(v[0] for name, v in spent.items() if name != "sleep")
    ran = int(awake * run)
    return (stages.Look(0, zero, calls, 0, 0, counters.Times(0, 0, 0, 0), {"cycles": 0}),
            stages.Look(int(seconds * 1e9), later, {**calls, "writes": 100, "reads": 50}, 1000, 500,
                        counters.Times(ran, awake - ran, ran // 4, ran * 3 // 4), {"cycles": 30_000}))


def test_a_report_divides_each_stage_by_its_own_direction():
    report = stages.compare(*looks(decap=(10_000, 0, 1000, 20), deliver=(500_000, 400_000, 1000, 20), collect=(90_000, 60_000, 50, 10),
                                   loop=(3000, 1500, 0, 0), sleep=(900_000_000, 0, 0, 0)))
    rows = {row["stage"]: row for row in report["stages"]}
    assert set(rows) == {"decap", "deliver", "collect", "loop"}
    assert rows["decap"]["ns_a_packet"] == 10 and rows["decap"]["user_ns_each"] == 10 and rows["decap"]["ns_a_batch"] == 500
    assert rows["deliver"]["user_ns_a_packet"] == 100 and rows["deliver"]["kernel_ns_a_packet"] == 400
    assert rows["deliver"]["packets_a_batch"] == 50
    assert rows["collect"]["ns_a_packet"] == 180 and rows["collect"]["user_ns_each"] == 600
    assert rows["loop"]["ns_a_packet"] == 2 and rows["loop"]["budget"] is None
    assert rows["decap"]["budget"]["ns"] == 8
    assert sum(row["share"] for row in report["stages"]) == pytest.approx(1)
    assert report["ns_a_packet"] == pytest.approx(603_000 / 1500) and report["kernel_share"] == pytest.approx(461_500 / 603_000)
    assert report["counted"] == {"cycles_a_packet": 20} and report["sampled_kernel_share"] == pytest.approx(0.75, abs=0.01)
    assert 0 < report["awake_share"] < 0.001


def test_what_others_did_on_the_core_is_nobodys_cost():
    """The worker ran half of the time that passed in its stages."""
    whole, half = (stages.compare(*looks(run=run, decap=(10_000, 2000, 1000, 20))) for run in (1.0, 0.5))
    assert half["stages"][0]["ns_a_packet"] == whole["stages"][0]["ns_a_packet"] / 2
    assert half["ns_a_packet"] == half["run_ns_a_packet"] == whole["ns_a_packet"] / 2
    assert half["stages"][0]["ns"] == 10_000 and half["waited_share"] == 0.5


def test_the_words_name_what_it_is():
    """Copies and sums of large packets, misses, a stage over its budget, who is full."""
    def said(seconds: float = 0.001, octets: int = 1400, **spent: tuple[int, int, int, int]) -> str:
        return "\n".join(explain(stages.compare(*looks(seconds, **spent)), octets))
    words = said(decap=(40_000, 0, 1000, 10), deliver=(900_000, 800_000, 1000, 20))
    assert "The forwarder is the limit: a worker was awake 94% of the time; deliver takes most of it" in words
    assert "lookup misses: decap" in words and "memcpy: the kernel copies a packet's 1400 octets in deliver" in words
    assert "checksum: deliver spends 100.0 ns a packet" in words
    assert "system calls: in deliver, writes to hr0 take 800 ns a packet, 8000 ns a call of 10.0 packets." in words
    words = said(octets=64, decap=(8000, 0, 1000, 10), link=(9000, 0, 1000, 10), receive=(900, 800, 1000, 20))
    assert "The forwarder is not the limit: its busiest worker was awake 2%" in words
    assert "link is over its budget: 9.0 ns where it may take 2 (2 ns a packet)." in words
    assert "misses" not in words and "memcpy" not in words and "checksum" not in words


def test_nothing_moved_is_said():
    a, b = looks(loop=(5000, 0, 0, 0))
    assert explain(stages.compare(a, b._replace(up=0, down=0))) == ["No packet was moved: there is nothing to explain."]


def test_a_copy_takes_longer_the_more_it_copies():
    assert 0 < copy_ns(64) < copy_ns(60_000) < 1e6


def test_counters_count_what_the_kernel_offers():
    """Sleeping switches contexts; what the processor does not count is said, and left out."""
    with counters.Counters([threading.get_native_id()]) as c:
        before = c.read()
        for _ in range(5):
            time.sleep(0.001)
        after = c.read()
        assert after["context-switches"] - before["context-switches"] >= 5
        assert {n for n in counters.EVENTS if n not in after} == {n for n in counters.EVENTS if n in c.missing.partition(" here:")[0]}
        if "instructions" in after:
            assert after["instructions"] > before["instructions"]


def test_times_of_threads_go_on():
    before = counters.times(counters.threads(os.getpid()))
    sum(range(2_000_000))
    after = counters.times(counters.threads(os.getpid()))
    assert after.run > before.run and after.waited >= before.waited and after.user + after.kernel >= before.user + before.kernel


# --- the switch

def test_timers_are_on_inside_and_off_behind(tmp_path):
    bench = Bench(tmp_path / "tables")
    try:
        bench.session()
        looker = stages.Looker(bench.tables, os.getpid())
        with pytest.raises(KeyboardInterrupt), stages.timing(bench.tables):
            until = time.monotonic() + 5
            while not bench.tables.profile_until and time.monotonic() < until:
                time.sleep(0.001)
            assert 0 < bench.tables.profile_until - time.monotonic_ns() <= stages.LEASE_NS
            before = looker.look()
            for _ in range(10):
                bench.send(b"\x00\x21" + udp("10.67.0.2", "10.0.0.1", b"hello"))
                assert bench.inner_read()
            bench.wait_verdict("UP", 10)
            report = stages.compare(before, looker.look())
            raise KeyboardInterrupt
        looker.close()
        assert bench.tables.profile_until == 0
        assert report["packets_up"] == 10 and {"receive", "decap", "deliver"} <= {row["stage"] for row in report["stages"]}
    finally:
        bench.close()


# --- flame graphs

SAMPLED = """\
python3   77
\tffffffff81 skb_copy+0x12
\tffffffff82 __x64_sys_recvmmsg
\t    7f0001 __recvmmsg
\t    7f0002 __pyx_f_8headrace_8fastpath_4port_receive
\t    7f0003 __pyx_f_8headrace_8fastpath_2up_up
\t    7f0004 __pyx_f_8headrace_8fastpath_6worker_run
\t    7f0005 _PyEval_EvalFrameDefault

python3   77
\t    7f0006 __pyx_f_8headrace_8fastpath_5decap_decap.isra.0
\t    7f0003 __pyx_f_8headrace_8fastpath_2up_up
\t    7f0004 __pyx_f_8headrace_8fastpath_6worker_run

python3   78
\t    7f0007 [unknown] <&>
"""


def titles(svg: str) -> list[str]:
    tree = ElementTree.fromstring(svg)
    return [e.text or "" for e in tree.iter("{http://www.w3.org/2000/svg}title")]


def test_samples_of_perf_become_stacks():
    found = flame.fold(SAMPLED.splitlines())
    assert found == {
        ("forwarder", "worker.run", "up.up", "port.receive", "__recvmmsg", "__x64_sys_recvmmsg", "skb_copy"): 1,
        ("forwarder", "worker.run", "up.up", "decap.decap"): 1, ("forwarder", "[unknown] <&>"): 1}
    assert "up.up: 2 samples, 66.7%" in titles(flame.svg(found, "a <title>", "samples"))


def test_stages_become_a_picture():
    report = stages.compare(*looks(decap=(10_000, 0, 1000, 20), deliver=(90_000, 60_000, 1000, 20), loop=(1000, 0, 0, 0)))
    svg = flame.svg(flame.stages(report), "stages", "ns")
    assert {"deliver: 90000 ns, 89.1%", "system calls: 60000 ns, 59.4%", "forwarder: 101000 ns, 100.0%"} <= set(titles(svg))
    frames = [e for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert all(float(e.get("x", "-1")) >= 0 and float(e.get("x", "0")) + float(e.get("width", "0")) <= flame.WIDTH for e in frames)


# --- the command

def run(*argv: str, **kw: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HEADRACE, "profile", *argv], capture_output=True, text=True, timeout=120, cwd="/", **kw)


@root
def test_a_lab_both_ways(tmp_path):
    """The JSON's shape, and figures that can be true: parts add up, and nothing is negative."""
    picture = tmp_path / "flame.svg"
    done = run("--size", "1400", "--seconds", "0.5", "--json", "--flame", str(picture))
    assert done.returncode == 0, done.stderr
    recorded = json.loads(done.stdout)
    assert recorded["command"][:2] == ["headrace", "profile"] and recorded["machine"]["cores"] >= 2
    up, down = recorded["results"]
    for row, names in ((up, ("receive", "decap", "link", "order", "admit", "deliver")), (down, ("collect", "route", "encap", "transmit"))):
        assert set(row) >= KEYS | {"protocol", "traffic", "direction", "size", "wire", "sessions", "flows", "untimed_run_ns_a_packet"}
        found = {s["stage"]: s for s in row["stages"]}
        assert set(names) <= set(found)
        assert row[f"packets_{row['direction']}"] > 1000
        assert row["untimed_run_ns_a_packet"] > 0 and 0 < row["kernel_share"] < 1 and row["kernel_ns_a_packet"] > row["user_ns_a_packet"]
        assert sum(s["ns_a_packet"] for s in row["stages"]) == pytest.approx(row["ns_a_packet"], rel=0.1)
        assert all(0 <= s["kernel_ns"] <= s["ns"] for s in row["stages"])
        assert row["ns_a_packet"] == pytest.approx(row["run_ns_a_packet"], rel=0.3)
        for name in names:
            assert found[name]["packets"] > 0 and found[name]["batches"] > 0, name
            assert found[name]["budget"] == {k: getattr(BUDGETS[name], k) for k in ("ns", "unit", "text")}
        assert row["explained"][0].startswith("A packet costs ")
    assert up["packets_up"] > 100 * up["packets_down"] and down["packets_down"] > 100 * down["packets_up"]
    names = " ".join(titles(picture.read_text()))
    assert "1400 up offload" in names and "1400 down offload" in names and "transmit" in names


@root
def test_a_lab_for_people():
    done = run("--size", "64", "--flows", "8", "--direction", "up", "--seconds", "0.3", "--explain", "--wire", "plain")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ ?deliver( +[\d.]+){3} +[\d.]+% +\d+( +[\d.]+){2} +25 a packet", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^\* A packet costs \d+ ns", done.stdout, re.MULTILINE), done.stdout


@root
@pytest.mark.parametrize("more, wanted", [((), {"transmit"}), (("--mppe", "128"), {"encrypt", "transmit"})])
def test_a_lab_of_pptp(more, wanted):
    done = run("--protocol", "pptp", *more, "--direction", "down", "--seconds", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    row, = json.loads(done.stdout)["results"]
    found = {s["stage"]: s for s in row["stages"]}
    assert wanted <= set(found) and row["packets_down"] > 1000 and ("encrypt" in found) == ("encrypt" in wanted)
    if more:
        assert row["mppe"] == 128 and found["encrypt"]["user_ns_each"] > 100


@root
def test_a_lab_of_pppoe():
    """Frames come by a ring, so that no system call receives them, and are as large as PPPoE's: 1492 octets."""
    done = run("--protocol", "pppoe", "--size", "1492", "--seconds", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    up, down = json.loads(done.stdout)["results"]
    stages = [{s["stage"]: s for s in row["stages"]} for row in (up, down)]
    assert {"receive", "decap", "order", "link", "admit", "deliver"} <= set(stages[0]) and up["packets_up"] > 1000
    assert {"collect", "route", "encap", "transmit"} <= set(stages[1]) and down["packets_down"] > 1000
    assert stages[0]["receive"]["packets"] > 1000 and stages[0]["receive"]["kernel_ns"] == 0 < stages[0]["deliver"]["kernel_ns"]
    assert not any("receive" in words for words in up["explained"] if words.startswith(("system calls", "memcpy")))
    assert up["protocol"] == "pppoe" and up["untimed_run_ns_a_packet"] > 0


@pytest.mark.parametrize("argv", [("--mppe", "128", "--protocol", "pppoe"), ("--mppe", "64"),
                                  ("--protocol", "l2tp", "--size", "1492"), ("--protocol", "pppoe", "--size", "1493"),
                                  ("--size", "9000"), ("--direction", "sideways"), ("--wire", "wet"), ("--protocol", "carrier-pigeon"),
                                  ("--live", "-c", "/nonexistent/headrace.toml")])
def test_what_cannot_be_is_one_sentence(argv):
    done = run(*argv)
    assert done.returncode != 0 and not done.stdout and len(done.stderr) < 600 and "Traceback" not in done.stderr
    assert argv[-1] in done.stderr


@root
def test_live_and_off_again_however_it_ends(lac, here):
    """A concentrator that serves: its packets are seen while they flow; behind it the switch is off, also when it was interrupted."""
    concentrator = here()
    client = lac()
    caller = client.call("joe")
    tables = stages.open_tables(concentrator.run_dir / "tables")
    assert tables.profile_until == 0
    packets = [caller.header() + numbered(caller.address, LAN, 0, k, 100) for k in range(50)]

    def looking(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen([HEADRACE, "profile", "--live", "-c", str(concentrator.file), *more], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
    looker = looking("--seconds", "1", "--json")
    while looker.poll() is None:
        client.burst(packets)
        time.sleep(0.01)
    out, said = looker.communicate()
    assert looker.returncode == 0, said
    row, = json.loads(out)["results"]
    assert set(row) >= KEYS and row["live"] and row["packets_up"] >= 50
    assert {"receive", "decap", "link", "order", "admit", "deliver"} <= {s["stage"] for s in row["stages"]}
    assert tables.profile_until == 0
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        looker = looking("--seconds", "60")
        until = time.monotonic() + 20
        while not tables.profile_until and time.monotonic() < until:
            time.sleep(0.01)
        assert tables.profile_until > time.monotonic_ns()
        looker.send_signal(how)
        looker.communicate(timeout=20)
        if how is signal.SIGKILL:               # nobody is left to switch it off; it ends by itself
            assert tables.profile_until - time.monotonic_ns() <= stages.LEASE_NS
        else:
            assert looker.returncode == 130 and tables.profile_until == 0
