"""Anything but L2TP and PPP on the wire of a concentrator that works: a verdict or an answer for each, a short log, nobody disturbed."""
import struct
import time

import pytest
from l2tp_peer import (
    CDN,
    HELLO,
    ICCN,
    ICRQ,
    MUST,
    SCCCN,
    SLI,
    STOPCCN,
    WEN,
    avp,
    greeting,
)
from ours.packets import answered, drained, numbered, ping
from ours.place import LAN
from peers.lab import until

pytestmark = pytest.mark.root

LCP = 0xC021
ASIDE, FENCE = "10.9.0.3", 20001


@pytest.fixture(autouse=True)
def no_solicitations(place):
    """The kernel asks for IPv6 routers on hr0, now and then: that would stand in the accounts."""
    place.on_host(place.netns, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")


def control(tunnel, session, ns, nr, *avps):
    body = b"".join(avps)
    return struct.pack("!HHHHHH", 0xC802, 12 + len(body), tunnel, session, ns, nr) + body


class Hand:
    """Tunnels played by hand on a LAC's socket, each with a number of its own; nothing is ever repeated."""

    def __init__(self, client):
        self.client, self.number, self.fence_ns = client, FENCE - 1, 0
        self.fence_id = self.open()

    def send(self, datagram):
        self.client.wire.sendto(datagram, (self.client.to, self.client.port))

    def answer(self, tunnel, what):
        """The next message to a tunnel of ours that satisfies `what`."""
        def found():
            return next((m for m in self.client.heard if struct.unpack_from("!4xH", m)[0] == tunnel and what(m)), None)
        return self.client.until("an answer", found, 5)

    def open(self):
        """A tunnel; the concentrator's id of it."""
        self.number += 1
        self.send(control(0, 0, 0, 0, *greeting(tunnel_id=self.number)))
        sccrp = self.answer(self.number, lambda m: m[18:20] == b"\0\2")
        at = sccrp.index(struct.pack("!HHH", MUST | 8, 0, 9))
        theirs = int.from_bytes(sccrp[at + 6:at + 8])
        self.send(control(theirs, 0, 1, 1, avp(0, SCCCN)))
        return theirs

    def ring(self, tunnel):
        """A call that is being established in it; the concentrator's session id."""
        self.send(control(tunnel, 0, 2, 1, avp(0, ICRQ), avp(14, 5), avp(15, bytes(4))))
        icrp = self.answer(self.number, lambda m: m[18:20] == b"\0\x0b")
        at = icrp.index(struct.pack("!HHH", MUST | 8, 0, 14))
        return int.from_bytes(icrp[at + 6:at + 8])

    def fence(self):
        """Until control has dealt with all that was sent before."""
        self.fence_ns += 1
        ns = self.fence_ns + 1
        self.send(control(self.fence_id, 0, ns, 1, avp(0, HELLO)))
        self.answer(FENCE, lambda m: int.from_bytes(m[10:12]) == ns + 1)


def iccn(*more):
    return avp(0, ICCN), avp(24, bytes(4)), avp(19, bytes(4)), *more


# What is sent to a tunnel (or to tunnel 0), in the state in which it would be right.
MESSAGES = {
    "SCCRQ": lambda hand: control(0, 0, 0, 0, *greeting(tunnel_id=hand.number + 1)),
    "ZLB": lambda hand: control(hand.open(), 0, 2, 1),
    "HELLO": lambda hand: control(hand.open(), 0, 2, 1, avp(0, HELLO)),
    "StopCCN": lambda hand: control(hand.open(), 0, 2, 1, avp(0, STOPCCN), avp(9, hand.number), avp(1, bytes([0, 1, 0, 0]) + b"bye")),
    "ICRQ": lambda hand: control(hand.open(), 0, 2, 1, avp(0, ICRQ), avp(14, 5), avp(15, bytes(4)), avp(22, b"555")),
    "ICCN": lambda hand: (lambda t: control(t, hand.ring(t), 3, 2, *iccn(avp(39, b""))))(hand.open()),
    "CDN": lambda hand: (lambda t: control(t, hand.ring(t), 3, 2, avp(0, CDN), avp(1, bytes([0, 3, 0, 0])), avp(14, 5)))(hand.open()),
    "WEN": lambda hand: (lambda t: control(t, hand.ring(t), 3, 2, avp(0, WEN), avp(34, bytes(26))))(hand.open()),
    "SLI": lambda hand: (lambda t: control(t, hand.ring(t), 3, 2, avp(0, SLI), avp(35, bytes(10))))(hand.open()),
}


def bent(datagram, at):
    """The two ways in which it is spoilt at one place."""
    return datagram[:at], datagram[:at] + bytes([datagram[at] ^ 0xFF]) + datagram[at + 1:]


class Account:
    """What came in since the last look, and what became of it."""

    def __init__(self, concentrator):
        self.concentrator = concentrator
        self.last = self._read()

    def _read(self):
        stats = self.concentrator.get("stats")
        rows = {name: n for name, n in stats["verdicts"].items() if name in ("up", "punt", "echo", "hello") or name.startswith("drop")}
        return {**rows, "came": sum(w["packets-up"] for w in stats["workers"]), "passed-over": sum(stats["l2tp"].values())}

    def since(self):
        """What changed; each datagram has exactly one verdict, at the latest at the end of the pass that received it."""
        def settled():
            now = self._read()
            delta = {name: n - self.last[name] for name, n in now.items() if n != self.last[name]}
            ends = sum(n for name, n in delta.items() if name not in ("came", "passed-over"))
            return (now, delta) if ends == delta.get("came", 0) else None
        self.last, delta = until("a verdict for each datagram", settled, 2, 0.002)
        return delta


def undisturbed(caller, sequence):
    """Its user data goes there and back, and it never noticed anything."""
    caller.received.clear()
    caller.ip(ping(caller.address, LAN, sequence))
    caller.peer.until("an answer", lambda: answered(caller.received, sequence), 5)
    assert caller.ups == 1 and caller.cleared is None


class Calm:
    """The log does not grow with a flood: a few lines a second are enough to say what strangers do."""

    def __init__(self, concentrator):
        self.concentrator, self.lines, self.began = concentrator, len(concentrator.log.splitlines()), time.monotonic()

    def check(self):
        said = self.concentrator.log.splitlines()[self.lines:]
        assert len(said) <= 12 * (time.monotonic() - self.began + 2), "\n".join(said)


@pytest.mark.parametrize("names", [("SCCRQ", "ZLB", "HELLO", "StopCCN"), ("ICRQ", "ICCN"), ("CDN", "WEN", "SLI")], ids="-".join)
def test_control_messages_cut_and_flipped(here, lac, names):
    """Each kind, at every length and with every octet flipped, in a tunnel of its own beside one that carries a session."""
    concentrator, client = here({"log": "warning"}), lac()
    joe, hand = client.call("joe"), Hand(client)
    calm, account, count = Calm(concentrator), Account(concentrator), 0
    for name in names:
        for at in range(len(MESSAGES[name](hand))):
            for which in range(2):
                datagram = bent(MESSAGES[name](hand), at)[which]
                if not datagram:
                    continue
                hand.fence()
                account.since()
                client.heard.clear()
                hand.send(datagram)
                hand.fence()
                delta = account.since()
                assert delta["came"] == 2, "it, and the fence"
                answers = [m for m in client.heard if struct.unpack_from("!4xH", m)[0] != FENCE]
                dropped = delta.get("punt", 0) < delta["came"]
                # An empty message asks for nothing, and what it acknowledges is no news.
                assert answers or dropped or delta.get("passed-over") or name == "ZLB", f"{name} {at} {datagram.hex()}: {delta}"
                count += 1
                if count % 25 == 0:
                    undisturbed(joe, count)
        undisturbed(joe, count)
    assert [s["user"] for s in concentrator.sessions() if s["state"] == "open"] == ["joe"]
    calm.check()


def test_data_messages_that_are_not_right(place, here, lac):
    """Ids of others, ids of nobody, headers that lie: each is dropped under the name that fits, and nothing gets through."""
    concentrator, client, stranger = here({"log": "warning"}), lac(), lac(local=ASIDE)
    joe, eve = client.call("joe"), stranger.call("eve")
    tunnel, session = joe.call.peer_tunnel_id, joe.call.peer_session_id
    other = eve.call.peer_tunnel_id, eve.call.peer_session_id
    payload = b"\xff\x03\x00\x21" + numbered(joe.address, LAN, 1, 1)

    def message(flags=2, ids=(tunnel, session), length=None, offset=None, payload=payload):
        head = struct.pack("!HH", *ids) + (b"" if not flags & 0x0800 else bytes(4))
        head += b"" if offset is None else struct.pack("!H", offset)
        whole = 2 + 2 * bool(flags & 0x4000) + len(head) + len(payload)
        size = b"" if not flags & 0x4000 else struct.pack("!H", whole if length is None else whole + length)
        return struct.pack("!H", flags) + size + head + payload
    unused = next(n for n in range(1, 1000) if n not in (session, other[1]))
    cases = [
        ("drop-no-session", joe, message(ids=(tunnel, 0))), ("drop-no-session", joe, message(ids=(tunnel, unused))),
        ("drop-no-session", joe, message(ids=(0, 0))),
        ("drop-peer", joe, message(ids=(tunnel ^ 0x5A5A, session))), ("drop-peer", joe, message(ids=(0, session))),
        ("drop-peer", eve, message()), ("drop-peer", joe, message(ids=other)), ("drop-peer", eve, message(flags=0x4802)),
        ("drop-version", joe, message(flags=1)), ("drop-version", joe, message(flags=3)), ("drop-version", joe, message(flags=0)),
        ("drop-length", joe, message(flags=0x4002, length=1)), ("drop-length", joe, message(flags=0x4002, length=-len(payload) - 7)),
        ("drop-offset", joe, message(flags=0x0202, offset=len(payload) + 1)), ("drop-offset", joe, message(flags=0x0202, offset=0xFFFF)),
        ("drop-offset", joe, message(flags=0x4202, offset=0xFFFF)), ("drop-short", joe, message()[:5]), ("drop-short", joe, b"\0"),
        ("drop-short", joe, message(flags=0x0802)[:9]), ("drop-short", joe, message(payload=b"")),
        ("drop-ip", joe, message(payload=payload[:4])), ("drop-ip", joe, message(payload=payload[:20])),
        ("drop-ip", joe, message(payload=payload[:4] + b"\x65" + payload[5:])),
    ]
    account = Account(concentrator)
    with place.udp(place.lan, LAN, 2000) as lan:
        for verdict, caller, datagram in cases:
            caller.peer.say(datagram)
            delta = {}
            until("its verdict", lambda delta=delta: delta.update(account.since()) or delta)
            assert delta == {"came": 1, verdict: 1}, (verdict, datagram.hex(), delta)
        for flags in (0x0002, 0x4002, 0x0802, 0x0202, 0x0102, 0x4B02):          # each length of each shape, and none is taken for more
            whole = message(flags=flags, offset=3 if flags & 0x0200 else None, payload=bytes(3 * bool(flags & 0x0200)) + payload)
            for at in range(1, len(whole)):
                client.say(whole[:at])
        delta = {"came": 0}
        count = sum(len(message(flags=f, offset=3 if f & 0x200 else None, payload=bytes(3 * bool(f & 0x200)) + payload)) - 1
                    for f in (0x0002, 0x4002, 0x0802, 0x0202, 0x0102, 0x4B02))

        def all_came():
            for name, n in account.since().items():
                delta[name] = delta.get(name, 0) + n
            return delta["came"] >= count
        until("all have come", all_came)
        assert delta["came"] == count and "up" not in delta, delta
        assert drained(lan, 1, 0.2) == []
        joe.ip(numbered(joe.address, LAN, 1, 77))
        assert drained(lan, 1) == [(1, 77)]
    undisturbed(joe, 1)
    undisturbed(eve, 2)


def configure(options, code=1, length=None, number=9):
    body = b"".join(options)
    return struct.pack("!BBH", code, number, 4 + len(body) if length is None else length) + body


def test_ppp_packets_that_are_not_right(here, lac):
    """Options of length 0 and 1, packets longer and shorter than they say, every octet flipped and every length, on each protocol
    of a link: the link may suffer, may be negotiated anew, and no other does."""
    concentrator, client = here({"log": "warning"}), lac()
    joe, eve = client.call("joe"), client.call("eve")
    mru, magic = b"\x01\x04\x05\x78", b"\x05\x06abcd"
    right = [mru, magic]
    whole = configure(right)
    packets = [configure([b"\x01\0"]), configure([b"\x01\x01"]), configure([mru, b"\x05\0abcd"]), configure([b"\x01\x04\x05"]),
               configure([b"\x03\xff\xc2\x23"]), configure([b"\x05"]), configure(right, length=15), configure(right, length=0xFFFF),
               configure(right, length=0), configure(right, length=3), configure(right, length=4), configure(right, length=13)]
    packets += [packet for at in range(len(whole)) for packet in bent(whole, at)]
    packets += [configure([], code=code, length=length) for code in range(256) for length in (4, 5, 0) if code not in (5, 6)]
    calm = Calm(concentrator)
    for protocol in (LCP, 0x8021, 0xC223, 0xC023, 0x80FD, 0x8057, 0x0021, 0x0057, 0x4001):
        for packet in packets:
            eve.data(protocol, packet)
        undisturbed(joe, protocol & 0xFF)
        eve.peer.settle()
    account = Account(concentrator)
    for at in range(4):                     # no protocol field, or half of one
        client.say(eve.header(LCP)[:6 + at])
    until("they are dropped", lambda: account.since().get("drop-short"))
    undisturbed(joe, 5)
    eve.renegotiate()
    client.until("eve's link is negotiated anew", lambda: eve.up, 15)
    eve.received.clear()
    eve.ip(ping(eve.address, LAN, 6))
    client.until("eve has an answer", lambda: answered(eve.received, 6))
    calm.check()
