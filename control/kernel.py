"""What headrace asks of the kernel: its interface, routes, sysctls and a masquerade rule.

On its own interface it is free; elsewhere it does what [concentrator] forwarding and masquerade
allow. Each change is in the journal before it is made, told in the log, and undone at the end.
Routes and addresses of the interface go with it. One route a pool, none a session.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from .journal import Journal, Record
from .settings import Config
from .tun import SetupError, exists

log = logging.getLogger("headrace.kernel")

SYSCTL = Path("/proc/sys")
IFA_F_NODAD = 0x02
GSO_MAX_SIZE = 62000        # one TUN read makes one send: 65,507 octets of UDP less a header for each segment
NFPROTO_IPV4, NF_INET_POST_ROUTING_NAT = 2, 100
META_OIFNAME, NETWORK_HEADER, SOURCE_AT = 7, 1, 12


def routes(config: Config) -> set[IPv4Network]:
    """What the interface leads to: the pools, and fixed addresses outside them."""
    networks = {network for pool in config.pools.values() for network in pool}
    fixed = [p.remote_address for p in config.profiles.values()] + [s.remote_address for s in config.secrets.values()]
    return networks | {IPv4Network(a) for a in fixed if isinstance(a, IPv4Address) and not any(a in n for n in networks)}


def routes6(config: Config) -> set[IPv6Network]:
    """The same of IPv6, delegated prefixes among it: they are out of pools."""
    networks = {network for pool in config.ipv6_pool.values() for network in pool.prefix}
    fixed = {prefix for s in config.secrets.values() for prefix in s.prefixes.values()}
    return networks | {prefix for prefix in fixed if not any(prefix.subnet_of(n) for n in networks)}


class Kernel:
    def __init__(self, run_dir: Path) -> None:
        self.journal = Journal(run_dir / "journal")
        self.addresses: set[IPv4Address | IPv6Address] = set()
        self.routes: set[IPv4Network | IPv6Network] = set()
        self.index = 0

    # -- the interface -------------------------------------------------------------------------

    def adopt(self, interface: str) -> None:
        """The TUN was made: remember it, and set what must be set before it is up."""
        self.interface = interface
        with IPRoute() as ip:
            self.index = ip.link_lookup(ifname=interface)[0]
            try:
                ip.link("set", index=self.index, gso_max_size=GSO_MAX_SIZE)
            except NetlinkError as error:       # Linux before 4.16: reads are larger, and cost a second send
                log.warning("gso_max_size of %s stays as it is: %s", interface, error)
        # the interface's own settings go with it: nothing to undo
        for path, value in (("ipv4/conf/{}/forwarding", "1"), ("ipv4/conf/{}/send_redirects", "0"), ("ipv4/conf/{}/rp_filter", "0"),
                            ("ipv4/conf/{}/accept_local", "1"),     # our ICMP answers come in there, from our own address
                            ("ipv6/conf/{}/accept_ra", "0"), ("ipv6/conf/{}/forwarding", "1"),
                            # without a link-local address it redirects nobody, and asks for no router
                            ("ipv6/conf/{}/addr_gen_mode", "1"), ("ipv6/conf/{}/disable_ipv6", "1")):
            self._write(SYSCTL / "net" / path.format(interface), value)

    def apply(self, config: Config) -> None:
        """Bring MTU, addresses and routes in line with the configuration: at the start, and at a reload."""
        profiles = config.profiles.values()
        wanted = {a for p in profiles for a in (p.local_address, p.local_ipv6_address) if a is not None}
        networks = routes(config) | routes6(config)
        if any(place.version == 6 for place in wanted | networks):     # until then the kernel has nothing to say there, to groups either
            self._write(SYSCTL / "net/ipv6/conf" / self.interface / "disable_ipv6", "0")
        with IPRoute() as ip:
            ip.link("set", index=self.index, mtu=config.server.mtu, state="up")
            for address in wanted - self.addresses:
                # nobody but us is on that link: nothing to detect duplicates of
                more = {"flags": IFA_F_NODAD} if address.version == 6 else {}
                self._do(lambda a=address, m=more: ip.addr("add", index=self.index, address=str(a), prefixlen=a.max_prefixlen, **m),
                         f"address {address}")
                self.addresses.add(address)
            for network in networks - self.routes:
                self._do(lambda n=network: ip.route("add", dst=str(n), oif=self.index), f"route {network}")
                self.routes.add(network)
            for network in self.routes - networks:
                self._do(lambda n=network: ip.route("del", dst=str(n), oif=self.index), f"route {network} (away)")
                self.routes.discard(network)
            for address in self.addresses - wanted:
                self._do(lambda a=address: ip.addr("del", index=self.index, address=str(a), prefixlen=a.max_prefixlen),
                         f"address {address} (away)")
                self.addresses.discard(address)

    def _do(self, action, what: str) -> None:
        try:
            action()
        except NetlinkError as error:
            why = "another interface has it" if error.code == 17 else os.strerror(error.code)
            raise SetupError(f"{self.interface} cannot have the {what}: {why}")
        log.debug("%s: %s", self.interface, what)

    # -- elsewhere -----------------------------------------------------------------------------

    def forward(self) -> None:
        """Let the machine forward, and keep it from redirecting clients to each other.

        send_redirects is in force when the interface or `all` says so, hence `all`; interfaces with a
        1 of their own keep redirecting. Forwarding IPv6 makes the kernel ignore router advertisements
        unless accept_ra is 2: an uplink that lives by them gets that first.
        """
        self.set("ipv4/conf/all/send_redirects", "0")
        if self._read("ipv4/ip_forward") == "0":
            # the kernel changes these along with it, and does not change them back to what they were
            self.set("ipv4/ip_forward", "1", along=["ipv4/conf/all/accept_redirects", *self._each("ipv4", "forwarding")])
        if self._read("ipv6/conf/all/forwarding") == "0":
            for path in self._each("ipv6", "accept_ra"):
                if self._read(path) == "1" and path.split("/")[2] not in ("all", "default", "lo"):
                    self.set(path, "2")
            self.set("ipv6/conf/all/forwarding", "1", along=self._each("ipv6", "forwarding"))

    def _each(self, family: str, name: str) -> list[str]:
        """The setting of each interface but our own, and of `default`."""
        folder = SYSCTL / "net" / family / "conf"
        names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
        return [f"{family}/conf/{n}/{name}" for n in names if n not in ("all", self.interface)]

    def set(self, path: str, value: str, along: list[str] | tuple[str, ...] = ()) -> None:
        """Change one net.* sysctl, journal first. `along` are those that the kernel changes with it."""
        old = self._read(path)
        if old is None:
            return self._missing(path)
        if old != value:
            before = {name: was for name in along if (was := self._read(name)) is not None}
            self.journal.record(what="sysctl", path=path, old=old, new=value, along=before)
            if self._write(SYSCTL / "net" / path, value):
                log.info("net.%s: %s -> %s, until headrace ends", path.replace("/", "."), old, value)

    def masquerade(self, uplink: str, config: Config) -> None:
        """Give what the clients send out by the uplink the uplink's address (nftables, a table of our own)."""
        if not exists(uplink):
            raise SetupError(f"concentrator.masquerade is {uplink}, which is not an interface of this machine")
        table = f"headrace-{self.interface}"
        self.journal.record(what="table", name=table)
        try:
            with NFTables(nfgen_family=NFPROTO_IPV4) as nft:
                nft.begin()
                nft.table("add", name=table)        # made, removed and made again in one transaction: what was there is replaced
                nft.table("del", name=table)
                nft.table("add", name=table)
                nft.chain("add", table=table, name="postrouting", hook="postrouting", type="nat", priority=NF_INET_POST_ROUTING_NAT)
                for network in sorted(routes(config)):
                    nft.rule("add", table=table, chain="postrouting", expressions=[rule(network, uplink)])
                nft.commit()
        except (NetlinkError, OSError) as error:
            raise SetupError(f'masquerade = "{uplink}" cannot be had: the kernel refuses the nftables rule ({error})')
        log.info("masquerade behind %s: nftables table ip %s, until headrace ends", uplink, table)

    # -- back ----------------------------------------------------------------------------------

    def undo(self) -> list[str]:
        """Take back what the journal says; one line for each change that was."""
        told = []
        for change in self.journal.changes():
            told += list(self._undo(change))
        self.journal.forget()
        return told

    def _undo(self, change: Record) -> Iterator[str]:
        if change["what"] == "sysctl":
            path, old = change["path"], change["old"]
            if self._read(path) != change["new"]:
                return          # somebody changed it since: it is theirs
            self._write(SYSCTL / "net" / path, old)
            for name, was in change["along"].items():
                if self._read(name) not in (None, was):
                    self._write(SYSCTL / "net" / name, was)
            yield f"net.{path.replace('/', '.')}: back to {old}"
        elif change["what"] == "table":
            try:
                with NFTables(nfgen_family=NFPROTO_IPV4) as nft:
                    nft.table("del", name=change["name"])
                yield f"nftables table ip {change['name']}: away"
            except NetlinkError:
                pass            # it was never made, or is gone

    # -- sysctls -------------------------------------------------------------------------------

    def _read(self, path: str) -> str | None:
        try:
            return (SYSCTL / "net" / path).read_text().strip()
        except OSError:
            return None

    def _write(self, path: Path, value: str) -> bool:
        try:
            path.write_text(value)
            return True
        except FileNotFoundError:
            self._missing(str(path.relative_to(SYSCTL / "net")))
        except OSError as error:
            log.warning("%s cannot be set to %s: %s", path, value, error.strerror)
        return False

    def _missing(self, path: str) -> None:
        # no IPv6 in the kernel is an ordinary thing
        level = logging.DEBUG if path.startswith("ipv6/") else logging.WARNING
        log.log(level, "there is no net.%s on this machine", path.replace("/", "."))


def rule(network: IPv4Network, uplink: str) -> tuple:
    """ip saddr NETWORK oifname UPLINK masquerade, as the kernel's expressions."""
    def value(data: bytes) -> dict:
        return {"attrs": [("NFTA_DATA_VALUE", data)]}
    return (
        genex("payload", {"DREG": 1, "BASE": NETWORK_HEADER, "OFFSET": SOURCE_AT, "LEN": 4}),
        genex("bitwise", {"SREG": 1, "DREG": 1, "LEN": 4, "MASK": value(network.netmask.packed), "XOR": value(bytes(4))}),
        genex("cmp", {"SREG": 1, "OP": 0, "DATA": value(network.network_address.packed)}),
        genex("meta", {"KEY": META_OIFNAME, "DREG": 1}),
        genex("cmp", {"SREG": 1, "OP": 0, "DATA": value(uplink.encode().ljust(16, b"\0"))}),
        genex("masq", {}),
    )
