"""IPv6 through the worker, without root: what is admitted, routed, cut, answered, given to control, and what stays on its link."""
import ipaddress
import socket
import struct

import pytest
from headrace.fastpath.table import ConfigFlag
from reference import ip
from rig.forwarder import GATEWAY6, NEEDS_CSUM, TCPV6, Bench, mapped, udp

PREFIX, HOST, FAR = "2001:db8:67:1::", "2001:db8:67:1::2", "2001:db8:ffff::9"
ROUTER, NODE, GROUP = "fe80::1", "fe80::2", "ff02::2"
IPV6 = b"\x00\x57"
RS, NS, ECHO = (bytes((kind, 0, 0, 0)) + bytes(4) for kind in (133, 135, 128))
ICMPV6 = 58


def packed(text):
    return ipaddress.IPv6Address(text).packed


def six(content, transport, source=HOST, destination=FAR, **fields):
    return ip.ip6(content, transport, source=packed(source), destination=packed(destination), **fields)


@pytest.fixture
def bench(tmp_path):
    b = Bench(tmp_path / "tables")
    yield b
    b.close()


@pytest.mark.parametrize("ppp", [b"\xff\x03\x00\x57", b"\x00\x57", b"\xff\x03\x57", b"\x57"])
def test_user_data_goes_up(bench, ppp):
    bench.session(prefix=PREFIX)
    packet = six(ip.udp(b"hello"), ip.UDP)
    bench.send(ppp + packet + b"padding", head=struct.pack("!HHH", 2, 1, 1))
    assert bench.inner_read() == ((0,) * 6, packet)
    assert bench.tables.counters(bench.tables.slot(1, 1))[:2] == (1, len(packet))


@pytest.mark.parametrize("acfc, pfc", [(False, False), (True, False), (False, True), (True, True)])
def test_user_data_goes_down_with_the_templates_header(bench, acfc, pfc):
    slot, _ = bench.session(prefix=PREFIX, flags=ConfigFlag.CONFIG_COPY_DSCP)
    head, ppp = struct.pack("!HHH", 2, 9, 8), (b"" if acfc else b"\xff\x03") + (b"" if pfc else b"\x00")
    bench.tables.configure(slot, template=head + ppp + b"\x21", ppp_at=len(head))
    bench.peer.setsockopt(socket.IPPROTO_IP, 13, 1)      # IP_RECVTOS
    packet = six(ip.udp(b"down"), ip.UDP, FAR, HOST, tos=0xB9)
    bench.inner_write(packet)
    data, ancillary, _, _ = bench.peer.recvmsg(2000, 100)
    assert data == head + ppp + b"\x57" + packet and ancillary[0][2][0] == 0xB9
    bench.inner_write(udp("10.0.0.1", "10.67.0.2", b"the other family"))
    assert bench.peer.recv(2000).startswith(head + ppp + b"\x21\x45")


def test_prefixes_of_its_own_and_the_longest_one_routes(bench):
    """A delegated prefix admits and routes; a longer one inside of it is another session's."""
    bench.session(prefix=PREFIX)
    bench.session(session=2, address="10.67.0.3", prefix="2001:db8:67:2::", peer_session=7)
    bench.tables.insert(packed("2001:db8:100::"), 56, bench.tables.slot(1, 1))
    bench.tables.insert(packed("2001:db8:100:8::"), 64, bench.tables.slot(1, 2))
    bench.send(IPV6 + six(ip.udp(b"delegated"), ip.UDP, "2001:db8:100:9::1"))
    assert bench.inner_read()[1].endswith(b"delegated")
    for destination, session in ("2001:db8:100:9::1", 8), ("2001:db8:100:8::1", 7), (HOST, 8), ("2001:db8:67:2::77", 7):
        bench.inner_write(six(ip.udp(b"x"), ip.UDP, FAR, destination))
        assert struct.unpack("!HHH", bench.peer.recv(2000)[:6])[2] == session, destination
    bench.send(IPV6 + six(ip.udp(b"x"), ip.UDP, "2001:db8:100:8::1"))
    bench.wait_verdict("DROP_SPOOF")
    bench.inner_write(six(ip.udp(b"x"), ip.UDP, FAR, "2001:db8:101::1"))
    bench.wait_verdict("DROP_NO_ROUTE")


