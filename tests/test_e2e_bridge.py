"""Bridging end to end: our own client with a bridge of its own, the concentrator's bridge, and a LAN behind that. Real ARP, DHCP and ping
go from one end to the other; frames that no program here makes are built by scapy, which also reads what arrives.

    far: br1 10.66.0.50 + TAP, our client ==== L2TP or PPTP ==== concentrator: hrb0 + br0 10.66.0.1 + lan ---- lan: 10.66.0.2
"""
from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import time
from dataclasses import replace

import pytest
from headrace.control.automaton import CLOSED
from headrace.control.link import Bridging
from headrace.control.mppe import Policy
from l2tp_peer import BYE
from ours.peer import LINK, PLAIN_FRAME, Line
from ours.place import CONCENTRATOR, FAR, LAN
from peers.concentrator import LOCAL
from peers.lab import PASSWORD, until
from test_e2e_restart import pids

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.inet import ICMP, IP, UDP  # noqa: E402
from scapy.layers.l2 import ARP, Dot1Q, Ether  # noqa: E402
from scapy.layers.ppp import HDLC, PPP  # noqa: E402

pytestmark = pytest.mark.root

SITE = "10.66.0.50"
BRIDGED = replace(LINK, bridging=Bridging())
BRIDGES, EVERYBODY = "01:80:c2:00:00:00", "ff:ff:ff:ff:ff:ff"


def profile(use="no", **keys):
    return {"profiles": {"default": {"local-address": LOCAL, "remote-address": "clients", "use-encryption": use, "bridge": "br0", **keys}}}


def link(use="no", **settings):
    return replace(BRIDGED, authentication=("mschap2",), encryption=Policy(use, (128,), False), **settings)


@pytest.fixture
def bridged(place):
    """The concentrator's bridge, with the LAN as a port."""
    place.ip(place.netns, """
addr del 10.66.0.1/24 dev lan
link add br0 address 02:00:00:00:00:b0 type bridge
link set lan master br0
addr add 10.66.0.1/24 dev br0
link set br0 up
""")
    place.ip(place.lan, "route replace default via 10.66.0.1")
    return place


def tap(place, netns, name):
    with place.entered(netns):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))       # TUNSETIFF, IFF_TAP | IFF_NO_PI
    return fd


@pytest.fixture
def site(bridged):
    """`site(caller)`: the client's own bridge, with a host on it, at the other end of its link."""
    fds = []

    def site(caller):
        fds.append(tap(bridged, bridged.far, "line"))
        bridged.ip(bridged.far, f"""
link add br1 type bridge
link set line master br1 mtu 1380
link set br1 mtu 1380
addr add {SITE}/24 dev br1
link set line up
link set br1 up
""")
        return Line(caller, fds[-1])
    yield site
    for fd in fds:
        os.close(fd)


