"""PPTP in the core, without sockets: our own PNS at the other end of a string of octets, PPP frames as a worker would punt them."""
from __future__ import annotations

import os
from random import Random

import pytest
from headrace.control.address import Path, mapped
from headrace.control.concentrator import Concentrator
from headrace.control.link import LCP_PROTOCOL, LinkDown, LinkSettings, LinkUp
from headrace.control.ppp import PPP
from headrace.control.pptp import Endpoint, Settings
from headrace.control.pptpconnection import Connection
from headrace.control.pptpevents import CallDown, CallOpening, CallUp, ConnectionDown
from headrace.control.reason import Reason
from headrace.fastpath import table
from headrace.fastpath.packet import Kind
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import State
from rig.core import configuration
from test_pptp import Ids

SERVER = mapped(bytes((10, 0, 0, 1)))
BYE = Reason("admin", "bye", "the test hangs up")


class Client:
    """A PNS with one connection, and a PPP client on each call."""

    def __init__(self, rig, number=1):
        self.rig, self.address = rig, mapped(bytes((10, 0, 1, number)))
        self.end = Endpoint(Settings(), Ids())
        self.far = rig.core.pptp.accept(Path(0, SERVER, 1723, self.address, 40000), rig.now)
        self.near = self.end.dial(Path(0, self.address, 40000, SERVER, 1723), rig.now)
        self.links, self.downs, self.theirs, self.gone, self.silent = {}, {}, {}, None, False

    def call(self, user="joe", password="1"):
        call = self.end.place_call(self.near, self.rig.now)
        self.links[call] = [PPP("client", LinkSettings(user=user, password=password, authentication=("mschap2",)), self.rig.random), None]
        return call

    def slot(self, call):
        tables = self.rig.core.tables
        return tables.slot(tables.peer_hash(self.address), self.theirs[call])

    def drain(self):
        now = self.rig.now
        for event in self.end.events():
            if isinstance(event, CallOpening):
                self.theirs[event.call_id] = event.peer_call_id
            elif isinstance(event, CallUp):
                self.links[event.call_id][0].open(now)
            elif isinstance(event, CallDown):
                self.downs[event.call_id] = event
            elif isinstance(event, ConnectionDown):
                self.gone = event.reason
        for _, octets in self.end.outgoing():
            if octets:
                self.rig.core.pptp.receive(self.far, octets, now)
            else:
                self.rig.core.pptp.closed(self.far, now)
        for call, link in self.links.items():
            ppp = link[0]
            for event in ppp.events():
                if isinstance(event, LinkUp):
                    link[1] = event
                elif isinstance(event, LinkDown):
                    link[1] = None
            for protocol, packet in ppp.outgoing():
                if call not in self.downs and not self.silent:
                    slot = self.slot(call)
                    self.rig.core.frame((PuntKind.PUNT_PPP, 0, slot, self.rig.tables.generation(slot), protocol, None, packet), now)


class Rig:
    def __init__(self, folder, config=None, workers=1, again=False):
        if not again:
            table.create(folder / "t", max_sessions=1000, workers=workers)
        fd = os.open(folder / "t", os.O_RDWR)
        self.tables, self.now, self.random = table.Tables(fd), 1000.0, Random(1)
        os.close(fd)
        self.core = Concentrator(config or configuration(pptp={"enabled": True}), self.tables, lambda: self.now, random=Random(2))
        self.clients = []

    def client(self, number=1):
        self.clients.append(Client(self, number))
        return self.clients[-1]

    def run(self, seconds=1.0):
        """Tenths of a second; whatever is under way arrives within each."""
        for _ in range(round(seconds * 10)):
            for _ in range(12):
                self.core.flush(self.now)
                for worker, frames in enumerate(self.core.outbox):
                    self.core.outbox[worker] = []
                    for kind, slot, _, protocol, _, payload in frames:
                        if kind == PuntKind.PUNT_PPP and self.tables.state(slot) in (State.OPENING, State.OPEN):
                            for client in self.clients:
                                for call in client.theirs:
                                    if client.slot(call) == slot and call not in client.downs and not client.silent:
                                        client.links[call][0].receive(protocol, payload, self.now)
                for number, octets in self.core.pptp.outgoing():
                    for client in self.clients:
                        if client.far == number:
                            if octets:
                                client.end.receive(client.near, octets, self.now)
                            else:
                                client.end.closed(client.near, self.now)
                for client in self.clients:
                    client.drain()
            self.now += 0.1
            self.core.tick(self.now)
            for client in self.clients:
                client.end.tick(self.now)
                for ppp, _ in client.links.values():
                    ppp.tick(self.now)
            self.check()

    def check(self):
        core, pptp = self.core, self.core.pptp
        calls = [call for c in pptp.endpoint._connections.values() for call in c.calls.values()]
        assert len(core.sessions) == len(calls) == core.ids.sessions == core.ids.used["pptp"] == len(pptp.calls) == sum(pptp.load)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_sessions_of_one_client(rig):
    client = rig.client()
    joe, ann = client.call(), client.call("ann", "2")
    rig.run()
    assert client.links[joe][1] and client.links[ann][1] and set(rig.core.sessions.names.sessions) == {"<pptp-joe>", "<pptp-ann>"}
    row = rig.tables.sessions()[client.slot(joe)]
    assert (row["kind"], row["state"], row["session"]) == (Kind.KIND_PPTP, State.OPEN, client.theirs[joe])
    assert bytes(row["peer"]) == client.address
    rig.core.sessions.disconnect(rig.core.sessions.names.sessions["<pptp-joe>"], rig.now, lambda: None)
    rig.run()
    assert joe in client.downs and client.links[ann][1] and client.gone is None and len(rig.core.sessions) == 1
    client.end.close(client.near, BYE, rig.now)
    rig.run()
    assert not rig.core.sessions and len(rig.core.pptp) == 0 and rig.core.settled


