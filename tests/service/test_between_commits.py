"""A worker that runs executions, between one commit and the next: what ends, fails or arrives at an awkward moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Context, Durasleep, RemoteError, Retry
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import streams
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace
from durasleep.settings import DEFAULTS
from durasleep.worker.loops.task_reader import TaskReader
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, loop_passage, note
from tests.service.workers import Effects, Workers, beats_of, eventually, serving

PARTS = 30


class Odd(BaseException):
    """What is no Exception."""


def entries_of(client: Any, keys: Keyspace, id: str) -> int:
    """How many entries the journal of an execution has."""
    return sum(name[:1].isdigit() for name in client.hkeys(keys.promise(id)))


@pytest.mark.usefixtures("in_one_partition")
async def test_a_step_that_ends_between_two_parts_of_a_commit_is_not_lost(new_app: NewApp, real_server: Server) -> None:
    app = new_app(settings=replace(DEFAULTS, commit_ops_max=1))
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]

    async def until_some_are_there() -> str:
        while entries_of(client, keys, "wide") < PARTS // 2:  # noqa: ASYNC110 - what it waits for is in Redis
            await asyncio.sleep(0)
        return "seen"

    async def nothing() -> None: ...

    @app.workflow
    async def wide(ctx: Context) -> str:
        step = asyncio.ensure_future(ctx.run(until_some_are_there))
        await ctx.run(nothing)
        promises = [ctx.promise() for _ in range(PARTS)]
        assert len(promises) == PARTS
        return await step

    async with serving(app):
        assert await (await app.rpc("wide", wide)).result(timeout=20) == "seen"


async def test_two_that_are_started_together_for_the_group_and_for_this_worker_are_both_taken_at_once(
    new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    """One script makes both entries, and both streams give theirs the same name."""
    caplog.set_level(logging.INFO, "durasleep")
    app = new_app()

    @app.workflow
    async def both(ctx: Context) -> list[int]:
        own = ctx.rpc(double, 1, target="poll://uni@workers/w1")
        return list(await asyncio.gather(own, ctx.rpc(double, 2)))

    async with serving(app, "w1"):
        handles = await app.rpc_many(both, [(f"both-{n}",) for n in range(5)])
        assert await app.gather(handles) == [[2, 4]] * 5
    assert "never arrived" not in caplog.text


async def test_what_a_blocked_loop_has_not_heard_of_yet_is_not_called_lost(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    """Its beats go on meanwhile, and name what it held when it was blocked; what it was given since lies unread."""
    started = await workers.start("one", "two", app="quick_app")
    store = await store_of(app)
    names: list[str] = []
    for round in range(3):
        gate = f"gate-{round}"
        blocked = await app.rpc(gate, loop_passage, effects.path, gate)
        await effects.standing(gate)
        calls = [f"{round}-{number}" for number in range(60)]
        await app.rpc_many(note, [(name, effects.path, f"<{name}>") for name in calls])
        for consumer in await store.call(streams.read_consumers(store.keyspaces[0], "workers")):
            await beats_of(app, consumer, 4)
        effects.open(gate)
        assert await blocked == f"through {gate}"
        await app.gather([app.get(name) for name in calls])
        names += calls
    assert sorted(line for line in effects.lines() if line[0] == "<") == sorted(f"<{name}>" for name in names)
    assert "never arrived" not in "".join(worker.log() for worker in started)


async def in_line(app: Durasleep, ran: list[str], *, many: int, own: int) -> list[str]:
    """Calls for the group, and behind them some for one worker: the names of these."""

    @app.task
    async def noting(name: str) -> None:
        await asyncio.sleep(0.001)
        ran.append(name)

    await app.rpc_many(noting, [(f"any-{number}", f"any-{number}") for number in range(many)])
    names = [f"own-{number}" for number in range(own)]
    await app.rpc_many(noting, [(name, name) for name in names], target="poll://uni@workers/w1")
    return names


@pytest.mark.parametrize("concurrency", [1, 2, 3, 10])
async def test_what_is_for_one_worker_does_not_wait_behind_what_is_for_all(app: Durasleep, concurrency: int) -> None:
    """And nothing is taken that there is no room for: all of it is dispatched once."""
    ran: list[str] = []
    own = await in_line(app, ran, many=120, own=10)
    async with serving(app, "w1", concurrency=concurrency) as worker:
        await eventually(lambda: len(ran) == 130 and not worker.running, "all to be done")
    assert max(ran.index(name) for name in own) < 60
    store = await store_of(app)
    for name in ran:
        assert (await store.load(PromiseId(name))).record.epoch == 1, name  # type: ignore[union-attr]


@pytest.mark.parametrize("free", [1, 2, 5, 100])
@pytest.mark.usefixtures("in_one_partition")
async def test_a_reader_takes_as_many_as_there_is_room_for_and_no_more(app: Durasleep, free: int) -> None:
    store = await store_of(app)
    keys = store.keyspaces[-1]
    link = store.link(keys)
    reader = TaskReader(link, keys, group="workers", consumer="w1/00000000", settings=DEFAULTS)
    await in_line(app, [], many=3 * free, own=3 * free)
    taken: list[Lease] = []
    try:
        await reader.join()
        while len(taken) < 6 * free:
            leases = await reader.once(free)
            assert 0 < len(leases) <= free
            taken += leases
        await in_line_again(app, 3 * free)
        sizes = [len(await reader.once(free)) for _ in range(3)]
        assert max(sizes) == free, "all of it goes to the only stream that has something"
    finally:
        await reader.close()
    assert len({lease.entry_key for lease in taken}) == 6 * free


async def in_line_again(app: Durasleep, many: int) -> None:
    await app.rpc_many("noting", [(f"more-{number}", f"more-{number}") for number in range(many)])


@pytest.mark.parametrize(
    "error",
    [Odd("odd"), GeneratorExit("odd"), asyncio.CancelledError("odd"), BaseExceptionGroup("odd", [Odd("odd")])],
    ids=repr,
)
async def test_whatever_a_step_or_a_task_raises_is_its_result(new_app: NewApp, error: BaseException) -> None:
    app = new_app()

    async def failing() -> None:
        raise error

    @app.task
    async def failing_task() -> None:
        raise error

    @app.workflow
    async def trying(ctx: Context) -> str:
        try:
            await ctx.run(failing)
        except RuntimeError as found:
            return str(found)
        return "nothing was raised"

    async with serving(app) as worker:
        step = await app.rpc("step", trying)
        said = await step.result(timeout=20)
        assert said.startswith(f"{type(error).__name__} in step ")
        assert said.endswith(f"failing: {error}")
        with pytest.raises((RuntimeError, RemoteError), match="odd"):
            await (await app.rpc("task", failing_task)).result(timeout=20)
        await eventually(lambda: not worker.running, "both to be let go of")


async def test_what_is_given_back_is_closed_outside_any_task(new_app: NewApp) -> None:
    """The private loop has tasks of its own, and one thread has one current task from Python 3.14 on."""
    app = new_app()
    outer = asyncio.get_running_loop()
    may_end, has_begun = asyncio.Event(), asyncio.Event()
    seen: list[object] = []

    async def first() -> None:
        has_begun.set()
        await may_end.wait()

    async def never() -> None:
        raise AssertionError("a worker that leaves begins no steps")

    @app.workflow
    async def two_steps(ctx: Context) -> None:
        try:
            await ctx.run(first)
            await ctx.run(never)
        finally:
            seen.append(asyncio.current_task(outer))

    async with serving(app) as worker:
        await app.rpc("two", two_steps)
        await has_begun.wait()
        worker.stop()
        may_end.set()
    # Put away once where it is kept in hand, more often where every await suspends (DURASLEEP_ALWAYS_SUSPEND).
    assert set(seen) == {None}
    assert (await app.describe("two")).status == "queued"


@pytest.mark.usefixtures("in_one_partition")
async def test_an_attempt_begins_once_the_failed_one_before_it_is_kept(new_app: NewApp, real_server: Server) -> None:
    """However many hints come meanwhile: each of them is a commit of its own."""
    app = new_app()
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    kept: list[int] = []
    notify: list[Callable[[], None]] = []

    @app.task(retry=Retry(attempts=4, delay=0.001, backoff=1))
    async def flaky() -> int:
        kept.append(entries_of(client, keys, "flaky"))
        notify[0]()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if len(kept) < 4:
            raise ConnectionError("not yet")
        return len(kept)

    async with serving(app) as worker:
        notify.append(worker._executor.notify_all)  # pyright: ignore[reportPrivateUsage]
        assert await (await app.rpc("flaky", flaky)).result(timeout=20) == 4
    assert kept == [0, 1, 2, 3]


async def test_a_stopped_step_that_fails_as_it_ends_is_one_line(
    new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app()
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            raise ValueError("the cleanup failed")

    @app.workflow
    async def impatient(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.05):
                await ctx.run(slow)
        except TimeoutError:
            return "too slow"
        return "in time"

    with caplog.at_level(logging.WARNING, logger="durasleep"):
        async with serving(app):
            assert await (await app.rpc("impatient", impatient)).result(timeout=20) == "too slow"
            await ended.wait()
    assert "was stopped, and failed as it ended: ValueError: the cleanup failed" in caplog.text
