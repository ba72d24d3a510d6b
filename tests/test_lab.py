"""The null tunnel in the lab: it forwards, it is counted, it is charged, and nothing stays behind."""
from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace.bench import wire
from headrace.bench.headrace import Headrace, Plain
from headrace.bench.lab import FORWARDER, HOST, OTHERS, PEER, Lab, LabError, Meter, Usage, threads
from headrace.bench.port import open_tun, open_udp
from headrace.bench.pppoe import Pppoe, PppoeNull
from headrace.bench.pptp import GreNull, Pptp, PptpRaw, RawNull
from headrace.bench.sample import estimate
from headrace.bench.search import loss_free
from headrace.bench.subject import INSIDE, MTU, Null, Subject, session_address
from headrace.bench.throughput import FLOWS
from headrace.bench.wire import Case

root = pytest.mark.root
BENCH = [sys.executable, "-m", "headrace.control", "bench", "throughput"]


@root
def test_headrace_and_a_second_null_tunnel_in_the_shape_of_results(tmp_path: Path) -> None:
    """All kinds of traffic, both ways: the same tunnel costs about the same, and the rows say so."""
    out = tmp_path / "results.json"
    done = subprocess.run([*BENCH, "--wire", "offload", "--size", "64,imix", "--peer", "null", "--repeat", "1", "--duration", "0.4",
                           "--json", str(out)], check=True, cwd="/", capture_output=True, text=True)
    assert "headrace l2tp" in done.stdout
    recorded = json.loads(out.read_text())
    assert recorded["machine"]["cores"] >= 2 and recorded["kernel"] == os.uname().release and recorded["commit"] and recorded["time"]
    assert recorded["command"][:3] == ["headrace", "bench", "throughput"] and recorded["command"][-1] == "results.json"
    rows = recorded["results"]
    kinds = [("tcp", 1400, 1), ("udp", 64, 1), ("udp", 64, FLOWS), ("udp", "imix", FLOWS)]
    assert [(r["subject"], r["traffic"], r["size"], r["flows"], r["direction"]) for r in rows] == [
        (subject, *kind, direction) for kind in kinds for direction in ("up", "down") for subject in ("headrace", "null")]
    for r in rows:
        assert {"protocol", "wire", "sessions", "workers", "cost_ns", "null_cost_ns", "ratio", "ratio_interval", "gbit_s", "pps", "loss",
                "bottleneck", "claim", "shares", "latency_us", "generator_pps"} <= set(r)
        assert r["cost_ns"] > 0 and r["null_cost_ns"] > 0 and 1 / 3 < r["ratio"] < 3
        assert {"forwarder", "generator", "sink", "softirq_forwarder_core", "softirq_other_core"} <= set(r["shares"])
        assert r["shares"]["forwarder"] > 0.01 and ("control" in r["shares"]) == (r["subject"] == "headrace")
        assert ("to_headrace" in r) == (r["subject"] == "null")
        for run in r["samples"]["subject"] + r["samples"]["null"]:
            assert run["packets"] > 1000 and 0 < run["forwarder"] <= 1.05
        if r["traffic"] == "udp":
            assert 0 <= r["loss"] <= 1 and r["generator_pps"] > 10_000 and 0 < r["latency_us"]["p50"] <= r["latency_us"]["p999"]
    cost = {(r["size"], r["flows"], r["direction"]): r["cost_ns"] for r in rows if r["subject"] == "headrace"}
    assert cost[64, FLOWS, "up"] > 2 * cost[64, 1, "up"], "runs were not coalesced, or all were"
    assert cost[64, FLOWS, "down"] > 2 * cost[64, 1, "down"]


