"""LCP's options and policy, one server or client at a time, against packets written by hand and by scapy."""
from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from headrace.control.fields import option, options
from headrace.control.link import push_packet
from headrace.control.ppp import PPP, LinkDown, LinkReset, LinkUp, Reason
from pppwire import CLIENT, SERVER, Wire
from scapy.layers.ppp import (
    PPP_LCP,
    PPP_LCP_Auth_Protocol_Option,
    PPP_LCP_Configure,
    PPP_LCP_Echo,
    PPP_LCP_Magic_Number_Option,
    PPP_LCP_MRU_Option,
)

LCP = 0xC021
REQUEST, ACK, NAK, REJECT = 1, 2, 3, 4


def starting(role="server", settings=None, **changes):
    """A machine that has sent its first Configure-Request, and that request."""
    ppp = PPP(role, replace(settings or (SERVER if role == "server" else CLIENT), **changes), Random(5))
    ppp.open(0.0)
    (protocol, request), = ppp.outgoing()
    assert protocol == LCP
    return ppp, request


def answers(ppp, packet):
    ppp.receive(LCP, packet, 0.0)
    return [(packet[0], packet[4:]) for protocol, packet in ppp.outgoing() if protocol == LCP]


def asked(ppp, data, identifier=9):
    """The answer to a Configure-Request."""
    return answers(ppp, push_packet(REQUEST, identifier, data))


def acked(wanted: bytes, refused: bytes = b""):
    return [(REJECT, refused)] if refused else [(ACK, wanted)]


def test_request_is_what_scapy_reads():
    _, request = starting()
    read = PPP_LCP(request)
    assert isinstance(read, PPP_LCP_Configure) and read.code == 1
    mru, auth, magic = read.options
    assert (mru.max_recv_unit, auth.auth_protocol, auth.algorithm) == (1450, 0xC223, 0x81)
    assert isinstance(magic, PPP_LCP_Magic_Number_Option) and magic.magic_number != 0


def test_request_of_scapy_is_acked():
    ppp, _ = starting("client")
    packet = PPP_LCP_Configure(code=1, id=77, options=[
        PPP_LCP_MRU_Option(max_recv_unit=1400), PPP_LCP_Auth_Protocol_Option(auth_protocol=0xC023),
        PPP_LCP_Magic_Number_Option(magic_number=0x01020304)])
    ppp.receive(LCP, bytes(packet), 0.0)
    (_, answer), = ppp.outgoing()
    assert answer == b"\x02" + bytes(packet)[1:]
    assert (ppp.peer_mru, ppp.lcp.method) == (1400, "pap")


@pytest.mark.parametrize("role, asked_for", [
    ("server", {"mru": 1500}), ("client", {}), ("client", {"pfc": True, "acfc": True}),
])
def test_settings_say_what_is_asked_for(role, asked_for):
    _, request = starting(role, **asked_for)
    kinds = [kind for kind, _ in options(request[4:])]
    assert (1 in kinds) == (asked_for.get("mru") != 1500)
    assert (3 in kinds) == (role == "server")
    assert (7 in kinds, 8 in kinds) == (bool(asked_for.get("pfc")), bool(asked_for.get("acfc")))


@pytest.mark.parametrize("wanted", [
    b"", option(2, bytes(4)), option(2, b"\xff" * 4), option(2, bytes.fromhex("000a0000")), option(7, b"") + option(8, b""),
    option(1, (1500).to_bytes(2)), option(1, (9000).to_bytes(2)), option(1, (128).to_bytes(2)), option(5, b"\x01\x02\x03\x04"),
])
def test_sane_wishes_are_acked(wanted):
    ppp, _ = starting()
    assert asked(ppp, wanted) == [(ACK, wanted)]


@pytest.mark.parametrize("wanted, better", [
    (option(1, (127).to_bytes(2)), option(1, (1500).to_bytes(2))),     # too small for IP
    (option(1, b"\x05"), option(1, (1500).to_bytes(2))),               # of a length that it never has
    (option(2, b"\x00\x00"), option(2, bytes(4))),
    (option(7, b"\x01"), option(7, b"")),
])
def test_what_could_be_better_is_naked(wanted, better):
    ppp, _ = starting()
    assert asked(ppp, option(8, b"") + wanted) == [(NAK, better)]


def test_magic_of_zero_is_naked_with_another():
    ppp, _ = starting()
    (code, data), = asked(ppp, option(5, bytes(4)))
    assert (code, data[:2]) == (NAK, b"\x05\x06") and data[2:] != bytes(4)


