"""The configuration: one TOML file, validated as a whole before anything starts.

load() gives a frozen Config, or a ConfigError whose text is one sentence: the file and line, the
key, and what would be right. The children of the supervisor get the same Config as JSON, with its
secrets, through a sealed memory file and never by argument or environment (dump, restore).
"""
from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from .link import LEAST_IPV6_MTU
from .listener import wire_ports
from .mppe import YIELDING
from .settings import SECRETS, Config, Pppoe, Table
from .tun import exists
from .values import Key

PLACES = (Path("headrace.toml"), Path("/etc/headrace/headrace.toml"))
PORTS, SERVICES, LISTED = 16, 63, 2048          # that a worker can have (fastpath/service.pxd)
FULL_FRAME = 1514       # octets of an Ethernet frame with a packet of 1500; a tag has 4 more
Problem = tuple[Key, str]


class ConfigError(Exception):
    """The first problem of a file is the text; `problems` has a sentence for each, in the file's order."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems[0])
        self.problems = problems


def find(path: Path | None) -> Path:
    """The file that was named, or the first of PLACES that exists."""
    for place in (path,) if path else PLACES:
        if place.exists():
            return place
    if path:
        raise ConfigError([f"{path}: there is no such file"])
    raise ConfigError([f"there is no configuration: neither {PLACES[0]} here nor {PLACES[1]} exists, and `headrace run` writes the first"])


def parse(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text()
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
        place, why = (f"{path}:{match[2]}", match[1]) if match else (str(path), str(error))
        raise ConfigError([f"{place}: is not TOML: {why[:1].lower()}{why[1:]}"])
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text"])
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"])


def load(path: Path) -> Config:
    """The configuration in path, or ConfigError."""
    text, raw = parse(path)
    try:
        config = Config.model_validate(raw)
        problems = list(conflicts(config))
    except ValidationError as error:
        errors = [(tuple(e["loc"]), e) for e in error.errors(include_url=False)]
        problems = [describe(loc, e) for loc, e in errors     # a list whose elements are all wrong is reported as too short as well
                    if e["type"] != "too_short" or not any(other[:-1] == loc for other, _ in errors)]
    if problems:
        lines = [(line_of(text, key), key, sentence) for key, sentence in problems]
        lines.sort(key=lambda row: row[0])
        raise ConfigError([f"{path}{f':{line}' if line else ''}: {printable(dotted(key))} {printable(sentence)}"
                           for line, key, sentence in lines])
    return config


def run_dir(path: Path) -> Path:
    """Where a concentrator with this file keeps its socket; other mistakes in the file do not matter for that."""
    table = parse(path)[1].get("concentrator")
    value = table.get("run-dir") if isinstance(table, dict) else None
    return Path(value) if isinstance(value, str) else Config().concentrator.run_dir


def dump(config: Config) -> bytes:
    return config.model_dump_json(by_alias=True).encode()


def restore(data: bytes) -> Config:
    return Config.model_validate_json(data)


def dotted(key: Key) -> str:
    """server.l2tp.listen[1], with quotes where TOML wants them."""
    shown = ""
    for part in key:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + part + '"')
    return shown


# -- where: a small scan of the text -----------------------------------------------------------

def line_of(text: str, key: Key) -> int:
    """The line of the deepest part of key that the text names; 0 when it names none.

    Each header and each `name =` is read by the TOML parser itself, so that quoting is right; what
    stands inside a value over several lines has neither form, or does not parse.
    """
    wanted = tuple(part for part in key if isinstance(part, str))
    index = next((n for n, part in enumerate(key) if isinstance(part, int)), len(key))
    best, best_depth, elements = 0, 0, 0
    here: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[?)\[(.+?)\]\]?\s*(#.*)?$", line)
        if header:
            names = here = path_of(f"[{header[2]}]")
            if header[1] and here == key[:index]:       # [[...]]: an element, and not ours until enough have passed
                elements += 1
                if index < len(key) and elements - 1 != key[index]:
                    names = here = ()
        else:
            assigned = re.match(r"""\s*((?:"[^"]*"|'[^']*'|[\w.\s-])+?)\s*=""", line)
            names = here + path_of(f"{assigned[1]} = 0") if assigned else ()
        depth = min(len(names), len(wanted))
        if depth > best_depth and names[:depth] == wanted[:depth]:
            best, best_depth = number, depth
    return best


