"""Sessions in a table and packets of theirs, for measurements in memory: what kernels.py times and instructions.py counts."""
from __future__ import annotations

import os
import random
import struct
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from ..fastpath import table
from ..fastpath.bundle import join_link, open_bundle
from ..fastpath.packet import Kind
from ._kernels import Stages, Trace

Packet = tuple[bytes, int, int, bytes, int]      # octets, tunnel, session, address, segment size
SESSIONS, TUNNELS = 60_000, 60
MTU = 1400
IMIX = [64] * 7 + [570] * 4 + [MTU]
SIZES: dict[str, list[int]] = {"64": [64], "512": [512], "1400": [1400], "imix": IMIX}
PEER, PEER_PORT = bytes(10) + b"\xff\xff\xc0\x00\x02\x01", 1701
FAR = IPv4Address("198.51.100.1")
FIRST = IPv4Address("10.64.0.2")
BUNDLED = IPv4Address("10.80.0.2")
BUNDLES = 1000
TICKS = 300                     # keepalive 30 s
FLAGS = table.ConfigFlag.CONFIG_IP | table.ConfigFlag.CONFIG_CLAMP_MSS | table.ConfigFlag.CONFIG_COPY_DSCP


def mapped(address: IPv4Address) -> bytes:
    return bytes(10) + b"\xff\xff" + address.packed


