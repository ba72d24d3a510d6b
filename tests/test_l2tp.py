"""The L2TP endpoint: tunnels and calls as LNS and LAC, reliable delivery in time, durable state.

Against a peer played by hand; the two roles back to back are in test_l2tp_pair.py.
"""
from __future__ import annotations

import struct

import pytest
from headrace.control.l2tp import CallDown, CallOpening, CallUp, TunnelDown, TunnelState, TunnelUp
from headrace.control.reason import Reason
from l2tp_peer import BYE, CDN, HELLO, ICCN, ICRP, ICRQ, MUST, PATH, SCCCN, SCCRP, SCCRQ, STOPCCN, Peer, avp, datagram, endpoint, greeting


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


def test_a_peer_that_restarted_at_once(peer):
    """The same id, another SCCRQ."""
    peer.open()
    assert [a.type for a in peer.give(datagram(0, 0, 0, 0, *greeting(), avp(11, b"")))] == [STOPCCN]
    assert [a.type for a in peer.give(datagram(0, 0, 0, 0, *greeting(host=b"again")))] == [SCCRP]
    assert len(peer.end) == 2


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


def test_no_hello_where_data_comes(peer):
    """Others receive the data: they are asked when a HELLO is due, and in a tunnel with many sessions for a few of them only."""
    heard = {1: 0.0}
    asked = []

    def data_heard(tunnel, session):
        asked.append((tunnel, session))
        return heard.get(session, 0.0)

    peer.open()
    for _ in range(6):
        peer.call()
    peer.ack()
    peer.end.data_heard = data_heard
    sessions = list(peer.end._tunnels[peer.ours].calls)
    heard[sessions[3]] = 40.0
    assert peer.until(99.9) == []
    assert asked == [(peer.ours, session) for session in sessions[:4]]
    heard[sessions[0]] = 1e9        # a worker's clock may be ahead of `now`: never more than now
    assert peer.until(159.9) == []
    heard.clear()
    assert [a.type for a in peer.until(160.2)] == [HELLO]


def test_no_hello_before_its_time(peer):
    """Other things wake the tunnel: here the time that a call has to come up."""
    peer.open()
    peer.now = 10.0
    peer.call()
    peer.ack()
    peer.end.heard(peer.ours, 65.0)
    assert peer.until(124.9) == []
    assert [a.type for a in peer.until(125.1)] == [HELLO]


def test_goodbye_goes_before_what_waits():
    peer = Peer(endpoint())
    peer.ours = peer.end.dial(PATH, 0.0)
    peer.take()
    peer.send(*greeting(SCCRP))
    for _ in range(20):
        peer.end.place_call(peer.ours, 0.0)
    assert [(a.type, a.ns) for a in peer.take()] == [(ICRQ, 2)]
    peer.end.close(peer.ours, BYE, 0.0)
    assert [(a.type, a.ns) for a in peer.take() + peer.ack()] == [(STOPCCN, 3)]
    assert len(peer.seen(CallDown)) == 20


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
    peer.ours, peer.nr, peer.ns = 9, expected + 1, 11
    peer.ack()
    assert peer.end.settled == (expected == 5)
    assert {s.ns for s in peer.until(200.0)} == ({expected + 1} if expected < 5 else set())     # the oldest, until given up
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