def path_of(fragment: str) -> tuple[str, ...]:
    try:
        node: Any = tomllib.loads(fragment)
    except tomllib.TOMLDecodeError:
        return ()
    names = []
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        names.append(name)
    return tuple(names)


# -- what: pydantic's errors as sentences ------------------------------------------------------

def describe(loc: Key, error: Any) -> Problem:
    kind, limits, secret = error["type"], error.get("ctx", {}), str(loc[-1]) in SECRETS
    if kind == "extra_forbidden":
        return loc, unknown(loc)
    if kind == "missing":
        table = dotted(tuple(part for part in loc[:-1] if isinstance(part, str)))
        return loc, f"is missing, and {f'[[{table}]]' if isinstance(loc[-2], int) else f'[{table}]'} needs it"
    was = "" if secret or isinstance(error["input"], (dict, list)) else f"is {shown(error['input'])}, but "
    if kind == "value_error":
        return loc, was + str(limits["error"])
    if kind == "literal_error":
        later = error["input"] in ("sstp", "eap")
        return loc, was + ("that is not in this version: it " if later else "") + f"must be {limits['expected'].replace(chr(39), chr(34))}"
    if kind in ("greater_than_equal", "less_than_equal"):
        return loc, was + bounds(loc)
    if kind == "tuple_type" and loc == ("server", "pppoe"):
        return loc, "must be written [[server.pppoe]], once for each service"
    if kind == "too_short" and error["input"] == "":
        return loc, "must not be empty"
    if kind == "too_short":
        return loc, "is empty, but must have at least one element"
    if kind == "too_long":
        return loc, f"has too many elements, but must have at most {limits['max_length']}"
    wants = {"string_type": "a string", "bool_type": "true or false", "int_type": "a whole number",
             "tuple_type": "a list", "dict_type": "a table", "model_type": "a table",
             "string_pattern_mismatch": "an interface name of at most 15 letters, digits, '.', '_' and '-'", "path_type": "a path"}
    return loc, was + f"must be {wants.get(kind, error['msg'])}"


