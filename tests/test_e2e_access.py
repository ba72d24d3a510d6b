"""Who may come in, what he gets, who is sent away and how he hears of it; and a configuration that changes meanwhile (design.md 5)."""
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from ours.packets import answered, drained, numbered, ping
from ours.peer import LINK
from ours.place import LAN
from peers.concentrator import LOCAL, toml
from peers.lab import PASSWORD, until

pytestmark = pytest.mark.root

TERMINATE_REQUEST, LCP, PAP = 5, 0xC021, 0xC023
PAP_ONLY = replace(LINK, authentication=("pap",))


def profile(**keys):
    return {"profiles": {"default": {"local-address": LOCAL, "remote-address": "clients", **keys}}}


def reaches(caller, sequence, destination=LOCAL):
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


def refused(concentrator, caller, stage):
    """Wait for a caller's end; the row that says why."""
    caller.peer.until(f"{caller.user} is sent away", lambda: caller.cleared)
    assert caller.down and not caller.ups
    rows = until("the failure", lambda: [f for f in concentrator.json("sessions", "--failed") if f["user"] == caller.user])
    assert len(rows) == 1 and rows[0]["stage"] == stage and rows[0]["service"] == "l2tp", rows
    return rows[0]


def test_wrong_password(here, lac):
    """By PAP, where the client says it in the clear: refused with PAP's own words, and told to the operator without the password."""
    concentrator, client = here(authentication=["pap"]), lac()
    joe = client.call("joe", "Gate-6-opens", link=PAP_ONLY, wait=False)
    failed = refused(concentrator, joe, "authentication")
    assert failed["code"] == "bad-password" and "joe" in failed["reason"] and failed["caller-id"] == client.address
    nak = [packet for protocol, packet in joe.frames if protocol == PAP]
    assert nak and nak[0][0] == 3, "no Authenticate-Nak"
    assert any(protocol == LCP and packet[0] == TERMINATE_REQUEST for protocol, packet in joe.frames)
    assert "Gate-6-opens" not in concentrator.log and concentrator.sessions() == []
    assert client.call("joe", tunnel=joe.tunnel, link=PAP_ONLY).up


def test_disconnect(here, lac):
    """The command ends one session by LCP's and L2TP's goodbyes, leaves its neighbours, and returns when it is over."""
    concentrator, client = here(), lac()
    joe, ann = client.call("joe"), client.call("ann")
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(concentrator.command, "disconnect", "<l2tp-joe>")
        client.until("the command returned", said.done)
    assert "<l2tp-joe>" in said.result() and joe.cleared and joe.cleared.by_peer
    assert "disconnected by the administrator" in joe.cleared.reason.text
    assert any(protocol == LCP and packet[0] == TERMINATE_REQUEST for protocol, packet in joe.frames)
    assert [s["user"] for s in concentrator.sessions()] == ["ann"]
    reaches(ann, 1)


def test_disconnect_of_a_client_that_does_not_answer(here, lac):
    """It takes no longer than PPP's patience, and the session is gone all the same."""
    concentrator, client = here(), lac()
    client.call("joe")
    client.lose = lambda datagram: True
    said = concentrator.command("disconnect", "joe")
    assert "joe" in said and concentrator.sessions() == []


def test_only_one(here, lac):
    """A user who comes in again ends the session that he had: the new one counts."""
    concentrator, old, new = here(tables=profile(**{"only-one": "yes"})), lac(), lac()
    first = old.call("joe")
    second = new.call("joe")
    old.until("the first is told", lambda: first.cleared)
    assert "came in again" in first.cleared.reason.text
    reaches(second, 1)
    until("one session", lambda: [s["address"] for s in concentrator.sessions()] == [second.address])


def test_a_fixed_address_and_a_redial(place, here, lac):
    """A client that lost its line dials again before anybody noticed: it gets its address at once, and what is sent there."""
    secrets = {"secrets": {"joe": {"password": PASSWORD, "remote-address": "10.67.9.9"}, "ann": {"password": PASSWORD}}}
    concentrator, old, new = here(tables=secrets), lac(), lac(local="10.9.0.3")
    first = old.call("joe")
    assert first.address == "10.67.9.9"
    old.lose = lambda datagram: True
    with place.udp(place.lan, LAN, 2000) as lan:
        for n in range(3):
            caller = new.call("joe")
            assert caller.address == "10.67.9.9"
            lan.sendto(bytes(8), ("10.67.9.9", 3000))
            new.until("what is sent there", lambda caller=caller: len(caller.received) == 1)
            caller.ip(numbered(caller.address, LAN, 1, n))
            assert drained(lan, 1) == [(1, n)]
    until("one session", lambda: [s["address"] for s in concentrator.sessions()] == ["10.67.9.9"])


def test_pool_exhausted(here, lac):
    """A pool of one: the second user is refused and everybody is told why; when the first leaves, his address rests for others."""
    concentrator = here(tables={"pools": {"clients": ["10.67.0.0/30"]}})
    client = lac()
    joe = client.call("joe")
    assert joe.address == "10.67.0.2"
    ann = client.call("ann", wait=False)
    failed = refused(concentrator, ann, "authentication")
    assert failed["code"] == "no-address" and "'clients' has no address left" in failed["reason"]
    reaches(joe, 1)
    client.close()
    until("joe is gone", lambda: concentrator.sessions() == [])
    again = lac()
    assert again.call("joe").address == "10.67.0.2"


def test_max_sessions(here, lac):
    """One call too many: a CDN with 'no facilities, for now' (result 4, error 4), and no state; when one goes, another may come."""
    concentrator, client = here(**{"max-sessions": 2}), lac()
    joe, ann = client.call("joe"), client.call("ann")
    eve = client.call("eve", wait=False)
    client.until("it is refused", lambda: eve.cleared)
    assert "no facilities, for now" in eve.cleared.reason.text and "error 4" in eve.cleared.reason.text, eve.cleared
    concentrator.logs("no room for another session")
    assert sorted(s["user"] for s in concentrator.sessions()) == ["ann", "joe"]
    with ThreadPoolExecutor(1) as pool:
        client.until("ann is gone", pool.submit(concentrator.command, "disconnect", "ann").done)
    assert ann.cleared
    reaches(client.call("eve"), 1)
    reaches(joe, 1)


def test_reload(here, lac):
    """SIGHUP: a new user may come in, a new password is asked, who is up stays; a mistake changes nothing and is one sentence."""
    concentrator, client = here(), lac()
    joe = client.call("joe")
    config = concentrator.config
    config["secrets"] |= {"newcomer": {"password": PASSWORD}, "ann": {"password": "another word"}}
    concentrator.file.write_text(toml(config))
    concentrator.process.send_signal(signal.SIGHUP)
    concentrator.logs(r"headrace\.toml was read again")
    reaches(client.call("newcomer"), 1)
    ann = client.call("ann", wait=False)
    assert refused(concentrator, ann, "authentication")["code"] == "bad-password"
    assert client.call("ann", "another word").up
    reaches(joe, 2)
    assert joe.ups == 1

    before = len(concentrator.log.splitlines())
    concentrator.file.write_text(toml(config) + "[pools2]\nx = 1\n")
    concentrator.process.send_signal(signal.SIGHUP)
    concentrator.logs("the configuration stays as it was")
    said = [line for line in concentrator.log.splitlines()[before:] if "SIGHUP" not in line]
    assert len(said) == 1 and "pools2" in said[0] and str(concentrator.file) in said[0], said
    reaches(joe, 3)
    assert len(concentrator.sessions()) == 3
    assert client.call("eve").up
