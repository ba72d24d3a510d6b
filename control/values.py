"""The kinds of values in the configuration file: each has one spelling once it is read, and a sentence for what is none of it.

A ValueError's text goes behind "KEY is VALUE, but" (config.py).
"""
from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StrictInt, StringConstraints

from . import duration, mac

LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"    # of a domain name
INTERFACE = "[A-Za-z0-9_.-]{1,15}"             # what a network interface may be called


def _listener(text: Any, default: int = 1701) -> str:
    """One spelling for each address and port, so that duplicates show: `0.0.0.0:1701`, `[::]:1701`."""
    match = re.fullmatch(rf"(?:\[([0-9A-Fa-f:.]+(?:%{INTERFACE})?)\]|([0-9.]+))(?::(\d{{1,5}}))?", text) if isinstance(text, str) else None
    problem = 'must be an address and a port such as "0.0.0.0:1701" or "[::]:1701"'
    if not match:
        raise ValueError(problem)
    six, four, port = match.groups()
    number = int(port) if port else default
    if not 1 <= number <= 65535:
        raise ValueError(f"{problem}, with a port from 1 to 65535")
    try:
        address = IPv6Address(six) if six else IPv4Address(four)
    except AddressValueError:
        raise ValueError(problem)
    if isinstance(address, IPv4Address):
        return f"{address}:{number}"
    if address.is_link_local != bool(address.scope_id):
        raise ValueError('must name the interface of a link-local address, and of no other, as in "[fe80::1%eth0]:1701"')
    return f"[{address}]:{number}"


def _listener4(text: Any) -> str:
    """GRE of PPTP is defined over IPv4 alone."""
    if isinstance(text, str) and text.startswith("["):
        raise ValueError('must be an IPv4 address and a port such as "0.0.0.0:1723"; PPTP knows no other')
    return _listener(text, 1723)


def _network(text: Any) -> IPv4Network:
    if isinstance(text, IPv4Network):
        return text
    try:
        loose = IPv4Network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        loose = None
    if loose is None:
        raise ValueError('must be an IPv4 prefix such as "10.67.0.0/16"')
    if str(loose.network_address) != text.split("/")[0]:
        raise ValueError(f'has bits set beyond its length, and "{loose}" would be right')
    if loose.prefixlen < 8:
        raise ValueError("must not be wider than a /8")
    return loose


def _address(value: Any) -> IPv4Address:
    try:
        if isinstance(value, (str, IPv4Address)):
            address = IPv4Address(value)
            if not (address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF):
                return address
    except AddressValueError:
        pass
    raise ValueError('must be an IPv4 address such as "10.67.0.1"')


def _pool_or_address(value: Any) -> IPv4Address | str:
    """A name is a pool's; what looks like an address must be one."""
    if not isinstance(value, str) or not value:
        raise ValueError('must be an IPv4 address such as "10.67.0.9", or the name of a pool')
    return _address(value) if re.fullmatch(r"[0-9.]+", value) else value


def _network6(text: Any) -> IPv6Network:
    if isinstance(text, IPv6Network):
        return text
    try:
        loose = IPv6Network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        loose = None
    if loose is None:
        raise ValueError('must be an IPv6 prefix such as "2001:db8:67::/48"')
    if IPv6Address(text.split("/")[0]) != loose.network_address:
        raise ValueError(f'has bits set beyond its length, and "{loose}" would be right')
    if loose.is_multicast or loose.is_link_local or not int(loose[0]) >> 64:
        raise ValueError("must be global addresses, or unique local ones")
    return loose


def _link_prefix(value: Any) -> IPv6Network:
    network = _network6(value)
    if network.prefixlen != 64:
        raise ValueError("must be a /64: hosts make their addresses in it")
    return network


def _delegated(value: Any) -> IPv6Network:
    network = _network6(value)
    if not 32 <= network.prefixlen <= 64:
        raise ValueError("must be from a /32 to a /64")
    return network


def _address6(value: Any) -> IPv6Address:
    try:
        if isinstance(value, (str, IPv6Address)):
            address = IPv6Address(value)
            if not (address.is_multicast or address.is_link_local or not int(address) >> 64):
                return address
    except AddressValueError:
        pass
    raise ValueError('must be an IPv6 address such as "2001:db8:67::1", global or unique local')


def _server(value: Any) -> IPv4Address | IPv6Address:
    """A name server's, of either family."""
    if isinstance(value, IPv6Address) or (isinstance(value, str) and ":" in value):
        return _address6(value)
    return _address(value)


def two_of_each(servers: tuple[Any, ...]) -> tuple[Any, ...]:
    for family in 4, 6:
        if sum(server.version == family for server in servers) > 2:
            raise ValueError(f"has more than two of IPv{family}; at most two can be told")
    return servers


def _domain(text: Any) -> str:
    if isinstance(text, str) and len(text) <= 253 and re.fullmatch(rf"{LABEL}([.]{LABEL})*", text):
        return text
    raise ValueError('must be a domain name such as "example.net"')


def one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def no_ring(value: Any) -> Any:
    if value == "ring":
        raise ValueError('frames leave by a packet socket, and not by a ring any more: write "packet" for what that did, or "auto"')
    return value


def absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError('must be an absolute path such as "/run/headrace"')
    return path


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"names {twice[0]} twice, and once would be right")
    return values


