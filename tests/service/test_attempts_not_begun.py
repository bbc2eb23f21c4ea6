"""Attempts and steps that a worker does not begin: they were canceled, or the worker was told to leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durasleep import Canceled, Context, Durasleep, Retry, current
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import timers
from durasleep.protocol.keys import LIMIT
from durasleep.sync import Client as SyncClient
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, note, stand_at
from tests.service.workers import Effects, eventually, serving, until

IN_HAND = Retry(attempts=100, delay=0.9, backoff=1, jitter=0)
"""Between two attempts it stays with its worker."""
BEATS = 4


async def failing_at(effects: str, gate: str) -> None:
    """An attempt that fails once its gate is open."""
    await stand_at(effects, gate)
    raise ValueError(gate)


def failing_task(app: Durasleep, retry: Retry) -> Any:
    @app.task(retry=retry)
    async def trying(effects: str) -> None:
        await failing_at(effects, "gate")

    return trying


async def beats(app: Durasleep, client: Any, count: int) -> None:
    """Wait until the worker has sent this many heartbeats, and has got their answers."""
    key, seen = (await store_of(app)).keyspaces[0].workers, set[float]()

    def look() -> bool:
        seen.update(score for _, score in client.zrange(key, 0, -1, withscores=True))
        return len(seen) > count

    await eventually(look, f"{count} beats")


async def read_and_die(app: Durasleep, client: Any) -> None:
    """Another worker takes the execution next, and is never heard of again."""
    queue = (await store_of(app)).keyspaces[-1].queue("workers")
    if not client.exists(queue) or not client.xinfo_groups(queue):
        client.xgroup_create(queue, "workers", "0", mkstream=True)
    assert client.xreadgroup("workers", "dead/00000000", {queue: ">"}, count=1)


# -- canceled


async def test_a_task_canceled_between_two_attempts_makes_no_more(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits in its worker, and is told there."""
    trying = failing_task(app, IN_HAND)
    async with serving(app) as worker:
        handle = await app.rpc("t", trying, effects.path)
        await effects.standing("gate")
        effects.open("gate")
        await eventually(lambda: "attempt 1 of 100 failed" in caplog.text, "an attempt to fail")
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle
        await eventually(lambda: worker.running == 0, "the worker to let go of it")
    assert effects.count("gate") == 1


