"""CCP: what both roles ask for, answer and put up with, for every pair of policies, over any wire; nothing goes round for ever."""
from __future__ import annotations

from dataclasses import replace

import pytest
from headrace.control.automaton import OPENED
from headrace.control.fields import option
from headrace.control.link import push_packet
from headrace.control.mppe import IN_CLEAR, Policy
from headrace.control.ppp import CipherReset, LinkDown, LinkReset, LinkUp
from hypothesis import given, settings
from hypothesis import strategies as st
from pppwire import CLIENT, Wire

LCP, IPCP, CCP = 0xC021, 0x8021, 0x80FD
REQUEST, ACK, NAK, REJECT, TERMINATE = 1, 2, 3, 4, 5
H, M, S, L, D, C = 0x01000000, 0x80, 0x40, 0x20, 0x10, 0x01
YES, REQUIRE = Policy("yes"), Policy("require")
STRONG, WEAK = Policy("require", (128,)), Policy("require", (40,))
STATEFUL = Policy("yes", stateful=True)


def mppe(value):
    return option(18, value.to_bytes(4))


def link(server, client, **changes):
    """A wire whose ends have these policies."""
    return Wire(policy=server, client=replace(CLIENT, encryption=client), **changes)


def encodings(wire):
    ups = [wire.last(name, LinkUp) for name in ("server", "client")]
    return [up and (up.cipher.encoding if up.cipher else "") for up in ups]


def ended(wire, name):
    return wire.last(name, LinkDown).reason


def until_ccp(wire):
    """Up to where the server has asked for encryption, and nobody has answered it."""
    wire.open()
    while not any(protocol == CCP for protocol, _ in wire.sent["server"]):
        wire.deliver()
    wire.queue.clear()
    return wire


def asked(wire, data, identifier=200):
    """The server's answers to a Configure-Request of CCP; what it says of LCP or in requests of its own is left out."""
    wire.server.receive(CCP, push_packet(REQUEST, identifier, data), wire.now)
    return [(packet[0], packet[4:]) for protocol, packet in wire.server.outgoing() if protocol == CCP and packet[0] != REQUEST]


# Two of our own

@pytest.mark.parametrize("server, client, encoding", [
    (YES, YES, "MPPE128 stateless"), (REQUIRE, YES, "MPPE128 stateless"), (YES, REQUIRE, "MPPE128 stateless"),
    (REQUIRE, REQUIRE, "MPPE128 stateless"), (Policy("yes", (56, 40)), REQUIRE, "MPPE56 stateless"),
    (REQUIRE, Policy("yes", (40,)), "MPPE40 stateless"), (WEAK, WEAK, "MPPE40 stateless"),
    (STATEFUL, STATEFUL, "MPPE128 stateful"), (STATEFUL, YES, "MPPE128 stateless"),
    (YES, replace(STATEFUL, use="require"), "MPPE128 stateless"),
    (Policy("yes", (128,)), Policy("yes", (56,)), ""), (IN_CLEAR, YES, ""), (YES, IN_CLEAR, ""),
])
def test_policies_that_agree(server, client, encoding):
    wire = link(server, client).open().settle()
    assert wire.is_up() and encodings(wire) == [encoding, encoding]
    assert wire.now == 0.0, "nobody waited for a timer"
    ups = [wire.last(name, LinkUp) for name in ("server", "client")]
    assert [up.mtu for up in ups] == [1446 if encoding else 1450] * 2 and [up.mru for up in ups] == [1450] * 2
    if encoding:
        (theirs, ours) = (up.cipher for up in ups)
        assert theirs.send.key == ours.receive.key and theirs.receive.key == ours.send.key
        assert [wire.count(name, LinkUp) for name in ("server", "client")] == [1, 1], "the network waits for encryption"


@pytest.mark.parametrize("server, client, end, says", [
    (REQUIRE, IN_CLEAR, "server", "the peer does not speak CCP, and use-encryption is require"),
    (IN_CLEAR, REQUIRE, "client", "the peer does not speak CCP, and use-encryption is require"),
    (STRONG, Policy("yes", (40,)), "server", "the peer offers MPPE of 40 bits, not of 128, and use-encryption is require"),
    (Policy("yes", (56, 40)), STRONG, "client", "the peer offers MPPE of 56 or 40 bits, not of 128, and use-encryption is require"),
])
def test_policies_that_do_not(server, client, end, says):
    wire = link(server, client).open().wait(120)
    reason = ended(wire, end)
    assert (reason.stage, reason.code, reason.text) == ("ccp", "no-encryption", says)
    assert wire.last("server", LinkUp) is wire.last("client", LinkUp) is None


