"""TCP connections of a service on asyncio: listeners that the supervisor opened, octets in and out.

    accepted -> service.accept -> its number      octets -> service.receive      end -> service.closed
    service.outgoing(), by number -> the connection, or its end

A peer that does not read what it is sent is not read from any more, and one that lets too much pile up is cut off.
"""
from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from .address import Path, mapped

CHUNK = 4096            # octets that are read at a time, so that nobody holds up the others
UNREAD = 65536          # octets that may wait for a peer to read them
LINGER = 5.0            # seconds for what is left when a connection is closed
BACKLOG = 1024
# A peer whose machine is gone: asked after a minute, given up after another half
ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 90_000))


class Service(Protocol):
    """What has streams."""
    def accept(self, path: Path, now: float) -> int: ...
    def receive(self, connection: int, data: bytes, now: float) -> None: ...
    def closed(self, connection: int, now: float) -> None: ...
    def outgoing(self) -> list[tuple[int, bytes | None]]: ...


class Streams:
    """All connections of a service. `before` is called ahead of each input, `after` behind it."""

    def __init__(self, service: Service, before: Callable[[], None], after: Callable[[], None]) -> None:
        self.service, self.before, self.after = service, before, after
        self.streams: dict[int, Stream] = {}
        self.servers: list[asyncio.Server] = []
        self.buffer = bytearray(CHUNK)

    async def listen(self, fd: int, port: int) -> None:
        """Accept on a listening socket; data of what comes in there has this port."""
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_server(lambda: Stream(self, port), sock=socket.socket(fileno=fd), backlog=BACKLOG))

    def write(self) -> None:
        """Send what the service wants sent."""
        for number, octets in self.service.outgoing():
            stream = self.streams.get(number)
            if stream is not None:
                stream.write(octets)

    def close(self) -> None:
        """No more are accepted, and those that are left are cut off."""
        for server in self.servers:
            server.close()
        for stream in list(self.streams.values()):
            stream.transport.abort()


class Stream(asyncio.BufferedProtocol):
    """One connection. All share one buffer: what was read is used up before anything else is read."""

    __slots__ = ("number", "port", "streams", "transport")

    def __init__(self, streams: Streams, port: int) -> None:
        self.streams, self.port, self.number = streams, port, 0

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        sock = transport.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in ALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            path = Path(self.port, *end(sock.getsockname()), *end(sock.getpeername()))
        except OSError:             # it was reset before we came to it
            transport.abort()
            return
        transport.set_write_buffer_limits(high=UNREAD // 4)
        self.streams.before()
        self.number = self.streams.service.accept(path, time.monotonic())
        if not self.number:
            transport.abort()
            return
        self.streams.streams[self.number] = self
        self.streams.after()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.streams.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.number:
            self.streams.before()
            self.streams.service.receive(self.number, bytes(memoryview(self.streams.buffer)[:nbytes]), time.monotonic())
            self.streams.after()

    def connection_lost(self, error: Exception | None) -> None:
        if self.number:
            self.streams.before()
            del self.streams.streams[self.number]
            self.streams.service.closed(self.number, time.monotonic())
            self.streams.after()

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def write(self, octets: bytes | None) -> None:
        transport = self.transport
        if octets is None:
            transport.close()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)
        elif not transport.is_closing():        # cut off, or the peer has sent its last: asyncio would complain, write by write
            transport.write(octets)
            if transport.get_write_buffer_size() > UNREAD:
                transport.abort()


def end(name: tuple[Any, ...]) -> tuple[bytes, int]:
    """An address and port as paths have them."""
    family = socket.AF_INET6 if ":" in name[0] else socket.AF_INET
    return mapped(socket.inet_pton(family, name[0])), name[1]
