"""Whole links: both roles on a wire that loses, repeats and reorders, renegotiation, endings, and any bytes at any time."""
from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from headrace.control.auth import AuthRequest, Reject
from headrace.control.fields import option
from headrace.control.link import push_packet
from headrace.control.mppe import Policy
from headrace.control.ppp import PPP, LinkDown, LinkReset, LinkSettings, LinkUp, Reason
from hypothesis import given, settings
from hypothesis import strategies as st
from pppwire import CLIENT, REMOTE, SERVER, Wire

LCP, IPCP, PAP, CHAP, IPV6CP, CCP = 0xC021, 0x8021, 0xC023, 0xC223, 0x8057, 0x80FD
METHODS = ("mschap2", "mschap1", "chap", "pap")
ADMIN = Reason("admin", "disconnected", "disconnected by the administrator")
GONE = Reason("call", "disconnected", "the call ended")


@pytest.fixture
def up():
    wire = Wire().open().settle()
    assert wire.is_up()
    return wire


def test_an_open_link_waits_for_nothing(up):
    assert up.server.deadline() is up.client.deadline() is None
    assert up.wait(3600).is_up()
    assert up.count("server", LinkUp) == up.count("client", LinkUp) == 1


def test_both_ends_agree(up):
    server, client = up.last("server", LinkUp), up.last("client", LinkUp)
    assert (server.our_magic, server.peer_magic) == (client.peer_magic, client.our_magic)
    assert 0 not in (server.our_magic, server.peer_magic) and server.our_magic != server.peer_magic


