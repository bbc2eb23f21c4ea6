"""A fork has what another execution had done before a step, and goes on from there."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from durasleep import Context, Disposition, Durasleep, NotFound, Retry
from durasleep.client.client import store_of
from durasleep.errors import Canceled, InvalidId, NotAllowed
from durasleep.model import Kind, PromiseId, State
from durasleep.protocol import journal
from durasleep.protocol.command import Plan
from durasleep.protocol.journal import Loaded
from durasleep.query import forking
from durasleep.settings import DEFAULTS
from tests.crash_points import chosen
from tests.service.fixtures import NewApp
from tests.service.workers import serving, until

ran: Counter[str] = Counter()
"""How often each step has run."""
broken: set[str] = set()
"""The steps that fail."""


@pytest.fixture(autouse=True)
def whole() -> None:
    ran.clear()
    broken.clear()


async def step(name: str) -> str:
    ran[name] += 1
    await asyncio.sleep(0)
    if name in broken:
        raise ValueError(f"{name} is broken")
    return f"{name} {ran[name]}"


async def pack(name: str) -> str:
    return await step(name)


async def ship(name: str) -> str:
    return await step(name)


async def order(ctx: Context) -> list[str]:
    first = await ctx.run(step, "first")
    packed = await ctx.run(pack, "pack")
    shipped = await ctx.run(ship, "ship", retry=Retry(attempts=2, delay=0.001))
    return [first, packed, shipped, await ctx.run(step, "last")]


async def part(ctx: Context, name: str) -> str:
    return await ctx.run(step, name)


async def sleeper(ctx: Context, name: str) -> str:
    await ctx.sleep(3600, name="nap")
    return await ctx.run(step, name)


async def wide(ctx: Context) -> list[Any]:
    """Children, a promise and a sleep at a time, then a step."""
    done = await ctx.rpc(part, "child")
    waiting = [asyncio.ensure_future(one) for one in (ctx.rpc(sleeper, "slow"), ctx.promise(name="word"))]
    other = asyncio.ensure_future(ctx.rpc(sleeper, "other", id="other"))
    await asyncio.sleep(0)
    shipped = await ctx.run(ship, "ship")
    return [done, shipped, *[await one for one in (*waiting, other)]]


async def chance(ctx: Context) -> list[tuple[str, UUID, datetime]]:
    seen: list[tuple[str, UUID, datetime]] = []
    for _ in range(3):
        name = "heads" if ctx.random() < 0.5 else "tails"
        await ctx.run(pack if name == "heads" else ship, name)
        seen.append((name, ctx.uuid(), ctx.now()))
    await ctx.run(step, "last")
    seen.append(("last", ctx.uuid(), ctx.now()))
    return seen


async def runs(ctx: Context, run: int) -> list[str]:
    first = await ctx.run(step, f"run {run}")
    if run < 3:
        ctx.continue_as_new(run + 1)
    return [first, await ctx.run(pack, "pack"), await ctx.run(ship, "ship")]


async def many(ctx: Context, count: int, size: int) -> int:
    for number in range(count):
        await ctx.run(wordy, number, size)
    await ctx.run(ship, "ship")
    return count


async def wordy(number: int, size: int) -> str:
    ran["wordy"] += 1
    return "x" * size


async def cleaning(ctx: Context) -> str:
    try:
        await ctx.run(step, "first")
        await ctx.sleep(3600)
    except asyncio.CancelledError:
        await ctx.run(pack, "clean")
        await ctx.run(ship, "sweep")
        raise
    return "slept"


async def careless(ctx: Context) -> list[Any]:
    """Its code has a bug behind its last step, as long as ``code`` is broken."""
    drawn = ctx.uuid()
    first = await ctx.run(step, "first")
    child, packed = await asyncio.gather(ctx.rpc(part, "child"), ctx.run(pack, "pack"))
    if "code" in broken:
        raise KeyError("bug")
    return [first, child, packed, await ctx.run(end), drawn]


async def end() -> str:
    return await step("end")


def with_functions(app: Durasleep) -> Durasleep:
    for workflow in (order, part, sleeper, wide, chance, runs, many, cleaning, careless):
        app.workflow(workflow)
    app.task(pack)
    return app


@pytest.fixture
def shop(app: Durasleep) -> Durasleep:
    return with_functions(app)


async def loaded(app: Durasleep, id: str) -> Loaded:
    store = await store_of(app)
    found = await store.run(journal.load(store.keys(id), PromiseId(id)))
    assert found is not None
    return found


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_a_failed_workflow_goes_on_before_the_step_that_failed(new_app: NewApp, always_suspend: bool) -> None:
    shop = with_functions(new_app(settings=replace(DEFAULTS, always_suspend=always_suspend)))
    broken.add("ship")
    async with serving(shop):
        with pytest.raises(ValueError, match="broken"):
            await (await shop.rpc("o", order)).result(20)
        before = await loaded(shop, "o")
        broken.clear()
        for new, at in (("by-name", "ship"), ("by-number", 3), ("by-id", "o~3")):
            handle = await shop.fork("o", new, before=at)
            assert handle.disposition is Disposition.CREATED
            result = await handle.result(20)
            assert result[:2] == ["first 1", "pack 1"]
            assert (await shop.fork("o", new, before=at)).disposition is Disposition.ATTACHED
        assert (ran["first"], ran["pack"], ran["ship"]) == (1, 1, 5)
        assert await loaded(shop, "o") == before
        described = await shop.describe("by-name")
        assert (described.func, described.group, described.state) == ("order", "workers", "resolved")


async def test_one_that_is_done_or_was_canceled_is_forked_too(shop: Durasleep) -> None:
    async with serving(shop):
        await (await shop.rpc("o", order)).result(20)
        assert await (await shop.fork("o", "again", before="pack")).result(20) == [
            "first 1",
            "pack 2",
            "ship 2",
            "last 2",
        ]
        handle = await shop.rpc("c", cleaning)
        await until(shop, "c", "suspended")
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle.result(20)
        with pytest.raises(Canceled):  # it is canceled, too: that had happened before
            await (await shop.fork("c", "c2", before="ship")).result(20)
        assert (ran["clean"], ran["sweep"]) == (1, 2)
        with pytest.raises(NotAllowed, match="c~2 was canceled by the workflow itself: fork before a call"):
            await shop.fork("c", "c3", before=2)
        await shop.fork("c", "c3", before="cancel")
        await until(shop, "c3", "suspended")  # it sleeps again
        await shop.cancel("c3", force=True)
        await (await shop.rpc("task", pack, "task")).result(20)
        with pytest.raises(NotFound, match="has no"):
            await shop.fork("task", "task2", before="pack")


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_before_its_end_corrected_code_goes_on_and_no_step_runs_again(
    new_app: NewApp, always_suspend: bool
) -> None:
    shop = with_functions(new_app(settings=replace(DEFAULTS, always_suspend=always_suspend)))
    broken.add("code")
    async with serving(shop):
        with pytest.raises(KeyError, match="bug"):
            await (await shop.rpc("o", careless)).result(20)
        again = await shop.fork("o", "same-bug", before="end")
        with pytest.raises(KeyError, match="bug"):
            await again.result(20)
        broken.clear()
        assert (await shop.fork("o", "fixed", before="end")).disposition is Disposition.CREATED
        result = await shop.get("fixed").result(20)
        assert result[:4] == ["first 1", "child 1", "pack 1", "end 1"]
        assert (await shop.fork("o", "fixed", before="end")).disposition is Disposition.ATTACHED
        assert await (await shop.fork("fixed", "whole", before="end")).result(20) == result
        assert ran == {"first": 1, "child": 1, "pack": 1, "end": 1}
        number = next(entry.number for entry in (await loaded(shop, "fixed")).entries.values() if entry.name == "end")
        by_number = await (await shop.fork("fixed", "by-number", before=number)).result(20)
        assert (by_number[3], ran["first"]) == ("end 2", 1)


async def test_before_the_end_of_one_that_was_halted_or_ended_by_force(shop: Durasleep) -> None:
    async with serving(shop):
        handle = await shop.rpc("c", cleaning)
        await until(shop, "c", "suspended")
        with pytest.raises(NotAllowed, match="c has not ended: fork before one of its steps, or halt it first"):
            await shop.fork("c", "c2", before="end")
        await shop.halt("c")
        await shop.fork("c", "c2", before="end")
        await handle.cancel(force=True)
        await shop.fork("c", "c3", before="end")
        for id in ("c2", "c3"):
            await until(shop, id, "suspended")
            await shop.wake(id)
            assert await shop.get(id).result(20) == "slept"
        assert ran == {"first": 1}


async def test_children_go_along_as_results_and_what_was_pending_is_asked_anew(shop: Durasleep) -> None:
    async with serving(shop):
        broken.add("ship")
        with pytest.raises(ValueError, match="broken"):
            await (await shop.rpc("w", wide)).result(20)
        broken.clear()
        fork = await shop.fork("w", "w2", before="ship")
        await until(shop, "w2~2", "suspended")
        assert ran["child"] == 1
        entries = (await loaded(shop, "w2")).entries.values()
        assert {(entry.kind, entry.state, entry.child_id) for entry in entries} >= {
            (Kind.CHILD, State.RESOLVED, ""),
            (Kind.CHILD, State.PENDING, ""),
            (Kind.CHILD, State.PENDING, "other"),
            (Kind.PROMISE, State.PENDING, ""),
        }
        await shop.promises.resolve("w2~3", "word")
        for id in ("w2~2", "other"):
            await until(shop, id, "suspended")
            await shop.wake(id)
        assert await fork.result(20) == ["child 1", "ship 2", "slow 1", "word", "other 1"]
        tree = await shop.tree("w2")
        assert tree.root.children[0].state == "resolved"


async def test_what_was_drawn_before_the_step_is_the_same_and_later_it_is_not(shop: Durasleep) -> None:
    async with serving(shop):
        handle = await shop.rpc("c", chance)
        drawn = await handle.result(20)
        for id, new in (("c", "c2"), ("c2", "c3")):
            again = await (await shop.fork(id, new, before="step")).result(20)
            assert again[:3] == drawn[:3]
            assert again[3][1] != drawn[3][1]
            drawn = again
        [recording] = [await shop.export("c3")]
        assert len(recording.origins.splitlines()) == 2


async def test_only_the_present_run_goes_along(shop: Durasleep) -> None:
    async with serving(shop):
        assert await (await shop.rpc("r", runs, 1)).result(20) == ["run 3 1", "pack 1", "ship 1"]
        assert await (await shop.fork("r", "r2", before="ship")).result(20) == ["run 3 1", "pack 1", "ship 2"]
        assert (await loaded(shop, "r2")).record.base == (await loaded(shop, "r")).record.base == 2
        assert ran["run 1"] == ran["run 2"] == ran["run 3"] == 1
        with pytest.raises(NotFound, match="has no 1"):
            await shop.fork("r", "r3", before=1)


async def test_it_has_as_much_time_and_is_kept_as_long(shop: Durasleep) -> None:
    late = shop.options(timeout="2h", retention="30d", target="gpu")
    await late.rpc("o", order)
    store = await store_of(shop)
    await shop.halt("o")
    with pytest.raises(NotFound, match="has no 1"):
        await shop.fork("o", "o2", before="1")
    async with serving(shop, group="gpu"):
        await shop.resume("o")
        await shop.get("o").result(20)
        await (await shop.fork("o", "o2", before=1)).result(20)
    for id in ("o", "o2"):
        record = (await loaded(shop, id)).record
        assert record.queue == "gpu"
        assert 0 <= record.deadline_ms - record.incarnation - 2 * 3_600_000 <= 1
        assert await store.call(journal.read_retention(store.keys(id), PromiseId(id))) == str(30 * 24 * 3_600_000)


async def test_what_cannot_be_forked_is_said_in_a_sentence(shop: Durasleep) -> None:
    async with serving(shop):
        await (await shop.rpc("o", order)).result(20)
        await (await shop.rpc("taken", part, "taken")).result(20)
        await shop.promises.create("p", timeout=60)
        for id, new, before, says in (
            ("nobody", "n", 1, "there is no execution nobody"),
            ("p", "n", 1, "there is no execution p"),
            ("o", "n", "paint", "has no paint"),
            ("o", "n", 17, "has no 17"),
        ):
            with pytest.raises(NotFound, match=says):
                await shop.fork(id, new, before=before)
        with pytest.raises(NotAllowed, match="called step 2 times, so say which by its number: 1, 4"):
            await shop.fork("o", "n", before="step")
        for taken in ("taken", "o"):
            with pytest.raises(NotAllowed, match="is in use by something else: nothing was forked"):
                await shop.fork("o", taken, before=2)
        with pytest.raises(InvalidId):
            await shop.fork("o", "a~b", before=2)
        await (await shop.fork("o", "n", before=2)).result(20)
        with pytest.raises(NotAllowed, match="in use"):
            await shop.fork("o", "n", before=3)
        await shop.promises.cancel("p")


async def steps_of(app: Durasleep, plan: Plan[Any], count: int | None = None) -> int:
    """Carry out a plan, as by a caller that is killed after so many exchanges; returns how many there were."""
    store, done = await store_of(app), 0
    try:
        calls = next(plan)
        while count is None or done < count:
            answers = await store.ask(calls)
            done += 1
            calls = plan.send(answers)
    except StopIteration:
        pass
    return done


@pytest.mark.long
async def test_wherever_it_is_interrupted_the_same_call_goes_on(shop: Durasleep) -> None:
    async with serving(shop):
        await (await shop.rpc("m", many, 600, 5_000)).result(60)
    store = await store_of(shop)

    def plan(new: str) -> Plan[Any]:
        return forking.fork(store.keys, "m", new, "ship")

    points = await steps_of(shop, plan("whole"))
    expected = (await loaded(shop, "whole")).entries
    assert len(expected) == 600
    assert points > 7, "three megabytes take several calls"
    for point in chosen(points):
        new = f"killed-{point}"
        await steps_of(shop, plan(new), point)
        try:
            described = await shop.describe(new)
        except NotFound:
            pass
        else:
            if point < points:
                assert described.status == "halted"
                assert (described.reason or "").startswith("it is being made as a fork of m before 601: repeat")
                found = (await loaded(shop, new)).entries
                stamps = sorted(entry.stamp for entry in expected.values())
                assert sorted(entry.stamp for entry in found.values()) == stamps[: len(found)]
        await shop.fork("m", new, before="ship")
        assert (await loaded(shop, new)).entries == expected
        assert (await loaded(shop, new)).record.order == max(entry.stamp for entry in expected.values())
    async with serving(shop):
        for point in chosen(points):
            assert await shop.get(f"killed-{point}").result(60) == 600
        assert await shop.get("whole").result(60) == 600
    assert ran["wordy"] == 600


async def test_one_that_is_not_made_yet_can_be_canceled(shop: Durasleep) -> None:
    async with serving(shop):
        await (await shop.rpc("o", order)).result(20)
        store = await store_of(shop)
        await steps_of(shop, forking.fork(store.keys, "o", "n", "ship"), 3)
        assert (await shop.describe("n")).status == "halted"
        assert (await shop.cancel("n")).word == "canceled while halted"
        assert (await shop.fork("o", "n", before="ship")).disposition is Disposition.ATTACHED
        assert (await shop.retry("n")).word == "retrying"
        assert await shop.get("n").result(20) == ["first 2", "pack 2", "ship 2", "last 2"]


async def test_while_it_runs_it_is_forked_as_it_is(shop: Durasleep) -> None:
    async with serving(shop):
        await shop.rpc("s", sleeper, "s")
        await until(shop, "s", "suspended")
        await shop.fork("s", "s2", before="nap")
        await until(shop, "s2", "suspended")
        for id in ("s", "s2"):
            await shop.wake(id)
            assert (await shop.get(id).result(20)).startswith("s ")
