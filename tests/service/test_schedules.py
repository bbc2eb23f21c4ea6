"""Cron schedules: each time starts one execution, however many workers look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Durasleep, UsageError
from durasleep.model import PromiseId
from durasleep.store import commands, reads
from durasleep.store.commands import Schedule
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import note
from tests.service.workers import Effects, eventually, serving


async def test_a_schedule_due_in_the_past_starts_once_with_two_workers(
    app: Durasleep, new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    client: Any = real_server.sync_client()
    store = await app.opened()
    keys = store.keys()
    due = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
    due_ms = round(due.timestamp() * 1000)
    payload = app.codec.encode_args((effects.path, "hourly"), {}, "note")
    schedule = Schedule("hourly", f"{due.minute} * * * *", "UTC", "note", "workers", payload, due_ms)
    assert await store.call(commands.put_schedule(keys, schedule)) == "kept"
    async with serving(app, "one"), serving(new_app(), "two"):
        await app.get(f"hourly@{due.isoformat()}").result(timeout=30)
        moved = await store.call(commands.read_schedule(keys, "hourly"))
        assert moved
        assert moved.due_ms > due_ms + 3_600_000 - 1
        assert client.zscore(keys.timers, "hourly~cron") == moved.due_ms
        # A worker that saw it due as well, and is late.
        late = commands.advance_schedule(keys, schedule, next_due_ms=due_ms + 1, id=PromiseId("hourly@late"))
        assert await store.call(late) == "stale"
        assert await store.call(reads.read_head(keys, PromiseId("hourly@late"))) is None
    assert effects.lines() == ["hourly"]
    assert await app.unschedule("hourly")
    assert not await app.unschedule("hourly")


async def test_a_schedule_is_replaced_by_name_and_refused_if_it_makes_no_sense(
    app: Durasleep, effects: Effects, real_server: Server
) -> None:
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
    first = await app.schedule("nightly", "0 3 * * *", note, effects.path, "night", zone="Europe/Berlin")
    assert first > datetime.now(UTC)
    second = await app.schedule("nightly", "0 4 * * *", note, effects.path, "night", zone="Europe/Berlin")
    assert client.zrange(keys.timers, 0, -1, withscores=True) == [(b"nightly~cron", second.timestamp() * 1000)]
    for line, zone, named in (("every day", "UTC", "every day"), ("0 3 * * *", "Mars/Base", "Mars/Base")):
        with pytest.raises(UsageError, match=named):
            await app.schedule("nightly", line, note, zone=zone)
    assert client.zcard(keys.timers) == 1
    await app.unschedule("nightly")
    assert client.zcard(keys.timers) == 0


async def test_a_schedule_forgotten_while_due_starts_nothing(
    app: Durasleep, effects: Effects, real_server: Server
) -> None:
    """Its timer may still be there: it is put aside without a trace in the timers."""
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
    client.zadd(keys.timers, {"forgotten~cron": 1})
    async with serving(app):
        await eventually(lambda: client.zcard(keys.timers) == 0, "the timer to go")
    assert effects.lines() == []