@root
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("make", [Headrace, Plain, Pptp, PptpRaw, Pppoe])
def test_headrace_is_dialled_measured_and_gone(make: type[Headrace], kind: str) -> None:
    """Sessions of the real concentrator; both directions are counted as its verdicts are, and nobody is left."""
    sessions = 1 if kind == "tcp" else 3
    with wire.prepared(make, "offload", kind, sessions) as ready:
        if make in (Pptp, PptpRaw, Pppoe):
            able = ready.alone(Case("pptp", "udp", 64, "up", "offload", 3, 3)) if kind == "udp" else 1e6
            assert able and able > 10_000
        runs = [ready.run(Case("l2tp", kind, MTU if kind == "tcp" else 64, direction, "offload", sessions, sessions), 0.7)
                for direction in ("up", "down", "both")]
        running = serving()
        if make in (Pptp, PptpRaw):
            assert ready.subject.concentrator
            frames = sum(worker["frames"] for worker in ready.subject.concentrator.get("stats")["workers"])
            assert (frames > 100) == (make is Pptp)
    assert running and not serving()
    for r in runs:
        assert r.packets > 1000 and r.cost_ns > 0 and 0 < r.forwarder <= 1.05
        assert r.loss is None or r.loss < 1
    if kind == "tcp":
        assert all(r.gbit_s > 0.05 for r in runs)


@contextlib.contextmanager
def stopping(subject: Subject) -> Iterator[None]:
    try:
        yield
    finally:
        subject.stop()


def serving() -> list[int]:
    """Processes of this process's concentrators."""
    parents = {int(p.name): int((p / "stat").read_text().rpartition(")")[2].split()[1]) for p in Path("/proc").glob("[0-9]*")
               if (p / "stat").exists()}
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return [pid for pid in mine if b"headrace.control" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@root
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("wire_kind, make", [("offload", Null), ("plain", Null), ("offload", GreNull), ("offload", RawNull),
                                             ("offload", PppoeNull)])
def test_tcp_arrives_and_every_segment_is_counted(wire_kind: str, make: type[Null], direction: str) -> None:
    with wire.prepared(make, wire_kind, "tcp", 1) as ready:
        r = ready.run(Case("l2tp", "tcp", make.mtu, direction, wire_kind), 1)
    carried = r.gbit_s * 1e9 / 8 * r.packets / r.pps
    assert r.packets * (make.mtu - 60) <= carried * 1.1, "more packets than octets"
    assert r.packets * (make.mtu - 40) >= carried, "more octets than packets can carry"
    assert r.gbit_s > 0.05


@root
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("size", [64, "imix"])
@pytest.mark.parametrize("flows, make", [(1, Null), (96, Null), (96, GreNull), (1, RawNull), (96, PppoeNull)])
def test_a_paced_generator_loses_nothing_and_the_forwarder_counts_all(direction: str, flows: int, make: type[Null],
                                                                      size: int | str) -> None:
    case = Case("l2tp", "udp", size, direction, "offload", 3 if flows > 1 else 1, flows)
    with Lab() as lab:
        subject = make(lab)
        subject.start()
        far = subject.attach(case.sessions)
        with stopping(subject), wire.traffic(subject, far, case, rate=20000) as (generator, sink):
            before = getattr(subject.packets(), direction)
            thread = threading.Thread(target=sink.run)
            thread.start()
            generator.run(packets=6400)
            moved = getattr(wire.settled(subject), direction) - before
            sink.stop()
            thread.join()
    assert moved == generator.sent == 6400
    octets = sum(case.sizes[n % len(case.sizes)] for n in range(6400))
    assert sink.counters == {"received": 6400, "bytes": octets, "missing": 0, "reordered": 0, "duplicates": 0, "stale": 0, "other": 0}


@root
def test_what_the_wire_loses_is_missing_at_the_sink() -> None:
    """A relay on the wire that drops every tenth datagram."""
    case = Case("l2tp", "udp", 64, "up", "offload")
    with Lab() as lab:
        subject = Null(lab)
        subject.start()
        far = subject.attach(1)
        with lab.peer.entered():
            relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with relay, far.wire:
            relay.bind((PEER, 0))
            relay.settimeout(5)
            with wire.traffic(subject, far._replace(host=relay.getsockname()), case) as (generator, sink):
                thread = threading.Thread(target=sink.run)
                thread.start()
                for n in range(100):
                    generator.run(packets=1)
                    data = relay.recv(2048)
                    if n % 10 != 5:
                        relay.sendto(data, far.host)
                wire.settled(subject)
                sink.stop()
                thread.join()
    assert generator.sent == 100
    assert sink.counters["received"] == 90 and sink.counters["missing"] == 10


@root
@pytest.mark.parametrize("length", [False, True])
def test_two_ends_of_an_l2tp_session_carry_tcp_and_control(length: bool) -> None:
    """lac.py at both ends: user data through the TUNs, control messages through the doors."""
    from headrace.bench.lac import DataPlane
    control = bytes.fromhex("c802 000c 0009 0000 0003 0004")       # a ZLB (RFC 2661 section 5.8)
    echo = bytes.fromhex("0002 0009 000b ff03 c021 09 01 0008 00000000")
    with Lab() as lab, contextlib.ExitStack() as stack:
        planes = []
        for side, local, peer, ours, theirs, number in (
                (lab.peer, PEER, HOST, (9, 11), (10, 12), 0), (lab.host, HOST, PEER, (10, 12), (9, 11), 1)):
            with side.entered():
                tun, outer = open_tun("lt0"), open_udp((local, 1701))
            stack.callback(os.close, tun)
            stack.enter_context(outer)
            plane = DataPlane(tun, outer, (peer, 1701), ours, theirs, length, cpu=FORWARDER if number else OTHERS)
            side.configure("lt0", f"{INSIDE if number else session_address(0)}/16", MTU)
            plane.start()
            stack.callback(plane.stop)
            planes.append(plane)
        planes[1].control.send(control)
        planes[1].control.send(echo)
        planes[0].control.settimeout(5)
        assert [planes[0].control.recv(2048) for _ in range(2)] == [control, echo]
        with lab.host.entered():
            listener = socket.create_server((INSIDE, 0))
        with lab.peer.entered():
            client = socket.create_connection(listener.getsockname(), timeout=20)
        served, _ = listener.accept()
        sent = os.urandom(4 << 20)
        with listener, client, served:
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            received = bytearray()
            while len(received) < len(sent):
                received += served.recv(1 << 16)
            sender.join()
        assert bytes(received) == sent
        assert planes[1].counters["up"] > len(sent) // MTU and planes[1].counters["bad"] == 0
        assert planes[1].counters["tun_writes"] < planes[1].counters["up"], "nothing was coalesced"


@root
def test_only_threads_on_the_forwarders_core_are_charged() -> None:
    with Lab() as lab:
        here = lab.host.spawn(["cat"], FORWARDER, stdin=subprocess.PIPE)
        there = lab.host.spawn(["cat"], OTHERS, stdin=subprocess.PIPE)
        assert threads([here.pid, there.pid], [FORWARDER]) == [here.pid]
        meter = Meter({"forwarder": [here.pid], "peer": [there.pid]})
        meter.start()
        spun = lab.host.spawn(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], OTHERS)
        spun.wait()
        usage = meter.stop()
    assert usage.elapsed > 0 and usage.cost < usage.elapsed / 2
    assert usage.busy[OTHERS] > 0 and usage.roles["forwarder"] < usage.elapsed / 2 and usage.roles.keys() == {"forwarder", "peer"}


