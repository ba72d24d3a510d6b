"""Streams of the real kernel between a service and its peers: who resets, does not read, or leaves, and what is said to who is gone."""
import asyncio
import contextlib
import logging
import socket
import struct

from headrace.control.streams import UNREAD, Streams

LINE = bytes(148)
FLOOD = 3000


class Echoes:
    """A service that says back what it hears, and notes who came and went; "!" is answered by more than anybody keeps for a peer, and
    then by goodbye."""

    def __init__(self):
        self.number, self.open, self.said, self.refuse = 0, {}, [], False

    def accept(self, path, now):
        if self.refuse:
            return 0
        self.number += 1
        self.open[self.number] = path
        return self.number

    def receive(self, connection, data, now):
        if data == b"!":
            self.said += [(connection, LINE)] * FLOOD
            self.said.append((connection, None))
        elif data == b"defect":
            raise RuntimeError("a defect")
        else:
            self.said.append((connection, data))

    def closed(self, connection, now):
        del self.open[connection]

    def outgoing(self):
        said, self.said = self.said, []
        return said


def served(live):
    """Run it with a service, its streams, and a way to dial them."""
    async def run():
        service = Echoes()
        streams = Streams(service, lambda: None, lambda: streams.write())
        listener = socket.create_server(("127.0.0.1", 0))
        there = listener.getsockname()
        await streams.listen(listener.detach(), 7)

        def dial(room=0):
            sock = socket.socket()
            if room:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            sock.connect(there)
            sock.setblocking(False)
            return sock
        await live(service, streams, dial)
        streams.close()
        await until(lambda: not service.open)
    asyncio.run(asyncio.wait_for(run(), 20))


async def until(done):
    while not done():
        await asyncio.sleep(0.001)


def test_octets_in_and_out():
    async def live(service, streams, dial):
        loop = asyncio.get_running_loop()
        with dial() as sock:
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 100) == b"hello"
            (path,) = service.open.values()
            assert path.port == 7 and path.peer[-4:] == path.local[-4:] == b"\x7f\0\0\1" and path.peer_port == sock.getsockname()[1]
            sock.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(sock, 100) == b""
        await until(lambda: not service.open)
        service.refuse = True
        with dial() as sock:
            assert await loop.sock_recv(sock, 100) == b"" and not service.open
    served(live)


def test_who_resets_is_gone():
    """Before he was accepted, after that, and with something to read from him."""
    async def live(service, streams, dial):
        for n in range(30):
            with dial() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if n % 3:
                    came = service.number
                    await until(lambda came=came: service.number > came)
                if n % 3 == 2:
                    sock.send(LINE)
        await until(lambda: service.number == 20 and not service.open and not streams.streams)
    served(live)


def test_who_does_not_read_is_not_read_from():
    async def live(service, streams, dial):
        with dial(2048) as sock:
            await until(lambda: streams.streams)
            (stream,) = streams.streams.values()
            while stream.transport.is_reading():
                with contextlib.suppress(BlockingIOError):
                    sock.send(LINE * 20)
                await asyncio.sleep(0)
            assert 0 < stream.transport.get_write_buffer_size() < UNREAD
            while not stream.transport.is_reading():
                await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
    served(live)


def test_who_lets_too_much_pile_up_is_cut_off_without_a_word(caplog):
    """More is still on its way to him then."""
    async def live(service, streams, dial):
        with dial(2048) as sock:
            await until(lambda: streams.streams)
            (stream,) = streams.streams.values()
            stream.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.send(b"!")
            await until(lambda: not service.open)
    with caplog.at_level(logging.WARNING):
        served(live)
    assert caplog.records == []


def test_a_defect_ends_one_connection(caplog):
    async def live(service, streams, dial):
        loop = asyncio.get_running_loop()
        with dial() as sock, dial() as other:
            await until(lambda: len(service.open) == 2)
            sock.send(b"defect")
            await until(lambda: len(service.open) == 1)
            other.send(b"hello")
            assert await loop.sock_recv(other, 100) == b"hello"
    served(live)
    assert "a defect" in caplog.text
