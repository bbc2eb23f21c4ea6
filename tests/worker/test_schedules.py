"""Schedules that are due are started and moved on; one that cannot be read is quarantined by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from durasleep.errors import StoreUnavailable
from durasleep.protocol import schedules
from durasleep.protocol.keys import S
from durasleep.protocol.schedules import Schedule
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import Connector
from durasleep.transport.store import Store
from durasleep.worker.loops import schedules as schedules_loop
from durasleep.worker.loops.schedules import Schedules
from tests.service.workers import eventually
from tests.store.driver import Driver
from tests.worker.clock import HeldClock

HOUR_MS = 3_600_000
DUE_MS = 1_704_081_600_000
"""4:00 on the first day of 2024."""


class Cron:
    """One namespace's schedules, by hand."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.loop = Schedules(driver.store, driver.keys)
        self.names: list[str] = []

    async def put(self, name: str = "nightly", *, due_ms: int = DUE_MS, broken: dict[str, str] | None = None) -> None:
        """One that is due; what is ``broken`` is written over what was kept of it."""
        self.names.append(name)
        schedule = Schedule(name, "0 4 * * *", "UTC", "f", "workers", b"args", due_ms)
        await self.driver.store.call(schedules.put_schedule(self.driver.keys, schedule))
        for field, value in (broken or {}).items():
            await self.driver.redis.hset(self.driver.keys.schedule(name), S[field], value)

    async def due(self, name: str = "nightly") -> int | None:
        """When its timer falls due."""
        return (await self.driver.timers()).get(f"{name}~cron")

    async def told(self) -> list[str]:
        """Whom other workers were told to look at."""
        found = await self.driver.redis.xrange(self.driver.keys.wake)
        return [value.decode() for _, fields in found for name, value in fields.items() if name == b"c"]

    async def remove(self) -> None:
        for name in self.names:
            await self.driver.store.call(schedules.remove_schedule(self.driver.keys, name))


@pytest.fixture
async def cron(driver: Driver) -> AsyncGenerator[Cron]:
    cron = Cron(driver)
    yield cron
    await cron.remove()


