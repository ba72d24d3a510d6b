"""The Compression Control Protocol (RFC 1962), for MPPE and nothing else (RFC 3078 section 3).

    0x01000000 H: stateless | 0x80 M: 56 bits | 0x40 S: 128 bits | 0x20 L: 40 bits | obsolete and MPPC: never

A Configure-Request speaks of what its sender receives, so each direction is agreed on by itself: ours of what the peer
encrypts, the peer's of what we do. We ask for all that policy allows and expect the peer to Nak with one; of the peer's we Nak
with the strongest that both know. Compression, and what else option 18 can mean, is rejected or left out.

A peer that asks for no encryption gets it acknowledged, or is told what is required and then the link ends: nothing here goes
round for ever. Reset-Request says that the peer lost track of what we encrypt.
"""
from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from .automaton import CONFIGURE_ACK, CONFIGURE_NAK, OPENED, Automaton
from .fields import Field, option, u32
from .link import CCP_PROTOCOL, Compressed, LinkSettings, printable, push_packet
from .mppe import STRENGTHS, Cipher, Keys, Policy, Way
from .reason import Reason

MPPE = 18
STATELESS = 0x01000000
FLAG = {128: 0x40, 56: 0x80, 40: 0x20}

RESET_REQUEST, RESET_ACK = 14, 15

MOST_NAKS = 10          # from one peer
OPTIONAL_TRIES = 3      # Configure-Requests to a peer that may have no encryption: the rest of the link waits for its answer


def strengths(value: int) -> list[int]:
    """The strengths that an option names, the strongest first."""
    return [bits for bits in STRENGTHS if value & FLAG[bits]]


def choice(bits: Iterable[int]) -> str:
    """128, 56 or 40."""
    *first, last = map(str, sorted(bits, reverse=True))
    return f"{', '.join(first)} or {last}" if first else last


