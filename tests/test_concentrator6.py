"""IPv6 of whole sessions, against our own clients: prefixes given, delegated and given back, and families that come and go."""
import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from random import Random

import pytest
from headrace.control.concentrator import UNNAMED
from headrace.control.dhcp6 import IA_NA, IA_PD, Association, Message, Type, pull_dhcp6, push_dhcp6
from headrace.control.duid import server_duid
from headrace.control.ip6 import ICMPV6, UDP, Datagram6, pull_ip6, push_ip6
from headrace.control.ipv6cp import IPV6CP, link_local
from headrace.control.link import IPV6, push_packet
from headrace.control.listing import SESSIONS, table
from headrace.control.nd import pull_advertisement, push_solicitation
from headrace.control.router import INITIAL_INTERVAL
from headrace.fastpath.table import State
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.core import Rig, configuration

PROFILE = {"local-address": "10.67.0.1", "remote-address": "clients", "local-ipv6-address": "2001:db8:67::1",
           "remote-ipv6-prefix-pool": "links", "dhcpv6-pd-pool": "delegated", "dns-server": ["2001:db8::53", "9.9.9.9"]}
POOLS = {"links": {"prefix": "2001:db8:67::/60"}, "delegated": {"prefix": "2001:db8:100::/52", "prefix-length": 56}}
ROUTERS, AGENTS = IPv6Address("ff02::2").packed, IPv6Address("ff02::1:2").packed
USERS = ("joe", "1"), ("ann", "2")
XID, DUID = b"abc", b"\x00\x03\x00\x01client"


def config(pools=None, **more):
    return configuration(profiles={"default-encryption": PROFILE}, **{"ipv6-pool": {**POOLS, **(pools or {})}}, **more)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path, config())


def say(rig, client, datagram):
    """What the client puts on its link; what its router answers."""
    del client.heard[:]
    rig.core.frame(rig.frame(client, IPV6, push_ip6(datagram)), rig.now)
    rig.run(0.1)
    return [pull_ip6(packet) for packet in client.heard]


def address(client):
    return link_local(client.link.local_identifier).packed


def ask(rig, client, kind, *associations, server=b"", duid=DUID):
    message = push_dhcp6(Message(kind, XID, duid, server, tuple(associations)))
    answer, = say(rig, client, Datagram6(address(client), AGENTS, UDP, struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message, 1))
    assert answer.destination == address(client)
    return pull_dhcp6(answer.payload[8:])


PD, NA = Association(IA_PD, 1), Association(IA_NA, 2)


def lease(rig, client):
    """A delegated prefix, by Solicit and Request."""
    offer = ask(rig, client, Type.SOLICIT, PD)
    reply = ask(rig, client, Type.REQUEST, PD, server=offer.server)
    (association,) = reply.associations
    return association.leases[0].what if association.leases else association.status.code


def test_a_prefix_for_the_link_and_advertisements(rig):
    client = rig.dial(ipv6=True)
    session = rig.session("<l2tp-joe>")
    assert client.link.ip and client.link.ipv6 and session.link.ipv6
    assert session.prefix == IPv6Network("2001:db8:67:1::/64"), "the first one has our own address in it"
    assert rig.tables.lookup(session.prefix[7].packed) == session.slot
    said = [pull_advertisement(pull_ip6(packet)) for packet in client.heard]
    assert [p.network for p in said[0].prefixes] == [session.prefix] and said[0].rdnss.values == (IPv6Address("2001:db8::53"),)
    assert said[0].mtu == min(session.link.mtu, session.link.mru)
    answer, = say(rig, client, push_solicitation(address(client), ROUTERS))
    assert pull_advertisement(answer) == said[0] and answer.destination == address(client)
    del client.heard[:]
    rig.run(2 * INITIAL_INTERVAL + 1)
    assert len(client.heard) == 2
    row = session.details(rig.tables, rig.now)
    assert row["remote-ipv6-prefix"] == "2001:db8:67:1::/64" and row["local-ipv6-address"] == "fe80::1"
    assert row["remote-ipv6-address"] == str(link_local(client.link.local_identifier)) and row["local-address"] == "10.67.0.1"
    assert table(SESSIONS, [row]).splitlines()[0].split()[4:6] == ["PREFIX", "UPTIME"]
    assert "PREFIX" not in table(SESSIONS, [{**row, "remote-ipv6-prefix": None}])
    client.close()
    rig.run(100)
    client.lac.close()
    rig.run(90)
    rig.check_empty()


