"""IPCP: what a server gives, what it refuses, and what a client makes of it."""
from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from headrace.control.auth import Accept
from headrace.control.fields import option, options
from headrace.control.link import push_packet
from headrace.control.ppp import LinkDown, LinkReset, LinkUp
from pppwire import CLIENT, DNS, LOCAL, REMOTE, WINS, Wire
from scapy.layers.ppp import PPP_IPCP, PPP_IPCP_Option_DNS1, PPP_IPCP_Option_IPAddress

IPCP = 0x8021
REQUEST, ACK, NAK, REJECT = 1, 2, 3, 4
NOWHERE = IPv4Address(0)


def ip(kind, address):
    return option(kind, IPv4Address(address).packed)


@pytest.fixture
def wire():
    return Wire().open().settle()


def asked(wire, data, identifier=200):
    """The server's answer to a Configure-Request, which renegotiates if it was open."""
    wire.server.receive(IPCP, push_packet(REQUEST, identifier, data), wire.now)
    return [(packet[0], packet[4:]) for _, packet in wire.server.outgoing() if packet[0] != REQUEST]


def test_packets_are_what_scapy_reads(wire):
    packets = [PPP_IPCP(packet) for protocol, packet in wire.sent["client"] if protocol == IPCP]
    first, *_, last = [packet for packet in packets if packet.code == REQUEST]
    assert [type(o) for o in first.options[:2]] == [PPP_IPCP_Option_IPAddress, PPP_IPCP_Option_DNS1]
    assert [o.data for o in first.options] == ["0.0.0.0"] * 3
    assert [o.data for o in last.options] == [str(REMOTE), *map(str, DNS)]


def test_server_gives_and_client_takes(wire):
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    assert (server.local_address, server.remote_address) == (client.remote_address, client.local_address) == (LOCAL, REMOTE)
    assert server.dns == client.dns == DNS


def test_client_asks_for_name_servers_only_when_told():
    wire = Wire(client=replace(CLIENT, use_peer_dns=False)).open().settle()
    assert wire.last("client", LinkUp).dns == ()


@pytest.mark.parametrize("wanted, answer", [
    (ip(3, "0.0.0.0"), (NAK, ip(3, REMOTE))),
    (ip(3, "192.168.1.1"), (NAK, ip(3, REMOTE))),
    (option(3, b"\x0a"), (NAK, ip(3, REMOTE))),
    (ip(3, REMOTE), (ACK, ip(3, REMOTE))),
    (b"", (NAK, ip(3, REMOTE))),
    (ip(3, "0.0.0.0") + ip(129, "0.0.0.0") + ip(131, "0.0.0.0") + ip(130, "0.0.0.0"),
     (NAK, ip(3, REMOTE) + ip(129, DNS[0]) + ip(131, DNS[1]) + ip(130, WINS[0]))),
    (ip(3, REMOTE) + ip(132, "0.0.0.0"), (REJECT, ip(132, "0.0.0.0"))),    # one WINS server was configured
    (option(2, bytes.fromhex("002d0f01")) + ip(3, "0.0.0.0") + option(1, bytes(8)),
     (REJECT, option(2, bytes.fromhex("002d0f01")) + option(1, bytes(8)))),
])
def test_answers_of_the_server(wire, wanted, answer):
    assert asked(wire, wanted) == [answer]


def test_a_peer_that_insists_on_its_address_is_rejected_after_all(wire):
    wanted = ip(3, "192.168.1.1")
    codes = [asked(wire, wanted)[0][0] for _ in range(6)]
    assert codes == [NAK] * 5 + [REJECT]
    assert asked(wire, b"") == [(ACK, b"")], "and may then go without"


def test_server_keeps_its_own_address():
    wire = Wire().open()
    while not any(protocol == IPCP for protocol, _ in wire.sent["server"]):
        wire.deliver()
    request = next(packet for protocol, packet in wire.sent["server"] if protocol == IPCP)
    wire.server.receive(IPCP, push_packet(NAK, request[1], ip(3, "192.168.1.1")), 0.0)
    (_, again), = wire.server.outgoing()
    assert dict(options(again[4:]))[3] == LOCAL.packed and again[1] != request[1]


@pytest.mark.parametrize("code", [REJECT, NAK, ACK])
def test_a_client_without_an_address_says_so(code):
    """Rejected, offered 0.0.0.0 for ever, or acknowledged as it was."""
    wire = Wire(client=replace(CLIENT, use_peer_dns=False)).open()
    while not any(protocol == IPCP for protocol, _ in wire.sent["client"]):
        wire.deliver()
    wire.queue.clear()
    wire.client.receive(IPCP, push_packet(REQUEST, 1, ip(3, LOCAL)), 0.0)
    for _ in range(10):
        requests = [packet for protocol, packet in wire.sent["client"] if protocol == IPCP and packet[0] == REQUEST]
        wire.client.receive(IPCP, push_packet(code, requests[-1][1], ip(3, NOWHERE)), 0.0)
        wire.drain()
    wire.queue.clear()
    wire.client.tick(3.0)
    wire.client.tick(6.0)
    wire.drain()
    reason = wire.last("client", LinkDown).reason
    assert (reason.stage, reason.code) == ("ipcp", "no-address") and wire.last("client", LinkUp) is None
    assert [packet[0] for _, packet in wire.sent["client"][-2:]] == [5, 5], "nothing but LCP's goodbye"
    assert {protocol for protocol, _ in wire.sent["client"][-2:]} == {0xC021}


def test_terminate_request_of_an_ncp_leaves_the_link(wire):
    wire.client.ipcp.fire("Close", wire.now)
    wire.drain()
    wire.wait(300)
    assert wire.seen["server"][-1] == LinkReset("ipcp") and wire.last("server", LinkDown) is None
    wire.client.ipcp.fire("Open", wire.now)
    wire.drain()
    wire.settle()
    assert wire.is_up() and wire.count("server", LinkUp) == 2


def test_renegotiation_in_opened_resets_and_comes_up_again(wire):
    assert asked(wire, ip(3, "0.0.0.0")) == [(NAK, ip(3, REMOTE))]
    assert wire.server.events() == [LinkReset("ipcp")]
    wire.wait(60)
    assert wire.is_up() and wire.count("server", LinkUp) == 2


def test_link_is_announced_before_our_last_ack_is_drained():
    wire = Wire().open()
    while wire.last("server", LinkUp) is None:
        assert not any(p == IPCP and packet[0] == ACK and IPv4Address(packet[6:10]) == REMOTE for p, packet in wire.sent["server"])
        machine, protocol, packet = wire.queue.pop(0)
        machine.receive(protocol, packet, 0.0)
        if machine is wire.server and any(isinstance(event, LinkUp) for event in machine._events):
            assert machine._outgoing[-1][1][0] == ACK
        wire.drain()


def test_what_a_server_has_none_of_is_rejected():
    bare = Accept(LOCAL, REMOTE)
    wire = Wire().open().settle()
    wire.server.ipcp.accept = bare
    servers = b"".join(ip(kind, "0.0.0.0") for kind in (129, 130, 131, 132))
    assert asked(wire, ip(3, "0.0.0.0") + servers) == [(REJECT, servers)]
