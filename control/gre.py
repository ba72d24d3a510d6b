"""Raw sockets for PPTP's data, protocol 47: one a worker.

Every raw socket gets a copy of every packet, so only the first receives, and its worker hands to the others what is theirs; the
rest are bound to an address of this machine's that nobody sends to, which costs nothing and does not keep them from sending.
While the first is open the kernel does not answer GRE with ICMP protocol-unreachable. Its filter passes version 1 with
protocol 880B: other GRE of this machine goes its way.
"""
from __future__ import annotations

import ctypes
import socket
import struct

from .listener import BUFFER, enlarge
from .tun import SetupError

SO_ATTACH_FILTER = 26
NOWHERE = "127.255.255.254"
GRE_PPP = 0x880B
# Classic BPF, on a packet that begins with its IPv4 header: (code, jump if true, jump if false, k)
ENHANCED = (
    (0xB1, 0, 0, 0),                # x = octets of the IPv4 header
    (0x48, 0, 0, 0),                # flags and version
    (0x54, 0, 0, 7),
    (0x15, 0, 3, 1),                # version 1?
    (0x48, 0, 0, 2),
    (0x15, 0, 1, GRE_PPP),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0))


def open_gre(workers: int) -> list[socket.socket]:
    """A socket for each worker; the first one's receives."""
    sockets: list[socket.socket] = []
    try:
        for number in range(workers):
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_GRE)
            sockets.append(sock)
            if number == 0:
                attach(sock, ENHANCED)
            else:
                sock.bind((NOWHERE, 0))
            enlarge(sock, BUFFER)
    except OSError as error:
        for sock in sockets:
            sock.close()
        hint = "it needs root or CAP_NET_RAW" if isinstance(error, PermissionError) else error.strerror
        raise SetupError(f"cannot open a socket for PPTP's data: {hint}")
    return sockets


def attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Let a socket receive only what a classic BPF program passes."""
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(held)))
