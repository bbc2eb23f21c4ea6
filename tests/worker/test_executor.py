"""The executor takes executions on, lets each go on until it is let go of, and knows what it holds."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from durasleep import Context
from durasleep.errors import CorruptData, Fenced, NewerVersion, StoreFull, StoreUnavailable, UsageError
from durasleep.model import CommitAction, Number, Op, Place, PromiseId, StartPromise, State
from durasleep.protocol import journal
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.journal import Page
from durasleep.protocol.keys import F
from durasleep.settings import DEFAULTS
from durasleep.worker.execution import executor
from durasleep.worker.execution.held import HeldExecution
from tests.service.workers import eventually
from tests.store.driver import OTHER, Driver
from tests.worker.clock import HeldClock
from tests.worker.hand import Hand
from tests.worker.standing import Standing

HoldClock = Callable[[ModuleType], HeldClock]
KEEPING = replace(DEFAULTS, kept_entries_min=1, always_suspend=False, debug=False)
LEASE = Lease(PromiseId("x"), "workers", "1-1", 1)


# -- slots


async def test_what_is_taken_on_runs_and_ends(hand: Hand, driver: Driver) -> None:
    leases = await hand.standing("a", "b")
    assert (hand.executor.free, hand.executor.running) == (0, 2)
    assert sorted(hand.executor.held(), key=lambda lease: lease.id) == leases
    await hand.let_go("a", "b")
    assert (hand.executor.free, hand.executor.running, hand.executor.held()) == (2, 0, [])
    assert [await hand.status(id) for id in "ab"] == [State.RESOLVED] * 2


async def test_one_that_is_in_hand_is_not_taken_on_again(hand: Hand) -> None:
    leases = await hand.standing("a")
    await hand.executor.submit(leases)
    hand.executor.take_offer(leases[0])
    assert hand.executor.free == 1
    await hand.let_go("a")
    assert hand.ran == ["a"]


async def test_who_waits_for_a_free_slot_is_told_how_many_there_are(hand: Hand) -> None:
    assert await hand.executor.wait_until_free() == 2
    await hand.standing("a", "b")
    waiting = asyncio.create_task(hand.executor.wait_until_free())
    await asyncio.sleep(0)
    assert not waiting.done()
    await hand.let_go("b")
    assert await waiting == 1
    await hand.standing("c")
    waiting = asyncio.create_task(hand.executor.wait_until_free())
    await asyncio.sleep(0)
    assert not waiting.done(), "that it was free is over"
    await hand.let_go("c")
    assert await waiting == 1


async def test_who_is_in_a_thread_or_waits_is_known(hand: Hand) -> None:
    assert (hand.executor.in_threads, hand.executor.lost_threads, hand.executor.waits()) == (0, 0, [])
    lost = await lose_a_thread(hand)
    assert (hand.executor.in_threads, hand.executor.lost_threads, hand.executor.free) == (1, 1, 1)
    waiting = asyncio.create_task(hand.executor.wait_until_free())
    await hand.standing("a")
    lost.let_go()
    await eventually(lambda: hand.executor.free == 1, "it to be back")
    assert await waiting == 1


async def lose_a_thread(hand: Hand) -> Standing:
    """What nobody waits for any more stands in a thread of it."""
    pool, standing = hand.executor._threads, Standing()  # pyright: ignore[reportPrivateUsage]
    await pool.take()
    task = asyncio.create_task(pool.call(standing, (), {}, "standing"))
    await standing.begun()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return standing


async def test_what_has_no_slot_waits_here_for_one_and_is_held(hand: Hand) -> None:
    """The oldest has the next."""
    first = await hand.standing("a", "b")
    more = await hand.read("c", "d")
    await hand.executor.submit(more)
    assert (hand.executor.free, hand.executor.running) == (0, 2)
    assert {lease.id for lease in hand.executor.held()} == {lease.id for lease in (*first, *more)}
    await hand.executor.submit(more)
    await hand.let_go("a")
    await hand.begun("c")
    assert hand.ran[-1] == "c"
    assert hand.executor.free == 0
    await hand.let_go("b", "c")
    await hand.begun("d")
    assert sorted(hand.ran) == ["a", "b", "c", "d"]
    assert hand.executor.free == 1


async def test_beyond_what_may_wait_here_it_is_given_back(
    hand: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert executor.WAITING_MAX == 500
    monkeypatch.setattr(executor, "WAITING_MAX", 1)
    await hand.standing("a", "b")
    await hand.executor.submit(await hand.read("c", "d"))
    assert {lease.id for lease in hand.executor.held()} == {"a", "b", "c"}
    assert (await driver.record("d")).epoch == 2
    [again] = await driver.read(10, consumer=OTHER)
    assert (again.id, (await driver.record("d")).crash_count) == ("d", 0)
    await driver.reclaim(consumer=OTHER, release="all")


async def test_what_is_called_in_threads_of_the_loop_counts_where_it_is_ours(hand: Hand) -> None:
    hand.executor.own_loop()
    standing = Standing()
    task = asyncio.create_task(asyncio.to_thread(standing))
    await standing.begun()
    task.cancel()
    await eventually(lambda: hand.executor.lost_threads == 1, "it to be lost")
    standing.let_go()
    await eventually(lambda: hand.executor.lost_threads == 0, "it to be back")


async def test_with_fewer_threads_than_executions_there_is_no_slot(hand: Hand) -> None:
    """It must not read less than nothing."""
    await hand.standing("a", "b")
    lost = await lose_a_thread(hand)
    assert hand.executor.free == 0
    lost.let_go()
    await eventually(lambda: hand.executor.lost_threads == 0, "it to be back")


async def test_many_are_loaded_and_begun_in_parts(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, hold_clock: HoldClock
) -> None:
    monkeypatch.setattr(executor, "TOGETHER_MAX", 4)
    hold_clock(executor)
    hand = Hand(driver, concurrency=20)
    sizes: list[int] = []
    ask = hand.incoming.ask

    def note(items: Any) -> asyncio.Future[list[Any]]:
        sizes.append(len(items))
        return ask(items)

    monkeypatch.setattr(hand.incoming, "ask", note)
    loaded_alone = loads_of(hand, monkeypatch)
    ids = [f"x{number}" for number in range(9)]
    await hand.standing(*ids)
    assert (sizes, loaded_alone) == ([4, 4, 1], [])
    await hand.end()


def loads_of(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded alone from here on."""
    loaded: list[str] = []
    load = hand.executor._load_alone  # pyright: ignore[reportPrivateUsage]

    async def note(running: HeldExecution) -> None:
        loaded.append(running.lease.id)
        await load(running)

    monkeypatch.setattr(hand.executor, "_load_alone", note)
    return loaded


