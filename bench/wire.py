"""One run of traffic through a forwarder on a wire, and what it cost.

    traffic   tcp: iperf3 at the inner MTU; udp: our generator and sink, of one size or a mix
    cost      run time of every thread on the forwarder's core, by inner data packet (design.md 8)
    beside    Gbit/s, packets a second, loss by the sink's sequence numbers, latency, and who used how much of a core

The forwarder has core 0; its peer, iperf3, generator and sink share core 1, which is full first: then Gbit/s is a
floor, and cost is the figure.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .generator import Generator
from .headrace import Headrace
from .lab import FORWARDER, OTHERS, Lab, LabError, Meter, Usage
from .port import merge, open_packet, open_tun, packet_address
from .sink import Hole, Sink
from .stages import compare, timing
from .subject import INSIDE, MTU, Far, Packets, Session, Subject

SINK_PORT, HOLE_PORT = 9, 10
TRAFFIC = ("tcp", "udp")
DIRECTIONS = ("up", "down", "both")
# The simple IMIX, 7:4:1: small, middle and full packets, in an order in which few of a size follow each other.
IMIX = [64, 570, 64, MTU, 64, 570, 64, 64, 570, 64, 570, 64]
CIPHERS = ("encrypt", "decrypt")     # stages
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
CALM = 3                        # a forwarder that has to wait for its core looks as if it were done
NOBODY = b"\2bench"             # a MAC address that no station has
ALONE = 0.2                     # seconds in which the generator shows what it can do


class Case(NamedTuple):
    """What is sent. `size` is of an inner packet, or "imix"; `flows` are all distinct inner flows, one a session at least.
    Packets of one flow follow each other and may be merged; of more flows each packet is of another one than the last."""
    protocol: str
    traffic: str
    size: int | str
    direction: str
    wire: str
    sessions: int = 1
    flows: int = 1
    workers: int = 1
    mppe: int = 0               # bits, or 0: in clear

    @property
    def sizes(self) -> list[int]:
        return IMIX if self.size == "imix" else [int(self.size)]

    @property
    def ways(self) -> tuple[str, ...]:
        return ("up", "down") if self.direction == "both" else (self.direction,)

    def __str__(self) -> str:
        counts = [f"{n} {what}{'s'[:n > 1]}" for what, n in (("session", self.sessions), ("flow", self.flows), ("worker", self.workers))]
        tunnel = f"{self.protocol} MPPE-{self.mppe}" if self.mppe else self.protocol
        return ", ".join([f"{tunnel} {self.traffic} {self.size} {self.direction} {self.wire}", *counts[:2 + (self.workers > 1)]])


class Run(NamedTuple):
    """One measurement. What iperf3 does not tell is None."""
    cost_ns: float
    packets: int                # that the forwarder moved
    gbit_s: float               # of inner packets that arrived (udp), or of TCP's payload
    pps: float
    offered_pps: float | None
    sent: int | None
    lost: int | None            # of those that were sent, by what the sink has not seen
    reordered: int | None
    duplicates: int | None
    latency_us: dict[str, float] | None
    forwarder: float            # share of its core
    others: float
    foreign: float              # share of the forwarder's core that went elsewhere
    shares: dict[str, float]    # of one core, by who used it
    bottleneck: str

    @property
    def loss(self) -> float | None:
        return None if self.lost is None or not self.sent else self.lost / self.sent


def summary(usage: Usage, packets: int, bits: float, seconds: float, **seen: Any) -> Run:
    if packets <= 0:
        raise LabError("the forwarder moved no packets")
    nothing = dict.fromkeys(("offered_pps", "sent", "lost", "reordered", "duplicates", "latency_us"))
    return Run(cost_ns=usage.cost / packets, packets=packets, gbit_s=bits / seconds / 1e9, pps=packets / seconds,
               forwarder=usage.cost / usage.elapsed, others=usage.share(OTHERS), foreign=usage.foreign(), shares=usage.shares(),
               bottleneck=usage.bottleneck(), **(nothing | seen))


def moved(case: Case, before: Packets, after: Packets) -> int:
    return sum(getattr(after, way) - getattr(before, way) for way in case.ways)


# --- TCP

def tcp(subject: Subject, case: Case, seconds: float) -> Run:
    """iperf3 from the peer to the host, with -R the other way; a stream a flow."""
    server = subject.lab.host.spawn(["iperf3", "-s", "-1", "--forceflush"], OTHERS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert server.stdout
    while (line := server.stdout.readline()) and "listening" not in line:
        pass
    if not line:
        raise LabError("iperf3 does not listen: is it installed?")
    meter = Meter(subject.roles(), subject.workers, subject.own())
    before = subject.packets()
    meter.start()
    # iperf3 knows whole seconds only, and takes 0 for ever
    options = {"up": [], "down": ["-R"], "both": ["--bidir"]}[case.direction]
    out = json.loads(subject.lab.peer.run("iperf3", "-c", INSIDE, "-J", "-t", str(math.ceil(seconds)), "-P", str(case.flows), *options))
    end = out["end"]
    used = end["cpu_utilization_percent"]
    length = end["sum_received"]["seconds"]
    ends = ("remote", "host") if case.direction == "down" else ("host", "remote")
    for role, which in zip(("generator", "sink"), ends, strict=True):
        meter.charge(role, int(used[f"{which}_total"] / 100 * length * 1e9))
    usage, after = meter.stop(), subject.packets()
    server.communicate()
    subject.lab.host.processes.remove(server)
    received = [end[f"sum_received{way}"] for way in ("", "_bidir_reverse") if f"sum_received{way}" in end]
    return summary(usage, moved(case, before, after), sum(r["bytes"] for r in received) * 8, length)


# --- generator and sink

class Way(NamedTuple):
    """A generator, and the sink that its packets reach through the forwarder."""
    generator: Generator
    sink: Sink


@contextlib.contextmanager
def traffic(subject: Subject, far: Far, case: Case, rate: float = 0, way: str = "") -> Iterator[Way]:
    """One direction, `way`, or that of the case. `rate`: packets a second, 0 flat out."""
    out = far.out or far.wire
    each = max(case.flows // case.sessions, 1)
    streams = len(far.sessions) * each
    host = subject.lab.host
    begun = time.monotonic_ns()
    send: dict[str, Any] = {"flows": each, "size": case.sizes, "coalescible": streams == 1, "rate": rate, "port": SINK_PORT}
    if (way or case.direction) == "up":
        with host.entered():
            inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inner:
            inner.bind((INSIDE, SINK_PORT))
            merge(inner)
            sink = Sink(inner.fileno(), "bare", streams, begun)
            if far.inside:
                with subject.lab.peer.entered():
                    into, address = open_packet(far.inside, False)
                with into:
                    there = [Session(0, 0, INSIDE)]
                    yield Way(Generator(into.fileno(), "bare", there, far.sessions[0].address, peer=address, **send), sink)
            else:
                yield Way(Generator(out.fileno(), far.framing, far.sessions, INSIDE, peer=None if far.out else far.host, link=far.link,
                                    ends=far.ends, sink=sink, **send), sink)
    else:
        with host.entered():
            into, address = open_packet(far.interface, far.whole)
        with into:
            sink = Sink(far.wire.fileno(), far.framing, streams, begun, far.ends)
            yield Way(Generator(into.fileno(), "bare", far.sessions, INSIDE, peer=address, ends=far.ends, sink=sink, **send), sink)


def udp(subject: Subject, far: Far, case: Case, seconds: float, rate: float = 0) -> Run:
    """Our generator for so long, each way at `rate`; what is under way when it ends is still counted."""
    with contextlib.ExitStack() as stack:
        ways = [stack.enter_context(traffic(subject, far, case, rate, way)) for way in case.ways]
        meter = Meter(subject.roles(), subject.workers, subject.own())

        def charged(role: str, work: Callable[[], Any]) -> threading.Thread:
            def run() -> None:
                begun = time.thread_time_ns()
                work()
                meter.charge(role, time.thread_time_ns() - begun)
            return threading.Thread(target=run)
        sinking = [charged("sink", way.sink.run) for way in ways]
        sending = [charged("generator", lambda g=way.generator: g.run(seconds)) for way in ways]      # type: ignore[misc]
        before = subject.packets()
        meter.start()
        begun = time.monotonic()
        for thread in sinking + sending:
            thread.start()
        try:
            for thread in sending:
                thread.join()
            sent_for = time.monotonic() - begun
        finally:
            for way in ways:
                way.generator.stop()
            for thread in sending:
                thread.join()
            settled(subject)
            for way in ways:
                way.sink.stop()
            for thread in sinking:
                thread.join()
        usage, after = meter.stop(), subject.packets()
    sent = sum(way.generator.sent for way in ways)
    if not sent:
        raise LabError(f"the generator could send nothing ({case})")
    seen = {key: sum(way.sink.counters[key] for way in ways) for key in ("received", "bytes", "reordered", "duplicates")}
    latency = {name: max(way.sink.percentile(share) for way in ways) / 1e3 for name, share in PERCENTILES.items()}
    return summary(usage, moved(case, before, after), seen["bytes"] * 8, usage.elapsed / 1e9, offered_pps=sent / sent_for, sent=sent,
                   lost=sent - seen["received"], reordered=seen["reordered"], duplicates=seen["duplicates"], latency_us=latency)


def settled(subject: Subject) -> Packets:
    """Its packets when it has done what was queued: for CALM looks it moved none. Whoever keeps sending to it is not waited for."""
    last, calm = subject.packets(), 0
    for _ in range(60):
        time.sleep(0.01)
        now = subject.packets()
        calm = calm + 1 if now == last else 0
        if calm == CALM:
            break
        last = now
    return last


def alone(subject: Subject, far: Far, case: Case) -> float:
    """Packets a second that the generator sends on this wire when nobody forwards: into a socket that nobody reads, frames to a
    station that is not there, or a TUN whose reader, on the forwarder's core, throws away what comes. Of two directions the lesser."""
    rates = []
    far = far._replace(ends=far.ends and far.ends.copy(), link=NOBODY + far.link[len(NOBODY):] if far.link else b"")
    for way in case.ways:
        host, address = subject.lab.host, (far.host[0], HOLE_PORT)
        with contextlib.ExitStack() as stack, traffic(subject, far, case, way=way) as (generator, _):
            hole: Hole | None = None
            with host.entered():
                if way == "up" and not far.link:
                    unread = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    unread.bind(address)
                    generator.aim(unread.getsockname())
                elif way == "down":
                    tun = open_tun("hole0")
                    stack.callback(os.close, tun)
                    host.configure("hole0", "10.99.0.1/24", MTU)
                    generator.aim(packet_address("hole0"))
                    hole = Hole(tun)
            draining = threading.Thread(target=pinned, args=(hole.run,)) if hole else None
            if draining:
                draining.start()
            try:
                rates.append(generator.run(ALONE) / ALONE)
            finally:
                if hole and draining:
                    hole.stop()
                    draining.join()
    return min(rates)


