"""The supervisor: `headrace serve`. It has no protocol in it.

    set up    lock, undo of what a killed predecessor left, TUN, sockets, tables, kernel settings
    run       start forwarder and control, answer their store requests, restart either alone
    stop      control says goodbye, the forwarder ends, the interface goes, settings come back

It holds every descriptor that must outlive its children (store.py lists the names). One thread, one
loop over a selector: children by pidfd, their store sockets, signals by a wake-up socket.

In the run directory: lock, journal (journal.py), tables, api.sock (control's), and `pids`, a JSON
object with the process of each role. HEADRACE_FORWARDER_CPUS and HEADRACE_CONTROL_CPUS (core numbers)
and HEADRACE_HOLD_CONTROL (seconds that a dead control stays dead) are settings of benchmarks and tests.
"""
from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import config as configuration
from . import listener, privilege, store, tap, tun
from .bypass import Bypass
from .child import OFTEN, Child
from .kernel import Kernel
from .log import set_level
from .settings import Config
from .tun import SetupError

log = logging.getLogger("headrace.supervisor")

COMMANDS = {role: [sys.executable, "-m", f"headrace.control.{module}"]
            for role, module in (("forwarder", "forwarder"), ("control", "server"))}
PATIENCE = {"control": 6.0, "forwarder": 2.0}   # how long each may take to end
PUNT_BUFFER = 4 << 20
DYING = 5.0             # how long the children of a killed supervisor may take to die
FIXED = ("interface", "workers", "max_sessions", "run_dir", "offload", "spin", "reorder_window", "reorder_time", "forwarding",
         "masquerade")    # until a restart
FIXED_SERVER = ("enabled", "listen")
FIXED_PPTP = (*FIXED_SERVER, "gre_transmit")
FIXED_PPPOE = ("interfaces",)


def table_file(path: Path, max_sessions: int, workers: int) -> None:
    from ..fastpath import table  # type: ignore[attr-defined]  # an extension module, and compiled
    table.create(path, max_sessions=max_sessions, workers=workers)


def door_of(path: Path) -> Callable[[bool], None]:
    """By which the workers learn whether frames may pass the kernel's output by."""
    from ..fastpath import table
    with open(path, "r+b") as file:
        return table.Tables(file.fileno()).allow_bypass


