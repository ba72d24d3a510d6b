"""Bundles in control: both ends with several links, under loss, with links that come and go, and peers that do not play by the rules."""
from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from headrace.control.auth import AuthRequest
from headrace.control.bundle import Bundle
from headrace.control.fields import option
from headrace.control.link import CCP_PROTOCOL, IPCP_PROTOCOL, LCP_PROTOCOL, MOST_LINKS, push_packet
from headrace.control.mppe import Policy
from headrace.control.ppp import PPP, LinkDown, LinkJoined, LinkReset, LinkUp, Reason
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multilinkwire import MULTILINK, Ends
from pppwire import CLIENT, LOCAL, REMOTE, SERVER, Wire

ENCODING = "MPPE128 stateless"
BYE = Reason("admin", "disconnected", "disconnected by the administrator")
GONE = Reason("call", "disconnected", "the call ended")


def both(ends):
    """The client's bundle and the server's, of the first link."""
    return ends.clients[0].bundle, ends.servers[0].bundle


def two(**changes):
    ends = Ends(**changes)
    ends.dial()
    ends.settle()
    ends.dial(ends.clients[0].bundle)
    return ends.settle()


def test_a_link_alone_is_a_bundle_of_one():
    ends = Ends()
    ends.dial()
    ends.settle()
    client, server = both(ends)
    up = ends.last(server)
    assert (up.user, up.method, up.remote_address, up.mtu, up.mru) == ("User", "mschap2", REMOTE, 1600, 1600)
    assert (up.pfc, up.acfc, up.our_magic, up.peer_magic) == (True, True, 0, 0), "a bundle has no LCP"
    assert ends.last(client).local_address == REMOTE and ends.last(client).remote_address == LOCAL
    joined = ends.last(ends.servers[0])
    assert isinstance(joined, LinkJoined) and joined.bundle is server
    assert (joined.mtu, joined.mru, joined.our_magic) == (1450, 1450, ends.servers[0].lcp.magic) and joined.peer_magic
    assert ends.wait(3600).is_up(server) and all(m.deadline() is None for m in ends.machines())


def test_a_second_link_joins_and_nothing_is_negotiated_again():
    ends = Ends()
    ends.dial()
    ends.settle()
    client, server = both(ends)
    said = len(ends.seen[server])
    ends.dial(client)
    ends.settle()
    assert ends.servers[1].bundle is server and ends.clients[1].bundle is client and server.links == ends.servers
    assert len(ends.seen[server]) == said and isinstance(ends.last(ends.servers[1]), LinkJoined)


@pytest.mark.parametrize("theirs", [{"mrru": 0}, {"mrru": 0, "discriminator": b""}])
def test_without_an_mrru_a_link_is_a_link(theirs):
    """Of one end alone as well."""
    ends = Ends()
    ends.dial(**theirs)
    ends.settle()
    assert ends.is_up(ends.servers[0]) and ends.last(ends.servers[0]).mtu == 1450 and both(ends) == (None, None)


@pytest.mark.parametrize("first, second, same", [
    ({}, {}, True), ({"discriminator": b""}, {"discriminator": b""}, True), ({"discriminator": b""}, {"discriminator": b"\x00"}, True),
    ({}, {"discriminator": b""}, False), ({"discriminator": b""}, {}, False), ({}, {"discriminator": b"\x02abcd"}, False),
    ({"discriminator": b"\x01abcd"}, {"discriminator": b"\x04abcd"}, False), ({}, {"user": "DOMAIN\\User"}, False)])
def test_links_belong_together_by_user_and_discriminator(first, second, same):
    """RFC 1990 section 5.1.3: one that both have, or none that both have."""
    ends = Ends()
    ends.dial(**first)
    ends.dial(**second)
    ends.settle()
    assert (ends.servers[0].bundle is ends.servers[1].bundle) == same


@pytest.mark.parametrize("use", ["yes", "require"])
def test_encryption_is_the_bundles(use):
    ends = Ends(policy=Policy(use))
    ends.dial(encryption=Policy("yes"))
    ends.settle()
    client, server = both(ends)
    ends.dial(client, encryption=Policy("yes"))
    ends.settle()
    assert (ends.last(server).encoding, ends.last(server).mtu, ends.last(client).encoding) == (ENCODING, 1596, ENCODING)
    ends.hang_up(0, GONE)
    ends.wait(100)
    assert ends.is_up(server) and ends.last(server).encoding == ENCODING, "the first link's keys outlive it"