def test_the_same_user_by_two_services(tmp_path):
    rig = Rig(tmp_path, configuration(pptp={"enabled": True}, secrets={"joe": {"password": "1", "service": "l2tp"}}))
    client = rig.client()
    joe = client.call()
    rig.run()
    assert joe in client.downs and rig.core.sessions.failures.rows[-1]["code"] == "service"
    assert rig.core.sessions.failures.rows[-1]["service"] == "pptp"


def test_a_client_that_says_nothing_is_spoken_to_after_a_second(rig):
    client = rig.client()
    client.silent = True
    joe = client.call()
    rig.run(0.8)
    [session] = rig.core.sessions.values()
    assert joe in client.theirs and not session.opened and session.patient
    rig.run(0.5)
    assert session.opened and not session.patient and rig.core.sessions.starting == 1
    client.end.hang_up(client.near, joe, BYE, rig.now)
    rig.run()
    assert not rig.core.sessions and rig.core.sessions.starting == 0


def test_calls_are_spread_over_the_workers(tmp_path):
    rig = Rig(tmp_path, workers=4)
    clients = [rig.client(n) for n in range(1, 9)]
    calls = [client.call() for client in clients]
    rig.run()
    assert rig.core.pptp.load == [2, 2, 2, 2] and {s.owner for s in rig.core.sessions.values()} == {0, 1, 2, 3}
    for client, call in zip(clients[:4], calls[:4], strict=True):
        client.end.hang_up(client.near, call, BYE, rig.now)
    rig.run()
    for client in clients[:4]:
        client.call()
    rig.run()
    assert rig.core.pptp.load == [2, 2, 2, 2]


def test_max_sessions_are_a_service_s_own(tmp_path):
    rig = Rig(tmp_path, configuration(pptp={"enabled": True, "max-sessions": 1}))
    first, second = rig.client(1), rig.client(2)
    joe, ann = first.call(), second.call("ann", "2")
    rig.run()
    assert first.links[joe][1] and "no resource" in second.downs[ann].reason.text
    assert rig.core.ids.take_session(5, bytes(16)), "there is room for L2TP's"


def test_no_echo_and_the_end_of_tcp(rig):
    one, other = rig.client(1), rig.client(2)
    joe, ann = one.call(), other.call("ann", "2")
    rig.run()
    session = rig.core.sessions[one.slot(joe)]
    rig.core.frame((PuntKind.PUNT_DEAD, 0, session.slot, session.generation, 0, None, b""), rig.now)
    rig.core.pptp.closed(other.far, rig.now)
    rig.run()
    assert "lost carrier" in one.downs[joe].reason.text and not rig.core.sessions and one.gone is None
    assert other.downs[ann].reason.code == "tunnel-lost"        # nobody said so: TCP is gone


def test_a_defect_ends_its_connection_and_no_other(rig, monkeypatch, caplog):
    one, other = rig.client(1), rig.client(2)
    joe, ann = one.call(), other.call("ann", "2")
    rig.run()
    receive = Connection.receive

    def broken(connection, data, now):
        if connection.number == one.far:
            raise RuntimeError("a defect")
        receive(connection, data, now)
    monkeypatch.setattr(Connection, "receive", broken)
    one.call()
    rig.run()
    assert "a defect in headrace" in caplog.text and one.gone and other.links[ann][1] and len(rig.core.sessions) == 1
    assert one.downs[joe]


def test_shutting_down(rig):
    client = rig.client()
    client.call()
    rig.run()
    rig.core.shut_down(rig.now)
    assert rig.core.pptp.accept(Path(0, SERVER, 1723, client.address, 40001), rig.now) == 0 and not rig.core.settled
    rig.run()
    assert "shutting down" in client.gone.text and rig.core.settled


def test_what_a_former_life_left(tmp_path):
    rig = Rig(tmp_path)
    client = rig.client()
    joe = client.call()
    rig.run()
    slot = client.slot(joe)
    second = Rig(tmp_path, again=True)
    assert second.core.say_goodbye(second.now) == 0
    assert second.tables.state(slot) == State.RETIRED and client.theirs[joe] in second.core.ids.banks[slot >> 16].former
    second.core.frame((PuntKind.PUNT_PPP, 0, slot, 1, LCP_PROTOCOL, None, b"\x09\x01\0\x08\0\0\0\0"), second.now)
    again = second.client()
    call = again.call()
    second.run()
    assert again.links[call][1] and again.slot(call) != slot
