"""The network of the peer tests: three places, and where what runs.

    lan 10.66.0.2 ---- 10.66.0.1 concentrator 10.9.0.1 ---- bridge in the guest ---- clients 10.9.0.2, .3, ...
    (namespace)        (namespace, hr0)       fd09::1       (fd09::2)                (a namespace each, in the guest)
    fd66::2            fd66::1

One lab serves a whole pytest worker: one guest, booted once. Everything in it is named after this
process, so that workers and leftovers of others do not meet.
"""
from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from peers.guest import Guest, Nic
from peers.root import sh

T = TypeVar("T")
PASSWORD = "Gate-5-opens"       # of every user; nothing may print it
HERE = Path(__file__).resolve().parent
CONCENTRATOR, CONCENTRATOR6, LAN, LAN6 = "10.9.0.1", "fd09::1", "10.66.0.2", "fd66::2"


class TookTooLong(AssertionError):
    """What was waited for did not happen in time."""


def until(what: str, condition: Callable[[], T], seconds: float = 10, pause: float = 0.05) -> T:
    """The condition's first true value; TookTooLong after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TookTooLong(f"not within {seconds} s: {what}")
        time.sleep(pause)
    return value


class Lab:
    def __init__(self) -> None:
        self.netns, self.lan = f"hr{os.getpid()}", f"hr{os.getpid()}-lan"
        self.numbers = itertools.count(2)
        self.guest = Guest([Nic("peer0", f"{CONCENTRATOR}/16", mtu=1508)], netns=self.netns)
        self.undo: list[tuple[str, ...]] = []
        try:
            sh("ip", "netns", "add", self.lan)
            self.undo.append(("ip", "netns", "del", self.lan))
            sh("ip", "link", "add", "lan0", "netns", self.netns, "type", "veth", "peer", "name", "lan1", "netns", self.lan)
            sh("ip", "-n", self.netns, "link", "set", "peer0", "mtu", "1500")      # but for who tests baby jumbo frames
            sh("ip", "-n", self.netns, "addr", "add", f"{CONCENTRATOR6}/64", "dev", "peer0", "nodad")
            sh("ip", "-n", self.netns, "addr", "add", "10.66.0.1/24", "dev", "lan0")
            sh("ip", "-n", self.netns, "link", "set", "lan0", "up")
            sh("ip", "-n", self.lan, "link", "set", "lo", "up")
            sh("ip", "-n", self.lan, "addr", "add", f"{LAN}/24", "dev", "lan1")
            sh("ip", "-n", self.lan, "link", "set", "lan1", "up")
            sh("ip", "-n", self.lan, "route", "add", "default", "via", "10.66.0.1")
            sh("ip", "-n", self.netns, "addr", "add", "fd66::1/64", "dev", "lan0", "nodad")
            sh("ip", "-n", self.lan, "addr", "add", f"{LAN6}/64", "dev", "lan1", "nodad")
            sh("ip", "-n", self.lan, "route", "add", "default", "via", "fd66::1")
            self.guest.run("ip link add br0 type bridge && ip link set vec0 master br0 && ip link set br0 up\n"
                           "ip addr add fd09::2/64 dev br0 nodad && echo lock >/etc/ppp/options").check()
        except BaseException:
            self.close()
            raise

    def on_host(self, netns: str, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in a namespace of the host."""
        return subprocess.run(["ip", "netns", "exec", netns, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=check, timeout=timeout)

    def strangers(self) -> dict[int, str]:
        """The processes in the concentrator's namespace that are not the guest's: pid to command line."""
        found = {}
        for pid in map(int, sh("ip", "netns", "pids", self.netns).split()):
            try:
                if self.guest.process is None or os.getsid(pid) != self.guest.process.pid:
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (ProcessLookupError, FileNotFoundError):
                continue
        return found

    def close(self) -> None:
        self.guest.close()
        for argv in reversed(self.undo):
            subprocess.run(argv, stderr=subprocess.DEVNULL)
        self.undo = []
