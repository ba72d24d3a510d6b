"""L2TP attributes and messages: vectors, hiding against a computation of its own, and everything broken."""
from __future__ import annotations

import struct
from hashlib import md5
from pathlib import Path

import pytest
from headrace.control import avp
from headrace.control.avp import ATTRIBUTES, BY_NAME, FORMS, HIDDEN, MANDATORY, decode, encode, hide, reveal
from hypothesis import given
from hypothesis import strategies as st

PARAGRAPHS = (Path(__file__).parent / "vectors/l2tp.hex").read_text().split("\n\n")


def read(paragraph):
    """(datagram, message name, {attribute: value}) of a paragraph, None for one of comments."""
    lines = [line for line in paragraph.splitlines() if line and line[0] != "#"]
    if not lines:
        return None
    mark = next(n for n, line in enumerate(lines) if line[0] == "=")
    values = dict(line.split(" ", 1) for line in lines[mark + 1:])
    return bytes.fromhex("".join(lines[:mark])), lines[mark][2:], {name: eval(value) for name, value in values.items()}


VECTORS = [vector for vector in map(read, PARAGRAPHS) if vector]


def one(number, value, bits=MANDATORY, vendor=0):
    """An AVP by hand."""
    return struct.pack("!HHH", bits | len(value) + 6, vendor, number) + value


def hidden_by_hand(number, plain, secret, vector):
    """Section 4.3, octet by octet."""
    out = bytearray()
    key = md5(struct.pack("!H", number) + secret + vector).digest()
    for n, octet in enumerate(plain):
        if n and n % 16 == 0:
            key = md5(secret + bytes(out[n - 16:n])).digest()
        out.append(octet ^ key[n % 16])
    return bytes(out)


HELLO = one(0, b"\0\6")
TYPES = {"u16": 7, "u32": 70_000, "raw": b"\1\2\3", "text": "name", "flag": True, "8 octets": bytes(8), "16 octets": bytes(16),
         "result code": (2, 6, "why"), "cause": (16, 1, ""), "disconnect cause": (1, 2, 3, "so"),
         "call errors": (1, 2, 3, 4, 5, 6), "accm": (1, 2)}


@pytest.mark.parametrize("datagram, name, values", VECTORS, ids=[v[1] for v in VECTORS])
def test_vector(datagram, name, values):
    assert len(datagram) == int.from_bytes(datagram[2:4])
    message = decode(datagram[12:])
    assert (message.name, message.fault) == (name, None)
    assert message.values == values | {"message_type": FORMS[name].type}


@pytest.mark.parametrize("datagram, name, values", VECTORS, ids=[v[1] for v in VECTORS])
def test_encoding_is_the_inverse(datagram, name, values):
    assert decode(encode(name, values)).values == values | {"message_type": FORMS[name].type}


def test_the_octets_of_a_message():
    body = encode("ICRP", {"assigned_session_id": 0x1234})
    assert body == bytes.fromhex("8008 0000 0000 000b  8008 0000 000e 1234")


@pytest.mark.parametrize("name", FORMS)
def test_every_message_must_have_its_attributes(name):
    form = FORMS[name]
    values = {field: TYPES[BY_NAME[field].kind.name] for field in form.must}
    assert decode(encode(name, values)).fault is None
    for field in form.must:
        rest = {k: v for k, v in values.items() if k != field}
        with pytest.raises(ValueError):
            encode(name, rest)
        body = one(0, struct.pack("!H", form.type)) + b"".join(
            avp.pack(BY_NAME[k], BY_NAME[k].kind.encode(v)) for k, v in rest.items())
        assert field in decode(body).fault.text


@pytest.mark.parametrize("size", [0, 1, 13, 14, 15, 30, 100])
def test_hiding_as_the_rfc_computes_it(size):
    secret, vector, value = b"s3cret", bytes(range(16)), bytes(range(size))
    plain = struct.pack("!H", size) + value
    assert hide(9, value, secret, vector) == hidden_by_hand(9, plain, secret, vector)
    assert reveal(9, hidden_by_hand(9, plain + b"padding" * 5, secret, vector), secret, vector) == value


def test_hidden_message_reads_with_the_secret_alone():
    values = {"assigned_session_id": 0x1234, "call_serial_number": 7, "calling_number": "4" * 40}
    body = encode("ICRQ", values, b"secret", b"v" * 16)
    assert b"\x12\x34" not in body and b"444" not in body
    assert decode(body, b"secret").values == values | {"message_type": 10}
    assert decode(body, b"Secret").fault
    assert "no secret" in decode(body).fault.text


