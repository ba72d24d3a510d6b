"""PPTP through the whole concentrator, with our own PNS at the other end: connections, calls, data, and what ends them."""
import itertools
import os
import signal
import socket
import struct
import threading
import time
from dataclasses import replace
from random import Random

import pytest
from headrace.control.pptpmessage import Stream, encode
from ours.packets import answered, drained, number, numbered, ping
from ours.peer import LINK
from ours.place import FAR, LAN, SECOND
from peers.concentrator import LOCAL
from peers.lab import until
from pyroute2.nftables.expressions import verdict
from pyroute2.nftables.main import NFTables
from test_e2e_restart import pids

pytestmark = pytest.mark.root
OTHER = {"HEADRACE_TEST_OWNER": "other"}
START = {"protocol_version": 0x0100, "host_name": "by hand"}


def reaches(caller, sequence, destination=LOCAL):
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


def tunnels(concentrator):
    return concentrator.get("stats")["tables"]["tunnels"]


def read(sock, seconds=5.0):
    """The messages that come until there is one, and whether the connection ended."""
    sock.settimeout(seconds)
    stream, messages = Stream(), []
    while not messages:
        octets = sock.recv(4096)
        if not octets:
            return messages, True
        messages += stream.receive(octets)
    return messages, False


def ends(sock, seconds=5.0):
    """It is closed, whatever was said before."""
    sock.settimeout(seconds)
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("to", ["10.9.0.1", SECOND])
def test_a_client_comes_and_goes(here, pns, to):
    """Answers come from the address that was dialled; what the call carried is told at its end."""
    concentrator = here(pptp={})
    client = pns(to=to)
    joe = client.call("joe")
    address = joe.address
    reaches(joe, 1)
    session = concentrator.session("joe")
    assert (session["name"], session["service"], session["caller-id"]) == ("<pptp-joe>", "pptp", client.address)
    assert session["address"] == joe.address and session["rx-packets"] == session["tx-packets"] == 1
    client.hang_up(joe)
    client.until("the call is cleared", lambda: joe.cleared)
    assert "octets in 1 packets" in joe.cleared.statistics and not client.ended
    until("it is gone", lambda: concentrator.sessions() == [])
    again = client.call("joe", connection=next(iter(client.connections)))
    reaches(again, 2)
    assert again.session != joe.session and again.theirs != joe.theirs and again.address == address
    client.close()
    until("the connection is gone", lambda: tunnels(concentrator) == 0)


@pytest.mark.parametrize("owner", [None, OTHER], ids=["own", "other"])
def test_many_calls_with_two_workers(place, here, pns, owner):
    """One connection with many calls, and many connections with one: spread over the workers, each in order, nothing lost."""
    concentrator = here({"workers": 2, "log": "warning"}, owner, pptp={"keepalive-timeout": "0s"})
    client, link = pns(), replace(LINK, authentication=("pap",))
    shared = client.connect()
    callers = [client.call("joe", connection=shared, link=link, wait=False) for _ in range(30)]
    callers += [client.call("ann", link=link, wait=False) for _ in range(30)]
    client.until("all are up", lambda: all(caller.up for caller in callers), 30)
    lan = place.udp(place.lan, LAN, 2000)
    for n, (k, caller) in itertools.product(range(20), enumerate(callers)):
        caller.ip(numbered(caller.address, LAN, k, n, 200))
    got = drained(lan, len(callers) * 20)
    assert sorted(got, key=lambda row: row[0]) == [(k, n) for k in range(len(callers)) for n in range(20)]
    for n in range(20):
        for k, caller in enumerate(callers):
            lan.sendto(struct.pack("!LL", k, n).ljust(100, b"."), (caller.address, 2000))
        client.until("all have come", lambda n=n: all(len(c.received) == n + 1 for c in callers))
    for k, caller in enumerate(callers):
        assert [number(packet) for packet in caller.received] == [(k, n) for n in range(20)]
        assert [n - caller.numbers[0] for n in caller.numbers] == list(range(len(caller.numbers))), "GRE's numbers have no gap"
        assert caller.acks == sorted(caller.acks) and caller.acks[-1] < caller.sequence
    stats = concentrator.get("stats")
    assert stats["verdicts"]["handed"] > 30 * 20 and any(worker["ring-in"] for worker in stats["workers"]), "both workers own some"
    assert not {name for name, n in stats["verdicts"].items() if n and name.startswith("drop")} - {"drop-not-open"}, stats


