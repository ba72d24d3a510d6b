"""The Link Control Protocol (RFC 1661 sections 5 and 6; Identification and Time-Remaining of RFC 1570).

Asked for: MRU, Magic-Number, the server's Authentication-Protocol, and PFC and ACFC where the
settings say so: every peer compresses toward us only when asked, and over a tunnel it saves three
octets, so by default it is not worth a branch at the other end. Acknowledged: MRU, Magic-Number, ACCM
(any: a packet link has nothing to escape), PFC and ACFC (Linux and Windows ask for both, RouterOS for
neither). Everything else is rejected, callback among it.

Where multilink is allowed (RFC 1990 section 5.1), MRRU and the endpoint discriminator are asked for too, and acknowledged, as are short
sequence numbers. It is in force when both ends acknowledged an MRRU: an MRRU of one end alone obliges nobody. Where it is not allowed,
all three are rejected, because an Ack would promise to understand it.
"""
from __future__ import annotations

from random import Random
from typing import Any

from .auth import ALLOWED_BY_OPTION, OPTION_OF
from .automaton import CONFIGURE_NAK, OPENED, Automaton
from .fields import Field, flag, option, raw, u16, u32
from .link import DEFAULT_MRU, LCP_PROTOCOL, Base, LinkSettings, Role, printable, push_packet
from .reason import Reason

MRU, ACCM, AUTHENTICATION, MAGIC, PFC, ACFC = 1, 2, 3, 5, 7, 8
MRRU, SHORT_SEQUENCE, DISCRIMINATOR = 17, 18, 19

PROTOCOL_REJECT, ECHO_REQUEST, ECHO_REPLY, DISCARD_REQUEST, IDENTIFICATION, TIME_REMAINING = range(8, 14)

LEAST_MRU = 128   # below this a peer is broken: IP and its headers would not fit

# The classes of discriminators, with the least and the most octets of their addresses (RFC 1990 section 5.1.3): null, locally
# assigned, IP, MAC, magic numbers of PPP, telephone number.
CLASSES = {0: (0, 0), 1: (1, 20), 2: (4, 4), 3: (6, 6), 4: (4, 20), 5: (1, 15)}


def is_discriminator(value: bytes | None) -> bool:
    """Whether it is a class that we know, with an address of its size."""
    least, most = CLASSES.get(value[0], (1, 0)) if value else (1, 0)
    return least <= len(value or b"") - 1 <= most


