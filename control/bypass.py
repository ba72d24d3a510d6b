"""May frames pass the kernel's output by? Not where somebody put something there that they would escape: nftables or iptables rules
on what this machine sends, or IPsec policies. For the supervisor, which may ask (CAP_NET_ADMIN) and is woken when that changes;
iptables' old kind tells nobody, and is looked at when something else does.
"""
from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from .netlink import NETFILTER, XFRM, Netlink, attributes

log = logging.getLogger("headrace.bypass")

NFT_MSG_GETCHAIN, NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES = 4, 10, 7
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_USE, NFTA_CHAIN_TYPE = 1, 3, 4, 5, 6, 7
NFTA_HOOK_HOOKNUM = 1
NFPROTO_INET, NFPROTO_IPV4 = 1, 2
OUTPUT, POSTROUTING, ACCEPT = 3, 4, 1
XFRM_MSG_GETPOLICY, XFRMNLGRP_POLICY, XFRM_POLICY_OUT = 0x15, 4, 1
XFRM_DIRECTION = 160            # where in struct xfrm_userpolicy_info the direction stands
IPTABLES = Path("/proc/net/ip_tables_names")


def reasons() -> list[str]:
    """Why not; none: they may."""
    return [*nftables(), *iptables(), *ipsec()]


def asked(family: int, kind: int, body: bytes) -> list[bytes]:
    """What the kernel tells of all of a kind; nothing when it does not have them at all."""
    try:
        with contextlib.closing(Netlink(family)) as netlink:
            return [one for _, one in netlink.ask(kind, body, dump=True)]
    except PermissionError:
        raise
    except OSError:
        return []


def nftables() -> list[str]:
    """Chains on what leaves that do something. Those for NAT are left out: they are for connections, and none of them is GRE's."""
    found = []
    for body in asked(NETFILTER, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, struct.pack("=BBH", 0, 0, 0)):
        chain = attributes(body[4:])
        family, hook = body[0], number(attributes(chain.get(NFTA_CHAIN_HOOK, b"")).get(NFTA_HOOK_HOOKNUM))
        out = family in (NFPROTO_INET, NFPROTO_IPV4) and hook in (OUTPUT, POSTROUTING)     # an interface's egress has frames too
        busy = number(chain.get(NFTA_CHAIN_USE)) or number(chain.get(NFTA_CHAIN_POLICY, b"\1")) != ACCEPT
        if NFTA_CHAIN_HOOK in chain and out and busy and name(chain.get(NFTA_CHAIN_TYPE, b"")) != "nat":
            found.append(f"nftables' chain {name(chain[NFTA_CHAIN_NAME])} of table {name(chain[NFTA_CHAIN_TABLE])}")
    return found


def iptables() -> list[str]:
    """Tables of the old kind, whose rules only iptables itself reads."""
    try:
        return [f"iptables' table {table}" for table in IPTABLES.read_text().split() if table != "nat"]
    except OSError:
        return []


def ipsec() -> list[str]:
    """Policies on what leaves."""
    policies = asked(XFRM, XFRM_MSG_GETPOLICY, bytes(64))
    return ["an IPsec policy"] if any(body[XFRM_DIRECTION:XFRM_DIRECTION + 1] == bytes([XFRM_POLICY_OUT]) for body in policies) else []


class Bypass:
    """The decision, and what it hangs on. `allow` tells the workers; `mode` is [server.pptp] gre-transmit."""

    def __init__(self, mode: str, allow: Callable[[bool], None]) -> None:
        self.mode, self.allow = mode, allow
        self.said: list[str] | None = None
        self.sources: list[Netlink] = []
        for family, group in ((NETFILTER, NFNLGRP_NFTABLES), (XFRM, XFRMNLGRP_POLICY)) if mode == "auto" else ():
            with contextlib.suppress(OSError):          # the kernel may have neither
                self.sources.append(Netlink(family, (group,)))
        self.decide()

    def sockets(self) -> list[socket.socket]:
        """They can be read when something changed."""
        return [source.sock for source in self.sources]

    def changed(self) -> None:
        for source in self.sources:
            source.events()
        self.decide()

    def decide(self) -> None:
        why = reasons() if self.mode == "auto" else []
        self.allow(not why)
        if why != self.said:
            self.said = why
            log.info("PPTP's data leaves %s", f"by the raw socket, since it would escape {' and '.join(why)}" if why
                     else "as frames of our own, where the next hop is known")

    def close(self) -> None:
        for source in self.sources:
            source.close()


def number(value: bytes | None) -> int:
    return int.from_bytes(value or b"")


def name(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
