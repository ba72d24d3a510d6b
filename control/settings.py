"""What the configuration file may say: one class a table, one attribute a key.

Names are RouterOS' where it has one (kebab-case in the file, snake_case here). A key is here only
when the code that makes it work is; `later` names the keys that RouterOS users will try and that this
version refuses. Checks of one value stand here, checks across tables in config.py.
"""
from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)

from . import duration, mac
from .link import Bridging
from .mppe import Policy

BRIDGED_HEADER, MPPE_HEADER = 2, 4      # octets in front of a frame, and of what is encrypted

LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"    # of a domain name
SECRETS = {"password", "tunnel-secret"}     # values that no message repeats

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


def _two_of_each(servers: tuple[Any, ...]) -> tuple[Any, ...]:
    for family in 4, 6:
        if sum(server.version == family for server in servers) > 2:
            raise ValueError(f"has more than two of IPv{family}; at most two can be told")
    return servers


def _domain(text: Any) -> str:
    if isinstance(text, str) and len(text) <= 253 and re.fullmatch(rf"{LABEL}([.]{LABEL})*", text):
        return text
    raise ValueError('must be a domain name such as "example.net"')


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError('must be an absolute path such as "/run/headrace"')
    return path


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted({str(v) for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"names {twice[0]} twice, and once would be right")
    return values


def _dscp(value: Any) -> int | str:
    if value == "inherit" or (type(value) is int and 0 <= value <= 63):
        return value
    raise ValueError('must be "inherit" or a number from 0 to 63')


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


def _horizon(value: int) -> int:
    if 0 <= value <= 0xFFFFFFFF:
        return value
    raise ValueError("must be from 0 to 4294967295")


def _priority(value: int) -> int:
    if 0 <= value <= 240 and value % 16 == 0:
        return value
    raise ValueError("must be a multiple of 16 from 0 to 240")


Duration = Annotated[float, BeforeValidator(duration.parse)]
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
Domain = Annotated[str, BeforeValidator(_domain)]
Interface = Annotated[str, StringConstraints(pattern=rf"^{INTERFACE}$")]
Key = tuple[str | int, ...]
Ranges = tuple[tuple[int, int], tuple[int, int]]
WORKERS = 16             # that a forwarder can have (fastpath/worker.pxd)
Mtu = Annotated[StrictInt, Field(ge=576, le=1500)]
Method = Literal["mschap2", "mschap1", "chap", "pap"]
Dscp = Annotated[Literal["inherit"] | int, BeforeValidator(_dscp)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True,
                              alias_generator=lambda name: name.replace("_", "-"))
    later: ClassVar[frozenset[str]] = frozenset()


class Concentrator(Table):
    """[concentrator]: the process and its interface."""
    interface: Interface = "hr0"
    workers: Annotated[StrictInt, Field(ge=0, le=WORKERS)] = 0
    max_sessions: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 65536
    run_dir: Annotated[Path, AfterValidator(_absolute), PlainSerializer(str)] = Path("/run/headrace")
    offload: Literal["auto", "uso", "tso", "csum", "none"] = "auto"
    spin: Annotated[Duration, Field(le=0.01)] = 50e-6
    reorder_window: Annotated[StrictInt, Field(ge=1, le=256)] = 32
    reorder_time: Annotated[Duration, Field(le=1.0)] = 0.02
    log: Literal["debug", "info", "warning", "error"] = "info"
    forwarding: StrictBool = True
    masquerade: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,15}$")] = ""
    padi_limit: Rate = 20000


class Pool6(Table):
    """[ipv6-pool.NAME]: prefixes of one length, out of one larger prefix or several."""
    prefix: Annotated[tuple[Network6, ...], Field(min_length=1), BeforeValidator(_one_or_more)]
    prefix_length: Annotated[StrictInt, Field(ge=32, le=64)] = 64