def _mrru(value: Any) -> int | str:
    if value == "disabled" or (type(value) is int and 512 <= value <= 65535):
        return value
    raise ValueError('must be "disabled" or a number from 512 to 65535')


def _dscp(value: Any) -> int | str:
    if value == "inherit" or (type(value) is int and 0 <= value <= 63):
        return value
    raise ValueError('must be "inherit" or a number from 0 to 63')


def _keepalive(value: Any) -> float:
    """In a session's record it is a number of ticks, in 16 bits."""
    seconds = duration.parse(value)
    if seconds and not 0.1 <= seconds <= 3600:
        raise ValueError("must be from 100ms to 1h, or 0s for never")
    return seconds


def _caller(value: Any) -> str:
    """One spelling for each, which is how callers are shown (address.shown)."""
    text = value if isinstance(value, str) else ""
    try:
        if match := re.fullmatch(r"([0-9A-Fa-f:-]{17})((?:@[1-9]\d{0,3}(?:\.[1-9]\d{0,3})?)?)", text, re.ASCII):
            return _mac(match[1]) + match[2]
        address = ip_address(text)
    except ValueError:
        raise ValueError('must be an address such as "192.0.2.7", or of PPPoE a MAC address such as "02:00:5E:10:00:01"')
    return str(address)


def _mac(value: Any) -> str:
    """One spelling for each."""
    return mac.parse(value if isinstance(value, str) else "").hex(":").upper()


def _vlans(value: Any) -> str:
    """From which VLAN to which, of the outer tag and behind a point of the inner one; one spelling for each."""
    text = str(value) if type(value) is int else value
    tag = r"(\d{1,4})(?:-(\d{1,4}))?"
    match = re.fullmatch(rf"{tag}(?:\.{tag})?", text) if isinstance(text, str) else None
    if text == "untagged":
        return text
    if match:
        ends = [(int(low), int(high or low)) for low, high in (match.groups()[:2], match.groups()[2:]) if low]
        if all(1 <= low <= high <= 4094 for low, high in ends):
            return ".".join(f"{low}-{high}" if low < high else str(low) for low, high in ends)
    raise ValueError('must be VLANs such as "100-199", two tags such as "100.7" or "100-199.1-4094", or "untagged"')


def _octets(text: str) -> str:
    if len(text.encode()) > 64:
        raise ValueError("must have at most 64 octets")
    return text


def _delays(value: Any) -> Any:
    """What is said once is said for any number of sessions; `refuse` is a delay too."""
    table = value if isinstance(value, dict) else {"0": value}
    delays: dict[str, str | float] = {}
    for sessions, delay in table.items():
        if not re.fullmatch(r"\d{1,7}", sessions):
            raise ValueError(f'has "{sessions}", where a number of sessions must be')
        seconds = delay if delay == "refuse" else duration.parse(delay)
        if seconds != "refuse" and seconds > 10:
            raise ValueError('must be at most 10s, or "refuse"')
        delays[str(int(sessions))] = seconds
    return delays


def horizon(value: int) -> int:
    if 0 <= value <= 0xFFFFFFFF:
        return value
    raise ValueError("must be from 0 to 4294967295")


def priority(value: int) -> int:
    if 0 <= value <= 240 and value % 16 == 0:
        return value
    raise ValueError("must be a multiple of 16 from 0 to 240")


Duration = Annotated[float, BeforeValidator(duration.parse)]
Keepalive = Annotated[float, BeforeValidator(_keepalive)]
Caller = Annotated[str, BeforeValidator(_caller)]
Mac = Annotated[str, BeforeValidator(_mac)]
Vlans = Annotated[str, BeforeValidator(_vlans)]
Octets = Annotated[str, AfterValidator(_octets)]
Delays = Annotated[dict[str, Literal["refuse"] | float], BeforeValidator(_delays)]
Rate = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Listener = Annotated[str, BeforeValidator(_listener)]
Listener4 = Annotated[str, BeforeValidator(_listener4)]
Address = Annotated[IPv4Address, BeforeValidator(_address), PlainSerializer(str)]
Network = Annotated[IPv4Network, BeforeValidator(_network), PlainSerializer(str)]
PoolOrAddress = Annotated[IPv4Address | str, BeforeValidator(_pool_or_address), PlainSerializer(str)]
Server6 = Annotated[IPv4Address | IPv6Address, BeforeValidator(_server), PlainSerializer(str)]
Address6 = Annotated[IPv6Address, BeforeValidator(_address6), PlainSerializer(str)]
Network6 = Annotated[IPv6Network, BeforeValidator(_network6), PlainSerializer(str)]
LinkPrefix = Annotated[IPv6Network, BeforeValidator(_link_prefix), PlainSerializer(str)]
DelegatedPrefix = Annotated[IPv6Network, BeforeValidator(_delegated), PlainSerializer(str)]
Domain = Annotated[str, BeforeValidator(_domain)]
Interface = Annotated[str, StringConstraints(pattern=rf"^{INTERFACE}$")]
Key = tuple[str | int, ...]
Ranges = tuple[tuple[int, int], tuple[int, int]]
WORKERS = 16             # that a forwarder can have (fastpath/worker.pxd)
Mtu = Annotated[StrictInt, Field(ge=576, le=1500)]
Method = Literal["mschap2", "mschap1", "chap", "pap"]
Mrru = Annotated[Literal["disabled"] | int, BeforeValidator(_mrru)]
Dscp = Annotated[Literal["inherit"] | int, BeforeValidator(_dscp)]