@pytest.mark.parametrize("packet, verdict", [
    (six(ip.udp(b"x"), ip.UDP, "2001:db8:67:2::2"), "DROP_SPOOF"), (six(ip.udp(b"x"), ip.UDP, "::"), "DROP_SPOOF"),
    (six(ip.udp(b"x"), ip.UDP, "::1"), "DROP_SPOOF"), (six(ip.udp(b"x"), ip.UDP, "::ffff:10.67.0.2"), "DROP_SPOOF"),
    (six(ip.udp(b"x"), ip.UDP, "::10.67.0.2"), "DROP_SPOOF"), (six(ip.udp(b"x"), ip.UDP, "ff02::1"), "DROP_SPOOF"),
    (six(ip.udp(b"x"), ip.UDP, NODE), "DROP_SCOPE"), (six(ip.udp(b"x"), ip.UDP, HOST, ROUTER), "DROP_SCOPE"),
    (six(ip.udp(b"x", dport=5353), ip.UDP, NODE, "ff02::fb"), "DROP_SCOPE"), (six(ip.udp(b"x"), ip.UDP, HOST, "ff0e::1"), "DROP_SCOPE"),
    (six(bytes((143, 0, 0, 0)) + bytes(4), ICMPV6, NODE, "ff02::16"), "DROP_SCOPE"),
    (six(b"", 59, NODE, GROUP, summed=False), "DROP_SCOPE"),
    (six(b"\x85", ICMPV6, NODE, GROUP, summed=False), "DROP_SCOPE"),
    (six(RS, ICMPV6, NODE, GROUP, extensions=bytes((ICMPV6, 0, 0, 1, 0, 0, 0, 0)), first=44), "DROP_SCOPE"),
    (six(ip.udp(b"x"), ip.UDP)[:39], "DROP_IP"), (six(ip.udp(b"x"), ip.UDP)[:47], "DROP_IP"),
    (udp("10.67.0.2", "10.0.0.1", b"IPv4 under IPv6's number"), "DROP_IP"),
])
def test_what_does_not_go_up(bench, packet, verdict):
    bench.session(prefix=PREFIX)
    bench.send(IPV6 + packet)
    bench.wait_verdict(verdict)
    good = six(ip.udp(b"after"), ip.UDP)
    bench.send(IPV6 + good)
    assert bench.inner_read()[1] == good and not bench.frames(timeout=0)


def test_ipv6_under_ipv4s_number(bench):
    bench.session(prefix=PREFIX)
    bench.send(b"\x00\x21" + six(ip.udp(b"x"), ip.UDP))
    bench.wait_verdict("DROP_IP")


@pytest.mark.parametrize("destination", ["ff02::1", "ff0e::1", NODE, "::ffff:10.67.0.2", "::1"])
def test_what_does_not_go_down(bench, destination):
    bench.session(prefix=PREFIX)
    bench.inner_write(six(ip.udp(b"x"), ip.UDP, FAR, destination))
    bench.wait_verdict("DROP_SCOPE")
    bench.inner_write(six(ip.udp(b"x"), ip.UDP, ROUTER, HOST))
    bench.wait_verdict("DROP_SCOPE", 2)


@pytest.mark.parametrize("families, open4, open6", [(16, True, False), (32, False, True), (48, True, True), (0, False, False)])
def test_a_family_that_is_not_open(bench, families, open4, open6):
    """Neither way, whatever the session's prefixes are; the other family does not notice."""
    slot, _ = bench.session(families=0)
    bench.tables.insert(packed(PREFIX), 64, slot)
    bench.tables.configure(slot, flags=families)
    packets = ((open4, b"\x00\x21", udp("10.67.0.2", "10.0.0.1", b"4"), udp("10.0.0.1", "10.67.0.2", b"4")),
               (open6, IPV6, six(ip.udp(b"6"), ip.UDP), six(ip.udp(b"6"), ip.UDP, FAR, HOST)))
    refused = 0
    for is_open, ppp, up, down in packets:
        bench.send(ppp + up)
        bench.inner_write(down)
        if is_open:
            assert bench.inner_read()[1] == up and bench.peer.recv(2000).endswith(down)
        else:
            refused += 2
            bench.wait_verdict("DROP_NOT_OPEN", refused)
    assert bench.verdicts().get("DROP_NOT_OPEN", 0) == refused


