"""One L2TP tunnel: its control connection (RFC 2661 sections 5.1, 7.2) and its calls, both roles.

A datagram that the endpoint found to be ours comes in by `receive`: acknowledgments first, then the
messages that are in order, each through the state table; then `flush` sends what is due, and an
empty message (ZLB) if nothing else carries the acknowledgment.
"""
from __future__ import annotations

from collections import deque
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any

from . import avp
from .avp import BAD_SESSION, BAD_VALUE, NO_RESOURCES, Fault, Message, ResultCode
from .l2tpcall import Call, spell
from .l2tpevents import STATES, Path, TunnelDown, TunnelState, TunnelUp
from .l2tpgreeting import NOT_AUTHORIZED, STATE_ERROR, STOP_RESULTS, Refusal, check_greeting, check_response, faulty, greeting
from .reason import Reason
from .reliable import NEVER, Reliable
from .statetable import parse

if TYPE_CHECKING:
    from .l2tp import Endpoint

# An event with - after it is a message that is not acceptable.
TUNNEL = parse("""
    idle             Open     send_sccrq            wait-ctl-reply
    idle             SCCRQ    send_sccrp            wait-ctl-conn
    wait-ctl-reply   SCCRP    send_scccn,up         established
    wait-ctl-reply   SCCRP-   refuse                closing
    wait-ctl-conn    SCCCN    up                    established
    wait-ctl-conn    SCCCN-   refuse                closing
    *                Hello    -                     =
    *                Hello-   refuse                closing
    *                Close    stop                  closing
    *                StopCCN  stopped               closing
""")
HEADER = Struct("!HHHHHH")              # flags and version, length, tunnel id, session id, Ns, Nr (section 3.1)
TUNNEL_ID = 4                           # its offset there
CONTROL = 0xC802                        # T, L and S are set, version 2
CALL_MESSAGES = frozenset(("OCRQ", "OCRP", "OCCN", "ICRQ", "ICRP", "ICCN", "CDN", "WEN", "SLI"))


