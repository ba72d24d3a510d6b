"""A TCP connection that goes on until it is told to stop; whoever receives checks each octet."""
from __future__ import annotations

import socket
import threading

from .place import Place

BLOCK = 1 << 16
PATTERN = bytes(range(256)) * 2 + bytes(reversed(range(251)))      # 763 octets: no power of two, so that a shift shows
LONG = PATTERN * (BLOCK // len(PATTERN) + 2)


class Stream:
    """From a namespace to an address where this process listens in another."""

    def __init__(self, place: Place, source: str, destination: str, address: str) -> None:
        with place.entered(destination):
            listener = socket.create_server((address, 0))
        with place.entered(source):
            self.sender = socket.socket()
        self.sender.settimeout(20)
        self.sender.connect(listener.getsockname())
        with listener:
            self.receiver, _ = listener.accept()
        self.receiver.settimeout(20)
        self.octets, self.stopping, self.error = 0, False, ""
        self.threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _guard(self, work) -> None:
        try:
            work()
        except (OSError, AssertionError) as error:
            self.error = self.error or f"{work.__name__}: {error!r}"

    def _send(self) -> None:
        at = 0
        while not self.stopping:
            at += self.sender.send(memoryview(LONG)[at % len(PATTERN):at % len(PATTERN) + BLOCK])
        self.sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while piece := self.receiver.recv(BLOCK):
            start = self.octets % len(PATTERN)
            assert piece == LONG[start:start + len(piece)], f"other octets than were sent, within {len(piece)} of {self.octets}"
            self.octets += len(piece)

    def stop(self) -> int:
        """Let what is under way arrive, and say how many octets came unharmed."""
        self.stopping = True
        for thread in self.threads:
            thread.join(25)
        self.sender.close()
        self.receiver.close()
        assert not self.error, self.error
        return self.octets
