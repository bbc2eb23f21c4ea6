"""Replay, as laws over a set of workflow shapes.

A workflow has one history: kept in memory, replayed at every event or cut off anywhere, it ends the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.model import Number, State
from durasleep.runtime.context import Context
from durasleep.runtime.replay import Halted
from tests.unit.runtime_world import WorkflowFn, World, value_of


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str) -> int:
    raise ValueError(text)


async def sequence(ctx: Context) -> list[Any]:
    await ctx.sleep(5)
    total = await ctx.run(add, 1, 2)
    await asyncio.sleep(1)
    return [total, ctx.random(), str(ctx.uuid()), ctx.now().isoformat()]


async def fan_out(ctx: Context) -> list[int]:
    async def branch(n: int) -> int:
        await ctx.sleep(10 - n)
        return await ctx.run(add, n, await ctx.run(add, n, n))

    return await asyncio.gather(*(branch(n) for n in range(5)))


async def group(ctx: Context) -> list[str]:
    log: list[str] = []

    async def branch(n: int) -> None:
        try:
            await ctx.sleep(n)
            log.append(f"{n} done")
            if n == 3:
                await ctx.run(fail, "three")
        except asyncio.CancelledError:
            log.append(f"{n} canceled")
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            for n in range(6):
                tasks.create_task(branch(n))
    except* ValueError as errors:
        log.append(str(errors.exceptions[0]))
    await ctx.sleep(1)
    return log


async def race(ctx: Context) -> list[Any]:
    order: list[Any] = []
    waits: set[asyncio.Future[Any]] = {ctx.promise(), ctx.promise(timeout=4), asyncio.ensure_future(fan_out(ctx))}
    numbers = {future: n for n, future in enumerate(waits)}
    while waits:
        done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        order.extend([numbers[future], repr(future.exception() or future.result())] for future in done)
    return order


async def timeouts(ctx: Context) -> list[str]:
    log: list[str] = []
    for n in range(4):
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(ctx.sleep(n), ctx.run(add, n, 1))
            log.append(f"{n} in time")
        except TimeoutError:
            log.append(f"{n} too late")
    try:
        await asyncio.wait_for(asyncio.shield(ctx.promise(name="approval")), 3)
    except TimeoutError:
        log.append("no approval")
    return log


async def producing(ctx: Context) -> list[int]:
    queue: asyncio.Queue[int | None] = asyncio.Queue(2)

    async def produce() -> None:
        for n in range(6):
            await ctx.sleep(1)
            await queue.put(await ctx.run(add, n, n))
        await queue.put(None)

    producer = asyncio.create_task(produce())
    items: list[int] = []
    while (item := await queue.get()) is not None:
        items.append(item)
        if item % 4:
            await ctx.sleep(2, name="digest")
    await producer
    return items


async def completing(ctx: Context) -> list[Any]:
    async def branch(n: int) -> int:
        await ctx.sleep((7 * n) % 5)
        return n

    order: list[Any] = [await first for first in asyncio.as_completed([branch(n) for n in range(8)])]
    try:
        for first in asyncio.as_completed([branch(n) for n in range(3)], timeout=1):
            order.append(await first)  # noqa: PERF401 - a comprehension would lose what came in time
    except TimeoutError:
        order.append("time is up")
    return order


async def children(ctx: Context) -> list[Any]:
    first, second, third = ctx.rpc("ship", 1), ctx.rpc("ship", 2, id="own"), ctx.rpc("ship", 3, timeout=3)
    results: list[Any] = [repr(result) for result in await asyncio.gather(first, second, third, return_exceptions=True)]
    tx = ctx.transaction()
    tx.incr("shipped")
    return [*results, await tx]


async def streaming(ctx: Context) -> list[int]:
    async def ticks(count: int) -> AsyncIterator[int]:
        try:
            for n in range(count):
                await ctx.sleep(1)
                yield n
        finally:
            await ctx.run(add, count, count)

    seen = [n async for n in ticks(3)]
    async for n in ticks(10):
        seen.append(n)
        if n == 1:
            break
    await ctx.sleep(1)
    return seen


async def canceled(ctx: Context) -> str:
    try:
        await asyncio.gather(ctx.sleep(100), ctx.promise())
    except asyncio.CancelledError:
        await ctx.run(add, 1, 1)
        await ctx.sleep(1)
        raise
    return "?"


async def unmoved(ctx: Context) -> list[str]:
    log: list[str] = []
    while len(log) < 3:
        try:
            await ctx.sleep(2)
            log.append("slept")
        except asyncio.CancelledError:
            log.append("canceled")
    return log


async def failing(ctx: Context) -> None:
    await ctx.sleep(1)
    await ctx.run(fail, "in the end")


async def stuck(ctx: Context) -> None:
    await ctx.sleep(1)
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Shape:
    fn: WorkflowFn
    script: dict[str, tuple[int, State, Any]] = field(default_factory=dict[str, tuple[int, State, Any]])


R = State.RESOLVED
SHAPES = [
    Shape(sequence),
    Shape(fan_out),
    Shape(group),
    Shape(race, {"1": (9500, R, "a")}),
    Shape(race, {"1": (1, R, "a"), "2": (2, State.REJECTED, ValueError("b"))}),
    Shape(race, {"1": (7000, State.CANCELED, None), "2": (3999, R, "b")}),
    Shape(timeouts),
    Shape(producing),
    Shape(completing),
    Shape(children, {"1": (1, R, 10), "2": (1, State.REJECTED, ValueError("lost"))}),
    Shape(children, {"1": (5000, State.CANCELED, None), "2": (1, R, 2), "3": (2, R, 3)}),
    Shape(streaming),
    Shape(canceled, {"0": (50, R, None)}),
    Shape(unmoved, {"0": (3000, R, None)}),
    Shape(sequence, {"0": (5500, R, None)}),
    Shape(failing),
    Shape(stuck),
]
SHAPE_IDS = [f"{shape.fn.__name__}-{n}" for n, shape in enumerate(SHAPES)]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)


def world_of(shape: Shape, *, keep: bool = False) -> World:
    return World(shape.fn, keep=keep, script=shape.script)


@each_shape
def test_kept_in_memory_or_replayed_at_every_event_it_has_one_history(shape: Shape) -> None:
    kept, replayed = world_of(shape, keep=True), world_of(shape)
    assert value_of(kept.play()) == value_of(replayed.play())
    assert kept.journal == replayed.journal
    assert kept.commands == replayed.commands


@each_shape
def test_cut_off_after_any_write_it_ends_the_same_way(shape: Shape) -> None:
    whole = world_of(shape)
    result = value_of(whole.play())
    for cut in whole.cuts:
        for keep in (False, True):
            rest = cut.copied()
            rest.keep = keep
            assert value_of(rest.play()) == result
            assert rest.shape() == whole.shape()
            assert rest.commands == whole.commands


@each_shape
def test_a_finished_journal_is_a_fixed_point(shape: Shape) -> None:
    world = world_of(shape)
    progress = world.play()
    again = world.copied()
    activation = again.new_activation()
    repeated = activation.start(again.journal.values())
    activation.close()
    assert value_of(repeated) == value_of(progress)
    assert repeated.steps == ()
    assert [op for op in repeated.ops if op.number not in world.journal] == []


@each_shape
def test_replay_asks_for_nothing_new(shape: Shape) -> None:
    """Every journal that was written is one whose code, replayed, wants exactly what was asked for live."""
    world = world_of(shape)
    world.play()
    for cut in world.cuts:
        first, second = cut.copied(), cut.copied()
        one, two = first.new_activation(), second.new_activation()
        asked = one.start(first.journal.values())
        assert two.start(reversed(list(second.journal.values()))) == asked
        first.commit(asked)
        one.close()
        two.close()
        repeated = first.new_activation()
        if asked.outcome is None and not any(entry.stamp > one.seen for entry in first.journal.values()):
            assert repeated.start(first.journal.values()).ops == ()
        else:
            repeated.start(first.journal.values())
        repeated.close()


@each_shape
def test_any_entry_taken_from_the_middle_is_noticed(shape: Shape) -> None:
    """A journal with another entry under a number than the code asks for is halted, wherever that is."""
    world = world_of(shape)
    world.play()
    for number in world.journal:
        if number == "0":
            continue
        changed = world.copied()
        entry = changed.journal[number]
        changed.journal[number] = type(entry)(number, entry.kind, entry.state, "other", entry.stamp)
        activation = changed.new_activation()
        outcome = activation.start(changed.journal.values()).outcome
        activation.close()
        assert isinstance(outcome, Halted)
        assert f" {number} " in outcome.reason


@each_shape
@given(data=st.data())
def test_settlements_found_together_or_one_by_one_make_no_difference(shape: Shape, data: st.DataObject) -> None:
    """A worker may look after each settlement or after several: what settled is delivered in its order all the same."""
    world = world_of(shape)
    progress = world.activate()
    world.close()
    while progress.outcome is None:
        for _ in range(data.draw(st.integers(1, 4))):
            if world.step_time() is None:
                break
        progress = world.activate()
        world.close()
    kept = world.copied()
    kept.keep = True
    kept.journal = {}
    one_by_one = kept.new_activation()
    fed = one_by_one.start([])
    for entry in sorted(world.journal.values(), key=lambda entry: entry.stamp):
        if entry.stamp and fed.outcome is None:
            fed = one_by_one.feed([entry])
    one_by_one.close()
    assert value_of(fed) == value_of(progress)


def test_ten_thousand_timers_replay_within_a_second_or_two() -> None:
    async def wide(ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.sleep(1) for _ in range(10_000))))

    world = World(wide)
    activation = world.new_activation()
    progress = activation.start([])
    assert len(progress.ops) == 10_000
    activation.close()
    world.cuts = []
    world.now_ms += 1000
    entries = [
        type(entry)(Number(str(n)), entry.kind, State.RESOLVED, "", world.now_ms + n)
        for n, entry in enumerate(_pending(world, progress), 1)
    ]
    activation = world.new_activation()
    assert value_of(activation.start(entries)) == 10_000
    activation.close()


def _pending(world: World, progress: Any) -> list[Any]:
    for op in progress.ops:
        world.cuts = []
        world.commit(type(progress)((op,), (), (), True, None))
    return list(world.journal.values())
