"""Headers of data messages, L2TP's and PPP's: the vectors, cut at every length, every octet changed, any octets."""
from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from headrace.fastpath._probe import pull_l2tp, pull_ppp
from headrace.fastpath.packet import Verdict
from hypothesis import example, given
from hypothesis import strategies as st

T, L, S, O = 0x8000, 0x4000, 0x0800, 0x0200
FIELDS = ("flags", "tunnel", "session", "ns", "nr", "length")


def vectors():
    """(message, octets of the L2TP header with its fields, octets of PPP's header with its protocol)"""
    for paragraph in Path(__file__).with_name("vectors").joinpath("l2tpdata.hex").read_text().split("\n\n")[1:]:
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        data = bytes.fromhex(re.sub(r"[|\s]", "", "".join(line for line in lines if line[0] != "=")))
        l2tp, ppp = ([int(word, 0) for word in part.split()] for part in next(x for x in lines if x[0] == "=")[1:].split(";"))
        yield data, (l2tp[0], dict(zip(FIELDS, l2tp[1:], strict=True))), tuple(ppp)


VECTORS = list(vectors())


def l2tp(data):
    """RFC 2661 section 3.1 in plain Python: what pull_l2tp must say."""
    if len(data) < 6:
        return Verdict.DROP_SHORT
    flags, = struct.unpack_from("!H", data)
    if flags & 0xF != 2:
        return Verdict.DROP_VERSION
    names = ["flags"] + ["length"] * bool(flags & L) + ["tunnel", "session"] + ["ns", "nr"] * bool(flags & S) + ["offset"] * bool(flags & O)
    if len(data) < 2 * len(names):
        return Verdict.DROP_SHORT
    found = dict(zip(names, struct.unpack_from(f"!{len(names)}H", data), strict=True))
    length = found.get("length", len(data))
    if not 2 * len(names) <= length <= len(data):
        return Verdict.DROP_LENGTH
    header = 2 * len(names) + found.get("offset", 0)
    if header > length:
        return Verdict.DROP_OFFSET
    return header, {"ns": 0, "nr": 0, **{k: v for k, v in found.items() if k != "offset"}, "length": length}


def ppp(data):
    """RFC 1661 section 2 with both compressions of section 6, in plain Python."""
    skipped = 2 if data[:2] == b"\xff\x03" else 0
    rest = data[skipped:]
    if rest and rest[0] & 1:
        return skipped + 1, rest[0]
    return (skipped + 2, rest[0] << 8 | rest[1]) if len(rest) >= 2 else None


def test_there_are_vectors_of_every_kind():
    flags = {fields["flags"] for _, (_, fields), _ in VECTORS}
    assert len(VECTORS) == 10 and {0x0002, 0x4002, 0x0802, 0x0202, 0x4B02} <= flags


@pytest.mark.parametrize("data, header, protocol", VECTORS)
def test_vectors(data, header, protocol):
    assert pull_l2tp(data) == header == l2tp(data)
    assert pull_ppp(data[header[0]:header[1]["length"]]) == protocol == ppp(data[header[0]:])


@pytest.mark.parametrize("data, header, protocol", VECTORS)
def test_cut_at_every_length(data, header, protocol):
    for n in range(len(data)):
        found = pull_l2tp(data[:n])
        assert found == l2tp(data[:n])
        assert isinstance(found, Verdict) or n >= header[0]
    frame = data[header[0]:]
    for n in range(len(frame)):
        assert pull_ppp(frame[:n]) == (protocol if n >= protocol[0] else ppp(frame[:n]))


@pytest.mark.parametrize("data, header, protocol", VECTORS)
def test_every_octet_changed(data, header, protocol):
    for at in range(len(data)):
        for value in range(256):
            changed = data[:at] + bytes([value]) + data[at + 1:]
            assert pull_l2tp(changed) == l2tp(changed)
            assert pull_ppp(changed) == ppp(changed)


@given(st.one_of(st.binary(max_size=40), st.builds(lambda flags, rest: struct.pack("!H", flags | 2) + rest,
                                                   st.integers(0, 0xFFFF), st.binary(max_size=24))))
@example(struct.pack("!HHHHH", L | O | 2, 10, 1, 1, 0))
@example(struct.pack("!HHHHH", L | O | 2, 9, 1, 1, 0))
@example(struct.pack("!HHHH", O | 2, 1, 1, 0xFFFF))
@example(struct.pack("!HHHHHH", T | L | S | 2, 12, 0, 0, 1, 1))
def test_any_octets(data):
    assert pull_l2tp(data) == l2tp(data)
    assert pull_ppp(data) == ppp(data)
