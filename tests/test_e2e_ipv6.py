"""IPv6 of our own LAC's sessions through the whole concentrator: bursts both ways, routers that are asked, a crash of the forwarder."""
import ipaddress
import struct
import time
from dataclasses import replace

import pytest
from headrace.control.dhcp6 import IA_PD, Association, Message, Type, pull_dhcp6, push_dhcp6
from headrace.control.ip6 import UDP, Datagram6, pull_ip6, push_ip6
from headrace.control.ipv6cp import link_local
from headrace.control.link import IPV6
from headrace.control.nd import pull_advertisement, push_solicitation
from ours.lac import SOL_UDP, UDP_SEGMENT
from ours.packets import NUMBER, drained
from ours.peer import LINK
from peers.concentrator import configuration
from peers.lab import LAN6, until

pytestmark = pytest.mark.root

OWN = "2001:db8:67::1"
PROFILE = {**configuration("")["profiles"]["default"], "local-ipv6-address": OWN, "remote-ipv6-prefix-pool": "links"}
SECRETS = {f"user{n}": {"password": "Gate-5-opens"} for n in range(40)}
TABLES = {"profiles": {"default": PROFILE}, "ipv6-pool": {"links": {"prefix": "2001:db8:67::/48"}}, "secrets": SECRETS}
DUAL = replace(LINK, authentication=("pap",), ipv6=True)
BURST, SIZE = 16, 400                   # datagrams of one burst, and octets of their payload


def packed(text):
    return ipaddress.IPv6Address(text).packed


def packets(caller):
    return [pull_ip6(payload) for protocol, payload in caller.frames if protocol == IPV6]


def prefix(caller):
    """What its router advertised."""
    said = [pull_advertisement(p) for p in packets(caller) if p is not None]
    return next((a.prefixes[0].network for a in said if a is not None), None)


def ask(caller, kind, *associations, server=b""):
    """What the router of its link answers a DHCPv6 message."""
    seen, own = len(caller.frames), link_local(caller.ppp.ipv6cp.local_identifier).packed
    message = push_dhcp6(Message(kind, b"xid", b"\0\3\0\1client", server, associations))
    head = struct.pack("!HHHH", 546, 547, 8 + len(message), 0)
    caller.data(IPV6, push_ip6(Datagram6(own, packed("ff02::1:2"), UDP, head + message, 1)))

    def answer():
        found = [pull_ip6(payload) for protocol, payload in caller.frames[seen:] if protocol == IPV6]
        return [p for p in found if p and p.protocol == UDP and p.destination == own]
    return pull_dhcp6(caller.peer.until("the router's answer", answer)[0].payload[8:])


def dialled(client, users):
    tunnel = client.tunnel()
    callers = [client.call(user, tunnel=tunnel, link=DUAL, wait=False) for user in users]
    client.until("all are up, and know their prefix", lambda: all(c.up and prefix(c) for c in callers), 40)
    return callers


def datagram(caller, stream, n):
    source = prefix(caller)[0x99].packed
    payload = NUMBER.pack(stream, n).ljust(SIZE, b".")
    return push_ip6(Datagram6(source, packed(LAN6), 17, struct.pack("!HHHH", 3000, 2000, 8 + SIZE, 0) + payload, 64))


