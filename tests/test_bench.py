"""The benchmark's commands: what they plan, compare and draw."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from headrace.bench import compare, load, plot, profile, svg, throughput, wire
from headrace.bench.command import LIMIT, app, chosen
from headrace.bench.lab import LabError
from headrace.bench.subject import Subject
from headrace.bench.world import World
from typer.testing import CliRunner

BENCH = [sys.executable, "-m", "headrace.control", "bench"]
SVG = "{http://www.w3.org/2000/svg}"


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """By itself: not as a worker of the pytest that this runs in."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run([*BENCH, *arguments], cwd="/", capture_output=True, text=True, env=ours | environment)


# --- the plan

def test_without_arguments_it_is_the_matrix_that_is_promised() -> None:
    options = chosen(False, ["l2tp"], [])
    assert (options.duration, options.repeat) == (2, 3)
    found = list(throughput.cases(options))
    assert {(c.size, c.direction, c.wire, c.sessions, c.workers) for c in found if c.traffic == "udp"} == {
        (size, direction, wire, sessions, 1) for size in (64, 1400, "imix") for direction in ("up", "down")
        for wire in ("offload", "plain") for sessions in (1, 10000)}
    assert {c.flows for c in found if c.sessions == 10000} == {10000}
    assert {c.flows for c in found if c.size == 64 and c.sessions == 1} == {1, throughput.FLOWS}
    assert len([c for c in found if c.traffic == "tcp"]) == 4 and len(set(found)) == len(found)
    assert throughput.seconds(options) <= LIMIT


def test_more_protocols_make_shorter_runs_and_not_a_longer_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("second", "third"):
        monkeypatch.setitem(throughput.PROTOCOLS, name, throughput.PROTOCOLS["l2tp"])
    options = chosen(False, ["l2tp", "second"], [])
    assert 0.25 <= options.duration < 2 and throughput.seconds(options) <= LIMIT
    assert chosen(True, ["l2tp"], []).duration == 5 and chosen(True, ["l2tp"], []).loss == 0


def test_a_peer_of_one_session_runs_beside_one_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    options = chosen(False, ["l2tp"], ["l2tpns", "openvpn"])
    assert list(throughput.subjects(options, "l2tp", 1)) == ["headrace", "", "l2tpns", "openvpn"]
    assert list(throughput.subjects(options, "l2tp", 10000)) == ["headrace", "", "l2tpns"]


@pytest.mark.parametrize("arguments, words", [
    (["throughput", "--size", "huge"], "a number"), (["throughput", "--wire", "copper"], "any of offload,plain"),
    (["throughput", "--peer", "ppp"], "any of null,"), (["throughput", "--sessions", "0"], "at least 1"),
    (["setup", "--auth", "none"], "any of mschap2"), (["--protocol", "ipip"], "any of l2tp")])
def test_what_is_not_there_is_refused_with_what_is(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and words in result.stderr


def test_only_what_can_be_encrypted_is() -> None:
    options = chosen(False, ["l2tp", "pppoe"], [])
    options.mppe = (0, 128)
    with pytest.raises(LabError, match="over l2tp, pptp, pptp-raw, not over pppoe"):
        next(throughput.measure(options, print))


@pytest.mark.parametrize("size", [51, 1401])
def test_a_size_that_does_not_fit_is_one_sentence(size: int) -> None:
    options = chosen(False, ["l2tp"], [])
    options.sizes = [size]
    with pytest.raises(LabError, match="from 52 to 1400"):
        next(throughput.measure(options, print))


def test_help_of_the_program_does_not_load_the_benchmarks() -> None:
    code = "import sys; from headrace.control import command; sys.exit('headrace.bench.command' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert re.search(r"^  bench +Benchmarks", subprocess.run([*BENCH[:-1], "--help"], capture_output=True, text=True).stdout, re.MULTILINE)


# --- rows

RUN = wire.Run(cost_ns=210.0, packets=1000, gbit_s=7.5, pps=650_000.0, offered_pps=700_000.0, sent=1000, lost=10, reordered=0, duplicates=0,
               latency_us={"p50": 10.0, "p99": 20.0, "p999": 30.0}, forwarder=0.95, others=0.5, foreign=0.0,
               shares={"forwarder": 0.95, "generator": 0.3}, bottleneck="forwarder")
CASE = wire.Case("l2tp", "udp", 64, "up", "offload", flows=64)


def row(*costs: float, name: str = "headrace", case: wire.Case = CASE, able: float | None = 1e6, **fields: Any) -> dict[str, Any]:
    runs = [RUN._replace(cost_ns=cost, **fields) for cost in costs]
    return throughput.result(name, case, {name: runs, "headrace": runs, "": [RUN._replace(cost_ns=200.0)] * len(runs)}, able)


def test_a_row_says_what_was_measured() -> None:
    r = row(210, 220, 200)
    assert (r["cost_ns"], r["null_cost_ns"], r["ratio"], r["ratio_interval"]) == (210, 200, 1.05, [1.0, 1.1])
    assert r["loss"] == 0.01 and r["latency_us"]["p99"] == 20 and r["shares"]["generator"] == 0.3


@pytest.mark.parametrize("able, full, claim", [
    (975_000.0, "forwarder", "throughput"), (974_000.0, "forwarder", "cost"), (2e6, "generator", "cost"), (2e6, "none", "cost")])
def test_a_throughput_is_claimed_where_the_generator_does_half_again_as_much(able: float, full: str, claim: str) -> None:
    assert row(210, able=able, bottleneck=full)["claim"] == claim


# --- compare

def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"results": rows}))
    return path


