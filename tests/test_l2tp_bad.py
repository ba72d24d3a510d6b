"""The L2TP endpoint under everything broken: cut, flipped, of wrong length, any octets; and in a storm."""
from __future__ import annotations

import struct
from random import Random

import pytest
from headrace.control.l2tp import Endpoint, Ignored, Settings, TunnelDown
from hypothesis import given
from hypothesis import strategies as st
from l2tp_peer import (
    BYE,
    CDN,
    HELLO,
    HIDE,
    ICCN,
    ICRQ,
    MUST,
    OCRQ,
    OTHER,
    PATH,
    SCCCN,
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
from scapy.layers.l2tp import L2TP

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


def test_tunnels_that_are_gone_leave_nothing_behind():
    end = endpoint()
    peers = [Peer(end, PATH._replace(peer_port=n + 1)) for n in range(200)]
    for peer in peers:
        peer.open()
    peers[0].until(2.0)                     # now they are armed for their HELLO
    for peer in peers:
        peer.send(avp(0, STOPCCN), avp(9, 77), avp(1, 1))
    peers[0].until(34.0)
    assert len(end) == 0 and len(end._heap) <= 64 and not end._greeted


def test_calls_that_come_and_go_leave_nothing_behind():
    peer = Peer(endpoint())
    peer.open()
    for n in range(500):
        session = peer.call(n + 1)
        peer.send(avp(0, CDN), avp(1, 1), avp(14, n + 1), session=session)
    tunnel = peer.end._tunnels[peer.ours]
    assert not tunnel.calls and len(tunnel.opening) <= 66
