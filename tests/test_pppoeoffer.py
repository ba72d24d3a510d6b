"""What PPPoE offers, and to whom: control and the workers agree, whatever the services are and whatever a station says."""
from __future__ import annotations

from random import Random

import pytest
from headrace.control import mac, tags
from headrace.control.address import Path
from headrace.control.interfaces import Interface
from headrace.control.pppoeservice import Pppoe
from headrace.fastpath import service as fastpath
from headrace.fastpath._probe_pppoe import answer
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.core import configuration

AC = bytes.fromhex("02005e1000ac")
MACS = [f"02:00:00:00:00:0{n}" for n in range(1, 4)]
SERVICES = st.fixed_dictionaries({}, optional={
    "service-name": st.sampled_from(["", "tv", "internet"]), "accept-service-name": st.sampled_from(["exact", "blank", "any"]),
    "pppoe-over-vlan-range": st.lists(st.sampled_from(["untagged", "7", "7-9", "100.7", "100-101.1-4094"]), unique=True),
    "allow-mac": st.lists(st.sampled_from(MACS), unique=True), "deny-mac": st.lists(st.sampled_from(MACS), unique=True)})


class Core:
    """As much of a concentrator as what is offered needs."""
    ids, random, workers = None, Random(1), 1

    def __init__(self, services):
        server = {"pppoe": [{"interface": f"eth{n % 2}", **service} for n, service in enumerate(services)]}
        self.config, self.tables, self.told = configuration(server=server), self, []


@pytest.fixture(scope="module", autouse=True)
def told():
    """What is offered stays with the core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastpath, "offer", lambda core, services, ports, limit: setattr(core, "told", services))
        yield


@settings(max_examples=200)
@given(st.lists(SERVICES, min_size=1, max_size=4), st.sampled_from([b"", b"tv", b"internet", b"x"]), st.integers(1, 4), st.integers(0, 1),
       st.sampled_from([(), (7,), (8,), (10,), (100, 7), (101, 4094), (102, 7)]))
def test_control_and_worker_choose_the_same_service(services, name, host, port, vlans):
    """offer.pxd answers the PADI, `find` the PADR."""
    core = Core(services)
    service = Pppoe(core)
    for interface in service.ports:
        service.interface(interface, Interface(1, AC, 1500))
    station = mac.station(b"\x02\0\0\0\0" + bytes((host,)), tuple((mac.C_TAG, vlan) for vlan in vlans))
    port = list(service.ports.values())[port % len(service.ports)]
    rows = [{**row, "ac_name": b"%d" % n} for n, row in enumerate(core.told)]
    body = tags.encode("PADI", 0, {"service_name": name})[tags.HEADER:]
    pado = answer(body, rows, key=bytes(16), tick=6000, station=station, port=port)
    found = service.find(Path(port, mac.station(AC), 0, station, 0), name)
    assert (pado is None) == (found is None)
    if pado is not None:
        assert tags.decode(pado).values["ac_name"] == b"%d" % service.rows.index(found)


@settings(max_examples=300)
@given(st.binary(max_size=80), st.sampled_from(["PADR", "PADT", "PADI", "PADS", ""]), st.integers(0, 3))
def test_any_octets_from_a_station(data, name, session):
    """Whatever a worker might punt."""
    core = Core([{}])
    core.ids = Taken()
    service = Pppoe(core)
    service.interface("eth0", Interface(1, AC, 1500))
    packet = data if not name else bytes((0x11, tags.CODES[name])) + session.to_bytes(2) + len(data).to_bytes(2) + data
    service.receive(Path(next(iter(service.ports.values())), mac.station(AC), 0, mac.station(bytes(5) + b"\1"), 0), packet, 1.0)
    for _, answered in service.endpoint.outgoing():
        assert tags.decode(answered).name in ("PADS", "PADT")


class Taken:
    def take_call(self, network, service):
        return 7

    def give_call(self, network, session_id, service):
        pass
