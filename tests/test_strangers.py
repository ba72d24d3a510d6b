"""Calls and tunnels in which no user is let in: one peer cannot make all ids rest, and who lets users in never hears of it."""
import os
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from headrace.control import mac
from headrace.control.address import mapped
from headrace.control.concentrator import Concentrator
from headrace.control.ids import LAST, REST, STRANGERS, Ids
from headrace.fastpath import table
from rig.core import Lac, Rig, configuration
from test_concentrator_pptp import Rig as Streams

PEER, OTHER = mapped(IPv4Address("192.0.2.7")), mapped(IPv4Address("192.0.2.8"))
MOST = 20               # in tests of the whole; the limit itself would take a while
TOLD = "no more {} for now: of the last, {} ended without a user who was let in"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def ids(tmp_path):
    table.create(tmp_path / "t", max_sessions=50_000, workers=1)
    fd = os.open(tmp_path / "t", os.O_RDWR)
    ids = Ids(table.Tables(fd), 50_000, Random(1), Clock())
    os.close(fd)
    return ids


def loop(ids, peer, times, let_in=False):
    """Calls by L2TP and PPTP in turn, each cleared at once; how many there were."""
    for n in range(times):
        if n % 2:
            tunnel, session = 1, ids.take_session(1, peer)
        else:
            tunnel, session = ids.tables.peer_hash(peer), ids.take_call(peer)
        if session is None:
            return n
        if let_in:
            ids.let_in("l2tp" if n % 2 else "pptp", tunnel, ids.tables.slot(tunnel, session))
        if n % 2:
            ids.give_session(1, session)
        else:
            ids.give_call(peer, session)
    return times


def test_one_peer_makes_an_eighth_rest(ids, caplog):
    """Both tunnel types together; another peer has all the rest, and a minute later the first may come again."""
    assert len(ids.banks) == 1 and loop(ids, PEER, LAST) == STRANGERS
    assert [r.getMessage() for r in caplog.records] == ["192.0.2.7: " + TOLD.format("calls", STRANGERS)]
    assert loop(ids, PEER, 3) == 0 and len(caplog.records) == 1
    assert loop(ids, OTHER, 1000) == 1000
    ids.clock.now += REST - 0.1
    assert loop(ids, PEER, 1) == 0
    ids.clock.now += 0.1
    assert loop(ids, PEER, LAST) == STRANGERS and len(caplog.records) == 2
    ids.clock.now += REST
    assert not ids.strangers.refuses(OTHER, ids.clock()) and not ids.strangers.held
    assert not ids.strangers.resting and not ids.strangers.leaving and not ids.strangers.refused


def test_users_who_were_let_in_may_come_as_often_as_they_like(ids, caplog):
    """A LAC that redials: as many calls as there are ids, in a minute, and one more that is nobody's."""
    assert loop(ids, PEER, LAST - 1, let_in=True) == LAST - 1
    assert not ids.strangers.resting and not caplog.records
    assert loop(ids, PEER, 1) == 1


def test_calls_that_are_not_over_are_not_counted(ids):
    """However many come at once, they only are when they end and nobody was let in."""
    held = [ids.take_session(1, PEER) for _ in range(STRANGERS + 2)]
    assert None not in held
    for session in held[:2]:
        ids.let_in("l2tp", 1, ids.tables.slot(1, session))
    for session in held:
        assert ids.take_session(1, PEER) is not None
        ids.give_session(1, session)
    assert ids.take_session(1, PEER) is None and ids.take_session(1, OTHER) is not None


@pytest.mark.parametrize("one, other, same", [
    ("2001:db8:1::1", "2001:db8:1::2", True), ("2001:db8:1::1", "2001:db8:1:1::1", False), ("192.0.2.1", "192.0.2.2", False)])
def test_an_ipv6_peer_is_its_64(ids, one, other, same):
    one, other = (mapped((IPv6Address if ":" in a else IPv4Address)(a)) for a in (one, other))
    ids.strangers.most = MOST
    assert loop(ids, one, LAST) == MOST
    assert loop(ids, other, 5) == (0 if same else 5)