def test_what_is_not_acknowledged_does_not_stall(here, pns):
    """A peer that says nothing gets its acknowledgment alone; one that never acknowledges is sent to all the same."""
    here(pptp={"keepalive-timeout": "0s"})
    client = pns()
    joe, ann = client.call("joe"), client.call("ann")
    before = ann.lone_acks
    for n in range(200):
        ann.peer.say(ann.packet(0x21, numbered(ann.address, joe.address, 1, n)))     # without an A of its own
    client.until("all have come", lambda: len(joe.received) == 200, 10)
    client.until("all are acknowledged", lambda: ann.acks[-1] == ann.sequence - 1)
    assert ann.lone_acks > before and [number(p)[1] for p in joe.received] == list(range(200))


def test_order_is_restored_and_nothing_comes_twice(here, pns):
    """What is swapped on the way arrives in order, a double once, and what is lost holds nothing up for long."""
    here(pptp={"keepalive-timeout": "0s"})
    client = pns()
    joe, ann = client.call("joe"), client.call("ann")
    packets = [ann.packet(0x21, numbered(ann.address, joe.address, 1, n)) for n in range(40)]
    order = [1, 0, 3, 2, 2, 4, 6, 5, 5, *range(7, 20), 25, 24, 23, 22, 21, 20, *range(26, 40)]
    for n in order:
        client.say(packets[n])
    client.until("all have come", lambda: len(joe.received) == 40, 5)
    assert [number(p)[1] for p in joe.received] == list(range(40))
    more = [ann.packet(0x21, numbered(ann.address, joe.address, 1, n)) for n in range(40, 60)]
    sent = time.monotonic()
    for packet in more[:5] + more[7:]:
        client.say(packet)
    client.until("the rest has come", lambda: len(joe.received) == 58, 5)
    assert time.monotonic() - sent < 1.0
    for packet in more[5:7] + packets:         # late: never delivered
        client.say(packet)
    reaches(ann, 9)
    assert [number(p)[1] for p in joe.received] == [n for n in range(60) if n not in (45, 46)]


def fates(count, seed):
    """An order in which packets arrive: one in 20 is lost, one in 20 doubled, one in 10 comes up to 8 places late."""
    random, order, lost = Random(seed), [], set()
    for n in range(count):
        fate = random.random()
        if fate < 0.05:
            lost.add(n)
            continue
        order += [(n, n)] * (2 if fate < 0.10 else 1)
        if fate > 0.90:
            order[-1] = n + random.randint(1, 8) + 0.5, n
    return [n for _, n in sorted(order)], lost


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wire_that_loses_doubles_and_swaps(here, pns, workers):
    """What arrives at all arrives once and in order."""
    here({"workers": workers}, OTHER if workers > 1 else None, pptp={"keepalive-timeout": "0s"})
    client = pns()
    joe, ann = client.call("joe"), client.call("ann")
    count = 3000
    order, lost = fates(count, workers)
    packets = [ann.packet(0x21, numbered(ann.address, joe.address, 1, n)) for n in range(count)]
    for at in range(0, len(order), 50):
        for n in order[at:at + 50]:
            client.say(packets[n])
        client.settle()
    client.until("all have come", lambda: len(joe.received) >= count - len(lost), 10)
    assert [number(packet)[1] for packet in joe.received] == [n for n in range(count) if n not in lost]


