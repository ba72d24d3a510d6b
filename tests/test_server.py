"""Control's shell on a socket pair: a worker that stands still, a gap in its own time, a channel that is closed."""
import asyncio
import json
import logging
import os
import socket

import pytest
from headrace.control import server
from headrace.control.concentrator import Concentrator
from headrace.control.server import Server
from headrace.fastpath import table
from headrace.fastpath.punt import LONGEST, Channel, PuntKind
from rig.core import configuration

PATH = (0, bytes(16), 1701, bytes(16), 1701)


class Store:
    """The supervisor's store with what control asks for; `worker` is the other end of the channel."""

    def __init__(self, folder):
        table.create(folder / "t", max_sessions=10, workers=1)
        self.path = folder / "t"
        self.control, self.worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.control, self.worker):
            end.setblocking(False)

    def get(self, name):
        return os.open(self.path, os.O_RDWR) if name == "tables" else self.control.fileno()

    def names(self, prefix=""):
        return []

    def read(self, name):
        return json.dumps({"tun": "none", "udp": False}).encode()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    yield store
    store.control.close()
    store.worker.close()


def frame(n, kind=PuntKind.PUNT_PPP):
    return kind, n, 1, 0xC021, None, n.to_bytes(4)


def test_a_worker_that_stands_still_bounds_what_waits(store, caplog, monkeypatch):
    monkeypatch.setattr(server, "UNSENT", 500)

    async def live():
        own = Server(store, configuration())
        outbox, seen = own.concentrator.outbox, Channel(store.worker.fileno())
        sent = 0
        while len(own.unsent[0]) < 500:
            outbox[0] += [frame(sent + i) for i in range(50)]
            sent += 50
            own.settle()
        waiting = len(own.unsent[0])
        for _ in range(20):
            outbox[0] += [frame(7), frame(8, PuntKind.PUNT_ARM)]
            own.settle()
        assert len(own.unsent[0]) == waiting + 20 and own.dropped[0] == 20
        got = []
        while len(got) < sent + 20:         # the worker goes on: what waited comes in order, the orders among it
            got += [(kind, slot) for kind, _, slot, *_ in seen.receive()]
            await asyncio.sleep(0)
        assert got == [(PuntKind.PUNT_PPP, n) for n in range(sent)] + [(PuntKind.PUNT_ARM, 8)] * 20
        assert own.unsent[0] == [] and own.dropped[0] == 0
    with caplog.at_level(logging.WARNING):
        asyncio.run(live())
    assert [r.getMessage() for r in caplog.records] == ["worker 0 takes no frames: what there is to send is dropped",
                                                        "worker 0 takes frames again; 20 were dropped"]


def test_a_closed_channel_ends_control(store):
    async def live():
        own = Server(store, configuration())
        own.loop.add_reader(own.fds[0], own.readable, 0)
        store.worker.close()
        await asyncio.wait_for(own.stopping.wait(), 5)
        assert not own.loop.remove_reader(own.fds[0])
    asyncio.run(live())


def test_what_workers_did_in_a_gap_is_heard_before_their_frames(store, monkeypatch):
    done = []
    monkeypatch.setattr(Concentrator, "hear_workers", lambda core: done.append("hear"))
    monkeypatch.setattr(Concentrator, "frame", lambda core, frame, now: done.append("frame"))
    monkeypatch.setattr(Concentrator, "tick", lambda core, now: done.append("tick"))

    async def live():
        own = Server(store, configuration())
        Channel(store.worker.fileno()).send([frame(1), frame(2)])
        own.readable(0)
        assert done == ["frame", "frame"]
        own.beaten -= server.AWAY + 1
        Channel(store.worker.fileno()).send([frame(3)])
        own.readable(0)
        own.fire()
        own.beaten -= server.AWAY + 1
        own.fire()
        own.beaten -= server.AWAY + 1
        own.beat()
        assert done[2:] == ["hear", "frame", "tick", "hear", "tick", "hear"]
    asyncio.run(live())


def test_a_frame_that_is_too_long_is_left_out_alone(store, caplog):
    async def live():
        own = Server(store, configuration())
        own.concentrator.outbox[0] += [frame(1), (*frame(2)[:5], bytes(LONGEST + 1)), (*frame(3)[:5], bytes(LONGEST))]
        own.settle()
        assert [(slot, len(payload)) for _, _, slot, *_, payload in Channel(store.worker.fileno()).receive()] == [(1, 4), (3, LONGEST)]
    asyncio.run(live())
    assert "a defect in headrace" in caplog.text and "1 frames longer than" in caplog.text
