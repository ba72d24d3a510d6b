"""Address pools: each address once, the last one back to who had it, a minute's rest for everybody else."""
from ipaddress import IPv4Address, IPv4Network

from headrace.control.pool import REST, Pool
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def make(*networks, reserved=()):
    clock = Clock()
    return Pool([IPv4Network(n) for n in networks], [IPv4Address(a) for a in reserved], clock), clock


def rest(pool):
    """All that it still gives now."""
    out = []
    while (address := pool.take(f"nobody-{len(out)}")) is not None:
        out.append(str(address))
    return out


def test_order_edges_and_reserved():
    pool, _ = make("10.0.0.0/30", "10.0.1.0/31", "10.0.2.7/32", "10.0.3.0/29", reserved=["10.0.3.1"])
    assert rest(pool) == ["10.0.0.1", "10.0.0.2", "10.0.1.0", "10.0.1.1", "10.0.2.7", *(f"10.0.3.{n}" for n in range(2, 7))]


def test_the_last_address_comes_back_at_once_to_its_user_and_after_a_minute_to_others():
    pool, clock = make("10.0.0.0/30")
    a, b = pool.take("joe"), pool.take("ann")
    pool.give(a)
    assert pool.take("eve") is None and pool.take("joe") == a
    pool.give(a)
    clock.now += 1
    pool.give(b)
    clock.now += REST - 1
    assert pool.take("eve") == a and pool.take("bob") is None
    assert pool.take("joe") is None         # his was taken by somebody else
    clock.now += 1
    assert pool.take("joe") == b


def test_a_user_of_two_sessions_gets_the_later_one_back_and_nobody_a_taken_one():
    pool, clock = make("10.0.0.0/30")
    a, b = pool.take("joe"), pool.take("joe")
    pool.give(a)
    pool.give(b)
    assert pool.take("joe") == b and pool.take("joe") is None
    clock.now += REST
    assert pool.take("joe") == a


def test_a_claimed_address_is_nobody_elses():
    pool, clock = make("10.0.0.0/29")
    fixed = IPv4Address("10.0.0.2")
    assert pool.claim(fixed, "ann") and not pool.claim(fixed, "ann") and not pool.claim(fixed, "joe")
    assert str(fixed) not in rest(pool)
    pool.give(fixed)
    assert pool.claim(fixed, "joe")
    pool.give(fixed)
    clock.now += REST
    assert pool.take("eve") == fixed


def test_reservations_change():
    pool, clock = make("10.0.0.0/29", reserved=["10.0.0.1"])
    a = pool.take("joe")
    pool.give(a)
    pool.reserve([a])
    assert a not in (pool.take("joe"), pool.take("ann"))
    clock.now += REST
    assert sorted(rest(pool)) == ["10.0.0.1", "10.0.0.5", "10.0.0.6"]


ACTS = ("give", "take", "claim", "wait", "reserve")


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(ACTS), st.integers(0, 7)), max_size=60))
def test_never_twice(steps):
    pool, clock = make("10.0.0.0/29", reserved=["10.0.0.1"])
    held, given_back = {}, {}
    for user, what, n in steps:
        user = f"u{user}"
        address = IPv4Address("10.0.0.0") + n
        if what == "take" and (address := pool.take(user)):
            assert address not in held and int(address) not in pool.reserved
            assert address not in given_back or given_back[address][1] == user or clock.now - given_back[address][0] >= REST
            held[address] = user
        elif what == "claim" and 1 <= n <= 6:
            assert pool.claim(address, user) == (address not in held)
            held.setdefault(address, user)
        elif what == "give" and address in held:
            given_back[address] = clock.now, held.pop(address)
            pool.give(address)
        elif what == "wait":
            clock.now += 10 * n
        elif what == "reserve":
            pool.reserve([address])
        assert pool.taken == {int(a): u for a, u in held.items()}
        assert not set(pool.taken) & set(pool.resting) and set(pool.last.values()) <= set(pool.resting)
