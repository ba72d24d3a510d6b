"""UDP sockets of a listen address: one a worker, in one SO_REUSEPORT group.

Each tells where a datagram was sent to (an answer leaves from that address) and its TOS octet, and,
unless offloads are off, hands over bursts of equal datagrams in one piece (UDP_GRO).
"""
from __future__ import annotations

import errno
import socket

from .address import mapped, scoped
from .tun import SetupError

UDP_SEGMENT, UDP_GRO = 103, 104
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
    """A socket for each worker, bound to the address."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(workers):
            sockets.append(_open(listen, offload))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _open(listen: str, offload: bool) -> socket.socket:
    family, host, port = address_of(listen)
    sock = _socket(family, listen)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
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


def probe(listen: str) -> None:
    """Fail when somebody has the port: SO_REUSEPORT alone would share it with another concentrator of the same user."""
    family, host, port = address_of(listen)
    with _socket(family, listen) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(sock, host, port, listen)


def _socket(family: int, listen: str) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
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
        why = {errno.EADDRINUSE: "another program has that UDP port; end it, or change server.l2tp.listen",
               errno.EADDRNOTAVAIL: "no interface has that address; change server.l2tp.listen",
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
