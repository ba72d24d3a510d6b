"""Reliable delivery (RFC 2661 section 5.8, appendix A): numbers, windows and time."""
from __future__ import annotations

import pytest
from headrace.control.reliable import NEVER, Reliable, Timing
from hypothesis import given
from hypothesis import strategies as st


def message(n=0):
    return bytearray(12) + bytes((n,))


def numbers(datagrams):
    """(Ns, Nr, content) of what was flushed."""
    return [(int.from_bytes(d[8:10]), int.from_bytes(d[10:12]), d[12]) for d in datagrams]


def sender(count, window=8, ns=0):
    r = Reliable(Timing(), 4, ns)
    r.open_window(window)
    for n in range(count):
        r.send(message(n))
    return r


def test_slow_start_then_congestion_avoidance():
    """cwnd grows by one an acknowledgment up to ssthresh, then by one a window of them (appendix A)."""
    r = sender(100, window=20)
    r.ssthresh = 4
    sent, seen = 0, []
    for acked in range(1, 30):
        sent += len(r.flush(0.0))
        seen.append(r.cwnd)
        assert sent - (acked - 1) == r.cwnd
        r.acknowledge(acked, 0.0)
    assert seen == [1, 2, 3] + [4] * 4 + [5] * 5 + [6] * 6 + [7] * 7 + [8] * 4


def test_never_more_than_the_window_of_the_peer():
    r = sender(50, window=4)
    acked = most = 0
    while not r.idle:
        acked += len(r.flush(0.0))
        assert r.ns - r.acked <= 4
        most = max(most, r.ns - r.acked)
        r.acknowledge(acked, 0.0)
    assert (acked, most) == (50, 4)


def test_time_out_halves_the_threshold_and_starts_slowly_from_the_oldest():
    r = sender(20, window=8)
    for acked in range(1, 9):
        r.flush(0.0)
        r.acknowledge(acked, 0.0)
    assert [n for n, _, _ in numbers(r.flush(0.0))] == [15]     # 8 to 14 are on their way
    assert (r.cwnd, r.due) == (8, 1.0)
    r.nr = 7
    assert r.tick(1.0)
    assert (r.cwnd, r.ssthresh) == (1, 4)
    assert numbers(r.flush(1.0)) == [(8, 7, 8)]                 # the same Ns, a fresh Nr
    assert r.due == 3.0
    r.acknowledge(9, 1.5)
    assert numbers(r.flush(1.5)) == [(9, 7, 9), (10, 7, 10)]
    r.acknowledge(16, 1.6)                                      # the peer had kept them all
    assert [n for n, _, _ in numbers(r.flush(1.6))] == [16, 17, 18]


def test_back_off_and_giving_up():
    r = sender(1)
    assert len(r.flush(0.0)) == 1
    sent = []
    while r.tick(r.due):
        sent.append(r.flush(sum(r.timing.interval(n) for n in range(r.tries))) and r.tries)
        assert r.due == sum(r.timing.interval(n) for n in range(r.tries + 1))
    assert sent == [1, 2, 3, 4, 5]
    assert r.due == r.timing.cycle == 1 + 2 + 4 + 8 + 8 + 8


def test_an_answer_starts_the_count_afresh():
    r = sender(2)
    r.flush(0.0)
    for now in (1.0, 3.0, 7.0):
        assert r.tick(now)
        r.flush(now)
    assert r.tries == 3
    r.acknowledge(1, 8.0)
    r.flush(8.0)
    assert (r.tries, r.due) == (0, 9.0)
    r.acknowledge(2, 8.5)
    assert (r.idle, r.due) == (True, NEVER)


