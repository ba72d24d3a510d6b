"""What stands in the tables for a call and its link."""
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from headrace.control.address import mapped, shown
from headrace.control.install import Installer, routes, template
from headrace.control.l2tpevents import CallOpening, Path
from headrace.control.link import LinkUp
from headrace.control.mppe import Cipher, Way
from headrace.fastpath import table
from headrace.fastpath.packet import Kind
from headrace.fastpath.table import ConfigFlag, State
from scapy.layers.l2tp import L2TP

PATH = Path(0, mapped(bytes((10, 0, 0, 1))), 1701, mapped(bytes((10, 0, 0, 2))), 40000, 3)
CALL = CallOpening(7, 9, 0x1234, 0x5678, PATH)
LINK = LinkUp("joe", "chap", IPv4Address("10.67.0.1"), IPv4Address("10.67.0.2"), 1400, 1450, 0, False, False, 1, 2, ())


@pytest.fixture
def tables(tmp_path):
    table.create(tmp_path / "t", max_sessions=100, workers=1)
    fd = os.open(tmp_path / "t", os.O_RDWR)
    tables = table.Tables(fd)
    os.close(fd)
    return tables


@pytest.mark.parametrize("sequenced", [False, True])
@pytest.mark.parametrize("acfc, pfc, ppp", [(False, False, "ff030021"), (True, False, "0021"), (False, True, "ff0321"), (True, True, "21")])
def test_template(sequenced, acfc, pfc, ppp):
    made = template(Kind.KIND_L2TP, CALL, sequenced=sequenced, acfc=acfc, pfc=pfc)
    head = made["template"]
    assert head[made["ppp_at"]:].hex() == ppp
    read = L2TP(head)
    assert (str(read.hdr), read.version, read.tunnel_id, read.session_id) == ("sequence" if sequenced else "", 2, 0x1234, 0x5678)
    if sequenced:
        numbered = bytearray(head)
        numbered[made["ns_at"]:made["ns_at"] + 2] = b"\xab\xcd"
        assert (L2TP(bytes(numbered)).ns, L2TP(bytes(numbered)).nr) == (0xABCD, 0)
    else:
        assert made["ns_at"] == 0


def test_the_life_of_a_record(tables):
    installer = Installer(tables)
    slot, generation = installer.open(Kind.KIND_L2TP, CALL, 0)
    row = tables.sessions()[slot]
    assert (row["state"], row["tunnel"], row["session"], row["peer_port"], bytes(row["peer"])) == (State.OPENING, 7, 9, 40000, PATH.peer)
    up = {"sequenced": False, "clamp": True, "keepalive": 30.0, "dscp": "inherit"}
    for address in (LINK.remote_address, IPv4Address("10.67.0.3")):        # renegotiated, to another address
        link = replace(LINK, remote_address=address)
        leads = routes(link, address)
        installer.up(slot, Kind.KIND_L2TP, CALL, link, leads=leads, **up)
        assert tables.state(slot) == State.OPEN and tables.lookup(mapped(address)) == slot
        installer.reset(slot, leads)
        assert tables.state(slot) == State.OPENING and tables.lookup(mapped(address)) == 0
    installer.close(slot, ())
    assert tables.state(slot) == State.RETIRED and tables.generation(slot) == generation


@pytest.mark.parametrize("four, six", [(True, False), (False, True), (True, True)])
def test_families(tables, four, six):
    """What leads to a session is of the families that are open; a change of them interrupts nothing."""
    installer, seen = Installer(tables), []
    link = replace(LINK, local_address=LINK.local_address if four else IPv4Address(0), ipv6=six)
    prefix, delegated = IPv6Network("2001:db8:67:1::/64"), IPv6Network("2001:db8:100::/56")
    leads = routes(link, LINK.remote_address, prefix, delegated)
    assert len(leads) == four + 2 * six
    slot, _ = installer.open(Kind.KIND_L2TP, CALL, 0)

    class Watched:
        def __getattr__(self, name):
            return getattr(tables, name)

        def configure(self, slot, **config):
            seen.append(config)
            tables.configure(slot, **config)
    Installer(Watched()).up(slot, Kind.KIND_L2TP, CALL, link, sequenced=False, clamp=True, keepalive=30.0, dscp="inherit", leads=leads,
                            prefix=prefix, gateway6=IPv6Address("2001:db8::1"))
    config, = seen
    assert (bool(config["flags"] & ConfigFlag.CONFIG_IP), bool(config["flags"] & ConfigFlag.CONFIG_IPV6)) == (four, six)
    assert config["address"] == (mapped(LINK.remote_address) if four else bytes(16))
    assert config["prefix"] == (prefix.network_address.packed if six else bytes(16))
    for address, is_open in (LINK.remote_address, four), (prefix[5], six), (delegated[1 << 70], six):
        assert tables.lookup(mapped(address)) == (slot if is_open else 0)
    installer.close(slot, leads)
    assert not any(tables.lookup(mapped(a)) for a in (LINK.remote_address, prefix[5], delegated[7]))


