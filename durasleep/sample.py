"""The application that ``durasleep demo`` runs, and ``durasleep worker`` in a folder without any Python file.

``durasleep worker durasleep.sample`` serves it anywhere.
"""

from __future__ import annotations

import os
from datetime import timedelta

from durasleep.app import Durasleep
from durasleep.runtime.context import Context

app = Durasleep()


@app.workflow
async def sleeping_workflow(ctx: Context, secs: int) -> str:
    print(f"worker {os.getpid()} runs it: Sleeping for {secs} seconds...", flush=True)  # noqa: T201 - to be seen
    await ctx.sleep(secs)
    return f"Slept for {secs} seconds"


@app.workflow
async def bill_after_a_month(ctx: Context, order: str) -> str:
    await ctx.run(pack, order)
    await ctx.sleep(timedelta(days=30))
    return await ctx.run(send_bill, order)


@app.task
async def pack(order: str) -> str:
    return f"{order} is packed"


@app.task
async def send_bill(order: str) -> str:
    return f"the bill of {order} is sent"
