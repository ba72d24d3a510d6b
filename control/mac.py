"""Ethernet addresses in the shape that paths have: 16 octets that no IP address is.

    FF FF | TPID, VLAN id of the outer tag | ... of the inner tag | MAC
      2   |        2 + 2                   |        2 + 2         |  6

A tag that is not there is all zero, and so is a priority tag (VLAN id 0): it says how urgent a frame is, not in which network. The same
MAC in two VLANs is therefore two peers, and what is in front of the MAC names the network, in which PPPoE's session ids are unique.
"""
from __future__ import annotations

import re
from functools import lru_cache

MARK = b"\xff\xff"
C_TAG, S_TAG = 0x8100, 0x88A8       # TPIDs of IEEE 802.1Q
BROADCAST = b"\xff" * 6
NETWORK = 10                        # octets in front of the MAC

Vlan = tuple[int, int]              # TPID, VLAN id


def station(mac: bytes, vlans: tuple[Vlan, ...] = ()) -> bytes:
    """The address of that MAC behind up to two tags, the outer one first."""
    if len(mac) != 6 or len(vlans) > 2:
        raise ValueError(f"a MAC of {len(mac)} octets behind {len(vlans)} tags")
    tags = b"".join(tpid.to_bytes(2) + vlan.to_bytes(2) for tpid, vlan in vlans if vlan)
    return MARK + tags.ljust(8, b"\0") + mac


def is_station(address: bytes) -> bool:
    return address[:2] == MARK


def mac(address: bytes) -> bytes:
    return address[NETWORK:]


def network(address: bytes, port: int = 0) -> bytes:
    """The 16 octets that all stations of its network share, on the interface behind that port."""
    return address[:NETWORK] + bytes(5) + bytes((port,))


def vlans(address: bytes) -> tuple[Vlan, ...]:
    """Its tags, the outer one first."""
    words = [int.from_bytes(address[at:at + 2]) for at in range(2, NETWORK, 2)]
    return tuple((tpid, vlan) for tpid, vlan in (words[:2], words[2:]) if tpid)


@lru_cache(4096)
def shown(address: bytes) -> str:
    """As people write it: 02:00:5E:10:00:01, and 02:00:5E:10:00:01@100.7 in VLAN 7 of service VLAN 100."""
    text = address[NETWORK:].hex(":").upper()
    tags = ".".join(str(vlan) for _, vlan in vlans(address))
    return f"{text}@{tags}" if tags else text


def parse(text: str) -> bytes:
    """The 6 octets of a MAC as people write it; ValueError."""
    if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", text):
        raise ValueError('must be a MAC address such as "02:00:5E:10:00:01"')
    return bytes.fromhex(re.sub("[:-]", "", text))
