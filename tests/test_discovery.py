"""PPPoE discovery in a worker: what a PADI is answered with, whose cookie counts and for how long; SipHash by its authors' vectors."""
from __future__ import annotations

from itertools import pairwise

import pytest
from headrace.control import mac, tags
from headrace.fastpath._probe_pppoe import accepts, answer, siphash, tags_of
from headrace.fastpath.service import ServiceFlag
from hypothesis import given
from hypothesis import strategies as st
from test_pppoe import VECTORS

KEY = bytes(range(16))
STATION = mac.station(bytes.fromhex("02005e100001"))
OTHER = mac.station(bytes.fromhex("02005e100002"))
INTERNET, TV = {"name": b"internet"}, {"name": b"tv"}
HOW = {"key": KEY, "tick": 6000, "station": STATION}

# Aumasson and Bernstein, "SipHash: a fast short-input PRF", appendix A, and the first of their test vectors: messages 00, 00 01, ...
SIPHASH = [0x726FDB47DD0E0E31, 0x74F839C593DC67FD, 0x0D6C8009D9A94F5A, 0x85676696D7FB7E2D, 0xCF2794E0277187B7, 0x18765564CD99A68D,
           0xCBC9466E58FEE3CE, 0xAB0200F58B01D137, 0x93F5F5799A932462]


@pytest.mark.parametrize("length", range(len(SIPHASH)))
def test_siphash(length):
    assert siphash(KEY, [bytes(range(length))]) == SIPHASH[length]


def test_siphash_of_the_paper():
    assert siphash(KEY, [bytes(range(15))]) == 0xA129CA6149BE45E5


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_siphash_in_pieces(message, cuts):
    bounds = sorted({0, len(message), *(c for c in cuts if c < len(message))})
    assert siphash(KEY, [message[a:b] for a, b in pairwise(bounds)]) == siphash(KEY, [message])


def body(**values):
    return tags.encode("PADI", 0, values)[tags.HEADER:]


def pado(services, asked, **how):
    packet = answer(asked, services, **(HOW | how))
    return packet and tags.decode(packet)


def padr(offer, **changed):
    """What a host sends back."""
    kept = {name: offer.values[name] for name in ("service_name", "ac_cookie", "host_uniq", "relay_session_id") if name in offer.values}
    return body(**(kept | changed))


@pytest.mark.parametrize("packet, name, session, values", VECTORS)
def test_both_readers_of_tags_agree(packet, name, session, values):
    found = tags_of(packet[tags.HEADER:tags.HEADER + int.from_bytes(packet[4:6])])
    assert {key: value for key, value in found.items() if value is not None} == {k: v for k, v in values.items() if k in found}


@given(st.binary(max_size=60))
def test_both_readers_of_tags_agree_on_any_octets(data):
    found = tags_of(data)
    other = tags.decode(bytes((tags.VERSION_TYPE, 9, 0, 0)) + len(data).to_bytes(2) + data)
    if other.fault:
        assert found is None or "u16" in other.fault
    else:
        assert found == {key: other.values.get(key) or (None if key == "max_payload" else other.values.get(key)) for key in found}


def test_an_offer_echoes_and_lists():
    asked = body(service_name=b"", host_uniq=b"\1\2", relay_session_id=b"dslam")
    found = pado([INTERNET, TV], asked)
    assert found.name == "PADO" and found.session_id == 0 and found.fault == ""
    assert found.service_names == [b"", b"internet", b"tv"]
    assert found.values["ac_name"] == b"ac" and found.values["host_uniq"] == b"\1\2" and found.values["relay_session_id"] == b"dslam"
    assert pado([INTERNET, TV], body(service_name=b"tv")).service_names == [b"tv", b"internet"]
    assert "host_uniq" not in pado([INTERNET], body(service_name=b"")).values


@pytest.mark.parametrize("service, asked, answered", [
    (INTERNET, b"internet", True), (INTERNET, b"", True), (INTERNET, b"interne", False), (INTERNET, b"tv", False),
    (INTERNET | {"flags": ServiceFlag.SERVICE_EXACT}, b"", False), (INTERNET | {"flags": ServiceFlag.SERVICE_EXACT}, b"internet", True),
    ({"name": b"", "flags": ServiceFlag.SERVICE_ANY}, b"whatever", True), (INTERNET | {"port": 1}, b"internet", False)])
