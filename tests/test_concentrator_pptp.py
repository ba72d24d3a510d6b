"""PPTP in the core, on real tables and without sockets: calls that come up and go, whoever ends them, and what a peer can do there."""
import logging
import os
from random import Random

import pytest
from headrace.control.address import Path, mapped
from headrace.control.concentrator import Concentrator
from headrace.control.link import LinkSettings, LinkUp
from headrace.control.log import Formatter
from headrace.control.mppe import Policy
from headrace.control.ppp import PPP
from headrace.control.pptpmessage import Stream, encode
from headrace.fastpath import table
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import State
from rig.core import configuration

LNS = mapped(bytes((10, 0, 0, 1)))
SETTINGS = LinkSettings(user="joe", password="1", authentication=("mschap2",), encryption=Policy("yes"))


class Rig:
    """The core, and peers by the numbers of their connections; `said` is what they were told, by name and values."""

    def __init__(self, folder):
        table.create(folder / "t", max_sessions=50, workers=2)
        fd = os.open(folder / "t", os.O_RDWR)
        self.tables = table.Tables(fd)
        os.close(fd)
        profiles = {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients", "use-encryption": "yes"}}
        config = configuration(profiles=profiles, server={"pptp": {"enabled": True}})
        self.now = 1000.0
        self.core = Concentrator(config, self.tables, lambda: self.now, random=Random(1))
        self.streams, self.said, self.closed, self.links = {}, {}, set(), {}

    def connect(self, host=2, name="peer"):
        number = self.core.pptp.accept(Path(1, LNS, 1723, mapped(bytes((10, 0, 0, host))), 40000), self.now)
        assert number
        self.streams[number], self.said[number] = Stream(), []
        self.say(number, "SCCRQ", protocol_version=0x0100, host_name=name)
        return number

    def say(self, number, name, **values):
        self.core.pptp.receive(number, encode(name, **values), self.now)
        self.settle()
        heard, self.said[number] = self.said[number], []
        return heard

    def settle(self):
        self.core.flush(self.now)
        for number, octets in self.core.pptp.outgoing():
            if octets is None:
                self.closed.add(number)
            else:
                self.said[number] += [(m.name, m.values) for m in self.streams[number].receive(octets)]
        frames = [frame for box in self.core.outbox for frame in box]
        self.core.outbox[:] = [[] for _ in self.core.outbox]
        for kind, slot, _, protocol, _, payload in frames:
            if kind == PuntKind.PUNT_PPP and slot in self.links:
                self.links[slot].receive(protocol, payload, self.now)

    def call(self, number, call_id=7):
        """Its session, whose PPP has not begun."""
        (name, values), = self.say(number, "OCRQ", call_id=call_id)
        assert (name, values["result"]) == ("OCRP", 1)
        return self.core.sessions[self.core.pptp.slot(self.core.pptp.endpoint._connections[number].path.peer, values["call_id"])]

    def open(self, session):
        """A client's PPP on that call, until it is up; its link."""
        self.links[session.slot] = ppp = PPP("client", SETTINGS, Random(2))
        ppp.open(self.now)
        up = []
        for _ in range(100):
            up += [event for event in ppp.events() if isinstance(event, LinkUp)]
            for protocol, payload in ppp.outgoing():
                self.core.frame((PuntKind.PUNT_PPP, session.owner, session.slot, session.generation, protocol, None, payload), self.now)
            self.settle()
            self.core.tick(self.now)
        return up[-1]

    def wait(self, seconds):
        end = self.now + seconds
        while (due := self.core.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.core.tick(self.now)
            self.settle()
        self.now = end

    def check_empty(self):
        core = self.core
        assert not core.sessions and not core.sessions.names.sessions and core.sessions.starting == core.ids.sessions == 0
        assert not core.pptp.calls and core.pptp.load == [0, 0] and not list(core.authority.addresses.in_use())
        states = self.tables.sessions()["state"][self.tables.used_slots()]
        assert set(states.tolist()) <= {State.RETIRED} and len(core.pptp) == 0


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


ENDS = {
    "the call": lambda rig, number: rig.say(number, "CCRQ", call_id=7),
    "the connection": lambda rig, number: rig.say(number, "StopCCRQ", reason=1),
    "tcp": lambda rig, number: rig.core.pptp.closed(number, rig.now),
    "no octets of pptp": lambda rig, number: rig.core.pptp.receive(number, b"GET / HTTP/1.1", rig.now),
    "we": lambda rig, number: rig.core.shut_down(rig.now),
}


@pytest.mark.parametrize("open", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_a_call_leaves_nothing_whoever_ends_it(rig, end, open):
    number = rig.connect()
    session = rig.call(number)
    assert rig.tables.state(session.slot) == State.OPENING
    if open:
        link = rig.open(session)
        assert rig.tables.state(session.slot) == State.OPEN and rig.tables.lookup(mapped(session.address)) == session.slot
        assert session.link.encoding == link.encoding == "MPPE128 stateless" and session.name == "<pptp-joe>"
    address = session.address
    ENDS[end](rig, number)
    rig.settle()
    assert session.ended and (not address or not rig.tables.lookup(mapped(address)))
    rig.wait(130)
    assert number in rig.closed
    rig.check_empty()


def test_calls_of_one_connection_are_spread_and_end_one_by_one(rig):
    number = rig.connect()
    sessions = [rig.call(number, n) for n in range(1, 9)]
    assert sorted(s.owner for s in sessions) == [0] * 4 + [1] * 4 == sorted(rig.core.pptp.calls.values())
    for n in range(1, 9):
        assert [name for name, _ in rig.say(number, "CCRQ", call_id=n)] == ["CDN"] and len(rig.core.sessions) == 8 - n
    rig.wait(130)
    rig.check_empty()


def test_a_defect_ends_that_connection(rig, monkeypatch, caplog):
    """One that a message uncovers; the log has it."""
    good, bad = rig.connect(2), rig.connect(3)
    sessions = rig.call(good), rig.call(bad)
    connection = type(rig.core.pptp.endpoint._connections[bad])
    taken = connection._message

    def broken(self, message, now):
        if self.number == bad and message.name == "Echo-Request":
            raise RuntimeError("a defect")
        taken(self, message, now)
    monkeypatch.setattr(connection, "_message", broken)
    assert rig.say(bad, "Echo-Request") == []
    assert sessions[1].ended and not sessions[0].ended and caplog.text.count("RuntimeError: a defect") == 1
    assert bad in rig.closed and good not in rig.closed and rig.open(sessions[0])


def test_a_name_cannot_begin_a_line_of_the_log(rig, caplog):
    caplog.set_level(logging.INFO)
    rig.connect(name="me\n00:00:00 INFO x\x1b[2J")
    record, = [r for r in caplog.records if "is up" in r.getMessage()]
    assert Formatter("%(message)s").format(record).isprintable()