def test_the_bottleneck_is_who_used_most_of_the_core_that_was_full() -> None:
    roles = {"forwarder": 300, "generator": 500, "sink": 350, "control": 10}
    usage = Usage(1000, 300, (400, 950), (10, 20), roles)
    assert usage.bottleneck() == "generator"
    assert usage._replace(busy=(400, 850)).bottleneck() == "none"
    assert usage._replace(cost=910).bottleneck() == "forwarder"
    assert usage._replace(cost=910, workers=2).bottleneck() == "generator"
    assert usage._replace(roles={"forwarder": 300, "generator": 200}).bottleneck() == "strangers"
    assert usage.shares() == {"forwarder": 0.3, "generator": 0.5, "sink": 0.35, "control": 0.01, "softirq_forwarder_core": 0.01,
                              "softirq_other_core": 0.02}


def namespace(pid: int | str) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def descendants(pid: int) -> set[int]:
    children = {int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()}
    return children.union(*map(descendants, children)) if children else set()


@root
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_bench_leaves_nothing_behind(number: signal.Signals, status: int) -> None:
    """A namespace is gone with its processes when it has no name; that is looked at while its number is still its own."""
    bench = subprocess.Popen([*BENCH, "--traffic", "tcp", "--peer", "l2tpns", "--repeat", "1", "--duration", "60"], cwd="/",
                             stderr=subprocess.PIPE, text=True)
    assert bench.stderr
    assert "1/1" in bench.stderr.readline()         # both subjects and their peers run by now
    family = descendants(bench.pid)
    assert len(family) >= 5
    held = {namespace(pid) for pid in family} - {namespace("self")}
    assert len(held) in (4, 5), "three labs of two; of an LNS's peer there are only threads until iperf3 comes"
    names = Path("/run/netns")
    assert not names.is_dir() or not held & {name.stat().st_ino for name in names.iterdir()}
    watched = [os.pidfd_open(pid) for pid in family]
    bench.send_signal(number)
    assert bench.wait(timeout=30) == status
    bench.stderr.close()
    poll = select.poll()
    for fd in watched:
        poll.register(fd, select.POLLIN)
    while watched:
        gone = poll.poll(10_000)
        assert gone, "a process was left behind"
        for fd, _ in gone:
            poll.unregister(fd)
            os.close(fd)
            watched.remove(fd)
    assert not {"wire", "nt0", "nt1"} & set(os.listdir("/sys/class/net"))


