"""The store of file descriptors: the supervisor keeps them, its children ask for them.

A SEQPACKET socket to each child carries one JSON object a message, with a descriptor by SCM_RIGHTS
where there is one. Verbs: put(name) with a descriptor, get(name), drop(name), open(kind, arguments),
names(prefix), ready. An answer is {} or {"error": sentence}.

    tables                       the tables file
    config                       the validated configuration, JSON (config.restore)
    offload                      what took effect, JSON
    tun/<interface>/<queue>      a queue of a TUN
    udp/<listen>/<worker>        a socket of a listen address, such as udp/0.0.0.0:1701/0
    tcp/<listen>                 one on which connections come in, such as tcp/0.0.0.0:1723
    gre/<address>/<worker>       a raw socket of GRE to and from a local address, such as gre/0.0.0.0/0
    ethernet/<interface>/<worker> a packet socket of PPPoE's, bound to its interface by control while there is one
    tap/<worker>/<number>/<slot>/<generation>   a bridged session's port (tap.py)
    taps/forwarder               where the forwarder hears of them
    punt/<worker>/forwarder      the two ends of the punt channel
    punt/<worker>/control
"""
from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable
from typing import Any

VARIABLE = "HEADRACE_STORE"
MESSAGE = 1 << 18


class StoreError(Exception):
    """The supervisor's answer, when it is no."""


class Store:
    """A child's end. Calls block until the supervisor answered, which it does at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def from_environment(cls) -> Store:
        number = os.environ.get(VARIABLE)
        if number is None:
            raise SystemExit("headrace: this is a part of headrace that `headrace serve` starts; it does not run alone")
        os.set_inheritable(int(number), False)
        return cls(socket.socket(fileno=int(number)))

    def get(self, name: str) -> int:
        """A descriptor of our own for what name holds; the caller closes it."""
        return self._fd("get", name=name)

    def put(self, name: str, fd: int) -> None:
        """Have fd kept under name, in place of what was there. The caller's descriptor stays the caller's.

        What is put under "config" is in force: the supervisor brings addresses and routes in line with it.
        """
        self._ask([fd], "put", name=name)

    def drop(self, name: str) -> None:
        """Forget name and close what it held."""
        self._ask([], "drop", name=name)

    def open(self, kind: str, **arguments: Any) -> list[str]:
        """Have the supervisor open something, with its privileges; the names it keeps it under.

        kind "udp": listen="0.0.0.0:1701", a socket for each worker; "tcp": listen="0.0.0.0:1723"; "gre": address="0.0.0.0", a socket
        for each worker; "ethernet": interface="eth1", likewise; "tap": what tap.open_tap says, and the name.
        """
        return self._ask([], "open", kind=kind, arguments=arguments)[0]["names"]

    def names(self, prefix: str = "") -> list[str]:
        """What there is."""
        return self._ask([], "names", prefix=prefix)[0]["names"]

    def ready(self) -> None:
        """Say that this child is up."""
        self._ask([], "ready")

    def read(self, name: str) -> bytes:
        """All that the memory file under name holds."""
        return contents(self.get(name))

    def _fd(self, verb: str, **request: Any) -> int:
        _, fds = self._ask([], verb, **request)
        return fds[0]

    def _ask(self, fds: list[int], verb: str, **request: Any) -> tuple[Any, list[int]]:
        socket.send_fds(self.sock, [json.dumps({"verb": verb, **request}).encode()], fds)
        data, received, _, _ = socket.recv_fds(self.sock, MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise StoreError("the supervisor is gone")
        answer = json.loads(data)
        if "error" in answer:
            raise StoreError(answer["error"])
        return answer, list(received)


class Keeper:
    """The supervisor's side: what is kept, and the answers to each verb.

    `openers` are the kinds of open: each returns (name, descriptor) pairs. `accept` sees what a child
    puts, before the child has its answer, and returns what is kept; its exception is the answer. `dropped`
    sees what a child dropped, when the child has its answer and before that is closed.
    """

    def __init__(self, openers: dict[str, Callable[..., list[tuple[str, int]]]] | None = None,
                 accept: Callable[[str, int], int] = lambda name, fd: fd,
                 dropped: Callable[[str, int], None] = lambda name, fd: None) -> None:
        self.kept: dict[str, int] = {}
        self.openers = openers or {}
        self.accept, self.dropped = accept, dropped
        self.leaving: list[tuple[str, int]] = []        # what the last request dropped

    def keep(self, name: str, fd: int) -> None:
        old = self.kept.get(name)
        self.kept[name] = fd
        if old is not None:
            os.close(old)

    def close(self) -> None:
        while self.kept:
            os.close(self.kept.popitem()[1])

    def serve(self, sock: socket.socket, ready: Callable[[], None]) -> bool:
        """Answer one request; False when the child has closed its end."""
        try:
            data, fds, _, _ = socket.recv_fds(sock, MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        if not data:
            return False
        answer: dict[str, Any] = {}
        reply: list[int] = []
        try:
            answer, reply = self._answer(json.loads(data), list(fds), ready)
        except Exception as error:      # whatever it was, the child gets an answer and the supervisor lives on
            answer = {"error": str(error) or repr(error)}
        finally:
            for fd in fds:
                if fd not in self.kept.values():
                    os.close(fd)
        try:
            socket.send_fds(sock, [json.dumps(answer).encode()], reply)
        except OSError:
            return False
        finally:
            while self.leaving:
                name, fd = self.leaving.pop()
                self.dropped(name, fd)
                os.close(fd)
        return True

    def _answer(self, request: Any, fds: list[int], ready: Callable[[], None]) -> tuple[dict[str, Any], list[int]]:
        verb, name = request["verb"], request.get("name", "")
        if verb == "get":
            return {}, [self._held(name)]
        if verb == "put":
            if len(fds) != 1:
                raise StoreError("put comes with one descriptor")
            self.keep(name, self.accept(name, fds[0]))
        elif verb == "drop":
            self._held(name)
            self.leaving.append((name, self.kept.pop(name)))
        elif verb == "open":
            opener = self.openers.get(request["kind"])
            if opener is None:
                raise StoreError(f"open of an unknown kind, {request['kind']}")
            opened = opener(**request["arguments"])
            for name, fd in opened:
                self.keep(name, fd)
            return {"names": [name for name, _ in opened]}, []
        elif verb == "names":
            return {"names": sorted(n for n in self.kept if n.startswith(request.get("prefix", "")))}, []
        elif verb == "ready":
            ready()
        else:
            raise StoreError(f"unknown verb {verb}")
        return {}, []

    def _held(self, name: str) -> int:
        if name not in self.kept:
            raise StoreError(f"there is no {name} in the store")
        return self.kept[name]


def memory(name: str, data: bytes) -> int:
    """A sealed file in memory: nobody can change what was checked once, and it has no path."""
    fd = os.memfd_create(f"headrace-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


def contents(fd: int) -> bytes:
    """All of a memory file; closes fd. The offset is shared with whoever else holds it, so it is not used."""
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
