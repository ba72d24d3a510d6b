"""Enhanced GRE's header: the vectors, cut at every length, every octet changed, any octets, and scapy's opinion."""
from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from headrace.fastpath._probe import pull_gre, push_gre
from headrace.fastpath.packet import Verdict
from hypothesis import example, given
from hypothesis import strategies as st

FIELDS = ("flags", "call", "length", "sequence", "acknowledged")
K, S, A, VERSION = 0x2000, 0x1000, 0x0080, 1


def vectors():
    """(packet, octets of the header, its fields)"""
    for paragraph in Path(__file__).with_name("vectors").joinpath("gre.hex").read_text().split("\n\n")[1:]:
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        data = bytes.fromhex(re.sub(r"[|\s]", "", "".join(line for line in lines if line[0] != "=")))
        length, *fields = (int(word, 0) for word in next(x for x in lines if x[0] == "=")[1:].split())
        yield data, length, dict(zip(FIELDS, fields, strict=True))


VECTORS = list(vectors())


def gre(data):
    """RFC 2637 section 4.1 in plain Python: what pull_gre must say."""
    if len(data) < 8:
        return Verdict.DROP_SHORT
    flags, protocol, length, call = struct.unpack_from("!HHHH", data)
    if flags not in (K | VERSION | s | a for s in (0, S) for a in (0, A)) or protocol != 0x880B or (length and not flags & S):
        return Verdict.DROP_VERSION
    names = ["sequence"] * bool(flags & S) + ["acknowledged"] * bool(flags & A)
    at = 8 + 4 * len(names)
    if len(data) < at:
        return Verdict.DROP_SHORT
    if len(data) < at + length:
        return Verdict.DROP_LENGTH
    numbers = dict(zip(names, struct.unpack_from(f"!{len(names)}I", data, 8), strict=True))
    return at, {"flags": flags, "call": call, "length": length, "sequence": 0, "acknowledged": 0, **numbers}


def test_there_are_vectors_of_every_kind():
    assert len(VECTORS) == 7 and {fields["flags"] for _, _, fields in VECTORS} == {0x3081, 0x3001, 0x2081, 0x2001}


@pytest.mark.parametrize("data, length, fields", VECTORS)
def test_vectors(data, length, fields):
    assert pull_gre(data) == (length, fields) == gre(data)
    assert push_gre(fields) == data[:length]


@pytest.mark.parametrize("data, length, fields", VECTORS)
def test_scapy_reads_the_same(data, length, fields):
    from scapy.layers.l2 import GRE_PPTP
    packet = GRE_PPTP(data)
    assert (packet.call_id, packet.payload_len, packet.seqnum_present, packet.acknum_present) == \
        (fields["call"], fields["length"], bool(fields["flags"] & S), bool(fields["flags"] & A))
    assert (packet.sequence_number or 0, packet.ack_number or 0) == (fields["sequence"], fields["acknowledged"])
    assert bytes(GRE_PPTP(call_id=fields["call"], payload_len=fields["length"],
                          seqnum_present=packet.seqnum_present, sequence_number=fields["sequence"],
                          acknum_present=packet.acknum_present, ack_number=fields["acknowledged"])) == data[:length]


@pytest.mark.parametrize("data, length, fields", VECTORS)
def test_cut_at_every_length(data, length, fields):
    for n in range(len(data)):
        found = pull_gre(data[:n])
        assert found == gre(data[:n])
        assert isinstance(found, Verdict) or n >= length + fields["length"]


@pytest.mark.parametrize("data, length, fields", VECTORS)
def test_every_octet_changed(data, length, fields):
    for at in range(length):
        for value in range(256):
            changed = data[:at] + bytes([value]) + data[at + 1:]
            assert pull_gre(changed) == gre(changed)


@given(st.one_of(st.binary(max_size=40), st.builds(lambda flags, length, rest: struct.pack("!HHHH", flags, 0x880B, length, 7) + rest,
                                                   st.sampled_from([0x3081, 0x3001, 0x2081, 0x2001]), st.integers(0, 20),
                                                   st.binary(max_size=24))))
@example(bytes.fromhex("3001880b0001000100000000"))
@example(bytes.fromhex("2001880b00010001ff"))
def test_any_octets(data):
    assert pull_gre(data) == gre(data)
