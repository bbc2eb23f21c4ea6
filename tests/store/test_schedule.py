"""schedule.lua: of many workers that see a schedule due, one starts its execution."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from durasleep.errors import CorruptData, UsageError
from durasleep.model import CommitAction, Place, PromiseId
from durasleep.protocol import schedules
from durasleep.protocol.keys import LIMIT, S
from durasleep.protocol.schedules import Change, Schedule
from durasleep.query import fsck
from tests.store.driver import Driver

NIGHTLY = Schedule("nightly", "0 0 * * *", "Europe/Berlin", "f", "workers", bytes(range(256)), 1000)


async def keep(driver: Driver, schedule: Schedule = NIGHTLY) -> int:
    return await driver.store.call(schedules.put_schedule(driver.keys, schedule))


async def advance(driver: Driver, seen: Schedule = NIGHTLY, *, next_due_ms: int = 9_000_000_000_000) -> str:
    change = Change(next_due_ms, f"={next_due_ms}", [PromiseId(f"{seen.name}@{seen.due_ms}")])
    return (await driver.store.call(schedules.advance_schedule(driver.keys, seen, change))).word


async def read(driver: Driver) -> Schedule | None:
    return await driver.store.call(schedules.read_schedule(driver.keys, "nightly"))


async def test_a_schedule_is_kept_and_offered_when_it_is_due(driver: Driver) -> None:
    assert await keep(driver) == 1000
    assert await read(driver) == NIGHTLY
    assert await driver.timers() == {"nightly~cron": 1000}
    await driver.redis.delete(driver.keys.wake)  # a hint may be given again
    before = await driver.snapshot()
    assert await keep(driver) == 1000
    await driver.redis.delete(driver.keys.wake)
    assert await driver.snapshot() == before
    assert (await driver.fire()).schedules == ["nightly"]


async def test_the_same_line_and_zone_again_stay_due_as_they_were_with_what_they_start_now(driver: Driver) -> None:
    await keep(driver)
    assert await keep(driver, replace(NIGHTLY, function="g", args=b"", due_ms=5000)) == 1000
    assert await read(driver) == replace(NIGHTLY, function="g", args=b"")
    assert await driver.timers() == {"nightly~cron": 1000}
    assert await keep(driver, replace(NIGHTLY, zone="Europe/Paris", due_ms=5000)) == 5000
    assert await keep(driver, replace(NIGHTLY, cron="0 1 * * *", due_ms=6000)) == 6000
    assert await driver.timers() == {"nightly~cron": 6000}


async def test_of_many_workers_one_starts_the_execution(driver: Driver) -> None:
    await keep(driver)
    await driver.fire()
    words = await asyncio.gather(*(advance(driver) for _ in range(20)))
    assert sorted(words) == ["advanced", *["stale"] * 19]
    assert await driver.place("nightly@1000") is Place.QUEUED
    assert (await driver.record("nightly@1000")).args == NIGHTLY.args
    assert await driver.queued() == ["nightly@1000"]
    assert await driver.timers() == {"nightly~cron": 9_000_000_000_000}
    assert (await read(driver)) == replace(NIGHTLY, due_ms=9_000_000_000_000)


async def test_a_worker_with_an_old_memory_of_the_schedule_starts_nothing(driver: Driver) -> None:
    await keep(driver)
    changed = replace(NIGHTLY, cron="0 1 * * *", due_ms=2000, function="g")
    await keep(driver, changed)
    before = await driver.snapshot()
    assert await advance(driver) == "stale"
    assert await driver.snapshot() == before


async def test_an_id_that_is_in_use_already_does_not_stop_the_schedule(driver: Driver) -> None:
    await keep(driver)
    await driver.create("nightly@1000")
    assert await advance(driver) == "advanced"
    assert await driver.queued() == ["nightly@1000"]


async def test_a_removed_schedule_is_gone_with_its_timer(driver: Driver) -> None:
    await keep(driver)
    remove = schedules.remove_schedule(driver.keys, "nightly")
    assert [await driver.store.call(remove) for _ in range(2)] == ["removed", "missing"]
    assert await advance(driver) == "missing"
    assert set(await driver.snapshot()) == {driver.keys.wake.encode()}
    assert await read(driver) is None


async def test_an_earlier_due_time_wakes_the_firers(driver: Driver) -> None:
    await keep(driver, replace(NIGHTLY, due_ms=9_000_000_000_000))
    last_wake = (await driver.fire()).last_wake
    await keep(driver, replace(NIGHTLY, cron="0 1 * * *", due_ms=8_000_000_000_000))
    fired = await driver.fire()
    assert fired.last_wake > last_wake
    assert fired.next_due_ms == 8_000_000_000_000


@pytest.mark.leaves_keys("a queue of a wrong type")
async def test_a_broken_queue_is_named_and_the_schedule_stays_due(driver: Driver) -> None:
    await keep(driver)
    await driver.redis.set(driver.keys.queue("workers"), "garbage")
    before = await driver.snapshot()
    with pytest.raises(CorruptData, match="queue:workers"):
        await advance(driver)
    assert await driver.snapshot() == before


async def test_what_a_schedule_starts_is_kept_as_long_as_the_schedule_says(driver: Driver) -> None:
    for retention_ms in (60_000, -1, None):
        schedule = replace(NIGHTLY, retention_ms=retention_ms, due_ms=9_000_000_000_000)
        due_ms = await keep(driver, schedule)  # the same line: what was kept before is replaced
        assert await read(driver) == replace(schedule, due_ms=due_ms)
        seen = replace(schedule, due_ms=due_ms)
        assert await advance(driver, seen, next_due_ms=due_ms + 1) == "advanced"
        lease = await driver.take()
        await driver.commit(lease, CommitAction.RESOLVE)
        expected_ms = LIMIT["retention_ms"] if retention_ms is None else retention_ms
        if retention_ms == -1:
            assert await driver.ttl_ms(lease.id) == -1
            await driver.redis.delete(driver.keys.promise(lease.id))
        else:
            await driver.assert_kept_together(lease.id, retention_ms=expected_ms)


async def quarantined(
    driver: Driver, reason: str = "no such zone", *, seen: Schedule = NIGHTLY, offered: bool = True
) -> str:
    return await driver.store.call(
        schedules.quarantine_schedule(driver.keys, seen.name, seen.due_ms, reason, is_offered=offered)
    )


async def test_one_that_cannot_be_read_is_quarantined_by_name_until_somebody_reads_it(driver: Driver) -> None:
    await keep(driver)
    fired = await driver.fire()
    assert await quarantined(driver) == "aside"
    assert await driver.halted() == ["schedule:nightly: no such zone"]
    [(_, told)] = await driver.redis.xrange(driver.keys.wake)
    assert told[b"c"] == b"nightly"  # the others look whether they can
    offered = (await driver.timers())["nightly~cron"]
    assert 50_000 < offered - fired.server_us // 1000 <= 61_000
    assert (await driver.fire()).last_wake > fired.last_wake
    before = await driver.snapshot()
    assert await quarantined(driver, offered=False) == "aside"  # one that was told so tells nobody
    assert await driver.snapshot() == before
    await quarantined(driver, "still no such zone")
    assert await driver.halted() == ["schedule:nightly: still no such zone"]
    assert await quarantined(driver, seen=replace(NIGHTLY, due_ms=5)) == "stale"
    report = await driver.store.run(fsck.fsck(driver.store.keyspaces))
    assert [(one.kind, one.id) for one in report.findings] == [("aside", "schedule:nightly: still no such zone")]
    assert await advance(driver) == "advanced"
    assert await driver.halted() == []
    assert not await driver.redis.hexists(driver.keys.schedule("nightly"), S["aside"])
    assert await quarantined(driver) == "stale"
    for end in (lambda: keep(driver), lambda: driver.store.call(schedules.remove_schedule(driver.keys, "nightly"))):
        await quarantined(driver, seen=replace(NIGHTLY, due_ms=9_000_000_000_000))
        assert await driver.halted() == ["schedule:nightly: no such zone"]
        await end()
        assert await driver.halted() == []
    assert await quarantined(driver) == "missing"
    await driver.redis.zadd(driver.keys.halted, {"schedule:nightly: of old": 1})
    report = await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=True))
    assert [(one.kind, one.repaired) for one in report.findings] == [("halted", True)]
    assert await driver.halted() == []


async def test_a_schedule_that_is_gone_takes_its_timer_along(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {"nightly~cron": 1})
    assert await advance(driver) == "missing"
    assert await driver.timers() == {}
    item = schedules.remove_schedule(driver.keys, "nightly")
    item.args[item.args.index("remove")] = "nonsense"
    with pytest.raises(UsageError, match="action nonsense"):
        await driver.store.call(item)


@pytest.mark.leaves_keys("a key of a wrong type")
async def test_what_is_read_again_is_so_even_where_nobody_can_be_told(driver: Driver) -> None:
    await keep(driver)
    await quarantined(driver)
    await driver.redis.delete(driver.keys.halted)
    await driver.redis.set(driver.keys.halted, "garbage")
    assert await advance(driver) == "advanced"
    assert not await driver.redis.hexists(driver.keys.schedule("nightly"), S["aside"])
