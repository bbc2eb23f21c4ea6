"""Workflows and tasks with limits for the crash points. They run in one partition, which their totals need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from durasleep import Context, Durasleep, Limit, Retry
from tests.laws.crashing import go_on, note

app = Durasleep(group="crashing")

inside: Counter[str] = Counter()
"""How many run at a time, by their key."""
too_many: list[str] = []
"""Limits that were broken."""
living: set[str] = set()
"""Which executions have begun, and have not ended."""

each = Limit("each", per_key=1, total=2)
awake = Limit("awake", total=1)
alive = Limit("alive", total=1, hold="life")


async def stay(key: str, most: int = 1) -> None:
    """Is inside for a moment."""
    inside[key] += 1
    try:
        await asyncio.sleep(0)
        if inside[key] > most:
            too_many.append(f"{inside[key]} of {key}")
    finally:
        inside[key] -= 1


def key_of(key: str, _n: int) -> str:
    return key


@app.task(limit=each, by=key_of)
async def limited_task(key: str, n: int) -> str:
    await asyncio.gather(stay(key), stay("all", 2))
    return await note(f"{key}{n}")


@app.workflow
async def limited_tasks(ctx: Context) -> list[str]:
    calls = [ctx.rpc(limited_task, key, n) for key, n in (("a", 1), ("a", 2), ("b", 3))]
    return await asyncio.gather(*calls, ctx.options(priority=1).rpc(limited_task, "a", 4))


async def stay_awake(label: str) -> str:
    await stay("awake")
    return await note(label)


@app.workflow(limit=awake)
async def limited_sleeper(ctx: Context, label: str) -> str:
    await ctx.run(stay_awake, f"{label} begins")
    await ctx.sleep(1)
    await ctx.run(stay_awake, f"{label} ends")
    return label


@app.workflow
async def limited_sleepers(ctx: Context) -> list[str]:
    return await asyncio.gather(*(ctx.rpc(limited_sleeper, label) for label in "abc"))


async def begin_life(id: str) -> str:
    living.add(id)
    if len(living) > 1:
        too_many.append(f"{len(living)} are alive")
    return await note(f"{id[-1]} begins")


async def end_life(id: str) -> str:
    living.discard(id)
    return await note(f"{id[-1]} ends")


@app.workflow(limit=alive)
async def limited_life(ctx: Context, label: str) -> str:
    await ctx.run(begin_life, label)
    await ctx.sleep(1)
    await ctx.run(end_life, label)
    return label


@app.workflow
async def limited_for_life(ctx: Context) -> list[str]:
    return await asyncio.gather(*(ctx.rpc(limited_life, label) for label in "abc"))


@app.task(limit=awake, retry=Retry(attempts=5, delay=10, jitter=0))
async def limited_attempt(label: str) -> str:
    await stay("awake")
    return await go_on(label)


@app.workflow
async def limited_attempts(ctx: Context) -> list[str]:
    return await asyncio.gather(*(ctx.rpc(limited_attempt, label) for label in "ab"))


LIMITED: dict[Callable[..., Any], str] = {
    limited_tasks: "['a1', 'a2', 'b3', 'a4']",
    limited_sleepers: "['a', 'b', 'c']",
    limited_for_life: "['a', 'b', 'c']",
    limited_attempts: "['a', 'b']",
}
"""Each workflow, and how it ends."""
