"""The option negotiation automaton (RFC 1661 section 4): the table of section 4.1 is the program.

An event (a packet that arrived, the Restart timer, a neighbouring layer) selects a cell by the
present state; the cell names the actions and the next state. LCP and every NCP are this automaton
with a table of options and a policy: what to ask for (`desired`), what to accept (`judge`), what
to make of the peer's Nak (`adapt`) and of its Reject (`rejected`).
"""
from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from .fields import Field, option, options
from .link import Link, LinkSettings, pull_packet, push_packet

INITIAL, STARTING, CLOSED, STOPPED, CLOSING, STOPPING, REQ_SENT, ACK_RCVD, ACK_SENT, OPENED = range(10)

FIRST_RESTART = 1.0     # seconds

CONFIGURE_REQUEST, CONFIGURE_ACK, CONFIGURE_NAK, CONFIGURE_REJECT, TERMINATE_REQUEST, TERMINATE_ACK, CODE_REJECT = range(1, 8)

# Footnotes: r, the restart option, and p, the passive option, are for implementations that have
# them; we do not. x is a crossed connection: `receive` discards an answer that nobody waits for
# (section 5.2), so these cells are reached by no packet, and stand here because the RFC has them.
TABLE = """
      | State
      |    0         1         2         3         4         5
Events| Initial   Starting  Closed    Stopped   Closing   Stopping
------+-----------------------------------------------------------
 Up   |    2     irc,scr/6     -         -         -         -
 Down |    -         -         0       tls/1       0         1
 Open |  tls/1       1     irc,scr/6     3r        5r        5r
 Close|    0       tlf/0       2         2         4         4
      |
  TO+ |    -         -         -         -       str/4     str/5
  TO- |    -         -         -         -       tlf/2     tlf/3
      |
 RCR+ |    -         -       sta/2 irc,scr,sca/8   4         5
 RCR- |    -         -       sta/2 irc,scr,scn/6   4         5
 RCA  |    -         -       sta/2     sta/3       4         5
 RCN  |    -         -       sta/2     sta/3       4         5
      |
 RTR  |    -         -       sta/2     sta/3     sta/4     sta/5
 RTA  |    -         -         2         3       tlf/2     tlf/3
      |
 RUC  |    -         -       scj/2     scj/3     scj/4     scj/5
 RXJ+ |    -         -         2         3         4         5
 RXJ- |    -         -       tlf/2     tlf/3     tlf/2     tlf/3
      |
 RXR  |    -         -         2         3         4         5

      | State
      |    6         7         8           9
Events| Req-Sent  Ack-Rcvd  Ack-Sent    Opened
------+-----------------------------------------
 Up   |    -         -         -           -
 Down |    1         1         1         tld/1
 Open |    6         7         8           9r
 Close|irc,str/4 irc,str/4 irc,str/4 tld,irc,str/4
      |
  TO+ |  scr/6     scr/6     scr/8         -
  TO- | tlf/3p    tlf/3p    tlf/3p         -
      |
 RCR+ |  sca/8   sca,tlu/9   sca/8   tld,scr,sca/8
 RCR- |  scn/6     scn/7     scn/6   tld,scr,scn/6
 RCA  |  irc/7     scr/6x  irc,tlu/9   tld,scr/6x
 RCN  |irc,scr/6   scr/6x  irc,scr/8   tld,scr/6x
      |
 RTR  |  sta/6     sta/6     sta/6   tld,zrc,sta/5
 RTA  |    6         6         8       tld,scr/6
      |
 RUC  |  scj/6     scj/7     scj/8     scj/9
 RXJ+ |    6         6         8           9
 RXJ- |  tlf/3     tlf/3     tlf/3   tld,irc,str/5
      |
 RXR  |    6         7         8         ser/9
"""

ACTIONS = {
    "tlu": "this_layer_up", "tld": "this_layer_down", "tls": "this_layer_started", "tlf": "this_layer_finished",
    "irc": "initialize_restart_count", "zrc": "zero_restart_count",
    "scr": "send_configure_request", "sca": "send_configure_ack", "scn": "send_configure_nak",
    "str": "send_terminate_request", "sta": "send_terminate_ack", "scj": "send_code_reject", "ser": "send_echo_reply",
}

Cell = tuple[tuple[str, ...], int] | None


