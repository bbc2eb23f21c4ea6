"""Errors as ``application/problem+json``, RFC 9457."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from durasleep.errors import (
    CorruptData,
    DurasleepError,
    Ended,
    Fenced,
    InvalidId,
    LimitFull,
    MailboxFull,
    NamespaceMissing,
    NotAllowed,
    NotFound,
    NotReplicated,
    OtherFunction,
    PayloadTooLarge,
    StoreError,
    TimedOut,
    UnsupportedServer,
    UsageError,
    WaitTimeout,
)
from durasleep.gateway.http import Response

logger = logging.getLogger("durasleep")

TYPES = "https://durasleep.readthedocs.io/en/latest/reference/http.html#"
CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 20
"""Fields that one answer names."""


class Kind(NamedTuple):
    """A kind of problem."""

    status: int
    title: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind(400, "The request cannot be read"),
    "unauthorized": Kind(401, "A token is needed"),
    "forbidden": Kind(403, "You may not ask this gateway so"),
    "no-such-route": Kind(404, "There is no such path"),
    "not-found": Kind(404, "There is no such execution or promise"),
    "method-not-allowed": Kind(405, "This path does not know the method"),
    "too-slow": Kind(408, "The request took too long to come"),
    "not-allowed": Kind(409, "The state does not permit this"),
    "ended": Kind(409, "The execution has ended"),
    "other-function": Kind(409, "The id belongs to another function"),
    "settled-otherwise": Kind(409, "The promise has settled in another way"),
    "in-progress": Kind(409, "The end of the first request is not known"),
    "answer-not-kept": Kind(409, "It was done, and the answer is not kept"),
    "fenced": Kind(409, "Another worker has the lease"),
    "old-protocol": Kind(410, "This protocol is not spoken any more"),
    "cursor-gone": Kind(410, "The cursor is not known any more"),
    "too-large": Kind(413, "The request or a value in it is too large"),
    "media-type": Kind(415, "The body must be application/json"),
    "expectation": Kind(417, "Only 100-continue can be expected"),
    "invalid": Kind(422, "A field cannot be used"),
    "key-reused": Kind(422, "The Idempotency-Key belongs to another request"),
    "limit-full": Kind(429, "The limit of the function is full"),
    "mailbox-full": Kind(429, "The mailbox is full"),
    "head-too-large": Kind(431, "The head of the request is too large"),
    "internal": Kind(500, "The gateway has failed"),
    "unsupported": Kind(501, "This Redis cannot do that"),
    "transfer-encoding": Kind(501, "The transfer-encoding is not chunked"),
    "unavailable": Kind(503, "Redis does not serve us now"),
    "unconfirmed": Kind(503, "It was written, and is not confirmed"),
    "too-many-waits": Kind(503, "Too many requests wait here"),
    "busy": Kind(503, "The gateway has too much to do"),
    "no-answer": Kind(504, "There was no answer in time"),
    "http-version": Kind(505, "HTTP/1.1 and HTTP/1.0 are spoken here"),
}
"""Kinds by the last part of their type, in the order of their status; docs/reference/http.md has a section for each."""

_KIND_OF: Sequence[tuple[type[DurasleepError], str]] = (
    (OtherFunction, "other-function"),
    (PayloadTooLarge, "too-large"),
    (InvalidId, "invalid"),
    (NamespaceMissing, "unavailable"),
    (UsageError, "invalid"),
    (NotFound, "not-found"),
    (NotAllowed, "not-allowed"),
    (Ended, "ended"),
    (MailboxFull, "mailbox-full"),
    (LimitFull, "limit-full"),
    (CorruptData, "internal"),
    (NotReplicated, "unconfirmed"),
    (UnsupportedServer, "unsupported"),
    (Fenced, "fenced"),
    (StoreError, "unavailable"),
    (TimedOut, "no-answer"),
    (WaitTimeout, "no-answer"),
)
"""The first that fits counts. Here a UsageError is a mistake of the request, unlike in ``answers``."""

_SOON = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_SAID_S = 60.0  # between two lines of the log about one kind of error

_said_s: dict[type[Exception], float] = {}


class FieldError(NamedTuple):
    """What is wrong with one field."""

    at: str
    """A JSON pointer into the body, or the name of a parameter with its place before it: ``query limit``."""
    detail: str


class Problem(Exception):
    """What is answered instead of a result."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Sequence[tuple[str, str]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """``more`` are further members of the answer."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors[:ERRORS_MAX]
        self.headers = headers
        self.more = more or {}

    def response(self, instance: str) -> Response:
        """The answer to a request to the path ``instance``; empty if that could not be read."""
        kind = KINDS[self.kind]
        document: dict[str, Any] = {
            "type": f"{TYPES}{self.kind}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
        }
        if instance:
            document["instance"] = instance
        if self.errors:
            document["errors"] = [one._asdict() for one in self.errors]
        body = json.dumps({**document, **self.more}, separators=(",", ":")).encode()
        return Response(kind.status, body, CONTENT_TYPE, self.headers)


def response(kind: str, detail: str, instance: str, *, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """The answer for a problem that no code of this package has found, such as a missing token."""
    return Problem(kind, detail, headers=headers).response(instance)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is for whoever made the request. What only operators should know is logged."""
    if isinstance(error, Problem):
        return error
    if type(error) is TimeoutError:
        return Problem("no-answer", "the gateway ends before there was an answer; the execution may have the message")
    kind = next((kind for known, kind in _KIND_OF if isinstance(error, known)), "internal")
    if kind == "internal":
        logger.error("a request to the gateway has failed", exc_info=error)
        return Problem(kind, "This cannot be done. The log of the gateway says why.")
    headers = [("Retry-After", "1")] if KINDS[kind].status in _SOON else []
    if kind == "unavailable":
        _report(error)
        return Problem(kind, "Ask again soon. What was asked may have been done, or not.", headers=headers)
    if kind == "fenced":  # Redis says it in its own words, or we in several
        return Problem(kind, "another worker has the lease of the execution, or it has ended")
    return Problem(kind, str(error), headers=headers)


def _report(error: Exception) -> None:
    """Log why Redis does not serve us, not for each request."""
    now_s = time.monotonic()
    if now_s - _said_s.get(type(error), -_SAID_S) >= _SAID_S:
        _said_s[type(error)] = now_s
        logger.error("requests to the gateway are answered with 503: %s: %s", type(error).__name__, error)