@pytest.mark.parametrize(
    ("tick_s", "parts"), [(0.0, [4, 4, 1]), (executor.TURN_S / 2, [2, 2, 2, 2, 1]), (2 * executor.TURN_S, [1] * 9)]
)
async def test_so_many_begin_in_one_turn_of_the_loop(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, hold_clock: HoldClock, tick_s: float, parts: list[int]
) -> None:
    """Or as many as there is time for: at least one. What is gone meanwhile is passed over."""
    monkeypatch.setattr(executor, "TOGETHER_MAX", 4)
    hold_clock(executor).tick_s = tick_s
    begun: list[int] = []
    many: list[tuple[Any, int]] = [
        (HeldExecution(LEASE, LEASE.entry_key, is_kept=False), number) for number in range(9)
    ]
    many[-1][0].is_gone = True
    hand.executor._begin_each(lambda _, number: begun.append(number), many)  # pyright: ignore[reportPrivateUsage]
    for at in range(len(parts)):
        assert begun == list(range(8))[: sum(parts[: at + 1])]
        await asyncio.sleep(0)
    assert len(begun) == 8


async def test_what_its_entry_tells_is_not_asked_for(hand: Hand, driver: Driver) -> None:
    lease = await hand.read_with_snapshot("a")
    before = await driver.calls()
    await hand.executor.submit([lease])
    await hand.begun("a")
    assert await driver.calls() == before
    await hand.let_go("a")
    assert await hand.status("a") == State.RESOLVED


# -- what another worker offers


async def test_what_is_offered_runs_as_if_it_had_been_read(hand: Hand) -> None:
    [lease] = await hand.read("a")
    hand.executor.take_offer(lease)
    await hand.begun("a")
    await hand.let_go("a")
    assert await hand.status("a") == State.RESOLVED


async def test_what_is_offered_waits_for_a_slot(hand: Hand) -> None:
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    hand.executor.take_offer(lease)
    assert lease in hand.executor.held()
    await hand.let_go("a")
    await hand.begun("c")