def compared(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", str(written(tmp_path / "a", a)), str(written(tmp_path / "b", b)), *options])
    return result.exit_code, result.stdout


def test_what_is_within_the_noise_has_not_changed(tmp_path: Path) -> None:
    assert compared(tmp_path, row(200, 210, 240), row(239, 260, 300)) == (
        0, "1 figures compared, 0 better, 0 worse, 0 of them by more than 5%; 0 rows are in one file only\n")


def test_worse_beyond_the_noise_and_the_threshold_is_an_error(tmp_path: Path) -> None:
    code, out = compared(tmp_path, row(200, 210, 220), row(240, 250, 260))
    assert code == 1 and re.search(r"udp 64 up offload .*\+19\.0% +worse", out) and "1 of them by more than 5%" in out
    code, out = compared(tmp_path, row(200, 210, 220), row(240, 250, 260), "--threshold", "0.2")
    assert code == 0 and "1 worse, 0 of them by more than 20%" in out
    code, out = compared(tmp_path, row(240, 250, 260), row(200, 210, 220))
    assert code == 0 and "1 better" in out


def test_two_runs_have_no_noise_to_be_beyond(tmp_path: Path) -> None:
    assert compared(tmp_path, row(200, 200), row(300, 300))[0] == 0


def test_only_what_measured_the_same_is_compared(tmp_path: Path) -> None:
    for other in (CASE._replace(size=1400), CASE._replace(flows=1), CASE._replace(wire="plain"), CASE._replace(workers=2),
                  CASE._replace(mppe=128)):
        result = CliRunner().invoke(app, ["compare", str(written(tmp_path / "a", row(200, 210, 220))),
                                          str(written(tmp_path / "b", row(400, 410, 420, case=other)))])
        assert result.exit_code == 1 and "no figure in common" in result.stderr


def test_more_sessions_a_second_are_better(tmp_path: Path) -> None:
    slow, fast = ({"benchmark": "setup", "sessions": 100, "tunnels": 1, "auth": "pap", "rate": 0, "window": 9,
                   "samples": [{"cpu_ms": 0.3, "per_second": n} for n in rates]} for rates in ((900, 910, 920), (1000, 1010, 1020)))
    assert compared(tmp_path, slow, fast)[0] == 0 and compared(tmp_path, fast, slow)[0] == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"results": 3}', '{"results": [3]}'])
def test_what_is_no_file_of_results_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(LabError, match="holds no results"):
        compare.rows(tmp_path / "bad")
    with pytest.raises(LabError, match="holds no results"):
        compare.rows(tmp_path / "nowhere")


def test_a_stage_that_really_takes_a_fifth_more_is_found_out(tmp_path: Path) -> None:
    """The stages as they are and with one of them held up, in turn; whatever else the machine does then slows both."""
    names = ("decap", "link", "order", "admit")
    world = World(tmp_path / "tables")
    trace, stages = world.trace("up", "64", "10"), world.stages
    stages.apart = True
    found: dict[float, list[list[float]]] = {0.0: [], 0.2: []}
    for _ in range(40):
        for share, laps in found.items():
            stages.slow("admit", share)
            stages.laps()
            assert stages.up(trace, 64) == trace.count
            laps.append([ns / trace.count for ns in stages.laps()])
    case = {"benchmark": "kernels", "kernel": "up", "size": "64", "batch": 64, "spread": "10"}
    before, after = ({**case, "samples": [sum(lap) for lap in laps],
                      "stage_samples": dict(zip(names, zip(*laps, strict=True), strict=True))} for laps in found.values())
    code, out = compared(tmp_path, before, after)
    assert code == 1 and re.search(r"kernels up 64 batch 64 10: ns of admit .* worse", out), out
    assert compared(tmp_path, before, before)[0] == 0