@pytest.mark.parametrize("packet", [
    six(RS, ICMPV6, NODE, GROUP, hops=255), six(RS, ICMPV6, "::", GROUP, hops=255), six(NS, ICMPV6, "::", "ff02::1:ff00:2", hops=255),
    six(NS, ICMPV6, HOST, ROUTER, hops=255), six(ECHO, ICMPV6, NODE, ROUTER), six(ip.udp(b"solicit", 546, 547), ip.UDP, NODE, "ff02::1:2"),
    six(RS, ICMPV6, NODE, GROUP, extensions=bytes((ICMPV6, 0, 5, 2, 0, 0, 1, 0)), first=0),
])
def test_what_control_answers(bench, packet):
    slot, generation = bench.session(prefix=PREFIX)
    bench.send(IPV6 + packet)
    assert bench.frames() == [(2, 0, slot, generation, 0x57, None, packet)]
    assert bench.tables.counters(slot)[0] == 0, "no user data"
    bench.channels[0].send([(2, slot, generation, 0x57, None, b"the answer")])
    assert bench.peer.recv(2000) == struct.pack("!HHH", 2, 9, 8) + b"\xff\x03" + IPV6 + b"the answer"


def test_nobody_keeps_control_busy(bench):
    """Twenty a second of one session's reach it; another session's still do."""
    slot, _ = bench.session(prefix=PREFIX)
    other, _ = bench.session(session=2, address="10.67.0.3", prefix="2001:db8:67:2::")
    for _ in range(50):
        bench.send(IPV6 + six(RS, ICMPV6, NODE, GROUP))
    bench.send(IPV6 + six(RS, ICMPV6, NODE, GROUP), session=2)
    bench.wait_verdict("DROP_SOLICIT", 10)
    frames = []
    while other not in [frame[2] for frame in frames]:
        frames += bench.frames()
    assert 20 <= sum(frame[2] == slot for frame in frames) <= 40        # a second may end between them
    assert bench.verdicts()["DROP_SOLICIT"] + len(frames) == 51


@pytest.mark.parametrize("gso", [True, False])
def test_a_super_packet_is_cut(tmp_path, gso):
    bench = Bench(tmp_path / "t", gso=gso)
    try:
        bench.session(prefix=PREFIX)
        data = bytes(range(256)) * 40
        whole = six(ip.tcp(data, seq=5, flags=ip.ACK | ip.PSH), ip.TCP, FAR, HOST)
        bench.inner_write(whole, flags=NEEDS_CSUM, gso=TCPV6, size=1000, start=40, offset=16)
        got = [bench.peer.recv(2000)[10:] for _ in range(11)]
        for i, packet in enumerate(got):
            flags = ip.ACK | ip.PSH if i == 10 else ip.ACK
            assert packet == six(ip.tcp(data[1000 * i:1000 * (i + 1)], seq=5 + 1000 * i, flags=flags), ip.TCP, FAR, HOST)
        assert bench.wait_verdict("DOWN", 11) == 11
        assert bool(bench.tables.worker_records()["gso_sends"][0]) is gso
    finally:
        bench.close()


def test_segments_of_a_flow_arrive_as_one(bench):
    bench.session(prefix=PREFIX)
    pieces = [six(ip.tcp(bytes([i]) * 500, seq=500 * i), ip.TCP) for i in range(20)]
    segments = b"".join(struct.pack("!HHH", 2, 1, 1) + b"\xff\x03" + IPV6 + piece for piece in pieces)
    bench.peer.sendmsg([segments], [(17, 103, struct.pack("H", len(pieces[0]) + 10))], 0, bench.address)      # UDP_SEGMENT
    (flags, kind, header, size, start, offset), packet = bench.inner_read()
    assert (flags, kind, size, start, offset, header) == (NEEDS_CSUM, TCPV6, 500, 40, 16, 60)
    assert packet[60:] == b"".join(bytes([i]) * 500 for i in range(20))


def test_an_unfinished_checksum_is_completed(bench):
    bench.session(prefix=PREFIX)
    whole = six(ip.udp(b"payload"), ip.UDP, FAR, HOST)
    pseudo = ip.total(ip.pseudo(whole, ip.UDP, 15))
    bench.inner_write(whole[:46] + struct.pack("!H", pseudo) + whole[48:], flags=NEEDS_CSUM, start=40, offset=6)
    assert bench.peer.recv(2000)[10:] == whole


@pytest.mark.parametrize("size", [0, 1300])
def test_a_packet_too_large_is_answered(bench, size):
    """Also a super-packet whose segments are; the answer comes from our own address, and is right."""
    bench.session(mtu=1300, prefix=PREFIX)
    packet = six(ip.tcp(bytes(3000 if size else 1261)), ip.TCP, FAR, HOST)
    bench.inner_write(packet, flags=NEEDS_CSUM if size else 0, gso=TCPV6 if size else 0, size=size, start=40, offset=16)
    _, answer = bench.inner_read()
    assert ip.right(answer) and answer[6] == ICMPV6 and answer[40:42] == b"\x02\x00" and struct.unpack("!I", answer[44:48]) == (1300,)
    assert answer[8:40] == packed(GATEWAY6) + packed(FAR) and len(answer) == 1280 and answer[48 + 8:88] == packed(FAR) + packed(HOST)
    bench.wait_verdict("TOO_BIG")
    bench.inner_write(six(ip.tcp(bytes(1240)), ip.TCP, FAR, HOST))
    assert len(bench.peer.recv(2000)) == 10 + 1300


