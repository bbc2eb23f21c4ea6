"""A chord: several tasks at the same time, and then one task that gets all their results.

As a worker:   durasleep worker examples.chord:app
As a client:   durasleep rpc book-1 count_words '["one", "two words", "and three words"]'        prints: 6 words
"""

import asyncio

from durasleep import Context, Durasleep, Retry

app = Durasleep()


@app.workflow
async def count_words(ctx: Context, pages: list[str]) -> str:
    counts = await asyncio.gather(*(ctx.rpc(count, page) for page in pages))
    return await ctx.rpc(add_up, counts)


@app.task(retry=Retry(attempts=3, delay=2))
async def count(page: str) -> int:
    return len(page.split())


@app.task
async def add_up(counts: list[int]) -> str:
    return f"{sum(counts)} words"
