"""Threads of a worker: who waits for one, who gets it, and what becomes of one whose call nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from durasleep.worker.execution import loop_threads, threads
from durasleep.worker.execution.threads import NotBegun, Threads
from tests.service.workers import LOOK_S, eventually
from tests.worker.clock import HeldClock
from tests.worker.standing import Standing

NAME = contextvars.ContextVar("NAME", default="nobody")


class Pool:
    """Threads, what they tell, and functions that stand until they are let go."""

    def __init__(self, threads_max: int, lost_max_s: float = 60.0) -> None:
        self.told: list[str] = []
        self.standing: dict[str, Standing] = {}
        self.threads = Threads(
            threads_max,
            lost_max_s=lost_max_s,
            on_back=lambda: self.told.append("back"),
            on_used_up=lambda: self.told.append("used up"),
        )

    async def call(self, fn: Callable[..., Any], *args: Any, name: str = "fn", **kwargs: Any) -> Any:
        await self.threads.take()
        return await self.threads.call(fn, args, kwargs, name)

    async def stand(self, name: str) -> asyncio.Task[Any]:
        """A call that stands in its thread."""
        standing = self.standing[name] = Standing(name)
        task = asyncio.create_task(self.call(standing, name=name))
        await standing.begun()
        return task

    async def lose(self, name: str) -> None:
        """One that stands there, and nobody waits for any more."""
        task = await self.stand(name)
        lost = self.threads.lost
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert self.threads.lost == lost + 1

    async def let_go(self, name: str) -> None:
        """It returns, and its loop has heard of it."""
        running = self.threads.running
        self.standing[name].let_go()
        await eventually(lambda: self.threads.running < running, f"{name} to return")


@pytest.fixture
async def pool() -> AsyncGenerator[Pool]:
    """Two of them."""
    pool = Pool(2)
    yield pool
    await end(pool)


async def end(pool: Pool) -> None:
    for standing in pool.standing.values():
        standing.let_go()
    await eventually(lambda: pool.threads.running == 0, "all to return")
    pool.threads.close()


# -- calls


async def test_a_call_has_the_context_and_the_arguments_of_its_caller(pool: Pool) -> None:
    def work(number: int, *, word: str) -> tuple[int, str, str, str]:
        return number, word, NAME.get(), threading.current_thread().name.rpartition("_")[0]

    NAME.set("somebody")
    assert await pool.call(work, 7, word="seven") == (7, "seven", "somebody", "durasleep-step")
    assert (pool.threads.running, pool.threads.lost, pool.told) == (0, 0, [])
    assert not pool.threads._calls, "nothing is kept of it"  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt("no")])
async def test_what_it_raises_is_raised_where_it_is_awaited(pool: Pool, error: BaseException) -> None:
    def work() -> None:
        raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            await pool.call(work)
    assert pool.threads.running == 0


async def test_a_stop_iteration_is_an_error_like_any_other(pool: Pool) -> None:
    def work() -> None:
        raise StopIteration("enough")

    with pytest.raises(RuntimeError, match="StopIteration in user code: enough") as found:
        await pool.call(work)
    assert isinstance(found.value.__cause__, StopIteration)


async def test_who_waits_longest_has_the_next_thread(pool: Pool) -> None:
    held = [await pool.stand(name) for name in ("one", "two")]
    order: list[int] = []
    waiting = [asyncio.create_task(pool.call(order.append, number)) for number in range(3)]
    await asyncio.sleep(0)
    assert (order, pool.threads.running) == ([], 2)
    await pool.let_go("one")
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]
    await pool.let_go("two")
    assert await asyncio.gather(*held) == ["one", "two"]
    await pool.stand("one again")
    await pool.stand("two again")


@pytest.mark.parametrize("when", ["it waits", "it has just got one"])
async def test_one_that_gives_up_waiting_takes_no_thread(when: str) -> None:
    pool = Pool(1)
    held = await pool.stand("one")
    giving_up, next_one = (asyncio.create_task(pool.threads.take()) for _ in range(2))
    await asyncio.sleep(0)
    if when == "it waits":
        giving_up.cancel()
        await asyncio.sleep(0)
        await pool.let_go("one")
    else:
        hold_up_until_returned(pool, "one")
        asyncio.get_running_loop().call_soon(giving_up.cancel)  # after the callback that gives it the thread
    assert await held == "one"
    await asyncio.wait_for(next_one, 10)
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    await pool.threads.call(lambda: None, (), {}, "fn")
    await asyncio.wait_for(pool.call(lambda: None), 10)
    await end(pool)


def hold_up_until_returned(pool: Pool, name: str) -> None:
    """It returns while its loop does nothing."""
    running = pool.threads.running
    pool.standing[name].let_go()
    while pool.threads.running == running:
        time.sleep(LOOK_S)


async def test_where_no_thread_can_be_started_the_next_may_try(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await pool.call(lambda: None)
    assert pool.threads.running == 0
    assert await asyncio.wait_for(pool.call(lambda: 5), 10) == 5


# -- leaving


async def test_who_waits_as_the_worker_leaves_is_not_begun(pool: Pool) -> None:
    held = [await pool.stand(name) for name in ("one", "two")]
    waiting = [asyncio.create_task(pool.threads.take()) for _ in range(2)]
    await asyncio.sleep(0)
    canceled = asyncio.create_task(pool.threads.take())
    await asyncio.sleep(0)
    canceled.cancel()
    pool.threads.refuse()
    found = await asyncio.gather(*waiting, canceled, return_exceptions=True)
    assert [type(one) for one in found] == [NotBegun, NotBegun, asyncio.CancelledError]
    for name in ("one", "two"):
        await pool.let_go(name)
    assert await asyncio.gather(*held) == ["one", "two"], "what has begun ends"
    with pytest.raises(NotBegun):
        await pool.threads.take()


def test_what_is_told_to_a_loop_that_is_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    told: list[int] = []
    threads.post(loop, told.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    threads.post(loop, told.append, 2)
    assert told == [1]


async def test_what_returns_after_the_loop_has_ended_harms_nobody(pool: Pool) -> None:
    await pool.lose("one")
    pool.threads.close()
    await pool.let_go("one")


# -- lost ones


async def test_a_lost_thread_is_one_less_until_it_is_back(pool: Pool) -> None:
    await pool.lose("one")
    assert (pool.threads.lost, pool.threads.running) == (1, 1)
    held = await pool.stand("two")
    waiting = asyncio.create_task(pool.call(lambda: "done"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert pool.told == []
    await pool.let_go("one")
    assert await waiting == "done"
    assert (pool.threads.lost, pool.told) == (0, ["back"])
    await pool.let_go("two")
    assert await held == "two"
    assert pool.told == ["back"], "that one was never lost"


async def test_one_that_had_returned_when_it_was_given_up_is_not_lost(pool: Pool) -> None:
    """Its loop has not heard of it yet."""
    task = await pool.stand("one")
    hold_up_until_returned(pool, "one")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (pool.threads.lost, pool.told) == (0, [])
    for name in ("two", "three"):
        await pool.stand(name)


async def test_lost_ones_are_said_with_what_they_run(
    hold_clock: Callable[[ModuleType], HeldClock], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new one at once, the others once a minute; and that they are back."""
    caplog.set_level(logging.INFO, "durasleep")
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    clock, pool = hold_clock(threads), Pool(3, lost_max_s=1000.0)
    await pool.lose("one")
    clock.move(5)
    await eventually(lambda: len(caplog.messages) == 1, "a line")
    assert caplog.messages[0].startswith("1 of 3 threads are lost to functions that nobody waits for any more")
    assert caplog.messages[0].endswith(": one for 5 s")
    await pool.lose("two")
    await eventually(lambda: len(caplog.messages) == 2, "another")
    assert caplog.messages[1].startswith("2 of 3 threads are lost")
    assert caplog.messages[1].endswith(": one for 5 s, two for 0 s")
    clock.move(60)
    await looks(pool)
    assert len(caplog.messages) == 2
    clock.move(0.5)
    await eventually(lambda: len(caplog.messages) == 3, "the same again")
    await pool.let_go("one")
    assert caplog.messages[3] == "the thread of one is back after 66 s: 1 of 3 threads are lost"
    await pool.let_go("two")
    assert caplog.messages[4] == "the thread of two is back after 60 s: 0 of 3 threads are lost"
    await end(pool)


