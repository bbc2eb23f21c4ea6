"""A workflow is evicted in one of two ways: its frames are dropped, or it is canceled and its clean-up runs. Nothing
can tell which way it was.

The tests nest small layers in any way, and use the shapes of the replay laws. Each workflow runs until it waits, and is
evicted once in each way. The effects that its code could have noticed are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import types
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durasleep.runtime.context import Context
from durasleep.runtime.event_loop import WorkflowLoop
from tests.laws.shapes import SHAPE_IDS, SHAPES, Shape
from tests.unit.runtime_world import World

LAYERS_MAX = 4
EVENTS_MAX = 2  # events before the eviction


@dataclass
class Noticed:
    """The events that the code of a workflow has seen, and the ends of its objects."""

    log: list[str] = field(default_factory=list[str])
    alive: list[tuple[str, weakref.ref[Any]]] = field(default_factory=list[tuple[str, "weakref.ref[Any]"]])

    def note(self, what: str) -> None:
        loop = asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage]
        self.log.append(f"{what}, {'in its loop' if isinstance(loop, WorkflowLoop) else 'outside'}")

    def watch(self, what: str, it: Any) -> None:
        self.alive.append((what, weakref.ref(it)))

    def left(self) -> list[str]:
        return [what for what, ref in self.alive if ref() is not None]


noticed = Noticed()


class Thing:
    """A local variable whose end is noticed."""

    def __init__(self, name: str) -> None:
        self.name = name
        noticed.watch(name, self)


class Loud(Thing):
    """An object that reports its end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.noticed = noticed

    def __del__(self) -> None:
        self.noticed.note(f"{self.name} goes")


Inner = Callable[[], Coroutine[Any, Any, Any]]
Layer = Callable[[Context, Inner], Coroutine[Any, Any, Any]]
Leaf = Callable[[Context], Coroutine[Any, Any, Any]]


# -- layers: what a coroutine may have around its await


async def plain(ctx: Context, inner: Inner) -> Any:
    return await inner()


async def with_a_local(ctx: Context, inner: Inner) -> Any:
    thing = Thing("a local")
    return await inner(), thing


async def with_a_loud_local(ctx: Context, inner: Inner) -> Any:
    thing = Loud("a loud local")
    return await inner(), thing


async def with_a_finalizer(ctx: Context, inner: Inner) -> Any:
    thing = Thing("finalized")
    weakref.finalize(thing, noticed.note, "a watched local goes")
    return await inner(), thing


async def with_its_task(ctx: Context, inner: Inner) -> Any:
    me, thing = asyncio.current_task(), Loud("beside its task")
    noticed.watch("the task", me)
    return await inner(), me, thing


async def with_a_circle(ctx: Context, inner: Inner) -> Any:
    thing = Thing("in a circle")

    def again() -> Any:
        return again, thing

    return await inner(), again


async def with_its_own_coroutine(ctx: Context, inner: Inner) -> Any:
    coro = inner()
    thing: Any = Loud("holds a coroutine")
    thing.coro = coro
    return await coro, thing


async def in_a_holder(ctx: Context, inner: Inner) -> Any:
    """The coroutine it awaits knows who awaits it."""
    holder: Any = Thing("a holder")

    async def nested() -> Any:
        return await inner(), holder

    holder.coro = nested()
    return await holder.coro


async def try_finally(ctx: Context, inner: Inner) -> Any:
    try:
        return await inner()
    finally:
        noticed.note("finally")


async def try_except(ctx: Context, inner: Inner) -> Any:
    try:
        return await inner()
    except asyncio.CancelledError:
        noticed.note("except CancelledError")
        raise


async def try_except_other(ctx: Context, inner: Inner) -> Any:
    with contextlib.suppress(ValueError):
        return await inner()


async def try_except_and_ask(ctx: Context, inner: Inner) -> Any:
    try:
        return await inner()
    except BaseException as error:
        noticed.note(f"except {type(error).__name__}")
        await ctx.sleep(1)
        raise