@pytest.mark.parametrize("server, client", [(STRONG, WEAK), (WEAK, STRONG)])
def test_two_that_require_different_strengths_end_the_link(server, client):
    wire = link(server, client).open().wait(120)
    assert {"ccp"} <= {ended(wire, "server").stage, ended(wire, "client").stage} and wire.last("server", LinkUp) is None


@pytest.mark.parametrize("method", ["pap", "chap"])
@pytest.mark.parametrize("server, client", [(REQUIRE, IN_CLEAR), (IN_CLEAR, REQUIRE), (REQUIRE, REQUIRE), (YES, YES)])
def test_methods_without_keys(method, server, client):
    wire = link(server, client, authentication=(method,)).open().wait(120)
    if "require" in (server.use, client.use):
        reasons = {(r.stage, r.code, r.text) for r in (ended(wire, "server"), ended(wire, "client"))}
        assert ("authentication", "no-keys", f"{method} yields no keys to encrypt with, and use-encryption is require") in reasons
        assert wire.last("server", LinkUp) is wire.last("client", LinkUp) is None
    else:
        assert wire.is_up() and encodings(wire) == ["", ""]
    assert not any(protocol == CCP for said in wire.sent.values() for protocol, _ in said)


@pytest.mark.parametrize("bits", [40, 56, 128])
def test_mschap1_has_keys_too(bits):
    wire = link(REQUIRE, Policy("yes", (bits,)), authentication=("mschap1",)).open().settle()
    theirs, ours = wire.last("server", LinkUp).cipher, wire.last("client", LinkUp).cipher
    assert wire.is_up() and encodings(wire) == [f"MPPE{bits} stateless"] * 2
    assert theirs.send.key == theirs.receive.key == ours.send.key and len(ours.send.key) == (16 if bits == 128 else 8)


def test_a_client_that_nobody_asks_has_no_keys():
    wire = link(IN_CLEAR, REQUIRE).open()
    client, (_, request) = wire.client, wire.sent["client"][0]
    client.receive(LCP, push_packet(REQUEST, 1), 0.0)
    client.receive(LCP, b"\x02" + request[1:], 0.0)
    client.tick(3.0), client.tick(9.0)
    assert [e.reason.text for e in client.events() if isinstance(e, LinkDown)] == [
        "a link without authentication yields no keys to encrypt with, and use-encryption is require"]


# What a server answers

@pytest.mark.parametrize("policy, wanted, answer", [
    (YES, mppe(H | S), (ACK, mppe(H | S))),
    (YES, mppe(H | M | S | L), (NAK, mppe(H | S))),
    (YES, mppe(H | M | L), (NAK, mppe(H | M))),
    (YES, mppe(S), (NAK, mppe(H | S))),                 # stateful, which policy does not want
    (STATEFUL, mppe(S), (ACK, mppe(S))),
    (STATEFUL, mppe(H | S), (ACK, mppe(H | S))),        # H is never taken away
    (YES, mppe(H | M | S | L | C), (NAK, mppe(H | S))),         # what Windows asks for
    (YES, mppe(H | S | C), (NAK, mppe(H | S))),         # compression
    (YES, mppe(H | S | D), (NAK, mppe(H | S))),         # obsolete
    (YES, mppe(H | S | 0xF0), (NAK, mppe(H | S))),
    (YES, mppe(0), (ACK, mppe(0))),
    (YES, mppe(C), (NAK, mppe(0))),
    (YES, mppe(H), (NAK, mppe(0))),
    (YES, b"", (ACK, b"")),
    (YES, option(18, b"\0\0\0"), (NAK, mppe(H | S))),
    (YES, option(26, b"\x78\0") + mppe(H | S) + option(21, b"\x2f"), (REJECT, option(26, b"\x78\0") + option(21, b"\x2f"))),
    (Policy("yes", (40,)), mppe(H | S), (REJECT, mppe(H | S))),
    (Policy("yes", (40,)), mppe(H | S | L), (NAK, mppe(H | L))),
    (REQUIRE, mppe(0), (NAK, mppe(H | S))),
    (REQUIRE, mppe(C), (NAK, mppe(H | S))),
    (REQUIRE, b"", (NAK, mppe(H | S))),
    (replace(STATEFUL, use="require"), b"", (NAK, mppe(S))),
])
def test_answers_of_the_server(policy, wanted, answer):
    assert asked(until_ccp(link(policy, YES)), wanted) == [answer]