def printable(text: str) -> str:
    """One line, whatever somebody wrote into a key or a value."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '"' + value + '"' if isinstance(value, str) else str(value)


def models(loc: Key) -> Iterator[tuple[str, type[Table] | None]]:
    """The table that each part of loc stands in; None under a table whose names the user chooses."""
    model: type[Table] | None = Config
    inner: type[Table] | None = None
    for part in loc:
        yield str(part), model
        if model is None:               # part was a chosen name: its table is the dictionary's value
            model = inner
        else:
            field = next((f for f in model.model_fields.values() if f.alias == part), None)
            kind = field.annotation if field else None
            inner = next((a for a in get_args(kind) if isinstance(a, type) and issubclass(a, Table)), None)
            model = kind if isinstance(kind, type) and issubclass(kind, Table) else None


def bounds(loc: Key) -> str:
    """The range of a number, from its constraints."""
    name, model = [row for row in models(loc) if row[1] is not None][-1]
    assert model is not None
    field = next(f for f in model.model_fields.values() if f.alias == name)
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), 0)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    if name == "spin":
        return "must be at most 10ms"
    return f"must be from {low} to {high}"


def unknown(loc: Key) -> str:
    """Why a key is refused: it comes later, or it is nearly another, or it is nothing."""
    name, model = list(models(loc))[-1]
    if model and name in model.later:
        return "is not in this version; take it out"
    known = [str(f.alias) for f in model.model_fields.values()] if model else []
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f"is an unknown key; did you mean {near[0]}?" if near else f"is an unknown key; known here are {', '.join(known)}"


# -- across tables -----------------------------------------------------------------------------

def conflicts(config: Config) -> Iterator[Problem]:
    """What no value shows alone."""
    yield from pools(config)
    locals_ = {profile.local_address: name for name, profile in config.profiles.items() if profile.local_address}
    for name, profile in config.profiles.items():
        where: Key = ("profiles", name)
        remote = profile.remote_address
        if remote and not profile.local_address:
            yield (*where, "remote-address"), "needs a local-address, our own end of the sessions"
        if isinstance(remote, str):
            if remote not in config.pools:
                yield (*where, "remote-address"), f'is "{remote}", which is not a pool; {named("pools", config.pools)}'
        elif remote in locals_:
            yield (*where, "remote-address"), \
                f'is {remote}, which is the local-address of profile "{locals_[remote]}"; two ends need two addresses'
        for pool, networks in config.pools.items():
            if any(n.prefixlen < 31 and profile.local_address in (n.network_address, n.broadcast_address) for n in networks):
                yield (*where, "local-address"), \
                    f'is {profile.local_address}, the first or last address of pool "{pool}"; one between them would be right'
    for key, serving in config.server.all():
        if serving.enabled and serving.default_profile not in config.profiles:
            yield ("server", *key, "default-profile"), \
                f'is "{serving.default_profile}", which does not exist; {named("profiles", config.profiles)}'
        if serving.max_sessions > config.concentrator.max_sessions:
            yield (("server", *key, "max-sessions"), f"is {serving.max_sessions}, but must not be above concentrator.max-sessions, "
                   f"which is {config.concentrator.max_sessions}")
    yield from keyless(config)
    yield from pppoe(config)
    if config.server.l2tp.hidden and not config.server.l2tp.tunnel_secret:
        yield ("server", "l2tp", "hidden"), "is true, but hiding needs a key: set tunnel-secret too"
    if config.concentrator.masquerade == config.concentrator.interface:
        yield ("concentrator", "masquerade"), f"is {config.concentrator.interface}, the tunnels' own interface; name the uplink"
    yield from secrets(config, set(locals_))
    yield from ipv6(config)
    yield from bridges(config)


def pools(config: Config) -> Iterator[Problem]:
    seen: list[tuple[str, Any]] = []
    for name, networks in config.pools.items():
        if re.fullmatch(r"[0-9.]+", name):
            yield ("pools", name), "looks like an address; a name with a letter in it would be right"
        for network in networks:
            for other, before in seen:
                if network.overlaps(before):
                    whose = "itself" if other == name else f'pool "{other}"'
                    yield ("pools", name), f"has {network}, which overlaps {before} of {whose}; pools must not share addresses"
            seen.append((name, network))


def ipv6(config: Config) -> Iterator[Problem]:
    """Prefixes that do not meet, of lengths that can be given, and an address of ours outside of them."""
    seen: list[tuple[Key, Any]] = []
    for name, pool in config.ipv6_pool.items():
        for network in pool.prefix:
            where: Key = ("ipv6-pool", name, "prefix")
            if network.prefixlen > pool.prefix_length:
                yield where, f"has {network}, which is smaller than the /{pool.prefix_length} that it is to be split into"
            for other, before in seen:
                if network.overlaps(before):
                    whose = "itself" if other == where else f'ipv6-pool "{other[1]}"'
                    yield where, f"has {network}, which overlaps {before} of {whose}; pools must not share prefixes"
            seen.append((where, network))
    for user, secret in config.secrets.items():
        for which, prefix in secret.prefixes.items():
            for where, before in seen:
                one = where[0] == "ipv6-pool" and config.ipv6_pool[str(where[1])].prefix_length == prefix.prefixlen
                if prefix.overlaps(before) and not one:
                    whose = f'ipv6-pool "{where[1]}", which is split into others' if where[0] == "ipv6-pool" else f'"{where[1]}"'
                    yield ("secrets", user, which), f"is {prefix}, which overlaps {before} of {whose}"
            seen.append((("secrets", user), prefix))
    for name, profile in config.profiles.items():
        for key, length in ("remote-ipv6-prefix-pool", 64), ("dhcpv6-pd-pool", None):
            wanted = getattr(profile, key.replace("-", "_"))
            at: Key = ("profiles", name, key)
            if wanted is None:
                continue
            if wanted not in config.ipv6_pool:
                yield at, f'is "{wanted}", which is not an ipv6-pool; {named("ipv6 pools", config.ipv6_pool)}'
            elif length and config.ipv6_pool[wanted].prefix_length != length:
                yield at, f'is "{wanted}", whose prefix-length is {config.ipv6_pool[wanted].prefix_length}; a link needs 64'
            if profile.local_ipv6_address is None:
                yield at, "needs a local-ipv6-address, the sender of our ICMPv6"
        if profile.remote_ipv6_prefix_pool and profile.remote_ipv6_prefix_pool == profile.dhcpv6_pd_pool:
            yield ("profiles", name, "dhcpv6-pd-pool"), "is the pool of the links too; take another, so that one cannot use up the other"
        own = profile.local_ipv6_address
        for user, secret in config.secrets.items() if own else ():
            for which, prefix in secret.prefixes.items():
                if own in prefix:
                    yield ("profiles", name, "local-ipv6-address"), f'is {own}, in the {which} of "{user}"'
    if any(profile.local_ipv6_address for profile in config.profiles.values()):
        if config.server.mtu < LEAST_IPV6_MTU:
            place = next(place for place, serving in config.server.all() if serving.largest == config.server.mtu)
            yield ("server", *place, "max-mtu"), f"is {config.server.mtu}, but IPv6 needs {LEAST_IPV6_MTU} (or take local-ipv6-address out)"
        for place, serving in config.server.enabled():
            if 0 < serving.joins < LEAST_IPV6_MTU:
                yield ("server", *place, "mrru"), f"is {serving.mrru}, but IPv6 needs {LEAST_IPV6_MTU} (or take local-ipv6-address out)"


def bridges(config: Config) -> Iterator[Problem]:
    """Keys of a bridge that is not named, and what the kernel's bridges cannot be: of two horizons, or our own interface."""
    horizons: dict[str, tuple[str, int]] = {}
    for name, profile in config.profiles.items():
        where: Key = ("profiles", name)
        if profile.bridge is None:
            for key in sorted(profile.model_fields_set):
                if key.startswith("bridge_"):
                    yield (*where, key.replace("_", "-")), "needs a bridge, whose port the session becomes"
            continue
        if profile.bridge == config.concentrator.interface:
            yield (*where, "bridge"), f'is "{profile.bridge}", which carries the routed sessions; name a bridge'
        if profile.bridge_horizon is not None:
            other, horizon = horizons.setdefault(profile.bridge, (name, profile.bridge_horizon))
            if horizon != profile.bridge_horizon:
                yield (*where, "bridge-horizon"), (
                    f'is {profile.bridge_horizon}, but that of profile "{other}" is {horizon}, and a bridge knows one: '
                    "ports that have it hear nothing of each other")


