"""IPv6 through a tunnel that a real client dialled: SLAAC by its kernel, files whole, packets of every size, and a prefix that its
router has delegated to it (RFC 5072, RFC 4861, RFC 8415)."""
import re
import shlex

import pytest
from peers.concentrator import LOCAL, configuration
from peers.lab import LAN6, until
from test_peer_traffic import FEWER, transfer

pytestmark = [pytest.mark.root, pytest.mark.peer]

OWN = "2001:db8:67::1"
PROFILE = {**configuration("")["profiles"]["default"], "local-ipv6-address": OWN, "remote-ipv6-prefix-pool": "links",
           "dhcpv6-pd-pool": "delegated", "dns-server": [LOCAL, "2001:db8::53"], "domain-search": ["example.net"]}
POOLS = {"links": {"prefix": "2001:db8:67::/48"}, "delegated": {"prefix": "2001:db8:100::/40", "prefix-length": 56}}
SIX = "noccp\n+ipv6"
DHCPCD = """duid
persistent
noipv6rs
ipv6only
allowinterfaces {0} lan0
interface {0}
  iaid 1
  ia_na 1
  ia_pd 2 lan0/7/64
"""


def tables(**profile):
    return {"profiles": {"default": {key: value for key, value in {**PROFILE, **profile}.items() if value is not None}}, "ipv6-pool": POOLS}


def inside(client):
    return lambda command: client.run(command, 60).out


def outside(lab):
    return lambda command: lab.on_host(lab.lan, "bash", "-c", command, check=False).stdout


def test_an_address_by_slaac(lab, serve, dial):
    """Both data paths of xl2tpd: the kernel takes prefix, MTU, router; its address reaches the network, its neighbour and our own."""
    concentrator = serve(tables=tables())
    clients = [dial("joe", ppp=SIX), dial("ann", ppp=SIX, kernel=False)]
    addresses = {client.user: (client.up(), client.up6()) for client in clients}
    prefixes = {s["user"]: s["remote-ipv6-prefix"] for s in concentrator.json("sessions")}
    for client in clients:
        assert addresses[client.user][1].startswith(prefixes[client.user].removesuffix("::/64") + ":")
        assert client.run(f"cat /proc/sys/net/ipv6/conf/{client.interface}/mtu").out == "1400\n"
        routes = client.run("ip -6 route show default").out
        assert re.search(rf"default via fe80::1 dev {client.interface} proto ra", routes), routes
        for address in (LAN6, OWN, f"fe80::1%{client.interface}", LOCAL):
            client.ping(address)
    one, other = clients
    one.ping(addresses[other.user][1])
    other.ping(addresses[one.user][1])
    printed = concentrator.command("monitor", "joe", "--once")
    assert re.search(r"local-ipv6-address: fe80::1\n *remote-ipv6-address: fe80::[0-9a-f:]+\n *remote-ipv6-prefix: 2001:db8:67:", printed)
    verdicts = concentrator.json("stats")["verdicts"]
    assert verdicts["drop-spoof"] == verdicts["drop-ip"] == verdicts["drop-no-route"] == verdicts["drop-solicit"] == 0, verdicts
    log = one.log("pppd")
    assert re.search(r"sent \[IPV6CP ConfReq", log) and re.search(r"rcvd \[IPV6CP ConfAck", log)


@pytest.mark.parametrize("ppp, profile, four, six", [
    ("noccp\nnoip\n+ipv6", {}, False, True), (SIX, {"remote-address": None, "local-address": None}, False, True),
    (SIX, {"use-ipv6": "no"}, True, False), ("noccp\nnoipv6", {}, True, False),
])
def test_one_family_alone(lab, serve, dial, ppp, profile, four, six):
    """The client does not want the other, or the server does not."""
    concentrator = serve(tables=tables(**profile))
    client = dial("joe", ppp=ppp)
    if six:
        client.up6()
        client.ping(LAN6)
    if four:
        client.up()
        client.ping(LOCAL)
    session = concentrator.session("joe")
    assert session and session["state"] == "open"
    shown = client.run(f"ip -o addr show dev {client.interface}").out
    assert ("inet " in shown) == four and ("2001:db8:" in shown) == six, shown
    client.hang_up()
    until("the session is gone", lambda: concentrator.sessions() == [])