async def test_what_is_due_starts_its_execution_and_is_moved_on(
    cron: Cron, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """However many times have been missed, it starts once, and is due next in the future."""
    caplog.set_level(logging.INFO, "durasleep")
    await cron.put()
    cron.loop.note_due(["nightly"])
    await cron.loop.once()
    [line] = caplog.messages
    assert line.startswith("schedule nightly started nightly@2024-01-01T04:00:00+00:00, next ")
    assert await driver.queued() == ["nightly@2024-01-01T04:00:00+00:00"]
    next_due_ms = await cron.due()
    assert next_due_ms
    now_ms = (await driver.beat()).server_us // 1000
    assert now_ms < next_due_ms <= now_ms + 24 * HOUR_MS
    assert datetime.fromtimestamp(next_due_ms / 1000, UTC).strftime("%H:%M:%S") == "04:00:00"


async def test_of_two_that_see_it_due_one_starts_it(
    cron: Cron, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    await cron.put()
    async with driver.store.second_connection().opened() as store:
        await store.call(schedules.read_schedule(driver.keys, "any"))  # it is connected
        other = Schedules(store, driver.keys)
        for loop in (cron.loop, other):
            loop.note_due(["nightly"])
        await asyncio.gather(cron.loop.once(), other.once())  # both have asked before either is answered
    assert len(await driver.queued()) == 1
    assert len(caplog.messages) == 1


async def test_one_that_another_worker_has_moved_on_is_left_alone(cron: Cron, driver: Driver) -> None:
    due_ms = (await driver.beat()).server_us // 1000 + HOUR_MS
    await cron.put(due_ms=due_ms)
    cron.loop.note_due(["nightly"])
    await cron.loop.once()
    assert await driver.queued() == []
    assert await cron.due() == due_ms


async def test_the_others_beside_it_are_started(cron: Cron, driver: Driver) -> None:
    await cron.put("later", due_ms=(await driver.beat()).server_us // 1000 + HOUR_MS)
    await cron.put("broken", broken={"cron": "@sometimes"})
    await cron.put("good")
    cron.loop.note_due(["unknown", "later", "broken", "good"])
    await cron.loop.once()
    assert await driver.queued() == ["good@2024-01-01T04:00:00+00:00"]


async def test_one_that_is_forgotten_loses_its_timer(cron: Cron, driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {"forgotten~cron": 1})
    cron.loop.note_due(["forgotten"])
    await cron.loop.once()
    assert await driver.timers() == {}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("zone", "Mars/Base", "'Mars/Base' is not a time zone: "),
        ("cron", "@sometimes", "'@sometimes' is not a cron line: "),
        ("due", "soon", ""),
        ("due", "-" + "9" * 18, ""),
    ],
)
async def test_one_that_cannot_be_read_is_quarantined_and_offered_again_in_a_minute(
    cron: Cron, driver: Driver, caplog: pytest.LogCaptureFixture, field: str, value: str, reason: str
) -> None:
    await cron.put("bad", broken={field: value})
    cron.loop.note_due(["bad"])
    await cron.loop.once()
    [line] = await driver.halted()
    assert line.startswith(f"schedule:bad: {reason}")
    due_ms = await cron.due("bad")
    assert due_ms
    assert abs(due_ms - (await driver.beat()).server_us // 1000 - 60_000) < 10_000
    assert f"schedule bad is due, but cannot be started here: {reason}" in caplog.text
    assert await cron.told() == ["bad"]
    assert await driver.queued() == []


async def test_the_reason_is_kept_in_one_line_and_not_at_any_length(cron: Cron, driver: Driver) -> None:
    await cron.put("bad", broken={"cron": "x\n" * 1000})
    cron.loop.note_due(["bad"])
    await cron.loop.once()
    [line] = await driver.halted()
    assert "\n" not in line
    assert len(line) == len("schedule:bad: ") + 200


async def test_who_was_told_by_another_worker_does_not_tell_the_others_once_more(
    cron: Cron, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    await cron.put("bad", broken={"cron": "@sometimes"})
    cron.loop.note_refused("bad")
    await cron.loop.once()
    assert await cron.told() == []
    assert await driver.halted() == []
    assert "schedule bad is due, but cannot be started here" in caplog.text


@pytest.mark.parametrize("first", ["due", "refused"])
async def test_what_a_firing_found_is_told_whoever_has_said_so_as_well(cron: Cron, first: str) -> None:
    await cron.put("bad", broken={"cron": "@sometimes"})
    if first == "due":
        cron.loop.note_due(["bad"])
        cron.loop.note_refused("bad")
    else:
        cron.loop.note_refused("bad")
        cron.loop.note_due(["bad"])
    await cron.loop.once()
    assert await cron.told() == ["bad"]


async def test_one_that_was_offered_by_another_worker_is_started_where_it_can_be_read(
    cron: Cron, driver: Driver
) -> None:
    await cron.put()
    cron.loop.note_refused("nightly")
    await cron.loop.once()
    assert await driver.queued() == ["nightly@2024-01-01T04:00:00+00:00"]


async def test_so_many_are_started_at_a_time_the_first_first(cron: Cron, driver: Driver) -> None:
    names = [f"s{number:02}" for number in range(schedules_loop.TOGETHER_MAX + 3)]
    for name in names:
        await cron.put(name)
    cron.loop.note_due(names)
    await cron.loop.once()
    assert [id.partition("@")[0] for id in await driver.queued()] == names[: schedules_loop.TOGETHER_MAX]
    await cron.loop.once()
    assert [id.partition("@")[0] for id in await driver.queued()] == names
    before = await driver.snapshot()
    await cron.loop.once()
    assert await driver.snapshot() == before, "each is started once"


async def test_what_cannot_be_moved_on_is_said_once_a_minute(
    cron: Cron, hold_clock: Callable[[ModuleType], HeldClock], caplog: pytest.LogCaptureFixture
) -> None:
    """Each by its own minute."""
    clock = hold_clock(schedules_loop)
    clock.now_s = 5.0  # a machine that has just been started
    for name in ("one", "two"):
        await cron.put(name, broken={"zone": "Mars/Base"})

    async def said(name: str, after_s: float) -> int:
        clock.move(after_s)
        caplog.clear()
        cron.loop.note_due([name])
        await cron.loop.once()
        return len(caplog.messages)

    assert await said("one", 0) == 1
    assert await said("two", 30) == 1
    assert await said("one", 29.5) == 0
    assert await said("one", 0.5) == 1
    assert await said("two", 29.5) == 0
    assert await said("two", 0.5) == 1
    assert await said("one", 29.5) == 0
    assert len(cron.loop._said_at) == 2  # pyright: ignore[reportPrivateUsage] - nothing else shows what it remembers
    assert await said("two", 600) == 1
    assert await said("one", 60) == 1
    assert len(cron.loop._said_at) == 1  # pyright: ignore[reportPrivateUsage]


async def test_one_that_the_script_refuses_to_start_is_said_and_stays_due(
    cron: Cron, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    await cron.put()
    await driver.redis.set(driver.keys.queue("workers"), "no stream")
    cron.loop.note_due(["nightly"])
    await cron.loop.once()
    await driver.redis.delete(driver.keys.queue("workers"))
    assert "schedule nightly is due, but cannot be started here" in caplog.text
    assert await driver.halted() == []
    assert await cron.due() == DUE_MS


async def test_where_redis_does_not_answer_they_are_left_to_the_next_firing() -> None:
    """They are still due."""
    store = Store(Connector.of("redis://127.0.0.1:1"), namespace="t", settings=DEFAULTS, patience_s=0.0)
    loop = Schedules(store, store.keyspaces[0])
    loop.note_due(["nightly"])
    with pytest.raises(StoreUnavailable):
        await loop.once()
    await loop.once()  # there is nothing to ask for
    await store.aclose()


# -- its waiting


@asynccontextmanager
async def running(loop: Schedules) -> AsyncGenerator[None]:
    task: asyncio.Task[Any] = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("how", ["due", "refused"])
async def test_it_waits_until_something_is_due_and_starts_all_of_it(cron: Cron, driver: Driver, how: str) -> None:
    for name in ("one", "two"):
        await cron.put(name)
    async with running(cron.loop):
        for name in ("one", "two"):
            await asyncio.sleep(0)  # it waits
            if how == "due":
                cron.loop.note_due([name])
            else:
                cron.loop.note_refused(name)
            await eventually(partial(_is_queued, driver, name), f"{name} to be started")


async def _is_queued(driver: Driver, name: str) -> bool:
    return f"{name}@2024-01-01T04:00:00+00:00" in await driver.queued()
