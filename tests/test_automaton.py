"""The table of RFC 1661 section 4.1, told a second time state by state, and the Restart timer around it."""
from __future__ import annotations

from random import Random

import pytest
from headrace.control.automaton import (
    ACK_RCVD,
    ACK_SENT,
    ACTIONS,
    CLOSED,
    CLOSING,
    INITIAL,
    OPENED,
    REQ_SENT,
    STARTING,
    STOPPED,
    STOPPING,
    TRANSITIONS,
    read_cell,
)
from headrace.control.fields import option
from headrace.control.ipcp import IPCP
from headrace.control.link import LinkSettings, push_packet

# What can happen in each state, in the order of the RFC's section 4.2 and not of its table.
STATES = {
    INITIAL: "Up 2, Open tls/1, Close 0",
    STARTING: "Up irc,scr/6, Open 1, Close tlf/0",
    CLOSED: "Down 0, Open irc,scr/6, Close 2, RCR+ sta/2, RCR- sta/2, RCA sta/2, RCN sta/2, RTR sta/2, RTA 2, RUC scj/2, "
            "RXJ+ 2, RXJ- tlf/2, RXR 2",
    STOPPED: "Down tls/1, Open 3, Close 2, RCR+ irc,scr,sca/8, RCR- irc,scr,scn/6, RCA sta/3, RCN sta/3, RTR sta/3, RTA 3, "
             "RUC scj/3, RXJ+ 3, RXJ- tlf/3, RXR 3",
    CLOSING: "Down 0, Open 5, Close 4, TO+ str/4, TO- tlf/2, RCR+ 4, RCR- 4, RCA 4, RCN 4, RTR sta/4, RTA tlf/2, RUC scj/4, "
             "RXJ+ 4, RXJ- tlf/2, RXR 4",
    STOPPING: "Down 1, Open 5, Close 4, TO+ str/5, TO- tlf/3, RCR+ 5, RCR- 5, RCA 5, RCN 5, RTR sta/5, RTA tlf/3, RUC scj/5, "
              "RXJ+ 5, RXJ- tlf/3, RXR 5",
    REQ_SENT: "Down 1, Open 6, Close irc,str/4, TO+ scr/6, TO- tlf/3, RCR+ sca/8, RCR- scn/6, RCA irc/7, RCN irc,scr/6, "
              "RTR sta/6, RTA 6, RUC scj/6, RXJ+ 6, RXJ- tlf/3, RXR 6",
    ACK_RCVD: "Down 1, Open 7, Close irc,str/4, TO+ scr/6, TO- tlf/3, RCR+ sca,tlu/9, RCR- scn/7, RCA scr/6, RCN scr/6, "
              "RTR sta/6, RTA 6, RUC scj/7, RXJ+ 6, RXJ- tlf/3, RXR 7",
    ACK_SENT: "Down 1, Open 8, Close irc,str/4, TO+ scr/8, TO- tlf/3, RCR+ sca/8, RCR- scn/6, RCA irc,tlu/9, RCN irc,scr/8, "
              "RTR sta/6, RTA 8, RUC scj/8, RXJ+ 8, RXJ- tlf/3, RXR 8",
    OPENED: "Down tld/1, Open 9, Close tld,irc,str/4, RCR+ tld,scr,sca/8, RCR- tld,scr,scn/6, RCA tld,scr/6, RCN tld,scr/6, "
            "RTR tld,zrc,sta/5, RTA tld,scr/6, RUC scj/9, RXJ+ 9, RXJ- tld,irc,str/5, RXR ser/9",
}

EVENTS = ["Up", "Down", "Open", "Close", "TO+", "TO-", "RCR+", "RCR-", "RCA", "RCN", "RTR", "RTA", "RUC", "RXJ+", "RXJ-", "RXR"]


def test_table_has_every_event_for_every_state():
    assert list(TRANSITIONS) == EVENTS
    assert all(len(cells) == 10 for cells in TRANSITIONS.values())


@pytest.mark.parametrize("state", STATES)
def test_cell_by_cell(state):
    said = dict(cell.rsplit(" ", 1) for cell in STATES[state].split(", "))
    for event in EVENTS:
        assert TRANSITIONS[event][state] == (read_cell(said[event]) if event in said else None), event


def test_up_and_down_are_said_whenever_opened_is_entered_and_left():
    for event, cells in TRANSITIONS.items():
        for state, cell in enumerate(cells):
            if cell is not None:
                actions, following = cell
                assert (ACTIONS["tlu"] in actions) == (following == OPENED != state), (event, state)
                assert (ACTIONS["tld"] in actions) == (state == OPENED != following), (event, state)


SETTINGS = LinkSettings(restart=3.0, max_configure=4, max_terminate=2)


class Log:
    """A link that only remembers."""
    peer_mru = 1500

    def __init__(self):
        self.sent, self.said = [], []

    def send(self, protocol, packet):
        self.sent.append(packet)

    def layer_up(self, layer, now):
        self.said.append("up")

    def layer_down(self, layer, now):
        self.said.append("down")

    def layer_finished(self, layer, now):
        self.said.append("finished")

    def ending(self, reason):
        self.said.append(reason.code)

    def close(self, reason, now):
        self.said.append(reason.code)


