"""DHCPv6 on a session's link: the server by its messages, what scapy reads of them, and an exchange through the router (RFC 8415)."""
import struct
from ipaddress import IPv6Address

import pytest
from headrace.control.dhcp6 import (
    DNS_SERVERS,
    DOMAIN_LIST,
    IA_NA,
    IA_PD,
    IA_TA,
    REFRESH,
    Association,
    Code,
    Lease,
    Message,
    Status,
    Type,
    pull_dhcp6,
    push_dhcp6,
)
from headrace.control.dhcp6server import OFFER, PREFERRED, T1, T2, VALID, Information, Server
from headrace.control.ip6 import UDP, Datagram6, pull_ip6, push_ip6
from scapy.layers import dhcp6 as scapy_dhcp6
from test_router import DELEGATED, DNS, DOMAINS, DUID, LINK, NODE, PEER, XID, Pool, router


def server(pool=None, prefix=LINK):
    return Server(DUID, prefix, Pool() if pool is None else pool, Information(DNS, DOMAINS))


def ask(kind, *associations, client=PEER, named=False, **fields):
    return Message(kind, XID, client, DUID if named else b"", tuple(associations), **fields)


NA, PD = Association(IA_NA, 7), Association(IA_PD, 9)
FIRST = LINK[1]
GIVEN = (Association(IA_NA, 7, T1, T2, (Lease(FIRST, PREFERRED, VALID),)),
         Association(IA_PD, 9, T1, T2, (Lease(DELEGATED, PREFERRED, VALID),)))


def test_solicit_request_renew_release():
    own = server()
    offer = own.handle(ask(Type.SOLICIT, NA, PD), 0.0)
    assert (offer.kind, offer.associations, offer.client, offer.server) == (Type.ADVERTISE, GIVEN, PEER, DUID)
    assert (offer.dns, offer.domains) == (DNS, DOMAINS) and own.deadline() == OFFER
    reply = own.handle(ask(Type.REQUEST, NA, PD, named=True, requested=(DNS_SERVERS,)), 1.0)
    assert (reply.kind, reply.associations, reply.dns, reply.domains) == (Type.REPLY, GIVEN, DNS, ())
    assert own.deadline() == 1.0 + VALID
    assert own.handle(ask(Type.RENEW, *GIVEN, named=True), 1000.0).associations == GIVEN and own.deadline() == 1000.0 + VALID
    assert own.handle(ask(Type.REBIND, *GIVEN), 2000.0).associations == GIVEN and own.deadline() == 2000.0 + VALID
    reply = own.handle(ask(Type.RELEASE, *GIVEN, named=True), 3000.0)
    assert (reply.kind, reply.associations, reply.status.code) == (Type.REPLY, (), Code.SUCCESS)
    assert own.deadline() is None and own.prefixes.taken == 0


def test_rapid_commit():
    own = server()
    reply = own.handle(ask(Type.SOLICIT, PD, rapid_commit=True), 0.0)
    assert (reply.kind, reply.rapid_commit, reply.associations) == (Type.REPLY, True, GIVEN[1:]) and own.deadline() == VALID


def test_an_offer_runs_out_and_so_does_a_lease():
    own = server()
    own.handle(ask(Type.SOLICIT, PD), 0.0)
    own.tick(OFFER - 1)
    assert own.prefixes.taken == 1
    own.tick(OFFER)
    assert own.prefixes.taken == 0 and own.deadline() is None
    own.handle(ask(Type.REQUEST, PD, named=True), 100.0)
    own.handle(ask(Type.SOLICIT, PD), 200.0)
    assert own.deadline() == 100.0 + VALID, "an offer shortens nothing"
    own.tick(100.0 + VALID)
    assert own.prefixes.taken == 0
    late = own.handle(ask(Type.RENEW, GIVEN[1], named=True), 9999.0).associations
    assert late == (Association(IA_PD, 9, leases=(Lease(DELEGATED),), status=Status(Code.NO_BINDING, late[0].status.text)),)


def test_the_next_one_at_the_line_takes_over():
    """Another router, or the same with another IAID: the prefix is the subscriber's, and the old one's renewals are refused."""
    own = server()
    own.handle(ask(Type.REQUEST, PD, named=True), 0.0)
    other = Association(IA_PD, 1)
    taken = own.handle(ask(Type.REQUEST, other, client=b"another", named=True), 10.0).associations
    assert taken[0].leases == GIVEN[1].leases and taken[0].iaid == 1 and own.prefixes.taken == 1
    refused = own.handle(ask(Type.RENEW, GIVEN[1], named=True), 20.0).associations
    assert refused[0].status.code == Code.NO_BINDING and refused[0].leases == (Lease(DELEGATED),)
    unknown = own.handle(ask(Type.RELEASE, GIVEN[1], named=True), 30.0).associations
    assert unknown[0].status.code == Code.NO_BINDING and own.prefixes.taken == 1


@pytest.mark.parametrize("own, asked, codes", [
    (server(Pool(0)), (NA, PD), (None, Code.NO_PREFIX_AVAIL)), (server(prefix=None), (NA, PD), (Code.NO_ADDRS_AVAIL, None)),
    (server(), (NA, Association(IA_NA, 8), PD, Association(IA_PD, 2)), (None, Code.NO_ADDRS_AVAIL, None, Code.NO_PREFIX_AVAIL)),
    (server(), (Association(IA_TA, 3),), (Code.NO_ADDRS_AVAIL,)),
    (Server(DUID, LINK, None, Information()), (PD,), (Code.NO_PREFIX_AVAIL,)),
])
def test_what_is_not_to_be_had(own, asked, codes):
    for message in ask(Type.SOLICIT, *asked), ask(Type.REQUEST, *asked, named=True):
        found = own.handle(message, 0.0).associations
        assert [a.status.code if a.status else None for a in found] == list(codes)
        assert [(a.kind, a.iaid) for a in found] == [(a.kind, a.iaid) for a in asked]


