"""The pages as an ASGI application: routes, errors, and the streams that keep pages current."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from durasleep.client import Client
from durasleep.client.client import store_of
from durasleep.client.requests import user_and_host
from durasleep.dashboard import rendering
from durasleep.dashboard.access import AccessMiddleware, viewer_of
from durasleep.dashboard.actions import PATIENCE_S, Actions
from durasleep.dashboard.live import LiveViews, Stop, TooMany, Update
from durasleep.dashboard.options import Options
from durasleep.dashboard.requests import Refused, root_of
from durasleep.dashboard.views import SECTIONS, VIEWS, Look, View
from durasleep.errors import DurasleepError, NotFound, StoreError, StoreUnavailable, UsageError
from durasleep.protocol import server
from durasleep.query.overview import Finder

logger = logging.getLogger("durasleep")

_UNEXPECTED = "The dashboard has failed here, and its log says why."
_LAST_S = 1.0  # a stream that is told to stop ends at once; one whose browser does not read has this long
PING_S = 15  # a stream says that it lives, so that proxies keep it, and a browser that has gone is seen


class _Guarded(Starlette):
    """An application with a guard in front of all it answers, also of errors that nobody expects."""

    def __init__(self, guard: Callable[[ASGIApp], ASGIApp], **options: Any) -> None:
        super().__init__(**options)
        self.middleware_stack = guard(self.build_middleware_stack())


class Site:
    """The dashboard of one application."""

    def __init__(self, client: Client, options: Options) -> None:
        self.client = client
        self.options = options
        self.live = LiveViews()
        self._finder = Finder()
        self._templates = rendering.environment()

    def asgi(self) -> Starlette:
        """The application, whose ``state.site`` is this site."""
        made = _Guarded(self._guard, routes=self._routes(), exception_handlers=self._handlers())
        made.state.site = self
        return made

    def _guard(self, app: ASGIApp) -> ASGIApp:
        options = self.options
        return AccessMiddleware(
            app,
            login_page=self._login_page,
            problem_page=self._refusal,
            writable=options.writable,
            token=options.token,
            user_header=options.user_header,
            trusted_proxies=options.trusted_proxies,
            allowed_hosts=options.allowed_hosts,
            user=options.user or user_and_host(),
            secret=options.secret,
        )

    def _login_page(self, request: Request, to: str, problem: str, status: int) -> Response:
        shown = {"to": to, "problem": problem, "title": "Log in", "live": "", "section": ""}
        return self.respond(request, "login.html", status, **shown)

    def _refusal(self, request: Request, status: int, sentence: str) -> Response:
        return self.problem(request, status, HTTPStatus(status).phrase, sentence)

    def _routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [Mount("/static", StaticFiles(directory=rendering.HERE / "static"), name="static")]
        for view in VIEWS:
            routes.append(Route(f"/live{view.path}", partial(self._stream, view), methods={"GET"}))
            routes.append(Route(view.path, partial(self._page, view), methods={"GET"}))
        return [*routes, *Actions(self).routes()]

    def _handlers(self) -> dict[Any, Callable[[Request, Exception], Awaitable[Response]]]:
        async def on_http(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return self.problem(request, error.status_code, HTTPStatus(error.status_code).phrase, error.detail)

        async def on_error(request: Request, error: Exception) -> Response:
            return self.problem(request, *problem_of(error))

        async def on_unexpected(request: Request, _error: Exception) -> Response:
            return self.problem(request, 500, "This cannot be shown", _UNEXPECTED)

        async def on_refused(request: Request, error: Exception) -> Response:
            assert isinstance(error, Refused)
            return self._refusal(request, error.status, str(error))

        return {
            HTTPException: on_http,
            DurasleepError: on_error,
            Refused: on_refused,
            Exception: on_unexpected,
        }

    async def _page(self, view: View, request: Request) -> Response:
        shown = await self._load(view, request)
        live = f"{root_of(request.scope)}/live{path_of(request)}{'?' if request.url.query else ''}{request.url.query}"
        part = self._part(view, request, shown)
        whole: dict[str, Any] = {**shown, "part": part, "live": live if view.is_live else "", "section": view.section}
        return self.respond(request, f"{view.template}.html", **whole)

    async def _stream(self, view: View, request: Request) -> Response:
        key = f"{root_of(request.scope)} {path_of(request)}?{request.url.query}"
        try:
            self.live.check_room(key)
        except TooMany as error:
            return PlainTextResponse(str(error), 503)

        async def read() -> Update:
            try:
                return Update(self._part(view, request, await self._load(view, request)))
            except DurasleepError as error:
                return Update(problem_of(error)[2], is_trouble=True)
            except Exception:
                logger.exception("the dashboard cannot show %s", key)
                return Update(_UNEXPECTED, is_trouble=True)

        stop = Stop()

        async def events() -> AsyncGenerator[dict[str, str]]:
            async for update in self.live.stream(key, read, stop):
                yield {"event": "trouble" if update.is_trouble else "message", "data": update.text}

        return EventSourceResponse(
            events(),
            ping=PING_S,
            headers={"cache-control": "no-store"},
            shutdown_event=cast("Any", stop),  # only set() is called
            shutdown_grace_period=_LAST_S,
        )

    async def _load(self, view: View, request: Request) -> dict[str, Any]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                store = await store_of(self.client)
                absent = {number for number, one in enumerate(await store.locate()) if not one.rests}
                keyspaces = store.keyspaces.without(absent)
                asked = next(iter(keyspaces), store.keyspaces[0])  # any of those that answer has the time
                now_ms = await store.run(server.now_ms(asked))
                query = {name: value.strip() for name, value in request.query_params.items()}
                look = Look(
                    client=self.client,
                    store=store,
                    keyspaces=keyspaces,
                    finder=self._finder,
                    path=request.path_params,
                    query=query,
                    now_ms=now_ms,
                    show_values=self.options.show_values,
                )
                return {"now_ms": now_ms, "absent": sorted(absent), **await view.load(look)}
        except TimeoutError:
            raise StoreUnavailable(f"Redis has not answered within {PATIENCE_S:.0f} s") from None

    def _part(self, view: View, request: Request, shown: dict[str, Any]) -> str:
        missing = self.render(request, "live/absent.html", **shown) if shown["absent"] else ""
        return missing + self.render(request, f"live/{view.template}.html", **shown)

    def render(self, request: Request, template: str, **shown: Any) -> str:
        """A template with what every template may use."""
        return self._templates.get_template(template).render(
            root=root_of(request.scope),
            sections=SECTIONS,
            writable=self.options.writable,
            show_values=self.options.show_values,
            **shown,
        )

    def respond(self, request: Request, template: str, status: int = 200, **shown: Any) -> Response:
        """A whole page."""
        return HTMLResponse(self.render(request, template, viewer=viewer_of(request), **shown), status)

    def problem(self, request: Request, status: int, title: str, text: str) -> Response:
        """A page that says in a sentence what is wrong."""
        return self.respond(request, "problem.html", status, title=title, text=text, live="", section="")


def path_of(request: Request) -> str:
    """The path of a view below that prefix, as it came, also if it was asked for as a stream."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.decode("latin-1").partition("?")[0].removeprefix(root_of(request.scope))
    return path.removeprefix("/live") or "/"


def problem_of(error: Exception) -> tuple[int, str, str]:
    """The status, the title and the sentence for an error."""
    match error:
        case NotFound():
            return 404, "Not found", str(error)
        case UsageError():
            return 400, "This cannot be shown", str(error)
        case StoreError():
            return 503, "Redis does not answer", str(error)
        case _:
            return 500, "This cannot be shown", str(error)
