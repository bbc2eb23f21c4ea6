"""A shop with FastAPI: orders that wait for payment, are packed, and end a week later.

As a worker:   durasleep worker examples.web.durable
As a server:   uvicorn examples.web.fastapi.main:api
As a client:   curl -i localhost:8000/orders -H 'idempotency-key: tea-1' --json '{"customer": "ada", "parcels": 2}'
               curl -N localhost:8000/orders/tea-1/events
               curl localhost:8000/payments --json '{"event": "evt-1", "order": "tea-1", "cents": 900}'

With SHOP_WORKER=embedded the server runs a worker itself: for development. REDIS_URL says where Redis is.
"""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from durasleep import Durasleep, DurasleepError, View
from durasleep.contrib.http import answer_to
from examples.web.durable import PAYMENT, Order, Payment, app, fulfil

REVIEW_AFTER = timedelta(seconds=float(os.environ.get("SHOP_REVIEW_AFTER_S", "604800")))
NAME = "^[a-z0-9-]{1,40}$"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app)  # connects now, and closes the connections at the end
        if os.environ.get("SHOP_WORKER") == "embedded":
            await stack.enter_async_context(app.serving())
        yield


def get_durasleep() -> Durasleep:
    return app


Orders = Annotated[Durasleep, Depends(get_durasleep)]
OrderName = Annotated[str, Path(pattern=NAME)]
api = FastAPI(lifespan=lifespan)


@api.exception_handler(DurasleepError)
async def answer_error(_: Request, error: DurasleepError) -> JSONResponse:
    status, detail = answer_to(error)
    return JSONResponse({"detail": detail}, status)


class Paid(BaseModel):
    event: str
    order: str
    cents: int


@api.post("/orders", status_code=202)
async def place(
    order: Order, orders: Orders, idempotency_key: Annotated[str, Header(pattern=NAME)], response: Response
) -> dict[str, str]:
    """The same key is the same order, however often it is sent."""
    handle = await orders.rpc(f"order-{idempotency_key}", fulfil, order, REVIEW_AFTER)
    response.headers["Location"] = f"/orders/{idempotency_key}"
    return {"order": idempotency_key, "found": str(handle.disposition)}


@api.get("/orders/{name}")
async def show(name: OrderName, orders: Orders) -> dict[str, Any]:
    return seen(await orders.view(f"order-{name}"))


@api.get("/orders/{name}/result")
async def result(name: OrderName, orders: Orders, response: Response, wait_s: float = 0) -> dict[str, Any]:
    """Waits for the end, but not longer than a proxy would. A failure is an answer, too."""
    with suppress(Exception):  # what the order has raised may be of any class: what is kept of it says how it ended
        await orders.get(f"order-{name}").result(timeout=min(max(wait_s, 0.01), 25))
    found = await orders.describe(f"order-{name}")
    response.status_code = 202 if found.state == "pending" else 200
    return {"state": found.state, "result": found.value, "error": found.error}


@api.get("/orders/{name}/events")
async def events(name: OrderName, orders: Orders) -> StreamingResponse:
    """Server-sent events: one for each change, until the end."""
    await orders.view(f"order-{name}")  # an unknown order is a 404: a stream that has begun cannot say so

    async def lines() -> AsyncGenerator[str]:
        async with aclosing(orders.watch(f"order-{name}")) as views:
            async for view in views:
                yield f"data: {json.dumps(seen(view))}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@api.post("/payments")
async def pay(paid: Paid, orders: Orders) -> dict[str, str]:
    """A webhook: the id of its event is the key, so that an event that comes twice counts once."""
    return {"payment": await orders.send(f"order-{paid.order}", PAYMENT, Payment(paid.cents), key=paid.event)}


@api.delete("/orders/{name}", status_code=202)
async def cancel(name: OrderName, orders: Orders) -> dict[str, str]:
    return {"order": await orders.get(f"order-{name}").cancel()}


def seen(view: View) -> dict[str, Any]:
    progress = view.progress and [view.progress.done, view.progress.total]
    return {"state": view.state, "status": view.status, "progress": progress}
