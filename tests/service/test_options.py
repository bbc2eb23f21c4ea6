"""Options inside of workflows, calls that are refused there, and how long what has ended is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durasleep import Context, Durasleep, Settings, State, UsageError
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import journal, schedules
from durasleep.protocol.keys import LIMIT
from durasleep.protocol.schedules import Change
from harness.servers import Server
from tests.client.functions import odd
from tests.service.fixtures import NewApp
from tests.service.functions import double
from tests.service.workers import eventually, serving

HOUR_MS = 3_600_000
HOUR = Settings(retention=timedelta(hours=1))
FOR_EVER = pytest.mark.leaves_keys("what is kept for ever")


async def parent(ctx: Context, retention: str | None = None) -> list[str]:
    """One child of each kind."""
    options = ctx.options(id="lodger", retention=retention)
    return [
        str(await ctx.rpc(double, 1)),
        str(await options.rpc(double, number=2)),
        await ctx.options(retention=retention).detached(double, 3),
        await ctx.options(target="workers", timeout="1h").rpc(odd, target="a", timeout=1, id="b", fn="c"),
    ]


async def begun_anew(ctx: Context, left: int) -> str:
    await ctx.rpc(double, left)
    if left:
        ctx.continue_as_new(left - 1)
    return await ctx.detached(double, 1, id="last")


@pytest.fixture
def options_app(new_app: NewApp) -> Durasleep:
    return with_functions(new_app())


def with_functions(app: Durasleep) -> Durasleep:
    for workflow in (odd, parent, begun_anew):
        app.workflow(workflow)
    return app


async def ttl_ms(app: Durasleep, server: Server, id: str) -> int:
    """Once it has ended."""
    client: Any = server.sync_client()
    assert await app.get(id).done() or await app.get(id).result(30) is not None
    key = (await store_of(app)).keys(id).promise(id)
    await eventually(lambda: client.pttl(key) != -1 or _says_for_ever(client, key), f"{id} to be closed")
    return int(client.pttl(key))


def _says_for_ever(client: Any, key: str) -> bool:
    return client.hget(key, "r") == b"-1"


def is_about(left_ms: int, kept_ms: int) -> bool:
    return kept_ms - 60_000 < left_ms <= kept_ms + 1  # of two clocks, cut to milliseconds each


@pytest.mark.parametrize(("delay", "timeout"), [(1, 0.5), (1, 1), ("1h", timedelta(minutes=59)), (0.001, 0)])
async def test_a_timeout_that_passes_before_the_delayed_start_is_refused_in_a_workflow(
    options_app: Durasleep, delay: Any, timeout: Any
) -> None:
    """Both count from the call: it would end without having begun."""

    async def starting(ctx: Context) -> None:
        ctx.options(delay=delay, timeout=timeout)

    options_app.workflow(starting)
    async with serving(options_app):
        with pytest.raises(UsageError, match="timeout counts from the call"):
            await (await options_app.rpc("starting", starting))


async def test_a_child_may_be_delayed_and_waked_like_any_other(new_app: NewApp) -> None:
    app = new_app()

    async def delaying(ctx: Context) -> int:
        asked = ctx.options(delay="1h").rpc(double, 1)
        id = await ctx.options(delay=timedelta(hours=1)).detached(double, 2)
        await ctx.options(delay=0.01).rpc(double, 3)
        return await asked + len(id)

    app.workflow(delaying)
    async with serving(app):
        handle = await app.start(delaying)
        await eventually(lambda: _waits_for(app, f"{handle.id}~1"), "the delayed child")
        assert (await app.describe(f"{handle.id}~1")).status == "delayed"
        await app.wake(f"{handle.id}~1")
        assert await handle.result(30) > 2


# -- calls that are refused


async def test_a_call_by_name_is_refused_where_the_application_knows_the_function(app: Durasleep) -> None:
    with pytest.raises(UsageError, match="numbers"):
        await app.rpc("x", "double", numbers=1)
    with pytest.raises(UsageError, match="numbers"):
        await app.schedule("x", "0 0 1 1 *", "double", numbers=1)
    assert await app.search(status=("queued", "done")) == []


async def test_a_workflow_is_told_where_it_calls(new_app: NewApp) -> None:
    """It can be caught, starts nothing, and takes no number."""
    app = new_app()

    async def clumsy(ctx: Context) -> list[str]:
        said: list[str] = []
        verbs: list[Callable[..., Any]] = [
            ctx.rpc,
            ctx.options(id="x").rpc,
            ctx.detached,
            ctx.options(id="x", retention="1h").detached,
        ]
        for call in verbs:
            for args, kwargs in (((), {}), ((), {"numbers": 1}), ((1, 2), {}), (("many",), {})):
                try:
                    call(double, *args, **kwargs)
                except UsageError as error:
                    said.append("double" if "double" in str(error) else str(error))
        try:
            ctx.options(retention="1h").rpc(double, 1)
        except UsageError as error:
            said.append(str(error)[:5])
        await ctx.sleep(0.01)
        return said

    app.workflow(clumsy)
    async with serving(app):
        assert await (await app.rpc("clumsy", clumsy)).result(30) == ["double"] * 16 + ["a chi"]
        store = await store_of(app)
        loaded = await store.load(PromiseId("clumsy"))
        assert loaded
        assert len(loaded.entries) == 1


async def test_what_is_awake_is_not_judged_by_a_signature_that_came_later(new_app: NewApp) -> None:
    """Deployed while it sleeps: its call stands in its journal, so that nobody asks whether it still fits."""
    old, new = new_app(), new_app()

    async def helper(ctx: Context, a: int) -> int:
        return a

    async def caller(ctx: Context) -> int:
        asked = ctx.rpc("helper", 1)
        await ctx.promise(name="go")
        return await asked

    old.workflow(helper)
    old.workflow(caller)
    async with serving(old):
        handle = await old.rpc("caller", caller)
        await eventually(lambda: _state(old, "caller~1"), "the child to end")

    async def wider(ctx: Context, a: int, b: int) -> int:
        return a + b

    new.workflow(name="helper")(wider)

    async def calls_wider(ctx: Context) -> int:
        asked = ctx.rpc(wider, 1)
        await ctx.promise(name="go")
        return await asked

    new.workflow(name="caller")(calls_wider)
    async with serving(new):
        await new.promises.resolve("caller~2")
        assert await new.get(handle.id, int).result(30) == 1


async def _state(app: Durasleep, id: str) -> bool:
    store = await store_of(app)
    record = await store.call(journal.read_record(store.keys(id), PromiseId(id)))
    return record is not None and record.state is State.RESOLVED


async def test_of_several_versions_a_call_must_fit_the_newest_for_that_one_begins(app: Durasleep) -> None:
    async def first(ctx: Context, a: int) -> int:
        return a

    async def second(ctx: Context, a: int, b: int) -> int:
        return a + b

    app.workflow(name="sum")(first)
    app.workflow(name="sum", version=2)(second)
    with pytest.raises(UsageError, match="'b'"):
        await app.rpc("x", first, 1)
    with pytest.raises(UsageError, match="'b'"):
        await app.rpc("x", "sum", 1)
    async with serving(app):
        assert await (await app.rpc("x", first, 1, 2)) == 3


async def test_a_promise_takes_the_shape_of_its_hint(new_app: NewApp) -> None:
    app = new_app()

    async def expecting(ctx: Context) -> str:
        length = await ctx.promise(timedelta)
        winner = await ctx.race(ctx.promise(int | None), ctx.sleep("1h"))
        return f"{length.total_seconds():g} {winner.value!r}"

    app.workflow(expecting)
    async with serving(app):
        handle = await app.start(expecting)
        await eventually(lambda: _waits_for(app, f"{handle.id}~1"), "the first to be asked for")
        await app.promises.resolve(f"{handle.id}~1", timedelta(seconds=5))
        await eventually(lambda: _waits_for(app, f"{handle.id}~2"), "the second to be asked for")
        await app.promises.resolve(f"{handle.id}~2", "5")
        assert await handle.result("30s") == "5 5"


async def _waits_for(app: Durasleep, id: str) -> bool:
    owner = await app.describe(id.partition("~")[0])
    return id in [one.id for one in owner.waiting_on]


# -- how long what has ended is kept


async def test_what_a_workflow_starts_is_kept_as_long_as_the_workflow(new_app: NewApp, real_server: Server) -> None:
    app = with_functions(new_app(settings=HOUR))
    worker_app = with_functions(new_app())  # whoever runs it may have other settings
    async with serving(worker_app):
        _, _, stranger, _ = await (await app.rpc("family", parent)).result(30)
        assert await (await app.rpc("years", begun_anew, 3)).result(30) == "last"
        for id in ("family", "family~1", "lodger", stranger, "years", "last"):
            assert is_about(await ttl_ms(app, real_server, id), HOUR_MS), id
        assert is_about(await ttl_ms(app, real_server, "family~4"), HOUR_MS)


@FOR_EVER
async def test_options_say_how_long_a_call_and_what_it_starts_are_kept(
    options_app: Durasleep, real_server: Server
) -> None:
    app = options_app
    async with serving(app):
        for id, retention, kept_ms in (("s", 7200, 2 * HOUR_MS), ("t", "2h", 2 * HOUR_MS), ("e", "forever", -1)):
            await (await app.options(retention=retention).rpc(id, double, 1)).result(30)
            left_ms = await ttl_ms(app, real_server, id)
            assert is_about(left_ms, kept_ms) if kept_ms > 0 else left_ms == -1
        [many] = await app.options(retention=timedelta(hours=2)).rpc_many(double, [("m", 1)])
        await many.result(30)
        assert is_about(await ttl_ms(app, real_server, "m"), 2 * HOUR_MS)
        _, _, stranger, _ = await (await app.options(retention="2h").rpc("other", parent, "1h")).result(30)
        assert is_about(await ttl_ms(app, real_server, "other"), 2 * HOUR_MS)
        assert is_about(await ttl_ms(app, real_server, "lodger"), HOUR_MS)
        assert is_about(await ttl_ms(app, real_server, stranger), HOUR_MS)


@FOR_EVER
@pytest.mark.usefixtures("in_one_partition")
async def test_a_schedule_keeps_what_it_starts_as_long_as_whoever_put_it_says(
    app: Durasleep, new_app: NewApp, real_server: Server
) -> None:
    hourly = new_app(settings=HOUR)
    line = "0 0 1 1 *"
    await app.schedule("week", line, double, 1)
    await hourly.schedule("hour", line, double, 1)
    await hourly.options(retention="2h", target="workers").schedule("two", line, double, 1, zone="Europe/Berlin")
    await app.options(retention="forever").schedule("ever", line, double, 1)
    with pytest.raises(UsageError, match="target and retention"):
        await app.options(timeout=5).schedule("x", line, double, 1)
    client: Any = real_server.sync_client()
    store = await store_of(app)
    keys = store.keyspaces[-1]
    for name in ("week", "hour", "two", "ever"):
        schedule = await store.call(schedules.read_schedule(keys, name))
        assert schedule
        change = Change(schedule.due_ms, "", [PromiseId(f"{name}-1")])
        await store.call(schedules.advance_schedule(keys, schedule, change))
        await app.unschedule(name)
    async with serving(app):
        for name, kept_ms in (("week", LIMIT["retention_ms"]), ("hour", HOUR_MS), ("two", 2 * HOUR_MS)):
            assert is_about(await ttl_ms(app, real_server, f"{name}-1"), kept_ms)
        assert await ttl_ms(app, real_server, "ever-1") == -1
    assert not client.hexists(keys.promise("week-1"), "r")
