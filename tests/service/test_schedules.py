"""Cron schedules: each due time starts one execution, whatever the number of workers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import pytest

from durasleep import Context, Durasleep, current
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import journal, schedules, server
from durasleep.protocol.due_schedules import Step
from durasleep.protocol.keys import S
from durasleep.protocol.schedules import Change, Schedule
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import note, sleeping_workflow
from tests.service.workers import Effects, eventually, serving


@pytest.mark.usefixtures("in_one_partition")
async def test_a_schedule_due_in_the_past_starts_once_with_two_workers(
    app: Durasleep, new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    client: Any = real_server.sync_client()
    store = await store_of(app)
    keys = store.keyspaces[-1]
    due = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
    due_ms = round(due.timestamp() * 1000)
    payload = app.codec.encode_args((effects.path, "hourly"), {}, "note")
    schedule = Schedule("hourly", f"{due.minute} * * * *", "UTC", "note", "workers", payload, due_ms)
    assert await store.call(schedules.put_schedule(keys, schedule)) == due_ms
    async with serving(app, "one"), serving(new_app(), "two"):
        await app.get(f"hourly@{due.isoformat()}").result(timeout=30)
        moved = await store.call(schedules.read_schedule(keys, "hourly"))
        assert moved
        assert moved.due_ms > due_ms + 3_600_000 - 1
        assert client.zscore(keys.timers, "hourly~cron") == moved.due_ms
        # Another worker that saw it due, and is late.
        change = Change(due_ms + 1, f"={due_ms + 1}", [PromiseId("hourly@late")])
        assert (await store.call(schedules.advance_schedule(keys, schedule, change))).word == "stale"
        assert await store.call(journal.read_record(keys, PromiseId("hourly@late"))) is None
    assert effects.lines() == ["hourly"]
    assert await app.unschedule("hourly")
    assert not await app.unschedule("hourly")


@pytest.mark.usefixtures("in_one_partition")
async def test_one_that_cannot_be_read_here_stops_neither_other_schedules_nor_sleeps(
    app: Durasleep, effects: Effects, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A time zone that this machine lacks, a line that a newer version understands, a broken hash."""
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    broken = {"no-zone": ("zone", "Mars/Base"), "no-line": ("cron", "@sometimes"), "no-time": ("due", "soon")}
    for name in (*broken, "good"):
        await app.schedule(name, "0 0 1 1 *", note, effects.path, name)
        client.hset(keys.schedule(name), S["due"], "1000")
        client.zadd(keys.timers, {f"{name}~cron": 1000})
    for name, (field, value) in broken.items():
        client.hset(keys.schedule(name), S[field], value)
    async with serving(app):
        for n in range(3):
            assert await (await app.rpc(f"sleep-{n}", sleeping_workflow, 0.01)) == "Slept for 0.01 seconds"
        await eventually(lambda: effects.lines() == ["good"], "the good one to start")
        await eventually(
            lambda: all(f"schedule {name} is due, but" in caplog.text for name in broken), "all to be said"
        )
    assert sorted(member.decode() for member in client.zrange(keys.timers, 0, -1)) == sorted(
        f"{name}~cron" for name in (*broken, "good")
    )
    assert not [line for line in caplog.messages if line.startswith(("firer", "the firer", "the schedules"))]
    notes = (await app.search(status="halted")).notes  # a person finds them
    for name in broken:  # each is offered again, and logged, once a minute
        assert sum(note.startswith(f"quarantined: schedule:{name}: ") for note in notes) == 1
        assert caplog.text.count(f"schedule {name} is due, but") == 1
        await app.unschedule(name)
    assert client.zcard(keys.halted) == 0


@pytest.mark.usefixtures("in_one_partition")
@pytest.mark.parametrize("is_late", [False, True], ids=["it runs already", "it comes later"])
async def test_a_worker_that_can_read_what_another_cannot_starts_it_at_once(
    app: Durasleep,
    new_app: NewApp,
    effects: Effects,
    real_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    is_late: bool,
) -> None:
    """The firing worker's machine lacks the zone; the others are told, and the first that can starts it."""
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.schedule("paris", "0 0 1 1 *", note, effects.path, "paris", zone="Europe/Paris")
    lacking = app.worker(name="a-lacking")

    async def lacks_the_zone(schedule: Schedule) -> Step:
        raise ZoneInfoNotFoundError(schedule.zone)

    monkeypatch.setattr(lacking._servings[0].schedules, "_step", lacks_the_zone)  # pyright: ignore[reportPrivateUsage]
    running = asyncio.create_task(lacking.run())
    await lacking.ready.wait()

    async def refuse() -> None:
        client.hset(keys.schedule("paris"), S["due"], "1000")
        client.zadd(keys.timers, {"paris~cron": 1000})
        await lacking.fire()
        await eventually(lambda: client.zcard(keys.halted) == 1 or effects.lines(), "it to be refused")

    if is_late:
        await refuse()
    async with serving(new_app(), "b-complete"):
        if not is_late:
            await refuse()
        await eventually(lambda: effects.lines() == ["paris"], "the other to start it")
        await eventually(lambda: client.zcard(keys.halted) == 0, "nobody to be told any more")
    lacking.abort()
    await running
    await app.unschedule("paris")


@pytest.mark.usefixtures("in_one_partition")
async def test_hundreds_that_are_due_at_once_do_not_hold_up_a_sleep(app: Durasleep, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    store = await store_of(app)
    keys = store.keyspaces[-1]
    payload = app.codec.encode_args((1,), {}, "double")
    many = [Schedule(f"s-{n}", "0 0 1 1 *", "UTC", "double", "workers", payload, 1000) for n in range(1_500)]
    for first in range(0, len(many), 500):
        await store.ask([schedules.put_schedule(keys, one) for one in many[first : first + 500]])
    async with serving(app):
        assert await (await app.rpc("sleep", sleeping_workflow, 0.01)) == "Slept for 0.01 seconds"
        now_ms = await store.run(server.now_ms(keys))
        left = client.zcount(keys.timers, 0, now_ms + 2_000)  # those started are due in months
        await eventually(lambda: client.zcount(keys.timers, 0, now_ms + 60_000) == 0, "all to be started")
    assert left


@pytest.mark.usefixtures("in_one_partition")
async def test_a_schedule_forgotten_while_due_starts_nothing(
    app: Durasleep, effects: Effects, real_server: Server
) -> None:
    """Its timer may still be there: it is quarantined, and removed from the timers."""
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    client.zadd(keys.timers, {"forgotten~cron": 1})
    async with serving(app):
        await eventually(lambda: client.zcard(keys.timers) == 0, "the timer to go")
    assert effects.lines() == []


async def test_what_a_schedule_has_started_knows_for_which_time(app: Durasleep) -> None:
    begun: list[str] = []

    def of_step() -> datetime | None:
        begun.append(current().id)
        return current().scheduled_at

    @app.workflow
    async def report(ctx: Context) -> list[datetime | None]:
        return [ctx.info.scheduled_at, await ctx.run(of_step)]

    at = datetime.fromisoformat("2026-07-27T03:00:00+02:00")
    async with serving(app):
        await app.schedules.put("nightly", report, cron="0 3 * * *", zone="Europe/Berlin", overlap="allow")
        [id] = await app.schedules.backfill("nightly", at, at)
        await eventually(lambda: id in begun, "its step")
        assert await app.get(id).result(timeout=20) == [at, at]
        assert await (await app.rpc("by@hand", report)).result(timeout=20) == [None, None]
        assert await (await app.rpc("at@2026-07-27", report)).result(timeout=20) == [None, None], "no moment"
    await app.schedules.delete("nightly")