async def swallowing(ctx: Context, inner: Inner) -> Any:
    try:
        await inner()
    except asyncio.CancelledError:
        noticed.note("swallowed")
    return await inner()


@contextmanager
def _saying() -> Generator[None]:
    try:
        yield
    finally:
        noticed.note("with")


async def in_a_with(ctx: Context, inner: Inner) -> Any:
    with _saying():
        return await inner()


@asynccontextmanager
async def _saying_too() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        noticed.note("async with")


async def in_an_async_with(ctx: Context, inner: Inner) -> Any:
    async with _saying_too():
        return await inner()


async def in_a_timeout(ctx: Context, inner: Inner) -> Any:
    async with asyncio.timeout(3600):
        return await inner()


async def waited_for(ctx: Context, inner: Inner) -> Any:
    return await asyncio.wait_for(inner(), 3600)


async def in_a_task(ctx: Context, inner: Inner) -> Any:
    return await asyncio.create_task(inner())


async def shielded(ctx: Context, inner: Inner) -> Any:
    return await asyncio.shield(inner())


async def gathered(ctx: Context, inner: Inner) -> Any:
    return await asyncio.gather(inner(), inner())


async def beside_a_task(ctx: Context, inner: Inner) -> Any:
    other = asyncio.create_task(try_finally(ctx, partial(_nap, ctx)))
    return await inner(), other


async def after_a_task(ctx: Context, inner: Inner) -> Any:
    await asyncio.create_task(asyncio.sleep(0))
    return await inner()


async def with_a_callback(ctx: Context, inner: Inner) -> Any:
    task: Any = asyncio.current_task()
    task.add_done_callback(lambda _, noticed=noticed: noticed.note("callback of the task"))  # pyright: ignore[reportUnknownLambdaType]
    return await inner()


async def _numbers(inner: Inner) -> AsyncGenerator[Any, None]:
    try:
        yield await inner()
    finally:
        noticed.note("generator ends")


async def in_an_async_for(ctx: Context, inner: Inner) -> Any:
    return [number async for number in _numbers(inner)]


async def _steps() -> AsyncGenerator[int, None]:
    mine = noticed  # it may end later than the test that began it
    try:
        yield 1
        yield 2
    finally:
        mine.note("begun generator ends")


async def with_a_begun_async_generator(ctx: Context, inner: Inner) -> Any:
    steps = _steps()
    await anext(steps)
    return await inner(), steps


def _count() -> Generator[int, None, None]:
    mine = noticed
    try:
        yield 1
        yield 2
    finally:
        mine.note("plain generator ends")


async def with_a_begun_generator(ctx: Context, inner: Inner) -> Any:
    counting = _count()
    next(counting)
    return await inner(), counting


class _Each:
    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def __aiter__(self) -> _Each:
        return self

    async def __anext__(self) -> Any:
        return await self.inner()


async def in_an_async_for_by_hand(ctx: Context, inner: Inner) -> Any:
    async for one in _Each(inner):
        return one
    return None


class _ByHand:
    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self.inner().__await__())
        finally:
            noticed.note("__await__ ends")


async def awaiting_by_hand(ctx: Context, inner: Inner) -> Any:
    return await _ByHand(inner)


class _ByHandPlainly(_ByHand):
    def __await__(self) -> Generator[Any, Any, Any]:
        return self.inner().__await__()


async def awaiting_by_hand_plainly(ctx: Context, inner: Inner) -> Any:
    return await _ByHandPlainly(inner)


@types.coroutine
def _old(inner: Inner) -> Generator[Any, Any, Any]:
    try:
        return (yield from inner())  # pyright: ignore[reportUnknownVariableType]
    finally:
        noticed.note("old coroutine ends")


async def in_an_old_coroutine(ctx: Context, inner: Inner) -> Any:
    return await _old(inner)


