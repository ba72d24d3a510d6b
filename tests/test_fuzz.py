"""Any octets through a whole worker, from either side, without root: each has its verdict, and the traffic behind it is not disturbed.

In the build with sanitizers, where the octets behind a received packet are out of bounds, this finds over-reads (`make sanitize`).
"""
from __future__ import annotations

import ipaddress
import itertools
import os
import struct
import time

import pytest
from headrace.control import mac, tags
from headrace.fastpath._probe_pppoe import pull_pppoe
from headrace.fastpath.service import offer
from headrace.fastpath.table import State
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rig.forwarder import AC, NEEDS_CSUM, TCPV4, UDP_L4, VNET, Bench, ipv4, tcp, udp

IP, IPV6, LCP = b"\xff\x03\x00\x21", b"\xff\x03\x00\x57", b"\xff\x03\xc0\x21"
EXAMPLES = int(os.environ.get("HEADRACE_FUZZ", "300"))      # examples a property
THOROUGH = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MARKS = itertools.count()

INSIDE, OUTSIDE = "10.67.0.2", "10.0.0.1"
INSIDE6, OTHER6, OUTSIDE6, LINK6, ROUTERS = (ipaddress.IPv6Address(a).packed for a in (
    "fd00:67::2", "fd00:67:3::2", "2001:db8::1", "fe80::2", "ff02::2"))



def header(flags, length=0, tunnel=1, session=1, ns=0, pad=None):
    """An L2TP header with the fields that flags promise; lengths may lie."""
    length, offset = struct.pack("!H", length), struct.pack("!H", len(pad or b"")) + (pad or b"")
    return (struct.pack("!H", flags) + length * bool(flags & 0x4000) + struct.pack("!HH", tunnel, session)
            + struct.pack("!HH", ns, 0) * bool(flags & 0x0800) + offset * bool(flags & 0x0200))


headers = st.builds(
    header, st.sampled_from([2, 2, 2, 0x4002, 0x0802, 0x0202, 0x4A02, 0xC802, 0xFFF2, 3]), st.integers(0, 120),
    st.sampled_from([1, 1, 1, 2]), st.sampled_from([1, 1, 1, 2, 3, 0]), st.integers(0, 65535), st.binary(max_size=8))
links = st.sampled_from([IP, IP, IP, IPV6, IPV6,
                         b"\x21", b"\xff\x03\x21", b"\0\x21", LCP, b"\xc0\x21", b"\x80\x21", b"\xff\x03", b"\x57", b""])
# Hop-by-hop and destination options, a fragment, a routing header, and what lies about its length.
extensions = st.lists(st.tuples(st.sampled_from([0, 60, 44, 43, 51]), st.integers(0, 2), st.binary(max_size=30)), max_size=4).map(
    lambda chain: [(kind, bytes((size,)) + body.ljust(8 * size + 6, b"\0")) for kind, size, body in chain])


def six(content, transport, source, destination, chain=()):
    """An IPv6 packet with a chain of extension headers, the transport's checksum as it comes."""
    kinds = [kind for kind, _ in chain] + [transport]
    whole = b"".join(bytes((following,)) + body for following, (_, body) in zip(kinds[1:], chain, strict=True)) + content
    return struct.pack("!IHBB", 6 << 28, len(whole), kinds[0], 64) + source + destination + whole


def sixes(sources, destinations):
    return st.builds(six, st.one_of(st.binary(max_size=80), st.integers(0, 3000).map(bytes), st.sampled_from([133, 135, 128, 143]).map(
        lambda kind: bytes((kind,)) + bytes(23)), st.just(struct.pack("!HHHH", 546, 547, 8, 0))), st.sampled_from([6, 17, 58, 59]),
        st.sampled_from(sources), st.sampled_from(destinations), extensions)


