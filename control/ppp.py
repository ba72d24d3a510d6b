"""One PPP link (RFC 1661 section 3): LCP, then authentication, then the NCPs that policy wants (`_wanted`).

    open -> ESTABLISH --LCP up--> AUTHENTICATE --Accept--> NETWORK --a network up--> LinkUp
              ^                        |                      |
              +----- LCP renegotiated, at any time -----------+         close, or the peer's Terminate-Request,
                                                                        or a time-out -> TERMINATE -> LinkDown

Each NCP opens and ends on its own. The link is up while one of NETWORKS is open; when another NCP
opens or ends meanwhile, LinkUp says again all that is in force, and nothing is interrupted.

A frame goes by its protocol number to the layer that speaks it; what no layer speaks gets LCP's
Protocol-Reject. The machine follows the contract of machine.py; `outgoing()` holds (protocol,
packet) pairs, to be framed with FF 03 and a whole protocol field when the protocol is LCP's.
"""
from __future__ import annotations

from collections.abc import Iterator
from random import Random

from . import chap, pap
from .auth import OPTION_OF, Accept, AuthRequest, Reject
from .automaton import CLOSING, INITIAL, OPENED, STOPPING, Automaton
from .bcp import BCP
from .ccp import CCP
from .ipcp import IPCP, NOWHERE
from .ipv6cp import IPV6CP
from .lcp import ACCM, ACFC, LCP, MAGIC, PFC
from .link import (
    BCP_PROTOCOL,
    BRIDGED,
    CCP_PROTOCOL,
    CHAP_PROTOCOL,
    IP,
    IPCP_PROTOCOL,
    IPV6,
    IPV6CP_PROTOCOL,
    LCP_PROTOCOL,
    LEAST_IPV6_MTU,
    PAP_PROTOCOL,
    CipherReset,
    LinkDown,
    LinkReset,
    LinkSettings,
    LinkUp,
    Role,
)
from .machine import Machine
from .mppe import Keys, Policy
from .reason import Reason

__all__ = ["PPP", "Accept", "AuthRequest", "CipherReset", "LinkDown", "LinkReset", "LinkSettings", "LinkUp", "Reason", "Reject"]

# The phases of RFC 1661 section 3.2; DEAD before `open` and after LinkDown.
DEAD, ESTABLISH, AUTHENTICATE, NETWORK, TERMINATE = range(5)

# What may arrive without a layer that waits for it, and is then no news.
QUIET = (IP, IPV6, BRIDGED, PAP_PROTOCOL, CHAP_PROTOCOL)

MPPE_HEADER = 4     # octets by which a packet grows: MPPE's header, and the protocol number that it hides

# The NCPs that carry user data: without one of them there is no link to speak of.
NETWORKS = (IPCP_PROTOCOL, IPV6CP_PROTOCOL, BCP_PROTOCOL)

Authentication = chap.Authenticator | chap.Peer | pap.Authenticator | pap.Peer


