"""The API over a real Unix socket: answers, errors with their status, metrics."""
from __future__ import annotations

import http.client
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import REFUSALS, Fake, answering, row
from headrace.control import metrics
from headrace.control.client import Client, ClientError, Connection


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:      # short: a Unix socket's path has 107 octets
        yield Path(folder)


@pytest.fixture
def fake(place) -> Iterator[Fake]:
    with answering(place / "api.sock") as fake:
        yield fake


def ask(place: Path, method: str, path: str) -> tuple[int, str, str]:
    connection: http.client.HTTPConnection = Connection(place / "api.sock")
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, response.headers["Content-Type"].split(";")[0], body


def test_socket_is_for_owner_and_group(place, fake):
    assert (place / "api.sock").stat().st_mode & 0o777 == 0o660


def test_a_socket_left_behind_is_replaced(place):
    with answering(place / "api.sock"):
        pass
    (place / "api.sock").touch()
    with answering(place / "api.sock"):
        assert ask(place, "GET", "/v1/stats")[0] == 200


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/failed", "/v1/stats"])
def test_get(place, fake, path):
    status, kind, body = ask(place, "GET", path)
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"/v1/sessions": fake.rows, "/v1/failed": fake.failures, "/v1/stats": fake.numbers}[path]


@pytest.mark.parametrize("count", [0, 1, 500, 501, 1203])
def test_many_sessions_come_in_pieces_and_whole(place, fake, count):
    fake.rows = [row(f"<l2tp-u{n}>", f"u{n}") for n in range(count)]
    assert Client(place).request("GET", "sessions") == fake.rows


@pytest.mark.parametrize("name", ["<l2tp-joe>", "joe"])
def test_one_session(place, fake, name):
    assert Client(place).request("GET", "sessions", name) == {**fake.rows[0], "local-address": "10.67.0.1"}


@pytest.mark.parametrize("user", ["a/b", "DOMAIN\\x", "ü é", "100%", "a?b#c", ".."])
def test_any_name_arrives(place, fake, user):
    fake.rows.append(row(f"<l2tp-{user}>", user))
    assert Client(place).request("DELETE", "sessions", f"<l2tp-{user}>") == {"name": f"<l2tp-{user}>"}
    assert fake.told == [f"<l2tp-{user}>"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_such_session(place, fake, method):
    status, kind, body = ask(place, method, "/v1/sessions/bob")
    assert (status, kind, json.loads(body)) == (404, "application/json", {"error": "there is no session bob", "where": "/v1/sessions/bob"})
    assert fake.told == []


def test_ambiguous(place, fake):
    fake.rows.append(row("<l2tp-joe-1>", "joe"))
    status, _, body = ask(place, "DELETE", "/v1/sessions/joe")
    assert status == 409 and json.loads(body)["error"] == "joe has 2 sessions; say which: <l2tp-joe>, <l2tp-joe-1>"


def test_reload(place, fake):
    assert ask(place, "POST", "/v1/reload")[0] == 200 and fake.told == ["reload"]


@pytest.mark.parametrize("why, status", [("config", 422), ("busy", 409)])
def test_reload_refused(place, fake, why, status):
    fake.reloads = REFUSALS[why]
    assert ask(place, "POST", "/v1/reload")[::2] == (status, json.dumps({"error": str(REFUSALS[why]), "where": "/v1/reload"}))


@pytest.mark.parametrize("method, path, status", [("GET", "/v1/nothing", 404), ("POST", "/v1/sessions", 405), ("GET", "/v1/reload", 405)])
def test_what_is_not_offered(place, fake, method, path, status):
    got, kind, body = ask(place, method, path)
    assert (got, kind) == (status, "application/json") and set(json.loads(body)) == {"error", "where"}


def test_a_defect_is_an_error_and_in_the_log(place, fake, caplog):
    fake.numbers["defect"] = 1
    with pytest.raises(ClientError, match="internal error: RuntimeError"):
        Client(place).request("GET", "stats")
    assert "a defect" in caplog.text


def test_metrics(place, fake):
    status, kind, body = ask(place, "GET", "/metrics")
    assert (status, kind) == (200, "text/plain")
    lines = body.splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "headrace_uptime 60.0", "headrace_sessions_open 2.0", 'headrace_verdicts_total{verdict="PASS"} 9.0',
        'headrace_verdicts_total{verdict="DROP_PEER"} 0.0', 'headrace_workers_load{worker="0"} 0.25',
        'headrace_workers_load{worker="1"} 0.5',
        'headrace_offload_info{tun="uso"} 1.0', "headrace_offload_udp 1.0"]
    assert "# TYPE headrace_verdicts_total counter" in lines and "# TYPE headrace_workers_load gauge" in lines


def test_metrics_of_nested_workers():
    text = metrics.render({"workers": [{"verdicts": {"PASS": 1}}, {"verdicts": {"PASS": 2}}]}).decode()
    assert 'headrace_workers_verdicts_total{verdict="PASS",worker="1"} 2.0' in text


def test_nobody_there(place):
    with pytest.raises(ClientError, match="headrace is not running: nothing answers at"):
        Client(place).request("GET", "stats")


def test_a_socket_that_nobody_holds(place):
    with answering(place / "api.sock"):
        pass
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "dead"))
    (place / "dead").rename(place / "api.sock")
    with pytest.raises(ClientError, match="headrace is not running"):
        Client(place).request("GET", "stats")
