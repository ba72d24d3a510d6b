"""One L2TP call: a session from ICRQ to CDN (RFC 2661 section 7.4), both roles.

We are called (LNS) or place calls of our own (LAC); an outgoing call, which the LNS would ask of a
LAC, is refused by the tunnel before there is a Call.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .avp import BAD_VALUE, PROXY, Cause, Disconnect, Fault, Message, ResultCode
from .l2tpevents import CallDown, CallOpening, CallUp, LineErrors, LinkInfo, Path
from .reason import Reason
from .statetable import parse

if TYPE_CHECKING:
    from .l2tptunnel import Tunnel

# An event with - after it is a message that is not acceptable, "Tunnel" that the tunnel is open.
CALL = parse("""
    idle           Open      -                     wait-tunnel
    idle           ICRQ      send_icrp             wait-connect
    wait-tunnel    Tunnel    send_icrq             wait-reply
    wait-reply     ICRP      connect               established
    wait-reply     ICRP-     refuse                idle
    wait-connect   ICCN      connected             established
    wait-connect   ICCN-     refuse                idle
    *              WEN       line_errors           =
    *              WEN-      refuse                idle
    *              SLI       link_info             =
    *              SLI-      refuse                idle
    wait-tunnel    Close     down                  idle
    *              Close     send_cdn,down         idle
    *              CDN       disconnected          idle
""")
FRAMING_SYNC = 1

# Result codes of a CDN (section 4.4.2).
CDN_RESULTS = {1: "loss of carrier", 2: "an error", 3: "administrative reasons", 4: "no facilities, for now", 5: "no facilities",
               6: "invalid destination", 7: "no carrier", 8: "busy", 9: "no dial tone", 10: "not established in time",
               11: "no framing detected"}


def spell(result: ResultCode, names: dict[int, str]) -> str:
    """A result code in words."""
    words = names.get(result.result, f"result {result.result}")
    if result.error:
        words += f", error {result.error}"
    return f"{words}: {result.text}" if result.text else words


class Call:
    """One call of a tunnel."""

    __slots__ = ("details", "path", "peer_session_id", "session_id", "state", "tunnel")

    def __init__(self, tunnel: Tunnel, session_id: int, path: Path, peer_session_id: int = 0,
                 details: dict[str, Any] | None = None) -> None:
        self.tunnel = tunnel
        self.session_id = session_id
        self.peer_session_id = peer_session_id
        self.path = path
        self.state = "idle"
        self.details = details          # what the CallUp will say; None once it is said

    def fire(self, event: str, *args: Any) -> None:
        """Follow the table; what is not in it is an improper sequence, and ends the call."""
        row = CALL.get((self.state, event))
        if row is None:
            self.fire("Close", Reason("call", "protocol", f"{event} in state {self.state}"), 2, BAD_VALUE)
            return
        self.state = row[1]
        for action in row[0]:
            getattr(self, action)(*args)

    def receive(self, message: Message, path: Path) -> None:
        """A message of this call."""
        if message.fault and message.name != "CDN":
            self.fire(message.name + "-", message, path)
        else:
            self.fire(message.name, message, path)

    # -- what the table's rows do

    def send_icrq(self) -> None:
        d = self.details or {}
        values = {"assigned_session_id": self.session_id, "call_serial_number": self.tunnel.owner.serial_number()}
        values |= {name: d[name] for name in ("calling_number", "called_number") if d[name]}
        self._send("ICRQ", values)

    def send_icrp(self) -> None:
        self._opening()
        self._send("ICRP", {"assigned_session_id": self.session_id})

    def connect(self, message: Message, path: Path) -> None:
        """The LNS answered: tell it the rest, and the call is established."""
        peer = message.values["assigned_session_id"]
        if not peer:
            self.refuse(message, path)
            return
        self.peer_session_id, self.path = peer, self.tunnel.share(path)
        self._opening()
        d = self.details or {}
        values = {"tx_connect_speed": d["tx_speed"], "framing_type": d["framing"], **d["proxy"]}
        if d["sequencing"]:
            values["sequencing_required"] = True
        self._send("ICCN", values)
        self._up(d, d["tx_speed"], d["framing"], d["sequencing"], d["proxy"])

    def connected(self, message: Message, path: Path) -> None:
        v = message.values
        sequencing = "sequencing_required" in v or self.tunnel.owner.settings.sequencing
        proxy = {name: v[name] for name in PROXY if name in v} if len(v) > 3 else {}
        self._up(self.details or {}, v["tx_connect_speed"], v["framing_type"], sequencing, proxy)

    def refuse(self, message: Message, path: Path) -> None:
        """The message is not acceptable: the call ends (sections 4.2 and 7.1)."""
        self.state = "idle"
        self.peer_session_id = self.peer_session_id or message.values.get("assigned_session_id", 0)
        error, text, _ = message.fault or Fault(BAD_VALUE, "session id 0")
        reason = Reason("call", "malformed", f"{message.name}: {text}")
        self.send_cdn(reason, 2, error)
        self.down(reason)

    def disconnected(self, message: Message, path: Path) -> None:
        """CDN: the peer's words, the causes of Q.931 and of PPP (RFC 3145) among them."""
        v = message.values
        result: ResultCode | None = v.get("result_code")
        text = spell(result, CDN_RESULTS) if result else "no result code"
        q931: Cause | None = v.get("q931_cause")
        ppp: Disconnect | None = v.get("ppp_disconnect_cause")
        if q931:
            text += f", Q.931 cause {q931.code} {q931.text}".rstrip()
        if ppp:
            text += f", PPP disconnect cause {ppp.code} {ppp.text}".rstrip()
        self.down(Reason("call", "cleared", f"the peer ended the call: {text}"), by_peer=True)

    def line_errors(self, message: Message, path: Path) -> None:
        self.tunnel.owner.emit(LineErrors(self.tunnel.tunnel_id, self.session_id, message.values["call_errors"]))

    def link_info(self, message: Message, path: Path) -> None:
        self.tunnel.owner.emit(LinkInfo(self.tunnel.tunnel_id, self.session_id, *message.values["accm"]))

    def send_cdn(self, reason: Reason, result: int = 3, error: int = 0) -> None:
        self._send("CDN", {"result_code": ResultCode(result, error, reason.text), "assigned_session_id": self.session_id})

    def down(self, reason: Reason, result: int = 0, error: int = 0, by_peer: bool = False) -> None:
        tunnel = self.tunnel
        del tunnel.calls[self.session_id]
        tunnel.owner.emit(CallDown(tunnel.tunnel_id, self.session_id, reason, by_peer))
        tunnel.owner.ids.give_session(tunnel.tunnel_id, self.session_id)

    # -- helpers of the above

    def _send(self, name: str, values: dict[str, Any]) -> None:
        self.tunnel.send(name, values, self.peer_session_id)

    def _opening(self) -> None:
        t = self.tunnel
        t.owner.emit(CallOpening(t.tunnel_id, self.session_id, t.peer_tunnel_id, self.peer_session_id, self.path))

    def _up(self, details: dict[str, Any], tx_speed: int, framing: int, sequencing: bool, proxy: dict[str, Any]) -> None:
        t = self.tunnel
        t.owner.emit(CallUp(t.tunnel_id, self.session_id, t.peer_tunnel_id, self.peer_session_id, self.path,
                            details.get("calling_number", ""), details.get("called_number", ""),
                            tx_speed, framing, sequencing, proxy))
        self.details = None
