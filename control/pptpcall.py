"""One PPTP call, as PAC and as PNS (RFC 2637 sections 2.7 to 2.15 and 3.2).

A client that dials us over the Internet is a PNS: it asks for an outgoing call (OCRQ), and we, the PAC, have its line at once. The PNS
ends a call by CCRQ and waits for the PAC's CDN; the PAC ends it by CDN alone.
"""
from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from .pptpevents import CallDown, CallOpening, CallUp, LineErrors, LinkInfo
from .pptpmessage import ERRORS, GENERAL_ERROR, Message
from .reason import Reason
from .statetable import parse

if TYPE_CHECKING:
    from .pptpconnection import Connection

# An event with - after it is an answer that says no, "Connected" that the control connection is established.
PAC = parse("""
    idle             OCRQ       opening,send_ocrp,up  established
    idle             Open       -                     wait-connection
    wait-connection  Connected  send_icrq             wait-reply
    wait-reply       ICRP       answered,opening,send_iccn,up    established
    wait-reply       ICRP-      declined              idle
    *                SLI        link_info             =
    *                WEN        -                     =
    wait-connection  Close      down                  idle
    *                Close      send_cdn,down         idle
    *                CCRQ       cleared               idle
    *                CDN        disconnected          idle
""")
PNS = parse("""
    idle             ICRQ       opening,send_icrp     wait-connect
    idle             Open       -                     wait-connection
    wait-connection  Connected  send_ocrq             wait-reply
    wait-reply       OCRP       answered,opening,up   established
    wait-reply       OCRP-      declined              idle
    wait-connect     ICCN       up                    established
    wait-disconnect  OCRP       -                     =
    wait-disconnect  OCRP-      over                  idle
    wait-disconnect  ICCN       -                     =
    *                SLI        link_info             =
    *                WEN        line_errors           =
    wait-connection  Close      down                  idle
    wait-disconnect  Close      -                     =
    *                Close      send_ccrq             wait-disconnect
    wait-disconnect  Late       over                  idle
    wait-disconnect  CDN        over                  idle
    *                CCRQ       cleared               idle
    *                CDN        disconnected          idle
""")
ADMIN_SHUTDOWN, REQUEST = 3, 4                          # results of a CDN (section 2.13)
CDN_RESULTS = {1: "lost carrier", 2: "an error", 3: "administrative shutdown", 4: "request"}
CONNECTED = 1                                           # result of OCRP and ICRP
REPLY_RESULTS = {2: "an error", 3: "no carrier", 4: "busy", 5: "no dial tone", 6: "time-out", 7: "do not accept"}
SPEED = 100_000_000                                     # bits a second of a line that is none
ANY_BEARER, ANY_FRAMING = 3, 3


def spell(values: dict[str, Any], names: dict[int, str]) -> str:
    """A result, with its error or cause, in words."""
    words = names.get(values["result"], f"result {values['result']}")
    if values["result"] == GENERAL_ERROR:
        words += f": {ERRORS.get(values['error'], values['error'])}"
    if values.get("cause"):
        words += f", cause {values['cause']}"
    return words


