"""A workflow waits for a person. The promise it waits for is settled by another program, which knows its id.

Run it as `python approval.py` in one terminal. It prints what to run in another one.
"""

import asyncio
import os
import sys
from datetime import timedelta

from resonate.context import Context
from resonate.resonate import Resonate
from resonate.types import Value

URL = os.environ.get("RESONATE_URL", "http://localhost:8001")


async def expense(ctx: Context, euros: int) -> str:
    decision = ctx.promise(timeout=timedelta(days=3))
    await ctx.run(ask, euros, await decision.id())
    return f"{euros} EUR {'approved' if await decision else 'declined'}"


async def ask(ctx: Context, euros: int, id: str) -> None:
    print(f"may we spend {euros} EUR? python approval.py {id}", flush=True)


async def run(resonate: Resonate, id: str) -> str:
    resonate.register(expense)
    return await resonate.run(id, expense, 250).result()


async def main() -> None:
    # Who decides is in another group: the workers of a group are those that know its functions.
    resonate = Resonate(url=URL, group="people" if sys.argv[1:] else "default")
    await asyncio.sleep(0)  # version 0.7 connects meanwhile
    try:
        if sys.argv[1:]:
            await resonate.promises.resolve(sys.argv[1], Value(data=True))
        else:
            print(await run(resonate, "expense-7"))
    finally:
        await resonate.stop()


if __name__ == "__main__":
    asyncio.run(main())
