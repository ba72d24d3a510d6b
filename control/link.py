"""What a PPP link is told (LinkSettings), what it tells (LinkUp, LinkJoined, LinkReset, CipherReset, LinkDown), and what its
layers ask of it (Link, Base). Beside them the framing that LCP, the NCPs, PAP and CHAP share (RFC 1661
section 5, RFC 1334 section 2.2, RFC 1994 section 4).

     0                   1                   2                   3
    |     Code      |  Identifier   |            Length             |
    |    Data ...
"""
from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Literal, Protocol

from .mppe import IN_CLEAR, Cipher, Policy
from .reason import Reason

if TYPE_CHECKING:
    from .auth import AuthRequest
    from .automaton import Automaton
    from .bundle import Bundle

# PPP protocol numbers (RFC 1661 section 2, and the registry for the rest).
IP, LCP_PROTOCOL, IPCP_PROTOCOL, CCP_PROTOCOL, PAP_PROTOCOL, CHAP_PROTOCOL = 0x0021, 0xC021, 0x8021, 0x80FD, 0xC023, 0xC223
IPV6, IPV6CP_PROTOCOL = 0x0057, 0x8057
BRIDGED, BCP_PROTOCOL = 0x0031, 0x8031
MULTILINK = 0x003D

# What may arrive without a layer that waits for it, and is then no news.
QUIET = (IP, IPV6, BRIDGED, PAP_PROTOCOL, CHAP_PROTOCOL)

MOST_LINKS = 8          # of a bundle; fastpath/bundle.pxd has room for so many

LEAST_IPV6_MTU = 1280   # RFC 8200 section 5: a link that takes less carries no IPv6

DEFAULT_MRU = 1500   # RFC 1661 section 6.1: in force when nobody negotiates another

Role = Literal["server", "client"]


@dataclass(frozen=True, slots=True)
class Bridging:
    """That a link is to carry Ethernet frames, and which."""
    stp: bool = True                # spanning tree's, too


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One object serves every link of a listener: it is read, never written."""
    mru: int = 1450                 # what we ask the peer to keep to (max-mru)
    mtu: int = 1450                 # the most we send; the peer's MRU may lower it (max-mtu)
    # Of mschap2 mschap1 chap pap. A server offers them in this order; a client agrees to these.
    authentication: tuple[str, ...] = ("mschap2", "mschap1")
    name: str = "headrace"          # how we call ourselves in challenges
    user: str = ""                  # client: whom we are, and how we prove it
    password: str = ""
    encryption: Policy = IN_CLEAR   # client; a server's Accept tells it
    ip: bool = True                 # client: which families to ask for; a server's Accept tells it
    ipv6: bool = False
    bridging: Bridging | None = None    # client: ask for Ethernet; a server's Accept tells it
    use_peer_dns: bool = False      # client: ask for name servers (RFC 1877)
    pfc: bool = False               # ask the peer to compress the protocol field toward us
    acfc: bool = False              # ask the peer to leave out FF 03 toward us
    mrru: int = 0                   # the largest packet that we put together from fragments (RFC 1990); 0: no multilink
    short_sequence: bool = False    # ask the peer for sequence numbers of 12 bits toward us
    discriminator: bytes = b""      # what we call ourselves in a bundle, its class in front; b"": nothing
    restart: float = 3.0            # RFC 1661 section 4.6: Restart timer and counters
    max_configure: int = 10
    max_terminate: int = 2
    max_failure: int = 5
    authentication_timeout: float = 30.0   # from LCP opened to the verdict
    open_timeout: float = 60.0             # from the start of LCP to an open network protocol


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link carries user data. It is emitted before our last Configure-Ack is drained, and again,
    with all that is in force, when an NCP opened or ended and the link stays up."""
    user: str                       # as on the wire, with DOMAIN\\ where the peer sent one
    method: str                     # of the authentication; "" where a client was not asked
    local_address: IPv4Address      # 0.0.0.0 when IPCP is not open
    remote_address: IPv4Address     # 0.0.0.0 also when a server tells its client none
    mtu: int                        # the largest packet that we may send
    mru: int                        # the largest that the peer may send
    accm: int                       # what the peer asked for; of no effect over a packet link
    pfc: bool                       # whether we may compress the protocol field when we send
    acfc: bool                      # whether we may leave out FF 03 when we send
    our_magic: int                  # 0: none negotiated
    peer_magic: int
    dns: tuple[IPv4Address, ...]    # server: given to the peer; client: given to us
    cipher: Cipher | None = None    # None: all in clear
    ipv6: bool = False              # IPV6CP is open
    local_identifier: int = 0       # of the link-local addresses, 64 bits
    remote_identifier: int = 0      # 0: the peer will not have one
    bridged: bool = False           # BCP is open
    tagged: bool = False            # the peer takes Ethernet frames with an 802.1Q tag
    stp: bool = False               # and spanning tree's

    @property
    def ip(self) -> bool:
        """IPCP is open."""
        return int(self.local_address) != 0

    @property
    def encoding(self) -> str:
        """As `sessions` and `monitor` show it; "" without encryption."""
        return self.cipher.encoding if self.cipher else ""