class CCP(Automaton):
    """CCP of one link, where policy wants it and authentication left keys."""

    PROTOCOL = CCP_PROTOCOL
    NAME = "ccp"
    OPTIONS = {MPPE: Field("mppe", u32)}
    link: Compressed
    __slots__ = ("cipher", "keys", "policy")

    def __init__(self, policy: Policy, keys: Keys, link: Compressed, settings: LinkSettings, random: Random) -> None:
        self.policy, self.keys = policy, keys
        self.cipher: Cipher | None = None       # what is in force, while open
        super().__init__(link, settings, random)
        if not policy.required:
            self.max_configure = min(self.max_configure, OPTIONAL_TRIES)

    # What is in force

    def _agreed(self) -> Cipher | None:
        send, receive = self._way(self.theirs, 0), self._way(self.ours, 1)
        return Cipher(receive, send, self.policy.required) if send or receive else None

    def _way(self, options: dict[int, Any], which: int) -> Way | None:
        value = options.get(MPPE, 0)
        for bits in strengths(value):
            return Way(bits, bool(value & STATELESS), self.keys.start(bits)[which])
        return None

    # The policy

    def desired(self) -> dict[int, Any]:
        return {MPPE: self._value(*self.policy.strengths)}

    def _value(self, *bits: int, stateless: bool = False) -> int:
        """An option that names these strengths; stateless too unless policy lets it be."""
        return sum(FLAG[each] for each in bits) | (STATELESS if stateless or not self.policy.stateful else 0)

    def _refused(self, text: str, now: float) -> None:
        self.link.close(Reason("ccp", "no-encryption", f"{text}, and use-encryption is require"), now)

    def judge(self, kind: int, value: Any, now: float) -> Any:
        if value is None:       # of another length
            return self._value(max(self.policy.strengths))
        asked = strengths(value)
        common = [bits for bits in asked if bits in self.policy.strengths]
        if common:
            return self._value(common[0], stateless=bool(value & STATELESS))
        if not self.policy.required:
            return None if asked else 0
        if asked:
            self._refused(f"the peer offers MPPE of {choice(asked)} bits, not of {choice(self.policy.strengths)}", now)
        elif self._failures >= self.settings.max_failure:
            self._refused("the peer goes on asking for no encryption", now)
        else:
            return self._value(max(self.policy.strengths))
        return None

    def missing(self, asked: set[int]) -> bytes:
        if MPPE in asked or not self.policy.required:
            return b""
        return option(MPPE, self._value(max(self.policy.strengths)).to_bytes(4))

    def adapt(self, kind: int, value: Any, now: float) -> None:
        common = [bits for bits in strengths(value) if bits in self.policy.strengths]
        if common:
            self.ours[kind] = self._value(common[0], stateless=bool(value & STATELESS))
        else:
            self._do_without(now)

    def rejected(self, kind: int, now: float) -> None:
        """Many a peer rejects what is stateful instead of asking for stateless."""
        if self.ours[kind] & STATELESS:
            self._do_without(now)
        else:
            self.ours[kind] |= STATELESS

    def _do_without(self, now: float) -> None:
        del self.ours[MPPE]
        if self.policy.required:
            self._refused(f"the peer does not agree to MPPE of {choice(self.policy.strengths)} bits", now)

    def _judge_all(self, data: bytes, now: float) -> tuple[int, bytes]:
        code, answer = super()._judge_all(data, now)
        if code == CONFIGURE_ACK and self.policy.required and not (self._proposal or {}).get(MPPE):
            self._refused("the peer goes on asking for no encryption", now)     # nothing is sent after that
        return code, answer

    def _answer(self, code: int, identifier: int, data: bytes, now: float) -> None:
        """A peer that acknowledges several strengths has chosen none: ask for the strongest alone. One that has only
        Naks is left alone."""
        if code == CONFIGURE_NAK and self._naks >= MOST_NAKS:
            return self.fire("Close", now)
        several = strengths(self.ours.get(MPPE, 0))
        if code == CONFIGURE_ACK and len(several) > 1 and data == self._request:
            alone = self._value(several[0], stateless=bool(self.ours[MPPE] & STATELESS))
            code, data = CONFIGURE_NAK, option(MPPE, alone.to_bytes(4))
        super()._answer(code, identifier, data, now)

    # Openings and endings: a link that must be encrypted does not outlive its encryption

    def this_layer_up(self, now: float, identifier: int, answer: bytes) -> None:
        cipher = self._agreed()
        if self.policy.required and not (cipher and cipher.receive and cipher.send):
            self._refused("the peer does not encrypt", now)
        else:
            self.cipher = cipher
            super().this_layer_up(now, identifier, answer)

    def this_layer_down(self, now: float, identifier: int, answer: bytes) -> None:
        self.cipher = None
        super().this_layer_down(now, identifier, answer)
        if self.policy.required and self.terminated:
            self._refused("encryption was ended", now)

    def this_layer_finished(self, now: float, identifier: int, answer: bytes) -> None:
        super().this_layer_finished(now, identifier, answer)
        if self.policy.required:
            self._refused("the peer does not answer CCP", now)

    def peer_terminates(self, message: bytes) -> None:
        if self.policy.required:
            said = f', saying "{printable(message)}"' if message else ""
            self.link.ending(Reason("ccp", "no-encryption", f"the peer ended CCP{said}, and use-encryption is require"))

    def unusable(self, what: str) -> None:
        if self.policy.required:
            how = "does not speak CCP" if what == "the protocol" else f"rejected {what} of CCP"
            self.link.ending(Reason("ccp", "no-encryption", f"the peer {how}, and use-encryption is require"))

    # Codes beyond the automaton's

    def receive_other(self, code: int, identifier: int, data: bytes, now: float) -> bool:
        """RFC 1962 section 5.7: only while open. MPPE's own answer to Reset-Request is the flushed bit (RFC 3078 section 8),
        but there are peers that ask again until they see a Reset-Ack too."""
        if code == RESET_REQUEST and self.state == OPENED:
            self.link.reset_requested(now)
            self.link.send(CCP_PROTOCOL, push_packet(RESET_ACK, identifier))
        return code in (RESET_REQUEST, RESET_ACK)
