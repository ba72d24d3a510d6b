"""Bridged sessions in the core: what the tables say of them, and that a port is a session's as long as it bridges and no longer."""
import os
import socket
from dataclasses import replace

import pytest
from headrace.control import tap
from headrace.control.bridge import Ports
from headrace.control.link import Bridging, LinkReset
from headrace.control.mppe import Policy
from headrace.control.store import StoreError
from headrace.fastpath import bundle as fastpath
from headrace.fastpath.bridge import PORTS, BridgeFlag
from headrace.fastpath.table import State
from rig.core import Rig, configuration, failed

OPEN, TAGGED, STP = BridgeFlag.BRIDGE_OPEN, BridgeFlag.BRIDGE_TAGGED, BridgeFlag.BRIDGE_STP


class Supervisor:
    """What a store's other end would keep."""

    def __init__(self):
        self.kept, self.asked, self.refuses = ["tap/0/5/77/8", "tables"], [], ""

    def names(self, prefix):
        return [name for name in self.kept if name.startswith(prefix)]

    def open(self, kind, *, name, **port):
        assert kind == "tap" and name not in self.kept
        self.asked.append(port)
        if self.refuses:
            raise StoreError(self.refuses)
        self.kept.append(name)

    def drop(self, name):
        self.kept.remove(name)


class Tables:
    """The real ones, and what they were told last of each slot."""

    def __init__(self, tables):
        self.tables, self.told = tables, {}

    def __getattr__(self, name):
        return getattr(self.tables, name)

    def configure(self, slot, **config):
        self.tables.configure(slot, **config)
        self.told[slot] = config


class There(Ports):
    bridges = ("br0",)

    def has(self, bridge):
        return bridge in self.bridges


def bridging(tmp_path, **profile):
    profile = {"local-address": "10.67.0.1", "remote-address": "clients", "bridge": "br0", "use-encryption": "no", **profile}
    tmp_path.mkdir(exist_ok=True)
    rig = Rig(tmp_path, configuration(profiles={"default-encryption": {k: v for k, v in profile.items() if v is not None}}))
    rig.keeper = Supervisor()
    rig.core.sessions.holdings.ports = There(1, rig.keeper)
    rig.core.installer.tables = Tables(rig.tables)
    return rig


@pytest.fixture
def rig(tmp_path):
    return bridging(tmp_path)


def dial(rig, stp=True, **kw):
    return rig.dial(multilink={"bridging": Bridging(stp)}, **kw)


def ports(rig):
    return rig.keeper.names("tap/")


def config(rig, client):
    """(bridge flags, TAP) that are in force."""
    told = rig.core.installer.tables.told[rig.slot(client)]
    return told["bridge"], told["tap"]


def test_what_a_predecessor_had_is_gone(rig):
    assert rig.keeper.kept == ["tables"]


def test_a_session_bridges_and_routes(rig, caplog):
    caplog.set_level("INFO")
    client = dial(rig)
    session, slot = rig.session("<l2tp-joe>"), rig.slot(client)
    assert client.link.ip and client.link.bridged and session.link.bridged
    assert ports(rig) == [f"tap/0/1/{slot}/{rig.tables.generation(slot)}"]
    assert rig.keeper.asked == [{"bridge": "br0", "cost": None, "priority": None, "learning": True, "isolated": False}]
    assert config(rig, client) == (OPEN | TAGGED | STP, 1)
    assert session.row(rig.tables, rig.now)["bridge"] == "br0" and "bridge br0, mschap2" in caplog.text
    client.close()
    rig.run(5)
    assert not ports(rig)
    client.lac.close()
    rig.run(90)
    rig.check_empty()


def test_the_profiles_settings_reach_the_port(tmp_path):
    rig = bridging(tmp_path, **{"bridge-path-cost": 9, "bridge-port-priority": 240, "bridge-learning": False, "bridge-horizon": 3,
                                "bridge-stp": False})
    client = dial(rig)
    assert rig.keeper.asked == [{"bridge": "br0", "cost": 9, "priority": 60, "learning": False, "isolated": True}]
    assert config(rig, client) == (OPEN | TAGGED, 1)


@pytest.mark.parametrize("use", ["no", "require"])
def test_bridged_alone(tmp_path, use):
    rig = bridging(tmp_path, **{"local-address": None, "remote-address": None, "use-encryption": use})
    client = dial(rig, ip=False, encryption=Policy(use))
    assert client.link.bridged and not client.link.ip and rig.session("<l2tp-joe>").address is None and len(ports(rig)) == 1
    client.ppp.bcp.fire("Close", rig.now)
    rig.run(5)
    assert not ports(rig) and rig.tables.state(rig.slot(client)) == State.OPENING, "nothing is left of the link but LCP"


def test_a_client_that_does_not_bridge(rig):
    client = rig.dial()
    assert client.link.ip and not client.link.bridged and not rig.keeper.asked and config(rig, client) == (0, 0)
    assert "bridge" not in rig.session("<l2tp-joe>").row(rig.tables, rig.now)


def test_without_its_bridge(tmp_path, caplog):
    """Who has something else gets it; who has not is refused."""
    rig = bridging(tmp_path, bridge="br9")
    client = dial(rig)
    assert client.link.ip and not client.link.bridged and not rig.keeper.asked
    assert "user 'joe' is not bridged: there is no interface br9" in caplog.text
    other = bridging(tmp_path / "other", **{"bridge": "br9", "local-address": None, "remote-address": None})
    client = dial(other, ip=False)
    other.run(10)
    assert client.link is None
    failed(other, stage="authentication", code="no-bridge", reason="user 'joe' can only be bridged, and there is no interface br9")


