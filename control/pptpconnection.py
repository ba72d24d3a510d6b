"""One PPTP control connection (RFC 2637 sections 2.1 to 2.6 and 3.1) with its calls, both roles.

TCP's octets come in by `receive`, in any pieces; each message goes through the state table here, or that of its call. What is not a
message of PPTP ends the connection at once: there is nobody to be told.
"""
from __future__ import annotations

from heapq import heappop, heappush
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any

from .address import Path
from .pptpcall import Call
from .pptpevents import ConnectionDown, ConnectionUp
from .pptpmessage import BAD_CALL, ERRORS, GENERAL_ERROR, NO_RESOURCE, Message, Stream, encode
from .reason import Reason
from .statetable import parse

if TYPE_CHECKING:
    from .pptp import Endpoint

# An event with - after it is a message that is not acceptable; "Lost": TCP's connection is gone, "Late": an answer did not come.
CONNECTION = parse("""
    idle             Open      send_sccrq            wait-ctl-reply
    idle             SCCRQ     send_sccrp,up         established
    idle             SCCRQ-    refuse                closed
    wait-ctl-reply   SCCRP     up                    established
    wait-ctl-reply   SCCRP-    refused               closed
    idle             Close     down                  closed
    wait-stop-reply  Close     -                     =
    *                Close     stop                  wait-stop-reply
    wait-stop-reply  StopCCRQ  send_stopccrp         closed
    *                StopCCRQ  send_stopccrp,stopped closed
    wait-stop-reply  StopCCRP  -                     closed
    wait-stop-reply  Late      -                     closed
    wait-stop-reply  Lost      -                     closed
    *                Lost      down                  closed
""")
VERSION = 0x0100
FRAMINGS, BEARERS = 3, 3                                # asynchronous and synchronous, analog and digital
OK, NOT_AUTHORIZED, BAD_VERSION = 1, 4, 5               # results of SCCRP (section 2.2); OK of the others too
START_RESULTS = {2: "an error", 3: "there is a connection already", 4: "not authorized", 5: "protocol version"}
NONE, STOP_PROTOCOL, LOCAL_SHUTDOWN = 1, 2, 3           # reasons of StopCCRQ (section 2.3)
STOP_REASONS = {1: "no reason given", 2: "the protocol's version", 3: "shutting down"}
CALL_REPLIES = {"OCRP": "OCRP-", "ICRP": "ICRP-"}
BY_OUR_ID = frozenset(("OCRP", "ICRP", "ICCN", "WEN", "SLI"))      # these name the call by its receiver's id, CCRQ and CDN by the sender's


