"""The configuration: what a file gives, and one sentence for each mistake."""
from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from headrace.control import config, duration
from headrace.control.config import ConfigError
from headrace.control.link import Bridging
from headrace.control.mppe import Policy
from headrace.control.settings import Concentrator, L2tp, Pool6, Pppoe, Pptp, Profile, Secret
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BASE = """\
[concentrator]
workers = 2

[pools]
clients = ["10.67.0.0/16"]

[profiles.default-encryption]
local-address = "10.67.0.1"
remote-address = "clients"

[secrets.joe]
password = "s3cret-word"

[server.l2tp]
enabled = true
"""


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "headrace.toml"
        path.write_text(text)
        return path
    return write


def test_values(file):
    c = config.load(file(BASE + 'listen = ["0.0.0.0", "[::0]:1702"]\nkeepalive-timeout = "1m30s"\n'))
    assert c.concentrator.workers == 2 and c.concentrator.interface == "hr0" and c.concentrator.spin == 50e-6
    assert c.pools["clients"] == (IPv4Network("10.67.0.0/16"),)
    assert c.profiles["default-encryption"].remote_address == "clients"
    assert c.profile_of(c.secrets["joe"], "default-encryption").local_address == IPv4Address("10.67.0.1")
    assert c.server.l2tp.listen == ("0.0.0.0:1701", "[::]:1702") and c.server.l2tp.keepalive_timeout == 90


def test_values_of_pppoe(file):
    c = config.load(file(BASE + """[[server.pppoe]]
interface = ["eth2", "eth1"]
pppoe-over-vlan-range = ["untagged", "100-199", "7.1-4094", 300]
allow-mac = ["02-00-5e-10-00-0a"]
pado-delay = { 0 = "0s", 100 = "200ms", 0900 = "refuse" }
[[server.pppoe]]
interface = "eth1"
pppoe-over-vlan-range = "301"
[[server.pppoe]]
enabled = false
interface = "eth1"
"""))
    one, other, off = c.server.pppoe
    assert one.ranges == (((0, 0), (0, 0)), ((100, 199), (0, 0)), ((7, 7), (1, 4094)), ((300, 300), (0, 0)))
    assert other.interface == ("eth1",)
    assert one.allow_mac == ("02:00:5E:10:00:0A",) and (one.max_mtu, one.keepalive_timeout) == (1480, 10)
    assert [one.delay(n) for n in (0, 99, 100, 899, 900)] == [0, 0, 0.2, 0.2, "refuse"] and other.delay(5) == 0
    assert c.server.interfaces == ["eth1", "eth2"] and not off.enabled and len(c.server.enabled()) == 3
    assert len({one.label, other.label}) == 2 and config.restore(config.dump(c)) == c


def test_only_the_profile_of_that_name_encrypts_by_default(file):
    c = config.load(file(BASE + "[profiles.p]\nlocal-address = '10.1.0.1'\n"))
    assert (c.profiles["default-encryption"].use_encryption, c.profiles["p"].use_encryption) == ("yes", "no")
    assert config.restore(config.dump(c)) == c
    keys = 'remote-address = "clients"\nuse-encryption = "no"\nmppe-strength = [40]'
    told = config.load(file(BASE.replace('remote-address = "clients"', keys)))
    assert told.profiles["default-encryption"].encryption == Policy("no", (40,), False)


@pytest.mark.parametrize("added", [
    "authentication = ['chap', 'mschap1']\n[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = 'require'\n"
    "[secrets.ann]\npassword = 'x'\nprofile = 'p'\nremote-address = '10.1.0.2'",
    "authentication = ['pap']\n[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = 'require'",      # of nobody
    "authentication = ['pap']\n[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = 'yes'\n"
    "[secrets.ann]\npassword = 'x'\nprofile = 'p'\nremote-address = '10.1.0.2'",
])
def test_authentication_that_may_carry_encryption(file, added):
    assert config.load(file(BASE + added))


@pytest.mark.parametrize("text, mrru, mtu", [("", "disabled", 1450), ("mrru = 'disabled'", "disabled", 1450), ("mrru = 512", 512, 1450),
                                             ("mrru = 1600", 1600, 1600), ("mrru = 65535", 65535, 65535)])
def test_mrru_and_what_it_makes_of_the_interface(file, text, mrru, mtu):
    c = config.load(file(BASE + text))
    assert (c.server.l2tp.mrru, c.server.mtu) == (mrru, mtu) and config.restore(config.dump(c)) == c


