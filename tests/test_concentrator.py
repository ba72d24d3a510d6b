"""The core against our own LAC and PPP clients: who comes in and as what, and that nothing of anybody stays when he has gone."""
import itertools
import logging

import pytest
from headrace.control.address import mapped
from headrace.control.fields import option
from headrace.control.link import CCP_PROTOCOL, IPCP_PROTOCOL, LCP_PROTOCOL, PAP_PROTOCOL, push_packet
from headrace.control.log import Formatter, Limited
from headrace.control.mppe import IN_CLEAR, Policy
from headrace.control.sessions import STARTING
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from rig.core import METHODS, Rig, configuration, failed


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_client_comes_in_by_each_method(rig, method):
    client = rig.dial(method=method)
    session = rig.session("<l2tp-joe>")
    assert session.link.method == method and session.state == "open" and session.user == "joe"
    assert client.link.local_address == session.address and str(client.link.remote_address) == "10.67.0.1"
    slot = rig.slot(client)
    assert rig.tables.state(slot) == State.OPEN and rig.armed == [slot] and rig.tables.lookup(mapped(session.address)) == slot
    client.close()
    rig.run(5)
    assert not rig.core.sessions and client.down and not rig.core.sessions.failures.rows
    client.lac.close()
    rig.run(90)
    rig.check_empty()