@pytest.mark.usefixtures("in_one_partition")
async def test_a_task_canceled_while_it_is_queued_again_is_not_run(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    """Its stream entry has the data from before the cancel: the next worker must learn of the cancel."""
    app, unknowing = new_app(), new_app()

    @app.task
    async def noting(path: str) -> None:
        note(path, "has run")

    handle = await app.rpc("t", noting, effects.path)
    async with serving(unknowing, "w1"):
        await until(app, "t", "delayed")
    store = await store_of(app)

    async def is_queued() -> bool:
        await store.call(timers.fire(store.keyspaces[-1], limit=64))
        return (await app.describe("t")).status == "queued"

    await eventually(is_queued, "it to be offered again")
    client: Any = real_server.sync_client()
    [(_, fields)] = client.xrange(store.keyspaces[-1].queue("workers"))
    assert b"x" in fields
    assert await handle.cancel() == "canceling"
    async with serving(app, "w2"):
        with pytest.raises(Canceled):
            await handle
    assert effects.lines() == []


@pytest.mark.usefixtures("in_one_partition")
async def test_what_was_canceled_before_its_worker_died_is_not_run_by_the_next(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    client: Any = real_server.sync_client()
    app = new_app(settings=QUICK)
    handle = await app.rpc("t", note, effects.path, "has run")
    await read_and_die(app, client)
    assert await handle.cancel() == "canceling"
    async with serving(app):
        with pytest.raises(Canceled):
            await handle
    assert effects.lines() == []


@pytest.mark.usefixtures("in_one_partition")
async def test_a_task_is_told_of_its_cancel_once_however_long_it_takes(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    """However often it is asked, and however many heartbeats report new settlements meanwhile."""
    app = new_app(settings=QUICK)
    client: Any = real_server.sync_client()

    @app.task
    async def slow_to_go(path: str) -> str:
        told = 0
        try:
            await stand_at(path, "gate")
        except asyncio.CancelledError:
            for gate in ("cleaning", "cleaned"):
                told += 1
                try:
                    await stand_at(path, gate)
                    break
                except asyncio.CancelledError:
                    note(path, "told again")
        return f"told {told} times"

    async with serving(app) as worker:
        handle = await app.rpc("t", slow_to_go, effects.path)
        await effects.standing("gate")
        await handle.cancel()
        await effects.standing("cleaning")
        for _ in range(3):
            assert await handle.cancel() == "canceling"
            client.xadd((await store_of(app)).keyspaces[-1].inbox(worker.consumer), {"n": "t"})
        await beats(app, client, BEATS)
        effects.open("cleaning")
        assert await handle == "told 1 times"
    assert effects.count("told again") == 0


async def test_a_cancel_that_meets_a_failing_attempt_is_not_kept_until_the_next(
    app: Durasleep, real_server: Server
) -> None:
    """Its worker learns of it only after it has reported that the next attempt is in an hour."""
    said: list[str] = []

    @app.task(retry=Retry(attempts=9, delay=3600))
    async def unlucky() -> None:
        with SyncClient(real_server.url, namespace=app.namespace) as client:
            said.append(client.get("t").cancel())
        raise ConnectionError

    async with serving(app):
        with pytest.raises(Canceled):
            await (await app.rpc("t", unlucky)).result(timeout=20)
    assert said == ["canceling"]


async def test_a_cancel_is_heard_however_often_a_task_has_failed_before(app: Durasleep) -> None:
    """One answer cannot have all its attempts: the last ones are read, too."""
    stands = asyncio.Event()
    attempts: list[int] = []

    @app.task(retry=Retry(attempts=1000, delay=0, backoff=1))
    async def failing_often() -> None:
        attempts.append(current().attempt)
        if len(attempts) > LIMIT["answer_entries_max"] + 9:
            stands.set()
            await asyncio.Event().wait()
        raise ConnectionError

    async with serving(app):
        handle = await app.rpc("t", failing_often)
        await asyncio.wait_for(stands.wait(), 30)
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle.result(timeout=20)
    assert attempts == list(range(1, len(attempts) + 1))


@pytest.mark.usefixtures("in_one_partition")
async def test_what_nobody_knows_and_nobody_has_begun_ends_with_its_cancel(
    new_app: NewApp, real_server: Server
) -> None:
    """It is not offered again and again to workers that lack its function."""
    app = new_app(settings=QUICK)
    handle = await app.rpc("t", "unheard_of")
    await read_and_die(app, real_server.sync_client())
    assert await handle.cancel() == "canceling"
    async with serving(app):
        with pytest.raises(Canceled):
            await handle.result(timeout=20)


@pytest.mark.one_partition("it drives a worker that has not begun, and does not know of more")
@pytest.mark.parametrize("what", ["canceled", "left"])
async def test_what_changed_since_a_task_was_read_is_known_before_it_is_called(
    app: Durasleep, effects: Effects, what: str
) -> None:
    """Its stream entry had all data of it, and nothing about the cancel."""
    worker = app.worker(name="w1")
    reader, executor = worker._servings[0]._reader, worker._executor  # pyright: ignore[reportPrivateUsage]
    handle = await app.rpc("t", note, effects.path, "has run")
    await reader.join()
    [lease] = await reader.once(1)
    assert lease.snapshot
    if what == "canceled":
        assert await handle.cancel() == "canceling"
    else:
        executor.leave()
    await executor.submit([lease])
    executor.notify("t")
    if what == "canceled":
        with pytest.raises(Canceled):
            await handle.result(timeout=20)
    await eventually(lambda: not executor.running, "it to be let go of")
    await executor.abort()
    await worker._close()  # pyright: ignore[reportPrivateUsage]
    assert effects.lines() == []
    if what == "left":
        async with serving(app, "w2"):
            await handle.result(timeout=20)


# -- leaving


async def two_branches(ctx: Context, effects: str) -> list[Any]:
    """A long step, and beside it several short ones, one after another."""

    async def branch() -> str:
        await ctx.run(stand_at, effects, "short")
        await ctx.run(note, effects, "next")
        return "branch"

    return list(await asyncio.gather(ctx.run(stand_at, effects, "long"), branch()))


async def told_to_leave(worker: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "durasleep")
    worker.stop()
    await eventually(lambda: "is leaving" in caplog.text, "the worker to leave")


async def test_a_worker_that_leaves_lets_a_step_end_and_begins_none_beside_it(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    app.workflow(two_branches)
    store = await store_of(app)
    async with serving(app) as worker:
        handle = await app.rpc("w", two_branches, effects.path)
        await effects.standing("long")
        await effects.standing("short")
        await told_to_leave(worker, caplog)
        effects.open("short")

        async def has_ended() -> bool:
            loaded = await store.load(handle.id)
            return loaded is not None and any(entry.payload for entry in loaded.entries.values())

        await eventually(has_ended, "the short step to be journaled")
        assert effects.count("next") == 0
        assert worker.running == 1, "its long step still runs"
        effects.open("long")
        await eventually(lambda: worker.running == 0, "the worker to let go")
    assert effects.count("next") == 0
    async with serving(app, "w2"):
        assert await handle == ["through long", "branch"]
    assert effects.count("long") == effects.count("short") == effects.count("next") == 1


async def test_a_worker_that_leaves_begins_no_attempt_after_one_that_fails(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    trying = failing_task(app, Retry(attempts=100, delay=0, jitter=0))
    async with serving(app) as worker:
        await app.rpc("t", trying, effects.path)
        await effects.standing("gate")
        await told_to_leave(worker, caplog)
        effects.open("gate")
        await eventually(lambda: worker.running == 0, "the worker to let go")
    assert effects.count("gate") == 1
    await app.cancel("t", force=True)


async def retrying_step(ctx: Context, effects: str) -> None:
    await ctx.run(failing_at, effects, "gate", retry=IN_HAND)


@pytest.mark.parametrize("what", ["task", "step"])
async def test_a_worker_that_leaves_between_two_attempts_begins_none(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A wait of less than a second in a worker does not count as begun work."""
    trying = failing_task(app, IN_HAND)
    app.workflow(retrying_step)
    effects.open("gate")
    async with serving(app) as worker:
        if what == "task":
            await app.rpc("it", trying, effects.path)
        else:
            await app.rpc("it", retrying_step, effects.path)
        store = await store_of(app)

        async def has_failed() -> bool:
            loaded = await store.load(PromiseId("it"))
            return bool(loaded and loaded.entries)

        await eventually(has_failed, "an attempt to fail")
        attempts = effects.count("gate")
        await told_to_leave(worker, caplog)
        await eventually(lambda: worker.running == 0, "the worker to let go")
        assert effects.count("gate") == attempts
    await app.cancel("it", force=True)


# -- steps that refer to ops of the same commit


async def test_a_step_finds_the_promise_it_was_given(app: Durasleep) -> None:
    """It begins when the ops before it are committed, so that everybody can see them."""
    found: list[bool] = []

    async def answer(id: str) -> None:
        found.append(await app.promises.resolve(id, "yes"))

    @app.workflow
    async def asking(ctx: Context) -> Any:
        approval = ctx.promise(name="approval")
        await ctx.run(answer, approval.id)
        return await approval

    async with serving(app):
        handles = [await app.rpc(f"a-{number}", asking) for number in range(100)]
        assert await asyncio.gather(*handles) == ["yes"] * 100
    assert len(found) == 100