def test_result_is_frozen(file):
    with pytest.raises(ValueError, match="frozen"):
        config.load(file(BASE)).server.l2tp.max_mtu = 1


def test_crosses_to_the_children_whole(file):
    c = config.load(file(BASE + 'tunnel-secret = "t"\n[profiles.one]\nlocal-address = "10.9.0.1"\nremote-address = "10.9.0.2"\n'))
    again = config.restore(config.dump(c))
    assert again == c and again.secrets["joe"].password == "s3cret-word" and again.profiles["one"].remote_address == IPv4Address("10.9.0.2")


def test_secrets_are_not_in_the_representation(file):
    assert "s3cret-word" not in repr(config.load(file(BASE)))


# what is added to BASE, in [server.l2tp] unless it opens a table; the line; what the sentence says
MISTAKES = [
    ("max-mtu = 99999", 16, "server.l2tp.max-mtu is 99999, but must be from 576 to 1500"),
    ('max-mtu = "big"', 16, 'server.l2tp.max-mtu is "big", but must be a whole number'),
    ("max-mtuu = 1400", 16, "server.l2tp.max-mtuu is an unknown key; did you mean max-mtu?"),
    ("max_mtu = 1400", 16, "server.l2tp.max_mtu is an unknown key; did you mean max-mtu?"),
    ("mrru = 511", 16, 'server.l2tp.mrru is 511, but must be "disabled" or a number from 512 to 65535'),
    ("mrru = 65536", 16, 'server.l2tp.mrru is 65536, but must be "disabled" or a number from 512 to 65535'),
    ("mrru = true", 16, 'server.l2tp.mrru is true, but must be "disabled" or a number from 512 to 65535'),
    ("[server.sstp]\nenabled = true", 16, "server.sstp is not in this version; take it out"),
    ("[server.pptp]\nlisten = ['[::]:1723']", 17, 'server.pptp.listen[0] is "[::]:1723", but must be an IPv4 address and a port such as '
     '"0.0.0.0:1723"; PPTP knows no other'),
    ("[server.pptp]\nlisten = ['0.0.0.0', '0.0.0.0:1723']", 17, "server.pptp.listen names 0.0.0.0:1723 twice, and once would be right"),
    ("[server.pptp]\ngre-transmit = 'ring'", 17, 'server.pptp.gre-transmit is "ring", but frames leave by a packet socket, and not by a '
     'ring any more: write "packet" for what that did, or "auto"'),
    ("[server.pptp]\ngre-transmit = 'fast'", 17, 'server.pptp.gre-transmit is "fast", but must be "auto", "packet" or "raw"'),
    ("[server.pptp]\ntunnel-secret = 's'", 17, "server.pptp.tunnel-secret is an unknown key; known here are enabled, "),
    ("[server.pptp]\nenabled = true\ndefault-profile = 'gold'", 18,
     'server.pptp.default-profile is "gold", which does not exist; the profiles are default-encryption'),
    ("[server.pptp]\nmax-sessions = 70000", 17, "server.pptp.max-sessions is 70000, but must not be above concentrator.max-sessions"),
    ("[server.pppoe]\ninterface = 'eth1'", 16, "server.pppoe must be written [[server.pppoe]], once for each service"),
    ("[[server.pppoe]]\nservice-name = 'x'", 16, "server.pppoe[0].interface is missing, and [[server.pppoe]] needs it"),
    ("[[server.pppoe]]\ninterface = 'a'\n[[server.pppoe]]\ninterface = 'b'\nmax-mtu = 1501", 20,
     "server.pppoe[1].max-mtu is 1501, but must be from 576 to 1500"),
    ("[[server.pppoe]]\ninterface = 'a'\n[server.pptp]\n[[server.pppoe]]\ninterface = 'b'\nmrru = 100", 21,
     'server.pppoe[1].mrru is 100, but must be "disabled" or a number from 512 to 65535'),
    ("[[server.pppoe]]\ninterface = ['a', 'a']", 17, "server.pppoe[0].interface names a twice, and once would be right"),
    ("[[server.pppoe]]\ninterface = []", 17, "server.pppoe[0].interface is empty, but must have at least one element"),
    ("[[server.pppoe]]\ninterface = 'a'\nac-name = ''", 18, "server.pppoe[0].ac-name must not be empty"),
    ("[[server.pppoe]]\ninterface = 'a'\ndscp = 0", 18, "server.pppoe[0].dscp is an unknown key"),
    ("[[server.pppoe]]\ninterface = 'a'\nservice-name = '" + 65 * "x" + "'", 18, f'server.pppoe[0].service-name is "{65 * "x"}", but must '
     "have at most 64 octets"),
    ("[[server.pppoe]]\ninterface = 'a'\npppoe-over-vlan-range = ['7', '4095']", 18, 'server.pppoe[0].pppoe-over-vlan-range[1] is "4095", '
     'but must be VLANs such as "100-199", two tags such as "100.7" or "100-199.1-4094", or "untagged"'),
    ("[[server.pppoe]]\ninterface = 'a'\npppoe-over-vlan-range = ['7', 7]", 18, "server.pppoe[0].pppoe-over-vlan-range names 7 twice"),
    ("[[server.pppoe]]\ninterface = 'a'\nallow-mac = ['02:00']", 18,
     'server.pppoe[0].allow-mac[0] is "02:00", but must be a MAC address such as "02:00:5E:10:00:01"'),
    ("[[server.pppoe]]\ninterface = 'a'\npado-delay = '11s'", 18,
     'server.pppoe[0].pado-delay is "11s", but must be at most 10s, or "refuse"'),
    ("[[server.pppoe]]\ninterface = 'a'\npado-delay = { many = '1s' }", 18,
     'server.pppoe[0].pado-delay has "many", where a number of sessions'),
    ("[[server.pppoe]]\ninterface = 'a'\nservice-name = 'x'\n[[server.pppoe]]\ninterface = ['b', 'a']\nservice-name = 'x'", 21,
     'server.pppoe[1].service-name is "x", which server.pppoe[0] offers on a already'),
    ("[[server.pppoe]]\ninterface = 'a'\n[[server.pppoe]]\ninterface = 'a'\nservice-name = 'x'\npadi-limit = 5", 21,
     "server.pppoe[1].padi-limit is 5, but a has one limit for all, and server.pppoe[0] says 10000"),
    ("[[server.pppoe]]\ninterface = [" + ", ".join(f"'i{n}'" for n in range(16)) + "]", 14,
     "server has 17 addresses and interfaces to listen on, but at most 16 are possible"),
    ("[[server.pppoe]]\ninterface = 'a'\ndefault-profile = 'gold'", 18, 'server.pppoe[0].default-profile is "gold", which does not exist'),
    ("[client.l2tp.x]\nuser = 'x'", 16, "client is not in this version; take it out"),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = 'default'", 18,
     'profiles.p.use-encryption is "default", but must be "no", "yes" or "require"'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = true", 18,
     'profiles.p.use-encryption is true, but must be "no", "yes" or "require"'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nmppe-strength = [128, 64]", 18,
     "profiles.p.mppe-strength[1] is 64, but must be 128, 56 or 40"),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nmppe-strength = []", 18,
     "profiles.p.mppe-strength is empty, but must have at least one element"),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nmppe-strength = [40, 40]", 18,
     "profiles.p.mppe-strength names 40 twice, and once would be right"),
    ("authentication = ['chap', 'pap']\n[profiles.p]\nlocal-address = '10.1.0.1'\nuse-encryption = 'require'\n"
     "[secrets.ann]\npassword = 'x'\nprofile = 'p'\nremote-address = '10.1.0.2'", 16,
     'server.l2tp.authentication is chap, pap, but profile "p" has use-encryption = "require", and only mschap2 and mschap1 yield keys'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nrate-limit = '1M'", 18, "profiles.p.rate-limit is not in this version; take it out"),
    ("[secrets.l2tp]\npassword = 'x'\nroutes = []", 18, "secrets.l2tp.routes is not in this version; take it out"),
    ("[secrets.ann]\nprofile = 'x'", 16, "secrets.ann.password is missing, and [secrets.ann] needs it"),
    ("[secrets.ann]\npassword = 'x'\nprofile = 'gold'", 18,
     'secrets.ann.profile is "gold", which does not exist; the profiles are default-encryption'),
    ("[secrets.ann]\npassword = 'x'\nservice = 'sstp'", 18,
     'secrets.ann.service is "sstp", but that is not in this version: it must be "any", "l2tp", "pptp" or "pppoe"'),
    ("[secrets.ann]\npassword = 'x'\nremote-address = '10.67.0'", 18,
     'secrets.ann.remote-address is "10.67.0", but must be an IPv4 address such as "10.67.0.1"'),
    ("[secrets.ann]\npassword = 'x'\nremote-address = '10.67.0.1'", 18,
     "secrets.ann.remote-address is 10.67.0.1, which is a profile's local-address; two ends need two addresses"),
    ("[secrets.ann]\npassword = 'x'\nremote-address = '10.67.0.9'\n[secrets.'b b']\npassword = 'x'\nremote-address = '10.67.0.9'", 21,
     'secrets."b b".remote-address is 10.67.0.9, which "ann" has already; each needs its own'),
    *((f"[secrets.ann]\npassword = 'x'\nremote-address = '10.1.0.2'\ncaller-id = '{caller}'", 19, f'secrets.ann.caller-id is "{caller}", '
       'but must be an address such as "192.0.2.7", or of PPPoE a MAC address such as "02:00:5E:10:00:01"')
      for caller in ("5551234", "", "192.0.2", "02:00:5E:10:00:0", "02:00:5E:10:00:01@0", "02:00:5E:10:00:01@1.2.3")),
    *((f"keepalive-timeout = {wrong}", 16, f"server.l2tp.keepalive-timeout is {wrong}, but must be from 100ms to 1h, or 0s for never")
      for wrong in ('"50ms"', '"1h1s"', "3601")),
    ('dscp = "a\\nb\\u001b"', 16, 'server.l2tp.dscp is "a\\nb\\x1b", but must be "inherit" or a number from 0 to 63'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\n[secrets.ann]\npassword = 'x'\nprofile = 'p'", 18,
     'secrets.ann gets no address: give it a remote-address, or its profile "p" one'),
    ("default-profile = 'gold'", 16, 'server.l2tp.default-profile is "gold", which does not exist; the profiles are default-encryption'),
    ("[profiles.p]\nlocal-address = '10.67.255.255'", 17,
     'profiles.p.local-address is 10.67.255.255, the first or last address of pool "clients"; one between them would be right'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nremote-address = 'guests'", 18,
     'profiles.p.remote-address is "guests", which is not a pool; the pools are clients'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\nremote-address = '10.1.0.1'", 18,
     'profiles.p.remote-address is 10.1.0.1, which is the local-address of profile "p"; two ends need two addresses'),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\ndns-server = ['9.9.9.9', '8.8.8.8', '1.1.1.1']", 18,
     "profiles.p.dns-server has more than two of IPv4; at most two can be told"),
    ("[profiles.p]\nlocal-address = '10.1.0.1'\ndns-server = ['fe80::1']", 18,
     'profiles.p.dns-server[0] is "fe80::1", but must be an IPv6 address such as "2001:db8:67::1", global or unique local'),
    ("[profiles.p]\ndns-server = ['9.9.9.9', '2001:db8::1', '2001:db8::2', '2001:db8::3']", 17,
     "profiles.p.dns-server has more than two of IPv6; at most two can be told"),
    ("[profiles.p]\ndomain-search = ['example..net']", 17,
     'profiles.p.domain-search[0] is "example..net", but must be a domain name such as "example.net"'),
    ("[profiles.p]\nremote-address = '10.1.0.2'", 17, "profiles.p.remote-address needs a local-address, our own end of the sessions"),
    ("[profiles.p]\n[secrets.ann]\npassword = 'x'\nprofile = 'p'\nremote-address = '10.1.0.2'", 20,
     'secrets.ann.remote-address needs a local-address in profile "p", our own end of the session'),
    ("[profiles.p]\nuse-ipv6 = 'required'", 17, 'profiles.p.use-ipv6 is "required", but must be "no" or "yes"'),
    ("[profiles.p]\nlocal-ipv6-address = '::ffff:10.1.0.1'", 17,
     'profiles.p.local-ipv6-address is "::ffff:10.1.0.1", but must be an IPv6 address such as "2001:db8:67::1", global or unique local'),
    ("[profiles.p]\nremote-ipv6-prefix-pool = 'clients'\nlocal-ipv6-address = '2001:db8::1'", 17,
     'profiles.p.remote-ipv6-prefix-pool is "clients", which is not an ipv6-pool; there are no ipv6 pools'),
    ("[ipv6-pool.six]\nprefix = '2001:db8::/48'\n[profiles.p]\nremote-ipv6-prefix-pool = 'six'", 19,
     "profiles.p.remote-ipv6-prefix-pool needs a local-ipv6-address, the sender of our ICMPv6"),
    ("[ipv6-pool.six]\nprefix = '2001:db8::/48'\nprefix-length = 56\n[profiles.p]\nremote-ipv6-prefix-pool = 'six'\n"
     "local-ipv6-address = '2001:db8::1'", 20,
     'profiles.p.remote-ipv6-prefix-pool is "six", whose prefix-length is 56; a link needs 64'),
    ("[ipv6-pool.six]\nprefix = '2001:db8::/48'\n[profiles.p]\nremote-ipv6-prefix-pool = 'six'\ndhcpv6-pd-pool = 'six'\n"
     "local-ipv6-address = '2001:db8::1'", 20,
     "profiles.p.dhcpv6-pd-pool is the pool of the links too; take another, so that one cannot use up the other"),
    ("[ipv6-pool.six]\nprefix = ['2001:db8::/60', '2001:db8:1::/56']\nprefix-length = 56", 17,
     "ipv6-pool.six.prefix has 2001:db8::/60, which is smaller than the /56 that it is to be split into"),
    ("[ipv6-pool.six]\nprefix = '2001:db8::/48'\n[ipv6-pool.seven]\nprefix = '2001:db8:0:8::/64'", 19,
     'ipv6-pool.seven.prefix has 2001:db8:0:8::/64, which overlaps 2001:db8::/48 of ipv6-pool "six"; pools must not share prefixes'),
    ("mrru = 1279\n[profiles.p]\nlocal-ipv6-address = '2001:db8::1'", 16,
     "server.l2tp.mrru is 1279, but IPv6 needs 1280 (or take local-ipv6-address out)"),
    ("[ipv6-pool.six]\nprefix = '2001:db8::1/48'", 17,
     'ipv6-pool.six.prefix[0] is "2001:db8::1/48", but has bits set beyond its length, and "2001:db8::/48" would be right'),
    ("[ipv6-pool.six]\nprefix = ['fe80::/64']", 17,
     'ipv6-pool.six.prefix[0] is "fe80::/64", but must be global addresses, or unique local ones'),
    ("[ipv6-pool.six]\nprefix = ['10.0.0.0/8']", 17,
     'ipv6-pool.six.prefix[0] is "10.0.0.0/8", but must be an IPv6 prefix such as "2001:db8:67::/48"'),
    ("[ipv6-pool.six]\nprefix = []", 17, "ipv6-pool.six.prefix is empty, but must have at least one element"),
    ("[ipv6-pool.six]\nprefix = '2001:db8::/48'\nprefix-length = 80", 18, "ipv6-pool.six.prefix-length is 80, but must be from 32 to 64"),
    ("[secrets.ann]\npassword = 'x'\nremote-ipv6-prefix = '2001:db8::/56'", 18,
     'secrets.ann.remote-ipv6-prefix is "2001:db8::/56", but must be a /64: hosts make their addresses in it'),
    ("[secrets.ann]\npassword = 'x'\nremote-ipv6-prefix = '2001:db8::/64'", 18,
     'secrets.ann.remote-ipv6-prefix needs a local-ipv6-address in profile "default-encryption", the sender of our ICMPv6'),
    ("listen = ['0.0.0.0:1701', '0.0.0.0']", 16, "server.l2tp.listen names 0.0.0.0:1701 twice, and once would be right"),
    ("listen = ['0.0.0.0:70000']", 16, 'server.l2tp.listen[0] is "0.0.0.0:70000", but must be an address and a port'),
    ("listen = ['[fe80::1]:1701']", 16, "server.l2tp.listen[0] is \"[fe80::1]:1701\", but must name the interface of a link-local address"),
    ("listen = ['[2001:db8::1%eth0]:1701']", 16, "server.l2tp.listen[0] is \"[2001:db8::1%eth0]:1701\", but must name the interface"),
    ("listen = ['[fe80::1%no such one]:1701']", 16, "server.l2tp.listen[0] is \"[fe80::1%no such one]:1701\", but must be an address and"),
    ("listen = ['localhost:1701']", 16, 'server.l2tp.listen[0] is "localhost:1701", but must be an address and a port'),
    ("listen = []", 16, "server.l2tp.listen is empty, but must have at least one element"),
    ("authentication = ['eap']", 16, 'server.l2tp.authentication[0] is "eap", but that is not in this version: it must be "mschap2", '),
    ("authentication = ['pap', 'pap']", 16, "server.l2tp.authentication names pap twice, and once would be right"),
    ("authentication = 'pap'", 16, 'server.l2tp.authentication is "pap", but must be a list'),
    ("keepalive-timeout = 'soon'", 16, 'server.l2tp.keepalive-timeout is "soon", but must be a duration such as "30s", "1h2m" or "50us"'),
    ("hidden = true", 16, "server.l2tp.hidden is true, but hiding needs a key: set tunnel-secret too"),
    ("hidden = 1", 16, "server.l2tp.hidden is 1, but must be true or false"),
    ("max-sessions = 70000", 16, "server.l2tp.max-sessions is 70000, but must not be above concentrator.max-sessions, which is 65536"),
    ("listen = [", 0, "is not TOML"),
    ("enabled = false", 16, "is not TOML: cannot overwrite a value"),
]


