"""A map over ten thousand items: in parts, so that no journal is long.

As a worker:   durasleep worker examples.map_many:app
As a client:   durasleep rpc squares-1 square_all 10000        prints: 10000 squares, the last is 99980001

Each part is a workflow of its own. Its journal has 100 entries, and that of the whole has 100 parts. A journal may have
10,000 entries, so this works for a million items, too.
"""

import asyncio

from durasleep import Context, Durasleep, Retry

PART = 100

app = Durasleep()


@app.workflow
async def square_all(ctx: Context, count: int) -> str:
    parts = await asyncio.gather(*(ctx.rpc(square_part, n, min(n + PART, count)) for n in range(0, count, PART)))
    squares = [number for part in parts for number in part]
    return f"{len(squares)} squares, the last is {squares[-1]}"


@app.workflow
async def square_part(ctx: Context, first: int, end: int) -> list[int]:
    return await asyncio.gather(*(ctx.rpc(square, number) for number in range(first, end)))


@app.task(retry=Retry(attempts=3, delay=2))
async def square(number: int) -> int:
    return number * number
