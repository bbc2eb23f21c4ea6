"""A workflow sleeps. Nothing is held in memory meanwhile: the process may end, and another one goes on."""

import asyncio
import os
from datetime import timedelta

from resonate.context import Context
from resonate.resonate import Resonate


async def trial(ctx: Context, user: str, pause_s: float) -> str:
    await ctx.run(mail, user, "Welcome!")
    await ctx.sleep(timedelta(seconds=pause_s))
    return await ctx.run(mail, user, "Your trial ends.")


async def mail(ctx: Context, user: str, text: str) -> str:
    return f"{user} was told: {text}"


async def run(resonate: Resonate, id: str) -> str:
    resonate.register(trial)
    return await resonate.run(id, trial, "ada", 1.0).result()


async def main() -> None:
    resonate = Resonate(url=os.environ.get("RESONATE_URL", "http://localhost:8001"))
    try:
        print(await run(resonate, "trial-ada"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
