"""A worker dies in the middle; another one goes on. What has been done is not done again.

Run it as `python recovery.py slow`, kill it with `kill -9` when it has printed "packing", and run it as
`python recovery.py`: it does not charge again.
"""

import asyncio
import os
import sys
from datetime import timedelta

from resonate.context import Context
from resonate.resonate import Resonate


async def order(ctx: Context, item: str) -> str:
    paid = await ctx.run(charge, item)
    packed = await ctx.run(pack, item)
    return f"{paid}, {packed}"


async def charge(ctx: Context, item: str) -> str:
    print("charging", flush=True)
    return f"{item} is paid"


async def pack(ctx: Context, item: str) -> str:
    print("packing", flush=True)
    if "slow" in sys.argv:
        await asyncio.sleep(60)
    return f"{item} is packed"


async def main() -> None:
    # A worker that is silent for `ttl` loses its tasks to another one of the group.
    url = os.environ.get("RESONATE_URL", "http://localhost:8001")
    resonate = Resonate(url=url, group="orders", ttl=timedelta(seconds=1))
    resonate.register(order)
    try:
        print(await resonate.run("order-2", order, "tea").result())
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
