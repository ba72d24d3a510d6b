"""IPV6CP (RFC 5072): identifiers that are none or the other end's, and the two families of a link by themselves."""
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from headrace.control.automaton import OPENED
from headrace.control.fields import option
from headrace.control.ipv6cp import IPV6CP, UNIVERSAL, link_local
from headrace.control.link import LinkDown, LinkReset, LinkUp, push_packet
from headrace.control.reason import Reason
from hypothesis import given, settings
from hypothesis import strategies as st
from pppwire import CLIENT, LOCAL, REMOTE, Wire

IPCP, NCP = 0x8021, 0x8057
REQUEST, ACK, NAK, REJECT, TERMINATE, PROTOCOL_REJECT = 1, 2, 3, 4, 5, 8
NOWHERE = IPv4Address(0)
DUAL = replace(CLIENT, ipv6=True)


def asked(wire, *identifiers, protocol=NCP):
    """The server's answer to a Configure-Request, which renegotiates if it was open."""
    wire.server.receive(protocol, push_packet(REQUEST, 200, b"".join(option(1, n.to_bytes(8)) for n in identifiers)), wire.now)
    return [(packet[0], packet[4:]) for p, packet in wire.server.outgoing() if packet[0] != REQUEST and p == protocol]


def dual(**kw):
    return Wire(client=DUAL, ipv6=True, **kw).open().settle()


def test_both_families_come_up():
    wire = dual()
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    assert server.ip and server.ipv6 and client.ip and client.ipv6
    assert (server.local_address, server.remote_address) == (LOCAL, REMOTE)
    assert (server.local_identifier, server.remote_identifier) == (client.remote_identifier, client.local_identifier)
    assert link_local(server.local_identifier) == IPv6Address("fe80::1") and server.remote_identifier not in (0, 1)
    assert not server.remote_identifier & UNIVERSAL


@pytest.mark.parametrize("client, address, ipv6", [
    (DUAL, REMOTE, False), (CLIENT, REMOTE, True), (replace(DUAL, ip=False), REMOTE, True), (DUAL, None, True),
])
def test_one_family_alone(client, address, ipv6):
    """Either end may not want the other: the NCP gets a Protocol-Reject, at once, and the link stays up."""
    wire = Wire(client=client, address=address, ipv6=ipv6).open().settle()
    four, six = bool(address) and client.ip, ipv6 and client.ipv6
    for name in "server", "client":
        link = wire.last(name, LinkUp)
        assert (link.ip, link.ipv6) == (four, six) != (True, True) and wire.count(name, LinkUp) == 1
        assert bool(link.remote_identifier) == six and (link.remote_address != NOWHERE) == four
    refused = [packet[4:6] for packets in wire.sent.values() for protocol, packet in packets
               if protocol == 0xC021 and packet[0] == PROTOCOL_REJECT]
    assert refused == [(IPCP if six else NCP).to_bytes(2)]
    wire.wait(300)
    assert wire.is_up()


def test_no_family_in_common():
    """Nothing to carry: the link ends after a minute, and the first refusal is the reason."""
    wire = Wire(client=replace(CLIENT, ip=False, ipv6=False), ipv6=True).open()
    wire.wait(300)
    reason = wire.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == ("ipcp", "rejected") and not wire.count("server", LinkUp)


@pytest.mark.parametrize("client", [DUAL, replace(DUAL, ip=False)])
def test_too_narrow_for_ipv6(client):
    """RFC 8200 section 5: a peer that takes less than 1280 octets has no IPv6."""
    for mru, ipv6 in (1280, True), (1279, False):
        wire = Wire(client=replace(client, mru=mru), ipv6=True).open().settle()
        assert bool(wire.last("server", LinkUp) and wire.last("server", LinkUp).ipv6) == ipv6


def test_another_family_comes_later_and_goes():
    """A live change: LinkUp again, with all that is in force, and no LinkReset."""
    wire = Wire(ipv6=True).open().settle()
    wire.wait(60)
    assert not wire.last("server", LinkUp).ipv6
    wire.client.network.ncps[NCP] = ncp = IPV6CP("client", wire.client.network, CLIENT, Random(9))
    ncp.open(wire.now)
    wire.drain()
    wire.settle()
    assert wire.last("server", LinkUp).ipv6 and wire.last("server", LinkUp).ip and wire.count("server", LinkUp) == 2
    ncp.fire("Close", wire.now)
    wire.drain()
    wire.wait(60)
    last = wire.last("server", LinkUp)
    assert (last.ip, last.ipv6, last.remote_identifier) == (True, False, 0)
    assert not wire.count("server", LinkReset) and wire.is_up()


def test_ipv4_goes_and_ipv6_stays():
    wire = dual()
    wire.client.ipcp.fire("Close", wire.now)
    wire.drain()
    wire.wait(300)
    last = wire.last("server", LinkUp)
    assert (last.ip, last.ipv6, last.remote_address) == (False, True, NOWHERE) and not wire.count("server", LinkReset)
    wire.client.ipv6cp.fire("Close", wire.now)
    wire.drain()
    assert wire.settle().seen["server"][-1] == LinkReset("ipv6cp")


def test_what_ended_an_ncp_is_no_reason_for_the_link():
    """IPCP is rejected while IPv6 is up; minutes later the peer goes, and that is why."""
    wire = Wire(client=replace(DUAL, ip=False), ipv6=True).open().settle()
    wire.wait(100)
    wire.client.close(Reason("admin", "bye", "bye"), wire.now)
    wire.drain()
    wire.wait(30)
    assert wire.last("server", LinkDown).reason.code == "peer-terminated"