class Tunnel:
    """One control connection and its calls; `owner` is the endpoint."""

    __slots__ = ("_challenge", "_expires", "_peer_challenge", "armed", "born", "calls", "fingerprint", "heard_at", "host_name",
                 "key", "opening", "owner", "path", "peer_tunnel_id", "reliable", "secret", "serial", "state", "tie_breaker",
                 "tunnel_id", "vendor_name")

    def __init__(self, owner: Endpoint, tunnel_id: int, path: Path, now: float, secret: bytes) -> None:
        settings = owner.settings
        self.owner = owner
        self.tunnel_id, self.peer_tunnel_id = tunnel_id, 0
        self.path = path
        self.state = "idle"
        self.reliable = Reliable(settings.timing, settings.receive_window)
        self.calls: dict[int, Call] = {}
        self.opening: deque[tuple[float, int]] | None = None    # calls being established: (until when, session id)
        self.secret = secret
        self.host_name = self.vendor_name = ""                  # ours until the peer's are known
        self.tie_breaker = b""
        self.key: tuple[bytes, int, int] | None = None          # what a retransmitted SCCRQ is known by,
        self.fingerprint = 0                                    # ... and its content
        self.born = self.heard_at = now
        self.armed = NEVER                                      # when the endpoint's heap wakes us
        self.serial = 0
        self._challenge = self._peer_challenge = b""
        self._expires = now + settings.setup

    def fire(self, event: str, *args: Any) -> None:
        """Follow the table; what is not in it is an improper sequence, and ends the tunnel."""
        row = TUNNEL.get((self.state, event))
        if row is None:
            self.fire("Close", Reason("tunnel", "protocol", f"{event} in state {self.state}"), STATE_ERROR, 0)
            return
        self._enter(row[1])
        for action in row[0]:
            getattr(self, action)(*args)

    def _enter(self, state: str) -> None:
        was, self.state = self.state, state
        if was != state:
            self.owner.moved(self, was)

    # -- in

    def receive(self, path: Path, session_id: int, ns: int, nr: int, body: bytes, now: float) -> None:
        """A control message of this tunnel; an empty body is a ZLB."""
        reliable = self.reliable
        self.heard_at = now
        if not reliable.acknowledge(nr, now):
            self.owner.ignore("bad_ack", path, f"Nr {nr} acknowledges what was never sent", now)
        if body:
            items, verdict = reliable.receive(ns, (path, session_id, body))
            if verdict:
                self.owner.counts[verdict] += 1
            for where, session, content in items:
                self._message(where, session, content, now)
        self.flush(now)

    def _message(self, path: Path, session_id: int, body: bytes, now: float) -> None:
        if self.state == "closing":
            # All that is left to do is to acknowledge. A StopCCN means that the peer waits for nothing more,
            # an SCCRP to a tunnel that we gave up tells where our StopCCN must go.
            message = avp.decode(body, self.secret)
            if message.name == "StopCCN":
                self.reliable.abandon()
            elif message.name == "SCCRP" and not self.peer_tunnel_id:
                self.peer_tunnel_id = message.values.get("assigned_tunnel_id", 0)
                self.reliable.patch(TUNNEL_ID, self.peer_tunnel_id.to_bytes(2))
            return
        message = avp.decode(body, self.secret)
        name = message.name
        if message.ignored:
            self.owner.counts["ignored_avp"] += len(message.ignored)
        if name in CALL_MESSAGES:
            self._call_message(path, session_id, message, now)
        elif not name:
            # A message of unknown type may be passed over when its M bit is clear (section 4.4.1).
            if message.type and not message.mandatory:
                self.owner.ignore("unknown_message", path, f"message type {message.type} is unknown", now)
            else:
                self._refuse(message)
        elif name == "StopCCN":
            self.fire(name, message, now)
        else:
            try:
                if name == "SCCRP" and self.state == "wait-ctl-reply":
                    self.path = path            # the answer may come from another port; there it stays (section 8.1)
                    self.accept(message)
                elif message.fault:
                    raise faulty(message)
                if self._challenge and name in ("SCCRP", "SCCCN"):
                    check_response(message, self.secret, self._challenge)
                    self._challenge = b""
            except Refusal as refusal:
                self.fire(name + "-", message, refusal)
            else:
                self.fire(name, message)

    def accept(self, message: Message) -> None:
        """Take what an SCCRQ or SCCRP says of the peer, or raise Refusal."""
        v = message.values
        self.peer_tunnel_id = v.get("assigned_tunnel_id", 0)    # first: a refusal must be addressed
        self.reliable.open_window(check_greeting(message, self.secret))
        self._peer_challenge = v.get("challenge", b"")
        self.host_name, self.vendor_name = v["host_name"], v.get("vendor_name", "")

    def _call_message(self, path: Path, session_id: int, message: Message, now: float) -> None:
        name, fault = message.name, message.fault
        peer = message.values.get("assigned_session_id", 0)
        call = self.calls.get(session_id)
        if call is None and name == "CDN" and peer and not session_id:
            # The peer gave up before it knew our id (section 4.4.4).
            call = next((c for _, n in self.opening or () if (c := self.calls.get(n)) and c.peer_session_id == peer), None)
        if call is not None:
            call.receive(message, path)
        elif name == "ICRQ":
            self._incoming_call(path, peer, message, now)
        elif name == "OCRQ":
            self._refuse_call(peer, "we place no calls", 5, 0)
        elif name == "ICRP":
            self._refuse_call(peer, "no such session", 2, BAD_SESSION)
        else:
            self.owner.ignore("unknown_session", path, f"{name} for session {session_id}{': ' + fault.text if fault else ''}", now)

    def _incoming_call(self, path: Path, peer: int, message: Message, now: float) -> None:
        owner = self.owner
        if self.state != "established":
            self._refuse_call(peer, "the tunnel is not established", 2, 1)
            return
        if message.fault or not peer:
            error, text, _ = message.fault or Fault(BAD_VALUE, "session id 0")
            owner.ignore("refused_call", path, f"ICRQ: {text}", now)
            self._refuse_call(peer, text, 2, error)
            return
        room = len(self.calls) < owner.settings.sessions_per_tunnel
        session_id = owner.ids.take_session(self.tunnel_id, path.peer) if room else None
        if session_id is None:
            owner.ignore("refused_call", path, "ICRQ: no room for another session", now)
            self._refuse_call(peer, "no room for another session", 4, NO_RESOURCES)
            return
        v = message.values
        call = Call(self, session_id, self.share(path), peer,
                    {"calling_number": v.get("calling_number", ""), "called_number": v.get("called_number", "")})
        self._add(call, now)
        call.fire("ICRQ")

    def _refuse_call(self, peer_session_id: int, text: str, result: int, error: int) -> None:
        """End a call that we never had. Without the peer's id there is no call to end."""
        if peer_session_id:
            self.send("CDN", {"result_code": ResultCode(result, error, text), "assigned_session_id": 0}, peer_session_id)

    # -- what the table's rows do

    def send_sccrq(self) -> None:
        values = self._greeting()
        if self.tie_breaker:
            values["tie_breaker"] = self.tie_breaker
        self.send("SCCRQ", values)

    def send_sccrp(self, message: Message) -> None:
        self.send("SCCRP", self._greeting() | self._answer(2))

    def send_scccn(self, message: Message) -> None:
        self.send("SCCCN", self._answer(3))

    def up(self, message: Message) -> None:
        self._expires = NEVER
        self.owner.emit(TunnelUp(self.tunnel_id, self.path, self.host_name, self.vendor_name, self.peer_tunnel_id))
        for call in list(self.calls.values()):
            call.fire("Tunnel")

    def refuse(self, message: Message, refusal: Refusal) -> None:
        self.stop(refusal.reason, refusal.result, refusal.error)

    def stop(self, reason: Reason, result: int, error: int) -> None:
        """Say StopCCN, ahead of what was not sent yet, and forget the calls: it ends them all."""
        self.reliable.withdraw()
        self.send("StopCCN", {"assigned_tunnel_id": self.tunnel_id, "result_code": ResultCode(result, error, reason.text)})
        self._down(reason, False)

    def stopped(self, message: Message, now: float) -> None:
        result: ResultCode | None = message.values.get("result_code")
        text = spell(result, STOP_RESULTS) if result else "no result code"
        if result and result.result == NOT_AUTHORIZED:
            reason = Reason("tunnel", "auth", f"the peer refused the tunnel: {text}")
        else:
            reason = Reason("tunnel", "cleared", f"the peer ended the tunnel: {text}")
        self.peer_tunnel_id = self.peer_tunnel_id or message.values.get("assigned_tunnel_id", 0)
        self.reliable.abandon()
        self._down(reason, True)

    def _refuse(self, message: Message) -> None:
        refusal = faulty(message)
        self.fire("Close", refusal.reason, refusal.result, refusal.error)

    def _down(self, reason: Reason, by_peer: bool) -> None:
        self._expires = NEVER
        why = Reason("call", f"tunnel-{reason.code}", reason.text)
        for call in list(self.calls.values()):
            call.state = "idle"
            call.down(why, by_peer=by_peer)
        self.opening = None
        self.owner.emit(TunnelDown(self.tunnel_id, self.path, reason))

    # -- out

    def _greeting(self) -> dict[str, Any]:
        """What an SCCRQ and an SCCRP say of us."""
        values = greeting(self.owner.settings, self.tunnel_id)
        if self.secret and self.owner.settings.require_secret:
            self._challenge = values["challenge"] = self.owner.random(16)
        return values

    def _answer(self, message: int) -> dict[str, Any]:
        if not self._peer_challenge:
            return {}
        challenge, self._peer_challenge = self._peer_challenge, b""
        return {"challenge_response": avp.response(message, self.secret, challenge)}

    def send(self, name: str, values: dict[str, Any], session_id: int = 0) -> None:
        """Queue a message; `flush` sends it."""
        # Not before the tunnel is open: xl2tpd looks its secret up when it answers a challenge, and what
        # deserves hiding comes later, in the calls.
        hide = self.secret and self.state == "established" and self.owner.settings.hide
        vector = self.owner.random(16) if hide else b""
        body = avp.encode(name, values, self.secret, vector)
        self.reliable.send(bytearray(HEADER.pack(CONTROL, 12 + len(body), self.peer_tunnel_id, session_id, 0, 0) + body))

    def flush(self, now: float) -> None:
        """Send what the windows allow and acknowledge what is due; called after every input."""
        reliable, owner = self.reliable, self.owner
        for datagram in reliable.flush(now):
            owner.transmit(self.path, datagram)
        if reliable.ack_due:
            reliable.ack_due = False
            owner.transmit(self.path, HEADER.pack(CONTROL, 12, self.peer_tunnel_id, 0, reliable.ns, reliable.nr))
        if self.state == "closing" and self._expires == NEVER and reliable.idle:
            # Acknowledgments of ours may be lost still (section 5.8).
            self._expires = now + owner.settings.timing.cycle
        owner.touch(self)

    # -- calls of our own, and time

    def place(self, call: Call, now: float) -> None:
        """A call of our own; before the tunnel is established it waits."""
        self._add(call, now)
        call.fire("Open")
        if self.state == "established":
            call.fire("Tunnel")

    def _add(self, call: Call, now: float) -> None:
        self.calls[call.session_id] = call
        if self.opening is None:
            self.opening = deque()
        self.opening.append((now + self.owner.settings.setup, call.session_id))
        if len(self.opening) > 64 and len(self.opening) > 2 * len(self.calls):
            self._settle(now)

    def share(self, path: Path) -> Path:
        """The tunnel's own object for an equal path: sixty thousand calls need not keep their own."""
        return self.path if path == self.path else path

    def _settle(self, now: float) -> None:
        """Give up calls that take too long, and forget of those that came up or went."""
        while self.opening:
            until, session_id = self.opening[0]
            call = self.calls.get(session_id)
            if call is not None and call.state != "established":
                if until > now:
                    return
                call.fire("Close", Reason("call", "timeout", f"the call was not established in time, state {call.state}"), 10, 0)
            self.opening.popleft()
        self.opening = None

    def deadline(self) -> float:
        due = min(self.reliable.due, self._expires)
        if self.opening:
            due = min(due, self.opening[0][0])
        if self.state == "established" and self.reliable.idle:
            due = min(due, self.heard_at + self.owner.settings.hello)
        return due

    def tick(self, now: float) -> None:
        """Retransmit, say HELLO, give up."""
        if not self.reliable.tick(now):
            self.lose()
            return
        if self._expires <= now:
            if self.state == "closing":
                self.owner.forget(self)
                return
            self.fire("Close", Reason("tunnel", "timeout", f"the tunnel was not established in time, state {self.state}"), 1, 0)
        if self.opening and self.opening[0][0] <= now:
            self._settle(now)
        if self._silent(now):
            self._ask_for_data(now)
            if self._silent(now):
                self.send("Hello", {})
        self.flush(now)

    def _silent(self, now: float) -> bool:
        return self.state == "established" and self.reliable.idle and now >= self.heard_at + self.owner.settings.hello

    def _ask_for_data(self, now: float) -> None:
        """Data shows as well that the peer lives (section 6.5); whether the first few sessions had some tells enough."""
        data_heard = self.owner.data_heard
        if data_heard is not None:
            self.heard_at = max(self.heard_at, *(min(data_heard(self.tunnel_id, session), now) for session in islice(self.calls, 4)), 0.0)

    def lose(self) -> None:
        """The peer answers no more: nothing is left to say."""
        if self.state != "closing":
            self._enter("closing")
            self._down(Reason("tunnel", "timeout", "the peer does not answer"), False)
        self.owner.forget(self)

    def discard(self, reason: Reason) -> None:
        """Vanish without a word, as the loser of a tie does (section 4.4.3)."""
        self._enter("closing")
        self._down(reason, True)
        self.owner.forget(self)

    def snapshot(self) -> TunnelState:
        r = self.reliable
        return TunnelState(self.tunnel_id, self.peer_tunnel_id, self.path, r.ns, r.nr, r.acked, STATES.index(self.state))

    def resume(self, state: TunnelState, reason: Reason, result: int) -> None:
        """Take over a tunnel of a former life to end it: one StopCCN for each number that the peer may
        expect. It takes that one; the others are duplicates to it, or too late."""
        settings = self.owner.settings
        self.reliable = Reliable(settings.timing, settings.receive_window, state.acked, state.nr)
        numbers = min((state.ns - state.acked & 0xFFFF) + 1, 0x100)
        self.reliable.window = self.reliable.cwnd = self.reliable.ssthresh = numbers
        self.state, self.peer_tunnel_id, self._expires = "closing", state.peer_tunnel_id, NEVER
        for _ in range(numbers):
            self.send("StopCCN", {"assigned_tunnel_id": self.tunnel_id, "result_code": ResultCode(result, 0, reason.text)})