@pytest.mark.parametrize("ip, ipv6, profile", [
    (True, True, {}), (True, False, {}), (False, True, {}), (True, True, {"use-ipv6": "no"}),
    (True, True, {"remote-address": None, "local-address": None}), (False, True, {"remote-ipv6-prefix-pool": None}),
])
def test_families(tmp_path, ip, ipv6, profile):
    whole = {key: value for key, value in {**PROFILE, **profile}.items() if value is not None}
    rig = Rig(tmp_path, configuration(profiles={"default-encryption": whole}, **{"ipv6-pool": POOLS}))
    client = rig.dial(ip=ip, ipv6=ipv6)
    session = rig.session("<l2tp-joe>")
    four, six = ip and "remote-address" in whole, ipv6 and whole.get("use-ipv6") != "no"
    assert (session.link.ip, session.link.ipv6) == (client.link.ip, client.link.ipv6) == (four, six)
    assert session.state == "open" and rig.tables.state(session.slot) == State.OPEN
    assert bool(session.address) == ("remote-address" in whole)
    assert session.row(rig.tables, rig.now)["address"] == str(session.address or "")
    assert bool(client.heard) == six
    rig.run(200)
    assert session.state == "open"
    client.hang_up()
    rig.run(90)
    assert not list(rig.core.authority.prefixes.in_use())


def test_an_address_and_a_delegated_prefix(rig):
    client = rig.dial(ipv6=True)
    session = rig.session("<l2tp-joe>")
    reply = ask(rig, client, Type.SOLICIT, NA, PD)
    given, prefix = (a.leases[0].what for a in reply.associations)
    assert given in session.prefix and prefix == session.delegated and prefix.subnet_of(IPv6Network("2001:db8:100::/52"))
    assert ask(rig, client, Type.REQUEST, NA, PD, server=reply.server).associations == reply.associations
    assert rig.tables.lookup(prefix[1 << 64].packed) == session.slot
    assert session.row(rig.tables, rig.now)["delegated-ipv6-prefix"] == str(prefix)
    rig.run(1800)
    assert ask(rig, client, Type.RENEW, *reply.associations, server=reply.server).associations == reply.associations
    rig.run(6000)
    assert session.delegated == prefix and rig.tables.lookup(prefix[5].packed) == session.slot
    assert ask(rig, client, Type.RELEASE, *reply.associations, server=reply.server).status.code == 0
    assert session.delegated is None and rig.tables.lookup(prefix[5].packed) == 0 and session.link.ipv6
    assert lease(rig, client) == prefix, "it is his again"
    rig.run(7300)
    assert session.delegated is None, "who does not renew has it no more"


def test_the_same_prefixes_for_who_comes_again(rig):
    seen = []
    for _ in range(3):
        client = rig.dial(ipv6=True)
        seen.append((rig.session("<l2tp-joe>").prefix, lease(rig, client)))
        other = rig.dial("ann", "2", ipv6=True)
        assert rig.session("<l2tp-ann>").prefix not in seen[-1] and lease(rig, other) not in seen[-1]
        client.hang_up()
        other.hang_up()
        rig.run(5)
    assert len(set(seen)) == 1


def test_pools_that_are_empty(tmp_path):
    """No prefix for the link: refused, as without an address. None to delegate: told so, and the link is up."""
    rig = Rig(tmp_path, config({"links": {"prefix": "2001:db8:67:1::/64"}}))
    assert rig.dial(ipv6=True).link.ipv6 and rig.dial("ann", "2", ipv6=True).link is None
    assert rig.core.sessions.failures.rows[-1]["reason"] == "pool 'links' has no prefix left"
    rig = Rig(tmp_path, config({"delegated": {"prefix": "2001:db8:100::/56", "prefix-length": 56}}))
    joe, ann = rig.dial(ipv6=True), rig.dial("ann", "2", ipv6=True)
    assert isinstance(lease(rig, joe), IPv6Network) and lease(rig, ann) == 6 and ann.link.ipv6


