"""The Challenge Handshake Authentication Protocol (RFC 1994 section 4), with the algorithms MD5,
MS-CHAPv1 (RFC 2433) and MS-CHAPv2 (RFC 2759).

     Challenge, Response  | Value-Size | Value ... | Name ...
     Success, Failure     | Message ...
"""
from __future__ import annotations

import hmac
from random import Random

from .auth import AuthRequest, Reject, chap_response
from .link import CHAP_PROTOCOL, Base, LinkSettings, printable, pull_packet, push_packet
from .mppe import Keys, keys_of
from .mschap import challenge_response, generate_authenticator_response, generate_nt_response, nt_password_hash
from .reason import Reason

CHALLENGE, RESPONSE, SUCCESS, FAILURE = 1, 2, 3, 4

# Octets of the Value field. MD5's challenge may have any length (RFC 1994 section 4.1); this is ours.
CHALLENGE_SIZE = {"chap": 16, "mschap1": 8, "mschap2": 16}
RESPONSE_SIZE = {"chap": 16, "mschap1": 49, "mschap2": 49}


class Authenticator:
    """The server's side: repeats its challenge until it is answered, puts the response to the link,
    and gives every later response to this challenge the same answer (RFC 1994 section 4.2)."""

    PROTOCOL = CHAP_PROTOCOL
    __slots__ = ("_answer", "_challenge", "_identifier", "_link", "_request", "_settings", "method", "timer")

    def __init__(self, method: str, link: Base, settings: LinkSettings, random: Random) -> None:
        self.method = method
        self._link, self._settings = link, settings
        self._identifier = random.getrandbits(8)
        self._challenge = random.randbytes(CHALLENGE_SIZE[method])
        self._request: AuthRequest | None = None
        self._answer = b""
        self.timer: float | None = None

    def start(self, now: float) -> None:
        data = push_value(self._challenge, self._settings.name.encode())
        self._link.send(CHAP_PROTOCOL, push_packet(CHALLENGE, self._identifier, data))
        self.timer = now + self._settings.restart

    def tick(self, now: float) -> None:
        if self.timer is not None and self.timer <= now:
            self.start(now)

    def receive(self, packet: bytes, now: float) -> None:
        pulled = pull_packet(packet)
        if pulled is None or pulled[0] != RESPONSE or pulled[1] != self._identifier:
            return
        if self._answer:
            return self._link.send(CHAP_PROTOCOL, self._answer)
        value = pull_value(pulled[2])
        if self._request or value is None or len(value[0]) != RESPONSE_SIZE[self.method]:
            return
        self.timer = None
        self._request = AuthRequest(self.method, value[1], self._identifier, self._challenge, value[0])
        self._link.requested(self._request, now)

    def accepted(self, message: str) -> None:
        self._conclude(SUCCESS, message)

    def refused(self, verdict: Reject) -> None:
        self._conclude(FAILURE, verdict.message or self._failure())

    def _failure(self) -> str:
        """RFC 2759 section 6 and RFC 2433 section 5: 691 is "authentication failure", R=0 "do not
        try again", and V the version of the change of password, which we do not offer."""
        if self.method == "chap":
            return "Authentication failed"
        return f"E=691 R=0 C={self._challenge.hex().upper()} V={3 if self.method == 'mschap2' else 2} M=Authentication failed"

    def _conclude(self, code: int, message: str) -> None:
        self._answer = push_packet(code, self._identifier, message.encode())
        self._request, self._challenge = None, b""
        self._link.send(CHAP_PROTOCOL, self._answer)