@pytest.mark.parametrize("added, line, sentence", MISTAKES, ids=[m[0].replace("\n", " ")[:50] for m in MISTAKES])
def test_mistakes(file, added, line, sentence):
    path = file(BASE + added + "\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: {sentence}" if line else f"{path}: {sentence}")
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)


KEYS = {"concentrator": Concentrator, "profiles.default-encryption": Profile, "secrets.joe": Secret, "server.l2tp": L2tp,
        "server.pptp": Pptp, "server.pppoe": Pppoe, "ipv6-pool.six": Pool6}
VALUES = st.recursive(
    st.one_of(st.integers().map(str), st.floats().map(str), st.sampled_from([
        "true", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
        '"clients"', '"six"', '"10.67.0.9"', '"10.0.0.0/8"', '"0.0.0.0/0"', '"::1"',
        '"2001:db8::/48"', '"[fe80::1%eth0]:7"', '"[::"', '"1h"', '"100-199.1"', '"require"', '"02:00:5e:10:00:01@7"', '"\\u0000\\n"']),
        st.text(st.characters(exclude_categories=["C"], exclude_characters='"\\'), max_size=9).map(lambda text: f'"{text}"')),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]") | inner.map(lambda v: f"{{0 = {v}}}"), max_leaves=3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([(table, field.alias) for table, model in KEYS.items() for field in model.model_fields.values()]),
                          VALUES), min_size=1, max_size=3, unique_by=lambda row: row[0]))
