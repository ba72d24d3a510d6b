"""PPPoE in the core, on real tables and without sockets: hosts of ours at the other end, discovery and PPP frames as a worker would punt
them, and the answers to PADIs that a worker would give."""
from __future__ import annotations

import os
from random import Random

import pytest
from headrace.control import mac, tags
from headrace.control.address import Path, mapped
from headrace.control.concentrator import Concentrator
from headrace.control.interfaces import Interface
from headrace.control.link import LinkSettings, LinkUp
from headrace.control.ppp import PPP
from headrace.control.pppoe import CallDown, CallUp, Endpoint, Settings
from headrace.control.pppoeservice import text
from headrace.control.reason import Reason
from headrace.fastpath import service, table
from headrace.fastpath.packet import Kind
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import ConfigFlag, State
from rig.core import configuration

AC = bytes.fromhex("02005e1000ac")
BYE = Reason("admin", "bye", "the test hangs up")
SERVICE = {"interface": "eth1"}


class NoIds:
    def take_call(self, network, station):
        raise AssertionError("a host gives no ids")

    give_call = take_call


class Host:
    """A station with one call at most, and its PPP."""

    def __init__(self, rig, number, vlans, port, service=b"", user="joe", password="1", max_payload=0):
        self.rig, self.port, self.station = rig, port, mac.station(b"\x02\0\0\0\0" + bytes((number,)), vlans)
        self.end = Endpoint(Settings(), NoIds(), rig.random.randbytes)
        self.ppp = PPP("client", LinkSettings(user=user, password=password, authentication=("mschap2",), mru=1500, mtu=1500), rig.random)
        self.call = self.link = self.gone = None
        self.heard = []
        broadcast = mac.station(mac.BROADCAST, vlans)
        self.handle = self.end.dial(Path(port, self.station, 0, broadcast, 0), rig.now, service_name=service, max_payload=max_payload)

    def drain(self):
        rig = self.rig
        for event in self.end.events():
            if isinstance(event, CallUp):
                self.call = event.call
                self.ppp.open(rig.now)
            elif isinstance(event, CallDown):
                self.gone = event.reason
        for path, packet in self.end.outgoing():
            rig.worker(self, path, packet)
        for event in self.ppp.events():
            if isinstance(event, LinkUp):
                self.link = event
        for protocol, packet in self.ppp.outgoing():
            if self.call and not self.gone:
                slot = self.slot
                rig.core.frame((PuntKind.PUNT_PPP, 0, slot, rig.tables.generation(slot), protocol, None, packet), rig.now)

    @property
    def slot(self):
        return self.rig.tables.slot(self.rig.tables.peer_hash(mac.network(self.station, self.port)), self.call.session_id)


