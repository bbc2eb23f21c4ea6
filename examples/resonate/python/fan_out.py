"""Many functions at the same time, each in its own task, on any worker of the group."""

import asyncio
import os

from resonate.context import Context
from resonate.resonate import Resonate


async def count_all(ctx: Context, texts: list[str]) -> int:
    counts = [ctx.rpc(count_words, text) for text in texts]
    return sum([await count for count in counts])


async def count_words(ctx: Context, text: str) -> int:
    return len(text.split())


async def run(resonate: Resonate, id: str) -> int:
    resonate.register(count_all)
    resonate.register(count_words)
    return await resonate.rpc(id, count_all, ["to be", "or not", "to be, that is the question"] * 5).result()


async def main() -> None:
    resonate = Resonate(url=os.environ.get("RESONATE_URL", "http://localhost:8001"))
    try:
        print(await run(resonate, "words-1"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
