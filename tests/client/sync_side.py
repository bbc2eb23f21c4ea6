"""The base of the sync client's tests: ``async_side`` without asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from durasleep import Settings
from durasleep.client.sync import attach, store_of
from durasleep.query.describe import Description
from durasleep.settings import DEFAULTS
from durasleep.sync import Client, Handle
from durasleep.transport.connection import SyncLink
from harness.servers import Server
from tests.service.workers import LOOK_S, PATIENCE_S


class NewClient(Protocol):
    """The type of the fixture ``new_client``."""

    def __call__(self, *, settings: Settings = DEFAULTS, group: str = "workers", by: str | None = None) -> Client: ...


@pytest.fixture
def new_client(real_server: Server, namespace: str) -> Iterator[NewClient]:
    """Makes clients of ``real_server``."""
    made: list[Client] = []

    def make(*, settings: Settings = DEFAULTS, group: str = "workers", by: str | None = None) -> Client:
        made.append(Client(real_server.url, namespace=namespace, settings=settings, group=group, by=by))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(new_client: NewClient) -> Client:
    return new_client()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each exchange has sent so far."""
    counted: list[int] = []
    exchange = SyncLink.exchange

    def counting(self: SyncLink, commands: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            counted.append(len(commands))
        return exchange(self, commands)

    monkeypatch.setattr(SyncLink, "exchange", counting)
    return counted


def eventually(look: Callable[[], Any], what: str) -> Any:
    """The answer of ``look`` when it is true; fails with ``what`` it waited for."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < give_up_at, f"waited in vain for {what}; last seen: {found!r}"
        time.sleep(LOOK_S)
    return found


def until(client: Client, id: str, status: str) -> Description:
    """The description of an execution, when it has this status."""
    return eventually(
        lambda: found if (found := client.describe(id)).status == status else None, f"{id} to be {status}"
    )


__all__ = [
    "Client",
    "Handle",
    "NewClient",
    "attach",
    "client",
    "eventually",
    "exchanges",
    "new_client",
    "store_of",
    "until",
]
