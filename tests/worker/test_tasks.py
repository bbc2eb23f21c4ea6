"""Tasks: called with what they were given, tried again as they say, ended with what they return or raise."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs

from durasleep import Retry, RetryAfter, current
from durasleep.errors import UsageError
from durasleep.model import CANCEL, CommitAction, Due, Entry, Kind, Number, Place, State, StepResult
from durasleep.protocol.commit import Committed
from durasleep.protocol.keys import F
from durasleep.runtime.definition import TaskDefinition
from durasleep.settings import DEFAULTS
from durasleep.worker.execution.executor import call_outside_task
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.tasks import ATTEMPT, Task
from tests.service.workers import eventually
from tests.store.driver import Driver, child
from tests.worker.hand import Hand


async def run(hand: Hand, fn: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Register a task, call it, and take it on."""
    hand.registry.task(fn, name="fn", **options)
    await hand.driver.create("a", "fn", args=hand.codec.encode_args(args, {}, "fn"))
    await hand.executor.submit(await hand.driver.read(1))


async def error_of(hand: Hand) -> BaseException:
    return hand.codec.decode_error((await hand.driver.record("a")).value)


@pytest.mark.parametrize("is_sync", [False, True])
async def test_its_result_is_that_of_the_execution(hand: Hand, is_sync: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")

    def double_in_thread(number: int) -> int:
        return 2 * number

    async def double(number: int) -> int:
        return 2 * number

    await run(hand, double_in_thread if is_sync else double, 21)
    await hand.becomes(State.RESOLVED)
    assert await hand.value() == 42
    assert [line for line in caplog.messages if re.match(r"a resolved after \d", line)]


async def test_its_error_is_that_of_the_execution(hand: Hand, caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ValueError("no luck")

    await run(hand, failing)
    await hand.becomes(State.REJECTED)
    assert repr(await error_of(hand)) == "ValueError('no luck')"
    [line] = caplog.messages
    assert line.startswith("a rejected after ")
    assert line.endswith(": ValueError: no luck")


async def test_a_wish_for_another_attempt_without_a_retry_is_said_to_be_in_vain(
    hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        raise RetryAfter(30) from ValueError("no luck")

    await run(hand, failing)
    await hand.becomes(State.REJECTED)
    assert repr(await error_of(hand)) == "ValueError('no luck')"
    assert caplog.messages[-1].endswith(
        ": ValueError: no luck; RetryAfter was in vain: without a retry= there is one attempt"
    )


async def test_a_result_that_cannot_be_kept_is_an_error(hand: Hand) -> None:
    def strange() -> object:
        return object()

    await run(hand, strange)
    await hand.becomes(State.REJECTED)
    assert "the result of fn" in str(await error_of(hand))


async def test_it_can_ask_what_it_is(hand: Hand) -> None:
    seen: list[Any] = []

    async def asking() -> None:
        now = current()
        seen.append((now.id, now.function, now.attempt))
        if now.attempt < 2:
            raise ConnectionError

    await run(hand, asking, retry=Retry(attempts=2, delay=0))
    await hand.becomes(State.RESOLVED)
    assert seen == [("a", "fn", 1), ("a", "fn", 2)]


@pytest.mark.parametrize("timeout", [None, 3600])
async def test_it_knows_until_when_it_has_time(hand: Hand, driver: Driver, timeout: float | None) -> None:
    """Until its own time is over or that of the execution."""
    seen: list[Any] = []

    async def asking() -> None:
        seen.append(current())

    hand.registry.task(asking, name="fn", timeout=timeout)
    await driver.create(
        "a", "fn", args=hand.codec.encode_args((), {}, "fn"), queue="workers/w1", deadline=Due("+86400000")
    )
    await hand.executor.submit(await driver.read(1, queue="workers/w1"))
    await hand.becomes(State.RESOLVED)
    [now] = seen
    record = await driver.record("a")
    assert (now.step, now.group, now.idempotency_key) == (None, "workers", f"a:{record.incarnation}")
    left_s = (now.deadline - datetime.now(UTC)).total_seconds()
    longest_s = timeout or 86_400
    assert longest_s - 100 < left_s <= longest_s


async def test_of_many_that_go_well_few_are_logged(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """What has failed always is."""
    caplog.set_level(logging.INFO, "durasleep")
    hand = Hand(driver, settings=replace(DEFAULTS, log_lines_max=0))
    await run(hand, lambda: 42)
    await hand.becomes(State.RESOLVED)
    assert caplog.messages == []
    await hand.end()


async def test_when_an_attempt_began_is_kept(hand: Hand, driver: Driver) -> None:
    """In the life of its execution, here an hour and some; a wait before it is no part of it."""
    began_ms: list[float] = []

    async def failing() -> None:
        began_ms.append(1000 * time.time())
        raise ConnectionError

    hand.registry.task(failing, name="fn", retry=Retry(attempts=3, delay=0.3, jitter=0, backoff=1))
    await driver.create("a", "fn", args=hand.codec.encode_args((), {}, "fn"))
    record = await driver.record("a")
    leases = await driver.read(1)
    await driver.redis.hset(driver.keys.promise("a"), F["incarnation"], record.incarnation - 3_600_000)
    await hand.executor.submit(leases)
    await hand.becomes(State.REJECTED)
    entries = (await driver.load("a")).entries
    first, second = entries[Number("1")].begun_ms, entries[Number("2")].begun_ms
    assert 3_600_000 <= first < 3_610_000
    assert abs((second - first) - (began_ms[1] - began_ms[0])) < 100


async def test_what_began_while_it_was_a_workflow_ends_with_it(hand: Hand, driver: Driver) -> None:
    lease = await driver.start("a", function="fn", args=hand.codec.encode_args((), {}, "fn"))
    tried = StepResult(Number("1"), "fn", State.REJECTED, b"", 0)
    await driver.commit(lease, CommitAction.RETRY, tried, child("2"), due="+3600000")
    await driver.control("wake", "a")
    hand.registry.task(lambda: None, name="fn")
    found = await driver.read(10)
    await hand.executor.submit([one for one in found if one.id == "a"])
    await hand.becomes(State.RESOLVED)
    await driver.fire_all()
    assert (await driver.record("a~2")).state is State.CANCELED


async def test_each_attempt_that_failed_is_kept_and_the_last_is_the_end(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    async def failing() -> None:
        attempts.append(len(await entries()))
        raise ConnectionError(f"number {len(attempts)}")

    async def entries() -> list[Any]:
        return sorted((await driver.load("a")).entries.values(), key=lambda entry: entry.number)

    await run(hand, failing, retry=Retry(attempts=3, delay=0))
    await hand.becomes(State.REJECTED)
    assert attempts == [0, 1, 2], "it begins once the one before it is kept"
    kept = await entries()
    assert [(entry.number, entry.name, entry.state) for entry in kept] == [
        ("1", "fn", State.REJECTED),
        ("2", "fn", State.REJECTED),
    ]
    assert "number 3" in str(await error_of(hand))
    assert "a: attempt 1 of 3 failed: ConnectionError: number 1; next in 0" in caplog.text
    assert caplog.text.count("; next in") == 2


@pytest.mark.parametrize(("delay_s", "status"), [(0.99, Place.QUEUED), (1.0, Place.DELAYED)])
async def test_a_short_wait_is_waited_here_and_a_long_one_in_redis(
    hand: Hand, driver: Driver, delay_s: float, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        raise ConnectionError("no")

    await run(hand, failing, retry=Retry(attempts=9, delay=delay_s, backoff=1, jitter=0))
    await eventually(lambda: "; next in" in caplog.text, "it to fail")
    if status == Place.DELAYED:
        await hand.becomes(status)
        now_ms = (await driver.beat()).server_us // 1000
        assert 0 <= now_ms + 1000 - (await driver.timers())["a~retry"] < 900
        assert (await driver.redis.hget(driver.keys.promise("a"), F["reason"])).decode() == (
            "attempt 1 of 9 failed: ConnectionError: no"
        )
    else:
        await eventually(lambda: caplog.text.count("; next in") > 1, "it to be tried again")
        assert await hand.status("a") == status
    await hand.executor.abort()
    await driver.control("force", "a")


async def test_it_goes_on_counting_where_it_was_tried_before(hand: Hand, driver: Driver) -> None:
    """By another worker, or this one."""
    attempts: list[int] = []

    async def failing() -> None:
        attempts.append(current().attempt)
        raise ConnectionError("no")

    await run(hand, failing, retry=Retry(attempts=3, delay=3600, jitter=0))
    for _ in range(2):
        await hand.becomes(Place.DELAYED)
        await driver.control("wake", "a")
        await hand.executor.submit(await driver.read(1))
    await hand.becomes(State.REJECTED)
    assert attempts == [1, 2, 3]


async def test_what_is_not_to_be_tried_again_is_not(hand: Hand) -> None:
    async def failing() -> None:
        raise ValueError("for good")

    await run(hand, failing, retry=Retry(attempts=9, delay=0, give_up_on=(ValueError,)))
    await hand.becomes(State.REJECTED)


async def test_an_attempt_has_its_own_time(hand: Hand) -> None:
    attempts: list[int] = []

    async def slow() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return "in time"

    await run(hand, slow, timeout=0.05, retry=Retry(attempts=2, delay=0))
    await hand.becomes(State.RESOLVED)
    assert len(attempts) == 2


# -- arguments


async def test_arguments_that_never_fitted_end_it(hand: Hand, caplog: pytest.LogCaptureFixture) -> None:
    async def one(number: int) -> None:
        hand.ran.append("a")

    await run(hand, one, 1, 2)
    await hand.becomes(State.REJECTED)
    assert isinstance(await error_of(hand), UsageError)
    [line] = caplog.messages
    assert line.startswith("a rejected: ")
    assert hand.ran == []


async def test_arguments_that_no_longer_fit_wait_for_the_mend(hand: Hand, driver: Driver) -> None:
    async def failing(number: int) -> None:
        raise ConnectionError

    await run(hand, failing, 1, retry=Retry(attempts=9, delay=3600))
    await hand.becomes(Place.DELAYED)
    changed = Hand(driver)

    def changed_fn(number: int, word: str) -> None: ...

    changed.registry.task(changed_fn, name="fn")
    await driver.control("wake", "a")
    await changed.executor.submit(await driver.read(1))
    await changed.becomes(Place.HALTED)
    reason = (await driver.record("a")).reason.splitlines()
    assert reason[0] == "the arguments with which a has begun no longer fit its code:"
    assert [line[:4] for line in reason[1:3]] == ["  - ", "  + "]
    assert reason[3].startswith("Deploy the code this execution began with")
    await changed.end()
    await driver.control("force", "a")


# -- canceled


async def test_a_cancel_is_told_once_where_it_awaits(hand: Hand, driver: Driver) -> None:
    told: list[int] = []
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(1)
            await may_end.wait()
        return "after all"

    await run(hand, stubborn)
    await has_begun.wait()
    for _ in range(3):
        await driver.control("cancel", "a")
        hand.executor.notify("a")
        await eventually(lambda: told, "it to be told")
    may_end.set()
    await hand.becomes(State.RESOLVED)
    assert await hand.value() == "after all"
    assert told == [1]


@pytest.mark.parametrize("retry", [None, Retry(attempts=9, delay=0, retry_on=(BaseException,))])
async def test_one_that_ends_by_its_cancel_is_canceled(hand: Hand, driver: Driver, retry: Retry | None) -> None:
    has_begun = asyncio.Event()

    async def endless() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    await run(hand, endless, retry=retry)
    await has_begun.wait()
    await driver.control("cancel", "a")
    hand.executor.notify("a")
    await hand.becomes(State.CANCELED)


async def test_one_that_fails_as_it_is_canceled_is_not_tried_again(hand: Hand, driver: Driver) -> None:
    has_begun = asyncio.Event()

    async def failing() -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("the cleanup failed")

    await run(hand, failing, retry=Retry(attempts=9, delay=0))
    await has_begun.wait()
    await driver.control("cancel", "a")
    hand.executor.notify("a")
    await hand.becomes(State.REJECTED)
    assert "the cleanup failed" in str(await error_of(hand))


async def test_one_that_is_canceled_between_two_attempts_makes_no_more(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[int] = []

    async def failing() -> None:
        attempts.append(1)
        await driver.control("cancel", "a")
        raise ConnectionError

    await run(hand, failing, retry=Retry(attempts=9, delay=0.9, jitter=0))
    await hand.becomes(State.CANCELED)
    assert attempts == [1]


async def test_a_cancel_of_its_own_is_an_error_like_any_other(hand: Hand) -> None:
    attempts: list[int] = []

    async def canceling() -> None:
        attempts.append(1)
        raise asyncio.CancelledError("by itself")

    await run(hand, canceling, retry=Retry(attempts=2, delay=0, retry_on=(BaseException,)))
    await hand.becomes(State.REJECTED)
    assert "CancelledError in fn: by itself" in str(await error_of(hand))


async def test_what_was_canceled_before_is_not_called(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    [lease] = await hand.read("a")
    await driver.control("cancel", "a")
    await hand.executor.submit([structs.replace(lease, snapshot=b"")])
    await hand.becomes(State.CANCELED)
    assert hand.ran == []
    assert [line for line in caplog.messages if line.startswith("a canceled after ")]


async def test_news_are_heard_before_it_is_called(hand: Hand, driver: Driver) -> None:
    """Its entry tells what was before the cancel."""
    lease = await hand.read_with_snapshot("a")
    await driver.control("cancel", "a")
    await hand.executor.submit([lease])
    hand.executor.notify("a")
    await hand.becomes(State.CANCELED)
    assert hand.ran == []


async def test_news_that_are_none_hold_nobody_up(hand: Hand) -> None:
    lease = await hand.read_with_snapshot("a")
    await hand.executor.submit([lease])
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    running.has_unseen = True  # it was asked for while there was nobody to hear it
    await hand.begun("a")
    await hand.let_go("a")
    assert await hand.status("a") == State.RESOLVED


async def test_what_goes_wrong_as_it_is_stopped_is_told(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """If it was lost meanwhile it has no other way to be heard of."""

    async def failing() -> None:
        hand.ran.append("a")
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the cleanup failed")

    await run(hand, failing, retry=Retry(attempts=9, delay=0))
    await hand.begun("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    hand.executor.let_go(running)
    await eventually(lambda: caplog.messages, "it to be told")
    assert caplog.messages == ["a was stopped, and failed as it ended: OSError: the cleanup failed"]


# -- its commits


async def standing(hand: Hand) -> tuple[HeldExecution, Task]:
    """One that runs, and has nothing to say."""
    await hand.standing("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    assert isinstance(running.work, Task)
    return running, running.work


def settled(number: str, stamp: int = 7) -> Entry:
    return Entry(Number(number), Kind.PROMISE, State.RESOLVED, stamp=stamp)


def answer(*entries: Entry, more: bool = False) -> Committed:
    return Committed(redrive=True, more=more, entries=list(entries))


@pytest.mark.parametrize(("has_unseen", "more"), [(False, True), (True, False)])
async def test_what_one_answer_does_not_tell_is_asked_for(hand: Hand, has_unseen: bool, more: bool) -> None:
    """And the newest of it is what it has heard of."""
    running, work = await standing(hand)
    running.has_unseen = has_unseen
    work.take(answer(settled("8", 5), settled("7", 9), more=more))
    assert running.has_unseen
    assert running.is_due
    item = work.commit()
    assert item is not None
    assert "9\t7\tcontinue" in str(item.args[3])
    assert not running.has_unseen
    assert work.commit() is None
    await hand.let_go("a")


async def test_it_has_heard_of_nothing_that_has_not_settled(hand: Hand, driver: Driver) -> None:
    running, work = await standing(hand)
    journal = await driver.load("a")
    journal.entries[Number("7")] = Entry(Number("7"), Kind.CHILD, State.PENDING)
    definition = hand.registry.get("stand")
    assert isinstance(definition, TaskDefinition)
    again = Task(hand.executor._tasks, running, definition, journal)  # pyright: ignore[reportPrivateUsage]
    running.has_unseen = True
    item = again.commit()
    assert item is not None
    assert "0\t\tcontinue" in str(item.args[3])
    assert work is running.work
    await hand.let_go("a")


async def test_whatever_comes_with_a_cancel_it_is_told_once(hand: Hand) -> None:
    running, work = await standing(hand)
    attempt = running.steps[ATTEMPT]
    for _ in range(2):
        work.take(answer(settled("7"), settled(CANCEL, 8)))
        assert attempt.cancelling() == 1
    hand.executor.let_go(running)


async def test_one_that_has_ended_ends_so_even_if_it_was_canceled_meanwhile(hand: Hand) -> None:
    running, work = await standing(hand)
    running.is_committing = True
    hand.gate("a").set()
    await eventually(lambda: not running.steps, "it to end")
    work.take(answer(settled(CANCEL)))
    end = work._end  # pyright: ignore[reportPrivateUsage]
    assert end is not None
    assert end[0] is CommitAction.RESOLVE
    item = work.commit()
    assert item is not None
    assert str(item.args[3]).split("\t")[6] == "", "it has nothing open that would end with it"
    hand.executor.let_go(running)


@pytest.mark.parametrize("how", ["returns", "fails"])
async def test_what_ends_while_an_answer_is_on_its_way_is_written_after_it(hand: Hand, how: str) -> None:
    async def work() -> str:
        hand.ran.append("a")
        if len(hand.ran) == 1:
            await hand.gate("a").wait()
            if how == "fails":
                raise ConnectionError
        return "done"

    await run(hand, work, retry=Retry(attempts=2, delay=0))
    await hand.begun("a")
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    running.is_committing = True
    hand.gate("a").set()
    await eventually(lambda: not running.steps, "it to end")
    assert not running.is_due
    running.is_committing = False
    assert running.work is not None
    await call_outside_task(running.work.take, answer())
    await hand.becomes(State.RESOLVED)
    assert len(hand.ran) == (1 if how == "returns" else 2)


@pytest.mark.parametrize("what", ["has_unseen", "ops"])
async def test_the_next_attempt_waits_for_all_that_is_to_be_said_or_heard(
    hand: Hand, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    delays = delays_of(hand, monkeypatch)
    running, work = await standing(hand)
    result = StepResult(Number("1"), "fn", State.REJECTED, b"", 0)
    work._wait_s = 0.5  # pyright: ignore[reportPrivateUsage]
    setattr(running, what, True if what == "has_unseen" else (result,))
    work.take(answer())
    assert (delays, running.is_due) == ([0.0], True)
    setattr(running, what, False if what == "has_unseen" else ())
    running.is_due = False
    work.take(answer())
    assert (delays, running.is_due) == ([0.0, 0.5], False)
    hand.executor.let_go(running)


async def test_who_leaves_lets_others_wait_for_the_rest_of_the_time(hand: Hand) -> None:
    """If it leaves before the attempt that failed is written."""
    running, work = await standing(hand)
    work._wait_s = 0.5  # pyright: ignore[reportPrivateUsage]
    hand.executor.leave()
    work.take(answer())
    assert work._end == (CommitAction.RETRY, b"its worker has left", "+500")  # pyright: ignore[reportPrivateUsage]
    hand.executor.let_go(running)


def delays_of(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each attempt waits before it begins, from here on."""
    delays: list[float] = []
    code = hand.executor._code  # pyright: ignore[reportPrivateUsage]
    start = code.start

    def note(*args: Any, **options: Any) -> asyncio.Task[Any]:
        delays.append(options["delay_s"])
        return start(*args, **options)

    monkeypatch.setattr(code, "start", note)
    return delays


async def test_only_between_two_attempts_is_there_a_wait(
    hand: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the first, and not for news."""
    delays = delays_of(hand, monkeypatch)

    async def failing() -> None:
        raise ConnectionError

    hand.registry.task(failing, name="fn", retry=Retry(attempts=3, delay=0.02, backoff=2, jitter=0))
    await driver.create("a", "fn", args=hand.codec.encode_args((), {}, "fn"))
    [lease] = await driver.read(1)
    await hand.executor.submit([await hand.with_snapshot(lease)])
    hand.executor.notify("a")
    await hand.becomes(State.REJECTED)
    assert delays == [0.0, 0.02, 0.04]


async def test_what_it_has_heard_of_is_no_news(hand: Hand, driver: Driver) -> None:
    """Of its journal, and of the answers since."""

    async def failing() -> None:
        hand.ran.append(f"attempt {len(hand.ran)}")
        if len(hand.ran) == 3:
            await hand.gate("a").wait()
        elif len(hand.ran) == 2:
            raise RetryAfter(0)
        else:
            raise ConnectionError

    await run(hand, failing, retry=Retry(attempts=9, delay=3600, retry_on=(Exception,)))
    await hand.becomes(Place.DELAYED)
    await driver.control("wake", "a")
    await hand.executor.submit(await driver.read(1))
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    orders = [(await driver.record("a")).order]
    await hand.begun("attempt 2")
    assert orders[0] > 0
    orders.append((await driver.record("a")).order)
    hand.executor.on_beat(hand.beat(orders={"a": orders[-1]}))
    assert not running.has_unseen
    await hand.let_go("a")


async def stand_in_second_attempt(hand: Hand, driver: Driver) -> None:
    """The task "a" has failed once, was woken and read again, and stands at its gate."""

    async def failing() -> None:
        hand.ran.append(f"attempt {len(hand.ran)}")
        if len(hand.ran) == 1:
            raise ConnectionError
        await hand.gate("a").wait()

    await run(hand, failing, retry=Retry(attempts=9, delay=3600))
    await hand.becomes(Place.DELAYED)
    await driver.control("wake", "a")
    await hand.executor.submit(await driver.read(1))
    await hand.begun("attempt 1")


async def test_what_its_journal_has_is_no_news(hand: Hand, driver: Driver) -> None:
    await stand_in_second_attempt(hand, driver)
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    order = (await driver.record("a")).order
    hand.executor.on_beat(hand.beat(orders={"a": order}))
    assert order > 0
    assert not running.has_unseen
    await hand.let_go("a")


async def test_a_journal_that_has_lost_what_was_read_of_it_takes_no_more(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is after a failover to a replica that has not had it."""
    caplog.set_level(logging.INFO, "durasleep")
    await stand_in_second_attempt(hand, driver)
    assert await driver.redis.hdel(driver.keys.promise("a"), "1") == 1
    await hand.let_go("a")
    assert re.search(r"^a dropped: .* has no stamp \d", caplog.messages[-1])
    assert (await driver.record("a")).state == State.PENDING


async def test_what_was_refused_comes_before_what_was_to_follow_it(hand: Hand) -> None:
    running, work = await standing(hand)
    first, second = (StepResult(Number(n), "fn", State.REJECTED, b"", 0) for n in "12")
    running.ops = (first,)
    assert work.commit() is not None
    running.ops = (second,)
    assert work.take_back()
    assert running.ops == (first, second)
    hand.executor.let_go(running)


# -- leaving


async def test_what_is_loaded_as_the_worker_leaves_is_left_to_others(
    hand: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    leases = await hand.read("a")
    hand.executor.leave()
    await hand.executor.submit(leases)
    await hand.becomes(Place.DELAYED)
    assert (hand.ran, caplog.messages) == ([], [])
    assert (await driver.record("a")).reason == "its worker has left"
    await driver.control("force", "a")


@pytest.mark.parametrize(
    ("delay_s", "reason"), [(0, "attempt 1 of 9 failed: ConnectionError: no"), (0.9, "its worker has left")]
)
async def test_who_leaves_makes_no_other_attempt(hand: Hand, driver: Driver, delay_s: float, reason: str) -> None:
    """Whether it fails then, or waits for the next."""

    async def failing() -> None:
        hand.ran.append("a")
        if delay_s == 0:
            hand.executor.leave()
        raise ConnectionError("no")

    await run(hand, failing, retry=Retry(attempts=9, delay=delay_s, jitter=0))
    await hand.begun("a")
    hand.executor.leave()
    await hand.becomes(Place.DELAYED)
    assert hand.ran == ["a"]
    assert (await driver.record("a")).reason == reason
    assert len((await driver.load("a")).entries) == 1
    await driver.control("force", "a")


async def test_one_that_waits_for_a_thread_as_the_worker_leaves_is_left_to_others(driver: Driver) -> None:
    hand = Hand(driver, concurrency=1, settings=replace(DEFAULTS, threads_lost_s=60.0))
    await hand.executor._threads.take()  # pyright: ignore[reportPrivateUsage] - somebody has the only one
    await run(hand, lambda: hand.ran.append("a"))
    [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
    await eventually(lambda: running.steps, "its attempt to begin")
    await asyncio.sleep(0)  # it waits for a thread
    hand.executor.leave()
    await hand.becomes(Place.DELAYED)
    assert hand.ran == []
    assert (await driver.record("a")).reason == "its worker has left"
    await hand.end()
    await driver.control("force", "a")