class Profile(Table):
    """[profiles.NAME]: what a session gets. The secret's own address beats the profile's."""
    later: ClassVar[frozenset[str]] = frozenset((
        "use-compression", "rate-limit", "session-timeout", "idle-timeout", "on-up", "on-down",
        "address-list", "interface-list",
        "incoming-filter", "outgoing-filter"))
    local_address: Address | None = None
    remote_address: PoolOrAddress | None = None
    use_ipv6: Literal["no", "yes"] = "yes"
    local_ipv6_address: Address6 | None = None
    remote_ipv6_prefix_pool: str | None = None
    dhcpv6_pd_pool: str | None = None
    managed_address_configuration: StrictBool = False
    dns_server: Annotated[tuple[Server6, ...], AfterValidator(_distinct), AfterValidator(_two_of_each)] = ()
    domain_search: Annotated[tuple[Domain, ...], Field(max_length=3), AfterValidator(_distinct)] = ()
    wins_server: Annotated[tuple[Address, ...], Field(max_length=2), AfterValidator(_distinct)] = ()
    change_tcp_mss: StrictBool = True
    only_one: Literal["default", "no", "yes"] = "default"
    use_encryption: Literal["no", "yes", "require"] = "no"      # Config knows better of one of them
    mppe_strength: Annotated[tuple[Literal[128, 56, 40], ...], Field(min_length=1), AfterValidator(_distinct)] = (128, 56, 40)
    mppe_stateful: StrictBool = False
    bridge: Interface | None = None
    bridge_path_cost: Annotated[StrictInt, Field(ge=0, le=65535)] = 0
    bridge_port_priority: Annotated[StrictInt, AfterValidator(_priority)] | None = None
    bridge_learning: StrictBool = True
    bridge_horizon: Annotated[StrictInt, AfterValidator(_horizon)] | None = None
    bridge_stp: StrictBool = True

    @property
    def bridging(self) -> Bridging | None:
        return Bridging(self.bridge_stp) if self.bridge else None

    @property
    def port_priority(self) -> int | None:
        """As the kernel counts it, in 64 steps where spanning tree's numbers have 256."""
        return None if self.bridge_port_priority is None else self.bridge_port_priority >> 2

    @property
    def encryption(self) -> Policy:
        return Policy(self.use_encryption, self.mppe_strength, self.mppe_stateful)

    @property
    def dns4(self) -> tuple[IPv4Address, ...]:
        return tuple(server for server in self.dns_server if isinstance(server, IPv4Address))

    @property
    def dns6(self) -> tuple[IPv6Address, ...]:
        return tuple(server for server in self.dns_server if isinstance(server, IPv6Address))

    def gives_ipv6(self, secret: Secret) -> bool:
        """Whether a session with this profile and secret has any."""
        return self.use_ipv6 == "yes" and bool(secret.remote_ipv6_prefix or self.remote_ipv6_prefix_pool or self.dhcpv6_pd_pool)


class Secret(Table):
    """[secrets.USER]. Precedence: secret, then profile, then the server's default profile."""
    later: ClassVar[frozenset[str]] = frozenset((
        "routes", "limit-bytes-in", "limit-bytes-out", "rate-limit", "session-timeout", "idle-timeout"))
    password: str = Field(repr=False)
    profile: str | None = None
    service: Literal["any", "l2tp", "pptp", "pppoe"] = "any"
    remote_address: Address | None = None
    remote_ipv6_prefix: LinkPrefix | None = None
    caller_id: str | None = None


class Serving(Table):
    """What each [server.NAME] has. max-sessions 0: as many as the concentrator takes; keepalive-timeout 0: none."""
    enabled: StrictBool = False
    authentication: Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(_distinct)] = ("mschap2", "mschap1")
    default_profile: str = "default-encryption"
    max_mtu: Mtu = 1450
    max_mru: Mtu = 1450
    keepalive_timeout: Duration = 30.0
    max_sessions: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0

    def frame_room(self, encrypted: bool) -> int:
        """Octets of the largest Ethernet frame that a session carries, to a peer that takes what we send."""
        return self.max_mtu - BRIDGED_HEADER - (MPPE_HEADER if encrypted else 0)


class L2tp(Serving):
    """[server.l2tp]: L2TPv2 on UDP (RFC 2661)."""
    later: ClassVar[frozenset[str]] = frozenset((
        "mrru", "use-ipsec", "ipsec-secret", "one-session-per-host", "allow-fast-path", "caller-id-type"))
    listen: Annotated[tuple[Listener, ...], Field(min_length=1), AfterValidator(_distinct)] = ("0.0.0.0:1701",)
    dscp: Dscp = "inherit"
    tunnel_secret: str = Field(default="", repr=False)
    hidden: StrictBool = False


class Pptp(Serving):
    """[server.pptp]: PPTP on TCP and GRE (RFC 2637)."""
    later: ClassVar[frozenset[str]] = frozenset(["mrru"])
    listen: Annotated[tuple[Listener4, ...], Field(min_length=1), AfterValidator(_distinct)] = ("0.0.0.0:1723",)
    dscp: Dscp = "inherit"
    gre_transmit: Literal["auto", "ring", "raw"] = "auto"


