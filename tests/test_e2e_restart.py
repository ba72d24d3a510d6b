"""Processes that end, die or stand still under our own LAC: what goes on meanwhile, and what each side says of it (design.md 6)."""
import json
import os
import signal
import struct
import time

import pytest
from headrace.control.avp import encode
from headrace.control.reliable import Timing
from ours.packets import answered, ping
from ours.place import LAN
from ours.stream import Stream
from peers.concentrator import LOCAL
from peers.lab import until

pytestmark = pytest.mark.root

MEGABYTE = 1 << 20
STOPCCN, ICRQ, ICRP = 4, 10, 11
FLOOD = 10000       # of each kind; the channel holds some six thousand frames


def kind(message):
    """Its message type; 0 for an empty one."""
    return int.from_bytes(message[18:20]) if len(message) > 12 else 0


def nr(message):
    return int.from_bytes(message[10:12])


def reaches(caller, sequence, destination=LOCAL):
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


def pids(concentrator):
    return json.loads((concentrator.run_dir / "pids").read_text())


def test_interrupt_ends_every_tunnel_at_once(here, lac):
    """SIGINT: a StopCCN for each tunnel, over both families, with the result that says why; with their acknowledgments it is over."""
    concentrator, clients = here(), [lac(), lac("fd09::1")]
    for client, user in zip(clients, ("joe", "ann"), strict=True):
        client.call(user)
        client.tunnel()
    began = time.monotonic()
    concentrator.process.send_signal(signal.SIGINT)
    for client in clients:
        client.until("both tunnels are ended", lambda client=client: len(client.ended) == 2)
        assert {down.reason.code for down in client.ended.values()} == {"cleared"}
        assert all("shutting down" in down.reason.text for down in client.ended.values())
    clients[0].until("it ended", lambda: concentrator.process.poll() is not None)
    assert time.monotonic() - began < 2.5, "it did not wait for more than the acknowledgments"
    concentrator.stop()


def test_hellos_while_control_is_dead(here, lac):
    """Workers acknowledge them, user data flows, and the next control ends the tunnel with the numbers that the LAC expects."""
    concentrator, client = here(environment={"HEADRACE_HOLD_CONTROL": "4"}), lac(hello=0.3, timing=Timing(0.25, 0.25, 60))
    joe = client.call("joe")
    tunnel = client.endpoint._tunnels[joe.tunnel]
    concentrator.kill_child("control")
    died = time.monotonic()
    client.heard.clear()
    first = tunnel.reliable.ns
    client.until("a worker acknowledged three HELLOs", lambda: tunnel.reliable.idle and tunnel.reliable.ns >= first + 3, 4)
    assert time.monotonic() - died > 1.4, "control lived"
    assert not any(kind(message) for message in client.heard)
    reaches(joe, 1, LAN)
    client.until("the goodbye", lambda: joe.tunnel in client.ended)
    at, goodbye = next((n, message) for n, message in enumerate(client.heard) if kind(message) == STOPCCN)
    acknowledged = nr(client.heard[at - 1])
    assert acknowledged >= first + 3 and acknowledged <= nr(goodbye) <= tunnel.reliable.ns, "its Nr goes on where the workers' ended"
    assert "restarted" in client.ended[joe.tunnel].reason.text
    concentrator.logs("saying goodbye to 1 peer of before")
    until("the API answers", concentrator._answers)
    assert concentrator.get("stats")["verdicts"]["hello"] >= 3
    reaches(client.call("joe", tunnel=client.tunnel()), 2)


