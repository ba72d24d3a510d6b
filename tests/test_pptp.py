"""PPTP's endpoint against a peer by hand: what the RFC's states say, and what a peer may do wrong."""
from __future__ import annotations

import itertools

import pytest
from headrace.control.address import Path
from headrace.control.pptp import Endpoint
from headrace.control.pptpcall import PAC, PNS
from headrace.control.pptpconnection import CONNECTION
from headrace.control.pptpevents import (
    CallDown,
    CallOpening,
    CallUp,
    ConnectionDown,
    ConnectionUp,
    Ignored,
    LineErrors,
    LinkInfo,
    Settings,
)
from headrace.control.pptpmessage import BY_NAME, Stream, encode
from headrace.control.reason import Reason
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

OURS, THEIRS, OTHERS = (bytes(10) + b"\xff\xff" + bytes(a) for a in ((10, 0, 0, 1), (10, 0, 0, 2), (10, 0, 0, 3)))
PATH = Path(0, OURS, 1723, THEIRS, 40000)
BYE = Reason("admin", "disconnected", "bye")
START = {"protocol_version": 0x0100, "host_name": "peer", "vendor_name": "hand"}


class Ids:
    """Call ids that count up; which are out."""

    def __init__(self, room=1000):
        self.next, self.room, self.out = itertools.count(1), room, set()

    def take_call(self, peer):
        if len(self.out) >= self.room:
            return None
        self.out.add((peer, call := next(self.next)))
        return call

    def give_call(self, peer, call_id):
        self.out.remove((peer, call_id))


class Peer:
    """The other end of one connection of an endpoint."""

    def __init__(self, end=None, path=PATH, dials=False, now=0.0, **settings):
        self.end = Endpoint(Settings(**settings), Ids()) if end is None else end
        self.number = self.end.dial(path, now) if dials else self.end.accept(path, now)
        self.stream, self.events, self.closed = Stream(), [], False
        self.heard = self.take() if dials else []

    def take(self):
        """What it was sent since, as (name, values) without what is 0 or empty."""
        self.events += self.end.events()
        messages = []
        for number, octets in self.end.outgoing():
            assert number == self.number and not self.closed
            if octets is None:
                self.closed = True
            else:
                messages += self.stream.receive(octets)
        assert not self.stream.fault
        return [(m.name, {k: v for k, v in m.values.items() if v}) for m in messages]

    def say(self, name, now=0.0, **values):
        self.end.receive(self.number, encode(name, **values), now)
        return self.take()

    def tick(self, now):
        self.end.tick(now)
        return self.take()

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def up(self, call_id=77):
        """As PNS with a call; our id of it."""
        self.say("SCCRQ", **START)
        [(name, values)] = self.say("OCRQ", call_id=call_id)
        assert name == "OCRP"
        return values["call_id"]


def test_a_client_dials():
    peer = Peer()
    [(name, reply)] = peer.say("SCCRQ", **START)
    assert (name, reply["result"], reply["protocol_version"], reply["host_name"]) == ("SCCRP", 1, 0x0100, "headrace")
    assert peer.seen(ConnectionUp) == [ConnectionUp(peer.number, PATH, "peer", "hand")]
    [(name, reply)] = peer.say("OCRQ", call_id=77, minimum_bps=300, maximum_bps=10_000_000, phone_number="555")
    assert (name, reply["peer_call_id"], reply["result"], reply["receive_window"]) == ("OCRP", 77, 1, 64)
    call = reply["call_id"]
    assert peer.events[1:] == [CallOpening(peer.number, call, 77, PATH), CallUp(peer.number, call, PATH, "", "555", 10_000_000)]
    assert peer.say("SLI", peer_call_id=call, send_accm=1, receive_accm=2) == []
    assert peer.seen(LinkInfo) == [LinkInfo(peer.number, call, 1, 2)]
    assert peer.say("Echo-Request", identifier=9) == [("Echo-Reply", {"identifier": 9, "result": 1})]
    assert peer.say("CCRQ", call_id=77) == [("CDN", {"call_id": call, "result": 4})]
    assert peer.seen(CallDown) == [CallDown(peer.number, call, PATH, Reason("call", "cleared", "the peer ended the call"), True)]
    assert not peer.end.ids.out
    assert peer.say("StopCCRQ", reason=1) == [("StopCCRP", {"result": 1})] and peer.closed
    assert "no reason given" in peer.seen(ConnectionDown)[0].reason.text and len(peer.end) == 0