@pytest.mark.parametrize("workers, offload", [(1, "auto"), (2, "auto"), (1, "none")])
def test_file_each_way(lab, serve, dial, workers, offload):
    """Up and down, unharmed, in super-packets both ways where there are offloads; with two workers every packet crosses a ring."""
    environment = {"HEADRACE_TEST_OWNER": "other"} if workers > 1 else None
    concentrator = serve({"workers": workers, "offload": offload}, environment=environment, tables=tables())
    client = dial("joe", ppp=SIX)
    client.up6()
    transfer(lab, client, "send", 5001, FEWER, LAN6)
    transfer(lab, client, "receive", 5002, FEWER, LAN6)
    session = concentrator.session("joe")
    assert session and session["rx-bytes"] > FEWER and session["tx-bytes"] > FEWER, session
    stats = concentrator.json("stats")
    total = {key: sum(row[key] for row in stats["workers"]) for key in ("super-in", "super-out", "ring-in")}
    assert (total["super-in"] > 0) == (total["super-out"] > 0) == (offload == "auto") and (total["ring-in"] > 0) == (workers > 1), total
    lost = sum(stats["verdicts"][name] for name in ("drop-spoof", "drop-ip", "drop-no-route", "drop-segment", "drop-inner", "drop-wire"))
    assert lost == 0, stats["verdicts"]


@pytest.mark.parametrize("service, ppp, encoding", [
    ("pptp", SIX, ""), ("pptp", "+ipv6\nrequire-mppe-128", "MPPE128 stateless"), ("l2tp", "+ipv6\nrequire-mppe-128", "MPPE128 stateless")])
def test_by_pptp_and_encrypted(lab, serve, dial, dial_pptp, service, ppp, encoding):
    """What the router says is encrypted like all else; IPV6CP that opens second does not disturb the keys of the first."""
    concentrator = serve(pptp={}, tables=tables(**{"use-encryption": "yes"}))
    client = {"l2tp": dial, "pptp": dial_pptp}[service]("joe", ppp=ppp)
    client.up()
    address = client.up6()
    for there in LAN6, OWN, f"fe80::1%{client.interface}", LOCAL:
        client.ping(there)
    client.ping(f"-s 1300 {LAN6}")
    assert " 0% packet loss" in outside(lab)(f"ping -q -c3 -i0.1 -W3 -s 1300 {address}")
    session = concentrator.session("joe")
    assert (session["service"], session["encoding"], session["mtu"]) == (service, encoding, 1396 if encoding else 1400)
    verdicts = concentrator.get("stats")["verdicts"]
    assert {name: n for name, n in verdicts.items() if n and name.startswith("drop") and name not in ("drop-scope", "drop-not-open")} == {}


def test_sizes_around_the_mtu(lab, serve, dial):
    """What does not fit is answered by Packet Too Big with the right MTU, to whoever sends it; the largest that fits arrives."""
    serve(tables=tables())
    client, narrow = dial("joe", ppp=SIX), dial("ann", ppp=SIX, mtu=1300, kernel=False)
    address, narrow_address = client.up6(), narrow.up6()

    def pings(run, to, sizes, before=""):
        """One ping of each size, headers and all: what each printed."""
        ping = f"ping -6 -c1 -W3 -M do -s $((size - 48)) {to}"
        printed = run(f"for size in {' '.join(map(str, sizes))}; do {before} echo @$size; {ping}; done")
        return {int(part.split()[0]): part for part in printed.split("@")[1:]}

    def fits(printed, limit):
        for size, text in printed.items():
            if size <= limit:
                assert " 1 received" in text, f"{size} octets:\n{text}"
            else:
                found = re.search(r"mtu ?[=:] ?(\d+)", text)
                assert " 0 received" in text and found and int(found[1]) == limit, f"{size} octets:\n{text}"
    fits(pings(inside(client), LAN6, range(1398, 1403)), 1400)
    # What the sender learnt of the path hangs on its route: each ping begins without.
    fits(pings(outside(lab), address, range(1398, 1403), "ip -6 route flush cache;"), 1400)
    # From one client to the other the answer has to be headrace's own, out of its own address.
    printed = pings(inside(client), narrow_address, (1299, 1300, 1301, 1400), "ip -6 route flush cache;")
    fits(printed, 1300)
    assert f"From {OWN} " in printed[1400]
    # Without being asked for, a sender that is told cuts its packets itself: they arrive.
    printed = outside(lab)(f"ip -6 route flush cache; ping -6 -c3 -i0.3 -W1 -M dont -s 2000 {address}")
    assert re.search(r"[123] received", printed), printed


