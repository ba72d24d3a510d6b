"""Several workers: what one receives for another's session goes to its owner, in order, and nothing of it too late."""
import os
import struct

from headrace.control import tun
from headrace.control.settings import Concentrator
from headrace.fastpath.table import State
from rig.forwarder import Bench, udp

IP = b"\x00\x21"


def test_two_workers_hand_over_what_is_not_theirs(tmp_path):
    bench = Bench(tmp_path / "t", workers=2)
    try:
        for i in range(40):
            bench.session(1, 1 + i, f"10.67.0.{2 + i}", owner=i % 2, peer_session=100 + i)
        n = 400
        for k in range(n):
            i = k % 40
            bench.send(IP + udp(f"10.67.0.{2 + i}", "10.0.0.1", struct.pack("!I", k)), session=1 + i)
        seen: dict[bytes, list[int]] = {}
        while sum(map(len, seen.values())) < n:
            p = bench.inner_read()[1]             # of one session, and of several datagrams where they met in a batch
            seen.setdefault(p[12:16], []).extend(k for k, in struct.iter_unpack("!I", p[28:]))
        assert all(v == sorted(v) for v in seen.values()) and sum(map(len, seen.values())) == n
        for k in range(n):
            bench.inner_write(udp("10.0.0.1", f"10.67.0.{2 + k % 40}", struct.pack("!I", k)), worker=k % 2)
        got = [bench.peer.recv(100) for _ in range(n)]
        assert sorted(struct.unpack("!I", g[38:42])[0] for g in got) == list(range(n))
        records = bench.tables.worker_records()
        assert records["ring_in"].sum() > 0 and bench.verdicts().get("DROP_RING", 0) == 0
        assert bench.wait_verdict("HANDED") == records["ring_out"].sum()
    finally:
        bench.close()


def test_as_many_workers_as_a_large_machine_gets(tmp_path, monkeypatch):
    """`workers = 0` on 96 cores: no more than the forwarder takes, and it takes them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    monkeypatch.delenv("HEADRACE_FORWARDER_CPUS", raising=False)
    bench = Bench(tmp_path / "t", workers=tun.workers(Concentrator()))
    try:
        bench.session(owner=bench.forwarder.count - 1)
        for i in range(20):
            bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"x"), worker=i % bench.forwarder.count)
            assert bench.peer.recv(100)
    finally:
        bench.close()


def test_many_small_passes_wait_for_a_worker_that_is_away(tmp_path):
    """What is read in passes of one packet is kept for its owner as long as there is room for its octets, and goes out in order."""
    bench, n = Bench(tmp_path / "t", workers=2, held=(1,)), 200
    try:
        bench.session(owner=1)
        for k in range(n):
            bench.inner_write(udp("10.0.0.1", "10.67.0.2", struct.pack("!I", k)))
            bench.wait_verdict("HANDED", k + 1)
        bench.threads[1].start()
        got = [bench.peer.recv(100) for _ in range(n)]
        assert [struct.unpack("!I", g[38:42])[0] for g in got] == list(range(n))
        assert "DROP_RING" not in bench.verdicts()
    finally:
        bench.close()


def test_what_was_handed_over_before_a_link_was_reset_does_not_leave(tmp_path):
    """Its owner comes to it when the link is being negotiated again, perhaps with somebody else, perhaps to be encrypted."""
    bench = Bench(tmp_path / "tables", workers=2, held=(1,))
    slot, _ = bench.session(owner=1)
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"before"), worker=0)
    bench.wait_verdict("HANDED")
    bench.tables.set_state(slot, State.OPENING)
    bench.threads[1].start()
    bench.wait_verdict("DROP_NOT_OPEN")
    bench.tables.set_state(slot, State.OPEN)
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"after"), worker=0)
    assert bench.peer.recv(2000).endswith(b"after")
    bench.close()
