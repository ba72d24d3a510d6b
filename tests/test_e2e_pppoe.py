"""Our own hosts dial in by PPPoE, in frames that the tests build: networks that no kernel here knows, services, and bad manners."""
from __future__ import annotations

import json
import re
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path as File

import pytest
from headrace.control import mac, tags
from headrace.control.link import IP, IPV6
from ours.flood import flood
from ours.host import DISCOVERY, SESSION, frame, station
from ours.packets import answered, drained, ping
from ours.place import LAN
from peers.concentrator import LOCAL, toml
from test_e2e_ipv6 import DUAL, TABLES, datagram, packets, prefix

pytestmark = pytest.mark.root

NETWORKS = {"untagged": (), "one tag": ((mac.C_TAG, 7),), "88a8 and 8100": ((mac.S_TAG, 100), (mac.C_TAG, 7)),
            "8100 and 8100": ((mac.C_TAG, 100), (mac.C_TAG, 7))}
ALL = {"pppoe-over-vlan-range": ["untagged", "7-8", "100.7"]}


def reaches(caller, destination=LOCAL, sequence=1):
    """An echo there and back."""
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


def verdicts(concentrator):
    return concentrator.get("stats")["verdicts"]


def test_every_tagging(here, hosts):
    """The same MAC in each network, at once."""
    concentrator, far = here(pppoe=[ALL]), hosts()
    callers = {name: far.call(user, local=station(1, *vlans)) for (name, vlans), user in zip(NETWORKS.items(), ("joe", "ann", "eve", "bob"),
                                                                                              strict=True)}
    for caller in callers.values():
        reaches(caller)
        reaches(caller, LAN, 2)
    shown = {s["user"]: (s["name"], s["caller-id"], s["interface"], s["mtu"], s["mru"]) for s in concentrator.sessions()}
    assert shown == {user: (f"<pppoe-{user}>", f"02:00:5E:20:00:01{at}", "wire", 1400, 1480)
                     for user, at in zip(("joe", "ann", "eve", "bob"), ("", "@7", "@100.7", "@100.7"), strict=True)}
    joe = callers["untagged"]
    sent, far.say = far.say, lambda data: sent(data[:12] + b"\x81\0\xa0\0" + data[12:])      # a priority tag: it names no VLAN
    reaches(joe, LAN, 4)
    far.say = sent
    far.hang_up(callers["one tag"])
    far.until("ann is gone", lambda: concentrator.session("ann") is None)
    reaches(callers["untagged"], LAN, 3)


def opened(caller):
    """Whether it has IPv4, and IPv6."""
    return caller.address not in ("", "0.0.0.0"), bool(prefix(caller))


def test_families(here, hosts, lan):
    """Both, and either alone: an address by IPCP, a prefix by router advertisement, and data of what is open."""
    here(pppoe=[{}], tables={key: table for key, table in TABLES.items() if key != "secrets"})
    far = hosts()
    wishes = {"joe": (True, True), "ann": (False, True), "eve": (True, False)}
    callers = [far.call(user, local=station(n), link=replace(DUAL, ip=four, ipv6=six), wait=False)
               for n, (user, (four, six)) in enumerate(wishes.items(), 1)]
    for n, caller in enumerate(callers):
        four, six = wishes[caller.user]
        far.until(f"{caller.user} is up", lambda caller=caller, wished=(four, six): opened(caller) == wished)
        if four:
            reaches(caller, LAN)
        if six:
            caller.data(IPV6, datagram(caller, n, 1))
            assert drained(lan, 1) == [(n, 1)]
            lan.sendto(b"down", (str(prefix(caller)[0x99]), 3000))
            far.until("an answer", lambda caller=caller: [p for p in packets(caller) if p and p.payload[8:] == b"down"])
    assert {caller.user: opened(caller) for caller in callers} == wishes


