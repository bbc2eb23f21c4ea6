"""Fixtures of the service and law tests; their conftest files take them from here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from redis.asyncio import Redis

from durasleep import Durasleep, Settings
from durasleep.devserver import DevServer
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import AnyClient
from harness.servers import MakeServer, Server
from tests.service.functions import make_app
from tests.service.workers import Effects, Workers


class NewApp(Protocol):
    """The type of the fixture ``new_app``."""

    def __call__(
        self, source: str | AnyClient | None = None, *, settings: Settings = DEFAULTS, group: str = "workers"
    ) -> Durasleep: ...


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    """The file to which steps write their effects."""
    return Effects(tmp_path / "effects")


@pytest.fixture
def workers(real_server: Server, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    """Starts worker processes on ``real_server``."""
    workers = Workers(real_server.url, namespace, tmp_path)
    yield workers
    workers.clean_up()


@pytest.fixture
async def new_app(real_server: Server, namespace: str) -> AsyncIterator[NewApp]:
    """Makes applications with the functions of these tests, by default on ``real_server``."""
    made: list[Durasleep] = []

    def make(
        source: str | AnyClient | None = None, *, settings: Settings = DEFAULTS, group: str = "workers"
    ) -> Durasleep:
        app = make_app(source or real_server.url, namespace, settings=settings, group=group)
        made.append(app)
        return app

    yield make
    for app in made:
        await app.aclose()


@pytest.fixture
def app(new_app: NewApp) -> Durasleep:
    """An application with the functions of these tests, on ``real_server``."""
    return new_app()


@pytest.fixture
def own_server(make_server: MakeServer, real_server: Server) -> DevServer:
    """A server for one test, which may make it full, slow or small."""
    return make_server()


@pytest.fixture
async def admin(own_server: DevServer) -> AsyncIterator[Any]:
    """An administrator of ``own_server``, with a user name and rights of its own."""
    client: Any = Redis.from_url(own_server.url)
    await client.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all")
    await client.aclose()
    client = Redis.from_url(own_server.url, username="admin", password="")
    yield client
    await client.aclose()


__all__ = ["NewApp", "admin", "app", "effects", "new_app", "own_server", "workers"]
