"""Bundles in the core: by whom they are joined, how they look, and that nothing of them stays."""
from __future__ import annotations

from dataclasses import replace

import pytest
from headrace.control import listing
from headrace.control.address import mapped
from headrace.control.mppe import Policy
from headrace.fastpath import bundle as fastpath
from headrace.fastpath.punt import PuntKind
from headrace.fastpath.table import ConfigFlag, State
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.core import Rig, configuration, failed

MULTILINK = {"mrru": 1600, "discriminator": b"\x03client"}


def lns(tmp_path, workers=1, fates=(), **changes):
    rig = Rig(tmp_path, configuration(**changes), workers=workers, fates=fates)
    rig.core.l2tp.link = replace(rig.core.l2tp.link, mrru=1600, discriminator=b"\x01headrace")
    return rig


@pytest.fixture
def rig(tmp_path):
    return lns(tmp_path)


def row(rig, name="<l2tp-joe>"):
    return rig.session(name).row(rig.tables, rig.now)


class Recorder:
    """The tables, and the flags that were put in force by slot."""

    def __init__(self, tables):
        self.tables, self.flags = tables, {}

    def configure(self, slot, **config):
        self.flags[slot] = config["flags"]
        self.tables.configure(slot, **config)

    def __getattr__(self, name):
        return getattr(self.tables, name)


def two(rig, **kw):
    first = rig.dial(multilink=MULTILINK, **kw)
    second = rig.dial(multilink=MULTILINK, bundle=first.bundle, **kw)
    return first, second


def test_a_link_alone_is_a_bundle(rig, caplog, monkeypatch):
    caplog.set_level("INFO")
    tables = rig.core.installer.tables = Recorder(rig.tables)
    for door in fastpath.open_bundle, fastpath.join_link:       # compiled, and taking compiled tables alone
        monkeypatch.setattr(fastpath, door.__name__, lambda _, *args, to=door, **kw: to(rig.tables, *args, **kw))
    client = rig.dial(multilink=MULTILINK)
    bundle, link = rig.session("<l2tp-joe>"), rig.core.sessions[rig.slot(client)]
    assert link.bundle is bundle and bundle.links == [link] and bundle.slot != link.slot
    assert (client.link.mtu, client.link.local_address) == (1600, bundle.address)
    assert rig.tables.lookup(mapped(bundle.address)) == bundle.slot
    assert fastpath.links(rig.tables, bundle.slot) == [(link.slot, 1_000_000, 1450)]
    assert tables.flags[link.slot] & (ConfigFlag.CONFIG_IP | ConfigFlag.CONFIG_BUNDLE) == 0
    assert tables.flags[bundle.slot] & ConfigFlag.CONFIG_IP and tables.flags[bundle.slot] & ConfigFlag.CONFIG_BUNDLE
    assert rig.armed == [link.slot], "links are kept alive, and bundles by them"
    assert {k: v for k, v in row(rig).items() if k in ("user", "mtu", "mru", "state", "caller-id", "links")} == {
        "user": "joe", "mtu": 1600, "mru": 1600, "state": "open", "caller-id": "10.0.1.1",
        "links": [{"service": "l2tp", "caller-id": "10.0.1.1", "uptime": 3, "mtu": 1450, "mru": 1450, "rate": 1_000_000_000}]}
    assert "<l2tp-joe>: up, address 10.67.0.2, mschap2, mtu 1600, mru 1600, not encrypted" in caplog.text
    client.close()
    rig.run(5)
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_two_links_are_one_session(rig):
    first, second = two(rig)
    bundle = rig.session("<l2tp-joe>")
    assert second.bundle is first.bundle and len(bundle.links) == 2 and set(rig.core.sessions.names.sessions) == {"<l2tp-joe>"}
    assert [link["caller-id"] for link in row(rig)["links"]] == ["10.0.1.1", "10.0.1.2"]
    table = listing.table(listing.SESSIONS, [row(rig)]).splitlines()
    assert len(table) == 2 and "LINKS" in table[0] and " 2 " in table[1]
    assert "active-links: 2" in listing.monitor(bundle.details(rig.tables, rig.now))
    first.hang_up()
    rig.run(5)
    assert bundle.links == [rig.core.sessions[rig.slot(second)]] and rig.tables.state(bundle.slot) == State.OPEN
    assert second.link and [link["caller-id"] for link in row(rig)["links"]] == ["10.0.1.2"]
    second.hang_up()
    rig.run(5)
    for client in first, second:
        client.lac.close()
    rig.run(90)
    rig.check_empty()