async def in_a_comprehension(ctx: Context, inner: Inner) -> Any:
    return [await inner() for _ in range(2)]


async def with_one_never_awaited(ctx: Context, inner: Inner) -> Any:
    never = plain(ctx, inner)
    try:
        return await inner()
    finally:
        never.close()


async def soon(ctx: Context, inner: Inner) -> Any:
    asyncio.get_running_loop().call_later(3600, noticed.note, "later")
    return await inner()


LAYERS: tuple[Layer, ...] = (
    plain,
    with_a_local,
    with_a_loud_local,
    with_a_finalizer,
    with_its_task,
    with_a_circle,
    with_its_own_coroutine,
    in_a_holder,
    try_finally,
    try_except,
    try_except_other,
    try_except_and_ask,
    swallowing,
    in_a_with,
    in_an_async_with,
    in_a_timeout,
    waited_for,
    in_a_task,
    shielded,
    gathered,
    beside_a_task,
    after_a_task,
    with_a_callback,
    in_an_async_for,
    with_a_begun_async_generator,
    with_a_begun_generator,
    in_an_async_for_by_hand,
    awaiting_by_hand,
    awaiting_by_hand_plainly,
    in_an_old_coroutine,
    in_a_comprehension,
    with_one_never_awaited,
    soon,
)


# -- the innermost awaitables


async def _nap(ctx: Context) -> Any:
    return await ctx.sleep(60)


async def _loop_nap(ctx: Context) -> Any:
    return await asyncio.sleep(60)


async def _promise(ctx: Context) -> Any:
    return await ctx.promise(timeout=60)


async def _child(ctx: Context) -> Any:
    return await ctx.rpc(_nap)


async def _told(ctx: Context) -> Any:
    nap = ctx.sleep(60)
    nap.add_done_callback(lambda _, noticed=noticed: noticed.note("callback of the sleep"))  # pyright: ignore[reportUnknownLambdaType]
    return await nap


async def _held(ctx: Context) -> Any:
    nap: Any = ctx.sleep(60)
    noticed.watch("the sleep", nap)
    return await nap


async def _event(ctx: Context) -> Any:
    event = asyncio.Event()
    nap = ctx.sleep(60)
    nap.add_done_callback(lambda _: event.set())
    await event.wait()


async def _future(ctx: Context) -> Any:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(60, done.set_result, None)
    return await done


async def _both(ctx: Context) -> Any:
    nap = ctx.sleep(60)
    nap.add_done_callback(lambda _, noticed=noticed: noticed.note("callback of one sleep"))  # pyright: ignore[reportUnknownLambdaType]
    return await asyncio.gather(nap, ctx.sleep(60))


async def _first(ctx: Context) -> Any:
    return await asyncio.wait([asyncio.ensure_future(ctx.sleep(60)), ctx.promise()], return_when="FIRST_COMPLETED")


LEAVES: tuple[Leaf, ...] = (
    _nap,
    _loop_nap,
    _promise,
    _child,
    _told,
    _held,
    _event,
    _future,
    _both,
    _first,
)


# -- the comparison


def workflow_of(layers: tuple[Layer, ...], leaf: Leaf) -> Any:
    async def workflow(ctx: Context) -> None:
        call: Any = partial(leaf, ctx)
        for layer in layers:
            call = partial(layer, ctx, call)
        await call()
        await call()

    return workflow


@dataclass
class Seen:
    """The state of a workflow after its eviction."""

    left_at_once: set[str]
    told: tuple[Any, ...]
    """Everything else that could be noticed, after garbage collection."""


