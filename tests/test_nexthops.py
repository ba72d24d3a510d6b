"""Routes and neighbours followed, and what forbids to pass the kernel's output by; in network namespaces."""
from __future__ import annotations

import select
import struct
import subprocess
import time

import pytest
from headrace.bench.lab import Namespace
from headrace.control import bypass
from headrace.control.netlink import attribute, attributes, messages
from headrace.control.nexthops import NextHops
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.nftables.expressions import verdict
from pyroute2.nftables.main import NFTables
from rig.forwarder import mapped

OWN, FIRST, SECOND = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


def run(text):
    for line in filter(None, (line.strip() for line in text.splitlines())):
        subprocess.run(line.split(), check=True, capture_output=True)


class Tables:
    """What control writes."""

    def __init__(self):
        self.hops, self.sessions = {}, {}

    def write_nexthop(self, index, interface, mtu, header):
        self.hops[index] = interface, mtu, header

    def set_nexthop(self, slot, index):
        self.sessions[slot] = index


class Net:
    def __init__(self):
        self.tables = Tables()
        self.hops = NextHops(self.tables)

    def attach(self, slot, peer):
        self.hops.attach(slot, mapped(peer), mapped("192.0.2.1"))

    def way(self, slot):
        """(MAC, MTU) by which a session's frames go, or None."""
        interface, mtu, header = self.tables.hops.get(self.tables.sessions[slot], (0, 0, b""))
        assert not interface or header[6:] == bytes.fromhex(OWN.replace(":", "")) + b"\x08\0"
        return (header[:6].hex(":"), mtu) if interface else None

    def until(self, slot, way):
        end = time.monotonic() + 5
        while self.way(slot) != way:
            assert time.monotonic() < end, self.way(slot)
            if select.select([self.hops.fileno()], [], [], 0.05)[0]:
                self.hops.read()
                while self.hops.step():
                    pass


@pytest.fixture
def net():
    with Namespace("hops").entered():
        run(f"""sysctl -qw net.ipv6.conf.default.disable_ipv6=1
            ip link set lo up
            ip link add wire type veth peer name far
            ip link set wire up address {OWN}
            ip link set far up
            ip address add 192.0.2.1/24 dev wire
            ip neighbour add 192.0.2.2 lladdr {FIRST} dev wire nud permanent
            ip neighbour add 192.0.2.3 lladdr {SECOND} dev wire nud permanent""")
        net = Net()
        yield net
        net.hops.close()


@pytest.mark.root
def test_peers_on_the_link_and_behind_a_router(net):
    run("""ip route add default via 192.0.2.3
        ip route add 198.51.100.0/24 via 192.0.2.3 mtu 1400""")
    for slot, peer in enumerate(("192.0.2.2", "203.0.113.1", "203.0.113.9", "198.51.100.1", "192.0.2.77", "127.0.0.2"), 1):
        net.attach(slot, peer)
    assert [net.way(slot) for slot in range(1, 7)] == [(FIRST, 1500), (SECOND, 1500), (SECOND, 1500), (SECOND, 1500), None, None]
    assert net.tables.sessions[2] == net.tables.sessions[3] != net.tables.sessions[1] and net.tables.sessions[6] == 0
    for slot in range(1, 7):
        net.hops.detach(slot)
    assert not net.hops.peers and not net.hops.hops and len(net.hops.free) == 4095
    assert not any(interface for interface, *_ in net.tables.hops.values()), "what nobody uses leads nowhere"
    net.attach(9, "198.51.100.1")
    assert net.way(9) == (SECOND, 1400)


@pytest.mark.root
def test_neighbours_come_change_and_go(net):
    net.attach(1, "192.0.2.9")
    assert net.way(1) is None
    run(f"ip neighbour add 192.0.2.9 lladdr {FIRST} dev wire nud stale")
    net.until(1, (FIRST, 1500))
    run(f"ip neighbour replace 192.0.2.9 lladdr {SECOND} dev wire nud reachable")
    net.until(1, (SECOND, 1500))
    run("ip neighbour del 192.0.2.9 dev wire")
    net.until(1, None)


