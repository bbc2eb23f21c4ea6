"""Features for long-lived workflows: races, clean-up after a cancel, changes of the code, new runs, and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from durasleep.errors import DefinitionError, UsageError
from durasleep.model import Entry, Kind, Number, StartChild, State
from durasleep.runtime.activation import version_of
from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry
from durasleep.runtime.outcome import Continued, Halted, Progress, Rejected
from durasleep.settings import Settings
from tests.unit.runtime_world import CODEC, CREATED_MS, World, play, unwrap

DAY_MS = 86_400_000


def done(what: str = "done") -> str:
    return what


# -- races


async def approved(ctx: Context) -> list[Any]:
    winner = await ctx.race(ctx.promise(name="approval"), ctx.sleep(timedelta(days=3)))
    return [winner.index, winner.value]


def test_the_first_wins_and_the_others_are_taken_back_in_the_same_commit() -> None:
    world = World(approved, script={"1": (DAY_MS, State.RESOLVED, "yes")})
    assert unwrap(world.play()) == [0, "yes"]
    late = World(approved)
    assert unwrap(late.play()) == [1, None]
    assert play(approved, script={"1": (DAY_MS, State.RESOLVED, "yes")}) == [0, "yes"]

    async def going_on(ctx: Context) -> Any:
        return [await approved(ctx), await ctx.promise()]

    world = World(going_on)
    world.activate()
    world.settle("1", State.RESOLVED, "yes")
    world.activate()
    assert world.journal[Number("2")].state is State.CANCELED
    assert world.journal[Number("3")].state is State.PENDING


def test_what_the_first_one_raised_is_raised() -> None:
    assert play(approved, script={"1": (5, State.REJECTED, ValueError("no"))}) == ("rejected", "ValueError: no")


def test_a_branch_that_loses_cleans_up_before_the_race_is_over() -> None:
    async def slow(ctx: Context) -> str:
        try:
            await ctx.sleep(60)
        finally:
            if not ctx.evicting:
                await ctx.run(done, "put away")
        return "slow"

    async def racing(ctx: Context) -> Any:
        winner = await ctx.race(slow(ctx), ctx.sleep(1, name="quick"))
        return [winner.index, await ctx.run(done, "after")]

    world = World(racing)
    assert unwrap(world.play()) == [1, "after"]
    assert world.journal[Number("2.2")].stamp < world.journal[Number("3")].stamp


def test_a_race_of_nobody_is_refused() -> None:
    async def racing(ctx: Context) -> None:
        await ctx.race()

    assert play(racing)[0] == "rejected"


# -- after a cancel


def test_a_cancel_runs_what_was_registered_the_last_one_first() -> None:
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        ctx.on_cancel(noted.append, "restock")
        await ctx.sleep(60)

    noted: list[str] = []
    world = World(ordering, script={"0": (5, State.RESOLVED, None)})
    assert unwrap(world.play()) == "canceled"
    assert noted == ["restock", "refund"]
    assert [world.journal[Number(number)].kind for number in ("1", "2", "3")] == [Kind.TIMER, Kind.STEP, Kind.STEP]


def test_a_workflow_that_ends_otherwise_or_survives_its_cancel_runs_none_of_it() -> None:
    async def ordering(ctx: Context) -> str:
        ctx.on_cancel(noted.append, "refund")
        try:
            await ctx.sleep(60)
        except asyncio.CancelledError:
            return "went on"
        return "slept"

    noted: list[str] = []
    assert unwrap(World(ordering).play()) == "slept"
    assert unwrap(World(ordering, script={"0": (5, State.RESOLVED, None)}).play()) == "went on"
    assert noted == []


async def _failing_at_the_end(ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    finally:
        raise RuntimeError("in finally")


async def _calling_it_something_else(ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    except asyncio.CancelledError:
        raise KeyError("something else") from None


async def _failing_in_a_group(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_failing_at_the_end(ctx))
        group.create_task(_calling_it_something_else(ctx))


async def _failing_canceled_again(ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    finally:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise ValueError("while another cancel is due")


async def _failing_in_a_gather(ctx: Context) -> None:
    await asyncio.gather(_failing_at_the_end(ctx), ctx.sleep(60))


async def _failing_long_after(ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    except asyncio.CancelledError:
        await ctx.sleep(5)
    await ctx.run(int, "x")


async def _leaving(ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    finally:
        raise SystemExit(3)


async def _leaving_in_a_group(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_leaving(ctx))
        group.create_task(asyncio.sleep(60))


async def _answering_with(value: object, ctx: Context) -> object:
    try:
        await ctx.sleep(60)
    except asyncio.CancelledError:
        return value


async def _going_on_with(value: object, ctx: Context) -> None:
    try:
        await ctx.sleep(60)
    except asyncio.CancelledError:
        ctx.continue_as_new(value)


async def _wrapped_by_a_timeout(ctx: Context) -> None:
    async with asyncio.timeout(100):
        await _failing_at_the_end(ctx)


@pytest.mark.parametrize(
    ("body", "raised"),
    [
        (_failing_at_the_end, "RuntimeError"),
        (_calling_it_something_else, "KeyError"),
        (_failing_in_a_group, "ExceptionGroup"),
        (_failing_canceled_again, "ValueError"),
        (_failing_in_a_gather, "canceled"),
        (_failing_long_after, "ValueError"),
        (_leaving, "SystemExit"),
        (_leaving_in_a_group, "SystemExit"),
        (_wrapped_by_a_timeout, "RuntimeError"),
        (partial(_answering_with, object()), "NotSerializable"),
        (partial(_answering_with, [{"in it": open}]), "NotSerializable"),
        (partial(_answering_with, "\ud800"), "NotSerializable"),
        (partial(_answering_with, "x" * 2_000_000), "PayloadTooLarge"),
        (partial(_going_on_with, object()), "NotSerializable"),
        (partial(_going_on_with, 5), "UsageError"),
    ],
)
def test_after_a_cancel_it_is_undone_whatever_the_code_raises(body: Any, raised: str) -> None:
    async def ordering(ctx: Context, what: str = "") -> Any:
        ctx.on_cancel(noted.append, "refund")
        ctx.on_cancel(noted.append, "restock")
        return await body(ctx)

    for keep in (False, True):
        noted: list[str] = []
        world = World(ordering, script={"0": (5, State.RESOLVED, None)}, keep=keep)
        outcome = world.play().outcome
        assert (outcome.text.partition(":")[0] if isinstance(outcome, Rejected) else "canceled") == raised
        assert noted == ["restock", "refund"]


def test_what_fails_of_itself_is_not_undone() -> None:
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        raise asyncio.CancelledError("of its own")

    noted: list[str] = []
    assert unwrap(World(ordering).play())[0] == "rejected"
    assert noted == []


def test_what_goes_on_as_a_new_run_after_its_cancel_has_survived_it() -> None:
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        try:
            await ctx.sleep(60)
        except asyncio.CancelledError:
            ctx.continue_as_new()

    noted: list[str] = []
    assert unwrap(World(ordering, script={"0": (5, State.RESOLVED, None)}).play())[0] == "continued"
    assert noted == []


def test_what_fails_after_a_cancel_is_how_it_ends_and_the_rest_runs() -> None:
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        ctx.on_cancel(int, "x")
        await ctx.sleep(60)

    noted: list[str] = []
    state, text = unwrap(World(ordering, script={"0": (5, State.RESOLVED, None)}).play())
    assert (state, text[:10]) == ("rejected", "ValueError")
    assert noted == ["refund"]


class Counting:
    def __call__(self, step: int) -> None: ...


def refund(order: str, *, cents: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "named"),
    [
        (refund, (), {}, "order"),
        (refund, ("a", 5), {}, "too many"),
        (refund, ("a",), {"amount": 5}, "amount"),
        (partial(refund, "a"), ("b",), {}, "too many"),
        (lambda: None, ("a",), {}, "too many"),
        (Counting(), (), {}, "step"),
    ],
)
def test_what_could_not_run_after_a_cancel_is_refused_as_it_is_registered(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    async def ordering(ctx: Context) -> str:
        ctx.on_cancel(fn, *args, **kwargs)
        return "registered"

    state, text = unwrap(World(ordering).play())
    assert (state, text.partition(":")[0]) == ("rejected", "UsageError")
    assert named in text


def test_being_closed_is_no_cancel() -> None:
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        await ctx.sleep(60)

    noted: list[str] = []
    world = World(ordering)
    world.activate()
    world.close()
    assert noted == []


# -- executions of their own


def test_a_detached_execution_is_started_and_not_awaited() -> None:
    async def starting(ctx: Context) -> list[str]:
        return [await ctx.detached("audit", 1), await ctx.detached("audit", 2, id="mine")]

    ops: list[StartChild] = []
    world = World(starting)
    commit = world.commit

    def noting(progress: Progress) -> None:
        ops.extend(op for op in progress.ops if isinstance(op, StartChild))
        commit(progress)

    world.commit = noting  # type: ignore[method-assign]
    first, second = unwrap(world.play())
    assert [(op.child_id, op.detached) for op in ops] == [(first, True), ("mine", True)]
    assert first.startswith("order-1-")
    assert second == "mine"
    assert unwrap(World(starting).play())[0] == first


def test_with_the_end_of_its_workflow_it_is_still_started() -> None:
    async def starting(ctx: Context) -> str:
        ctx.detached("audit", id="mine")
        return "done"

    progress = World(starting).activate()
    [op] = progress.ops
    assert isinstance(op, StartChild)
    assert (op.child_id, op.function) == ("mine", "audit")


# -- changes of the code


def renewing(new: bool) -> Any:
    async def before(ctx: Context) -> list[str]:
        await ctx.sleep(1)
        return [await ctx.run(done, "old way"), await ctx.run(done, "end")]

    async def after(ctx: Context) -> list[str]:
        await ctx.sleep(1)
        if ctx.patched("two-steps"):
            ways = [await ctx.run(done, "new way"), await ctx.run(done, "newer way")]
        else:
            ways = [await ctx.run(done, "old way")]
        return [*ways, await ctx.run(done, "end")]

    return after if new else before


def with_new_code(world: World) -> World:
    world.definition = World(renewing(new=True)).definition
    return world


def test_one_that_has_come_by_takes_the_old_way_one_that_has_not_the_new() -> None:
    world = World(renewing(new=False))
    old_result = unwrap(world.play())
    assert old_result == ["old way", "end"]
    ways: list[Any] = []
    for cut in world.cuts[:-1]:
        other = with_new_code(cut.copied())
        ways.append(unwrap(other.play()))
        assert unwrap(other.play()) == ways[-1]  # and from then on
    # Until the end of the sleep, the code has not reached the line.
    assert ways == [["new way", "newer way", "end"]] * 2 + [["old way", "end"]]


def test_a_change_is_noted_once_and_holds_for_the_whole_run() -> None:
    async def looping(ctx: Context) -> list[bool]:
        ways: list[bool] = []
        for _ in range(3):
            await ctx.sleep(1)
            ways.append(ctx.patched("loop"))
        return ways

    async def looping_before(ctx: Context) -> list[bool]:
        for _ in range(3):
            await ctx.sleep(1)
        return []

    looping_before.__name__ = looping_before.__qualname__ = "looping"
    fresh = World(looping)
    assert unwrap(fresh.play()) == [True] * 3
    assert [entry.name for entry in fresh.journal.values() if entry.kind is Kind.PATCH] == ["loop"]
    old = World(looping_before)
    old.activate()
    old.step_time()
    old.activate()
    old.definition = fresh.definition
    old.step_time()
    assert unwrap(old.play()) == [False] * 3


def test_a_note_nobody_asks_about_any_more_is_no_mismatch() -> None:
    world = World(renewing(new=True))
    world.play()

    async def renewed(ctx: Context) -> list[str]:
        await ctx.sleep(1)
        return [await ctx.run(done, way) for way in ("new way", "newer way", "end")]

    world.definition = World(renewed).definition
    assert unwrap(world.play()) == ["new way", "newer way", "end"]


def test_the_newest_version_begins_and_what_has_begun_stays() -> None:
    async def first(ctx: Context) -> int:
        await ctx.sleep(1)
        return 1

    async def second(ctx: Context) -> int:
        await ctx.sleep(1)
        return 2

    world = World(second, version=2)
    world.activate()
    assert version_of(world.journal.values()) == 2
    old = World(first)
    old.activate()
    assert version_of(old.journal.values()) == 1
    assert version_of([Entry(Number("0"), Kind.CANCEL, State.RESOLVED, stamp=1)]) is None
    assert version_of([]) is None


def test_versions_of_one_name_stand_side_by_side() -> None:
    async def first(ctx: Context) -> None: ...

    async def second(ctx: Context) -> None: ...

    registry = Registry()
    registry.workflow(second, "renew", 2)
    registry.workflow(first, "renew")
    newest, one = registry.get("renew"), registry.get_version("renew", 1)
    assert newest is not None
    assert newest.fn is second
    assert one is not None
    assert one.fn is first
    assert registry.get_version("renew", 3) is None
    assert registry.names() == ("renew",)


def test_two_functions_of_one_version_are_refused() -> None:
    async def one(ctx: Context) -> None: ...

    async def other(ctx: Context) -> None: ...

    registry = Registry()
    registry.workflow(one, "renew", 2)
    with pytest.raises(DefinitionError, match="already registered"):
        registry.workflow(other, "renew", 2)
    with pytest.raises(DefinitionError, match="already registered"):
        registry.task(done, "renew")
    with pytest.raises(DefinitionError, match="version 0"):
        registry.workflow(other, "zero", 0)


# -- new runs


async def counting(ctx: Context, count: int, upto: int = 3) -> int:
    await ctx.sleep(1)
    if count < upto:
        ctx.continue_as_new(count + 1, upto=upto)
    return count


def test_it_goes_on_as_a_new_run_with_other_arguments_and_numbers() -> None:
    world = World(counting, 1)
    progress = world.play()
    assert unwrap(progress) == ("continued", [[2], {"upto": 3}], 1)
    assert isinstance(progress.outcome, Continued)
    world.args, world.journal = progress.outcome.payload, {}
    world.base = progress.outcome.base
    assert unwrap(world.play()) == ("continued", [[3], {"upto": 3}], 2)
    assert set(world.journal) == {"2"}


def test_it_ends_the_run_wherever_it_is_called_and_whatever_is_caught() -> None:
    async def nested(ctx: Context, runs: int = 0) -> str:
        async def inner() -> None:
            ctx.continue_as_new(7)

        try:
            await asyncio.gather(inner(), ctx.sleep(5))
        except BaseException:  # noqa: BLE001 - what nobody should do
            return "swallowed"
        return "never"

    progress = World(nested).activate()
    assert unwrap(progress) == ("continued", [[7], {}], 2)
    assert progress.ops == ()


def test_a_run_that_awaits_nothing_hears_of_a_cancel_where_it_would_begin_anew() -> None:
    async def spinning(ctx: Context) -> None:
        ctx.on_cancel(noted.append, "refund")
        ctx.continue_as_new()

    async def in_a_task(ctx: Context) -> None:
        async def inner() -> None:
            ctx.continue_as_new()

        ctx.on_cancel(noted.append, "refund")
        await asyncio.gather(inner(), ctx.sleep(60))

    async def surviving(ctx: Context) -> str:
        try:
            ctx.continue_as_new()
        except asyncio.CancelledError:
            return "went on"

    noted: list[str] = []
    for fn in (spinning, in_a_task):
        for keep in (False, True):
            world = World(fn, keep=keep)
            assert unwrap(world.activate())[0] == "continued"
            world.close()
            world.cancel()
            assert unwrap(world.play()) == "canceled"
            assert noted == ["refund"]
            noted.clear()
    world = World(surviving)
    world.cancel()
    assert unwrap(world.play()) == "went on"


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [((), {}, "count"), ((1, 2, 3), {}, "too many"), ((1,), {"upt": 3}, "upt"), (("one",), {}, "count")],
)
def test_arguments_the_next_run_would_not_take_are_refused_and_this_one_goes_on(
    args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    async def counted(ctx: Context, count: int, upto: int = 3) -> str:
        try:
            ctx.continue_as_new(*args, **kwargs)
        except UsageError as refused:
            await ctx.sleep(1)
            return str(refused)

    for keep in (False, True):
        assert named in unwrap(World(counted, 1, keep=keep).play())


def test_the_next_run_is_of_the_newest_version_and_takes_what_that_takes() -> None:
    async def before(ctx: Context, count: int) -> None:
        ctx.continue_as_new(count, "more")

    async def after(ctx: Context, count: int, more: str) -> None: ...

    world = World(before, 1)
    registry = Registry()
    world.definition = registry.workflow(before)
    registry.workflow(after, "before", 2)
    assert unwrap(world.activate()) == ("continued", [[1, "more"], {}], 0)


@pytest.mark.parametrize("called", ["rpc", "detached"])
def test_a_child_called_by_a_name_that_is_known_here_is_checked(called: str) -> None:
    async def child(ctx: Context, count: int) -> None: ...

    async def calling(ctx: Context) -> list[str]:
        refused: list[str] = []
        for call in (getattr(ctx, called), getattr(ctx.options(), called)):
            for args in ((), (1, 2), ("one",)):
                try:
                    call("child", *args)
                except UsageError as error:
                    refused.append(str(error))
        return refused

    world = World(calling)
    registry = Registry()
    world.definition = registry.workflow(calling)
    registry.workflow(child)
    refused = unwrap(world.play())
    assert len(refused) == 6
    assert all("count" in text or "too many" in text for text in refused)


@dataclass(frozen=True)
class Left:
    a: int


@dataclass(frozen=True)
class Right:
    a: int


async def of_either_side(ctx: Context, side: list[Left] | list[Right]) -> None: ...


@pytest.mark.parametrize("called", ["rpc", "detached"])
def test_what_a_child_called_by_its_name_is_given_arrives_as_what_it_was(called: str) -> None:
    async def calling(ctx: Context) -> None:
        await getattr(ctx, called)("of_either_side", [Right(1)])

    world = World(calling)
    registry = Registry()
    world.definition = registry.workflow(calling)
    registry.workflow(of_either_side)
    [start] = world.new_activation().start([]).ops
    assert isinstance(start, StartChild)
    assert CODEC.decode_args(start.args, of_either_side, skip_first=True) == (([Right(1)],), {})


def test_arguments_that_cannot_be_kept_reject() -> None:
    async def nested(ctx: Context) -> None:
        ctx.continue_as_new(object())

    assert unwrap(World(nested).activate())[0] == "rejected"


def test_time_in_a_new_run_begins_with_it() -> None:
    async def asking(ctx: Context) -> str:
        return ctx.now().isoformat()

    world = World(asking)
    world.info = replace(world.info, begun_ms=CREATED_MS + DAY_MS)
    assert unwrap(world.play()) == "2023-11-15T22:13:20+00:00"


# -- the bound of a journal


async def growing(ctx: Context) -> None:
    while True:
        await ctx.run(bytes, 1000)


def warnings_and_end(world: World) -> tuple[list[str], str]:
    warnings: list[str] = []
    commit = world.commit

    def noting(progress: Progress) -> None:
        if progress.warning:
            warnings.append(progress.warning)
        commit(progress)

    world.commit = noting  # type: ignore[method-assign]
    outcome = world.play().outcome
    assert isinstance(outcome, Halted)
    return warnings, outcome.reason


@pytest.mark.parametrize(
    ("limit", "told", "ended"),
    [
        (Settings(journal_entries_max=100), "50 journal entries of at most 100", "101 journal entries of at most 100"),
        (Settings(journal_bytes_max=100_000), "with 50,150 bytes of at most", "with 100,300 bytes of at most 100,000"),
    ],
)
def test_half_a_journal_is_warned_of_once_and_more_than_a_whole_one_halts(
    limit: Settings, told: str, ended: str
) -> None:
    warnings, reason = warnings_and_end(World(growing, settings=limit))
    [warning] = warnings
    assert told in warning
    assert "continue_as_new" in warning
    assert ended in reason
    assert "continue_as_new" in reason


def test_clean_up_takes_steps_only() -> None:
    async def child(ctx: Context) -> None: ...

    Registry().workflow(child)

    async def registering(ctx: Context) -> str:
        for wrong in (child, "name"):
            try:
                ctx.on_cancel(wrong)  # type: ignore[arg-type]
            except UsageError:
                continue
            return "accepted"
        return "refused"

    assert play(registering) == "refused"
