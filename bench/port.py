"""Where packets enter and leave: a TUN with its offloads, a UDP socket with GRO, a raw one of GRE, frames."""
from __future__ import annotations

import ctypes
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
PACKET_RX_RING, PACKET_VERSION, PACKET_IGNORE_OUTGOING, TPACKET_V2 = 5, 10, 23, 1
ETH_P_PPP_DISC, ETH_P_PPP_SES = 0x8863, 0x8864
SIOCGIFHWADDR, SO_ATTACH_FILTER, GRE = 0x8927, 26, 47
BUFFER = 4 << 20
FRAME, FRAMES, BLOCK = 2048, 2048, 1 << 18      # of a ring: frames.pxd has the first two


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


class Gre(socket.socket):
    """A raw socket of GRE. Beside it one that takes nothing: or the kernel answers, while the queue is full, that nobody is here."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, GRE)
        self._mute = socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE)
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))      # classic BPF: return 0
        self._mute.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(nothing)))

    def close(self) -> None:
        super().close()
        self._mute.close()


def open_gre(local: str, peer: str, room: int = BUFFER) -> socket.socket:
    """A raw socket of protocol 47 between two addresses; what it gives begins with an IPv4 header."""
    s = Gre()
    s.setsockopt(socket.SOL_SOCKET, 33, room)               # SO_RCVBUFFORCE
    s.setsockopt(socket.SOL_SOCKET, 32, BUFFER)             # SO_SNDBUFFORCE
    s.bind((local, 0))
    s.connect((peer, 0))
    return s


def open_session(interface: str, ring: bool = True) -> socket.socket:
    """A packet socket that receives PPPoE's sessions, into a ring (frames.pxd)."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(socket.SOL_SOCKET, 33, BUFFER)             # SO_RCVBUFFORCE
    if ring:
        s.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        s.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", BLOCK, FRAMES * FRAME // BLOCK, FRAME, FRAMES))
    s.bind((interface, ETH_P_PPP_SES))
    return s


def open_frames(interface: str) -> socket.socket:
    """A packet socket that sends whole frames past the queueing discipline, and receives none."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    s.setsockopt(socket.SOL_SOCKET, 32, BUFFER)
    s.bind((interface, 0))
    return s


def station(interface: str) -> bytes:
    """Its MAC address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return fcntl.ioctl(s, SIOCGIFHWADDR, struct.pack("16s16x", interface.encode()))[18:24]


def gre_link(here: bytes, there: bytes, local: str, peer: str) -> bytes:
    """Ethernet's and IPv4's header of GRE between two stations; lengths and checksum are for who sends a packet."""
    return (there + here + ETH_P_IP.to_bytes(2, "big") + struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, GRE, 0)
            + socket.inet_aton(local) + socket.inet_aton(peer))


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
