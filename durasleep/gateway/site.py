"""What the gateway answers: envelopes, polls, probes and `/v1`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote

from durasleep.errors import StoreRefused, StoreUnavailable
from durasleep.gateway import envelope
from durasleep.gateway.access import Access
from durasleep.gateway.api import problems
from durasleep.gateway.connection import Answer, Stream
from durasleep.gateway.http import Handler, Refusal, Request, Response
from durasleep.gateway.polls import POLLS_MAX, Polls

_PROBES = ("/health", "/ready")
_READING = ("HEAD", "GET")
_DEAD = ("promises", "tasks", "schedules")
_GONE = (
    "this is the protocol of Resonate SDKs up to 0.6; this server speaks version 2026-04-01: use resonate-sdk 0.7 or "
    "later for Python (3.12 or later), @resonatehq/sdk 0.11 or later for TypeScript"
)
_OK = Response(200, b'"ok"')
_EVENTS = Response(200, b"", "text/event-stream", [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")])
_CHALLENGE = [("WWW-Authenticate", "Bearer")]
_SOON = [("Retry-After", "1")]
_KINDS = {
    400: "unreadable",
    401: "unauthorized",
    403: "forbidden",
    404: "no-such-route",
    405: "method-not-allowed",
    408: "too-slow",
    410: "old-protocol",
    413: "too-large",
    417: "expectation",
    431: "head-too-large",
    500: "internal",
    501: "transfer-encoding",
    503: "unavailable",
    505: "http-version",
}
"""The kinds of problems that are found here."""

logger = logging.getLogger("durasleep")

Rpc = Callable[[bytes], Awaitable[Response]]


class Site:
    """One gateway as its clients see it."""

    def __init__(
        self, rpc: Rpc, polls: Polls, v1: Handler, access: Access, why_not_ready: Callable[[], Awaitable[str]]
    ) -> None:
        self._rpc = rpc
        self._polls = polls
        self._v1 = v1
        self._access = access
        self._why_not_ready = why_not_ready

    def answer(self, request: Request) -> Answer | Awaitable[Answer]:
        refused = self.answer_unread(request)
        if refused is not None:
            return refused
        path = request.path
        if path == "/":
            return self._answer_envelope(request)
        if path in _PROBES:
            return self._answer_probe(request)
        if path.startswith("/poll/"):
            return self._answer_poll(request)
        if path == "/v1" or path.startswith("/v1/"):
            return self._v1(request)
        return problem(404, f"there is no {path}", path)

    def answer_unread(self, request: Request) -> Response | None:
        path = request.path
        if path in _PROBES:  # whoever asks for these gets no data
            return None
        if why_not := self._access.why_not_here(request):
            return problem(403, why_not, path)
        if path == "/":  # the token may stand in the body
            return None if request.method == "POST" else _wrong_method(path, "POST")
        if path[1:].partition("/")[0] in _DEAD:
            return problem(410, _GONE, path)
        if not self._access.has_token(request):
            return problem(401, "give the token of this gateway, as Authorization: Bearer TOKEN", path, _CHALLENGE)
        return None

    def refuse(self, refusal: Refusal) -> Response:
        if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return problems.response("busy", str(refusal), refusal.path, headers=_SOON)
        return problem(refusal.status, str(refusal), refusal.path)

    def fail(self, request: Request, error: BaseException) -> Response:
        if isinstance(error, StoreUnavailable | StoreRefused):
            status, text = 503, str(error)
        else:
            logger.error("%s %s could not be answered", request.method, request.path, exc_info=error)
            status, text = 500, "the gateway has failed; its log says why"
        if request.path == "/":
            return envelope.refuse(status, text, envelope.read(request.body))
        return problem(status, text, request.path)

    def _answer_envelope(self, request: Request) -> Response | Awaitable[Response]:
        if not self._access.has_token(request):
            asked = envelope.read(request.body)
            if not self._access.is_token(asked.auth):
                text = "give the token of this gateway, as Authorization: Bearer TOKEN or as head.auth"
                return envelope.refuse(401, text, asked)
        return self._rpc(request.body)

    def _answer_probe(self, request: Request) -> Response | Awaitable[Response]:
        if request.method not in _READING:
            return _wrong_method(request.path, "GET, HEAD")
        return _OK if request.path == "/health" else self._answer_ready(request.path)

    async def _answer_ready(self, path: str) -> Response:
        why_not = await self._why_not_ready()
        return problem(503, why_not, path) if why_not else _OK

    def _answer_poll(self, request: Request) -> Answer:
        path = request.path
        if request.method not in _READING:
            return _wrong_method(path, "GET, HEAD")
        parts = [unquote(part) for part in path.split("/")[2:]]
        if len(parts) != len(("GROUP", "PID")) or not all(parts):
            return problem(404, "polls are at /poll/GROUP/PID", path)
        group, pid = parts
        if self._polls.is_full and not self._polls.has(group, pid):
            return problems.response("busy", f"there are {POLLS_MAX} polls already", path, headers=_SOON)
        return Stream(_EVENTS, partial(self._polls.open, group, pid), self._polls.close, self._polls.wake)


def problem(status: int, why: str, path: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """An error as RFC 9457 has it."""
    return problems.response(_KINDS[status], why, path, headers=headers)


def _wrong_method(path: str, allowed: str) -> Response:
    return problem(405, f"the methods here are {allowed}", path, [("Allow", allowed)])
