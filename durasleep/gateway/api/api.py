"""Answers requests to ``/v1``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

from durasleep.client import Client
from durasleep.client.client import store_of
from durasleep.errors import StoreUnavailable
from durasleep.gateway.api import openapi, values
from durasleep.gateway.api.idempotency import Noted, Repeats, read_key
from durasleep.gateway.api.problems import Problem, problem_of
from durasleep.gateway.api.routes import Answer, Call, Route, Table
from durasleep.gateway.api.shared import Shared
from durasleep.gateway.api.table import TABLE
from durasleep.gateway.http import Request, Response

DESCRIPTION_PATH = "/v1/openapi.json"
_JSON = ("application/json",)
_ANSWER_S = 12.0
"""A request takes no longer, beside what it waits for. It is longer than the patience of one call of the client, so it
ends what several calls, or a Redis that hangs, would need.
"""


class Api:
    """The handler of everything below ``/v1``. Whoever made the ``client`` closes it."""

    def __init__(self, client: Client, *, table: Table = TABLE) -> None:
        self.shared = Shared(client)
        self._table = table
        self._description: bytes | None = None

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
        call.idempotency_key = read_key(request.headers) if route.takes_key else None
        if route.may_last:
            return await self._handle(route, call, request)
        longest_s = _ANSWER_S + query.get("wait", 0)
        limit = asyncio.timeout(longest_s)
        try:
            async with limit:
                return await self._handle(route, call, request)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreUnavailable(f"Redis has not answered a request within {longest_s:g} s") from None

    async def _handle(self, route: Route, call: Call, request: Request) -> Answer:
        if call.idempotency_key is None:
            return await route.handle(call)
        store = await store_of(self.shared.client)
        call.repeats = Repeats(store, call.idempotency_key, request, does_more=route.does_more)
        return await (route.handle(call) if route.is_repeatable else _once(route, call))

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


async def _once(route: Route, call: Call) -> Answer:
    """Carry out a request, or answer it as it was answered before."""
    answers: list[Answer] = []

    async def act() -> Noted:
        answers.append(await route.handle(call))
        return Noted(answers[0].status, answers[0].document)

    noted = await call.once(act)
    if answers:
        return answers[0]
    if noted.status == HTTPStatus.GATEWAY_TIMEOUT:
        raise Problem("no-answer", "this was asked before under this Idempotency-Key, and nobody answered in time")
    if noted.document is None:
        raise Problem("answer-not-kept", "this was done before, and its answer was too long to be kept")
    return Answer(noted.status, noted.document)
