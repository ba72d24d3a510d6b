"""A real Forwarder without root: its wire is UDP on loopback, its inner port a SEQPACKET pair that carries what a TUN
with virtio_net_hdr would, others what a raw socket of GRE and a packet socket would, control's ends of the punt channels are ours."""
from __future__ import annotations

import os
import select
import socket
import struct
import threading

from headrace.control import listener
from headrace.fastpath import forwarder, punt, table
from headrace.fastpath.packet import Kind, Verdict
from headrace.fastpath.table import State
from headrace.fastpath.worker import PortKind

VNET = struct.Struct("<BBHHHH")          # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
SO_RCVBUFFORCE = 33
NEEDS_CSUM, TCPV4, TCPV6, UDP_L4 = 1, 1, 4, 5
GATEWAY6 = "2001:db8::1"
AC = b"\xff\xff" + bytes(8) + bytes.fromhex("02005e1000ac")     # our station on the Ethernet


def mapped(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src: str, dst: str, payload: bytes, proto: int = 17, *, df: bool = True, tos: int = 0, ident: int = 1, ttl: int = 64) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, tos, 20 + len(payload), ident, 0x4000 if df else 0, ttl, proto, 0,
                       socket.inet_aton(src), socket.inet_aton(dst))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(src: str, dst: str, payload: bytes, sport: int = 1000, dport: int = 2000, **kw) -> bytes:
    n = 8 + len(payload)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, 17, n)
    head = struct.pack("!HHHH", sport, dport, n, 0)
    c = checksum(pseudo + head + payload) or 0xFFFF
    return ipv4(src, dst, struct.pack("!HHHH", sport, dport, n, c) + payload, **kw)


def tcp(src: str, dst: str, payload: bytes, seq: int, *, flags: int = 0x10, options: bytes = b"", sport: int = 1000, dport: int = 2000,
        **kw) -> bytes:
    size = 20 + len(options)
    head = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, 7, size // 4 << 4, flags, 5000, 0, 0) + options
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, 6, size + len(payload))
    c = checksum(pseudo + head + payload)
    return ipv4(src, dst, head[:16] + struct.pack("!H", c) + head[18:] + payload, 6, **kw)


