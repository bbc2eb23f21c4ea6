"""Fixtures of the command line's tests."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from durasleep import Durasleep, testing
from durasleep.app import pointed_at
from durasleep.cli.app import main
from durasleep.testing import Env
from harness.servers import MakeServer, Server
from tests.cli.terminal import Done, Terminal
from tests.service.functions import QUICK

Quick = Callable[..., Done]
"""What the fixture ``quick`` is: ``quick(terminal, *args)``."""
Kit = Callable[[Durasleep], AbstractAsyncContextManager[Env]]
"""What the fixture ``kit`` is: ``kit(app)``."""
Connect = Callable[[Durasleep], Durasleep]
"""What the fixture ``connect`` is: ``connect(app)``."""
NewProject = Callable[..., Terminal]
"""What the fixture ``new_project`` is: ``new_project(shop=TEXT)``."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Quick]:
    """Runs a short command in this process, because most of a command's time is the start of Python."""
    logger = logging.getLogger("durasleep")
    kept = (logger.handlers[:], logger.filters[:], logger.level, logger.propagate)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    directories: set[Path] = set()
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(terminal: Terminal, *args: str) -> Done:
        directories.add(terminal.directory)
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", terminal.environment.copy())
            patch.chdir(terminal.directory)
            patch.setattr(sys, "argv", ["durasleep", *args])
            with pytest.raises(SystemExit) as ended:
                main()
        assert isinstance(ended.value.code, int)
        out, err = capsys.readouterr()
        return Done(ended.value.code, out, err)

    yield run
    logger.handlers[:], logger.filters[:], logger.level, logger.propagate = kept
    for directory in directories:
        forget_modules_in(directory)


@pytest.fixture
def new_project(tmp_path: Path, make_server: MakeServer) -> NewProject:
    """Makes a directory with modules of these names, and a Redis that its environment names."""

    def make(*, persist: bool = True, **modules: str) -> Terminal:
        directory = tmp_path / "project"
        directory.mkdir()
        for name, text in modules.items():
            (directory / f"{name}.py").write_text(text)
        return Terminal(directory, DURASLEEP_REDIS_URL=make_server(persist=persist).url)

    return make


def forget_modules_in(directory: Path) -> None:
    """Makes the next test import the modules of its own directory again, and no others."""
    for name, module in tuple(sys.modules.items()):
        if directory in Path(getattr(module, "__file__", None) or "/").parents:
            del sys.modules[name]


@pytest.fixture
def kit(real_server: Server, partition_count: int) -> Kit:
    """The test kit on a real server; ``fsck`` finds nothing at its end."""

    @asynccontextmanager
    async def make(app: Durasleep) -> AsyncGenerator[Env]:
        async with testing.env(app, redis=real_server.url, partitions=partition_count) as env:
            yield env
            assert (await app.fsck()).findings == []

    return make


@pytest.fixture
async def connect(real_server: Server, namespace: str) -> AsyncIterator[Connect]:
    """Points a recipe at a real server, whose clock nobody moves; its workers die and are replaced as in production."""
    async with AsyncExitStack() as stack:

        def connected(app: Durasleep) -> Durasleep:
            stack.enter_context(pointed_at(app, real_server.url, namespace=namespace, settings=QUICK))
            stack.push_async_callback(app.aclose)
            return app

        yield connected
