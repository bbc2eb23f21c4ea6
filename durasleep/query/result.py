"""The outcome of a settled promise: its value, or why it has none."""

from __future__ import annotations

from typing import Any

from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.errors import (
    Canceled,
    RemoteError,
    TimedOut,
    UsageError,
)
from durasleep.model import (
    State,
)
from durasleep.query.status import PromiseStatus


def result_of(ending: PromiseStatus, codec: Codec, type_hint: Any = Any) -> Any:
    """The value of a settled promise, shaped by ``type_hint``; raises its error, Canceled or TimedOut."""
    match ending.state:
        case State.RESOLVED:
            return codec.decode(ending.payload, type_hint)
        case State.REJECTED:
            raise codec.decode_error(ending.payload)
        case State.CANCELED:
            raise Canceled(f"{ending.id} was canceled")
        case State.TIMEDOUT:
            raise TimedOut(f"{ending.id} did not settle before its timeout")
        case State.PENDING:
            raise UsageError(f"{ending.id} has not settled")


def error_text(state: State, payload: bytes, codec: Codec) -> str | None:
    """Why a promise failed, in a word or a sentence; None if it did not fail."""
    match state:
        case State.REJECTED:
            error = codec.decode_error(payload)
            return str(error) if isinstance(error, RemoteError) else error_line(error)
        case State.CANCELED:
            return "canceled"
        case State.TIMEDOUT:
            return "timed out"
        case State.PENDING | State.RESOLVED:
            return None
