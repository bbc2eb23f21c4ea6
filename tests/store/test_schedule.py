"""schedule.lua: of many workers that see a schedule due, one starts its execution."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial

import pytest

from durasleep.cron import NEVER
from durasleep.errors import CorruptData, NewerVersion, UsageError
from durasleep.model import DUE_MS_MAX, CommitAction, Place, PromiseId, State
from durasleep.protocol import foreign, promises, schedules, timers
from durasleep.protocol.keys import LIMIT, S
from durasleep.protocol.schedules import LEFT_TO_NEWER, Advanced, Change, Schedule
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


# -- what only newer versions can run

SKIP = replace(NIGHTLY, cron="0 0 * * *; jitter 5000", overlap="skip", catch_up="last", window_ms=60_000)


@pytest.fixture(autouse=True)
async def removed(driver: Driver) -> AsyncGenerator[None]:
    """No test leaves a schedule."""
    yield
    for name in ("nightly", *(f"s{number}" for number in range(5))):
        await driver.store.call(schedules.remove_schedule(driver.keys, name))


async def listed(driver: Driver) -> dict[str, int]:
    return {
        name.decode(): int(at) for name, at in await driver.redis.zrange(driver.keys.schedules, 0, -1, withscores=True)
    }


async def seen(driver: Driver) -> Schedule:
    found = await read(driver)
    assert found
    return found


async def change(driver: Driver, schedule: Schedule, what: Change) -> Advanced:
    return await driver.store.call(schedules.advance_schedule(driver.keys, schedule, what))


async def pending_ended(driver: Driver, id: str) -> None:
    """An execution that a schedule has started ends."""
    await driver.commit(await driver.take_of(id), CommitAction.RESOLVE)


async def test_older_versions_see_neither_the_timer_of_a_newer_schedule_nor_times_they_can_read(driver: Driver) -> None:
    assert await keep(driver, SKIP) == 1000
    assert await driver.timers() == {}
    assert await listed(driver) == {"nightly": 1000}
    kept = await driver.redis.hget(driver.keys.schedule("nightly"), S["cron"])
    assert kept.decode() == f"{LEFT_TO_NEWER}{SKIP.cron}"
    assert await read(driver) == SKIP
    fired = await driver.fire()
    assert fired.schedules == ["nightly"]
    assert not fired.has_more_schedules
    offered = (await listed(driver))["nightly"]
    assert offered == fired.server_us // 1000 + 1000, "it is offered again every second"
    assert fired.next_due_ms == offered


async def test_as_many_due_schedules_are_found_as_are_asked_for(driver: Driver) -> None:
    for number in range(5):
        await keep(driver, replace(SKIP, name=f"s{number}", due_ms=1000 + number))
    fire = partial(timers.fire, driver.keys, limit=9)
    none = await driver.store.call(fire(schedules_max=0))
    assert (none.schedules, none.has_more_schedules, none.next_due_ms) == ([], True, None)
    for first, has_more in ((0, True), (2, True), (4, False)):
        fired = await driver.store.call(fire(schedules_max=2))
        assert fired.schedules == [f"s{number}" for number in range(first, min(first + 2, 5))]
        assert fired.has_more_schedules is has_more
    assert (await driver.store.call(fire(latest_ms=1))).schedules == []


async def test_a_schedule_becomes_a_newer_one_and_again_one_of_all_versions(driver: Driver) -> None:
    await keep(driver)
    assert await listed(driver) == {"nightly": DUE_MS_MAX}
    await keep(driver, replace(NIGHTLY, overlap="queue", due_ms=5000))
    assert await driver.timers() == {}
    assert await listed(driver) == {"nightly": 1000}, "its times are the same"
    await keep(driver, replace(NIGHTLY, due_ms=6000))
    assert (await driver.timers(), await listed(driver)) == ({"nightly~cron": 1000}, {"nightly": DUE_MS_MAX})
    assert await read(driver) == NIGHTLY


async def test_what_an_older_version_writes_over_a_newer_schedule_counts_alone(driver: Driver) -> None:
    await keep(driver, replace(SKIP, limit=3, remaining=3))
    await change(driver, await seen(driver), Change(9_000_000_000_000, "", fields={"paused": "5", "waiting": "7 "}))
    key = driver.keys.schedule("nightly")  # as an older version puts a schedule
    await driver.redis.hset(key, mapping={S["cron"]: NIGHTLY.cron, S["due"]: "1000"})
    await driver.redis.zadd(driver.keys.timers, {"nightly~cron": 1000})
    assert await read(driver) == replace(NIGHTLY, retention_ms=None)
    assert await keep(driver, replace(SKIP, cron=NIGHTLY.cron, due_ms=5000)) == 1000
    found = await seen(driver)
    assert (found.paused_ms, found.waiting, found.limit) == (None, (), None)


async def test_put_again_it_keeps_its_pause_what_runs_what_waits_and_what_is_left(driver: Driver) -> None:
    limited = replace(SKIP, limit=9)
    await keep(driver, limited)
    fields = {"paused": "5", "waiting": "7 8 ", "running": "nightly@1", "remaining": "4"}
    await change(driver, await seen(driver), Change(2000, "", fields=fields))
    before = await seen(driver)
    assert (before.remaining, before.limit) == (4, 9)
    assert await keep(driver, replace(limited, due_ms=5000, note="new")) == 2000
    assert await read(driver) == replace(before, note="new")
    assert await listed(driver) == {"nightly": DUE_MS_MAX}, "it is paused"
    assert await keep(driver, replace(limited, limit=5, due_ms=5000)) == 2000
    assert (await seen(driver)).remaining == 5, "another number begins anew"
    put = partial(schedules.put_schedule, driver.keys, replace(limited, due_ms=5000))
    assert await driver.store.call(put(paused=False)) == 5000, "what was missed in the pause is not made up for"
    assert (await seen(driver)).paused_ms is None
    now_ms = (await driver.fire()).server_us // 1000
    assert await driver.store.call(put(paused=True)) == 5000
    since_ms = (await seen(driver)).paused_ms
    assert since_ms
    assert since_ms >= now_ms
    await driver.store.call(put(paused=True))
    assert (await seen(driver)).paused_ms == since_ms


async def test_one_that_has_come_to_its_end_begins_again_only_with_another_number(driver: Driver) -> None:
    limited = replace(SKIP, limit=2)
    await keep(driver, limited)
    await change(driver, await seen(driver), Change(NEVER, "", fields={"remaining": "0"}))
    assert await keep(driver, replace(limited, due_ms=5000)) == NEVER
    assert await listed(driver) == {"nightly": NEVER}
    assert (await driver.fire()).next_due_ms is None
    assert await keep(driver, replace(limited, limit=3, due_ms=5000)) == 5000
    assert await listed(driver) == {"nightly": 5000}


async def test_a_change_needs_the_schedule_as_it_was_seen(driver: Driver) -> None:
    await keep(driver, SKIP)
    first = await seen(driver)
    assert (await change(driver, first, Change(1000, "=1000", fields={"note": "a"}))).word == "advanced"
    before = await driver.snapshot()
    assert (await change(driver, first, Change(1000, "=1000", [PromiseId("nightly@1")]))).word == "stale"
    assert await driver.snapshot() == before
    second = await seen(driver)
    assert second.revision != first.revision
    await change(driver, second, Change(1000, "=2000", fields={"note": ""}))
    assert await listed(driver) == {"nightly": 2000}
    assert (await seen(driver)).note == ""


async def test_the_first_change_of_a_schedule_of_all_versions_marks_it(driver: Driver) -> None:
    """An older worker that has read it before starts nothing."""
    await keep(driver)
    first = await seen(driver)
    await change(driver, first, Change(1000, "", fields={"paused": "5"}))
    assert await driver.timers() == {}
    assert (await seen(driver)).paused_ms == 5
    assert await advance(driver, first) == "stale"


async def test_an_execution_that_must_not_overlap_tells_its_schedule_when_it_ends(driver: Driver) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    assert (await change(driver, await seen(driver), Change(NEVER, "", [id]))).word == "advanced"
    running = await seen(driver)
    assert running.running == id
    assert (await driver.record(id)).function == "f"
    await change(driver, running, Change(NEVER, "", fields={"waiting": "5 "}))
    waiting = await seen(driver)
    assert await listed(driver) == {"nightly": NEVER}
    await pending_ended(driver, id)
    ended = await seen(driver)
    assert ended.running == ""
    assert ended.revision != waiting.revision, "a worker that has seen it running decides again"
    assert (await driver.fire()).schedules == ["nightly"]


async def test_an_ending_for_which_nothing_waits_makes_nothing_due(driver: Driver) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    await change(driver, await seen(driver), Change(9_000_000_000_000, "=9000000000000", [id]))
    await pending_ended(driver, id)
    assert (await seen(driver)).running == ""
    assert await listed(driver) == {"nightly": 9_000_000_000_000}


@pytest.mark.parametrize("fields", [{"paused": "5", "waiting": "7 "}, {"running": "nightly@2", "waiting": "7 "}])
async def test_an_ending_changes_neither_a_paused_schedule_nor_one_that_waits_for_another(
    driver: Driver, fields: dict[str, str]
) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    await change(driver, await seen(driver), Change(NEVER, "", [id]))
    await change(driver, await seen(driver), Change(NEVER, "", fields=fields))
    await pending_ended(driver, id)
    assert await listed(driver) == {"nightly": NEVER}
    assert (await seen(driver)).running == fields.get("running", "")


async def test_an_ending_after_the_removal_of_the_schedule_is_like_any_other(driver: Driver) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    await change(driver, await seen(driver), Change(NEVER, "", [id]))
    await driver.store.call(schedules.remove_schedule(driver.keys, "nightly"))
    assert await listed(driver) == {}
    await pending_ended(driver, id)
    await driver.assert_kept_together(id, retention_ms=LIMIT["retention_ms"])


async def test_with_many_waiters_the_schedule_is_told_too(driver: Driver) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    await change(driver, await seen(driver), Change(NEVER, "", [id]))
    for number in range(60):
        await driver.store.call(promises.attach(driver.keys, id, inbox=f"client-with-a-long-name-{number}"))
    await change(driver, await seen(driver), Change(NEVER, "", fields={"waiting": "5 "}))
    await pending_ended(driver, id)
    assert (await driver.fire()).schedules == ["nightly"]


async def test_an_id_that_is_used_already_holds_up_nothing(driver: Driver) -> None:
    await keep(driver, SKIP)
    await driver.create("nightly@1")
    await change(driver, await seen(driver), Change(NEVER, "", [PromiseId("nightly@1")]))
    assert (await seen(driver)).running == ""
    assert (await driver.fire()).schedules == ["nightly"], "the next one need not wait"


async def test_an_end_in_another_partition_is_heard(driver: Driver) -> None:
    await keep(driver, SKIP)
    await change(driver, await seen(driver), Change(NEVER, "", fields={"running": "nightly@1", "waiting": "5 "}))
    where = schedules.waiter_of(driver.keys, SKIP).split(" ", 2)
    assert where == [str(driver.keys.partition), "0", "nightly~cron"]
    for child, running in (("nightly@other", "nightly@1"), ("nightly@1", "")):
        hear = foreign.hear(driver.keys, where[2], where[1], PromiseId(child), State.RESOLVED, b"")
        assert await driver.store.call(hear)
        assert (await seen(driver)).running == running
    assert (await driver.fire()).schedules == ["nightly"]


async def test_no_call_starts_too_many(driver: Driver) -> None:
    await keep(driver, replace(SKIP, overlap="allow"))
    many = [PromiseId(f"nightly@{number}") for number in range(LIMIT["starts_max"] + 1)]
    before = await driver.snapshot()
    with pytest.raises(UsageError, match="65 starts at a time"):
        await change(driver, await seen(driver), Change(NEVER, "", many))
    assert await driver.snapshot() == before
    await change(driver, await seen(driver), Change(NEVER, "", many[1:]))
    assert len(await driver.queued()) == LIMIT["starts_max"]


@pytest.mark.parametrize(("field", "word"), [("overlap", "sometimes"), ("catch_up", "half")])
async def test_a_policy_of_a_later_version_is_left_to_it(driver: Driver, field: str, word: str) -> None:
    await keep(driver, SKIP)
    await driver.redis.hset(driver.keys.schedule("nightly"), S[field], word)
    with pytest.raises(NewerVersion, match=word):
        await read(driver)


@pytest.mark.parametrize("fields", [{}, {"paused": "5"}, {"waiting": "5 ", "running": "nightly@1"}, {"starting": "a "}])
async def test_fsck_knows_when_a_newer_schedule_needs_a_timer(driver: Driver, fields: dict[str, str]) -> None:
    await keep(driver, replace(SKIP, due_ms=9_000_000_000_000))
    await change(driver, await seen(driver), Change(9_000_000_000_000, "=9000000000000", fields=fields))
    if "paused" in fields:
        await driver.redis.zadd(driver.keys.schedules, {"nightly": NEVER})
    assert (await driver.store.run(fsck.fsck(driver.store.keyspaces))).findings == []
    for break_it in (
        driver.redis.zrem(driver.keys.schedules, "nightly"),
        driver.redis.zadd(driver.keys.schedules, {"nightly": NEVER}),
    ):
        await break_it
        found = (await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=True))).findings
        is_listed = "paused" in fields and await driver.redis.zscore(driver.keys.schedules, "nightly")
        if not is_listed or found:
            assert [(one.kind, one.id, one.repaired) for one in found] == [("untimed", "nightly~cron", True)]
        assert (await driver.store.run(fsck.fsck(driver.store.keyspaces))).findings == []


async def test_fsck_finds_a_schedule_that_was_not_told_of_an_end(driver: Driver) -> None:
    await keep(driver, SKIP)
    id = PromiseId("nightly@1")
    await change(driver, await seen(driver), Change(NEVER, "", [id]))
    await pending_ended(driver, id)
    lost = {S["running"]: id, S["waiting"]: "5 "}
    await driver.redis.hset(driver.keys.schedule("nightly"), mapping=lost)
    found = (await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=True))).findings
    assert [(one.kind, one.id, one.repaired) for one in found] == [("untold", "schedule:nightly", True)]
    assert (await driver.fire()).schedules == ["nightly"]
    assert (await driver.store.run(fsck.fsck(driver.store.keyspaces))).findings == []


async def test_a_newer_schedule_that_cannot_be_read_is_quarantined_beside_the_timers(driver: Driver) -> None:
    await keep(driver, SKIP)
    assert await quarantined(driver, seen=SKIP) == "aside"
    assert await driver.timers() == {}
    assert (await listed(driver))["nightly"] > 1_700_000_000_000
    assert (await change(driver, await seen(driver), Change(NEVER, ""))).word == "advanced"
    assert await driver.halted() == []
