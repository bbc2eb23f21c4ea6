"""A durable call without ``await`` is named where it stands; one awaited later, or meant for others, is no mistake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from durasleep import Context, Durasleep, Retry, testing
from durasleep.errors import Stalled

# pyright: reportUnusedCoroutine=false, reportUnusedCallResult=false

Workflow = Callable[[Context], Coroutine[Any, Any, Any]]


pytestmark = pytest.mark.usefixtures("nothing_was_said")


async def sleeping(ctx: Context) -> None:
    ctx.sleep(5)  # sleeping


async def stepping(ctx: Context) -> str:
    await ctx.sleep(1)
    ctx.run(len, "ab")  # stepping
    return "done"


async def stepping_early(ctx: Context) -> None:
    ctx.run(len, "ab")  # stepping_early
    await ctx.sleep(60)
    await ctx.sleep(60)


async def retrying(ctx: Context) -> None:
    ctx.run(int, "x", retry=Retry(attempts=2, delay=1))  # retrying
    await ctx.sleep(60)


async def calling(ctx: Context) -> None:
    ctx.rpc(sleeping_well)  # calling
    await ctx.run(len, "ab")


async def counting(ctx: Context) -> None:
    ctx.transaction().incr("never-counted")  # counting
    await ctx.sleep(1)


async def looping(ctx: Context, again: bool = True) -> None:
    ctx.sleep(3600)  # looping
    if again:
        ctx.continue_as_new(again=False)


async def in_a_task(ctx: Context) -> None:
    async def nested() -> None:
        ctx.sleep(60)  # in_a_task

    await asyncio.gather(nested(), ctx.sleep(1))


async def sleeping_well(ctx: Context) -> None:
    await ctx.sleep(1)


FORGETFUL: list[Workflow] = [sleeping, stepping, stepping_early, retrying, calling, counting, looping, in_a_task]


def place_of(fn: Workflow) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    [number] = [at for at, line in enumerate(lines, 1) if line.endswith(f")  # {fn.__name__}")]
    return f"{__file__}:{number} in "


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_it_is_warned_of_once_with_its_line(caplog: pytest.LogCaptureFixture, always_suspend: bool) -> None:
    app = Durasleep()
    app.workflow(sleeping_well)
    with caplog.at_level(logging.WARNING, "durasleep"):
        async with testing.env(app, debug=False, always_suspend=always_suspend) as env:
            for fn in FORGETFUL:
                app.workflow(fn)
                await env.run(fn)
                await env.run(fn)
    said = [text for text in caplog.messages if "without `await`" in text]
    assert [text.partition(" in ")[0] for text in said] == [place_of(fn).removesuffix(" in ") for fn in FORGETFUL]


@pytest.mark.parametrize("fn", FORGETFUL, ids=lambda fn: fn.__name__)
async def test_in_debug_mode_it_halts(fn: Workflow) -> None:
    app = Durasleep()
    app.workflow(sleeping_well)
    app.workflow(fn)
    async with testing.env(app) as env:
        with pytest.raises(
            Stalled, match=r"(?s)f-1 is halted: f-1 does not await what it has begun:.*without `await`"
        ) as stalled:
            await env.run(fn, id="f-1")
        assert place_of(fn) in str(stalled.value)


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_what_is_awaited_later_or_taken_back_or_for_others_is_no_mistake(
    caplog: pytest.LogCaptureFixture, always_suspend: bool
) -> None:
    app = Durasleep()

    @app.workflow
    async def other(ctx: Context) -> None:
        await ctx.sleep(1)

    @app.workflow
    async def careful(ctx: Context) -> list[Any]:
        begun = [ctx.run(len, "ab"), ctx.run(len, "abc", retry=Retry(attempts=2))]
        ctx.promise(name="for others")
        ctx.detached(other)
        ctx.rpc(other, id="on-its-own")
        ctx.sleep(60).cancel()
        await ctx.sleep(60)
        results: list[Any] = [await one for one in begun]
        done, _ = await asyncio.wait([ctx.sleep(1), ctx.sleep(5000)], return_when=asyncio.FIRST_COMPLETED)
        results.append(len(done))
        for limit, awaited in ((5, ctx.sleep(60)), (5, asyncio.shield(ctx.sleep(60)))):
            try:
                async with asyncio.timeout(limit):
                    await awaited
            except TimeoutError:
                results.append("late")
        winner = await ctx.race(ctx.sleep(1), ctx.promise())
        background = asyncio.create_task(other(ctx))
        await ctx.transaction().set("careful", winner.index).del_("careful")
        return [*results, background.done()]

    @app.workflow
    async def failing(ctx: Context) -> None:
        first, second = ctx.run(int, "x"), ctx.sleep(60)
        await first
        await second

    async with testing.env(app, debug=True, always_suspend=always_suspend) as env:
        assert await env.run(careful) == [2, 3, 1, "late", "late", False]
        with pytest.raises(ValueError, match="invalid literal"):
            await env.run(failing)
        await env.skip(hours=2)
    assert "without `await`" not in caplog.text