def test_an_address_that_is_declined_is_not_given_again():
    own = server()
    own.handle(ask(Type.REQUEST, NA, named=True), 0.0)
    assert own.handle(ask(Type.DECLINE, GIVEN[0], named=True), 1.0).status.code == Code.SUCCESS
    assert own.handle(ask(Type.REQUEST, NA, named=True), 2.0).associations[0].leases[0].what == LINK[2]
    assert own.handle(ask(Type.DECLINE, Association(IA_NA, 99), named=True), 3.0).associations[0].status.code == Code.NO_BINDING


@pytest.mark.parametrize("address, code", [
    (FIRST, Code.SUCCESS), (LINK[0x1234], Code.SUCCESS), (IPv6Address("2001:db8:67:2::1"), Code.NOT_ON_LINK)])
def test_confirm(address, code):
    message = ask(Type.CONFIRM, Association(IA_NA, 7, leases=(Lease(address), Lease(FIRST))))
    assert server().handle(message, 0.0).status.code == code


def test_information():
    own = server()
    reply = own.handle(ask(Type.INFORMATION_REQUEST, client=b"", requested=(DNS_SERVERS, DOMAIN_LIST, REFRESH)), 0.0)
    assert (reply.kind, reply.dns, reply.domains, reply.refresh, reply.client) == (Type.REPLY, DNS, DOMAINS, 86400, b"")
    assert own.handle(ask(Type.INFORMATION_REQUEST, requested=(REFRESH,)), 0.0).dns == ()
    assert own.handle(Message(Type.INFORMATION_REQUEST, XID, server=b"another's"), 0.0) is None


@pytest.mark.parametrize("kind", [Type.REQUEST, Type.RENEW, Type.RELEASE, Type.DECLINE])
def test_to_us_alone_although_nobody_said_so(kind):
    own = server()
    own.handle(ask(Type.REQUEST, NA, named=True), 0.0)
    reply = own.handle(ask(kind, NA, named=True), 1.0, unicast=True)
    assert reply.status.code == Code.USE_MULTICAST and reply.associations == () and IA_NA in own.bindings
    assert own.handle(ask(Type.SOLICIT, NA), 1.0, unicast=True) is None


def test_messages_are_what_scapy_reads():
    """All options that we send, by the other hand; and its packets by ours are the vectors."""
    refused = Association(IA_PD, 2, status=Status(Code.NO_BINDING, "no"))
    packet = push_dhcp6(Message(Type.REPLY, b"\x12\x34\x56", PEER, DUID, (*GIVEN, refused), status=Status(Code.SUCCESS, "fine"),
                                rapid_commit=True, dns=DNS, domains=DOMAINS, refresh=600))
    read = scapy_dhcp6.DHCP6_Reply(packet)
    assert read.trid == 0x123456 and bytes(read[scapy_dhcp6.DHCP6OptClientId].duid) == PEER
    assert bytes(read[scapy_dhcp6.DHCP6OptServerId].duid) == DUID
    address = read[scapy_dhcp6.DHCP6OptIA_NA]
    assert (address.iaid, address.T1, address.T2) == (7, T1, T2)
    assert (address.ianaopts[0].addr, address.ianaopts[0].preflft, address.ianaopts[0].validlft) == (str(FIRST), PREFERRED, VALID)
    prefix = read[scapy_dhcp6.DHCP6OptIA_PD]
    assert (prefix.iapdopt[0].prefix, prefix.iapdopt[0].plen) == (str(DELEGATED.network_address), 56)
    assert read[scapy_dhcp6.DHCP6OptDNSServers].dnsservers == [str(a) for a in DNS]
    assert read[scapy_dhcp6.DHCP6OptDNSDomains].dnsdomains == [name + "." for name in DOMAINS]
    assert read.haslayer(scapy_dhcp6.DHCP6OptRapidCommit) and read[scapy_dhcp6.DHCP6OptInfoRefreshTime].reftime == 600
    assert read[scapy_dhcp6.DHCP6OptStatusCode].statuscode == Code.SUCCESS and packet.count(b"fine") == 1


def test_a_whole_exchange_through_the_router():
    """From Solicit to Release as packets, and the prefix goes back when the link ends."""
    own = router()

    def exchange(kind, now, **fields):
        message = push_dhcp6(ask(kind, PD, **fields))
        head = struct.pack("!HHHH", 546, 547, 8 + len(message), 0)
        own.receive(push_ip6(Datagram6(NODE, IPv6Address("ff02::1:2").packed, UDP, head + message, 1)), now)
        answer, = own.outgoing()
        datagram = pull_ip6(answer)
        assert datagram.destination == NODE and struct.unpack_from("!HH", datagram.payload) == (547, 546)
        return pull_dhcp6(datagram.payload[8:])
    assert exchange(Type.SOLICIT, 0.0).associations == GIVEN[1:]
    assert exchange(Type.REQUEST, 1.0, named=True).associations == GIVEN[1:]
    assert exchange(Type.RENEW, T1, named=True).associations == GIVEN[1:] and own.deadline() == T1 + VALID
    own.close()
    assert own.server.prefixes.taken == 0
