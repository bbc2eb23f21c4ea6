"""Task workers in any language: they poll a group, and say how what they got has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar, cast

from durasleep.client.client import store_of
from durasleep.codec.published import StepProgress, progress_of
from durasleep.errors import RemoteError, UsageError
from durasleep.gateway.api import calls, schema, values
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.routes import VALUES, WAIT_MAX_S, Answer, Call, Handler, Route
from durasleep.gateway.api.schema import Schema
from durasleep.gateway.api.values import Document, invalid
from durasleep.gateway.tasks.groups import TooManyGroups
from durasleep.gateway.tasks.leases import TOKEN_CHARACTERS_MAX, Failure, RetryPolicy, Token, read_token, write_token
from durasleep.gateway.tasks.lender import Asked, Leased
from durasleep.model import State, check_name
from durasleep.observe import tracing
from durasleep.traits import read_labels

T = TypeVar("T")

_TAG = "groups"
_WAIT_S = 30
_LEASE_S = 30
_LEASE_S_MAX = 86_400
_FUNCTIONS_MAX = 1_000
_NAME_MAX = 255
_FIRST = "1"


# -- handlers


async def poll(call: Call) -> Answer:
    """Wait for an execution of the group, and lease it."""
    body = call.body
    asked = Asked(
        worker=_checked("/worker", lambda: check_name(body["worker"], "worker")),
        functions=_read_functions(body),
        lease_ms=round(1000 * body.get("lease_s", _LEASE_S)),
        lent=asyncio.get_running_loop().create_future(),
    )
    group, groups = _group_of(call), call.shared.groups
    with call.shared.waits.one():
        try:
            leased = await groups.poll(group, asked, body.get("wait", _WAIT_S))
        except TooManyGroups as error:
            raise Problem("busy", str(error), headers=[("Retry-After", "60")]) from None
    if leased is None:
        return Answer(HTTPStatus.NO_CONTENT, None)
    token = leased.token
    return Answer(HTTPStatus.OK, _document(call, leased), on_unsent=lambda: groups.release_lent(token))


def _document(call: Call, leased: Leased) -> dict[str, Any]:
    record, token = leased.loaded.record, leased.token
    document = Document(as_msgpack=call.query["values"] == "msgpack")
    found: dict[str, Any] = {
        "id": record.id,
        "function": record.function,
        **document.value("args", leased.args),
        **document.value("kwargs", leased.kwargs),
        "attempt": token.attempt,
        "lost_leases": leased.lost_leases,
        "created_at_ms": record.created_ms,
        "timeout_at_ms": leased.deadline_ms or None,
        "labels": read_labels(record.labels),
        "lease": write_token(token),
        "lease_s": token.lease_ms / 1000,
    }
    if (kept := leased.loaded.checkpoints.get(_FIRST)) is not None:
        found |= document.decoded("checkpoint", call.client.codec, kept)
    if traceparent := tracing.traceparent_of(record.trace):
        found["traceparent"] = traceparent
    return {**found, **document.notes()}


async def heartbeat(call: Call) -> Answer:
    """Extend a lease, and keep what the attempt says of itself."""
    body = call.body
    token = await _token_of(call)
    checkpoint = None
    if "checkpoint" in body or "checkpoint_msgpack" in body:
        checkpoint = call.client.codec.encode(values.read_value(body, "checkpoint"), "the checkpoint")
    published = values.read_value(body, "published")
    if published is not None and not isinstance(published, dict):
        raise invalid("/published", "it must be an object")
    lent = await call.shared.groups.extend(
        token,
        published=cast("dict[str, Any] | None", published),
        progress=_read_progress(body),
        checkpoint=checkpoint,
    )
    return Answer(
        HTTPStatus.OK,
        {
            "canceled": lent.is_canceled,
            "lease_s": token.lease_ms / 1000,
            "timeout_at_ms": lent.deadline_ms or None,
        },
    )


async def complete(call: Call) -> Answer:
    """End an execution with a value."""
    token = await _token_of(call)
    state = await call.shared.groups.complete(token, values.read_value(call.body, "value"))
    return _ended(state)


async def fail(call: Call) -> Answer:
    """An attempt has failed, or has followed a cancel."""
    body, groups = call.body, call.shared.groups
    token = await _token_of(call)
    if body.get("canceled"):
        if "error" in body:
            raise invalid("/error", "give error or canceled, not both")
        return _ended(await groups.cancel(token))
    if "error" not in body:
        raise invalid("/error", "it is missing")
    said: Mapping[str, Any] = body["error"]
    details = said.get("details")
    failed = await groups.fail(
        token,
        Failure(
            RemoteError(said.get("type", "builtins.RuntimeError"), said["message"], said.get("traceback", "")),
            details="" if details is None else values.text_of(details, "/error/details"),
            retryable=body.get("retryable"),
            delay=body.get("delay"),
        ),
    )
    return _ended(failed.state, failed.next_in_ms)


def _ended(state: State, next_in_ms: int | None = None) -> Answer:
    return Answer(HTTPStatus.OK, {"state": str(state), "next_in_ms": next_in_ms})


# -- reading


def _checked(at: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except UsageError as error:
        raise invalid(at, str(error)) from None


def _group_of(call: Call) -> str:
    return _checked("/group", lambda: check_name(call.path["group"], "group"))


async def _token_of(call: Call) -> Token:
    group, store = _group_of(call), await store_of(call.client)
    return _checked("/lease", lambda: read_token(call.body["lease"], group, store))


def _read_functions(body: Mapping[str, Any]) -> dict[str, RetryPolicy | None]:
    """The functions that a worker has, with the policy of each."""
    usual = _read_policy(body.get("retry"), "/retry")
    said: list[str] | dict[str, Mapping[str, Any]] = body["functions"]
    if isinstance(said, list):
        return dict.fromkeys(said, usual)
    if not all(1 <= len(name) <= _NAME_MAX for name in said):
        raise invalid("/functions", f"the name of a function has 1 to {_NAME_MAX} characters")
    return {
        name: _read_policy(options["retry"], f"/functions/{schema.escape(name)}/retry") if "retry" in options else usual
        for name, options in said.items()
    }


def _read_policy(said: Mapping[str, Any] | None, at: str) -> RetryPolicy | None:
    if said is None:
        return None
    options: dict[str, Any] = dict(said)
    options |= {name: tuple(said[name]) for name in ("retry_on", "give_up_on") if name in said}
    policy = RetryPolicy(**options)
    _checked(at, policy.to_retry)
    return policy


def _read_progress(body: Mapping[str, Any]) -> StepProgress | None:
    said: Mapping[str, Any] | None = body.get("progress")
    if said is None:
        return None
    return _checked("/progress", lambda: progress_of(said["done"], said.get("total"), said.get("text", "")))


# -- what is declared

_NAME: Schema = schema.text("The name of a function.", minLength=1, maxLength=_NAME_MAX)
_LEASE = schema.text("The lease, as `:poll` has answered it.", minLength=1, maxLength=TOKEN_CHARACTERS_MAX)
_STATE = schema.text(
    "How the execution stands now; `pending` if another attempt follows.",
    enum=["pending", "resolved", "rejected", "canceled", "timedout"],
)

SCHEMAS: Mapping[str, Schema] = {
    "RetryPolicy": schema.body(
        "When a failed attempt is followed by another one. Without a policy there is one attempt.",
        {
            "attempts": schema.integer("How many attempts there are; by default 5.", minimum=1, maximum=1_000),
            "delay": calls.duration("The wait after the first failure; by default 1 s."),
            "backoff": {
                "type": "number",
                "minimum": 1,
                "description": "Each wait is so many times longer; by default 2.",
            },
            "delay_max": calls.duration("The longest wait; by default an hour."),
            "jitter": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "Each wait is longer by a random part of itself, at most this one; by default 0.2.",
            },
            "retry_on": schema.array(
                _NAME, "The types of errors that get another attempt; by default all.", maxItems=20
            ),
            "give_up_on": schema.array(_NAME, "The types of errors that do not.", maxItems=20),
        },
    ),
    "FunctionOptions": schema.body("What a worker says of one of its functions.", {"retry": schema.ref("RetryPolicy")}),
    "Poll": schema.body(
        "What a worker can do.",
        {
            "worker": schema.text(
                "The name of the worker, for people: ASCII letters and digits, `_`, `-` and `.`. Each process should "
                "have its own.",
                minLength=1,
                maxLength=64,
                pattern=r"^[A-Za-z0-9_.\-]+$",
            ),
            "functions": {
                "description": "The names of its functions; or an object with their options by name.",
                "anyOf": [
                    {"type": "array", "items": _NAME, "minItems": 1, "maxItems": _FUNCTIONS_MAX},
                    {
                        "type": "object",
                        "propertyNames": {"minLength": 1, "maxLength": 255},
                        "additionalProperties": schema.ref("FunctionOptions"),
                        "minProperties": 1,
                        "maxProperties": _FUNCTIONS_MAX,
                    },
                ],
            },
            "retry": schema.ref("RetryPolicy"),
            "wait": {
                "type": "number",
                "minimum": 0,
                "maximum": WAIT_MAX_S,
                "description": f"Wait so many seconds at most for an execution; by default {_WAIT_S}. With 0 only what "
                "is there now is answered, after a tenth of a second or so.",
            },
            "lease_s": {
                "type": "number",
                "minimum": 1,
                "maximum": _LEASE_S_MAX,
                "description": "Without a heartbeat for so many seconds, another worker gets it; by default "
                f"{_LEASE_S}. It is at least three seconds, or as the gateway's settings say.",
            },
        },
        required=["worker", "functions"],
    ),
    "LeasedTask": schema.record(
        "An execution that the worker has now, and nobody else.",
        {
            "id": schema.text("The id of the execution."),
            "function": schema.text("The function to call."),
            **values.answer_fields("args", "Its arguments in order."),
            **values.answer_fields("kwargs", "Its arguments by name."),
            "attempt": schema.integer("The number of this attempt: 1, and one more for each that has failed."),
            "lost_leases": schema.integer("How many workers in a row have lost this attempt, because they died."),
            "created_at_ms": schema.integer("When the execution was created, in ms since 1970."),
            "timeout_at_ms": schema.instant_ms("The deadline of the execution."),
            "labels": schema.mapping({"type": "string"}, "Names and values by which people find it."),
            "lease": schema.text("What to give with each further request about it. Only we know what it means."),
            "lease_s": {"type": "number", "description": "For how many seconds it is leased from now, or a heartbeat."},
            **values.answer_fields("checkpoint", "What the last heartbeat has kept for the next attempt, if anything."),
            "traceparent": schema.text("The trace that it belongs to, if any, as W3C Trace Context writes it."),
            **values.NOTES_FIELD,
        },
        required=[
            "id",
            "function",
            "attempt",
            "lost_leases",
            "created_at_ms",
            "timeout_at_ms",
            "labels",
            "lease",
            "lease_s",
        ],
    ),
    "Heartbeat": schema.body(
        "That a worker still has an execution.",
        {
            "lease": _LEASE,
            **values.fields("checkpoint", "What the next attempt is to find, if this one fails or its worker dies."),
            **values.fields("published", "An object with values that others may see; it replaces the one before."),
            "progress": schema.body(
                "How far it has come.",
                {
                    "done": {"type": "number", "description": "How much is done."},
                    "total": {"type": ["number", "null"], "description": "How much there is."},
                    "text": schema.text("What it does now.", maxLength=1_000),
                },
                required=["done"],
            ),
        },
        required=["lease"],
    ),
    "LeaseExtended": schema.record(
        "What the worker should know.",
        {
            "canceled": schema.boolean("Whether somebody has canceled it: clean up, then `:fail` with `canceled`."),
            "lease_s": {"type": "number", "description": "For how many seconds it is leased from now."},
            "timeout_at_ms": schema.instant_ms("The deadline of the execution."),
        },
        required=["canceled", "lease_s", "timeout_at_ms"],
    ),
    "Complete": schema.body(
        "The result of an execution.",
        {"lease": _LEASE, **values.fields("value", "The value; by default null.")},
        required=["lease"],
    ),
    "Fail": schema.body(
        "Why an attempt has no result: `error`, or `canceled`.",
        {
            "lease": _LEASE,
            "error": schema.body(
                "The error.",
                {
                    "message": schema.text("What went wrong."),
                    "type": schema.text(
                        "The name of its type, by which policies and callers know it. By default "
                        "`builtins.RuntimeError`; a Python caller that does not have it raises a RemoteError.",
                        minLength=1,
                        maxLength=255,
                    ),
                    "details": schema.anything("More for people; it is kept as text."),
                    "traceback": schema.text("Where it was raised."),
                },
                required=["message"],
            ),
            "retryable": schema.boolean(
                "False: no other attempt. True: by the usual policy of five attempts, if the function has none."
            ),
            "delay": calls.duration("Until the next attempt, if there is one; by default as the policy says."),
            "canceled": schema.boolean("It was canceled, and the worker has followed."),
        },
        required=["lease"],
    ),
    "TaskEnded": schema.record(
        "What has become of the execution.",
        {
            "state": _STATE,
            "next_in_ms": {"type": ["integer", "null"], "description": "In how many ms the next attempt may begin."},
        },
        required=["state", "next_in_ms"],
    ),
}


def _of_lease(verb: str, handle: Handler, summary: str, description: str, body: str, answer: str, *also: str) -> Route:
    return Route(
        method="POST",
        path=f"/v1/groups/{{group}}:{verb}",
        name=f"{verb}Task",
        tag=_TAG,
        summary=summary,
        description=f"{description} If the lease is lost, the answer is 409, and nothing is written.",
        handle=handle,
        answers={200: ("It is done.", answer)},
        problems=("fenced", *also),
        body=body,
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/groups/{group}:poll",
        name="pollTask",
        tag=_TAG,
        summary="Wait for a task, and lease it",
        description="The answer comes as soon as there is an execution of one of these functions. The worker has it as "
        "long as it sends heartbeats in time, through any gateway, and ends it with `:complete` or `:fail`. If this "
        "connection closes before the answer, others get it at once.",
        handle=poll,
        answers={200: ("An execution.", "LeasedTask"), 204: ("There was none in time. Poll again.", "")},
        problems=("too-many-waits", "busy"),
        parameters=(VALUES,),
        may_last=True,
        body="Poll",
    ),
    _of_lease(
        "heartbeat",
        heartbeat,
        "Extend a lease",
        "The lease lasts `lease_s` from now. Says whether the execution was canceled.",
        "Heartbeat",
        "LeaseExtended",
        "not-allowed",
    ),
    _of_lease(
        "complete",
        complete,
        "End a task with its result",
        "The same request again finds the same.",
        "Complete",
        "TaskEnded",
    ),
    _of_lease(
        "fail",
        fail,
        "Say that an attempt has failed",
        "Another attempt follows, if the retry policy of the function says so; else the execution is rejected. With "
        "`canceled`, an execution that somebody has canceled ends so. The same request again finds the same.",
        "Fail",
        "TaskEnded",
        "not-allowed",
    ),
)