def test_the_last_random_vector_before_it_counts():
    def vector(v):
        return one(36, v)

    def session(n, v):
        return one(14, hidden_by_hand(14, struct.pack("!HH", 2, n), b"s", v), MANDATORY | HIDDEN)

    def serial(n, v):
        return one(15, hidden_by_hand(15, struct.pack("!HL", 4, n), b"s", v), MANDATORY | HIDDEN)

    icrq = one(0, b"\0\x0a")
    body = icrq + vector(b"first") + session(5, b"first") + vector(b"second") + serial(6, b"second")
    assert decode(body, b"s").values == {"message_type": 10, "assigned_session_id": 5, "call_serial_number": 6}
    body = icrq + vector(b"first") + vector(b"second") + session(5, b"first") + serial(6, b"second")
    assert decode(body, b"s").values.get("assigned_session_id") != 5


@pytest.mark.parametrize("bits", [HIDDEN, HIDDEN | MANDATORY])
def test_hidden_without_random_vector(bits):
    message = decode(one(0, b"\0\x0b") + one(14, b"12345", bits) + one(36, b"too late"), b"s")
    assert message.fault[:2] == (3, "assigned_session_id is hidden without a random vector")


def test_what_must_not_be_hidden():
    vector = b"v" * 16
    value = hidden_by_hand(7, b"\0\4name", b"s", vector)
    assert "must not be hidden" in decode(HELLO + one(36, vector) + one(7, value, MANDATORY | HIDDEN), b"s").fault.text
    value = hidden_by_hand(0, b"\0\2\0\6", b"s", vector)
    assert decode(one(36, vector) + one(0, value, MANDATORY | HIDDEN), b"s").name == ""


def test_length_inside_a_hidden_value_is_checked():
    for length in (9, 10, 0xFFFF):
        hidden = hidden_by_hand(37, struct.pack("!H", length) + b"12345678", b"s", b"v")
        message = decode(HELLO + one(36, b"v") + one(37, hidden, HIDDEN), b"s")
        assert message.fault is None and "private_group_id" in message.ignored[0]


@pytest.mark.parametrize("number, bits, vendor", [(99, 0, 0), (7, 0, 9), (7, 0x0400, 0), (20, 0, 0)])
def test_unknown_attributes(number, bits, vendor):
    """Of a vendor, with a reserved bit, or not in the table: passed over, or a fault with error 8 if mandatory."""
    message = decode(HELLO + one(number, b"abc", bits, vendor))
    assert message.fault is None and len(message.ignored) == 1 and message.values == {"message_type": 6}
    assert decode(HELLO + one(number, b"abc", bits | MANDATORY, vendor)).fault.error == 8


def test_unknown_message_type():
    for bits, mandatory in ((MANDATORY, True), (0, False)):
        message = decode(one(0, b"\0\x63", bits))
        assert (message.name, message.type, message.mandatory) == ("", 99, mandatory) and message.fault


def test_message_type_comes_first():
    assert decode(one(7, b"x") + HELLO).fault.text == "the first AVP is not a Message Type"
    assert decode(one(0, b"\0\6", MANDATORY, 9)).name == ""


@pytest.mark.parametrize("row", ATTRIBUTES.values(), ids=lambda row: row.name)
def test_every_attribute_with_a_wrong_length(row):
    """A value of wrong size is a fault if mandatory, else passed over; an AVP's length that lies about
    what follows is always one."""
    good = row.kind.encode(TYPES[row.kind.name])
    for size in range(len(good) + 3):
        try:
            row.kind.decode((good + b"xyz")[:size])
            continue
        except ValueError:
            pass
        wrong = (good + b"xyz")[:size]
        if row.name == "message_type":
            assert decode(one(0, wrong)).fault
            continue
        assert row.name in decode(HELLO + one(row.type, wrong)).fault.text
        message = decode(HELLO + one(row.type, wrong, 0))
        assert message.fault is None and row.name in message.ignored[0]
    for length in [*range(6), len(good) + 7, 0x3FF]:
        body = HELLO + struct.pack("!HHH", length, 0, row.type) + good
        assert decode(body).fault.error == 2


@pytest.mark.parametrize("datagram, name, values", VECTORS, ids=[v[1] for v in VECTORS])
def test_cut_at_every_length(datagram, name, values):
    body = datagram[12:]
    boundaries, at = set(), 0
    while at < len(body):
        at += int.from_bytes(body[at:at + 2]) & 0x3FF
        boundaries.add(at)
    for size in range(len(body)):
        message = decode(body[:size])
        if size not in boundaries:
            assert message.fault, size


@given(st.binary(max_size=200), st.binary(max_size=8))
def test_any_octets(data, secret):
    message = decode(data, secret)
    assert message.name or message.fault


@given(st.lists(st.tuples(st.integers(0, 50), st.binary(max_size=40), st.sampled_from([0, 0x8000, 0x4000, 0xC000, 0x0400]))))
def test_any_attributes(rows):
    message = decode(b"".join(one(*row) for row in rows), b"secret")
    assert message.name or message.fault


def test_an_attribute_that_does_not_fit_is_an_error_of_ours():
    with pytest.raises(ValueError):
        encode("SCCRP", {"protocol_version": 256, "host_name": "x" * 1018, "framing_capabilities": 3, "assigned_tunnel_id": 1})
    with pytest.raises(ValueError):
        encode("Hello", {"host_name": "x"})
