"""A function at times that a cron line gives. Here it is each second: six fields begin with the seconds."""

import asyncio
import os

from resonate.context import Context
from resonate.resonate import Resonate

SENT: asyncio.Queue[str] = asyncio.Queue()


async def report(ctx: Context, title: str) -> None:
    SENT.put_nowait(title)


async def run(resonate: Resonate, id: str) -> str:
    resonate.register(report)
    schedule = await resonate.schedule(id, "* * * * * *", "report", args=("sales",))
    first, second = await SENT.get(), await SENT.get()
    await schedule.delete()
    return f"two reports: {first}, {second}"


async def main() -> None:
    resonate = Resonate(url=os.environ.get("RESONATE_URL", "http://localhost:8001"))
    await asyncio.sleep(0)  # version 0.7 connects meanwhile
    try:
        print(await run(resonate, "reports"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
