"""Ids that lead to slots: oldest first, a minute's rest, the emptiest bank, and what a former life left."""
import os
from ipaddress import IPv4Address
from random import Random

import pytest
from headrace.control.address import mapped
from headrace.control.ids import LAST, Ids
from headrace.fastpath import table
from headrace.fastpath.packet import Kind

PEER = mapped(IPv4Address("192.0.2.7"))
PATH = (0, bytes(16), 1701, bytes(16), 1701)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def make(tmp_path, max_sessions=1000, seed=1):
    table.create(tmp_path / "t", max_sessions=max_sessions, workers=1)
    fd = os.open(tmp_path / "t", os.O_RDWR)
    tables = table.Tables(fd)
    os.close(fd)
    clock = Clock()
    return Ids(tables, max_sessions, Random(seed), clock), tables, clock


def test_all_ids_are_handed_out_once_and_then_the_oldest_after_a_minute(tmp_path):
    ids, _, clock = make(tmp_path, 200_000)
    assert len(ids.banks) == 4
    taken = [ids.take_session(1, PEER) for _ in range(LAST)]
    assert sorted(taken) == list(range(1, LAST + 1))
    assert ids.take_session(1, PEER) is None and ids.take_session(2, PEER) is not None      # full is one bank only
    for number in taken[7:4:-1]:
        ids.give_session(1, number)
        clock.now += 1
    clock.now = 1059.9
    assert ids.take_session(1, PEER) is None
    clock.now = 1060.0
    assert ids.take_session(1, PEER) == taken[7] and ids.take_session(1, PEER) is None
    clock.now = 1070.0
    assert [ids.take_session(1, PEER), ids.take_session(1, PEER), ids.take_session(1, PEER)] == [taken[6], taken[5], None]


def test_tunnels_lead_to_the_emptiest_bank(tmp_path):
    ids, tables, clock = make(tmp_path, 150_000)
    assert tables.banks == 4        # three would do, and banks are a power of two
    first = [ids.take_tunnel(PEER) for _ in range(4)]
    assert {n % 4 for n in first} == {0, 1, 2, 3}
    for n in first[:3]:
        ids.take_session(n, PEER)
    assert ids.take_tunnel(PEER) % 4 == first[3] % 4
    seen = set(first)
    while (n := ids.take_tunnel(PEER)) is not None:
        seen.add(n)
    assert len(seen) == LAST - 1 and 0 not in seen and max(seen) <= LAST
    ids.give_tunnel(first[0])
    assert ids.take_tunnel(PEER) is None
    clock.now += 60
    assert ids.take_tunnel(PEER) == first[0]


def test_no_more_sessions_than_configured(tmp_path):
    ids, _, _ = make(tmp_path)
    ids.max_sessions = 2
    a, b = ids.take_session(1, PEER), ids.take_session(2, PEER)
    assert a and b and ids.take_session(3, PEER) is None
    ids.give_session(1, a)
    assert ids.take_session(3, PEER)


def test_a_slot_that_a_wheel_still_holds_is_not_lost(tmp_path):
    ids, tables, clock = make(tmp_path)
    busy = ids.banks[0].start + 1
    tables.publish(Kind.KIND_L2TP, 1, busy, 0, PATH)        # not ours to reuse, whoever has it
    taken = [ids.take_session(1, PEER) for _ in range(500)]
    assert busy not in taken
    tables.retire(tables.slot(1, busy))
    ids.banks[0].unused = 0
    assert ids.take_session(1, PEER) is None
    clock.now += 60
    assert ids.take_session(1, PEER) == busy


def test_what_a_former_life_left_rests_or_says_goodbye(tmp_path):
    ids, tables, clock = make(tmp_path)
    tunnel, session = ids.tunnels[0].first + ids.tunnels[0].start, ids.banks[0].start + 1
    ids.inherit([tunnel], [tables.slot(tunnel, session)])
    taken = [ids.take_tunnel(PEER) for _ in range(LAST - 1)]
    assert tunnel not in taken and len(set(taken)) == LAST - 1 and ids.take_tunnel(PEER) is None
    sessions = {ids.take_session(1, PEER) for _ in range(1000)}
    assert session not in sessions
    ids.banks[0].unused, ids.max_sessions = 0, 5000
    assert ids.take_session(1, PEER) is None
    clock.now += 60
    assert ids.take_session(1, PEER) == session and ids.take_session(1, PEER) is None
    ids.give_tunnel(tunnel)
    clock.now += 60
    assert ids.take_tunnel(PEER) == tunnel and ids.take_tunnel(PEER) is None


@pytest.mark.parametrize("banks, most", [(1, 52427), (2, 65536), (4, 200_000)])
def test_tunnel_ids_of_all_banks_are_the_same_numbers_once(tmp_path, banks, most):
    ids, tables, _ = make(tmp_path, most)
    assert tables.banks == banks == len(ids.tunnels)
    numbers = [space.first + n * space.step for space in ids.tunnels for n in range(space.size)]
    assert sorted(numbers) == list(range(1, LAST + 1))
    assert all(number % banks == bank for bank, space in enumerate(ids.tunnels) for number in (space.first, space.first + space.step))