def run(client, netns, *argv, seconds=20):
    """A program, while our client lives; its output."""
    program = subprocess.Popen(["ip", "netns", "exec", netns, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        client.until(f"{argv[0]} ends", lambda: program.poll() is not None, seconds)
    finally:
        program.kill()
    assert program.returncode == 0, program.stdout.read()
    return program.stdout.read()


def run_quietly(*args):
    """Its output, or nothing when it failed."""
    try:
        return run(*args)
    except AssertionError:
        return ""


def ports(place):
    """The bridge's ports that are sessions': interface to what `bridge link` says of it."""
    said = subprocess.run(["bridge", "-n", place.netns, "-j", "-d", "link", "show"], capture_output=True, text=True, check=True).stdout
    return {port["ifname"]: port for port in json.loads(said) if port["ifname"].startswith("hrb")}


@contextlib.contextmanager
def ethernet(place, netns, interface):
    """A packet socket: whole frames in and out."""
    with place.entered(netns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind((interface, 0))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def client(request, lac, pns):
    return lambda: {"l2tp": lac, "pptp": pns}[request.param]()


@pytest.mark.parametrize("client, use, workers", [("l2tp", "no", 1), ("l2tp", "require", 2), ("pptp", "require", 1), ("pptp", "no", 2)],
                         indirect=["client"])
def test_one_network_at_both_ends(here, client, site, bridged, use, workers):
    """ARP finds the LAN's host from the client's, ping goes both ways; the routed session beside it goes on."""
    other = {"HEADRACE_TEST_OWNER": "other"} if workers > 1 else None
    concentrator, client = here({"workers": workers}, other, profile(use), pptp={}), client()
    joe = client.call("joe", link=link(use))
    client.until("both halves are up", lambda: joe.address not in ("", "0.0.0.0"))
    shown = until("it is a port", lambda: concentrator.session("joe"))
    assert shown["bridge"] == "br0" and shown["address"] == joe.address
    assert "BRIDGE" in concentrator.command("sessions") and "bridge: br0" in concentrator.command("monitor", "joe", "--once")
    (port,) = ports(bridged).values()
    assert port["master"] == "br0" and port["learning"] and not port["isolated"] and port["priority"] == 32
    site(joe)
    said = run(client, bridged.far, "ping", "-c", "5", "-i", "0.1", "-w", "15", LAN)
    assert " 0% packet loss" in said
    said = run(client, bridged.lan, "ping", "-c", "5", "-i", "0.1", "-w", "15", "-s", "1300", SITE)
    assert " 0% packet loss" in said
    asked = [Ether(frame[2:]) for frame in joe.bridged if ARP in Ether(frame[2:])]
    assert any(frame[ARP].psrc == LAN for frame in asked), "an independent reader finds the LAN's ARP among what came"
    assert all(len(frame) >= 62 for frame in joe.bridged)
    assert (joe.clear == 0) == (use == "require"), "nothing came in clear that must not"
    joe.ip(bytes(IP(src=joe.address, dst=LOCAL) / ICMP()))
    client.until("the routed half answers", lambda: any(IP(p).haslayer(ICMP) and IP(p).src == LOCAL for p in joe.received))
    verdicts = concentrator.get("stats")["verdicts"]
    bad = [f"drop-{why}" for why in ("bridged", "fcs", "tagged", "frame", "no-port", "clear", "cipher")]
    assert verdicts["up"] and not any(verdicts[name] for name in bad)


def test_what_the_wire_has(here, lac, site, bridged):
    """A capture of the wire, read by scapy alone: L2TP, PPP of protocol 0031, the header of RFC 3518, and ARP and ICMP of both hosts."""
    here(None, None, profile())
    client = lac()
    site(client.call("joe", link=link()))
    with ethernet(bridged, bridged.far, "wire") as wire:
        assert " 0% packet loss" in run(client, bridged.far, "ping", "-c", "3", "-i", "0.1", "-w", "15", LAN)
        wire.setblocking(False)
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(Ether(wire.recv(2000)))
    seen = set()
    for frame in frames:
        if UDP not in frame or 1701 not in (frame[UDP].sport, frame[UDP].dport) or frame[UDP].payload.original[0] & 0x80:
            continue
        ppp = HDLC(frame[UDP].payload.original[6:])         # behind L2TP's data header of six octets
        assert (ppp.address, ppp.control) == (0xFF, 3)
        if ppp[PPP].proto == 0x31:
            flags, kind, *_ = octets = ppp[PPP].payload.original
            inside = Ether(octets[2:])
            assert (flags, kind) == (0, 1) and len(octets) >= 2 + 60 - 18 * (frame[IP].src == FAR)
            if ARP in inside or ICMP in inside:
                seen.add((frame[IP].src, ARP if ARP in inside else inside[ICMP].type))
    assert {(FAR, ARP), (FAR, 8), (CONCENTRATOR, 0), (CONCENTRATOR, ARP)} <= seen, seen


@pytest.mark.parametrize("use", ["no", "require"])
def test_dhcp_across(here, lac, site, bridged, use, tmp_path):
    """A server on the LAN gives an address to a host behind the client: broadcasts both ways."""
    here(None, None, profile(use))
    client = lac()
    site(client.call("joe", link=link(use)))
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "$ip $serverid" > ' + str(tmp_path / "lease") + "\nexit 0\n")
    script.chmod(0o755)
    server = subprocess.Popen(["ip", "netns", "exec", bridged.lan, "dnsmasq", "--keep-in-foreground", "--port=0", "--interface=lan",
                               "--bind-interfaces", "--dhcp-range=10.66.0.100,10.66.0.110,2m", f"--dhcp-leasefile={tmp_path}/leases",
                               "--conf-file=/dev/null", "--user=root", "--pid-file="], stderr=subprocess.PIPE, text=True)
    try:
        run(client, bridged.far, "udhcpc", "-i", "br1", "-f", "-q", "-n", "-t", "8", "-T", "1", "-s", str(script))
        address, by = (tmp_path / "lease").read_text().split()
        assert by == LAN and address in {f"10.66.0.{n}" for n in range(100, 111)}
    finally:
        server.terminate()
        assert server.wait(10) == 0, server.stderr.read()


def test_tags_pass_as_they_are(here, lac, bridged):
    """802.1Q from end to end, each way, with priority and VLAN in place."""
    concentrator, client = here(None, None, profile()), lac()
    joe = client.call("joe", link=link())
    until("it is a port", lambda: ports(bridged))
    down = bytes(Ether(src="02:00:00:00:00:11", dst=EVERYBODY) / Dot1Q(vlan=7, prio=5) / IP(dst="10.1.1.1") / UDP(dport=7) / (b"d" * 60))
    up = bytes(Ether(src="02:00:00:00:00:22", dst=EVERYBODY) / Dot1Q(vlan=9, prio=2) / IP(dst="10.1.1.1") / UDP(dport=9) / (b"u" * 60))
    with ethernet(bridged, bridged.lan, "lan") as lan:
        lan.send(down)
        client.until("it came", lambda: PLAIN_FRAME + down in joe.bridged)
        lan.setsockopt(263, 8, 1)           # PACKET_AUXDATA: the kernel takes the tag off and says so beside
        joe.data(*joe.hidden(PLAIN_FRAME + up, 0x31))
        client.settle()
        until_end = time.monotonic() + 10
        while time.monotonic() < until_end:
            data, ancillary, _, _ = lan.recvmsg(2000, 100)
            if data[:12] == up[:12]:
                break
        status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", ancillary[0][2])
        assert status & 0x10 and (tci, tpid) == (2 << 13 | 9, 0x8100) and data[12:] == up[16:]
    assert concentrator.get("stats")["verdicts"]["drop-tagged"] == 0


@pytest.mark.parametrize("stp", [True, False])
def test_spanning_tree(here, lac, bridged, stp):
    """BPDUs pass both ways, or neither."""
    concentrator, client = here(None, None, profile(**{"bridge-stp": stp})), lac()
    joe = client.call("joe", link=link())
    until("it is a port", lambda: ports(bridged))
    bpdu = (bytes.fromhex("0180c2000000 020000000033 0026 424203 0000000000".replace(" ", ""))).ljust(60, b"\0")
    mark = bytes(Ether(src="02:00:00:00:00:33", dst=EVERYBODY, type=0x88B5)) + b"m" * 50
    with ethernet(bridged, bridged.lan, "lan") as lan:
        lan.send(bpdu)
        lan.send(mark)
        client.until("the frame behind it came", lambda: PLAIN_FRAME + mark in joe.bridged)
        assert (PLAIN_FRAME + bpdu in joe.bridged) == stp
        dropped = lambda: concentrator.get("stats")["verdicts"]["drop-stp"]
        until("its drop is counted", lambda: dropped() == (0 if stp else 1))       # which is after the frame behind it left
        joe.data(*joe.hidden(PLAIN_FRAME + bpdu, 0x31))
        until("it was dealt with", lambda: (not stp and dropped() == 2) or (stp and lan.recv(2000)[:12] == bpdu[:12]))


def test_ports_with_a_horizon_hear_nothing_of_each_other(here, lac, bridged):
    """The LAN hears both, and both hear the LAN; path cost and learning are as configured."""
    here(None, None, profile(**{"bridge-horizon": 1, "bridge-path-cost": 321, "bridge-learning": False, "bridge-port-priority": 64}))
    client = lac()
    joe, ann = (client.call(user, link=link()) for user in ("joe", "ann"))
    until("both are ports", lambda: len(ports(bridged)) == 2)
    for port in ports(bridged).values():
        assert (port["isolated"], port["learning"], port["cost"], port["priority"]) == (True, False, 321, 16)
    frame = bytes(Ether(src="02:00:00:00:00:44", dst=EVERYBODY, type=0x88B5)) + b"from joe".ljust(50)
    mark = bytes(Ether(src="02:00:00:00:00:55", dst=EVERYBODY, type=0x88B5)) + b"from the LAN".ljust(50)
    with ethernet(bridged, bridged.lan, "lan") as lan:
        joe.data(*joe.hidden(PLAIN_FRAME + frame, 0x31))
        while lan.recv(2000) != frame:
            pass
        lan.send(mark)
        client.until("both heard the LAN", lambda: PLAIN_FRAME + mark in joe.bridged and PLAIN_FRAME + mark in ann.bridged)
    assert PLAIN_FRAME + frame not in ann.bridged


def test_too_large(here, lac, bridged):
    """A frame that the session has no room for is dropped, with a verdict of its own; one octet less passes. `check` said so."""
    concentrator, client = here(None, None, profile()), lac()
    assert "has room for frames of 1448 octets" in concentrator.command("check") and "room for frames" in concentrator.log
    joe = client.call("joe", link=replace(link(), mru=1400, mtu=1400))
    until("it is a port", lambda: ports(bridged))
    head = bytes(Ether(src="02:00:00:00:00:66", dst=EVERYBODY, type=0x88B5))
    with ethernet(bridged, bridged.lan, "lan") as lan:
        lan.send(head + b"x" * (1399 - 14))
        lan.send(head + b"y" * (1398 - 14))
        client.until("the smaller one came", lambda: PLAIN_FRAME + head + b"y" * (1398 - 14) in joe.bridged)
    assert not any(b"xxxx" in frame for frame in joe.bridged)
    assert concentrator.get("stats")["verdicts"]["drop-frame"] == 1


def test_a_bridge_that_is_not_there(here, lac, place):
    """The session comes up without it, and the log says why; who can only be bridged is refused."""
    tables = profile(bridge="br9")
    tables["profiles"]["lan"] = {"bridge": "br9"}
    tables["secrets"] = {"joe": {"password": PASSWORD, "profile": "default"}, "ann": {"password": PASSWORD, "profile": "lan"}}
    concentrator, client = here(None, None, tables), lac()
    assert 'bridge is "br9", and there is no such interface' in concentrator.log
    joe = client.call("joe", link=link())
    assert "bridge" not in concentrator.session("joe") and joe.address
    concentrator.logs("user 'joe' is not bridged: there is no interface br9")
    ann = client.call("ann", link=link(ip=False), wait=False)
    client.until("ann is refused", lambda: ann.down)
    assert any("can only be bridged" in row["reason"] for row in concentrator.json("sessions", "--failed"))


def test_bridged_alone(here, lac, site, bridged):
    """A profile without addresses: Ethernet and nothing else."""
    tables = {"profiles": {"default": {"bridge": "br0"}}}
    concentrator, client = here(None, None, tables), lac()
    joe = client.call("joe", link=link(ip=False))
    site(joe)
    assert " 0% packet loss" in run(client, bridged.far, "ping", "-c", "3", "-i", "0.1", "-w", "15", LAN)
    shown = concentrator.session("joe")
    assert shown["address"] == "" and shown["bridge"] == "br0"


def test_a_port_goes_with_its_session(here, lac, bridged):
    """By goodbye, and when BCP ends while the link goes on; each new session has a port anew."""
    concentrator, client = here(None, None, profile()), lac()
    for _ in range(3):
        joe = client.call("joe", link=link())
        until("it is a port", lambda: len(ports(bridged)) == 1)
        client.until("and routed", lambda joe=joe: joe.address not in ("", "0.0.0.0"))
        joe.ppp.bcp.fire("Close", time.monotonic())
        client.until("its port is gone", lambda: not ports(bridged))
        assert concentrator.session("joe") and "bridge" not in concentrator.session("joe")
        client.until("the client has heard it", lambda joe=joe: joe.ppp.bcp.state == CLOSED)
        joe.ppp.bcp.fire("Open", time.monotonic())
        client.until("it is a port again", lambda: len(ports(bridged)) == 1)
        joe.ppp.close(BYE, time.monotonic())
        client.until("it is gone", lambda: not ports(bridged) and not concentrator.sessions())


@pytest.mark.parametrize("role", ["forwarder", "control"])
def test_who_crashes(here, lac, site, bridged, role):
    """The next forwarder has the ports that it finds; the next control begins without any, and the client dials again."""
    concentrator, client = here(None, None, profile()), lac()
    joe = client.call("joe", link=link())
    line = site(joe)
    assert " 0% packet loss" in run(client, bridged.far, "ping", "-c", "3", "-i", "0.1", "-w", "15", LAN)
    before, killed = set(ports(bridged)), pids(concentrator)[role]
    os.kill(killed, signal.SIGKILL)
    until("another one is there", lambda: pids(concentrator)[role] != killed)
    if role == "control":
        client.until("the goodbye came", lambda: joe.cleared or client.ended, 20)
        assert until("its port is gone", lambda: not ports(bridged)) and before
        line.caller = joe = client.call("joe", tunnel=client.tunnel(), link=link())
        line.carried = 0
    else:
        assert set(ports(bridged)) == before
    client.until("it goes on", lambda: " 0% packet loss" in run_quietly(client, bridged.far, "ping", "-c", "1", "-w", "1", LAN), 20)
    assert len(ports(bridged)) == 1


def test_the_supervisor_is_killed(here, lac, bridged):
    """The interfaces go with the last descriptor: none is left in the bridge."""
    concentrator, client = here(None, None, profile()), lac()
    client.call("joe", link=link())
    until("it is a port", lambda: len(ports(bridged)) == 1)
    concentrator.process.kill()
    until("nothing is left", lambda: not ports(bridged) and not bridged.strangers())
    concentrator.abandon()
