"""Workflows: driven until they wait, what they ask for is committed, and they go on with what has settled."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from durasleep import Context, current
from durasleep.errors import StoreFull
from durasleep.model import CommitAction, Kind, Number, Place, PromiseId, StartPromise, State, StepResult
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.keys import F
from durasleep.runtime import nondeterminism
from durasleep.runtime.journal import StepCall
from durasleep.runtime.outcome import CanceledOutcome, Progress
from durasleep.settings import DEFAULTS, Settings
from durasleep.worker.execution import workflows
from durasleep.worker.execution.executor import call_outside_task
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.workflows import ActiveWorkflow, Workflows
from tests.service.workers import eventually
from tests.store.driver import Driver
from tests.worker.hand import Hand

ONCE = replace(DEFAULTS, debug=False, always_suspend=False)
"""Its code runs once, whatever the environment asks of the other tests."""


pytestmark = pytest.mark.usefixtures("nothing_was_said")


@pytest.fixture
async def once(driver: Driver) -> Any:
    """A hand whose workflows run once."""
    hand = Hand(driver, settings=ONCE)
    yield hand
    await hand.end()


async def run(hand: Hand, fn: Callable[..., Any], *args: Any, queue: str = "workers") -> None:
    """Register a workflow, call it, and take it on."""
    hand.registry.workflow(fn, name="fn")
    await hand.driver.create("a", "fn", args=hand.codec.encode_args(args, {}, "fn"), queue=queue)
    await hand.executor.submit(await hand.driver.read(1, queue=queue))


async def goes_on(hand: Hand) -> None:
    """What was suspended and is queued again is taken on."""
    await hand.executor.submit(await hand.driver.read(1))


async def answer(hand: Hand, id: str, value: Any = "yes") -> None:
    await hand.driver.settle(id, value=hand.codec.encode(value, "the value", None))


def all_of(hand: Hand) -> Workflows:
    return hand.executor._workflows  # pyright: ignore[reportPrivateUsage]


async def in_hand(hand: Hand, *, steps: int = 0) -> tuple[HeldExecution, ActiveWorkflow]:
    """The only one, once it has been loaded and so many steps of it run."""

    def look() -> HeldExecution | None:
        [running] = hand.executor._running.values()  # pyright: ignore[reportPrivateUsage]
        return running if running.work is not None and len(running.steps) >= steps else None

    running: HeldExecution = await eventually(look, f"it to begin, and {steps} steps")
    assert isinstance(running.work, ActiveWorkflow)
    return running, running.work


# -- how it ends


async def test_its_result_is_that_of_the_execution(once: Hand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")

    async def double(ctx: Context, number: int) -> int:
        return 2 * number

    await run(once, double, 21)
    await once.becomes(State.RESOLVED)
    assert await once.value() == 42
    [line] = caplog.records
    assert (line.levelno, line.getMessage()[:17]) == (logging.INFO, "a resolved after ")


async def test_of_many_that_go_well_few_are_logged(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    hand = Hand(driver, settings=replace(ONCE, log_lines_max=0))

    async def asking(ctx: Context) -> None:
        await ctx.promise()

    await run(hand, asking)
    await hand.becomes(Place.SUSPENDED)
    await answer(hand, "a~1")
    await goes_on(hand)
    await hand.becomes(State.RESOLVED)
    assert caplog.messages == []
    await hand.end()


async def test_its_error_is_that_of_the_execution(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """It is told however much is logged."""
    hand = Hand(driver, settings=replace(ONCE, log_lines_max=0))

    async def failing(ctx: Context) -> None:
        raise ValueError("no luck")

    await run(hand, failing)
    await hand.becomes(State.REJECTED)
    assert repr(hand.codec.decode_error((await driver.record("a")).value)) == "ValueError('no luck')"
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith("a rejected after ")
    await hand.end()


@pytest.mark.parametrize("how", ["it listens", "it comes again"])
async def test_a_cancel_ends_it_where_it_waits(once: Hand, driver: Driver, how: str) -> None:
    has_begun = asyncio.Event()

    async def step() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async def waiting(ctx: Context) -> None:
        await (ctx.run(step) if how == "it listens" else ctx.sleep(3600))

    await run(once, waiting)
    if how == "it listens":
        await has_begun.wait()
        await driver.control("cancel", "a")
        once.executor.notify("a")
    else:
        await once.becomes(Place.SUSPENDED)
        await driver.control("cancel", "a")
        await goes_on(once)
    await once.becomes(State.CANCELED)


async def test_it_goes_on_as_a_new_run(once: Hand, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    seen: list[Any] = []

    async def counting(ctx: Context, number: int) -> int:
        seen.append((number, ctx.info.begun_ms > ctx.info.created_ms))
        await ctx.run(len, "ab")
        if number < 3:
            ctx.continue_as_new(number + 1)
        return number

    await run(once, counting, 2)
    await once.becomes(Place.QUEUED)
    assert "a goes on as a new run after " in caplog.text
    assert (await driver.load("a")).record.base == 1, "its numbers go on"
    await goes_on(once)
    await once.becomes(State.RESOLVED)
    assert await once.value() == 3
    assert seen == [(2, False), (3, True)]


async def test_one_that_cannot_go_on_is_halted(once: Hand, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def stuck(ctx: Context) -> None:
        await asyncio.get_running_loop().create_future()

    await run(once, stuck)
    await once.becomes(Place.HALTED)
    reason = (await driver.record("a")).reason
    assert reason.startswith("a cannot go on: it waits for something that only its own code")
    assert f"a halted: {reason}" in caplog.text
    await driver.control("force", "a")


async def test_what_it_still_has_open_ends_with_it(once: Hand, driver: Driver) -> None:
    async def leaving(ctx: Context) -> None:
        child = ctx.rpc("other")
        await ctx.run(len, "ab")
        del child

    await run(once, leaving)
    await once.becomes(State.RESOLVED)
    await driver.fire_all()
    assert (await driver.record("a~1")).state is State.CANCELED


async def test_it_knows_which_execution_it_is(once: Hand, driver: Driver) -> None:
    infos: list[Any] = []

    async def asking(ctx: Context, whom: str) -> None:
        infos.append(ctx.info)
        if whom:
            await ctx.rpc("fn", "")

    await run(once, asking, "child", queue="workers/w1")
    await once.becomes(Place.SUSPENDED)
    await once.executor.submit(await driver.read(1, queue="workers/w1"))
    await eventually(lambda: len(infos) == 2, "the child")
    record = await driver.record("a")
    mine, its = infos
    assert (mine.id, mine.root_id, mine.function, mine.group, mine.version) == ("a", "a", "fn", "workers", 1)
    assert (mine.created_ms, mine.begun_ms) == (record.created_ms, record.begun_ms)
    assert (mine.incarnation, mine.crash_count) == (record.incarnation, 0)
    assert (its.id, its.root_id, its.group) == ("a~1", "a", "workers")
    await eventually(lambda: not once.executor.held(), "both to be let go of")
    await driver.control("force", "a")


# -- its steps


async def test_a_step_asked_for_alone_begins_at_once(once: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before its result."""
    asked, written = asked_of(once, monkeypatch), list[int]()

    async def step() -> str:
        written.append(len(asked))
        now = current()
        return f"{now.id} {now.step} {now.function.rpartition('.')[2]} {now.attempt}"

    async def stepping(ctx: Context) -> str:
        return await ctx.run(step)

    await run(once, stepping)
    await once.becomes(State.RESOLVED)
    assert await once.value() == "a 1 step 1"
    assert (written, len(asked)) == ([0], 2)