def test_any_value_anywhere(file, said):
    """Each problem is one line that says where; what is none reaches the children as it is."""
    tables = {"concentrator": {}, "pools": {"clients": '["10.67.0.0/16"]'}, "ipv6-pool.six": {"prefix": '"2001:db8:67::/48"'},
              "profiles.default-encryption": {"local-address": '"10.67.0.1"', "remote-address": '"clients"'},
              "secrets.joe": {"password": '"x"'}, "server.l2tp": {}, "server.pptp": {}, "server.pppoe": {"interface": '"eth1"'}}
    for (table, key), value in said:
        tables[table][key] = value
    path = file("".join((f"[[{t}]]\n" if t == "server.pppoe" else f"[{t}]\n") + "".join(f"{k} = {v}\n" for k, v in keys.items())
                        for t, keys in tables.items()))
    try:
        c = config.load(path)
    except ConfigError as error:
        assert all(re.match(rf"{re.escape(str(path))}:\d+: [a-z]", problem) and problem.isprintable() for problem in error.problems)
    else:
        assert config.restore(config.dump(c)) == c


SIX = BASE.replace('remote-address = "clients"\n', """remote-address = "clients"
local-ipv6-address = "2001:db8:67::1"
remote-ipv6-prefix-pool = "links"
dhcpv6-pd-pool = "delegated"
dns-server = ["9.9.9.9", "2001:db8::53"]
domain-search = ["example.net"]

[ipv6-pool.links]
prefix = "2001:db8:67::/48"

[ipv6-pool.delegated]
prefix = ["2001:db8:100::/40"]
prefix-length = 56
""") + """[secrets.ann]
password = "x"
remote-ipv6-prefix = "2001:db8:67:9::/64"
"""


