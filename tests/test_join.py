"""The join stage against its rules in plain Python, under loss, duplication, reordering and whatever a peer may send; time is a number."""
from __future__ import annotations

import os

import pytest
from headrace.fastpath import bundle, table
from headrace.fastpath._probe_join import Join
from headrace.fastpath.packet import Kind, Verdict
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference.multilink import BEGIN, CELL, END, WINDOW, Receiver, cut, fragment

MS = 1_000_000
WAIT = 100 * MS
PATH = (0, bytes(16), 0, bytes(16), 0)
IP = b"\x00\x21"
WHOLE = BEGIN | END
INTO_VERDICTS = {"JOINED", "DROP_LATE", "DROP_LOST", "DROP_OVERDUE", "DROP_BEGIN", "DROP_END", "DROP_MRRU", "DROP_WAITS", "DROP_SHORT",
                 "DROP_NOT_OPEN", "DROP_NO_SESSION"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("join") / "tables"
    table.create(path, max_sessions=1000, workers=1)
    fd = os.open(path, os.O_RDWR)
    yield table.Tables(fd)
    os.close(fd)


class Bundle:
    """One bundle of the stage under test, and the same of the oracle's."""
    session = 100

    def __init__(self, tables, links=1, *, mrru=1600, short=False, join=None):
        self.tables, self.join = tables, join or Join(tables, WAIT)
        Bundle.session = Bundle.session % 60000 + 16
        self.slot = tables.publish(Kind.KIND_BUNDLE, 1, Bundle.session, 0, PATH, flags=ConfigFlag.CONFIG_IP | ConfigFlag.CONFIG_BUNDLE)[0]
        bundle.open_bundle(tables, self.slot, mrru=mrru, flags=bundle.BundleFlag.BUNDLE_SHORT_RX if short else 0)
        self.links = [tables.publish(Kind.KIND_L2TP, 1, Bundle.session + 1 + i, 0, PATH)[0] for i in range(links)]
        for link in self.links:
            tables.set_state(link, State.OPEN)
            bundle.join_link(tables, self.slot, link, room=1400)
        tables.set_state(self.slot, State.OPEN)
        self.oracle = Receiver(links, mrru, WAIT, short=short)
        self.sent = self.came = 0

    def push(self, fragments, now=0):
        """(link, octets) to both; what came, without PPP's header. They agree."""
        fragments = list(fragments)
        went = [octets for slot, octets in self.join.push([(self.links[link], octets) for link, octets in fragments], now)]
        self.agree(went, [packet for link, octets in fragments for packet in self.oracle.receive(link, octets, now)])
        self.sent += len(fragments)
        return went

    def due(self, now):
        went = [octets for slot, octets in self.join.due(now)]
        self.agree(went, self.oracle.due(now))
        return went

    def agree(self, went, expected):
        assert went == [packet[2:] for packet in expected if packet]
        assert bundle.counters(self.tables, self.slot)[1] == len(self.oracle.waiting)
        self.came += len(went)

    def accounts(self):
        """Each fragment came to one end, or waits; the cells are those that wait."""
        verdicts = ended(self.join)
        assert set(verdicts) <= INTO_VERDICTS
        assert self.sent == self.came + sum(verdicts.values()) + len(self.oracle.waiting)
        assert self.join.cells()[0] == len(self.oracle.waiting)
        dropped = sum(n for name, n in verdicts.items() if name.startswith("DROP"))
        assert dropped == self.oracle.dropped
        return verdicts


def ended(join):
    """Verdict -> how many."""
    return {Verdict(i).name: n for i, n in enumerate(join.verdicts()) if n}


def packet(n, size=40):
    return IP + n.to_bytes(4, "big") * (size // 4)


def test_whole_ones_in_order(tables):
    b = Bundle(tables)
    assert b.push((0, fragment(WHOLE, n, packet(n))) for n in range(300)) == [packet(n)[2:] for n in range(300)]
    assert b.accounts() == {}


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("links", [1, 2, 3])
def test_cut_and_put_together(tables, links, short):
    b = Bundle(tables, links, short=short)
    fragments = [f for n in range(60) for f in cut(packet(n, 1500), 3 * n, [500, 500], short=short)]
    assert b.push((n % links, f) for n, f in enumerate(fragments)) == [packet(n, 1500)[2:] for n in range(60)]
    assert b.accounts() == {"JOINED": 120}


def test_numbers_begin_anew(tables):
    b = Bundle(tables, 2, short=True)
    for n in range(0, 3 << 12, 200):
        assert len(b.push((i % 2, fragment(WHOLE, n + i, packet(i), short=True)) for i in range(200))) == 200
    assert b.accounts() == {}


def test_over_several_batches(tables):
    """What waits is not where it was received any more."""
    b = Bundle(tables)
    one, two, three = cut(packet(1, 1200), 0, [400, 400])
    assert b.push([(0, one)]) == b.push([(0, two)]) == []
    assert b.push([(0, three)]) == [packet(1, 1200)[2:]]
    assert b.accounts() == {"JOINED": 2}


def test_links_of_different_delay(tables):
    b = Bundle(tables, 2)
    fragments = [fragment(WHOLE, n, packet(n)) for n in range(20)]
    assert b.push((0, f) for f in fragments[::2]) == [packet(0)[2:]]
    assert b.push((1, f) for f in fragments[1::2]) == [packet(n)[2:] for n in range(1, 20)]
    assert b.accounts() == {}


def test_loss_on_one_link_is_known_at_once(tables):
    """RFC 1990 section 4.1: with one link, what is missing is lost."""
    b = Bundle(tables)
    a, _, c = cut(packet(0, 900), 0, [300, 300])
    assert b.push([(0, a), (0, c), (0, fragment(WHOLE, 3, packet(1)))]) == [packet(1)[2:]]
    assert b.accounts() == {"DROP_LOST": 1, "DROP_BEGIN": 1}


def test_loss_on_two_links_is_known_when_both_have_gone_on(tables):
    b = Bundle(tables, 2)
    assert b.push([(0, fragment(WHOLE, 0, packet(0))), (0, fragment(WHOLE, 2, packet(2)))]) == [packet(0)[2:]]
    assert b.push([(1, fragment(WHOLE, 3, packet(3)))]) == [packet(2)[2:], packet(3)[2:]]
    assert b.push([(1, fragment(WHOLE, 1, packet(1)))]) == []
    assert b.accounts() == {"DROP_LATE": 1}


def test_silent_link_holds_up_once(tables):
    b = Bundle(tables, 2)
    assert b.push([(0, fragment(WHOLE, n, packet(n))) for n in (0, 2)]) == [packet(0)[2:]]
    assert b.due(WAIT - 1) == []
    assert b.due(WAIT) == [packet(2)[2:]]
    assert b.push([(0, fragment(WHOLE, 4, packet(4)))], WAIT) == [packet(4)[2:]]       # and now it does not count
    assert b.push([(1, fragment(WHOLE, 5, packet(5))), (0, fragment(WHOLE, 7, packet(7)))], WAIT) == [packet(5)[2:]]     # it does again
    assert b.due(2 * WAIT) == [packet(7)[2:]]
    assert b.accounts() == {}


def test_rest_that_does_not_come(tables):
    b = Bundle(tables, 2)
    one, two, _ = cut(packet(0, 900), 0, [300, 300])
    b.push([(0, one), (1, two)])
    assert b.due(WAIT) == []
    assert b.push([(0, fragment(WHOLE, 3, packet(3)))], WAIT) == [packet(3)[2:]]
    assert b.accounts() == {"DROP_OVERDUE": 2}


def test_null_fragment(tables):
    b = Bundle(tables)
    assert b.push([(0, fragment(WHOLE, 0)), (0, fragment(WHOLE, 1, packet(1)))]) == [packet(1)[2:]]
    assert b.accounts() == {"JOINED": 1}


@pytest.mark.parametrize("flags, verdict", [(0, "DROP_BEGIN"), (END, "DROP_BEGIN"), (BEGIN, "DROP_END")])
def test_missing_begin_or_end(tables, flags, verdict):
    b = Bundle(tables)
    assert b.push([(0, fragment(flags, 0, packet(0))), (0, fragment(WHOLE, 1, packet(1)))]) == [packet(1)[2:]]
    assert b.accounts() == {verdict: 1}


def test_larger_than_mrru(tables):
    b = Bundle(tables, mrru=1500)
    assert len(b.push((0, f) for f in cut(packet(0, 1500), 0, [800]))) == 1          # an Information field of just so many octets
    assert b.push((0, f) for f in cut(packet(0, 1504), 2, [800])) == []
    assert b.push([(0, fragment(WHOLE, 4, packet(0, 1504)))]) == []
    assert b.accounts() == {"JOINED": 1, "DROP_MRRU": 3}


def test_packet_that_never_ends(tables):
    b = Bundle(tables, mrru=65535)
    for n in range(0, 2000, 100):
        assert b.push((0, fragment(BEGIN if n + i == 0 else 0, n + i, b"x")) for i in range(100)) == []
        assert b.join.cells()[0] <= WINDOW
    assert b.accounts() == {"DROP_MRRU": 256, "DROP_BEGIN": 1744}


def test_gap_larger_than_the_window(tables):
    b = Bundle(tables, 2)
    b.push([(0, fragment(WHOLE, 0, packet(0))), (0, fragment(BEGIN, 2, packet(2))), (0, fragment(WHOLE, 1000, packet(1000)))])
    assert b.accounts() == {"DROP_LOST": 1}
    assert b.push([(1, fragment(WHOLE, 1001, packet(1001)))]) == [packet(1000)[2:], packet(1001)[2:]]
    assert b.push([(0, fragment(WHOLE, 1002 + (1 << 23), packet(5)))]) == []                    # half of all numbers away: behind
    assert b.push([(0, fragment(WHOLE, 1001 + (1 << 23), packet(6)))]) == []
    assert b.due(WAIT) == [packet(6)[2:]]
    assert b.accounts()["DROP_LATE"] == 1


def test_packet_across_the_window(tables):
    """Complete but for one fragment when the window moves past its beginning."""
    b = Bundle(tables, 2, mrru=65535)
    b.push((0, fragment(BEGIN if n == 0 else 0, n, b"x")) for n in range(200))
    b.push([(0, fragment(WHOLE, 260, packet(1)))])
    assert b.accounts() == {"DROP_LOST": 5, "DROP_BEGIN": 195}


def test_peer_that_begins_at_0_again(tables):
    b = Bundle(tables, 2)
    b.push((0, fragment(WHOLE, 5000 + n, packet(n))) for n in range(100))
    came = b.push((n % 2, fragment(WHOLE, n, packet(n))) for n in range(400))
    assert came == [packet(n)[2:] for n in range(WINDOW, 400)]
    assert b.accounts() == {"DROP_LATE": WINDOW}


def test_no_more_cells_than_there_are(tables):
    """64 bundles take all they may, and one that comes after them still gets its share."""
    join = Join(tables, WAIT)
    for _ in range(64):
        b = Bundle(tables, 2, join=join)
        join.push([(b.links[0], fragment(WHOLE, n, packet(n))) for n in range(1, 256)], 0)
    used = join.cells()[0]
    assert used + 64 * 8 >= CELL * 6 and used <= 16384 // 4 * 3 + 64 * 8
    assert ended(join)["DROP_WAITS"] == 64 * 255 - used
    b = Bundle(tables, join=join)
    assert [octets for _, octets in join.push([(b.links[0], f) for f in cut(packet(0, 1500), 0, [500, 500])], 0)] == [packet(0, 1500)[2:]]
    join.due(WAIT)
    assert join.cells()[0] == 0


def test_bundle_that_is_gone(tables):
    join = Join(tables, WAIT)
    b = Bundle(tables, 2, join=join)
    join.push([(b.links[0], fragment(WHOLE, 1, packet(1)))], 0)
    tables.retire(b.slot)
    assert join.push([(b.links[0], fragment(WHOLE, 0, packet(1)))], 0) == []
    assert join.due(WAIT) == []
    assert ended(join) == {"DROP_NOT_OPEN": 1, "DROP_NO_SESSION": 1}
    assert join.cells()[0] == 0


def test_slot_used_anew_while_a_fragment_waits(tables):
    join = Join(tables, WAIT)
    b = Bundle(tables, 2, join=join)
    join.push([(b.links[0], fragment(WHOLE, 1, packet(1)))], 0)
    tables.retire(b.slot)
    tables.publish(Kind.KIND_BUNDLE, 1, b.slot & 0xFFFF, 0, PATH)
    bundle.open_bundle(tables, b.slot, mrru=1500)
    assert join.due(WAIT) == []
    assert ended(join) == {"DROP_NO_SESSION": 1}
    assert bundle.counters(tables, b.slot) == (0, 0, 0)


def test_link_that_left_does_not_count(tables):
    b = Bundle(tables, 2)
    b.push([(1, fragment(WHOLE, 0, packet(0))), (0, fragment(WHOLE, 1, packet(1)))])
    assert b.join.push([(b.links[0], fragment(WHOLE, 3, packet(3)))], 0) == []
    bundle.leave_link(tables, b.slot, b.links[1])
    assert b.join.push([(b.links[1], fragment(WHOLE, 2, packet(2)))], 0) == []         # it is no link: not taken
    assert [octets for _, octets in b.join.push([(b.links[0], fragment(WHOLE, 4, packet(4)))], 0)] == [packet(3)[2:], packet(4)[2:]]


EVENTS = st.lists(st.one_of(
    st.tuples(st.just("whole"), st.integers(4, 60)),
    st.tuples(st.just("cut"), st.lists(st.integers(0, 700), min_size=1, max_size=6)),
    st.tuples(st.just("raw"), st.integers(0, 255), st.integers(0, 1 << 24), st.binary(max_size=20)),
    st.tuples(st.just("octets"), st.binary(max_size=1)),
    st.tuples(st.just("jump"), st.integers(-600, 600)),
    st.tuples(st.just("pause"), st.integers(0, 150))), max_size=60)


@settings(max_examples=int(os.environ.get("HEADRACE_FUZZ", "300")), deadline=None)
@given(links=st.integers(1, 3), short=st.booleans(), mrru=st.sampled_from([100, 1500, 4000]), events=EVENTS,
       fates=st.lists(st.sampled_from("=====..x2<>"), min_size=1, max_size=40), spread=st.lists(st.integers(0, 2), min_size=1, max_size=20),
       batch=st.integers(1, 40))
@example(links=2, short=False, mrru=1500, events=[("cut", [100])] * 30, fates=list("=<>"), spread=[0, 1], batch=7)
def test_against_the_oracle(tables, links, short, mrru, events, fates, spread, batch):
    """Packets are numbered as a sender does, and what happens to each fragment on the way is drawn: = comes, x is lost, 2 comes twice,
    < before the one in front of it, > after the next but three; then they come in batches."""
    b = Bundle(tables, links, mrru=mrru, short=short)
    number, now, wire, drawn = 0, 0, [], 0
    for n, event in enumerate(events):
        match event:
            case ("whole", size):
                made = [fragment(WHOLE, number, packet(n, size), short=short)]
            case ("cut", sizes):
                made = cut(packet(n, sum(sizes) + 100), number, sizes, short=short)
            case ("raw", flags, at, data):
                made = [fragment(flags & WHOLE, number + (at if at < 600 else 0), data and IP + data, short=short)]
            case ("octets", data):
                made = [data]
            case ("jump", by):
                number += by
                continue
            case (_, ms):
                wire.append((None, ms))
                continue
        number += len(made)
        for octets in made:
            link, fate = spread[drawn % len(spread)] % links, fates[drawn % len(fates)]
            drawn += 1
            if fate != "x":
                at = max(0, len(wire) - 1) if fate == "<" else len(wire) + 3 if fate == ">" else len(wire)
                wire.insert(at, (link, octets))
                if fate == "2":
                    wire.append((link, octets))
    waiting = []
    for link, what in [*wire, (None, 0)]:
        if link is not None:
            waiting.append((link, what))
        if waiting and (link is None or len(waiting) == batch):
            b.push(waiting, now)
            waiting = []
        if link is None:
            now += what * MS
            b.due(now)
    b.accounts()
    b.due(now + WAIT)
    assert b.join.cells()[0] == 0