class PPP(Machine):
    """A server asks who the peer is and gives it its addresses; a client answers, and takes them."""

    __slots__ = ("_authenticate_by", "_ended", "_open_by", "_reason", "_request", "_said", "accept", "authentication", "lcp",
                 "ncps", "phase", "random", "role", "settings", "user")

    def __init__(self, role: Role, settings: LinkSettings, random: Random) -> None:
        super().__init__()
        unknown = [method for method in settings.authentication if method not in OPTION_OF]
        if unknown or (role == "server" and not settings.authentication):
            raise ValueError(f"authentication: {', '.join(unknown) or 'nothing'} where one of {', '.join(OPTION_OF)} is needed")
        self.role, self.settings, self.random = role, settings, random
        self.phase = DEAD
        self.lcp = LCP(role, self, settings, random)
        self.authentication: Authentication | None = None
        self.ncps: dict[int, Automaton] = {}     # by protocol number, in the order in which they were opened
        self.accept: Accept | None = None        # server: what the present peer was given
        self.user = settings.user
        self._request: AuthRequest | None = None   # whose verdict we wait for
        self._reason: Reason | None = None       # why the link is about to end; the first cause counts
        self._said: LinkUp | None = None         # while the link is up: the last that was said of it
        self._ended = False                      # LinkDown was said
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
            self._finish(reason)
        elif self.phase != TERMINATE:
            self.ending(reason)
            self._wind_up()
            self.lcp.fire("Close", now)

    def lower_down(self, reason: Reason, now: float) -> None:
        """The call is gone: nothing more is sent. What made the peer hang up counts as the reason."""
        self._outgoing.clear()
        self._finish(reason)

    def authenticated(self, verdict: Accept | Reject, now: float, request: AuthRequest | None = None) -> None:
        """The answer to an AuthRequest. One that comes later must name its request: the peer may have
        renegotiated and said another name since, and the old verdict is not about that one."""
        if self._request is None or (request is not None and request is not self._request):
            return
        authentication, self._request = self.authentication, None
        assert isinstance(authentication, (chap.Authenticator, pap.Authenticator))   # a request has one
        if isinstance(verdict, Accept):
            self.accept = verdict
            authentication.accepted(verdict.message)
            self._network(now)
        else:
            authentication.refused(verdict)
            self.close(Reason("authentication", verdict.code, verdict.text), now)

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
        elif (ncp := self.ncps.get(protocol)) is not None:
            if ncp.state == INITIAL:    # it waits for CCP, and the peer does not
                ncp.open(now)
            ncp.receive(payload, now)
        elif self.phase != AUTHENTICATE and protocol not in QUIET:     # RFC 1661 section 3.5: then it is discarded
            self.lcp.reject_protocol(protocol & 0xFFFF, payload)

    def tick(self, now: float) -> None:
        if self.phase == DEAD:
            return
        self.lcp.tick(now)
        if self.authentication is not None:
            self.authentication.tick(now)
        for ncp in tuple(self.ncps.values()):       # one of them may end the link
            ncp.tick(now)
        if self._authenticate_by is not None and self._authenticate_by <= now:
            self._authenticate_by = None
            who = "the verdict on the peer did not come" if self._request else "the peer did not authenticate"
            self.close(Reason("authentication", "timeout", f"{who} within {self.settings.authentication_timeout:g} s"), now)
        if self._open_by is not None and self._open_by <= now:
            self._open_by = None
            shut = next((ncp.NAME for ncp in self.ncps.values() if self._is_needed(ncp) and ncp.state != OPENED), "link")
            stage = ("link", "lcp", "authentication", shut, "link")[self.phase]
            self.close(Reason(stage, "timeout", f"the link was not open within {self.settings.open_timeout:g} s"), now)

    def deadline(self) -> float | None:
        if self.phase == DEAD:
            return None
        due = [self.lcp.timer, self._authenticate_by, self._open_by]
        if self.authentication is not None:
            due.append(self.authentication.timer)
        due += [ncp.timer for ncp in self.ncps.values()]
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
        self._reason = None
        if layer is self.lcp:
            self._authenticate(now)
        else:
            self._settle(layer)
            self._open_waiting(layer, now)

    def layer_down(self, layer: Automaton, now: float) -> None:
        if layer is self.lcp:
            ncps, self.ncps = self.ncps, {}
            self.authentication = self.accept = self._request = None
            self._settle(layer)
            for ncp in ncps.values():
                ncp.fire("Down", now)
            if layer.state in (CLOSING, STOPPING):
                self._wind_up()
            else:
                self._establish(now)
        elif layer.PROTOCOL in self.ncps:
            self._settle(layer)
            if self.phase == NETWORK and self._said is None and not layer.terminated:
                self._due(now)

    def layer_finished(self, layer: Automaton, now: float) -> None:
        """An NCP may end without the link (RFC 1661 section 3.6); without LCP there is no link."""
        if layer is self.lcp:
            self._finish(Reason("lcp", "timeout", "the peer did not answer our LCP Configure-Requests"))
        else:
            if self._said is not None and layer.PROTOCOL in NETWORKS:       # what it noted is no reason for the link to end
                self._reason = None
            self._open_waiting(layer, now)

    def protocol_rejected(self, protocol: int, now: float) -> None:
        """The peer does not know a protocol that we sent."""
        if protocol == LCP_PROTOCOL:
            self.lcp.reject(now)
        elif protocol in self.ncps:
            self.ncps[protocol].reject(now)
        elif self.authentication is not None and protocol == self.authentication.PROTOCOL:
            method = self.authentication.method
            self.close(Reason("authentication", "refused", f"the peer agreed to {method} and then rejected its protocol"), now)

    def requested(self, request: AuthRequest, now: float) -> None:
        self._request = request
        self.user = request.user
        self._events.append(request)

    def granted(self, now: float) -> None:
        """The peer accepted us, and where the method lets it, proved itself."""
        if self.phase == AUTHENTICATE:
            self._network(now)

    def reset_requested(self, now: float) -> None:
        self._events.append(CipherReset())

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
        if self.encryption.required and self._keys() is None:
            method = self.lcp.method or "a link without authentication"
            self.close(Reason("authentication", "no-keys", f"{method} yields no keys to encrypt with, and use-encryption is require"), now)
            return
        self.ncps = {ncp.PROTOCOL: ncp for ncp in self._wanted()}
        for ncp in tuple(self.ncps.values()):
            ncp.open(now)
            if ncp.PROTOCOL == CCP_PROTOCOL:    # the others wait until it is settled, so that nothing need pass in clear
                break

    def _wanted(self) -> Iterator[Automaton]:
        """The NCPs that policy wants, in the order in which they are opened."""
        keys = self._keys()
        if keys and self.encryption.use != "no":
            yield CCP(self.encryption, keys, self, self.settings, self.random)
        ip = self.accept.remote_address is not None if self.accept else self.settings.ip
        ipv6 = self.accept.ipv6 if self.accept else self.settings.ipv6
        if ip:
            yield IPCP(self.accept, self, self.settings, self.random)
        header = MPPE_HEADER if self.encryption.use != "no" else 0
        if ipv6 and min(self.settings.mtu, self.lcp.peer_mru) - header >= LEAST_IPV6_MTU:
            yield IPV6CP(self.role, self, self.settings, self.random)
        bridging = self.accept.bridging if self.accept else self.settings.bridging
        if bridging:
            yield BCP(bridging, self, self.settings, self.random)

    def _open_waiting(self, layer: Automaton, now: float) -> None:
        """CCP is open, or will not be."""
        if layer.PROTOCOL == CCP_PROTOCOL:
            for ncp in tuple(self.ncps.values()):
                if ncp.state == INITIAL:
                    ncp.open(now)

    @property
    def encryption(self) -> Policy:
        return self.accept.encryption if self.accept else self.settings.encryption

    def _keys(self) -> Keys | None:
        if self.accept:
            return self.accept.keys
        return self.authentication.keys if isinstance(self.authentication, chap.Peer) else None

    @property
    def ipcp(self) -> IPCP | None:
        ncp = self.ncps.get(IPCP_PROTOCOL)
        assert ncp is None or isinstance(ncp, IPCP)
        return ncp

    @property
    def ipv6cp(self) -> IPV6CP | None:
        ncp = self.ncps.get(IPV6CP_PROTOCOL)
        assert ncp is None or isinstance(ncp, IPV6CP)
        return ncp

    @property
    def bcp(self) -> BCP | None:
        ncp = self.ncps.get(BCP_PROTOCOL)
        assert ncp is None or isinstance(ncp, BCP)
        return ncp

    @property
    def ccp(self) -> CCP | None:
        ncp = self.ncps.get(CCP_PROTOCOL)
        assert ncp is None or isinstance(ncp, CCP)
        return ncp

    def _is_needed(self, ncp: Automaton) -> bool:
        return ncp.PROTOCOL in NETWORKS or (ncp.PROTOCOL == CCP_PROTOCOL and self.encryption.required)

    def _is_open(self, protocol: int) -> bool:
        ncp = self.ncps.get(protocol)
        return ncp is not None and ncp.state == OPENED

    def _settle(self, layer: Automaton) -> None:
        """A layer opened, or is open no more: say whether the link is up, and what is in force."""
        encrypted = self._is_open(CCP_PROTOCOL) or not self.encryption.required
        if encrypted and any(self._is_open(protocol) for protocol in NETWORKS):
            self._link_up()
        elif self._said is not None:
            self._said = None
            self._events.append(LinkReset(layer.NAME))

    def _link_up(self) -> None:
        lcp, ipcp = self.lcp, self.ipcp if self._is_open(IPCP_PROTOCOL) else None
        ipv6cp = self.ipv6cp if self._is_open(IPV6CP_PROTOCOL) else None
        bcp = self.bcp if self._is_open(BCP_PROTOCOL) else None
        cipher = self.ccp.cipher if self.ccp else None
        self._open_by = None
        theirs = lcp.theirs
        link = LinkUp(
            user=self.user, method=lcp.method,
            local_address=ipcp.local_address if ipcp else NOWHERE, remote_address=ipcp.remote_address if ipcp else NOWHERE,
            mtu=min(self.settings.mtu, lcp.peer_mru) - (MPPE_HEADER if cipher and cipher.send else 0), mru=lcp.mru,
            accm=theirs.get(ACCM, 0xFFFFFFFF),
            pfc=PFC in theirs, acfc=ACFC in theirs, our_magic=lcp.magic, peer_magic=theirs.get(MAGIC, 0), dns=ipcp.dns if ipcp else (),
            cipher=cipher, ipv6=ipv6cp is not None, local_identifier=ipv6cp.local_identifier if ipv6cp else 0,
            remote_identifier=ipv6cp.remote_identifier if ipv6cp else 0,
            bridged=bcp is not None, tagged=bcp is not None and bcp.tagged, stp=bcp is not None and bcp.stp)
        if link != self._said:
            self._said = link
            self._events.append(link)

    def _wind_up(self) -> None:
        """LCP says goodbye and nothing else runs; its own timer ends it."""
        self.phase = TERMINATE
        self._open_by = self._authenticate_by = None

    def _finish(self, reason: Reason) -> None:
        if not self._ended:
            self._ended, self.phase = True, DEAD
            self.authentication = self._request = None
            self.ncps = {}
            self._events.append(LinkDown(self._reason or reason))