class Pppoe(Serving):
    """[[server.pppoe]]: one service of PPPoE on one interface or several (RFC 2516)."""
    later: ClassVar[frozenset[str]] = frozenset(["mrru"])
    enabled: StrictBool = True
    interface: Annotated[tuple[Interface, ...], Field(min_length=1), AfterValidator(_distinct), BeforeValidator(_one_or_more)]
    pppoe_over_vlan_range: Annotated[tuple[Vlans, ...], Field(max_length=8), AfterValidator(_distinct), BeforeValidator(_one_or_more)] = ()
    service_name: Octets = ""
    accept_service_name: Literal["exact", "blank", "any"] = "blank"
    ac_name: Annotated[Octets, Field(min_length=1)] = "headrace"
    max_mtu: Mtu = 1480
    max_mru: Mtu = 1480
    keepalive_timeout: Duration = 10.0
    one_session_per_host: StrictBool = False
    allow_mac: Annotated[tuple[Mac, ...], AfterValidator(_distinct)] = ()
    deny_mac: Annotated[tuple[Mac, ...], AfterValidator(_distinct)] = ()
    pado_delay: Delays = {"0": 0.0}
    padi_limit: Rate = 10000
    padi_limit_per_mac: Annotated[StrictInt, Field(ge=1, le=1000)] = 2

    @property
    def ranges(self) -> tuple[Ranges, ...]:
        """(first, last) of the outer VLAN and of the inner one, 0 being no tag; none at all are the untagged frames alone."""
        found = []
        for text in self.pppoe_over_vlan_range:
            ends = [] if text == "untagged" else [[int(end) for end in tag.split("-")] for tag in text.split(".")]
            outer, inner = ([(end[0], end[-1]) for end in ends] + [(0, 0), (0, 0)])[:2]
            found.append((outer, inner))
        return tuple(found)

    @property
    def label(self) -> str:
        """Which service it is, among all."""
        return f"{self.service_name} on {'+'.join(self.interface)} {'+'.join(self.pppoe_over_vlan_range)}".rstrip()

    def delay(self, sessions: int) -> float | Literal["refuse"]:
        """Seconds that an offer waits when there are so many sessions."""
        reached = [int(least) for least in self.pado_delay if int(least) <= sessions]
        return self.pado_delay[str(max(reached))] if reached else 0.0


class Server(Table):
    later: ClassVar[frozenset[str]] = frozenset(["sstp"])
    l2tp: L2tp = Field(default_factory=L2tp)
    pptp: Pptp = Field(default_factory=Pptp)
    pppoe: tuple[Pppoe, ...] = ()

    def all(self) -> list[tuple[Key, Serving]]:
        """Every [server.NAME], and each of [[server.pppoe]], with its place behind `server`."""
        return [(("l2tp",), self.l2tp), (("pptp",), self.pptp), *((("pppoe", number), one) for number, one in enumerate(self.pppoe))]

    def enabled(self) -> list[tuple[Key, Serving]]:
        return [(key, serving) for key, serving in self.all() if serving.enabled]

    @property
    def interfaces(self) -> list[str]:
        """PPPoE's, each once; their order is that of their ports."""
        return sorted({interface for service in self.pppoe if service.enabled for interface in service.interface})

    @property
    def mtu(self) -> int:
        """Of the interface that carries all sessions: what the most generous server allows."""
        return max(serving.max_mtu for _, serving in self.enabled() or self.all())


class Config(Table):
    """The whole file, validated."""
    later: ClassVar[frozenset[str]] = frozenset(["client", "radius", "accounting", "api", "ipsec"])
    concentrator: Concentrator = Field(default_factory=Concentrator)
    pools: dict[str, Annotated[tuple[Network, ...], Field(min_length=1)]] = {}
    ipv6_pool: dict[str, Pool6] = {}
    profiles: dict[str, Profile] = {}
    secrets: dict[str, Secret] = {}
    server: Server = Field(default_factory=Server)

    @model_validator(mode="before")
    @classmethod
    def _default_encryption(cls, raw: Any) -> Any:
        """The profile of this name encrypts where the peer does too, as RouterOS' does, unless it says otherwise."""
        name = "default-encryption"
        profiles = raw.get("profiles") if isinstance(raw, dict) else None
        if isinstance(profiles, dict) and isinstance(profiles.get(name), dict):
            return raw | {"profiles": profiles | {name: {"use-encryption": "yes"} | profiles[name]}}
        return raw

    def profile_of(self, secret: Secret, default: str) -> Profile:
        """The profile in force for a secret at a server whose default profile this is."""
        return self.profiles[secret.profile or default]
