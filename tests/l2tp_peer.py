"""An L2TP peer played by hand: messages whose headers scapy writes and reads, and whose AVPs this file does."""
from __future__ import annotations

import itertools
import logging
import struct
from hashlib import md5
from random import Random

from headrace.control.l2tp import Endpoint, Path, Settings
from headrace.control.reason import Reason

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.l2tp import L2TP  # noqa: E402
from scapy.packet import Raw  # noqa: E402

OURS, THEIRS, OTHER = (bytes(10) + b"\xff\xff" + bytes(a) for a in ((10, 0, 0, 1), (10, 0, 0, 2), (10, 0, 0, 3)))
PATH = Path(0, OURS, 1701, THEIRS, 40000, 1)
BYE = Reason("tunnel", "shutdown", "bye")
MUST, HIDE = 0x8000, 0x4000
SCCRQ, SCCRP, SCCCN, STOPCCN, HELLO, OCRQ, OCRP, OCCN, ICRQ, ICRP, ICCN, CDN, WEN, SLI = 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16


class Ids:
    """Tunnel and session ids that count up; what is out."""
    def __init__(self, sessions=1000):
        self.next, self.room, self.tunnels, self.sessions = itertools.count(1), sessions, set(), set()

    def take_tunnel(self, peer):
        self.tunnels.add(n := next(self.next))
        return n

    def give_tunnel(self, tunnel_id):
        self.tunnels.remove(tunnel_id)

    def take_session(self, tunnel_id, peer):
        if len(self.sessions) >= self.room:
            return None
        n = next(self.next)
        self.sessions.add((tunnel_id, n))
        return n

    def give_session(self, tunnel_id, session_id):
        self.sessions.remove((tunnel_id, session_id))


def endpoint(**settings):
    return Endpoint(Settings(**settings), Ids(), Random(1).randbytes)


def avp(number, value=b"", bits=MUST, vendor=0):
    if isinstance(value, int):
        value = struct.pack("!H", value)
    return struct.pack("!HHH", bits | len(value) + 6, vendor, number) + value


def datagram(tunnel_id, session_id, ns, nr, *avps):
    """A control message, its header by scapy."""
    header = L2TP(hdr="control+length+sequence", tunnel_id=tunnel_id, session_id=session_id, ns=ns, nr=nr)
    return bytes(header / Raw(b"".join(avps)))


class Answer:
    """A datagram that was sent, its header read by scapy and its AVPs by hand."""
    def __init__(self, path, data):
        header = L2TP(data)
        assert header.hdr == "control+length+sequence" and header.version == 2 and header.len == len(data)
        self.path, self.tunnel_id, self.session_id, self.ns, self.nr = path, header.tunnel_id, header.session_id, header.ns, header.nr
        self.avps, self.order, at = {}, [], 12
        while at < len(data):
            bits, vendor, number = struct.unpack_from("!HHH", data, at)
            assert vendor == 0 and bits & 0x3C00 == 0
            self.avps[number] = data[at + 6:at + (bits & 0x3FF)]
            self.order.append((number, bits & 0xC000))
            at += bits & 0x3FF
        assert at == len(data)
        self.type = int.from_bytes(self.avps[0]) if self.avps else 0

    @property
    def result(self):
        value = self.avps[1]
        return int.from_bytes(value[:2]), int.from_bytes(value[2:4])


def greeting(kind=SCCRQ, tunnel_id=77, host=b"lac"):
    return [avp(0, kind), avp(2, 0x100), avp(3, struct.pack("!L", 3)), avp(7, host), avp(9, tunnel_id)]


class Peer:
    """A peer played by hand: it numbers what it sends, and checks that all of it is acknowledged at once."""
    def __init__(self, end, path=PATH, tunnel_id=77):
        self.end, self.path, self.tunnel_id, self.ours, self.ns, self.nr, self.now = end, path, tunnel_id, 0, 0, 0, 0.0
        self.events = []

    def give(self, data, path=None):
        self.end.receive(path or self.path, data, self.now)
        return self.take()

    def take(self):
        self.events += self.end.events()
        answers = [Answer(*out) for out in self.end.outgoing()]
        for answer in answers:
            if answer.type and answer.tunnel_id in (0, self.tunnel_id):
                self.nr = answer.ns + 1
        return answers

    def send(self, *avps, session=0, acknowledged=True):
        data = datagram(self.ours, session, self.ns, self.nr, *avps)
        self.ns += 1
        answers = self.give(data)
        if acknowledged:
            assert answers and answers[-1].nr == self.ns
        return answers

    def ack(self):
        return self.give(datagram(self.ours, 0, self.ns, self.nr))

    def open(self, *extra):
        """A tunnel, as LAC."""
        [sccrp] = self.send(*greeting(tunnel_id=self.tunnel_id), *extra)
        self.ours = int.from_bytes(sccrp.avps[9])
        self.send(avp(0, SCCCN))
        return sccrp

    def ring(self, session=5):
        """ICRQ; our session id of the ICRP."""
        [icrp] = self.send(avp(0, ICRQ), avp(14, session), avp(15, bytes(4)))
        assert (icrp.type, icrp.session_id) == (ICRP, session)
        return int.from_bytes(icrp.avps[14])

    def call(self, session=5, *extra):
        ours = self.ring(session)
        self.send(avp(0, ICCN), avp(24, bytes(4)), avp(19, bytes(4)), *extra, session=ours)
        return ours

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def until(self, now, kind=0):
        """Let time pass; what was sent."""
        answers = []
        while (due := self.end.deadline()) is not None and due <= now:
            self.now = max(self.now, due)
            self.end.tick(self.now)
            answers += self.take()
        self.now = now
        return answers


def answer(message, secret, challenge):
    """The response to a challenge (section 4.4.3)."""
    return md5(bytes([message]) + secret + challenge).digest()
