"""Fixtures of the peer tests: one guest for a pytest worker, clients and concentrators that end with their test."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from peers.client import Client
from peers.concentrator import Concentrator
from peers.lab import Lab


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
def serve(lab: Lab) -> Iterator[Callable[..., Concentrator]]:
    """A concentrator by `serve(...)`: concentrator.py says with what; after the test it is stopped, if it was not, and leaves nothing."""
    running: list[Concentrator] = []

    def serve(*args, **kw) -> Concentrator:
        running.append(Concentrator(lab, *args, **kw))
        return running[-1]
    yield serve
    for concentrator in running:
        concentrator.stop()
