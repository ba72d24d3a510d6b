"""The L2TP endpoint: against messages that scapy and this file build, against broken ones, and in a storm.

The two roles back to back, over a network that loses, doubles and reorders, are in test_l2tp_pair.py.
"""
from __future__ import annotations

import itertools
import logging
import struct
from hashlib import md5
from random import Random

import pytest
from headrace.control.l2tp import CallDown, CallOpening, CallUp, Endpoint, Ignored, Path, Settings, TunnelDown, TunnelState, TunnelUp
from headrace.control.l2tpevents import LineErrors, LinkInfo
from headrace.control.reason import Reason
from hypothesis import given
from hypothesis import strategies as st

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.l2tp import L2TP  # noqa: E402
from scapy.packet import Raw  # noqa: E402

OURS, THEIRS, OTHER = (bytes(10) + b"\xff\xff" + bytes(a) for a in ((10, 0, 0, 1), (10, 0, 0, 2), (10, 0, 0, 3)))
PATH = Path(0, OURS, 1701, THEIRS, 40000, 1)
BYE = Reason("tunnel", "shutdown", "bye")
MUST, HIDE = 0x8000, 0x4000
SCCRQ, SCCRP, SCCCN, STOPCCN, HELLO, OCRQ, OCRP, OCCN, ICRQ, ICRP, ICCN, CDN, WEN, SLI = 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16


class Ids:
    """Tunnel and session ids that count up; what is out."""
    def __init__(self, sessions=1000):
        self.next, self.room, self.tunnels, self.sessions = itertools.count(1), sessions, set(), set()

    def take_tunnel(self):
        self.tunnels.add(n := next(self.next))
        return n

    def give_tunnel(self, tunnel_id):
        self.tunnels.remove(tunnel_id)

    def take_session(self, tunnel_id):
        if len(self.sessions) >= self.room:
            return None
        n = next(self.next)
        self.sessions.add((tunnel_id, n))
        return n

    def give_session(self, tunnel_id, session_id):
        self.sessions.remove((tunnel_id, session_id))


def endpoint(**settings):
    return Endpoint(Settings(**settings), Ids(), Random(1).randbytes)


def avp(number, value=b"", bits=MUST, vendor=0):
    if isinstance(value, int):
        value = struct.pack("!H", value)
    return struct.pack("!HHH", bits | len(value) + 6, vendor, number) + value


def datagram(tunnel_id, session_id, ns, nr, *avps):
    """A control message, its header by scapy."""
    header = L2TP(hdr="control+length+sequence", tunnel_id=tunnel_id, session_id=session_id, ns=ns, nr=nr)
    return bytes(header / Raw(b"".join(avps)))


class Answer:
    """A datagram that was sent, its header read by scapy and its AVPs by hand."""
    def __init__(self, path, data):
        header = L2TP(data)
        assert header.hdr == "control+length+sequence" and header.version == 2 and header.len == len(data)
        self.path, self.tunnel_id, self.session_id, self.ns, self.nr = path, header.tunnel_id, header.session_id, header.ns, header.nr
        self.avps, self.order, at = {}, [], 12
        while at < len(data):
            bits, vendor, number = struct.unpack_from("!HHH", data, at)
            assert vendor == 0 and bits & 0x3C00 == 0
            self.avps[number] = data[at + 6:at + (bits & 0x3FF)]
            self.order.append((number, bits & 0xC000))
            at += bits & 0x3FF
        assert at == len(data)
        self.type = int.from_bytes(self.avps[0]) if self.avps else 0

    @property
    def result(self):
        value = self.avps[1]
        return int.from_bytes(value[:2]), int.from_bytes(value[2:4])


def greeting(kind=SCCRQ, tunnel_id=77, host=b"lac"):
    return [avp(0, kind), avp(2, 0x100), avp(3, struct.pack("!L", 3)), avp(7, host), avp(9, tunnel_id)]


class Peer:
    """A peer played by hand: it numbers what it sends, and checks that all of it is acknowledged at once."""
    def __init__(self, end, path=PATH, tunnel_id=77):
        self.end, self.path, self.tunnel_id, self.ours, self.ns, self.nr, self.now = end, path, tunnel_id, 0, 0, 0, 0.0
        self.events = []

    def give(self, data, path=None):
        self.end.receive(path or self.path, data, self.now)
        return self.take()

    def take(self):
        self.events += self.end.events()
        answers = [Answer(*out) for out in self.end.outgoing()]
        for answer in answers:
            if answer.type and answer.tunnel_id in (0, self.tunnel_id):
                self.nr = answer.ns + 1
        return answers

    def send(self, *avps, session=0, acknowledged=True):
        data = datagram(self.ours, session, self.ns, self.nr, *avps)
        self.ns += 1
        answers = self.give(data)
        if acknowledged:
            assert answers and answers[-1].nr == self.ns
        return answers

    def ack(self):
        return self.give(datagram(self.ours, 0, self.ns, self.nr))

    def open(self, *extra):
        """A tunnel, as LAC."""
        [sccrp] = self.send(*greeting(tunnel_id=self.tunnel_id), *extra)
        self.ours = int.from_bytes(sccrp.avps[9])
        self.send(avp(0, SCCCN))
        return sccrp

    def ring(self, session=5):
        """ICRQ; our session id of the ICRP."""
        [icrp] = self.send(avp(0, ICRQ), avp(14, session), avp(15, bytes(4)))
        assert (icrp.type, icrp.session_id) == (ICRP, session)
        return int.from_bytes(icrp.avps[14])

    def call(self, session=5, *extra):
        ours = self.ring(session)
        self.send(avp(0, ICCN), avp(24, bytes(4)), avp(19, bytes(4)), *extra, session=ours)
        return ours

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def until(self, now, kind=0):
        """Let time pass; what was sent."""
        answers = []
        while (due := self.end.deadline()) is not None and due <= now:
            self.now = max(self.now, due)
            self.end.tick(self.now)
            answers += self.take()
        self.now = now
        return answers


