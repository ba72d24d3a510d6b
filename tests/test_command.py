"""The command: what it prints, to the letter, and how it fails."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import Fake, answering, row
from headrace.control import command, config, example, listing
from headrace.control.settings import Concentrator, L2tp, Pppoe, Pptp, Profile, Secret, Server
from typer.testing import CliRunner


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        (Path(folder) / "headrace.toml").write_text(f'[concentrator]\nrun-dir = "{folder}"\n')
        yield Path(folder)


@pytest.fixture
def fake(place) -> Iterator[Fake]:
    with answering(place / "api.sock") as fake:
        yield fake


@pytest.fixture
def headrace(place, monkeypatch):
    """Run the command in this process; status, output, complaint."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def run(*argv: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(command.app, argv)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr
    yield run
    monkeypatch.undo()
    time.tzset()


SESSIONS = """\
NAME        STATE           CALLER-ID  ADDRESS    UPTIME    IDLE    MTU   MRU   RX     TX
<l2tp-joe>  open            192.0.2.7  10.67.0.9  7h24m18s  6h21m4s  1450  1450  1.54M  999
<l2tp-ann>  authenticating  192.0.2.7             3s                1450  1450  1.54M  999
"""
FAILED = """\
TIME                 USER      SERVICE  CALLER-ID  STAGE           REASON          CODE
1970-01-01 00:00:00  eve?[2J   l2tp     192.0.2.8  authentication  wrong password  691
"""
STATS = """\
uptime: 1m
sessions.open: 2
verdicts.PASS: 9
workers.0.load: 0.25
workers.1.load: 0.5
offload.tun: uso
offload.udp: true
"""
MONITOR = """\
          status: "connected"
          uptime: 7h24m18s
       idle-time: 6h21m4s
        encoding: ""
   local-address: 10.67.0.1
  remote-address: 10.67.0.9
             mtu: 1450
             mru: 1450
"""


