"""Fixtures of the gateway's tests: a namespace, and gateways that serve it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from durasleep import Durasleep
from harness.servers import Server
from tests.gateway.gateways import Gateways, Poll, Served, serving


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace of its own, in which promises of other languages may be left."""
    request.node.add_marker(pytest.mark.leaves_keys("promises are kept for a week"))
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def client(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    """An application without functions."""
    async with Durasleep(one_server.url, namespace=namespace) as made:
        yield made


@pytest.fixture
async def gateway(client: Durasleep) -> AsyncIterator[Served]:
    """A gateway in this process, for anybody."""
    async with serving(client) as served:
        yield served


@pytest.fixture(autouse=True)
async def polls_are_closed() -> AsyncIterator[None]:
    """Close the polls that a test has opened."""
    yield
    await Poll.close_all()


@pytest.fixture
def gateways(one_server: Server, namespace: str, tmp_path: Path) -> Iterator[Gateways]:
    """Starts gateways as processes: ``await gateways.start(*options of the command)``."""
    made = Gateways(one_server.url, namespace, tmp_path)
    yield made
    made.clean_up()
