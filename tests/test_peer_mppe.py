"""Encryption with Debian's pppd over L2TP and PPTP: what is agreed on, what is refused, and that files, packets of every size and
sessions in clear pass beside each other (RFC 3078)."""
import re
from functools import partial

import pytest
from peers.concentrator import LOCAL
from peers.lab import LAN, LAN6, PASSWORD, until
from test_peer_ipv6 import tables as ipv6_tables
from test_peer_traffic import fits, pings, transfer

pytestmark = [pytest.mark.root, pytest.mark.peer]

MTU = 1400
INNER = MTU - 4         # what MPPE leaves of it
STRONG, WEAK, PLAIN = "require-mppe-128", "require-mppe-40\nnomppe-128", "noccp"
REFUSED = "and use-encryption is require"


@pytest.fixture(params=["l2tp", "l2tp in user space", "pptp"])
def by(request, dial, dial_pptp):
    """How clients dial."""
    return {"l2tp": dial, "l2tp in user space": partial(dial, kernel=False), "pptp": dial_pptp}[request.param]


def profile(use, **keys):
    return {"tables": {"profiles": {"default": {"local-address": LOCAL, "remote-address": "clients", "use-encryption": use, **keys}}}}


def unharmed(lab):
    """The guest's kernel could encrypt all that it wanted to send, and read all that came."""
    said = [line for line in lab.guest.run("dmesg").check().splitlines() if re.search("compressor dropped|mppe_(de)?compress", line)]
    assert not said, said


def refused(concentrator, client, reason, stage="ccp"):
    """It is out, and why stands in the list of failures and in the log."""
    client.down()
    failed = until(f"{client.user} in failed", lambda: [f for f in concentrator.json("sessions", "--failed") if f["user"] == client.user])
    assert len(failed) == 1 and (failed[0]["stage"], failed[0]["reason"]) == (stage, reason), failed
    concentrator.logs(f"{client.user}.*did not come up: {re.escape(reason)}")


def test_strengths_and_clear_beside_each_other(lab, serve, by):
    concentrator = serve(pptp={}, **profile("yes"))
    wanted = {"joe": (STRONG, "MPPE128 stateless"), "ann": (WEAK, "MPPE40 stateless"), "eve": (PLAIN, ""), "bob": ("", "")}
    clients = {user: by(user, ppp=options) for user, (options, _) in wanted.items()}
    addresses = {user: client.up() for user, client in clients.items()}
    for user, client in clients.items():
        encoding = wanted[user][1]
        session = concentrator.session(user)
        assert session and (session["encoding"], session["mtu"]) == (encoding, INNER if encoding else MTU), session
        assert f'encoding: "{encoding}"\n' in concentrator.command("monitor", user, "--once")
        concentrator.logs(f"<(l2tp|pptp)-{user}>: up, address .*, {encoding or 'not encrypted'}")
        client.ping(LOCAL)
        client.ping(LAN)
    for one, other in ("joe", "ann"), ("ann", "eve"), ("eve", "joe"):
        clients[one].ping(addresses[other])
    unharmed(lab)


@pytest.mark.parametrize("by", ["l2tp in user space", "pptp"], indirect=True)       # the kernel's plugin offers no compression
def test_required_here_and_refused_there(serve, by):
    concentrator = serve(pptp={}, **profile("require", **{"mppe-strength": [128]}))
    clients = {user: by(user, ppp=options)
               for user, options in (("joe", PLAIN), ("ann", ""), ("eve", WEAK), ("bob", STRONG))}
    refused(concentrator, clients["joe"], f"the peer does not speak CCP, {REFUSED}")
    refused(concentrator, clients["ann"], f"the peer does not agree to MPPE of 128 bits, {REFUSED}")
    clients["eve"].says("pppd", "MPPE required but peer negotiation failed|LCP terminated by peer")
    refused(concentrator, clients["eve"], f"the peer offers MPPE of 40 bits, not of 128, {REFUSED}")
    clients["bob"].up()
    clients["bob"].ping(LAN)
    assert [(s["user"], s["encoding"]) for s in concentrator.sessions()] == [("bob", "MPPE128 stateless")]


@pytest.mark.parametrize("by", ["l2tp in user space", "pptp"], indirect=True)
def test_required_there_and_refused_here(serve, by):
    concentrator = serve(pptp={}, **profile("no"))
    client = by("joe", ppp=STRONG)
    client.says("pppd", "MPPE required but peer negotiation failed")
    refused(concentrator, client, 'the peer ended the link, saying "MPPE required but peer negotiation failed"', "link")


@pytest.mark.parametrize("method", ["mschap2", "mschap1"])
@pytest.mark.parametrize("by", ["l2tp", "pptp"], indirect=True)
def test_authentication_with_keys(serve, by, method):
    concentrator = serve(authentication=[method], pptp={"authentication": [method]}, **profile("require"))
    client = by("joe", ppp=STRONG)
    client.up()
    client.ping(LAN)
    session = concentrator.session("joe")
    assert session and session["encoding"] == "MPPE128 stateless"