def test_forwarder_killed_under_a_transfer(place, here, lac):
    """TCP both ways goes on within a second of its death; sessions, hr0 and the tunnel never notice."""
    concentrator, client = here({"workers": 2}, {"HEADRACE_TEST_OWNER": "other"}), lac()
    joe = client.call("joe")
    before, link = pids(concentrator), concentrator.link()
    with client.line(joe):
        streams = [Stream(place, place.far, place.lan, LAN), Stream(place, place.lan, place.far, joe.address)]
        try:
            for _ in range(2):
                seen = [stream.octets for stream in streams]
                client.until("they run", lambda seen=seen: all(s.octets > n + 4 * MEGABYTE for s, n in zip(streams, seen, strict=True)), 20)
                forwarder = pids(concentrator)["forwarder"]
                os.kill(forwarder, signal.SIGKILL)
                until("another one is there", lambda forwarder=forwarder: pids(concentrator)["forwarder"] != forwarder)
            seen = [stream.octets for stream in streams]
            client.until("they go on", lambda: all(s.octets > n + 4 * MEGABYTE for s, n in zip(streams, seen, strict=True)), 20)
        finally:
            octets = [stream.stop() for stream in streams]
    assert min(octets) > 8 * MEGABYTE and joe.ups == 1 and not client.ended
    assert concentrator.link() == link and pids(concentrator)["control"] == before["control"]
    assert concentrator.session("joe")["state"] == "open"


def test_both_killed_at_once(here, lac):
    """They come back together; the LAC is told goodbye and may dial again."""
    concentrator, client = here(), lac()
    joe, link = client.call("joe"), concentrator.link()
    reaches(joe, 1)
    before = pids(concentrator)
    for role in "control", "forwarder":
        os.kill(before[role], signal.SIGKILL)
    client.until("the goodbye", lambda: joe.tunnel in client.ended)
    assert concentrator.link() == link and pids(concentrator)["supervisor"] == before["supervisor"]
    again = client.call("joe")
    reaches(again, 2)
    assert [s["user"] for s in concentrator.sessions()] == ["joe"]


def test_a_flood_while_control_stands_still(place, here, lac):
    """Control is stopped and two floods fill its channel: user data passes, what is shed is counted, a message of a live tunnel gets
    through at its first try, and when control goes on all is well."""
    concentrator, client, flood = here(), lac(hello=1000.0), lac(local="10.9.0.3")
    joe, eve = client.call("joe"), flood.call("eve")
    control = pids(concentrator)["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        noise = eve.header(0xC021) + bytes([12, 1, 0, 200]) + bytes(196)        # Identification, which nobody answers
        for n in range(1, FLOOD + 1):
            flood.wire.sendto(noise, (flood.to, flood.port))
            flood.wire.sendto(sccrq(n), (flood.to, flood.port))
            if n % 1000 == 0:
                reaches(joe, n, LAN)
        tried = []

        def repeated(datagram):
            if not datagram[0] & 0x80 or kind(datagram) != ICRQ:
                return False
            tried.append(datagram)
            return len(tried) > 1
        client.lose = repeated
        client.heard.clear()
        ann = client.call("ann", tunnel=joe.tunnel, wait=False)
        reaches(joe, FLOOD + 1, LAN)
        assert tried
    finally:
        os.kill(control, signal.SIGCONT)
    client.until("ann is up", lambda: ann.up, 20)
    assert any(kind(message) == ICRP for message in client.heard)
    stats = concentrator.get("stats")
    assert stats["verdicts"]["drop-punt"] > 1000, stats
    assert [(s["user"], s["state"]) for s in concentrator.sessions()] == [("joe", "open"), ("eve", "open"), ("ann", "open")]
    for n, caller in enumerate((joe, ann, eve)):
        reaches(caller, FLOOD + 2 + n)
    assert len(concentrator.log.splitlines()) < 60, concentrator.log


def sccrq(tunnel):
    """A greeting from a LAC that will not go on."""
    body = encode("SCCRQ", {"protocol_version": 0x100, "host_name": "flood", "framing_capabilities": 3, "assigned_tunnel_id": tunnel})
    return struct.pack("!HHHHHH", 0xC802, 12 + len(body), 0, 0, 0, 0) + body