@pytest.fixture
def layer():
    ipcp = IPCP(None, Log(), SETTINGS, Random(1))
    ipcp.open(0.0)
    return ipcp


ASKS = option(3, bytes((10, 0, 0, 1)))


def codes(layer):
    sent, layer.link.sent = [packet[0] for packet in layer.link.sent], []
    return sent


def opened(layer):
    layer.receive(push_packet(1, 7, ASKS), 0.0)
    request = layer.link.sent[0]
    layer.receive(push_packet(3, request[1], option(3, bytes((10, 0, 0, 2)))), 0.0)
    again = layer.link.sent[-1]
    assert again[0] == 1 and again[1] != request[1], "other content, another identifier"
    layer.receive(b"\x02" + again[1:], 0.0)
    assert (layer.state, layer.link.said, layer.timer) == (OPENED, ["up"], None)
    layer.link.said.clear()
    layer.link.sent.clear()
    return layer


def test_requests_are_repeated_max_configure_times_and_unchanged(layer):
    now = 0.0
    while layer.timer is not None:
        now = layer.timer
        layer.tick(now - 0.01)
        layer.tick(now)
    assert len(layer.link.sent) == 4 and len(set(layer.link.sent)) == 1
    assert (now, layer.state, layer.link.said) == (1.0 + 2.0 + 3.0 + 3.0, STOPPED, ["finished"])


def test_terminate_requests_are_repeated_max_terminate_times(layer):
    opened(layer).fire("Close", 0.0)
    first = layer.timer
    layer.tick(3.0)
    layer.tick(6.0)
    assert (first, codes(layer), layer.state, layer.link.said) == (3.0, [5, 5], CLOSED, ["down", "finished"])


def test_a_peer_that_terminates_is_given_one_restart_period(layer):
    opened(layer).receive(push_packet(5, 9), 1.0)
    assert (codes(layer), layer.state, layer.timer) == ([6], STOPPING, 4.0)
    layer.receive(push_packet(5, 10), 2.0)
    layer.tick(4.0)
    assert (codes(layer), layer.state, layer.link.said) == ([6], STOPPED, ["down", "finished"])


def test_stopped_layer_starts_again_when_the_peer_asks(layer):
    opened(layer).receive(push_packet(5, 9), 0.0)
    layer.tick(3.0)
    codes(layer)
    layer.receive(push_packet(1, 1, ASKS), 4.0)
    assert (codes(layer), layer.state) == ([1, 2], ACK_SENT)


def test_answers_repeated_or_to_another_request_are_discarded(layer):
    opened(layer)
    for code in (2, 3, 4):
        for identifier in range(256):
            layer.receive(push_packet(code, identifier, ASKS), 0.0)
    assert (layer.state, layer.link.sent, layer.link.said) == (OPENED, [], [])


def test_an_ack_of_other_options_is_discarded(layer):
    request = layer.link.sent[0]
    layer.receive(push_packet(2, request[1], ASKS), 0.0)
    assert layer.state == REQ_SENT
    layer.receive(push_packet(2, request[1], request[4:]), 0.0)
    assert layer.state == ACK_RCVD


def test_unknown_code_is_rejected_whole_and_cut_to_the_peers_mru(layer):
    layer.link.peer_mru = 128
    packet = push_packet(99, 5, bytes(range(200)))
    layer.receive(packet + b"padding", 0.0)
    layer.receive(push_packet(98, 5), 0.0)
    first, second = layer.link.sent[-2:]
    assert first[0] == 7 and first[4:] == packet[:124] and len(first) == 128
    assert second[4:] == push_packet(98, 5) and first[1] != second[1]


def test_code_reject_of_a_code_we_need_is_the_end(layer):
    opened(layer)
    for other in b"\0", b"\x63":       # 0 is no code of anybody's
        layer.receive(push_packet(7, 1, other), 0.0)
        assert layer.state == OPENED
    layer.receive(push_packet(7, 1, b"\x01\x02\x00\x04"), 0.0)
    assert (layer.state, layer.link.said) == (STOPPING, ["down"])


@pytest.mark.parametrize("broken", [
    b"", b"\x01", b"\x01\x02\x00", b"\x01\x02\x00\x03", b"\x01\x02\x00\x0b" + ASKS, push_packet(1, 2, b"\x03"),
    push_packet(1, 2, b"\x03\x00"), push_packet(1, 2, b"\x03\x01"), push_packet(1, 2, b"\x03\x07\x0a\x00\x00\x01"), push_packet(7, 2),
])
def test_what_is_cut_short_is_dropped(layer, broken):
    before = layer.state, layer.timer
    codes(layer)
    layer.receive(broken, 1.0)
    assert (layer.state, layer.timer, layer.link.sent, layer.link.said) == (*before, [], [])


def test_padding_behind_length_is_ignored(layer):
    codes(layer)
    layer.receive(push_packet(1, 2, ASKS) + b"\x03\x00\xff", 0.0)
    assert layer.link.sent == [push_packet(2, 2, ASKS)]
