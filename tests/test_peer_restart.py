"""Processes that die under live tunnels of a real client: what goes on, what comes back, and who says goodbye."""
import itertools
import re

import pytest
from peers.concentrator import LOCAL
from peers.lab import LAN, until

pytestmark = [pytest.mark.root, pytest.mark.peer]

ECHO = "lcp-echo-interval 1\nlcp-echo-failure 3"
HOLD = 20       # seconds that control is held dead


def test_control_killed(serve, dial):
    """Traffic and echoes go on without control for 20 s; the next control says the tunnels' goodbyes, and clients may dial again."""
    concentrator = serve(environment={"HEADRACE_HOLD_CONTROL": str(HOLD)})
    clients = [dial("joe", ppp=f"noccp\n{ECHO}"), dial("ann", ppp=f"noccp\n{ECHO}", kernel=False)]
    for client in clients:
        client.up()
    before, said = concentrator.link(), [len(client.log("xl2tpd")) for client in clients]
    concentrator.kill_child("control")
    pings = [client.spawn(f"ping -q -i 0.1 -c {HOLD * 10 - 50} -W 3 {LAN}") for client in clients]
    for client, ping in zip(clients, pings, strict=True):
        result = ping.wait(HOLD + 10)
        assert " 0% packet loss" in result.out, f"{client.user}:\n{result.out}\n{client.logs()}"
    for client in clients:
        log = client.log("pppd")
        assert "No response" not in log and "terminated" not in log, log
    assert concentrator.link() == before

    for client, length in zip(clients, said, strict=True):
        client.told_goodbye(HOLD)       # xl2tpd takes a StopCCN only with the Ns that it expects, and complains about any other
        assert "out of order" not in client.log("xl2tpd")[length:], client.logs()
        client.down()
    until("a clean new start", lambda: concentrator.command("sessions", "--json").strip() == "[]")
    again = [dial("joe"), dial("ann", kernel=False)]
    for client in again:
        client.up()
        client.ping(LOCAL)


def test_forwarder_killed(serve, dial):
    """It is back within a second and finds its sessions; hr0 and its routes never noticed."""
    concentrator = serve()
    client = dial("joe", ppp=f"noccp\n{ECHO}")
    client.up()
    link, pid = concentrator.link(), concentrator.child("forwarder")
    ping = client.spawn(f"ping -i 0.05 -c 80 -W 3 {LAN}")
    until("the first answers", lambda: len(answered(ping.output())) > 5)
    concentrator.kill_child("forwarder")
    numbers = answered(ping.wait(30).out)
    outage = max(later - earlier for earlier, later in itertools.pairwise(numbers)) * 0.05
    assert numbers[-1] == 80 and outage <= 1.0, f"no answer for {outage} s: {numbers}"
    assert concentrator.child("forwarder") != pid
    assert concentrator.link() == link
    session = concentrator.session("joe")
    assert session and session["rx-packets"] >= 80 - outage / 0.05, session
    assert client.log("pppd").count("rcvd [LCP ConfReq") <= 3 and "terminated" not in client.log("pppd")


def answered(printed):
    return [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", printed)]


def test_interrupt(serve, dial):
    """Ctrl-C: every tunnel gets its StopCCN, hr0 goes, nothing is left (Concentrator.stop looks)."""
    concentrator = serve()
    clients = [dial("joe"), dial("ann", kernel=False)]
    for client in clients:
        client.up()
    concentrator.stop()
    for client in clients:
        client.told_goodbye()
        client.down()