@dataclass(frozen=True, slots=True)
class LinkJoined:
    """The link is open and carries its bundle's user data together with others. It is emitted before the peer hears that it is
    authenticated, and before the bundle itself says anything."""
    bundle: Bundle
    mtu: int                        # the largest frame of ours that the peer takes
    mru: int
    accm: int                       # the rest as in LinkUp
    pfc: bool
    acfc: bool
    our_magic: int
    peer_magic: int


@dataclass(frozen=True, slots=True)
class LinkReset:
    """A link that was up or in a bundle is not any more, by renegotiation or because it is ending: user data stops.
    LinkUp or LinkDown follows; none follows soon when the peer terminated only its NCP."""
    stage: str                      # lcp | ipcp …: the layer that left its OPENED state


@dataclass(frozen=True, slots=True)
class CipherReset:
    """The peer lost track of what we encrypt: begin anew, and flag it (RFC 3078 section 8)."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The last event of a link, once."""
    reason: Reason


class Link(Protocol):
    """What every layer asks of the link, or the network, that it belongs to."""

    @property
    def peer_mru(self) -> int: ...
    def send(self, protocol: int, packet: bytes) -> None: ...
    def layer_up(self, layer: Automaton, now: float) -> None: ...
    def layer_down(self, layer: Automaton, now: float) -> None: ...
    def layer_finished(self, layer: Automaton, now: float) -> None: ...
    def ending(self, reason: Reason) -> None: ...
    def close(self, reason: Reason, now: float) -> None: ...


class Base(Link, Protocol):
    """What LCP and the authentication protocols ask of their link besides."""

    def protocol_rejected(self, protocol: int, now: float) -> None: ...
    def requested(self, request: AuthRequest, now: float) -> None: ...
    def granted(self, now: float) -> None: ...


class Compressed(Link, Protocol):
    """What CCP asks of its network besides."""

    def reset_requested(self, now: float) -> None: ...


def pull_packet(packet: bytes) -> tuple[int, int, bytes] | None:
    """(code, identifier, data), without the padding behind Length; None when it is cut short."""
    if len(packet) < 4:
        return None
    length = packet[2] << 8 | packet[3]
    if length < 4 or length > len(packet):
        return None
    return packet[0], packet[1], packet[4:length]


def push_packet(code: int, identifier: int, data: bytes = b"") -> bytes:
    length = len(data) + 4
    return bytes((code, identifier, length >> 8, length & 255)) + data


def printable(message: bytes) -> str:
    """A peer's free text as it may stand in a log: ASCII, on one line, not too long."""
    return "".join(chr(c) if 32 <= c < 127 else "." for c in message[:128])
