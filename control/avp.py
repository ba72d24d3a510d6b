"""L2TP attribute-value pairs and the messages made of them (RFC 2661 section 4).

     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |M|H| reserved  |      length       |           vendor          |
    |         attribute type            |  value, length - 6 octets |

`decode` turns the body of a control message into a Message and never fails: what was wrong is its
`fault`, and what could be read is there all the same, because the answer needs the peer's ids.
`encode` is the inverse. Attributes of later RFCs that carry no meaning for us are unknown here.
"""
from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import md5
from typing import Any, NamedTuple

from .fields import Kind, flag, raw, text, u16, u32

MANDATORY, HIDDEN, RESERVED, LENGTH = 0x8000, 0x4000, 0x3C00, 0x03FF
LONGEST = LENGTH - 6                                # octets of value in one AVP
BAD_LENGTH, BAD_VALUE, NO_RESOURCES, BAD_SESSION, UNKNOWN_AVP = 2, 3, 4, 5, 8    # error codes (section 4.4.2)

_HEADER = struct.Struct("!HHH")
_MESSAGE_TYPE, _RANDOM_VECTOR = 0, 36


class ResultCode(NamedTuple):
    """Why a tunnel or call ends (section 4.4.2); the error code and the text are optional."""
    result: int
    error: int = 0
    text: str = ""


class Cause(NamedTuple):
    """Q.931 cause (section 4.4.4): cause code, message, advisory text."""
    code: int
    message: int
    text: str = ""


class Disconnect(NamedTuple):
    """Why PPP ended (RFC 3145): code, protocol number, direction, text."""
    code: int
    protocol: int
    direction: int
    text: str = ""


def _unpack_result(b: bytes) -> ResultCode:
    if len(b) == 2:
        return ResultCode(int.from_bytes(b))
    if len(b) < 4:
        raise ValueError(f"result code of {len(b)} octets")
    return ResultCode(int.from_bytes(b[:2]), int.from_bytes(b[2:4]), b[4:].decode("utf-8", "replace"))


def _unpack_cause(b: bytes) -> Cause:
    if len(b) < 3:
        raise ValueError(f"cause of {len(b)} octets")
    return Cause(int.from_bytes(b[:2]), b[2], b[3:].decode("utf-8", "replace"))


def _unpack_disconnect(b: bytes) -> Disconnect:
    if len(b) < 5:
        raise ValueError(f"disconnect cause of {len(b)} octets")
    return Disconnect(int.from_bytes(b[:2]), int.from_bytes(b[2:4]), b[4], b[5:].decode("utf-8", "replace"))


result_code = Kind("result code", None, _unpack_result, lambda v: struct.pack("!HH", v[0], v[1]) + v[2].encode()[:200])
cause = Kind("cause", None, _unpack_cause, lambda v: struct.pack("!HB", v[0], v[1]) + v[2].encode())
disconnect = Kind("disconnect cause", None, _unpack_disconnect, lambda v: struct.pack("!HHB", *v[:3]) + v[3].encode())
call_errors = Kind("call errors", 26, lambda b: struct.unpack("!xx6L", b), lambda v: struct.pack("!xx6L", *v))
accm = Kind("accm", 10, lambda b: struct.unpack("!xxLL", b), lambda v: struct.pack("!xxLL", *v))
octets8, octets16 = (Kind(f"{n} octets", n, bytes, bytes) for n in (8, 16))


class Attribute(NamedTuple):
    """A row of the table: may it be hidden, and is it mandatory when we send it."""
    type: int
    name: str
    mandatory: bool
    kind: Kind
    hideable: bool


M, H, _ = True, True, False
ATTRIBUTES: dict[int, Attribute] = {row[0]: Attribute(*row) for row in (
    # type, name, mandatory, kind, may be hidden: sections 4.4.1 to 4.4.6, and RFC 3145
    (0, "message_type", M, u16, _),
    (1, "result_code", M, result_code, _),
    (2, "protocol_version", M, u16, _),
    (3, "framing_capabilities", M, u32, H),
    (4, "bearer_capabilities", M, u32, H),
    (5, "tie_breaker", _, octets8, _),
    (6, "firmware_revision", _, u16, H),
    (7, "host_name", M, text, _),
    (8, "vendor_name", _, text, H),
    (9, "assigned_tunnel_id", M, u16, H),
    (10, "receive_window_size", M, u16, _),
    (11, "challenge", M, raw, H),
    (12, "q931_cause", M, cause, _),
    (13, "challenge_response", M, octets16, H),
    (14, "assigned_session_id", M, u16, H),
    (15, "call_serial_number", M, u32, H),
    (16, "minimum_bps", M, u32, H),
    (17, "maximum_bps", M, u32, H),
    (18, "bearer_type", M, u32, H),
    (19, "framing_type", M, u32, H),
    (21, "called_number", M, text, H),
    (22, "calling_number", M, text, H),
    (23, "sub_address", M, text, H),
    (24, "tx_connect_speed", M, u32, H),
    (25, "physical_channel_id", _, u32, H),
    (26, "initial_received_lcp_confreq", _, raw, H),
    (27, "last_sent_lcp_confreq", _, raw, H),
    (28, "last_received_lcp_confreq", _, raw, H),
    (29, "proxy_authen_type", _, u16, H),
    (30, "proxy_authen_name", _, raw, H),
    (31, "proxy_authen_challenge", _, raw, H),
    (32, "proxy_authen_id", _, u16, H),
    (33, "proxy_authen_response", _, raw, H),
    (34, "call_errors", M, call_errors, H),
    (35, "accm", M, accm, H),
    (36, "random_vector", M, raw, _),
    (37, "private_group_id", _, raw, H),
    (38, "rx_connect_speed", _, u32, H),
    (39, "sequencing_required", M, flag, _),
    (46, "ppp_disconnect_cause", _, disconnect, H),
)}
BY_NAME = {a.name: a for a in ATTRIBUTES.values()}
PROXY = tuple(ATTRIBUTES[n].name for n in range(26, 34))


