"""Our own LAC dials in: addresses, secrets, attributes and sequence numbers that Debian's client does not have (RFC 2661)."""
import struct
from dataclasses import replace

import pytest
from l2tp_peer import BYE, ICRP, ICRQ, MUST
from ours.packets import answered, drained, number, numbered, ping
from ours.peer import LINK
from ours.place import CONCENTRATOR, CONCENTRATOR6, LAN, SECOND, SECOND6
from peers.concentrator import LOCAL
from peers.lab import until

pytestmark = pytest.mark.root

ASSIGNED_SESSION, RANDOM_VECTOR = 14, 36        # attribute types


def reaches(caller, destination=LOCAL, sequence=1):
    """An echo there and back."""
    caller.ip(ping(caller.address, destination, sequence))
    caller.peer.until(f"{caller.user} reaches {destination}", lambda: answered(caller.received, sequence), 5)


@pytest.mark.parametrize("to", [CONCENTRATOR, SECOND, CONCENTRATOR6, SECOND6])
def test_answers_come_from_the_address_that_was_dialled(here, lac, to):
    """Both families on wildcard listeners of a host with two addresses: control messages, PPP frames and user data."""
    concentrator, client = here(), lac(to)
    joe = client.call("joe")
    reaches(joe)
    reaches(joe, LAN, 2)
    assert client.froms == {to}
    session = concentrator.session("joe")
    assert session and session["caller-id"] == client.address and session["address"] == joe.address


LINK_LOCAL, LINK_LOCAL_FAR = "fe80::1", "fe80::2"


@pytest.mark.parametrize("listen", [(), ("[fe80::1%wire]:1701", "[fe80::1%wire2]:1701")])
def test_one_link_local_address_on_two_links_is_two_peers(here, lac, place, listen):
    """The same addresses and ports of both ends on either link, and the same ids of ours: only the interface tells them apart, and an
    answer leaves through the one that was asked through. Wildcard listener, and one on each address."""
    place.ip(place.netns, f"""
link add wire2 type veth peer name wire2 netns {place.far}
addr add {LINK_LOCAL}/64 dev wire nodad
addr add {LINK_LOCAL}/64 dev wire2 nodad
link set wire2 up
""")
    place.ip(place.far, f"""
addr add {LINK_LOCAL_FAR}/64 dev wire nodad
addr add {LINK_LOCAL_FAR}/64 dev wire2 nodad
link set wire2 up
""")
    concentrator = here(**{"listen": list(listen)} if listen else {})
    users = {"joe": "wire", "ann": "wire2"}
    callers = [lac(to=LINK_LOCAL, local=f"{LINK_LOCAL_FAR}%{link}", port=1701).call(user) for user, link in users.items()]
    assert len({(c.tunnel, c.session, *c.peer.wire.getsockname()[:2]) for c in callers}) == 1
    for caller in callers:
        reaches(caller)
        reaches(caller, LAN, 2)
        assert caller.peer.froms == {LINK_LOCAL}
    assert {s["user"]: s["caller-id"] for s in concentrator.sessions()} == {u: f"{LINK_LOCAL_FAR}%{link}" for u, link in users.items()}
    assert concentrator.get("stats")["verdicts"]["drop-peer"] == 0
    first, second = callers
    second.peer.wire.sendto(first.header() + ping(first.address, LAN, 3), (LINK_LOCAL, 1701))
    second.peer.until("the other link's session was not taken over", lambda: concentrator.get("stats")["verdicts"]["drop-peer"] == 1)


def test_secret_and_hidden_attributes_both_ways(here, lac):
    """Each side challenges the other and hides what it says; who does not know the secret is refused, and told (section 4.3)."""
    concentrator = here(**{"tunnel-secret": "gatekeeper", "hidden": True})
    right = lac(secret="gatekeeper", require_secret=True, hide=True)
    said = []
    right.lose = lambda datagram: bool(datagram[0] & 0x80 and said.append(datagram))
    joe = right.call("joe", calling_number="5551234")
    reaches(joe)
    # Both directions are in `said`. An ICRQ and an ICRP hide the session id that is assigned: the call is up, so it was read.
    for kind in ICRQ, ICRP:
        message = next(m for m in said if m[12:20] == struct.pack("!HHHH", MUST | 8, 0, 0, kind))
        assert message[20:26] == struct.pack("!HHH", MUST | 22, 0, RANDOM_VECTOR)
        assert struct.pack("!HH", 0, ASSIGNED_SESSION) in message and struct.pack("!HHH", MUST | 8, 0, ASSIGNED_SESSION) not in message
    assert not any(b"5551234" in message or b"gatekeeper" in message for message in said)

    wrong, without = lac(secret="other", require_secret=True), lac()
    for client, text in (wrong, "secret|challenge"), (without, "secret|challenge|authentication"):
        tunnel = client.tunnel(wait=False)
        client.until("refused", lambda client=client, tunnel=tunnel: tunnel in client.ended)
        assert not client.tunnels
        concentrator.logs(text)
    failed = until("the failures", lambda: concentrator.json("sessions", "--failed"))
    assert {f["stage"] for f in failed} == {"tunnel"}
    assert [s["user"] for s in concentrator.sessions()] == ["joe"]