class LCP(Automaton):
    """LCP of one link; `protocol_rejected` and `loops` are what it knows beyond its options."""

    PROTOCOL = LCP_PROTOCOL
    NAME = "lcp"
    OPTIONS = {
        MRU: Field("mru", u16), ACCM: Field("accm", u32), AUTHENTICATION: Field("authentication", raw),
        MAGIC: Field("magic", u32), PFC: Field("pfc", flag), ACFC: Field("acfc", flag),
        MRRU: Field("mrru", u16), SHORT_SEQUENCE: Field("short-sequence", flag), DISCRIMINATOR: Field("discriminator", raw),
    }
    link: Base
    __slots__ = ("_loops", "_magic", "_offers", "refused", "role")

    def __init__(self, role: Role, link: Base, settings: LinkSettings, random: Random) -> None:
        self.role = role
        # Kept when LCP is renegotiated: a stray old Configure-Request then says what a new one would.
        self._magic = random.getrandbits(32) or 1   # section 6.4: zero is illegal
        super().__init__(link, settings, random)

    def _reset(self) -> None:
        self._loops = 0                                   # Configure-Requests in a row with our own magic
        self._offers = self.settings.authentication       # a server's, the present one first
        self.refused = ""                                 # what the peer asked of a client in vain
        super()._reset()

    # What is in force; the defaults of RFC 1661 section 6 before anything is

    @property
    def mru(self) -> int:
        return self.ours.get(MRU, DEFAULT_MRU)

    @property
    def peer_mru(self) -> int:
        """We never send more than the default, whatever the peer would take: it is what the workers have room for."""
        return min(self.theirs.get(MRU, DEFAULT_MRU), DEFAULT_MRU)

    @property
    def magic(self) -> int:
        return self.ours.get(MAGIC, 0)

    @property
    def multilink(self) -> bool:
        return MRRU in self.ours and MRRU in self.theirs

    @property
    def mrru(self) -> int:
        """The largest packet that the peer may send us in fragments; 0 without multilink."""
        return self.ours[MRRU] if self.multilink else 0

    @property
    def peer_mrru(self) -> int:
        return self.theirs[MRRU] if self.multilink else 0

    @property
    def discriminator(self) -> bytes:
        """What the peer calls itself, its class in front; none and the null class are the same, b"" (RFC 1990 section 5.1.3)."""
        value = self.theirs.get(DISCRIMINATOR, b"")
        return value if len(value) > 1 else b""

    @property
    def method(self) -> str:
        """The authentication that was agreed on; "" for none."""
        return ALLOWED_BY_OPTION.get((self.ours if self.role == "server" else self.theirs).get(AUTHENTICATION, b""), "")

    # The policy

    def desired(self) -> dict[int, Any]:
        settings = self.settings
        wanted: dict[int, Any] = {}
        if settings.mru != DEFAULT_MRU:
            wanted[MRU] = settings.mru
        if self.role == "server":
            wanted[AUTHENTICATION] = OPTION_OF[self._offers[0]]
        wanted[MAGIC] = self._magic
        if settings.pfc:
            wanted[PFC] = True
        if settings.acfc:
            wanted[ACFC] = True
        if settings.mrru:
            wanted[MRRU] = settings.mrru
            if settings.short_sequence:
                wanted[SHORT_SEQUENCE] = True
            if settings.discriminator:
                wanted[DISCRIMINATOR] = settings.discriminator
        return wanted

    def _new_magic(self) -> int:
        return self.random.getrandbits(32) or 1

    def judge(self, kind: int, value: Any, now: float) -> Any:
        if kind in (MRRU, SHORT_SEQUENCE, DISCRIMINATOR):
            return self._judge_multilink(kind, value)
        if kind == MRU:
            return value if value is not None and value >= LEAST_MRU else DEFAULT_MRU
        if kind == MAGIC:
            return self._judge_magic(value, now)
        if kind == ACCM:
            return 0 if value is None else value
        if kind == AUTHENTICATION:
            return self._judge_authentication(value)
        return True   # PFC, ACFC

    def _judge_multilink(self, kind: int, value: Any) -> Any:
        """Nobody can say what the peer should be called instead, so a discriminator that makes no sense is rejected."""
        if not self.settings.mrru:
            return None
        if kind == MRRU:
            return value if value is not None and value >= LEAST_MRU else DEFAULT_MRU
        if kind == DISCRIMINATOR:
            return value if is_discriminator(value) else None
        return True

    def _judge_all(self, data: bytes, now: float) -> tuple[int, bytes]:
        """Section 6.4: a request with our own magic number is most likely our own, and to reject its
        authentication would hide the loop. Only the number is worth an answer."""
        loops = self._loops
        judged = super()._judge_all(data, now)
        return (CONFIGURE_NAK, option(MAGIC, self._new_magic().to_bytes(4))) if self._loops > loops else judged

    def _judge_magic(self, value: int | None, now: float) -> int:
        """Our own number again is a line that loops back, unless it changes when we change it."""
        if value and value != self.magic:
            self._loops = 0
            return value
        if value:
            self._loops += 1
            if self._loops >= self.settings.max_failure:
                self.link.close(Reason("lcp", "loop", "the link loops back: the peer's magic number is always ours"), now)
        return self._new_magic()

    def _judge_authentication(self, value: bytes) -> bytes | None:
        """A client agrees to what its settings allow, and names its first choice otherwise. A server
        does not authenticate itself: it has nobody's password."""
        allowed = self.settings.authentication
        if self.role == "server" or not allowed:
            return None
        if ALLOWED_BY_OPTION.get(value) in allowed:
            return value
        self.refused = ALLOWED_BY_OPTION.get(value, f"protocol {value.hex() or 'without a number'}")
        return OPTION_OF[allowed[0]]

    def adapt(self, kind: int, value: Any, now: float) -> None:
        if kind == MRU:
            if LEAST_MRU <= value <= self.settings.mru:   # less than we could take; more was not asked for
                self.ours[MRU] = value
        elif kind == MRRU:
            if LEAST_MRU <= value <= self.settings.mrru:
                self.ours[MRRU] = value
        elif kind == MAGIC:
            self.ours[MAGIC] = self._magic = self._new_magic()
        elif kind == AUTHENTICATION:
            self._offer_another(ALLOWED_BY_OPTION.get(value, ""), now)
        else:
            del self.ours[kind]                           # a flag has no other value, and nobody else names us

    def _offer_another(self, hint: str, now: float) -> None:
        """The peer does not want the present offer: its own choice if we allow it, else our next one."""
        rest = self._offers[1:]
        if hint in rest:
            rest = (hint, *(method for method in rest if method != hint))
        if rest:
            self._offers = rest
            self.ours[AUTHENTICATION] = OPTION_OF[rest[0]]
        else:
            self._refused_all(now)

    def rejected(self, kind: int, now: float) -> None:
        if kind == AUTHENTICATION:
            self._refused_all(now)
        else:
            super().rejected(kind, now)
            if kind == MRRU:
                self.ours.pop(SHORT_SEQUENCE, None)       # of nothing now

    def _refused_all(self, now: float) -> None:
        allowed = ", ".join(self.settings.authentication)
        self.link.close(Reason("authentication", "refused", f"the peer refused every authentication we allow: {allowed}"), now)

    # Packets beyond the automaton's

    def receive_other(self, code: int, identifier: int, data: bytes, now: float) -> bool:
        if code == ECHO_REQUEST:
            self.fire("RXR", now, answer=self._echo_reply(identifier, data))
        elif code in (ECHO_REPLY, DISCARD_REQUEST):
            self.fire("RXR", now)
        elif code == PROTOCOL_REJECT:
            if self.state == OPENED and len(data) >= 2:   # section 5.7: otherwise discarded
                self.link.protocol_rejected(data[0] << 8 | data[1], now)
        else:
            return code in (IDENTIFICATION, TIME_REMAINING)
        return True

    def _echo_reply(self, identifier: int, data: bytes) -> bytes:
        """Section 5.8: our magic number and the peer's data; our own request, come back, has none."""
        if len(data) < 4 or (self.magic and int.from_bytes(data[:4]) == self.magic):
            return b""
        return push_packet(ECHO_REPLY, identifier, self.magic.to_bytes(4) + data[4:self.peer_mru - 4])

    def ask_for_echo(self) -> None:
        """Section 5.8: whatever comes back shows that somebody is there."""
        self.link.send(LCP_PROTOCOL, push_packet(ECHO_REQUEST, self._next_identifier(), self.magic.to_bytes(4)))

    def reject_protocol(self, protocol: int, information: bytes) -> None:
        """Section 5.7: sent only while LCP is open, cut to the peer's MRU."""
        if self.state == OPENED:
            data = protocol.to_bytes(2) + information[:self.peer_mru - 6]
            self.link.send(LCP_PROTOCOL, push_packet(PROTOCOL_REJECT, self._next_identifier(), data))

    def peer_terminates(self, message: bytes) -> None:
        if self.refused:
            allowed = ", ".join(self.settings.authentication)
            text = f"the peer asks for {self.refused}, and we allow only {allowed}"
            self.link.ending(Reason("authentication", "refused", text))
        else:
            said = f', saying "{printable(message)}"' if message else ""
            self.link.ending(Reason("link", "peer-terminated", f"the peer ended the link{said}"))

    def unusable(self, what: str) -> None:
        self.link.ending(Reason("lcp", "rejected", f"the peer rejected {what} of LCP"))