RECEIVE, SEND = Way(128, True, b"what is received"), Way(128, False, b"and what is sent")
ENCRYPT, DECRYPT, REQUIRE = ConfigFlag.CONFIG_ENCRYPT, ConfigFlag.CONFIG_DECRYPT, ConfigFlag.CONFIG_REQUIRE


@pytest.mark.parametrize("cipher, flags", [
    (Cipher(RECEIVE, SEND, True), ENCRYPT | DECRYPT | REQUIRE), (Cipher(RECEIVE, SEND, False), ENCRYPT | DECRYPT),
    (Cipher(None, SEND, False), ENCRYPT), (Cipher(RECEIVE, None, False), DECRYPT),
    (Cipher(Way(40, True, b"eight oc"), SEND, False), ENCRYPT | DECRYPT),
    (Cipher(Way(40, True, b"eight oc"), Way(40, True, b"and more"), False), ENCRYPT | DECRYPT)])
def test_encryption_comes_and_goes(tables, tmp_path, cipher, flags):
    """It is in force with the record, or later and without taking it out of force; keys that serve no more are wiped."""
    seen = []

    class Watched:
        def __getattr__(self, name):
            return getattr(tables, name)

        def configure(self, slot, **config):
            seen.append(config["flags"] & (ENCRYPT | DECRYPT | REQUIRE))
            tables.configure(slot, **config)
    installer, up = Installer(Watched()), {"sequenced": False, "clamp": True, "keepalive": 30.0, "dscp": "inherit"}
    slot, _ = installer.open(Kind.KIND_L2TP, CALL, 0)

    def kept():
        content = (tmp_path / "t").read_bytes()
        return [way.key in content for way in (cipher.receive, cipher.send) if way]
    for link, found in ((LINK, 0), (replace(LINK, cipher=cipher), flags), (LINK, 0), (replace(LINK, cipher=cipher), flags)):
        installer.up(slot, Kind.KIND_L2TP, CALL, link, leads=routes(link, LINK.remote_address), **up)
        tables.beat(1)
        assert tables.state(slot) == State.OPEN and seen[-1] == found
        assert kept() == [bool(found)] * len(kept())
    keys = tables.sessions()[slot]
    installer.up(slot, Kind.KIND_L2TP, CALL, replace(LINK, cipher=cipher, ipv6=True), leads=(), rekey=False, **up)
    assert kept() == [True] * len(kept()) and seen[-1] == flags and tables.sessions()[slot] == keys
    installer.close(slot, routes(LINK, LINK.remote_address))
    tables.beat(2)
    assert not any(kept())


@pytest.mark.parametrize("closed", [False, True])
def test_keys_of_a_former_life_are_wiped(tables, tmp_path, closed):
    """Also those that the control before this one had let go of and not wiped yet."""
    slot, _ = Installer(tables).open(Kind.KIND_L2TP, CALL, 0)
    Installer(tables).up(slot, Kind.KIND_L2TP, CALL, replace(LINK, cipher=Cipher(RECEIVE, SEND, True)), sequenced=False, clamp=True,
                         keepalive=30.0, dscp="inherit", leads=())
    if closed:
        tables.set_state(slot, State.RETIRED)
    with (tmp_path / "t").open("r+b") as file:
        again = table.Tables(file.fileno())
    assert SEND.key in (tmp_path / "t").read_bytes()
    assert Installer(again).empty() == ([] if closed else [slot])
    again.beat(1)
    content = (tmp_path / "t").read_bytes()
    assert SEND.key not in content and RECEIVE.key not in content


def test_a_former_life_is_swept(tables):
    installer = Installer(tables)
    slots = [installer.open(Kind.KIND_L2TP, replace(CALL, session_id=n), 0)[0] for n in (9, 10, 11)]
    tables.insert(mapped(LINK.remote_address), 128, slots[1])
    installer.close(slots[0], ())
    assert installer.empty() == slots[1:]
    assert all(tables.state(slot) == State.RETIRED for slot in slots) and tables.lookup(mapped(LINK.remote_address)) == 0
    assert installer.empty() == []


@pytest.mark.parametrize("text", ["10.0.0.1", "2001:db8::1", "::1", "255.255.255.255"])
def test_addresses(text):
    from ipaddress import ip_address
    address = ip_address(text)
    assert shown(mapped(address)) == text and mapped(address.packed) == mapped(address) and len(mapped(address)) == 16
