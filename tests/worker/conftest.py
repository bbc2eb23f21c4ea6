"""The loops of a worker, each driven by its ``once()`` on a real server; and clocks that go only when told to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType

import pytest

from harness.servers import Server
from tests.store.driver import Driver
from tests.worker.clock import HeldClock
from tests.worker.hand import Hand


@pytest.fixture(autouse=True)
def only_own_log() -> Iterator[None]:
    """Keeps out of the log what the garbage collector finds of workflows that earlier tests have left on purpose."""

    def is_own(record: logging.LogRecord) -> bool:
        return "Task was destroyed but it is pending" not in record.getMessage()

    logger = logging.getLogger("durasleep.runtime")
    logger.addFilter(is_own)
    yield
    logger.removeFilter(is_own)


@pytest.fixture(autouse=True)
def one_partition(in_one_partition: None) -> None:
    """A driver drives one."""


@pytest.fixture
async def driver(real_server: Server, namespace: str) -> AsyncIterator[Driver]:
    """The other workers, the clients and the people."""
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        yield driver


@pytest.fixture
def hold_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], HeldClock]:
    """Gives a module of ours a clock of its own, in the place of ``time``."""

    def hold(module: ModuleType) -> HeldClock:
        clock = HeldClock()
        monkeypatch.setattr(module, "time", clock)
        return clock

    return hold


@pytest.fixture
async def hand(driver: Driver) -> AsyncIterator[Hand]:
    """With two slots."""
    hand = Hand(driver)
    yield hand
    await hand.end()