def test_a_delegated_prefix(lab, serve, dial):
    """dhcpcd in the guest asks for an address and a prefix, renews, and releases; an address out of the prefix reaches the network."""
    concentrator = serve(tables=tables())
    client = dial("joe", ppp=SIX)
    client.up6()
    folder = client.folder
    client.run(f"""ip link add lan0 type dummy && ip link set lan0 up && mkdir -p /var/lib/dhcpcd /run/dhcpcd &&
sysctl -w net.ipv6.conf.{client.interface}.accept_ra=2 net.ipv6.conf.all.forwarding=1 &&
printf %s {shlex.quote(DHCPCD.format(client.interface))} >{folder}/dhcpcd.conf""").check()

    def says(pattern, seconds=20):
        result = client.run(f"wait_for {seconds * 1000} grep -E {shlex.quote(pattern)} {folder}/dhcpcd; cat {folder}/dhcpcd", seconds + 30)
        assert re.search(pattern, result.out), f"no {pattern!r}:\n{result.out}\n{concentrator.log}"
        return result.out
    client.spawn(f"exec dhcpcd -B -d -6 -f {folder}/dhcpcd.conf >{folder}/dhcpcd 2>&1")
    says("lan0: DHCPv6 DAD completed")
    session = concentrator.session("joe")
    prefix = session["delegated-ipv6-prefix"]
    log = says(f"delegated prefix {prefix}")
    own = re.search(r"lan0: adding address (\S+)/64", log)[1]
    given = re.search(rf"{client.interface}: adding address (\S+)/128", log)[1]
    assert prefix.endswith("/56") and own.startswith(prefix.partition("00::/56")[0]) and given.endswith("::1")

    def reached(source):
        """From there, and to there."""
        client.ping(f"-I {source} {LAN6}")
        assert " 0% packet loss" in outside(lab)(f"ping -q -c3 -i0.1 -W3 {source}")
    for source in own, given:
        reached(source)
    client.run(f"dhcpcd -N -f {folder}/dhcpcd.conf {client.interface}").check()
    says("broadcasting RENEW6")
    says("dhcpcd-run-hooks RENEW6")
    assert concentrator.session("joe")["delegated-ipv6-prefix"] == prefix
    reached(own)
    client.run(f"dhcpcd -k -f {folder}/dhcpcd.conf").check()
    until("the prefix is free", lambda: "delegated-ipv6-prefix" not in concentrator.session("joe"))
    says("RELEASE6")
    concentrator.logs(rf"{re.escape(prefix)} is free again")
    before = concentrator.json("stats")["verdicts"]["drop-no-route"]
    assert " 0 received" in outside(lab)(f"ping -c1 -W1 {own}")
    assert concentrator.json("stats")["verdicts"]["drop-no-route"] > before
    client.ping(LAN6)


def test_what_is_somebody_elses_is_not_sent_from(lab, serve, dial):
    """A client that gives itself another address is heard by nobody."""
    concentrator = serve(tables=tables())
    client, other = dial("joe", ppp=SIX), dial("ann", ppp=SIX)
    client.up6()
    stolen = other.up6()
    client.run(f"ip -6 addr add {stolen}/128 dev {client.interface} nodad").check()
    assert " 0 received" in client.run(f"ping -6 -c2 -i0.2 -W1 -I {stolen} {LAN6}").out
    assert concentrator.json("stats")["verdicts"]["drop-spoof"] >= 2
    other.ping(LAN6)
