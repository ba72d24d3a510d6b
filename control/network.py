"""What lies above one link, or above a bundle of links: CCP and the NCPs that policy wants (`wanted`), which open and end on their own.

It is up while one of NETWORKS is open, and encryption too where that is required. When another NCP opens or ends meanwhile, LinkUp says
again all that is in force, and nothing is interrupted. Whom it belongs to, a PPP link or a Bundle, is its carrier: that one ends it,
sends for it, and says what it has to say.
"""
from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Protocol

from .auth import Accept
from .automaton import INITIAL, OPENED, Automaton
from .bcp import BCP
from .ccp import CCP
from .ipcp import IPCP, NOWHERE
from .ipv6cp import IPV6CP
from .link import (
    BCP_PROTOCOL,
    CCP_PROTOCOL,
    IPCP_PROTOCOL,
    IPV6CP_PROTOCOL,
    LEAST_IPV6_MTU,
    CipherReset,
    LinkReset,
    LinkSettings,
    LinkUp,
    Role,
)
from .mppe import Keys, Policy
from .reason import Reason

MPPE_HEADER = 4     # octets by which a packet grows: MPPE's header, and the protocol number that it hides

# The NCPs that carry user data: without one of them there is no network to speak of.
NETWORKS = (IPCP_PROTOCOL, IPV6CP_PROTOCOL, BCP_PROTOCOL)


class Carrier(Protocol):
    """What a network asks of its link or bundle."""
    role: Role
    settings: LinkSettings
    random: Random

    @property
    def peer_mru(self) -> int: ...      # for packets of NCPs
    @property
    def mtu(self) -> int: ...           # for user data, before it is encrypted
    @property
    def method(self) -> str: ...        # of the authentication
    def facts(self) -> dict[str, Any]: ...      # the fields of LinkUp that are not the network's
    def send(self, protocol: int, packet: bytes) -> None: ...
    def network_up(self, link: LinkUp) -> None: ...
    def network_event(self, event: LinkReset | CipherReset) -> None: ...
    def network_down(self, now: float) -> None: ...         # it must be up again in time
    def ending(self, reason: Reason) -> None: ...
    def recovered(self) -> None: ...
    def close(self, reason: Reason, now: float) -> None: ...