class Call:
    """One call of a connection, of which we are the PAC or the PNS."""

    __slots__ = ("call_id", "connection", "numbers", "pac", "peer_call_id", "reason", "state", "until")

    def __init__(self, connection: Connection, pac: bool, call_id: int, peer_call_id: int | None = None,
                 numbers: tuple[str, str] = ("", "")) -> None:
        self.connection, self.pac = connection, pac
        self.call_id, self.peer_call_id = call_id, peer_call_id
        self.numbers = numbers                      # calling and called
        self.state = "idle"
        self.reason: Reason | None = None           # why we clear it, while the PAC has not said so
        self.until = inf                            # when it is given up, while it waits for an answer

    def fire(self, event: str, *args: Any) -> None:
        """Follow the table; what is not in it is an improper sequence, and ends the call."""
        row = (PAC if self.pac else PNS).get((self.state, event))
        if row is None:
            self.fire("Close", Reason("call", "protocol", f"{event} in state {self.state}"), GENERAL_ERROR, 0)
            return
        self.state = row[1]
        for action in row[0]:
            getattr(self, action)(*args)

    # -- what the tables' rows do

    def send_ocrq(self) -> None:
        self._send("OCRQ", call_id=self.call_id, call_serial_number=self.connection.serial(), minimum_bps=300, maximum_bps=SPEED,
                   bearer_type=ANY_BEARER, framing_type=ANY_FRAMING, receive_window=self._window, phone_number=self.numbers[1])

    def send_ocrp(self, message: Message) -> None:
        self._send("OCRP", call_id=self.call_id, peer_call_id=self.peer_call_id, result=CONNECTED, connect_speed=SPEED,
                   receive_window=self._window)

    def send_icrq(self) -> None:
        calling, called = self.numbers
        self._send("ICRQ", call_id=self.call_id, call_serial_number=self.connection.serial(), bearer_type=ANY_BEARER,
                   dialed_number=called, dialing_number=calling)

    def send_icrp(self, message: Message) -> None:
        self._send("ICRP", call_id=self.call_id, peer_call_id=self.peer_call_id, result=CONNECTED, receive_window=self._window)

    def send_iccn(self, message: Message) -> None:
        self._send("ICCN", peer_call_id=self.peer_call_id, connect_speed=SPEED, receive_window=self._window, framing_type=ANY_FRAMING)

    def send_ccrq(self, reason: Reason, result: int, error: int) -> None:
        self.reason = reason
        self._send("CCRQ", call_id=self.call_id)
        self.connection.wait_for(self, self.connection.owner.settings.stop)

    def send_cdn(self, reason: Reason, result: int, error: int = 0) -> None:
        told = self.connection.owner.statistics
        statistics = told(self.connection.path.peer, self.call_id) if told else ""
        self._send("CDN", call_id=self.call_id, result=result, error=error, statistics=statistics)

    def answered(self, message: Message) -> None:
        self.peer_call_id = message.values["call_id"]
        self.connection.know(self)

    def declined(self, message: Message) -> None:
        text = f"the peer did not take the call: {spell(message.values, REPLY_RESULTS)}"
        self._gone(Reason("call", "declined", text), True)

    def cleared(self, message: Message) -> None:
        """CCRQ: a PAC answers it even when the call is gone otherwise (section 2.12)."""
        reason = Reason("call", "cleared", "the peer ended the call")
        self.send_cdn(reason, REQUEST)
        self._gone(reason, True)

    def disconnected(self, message: Message) -> None:
        text = f"the peer ended the call: {spell(message.values, CDN_RESULTS)}"
        self._gone(Reason("call", "cleared", text), True, message.values["statistics"])

    def over(self, message: Message | None = None) -> None:
        """What we asked to be cleared is."""
        assert self.reason is not None
        self._gone(self.reason, False, message.values.get("statistics", "") if message else "")

    def down(self, reason: Reason, result: int = 0, error: int = 0) -> None:
        self._gone(reason, False)

    def link_info(self, message: Message) -> None:
        v = message.values
        self.connection.owner.emit(LinkInfo(self.connection.number, self.call_id, v["send_accm"], v["receive_accm"]))

    def line_errors(self, message: Message) -> None:
        errors = tuple(n for field, n in message.values.items() if field != "peer_call_id")
        self.connection.owner.emit(LineErrors(self.connection.number, self.call_id, errors))

    def opening(self, message: Message) -> None:
        c = self.connection
        assert self.peer_call_id is not None
        c.owner.emit(CallOpening(c.number, self.call_id, self.peer_call_id, c.path))

    def up(self, message: Message) -> None:
        c = self.connection
        self.until = inf
        speed = message.values.get("connect_speed", message.values.get("maximum_bps", 0))
        c.owner.emit(CallUp(c.number, self.call_id, c.path, *self.numbers, speed))

    # -- helpers of the above

    @property
    def _window(self) -> int:
        return self.connection.owner.settings.receive_window

    def _send(self, name: str, **values: Any) -> None:
        self.connection.send(name, **values)

    def _gone(self, reason: Reason, by_peer: bool, statistics: str = "") -> None:
        c = self.connection
        c.forget(self)
        c.owner.emit(CallDown(c.number, self.call_id, c.path, reason, by_peer, statistics))
        c.owner.ids.give_call(c.path.peer, self.call_id)