def test_ipv6(file):
    c = config.load(file(SIX))
    assert config.restore(config.dump(c)) == c
    profile, pool = c.profiles["default-encryption"], c.ipv6_pool["delegated"]
    assert [str(n) for n in pool.prefix] == ["2001:db8:100::/40"] and pool.prefix_length == 56
    assert [str(a) for a in profile.dns4 + profile.dns6] == ["9.9.9.9", "2001:db8::53"]
    assert profile.gives_ipv6(c.secrets["joe"])
    alone = SIX.replace('remote-address = "clients"\n', "").replace('local-address = "10.67.0.1"\n', "")
    assert config.load(file(alone)).profiles["default-encryption"].local_address is None


@pytest.mark.parametrize("old, new, line, sentence", [
    ("2001:db8:67:9::/64", "2001:db8:100::/64", 30,
     'secrets.ann.remote-ipv6-prefix is 2001:db8:100::/64, which overlaps 2001:db8:100::/40 of ipv6-pool "delegated", which is split'),
    ("2001:db8:67:9::/64", "2001:db8:67::/64", 10,
     'profiles.default-encryption.local-ipv6-address is 2001:db8:67::1, in the remote-ipv6-prefix of "ann"'),
    ("enabled = true\n", "enabled = true\nmax-mtu = 1279\n", 28, "server.l2tp.max-mtu is 1279, but IPv6 needs 1280"),
    ('[secrets.ann]', '[secrets.eve]\npassword = ""\nremote-ipv6-prefix = "2001:db8:67:9::/64"\n[secrets.ann]', 33,
     'secrets.ann.remote-ipv6-prefix is 2001:db8:67:9::/64, which overlaps 2001:db8:67:9::/64 of "eve"'),
    ('remote-ipv6-prefix = "', 'delegated-ipv6-prefix = "2001:db8:100::/60"\nremote-ipv6-prefix = "', 30,
     'secrets.ann.delegated-ipv6-prefix is 2001:db8:100::/60, which overlaps 2001:db8:100::/40 of ipv6-pool "delegated", which is split'),
    ('remote-ipv6-prefix = "', 'delegated-ipv6-prefix = "2001:db8::/31"\nremote-ipv6-prefix = "', 30,
     'secrets.ann.delegated-ipv6-prefix is "2001:db8::/31", but must be from a /32 to a /64'),
])
def test_mistakes_with_ipv6(file, old, new, line, sentence):
    path = file(SIX.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: {sentence}")


@pytest.mark.parametrize("old, new, line, sentence", [
    ('["10.67.0.0/16"]', '["10.67.0.1/16"]', 5,
     'pools.clients[0] is "10.67.0.1/16", but has bits set beyond its length, and "10.67.0.0/16" would be right'),
    ('["10.67.0.0/16"]', '["10.0.0.0/4"]', 5, 'pools.clients[0] is "10.0.0.0/4", but has bits set'),
    ('["10.67.0.0/16"]', '["10.67.0.0/16"]\nguests = ["10.67.8.0/24"]', 6,
     'pools.guests has 10.67.8.0/24, which overlaps 10.67.0.0/16 of pool "clients"; pools must not share addresses'),
    ('["10.67.0.0/16"]', '["10.67.0.0/16", "10.67.1.0/24"]', 5, "pools.clients has 10.67.1.0/24, which overlaps 10.67.0.0/16 of itself"),
    ("workers = 2", "workers = -1", 2, "concentrator.workers is -1, but must be from 0 to 16"),
    ("workers = 2", 'spin = "1s"', 2, 'concentrator.spin is "1s", but must be at most 10ms'),
    ("workers = 2", 'run-dir = "run"', 2, 'concentrator.run-dir is "run", but must be an absolute path'),
    ("workers = 2", 'offload = "gso"', 2, 'concentrator.offload is "gso", but must be "auto", "uso", "tso", "csum" or "none"'),
    ("workers = 2", 'masquerade = "hr0"', 2, "concentrator.masquerade is hr0, the tunnels' own interface; name the uplink"),
    ("workers = 2", 'interface = "far-too-long-a-name"', 2,
     'concentrator.interface is "far-too-long-a-name", but must be an interface name'),
    ("workers = 2", "forwarding = 'yes'", 2, 'concentrator.forwarding is "yes", but must be true or false'),
])
def test_mistakes_above(file, old, new, line, sentence):
    path = file(BASE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}:{line}: {sentence}")


def test_a_wrong_password_value_is_not_repeated(file):
    with pytest.raises(ConfigError) as caught:
        config.load(file(BASE.replace('"s3cret-word"', "12345")))
    assert "secrets.joe.password must be a string" in str(caught.value) and "12345" not in str(caught.value)


def test_all_problems_in_the_order_of_the_file(file):
    with pytest.raises(ConfigError) as caught:
        config.load(file(BASE.replace("workers = 2", "workers = 99") + "max-mtu = 1\n"))
    assert [p.split(" is ")[0].split(": ")[1] for p in caught.value.problems] == ["concentrator.workers", "server.l2tp.max-mtu"]


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        config.find(tmp_path / "none.toml")


def test_found_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headrace.toml").write_text(BASE)
    assert config.find(None) == Path("headrace.toml")


def test_run_dir_of_a_file_with_other_mistakes(file):
    assert config.run_dir(file('[concentrator]\nrun-dir = "/run/other"\nworkers = "x"\n')) == Path("/run/other")


@pytest.mark.parametrize("text, seconds", [("30s", 30), ("1h2m", 3720), ("50us", 50e-6), ("1w2d", 777600), ("1.5ms", 0.0015),
                                           (7, 7), ("0s", 0)])
def test_duration_in(text, seconds):
    assert duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "3", "s", "3 s", "-3s", "3y", -1, True, float("inf"), None])
