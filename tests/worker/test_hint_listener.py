"""The listener passes on what it hears, and that it may have missed something."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from durasleep.errors import StoreError
from durasleep.model import Due, Kind
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.server_clock import Clock
from durasleep.worker.loops import hint_listener
from durasleep.worker.loops.hint_listener import HintListener
from tests.service.workers import eventually
from tests.store.driver import WORKER, Driver
from tests.worker.clock import HeldClock

SHORT = replace(DEFAULTS, read_block_s=0.02)


class Heard:
    """A listener, and what it has passed on, in order."""

    def __init__(self, driver: Driver, settings: Settings = SHORT) -> None:
        self.what: list[Any] = []
        self.listener = HintListener(
            driver.store.link(driver.keys),
            driver.keys,
            consumer=WORKER,
            settings=settings,
            clock=Clock(),
            on_wake=lambda entry, due_ms: self.what.append((entry, due_ms)),
            on_schedule=lambda name: self.what.append(f"schedule {name}"),
            on_settlement=lambda name: self.what.append(f"settled {name}"),
            on_offer=self.what.append,
            on_gap=lambda: self.what.append("gap"),
        )
        self.wake, self.inbox = driver.keys.wake, driver.keys.inbox(WORKER)
        self._redis = driver.redis

    async def add(self, stream: str, fields: dict[str, Any], id: str = "*") -> bytes:
        return await self._redis.xadd(stream, fields, id=id)

    def has_heard(self, what: str) -> bool:
        return what in self.what

    async def once(self) -> list[Any]:
        """What it passes on by looking once."""
        self.what.clear()
        count = await self.listener.once()
        assert count == 0 or len(self.what) > 0
        return list(self.what)


@pytest.fixture
async def heard(driver: Driver) -> AsyncGenerator[Heard]:
    """One that listens already."""
    heard = Heard(driver)
    assert await heard.once() == ["gap"]
    yield heard
    await heard.listener.close()
    await driver.redis.delete(heard.wake, heard.inbox)


async def test_nothing_is_heard_where_nothing_is_said(heard: Heard) -> None:
    assert await heard.once() == []


async def test_on_a_new_connection_what_came_before_is_a_gap(driver: Driver) -> None:
    """It may have been said to those before us; all is looked at, and only what follows is heard."""
    heard = Heard(driver)
    for stream in (heard.wake, heard.inbox):
        await heard.add(stream, {"n": "before"})
    assert await heard.once() == ["gap"]
    for stream in (heard.wake, heard.inbox):
        await heard.add(stream, {"n": "after"})
    assert len(await heard.once()) == 2
    await heard.listener.close()
    await heard.add(heard.inbox, {"n": "meanwhile"})
    assert await heard.once() == ["gap"]
    await heard.listener.close()
    await driver.redis.delete(heard.wake, heard.inbox)


async def test_an_earlier_timer_is_passed_on_with_its_due_time(heard: Heard) -> None:
    entry = await heard.add(heard.wake, {"d": "1234"})
    assert await heard.once() == [(entry, 1234)]
    entry = await heard.add(heard.wake, {"d": "as a newer version has it"})
    assert await heard.once() == [(entry, 0)], "look now"


async def test_as_the_scripts_say_it(heard: Heard, driver: Driver) -> None:
    await driver.create("soon", kind=Kind.TIMER, deadline=Due("+5000"))
    [(_, due_ms)] = await heard.once()
    assert due_ms == (await driver.timers())["soon~timeout"]
    await driver.settle("soon")


async def test_a_schedule_that_another_worker_cannot_read_is_passed_on(heard: Heard) -> None:
    await heard.add(heard.wake, {"c": b"nightly\xff"})
    assert await heard.once() == ["schedule nightly\ufffd"]


async def test_a_settlement_is_passed_on(heard: Heard) -> None:
    await heard.add(heard.inbox, {"n": b"order-\xff"})
    assert await heard.once() == ["settled order-\ufffd"]


async def test_what_is_offered_is_passed_on_as_ours(heard: Heard, driver: Driver) -> None:
    await heard.add(heard.inbox, {"t": "workers\t5-1\t3\torder-42"})
    assert await heard.once() == [driver.lease("order-42", "5-1", 3)]


@pytest.mark.parametrize("value", [b"", b"workers\t5-1\t3", b"workers\t5-1\tthree\tid", b"workers\t5-1\t3\t\xff"])
async def test_an_offer_that_cannot_be_read_is_none(heard: Heard, value: bytes) -> None:
    await heard.add(heard.inbox, {"t": value, "n": "after"})
    assert await heard.once() == ["settled after"]


async def test_what_only_a_newer_version_says_is_passed_over(heard: Heard) -> None:
    await heard.add(heard.inbox, {"o": "", "z": "workers\t5-1\t3\ta", "c": "no schedule", "n": "after"})
    assert await heard.once() == ["settled after"]


async def test_several_things_in_one_entry_are_all_heard(heard: Heard, driver: Driver) -> None:
    await heard.add(heard.inbox, {"n": "a", "t": "workers\t5-1\t3\tb"})
    entry = await heard.add(heard.wake, {"c": "nightly", "d": "7"})
    assert await heard.once() == [
        "schedule nightly",
        (entry, 7),
        "settled a",
        driver.lease("b", "5-1", 3),
    ]


async def test_each_is_heard_once_and_many_in_parts(heard: Heard) -> None:
    for number in range(300):
        await heard.add(heard.inbox, {"n": f"x{number}"})
    assert await heard.listener.once() == 256
    assert await heard.listener.once() == 44
    assert heard.what == ["gap", *[f"settled x{number}" for number in range(300)]]
    assert await heard.once() == []


async def test_it_waits_for_what_comes(driver: Driver) -> None:
    """Not for long, and not in a circle."""
    heard = Heard(driver, replace(DEFAULTS, read_block_s=0.5))
    assert await heard.once() == ["gap"]
    before, began_s = await driver.calls("xread"), time.monotonic()
    assert await heard.once() == []
    assert 0.5 <= time.monotonic() - began_s < 4
    assert await driver.calls("xread") == before + 1
    await heard.listener.close()


async def test_while_no_clock_was_set_back_it_only_blocks(
    driver: Driver, hold_clock: Callable[[ModuleType], HeldClock]
) -> None:
    clock = hold_clock(hint_listener)
    heard = Heard(driver)
    await heard.once()
    await heard.add(heard.inbox, {"n": "one"})
    await heard.once()
    before = await driver.calls("xrevrange")
    for _ in range(3):
        clock.move(SHORT.read_block_s + 0.001)
        assert await heard.once() == []
    assert await driver.calls("xrevrange") == before
    await heard.listener.close()
    await driver.redis.delete(heard.inbox)


async def test_a_stream_that_was_made_anew_with_lower_ids_is_a_gap(
    driver: Driver, hold_clock: Callable[[ModuleType], HeldClock]
) -> None:
    """The server's clock was set back; looked for as often as a blocking read ends. The other stream goes on."""
    clock = hold_clock(hint_listener)
    heard = Heard(driver)
    await heard.once()
    await heard.add(heard.inbox, {"n": "high"}, id=f"{(time.time_ns() // 1_000_000) + 3_600_000}-1")
    await heard.add(heard.wake, {"d": "1"})
    assert len(await heard.once()) == 2
    await driver.redis.delete(heard.inbox)
    await heard.add(heard.inbox, {"n": "low"}, id="5-1")
    for after_s in (0, SHORT.read_block_s):
        clock.move(after_s)
        assert await heard.once() == []
    clock.move(0.001)
    assert await heard.once() == ["gap"]
    await heard.add(heard.inbox, {"n": "next"}, id="5-2")
    assert await heard.once() == ["settled next"]
    clock.move(SHORT.read_block_s + 0.001)
    await heard.add(heard.inbox, {"n": "as always"}, id="5-3")
    assert await heard.once() == ["settled as always"]
    await heard.listener.close()
    await driver.redis.delete(heard.wake, heard.inbox)


async def test_where_a_stream_cannot_be_read_it_begins_anew(
    driver: Driver, hold_clock: Callable[[ModuleType], HeldClock]
) -> None:
    """It says so once more for each time it looks."""
    hold_clock(hint_listener)
    heard = Heard(driver)
    await heard.once()
    await driver.redis.set(heard.inbox, "no stream")
    with pytest.raises(StoreError, match="the inbox cannot be read: WRONGTYPE"):
        await heard.once()
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{heard.inbox} cannot be read: WRONGTYPE"):
            await heard.once()
        await heard.listener.close()
    await driver.redis.delete(heard.inbox)
    assert await heard.once() == ["gap"]
    await heard.listener.close()


async def test_it_goes_on_listening(heard: Heard) -> None:
    task: asyncio.Task[None] = asyncio.create_task(heard.listener.run())
    for name in ("one", "two"):
        await heard.add(heard.inbox, {"n": name})
        await eventually(partial(heard.has_heard, f"settled {name}"), name)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