@pytest.fixture
def peer():
    return Peer(endpoint())


# -- the way up and down

def test_tunnel_and_call(peer):
    sccrp = peer.open(avp(8, b"vendor", 0), avp(10, 8))
    assert (sccrp.type, sccrp.tunnel_id, sccrp.session_id, sccrp.ns, sccrp.nr) == (SCCRP, 77, 0, 0, 1)
    assert sccrp.order[0] == (0, MUST) and {2, 3, 7, 9, 10} <= sccrp.avps.keys() and sccrp.avps[2] == b"\1\0"
    assert peer.events == [TunnelUp(peer.ours, PATH, "lac", "vendor", 77)]
    path = PATH._replace(worker=3)
    peer.path = path
    [icrp] = peer.send(avp(0, ICRQ), avp(14, 5), avp(15, bytes(4)), avp(22, b"123"), avp(21, b"456"))
    session = int.from_bytes(icrp.avps[14])
    assert peer.events[1:] == [CallOpening(peer.ours, session, 77, 5, path)]
    [zlb] = peer.send(avp(0, ICCN), avp(24, struct.pack("!L", 99)), avp(19, struct.pack("!L", 2)), avp(39), avp(29, 2, 0),
                      avp(30, b"user", 0), session=session)
    assert (zlb.type, zlb.ns, zlb.nr) == (0, 2, 4)          # it takes no number
    assert peer.events[2:] == [CallUp(peer.ours, session, 77, 5, path, "123", "456", 99, 2, True,
                                      {"proxy_authen_type": 2, "proxy_authen_name": b"user"})]


def test_cdn_from_the_peer(peer):
    peer.open()
    session = peer.call()
    [zlb] = peer.send(avp(0, CDN), avp(1, struct.pack("!HH", 2, 6) + b"line cut"), avp(14, 5), avp(12, b"\0\x10\0busy"),
                      avp(46, b"\0\4\xc0\x21\1gone", 0), session=session)
    [down] = peer.seen(CallDown)
    assert (zlb.type, down.session_id, down.by_peer, down.reason.code) == (0, session, True, "cleared")
    assert all(word in down.reason.text for word in ("line cut", "cause 16 busy", "disconnect cause 4 gone", "error 6"))
    assert peer.end.ids.sessions == set()


def test_cdn_from_us(peer):
    peer.open()
    session = peer.call()
    peer.end.hang_up(peer.ours, session, Reason("call", "idle", "idle for too long"), 0.0, 3, 0)
    [cdn] = peer.take()
    assert (cdn.type, cdn.session_id, cdn.result) == (CDN, 5, (3, 0))
    assert cdn.avps[14] == struct.pack("!H", session) and cdn.avps[1][4:] == b"idle for too long"
    assert peer.seen(CallDown) == [CallDown(peer.ours, session, Reason("call", "idle", "idle for too long"), False)]
    peer.end.hang_up(peer.ours, session, BYE, 0.0)
    assert peer.take() == []


def test_cdn_before_the_peer_knows_our_id(peer):
    peer.open()
    session = peer.ring(9)
    peer.send(avp(0, CDN), avp(1, 3), avp(14, 9))
    assert [(d.session_id, d.by_peer) for d in peer.seen(CallDown)] == [(session, True)]


def test_stopccn_from_the_peer(peer):
    peer.open()
    peer.call(5)
    peer.call(6)
    [zlb] = peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, struct.pack("!HH", 6, 0) + b"good night"))
    assert zlb.type == 0
    assert [type(e) for e in peer.events[-3:]] == [CallDown, CallDown, TunnelDown]
    assert "good night" in peer.events[-1].reason.text and peer.end.ids.sessions == set()
    # It did not hear of our acknowledgment: for a full retransmission interval it is said again.
    peer.ns -= 1
    peer.until(30.0)
    assert peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, 6))[0].type == 0
    peer.until(31.5)
    assert peer.end.deadline() is None and len(peer.end) == 0 and peer.end.ids.tunnels == set()
    peer.ns -= 1
    assert peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, 6), acknowledged=False) == []
    assert peer.end.counts["unknown_tunnel"] == 1


def test_stopccn_from_us(peer):
    peer.open()
    session = peer.call()
    peer.end.close(peer.ours, BYE, 0.0, result=6)
    [stop] = peer.take()
    assert (stop.type, stop.session_id, stop.result, stop.avps[9]) == (STOPCCN, 0, (6, 0), struct.pack("!H", peer.ours))
    assert stop.avps[1][4:] == b"bye"
    assert peer.events[-2:] == [CallDown(peer.ours, session, Reason("call", "tunnel-shutdown", "bye"), False),
                                TunnelDown(peer.ours, PATH, BYE)]
    peer.end.close(peer.ours, BYE, 0.0)
    assert peer.take() == [] and not peer.end.settled
    # The peer's call crosses: acknowledged, no more.
    assert [a.type for a in peer.send(avp(0, ICRQ), avp(14, 9), avp(15, bytes(4)))] == [0]
    assert peer.end.settled
    assert [a.type for a in peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, 1))] == [0]
    peer.until(40.0)
    assert len(peer.end) == 0 and len(peer.events) == 5


