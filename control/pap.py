"""The Password Authentication Protocol (RFC 1334 section 2).

     Authenticate-Request  | Peer-ID length | Peer-ID ... | Password length | Password ...
     Authenticate-Ack, Nak | Message length | Message ...
"""
from __future__ import annotations

from random import Random

from .auth import AuthRequest, Reject
from .link import PAP_PROTOCOL, Base, LinkSettings, printable, pull_packet, push_packet
from .reason import Reason

AUTHENTICATE_REQUEST, AUTHENTICATE_ACK, AUTHENTICATE_NAK = 1, 2, 3


class Authenticator:
    """The server's side: waits for a request, puts it to the link, repeats its answer when asked again."""

    PROTOCOL = PAP_PROTOCOL
    method = "pap"
    timer: float | None = None      # the peer is the one that repeats
    __slots__ = ("_code", "_identifier", "_link", "_message", "_request")

    def __init__(self, link: Base) -> None:
        self._link = link
        self._identifier = 0
        self._request: AuthRequest | None = None
        self._code = 0              # of the answer; 0 until there is one
        self._message = b""

    def start(self, now: float) -> None:
        """The peer begins."""

    def tick(self, now: float) -> None:
        """Nothing to repeat."""

    def receive(self, packet: bytes, now: float) -> None:
        pulled = pull_packet(packet)
        if pulled is None or pulled[0] != AUTHENTICATE_REQUEST:
            return
        _, identifier, data = pulled
        if self._code:
            self._identifier = identifier
            return self._answer()
        strings = _pull_strings(data)
        if strings is None:
            return
        if self._request is None:
            self._identifier = identifier
            self._request = AuthRequest("pap", strings[0], identifier, password=strings[1])
            self._link.requested(self._request, now)
        elif (self._request.name, self._request.password) == strings:
            self._identifier = identifier   # repeated while the verdict is awaited

    def accepted(self, message: str) -> None:
        self._conclude(AUTHENTICATE_ACK, message)

    def refused(self, verdict: Reject) -> None:
        self._conclude(AUTHENTICATE_NAK, verdict.message or "Authentication failed")

    def _conclude(self, code: int, message: str) -> None:
        self._code, self._message, self._request = code, message.encode()[:255], None
        self._answer()

    def _answer(self) -> None:
        data = bytes((len(self._message),)) + self._message
        self._link.send(PAP_PROTOCOL, push_packet(self._code, self._identifier, data))


class Peer:
    """The client's side: repeats its request until it is answered."""

    PROTOCOL = PAP_PROTOCOL
    method = "pap"
    __slots__ = ("_identifier", "_link", "_settings", "timer")

    def __init__(self, link: Base, settings: LinkSettings, random: Random) -> None:
        self._link, self._settings = link, settings
        self._identifier = random.getrandbits(8)
        self.timer: float | None = None

    def start(self, now: float) -> None:
        """Each request has an identifier of its own (section 2.2.1), and any answer will do."""
        self._identifier = (self._identifier + 1) & 255
        user, password = self._settings.user.encode()[:255], self._settings.password.encode("utf-8", "surrogatepass")[:255]
        data = bytes((len(user),)) + user + bytes((len(password),)) + password
        self._link.send(PAP_PROTOCOL, push_packet(AUTHENTICATE_REQUEST, self._identifier, data))
        self.timer = now + self._settings.restart

    def tick(self, now: float) -> None:
        if self.timer is not None and self.timer <= now:
            self.start(now)

    def receive(self, packet: bytes, now: float) -> None:
        pulled = pull_packet(packet)
        if pulled is None or self.timer is None:
            return
        code, _, data = pulled
        if code == AUTHENTICATE_ACK:
            self.timer = None
            self._link.granted(now)
        elif code == AUTHENTICATE_NAK:
            self.timer = None
            said = printable(data[1:]) or "nothing"
            self._link.close(Reason("authentication", "bad-password", f"the peer refused our name and password (PAP), saying {said}"), now)


def _pull_strings(data: bytes) -> tuple[bytes, bytes] | None:
    """Peer-ID and Password of an Authenticate-Request."""
    if not data or len(data) < data[0] + 2:
        return None
    at = data[0] + 1
    if len(data) < at + 1 + data[at]:
        return None
    return data[1:at], data[at + 1:at + 1 + data[at]]