def test_we_end_a_call_and_then_the_connection():
    peer = Peer(Endpoint(Settings(), Ids(), statistics=lambda peer, call: "9 packets"))
    call = peer.up()
    peer.end.hang_up(peer.number, call, BYE, 1.0)
    assert peer.take() == [("CDN", {"call_id": call, "result": 3, "statistics": "9 packets"})]
    assert peer.seen(CallDown)[0].reason == BYE and not peer.seen(CallDown)[0].by_peer
    again = peer.say("OCRQ", call_id=78)[0][1]["call_id"]
    peer.end.close(peer.number, BYE, 2.0, 3)
    assert peer.take() == [("StopCCRQ", {"reason": 3})] and not peer.closed
    assert [type(e) for e in peer.events[-2:]] == [CallDown, ConnectionDown] and peer.events[-2].call_id == again
    peer.end.hang_up(peer.number, again, BYE, 2.0)
    assert peer.say("OCRQ", 2.0, call_id=79) == peer.say("SLI", 2.0, peer_call_id=again) == []
    assert peer.say("StopCCRP", 2.0, result=1) == [] and peer.closed and not peer.end.ids.out


def test_both_say_goodbye():
    peer = Peer()
    peer.up()
    peer.end.close(peer.number, BYE, 0.0)
    peer.take()
    assert peer.say("StopCCRQ", reason=1) == [("StopCCRP", {"result": 1})] and peer.closed and len(peer.seen(ConnectionDown)) == 1


def test_no_answer_to_a_goodbye():
    peer = Peer()
    peer.up()
    peer.end.close(peer.number, BYE, 0.0)
    peer.take()
    assert peer.end.deadline() <= 5.0
    assert peer.tick(4.9) == [] and not peer.closed
    assert peer.tick(5.0) == [] and peer.closed and len(peer.seen(ConnectionDown)) == 1


def test_as_pns_we_dial():
    peer = Peer(dials=True)
    assert [name for name, _ in peer.heard] == ["SCCRQ"]
    early = peer.end.place_call(peer.number, 0.0, called_number="5")
    assert early and peer.take() == []
    [(name, request)] = peer.say("SCCRP", result=1, **START)
    assert (name, request["call_id"], request["phone_number"], request["phone_number_length"]) == ("OCRQ", early, "5", 1)
    assert peer.say("OCRP", call_id=300, peer_call_id=early, result=1, connect_speed=64000) == []
    assert peer.events[1:] == [CallOpening(peer.number, early, 300, PATH), CallUp(peer.number, early, PATH, "", "5", 64000)]
    peer.say("WEN", peer_call_id=early, crc=1, alignment=6)
    assert peer.seen(LineErrors)[0].errors == (1, 0, 0, 0, 0, 6)
    peer.end.hang_up(peer.number, early, BYE, 0.0)
    assert peer.take() == [("CCRQ", {"call_id": early})] and not peer.seen(CallDown)
    peer.end.hang_up(peer.number, early, BYE, 0.0)
    assert peer.take() == []
    assert peer.say("CDN", call_id=300, result=4, statistics="7 frames") == []
    assert peer.seen(CallDown) == [CallDown(peer.number, early, PATH, BYE, False, "7 frames")]


@pytest.mark.parametrize("values, words", [
    ({"result": 2, "error": 4}, "an error: no resource"), ({"result": 4, "cause": 17}, "busy, cause 17"), ({"result": 99}, "result 99")])
def test_a_pac_that_declines(values, words):
    peer = Peer(dials=True)
    peer.say("SCCRP", result=1, **START)
    call = peer.end.place_call(peer.number, 0.0)
    peer.take()
    peer.say("OCRP", peer_call_id=call, **values)
    [down] = peer.seen(CallDown)
    assert words in down.reason.text and down.reason.code == "declined" and not peer.end.ids.out


def test_a_pac_that_answers_late():
    """CCRQ before the reply: the reply that crosses it changes nothing, and without a CDN the call is over in time."""
    peer = Peer(dials=True)
    peer.say("SCCRP", result=1, **START)
    call = peer.end.place_call(peer.number, 0.0)
    assert ("CCRQ", {"call_id": call}) in peer.tick(60.0)
    assert peer.say("OCRP", 60.0, call_id=3, peer_call_id=call, result=1) == [] and not peer.seen(CallOpening)
    assert peer.tick(65.0) == [] and "not established in time" in peer.seen(CallDown)[0].reason.text and not peer.end.ids.out