def test_close_all(peer):
    other = Peer(peer.end, PATH._replace(peer_port=2), 78)
    peer.open()
    other.open()
    peer.end.close_all(BYE, 0.0)
    assert [(a.tunnel_id, a.result) for a in peer.take()] == [(77, (6, 0)), (78, (6, 0))]


# -- reliable delivery

def test_duplicates_are_acknowledged_and_not_processed(peer):
    peer.open()
    peer.ns, events = 0, len(peer.events)
    [zlb] = peer.give(datagram(peer.ours, 0, 1, 1, avp(0, SCCCN)))
    assert (zlb.type, zlb.nr) == (0, 2) and peer.end.counts["duplicate"] == 1 and len(peer.events) == events


def test_retransmitted_sccrq_makes_no_second_tunnel(peer):
    data = datagram(0, 0, 0, 0, *greeting())
    [first] = peer.give(data)
    assert [a.type for a in peer.give(data)] == [0]
    assert len(peer.end) == 1
    # The SCCRP again when its time comes, with Nr of now.
    [again] = peer.until(1.0)
    assert (again.type, again.avps) == (SCCRP, first.avps)
    assert [a.type for a in peer.give(datagram(0, 0, 0, 0, *greeting(tunnel_id=78)))] == [SCCRP]
    peer.give(data, PATH._replace(peer_port=1702))
    assert len(peer.end) == 3


def test_a_peer_that_restarted_may_use_its_id_again(peer):
    """Windows counts its ids up from the same number at each boot."""
    peer.open()
    peer.call()
    first, peer.now = peer.ours, 40.0
    assert peer.give(datagram(0, 0, 0, 0, *greeting()))[0].type == SCCRP
    assert len(peer.end) == 2 and not peer.seen(TunnelDown)
    again = Peer(peer.end)
    again.now, again.ns, again.nr = 40.0, 1, 1
    again.ours = max(peer.end.ids.tunnels)
    again.send(avp(0, SCCCN))
    assert again.seen(TunnelUp) and again.ours != first


def test_messages_ahead_of_their_turn(peer):
    peer.open()
    late = datagram(peer.ours, 0, 2, 1, avp(0, ICRQ), avp(14, 5), avp(15, bytes(4)))
    early = datagram(peer.ours, 0, 3, 1, avp(0, ICRQ), avp(14, 6), avp(15, bytes(4)))
    [zlb] = peer.give(early)
    assert (zlb.type, zlb.nr) == (0, 2)
    answers = peer.give(late)
    assert [(a.type, a.session_id, a.nr) for a in answers] == [(ICRP, 5, 4), (ICRP, 6, 4)]
    peer.ns = 4
    peer.ack()
    far = datagram(peer.ours, 0, 4 + 16, 2, avp(0, HELLO))
    peer.give(far)
    assert peer.end.counts["beyond_window"] == 1


def test_nr_beyond_what_was_sent(peer):
    [sccrp] = peer.send(*greeting())
    peer.ours = int.from_bytes(sccrp.avps[9])
    peer.nr = 9
    peer.ack()
    assert peer.end.counts["bad_ack"] == 1
    assert [a.type for a in peer.until(1.0)] == [SCCRP]


def test_nobody_answers(peer):
    peer.open()
    session = peer.call()
    peer.now = 10.0
    peer.end.close(0, BYE, 10.0)
    sent = peer.until(200.0)
    assert [a.type for a in sent] == [HELLO] * 6
    assert [e.reason.code for e in peer.events[-2:]] == ["tunnel-timeout", "timeout"]
    assert peer.seen(CallDown)[0].session_id == session
    assert len(peer.end) == 0 and peer.end.ids.tunnels == peer.end.ids.sessions == set() and peer.end.deadline() is None


def test_hello(peer):
    peer.open()
    assert [a.type for a in peer.send(avp(0, HELLO))] == [0]
    assert peer.until(59.9) == []
    assert [a.type for a in peer.until(60.1)] == [HELLO]
    peer.ack()
    assert peer.until(100.0) == []
    peer.end.heard(peer.ours, 100.0)
    assert peer.until(159.9) == []
    assert [a.type for a in peer.until(160.1)] == [HELLO]


def test_never_established(peer):
    """A peer that acknowledges and then is silent: the tunnel, the call."""
    [sccrp] = peer.send(*greeting())
    peer.ours = int.from_bytes(sccrp.avps[9])
    peer.ack()
    assert next(a.type for a in peer.until(61.0)) == STOPCCN
    assert peer.seen(TunnelDown)[0].reason.code == "timeout"
    other = Peer(peer.end, PATH._replace(peer_port=2), 78)
    other.now = 200.0
    other.open()
    session = other.ring()
    other.now = 255.0
    other.ack()
    cdn = next(a for a in other.until(261.0) if a.type == CDN)
    assert (cdn.result, other.seen(CallDown)[0].session_id) == ((10, 0), session)


# -- authentication and hiding

def answer(message, secret, challenge):
    return md5(bytes([message]) + secret + challenge).digest()