def test_who_is_answered_by_name(service, asked, answered):
    assert (pado([service], body(service_name=asked)) is not None) is answered


RANGES = {"ranges": [((100, 199), (7, 7)), ((300, 300), (0, 0))]}


@pytest.mark.parametrize("vlans, plain, ranged", [
    ((), True, False), (((mac.C_TAG, 300),), False, True), (((mac.C_TAG, 301),), False, False),
    (((mac.S_TAG, 100), (mac.C_TAG, 7)), False, True), (((mac.S_TAG, 199), (mac.C_TAG, 7)), False, True),
    (((mac.S_TAG, 100), (mac.C_TAG, 8)), False, False), (((mac.S_TAG, 200), (mac.C_TAG, 7)), False, False)])
def test_who_is_answered_by_network(vlans, plain, ranged):
    station = mac.station(mac.mac(STATION), vlans)
    assert (pado([INTERNET], body(service_name=b""), station=station) is not None) is plain
    assert (pado([INTERNET | RANGES], body(service_name=b""), station=station) is not None) is ranged


@pytest.mark.parametrize("asked, carries, echoed", [(1500, 1500, 1500), (1500, 1492, None), (1400, 1500, None)])
def test_baby_jumbo(asked, carries, echoed):
    assert pado([INTERNET | {"max_payload": carries}], body(service_name=b"", max_payload=asked)).values.get("max_payload") == echoed


def test_a_cookie_is_its_stations_and_its_tags():
    offer = pado([INTERNET], body(service_name=b"", host_uniq=b"\1", relay_session_id=b"r"))
    assert accepts(padr(offer), **HOW)
    assert accepts(padr(offer, service_name=b"internet"), **HOW)                # which of the services is the host's choice
    for wrong in (padr(offer, host_uniq=b"\2"), padr(offer, relay_session_id=b""), padr(offer, ac_cookie=b""), body(service_name=b""),
                  padr(offer, host_uniq=b"\1r", relay_session_id=b"")):
        assert not accepts(wrong, **HOW)
    for octet in range(9):
        cookie = bytearray(offer.values["ac_cookie"])
        cookie[octet] ^= 1
        assert not accepts(padr(offer, ac_cookie=bytes(cookie)), **HOW)
    assert not accepts(padr(offer), **(HOW | {"station": OTHER}))
    assert not accepts(padr(offer), **(HOW | {"station": mac.station(mac.mac(STATION), ((mac.C_TAG, 7),))}))
    assert not accepts(padr(offer), **HOW, port=1) and not accepts(padr(offer), **(HOW | {"key": bytes(16)}))


@pytest.mark.parametrize("later, good", [(0, True), (299, True), (300, True), (599, True), (600, False), (76800, True), (76500, False)])
def test_a_cookie_is_good_for_a_while(later, good):
    """The step has 8 bits, so it comes round after two hours: then the host has asked again since, and its cookie was never a secret."""
    offer = pado([INTERNET], body(service_name=b""))
    assert accepts(padr(offer), **(HOW | {"tick": 6000 + later})) is good


def test_what_cannot_be_echoed_is_not_answered():
    assert pado([INTERNET], body(service_name=b"", host_uniq=bytes(1400))) is not None
    assert pado([INTERNET], body(service_name=b"", host_uniq=bytes(1460))) is None
    assert pado([INTERNET], body(host_uniq=b"x")) is None                       # RFC 2516 section 5.1 wants a Service-Name
    many = [{"name": b"%063d" % n} for n in range(40)]
    assert len(answer(body(service_name=b""), many, **HOW)) <= 1494


@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_octets_are_answered_within_the_room(data, room):
    packet = answer(data, [INTERNET, TV], **HOW, room=room)
    assert packet is None or (len(packet) <= room and not tags.decode(packet).fault)
    accepts(data, **HOW)
