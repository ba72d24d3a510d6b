"""PPPoE discovery: tags by vectors and by scapy, both roles back to back over a network that loses, doubles and delays, and everything
that a PADR may be answered with."""
from __future__ import annotations

import itertools
import logging
from pathlib import Path as File
from random import Random

import pytest
from headrace.control import mac, tags
from headrace.control.address import Path
from headrace.control.pppoe import CallDown, CallOpening, CallUp, Endpoint, Offer, Settings
from headrace.control.reason import Reason
from hypothesis import given
from hypothesis import strategies as st
from rig.network import Network

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.ppp import PPPoED  # noqa: E402

HOST_MAC, AC_MAC = bytes.fromhex("02005e100001"), bytes.fromhex("02005e1000ac")
VLANS = ((mac.S_TAG, 100), (mac.C_TAG, 7))
BYE = Reason("admin", "disconnected", "bye")


def read(paragraph):
    lines = [line for line in paragraph.splitlines() if line and line[0] != "#"]
    if not lines:
        return None
    mark = next(n for n, line in enumerate(lines) if line[0] == "=")
    values = dict(line.split(" ", 1) for line in lines[mark + 1:])
    _, name, session = lines[mark].split()
    return bytes.fromhex("".join(lines[:mark])), name, int(session, 0), {key: eval(value) for key, value in values.items()}


VECTORS = [v for v in map(read, (File(__file__).parent / "vectors/pppoe.hex").read_text().split("\n\n")) if v]


@pytest.mark.parametrize("packet, name, session, values", VECTORS)
def test_vector(packet, name, session, values):
    found = tags.decode(packet)
    assert (found.name, found.session_id, found.fault) == (name, session, "")
    assert found.values == values
    scapy = PPPoED(packet)
    assert (scapy.code, scapy.sessionid) == (tags.CODES[name], session)
    again = tags.encode(name, session, values)
    assert tags.decode(again).values == values
    assert PPPoED(again).len == len(again) - tags.HEADER


def test_all_services_of_an_offer_are_read():
    packet = next(packet for packet, name, *_ in VECTORS if name == "PADO")
    assert tags.decode(packet).service_names == [b"internet", b"tv!"]


def test_the_line_of_a_dslam():
    _, _, _, values = next(v for v in VECTORS if v[1] == "PADR")
    assert tags.line(values["vendor"]) == (b"atm 1/1/1:2", b"JOE'-17")
    assert tags.line(b"") == tags.line(bytes(4)) == tags.line(bytes.fromhex("00000de9")) == (b"", b"")
    assert tags.line(bytes.fromhex("00000de9 01ff61")) == (b"", b"")


@pytest.mark.parametrize("vendor, rate", [
    ("00000de9 81040000007b 820400003e80", 16_000_000), ("00000de9 0101618204ffffffff", 0xFFFFFFFF * 1000),
    ("00000de9 8203003e80", 0), ("00000de9 8204003e80", 0), ("00000de8 820400003e80", 0), ("", 0)])
def test_the_rate_of_a_line(vendor, rate):
    """What goes down it; TR-101 has kilobits."""
    assert tags.rate(bytes.fromhex(vendor)) == rate


@pytest.mark.parametrize("packet, name, session, values", VECTORS)
def test_cut_at_every_length(packet, name, session, values):
    whole = tags.HEADER + int.from_bytes(packet[4:6])
    for length in range(whole):
        found = tags.decode(packet[:length])
        assert found.fault and (found.name == name or length < tags.HEADER)


@given(st.binary(max_size=80))
def test_any_octets_are_read_or_named(data):
    found = tags.decode(data)
    assert isinstance(found.fault, str)
    tags.line(data)
    assert tags.rate(data) >= 0


@given(st.sampled_from(VECTORS), st.integers(0, 63), st.integers(1, 255))
def test_any_octet_changed(vector, at, change):
    packet = bytearray(vector[0])
    packet[at % len(packet)] ^= change
    tags.decode(bytes(packet))


def test_stations():
    address = mac.station(HOST_MAC, VLANS)
    assert len(address) == 16 and mac.is_station(address) and mac.mac(address) == HOST_MAC and mac.vlans(address) == VLANS
    assert mac.shown(address) == "02:00:5E:10:00:01@100.7" and mac.shown(mac.station(HOST_MAC)) == "02:00:5E:10:00:01"
    assert mac.station(HOST_MAC, ((mac.C_TAG, 0),)) == mac.station(HOST_MAC)        # a priority tag names no network
    assert mac.network(address) == mac.network(mac.station(AC_MAC, VLANS)) != mac.network(mac.station(HOST_MAC, VLANS[:1]))
    assert mac.parse("02-00-5e-10-00-01") == mac.parse("02:00:5E:10:00:01") == HOST_MAC
    for wrong in ("", "02005e100001", "02:00:5e:10:00:0g", "02:00:5e:10:00:01\n"):
        with pytest.raises(ValueError, match="must be a MAC"):
            mac.parse(wrong)


