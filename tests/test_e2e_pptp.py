"""PPTP through the whole concentrator, with our own PNS at the other end: connections, calls, data, and what ends them."""
from __future__ import annotations

import pytest
from ours.packets import answered, ping
from peers.concentrator import LOCAL
from peers.lab import until

pytestmark = pytest.mark.root
PPTP = {}
OTHER = {"HEADRACE_TEST_OWNER": "other"}


def reaches(caller, destination=LOCAL, sequence=1):
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


def test_a_client_comes_and_goes(here, pns):
    concentrator = here(pptp=PPTP)
    client = pns()
    joe = client.call("joe")
    reaches(joe)
    session = concentrator.session("joe")
    assert (session["name"], session["service"], session["caller-id"]) == ("<pptp-joe>", "pptp", client.address)
    assert session["address"] == joe.address and session["rx-packets"] == session["tx-packets"] == 1
    client.hang_up(joe)
    client.until("the call is cleared", lambda: joe.cleared)
    assert "packets" in joe.cleared.statistics
    until("it is gone", lambda: concentrator.sessions() == [])
    client.close()
