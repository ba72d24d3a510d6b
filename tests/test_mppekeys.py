"""MPPE's keys: every number that RFC 3079 prints for MS-CHAPv1 and MS-CHAPv2, and what the other methods yield."""
from __future__ import annotations

from hashlib import sha1
from pathlib import Path

import pytest
from headrace.control.auth import AuthRequest
from headrace.control.mppe import Cipher, Keys, Way, get_asymmetric_start_key, get_master_key, keys_of
from headrace.control.mschap import lm_password_hash

PASSWORD = "clientPass"


def vector(section):
    for paragraph in (Path(__file__).parent / "vectors/mppekeys.hex").read_text().split("\n\n"):
        if section in paragraph:
            return {name: bytes.fromhex(value) for name, value in (line.split() for line in paragraph.splitlines()[1:])}
    raise AssertionError(section)


V1, V2 = vector("section 2.5"), vector("section 3.5")
MSCHAP1 = AuthRequest("mschap1", b"User", 1, V1["challenge"], bytes(48) + b"\x01")
MSCHAP2 = AuthRequest("mschap2", b"User", 1, bytes(16), bytes(24) + V2["nt-response"] + b"\0")
SALT = {40: "d1269e", 56: "d1", 128: ""}


def session_key(start, bits):
    """The first one, as sections 2.4 and 3.4 derive it: the kernels do it in the product."""
    salt = bytes.fromhex(SALT[bits])
    return salt + sha1(start + bytes(40) + start + b"\xf2" * 40).digest()[len(salt):len(start)]


@pytest.mark.parametrize("bits", [40, 56, 128])
def test_mschap1(bits):
    keys = keys_of(MSCHAP1, PASSWORD, server=True)
    send, receive = keys.start(bits)
    assert send == receive == (V1["start-key-128"] if bits == 128 else V1["lm-password-hash"][:8])
    assert session_key(send, bits) == V1[f"session-key-{bits}"]
    assert keys_of(MSCHAP1, PASSWORD, server=False) == keys


@pytest.mark.parametrize("bits", [40, 56, 128])
def test_mschap2(bits):
    send, receive = keys_of(MSCHAP2, PASSWORD, server=True).start(bits)
    assert send == V2[f"start-key-{bits}"] and session_key(send, bits) == V2[f"session-key-{bits}"]
    assert keys_of(MSCHAP2, PASSWORD, server=False).start(bits) == (receive, send)
    assert receive != send


def test_the_way_to_a_master_key():
    assert get_master_key(V2["password-hash-hash"], V2["nt-response"]) == V2["master-key"]
    assert get_asymmetric_start_key(V2["master-key"], send=True, server=True) == V2["start-key-128"]
    assert get_asymmetric_start_key(V2["master-key"], send=False, server=False) == V2["start-key-128"]


@pytest.mark.parametrize("password", ["CLIENTpASS", "clientpass"])
def test_the_lan_manager_hash_knows_no_case(password):
    assert lm_password_hash(password) == V1["lm-password-hash"]


def test_passwords_that_lan_manager_has_no_letters_for():
    assert len(lm_password_hash("пароль" * 5)) == len(lm_password_hash("")) == 16
    assert lm_password_hash("fourteen chars and more") == lm_password_hash("fourteen chars")


@pytest.mark.parametrize("method", ["pap", "chap"])
def test_others_yield_none(method):
    assert keys_of(AuthRequest(method, b"User", 1, bytes(16), bytes(16), b"clientPass"), PASSWORD, server=True) is None


def test_keys_are_not_shown():
    keys = keys_of(MSCHAP2, PASSWORD, server=True)
    way = Way(128, True, keys.send)
    said = repr(keys) + repr(Cipher(way, way, True))
    assert repr(keys.send) not in said and "key" not in said


STATELESS, STATEFUL, WEAK = Way(128, True, b""), Way(128, False, b""), Way(40, True, b"")


@pytest.mark.parametrize("receive, send, text", [
    (STATELESS, STATELESS, "MPPE128 stateless"), (WEAK, WEAK, "MPPE40 stateless"), (STATEFUL, STATEFUL, "MPPE128 stateful"),
    (STATEFUL, STATELESS, "MPPE128 stateful / MPPE128 stateless"), (STATELESS, None, "MPPE128 stateless / none"),
])
def test_how_it_is_called(receive, send, text):
    assert Cipher(receive, send, False).encoding == text


def test_shorter_keys_begin_as_the_long_one_does():
    """What RADIUS and EAP give: two keys, whatever the strength (RFC 3079 section 4)."""
    keys = Keys(bytes(range(16)), bytes(range(16, 32)))
    assert keys.start(128) == (bytes(range(16)), bytes(range(16, 32)))
    assert keys.start(40) == keys.start(56) == (bytes(range(8)), bytes(range(16, 24)))
