"""Random workflows: a small grammar of programs, and the workflow that runs them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable
from typing import Any, cast

from hypothesis import strategies as st

from durasleep.model import Entry, Kind, State
from durasleep.runtime.context import Context
from tests.laws.shapes import Shape, add, canceled_at, fail_slowly, slowly
from tests.unit.runtime_world import Line

STEP_S = 0.25  # steps end between the seconds: which of a step and a timer comes first at one instant is no law
Node = list[Any]
"""A word and its parts, such as ``["gather", ["sleep", 1], ["step", 2]]``."""

LEAVES = cast(
    "st.SearchStrategy[Node]",
    st.tuples(st.sampled_from(["sleep", "nap", "step", "slow", "fail"]), st.integers(0, 4)).map(list)
    | st.tuples(st.sampled_from(["promise", "child", "receive"]), st.sampled_from([0, 1, 3])).map(list)
    | st.sampled_from([["transaction"], ["chance"], ["send"], ["settle"]]),
)
MANY = ("seq", "gather", "gather all", "group", "first", "race", "completed", "queue", "limited")
LIMITS = ("timeout", "wait for", "wait", "shield")


def _inner(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    parts = st.lists(nodes, min_size=1, max_size=3)
    many = st.tuples(st.sampled_from(MANY), parts).map(lambda found: [found[0], *found[1]])
    limit = st.tuples(st.sampled_from(LIMITS), st.integers(0, 4), nodes).map(list)
    caught = nodes.map(lambda node: ["catch", node])
    ended = st.tuples(nodes, LEAVES).map(lambda found: ["finally", *found])
    return many | limit | caught | ended


NODES = st.recursive(LEAVES, _inner, max_leaves=10)
BRANCHES = st.lists(NODES.map(lambda node: ["seq", node]), min_size=2, max_size=4)


@st.composite
def programs(draw: st.DrawFn) -> Shape:
    """A program and its outside world, which may cancel it."""
    canceled_ms = draw(st.none() | st.integers(0, 8).map(lambda halves: 500 * halves + 1))
    script = canceled_at(canceled_ms) if canceled_ms else {}
    return Shape(program, script, (["seq", draw(NODES), draw(NODES)],), answer)


def answer(entry: Entry) -> Line | None:
    """The settlement of a promise or child: arbitrary, but always the same for its number."""
    if entry.kind not in (Kind.PROMISE, Kind.CHILD, Kind.RECEIVE):
        return None
    chance = zlib.crc32(entry.number.encode())
    after_ms = chance // 8 % 10 * 500
    if entry.kind is Kind.RECEIVE:
        return after_ms, State.RESOLVED, after_ms
    match chance % 8:
        case 0:
            return after_ms, State.CANCELED, None
        case 1 | 2:
            return after_ms, State.REJECTED, ValueError("rejected")
        case _:
            return after_ms, State.RESOLVED, after_ms


async def program(ctx: Context, node: Node) -> Any:
    """Run a program; returns the answers of its parts."""

    async def run(node: Node) -> Any:
        match node:
            case ["sleep", seconds]:
                return await ctx.sleep(seconds)
            case ["nap", seconds]:
                return await asyncio.sleep(seconds, "napped")
            case ["step", n]:
                return await ctx.run(add, n, 1)
            case ["slow", seconds]:
                return await ctx.run(slowly, seconds + STEP_S, "slow")
            case ["fail", seconds]:
                return await ctx.run(fail_slowly, seconds + STEP_S, "failed")
            case ["promise", seconds]:
                return await ctx.promise(timeout=seconds or None)
            case ["child", seconds]:
                return await ctx.rpc("ship", seconds, timeout=seconds or None)
            case ["receive", seconds]:
                return await ctx.receive("x", int, timeout=seconds or None)
            case ["send"]:
                return await ctx.send("other", "x", 1)
            case ["settle"]:
                return await ctx.settle("promise", 1)
            case ["transaction"]:
                return await ctx.transaction().incr("n")
            case ["chance"]:
                return [ctx.random(), str(ctx.uuid())]
            case ["seq", *parts]:
                return [await run(part) for part in parts]
            case ["gather", *parts]:
                return await asyncio.gather(*map(run, parts))
            case ["gather all", *parts]:
                return [_shown(found) for found in await asyncio.gather(*map(run, parts), return_exceptions=True)]
            case ["group", *parts]:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(run(part)) for part in parts]
                return [task.result() for task in tasks]
            case ["first", *parts]:
                return await first_of(tasks_of(parts))
            case ["race", *parts]:
                winner = await ctx.race(*map(run, parts))
                return [winner.index, winner.value]
            case ["completed", *parts]:
                return [await first for first in asyncio.as_completed([run(part) for part in parts])]
            case ["queue", *parts]:
                return await queued(parts)
            case ["limited", *parts]:
                return await limited(parts)
            case ["timeout", seconds, part]:
                async with asyncio.timeout(seconds):
                    return await run(part)
            case ["wait for", seconds, part]:
                return await asyncio.wait_for(run(part), seconds)
            case ["wait", seconds, part]:
                done, late = await asyncio.wait(tasks_of([part, ["sleep", 2]]), timeout=seconds)
                return [len(done), len(late), [await _outcome(task) for task in late]]
            case ["shield", seconds, part]:
                task = asyncio.create_task(run(part))
                try:
                    return await asyncio.wait_for(asyncio.shield(task), seconds)
                except TimeoutError:
                    return ["late", await task]
            case ["catch", part]:
                try:
                    return await run(part)
                except Exception as error:  # noqa: BLE001 - a program may fail in any way
                    return _shown(error)
            case ["finally", part, last]:
                try:
                    return await run(part)
                finally:
                    if not ctx.evicting:
                        await run(last)
            case _:
                raise AssertionError(node)

    def tasks_of(parts: Iterable[Node]) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(run(part)) for part in parts]

    async def first_of(tasks: list[asyncio.Task[Any]]) -> Any:
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        return [[tasks.index(task), await _outcome(task)] for task in (*done, *others)]

    async def queued(parts: list[Node]) -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)

        async def produce(part: Node) -> None:
            await queue.put([_shown(await _outcome(asyncio.create_task(run(part))))])

        producers = [asyncio.create_task(produce(part)) for part in parts]
        found = [await queue.get() for _ in producers]
        await asyncio.gather(*producers)
        return found

    async def limited(parts: list[Node]) -> list[Any]:
        slots = asyncio.Semaphore(1)

        async def visit(part: Node) -> Any:
            async with slots:
                return await run(part)

        return await asyncio.gather(*map(visit, parts))

    return await run(node)


async def _outcome(task: asyncio.Task[Any]) -> Any:
    """The result of a task, as a value that can be sent."""
    await asyncio.wait([task])
    return "canceled" if task.cancelled() else _shown(task.exception() or task.result())


def _shown(found: Any) -> Any:
    if isinstance(found, BaseExceptionGroup):
        return [_shown(error) for error in cast("BaseExceptionGroup[BaseException]", found).exceptions]
    return f"{type(found).__name__}: {found}" if isinstance(found, BaseException) else found