def test_an_unknown_wire_is_refused() -> None:
    with pytest.raises(LabError, match="offload or plain"):
        Lab("copper")


def test_the_interval_of_a_median() -> None:
    """Order statistics of seven and of nineteen samples, by the tables of the binomial distribution."""
    assert estimate([5, 1, 4, 2, 3, 7, 6])[:3] == (4, 1, 7)
    assert estimate([5, 1, 4, 2, 3, 7, 6]).confidence == pytest.approx(0.984375)
    e = estimate(range(1, 20))
    assert e[:3] == (10, 5, 15) and e.confidence == pytest.approx(0.9808, abs=1e-4)
    assert estimate([3.0]) == (3.0, 3.0, 3.0, 0.0)


@pytest.mark.parametrize("can, threshold", [(100_000.0, 0.0), (30_000.0, 0.0), (30_000.0, 0.1), (119_000.0, 0.0)])
def test_the_loss_free_rate_is_found(can: float, threshold: float) -> None:
    """A forwarder that drops what it cannot do, and moves 100,000 packets a second flat out."""
    blank = dict.fromkeys(wire.Run._fields)

    def trial(rate: float) -> wire.Run:
        sent = int(rate)
        return wire.Run(**(blank | {"offered_pps": rate, "sent": sent, "lost": max(sent - int(can), 0), "gbit_s": 1.0}))     # type: ignore
    found = loss_free(trial, 100_000.0, threshold)
    assert 0.97 * can / (1 - threshold) <= found.pps <= can / (1 - threshold)
    assert found.threshold == threshold and len(found.trials) <= 10
    assert all((t["loss"] <= threshold) == (t["rate"] <= can / (1 - threshold)) for t in found.trials)


def test_what_loses_at_any_rate_has_no_loss_free_rate() -> None:
    blank = dict.fromkeys(wire.Run._fields)
    found = loss_free(lambda rate: wire.Run(**(blank | {"offered_pps": rate, "sent": 100, "lost": 1})), 1000.0, 0.0)     # type: ignore
    assert (found.pps, found.gbit_s) == (0.0, 0.0)


@root
@pytest.mark.parametrize("protocol", ["pptp", "l2tp"])
def test_encryption_on_the_wire_is_measured_with_the_ciphers_share_apart(tmp_path: Path, protocol: str) -> None:
    """The far end's packets are read by the concentrator, and its own by the far end: TCP comes through, and the sink knows all."""
    out = tmp_path / "results.json"
    done = subprocess.run([*BENCH, "--protocol", protocol, "--mppe", "0,128", "--wire", "offload", "--size", "1400", "--repeat", "1",
                           "--duration", "0.4", "--json", str(out)], check=True, cwd="/", capture_output=True, text=True)
    assert re.search(rf"headrace {protocol} MPPE-128 +udp 1400, one flow +down .* \(\d+%\) ", done.stdout)
    rows = json.loads(out.read_text())["results"]
    assert [(r["traffic"], r["direction"], r["mppe"]) for r in rows] == [
        (kind, direction, bits) for kind, bits in (("tcp", 0), ("tcp", 128), ("udp", 0), ("udp", 128)) for direction in ("up", "down")]
    for r in rows:
        assert ("cipher_ns" in r) == (r["mppe"] > 0)
        if r["mppe"]:
            assert 0.1 < r["cipher_share"] < 0.9 and 100 < r["cipher_ns"] < r["cost_ns"]
            assert r["loss"] is None or r["loss"] < 0.5
