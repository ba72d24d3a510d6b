"""Debian's xl2tpd and pppd dial in: what is negotiated, what is refused, and how it is said (RFC 2661, RFC 1661)."""
import json
import re

import pytest
from peers.concentrator import LOCAL
from peers.lab import CONCENTRATOR6, LAN, until

pytestmark = [pytest.mark.root, pytest.mark.peer]

SESSION_KEYS = {"name", "user", "service", "caller-id", "address", "uptime", "idle-time", "encoding", "mtu", "mru",
                "rx-bytes", "tx-bytes", "rx-packets", "tx-packets", "state"}
FAILED_KEYS = {"time", "user", "service", "caller-id", "stage", "reason", "code"}
MONITOR = r"""          status: "connected"
          uptime: \d+s
       idle-time: \d+s
        encoding: ""
   local-address: 10\.67\.0\.1
  remote-address: ADDRESS
             mtu: 1400
             mru: 1450
"""
# headrace's name: what pppd's log shows in the server's LCP Configure-Request, and what it says when it was refused.
AUTHENTICATION = {
    "pap": ("<auth pap>", "PAP authentication failed"),
    "chap": ("<auth chap MD5>", "CHAP authentication failed"),
    "mschap1": ("<auth chap MS>", "CHAP authentication failed"),
    "mschap2": ("<auth chap MS-v2>", "CHAP authentication failed"),
}


def test_both_data_paths_and_what_we_do_not_speak(serve, dial):
    """The kernel's L2TP and xl2tpd's own; CCP and IPV6CP offered and rejected, the link stays up; clients reach each other."""
    concentrator = serve()
    plain, chatty = "noccp\nnoipv6", "+ipv6\ndeflate 15\nbsdcomp 15"
    clients = [dial("joe", ppp=plain), dial("ann", ppp=chatty), dial("eve", ppp=plain, kernel=False), dial("bob", ppp=chatty, kernel=False)]
    addresses = {client.user: client.up() for client in clients}
    assert len(set(addresses.values())) == 4
    for client in clients:
        client.ping(LOCAL)
        client.ping(LAN)
        assert ("PPPoL2TP" in client.log("pppd")) == (client.user in ("joe", "ann"))

    # pppd's plugin for the kernel's data path never offers CCP.
    for client, protocol, number in (clients[1], "IPV6CP", "80 57"), (clients[3], "IPV6CP", "80 57"), (clients[3], "CCP", "80 fd"):
        log = client.log("pppd")
        asked = len(re.findall(rf"sent \[{protocol} ConfReq", log))
        rejected = re.findall(rf"rcvd \[LCP ProtRej id=\S+ {number}", log)
        assert 1 <= asked <= 2 and rejected, f"{protocol}: asked {asked} times\n{log}"
        assert f"rcvd [{protocol} " not in log

    for one, other in (0, 1), (2, 0), (3, 2):
        clients[one].ping(addresses[clients[other].user])
        clients[other].ping(addresses[clients[one].user])

    shown(concentrator, addresses)


def shown(concentrator, addresses):
    """`sessions`, `monitor` and `stats` about four clients that are up."""
    sessions = concentrator.json("sessions")
    assert {s["user"]: s["address"] for s in sessions} == addresses
    for session in sessions:
        assert set(session) == SESSION_KEYS
        assert session["name"] == f"<l2tp-{session['user']}>"
        assert (session["service"], session["state"], session["encoding"]) == ("l2tp", "open", "")
        assert (session["mtu"], session["mru"]) == (1400, 1450)
        assert session["rx-packets"] >= 6 and session["tx-packets"] >= 6
        assert session["rx-bytes"] >= 6 * 84 and session["tx-bytes"] >= 6 * 84
        assert 0 <= session["idle-time"] <= session["uptime"] < 60
    assert len({s["caller-id"] for s in sessions}) == 4
    table = concentrator.command("sessions")
    assert all(address in table for address in addresses.values())
    for name in "joe", "<l2tp-joe>":
        printed = concentrator.command("monitor", name, "--once")
        assert re.fullmatch(MONITOR.replace("ADDRESS", re.escape(addresses["joe"])), printed), printed
    complaint = concentrator.command("monitor", "nobody", "--once", check=False)
    assert "nobody" in complaint and len(complaint.strip().splitlines()) == 1, complaint
    assert isinstance(concentrator.json("stats"), dict) and concentrator.command("stats")