def test_without_an_address_of_ours_none_is_answered(bench):
    slot, _ = bench.session(mtu=1300, prefix=PREFIX)
    bench.tables.configure(slot, gateway6=bytes(16))
    bench.inner_write(six(ip.udp(bytes(1300)), ip.UDP, FAR, HOST))
    bench.wait_verdict("DROP_TOO_BIG")


def test_mss_is_clamped_both_ways(bench):
    bench.session(mtu=1300, prefix=PREFIX)
    syn = {"flags": ip.SYN, "options": b"\x02\x04\x05\xb4"}
    bench.send(IPV6 + six(ip.tcp(**syn), ip.TCP))
    bench.inner_write(six(ip.tcp(**syn), ip.TCP, FAR, HOST))
    syn["options"] = b"\x02\x04" + struct.pack("!H", 1300 - 60)
    assert bench.inner_read()[1] == six(ip.tcp(**syn), ip.TCP)
    assert bench.peer.recv(2000)[10:] == six(ip.tcp(**syn), ip.TCP, FAR, HOST)


def test_congestion_experienced_comes_in(bench):
    bench.session(prefix=PREFIX)
    bench.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
    bench.send(IPV6 + six(ip.udp(b"x"), ip.UDP, tos=0xB8 | 2))
    assert bench.inner_read()[1] == six(ip.udp(b"x"), ip.UDP, tos=0xB8 | 3)
    bench.send(IPV6 + six(ip.udp(b"x"), ip.UDP))
    bench.wait_verdict("DROP_ECN")


def test_every_packet_crosses_a_ring(tmp_path):
    """Owner and receiver differ, both ways."""
    bench = Bench(tmp_path / "t", workers=2)
    try:
        for n in range(1, 9):
            bench.session(session=n, address=f"10.67.0.{n + 1}", owner=n % 2, prefix=f"2001:db8:67:{n}::", peer_session=n)
        for n in range(1, 9):
            up = six(ip.udp(bytes([n])), ip.UDP, f"2001:db8:67:{n}::2")
            bench.send(IPV6 + up, session=n)
            assert bench.inner_read()[1] == up
            down = six(ip.udp(bytes([n])), ip.UDP, FAR, f"2001:db8:67:{n}::2")
            bench.inner_write(down, worker=0)
            assert bench.peer.recv(2000) == struct.pack("!HHH", 2, 9, n) + b"\xff\x03" + IPV6 + down
            bench.send(IPV6 + six(RS, ICMPV6, NODE, GROUP), session=n)
            assert bench.frames(n % 2)[0][:3] == (2, n % 2, bench.tables.slot(1, n))
        assert bench.tables.worker_records()["ring_in"].sum() >= 8
    finally:
        bench.close()


def test_the_index_keeps_the_families_apart(bench):
    """Each has its own lengths, and an IPv4 address in IPv6's clothes leads nowhere."""
    tables = bench.tables
    slots = [bench.session(session=n, address=f"10.67.0.{n}")[0] for n in (1, 2, 3)]
    for length in range(17, 49):
        tables.insert(packed("2001:db8::"), length, slots[0])
    with pytest.raises(ValueError, match="no room for more than 16 prefix lengths of IPv4 and 32 of IPv6"):
        tables.insert(packed("2001:db8::"), 64, slots[0])
    tables.insert(mapped("192.0.2.0"), 120, slots[1])
    assert tables.lookup(mapped("192.0.2.9")) == slots[1] and tables.lookup(packed("2001:db8::9")) == slots[0]
    assert tables.lookup(mapped("10.67.0.3")) == slots[2] and tables.lookup(packed("::10.67.0.3")) == 0
    assert tables.delete(packed("2001:db8::"), 48, slots[0]) and tables.lookup(packed("2001:db8::9")) == slots[0]
    tables.clear_addresses()
    tables.insert(packed("::"), 0, slots[1])
    assert tables.lookup(packed("2001:db8::9")) == slots[1] and tables.lookup(mapped("10.67.0.3")) == 0
