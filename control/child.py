"""A process that the supervisor keeps alive: control or forwarder.

It runs in a session of its own with SIGINT ignored, so that Ctrl-C reaches the supervisor alone, without
privileges, and the kernel kills it when the supervisor dies. It comes back at once when it dies, and later and later
when it keeps dying.
"""
from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections import deque

from . import listener, privilege, store

PR_SET_PDEATHSIG = 1
OFTEN, WITHIN = 3, 10.0         # that many deaths within so many seconds are too many
SLOWEST = 10.0
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Child:
    def __init__(self, role: str, command: list[str], cores: set[int], hold: float = 0.0) -> None:
        self.role, self.command, self.cores = role, command, cores
        self.capabilities: frozenset[int] = frozenset()
        self.hold = hold                        # a test's setting: how long it stays dead
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.sock: socket.socket | None = None  # our end of its store socket
        self.ready = False
        self.due: float | None = 0.0            # when it is to be started
        self.deaths: deque[float] = deque(maxlen=OFTEN + 4)

    def start(self, inherited: list[int]) -> None:
        """Start it with a store socket of its own and the descriptors in inherited."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            listener.enlarge(sock, 1 << 20)
        parent, cores, capabilities = os.getpid(), self.cores, self.capabilities

        def prepare() -> None:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:          # the supervisor died before the line above
                os._exit(1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.sched_setaffinity(0, cores)
            privilege.keep(capabilities)
            privilege.no_more()

        environment = {**os.environ, store.VARIABLE: str(theirs.fileno())}
        environment.pop("NOTIFY_SOCKET", None)  # it is the supervisor that tells systemd
        with theirs:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                                            pass_fds=(theirs.fileno(), *inherited), preexec_fn=prepare)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.sock, self.ready, self.due = ours, False, None

    @property
    def running(self) -> bool:
        return self.process is not None

    def signal(self, signum: int) -> None:
        if self.process:
            self.process.send_signal(signum)

    def reap(self, now: float) -> str:
        """It ended: release what it had, and decide when it comes back. How it ended, in words."""
        assert self.process
        code = self.process.wait()
        self.release()
        self.deaths.append(now)
        often = sum(1 for death in self.deaths if now - death < WITHIN)
        self.due = now + self.hold + (0.0 if often < OFTEN else min(0.5 * 2 ** (often - OFTEN), SLOWEST))
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def release(self) -> None:
        os.close(self.pidfd)
        if self.sock:
            self.sock.close()
        self.process, self.sock, self.pidfd = None, None, -1
