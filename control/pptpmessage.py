"""PPTP's control messages (RFC 2637 section 2), each a row of fields of a fixed length, and the stream that they come in.

     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    |             Length            |      PPTP message type, 1     |
    |                   Magic cookie, 0x1A2B3C4D                    |
    |      Control message type     |           Reserved0           |
    |    fields ...

`Stream` takes octets as TCP delivers them, split and merged anyhow, and gives whole messages. The cookie shows whether both ends agree
where a message begins: a stream in which it is wrong, or a length that no such message has, cannot be trusted any more.
"""
from __future__ import annotations

import struct
from typing import Any, NamedTuple

COOKIE = 0x1A2B3C4D
_HEADER = struct.Struct("!HHLHH")
_START = struct.pack("!HL", 1, COOKIE)          # what stands behind the length

# General error codes (section 2.16), and the results that say "see the error code".
NO_RESOURCE, BAD_CALL, PAC_ERROR = 4, 5, 6
GENERAL_ERROR = 2
ERRORS = {1: "not connected", 2: "bad format", 3: "bad value", 4: "no resource", 5: "bad call id", 6: "an error of the PAC"}


class Form(NamedTuple):
    """A kind of message: its body, and the names of the fields in it; one that ends in _length counts the text of that name."""
    name: str
    type: int
    body: struct.Struct
    fields: tuple[str, ...]

    @property
    def length(self) -> int:
        return _HEADER.size + self.body.size


def _forms(rows: str) -> dict[int, Form]:
    forms = {}
    for row in rows.strip().splitlines():
        number, name, length, *fields = row.split()
        pairs = [field.rsplit(":", 1) for field in fields]
        form = Form(name, int(number), struct.Struct("!" + "".join(kind for _, kind in pairs)),
                    tuple(field for field, kind in pairs if kind[-1] != "x"))
        if form.length != int(length):
            raise ValueError(f"{name} has {form.length} octets")
        forms[form.type] = form
    return forms


# Sections 2.1 to 2.15: type, name, octets in all, fields as struct spells them; x is reserved.
FORMS = _forms("""
 1 SCCRQ 156 protocol_version:H :2x framing_capabilities:L bearer_capabilities:L maximum_channels:H firmware_revision:H host_name:64s vendor_name:64s
 2 SCCRP 156 protocol_version:H result:B error:B framing_capabilities:L bearer_capabilities:L maximum_channels:H firmware_revision:H host_name:64s vendor_name:64s
 3 StopCCRQ 16 reason:B :3x
 4 StopCCRP 16 result:B error:B :2x
 5 Echo-Request 16 identifier:L
 6 Echo-Reply 20 identifier:L result:B error:B :2x
 7 OCRQ 168 call_id:H call_serial_number:H minimum_bps:L maximum_bps:L bearer_type:L framing_type:L receive_window:H processing_delay:H phone_number_length:H :2x phone_number:64s subaddress:64s
 8 OCRP 32 call_id:H peer_call_id:H result:B error:B cause:H connect_speed:L receive_window:H processing_delay:H physical_channel_id:L
 9 ICRQ 220 call_id:H call_serial_number:H bearer_type:L physical_channel_id:L dialed_number_length:H dialing_number_length:H dialed_number:64s dialing_number:64s subaddress:64s
10 ICRP 24 call_id:H peer_call_id:H result:B error:B receive_window:H processing_delay:H :2x
11 ICCN 28 peer_call_id:H :2x connect_speed:L receive_window:H processing_delay:H framing_type:L
12 CCRQ 16 call_id:H :2x
13 CDN 148 call_id:H result:B error:B cause:H :2x statistics:128s
14 WEN 40 peer_call_id:H :2x crc:L framing:L hardware_overruns:L buffer_overruns:L time_outs:L alignment:L
15 SLI 24 peer_call_id:H :2x send_accm:L receive_accm:L
""")    # noqa: E501
BY_NAME = {form.name: form for form in FORMS.values()}
LONGEST = max(form.length for form in FORMS.values())


class Message(NamedTuple):
    """One message. The name of an unknown type is ""."""
    name: str
    type: int
    values: dict[str, Any]


def encode(name: str, **values: Any) -> bytes:
    """A message; what is not said is 0 or empty, and a text that is too long is cut."""
    form = BY_NAME[name]
    unknown = values.keys() - set(form.fields)
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
    octets = {field: value.encode() for field, value in values.items() if isinstance(value, str)}
    counted = {f"{field}_length": min(len(text), 64) for field, text in octets.items()}
    empty = form.body.unpack(bytes(form.body.size))
    body = form.body.pack(*(octets.get(field, values.get(field, counted.get(field, nothing)))
                            for field, nothing in zip(form.fields, empty, strict=True)))
    return _HEADER.pack(form.length, 1, COOKIE, form.type, 0) + body


def _decode(data: bytes) -> Message | str:
    """One whole message whose cookie is right, or what is wrong with it."""
    number = data[8] << 8 | data[9]
    form = FORMS.get(number)
    if form is None:
        return Message("", number, {})
    if len(data) != form.length:
        return f"{form.name} of {len(data)} octets, which has {form.length}"
    values = form.body.unpack_from(data, _HEADER.size)
    return Message(form.name, number, {
        field: value.partition(b"\0")[0].decode("utf-8", "replace") if isinstance(value, bytes) else value
        for field, value in zip(form.fields, values, strict=True)})


class Stream:
    """The messages of one connection. `fault` says why there will be no more."""

    __slots__ = ("_rest", "fault")

    def __init__(self) -> None:
        self._rest = b""            # less than one message
        self.fault = ""

    def receive(self, data: bytes) -> list[Message]:
        """The messages that these octets complete."""
        messages: list[Message] = []
        data, at = self._rest + data, 0
        while not self.fault and len(data) - at >= 2:
            length = data[at] << 8 | data[at + 1]
            start = data[at + 2:at + 8]
            if not _HEADER.size <= length <= LONGEST:
                self.fault = f"a message of {length} octets"
            elif not _START.startswith(start):
                self.fault = "a message without the magic cookie"
            elif len(data) - at < length:
                break
            else:
                message = _decode(data[at:at + length])
                at += length
                if isinstance(message, str):
                    self.fault = message
                else:
                    messages.append(message)
        self._rest = b"" if self.fault else data[at:]
        return messages
