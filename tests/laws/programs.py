"""Workflows as data: small programs of waits and calls, which one workflow interprets."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from durasleep.errors import Canceled, RemoteError, TimedOut
from durasleep.runtime.context import Context
from durasleep.runtime.retry import Retry

Program = list[Any]
"""A word and what it takes: seconds, a number, or programs."""

FAILURES = (ValueError, TimedOut, TimeoutError, Canceled, RemoteError)


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"not {number}")


async def interpret(ctx: Context, program: Program) -> Any:
    """What a program comes to: numbers, lists of them, and the names of errors."""
    word, *rest = program
    match word:
        case "sleep":
            await ctx.sleep(rest[0])
            return 0
        case "step":
            return await ctx.run(square, rest[0])
        case "retry":
            return await ctx.run(refuse, rest[0], retry=Retry(attempts=3, delay=rest[0]))
        case "promise":
            return await ctx.promise(timeout=rest[0])
        case "child":
            return await ctx.rpc("child", timeout=rest[0])
        case "chance":
            return round(ctx.random(), 6)
        case "seq":
            return [await interpret(ctx, part) for part in rest]
        case "try":
            try:
                return await interpret(ctx, rest[0])
            except FAILURES as error:
                return type(error).__name__
        case "gather":
            results = await asyncio.gather(*(interpret(ctx, part) for part in rest), return_exceptions=True)
            return [type(result).__name__ if isinstance(result, BaseException) else result for result in results]
        case "group":
            made: list[asyncio.Task[Any]] = []
            failed = 0
            try:
                async with asyncio.TaskGroup() as tasks:
                    made = [tasks.create_task(interpret(ctx, part)) for part in rest]
            except* FAILURES as errors:
                failed = len(errors.exceptions)
            return [f"failed {failed}"] if failed else [task.result() for task in made]
        case "race":
            winner = await ctx.race(*(interpret(ctx, part) for part in rest))
            return [winner.index, winner.value]
        case "wait":
            made = [asyncio.create_task(interpret(ctx, part)) for part in rest]
            done, left = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            return sorted([made.index(task), task.exception() is None] for task in done)
        case "ordered":
            return [await first for first in asyncio.as_completed([interpret(ctx, part) for part in rest])]
        case "timeout":
            async with asyncio.timeout(rest[0]):
                return await interpret(ctx, rest[1])
        case _:
            raise AssertionError(word)


def _program(parts: tuple[Any, ...]) -> Program:
    return list(parts)


def _flat(word_and_parts: tuple[str, list[Program]]) -> Program:
    word, parts = word_and_parts
    return [word, *parts]


def _tried(program: Program) -> Program:
    return ["try", program]


_SECONDS = st.sampled_from([0.25, 1, 1, 2, 3, 5])
_LEAVES: st.SearchStrategy[Program] = st.one_of(
    st.tuples(st.sampled_from(["sleep", "promise", "child"]), _SECONDS).map(_program),
    st.tuples(st.sampled_from(["step", "retry"]), st.integers(0, 3)).map(_program),
    st.tuples(st.just("chance")).map(_program),
)


def _larger(parts: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    many = st.sampled_from(["seq", "gather", "group", "race", "wait", "ordered"])
    return st.one_of(
        st.tuples(many, st.lists(parts, min_size=1, max_size=4)).map(_flat),
        st.tuples(st.just("timeout"), _SECONDS, parts).map(_program).map(_tried),
        parts.map(_tried),
    )


programs: st.SearchStrategy[Program] = st.recursive(_LEAVES, _larger, max_leaves=12)
"""Programs of up to a dozen calls, nested in any way."""
