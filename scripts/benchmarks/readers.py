"""The workflows that read messages. They have an application of their own."""

from __future__ import annotations

from durasleep import Channel, Context, Durasleep

app = Durasleep()
APP = "scripts.benchmarks.readers:app"
NUMBERS = Channel("number", int)
EACH_RUN = 500  # messages; then it begins a new run


@app.workflow
async def read_one(ctx: Context) -> int:
    return await ctx.receive(NUMBERS)


@app.workflow
async def read_many(ctx: Context, count: int, total: int = 0) -> int:
    for _ in range(min(count, EACH_RUN)):
        total += await ctx.receive(NUMBERS)
    if count > EACH_RUN:
        ctx.continue_as_new(count - EACH_RUN, total)
    return total


@app.workflow
async def wait_for_promise(ctx: Context) -> int:
    return await ctx.promise(int)


@app.workflow
async def sleep_long(ctx: Context) -> None:
    await ctx.sleep("30d")
