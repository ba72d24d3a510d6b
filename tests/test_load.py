"""The load generator against a whole concentrator: everybody comes up, echoes are answered, and the figures have their shape."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socketpair

import pytest
from headrace.bench.concentrator import PREFIX, Concentrator, sweep
from headrace.bench.lab import Lab
from headrace.bench.lines import Lines
from headrace.bench.setup import Generator, bottleneck


def bench(name: str, out: Path, *arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "headrace.control", "bench", name, *arguments, "--json", str(out)], cwd="/",
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recorded = json.loads(out.read_text())
    assert recorded["command"][:3] == ["headrace", "bench", name] and str(out) not in recorded["command"]
    assert {"machine", "kernel", "commit", "time"} <= set(recorded)
    (row,) = recorded["results"]
    return row


@pytest.mark.root
def test_set_up_in_the_shape_of_results(tmp_path: Path) -> None:
    row = bench("setup", tmp_path / "setup.json", "--sessions", "200", "--tunnels", "4", "--repeat", "1", "--window", "50")
    assert (row["benchmark"], row["sessions"], row["tunnels"], row["auth"], row["failed"]) == ("setup", 200, 4, "mschap2", 0)
    (run,) = row["samples"]
    assert run["up"] == run["there"] == 200 and not run["reason"]
    assert 0 < run["p50_ms"] <= run["p99_ms"] <= run["longest_ms"] <= 1e3 * run["seconds"]
    assert row["p50_ms"] < 1000, "the first packets of a link are lost: only their repetition brings it up"
    assert run["per_second"] == pytest.approx(200 / run["seconds"])
    roles = run["cpu_ms_by_role"]
    assert set(roles) == {"supervisor", "control", "forwarder", "generator"}
    assert 0 < row["cpu_ms"] == pytest.approx(sum(roles.values()) - roles["generator"])
    assert roles["control"] > 0.02 and roles["forwarder"] > 0.001, "cheaper than can be"


@pytest.mark.root
@pytest.mark.parametrize("tunnels", [5, 100])
def test_set_up_by_pptp(tmp_path: Path, tunnels: int) -> None:
    """Several calls a connection, and a connection each."""
    row = bench("setup", tmp_path / "setup.json", "--protocol", "pptp", "--sessions", "100", "--tunnels", str(tunnels), "--repeat", "1")
    assert (row["protocol"], row["sessions"], row["tunnels"], row["failed"]) == ("pptp", 100, tunnels, 0)
    (run,) = row["samples"]
    assert run["up"] == run["there"] == 100 and not run["reason"] and row["p50_ms"] < 1000 and row["cpu_ms"] > 0.02


@pytest.mark.root
def test_set_up_by_pppoe(tmp_path: Path) -> None:
    """Everybody at one instant: none is left out, and none has two sessions."""
    row = bench("setup", tmp_path / "setup.json", "--protocol", "pppoe", "--sessions", "300", "--window", "0", "--repeat", "1")
    assert (row["protocol"], row["sessions"], row["failed"]) == ("pppoe", 300, 0)
    (run,) = row["samples"]
    assert run["up"] == run["there"] == 300 and not run["reason"] and row["p50_ms"] < 3000 and row["cpu_ms"] > 0.02


@pytest.mark.root
@pytest.mark.parametrize("protocol", ["l2tp", "pptp", "pppoe"])
def test_set_up_of_both_families(tmp_path: Path, protocol: str) -> None:
    """Everybody has an address of either, and his router's advertisement."""
    row = bench("setup", tmp_path / "setup.json", "--protocol", protocol, "--sessions", "100", "--tunnels", "4", "--repeat", "1",
                "--family", "dual")
    assert (row["family"], row["failed"]) == ("dual", 0)
    (run,) = row["samples"]
    assert run["up"] == run["there"] == 100 and row["p50_ms"] < 1000


