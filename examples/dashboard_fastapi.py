"""The dashboard in a FastAPI application, under a path of its own.

    uvicorn examples.dashboard_fastapi:web

With DURASLEEP_UI_TOKEN it asks for that token. Without it, only a browser on this machine is answered.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from durasleep import Context, Durasleep
from durasleep.dashboard import create_app, path_of

app = Durasleep()


@app.workflow
async def remind(ctx: Context, who: str) -> str:
    await ctx.sleep("30d")
    return f"{who} is reminded"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with app, app.serving():
        yield


web = FastAPI(lifespan=lifespan)
web.mount("/durasleep", create_app(app, token=os.environ.get("DURASLEEP_UI_TOKEN")))


@web.post("/reminders/{who}")
async def start(who: str) -> dict[str, str]:
    handle = await app.rpc(f"remind-{who}", remind, who)
    return {"id": handle.id, "see": f"/durasleep{path_of(handle.id)}"}
