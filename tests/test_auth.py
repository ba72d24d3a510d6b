"""The four authentications: the RFCs' numbers, scapy's packets, each role alone and repeated."""
from __future__ import annotations

from dataclasses import replace
from hashlib import md5
from pathlib import Path
from random import Random

import pytest
from headrace.control import chap, mschap, pap
from headrace.control.auth import Accept, AuthRequest, Reject, verify
from headrace.control.link import push_packet
from headrace.control.ppp import LinkDown, LinkReset, LinkUp, Reason
from pppwire import CLIENT, LOCAL, PASSWORD, REMOTE, SERVER, Wire
from scapy.layers.ppp import PPP_CHAP, PPP_PAP

METHODS = ("mschap2", "mschap1", "chap", "pap")
CHAPS = METHODS[:3]


def vector(rfc):
    """The numbers of one RFC in vectors/mschap.hex, by name."""
    paragraphs = (Path(__file__).parent / "vectors/mschap.hex").read_text().split("\n\n")
    lines, = (p.splitlines()[1:] for p in paragraphs if p.startswith(f"# RFC {rfc}"))
    return {name: bytes.fromhex(octets) for name, octets in map(str.split, lines)}


@pytest.mark.parametrize("name", [b"User", b"DOMAIN\\User"])
def test_mschap2_vectors(name):
    v = vector(2759)
    ours, theirs = v["authenticator-challenge"], v["peer-challenge"]
    digest = mschap.nt_password_hash("clientPass")
    assert digest == v["password-hash"]
    assert mschap.nt_password_hash("x") != digest
    assert mschap.challenge_hash(theirs, ours, name) == v["challenge"]
    response = mschap.generate_nt_response(ours, theirs, name, digest)
    assert response == v["nt-response"]
    proof = mschap.generate_authenticator_response(digest, response, theirs, ours, name)
    assert proof.encode() == v["authenticator-response"]
    request = AuthRequest("mschap2", name, 1, ours, theirs + bytes(8) + response + b"\0")
    assert verify(request, "clientPass") == proof
    assert verify(request, "clientpass") is None
    assert verify(replace(request, response=request.response[:-1]), "clientPass") is None


def test_mschap1_vectors():
    v = vector(2433)
    assert mschap.nt_password_hash("MyPw") == v["password-hash"]
    assert mschap.challenge_response(v["challenge"], v["password-hash"]) == v["nt-response"]
    request = AuthRequest("mschap1", b"User", 1, v["challenge"], bytes(24) + v["nt-response"] + b"\1")
    assert verify(request, "MyPw") == "" and verify(request, "MyPw2") is None
    assert verify(replace(request, response=bytes(24) + v["nt-response"] + b"\0"), "MyPw") is None, "the NT response is not said to count"


def test_chap_and_pap_passwords():
    request = AuthRequest("chap", b"User", 7, b"challenge", md5(b"\x07secretchallenge").digest())
    assert verify(request, "secret") == "" and verify(request, "Secret") is None
    request = AuthRequest("pap", b"User", 7, password="pässword".encode())
    assert verify(request, "pässword") == "" and verify(request, "password") is None
    assert "ssword" not in repr(request)


def test_names_keep_their_domain_and_lose_it():
    request = AuthRequest("pap", b"DOM\\User", 1)
    assert (request.user, request.account) == ("DOM\\User", "User")
    assert AuthRequest("pap", b"\xff\xfe", 1).user == "\\xff\\xfe"


def dialled(method, **changes):
    return Wire(client=replace(CLIENT, **changes), authentication=(method,)).open().settle()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_opens_the_link(method):
    wire = dialled(method, user="CORP\\User")
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    assert wire.is_up() and (server.method, client.method) == (method, method)
    assert (server.user, client.user) == ("CORP\\User", "CORP\\User")
    assert wire.count("server", AuthRequest) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_password_is_refused_in_the_methods_words(method):
    wire = dialled(method, password="wrong")
    wire.wait(10)
    assert wire.last("server", LinkDown).reason == Reason("authentication", "bad-password", "wrong user name or password")
    reason = wire.last("client", LinkDown).reason
    assert (reason.stage, reason.code) == ("authentication", "bad-password")
    assert ("E=691 R=0 C=" in reason.text) == (method.startswith("ms"))
    assert (" V=3 " in reason.text) == (method == "mschap2")
    assert wire.count("server", LinkUp) == wire.count("client", LinkUp) == 0