def test_authentication_both_ways():
    peer = Peer(endpoint(secret="s3", require_secret=True))
    [sccrp] = peer.send(*greeting(), avp(11, b"theirs"))
    assert sccrp.avps[13] == answer(2, b"s3", b"theirs") and len(sccrp.avps[11]) == 16
    peer.ours = int.from_bytes(sccrp.avps[9])
    peer.send(avp(0, SCCCN), avp(13, answer(3, b"s3", sccrp.avps[11])))
    assert peer.seen(TunnelUp)


@pytest.mark.parametrize("right", [False, None])
def test_wrong_secret(right):
    peer = Peer(endpoint(secret="s3", require_secret=True))
    [sccrp] = peer.send(*greeting())
    peer.ours = int.from_bytes(sccrp.avps[9])
    [stop] = peer.send(avp(0, SCCCN), *([] if right is None else [avp(13, answer(3, b"wrong", sccrp.avps[11]))]))
    assert (stop.type, stop.result) == (STOPCCN, (4, 0))
    [down] = peer.seen(TunnelDown)
    assert down.reason.code == "auth" and not peer.seen(TunnelUp)
    assert ("wrong" in down.reason.text) == (right is False)


def test_challenged_without_a_secret(peer):
    [stop] = peer.send(*greeting(), avp(11, b"theirs"))
    assert (stop.type, stop.result, len(peer.end)) == (STOPCCN, (4, 0), 0)
    assert "no secret" in peer.seen(Ignored)[0].text and peer.end.counts["refused_tunnel"] == 1


def test_as_lac_the_answer_is_checked():
    for secret, code in ((b"s3", None), (b"wrong", "auth")):
        peer = Peer(endpoint(secret="s3", require_secret=True))
        peer.ours = peer.end.dial(PATH, 0.0)
        [sccrq] = peer.take()
        [out] = peer.send(*greeting(SCCRP), avp(11, b"c"), avp(13, answer(2, secret, sccrq.avps[11])))
        assert out.type == (STOPCCN if code else SCCCN)
        if code:
            assert out.result == (4, 0) and peer.seen(TunnelDown)[0].reason.code == code
        else:
            assert out.avps[13] == answer(3, b"s3", b"c") and peer.seen(TunnelUp)


def hidden(number, value, secret, vector):
    """Section 4.3 for a value of up to 14 octets."""
    key = md5(struct.pack("!H", number) + secret + vector).digest()
    return bytes(a ^ b for a, b in zip(struct.pack("!H", len(value)) + value, key, strict=False))


def test_hidden_attributes_both_ways():
    peer = Peer(endpoint(secret="s3", hide=True))
    vector = bytes(range(16))
    [sccrp] = peer.send(*greeting()[:-1], avp(36, vector), avp(9, hidden(9, b"\0\x4d", b"s3", vector), MUST | HIDE))
    assert sccrp.tunnel_id == 77 and (9, MUST | HIDE) in sccrp.order and (7, MUST) in sccrp.order
    key = md5(b"\0\x09" + b"s3" + sccrp.avps[36]).digest()
    plain = bytes(a ^ b for a, b in zip(sccrp.avps[9], key, strict=False))
    assert plain[:2] == b"\0\2"
    peer.ours = int.from_bytes(plain[2:])
    peer.send(avp(0, SCCCN))
    assert peer.seen(TunnelUp)


@pytest.mark.parametrize("secret", ["", "other"])
def test_hidden_with_another_secret(secret):
    """What the user has to look at is the secret, not the message."""
    peer = Peer(endpoint(secret=secret))
    vector = bytes(range(16))
    [stop] = peer.send(*greeting()[:-1], avp(36, vector), avp(9, hidden(9, b"\0\x4d", b"s3", vector), MUST | HIDE))
    assert (stop.type, stop.result, stop.tunnel_id) == (STOPCCN, (4, 0), 0)
    assert "secret" in peer.seen(Ignored)[0].text


def test_hidden_without_a_random_vector():
    peer = Peer(endpoint(secret="s3"))
    [stop] = peer.send(*greeting(), avp(8, bytes(8), HIDE))
    assert (stop.type, stop.result) == (STOPCCN, (2, 3))


# -- what is not acceptable

@pytest.mark.parametrize("avps, result", [
    ([avp(2, 0x200)], (5, 0x100)), ([avp(9, 0)], (2, 3)), ([avp(10, 0)], (2, 3)), ([avp(99, b"", MUST)], (2, 8)),
    ([avp(7, b"x", MUST, 311)], (2, 8)), ([avp(3, b"123")], (2, 2)), ([avp(11, b"")], (4, 0)),
], ids=["version", "tunnel 0", "window 0", "unknown", "vendor", "length", "challenge"])
def test_sccrq_refused(peer, avps, result):
    for _ in range(2):
        [stop] = peer.give(datagram(0, 0, 0, 0, *greeting(), *avps))
        assert (stop.type, stop.result, stop.ns, stop.nr) == (STOPCCN, result, 0, 1)
        assert stop.tunnel_id == (0 if avps == [avp(9, 0)] else 77)
    assert len(peer.end) == 0 and peer.end.counts["refused_tunnel"] == 2 and len(peer.seen(Ignored)) == 1


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_sccrq_without_what_it_must_have(peer, missing):
    avps = greeting()
    del avps[missing]
    [stop] = peer.give(datagram(0, 0, 0, 0, *avps))
    assert (stop.type, stop.result) == (STOPCCN, (2, 3)) and stop.avps[1].endswith(b" is missing")


