"""The routes of writes: each has a page that asks, and a form on it that does what was asked."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from functools import partial
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from durasleep.client import Client
from durasleep.client.client import acting_as
from durasleep.dashboard.access import check_write, viewer_of
from durasleep.dashboard.requests import Refused, read_form, root_of
from durasleep.dashboard.writes import WRITES, Subject, Write
from durasleep.errors import DurasleepError, StoreError, StoreUnavailable

PATIENCE_S = 3.0  # a page waits so long for Redis; then it says so
_SENT_MAX = 10_000  # forms that are remembered, so that a second click does nothing


class Home(Protocol):
    """The parts of a site that are used here."""

    client: Client

    def respond(self, request: Request, template: str, status: int = 200, **shown: Any) -> Response:
        """A whole page."""
        ...


class Actions:
    """The pages and forms of all writes."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._sent: OrderedDict[str, None] = OrderedDict()

    def routes(self) -> list[BaseRoute]:
        """A route for each page that asks, and for its form."""
        return [Route(one.path, partial(self._answer, one), methods={"GET", "POST"}) for one in WRITES]

    async def _answer(self, write: Write, request: Request) -> Response:
        viewer = viewer_of(request)
        if not viewer.can_write:
            raise Refused(403, "This dashboard only shows: nothing can be changed here.")
        query = request.query_params.multi_items()
        client = acting_as(self._home.client, viewer.user)
        subject = Subject(client, request.path_params, query, viewer.user)
        if request.method != "POST":
            return await self._ask(write, request, subject)
        fields = await read_form(request)
        check_write(request, fields)
        form = dict(fields)
        subject = Subject(client, request.path_params, query, viewer.user, form, form.get("once", ""))
        if not subject.once or subject.once in self._sent:
            viewer.notify("This form was sent before: nothing more was done.")
        else:
            self._note_sent(subject.once)
            try:
                viewer.notify(await write.do(subject))
            except StoreError:  # nobody knows whether it was done, so it may be tried again
                self._sent.pop(subject.once, None)
                raise
            except DurasleepError as error:
                return await self._ask(write, request, subject, str(error))
        question = await self._back(write, subject)
        return RedirectResponse(root_of(request.scope) + question, 303)

    async def _back(self, write: Write, subject: Subject) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return (await write.ask(subject)).back
        except (DurasleepError, TimeoutError):  # it is gone, as it should be
            return "/"

    async def _ask(self, write: Write, request: Request, subject: Subject, problem: str = "") -> Response:
        try:
            async with asyncio.timeout(PATIENCE_S):
                question = await write.ask(subject)
        except TimeoutError:
            raise StoreUnavailable(f"Redis has not answered within {PATIENCE_S:.0f} s") from None
        return self._home.respond(
            request,
            "confirm.html",
            400 if problem else 200,
            title=question.title,
            question=question,
            form=subject.form,
            problem=problem,
            once=secrets.token_urlsafe(12),
            live="",
            section="",
        )

    def _note_sent(self, once: str) -> None:
        self._sent[once] = None
        while len(self._sent) > _SENT_MAX:
            self._sent.popitem(last=False)