def test_identifiers_that_are_answered():
    wire = dual()
    server = wire.server.ipv6cp
    (code, first), = asked(wire, 0)
    assert code == NAK and first[:2] == b"\x01\x0a" and first[2:] not in (bytes(8), (1).to_bytes(8)) and not first[2] & 2
    assert asked(wire, 0) == [(NAK, first)], "the same one, until it is taken"
    assert asked(wire, server.local_identifier)[0][0] == NAK
    assert asked(wire, 0x0200_0000_0000_0001) == [(ACK, option(1, bytes.fromhex("0200000000000001")))]
    assert asked(wire) == [(NAK, first)], "a peer that asks for none is told one"
    wire.server.receive(NCP, push_packet(REQUEST, 7, option(2, b"\x00\x4f") + option(1, bytes(7) + b"\x09")), wire.now)
    answer = [packet for p, packet in wire.server.outgoing() if p == NCP and packet[0] != REQUEST]
    assert [packet[0] for packet in answer] == [REJECT] and answer[0][4:] == option(2, b"\x00\x4f")
    wire.server.receive(NCP, push_packet(REQUEST, 8, option(1, bytes(4))), wire.now)
    answer = [packet for p, packet in wire.server.outgoing() if p == NCP and packet[0] != REQUEST]
    assert [(packet[0], packet[4:]) for packet in answer] == [(NAK, first)], "of a wrong length"


def test_a_peer_that_insists_on_none_is_rejected_and_may_go_without():
    wire = dual()
    codes = [asked(wire, 0)[0][0] for _ in range(6)]
    assert codes == [NAK] * 5 + [REJECT]
    assert asked(wire) == [(ACK, b"")]
    request = next(packet for p, packet in reversed(wire.sent["server"]) if p == NCP and packet[0] == REQUEST)
    wire.server.tick(wire.now + 3)
    for p, packet in wire.server.outgoing():
        if p == NCP and packet[0] == REQUEST:
            request = packet
    wire.server.receive(NCP, bytes((ACK,)) + request[1:], wire.now)
    link = [event for event in wire.server.events() if isinstance(event, LinkUp)][-1]
    assert link.ipv6 and link.remote_identifier == 0 and link.local_identifier == 1


def test_a_peer_that_rejects_ours_does_not_keep_us_from_having_one(monkeypatch):
    monkeypatch.setattr(IPV6CP, "missing", lambda ncp, asked: b"")      # a peer that would not hear of ours does not ask for one
    wire = Wire(client=DUAL, ipv6=True).open()
    while not any(p == NCP for p, _ in wire.sent["server"]):
        wire.deliver()
    request = next(packet for p, packet in wire.sent["server"] if p == NCP)
    wire.queue = [item for item in wire.queue if item[2] != request]
    wire.server.receive(NCP, bytes((REJECT,)) + request[1:], wire.now)
    wire.drain()
    wire.settle()
    assert wire.last("server", LinkUp).ipv6 and wire.last("server", LinkUp).local_identifier == 1


@pytest.mark.parametrize("other", [0, "theirs", 0x1234])
def test_a_nak_of_ours(other):
    """A name that we can have is taken; 0 or the peer's own is not, and another is drawn."""
    wire = Wire(client=DUAL, ipv6=True).open()
    while not any(p == NCP for p, _ in wire.sent["server"]):
        wire.deliver()
    request = next(packet for p, packet in wire.sent["server"] if p == NCP)
    wire.server.receive(NCP, push_packet(REQUEST, 1, option(1, (0x99).to_bytes(8))), wire.now)
    wanted = 0x99 if other == "theirs" else other
    wire.server.outgoing()
    wire.server.receive(NCP, push_packet(NAK, request[1], option(1, wanted.to_bytes(8))), wire.now)
    again = [packet for p, packet in wire.server.outgoing() if p == NCP and packet[0] == REQUEST][-1]
    now = int.from_bytes(again[6:14])
    assert now == wanted if other == 0x1234 else now not in (0, 0x99, 1)


class Clash(Wire):
    """Both ends begin with the same identifier, or none."""

    def __init__(self, first, second, fates, seed):
        super().__init__(client=DUAL, ipv6=True, seed=seed)
        self.own, self.fates = {"server": first, "client": second}, list(fates)

    def drain(self):
        for name in "server", "client":
            ncp = getattr(self, name).ipv6cp
            if ncp is not None and name in self.own and ncp.state != OPENED:
                ncp._own = ncp.ours[1] = self.own.pop(name)
                ncp._request = None
        super().drain()

    def deliver(self, at=0):
        fate = self.fates.pop() if self.fates else 1
        if fate == 0:
            self.queue.pop(0)
        else:
            if fate == 2:
                self.queue.insert(1, self.queue[0])
            super().deliver()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0, 1, 5]), st.sampled_from([0, 1, 5]), st.lists(st.sampled_from([0, 1, 1, 2]), max_size=30), st.integers(0, 65535))
def test_back_to_back(first, second, fates, seed):
    """Whatever both begin with and the wire loses or repeats: they agree, on two that differ, neither of them 0."""
    wire = Clash(first, second, fates, seed).open()
    wire.wait(200)
    assert wire.is_up()
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    if server.ipv6 and client.ipv6:
        assert server.local_identifier == client.remote_identifier != server.remote_identifier == client.local_identifier
        assert server.local_identifier and server.remote_identifier
    else:       # too much was lost for one family, or a peer was rejected for good: the other carries on
        assert fates and server.ip and client.ip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 7))
def test_any_octets(payloads, code):
    """Nothing that arrives raises, and IPv4 does not notice."""
    wire = dual()
    for n, payload in enumerate(payloads):
        wire.server.receive(NCP, payload if n % 2 else push_packet(code, n, payload), wire.now)
        wire.server.events()
        wire.server.outgoing()
    assert wire.server.ipcp.state == OPENED