def test_unknown_optional_attributes_and_any_order(peer):
    first, *rest = greeting()
    peer.send(first, avp(200, b"what", 0), avp(5, bytes(8), 0), *reversed(rest), avp(3, b"MSFT", 0, 311))
    peer.ours = 1
    peer.send(avp(0, SCCCN), avp(7, b"again"), avp(99, b"", 0))
    assert peer.seen(TunnelUp) and peer.end.counts == {"ignored_avp": 3}


@pytest.mark.parametrize("kind, result", [(SCCCN, (7, 0)), (SCCRP, (7, 0)), (SCCRQ, (7, 0)), (99, (2, 3))])
def test_messages_out_of_sequence_end_the_tunnel(peer, kind, result):
    peer.open()
    [stop] = peer.send(*greeting(kind)) if kind != 99 else peer.send(avp(0, 99))
    assert (stop.type, stop.result) == (STOPCCN, result)
    assert peer.seen(TunnelDown)[0].reason.code == ("protocol" if kind != 99 else "malformed")


def test_unknown_message_that_is_not_mandatory(peer):
    peer.open()
    assert [a.type for a in peer.send(avp(0, 99, 0))] == [0]
    assert peer.end.counts["unknown_message"] == 1


def test_unknown_mandatory_attribute_ends_its_call_or_its_tunnel(peer):
    peer.open()
    keep = peer.call(5)
    [cdn] = peer.send(avp(0, ICRQ), avp(14, 6), avp(15, bytes(4)), avp(99))
    assert (cdn.type, cdn.session_id, cdn.result) == (CDN, 6, (2, 8))
    session = peer.ring(7)
    [cdn] = peer.send(avp(0, ICCN), avp(24, bytes(4)), avp(19, bytes(4)), avp(99), session=session)
    assert (cdn.type, cdn.session_id, cdn.result) == (CDN, 7, (2, 8))
    assert [d.session_id for d in peer.seen(CallDown)] == [session] and keep
    [stop] = peer.send(avp(0, HELLO), avp(99))
    assert (stop.type, stop.result) == (STOPCCN, (2, 8))


@pytest.mark.parametrize("avps, result", [
    ([avp(14, 0), avp(15, bytes(4))], None), ([avp(15, bytes(4))], None), ([avp(14, 6)], (2, 3)), ([avp(14, 6), avp(15, b"")], (2, 2))])
def test_icrq_refused(peer, avps, result):
    """Without a session id there is nobody to answer."""
    peer.open()
    [out] = peer.send(avp(0, ICRQ), *avps)
    assert (out.type, out.type and out.result) == ((CDN, result) if result else (0, 0))
    assert peer.end.counts["refused_call"] == 1 and peer.end.ids.sessions == set()


def test_no_room_for_a_session(peer):
    peer.end.ids.room = 1
    peer.open()
    peer.call(5)
    [cdn] = peer.send(avp(0, ICRQ), avp(14, 6), avp(15, bytes(4)))
    assert (cdn.type, cdn.session_id, cdn.result) == (CDN, 6, (4, 4))


def test_sessions_per_tunnel():
    peer = Peer(endpoint(sessions_per_tunnel=1))
    peer.open()
    peer.call(5)
    assert peer.send(avp(0, ICRQ), avp(14, 6), avp(15, bytes(4)))[0].result == (4, 4)


def test_ocrq_is_refused(peer):
    peer.open()
    long = bytes(4)
    [cdn] = peer.send(avp(0, OCRQ), avp(14, 6), avp(15, long), avp(16, long), avp(17, long), avp(18, long), avp(19, long), avp(21, b"1"))
    assert (cdn.type, cdn.session_id, cdn.result) == (CDN, 6, (5, 0))


@pytest.mark.parametrize("kind", [ICCN, CDN, WEN, SLI, OCRP, OCCN])
def test_sessions_that_are_not_ours(peer, kind):
    peer.open()
    session = peer.call()
    assert [a.type for a in peer.send(avp(0, kind), session=999)] == [0]
    assert peer.end.counts["unknown_session"] == 1 and (peer.ours, session) in peer.end.ids.sessions


def test_icrp_for_no_session(peer):
    peer.open()
    assert peer.send(avp(0, ICRP), avp(14, 6), session=999)[0].result == (2, 5)


@pytest.mark.parametrize("kind", [ICRQ, ICRP, ICCN])
def test_call_messages_out_of_sequence_end_the_call(peer, kind):
    peer.open()
    session = peer.call()
    [cdn] = peer.send(avp(0, kind), avp(14, 6), avp(15, bytes(4)), avp(24, bytes(4)), avp(19, bytes(4)), session=session)
    assert (cdn.type, cdn.result, peer.seen(CallDown)[0].reason.code) == (CDN, (2, 3), "protocol")


def test_icrq_before_the_tunnel_is_open(peer):
    [sccrp] = peer.send(*greeting())
    peer.ours = int.from_bytes(sccrp.avps[9])
    assert peer.send(avp(0, ICRQ), avp(14, 6), avp(15, bytes(4)))[0].result == (2, 1)


def test_wen_and_sli(peer):
    peer.open()
    session = peer.call()
    peer.send(avp(0, WEN), avp(34, struct.pack("!H6L", 0, 1, 2, 3, 4, 5, 6)), session=session)
    peer.send(avp(0, SLI), avp(35, struct.pack("!HLL", 0, 7, 8)), session=session)
    assert peer.events[-2:] == [LineErrors(peer.ours, session, (1, 2, 3, 4, 5, 6)), LinkInfo(peer.ours, session, 7, 8)]
    assert peer.send(avp(0, WEN), avp(34, b"short"), session=session)[0].result == (2, 2)


