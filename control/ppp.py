"""One PPP link (RFC 1661 section 3): LCP, then authentication, then a network of its own (network.py) or its bundle's.

    open -> ESTABLISH --LCP up--> AUTHENTICATE --Accept--> NETWORK --a network up--> LinkUp
              ^                        |                      |     --multilink--> LinkJoined, and the bundle says LinkUp (bundle.py)
              +----- LCP renegotiated, at any time -----------+         close, or the peer's Terminate-Request,
                                                                        or a time-out -> TERMINATE -> LinkDown

A frame goes by its protocol number to the layer that speaks it; what no layer speaks gets LCP's
Protocol-Reject. The machine follows the contract of machine.py; `outgoing()` holds (protocol,
packet) pairs, to be framed with FF 03 and a whole protocol field when the protocol is LCP's.
"""
from __future__ import annotations

from random import Random
from typing import Any

from . import chap, pap
from .auth import OPTION_OF, Accept, AuthRequest, Reject
from .automaton import CLOSING, OPENED, STOPPING, Automaton
from .bcp import BCP
from .bundle import Bundle
from .ccp import CCP
from .ipcp import IPCP
from .ipv6cp import IPV6CP
from .lcp import ACCM, ACFC, LCP, MAGIC, PFC
from .link import (
    LCP_PROTOCOL,
    MULTILINK,
    QUIET,
    CipherReset,
    LinkDown,
    LinkJoined,
    LinkReset,
    LinkSettings,
    LinkUp,
    Role,
)
from .machine import Machine
from .mppe import Keys
from .network import Network
from .reason import Reason

__all__ = ["PPP", "Accept", "AuthRequest", "CipherReset", "LinkDown", "LinkJoined", "LinkReset", "LinkSettings", "LinkUp", "Reason",
           "Reject"]

# The phases of RFC 1661 section 3.2; DEAD before `open` and after LinkDown.
DEAD, ESTABLISH, AUTHENTICATE, NETWORK, TERMINATE = range(5)

ATTACHED = 5.0      # seconds that a peer may take to be ready for fragments once it was let in: pppd rejects those that come earlier

RENEGOTIATED = Reason("lcp", "renegotiated", "LCP was negotiated again")

Authentication = chap.Authenticator | chap.Peer | pap.Authenticator | pap.Peer