def test_packets_are_what_scapy_reads():
    wire = dialled("mschap2")
    challenge, = (PPP_CHAP(packet) for protocol, packet in wire.sent["server"] if protocol == 0xC223 and packet[0] == 1)
    response, = (PPP_CHAP(packet) for protocol, packet in wire.sent["client"] if protocol == 0xC223)
    assert (challenge.value_size, len(challenge.value), challenge.optional_name) == (16, 16, b"headrace")
    assert (response.value_size, response.id, response.optional_name) == (49, challenge.id, b"User")
    wire = dialled("pap")
    request, = (PPP_PAP(packet) for protocol, packet in wire.sent["client"] if protocol == 0xC023)
    assert (request.username, request.password) == (b"User", PASSWORD.encode())


class Log:
    """A link that only remembers."""

    def __init__(self):
        self.sent, self.requests, self.reasons, self.grants = [], [], [], 0

    def send(self, protocol, packet):
        self.sent.append(packet)

    def requested(self, request, now):
        self.requests.append(request)

    def granted(self, now):
        self.grants += 1

    def close(self, reason, now):
        self.reasons.append(reason)


def pair(method):
    """Both roles of a CHAP, each with its link, the challenge made and answered."""
    here, there = Log(), Log()
    server = chap.Authenticator(method, here, SERVER, Random(1))
    client = chap.Peer(method, there, CLIENT, Random(2))
    server.start(0.0)
    client.receive(here.sent[0], 0.0)
    return server, here, client, there


@pytest.mark.parametrize("method", CHAPS)
def test_challenge_is_repeated_and_gets_the_same_response(method):
    server, here, client, there = pair(method)
    server.tick(2.9)
    server.tick(3.0)
    assert len(here.sent) == 2 and here.sent[0] == here.sent[1]
    client.receive(here.sent[1], 3.0)
    assert len(there.sent) == 2 and there.sent[0] == there.sent[1]


@pytest.mark.parametrize("method", CHAPS)
@pytest.mark.parametrize("right", [True, False])
def test_response_repeated_gets_the_same_answer(method, right):
    server, here, _, there = pair(method)
    server.receive(there.sent[0], 0.0)
    server.receive(there.sent[0], 0.0)
    assert len(here.requests) == 1 and server.timer is None
    if right:
        server.accepted(verify(here.requests[0], PASSWORD))
    else:
        server.refused(Reject())
    first = here.sent[-1]
    assert first[0] == (3 if right else 4)
    server.receive(there.sent[0], 1.0)
    server.receive(there.sent[0][:5] + bytes(40) + there.sent[0][45:], 1.0)    # another guess learns nothing
    assert here.sent[-2:] == [first, first] and len(here.requests) == 1


@pytest.mark.parametrize("method", CHAPS)
def test_client_repeats_its_response_until_it_is_answered(method):
    server, here, client, there = pair(method)
    server.receive(there.sent[0], 0.0)
    server.accepted(verify(here.requests[0], PASSWORD))
    client.tick(3.0)                                       # Success is lost
    assert there.sent[1] == there.sent[0]
    server.receive(there.sent[1], 3.0)
    client.receive(here.sent[-1], 3.0)
    assert (there.grants, client.timer) == (1, None)


@pytest.mark.parametrize("method", CHAPS)
def test_client_answers_a_new_challenge_later(method):
    server, here, client, there = pair(method)
    server.receive(there.sent[0], 0.0)
    server.accepted(verify(here.requests[0], PASSWORD))
    client.receive(here.sent[-1], 0.0)
    again = chap.Authenticator(method, here, SERVER, Random(9))
    again.start(5.0)
    client.receive(here.sent[-1], 5.0)
    again.receive(there.sent[-1], 5.0)
    assert len(here.requests) == 2 and verify(here.requests[1], PASSWORD) is not None


def test_a_success_without_proof_is_not_believed():
    for message in (b"", b"S=" + b"0" * 40, b"welcome"):
        _, _, client, there = pair("mschap2")
        client.receive(push_packet(3, there.sent[0][1], message), 0.0)
        assert there.grants == 0 and [(r.stage, r.code) for r in there.reasons] == [("authentication", "peer-unproven")]


@pytest.mark.parametrize("method", CHAPS)
def test_success_before_any_response_or_for_another_is_ignored(method):
    there = Log()
    client = chap.Peer(method, there, CLIENT, Random(2))
    client.receive(push_packet(3, 0, b""), 0.0)
    _, _, client, there2 = pair(method)
    client.receive(push_packet(3, there2.sent[0][1] ^ 1), 0.0)
    client.receive(push_packet(4, there2.sent[0][1] ^ 1), 0.0)
    assert (there.grants, there2.grants, there.reasons, there2.reasons) == (0, 0, [], [])


def test_challenges_of_any_length_for_md5():
    for size in (1, 16, 255):
        there = Log()
        chap.Peer("chap", there, CLIENT, Random(2)).receive(push_packet(1, 3, chap.push_value(bytes(size), b"lns")), 0.0)
        value, name = chap.pull_value(there.sent[0][4:])
        assert value == md5(b"\x03" + PASSWORD.encode() + bytes(size)).digest() and name == b"User"


