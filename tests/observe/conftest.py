"""Fixtures of the tests of metrics and health: as those of the service, on one server of any kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from durasleep import Durasleep, Settings
from durasleep.devserver import DevServer
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import AnyClient
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp, effects
from tests.service.functions import make_app
from tests.service.workers import Workers

__all__ = ["effects"]


@pytest.fixture
def workers(one_server: Server, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    """Starts worker processes."""
    workers = Workers(one_server.url, namespace, tmp_path)
    yield workers
    workers.clean_up()


@pytest.fixture
async def new_app(one_server: Server, namespace: str) -> AsyncIterator[NewApp]:
    """Makes applications with the functions of the service tests."""
    made: list[Durasleep] = []

    def make(
        source: str | AnyClient | None = None, *, settings: Settings = DEFAULTS, group: str = "workers"
    ) -> Durasleep:
        app = make_app(source or one_server.url, namespace, settings=settings, group=group)
        made.append(app)
        return app

    yield make
    for app in made:
        await app.aclose()


@pytest.fixture
def app(new_app: NewApp) -> Durasleep:
    """One of them."""
    return new_app()


@pytest.fixture
def own_server(make_server: MakeServer, one_server: Server) -> DevServer:
    """A server that a test may stop."""
    return make_server(one_server.kind)
