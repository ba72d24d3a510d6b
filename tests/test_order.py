"""The order stage against its rules in plain Python, under loss, duplication, reordering and wrap; time is a number."""
from __future__ import annotations

import os

import pytest
from headrace.fastpath import table
from headrace.fastpath._probe_order import Order
from headrace.fastpath.packet import Kind
from headrace.fastpath.table import State
from hypothesis import example, given, settings
from hypothesis import strategies as st

MS = 1_000_000
PATH = (0, bytes(16), 0, bytes(16), 0)
SEQUENCED = 4


class Model:
    """What fastpath/order.pxd says, for one session with numbers of so many bits."""

    def __init__(self, bits, window, wait):
        self.bits, self.window, self.wait = bits, window, wait
        self.next, self.waiting, self.dropped = None, {}, 0         # numbers since the first, (payload, since)

    def ahead(self, number):
        distance = (number - self.first - self.next) % (1 << self.bits)
        return distance - (1 << self.bits) if distance >= 1 << self.bits - 1 else distance

    def push(self, number, payload, now):
        went = []
        if self.next is None:
            self.next, self.first = 0, number
        at = self.next + self.ahead(number)
        if at - self.next >= self.window:
            went += self.move_on(at - self.window + 1)
        if at > self.next and self.wait:
            if at in self.waiting:
                self.dropped += 1
            else:
                self.waiting[at] = payload, now
            return went
        if at > self.next:
            went += self.move_on(at)
        if at < self.next:
            self.dropped += 1
            return went
        self.next += 1
        return [*went, payload, *self.release()]

    def release(self):
        went = []
        while self.next in self.waiting:
            went.append(self.waiting.pop(self.next)[0])
            self.next += 1
        return went

    def move_on(self, first):
        went = []
        for at in sorted(self.waiting):
            if at < first:
                went.append(self.waiting.pop(at)[0])
                self.next = at + 1
        self.next = max(self.next, first)
        return went + self.release()

    def due(self, now):
        went = []
        while late := [at for at, (_, since) in self.waiting.items() if now - since >= self.wait]:
            oldest = min(late, key=lambda at: self.waiting[at][1])      # the first of equals: as they came
            went += self.move_on(oldest + 1)
        return went


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("order") / "tables"
    table.create(path, max_sessions=1000, workers=1)
    fd = os.open(path, os.O_RDWR)
    yield table.Tables(fd)
    os.close(fd)


def session(tables, number=1, flags=SEQUENCED, kind=Kind.KIND_L2TP):
    """A fresh session's slot."""
    slot = tables.slot(1, number)
    if tables.state(slot) != State.FREE:
        tables.retire(slot)
    tables.publish(kind, 1, number, 0, PATH, flags=flags, template=bytes(10))
    tables.set_state(slot, State.OPEN)
    return slot


@st.composite
def wires(draw):
    """Numbers as they arrive: (number since the first, ms since the one before), lost, twice, and out of order by up to some places."""
    n = draw(st.integers(1, 80))
    far = draw(st.sampled_from([0, 1, 3, 12, 50]))
    keys = [(i + draw(st.integers(0, far)), i) for i in range(n)]
    sent = [i for _, i in sorted(keys)]
    fates = draw(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2]), min_size=n, max_size=n))
    numbers = [i for i, fate in zip(sent, fates, strict=True) for _ in range(fate)]
    jumps = draw(st.dictionaries(st.integers(0, 79), st.integers(-400, 400), max_size=2))
    shift, out = 0, []
    for k, number in enumerate(numbers):
        shift += jumps.get(k, 0)
        out.append((number + shift, draw(st.sampled_from([0, 0, 0, 0, 1, 3, 30]))))
    return out


@settings(max_examples=int(os.environ.get("HEADRACE_FUZZ", "300")), deadline=None)
@given(wires(), st.sampled_from([16, 32]), st.integers(0, 0xFFFFFFFF), st.sampled_from([1, 2, 8, 32, 256]), st.sampled_from([0, 5, 20]),
       st.integers(1, 40))