@pytest.mark.parametrize("user, password, config, code", [
    ("joe", "wrong", {}, "bad-password"), ("nobody", "1", {}, "unknown-user"),
    ("joe", "1", {"secrets": {"joe": {"password": "1", "caller-id": "10.0.1.9"}}}, "caller-id"),
    ("joe", "1", {"pools": {"clients": ["10.67.0.1/32"]}}, "no-address"),
])
@pytest.mark.parametrize("method", METHODS)
def test_who_may_not_come_in_hears_it_and_is_in_the_list(tmp_path, method, user, password, config, code):
    rig = Rig(tmp_path, configuration(**config))
    client = rig.dial(user, password, method)
    rig.run(10)
    assert client.link is None and client.down.stage == "authentication" and client.call_down
    failed(rig, user=user, stage="authentication", code=code, **{"caller-id": "10.0.1.1"})
    assert len(rig.core.sessions.failures.rows) == 1
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def encrypting(tmp_path, use, **profile):
    profiles = {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients", "use-encryption": use, **profile}}
    return Rig(tmp_path, configuration(profiles=profiles))


@pytest.mark.parametrize("use, wanted, encoding, mtu", [
    ("no", Policy("yes"), "", 1450), ("yes", IN_CLEAR, "", 1450), ("yes", Policy("yes"), "MPPE128 stateless", 1446),
    ("require", Policy("yes", (40,)), "MPPE40 stateless", 1446)])
def test_encryption_is_shown_and_told(tmp_path, caplog, use, wanted, encoding, mtu):
    caplog.set_level("INFO")
    rig = encrypting(tmp_path, use)
    client = rig.dial(encryption=wanted)
    session = rig.session("<l2tp-joe>")
    row = session.row(rig.tables, rig.now)
    assert (row["encoding"], row["mtu"], row["mru"]) == (encoding, mtu, 1450) and client.link.encoding == encoding
    assert f"mtu {mtu}, mru 1450, {encoding or 'not encrypted'}" in caplog.text
    client.close()
    rig.run(5)
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_encryption_that_goes_and_comes_is_a_change_and_no_reset(tmp_path, caplog):
    """The address stays, and so does the record in force."""
    caplog.set_level("INFO")
    rig = encrypting(tmp_path, "yes")
    client = rig.dial(encryption=Policy("yes"))
    session, slot = rig.session("<l2tp-joe>"), rig.slot(client)
    address, up_since = session.address, session.up_since
    rig.core.sessions.installer.reset = None        # nobody calls it
    for event, encoding, mtu in (("Close", "", 1450), ("Open", "MPPE128 stateless", 1446)) * 2:
        client.ppp.ccp.fire(event, rig.now)
        rig.run(10)
        assert (session.link.encoding, session.link.mtu) == (encoding, mtu) and rig.tables.state(slot) == State.OPEN
        assert f"<l2tp-joe>: still up, address {address}, mschap2, mtu {mtu}, mru 1450, {encoding or 'not encrypted'}" in caplog.text
    assert (session.address, session.up_since) == (address, up_since)


def test_a_peer_that_ends_what_is_required_is_in_the_list(tmp_path):
    rig = encrypting(tmp_path, "require")
    client = rig.dial(encryption=Policy("yes"))
    client.ppp.ccp.fire("Close", rig.now)
    rig.run(10)
    assert not rig.core.sessions and client.call_down
    failed(rig, user="joe", stage="ccp", code="no-encryption", reason="the peer ended CCP, and use-encryption is require")


def test_a_peer_that_lost_the_thread(tmp_path):
    """The worker is told to begin anew, before the peer hears that it does."""
    rig = encrypting(tmp_path, "yes", **{"mppe-stateful": True})
    client = rig.dial(encryption=Policy("yes", stateful=True))
    assert rig.session("<l2tp-joe>").link.encoding == "MPPE128 stateful"
    rig.sent.clear()
    rig.core.frame(rig.frame(client, CCP_PROTOCOL, push_packet(14, 77)), rig.now)
    rig.run(1)
    slot, generation = rig.slot(client), rig.tables.generation(rig.slot(client))
    assert rig.sent[-2:] == [(PuntKind.PUNT_REKEY, slot, generation, 0, None, b""),
                             (PuntKind.PUNT_PPP, slot, generation, CCP_PROTOCOL, None, push_packet(15, 77))]


def test_what_cannot_be_read_ends_the_session(tmp_path):
    rig = encrypting(tmp_path, "yes")
    client = rig.dial(encryption=Policy("yes"))
    rig.core.frame(rig.frame(client, 0, kind=PuntKind.PUNT_UNREADABLE), rig.now)
    rig.run(5)
    assert client.down and not rig.core.sessions
    failed(rig, user="joe", stage="ccp", code="unreadable")


@pytest.mark.parametrize("use, wanted, method, stage, code", [
    ("require", IN_CLEAR, "mschap2", "ccp", "no-encryption"), ("require", Policy("yes"), "chap", "authentication", "no-keys"),
    ("require", Policy("yes"), "pap", "authentication", "no-keys")])
def test_who_does_not_encrypt_where_it_is_required(tmp_path, use, wanted, method, stage, code):
    rig = encrypting(tmp_path, use)
    client = rig.dial(method=method, encryption=wanted)
    rig.run(30)
    assert client.link is None and client.down and client.call_down
    failed(rig, user="joe", stage=stage, code=code)
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_what_a_lac_says_of_the_caller_opens_nothing(tmp_path):
    """Whoever dials is his own LAC, and could claim any number."""
    rig = Rig(tmp_path, configuration(secrets={"joe": {"password": "1", "caller-id": "192.0.2.9"}}))
    assert rig.dial(calling_number="192.0.2.9").link is None
    failed(rig, code="caller-id")


def test_pool_exhausted_and_the_minutes_rest(tmp_path):
    rig = Rig(tmp_path, configuration(pools={"clients": ["10.67.0.2/32"]}))
    joe = rig.dial()
    assert rig.dial("ann", "2").link is None
    failed(rig, user="ann", code="no-address")
    joe.hang_up()
    rig.run(1)
    assert rig.dial("ann", "2").link is None
    again = rig.dial()
    assert again.link and str(again.link.local_address) == "10.67.0.2"
    again.hang_up()
    rig.run(60)
    assert rig.dial("ann", "2").link
    assert rig.dial().link is None


def test_duplicate_names_and_what_finds_them(rig):
    clients = [rig.dial() for _ in range(3)]
    assert sorted(rig.core.sessions.names.sessions) == ["<l2tp-joe-1>", "<l2tp-joe-2>", "<l2tp-joe>"]
    clients[1].hang_up()
    rig.run(1)
    rig.dial("DOMAIN\\joe")
    rig.dial()
    assert set(rig.core.sessions.names.sessions) == {"<l2tp-joe-1>", "<l2tp-joe-2>", "<l2tp-joe>", "<l2tp-DOMAIN\\joe>"}
    assert len(rig.core.sessions.names.of("joe")) == 4


def test_a_user_who_is_called_what_anothers_second_session_is(tmp_path):
    rig = Rig(tmp_path, configuration(secrets={"joe-1": {"password": "3"}}))
    for user, password in (("joe-1", "3"), ("joe", "1"), ("joe", "1")):
        assert rig.dial(user, password).link
    assert set(rig.core.sessions.names.sessions) == {"<l2tp-joe-1>", "<l2tp-joe>", "<l2tp-joe-2>"}


def test_a_name_cannot_steer_a_terminal_or_a_log(rig):
    assert rig.dial("\x1b[2J\n\\joe").link
    assert list(rig.core.sessions.names.sessions) == ["<l2tp-?[2J?\\joe>"]
    record = logging.LogRecord("n", 20, "f", 1, "tunnel with %s", ("a\nb\x1b",), None)
    assert Formatter("%(message)s").format(record) == "tunnel with a?b?"


@pytest.mark.parametrize("config", [
    {"profiles": {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients", "only-one": "yes"}}},
    {"secrets": {"joe": {"password": "1", "remote-address": "10.67.0.9"}}},
    {"secrets": {"joe": {"password": "1", "remote-address": "192.0.2.9"}}},
    {"profiles": {"default-encryption": {"local-address": "10.67.0.1", "remote-address": "192.0.2.9"}}},
])
def test_one_session_of_a_user_replaces_the_other(tmp_path, config):
    rig = Rig(tmp_path, configuration(**config))
    first, other = rig.dial(), rig.dial("ann", "wrong")
    assert rig.dial("joe", "wrong").link is None and first.link     # who does not know the password ends nobody
    second = rig.dial("DOMAIN\\joe")
    assert first.call_down and "came in again" in first.call_down.text and not other.link
    assert second.link and second.link.local_address == rig.session("<l2tp-DOMAIN\\joe>").address
    assert len(rig.core.sessions.names.sessions) == 1


def test_a_fixed_address_is_not_anothers(tmp_path):
    fixed = {"remote-address": "192.0.2.9"}
    rig = Rig(tmp_path, configuration(secrets={"joe": {"password": "1"} | fixed, "ann": {"password": "2"} | fixed}))
    first = rig.dial()
    assert rig.dial("ann", "2").link is None and first.link
    failed(rig, user="ann", code="no-address")


def test_lcp_is_renegotiated_and_the_address_stays(rig):
    client = rig.dial()
    slot, session = rig.slot(client), rig.session("<l2tp-joe>")
    address, up_since, mark = session.address, session.up_since, len(rig.sent)
    client.renegotiate()
    rig.run(0.02)
    assert rig.tables.state(slot) == State.OPENING and rig.tables.lookup(mapped(address)) == 0
    assert session.link is None and session.state in ("starting", "authenticating") and rig.core.sessions.starting == 0
    rig.run(3)
    assert rig.tables.state(slot) == State.OPEN and session.address == address == client.link.local_address
    assert session.up_since == up_since and session.name == "<l2tp-joe>"
    assert PuntKind.PUNT_ARM in [frame[0] for frame in rig.sent[mark:]]
    client.hang_up()
    rig.run(1)
    rig.check()
    assert not rig.core.sessions and not rig.core.sessions.failures.rows


@pytest.mark.parametrize("user, password, name", [("ann", "2", "<l2tp-ann>"), ("joe", "wrong", ""), ("nobody", "1", "")])
def test_somebody_else_after_a_renegotiation(rig, user, password, name):
    client = rig.dial()
    client.renegotiate(user, password)
    rig.run(10)
    assert list(rig.core.sessions.names.sessions) == [name] * bool(name)
    if not name:
        failed(rig, user=user, stage="authentication")
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_ipcp_is_renegotiated_without_authentication(rig):
    client = rig.dial()
    address, sent = client.link.local_address, len(rig.sent)
    client.ppp.ipcp.fire("RCR+", rig.now, 1, push_packet(2, 1))     # an RCR in Opened begins anew (RFC 1661 section 4.1)
    rig.run(5)
    assert client.link.local_address == address and rig.tables.state(rig.slot(client)) == State.OPEN
    assert {frame[3] for frame in rig.sent[sent:] if frame[0] == PuntKind.PUNT_PPP} == {IPCP_PROTOCOL}


@pytest.mark.parametrize("use", ["yes", "require"])
def test_ciphers_begin_anew_with_ccp_and_with_nothing_else(tmp_path, use):
    """A peer whose address is negotiated again, for which a lost Ack is enough, has its ciphers where they were: if ours began anew, it
    could not read us, and what was encrypted before would be encrypted with the same octets again."""
    rig, begun = encrypting(tmp_path, use), []
    client = rig.dial(encryption=Policy("yes"))
    installer, encrypt = rig.core.sessions.installer, rig.core.sessions.installer.encrypt

    def watched(slot, cipher, rekey):
        begun.append(rekey)
        return encrypt(slot, cipher, rekey)
    installer.encrypt = watched

    def again(*layers):
        begun.clear()
        for layer in layers:
            layer.fire("RCR+", rig.now, 7, push_packet(2, 7, option(18, (0x01000040).to_bytes(4)) if layer is client.ppp.ccp else b""))
        rig.run(5)
        assert rig.session("<l2tp-joe>").link.encoding == "MPPE128 stateless" and rig.tables.state(rig.slot(client)) == State.OPEN
        return begun
    assert again(client.ppp.ipcp) == [False]
    assert again(client.ppp.ccp) == [True]
    assert True in again(client.ppp.ipcp, client.ppp.ccp) and True in again(client.ppp.ccp, client.ppp.ipcp)
    assert again(client.ppp.ipcp) == [False]
    client.renegotiate()
    begun.clear()
    rig.run(5)
    assert True in begun


def test_two_names_in_one_batch_are_not_confused(tmp_path, monkeypatch):
    """The verdict on joe must not let in who says another name before it is given."""
    monkeypatch.setattr("headrace.control.pap.Peer.start", lambda peer, now: None)      # the test speaks in its place
    rig = Rig(tmp_path, configuration(l2tp={"authentication": ["pap"]}))
    other = rig.dial(method="pap")
    session = rig.core.sessions[rig.slot(other)]
    ppp = session.ppp

    def pap(user, password):
        data = bytes([len(user)]) + user + bytes([len(password)]) + password
        rig.core.frame(rig.frame(other, PAP_PROTOCOL, push_packet(1, 9, data)), rig.now)
    other.silent = True
    pap(b"joe", b"1")
    rig.core.frame(rig.frame(other, LCP_PROTOCOL, push_packet(1, 77)), rig.now)
    for protocol, packet in ppp._outgoing:
        if protocol == LCP_PROTOCOL and packet[0] == 1:
            request = packet
    rig.core.frame(rig.frame(other, LCP_PROTOCOL, b"\x02" + request[1:]), rig.now)
    pap(b"ann", b"not hers")
    assert len([e for e in ppp._events if hasattr(e, "password")]) == 2
    rig.collect()
    assert ppp.accept is None and session.link is None and session.state == "closing"
    rig.check()


STEPS = ("lac closes", "lac hangs up", "peer terminates", "core disconnects", "core shuts down", "peer vanishes", "no echo")


def end(rig, client, how):
    core = rig.core
    if how == "lac closes":
        client.lac.close()
    elif how == "lac hangs up":
        client.hang_up()
    elif how == "peer terminates" and client.ppp:
        client.close()
    elif how == "core disconnects":
        for session in list(core.sessions.values()):
            core.sessions.disconnect(session, rig.now, lambda: None)
    elif how == "core shuts down":
        core.shut_down(rig.now)
    elif how == "peer vanishes":
        client.lac.silent = True
    elif how == "no echo":
        for session in list(core.sessions.values()):
            core.frame((PuntKind.PUNT_DEAD, 0, session.slot, session.generation, 0, None, b""), rig.now)


@pytest.mark.parametrize("how", STEPS)
def test_the_end_in_every_state(tmp_path, how):
    """A call is ended after each number of steps of its set-up, and again while it ends."""
    for n, late in itertools.product(range(1, 26, 2), (None, 0.004, 0.01)):
        rig = Rig(tmp_path, seed=n)
        client = rig.lac().call()
        rig.run(0.0025 * n)
        end(rig, client, how)
        rig.collect()
        rig.check()
        if late:
            rig.run(late)
            for again in STEPS[:5]:
                end(rig, client, again)
                rig.collect()
                rig.check()
        rig.run(150)
        client.lac.close()
        rig.run(150)
        rig.check_empty()


def test_disconnect_says_why_and_tells_when_it_is_over(rig):
    client = rig.dial()
    told = []
    rig.core.sessions.disconnect(rig.session("<l2tp-joe>"), rig.now, lambda: told.append(rig.now))
    assert not told and rig.session("<l2tp-joe>").state == "closing"
    rig.core.sessions.disconnect(rig.session("<l2tp-joe>"), rig.now, lambda: told.append(rig.now))
    rig.run(5)
    assert len(told) == 2 and client.down and "disconnected by the administrator" in client.call_down.text
    assert not rig.core.sessions.failures.rows


def test_numbered_data_where_the_peer_asks(rig):
    client = rig.dial(sequencing=True)
    configured = []
    configure = rig.tables.configure

    class Watched:
        def __getattr__(self, name):
            return getattr(rig.tables, name)

        def configure(self, slot, **config):
            configured.append(config)
            configure(slot, **config)
    rig.core.installer.tables = Watched()
    client.renegotiate()
    rig.run(3)
    assert client.link and configured[-1]["flags"] & ConfigFlag.CONFIG_SEQUENCED and configured[-1]["ns_at"] == 6


def test_links_start_in_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.control.sessions.STARTING", 2)
    assert STARTING > 2
    rig = Rig(tmp_path)
    lac = rig.lac()
    mute = [lac.call() for _ in range(2)]
    for client in mute:
        client.silent = True
    rig.run(1)
    waiting = [lac.call() for _ in range(3)]
    gone = lac.call()
    rig.run(1)
    assert rig.core.sessions.starting == 2 and len(rig.core.sessions.waiting) == 4 and not any(c.link for c in waiting)
    gone.hang_up()
    for client in mute:
        client.hang_up()
    rig.run(5)
    assert all(c.link for c in waiting)
    assert rig.core.sessions.starting == 0 and not rig.core.sessions.waiting
    lac.close()
    rig.run(90)
    rig.check_empty()


def test_a_reload_changes_what_comes_and_not_what_is(rig):
    client = rig.dial()
    rig.core.configure(configuration(secrets={"ann": {"password": "9"}}, pools={"clients": ["10.70.0.0/24"]}, l2tp={"max-mru": 1300},
                                     concentrator={"max-sessions": 100_000}))
    assert rig.core.ids.max_sessions == 1000        # the tables keep their size
    assert client.link and rig.dial("ann", "2").link is None
    ann = rig.dial("ann", "9")
    assert str(ann.link.local_address).startswith("10.70.0.") and ann.link.mtu == 1300
    assert rig.session("<l2tp-joe>").address == client.link.local_address
    client.renegotiate()
    rig.run(5)
    assert str(client.link.local_address).startswith("10.70.0.")    # authenticated anew, he gets what he should have now


def test_refusals_are_failures_too(tmp_path):
    rig = Rig(tmp_path, configuration(l2tp={"max-sessions": 1}))
    rig.dial()
    assert rig.dial("ann", "2").call_down
    failed(rig, stage="call", code="refused")
    lac = rig.lac(secret="we ask for authentication")
    lac.endpoint.configure(type(lac.endpoint.settings)(secret="s", require_secret=True))
    lac.endpoint.dial(lac.path._replace(local_port=1702), rig.now)
    rig.run(2)
    failed(rig, stage="tunnel", code="refused", user="")


def test_no_new_tunnel_while_shutting_down(rig):
    client = rig.dial()
    rig.core.shut_down(rig.now)
    late = rig.lac()
    rig.run(2)
    assert client.call_down and client.lac.down and late.down is None and rig.core.l2tp.endpoint.settled
    rig.run(60)
    rig.check_empty()


# -- whatever happens


@given_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(st.integers(0, 8), max_size=80), seed=st.integers(0, 99))
def test_a_bad_wire(tmp_path, fates, seed):
    """Lost, doubled and late: the books are right at every moment, and with a good wire everybody comes in."""
    rig = Rig(tmp_path, fates=fates, seed=seed)
    clients = [rig.lac().call(method=method) for method in METHODS]
    rig.run(100)
    assert all(c.link or c.call_down or c.lac.down for c in clients)
    for client in clients:
        client.lac.close()
    rig.run(200)
    rig.check_empty()


ACTS = ("dial", "dial wrong", "dial only", "hang up", "close", "renegotiate", "other", "disconnect", "dead", "vanish", "close tunnel",
        "reload")
WAITS = (0.0, 0.004, 0.012, 0.03, 0.1, 4.0, 70.0)


@given_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5), st.sampled_from(WAITS)), max_size=25))
def test_any_order_of_events(tmp_path, acts):
    one = {"remote-address": "10.67.0.200"}
    both = [configuration(secrets={"eve": {"password": "3"} | one}),
            configuration(pools={"clients": ["10.67.0.0/25", "10.69.0.0/29"]}, secrets={"eve": {"password": "3"} | one})]
    rig = Rig(tmp_path, both[0])
    clients = []
    for act, n, wait in acts:
        client = clients[n % len(clients)] if clients else None
        if act == "dial":
            lac = client.lac if client and n % 2 else rig.lac()
            clients.append(lac.call(*(("joe", "1"), ("ann", "2"))[n % 2]))
        elif act == "dial wrong":
            clients.append(rig.lac().call("joe", "2"))
        elif act == "dial only":
            clients.append(rig.lac().call("eve", "3"))
        elif act == "reload":
            both.reverse()
            rig.core.configure(both[0])
        elif act == "disconnect" or act == "dead":
            end(rig, client, "core disconnects" if act == "disconnect" else "no echo")
        elif client is None:
            continue
        elif act == "hang up":
            client.hang_up()
        elif act == "close" and client.ppp:
            client.close()
        elif act in ("renegotiate", "other") and client.link:
            client.renegotiate(*(("eve", "3") if act == "other" else ()))
        elif act == "vanish":
            client.lac.silent = True
        elif act == "close tunnel":
            client.lac.close()
        rig.collect()
        rig.check()
        rig.run(wait)
    for lac in rig.lacs:
        lac.close()
    rig.run(200)
    rig.check_empty()


def test_floods_are_limited(caplog):
    say = Limited(logging.getLogger("headrace.test"), 3)
    with caplog.at_level(logging.INFO):
        for n in range(10):
            say(logging.INFO, 100.0 + n / 100, "line %d", n)
        say(logging.INFO, 101.0, "later")
    assert [r.getMessage() for r in caplog.records] == ["line 0", "line 1", "line 2", "7 lines like these were left out", "later"]
