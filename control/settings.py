"""What the configuration file may say: one class a table, one attribute a key.

Names are RouterOS' where it has one (kebab-case in the file, snake_case here). A key is here only
when the code that makes it work is; `later` names the keys that RouterOS users will try and that this
version refuses. Checks of one value stand in values.py, checks across tables in config.py.
"""
from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network
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

from .link import Bridging
from .mppe import Policy
from .values import (
    WORKERS,
    Address,
    Address6,
    Caller,
    Delays,
    DelegatedPrefix,
    Domain,
    Dscp,
    Duration,
    Interface,
    Keepalive,
    Key,
    LinkPrefix,
    Listener,
    Listener4,
    Mac,
    Method,
    Mrru,
    Mtu,
    Network,
    Network6,
    Octets,
    PoolOrAddress,
    Ranges,
    Rate,
    Server6,
    Vlans,
    absolute,
    distinct,
    horizon,
    no_ring,
    one_or_more,
    priority,
    two_of_each,
)

BRIDGED_HEADER, MPPE_HEADER = 2, 4      # octets in front of a frame, and of what is encrypted
SECRETS = {"password", "tunnel-secret"}     # values that no message repeats


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True,
                              alias_generator=lambda name: name.replace("_", "-"))
    later: ClassVar[frozenset[str]] = frozenset()


class Concentrator(Table):
    """[concentrator]: the process and its interface."""
    interface: Interface = "hr0"
    workers: Annotated[StrictInt, Field(ge=0, le=WORKERS)] = 0
    max_sessions: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 65536
    run_dir: Annotated[Path, AfterValidator(absolute), PlainSerializer(str)] = Path("/run/headrace")
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
    prefix: Annotated[tuple[Network6, ...], Field(min_length=1), BeforeValidator(one_or_more)]
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
    dns_server: Annotated[tuple[Server6, ...], AfterValidator(distinct), AfterValidator(two_of_each)] = ()
    domain_search: Annotated[tuple[Domain, ...], Field(max_length=3), AfterValidator(distinct)] = ()
    wins_server: Annotated[tuple[Address, ...], Field(max_length=2), AfterValidator(distinct)] = ()
    change_tcp_mss: StrictBool = True
    only_one: Literal["default", "no", "yes"] = "default"
    use_encryption: Literal["no", "yes", "require"] = "no"      # Config knows better of one of them
    mppe_strength: Annotated[tuple[Literal[128, 56, 40], ...], Field(min_length=1), AfterValidator(distinct)] = (128, 56, 40)
    mppe_stateful: StrictBool = False
    bridge: Interface | None = None
    bridge_path_cost: Annotated[StrictInt, Field(ge=0, le=65535)] = 0
    bridge_port_priority: Annotated[StrictInt, AfterValidator(priority)] | None = None
    bridge_learning: StrictBool = True
    bridge_horizon: Annotated[StrictInt, AfterValidator(horizon)] | None = None
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
        return self.use_ipv6 == "yes" and bool(secret.prefixes or self.remote_ipv6_prefix_pool or self.dhcpv6_pd_pool)


class Secret(Table):
    """[secrets.USER]. Precedence: secret, then profile, then the server's default profile."""
    later: ClassVar[frozenset[str]] = frozenset((
        "routes", "limit-bytes-in", "limit-bytes-out", "rate-limit", "session-timeout", "idle-timeout"))
    password: str = Field(repr=False)
    profile: str | None = None
    service: Literal["any", "l2tp", "pptp", "pppoe"] = "any"
    remote_address: Address | None = None
    remote_ipv6_prefix: LinkPrefix | None = None
    delegated_ipv6_prefix: DelegatedPrefix | None = None
    caller_id: Caller | None = None

    @property
    def prefixes(self) -> dict[str, IPv6Network]:
        """His own, by key."""
        both = {"remote-ipv6-prefix": self.remote_ipv6_prefix, "delegated-ipv6-prefix": self.delegated_ipv6_prefix}
        return {key: prefix for key, prefix in both.items() if prefix is not None}


class Serving(Table):
    """What each [server.NAME] has. max-sessions 0: as many as the concentrator takes; keepalive-timeout 0: none."""
    enabled: StrictBool = False
    authentication: Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(distinct)] = ("mschap2", "mschap1")
    default_profile: str = "default-encryption"
    max_mtu: Mtu = 1450
    max_mru: Mtu = 1450
    mrru: Mrru = "disabled"
    keepalive_timeout: Keepalive = 30.0
    max_sessions: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0

    def frame_room(self, encrypted: bool) -> int:
        """Octets of the largest Ethernet frame that a session carries, to a peer that takes what we send."""
        return (self.joins or self.max_mtu) - BRIDGED_HEADER - (MPPE_HEADER if encrypted else 0)

    @property
    def joins(self) -> int:
        """The largest packet that may come in fragments; 0: none may."""
        return 0 if self.mrru == "disabled" else self.mrru

    @property
    def largest(self) -> int:
        """The largest packet that a session may have to carry."""
        return max(self.max_mtu, self.joins)


class L2tp(Serving):
    """[server.l2tp]: L2TPv2 on UDP (RFC 2661)."""
    later: ClassVar[frozenset[str]] = frozenset((
        "use-ipsec", "ipsec-secret", "one-session-per-host", "allow-fast-path", "caller-id-type"))
    listen: Annotated[tuple[Listener, ...], Field(min_length=1), AfterValidator(distinct)] = ("0.0.0.0:1701",)
    dscp: Dscp = "inherit"
    tunnel_secret: str = Field(default="", repr=False)
    hidden: StrictBool = False


class Pptp(Serving):
    """[server.pptp]: PPTP on TCP and GRE (RFC 2637)."""
    listen: Annotated[tuple[Listener4, ...], Field(min_length=1), AfterValidator(distinct)] = ("0.0.0.0:1723",)
    dscp: Dscp = "inherit"
    gre_transmit: Annotated[Literal["auto", "packet", "raw"], BeforeValidator(no_ring)] = "auto"


class Pppoe(Serving):
    """[[server.pppoe]]: one service of PPPoE on one interface or several (RFC 2516)."""
    enabled: StrictBool = True
    interface: Annotated[tuple[Interface, ...], Field(min_length=1), AfterValidator(distinct), BeforeValidator(one_or_more)]
    pppoe_over_vlan_range: Annotated[tuple[Vlans, ...], Field(max_length=8), AfterValidator(distinct), BeforeValidator(one_or_more)] = ()
    service_name: Octets = ""
    accept_service_name: Literal["exact", "blank", "any"] = "blank"
    ac_name: Annotated[Octets, Field(min_length=1)] = "headrace"
    max_mtu: Mtu = 1480
    max_mru: Mtu = 1480
    keepalive_timeout: Keepalive = 10.0
    one_session_per_host: StrictBool = False
    allow_mac: Annotated[tuple[Mac, ...], AfterValidator(distinct)] = ()
    deny_mac: Annotated[tuple[Mac, ...], AfterValidator(distinct)] = ()
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
    def tagged(self) -> set[str]:
        """Those of them that have services in VLANs."""
        return {name for one in self.pppoe if one.enabled and any(outer[1] for outer, _ in one.ranges) for name in one.interface}

    @property
    def mtu(self) -> int:
        """Of the interface that carries all sessions: what the most generous server allows."""
        return max(serving.largest for _, serving in self.enabled() or self.all())


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
