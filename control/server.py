"""Control's entry: asyncio around the concentrator.

    punt channel readable -> frames -> Concentrator.frame ... -> flush -> frames to the channels
    streams.py            -> octets -> Pptp.receive           -> flush -> octets to the streams
    one timer             -> Concentrator.tick                -> flush -> ...

asyncio is imported here, in streams.py and in the API only. A channel that takes no more is written again when it can.
"""
from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import struct
import sys
import termios
import time
from typing import Any

from ..fastpath.punt import LONGEST, Channel, PuntKind
from ..fastpath.table import Tables
from . import api, log
from . import config as configuration
from .bridge import Ports
from .concentrator import Concentrator
from .duid import server_duid
from .interfaces import Interfaces
from .listener import gre_port
from .nexthops import NextHops
from .operations import Operations
from .sessions import Frame
from .settings import Config
from .store import Store
from .streams import Streams

logger = logging.getLogger("headrace.control")

BEAT = 0.5              # seconds between heartbeats; workers think us away after 2
AWAY = 1.5              # a longer gap: they may have acted for us
BATCHES = 8             # of frames that are taken before anything else gets its turn
GOODBYE = 2.5           # seconds for the tunnels' goodbyes: two repetitions
STALE = 1024            # batches at most that are thrown away at the start
UNSENT = 32768          # frames that may wait for a worker; peers repeat what they miss, so later ones are dropped


