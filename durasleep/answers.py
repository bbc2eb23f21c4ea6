"""What to answer to a request by HTTP when durasleep raises an error."""

from __future__ import annotations

import logging
from typing import NamedTuple

from durasleep.errors import (
    DurasleepError,
    Ended,
    ExecutionError,
    InvalidId,
    LimitFull,
    MailboxFull,
    NotAllowed,
    NotFound,
    OtherFunction,
    PayloadTooLarge,
    StoreError,
    WaitTimeout,
)

logger = logging.getLogger("durasleep")


class Answer(NamedTuple):
    """What a client may see of an error."""

    status: int
    """The HTTP status."""
    detail: str
    """A sentence that everybody may read."""


def answer_to(error: DurasleepError) -> Answer:
    """The HTTP status for an error, and a sentence::

        @api.exception_handler(DurasleepError)
        async def answer(request: Request, error: DurasleepError) -> JSONResponse:
            status, detail = answer_to(error)
            return JSONResponse({"detail": detail}, status)

    404 is NotFound. 409 is OtherFunction, Ended and NotAllowed: the state of the execution does not permit it. 413 is
    PayloadTooLarge, 422 InvalidId, and 429 LimitFull and MailboxFull. 504 is WaitTimeout: the execution goes on. 503 is
    every StoreError: Redis does not serve us now. Any other error is 500.

    With 500 and 503 the detail does not say what only operators should know, such as the address of Redis: that is
    logged.
    """
    status = _status_of(error)
    if status not in (500, 503):
        return Answer(status, str(error))
    logger.error("a request was answered with %d: %s: %s", status, type(error).__name__, error)
    if status == 503:
        return Answer(status, "This cannot be done at the moment. Please try again soon.")
    return Answer(status, "The execution has failed." if isinstance(error, ExecutionError) else "This cannot be done.")


def _status_of(error: DurasleepError) -> int:
    match error:
        case NotFound():
            return 404
        case OtherFunction() | Ended() | NotAllowed():
            return 409
        case PayloadTooLarge():
            return 413
        case InvalidId():
            return 422
        case LimitFull() | MailboxFull():
            return 429
        case StoreError():
            return 503
        case WaitTimeout():
            return 504
        case _:
            return 500
