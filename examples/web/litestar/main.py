"""The shop with Litestar: a plugin opens and closes the connections, and handlers get ``orders`` by its name.

As a worker:   durasleep worker examples.web.durable
As a server:   uvicorn examples.web.litestar.main:api
As a client:   curl -i localhost:8000/orders -H 'idempotency-key: tea-1' --json '{"customer": "ada", "parcels": 2}'
               curl -N localhost:8000/orders/tea-1/events
               curl localhost:8000/payments --json '{"event": "evt-1", "order": "tea-1", "cents": 900}'

With SHOP_WORKER=embedded the server runs a worker itself: for development. REDIS_URL says where Redis is.
"""

import json
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from litestar import Litestar, Request, Response, delete, get, post
from litestar.config.app import AppConfig
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.plugins import InitPlugin
from litestar.response import ServerSentEvent

from durasleep import Durasleep, DurasleepError, View
from durasleep.contrib.http import answer_to
from examples.web.durable import PAYMENT, Order, Payment, app, fulfil

REVIEW_AFTER = timedelta(seconds=float(os.environ.get("SHOP_REVIEW_AFTER_S", "604800")))
NAME = "^[a-z0-9-]{1,40}$"


class DurasleepPlugin(InitPlugin):
    """Connects when Litestar starts, and gives the application to handlers, under the name ``orders``."""

    def __init__(self, app: Durasleep, *, embedded: bool = False) -> None:
        self._app = app
        self._embedded = embedded

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        app_config.lifespan.append(self._lifespan)
        app_config.dependencies["orders"] = Provide(lambda: self._app, sync_to_thread=False)
        return app_config

    @asynccontextmanager
    async def _lifespan(self, _: Litestar) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._app)
            if self._embedded:
                await stack.enter_async_context(self._app.serving())
            yield


@dataclass
class Paid:
    event: str
    order: str
    cents: int


@post("/orders", status_code=202)
async def place(
    data: JSONBody[Order],
    orders: NamedDependency[Durasleep],
    key: Annotated[str, HeaderParameter(name="idempotency-key", pattern=NAME)],
) -> Response[dict[str, str]]:
    """The same key is the same order, however often it is sent."""
    handle = await orders.rpc(f"order-{key}", fulfil, data, REVIEW_AFTER)
    body = {"order": key, "found": str(handle.disposition)}
    return Response(body, headers={"Location": f"/orders/{key}"}, status_code=202)


@get("/orders/{name:str}")
async def show(name: FromPath[str], orders: NamedDependency[Durasleep]) -> dict[str, Any]:
    return seen(await orders.view(f"order-{name}"))


@get("/orders/{name:str}/events")
async def events(name: FromPath[str], orders: NamedDependency[Durasleep]) -> ServerSentEvent:
    """One event for each change, until the end."""
    await orders.view(f"order-{name}")  # an unknown order is a 404: a stream that has begun cannot say so

    async def changes() -> AsyncGenerator[str]:
        async with aclosing(orders.watch(f"order-{name}")) as views:
            async for view in views:
                yield json.dumps(seen(view))

    return ServerSentEvent(changes())


@post("/payments", status_code=200)
async def pay(data: JSONBody[Paid], orders: NamedDependency[Durasleep]) -> dict[str, str]:
    """A webhook: the id of its event is the key, so that an event that comes twice counts once."""
    return {"payment": await orders.send(f"order-{data.order}", PAYMENT, Payment(data.cents), key=data.event)}


@delete("/orders/{name:str}", status_code=202)
async def cancel(name: FromPath[str], orders: NamedDependency[Durasleep]) -> dict[str, str]:
    return {"order": await orders.get(f"order-{name}").cancel()}


def seen(view: View) -> dict[str, Any]:
    progress = view.progress and [view.progress.done, view.progress.total]
    return {"state": view.state, "status": view.status, "progress": progress}


def answer_error(_: Request[Any, Any, Any], error: DurasleepError) -> Response[dict[str, str]]:
    status, detail = answer_to(error)
    return Response({"detail": detail}, status_code=status)


api = Litestar(
    [place, show, events, pay, cancel],
    plugins=[DurasleepPlugin(app, embedded=os.environ.get("SHOP_WORKER") == "embedded")],
    exception_handlers={DurasleepError: answer_error},
)
