"""User data of our own LAC through the whole concentrator: many sessions, two workers, and what must not pass."""
import socket
import struct
from dataclasses import replace

import pytest
from ours.lac import SOL_UDP, UDP_SEGMENT, ip4
from ours.packets import answered, checksum, drained, number, numbered, ping
from ours.peer import LINK
from ours.place import CONCENTRATOR, CONCENTRATOR6, FAR, LAN
from ours.stream import Stream
from peers.concentrator import LOCAL
from peers.lab import PASSWORD, until
from rig.forwarder import udp

pytestmark = pytest.mark.root

OTHER = {"HEADRACE_TEST_OWNER": "other"}
SESSIONS, RUN, ROUNDS = 1000, 4, 3          # each session sends and gets ROUNDS bursts of RUN packets
SIZE, WINDOW = 200, 2000                    # octets of an inner packet; packets under way at once, so that no buffer overflows
MEGABYTE = 1 << 20


def test_a_thousand_sessions_through_the_rings(place, here, lac):
    """One LAC, UDP_SEGMENT both ways, and no session lives at the worker that receives for it: nothing is lost, nothing overtakes."""
    secrets = {f"user{n}": {"password": PASSWORD} for n in range(SESSIONS)}
    concentrator = here({"workers": 2, "log": "warning"}, OTHER, {"secrets": secrets}, **{"keepalive-timeout": "0s"})
    client = lac()
    tunnel, link = client.tunnel(), replace(LINK, authentication=("pap",))
    callers = [client.call(user, tunnel=tunnel, link=link, wait=False) for user in secrets]
    client.until("all are up", lambda: all(caller.up for caller in callers), 40)
    up: list[list[tuple[int, int]]] = [[] for _ in callers]

    with place.udp(place.lan, LAN, 2000) as lan:
        datagrams = [[caller.header() + numbered(caller.address, LAN, n, k, SIZE) for k in range(RUN * ROUNDS)]
                     for n, caller in enumerate(callers)]
        sent = came = 0
        for which in mixed():
            client.burst([datagram for n, k in which for datagram in datagrams[n][k:k + RUN]])
            sent += len(which) * RUN
            if sent - came >= WINDOW:
                came += collect(drained(lan, WINDOW // 2), up)
        came += collect(drained(lan, sent - came), up)
        exact(up, sent, came)

        sent = came = 0
        for which in mixed():
            for n, k in which:
                payload = b"".join(struct.pack("!LL", n, k + i).ljust(SIZE - 28, b".") for i in range(RUN))
                lan.sendmsg([payload], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", SIZE - 28))], 0, (callers[n].address, 3000))
                sent += RUN
            if sent - came >= WINDOW:
                client.until("half of it", lambda sent=sent: arrived(callers) >= sent - WINDOW // 2)
                came = arrived(callers)
        client.until("the rest", lambda: arrived(callers) >= sent)
        exact([[number(p) for p in caller.received] for caller in callers], sent, arrived(callers))

    stats = concentrator.get("stats")
    # All comes from one address and port, so that one worker receives it, and each session is the other one's.
    assert sum(worker["ring-in"] for worker in stats["workers"]) >= stats["verdicts"]["handed"] > sent, stats
    assert stats["verdicts"]["drop-ring"] == 0, stats
    assert stats["verdicts"]["up"] >= sent and stats["verdicts"]["down"] >= sent


def mixed():
    """Sixteen sessions at a time, each with the place of its next run; neighbours in a burst change from round to round."""
    for turn in range(ROUNDS):
        order = [n * (7, 11, 13)[turn] % SESSIONS for n in range(SESSIONS)]
        for at in range(0, SESSIONS, 16):
            yield [(n, turn * RUN) for n in order[at:at + 16]]


def collect(found, into):
    for n, k in found:
        into[n].append((n, k))
    return len(found)


def arrived(callers):
    return sum(len(caller.received) for caller in callers)


def exact(streams, sent, came):
    """All that was sent, each stream in its order."""
    assert sent == came == SESSIONS * RUN * ROUNDS
    for n, stream in enumerate(streams):
        assert stream == [(n, k) for k in range(RUN * ROUNDS)]


def test_tcp_both_ways_at_once_with_two_workers(place, here, lac):
    """Each packet crosses a ring between the workers, in super-packets; every octet arrives, in order."""
    concentrator, client = here({"workers": 2}, OTHER), lac()
    joe = client.call("joe")
    with client.line(joe):
        streams = [Stream(place, place.far, place.lan, LAN), Stream(place, place.lan, place.far, joe.address)]
        try:
            client.until("40 MB each way", lambda: all(s.octets > 40 * MEGABYTE or s.error for s in streams), 40)
        finally:
            octets = [stream.stop() for stream in streams]
    session = concentrator.session("joe")
    assert session["rx-bytes"] > octets[0] > 40 * MEGABYTE and session["tx-bytes"] > octets[1] > 40 * MEGABYTE
    stats = concentrator.get("stats")
    assert sum(worker["ring-in"] for worker in stats["workers"]) > 0
    assert sum(worker["super-out"] for worker in stats["workers"]) > 0, "nothing was merged"


@pytest.mark.parametrize("to, dscp, level, asks, says", [
    (CONCENTRATOR, 10, socket.IPPROTO_IP, 13, socket.IP_TOS),
    (CONCENTRATOR6, "inherit", socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, socket.IPV6_TCLASS)])
def test_marks_and_bursts_of_either_outer_family(place, here, lac, to, dscp, level, asks, says):
    """A burst leaves in one piece with the inner packets' DSCP, or with what is configured, and with their ECN; a mark that the wire
    sets arrives inside (RFC 6040)."""
    concentrator, client = here(dscp=dscp), lac(to)
    joe, af, ect, ce = client.call("joe"), 0x88, 0x02, 0x03
    client.wire.setsockopt(level, asks, 1)
    with place.udp(place.lan, LAN, 2000) as lan:
        lan.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, af | ect)
        lan.setsockopt(socket.IPPROTO_IP, 13, 1)        # IP_RECVTOS
        before = concentrator.get("stats")["workers"][0]
        lan.sendmsg([bytes(range(200)) * 10], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", 200))], 0, (joe.address, 3000))
        found = []

        def burst():
            while client.wait(0):
                data, ancillary, _, _ = client.wire.recvmsg(2048, 256)
                found.append((data[-200:], *(int.from_bytes(value, "little") for *kind, value in ancillary if kind == [level, says])))
            return len(found) >= 10
        until("ten datagrams", burst)
        assert found == [(bytes(range(200)), (af if dscp == "inherit" else 10 << 2) | ect)] * 10
        after = until("it is counted", lambda: next((w for w in concentrator.get("stats")["workers"]
                                                     if w["gso-sends"] > before["gso-sends"]), None))
        assert after["gso-failures"] == before["gso-failures"]

        client.wire.setsockopt(level, says, ce)
        inner = bytearray(numbered(joe.address, LAN, 1, 1))
        for tos in (af | ect, af):        # the second does not speak ECN: it is dropped
            whole = bytes([inner[0], tos]) + inner[2:10] + b"\0\0" + inner[12:]
            joe.ip(whole[:10] + checksum(whole[:20]).to_bytes(2) + whole[12:])
        data, ancillary = until("the marked packet", lambda: received(lan))
        assert data[:8] == struct.pack("!LL", 1, 1) and ancillary[0][2][0] == af | ce
        until("the other", lambda: concentrator.get("stats")["verdicts"]["drop-ecn"] == 1)
        assert received(lan) is None


def test_what_was_damaged_on_the_way_is_not_delivered(place, here, lac):
    """In a burst that is merged on its way in: the kernel of the network behind drops that one, and no other."""
    here()
    client = lac()
    joe = client.call("joe")
    packets = [udp(joe.address, LAN, bytes([n]) * 200, 3000, 2000, ident=n) for n in range(20)]
    packets[7] = packets[7][:100] + bytes([packets[7][100] ^ 4]) + packets[7][101:]
    with place.udp(place.lan, LAN, 2000) as lan:
        client.burst([joe.header() + packet for packet in packets])
        found = []

        def others():
            while (data := received(lan)) is not None:
                found.append(data[0])
            return len(found) >= 19
        until("the others", others)
        joe.ip(udp(joe.address, LAN, b"the last", 3000, 2000))
        until("what came after", lambda: others() and found[-1] == b"the last")
    assert found == [bytes([n]) * 200 for n in range(20) if n != 7] + [b"the last"]


def received(sock):
    try:
        return sock.recvmsg(2048, 256)[:2]
    except BlockingIOError:
        return None


def test_nobody_sends_in_another_ones_name(place, here, lac):
    """An inner source that is not the session's own is dropped and counted, whoever owns it; the session itself is not harmed."""
    concentrator, client = here(), lac()
    joe, ann = client.call("joe"), client.call("ann")
    with place.udp(place.lan, LAN, 2000) as lan:
        false = [ann.address, LOCAL, LAN, "0.0.0.0", "255.255.255.255", "127.0.0.1", "10.67.0.77", FAR]
        for n, source in enumerate(false):
            joe.ip(numbered(source, LAN, 1, n))
            joe.ip(ping(source, ann.address, n))
        joe.ip(numbered(joe.address, LAN, 1, 99))
        assert drained(lan, 1) == [(1, 99)]
        until("all are counted", lambda: concentrator.get("stats")["verdicts"]["drop-spoof"] == 2 * len(false))
        assert drained(lan, 1, 0.2) == [], "what was false came after all"
    client.settle()
    assert ann.received == [] and joe.received == []


def test_from_client_to_client(place, here, lac):
    """Through hr0 and back: whole, in order, one hop nearer their end; what is too large for the other is answered by us."""
    here()
    one, other = lac(), lac()
    joe, ann = one.call("joe"), other.call("ann", link=replace(LINK, mru=1000, mtu=1000))
    for n in range(200):
        joe.ip(numbered(joe.address, ann.address, 1, n, 600))
    other.until("all are there", lambda: len(ann.received) == 200)
    assert [number(packet) for packet in ann.received] == [(1, n) for n in range(200)]
    assert {packet[8] for packet in ann.received} == {63}
    joe.ip(numbered(joe.address, ann.address, 1, 200, 1200))
    one.until("too big", lambda: joe.received)
    answer = joe.received[0]
    assert (answer[9], answer[20], answer[21]) == (1, 3, 4) and answer[26:28] == (1000).to_bytes(2), "no fragmentation-needed with 1000"
    assert answer[28 + 16:28 + 20] == ip4(ann.address)
    assert not answered(joe.received, 1) and len(ann.received) == 200