@pytest.mark.parametrize("method", CHAPS)
@pytest.mark.parametrize("data", [b"", b"\x10", b"\x10abc", b"\x00name", b"\x31" + bytes(48), b"\x03abcUser"])
def test_broken_values_are_dropped(method, data):
    server, here, client, there = pair(method)
    sent = len(here.sent), len(there.sent)
    server.receive(push_packet(2, here.sent[0][1], data), 0.0)
    if not (method == "chap" and data.startswith(b"\x03")):
        client.receive(push_packet(1, 99, data), 0.0)
    assert (len(here.sent), len(there.sent)) == sent and here.requests == []


def test_pap_repeats_both_ways():
    here, there = Log(), Log()
    server, client = pap.Authenticator(here), pap.Peer(there, CLIENT, Random(1))
    client.start(0.0)
    client.tick(3.0)
    first, second = there.sent
    assert second[1] == (first[1] + 1) & 255 and second[4:] == first[4:]
    server.receive(first, 3.0)
    server.receive(second, 3.0)
    assert len(here.requests) == 1
    server.accepted("welcome")
    assert here.sent == [push_packet(2, second[1], b"\x07welcome")]
    server.receive(first, 4.0)
    assert here.sent[-1] == push_packet(2, first[1], b"\x07welcome")
    client.receive(here.sent[0], 4.0)
    client.receive(here.sent[0], 4.0)
    assert (there.grants, client.timer) == (1, None)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x04User", b"\x04User\x09short", b"\xffUser\x01x"])
def test_pap_cut_short_is_dropped(data):
    here = Log()
    pap.Authenticator(here).receive(push_packet(1, 1, data), 0.0)
    assert (here.sent, here.requests) == ([], [])


def waiting():
    """A server that has put its question, and the question."""
    wire = Wire(authentication=("pap",))
    wire.server.open(0.0)
    wire.client.open(0.0)
    for _ in range(20):
        for protocol, packet in wire.client.outgoing():
            wire.server.receive(protocol, packet, 0.0)
        if events := wire.server.events():
            return wire, events[0]
        for protocol, packet in wire.server.outgoing():
            wire.client.receive(protocol, packet, 0.0)
    raise AssertionError("no question")


def test_a_late_verdict_is_about_its_own_request_only():
    wire, old = waiting()
    wire.server.outgoing()
    wire.server.receive(0xC021, push_packet(1, 1), 1.0)                   # the peer begins anew
    request = next(packet for _, packet in wire.server.outgoing() if packet[0] == 1)
    wire.server.receive(0xC021, b"\x02" + request[1:], 1.0)
    wire.server.receive(0xC023, push_packet(1, 1, b"\x04Eve\x00\x00"), 1.0)
    new, = wire.server.events()
    wire.server.authenticated(Accept(LOCAL, REMOTE), 2.0, old)
    assert (new.name, wire.server.outgoing()) == (b"Eve\x00", [])
    wire.server.authenticated(Reject(), 2.0, new)
    assert [packet[0] for _, packet in wire.server.outgoing()] == [3, 5]


def test_verdicts_without_a_question_change_nothing():
    wire = Wire().open().settle()
    for verdict in (Accept(REMOTE, LOCAL), Reject()):
        wire.server.authenticated(verdict, 1.0)
    assert (wire.server.outgoing(), wire.server.events(), wire.server.accept.remote_address) == ([], [], REMOTE)


@pytest.mark.parametrize("asked", [True, False])
def test_authentication_has_its_time(asked):
    if asked:
        wire, _ = waiting()
    else:
        wire = Wire(client=replace(CLIENT, restart=100.0), authentication=("pap",)).open()
        while wire.server.authentication is None:
            wire.deliver()
        wire.queue.clear()
    server = wire.server
    server.outgoing()
    server.tick(29.9)
    assert server.outgoing() == []
    server.tick(30.0)
    assert server.outgoing()[0][1][0] == 5
    server.lower_down(Reason("call", "disconnected", "the call ended"), 31.0)
    reason = next(event.reason for event in server.events() if isinstance(event, LinkDown))
    assert (reason.stage, reason.code) == ("authentication", "timeout") and ("verdict" in reason.text) == asked


def test_after_a_renegotiation_the_peer_authenticates_anew():
    wire = Wire().open().settle()
    wire.server.receive(0xC021, push_packet(1, 99), 1.0)
    wire.drain()
    assert wire.seen["server"][-1] == LinkReset("lcp")
    wire.wait(30)
    assert wire.is_up() and wire.count("server", AuthRequest) >= 2
