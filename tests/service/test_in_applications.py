"""An application inside another program: its methods without asyncio, what runs around its tasks, and its tests."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from durasleep import Context, Durasleep, Retry, current, testing
from durasleep.errors import DefinitionError, InvalidId, NotFound, Stalled, UsageError
from harness.servers import Server

lines: list[str] = []
app = Durasleep("redis://localhost:1/0")
kept_by_somebody = app.sync


@app.middleware
def outer() -> Iterator[None]:
    lines.append(f"begin {current().id}")
    try:
        yield
    except ValueError:
        lines.append("failed")
        raise
    finally:
        lines.append("end")


@app.middleware
async def inner() -> AsyncIterator[None]:
    lines.append("async")
    yield


@app.task
def in_thread() -> str:
    lines.append("in a thread" if threading.current_thread() is not threading.main_thread() else "in the loop")
    return "done"


@app.task(retry=Retry(attempts=2, delay=0))
async def in_loop(fails: bool = False) -> str:
    lines.append("in the loop")
    if fails and current().attempt == 1:
        raise ValueError
    return "done"


@app.workflow
async def nap(ctx: Context, days: float = 3) -> str:
    await ctx.sleep(timedelta(days=days))
    return await ctx.run(in_thread)


@pytest.fixture(autouse=True)
def forget() -> None:
    lines.clear()


async def test_middleware_surrounds_tasks_and_steps_where_they_run() -> None:
    async with testing.env(app) as env:
        await env.run(in_thread, id="one")
        assert lines == ["begin one", "in a thread", "end"]
        lines.clear()
        await env.run(in_loop, id="two")
        assert lines == ["begin two", "async", "in the loop", "end"]
        lines.clear()
        await env.run(nap, id="three")
        assert lines == ["begin three", "in a thread", "end"]


async def test_middleware_sees_the_error_of_each_attempt() -> None:
    async with testing.env(app) as env:
        await env.run(in_loop, True, id="one")
        attempt = ["begin one", "async", "in the loop"]
        assert lines == [*attempt, "failed", "end", *attempt, "end"]


def test_middleware_has_to_yield() -> None:
    with pytest.raises(DefinitionError, match="yields once"):
        app.middleware(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(DefinitionError, match="without arguments"):

        @app.middleware  # type: ignore[arg-type]
        def wants(request: object) -> Iterator[None]:
            yield


def test_without_asyncio_it_is_the_same_application() -> None:
    with testing.sync_env(app) as env:
        handle = app.sync.rpc("nap-1", nap, 1)
        assert handle.disposition == "created"
        assert kept_by_somebody.get("nap-1").done() is False
        env.skip(days=1)
        assert kept_by_somebody.get("nap-1", str).result() == "done"
    assert kept_by_somebody is app.sync
    assert kept_by_somebody._store().namespace == "durasleep"  # pyright: ignore[reportPrivateUsage]


def test_a_wait_without_asyncio_is_stalled_where_the_clock_stands_still() -> None:
    with testing.sync_env(app):
        handle = app.sync.rpc("nap-1", nap)
        with pytest.raises(Stalled, match=r"nap-1 is suspended.*move it"):
            handle.result()


async def test_a_wait_that_blocks_the_loop_of_the_workers_is_stalled_at_once() -> None:
    async with testing.env(app):
        with pytest.raises(Stalled, match="event loop of its workers"):
            app.sync.rpc("nap-1", nap).result()


async def test_an_application_that_serves_itself_starts_no_second_worker_in_a_test() -> None:
    async with testing.env(app) as env:
        async with app.serving(concurrency=3) as worker:
            assert await env.run(nap) == "done"
            assert not worker.ready.is_set()
        async with app.serving(group="others") as worker:  # the test has no worker of this group
            assert worker.ready.is_set()


def test_a_factory_that_configures_the_application_does_not_change_a_test() -> None:
    one = Durasleep("redis://localhost:1/0")
    one.task(in_thread)
    with testing.sync_env(one) as env:
        one.connect("redis://localhost:2/0", namespace="shop")
        assert env.run("in_thread") == "done"
        with pytest.raises(UsageError):
            one.connect("localhost")
    assert (one.address.url, one.namespace) == ("redis://localhost:2/0", "shop")
    with pytest.raises(InvalidId):
        one.connect("redis://localhost:2/0", namespace="a b")


async def test_both_sides_use_what_connect_names(namespace: str, real_server: Server) -> None:
    one = Durasleep("redis://localhost:1/0")
    two = one.sync
    one.connect(real_server.url, namespace=namespace)
    async with one:
        await one.promises.create("p")
        two.promises.resolve("p", 1)
        assert await one.get("p") == 1
        with pytest.raises(NotFound):
            two.view("q")
    two.close()