@pytest.mark.parametrize("speeds, rates", [((2_000_000, 100_000_000), [2000, 100_000]), ((0xFFFFFFFF, 999), [0, 0])])
def test_links_have_the_rates_that_their_peers_tell(rig, speeds, rates):
    """In kilobits a second. All ones are no rate, and less than a thousand bits is none."""
    first = rig.dial(multilink=MULTILINK, tx_speed=speeds[0])
    rig.dial(multilink=MULTILINK, bundle=first.bundle, tx_speed=speeds[1])
    bundle = rig.session("<l2tp-joe>")
    assert [rate for _, rate, _ in fastpath.links(rig.tables, bundle.slot)] == rates
    assert [link["rate"] for link in row(rig)["links"]] == [speed % 0xFFFFFFFF for speed in speeds]


def test_a_link_is_asked_whether_it_is_there_behind_the_news(rig):
    """CHAP's success, then an echo request, whose answer comes from somebody who knows that the link is the bundle's."""
    first, second = two(rig)
    bundle = rig.session("<l2tp-joe>")
    for client in first, second:
        sent = [(protocol, payload[0]) for _, slot, _, protocol, _, payload in rig.sent if slot == rig.slot(client) and payload]
        assert sent[sent.index((0xC223, 3)):][:2] == [(0xC223, 3), (0xC021, 9)]
    assert rig.tables.sessions()["attached"][[link.slot for link in bundle.links]].tolist() == [0, 0], "no worker is there to hear it"


def test_only_one_session_is_one_bundle(tmp_path):
    rig = lns(tmp_path, profiles={"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients", "only-one": "yes"}})
    _, second = two(rig)
    assert len(rig.session("<l2tp-joe>").links) == 2
    other = rig.dial(multilink=MULTILINK | {"discriminator": b"\x03others"})
    assert rig.session("<l2tp-joe>").links == [rig.core.sessions[rig.slot(other)]] and second.call_down


def test_a_fixed_address_is_the_bundles(tmp_path):
    rig = lns(tmp_path, secrets={"joe": {"password": "1", "remote-address": "10.67.0.9"}})
    two(rig)
    bundle = rig.session("<l2tp-joe>")
    assert str(bundle.address) == "10.67.0.9" and len(bundle.links) == 2


@pytest.mark.parametrize("who", [{"user": "ann", "password": "2"}, {"multilink": MULTILINK | {"discriminator": b"\x01x"}},
                                 {"multilink": MULTILINK | {"discriminator": b""}}, {"multilink": {}}])
def test_others_have_sessions_of_their_own(rig, who):
    """Another user who claims the discriminator of a bundle, and the same user from somewhere else."""
    first = rig.dial(multilink=MULTILINK)
    other = rig.dial(**{"multilink": MULTILINK} | who)
    assert other.link.local_address != first.link.local_address and len(rig.session("<l2tp-joe>").links) == 1
    assert len(rig.core.sessions.names.sessions) == 2


def test_a_guessed_password_joins_nothing(rig):
    two(rig)
    rig.dial(password="2", multilink=MULTILINK)
    rig.run(10)
    failed(rig, user="joe", code="bad-password")
    assert len(rig.session("<l2tp-joe>").links) == 2


def test_another_mrru_is_told_in_the_list(rig):
    two(rig)
    third = rig.dial(multilink=MULTILINK | {"mrru": 1500})
    rig.run(10)
    assert third.down and third.call_down and len(rig.session("<l2tp-joe>").links) == 2
    failed(rig, user="joe", stage="multilink", code="mismatch", **{"caller-id": "10.0.1.3"})


