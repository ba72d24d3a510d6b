"""The API's verbs on a core with real sessions."""
import asyncio
import os

import pytest
from headrace.control import config as configuration_file
from headrace.control import operations
from headrace.control.api import Ambiguous, NotFound
from headrace.control.operations import Operations
from headrace.fastpath import cpu
from rig.core import Rig, configuration

KEYS = {"name", "user", "service", "caller-id", "address", "uptime", "idle-time", "encoding", "mtu", "mru", "rx-bytes", "tx-bytes",
        "rx-packets", "tx-packets", "state"}


class Store:
    """Keeps one memory file."""

    def __init__(self):
        self.kept = {}

    def put(self, name, fd):
        self.kept[name] = os.pread(fd, 1 << 20, 0)

    def read(self, name):
        return self.kept[name]


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def own(rig):
    return Operations(rig.core, Store(), {"tun": "uso", "udp": True}, lambda: rig.run(0))


def test_sessions_are_in_the_list_from_their_call_on(rig, own):
    client = rig.lac().call()
    client.silent = True
    rig.run(1)
    [row] = own.sessions()
    assert row.keys() == KEYS
    assert (row["name"], row["user"], row["state"], row["address"], row["uptime"]) == ("<l2tp from 10.0.1.1>", "", "starting", "", 0)
    client.silent = False
    rig.run(10)
    [row] = own.sessions()
    assert (row["name"], row["user"], row["state"], row["address"]) == ("<l2tp-joe>", "joe", "open", "10.67.0.2")
    assert (row["mtu"], row["mru"], row["service"], row["caller-id"], row["encoding"]) == (1450, 1450, "l2tp", "10.0.1.1", "")
    details = own.session("joe")
    assert (details["local-address"], details["remote-address"]) == ("10.67.0.1", "10.67.0.2")
    rig.now += 20
    assert 20 <= own.session("joe")["uptime"] <= 32 and 20 <= own.session("joe")["idle-time"] <= 32
    client.hang_up()
    rig.run(1)
    assert list(own.sessions()) == [] and own.failed() == []


def test_find(rig, own):
    a, b, c = rig.dial(), rig.dial("D\\ann", "2"), rig.lac().call()
    c.silent = True
    rig.run(1)
    sessions = rig.core.sessions
    assert own.find("joe") is own.find("<l2tp-joe>") is sessions[rig.slot(a)]
    assert own.find("ann") is own.find("D\\ann") is own.find("<l2tp-D\\ann>") is sessions[rig.slot(b)]
    assert own.find("<l2tp from 10.0.1.3>") is sessions[rig.slot(c)]
    for name in ("eve", "<l2tp-eve>", "<l2tp from 10.0.1.1>"):
        with pytest.raises(NotFound, match="there is no session"):
            own.find(name)
    rig.dial()
    with pytest.raises(Ambiguous, match="'joe' has 2 sessions: <l2tp-joe-1>, <l2tp-joe>"):
        own.find("joe")
    assert own.find("<l2tp-joe>") is sessions[rig.slot(a)]


def test_disconnect_returns_when_it_is_over(rig, own, monkeypatch):
    client = rig.dial()

    async def ask():
        task = asyncio.create_task(own.disconnect("joe"))
        await asyncio.sleep(0)
        assert not task.done() and rig.core.sessions
        rig.run(3)
        return await asyncio.wait_for(task, 5)
    assert asyncio.run(ask())["name"] == "<l2tp-joe>"
    assert client.call_down and not rig.core.sessions


def test_who_does_not_say_goodbye_is_ended(rig, own, monkeypatch):
    monkeypatch.setattr(operations, "GOODBYE", 0.001)
    client = rig.dial()
    client.silent = True
    assert asyncio.run(own.disconnect("joe"))["state"] == "open"
    assert list(own.sessions()) == []
    rig.run(1)
    assert not rig.core.sessions and "disconnected" in client.call_down.text


def test_disconnect_before_there_is_a_name(rig, own):
    client = rig.lac().call()
    client.silent = True
    rig.run(1)
    client.lac.silent = True        # nor does the LAC answer
    [session] = rig.core.sessions.values()
    over = []
    rig.core.sessions.disconnect(session, rig.now, lambda: over.append(1))
    rig.run(10)
    assert over == [1] and not rig.core.sessions and own.failed()[-1]["code"] == "disconnected"


def test_stats(rig, own):
    rig.dial()
    numbers = own.stats()
    assert numbers["tables"] == {"sessions": 1, "tunnels": 1, "starting": 0, "waiting": 0, "max-sessions": 1000, "banks": 1}
    assert numbers["cpu"] in cpu.available()
    assert numbers["offload"] == {"tun": "uso", "udp": True} and len(numbers["workers"]) == 1 and "drop-peer" in numbers["verdicts"]


def test_reload(rig, own, tmp_path, monkeypatch):
    path = tmp_path / "headrace.toml"
    monkeypatch.setenv("HEADRACE_CONFIG", str(path))
    monkeypatch.setattr(configuration_file, "load", lambda path: configuration(secrets={"eve": {"password": path.read_text()}}))
    client = rig.dial()
    with pytest.raises(OSError):
        asyncio.run(own.reload())
    assert client.link and rig.dial("eve", "5").link is None
    path.write_text("5")
    assert asyncio.run(own.reload()) == {"file": str(path)}
    assert client.link and rig.dial("eve", "5").link
