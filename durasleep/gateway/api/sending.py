"""Messages to executions, and questions that they answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from durasleep.client.client import Start
from durasleep.errors import DurasleepError, ExecutionError, TimedOut
from durasleep.gateway.api import calls, schema, values
from durasleep.gateway.api.outcomes import OUTCOME_FIELDS, describe_error, document_of
from durasleep.gateway.api.routes import VALUES, WAIT_MAX_S, Answer, Call, Route
from durasleep.gateway.api.schema import Schema
from durasleep.model import Delivery, State, seconds_of

_TAG = "messages"
_LONGER_S = 30.0  # than the question itself may wait: that ends by itself, unless the gateway ends


async def send(call: Call) -> Answer:
    """Send a message to an execution."""
    value = values.read_value(call.body, "value")
    key = call.body.get("key", call.idempotency_key)
    start, client = _start_of(call)
    delivery = await client.send(call.id, call.path["channel"], value, key=key, start=start)
    return Answer(HTTPStatus.OK, {"delivery": str(delivery)})


async def ask(call: Call) -> Answer:
    """Send a message to an execution, and wait for its answer."""
    value = values.read_value(call.body, "value")
    timeout = call.body.get("timeout", 30)
    if not 0 <= seconds_of(timeout) <= WAIT_MAX_S:
        raise values.invalid("/timeout", f"at most {WAIT_MAX_S} s")
    start, client = _start_of(call)
    document = document_of(call)
    async with call.shared.waits.within(_LONGER_S + WAIT_MAX_S):
        try:
            answer = await client.ask(call.id, call.path["channel"], value, timeout=timeout, start=start)
        except TimedOut:
            raise
        except Exception as error:
            if isinstance(error, DurasleepError) and not isinstance(error, ExecutionError):
                raise  # nothing was sent, or the execution has ended
            return Answer(HTTPStatus.OK, {"state": str(State.REJECTED), "error": describe_error(error)})
    found = {"state": str(State.RESOLVED), **document.value("value", answer)}
    return Answer(HTTPStatus.OK, {**found, **document.notes()})


def _start_of(call: Call) -> tuple[Start | None, Any]:
    """How the execution begins if there is none, and the client with the options of that."""
    start = call.body.get("start")
    if start is None:
        return None, call.client
    args, _ = calls.read_arguments(start, "/start")
    return (start["function"], *args), calls.caller(call.client, start, "/start")


_START = schema.ref("StartWithMessage")

SCHEMAS: Mapping[str, Schema] = {
    "StartWithMessage": calls.call_schema(
        "How the execution begins if there is none under this id, in the same step.", with_kwargs=False
    ),
    "Message": schema.body(
        "A message.",
        {
            **values.fields("value", "What the code gets; by default null."),
            "key": schema.text(
                "A second message with the same key, to the same channel, is not sent. By default the Idempotency-Key.",
                minLength=1,
                maxLength=255,
            ),
            "start": _START,
        },
    ),
    "Question": schema.body(
        "A message that is answered.",
        {
            **values.fields("value", "What the code gets; by default null."),
            "timeout": calls.duration(f"How long to wait for the answer, at most {WAIT_MAX_S} s; by default 30 s."),
            "start": _START,
        },
    ),
    "Sent": schema.record(
        "What has become of a message.",
        {
            "delivery": schema.text(
                "`delivered`: the execution waited for it. `stored`: it is in its mailbox. `duplicate`: a message with "
                "this key was sent before, so this one was not.",
                enum=[str(one) for one in Delivery],
            )
        },
        required=["delivery"],
    ),
    "Reply": schema.record("What the code has answered: a value, or an error.", OUTCOME_FIELDS, required=["state"]),
}

_PROBLEMS = (
    "not-found",
    "ended",
    "not-allowed",
    "mailbox-full",
    "invalid",
    "too-large",
    "other-function",
    "limit-full",
    "unconfirmed",
    "unsupported",
)

ROUTES = (
    Route(
        method="POST",
        path="/v1/executions/{id}/messages/{channel}",
        name="sendMessage",
        tag=_TAG,
        summary="Send a message to an execution",
        description="Its code gets it from this channel. With `start` the execution begins if there is none.",
        handle=send,
        answers={200: ("What has become of it.", "Sent")},
        problems=_PROBLEMS,
        body="Message",
        needs_body=False,
        takes_key=True,
    ),
    Route(
        method="POST",
        path="/v1/executions/{id}/messages/{channel}:ask",
        name="ask",
        tag=_TAG,
        summary="Send a message and wait for its answer",
        description="The answer is what the code replies to this message. After `timeout` the message stays, and nobody"
        " hears its answer.",
        handle=ask,
        answers={200: ("What the code has answered.", "Reply")},
        problems=(*_PROBLEMS, "no-answer", "too-many-waits"),
        parameters=(VALUES,),
        body="Question",
        needs_body=False,
        takes_key=True,
        may_last=True,
        does_more=True,
    ),
)