def test_ends_of_a_session(here, hosts):
    """By PADT, by us, by silence; and who sends data of a session that is none is told."""
    concentrator, far = here(pppoe=[{"service-name": "internet", "keepalive-timeout": "3s"}]), hosts()
    joe, ann, eve = far.call("joe"), far.call("ann", local=station(2)), far.call("eve", local=station(3))
    packet = ping(joe.address, LAN, 9)
    far.hang_up(joe)
    far.until("joe is gone", lambda: concentrator.session("joe") is None)
    joe.data(IP, packet)
    far.until("he is told", lambda: any(to == joe.local and tags.decode(packet).name == "PADT" for to, _, packet in far.heard))
    concentrator.command("disconnect", "ann")
    far.until("ann is told", lambda: ann.cleared)
    session = concentrator.session("eve")
    assert session and session["called-id"] == "internet"
    lose, far.lose = far.lose, lambda data: mac.mac(eve.local) in data[:12]
    far.until("eve is missed", lambda: concentrator.session("eve") is None, 12)
    far.lose = lose
    assert [row["code"] for row in concentrator.json("sessions", "--failed") or []] == []
    concentrator.logs("eve.*ended.*echo")


def test_control_dies(here, hosts):
    """The next one says PADT to all that there were, and takes those that dial again."""
    concentrator, far = here(pppoe=[{}]), hosts()
    joe = far.call("joe")
    concentrator.kill_child("control")
    far.until("joe is told", lambda: joe.cleared, 20)
    again = far.call("joe")
    reaches(again, LAN)


def test_stopping_says_goodbye(here, hosts):
    concentrator, far = here({"workers": 2}, pppoe=[{}]), hosts()
    callers = [far.call(user, local=station(n)) for n, user in enumerate(("joe", "ann", "eve", "bob"), 1)]
    for caller in callers:
        reaches(caller, LAN)
    concentrator.stop()
    far.until("all are told", lambda: all(caller.cleared for caller in callers))


def test_an_interface_comes_and_goes(here, hosts, place):
    concentrator = here(pppoe=[{"interface": ["wire", "later"]}])
    concentrator.logs("there is no interface later: no PPPoE on it until that changes")
    place.ip(place.netns, f"link add later type veth peer name later netns {place.far}")
    concentrator.logs("interface later is down")
    for netns in place.far, place.netns:
        place.ip(netns, "link set later up")
    concentrator.logs("PPPoE on later")
    joe = hosts("later").call("joe")
    reaches(joe, LAN)
    place.ip(place.netns, "link del later")
    concentrator.logs("there is no interface later.*(?s:.*)there is no interface later")
    place.ip(place.netns, f"link add later mtu 1508 type veth peer name later netns {place.far} mtu 1508")
    for netns in place.far, place.netns:
        place.ip(netns, "link set later up")
    concentrator.logs("PPPoE on later, .*, MTU 1508")
    ann = hosts("later").call("ann", local=station(2))
    reaches(ann, LAN)
    reaches(hosts().call("eve", local=station(3)), LAN)
    assert {s["user"]: s["interface"] for s in concentrator.sessions() if s["user"] != "joe"} == {"ann": "later", "eve": "wire"}
    place.ip(place.netns, "link del later")


def test_bad_frames_disturb_nobody(here, hosts):
    """Ids of others, ids of nobody, frames cut anywhere: each is dropped, and a session goes on."""
    concentrator, far = here(pppoe=[{}]), hosts()
    joe = far.call("joe")
    echo = ping(joe.address, LAN, 5)
    packet = struct.pack("!BBHHH", 0x11, 0, joe.session, len(echo) + 2, IP) + echo
    good = frame(joe.call.call.path.peer, joe.local, SESSION, packet)
    stolen = frame(joe.call.call.path.peer, station(9), SESSION, packet)
    padt = frame(joe.call.call.path.peer, station(9), DISCOVERY, tags.encode("PADT", joe.session, {}))
    for data in (stolen, padt, *(good[:n] for n in range(14, len(good) - 1, 7))):
        far.say(data)
    reaches(joe, LAN, 6)
    assert concentrator.session("joe")
    far.until("all are counted", lambda: verdicts(concentrator)["drop-peer"] >= 1 and verdicts(concentrator)["drop-no-session"] >= 1)


def resident(pid):
    """Octets of memory that a process has."""
    return int(re.search(r"VmRSS:\s+(\d+)", File(f"/proc/{pid}/status").read_text())[1]) << 10


