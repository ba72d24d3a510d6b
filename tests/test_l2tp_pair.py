"""Our LAC and our LNS back to back, over a network that loses, doubles and delays."""
from __future__ import annotations

import itertools
from random import Random

from headrace.control.avp import PROXY
from headrace.control.l2tp import CallDown, CallOpening, CallUp, Endpoint, Path, Settings, TunnelDown, TunnelUp
from headrace.control.reason import Reason
from headrace.control.reliable import Timing
from hypothesis import assume, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from l2tp_peer import Ids
from rig.network import Network

LAC, LNS = (bytes(10) + b"\xff\xff" + bytes(a) for a in ((10, 0, 0, 2), (10, 0, 0, 1)))
OUT = Path(0, LAC, 40000, LNS, 1701)
BYE = Reason("tunnel", "shutdown", "bye")


class Pair(Network):
    """Two endpoints, and datagrams between them."""

    def __init__(self, fates=(), **settings):
        # More tries than fates: what is lost is never all that a message has.
        settings.setdefault("timing", Timing(1.0, 2.0, len(fates) + 5))
        super().__init__(fates)
        self.at = {LAC: Endpoint(Settings(**settings), Ids(), Random(1).randbytes),
                     LNS: Endpoint(Settings(**settings), Ids(), Random(2).randbytes)}
        self.lac, self.lns = self.at.values()
        self.events = {LAC: [], LNS: []}

    def ends(self):
        return self.at.values()

    def collect(self):
        for address, end in self.at.items():
            self.events[address] += end.events()
            for path, data in end.outgoing():
                self.wire((Path(path.port, path.peer, path.peer_port, address, path.local_port), data))

    def deliver(self, item):
        path, data = item
        self.at[path.local].receive(path, data, self.now)

    def seen(self, address, kind):
        return [event for event in self.events[address] if isinstance(event, kind)]


FATES = st.lists(st.sampled_from([0, 0, 1, 1, 1, 2, 3, 7, 15]), max_size=50)


@given(FATES, st.booleans(), st.booleans(), st.integers(1, 8))
@given_settings(deadline=None)
def test_a_life_on_a_bad_network(fates, secure, lac_ends, calls):
    secret = {"secret": "s3cret", "require_secret": True, "hide": True} if secure else {}
    pair = Pair(fates, setup=300.0, **secret)
    tunnel = pair.lac.dial(OUT, 0.0)
    proxy = dict(zip(PROXY, (b"first", b"sent", b"received", 2, b"user", b"challenge", 7, b"response"), strict=True))
    placed = [pair.lac.place_call(tunnel, 0.0, calling_number=str(n), called_number="9", tx_speed=n, proxy=proxy, sequencing=n % 2 == 1)
              for n in range(calls)]
    pair.run(200.0, lambda: len(pair.seen(LNS, CallUp)) == calls and len(pair.seen(LAC, CallUp)) == calls)
    ours, theirs = pair.seen(LAC, CallUp), pair.seen(LNS, CallUp)
    assert [up.session_id for up in ours] == placed
    assert [(u.tunnel_id, u.session_id, u.peer_tunnel_id, u.peer_session_id) for u in ours] == \
           [(u.peer_tunnel_id, u.peer_session_id, u.tunnel_id, u.session_id) for u in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.calling_number, a.called_number, a.tx_speed, a.framing, a.sequencing_required, a.proxy) == \
               (b.calling_number, b.called_number, b.tx_speed, b.framing, b.sequencing_required, b.proxy)
    assert len(pair.seen(LAC, TunnelUp)) == len(pair.seen(LNS, TunnelUp)) == 1
    for address in (LAC, LNS):
        assert len(pair.seen(address, CallOpening)) == calls

    end = pair.lac if lac_ends else pair.lns
    up = (ours if lac_ends else theirs)[0]
    end.hang_up(up.tunnel_id, up.session_id, Reason("call", "idle", "idle"), pair.now)
    pair.run(pair.now + 200, lambda: pair.seen(LAC, CallDown) and pair.seen(LNS, CallDown))
    assert sorted(down.by_peer for address in (LAC, LNS) for down in pair.seen(address, CallDown)) == [False, True]
    end.close(up.tunnel_id, BYE, pair.now)
    pair.run(pair.now + 5000)
    for address in (LAC, LNS):
        assert len(pair.seen(address, TunnelDown)) == len(pair.seen(address, TunnelUp)) == 1
        assert len({down.session_id for down in pair.seen(address, CallDown)}) == len(pair.seen(address, CallDown)) == calls
        assert isinstance(pair.events[address][-1], TunnelDown)
    for end in pair.ends():
        assert len(end) == 0 and end.deadline() is None
        assert end.ids.tunnels == end.ids.sessions == set()
        assert not end._greeted and not end._dialling and not end._opening and end._half_open == 0
        assert end.changed()[-1].state == 0
        assert not end.counts.keys() - {"duplicate", "early", "beyond_window", "unknown_tunnel", "unknown_session"}


