"""PPPoE discovery (RFC 2516 section 5, RFC 4638), access concentrator and host.

    host                      concentrator
     PADI, broadcast    ->    answered by a worker, which keeps nothing: its PADO carries an AC-Cookie
     PADR, the cookie   ->    reaches the endpoint when the cookie is right: an id, CallOpening, CallUp
                        <-    PADS
     PADT                     either side, at any time, without an answer

Both roles are always there: `dial` makes it a host, a PADR that arrives an access concentrator. Packets begin behind the Ethernet
header; a Path's peer and local are stations (mac.py), and tags come back as they were (`Host-Uniq`, `Relay-Session-Id`). Its user
drains `events()`, then sends `outgoing()`: (Path, packet).
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol

from . import mac, tags
from .address import Path
from .machine import Machine
from .reason import Reason
from .statetable import parse
from .tags import Discovery

PPPOE_MRU = 1492                        # RFC 2516 section 7: what fits in Ethernet's 1500 octets
REPEATED = 60.0                         # so long after it a PADR with the same tags is a repetition
NO_SESSION = 0xFFFF                     # an id that RFC 2516 reserves

# A host's way to a session; an event with - after it carries an error, "Timeout" is ours, "Late" that we asked often enough.
HOST = parse("""
    idle         Open     send_padi           wait-pado
    wait-pado    PADO     take_offer          wait-pads
    wait-pado    PADO-    other_offer         =
    wait-pado    Timeout  send_padi           =
    wait-pado    Late     unanswered          idle
    wait-pads    PADS     connected           established
    wait-pads    PADS-    refused             idle
    wait-pads    Timeout  send_padr           =
    wait-pads    Late     unanswered          idle
    established  PADT     terminated          idle
    established  Close    send_padt,closed    idle
    *            Close    closed              idle
""")
# An access concentrator's: "Repeat" is the PADR that we answered already.
CONCENTRATOR = parse("""
    idle         PADR     send_pads,opened    established
    established  Repeat   send_pads           =
    established  PADT     terminated          idle
    established  Close    send_padt,closed    idle
""")


@dataclass(frozen=True, slots=True)
class Offer:
    """A service of ours on one interface."""
    name: str                           # how people call it
    ac_name: bytes = b"headrace"
    max_sessions: int = 0               # 0: as many as the concentrator takes
    one_session_per_host: bool = False
    max_payload: int = PPPOE_MRU        # the largest that its interface carries (RFC 4638)


@dataclass(slots=True)
class Settings:
    """How a host behaves; times in seconds."""
    wait: float = 1.0                   # for the first answer; doubled after each repetition (RFC 2516 section 8)
    tries: int = 5


class Ids(Protocol):
    """Where session ids come from, unique in a network; they must not be handed out again soon."""
    def take_call(self, network: bytes, station: bytes) -> int | None: ...      # for which host there
    def give_call(self, network: bytes, session_id: int) -> None: ...


@dataclass(frozen=True, slots=True)
class CallOpening:
    """The session id is known; the peer hears of it after this. Data may arrive from now on."""
    session_id: int
    path: Path
    service: str                        # Offer.name; the host's: what it asked for
    max_payload: int                    # the largest PPP payload, agreed on by both sides
    circuit_id: bytes                   # of TR-101, b"" when the line has none
    remote_id: bytes
    rate: int = 0                       # and its bits a second down, 0: not told


@dataclass(frozen=True, slots=True)
class CallUp:
    """The session stands: PPP begins."""
    call: CallOpening


@dataclass(frozen=True, slots=True)
class CallDown:
    """It is gone; `call` is None when a host's never came up."""
    handle: int                         # what `dial` returned; 0: a session of the concentrator's
    call: CallOpening | None
    reason: Reason
    by_peer: bool