@pytest.mark.parametrize("ns", [0, 5, 65533])
def test_acknowledgments_of_what_was_never_sent_change_nothing(ns):
    r = sender(3, ns=ns)
    r.flush(0.0)
    for nr in (2, 3, 0x7FFF):
        assert not r.acknowledge((ns + nr) & 0xFFFF, 0.0)
    for nr in (0, -1, -100, -0x8000):
        assert r.acknowledge((ns + nr) & 0xFFFF, 0.0)
    assert r.acked == ns and not r.idle


def test_numbers_wrap():
    r = sender(6, ns=65534)
    sent = []
    while not r.idle:
        sent += numbers(r.flush(0.0))
        assert r.acknowledge(r.ns, 0.0)
    assert [n for n, _, _ in sent] == [65534, 65535, 0, 1, 2, 3]
    r = Reliable(Timing(), 4, nr=65535)
    assert [r.receive(n, n)[0] for n in (65535, 0, 1)] == [[65535], [0], [1]]


def test_in_order_each_once():
    r = Reliable(Timing(), 4)
    assert r.receive(2, "c") == ([], "early")
    assert r.receive(1, "b") == ([], "early")
    assert r.receive(1, "b") == ([], "early")
    assert r.receive(4, "e") == ([], "beyond_window")
    assert r.receive(0, "a") == (["a", "b", "c"], "")
    assert r.receive(1, "b") == ([], "duplicate")
    assert r.nr == 3


@pytest.mark.parametrize("behind", [1, 2, 32767, 32768])
def test_the_last_32768_numbers_are_duplicates(behind):
    """Section 5.8: the last received and the preceding 32767; they are acknowledged again."""
    r = Reliable(Timing(), 4, nr=100)
    assert r.receive((100 - behind) & 0xFFFF, "x") == ([], "duplicate")
    assert r.ack_due and r.nr == 100
    assert r.receive((100 - 32769) & 0xFFFF, "x") == ([], "beyond_window")


def test_an_urgent_message_goes_before_what_was_not_sent():
    r = sender(4, window=4)
    assert numbers(r.flush(0.0)) == [(0, 0, 0)]
    r.send(message(9), urgent=True)
    r.acknowledge(1, 0.0)
    assert numbers(r.flush(0.0)) == [(1, 0, 9), (2, 0, 1)]
    r.withdraw()
    r.acknowledge(3, 0.0)
    assert r.idle and r.ns == 3


def test_abandoned_but_still_numbered():
    r = sender(4, window=4)
    r.flush(0.0)
    r.abandon()
    assert (r.idle, r.due, r.ns, r.acked) == (True, NEVER, 1, 1)
    assert r.acknowledge(1, 0.0) and r.tick(1e9)


def test_advance():
    r = Reliable(Timing(), 8, nr=65535)
    r.receive(1, "kept")
    r.advance(3)
    assert r.nr == 3
    r.advance(2)
    assert r.nr == 3
    assert r.receive(3, "next") == (["next"], "")


@given(st.lists(st.sampled_from(["pass", "lose", "twice", "late"]), max_size=60), st.integers(0, 65535), st.integers(1, 9))
def test_everything_arrives_in_order(fates, ns, window):
    """A sender and a receiver with a network that loses, doubles and delays, both ways, a bounded number of times."""
    a, b = sender(20, window, ns), Reliable(Timing(tries=len(fates) + 1), 4, nr=ns)
    a.timing = b.timing
    fate, got, now = iter(fates), [], 0.0
    there, back = [], []                # what is late

    def network(datagrams, late):
        out, held = [], late[:]
        late.clear()
        for d in datagrams:
            what = next(fate, "pass")
            out += [d] * {"pass": 1, "twice": 2}.get(what, 0)
            if what == "late":
                late.append(d)
        return out + held

    while not a.idle:
        for d in network(a.flush(now), there):
            got += b.receive(int.from_bytes(d[8:10]), d[12])[0]
        for _ in network([b"ack"], back):
            a.acknowledge(b.nr, now)
        if a.due < NEVER:
            now = max(now, a.due)
            assert a.tick(now)
    assert got == list(range(20))