def notes(config: Config) -> Iterator[str]:
    """What may be meant so, and seldom is; a sentence each."""
    for name, profile in config.profiles.items():
        if profile.bridge is None:
            continue
        if not exists(profile.bridge):
            yield f'profiles.{name}.bridge is "{profile.bridge}", and there is no such interface now: nobody is bridged before it is there'
        for place, serving in config.server.enabled():
            users = [s.profile or serving.default_profile for s in config.secrets.values() if s.service in ("any", place[0])]
            if name in users and (room := serving.frame_room(profile.encryption.use != "no")) < FULL_FRAME:
                yield (f'profile "{name}" bridges, and a session of {dotted(("server", *place))} has room for frames of {room} octets: '
                       f"larger ones are dropped, and a network's may have {FULL_FRAME}; mrru = 1600 at both ends lets them pass")


def keyless(config: Config) -> Iterator[Problem]:
    """Servers whose users could never come up, because nothing that they authenticate with yields keys."""
    for key, serving in config.server.enabled():
        if any(method in YIELDING for method in serving.authentication):
            continue
        wanted = [serving.default_profile, *(s.profile for s in config.secrets.values() if s.profile and s.service in ("any", key[0]))]
        for profile in wanted:
            if profile in config.profiles and config.profiles[profile].encryption.required:
                yield ("server", *key, "authentication"), (
                    f'is {", ".join(serving.authentication)}, but profile "{profile}" has use-encryption = "require", '
                    f'and only {" and ".join(YIELDING)} yield keys to encrypt with')
                break


