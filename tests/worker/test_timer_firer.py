"""The firer settles what is due, and knows how long it may wait until it looks again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from durasleep.model import Due, Kind
from durasleep.protocol.timers import Fired
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport import server_clock
from durasleep.worker.loops import timer_firer
from durasleep.worker.loops.timer_firer import TimerFirer
from harness.servers import Server
from tests.service.workers import eventually
from tests.store.driver import PAST, Driver
from tests.worker.clock import HeldClock

HOUR_MS = 3_600_000
MINUTE_S = 60.0
EARLY_S = 0.001
"""So much before the instant it wakes, as the call takes a while."""
FEW = replace(DEFAULTS, fire_items_max=2)
MOVED = replace(DEFAULTS, movable_clock=True)


class Firing(TimerFirer):
    """A firer that notes what it passes on, and how many batches it asks for at a time."""

    def __init__(self, driver: Driver, settings: Settings = DEFAULTS) -> None:
        self.schedules: list[list[str]] = []
        self.asked: list[int] = []
        self.answered = 0
        super().__init__(driver.store, driver.keys, settings, self.schedules.append)

    async def once(self, batches: int = 1) -> Fired:
        self.asked.append(batches)
        fired = await super().once(batches)
        self.answered += 1
        return fired


@asynccontextmanager
async def running(firer: Firing) -> AsyncGenerator[Firing]:
    """It runs, and has looked once."""
    task = asyncio.create_task(firer.run())
    try:
        await eventually(lambda: firer.answered, "its first look")
        yield firer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def moved(real_server: Server, namespace: str) -> AsyncIterator[Driver]:
    """On a server whose clock can be set."""
    driver = Driver(real_server.client(), namespace, MOVED)
    async with driver.store.opened():
        yield driver
    await driver.redis.delete(driver.keys.clock, driver.keys.clock_held, driver.keys.clock_released)


async def set_clock(driver: Driver, ms: int) -> None:
    """So far ahead of what it was at first."""
    await driver.redis.set(driver.keys.clock, ms)


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    """The monotonic clock of the firer, and of what it believes of the server's."""
    clock = HeldClock()
    for module in (timer_firer, server_clock):
        monkeypatch.setattr(module, "monotonic_us", clock.monotonic_us)
    monkeypatch.setattr(server_clock, "_COUNTS_SLEEP", None)
    return clock


async def promised(driver: Driver, id: str, due: Due) -> int:
    """A timer by itself; when it is due."""
    await driver.create(id, kind=Kind.TIMER, deadline=due)
    return (await driver.timers())[f"{id}~timeout"]


def assert_waits_until(driver: Driver, firer: TimerFirer, instant_ms: int) -> None:
    """By what is known of the server's clock."""
    before_s = driver.store.clock(driver.keys).seconds_until(instant_ms) - EARLY_S
    left_s = firer.seconds_left()
    assert before_s >= left_s >= driver.store.clock(driver.keys).seconds_until(instant_ms) - EARLY_S


# -- what is due


async def test_what_is_due_is_settled_and_the_next_due_time_known(driver: Driver) -> None:
    firer = Firing(driver)
    await promised(driver, "past", PAST)
    due_ms = await promised(driver, "soon", Due("+30000"))
    fired = await firer.once()
    assert (fired.due, fired.next_due_ms) == (1, due_ms)
    assert (await driver.record("past")).state == "resolved"
    assert_waits_until(driver, firer, due_ms)
    await driver.settle("soon")
    await firer.once()
    assert firer.seconds_left() == MINUTE_S


async def test_several_batches_are_asked_for_at_once_and_the_last_one_is_answered(driver: Driver) -> None:
    firer = TimerFirer(driver.store, driver.keys, FEW, lambda _: None)
    for number in range(7):
        await promised(driver, f"t{number}", PAST)
    assert (await firer.once()).due == 2
    assert len(await driver.timers()) == 5, "one, if nothing else is said"
    assert (await firer.once(2)).due == 2
    assert (await firer.once(2)).due == 0
    assert await driver.timers() == {}


