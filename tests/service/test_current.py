"""What tasks and steps can ask of the call they are in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from durasleep import Context, Current, Durasleep, Retry, UsageError, current
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.settings import DEFAULTS
from tests.service.fixtures import NewApp
from tests.service.workers import eventually, serving

OFTEN = Retry(attempts=5, delay=0.001, jitter=0)


async def test_a_step_knows_its_number_and_attempt_and_keeps_its_key(app: Durasleep) -> None:
    seen: dict[str, list[Current]] = {"in_loop": [], "in_thread": []}

    async def in_loop() -> None:
        seen["in_loop"].append(await asyncio.to_thread(current))
        if len(seen["in_loop"]) < 3:
            raise ConnectionError("not yet")

    def in_thread() -> None:
        seen["in_thread"].append(current())
        if len(seen["in_thread"]) < 3:
            raise ConnectionError("not yet")

    async def once() -> Current:
        await asyncio.sleep(0)
        return current()

    @app.workflow
    async def steps(ctx: Context) -> str:
        with pytest.raises(UsageError, match=r"a workflow has ctx\.info"):
            current()
        await asyncio.gather(ctx.run(in_loop, retry=OFTEN), ctx.run(in_thread, retry=OFTEN, timeout=60))
        other = await ctx.run(once)
        return other.idempotency_key

    async with serving(app):
        other_key = await (await app.rpc("steps", steps)).result(timeout=20)
    for name, number in (("in_loop", "1"), ("in_thread", "2")):
        of_it = seen[name]
        assert [one.attempt for one in of_it] == [1, 2, 3]
        assert {(one.id, one.step, one.group) for one in of_it} == {("steps", number, "workers")}
        assert of_it[0].function.endswith(name)
        assert len({one.idempotency_key for one in of_it}) == 1
    assert len({other_key, seen["in_loop"][0].idempotency_key, seen["in_thread"][0].idempotency_key}) == 3
    assert all(one.deadline is None for one in seen["in_loop"])
    ends = [one.deadline for one in seen["in_thread"] if one.deadline]
    assert len(ends) == 3
    assert all(timedelta(0) < end - datetime.now(UTC) <= timedelta(seconds=60) for end in ends)


async def test_a_task_knows_itself_whichever_worker_makes_the_attempt(app: Durasleep) -> None:
    seen: list[Current] = []
    stands = asyncio.Event()

    @app.task(retry=OFTEN)
    async def flaky() -> int:
        seen.append(current())
        if len(seen) == 2:
            await stands.wait()
        raise ConnectionError("not yet")

    handle = await app.rpc("flaky", flaky)
    async with serving(app, "w1"):
        await eventually(lambda: len(seen) == 2, "the second attempt")  # cut short: the worker leaves at once
    stands.set()
    async with serving(app, "w2"):
        with pytest.raises(ConnectionError):
            await handle.result(timeout=20)
    assert [one.attempt for one in seen] == [1, 2, 2, 3, 4, 5]
    [(id, step, function, group, _)] = {
        (one.id, one.step, one.function, one.group, one.idempotency_key) for one in seen
    }
    assert (id, step, function, group) == ("flaky", None, "flaky", "workers")


async def test_another_life_of_an_id_has_another_key(new_app: NewApp) -> None:
    app = new_app(settings=replace(DEFAULTS, retention=timedelta(milliseconds=1)))
    found: list[str] = []

    def own() -> None:
        found.append(current().idempotency_key)

    @app.task
    def key() -> None:
        found.append(current().idempotency_key)

    @app.workflow
    async def key_of_step(ctx: Context, rounds: int) -> None:
        await ctx.run(own)
        if rounds:
            ctx.continue_as_new(rounds - 1)

    store = await store_of(app)

    async def is_gone(id: str) -> bool:
        return await store.load(PromiseId(id)) is None

    async with serving(app):
        for number in range(1, 4):
            await app.rpc("a", key)
            await app.rpc("b", key_of_step, 1)
            await eventually(lambda number=number: len(found) == 3 * number, "all of them to be called")
            for id in ("a", "b"):
                await eventually(partial(is_gone, id), f"{id} to be forgotten")
    assert len(set(found)) == 9


async def test_the_deadline_is_that_of_the_attempt_or_of_the_execution(app: Durasleep) -> None:
    """Whether its first activation was told of it with the stream entry, or loaded it."""

    @app.task(timeout=600)
    def deadline() -> datetime | None:
        return current().deadline

    @app.workflow
    async def deadline_of_step(ctx: Context) -> list[datetime | None]:
        first = await ctx.run(deadline, timeout=600)
        await ctx.sleep(0.01)
        return [first, await ctx.run(deadline, timeout=3600)]

    async with serving(app):
        for id, fn in (("task", deadline), ("workflow", deadline_of_step)):
            handle = await app.rpc(id, fn, timeout=60)
            due_ms = (await app.describe(id)).timeout_at_ms
            assert due_ms
            due = datetime.fromtimestamp(due_ms / 1000, UTC)
            found = await handle.result(timeout=20)
            assert found in (due, [due, due])
        [sooner, _] = await (await app.rpc("sooner", deadline_of_step)).result(timeout=20)
        assert sooner
        assert timedelta(0) < sooner - datetime.now(UTC) <= timedelta(seconds=600)


def test_anywhere_else_there_is_none_and_a_thread_of_ones_own_needs_the_context() -> None:
    with pytest.raises(UsageError, match="works only in tasks and steps"):
        current()
    found: list[object] = []

    def look() -> None:
        try:
            found.append(current())
        except UsageError as error:
            found.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
    thread.start()
    thread.join()
    assert isinstance(found[0], UsageError)