def test_proxy_attributes_are_taken_and_lcp_is_renegotiated(here, lac):
    """What a LAC negotiated on its side of the call is no news for us: we ask the client ourselves."""
    here()
    client = lac()
    proxy = {"initial_received_lcp_confreq": bytes.fromhex("01040578"), "last_sent_lcp_confreq": bytes.fromhex("0304c023"),
             "last_received_lcp_confreq": bytes.fromhex("01040578"), "proxy_authen_type": 2, "proxy_authen_name": b"eve",
             "proxy_authen_challenge": b"c" * 16, "proxy_authen_id": 3, "proxy_authen_response": b"r" * 16}
    joe = client.call("joe", proxy=proxy)
    requests = [packet for protocol, packet in joe.frames if protocol == 0xC021 and packet[0] == 1]
    assert requests and b"\x03\x05\xc2\x23\x81" in requests[0], "its own Configure-Request, with its own authentication"
    reaches(joe)


def test_data_is_numbered_when_the_peer_asks(here, lac):
    """AVP 39: all that we send has its Ns, one after the other; what comes twice is dropped, what comes before its turn waits for
    what is missing, and goes on without it soon (section 5.4)."""
    concentrator, client = here(), lac()
    with client.place.udp(client.place.lan, LAN, 2000) as lan:
        joe = client.call("joe", sequencing=True)
        start = 40000
        order = [0, 1, 2, 5, 3, 4, 5, 6, 6, 30, 29, 31, 25535, 25536, 25534]        # the number wraps at 65536
        for n in order:
            joe.ip(numbered(joe.address, LAN, 1, n), ns=start + n)
        client.until("all have come to their end", lambda: concentrator.get("stats")["verdicts"]["drop-sequence"] == 2)
        came = []
        until("the last one", lambda: came.extend(n for _, n in drained(lan, 1)) or came[-1] == 25536)
        assert came == [0, 1, 2, 3, 4, 5, 6, 29, 30, 31, 25534, 25535, 25536]
        for n in range(300):
            lan.sendto(numbered("0.0.0.0", "0.0.0.0", 2, n)[28:], (joe.address, 3000))
            if n % 50 == 0:
                client.settle()
        client.until("all answers", lambda: len(joe.received) >= 300)
    assert [number(packet) for packet in joe.received] == [(2, n) for n in range(300)]
    assert joe.numbers == [(joe.numbers[0] + n) & 0xFFFF for n in range(len(joe.numbers))] and len(joe.numbers) >= 300


def test_a_lossy_control_connection(here, lac):
    """Every third control datagram is lost each way: tunnel and calls come up and go down all the same, and each only once."""
    concentrator, client = here(), lac()
    count = 0

    def third(datagram):
        nonlocal count
        count += datagram[0] >= 0x80
        return datagram[0] >= 0x80 and count % 3 == 0
    client.lose = third
    tunnel = client.tunnel()
    callers = [client.call(user, tunnel=tunnel, wait=False) for user in ("joe", "ann", "eve")]
    client.until("all are up", lambda: all(caller.up for caller in callers), 30)
    assert sorted(s["user"] for s in concentrator.sessions()) == ["ann", "eve", "joe"]
    assert concentrator.get("stats")["tables"]["tunnels"] == 1
    client.close()
    until("all are gone", lambda: concentrator.sessions() == [], 5)


def test_lcp_renegotiated_in_mid_session(here, lac):
    """The client starts LCP anew: user data stops, who it is is asked again, and it goes on with the same address (RFC 1661)."""
    concentrator, client = here(), lac()
    joe = client.call("joe")
    reaches(joe)
    address = joe.address
    for n in range(2, 5):
        before = client.endpoint.counts.copy(), len(joe.frames)
        joe.renegotiate()
        assert not joe.up
        client.until("it is up again", lambda n=n: joe.ups == n)
        assert joe.address == address and client.endpoint.counts == before[0]
        assert any(protocol == 0xC223 and packet[0] == 1 for protocol, packet in joe.frames[before[1]:]), "not asked who it is"
        reaches(joe, sequence=n)
    session = concentrator.session("joe")
    assert session and len(concentrator.sessions()) == 1 and session["uptime"] < 60


def test_many_tunnels_of_one_host(here, lac):
    """Sixty tunnels from one socket, a session each; ids do not mix them up, and one that ends takes only its own with it."""
    secrets = {f"user{n}": {"password": "Gate-5-opens"} for n in range(60)}
    concentrator, client = here(tables={"secrets": secrets}), lac()
    link = replace(LINK, authentication=("pap",))
    tunnels = [client.tunnel(wait=False) for _ in range(60)]
    client.until("all tunnels are up", lambda: len(client.tunnels) == 60)
    callers = [client.call(f"user{n}", tunnel=tunnel, link=link, wait=False) for n, tunnel in enumerate(tunnels)]
    client.until("all sessions are up", lambda: all(caller.up for caller in callers))
    assert len({caller.address for caller in callers}) == 60
    for caller in callers:
        caller.ip(ping(caller.address, LOCAL, 7))
    client.until("each has its own answer", lambda: all(answered(caller.received, 7) for caller in callers))
    assert all(len(caller.received) == 1 for caller in callers)

    client.endpoint.close(tunnels[0], BYE, 0.0)
    client.until("one is gone", lambda: len(concentrator.sessions()) == 59)
    reaches(callers[1], sequence=8)
    assert concentrator.get("stats")["tables"]["sessions"] == 59
