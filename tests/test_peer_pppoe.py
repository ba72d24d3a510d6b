"""Debian's pppd dials in by PPPoE, with the kernel's and with rp-pppoe's own: services, networks, and what crosses (RFC 2516, RFC 4638)."""
import pytest
from peers.concentrator import LOCAL
from peers.lab import LAN, LAN6, until
from peers.root import sh
from test_peer_ipv6 import OWN, outside, tables
from test_peer_ipv6 import test_a_delegated_prefix as delegated
from test_peer_traffic import transfer

pytestmark = [pytest.mark.root, pytest.mark.peer]

INTERNET = {"interface": "peer0", "service-name": "internet", "accept-service-name": "exact", "ac-name": "ac-1", "max-mtu": 1492,
            "max-mru": 1492}
TAGGED = {**INTERNET, "service-name": "tv", "accept-service-name": "blank", "pppoe-over-vlan-range": ["7-8", "100.7"]}


def test_services_and_networks(lab, serve, dial_pppoe):
    """Four clients, each in another network or with another program; who asks for what there is not, or says a wrong password, is out."""
    concentrator = serve(pppoe=[INTERNET, TAGGED])
    clients = {"joe": dial_pppoe("joe", service="internet", ppp="noccp\nrefuse-mschap-v2\nrefuse-mschap"),
               "ann": dial_pppoe("ann", service="internet", kernel=False),
               "eve": dial_pppoe("eve", vlans=(("802.1Q", 7),)),
               "bob": dial_pppoe("bob", service="tv", vlans=(("802.1ad", 100), ("802.1Q", 7)))}
    wrong, stranger = dial_pppoe("joe", service="radio"), dial_pppoe("ann", "Gate-6-opens", service="internet")
    addresses = {user: client.up() for user, client in clients.items()}
    sizes = dict.fromkeys(clients, 1492) | {"bob": 1484}           # an interface of MTU 1500 carries 8 octets of tags less
    for user, client in clients.items():
        client.ping(f"-M do -s {sizes[user] - 28} {LAN}")
        client.ping(LOCAL)
    clients["joe"].ping(addresses["bob"])
    shown = {s["user"]: s for s in concentrator.json("sessions")}
    for user, client in clients.items():
        session = shown[user]
        assert (session["service"], session["mtu"], session["mru"], session["interface"]) == ("pppoe", sizes[user], sizes[user], "peer0")
        assert session["caller-id"] == client.mac + {"eve": "@7", "bob": "@100.7"}.get(user, "")
        assert session["called-id"] == ("tv" if user in ("eve", "bob") else "internet")
    assert "PADO" not in wrong.log("pppd") and concentrator.get("stats")["verdicts"]["drop-service"] > 0
    stranger.says("pppd", "authentication failed|E=691|Access denied")
    until("the failure is on record", lambda: any(row["service"] == "pppoe" and row["code"] == "bad-password"
                                                  for row in concentrator.json("sessions", "--failed")))
    found = clients["joe"].run("pppoe-discovery -I outer -S internet").out
    assert "ac-1" in found and "internet" in found, found
    clients["joe"].hang_up()
    until("joe is gone", lambda: concentrator.session("joe") is None)
    concentrator.command("disconnect", "ann")
    clients["ann"].down()
    concentrator.stop()
    for user in "eve", "bob":
        clients[user].down()


def test_a_file_each_way_in_baby_jumbo_frames(lab, serve, dial_pppoe):
    """MTU 1500 both ways, said by PPP-Max-Payload, and 50 MB each way unharmed; IPv6 by SLAAC."""
    sh("ip", "-n", lab.netns, "link", "set", "peer0", "mtu", "1508")
    try:
        concentrator = serve(pppoe=[{"interface": "peer0", "max-mtu": 1500, "max-mru": 1500}], tables=tables())
        client = dial_pppoe("joe", mtu=1500, ppp="noccp\n+ipv6", jumbo=True)
        client.up()
        address = client.up6()
        session = concentrator.session("joe")
        assert session and (session["mtu"], session["mru"]) == (1500, 1500), session
        client.ping(f"-M do -s 1472 {LAN}")
        for there in LAN6, OWN, f"fe80::1%{client.interface}":
            client.ping(there)
        assert " 0% packet loss" in outside(lab)(f"ping -q -c3 -i0.1 -W3 -s 1452 -M do {address}")
        transfer(lab, client, "send", 5001)
        transfer(lab, client, "receive", 5002)
        lost = {name: n for name, n in concentrator.get("stats")["verdicts"].items() if n and name.startswith("drop")}
        assert not lost.keys() & {"drop-spoof", "drop-ip", "drop-segment", "drop-inner", "drop-wire", "drop-peer", "drop-length"}, lost
    finally:
        sh("ip", "-n", lab.netns, "link", "set", "peer0", "mtu", "1500")


def test_a_delegated_prefix_and_encryption(lab, serve, dial_pppoe):
    """dhcpcd behind a session that MPPE hides."""
    delegated(lab, lambda **kw: serve(pppoe=[{"interface": "peer0"}], tables={**tables(**{"use-encryption": "require"})}),
              lambda user, ppp: dial_pppoe(user, ppp="+ipv6\nrequire-mppe-128", mtu=1480))