def pinned(work: Callable[[], Any]) -> None:
    os.sched_setaffinity(0, {FORWARDER})
    work()


# --- a subject in its lab

class Ready(NamedTuple):
    """A subject that is up for one kind of traffic."""
    subject: Subject
    far: Far | None

    def run(self, case: Case, seconds: float, rate: float = 0) -> Run:
        self.subject.attend()
        return udp(self.subject, self.far, case, seconds, rate) if self.far else tcp(self.subject, case, seconds)

    def ciphered(self, case: Case, seconds: float, rate: float = 0) -> float:
        """What share of the cost is the cipher's, in a run of a concentrator of ours with its stages timed."""
        assert isinstance(self.subject, Headrace)
        with contextlib.closing(self.subject.looker()) as looker, timing(looker.tables):
            before = looker.look()
            self.run(case, seconds, rate)
            report = compare(before, looker.look())
        return sum(stage["share"] for stage in report["stages"] if stage["stage"] in CIPHERS)

    def alone(self, case: Case) -> float | None:
        return alone(self.subject, self.far, case) if self.far else None


@contextlib.contextmanager
def prepared(make: Callable[[Lab, int], Subject], wire: str, kind: str, sessions: int, workers: int = 1) -> Iterator[Ready]:
    """In a lab of its own."""
    with Lab(wire) as lab, contextlib.ExitStack() as stack:
        subject = make(lab, workers)
        stack.callback(subject.stop)
        subject.start()
        if kind == "tcp":
            subject.dial()
        yield Ready(subject, subject.attach(sessions) if kind == "udp" else None)


def pin() -> None:
    """This process, and with it generator and sink, off the forwarder's core."""
    try:
        os.sched_setaffinity(0, {OTHERS})
    except OSError:
        raise LabError("the bench needs two cores: one for the forwarder, one for everything else")
