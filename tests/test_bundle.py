"""Control's doors to bundles: who is in one, and what a slot that is used anew finds."""
from __future__ import annotations

import os

import pytest
from headrace.fastpath import bundle, table
from headrace.fastpath.packet import Kind
from headrace.fastpath.table import State

PATH = (0, bytes(16), 0, bytes(16), 0)


@pytest.fixture
def tables(tmp_path):
    table.create(tmp_path / "tables", max_sessions=1000, workers=1)
    fd = os.open(tmp_path / "tables", os.O_RDWR)
    yield table.Tables(fd)
    os.close(fd)


def opened(tables, session=100, flags=0):
    slot, _ = tables.publish(Kind.KIND_BUNDLE, 1, session, 0, PATH)
    bundle.open_bundle(tables, slot, mrru=1600, flags=flags)
    return slot


def link(tables, session):
    return tables.publish(Kind.KIND_L2TP, 1, session, 0, PATH)[0]


def test_links_come_and_go(tables):
    slot = opened(tables)
    first, second, third = (link(tables, n) for n in (1, 2, 3))
    assert bundle.links(tables, slot) == []
    assert bundle.join_link(tables, slot, first, rate=1, room=1400) == 0
    assert bundle.join_link(tables, slot, second, rate=2, room=1450) == 1
    assert bundle.links(tables, slot) == [(first, 1, 1400), (second, 2, 1450)]
    assert tables.sessions()["bundle"][[slot, first, second, third]].tolist() == [slot, slot, slot, 0]
    assert bundle.leave_link(tables, slot, first)
    assert not bundle.leave_link(tables, slot, first)
    assert bundle.join_link(tables, slot, third, room=1300) == 0          # the first free place; the second link keeps its own
    assert bundle.links(tables, slot) == [(third, 0, 1300), (second, 2, 1450)]
    assert tables.sessions()["bundle"][[first, second, third]].tolist() == [0, slot, slot]
    assert tables.sessions()["place"][[second, third]].tolist() == [1, 0]
    assert bundle.counters(tables, slot) == (0, 0, 0)


def test_who_is_held_is_not_attached(tables):
    slot = opened(tables)
    first, second = (link(tables, n) for n in (1, 2))
    bundle.join_link(tables, slot, first, room=1400)
    bundle.join_link(tables, slot, second, room=1400, hold=True)
    assert tables.sessions()["attached"][[first, second]].tolist() == [1, 0]
    bundle.leave_link(tables, slot, second)
    bundle.join_link(tables, slot, second, room=1400)
    assert tables.sessions()["attached"][second] == 1


def test_link_that_is_its_own_bundle(tables):
    slot = link(tables, 1)
    bundle.open_bundle(tables, slot, mrru=1500)
    assert bundle.join_link(tables, slot, slot, room=1400) == 0
    assert bundle.leave_link(tables, slot, slot)
    assert tables.sessions()["bundle"][slot] == slot                      # a bundle without links now


def test_who_cannot_join(tables):
    slot = opened(tables)
    one = link(tables, 1)
    with pytest.raises(ValueError, match="is no bundle"):
        bundle.join_link(tables, one, one, room=1400)
    with pytest.raises(ValueError, match="a link for frames of 127"):
        bundle.join_link(tables, slot, one, room=127)
    bundle.join_link(tables, slot, one, room=128)
    with pytest.raises(ValueError, match="is a link already"):
        bundle.join_link(tables, slot, one, room=128)
    with pytest.raises(ValueError, match="cannot be a link"):
        bundle.join_link(tables, opened(tables, 101), one, room=128)      # of two bundles
    with pytest.raises(ValueError, match="cannot be a link"):
        bundle.join_link(tables, slot, tables.slot(1, 99), room=128)      # nobody's slot
    for n in range(2, 9):
        bundle.join_link(tables, slot, link(tables, n), room=1400)
    with pytest.raises(ValueError, match="at most 8 links"):
        bundle.join_link(tables, slot, link(tables, 9), room=1400)


def test_slot_used_anew(tables):
    slot = opened(tables)
    one = link(tables, 1)
    bundle.join_link(tables, slot, one, room=1400)
    tables.retire(one)
    assert link(tables, 1) == one
    assert tables.sessions()["bundle"][one] == 0                          # not of its predecessor's bundle
    tables.retire(slot)
    assert opened(tables) == slot
    assert bundle.links(tables, slot) == []
    assert tables.state(slot) == State.OPENING