class Call:
    """One session, or a host's way to one."""

    __slots__ = ("answer", "due", "handle", "offer", "opening", "owner", "path", "state", "table", "tries", "values", "wait")

    def __init__(self, owner: Endpoint, path: Path, table: dict[tuple[str, str], Any], handle: int = 0) -> None:
        self.owner, self.path, self.table, self.handle = owner, path, table, handle
        self.state = "idle"
        self.opening: CallOpening | None = None
        self.offer: Offer | None = None
        self.values: dict[str, Any] = {}        # host: the tags of what we send; concentrator: those of the PADS
        self.answer: tuple[bytes, ...] = ()     # concentrator: by what a repetition is known
        self.tries, self.wait = 0, 0.0
        self.due: float | None = None

    def fire(self, event: str, *args: Any) -> bool:
        """Follow the table; whether there was a row. What has none is no news: discovery has no improper sequence but what is late."""
        row = self.table.get((self.state, event))
        if row is None:
            return False
        self.state = row[1]
        for action in row[0]:
            getattr(self, action)(*args)
        return True

    def send(self, name: str, session_id: int, values: dict[str, Any], path: Path | None = None) -> None:
        self.owner.transmit(path or self.path, tags.encode(name, session_id, values))

    # -- both

    def send_padt(self, *_: Any) -> None:
        assert self.opening
        self.send("PADT", self.opening.session_id, {})

    def closed(self, reason: Reason, *_: Any, by_peer: bool = False) -> None:
        self.owner.gone(self, reason, by_peer)

    def terminated(self, packet: Discovery, now: float) -> None:
        text = next((packet.values[name].decode("utf-8", "replace") for name in tags.ERRORS if packet.values.get(name)), "")
        self.closed(Reason("call", "cleared", f"the peer ended the session{': ' + text if text else ''}"), by_peer=True)

    # -- host

    def send_padi(self, now: float) -> None:
        self._again(now)
        path = self.path._replace(peer=self.path.peer[:mac.NETWORK] + mac.BROADCAST)
        self.send("PADI", 0, self.values, path)

    def take_offer(self, packet: Discovery, path: Path, now: float) -> None:
        self.path = path
        for name in ("ac_cookie", "relay_session_id"):
            if name in packet.values:
                self.values[name] = packet.values[name]
        if "max_payload" not in packet.values:
            self.values.pop("max_payload", None)        # RFC 4638 section 4: not echoed, not supported
        self.tries = 0
        self.send_padr(now)

    def other_offer(self, packet: Discovery, path: Path, now: float) -> None:
        self.owner.counts["other_offer"] += 1

    def send_padr(self, now: float) -> None:
        self._again(now)
        self.send("PADR", 0, self.values)

    def connected(self, packet: Discovery, path: Path, now: float) -> None:
        self.due = None
        asked = self.values.get("max_payload", PPPOE_MRU)
        self.opening = CallOpening(packet.session_id, self.path, self.values["service_name"].decode("utf-8", "replace"),
                                   max(PPPOE_MRU, min(asked, packet.values.get("max_payload", PPPOE_MRU))), b"", b"")
        self.owner.established(self)

    def refused(self, packet: Discovery, path: Path, now: float) -> None:
        for name in tags.ERRORS:
            if name in packet.values:
                text = packet.values[name].decode("utf-8", "replace")
                self.closed(Reason("call", name.removesuffix("_error").replace("_", "-"),
                                   f"the concentrator refused: {name.replace('_', '-')}{' ' + text if text else ''}"), by_peer=True)
                return
        self.closed(Reason("call", "malformed", f"PADS: {packet.fault or f'session id {packet.session_id}'}"), by_peer=True)

    def unanswered(self, now: float) -> None:
        asked = "PADI" if self.path.peer[mac.NETWORK:] == mac.BROADCAST else "PADR"
        self.closed(Reason("call", "timeout", f"nobody answered our {asked}"))

    def _again(self, now: float) -> None:
        self.wait = self.owner.settings.wait if self.tries == 0 else 2 * self.wait
        self.tries += 1
        self.due = now + self.wait
        self.owner.arm(self)

    # -- concentrator

    def send_pads(self, *_: Any) -> None:
        assert self.opening
        self.send("PADS", self.opening.session_id, self.values)

    def opened(self, *_: Any) -> None:
        self.owner.established(self)


