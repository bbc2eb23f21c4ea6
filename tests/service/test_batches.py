"""Tasks that are called once for many executions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durasleep
from durasleep import Batch, Canceled, Context, Durasleep, Retry, UsageError
from durasleep.errors import DefinitionError
from tests.service.fixtures import NewApp
from tests.service.workers import eventually, serving


@pytest.fixture
def calls() -> list[list[int]]:
    """The batches that the function was called with."""
    return []


@pytest.fixture
def batch_app(new_app: NewApp, calls: list[list[int]]) -> Durasleep:
    app = new_app()

    @app.task(batch=Batch(size=10, wait_s=0.5), name="double_all", retry=Retry(attempts=2, delay=0.001))
    async def double_all(numbers: list[int]) -> list[int | ValueError]:
        calls.append(numbers)
        return [ValueError(f"{number} is odd") if number % 2 else 2 * number for number in numbers]

    return app


async def test_one_call_serves_many_and_each_has_its_own_end(batch_app: Durasleep, calls: list[list[int]]) -> None:
    async with serving(batch_app):
        handles = await batch_app.rpc_many("double_all", [(f"n{n}", n) for n in range(20)])
        found = await batch_app.gather(handles, return_exceptions=True)
    assert [one if isinstance(one, int) else str(one) for one in found] == [
        f"{n} is odd" if n % 2 else 2 * n for n in range(20)
    ]
    assert [len(one) for one in calls[:2]] == [10, 10]
    assert sorted(number for one in calls[2:] for number in one) == list(range(1, 20, 2)), (
        "those that failed were tried again"
    )


async def test_what_does_not_fill_a_batch_waits_for_a_while(batch_app: Durasleep, calls: list[list[int]]) -> None:
    async with serving(batch_app):
        handles = await batch_app.rpc_many("double_all", [(f"n{n}", 2 * n) for n in range(3)])
        assert await batch_app.gather(handles) == [0, 4, 8]
    assert len(calls) == 1


async def test_it_is_a_function_of_one_for_workflows_and_for_callers(new_app: NewApp) -> None:
    app = new_app()

    @app.task(batch=Batch(size=5, wait_s=0.01))
    def lengths(words: list[str]) -> list[int]:
        return [len(word) for word in words]

    @app.workflow
    async def measure(ctx: Context) -> list[int]:
        return [*await asyncio.gather(*[ctx.rpc(lengths, "x" * n) for n in range(5)]), await ctx.run(lengths, "step")]

    async with serving(app):
        assert await (await app.rpc("w", measure)).result(30) == [0, 1, 2, 3, 4, 4]
        with pytest.raises(UsageError):
            await app.rpc("wrong", lengths, 5)
    assert lengths("abc") == 3


async def test_a_call_that_is_canceled_leaves_its_batch_and_an_error_is_that_of_all(new_app: NewApp) -> None:
    app, gate, begun = new_app(), asyncio.Event(), list[int]()

    @app.task(batch=Batch(size=2, wait_s=60))
    async def stand(numbers: list[int]) -> list[int]:
        begun.extend(numbers)
        await gate.wait()
        if 3 in numbers:
            raise RuntimeError("all of them")
        return numbers

    async with serving(app):
        handles = [await app.rpc(f"n{n}", stand, n) for n in range(4)]
        await eventually(lambda: len(begun) == 4, "two batches to run")
        await handles[0].cancel()
        with pytest.raises(Canceled):
            await handles[0].result(30)
        gate.set()
        found = await app.gather(handles[1:], return_exceptions=True)
    assert [type(one).__name__ for one in found] == ["int", "RuntimeError", "RuntimeError"]


async def test_what_returns_too_few_fails_and_says_so(new_app: NewApp) -> None:
    app = new_app()

    @app.task(batch=Batch(wait_s=0))
    async def nothing(numbers: list[int]) -> list[int]:
        durasleep.current() if numbers == [7] else None
        return []

    async with serving(app):
        with pytest.raises(UsageError, match="nothing was called for a batch of 1, and returned 0 results"):
            await (await app.rpc("a", nothing, 1)).result(30)
        with pytest.raises(UsageError, match="says nothing in a batch"):
            await (await app.rpc("b", nothing, 7)).result(30)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 1.5}, {"wait_s": -1}, {"wait_s": "1s"}])
def test_a_batch_has_its_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="batch "):
        Batch(**wrong)


def test_a_function_for_batches_takes_one_list(new_app: NewApp) -> None:
    def two(a: list[int], b: list[int]) -> list[int]:
        return a + b

    with pytest.raises(DefinitionError, match="it takes one argument, a list"):
        new_app().registry.task(two, batch=Batch())
