"""The L2TP endpoint: tunnel authentication, hidden AVPs, and messages that are not acceptable."""
from __future__ import annotations

import struct
from hashlib import md5

import pytest
from headrace.control.l2tp import CallDown, CallOpening, Ignored, TunnelDown, TunnelUp
from headrace.control.l2tpevents import LineErrors, LinkInfo
from l2tp_peer import (
    CDN,
    HELLO,
    HIDE,
    ICCN,
    ICRP,
    ICRQ,
    MUST,
    OCCN,
    OCRP,
    OCRQ,
    OTHER,
    PATH,
    SCCCN,
    SCCRP,
    SCCRQ,
    SLI,
    STOPCCN,
    WEN,
    Ids,
    Peer,
    answer,
    avp,
    datagram,
    endpoint,
    greeting,
)


@pytest.fixture
def peer():
    return Peer(endpoint())


# -- authentication and hiding

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
    assert sccrp.tunnel_id == 77 and not any(bits & HIDE for _, bits in sccrp.order)
    peer.ours = int.from_bytes(sccrp.avps[9])
    peer.send(avp(0, SCCCN))
    [icrp] = peer.send(avp(0, ICRQ), avp(36, vector), avp(14, hidden(14, b"\0\5", b"s3", vector), MUST | HIDE), avp(15, bytes(4)))
    assert icrp.session_id == 5 and icrp.order == [(0, MUST), (36, MUST), (14, MUST | HIDE)]
    key = md5(b"\0\x0e" + b"s3" + icrp.avps[36]).digest()
    plain = bytes(a ^ b for a, b in zip(icrp.avps[14], key, strict=False))
    assert plain == struct.pack("!HH", 2, peer.seen(CallOpening)[0].session_id)


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


def test_no_room_for_a_tunnel(peer, monkeypatch):
    monkeypatch.setattr(Ids, "take_tunnel", lambda self, peer: None)
    [stop] = peer.give(datagram(0, 0, 0, 0, *greeting()))
    assert (stop.type, stop.result, len(peer.end)) == (STOPCCN, (2, 4), 0)
    assert peer.end.dial(PATH, 0.0) == 0 and peer.take() == []


def test_no_room_for_a_call_of_our_own(peer):
    peer.open()
    peer.end.ids.room = 0
    assert peer.end.place_call(peer.ours, 0.0) == 0 and peer.end.place_call(999, 0.0) == 0 and peer.take() == []


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