class Network:
    """`accept` is what a server gives, a client has none; `keys` are what authentication yielded."""

    __slots__ = ("accept", "carrier", "keys", "ncps", "said")

    def __init__(self, carrier: Carrier, accept: Accept | None, keys: Keys | None) -> None:
        self.carrier, self.accept, self.keys = carrier, accept, keys
        self.ncps: dict[int, Automaton] = {}     # by protocol number, in the order in which they were opened
        self.said: LinkUp | None = None          # while it is up: the last that was said of it

    def open(self, now: float) -> None:
        if self.encryption.required and self.keys is None:
            method = self.carrier.method or "a link without authentication"
            text = f"{method} yields no keys to encrypt with, and use-encryption is require"
            return self.carrier.close(Reason("authentication", "no-keys", text), now)
        self.ncps = {ncp.PROTOCOL: ncp for ncp in self.wanted()}
        for ncp in tuple(self.ncps.values()):
            ncp.open(now)
            if ncp.PROTOCOL == CCP_PROTOCOL:    # the others wait until it is settled, so that nothing need pass in clear
                break

    def wanted(self) -> Iterator[Automaton]:
        """The NCPs that policy wants, in the order in which they are opened."""
        accept, settings, random = self.accept, self.carrier.settings, self.carrier.random
        if self.keys and self.encryption.use != "no":
            yield CCP(self.encryption, self.keys, self, settings, random)
        ip = accept.remote_address is not None if accept else settings.ip
        ipv6 = accept.ipv6 if accept else settings.ipv6
        if ip:
            yield IPCP(accept, self, settings, random)
        header = MPPE_HEADER if self.encryption.use != "no" else 0
        if ipv6 and self.carrier.mtu - header >= LEAST_IPV6_MTU:
            yield IPV6CP(self.carrier.role, self, settings, random)
        bridging = accept.bridging if accept else settings.bridging
        if bridging:
            yield BCP(bridging, self, settings, random)

    # What the wire and the clock bring

    def receive(self, protocol: int, payload: bytes, now: float) -> bool:
        """Whether one of its protocols heard that."""
        ncp = self.ncps.get(protocol)
        if ncp is None:
            return False
        if ncp.state == INITIAL:    # it waits for CCP, and the peer does not
            ncp.open(now)
        ncp.receive(payload, now)
        return True

    def tick(self, now: float) -> None:
        for ncp in tuple(self.ncps.values()):       # one of them may end the link
            ncp.tick(now)

    def timers(self) -> Iterator[float | None]:
        return (ncp.timer for ncp in self.ncps.values())

    def protocol_rejected(self, protocol: int, now: float) -> bool:
        """The peer does not know a protocol; whether it is one of ours."""
        if protocol in self.ncps:
            self.ncps[protocol].reject(now)
            return True
        return False

    def down(self, stage: str, now: float) -> None:
        """What carries it is not there any more."""
        ncps, self.ncps = self.ncps, {}
        self._settle(stage)
        for ncp in ncps.values():
            ncp.fire("Down", now)

    # What the NCPs ask of their link (link.Link)

    @property
    def peer_mru(self) -> int:
        return self.carrier.peer_mru

    def send(self, protocol: int, packet: bytes) -> None:
        self.carrier.send(protocol, packet)

    def ending(self, reason: Reason) -> None:
        self.carrier.ending(reason)

    def close(self, reason: Reason, now: float) -> None:
        self.carrier.close(reason, now)

    def reset_requested(self, now: float) -> None:
        self.carrier.network_event(CipherReset())

    def layer_up(self, layer: Automaton, now: float) -> None:
        self.carrier.recovered()
        self._settle(layer.NAME)
        self._open_waiting(layer, now)

    def layer_down(self, layer: Automaton, now: float) -> None:
        if layer.PROTOCOL in self.ncps:
            self._settle(layer.NAME)
            if self.said is None and not layer.terminated:
                self.carrier.network_down(now)

    def layer_finished(self, layer: Automaton, now: float) -> None:
        """An NCP may end without the link (RFC 1661 section 3.6)."""
        if self.said is not None and layer.PROTOCOL in NETWORKS:       # what it noted is no reason for the link to end
            self.carrier.recovered()
        self._open_waiting(layer, now)

    def _open_waiting(self, layer: Automaton, now: float) -> None:
        """CCP is open, or will not be."""
        if layer.PROTOCOL == CCP_PROTOCOL:
            for ncp in tuple(self.ncps.values()):
                if ncp.state == INITIAL:
                    ncp.open(now)

    # How it stands

    @property
    def encryption(self) -> Policy:
        return self.accept.encryption if self.accept else self.carrier.settings.encryption

    @property
    def shut(self) -> str:
        """The first layer that should be open, or "link"."""
        return next((ncp.NAME for ncp in self.ncps.values() if self._is_needed(ncp) and ncp.state != OPENED), "link")

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

    def _settle(self, stage: str) -> None:
        """A layer opened, or is open no more: say whether the network is up, and what is in force."""
        encrypted = self._is_open(CCP_PROTOCOL) or not self.encryption.required
        if encrypted and any(self._is_open(protocol) for protocol in NETWORKS):
            self._up()
        elif self.said is not None:
            self.said = None
            self.carrier.network_event(LinkReset(stage))

    def _up(self) -> None:
        ipcp = self.ipcp if self._is_open(IPCP_PROTOCOL) else None
        ipv6cp = self.ipv6cp if self._is_open(IPV6CP_PROTOCOL) else None
        bcp = self.bcp if self._is_open(BCP_PROTOCOL) else None
        cipher = self.ccp.cipher if self.ccp else None
        link = LinkUp(
            **self.carrier.facts(), mtu=self.carrier.mtu - (MPPE_HEADER if cipher and cipher.send else 0),
            local_address=ipcp.local_address if ipcp else NOWHERE, remote_address=ipcp.remote_address if ipcp else NOWHERE,
            dns=ipcp.dns if ipcp else (), cipher=cipher, ipv6=ipv6cp is not None,
            local_identifier=ipv6cp.local_identifier if ipv6cp else 0, remote_identifier=ipv6cp.remote_identifier if ipv6cp else 0,
            bridged=bcp is not None, tagged=bcp is not None and bcp.tagged, stp=bcp is not None and bcp.stp)
        if link != self.said:
            self.said = link
            self.carrier.network_up(link)
