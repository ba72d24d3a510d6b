"""Debian's pptp and pppd dial in: what is negotiated, what is refused, and how it is said (RFC 2637)."""
import itertools
import re

import pytest
from peers.concentrator import LOCAL
from peers.lab import LAN, until
from test_peer_l2tp import AUTHENTICATION
from test_peer_restart import ECHO, answered

pytestmark = [pytest.mark.root, pytest.mark.peer]


def test_clients_reach_each_other(serve, dial, dial_pptp):
    """Two by PPTP and one by L2TP, each with a session of its own kind."""
    concentrator = serve(pptp={})
    clients = [dial_pptp("joe"), dial_pptp("ann", ppp="+ipv6\ndeflate 15\nbsdcomp 15"), dial("eve")]
    addresses = [client.up() for client in clients]
    for client in clients:
        client.ping(LOCAL)
        client.ping(LAN)
    for (one, _), (_, address) in itertools.permutations(zip(clients, addresses, strict=True), 2):
        one.ping(address)
    sessions = {s["user"]: s for s in concentrator.json("sessions")}
    assert {s["name"] for s in sessions.values()} == {"<pptp-joe>", "<pptp-ann>", "<l2tp-eve>"}
    for client, address in zip(clients, addresses, strict=True):
        session = sessions[client.user]
        assert (session["address"], session["caller-id"], session["state"]) == (address, client.outer, "open")
        assert (session["mtu"], session["mru"], session["service"]) == (1400, 1450, "l2tp" if client.user == "eve" else "pptp")
        assert session["rx-packets"] >= 6 and session["tx-packets"] >= 6
    assert "<pptp-joe>" in concentrator.command("sessions") and '"connected"' in concentrator.command("monitor", "<pptp-joe>", "--once")
    stats = concentrator.get("stats")
    assert stats["tables"]["tunnels"] == 3 and stats["pptp"] == {}


@pytest.mark.parametrize("method", AUTHENTICATION)
def test_authentication(serve, dial_pptp, method):
    """Each method alone: the right password is in; a wrong one and an unknown user are out, and everybody is told why."""
    asked, refused = AUTHENTICATION[method]
    concentrator = serve(pptp={"authentication": [method]})
    joe, ann, stranger = dial_pptp("joe"), dial_pptp("ann", "Gate-6-opens"), dial_pptp("stranger")
    joe.up()
    joe.ping(LOCAL)
    assert re.search(rf"rcvd \[LCP ConfReq .*{asked}", joe.log("pppd")), joe.log("pppd")
    for client in ann, stranger:
        client.says("pppd", refused)
        client.down()
        failed = until(f"{client.user} in failed", lambda user=client.user: [f for f in concentrator.json("sessions", "--failed")
                                                                           if f["user"] == user])
        assert len(failed) == 1 and failed[0]["service"] == "pptp" and failed[0]["stage"] == "authentication", failed
        concentrator.logs(f"{client.user}.*{re.escape(failed[0]['reason'])}|{re.escape(failed[0]['reason'])}.*{client.user}")
    assert [s["user"] for s in concentrator.sessions()] == ["joe"]
    assert "Gate-6-opens" not in concentrator.log


def test_secrets_of_one_service(serve, dial, dial_pptp):
    """A user who may only dial L2TP is not let in by PPTP, nor the other way round."""
    password = {"password": "Gate-5-opens", "profile": "default"}
    concentrator = serve(pptp={}, tables={"secrets": {"joe": {**password, "service": "l2tp"}, "ann": {**password, "service": "pptp"}}})
    right, wrong = [dial("joe"), dial_pptp("ann")], [dial_pptp("joe"), dial("ann")]
    for client in right:
        client.up()
    for client in wrong:
        client.says("pppd", "CHAP authentication failed")
    assert sorted(s["name"] for s in concentrator.sessions() if s["state"] == "open") == ["<l2tp-joe>", "<pptp-ann>"]
    assert {(f["user"], f["service"], f["code"]) for f in concentrator.json("sessions", "--failed")} == {
        ("joe", "pptp", "service"), ("ann", "l2tp", "service")}


def test_hang_up_and_disconnect(serve, dial_pptp):
    """Either side ends a session, and the other hears it; the same user may come back, with the same address."""
    concentrator = serve(pptp={})
    clients = [dial_pptp("joe"), dial_pptp("ann"), dial_pptp("eve")]
    address, _, _ = [client.up() for client in clients]
    clients[0].hang_up()
    until("joe is gone", lambda: "joe" not in [s["user"] for s in concentrator.sessions()], 5)
    for client, name in zip(clients[1:], ("<pptp-ann>", "eve"), strict=True):
        concentrator.command("disconnect", name)
        client.says("pppd", r"rcvd \[LCP TermReq|LCP terminated by peer")
        client.down()
    until("no session is left", lambda: concentrator.sessions() == [] and concentrator.get("stats")["tables"]["tunnels"] == 0, 8)
    assert dial_pptp("joe").up() == address


def test_client_that_dies(serve, dial_pptp):
    """Killed or unplugged: gone within the keepalive time and 6 s; its neighbour, idle too, stays."""
    concentrator = serve(pptp={"keepalive-timeout": "2s"})
    killed, unplugged, idle = dial_pptp("joe"), dial_pptp("ann"), dial_pptp("eve")
    for client in killed, unplugged, idle:
        client.up()
    killed.kill()
    unplugged.unplug()
    until("both are gone", lambda: [s["user"] for s in concentrator.sessions()] == ["eve"], 8)
    idle.ping(LOCAL)


def test_interrupt_says_goodbye(serve, dial_pptp):
    """Ctrl-C: every client hears it and ends, and nothing is left."""
    concentrator = serve(pptp={})
    clients = [dial_pptp("joe"), dial_pptp("ann")]
    for client in clients:
        client.up()
    concentrator.stop()
    for client in clients:
        client.down()


def test_control_killed(serve, dial_pptp):
    """Its TCP connections die with it: clients hear that at once and may dial again, and the slots of before are nobody's."""
    concentrator = serve(pptp={})
    client = dial_pptp("joe")
    client.up()
    concentrator.kill_child("control")
    client.down()
    until("a clean new start", concentrator._answers)
    again = dial_pptp("joe")
    again.up()
    again.ping(LAN)


def test_forwarder_killed(serve, dial_pptp):
    """It is back within a second and finds its sessions, numbers and all."""
    concentrator = serve(pptp={})
    client = dial_pptp("joe", ppp=f"noccp\n{ECHO}")
    client.up()
    pid = concentrator.child("forwarder")
    ping = client.spawn(f"ping -i 0.05 -c 80 -W 3 {LAN}")
    until("the first answers", lambda: len(answered(ping.output())) > 5)
    concentrator.kill_child("forwarder")
    numbers = answered(ping.wait(30).out)
    outage = max(later - earlier for earlier, later in itertools.pairwise(numbers)) * 0.05
    assert numbers[-1] == 80 and outage <= 1.0, f"no answer for {outage} s: {numbers}"
    assert concentrator.child("forwarder") != pid
    assert client.log("pppd").count("rcvd [LCP ConfReq") <= 3 and "terminated" not in client.log("pppd")