def test_a_prefix_of_his_own(tmp_path):
    own = "2001:db8:67:9::/64"
    rig = Rig(tmp_path, config(secrets={"joe": {"password": "1", "remote-ipv6-prefix": own}}))
    first = rig.dial(ipv6=True)
    assert str(rig.session("<l2tp-joe>").prefix) == own
    rig.dial(ipv6=True)
    assert first.call_down and "came in again" in first.call_down.text and str(rig.session("<l2tp-joe>").prefix) == own


@pytest.mark.parametrize("own", ["2001:db8:300::/60", "2001:db8:100:300::/56"], ids=["outside the pools", "of the pool"])
@pytest.mark.parametrize("pool", ["delegated", None])
def test_a_delegated_prefix_of_his_own(tmp_path, own, pool):
    """In or outside of the pool that others have theirs of; while one session has it, another has none."""
    profile = {key: value for key, value in {**PROFILE, "dhcpv6-pd-pool": pool}.items() if value}
    rig = Rig(tmp_path, configuration(profiles={"default-encryption": profile}, **{"ipv6-pool": POOLS},
                                      secrets={"joe": {"password": "1", "delegated-ipv6-prefix": own}}))
    first = rig.dial(ipv6=True)
    prefix = lease(rig, first)
    assert str(prefix) == own and rig.tables.lookup(prefix[5].packed) == rig.slot(first)
    assert rig.session("<l2tp-joe>").delegated == prefix
    second = rig.dial(ipv6=True)
    assert lease(rig, second) == 6, "NoPrefixAvail: it is in use"
    if pool:
        assert lease(rig, rig.dial("ann", "2", ipv6=True)) not in (prefix, 6)
    first.hang_up()
    rig.run(5)
    assert rig.tables.lookup(prefix[5].packed) == 0
    assert lease(rig, second) == prefix and rig.tables.lookup(prefix[5].packed) == rig.slot(second)


def test_ipv6_comes_later_and_goes(rig):
    """A live change: IPv4 flows on, and nothing is said of the link but what is new."""
    client = rig.dial()
    session = rig.session("<l2tp-joe>")
    assert not session.link.ipv6 and session.router is None and session.prefix
    up_since = session.up_since
    client.ppp.network.ncps[0x8057] = ncp = IPV6CP("client", client.ppp.network, client.settings, Random(3))
    ncp.open(rig.now)
    rig.run(3)
    assert session.link.ipv6 and session.router and rig.tables.lookup(session.prefix[1].packed) == session.slot and client.heard
    prefix = lease(rig, client)
    client.ppp.ipv6cp.fire("Close", rig.now)
    rig.run(3)
    assert not session.link.ipv6 and session.link.ip and session.router is None and session.delegated is None
    assert rig.tables.lookup(prefix[1].packed) == rig.tables.lookup(session.prefix[1].packed) == 0
    assert rig.tables.state(session.slot) == State.OPEN and session.up_since == up_since


def test_a_change_that_the_tables_refuse_leaves_nothing(rig):
    """A prefix that still led to the slot would lead to whoever has that slot next."""
    client = rig.dial(ipv6=True)
    prefix, session = rig.session("<l2tp-joe>").prefix, rig.session("<l2tp-joe>")
    assert rig.tables.lookup(prefix[1].packed) == session.slot

    class Stalled:
        def __getattr__(self, name):
            if name == "configure":
                raise BlockingIOError("a worker stands still")
            return getattr(rig.tables, name)
    rig.core.installer.tables = Stalled()
    client.ppp.ipv6cp.fire("Close", rig.now)
    rig.run(3)
    assert session.ended and client.call_down and rig.tables.lookup(prefix[1].packed) == 0
    rig.check()


