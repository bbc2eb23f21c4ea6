"""fire.lua: what is due is settled, oldest first and never early; what is broken is quarantined by name."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from durasleep.errors import StoreRefused
from durasleep.model import (
    DUE_MS_MAX,
    CommitAction,
    Due,
    Kind,
    Number,
    Place,
    PromiseId,
    StartPromise,
    StartTimer,
    State,
)
from durasleep.protocol import promises, timers
from durasleep.protocol.keys import F
from harness.servers import Server
from tests.store.driver import FAR, PAST, Driver, child


def timer(number: str, due: Due = PAST) -> StartTimer:
    return StartTimer(Number(number), "nap", due)


async def test_a_due_timer_wakes_its_sleeper_once(driver: Driver) -> None:
    await driver.suspended("a", timer("1"), timer("2", FAR))
    fired = await driver.fire()
    assert (fired.due, fired.stale, fired.next_due_ms) == (1, 0, (await driver.entry("a", "2")).due_ms)
    assert await driver.place("a") is Place.QUEUED
    entry = await driver.entry("a", "1")
    assert (entry.state, entry.stamp) == (State.RESOLVED, (await driver.record("a")).order)
    before = await driver.snapshot()
    assert (await driver.fire()).due == 0
    assert await driver.snapshot() == before


async def test_no_timer_fires_before_the_servers_clock_shows_its_due_time(driver: Driver) -> None:
    await driver.create("soon", kind=Kind.TIMER, deadline=Due("+30"))
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.SUSPEND, timer("1", Due("+40")))
    dues = await driver.timers()
    while dues:
        fired = await driver.fire()
        left = await driver.timers()
        for member in dues.keys() - left.keys():
            assert fired.server_us >= dues[member] * 1000
        assert fired.due == len(dues) - len(left)
        dues = left


async def test_a_sleep_counts_from_the_first_instant_after_the_call(driver: Driver) -> None:
    """Milliseconds are rounded up: half of one is not slept too little, and none too much."""
    for number in range(20):
        before_us = (await driver.fire()).server_us
        await driver.create(f"t{number}", kind=Kind.TIMER, deadline=Due("+60000"))
        after_us = (await driver.fire()).server_us
        due_ms = (await driver.timers())[f"t{number}~timeout"] - 60_000
        assert before_us <= due_ms * 1000 < after_us + 1000
    now_ms = 1_800_000_000_000
    await driver.redis.set(driver.keys.clock, f"={now_ms}")
    standing = replace(driver.keys, movable_clock=True)
    await driver.store.call(promises.create(standing, PromiseId("t"), kind=Kind.TIMER, deadline=Due("+5")))
    assert (await driver.timers())["t~timeout"] == now_ms + 5
    await driver.redis.delete(driver.keys.clock)


async def test_the_clock_of_tests_is_moved_to_the_microsecond_or_stands_still(driver: Driver) -> None:
    moved = replace(driver.keys, movable_clock=True)

    async def now_us(clock: str) -> int:
        await driver.redis.set(driver.keys.clock, clock)
        return (await driver.store.call(timers.fire(moved, limit=1))).server_us

    for moved_ms in (999, 86_400_123, -1500):
        before_us = await now_us("0")
        found_us = await now_us(str(moved_ms))
        assert before_us <= found_us - moved_ms * 1000 <= await now_us("0")
    assert await now_us("=1800000000123") == 1_800_000_000_123_000
    await driver.store.call(promises.create(moved, PromiseId("t"), kind=Kind.TIMER, deadline=Due("+5")))
    assert (await driver.timers())["t~timeout"] == 1_800_000_000_128
    await driver.redis.delete(driver.keys.clock)


async def test_a_batch_is_bounded_oldest_first_and_says_what_is_next(driver: Driver) -> None:
    await driver.suspended("a", *(timer(str(n), Due(f"={n}")) for n in range(1, 8)))
    fired = await driver.fire(limit=3)
    assert (fired.due, fired.next_due_ms) == (3, 4)
    assert list(await driver.timers()) == ["a~4", "a~5", "a~6", "a~7"]
    entries = (await driver.load("a")).entries
    stamps = [entries[Number(str(n))].stamp for n in (1, 2, 3)]
    assert stamps == sorted(set(stamps))
    assert await driver.queued() == ["a"]  # many settlements, one dispatch
    await driver.fire_all()
    assert await driver.queued() == ["a"]


async def test_a_promise_with_a_timeout_times_out_and_a_settled_one_does_not(driver: Driver) -> None:
    await driver.suspended("a", StartPromise(Number("1"), "p", PAST), StartPromise(Number("2"), "p", PAST))
    await driver.settle("a~2", value=b"v")
    assert (await driver.fire()).due == 1
    assert (await driver.entry("a", "1")).state is State.TIMEDOUT
    assert (await driver.entry("a", "2")).state is State.RESOLVED


@pytest.mark.parametrize("place", [Place.QUEUED, Place.SUSPENDED, Place.DELAYED, Place.HALTED])
async def test_a_deadline_ends_an_execution_wherever_it_is(driver: Driver, place: Place) -> None:
    await driver.create("a", deadline=FAR, inbox="one", start=FAR if place is Place.DELAYED else None)
    if place is Place.SUSPENDED:
        await driver.commit(await driver.take(), CommitAction.SUSPEND, timer("1", FAR))
    elif place is Place.HALTED:
        await driver.control("halt", "a", reason="why")
    assert await driver.place("a") is place
    due_ms = (await driver.timers())["a~timeout"]
    await driver.redis.hset(driver.keys.promise("a"), F["deadline"], "1")
    await driver.redis.zadd(driver.keys.timers, {"a~timeout": 1})
    assert due_ms > 1
    assert (await driver.fire()).due == 1
    assert (await driver.record("a")).state is State.TIMEDOUT
    assert await driver.place("a") is None
    assert await driver.timers() == {}
    assert await driver.halted() == []
    assert [told[b"s"] for told in await driver.inbox("one")] == [b"t"]


async def test_members_nobody_waits_for_are_forgotten_and_counted(driver: Driver) -> None:
    await driver.suspended("a", timer("1", FAR), StartPromise(Number("2"), "p", None))
    await driver.create("p", kind=Kind.PROMISE)
    stale = ["a~9", "a~2", "nobody~1", "a~start", "a~retry", "a~timeout", "p~timeout", "nobody~cron"]
    await driver.redis.zadd(driver.keys.timers, dict.fromkeys(stale, 1))
    fired = await driver.fire()
    assert (fired.due, fired.stale, fired.quarantined, fired.schedules) == (len(stale), len(stale), [], [])
    assert list(await driver.timers()) == ["a~1"]
    assert await driver.place("a") is Place.SUSPENDED


async def test_a_score_that_was_tampered_with_neither_fires_early_nor_loses_the_timer(driver: Driver) -> None:
    await driver.suspended("a", timer("1", FAR))
    await driver.create("d", start=FAR, deadline=FAR)
    dues = await driver.timers()
    await driver.redis.zadd(driver.keys.timers, dict.fromkeys(dues, 1))
    fired = await driver.fire()
    assert (fired.due, fired.stale) == (3, 3)
    assert await driver.timers() == dues
    assert await driver.place("a") is Place.SUSPENDED
    assert await driver.place("d") is Place.DELAYED


async def test_a_due_time_that_is_written_in_another_way_is_the_same(driver: Driver) -> None:
    await driver.create("a", start=PAST)
    await driver.redis.hset(driver.keys.promise("a"), F["due"], "01")
    fired = await driver.fire()
    assert (fired.due, fired.stale) == (1, 0)
    assert await driver.place("a") is Place.QUEUED


@pytest.mark.leaves_keys("garbage that was quarantined, and broken hashes")
async def test_garbage_in_the_timers_is_quarantined_by_name_and_the_rest_fires(driver: Driver) -> None:
    await driver.suspended("a", timer("1"))
    await driver.suspended("odd", timer("1", FAR))
    await driver.redis.hset(driver.keys.promise("odd"), "1", "no entry")
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    garbage = [b"garbage", b"~\xff\xfe", b"~x", b"broken~1", b"broken~timeout", b"odd~1"]
    await driver.redis.zadd(driver.keys.timers, dict.fromkeys(garbage, 0) | {b"at no time": "-inf"})
    fired = await driver.fire()
    assert await driver.place("a") is Place.QUEUED
    assert await driver.timers() == {}
    halted = await driver.halted()
    assert len(halted) == len(fired.quarantined) == len(garbage) + 1
    for name in ("garbage: INVALID member", "broken~1: CORRUPT", "odd~1: CORRUPT", "at no time: INVALID"):
        assert any(line.startswith(f"timers:{name}") for line in halted), name


@pytest.mark.leaves_keys("broken hashes")
async def test_what_is_broken_of_a_sleeper_quarantines_its_timer(driver: Driver) -> None:
    broken = {F["func"]: "", F["incarnation"]: "", F["epoch"]: "x", F["order"]: "x"}
    for field, value in broken.items():
        await driver.suspended(field, timer("1"))
        if value:
            await driver.redis.hset(driver.keys.promise(field), field, value)
        else:
            await driver.redis.hdel(driver.keys.promise(field), field)
    fired = await driver.fire()
    assert fired.stale == 1  # without an incarnation it is none of ours
    named = sorted(line.partition(": CORRUPT")[0] for line in fired.quarantined)
    assert named == sorted(f"{field}~1" for field in broken if field != F["incarnation"])


async def test_the_entry_of_what_was_delayed_tells_it_to_whoever_takes_it(driver: Driver) -> None:
    await driver.create("a", start=PAST, args=b"args")
    await driver.fire()
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert fields[b"x"].endswith(b"\nargsf")


async def test_a_sleeper_without_arguments_wakes_and_its_entry_tells_nothing(driver: Driver) -> None:
    await driver.suspended("a", timer("1"))
    await driver.redis.hdel(driver.keys.promise("a"), F["args"])
    assert (await driver.fire()).quarantined == []
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert set(fields) == {b"i", b"e"}


async def test_a_delayed_execution_without_a_due_time_is_no_reason_to_do_anything(driver: Driver) -> None:
    await driver.create("a", start=PAST)
    due = await driver.redis.hget(driver.keys.promise("a"), F["due"])
    await driver.redis.hdel(driver.keys.promise("a"), F["due"])
    fired = await driver.fire()
    assert (fired.stale, fired.quarantined) == (1, [])
    assert await driver.timers() == {}
    await driver.redis.hset(driver.keys.promise("a"), F["due"], due)
    await driver.redis.zadd(driver.keys.timers, {"a~start": 1})


@pytest.mark.leaves_keys("keys of a wrong type")
async def test_broken_hints_and_a_broken_queue_stop_no_timer(driver: Driver) -> None:
    await driver.suspended("b", timer("1"), queue="workers")
    await driver.create("a", queue="other", start=PAST)
    for key in (driver.keys.wake, driver.keys.recent, driver.keys.closing, driver.keys.queue("other")):
        await driver.redis.delete(key)
        await driver.redis.set(key, "garbage")
    await driver.create("c", kind=Kind.TIMER, deadline=PAST)
    fired = await driver.fire()
    assert (fired.due, fired.last_wake, fired.closing) == (3, b"0-0", 0)
    assert await driver.queued() == ["b"]
    assert (await driver.record("c")).state is State.RESOLVED
    assert (await driver.record("a")).place is Place.HALTED
    assert "not a stream" in (await driver.record("a")).reason


async def test_an_endless_due_time_is_shown_as_the_end_of_the_calendar(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {"x~1": "+inf"})
    assert (await driver.fire()).next_due_ms == DUE_MS_MAX
    await driver.redis.delete(driver.keys.timers)


async def test_nothing_is_due_by_a_clock_that_nobody_accepts(driver: Driver) -> None:
    now_ms = 1_800_000_000_000
    keys = replace(driver.keys, movable_clock=True)
    await driver.redis.set(driver.keys.clock, f"={now_ms}")
    await driver.create("a", start=PAST)
    fired = await driver.store.call(timers.fire(keys, limit=9, latest_ms=now_ms - 1))
    assert (fired.due, fired.server_us, fired.next_due_ms) == (0, now_ms * 1000, 1)
    assert await driver.place("a") is Place.DELAYED
    assert (await driver.store.call(timers.fire(keys, limit=9, latest_ms=now_ms))).due == 1
    await driver.redis.delete(driver.keys.clock)


async def test_the_firers_hear_of_the_earliest_of_all_that_one_call_makes(driver: Driver) -> None:
    closed, sleeper = await driver.start_all(["a", "b"])
    dues = [f"={9_000_000_000_000 + 7 * number % 10}" for number in range(1, 11)]
    await driver.commit(sleeper, CommitAction.CONTINUE, *[timer(str(n), Due(due)) for n, due in enumerate(dues, 1)])
    [(_, hint)] = await driver.redis.xrange(driver.keys.wake)
    assert hint == {b"d": b"9000000000000"}
    await driver.commit(closed, CommitAction.CONTINUE, *[timer(str(number), FAR) for number in range(1, 301)])
    now_ms = (await driver.fire()).server_us // 1000
    await asyncio.gather(  # of which one leaves more to close than one call does: that is due at once
        driver.commit(closed, CommitAction.RESOLVE),
        driver.commit(sleeper, CommitAction.CONTINUE, timer("11", Due("+9"))),
    )
    [(_, hint)] = await driver.redis.xrange(driver.keys.wake)
    made_ms = (await driver.entry("b", "11")).due_ms - 9
    assert now_ms <= int(hint[b"d"]) <= made_ms
    await driver.fire_all()


async def test_large_families_are_closed_in_turn(driver: Driver) -> None:
    for id in "ab":
        lease = await driver.start(id)
        for first in (1, 301):
            ops = [timer(str(number), FAR) for number in range(first, first + 300)]
            await driver.commit(lease, CommitAction.CONTINUE, *ops)
        await driver.commit(lease, CommitAction.RESOLVE)
    await driver.redis.zadd(driver.keys.closing, {"a": 1, "b": 2})
    assert (await driver.fire()).closing == 2
    assert await driver.redis.zrange(driver.keys.closing, 0, -1) == [b"b", b"a"]
    await driver.fire_all()
    assert await driver.timers() == {}


@pytest.mark.parametrize("command", ["hscan", "xadd"])
async def test_what_the_server_refuses_is_no_fault_of_the_data(
    one_server: Server, namespace: str, command: str
) -> None:
    driver = Driver(one_server.client(), namespace)
    async with driver.store.opened():
        await driver.suspended("a", timer("1"))
        await driver.commit(await driver.start("b"), CommitAction.RESOLVE)
        await driver.redis.zadd(driver.keys.closing, {"b": 1})
        before = await driver.snapshot()
        rules = ["+@all", f"-{command}"]
        await driver.redis.acl_setuser("refused", enabled=True, nopass=True, keys=["*"], commands=rules, reset=True)
        refused = Driver(one_server.client(username="refused", password=""), namespace)
        async with refused.store.opened():
            with pytest.raises(StoreRefused):
                await refused.fire()
        await driver.redis.acl_deluser("refused")
        assert await driver.halted() == []
        if command == "xadd":  # the timer comes first, and is left whole
            assert await driver.snapshot() == before
        await driver.fire_all()
        assert await driver.place("a") is Place.QUEUED


@pytest.mark.leaves_keys("names that were quarantined")
async def test_what_is_left_to_close_and_cannot_be_is_quarantined(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    await driver.redis.zadd(driver.keys.closing, {"broken": 1, "nobody": 2})
    assert (await driver.fire()).closing == 0
    assert [line.startswith("closing:broken: CORRUPT") for line in await driver.halted()] == [True]


async def test_children_left_behind_by_a_new_run_are_ended_a_little_later(driver: Driver) -> None:
    lease = await driver.start("a")
    for first in (1, 151):
        await driver.commit(lease, CommitAction.CONTINUE, *(child(str(n)) for n in range(first, first + 150)))
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=b"", due="300")
    assert await driver.redis.zcard(driver.keys.closing) > 0
    await driver.fire_all()
    assert await driver.queued() == ["a"]
    states = {(await driver.record(f"a~{n}")).state for n in range(1, 301)}
    assert states == {State.CANCELED}
    assert await driver.ttl_ms("a~300") > 0
    assert await driver.place("a") is Place.QUEUED


async def test_a_schedule_that_is_due_is_offered_again_until_somebody_moves_it_on(driver: Driver) -> None:
    await driver.redis.hset(driver.keys.schedule("nightly"), "x", "0 0 * * *")
    await driver.redis.zadd(driver.keys.timers, {"nightly~cron": 1})
    fired = await driver.fire()
    assert (fired.schedules, fired.stale) == (["nightly"], 0)
    again_ms = (await driver.timers())["nightly~cron"]
    assert again_ms == fired.server_us // 1000 + 1000


async def test_timers_of_what_is_gone_are_forgotten(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {f"gone~{what}": 1 for what in ("start", "retry", "timeout", "1")})
    fired = await driver.fire()
    assert (fired.due, fired.stale, fired.quarantined) == (4, 4, [])
    assert await driver.timers() == {}


async def test_a_due_time_that_is_no_number_is_quarantined_by_name(driver: Driver) -> None:
    await driver.create("a", start=PAST)
    await driver.redis.hset(driver.keys.promise("a"), F["due"], "soon")
    [line] = (await driver.fire()).quarantined
    assert line == "a~start: CORRUPT due time soon"
    await driver.redis.delete(driver.keys.halted, driver.keys.promise("a"))


async def test_of_a_name_that_nobody_of_ours_has_made_a_part_is_said(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {"x" * 5000: 1})
    [line] = (await driver.fire()).quarantined
    assert line == "x" * 1000 + ": INVALID member"
    await driver.redis.delete(driver.keys.halted)