def test_a_flood_of_padis_reaches_nobody(here, hosts, place):
    """As many as the machine sends, each from another MAC: answered within the limits, none of them control's, no memory for any; and who
    is up is served meanwhile."""
    concentrator, far = here(pppoe=[{"padi-limit": 1000}]), hosts()
    joe = far.call("joe")
    pid, before = concentrator.child("forwarder"), verdicts(concentrator)
    memory = resident(pid), resident(concentrator.child("control"))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(flood, place, 100000, 2.0)
        sequence = 10
        while not sending.done():
            sequence += 1
            reaches(joe, LAN, sequence)
        sent = sending.result()
    far.until("all are counted", lambda: verdicts(concentrator)["drop-padi"] - before["drop-padi"] > 0.9 * sent - 5000)
    after = verdicts(concentrator)
    assert sent > 10000 and 1000 <= after["offered"] - before["offered"] <= 1000 * 6 and sequence > 15
    assert after["punt"] == before["punt"] and len(concentrator.sessions()) == 1
    # What a worker owns is taken at its start, and touched when it is used first: its receive buffers are 8 MiB.
    assert resident(pid) - memory[0] < 12 << 20 and resident(concentrator.child("control")) - memory[1] < 2 << 20


@pytest.mark.parametrize("offload", ["auto", "none"])
def test_two_workers_and_a_foreign_owner(here, hosts, offload):
    """One worker reads the interface, and every packet crosses a ring between them."""
    concentrator = here({"workers": 2, "offload": offload}, {"HEADRACE_TEST_OWNER": "other"}, pppoe=[ALL])
    far = hosts()
    callers = [far.call(user, local=station(n, *NETWORKS["one tag"])) for n, user in enumerate(("joe", "ann", "eve"), 1)]
    for caller in callers:
        for sequence in range(1, 20):
            reaches(caller, LAN, sequence)
    assert sum(row["ring-in"] for row in concentrator.get("stats")["workers"]) > 0


def test_services_by_mac_and_by_name(here, hosts):
    """Who is on a list, who asks for another name, and a service that refuses when it has its sessions."""
    here(pppoe=[{"service-name": "gold", "accept-service-name": "exact", "allow-mac": ["02:00:5E:20:00:01"]},
                {"service-name": "tv", "deny-mac": ["02:00:5E:20:00:02"], "pado-delay": {"0": "0s", "1": "refuse"}}])
    far = hosts(tries=2, wait=0.3)
    joe = far.call("joe", service_name=b"gold")
    out = [far.call("ann", local=station(2), service_name=name, wait=False) for name in (b"gold", b"", b"radio")]
    far.until("nobody answers", lambda: all(caller.cleared for caller in out))
    assert {caller.cleared.reason.code for caller in out} == {"timeout"}
    far.call("eve", local=station(3))
    late = far.call("bob", local=station(4), wait=False)
    far.until("the service has enough", lambda: late.cleared)
    reaches(joe, LAN)


def test_a_reload_brings_vlans_and_services(here, hosts, place):
    """An interface whose VLANs the kernel does not know must hear all; which interfaces there are needs a restart."""
    def promiscuous():
        return json.loads(place.on_host(place.netns, "ip", "-j", "-d", "link", "show", "wire").stdout)[0]["promiscuity"] > 0

    concentrator, far = here(pppoe=[{"service-name": "internet"}]), hosts(tries=2, wait=0.3)
    joe = far.call("joe")
    assert not promiscuous()
    config = concentrator.config
    services = config["server"]["pppoe"]
    services.append({**services[0], "service-name": "tv", "pppoe-over-vlan-range": ["7"]})
    concentrator.file.write_text(toml(config))
    concentrator.process.send_signal(signal.SIGHUP)
    concentrator.logs("was read again")
    far.until("it hears all", promiscuous)
    ann = far.call("ann", local=station(2, *NETWORKS["one tag"]), service_name=b"tv")
    reaches(ann, LAN)
    reaches(joe, LAN)
    services.append({**services[0], "interface": "lan"})
    concentrator.file.write_text(toml(config))
    concentrator.process.send_signal(signal.SIGHUP)
    concentrator.logs("server.pppoe.interfaces cannot change while headrace runs; restart it")
    assert len(concentrator.sessions()) == 2