def test_disconnect_ends_all_links(rig):
    first, second = two(rig)
    over = []
    rig.core.sessions.disconnect(rig.session("<l2tp-joe>"), rig.now, lambda: over.append(rig.now))
    assert not over
    rig.run(10)
    assert len(over) == 1 and first.call_down and second.call_down and first.down.code == second.down.code == "peer-terminated"
    for client in first, second:
        client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_a_dead_link_leaves_the_bundle(rig):
    first, second = two(rig)
    first.silent = True
    rig.core.frame(rig.frame(first, 0, kind=PuntKind.PUNT_DEAD), rig.now)
    rig.run(5)
    assert rig.session("<l2tp-joe>").links == [rig.core.sessions[rig.slot(second)]] and second.link


def test_who_lost_his_state_gets_a_bundle_anew(rig):
    """His old link does not answer. Were it joined, its new numbers would be met by old ones."""
    first = rig.dial(multilink=MULTILINK)
    old = rig.session("<l2tp-joe>")
    first.silent = first.lac.silent = True
    again = rig.dial(multilink=MULTILINK)
    bundle = rig.session("<l2tp-joe>")
    assert bundle is not old and bundle.links == [rig.core.sessions[rig.slot(again)]] and again.link
    assert bundle.address == old.address or again.link.local_address == bundle.address
    assert again.link.local_address == first.link.local_address, "the same user has his address back"


def test_one_dead_link_of_two_is_found_when_a_third_comes(rig):
    first, second = two(rig)
    rig.run(100)
    first.silent = first.lac.silent = True
    third = rig.dial(multilink=MULTILINK, bundle=second.bundle)
    assert rig.session("<l2tp-joe>").links == [rig.core.sessions[rig.slot(s)] for s in (second, third)]


def test_who_waits_and_goes_joins_nothing(rig):
    first = rig.dial(multilink=MULTILINK)
    rig.run(10)
    first.silent = True
    second = rig.lac().call(multilink=MULTILINK)
    rig.run(0.2)
    assert rig.core.sessions[rig.slot(second)].approach
    second.renegotiate(user="ann", password="2")
    rig.run(5)
    assert set(rig.core.sessions.names.sessions) == {"<l2tp-joe>", "<l2tp-ann>"}


@pytest.mark.parametrize("mrru", [1600, 0])
def test_a_link_that_negotiates_again(rig, mrru):
    """The only one, with and without multilink: its user keeps his address, and his name."""
    client = rig.dial(multilink=MULTILINK, encryption=Policy("yes"))
    address = rig.session("<l2tp-joe>").address
    client.bundle = None
    client.settings = replace(client.settings, mrru=mrru, discriminator=b"\x03client" if mrru else b"")
    client.renegotiate()
    rig.run(10)
    session = rig.session("<l2tp-joe>")
    assert session.address == address and bool(session.links) == bool(mrru) and session.link.mtu == (1596 if mrru else 1446)
    assert client.link.local_address == address


def test_a_link_of_two_that_goes_on_alone(rig):
    first, second = two(rig)
    second.settings = replace(second.settings, mrru=0, discriminator=b"")
    second.renegotiate()
    rig.run(10)
    assert set(rig.core.sessions.names.sessions) == {"<l2tp-joe>", "<l2tp-joe-1>"}
    assert rig.session("<l2tp-joe-1>") is rig.core.sessions[rig.slot(second)] and first.link.local_address != second.link.local_address
    second.settings = replace(second.settings, **MULTILINK)
    second.renegotiate()
    rig.run(10)
    assert set(rig.core.sessions.names.sessions) == {"<l2tp-joe>"} and len(rig.session("<l2tp-joe>").links) == 2


def test_links_and_their_bundle_have_owners(tmp_path):
    """A bundle belongs to the worker of its first link; each link keeps its own."""
    rig = lns(tmp_path, workers=2)
    rig.core.sessions.owners = "turns"
    first = rig.dial(multilink=MULTILINK)
    second = rig.dial(multilink=MULTILINK, bundle=first.bundle)
    bundle = rig.session("<l2tp-joe>")
    assert bundle.owner == bundle.links[0].owner == 1 and bundle.links[1].owner == 0
    assert second.link