class Ids:
    def __init__(self, room=1000):
        self.next, self.room, self.out = itertools.count(1), room, set()

    def take_call(self, network, station):
        assert station[:mac.NETWORK] == network[:mac.NETWORK]
        if len(self.out) >= self.room:
            return None
        self.out.add((network, n := next(self.next)))
        return n

    def give_call(self, network, session_id):
        self.out.remove((network, session_id))


INTERNET = (Offer("internet"),)


class Pair(Network):
    """A host, a concentrator, and a worker between them that answers PADIs as the fast path's does."""

    def __init__(self, fates=(), vlans=(), offers=INTERNET, room=1000, tries=5):
        super().__init__(fates)
        self.offers = {o.name.encode(): o for o in offers}
        self.host_path = Path(3, mac.station(HOST_MAC, vlans), 0, mac.station(mac.BROADCAST, vlans), 0)
        self.ids = Ids(room)
        self.host = Endpoint(Settings(tries=tries), Ids(), Random(1).randbytes)
        self.ac = Endpoint(Settings(), self.ids, Random(2).randbytes, self.offer)
        self.ac_station = mac.station(AC_MAC, vlans)
        self.host_events, self.ac_events = [], []
        self.heard = []                 # of the concentrator by its host

    def offer(self, path, name):
        return self.offers.get(name) if name else next(iter(self.offers.values()))

    def ends(self):
        return self.host, self.ac

    def worker(self, path, packet):
        """What a PADI is answered with, without the endpoint."""
        padi = tags.decode(packet)
        values = {"service_name": list(self.offers), "ac_name": b"headrace", "ac_cookie": b"cookie"}
        values |= {name: padi.values[name] for name in ("host_uniq", "max_payload") if name in padi.values}
        self.wire((self.host, Path(3, path.local, 0, self.ac_station, 0), tags.encode("PADO", 0, values)))

    def collect(self):
        self.host_events += self.host.events()
        self.ac_events += self.ac.events()
        for path, packet in self.host.outgoing():
            there = Path(3, self.ac_station, 0, path.local, 0)
            if packet[1] == tags.CODES["PADI"]:
                assert mac.mac(path.peer) == mac.BROADCAST
                self.wire(("worker", path, packet))
            else:
                self.wire((self.ac, there, packet))
        for path, packet in self.ac.outgoing():
            assert path.peer == self.host_path.local
            self.heard.append(tags.decode(packet))
            self.wire((self.host, Path(3, path.peer, 0, self.ac_station, 0), packet))

    def deliver(self, item):
        to, path, packet = item
        if to == "worker":
            self.worker(path, packet)
        else:
            to.receive(path, packet, self.now)

    def dial(self, **how):
        handle = self.host.dial(self.host_path, self.now, **how)
        self.run(self.now + 100)
        return handle


def kinds(events):
    return [type(event) for event in events]


@pytest.mark.parametrize("vlans", [(), VLANS[1:], VLANS])
def test_a_session_and_its_end(vlans):
    pair = Pair(vlans=vlans)
    pair.dial(service_name=b"internet")
    assert kinds(pair.host_events) == kinds(pair.ac_events) == [CallOpening, CallUp]
    theirs, ours = pair.host_events[0], pair.ac_events[0]
    assert theirs.session_id == ours.session_id and ours.path.peer == pair.host_path.local and ours.service == "internet"
    assert theirs.max_payload == ours.max_payload == 1492
    pair.ac.hang_up(ours, BYE, pair.now)
    pair.run(200)
    assert pair.ac_events[-1] == CallDown(0, ours, BYE, False)
    assert pair.host_events[-1].by_peer and pair.host_events[-1].handle == 1
    assert not pair.ids.out and len(pair.ac) == len(pair.host) == 0
    assert not pair.ac._answered and not pair.ac._hosts and not pair.host._handles and not pair.host._dialling


def test_the_host_ends_it():
    pair = Pair()
    handle = pair.dial()
    pair.host.give_up(handle, BYE, pair.now)
    pair.run(200)
    assert pair.ac_events[-1].by_peer and pair.host_events[-1].reason is BYE and not pair.ids.out


@given(st.lists(st.integers(0, 6), max_size=24))
def test_a_bad_network_gives_one_session(fates):
    pair = Pair(fates, tries=len(fates) + 3)
    pair.host.dial(pair.host_path, 0.0)
    pair.run(1e9)
    assert kinds(pair.host_events) == [CallOpening, CallUp]
    live = {e.session_id for e in pair.ac_events if isinstance(e, CallOpening)}
    assert pair.host_events[0].session_id in live
    # Only what came more than a minute later than its first copy may have been taken for another wish.
    assert len(live) == 1 or pair.now > 60


def test_nobody_answers():
    pair = Pair([0] * 50)
    pair.dial()
    down, = pair.host_events
    assert down.call is None and down.reason.code == "timeout" and "PADI" in down.reason.text and not pair.host._handles


