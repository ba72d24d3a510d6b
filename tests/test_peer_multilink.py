"""Multilink with Debian's pppd and the kernel's reassembly: packets larger than the tunnel takes, two links of one bundle on two workers,
encrypted, one of which is cut while a file passes (RFC 1990)."""
from __future__ import annotations

import re

import pytest
from peers.concentrator import LOCAL
from peers.lab import CONCENTRATOR, until
from test_peer_mppe import STRONG, profile, unharmed
from test_peer_traffic import fits, pings, transfer

pytestmark = [pytest.mark.root, pytest.mark.peer]

MRRU = 1600
READABLE = 1500         # Linux has a buffer of no more for what it decrypts, whatever MRRU its pppd says


def dial_up(dial, links, kernel, encryption, mrru, mtu):
    """pppd keeps its interface at the MTU of its options, which is the tunnel's; what is put together may be larger."""
    client = dial("joe", ppp=f"multilink\nmrru {mrru}\nendpoint local:68656164\n{encryption}", kernel=kernel, links=links)
    address = client.up()
    client.run(f"ip link set {client.interface} mtu {mtu}").check()
    return client, address


def bundle(concentrator, links):
    """The session, once it has so many links."""
    def there():
        session = concentrator.session("joe")
        return session if session and len(session.get("links", ())) == links else None
    return until(f"a bundle of {links}", there, 15)


@pytest.mark.parametrize("kernel", [True, False])
def test_packets_larger_than_the_link(serve, dial, kernel):
    """Through the kernel's L2TP and xl2tpd's own. To our own end, which answers with as much: a ping is as large both ways."""
    concentrator = serve(mrru=MRRU)
    client, _ = dial_up(dial, 1, kernel, "noccp", MRRU, MRRU)
    session = bundle(concentrator, 1)
    assert (session["mtu"], session["mru"]) == (MRRU, MRRU) and (session["links"][0]["mtu"], session["links"][0]["mru"]) == (1400, 1450)
    assert client.every_size(LOCAL, MRRU) == []
    assert client.every_size(LOCAL, MRRU + 1, MRRU) == [MRRU + 1], "a size that cannot pass is missed"
    assert "active-links: 1\n" in concentrator.command("monitor", "joe", "--once")
    concentrator.kill_child("forwarder")
    until("another forwarder has the bundle", lambda: client.run(f"ping -q -c 1 -W 1 -s 1572 -M do {LOCAL}").rc == 0, 15)


def test_a_bundle_of_two_tunnel_types(serve, dial_pppoe):
    """A link by PPPoE, and one by L2TP from the same place."""
    concentrator = serve(mrru=MRRU, pppoe=[{"interface": "peer0", "mrru": MRRU}])
    options = f"multilink\nmrru {MRRU}\nendpoint local:68656165\nnoccp"
    client = dial_pppoe("joe", ppp=options)
    client.up()
    bundle(concentrator, 1)
    client.write(l2tp=client.options.replace("/pppd\n", "/pppd1\n"), xl2tpd_conf=(
        f"[global]\nlisten-addr = {client.outer}\nforce userspace = yes\n"
        f"[lac x]\nlns = {CONCENTRATOR}\npppoptfile = {client.folder}/l2tp\nautodial = yes\n"))
    client.spawn(f"exec xl2tpd -D -c {client.folder}/xl2tpd.conf -C {client.folder}/control -p {client.folder}/pid "
                 f">{client.folder}/xl2tpd 2>&1")
    session = bundle(concentrator, 2)
    assert session["name"] == "<pppoe-joe>" and [link["service"] for link in session["links"]] == ["pppoe", "l2tp"]
    client.run(f"ip link set {client.interface} mtu {MRRU}").check()
    fits(pings(lambda command: client.run(command, 60).out, LOCAL, [29, 1400, 1500, MRRU], "do"), MRRU)


def test_two_links_on_two_workers(lab, serve, dial):
    """Encrypted. A link is cut in the middle of a file, which arrives whole."""
    concentrator = serve({"workers": 2}, environment={"HEADRACE_TEST_OWNER": "turns"}, mrru=MRRU, **profile("require"))
    mtu = READABLE - 4
    client, address = dial_up(dial, 2, False, STRONG, READABLE, mtu)
    session = bundle(concentrator, 2)
    assert (session["address"], session["encoding"], session["mtu"]) == (address, "MPPE128 stateless", mtu)
    assert len(concentrator.sessions()) == 1
    fits(pings(lambda command: client.run(command, 60).out, LOCAL, [29, *range(1395, 1402), mtu - 1, mtu], "do"), mtu)
    transfer(lab, client, "send", 5001, 2 << 20)
    before = concentrator.json("stats")
    assert all(worker["ring-in"] for worker in before["workers"]), "each has links or bundles of the other"
    attached = "pppd1" if "Link attached to" in client.log("pppd1") else "pppd"
    options = f"{client.folder}/options{attached.removeprefix('pppd')}"
    received = f"/sys/class/net/{client.interface}/statistics/rx_bytes"
    cut = client.spawn(f"wait_for 20000 eval '[ $(<{received}) -gt 3000000 ]'; kill -9 $(pgrep -f -x '.*pppd .*{options}'); "
                       f"cat {received}")
    transfer(lab, client, "receive", 5002, 16 << 20)
    assert int(cut.wait().check()) < 16 << 20, "the file had arrived"
    assert bundle(concentrator, 1)["rx-bytes"] > 2 << 20
    assert re.search("without the l2tp link from .*, 1 remain", concentrator.log)
    client.ping(LOCAL)
    unharmed(lab)