class PPP(Machine):
    """A server asks who the peer is and gives it its addresses; a client answers, and takes them. With multilink, a server is told by
    `authenticated` which bundle the link joins, a client by `bundle`, for as long as that lives; otherwise the link begins one."""

    __slots__ = ("_authenticate_by", "_ended", "_joined", "_open_by", "_reason", "_request", "_wanted", "accept", "authentication",
                 "bundle", "lcp", "network", "phase", "random", "role", "settings", "user")

    def __init__(self, role: Role, settings: LinkSettings, random: Random, bundle: Bundle | None = None) -> None:
        super().__init__()
        unknown = [method for method in settings.authentication if method not in OPTION_OF]
        if unknown or (role == "server" and not settings.authentication):
            raise ValueError(f"authentication: {', '.join(unknown) or 'nothing'} where one of {', '.join(OPTION_OF)} is needed")
        self.role, self.settings, self.random = role, settings, random
        self.phase = DEAD
        self.lcp = LCP(role, self, settings, random)
        self.authentication: Authentication | None = None
        self.network: Network | None = None      # in the phase of that name: its own, or its bundle's
        self.bundle: Bundle | None = None        # while it is in one
        self.accept: Accept | None = None        # server: what the present peer was given
        self.user = settings.user
        self._request: AuthRequest | None = None   # whose verdict we wait for
        self._reason: Reason | None = None       # why the link is about to end; the first cause counts
        self._joined = 0.0                       # when it joined its bundle
        self._ended = False                      # LinkDown was said
        self._wanted = bundle                    # that it shall join
        self._open_by: float | None = None
        self._authenticate_by: float | None = None

    # Commands

    def open(self, now: float) -> None:
        """The lower layer is up: start LCP. A link lives once."""
        if self.phase == DEAD and not self._ended:
            self._establish(now)
            self.lcp.open(now)

    def close(self, reason: Reason, now: float) -> None:
        """Say Terminate-Request, wait for its Ack or give up; then LinkDown."""
        if self.phase == DEAD:
            self._finish(reason, now)
        elif self.phase != TERMINATE:
            self.ending(reason)
            self._wind_up()
            self.lcp.fire("Close", now)

    def lower_down(self, reason: Reason, now: float) -> None:
        """The call is gone: nothing more is sent. What made the peer hang up counts as the reason."""
        self._outgoing.clear()
        self._finish(reason, now)

    def authenticated(self, verdict: Accept | Reject, now: float, request: AuthRequest | None = None, bundle: Bundle | None = None) -> None:
        """The answer to an AuthRequest, and the bundle to join if the link negotiated multilink. One that comes later must name its
        request: the peer may have renegotiated and said another name since, and the old verdict is not about that one."""
        if self._request is None or (request is not None and request is not self._request):
            return
        authentication, self._request = self.authentication, None
        assert isinstance(authentication, (chap.Authenticator, pap.Authenticator))   # a request has one
        if isinstance(verdict, Accept):
            self.accept = verdict
            self._wanted = bundle
            authentication.accepted(verdict.message)
            self._network(now)
        else:
            authentication.refused(verdict)
            self.close(Reason("authentication", verdict.code, verdict.text), now)

    def waits_for(self, request: AuthRequest) -> bool:
        return self._request is request

    # What the wire and the clock bring

    def receive(self, protocol: int, payload: bytes, now: float) -> None:
        """A frame's Information field; HDLC's address and control and compression are undone."""
        if self.phase == DEAD:
            return
        if protocol == LCP_PROTOCOL:
            self.lcp.receive(payload, now)
        elif self.lcp.state != OPENED:
            return      # RFC 1661 section 3.4: before that, nothing else counts
        elif self.authentication is not None and protocol == self.authentication.PROTOCOL:
            self.authentication.receive(payload, now)
        elif self.network is not None and self.network.receive(protocol, payload, now):
            pass
        elif protocol == MULTILINK and self.lcp.multilink:
            pass        # a fragment that came before we were ready for it
        elif self.phase != AUTHENTICATE and protocol not in QUIET:     # RFC 1661 section 3.5: then it is discarded
            self.lcp.reject_protocol(protocol & 0xFFFF, payload)

    def tick(self, now: float) -> None:
        if self.phase == DEAD:
            return
        self.lcp.tick(now)
        if self.authentication is not None:
            self.authentication.tick(now)
        if self.network is not None and self.bundle is None:
            self.network.tick(now)
        if self._authenticate_by is not None and self._authenticate_by <= now:
            self._authenticate_by = None
            who = "the verdict on the peer did not come" if self._request else "the peer did not authenticate"
            self.close(Reason("authentication", "timeout", f"{who} within {self.settings.authentication_timeout:g} s"), now)
        if self._open_by is not None and self._open_by <= now:
            self._open_by = None
            shut = self.network.shut if self.network else "link"
            stage = ("link", "lcp", "authentication", shut, "link")[self.phase]
            self.close(Reason(stage, "timeout", f"the link was not open within {self.settings.open_timeout:g} s"), now)

    def deadline(self) -> float | None:
        if self.phase == DEAD:
            return None
        due = [self.lcp.timer, self._authenticate_by, self._open_by]
        if self.authentication is not None:
            due.append(self.authentication.timer)
        if self.network is not None and self.bundle is None:
            due += self.network.timers()
        return min((moment for moment in due if moment is not None), default=None)

    # What the layers ask of their link (link.Link)

    @property
    def peer_mru(self) -> int:
        return self.lcp.peer_mru

    def send(self, protocol: int, packet: bytes) -> None:
        self._outgoing.append((protocol, packet))

    def ending(self, reason: Reason) -> None:
        """Note a cause; it is reported if the link ends now, and forgotten if it opens after all."""
        if self._reason is None:
            self._reason = reason

    def layer_up(self, layer: Automaton, now: float) -> None:
        self.recovered()
        self._authenticate(now)

    def layer_down(self, layer: Automaton, now: float) -> None:
        """LCP is open no more, and nothing above it."""
        closing = layer.state in (CLOSING, STOPPING)
        self.authentication = self.accept = self._request = None
        self._leave(RENEGOTIATED, now)
        if closing:
            self._wind_up()
        else:
            self._establish(now)

    def layer_finished(self, layer: Automaton, now: float) -> None:
        """Without LCP there is no link."""
        self._finish(Reason("lcp", "timeout", "the peer did not answer our LCP Configure-Requests"), now)

    def protocol_rejected(self, protocol: int, now: float) -> None:
        """The peer does not know a protocol that we sent."""
        if protocol == LCP_PROTOCOL:
            self.lcp.reject(now)
        elif self.network is not None and self.network.protocol_rejected(protocol, now):
            pass
        elif self.authentication is not None and protocol == self.authentication.PROTOCOL:
            method = self.authentication.method
            self.close(Reason("authentication", "refused", f"the peer agreed to {method} and then rejected its protocol"), now)
        elif protocol == MULTILINK and self.bundle is not None and now > self._joined + ATTACHED:
            self.close(Reason("multilink", "rejected", "the peer agreed to an MRRU and then rejected fragments"), now)

    def requested(self, request: AuthRequest, now: float) -> None:
        self._request = request
        self.user = request.user
        self._events.append(request)

    def granted(self, now: float) -> None:
        """The peer accepted us, and where the method lets it, proved itself."""
        if self.phase == AUTHENTICATE:
            self._network(now)

    # What its network asks (network.Carrier)

    @property
    def mtu(self) -> int:
        return min(self.settings.mtu, self.lcp.peer_mru)

    @property
    def method(self) -> str:
        return self.lcp.method

    def facts(self) -> dict[str, Any]:
        lcp, theirs = self.lcp, self.lcp.theirs
        return {"user": self.user, "method": lcp.method, "mru": lcp.mru, "accm": theirs.get(ACCM, 0xFFFFFFFF), "pfc": PFC in theirs,
                "acfc": ACFC in theirs, "our_magic": lcp.magic, "peer_magic": theirs.get(MAGIC, 0)}

    def network_up(self, link: LinkUp) -> None:
        self._open_by = None
        self._events.append(link)

    def network_event(self, event: LinkReset | CipherReset) -> None:
        self._events.append(event)

    def network_down(self, now: float) -> None:
        if self.phase == NETWORK:
            self._due(now)

    def recovered(self) -> None:
        self._reason = None

    # The phases

    def _establish(self, now: float) -> None:
        self.phase = ESTABLISH
        self._authenticate_by = None
        self._due(now)

    def _due(self, now: float) -> None:
        """The link must be open in time, counted from when it began or was open last: who negotiates again gains none."""
        if self._open_by is None:
            self._open_by = now + self.settings.open_timeout

    def _authenticate(self, now: float) -> None:
        self.phase = AUTHENTICATE
        method = self.lcp.method
        if not method:          # a client that nobody asked
            return self._network(now)
        server = self.role == "server"
        if method == "pap":
            self.authentication = pap.Authenticator(self) if server else pap.Peer(self, self.settings, self.random)
        else:
            kind = chap.Authenticator if server else chap.Peer
            self.authentication = kind(method, self, self.settings, self.random)
        self._authenticate_by = now + self.settings.authentication_timeout
        self.authentication.start(now)

    def _network(self, now: float) -> None:
        self.phase = NETWORK
        self._authenticate_by = None
        if self.lcp.multilink:
            self._join(now)
        else:
            self.network = Network(self, self.accept, self._keys())
            self.network.open(now)

    def _join(self, now: float) -> None:
        """The bundle is open in its own time, the link is."""
        bundle = self._wanted
        if bundle is None:
            bundle = Bundle(self.role, self.settings, self.random)
        elif self.role == "client":
            bundle = bundle.successor()
        self._wanted = bundle
        refusal = bundle.refusal(self)
        if refusal:
            return self.close(refusal, now)
        self.bundle, self._open_by, self._joined = bundle, None, now
        facts = self.facts()
        del facts["user"], facts["method"]
        self._events.append(LinkJoined(bundle, mtu=self.mtu, **facts))
        if self.role == "server":
            self.lcp.ask_for_echo()             # behind the news that it is let in: who answers takes fragments too
        bundle.join(self, self.accept, self._keys(), now)
        self.network = bundle.network if self.bundle else None      # its network may have ended it at once

    def _leave(self, reason: Reason, now: float) -> None:
        """What is above the link goes on without it, or ends."""
        network, bundle, self.network, self.bundle = self.network, self.bundle, None, None
        if bundle is not None:
            self._events.append(LinkReset("lcp"))
            bundle.leave(self, self._reason or reason, now)
        elif network is not None:
            network.down("lcp", now)

    def _keys(self) -> Keys | None:
        if self.accept:
            return self.accept.keys
        return self.authentication.keys if isinstance(self.authentication, chap.Peer) else None

    @property
    def ipcp(self) -> IPCP | None:
        return self.network.ipcp if self.network else None

    @property
    def ipv6cp(self) -> IPV6CP | None:
        return self.network.ipv6cp if self.network else None

    @property
    def bcp(self) -> BCP | None:
        return self.network.bcp if self.network else None

    @property
    def ccp(self) -> CCP | None:
        return self.network.ccp if self.network else None

    def _wind_up(self) -> None:
        """LCP says goodbye and nothing else runs; its own timer ends it."""
        self.phase = TERMINATE
        self._open_by = self._authenticate_by = None

    def _finish(self, reason: Reason, now: float) -> None:
        if not self._ended:
            self._ended, self.phase = True, DEAD
            self.authentication = self._request = None
            bundle, self.bundle, self.network = self.bundle, None, None
            if bundle is not None:
                bundle.leave(self, self._reason or reason, now)
            self._events.append(LinkDown(self._reason or reason))