def test_a_peer_cannot_fill_the_log(rig, caplog):
    """Who negotiates, and takes and gives back a prefix, as often as it can."""
    caplog.set_level("INFO")
    client = rig.dial(ipv6=True)
    slot = rig.session("<l2tp-joe>").slot
    ncp = rig.core.sessions[slot].ppp.ipv6cp
    for n in range(200):
        ncp.receive(push_packet(1, n & 255, b"\x01\x0a" + (n + 7).to_bytes(8)), rig.now)
        ncp.receive(push_packet(2, ncp._awaited, ncp._request), rig.now)
        rig.core.sessions.touched[slot] = rig.core.sessions[slot]
        rig.core.flush(rig.now)
        for kind in Type.REQUEST, Type.RELEASE:
            message = push_dhcp6(Message(kind, XID, DUID, UNNAMED, (PD,)))
            rig.core.frame(rig.frame(client, IPV6, push_ip6(Datagram6(
                address(client), AGENTS, UDP, struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message, 1))), rig.now)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("still up" in text for text in texts) > 3 and sum("is delegated" in text for text in texts) > 3 and len(texts) < 50


@pytest.mark.parametrize("protocol", [0x8057, 0xC021])
def test_renegotiation(rig, protocol):
    """Of IPV6CP or of all: what was delegated is free meanwhile, and the same afterwards."""
    client = rig.dial(ipv6=True)
    session = rig.session("<l2tp-joe>")
    prefix, link = lease(rig, client), session.prefix
    if protocol == 0xC021:
        client.renegotiate()
    else:
        client.ppp.ipv6cp.fire("RCR+", rig.now, 1, push_packet(2, 1))
    while session.router is not None:
        rig.run(0.001)
    assert session.delegated is None and rig.tables.lookup(prefix[1].packed) == 0
    rig.run(5)
    assert session.link.ipv6 and session.prefix == link and lease(rig, client) == prefix and len(rig.core.sessions) == 1


def test_a_table_that_is_full_leaves_the_link(rig, monkeypatch):
    client = rig.dial(ipv6=True)
    monkeypatch.setattr(type(rig.core.installer), "lead", lambda self, slot, route: (_ for _ in ()).throw(ValueError("no room")))
    assert lease(rig, client) == 6 and client.link.ipv6 and rig.session("<l2tp-joe>").delegated is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12), st.integers(0, 99))
def test_whatever_the_wire_loses(tmp_path_factory, fates, steps, seed):
    """Loss, repetition and delay while clients come, ask, release and go: the books agree all along, and in the end nobody has anything."""
    rig = Rig(tmp_path_factory.mktemp("t"), config(), fates=fates, seed=seed)
    clients = []
    for what, seconds in steps:
        if what == 0 or not clients:
            clients.append(rig.lac().call(*USERS[len(clients) % 2], ipv6=True))
        client = clients[seconds % len(clients)]
        if client.link and client.link.ipv6 and what in (1, 2, 3):
            kind = (Type.SOLICIT, Type.REQUEST, Type.RELEASE)[what - 1]
            message = push_dhcp6(Message(kind, XID, DUID, b"" if kind == Type.SOLICIT else UNNAMED, (PD,)))
            rig.core.frame(rig.frame(client, IPV6, push_ip6(Datagram6(
                address(client), AGENTS, UDP, struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message, 1))), rig.now)
        elif what == 4 and client.ppp:
            client.renegotiate()
        elif what == 5:
            client.hang_up()
        rig.run(seconds)
    for client in clients:
        client.lac.close()
    rig.run(200)
    rig.check_empty()
    assert not list(rig.core.authority.prefixes.in_use())


def test_the_servers_name_stays(tmp_path):
    machine = tmp_path / "machine-id"
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    name = server_duid(tmp_path, machine)
    assert name[:2] == b"\x00\x04" and len(name) == 18 and server_duid(tmp_path, machine) == name
    assert b"\x01\x23\x45\x67" not in name
    drawn = server_duid(tmp_path, tmp_path / "none")
    assert drawn != name and server_duid(tmp_path, tmp_path / "none") == drawn and (tmp_path / "duid").stat().st_mode & 0o777 == 0o600


def test_echo_to_its_router(rig):
    client = rig.dial(ipv6=True)
    answer, = say(rig, client, Datagram6(address(client), link_local(1).packed, ICMPV6, b"\x80\0\0\0\0\1\0\2ping", 64))
    assert answer.payload[0] == 129 and answer.payload[4:] == b"\0\1\0\2ping"
    assert replace(answer, payload=b"").source == link_local(1).packed