class Connection:
    """One connection; `owner` is the endpoint, `number` what it is called there."""

    __slots__ = ("_echo", "_echo_until", "_expires", "_serial", "_stream", "armed", "calls", "half_open", "heard_at", "host_name",
                 "number", "owner", "path", "peers", "pending", "state", "vendor_name")

    def __init__(self, owner: Endpoint, number: int, path: Path, now: float) -> None:
        self.owner, self.number, self.path = owner, number, path
        self.state = "idle"
        self.calls: dict[int, Call] = {}
        self.peers: dict[tuple[bool, int], Call] = {}   # those whose peer's id is known, by whether we are the PAC, and that id
        self.pending: list[tuple[float, int, Call]] = []        # a heap of calls that wait for an answer, by until when
        self.half_open = False                          # a peer's without a call so far
        self.host_name = self.vendor_name = ""
        self.heard_at = now
        self.armed = inf                                # when the endpoint's heap wakes us
        self._stream = Stream()
        self._echo, self._echo_until = 0, inf           # the Echo-Request that waits for its reply, and until when
        self._expires = now + owner.settings.setup
        self._serial = 0

    def fire(self, event: str, *args: Any) -> None:
        """Follow the table; what is not in it is an improper sequence, and ends the connection."""
        row = CONNECTION.get((self.state, event))
        if row is None:
            self.fire("Close", Reason("tunnel", "protocol", f"{event} in state {self.state}"), STOP_PROTOCOL)
            return
        self.state = row[1]
        for action in row[0]:
            getattr(self, action)(*args)

    # -- in

    def receive(self, data: bytes, now: float) -> None:
        for message in self._stream.receive(data):
            if self.state == "closed":
                return
            self.heard_at, self._echo_until = now, inf
            self._message(message, now)
        if self._stream.fault and self.state != "closed":
            self.owner.ignore("malformed", self.path, self._stream.fault, now)
            self.fire("Lost", Reason("tunnel", "malformed", self._stream.fault))

    def _message(self, message: Message, now: float) -> None:
        name, owner = message.name, self.owner
        if name == "Echo-Request":
            if self.state != "idle":
                self.send("Echo-Reply", identifier=message.values["identifier"], result=OK)
        elif name == "Echo-Reply":
            if message.values["identifier"] != self._echo:
                owner.ignore("echo", self.path, "an Echo-Reply to nothing that we asked", now)
        elif not name:
            owner.ignore("unknown_message", self.path, f"control message type {message.type} is unknown", now)
        elif name in ("SCCRQ", "SCCRP"):
            self._start(message, now)
        elif name in ("StopCCRQ", "StopCCRP"):
            self.fire(name, message)
        elif self.state == "established":
            self._call_message(message, now)
        elif self.state != "wait-stop-reply":           # a call before there is a connection; while we leave, calls are over
            self.fire(name)

    def _start(self, message: Message, now: float) -> None:
        v, event = message.values, message.name
        if v["protocol_version"] != VERSION or v.get("result", OK) != OK:
            event += "-"
        if self.state in ("idle", "wait-ctl-reply"):
            self.host_name, self.vendor_name = v["host_name"], v["vendor_name"]
        self.fire(event, message)
        if event == "SCCRQ-":
            self.owner.ignore("refused_connection", self.path,
                              f"SCCRQ of {v['host_name']!r} refused: it speaks protocol version {v['protocol_version']:#06x}", now)

    def _call_message(self, message: Message, now: float) -> None:
        name, v = message.name, message.values
        if name in ("OCRQ", "ICRQ"):
            self._new_call(message, now)
            return
        if name in BY_OUR_ID:
            call = self.calls.get(v["peer_call_id"])
        else:       # CCRQ is the PNS's word and CDN the PAC's, and some say the other's
            ours = name == "CCRQ"
            call = self.peers.get((ours, v["call_id"])) or self.peers.get((not ours, v["call_id"]))
        if call is None:
            # One that is over: its end and a message of the peer's passed each other.
            self.owner.ignore("unknown_call", self.path, f"{name} for a call that is none", now)
        elif name in CALL_REPLIES and v["result"] != OK:
            call.fire(CALL_REPLIES[name], message)
        else:
            call.fire(name, message)

    def _new_call(self, message: Message, now: float) -> None:
        """The peer wants a call: outgoing when it is the PNS, incoming when it is the PAC."""
        v, owner = message.values, self.owner
        pac = message.name == "OCRQ"
        twice = (pac, v["call_id"]) in self.peers
        room = not twice and len(self.calls) < owner.settings.calls_per_connection
        call_id = owner.ids.take_call(self.path.peer) if room else None
        if call_id is None:
            owner.ignore("refused_call", self.path, f"{message.name}: "
                         + ("the peer has a call with that id" if twice else "no room for another call"), now)
            self.send("OCRP" if pac else "ICRP", peer_call_id=v["call_id"], result=GENERAL_ERROR, error=BAD_CALL if twice else NO_RESOURCE)
            return
        call = Call(self, pac, call_id, v["call_id"], ("", v["phone_number"]) if pac else (v["dialing_number"], v["dialed_number"]))
        self.add(call)
        self.know(call)
        owner.at_home(self)
        if not pac:
            self.wait_for(call, owner.settings.setup)
        call.fire(message.name, message)

    # -- what the table's rows do

    def send_sccrq(self) -> None:
        self.send("SCCRQ", **self._greeting())

    def send_sccrp(self, message: Message) -> None:
        self.send("SCCRP", result=OK, **self._greeting())

    def refuse(self, message: Message) -> None:
        self.send("SCCRP", result=BAD_VERSION, **self._greeting())
        self._down(Reason("tunnel", "version", f"the peer speaks protocol version {message.values['protocol_version']:#06x}"))

    def refused(self, message: Message) -> None:
        v = message.values
        words = START_RESULTS.get(v["result"], f"result {v['result']}")
        if v["result"] == GENERAL_ERROR:
            words += f": {ERRORS.get(v['error'], v['error'])}"
        if v["result"] == OK:
            words = f"it speaks protocol version {v['protocol_version']:#06x}"
        self._down(Reason("tunnel", "auth" if v["result"] == NOT_AUTHORIZED else "refused", f"the peer refused the connection: {words}"))

    def up(self, message: Message) -> None:
        self._expires = inf if self.calls else self.owner.now + self.owner.settings.idle
        self.owner.emit(ConnectionUp(self.number, self.path, self.host_name, self.vendor_name))
        for call in list(self.calls.values()):
            call.fire("Connected")

    def stop(self, reason: Reason, why: int = NONE) -> None:
        """Say StopCCRQ, and forget the calls: it ends them all."""
        self.send("StopCCRQ", reason=why)
        self._expires = self.owner.now + self.owner.settings.stop
        self._down(reason)

    def send_stopccrp(self, message: Message) -> None:
        self.send("StopCCRP", result=OK)

    def stopped(self, message: Message) -> None:
        words = STOP_REASONS.get(message.values["reason"], f"reason {message.values['reason']}")
        self._down(Reason("tunnel", "cleared", f"the peer ended the connection: {words}"))

    def down(self, reason: Reason, why: int = NONE) -> None:
        self._down(reason)

    def _down(self, reason: Reason) -> None:
        why = Reason("call", f"tunnel-{reason.code}", reason.text)
        for call in list(self.calls.values()):
            call.state = "idle"
            call.down(why)
        self.pending.clear()
        self.owner.emit(ConnectionDown(self.number, self.path, reason))

    # -- out

    def _greeting(self) -> dict[str, Any]:
        """What an SCCRQ and an SCCRP say of us. Channels are a PAC's matter, and ours has no number of them."""
        settings = self.owner.settings
        return {"protocol_version": VERSION, "framing_capabilities": FRAMINGS, "bearer_capabilities": BEARERS,
                "maximum_channels": 0xFFFF, "firmware_revision": 1, "host_name": settings.host_name, "vendor_name": settings.vendor_name}

    def send(self, name: str, **values: Any) -> None:
        self.owner.transmit(self, encode(name, **values))

    def serial(self) -> int:
        """Of a call, for the logs of both sides (section 2.7)."""
        self._serial = (self._serial + 1) & 0xFFFF
        return self._serial

    # -- calls

    def place(self, call: Call) -> None:
        """A call of our own; before the connection is established it waits."""
        self.add(call)
        self.wait_for(call, self.owner.settings.setup)
        call.fire("Open")
        if self.state == "established":
            call.fire("Connected")

    def add(self, call: Call) -> None:
        self.calls[call.call_id] = call
        if self.state == "established":
            self._expires = inf

    def know(self, call: Call) -> None:
        """The peer's id of a call is known."""
        assert call.peer_call_id is not None
        self.peers[call.pac, call.peer_call_id] = call

    def forget(self, call: Call) -> None:
        del self.calls[call.call_id]
        if call.peer_call_id is not None and self.peers.get((call.pac, call.peer_call_id)) is call:
            del self.peers[call.pac, call.peer_call_id]
        if not self.calls and self.state == "established":
            self._expires = self.owner.now + self.owner.settings.idle

    def wait_for(self, call: Call, seconds: float) -> None:
        """An answer of the peer's to something of this call."""
        call.until = self.owner.now + seconds
        heappush(self.pending, (call.until, call.call_id, call))

    # -- time

    def deadline(self) -> float:
        due = min(self._expires, self.pending[0][0] if self.pending else inf)
        if self.state == "established":
            due = min(due, self._echo_until, self.heard_at + self.owner.settings.echo if self._echo_until == inf else inf)
        return due

    def tick(self, now: float) -> None:
        """Give up what takes too long, and ask a silent peer whether it is there."""
        while self.pending and self.pending[0][0] <= now:
            until, _, call = heappop(self.pending)
            if call.until == until and self.calls.get(call.call_id) is call:        # else it was answered
                if call.state == "wait-disconnect":
                    call.fire("Late")
                else:
                    reason = Reason("call", "timeout", f"the call was not established in time, state {call.state}")
                    call.fire("Close", reason, GENERAL_ERROR, NO_RESOURCE)
        if self._expires <= now:
            if self.state == "wait-stop-reply":
                self.fire("Late")
            elif self.state == "established":
                self.fire("Close", Reason("tunnel", "idle", "there is no call"))
            else:
                self.fire("Lost", Reason("tunnel", "timeout", f"the connection was not established in time, state {self.state}"))
        elif self.state == "established":
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        """Section 3.1.4. Data shows as well that the peer lives; whether the first few calls had some tells enough."""
        settings, data_heard = self.owner.settings, self.owner.data_heard
        if self._echo_until <= now:
            self.fire("Lost", Reason("tunnel", "timeout", "the peer does not answer"))
        elif self._echo_until == inf and self.heard_at + settings.echo <= now:
            if data_heard is not None:
                self.heard_at = max(self.heard_at, *(min(data_heard(self.path.peer, call), now) for call in islice(self.calls, 4)), 0.0)
            if self.heard_at + settings.echo <= now:
                self._echo = (self._echo + 1) & 0xFFFFFFFF
                self._echo_until = now + settings.echo
                self.send("Echo-Request", identifier=self._echo)