def test_not_a_duration(text):
    with pytest.raises(ValueError, match="must be a duration"):
        duration.parse(text)


@pytest.mark.parametrize("seconds, text", [(26658, "7h24m18s"), (22864, "6h21m4s"), (777600, "1w2d"), (0, "0s"), (59.9, "59s"),
                                           (3600, "1h")])
def test_duration_out(seconds, text):
    assert duration.show(seconds) == text


BRIDGE = '[profiles.lan]\nlocal-address = "10.66.0.1"\nremote-address = "10.66.0.9"\n'


def test_a_bridge(file):
    """RouterOS' names and numbers; the kernel counts a port's priority in 64 steps."""
    keys = 'bridge = "br0"\nbridge-port-priority = 240\nbridge-path-cost = 7\nbridge-horizon = 0\nbridge-stp = false'
    c = config.load(file(BASE + BRIDGE + keys))
    profile = c.profiles["lan"]
    assert (profile.port_priority, profile.bridge_path_cost, profile.bridge_horizon, profile.bridge_learning) == (60, 7, 0, True)
    assert profile.bridging == Bridging(stp=False) and config.restore(config.dump(c)) == c
    assert c.profiles["default-encryption"].bridging is None and c.profiles["default-encryption"].port_priority is None
    alone = config.load(file(BASE.replace('local-address = "10.67.0.1"\nremote-address = "clients"', 'bridge = "br0"')))
    assert alone.profiles["default-encryption"].bridging == Bridging()