@pytest.mark.parametrize("method", ["chap", "pap"])
@pytest.mark.parametrize("by", ["l2tp in user space", "pptp"], indirect=True)
def test_authentication_without_keys(serve, by, method):
    """Where it is required the user is let go before anything passes; where it is not, all goes on in clear."""
    tables = profile("yes")["tables"]
    tables["profiles"]["strict"] = {**tables["profiles"]["default"], "use-encryption": "require"}
    tables["secrets"] = {"joe": {"password": PASSWORD}, "ann": {"password": PASSWORD, "profile": "strict"}}
    both = {"authentication": ["mschap2", method]}
    concentrator = serve(pptp=both, tables=tables, **both)
    refusing = "refuse-mschap-v2\nrefuse-mschap\n" + ("refuse-chap" if method == "pap" else "refuse-pap")
    joe, ann = (by(user, ppp=refusing) for user in ("joe", "ann"))
    joe.up()
    joe.ping(LAN)
    session = concentrator.session("joe")
    assert session and session["encoding"] == "" and "rcvd [CCP " not in joe.log("pppd")
    refused(concentrator, ann, f"{method} yields no keys to encrypt with, {REFUSED}", "authentication")


STATEFUL = f"{STRONG}\nmppe-stateful", "MPPE128 stateful / MPPE128 stateless"


@pytest.mark.parametrize("by, workers, megabytes, options, encoding", [
    ("l2tp", 1, 10, STRONG, "MPPE128 stateless"), ("l2tp", 2, 10, STRONG, "MPPE128 stateless"), ("l2tp", 1, 10, WEAK, "MPPE40 stateless"),
    ("l2tp", 1, 10, *STATEFUL), ("pptp", 1, 50, STRONG, "MPPE128 stateless"), ("pptp", 2, 10, WEAK, "MPPE40 stateless"),
    ("pptp", 1, 10, *STATEFUL)], indirect=["by"])
def test_file_each_way(lab, serve, by, workers, megabytes, options, encoding):
    """Up and down, unharmed; with two workers, when every packet crosses a ring between them too."""
    concentrator = serve({"workers": workers}, environment={"HEADRACE_TEST_OWNER": "other"} if workers > 1 else None, pptp={},
                         **profile("require", **{"mppe-stateful": "stateful" in options}))
    client, octets = by("joe", ppp=options), megabytes << 20
    client.up()
    transfer(lab, client, "send", 5001, octets)
    transfer(lab, client, "receive", 5002, octets)
    session = concentrator.session("joe")
    assert session and session["rx-bytes"] > octets and session["tx-bytes"] > octets and session["encoding"] == encoding, session
    unharmed(lab)


def test_sizes_around_the_mtu(lab, serve, by):
    """What fits without MPPE's four octets and not with them is told, or comes in fragments; nobody drops anything."""
    serve(pptp={}, **profile("require"))
    client = by("joe", mtu=MTU, ppp=STRONG)
    address = client.up()
    sizes = [*range(INNER - 3, INNER + 4), MTU, MTU + 1]

    def inside(command):
        return client.run(command, 30).out

    def outside(command):
        return lab.on_host(lab.lan, "bash", "-c", command, check=False).stdout
    forget = "ip route del default; ip route add default via 10.66.0.1;"
    for run, to, before in (inside, LAN, ""), (outside, address, forget):
        fits(pings(run, to, sizes, "dont"), max(sizes))
        fits(pings(run, to, sizes, "do", before), INNER)
    unharmed(lab)


@pytest.mark.parametrize("by", ["l2tp", "pptp"], indirect=True)
def test_a_client_that_does_not_make_room(lab, serve, by):
    """Its interface keeps the MTU that it has without MPPE, as Windows' does: frames four octets above our MRU arrive."""
    serve(**{"max-mru": MTU}, pptp={"max-mru": MTU}, **profile("require"))
    client = by("joe", mtu=MTU, ppp=STRONG)
    client.up()
    client.run(f"ip link set {client.interface} mtu {MTU}").check()
    printed = pings(lambda command: client.run(command, 30).out, LAN, [INNER, MTU - 1, MTU], "do")
    assert all(" 1 received" in text for text in printed.values()), printed
    unharmed(lab)


def test_both_families(lab, serve, by):
    """What a router says to its link is encrypted too: the guest's kernel gets its prefix, and both families reach the network."""
    tables = ipv6_tables(**{"use-encryption": "require"})
    concentrator = serve(pptp={}, tables=tables)
    client = by("joe", ppp=f"{STRONG}\n+ipv6")
    client.up()
    client.up6()
    client.ping(LAN)
    client.ping(LAN6)
    assert client.run(f"cat /proc/sys/net/ipv6/conf/{client.interface}/mtu").out == f"{INNER}\n"
    session = concentrator.session("joe")
    assert session and session["encoding"] == "MPPE128 stateless" and session["remote-ipv6-prefix"]
    unharmed(lab)
