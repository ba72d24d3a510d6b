"""The configuration that `headrace run` writes, and what a client must dial to reach it."""
from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from .listener import address_of
from .settings import Config, Secret, Serving

ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"      # nothing that is read for something else
TEMPLATE = """\
# headrace's configuration. `headrace check` says what is wrong with it, and where.
# A reload (SIGHUP, or POST /v1/reload) takes users, profiles and pools without dropping anybody.

[concentrator]
interface = "hr0"               # the TUN that carries the sessions
workers = 0                     # forwarding threads; 0: one a core
max-sessions = 65536
run-dir = "/run/headrace"
offload = "auto"                # auto | uso | tso | csum | none: segmentation by the kernel, TUN and UDP together
spin = "50us"                   # how long a worker looks for more before it sleeps
reorder-window = 32             # how many packets of a numbered session (PPTP's) may wait for one that is missing
reorder-time = "20ms"           # and for how long
log = "info"                    # debug | info | warning | error
forwarding = true               # switch the machine's forwarding on while headrace runs
padi-limit = 20000              # PPPoE hosts that look for us, a second: how many are answered, on all interfaces
masquerade = ""                 # the uplink whose address the clients share, such as "eth0"; "": none

[pools]
clients = ["10.67.0.0/16"]

[profiles.default-encryption]
local-address = "10.67.0.1"     # the concentrator's end of every session
remote-address = "clients"      # an address, or a pool
dns-server = []                 # at most two of each family; wins-server has two of IPv4
domain-search = []              # told to IPv6 hosts
use-ipv6 = "yes"                # where there are prefixes to give
# local-ipv6-address = "2001:db8:67::1"     # our own, the sender of ICMPv6
# remote-ipv6-prefix-pool = "links"         # a /64 for each link; the pools are at the end
# dhcpv6-pd-pool = "delegated"              # and a prefix for the networks behind a client
managed-address-configuration = false       # advertise DHCPv6 for addresses too
change-tcp-mss = true           # TCP of the clients fits the tunnel even where path MTU discovery is broken
only-one = "default"            # yes: a new session of a user ends the old one
use-encryption = "yes"          # MPPE: no | yes, where the client takes part | require
mppe-strength = [128, 56, 40]   # bits that are allowed
mppe-stateful = false           # true: ask for keys that last 256 packets
# bridge = "br0"                # carry Ethernet frames too: each session is a port of this bridge
# bridge-path-cost = 100        # of that port; and its priority, 0 to 240 in steps of 16
# bridge-port-priority = 128
# bridge-learning = true
# bridge-horizon = 1            # ports with a horizon hear nothing of each other
# bridge-stp = true             # spanning tree's frames pass

[secrets.{user}]
password = "{password}"
profile = "default-encryption"
service = "any"                 # any | l2tp | pptp | pppoe
# remote-address = "10.67.0.9"  # always this address
# remote-ipv6-prefix = "2001:db8:67:9::/64"
# delegated-ipv6-prefix = "2001:db8:200::/56"     # of DHCPv6, to his router
# caller-id = "192.0.2.7"       # only from this address, or PPPoE's "02:00:5E:10:00:01"

[server.l2tp]
enabled = true
listen = ["0.0.0.0:1701"]       # "[::]:1701" too
authentication = ["mschap2", "mschap1"]     # and chap, pap where clients need them
default-profile = "default-encryption"
max-mtu = 1450
max-mru = 1450
mrru = "disabled"               # or 512 to 65535: packets up to this size in fragments, by one link of a client or by several
keepalive-timeout = "30s"       # silence after which a peer is asked, and then taken for gone; 0s: never
max-sessions = 0                # 0: as many as [concentrator] allows
dscp = "inherit"                # of the outer packets: the inner packet's, or 0 to 63
tunnel-secret = ""              # a secret that the tunnel's other end must know too
hidden = false                  # hide the AVPs that we send, with that secret

[server.pptp]
enabled = true
listen = ["0.0.0.0:1723"]       # of control connections; data is GRE between the same two addresses
authentication = ["mschap2", "mschap1"]
default-profile = "default-encryption"
max-mtu = 1450
max-mru = 1450
mrru = "disabled"
keepalive-timeout = "30s"
max-sessions = 0
dscp = "inherit"
gre-transmit = "auto"           # auto | packet | raw: data past the kernel's output, where it has no say

# [[server.pppoe]]              # one for each service
# enabled = true
# interface = "eth1"            # or several
# pppoe-over-vlan-range = []    # "100-199", "100.1-4094" (two tags), "untagged"; none: untagged
# service-name = ""
# accept-service-name = "blank" # exact: only who asks for that name | blank: and who asks for none | any: whatever is asked for
# ac-name = "headrace"
# authentication = ["mschap2", "mschap1"]
# default-profile = "default-encryption"
# max-mtu = 1480                # up to 1492, and to 1500 where a client says PPP-Max-Payload and the interface's MTU is 1508
# max-mru = 1480
# mrru = "disabled"
# keepalive-timeout = "10s"
# max-sessions = 0
# one-session-per-host = false  # a new session of a MAC ends the old one
# allow-mac = []                # only these
# deny-mac = []                 # not these
# pado-delay = "0s"             # or by sessions: {{ 0 = "0s", 5000 = "200ms", 9000 = "refuse" }}
# padi-limit = 10000            # hosts that are answered a second on an interface,
# padi-limit-per-mac = 2        # and how often each

# [ipv6-pool.links]
# prefix = "2001:db8:67::/48"   # split into /64s
# [ipv6-pool.delegated]
# prefix = "2001:db8:100::/40"
# prefix-length = 56
"""