def test_a_host_is_not_its_network(ids, caplog):
    """PPPoE's ids are those of a network: one host there uses up its own part of them, and another comes in."""
    ids.strangers.most = MOST
    one, other = (mac.station(bytes((2, 0, 0, 0, 0, n)), ((mac.C_TAG, 7),)) for n in (1, 2))
    network = mac.network(one, 3)
    for _ in range(MOST):
        ids.give_call(network, ids.take_call(network, "pppoe", one), "pppoe")
    assert ids.take_call(network, "pppoe", one) is None and ids.take_call(network, "pppoe", other)
    assert [r.getMessage() for r in caplog.records] == ["02:00:00:00:00:01@7: " + TOLD.format("calls", MOST)]


def test_tunnels_that_carry_nobody(ids, caplog):
    for n in range(LAST):
        tunnel = ids.take_tunnel(PEER)
        if tunnel is None:
            break
        if n >= 10:         # in the first ten somebody was let in
            ids.give_tunnel(tunnel)
        else:
            ids.let_in("l2tp", tunnel, 77)
            ids.give_tunnel(tunnel)
    assert n == STRANGERS + 10 and ids.take_tunnel(OTHER)
    assert [r.getMessage() for r in caplog.records] == ["192.0.2.7: " + TOLD.format("tunnels", STRANGERS)]
    ids.clock.now += REST
    assert ids.take_tunnel(PEER)


# -- by the protocols

def test_pptp_refuses_for_want_of_resources(tmp_path, caplog):
    """OCRQ and CCRQ in a loop: general error, no resource (RFC 2637 section 2.8); who is in stays, and another peer comes in."""
    rig = Streams(tmp_path)
    rig.core.ids.strangers.most = MOST
    number = rig.connect()
    there = rig.call(number, 7)
    rig.open(there)
    for call_id in range(100, 100 + MOST):
        rig.call(number, call_id)
        (name, values), = rig.say(number, "CCRQ", call_id=call_id)
        assert (name, values["result"]) == ("CDN", 4)
    (name, values), = rig.say(number, "OCRQ", call_id=99)
    assert (name, values["result"], values["error"]) == ("OCRP", 2, 4)
    assert [r.getMessage() for r in caplog.records if r.name == "headrace.ids"] == ["10.0.0.2: " + TOLD.format("calls", MOST)]
    assert not there.ended
    other = rig.connect(host=3)
    rig.call(other)
    rig.wait(REST + 1)
    assert rig.call(rig.connect(), 98)


def redial(lac, rig, password="1"):
    client = lac.call("joe", password)
    rig.run(3)
    was = client.link
    client.hang_up()
    rig.run(1)
    return client, was


@pytest.mark.parametrize("password, comes_in", [("1", True), ("wrong", False)])
def test_l2tp_refuses_for_want_of_resources(tmp_path, password, comes_in):
    """A LAC whose users come in redials for ever; one whose users do not is told: no facilities for now (RFC 2661 section 4.4.2)."""
    rig = Rig(tmp_path)
    rig.core.ids.strangers.most = MOST // 4
    lac, friend = rig.lac(), rig.lac()
    for _ in range(MOST // 4):
        client, was = redial(lac, rig, password)
        assert bool(was) == comes_in
    client, was = redial(lac, rig)
    assert bool(was) == comes_in
    if not comes_in:
        assert "no facilities, for now, error 4" in client.call_down.text
        rig.run(REST)
    assert redial(friend, rig)[1] and redial(lac, rig)[1]


def test_l2tp_refuses_tunnels(tmp_path):
    """SCCRQ and StopCCN in a loop; a tunnel with a user who was let in does not count."""
    rig = Rig(tmp_path)
    rig.core.ids.greeters.most = 3
    for n, password in enumerate(("1", "1", "1", "1", "wrong", "wrong", "wrong", "1")):
        lac = Lac(rig, 77, port=2000 + n)
        rig.lacs.append(lac)
        client = lac.call("joe", password)
        rig.run(3)
        lac.close()
        rig.run(1)
        rig.lacs.remove(lac)
    assert client.link is None and "no room for another tunnel" in lac.down.text
    assert rig.dial().link


def test_a_set_up_of_ten_thousand_at_once(ids):
    """Nobody rests yet: what the benchmark of set-up does is not hindered."""
    assert None not in [ids.take_session(1, PEER) for _ in range(10_000)]


def test_the_core_asks_with_the_limit(tmp_path):
    table.create(tmp_path / "t", max_sessions=10, workers=1)
    fd = os.open(tmp_path / "t", os.O_RDWR)
    core = Concentrator(configuration(), table.Tables(fd), lambda: 1000.0, random=Random(1))
    os.close(fd)
    assert core.ids.strangers.most == core.ids.greeters.most == STRANGERS
