"""A bridged session's port: a TAP of its own in a bridge of the kernel's. The supervisor's part of it, and the forwarder's.

    control      open("tap", ...)  ->  supervisor   make, set up, put into the bridge, keep; and tell ..
    forwarder    Ports             <-               .. by taps/forwarder, or by what is kept, when it starts anew
    control      drop(name)        ->  supervisor   remove the interface: out of the bridge, and the worker lets go of it

The name says whose it is: tap/<worker>/<number>/<slot>/<generation>. The interface is called hrb0, hrb1 ...; its address begins with FE,
so that a bridge without an address of its own does not take it over from a port that goes again.
"""
from __future__ import annotations

import fcntl
import logging
import os
import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .store import Store, StoreError
from .tun import IFF_NO_PI, TUNSETIFF, SetupError

log = logging.getLogger("headrace.tap")

IFF_TAP = 0x0002
TUNGETIFF = 0x800454D2
PATIENCE = 2.0          # seconds that a number may still be another session's, which is over
AGAIN = 0.02
IFREQ = struct.Struct("16sH22x")


def open_tap(bridge: str, cost: int | None, priority: int | None, learning: bool, isolated: bool) -> int:
    """Make an interface and put it into a bridge; its descriptor. SetupError: the sentence says why not."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(b"hrb%d", IFF_TAP | IFF_NO_PI))
        name = interface_of(fd)
        with suppress(OSError):         # the kernel has nothing to say there; it may have no IPv6 at all
            Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6").write_text("1")
        with IPRoute() as ip:
            masters = ip.link_lookup(ifname=bridge)
            if not masters:
                raise SetupError(f"there is no interface {bridge}")
            (index,) = ip.link_lookup(ifname=name)
            address = ":".join(f"{octet:02x}" for octet in (0xFE, *random.randbytes(5)))
            ip.link("set", index=index, address=address)
            ip.link("set", index=index, master=masters[0])
            settings = {"cost": cost, "priority": priority, "learning": int(learning), "isolated": int(isolated)}
            ip.brport("set", index=index, **{key: value for key, value in settings.items() if value is not None})
            ip.link("set", index=index, state="up")
    except NetlinkError as error:
        os.close(fd)
        raise SetupError(f"{bridge} takes no port: {os.strerror(error.code)}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def interface_of(fd: int) -> str:
    """What a TAP is called; OSError when it was deleted."""
    name: bytes = IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))[0]
    return name.rstrip(b"\0").decode()


def remove(fd: int) -> None:
    """Delete the interface of a TAP, whoever still holds a descriptor of it."""
    with suppress(OSError, NetlinkError, IndexError), IPRoute() as ip:
        ip.link("del", index=ip.link_lookup(ifname=interface_of(fd))[0])


def announce(sock: socket.socket, name: str, fd: int) -> None:
    """Tell the forwarder of a port."""
    sock.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))], socket.MSG_DONTWAIT)


class Ports:
    """The forwarder's side: ports that it is told of go to their workers, in a thread of their own."""

    def __init__(self, store: Store, forwarder: Any) -> None:
        self.forwarder = forwarder
        self.sock = socket.socket(fileno=store.get("taps/forwarder"))
        self.pending: list[tuple[float, str, int]] = []         # until when, whose, and the descriptor
        while self.take(socket.MSG_DONTWAIT):
            pass                # what a predecessor was not told is kept
        for _, _, fd in self.pending:
            os.close(fd)
        self.pending = []
        for name in store.names("tap/"):
            with suppress(StoreError):      # control dropped it meanwhile
                self.pending.append((time.monotonic() + PATIENCE, name, store.get(name)))
        self.plug()

    def start(self) -> None:
        threading.Thread(target=self.run, name="ports", daemon=True).start()

    def run(self) -> None:
        while True:
            if select.select([self.sock], [], [], AGAIN if self.pending else None)[0] and not self.take():
                return          # the supervisor is gone
            self.plug()

    def take(self, flags: int = 0) -> bool:
        """One that we are told of; False: there is none."""
        with suppress(BlockingIOError):
            # not socket.recv_fds: it takes flags, and leaves them out
            data, rights, _, _ = self.sock.recvmsg(200, socket.CMSG_SPACE(4), flags | socket.MSG_CMSG_CLOEXEC)
            self.pending += [(time.monotonic() + PATIENCE, data.decode(), *struct.unpack("i", fd)) for _, _, fd in rights]
            return bool(data)
        return False

    def plug(self) -> None:
        """All that have a place by now."""
        waiting, self.pending = self.pending, []
        for until, name, fd in waiting:
            worker, number, slot, generation = map(int, name.split("/")[1:])
            if self.forwarder.plug(worker, number, slot, generation, fd):
                continue
            if time.monotonic() < until:
                self.pending.append((until, name, fd))
            else:
                os.close(fd)    # told twice, most likely: it is kept, and was announced too
                log.debug("%s has no place", name)