class Rig:
    def __init__(self, folder, services=(SERVICE,), workers=1, again=False, mtu=1500, **changes):
        if not again:
            table.create(folder / "t", max_sessions=1000, workers=workers)
        fd = os.open(folder / "t", os.O_RDWR)
        self.tables, self.now, self.random = table.Tables(fd), 1000.0, Random(1)
        os.close(fd)
        self.config = configuration(server={"pppoe": [dict(s) for s in services]}, **changes)
        self.core = Concentrator(self.config, self.tables, lambda: self.now, random=Random(2))
        self.ports = self.core.pppoe.ports
        for number, name in enumerate(self.ports):
            self.core.pppoe.interface(name, Interface(number + 1, AC, mtu))
        self.hosts = []

    def host(self, number=1, vlans=(), interface="eth1", **kw):
        self.hosts.append(Host(self, number, vlans, self.ports[interface], **kw))
        return self.hosts[-1]

    def worker(self, host, path, packet):
        """A frame from a host: PADIs are answered as a worker does, by what control offers."""
        read = tags.decode(packet)
        local = mac.station(AC, mac.vlans(host.station))
        if read.name == "PADI":
            row = self.core.pppoe.find(Path(host.port, local, 0, host.station, 0), read.values["service_name"])
            if row is not None and self.core.pppoe.delays[self.core.pppoe.rows.index(row)] != 0xFFFF:
                values = {name: read.values[name] for name in ("service_name", "host_uniq", "max_payload") if name in read.values}
                answered = tags.encode("PADO", 0, values | {"ac_name": b"ac", "ac_cookie": b"123456789"})
                host.end.receive(Path(host.port, host.station, 0, local, 0), answered, self.now)
        else:
            self.core.frame((PuntKind.PUNT_PPPOE, 0, 0, 0, 0, (host.port, mac.station(AC), 0, host.station, 0), packet), self.now)

    def run(self, seconds=2.0):
        """Tenths of a second; whatever is under way arrives within each."""
        for _ in range(round(seconds * 10)):
            for _ in range(12):
                self.core.flush(self.now)
                for worker, frames in enumerate(self.core.outbox):
                    self.core.outbox[worker] = []
                    for frame in frames:
                        self.deliver(*frame)
                for host in self.hosts:
                    host.drain()
            self.now += 0.1
            self.core.tick(self.now)
            for host in self.hosts:
                host.end.tick(self.now)
                host.ppp.tick(self.now)
            self.check()

    def deliver(self, kind, slot, _generation, protocol, path, payload):
        for host in self.hosts:
            if kind == PuntKind.PUNT_PPPOE and (path.port, path.peer) == (host.port, host.station):
                host.heard.append(tags.decode(payload))
                sender = mac.station(AC, mac.vlans(host.station))
                host.end.receive(Path(host.port, host.station, 0, sender, 0), payload, self.now)
            elif kind == PuntKind.PUNT_PPP and host.call and not host.gone and host.slot == slot:
                host.ppp.receive(protocol, payload, self.now)

    def check(self):
        core, own = self.core, self.core.pppoe
        assert len(core.sessions) == len(own.endpoint) == core.ids.sessions == core.ids.used["pppoe"] == len(own.calls) == sum(own.load)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_a_session_from_discovery_to_its_end(rig):
    joe = rig.host()
    rig.run()
    row = rig.tables.sessions()[joe.slot]
    assert joe.link and (row["kind"], row["state"], row["session"]) == (Kind.KIND_PPPOE, State.OPEN, joe.call.session_id)
    assert bytes(row["peer"]) == joe.station and bytes(row["local"]) == mac.station(AC) and row["port"] == joe.port
    session = rig.core.sessions[joe.slot]
    told = session.row(rig.tables, rig.now)
    assert (told["name"], told["caller-id"], told["interface"]) == ("<pppoe-joe>", "02:00:00:00:00:01", "eth1") and "called-id" not in told
    assert (session.link.mtu, session.link.mru) == (1480, 1480)
    rig.core.sessions.disconnect(session, rig.now, lambda: None)
    rig.run()
    assert joe.gone and not rig.core.sessions and rig.tables.state(joe.slot) == State.RETIRED and rig.core.settled
    assert not list(rig.core.authority.addresses.in_use()) and rig.core.sessions.starting == 0


@pytest.mark.parametrize("vlans", [(), ((mac.C_TAG, 7),), ((mac.S_TAG, 100), (mac.C_TAG, 7))])
def test_the_header_that_a_worker_writes(tmp_path, vlans, monkeypatch):
    """Ethernet's, the tags, PPPoE's, and PPP without address and control field."""
    rig = Rig(tmp_path, [{**SERVICE, "pppoe-over-vlan-range": ["untagged", "7", "100.7"]}])
    written = []
    monkeypatch.setattr(rig.core.installer, "tables", Told(rig.tables, written))
    joe = rig.host(vlans=vlans)
    rig.run()
    head = mac.mac(joe.station) + AC + b"".join(t.to_bytes(2) + v.to_bytes(2) for t, v in vlans) + b"\x88\x64\x11\0"
    head += joe.call.session_id.to_bytes(2) + b"\0\0"
    last = written[-1]
    assert (last["template"], last["ppp_at"], last["length_at"]) == (head + b"\0\x21", len(head), len(head) - 2)
    assert all(one["flags"] & ConfigFlag.CONFIG_BARE for one in written)