def test_ipv6_is_the_bundles(tmp_path):
    profile = {"local-address": "10.67.0.1", "remote-address": "clients", "local-ipv6-address": "2001:db8::1",
               "remote-ipv6-prefix-pool": "links"}
    rig = lns(tmp_path, **{"ipv6-pool": {"links": {"prefix": "2001:db8:67::/48"}}}, profiles={"default-encryption": profile})
    first, _ = two(rig, ipv6=True)
    bundle = rig.session("<l2tp-joe>")
    assert bundle.prefix and bundle.router and first.link.ipv6 and rig.tables.lookup(bundle.prefix[9].packed) == bundle.slot
    rig.run(5)
    assert [s for s in rig.sent if s[1] == bundle.slot and s[3] == 0x57], "it advertises"


def test_a_defect_of_one_link_is_not_the_others(rig):
    first, second = two(rig)
    link = rig.core.sessions[rig.slot(first)]
    link.ppp.lcp = None
    rig.core.frame(rig.frame(first, 0xC021, b"\x09\x01\x00\x08abcd"), rig.now)
    rig.run(5)
    assert first.call_down and rig.session("<l2tp-joe>").links == [rig.core.sessions[rig.slot(second)]]


def test_a_full_table_refuses_the_bundle(rig, monkeypatch):
    monkeypatch.setattr(rig.core.ids, "take_bundle", lambda: None)
    client = rig.dial(multilink=MULTILINK)
    rig.run(10)
    assert client.down and not rig.core.sessions.names.sessions
    failed(rig, user="joe", code="full")
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_goodbye_after_a_crash(tmp_path):
    """Links and bundles of a former life are retired, and their slots rest."""
    rig = lns(tmp_path)
    first, second = two(rig)
    bundle = rig.session("<l2tp-joe>")
    slots = [bundle.slot, rig.slot(first), rig.slot(second)]
    again = Rig(tmp_path, again=True, now=rig.now + 5, seed=9)
    again.lacs, again.bundles = rig.lacs, rig.bundles
    for lac in again.lacs:
        lac.rig = again
    assert again.core.say_goodbye(again.now) == 2
    assert all(again.tables.state(slot) == State.RETIRED for slot in slots) and not again.tables.lookup(mapped(bundle.address))
    again.core.frame((PuntKind.PUNT_PPP, 0, bundle.slot, bundle.generation, 0x8021, None, b"\x01\x01\x00\x04"), again.now)
    again.run(1)
    assert first.call_down and second.call_down
    again.run(120)
    again.check_empty()


STEPS = ("dial", "other", "hang up", "terminate", "renegotiate", "alone", "vanish", "disconnect", "no echo")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5), st.floats(0.01, 4)), min_size=2, max_size=14),
       fates=st.lists(st.integers(0, 4), max_size=60))
def test_the_books_balance_whatever_links_do(tmp_path_factory, steps, fates):
    """Rig.check after each thing that happens; in the end nothing is left."""
    rig = lns(tmp_path_factory.mktemp("bundles"), fates=fates)
    clients = []
    for step, which, seconds in steps:
        client = clients[which % len(clients)] if clients else None
        if step in ("dial", "other") or client is None or client.ppp is None:
            bundle = next((c.bundle for c in clients if c.bundle and not c.bundle.ended), None)
            clients.append(rig.lac().call(multilink=MULTILINK, bundle=bundle) if step != "other"
                           else rig.lac().call("ann", "2", multilink=MULTILINK))
        elif step == "hang up":
            client.hang_up()
        elif step == "terminate":
            client.close()
        elif step in ("renegotiate", "alone"):
            client.settings = replace(client.settings, mrru=0 if step == "alone" else 1600)
            client.renegotiate()
        elif step == "vanish":
            client.silent = client.lac.silent = True
        elif step == "disconnect" and rig.core.sessions.names.sessions:
            rig.core.sessions.disconnect(next(iter(rig.core.sessions.names.sessions.values())), rig.now, lambda: None)
        elif step == "no echo" and client.far and rig.slot(client) in rig.core.sessions:
            rig.core.frame(rig.frame(client, 0, kind=PuntKind.PUNT_DEAD), rig.now)
        rig.run(seconds)
    for client in clients:
        client.lac.close()
    rig.core.shut_down(rig.now)
    rig.run(200)
    rig.check_empty()
