"""Fixtures of the end-to-end tests: clients and concentrators that end with their test.

Peer tests share one guest for each pytest worker (`lab`, `dial`, `serve`); the others have namespaces of
their own (`place`, `lac`, `here`).
"""
from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ours.host import Hosts
from ours.lac import Lac
from ours.place import Place
from ours.pns import Pns
from peers.client import Client, Pppoe, Pptp
from peers.concentrator import Concentrator
from peers.lab import LAN6, Lab

# Files whose tests stay together: they pin threads to cores and look at what these did, or share what is made once.
TOGETHER = {"test_lab.py": "cores", "test_generator.py": "cores", "test_profile.py": "cores", "test_annotate.py": "annotate",
            "test_fuzz.py": "fuzz"}


def group(nodeid: str) -> str:
    """What runs in one pytest worker, one after the other: a file of peer tests, so that they begin early and are spread over all
    guests; what is TOGETHER; else a test by itself."""
    file = nodeid.partition("::")[0].rpartition("/")[2]
    return file if file.startswith("test_peer_") else TOGETHER.get(file, nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's own marks for groups are without effect under pytest 9.2, silently; and the largest group must start first."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)
    return Groups(config, log)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def dial(lab: Lab) -> Iterator[Callable[..., Client]]:
    """Clients by `dial(user, password, ...)`: client.py says what else; all are gone after the test."""
    clients: list[Client] = []

    def dial(*args, **kw) -> Client:
        clients.append(Client(lab, *args, **kw))
        return clients[-1]
    yield dial
    for job in [client.close() for client in clients]:
        job.wait().check()


@pytest.fixture
def dial_pptp(lab: Lab) -> Iterator[Callable[..., Pptp]]:
    """The same by PPTP."""
    clients: list[Pptp] = []

    def dial(*args, **kw) -> Pptp:
        clients.append(Pptp(lab, *args, **kw))
        return clients[-1]
    yield dial
    for job in [client.close() for client in clients]:
        job.wait().check()


@pytest.fixture
def dial_pppoe(lab: Lab) -> Iterator[Callable[..., Pppoe]]:
    """And by PPPoE."""
    clients: list[Pppoe] = []

    def dial(*args, **kw) -> Pppoe:
        clients.append(Pppoe(lab, *args, **kw))
        return clients[-1]
    yield dial
    for job in [client.close() for client in clients]:
        job.wait().check()


@pytest.fixture
def serve(lab: Lab) -> Iterator[Callable[..., Concentrator]]:
    """A concentrator by `serve(...)`: concentrator.py says with what; after the test it is stopped, if it was not, and leaves nothing."""
    running: list[Concentrator] = []

    def serve(*args, **kw) -> Concentrator:
        running.append(Concentrator(lab, *args, **kw))
        return running[-1]
    yield serve
    for concentrator in running:
        concentrator.stop()


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


@pytest.fixture
def lan(place: Place) -> Iterator[socket.socket]:
    """A UDP socket in the network behind the concentrator, which has IPv6."""
    place.ip(place.netns, "addr add fd66::1/64 dev lan nodad")
    place.ip(place.lan, f"addr add {LAN6}/64 dev lan nodad\nroute add default via fd66::1")
    with place.udp(place.lan, LAN6, 2000) as sock:
        yield sock


@pytest.fixture
def here(place: Place) -> Iterator[Callable[..., Concentrator]]:
    """Like `serve`, in the test's own namespaces."""
    running: list[Concentrator] = []

    def here(*args, **kw) -> Concentrator:
        running.append(Concentrator(place, *args, **kw))
        return running[-1]
    yield here
    for concentrator in running:
        concentrator.stop()


@pytest.fixture
def lac(place: Place, here: Callable[..., Concentrator]) -> Iterator[Callable[..., Lac]]:
    """Our own LACs by `lac(...)`: ours/lac.py says what; they say goodbye before the concentrator ends."""
    lacs: list[Lac] = []

    def lac(*args, **kw) -> Lac:
        lacs.append(Lac(place, *args, **kw))
        return lacs[-1]
    yield lac
    for one in lacs:
        one.close()


@pytest.fixture
def hosts(place: Place, here: Callable[..., Concentrator]) -> Iterator[Callable[..., Hosts]]:
    """Our own PPPoE hosts by `hosts(...)`: ours/host.py says what."""
    made: list[Hosts] = []

    def hosts(*args, **kw) -> Hosts:
        made.append(Hosts(place, *args, **kw))
        return made[-1]
    yield hosts
    for one in made:
        one.close()


@pytest.fixture
def pns(place: Place, here: Callable[..., Concentrator]) -> Iterator[Callable[..., Pns]]:
    """Our own PNSs by `pns(...)`: ours/pns.py says what."""
    made: list[Pns] = []

    def pns(*args, **kw) -> Pns:
        made.append(Pns(place, *args, **kw))
        return made[-1]
    yield pns
    for one in made:
        one.close()