def test_an_incoming_call_both_ways():
    pac, pns = Peer(dials=True), Peer()
    pac.say("SCCRP", result=1, **START)
    pns.say("SCCRQ", **START)
    call = pac.end.ring(pac.number, 0.0, calling_number="1", called_number="22")
    [(name, request)] = pac.take()
    assert name == "ICRQ"
    [(name, reply)] = pns.say("ICRQ", **request)
    assert name == "ICRP" and pns.seen(CallOpening) and not pns.seen(CallUp)
    [(name, connected)] = pac.say("ICRP", **reply)
    assert name == "ICCN" and pac.seen(CallUp)[0].call_id == call
    assert pns.say("ICCN", **connected) == []
    speed = connected["connect_speed"]
    assert speed and pns.seen(CallUp) == [CallUp(pns.number, reply["call_id"], PATH, "1", "22", speed)]
    pns.end.hang_up(pns.number, reply["call_id"], BYE, 0.0)
    [(name, clear)] = pns.take()
    [(name, notify)] = pac.say(name, **clear)
    assert pns.say(name, **notify) == [] and pns.seen(CallDown)[0].reason == BYE and pac.seen(CallDown)[0].by_peer
    assert not pac.end.ids.out and not pns.end.ids.out


@pytest.mark.parametrize("version", [0x0000, 0x0101, 0x0200])
def test_another_version(version):
    peer = Peer()
    [(name, reply)] = peer.say("SCCRQ", **START | {"protocol_version": version})
    assert (name, reply["result"]) == ("SCCRP", 5) and peer.closed and "error" not in reply
    assert peer.seen(ConnectionDown)[0].reason.code == "version" and peer.seen(Ignored)[0].name == "refused_connection"
    ours = Peer(dials=True)
    assert ours.say("SCCRP", result=1, **START | {"protocol_version": version}) == [] and ours.closed
    assert "protocol version" in ours.seen(ConnectionDown)[0].reason.text


@pytest.mark.parametrize("result, code, words", [
    (2, "refused", "an error"), (3, "refused", "already"), (4, "auth", "not authorized"), (5, "refused", "version"),
    (0, "refused", "result 0")])
def test_a_server_that_refuses(result, code, words):
    peer = Peer(dials=True)
    peer.say("SCCRP", result=result, **START)
    [down] = peer.seen(ConnectionDown)
    assert peer.closed and down.reason.code == code and words in down.reason.text


def test_a_second_call_and_one_with_the_same_id():
    peer = Peer(calls_per_connection=2)
    first = peer.up(77)
    second = peer.say("OCRQ", call_id=78)[0][1]["call_id"]
    assert first != second and len(peer.seen(CallUp)) == 2
    assert peer.say("OCRQ", call_id=78)[0][1] == {"peer_call_id": 78, "result": 2, "error": 5}
    assert peer.say("OCRQ", call_id=79)[0][1] == {"peer_call_id": 79, "result": 2, "error": 4}
    assert peer.seen(Ignored)[0].name == "refused_call" and peer.end.counts["refused_call"] == 2
    peer.say("CCRQ", call_id=77)
    assert [d.call_id for d in peer.seen(CallDown)] == [first]
    assert peer.say("CCRQ", call_id=77) == [] and peer.end.counts["unknown_call"] == 1
    assert peer.say("OCRQ", call_id=77)[0][1]["result"] == 1


def test_no_id_is_left():
    peer = Peer(Endpoint(Settings(), Ids(room=0)))
    peer.say("SCCRQ", **START)
    assert peer.say("OCRQ", call_id=1)[0][1] == {"peer_call_id": 1, "result": 2, "error": 4} and not peer.seen(CallOpening)


def test_call_id_0_is_one():
    peer = Peer()
    call = peer.up(0)
    assert peer.say("CCRQ", call_id=0) == [("CDN", {"call_id": call, "result": 4})]


def test_a_cdn_of_a_pns_and_a_ccrq_of_a_pac():
    """Each is the other's word, and what is meant is clear."""
    peer = Peer()
    peer.up()
    assert peer.say("CDN", call_id=77, result=3) == [] and "administrative" in peer.seen(CallDown)[0].reason.text
    ours = Peer(dials=True)
    ours.say("SCCRP", result=1, **START)
    call = ours.end.place_call(ours.number, 0.0)
    ours.take()
    ours.say("OCRP", call_id=3, peer_call_id=call, result=1)
    assert ours.say("CCRQ", call_id=3) == [("CDN", {"call_id": call, "result": 4})] and ours.seen(CallDown)