class Endpoint(Machine):
    """All sessions of an access concentrator, or of a load generator's hosts. `offer(path, service name)` says which of our services
    a host on that interface may have under the name it asks for; `random(n)` gives n random octets."""

    def __init__(self, settings: Settings, ids: Ids, random: Callable[[int], bytes],
                 offer: Callable[[Path, bytes], Offer | None] = lambda path, name: None) -> None:
        super().__init__()
        self.settings, self.ids, self.random, self.offer = settings, ids, random, offer
        self.counts: defaultdict[str, int] = defaultdict(int)                   # drops, by name
        self.stopping = False
        self._calls: dict[tuple[bytes, int], Call] = {}                         # established, by network and session id
        self._hosts: defaultdict[tuple[int, bytes], set[Call]] = defaultdict(set)   # the concentrator's, by port and peer
        self._answered: dict[tuple[bytes, ...], tuple[float, Call]] = {}        # oldest first: by what a repeated PADR says again
        self._dialling: dict[bytes, Call] = {}                                  # a host's, by Host-Uniq
        self._handles: dict[int, Call] = {}
        self._sessions: defaultdict[str, int] = defaultdict(int)                # the concentrator's, by Offer.name
        self._heap: list[tuple[float, int, Call]] = []
        self._serial = 0

    def __len__(self) -> int:
        """Sessions of both roles."""
        return len(self._calls)

    @property
    def settled(self) -> bool:
        """All goodbyes were heard, or given up: nobody answers a PADT."""
        return True

    # -- in

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """One discovery packet. A PADR is only for us when a worker found its cookie to be ours; a PADI is the worker's."""
        packet = tags.decode(data)
        if not packet.name or (packet.fault and packet.name != "PADS"):
            self.counts["malformed"] += 1
        elif packet.name == "PADT":
            self._terminate(path, packet, now)
        elif packet.name == "PADR":
            self._request(path, packet, now)
        elif packet.name in ("PADO", "PADS"):
            self._answer(path, packet, now)
        else:
            self.counts["padi"] += 1

    def _terminate(self, path: Path, packet: Discovery, now: float) -> None:
        call = self._calls.get((mac.network(path.peer, path.port), packet.session_id))
        if call is None or call.path.peer != path.peer:
            self.counts["unknown_session"] += 1
        else:
            call.fire("PADT", packet, now)

    def _answer(self, path: Path, packet: Discovery, now: float) -> None:
        """PADO or PADS to a host of ours."""
        call = self._dialling.get(packet.values.get("host_uniq", b""))
        if call is None or path.peer[:mac.NETWORK] != call.path.peer[:mac.NETWORK] or path.local != call.path.local:
            self.counts["no_host"] += 1
            return
        values, wanted = packet.values, call.values["service_name"]
        if packet.name == "PADO":
            bad = any(name in values for name in tags.ERRORS) or "ac_name" not in values or (wanted and wanted not in packet.service_names)
        else:
            if path.peer != call.path.peer:
                self.counts["no_host"] += 1
                return
            bad = bool(packet.fault) or packet.session_id in (0, NO_SESSION) or any(name in values for name in tags.ERRORS)
        call.fire(packet.name + ("-" if bad else ""), packet, path, now)

    def _request(self, path: Path, packet: Discovery, now: float) -> None:
        """PADR: a session, the same one again, or the word why not (RFC 2516 section 5.4)."""
        values = packet.values
        if "service_name" not in values:
            self.counts["malformed"] += 1
            return
        key = (bytes((path.port,)), path.peer, *(values.get(name, b"") for name in ("service_name", "host_uniq", "ac_cookie")))
        self._forget(now)
        _, known = self._answered.get(key, (0.0, None))
        if known is not None:
            known.fire("Repeat", packet, now)
            return
        offer = None if self.stopping else self.offer(path, values["service_name"])
        answer: dict[str, Any] = {name: values[name] for name in ("service_name", "host_uniq", "relay_session_id") if name in values}
        if offer is None:
            return self._refuse(path, answer, "service_name_error", b"no such service here")
        if offer.one_session_per_host:
            for other in tuple(self._hosts.get((path.port, path.peer), ())):
                if other.offer is not None and other.offer.name == offer.name:
                    other.fire("Close", Reason("admin", "replaced", f"{mac.shown(path.peer)} began another session"), now)
        if offer.max_sessions and self._sessions[offer.name] >= offer.max_sessions:
            return self._refuse(path, answer, "ac_system_error", b"the service has all its sessions")
        session_id = self.ids.take_call(mac.network(path.peer, path.port), path.peer)
        if not session_id:
            return self._refuse(path, answer, "ac_system_error", b"no room for another session")
        call = Call(self, path, CONCENTRATOR)
        payload = PPPOE_MRU
        if values.get("max_payload", 0) > PPPOE_MRU and offer.max_payload > PPPOE_MRU:
            payload = min(values["max_payload"], offer.max_payload)
            answer["max_payload"] = values["max_payload"]               # RFC 4638 section 4: echoed as it was
        call.offer, call.values, call.answer = offer, {**answer, "ac_name": offer.ac_name}, key
        vendor = values.get("vendor", b"")
        call.opening = CallOpening(session_id, path, offer.name, payload, *tags.line(vendor), tags.rate(vendor))
        self._answered[key] = now, call
        self._sessions[offer.name] += 1
        self._hosts[path.port, path.peer].add(call)
        call.fire("PADR", packet, now)

    def _refuse(self, path: Path, answer: dict[str, Any], error: str, text: bytes) -> None:
        self.counts["refused"] += 1
        self.transmit(path, tags.encode("PADS", 0, {**answer, error: text}))

    def _forget(self, now: float) -> None:
        """PADRs so old that the same one again is a new wish."""
        while self._answered:
            key = next(iter(self._answered))
            if now - self._answered[key][0] < REPEATED:
                break
            del self._answered[key]

    # -- commands

    def dial(self, path: Path, now: float, *, service_name: bytes = b"", max_payload: int = 0) -> int:
        """Look for an access concentrator on path.port as path.local, in the network of path.peer; a handle."""
        self._serial += 1
        call = Call(self, path._replace(peer=path.peer[:mac.NETWORK] + mac.BROADCAST), HOST, self._serial)
        call.values = {"service_name": service_name, "host_uniq": self.random(8)}
        if max_payload > PPPOE_MRU:
            call.values["max_payload"] = max_payload
        self._dialling[call.values["host_uniq"]] = self._handles[call.handle] = call
        call.fire("Open", now)
        return call.handle

    def hang_up(self, opening: CallOpening, reason: Reason, now: float) -> None:
        """End a session (PADT); nothing when it is gone already."""
        call = self._calls.get((mac.network(opening.path.peer, opening.path.port), opening.session_id))
        if call is not None and call.opening is opening:
            call.fire("Close", reason, now)

    def give_up(self, handle: int, reason: Reason, now: float) -> None:
        """End what `dial` began, however far it came."""
        if handle in self._handles:
            self._handles[handle].fire("Close", reason, now)

    def terminate(self, path: Path, session_id: int) -> None:
        """PADT for a session that is nobody's: of a former life."""
        self.transmit(path, tags.encode("PADT", session_id, {}))

    def sessions(self, name: str) -> int:
        """How many of the service with that Offer.name."""
        return self._sessions.get(name, 0)

    def close_all(self, reason: Reason, now: float) -> None:
        """PADT to every peer; from now on no session is given."""
        self.stopping = True
        for call in (*self._calls.values(), *self._dialling.values()):
            call.fire("Close", reason, now)

    # -- time

    def deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def tick(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            when, _, call = heappop(self._heap)
            if call.due == when:
                call.due = None
                call.fire("Late" if call.tries >= self.settings.tries else "Timeout", now)

    def arm(self, call: Call) -> None:
        assert call.due is not None
        self._serial += 1
        heappush(self._heap, (call.due, self._serial, call))

    # -- for calls

    def transmit(self, path: Path, packet: bytes) -> None:
        self._outgoing.append((path, packet))

    def established(self, call: Call) -> None:
        opening = call.opening
        assert opening
        self._calls[mac.network(opening.path.peer, opening.path.port), opening.session_id] = call
        if call.handle:
            del self._dialling[call.values["host_uniq"]]
        self._events += opening, CallUp(opening)

    def gone(self, call: Call, reason: Reason, by_peer: bool) -> None:
        call.due = None
        opening = call.opening
        if opening:
            del self._calls[mac.network(opening.path.peer, opening.path.port), opening.session_id]
        if call.handle:
            del self._handles[call.handle]
            self._dialling.pop(call.values["host_uniq"], None)
        elif opening and call.offer:
            hosts = self._hosts[opening.path.port, opening.path.peer]
            hosts.discard(call)
            if not hosts:
                del self._hosts[opening.path.port, opening.path.peer]
            self._sessions[call.offer.name] -= 1
            if self._answered.get(call.answer, (0.0, None))[1] is call:
                del self._answered[call.answer]
            self.ids.give_call(mac.network(opening.path.peer, opening.path.port), opening.session_id)
        self._events.append(CallDown(call.handle, opening, reason, by_peer))
