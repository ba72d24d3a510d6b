"""The two sockets a worker has on a UDP port: which datagram comes by the express, and what it lacks there."""
import contextlib
import socket
import struct

import pytest
from headrace.control import listener
from rig.forwarder import Bench, free_port, mapped, udp

WORKERS = 4
IP = udp("10.67.0.2", "10.0.0.1", b"x" * 20)
PLAIN, LENGTH = struct.pack("!HHH", 2, 1, 1), struct.pack("!HHHH", 0x4002, 60, 1, 1)
EXPRESS = {
    "as Linux sends it": PLAIN + b"\xff\x03\0\x21" + IP,
    "ACFC": PLAIN + b"\0\x21" + IP,
    "PFC": PLAIN + b"\xff\x03\x21" + IP,
    "both": PLAIN + b"\x21" + IP,
    "L": LENGTH + b"\xff\x03\0\x21" + IP,
    "IPv6": PLAIN + b"\xff\x03\0\x57" + b"\x60" + bytes(39),
    "IPv6, L and all compressed": LENGTH + b"\x57" + b"\x60" + bytes(39),
    "an IP packet that is cut off": PLAIN + b"\xff\x03\0\x21",
}
MAIN = {
    "control": struct.pack("!HHHHHH", 0xC802, 12, 1, 0, 0, 0),
    "numbered": struct.pack("!HHHHH", 0x0802, 1, 1, 0, 0) + b"\xff\x03\0\x21" + IP,
    "offset": struct.pack("!HHHH", 0x0202, 1, 1, 0) + b"\xff\x03\0\x21" + IP,
    "priority": struct.pack("!HHH", 0x0102, 1, 1) + b"\xff\x03\0\x21" + IP,
    "L2TPv3": struct.pack("!HHH", 3, 1, 1) + b"\xff\x03\0\x21" + IP,
    "LCP": PLAIN + b"\xff\x03\xc0\x21\x09\x01\0\x08" + bytes(4),
    "LCP, ACFC": LENGTH + b"\xc0\x21\x09\x01\0\x08" + bytes(4),
    "IPCP": PLAIN + b"\xff\x03\x80\x21\x01\x01\0\x04",
    "encrypted": PLAIN + b"\xff\x03\0\xfd\x90\0" + IP,
    "encrypted, compressed": PLAIN + b"\xfd\x90\0" + IP,
    "multilink": PLAIN + b"\xff\x03\0\x3d\xc0\0\0\0" + IP,
    "no PPP": PLAIN, "half a header": PLAIN[:3], "an octet": b"\0", "nothing": b"",
}


@contextlib.contextmanager
def opened(host: str, workers: int):
    """The sockets of an address, and one that sends there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    port = free_port()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(s)
                   for s in listener.open_listener(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", workers, True)]
        sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sender.connect((host, port))
        yield sockets, sender


def taker(sockets: list[socket.socket], sender: socket.socket, datagram: bytes) -> int:
    """Which socket gets it; loopback is at once."""
    sender.send(datagram)
    found = []
    for number, sock in enumerate(sockets):
        with contextlib.suppress(BlockingIOError):
            found.append((number, sock.recv(1 << 16)))
    [(number, data)] = found
    assert data == datagram
    return number


@pytest.mark.parametrize("step", [1, 2, 4, 256])
def test_every_worker_has_senders(step):
    """Routers at the ends of many /30 have addresses 4 apart, and all send from one port: none of the workers may be left out."""
    with opened("0.0.0.0", WORKERS) as (sockets, _):
        where, port, found = ("127.0.0.1", sockets[0].getsockname()[1]), free_port(), [0] * WORKERS
        for number in range(16):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"127.1.{(1 + number * step) >> 8}.{(1 + number * step) & 255}", port))
                sender.connect(where)
                found[taker(sockets, sender, MAIN["control"])] += 1
    assert min(found) >= 1 and max(found) <= 8


def mark(sender: socket.socket, tos: int) -> None:
    six = sender.family == socket.AF_INET6
    sender.setsockopt(*((socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if six else (socket.IPPROTO_IP, socket.IP_TOS)), tos)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("workers", [1, WORKERS])
def test_who_gets_a_datagram(host, workers):
    with opened(host, workers) as (sockets, sender):
        own = taker(sockets, sender, MAIN["control"])
        assert own < workers
        for tos in (0, 0xB8):
            mark(sender, tos)
            for name, datagram in EXPRESS.items():
                assert taker(sockets, sender, datagram) == workers + own, name
            for name, datagram in MAIN.items():         # what is too short to look at goes to the first
                assert taker(sockets, sender, datagram) in ({own, 0} if len(datagram) < 8 else {own}), name
        for ecn in (1, 2, 3):
            mark(sender, 0xB8 | ecn)
            for name, datagram in EXPRESS.items():
                assert taker(sockets, sender, datagram) == own, name


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_senders_spread_over_workers(host):
    found = set()
    with opened(host, WORKERS) as (sockets, first), contextlib.ExitStack() as stack:
        for _ in range(64):
            sender = stack.enter_context(socket.socket(first.family, socket.SOCK_DGRAM))
            sender.connect(first.getpeername())
            found.add(taker(sockets, sender, EXPRESS["both"]))
    assert found == set(range(WORKERS, 2 * WORKERS))


@pytest.fixture(params=[1, 2])
def bench(request, tmp_path):
    b = Bench(tmp_path / "tables", request.param, express=True)
    yield b
    b.close()


def frames(bench):
    """What control hears of, by whichever worker."""
    return [frame for worker in range(len(bench.controls)) for frame in bench.frames(worker, 1.0)]


def test_user_data_by_both(bench):
    bench.session()
    for tos in (0, 2):
        mark(bench.peer, tos)
        bench.send(b"\0\x21" + IP)
        assert bench.inner_read()[1] == IP
    mark(bench.peer, 3)                                             # only the main one tells of congestion
    bench.send(b"\0\x21" + IP)
    bench.wait_verdict("DROP_ECN")


def merged(bench, sock, message: bytes) -> None:
    """User data, and behind it in the same send a message of its size."""
    data = PLAIN + b"\xff\x03\0\x21" + IP
    assert len(message) <= len(data)
    message += bytes(len(data) - len(message))
    sock.sendmsg([data + message], [(17, listener.UDP_SEGMENT, struct.pack("H", len(data)))], 0, bench.address)


def test_control_messages_merged_behind_user_data(bench):
    bench.session()
    bench.tables.beat(1 << 62)
    host, port = bench.peer.getsockname()
    local = mapped("127.0.0.7")                                     # which the peer dialled
    bench.tables.write_tunnel(5, 2, 77, 3, 10, 3, (0, local, bench.address[1], mapped(host), port))
    hello = struct.pack("!HHHHHHHHHH", 0xC802, 20, 5, 0, 10, 3, 0x8008, 0, 0, 6)
    merged(bench, bench.peer, hello)
    assert bench.inner_read()[1] == IP
    [frame] = frames(bench)
    assert frame[5] == (0, local, bench.address[1], mapped(host), port) and frame[6].startswith(hello)

    merged(bench, bench.peer, struct.pack("!HHHHHH", 0xC802, 12, 0, 0, 0, 0))         # comes again, alone
    bench.wait_verdict("DROP_RATE")
    assert not frames(bench)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        merged(bench, stranger, hello)
        [frame] = frames(bench)
        assert frame[5][1:] == (mapped("0.0.0.0"), bench.address[1], mapped("127.0.0.1"), stranger.getsockname()[1])