class Form(NamedTuple):
    """A control message: what it must carry and what else it may (section 6)."""
    type: int
    name: str
    must: frozenset[str]
    may: frozenset[str]


def _form(number: int, name: str, must: str = "", may: str = "") -> Form:
    return Form(number, name, frozenset(must.split()), frozenset(may.split()))


MESSAGES: dict[int, Form] = {form.type: form for form in (
    _form(1, "SCCRQ", "protocol_version host_name framing_capabilities assigned_tunnel_id",
          "bearer_capabilities receive_window_size challenge tie_breaker firmware_revision vendor_name"),
    _form(2, "SCCRP", "protocol_version host_name framing_capabilities assigned_tunnel_id",
          "bearer_capabilities firmware_revision vendor_name receive_window_size challenge challenge_response"),
    _form(3, "SCCCN", "", "challenge_response"),
    _form(4, "StopCCN", "assigned_tunnel_id result_code"),
    _form(6, "Hello"),
    _form(7, "OCRQ", "assigned_session_id call_serial_number minimum_bps maximum_bps bearer_type framing_type called_number",
          "sub_address"),
    _form(8, "OCRP", "assigned_session_id", "physical_channel_id"),
    _form(9, "OCCN", "tx_connect_speed framing_type", "rx_connect_speed sequencing_required"),
    _form(10, "ICRQ", "assigned_session_id call_serial_number",
          "bearer_type physical_channel_id calling_number called_number sub_address"),
    _form(11, "ICRP", "assigned_session_id"),
    _form(12, "ICCN", "tx_connect_speed framing_type",
          "rx_connect_speed private_group_id sequencing_required " + " ".join(PROXY)),
    _form(14, "CDN", "result_code assigned_session_id", "q931_cause ppp_disconnect_cause"),
    _form(15, "WEN", "call_errors"),
    _form(16, "SLI", "accm"),
)}
FORMS = {form.name: form for form in MESSAGES.values()}


class Fault(NamedTuple):
    """What makes a message unusable: an error code of section 4.4.2, a sentence, and whether the
    tunnel secret is to blame."""
    error: int
    text: str
    secret: bool = False


class Unreadable(ValueError):
    """A hidden value that our secret does not reveal."""


class Message(NamedTuple):
    """A decoded control message. `name` is empty when the type is unknown or missing; `mandatory`
    is the M bit of its Message Type; `ignored` says what was passed over."""
    type: int
    name: str
    values: dict[str, Any]
    fault: Fault | None
    mandatory: bool
    ignored: tuple[str, ...]


def _keystream_xor(data: bytes, pad: bytes) -> bytes:
    n = len(data)
    return (int.from_bytes(data) ^ int.from_bytes(pad[:n])).to_bytes(n)


def hide(attribute_type: int, value: bytes, secret: bytes, vector: bytes) -> bytes:
    """The hidden subformat of a value (section 4.3): its length and itself, XORed with a chain of
    MD5 digests in which each block's key hangs on the block of ciphertext before it."""
    plain = len(value).to_bytes(2) + value
    pad = md5(attribute_type.to_bytes(2) + secret + vector).digest()
    hidden = b""
    for at in range(0, len(plain), 16):
        block = _keystream_xor(plain[at:at + 16], pad)
        hidden += block
        pad = md5(secret + block).digest()
    return hidden


