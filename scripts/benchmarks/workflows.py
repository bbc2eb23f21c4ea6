"""The functions that the workers of the benchmarks serve."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from durasleep import Context, Durasleep

app = Durasleep()


@app.workflow
async def empty(ctx: Context) -> None: ...


@app.workflow
async def sleeper(ctx: Context, ms: int) -> int:
    await ctx.sleep(ms / 1000)
    return ms


@app.workflow
async def waking(ctx: Context, due_ms: int) -> int:
    """Answers its own lateness in microseconds. It may read a clock, because no durable call depends on it."""
    await ctx.sleep_until(datetime.fromtimestamp(due_ms / 1000, UTC))
    return time.time_ns() // 1000 - due_ms * 1000


async def same(value: int) -> int:
    return value


@app.workflow
async def three_steps(ctx: Context, value: int) -> int:
    for _ in range(3):
        value = await ctx.run(same, value)
    return value


@app.workflow
async def fan(ctx: Context, children: int) -> int:
    return len(await asyncio.gather(*(ctx.rpc(leaf, number) for number in range(children))))


@app.workflow
async def leaf(ctx: Context, number: int) -> int:
    return number


@app.workflow
async def calling(ctx: Context, child: str) -> int:
    return await ctx.rpc(leaf, 1, id=child)


@app.task
async def task(value: int) -> int:
    return value


@app.task
def sync_task(value: int) -> int:
    return value


async def clocks() -> tuple[float, float]:
    """Seconds of the wall clock and of this process's processor time."""
    return time.time(), time.process_time()


@app.workflow
async def step_loop(ctx: Context, iterations: int, sleep_ms: int) -> list[tuple[float, float]]:
    """The clocks of its worker at the start, after half of the iterations, and at the end."""
    read = [await ctx.run(clocks)]
    for half in (iterations // 2, iterations - iterations // 2):
        for number in range(half):
            await ctx.run(same, number)
            await ctx.sleep(sleep_ms / 1000)
        read.append(await ctx.run(clocks))
    return read


async def hold_until(marker: str) -> float:
    """Runs until a file is there; answers when this attempt began."""
    began = time.time()
    while not Path(marker).exists():
        await asyncio.sleep(0.01)
    return began


@app.workflow
async def held(ctx: Context, marker: str) -> float:
    return await ctx.run(hold_until, marker)
