"""A workflow starts another one and does not wait for it. The other goes on when the first has ended."""

import asyncio
import os
from datetime import timedelta

from resonate.context import Context
from resonate.resonate import Resonate


async def order(ctx: Context, item: str) -> str:
    return await ctx.detached("survey", item)


async def survey(ctx: Context, item: str) -> str:
    await ctx.sleep(timedelta(seconds=0.5))
    return f"how do you like your {item}?"


async def run(resonate: Resonate, id: str) -> str:
    resonate.register(order)
    resonate.register(survey)
    survey_id = await resonate.run(id, order, "tea").result()
    return await (await resonate.get(survey_id)).result()


async def main() -> None:
    resonate = Resonate(url=os.environ.get("RESONATE_URL", "http://localhost:8001"))
    try:
        print(await run(resonate, "order-1"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