@pytest.mark.parametrize("name", ["OCRQ", "ICRQ", "CCRQ", "CDN", "SLI", "StopCCRP", "SCCRP"])
def test_what_comes_before_sccrq_ends_the_connection(name):
    peer = Peer()
    assert peer.say(name) == [] and peer.closed and peer.seen(ConnectionDown)[0].reason.code == "protocol"


def test_a_second_sccrq_ends_the_connection():
    peer = Peer()
    peer.up()
    assert peer.say("SCCRQ", **START) == [("StopCCRQ", {"reason": 2})] and not peer.closed
    assert peer.seen(CallDown) and peer.seen(ConnectionDown)[0].reason.code == "protocol"


def test_an_answer_that_nobody_asked_for_ends_the_call():
    peer = Peer()
    call = peer.up()
    [(name, values)] = peer.say("OCRP", peer_call_id=call, call_id=5, result=1)
    assert (name, values["result"]) == ("CDN", 2) and peer.seen(CallDown)[0].reason.code == "protocol" and not peer.closed


def test_octets_that_are_not_pptp():
    peer = Peer()
    call = peer.up()
    peer.end.receive(peer.number, encode("Echo-Request") + b"GET / HTTP/1.1\r\n" + encode("Echo-Request"), 0.0)
    assert peer.take() == [("Echo-Reply", {"result": 1})] and peer.closed
    assert [type(e) for e in peer.events[-3:]] == [Ignored, CallDown, ConnectionDown] and peer.events[-2].call_id == call
    assert peer.events[-1].reason.code == "malformed" and not peer.end.ids.out and len(peer.end) == 0


def test_an_unknown_message_is_passed_over():
    peer = Peer()
    peer.up()
    octets = bytearray(encode("Echo-Request"))
    octets[9] = 99
    peer.end.receive(peer.number, bytes(octets), 0.0)
    assert peer.take() == [] and not peer.closed and peer.end.counts == {"unknown_message": 1}
    assert peer.say("Echo-Request")[0][0] == "Echo-Reply"
    assert peer.say("Echo-Reply", identifier=5) == [] and peer.end.counts["echo"] == 1


def test_tcp_ends():
    peer = Peer()
    call = peer.up()
    peer.end.closed(peer.number, 1.0)
    assert peer.take() == [] and peer.seen(CallDown)[0].call_id == call and peer.seen(ConnectionDown)[0].reason.code == "lost"
    peer.end.closed(peer.number, 1.0)
    peer.end.receive(peer.number, b"x", 1.0)
    assert peer.end.outgoing() == peer.end.events() == [] and not peer.end.ids.out


def test_who_says_nothing_is_closed():
    peer = Peer(setup=30.0)
    assert peer.end.deadline() == 30.0
    assert peer.tick(30.0) == [] and peer.closed and peer.seen(ConnectionDown)[0].reason.code == "timeout"
    half = Peer(setup=30.0, idle=10.0)
    half.end.receive(half.number, encode("SCCRQ", **START)[:100], 29.0)
    assert half.tick(30.0) == [] and half.closed
    idle = Peer(idle=10.0, setup=30.0)
    idle.say("SCCRQ", 1.0, **START)
    assert idle.tick(11.0) == [("StopCCRQ", {"reason": 1})] and idle.seen(ConnectionDown)[0].reason.code == "idle"


def test_a_connection_whose_last_call_ended():
    peer = Peer(idle=10.0)
    call = peer.up()
    assert peer.tick(50.0) == []
    peer.end.hang_up(peer.number, call, BYE, 50.0)
    peer.take()
    assert peer.tick(59.0) == [] and peer.tick(60.0)[-1] == ("StopCCRQ", {"reason": 1})