sound = st.one_of(
    sixes([INSIDE6, INSIDE6, LINK6, OTHER6, bytes(16)], [OUTSIDE6, OUTSIDE6, ROUTERS]),
    st.builds(lambda body, sport: udp(INSIDE, OUTSIDE, body, sport), st.binary(max_size=80), st.integers(1, 3)),
    st.builds(lambda n, k, flags, options: tcp(INSIDE, OUTSIDE, bytes(n), k * n, flags=flags, ident=k, options=options),
              st.integers(0, 60), st.integers(0, 4), st.sampled_from([0x10, 0x18, 0x02, 0x12, 0xFF]),
              st.sampled_from([b"", b"\x02\x04\xff\xff", b"\1\2\4\xff\xff\0\0\0", b"\2\1\0\0", b"\2\0\0\0", bytes(40)])),
    st.builds(lambda body, kind: ipv4(INSIDE, OUTSIDE, body, kind), st.binary(max_size=40), st.sampled_from([1, 6, 17, 47])))
lcp = st.builds(
    lambda echo, length, magic, body: struct.pack("!BBHI", echo, 1, length, magic) + body,
    st.integers(8, 12), st.integers(0, 40), st.sampled_from([0x11111111, 0x22222222, 0]), st.binary(max_size=40))


@st.composite
def spoilt(draw, sources):
    """A sound packet, or one with octets changed, cut or appended."""
    data = bytearray(draw(sources))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3)):
        if at < len(data):
            data[at] = value
    kept = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return bytes(data[:kept]) + draw(st.one_of(st.just(b""), st.binary(max_size=6)))


joined = lambda *parts: b"".join(parts)
messages = st.one_of(st.builds(joined, headers, links, spoilt(sound)), st.builds(joined, headers, links, st.binary(max_size=60)),
                     st.builds(joined, headers, st.sampled_from([LCP, LCP[2:]]), spoilt(lcp)), st.binary(max_size=60))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sequenced"])
def bench(request, tmp_path_factory):
    """A worker with an open session, one that is not open yet, and one whose MTU is small."""
    bench = Bench(tmp_path_factory.mktemp("fuzz") / "tables")
    bench.tables.beat(1 << 62)
    bench.session(1, 1, INSIDE, sequenced=request.param, flags=2 | 8, prefix="fd00:67::")
    bench.session(1, 2, "10.67.0.3", peer_session=9, state=State.OPENING)
    bench.session(1, 3, "10.67.0.4", peer_session=10, mtu=300, prefix="fd00:67:3::")
    bench.call(7, "10.67.0.5")
    bench.call(8, "10.67.0.6", state=State.OPENING)
    bench.pppoe(9, HOST_ADDRESS, peer=HOST)
    bench.pppoe(10, "10.67.0.8", peer=HOST, state=State.OPENING)
    offer(bench.tables, [{"name": b"internet", "ac_name": b"ac", "port": 2, "max_payload": 1500},
                         {"name": b"tv", "ac_name": b"ac", "port": 2, "ranges": [((0, 7), (0, 0))], "delay": 1}],
          {2: (mac.mac(AC), 60000, 60000)})
    yield bench
    bench.close()


def still_works(bench):
    """One packet each way, which must arrive, whatever lies before it."""
    mark = struct.pack("!4sI", b"mark", next(MARKS))
    bench.send(b"\0\x21" + udp("10.67.0.4", OUTSIDE, mark), session=3)
    while not bench.inner_read()[1].endswith(mark):
        pass
    bench.inner_write(udp(OUTSIDE, "10.67.0.4", mark))
    while not bench.peer.recv(70000).endswith(mark):
        pass
    while bench.channels[0].receive():
        pass


def settled(bench, n):
    """Until n more packets were counted; then their verdicts."""
    before = bench.verdicts()
    yield
    until = time.monotonic() + 2
    while time.monotonic() < until:
        after = bench.verdicts()
        more = {k: after[k] - before.get(k, 0) for k in after if after[k] != before.get(k, 0)}
        if sum(more.values()) >= n:
            break
    yield more


