"""Promises on their own: somebody outside settles them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from durasleep.client.client import status_of
from durasleep.errors import RemoteError
from durasleep.gateway.api import calls, schema, values
from durasleep.gateway.api.outcomes import OUTCOME_FIELDS, STATES, document_of, outcome, wait_for
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.routes import VALUES, WAIT, Answer, Call, Handler, Route
from durasleep.gateway.api.schema import Schema
from durasleep.model import Disposition, PromiseId, check_id

_TAG = "promises"


async def create(call: Call) -> Answer:
    """Make a promise, or find the one that has this id."""
    timeout = calls.read_instant(call.body.get("timeout"), "/timeout")
    made = await call.client.promises.create(call.id, timeout=timeout, timer=call.body.get("timer", False))
    status = HTTPStatus.CREATED if made.disposition is Disposition.CREATED else HTTPStatus.OK
    found = await status_of(call.client, PromiseId(call.id))
    document = document_of(call)
    answer = {"id": call.id, **outcome(document, found, call.client.codec), **document.notes()}
    return Answer(status, answer, [("Location", f"/v1/promises/{quote(call.id, safe='')}")])


async def get(call: Call) -> Answer:
    """How a promise of any kind stands, perhaps after it has settled."""
    document = document_of(call)
    found = outcome(document, await wait_for(call, call.id), call.client.codec)
    return Answer(HTTPStatus.OK, {"id": call.id, **found, **document.notes()})


async def resolve(call: Call) -> Answer:
    """Resolve a promise."""
    value = values.read_value(call.body, "value")
    return await _settled(call, await call.client.promises.resolve(call.id, value))


async def reject(call: Call) -> Answer:
    """Reject a promise."""
    return await _settled(call, await call.client.promises.reject(call.id, read_error(call.body)))


async def cancel(call: Call) -> Answer:
    """Cancel a promise."""
    return await _settled(call, await call.client.promises.cancel(call.id))


def read_error(body: Mapping[str, Any]) -> RemoteError:
    """The error in a body."""
    return RemoteError(body.get("type", "builtins.RuntimeError"), body["message"], body.get("traceback", ""))


async def _settled(call: Call, by_us: bool) -> Answer:
    found = await status_of(call.client, check_id(call.id))
    if not by_us:
        raise Problem(
            "settled-otherwise",
            f"{call.id} has settled in another way before: it is {found.state}",
            more={"state": str(found.state)},
        )
    document = document_of(call)
    settled = {"id": call.id, **outcome(document, found, call.client.codec), **document.notes()}
    return Answer(HTTPStatus.OK, settled)


SCHEMAS: Mapping[str, Schema] = {
    "Error": schema.record(
        "Why something has no value.",
        {
            "type": schema.text(
                "The name of the class of the error, with its module. `durasleep.errors.Canceled` and "
                "`durasleep.errors.TimedOut` stand for these states."
            ),
            "message": schema.text("What it says."),
            "traceback": schema.nullable(schema.text("Where it was raised, if that is known.")),
        },
        required=["type", "message", "traceback"],
    ),
    "JsonNote": values.NOTE,
    "State": STATES,
    "Promise": schema.record(
        "How a promise stands.", {"id": schema.text("The id."), **OUTCOME_FIELDS}, required=["id", "state"]
    ),
    "NewPromise": schema.body(
        "A promise that is to be made.",
        {
            "timeout": calls.duration("Then it is `timedout`. Also an instant. By default there is none."),
            "timer": schema.boolean("Whether it resolves at its timeout; by default false."),
        },
    ),
    "Resolve": schema.body("A value.", values.fields("value", "What the promise resolves to; by default null.")),
    "Reject": schema.body(
        "An error.",
        {
            "message": schema.text("What went wrong."),
            "type": schema.text(
                "The name of its class. By default `builtins.RuntimeError`; one that the reader does not have is raised"
                " as a RemoteError.",
                minLength=1,
                maxLength=255,
            ),
            "traceback": schema.text("Where it was raised."),
        },
        required=["message"],
    ),
}


def _settling(verb: str, handle: Handler, summary: str, body: str | None, *, needs_body: bool = False) -> Route:
    return Route(
        method="POST",
        path=f"/v1/promises/{{id}}:{verb}",
        name=f"{verb}Promise",
        tag=_TAG,
        summary=summary,
        description="The same request again finds the same. A promise that has settled in another way is not changed: "
        "409. An execution only settles itself.",
        handle=handle,
        answers={200: ("It has settled so.", "Promise")},
        problems=("not-found", "not-allowed", "settled-otherwise", "invalid", "too-large"),
        body=body,
        needs_body=needs_body,
        takes_key=True,
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/promises/{id}",
        name="createPromise",
        tag=_TAG,
        summary="Make a promise",
        description="If there is a promise under this id already, it is the answer.",
        handle=create,
        answers={201: ("It was made.", "Promise"), 200: ("It was there.", "Promise")},
        problems=("other-function", "invalid"),
        body="NewPromise",
        needs_body=False,
        takes_key=True,
    ),
    Route(
        method="GET",
        path="/v1/promises/{id}",
        name="getPromise",
        tag=_TAG,
        summary="Show a promise, or wait for it",
        description="Anything that settles is a promise: also executions, timers and steps, by their ids.",
        handle=get,
        answers={200: ("The promise as it is now.", "Promise")},
        problems=("not-found", "invalid", "too-many-waits"),
        parameters=(WAIT, VALUES),
    ),
    _settling("resolve", resolve, "Resolve a promise", "Resolve"),
    _settling("reject", reject, "Reject a promise", "Reject", needs_body=True),
    _settling("cancel", cancel, "Cancel a promise", None),
)
