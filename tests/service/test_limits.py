"""Limits and priorities at work: with workers that die, in workflows, by name, and beside an older version."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durasleep import Context, Durasleep, Limit, LimitFull, NotAllowed, UsageError
from durasleep.client.client import store_of
from durasleep.errors import DefinitionError
from durasleep.query import attention
from harness import versions
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, sleeping_workflow
from tests.service.workers import Effects, Workers, eventually, serving, until

BEFORE = "9ab6cd74"
"""The last commit without limits, priorities and labels."""


class Inside:
    """Counts who runs at a time."""

    def __init__(self) -> None:
        self.now = Counter[str]()
        self.most = Counter[str]()
        self.most_of_all = 0
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def work(self, key: str, number: int) -> str:
        self.begun.append(f"{key}{number}")
        self.now[key] += 1
        self.most[key] = max(self.most[key], self.now[key])
        self.most_of_all = max(self.most_of_all, self.now.total())
        try:
            await self.gate.wait()
            await asyncio.sleep(0.002)
        finally:
            self.now[key] -= 1
        return f"{key}{number}"


@pytest.fixture
def inside() -> Inside:
    return Inside()


def limited(app: Durasleep, inside: Inside, limit: Limit, name: str = "work") -> Callable[..., Any]:
    async def work(key: str, number: int) -> str:
        return await inside.work(key, number)

    return app.task(name=name, limit=limit, by=lambda *args: args[0])(work)


def calls_of(keys: str, count: int) -> list[tuple[str, str, int]]:
    """With the key in each id, for namespaces with several partitions."""
    return [(f"{{{key}}}{number}", key, number) for number in range(count) for key in keys]


async def test_no_limit_is_broken_while_workers_die(new_app: NewApp, inside: Inside) -> None:
    limit = Limit("each", per_key=2, total=8)
    apps = [new_app(settings=QUICK) for _ in range(3)]
    works = [limited(app, inside, limit) for app in apps]
    work = works[2]
    calls = calls_of("abcd", 25)
    async with serving(apps[0], "w0") as first, serving(apps[1], "w1") as second:
        inside.gate.clear()
        handles = await apps[2].rpc_many(work, calls)
        await eventually(lambda: inside.now.total() >= 4, "some to run")
        first.crash()
        await eventually(lambda: not first.held(), "the first to be dead")
        inside.gate.set()
        async with serving(apps[2], "w2"):
            assert sorted(await apps[2].gather(handles)) == sorted(f"{key}{number}" for _, key, number in calls)
        assert second.running == 0
    assert max(inside.most.values()) == 2
    assert inside.most_of_all <= 8


@pytest.mark.one_partition("the keys take turns within one")
async def test_one_of_b_behind_many_of_a_is_among_the_first(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("turns", total=2))
    handles = await app.rpc_many(work, [*calls_of("a", 200), *calls_of("b", 1)])
    async with serving(app):
        await app.gather(handles)
    assert inside.begun.index("b0") < 5


async def test_a_caller_that_knows_only_the_name_gives_the_key(new_app: NewApp, inside: Inside) -> None:
    app, caller = new_app(), new_app()
    limited(app, inside, Limit("each", per_key=1))
    async with serving(app):
        with pytest.raises(UsageError, match="counts by key: give a key"):
            await caller.rpc("{a}1", "work", "a", 1)
        assert await (await caller.options(key="a").rpc("{a}1", "work", "a", 1)).result(30) == "a1"


async def test_what_has_a_limit_is_no_step(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1))

    async def stepping(ctx: Context) -> str:
        try:
            await ctx.run(work, "a", 1)
        except DefinitionError as error:
            return str(error)
        return ""

    app.workflow(stepping)
    async with serving(app):
        said = await (await app.rpc("w", stepping)).result(30)
    assert "has limit 'each', which counts executions, and a step is none: `await ctx.rpc(work, ...)`" in said


async def test_a_workflow_is_told_when_its_child_may_not_even_wait(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1, parked_max=1))

    async def calling(ctx: Context) -> list[str]:
        found = await asyncio.gather(*[ctx.rpc(work, "a", n) for n in range(3)], return_exceptions=True)
        return [type(one).__name__ if isinstance(one, BaseException) else one for one in found]

    app.workflow(calling)
    async with serving(app):
        assert await (await app.rpc("{a}w", calling)).result(30) == ["a0", "a1", "LimitFull"]


async def test_what_is_dropped_is_said_by_its_handle(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("throttle", per_key=1, parked_max=0, overflow="drop"))
    inside.gate.clear()
    async with serving(app):
        first = await app.rpc("{a}1", work, "a", 1)
        second = await app.rpc("{a}2", work, "a", 2)
        assert (first.disposition, second.disposition) == ("created", "dropped")
        with pytest.raises(LimitFull, match=r"\{a\}2 was not started"):
            await second.result(30)
        inside.gate.set()
        assert await first.result(30) == "a1"


async def test_a_sleeping_workflow_holds_no_slot(new_app: NewApp) -> None:
    app = new_app()
    nap = app.workflow(name="nap-limited", limit=Limit("one", total=len(await app.partitions())))(
        lambda_free(sleeping_workflow)
    )
    async with serving(app):
        handles = await app.rpc_many(nap, [(f"n{n}", 300) for n in range(10)])
        for handle in handles:
            await until(app, handle.id, "suspended")
        assert [one.in_use for one in await app.limits.ls()] == [0]
        for handle in handles:
            await app.wake(handle.id)
        await app.gather(handles)


def lambda_free(workflow: Callable[..., Any]) -> Callable[..., Any]:
    """The same workflow as a function of its own, which can have another name."""

    async def nap(ctx: Context, secs: float) -> str:
        return await workflow(ctx, secs)

    return nap


async def test_a_person_sees_and_changes_a_limit(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1, rate="1000/s", burst=10))
    inside.gate.clear()
    async with serving(app):
        handles = await app.rpc_many(work, calls_of("a", 5))
        await eventually(lambda: inside.now["a"] == 1, "one to run")
        [seen] = await app.limits.ls()
        assert (seen.name, seen.per_key, seen.rate, seen.burst, seen.in_use, seen.parked, seen.keys) == (
            *("each", 1, "1000/s", 10),
            *(1, 4, 1),
        )
        await app.limits.set("each", per_key=3, rate=None)
        await eventually(lambda: inside.now["a"] == 3, "three to run")
        assert await app.limits.pause("each")
        assert not await app.limits.pause("each")
        inside.gate.set()
        await eventually(lambda: inside.now["a"] == 0, "those to end")
        assert len(inside.begun) == 3
        await app.limits.reset("each")
        assert await app.limits.resume("each")
        await app.gather(handles)
        assert (await app.limits.get("each")).per_key == 1


async def test_a_new_id_is_where_its_limit_counts(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1, rate="1000/s", burst=9))
    async with serving(app):
        handle = await app.start(work, "ada", 1)
        assert await handle == "ada1"
        named = await app.options(key="ada").start("work", "ada", 2)
        assert await named == "ada2"
    assert (await app.limits.get("each")).burst == 9


async def test_a_key_that_nothing_counts_is_refused(app: Durasleep) -> None:
    with pytest.raises(UsageError, match="double has no limit, so key 'ada' does nothing"):
        await app.options(key="ada").rpc("a", double, 1)


async def test_all_shares_of_a_burst_are_shown_as_one(new_app: NewApp, inside: Inside) -> None:
    app = new_app()

    async def work() -> None: ...

    app.task(limit=Limit("in-all", rate="80/s", burst=12))(work)
    async with serving(app):
        seen = await app.limits.get("in-all")
        assert (seen.rate, seen.burst) == ("80/s", 12)
        await app.limits.set("in-all", rate="160/s", burst=20)
        assert ((await app.limits.get("in-all")).rate, (await app.limits.get("in-all")).burst) == ("160/s", 20)
        with pytest.raises(UsageError, match="burst needs a rate"):
            await app.limits.set("in-all", rate=None, burst=3)


async def test_what_waits_says_where_and_why(new_app: NewApp, inside: Inside) -> None:
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1))
    inside.gate.clear()
    async with serving(app):
        handles = await app.options(priority=2).rpc_many(work, calls_of("a", 3))
        await eventually(lambda: inside.now["a"] == 1, "one to run")
        await app.limits.pause("each")
        [waits, *_] = [one.id for one in await app.search(status="parked")]
        told = await app.describe(waits)
        assert (told.limit, told.limit_key, told.priority) == ("each", "a", 2)
        assert told.place_in_line in (1, 2)
        assert told.limit_paused_since_ms
        store = await store_of(app)
        [line] = await store.run(attention.paused_limits(store.keyspaces, told.limit_paused_since_ms + 60_000))
        assert line.text.endswith("2 executions wait")
        assert "limit 'each' was paused" in line.text
        with pytest.raises(NotAllowed, match="limit each is in use: 3 executions hold or wait"):
            await app.limits.delete("each")
        await app.limits.resume("each")
        inside.gate.set()
        await app.gather(handles)
        await app.limits.delete("each")
        assert await app.limits.ls() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"per_key": 0},
        {"total": -1},
        {"rate": "10"},
        {"rate": "0/s"},
        {"burst": 2, "total": 1},
        {"total": 1, "hold": "x"},
    ],
)
def test_a_limit_has_its_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"limit 'x'|rate "):
        Limit("x", **wrong)


@pytest.mark.one_partition("the order of one queue")
async def test_no_priority_starves(new_app: NewApp) -> None:
    """However full the others are, the last one begins at least once in sixty."""
    app, begun = new_app(), list[int]()

    async def task(priority: int) -> None:
        begun.append(priority)

    app.task(task)
    for priority in range(1, 6):
        await app.options(priority=priority).rpc_many(task, [(f"{priority}-{n}", priority) for n in range(400)])
    async with serving(app, concurrency=1):
        await eventually(lambda: len(begun) == 2000, "all to run")
    first_of_one = begun[:400]
    assert first_of_one.count(1) > 300
    for priority in range(2, 6):
        places = [-1, *[at for at, one in enumerate(begun[:600]) if one == priority]]
        assert max(after - before for before, after in itertools.pairwise(places)) <= 60, priority


async def test_children_have_the_priority_and_the_labels_of_their_parent(new_app: NewApp) -> None:
    app = new_app()

    async def parent(ctx: Context) -> list[Any]:
        await ctx.rpc(double, 1)
        await ctx.options(labels={"b": "2"}, priority=5).rpc(double, 2)
        await ctx.options(id="own").detached(double, 3)
        return [ctx.info.priority, dict(ctx.info.labels)]

    app.workflow(parent)
    async with serving(app):
        handle = await app.options(priority=1, labels={"a": "1"}).rpc("p", parent)
        assert await handle.result(30) == [1, {"a": "1"}]
        await eventually(lambda: is_there(app, "own"), "the detached one")
        found = [await app.describe(id) for id in ("p", "p~1", "p~2", "own")]
    assert [(one.priority, one.labels) for one in found] == [
        (1, {"a": "1"}),
        (1, {"a": "1"}),
        (5, {"a": "1", "b": "2"}),
        (1, {"a": "1"}),
    ]


async def is_there(app: Durasleep, id: str) -> bool:
    return any(one.id == id for one in await app.search(status=["queued", "running", "done"]))


@pytest.mark.long
async def test_while_an_older_version_works_there_are_none_and_then_it_works_no_more(
    new_app: NewApp, workers: Workers, inside: Inside, effects: Effects, tmp_path: Path
) -> None:
    old = versions.of_commit(BEFORE, tmp_path / "old")
    if old is None:
        pytest.skip("the history of the repository is not at hand")
    app = new_app()
    work = limited(app, inside, Limit("each", per_key=1))
    older = await workers.begin("older", package=old, module="older").ready()
    for call in (
        app.rpc("{a}1", work, "a", 1),
        app.options(priority=1).rpc("p", double, 1),
        app.options(labels={"a": "1"}).rpc("l", double, 1),
    ):
        with pytest.raises(NotAllowed, match="when no worker of an older version is left; there are older"):
            await call
    async with serving(app, "newer"):
        assert await (await app.rpc("plain", double, 2)).result(30) == 4
        await older.kill()

        async def begun() -> bool:
            try:
                await app.rpc("{a}1", work, "a", 1)
            except NotAllowed:
                return False
            return True

        await eventually(begun, "the older one to be gone")
        assert await app.get("{a}1").result(30) == "a1"
        late = workers.begin("late", package=old, module="older")
        assert await late.exited() != 0
        assert "needs flow, which this version of durasleep does not know" in late.log()
