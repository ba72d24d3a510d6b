"""The store: what the supervisor keeps for its children, by its verbs (control/store.py)."""
from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from headrace.control import store
from headrace.control.store import Keeper, Store, StoreError


@pytest.fixture
def pair() -> Iterator[tuple[Store, Keeper, list[str]]]:
    """A child's end, and a keeper that answers it in a thread; and what the keeper heard."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[str] = []

    def opener(listen: str) -> list[tuple[str, int]]:
        if listen == "nowhere":
            raise OSError("cannot listen on nowhere")
        return [(f"udp/{listen}/0", os.memfd_create("x"))]

    def accept(name: str, fd: int) -> int:
        heard.append(name)
        if name == "config":
            raise ValueError("this configuration is wrong")
        return fd
    keeper = Keeper({"udp": opener}, accept)

    def answer() -> None:
        while keeper.serve(ours, lambda: heard.append("ready")):
            pass
    thread = threading.Thread(target=answer)
    thread.start()
    client = Store(theirs)
    yield client, keeper, heard
    theirs.close()
    thread.join()
    ours.close()
    keeper.close()


def test_put_get_drop(pair):
    client, keeper, _ = pair
    fd = store.memory("x", b"hello")
    client.put("a/b", fd)
    os.close(fd)
    assert client.names() == ["a/b"] and client.names("b") == []
    assert client.read("a/b") == b"hello"
    assert client.read("a/b") == b"hello"       # the offset is shared, and not used
    client.drop("a/b")
    assert client.names() == [] and keeper.kept == {}
    with pytest.raises(StoreError, match="there is no a/b in the store"):
        client.get("a/b")


def test_what_is_dropped_is_seen_after_the_answer(pair):
    """Who dropped it need not wait for what takes long, and the descriptor is still open then."""
    client, keeper, _ = pair
    going, seen = threading.Event(), []

    def dropped(name: str, fd: int) -> None:
        going.wait(10)
        seen.append((name, os.fstat(fd).st_size))
    keeper.dropped = dropped
    fd = store.memory("x", b"hello")
    client.put("a", fd)
    os.close(fd)
    client.drop("a")
    assert seen == []
    going.set()
    assert client.names() == [] and seen == [("a", 5)]


def test_put_replaces(pair):
    client, _, _ = pair
    before = len(os.listdir("/proc/self/fd"))
    for text in (b"one", b"two", b"three"):
        fd = store.memory("x", text)
        client.put("x", fd)
        os.close(fd)
    assert client.read("x") == b"three"
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_open(pair):
    client, _, _ = pair
    assert client.open("udp", listen="1.2.3.4:1701") == ["udp/1.2.3.4:1701/0"]
    assert client.names("udp/") == ["udp/1.2.3.4:1701/0"]
    with pytest.raises(StoreError, match="cannot listen on nowhere"):
        client.open("udp", listen="nowhere")
    with pytest.raises(StoreError, match="unknown kind, warp"):
        client.open("warp")


def test_what_is_put_may_be_refused(pair):
    client, keeper, _ = pair
    before = len(os.listdir("/proc/self/fd"))
    fd = store.memory("x", b"{}")
    with pytest.raises(StoreError, match="this configuration is wrong"):
        client.put("config", fd)
    os.close(fd)
    assert keeper.kept == {} and len(os.listdir("/proc/self/fd")) == before


def test_ready(pair):
    client, _, heard = pair
    client.ready()
    assert heard == ["ready"]


@pytest.mark.parametrize("request_", [b"", b"nonsense", b"[]", b'{"verb":"steal"}', b'{"verb":"get"}', b'{"verb":"put","name":"x"}'])
def test_a_bad_request_has_an_answer(pair, request_):
    client, _, _ = pair
    client.sock.send(request_ or b"\0")
    assert "error" in json.loads(client.sock.recv(4096))
    assert client.names() == []


def test_memory_is_sealed():
    fd = store.memory("x", b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"d", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
