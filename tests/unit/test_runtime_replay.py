"""An activation: its requests, the settlements it gets, and its ending."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from durasleep.codec import Codec
from durasleep.errors import (
    Canceled,
    InvalidDuration,
    NotSerializable,
    PayloadTooLarge,
    RemoteError,
    TimedOut,
    UsageError,
)
from durasleep.model import (
    CancelEntry,
    Due,
    Entry,
    Kind,
    Number,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    State,
    Transaction,
)
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry
from durasleep.runtime.outcome import Halted, Rejected, Resolved
from durasleep.runtime.transaction import TRANSACTION_COMMANDS_MAX
from durasleep.runtime.transaction_reply import read_reply
from durasleep.settings import Settings
from tests.unit.runtime_world import CODEC, CREATED_MS, World, play, unwrap


def double(n: int) -> int:
    return 2 * n


async def double_async(n: int) -> int:
    return 2 * n


def fail(text: str) -> int:
    raise ValueError(text)


# -- asking


def test_a_fresh_activation_asks_for_its_timer_and_waits() -> None:
    async def sleeper(ctx: Context, n: int) -> str:
        await ctx.sleep(n, name="pause")
        return f"slept {n}"

    world = World(sleeper, 5)
    progress = world.activate()
    assert progress.ops == (StartTimer(Number("1"), "pause", Due("+5000")),)
    assert (progress.steps, progress.stop_steps, progress.waiting, progress.outcome) == ((), (), True, None)
    world.close()
    assert unwrap(world.play()) == "slept 5"


def test_what_the_journal_has_is_not_asked_for_again() -> None:
    async def sleeper(ctx: Context) -> None:
        await asyncio.gather(ctx.sleep(5), ctx.promise())

    world = World(sleeper)
    world.activate()
    world.close()
    progress = world.activate()
    assert progress.ops == ()
    assert progress.waiting
    world.close()


def test_every_durable_call_has_its_operation() -> None:
    async def asking(ctx: Context) -> None:
        ctx.sleep(1)
        ctx.sleep_until(datetime(2030, 1, 1, tzinfo=UTC))
        ctx.sleep(timedelta(minutes=1))
        ctx.promise(timeout=2, name="approval")
        ctx.rpc("child", 1, x=2, target="poll://uni@gpu/w1", timeout=3, id="other")
        ctx.rpc("double", 1)
        await ctx.promise()

    progress = World(asking).activate()
    args = CODEC.encode_args((1,), {"x": 2}, "")
    assert progress.ops == (
        StartTimer(Number("1"), "", Due("+1000")),
        StartTimer(Number("2"), "", Due("=1893456000000")),
        StartTimer(Number("3"), "", Due("+60000")),
        StartPromise(Number("4"), "approval", Due("+2000")),
        StartChild(Number("5"), "child", args, "gpu/w1", Due("+3000"), PromiseId("other")),
        StartChild(Number("6"), "double", CODEC.encode_args((1,), {}, ""), None, None, None),
        StartPromise(Number("7"), "", None),
    )


def test_calls_are_numbered_by_the_task_that_makes_them() -> None:
    async def branch(ctx: Context, depth: int) -> None:
        await ctx.sleep(1)
        if depth:
            async with asyncio.TaskGroup() as group:
                group.create_task(branch(ctx, depth - 1))
        await ctx.sleep(1)

    async def branching(ctx: Context) -> None:
        ctx.sleep(9)
        task = asyncio.create_task(branch(ctx, 0))
        await asyncio.gather(branch(ctx, 1), ctx.promise(), branch(ctx, 0))
        await task

    world = World(branching, script={"3": (1, State.RESOLVED, None)})
    world.play()
    # 1 sleep, 2 task, 3 promise (asked while gather's arguments are made), 4 and 5 gather's tasks
    assert sorted(world.journal) == ["1", "2.1", "2.2", "3", "4.1", "4.2.1", "4.2.2", "4.3", "5.1", "5.2"]


def test_a_plain_callback_counts_for_the_task_that_registered_it() -> None:
    async def child(ctx: Context) -> None:
        asyncio.get_running_loop().call_soon(ctx.sleep, 1)
        future = ctx.sleep(2)
        future.add_done_callback(lambda _: ctx.sleep(3))
        await future
        await ctx.sleep(4)

    async def calling(ctx: Context) -> None:
        asyncio.get_running_loop().call_soon(ctx.sleep, 1)
        await asyncio.create_task(child(ctx))
        await ctx.sleep(5)

    world = World(calling)
    world.play()
    assert sorted(world.journal) == ["1.1", "1.2", "1.3", "1.4", "2", "3"]


def test_steps_begin_only_after_the_whole_journal_was_fed() -> None:
    async def stepping(ctx: Context) -> list[int]:
        first = ctx.sleep(1)
        step = ctx.run(double, 21)
        await first
        await ctx.sleep(1)
        return [await step]

    world = World(stepping)
    activation = world.new_activation()
    progress = activation.start([Entry(Number("1"), Kind.TIMER, State.RESOLVED, stamp=CREATED_MS + 5)])
    assert [op.number for op in progress.ops] == ["3"]
    assert [(call.number, call.args) for call in progress.steps] == [("2", (21,))]
    assert (activation.seen, activation.seen_number) == (CREATED_MS + 5, "1")


def test_sync_and_async_functions_and_tasks_are_steps() -> None:
    task = Registry().task(_named_task, "billing")

    async def stepping(ctx: Context) -> list[Any]:
        return [await ctx.run(double, 1), await ctx.run(double_async, 2, timeout=1), await ctx.run(task.fn)]

    world = World(stepping)
    assert unwrap(world.play()) == [2, 4, "paid"]
    assert [entry.name for entry in world.journal.values()] == ["double", "double_async", "billing"]


def _named_task() -> str:
    return "paid"


def test_a_steps_timeout_is_handed_on_in_seconds() -> None:
    async def stepping(ctx: Context) -> None:
        await ctx.run(double, 1, timeout=timedelta(milliseconds=1500))

    progress = World(stepping).new_activation().start(())
    assert progress.steps[0].timeout_s == 1.5


def test_a_step_that_fails_raises_at_its_await() -> None:
    async def stepping(ctx: Context) -> str:
        try:
            return str(await ctx.run(fail, "no stock"))
        except ValueError as error:
            return f"caught {error}"

    assert play(stepping) == "caught no stock"


def test_a_running_step_that_is_taken_back_is_stopped_and_buried() -> None:
    async def stepping(ctx: Context) -> str:
        try:
            await asyncio.wait_for(ctx.run(double, 1), timeout=5)
        except TimeoutError:
            await ctx.sleep(1)
        return "went on"

    world = World(stepping)
    activation = world.new_activation()
    first = activation.start(())
    assert [call.number for call in first.steps] == ["1"]
    world.commit(first)
    timer = next(op.number for op in first.ops)
    second = activation.feed([world.settle(timer, State.RESOLVED)])
    assert second.stop_steps == ("1",)
    assert CancelEntry(Number("1"), Kind.STEP, "double") in second.ops
    assert second.steps == ()
    world.commit(second)
    activation.close()
    assert world.activate().steps == ()  # replay never starts it
    world.close()
    assert unwrap(world.play()) == "went on"


def test_a_workflow_is_no_step_and_says_so() -> None:
    async def other(ctx: Context) -> None: ...

    Registry().workflow(other)

    async def stepping(ctx: Context) -> None:
        await ctx.run(other, ctx)

    outcome = World(stepping).play().outcome
    assert isinstance(outcome, Rejected)
    assert "await ctx.rpc(other" in outcome.text


def test_an_argument_that_cannot_be_encoded_fails_at_the_call() -> None:
    async def calling(ctx: Context) -> str:
        with pytest.raises(NotSerializable, match="argument 1 of child"):
            ctx.rpc("child", object())
        await ctx.sleep(1)
        return "went on"

    assert play(calling) == "went on"


def test_a_context_used_outside_its_workflow_is_refused() -> None:
    kept: list[Context] = []

    async def leaking(ctx: Context) -> str:
        kept.append(ctx)
        return await ctx.run(lambda: str(kept[0].sleep(1)))

    outcome = World(leaking).play().outcome
    assert isinstance(outcome, Rejected)
    assert "outside its workflow" in outcome.text


def test_sleeping_for_nonsense_is_refused() -> None:
    async def sleeper(ctx: Context) -> None:
        for nonsense in (-1, float("nan"), float("inf")):
            with pytest.raises(InvalidDuration):
                ctx.sleep(nonsense)
        with pytest.raises(InvalidDuration):
            ctx.sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake

    assert play(sleeper) is None


# -- what comes back


@pytest.mark.parametrize(
    ("state", "value", "expected"),
    [
        (State.RESOLVED, [1, "two"], [1, "two"]),
        (State.REJECTED, ValueError("no"), "ValueError: no"),
        (State.CANCELED, None, "Canceled: promise order-1~1 was canceled"),
    ],
)
def test_a_promise_gives_what_it_was_settled_with(state: State, value: Any, expected: Any) -> None:
    async def waiting(ctx: Context) -> Any:
        promise = ctx.promise()
        assert promise.id == "order-1~1"
        try:
            return await promise
        except (ValueError, Canceled) as error:
            return f"{type(error).__name__}: {error}"

    assert play(waiting, script={"1": (10, state, value)}) == expected


def test_a_promise_whose_time_is_up_raises_timed_out() -> None:
    async def waiting(ctx: Context) -> str:
        with pytest.raises(TimedOut):
            await ctx.promise(timeout=3)
        return "gave up"

    assert play(waiting) == "gave up"


@pytest.mark.parametrize("error", [SystemExit("bye"), asyncio.CancelledError("theirs"), KeyboardInterrupt()])
def test_the_exit_of_a_child_is_an_error_here_not_our_own_exit(error: BaseException) -> None:
    async def calling(ctx: Context) -> str:
        try:
            await ctx.rpc("child")
        except RemoteError:
            return "survived"
        return "?"

    assert play(calling, script={"1": (1, State.REJECTED, error)}) == "survived"


@pytest.mark.parametrize(
    "error",
    [
        StopIteration(7),
        StopAsyncIteration(),
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(3),
        asyncio.CancelledError("no"),
    ],
)
def test_a_rejection_that_controls_python_is_an_error_that_names_it(error: BaseException) -> None:
    async def waiting(ctx: Context) -> list[str]:
        try:
            await ctx.promise()
        except RemoteError as found:
            return [found.type, found.message]
        return []

    said = play(waiting, script={"1": (1, State.REJECTED, error)})
    assert (said[0].rpartition(".")[2], said[1]) == (type(error).__name__, str(error))


def test_code_whose_errors_cannot_be_shown_is_rejected_all_the_same() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not telling")

    async def failing(ctx: Context) -> None:
        raise Hostile

    assert play(failing) == ("rejected", "Hostile: (it cannot be shown)")


def test_a_child_gives_its_result_and_has_an_id() -> None:
    async def calling(ctx: Context) -> list[str]:
        mine, others = ctx.rpc("child", 1), ctx.rpc("child", 2, id="order-2")
        return [await mine, await others, mine.id, others.id]

    script = {"1": (1, State.RESOLVED, "a"), "2": (2, State.RESOLVED, "b")}
    assert play(calling, script=script) == ["a", "b", "order-1~1", "order-2"]


def test_a_transaction_is_committed_with_its_entry_and_answers_its_replies() -> None:
    async def paying(ctx: Context) -> list[Any]:
        tx = ctx.transaction()
        tx.incr("orders").set("last", b"\x00", "EX", 10)
        tx.execute("HSET", "h", "f", 1.5)
        return await tx

    world = World(paying)
    assert unwrap(world.play()) == [1, 1, 1]
    assert world.commands == [
        (b"INCR", b"orders"),
        (b"SET", b"last", b"\x00", b"EX", b"10"),
        (b"HSET", b"h", b"f", b"1.5"),
    ]


def test_a_transaction_is_sent_once_and_never_empty() -> None:
    async def paying(ctx: Context) -> str:
        tx = ctx.transaction()
        with pytest.raises(ValueError, match="no commands"):
            await tx
        with pytest.raises(NotSerializable, match="INCR"):
            tx.incr(True)
        tx.del_("k")
        assert await tx == await tx
        with pytest.raises(ValueError, match="has been sent"):
            tx.incr("k")
        return "ok"

    world = World(paying)
    assert unwrap(world.play()) == "ok"
    assert world.commands == [(b"DEL", b"k")]


def test_a_transaction_that_is_too_large_is_not_sent_and_those_in_the_journal_are_replayed() -> None:
    async def paying(ctx: Context) -> list[Any]:
        heard: list[Any] = []
        try:
            heard += await ctx.transaction().set("k", b"x" * (CODEC.payload_bytes_max + 1))
        except PayloadTooLarge as error:
            heard.append(str(error))
        tx = ctx.transaction()
        for _ in range(TRANSACTION_COMMANDS_MAX + 1):
            tx.incr("k")
        with pytest.raises(UsageError, match="1,001 commands"):
            await tx
        return [*heard, *await ctx.transaction().incr("k")]

    world = World(paying)
    [said, one] = unwrap(world.play())
    assert "nothing was sent" in said
    assert one == 1
    assert world.commands == [(b"INCR", b"k")]
    before = Entry(Number("1"), Kind.TRANSACTION, State.RESOLVED, "", CREATED_MS + 1, payload=b"*1\n+OK\n")
    after = Entry(Number("3"), Kind.TRANSACTION, State.RESOLVED, "", CREATED_MS + 2, payload=b"*1\n:7\n")
    assert unwrap(world.new_activation().start([before, after])) == ["OK", 7]


def test_replies_are_read_as_lua_wrote_them() -> None:
    payload = b"*6\n$3\na\nb:-7\n+OK\n_\n*2\n$0\n:1\n-ERR no\n"
    *plain, error = read_reply(payload)
    assert plain == [b"a\nb", -7, "OK", None, [b"", 1]]
    assert isinstance(error, RemoteError)
    assert error.message == "ERR no"


def test_a_rejected_transaction_raises() -> None:
    async def paying(ctx: Context) -> str:
        try:
            await ctx.transaction().incr("k")
        except RemoteError as error:
            return error.message
        return "?"

    world = World(paying)
    progress = world.new_activation().start(())
    assert progress.ops == (Transaction(Number("1"), ((b"INCR", b"k"),)),)
    entry = Entry(Number("1"), Kind.TRANSACTION, State.REJECTED, "", CREATED_MS + 1, payload=b"-WRONGTYPE no\n")
    assert unwrap(world.new_activation().start([entry])) == "WRONGTYPE no"


def test_results_are_shaped_by_type_hints() -> None:
    async def flow(ctx: Context) -> list[str]:
        return [type(await ctx.run(_when)).__name__]

    assert play(flow) in (["datetime"], ["str"])


def _when() -> datetime:
    return datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1)))


# -- time and chance


def test_time_is_the_stamp_of_the_last_settlement() -> None:
    async def timing(ctx: Context) -> list[float]:
        loop = asyncio.get_running_loop()
        times = [ctx.now().timestamp(), loop.time()]
        await ctx.sleep(1.5)
        return [*times, ctx.now().timestamp(), loop.time()]

    start = CREATED_MS / 1000
    assert play(timing) == [start, start, start + 1.5, start + 1.5]


def test_chance_is_the_same_in_every_replay_and_needs_no_entry() -> None:
    async def rolling(ctx: Context) -> list[Any]:
        before = [ctx.random(), str(ctx.uuid()), ctx.random()]
        await ctx.sleep(1)
        return [*before, ctx.random()]

    rolls = play(rolling)
    assert len(set(rolls)) == 4
    assert all(0 <= roll < 1 for roll in (rolls[0], rolls[2], rolls[3]))
    world = World(rolling)
    world.info = replace(world.info, incarnation=8)
    assert unwrap(world.play()) != rolls


def test_the_logger_says_each_line_once(caplog: pytest.LogCaptureFixture) -> None:
    async def talking(ctx: Context) -> None:
        ctx.logger.warning("first")
        await ctx.sleep(1)
        ctx.logger.warning("second")
        try:
            await ctx.sleep(1)
        finally:
            ctx.logger.warning("third")

    World(talking).play()
    records = [record for record in caplog.records if record.name == "durasleep.workflow"]
    assert [record.message for record in records] == ["order-1: first", "order-1: second", "order-1: third"]
    assert records[0].execution == "order-1"  # type: ignore[attr-defined]


def test_several_settlements_in_one_wake_up_lose_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async def talking(ctx: Context) -> None:
        for _ in range(3):
            await ctx.sleep(1)
            ctx.logger.warning("woken at %d", ctx.now().timestamp() * 1000 - CREATED_MS)

    def settled(number: int) -> Entry:
        return Entry(Number(str(number)), Kind.TIMER, State.RESOLVED, stamp=CREATED_MS + number)

    activation = World(talking).new_activation()
    activation.start([settled(1), settled(2), settled(3)], frozenset({"2", "3"}))
    said = [record.message for record in caplog.records if record.name == "durasleep.workflow"]
    assert said == ["order-1: woken at 2", "order-1: woken at 3"]


def test_a_fan_out_of_thousands_is_closed_in_order() -> None:
    async def fan(ctx: Context) -> None:
        await asyncio.gather(*(ctx.rpc("child") for _ in range(5_000)))

    activation = World(fan).new_activation()
    assert len(activation.start([]).ops) == 5_000
    assert activation.close().leaked == ()


def test_info_says_who_it_is() -> None:
    async def asking(ctx: Context) -> list[Any]:
        return [ctx.info.id, ctx.info.root_id, ctx.info.function, ctx.info.group, ctx.info.created_at.isoformat()]

    assert play(asking) == ["order-1", "order-1", "asking", "workers", "2023-11-14T22:13:20+00:00"]


# -- cancel


def test_a_cancel_ends_a_workflow_that_lets_it_happen() -> None:
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep(60)

    assert play(sleeper, script={"0": (5, State.RESOLVED, None)}) == "canceled"


def test_a_canceled_workflow_may_clean_up_durably_first() -> None:
    async def cleaning(ctx: Context) -> str:
        try:
            await ctx.sleep(60)
        except asyncio.CancelledError:
            await ctx.sleep(1)
            return f"cleaned {await ctx.run(double, 2)}"
        return "slept"

    assert play(cleaning, script={"0": (5, State.RESOLVED, None)}) == "cleaned 4"


def test_a_cancelled_error_of_its_own_is_a_failure() -> None:
    async def confused(ctx: Context) -> None:
        await ctx.sleep(1)
        raise asyncio.CancelledError

    progress = World(confused).play()
    assert isinstance(progress.outcome, Rejected)


def test_a_workflow_that_ends_before_it_hears_of_a_cancel_has_its_result() -> None:
    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(1)
        return "slept"

    world = World(sleeper)
    world.activate()
    world.step_time()
    world.cancel()
    assert unwrap(world.activate()) == "slept"


# -- ends


def test_a_result_that_cannot_be_encoded_rejects() -> None:
    async def returning(ctx: Context) -> object:
        return object()

    outcome = World(returning).play().outcome
    assert isinstance(outcome, Rejected)
    assert "result of returning" in outcome.text


def test_arguments_that_do_not_fit_reject() -> None:
    async def flow(ctx: Context, n: int) -> None: ...

    outcome = World(flow, 1, 2, 3).play().outcome
    assert isinstance(outcome, Rejected)
    assert "too many positional arguments" in outcome.text


def test_with_a_result_only_what_outlives_the_workflow_is_committed() -> None:
    async def leaving(ctx: Context) -> str:
        ctx.sleep(1)
        ctx.promise()
        ctx.rpc("child")
        ctx.rpc("audit", id="audit-1")
        ctx.run(double, 1)
        return "done"

    progress = World(leaving).new_activation().start(())
    assert isinstance(progress.outcome, Resolved)
    assert [op.number for op in progress.ops] == ["4"]
    assert progress.steps == ()


def test_too_many_entries_halt() -> None:
    async def asking(ctx: Context) -> None:
        await asyncio.gather(*(ctx.sleep(1) for _ in range(11)))

    outcome = World(asking, settings=Settings(journal_entries_max=10)).activate().outcome
    assert isinstance(outcome, Halted)
    assert "11 journal entries of at most 10" in outcome.reason


def test_what_waits_for_itself_is_halted_with_its_positions() -> None:
    async def waiting(ctx: Context) -> None:
        async def inner() -> None:
            await asyncio.Event().wait()

        await ctx.sleep(1)
        await asyncio.gather(inner(), inner())

    world = World(waiting)
    outcome = world.play().outcome
    assert isinstance(outcome, Halted)
    assert "only its own code or a thread could set" in outcome.reason
    assert outcome.reason.count("waiting.<locals>.inner") == 2
    assert "test_runtime_replay.py:" in outcome.reason


# -- mismatches


async def _sleeps(ctx: Context) -> None:
    await ctx.sleep(1, name="pause")
    await ctx.sleep(2)
    await ctx.sleep(3)


async def _renamed(ctx: Context) -> None:
    await ctx.sleep(1, name="rest")


async def _other_kind(ctx: Context) -> None:
    await ctx.sleep(1, name="pause")
    await ctx.run(double, 1)


async def _shorter(ctx: Context) -> None:
    await ctx.sleep(1, name="pause")


async def _elsewhere(ctx: Context) -> None:
    await ctx.sleep(1, name="pause")
    await asyncio.gather(_sleeps(ctx))


@pytest.mark.parametrize(
    ("fn", "journal_line", "code_line"),
    [
        (_renamed, "- 1      timer       'pause' (resolved)", "+ 1      timer       'rest'"),
        (_other_kind, "- 2      timer       '' (resolved)", "+ 2      step        '"),
        (_shorter, "- 2      timer       '' (resolved)", "+ 2      nothing"),
        (_elsewhere, "- 2      timer       '' (resolved)", "+ 2      nothing"),
    ],
)
def test_changed_code_is_halted_with_what_differs(fn: Any, journal_line: str, code_line: str) -> None:
    world = World(_sleeps)
    world.activate()
    world.close()
    for _ in range(2):
        world.step_time()
        world.activate()
        world.close()
    changed = World(fn)
    changed.journal = world.journal
    outcome = changed.activate().outcome
    assert isinstance(outcome, Halted)
    lines = outcome.reason.splitlines()
    assert any(line.strip().startswith(journal_line) for line in lines)
    assert any(line.strip().startswith(code_line) for line in lines)
    assert changed.progress is not None
    assert changed.progress.ops == ()
    changed.close()


def test_another_child_function_is_a_mismatch() -> None:
    async def old(ctx: Context) -> None:
        await ctx.rpc("ship", 1)

    async def new(ctx: Context) -> None:
        await ctx.rpc("pack", 1)

    world = World(old)
    world.activate()
    world.definition = Registry().workflow(new)
    outcome = world.activate().outcome
    assert isinstance(outcome, Halted)
    assert "'ship' (pending)" in outcome.reason
    assert "'pack'" in outcome.reason


def test_awaiting_what_the_journal_says_was_taken_back_is_a_mismatch() -> None:
    async def flow(ctx: Context) -> None:
        await asyncio.gather(ctx.promise(), ctx.promise())

    entries = [
        Entry(Number("1"), Kind.PROMISE, State.CANCELED),
        Entry(Number("2"), Kind.PROMISE, State.PENDING),
    ]
    outcome = World(flow).new_activation().start(entries).outcome
    assert isinstance(outcome, Halted)
    assert "canceled by the workflow" in outcome.reason


# -- feeding


def test_an_entry_fed_twice_counts_once() -> None:
    async def sleeper(ctx: Context) -> list[int]:
        results: list[int] = []
        for n in range(3):
            await ctx.sleep(1)
            results.append(n)
        return results

    world = World(sleeper, keep=True)
    world.activate()
    first = world.step_time()
    assert first is not None
    world.feed(first)
    assert world.feed(first).ops == ()
    assert unwrap(world.play()) == [0, 1, 2]


def test_what_settled_before_it_could_be_taken_back_is_fed_and_ignored() -> None:
    async def flow(ctx: Context) -> list[str]:
        try:
            await asyncio.wait_for(ctx.promise(), 5)
        except TimeoutError:
            before = ctx.now()
            await ctx.sleep(1)
            return [str((ctx.now() - before).total_seconds())]
        return ["in time"]

    world = World(flow)
    world.activate()
    world.close()
    world.step_time()  # the timer of wait_for
    activation = world.new_activation()
    progress = activation.start(world.journal.values())
    assert [type(op) for op in progress.ops] == [CancelEntry, StartTimer]
    world.settle("1", State.RESOLVED, "late")  # before the commit arrives
    world.commit(progress)
    assert world.journal[Number("1")].state is State.RESOLVED
    progress = activation.feed([world.journal[Number("1")]])
    assert progress.ops == ()
    assert activation.seen_number == "1"
    activation.close()
    assert unwrap(world.play()) == ["1.0"]


# -- putting away


def test_suspension_runs_finally_blocks_with_detaching_set() -> None:
    seen: list[Any] = []

    async def cleaning(ctx: Context) -> None:
        try:
            await ctx.sleep(60)
        finally:
            seen.append(ctx.evicting)
            try:
                await ctx.sleep(1)
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

    world = World(cleaning)
    world.activate()
    world.close()
    assert seen == [True, "WorkflowEvicted"]
    assert unwrap(world.play()) is None


def test_stubborn_code_is_given_up_in_bounded_work_and_named() -> None:
    async def stubborn(ctx: Context) -> None:
        while True:
            try:  # noqa: SIM105 - as people write it
                await ctx.sleep(60)
            except BaseException:  # noqa: BLE001 - the worst code there is
                pass

    world = World(stubborn)
    world.activate()
    assert world.activation is not None
    started = time.perf_counter()
    report = world.activation.close()
    assert time.perf_counter() - started < 1
    assert len(report.leaked) == 1
    assert "stubborn" in report.leaked[0]


def test_code_that_spins_when_canceled_is_given_up_too() -> None:
    async def spinning(ctx: Context) -> None:
        try:
            await ctx.sleep(60)
        except asyncio.CancelledError:
            while True:
                try:  # noqa: SIM105 - as people write it
                    await asyncio.sleep(0)
                except BaseException:  # noqa: BLE001 - the worst code there is
                    pass

    world = World(spinning)
    world.activate()
    assert world.activation is not None
    assert len(world.activation.close().leaked) == 1


def test_closing_after_an_end_cancels_what_was_left_running() -> None:
    seen: list[str] = []

    async def leaving(ctx: Context) -> str:
        async def background() -> None:
            try:
                await ctx.sleep(60)
            except asyncio.CancelledError:
                seen.append("canceled")
                raise

        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return task.get_name()

    world = World(leaving)
    assert unwrap(world.play()) == "1"
    assert seen == ["canceled"]


def test_errors_of_background_tasks_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def careless(ctx: Context) -> None:
        async def background() -> None:
            raise ValueError("lost")

        asyncio.create_task(background())  # noqa: RUF006 - the mistake
        await ctx.sleep(1)

    World(careless).play()
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("lost",)]  # type: ignore[union-attr]


# -- what the journal has, but the code cannot take


async def _pay(ctx: Context, order: str) -> str:
    await ctx.sleep(1)
    return order


async def _pay_two(ctx: Context, order: str, cents: int) -> str:
    await ctx.sleep(1)
    return f"{order} {cents}"


async def _pay_number(ctx: Context, order: int) -> int:
    await ctx.sleep(1)
    return order


@pytest.mark.parametrize(("changed", "says"), [(_pay_two, "'cents'"), (_pay_number, "does not fit int")])
def test_arguments_that_no_longer_fit_halt_and_wait_for_the_mend(changed: Any, says: str) -> None:
    world = World(_pay, "tea")
    world.activate()
    world.close()
    later = World(changed)
    later.args, later.journal = world.args, world.journal
    outcome = later.activate().outcome
    later.close()
    assert isinstance(outcome, Halted)
    assert "- 1 argument\n" in outcome.reason
    assert says in outcome.reason
    assert "Deploy the code this execution began with and resume it" in outcome.reason
    assert unwrap(world.play()) == "tea"


def test_arguments_of_a_later_run_that_do_not_fit_halt_what_has_lived_so_long() -> None:
    world = World(_pay_two, "tea")
    assert unwrap(world.play())[0] == "rejected"
    world.info = replace(world.info, begun_ms=CREATED_MS + 1)
    assert unwrap(world.play())[0] == "halted"


def _count() -> Any:
    return "many"


def _count_as_number() -> int:
    raise AssertionError("it has run already")


def test_a_result_that_no_longer_fits_its_hint_halts_and_waits_for_the_mend() -> None:
    async def counting(ctx: Context) -> str:
        try:
            count = await ctx.run(step)
        except Exception:  # noqa: BLE001 - a workflow that catches everything must not get an error that is not its own
            return "it failed"
        await ctx.sleep(1)
        return str(count)

    _count_as_number.__qualname__ = _count.__qualname__
    step = _count
    world = World(counting)
    world.activate()
    world.close()
    step = _count_as_number
    outcome = world.activate().outcome
    world.close()
    assert isinstance(outcome, Halted)
    assert "- 1      step        '_count' (resolved)" in outcome.reason
    assert "+ 1      the value does not fit int" in outcome.reason
    assert outcome.reason.endswith("such as with a corrected type hint, and resume it, or cancel it.")
    step = _count
    assert unwrap(world.play()) == "many"


def test_what_a_hook_cannot_read_halts_and_waits_for_its_key() -> None:
    class Locked:
        def wrap(self, payload: bytes) -> bytes:
            return payload

        def unwrap(self, payload: bytes) -> bytes:
            raise ValueError(f"wrong key for {payload!r}")

    async def doubling(ctx: Context) -> int:
        return await ctx.run(double, 1)

    async def failing(ctx: Context) -> int:
        return await ctx.run(fail, "x")

    for flow in (doubling, failing):
        world = World(flow)
        world.activate()
        world.close()
        activation = world.new_activation()
        activation._journal.codec = Codec(outer=Locked())  # type: ignore[attr-defined]
        outcome = activation.start(world.journal.values()).outcome
        activation.close()
        assert isinstance(outcome, Halted)
        assert "+ 1      the payload hook cannot read a payload\n" in outcome.reason