def free_port() -> int:
    """Of UDP, on all addresses, a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])


def enlarge(sock: socket.socket) -> None:
    """Room for a burst that is read only later."""
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF, 8 << 20)


class Bench:
    """`workers` workers, one listener on 127.0.0.1, sessions of a peer whose socket is `peer`."""

    def __init__(self, path, workers: int = 1, *, max_sessions: int = 1000, gso: bool = True, merge: int = 2, spin_ns: int = 0,
                 reuse: tuple[str, int] | None = None, held: tuple[int, ...] = (), window_ns: int = 20_000_000, join_ns: int = 100_000_000,
                 frames: socket.socket | None = None, packets: socket.socket | None = None, express: bool = False):
        """`held` are workers that the test starts itself (`threads`); `frames` is a packet socket for the first, of PPTP, and `packets` one
        of PPPoE. `express`: the wire is the concentrator's own sockets, bound to all addresses."""
        self.path = path
        if reuse is None:
            table.create(path, max_sessions=max_sessions, workers=workers)
        fd = os.open(path, os.O_RDWR)
        self.tables = table.Tables(fd)
        os.close(fd)
        # No worker runs yet. Later a new length waits for one, and on a busy machine they may be slow.
        lengths = ((mapped("10.67.0.1"), 128), (socket.inet_pton(socket.AF_INET6, GATEWAY6), 64)) if reuse is None else ()
        for door in self.tables.insert, self.tables.delete:
            for address, length in lengths:
                door(address, length, 1)
        self.sockets: list[socket.socket] = []
        self.wires, self.inner, self.gre, self.ethernet, self.controls, self.channels, ports = [], [], [], [], [], [], []
        address = reuse or ("127.0.0.1", 0)
        own: list[socket.socket] = []
        if express:
            address = "127.0.0.1", free_port()
            own = [self.keep(s) for s in listener.open_listener(f"0.0.0.0:{address[1]}", workers, gso)]
        for number in range(workers):
            if express:
                wire = own[number]
            else:
                wire = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                enlarge(wire)
                wire.bind(address)
                address = wire.getsockname()
                wire.setsockopt(17, 104, 1)          # UDP_GRO
                wire.setsockopt(socket.IPPROTO_IP, 13, 1)      # IP_RECVTOS
            ours, theirs = self.pair()
            control, theirs2 = self.pair()
            self.wires.append(wire)
            self.inner.append(ours)
            self.channels.append(punt.Channel(control.fileno()))
            self.controls.append(control)
            gre, raw = self.pair()
            self.gre.append(gre)
            ethernet, frame_end = self.pair()
            self.ethernet.append(ethernet)
            if packets and not number:
                frame_end = packets
            ports.append({"tun": theirs.fileno(), "punt": theirs2.fileno(),
                          "listeners": [(wire.fileno(), socket.AF_INET, express, mapped("0.0.0.0" if express else "127.0.0.1"), address[1],
                                         PortKind.PORT_UDP, *(s.fileno() for s in own[workers + number:][:1])),
                                        (raw.fileno(), socket.AF_INET, True, bytes(16), 0, PortKind.PORT_GRE),
                                        (frame_end.fileno(), socket.AF_PACKET, False, AC, 0, PortKind.PORT_ETHERNET)]})
        if frames:
            ports[0]["frames"] = frames.fileno()
        self.address = address
        self.peer = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        enlarge(self.peer)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(5)
        self.forwarder = forwarder.Forwarder(self.tables, ports, spin_ns=spin_ns, gso=gso, merge=merge, window_ns=window_ns,
                                          join_ns=join_ns)
        self.threads = [threading.Thread(target=self.forwarder.run, args=(i,), daemon=True) for i in range(workers)]
        for i, t in enumerate(self.threads):
            if i not in held:
                t.start()

    def keep(self, s):
        self.sockets.append(s)
        return s

    def pair(self):
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for s in (a, b):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            s.setblocking(False)
            self.keep(s)
        return a, b

    def session(self, tunnel=1, session=1, address="10.67.0.2", *, owner=0, peer=None, peer_tunnel=9, peer_session=8, mtu=1400,
                state=State.OPEN, flags=2, keepalive=0, sequenced=False, tos=0, prefix="", families=16):
        """Install an open session; returns (slot, generation). `prefix` is of 64 bits, and opens IPv6 too."""
        host, port = (peer or self.peer).getsockname()
        head = struct.pack("!HHH", 0x0802 if sequenced else 2, peer_tunnel, peer_session) + (bytes(4) if sequenced else b"")
        slot, generation = self.tables.publish(
            Kind.KIND_L2TP, tunnel, session, owner, (0, mapped("127.0.0.1"), self.address[1], mapped(host), port),
            template=head + b"\xff\x03\x00\x21", ppp_at=len(head), ns_at=6 if sequenced else 0, mtu=mtu, mss=mtu - 40,
            address=mapped(address), gateway=mapped("10.67.0.1"), keepalive=keepalive, tos=tos, our_magic=0x11111111, peer_magic=0x22222222,
            prefix=socket.inet_pton(socket.AF_INET6, prefix or "::"), gateway6=socket.inet_pton(socket.AF_INET6, GATEWAY6),
            flags=flags | families | (4 if sequenced else 0) | (32 if prefix else 0))
        self.tables.insert(mapped(address), 128, slot)
        if prefix:
            self.tables.insert(socket.inet_pton(socket.AF_INET6, prefix), 64, slot)
        self.tables.set_state(slot, state)
        return slot, generation

    def call(self, call=7, address="10.67.0.2", *, owner=0, peer="192.0.2.9", peer_call=0x1234, mtu=1400, state=State.OPEN, flags=22,
             keepalive=0, tos=0):
        """Install an open PPTP session; returns (slot, generation)."""
        slot, generation = self.tables.publish(
            Kind.KIND_PPTP, self.tables.peer_hash(mapped(peer)), call, owner, (1, mapped("192.0.2.1"), 0, mapped(peer), 0),
            template=struct.pack("!HHHHII", 0x3081, 0x880B, 0, peer_call, 0, 0) + b"\xff\x03\x00\x21", ppp_at=16, ns_at=8, length_at=4,
            mtu=mtu, mss=mtu - 40, address=mapped(address), gateway=mapped("10.67.0.1"), keepalive=keepalive, tos=tos,
            our_magic=0x11111111, peer_magic=0x22222222, flags=flags)
        self.tables.insert(mapped(address), 128, slot)
        self.tables.set_state(slot, state)
        return slot, generation

    def pppoe(self, session=7, address="10.67.0.2", *, peer: bytes, port=2, owner=0, mtu=1400, state=State.OPEN, flags=18, keepalive=0,
              tos=0):
        """Install an open PPPoE session of a station; returns (slot, generation). Only port 2 is there."""
        tags = b"".join(peer[at:at + 4] for at in (2, 6) if any(peer[at:at + 4]))
        head = peer[10:] + AC[10:] + tags + struct.pack("!HBBHH", 0x8864, 0x11, 0, session, 0)
        slot, generation = self.tables.publish(
            Kind.KIND_PPPOE, self.tables.peer_hash(peer[:10] + bytes((0,) * 5 + (port,))), session, owner, (port, AC, 0, peer, 0),
            template=head + b"\x00\x21", ppp_at=len(head), length_at=len(head) - 2, mtu=mtu, mss=mtu - 40, address=mapped(address),
            gateway=mapped("10.67.0.1"), keepalive=keepalive, tos=tos, our_magic=0x11111111, peer_magic=0x22222222, flags=flags | 64)
        self.tables.insert(mapped(address), 128, slot)
        self.tables.set_state(slot, state)
        return slot, generation

    def ethernet_read(self, worker=0, timeout=5.0):
        """The next frame to the Ethernet, or None."""
        ready, _, _ = select.select([self.ethernet[worker]], [], [], timeout)
        return self.ethernet[worker].recv(1 << 16) if ready else None

    def gre_send(self, sequence: int | None, payload: bytes = b"", *, ack: int | None = None, call=7, peer="192.0.2.9", tos=0, worker=0):
        """A packet from the peer as a raw socket gives it: `payload` begins behind FF 03."""
        flags = 0x2001 | (0x1000 if sequence is not None else 0) | (0x80 if ack is not None else 0)
        payload = b"\xff\x03" + payload if sequence is not None else b""
        numbers = b"".join(struct.pack("!I", n & 0xFFFFFFFF) for n in (sequence, ack) if n is not None)
        packet = struct.pack("!HHHH", flags, 0x880B, len(payload), call) + numbers + payload
        self.gre[worker].send(ipv4(peer, "192.0.2.1", packet, 47, tos=tos))

    def gre_read(self, worker=0, timeout=5.0):
        """(flags, call, sequence, acknowledgment, payload) of the next packet to a peer, or None."""
        if not select.select([self.gre[worker]], [], [], timeout)[0]:
            return None
        data = self.gre[worker].recv(1 << 16)
        flags, kind, length, call = struct.unpack("!HHHH", data[:8])
        sequence, ack, at = None, None, 8
        if flags & 0x1000:
            (sequence,), at = struct.unpack_from("!I", data, at), at + 4
        if flags & 0x80:
            (ack,), at = struct.unpack_from("!I", data, at), at + 4
        assert kind == 0x880B and len(data) == at + length
        return flags, call, sequence, ack, data[at:]

    def send(self, payload: bytes, tunnel=1, session=1, sock=None, head=None):
        """One L2TP data message from the peer: `payload` begins behind FF 03."""
        head = struct.pack("!HHH", 2, tunnel, session) + b"\xff\x03" if head is None else head
        (sock or self.peer).sendto(head + payload, self.address)

    def channels_send(self, slot: int, protocol: int, payload: bytes, worker=0):
        """A PPP frame that control wants sent."""
        self.channels[worker].send([(punt.PuntKind.PUNT_PPP, slot, self.tables.generation(slot), protocol, None, payload)])

    def inner_write(self, packet: bytes, worker=0, *, flags=0, gso=0, size=0, start=0, offset=0):
        self.inner[worker].send(VNET.pack(flags, gso, 0, size, start, offset) + packet)

    def inner_read(self, timeout=5.0):
        """(virtio header fields, packet) of the next write to any worker's inner port, or None."""
        ready, _, _ = select.select(self.inner, [], [], timeout)
        if not ready:
            return None
        data = ready[0].recv(1 << 17)
        return VNET.unpack(data[:10]), data[10:]

    def frames(self, worker=0, timeout=5.0):
        """Frames punted by a worker."""
        select.select([self.controls[worker]], [], [], timeout)
        return self.channels[worker].receive()

    def verdicts(self):
        """Name -> count over all workers."""
        rows = self.tables.worker_records()["verdicts"].sum(axis=0)
        return {Verdict(i).name: int(rows[i]) for i in range(Verdict.VERDICTS) if rows[i]}

    def wait_verdict(self, name, n=1, timeout=5.0):
        """Until at least n packets came to that end (a worker counts at the end of a pass)."""
        event = threading.Event()
        for _ in range(int(timeout / 0.002)):
            if self.verdicts().get(name, 0) >= n:
                return self.verdicts()[name]
            event.wait(0.002)
        raise AssertionError(f"{name} is {self.verdicts().get(name, 0)}, not {n}: {self.verdicts()}")

    def close(self):
        self.forwarder.stop()
        for t in self.threads:
            t.join(5)
            assert not t.is_alive()
        for s in self.sockets:
            s.close()