def test_the_kernels_in_the_shape_of_results(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    done = bench("kernels", "-k", "test_up and 64-64-10 and not cold", "--json", str(out), HEADRACE_BENCH_SLOW="admit:9")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    (result,) = record["results"]
    assert record["command"] == ["headrace", "bench", "kernels", "-k", "test_up and 64-64-10 and not cold", "--json", "kernels.json"]
    assert (result["benchmark"], result["kernel"], result["size"], result["batch"]) == ("kernels", "up", "64", 64)
    assert 0 < result["least"] <= result["ns"] and len(result["samples"]) == len(result["stage_samples"]["admit"]) == 15
    assert set(result["stages"]) == {"decap", "link", "order", "admit"}
    assert result["stages"]["admit"] > result["stages"]["decap"], "it was to be ten times as slow"


# --- pictures

def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_bars_have_the_height_of_their_values() -> None:
    panel = svg.bars("a < b & c", "ns", ["64", "1400\nsecond"], {"x": [10, None], "y": [20, 40]})
    rects = [r for r in parsed(svg.page([panel])).iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    heights = [float(r.get("height") or 0) for r in rects]
    assert heights == pytest.approx([heights[0], 2 * heights[0], 4 * heights[0]], rel=0.01)
    texts = ["".join(t.itertext()) for t in parsed(svg.page([panel])).iter(f"{SVG}text")]
    assert {"a < b & c", "64", "1400", "second", "x", "y", "ns"} <= set(texts)


@pytest.mark.parametrize("most, expected", [(0, [0, 1]), (7, [0, 1, 2, 3, 4, 5, 6, 7]), (0.9, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
                                            (1234, [0, 200, 400, 600, 800, 1000, 1200, 1400])])
def test_axes_have_round_numbers(most: float, expected: list[float]) -> None:
    assert svg.ticks(most) == pytest.approx(expected)


def test_throughput_sessions_and_set_up_are_drawn() -> None:
    rows = [row(210), row(4000, name="l2tpns"), row(300, case=CASE._replace(flows=10000)),
            row(330, case=CASE._replace(sessions=10000, flows=10000)), row(220, case=CASE._replace(direction="down")),
            {"benchmark": "setup", "subject": "l2tpns", "sessions": 1000, "auth": "pap",
             "samples": [{"timeline": load.timeline([n / 9 for n in range(1000)])}]}]
    page = parsed(plot.draw(rows))
    texts = [t.text or "" for t in page.iter(f"{SVG}text")]
    assert {"cost, l2tp up, offload wire", "rate, l2tp up, offload wire", "cost, l2tp down, offload wire", "null tunnel", "headrace",
            "l2tpns", "l2tp 64 up, offload wire", "10000 flows", "l2tpns: 1000 sessions come up, pap", "run 1"} <= set(texts)
    assert len(list(page.iter(f"{SVG}g"))) == 6
    assert len(list(page.iter(f"{SVG}polyline"))) == 3


def test_what_is_encrypted_is_drawn_apart() -> None:
    rows = [row(210), {**row(2500), "mppe": 128}]
    texts = [t.text or "" for t in parsed(plot.draw(rows)).iter(f"{SVG}text")]
    assert {"cost, l2tp up, offload wire", "cost, l2tp MPPE-128 up, offload wire"} <= set(texts)


def test_nothing_to_draw_is_one_sentence() -> None:
    with pytest.raises(LabError, match="nothing to draw"):
        plot.draw([{"benchmark": "kernels", "kernel": "up"}])


def test_a_timeline_goes_from_nobody_to_all() -> None:
    assert load.timeline([]) == [(0.0, 0)]
    assert load.timeline([0.5, 0.7]) == [(0.0, 0), (0.5, 1), (0.7, 2)]
    points = load.timeline([n / 1000 for n in range(60000)])
    assert len(points) <= load.POINTS + 1 and points[0] == (0.0, 0) and points[-1][1] == 60000
    assert points == sorted(points)


def test_every_protocol_and_peer_is_a_subject() -> None:
    for protocol in throughput.PROTOCOLS.values():
        assert issubclass(protocol.headrace, Subject) and issubclass(protocol.null, Subject)
    assert all(issubclass(peer, Subject) for peer in throughput.PEERS.values())


@pytest.mark.parametrize("name", ["profile", "bench", *(f"bench {name}" for name in (
    "throughput", "setup", "idle", "kernels", "mppe", "instructions", "compare"))])
def test_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(profile.app if name == "profile" else app, [*name.split()[1:], "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and f"Example: headrace {name}" in result.output
