"""The dashboard of a namespace, in the test's own process and asked without a network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import httpx
import pytest
import uvicorn

from durasleep import Durasleep, dashboard
from harness.servers import Server

BASE = "http://localhost:8090"
TOKEN = "a token of some length"

Browse = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def app(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    """An application without functions."""
    async with Durasleep(one_server.url, namespace=namespace, by="ada") as made:
        yield made


@pytest.fixture
async def browse(app: Durasleep) -> AsyncIterator[Browse]:
    """Makes browsers of dashboards: ``browse(peer=..., base=..., **options of create_app)``."""
    async with AsyncExitStack() as stack:

        def make(site: Any = None, *, peer: str = "127.0.0.1", base: str = BASE, **options: Any) -> httpx.AsyncClient:
            site = site or dashboard.create_app(app, **options)
            transport = httpx.ASGITransport(app=site, client=(peer, 50_000))
            client = httpx.AsyncClient(transport=transport, base_url=base, headers={"accept": "text/html,*/*"})
            stack.push_async_callback(client.aclose)
            return client

        yield make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser of this session."""
    try:
        from harness import chromium
    except ModuleNotFoundError as error:
        _skip(f"{error.name} is not installed: pip install -e '.[browser]'")
    executable = chromium.find()
    if executable is None:
        _skip("there is no Chromium here; on Debian and Ubuntu: apt-get install chromium")
    browser = chromium.Chromium(executable)
    yield browser
    browser.close()


def _skip(why: str) -> NoReturn:
    """Skip tests in a browser, unless they are wanted in any case."""
    if os.environ.get("DURASLEEP_TEST_BROWSER"):
        pytest.fail(why)
    pytest.skip(why)


@asynccontextmanager
async def served(app: Durasleep, **options: Any) -> AsyncGenerator[str]:
    """A dashboard with a port of its own; gives its origin."""
    site = dashboard.create_app(app, **options)
    async with serving_asgi(site) as port:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            site.state.site.live.close()


@asynccontextmanager
async def serving_asgi(site: Any) -> AsyncGenerator[int]:
    """A server of an ASGI application; gives its port."""
    from durasleep.dashboard import serving

    socket = serving.listen("127.0.0.1", 0)
    server = uvicorn.Server(serving.config(site))
    running = asyncio.create_task(server.serve(sockets=[socket]))
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        await running
