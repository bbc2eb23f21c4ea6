"""A worker beside other code in one event loop: an error at its start is raised at once, and so is its end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis

from durasleep import Durasleep, ThreadsLost
from durasleep.errors import DefinitionError, InvalidDuration, SchemaMismatch, StoreUnavailable, UnsupportedServer
from durasleep.protocol.keys import meta_key
from durasleep.settings import DEFAULTS
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, passage
from tests.service.workers import Effects, until


async def test_it_serves_while_the_block_runs_and_drains_at_its_end(app: Durasleep, effects: Effects) -> None:
    async with app.serving(name="beside", concurrency=3) as worker:
        assert worker.name == "beside"
        assert await (await app.rpc("a", double, 1)).result(timeout=20) == 2
        handle = await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        asyncio.get_running_loop().call_later(0.1, effects.open, "gate")
    assert effects.count("gate") == 1
    assert (await app.describe("passage")).status == "queued", "its last step is for another worker"
    async with app.serving():
        assert await handle.result(timeout=20) == "through gate"


async def test_what_keeps_it_from_serving_is_raised_before_the_block(
    new_app: NewApp, real_server: Server, make_server: MakeServer, namespace: str
) -> None:
    evicting = make_server(extra_args=("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"))
    with pytest.raises(UnsupportedServer, match="may drop sleeping workflows"):
        async with new_app(evicting.url).serving():
            pytest.fail("it does not serve")
    async with new_app(evicting.url).serving(accept_eviction=True):
        pass

    app = new_app()

    @app.lifespan
    async def closed() -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    with pytest.raises(ConnectionError, match="no database"):
        async with app.serving():
            pytest.fail("it does not serve")

    client: Any = real_server.sync_client()
    client.hset(meta_key(namespace), "schema", "99")
    with pytest.raises(SchemaMismatch, match="schema 99"):
        async with new_app().serving():
            pytest.fail("it does not serve")


async def test_a_redis_that_does_not_serve_it_is_waited_for_a_bounded_time_at_the_start(new_app: NewApp) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        _, port = silent.getsockname()
        for url, says in (
            (f"redis://127.0.0.1:{port}", "does not answer"),
            ("redis://127.0.0.1:1", "cannot be reached: Connection refused"),
        ):
            app = new_app(url)
            app.lifespan(slow_start)
            with pytest.raises(StoreUnavailable, match=says):
                async with app.serving(start_timeout=0.2):
                    pytest.fail("it does not serve")
    with pytest.raises(InvalidDuration, match="start_timeout"):
        async with new_app().serving(start_timeout=-1):
            pytest.fail("it does not serve")


async def slow_start() -> AsyncIterator[None]:
    """It takes longer than the worker may wait for Redis, which does not count."""
    await asyncio.sleep(0.3)
    yield


async def test_without_a_limit_a_redis_is_waited_for_at_the_start(new_app: NewApp, make_server: MakeServer) -> None:
    server = make_server(extra_args=("--maxclients", "100"))
    app = new_app(server.url)
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLIENT", "PAUSE", "1000", "ALL")
    async with app.serving(start_timeout=None):
        assert await (await app.rpc("a", double, 1)).result(timeout=20) == 2
    app = new_app(server.url)
    app.lifespan(slow_start)
    async with app.serving(start_timeout=20):
        assert await (await app.rpc("b", double, 1)).result(timeout=20) == 2


@pytest.mark.parametrize("swallowed", [asyncio.CancelledError, KeyError])
async def test_if_it_ends_by_an_error_the_block_is_cancelled_and_the_error_raised(
    new_app: NewApp, swallowed: type[BaseException]
) -> None:
    app = new_app(settings=replace(DEFAULTS, threads_lost_s=0.1))
    may_end = threading.Event()

    @app.task(timeout=0.1)
    def stuck() -> None:
        may_end.wait()

    async def serve() -> None:
        async with app.serving(concurrency=1):
            await app.rpc("stuck", stuck)
            with suppress(swallowed):
                await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task
    try:
        with pytest.raises(ThreadsLost):
            await serve()
        assert not task.cancelling()
    finally:
        may_end.set()


async def test_an_error_or_a_cancel_of_the_block_is_its_own(app: Durasleep, effects: Effects) -> None:
    with pytest.raises(ValueError, match="of the block"):
        async with app.serving():
            raise ValueError("of the block")

    async def block() -> None:
        async with app.serving():
            await app.rpc("passage", passage, effects.path)
            await asyncio.Event().wait()

    running = asyncio.create_task(block())
    await effects.standing("gate")
    running.cancel()
    await asyncio.sleep(0)
    assert not running.done(), "it drains"
    running.cancel()
    await asyncio.wait((running,), timeout=20)
    assert running.cancelled()
    assert (await until(app, "passage", "queued")).status == "queued"


async def test_it_lives_in_the_lifespan_of_a_web_application(app: Durasleep) -> None:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None]:
        async with app.serving():
            yield

    async with lifespan(None):
        assert await (await app.rpc("a", double, 2)).result(timeout=20) == 4


# -- the application's own lifespan


class Opened:
    """An async context manager that is no generator."""

    async def __aenter__(self) -> str:
        return "opened"

    async def __aexit__(self, *_: object) -> None:
        return


async def as_iterator() -> AsyncIterator[str]:
    yield "opened"


async def as_generator() -> AsyncGenerator[str]:
    yield "opened"


@asynccontextmanager
async def as_manager() -> AsyncGenerator[str]:
    yield "opened"


async def of_something(what: str) -> AsyncIterator[str]:
    yield what


@pytest.mark.parametrize(
    "lifespan",
    [as_iterator, as_generator, as_manager, Opened, partial(of_something, "opened"), lambda: Opened()],  # noqa: PLW0108 - a plain function
)
async def test_whatever_opens_and_closes_is_a_lifespan(app: Durasleep, lifespan: Callable[[], Any]) -> None:
    @app.task
    def resources() -> Any:
        return app.resources

    assert app.lifespan(lifespan) is lifespan
    async with app.serving():
        assert await (await app.rpc("a", resources)).result(timeout=20) == "opened"


async def no_generator() -> None: ...


def sync_generator() -> Any:
    yield


@pytest.mark.parametrize(
    "wrong",
    [no_generator, sync_generator, contextmanager(sync_generator), of_something, "text"],
    ids=["none", "sync", "a sync manager", "of something", "text"],
)
def test_what_cannot_be_a_lifespan_is_refused(app: Durasleep, wrong: Any) -> None:
    with pytest.raises(DefinitionError, match="lifespan"):
        app.lifespan(wrong)


async def test_what_turns_out_to_be_no_lifespan_keeps_the_worker_from_serving(app: Durasleep) -> None:
    app.lifespan(lambda: "text")  # type: ignore[arg-type, return-value]
    with pytest.raises(DefinitionError, match="made 'text'"):
        async with app.serving():
            pytest.fail("it does not serve")