def test_other_peers_and_unknown_tunnels(peer):
    peer.open()
    hello = datagram(peer.ours, 0, 2, 1, avp(0, HELLO))
    for path in (PATH._replace(peer=OTHER), PATH._replace(peer_port=40001)):
        assert peer.give(hello, path) == []
    assert peer.end.counts["other_peer"] == 2
    assert peer.give(hello, PATH._replace(worker=9)) != []
    assert peer.give(datagram(999, 0, 0, 0, avp(0, HELLO))) == [] and peer.end.counts["unknown_tunnel"] == 1
    assert peer.give(datagram(0, 0, 0, 0, avp(0, HELLO))) == [] and peer.end.counts["no_tunnel"] == 1


@pytest.mark.parametrize("data, name", [
    (b"", "header"), (b"\xc8\x02\0\x0c", "header"), (bytes.fromhex("c803000c0000000000000000"), "version"),
    (bytes.fromhex("8802000c0000000000000000"), "header"), (bytes.fromhex("ca02000c0000000000000000"), "header"),
    (bytes.fromhex("c802000b0000000000000000"), "length"), (bytes.fromhex("c802000d0000000000000000"), "length")])
def test_headers(peer, data, name):
    assert peer.give(data) == [] and peer.end.counts == {name: 1}
    assert [type(e) for e in peer.events] == [Ignored]


def test_one_line_a_second(peer):
    for n in range(30):
        peer.now = n / 10
        peer.give(b"")
    assert len(peer.seen(Ignored)) == 3 and peer.end.counts["header"] == 30


# -- as LAC

def test_answer_from_another_port():
    peer = Peer(endpoint(), PATH._replace(peer_port=1701))
    peer.ours = peer.end.dial(peer.path, 0.0)
    [sccrq] = peer.take()
    assert (sccrq.type, sccrq.tunnel_id, sccrq.path) == (SCCRQ, 0, peer.path)
    peer.path = PATH._replace(peer_port=5555)
    [scccn] = peer.send(*greeting(SCCRP))
    assert (scccn.type, scccn.path) == (SCCCN, peer.path)
    session = peer.end.place_call(peer.ours, 0.0, calling_number="1", tx_speed=7, sequencing=True)
    [icrq] = peer.take()
    assert icrq.type == ICRQ and icrq.avps[22] == b"1" and icrq.avps[14] == struct.pack("!H", session)
    [iccn] = peer.send(avp(0, ICRP), avp(14, 50), session=session)
    assert (iccn.type, iccn.session_id, iccn.avps[24][-1]) == (ICCN, 50, 7) and 39 in iccn.avps
    up = peer.seen(CallUp)[0]
    assert (up.session_id, up.peer_session_id, up.path, up.sequencing_required) == (session, 50, peer.path, True)
    old = PATH._replace(peer_port=1701)
    assert peer.give(datagram(peer.ours, 0, 2, 3, avp(0, HELLO)), old) == [] and peer.end.counts["other_peer"] == 1


def test_sccrq_refused_by_the_peer():
    peer = Peer(endpoint())
    peer.ours = peer.end.dial(PATH, 0.0)
    session = peer.end.place_call(peer.ours, 0.0)
    peer.take()
    peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, struct.pack("!HH", 4, 0)))
    assert [type(e) for e in peer.events] == [CallDown, TunnelDown] and peer.events[1].reason.code == "auth"
    assert session and peer.end.place_call(peer.ours, 0.0) == 0


def test_dialling_is_given_up():
    """The StopCCN finds the tunnel of an SCCRP that came after all."""
    peer = Peer(endpoint())
    peer.ours = peer.end.dial(PATH, 0.0)
    peer.take()
    peer.end.close(peer.ours, BYE, 0.0)
    assert peer.take() == [] and peer.seen(TunnelDown) == [TunnelDown(peer.ours, PATH, BYE)]
    [stop] = peer.send(*greeting(SCCRP))
    assert (stop.type, stop.tunnel_id, stop.result) == (STOPCCN, 77, (1, 0))


def test_icrp_that_is_not_acceptable():
    peer = Peer(endpoint())
    peer.ours = peer.end.dial(PATH, 0.0)
    peer.take()
    peer.send(*greeting(SCCRP))
    for extra, result in (([avp(14, 0)], (2, 3)), ([avp(14, 8), avp(99)], (2, 8))):
        session = peer.end.place_call(peer.ours, 0.0)
        peer.ack()
        [cdn] = peer.send(avp(0, ICRP), *extra, session=session)
        assert (cdn.type, cdn.result) == (CDN, result)
        assert peer.seen(CallDown)[-1].session_id == session and not peer.seen(CallUp)
        peer.ack()


@pytest.mark.parametrize("theirs, ours_lives, theirs_comes", [
    (b"\0" * 8, False, True), (b"\xff" * 8, True, False), (None, True, False), ("same", False, False)])
def test_tie(theirs, ours_lives, theirs_comes):
    peer = Peer(endpoint(tie_breaker=True))
    peer.ours = peer.end.dial(PATH._replace(peer_port=1701), 0.0)
    [sccrq] = peer.take()
    theirs = sccrq.avps[5] if theirs == "same" else theirs
    out = peer.give(datagram(0, 0, 0, 0, *greeting(), *([avp(5, theirs, 0)] if theirs else [])))
    assert [a.type for a in out] == ([SCCRP] if theirs_comes else [])
    assert [e.reason.code for e in peer.seen(TunnelDown)] == ([] if ours_lives else ["tie"])