def checksum(*pieces: bytes) -> int:
    data = b"".join(pieces)
    data += bytes(len(data) & 1)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(size: int, source: IPv4Address, destination: IPv4Address, *, ident: int = 1, sequence: int = 0, port: int = 5001,
        summed: bool = False) -> bytes:
    """An ACK with payload, `size` octets in all. The stages but for coalesce look at no transport checksum."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, ident & 0xFFFF, 0x4000, 64, 6, 0, source.packed, destination.packed)
    head = struct.pack("!HHIIBBHHH", port, 80, sequence & 0xFFFFFFFF, 1, 0x50, 0x10, 5000, 0, 0)
    payload = bytes(size - 40)
    if summed:
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        pseudo = source.packed + destination.packed + struct.pack("!HH", 6, size - 20)
        head = head[:16] + struct.pack("!H", checksum(pseudo, head, payload)) + head[18:]
    return ip + head + payload


class World:
    """Sessions in 60 tunnels, in a table and a worker of our own; installed as control installs them."""

    def __init__(self, path: Path, sessions: int = SESSIONS) -> None:
        self.sessions = sessions
        table.create(path, max_sessions=sessions, workers=1)
        fd = os.open(path, os.O_RDWR)
        self.tables = table.Tables(fd)
        os.close(fd)
        self.ids: list[tuple[int, int, IPv4Address]] = []
        self.slots: list[int] = []
        next_id = [1] * self.tables.banks
        for i in range(sessions):
            tunnel = i % TUNNELS + 1
            bank = tunnel % self.tables.banks
            self.ids.append((tunnel, next_id[bank], FIRST + i))
            next_id[bank] += 1
        for tunnel, session, address in self.ids:
            head = struct.pack("!HHH", 2, tunnel, session)
            settings = {"template": head + b"\xff\x03\x00\x21", "ppp_at": len(head)}
            slot, _ = self.tables.publish(Kind.KIND_L2TP, tunnel, session, 0, (0, PEER, PEER_PORT, PEER, PEER_PORT), flags=0, **settings)
            self.tables.configure(slot, flags=FLAGS, mtu=MTU, mss=MTU - 40, address=mapped(address), gateway=mapped(FAR),
                                  keepalive=TICKS, our_magic=1, peer_magic=2, **settings)
            self.tables.insert(mapped(address), 128, slot)
            self.tables.set_state(slot, table.State.OPEN)
            self.slots.append(slot)
        self.next_id = next_id
        self.bundles: list[tuple[int, int, IPv4Address]] = []      # the first link's ids, and the address
        self.stages = Stages(self.tables, (PEER, PEER_PORT))
        if slow := os.environ.get("HEADRACE_BENCH_SLOW"):         # stage:share, for a test that must see it found out
            stage, _, share = slow.partition(":")
            self.stages.slow(stage, float(share))
        self.trace = cache(self.some)

    def bundle_up(self, bundles: int = BUNDLES) -> None:
        """Bundles of two links each, beside the sessions."""
        for i in range(len(self.bundles), bundles):
            tunnel, address = i % TUNNELS + 1, BUNDLED + i
            bank = tunnel % self.tables.banks
            first = self.next_id[bank]
            self.next_id[bank] += 3
            path = (0, PEER, PEER_PORT, PEER, PEER_PORT)
            slot, _ = self.tables.publish(Kind.KIND_BUNDLE, tunnel, first, 0, path, mtu=1500, mss=1460, address=mapped(address),
                                          gateway=mapped(FAR), flags=FLAGS | table.ConfigFlag.CONFIG_BUNDLE)
            open_bundle(self.tables, slot, mrru=1600)
            for session in (first + 1, first + 2):
                head = struct.pack("!HHH", 2, tunnel, session)
                link, _ = self.tables.publish(Kind.KIND_L2TP, tunnel, session, 0, path, template=head + b"\xff\x03\x00\x21",
                                              ppp_at=len(head))
                self.tables.set_state(link, table.State.OPEN)
                join_link(self.tables, slot, link, room=1400)
            self.tables.insert(mapped(address), 128, slot)
            self.tables.set_state(slot, table.State.OPEN)
            self.bundles.append((tunnel, first + 1, address))

    def fragments(self, size: int, pieces: int, most: int = 4096) -> Trace:
        """Packets of a size that bundles in random order sent in so many fragments, one link after the other."""
        self.bundle_up()
        rng = random.Random(4)
        numbers = [0] * len(self.bundles)
        packets: list[Packet] = []
        while len(packets) < most:
            k = rng.randrange(len(self.bundles))
            tunnel, session, address = self.bundles[k]
            whole = b"\x00\x21" + tcp(size, address, FAR)
            for i in range(pieces):
                part = whole[len(whole) * i // pieces:len(whole) * (i + 1) // pieces]
                flags = (0x80 if i == 0 else 0) | (0x40 if i == pieces - 1 else 0)
                link = session + numbers[k] % 2
                head = struct.pack("!HHHHHI", 2, tunnel, link, 0xFF03, 0x3D, flags << 24 | numbers[k])
                packets.append((head + part, tunnel, link, mapped(address), 0))
                numbers[k] += 1
        return Trace(self.tables, packets)

    def for_bundles(self, size: int, most: int = 2048) -> Trace:
        """Packets of a size toward bundles in random order."""
        self.bundle_up()
        rng = random.Random(5)
        packets: list[Packet] = []
        for _ in range(most):
            tunnel, session, address = self.bundles[rng.randrange(len(self.bundles))]
            packets.append((tcp(size, FAR, address), tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)

    def order(self, spread: str) -> list[int]:
        """Whose packets come, by the index of the session."""
        rng = random.Random(1)
        if spread.startswith("60000"):
            return rng.sample(range(self.sessions), self.sessions)
        chosen = rng.sample(range(self.sessions), self.sessions)
        groups = [chosen[:int(spread)]] * 256 if spread in ("1", "10") else [chosen[k:k + 10] for k in range(0, 2560, 10)]
        return [group[rng.randrange(len(group))] for group in groups for _ in range(64)]

    def some(self, direction: str, size: str, spread: str, most: int | None = None) -> Trace:
        """Packets of one direction, at most so many."""
        rng = random.Random(2)
        lengths = SIZES[size] if len(SIZES[size]) == 1 else [rng.choice(IMIX) for _ in range(1201)]
        packets: list[Packet] = []
        for i, k in enumerate(self.order(spread)[:most]):
            tunnel, session, address = self.ids[k]
            n = lengths[i % len(lengths)]
            if direction == "up":
                octets = struct.pack("!HHHBBH", 2, tunnel, session, 0xFF, 3, 0x21) + tcp(n, address, FAR)
            else:
                octets = tcp(n, FAR, address)
            packets.append((octets, tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)

    def supers(self, size: int, most: int = 512) -> Trace:
        """Super-packets toward ten sessions: as many segments as fit 64 KiB and one UDP_SEGMENT send."""
        packets: list[Packet] = []
        segments = min(44, 65000 // size)
        for k in self.order("10")[:most]:
            tunnel, session, address = self.ids[k]
            packets.append((tcp(40 + (size - 40) * segments, FAR, address), tunnel, session, mapped(address), size - 40))
        return Trace(self.tables, packets)

    def turns(self, size: int, flows: int, most: int = 1024) -> Trace:
        """TCP segments of so many flows in turn."""
        packets: list[Packet] = []
        for k in range(most // flows):
            for i in range(flows):
                tunnel, session, address = self.ids[i]
                octets = tcp(size, address, FAR, ident=k, sequence=k * (size - 40), port=1024 + i, summed=True)
                packets.append((octets, tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)

    def bursts(self, size: int, run: int, most: int = 1024) -> Trace:
        """TCP segments in runs of one flow."""
        packets: list[Packet] = []
        for i in range(most // run):
            tunnel, session, address = self.ids[i]
            for k in range(run):
                octets = tcp(size, address, FAR, ident=k, sequence=k * (size - 40), port=1024 + i, summed=True)
                packets.append((octets, tunnel, session, mapped(address), 0))
        return Trace(self.tables, packets)
