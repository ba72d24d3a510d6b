"""PPTP's messages and their stream: vectors, scapy's opinion, and every cut, join and broken octet."""
from __future__ import annotations

import logging
from pathlib import Path

import pytest
from headrace.control.pptpmessage import BY_NAME, FORMS, LONGEST, Message, Stream, encode
from hypothesis import given
from hypothesis import strategies as st

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers import pptp as scapy  # noqa: E402

EMPTY = {"host_name", "vendor_name", "phone_number", "subaddress", "dialed_number", "dialing_number", "statistics"}


def read(paragraph):
    """(octets, message) of a paragraph, None for one of comments."""
    lines = [line for line in paragraph.splitlines() if line and line[0] != "#"]
    if not lines:
        return None
    mark = next(n for n, line in enumerate(lines) if line[0] == "=")
    form = BY_NAME[lines[mark][2:]]
    values = {field: "" if field in EMPTY else 0 for field in form.fields}
    values |= {name: eval(value) for name, value in (line.split(" ", 1) for line in lines[mark + 1:])}
    return bytes.fromhex("".join(lines[:mark])), Message(form.name, form.type, values)


VECTORS = [v for v in map(read, (Path(__file__).parent / "vectors/pptp.hex").read_text().split("\n\n")) if v]
ALL = b"".join(octets for octets, _ in VECTORS)
MESSAGES = [message for _, message in VECTORS]


def test_every_message_has_a_vector():
    assert {message.name for message in MESSAGES} == set(BY_NAME)


@pytest.mark.parametrize("octets, message", VECTORS, ids=[m.name for _, m in VECTORS])
def test_vector(octets, message):
    stream = Stream()
    assert stream.receive(octets) == [message] and not stream.fault
    given = {k: v for k, v in message.values.items() if not k.endswith("_length")}
    assert encode(message.name, **given) == octets


@pytest.mark.parametrize("octets, message", VECTORS, ids=[m.name for _, m in VECTORS])
def test_scapy_reads_the_same(octets, message):
    theirs = scapy.PPTP(octets)
    assert theirs.len == len(octets) and theirs.ctrl_msg_type == message.type and not theirs.payload
    header = ("len", "type", "magic_cookie", "ctrl_msg_type")
    values = [getattr(theirs, name) for name in theirs.fields if name not in header and not name.startswith("reserved")]
    ours = list(message.values.values())
    assert [v.rstrip(b"\0").decode() if isinstance(v, bytes) else int(v) for v in values] == ours


# scapy's own defaults of Incoming-Call-Reply say a length that RFC 2637 section 2.10 does not
@pytest.mark.parametrize("theirs", [t for t in scapy.PPTP.registered_options.values() if t is not scapy.PPTPIncomingCallReply],
                         ids=lambda t: t.__name__)
def test_what_scapy_writes_is_read(theirs):
    message = theirs(identifier=7) if "Echo" in theirs.__name__ else theirs()
    stream = Stream()
    [read] = stream.receive(bytes(message))
    assert not stream.fault and read.name and read.type == message.ctrl_msg_type


def test_a_text_is_cut_and_counted():
    [message] = Stream().receive(encode("OCRQ", phone_number="1" * 70))
    assert message.values["phone_number"] == "1" * 64 and message.values["phone_number_length"] == 64
    with pytest.raises(ValueError, match="has no number"):
        encode("OCRQ", number=1)


def test_octet_by_octet():
    stream = Stream()
    assert [m for at in range(len(ALL)) for m in stream.receive(ALL[at:at + 1])] == MESSAGES and not stream.fault


@given(st.lists(st.integers(0, len(ALL)), max_size=12))
def test_any_split_and_merge(cuts):
    stream, at, got = Stream(), 0, []
    for cut in sorted([*cuts, len(ALL)]):
        got += stream.receive(ALL[at:cut])
        at = cut
    assert got == MESSAGES and not stream.fault and not stream._rest


@pytest.mark.parametrize("octets, message", VECTORS, ids=[m.name for _, m in VECTORS])
def test_cut_at_every_length(octets, message):
    for n in range(len(octets)):
        stream = Stream()
        assert stream.receive(octets[:n]) == [] and not stream.fault
        assert stream.receive(octets[n:]) == [message]


def test_each_octet_of_the_header_flipped():
    """The length, the message type and the cookie are checked, and what follows is not taken; Reserved0 is not looked at."""
    for at in range(12):
        for bit in range(8):
            octets = bytearray(VECTORS[5][0])       # an Echo-Reply
            octets[at] ^= 1 << bit
            stream = Stream()
            got = stream.receive(bytes(octets) + VECTORS[4][0])
            if at < 8:
                length = int.from_bytes(octets[:2])
                assert stream.fault or 20 < length <= LONGEST       # waits for the rest of a longer one
                assert not got and stream.receive(b"") == []
            elif at < 10:
                number = int.from_bytes(octets[8:10])
                assert (stream.fault and not got) if number in FORMS else (got[0], got[1].name) == (Message("", number, {}), "Echo-Request")
            else:
                assert [m.name for m in got] == ["Echo-Reply", "Echo-Request"]


@given(st.binary(max_size=600))
def test_any_octets(data):
    stream = Stream()
    whole = stream.receive(data)
    assert len(stream._rest) < LONGEST
    again = Stream()
    assert [m for at in range(len(data)) for m in again.receive(data[at:at + 1])] == whole and again.fault == stream.fault


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"SSH-2.0-x", b"\0\x10\0\x02", b"\0\x0b\0\x01", b"\xff\xff"])
def test_other_protocols_are_told_at_once(data):
    stream = Stream()
    assert stream.receive(data) == [] and stream.fault