def test_rejected_options_are_unmodified_and_in_order():
    ppp, _ = starting()
    callback, mrru, discriminator, quality = option(13, b"\x06"), option(17, b"\x06\x4e"), option(19, b"\x03abcdef"), option(4, b"\xc0\x25")
    wanted = callback + option(1, b"\x00\x01") + mrru + option(5, b"abcd") + discriminator + quality + option(3, b"\xc0\x23")
    assert asked(ppp, wanted) == [(REJECT, callback + mrru + discriminator + quality + option(3, b"\xc0\x23"))]


def test_naks_that_lead_nowhere_become_rejects():
    ppp, _ = starting(max_failure=3)
    wanted = option(1, b"\x00\x01")
    assert [asked(ppp, wanted)[0][0] for _ in range(4)] == [NAK, NAK, NAK, REJECT]
    assert asked(ppp, b"") == [(ACK, b"")]
    assert asked(ppp, wanted)[0][0] == NAK, "an Ack begins the count again"


def test_a_nak_lowers_our_mru_and_cannot_raise_it():
    ppp, request = starting()
    (code, data), = answers(ppp, push_packet(NAK, request[1], option(1, (1400).to_bytes(2))))
    assert (code, data[:4]) == (REQUEST, option(1, (1400).to_bytes(2)))
    ppp, request = starting()
    (code, data), = answers(ppp, push_packet(NAK, request[1], option(1, (1600).to_bytes(2))))
    assert (code, data[:4]) == (REQUEST, option(1, (1450).to_bytes(2)))


def test_rejects_are_respected_and_forged_ones_ignored():
    ppp, request = starting()
    assert answers(ppp, push_packet(REJECT, request[1], option(1, (1400).to_bytes(2)))) == []
    magic = dict(options(request[4:]))[5]
    (code, data), = answers(ppp, push_packet(REJECT, request[1], option(1, (1450).to_bytes(2)) + option(5, magic)))
    assert (code, data) == (REQUEST, option(3, bytes.fromhex("c22381")))
    assert (ppp.lcp.mru, ppp.lcp.magic) == (1500, 0)


def test_a_peer_that_naks_for_ever_is_taken_as_rejecting():
    ppp, request = starting(max_failure=2)
    for _ in range(3):
        request = push_packet(REQUEST, request[1])
        ppp.receive(LCP, push_packet(NAK, request[1], option(1, (1600).to_bytes(2))), 0.0)
        (_, request), = ppp.outgoing()
    assert 1 not in dict(options(request[4:]))


@pytest.mark.parametrize("offers, hints, after", [
    (("mschap2", "mschap1"), ["c023"], ["c22380"]),                       # not allowed: our next
    (("mschap2", "mschap1", "pap"), ["c023"], ["c023"]),                  # allowed: the peer's
    (("mschap2", "mschap1", "pap"), ["c023", "c22381"], ["c023", "c22380"]),   # the refused one is not offered again
    (("mschap2", "chap"), ["c227"], ["c22305"]),                          # EAP
])
def test_authentication_changes_by_nak(offers, hints, after):
    ppp, request = starting(authentication=offers)
    assert dict(options(request[4:]))[3].hex() == "c22381"
    for hint, offer in zip(hints, after, strict=True):
        ppp.receive(LCP, push_packet(NAK, request[1], option(3, bytes.fromhex(hint))), 0.0)
        (_, request), = ppp.outgoing()
        assert dict(options(request[4:]))[3].hex() == offer


@pytest.mark.parametrize("code, times", [(NAK, 2), (REJECT, 1)])
def test_a_peer_that_will_not_authenticate_is_told_goodbye(code, times):
    ppp, request = starting()
    for _ in range(times):
        value = dict(options(request[4:]))[3] if code == REJECT else bytes.fromhex("c227")
        ppp.receive(LCP, push_packet(code, request[1], option(3, value)), 0.0)
        (_, request), = ppp.outgoing()
    assert request[0] == 5
    ppp.receive(LCP, push_packet(6, request[1]), 0.0)
    assert ppp.events() == [LinkDown(Reason(
        "authentication", "refused", "the peer refused every authentication we allow: mschap2, mschap1"))]


def test_client_names_what_it_would_do_and_says_why_it_ended():
    ppp, _ = starting("client", authentication=("mschap2",))
    assert asked(ppp, option(3, b"\xc0\x23")) == [(NAK, option(3, bytes.fromhex("c22381")))]
    ppp.receive(LCP, push_packet(5, 3), 0.0)
    ppp.lower_down(Reason("call", "disconnected", "the call ended"), 1.0)
    assert ppp.events() == [LinkDown(Reason("authentication", "refused", "the peer asks for pap, and we allow only mschap2"))]


