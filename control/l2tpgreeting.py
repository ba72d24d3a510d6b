"""What the ends of an L2TP tunnel tell of themselves when they meet, and how each proves that it knows the secret: the values of
SCCRQ, SCCRP and SCCCN (RFC 2661 sections 4.4.3, 5.1.1, 6.1 to 6.3).
"""
from __future__ import annotations

from hmac import compare_digest
from typing import Any

from . import avp
from .avp import BAD_VALUE, Fault, Message
from .l2tpevents import Settings
from .reason import Reason

VERSION = 0x0100                        # protocol version 1, revision 0: what SCCRQ calls L2TPv2
FRAMINGS, BEARERS = 3, 3                # synchronous and asynchronous, digital and analog
NOT_AUTHORIZED, BAD_VERSION, STATE_ERROR = 4, 5, 7      # result codes of a StopCCN (section 4.4.2)
STOP_RESULTS = {1: "cleared", 2: "an error", 3: "the tunnel exists already", 4: "not authorized", 5: "protocol version",
                6: "shutting down", 7: "state machine error"}


class Refusal(Exception):
    """A message is not acceptable: the result and error codes of the answer, and why."""

    def __init__(self, code: str, text: str, result: int = 2, error: int = 0) -> None:
        super().__init__(text)
        self.result, self.error = result, error
        self.reason = Reason("tunnel", code, text)


def faulty(message: Message) -> Refusal:
    """The refusal of a message that cannot be used."""
    error, text, secret = message.fault or Fault(BAD_VALUE, "not acceptable")
    text = f"{message.name}: {text}" if message.name else text
    return Refusal("auth", text, NOT_AUTHORIZED) if secret else Refusal("malformed", text, 2, error)


def greeting(settings: Settings, tunnel_id: int) -> dict[str, Any]:
    """What an SCCRQ and an SCCRP say of us."""
    return {"protocol_version": VERSION, "host_name": settings.host_name, "framing_capabilities": FRAMINGS,
            "assigned_tunnel_id": tunnel_id, "bearer_capabilities": BEARERS,
            "vendor_name": settings.vendor_name, "receive_window_size": settings.receive_window}


def check_greeting(message: Message, secret: str | bytes) -> int:
    """The receive window of a peer whose SCCRQ or SCCRP is acceptable; else Refusal."""
    if message.fault:
        raise faulty(message)
    v = message.values
    if v["protocol_version"] >> 8 != VERSION >> 8:
        raise Refusal("version", f"the peer speaks protocol version {v['protocol_version'] >> 8}", BAD_VERSION, VERSION)
    if not v["assigned_tunnel_id"]:
        raise Refusal("malformed", f"{message.name}: tunnel id 0", 2, BAD_VALUE)
    window = v.get("receive_window_size", 4)
    if not window:
        raise Refusal("malformed", f"{message.name}: receive window of 0", 2, BAD_VALUE)
    if "challenge" in v and not (secret and v["challenge"]):
        raise Refusal("auth", "the peer asks for tunnel authentication" + (
            " with an empty challenge" if secret else ", and no secret is configured"), NOT_AUTHORIZED)
    return min(window, 0x7FFF)


def check_response(message: Message, secret: bytes, challenge: bytes) -> None:
    """Refusal unless an SCCRP or SCCCN answers our challenge as only who knows the secret can."""
    answer = message.values.get("challenge_response")
    if answer is None:
        raise Refusal("auth", "the peer does not answer our challenge", NOT_AUTHORIZED)
    if not compare_digest(answer, avp.response(message.type, secret, challenge)):
        raise Refusal("auth", "the peer's tunnel secret is wrong", NOT_AUTHORIZED)