@pytest.mark.parametrize("wanted", [mppe(0), b"", mppe(C)])
def test_a_peer_that_goes_on_asking_for_nothing_is_let_go(wanted):
    wire = until_ccp(link(REQUIRE, YES))
    answers = [asked(wire, wanted, identifier) for identifier in range(20)]
    naks = [answer for answer in answers if answer and answer[0][0] == NAK]
    assert len(naks) == 5 and answers[len(naks) + 1:] == [[]] * (19 - len(naks))
    if wanted:
        wire.wait(120)
        assert ended(wire, "server").text == "the peer goes on asking for no encryption, and use-encryption is require"


@pytest.mark.parametrize("said, again", [
    ((NAK, mppe(H | S)), mppe(H | S)), ((NAK, mppe(H | L)), mppe(H | L)), ((NAK, mppe(H | M | L)), mppe(H | M)),
    ((NAK, mppe(L)), mppe(H | L)),                      # stateful is not ours to give
    ((NAK, mppe(0)), b""), ((NAK, mppe(C)), b""), ((REJECT, mppe(H | S | M | L)), b""),
    ((ACK, mppe(H | S | M | L)), mppe(H | S)),          # who chooses all has chosen none
])
def test_what_a_server_makes_of_answers(said, again):
    wire = until_ccp(link(YES, YES))
    request = next(packet for protocol, packet in wire.sent["server"] if protocol == CCP)
    assert request[4:] == mppe(H | S | M | L)
    wire.server.receive(CCP, push_packet(said[0], request[1], said[1]), 0.0)
    (protocol, packet), = wire.server.outgoing()
    assert (protocol, packet[0], packet[4:]) == (CCP, REQUEST, again) and packet[1] != request[1]


def test_stateful_that_is_rejected_is_asked_for_again_without():
    wire = until_ccp(link(STATEFUL, YES))
    said = []
    for _ in range(3):
        request = [packet for protocol, packet in wire.sent["server"] if protocol == CCP][-1]
        said.append(request[4:])
        wire.server.receive(CCP, push_packet(REJECT, request[1], request[4:]), 0.0)
        wire.drain()
    assert said == [mppe(S | M | L), mppe(H | S | M | L), b""]


def test_naks_without_end_come_to_an_end():
    """A peer that wants another strength each time."""
    wire = until_ccp(link(YES, YES))
    for bits in [L, M] * 10:
        request = [packet for protocol, packet in wire.sent["server"] if protocol == CCP][-1]
        wire.server.receive(CCP, push_packet(NAK, request[1], mppe(H | bits)), 0.0)
        wire.drain()
    said = [(packet[0], packet[4:]) for protocol, packet in wire.sent["server"] if protocol == CCP]
    assert said[6:] == [(REQUEST, b"")] * 5 + [(TERMINATE, b"")]
    wire.queue.clear()
    for now in (3.0, 6.0, 9.0):
        wire.server.tick(now)
    wire.drain()
    assert wire.server.ipcp.state == 6, "and the network goes on without"


# The rest of the link

def test_a_peer_that_does_not_answer_ccp_gets_its_address():
    """Three tries, then the network opens in clear."""
    wire = link(YES, IN_CLEAR).open()
    while wire.now < 20 and not wire.is_up():
        wire.queue = [one for one in wire.queue if one[1] != CCP and (one[:2] != (wire.server, IPCP) or wire.server.ipcp.state)]
        if wire.queue:
            wire.deliver()
        else:
            wire.now = min(wire.server.deadline(), wire.client.deadline())
            wire.server.tick(wire.now)
            wire.client.tick(wire.now)
            wire.drain()
    assert wire.is_up() and encodings(wire) == ["", ""] and wire.now < 10
    assert sum(protocol == CCP for protocol, _ in wire.sent["server"]) == 3


def test_a_peer_that_does_not_wait_is_not_kept_waiting():
    wire = until_ccp(link(YES, YES))
    assert wire.server.ipcp.state == 0
    wire.server.receive(IPCP, push_packet(REQUEST, 1, option(3, bytes(4))), 0.0)
    assert [(protocol, packet[0]) for protocol, packet in wire.server.outgoing()] == [(IPCP, REQUEST), (IPCP, NAK)]


def test_encryption_joins_a_link_that_is_up_already():
    """CCP takes longer than IPCP: the address stays, and the link is never reset."""
    wire = link(YES, YES).open()
    held = []
    while wire.server.ccp is None or wire.client.ccp is None:
        wire.deliver()
    for end in (wire.server, wire.client):
        end.ipcp.open(0.0)
    wire.drain()
    while wire.queue:
        if wire.queue[0][1] == CCP:
            held.append(wire.queue.pop(0))
        else:
            wire.deliver()
    assert wire.is_up() and encodings(wire) == ["", ""]
    wire.queue = held
    wire.settle()
    assert wire.is_up() and encodings(wire) == ["MPPE128 stateless"] * 2
    for name in ("server", "client"):
        first, *_, last = (event for event in wire.seen[name] if isinstance(event, LinkUp))
        assert wire.count(name, LinkReset) == 0 and replace(last, cipher=None, mtu=1450) == first