@pytest.mark.parametrize("method", AUTHENTICATION)
def test_authentication(serve, dial, method):
    """Each method alone: the right password is in; a wrong one and an unknown user are out, and everybody is told why."""
    asked, refused = AUTHENTICATION[method]
    concentrator = serve(authentication=[method])
    joe, ann, stranger = dial("joe"), dial("ann", "Gate-6-opens"), dial("stranger")
    joe.up()
    joe.ping(LOCAL)
    assert re.search(rf"rcvd \[LCP ConfReq .*{asked}", joe.log("pppd")), joe.log("pppd")
    for client in ann, stranger:
        client.says("pppd", refused)
        client.down()
        failed = until(f"{client.user} in failed", lambda user=client.user: [f for f in concentrator.json("sessions", "--failed")
                                                                           if f["user"] == user])
        assert len(failed) == 1 and set(failed[0]) == FAILED_KEYS, failed
        assert failed[0]["service"] == "l2tp" and failed[0]["stage"] == "authentication" and failed[0]["reason"]
        concentrator.logs(f"{client.user}.*{re.escape(failed[0]['reason'])}|{re.escape(failed[0]['reason'])}.*{client.user}")
    assert [s["user"] for s in concentrator.sessions()] == ["joe"]
    assert "Gate-6-opens" not in concentrator.log


def test_client_prefers_another_method(serve, dial):
    """A client that refuses the first of the list gets the next one by Configure-Nak."""
    serve(authentication=["mschap2", "pap"])
    client = dial("joe", ppp="refuse-mschap-v2\nrefuse-mschap\nrefuse-chap\nrefuse-eap")
    client.up()
    client.ping(LOCAL)
    log = client.log("pppd")
    assert re.search(r"sent \[LCP ConfNak .*<auth pap>", log) and "PAP authentication succeeded" in log, log


@pytest.mark.parametrize("hide", [False, True], ids=["open", "hidden"])
def test_tunnel_secret(serve, dial, hide):
    """Tunnel authentication both ways (RFC 2661 section 5.1.1), and AVPs hidden with the secret (section 4.3)."""
    concentrator = serve(**{"tunnel-secret": "gatekeeper", "hidden": hide})
    right = dial("joe", secret="gatekeeper", tunnel="challenge = yes")
    hidden = dial("eve", secret="gatekeeper", tunnel="challenge = yes\nhidden bit = yes")
    # The first finds out by itself; the second one's answer is found wrong by headrace.
    doubting, wrong = dial("ann", secret="other", tunnel="challenge = yes"), dial("bob", secret="other")
    without = dial("bob")
    for client in right, hidden:
        client.up()
        client.ping(LOCAL)
    wrong.told_goodbye()
    concentrator.logs(rf"{re.escape(wrong.outer)}.*(secret|challenge|authenticat)|(secret|challenge|authenticat).*{re.escape(wrong.outer)}")
    doubting.says("xl2tpd", "Connection .* closed .*Invalid challenge authentication")
    without.says("xl2tpd", "Connection .* closed .*No secret key")
    for client in doubting, without:
        concentrator.logs(re.escape(client.outer))
    failed = concentrator.json("sessions", "--failed")
    assert any(f["stage"] == "tunnel" and wrong.outer in json.dumps(f) for f in failed), failed
    assert sorted(s["user"] for s in concentrator.sessions()) == ["eve", "joe"]


def test_outer_ipv6(serve, dial):
    """xl2tpd speaks IPv4 only: a relay in the client's namespace carries its datagrams in IPv6."""
    concentrator = serve()
    client = dial("joe", relay=CONCENTRATOR6)
    client.up()
    client.ping(LOCAL)
    client.ping(LAN)
    session = concentrator.session("joe")
    assert session and session["caller-id"].startswith("fd09::1:"), session
    client.hang_up()
    until("the session is gone", lambda: concentrator.sessions() == [])


def test_disconnect(serve, dial):
    """By the session's name and by the user's; the client hears it from LCP and from L2TP."""
    concentrator = serve()
    clients = [dial("joe"), dial("ann", kernel=False)]
    for client in clients:
        client.up()
    for client, name in zip(clients, ("<l2tp-joe>", "ann"), strict=True):
        concentrator.command("disconnect", name)
        client.says("pppd", r"rcvd \[LCP TermReq|LCP terminated by peer")
        client.told_goodbye(call=True)
        client.down()
    until("no session is left", lambda: concentrator.sessions() == [], 5)
    complaint = concentrator.command("disconnect", "joe", check=False)
    assert "joe" in complaint and len(complaint.strip().splitlines()) == 1, complaint


def test_client_hangs_up(serve, dial):
    """The client's own goodbye ends the session at once, and the same user may come back."""
    concentrator = serve()
    client = dial("joe")
    address = client.up()
    client.hang_up()
    until("the session is gone", lambda: concentrator.sessions() == [], 5)
    again = dial("joe")
    assert again.up() == address, "the same user gets his last address back"


def test_client_that_dies(serve, dial):
    """Killed or unplugged: gone within the keepalive time and 6 s; its neighbour, idle too, stays."""
    concentrator = serve(**{"keepalive-timeout": "2s"})
    killed, unplugged, idle = dial("joe"), dial("ann", kernel=False), dial("eve")
    for client in killed, unplugged, idle:
        client.up()
    killed.kill()
    unplugged.unplug()
    until("both are gone", lambda: [s["user"] for s in concentrator.sessions()] == ["eve"], 8)
    idle.ping(LOCAL)