def read_cell(text: str) -> Cell:
    """"irc,scr/6" as (the methods that act, the next state); "-" cannot happen and is None."""
    if text == "-":
        return None
    actions, _, state = text.rpartition("/")
    return tuple(ACTIONS[name] for name in actions.split(",") if name), int(state.rstrip("rpx"))


def read_table(table: str) -> dict[str, tuple[Cell, ...]]:
    """The cells of each event in the order of the states, the two halves of the table joined."""
    rows: dict[str, tuple[Cell, ...]] = {}
    for line in table.splitlines():
        event, _, cells = line.partition("|")
        if (event := event.strip()) and event != "Events" and cells:
            rows[event] = rows.get(event, ()) + tuple(map(read_cell, cells.split()))
    return rows


TRANSITIONS = read_table(TABLE)


class Automaton:
    """One layer of one link: its state, its Restart timer, and the options of both directions."""

    PROTOCOL: ClassVar[int]
    NAME: ClassVar[str]                      # also the stage of its reasons
    OPTIONS: ClassVar[dict[int, Field]]
    __slots__ = ("_awaited", "_failures", "_identifier", "_naks", "_proposal", "_request", "_restarts",
                 "link", "max_configure", "ours", "random", "settings", "state", "theirs", "timer")

    def __init__(self, link: Link, settings: LinkSettings, random: Random) -> None:
        self.link, self.settings, self.random = link, settings, random
        self.state = INITIAL
        self.max_configure = settings.max_configure
        self.timer: float | None = None      # when the Restart timer expires
        self._restarts = 0
        self._identifier = random.getrandbits(8)
        self._reset()

    def _reset(self) -> None:
        """Forget what was negotiated, and ask for everything again."""
        self.ours: dict[int, Any] = self.desired()     # what we ask for; once opened, what is in force
        self.theirs: dict[int, Any] = {}               # what we acknowledged to the peer
        self._proposal: dict[int, Any] | None = None   # what the peer asks for, until we acknowledge it
        self._request: bytes | None = None             # our options on the wire; None: they changed
        self._awaited = -1                             # the identifier whose answer we wait for
        self._failures = 0                             # Naks sent since the last Ack
        self._naks = 0                                 # Naks received

    @property
    def terminated(self) -> bool:
        """It is being ended on purpose."""
        return self.state in (CLOSING, STOPPING)

    # The policy, which subclasses give

    def desired(self) -> dict[int, Any]:
        """The options of our first Configure-Request."""
        raise NotImplementedError

    def judge(self, kind: int, value: Any, now: float) -> Any:
        """The value that we would acknowledge: the same for an Ack, another for a Nak, None for a
        Reject. `value` is None when its length was wrong (RFC 1661 section 5.1: Nak it too)."""
        raise NotImplementedError

    def adapt(self, kind: int, value: Any, now: float) -> None:
        """The peer would rather see this value in an option of ours."""
        raise NotImplementedError

    def rejected(self, kind: int, now: float) -> None:
        """The peer does not know an option of ours: ask without it."""
        del self.ours[kind]

    def missing(self, asked: set[int]) -> bytes:
        """Options that the peer should have asked for beside these, as a Nak appends them."""
        return b""

    # Events

    def fire(self, event: str, now: float, identifier: int = 0, answer: bytes = b"") -> None:
        """Take one cell. The state is set first: an action may lead to another event."""
        cell = TRANSITIONS[event][self.state]
        if cell is None:
            return
        actions, self.state = cell
        for action in actions:
            getattr(self, action)(now, identifier, answer)
        if not CLOSING <= self.state <= ACK_SENT:
            self.timer = None

    def open(self, now: float) -> None:
        """The administrative Open, with the lower layer ready."""
        self.fire("Open", now)
        self.fire("Up", now)

    def tick(self, now: float) -> None:
        if self.timer is not None and self.timer <= now:
            self.fire("TO+" if self._restarts > 0 else "TO-", now)

    def receive(self, packet: bytes, now: float) -> None:
        """A packet of this protocol; what is cut short is dropped, what follows Length is padding."""
        pulled = pull_packet(packet)
        if pulled is None or self.state <= STARTING:
            return
        code, identifier, data = pulled
        if code == CONFIGURE_REQUEST:
            self._configure_request(identifier, data, now)
        elif code in (CONFIGURE_ACK, CONFIGURE_NAK, CONFIGURE_REJECT):
            self._answer(code, identifier, data, now)
        elif code == TERMINATE_REQUEST:
            self.peer_terminates(data)
            self.fire("RTR", now, identifier)
        elif code == TERMINATE_ACK:
            self.fire("RTA", now)
        elif code == CODE_REJECT:
            if data:
                self._code_reject(data[0], now)
        elif not self.receive_other(code, identifier, data, now):
            self.fire("RUC", now, answer=packet[:4 + len(data)])

    def receive_other(self, code: int, identifier: int, data: bytes, now: float) -> bool:
        """Codes above 7, which are LCP's; False: not known."""
        return False

    def peer_terminates(self, message: bytes) -> None:
        """The peer's Terminate-Request, before it takes effect."""

    def unusable(self, what: str) -> None:
        """The peer rejected what this layer cannot do without, before that takes effect."""

    def reject(self, now: float) -> None:
        """LCP heard that the peer does not know this protocol at all."""
        self.unusable("the protocol")
        self.fire("RXJ-", now)

    def _code_reject(self, code: int, now: float) -> None:
        if CONFIGURE_REQUEST <= code <= CODE_REJECT:   # section 4.3: no negotiation without these
            self.unusable(f"code {code}")
            self.fire("RXJ-", now)
        else:
            self.fire("RXJ+", now)

    def _configure_request(self, identifier: int, data: bytes, now: float) -> None:
        if self.state in (CLOSED, CLOSING, STOPPING):   # where the answer does not depend on the options
            return self.fire("RCR-", now, identifier)
        try:
            code, answer = self._judge_all(data, now)
        except ValueError:
            return
        self.fire("RCR+" if code == CONFIGURE_ACK else "RCR-", now, identifier, push_packet(code, identifier, answer))

    def _judge_all(self, data: bytes, now: float) -> tuple[int, bytes]:
        """The code and the options of the answer to a Configure-Request (sections 5.2 to 5.4): what
        must be rejected goes first, alone, unmodified and in the peer's order."""
        proposal: dict[int, Any] = {}
        asked: set[int] = set()
        refused: list[tuple[bytes, bytes | None]] = []   # the peer's option, and ours for a Nak
        for kind, octets in options(data):
            asked.add(kind)
            field = self.OPTIONS.get(kind)
            if field is None:
                refused.append((option(kind, octets), None))
                continue
            try:
                value = field.kind.decode(octets)
            except ValueError:
                value = None
            better = self.judge(kind, value, now)
            if better is None:
                refused.append((option(kind, octets), None))
            elif value is None or better != value:
                refused.append((option(kind, octets), option(kind, field.kind.encode(better))))
            else:
                proposal[kind] = value
        persuaded = self._failures >= self.settings.max_failure   # that Naks lead nowhere
        rejects = [theirs for theirs, nak in refused if nak is None or persuaded]
        if rejects:
            return CONFIGURE_REJECT, self._fitting(rejects)
        naks = [nak for _, nak in refused if nak]
        if not persuaded:
            naks.append(self.missing(asked))
        if any(naks):
            return CONFIGURE_NAK, self._fitting(naks)
        self._proposal = proposal
        return CONFIGURE_ACK, data

    def _fitting(self, answers: list[bytes]) -> bytes:
        """The first of these options, as many as a packet has room for: an option of two octets may be answered by ten, and what is
        left out the peer hears the next time."""
        room, said = self.link.peer_mru - 4, b""
        for answer in answers:
            if len(said) + len(answer) > room:
                break
            said += answer
        return said

    def _answer(self, code: int, identifier: int, data: bytes, now: float) -> None:
        """An Ack, Nak or Reject of our Configure-Request. Whatever does not answer our last one, or
        answers it again, is discarded: a duplicate must not bring an open link down."""
        if self.state >= REQ_SENT:
            if identifier != self._awaited:
                return
            try:
                if code == CONFIGURE_ACK and data != self._request:
                    return
                if code == CONFIGURE_NAK:
                    self._nak(data, now)
                elif code == CONFIGURE_REJECT:
                    self._reject(data, now)
            except ValueError:
                return
            self._awaited = -1
        self.fire("RCA" if code == CONFIGURE_ACK else "RCN", now, identifier)

    def _nak(self, data: bytes, now: float) -> None:
        hints = list(options(data))     # read to the end before anything changes
        self._naks += 1
        self._request = None
        for kind, octets in hints:
            if kind not in self.ours:   # a wish for an option that we did not offer
                continue
            if self._naks > self.settings.max_failure:
                self.rejected(kind, now)
                continue
            try:
                value = self.OPTIONS[kind].kind.decode(octets)
            except ValueError:
                continue
            self.adapt(kind, value, now)

    def _reject(self, data: bytes, now: float) -> None:
        unknown = list(options(data))
        for kind, octets in unknown:
            if kind not in self.ours or octets != self.OPTIONS[kind].kind.encode(self.ours[kind]):
                raise ValueError(f"option {kind} rejected that we did not send")
        self._request = None
        for kind, _ in unknown:
            if kind in self.ours:       # twice in one packet is possible
                self.rejected(kind, now)

    # Actions, each with the arguments of `fire`

    def this_layer_up(self, now: float, identifier: int, answer: bytes) -> None:
        self.link.layer_up(self, now)

    def this_layer_down(self, now: float, identifier: int, answer: bytes) -> None:
        proposal = self._proposal       # of the Configure-Request that brings us down, if one does
        self._reset()
        self._proposal = proposal
        self.link.layer_down(self, now)

    def this_layer_started(self, now: float, identifier: int, answer: bytes) -> None:
        """The lower layer is up before we are opened; nobody needs to hear of it."""

    def this_layer_finished(self, now: float, identifier: int, answer: bytes) -> None:
        self.link.layer_finished(self, now)

    def initialize_restart_count(self, now: float, identifier: int, answer: bytes) -> None:
        closing = self.state in (CLOSING, STOPPING)
        self._restarts = self.settings.max_terminate if closing else self.max_configure

    def zero_restart_count(self, now: float, identifier: int, answer: bytes) -> None:
        self._restarts = 0
        self.timer = now + self.settings.restart

    def send_configure_request(self, now: float, identifier: int, answer: bytes) -> None:
        """A request that was not answered goes out again as it was (section 5.1): a late answer counts."""
        if self._awaited < 0 or self._request is None:
            kinds = self.OPTIONS
            self._request = b"".join(option(kind, kinds[kind].kind.encode(value)) for kind, value in self.ours.items())
            self._awaited = self._next_identifier()
        self._start_timer(now)
        self.link.send(self.PROTOCOL, push_packet(CONFIGURE_REQUEST, self._awaited, self._request))

    def send_configure_ack(self, now: float, identifier: int, answer: bytes) -> None:
        if self._proposal is not None:
            self.theirs, self._proposal = self._proposal, None
        self._failures = 0
        self.link.send(self.PROTOCOL, answer)

    def send_configure_nak(self, now: float, identifier: int, answer: bytes) -> None:
        """Nak or Reject; only Naks are held against the peer."""
        if answer[0] == CONFIGURE_NAK:
            self._failures += 1
        self.link.send(self.PROTOCOL, answer)

    def send_terminate_request(self, now: float, identifier: int, answer: bytes) -> None:
        self._start_timer(now)
        self.link.send(self.PROTOCOL, push_packet(TERMINATE_REQUEST, self._next_identifier()))

    def send_terminate_ack(self, now: float, identifier: int, answer: bytes) -> None:
        self.link.send(self.PROTOCOL, push_packet(TERMINATE_ACK, identifier))

    def send_code_reject(self, now: float, identifier: int, answer: bytes) -> None:
        rejected = answer[:self.link.peer_mru - 4]
        self.link.send(self.PROTOCOL, push_packet(CODE_REJECT, self._next_identifier(), rejected))

    def send_echo_reply(self, now: float, identifier: int, answer: bytes) -> None:
        if answer:
            self.link.send(self.PROTOCOL, answer)

    def _start_timer(self, now: float) -> None:
        """The first repetition comes after a second, because many a peer's pppd is started only when the call is up and misses what
        came before; later ones double up to the Restart timer."""
        sent = self.max_configure - self._restarts
        self._restarts -= 1
        self.timer = now + min(self.settings.restart, FIRST_RESTART * 2 ** min(sent, 8))

    def _next_identifier(self) -> int:
        self._identifier = (self._identifier + 1) & 255
        return self._identifier