@pytest.mark.parametrize("keys, line, sentence", [
    ("bridge = 'lan bridge'", 19, 'profiles.lan.bridge is "lan bridge", but must be an interface name'),
    ("bridge = 'hr0'", 19, 'profiles.lan.bridge is "hr0", which carries the routed sessions; name a bridge'),
    ("bridge-stp = true", 19, "profiles.lan.bridge-stp needs a bridge, whose port the session becomes"),
    ("bridge-horizon = 1\nbridge-learning = false", 19, "profiles.lan.bridge-horizon needs a bridge"),
    ("bridge = 'br0'\nbridge-port-priority = 100", 20,
     "profiles.lan.bridge-port-priority is 100, but must be a multiple of 16 from 0 to 240"),
    ("bridge = 'br0'\nbridge-horizon = -1", 20, "profiles.lan.bridge-horizon is -1, but must be from 0 to 4294967295"),
    ("bridge = 'br0'\nbridge-path-cost = -1", 20, "profiles.lan.bridge-path-cost is -1, but must be from 0 to 65535"),
    ("bridge = 'br0'\nbridge-learning = 'yes'", 20, 'profiles.lan.bridge-learning is "yes", but must be true or false'),
    ("bridge = 'br0'\nbridge-horizon = 1\n[profiles.two]\nbridge = 'br0'\nbridge-horizon = 2", 23,
     'profiles.two.bridge-horizon is 2, but that of profile "lan" is 1, and a bridge knows one'),
])
def test_mistakes_about_a_bridge(file, keys, line, sentence):
    path = file(BASE + BRIDGE + keys + "\n")
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(error.value).startswith(f"{path}:{line}: {sentence}")


def test_notes(file):
    """A bridge that is not there, and room for less than a network's frames, are told and do no harm."""
    used = BASE.replace('remote-address = "clients"', 'remote-address = "clients"\nbridge = "no-such-bridge"')
    missing, narrow = config.notes(config.load(file(used)))
    assert missing.startswith('profiles.default-encryption.bridge is "no-such-bridge", and there is no such interface now')
    assert narrow.startswith('profile "default-encryption" bridges, and a session of server.l2tp has room for frames of 1444 octets')
    (missing,) = config.notes(config.load(file(used + "mrru = 1600\n")))
    assert "no-such-bridge" in missing and list(config.notes(config.load(file(BASE)))) == []
