"""Fixtures of the service and law tests; their conftest files take them from here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from durasleep import Durasleep, Settings
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import AnyClient
from tests.servers import Server
from tests.service.functions import make_app
from tests.service.workers import Effects, Workers


class NewApp(Protocol):
    """What the fixture ``new_app`` is."""

    def __call__(
        self, source: str | AnyClient | None = None, *, settings: Settings = DEFAULTS, group: str = "workers"
    ) -> Durasleep: ...


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    """The file steps write their effects to."""
    return Effects(tmp_path / "effects")


@pytest.fixture
def workers(real_server: Server, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    """Starts worker processes on ``real_server``."""
    workers = Workers(real_server.url, namespace, tmp_path)
    yield workers
    workers.clean_up()


@pytest.fixture
async def new_app(real_server: Server, namespace: str) -> AsyncIterator[NewApp]:
    """Makes applications with the functions of these tests, on ``real_server`` unless told otherwise."""
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


__all__ = ["NewApp", "app", "effects", "new_app", "workers"]