def test_a_repeated_padr_gets_the_same_pads():
    pair = Pair()
    path = Path(3, pair.ac_station, 0, pair.host_path.local, 0)
    packet = tags.encode("PADR", 0, {"service_name": b"", "host_uniq": b"\1", "ac_cookie": b"c", "relay_session_id": b"\2\3"})
    for _ in range(3):
        pair.ac.receive(path, packet, 1.0)
    pair.collect()
    assert len({(p.session_id, tuple(p.values.items())) for p in pair.heard}) == 1 and len(pair.heard) == 3 and len(pair.ac) == 1
    assert pair.heard[0].values["host_uniq"] == b"\1" and pair.heard[0].values["relay_session_id"] == b"\2\3"
    pair.ac.receive(path, tags.encode("PADR", 0, {"service_name": b"", "host_uniq": b"\2", "ac_cookie": b"c"}), 1.0)
    pair.ac.receive(path, packet, 62.0)         # much later it is another wish
    assert len(pair.ac) == 3


@pytest.mark.parametrize("how, code", [
    (dict(offers=(Offer("tv"),)), "service-name"), (dict(room=0), "ac-system")])
def test_what_cannot_be_is_refused_with_its_tag(how, code):
    pair = Pair(**how)
    asked = {"service_name": b"internet"} if code == "service-name" else {}
    if code == "service-name":                  # the offer names other services: nothing to ask for
        path = Path(3, pair.ac_station, 0, pair.host_path.local, 0)
        pair.ac.receive(path, tags.encode("PADR", 0, {"service_name": b"internet", "host_uniq": b"\1"}), 0.0)
        pair.collect()
        assert pair.heard[0].session_id == 0 and "service_name_error" in pair.heard[0].values
    pair.dial(**asked)
    assert pair.host_events[-1].reason.code == ("timeout" if code == "service-name" else code) and not pair.ids.out and not len(pair.ac)


def test_a_service_has_so_many_sessions_and_one_host_one():
    pair = Pair(offers=(Offer("internet", max_sessions=2),))
    for _ in range(3):
        pair.dial()
    assert len(pair.ac) == 2 and pair.host_events[-1].reason.code == "ac-system"
    pair = Pair(offers=(Offer("internet", one_session_per_host=True),))
    for _ in range(3):
        pair.dial()
    downs = [e for e in pair.ac_events if isinstance(e, CallDown)]
    assert len(pair.ac) == len(pair.host) == 1 and [d.reason.code for d in downs] == ["replaced"] * 2


@pytest.mark.parametrize("asked, carries, agreed", [(1500, 1500, 1500), (1500, 1492, 1492), (0, 1500, 1492), (1496, 1500, 1496)])
def test_baby_jumbo(asked, carries, agreed):
    pair = Pair(offers=(Offer("internet", max_payload=carries),))
    pair.dial(max_payload=asked)
    assert pair.ac_events[0].max_payload == pair.host_events[0].max_payload == agreed


def test_a_padt_of_somebody_else_ends_nothing():
    pair = Pair()
    pair.dial()
    session = pair.ac_events[0].session_id
    for path in (Path(3, pair.ac_station, 0, mac.station(AC_MAC), 0), Path(4, pair.ac_station, 0, pair.host_path.local, 0),
                 Path(3, pair.ac_station, 0, mac.station(HOST_MAC, VLANS), 0)):
        pair.ac.receive(path, tags.encode("PADT", session, {}), 1.0)
    assert len(pair.ac) == 1 and pair.ac.counts["unknown_session"] == 3


def test_a_host_is_not_told_by_strangers():
    pair = Pair()
    pair.host.dial(pair.host_path, 0.0)
    stranger = Path(3, pair.host_path.local, 0, pair.ac_station, 0)
    for packet in (tags.encode("PADO", 0, {"service_name": b"", "ac_name": b"x"}),
                   tags.encode("PADS", 7, {"service_name": b""}), tags.encode("PADT", 7, {})):
        pair.host.receive(stranger, packet, 0.0)
    assert pair.host.counts["no_host"] == 2 and not pair.host.events()


def test_at_the_end_everybody_hears_of_it_and_nobody_comes_in():
    pair = Pair()
    for _ in range(3):
        pair.dial()
    pair.ac.close_all(BYE, pair.now)
    pair.run(500)
    assert len(pair.ac) == len(pair.host) == 0 and not pair.ids.out
    pair.dial()
    assert pair.host_events[-1].reason.code == "service-name"


@given(st.lists(st.tuples(st.sampled_from(sorted(tags.CODES)), st.integers(0, 0xFFFF), st.dictionaries(
    st.sampled_from(sorted(set(tags.BY_NAME) - {"max_payload"})), st.binary(max_size=6), max_size=5), st.booleans()), max_size=20))
def test_packets_in_any_order_do_no_harm(packets):
    pair = Pair()
    pair.host.dial(pair.host_path, 0.0)
    for name, session, values, to_host in packets:
        end, path = ((pair.host, Path(3, pair.host_path.local, 0, pair.ac_station, 0)) if to_host else
                     (pair.ac, Path(3, pair.ac_station, 0, pair.host_path.local, 0)))
        end.receive(path, tags.encode(name, session, values), 1.0)
        end.events()
    assert len(pair.ac) == len(pair.ids.out)