def test_ipv6_needs_an_mrru_of_its_size():
    for mrru, ipv6 in (1600, True), (1280, True), (1279, False):
        ends = Ends(ipv6=True, mrru=mrru)
        ends.dial(ipv6=True, mru=1000, mtu=1000)
        ends.wait(30)
        assert ends.last(both(ends)[1], LinkUp).ipv6 is ipv6


def test_links_come_and_go_and_the_last_one_ends_the_bundle():
    ends = two()
    client, server = both(ends)
    ends.hang_up(0, GONE)
    assert ends.is_up(server) and ends.is_up(client) and server.links == ends.servers[1:]
    ends.dial(client)
    ends.settle()
    assert len(server.links) == 2
    ends.hang_up(1, GONE)
    assert ends.is_up(server)
    ends.hang_up(2, GONE)
    assert ends.last(server) == ends.last(client) == LinkDown(GONE) and server.deadline() is None
    assert all(ends.last(ppp) == LinkDown(GONE) for ppp in ends.servers + ends.clients)


@pytest.mark.parametrize("end", ["close", "lower_down"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_a_bundle_ends_with_all_its_links(end, side):
    ends = two()
    bundle = both(ends)[side == "server"]
    getattr(bundle, end)(BYE, ends.now)
    ends.drain()
    assert ends.last(bundle) == LinkDown(BYE)
    ends.wait(30)
    mine, theirs = (ends.servers, ends.clients) if side == "server" else (ends.clients, ends.servers)
    assert [ends.last(ppp) for ppp in mine] == [LinkDown(BYE)] * 2
    if end == "close":
        assert [ends.last(ppp).reason.code for ppp in theirs] == ["peer-terminated"] * 2
        assert ends.last(ends.far[bundle]).reason.code == "peer-terminated"


def test_a_link_that_says_goodbye_leaves_the_others():
    ends = two()
    client, server = both(ends)
    ends.clients[0].close(BYE, ends.now)
    ends.drain()
    ends.wait(30)
    assert ends.seen[ends.servers[0]][-2:] == [LinkReset("lcp"), LinkDown(Reason("link", "peer-terminated", "the peer ended the link"))]
    assert ends.is_up(server) and ends.is_up(client) and server.links == ends.servers[1:]


@pytest.mark.parametrize("mrru", [1600, 0])
def test_a_link_may_negotiate_again(mrru):
    """It leaves and joins again, or goes on alone."""
    ends = two()
    client, server = both(ends)
    ends.clients[1] = PPP("client", replace(CLIENT, mrru=mrru, discriminator=b"\x03client" if mrru else b""), Random(9), client)
    ends.clients[1].open(ends.now)
    ends.drain()
    ends.settle()
    kinds = [type(event) for event in ends.seen[ends.servers[1]] if not isinstance(event, AuthRequest)]
    assert kinds == [LinkJoined, LinkReset, LinkJoined if mrru else LinkUp]
    assert ends.is_up(server) and len(server.links) == (2 if mrru else 1) and ends.is_up(client)
    if not mrru:
        assert ends.servers[1].bundle is None and ends.last(ends.servers[1]).mtu == 1450


def test_the_only_link_negotiates_again():
    """Its bundle ends, and another begins."""
    ends = Ends()
    ends.dial()
    ends.settle()
    _, server = both(ends)
    ends.clients[0].lcp.fire("Down", ends.now)
    ends.clients[0].lcp.fire("Up", ends.now)
    ends.drain()
    ends.settle()
    assert ends.last(server) == LinkDown(Reason("lcp", "renegotiated", "LCP was negotiated again"))
    client, other = both(ends)
    assert other is not server and ends.is_up(other) and ends.is_up(client)


@pytest.mark.parametrize("changes, text", [
    ({"mrru": 1500}, "its MRRUs are 1600 and 1500, those of the bundle 1600 and 1600"),
    ({"short_sequence": True}, "its sequence numbers have another length than the bundle's")])
def test_what_differs_does_not_join(changes, text):
    """The server says so; the bundle goes on."""
    ends = two()
    _, server = both(ends)
    number = ends.dial(**changes)
    ends.wait(30)
    down = ends.last(ends.servers[number])
    assert down.reason == Reason("multilink", "mismatch", f"the link cannot join its bundle: {text}")
    assert len(server.links) == 2 and ends.is_up(server)
    assert ends.last(ends.clients[number]).reason.code == "peer-terminated"


def test_a_link_to_somebody_else_does_not_join():
    """A client finds that its second link leads to another server."""
    ends, other = Ends(), Ends(discriminator=b"\x01other")
    ends.dial()
    ends.settle()
    client, server = both(ends)
    other.dial(client)
    other.wait(30)
    assert other.last(other.clients[0]).reason.text.endswith("it leads to another endpoint than the bundle's other links")
    assert client.links == ends.clients and ends.is_up(server)


def test_a_bundle_has_room_for_so_many():
    ends = Ends()
    ends.dial()
    ends.settle()
    client, server = both(ends)
    for _ in range(MOST_LINKS):
        ends.dial(client)
        ends.settle()
    ends.wait(10)
    assert len(server.links) == len(client.links) == MOST_LINKS
    assert {ends.last(ppp).reason.code for ppp in (ends.servers[-1], ends.clients[-1])} <= {"full", "peer-terminated"}


def test_who_has_the_wrong_password_joins_nothing():
    ends = two()
    _, server = both(ends)
    number = ends.dial(password="guessed")
    ends.wait(30)
    assert ends.last(ends.servers[number]).reason.code == "bad-password" and len(server.links) == 2 and ends.is_up(server)
    assert not any(isinstance(event, LinkJoined) for event in ends.seen[ends.servers[number]])


def test_what_a_link_brings_by_itself_is_the_bundles():
    """A peer may send packets without multilink's header (RFC 1990 section 2)."""
    ends = Ends()
    ends.dial()
    while not ends.servers[0].bundle:
        ends.deliver()
    server = ends.servers[0].bundle
    ends.wait(0)
    ipcp = server.network.ipcp
    ends.servers[0].receive(IPCP_PROTOCOL, push_packet(1, 77, option(3, bytes(4))), ends.now)
    ((protocol, answer), *_) = [said for said in server.outgoing() if said[1][0] == 3]
    assert protocol == IPCP_PROTOCOL and answer[4:] == option(3, REMOTE.packed) and ipcp is server.network.ipcp
    assert ends.servers[0].outgoing() == []


def test_lcp_has_no_place_in_a_bundle():
    ends = two()
    _, server = both(ends)
    for code in range(20):
        if code != 8:
            server.receive(LCP_PROTOCOL, push_packet(code, 1, bytes(8)), ends.now)
    ends.drain()
    assert ends.queue == [] and ends.is_up(server) and len(server.links) == 2


def test_protocols_that_nobody_speaks_are_rejected_by_the_first_link():
    ends = two()
    _, server = both(ends)
    server.receive(0x8281, b"abc", ends.now)
    server.receive(0x003D, b"abc", ends.now)
    assert server.outgoing() == [] and [(p, d[0], d[4:]) for p, d in ends.servers[0].outgoing()] == [(LCP_PROTOCOL, 8, b"\x82\x81abc")]


def test_rejected_protocols_of_a_bundle():
    ends = two(policy=Policy("yes"))
    _, server = both(ends)
    server.receive(LCP_PROTOCOL, push_packet(8, 1, CCP_PROTOCOL.to_bytes(2)), ends.now)
    ends.drain()
    assert ends.is_up(server)
    rejected = push_packet(8, 1, b"\x00\x3d")
    ends.servers[1].receive(LCP_PROTOCOL, rejected, ends.now)
    assert len(server.links) == 2, "it was not ready for fragments yet"
    ends.wait(6)
    ends.servers[1].receive(LCP_PROTOCOL, rejected, ends.now)
    ends.drain()
    ends.wait(30)
    assert ends.last(ends.servers[1]).reason == Reason("multilink", "rejected", "the peer agreed to an MRRU and then rejected fragments")
    assert server.links == ends.servers[:1] and ends.is_up(server)


def test_a_bundle_that_does_not_open_ends():
    ends = Ends()
    ends.dial(ip=False)
    ends.wait(100)
    reasons = {ends.last(machine).reason.code for machine in (*ends.bundles.values(), ends.servers[0])}
    assert reasons == {"rejected"} and ends.last(ends.servers[0]).reason.stage == "ipcp"


def test_required_encryption_without_keys_ends_the_link():
    ends = Ends(policy=Policy("require"), authentication=("chap",))
    ends.dial()
    ends.wait(30)
    assert ends.last(ends.servers[0]).reason.code == "no-keys"


def test_a_fragment_before_the_bundle_is_no_news():
    wire = Wire(server=SERVER, client=CLIENT, **MULTILINK).open().settle()
    wire.server.receive(0x003D, b"\xc0\x00\x00\x00", wire.now)
    assert [packet[0] for _, packet in wire.server.outgoing()] == [8], "without multilink nobody speaks it"


Mishaps = st.lists(st.tuples(st.sampled_from(["deliver", "drop", "repeat", "later"]), st.integers(0, 7)), max_size=80)


@settings(max_examples=120, deadline=None)
@example([("deliver", 0), ("repeat", 0), *[("deliver", 0)] * 4, ("repeat", 0), *[("later", 1)] * 3, ("later", 4), ("later", 5)], 3, False)
@given(mishaps=Mishaps, links=st.integers(1, 4), encrypted=st.booleans())
def test_bundles_open_over_a_bad_wire(mishaps, links, encrypted):
    patient = {"restart": 1.0, "max_configure": 100, "authentication_timeout": 200.0, "open_timeout": 400.0}
    policy = Policy("require") if encrypted else Policy("no")
    ends = Ends(policy=policy, **patient)
    client = Bundle("client", replace(CLIENT, mrru=1600, encryption=policy, **patient), Random(3))
    for _ in range(links):
        ends.dial(client, encryption=policy, **patient)
    for mishap, at in mishaps:
        if not ends.queue:
            ends.now += 1.0
            for machine in ends.machines():
                machine.tick(ends.now)
            ends.drain()
        elif mishap == "drop":
            ends.queue.pop(0)
        elif mishap == "repeat":
            ends.queue.append(ends.queue[0])
            ends.deliver()
        elif mishap == "later":
            ends.deliver(min(at, len(ends.queue) - 1))
        else:
            ends.deliver()
    ends.wait(300)
    server, client = ends.servers[0].bundle, client.successor()
    assert ends.is_up(server) and ends.is_up(client)
    assert sorted(map(id, server.links)) == sorted(map(id, ends.servers)) and len(client.links) == links
    assert bool(ends.last(server).cipher) == bool(ends.last(client).cipher) == encrypted


Protocols = st.sampled_from([LCP_PROTOCOL, LCP_PROTOCOL, IPCP_PROTOCOL, CCP_PROTOCOL, 0x3D, 0xC223])
Options = st.lists(st.builds(option, st.sampled_from([1, 3, 5, 17, 18, 19]), st.binary(max_size=22)), max_size=4).map(b"".join)
Packets = st.one_of(st.builds(push_packet, st.integers(0, 15), st.integers(0, 255), st.binary(max_size=40)),
                    st.builds(push_packet, st.integers(1, 4), st.integers(0, 255), Options), st.binary(max_size=24))


@settings(max_examples=150, deadline=None)
@given(frames=st.lists(st.tuples(st.integers(0, 3), Protocols, Packets), max_size=25))
def test_any_bytes_to_a_bundle_and_its_links(frames):
    """Nothing raises, and with its links it ends once."""
    ends = two(policy=Policy("yes"))
    _, server = both(ends)
    for who, protocol, packet in frames:
        machine = (server, server, *ends.servers)[who]
        if packet[1:2] and who > 1:
            packet = packet[:1] + bytes((machine.lcp._awaited & 255,)) + packet[2:]
        machine.receive(protocol, packet, ends.now)
        ends.queue.clear()
        ends.drain()
        ends.now += 0.4
        for each in ends.machines():
            each.tick(ends.now)
        assert all(link.bundle is server and link.network is server.network for link in server.links)
    for ppp in ends.servers:
        ppp.lower_down(GONE, ends.now)
    ends.drain()
    assert server.ended and not server.links and server.deadline() is None
    assert sum(isinstance(event, LinkDown) for event in ends.seen[server]) == 1