def test_no_tie_breaker_no_tie(peer):
    peer.end.dial(PATH._replace(peer_port=1701), 0.0)
    peer.take()
    assert [a.type for a in peer.give(datagram(0, 0, 0, 0, *greeting()))] == [SCCRP]
    assert len(peer.end) == 2


# -- durable state

def test_state_is_told_before_it_is_acknowledged(peer):
    peer.open()
    [state] = peer.end.changed()
    assert state == TunnelState(peer.ours, 77, PATH, 1, 2, 1, 3)
    assert peer.end.changed() == []
    peer.end.hang_up(peer.ours, 1, BYE, 0.0)
    assert peer.end.changed() == []
    peer.ring()
    assert peer.end.changed() == [state._replace(ns=2, nr=3)]
    peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, 1))
    peer.until(100.0)
    assert peer.end.changed()[-1][-1] == 0


@pytest.mark.parametrize("expected", [3, 4, 5])
def test_goodbye_after_a_crash(expected):
    """We know that the peer acknowledged up to 3, and that 3 and 4 were sent: one StopCCN is the one it expects."""
    peer = Peer(endpoint())
    peer.end.ids.tunnels.add(9)
    peer.end.say_goodbye([TunnelState(9, 77, PATH, 5, 8, 3, 3), TunnelState(10, 0, PATH, 1, 0, 0, 1)], 0.0, {9: 11})
    stops = peer.take()
    assert [(s.type, s.tunnel_id, s.ns, s.nr) for s in stops] == [(STOPCCN, 77, n, 11) for n in (3, 4, 5)]
    assert expected in [s.ns for s in stops]
    peer.ours, peer.nr, peer.ns = 9, 6, 11
    peer.ack()
    assert peer.end.settled
    peer.until(32.0)
    assert len(peer.end) == 0 and 9 not in peer.end.ids.tunnels
    assert peer.events == []


def test_goodbye_that_nobody_hears():
    peer = Peer(endpoint())
    peer.end.ids.tunnels.add(9)
    peer.end.say_goodbye([TunnelState(9, 77, PATH, 5, 8, 5, 3)], 0.0)
    assert [s.ns for s in peer.take() + peer.until(100.0)] == [5] * 6
    assert len(peer.end) == 0 and peer.end.ids.tunnels == set() and peer.end.settled


def test_a_worker_acknowledged_for_us(peer):
    peer.open()
    peer.end.changed()
    peer.end.worker_nr(peer.ours, 4)
    assert peer.end.changed()[0].nr == 4
    assert peer.give(datagram(peer.ours, 0, 3, 1, avp(0, HELLO)))[0].nr == 4 and peer.end.counts["duplicate"] == 1
    peer.ns = 4
    assert peer.send(avp(0, HELLO))[0].nr == 5


# -- bad input and storms

def conversation():
    """Each message of a life of a tunnel: what came before it, and itself."""
    long = bytes(4)
    messages = [
        (0, 0, greeting() + [avp(11, b"challenge"), avp(8, b"vendor", 0), avp(10, 4)]),
        (1, 0, [avp(0, SCCCN), avp(13, answer(3, b"s", Random(1).randbytes(16)))]),
        (1, 0, [avp(0, ICRQ), avp(14, 5), avp(15, long), avp(22, b"123")]),
        (1, 2, [avp(0, ICCN), avp(24, long), avp(19, long), avp(39), avp(29, 2, 0), avp(30, b"user", 0)]),
        (1, 2, [avp(0, WEN), avp(34, bytes(26))]),
        (1, 2, [avp(0, SLI), avp(35, bytes(10))]),
        (1, 0, [avp(0, OCRQ), avp(14, 6), avp(15, long), avp(16, long), avp(17, long), avp(18, long), avp(19, long), avp(21, b"1")]),
        (1, 0, [avp(0, HELLO)]),
        (1, 2, [avp(0, CDN), avp(1, struct.pack("!HH", 2, 6) + b"text"), avp(14, 5), avp(12, b"\0\x10\0busy")]),
        (1, 0, [avp(0, STOPCCN), avp(9, 77), avp(1, struct.pack("!HH", 6, 0) + b"text")]),
    ]
    data = [datagram(tunnel, session, ns, (0, 1, 1, 2)[min(ns, 3)], *avps) for ns, (tunnel, session, avps) in enumerate(messages)]
    return [(data[:n], data[n], body) for n, (_, _, body) in enumerate(messages)]


CONVERSATION = conversation()
BYSTANDER = PATH._replace(peer=OTHER)
KINDS = ["SCCRQ", "SCCCN", "ICRQ", "ICCN", "WEN", "SLI", "OCRQ", "Hello", "CDN", "StopCCN"]


def judge(before, data):
    """A message after others: something is answered, told or counted, and another peer's tunnel notices nothing."""
    end = Endpoint(Settings(secret="s", require_secret=True), Ids(), Random(1).randbytes)
    for each in before:
        end.receive(PATH, each, 0.0)
    end.receive(BYSTANDER, BYSTANDER_SCCRQ, 0.0)
    end.events()
    end.outgoing()
    end.changed()
    size, counted = len(end), sum(end.counts.values())
    end.receive(PATH, data, 0.0)
    out, events = end.outgoing(), end.events()
    assert out or events or sum(end.counts.values()) > counted
    assert all(path == PATH for path, _ in out) and len(out) <= 2 and size <= len(end) <= size + 1
    end.receive(BYSTANDER, BYSTANDER_SCCRQ, 0.0)
    assert [(path, L2TP(d).nr) for path, d in end.outgoing()] == [(BYSTANDER, 1)]