def counted(bench, data, send):
    """Verdicts of what was sent, and of the two packets after it that still went through."""
    count = settled(bench, len(data) + 2)
    next(count)
    for each in data:
        send(each)
    still_works(bench)
    return next(count)


@THOROUGH
@given(st.lists(messages, min_size=1, max_size=6))
@example([header(2) + LCP + struct.pack("!BBHI", 9, 7, 12, 0x22222222) + b"data", header(2, session=2) + IP + udp(INSIDE, OUTSIDE, b"x")])
@example([header(0x0202, pad=b"abc")[:9] + b"xy", header(0x0202)[:6] + b"\xff\xff" + IP, header(2) + IP + udp("10.67.0.9", OUTSIDE, b"")])
def test_datagrams(bench, data):
    """Each has one verdict, and exactly one."""
    verdicts = counted(bench, data, lambda each: bench.peer.sendto(each, bench.address))
    assert sum(verdicts.values()) == len(data) + 2, verdicts


def gre(flags, call, sequence, ack, lie, payload):
    """An enhanced GRE packet with the fields that flags promise; the length may lie."""
    numbers = struct.pack("!I", sequence) * bool(flags & 0x1000) + struct.pack("!I", ack) * bool(flags & 0x80)
    return struct.pack("!HHHH", flags, 0x880B, len(payload) + lie & 0xFFFF, call) + numbers + payload


numbers = st.one_of(st.integers(0, 300), st.integers(0, 0xFFFFFFFF))
packets = st.one_of(st.binary(max_size=40), st.builds(
    gre, st.sampled_from([0x3001, 0x3001, 0x3081, 0x2081, 0x2001, 0xFFFF]), st.sampled_from([7, 7, 7, 8, 9, 0]), numbers, numbers,
    st.sampled_from([0, 0, 0, 1, -1, 200]), st.builds(joined, links, spoilt(st.one_of(sound, lcp)))))
raw = st.builds(lambda packet, cut, tos: ipv4("192.0.2.9", "192.0.2.1", packet, 47, tos=tos)[:cut],
                packets, st.one_of(st.just(None), st.integers(0, 80)), st.integers(0, 255))


@THOROUGH
@given(st.lists(st.one_of(raw, raw, st.binary(min_size=1, max_size=60)), min_size=1, max_size=6))
def test_gre(bench, data):
    """As datagrams: each has one verdict, and exactly one."""
    data = [each for each in data if each]
    verdicts = counted(bench, data, bench.gre[0].send)
    while bench.gre_read(timeout=0):
        pass
    assert sum(verdicts.values()) == len(data) + 2, verdicts


