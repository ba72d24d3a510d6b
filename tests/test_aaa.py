"""Who may come in, and with which address; what a reload does to addresses in use."""
from ipaddress import IPv4Address

import pytest
from headrace.control.aaa import Authority
from headrace.control.auth import AuthRequest, Reject
from headrace.control.mppe import Policy, keys_of
from rig.core import configuration

OUTSIDE = IPv4Address("192.0.2.9")


def authority(**changes):
    return Authority(configuration(**changes), lambda: 1000.0)


def request(name, password):
    return AuthRequest("pap", name.encode(), 1, password=password.encode())


@pytest.mark.parametrize("name, password, secret, code", [
    ("joe", "1", {}, None),
    ("DOMAIN\\joe", "1", {}, None),
    ("joe", "2", {}, "bad-password"),
    ("joe", "", {}, "bad-password"),
    ("nobody", "1", {}, "unknown-user"),
    ("joe", "1", {"service": "l2tp"}, None),
    ("joe", "1", {"caller-id": "10.9.9.9"}, None),
    ("joe", "1", {"caller-id": "10.9.9.8"}, "caller-id"),
])
def test_check(name, password, secret, code):
    own = authority(secrets={"joe": {"password": "1"} | secret})
    found = own.check(request(name, password), "10.9.9.9", "l2tp")
    if code:
        assert isinstance(found, Reject) and found.code == code and password not in found.text.split()
    else:
        assert found == ("joe", own.config.secrets["joe"], "")


def test_a_name_as_long_as_a_packet_is_not_told_whole():
    found = authority().check(AuthRequest("chap", b"\xff" * 1400, 1), "10.9.9.9", "l2tp")
    assert isinstance(found, Reject) and found.code == "unknown-user" and len(found.text) < 600


def test_the_whole_name_goes_before_the_one_without_domain():
    own = authority(secrets={"D\\joe": {"password": "other"}})
    assert own.check(request("D\\joe", "other"), "", "l2tp")[0] == "D\\joe"
    assert own.check(request("D\\joe", "1"), "", "l2tp").code == "bad-password"


def grant(own, user):
    secret = own.config.secrets[user]
    return own.grant(secret, own.profile(secret, own.config.server.l2tp.default_profile), user, "", request(user, secret.password))


@pytest.mark.parametrize("use", ["no", "yes", "require"])
def test_what_comes_with_an_address(use):
    own = authority(profiles={"default-encryption": {"local-address": "10.67.0.1", "remote-address": "clients", "use-encryption": use,
                                                     "mppe-strength": [56], "mppe-stateful": True}})
    secret = own.config.secrets["joe"]
    profile = own.profile(secret, "default-encryption")
    by_mschap = AuthRequest("mschap2", b"joe", 1, bytes(16), bytes(49))
    given = own.grant(secret, profile, "joe", "", by_mschap)
    assert given.encryption == Policy(use, (56,), True)
    assert given.keys == (keys_of(by_mschap, secret.password, server=True) if use != "no" else None)
    assert grant(own, "joe").keys is None


@pytest.mark.parametrize("address", ["10.67.0.77", str(OUTSIDE)])
def test_a_fixed_address_is_given_once(address):
    own = authority(secrets={"joe": {"password": "1", "remote-address": address}, "ann": {"password": "2", "remote-address": address}})
    assert grant(own, "joe").remote_address == IPv4Address(address)
    for user in ("joe", "ann"):
        refused = grant(own, user)
        assert refused.code == "no-address" and "'joe'" in refused.text
    own.addresses.release(IPv4Address(address))
    assert grant(own, "ann").remote_address == IPv4Address(address) and own.addresses.holder(IPv4Address(address)) == "ann"


def test_no_address():
    own = authority(pools={"clients": ["10.67.0.2/32"]})
    assert grant(own, "joe").remote_address == IPv4Address("10.67.0.2")
    assert grant(own, "ann").text == "pool 'clients' has no address left"
    own = authority(profiles={"default-encryption": {"local-address": "10.67.0.1"}})
    assert "remote-address" in grant(own, "joe").text


def test_a_reload_keeps_what_is_in_use_from_others():
    own = authority(secrets={"joe": {"password": "1", "remote-address": str(OUTSIDE)}})
    grant(own, "joe")
    first = grant(own, "ann").remote_address
    own.configure(configuration(pools={"clients": ["192.0.2.8/30"]}))       # now a pool has joe's address, and ann's has none
    held = own.addresses
    assert held.holder(OUTSIDE) == "joe" and held.holder(first) == "ann"
    assert grant(own, "ann").remote_address == IPv4Address("192.0.2.10")
    assert isinstance(grant(own, "ann"), Reject)
    own.configure(configuration())
    assert held.holder(OUTSIDE) == "joe" and held.holder(first) == "ann" and held.fixed
    for address in (OUTSIDE, first, IPv4Address("192.0.2.10")):
        held.release(address)
    assert not held.fixed and not held.pools["clients"].taken and not list(held.in_use())


def test_a_reload_keeps_the_rest_of_addresses_and_whose_they_were():
    own = authority()
    address = grant(own, "joe").remote_address
    own.addresses.release(address)
    own.configure(configuration(pools={"clients": ["10.67.0.0/24", "10.68.0.0/24"]}))
    assert grant(own, "ann").remote_address != address
    assert grant(own, "joe").remote_address == address


@pytest.mark.parametrize("said, caller, other", [
    ("02:00:5e:20:00:01@100.7", "02:00:5E:20:00:01@100.7", "02:00:5E:20:00:01@100.8"),
    ("02-00-5E-20-00-01", "02:00:5E:20:00:01", "02:00:5E:20:00:01@7"),
    ("2001:DB8:0::0007", "2001:db8::7", "2001:db8::8"), ("FE80::2%wire", "fe80::2%wire", "fe80::2%wire2")])
def test_a_caller_id_is_the_same_however_it_is_written(said, caller, other):
    own = authority(secrets={"joe": {"password": "1", "caller-id": said}})
    assert not isinstance(own.check(request("joe", "1"), caller, "pppoe"), Reject)
    assert own.check(request("joe", "1"), other, "pppoe").code == "caller-id"
