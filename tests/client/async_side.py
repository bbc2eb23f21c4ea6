"""The base of the async client's tests; ``sync_side`` is the same without asyncio, also written by hand."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from durasleep import Durasleep as Client
from durasleep import Handle, Settings
from durasleep.client.client import attach, store_of
from durasleep.settings import DEFAULTS
from durasleep.transport.connection import Link
from harness.servers import Server
from tests.service.workers import eventually, until


class NewClient(Protocol):
    """The type of the fixture ``new_client``."""

    def __call__(self, *, settings: Settings = DEFAULTS, group: str = "workers", by: str | None = None) -> Client: ...


@pytest.fixture
async def new_client(real_server: Server, namespace: str) -> AsyncIterator[NewClient]:
    """Makes clients of ``real_server``."""
    made: list[Client] = []

    def make(*, settings: Settings = DEFAULTS, group: str = "workers", by: str | None = None) -> Client:
        made.append(Client(real_server.url, namespace=namespace, settings=settings, group=group, by=by))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture
def client(new_client: NewClient) -> Client:
    return new_client()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands this thread has sent in each exchange so far; the worker has a thread of its own."""
    counted: list[int] = []
    exchange = Link.exchange

    async def counting(self: Link, commands: Any, *, block_s: float = 0.0) -> Any:
        if threading.current_thread() is threading.main_thread():
            counted.append(len(commands))
        return await exchange(self, commands, block_s=block_s)

    monkeypatch.setattr(Link, "exchange", counting)
    return counted


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