def pppoe(config: Config) -> Iterator[Problem]:
    """Services of one interface that cannot be told apart, or do not agree about it, and what there is no room for."""
    before: list[tuple[int, Pppoe]] = []
    for number, service in enumerate(config.server.pppoe):
        where: Key = ("server", "pppoe", number)
        for other, earlier in before if service.enabled else ():
            shared = sorted(set(service.interface) & set(earlier.interface))
            if shared and service.service_name == earlier.service_name and overlap(service, earlier):
                yield (*where, "service-name"), f'is "{service.service_name}", which server.pppoe[{other}] offers on {shared[0]} already'
            for key in "padi-limit", "padi-limit-per-mac":
                mine, its = (getattr(s, key.replace("-", "_")) for s in (service, earlier))
                if shared and mine != its:
                    yield (*where, key), f"is {mine}, but {shared[0]} has one limit for all, and server.pppoe[{other}] says {its}"
        if service.enabled:
            before.append((number, service))
    if len(wire_ports(config.server)) > PORTS:
        yield ("server",), f"has {len(wire_ports(config.server))} addresses and interfaces to listen on, but at most {PORTS} are possible"
    if (rows := sum(len(service.interface) for _, service in before)) > SERVICES:
        yield ("server", "pppoe"), f"has {rows} services, one on two interfaces being two, but at most {SERVICES} are possible"
    if (macs := sum(len(service.interface) * len(service.allow_mac or service.deny_mac) for _, service in before)) > LISTED:
        yield (("server", "pppoe"), f"has {macs} MACs in its lists, each as often as its service has interfaces, "
               f"but at most {LISTED} are possible")


def overlap(one: Pppoe, other: Pppoe) -> bool:
    """Whether some VLANs are of both."""
    untagged = (((0, 0), (0, 0)),)
    return any(all(max(a[0], b[0]) <= min(a[1], b[1]) for a, b in zip(mine, its, strict=True))
               for mine in one.ranges or untagged for its in other.ranges or untagged)


def secrets(config: Config, locals_: set[Any]) -> Iterator[Problem]:
    fixed: dict[Any, str] = {}
    for user, secret in config.secrets.items():
        where: Key = ("secrets", user)
        if secret.profile and secret.profile not in config.profiles:
            yield (*where, "profile"), f'is "{secret.profile}", which does not exist; {named("profiles", config.profiles)}'
        defaults = [s.default_profile for key, s in config.server.all() if secret.service in ("any", key[0])]
        for name in dict.fromkeys([secret.profile] if secret.profile else defaults):
            profile = config.profiles.get(name)
            nothing = profile and not (secret.remote_address or profile.remote_address or profile.bridge or profile.gives_ipv6(secret))
            if nothing:
                yield where, f'gets no address: give it a remote-address, or its profile "{name}" one'
                break
            if profile and secret.remote_address and not profile.local_address:
                yield (*where, "remote-address"), f'needs a local-address in profile "{name}", our own end of the session'
                break
            if profile and secret.prefixes and not profile.local_ipv6_address:
                yield (*where, next(iter(secret.prefixes))), f'needs a local-ipv6-address in profile "{name}", the sender of our ICMPv6'
                break
        if secret.remote_address in locals_:
            yield (*where, "remote-address"), \
                f"is {secret.remote_address}, which is a profile's local-address; two ends need two addresses"
        elif secret.remote_address in fixed:
            yield (*where, "remote-address"), \
                f'is {secret.remote_address}, which "{fixed[secret.remote_address]}" has already; each needs its own'
        elif secret.remote_address:
            fixed[secret.remote_address] = user


def named(what: str, names: Any) -> str:
    return f"the {what} are {', '.join(sorted(names))}" if names else f"there are no {what}"
