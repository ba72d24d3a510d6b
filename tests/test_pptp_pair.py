"""Our PNS and our PAC back to back, over connections that cut their octets anywhere and break off at any moment."""
from __future__ import annotations

from headrace.control.address import Path
from headrace.control.pptp import Endpoint
from headrace.control.pptpevents import CallDown, CallOpening, CallUp, ConnectionDown, ConnectionUp, Settings
from headrace.control.reason import Reason
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from test_pptp import Ids

PNS, PAC = (bytes(10) + b"\xff\xff" + bytes(a) for a in ((10, 0, 0, 2), (10, 0, 0, 1)))
BYE = Reason("admin", "disconnected", "bye")


class Pair:
    """Two endpoints and simulated time. `pieces` are the sizes in which octets arrive, in turn; a `cut` is how many pieces pass until the
    connection breaks."""

    def __init__(self, pieces=(), cut=None, **settings):
        self.pns, self.pac = (Endpoint(Settings(**settings), Ids()) for _ in range(2))
        self.pieces, self.turn, self.cut, self.now = list(pieces) or [1 << 16], 0, cut, 0.0
        self.events = {self.pns: [], self.pac: []}
        self.wire: list[tuple[Endpoint, int, bytes | None]] = []        # to whom, on which of its connections
        self.other: dict[tuple[Endpoint, int], tuple[Endpoint, int]] = {}

    def connect(self, port=40000):
        near = self.pns.dial(Path(0, PNS, port, PAC, 1723), self.now)
        far = self.pac.accept(Path(0, PAC, 1723, PNS, port), self.now)
        self.other[self.pns, near], self.other[self.pac, far] = (self.pac, far), (self.pns, near)
        return near

    def collect(self):
        for end in (self.pns, self.pac):
            self.events[end] += end.events()
            for number, octets in end.outgoing():
                there = self.other.get((end, number))
                if there:
                    self.wire.append((*there, octets))

    def run(self, until):
        """Let time pass: first all that is under way arrives."""
        self.collect()
        while True:
            while self.wire:
                end, number, octets = self.wire.pop(0)
                if octets is None or self.cut == 0:
                    there = self.other.pop((end, number), None)
                    self.other.pop(there, None)
                    end.closed(number, self.now)
                    if there:
                        there[0].closed(there[1], self.now)
                else:
                    size = self.pieces[self.turn % len(self.pieces)]
                    self.turn += 1
                    if self.cut is not None:
                        self.cut -= 1
                    if octets[size:]:
                        self.wire.insert(0, (end, number, octets[size:]))
                    end.receive(number, octets[:size], self.now)
                self.collect()
            due = [d for end in (self.pns, self.pac) if (d := end.deadline()) is not None]
            if not due or min(due) > until:
                self.now = until
                return
            self.now = max(self.now, min(due))
            for end in (self.pns, self.pac):
                end.tick(self.now)
            self.collect()

    def seen(self, end, kind):
        return [event for event in self.events[end] if isinstance(event, kind)]

    def check_empty(self):
        self.run(self.now + 1000)
        for end in (self.pns, self.pac):
            assert len(end) == 0 and end.deadline() is None and not end.ids.out and end._half_open == 0
            for kind in (CallOpening, CallUp):
                assert {e.call_id for e in self.seen(end, kind)} <= {e.call_id for e in self.seen(end, CallDown)}
            assert len(self.seen(end, CallDown)) == len({e.call_id for e in self.seen(end, CallDown)})


PIECES = st.lists(st.integers(1, 200), max_size=6)


@given(PIECES, st.integers(1, 6), st.booleans(), st.booleans())
@given_settings(deadline=None)
def test_a_life(pieces, calls, pns_ends, incoming):
    pair = Pair(pieces)
    number = pair.connect()
    pair.run(1.0)
    if incoming:
        [up] = pair.seen(pair.pac, ConnectionUp)
        placed = [pair.pac.ring(up.connection, 1.0, calling_number=str(n), called_number="9") for n in range(calls)]
    else:
        placed = [pair.pns.place_call(number, 1.0, called_number="9") for n in range(calls)]
    pair.run(2.0)
    near, far = (pair.seen(end, CallOpening) for end in (pair.pns, pair.pac))
    assert [o.call_id for o in (far if incoming else near)] == placed
    assert [(o.call_id, o.peer_call_id) for o in near] == [(o.peer_call_id, o.call_id) for o in far]
    for end, openings in ((pair.pns, near), (pair.pac, far)):
        assert [u.call_id for u in pair.seen(end, CallUp)] == [o.call_id for o in openings]
    assert {u.called_number for u in pair.seen(pair.pns, CallUp)} == {"9"}
    end, opening = (pair.pns, near[0]) if pns_ends else (pair.pac, far[0])
    end.hang_up(opening.connection, opening.call_id, BYE, 2.0)
    pair.run(3.0)
    assert [d.by_peer for d in pair.seen(pair.pns, CallDown)] == [not pns_ends]
    assert [d.by_peer for d in pair.seen(pair.pac, CallDown)] == [pns_ends]
    pair.run(500.0)     # both are silent, and both answer
    if calls > 1:
        assert len(pair.pns) == len(pair.pac) == 1
        end.close(opening.connection, BYE, 500.0)
        pair.run(501.0)
    assert len(pair.seen(pair.pns, ConnectionDown)) == len(pair.seen(pair.pac, ConnectionDown)) == 1
    pair.check_empty()


@given(PIECES, st.integers(0, 40), st.integers(1, 4))
@given_settings(deadline=None)
def test_a_connection_that_breaks(pieces, cut, calls):
    pair = Pair(pieces, cut)
    number = pair.connect()
    for _ in range(calls):
        pair.pns.place_call(number, 0.0)
    pair.run(1.0)
    pair.pns.close(number, BYE, 1.0)
    pair.run(100.0)
    pair.check_empty()


def test_a_peer_that_vanishes():
    """No TCP segment comes any more: each side notices by itself."""
    pair = Pair()
    number = pair.connect()
    pair.pns.place_call(number, 0.0)
    pair.run(10.0)
    pair.other.clear()
    pair.run(119.0)
    assert len(pair.pns) == len(pair.pac) == 1
    pair.run(121.0)
    assert pair.seen(pair.pac, ConnectionDown)[0].reason.code == pair.seen(pair.pns, ConnectionDown)[0].reason.code == "timeout"
    pair.check_empty()


def test_many_clients():
    pair = Pair(half_open_per_peer=2000)
    numbers = [pair.connect(port) for port in range(1, 1001)]
    for number in numbers:
        pair.pns.place_call(number, 0.0)
    pair.run(10.0)
    assert len(pair.seen(pair.pac, CallUp)) == len(pair.seen(pair.pns, CallUp)) == 1000 and pair.pac._half_open == 0
    pair.pac.close_all(BYE, 10.0)
    pair.run(11.0)
    assert {d.reason.code for d in pair.seen(pair.pns, ConnectionDown)} == {"cleared"}
    assert "shutting down" in pair.seen(pair.pns, ConnectionDown)[0].reason.text
    pair.check_empty()
