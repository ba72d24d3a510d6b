"""BCP (RFC 3518): what each option is answered with, bridged and routed side by side in one link, and anything that may arrive."""
from dataclasses import replace
from random import Random

import pytest
from headrace.control.automaton import OPENED
from headrace.control.bcp import BCP
from headrace.control.fields import option
from headrace.control.link import Bridging, LinkDown, LinkReset, LinkUp, push_packet
from headrace.control.mppe import Policy
from hypothesis import given, settings
from hypothesis import strategies as st
from pppwire import CLIENT, LOCAL, REMOTE, Wire

NCP, LCP, CCP = 0x8031, 0xC021, 0x80FD
REQUEST, ACK, NAK, REJECT, PROTOCOL_REJECT = 1, 2, 3, 4, 8
BRIDGE = Bridging()
BOTH = replace(CLIENT, bridging=BRIDGE)
ALONE = replace(BOTH, ip=False)
ETHERNET, TAGGED, INLINE = option(3, b"\1"), option(8, b"\1"), option(9, b"")


def bridged(client=BOTH, **kw):
    return Wire(client=client, bridging=kw.pop("bridging", BRIDGE), **kw).open().settle()


def asked(wire, data):
    """The server's answer to a Configure-Request with these options, which renegotiates if it was open."""
    wire.server.receive(NCP, push_packet(REQUEST, 200, data), wire.now)
    (answer,) = [packet for p, packet in wire.server.outgoing() if packet[0] != REQUEST and p == NCP]
    return answer[0], answer[4:]


def requested(wire, name="server"):
    """The options of the last Configure-Request."""
    return [packet[4:] for p, packet in wire.sent[name] if p == NCP and packet[0] == REQUEST][-1]


def test_side_by_side_with_routing():
    wire = bridged()
    for name in "server", "client":
        link = wire.last(name, LinkUp)
        assert link.ip and link.bridged and link.tagged and link.stp
        assert requested(wire, name) == ETHERNET + TAGGED + INLINE
    assert wire.last("server", LinkUp).local_address == LOCAL
    assert all(wire.count(name, LinkUp) == 2 for name in ("server", "client")), "IPCP opened, then BCP"


def test_bridged_alone():
    """A link may carry Ethernet and nothing else."""
    wire = bridged(ALONE, address=None)
    link = wire.last("server", LinkUp)
    assert link.bridged and not link.ip and not link.ipv6 and wire.count("server", LinkUp) == 1
    wire.wait(300)
    assert wire.is_up()


@pytest.mark.parametrize("client, bridging", [(CLIENT, BRIDGE), (BOTH, None)])
def test_who_does_not_bridge_rejects_the_protocol(client, bridging):
    wire = bridged(client, bridging=bridging)
    for name in "server", "client":
        link = wire.last(name, LinkUp)
        assert link.ip and not (link.bridged or link.tagged or link.stp)
    refused = [packet[4:6] for packets in wire.sent.values() for p, packet in packets if p == LCP and packet[0] == PROTOCOL_REJECT]
    assert refused == [NCP.to_bytes(2)]
    wire.wait(300)
    assert wire.is_up()


def test_nothing_in_common():
    wire = Wire(client=replace(CLIENT, ip=False), address=None, bridging=BRIDGE).open()
    wire.wait(300)
    reason = wire.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == ("bcp", "rejected") and not wire.count("server", LinkUp)


@pytest.mark.parametrize("server, client", [(True, False), (False, True), (False, False)])
def test_spanning_tree_is_each_ones_own_choice(server, client):
    """Who lets its frames pass announces it; who does not rejects the other's word for it, and neither sends any."""
    wire = bridged(replace(BOTH, bridging=Bridging(client)), bridging=Bridging(server))
    for name, mine in ("server", server), ("client", client):
        assert not wire.last(name, LinkUp).stp and wire.last(name, LinkUp).bridged and wire.is_up()
        first = next(packet[4:] for p, packet in wire.sent[name] if p == NCP and packet[0] == REQUEST)
        assert (INLINE in first) == mine and INLINE not in requested(wire, name)


def test_encrypted():
    """It waits for CCP like the other NCPs."""
    wire = bridged(replace(BOTH, encryption=Policy("require")), policy=Policy("require"))
    assert wire.is_up() and all(wire.last(name, LinkUp).bridged and wire.last(name, LinkUp).cipher for name in ("server", "client"))
    said = [p for p, packet in wire.sent["server"] if p in (NCP, CCP)]
    assert said.index(NCP) > said.index(CCP)


@pytest.mark.parametrize("data, answer", [
    (b"", (ACK, b"")),
    (ETHERNET, (ACK, ETHERNET)),
    (ETHERNET + option(3, b"\2") + option(3, b"\x0b"), (ACK, ETHERNET + option(3, b"\2") + option(3, b"\x0b"))),
    (option(3, b""), (NAK, ETHERNET)),
    (option(3, b"\0"), (NAK, ETHERNET)),
    (option(4, b"\1"), (ACK, option(4, b"\1"))),
    (option(4, b"\2"), (ACK, option(4, b"\2"))),
    (option(4, b"\3"), (NAK, option(4, b"\2"))),
    (TAGGED, (ACK, TAGGED)),
    (option(8, b"\2"), (ACK, option(8, b"\2"))),
    (option(8, b"\0\1"), (NAK, TAGGED)),
    (option(8, b"\0"), (NAK, TAGGED)),
    (INLINE, (ACK, INLINE)),
    (option(9, b"\1"), (NAK, INLINE)),
    (option(6, b"\2abcde"), (ACK, option(6, b"\2abcde"))),
    # what is for source routing, old, or of no use to us
    (option(1, b"\0\x11"), (REJECT, option(1, b"\0\x11"))),
    (ETHERNET + option(2, b"\0\x12"), (REJECT, option(2, b"\0\x12"))),
    (option(5, b"\1"), (REJECT, option(5, b"\1"))),
    (option(7, b"\0\1"), (REJECT, option(7, b"\0\1"))),
    (option(7, b""), (REJECT, option(7, b""))),
    (option(10, b"") + INLINE, (REJECT, option(10, b""))),
    (option(99, b"what"), (REJECT, option(99, b"what"))),
])
def test_answers(data, answer):
    assert asked(bridged(), data) == answer