class Told:
    """The tables, and what they were told of a configuration."""

    def __init__(self, tables, written):
        self._tables, self._written = tables, written

    def __getattr__(self, name):
        door = getattr(self._tables, name)
        if name not in ("publish", "configure"):
            return door
        return lambda *args, **kw: (self._written.append(kw), door(*args, **kw))[1]


@pytest.mark.parametrize("mtu, limit, asked, vlans, agreed", [
    (1500, 1480, 0, (), 1480), (1500, 1500, 0, (), 1492), (1500, 1500, 1500, (), 1492), (1508, 1500, 0, (), 1492),
    (1508, 1500, 1500, (), 1500), (1508, 1500, 1496, (), 1496), (1508, 1480, 1500, (), 1480), (1400, 1480, 0, (), 1392),
    (1500, 1500, 0, ((mac.C_TAG, 7),), 1492), (1500, 1500, 0, ((mac.S_TAG, 7),), 1488),
    (1500, 1500, 0, ((mac.C_TAG, 8), (mac.C_TAG, 7)), 1488), (1508, 1500, 1500, ((mac.S_TAG, 8), (mac.C_TAG, 7)), 1492)])
def test_the_largest_packet(tmp_path, mtu, limit, asked, vlans, agreed):
    """What the interface carries, what the configuration allows, and above 1492 only what the host asked for (RFC 4638)."""
    rig = Rig(tmp_path, [{**SERVICE, "max-mtu": limit, "max-mru": limit, "pppoe-over-vlan-range": ["untagged", "7", "8.7"]}], mtu=mtu)
    joe = rig.host(vlans=vlans, max_payload=asked)
    rig.run()
    link = rig.core.sessions[joe.slot].link
    assert (link.mtu, link.mru) == (agreed, agreed)


def test_two_services_on_one_interface_and_one_more(tmp_path):
    profiles = {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients"},
                "gold": {"local-address": "10.67.0.1", "remote-address": "10.9.0.9"}}
    rig = Rig(tmp_path, [{**SERVICE, "service-name": "internet", "accept-service-name": "exact"},
                         {**SERVICE, "service-name": "tv", "default-profile": "gold", "max-sessions": 1, "keepalive-timeout": "1m"},
                         {"interface": ["eth1", "eth2"], "service-name": "radio"}], profiles=profiles)
    joe, ann = rig.host(1, service=b"internet"), rig.host(2, service=b"", user="ann", password="2")
    rig.run()
    called = {s.user: rig.core.pppoe.told(s.call)["called-id"] for s in rig.core.sessions.values()}
    assert called == {"joe": "internet", "ann": "tv"} and str(rig.core.sessions[ann.slot].address) == "10.9.0.9"
    late, other = rig.host(3, service=b"tv"), rig.host(4, interface="eth2")
    rig.run()
    assert late.gone.code == "ac-system" and other.link and joe.link and rig.core.sessions[other.slot].call.table.service_name == "radio"
    ann.end.give_up(ann.handle, BYE, rig.now)
    rig.run()
    assert rig.host(5, service=b"tv").gone is None
    rig.run()
    assert rig.hosts[-1].link


@pytest.mark.parametrize("one", [False, True])
def test_one_session_of_a_host(tmp_path, one):
    rig = Rig(tmp_path, [{**SERVICE, "one-session-per-host": one}])
    first = rig.host(1)
    rig.run()
    second = rig.host(1, user="ann", password="2")
    rig.run()
    assert second.link and bool(first.gone) is one and len(rig.core.sessions) == (1 if one else 2)
    assert one or first.link


