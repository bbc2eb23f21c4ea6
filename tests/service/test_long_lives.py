"""Features for long-lived executions on real servers: retries, versions, new runs, clean-up, and shared resources."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from durasleep import Canceled, Context, Durasleep, DurasleepError, Retry, Settings, TimedOut, UsageError
from durasleep.client.client import store_of
from durasleep.protocol.keys import Keyspace
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import note, stand_at
from tests.service.workers import Effects, eventually, serving, until

SECOND = Retry(attempts=4, delay=1.0, jitter=0)
QUICKLY = Retry(attempts=4, delay=0.02, jitter=0)


def fail_until(effects: str, times: int, name: str = "attempt") -> int:
    """Fails until it was called this often, by any worker."""
    note(effects, name)
    count = Effects.of(effects).count(name)
    if count < times:
        raise ConnectionError(f"attempt {count}")
    return count


# -- retries


async def test_a_task_waits_for_its_next_attempt_in_no_worker_and_shows_it(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(retry=SECOND)
    def charge(path: str) -> int:
        return fail_until(path, 3)

    async with serving(app) as worker:
        handle = await app.rpc("charge-1", charge, effects.path)
        waiting = await until(app, "charge-1", "delayed")
        await eventually(lambda: worker.running == 0, "the worker to let go of it")
        assert waiting.reason == "attempt 1 of 4 failed: ConnectionError: attempt 1"
        [failed] = waiting.failed_attempts
        assert (failed.id, failed.name, failed.error) == ("charge-1~1", "charge", "ConnectionError: attempt 1")
        assert (await app.wake("charge-1")).word == "woken"  # try again now
        await eventually(lambda: effects.count("attempt") == 2, "the second attempt")
        await until(app, "charge-1", "delayed")
        await app.wake("charge-1")
        assert await handle.result(timeout=30) == 3
    assert [one.error for one in (await app.describe("charge-1")).failed_attempts] == [
        "ConnectionError: attempt 1",
        "ConnectionError: attempt 2",
    ]


async def test_short_waits_are_made_by_the_worker_and_journaled_all_the_same(app: Durasleep, effects: Effects) -> None:
    @app.task(retry=QUICKLY)
    async def charge(path: str, times: int) -> int:
        return fail_until(path, times)

    async with serving(app):
        assert await (await app.rpc("charge-1", charge, effects.path, 3)).result(timeout=30) == 3
        with pytest.raises(ConnectionError, match="attempt 7"):
            await (await app.rpc("charge-2", charge, effects.path, 99)).result(timeout=30)
    assert len((await app.describe("charge-1")).failed_attempts) == 2
    assert len((await app.describe("charge-2")).failed_attempts) == 3


async def test_attempts_survive_the_worker_that_made_them(app: Durasleep, effects: Effects) -> None:
    @app.task(retry=SECOND)
    def charge(path: str) -> int:
        return fail_until(path, 99)

    async with serving(app, "w1"):
        handle = await app.rpc("charge-1", charge, effects.path)
        await until(app, "charge-1", "delayed")
    async with serving(app, "w2"):
        for attempt in (2, 3, 4):
            await app.wake("charge-1")
            await eventually(lambda attempt=attempt: effects.count("attempt") == attempt, f"attempt {attempt}")
            if attempt < 4:
                await until(app, "charge-1", "delayed")
        with pytest.raises(ConnectionError, match="attempt 4"):
            await handle.result(timeout=30)
    assert effects.count("attempt") == 4


async def test_the_wait_of_a_step_is_a_timer_that_can_be_controlled(app: Durasleep, effects: Effects) -> None:
    @app.workflow
    async def paying(ctx: Context, path: str) -> int:
        return await ctx.run(fail_until, path, 2, retry=Retry(delay=3600))

    async with serving(app) as worker:
        handle = await app.rpc("pay-1", paying, effects.path)
        waiting = await until(app, "pay-1", "suspended")
        await eventually(lambda: worker.running == 0, "the worker to let go of it")
        [pending] = waiting.waiting_on
        assert (pending.kind, pending.name) == ("timer", "fail_until, attempt 2")
        assert [one.error for one in waiting.failed_attempts] == ["ConnectionError: attempt 1"]
        await app.wake(pending.id)
        assert await handle.result(timeout=30) == 2


async def test_each_attempt_has_its_own_timeout(app: Durasleep, effects: Effects) -> None:
    async def slow_at_first(path: str) -> str:
        note(path, "slow")
        if Effects.of(path).count("slow") < 2:
            await asyncio.sleep(60)
        return "quick"

    @app.task(retry=QUICKLY, timeout=0.1)
    async def slow_task(path: str) -> str:
        return await slow_at_first(path)

    @app.workflow
    async def slowly(ctx: Context, path: str) -> str:
        return await ctx.run(slow_at_first, path, retry=QUICKLY, timeout=0.1)

    async with serving(app):
        assert await (await app.rpc("slowly", slowly, effects.path)).result(timeout=30) == "quick"
        assert effects.count("slow") == 2
        other = Effects.of(f"{effects.path}.task")
        assert await (await app.rpc("slow-task", slow_task, other.path)).result(timeout=30) == "quick"
    [failed] = (await app.describe("slow-task")).failed_attempts
    assert failed.error == "TimeoutError: slow_task took longer than 0.1 s"


async def test_a_deadline_ends_a_family_whatever_attempts_are_left(app: Durasleep, effects: Effects) -> None:
    @app.task(retry=Retry(delay=3600))
    def charge(path: str) -> int:
        return fail_until(path, 99)

    @app.workflow
    async def paying(ctx: Context, path: str) -> int:
        return await ctx.rpc(charge, path)

    async with serving(app):
        handle = await app.rpc("pay-1", paying, effects.path, timeout=1)
        with pytest.raises(TimedOut):
            await handle.result(timeout=30)
        assert (await app.describe("pay-1")).state == "timedout"
        await eventually(lambda: _state(app, "pay-1~1", "canceled"), "the child to be canceled")


async def _state(app: Durasleep, id: str, state: str) -> bool:
    return (await app.describe(id)).state == state


# -- cancel


async def test_a_cancel_runs_its_clean_up_as_steps_and_a_forced_one_runs_nothing(
    app: Durasleep, effects: Effects
) -> None:
    @app.workflow
    async def ordering(ctx: Context, path: str, name: str) -> None:
        ctx.on_cancel(note, path, f"refund {name}")
        await ctx.detached(audit, path, name, id=f"audit-{name}")
        await ctx.rpc(child)

    @app.workflow
    async def child(ctx: Context) -> None:
        await ctx.promise()

    @app.workflow
    async def audit(ctx: Context, path: str, name: str) -> str:
        await ctx.run(note, path, f"audit {name}")
        return await ctx.promise()

    async with serving(app):
        for name, force in (("gentle", False), ("forced", True)):
            handle = await app.rpc(name, ordering, effects.path, name)
            await until(app, name, "suspended")
            await eventually(lambda name=name: _waits(app, f"{name}~2"), "the child to wait")
            await handle.cancel(force=force)
            with pytest.raises(Canceled):
                await handle.result(timeout=30)
            assert effects.count(f"refund {name}") == (not force)
            await eventually(lambda name=name: _state(app, f"{name}~2", "canceled"), "the child to be canceled")
            # the detached execution goes on
            await until(app, f"audit-{name}", "suspended")
            await app.promises.resolve(f"audit-{name}~2", "signed")
            assert await app.get(f"audit-{name}").result(timeout=30) == "signed"


async def _waits(app: Durasleep, id: str) -> bool:
    try:
        return (await app.describe(id)).status == "suspended"
    except DurasleepError:
        return False


async def test_a_detached_execution_under_a_used_id_is_left_as_it_is_or_refused(app: Durasleep) -> None:
    @app.workflow
    async def auditing(ctx: Context) -> str:
        return await ctx.promise()

    @app.workflow
    async def starting(ctx: Context, fn: str, *args: str) -> str:
        return await ctx.detached(fn, *args, id="audit")

    async with serving(app):
        first = await app.rpc("audit", auditing)
        await until(app, "audit", "suspended")
        assert await (await app.rpc("s-1", starting, "auditing")).result(timeout=30) == "audit"
        with pytest.raises(UsageError, match="another function"):
            await (await app.rpc("s-2", starting, "starting", "auditing")).result(timeout=30)
        await app.promises.resolve("audit~1", "signed")
        assert await first.result(timeout=30) == "signed"


# -- races


async def test_an_approval_or_three_days(app: Durasleep, real_server: Server) -> None:
    @app.workflow
    async def approving(ctx: Context) -> list[Any]:
        winner = await ctx.race(ctx.promise(name="approval"), ctx.sleep(timedelta(days=3)))
        await ctx.promise(name="after")
        return [winner.index, winner.value]

    async with serving(app):
        handle = await app.rpc("a-1", approving)
        await until(app, "a-1", "suspended")
        await app.promises.resolve("a-1~1", "yes")
        await eventually(lambda: _waits_for(app, "a-1", "after"), "the race to be over")
        client: Any = real_server.sync_client()
        keys: Keyspace = (await store_of(app)).keys("a-1")
        assert client.zrange(keys.timers, 0, -1) == []  # the loser was canceled in the same commit
        await app.promises.resolve("a-1~3")
        assert await handle.result(timeout=30) == [0, "yes"]


async def _waits_for(app: Durasleep, id: str, name: str) -> bool:
    return [one.name for one in (await app.describe(id)).waiting_on] == [name]


# -- new code


async def test_what_has_begun_stays_on_its_version_and_waits_for_a_worker_that_has_it(new_app: NewApp) -> None:
    async def first(ctx: Context) -> str:
        return f"first {await ctx.promise()}"

    async def second(ctx: Context) -> str:
        return f"second {await ctx.promise()} of version {ctx.info.version}"

    before, both, after = new_app(), new_app(), new_app()
    before.workflow(name="renew")(first)
    async with serving(before):
        old = await before.rpc("old", "renew")
        await until(before, "old", "suspended")
    both.workflow(name="renew", version=2)(second)
    after.registry = both.registry.__class__()
    after.workflow(name="renew", version=2)(second)
    async with serving(after):
        new = await after.rpc("new", "renew")
        await until(after, "new", "suspended")
        await after.promises.resolve("new~1", "one")
        assert await new.result(timeout=30) == "second one of version 2"
        await after.promises.resolve("old~1", "one")
        waiting = await until(after, "old", "delayed")
        assert waiting.reason == "no worker here knows version 1 of renew, the version it began with"
    both.workflow(name="renew")(first)
    async with serving(both):
        await both.wake("old")
        assert await old.result(timeout=30) == "first one"


async def test_it_goes_on_as_a_new_run_under_its_id_for_those_who_wait(app: Durasleep, effects: Effects) -> None:
    @app.workflow
    async def polling(ctx: Context, path: str, rounds: int, created: str = "") -> list[Any]:
        await ctx.run(note, path, f"round {rounds}")
        left = ctx.rpc(child)
        await ctx.sleep(0.05)
        if rounds:
            ctx.continue_as_new(path, rounds - 1, created=ctx.info.created_at.isoformat())
        left.cancel()
        return [created == ctx.info.created_at.isoformat(), ctx.info.begun_ms > ctx.info.created_ms]

    @app.workflow
    async def child(ctx: Context) -> None:
        await ctx.promise()

    async with serving(app):
        handle = await app.rpc("poll-1", polling, effects.path, 3)
        assert await handle.result(timeout=30) == [True, True]
        assert effects.lines() == ["round 3", "round 2", "round 1", "round 0"]
        # numbers went on, and pending entries of the old runs have ended
        assert (await app.describe("poll-1~10")).state == "resolved"
        for number in (2, 5, 8, 11):
            await eventually(lambda number=number: _state(app, f"poll-1~{number}", "canceled"), "its end")


async def test_a_run_that_awaits_nothing_can_be_canceled(app: Durasleep, effects: Effects) -> None:
    @app.workflow
    async def spinning(ctx: Context, path: str) -> None:
        ctx.on_cancel(note, path, "undone")
        ctx.continue_as_new(path)

    async with serving(app), asyncio.timeout(30):
        handle = await app.rpc("spin-1", spinning, effects.path)
        await eventually(lambda: _has_begun_anew(app, "spin-1"), "a second run")
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle
        assert effects.lines() == ["undone"]


async def _has_begun_anew(app: Durasleep, id: str) -> bool:
    return (await app.export(id)).begun_ms > 0


async def test_a_cap_is_warned_of_at_half_and_what_was_halted_goes_on_with_more_room(
    new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    async def growing(ctx: Context, count: int) -> int:
        for number in range(count):
            await ctx.run(abs, number)
        return count

    small, large = new_app(settings=Settings(journal_entries_max=20)), new_app()
    for app in (small, large):
        app.registry = app.registry.__class__()
        app.registry.workflow(growing)
    async with serving(small):
        handle = await small.rpc("grow", growing, 30)
        halted = await until(small, "grow", "halted")
    assert "21 journal entries of at most 20" in (halted.reason or "")
    assert caplog.text.count("grow has 10 journal entries of at most 20") == 1
    async with serving(large):
        await large.resume("grow")
        assert await handle.result(timeout=30) == 30


# -- resources of a worker


async def test_what_a_lifespan_yields_is_there_for_tasks_and_steps_and_closed_at_the_end(
    app: Durasleep, effects: Effects
) -> None:
    @app.lifespan
    async def shared() -> AsyncGenerator[dict[str, str]]:
        note(effects.path, "opened")
        yield {"db": "pool"}
        note(effects.path, "closed")

    def in_thread() -> str:
        return app.resources["db"]

    async def in_loop() -> str:
        return app.resources["db"]

    app.task(in_thread)

    @app.workflow
    async def using(ctx: Context) -> list[str]:
        try:
            app.resources  # noqa: B018 - reading it is the test
        except UsageError as error:
            return [await ctx.run(in_thread), await ctx.run(in_loop), await ctx.rpc(in_thread), str(error)[:13]]
        return []

    for _ in range(2):
        async with serving(app):
            await until_opened(effects)
            handle = await app.rpc("use", using)
            assert await handle.result(timeout=30) == ["pool", "pool", "pool", "app.resources"]
    assert effects.lines() == ["opened", "closed"] * 2
    with pytest.raises(UsageError, match="lifespan"):
        app.resources  # noqa: B018
    with pytest.raises(UsageError, match="already"):
        app.lifespan(shared)


async def until_opened(effects: Effects) -> None:
    await eventually(lambda: effects.lines()[-1:] == ["opened"], "the lifespan to begin")


async def test_a_lifespan_that_fails_stops_the_worker_before_it_takes_anything(app: Durasleep) -> None:
    @app.lifespan
    async def shared() -> AsyncGenerator[None]:
        raise ConnectionError("no database")
        yield

    with pytest.raises(ConnectionError, match="no database"):
        await app.worker().run()


# -- slow bodies


async def test_a_body_that_blocks_its_worker_is_named(
    new_app: NewApp, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(settings=Settings(slow_drain_s=0.05))

    @app.workflow
    async def blocking(ctx: Context) -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - what nobody should do

    @app.workflow
    async def standing(ctx: Context, path: str) -> None:
        await ctx.run(stand_at, path, "gate")

    async with serving(app):
        await (await app.rpc("b-1", blocking)).result(timeout=30)
        handle = await app.rpc("s-1", standing, effects.path)
        await effects.standing("gate")
        effects.open("gate")
        await handle.result(timeout=30)
    assert "the code of b-1 (blocking) blocked this worker for 0.1 s" in caplog.text
    assert "the code of s-1" not in caplog.text
