"""The sockets of a listen address.

UDP: two a worker, all in one SO_REUSEPORT group, and a program that says whose a datagram is. One tells where a datagram was sent to (an
answer leaves from that address) and its TOS octet, which costs as much as the rest of a tunnel's work. The other one, the express, does
not: it has IP packets in the clear of peers that do not speak ECN, for which nobody asks. Unless offloads are off, both hand over bursts
of equal datagrams in one piece (UDP_GRO). What is numbered or encrypted stays with all else of its session, in order.
TCP: one, on which control accepts.
GRE: raw sockets, of which each would get a copy of everything. The first worker's gets PPTP's data and nothing else; those of the others,
which send, get nothing.
Ethernet: packet sockets, and the same holds for them; who reads an interface is another worker for the next.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterable

from .address import mapped, scoped
from .settings import Server
from .tun import SetupError

UDP_SEGMENT, UDP_GRO = 103, 104
SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 51
BACKLOG = 1024
Program = tuple[tuple[int, int, int, int], ...]         # classic BPF: code, jump if true, if false, operand
NOTHING: Program = ((0x06, 0, 0, 0),)
# X = length of the IP header; GRE of version 1 with PPP in it (RFC 2637 section 4.1), or nothing
PPTP_DATA: Program = ((0xB1, 0, 0, 0), (0x48, 0, 0, 0), (0x54, 0, 0, 7), (0x15, 0, 3, 1), (0x48, 0, 0, 2), (0x15, 0, 1, 0x880B),
                      (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
NET = 0xFFF00000                # where the IP header stands for these programs; at 0 is what is behind UDP's
# Where ECN's bits are, and the source address's low word and port, unless there are options: these only choose a worker.
ECN: dict[int, tuple[int, int, int]] = {             # code of the load, offset, mask
    socket.AF_INET: (0x30, NET + 1, 0x03), socket.AF_INET6: (0x28, NET, 0x30)}
SENDER: dict[int, tuple[int, int]] = {socket.AF_INET: (NET + 12, NET + 20), socket.AF_INET6: (NET + 20, NET + 40)}
# Not what is for another station, which a promiscuous interface hears, and not what we send; then ethertype 8863 or 8864, the first one,
# or behind one tag or two. The outermost tag is mostly no more in the frame by now, but beside it.
PPPOE: Program = ((0x20, 0, 0, 0xFFFFF004), (0x25, 14, 0, 2), (0x28, 0, 0, 12), (0x15, 11, 0, 0x8863), (0x15, 10, 0, 0x8864),
                  (0x15, 1, 0, 0x8100), (0x15, 0, 9, 0x88A8), (0x28, 0, 0, 16), (0x15, 6, 0, 0x8863), (0x15, 5, 0, 0x8864),
                  (0x15, 1, 0, 0x8100), (0x15, 0, 4, 0x88A8), (0x28, 0, 0, 20), (0x15, 1, 0, 0x8863), (0x15, 0, 1, 0x8864),
                  (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))
SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
IP_PKTINFO, IP_RECVTOS = 8, 13
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BUFFER = 8 << 20


def address_of(listen: str) -> tuple[int, str, int]:
    """Family, host and port of `0.0.0.0:1701`, `[::]:1701` or `[fe80::1%eth0]:1701`."""
    host, _, port = listen.rpartition(":")
    return (socket.AF_INET6, host[1:-1], int(port)) if host.startswith("[") else (socket.AF_INET, host, int(port))


def local_of(listen: str) -> bytes:
    """The address as paths have it."""
    family, host, _ = address_of(listen)
    host, _, interface = host.partition("%")
    local = mapped(socket.inet_pton(family, host))
    return scoped(local, socket.if_nametoindex(interface)) if interface else local


def open_listener(listen: str, workers: int, offload: bool) -> list[socket.socket]:
    """A socket for each worker, bound to the address, and behind them an express for each."""
    sockets: list[socket.socket] = []
    try:
        for number in range(2 * workers):
            sockets.append(_open(listen, offload, express=number >= workers))
            if number == 0:
                _attach(sockets[0], SO_ATTACH_REUSEPORT_CBPF, steering(sockets[0].family, workers))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def steering(family: int, workers: int) -> Program:
    """Which socket of the group gets a datagram: of one sender always the same worker's; there the express when it carries an L2TP data
    message (RFC 2661 section 3.1) with L at most and PPP of IPv4 or IPv6 (RFC 1661 section 2, RFC 1662 section 3.1, each compressed or
    not), in a datagram without ECN. What is cut off goes to the first."""
    load, at, mask = ECN[family]
    address, port = SENDER[family]
    steps: list[tuple[int, int | str, int | str, int]] = [
        (0x20, 0, 0, address), (0x07, 0, 0, 0), (0x28, 0, 0, port), (0x0C, 0, 0, 0),
        (0x24, 0, 0, 0x9E3779B1), (0x74, 0, 0, 20), (0x94, 0, 0, workers),      # senders are often numbered in steps of 2 or 4
    ] if workers > 1 else [(0x00, 0, 0, 0)]
    steps += [
        (0x02, 0, 0, 0), (load, 0, 0, at), (0x45, "main", 0, mask),
        (0x28, 0, 0, 0), (0x01, 0, 0, 8), (0x45, 1, 0, 0x4000), (0x01, 0, 0, 6),            # X = octets of L2TP's header
        (0x54, 0, 0, 0xBFFF), (0x15, 0, "main", 0x0002),
        (0x48, 0, 0, 0), (0x15, 0, 3, 0xFF03), (0x87, 0, 0, 0), (0x04, 0, 0, 2), (0x07, 0, 0, 0),     # ... and of FF 03
        (0x50, 0, 0, 0), (0x15, 0, 1, 0), (0x50, 0, 0, 1), (0x15, 1, 0, 0x21), (0x15, 0, "main", 0x57),
        (0x60, 0, 0, 0), (0x04, 0, 0, workers), (0x16, 0, 0, 0), (0x60, 0, 0, 0), (0x16, 0, 0, 0)]
    main = len(steps) - 2

    def jump(target: int | str, place: int) -> int:
        return target if isinstance(target, int) else main - place - 1
    return tuple((code, jump(true, place), jump(false, place), operand) for place, (code, true, false, operand) in enumerate(steps))


def _open(listen: str, offload: bool, express: bool) -> socket.socket:
    family, host, port = address_of(listen)
    sock = _socket(family, listen)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if not express and family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        elif not express:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        if offload and segmentation():
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        enlarge(sock, BUFFER)
        _bind(sock, host, port, listen)
    except BaseException:
        sock.close()
        raise
    return sock


def wire_ports(server: Server) -> list[tuple[str, str]]:
    """What each worker has on the wire's side, as the store names it; the order is the ports' in every Path."""
    l2tp, pptp = server.l2tp, server.pptp
    return ([("udp", listen) for listen in l2tp.listen if l2tp.enabled]
            + [("gre", address) for address in gre_addresses(pptp.listen) if pptp.enabled]
            + [("ethernet", interface) for interface in server.interfaces])


def ethernet_ports(server: Server) -> dict[str, int]:
    """The port of each interface of PPPoE's."""
    return {name: port for port, (kind, name) in enumerate(wire_ports(server)) if kind == "ethernet"}