@THOROUGH
@given(st.lists(messages, min_size=1, max_size=4), st.integers(1, 80))
def test_datagrams_in_one_buffer(bench, data, size):
    """What the kernel merged (UDP_GRO) is taken apart by size, wherever the cuts fall."""
    whole = b"".join(data)[:64 * size]
    n = -(-len(whole) // size) or 1
    count = settled(bench, n + 2)
    next(count)
    bench.peer.sendmsg([whole], [(17, 103, struct.pack("H", size))], 0, bench.address)      # UDP_SEGMENT
    still_works(bench)
    verdicts = next(count)
    assert sum(verdicts.values()) == n + 2, verdicts


HOST_ADDRESS = "10.67.0.7"
HOST = mac.station(bytes.fromhex("02005e100001"))
stations = st.sampled_from([mac.mac(HOST)] * 4 + [bytes.fromhex("02005e100002"), mac.BROADCAST, bytes(6)])
vlans = st.lists(st.tuples(st.sampled_from([mac.C_TAG, mac.S_TAG]), st.sampled_from([0, 0xA000, 7, 0xFFFF])), max_size=3).map(
    lambda found: b"".join(struct.pack("!HH", *tag) for tag in found))
values = st.one_of(st.binary(max_size=20), st.sampled_from([b"internet", b"tv", b"", (1500).to_bytes(2), bytes(9)]),
                   st.integers(0, 1490).map(bytes))
tlvs = st.lists(st.tuples(st.sampled_from([*tags.TAGS, 0x0101, 0x0101, tags.END_OF_LIST, 0x7777]), values,
                          st.sampled_from([0, 0, 0, 0, 1, -1, 40000])), max_size=6).map(
    lambda found: b"".join(struct.pack("!HH", kind, max(len(value) + lie, 0)) + value for kind, value, lie in found))
asked = st.builds(joined, st.sampled_from([b"\1\1\0\0", b"\1\1\0\0", b""]), tlvs)
ours = st.one_of(sound, st.builds(lambda body, sport: udp(HOST_ADDRESS, OUTSIDE, body, sport), st.binary(max_size=80), st.integers(1, 3)))


def ethernet(to, sender, tagged, ethertype, version, code, session, lie, payload):
    """A frame whose length may lie."""
    return to + sender + tagged + struct.pack("!HBBHH", ethertype, version, code, session, len(payload) + lie & 0xFFFF) + payload


ac = st.sampled_from([mac.mac(AC)] * 3 + [mac.BROADCAST, mac.mac(HOST)])
untagged = st.one_of(st.just(b""), st.just(b""), vlans)
versions, lies = st.sampled_from([0x11] * 8 + [0x12, 0]), st.sampled_from([0, 0, 0, 0, 1, -1, -30, 200])
data_frames = st.builds(ethernet, ac, stations, untagged, st.just(0x8864), versions, st.sampled_from([0] * 6 + [9, 255]),
                        st.sampled_from([9, 9, 9, 10, 11, 0, 0xFFFF]), lies, st.builds(joined, links, spoilt(st.one_of(ours, lcp))))
discoveries = st.builds(ethernet, ac, stations, untagged, st.just(0x8863), versions, st.sampled_from([9, 9, 0x19, 0xA7, 7, 0x65, 0]),
                        st.sampled_from([0, 0, 0, 9, 11, 0xFFFF]), lies, asked)
ethernets = st.one_of(data_frames, data_frames, discoveries, discoveries, spoilt(st.one_of(data_frames, discoveries)),
                      st.binary(min_size=1, max_size=60))


@THOROUGH
@given(st.lists(ethernets, min_size=1, max_size=6))
@example([ethernet(mac.BROADCAST, mac.mac(HOST), b"", 0x8863, 0x11, 9, 0, 0, b"\1\1\0\0\1\3\5\x9c" + bytes(1436)),
          ethernet(mac.mac(AC), mac.mac(HOST), b"", 0x8864, 0x11, 0, 9, 0, b"\0\x21" + udp(HOST_ADDRESS, OUTSIDE, b"x"))])
@example([ethernet(mac.BROADCAST, mac.mac(HOST), b"", 0x8863, 0x11, 9, 0, 0, b"\1\1\0\1x"),
          ethernet(mac.mac(AC), mac.mac(HOST), b"", 0x8863, 0x11, 0x19, 0, 0, b"\1\1\0\0")])
def test_frames(bench, data):
    """As datagrams: each has one verdict, and exactly one, whatever is said of services, sessions and stations; no answer is torn."""
    data = [each for each in data if each]
    verdicts = counted(bench, data, bench.ethernet[0].send)
    while frame := bench.ethernet_read(timeout=0):
        at, fields = pull_pppoe(frame)
        assert at > 0 and fields["length"] == len(frame) <= 1522 and fields["station"] == AC[:2] + fields["station"][2:10] + mac.mac(AC)
        assert fields["ethertype"] == 0x8864 or not tags.decode(frame[at - tags.HEADER:]).fault
    assert sum(verdicts.values()) == len(data) + 2, verdicts


outward = st.one_of(
    sixes([OUTSIDE6, OUTSIDE6, LINK6], [INSIDE6, OTHER6, OUTSIDE6, ROUTERS]),
    st.builds(lambda to, body, df: udp(OUTSIDE, to, body, df=df), st.sampled_from([INSIDE, "10.67.0.3", "10.67.0.4", "10.67.0.9"]),
              st.binary(max_size=80) | st.integers(0, 5000).map(bytes), st.booleans()),
    st.builds(lambda body, kind: ipv4(OUTSIDE, INSIDE, body, kind), st.binary(max_size=40), st.sampled_from([1, 6, 17, 47])),
    st.integers(300, 3000).map(lambda n: udp(OUTSIDE, "10.67.0.4", bytes(n), df=False)),
    st.builds(lambda to, n, flags, options: tcp(OUTSIDE, to, bytes(n), 7, flags=flags, options=options),
              st.sampled_from([INSIDE, "10.67.0.4"]), st.integers(0, 5000), st.sampled_from([0x10, 0x18, 0x02, 0xFF]),
              st.sampled_from([b"", b"\2\4\xff\xff", bytes(40)])))
WHOLE = (0, 0, 0, 0, 0, 0)
virtio = st.tuples(st.sampled_from([0, NEEDS_CSUM, 2, 255]), st.sampled_from([0, 0, TCPV4, UDP_L4, 4, 0x81, 255]), st.just(0),
                   st.one_of(st.sampled_from([0, 1, 100, 1400]), st.integers(0, 65535)),
                   st.one_of(st.just(20), st.integers(0, 65535)), st.one_of(st.sampled_from([6, 16]), st.integers(0, 65535)))


@THOROUGH
@example([(WHOLE, udp(OUTSIDE, "10.67.0.4", bytes(1000), df=False)), (WHOLE, udp(OUTSIDE, "10.67.0.4", bytes(1000)))])
@example([((1, TCPV4, 0, 100, 20, 16), ipv4(OUTSIDE, INSIDE, bytes(4), 6)),
          ((1, UDP_L4, 0, 99, 20, 6), ipv4(OUTSIDE, INSIDE, bytes(300), 1))])
@example([(WHOLE, six(bytes(8), 17, OUTSIDE6, ROUTERS))])
@given(st.lists(st.tuples(virtio, st.one_of(spoilt(outward), st.binary(max_size=80))), min_size=1, max_size=4))
def test_packets_from_inside(bench, data):
    """A kernel's headers are believed nowhere where memory depends on them."""
    counts = settled(bench, len(data) + 2)
    next(counts)
    for header, packet in data:
        bench.inner[0].send(VNET.pack(*header) + (packet or b"E"))
    still_works(bench)
    verdicts = next(counts)
    assert sum(verdicts.values()) >= len(data) + 2, verdicts        # a super-packet counts once a segment


@THOROUGH
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1 << 17), st.integers(0, 3), st.integers(0, 65535), st.binary(max_size=2048)),
                min_size=1, max_size=4), st.binary(max_size=100))
def test_orders(bench, frames, torn):
    """Frames from control, whole ones of any content and torn ones."""
    path = (0, bytes(16), 1701, bytes(10) + b"\xff\xff\x7f\0\0\1", bench.peer.getsockname()[1])
    slot = bench.tables.slot(1, 1)
    bench.controls[0].send(torn or b"\0")
    bench.channels[0].send([(kind, at if at % 3 else slot, generation, protocol, path, body)
                            for kind, at, generation, protocol, body in frames])
    still_works(bench)


def test_it_came_everywhere(bench):
    """The properties above mean little if their data ended at the first gate. (What only luck would reach has an example.)"""
    wanted = """UP DOWN PUNT ECHO FRAGMENTED TOO_BIG DROP_SHORT DROP_VERSION DROP_LENGTH DROP_OFFSET DROP_NO_SESSION DROP_PEER DROP_NOT_OPEN
        DROP_IP DROP_SPOOF DROP_SCOPE DROP_NO_ROUTE DROP_SEGMENT OFFERED DROP_DISCOVERY DROP_SERVICE DROP_COOKIE"""
    assert set(wanted.split()) <= set(bench.verdicts()), set(wanted.split()) - set(bench.verdicts())