@pytest.mark.parametrize("policy", [YES, REQUIRE])
def test_renegotiation_begins_with_the_start_keys_again(policy):
    wire = link(policy, policy).open().settle()
    before = wire.last("server", LinkUp)
    wire.client.ccp.fire("RCR+", 0.0, 7, push_packet(ACK, 7, mppe(H | S)))      # as if the client's peer had asked anew
    wire.drain()
    wire.settle()
    assert wire.is_up() and wire.last("server", LinkUp) == before and wire.count("server", LinkUp) >= 2
    assert wire.count("server", LinkReset) == (1 if policy is REQUIRE else 0)


@pytest.mark.parametrize("policy", [YES, REQUIRE])
def test_a_peer_that_ends_encryption(policy):
    wire = link(policy, replace(policy, use="yes")).open().settle()
    wire.client.ccp.fire("Close", 0.0)
    wire.drain()
    wire.wait(120)
    if policy is YES:
        assert wire.is_up() and encodings(wire) == ["", ""] and wire.count("server", LinkReset) == 0
    else:
        assert ended(wire, "server").text == "the peer ended CCP, and use-encryption is require"
        assert LinkReset("ccp") in wire.seen["server"]


def test_a_timeout_of_required_encryption_is_its_own():
    wire = link(REQUIRE, YES).open()
    while wire.now < 100 and wire.server.deadline() is not None:
        wire.queue = [one for one in wire.queue if not (one[0] is wire.client and one[1] == CCP)]
        if wire.queue:
            wire.deliver()
        else:
            wire.now = wire.server.deadline()
            wire.server.tick(wire.now)
            wire.drain()
    reason = ended(wire, "server")
    assert (reason.stage, reason.text) == ("ccp", "the peer does not answer CCP, and use-encryption is require")


def test_reset_request_is_heard_and_answered():
    wire = link(STATEFUL, STATEFUL).open().settle()
    wire.server.receive(CCP, push_packet(14, 9, b"\x12\x34"), 0.0)
    assert wire.server.events() == [CipherReset()] and wire.server.outgoing() == [(CCP, push_packet(15, 9))]
    wire.server.receive(CCP, push_packet(15, 9), 0.0)
    assert wire.server.events() == wire.server.outgoing() == []
    wire.server.receive(CCP, push_packet(16, 9), 0.0)
    assert [packet[0] for _, packet in wire.server.outgoing()] == [7]


def test_reset_request_before_ccp_is_open_is_not():
    wire = until_ccp(link(YES, YES))
    wire.server.receive(CCP, push_packet(14, 9), 0.0)
    assert wire.server.events() == wire.server.outgoing() == []


def test_compression_of_a_single_link_is_rejected():
    wire = link(YES, YES).open().settle()
    wire.server.receive(0x80FB, push_packet(REQUEST, 1, mppe(H | S)), 0.0)
    (protocol, packet), = wire.server.outgoing()
    assert (protocol, packet[0], packet[4:6]) == (LCP, 8, b"\x80\xfb")


def test_before_authentication_is_over_nothing_is_rejected():
    """A Configure-Request that overtakes Success must not end encryption for good (RFC 1661 section 3.5)."""
    wire = link(REQUIRE, REQUIRE).open()
    while wire.client.authentication is None:
        wire.deliver()
    wire.client.receive(CCP, push_packet(REQUEST, 1, mppe(H | S)), 0.0)
    assert not any(packet[0] == 8 for protocol, packet in wire.client.outgoing() if protocol == LCP)


# Any wire, any policies

Policies = st.builds(Policy, st.sampled_from(["no", "yes", "require"]),
                     st.lists(st.sampled_from([128, 56, 40]), min_size=1, max_size=3, unique=True).map(tuple), st.booleans())
Mishaps = st.lists(st.tuples(st.sampled_from(["deliver", "deliver", "drop", "repeat", "later"]), st.integers(0, 5)), max_size=60)


def expected(server, client):
    """(strength, receive of the server stateless, send of it stateless), "clear", or "ends"."""
    common = [bits for bits in (128, 56, 40) if bits in server.strengths and bits in client.strengths]
    if "no" in (server.use, client.use) or not common:
        return "ends" if "require" in (server.use, client.use) else "clear"
    return f"MPPE{common[0]} {'stateful' if server.stateful and client.stateful else 'stateless'}"