@pytest.mark.parametrize("address", [bytes(6), b"\1abcde", b"abc"])
def test_a_peer_without_an_address_is_told_one(address):
    wire = bridged()
    code, data = asked(wire, option(6, address))
    assert code == NAK and data[:2] == b"\6\x08" and data[2] & 3 == 2, "a local one, of no group"
    assert asked(wire, option(6, address)) == (code, data), "the same whenever it asks"


def answered(code, data):
    """What the server asks for after its Configure-Request was answered thus, and BCP opened with that."""
    wire = bridged()
    wire.server.receive(NCP, push_packet(REQUEST, 200, TAGGED), wire.now)       # it negotiates anew
    request = [packet for p, packet in wire.server.outgoing() if packet[0] == REQUEST and p == NCP][-1]
    wire.server.receive(NCP, push_packet(code, request[1], data), wire.now)
    request = [packet for p, packet in wire.server.outgoing() if packet[0] == REQUEST and p == NCP][-1]
    wire.server.receive(NCP, bytes((ACK,)) + request[1:], wire.now)
    assert [event.bridged for event in wire.server.events() if isinstance(event, LinkUp)] == [False, True]
    return request[4:]


@pytest.mark.parametrize("code, data, then", [
    (REJECT, TAGGED, ETHERNET + INLINE),
    (REJECT, ETHERNET + INLINE, TAGGED),
    (NAK, option(8, b"\2"), ETHERNET + option(8, b"\2") + INLINE),
    (NAK, option(3, b"\4"), ETHERNET + TAGGED + INLINE),
])
def test_what_a_peer_would_rather_have(code, data, then):
    assert answered(code, data) == then


def test_bridging_goes_and_routing_stays():
    """A live change: LinkUp again, with all that is in force, and no LinkReset; alone, its end is the link's."""
    wire = bridged()
    wire.client.bcp.fire("Close", wire.now)
    wire.drain()
    wire.wait(60)
    last = wire.last("server", LinkUp)
    assert last.ip and not last.bridged and not wire.count("server", LinkReset) and wire.is_up()
    wire.client.ipcp.fire("Close", wire.now)
    wire.drain()
    assert wire.settle().seen["server"][-1] == LinkReset("ipcp")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 1, 2]), max_size=30), st.booleans(), st.booleans(), st.integers(0, 65535))
def test_back_to_back(fates, first, second, seed):
    """Whatever the wire loses or repeats, both ends agree about what passes."""
    wire = Wire(client=replace(BOTH, bridging=Bridging(first)), bridging=Bridging(second), seed=seed)
    fates, plain = list(fates), wire.deliver
    lossy = 0 in fates

    def deliver(at=0):
        fate = fates.pop() if fates else 1
        if fate == 0:
            wire.queue.pop(0)
            return
        if fate == 2:
            wire.queue.insert(1, wire.queue[0])
        plain()
    wire.deliver = deliver
    wire.open()
    wire.wait(200)
    assert wire.is_up()
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    assert (server.bridged, server.tagged, server.stp) == (client.bridged, client.tagged, client.stp)
    assert server.bridged or (lossy and server.ip)
    assert server.stp == (server.bridged and first and second) and server.remote_address in (REMOTE, client.local_address)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 7))
def test_any_octets(payloads, code):
    """Nothing that arrives raises, and IPv4 does not notice."""
    wire = bridged()
    for n, payload in enumerate(payloads):
        wire.server.receive(NCP, payload if n % 2 else push_packet(code, n, payload), wire.now)
        wire.server.events()
        wire.server.outgoing()
    assert wire.server.ipcp.state == OPENED


values = st.one_of(st.builds(option, st.integers(1, 11), st.binary(max_size=8)), st.sampled_from([ETHERNET, TAGGED, INLINE]))


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=8), st.booleans())
def test_any_options(wanted, stp):
    """A peer that does as it is told gets there: Naks and Rejects lead to an Ack of what is left."""
    wire = bridged(bridging=Bridging(stp))
    for _ in range(20):
        code, answer = asked(wire, b"".join(wanted))
        if code == ACK:
            break
        told = [answer[at:at + answer[at + 1]] for at in starts(answer)]
        if code == REJECT:
            wanted = [each for each in wanted if each not in told]
        else:
            better = {each[0]: each for each in told}
            wanted = [better.get(each[0], each) for each in wanted]
    assert code == ACK and {each[0] for each in wanted} <= {3, 4, 6, 8, 9}


def starts(data):
    at = 0
    while at < len(data):
        yield at
        at += data[at + 1]


def test_a_suggestion_is_of_the_link():
    first, second = (BCP(BRIDGE, None, CLIENT, Random(seed)).suggested for seed in (1, 2))
    assert first != second and len(first) == 6
