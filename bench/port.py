"""Where packets enter and leave: a TUN with its offloads, a UDP socket with GRO."""
from __future__ import annotations

import fcntl
import os
import socket
import struct

# Numbers of linux/if_tun.h, linux/udp.h and linux/if_packet.h that Python does not name.
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CSUM, TSO4, USO4, USO6 = 0x01, 0x02, 0x20, 0x40
SOL_UDP, UDP_GRO = 17, 104
SOL_PACKET, PACKET_VNET_HDR, PACKET_QDISC_BYPASS, ETH_P_IP = 263, 15, 20, 0x0800
BUFFER = 4 << 20


def open_tun(name: str) -> int:
    """A TUN that hands out super-packets of TCP and, from Linux 6.2, of UDP."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, CSUM | TSO4 | USO4 | USO6)
        except OSError:
            fcntl.ioctl(fd, TUNSETOFFLOAD, CSUM | TSO4)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_udp(local: tuple[str, int]) -> socket.socket:
    """A UDP socket that receives merged datagrams, with room for a burst in both directions."""
    s = socket.socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    s.bind(local)
    merge(s)
    return s


def open_packet(interface: str, whole: bool = True) -> tuple[socket.socket, bytes]:
    """A packet socket that puts IPv4 packets into a TUN as if the kernel had routed them there, super-packets too, and the
    address to send to. It is not bound: it would get a copy of what the TUN brings. Past the queueing discipline it can tell
    when the TUN is full; but there the kernel drops super-packets that the TUN does not take `whole`, instead of cutting them."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, int(whole))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return s, packet_address(interface)


def packet_address(interface: str) -> bytes:
    """Where a packet socket sends IPv4 to."""
    return struct.pack("=H2siHBB8x", socket.AF_PACKET, ETH_P_IP.to_bytes(2, "big"), socket.if_nametoindex(interface), 0, 0, 0)


def merge(s: socket.socket) -> None:
    """UDP_GRO and large buffers on a socket that is there already."""
    s.setsockopt(SOL_UDP, UDP_GRO, 1)
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):     # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            s.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except PermissionError:
            s.setsockopt(socket.SOL_SOCKET, plain, BUFFER)


def address(text: str) -> tuple[str, int]:
    """IP:PORT, or [IPv6]:PORT."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
