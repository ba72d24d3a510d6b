"""Encryption between the concentrator and our own client, which encrypts by plain Python written from the RFC: every kind, over a wire
that loses and reorders, through the rings, with CCP coming and going, and after the death of who knew the keys (RFC 3078)."""
import os
import signal
import time
from dataclasses import replace
from random import Random

import pytest
from headrace.control.ccp import RESET_REQUEST
from headrace.control.link import CCP_PROTOCOL, IP
from headrace.control.mppe import Policy
from ours.encryption import ENCRYPTED
from ours.packets import drained, number, numbered
from ours.peer import LINK
from ours.place import LAN
from peers.concentrator import LOCAL
from peers.lab import until
from test_e2e_restart import pids

pytestmark = pytest.mark.root

OTHER = {"HEADRACE_TEST_OWNER": "other"}
PORT = 2000


def profile(use, **keys):
    return {"profiles": {"default": {"local-address": LOCAL, "remote-address": "clients", "use-encryption": use, **keys}}}


def link(use="yes", bits=(128,), stateful=False):
    return replace(LINK, authentication=("mschap2",), encryption=Policy(use, bits, stateful))


@pytest.fixture
def lan(place):
    with place.udp(place.lan, LAN, PORT) as lan:
        yield lan


def up(client, joe, lan, numbers, count=None):
    """Packets with these numbers, from the client; those that came, `count` of them."""
    for n in numbers:
        joe.ip(numbered(joe.address, LAN, 1, n, 64 + n % 1300))
    return [n for _, n in drained(lan, len(numbers) if count is None else count, between=client.settle)]


def down(client, joe, lan, numbers, count=None):
    """The same to the client, fifty at a time: nothing is lost for want of room."""
    before = len(joe.received)
    for at, n in enumerate(numbers):
        lan.sendto(numbered("0.0.0.0", "0.0.0.0", 2, n, 64 + n % 1300)[28:], (joe.address, 3000))
        if at % 50 == 49:
            client.until("these", lambda at=at: len(joe.received) - before > at or count is not None)
    client.until("all are there", lambda: len(joe.received) - before >= (len(numbers) if count is None else count))
    return [number(packet)[1] for packet in joe.received[before:]]


@pytest.fixture
def client(request, lac, pns):
    """One of ours, by the tunnel that a test names."""
    return lambda: {"l2tp": lac, "pptp": pns}[request.param]()


KINDS = [*(("l2tp", 1, bits, stateful) for bits in (128, 56, 40) for stateful in (False, True)), ("l2tp", 2, 128, False),
         ("l2tp", 2, 40, True), ("pptp", 1, 128, False), ("pptp", 1, 56, True), ("pptp", 2, 128, True), ("pptp", 2, 40, False)]


@pytest.mark.parametrize("client, workers, bits, stateful", KINDS, indirect=["client"])
def test_every_kind(here, client, lan, bits, stateful, workers):
    """Past several changes of key each way, whole and in order; nothing is in clear, and what comes in clear goes no further."""
    tables = profile("require", **{"mppe-stateful": stateful})
    concentrator, client = here({"workers": workers}, OTHER if workers > 1 else None, tables, pptp={}), client()
    joe = client.call("joe", link=link(bits=(bits,), stateful=stateful))
    assert concentrator.session("joe")["encoding"] == f"MPPE{bits} {'stateful' if stateful else 'stateless'}"
    assert up(client, joe, lan, range(600)) == list(range(600))
    assert down(client, joe, lan, range(600)) == list(range(600))
    assert joe.clear == joe.encryption.unread == 0
    assert joe.encryption.flushed == (2 if stateful else 600), "where a key begins, and nowhere else"
    for n in range(5):
        joe.data(IP, numbered(joe.address, LAN, 1, 7000 + n))
    assert up(client, joe, lan, [601]) == [601], "what came in clear has not come through"
    verdicts = concentrator.get("stats")["verdicts"]
    assert verdicts["drop-clear"] == 5 and verdicts["drop-cipher"] == verdicts["drop-coherency"] == 0


@pytest.mark.parametrize("bits, stateful", [(128, False), (128, True), (40, True)])
def test_loss(here, lac, lan, bits, stateful):
    """Each tenth packet is lost, each way, and now and then a row of them. Stateless: only those. Stateful: until the other end heard of
    it; it always does, and nothing that is delivered is other than what was sent."""
    concentrator = here({"workers": 1}, None, profile("require", **{"mppe-stateful": stateful}))
    client, random = lac(), Random(7)
    joe = client.call("joe", link=link(bits=(bits,), stateful=stateful))
    lost: list[int] = []
    seen: list[int] = []

    def lose(datagram):
        """Encrypted data only: CCP has its own tests."""
        encrypted = not datagram[0] & 0x80 and datagram[8:10] == ENCRYPTED.to_bytes(2)
        if encrypted:
            seen.append(len(datagram))
        if encrypted and (random.random() < 0.1 or 0 < len(lost) % 37 < 5):
            lost.append(len(datagram))
            return True
        return False
    client.lose = lose
    came_up = []
    for n in range(0, 2000, 20):
        came_up += up(client, joe, lan, range(n, n + 20), 0)
        came_up += [k for _, k in drained(lan, 20, 0.02, client.settle)]
    lost_up, seen_up = len(lost), len(seen)
    for n in range(0, 2000, 20):
        down(client, joe, lan, range(n, n + 20), 0)
        client.until("these", lambda n=n: len(seen) - seen_up >= n + 20)        # more at a time would be lost for want of room
    client.lose = lambda datagram: False
    lost_down = len(lost) - lost_up
    for n in range(2000, 2020):             # one by one, so that whoever lost the thread has it again
        came_up += up(client, joe, lan, [n], 0) + [k for _, k in drained(lan, 1, 0.2, client.settle)]
        down(client, joe, lan, [n], 0)
    came_up += up(client, joe, lan, range(2020, 2050))
    down(client, joe, lan, range(2020, 2050))
    came_down = [number(packet)[1] for packet in joe.received]
    for came, gone in (came_up, lost_up), (came_down, lost_down):
        assert came == sorted(set(came)) and came[-30:] == list(range(2020, 2050)) and 100 < gone < 700
        if stateful:
            assert 200 < len(came) < 2050 - gone
        else:
            assert len(came) == 2050 - gone
    asked = [packet for protocol, packet in joe.frames if protocol == CCP_PROTOCOL and packet[0] == RESET_REQUEST]
    verdicts = concentrator.get("stats")["verdicts"]
    assert verdicts["drop-cipher"] == 0
    if stateful:
        assert asked and joe.encryption.unread and verdicts["drop-coherency"] == 2050 - lost_up - len(came_up)
    else:
        assert not asked and joe.encryption.unread == verdicts["drop-coherency"] == 0