def reveal(attribute_type: int, hidden: bytes, secret: bytes, vector: bytes) -> bytes:
    """The inverse of `hide`. The length inside is an output of the cipher: a wrong secret makes it
    anything, so it is checked against what is there."""
    if len(hidden) < 2:
        raise ValueError("hidden, too short for its length")
    pad = md5(attribute_type.to_bytes(2) + secret + vector).digest()
    plain = b""
    for at in range(0, len(hidden), 16):
        block = hidden[at:at + 16]
        plain += _keystream_xor(block, pad)
        pad = md5(secret + block).digest()
    length = int.from_bytes(plain[:2])
    if length > len(plain) - 2:
        raise Unreadable("hidden, and our secret does not reveal it")
    return plain[2:2 + length]


def decode(body: bytes, secret: bytes = b"") -> Message:
    """Read a message. An AVP that is malformed, or unknown, is a fault if its M bit is set and is
    passed over if not (sections 4.2 and 7.1); the first fault counts."""
    values: dict[str, Any] = {}
    fault: Fault | None = None
    ignored: tuple[str, ...] = ()
    vector: bytes | None = None
    mandatory = False
    at, end = 0, len(body)
    while at < end:
        if end - at < 6:
            fault = fault or Fault(BAD_LENGTH, "an AVP is cut off")
            break
        bits, vendor, number = _HEADER.unpack_from(body, at)
        length = bits & LENGTH
        if length < 6 or at + length > end:
            fault = fault or Fault(BAD_LENGTH, f"AVP {number} has length {length} where {end - at} octets are left")
            break
        # A reserved bit makes any AVP an unknown one (section 4.1).
        attribute = None if vendor or bits & RESERVED else ATTRIBUTES.get(number)
        if not at:
            mandatory = bits & MANDATORY != 0
            if attribute is None or number != _MESSAGE_TYPE:
                fault = Fault(BAD_VALUE, "the first AVP is not a Message Type")
        start, at = at, at + length
        if attribute is None:
            what = f"AVP {number} of vendor {vendor}" if vendor else f"AVP {number}"
            if bits & MANDATORY:
                fault = fault or Fault(UNKNOWN_AVP, f"unknown mandatory {what}")
            else:
                ignored += (f"unknown {what}",)
            continue
        value = body[start + 6:at]
        if number == _RANDOM_VECTOR and not bits & HIDDEN:
            vector = value              # it serves all hidden AVPs up to the next one (section 4.3)
            continue
        try:
            if bits & HIDDEN:
                if not attribute.hideable:
                    raise ValueError("must not be hidden")
                if vector is None:
                    fault = fault or Fault(BAD_VALUE, f"{attribute.name} is hidden without a random vector")
                    continue
                if not secret:
                    raise Unreadable("hidden, and we have no secret")
                value = reveal(number, value, secret, vector)
            values[attribute.name] = attribute.kind.decode(value)
        except ValueError as error:
            if bits & MANDATORY:
                fault = fault or Fault(BAD_LENGTH, f"{attribute.name}: {error}", isinstance(error, Unreadable))
            else:
                ignored += (f"{attribute.name}: {error}",)
    kind = values.get("message_type", 0)
    form = MESSAGES.get(kind)
    if form is None:
        return Message(kind, "", values, fault or Fault(BAD_VALUE, f"message type {kind} is unknown"), mandatory, ignored)
    if fault is None and not form.must <= values.keys():
        fault = Fault(BAD_VALUE, f"{', '.join(sorted(form.must - values.keys()))} is missing")
    return Message(kind, form.name, values, fault, mandatory, ignored)


def pack(attribute: Attribute, value: bytes, bits: int = 0) -> bytes:
    """One AVP around a value that is already octets."""
    if len(value) > LONGEST:
        raise ValueError(f"{attribute.name} of {len(value)} octets")
    return _HEADER.pack((MANDATORY if attribute.mandatory else 0) | bits | len(value) + 6, 0, attribute.type) + value


_MESSAGE_TYPES = {form.name: pack(BY_NAME["message_type"], u16.encode(form.type)) for form in MESSAGES.values()}


def encode(name: str, values: Mapping[str, Any], secret: bytes = b"", vector: bytes = b"") -> bytes:
    """Write a message. With a vector, all that may be hidden is."""
    form = FORMS[name]
    if not form.must <= values.keys() <= form.must | form.may:
        raise ValueError(f"{name} with {sorted(values)}")
    parts = [_MESSAGE_TYPES[name]]
    if vector:
        parts.append(pack(BY_NAME["random_vector"], vector))
    for field, value in values.items():
        attribute = BY_NAME[field]
        data = attribute.kind.encode(value)
        if vector and attribute.hideable:
            parts.append(pack(attribute, hide(attribute.type, data, secret, vector), HIDDEN))
        else:
            parts.append(pack(attribute, data))
    return b"".join(parts)


def response(message: int, secret: bytes, challenge: bytes) -> bytes:
    """The answer to a challenge (section 4.4.3); `message` is the type of the message that carries it."""
    return md5(bytes((message,)) + secret + challenge).digest()
