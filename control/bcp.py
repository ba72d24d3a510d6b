"""The Bridging Control Protocol (RFC 3518): the link carries Ethernet frames, of a transparent bridge at each end.

Options announce what a side can receive; hardly anything is negotiated. We take Ethernet alone, with 802.1Q's tags, and frames of
spanning tree among the others (Management-Inline) where the policy lets them pass. What a frame looks like is fastpath/bridge.pxd's.

Rejected are what belongs to source routing (Bridge- and Line-Identification), the spanning tree's old format, in which a protocol was
agreed upon and had numbers of its own in PPP, the obsolete LAN-Identification, and the bit that marks bridges' control packets: we
neither set nor read it. Tinygram compression may be announced, and is not used.
"""
from __future__ import annotations

from random import Random
from typing import Any

from .automaton import OPENED, Automaton
from .fields import Field, Kind, flag, raw, u8, u16
from .link import BCP_PROTOCOL, Bridging, Link, LinkSettings
from .reason import Reason

(BRIDGE_IDENTIFICATION, LINE_IDENTIFICATION, MAC_SUPPORT, TINYGRAM_COMPRESSION, LAN_IDENTIFICATION, MAC_ADDRESS, SPANNING_TREE_PROTOCOL,
 TAGGED_FRAME, MANAGEMENT_INLINE, CONTROL_PACKET_INDICATOR) = range(1, 11)

ETHERNET = 1                    # a MAC type: IEEE 802.3 or Ethernet, addresses in canonical order
ENABLED, DISABLED = 1, 2        # values of options 4 and 8

mac = Kind("mac", 6, bytes, bytes)


class BCP(Automaton):
    """BCP of one link; both ends are alike."""

    PROTOCOL = BCP_PROTOCOL
    NAME = "bcp"
    OPTIONS = {
        BRIDGE_IDENTIFICATION: Field("bridge-identification", u16), LINE_IDENTIFICATION: Field("line-identification", u16),
        MAC_SUPPORT: Field("mac-support", u8), TINYGRAM_COMPRESSION: Field("tinygram-compression", u8),
        LAN_IDENTIFICATION: Field("lan-identification", u8), MAC_ADDRESS: Field("mac-address", mac),
        SPANNING_TREE_PROTOCOL: Field("spanning-tree-protocol", raw), TAGGED_FRAME: Field("ieee-802-tagged-frame", u8),
        MANAGEMENT_INLINE: Field("management-inline", flag), CONTROL_PACKET_INDICATOR: Field("bridge-control-packet-indicator", flag),
    }
    __slots__ = ("bridging", "suggested")

    def __init__(self, bridging: Bridging, link: Link, settings: LinkSettings, random: Random) -> None:
        self.bridging = bridging
        self.suggested = bytes((2, *random.randbytes(5)))       # a local address, for a peer without one: the same whenever it asks
        super().__init__(link, settings, random)

    # What is in force

    @property
    def tagged(self) -> bool:
        """The peer takes frames with an 802.1Q tag (section 5.8: without a word of it, it does not)."""
        return self.theirs.get(TAGGED_FRAME) == ENABLED

    @property
    def stp(self) -> bool:
        """Spanning tree's frames pass to the peer: it takes them, and the policy lets them."""
        return MANAGEMENT_INLINE in self.theirs

    # The policy

    def desired(self) -> dict[int, Any]:
        inline = {MANAGEMENT_INLINE: True} if self.bridging.stp else {}
        return {MAC_SUPPORT: ETHERNET, TAGGED_FRAME: ENABLED, **inline}

    def judge(self, kind: int, value: Any, now: float) -> Any:
        if kind == MAC_SUPPORT:         # a list, an option for each type: what else the peer takes does no harm
            return value or ETHERNET
        if kind == TINYGRAM_COMPRESSION:
            return value if value in (ENABLED, DISABLED) else DISABLED
        if kind == TAGGED_FRAME:
            return value if value in (ENABLED, DISABLED) else ENABLED
        if kind == MAC_ADDRESS:         # section 5.6: zeros ask for one; a group's is nobody's
            return value if value and any(value) and not value[0] & 1 else self.suggested
        if kind == MANAGEMENT_INLINE and self.bridging.stp:
            return True
        return None

    def adapt(self, kind: int, value: Any, now: float) -> None:
        """A peer that would rather not hear of tags is told that we do without, too. There is nothing to change about the others."""
        if kind == TAGGED_FRAME and value in (ENABLED, DISABLED):
            self.ours[kind] = value

    def unusable(self, what: str) -> None:
        if self.state != OPENED:   # else the link outlives it, and ends for a reason of its own
            self.link.ending(Reason("bcp", "rejected", f"the peer rejected {what} of BCP, and nothing else is open"))