def close(world: World, events: int) -> Seen:
    """Run it until it waits after this many events, evict it, and run it once more."""
    global noticed  # noqa: PLW0603 - its code reports here, wherever it is
    mine = noticed = Noticed()
    progress = world.activate()
    for _ in range(events):
        entry = world.step_time() if progress.outcome is None else None
        progress = world.feed(entry) if entry else progress
    mine.log.append("-- put away")
    assert world.activation
    leaked = world.activation.close().leaked
    world.activation = world.progress = None
    del progress
    left_at_once = mine.left()
    gc.collect()

    following = world.copied()
    again = noticed = Noticed()
    progress = following.activate()
    following.close()
    following.activation = None
    gc.collect()
    told = (leaked, mine.left(), _as_told(mine.log), progress, again.left(), _as_told(again.log))
    return Seen(set(left_at_once), told)


def _as_told(log: list[str]) -> list[str]:
    """Locals may go in any order, and with them the generators that they hold: Python decides which frame is released
    first. And a value that an expression still needs, such as the first result of a comprehension, may go before them:
    while its loop still runs.
    """
    lines: list[str] = []
    for goes, some in itertools.groupby(log, lambda line: " goes, " in line or "plain generator ends, outside" in line):
        together = [line.partition(" goes, ")[0] if goes else line for line in some]
        lines += sorted(together) if goes else together
    return lines


def _complain(complaints: list[str], told: Any) -> None:
    complaints.append(repr(told.exc_value))


def compare(make: Callable[[], World], events: int) -> bool:
    """Whether it was dropped, if that is allowed."""
    drop, dropped = WorkflowLoop.drop, list[bool]()

    def may_drop(loop: WorkflowLoop) -> bool:
        dropped.append(drop(loop))
        return dropped[-1]

    def must_not(loop: WorkflowLoop) -> bool:
        return False

    seen: list[tuple[Seen, list[str]]] = []
    for way in (may_drop, must_not):
        complaints: list[str] = []
        gc.collect()
        gc.freeze()  # what is there already is none of ours: the collections below look at nothing else
        gc.disable()
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            patch.setattr(sys, "unraisablehook", partial(_complain, complaints))
            patch.setattr(WorkflowLoop, "drop", way)
            try:
                seen.append((close(make(), events), complaints))
            finally:
                gc.enable()
            complaints += [str(one.message) for one in warned]
    (short, short_complaints), (full, full_complaints) = seen
    assert short.told == full.told
    assert short.left_at_once <= full.left_at_once
    assert short_complaints == full_complaints
    return dropped[0]


@settings(max_examples=150)
@given(
    layers=st.lists(st.sampled_from(LAYERS), max_size=LAYERS_MAX).map(tuple),
    leaf=st.sampled_from(LEAVES),
    events=st.integers(0, EVENTS_MAX),
)
def test_nothing_tells_whether_any_workflow_was_dropped_or_canceled(
    layers: tuple[Layer, ...], leaf: Leaf, events: int
) -> None:
    compare(lambda: World(workflow_of(layers, leaf), keep=True), events)


@pytest.mark.parametrize("layer", LAYERS, ids=[layer.__name__ for layer in LAYERS])
def test_nothing_tells_it_of_one_layer(layer: Layer) -> None:
    for leaf in (_nap, _told, _both):
        compare(lambda leaf=leaf: World(workflow_of((layer,), leaf), keep=True), 0)


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_nothing_tells_it_of_any_shape(shape: Shape) -> None:
    for events in (0, 1, 3):
        compare(lambda: shape.world(keep=True), events)


DROPPED = (
    plain,
    with_a_local,
    with_a_loud_local,
    with_its_task,
    with_a_begun_generator,
    in_a_comprehension,
    in_an_async_for_by_hand,
)


@pytest.mark.parametrize("layer", DROPPED, ids=[layer.__name__ for layer in DROPPED])
def test_what_has_nothing_to_do_when_it_is_canceled_is_dropped(layer: Layer) -> None:
    assert compare(lambda: World(workflow_of((plain, layer), _nap), keep=True), 0)
    assert compare(lambda: World(workflow_of((plain, layer), _nap), keep=True), 1)