class Supervisor:
    def __init__(self, config: Config, file: Path, commands: dict[str, list[str]] = COMMANDS,
                 tables: Callable[[Path, int, int], None] = table_file) -> None:
        own = config.concentrator
        self.workers = tun.workers(own)
        self.config = self.counted(config)
        self.file, self.run_dir, self.make_tables = file.absolute(), own.run_dir, tables
        cores = os.sched_getaffinity(0)
        self.own_cores = tun.pinned("CONTROL") or cores
        hold = float(os.environ.get("HEADRACE_HOLD_CONTROL") or 0)
        self.children = [Child("forwarder", commands["forwarder"], tun.pinned("FORWARDER") or cores),
                         Child("control", commands["control"], self.own_cores, hold)]
        self.keeper = store.Keeper({"udp": self.open_udp, "tcp": self.open_tcp, "gre": self.open_gre,
                                    "ethernet": self.open_ethernet, "tap": self.open_tap}, self.accept, self.dropped)
        self.kernel = Kernel(self.run_dir)
        self.bypass: Bypass | None = None
        self.selector = selectors.DefaultSelector()
        self.lock = -1
        self.announced = False
        self.ending: list[Child] = []           # who is to be ended next, in order; the first has its signal
        self.patience = 0.0
        self.failure: str | None = None
        self.stopping = False

    def run(self) -> int:
        """All of it; the exit status. SetupError when it cannot start."""
        self.take_lock()
        try:
            os.environ["HEADRACE_CONFIG"] = str(self.file)      # a path, for reloads; what is in it goes through the store
            os.sched_setaffinity(0, self.own_cores)
            self.catch_signals()
            self.set_up()
            self.drop_privileges()
            self.loop()
        finally:
            self.tear_down()
        if self.failure:
            raise SetupError(self.failure)
        return 0

    # -- set up --------------------------------------------------------------------------------

    def take_lock(self) -> None:
        """One concentrator a run directory. The children hold the lock too: it is free when the last of them is gone."""
        try:
            self.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.lock = os.open(self.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = ": headrace must be started by root" if error.errno in (errno.EACCES, errno.EPERM) else f": {error.strerror}"
            raise SetupError(f"the run directory {self.run_dir} cannot be used{hint}")
        until = time.monotonic() + DYING
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(self.lock, 20, 0).decode().strip()
                if (owner and alive(int(owner))) or time.monotonic() > until:
                    raise SetupError(f"headrace is running already with the run directory {self.run_dir} (process {owner}); stop it first")
                time.sleep(0.02)
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, str(os.getpid()).encode(), 0)

    def set_up(self) -> None:
        """Open everything, then change the kernel's settings: what fails leaves nothing behind."""
        own, l2tp, pptp = self.config.concentrator, self.config.server.l2tp, self.config.server.pptp
        if self.kernel.journal.path.exists():
            log.warning("the last headrace here was killed; putting back what it changed")
            until = time.monotonic() + DYING
            while tun.exists(own.interface) and time.monotonic() < until:
                time.sleep(0.02)                # its children are being killed, and the interface goes with them
            for line in self.kernel.undo():
                log.info("%s", line)
        raise_limit()
        queues = tun.open_queues(own.interface, self.workers)
        for number, fd in enumerate(queues):
            self.keeper.keep(f"tun/{own.interface}/{number}", fd)
        in_force = tun.set_offload(queues[0], own.offload)
        udp = in_force != "none" and own.offload != "none" and listener.segmentation()
        log.info("offloads in force: %s on %s, %s on UDP", in_force, own.interface, "segmentation and GRO" if udp else "none")
        self.keeper.keep("offload", store.memory("offload", json.dumps({"tun": in_force, "udp": udp}).encode()))
        if l2tp.enabled:
            for listen in l2tp.listen:
                listener.probe(listen)
            for listen in l2tp.listen:
                for name, fd in self.open_udp(listen):
                    self.keeper.keep(name, fd)
        if pptp.enabled:
            for listen in pptp.listen:
                for name, fd in self.open_tcp(listen):
                    self.keeper.keep(name, fd)
            for address in listener.gre_addresses(pptp.listen):
                for name, fd in self.open_gre(address):
                    self.keeper.keep(name, fd)
            if pptp.gre_transmit != "raw":
                for number in range(self.workers):
                    self.keeper.keep(f"frames/{number}", listener.open_frames().detach())
        for interface in self.config.server.interfaces:
            for name, fd in self.open_ethernet(interface):
                self.keeper.keep(name, fd)
        for number in range(self.workers):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            for sock, side in zip(pair, ("forwarder", "control"), strict=True):
                listener.enlarge(sock, PUNT_BUFFER)
                self.keeper.keep(f"punt/{number}/{side}", sock.detach())
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in pair:
            listener.enlarge(sock, PUNT_BUFFER)
        self.taps = pair[0]
        self.keeper.keep("taps/forwarder", pair[1].detach())
        path = self.run_dir / "tables"
        path.unlink(missing_ok=True)
        records = 2 if any(serving.joins for _, serving in self.config.server.enabled()) else 1     # a session may be a link and a bundle
        self.make_tables(path, records * own.max_sessions, self.workers)
        path.chmod(0o600)
        self.keeper.keep("tables", os.open(path, os.O_RDWR | os.O_CLOEXEC))
        self.keeper.keep("config", store.memory("config", configuration.dump(self.config)))
        if pptp.enabled and pptp.gre_transmit != "raw":
            self.bypass = Bypass(pptp.gre_transmit, door_of(path))
            for sock in self.bypass.sockets():
                self.selector.register(sock, selectors.EVENT_READ, self.bypass.changed)
        self.kernel.adopt(own.interface)
        self.kernel.apply(self.config)
        if own.forwarding:
            self.kernel.forward()
        if own.masquerade:
            self.kernel.masquerade(own.masquerade, self.config)

    def drop_privileges(self) -> None:
        """Everything is open: keep what reloads and the undoing need."""
        files = frozenset[int]()
        closed = privilege.foreign((Path(sys.executable), Path(__file__), self.file), (self.run_dir,))
        if closed:
            log.info("%s belongs to another user: headrace keeps the right to pass over file permissions", closed)
            files = frozenset({privilege.DAC_OVERRIDE})
        for child in self.children:
            child.capabilities = files
        privilege.keep(privilege.SUPERVISOR | files)

    def open_udp(self, listen: str) -> list[tuple[str, int]]:
        """The store's open("udp"): a socket for each worker, then the express of each."""
        sockets = listener.open_listener(listen, self.workers, self.config.concentrator.offload != "none")
        return [(f"udp/{listen}/{number}", sock.detach()) for number, sock in enumerate(sockets)]

    def open_tcp(self, listen: str) -> list[tuple[str, int]]:
        """The store's open("tcp")."""
        return [(f"tcp/{listen}", listener.open_tcp(listen).detach())]

    def open_gre(self, address: str) -> list[tuple[str, int]]:
        """The store's open("gre"): a raw socket for each worker."""
        return [(f"gre/{address}/{number}", sock.detach()) for number, sock in enumerate(listener.open_gre(address, self.workers))]

    def open_ethernet(self, interface: str) -> list[tuple[str, int]]:
        """The store's open("ethernet"): a packet socket for each worker; the interfaces have their readers in turn."""
        interfaces = self.config.server.interfaces
        reader = interfaces.index(interface) % self.workers if interface in interfaces else 0
        return [(f"ethernet/{interface}/{number}", sock.detach())
                for number, sock in enumerate(listener.open_ethernet(self.workers, reader))]

    def open_tap(self, name: str, **port: Any) -> list[tuple[str, int]]:
        """The store's open("tap"): a port of a bridge, of which the forwarder is told."""
        fd = tap.open_tap(**port)
        try:
            tap.announce(self.taps, name, fd)
        except OSError as error:
            os.close(fd)
            raise SetupError(f"the forwarder hears of no more ports: {error.strerror}")
        return [(name, fd)]

    def dropped(self, name: str, fd: int) -> None:
        """A port's interface goes at once: who closes its last descriptor would have to wait for the kernel, and that would be a worker."""
        if name.startswith("tap/"):
            tap.remove(fd)

    def counted(self, config: Config) -> Config:
        """The children learn how many workers there are, not how that was said."""
        return config.model_copy(update={"concentrator": config.concentrator.model_copy(update={"workers": self.workers})})

    def accept(self, name: str, fd: int) -> int:
        """A child put something. A new configuration takes effect here as far as the kernel is concerned."""
        if name != "config":
            return fd
        old, raw = self.config, configuration.restore(store.contents(os.dup(fd)))
        new = self.counted(raw) if tun.workers(raw.concentrator) == self.workers else raw
        servers = [("server.l2tp", old.server.l2tp, new.server.l2tp, FIXED_SERVER),
                   ("server.pptp", old.server.pptp, new.server.pptp, FIXED_PPTP), ("server.pppoe", old.server, new.server, FIXED_PPPOE)]
        for table, was, now, keys in [("concentrator", old.concentrator, new.concentrator, FIXED), *servers]:
            for key in keys:
                if getattr(was, key) != getattr(now, key):
                    raise SetupError(f"{table}.{key.replace('_', '-')} cannot change while headrace runs; restart it")
        self.kernel.apply(new)
        if new.concentrator.masquerade:
            self.kernel.masquerade(new.concentrator.masquerade, new)
        set_level(new.concentrator.log)
        self.config = new
        return store.memory("config", configuration.dump(new))

    # -- run -----------------------------------------------------------------------------------

    def catch_signals(self) -> None:
        self.woken, wake = socket.socketpair()
        for sock in (self.woken, wake):
            sock.setblocking(False)
        self.wake = wake                        # the interpreter has its number only
        signal.set_wakeup_fd(wake.fileno())
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        self.selector.register(self.woken, selectors.EVENT_READ, self.on_signal)

    def loop(self) -> None:
        """Until stop() has ended every child."""
        while not (self.stopping and not self.ending):
            now = time.monotonic()
            for child in self.children:
                if child.due is not None and child.due <= now and not self.stopping:
                    self.start(child)
            times = [c.due for c in self.children if c.due is not None and not self.stopping]
            times += [self.patience] if self.ending else []
            timeout = max(min(times) - time.monotonic(), 0) if times else None
            for key, _ in self.selector.select(timeout):
                key.data()
            if self.ending and time.monotonic() >= self.patience:
                log.warning("%s does not end; it is killed", self.ending[0].role)
                self.ending[0].signal(signal.SIGKILL)
                self.patience = time.monotonic() + PATIENCE["forwarder"]

    def start(self, child: Child) -> None:
        child.start([self.lock])
        assert child.sock and child.process
        self.selector.register(child.pidfd, selectors.EVENT_READ, lambda: self.on_exit(child))
        self.selector.register(child.sock, selectors.EVENT_READ, lambda: self.on_request(child))
        pids = {c.role: c.process.pid for c in self.children if c.process}
        new = self.run_dir / "pids.new"
        new.write_text(json.dumps({"supervisor": os.getpid(), **pids}) + "\n")
        new.rename(self.run_dir / "pids")

    def on_request(self, child: Child) -> None:
        if child.sock and not self.keeper.serve(child.sock, lambda: self.on_ready(child)):
            self.selector.unregister(child.sock)
            child.sock.close()
            child.sock = None

    def on_ready(self, child: Child) -> None:
        child.ready = True
        if not self.announced and all(c.ready for c in self.children):
            self.announced = True
            notify("READY=1")
            log.info("ready")

    def on_exit(self, child: Child) -> None:
        self.selector.unregister(child.pidfd)
        if child.sock:
            self.selector.unregister(child.sock)
        now = time.monotonic()
        how = child.reap(now)
        if self.stopping:
            self.end_next()
            return
        if not self.announced and len(child.deaths) >= OFTEN:
            self.failure = f"{child.role} {how}, {OFTEN} times before it was ready; its messages are above"
            self.stop()
            return
        wait = child.due - now if child.due else 0
        log.error("%s %s; it is started again%s", child.role, how, f" in {wait:.1f} s" if wait else "")

    # -- stop ----------------------------------------------------------------------------------

    def on_signal(self) -> None:
        for signum in self.woken.recv(64):
            if signum == signal.SIGHUP:
                log.info("SIGHUP: control reads %s again", self.file)
                for child in self.children:
                    if child.role == "control":
                        child.signal(signal.SIGHUP)
            elif signum in (signal.SIGINT, signal.SIGTERM):
                self.stop()

    def stop(self) -> None:
        """Control first, so that the forwarder can carry its goodbyes. A second signal does not wait for them."""
        if self.stopping:
            self.patience = 0.0
            return
        self.stopping = True
        notify("STOPPING=1")
        log.info("stopping")
        self.ending = [c for role in ("control", "forwarder") for c in self.children if c.role == role]
        self.signal_first()

    def end_next(self) -> None:
        """Somebody ended: go on when it was the one we waited for."""
        if self.ending and not self.ending[0].running:
            self.ending.pop(0)
            self.signal_first()

    def signal_first(self) -> None:
        while self.ending and not self.ending[0].running:
            self.ending.pop(0)
        if self.ending:
            self.ending[0].signal(signal.SIGTERM)
            self.patience = time.monotonic() + PATIENCE[self.ending[0].role]

    def tear_down(self) -> None:
        """Whatever happened: no child, no interface, no changed setting is left."""
        for child in self.children:
            if child.running:
                child.signal(signal.SIGKILL)
                child.reap(time.monotonic())
        self.keeper.close()
        if self.bypass:
            self.bypass.close()
        for line in self.kernel.undo():
            log.info("%s", line)
        for name in ("tables", "pids", "api.sock"):
            (self.run_dir / name).unlink(missing_ok=True)
        os.close(self.lock)
        if self.stopping:
            log.info("stopped")


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def raise_limit() -> None:
    """As many descriptors as we may have, for us and for the children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in ((1 << 20, 1 << 20), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], soft), max(limit[1], hard)))
            return
        except (ValueError, OSError):
            continue


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), if it asked."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", state, error)