def test_a_line_that_loops_back_is_found():
    ppp, request = starting()
    queue, rounds = [request], 0
    while queue and rounds < 100:
        ppp.receive(LCP, queue.pop(0), 0.0)
        queue += [packet for _, packet in ppp.outgoing()]
        rounds += 1
    (down,) = ppp.events()
    assert (down.reason.stage, down.reason.code) == ("lcp", "loop") and rounds < 30


def test_one_equal_magic_number_is_no_loop():
    ppp, request = starting()
    magic = dict(options(request[4:]))[5]
    (code, data), = asked(ppp, option(5, magic))
    assert code == NAK and data[2:] != magic
    assert asked(ppp, data) == [(ACK, data)]


@pytest.fixture
def up():
    wire = Wire().open().settle()
    assert wire.is_up()
    return wire


def test_echo_carries_our_magic_and_is_cut_to_the_peers_mru(up):
    up.server.lcp.theirs[1] = 200
    echo = bytes(PPP_LCP_Echo(code=9, id=5, magic_number=up.client.lcp.magic, data=bytes(300)))
    (code, data), = answers(up.server, echo)
    assert (code, data) == (10, up.server.lcp.magic.to_bytes(4) + bytes(192))


def test_an_echo_of_our_own_is_not_answered(up):
    assert answers(up.server, push_packet(9, 1, up.server.lcp.magic.to_bytes(4))) == []
    assert answers(up.server, push_packet(9, 1, b"abc")) == []


@pytest.mark.parametrize("code", [10, 11, 12, 13])
def test_what_needs_no_answer_gets_none(up, code):
    assert answers(up.server, push_packet(code, 1, b"MSRASV5.20")) == []
    assert up.is_up() and up.server.events() == []


@pytest.mark.parametrize("protocol", [0x80FD, 0x8057, 0x8281, 0xC025])
def test_protocols_that_nobody_speaks_are_rejected(up, protocol):
    up.server.lcp.theirs[1] = 128
    up.server.receive(protocol, bytes(range(200)), 0.0)
    (to, packet), = up.server.outgoing()
    assert (to, packet[0], packet[4:]) == (LCP, 8, protocol.to_bytes(2) + bytes(range(122)))


def test_protocols_are_rejected_only_while_open():
    ppp, _ = starting()
    ppp.receive(0x80FD, push_packet(1, 1), 0.0)
    assert ppp.outgoing() == []


@pytest.mark.parametrize("protocol, stage, code", [(0xC021, "lcp", "rejected"), (0xC223, "authentication", "refused")])
def test_a_protocol_reject_of_what_we_need_ends_the_link(up, protocol, stage, code):
    up.server.receive(LCP, push_packet(8, 1, protocol.to_bytes(2)), 0.0)
    up.drain()
    up.wait(10)
    reason = up.last("server", LinkDown).reason
    assert (reason.stage, reason.code) == (stage, code)


def test_a_protocol_reject_of_ipcp_leaves_the_link(up):
    up.server.receive(LCP, push_packet(8, 1, b"\x80\x21"), 0.0)
    up.drain()
    up.wait(300)
    assert up.last("server", LinkDown) is None and up.seen["server"][-1] == LinkReset("ipcp")


def test_a_protocol_reject_of_something_else_is_nothing(up):
    assert answers(up.server, push_packet(8, 1, b"\x80\xfd")) == answers(up.server, push_packet(8, 1, b"\x80")) == []
    assert up.is_up()


def test_mtu_is_the_least_of_ours_and_the_peers_mru():
    for mtu, mru, expected in ((1450, 1400, 1400), (1400, 1450, 1400), (1500, 1500, 1500)):
        wire = Wire(client=replace(CLIENT, mru=mru), mtu=mtu).open().settle()
        assert wire.last("server", LinkUp).mtu == expected
        assert wire.last("client", LinkUp).mru == mru


def test_compression_is_ours_to_use_when_the_peer_asked():
    wire = Wire(client=replace(CLIENT, pfc=True, acfc=True)).open().settle()
    server, client = wire.last("server", LinkUp), wire.last("client", LinkUp)
    assert (server.pfc, server.acfc, client.pfc, client.acfc) == (True, True, False, False)


# Multilink (RFC 1990 section 5.1)

MRRU, SHORT, DISCRIMINATOR = option(17, (1600).to_bytes(2)), option(18, b""), option(19, b"\x03abcdef")
MP = {"mrru": 1600, "discriminator": b"\x01headrace"}