@pytest.mark.root
def test_idle_sessions_answer_every_echo(tmp_path: Path) -> None:
    """Two seconds of silence bring an echo request to each of them, again and again; nobody is lost."""
    row = bench("idle", tmp_path / "idle.json", "--sessions", "500", "--tunnels", "5", "--minutes", "0.1", "--keepalive", "2s")
    assert (row["up"], row["there"], row["listed"], row["failed"], row["lost"]) == (500, 500, 500, 0, 0)
    assert row["echoes"] >= 500, "keepalive asks nobody"
    assert row["memory_mib_empty"] > 20 and row["memory_mib_by_role"].keys() == {"supervisor", "control", "forwarder"}
    assert 0 < row["cpu_share"] < 1
    # what the kernel itself says on hr0 to IPv6's all-routers concerns no session
    assert not [k for k in row["dropped"] if k != "drop-not-open"]


@pytest.mark.root
def test_all_at_one_instant_and_a_tunnel_each() -> None:
    """More tunnels than may be half-open at once from one address, and all of them dial at once."""
    with Lab() as lab, Concentrator(lab.host, users=1500) as concentrator:
        generator = Generator(lab, 1500, 1500, "pap")
        load = generator.ask()
        assert (load["up"], load["failed"], load["reason"]) == (1500, 0, "")
        tables = concentrator.get("stats")["tables"]
        assert (tables["sessions"], tables["tunnels"], tables["starting"], tables["waiting"]) == (1500, 1500, 0, 0)
        generator.stop()
        concentrator.wait("everybody is gone", lambda: not concentrator.get("stats")["tables"]["sessions"], 10)


def test_only_echoes_of_open_links_are_answered_by_the_line() -> None:
    here, there = socketpair(AF_UNIX, SOCK_DGRAM)
    with here, there:
        lines = Lines(array("i", [here.fileno()]), 2, 3)
        request = bytes.fromhex("0002 0002 0003 ff03 c021 0905 000a aabbccdd 0102")
        there.send(request)
        assert lines.receive(0) == ([], [(2, 3, 0xC021, request[10:])], False)
        lines.up(2, 3, 77, 88, 0x01020304)
        there.send(request)
        assert lines.receive(0) == ([], [], False)
        assert there.recv(100) == bytes.fromhex("0002 004d 0058 ff03 c021 0a05 000a 01020304 0102") and lines.echoes == 1
        hello = bytes.fromhex("c802 0014 0001 0000 0000 0000 8008 0000 0000 0006")
        for message in (hello, bytes.fromhex("0002 0003 0001 ff03 c021 0905"), bytes.fromhex("0002 0002"), request[:10]):
            there.send(message)
        assert lines.receive(0) == ([hello], [(2, 3, 0xC021, b"")], False)
        assert lines.strange == 2, "a tunnel that we have not, and a header cut short"
        lines.down(2, 3)
        there.send(request)
        assert len(lines.receive(0)[1]) == 1 and lines.echoes == 1
        lines.send(0, [b"x" * n for n in range(1, 71)])
        assert [len(there.recv(100)) for _ in range(70)] == list(range(1, 71))
        with pytest.raises(IndexError):
            lines.up(3, 1, 1, 1, 1)


def test_killed_benches_files_are_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, ours, other = (tmp_path / f"{PREFIX}{name}" for name in (f"{gone.pid}-a", f"{os.getpid()}-b", "c"))
    for folder in (left, ours, other):
        (folder / "run").mkdir(parents=True)
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((ours, other))


def test_who_was_the_bottleneck() -> None:
    idle = {"supervisor": 0.0, "control": 0.5, "forwarder": 0.1, "generator": 0.5}
    assert bottleneck(idle, 0.6) == "none"
    assert bottleneck(idle, 0.95) == "cores"
    assert bottleneck(idle | {"control": 0.93, "generator": 0.95}, 1.0) == "control"
    assert bottleneck(idle | {"generator": 0.95}, 1.0) == "generator"
