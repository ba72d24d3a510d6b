"""Three network namespaces, made for one test in a few milliseconds.

    far 10.9.0.2, .3 ---- 10.9.0.1, .9 concentrator 10.66.0.1 ---- 10.66.0.2 lan
    (our LACs)  fd09::2   fd09::1, ::9 (hr0)

It answers to what peers.concentrator asks of a peers.lab.Lab, so that the same Concentrator runs in both.
"""
from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from peers.root import sh

NUMBER = itertools.count()
CLONE_NEWNET = 0x40000000
CONCENTRATOR, SECOND, FAR = "10.9.0.1", "10.9.0.9", "10.9.0.2"
CONCENTRATOR6, SECOND6, FAR6 = "fd09::1", "fd09::9", "fd09::2"
LAN = "10.66.0.2"
libc = ctypes.CDLL(None, use_errno=True)


class Place:
    def __init__(self) -> None:
        self.netns = f"hr{os.getpid()}-{next(NUMBER)}"
        self.far, self.lan = f"{self.netns}-far", f"{self.netns}-lan"
        self.made: list[str] = []
        try:
            for name in (self.netns, self.far, self.lan):
                sh("ip", "netns", "add", name)
                self.made.append(name)
            self.ip(self.netns, f"""
link set lo up
link add wire type veth peer name wire netns {self.far}
link add lan type veth peer name lan netns {self.lan}
addr add {CONCENTRATOR}/16 dev wire
addr add {SECOND}/16 dev wire
addr add {CONCENTRATOR6}/64 dev wire nodad
addr add {SECOND6}/64 dev wire nodad
addr add 10.66.0.1/24 dev lan
link set wire up
link set lan up
""")
            self.ip(self.far, f"""
link set lo up
addr add {FAR}/16 dev wire
addr add 10.9.0.3/16 dev wire
addr add {FAR6}/64 dev wire nodad
link set wire up
""")
            self.ip(self.lan, f"""
link set lo up
addr add {LAN}/24 dev lan
link set lan up
route add default via 10.66.0.1
""")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def ip(netns: str, lines: str) -> None:
        """Commands of ip, one a line."""
        done = subprocess.run(["ip", "-n", netns, "-b", "-"], input=lines.strip() + "\n", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def on_host(self, netns: str, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in one of the namespaces."""
        return subprocess.run(["ip", "netns", "exec", netns, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=check, timeout=timeout)

    @contextlib.contextmanager
    def entered(self, netns: str) -> Iterator[None]:
        """This thread is inside: a socket or a TUN that is opened here stays there."""
        here, there = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/proc/thread-self/ns/net", f"/run/netns/{netns}"))
        try:
            assert libc.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert libc.setns(here, CLONE_NEWNET) == 0
            os.close(here)
            os.close(there)

    def udp(self, netns: str, address: str, port: int = 0, buffer: int = 8 << 20) -> socket.socket:
        """A bound UDP socket in a namespace; a link-local address with its interface, fe80::2%wire."""
        with self.entered(netns):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            scope = socket.if_nametoindex(address.partition("%")[2]) if "%" in address else 0
        for option in (32, 33):         # SO_SNDBUFFORCE, SO_RCVBUFFORCE
            sock.setsockopt(socket.SOL_SOCKET, option, buffer)
        sock.bind((address.partition("%")[0], port, 0, scope) if scope else (address, port))
        return sock

    def strangers(self) -> dict[int, str]:
        """The processes in the concentrator's namespace: pid to command line."""
        found = {}
        for pid in map(int, sh("ip", "netns", "pids", self.netns).split()):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    def close(self) -> None:
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        self.made = []