BYSTANDER_SCCRQ = datagram(0, 0, 0, 0, *greeting())


@pytest.mark.parametrize("before, data, body", CONVERSATION, ids=KINDS)
def test_the_conversation_itself(before, data, body):
    """The messages that the next tests break are good ones."""
    end = Endpoint(Settings(secret="s", require_secret=True), Ids(), Random(1).randbytes)
    for each in [*before, data]:
        end.receive(PATH, each, 0.0)
    assert end.counts == {}
    assert not any(isinstance(e, Ignored) for e in end.events())


@pytest.mark.parametrize("before, data, body", CONVERSATION, ids=KINDS)
def test_cut_at_every_length(before, data, body):
    for size in range(len(data)):
        judge(before, data[:size])
        if size > 12:                       # and with a header that says so
            judge(before, data[:2] + struct.pack("!H", size) + data[4:size])


@pytest.mark.parametrize("before, data, body", CONVERSATION, ids=KINDS)
def test_every_octet_flipped(before, data, body):
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            judge(before, data[:at] + bytes((data[at] ^ mask,)) + data[at + 1:])


@pytest.mark.parametrize("before, data, body", CONVERSATION, ids=KINDS)
def test_every_attribute_with_a_wrong_length(before, data, body):
    for n, each in enumerate(body):
        bits, value = int.from_bytes(each[:2]), each[6:]
        for wrong in (b"", value[:-1], value + b"x", value[:1], value * 3):
            changed = struct.pack("!H", bits & 0xFC00 | len(wrong) + 6) + each[2:6] + wrong
            judge(before, data[:2] + struct.pack("!H", len(data) - len(value) + len(wrong)) + data[4:12]
                  + b"".join([*body[:n], changed, *body[n + 1:]]))
        for length in (0, 5, len(each) - 1, len(each) + 1, 0x3FF):
            changed = struct.pack("!H", bits & 0xFC00 | length) + each[2:]
            judge(before, data[:12] + b"".join([*body[:n], changed, *body[n + 1:]]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6), st.integers(0, 6), st.binary(max_size=40) | st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 7, 9, 10, 11, 13, 14, 15, 19, 24, 36, 39, 99]), st.binary(max_size=8),
              st.sampled_from([0, MUST, MUST | HIDE])), max_size=8).map(lambda rows: b"".join(avp(*row) for row in rows)),
    st.sampled_from([1, 2, 3, 4, 6, 7, 10, 11, 12, 14, 15, 16, 99])), max_size=12), st.binary(max_size=30))
def test_any_messages(messages, junk):
    """Nothing raises, whatever arrives in whatever state, and time takes it all away."""
    end = endpoint(secret="s")
    end.dial(PATH, 0.0)
    end.place_call(1, 0.0)
    end.receive(PATH, junk, 0.0)
    for tunnel, session, ns, nr, body, kind in messages:
        data = struct.pack("!HHHHHH", 0xC802, 12 + 8 + len(body), tunnel, session, ns, nr) + avp(0, kind) + body
        end.receive(PATH, data, 0.0)
    end.close_all(BYE, 1.0)
    while (due := end.deadline()) is not None:
        end.tick(due)
        assert due < 300
    assert len(end) == 0 and end.ids.tunnels == end.ids.sessions == set()
    downs = [e.tunnel_id for e in end.events() if isinstance(e, TunnelDown)]
    assert len(downs) == len(set(downs))


def test_storm_is_bounded():
    """2,000 SCCRQ in an instant, from one address and from many; nobody answers ours."""
    end = endpoint(half_open=600, half_open_per_peer=100)
    live = Peer(end, BYSTANDER)
    live.open()
    live.call()
    template = datagram(0, 0, 0, 0, *greeting())
    for n in range(2000):
        end.receive(PATH._replace(peer_port=n + 1), template, 0.0)
    assert (len(end), end.counts["half_open"]) == (101, 1900)
    for n in range(2000):
        end.receive(PATH._replace(peer=bytes(14) + struct.pack("!H", n)), template, 0.0)
    assert len(end) == 601 and len(end.outgoing()) == 600 and len(end.changed()) == 601
    assert len([e for e in end.events() if isinstance(e, Ignored)]) == 1
    assert len(end._heap) <= 602
    sent = 0
    while (due := end.deadline()) < 32:
        end.tick(due)
        sent += len(end.outgoing())
    assert sent == 600 * 5 and len(end) == 1
    assert end._half_open == 0 and not end._opening
    live.now = 32.0
    assert live.send(avp(0, HELLO))[0].type == 0 and live.ours not in [e.tunnel_id for e in live.seen(TunnelDown)]
    end.receive(PATH, template, 40.0)
    assert len(end) == 2


def test_idle_tunnels_cost_no_heap_operations():
    """Traffic moves deadlines away and leaves the heap alone; entries that are out of date do not pile up."""
    peer = Peer(endpoint())
    peer.open()
    for n in range(1, 1000):
        peer.now = n / 100
        peer.send(avp(0, HELLO))
    assert len(peer.end._heap) <= 2
    for n in range(200):
        peer.until(10.0 + n)
        if n % 2:
            peer.call(n + 1)
            peer.ack()
    assert len(peer.end._heap) < 70
