"""The application of ``durasleep demo``, which its workers serve."""

from __future__ import annotations

import os

from durasleep.app import Durasleep
from durasleep.runtime.context import Context

app = Durasleep()


@app.workflow
async def sleeping_workflow(ctx: Context, secs: int) -> str:
    print(f"          worker {os.getpid()} runs it: Sleeping for {secs} seconds...", flush=True)  # noqa: T201 - for the demo
    await ctx.sleep(secs)
    return f"Slept for {secs} seconds"
