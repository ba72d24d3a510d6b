"""Other forwarders as subjects of the benchmark, and the RADIUS server that one of them needs."""
from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from headrace.bench import l2tpns, radius, throughput, wire
from headrace.bench.concentrator import password
from headrace.bench.lab import LabError
from headrace.bench.wire import Case
from hypothesis import given
from hypothesis import strategies as st

root = pytest.mark.root
SECRET = b"xyzzy5461"


@root
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("name", ["l2tpns", "wireguard-go", "openvpn"])
def test_a_peer_forwards_and_is_counted(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    """l2tpns from the unpacked package, as where nothing is installed."""
    if name == "l2tpns":
        monkeypatch.setattr("shutil.which", lambda tool, which=l2tpns.shutil.which: None if tool == "l2tpns" else which(tool))
    case = Case("l2tp", kind, 1400, "up", "offload")
    with wire.prepared(throughput.PEERS[name], "offload", kind, 1) as ready:
        for direction in ("up", "down"):
            run = ready.run(case._replace(direction=direction), 0.5, 2000)
            assert run.packets > 200 and 100 < run.cost_ns < 1e6 and run.shares["forwarder"] > 0
            if kind == "udp":
                assert run.sent and run.lost is not None and 0 <= run.lost < run.sent and run.packets >= run.sent - run.lost
                assert run.duplicates == 0


@pytest.mark.parametrize("name", ["l2tpns", "wireguard-go", "openvpn"])
def test_a_peer_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(l2tpns, "UNPACKED", tmp_path)
    with pytest.raises(LabError, match=f"^{name}.*Debian"):
        throughput.PEERS[name].check()


# RFC 2865 section 7.1: nemo logs in with PAP.
PAP = bytes.fromhex("01000038 0f403f9473978057bd83d5cb98f4227a 01066e656d6f 02120dbe708d93d413ce3196e43f782a0aee"
                    "0406c0a80110 050600000003")


def test_a_password_is_revealed_as_in_the_rfc() -> None:
    given = radius.attributes(PAP[20:])
    assert given is not None and given[radius.USER_NAME] == b"nemo"
    assert radius.revealed(given[radius.USER_PASSWORD], SECRET, PAP[4:20]) == b"arctangent"


def request(code: int, *attributes: tuple[int, bytes], authenticator: bytes = bytes(range(16))) -> bytes:
    body = b"".join(bytes((kind, len(value) + 2)) + value for kind, value in attributes)
    return struct.pack("!BBH16s", code, 7, 20 + len(body), authenticator) + body


def hidden(clear: bytes, authenticator: bytes = bytes(range(16))) -> bytes:
    """RFC 2865 section 5.2."""
    out, last = b"", authenticator
    clear += bytes(-len(clear) % 16)
    for at in range(0, len(clear), 16):
        last = bytes(a ^ b for a, b in zip(clear[at:at + 16], hashlib.md5(SECRET + last).digest(), strict=True))
        out += last
    return out


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("method", ["pap", "chap", "chap with a challenge"])
def test_users_of_the_bench_are_let_in(method: str, right: bool) -> None:
    word = password(5).encode() if right else b"another"
    challenge = b"challenge" if " " in method else bytes(range(16))
    proof = [(2, hidden(word))] if method == "pap" else [(3, b"\x09" + hashlib.md5(b"\x09" + word + challenge).digest())]
    asked = request(1, (1, b"u5"), *proof, *([(60, challenge)] if " " in method else []))
    answer = radius.reply(asked, SECRET)
    assert answer is not None
    code, number, length, authenticator = struct.unpack("!BBH16s", answer)
    assert (code, number, length) == (2 if right else 3, 7, 20)
    assert authenticator == hashlib.md5(answer[:4] + asked[4:20] + SECRET).digest()


def test_accounting_is_answered_and_strangers_are_not_let_in() -> None:
    answer = radius.reply(request(4, (40, bytes(4))), SECRET)
    assert answer is not None and answer[0] == 5
    for name in (b"nemo", b"u", b"", b"u" + b"9" * 30):
        answer = radius.reply(request(1, (1, name), (2, hidden(b"arctangent"))), SECRET)
        assert answer is not None and answer[0] == 3


BODIES = st.binary(max_size=60).map(lambda body: struct.pack("!BBH16x", 1, 7, 20 + len(body)) + body)


@given(st.one_of(st.binary(max_size=80), BODIES))
def test_any_octets_are_a_request_or_none(data: bytes) -> None:
    answer = radius.reply(data, SECRET)
    assert answer is None or (len(answer) == 20 and answer[0] in (3, 5))


def test_a_request_cut_anywhere_is_none() -> None:
    assert radius.reply(PAP, SECRET) is not None
    assert all(radius.reply(PAP[:n], SECRET) is None for n in range(len(PAP)))