def test_echo():
    """Sixty seconds of silence, sixty without an answer; anything that comes in is a sign of life."""
    peer = Peer()
    peer.up()
    assert peer.tick(59.0) == []
    assert peer.tick(60.0) == [("Echo-Request", {"identifier": 1})]
    assert peer.tick(100.0) == []
    assert peer.say("Echo-Reply", 100.0, identifier=1, result=1) == [] and not peer.end.counts
    assert peer.tick(159.0) == [] and peer.tick(160.0) == [("Echo-Request", {"identifier": 2})]
    peer.say("Echo-Request", 170.0)
    assert peer.tick(229.0) == [] and peer.tick(230.0) == [("Echo-Request", {"identifier": 3})]
    assert peer.tick(289.0) == [] and not peer.closed
    assert peer.tick(290.0) == [] and peer.closed and peer.seen(CallDown)[0].reason.code == "tunnel-timeout"


def test_data_is_a_sign_of_life():
    heard = 0.0
    end = Endpoint(Settings(), Ids(), lambda peer, call: heard)
    peer = Peer(end)
    peer.up()
    heard = 55.0
    assert peer.tick(60.0) == [] and peer.end.deadline() == 115.0
    assert peer.tick(115.0) == [("Echo-Request", {"identifier": 1})]


def test_half_open_connections_are_limited():
    end = Endpoint(Settings(half_open=3, half_open_per_peer=2), Ids())
    first, second = Peer(end), Peer(end)
    assert end.accept(PATH, 0.0) == 0 and end.accept(PATH._replace(peer_port=1), 0.0) == 0 and end.counts["half_open"] == 2
    other = PATH._replace(peer=OTHERS)
    assert end.accept(other, 0.0) and end.accept(other, 0.0) == 0        # in all
    first.up()                  # with a call it counts no more
    third = Peer(end)
    assert third.number and end.accept(PATH, 0.0) == 0
    end.closed(third.number, 0.0)
    end.closed(first.number, 0.0)
    end.outgoing()
    assert end.accept(PATH, 0.0)
    end.close_all(BYE, 0.0)
    end.outgoing()
    for number in range(1, 20):
        end.closed(number, 0.0)
    assert end._half_open == 0 and not end._half_open_by_peer and len(end) == 0 and second.number


def test_the_tables_know_every_message():
    events = {event.rstrip("-") for table in (CONNECTION, PAC, PNS) for _, event in table}
    assert BY_NAME.keys() - events == {"Echo-Request", "Echo-Reply"}


small = st.integers(0, 4)
messages = st.builds(
    lambda name, a, b, result, version: encode(name, **{k: v for k, v in {
        "call_id": a, "peer_call_id": b, "result": result, "protocol_version": version, "identifier": a}.items()
        if k in BY_NAME[name].fields}),
    st.sampled_from(sorted(BY_NAME)), small, small, st.sampled_from([1, 1, 1, 2, 0]), st.sampled_from([0x0100, 0x0100, 0x0100, 1]))


acts = st.sampled_from(["place", "ring", "hang up", "close"])


@given(st.booleans(), st.lists(st.one_of(messages, messages, messages, st.binary(max_size=20), acts), max_size=30),
       st.lists(st.sampled_from([0.0, 0.0, 0.1, 7.0, 61.0]), min_size=30, max_size=30))
@given_settings(deadline=None)
def test_anything_in_any_order(dials, items, waits):
    """Whatever a peer says: events are a life that makes sense, and in the end nothing is left."""
    peer = Peer(dials=dials)
    now = 0.0
    for item, wait in zip(["SCCRQ", "SCCRP"][dials:dials + 1] + items, waits, strict=False):
        if item == "place":
            peer.end.place_call(peer.number, now)
        elif item == "ring":
            peer.end.ring(peer.number, now)
        elif item == "hang up":
            peer.end.hang_up(peer.number, 1, BYE, now)
        elif item == "close":
            peer.end.close(peer.number, BYE, now)
        else:
            octets = encode(item, **START, **({"result": 1} if item == "SCCRP" else {})) if isinstance(item, str) else item
            peer.end.receive(peer.number, octets, now)
        peer.take()
        now += wait
        while (due := peer.end.deadline()) is not None and due <= now:
            peer.tick(due)
    peer.end.closed(peer.number, now)
    peer.take()
    assert peer.closed or len(peer.end) == 0
    opening, up, down = ([e.call_id for e in peer.seen(kind)] for kind in (CallOpening, CallUp, CallDown))
    assert len(set(down)) == len(down) and set(opening) <= set(down) and set(up) <= set(opening) and len(up) == len(set(up))
    assert len(peer.seen(ConnectionDown)) == 1 and len(peer.seen(ConnectionUp)) <= 1
    assert not peer.end.ids.out and len(peer.end) == 0 and peer.end._half_open == 0