def squeezed(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_sessions(headrace, fake):
    status, out, err = headrace("sessions")
    assert (status, err) == (0, "") and squeezed(out) == squeezed(SESSIONS)
    heading, joe, ann = out.splitlines()
    assert [heading.index(h) for h in ("STATE", "ADDRESS", "MTU")] == [joe.index("open"), joe.index("10.67"), joe.index("1450")]
    assert ann.index("1450") == heading.index("MTU")


def test_failed(headrace, fake):
    status, out, _ = headrace("sessions", "--failed")
    assert status == 0 and squeezed(out) == squeezed(FAILED) and "\x1b" not in out


def test_nobody_is_connected(headrace, fake):
    fake.rows = []
    assert squeezed(headrace("sessions")[1]) == [[heading for heading, _ in listing.SESSIONS]]


def test_json_is_what_the_api_says(headrace, fake):
    assert json.loads(headrace("sessions", "--json")[1]) == fake.rows
    assert json.loads(headrace("sessions", "--json", "--failed")[1]) == fake.failures
    assert json.loads(headrace("stats", "--json")[1]) == fake.numbers


def test_stats(headrace, fake):
    assert headrace("stats") == (0, STATS, "")


def test_monitor(headrace, fake):
    assert headrace("monitor", "joe", "--once") == (0, MONITOR, "")


@pytest.mark.parametrize("session, text", [
    # RouterOS' own example, to the letter
    ({"state": "open", "uptime": 26658, "idle-time": 22864, "encoding": "MPPE128 stateless", "mtu": 1450, "mru": 1450},
     '     status: "connected"\n     uptime: 7h24m18s\n  idle-time: 6h21m4s\n   encoding: "MPPE128 stateless"\n'
     '        mtu: 1450\n        mru: 1450'),
    ({"state": "starting", "encoding": None}, '     status: "dialing"'),
    ({"state": "authenticating", "uptime": 0}, '     status: "verifying password"\n     uptime: 0s'),
    ({"state": "closing"}, '     status: "terminated"'),
])
def test_monitor_says_what_is_known(session, text):
    assert listing.monitor(session) == text


def test_monitor_for_programs(headrace, fake):
    status, out, _ = headrace("monitor", "joe", "--once", "--json")
    assert status == 0 and out.count("\n") == 1 and json.loads(out).items() > fake.rows[0].items()


def test_monitor_repeats_until_the_session_ends(headrace, fake, monkeypatch):
    def second(pause: float) -> None:
        assert pause == 1
        fake.rows.clear()
    monkeypatch.setattr(command.time, "sleep", second)
    assert headrace("monitor", "joe") == (1, MONITOR + "\n", "headrace: there is no session joe\n")


def test_disconnect(headrace, fake):
    assert headrace("disconnect", "joe") == (0, "<l2tp-joe> is disconnected\n", "")
    assert fake.told == ["<l2tp-joe>"]


@pytest.mark.parametrize("argv", [("monitor", "bob", "--once"), ("disconnect", "bob")])
def test_no_such_session(headrace, fake, argv):
    assert headrace(*argv) == (1, "", "headrace: there is no session bob\n")


def test_ambiguous(headrace, fake):
    fake.rows.append(row("<l2tp-joe-1>", "joe"))
    assert headrace("disconnect", "joe") == (1, "", "headrace: joe has 2 sessions; say which: <l2tp-joe>, <l2tp-joe-1>\n")
    assert fake.told == []


@pytest.mark.parametrize("argv", [("sessions",), ("sessions", "--failed"), ("stats",), ("monitor", "joe"), ("disconnect", "joe")])
def test_not_running(headrace, place, argv):
    assert headrace(*argv) == (1, "", f"headrace: headrace is not running: nothing answers at {place}/api.sock\n")


def test_no_configuration(headrace, place):
    (place / "headrace.toml").unlink()
    status, out, err = headrace("sessions", "-c", "gone.toml")
    assert (status, out, err) == (1, "", "headrace: gone.toml: there is no such file\n")


def test_check(headrace, place):
    example.write(place / "good.toml")
    assert headrace("check", "-c", "good.toml") == (0, "good.toml: good\n", "")


def test_check_says_all(headrace, place):
    (place / "bad.toml").write_text("[concentrator]\nworkers = 99\nlog = 'loud'\n")
    status, out, err = headrace("check", "-c", "bad.toml")
    assert (status, out) == (1, "")
    assert sorted(err.splitlines()) == ["headrace: bad.toml:2: concentrator.workers is 99, but must be from 0 to 16",
                                        'headrace: bad.toml:3: concentrator.log is "loud", '
                                        'but must be "debug", "info", "warning" or "error"']


@pytest.mark.parametrize("name", ["serve", "run", "check", "sessions", "monitor", "disconnect", "stats"])
def test_help_has_an_example(headrace, name):
    status, out, _ = headrace(name, "--help")
    assert status == 0 and f"Example: headrace {name}" in out and "-c, --config FILE" in out


def test_what_run_writes(place):
    path = place / "new.toml"
    example.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    written = config.load(path)
    assert written.server.l2tp.enabled and len(written.secrets["headrace"].password) == 14
    example.write(place / "other.toml")
    assert config.load(place / "other.toml").secrets["headrace"].password != written.secrets["headrace"].password
    with pytest.raises(FileExistsError):
        example.write(path)
    # what is written out are the defaults, so the file explains the program
    default = config.Config.model_validate({})
    assert written.concentrator == default.concentrator
    for (_, server), (_, other) in zip(written.server.all(), default.server.all(), strict=True):
        assert server.enabled and server.model_copy(update={"enabled": False}) == other


@pytest.mark.parametrize("table", [Concentrator, L2tp, Pppoe, Pptp, Profile, Secret])
def test_every_key_in_force_is_in_what_run_writes(place, table):
    example.write(place / "new.toml")
    text = (place / "new.toml").read_text()
    assert [field.alias for field in table.model_fields.values() if field.alias not in text] == []


def test_what_to_dial(place):
    example.write(place / "new.toml")
    text = (place / "new.toml").read_text().replace("0.0.0.0:1", "192.0.2.1:1")
    (place / "new.toml").write_text(text)
    written = config.load(place / "new.toml")
    password = written.secrets["headrace"].password
    lines = example.dial(written)
    assert lines[0] == f"dial L2TP to 192.0.2.1, UDP port 1701, user headrace, password {password}"
    assert lines[4] == f"dial PPTP to 192.0.2.1, TCP port 1723 and GRE, user headrace, password {password}"
    assert [line.split()[0] for line in lines] == ["dial", "Linux", "Windows", "RouterOS"] * 2
    assert all(("192.0.2.1" in line and password in line) or "Windows" in line for line in lines)
    off = Server(l2tp=written.server.l2tp.model_copy(update={"enabled": False}), pptp=written.server.pptp)
    assert example.dial(written.model_copy(update={"server": off})) == lines[4:]
    assert "nobody can dial in" in example.dial(config.Config())[0]


@pytest.mark.parametrize("use, windows, linux", [("no", "NoEncryption", False), ("yes", "Optional", False), ("require", "Required", True)])
def test_what_to_dial_says_what_is_encrypted(place, use, windows, linux):
    example.write(place / "new.toml")
    text = (place / "new.toml").read_text().replace('use-encryption = "yes"', f'use-encryption = "{use}"')
    (place / "new.toml").write_text(text)
    lines = example.dial(config.load(place / "new.toml"))
    assert all(f"-EncryptionLevel {windows}" in line for line in lines if "Windows" in line)
    assert [line.endswith(" require-mppe") for line in lines if "Linux" in line] == [linux, linux]


def test_a_variant_that_the_cpu_does_not_have_is_one_sentence(place):
    path = place / "new.toml"
    result = subprocess.run([sys.executable, "-m", "headrace.control", "run", "-c", str(path)], capture_output=True, text=True,
                            env=os.environ | {"HEADRACE_CPU": "fast"})
    assert result.returncode == 1 and result.stderr.startswith("headrace: HEADRACE_CPU: no level 'fast': this CPU has portable")
    assert result.stderr.count("\n") == 1


def test_run_without_root_says_so(place):
    """The real program, from its start to its first failure: a run directory that cannot be made."""
    path = place / "new.toml"
    example.write(path)
    path.write_text(path.read_text().replace("/run/headrace", "/proc/headrace"))
    path.chmod(0o644)
    result = subprocess.run([sys.executable, "-m", "headrace.control", "run", "-c", str(path)], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": ""}, timeout=60)
    assert result.returncode == 1
    warning, sentence = result.stderr.splitlines()
    assert warning.endswith(f"{path} holds passwords, and others than its owner may read it; chmod 600 would be right")
    assert sentence == "headrace: the run directory /proc/headrace cannot be used: No such file or directory"
    assert result.stdout.startswith("dial L2TP to ")