@pytest.mark.parametrize("role", ["server", "client"])
def test_multilink_is_asked_for_where_it_is_allowed(role):
    _, request = starting(role)
    assert not {17, 18, 19} & set(dict(options(request[4:])))
    _, request = starting(role, **MP)
    assert [(kind, value) for kind, value in options(request[4:]) if kind > 8] == [(17, (1600).to_bytes(2)), (19, b"\x01headrace")]
    _, request = starting(role, short_sequence=True, **MP)
    assert dict(options(request[4:]))[18] == b""


@pytest.mark.parametrize("discriminator", [
    "", "00", "0161", "01" + 20 * "61", "02c0a80001", "03020304050607", "0401020304", "04" + 20 * "62",
                                           "0531", "05" + 15 * "31"])
def test_each_class_of_discriminator_is_acked(discriminator):
    ppp, _ = starting(**MP)
    wanted = MRRU + SHORT + (option(19, bytes.fromhex(discriminator)) if discriminator else b"")
    assert asked(ppp, wanted) == [(ACK, wanted)]
    assert ppp.lcp.discriminator == (b"" if discriminator == "00" else bytes.fromhex(discriminator)), "none and the null class are the same"


@pytest.mark.parametrize("discriminator", ["", "0001", "01", "01" + 21 * "61", "02c0a800", "02c0a8000101", "030203040506", "04010203", "05",
                                           "05" + 16 * "31", "0661", "ff", "ff" + 250 * "00"])
def test_discriminators_that_make_no_sense_are_rejected(discriminator):
    """There is no better one to Nak with."""
    ppp, _ = starting(**MP)
    refused = option(19, bytes.fromhex(discriminator))
    assert asked(ppp, MRRU + refused) == [(REJECT, refused)]


@pytest.mark.parametrize("wanted, better", [
    (option(17, (127).to_bytes(2)), 1500), (option(17, b"\x05"), 1500), (option(17, bytes(2)), 1500)])
def test_an_mrru_too_small_is_naked(wanted, better):
    ppp, _ = starting(**MP)
    assert asked(ppp, wanted) == [(NAK, option(17, better.to_bytes(2)))]


@pytest.mark.parametrize("theirs, ours, multilink", [
    ((17, 19), (), True), ((17,), (17, 19), False), ((), (), False), ((17,), (19,), True), ((19,), (), False)])
def test_multilink_is_in_force_when_both_acked_an_mrru(theirs, ours, multilink):
    """`theirs` is what the peer asks for, `ours` what it rejects."""
    ppp, request = starting("client", authentication=(), short_sequence=True, **MP)
    sent = dict(options(request[4:]))
    rejected = b"".join(option(kind, value) for kind, value in sent.items() if kind in ours)
    if rejected:
        (_, request), = [(code, push_packet(1, ppp.lcp._awaited, data)) for code, data in
                         answers(ppp, push_packet(REJECT, request[1], rejected))]
        assert not set(dict(options(request[4:]))) & (set(ours) | ({18} if 17 in ours else set())), "short numbers go with the MRRU"
    assert asked(ppp, b"".join({17: MRRU, 19: DISCRIMINATOR}[kind] for kind in theirs))[0][0] == ACK
    answers(ppp, push_packet(ACK, request[1], request[4:]))
    assert (ppp.lcp.multilink, ppp.lcp.mrru, ppp.lcp.peer_mrru) == ((True, 1600, 1600) if multilink else (False, 0, 0))


def test_a_nak_lowers_our_mrru_and_cannot_raise_it():
    for hint, after in (1500, 1500), (9000, 1600), (12, 1600):
        ppp, request = starting(**MP)
        (code, data), = answers(ppp, push_packet(NAK, request[1], option(17, hint.to_bytes(2))))
        assert (code, dict(options(data))[17]) == (REQUEST, after.to_bytes(2))


def test_a_nak_of_our_discriminator_takes_it_out():
    ppp, request = starting(**MP)
    (_, data), = answers(ppp, push_packet(NAK, request[1], option(19, b"\x01other")))
    assert 19 not in dict(options(data)) and 17 in dict(options(data))


def test_multilink_may_be_gone_after_renegotiation():
    wire = Wire(client=replace(CLIENT, **MP), **MP).open().settle()
    assert wire.server.lcp.multilink and wire.client.lcp.multilink
    wire.client = PPP("client", CLIENT, Random(8))
    wire.client.open(wire.now)
    wire.drain()
    wire.settle()
    assert not wire.server.lcp.multilink and not wire.client.lcp.multilink and wire.server.lcp.discriminator == b""