def test_reordering(here, lac, lan):
    """Stateless packets that arrive late are stale, and cost nothing but themselves."""
    concentrator = here({"workers": 1}, None, profile("require"))
    client = lac()
    joe = client.call("joe", link=link())
    frames = [joe.encryption.hide(IP, numbered(joe.address, LAN, 1, n)) for n in range(400)]
    order = list(range(400))
    for at in range(0, 400, 8):
        order[at], order[at + 3] = order[at + 3], order[at]      # one is early, and three are late
    late = sum(n < max(order[:at]) for at, n in enumerate(order) if at)
    for n in order:
        joe.data(ENCRYPTED, frames[n])
    came = [n for _, n in drained(lan, 400 - late, between=client.settle)]
    assert came == sorted(came) and len(came) == 400 - late
    until("all are counted", lambda: concentrator.get("stats")["verdicts"]["drop-stale"] == late)
    for n in (399, 5, 5):
        joe.data(ENCRYPTED, frames[n])
    assert up(client, joe, lan, [400]) == [400]
    assert concentrator.get("stats")["verdicts"]["drop-stale"] == late + 3


@pytest.mark.parametrize("stateful", [False, True])
def test_order_is_restored_before_anything_is_read(here, pns, lan, stateful):
    """GRE packets that change places on their way: none is stale, and stateful encryption never loses the thread."""
    concentrator = here({"workers": 1}, None, profile("require", **{"mppe-stateful": stateful}), pptp={})
    client = pns()
    joe = client.call("joe", link=link(stateful=stateful))
    first = joe.sequence
    packets = [joe.packet(*joe.hidden(numbered(joe.address, LAN, 1, n)), sequence=first + n) for n in range(600)]
    order = list(range(600))
    for at in range(0, 600, 8):
        order[at:at + 8] = Random(at).sample(order[at:at + 8], 8)
    for n in order:
        client.say(packets[n])
    assert [n for _, n in drained(lan, 600, between=client.settle)] == list(range(600))
    verdicts = concentrator.get("stats")["verdicts"]
    assert verdicts["drop-stale"] == verdicts["drop-coherency"] == verdicts["drop-cipher"] == 0


def test_ccp_comes_and_goes_under_traffic(here, lac, lan):
    """Optional encryption is ended and begun again by the client: the session goes on, with new state each time."""
    concentrator = here({"workers": 1}, None, profile("yes"))
    client = lac()
    joe = client.call("joe", link=replace(link(), restart=3.0))     # it outlasts the Restart timer of who acknowledged an ending
    uptime = concentrator.session("joe")["name"]
    for turn, (event, encoding) in enumerate((("Close", ""), ("Open", "MPPE128 stateless")) * 2):
        joe.ppp.ccp.fire(event, time.monotonic())
        client.until(f"encoding {encoding!r}", lambda encoding=encoding: concentrator.session("joe")["encoding"] == encoding)
        client.settle()
        assert (joe.encryption is not None) == bool(encoding)
        numbers = range(1000 * turn, 1000 * turn + 300)
        assert up(client, joe, lan, numbers) == list(numbers) == down(client, joe, lan, numbers)
    assert concentrator.session("joe")["name"] == uptime and not concentrator.json("sessions", "--failed")


@pytest.mark.parametrize("stateful", [False, True])
def test_forwarder_killed(here, lac, lan, stateful):
    """The next one finds the keys where the last one left them: no key is used twice, and traffic goes on by itself."""
    concentrator = here({"workers": 1}, None, profile("require", **{"mppe-stateful": stateful}))
    client = lac()
    joe = client.call("joe", link=link(stateful=stateful))
    for turn in range(3):
        numbers = range(1000 * turn, 1000 * turn + 300)
        assert up(client, joe, lan, numbers) == list(numbers) == down(client, joe, lan, numbers)
        killed = pids(concentrator)["forwarder"]
        os.kill(killed, signal.SIGKILL)
        until("another one is there", lambda killed=killed: pids(concentrator)["forwarder"] != killed)
        probe = 1000 * turn + 500

        def passes(probe=probe):
            joe.ip(numbered(joe.address, LAN, 1, probe))
            return drained(lan, 1, 0.1, client.settle)
        client.until("it goes on", passes)
        drained(lan, 100, 0.2, client.settle)
        lan.sendto(numbered("0.0.0.0", "0.0.0.0", 2, probe)[28:], (joe.address, 3000))
        client.until("and back", lambda probe=probe: any(number(packet) == (2, probe) for packet in joe.received[-3:]))
    assert joe.clear == 0 and joe.ups == 1