@settings(max_examples=300, deadline=None)
@given(server=Policies, client=Policies, method=st.sampled_from(["mschap2", "mschap1"]))
def test_every_pair_of_policies(server, client, method):
    wire = link(server, client, authentication=(method,)).open().settle()
    said = sum(protocol == CCP for sent in wire.sent.values() for protocol, _ in sent)
    wire.wait(300)
    outcome = expected(server, client)
    assert said <= 16 and sum(protocol == CCP for sent in wire.sent.values() for protocol, _ in sent) <= 20
    if outcome == "ends":
        assert wire.last("server", LinkUp) is None and wire.last("client", LinkUp) is None
        assert "ccp" in (ended(wire, "server").stage, ended(wire, "client").stage)
    else:
        assert wire.is_up() and encodings(wire) == ["" if outcome == "clear" else outcome] * 2


@settings(max_examples=300, deadline=None)
@given(server=Policies, client=Policies, mishaps=Mishaps, method=st.sampled_from(["mschap2", "mschap1"]))
def test_every_pair_of_policies_over_a_bad_wire(server, client, mishaps, method):
    """Nothing is up in clear that must not be, both ends agree, and the number of messages is bounded."""
    patient = {"restart": 1.0, "max_configure": 100, "authentication_timeout": 200.0, "open_timeout": 400.0}
    wire = Wire(policy=server, client=replace(CLIENT, encryption=client, **patient), authentication=(method,), **patient).open()
    for mishap, at in mishaps:
        if not wire.queue:
            wire.now = min(d for d in (wire.server.deadline(), wire.client.deadline(), wire.now + 1) if d is not None)
            wire.server.tick(wire.now)
            wire.client.tick(wire.now)
            wire.drain()
        elif mishap == "drop":
            wire.queue.pop(0)
        elif mishap == "repeat":
            wire.queue.append(wire.queue[0])
            wire.deliver()
        elif mishap == "later":
            wire.deliver(min(at, len(wire.queue) - 1))
        else:
            wire.deliver()
    wire.wait(300)
    for name, policy in (("server", server), ("client", client)):
        for event in wire.seen[name]:
            if isinstance(event, LinkUp):
                assert policy.use != "require" or (event.cipher and event.cipher.send and event.cipher.receive)
                assert policy.use != "no" or event.cipher is None
                ways = [way for way in (event.cipher.send, event.cipher.receive) if way] if event.cipher else []
                assert all(way.bits in policy.strengths and (way.stateless or policy.stateful) for way in ways)
    assert sum(map(len, wire.sent.values())) < 500
    outcome = expected(server, client)
    if outcome == "ends":
        assert wire.last("server", LinkDown) and wire.last("client", LinkDown)
    elif "require" in (server.use, client.use):
        assert wire.is_up() and encodings(wire) == [outcome] * 2
    else:
        assert wire.is_up() and set(encodings(wire)) <= {"", outcome}
        theirs, ours = wire.last("server", LinkUp).cipher, wire.last("client", LinkUp).cipher
        if theirs and ours:
            assert theirs.send == ours.receive and theirs.receive == ours.send


Options = st.lists(st.builds(option, st.sampled_from([0, 1, 18, 18, 18, 26]), st.one_of(
    st.binary(max_size=6), st.sampled_from([H, M, S, L, D, C, H | S, H | S | L]).map(lambda v: v.to_bytes(4)))), max_size=4).map(b"".join)
Packets = st.one_of(st.binary(max_size=40), st.builds(push_packet, st.integers(0, 16), st.integers(0, 255), Options))


@settings(max_examples=400, deadline=None)
@given(packets=st.lists(st.tuples(Packets, st.booleans()), max_size=30), policy=Policies, before=st.integers(0, 30))
def test_any_bytes(packets, policy, before):
    """Nothing raises, nothing is answered with many, and a link that must be encrypted is up only so."""
    wire = link(policy, replace(policy, use="yes")).open()
    for _ in range(before):
        if wire.queue:
            wire.deliver()
    server = wire.server
    for packet, follow in packets:
        if follow and packet[1:2] and server.ccp:
            packet = packet[:1] + bytes((server.ccp._awaited & 255,)) + packet[2:]
        server.receive(CCP, packet, wire.now)
        answers = server.outgoing()
        assert len(answers) <= 4 and all(4 <= len(answer) == int.from_bytes(answer[2:4]) for _, answer in answers)
        for event in server.events():
            if isinstance(event, LinkUp) and policy.use == "require":
                assert event.cipher.send and event.cipher.receive and server.ccp.state == OPENED
        wire.now += 0.5
        server.tick(wire.now)