@given(FATES)
@given_settings(deadline=None)
def test_goodbye_after_a_crash_on_a_bad_network(fates):
    """Control dies somewhere in a tunnel's life; what was last told of it is enough for its goodbye."""
    pair = Pair(fates, setup=300.0)
    tunnel = pair.lac.dial(OUT, 0.0)
    for _ in range(5):
        pair.lac.place_call(tunnel, 0.0)
    pair.run(200.0, lambda: len(pair.seen(LNS, CallUp)) >= len(fates) % 6)
    states = {state.tunnel_id: state for state in pair.lns.changed()}
    assume(states)
    pair.lns = pair.at[LNS] = Endpoint(Settings(timing=Timing(1.0, 2.0, 60)), Ids(), Random(3).randbytes)
    pair.lns.ids.tunnels |= states.keys()
    pair.lns.ids.next = itertools.count(1000)
    pair.lns.say_goodbye(states.values(), pair.now)
    pair.run(pair.now + 500)
    [down] = pair.seen(LAC, TunnelDown)
    assert "restarted" in down.reason.text
    assert len(pair.lns) == 0 and pair.lns.ids.tunnels == set()


def test_two_thousand_tunnels_at_once():
    """All of them come up, though the LNS lets in no more than some at a time."""
    pair = Pair(half_open_per_peer=500, timing=Timing())
    for port in range(2000):
        pair.lac.dial(OUT._replace(local_port=port + 1), 0.0)
    most = 0

    def up():
        nonlocal most
        most = max(most, pair.lns._half_open)
        return len(pair.seen(LAC, TunnelUp)) == 2000 if pair.lac._dialling == {} else False

    pair.run(30.0, up)
    pair.run(40.0)
    assert len(pair.seen(LNS, TunnelUp)) == 2000 and most == 500
    assert pair.lns.counts["half_open"] > 0 and not pair.seen(LAC, TunnelDown)
    assert pair.lns._half_open == 0


def test_many_calls_in_one_tunnel():
    """Slow start and the window hold, and every call comes up."""
    pair = Pair(receive_window=8)
    tunnel = pair.lac.dial(OUT, 0.0)
    for _ in range(500):
        pair.lac.place_call(tunnel, 0.0)
    pair.run(50.0, lambda: len(pair.seen(LNS, CallUp)) == 500)
    assert len(pair.seen(LAC, CallUp)) == 500 and pair.lns.counts == pair.lac.counts == {}


def test_wrong_secret():
    pair = Pair()
    pair.lns.settings.require_secret = True
    pair.lns._secret = b"right"
    pair.lac.dial(OUT, 0.0, secret="wrong")
    pair.run(100.0)
    for address in (LAC, LNS):
        assert [down.reason.code for down in pair.seen(address, TunnelDown)] == ["auth"]
    # The LAC does not challenge, so it takes its tunnel for open until it hears what the LNS says.
    assert not pair.seen(LNS, TunnelUp)


def test_lns_numbers_data_by_its_own_choice():
    pair = Pair(sequencing=True)
    pair.lac.settings.sequencing = False
    tunnel = pair.lac.dial(OUT, 0.0)
    pair.lac.place_call(tunnel, 0.0)
    pair.run(10.0)
    assert [up.sequencing_required for up in pair.seen(LNS, CallUp) + pair.seen(LAC, CallUp)] == [True, False]
