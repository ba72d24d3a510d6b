"""PPPoE frames: the vectors, by scapy too, cut at every length, every octet changed, any octets; the outer tag in it or beside it."""
from __future__ import annotations

import logging
import re
import struct
from pathlib import Path

import pytest
from headrace.control import mac
from headrace.fastpath._probe_pppoe import pull_pppoe, push_frame
from headrace.fastpath.packet import Verdict
from hypothesis import example, given
from hypothesis import strategies as st

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether  # noqa: E402
from scapy.layers.ppp import PPPoE, PPPoED  # noqa: E402

FIELDS = ("ethertype", "code", "session", "length")
TAGS = (mac.C_TAG, mac.S_TAG)


def vectors():
    for paragraph in Path(__file__).with_name("vectors").joinpath("pppoeframe.hex").read_text().split("\n\n")[1:]:
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        data = bytes.fromhex(re.sub(r"[|\s]", "", "".join(line for line in lines if line[0] != "=")))
        at, *words = next(x for x in lines if x[0] == "=")[1:].split()
        vlans = tuple((int(tpid, 16), int(vlan)) for tpid, vlan in (word.split(".") for word in words[4:]))
        fields = dict(zip(FIELDS, (int(word, 0) for word in words[:4]), strict=True))
        yield data, int(at), fields | {"station": mac.station(data[6:12], vlans)}


VECTORS = list(vectors())


def frame(data, tag=None):
    """IEEE 802.1Q and RFC 2516 section 4 in plain Python: what pull_pppoe must say."""
    if len(data) < 14:
        return Verdict.DROP_SHORT
    tags = [tag] if tag else []
    at = 12
    while (kind := struct.unpack_from("!H", data, at)[0]) in TAGS:
        if len(tags) == 2:
            return None
        if len(data) < at + 6:
            return Verdict.DROP_SHORT
        tags.append((kind, struct.unpack_from("!H", data, at + 2)[0]))
        at += 4
    if kind not in (0x8863, 0x8864):
        return None
    if len(data) < at + 8:
        return Verdict.DROP_SHORT
    version, code, session, length = struct.unpack_from("!BBHH", data, at + 2)
    if version != 0x11:
        return Verdict.DROP_VERSION
    if at + 8 + length > len(data):
        return Verdict.DROP_LENGTH
    station = mac.station(data[6:12], tuple((tpid, tci & 0xFFF) for tpid, tci in tags))
    return at + 8, {"ethertype": kind, "code": code, "session": session, "length": at + 8 + length, "station": station}


def untagged(data):
    """The frame as a ring gives it: without its outer tag, and that."""
    if struct.unpack_from("!H", data, 12)[0] not in TAGS:
        return data, None
    return data[:12] + data[16:], struct.unpack_from("!HH", data, 12)


@pytest.mark.parametrize("data, at, fields", VECTORS)
def test_vectors(data, at, fields):
    assert pull_pppoe(data) == (at, fields) == frame(data)
    rest, tag = untagged(data)
    if tag:
        found, inside = pull_pppoe(rest, *tag)
        assert (found, inside["length"], inside["station"]) == (at - 4, fields["length"] - 4, fields["station"])


@pytest.mark.parametrize("data, at, fields", VECTORS)
def test_scapy_reads_the_same(data, at, fields):
    packet = Ether(data)
    kind = PPPoE if fields["ethertype"] == 0x8864 else PPPoED
    assert packet[kind].sessionid == fields["session"] and packet[kind].code == fields["code"]
    vlans = tuple((tpid, layer.vlan) for tpid, layer in zip(
        (struct.unpack_from("!H", data, 12 + 4 * n)[0] for n in range(3)),
        (layer for layer in packet.iterpayloads() if isinstance(layer, (Dot1Q, Dot1AD))), strict=False) if layer.vlan)
    assert mac.vlans(fields["station"]) == vlans


@pytest.mark.parametrize("data, at, fields", VECTORS)
def test_what_is_written_is_read(data, at, fields):
    ours = mac.station(data[:6], mac.vlans(fields["station"]))
    payload = data[at:fields["length"]]
    head = push_frame(fields["station"], ours, fields["ethertype"], fields["code"], fields["session"], len(payload))
    found, back = pull_pppoe(head + payload)
    assert found == len(head) and back == fields | {"station": ours, "length": len(head) + len(payload)}
    assert head[:6] == data[6:12] and head[6:12] == data[:6]


@pytest.mark.parametrize("data, at, fields", VECTORS)
def test_cut_at_every_length_and_every_octet_changed(data, at, fields):
    for length in range(len(data)):
        assert pull_pppoe(data[:length]) == frame(data[:length])
    for n in range(len(data)):
        for change in (1, 0x80, 0xFF):
            bad = bytearray(data)
            bad[n] ^= change
            assert pull_pppoe(bytes(bad)) == frame(bytes(bad))


@given(st.binary(max_size=40), st.none() | st.tuples(st.sampled_from(TAGS), st.integers(0, 0xFFFF)))
@example(bytes(12) + bytes.fromhex("8100000181000002810000038864"), None)
def test_any_octets(data, tag):
    assert pull_pppoe(data, *(tag or (0, 0))) == frame(data, tag)