def test_a_network_of_its_own_is_a_peer_of_its_own(tmp_path):
    """The same MAC in two VLANs and on two interfaces, with one session a host."""
    rig = Rig(tmp_path, [{"interface": ["eth1", "eth2"], "pppoe-over-vlan-range": ["untagged", "7"], "one-session-per-host": True}])
    hosts = [rig.host(1), rig.host(1, ((mac.C_TAG, 7),)), rig.host(1, interface="eth2")]
    rig.run()
    assert all(host.link for host in hosts) and len(rig.core.sessions) == 3
    assert len({session.caller_id for session in rig.core.sessions.values()}) == 2


def test_who_is_not_wanted(tmp_path):
    """No answer to his PADI; a PADR that he sends all the same is refused."""
    rig = Rig(tmp_path, [{**SERVICE, "deny-mac": ["02:00:00:00:00:01"]}])
    joe, ann = rig.host(1), rig.host(2)
    rig.run()
    assert joe.call is None and ann.link
    values = {"service_name": b"", "ac_cookie": b"123456789", "host_uniq": b"\7"}
    rig.worker(joe, None, tags.encode("PADR", 0, values))
    rig.run(0.1)
    assert joe.heard[-1].values["service_name_error"] and joe.heard[-1].session_id == 0


def test_the_delay_follows_the_load(tmp_path, monkeypatch):
    rig = Rig(tmp_path, [SERVICE, {**SERVICE, "service-name": "tv", "pado-delay": {"0": "100ms", "1": "200ms", "2": "refuse"}}])
    said, set_delay = [], service.set_delay
    monkeypatch.setattr(service, "set_delay", lambda tables, *delay: (said.append(delay), set_delay(tables, *delay))[1])
    assert rig.core.pppoe.delays == [0, 100]
    hosts = []
    for number in 1, 2:
        hosts.append(rig.host(number, service=b"tv"))
        rig.run()
    assert said == [(1, 200), (1, 0xFFFF)] and rig.core.pppoe.delays == [0, 0xFFFF] and all(host.link for host in hosts)
    late = rig.host(3, service=b"tv")
    rig.run()
    assert late.call is None
    rig.hosts.remove(late)                  # it would go on asking
    hosts[0].end.give_up(hosts[0].handle, BYE, rig.now)
    rig.run()
    assert said[-1] == (1, 200) and rig.host(4, service=b"tv").gone is None
    rig.run()
    assert rig.hosts[-1].link


def test_sessions_are_spread_over_the_workers(tmp_path):
    rig = Rig(tmp_path, workers=3)
    hosts = [rig.host(n) for n in range(1, 7)]
    rig.run()
    assert rig.core.pppoe.load == [2, 2, 2] and all(host.link for host in hosts)


def test_a_defect_disturbs_nobody(rig, monkeypatch, caplog):
    joe = rig.host(1)
    rig.run()
    receive = Endpoint.receive

    def broken(self, path, data, now):
        if self is rig.core.pppoe.endpoint and path.peer[-1] == 2:
            raise RuntimeError("a defect")
        receive(self, path, data, now)
    monkeypatch.setattr(Endpoint, "receive", broken)
    ann = rig.host(2)
    rig.run()
    assert "a defect in headrace" in caplog.text and joe.link and not joe.gone and ann.call is None and len(rig.core.sessions) == 1


def test_no_echo(rig):
    joe, ann = rig.host(1), rig.host(2, user="ann", password="2")
    rig.run()
    session = rig.core.sessions[joe.slot]
    rig.core.frame((PuntKind.PUNT_DEAD, 0, session.slot, session.generation, 0, None, b""), rig.now)
    rig.run()
    assert joe.heard[-1].name == "PADT" and joe.gone and not ann.gone and len(rig.core.sessions) == 1