def asked_of(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the store is asked together from here on: the commits, for the journals are loaded by another connection."""
    asked: list[Any] = []
    ask = hand.driver.store.ask

    def note(items: Any) -> asyncio.Future[list[Any]]:
        asked.append(items)
        return ask(items)

    monkeypatch.setattr(hand.driver.store, "ask", note)
    return asked


async def test_a_step_asked_for_with_something_else_may_speak_of_it(once: Hand, driver: Driver) -> None:
    """It begins once that is written."""
    found: list[Any] = []

    async def step() -> None:
        found.append((await driver.entry("a", "1")).state)

    async def stepping(ctx: Context) -> None:
        asked = ctx.promise()
        await ctx.run(step)
        await asked

    await run(once, stepping)
    await once.becomes(Place.SUSPENDED)
    assert found == [State.PENDING]
    await answer(once, "a~1")
    await goes_on(once)
    await once.becomes(State.RESOLVED)
    assert len(found) == 1


async def test_steps_run_side_by_side_and_it_is_held_until_the_last(once: Hand, driver: Driver) -> None:
    first, second = once.gate("first"), once.gate("second")

    async def stepping(ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.run(step, "first"), ctx.run(step, "second")))

    async def step(name: str) -> str:
        once.ran.append(name)
        await once.gate(name).wait()
        return name

    await run(once, stepping)
    await once.begun("first", "second")
    second.set()
    await eventually(lambda: _has(driver, "2"), "the second to be written")
    assert once.executor.running == 1
    assert await once.status("a") == Place.QUEUED
    first.set()
    await once.becomes(State.RESOLVED)
    assert await once.value() == ["first", "second"]


async def _has(driver: Driver, number: str, id: str = "a") -> bool:
    return number in (await driver.load(id)).entries


async def test_when_a_step_began_is_kept(once: Hand, driver: Driver) -> None:
    """In the life of its execution; not of one that began in its first second."""

    async def stepping(ctx: Context) -> None:
        await ctx.run(len, "ab")
        await ctx.promise()
        await ctx.run(len, "abc")

    await run(once, stepping)
    await once.becomes(Place.SUSPENDED)
    # a promise knows nothing of an hour: as if it had been made so long ago
    key = driver.keys.promise("a")
    record = await driver.record("a")
    await answer(once, "a~2")
    began_ms = (await driver.fire()).server_us // 1000
    await driver.redis.hset(key, F["incarnation"], record.incarnation - 3_600_000)
    await goes_on(once)
    await eventually(lambda: _has(driver, "3"), "the second step")
    entries = (await driver.load("a")).entries
    assert entries[Number("1")].begun_ms == 0
    took_ms = entries[Number("3")].begun_ms - 3_600_000 - (began_ms - record.incarnation)
    assert -1000 < took_ms < 5000
    await once.becomes(State.RESOLVED)


async def test_a_step_that_fails_is_told_as_what_it_is(once: Hand, caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ConnectionError("no")

    async def stepping(ctx: Context) -> str:
        try:
            await ctx.run(failing)
        except ConnectionError as error:
            return str(error)
        return "nothing"

    await run(once, stepping)
    await once.becomes(State.RESOLVED)
    assert await once.value() == "no"
    assert "failing) of a failed: ConnectionError: no" in caplog.text


async def test_a_cancel_of_its_own_is_an_error_like_any_other(once: Hand) -> None:
    async def canceling() -> None:
        raise asyncio.CancelledError("by itself")

    async def stepping(ctx: Context) -> str:
        try:
            await ctx.run(canceling)
        except RuntimeError as error:
            return str(error)
        return "nothing"

    await run(once, stepping)
    await once.becomes(State.RESOLVED)
    assert (await once.value()).endswith(": by itself")


async def test_what_goes_wrong_as_a_step_ends_that_was_lost_is_told(
    once: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the cleanup failed")

    async def stepping(ctx: Context) -> None:
        await ctx.run(failing)

    await run(once, stepping)
    running, _ = await in_hand(once, steps=1)
    once.executor.let_go(running)
    await eventually(lambda: caplog.messages, "it to be told")
    [line] = caplog.messages
    assert line.endswith(" of a was stopped, and failed as it ended: OSError: the cleanup failed")
    await once.driver.control("force", "a")


async def test_a_step_that_is_taken_back_is_stopped_and_brings_nothing(
    once: Hand, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs on for as long as it likes; what went wrong as it ended is told."""
    may_end = asyncio.Event()

    async def stubborn() -> str:
        once.ran.append("stubborn")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            once.stopped.append("stubborn")
            await may_end.wait()
        raise OSError("as it ended")

    async def stepping(ctx: Context) -> None:
        step = ctx.run(stubborn)
        await ctx.promise()
        step.cancel()
        await ctx.run(once.gate("other").wait)

    await run(once, stepping)
    await once.begun("stubborn")
    await answer(once, "a~2")
    once.executor.notify("a")
    await eventually(lambda: once.stopped, "it to be stopped")
    may_end.set()
    await eventually(lambda: "as it ended" in caplog.text, "it to end")
    [line] = caplog.messages
    assert line.startswith("step 1 (")
    assert line.endswith("stubborn) of a was stopped, and failed as it ended: OSError: as it ended")
    once.gate("other").set()
    await once.becomes(State.RESOLVED)
    assert (await driver.entry("a", "1")).state is State.CANCELED


async def test_a_result_that_comes_as_its_step_is_taken_back_is_dropped(
    once: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the answer is on its way that makes the code take it back."""

    async def step(name: str) -> str:
        await once.gate(name).wait()
        return name

    async def stepping(ctx: Context) -> str:
        one, two = ctx.run(step, "one"), ctx.run(step, "two")
        await ctx.promise()
        one.cancel()
        return await two

    await run(once, stepping)
    running, _ = await in_hand(once, steps=2)
    await answer(once, "a~3")
    may_answer = holding(once, monkeypatch)
    once.executor.notify("a")
    for name in ("one", "two"):
        once.gate(name).set()
    await eventually(lambda: len(running.ops) == 2, "both to end")
    assert running.is_committing
    may_answer.set()
    await once.becomes(State.RESOLVED)
    assert await once.value() == "two"
    assert (await driver.entry("a", "1")).state is State.CANCELED


def holding(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What the store is asked from here on is answered once this is set."""
    store, may_answer = hand.driver.store, asyncio.Event()
    ask = store.ask

    def hold(items: Any) -> asyncio.Future[list[Any]]:
        async def answered() -> list[Any]:
            asked = ask(items)
            await may_answer.wait()
            return await asked

        return asyncio.ensure_future(answered())

    monkeypatch.setattr(store, "ask", hold)
    return may_answer


# -- whether it goes on


@pytest.mark.parametrize("what", ["running.ops", "work.rest", "running.steps"])
async def test_it_goes_on_elsewhere_once_all_is_written_and_ended(
    once: Hand, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    released: list[HeldExecution] = []
    monkeypatch.setattr(once.executor, "release", released.append)
    running, work = await idle(once)
    work.is_released = True
    where: Any = running if what.startswith("running") else work
    empty: Any = getattr(where, what.partition(".")[2])
    setattr(where, what.partition(".")[2], {Number("1"): None} if what == "running.steps" else [RESULT])
    work._go_on()  # pyright: ignore[reportPrivateUsage]
    assert released == []
    assert running.is_due is (what != "running.steps")
    running.is_due = False
    setattr(where, what.partition(".")[2], empty)
    work._go_on()  # pyright: ignore[reportPrivateUsage]
    assert (released, running.is_due) == ([running], False)
    await once.driver.control("force", "a")


@pytest.mark.parametrize(
    ("what", "is_due"),
    [("ops", True), ("has_unseen", True), ("outcome", True), ("nothing, and no step", True), ("nothing", False)],
)
async def test_a_commit_is_due_if_there_is_anything_to_say(once: Hand, what: str, is_due: bool) -> None:
    """Or nothing to wait for here."""
    running, work = await idle(once)
    running.steps = {} if what.endswith("no step") else {Number("1"): asyncio.ensure_future(asyncio.sleep(0))}  # type: ignore[dict-item]
    match what:
        case "ops":
            running.ops = (RESULT,)
        case "has_unseen":
            running.has_unseen = True
        case "outcome":
            work.progress = replace_progress(outcome=CanceledOutcome())
        case _:
            pass
    work._go_on()  # pyright: ignore[reportPrivateUsage]
    assert running.is_due is is_due
    once.executor.let_go(running)
    await once.driver.control("force", "a")


@pytest.mark.parametrize("what", ["nothing", "is_released", "held_back", "steps"])
async def test_it_is_suspended_only_if_nothing_is_left_to_do_here(once: Hand, what: str) -> None:
    """Not while it is being given back, either: nobody would go on with it."""
    running, work = await idle(once)
    running.has_unseen = True
    match what:
        case "is_released":
            work.is_released = True
        case "held_back":
            work.held_back = (StepCall(Number("2"), "step", len, (), {}, None),)
        case "steps":
            running.steps = {Number("1"): asyncio.ensure_future(asyncio.sleep(0))}  # type: ignore[dict-item]
        case _:
            pass
    item = work.commit()
    assert item is not None
    assert ("suspend" if what == "nothing" else "continue") in str(item.args[3]).split("\t")
    once.executor.let_go(running)
    await once.driver.control("force", "a")


RESULT = StepResult(Number("1"), "step", State.RESOLVED, b"", 0)


def replace_progress(**other: Any) -> Progress:
    return msgspec.structs.replace(Progress((), (), (), waiting=True, outcome=None), **other)


async def idle(hand: Hand) -> tuple[HeldExecution, ActiveWorkflow]:
    """One in hand that waits for a step and has nothing to say; the step is over as far as it knows."""

    async def stepping(ctx: Context) -> None:
        await ctx.run(hand.gate("step").wait)

    await run(hand, stepping)
    running, work = await in_hand(hand, steps=1)
    for step in running.steps.values():
        step.cancel()
    running.steps = {}
    await asyncio.sleep(0)
    return running, work


async def test_what_comes_while_its_answer_is_on_its_way_is_not_forgotten(once: Hand, driver: Driver) -> None:
    async def asking(ctx: Context) -> None:
        step = ctx.run(once.gate("step").wait)
        for _ in range(4):
            await ctx.promise()
        await step

    await run(once, asking)
    running, work = await in_hand(once, steps=1)
    for number, (has_unseen, more) in enumerate([(True, False), (False, True), (False, False)], 2):
        await eventually(lambda number=number: _has(driver, str(number)), "the promise")
        await eventually(lambda: not (running.is_due or running.is_committing), "it to be answered")
        assert work._activation.last_op_number == str(number)  # pyright: ignore[reportPrivateUsage]
        await answer(once, f"a~{number}")
        running.has_unseen = has_unseen
        entry = await driver.entry("a", str(number))
        is_asked_for = await call_outside_task(_take, running, Committed(redrive=True, more=more, entries=[entry]))
        assert is_asked_for is (has_unseen or more)
    once.gate("step").set()
    await driver.control("force", "a")
    await once.executor.abort()


def _take(running: HeldExecution, committed: Committed) -> bool:
    assert running.work is not None
    running.work.take(committed)
    return running.has_unseen


# -- its commits


async def test_a_step_that_ends_between_two_parts_comes_with_the_next(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(driver, settings=replace(ONCE, commit_ops_max=2))

    async def stepping(ctx: Context) -> str:
        step = ctx.run(hand.gate("step").wait)
        await ctx.promise()
        asked = [ctx.promise() for _ in range(3)]
        await step
        await asyncio.gather(*asked)
        return "done"

    await run(hand, stepping)
    running, work = await in_hand(hand, steps=1)
    await eventually(lambda: _has(driver, "2"), "the promise")
    await answer(hand, "a~2")
    with monkeypatch.context() as patched:
        may_answer = holding(hand, patched)
        await call_outside_task(
            _take, running, Committed(redrive=True, more=False, entries=[await driver.entry("a", "2")])
        )
        await eventually(lambda: work.rest, "the first part")
        hand.gate("step").set()
        await eventually(lambda: running.ops, "the step to end")
        may_answer.set()
        await hand.becomes(Place.SUSPENDED)
    assert (await driver.entry("a", "1")).state is State.RESOLVED
    for number in (3, 4, 5):
        await answer(hand, f"a~{number}")
    await goes_on(hand)
    await hand.becomes(State.RESOLVED)
    await hand.end()


async def test_what_is_too_much_for_one_commit_goes_in_parts(driver: Driver) -> None:
    """Steps begin after the last; the outcome comes with the last."""
    hand = Hand(driver, settings=replace(ONCE, commit_ops_max=2))
    found: list[int] = []

    async def step() -> None:
        entries = (await driver.load("a")).entries
        found.append(len(entries))

    async def stepping(ctx: Context) -> None:
        asked = [ctx.promise() for _ in range(5)]
        await ctx.run(step)
        await asyncio.gather(*asked)

    await run(hand, stepping)
    await hand.becomes(Place.SUSPENDED)
    assert found == [5]
    for number in range(1, 6):
        await answer(hand, f"a~{number}")
    await goes_on(hand)
    await hand.becomes(State.RESOLVED)
    await hand.end()


async def test_with_its_end_goes_what_outlives_it_in_parts(driver: Driver) -> None:
    hand = Hand(driver, settings=replace(ONCE, commit_ops_max=2))

    async def begetting(ctx: Context) -> None:
        for _ in range(5):
            ctx.detached("fn2")

    await run(hand, begetting)
    await hand.becomes(State.RESOLVED)
    left = await driver.read(10)
    assert len(left) == 5
    for lease in left:
        await driver.commit(lease, CommitAction.RESOLVE)
    await hand.end()


async def test_without_anything_to_say_nothing_is_said(once: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stepping(ctx: Context) -> None:
        await ctx.run(once.gate("step").wait)

    await run(once, stepping)
    running, work = await in_hand(once, steps=1)
    asked = asked_of(once, monkeypatch)
    assert work.commit() is None
    all_of(once).commits.due(running)
    await eventually(lambda: not running.is_due, "it to be asked")
    assert asked == []
    once.executor.notify("a")
    await eventually(lambda: not (running.is_due or running.is_committing), "the question to be answered")
    assert len(asked) == 1
    assert not running.has_unseen, "it was asked for once"
    once.gate("step").set()
    await once.becomes(State.RESOLVED)


async def test_what_one_answer_does_not_hold_is_asked_for(once: Hand, driver: Driver) -> None:
    """Its step goes on meanwhile: no suspending, and no loading anew."""

    async def stepping(ctx: Context) -> int:
        step = ctx.run(once.gate("step").wait)
        told = await asyncio.gather(*[ctx.promise() for _ in range(3)])
        await step
        return sum(map(len, told))

    await run(once, stepping)
    await eventually(lambda: _has(driver, "4"), "the promises")
    for number in (2, 3, 4):
        await answer(once, f"a~{number}", "x" * 700_000)
    once.executor.notify("a")
    running, work = await in_hand(once)
    await eventually(lambda: len(work.log.settled) == 3, "all to be heard")
    assert running.steps
    assert running.order == work._activation.seen  # pyright: ignore[reportPrivateUsage]
    once.gate("step").set()
    await once.becomes(State.RESOLVED)
    assert await once.value() == 2_100_000


async def test_what_was_refused_is_said_again_if_steps_would_run_again(
    once: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.worker.execution.executor.FULL_RETRY_S", 0.01)

    async def step() -> str:
        once.ran.append("a")
        return "kept"

    async def stepping(ctx: Context) -> str:
        return await ctx.run(step)

    refuse = refusing(once, monkeypatch, 2)
    await run(once, stepping)
    await once.becomes(State.RESOLVED)
    assert refuse == [StepResult, StepResult]
    assert once.ran == ["a"]
    assert await once.value() == "kept"


async def test_what_was_refused_is_left_for_later_if_none_would(
    once: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asking(ctx: Context) -> None:
        await ctx.promise()

    refusing(once, monkeypatch, 1)
    await run(once, asking)
    await once.becomes(Place.DELAYED)
    await driver.control("force", "a")


def refusing(hand: Hand, monkeypatch: pytest.MonkeyPatch, times: int) -> list[type]:
    """Redis is full for so many commits with operations; answers what they were of."""
    refused: list[type] = []
    store = hand.driver.store
    ask = store.ask

    def refuse(items: Any) -> asyncio.Future[list[Any]]:
        running = list(hand.executor._running.values())  # pyright: ignore[reportPrivateUsage]
        work = running[0].work if running else None
        if isinstance(work, ActiveWorkflow) and work.sent and len(refused) < times:
            refused.append(type(work.sent[0]))
            answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
            answered.set_result([StoreFull("no room")] * len(items))
            return answered
        return ask(items)

    monkeypatch.setattr(store, "ask", refuse)
    return refused


@pytest.mark.parametrize("what", ["sent", "to be sent", "running", "nothing"])
async def test_whether_it_may_be_let_go_of_depends_on_its_steps(once: Hand, what: str) -> None:
    """What was refused comes before what was to follow it."""
    running, work = await idle(once)
    asked = StartPromise(Number("2"), "", None)
    work.sent, work.rest = (asked,), [(asked, asked)]
    match what:
        case "sent":
            work.sent = (RESULT, asked)
        case "to be sent":
            running.ops = (asked, RESULT)
        case "running":
            running.steps = {Number("1"): asyncio.ensure_future(asyncio.sleep(0))}  # type: ignore[dict-item]
        case _:
            pass
    assert work.take_back() is (what != "nothing")
    assert work.rest == [work.sent, (asked, asked)]
    once.executor.let_go(running)
    await once.driver.control("force", "a")


# -- leaving


async def test_who_leaves_begins_no_step_and_gives_it_back(once: Hand, driver: Driver) -> None:
    """Once the steps that run have ended, and all is written."""

    async def step(name: str) -> None:
        once.ran.append(name)
        await once.gate(name).wait()

    async def stepping(ctx: Context) -> None:
        await asyncio.gather(ctx.run(step, "first"), two(ctx))

    async def two(ctx: Context) -> None:
        await ctx.run(step, "second")
        await ctx.run(step, "third")

    await run(once, stepping)
    await once.begun("first", "second")
    once.executor.leave()
    once.gate("second").set()
    await eventually(lambda: _has(driver, "2.1"), "the result of the second")
    assert once.executor.running == 1, "the first goes on"
    once.gate("first").set()
    await eventually(lambda: not once.executor.held(), "it to be given back")
    record = await driver.record("a")
    assert (record.place, record.epoch, record.crash_count) == (Place.QUEUED, 2, 0)
    assert sorted((await driver.load("a")).entries) == ["1", "2.1"]
    assert once.ran == ["first", "second"]
    await driver.control("force", "a")


async def test_who_leaves_suspends_what_waits_for_no_step(once: Hand, driver: Driver) -> None:
    async def stepping(ctx: Context) -> None:
        await asyncio.gather(ctx.run(once.gate("step").wait), ctx.promise())

    await run(once, stepping)
    await in_hand(once, steps=1)
    once.executor.leave()
    once.gate("step").set()
    await once.becomes(Place.SUSPENDED)
    await driver.control("force", "a")


async def test_who_leaves_waits_for_the_answer_that_is_on_its_way(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(driver, concurrency=1, settings=ONCE)
    released: list[HeldExecution] = []
    monkeypatch.setattr(hand.executor, "release", released.append)
    await hand.executor._threads.take()  # pyright: ignore[reportPrivateUsage] - somebody has the only one

    async def stepping(ctx: Context) -> None:
        await ctx.run(len, "ab")

    await run(hand, stepping)
    running, _ = await in_hand(hand, steps=1)
    may_answer = holding(hand, monkeypatch)
    hand.executor.notify("a")
    await eventually(lambda: running.is_committing, "the question")
    hand.executor.leave()
    await eventually(lambda: not running.steps, "the step to end")
    assert released == []
    may_answer.set()
    await eventually(lambda: released == [running], "it to be released")
    await hand.end()
    await driver.control("force", "a")


async def test_a_step_that_waits_for_a_thread_as_the_worker_leaves_is_left_to_others(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """It has not failed."""
    hand = Hand(driver, concurrency=1, settings=replace(ONCE, threads_lost_s=60.0))
    await hand.executor._threads.take()  # pyright: ignore[reportPrivateUsage] - somebody has the only one

    async def stepping(ctx: Context) -> None:
        await ctx.run(len, "ab")

    await run(hand, stepping)
    await in_hand(hand, steps=1)
    hand.executor.leave()
    await eventually(lambda: not hand.executor.held(), "it to be given back")
    record = await driver.record("a")
    assert (record.place, record.epoch) == (Place.QUEUED, 2)
    assert caplog.messages == []
    await hand.end()
    await driver.control("force", "a")


# -- suspended, kept, woken


async def test_it_is_suspended_until_what_it_waits_for_comes(once: Hand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")

    async def sleeping(ctx: Context) -> None:
        try:
            await ctx.promise()
            await ctx.sleep(3600)
        finally:
            once.stopped.append("a")

    await run(once, sleeping)
    await once.becomes(Place.SUSPENDED)
    assert once.stopped == ["a"], "it is put away"
    assert caplog.messages == ["a suspended until something it waits for settles"]
    await answer(once, "a~1")
    await goes_on(once)
    await once.becomes(Place.SUSPENDED)
    assert re.match(r"a suspended until \d", caplog.messages[1])
    await once.driver.control("force", "a")


@pytest.mark.parametrize("how", ["in hand", "kept"])
async def test_what_it_has_heard_of_it_waits_for_no_more(
    driver: Driver, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Neither does it ask for it again."""
    caplog.set_level(logging.INFO, "durasleep")
    hand = Hand(driver, settings=replace(ONCE, kept_entries_min=1 if how == "kept" else 32))
    gates: list[str] = ["first", "second"] if how == "in hand" else ["second"]

    async def sleeping(ctx: Context) -> None:
        steps = [ctx.run(step, name) for name in gates[:-1]]
        await ctx.sleep(3600)
        await ctx.run(step, gates[-1])
        await asyncio.gather(*steps)
        await ctx.promise()

    async def step(name: str) -> None:
        hand.ran.append(name)
        await hand.gate(name).wait()

    await run(hand, sleeping)
    timer = f"a~{len(gates)}"
    if how == "kept":
        await hand.becomes(Place.SUSPENDED)
        assert re.match(r"a suspended until \d", caplog.messages[-1])
    await eventually(lambda: _has(driver, str(len(gates))), "the timer")
    await answer(hand, timer)
    if how == "kept":
        await goes_on(hand)
    else:
        hand.executor.notify("a")
    await hand.begun("second")
    running, _ = await in_hand(hand)
    await eventually(lambda: not (running.is_due or running.is_committing), "it to be answered")
    order = (await driver.record("a")).order
    hand.executor.on_beat(hand.beat(orders={"a": order}))
    assert order > 0
    assert not running.has_unseen
    for name in gates:
        hand.gate(name).set()
    await hand.becomes(Place.SUSPENDED)
    assert caplog.messages[-1] == "a suspended until something it waits for settles"
    await driver.control("force", "a")
    await hand.end()


async def test_what_its_journal_has_is_no_news(once: Hand, driver: Driver) -> None:
    async def stepping(ctx: Context) -> None:
        await ctx.promise()
        await ctx.run(once.gate("step").wait)

    await run(once, stepping)
    await once.becomes(Place.SUSPENDED)
    await answer(once, "a~1")
    await goes_on(once)
    running, _ = await in_hand(once, steps=1)
    once.executor.on_beat(once.beat(orders={"a": (await driver.record("a")).order}))
    assert not running.has_unseen
    once.gate("step").set()
    await once.becomes(State.RESOLVED)


@pytest.mark.parametrize(("entry", "epoch", "is_so"), [("1-1", 2, True), ("1-1", 3, False), ("1-2", 2, False)])
def test_an_execution_is_ours_by_its_entry_and_its_epoch(entry: str, epoch: int, is_so: bool) -> None:
    record = PromiseRecord(
        id=PromiseId("a"), kind=Kind.EXECUTION, incarnation=7, created_ms=7, begun_ms=7, entry="1-1", epoch=2
    )
    assert workflows.is_ours(Lease(PromiseId("a"), "workers", entry, epoch), record) is is_so


class Cache:
    """A workflow that was suspended and is kept, and how often its code has begun, heard and ended."""

    def __init__(self, driver: Driver, settings: Settings = ONCE) -> None:
        self.hand = Hand(driver, settings=replace(settings, kept_entries_min=1))
        self.begun = self.heard = self.ended = 0

    async def suspend(self) -> None:
        async def asking(ctx: Context) -> str:
            self.begun += 1
            try:
                first = await ctx.promise()
                self.heard += 1
                return first + await ctx.promise()
            finally:
                self.ended += 1

        await run(self.hand, asking)
        await self.hand.becomes(Place.SUSPENDED)
        assert PromiseId("a") in all_of(self.hand).kept


async def test_one_that_is_kept_goes_on_where_it_was(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    kept = Cache(driver)
    await kept.suspend()
    await answer(kept.hand, "a~1", "x")
    await goes_on(kept.hand)
    await kept.hand.becomes(Place.SUSPENDED)
    await answer(kept.hand, "a~2", "y")
    await goes_on(kept.hand)
    await kept.hand.becomes(State.RESOLVED)
    assert await kept.hand.value() == "xy"
    assert kept.begun == 1
    await kept.hand.end()


@pytest.mark.parametrize("why", ["another life", "a suspect", "dispatched anew", "unreadable", "put away meanwhile"])
async def test_one_that_is_kept_is_replayed_where_it_may_differ(driver: Driver, why: str) -> None:
    """It is put away first."""
    kept = Cache(driver)
    await kept.suspend()
    await answer(kept.hand, "a~1", "x")
    [lease] = await driver.read(1)
    record = await driver.record("a")
    hash_key = driver.keys.promise("a")
    crashes = 0
    match why:
        case "another life":
            await driver.redis.hset(hash_key, F["incarnation"], record.incarnation + 1)
        case "a suspect":
            crashes = workflows.SUSPECT_DEATHS
            await driver.redis.hset(hash_key, F["crash_count"], crashes)
        case "dispatched anew":
            await driver.reclaim(lease.entry, release="some")
        case "put away meanwhile":
            pass
        case _:
            held = HeldExecution(lease, lease.entry_key, is_kept=False)
            assert not await call_outside_task(all_of(kept.hand).wake, held, None)
            assert kept.ended == 1
    await kept.hand.executor.submit([lease])
    if why == "put away meanwhile":
        all_of(kept.hand).kept.drop_all()
    if why == "dispatched anew":
        await eventually(lambda: not kept.hand.executor.held(), "it to be dropped")
        assert PromiseId("a") not in all_of(kept.hand).kept
        [lease] = await driver.read(1)
        await kept.hand.executor.submit([lease])
    await kept.hand.becomes(Place.SUSPENDED)
    assert (kept.begun, kept.heard, kept.ended) == (2, 1, 1)
    await kept.hand.executor.abort()
    await driver.control("force", "a")
    await kept.hand.end()


async def test_one_whose_worker_has_died_once_is_no_suspect(driver: Driver) -> None:
    assert workflows.SUSPECT_DEATHS == 2
    kept = Cache(driver)
    await kept.suspend()
    await answer(kept.hand, "a~1", "x")
    [lease] = await driver.read(1)
    await driver.redis.hset(driver.keys.promise("a"), F["crash_count"], 1)
    await kept.hand.executor.submit([lease])
    await kept.hand.becomes(Place.SUSPENDED)
    assert kept.begun == 1
    await kept.hand.executor.abort()
    await driver.control("force", "a")
    await kept.hand.end()


async def test_where_every_await_suspends_it_is_replayed_and_its_steps_go_on(driver: Driver) -> None:
    hand = Hand(driver, settings=replace(ONCE, always_suspend=True))
    begun: list[int] = []

    async def step() -> str:
        hand.ran.append("step")
        await hand.gate("step").wait()
        return "step"

    async def stepping(ctx: Context) -> str:
        begun.append(1)
        try:
            one = ctx.run(step)
            told = await ctx.promise()
            return told + await one
        finally:
            hand.stopped.append("code")

    await run(hand, stepping)
    await hand.begun("step")
    await eventually(lambda: _has(driver, "2"), "the promise")
    await answer(hand, "a~2", "told ")
    hand.executor.notify("a")
    await eventually(lambda: len(begun) == 2, "the replay")
    assert hand.stopped == ["code"]
    running, _ = await in_hand(hand)
    assert list(running.steps) == ["1"]
    await eventually(lambda: not running.is_committing, "it to be over")
    hand.gate("step").set()
    await hand.becomes(State.RESOLVED)
    assert await hand.value() == "told step"
    assert hand.ran == ["step"]
    await hand.end()


@pytest.mark.parametrize("is_lost", [False, True])
async def test_until_its_journal_is_there_nothing_is_written(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_lost: bool
) -> None:
    """If it is lost by then, nothing ever."""
    caplog.set_level(logging.INFO, "durasleep")
    hand = Hand(driver, settings=replace(ONCE, always_suspend=True))
    is_loading, may_load, load = asyncio.Event(), asyncio.Event(), driver.store.load

    async def hold(id: PromiseId) -> Any:
        is_loading.set()
        await may_load.wait()
        return await load(id)

    async def stepping(ctx: Context) -> None:
        step = ctx.run(hand.gate("step").wait)
        await ctx.promise()
        await step

    await run(hand, stepping)
    running, _ = await in_hand(hand, steps=1)
    await eventually(lambda: _has(driver, "2"), "the promise")
    monkeypatch.setattr(driver.store, "load", hold)
    await answer(hand, "a~2")
    hand.executor.notify("a")
    await is_loading.wait()
    hand.gate("step").set()
    await eventually(lambda: running.ops, "the step to end")
    assert (running.is_committing, running.is_due) == (True, False)
    if is_lost:
        await driver.reclaim(running.lease.entry, release="some")
    may_load.set()
    if is_lost:
        await eventually(lambda: not hand.executor.held(), "it to be let go of")
        assert "a dropped: a is not ours any more" in caplog.messages
        await driver.control("force", "a")
    else:
        await hand.becomes(State.RESOLVED)
    await hand.end()


# -- what people are told


@pytest.mark.parametrize("how_long", ["too long", "not too long"])
async def test_code_that_holds_up_its_worker_is_named(
    driver: Driver, how_long: str, caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand(driver, settings=replace(ONCE, slow_drain_s=0.05 if how_long == "too long" else 60))

    async def slow(ctx: Context) -> None:
        until = time.monotonic() + 0.06
        while time.monotonic() < until:
            pass

    await run(hand, slow)
    await hand.becomes(State.RESOLVED)
    assert ("the code of a (fn) blocked this worker for 0." in caplog.text) is (how_long == "too long")
    await hand.end()


@pytest.mark.parametrize("debug", [False, True])
async def test_what_differs_from_run_to_run_is_found_in_debug_mode(driver: Driver, debug: bool) -> None:
    hand = Hand(driver, settings=replace(ONCE, debug=debug))
    runs: list[int] = []

    async def differing(ctx: Context) -> None:
        runs.append(1)
        await ctx.promise(name=f"number {len(runs)}")

    await run(hand, differing)
    await hand.becomes(Place.HALTED if debug else Place.SUSPENDED)
    if debug:
        assert "a is not deterministic" in (await driver.record("a")).reason
    assert len(runs) == (2 if debug else 1)
    await driver.control("force", "a")
    await hand.end()


@pytest.mark.parametrize("debug", [False, True])
async def test_a_call_without_await_is_told_and_halts_in_debug_mode(
    driver: Driver, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand(driver, settings=replace(ONCE, debug=debug))

    async def forgetting(ctx: Context) -> None:
        ctx.sleep(3600)
        await ctx.run(len, "ab")

    await run(hand, forgetting)
    await hand.becomes(Place.HALTED if debug else State.RESOLVED)
    if debug:
        assert "a does not await what it has begun" in (await driver.record("a")).reason
        await driver.control("force", "a")
    else:
        assert "a workflow makes a durable call without `await`" in caplog.text
    await hand.end()


async def test_a_journal_that_is_half_full_is_told(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand(driver, settings=replace(ONCE, journal_entries_max=4))

    async def stepping(ctx: Context) -> None:
        for _ in range(3):
            await ctx.run(len, "ab")

    await run(hand, stepping)
    await hand.becomes(State.RESOLVED)
    assert caplog.text.count("a has 2 journal entries of at most 4") == 1
    await hand.end()


@pytest.mark.parametrize("debug", [False, True])
async def test_only_the_first_runs_of_each_function_are_watched(driver: Driver, debug: bool) -> None:
    """In debug mode all of them are, each twice."""
    assert workflows.WATCHED_FIRST == 10
    hand = Hand(driver, settings=replace(ONCE, debug=debug))
    watched: list[bool] = []
    for function in ("looking", "other"):

        async def looking(ctx: Context) -> None:
            watched.append(ctx._loop.watch is not None)  # pyright: ignore[reportPrivateUsage]

        hand.registry.workflow(looking, name=function)
    for function, count in (("looking", 12), ("other", 1)):
        for number in range(count):
            id = f"{function}-{number}"
            await driver.create(id, function, args=hand.codec.encode_args((), {}, function))
            await hand.executor.submit(await driver.read(1))
            await eventually(lambda: not hand.executor.held(), f"{id} to end")
            assert (await driver.record(id)).state is State.RESOLVED
    assert nondeterminism._reminded == {}  # pyright: ignore[reportPrivateUsage] - they forget nothing
    runs = watched if not debug else watched[::2]
    assert runs == [True] * 10 + [debug] * 2 + [True]
    await hand.end()


async def test_what_will_not_end_as_it_is_closed_is_named(
    once: Hand, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond so many the process needs a new start."""
    assert workflows.LEAKED_MAX == 100
    monkeypatch.setattr(workflows, "LEAKED_MAX", 1)

    async def stubborn(ctx: Context) -> None:
        while True:
            with suppress(BaseException):
                await ctx.promise()

    await run(once, stubborn)
    await once.becomes(Place.SUSPENDED)
    told = [line for line in caplog.messages if "was evicted, but its code did not end at " in line]
    assert len(told) == 1
    assert told[0].startswith("a was evicted")
    assert "did not end: restart this worker" not in caplog.text
    await driver.settle("a~1")
    await goes_on(once)
    await eventually(lambda: "2 tasks of workflows did not end: restart this worker" in caplog.text, "the second")
    await driver.control("force", "a")