async def looks(pool: Pool) -> None:
    """It has looked twice, meanwhile."""
    for _ in range(2):
        timer = pool.threads._timer  # pyright: ignore[reportPrivateUsage] - a look leaves no other trace
        await eventually(lambda: pool.threads._timer is not timer, "a look")  # pyright: ignore[reportPrivateUsage]  # noqa: B023


async def test_one_that_is_soon_back_is_not_worth_a_line(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    monkeypatch.setattr(threads, "LOOK_S", 0.05)
    await pool.lose("one")
    await pool.let_go("one")
    await eventually(lambda: pool.threads._timer is None, "a look")  # pyright: ignore[reportPrivateUsage]
    assert caplog.messages == []


@pytest.mark.parametrize(("count", "rest"), [(10, ""), (12, ", 2 more")])
async def test_of_many_ten_are_named_those_that_run_longest(
    hold_clock: Callable[[ModuleType], HeldClock],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    count: int,
    rest: str,
) -> None:
    monkeypatch.setattr(threads, "LOOK_S", 0.05)
    clock, pool = hold_clock(threads), Pool(count)
    for number in range(count):
        clock.move(1)
        await pool.lose(f"x{number}")
    await eventually(lambda: f"{count} of {count}" in caplog.text, "a line about all")
    [line] = [line for line in caplog.messages if line.startswith(f"{count} of {count}")]
    assert line.partition(" cannot be stopped: ")[2] == (
        ", ".join(f"x{number} for {count - 1 - number} s" for number in range(10)) + rest
    )
    await end(pool)


async def test_once_all_have_been_lost_for_so_long_none_is_left(
    hold_clock: Callable[[ModuleType], HeldClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    clock, pool = hold_clock(threads), Pool(2, lost_max_s=60.0)
    await pool.lose("one")
    clock.move(100)
    await pool.lose("two")
    clock.move(59.9)
    await looks(pool)
    assert pool.told == []
    await pool.let_go("one")
    assert pool.told == ["back"]
    await pool.lose("three")
    clock.move(59.9)
    await looks(pool)
    assert pool.told == ["back"], "it began anew"
    clock.move(0.1)
    await eventually(lambda: pool.told == ["back", "used up"], "it to be told")
    await end(pool)


async def test_a_short_time_is_looked_at_in_time() -> None:
    pool = Pool(1, lost_max_s=0.05)
    await pool.lose("one")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await eventually(lambda: pool.told == ["used up"], "it to be told")
    assert loop.time() - began_s < 0.9
    await end(pool)


@pytest.mark.parametrize("is_first", [False, True])
async def test_after_it_was_closed_nobody_looks(is_first: bool) -> None:
    pool = Pool(1 if is_first else 2)
    standing = await pool.stand("two")
    if not is_first:
        await pool.lose("one")
    pool.threads.close()
    standing.cancel()
    await asyncio.gather(standing, return_exceptions=True)
    assert pool.threads.lost == (1 if is_first else 2)
    timer = pool.threads._timer  # pyright: ignore[reportPrivateUsage]
    assert timer is None if is_first else timer is not None and timer.cancelled()
    with pytest.raises(RuntimeError):
        await pool.threads.call(lambda: None, (), {}, "fn")
    await end(pool)


# -- those of its own loop


async def stand_in_loop() -> tuple[asyncio.Task[Any], Standing]:
    """What user code calls by ``asyncio.to_thread``; it has begun."""
    standing = Standing()
    task = asyncio.create_task(asyncio.to_thread(standing))
    await standing.begun()
    return task, standing


@pytest.mark.parametrize(
    ("cores", "threads_max", "calls"), [(None, 2, 5), (3, 2, 7), (28, 2, 32), (100, 2, 32), (3, 40, 40)]
)
async def test_its_own_loop_has_as_many_threads_as_asyncio_gives_others(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads_max: int, calls: int
) -> None:
    """And one for each execution, if these are more."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    pool = Pool(threads_max)
    pool.threads.own_loop()
    of_loop = pool.threads._of_loop  # pyright: ignore[reportPrivateUsage]
    assert of_loop is not None
    assert of_loop._calls_max == calls  # pyright: ignore[reportPrivateUsage] - to stand in all of them would take long
    await end(pool)


async def test_what_is_lost_of_its_own_loop_counts_as_well(pool: Pool) -> None:
    pool.threads.own_loop()
    task, standing = await stand_in_loop()
    task.cancel()
    await eventually(lambda: pool.threads.lost, "it to be lost")
    assert (pool.threads.lost, pool.threads.running, pool.told) == (1, 1, [])
    standing.let_go()
    await eventually(lambda: pool.told, "it to be back")
    assert (pool.threads.lost, pool.threads.running, pool.told) == (0, 0, ["back"])
    assert not pool.threads._calls, "nothing is kept of it"  # pyright: ignore[reportPrivateUsage]


async def test_what_is_lost_of_its_own_loop_is_said_as_well(
    pool: Pool,
    hold_clock: Callable[[ModuleType], HeldClock],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    clock = hold_clock(threads)
    monkeypatch.setattr(loop_threads, "time", clock)
    pool.threads.own_loop()
    first, first_stands = await stand_in_loop()
    clock.move(5)
    second, second_stands = await stand_in_loop()
    first.cancel()
    await eventually(lambda: caplog.messages, "a line")
    assert caplog.messages[0].endswith(": Standing for 5 s")
    second.cancel()
    await eventually(lambda: len(caplog.messages) == 2, "a line about the new one")
    assert caplog.messages[1].endswith(": Standing for 5 s, Standing for 0 s")
    first_stands.let_go()
    await eventually(lambda: pool.told == ["back"], "the first to be back")
    second_stands.let_go()
    await eventually(lambda: pool.told == ["back", "back"], "the second to be back")
    assert caplog.messages[2:] == [
        "the thread of Standing is back after 5 s: 1 of 2 threads are lost",
        "the thread of Standing is back after 0 s: 0 of 2 threads are lost",
    ]


async def test_what_is_given_up_of_its_own_loop_as_it_leaves_is_not_lost(pool: Pool) -> None:
    pool.threads.own_loop()
    task, standing = await stand_in_loop()
    pool.threads.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    standing.let_go()
    await asyncio.get_running_loop().run_in_executor(None, int)  # what was posted before has been heard
    assert (pool.threads.lost, pool.told) == (0, [])


async def test_more_that_are_lost_or_come_back_change_nothing_while_all_are_lost(
    hold_clock: Callable[[ModuleType], HeldClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own loop there may be more than it has threads."""
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    clock, pool = hold_clock(threads), Pool(1, lost_max_s=60.0)
    pool.threads.own_loop()
    await pool.lose("one")
    clock.move(30)
    task, standing = await stand_in_loop()
    task.cancel()
    await eventually(lambda: pool.threads.lost == 2, "it to be lost")
    standing.let_go()
    await eventually(lambda: pool.threads.lost == 1, "it to be back")
    clock.move(30)
    await eventually(lambda: pool.told == ["back", "used up"], "it to be told")
    await end(pool)
