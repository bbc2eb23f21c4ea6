"""Answers requests to ``/v1``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

from durasleep.client import Client
from durasleep.client.client import store_of
from durasleep.errors import TimedOut
from durasleep.gateway.api import openapi, values
from durasleep.gateway.api.idempotency import Repeats, read_key
from durasleep.gateway.api.problems import Problem, problem_of
from durasleep.gateway.api.routes import Answer, Call, Route, Table
from durasleep.gateway.api.shared import Shared
from durasleep.gateway.api.table import TABLE
from durasleep.gateway.http import Request, Response

DESCRIPTION_PATH = "/v1/openapi.json"
_JSON = ("application/json",)


class Api:
    """The handler of everything below ``/v1``. Whoever made the ``client`` closes it."""

    def __init__(self, client: Client, *, table: Table = TABLE) -> None:
        self.shared = Shared(client)
        self._table = table
        self._description: bytes | None = None
        self._tasks: set[asyncio.Task[Answer]] = set()

    def __call__(self, request: Request) -> Awaitable[Response]:
        """The answer to a request; cancelled if its connection closes."""
        return self._answer(request)

    async def aclose(self) -> None:
        """Answer those that wait, and drop what is kept for requests to come. Others are still answered."""
        await self.shared.aclose()

    async def _answer(self, request: Request) -> Response:
        try:
            answer = await self._carry_out(request)
        except Exception as error:  # noqa: BLE001 - whatever was raised, the client gets an answer, and the log the rest
            return problem_of(error).response(request.path)
        if isinstance(answer, Response):
            return answer
        body = b"" if answer.document is None else values.dump(answer.document)
        headers = [*answer.headers, ("Cache-Control", "no-store")]
        return Response(answer.status, body, headers=headers, on_unsent=answer.on_unsent)

    async def _carry_out(self, request: Request) -> Answer | Response:
        method = "GET" if request.method == "HEAD" else request.method
        if request.path == DESCRIPTION_PATH:
            if method != "GET":
                raise Problem("method-not-allowed", f"this path knows GET, not {method}", headers=[("Allow", "GET")])
            if self._description is None:
                self._description = openapi.render(self._table)
            return Response(HTTPStatus.OK, self._description)
        route, path = self._table.find(method, request.path)
        query = self._table.read_query(route, request.query)
        call = Call(self.shared, path, query, self._read_body(route, request))
        key = read_key(request.headers) if route.takes_key else None
        if key is None:
            return await route.handle(call)
        call.idempotency_key = key
        return await self._once(route, call, Repeats(await store_of(self.shared.client), key, request))

    def _read_body(self, route: Route, request: Request) -> Any:
        if not request.body:
            if route.body is not None and route.needs_body:
                raise Problem("unreadable", "this request needs a body")
            return {}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _JSON:
            raise Problem(
                "media-type",
                f"Content-Type is {kind or 'missing'}: send application/json",
                headers=[("Accept", "application/json")],
            )
        return self._table.check_body(route, values.read_json(request.body))

    async def _once(self, route: Route, call: Call, repeats: Repeats) -> Answer:
        """Carry out a request, unless it was before; and note that it was."""
        noted = await repeats.claim()
        if noted is not None and noted.status == HTTPStatus.GATEWAY_TIMEOUT:
            raise Problem("no-answer", "this was asked before under this Idempotency-Key, and nobody answered in time")
        if noted is not None and not route.is_repeatable:
            if noted.document is None:
                raise Problem("answer-not-kept", "this was done before, and its answer was too long to be kept")
            return Answer(noted.status, noted.document)
        if noted is not None:
            call.remembered = noted
            return await route.handle(call)
        if route.is_repeatable:
            call.repeats = repeats
        # What was begun is carried out and noted, whether its client is still there or not.
        task = asyncio.ensure_future(self._noting(route, call, repeats))
        self._tasks.add(task)
        task.add_done_callback(self._forget_task)
        return await asyncio.shield(task)

    async def _noting(self, route: Route, call: Call, repeats: Repeats) -> Answer:
        try:
            answer = await route.handle(call)
        except TimedOut:
            if not repeats.is_noted:
                await repeats.note(HTTPStatus.GATEWAY_TIMEOUT, None)  # the question was sent, and is not sent again
            raise
        except BaseException:
            if not repeats.is_noted:
                await asyncio.shield(repeats.release())
            raise
        if not repeats.is_noted:
            await repeats.note(answer.status, answer.document)
        return answer

    def _forget_task(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its client may have gone: nobody else asks for it