@pytest.mark.parametrize("workers", [1, 2])
def test_bursts_both_ways(place, here, lac, lan, workers):
    """Super-packets up and down, of many sessions; with two workers every packet crosses a ring. Nothing is lost, nothing overtakes."""
    concentrator = here({"workers": workers, "log": "warning"}, {"HEADRACE_TEST_OWNER": "other"} if workers > 1 else {}, TABLES)
    client = lac()
    callers = dialled(client, SECRETS)
    assert len({prefix(c) for c in callers}) == len(SECRETS)
    for n, caller in enumerate(callers):
        client.burst([caller.header(IPV6) + datagram(caller, n, k) for k in range(BURST)])
        assert drained(lan, BURST) == [(n, k) for k in range(BURST)]
    for n, caller in enumerate(callers):
        payload = b"".join(NUMBER.pack(n, k).ljust(SIZE, b".") for k in range(BURST))
        lan.sendmsg([payload], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", SIZE))], 0, (str(prefix(caller)[0x99]), 3000))

    def came(caller):
        return [p for p in packets(caller) if p is not None and p.protocol == 17]
    client.until("all bursts", lambda: all(len(came(c)) == BURST for c in callers))
    for n, caller in enumerate(callers):
        assert [NUMBER.unpack_from(p.payload, 8) for p in came(caller)] == [(n, k) for k in range(BURST)]
        assert all(p.destination == prefix(caller)[0x99].packed and p.hops == 63 for p in came(caller)), "one router"
    stats = concentrator.get("stats")
    total = {key: sum(row[key] for row in stats["workers"]) for key in ("super-in", "super-out", "ring-in", "gso-sends")}
    if stats["offload"]["tun"] == "uso":
        assert total["super-in"] >= len(callers) and total["super-out"] >= len(callers), total
    assert (total["ring-in"] > 0) == (workers > 1), total
    assert {name: n for name, n in stats["verdicts"].items() if n and name.startswith("drop") and name != "drop-scope"} == {}


def test_a_forwarder_that_dies_and_one_that_floods(place, here, lac, lan):
    """Sessions are found in the tables file with their prefixes. Whoever floods its router is cut off, and nobody else is."""
    concentrator = here({"log": "warning"}, {}, TABLES)
    client = lac()
    first, second = dialled(client, ["user1", "user2"])
    concentrator.kill_child("forwarder")

    def through(caller, n):
        caller.data(IPV6, datagram(caller, n, n))
        return (n, n) in drained(lan, 1000, 0.3)         # earlier ones may come late
    until("a packet passes again", lambda: through(first, 7))
    assert through(second, 8)

    def asked(caller):
        """Solicit a router, and hear from it."""
        seen = len(packets(caller))
        own = link_local(caller.ppp.ipv6cp.local_identifier).packed
        caller.data(IPV6, push_ip6(push_solicitation(own, packed("ff02::2"))))
        return client.until("an advertisement", lambda: [p for p in packets(caller)[seen:] if p and p.destination == own])
    asked(first)
    noise = first.header(IPV6) + push_ip6(push_solicitation(link_local(5).packed, packed("ff02::2")))
    for _ in range(200):
        client.burst([noise] * 40)
    until("it is cut off", lambda: concentrator.get("stats")["verdicts"]["drop-solicit"] > 5000)
    began = time.monotonic()
    asked(second)
    assert time.monotonic() - began < 2 and through(first, 9) and through(second, 10)


def test_too_big_comes_from_us(place, here, lac, lan):
    """The sender in the network behind hears of the link's MTU, from our own address."""
    here({"log": "warning"}, {}, TABLES)
    client = lac()
    caller, = dialled(client, ["user1"])
    ping = "ping", "-6", "-c1", "-W1", "-M", "do", "-s", str(1401 - 48), str(prefix(caller)[7])
    printed = place.on_host(place.lan, *ping, check=False).stdout
    assert "Packet too big: mtu=1400" in printed or "mtu = 1400" in printed, printed


@pytest.mark.parametrize("own, routed", [("2001:db8:300:40::/60", "2001:db8:300:40::/60"), (None, "2001:db8:100::/40")],
                         ids=["his own", "of the pool"])
def test_a_delegated_prefix_is_routed(place, here, lac, lan, own, routed):
    """His own is in no pool, and has a route of the kernel's; what the network behind sends there arrives, until it is released."""
    delegating = {"default": {**PROFILE, "dhcpv6-pd-pool": "delegated"}}
    pools = {**TABLES["ipv6-pool"], "delegated": {"prefix": "2001:db8:100::/40", "prefix-length": 56}}
    secrets = {"user1": {**SECRETS["user1"], **({"delegated-ipv6-prefix": own} if own else {})}, "user2": SECRETS["user2"]}
    concentrator = here(tables={"profiles": delegating, "ipv6-pool": pools, "secrets": secrets})
    client = lac()
    caller, other = dialled(client, ["user1", "user2"])
    assert f"{routed} " in place.on_host(place.netns, "ip", "-6", "route", "show", "dev", "hr0").stdout
    wish = Association(IA_PD, 1)
    offer = ask(caller, Type.SOLICIT, wish)
    given = ask(caller, Type.REQUEST, wish, server=offer.server).associations
    delegated = given[0].leases[0].what
    assert str(delegated) == own or not own
    inside = str(delegated[0x77])

    def arrives(n):
        lan.sendto(NUMBER.pack(9, n), (inside, 3000))
        client.settle()
        return [p for p in packets(caller) if p and p.destination == packed(inside) and p.payload[8:] == NUMBER.pack(9, n)]
    client.until("a packet arrives", lambda: arrives(1))
    assert ask(caller, Type.RENEW, *given, server=offer.server).associations == given
    client.until("another one", lambda: arrives(2))
    payload = NUMBER.pack(9, 3)
    reply = push_ip6(Datagram6(packed(inside), packed(LAN6), UDP, struct.pack("!HHHH", 3000, 2000, 8 + len(payload), 0) + payload, 64))
    other.data(IPV6, reply)
    caller.data(IPV6, reply)
    assert drained(lan, 1) == [(9, 3)]
    until("the thief is counted", lambda: concentrator.get("stats")["verdicts"]["drop-spoof"] == 1)
    ask(caller, Type.RELEASE, *given, server=offer.server)
    before = concentrator.get("stats")["verdicts"]["drop-no-route"]
    assert not arrives(4)
    until("there is nobody", lambda: concentrator.get("stats")["verdicts"]["drop-no-route"] > before)
    assert "delegated-ipv6-prefix" not in concentrator.session("user1") and not arrives(5)