async def test_what_was_quarantined_is_said(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    await driver.redis.zadd(driver.keys.timers, {"garbage": 1})
    await Firing(driver).once()
    assert "a timer was quarantined: garbage: INVALID member" in caplog.text
    await driver.redis.delete(driver.keys.halted)


async def test_schedules_that_are_due_are_passed_on(driver: Driver) -> None:
    await driver.redis.hset(driver.keys.schedule("nightly"), "any", "thing")
    await driver.redis.zadd(driver.keys.timers, {"nightly~cron": 1})
    firer = Firing(driver)
    await firer.once()
    await firer.once()
    assert firer.schedules == [["nightly"], []]
    await driver.redis.delete(driver.keys.schedule("nightly"), driver.keys.timers)


async def test_timers_that_only_a_newer_version_knows_are_said_once_a_minute(
    driver: Driver, own_clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.redis.zadd(driver.keys.timers, {"a~later": 1, "b~later": 1})
    own_clock.now_s = MINUTE_S / 2  # a machine that has just been started
    firer, said = Firing(driver), list[int]()
    for after_s in (0, MINUTE_S - 1, 1, 1):
        own_clock.move(after_s)
        await firer.once()
        said.append(caplog.text.count("2 timers wait for a worker of a newer version"))
    assert said == [1, 1, 2, 2]
    await driver.redis.delete(driver.keys.timers)


async def test_without_any_nothing_is_said_of_newer_versions(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    await Firing(driver).once()
    assert caplog.text == ""


# -- who fires first


@pytest.mark.parametrize(("rank", "later_ms"), [(0, 0), (1, 50), (3, 150), (20, 1000), (21, 1000), (999, 1000)])
async def test_each_rank_waits_a_little_longer_than_a_better_one(driver: Driver, rank: int, later_ms: int) -> None:
    """So that of many workers one fires, and a dead one costs 50 ms; from some rank on all wait the same."""
    due_ms = await promised(driver, "soon", Due("+30000"))
    firer = Firing(driver)
    await firer.once()
    firer.set_rank(rank)
    assert_waits_until(driver, firer, due_ms + later_ms)
    firer.hint(due_ms - 1000)
    assert_waits_until(driver, firer, due_ms - 1000 + later_ms)
    await driver.settle("soon")


async def test_a_rank_fires_what_is_due_and_a_better_one_has_not(driver: Driver) -> None:
    firer = Firing(driver)
    firer.set_rank(20)
    await promised(driver, "past", PAST)
    assert (await firer.once()).due == 1


# -- hints


async def test_the_earliest_hint_counts_and_only_until_the_next_look(driver: Driver) -> None:
    due_ms = await promised(driver, "soon", Due("+30000"))
    firer = Firing(driver)
    await firer.once()
    firer.hint(due_ms + 5000)
    assert_waits_until(driver, firer, due_ms)
    for hinted_ms, earliest_ms in ((due_ms - 1000, -1000), (due_ms - 3000, -3000), (due_ms - 2000, -3000)):
        firer.hint(hinted_ms)
        assert_waits_until(driver, firer, due_ms + earliest_ms)
    await firer.once()
    assert_waits_until(driver, firer, due_ms)
    await driver.settle("soon")


async def test_a_hint_that_comes_while_it_asks_is_news(driver: Driver) -> None:
    """The answer may be older."""
    firer = Firing(driver)
    asking = asyncio.create_task(firer.once())
    await asyncio.sleep(0)
    firer.hint()
    await asking
    assert firer.seconds_left() <= 0


async def test_a_new_wake_up_is_a_hint(driver: Driver) -> None:
    firer = Firing(driver)
    await promised(driver, "past", PAST)
    last = (await firer.once()).last_wake
    assert last != b"0-0"
    firer.on_wake(last)
    assert firer.seconds_left() == MINUTE_S, "the firing has told of that one"
    firer.on_wake(b"9999999999999-0")
    assert firer.seconds_left() <= 0
    await firer.once()
    firer.on_wake(b"9999999999999-1")
    await firer.once()
    soon_ms = driver.store.clock(driver.keys).now_ms() + 5000
    firer.on_wake(b"9999999999999-2", soon_ms)
    firer.on_wake(b"9999999999999-2")  # as a beat tells of it, too
    assert_waits_until(driver, firer, soon_ms)


async def test_where_there_can_be_no_wake_ups_it_looks_often(driver: Driver) -> None:
    firer = Firing(driver)
    await firer.once()
    firer.on_wake(b"0-0")
    assert firer.seconds_left() == MINUTE_S
    firer.on_wake(b"")
    await firer.once()
    assert firer.seconds_left() == 0.25
    await promised(driver, "soon", Due("+30000"))
    await firer.once()
    assert firer.seconds_left() == 0.25
    firer.on_wake(b"0-0")
    await firer.once()
    assert firer.seconds_left() > 20
    await driver.settle("soon")


# -- a clock that cannot be believed


async def test_by_a_clock_that_is_far_ahead_nothing_fires(
    moved: Driver, own_clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once a minute, and to those who come; it looks again every second, until the clock is believed."""
    own_clock.now_s = MINUTE_S / 2  # a machine that has just been started
    firer = Firing(moved, MOVED)
    await firer.once()
    accepted_ms = moved.store.clock(moved.keys).now_ms()
    await promised(moved, "s", Due("+60000"))
    await set_clock(moved, 2 * HOUR_MS)
    said: list[int] = []
    for after_s in (0, MINUTE_S - 1, 1, 1):
        own_clock.move(after_s)
        assert (await firer.once()).due == 0
        said.append(caplog.text.count("too far ahead: NO TIMER FIRES"))
    assert said == [1, 1, 2, 2]
    assert firer.seconds_left() == 1.0
    held_ms = int(await moved.redis.get(moved.keys.clock_held))
    assert held_ms == moved.store.clock(moved.keys).now_ms() < accepted_ms + HOUR_MS
    assert 0 < await moved.redis.pttl(moved.keys.clock_held) <= 10_000
    await set_clock(moved, 0)
    assert (await firer.once()).due == 0
    assert "the clock of Redis is accepted again: timers fire" in caplog.text
    await firer.once()
    assert caplog.text.count("is accepted again") == 1
    await moved.settle("s")


async def test_a_person_releases_a_clock_that_is_right(moved: Driver, caplog: pytest.LogCaptureFixture) -> None:
    firer = Firing(moved, MOVED)
    await firer.once()
    await promised(moved, "s", Due("+60000"))
    await set_clock(moved, 2 * HOUR_MS)
    held_from_ms = (await firer.once()).server_us // 1000
    await moved.redis.set(moved.keys.clock_released, held_from_ms - 1)
    assert (await firer.once()).due == 0, "that was said of a time before"
    await moved.redis.set(moved.keys.clock_released, held_from_ms)
    await moved.redis.delete(moved.keys.clock_held)
    assert (await firer.once()).due == 0
    assert "was released by hand" in caplog.text
    assert (await firer.once()).due == 1
    assert not await moved.redis.exists(moved.keys.clock_held), "new workers believe it at once"
    assert "is accepted again" not in caplog.text
    # The next time it is asked anew.
    await promised(moved, "another", Due("+60000"))
    await set_clock(moved, 4 * HOUR_MS)
    assert (await firer.once()).due == 0
    assert (await firer.once()).due == 0
    assert caplog.text.count("was released by hand") == 1
    await moved.settle("another")


async def test_a_clock_that_came_back_and_runs_ahead_again_is_not_released_by_what_was_said_before(
    moved: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    firer = Firing(moved, MOVED)
    await firer.once()
    await set_clock(moved, 2 * HOUR_MS)
    held_from_ms = (await firer.once()).server_us // 1000
    await set_clock(moved, 0)
    await firer.once()
    await moved.redis.set(moved.keys.clock_released, held_from_ms)
    await set_clock(moved, 2 * HOUR_MS)
    await firer.once()
    assert "was released by hand" not in caplog.text


async def test_a_new_worker_accepts_what_the_others_do(moved: Driver) -> None:
    firer = Firing(moved, MOVED)
    await promised(moved, "past", PAST)
    now_ms = (await moved.beat()).server_us // 1000
    await set_clock(moved, HOUR_MS)
    firer.join(now_ms)
    assert (await firer.once()).due == 0
    assert firer.seconds_left() == 1.0


@pytest.mark.parametrize("what", ["nobody tells anything", "everything is believed"])
async def test_else_it_accepts_the_server(moved: Driver, what: str) -> None:
    ahead_max_s = math.inf if what == "everything is believed" else DEFAULTS.clock_ahead_max_s
    firer = Firing(moved, replace(MOVED, clock_ahead_max_s=ahead_max_s))
    await promised(moved, "past", PAST)
    now_ms = (await moved.beat()).server_us // 1000
    await set_clock(moved, HOUR_MS)
    firer.join(now_ms if what == "everything is believed" else None)
    assert (await firer.once()).due == 1


# -- when it looks again


async def test_where_many_are_due_it_asks_for_two_batches_and_does_not_wait(driver: Driver) -> None:
    for number in range(9):
        await promised(driver, f"t{number}", PAST)
    patient = Firing(driver, replace(FEW, rank_delay_ms=10**13))
    patient.set_rank(1)
    async with running(patient) as firer:
        await eventually(lambda: len(firer.asked) == 3, "all to be fired")
        firer.set_rank(0)
        firer.hint()
        await eventually(lambda: len(firer.asked) == 4, "another look")
    assert firer.asked == [1, 2, 2, 1]
    assert await driver.timers() == {}


async def test_it_does_not_wait_while_families_are_left_to_close(driver: Driver) -> None:
    """One call closes 32."""
    await driver.redis.zadd(driver.keys.closing, {f"x{number}": number for number in range(40)})
    async with running(Firing(driver)) as firer:
        await eventually(lambda: len(firer.asked) == 2, "all to be closed")
        firer.hint()
        await eventually(lambda: len(firer.asked) == 3, "another look")
    assert firer.asked == [1, 1, 1]


async def test_it_wakes_when_the_next_one_is_due(driver: Driver) -> None:
    await promised(driver, "soon", Due("+500"))
    async with running(Firing(driver)) as firer:
        assert (await driver.record("soon")).state == "pending"
        await eventually(lambda: _is_resolved(driver, "soon"), "it to be settled")
    assert len(firer.asked) < 10, "it waits, and does not ask in a circle"


async def test_a_hint_of_an_earlier_one_moves_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when it would have reckoned anew."""
    monkeypatch.setattr(timer_firer, "RECKON_S", 60.0)
    far_ms = await promised(driver, "far", Due("+30000"))
    async with running(Firing(driver)) as firer:
        firer.hint(far_ms)
        near_ms = await promised(driver, "near", Due("+100"))
        firer.hint(near_ms)
        await eventually(lambda: _is_resolved(driver, "near"), "the near one to be settled")
        assert len(firer.asked) < 10
    await driver.settle("far")


async def _is_resolved(driver: Driver, id: str) -> bool:
    return (await driver.record(id)).state == "resolved"


async def test_a_hint_may_be_lost(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again by itself: in parts, for the clock may be set meanwhile."""
    monkeypatch.setattr(timer_firer, "LOOK_AGAIN_S", 0.12)
    monkeypatch.setattr(timer_firer, "RECKON_S", 0.05)
    async with running(Firing(driver)) as firer:
        began_us = server_clock.monotonic_us()
        await eventually(lambda: len(firer.asked) == 3, "two more looks")
        took_us = server_clock.monotonic_us() - began_us
    assert took_us > 150_000


async def test_where_the_clock_was_set_it_reckons_anew_within_a_second(driver: Driver) -> None:
    """A beat has told so; what was due in half a minute is due now."""
    await promised(driver, "soon", Due("+30000"))
    async with running(Firing(driver)) as firer:
        clock = driver.store.clock(driver.keys)
        server_us = clock.now_ms() * 1000 + 3_600_000_000
        clock.accept_next()
        clock.observe(server_us, server_clock.monotonic_us(), server_clock.monotonic_us())
        began_us = server_clock.monotonic_us()
        await eventually(lambda: len(firer.asked) > 1, "another look")
        assert server_clock.monotonic_us() - began_us < 5_000_000
    await driver.settle("soon")


async def test_while_the_clock_is_held_it_looks_every_second(moved: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in a twentieth of one."""
    assert timer_firer.HELD_LOOK_S == timer_firer.RECKON_S
    monkeypatch.setattr(timer_firer, "HELD_LOOK_S", 0.05)
    monkeypatch.setattr(timer_firer, "RECKON_S", 0.05)
    firer = Firing(moved, MOVED)
    await firer.once()
    await set_clock(moved, 2 * HOUR_MS)
    async with running(firer):
        await eventually(lambda: len(firer.asked) > 4, "it to look again and again")