@pytest.mark.root
def test_routes_change(net):
    net.attach(1, "203.0.113.1")
    net.attach(2, "192.0.2.2")
    assert net.way(1) is None and net.tables.sessions[1] == 0
    run("ip route add default via 192.0.2.2")
    net.until(1, (FIRST, 1500))
    run("ip route add 203.0.113.0/24 via 192.0.2.3")
    net.until(1, (SECOND, 1500))
    run("ip route del 203.0.113.0/24")
    net.until(1, (FIRST, 1500))
    run("ip route del default")
    net.until(1, None)
    assert net.way(2) == (FIRST, 1500)


@pytest.mark.root
def test_the_interface_changes(net):
    net.attach(1, "192.0.2.2")
    run("ip link set wire mtu 1300")
    net.until(1, (FIRST, 1300))
    run("ip link set wire down")
    net.until(1, None)


@pytest.mark.root
def test_what_rules_and_policies_would_miss():
    found = []
    with Namespace("bypass").entered():
        decision = bypass.Bypass("auto", found.append)
        sockets = decision.sockets()
        assert found == [True] and bypass.reasons() == []

        def after(change):
            with NFTables(nfgen_family=2) as nft:
                nft.begin()
                change(nft)
                nft.commit()
            while select.select(sockets, [], [], 0.2)[0]:
                decision.changed()
            return found[-1]

        def chain(nft, name, hook, **kw):
            nft.table("add", name=name)
            nft.chain("add", table=name, name="c", hook=hook, type="filter", priority=0, **kw)
        assert after(lambda nft: chain(nft, "a", "forward"))
        assert after(lambda nft: chain(nft, "b", "output")), "an empty chain does nothing"
        assert not after(lambda nft: nft.rule("add", table="b", chain="c", expressions=[verdict(code=1)]))
        assert bypass.reasons() == ["nftables' chain c of table b"]
        assert after(lambda nft: nft.table("del", name="b"))
        assert not after(lambda nft: chain(nft, "d", "postrouting", policy=0)), "it drops all there is"
        assert after(lambda nft: nft.table("del", name="d"))

        def translation(nft):
            nft.table("add", name="n")
            nft.chain("add", table="n", name="c", hook="postrouting", type="nat", priority=100)
            nft.rule("add", table="n", chain="c", expressions=[verdict(code=1)])
        assert after(translation), "NAT is for connections"
        decision.close()
        packet = bypass.Bypass("packet", found.append)
        assert found[-1] and packet.sockets() == []


@pytest.mark.root
def test_what_an_ipsec_policy_would_miss():
    """One on what leaves: frames of our own would leave in clear. The kernel says when it comes and when it goes."""
    found, ends = [], "src 192.0.2.1 dst 192.0.2.2"
    with Namespace("bypass").entered():
        decision = bypass.Bypass("auto", found.append)

        def after(change):
            run(f"ip xfrm policy {change}")
            while select.select(decision.sockets(), [], [], 0.2)[0]:
                decision.changed()
            return found[-1]
        assert found == [True]
        assert after(f"add dir in {ends} proto gre tmpl {ends} proto esp mode transport") and bypass.reasons() == []
        assert not after(f"add dir out {ends} proto gre tmpl {ends} proto esp mode transport")
        assert bypass.reasons() == ["an IPsec policy"]
        assert after(f"delete dir out {ends} proto gre") and bypass.reasons() == []
        decision.close()


def test_iptables_of_the_old_kind(monkeypatch, tmp_path):
    names = tmp_path / "names"
    monkeypatch.setattr(bypass, "IPTABLES", names)
    assert bypass.iptables() == []
    names.write_text("nat\n")
    assert bypass.iptables() == []
    names.write_text("nat\nmangle\nfilter\n")
    assert bypass.iptables() == ["iptables' table mangle", "iptables' table filter"]


@given(st.binary(max_size=80))
def test_any_octets(data):
    assert all(kind <= 0x3FFF for kind in attributes(data))
    assert sum(16 + len(body) for _, body in messages(data)) <= len(data)


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=20), max_size=5))
def test_attributes_there_and_back(found):
    assert attributes(b"".join(attribute(kind, value) for kind, value in found.items())) == found
    body = struct.pack("=IHHII", 20, 7, 0, 1, 2) + b"body"
    assert list(messages(body + body)) == [(7, b"body")] * 2