@example([(0, 0), (2, 0), (1, 0), (3, 0)], 32, 0xFFFFFFFF, 32, 20, 1)
@example([(0, 0), (2, 0), (3, 30), (1, 0)], 16, 0xFFFE, 32, 20, 9)
@example([(0, 0), (5, 0), (6, 0), (40, 0)], 32, 7, 32, 20, 9)
def test_the_stage_does_what_the_rules_say(tables, wire, bits, first, window, wait, batch):
    slot, other = session(tables), session(tables, 2, flags=0)
    stage, model = Order(tables, window, wait * MS), Model(bits, window, wait)
    now, seen = 1000, []
    for at in range(0, len(wire), batch):
        packets, expected = [], []
        for i, (number, late) in enumerate(wire[at:at + batch]):
            now += late if i == 0 else 0                # one reading of the clock a batch
            if i == 0 and late:
                went = [payload for _, payload in stage.due(now * MS)]
                assert went == model.due(now)
                seen += went
            payload = b"%d" % (first + number)
            packets += [(slot, bits, first + number & (1 << bits) - 1, payload), (other, 0, 0, payload)]
            expected += [(slot, p) for p in model.push(first + number & (1 << bits) - 1, payload, now)] + [(other, payload)]
        went = stage.push(packets, now * MS)
        assert went == expected
        seen += [payload for who, payload in went if who == slot]
    went = [payload for _, payload in stage.due((now + 100) * MS)]
    assert went == model.due(now + 100)
    assert stage.dropped() == (model.dropped, 0)
    assert stage.cells()[0] == 0
    assert len(seen + went) + model.dropped == len(wire), "each packet goes on once, or is dropped"


def push(stage, slot, *numbers, now=0):
    return [int(payload) for _, payload in stage.push([(slot, 32, n & 0xFFFFFFFF, b"%d" % n) for n in numbers], now * MS)]


def due(stage, now):
    return [int(payload) for _, payload in stage.due(now * MS)]


def test_a_gap_is_waited_for_and_no_longer(tables):
    stage, slot = Order(tables, 32, 20 * MS), session(tables)
    assert push(stage, slot, 5, 6, 8, 9) == [5, 6]
    assert push(stage, slot, 11, now=10) == []
    assert due(stage, 19) == [] and due(stage, 20) == [8, 9]
    assert push(stage, slot, 7, now=21) == [] and stage.dropped() == (1, 0), "never late"
    assert push(stage, slot, 10, now=29) == [10, 11]


def test_a_window_of_one_and_no_time_mean_that_nothing_waits(tables):
    for stage in (Order(tables, 1, 20 * MS), Order(tables, 32, 0)):
        assert push(stage, session(tables), 1, 3, 2, 4, 4, 5) == [1, 3, 4, 5]
        assert stage.dropped() == (2, 0) and stage.cells() == (0, 0)


def test_sessions_wait_by_themselves(tables):
    stage, a, b = Order(tables, 32, 20 * MS), session(tables, 1), session(tables, 2)
    assert push(stage, a, 1, 3) == [1] and push(stage, b, 1, 3, now=5) == [1]
    assert due(stage, 20) == [3] and push(stage, b, 2, now=21) == [2, 3]


def test_what_waits_in_a_session_that_ended_is_dropped(tables):
    stage, slot = Order(tables, 32, 20 * MS), session(tables)
    assert push(stage, slot, 1, 3, 5, 7) == [1]
    tables.retire(slot)
    assert due(stage, 30) == [] and stage.dropped() == (0, 3) and stage.cells()[0] == 0
    slot = session(tables)
    assert push(stage, slot, 1, 3, now=40) == [1]
    assert session(tables) == slot, "another one has its place"
    assert push(stage, slot, 7, 9, now=41) == [7]
    assert due(stage, 100) == [9] and stage.dropped() == (0, 4) and stage.cells()[0] == 0


def test_nothing_has_an_older_configuration_than_what_went_on_before_it(tables):
    """Else a cipher would begin with keys that were, between two packets of one batch."""
    stage, slot = Order(tables, 32, 20 * MS), session(tables)
    assert push(stage, slot, 1, 3) == [1]
    packets = [(slot, 32, n, b"%d" % n) for n in (2, 4, 6)] + [(slot, 0, 0, b"-")]
    went = stage.push(packets, MS, lambda: tables.configure(slot, mtu=1000))
    assert [payload for _, payload in went] == [b"2", b"3", b"4", b"-"] and stage.outdated == 0


def test_cells_run_out_and_come_back(tables):
    """16,383 packets wait at most; who finds no cell does not wait."""
    stage, slots = Order(tables, 256, 20 * MS), [session(tables, n) for n in range(1, 67)]
    went = [push(stage, slot, 0, *range(2, 256)) for slot in slots]
    assert went[:64] == [[0]] * 64 and len(went[64]) > 1 and went[64] == sorted(went[64])
    assert stage.cells()[1] == 16383
    assert len(due(stage, 20)) + sum(len(w) for w in went) == 66 * 255 and stage.cells() == (0, 16383)
    assert push(stage, slots[0], 256, 258, now=30) == [256]


def test_what_is_too_long_for_a_cell_does_not_wait(tables):
    stage, slot = Order(tables, 32, 20 * MS), session(tables)
    assert push(stage, slot, 1, 3) == [1]
    long = bytes(3000)
    assert stage.push([(slot, 32, 5, long)], 0) == [(slot, b"3"), (slot, long)]
