"""What workflows do: many things at once, children, promises, cancellation, deadlines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Canceled, Context, Durasleep, NotFound, TimedOut
from durasleep.client.client import store_of
from durasleep.model import Kind, PromiseId
from harness.servers import Server
from tests.service.functions import double, failing, note, sleeping_workflow, waiting
from tests.service.workers import Effects, eventually, serving, until


async def test_sleeps_steps_and_children_run_side_by_side(app: Durasleep, effects: Effects) -> None:
    """Twice: a replay from the journal only, after a worker has left, ends in the same way."""

    async def everything(ctx: Context) -> list[Any]:
        begun = ctx.now()
        durable: list[Awaitable[Any]] = [
            ctx.sleep(0.3),
            ctx.sleep_until(begun + timedelta(seconds=0.2)),
            asyncio.sleep(0.1, "slept"),
            ctx.run(double, 1),
            ctx.run(note, effects.path, "step"),
            ctx.rpc(double, 2),
            ctx.rpc(sleeping_workflow, 0.05),
            ctx.rpc("double", 3, id="elsewhere"),
        ]
        results = await asyncio.gather(*durable)
        await ctx.promise()
        return [*results, ctx.now() - begun >= timedelta(seconds=0.3)]

    app.workflow(everything)
    async with serving(app, "w1"):
        handle = await app.rpc("all", everything)
        await eventually(lambda: _pending(app, "all", "promise"), "all but the promise")
    async with serving(app, "w2"):
        await app.promises.resolve(next(iter(await _pending(app, "all", "promise"))))
        assert await handle == [None, None, "slept", 2, None, 4, "Slept for 0.05 seconds", 6, True]
    assert effects.lines() == ["step"]
    store = await store_of(app)
    loaded = await store.load(PromiseId("all"))
    assert loaded
    kinds = [entry.kind for entry in loaded.entries.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        Kind.TIMER: 3,
        Kind.STEP: 2,
        Kind.CHILD: 3,
        Kind.PROMISE: 1,
    }


async def _pending(app: Durasleep, id: str, kind: str) -> set[str]:
    """The promises an execution waits for, if they are all of this kind."""
    waiting_on = (await app.describe(id)).waiting_on
    return {one.id for one in waiting_on} if {one.kind for one in waiting_on} == {kind} else set()


async def test_a_failing_child_can_be_caught_and_the_others_go_on(app: Durasleep) -> None:
    async def parent(ctx: Context) -> list[str]:
        durable: list[Awaitable[Any]] = [ctx.rpc(failing, "one"), ctx.rpc(double, 4), ctx.run(_raise, "two")]
        outcomes = await asyncio.gather(*durable, return_exceptions=True)
        try:
            await ctx.rpc(failing, "three")
        except ValueError as error:
            outcomes.append(error)
        return [f"{type(one).__name__}: {one}" if isinstance(one, Exception) else str(one) for one in outcomes]

    async def careless(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_await(ctx.rpc(failing, "whole")))
            group.create_task(_await(ctx.sleep(3600)))

    app.workflow(parent)
    app.workflow(careless)
    async with serving(app):
        assert await (await app.rpc("parent", parent)) == [
            "ValueError: one",
            "8",
            "KeyError: 'two'",
            "ValueError: three",
        ]
        with pytest.raises(Exception, match="unhandled errors in a TaskGroup"):
            await (await app.rpc("careless", careless))
        assert (await app.describe("careless")).waiting_on == []


def _raise(key: str) -> None:
    raise KeyError(key)


async def _await(durable: asyncio.Future[Any]) -> None:
    await durable


async def test_sys_exit_in_user_code_ends_that_code_and_not_its_worker(app: Durasleep) -> None:
    async def leaves(ctx: Context) -> None:
        sys.exit("workflow")

    async def leaves_in_step(ctx: Context) -> None:
        await ctx.run(_exit)

    async def leaves_as_task() -> None:
        sys.exit("task")

    def stops() -> None:
        raise StopIteration("step")

    async def stops_in_step(ctx: Context) -> None:
        await ctx.run(stops)

    for workflow in (leaves, leaves_in_step, stops_in_step):
        app.workflow(workflow)
    app.task(leaves_as_task)
    async with serving(app):
        for number, name in enumerate(("leaves", "leaves_in_step", "leaves_as_task")):
            with pytest.raises(Exception, match="SystemExit"):
                await (await app.rpc(f"leaves-{number}", name)).result(timeout=10)
        with pytest.raises(Exception, match="StopIteration"):
            await (await app.rpc("stops", stops_in_step)).result(timeout=10)
        assert await (await app.rpc("after", double, 1)) == 2


async def _exit() -> None:
    sys.exit("step")


# -- promises


async def test_a_promise_of_a_workflow_is_resolved_from_outside(app: Durasleep) -> None:
    async with serving(app):
        resolved, rejected, canceled = [await app.rpc(name, waiting) for name in ("resolved", "rejected", "canceled")]
        for id in ("resolved", "rejected", "canceled"):
            await until(app, id, "suspended")
        assert await app.promises.resolve("resolved~1", {"approved": True})
        assert not await app.promises.resolve("resolved~1", {"approved": False})
        assert not await app.promises.reject("resolved~1", "no")
        assert await resolved == {"approved": True}
        assert await app.promises.reject("rejected~1", LookupError("not here"))
        with pytest.raises(LookupError, match="not here"):
            await rejected
        assert await app.promises.cancel("canceled~1")
        with pytest.raises(Canceled, match="canceled~1"):
            await canceled
        assert (await app.promises.get("resolved~1")).value == {"approved": True}


async def test_a_promise_times_out_and_a_timer_resolves(app: Durasleep) -> None:
    async with serving(app):
        times_out = await app.rpc("times-out", waiting, 0.1)
        promise = await app.promises.create("promise", timeout=0.1)
        timer = await app.promises.create("timer", timeout=0.1, timer=True)
        kept = await app.promises.create("kept")
        for late in (times_out, promise):
            with pytest.raises(TimedOut, match=late.id):
                await late
        assert await timer is None
        assert not await app.promises.resolve("promise", "too late")
        assert (await app.describe("promise")).state == "timedout"
        again = await app.promises.create("kept")
        assert (kept.disposition, again.disposition) == ("created", "attached")
        assert await app.promises.resolve("kept", 7)
        assert await kept == await again == await app.get("kept") == 7
    with pytest.raises(NotFound, match="nobody"):
        await app.promises.resolve("nobody", 1)


async def test_a_timer_promise_is_due_at_an_instant_with_a_zone(app: Durasleep) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.2)
    timer = await app.promises.create("timer", timeout=due, timer=True)
    described = await app.describe("timer")
    assert described.timeout_at_ms
    assert 0 <= described.timeout_at_ms - due.timestamp() * 1000 < 1
    async with serving(app):
        assert await timer is None


# -- cancellation and deadlines


async def test_cancel_is_delivered_at_the_await_and_may_be_answered(app: Durasleep, effects: Effects) -> None:
    async def tidy(ctx: Context) -> None:
        try:
            await asyncio.gather(ctx.sleep(3600), ctx.rpc(sleeping_workflow, 3600))
        except asyncio.CancelledError:
            if not ctx.evicting:
                await ctx.run(note, effects.path, "tidied up")
            raise

    async def stubborn(ctx: Context) -> str:
        try:
            await ctx.sleep(3600)
        except asyncio.CancelledError:
            if ctx.evicting:
                raise
        return "stayed"

    app.workflow(tidy)
    app.workflow(stubborn)
    async with serving(app):
        tidies, stays = await app.rpc("tidy", tidy), await app.rpc("stubborn", stubborn)
        await until(app, "tidy", "suspended")
        await until(app, "stubborn", "suspended")
        await until(app, "tidy~2", "suspended")
        assert await tidies.cancel() == "canceling"
        assert await stays.cancel() == "canceling"
        with pytest.raises(Canceled, match="tidy"):
            await tidies
        assert await stays == "stayed"
        assert (await app.describe("tidy~2")).state == "canceled"
        assert await tidies.cancel() == "already"
    assert effects.lines() == ["tidied up"]


async def test_cancel_reaches_a_running_step_and_a_running_task(app: Durasleep, effects: Effects) -> None:
    async def hangs(what: str) -> None:
        note(effects.path, f"{what} begins")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note(effects.path, f"{what} is canceled")
            raise

    async def hanging(ctx: Context) -> None:
        await ctx.run(hangs, "step")

    app.workflow(hanging)
    app.task(hangs)
    async with serving(app):
        for handle, what in ((await app.rpc("w", hanging), "step"), (await app.rpc("t", hangs, "task"), "task")):
            await eventually(lambda what=what: effects.count(f"{what} begins"), f"the {what} to begin")
            await handle.cancel()
            with pytest.raises(Canceled, match=handle.id):
                await handle
            await eventually(lambda what=what: effects.count(f"{what} is canceled"), f"the {what} to end")


async def test_a_cancel_is_delivered_once_however_often_it_is_asked_for(app: Durasleep, effects: Effects) -> None:
    """The second one finds the workflow cleaning up, on another worker than the first: it changes nothing."""

    async def slow_to_go(ctx: Context) -> None:
        try:
            await ctx.sleep(3600)
        except asyncio.CancelledError:
            if not ctx.evicting:
                await ctx.run(note, effects.path, "cleans up")
                await ctx.promise(name="cleaned")
                await ctx.run(note, effects.path, "has cleaned up")
            raise

    app.workflow(slow_to_go)
    async with serving(app, "w1"):
        handle = await app.rpc("slow", slow_to_go)
        await until(app, "slow", "suspended")
        assert await handle.cancel() == "canceling"
        await eventually(lambda: _pending(app, "slow", "promise"), "it to clean up")
    async with serving(app, "w2"):
        again = [await handle.cancel() for _ in range(3)]
        await app.promises.resolve(next(iter(await _pending(app, "slow", "promise"))))
        with pytest.raises(Canceled, match="slow"):
            await handle
    assert again == ["canceling"] * 3
    assert effects.lines() == ["cleans up", "has cleaned up"]


@pytest.mark.parametrize("how", ["cancel", "force", "deadline"])
async def test_what_ends_a_parent_ends_its_children_and_theirs_in_the_middle_of_a_step(
    app: Durasleep, effects: Effects, how: str
) -> None:
    """All of them, except the one with an id of its own."""

    async def hangs(what: str) -> None:
        note(effects.path, f"{what} begins")
        try:
            await asyncio.Event().wait()
        finally:
            note(effects.path, f"{what} ends")

    async def child(ctx: Context) -> None:
        await asyncio.gather(ctx.run(hangs, "step"), ctx.rpc(hangs, "task"), ctx.rpc(sleeping_workflow, 3600))

    async def parent(ctx: Context) -> None:
        await asyncio.gather(ctx.rpc(child), ctx.rpc(sleeping_workflow, 3600, id="own"))

    app.workflow(child)
    app.workflow(parent)
    app.task(hangs)
    begin, end = ["step begins", "task begins"], ["step ends", "task ends"]
    async with serving(app):
        handle = await app.rpc("parent", parent, timeout=2 if how == "deadline" else None)
        await eventually(lambda: sorted(effects.lines()) == begin, "all to begin")
        await until(app, "own", "suspended")
        if how != "deadline":
            await handle.cancel(force=how == "force")
        with pytest.raises(TimedOut if how == "deadline" else Canceled, match="parent"):
            await handle
        await eventually(lambda: sorted(effects.lines()[2:]) == end, "the steps to be told")
        family = ["parent", "parent~1", "parent~1~2", "parent~1~3", "own"]
        ends = [(await app.describe(id)).state for id in family]
        assert ends == ["timedout" if how == "deadline" else "canceled", *["canceled"] * 3, "pending"]
        await app.cancel("own", force=True)


async def test_force_cancels_without_running_the_code_again(app: Durasleep, effects: Effects) -> None:
    async def tidy(ctx: Context) -> None:
        try:
            await ctx.sleep(3600)
        except asyncio.CancelledError:
            if not ctx.evicting:
                await ctx.run(note, effects.path, "never")
            raise

    app.workflow(tidy)
    async with serving(app):
        handle = await app.rpc("tidy", tidy)
        await until(app, "tidy", "suspended")
        assert await handle.cancel(force=True) == "canceled"
        with pytest.raises(Canceled, match="tidy"):
            await handle
    assert effects.lines() == []


async def test_what_never_ran_is_canceled_at_once(app: Durasleep) -> None:
    handle = await app.rpc("waits", double, 1)
    assert await handle.cancel() == "canceled"
    with pytest.raises(Canceled, match="waits"):
        await handle
    async with serving(app):
        assert await (await app.rpc("other", double, 2)) == 4


async def test_a_deadline_ends_an_execution_wherever_it_is(
    app: Durasleep, effects: Effects, real_server: Server
) -> None:
    """Asleep, in a step, and queued with nobody to run it; with its children."""

    async def parent(ctx: Context) -> None:
        await ctx.rpc(sleeping_workflow, 3600)

    async def hangs() -> None:
        note(effects.path, "begins")
        try:
            await asyncio.Event().wait()
        finally:
            note(effects.path, "ends")

    async def patient(ctx: Context) -> str:
        try:
            await ctx.rpc(sleeping_workflow, 3600, timeout=0.1)
        except TimedOut as error:
            return f"timed out: {error}"
        return "no"

    app.workflow(parent)
    app.workflow(patient)
    app.task(hangs)
    async with serving(app):
        handles = [
            await app.rpc("asleep", parent, timeout=0.4),
            await app.rpc("in-step", hangs, timeout=0.4),
            await app.rpc("queued", double, 1, target="nobody", timeout=0.1),
        ]
        for handle in handles:
            with pytest.raises(TimedOut, match=handle.id):
                await handle
            assert (await app.describe(handle.id)).state == "timedout"
        assert (await app.describe("asleep~1")).state == "canceled"
        assert "patient~1" in await (await app.rpc("patient", patient))
        await eventually(lambda: effects.lines() == ["begins", "ends"], "the step to be told")
