"""What the READMEs say is what the code does: keys, commands, examples, verdicts, state tables."""
from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from headrace.bench import command as bench_command
from headrace.control import command, listing, supervisor
from headrace.control.automaton import TABLE
from headrace.control.l2tpcall import CALL
from headrace.control.l2tptunnel import TUNNEL
from headrace.control.pppoe import CONCENTRATOR, HOST
from headrace.control.pptpcall import PAC, PNS
from headrace.control.pptpconnection import CONNECTION
from headrace.control.settings import Concentrator, L2tp, Pool6, Pppoe, Pptp, Profile, Secret, Table
from headrace.control.statetable import Transitions
from headrace.fastpath.packet import Verdict

TREE = Path(__file__).parents[1]
TABLES = {"[concentrator]": Concentrator, "[ipv6-pool.NAME]": Pool6, "[profiles.NAME]": Profile, "[secrets.USER]": Secret,
          "[server.l2tp]": L2tp, "[server.pptp]": Pptp, "[[server.pppoe]]": Pppoe}
SECONDS = {"0s": 0.0, "10s": 10.0, "30s": 30.0, "20ms": 0.02, "50us": 50e-6}


def rows(text: str) -> list[list[str]]:
    """The cells of the first Markdown table in a text, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def default(table: type[Table], name: str) -> Any:
    field = table.model_fields[name]
    return "none: must be there" if field.is_required() else field.default


def spoken(text: str) -> Any:
    """A default as the README writes it."""
    if text in ("none", "none: must be there"):
        return None if text == "none" else text
    value = tomllib.loads(f"x = {text}")["x"]
    if isinstance(value, dict):
        return {key: SECONDS[one] for key, one in value.items()}
    return SECONDS.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("heading", TABLES)
def test_the_reference_has_every_key_with_its_default(heading):
    model = TABLES[heading]
    text = (TREE / "README.md").read_text().partition(f"\n`{heading}`\n")[2]
    said = {row[0].removesuffix(" *"): spoken(row[1]) for row in rows(text)}
    known = {name.replace("_", "-"): default(model, name) for name in model.model_fields}
    assert said.keys() == known.keys()
    for key, value in known.items():
        value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        assert said[key] == value, key


@pytest.mark.parametrize(("heading", "fixed"), [("[concentrator]", supervisor.FIXED), ("[server.l2tp]", supervisor.FIXED_SERVER),
                                               ("[server.pptp]", supervisor.FIXED_PPTP),
                                               ("[[server.pppoe]]", ["interface"])])
def test_the_reference_marks_what_needs_a_restart(heading, fixed):
    text = (TREE / "README.md").read_text().partition(f"\n`{heading}`\n")[2]
    assert {row[0].removesuffix(" *") for row in rows(text) if row[0].endswith("*")} == {key.replace("_", "-") for key in fixed}


def test_every_command_is_described():
    text = (TREE / "README.md").read_text()
    described = set(re.findall(r"^\| `headrace ([a-z]+)", text, re.MULTILINE))
    assert described == {c.callback.__name__ for c in command.app.registered_commands} | command.LAZY.keys()


def test_the_examples_are_what_the_command_prints():
    text = (TREE / "README.md").read_text()
    joe = {"name": "<l2tp-joe>", "state": "open", "user": "joe", "caller-id": "192.0.2.7", "address": "10.67.0.2", "uptime": 4344,
           "idle-time": 4, "encoding": "", "mtu": 1450, "mru": 1450, "rx-bytes": 1512345, "tx-bytes": 28100000,
           "local-address": "10.67.0.1"}
    assert f"$ headrace sessions\n{listing.table(listing.SESSIONS, [joe])}\n" in text
    assert f"$ headrace monitor joe --once\n{listing.monitor(joe)}\n" in text


def matrix(transitions: Transitions) -> str:
    """A state table as Markdown: a row an event, a column a state."""
    states = list(dict.fromkeys([state for state, _ in transitions] + [after for _, after in transitions.values()]))
    lines = ["| | " + " | ".join(states) + " |", "|---" * (len(states) + 1) + "|"]
    for event in dict.fromkeys(event for _, event in transitions):
        cells = []
        for state in states:
            actions, after = transitions.get((state, event), ((), ""))
            text = ", ".join(actions)
            cells.append("" if not after else text or "stay" if after == state else f"{text} → {after}".strip())
        lines.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@pytest.mark.parametrize("table", [*map(matrix, (TUNNEL, CALL, CONNECTION, PAC, PNS, CONCENTRATOR, HOST)),
                                   textwrap.dedent(TABLE).strip("\n")],
                         ids=["tunnel", "call", "connection", "pac", "pns", "concentrator", "host", "ppp"])
def test_state_tables_are_the_programs(table):
    assert table in (TREE / "control" / "README.md").read_text(), f"put this there:\n{table}"


FUNCTION = re.compile(r"^(?:cdef|cpdef|def)\b[^\n=]*?(\w+)\(")


def places(verdict: str) -> set[tuple[str, str]]:
    """The functions of the fast path that name a verdict, as (file, function)."""
    found = set()
    for path in sorted((TREE / "fastpath").glob("*.p[xy][dx]")):
        function = ""
        for line in re.sub(r'"""[^"]*"""', "", path.read_text()).splitlines():
            opened = FUNCTION.match(line)
            function = opened[1] if opened else function if line[:1] in ("", " ") else ""
            if function and re.search(rf"\b{verdict}\b", line.partition("#")[0]):
                found.add((path.name, function))
    return found


@pytest.mark.parametrize("verdict", [v for v in Verdict.__members__ if v not in ("PASS", "VERDICTS")])
def test_every_verdict_is_described_where_it_is_set(verdict):
    text = (TREE / "fastpath" / "README.md").read_text().partition("## Verdicts")[2]
    said = {row[0].strip("`"): row[2] for row in rows(text)}
    listed = {(file, function) for place in said[verdict.lower().replace("_", "-")].split(", ")
              for file, *functions in [place.replace("`", "").split(" ")] for function in functions}
    assert listed == places(verdict), f"fastpath/README.md must say where {verdict} is set"


def test_every_benchmark_is_described():
    text = (TREE / "bench" / "README.md").read_text()
    described = set(re.findall(r"^\| `headrace bench ([a-z]+)", text, re.MULTILINE))
    assert described == {c.callback.__name__ for c in bench_command.app.registered_commands}


def test_files_that_the_bench_readme_names_are_there():
    named = set(re.findall(r"\w+\.pyx?\b", (TREE / "bench" / "README.md").read_text()))
    assert named and all((TREE / "bench" / name).exists() for name in named)