@pytest.mark.parametrize("why", ["it leaves", "too many wait"])
async def test_what_is_offered_in_vain_is_offered_to_others(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    [lease] = await hand.read("a")
    if why == "it leaves":
        hand.executor.leave()
    else:
        monkeypatch.setattr(executor, "WAITING_MAX", 0)
    hand.executor.take_offer(lease)
    await eventually(lambda: _is(hand, "a", Place.DELAYED), "it to be offered again")
    assert hand.executor.held() == []
    assert hand.ran == []
    await hand.driver.control("force", "a")


class Turning:
    """Answers what is asked of the store by hand, while two wait for a slot and none is free."""

    def __init__(self, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
        self.executor = hand.executor
        self.beat = hand.beat()
        self.asked: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def ask(_: Any) -> asyncio.Future[list[Any]]:
            return self.asked

        monkeypatch.setattr(hand.driver.store, "ask", ask)

    async def release(self, *leases: Lease) -> None:
        await self.executor.submit(leases)
        for _ in range(2):
            self.executor.on_beat(self.beat)
        assert not set(leases) & set(self.executor.held())

    async def answer(self, answers: list[Any] | Exception) -> None:
        if isinstance(answers, Exception):
            self.asked.set_exception(answers)
        else:
            self.asked.set_result(answers)
        await asyncio.sleep(0)  # for those who wait for it


async def test_only_what_nobody_else_may_know_waits_here_again(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    await hand.standing("a", "b")
    leases = await hand.read("c", "d", "e", "f")
    with monkeypatch.context() as patched:
        turning = Turning(hand, patched)
        await turning.release(*leases)
        hand.executor._returning.add(leases[3].entry_key)  # pyright: ignore[reportPrivateUsage]
        kept, offered = answered(kept=True), answered(offered=True)
        await turning.answer([Fenced("lost"), kept, offered, kept])
    assert [lease.id for lease in hand.executor.held()] == ["d", "a", "b"]
    hand.executor._returning.clear()  # pyright: ignore[reportPrivateUsage]


async def test_if_there_is_a_slot_by_then_it_begins(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    with monkeypatch.context() as patched:
        turning = Turning(hand, patched)
        await turning.release(lease)
        hand.executor.let_go(next(iter(hand.executor._running.values())))  # pyright: ignore[reportPrivateUsage]
        await turning.answer([answered(kept=True)])
    await hand.begun("c")


async def test_what_cannot_be_released_is_told(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody names it in a beat any more, so that it is given back."""
    caplog.set_level(logging.INFO, "durasleep")
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    with monkeypatch.context() as patched:
        turning = Turning(hand, patched)
        await turning.release(lease)
        await turning.answer(StoreUnavailable("gone"))
    assert caplog.messages == ["gone: the executions that wait for a slot here are released after the next heartbeats"]
    assert lease not in hand.executor.held()


async def test_who_ends_as_it_turns_away_waits_for_no_answer(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    with monkeypatch.context() as patched:
        turning = Turning(hand, patched)
        await turning.release(lease)
        for running in tuple(hand.executor._running.values()):  # pyright: ignore[reportPrivateUsage]
            hand.executor.let_go(running)
        await hand.executor.abort()
        assert turning.asked.cancelled()
    assert caplog.messages == []


def answered(**what: bool) -> Committed:
    return Committed(redrive=False, more=False, entries=[], **what)


async def _is(hand: Hand, id: str, status: str) -> bool:
    return await hand.status(id) == status


async def test_what_waits_for_longer_than_a_beat_is_offered_to_others(hand: Hand, driver: Driver) -> None:
    """If there is another that may know it; what is for this worker alone waits on."""
    await driver.beat(functions=hand.registry.fingerprint)
    await driver.start("other", consumer=OTHER)
    await driver.beat(consumer=OTHER, functions="others")
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    [own] = await hand.read("d", queue="workers/w1")
    await hand.executor.submit([lease, own])
    hand.executor.on_beat(hand.beat())
    assert lease in hand.executor.held()
    hand.executor.on_beat(hand.beat())
    assert lease not in hand.executor.held()
    assert own in hand.executor.held()
    await eventually(lambda: _holds(driver, OTHER, lease), "it to be another's")
    await driver.reclaim(consumer=OTHER, release="all")


async def _holds(driver: Driver, consumer: str, lease: Lease) -> bool:
    return lease.entry_key in (await driver.beat(consumer=consumer, functions="others")).unnamed


async def test_where_nobody_else_may_know_it_it_waits_on(hand: Hand, driver: Driver) -> None:
    await driver.beat(functions=hand.registry.fingerprint)
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    await hand.executor.submit([lease])
    for _ in range(2):
        hand.executor.on_beat(hand.beat())
    assert lease not in hand.executor.held()
    await eventually(lambda: lease in hand.executor.held(), "it to be kept")
    await hand.let_go("a")
    await hand.begun("c")


# -- what never arrived


async def test_what_never_arrived_is_given_back(hand: Hand, driver: Driver) -> None:
    [lease] = await hand.read("a")
    returning = asyncio.create_task(hand.executor.return_unheard(lease.entry_key))
    await asyncio.sleep(0)
    await hand.executor.submit([lease])
    assert hand.executor.held() == [], "it is too late for it to arrive"
    assert await returning
    assert (await driver.record("a")).epoch == 2
    assert await hand.executor.return_unheard(lease.entry_key), "nothing of it is remembered"
    [again] = await driver.read(1)
    await hand.executor.submit([again])
    await hand.begun("a")


async def test_what_has_arrived_is_not(hand: Hand, driver: Driver) -> None:
    leases = await hand.standing("a", "b")
    [waiting] = await hand.read("c")
    await hand.executor.submit([waiting])
    for lease in (leases[0], waiting):
        assert not await hand.executor.return_unheard(lease.entry_key)
        assert (await driver.record(lease.id)).epoch == 1


# -- beats


async def test_what_was_lost_is_let_go_of(hand: Hand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    lost, kept = await hand.standing("a", "b")
    [waiting] = await hand.read("c")
    await hand.executor.submit([waiting])
    hand.executor.on_beat(hand.beat(lost=[lost.entry_key, waiting.entry_key]))
    await eventually(lambda: hand.stopped, "its code to be stopped")
    assert hand.stopped == ["a"]
    assert hand.executor.held() == [kept]
    assert "a was taken over or has ended elsewhere" in caplog.text
    assert await hand.status("a") == Place.QUEUED, "nothing is written of it"


async def test_one_may_be_let_go_of_for_two_reasons(hand: Hand) -> None:
    """In one turn of the loop; the second finds nothing to do."""
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    for _ in range(2):
        hand.executor.let_go(running)
    assert (hand.executor.free, running.work) == (2, None)


@pytest.mark.parametrize("what", ["is_committing", "is_due"])
async def test_of_what_was_lost_as_it_is_committed_the_answer_tells(hand: Hand, what: str) -> None:
    [lease] = await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    setattr(running, what, True)
    hand.executor.on_beat(hand.beat(lost=[lease.entry_key]))
    await asyncio.sleep(0)
    assert hand.executor.held() == [lease]
    setattr(running, what, False)


@pytest.mark.parametrize("how", ["notify", "notify_all", "beat"])
async def test_it_hears_of_a_cancel(hand: Hand, driver: Driver, how: str) -> None:
    """By whatever hint comes."""
    await hand.standing("a", "b")
    await driver.control("cancel", "a")
    match how:
        case "notify":
            hand.executor.notify("b")
            hand.executor.notify("a")
        case "notify_all":
            hand.executor.notify_all()
        case _:
            hand.executor.on_beat(hand.beat(orders={"a": (await driver.record("a")).order, "b": 0}))
    await eventually(lambda: hand.stopped, "it to be told")
    await eventually(lambda: _is(hand, "a", State.CANCELED), "it to end")
    assert hand.stopped == ["a"]


async def test_news_that_was_heard_is_no_news(hand: Hand) -> None:
    """Neither is what a beat does not speak of."""
    await hand.standing("a", "b")
    hand.executor.on_beat(hand.beat(orders={"a": 0, "unknown": 7}))
    hand.executor.notify("unknown")
    held = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    assert not any(running.has_unseen or running.is_due for running in held)


# -- leaving


async def test_what_runs_may_end_within_the_grace_time(hand: Hand) -> None:
    assert await hand.executor.drain(10), "there is nothing to wait for"
    await hand.standing("a")
    hand.executor.leave()
    assert not await hand.executor.drain(0.01)
    draining = asyncio.create_task(hand.executor.drain(20))
    await asyncio.sleep(0)
    assert not draining.done()
    await hand.let_go("a")
    assert await draining


async def test_it_is_drained_once_all_are_let_go_of(hand: Hand) -> None:
    """Not before, however often one is."""
    await hand.standing("a", "b")
    hand.executor.leave()
    await hand.let_go("a")
    draining = asyncio.create_task(hand.executor.drain(20))
    await asyncio.sleep(0)
    assert not draining.done()
    await hand.let_go("b")
    assert await draining


async def test_who_leaves_begins_nothing_that_waits(hand: Hand) -> None:
    await hand.standing("a", "b")
    [lease] = await hand.read("c")
    await hand.executor.submit([lease])
    hand.executor.leave()
    await hand.let_go("a", "b")
    assert await hand.executor.drain(10)
    assert hand.executor.held() == [lease]
    assert sorted(hand.ran) == ["a", "b"]


async def test_at_the_end_all_is_stopped_and_nothing_written(hand: Hand, driver: Driver) -> None:
    await hand.standing("a", "b")
    await hand.executor.submit(await hand.read("c"))
    await hand.executor.abort()
    assert (hand.executor.held(), hand.executor.running) == ([], 0)
    assert sorted(hand.stopped) == ["a", "b"]
    assert [await hand.status(id) for id in "abc"] == [Place.QUEUED] * 3
    assert (await driver.record("a")).epoch == 1


async def test_after_the_end_no_function_can_be_called(hand: Hand) -> None:
    pool = hand.executor._threads  # pyright: ignore[reportPrivateUsage]
    await hand.executor.abort()
    await pool.take()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await pool.call(len, ("ab",), {}, "len")


async def test_what_is_being_loaded_at_the_end_is_let_go_of(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def ask(_: Any) -> asyncio.Future[list[Any]]:
        return asked

    monkeypatch.setattr(hand.incoming, "ask", ask)
    await hand.executor.submit(await hand.read("a", "b"))
    await hand.executor.abort()
    assert (hand.executor.held(), hand.ran) == ([], [])
    assert asked.cancelled()
    await asyncio.sleep(0)
    assert caplog.messages == []


async def test_what_is_lost_while_it_is_loaded_alone_does_not_begin(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_loading, may_load, load = asyncio.Event(), asyncio.Event(), hand.driver.store.load

    async def hold(id: PromiseId) -> Any:
        is_loading.set()
        await may_load.wait()
        return await load(id)

    monkeypatch.setattr(hand.incoming, "ask", fail)
    monkeypatch.setattr(hand.driver.store, "load", hold)
    await hand.executor.submit(await hand.read("a"))
    await is_loading.wait()
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    hand.executor.let_go(running)
    task = running.task
    assert task is not None
    may_load.set()
    await task
    assert hand.ran == []
    assert running.work is None


@pytest.mark.parametrize("what", ["there", "lost meanwhile", "not there", "lost and broken"])
async def test_a_journal_can_be_loaded_anew(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    loaded: list[Any] = []
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    if what in ("not there", "lost and broken"):

        async def load(_: Any) -> None:
            if what == "lost and broken":
                raise CorruptData("odd")

        monkeypatch.setattr(hand.driver.store, "load", load)
    hand.executor.load_again(running, loaded.append)
    task = running.task
    assert task is not None
    if what.startswith("lost"):
        hand.executor.let_go(running)
    await task
    assert [one.record.id for one in loaded] == (["a"] if what == "there" else [])
    assert bool(hand.executor.held()) is (what == "there")
    assert caplog.messages == (["a dropped: a is not there any more"] if what == "not there" else [])


async def test_what_is_done_alone_is_known_until_it_ends(hand: Hand) -> None:
    """Even if it begins before the last is quite over."""
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    tasks: list[asyncio.Task[None] | None] = []

    def begin(_: Any) -> None:
        hand.executor.load_again(running, lambda _: None)
        tasks.append(running.task)

    hand.executor.load_again(running, begin)
    first = running.task
    assert first is not None
    await first
    await asyncio.sleep(0)
    [second] = tasks
    assert second is not None
    assert running.task is second
    await second
    await asyncio.sleep(0)
    assert running.task is None


@pytest.mark.parametrize("what", ["loading", "giving back"])
async def test_what_is_stopped_before_it_has_begun_leaves_nothing(hand: Hand, what: str) -> None:
    """No coroutine that nobody has awaited, of which Python would warn."""
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    for _ in range(2):  # the second when it is gone
        if what == "loading":
            hand.executor.load_again(running, lambda _: None)
        else:
            hand.executor.release(running)
        await hand.executor.abort()
    gc.collect()
    assert running.task is None


async def test_what_is_loaded_alone_at_the_end_is_stopped(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """And waited for: the connection is closed only then."""
    is_loading = asyncio.Event()

    async def load(_: Any) -> None:
        is_loading.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _turn in range(9):
                await asyncio.sleep(0)
            hand.stopped.append("load")

    monkeypatch.setattr(hand.incoming, "ask", fail)
    monkeypatch.setattr(hand.driver.store, "load", load)
    await hand.executor.submit(await hand.read("a"))
    await is_loading.wait()
    await hand.executor.abort()
    assert hand.stopped == ["load"]
    assert hand.executor.held() == []


def fail(_: Any) -> asyncio.Future[list[Any]]:
    """What a store that is gone answers."""
    asked: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    asked.set_exception(StoreUnavailable("gone"))
    return asked


async def test_what_cannot_be_loaded_together_is_loaded_alone(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand.incoming, "ask", fail)
    await hand.standing("a", "b")
    await hand.let_go("a", "b")


# -- what cannot begin


@pytest.mark.parametrize("what", ["gone", "dispatched anew", "not ours"])
async def test_an_entry_without_its_execution_is_dropped(hand: Hand, driver: Driver, what: str) -> None:
    [lease] = await hand.read("a")
    match what:
        case "gone":
            await driver.control("force", "a")
        case "dispatched anew":
            await driver.reclaim(lease.entry, release="some")
        case _:
            lease = structs.replace(lease, id=PromiseId(""), epoch=-1)
    await hand.executor.submit([structs.replace(lease, snapshot=b"")])
    await eventually(lambda: not hand.executor.held(), "it to be dropped")
    assert hand.ran == []
    if what == "not ours":
        assert await driver.queued() == []
        assert await driver.halted() != []
        await driver.redis.delete(driver.keys.halted)
        await driver.control("force", "a")


async def test_one_whose_function_is_not_here_is_left_to_others(hand: Hand, caplog: pytest.LogCaptureFixture) -> None:
    await hand.executor.submit(await hand.read("a", function="unheard_of"))
    await eventually(lambda: _is(hand, "a", Place.DELAYED), "it to be deferred")
    assert "no worker here knows the function 'unheard_of'" in caplog.text
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    assert "halted" not in caplog.text
    await hand.driver.control("force", "a")


@pytest.mark.parametrize(
    ("here", "needed"), [(2, "version 1 of dated, the version it began with"), (None, "the function 'dated'")]
)
async def test_of_a_workflow_the_version_it_began_with_is_needed(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture, here: int | None, needed: str
) -> None:
    def dated() -> Callable[..., Any]:
        async def code(ctx: Context, name: str) -> str:
            return await ctx.promise(name="approval")

        return code

    old = Hand(driver)
    old.registry.workflow(dated(), name="dated", version=1)
    await old.executor.submit(await old.read("a", function="dated"))
    await eventually(lambda: _is(old, "a", Place.SUSPENDED), "it to wait")
    await old.executor.abort()
    await old.incoming.aclose()
    if here is not None:
        hand.registry.workflow(dated(), name="dated", version=here)
    await driver.settle("a~1")
    [lease] = await driver.read(1)
    await hand.executor.submit([lease])
    await eventually(lambda: _is(hand, "a", Place.DELAYED), "it to be deferred")
    assert f"no worker here knows {needed}" in caplog.text
    await driver.control("force", "a")


async def test_of_several_versions_it_goes_on_by_that_it_began_with(hand: Hand, driver: Driver) -> None:
    def dated(version: int) -> Callable[..., Any]:
        async def code(ctx: Context, name: str) -> int:
            await ctx.promise()
            return version

        return code

    hand.registry.workflow(dated(1), name="dated", version=1)
    await hand.executor.submit(await hand.read("a", function="dated"))
    await eventually(lambda: _is(hand, "a", Place.SUSPENDED), "it to wait")
    hand.registry.workflow(dated(2), name="dated", version=2)
    await hand.create("b", function="dated")
    await driver.settle("a~1")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    await hand.executor.submit(await driver.read(2))
    await eventually(lambda: _is(hand, "b", Place.SUSPENDED), "the other to wait")
    await driver.settle("b~1")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    await hand.executor.submit(await driver.read(1))
    await eventually(lambda: not hand.executor.held(), "both to end")
    for id, version in (("a", 1), ("b", 2)):
        assert hand.codec.decode((await driver.record(id)).value) == version


async def test_what_was_canceled_before_it_began_ends_without_its_function(hand: Hand, driver: Driver) -> None:
    leases = await hand.read("a", function="unheard_of")
    await driver.control("cancel", "a")
    await hand.executor.submit(leases)
    await eventually(lambda: _is(hand, "a", State.CANCELED), "it to end")


async def test_a_fault_of_ours_halts_one_and_the_others_go_on(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin = hand.executor._tasks.begin  # pyright: ignore[reportPrivateUsage]

    def fail(running: Any, loaded: Any, definition: Any) -> None:
        if running.lease.id == "a":
            raise ZeroDivisionError
        begin(running, loaded, definition)

    monkeypatch.setattr(hand.executor._tasks, "begin", fail)  # pyright: ignore[reportPrivateUsage]
    await hand.executor.submit(await hand.read("a", "b"))
    await hand.begun("b")
    await eventually(lambda: _is(hand, "a", Place.HALTED), "it to be halted")
    assert "a halted by a fault in durasleep" in caplog.text
    await hand.driver.control("force", "a")


@pytest.mark.parametrize(
    ("error", "status", "reason", "said"),
    [
        (
            NewerVersion("a newer one wrote it"),
            Place.DELAYED,
            "a newer one wrote it",
            "a deferred: a newer one wrote it",
        ),
        (StoreFull("no room"), Place.DELAYED, "Redis has reached its maxmemory", "no room: this worker waits"),
        (CorruptData("not ours"), Place.HALTED, "not ours", "a halted: not ours"),
        (UsageError("wrong"), Place.HALTED, "UsageError: wrong", "a halted"),
    ],
)
async def test_what_becomes_of_one_that_cannot_go_on_depends_on_why(
    hand: Hand,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: Place,
    reason: str,
    said: str,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(hand.executor._tasks, "begin", fail)  # pyright: ignore[reportPrivateUsage]
    await hand.executor.submit(await hand.read("a"))
    await eventually(lambda: _is(hand, "a", status), "it to be left")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    assert (await driver.record("a")).reason == reason
    assert said in caplog.text
    await driver.control("force", "a")


async def test_while_redis_is_full_what_would_run_again_is_said_again(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "FULL_RETRY_S", 0.05)
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    running.is_committing = True  # its result is on its way, and is refused
    hand.gate("a").set()
    await eventually(lambda: not running.steps, "it to end")
    running.is_committing = False
    before = time.monotonic()
    hand.executor._fail(running, StoreFull("no room"))  # pyright: ignore[reportPrivateUsage]
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to be kept")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    assert time.monotonic() - before >= 0.05, "not at once"
    assert hand.ran == ["a"]


@pytest.mark.leaves_keys("a broken hash")
async def test_what_is_broken_is_quarantined(hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    [lease] = await hand.read("a")
    await driver.redis.hset(driver.keys.promise("a"), "1", "garbage")
    await hand.executor.submit([lease])
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    assert "a halted: " in caplog.text
    assert hand.ran == []


async def test_a_result_that_is_too_late_is_dropped(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    await hand.standing("a")
    await driver.reclaim(release="all")
    await hand.let_go("a")
    assert "a dropped: " in caplog.text
    assert await hand.status("a") == Place.QUEUED


# -- suspects


async def suspects(driver: Driver, *ids: str) -> None:
    """Two workers in a row have died of these."""
    for id in ids:
        await driver.redis.hset(driver.keys.promise(id), F["crash_count"], 2)


async def test_a_suspect_runs_beside_no_other(hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    first, second = await hand.read("a", "b")
    await suspects(driver, "a", "b")
    await hand.executor.submit([first])
    await hand.begun("a")
    await hand.executor.submit([second])
    await eventually(lambda: _is(hand, "b", Place.DELAYED), "it to wait apart")
    reason = (await driver.record("b")).reason
    assert reason == "waits apart: 2 workers in a row have died while running it"
    now_ms = (await driver.beat()).server_us // 1000
    assert 0 < (await driver.timers())["b~retry"] - now_ms <= 1000
    await hand.standing("c")
    assert hand.ran == ["a", "c"]

    await hand.let_go("a", "c")
    await driver.control("force", "b")


async def test_a_suspect_that_is_canceled_need_not_wait_to_end(hand: Hand, driver: Driver) -> None:
    first, second = await hand.read("a", "b")
    await suspects(driver, "a", "b")
    await hand.executor.submit([first])
    await hand.begun("a")
    await driver.control("cancel", "b")
    await hand.executor.submit([structs.replace(second, snapshot=b"")])
    await eventually(lambda: _is(hand, "b", State.CANCELED), "it to end")
    assert hand.ran == ["a"]
    await hand.let_go("a")


async def test_a_workflow_that_is_canceled_runs_on_and_waits_apart_like_others(hand: Hand, driver: Driver) -> None:
    [first] = await hand.read("a")
    [second] = await hand.read("b", function="asking")
    await suspects(driver, "a", "b")
    await hand.executor.submit([first])
    await hand.begun("a")
    await driver.control("cancel", "b")
    await hand.executor.submit([second])
    await eventually(lambda: _is(hand, "b", Place.DELAYED), "it to wait apart")
    assert hand.ran == ["a"]
    await hand.let_go("a")
    await driver.control("force", "b")


async def test_one_that_has_waited_apart_long_enough_runs(driver: Driver, hold_clock: HoldClock) -> None:
    """What is in its way may take an hour. One that has run elsewhere meanwhile begins anew."""
    clock = hold_clock(executor)
    hand = Hand(driver)
    waits = hand.executor._waits_apart  # pyright: ignore[reportPrivateUsage] - of ten seconds and more
    assert not waits(PromiseId("b")), "there is no other"
    [lease] = await hand.read("a")
    await suspects(driver, "a")
    await hand.executor.submit([lease])
    await hand.begun("a")
    told: list[bool] = []
    for after_s in (0, 5, 4.5, 0.5, 0, 12):
        clock.move(after_s)
        told.append(waits(PromiseId("b")))
    assert told == [True, True, True, False, True, True]
    clock.move(11)
    assert not waits(PromiseId("b"))
    await hand.end()
    await driver.control("force", "a")


async def test_it_remembers_of_so_many_that_they_wait_apart(
    driver: Driver, hold_clock: HoldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert executor.APART_MAX == 10_000
    monkeypatch.setattr(executor, "APART_MAX", 2)
    clock, hand = hold_clock(executor), Hand(driver)
    [lease] = await hand.read("a")
    await suspects(driver, "a")
    await hand.executor.submit([lease])
    await hand.begun("a")
    waits = hand.executor._waits_apart  # pyright: ignore[reportPrivateUsage]
    assert all(waits(PromiseId(id)) for id in "bcd")
    clock.move(10)
    assert [waits(PromiseId(id)) for id in "dcb"] == [False, False, True]
    await hand.end()
    await driver.control("force", "a")


# -- workflows


async def test_a_function_in_the_place_of_a_workflow_is_called_as_a_task(driver: Driver) -> None:
    """As tests have it."""

    async def real(ctx: Context, name: str) -> str:
        raise AssertionError("it is not called")

    def instead(name: str) -> str:
        return f"instead of {name}"

    hand = Hand(driver, overrides={real: instead})
    hand.registry.workflow(real, name="real")
    await hand.executor.submit(await hand.read("a", function="real"))
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to end")
    assert hand.codec.decode((await driver.record("a")).value) == "instead of a"
    await hand.end()


async def test_a_workflow_suspends_and_goes_on_where_it_was(hand: Hand, driver: Driver) -> None:
    await hand.executor.submit(await hand.read("a", function="asking"))
    await eventually(lambda: _is(hand, "a", Place.SUSPENDED), "it to wait")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    await driver.settle("a~1", value=hand.codec.encode("yes", "the value", None))
    await hand.executor.submit(await driver.read(1))
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to end")


async def test_a_journal_of_many_pages_is_loaded_whole(hand: Hand, driver: Driver) -> None:
    """What one answer does not tell is asked for."""
    lease = await driver.start("a", function="asking", args=hand.codec.encode_args(("a" * 600_000,), {}, "asking"))
    ops: list[Op] = [StartPromise(Number("1"), "approval", None)]
    await driver.commit(lease, CommitAction.SUSPEND, *ops)
    await driver.settle("a~1", value=hand.codec.encode("yes" * 200_000, "the value", None))
    [again] = await driver.read(1)
    await hand.executor.submit([again])
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to end")


async def test_one_that_was_kept_goes_on_whatever_its_entry_tells(driver: Driver) -> None:
    hand, begun = Hand(driver, settings=KEEPING), list[int]()

    async def sleeping(ctx: Context, name: str) -> None:
        begun.append(1)
        await ctx.sleep(0.001)

    hand.registry.workflow(sleeping, name="sleeping")
    await hand.executor.submit(await hand.read("a", function="sleeping"))
    await eventually(lambda: _is(hand, "a", Place.SUSPENDED), "it to wait")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    await eventually(lambda: _fired(driver), "it to be due")
    [lease] = await driver.read(1)
    await hand.executor.submit([await hand.with_snapshot(lease)])
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to end")
    assert begun == [1]
    await hand.end()


async def _fired(driver: Driver) -> bool:
    return (await driver.fire()).due > 0


async def test_one_page_of_several_is_not_taken_for_all(hand: Hand, driver: Driver) -> None:
    await hand.create("a")
    page = await driver.store.call(journal.read_page(driver.keys, PromiseId("a")))
    read = executor._loaded_of  # pyright: ignore[reportPrivateUsage]
    assert read(page) == await driver.load("a")
    for other in (Page(page.record, page.entries, b"1"), Page(None, [], b""), StoreUnavailable("gone")):
        assert read(other) is None
    await driver.control("force", "a")


@pytest.mark.parametrize("how", ["a beat", "the end"])
async def test_what_is_kept_is_closed(driver: Driver, how: str) -> None:
    """Once it is old, or no worker is left for it."""
    hand = Hand(driver, settings=replace(KEEPING, kept_s=0.0 if how == "a beat" else 60.0))

    async def waiting(ctx: Context, name: str) -> None:
        try:
            await ctx.promise()
        finally:
            hand.stopped.append(name)

    hand.registry.workflow(waiting, name="waiting")
    await hand.executor.submit(await hand.read("a", function="waiting"))
    await eventually(lambda: _is(hand, "a", Place.SUSPENDED), "it to wait")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    assert hand.stopped == []
    if how == "a beat":
        hand.executor.on_beat(hand.beat())
        await eventually(lambda: hand.stopped, "it to be put away")
    else:
        await hand.executor.abort()
    assert hand.stopped == ["a"]
    await hand.end()
    await driver.control("force", "a")


@pytest.mark.parametrize("how", ["read", "offered", "after it has waited"])
async def test_one_that_was_kept_goes_on_without_a_replay(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    hand = Hand(driver, settings=KEEPING)
    loaded_alone = loads_of(hand, monkeypatch)
    await hand.executor.submit(await hand.read("a", function="asking"))
    await eventually(lambda: _is(hand, "a", Place.SUSPENDED), "it to wait")
    await eventually(lambda: not hand.executor.held(), "it to be let go of")
    await driver.settle("a~1", value=hand.codec.encode("yes", "the value", None))
    [lease] = await driver.read(1)
    match how:
        case "read":
            await hand.executor.submit([lease])
        case "offered":
            hand.executor.take_offer(lease)
        case _:
            await hand.standing("x", "y")
            await hand.executor.submit([lease])
            await hand.let_go("x", "y")
    await eventually(lambda: _is(hand, "a", State.RESOLVED), "it to end")
    assert hand.ran.count("a") == 1
    assert loaded_alone == []
    await hand.end()


# -- plain callbacks


async def test_what_is_called_outside_a_task_answers_its_waiter() -> None:
    def ask_it(number: int) -> tuple[int, Any]:
        return number, asyncio.current_task()

    assert await executor.call_outside_task(ask_it, 3) == (3, None)
    with pytest.raises(ZeroDivisionError):
        await executor.call_outside_task(divmod, 1, 0)


@pytest.mark.parametrize("divisor", [0, 1])
async def test_nobody_need_wait_for_it(divisor: int, caplog: pytest.LogCaptureFixture) -> None:
    asked = executor.call_outside_task(divmod, 1, divisor)
    asked.cancel()
    await asyncio.sleep(0)
    assert caplog.messages == []


async def test_leases_that_wait_for_a_slot_are_released_when_the_group_is_paused(hand: Hand) -> None:
    running = await hand.standing("a", "b")
    await hand.executor.submit(await hand.read("c", "d"))
    assert len(hand.executor.held()) == 4
    await hand.executor.release_waiting(hand.driver.keys.partition)
    assert hand.executor.held() == running
    await hand.let_go("a", "b")
    assert hand.ran == ["a", "b"]
    assert {lease.id for lease in await hand.driver.read(10)} == {"c", "d"}
