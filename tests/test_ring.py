"""The protocols between threads, as fastpath/ring.pxd, worker.pyx and table.pyx have them, in every order that store buffers allow.

Each is shown twice: as it is, and with one of its parts left out, which must be noticed. Names are those of the code.
"""
import pytest
from headrace.fastpath.table import State
from reference.memory import add, either, explore, fence, load, release, store, until

FREE, OPENING, OPEN, RETIRED = State.FREE, State.OPENING, State.OPEN, State.RETIRED


# -- the ring and the loan of its buffers (ring_put, ring_peek, ring_drop, lend) ----------------

def ring(without="", packets=3, size=2):
    """A worker reads into one of two buffers, hands the packet over and takes the buffer again when nobody holds it."""
    publish = store if without == "release of tail" else release

    def lender():
        for n in range(packets):
            buffer = n % 2
            if without != "count of loans":
                yield until(f"refs{buffer}", lambda refs: refs == 0)
            yield store(f"buffer{buffer}", n)
            yield add(f"refs{buffer}", 1)
            if without != "look for room":
                yield until("head", lambda head, n=n: n - head < size)
            yield store(f"slot{n % size}", n)
            yield publish("tail", n + 1)

    def owner():
        for n in range(packets):
            yield until("tail", lambda tail, n=n: tail > n)
            if without == "order of giving back":
                yield release("head", n + 1)
            packet = yield load(f"slot{n % size}")
            assert packet == n, "the ring's slot holds another packet"
            assert (yield load(f"buffer{n % 2}")) == n, "the buffer was used again"
            yield add(f"refs{n % 2}", -1, release=True)
            if without != "order of giving back":
                yield release("head", n + 1)

    memory = {"head": 0, "tail": 0, **{f"{name}{i}": 0 if name == "refs" else -1 for name in ("refs", "buffer", "slot") for i in range(2)}}
    return explore(memory, lender, owner)


def test_ring():
    assert ring() > 100
    assert ring(packets=4) > 200


@pytest.mark.parametrize("without, noticed", [
    ("release of tail", "another packet|used again"), ("count of loans", "used again"), ("look for room", "another packet|used again"),
    ("order of giving back", "another packet")])
def test_ring_without(without, noticed):
    with pytest.raises(AssertionError, match=noticed):
        ring(without, packets=4, size=1 if "order" in without or "room" in without else 2)


# -- who sleeps is woken (wait, settle) ---------------------------------------------------------

def sleep(without=""):
    def sleeper():
        yield release("asleep", 1)
        if without != "fence of the sleeper":
            yield fence()
        if without == "second look" or (yield load("tail")) == 0:
            yield until("eventfd", lambda n: n > 0)
        yield release("asleep", 0)
        yield until("tail", lambda tail: tail == 1)

    def waker():
        yield release("tail", 1)
        if without != "fence of the waker":
            yield fence()
        if (yield load("asleep")):
            yield add("eventfd", 1)

    return explore({"asleep": 0, "tail": 0, "eventfd": 0}, sleeper, waker)


def test_who_sleeps_is_woken():
    assert sleep() > 10


@pytest.mark.parametrize("without", ["fence of the sleeper", "fence of the waker", "second look"])
def test_who_sleeps_is_not_woken_without(without):
    with pytest.raises(AssertionError, match="deadlock"):
        sleep(without)


# -- a slot changes hands (publish, retire, epochs, passed; take_handed) ------------------------

def slot(without="", passes=2):
    """Control retires a session and publishes another one in its slot; a worker looks at it in each pass, and has one packet in
    its ring that was handed over for the first."""
    def control():
        yield release("state", RETIRED)
        if without != "fence of epochs":
            yield fence()
        mark = yield load("epoch")
        if without != "wait":
            yield either(until("epoch", lambda epoch: epoch != mark), until("asleep", bool))
        yield store("generation", 2)
        yield release("state", FREE)
        yield store("peer", 2)
        yield (store if without == "release of state" else release)("state", OPENING)

    def worker():
        for n in range(passes):
            yield release("asleep", 0)
            if without != "fence of waking":
                yield fence()
            if n == passes - 1:             # take_handed: a descriptor of generation 1
                if without == "state first":
                    generation = yield load("generation")
                state = yield load("state")
                if state not in (FREE, RETIRED):
                    if without != "state first":
                        generation = yield load("generation")
                    if generation == 1 or without == "generation":
                        assert (yield load("peer")) == 1, "a packet goes to another session"
            state = yield load("state")
            if state not in (FREE, RETIRED):
                first = yield load("peer")
                assert first == (yield load("peer")), "a session changes within a pass"
                assert (yield load("generation")) == first, "a session that is not whole"
            yield release("epoch", n + 1)
            yield release("asleep", 1)

    return explore({"state": OPEN, "generation": 1, "peer": 1, "epoch": 0, "asleep": 1}, control, worker)


def test_a_slot_changes_hands():
    assert slot() > 100


@pytest.mark.parametrize("without, noticed", [
    ("wait", "within a pass|not whole|another session"), ("fence of epochs", "within a pass|not whole"),
    ("fence of waking", "within a pass|not whole"), ("release of state", "not whole|another session"),
    ("state first", "another session"), ("generation", "another session")])
def test_a_slot_does_not_change_hands_without(without, noticed):
    with pytest.raises(AssertionError, match=noticed):
        slot(without)


# -- a live record changes (configure, config_of) -----------------------------------------------

def configuration(without="", changes=3):
    """Control changes a session again and again; a worker loads the index once a pass and uses that copy in all of it."""
    def control():
        mark = None
        for n in range(1, changes + 1):
            idle = n % 2
            if mark is not None and without != "wait":
                yield either(until("epoch", lambda epoch, mark=mark: epoch != mark), until("asleep", bool))
            yield store(f"mtu{idle}", n)
            yield store(f"mss{idle}", n)
            yield (store if without == "release of active" else release)("active", idle)
            if without != "fence of epochs":
                yield fence()
            mark = yield load("epoch")

    def worker():
        for n in range(2):
            yield release("asleep", 0)
            if without != "fence of waking":
                yield fence()
            active = yield load("active")
            mtu = yield load(f"mtu{active}")
            assert mtu == (yield load(f"mss{active}")), "a torn configuration"
            yield release("epoch", n + 1)
            yield release("asleep", 1)

    return explore({"active": 0, "mtu0": 0, "mss0": 0, "mtu1": 0, "mss1": 0, "epoch": 0, "asleep": 1}, control, worker)


def test_a_configuration_changes():
    assert configuration() > 100


@pytest.mark.parametrize("without", ["wait", "release of active", "fence of epochs", "fence of waking"])
def test_a_configuration_is_torn_without(without):
    with pytest.raises(AssertionError, match="torn"):
        configuration(without)