def write(path: Path, user: str = "headrace") -> None:
    """A new file that only its owner may read; FileExistsError when there is one."""
    password = "".join(secrets.choice(ALPHABET) for _ in range(14))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w") as file:
        file.write(TEMPLATE.format(user=user, password=password))


def own_address(listen: str) -> str:
    """Where clients reach a listener: its address, or for 0.0.0.0 the one that the default route would use."""
    family, host, _ = address_of(listen)
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))       # sends nothing
            return sock.getsockname()[0]
        except OSError:
            return "127.0.0.1" if family == socket.AF_INET else "::1"


def dial(config: Config) -> list[str]:
    """What a client must dial, in a few lines for each server."""
    servers = dict.fromkeys(str(key[0]) for key, _ in config.server.enabled())
    if not servers or not config.secrets:
        return ["nobody can dial in: " + ("there is no [secrets.USER]" if servers else "no server is enabled")]
    lines: list[str] = []
    for name in servers:
        user, secret = next(((u, s) for u, s in config.secrets.items() if s.service in ("any", name)), ("", None))
        if secret is not None:
            lines += {"l2tp": l2tp, "pptp": pptp, "pppoe": pppoe}[name](config, user, secret)
    return lines


def windows(config: Config, server: Serving, secret: Secret) -> str:
    """The first of our methods and what we want encrypted, as Windows calls it."""
    method = {"mschap2": "MSChapv2", "chap": "Chap", "pap": "Pap"}.get(server.authentication[0], "MSChapv2")
    level = {"no": "NoEncryption", "yes": "Optional", "require": "Required"}
    return f"-AuthenticationMethod {method} -EncryptionLevel {level[config.profile_of(secret, server.default_profile).use_encryption]}"


def pppd(config: Config, server: Serving, user: str, secret: Secret) -> str:
    """The options of pppd, which encrypts where it is told to, or not at all."""
    encryption = config.profile_of(secret, server.default_profile).encryption
    return f"user {user} password {secret.password} noauth" + (" require-mppe" if encryption.required else "")


def l2tp(config: Config, user: str, secret: Secret) -> list[str]:
    server, password = config.server.l2tp, secret.password
    address, port = own_address(server.listen[0]), address_of(server.listen[0])[2]
    return [
        f"dial L2TP to {address}, UDP port {port}, user {user}, password {password}",
        f"  Linux     xl2tpd.conf: [lac headrace] lns = {address}, pppoptfile = FILE with: {pppd(config, server, user, secret)}",
        f"  Windows   Add-VpnConnection headrace {address} -TunnelType L2tp {windows(config, server, secret)}"
        " (without IPsec: ProhibitIpSec=1 in HKLM\\SYSTEM\\CurrentControlSet\\Services\\RasMan\\Parameters)",
        f"  RouterOS  /interface l2tp-client add name=headrace connect-to={address} user={user} password={password} disabled=no",
    ]


def pptp(config: Config, user: str, secret: Secret) -> list[str]:
    server, password = config.server.pptp, secret.password
    address, port = own_address(server.listen[0]), address_of(server.listen[0])[2]
    return [
        f"dial PPTP to {address}, TCP port {port} and GRE, user {user}, password {password}",
        f"  Linux     pppd pty 'pptp {address} --nolaunchpppd' {pppd(config, server, user, secret)}",
        f"  Windows   Add-VpnConnection headrace {address} -TunnelType Pptp {windows(config, server, secret)}",
        f"  RouterOS  /interface pptp-client add name=headrace connect-to={address} user={user} password={password} disabled=no",
    ]


def pppoe(config: Config, user: str, secret: Secret) -> list[str]:
    lines = []
    for service in config.server.pppoe:
        if service.enabled:
            asked = service.service_name if service.accept_service_name == "exact" else ""
            name = f", service-name {service.service_name}" if service.service_name else ""
            lines += [
                f"dial PPPoE on the wire of {', '.join(service.interface)}{name}, user {user}, password {secret.password}",
                f"  Linux     pppd plugin rp-pppoe.so {f'rp_pppoe_service {asked} ' if asked else ''}INTERFACE "
                f"{pppd(config, service, user, secret)}",
                f"  RouterOS  /interface pppoe-client add name=headrace interface=INTERFACE {f'service-name={asked} ' if asked else ''}"
                f"user={user} password={secret.password} disabled=no",
            ]
    return lines
