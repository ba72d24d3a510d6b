"""The core when its tables refuse, or a defect of ours comes to light: one session or tunnel ends, and the others do not notice."""
import pytest
from headrace.control.link import LCP_PROTOCOL, push_packet
from headrace.fastpath.punt import PuntKind
from rig.core import Rig, failed


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


class Failing:
    """Tables that fail at one door, so often."""

    def __init__(self, tables, door, error, times=1):
        self.tables, self.door, self.error, self.times = tables, door, error, times

    def __getattr__(self, name):
        if name == self.door and self.times:
            self.times -= 1
            raise self.error
        return getattr(self.tables, name)


@pytest.mark.parametrize("door, error, code", [
    ("configure", BlockingIOError("session in slot 5 cannot change"), "stalled"),
    ("insert", BlockingIOError("the index of addresses cannot change"), "stalled"),
    ("insert", ValueError("no room for more than 7 prefixes"), "full"),
    ("insert", ValueError("more than 16 prefix lengths in use"), "internal"),
    ("set_state", RuntimeError("a defect"), "internal"),
])
def test_one_session_ends_when_the_tables_refuse(rig, door, error, code):
    before = rig.dial("ann", "2")
    rig.core.installer.tables = Failing(rig.tables, door, error)
    client = rig.dial()
    assert client.call_down and not client.link and rig.core.sessions.names.sessions.keys() == {"<l2tp-ann>"}
    failed(rig, user="joe", code=code)
    assert before.link and rig.dial().link


def test_a_slot_that_cannot_be_had_ends_the_call(rig):
    rig.core.installer.tables = Failing(rig.tables, "publish", ValueError("slot 5 is in use"))
    client = rig.lac().call()
    rig.collect()
    while rig.queue and not client.call_down:
        rig.now = max(rig.now, rig.queue[0][0])
        rig.deliver(rig.queue[0][2])
        rig.queue.pop(0)
        rig.collect()
    assert client.call_down and not rig.core.sessions
    assert rig.dial().link
    rig.check()


def test_a_defect_in_a_link_ends_that_link(rig, caplog):
    before, client = rig.dial("ann", "2"), rig.dial()

    def broken(*args):
        raise RuntimeError("a defect")
    session = rig.session("<l2tp-joe>")

    class Broken:
        def __init__(self, ppp):
            self.ppp = ppp
        receive = broken

        def __getattr__(self, name):
            return getattr(self.ppp, name)
    session.ppp = Broken(session.ppp)
    rig.core.frame(rig.frame(client, LCP_PROTOCOL, push_packet(9, 1, bytes(4))), rig.now)
    rig.run(2)
    assert client.call_down and before.link and list(rig.core.sessions.names.sessions) == ["<l2tp-ann>"]
    assert "a defect in headrace" in caplog.text and caplog.records[0].exc_info


def test_a_defect_in_a_tunnel_ends_that_tunnel(rig, monkeypatch):
    before, client = rig.dial("ann", "2"), rig.dial()
    broken = rig.core.l2tp.endpoint._tunnels[client.far[0]]
    receive = type(broken).receive

    def once(tunnel, *args):
        if tunnel is broken and not client.call_down:
            monkeypatch.undo()
            raise RuntimeError("a defect")
        receive(tunnel, *args)
    monkeypatch.setattr(type(broken), "receive", once)
    client.lac.call("ann", "2")
    rig.run(2)
    assert client.lac.down and "a defect in headrace" in client.lac.down.text and before.link


def test_frames_of_another_generation_are_dropped(rig):
    client = rig.dial()
    kind, worker, slot, generation, *rest = rig.frame(client, 0, kind=PuntKind.PUNT_DEAD)
    rig.core.frame((kind, worker, slot, generation + 1, *rest), rig.now)
    rig.core.frame((kind, worker, slot + 1, generation, *rest), rig.now)
    rig.run(1)
    assert client.link
    rig.core.frame((kind, worker, slot, generation, *rest), rig.now)
    rig.run(1)
    assert "no echo" in client.call_down.text
