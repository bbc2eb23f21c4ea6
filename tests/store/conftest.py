"""A driver on each server, in a namespace of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from harness.servers import Server
from tests.store.driver import Driver


@pytest.fixture(autouse=True)
def one_partition(in_one_partition: None) -> None:
    """A driver drives one."""


@pytest.fixture
async def driver(server: Server, namespace: str) -> AsyncIterator[Driver]:
    driver = Driver(server.client(), namespace)
    async with driver.store.opened():
        yield driver
