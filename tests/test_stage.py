"""The stage timers: on while somebody looks, complete, and off again by themselves."""
import re
import threading
import time
from pathlib import Path

import pytest
from headrace.fastpath.stage import Stage
from rig.forwarder import Bench, udp

IP = b"\x00\x21"
UP = ("RECEIVE", "DECAP", "LINK", "ORDER", "ADMIT", "DELIVER")
DOWN = ("COLLECT", "ROUTE", "ENCAP", "TRANSMIT")


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables")
    b.session()
    yield b
    b.close()


def stage(bench, column: str, name: str) -> int:
    return int(bench.tables.stage_records()[column][0][Stage[f"STAGE_{name}"]])


def up(bench, n: int) -> None:
    for _ in range(n):
        bench.send(IP + udp("10.67.0.2", "10.0.0.1", b"hello"))
        assert bench.inner_read()


def down(bench, n: int) -> None:
    for _ in range(n):
        bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"hello"))
        assert bench.peer.recv(2048)


def settled(bench, name: str, column: str, n: int) -> int:
    """A stage's column when it has reached n: a worker may still be behind the packet that we have."""
    for _ in range(1000):
        if stage(bench, column, name) >= n:
            break
        time.sleep(0.002)
    return stage(bench, column, name)


def test_nothing_is_timed_while_nobody_looks(bench):
    up(bench, 5)
    down(bench, 5)
    assert not any(bench.tables.stage_records()[column].any() for column in ("ns", "kernel_ns", "packets", "batches"))


def test_each_stage_knows_its_packets_and_what_of_its_time_was_the_kernels(bench):
    bench.tables.profile(time.monotonic_ns() + 60_000_000_000)
    up(bench, 20)
    down(bench, 30)
    for name in UP:
        assert settled(bench, name, "packets", 20) == 20, name
    for name in DOWN:
        assert settled(bench, name, "packets", 30) == 30, name
    for name in UP + DOWN:
        assert 0 < stage(bench, "batches", name) <= stage(bench, "packets", name), name
        assert 0 < stage(bench, "ns", name) < 1e9, name
        calls = name in ("RECEIVE", "DELIVER", "COLLECT", "TRANSMIT")
        assert (0 < stage(bench, "kernel_ns", name) < stage(bench, "ns", name)) if calls else stage(bench, "kernel_ns", name) == 0, name


def test_all_time_is_some_stages(bench):
    """Between two looks at the stages as much time has passed as they say, but for one wait at each end."""
    bench.tables.profile(time.monotonic_ns() + 60_000_000_000)
    up(bench, 3)
    settled(bench, "DELIVER", "packets", 3)
    start, before = time.monotonic_ns(), int(bench.tables.stage_records()["ns"].sum())
    while time.monotonic_ns() - start < 500_000_000:
        up(bench, 10)
        down(bench, 10)
    passed, counted = time.monotonic_ns() - start, int(bench.tables.stage_records()["ns"].sum()) - before
    assert abs(counted - passed) < 150_000_000


def test_timers_end_by_themselves(bench):
    bench.tables.profile(time.monotonic_ns() + 100_000_000)
    up(bench, 1)
    threading.Event().wait(0.15)
    up(bench, 1)                                # the pass that carries this packet finds the time past
    bench.wait_verdict("UP", 2)
    before = bench.tables.stage_records()["ns"].copy()
    up(bench, 20)
    bench.wait_verdict("UP", 22)
    assert (bench.tables.stage_records()["ns"] == before).all()


def test_timers_can_be_switched_off(bench):
    bench.tables.profile(time.monotonic_ns() + 60_000_000_000)
    up(bench, 1)
    bench.tables.profile(0)
    up(bench, 1)
    bench.wait_verdict("UP", 2)
    before = bench.tables.stage_records()["ns"].copy()
    up(bench, 20)
    bench.wait_verdict("UP", 22)
    assert (bench.tables.stage_records()["ns"] == before).all()


def test_readme_describes_every_stage():
    text = (Path(__file__).parents[1] / "fastpath" / "README.md").read_text().partition("## What a stage costs")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == \
        {s.name.removeprefix("STAGE_").lower() for s in Stage if s is not Stage.STAGE_COUNT}
