"""How something stands: its state, its value or its error. What all answers about promises have."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from durasleep.client.client import ending_of, status_of
from durasleep.codec import Codec
from durasleep.codec.exceptions import RAISED_THERE, type_name
from durasleep.errors import RemoteError
from durasleep.gateway.api import schema, values
from durasleep.gateway.api.routes import Call
from durasleep.gateway.api.schema import Schema
from durasleep.gateway.api.values import Document
from durasleep.model import PromiseId, State, check_id
from durasleep.query import result
from durasleep.query.status import PromiseStatus

STATE = schema.ref("State")
STATES = schema.text("The state; all but `pending` are final.", enum=[str(state) for state in State])

OUTCOME_FIELDS: dict[str, Schema] = {
    "state": STATE,
    **values.answer_fields("value", "The result, if it has resolved."),
    "value_unreadable": schema.text(
        "Why the value cannot be read here: mostly it is encrypted, and the gateway does not have its application."
    ),
    "error": {**schema.ref("Error"), "description": "Why there is no value, if it has failed."},
    **values.NOTES_FIELD,
}


async def wait_for(call: Call, id: str) -> PromiseStatus:
    """The status of a promise, once it has settled, or after the time that the request may wait."""
    checked, wait_s = check_id(id), call.query["wait"]
    if wait_s:
        with suppress(TimeoutError):
            async with call.shared.waits.within(wait_s):
                return await ending_of(call.client, checked)
    return await status_of(call.client, checked)


def document_of(call: Call) -> Document:
    """A new answer, which writes values as the request wants them."""
    return Document(as_msgpack=call.query.get("values") == "msgpack")


def outcome(document: Document, status: PromiseStatus, codec: Codec) -> dict[str, Any]:
    """The fields of an outcome, without its notes."""
    found: dict[str, Any] = {"state": str(status.state)}
    if status.state is State.RESOLVED:
        found |= document.decoded("value", codec, status.payload)
    elif status.is_final:
        found["error"] = error_of(status, codec)
    return found


def error_of(status: PromiseStatus, codec: Codec) -> dict[str, Any]:
    """Why a promise has no value."""
    try:
        result.result_of(status, codec)
    except Exception as error:  # noqa: BLE001 - the error of an execution may be of any class
        return describe_error(error)
    raise AssertionError("it has a value")


def describe_error(error: Exception) -> dict[str, Any]:
    """Any error, as answers have it."""
    if isinstance(error, RemoteError):
        return {"type": error.type, "message": error.message, "traceback": error.remote_traceback or None}
    notes = [note for note in getattr(error, "__notes__", ()) if RAISED_THERE in note]
    traceback = "\n".join(note.removeprefix(RAISED_THERE) for note in notes)
    return {"type": type_name(error), "message": str(error), "traceback": traceback or None}


def pending(id: str) -> PromiseStatus:
    """The status of something that has just begun."""
    return PromiseStatus(PromiseId(id), State.PENDING, b"")