def test_wrong_password_and_a_full_house(here, pns):
    concentrator = here(pptp={"max-sessions": 2})
    client = pns()
    wrong = client.call("joe", "Gate-6-opens", wait=False)
    client.until("joe is sent away", lambda: wrong.cleared)
    client.call("joe"), client.call("ann")
    full = client.call("eve", wait=False)
    client.until("eve is refused", lambda: full.cleared)
    assert full.cleared.reason.code == "declined" and "no resource" in full.cleared.reason.text
    failed = concentrator.json("sessions", "--failed")
    assert [(f["user"], f["service"], f["stage"]) for f in failed] == [("joe", "pptp", "authentication"), ("", "pptp", "call")]
    assert "Gate-6-opens" not in concentrator.log


@pytest.mark.parametrize(("how", "frames"), [("auto", True), ("packet", True), ("raw", False)])
def test_how_data_leaves(here, pns, how, frames):
    """Every way: where the next hop is known it is frames, and an nftables rule on what leaves makes `auto` change its mind."""
    concentrator = here(pptp={"gre-transmit": how})
    client = pns()
    joe = client.call("joe")
    stats = lambda: concentrator.get("stats")["workers"]
    count = lambda: sum(worker["frames"] for worker in stats())

    def tick():
        """A worker looks once in one whether frames are allowed."""
        beat = stats()[0]["heartbeat"]
        until("a tick has passed", lambda: stats()[0]["heartbeat"] > beat)
    tick()
    for n in range(40):
        reaches(joe, n)
    until("they are counted", lambda: count() >= 40 if frames else count() == 0)        # which is after the last of them left
    with concentrator.lab.entered(concentrator.lab.netns), NFTables(nfgen_family=2) as nft:
        nft.begin()
        nft.table("add", name="t")
        nft.chain("add", table="t", name="c", hook="output", type="filter", priority=0)
        nft.rule("add", table="t", chain="c", expressions=[verdict(code=1)])
        nft.commit()
    if how == "auto":
        concentrator.logs("would escape nftables' chain c of table t")
        tick()
    before = count()
    for n in range(40, 60):
        reaches(joe, n)
    assert (count() > before) == (how == "packet")


def test_disconnect(here, pns):
    concentrator = here(pptp={})
    client = pns()
    joe = client.call("joe")
    assert "<pptp-joe> is disconnected" in client_command(client, concentrator, "disconnect", "joe")
    client.until("joe heard it", lambda: joe.cleared and joe.down)
    assert "administrat" in joe.cleared.reason.text


def client_command(client, concentrator, *argv):
    """A command that waits for what our client answers."""
    said = []
    thread = threading.Thread(target=lambda: said.append(concentrator.command(*argv)))
    thread.start()
    client.until("the command is done", lambda: not thread.is_alive())
    return said[0]


def test_interrupt_ends_every_connection_at_once(here, pns):
    concentrator = here(pptp={})
    client = pns()
    callers = [client.call("joe"), client.call("ann")]
    silent = client.tcp()
    concentrator.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    client.until("all heard it", lambda: len(client.ended) == 2 and all(c.cleared for c in callers))
    assert {down.reason.code for down in client.ended.values()} == {"cleared"}
    assert all("shutting down" in down.reason.text for down in client.ended.values())
    concentrator.process.wait(10)
    assert time.monotonic() - began < 6 and ends(silent)
    silent.close()


def test_control_and_forwarder_killed(here, pns):
    """The forwarder: sessions live on. Control: connections die with it, and clients dial again."""
    concentrator = here(pptp={})
    client = pns()
    joe = client.call("joe")
    before = pids(concentrator)
    os.kill(before["forwarder"], signal.SIGKILL)
    until("another one is there", lambda: pids(concentrator)["forwarder"] != before["forwarder"])
    reaches(joe, 1)
    sequence = joe.numbers[-1]
    assert sequence == joe.numbers[0] + len(joe.numbers) - 1, "the numbers go on"
    os.kill(before["control"], signal.SIGKILL)
    client.until("the connection is lost", lambda: joe.cleared)
    until("the API answers", concentrator._answers)
    again = client.call("joe")
    reaches(again, 2)
    received = len(joe.received)
    joe.ip(ping(again.address, LOCAL, 3))           # by the ids of before: they are nobody's
    reaches(again, 4)
    assert len(joe.received) == received and not answered(again.received, 3)