class Peer:
    """The client's side. It answers any challenge at any time (section 4), the same one in the same
    way, and repeats its response when Success or Failure seem lost: an authenticator that has gone on
    to IPCP would not challenge it again. It waits on two challenges at most, because an old one that
    arrives late looks like a new one."""

    PROTOCOL = CHAP_PROTOCOL
    __slots__ = ("_answers", "_link", "_random", "_settings", "keys", "method", "timer")

    def __init__(self, method: str, link: Base, settings: LinkSettings, random: Random) -> None:
        self.method = method
        self._link, self._settings, self._random = link, settings, random
        self.keys: Keys | None = None      # once we were accepted
        # By identifier: the challenge, our response, and what the peer must say to prove itself.
        self._answers: dict[int, tuple[bytes, bytes, str]] = {}
        self.timer: float | None = None    # None once one of them was accepted

    def start(self, now: float) -> None:
        """The peer begins."""

    def tick(self, now: float) -> None:
        if self.timer is not None and self.timer <= now:
            self.timer = now + self._settings.restart
            for _, response, _ in self._answers.values():
                self._link.send(CHAP_PROTOCOL, response)

    def receive(self, packet: bytes, now: float) -> None:
        pulled = pull_packet(packet)
        if pulled is None:
            return
        code, identifier, data = pulled
        if code == CHALLENGE:
            self._challenged(identifier, data, now)
        elif self.timer is None or identifier not in self._answers:
            return                   # answers nothing that waits
        elif code == SUCCESS:
            self._success(identifier, data, now)
        elif code == FAILURE:
            self.timer = None
            text = f"the peer refused our name and password ({self.method}), saying {printable(data) or 'nothing'}"
            self._link.close(Reason("authentication", "bad-password", text), now)

    def _challenged(self, identifier: int, data: bytes, now: float) -> None:
        value = pull_value(data)
        if value is None or not value[0] or (self.method != "chap" and len(value[0]) != CHALLENGE_SIZE[self.method]):
            return
        answers = self._answers
        if identifier not in answers or answers[identifier][0] != data:
            if self.timer is None:
                answers.clear()
            elif len(answers) > 1:
                del answers[next(iter(answers))]
            octets, proof = self._prove(identifier, value[0])
            response = push_packet(RESPONSE, identifier, push_value(octets, self._settings.user.encode()))
            answers[identifier] = data, response, proof
            self.timer = now + self._settings.restart
        self._link.send(CHAP_PROTOCOL, answers[identifier][1])

    def _prove(self, identifier: int, challenge: bytes) -> tuple[bytes, str]:
        """The Value field of the response, laid out as `auth._verify_mschap` reads it, and the peer's proof."""
        password, name = self._settings.password, self._settings.user.encode()
        if self.method == "chap":
            return chap_response(identifier, password, challenge), ""
        password_hash = nt_password_hash(password)
        if self.method == "mschap1":
            return bytes(24) + challenge_response(challenge, password_hash) + b"\x01", ""
        ours = self._random.randbytes(16)
        response = generate_nt_response(challenge, ours, name, password_hash)
        proof = generate_authenticator_response(password_hash, response, ours, challenge, name)
        return ours + bytes(8) + response + b"\x00", proof

    def _success(self, identifier: int, message: bytes, now: float) -> None:
        self.timer = None
        answer = self._answers[identifier]
        self._answers = {identifier: answer}
        if self.method == "mschap2" and not hmac.compare_digest(message[:42].upper(), answer[2].encode()):
            text = "the peer accepted our password without knowing it: its MS-CHAPv2 answer is wrong"
            self._link.close(Reason("authentication", "peer-unproven", text), now)
        else:
            self.keys = self._keys(identifier, answer)
            self._link.granted(now)

    def _keys(self, identifier: int, answer: tuple[bytes, bytes, str]) -> Keys | None:
        if self._settings.encryption.use == "no":
            return None
        challenge, response = pull_value(answer[0]), pull_value(answer[1][4:])
        assert challenge and response       # they were read and written before
        request = AuthRequest(self.method, response[1], identifier, challenge[0], response[0])
        return keys_of(request, self._settings.password, server=False)


def pull_value(data: bytes) -> tuple[bytes, bytes] | None:
    """Value and Name of a Challenge or Response."""
    if not data or len(data) < data[0] + 1:
        return None
    return data[1:data[0] + 1], data[data[0] + 1:]


def push_value(value: bytes, name: bytes) -> bytes:
    return bytes((len(value),)) + value + name