def test_what_a_former_life_left(tmp_path):
    rig = Rig(tmp_path, [{**SERVICE, "pppoe-over-vlan-range": ["untagged", "7"]}])
    hosts = [rig.host(1), rig.host(2, ((mac.C_TAG, 7),))]
    rig.run()
    slots = [host.slot for host in hosts]
    second = Rig(tmp_path, [{**SERVICE, "pppoe-over-vlan-range": ["untagged", "7"]}], again=True)
    second.hosts, (first, other) = hosts, hosts
    for host in hosts:
        host.rig = second
    assert second.core.say_goodbye(second.now) == 2
    second.run()
    assert first.gone and other.gone and [second.tables.state(slot) for slot in slots] == [State.RETIRED] * 2
    again = second.host(1)
    second.run()
    assert again.link and again.slot not in slots


def test_shutting_down(rig):
    joe = rig.host()
    rig.run()
    rig.core.shut_down(rig.now)
    late = rig.host(2)
    rig.run()
    assert joe.heard[-1].name == "PADT" and joe.gone and late.call is None and not rig.core.sessions and rig.core.settled


def test_another_configuration(rig):
    """What is up stays as it is; what is new is by the new one."""
    joe = rig.host(1)
    rig.run()
    service = {**SERVICE, "service-name": "tv", "max-mtu": 1400, "accept-service-name": "exact"}
    rig.core.configure(configuration(server={"pppoe": [service]}))
    ann, blank = rig.host(2, service=b"tv"), rig.host(3)
    rig.run()
    assert joe.link and not joe.gone and ann.link and blank.call is None
    assert rig.core.sessions[ann.slot].link.mtu == 1400 and rig.core.sessions[joe.slot].link.mtu == 1480
    rig.core.pppoe.interface("eth1", None)
    late = rig.host(4, service=b"tv")
    rig.run()
    assert late.call is None and not joe.gone and len(rig.core.sessions) == 2


def test_the_line_of_a_subscriber(rig):
    vendor = bytes.fromhex("00000de9") + b"\x01\x0batm 1/1/1:2" + b"\x02\x03\xff\0a" + b"\x82\x04\x00\x00\x3e\x80"
    joe = rig.host()
    plain = rig.worker
    rig.worker = lambda host, path, packet: plain(host, path, with_vendor(packet, vendor))
    rig.run()
    told = rig.core.sessions[joe.slot].row(rig.tables, rig.now)
    assert (told["circuit-id"], told["remote-id"]) == ("atm 1/1/1:2", "0xff0061") and text(b"a\nb") == "0x610a62"
    assert rig.core.sessions[joe.slot].rate == 16_000_000


def with_vendor(packet, vendor):
    read = tags.decode(packet)
    return tags.encode("PADR", 0, read.values | {"vendor": vendor}) if read.name == "PADR" else packet


def test_mapped_addresses_are_no_stations():
    assert not mac.is_station(mapped(bytes((10, 0, 0, 1)))) and mac.is_station(mac.station(AC))


def test_sessions_begin_while_an_offer_is_held_up(rig, monkeypatch):
    """What the tables have is the offer before: no delay is told them by a place that it does not have."""
    pppoe = rig.core.pppoe

    def held_up(*_):
        raise BlockingIOError("a worker has not passed a batch boundary")

    services = [SERVICE | {"service-name": name, "pado-delay": {"0": 0, "1": "refuse"}} for name in "ab"]
    with monkeypatch.context() as still:
        still.setattr(service, "offer", held_up)
        pppoe.configure(configuration(server={"pppoe": services}))
    assert pppoe.overdue and len(pppoe.rows) == 2
    for number, row in enumerate(pppoe.rows):
        peer = mac.station(bytes((2, 0, 0, 0, 1, number)))
        asked = tags.encode("PADR", 0, {"service_name": row.table.service_name.encode()})
        rig.core.frame((PuntKind.PUNT_PPPOE, 0, 0, 0, 0, (row.port, mac.station(AC), 0, peer, 0), asked), rig.now)
    rig.core.flush(rig.now)
    assert len(rig.core.sessions) == len(pppoe.calls) == 2
    rig.core.tick(pppoe.overdue)
    assert pppoe.overdue is None and pppoe.delays == [0xFFFF, 0xFFFF]
    service.set_delay(rig.tables, 1, 0)          # the tables have both now
