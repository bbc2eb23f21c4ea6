"""An overview shows what is there, whoever serves it; and the counters of what has ended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from durasleep import Context, Durasleep, Limit, UsageError
from durasleep.client.client import store_of
from durasleep.protocol.keys import LIMIT
from durasleep.query.overview import GroupLoad
from durasleep.query.stats import OTHER
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, failing, passage, sleeping_workflow, stand_at
from tests.service.workers import Effects, eventually, serving, until


async def limited_passage(ctx: Context, effects: str) -> str:
    return await ctx.run(stand_at, effects, "gate")


async def group_of(app: Durasleep, name: str = "workers") -> GroupLoad:
    return next(group for group in (await app.overview()).groups if group.name == name)


@pytest.mark.parametrize("partitions", [1, 4])
async def test_it_counts_what_waits_runs_sleeps_and_is_halted(
    app: Durasleep, effects: Effects, partitions: int
) -> None:
    await app.init(partitions=partitions)
    async with serving(app, concurrency=6) as worker:
        runs = [await app.rpc(f"runs-{n}", passage, effects.path) for n in range(3)]
        sleeps = [await app.rpc(f"sleeps-{n}", sleeping_workflow, 3600) for n in range(4)]
        for handle in sleeps:
            await until(app, handle.id, "suspended")
        await app.halt("sleeps-0")

        async def all_run() -> bool:
            return (await app.overview()).running == len(runs)

        await eventually(all_run, "three that run")
        seen = await app.overview()
        group = await group_of(app)
        assert (group.queued, group.running, group.slots) == (0, 3, 6)
        [load] = group.workers
        assert (load.name, load.running, load.slots, load.is_leaving) == (worker.name, 3, 6, False)
        assert load.partitions == list(range(partitions))
        assert (seen.sleepers, seen.halted, seen.quarantined, seen.overdue_s) == (4, 1, 0, 0)
        assert seen.next_due_ms == (await app.timers(1))[0].due_at_ms
        assert [row.number for row in seen.partitions] == list(range(partitions))
        assert sum(row.running for row in seen.partitions) == 3
        assert sum(row.halted for row in seen.partitions) == 1
        assert seen.is_all
        effects.open("gate")
        for handle in runs:
            await handle.result(20)
    assert not await app.workers()
    assert [group.workers for group in (await app.overview()).groups if group.name == "workers"] in ([], [[]])


async def test_it_finds_groups_that_nobody_serves(app: Durasleep) -> None:
    for level in (1, 1, 3, 5):
        await app.options(target="nobody", priority=level).start(double, 1)
    await app.options(target="poll://uni@nobody/ann").start(double, 1)
    await app.pause_group("nobody")
    waited_s = (await group_of(app, "nobody")).oldest_queued_s
    group = await group_of(app, "nobody")
    assert [level.queued for level in group.levels] == [2, 0, 2, 0, 1]
    assert (group.queued, group.running, group.queued_for_one, group.workers) == (5, 0, 1, [])
    assert group.oldest_queued_s >= waited_s
    assert group.paused_by
    assert group.paused_since_ms


async def test_a_group_that_comes_later_is_found_by_a_client_that_asks_again(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.query.overview._AGAIN_MS", 0)
    assert (await app.overview()).groups == []
    await app.options(target="later").start(double, 1)
    assert [group.name for group in (await app.overview()).groups] == ["later"]


async def test_limits_show_their_slots_and_who_waits_for_them(new_app: NewApp, effects: Effects) -> None:
    app = new_app()
    app.workflow(name="limited", limit=Limit("few", total=1, hold="life"))(limited_passage)
    async with serving(app):
        handles = [await app.rpc(f"l{n}", "limited", effects.path) for n in range(3)]

        async def is_used() -> bool:
            return [(one.in_use, one.total, one.parked) for one in (await app.overview()).limits] == [(1, 1, 2)]

        await eventually(is_used, "one slot in use, and two that wait")
        effects.open("gate")
        for handle in handles:
            await handle.result(20)


async def test_what_is_overdue_shows_if_no_worker_lives(app: Durasleep) -> None:
    await app.options(delay=0.001).rpc("late", double, 1)
    await asyncio.sleep(0.01)
    first, second = await app.overview(), await app.overview()
    assert 0 < first.overdue_s <= second.overdue_s
    assert first.due_soon == 1
    assert first.next_due_ms is not None
    assert first.next_due_ms <= first.at_ms


async def test_broken_keys_do_not_stop_it(app: Durasleep, real_server: Server) -> None:
    redis = real_server.client()
    keys = (await store_of(app)).keyspaces[0]
    for name in (keys.timers, keys.halted, keys.functions, keys.queue("bad"), keys.group("bad")):
        await redis.set(name, "x")
    try:
        assert (await app.overview()).sleepers == 0
    finally:
        await redis.delete(keys.timers, keys.halted, keys.functions, keys.queue("bad"), keys.group("bad"))


@pytest.mark.parametrize("partitions", [1, 4])
async def test_stats_count_endings_by_function_and_minute(app: Durasleep, partitions: int) -> None:
    await app.init(partitions=partitions)
    async with serving(app):
        for handle in [await app.start(double, n) for n in range(10)]:
            await handle.result(20)
        bad = await app.rpc("bad", failing, "no")
        with pytest.raises(ValueError, match="no"):
            await bad.result(20)
        gone = await app.rpc("gone", sleeping_workflow, 60)
        await gone.cancel(force=True)
    stats = await app.stats("5m")
    by_name = {one.name: one for one in stats.functions}
    assert (by_name["double"].resolved, by_name["double"].ended) == (10, 10)
    assert (by_name["failing"].rejected, by_name["failing"].failed) == (1, 1)
    assert by_name["sleeping_workflow"].canceled == 1
    assert (stats.total.ended, stats.total.failed) == (12, 1)
    assert 5 <= len(stats.minutes) <= 6
    assert sum(minute.ended for minute in stats.minutes) == 12
    [failure] = await app.last_failures()
    assert (failure.id, failure.error) == ("bad", "ValueError: no")
    assert stats.is_all


async def test_a_client_that_asks_again_sees_new_endings(app: Durasleep) -> None:
    async with serving(app):
        for count in (1, 2, 3):
            await (await app.start(double, 1)).result(20)
            assert (await app.stats("26h")).total.resolved == count


async def test_functions_without_room_in_a_minute_are_counted_together(app: Durasleep, real_server: Server) -> None:
    keys = (await store_of(app)).keyspaces[0]
    stats = await app.stats("1m")
    key = keys.stats(str(stats.at_ms // 60_000))
    await real_server.client().hset(
        key, mapping={"\tother\tr": 3, "\tother\tms": 70, "f\tr": 1, "odd": "x", "f\tnew": 5}
    )
    await real_server.client().pexpire(key, LIMIT["inbox_ttl_ms"])
    assert [(one.name, one.resolved, one.ms) for one in (await app.stats("1m")).functions] == [
        (OTHER, 3, 70),
        ("f", 1, 0),
    ]


async def test_bad_requests_are_refused(app: Durasleep) -> None:
    with pytest.raises(UsageError, match="time zone"):
        await app.stats(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake
    with pytest.raises(UsageError):
        await app.stats("soon")
    with pytest.raises(UsageError, match="limit 0"):
        await app.last_failures(0)
    future = await app.stats(datetime.now(UTC) + timedelta(days=1))
    assert len(future.minutes) == 1