# What the wire may do to a packet: deliver it, drop it, deliver it twice, or let others go first.
Mishaps = st.lists(st.tuples(st.sampled_from(["deliver", "drop", "repeat", "later"]), st.integers(0, 5)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(mishaps=Mishaps, method=st.sampled_from(METHODS), early=st.booleans())
def test_links_open_over_a_bad_wire(mishaps, method, early):
    """Within the restart counters, whatever happens to the first sixty packets."""
    wire = Wire(authentication=(method,), restart=1.0, max_configure=100, authentication_timeout=200.0, open_timeout=400.0,
                client=replace(CLIENT, restart=1.0, max_configure=100, authentication_timeout=200.0, open_timeout=400.0))
    wire.client.open(0.0)
    if early:
        wire.drain()
        wire.queue.clear()      # the client's first request finds nobody
    wire.server.open(0.0)
    wire.drain()
    for mishap, at in mishaps:
        if not wire.queue:
            wire.now = min(d for d in (wire.server.deadline(), wire.client.deadline(), wire.now + 1) if d is not None)
            wire.server.tick(wire.now)
            wire.client.tick(wire.now)
            wire.drain()
            continue
        if mishap == "drop":
            wire.queue.pop(0)
        elif mishap == "repeat":
            wire.queue.append(wire.queue[0])
            wire.deliver()
        elif mishap == "later":
            wire.deliver(min(at, len(wire.queue) - 1))
        else:
            wire.deliver()
    wire.wait(300)
    assert wire.is_up(), wire.seen
    assert wire.last("client", LinkUp).local_address == wire.last("server", LinkUp).remote_address == REMOTE
    assert wire.last("server", LinkUp).our_magic == wire.last("client", LinkUp).peer_magic


@settings(max_examples=60, deadline=None)
@given(mishaps=st.lists(st.sampled_from(["deliver", "drop", "repeat"]), max_size=20), closer=st.sampled_from(["server", "client"]))
def test_links_close_over_a_bad_wire(mishaps, closer):
    wire = Wire().open().settle()
    getattr(wire, closer).close(ADMIN, wire.now)
    wire.drain()
    for mishap in mishaps:
        if wire.queue:
            if mishap == "repeat":
                wire.queue.append(wire.queue[0])
            wire.queue.pop(0) if mishap == "drop" else wire.deliver()
    wire.wait(30)
    assert wire.last(closer, LinkDown).reason == ADMIN and wire.count(closer, LinkDown) == 1
    assert getattr(wire, closer).deadline() is None


def test_closing_is_said_and_heard(up):
    up.server.close(ADMIN, 1.0)
    up.drain()
    assert up.sent["server"][-1][1][0] == 5 and up.seen["server"][-1] == LinkReset("lcp")
    up.wait(10)
    assert up.seen["server"][-1] == LinkDown(ADMIN)
    assert up.seen["client"][-2:] == [LinkReset("lcp"), LinkDown(Reason("link", "peer-terminated", "the peer ended the link"))]
    up.server.close(GONE, 20.0)
    up.server.lower_down(GONE, 20.0)
    up.server.open(20.0)
    up.server.receive(LCP, push_packet(1, 1), 20.0)
    assert (up.server.events(), up.server.outgoing(), up.server.deadline()) == ([], [], None)


def test_the_peers_words_are_in_the_reason(up):
    up.server.receive(LCP, push_packet(5, 1, b'User request\n\x1b[31m"'), 1.0)
    up.drain()
    up.wait(10)
    assert up.last("server", LinkDown).reason.text == 'the peer ended the link, saying "User request..[31m""'


def test_a_cause_that_came_to_nothing_is_forgotten():
    """The peer terminates in the middle of LCP, then opens the link after all."""
    wire = Wire().open()
    wire.server.receive(LCP, push_packet(5, 1), 0.0)
    wire.wait(30)
    assert wire.is_up()
    wire.server.lower_down(GONE, 31.0)
    assert wire.server.events() == [LinkDown(GONE)]


def test_a_lower_layer_that_goes_away_silences_the_link(up):
    up.server.close(ADMIN, 1.0)
    up.server.lower_down(GONE, 1.0)
    assert up.server.outgoing() == [] and up.server.events()[-1] == LinkDown(ADMIN), "the first cause counts"
    up.client.lower_down(GONE, 1.0)
    assert up.client.events() == [LinkDown(GONE)]


@pytest.mark.parametrize("end", ["close", "lower_down"])
def test_a_link_that_never_opened_ends_at_once(end):
    ppp = PPP("server", SERVER, Random(1))
    getattr(ppp, end)(GONE, 0.0)
    assert (ppp.events(), ppp.outgoing()) == ([LinkDown(GONE)], [])
    ppp.open(1.0)
    assert (ppp.outgoing(), ppp.deadline()) == ([], None)


def test_a_silent_peer_is_given_up():
    wire = Wire()
    wire.server.open(0.0)
    wire.wait(100)
    reason = wire.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == ("lcp", "timeout")
    assert [packet[0] for _, packet in wire.sent["server"]] == [1] * 10


@pytest.mark.parametrize("protocol, stage", [(LCP, "lcp"), (IPCP, "ipcp")])
def test_a_layer_that_never_opens_ends_the_link(protocol, stage):
    """The peer answers all but that protocol, or asks for it again and again."""
    wire = Wire(max_configure=1000).open()
    while wire.now < 100 and wire.server.deadline() is not None:
        wire.queue = [one for one in wire.queue if not (one[0] is wire.client and one[1] == protocol)]
        if wire.queue:
            wire.deliver()
        else:
            wire.now = wire.server.deadline()
            wire.server.tick(wire.now)
            wire.drain()
    reason = wire.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == (stage, "timeout") and 60 <= wire.now < 70


def test_who_negotiates_again_and_again_gains_no_time():
    """A peer that has LCP opened every ten seconds, and never says who it is."""
    wire = Wire()
    wire.server.open(wire.now)
    while wire.now < 200 and not wire.count("server", LinkDown):
        if wire.now % 10 == 0:
            wire.client = PPP("client", CLIENT, Random(int(wire.now)))
            wire.client.open(wire.now)
        wire.server.tick(wire.now)
        wire.drain()
        while wire.queue:
            if wire.queue[0][1] == LCP:
                wire.deliver()
            else:
                del wire.queue[0]
        wire.now += 1
    assert wire.last("server", LinkDown).reason.code == "timeout" and 60 <= wire.now <= 70
    assert len({packet for protocol, packet in wire.sent["server"] if protocol == CHAP}) == 6, "a challenge each time"
    assert wire.count("server", AuthRequest) == 0


def test_a_peer_without_ipcp_is_named():
    wire = Wire().open()
    while wire.server.ipcp is None:
        wire.deliver()
    wire.queue.clear()
    wire.server.receive(LCP, push_packet(8, 1, b"\x80\x21"), wire.now)
    wire.server.tick(60.0)
    wire.server.lower_down(GONE, 61.0)
    wire.drain()
    reason = wire.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == ("ipcp", "rejected")


@pytest.mark.parametrize("which", ["server", "client"])
def test_lcp_may_be_renegotiated_at_any_time(up, which):
    """The peer of `which` lost its state and begins anew with another MRU."""
    ppp = getattr(up, which)
    for _ in range(3):
        other = PPP("client" if which == "server" else "server", replace(CLIENT if which == "server" else SERVER, mru=1300), Random(77))
        setattr(up, "client" if which == "server" else "server", other)
        other.open(up.now)
        up.drain()
        up.settle()
        assert up.is_up() and up.last(which, LinkUp).mtu == 1300
    assert ppp is getattr(up, which)
    said = [event for event in up.seen[which] if not isinstance(event, AuthRequest)]
    assert [type(event) for event in said] == [LinkUp] + [LinkReset, LinkUp] * 3


def test_early_and_strange_frames_are_harmless():
    wire = Wire()
    wire.client.open(0.0)
    wire.client.outgoing()
    for protocol in (CHAP, PAP, IPCP, 0x0021, 0x80FD):
        wire.client.receive(protocol, push_packet(1, 1, b"\x10" + bytes(16) + b"lns"), 0.0)
    assert (wire.client.outgoing(), wire.client.events()) == ([], [])


@pytest.mark.parametrize("protocol", [0x0021, 0x0057, CHAP, PAP])
def test_known_protocols_out_of_place_are_not_rejected(up, protocol):
    up.server.receive(protocol, b"\x45" + bytes(40), 1.0)
    assert (up.server.outgoing(), up.server.events()) == ([], [])


@pytest.mark.parametrize("option_of_two, protocol", [(b"\x01\x02", LCP), (b"\x05\x02", LCP), (b"\x03\x02", IPCP), (b"\x81\x02", IPCP),
                                                     (b"\x01\x02", IPV6CP), (b"\x12\x02", CCP), (b"\x63\x02", LCP)])
def test_no_answer_is_longer_than_the_peer_may_take(option_of_two, protocol):
    """A request full of options without values, each of which is answered by one with a value."""
    wire = Wire(policy=Policy("yes"), ipv6=True, client=replace(CLIENT, encryption=Policy("yes"), ipv6=True)).open()
    if protocol != LCP:
        wire.settle()
    for _ in range(8):
        wire.server.receive(protocol, push_packet(1, 7, 1000 * option_of_two), 0.0)
    answers = [packet for _, packet in wire.server.outgoing() if packet[0] in (3, 4)]
    assert len(answers) == 8 and max(map(len, answers)) <= 1500 and all(int.from_bytes(a[2:4]) == len(a) > 1400 for a in answers)


@pytest.mark.parametrize("methods", [(), ("eap",), ("mschap2", "ms-chap")])
def test_settings_without_a_known_authentication_are_an_error(methods):
    with pytest.raises(ValueError, match="authentication"):
        PPP("server", LinkSettings(authentication=methods), Random(1))


def test_a_client_that_nobody_asks_comes_up():
    wire = Wire().open()
    wire.queue.clear()
    client = wire.client
    (_, request), = [one for one in wire.sent["client"]]
    client.receive(LCP, push_packet(1, 1), 0.0)
    client.receive(LCP, b"\x02" + request[1:], 0.0)
    assert [protocol for protocol, _ in client.outgoing()] == [LCP, IPCP]


# Any bytes: well-formed packets are what gets far, so most of what is thrown has a true header.
Options = st.lists(st.builds(option, st.sampled_from([0, 1, 2, 3, 5, 7, 8, 13, 17, 18, 19, 129, 255]), st.binary(max_size=8)), max_size=5)
Packets = st.one_of(
    st.binary(max_size=64),
    st.builds(push_packet, st.integers(0, 15), st.integers(0, 255), st.binary(max_size=64)),
    st.builds(push_packet, st.integers(1, 4), st.integers(0, 255), Options.map(b"".join)),
)
Protocols = st.one_of(st.sampled_from([LCP, LCP, LCP, IPCP, IPCP, PAP, CHAP, 0x0021, 0x80FD]), st.integers(0, 0xFFFF))


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(st.tuples(Protocols, Packets, st.booleans()), max_size=25), before=st.integers(0, 25),
       role=st.sampled_from(["server", "client"]), method=st.sampled_from(METHODS))
def test_any_bytes_in_any_state(frames, before, role, method):
    """Nothing raises, nothing answers one frame with many, and the link still ends with one LinkDown."""
    wire = Wire(authentication=(method,)).open()
    for _ in range(before):
        if wire.queue:
            wire.deliver()
    ppp, said = getattr(wire, role), []
    already = wire.count(role, LinkDown)
    for protocol, packet, follow in frames:
        if follow and packet[1:2]:   # with the identifier that is waited for
            packet = packet[:1] + bytes((ppp.lcp._awaited & 255,)) + packet[2:]
        ppp.receive(protocol, packet, wire.now)
        answers = ppp.outgoing()
        assert len(answers) <= 4
        assert all(4 <= len(answer) == int.from_bytes(answer[2:4]) for _, answer in answers)
        events = ppp.events()
        said += events
        for event in events:
            if isinstance(event, AuthRequest):
                ppp.authenticated(Reject(), wire.now, event)
        wire.now += 0.5
        ppp.tick(wire.now)
    ppp.lower_down(GONE, wire.now)
    said += ppp.events()
    assert already + sum(isinstance(event, LinkDown) for event in said) == 1
    assert ppp.deadline() is None