def test_a_reload(here, pns):
    """Settings of the service are in force for who comes after; what would need a restart is refused."""
    concentrator = here(pptp={})
    client = pns()
    joe = client.call("joe")
    text = concentrator.file.read_text()
    head, pptp = text.split("[server.pptp]")
    concentrator.file.write_text(head + "[server.pptp]" + pptp.replace("max-mtu = 1450", "max-mtu = 1300"))
    os.kill(pids(concentrator)["supervisor"], signal.SIGHUP)
    concentrator.logs("was read again")
    ann = client.call("ann")
    assert (concentrator.session("joe")["mtu"], concentrator.session("ann")["mtu"]) == (1400, 1300)
    concentrator.file.write_text(head + "[server.pptp]" + pptp.replace("enabled = true", "enabled = false"))
    os.kill(pids(concentrator)["supervisor"], signal.SIGHUP)
    concentrator.logs(r"server\.pptp\.enabled cannot change while headrace runs")
    for n, caller in enumerate((joe, ann)):
        reaches(caller, n)


# -- what is not a client


def test_bad_streams(here, pns):
    """Whatever comes in on the port: it ends that connection, and nobody else's."""
    concentrator = here(pptp={})
    client = pns()
    joe = client.call("joe")
    sccrq = encode("SCCRQ", **START)
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", encode("OCRQ", call_id=1), sccrq[:10] + b"\xff" * 146,
                 sccrq + b"\0\0\0\0", sccrq + encode("SCCRQ", **START) + encode("StopCCRP", result=1), os.urandom(3000)):
        sock = client.tcp()
        sock.setblocking(True)
        sock.sendall(said)
        assert ends(sock), said
        sock.close()
    for _ in range(50):                         # reset before it is accepted, or soon after
        sock = client.tcp()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    sock = client.tcp()
    sock.setblocking(True)
    for octet in sccrq + encode("Echo-Request", identifier=7):        # octet by octet
        sock.sendall(bytes([octet]))
    [reply, *_], _ = read(sock)
    assert reply.name == "SCCRP" and reply.values["result"] == 1
    sock.sendall(encode("SCCRQ", **START)[:100])
    sock.close()
    wrong = client.tcp()
    wrong.setblocking(True)
    wrong.sendall(encode("SCCRQ", **START | {"protocol_version": 0x0200}))
    [reply], _ = read(wrong)
    assert reply.values["result"] == 5 and ends(wrong)
    wrong.close()
    until("they are gone", lambda: tunnels(concentrator) == 1)
    reaches(joe, 1)
    assert "Exception" not in concentrator.log and "defect" not in concentrator.log


def test_a_peer_that_does_not_read(here, pns):
    """What we would have to say to it is bounded: it is cut off, and others go on."""
    concentrator = here(pptp={})
    client = pns()
    joe = client.call("joe")
    sock = client.tcp()
    sock.setsockopt(1, 8, 4096)             # SO_RCVBUF
    sock.setblocking(True)
    sock.settimeout(2)
    sock.sendall(encode("SCCRQ", **START))
    flood = encode("Echo-Request", identifier=1) * 4096
    sent = 0
    with pytest.raises((TimeoutError, ConnectionError)):
        while sent < 64 << 20:
            sock.sendall(flood)
            sent += len(flood)
    assert sent < 32 << 20
    reaches(joe, 1)
    sock.close()
    until("it is gone", lambda: tunnels(concentrator) == 1)


def test_half_open_connections(here, pns):
    """A thousand connections that say nothing: the port still lets clients in from other addresses, and they go when they are closed."""
    concentrator = here({"log": "warning"}, pptp={})
    client, other = pns(), pns(local="10.9.0.3")
    socks = [client.tcp() for _ in range(1030)]
    until("they are counted", lambda: concentrator.get("stats")["pptp"].get("half_open", 0) >= 6)
    assert tunnels(concentrator) == 1024
    joe = other.call("joe")
    reaches(joe, 1)
    for sock in socks:
        sock.close()
    until("they are gone", lambda: tunnels(concentrator) == 1)
    assert client.address == FAR and client.call("ann").up
