"""No kernel executes more for a packet than it did, unless that is on record."""
from __future__ import annotations

import json
import warnings

import pytest
from headrace.bench import instructions
from headrace.bench.lab import LabError

FIGURES = {"up: decap": 100.0, "down: route": 180.0}


def test_no_kernel_grew():
    """By callgrind, on this machine's compiler. What is not on record yet is recorded, and said in pytest's summary."""
    counted, problems, news = instructions.check()
    for line in news:
        warnings.warn(line, stacklevel=1)
    assert not problems, "headrace bench instructions --update, if this was meant"
    for figures in counted.values():
        assert {kernel.rpartition(" ")[2] for kernel in figures} >= {"decap", "order", "link", "admit", "route", "encap", "turn"}
        assert all(1 < n < 100_000 for n in figures.values())
        assert figures["mppe 1400, sessions 6: run"] > 1400 * 5
        assert figures["coalesce 1400: merge"] > figures["coalesce 64: merge"] > figures["coalesce, no two of a flow: merge"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instructions.json"
    path.write_text(json.dumps({instructions.key(p): FIGURES for p in instructions.PATHS}))
    return path


def measured(**factors: float):
    """In place of callgrind: what is on record, times a factor a kernel."""
    return lambda path: {kernel: n * factors.get(kernel.rpartition(" ")[2], 1.0) for kernel, n in FIGURES.items()}


def test_growth_is_an_error_until_it_is_updated(file):
    before = file.read_text()
    _, problems, news = instructions.check(file=file, measure=measured(decap=1.06))
    assert len(problems) == len(instructions.PATHS) and "up: decap: 106 instructions a packet, 6.0% more than 100" in problems[0]
    assert not news and file.read_text() == before
    _, problems, _ = instructions.check(True, file, measured(decap=1.06))
    assert not problems and "106.0" in file.read_text()
    assert not instructions.check(file=file, measure=measured(decap=1.06))[1]


@pytest.mark.parametrize("factor", [1.04, 1.0, 0.5])
def test_less_is_no_error_and_neither_is_a_little(file, factor):
    assert instructions.check(file=file, measure=measured(route=factor))[1:] == ([], [])


def test_a_kernel_that_is_gone_is_an_error(file):
    _, problems, _ = instructions.check(file=file, measure=lambda path: {"up: decap": 100.0})
    assert problems and "down: route is not counted any more" in problems[0]


def test_an_unknown_key_and_an_unknown_kernel_are_recorded(tmp_path):
    file = tmp_path / "instructions.json"
    _, problems, news = instructions.check(file=file, measure=lambda path: {"up: decap": 100.0})
    assert not problems and len(news) == len(instructions.PATHS) and "was not known" in news[0]
    _, problems, news = instructions.check(file=file, measure=measured())
    assert not problems and "down: route was not known" in news[0]
    assert json.loads(file.read_text()) == {instructions.key(p): FIGURES for p in instructions.PATHS}


def test_what_callgrind_writes_is_read(tmp_path):
    """Inclusive figures: of each call the line behind it, whether names are written out or numbered."""
    dump = tmp_path / "out.1"
    dump.write_text("fn=(1) caller\n10 5\ncfn=(2) kernel\ncalls=3 7\n11 300\ncfi=(9) x.c\ncfn=(2)\ncalls=1 7\n12 50\n\nfn=(2)\n7 200\n"
                    "cfn=leaf\ncalls=4 1\n8 150\n")
    assert instructions.inclusive(dump) == {"kernel": 350, "leaf": 150}


def test_without_valgrind_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    with pytest.raises(LabError, match="valgrind is not installed"):
        instructions.count("portable")