def test_a_port_that_cannot_be_had(tmp_path, caplog):
    """BCP ends again, and the link when it is for nothing else; the number is free for others."""
    rig = bridging(tmp_path)
    rig.keeper.refuses = "br0 takes no port: no buffer space"
    client = dial(rig)
    assert client.link.ip and not client.link.bridged and config(rig, client) == (0, 0)
    assert "has no port in bridge br0: br0 takes no port: no buffer space" in caplog.text and rig.session("<l2tp-joe>").state == "open"
    rig.keeper.refuses = ""
    assert dial(rig, user="ann", password="2").link.bridged
    alone = bridging(tmp_path / "other", **{"local-address": None, "remote-address": None})
    alone.keeper.refuses = "no"
    client = dial(alone, ip=False)
    alone.run(10)
    assert client.link is None and client.down
    assert len(alone.core.sessions.holdings.ports.free[0]) == PORTS - 1


def test_numbers_are_used_oldest_first(rig):
    clients = [dial(rig) for _ in range(3)]
    assert [config(rig, client)[1] for client in clients] == [1, 2, 3]
    clients[1].close()
    rig.run(5)
    assert config(rig, dial(rig))[1] == 4 and rig.core.sessions.holdings.ports.free[0][-1] == 2


def test_more_than_a_worker_has_numbers(rig):
    rig.core.sessions.holdings.ports.free[0].clear()
    client = dial(rig)
    assert client.link.ip and not client.link.bridged and not rig.keeper.asked


@pytest.mark.parametrize("layer", ["lcp", "user"])
def test_negotiated_again(rig, layer):
    """LCP anew, as the same or as somebody else: the port is another one, and never two."""
    client = dial(rig)
    client.renegotiate(*(("ann", "2") if layer == "user" else ()))
    rig.run(5)
    assert client.link.bridged and len(ports(rig)) == 1 and config(rig, client)[1] == 2


def test_a_peer_that_negotiates_without_end(rig, caplog):
    """Each port is an interface to be made and deleted: after some it routes only, until a while has passed."""
    client = dial(rig)
    for _ in range(8):
        client.renegotiate()
        rig.run(1)
    assert client.link.ip and not client.link.bridged and not ports(rig)
    assert len(rig.keeper.asked) == 5 and "asked for one too often" in caplog.text
    rig.run(60)
    client.renegotiate()
    rig.run(2)
    assert client.link.bridged and len(ports(rig)) == 1


class Plugs:
    """A store out of which control takes a port at the wrong moment, and a forwarder that notes what it gets."""

    def __init__(self):
        self.plugged, self.ends = [], socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def names(self, prefix):
        return [prefix + "0/1/5/6", prefix + "0/2/7/8"]

    def get(self, name):
        if name == "taps/forwarder":
            return self.ends[0].detach()
        if name.endswith("5/6"):
            raise StoreError(f"there is no {name} in the store")
        return os.open("/dev/null", os.O_RDWR)

    def plug(self, *told):
        os.close(told[-1])
        self.plugged.append(told[:-1])
        return True


def test_a_port_that_goes_while_the_forwarder_starts():
    both = Plugs()
    with tap.Ports(both, both).sock, both.ends[1]:
        assert both.plugged == [(0, 2, 7, 8)]


def test_routing_goes_and_bridging_stays(rig):
    client = dial(rig)
    client.ppp.ipcp.fire("Close", rig.now)
    rig.run(5)
    assert client.link.bridged and not client.link.ip and config(rig, client) == (OPEN | TAGGED | STP, 1) and len(ports(rig)) == 1
    assert not any(isinstance(event, LinkReset) for event in client.ppp.events())


def test_a_bundle_has_the_port(tmp_path, monkeypatch):
    """Its links have none; it stays while there is one of them, and goes with the last."""
    rig = bridging(tmp_path)
    for door in fastpath.open_bundle, fastpath.join_link, fastpath.leave_link:      # compiled, and taking compiled tables alone
        monkeypatch.setattr(fastpath, door.__name__, lambda _, *args, to=door, **kw: to(rig.tables, *args, **kw))
    rig.core.l2tp.link = replace(rig.core.l2tp.link, mrru=1600, discriminator=b"\x01headrace")
    multilink = {"mrru": 1600, "discriminator": b"\x03client", "bridging": Bridging()}
    first = rig.dial(multilink=multilink)
    second = rig.dial(multilink=multilink, bundle=first.bundle)
    bundle = rig.session("<l2tp-joe>")
    assert len(bundle.links) == 2 and first.link.bridged and first.link.mtu == 1600
    assert ports(rig) == [f"tap/0/1/{bundle.slot}/{bundle.generation}"] and bundle.row(rig.tables, rig.now)["bridge"] == "br0"
    told = rig.core.installer.tables.told
    assert (told[bundle.slot]["bridge"], told[bundle.slot]["tap"]) == (OPEN | TAGGED | STP, 1)
    assert not any(told.get(link.slot, {}).get("tap") for link in bundle.links)
    first.close()
    rig.run(5)
    assert len(ports(rig)) == 1
    second.close()
    rig.run(5)
    assert not ports(rig)