class Server:
    """The concentrator on its descriptors."""

    def __init__(self, store: Store, config: Config) -> None:
        self.store, self.config = store, config
        self.loop = asyncio.get_running_loop()
        fd = store.get("tables")
        self.tables = Tables(fd)
        os.close(fd)
        self.concentrator = Concentrator(config, self.tables, time.monotonic, duid=server_duid(config.concentrator.run_dir),
                                         owners=os.environ.get("HEADRACE_TEST_OWNER", ""))
        self.concentrator.sessions.holdings.ports = Ports(self.tables.workers, store)
        self.operations = Operations(self.concentrator, store, json.loads(store.read("offload")), self.settle)
        self.streams = Streams(self.concentrator.pptp, self.catch_up, self.settle)
        self.fds = [store.get(f"punt/{worker}/control") for worker in range(self.tables.workers)]
        self.channels = [Channel(fd) for fd in self.fds]
        self.unsent: list[list[Frame]] = [[] for _ in self.fds]
        self.dropped = [0 for _ in self.fds]
        self.hops: NextHops | None = None
        if config.server.pptp.enabled and config.server.pptp.gre_transmit != "raw":
            self.hops = self.concentrator.installer.hops = NextHops(self.tables)
        self.interfaces = self.follow(config)
        self.timer: asyncio.TimerHandle | None = None
        self.due: float | None = None
        self.beaten = time.monotonic()
        self.stopping = asyncio.Event()

    # -- what wakes us

    def readable(self, worker: int) -> None:
        """Frames of a worker."""
        self.catch_up()
        frame = self.concentrator.frame
        now = time.monotonic()
        try:
            for _ in range(BATCHES):
                frames = self.channels[worker].receive()
                for one in frames:
                    frame(one, now)
                if len(frames) < 64:
                    break
        except EOFError:        # the supervisor held the other end too: it is gone, and nobody is left to serve
            logger.error("the channel to worker %d is closed: ending", worker)
            self.loop.remove_reader(self.fds[worker])
            self.stopping.set()
        self.settle()

    def fire(self) -> None:
        self.timer = self.due = None
        self.catch_up()
        self.concentrator.tick(time.monotonic())
        self.settle()

    def rerouted(self) -> None:
        """The kernel's routing changed."""
        assert self.hops
        self.hops.read()
        self.reroute()

    def reroute(self) -> None:
        """Some peers at a time; others get their turn."""
        if self.hops and self.hops.step():
            self.loop.call_soon(self.reroute)

    def follow(self, config: Config) -> Interfaces | None:
        """PPPoE's interfaces, if there are any."""
        names = config.server.interfaces
        if not names:
            return None
        sockets = {name: [socket.socket(fileno=self.store.get(f"ethernet/{name}/{worker}")) for worker in range(self.tables.workers)]
                   for name in names}
        return Interfaces(sockets, config.server.tagged, self.concentrator.pppoe.interface)

    def relinked(self) -> None:
        """The kernel's interfaces changed."""
        assert self.interfaces
        self.catch_up()
        self.interfaces.read()
        self.settle()

    @property
    def said(self) -> bool:
        """The workers have taken all that there was to send."""
        return not any(self.unsent) and not any(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0] for fd in self.fds)

    def beat(self) -> None:
        """Tell the workers that we live, and see whether they do."""
        self.loop.call_later(BEAT, self.beat)
        self.catch_up()
        self.beaten = time.monotonic()
        self.tables.beat(time.monotonic_ns())
        self.concentrator.quarantine.look(self.beaten)
        if self.interfaces and self.config is not self.concentrator.config:
            self.config = self.concentrator.config
            self.interfaces.want(self.config.server.tagged)
        self.settle()

    def catch_up(self) -> None:
        """After a gap the workers may have answered HELLOs for us: see what they expect now, before anything else is done."""
        gap = time.monotonic() - self.beaten
        if gap > AWAY:
            logger.warning("control was held up for %.1f s", gap)
            self.take_over()
            self.concentrator.hear_workers()

    def take_over(self) -> None:
        """From here on no worker answers HELLOs for us; one that is stopped is not waited for."""
        self.beaten = time.monotonic()
        self.tables.beat(time.monotonic_ns())
        mark = self.tables.epochs()
        until = time.monotonic() + 0.05
        while not self.tables.passed(mark) and time.monotonic() < until:
            time.sleep(0.0001)

    # -- what follows

    def settle(self) -> None:
        """Let the concentrator settle, send what it wants sent, and arm the timer."""
        now = time.monotonic()
        self.concentrator.flush(now)
        self.streams.write()
        for worker, frames in enumerate(self.concentrator.outbox):
            if frames:
                self.concentrator.outbox[worker] = []
                waiting = self.unsent[worker]
                if not waiting:
                    self.write(worker, frames)
                elif len(waiting) < UNSENT:
                    waiting.extend(frames)
                else:           # but orders: there is one a session at most, and nobody repeats them
                    orders = [frame for frame in frames if frame[0] == PuntKind.PUNT_ARM]
                    waiting.extend(orders)
                    self.drop(worker, len(frames) - len(orders))
        due = self.concentrator.deadline()
        if due is not None and (self.due is None or due < self.due):
            if self.timer is not None:
                self.timer.cancel()
            self.due = due
            self.timer = self.loop.call_at(max(due, now + 0.001), self.fire)

    def write(self, worker: int, frames: list[Frame]) -> None:
        fitting = [frame for frame in frames if len(frame[5]) <= LONGEST]
        if len(fitting) < len(frames):      # no machine may say so much; the frames of others go on
            self.concentrator.sessions.defect(ValueError(f"{len(frames) - len(fitting)} frames longer than {LONGEST} octets"), self.beaten)
            frames = fitting
        done = self.channels[worker].send(frames)
        if done < len(frames):
            self.unsent[worker] = frames[done:]
            self.loop.add_writer(self.fds[worker], self.writable, worker)

    def drop(self, worker: int, frames: int) -> None:
        if not self.dropped[worker]:
            logger.warning("worker %d takes no frames: what there is to send is dropped", worker)
        self.dropped[worker] += frames

    def writable(self, worker: int) -> None:
        if self.dropped[worker]:
            logger.warning("worker %d takes frames again; %d were dropped", worker, self.dropped[worker])
            self.dropped[worker] = 0
        frames, self.unsent[worker] = self.unsent[worker], []
        self.loop.remove_writer(self.fds[worker])
        self.write(worker, frames)

    # -- life

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.loop.add_signal_handler(number, self.stopping.set if number == signal.SIGTERM else self.reload)
        self.take_over()
        self.beat()
        for channel in self.channels:       # what was punted while nobody listened is stale
            for _ in range(STALE):
                if not channel.receive():
                    break
        old = self.concentrator.say_goodbye(time.monotonic())
        if old:
            logger.warning("control was restarted: saying goodbye to %d peer%s of before", old, "s" * (old != 1))
        for worker, fd in enumerate(self.fds):
            self.loop.add_reader(fd, self.readable, worker)
        if self.hops:
            self.loop.add_reader(self.hops.fileno(), self.rerouted)
        if self.interfaces:
            self.loop.add_reader(self.interfaces.fileno(), self.relinked)
            self.interfaces.look()
        pptp = self.config.server.pptp
        for listen in pptp.listen if pptp.enabled else ():
            await self.streams.listen(self.store.get(f"tcp/{listen}"), gre_port(self.config.server, listen))
        self.settle()
        runner = await api.serve(self.operations, self.config.concentrator.run_dir / "api.sock")
        gc.collect()
        gc.freeze()                         # what is there now stays: the collector need not look at it again
        gc.set_threshold(50000, 20, 50)
        self.store.ready()
        await self.stopping.wait()
        self.concentrator.shut_down(time.monotonic())
        self.settle()
        until = time.monotonic() + GOODBYE
        while not (self.concentrator.settled and self.said) and time.monotonic() < until:
            await asyncio.sleep(0.02)       # acknowledgments come in by `readable` meanwhile
        self.streams.close()
        await runner.cleanup()

    def reload(self) -> None:
        async def again() -> None:
            try:
                await self.operations.reload()
            except Exception as error:      # a mistake in the file must not end anything
                logger.error("the configuration stays as it was: %s", error)
        self.reloading = self.loop.create_task(again())


def main() -> int:
    store = Store.from_environment()
    config = configuration.restore(store.read("config"))
    log.start(config.concentrator.log)
    if os.environ.get("HEADRACE_PROFILE"):
        return profiled(store, config, os.environ["HEADRACE_PROFILE"])
    asyncio.run(serve(store, config))
    return 0


async def serve(store: Store, config: Config) -> None:
    await Server(store, config).run()


def profiled(store: Store, config: Config, path: str) -> int:
    """Under cProfile, for whoever looks where control's time goes; the result lands in a file."""
    import cProfile
    profile: Any = cProfile.Profile()
    with contextlib.suppress(KeyboardInterrupt):
        profile.runcall(asyncio.run, serve(store, config))
    profile.dump_stats(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