def gre_port(server: Server, listen: str) -> int:
    """The port of the data that belongs to connections at this TCP listener."""
    ports = wire_ports(server)
    own = ("gre", address_of(listen)[1])
    return ports.index(own if own in ports else ("gre", "0.0.0.0"))


def open_tcp(listen: str) -> socket.socket:
    """A listening socket, whose connections begin with what is there when control accepts them."""
    family, host, port = address_of(listen)
    sock = _socket(family, listen, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(sock, host, port, listen)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def gre_addresses(listens: Iterable[str]) -> list[str]:
    """The local addresses whose GRE belongs to TCP's at these: what is bound to all of them needs no other."""
    hosts = list(dict.fromkeys(address_of(listen)[1] for listen in listens))
    return ["0.0.0.0"] if "0.0.0.0" in hosts else hosts


def open_gre(address: str, workers: int) -> list[socket.socket]:
    """A raw socket for each worker, and two at least; CAP_NET_RAW. All but the first take nothing, and must be there: a kernel that
    finds the queues of all sockets full (Linux 6.18 does) answers that nobody speaks GRE here, and clients hang up."""
    sockets: list[socket.socket] = []
    try:
        for worker in range(max(workers, 2)):
            sockets.append(_socket(socket.AF_INET, address, socket.SOCK_RAW, socket.IPPROTO_GRE))
            _filter(sockets[-1], NOTHING if worker else PPTP_DATA)
            enlarge(sockets[-1], BUFFER)
            sockets[-1].bind((address, 0))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def open_frames() -> socket.socket:
    """A packet socket for a worker's frames; it receives nothing, and the queueing discipline has what it sends. CAP_NET_RAW."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    enlarge(sock, BUFFER)
    return sock


def open_ethernet(workers: int, reader: int) -> list[socket.socket]:
    """A packet socket for each worker, of which the reader's alone receives: PPPoE's frames to us and to all, behind any tags. They
    belong to no interface yet: who follows it binds them (interfaces.py). CAP_NET_RAW."""
    sockets: list[socket.socket] = []
    try:
        for worker in range(workers):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
            sockets.append(sock)
            _filter(sock, PPPOE if worker == reader else NOTHING)
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            with contextlib.suppress(OSError):          # Linux 4.20; before, the filter alone keeps out what we send
                sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            enlarge(sock, BUFFER)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _filter(sock: socket.socket, program: Program) -> None:
    """Have the kernel drop what a classic BPF program does not accept; what came before that is read and thrown away."""
    _attach(sock, SO_ATTACH_FILTER, NOTHING)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(1)
    _attach(sock, SO_ATTACH_FILTER, program)


def _attach(sock: socket.socket, what: int, program: Program) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, what, struct.pack("HL", len(program), ctypes.addressof(code)))


def probe(listen: str) -> None:
    """Fail when somebody has the port: SO_REUSEPORT alone would share it with another concentrator of the same user."""
    family, host, port = address_of(listen)
    with _socket(family, listen) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(sock, host, port, listen)


def _socket(family: int, listen: str, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
    try:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise SetupError(f"cannot listen on {listen}: this kernel has no IPv6; take it out of server.l2tp.listen")
        raise SetupError(f"cannot listen on {listen}: {error.strerror}")


def _bind(sock: socket.socket, host: str, port: int, listen: str) -> None:
    host, _, interface = host.partition("%")
    try:
        index = socket.if_nametoindex(interface) if interface else 0
    except OSError:
        raise SetupError(f"cannot listen on {listen}: there is no interface {interface}; change server.l2tp.listen")
    try:
        sock.bind((host, port, 0, index) if index else (host, port))
    except OSError as error:
        tcp = sock.type == socket.SOCK_STREAM
        kind, key = ("TCP", "server.pptp.listen") if tcp else ("UDP", "server.l2tp.listen")
        why = {errno.EADDRINUSE: f"another program has that {kind} port; end it, or change {key}",
               errno.EADDRNOTAVAIL: f"no interface has that address; change {key}",
               errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE"}.get(error.errno or 0, error.strerror)
        raise SetupError(f"cannot listen on {listen}: {why}")


def segmentation() -> bool:
    """Whether the kernel has UDP_SEGMENT and UDP_GRO (Linux 5.0)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
            return True
        except OSError:
            return False


def enlarge(sock: socket.socket, size: int) -> None:
    """Give it buffers of that size both ways, beyond the system's limit where we may."""
    for forced, plain in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
