"""The routes of executions, as they are declared."""

from __future__ import annotations

from collections.abc import Mapping

from durasleep.gateway.api import calls, executions, schema, values
from durasleep.gateway.api.outcomes import OUTCOME_FIELDS, STATE
from durasleep.gateway.api.routes import VALUES, WAIT, Handler, Parameter, Route, repeated
from durasleep.gateway.api.schema import Schema
from durasleep.model import Disposition
from durasleep.query.statuses import STATUSES

_TAG = "executions"
_NAME_OR_NULL: Schema = {"type": ["string", "null"]}

_PENDING_FIELDS: dict[str, Schema] = {
    "id": schema.text("The id by which it can be controlled."),
    "kind": schema.text("`timer`, `promise`, `step`, `child`, `receive`, `send` or `settle`."),
    "name": schema.text("The name that the code gave it, or that of its function or channel; else empty."),
    "due_ms": schema.instant_ms("When it is due or times out."),
    "since_ms": schema.integer("Since when it is waited for, in ms since 1970."),
    "to": {**_NAME_OR_NULL, "description": "For whom a message is, or which promise is settled."},
}
_FAILED_FIELDS: dict[str, Schema] = {
    "id": schema.text("The id of the call."),
    "name": schema.text("The name of the function."),
    "error": schema.text("The error, with its type."),
    "at_ms": schema.integer("When it was journaled, in ms since 1970."),
}
_PROGRESS: Schema = {
    "anyOf": [schema.ref("Progress"), {"type": "null"}],
    "description": "How far it has come, if it says so.",
}
_UNREAD: Schema = {
    "anyOf": [schema.ref("Unread"), {"type": "null"}],
    "description": "The messages that its code has not asked for.",
}
_PLACE_FIELDS: dict[str, Schema] = {
    "id": schema.text("Its id."),
    "function": schema.text("The name of its function."),
    "group": schema.text("The group whose workers run it."),
    "state": STATE,
    "status": schema.text("`queued`, `running`, `suspended`, `delayed`, `parked`, `halted` or `done`."),
    "created_at_ms": schema.integer("When it was created, in ms since 1970."),
    "timeout_at_ms": schema.instant_ms("When its deadline passes."),
    "settled_at_ms": schema.instant_ms("When it ended."),
    "reason": {**_NAME_OR_NULL, "description": "Why it is where it is, for example halted."},
    "worker": {**_NAME_OR_NULL, "description": "The name of the worker that runs it."},
    "priority": schema.integer("From 1, which comes first, to 5."),
    "labels": schema.mapping({"type": "string"}, "Names and values by which people find it."),
    "limit": {**_NAME_OR_NULL, "description": "The name of the limit that counts it."},
}
_EXECUTION_FIELDS: dict[str, Schema] = {
    **_PLACE_FIELDS,
    "kind": schema.text("`execution`."),
    **OUTCOME_FIELDS,
    **values.answer_fields("args", "Its arguments in order, as they were sent; absent if they cannot be read here."),
    **values.answer_fields("kwargs", "Its arguments by name; absent if they cannot be read here."),
    "crash_count": schema.integer("Workers in a row that died while they ran it."),
    "waiting_on": schema.array(schema.ref("Pending"), "What it waits for, soonest due first."),
    "failed_attempts": schema.array(schema.ref("FailedAttempt"), "Its latest failed attempts, oldest first."),
    "since_ms": schema.integer("Since when it is in its present place, in ms since 1970."),
    "limit_key": {**_NAME_OR_NULL, "description": "Its key in the limit."},
    "place_in_line": {
        "type": ["integer", "null"],
        "description": "If it is parked: how many of its key begin before it, plus one.",
    },
    "limit_paused_since_ms": schema.instant_ms("If it is parked: since when its limit is paused."),
    "paused_since_ms": schema.instant_ms("If it waits for a worker: since when its group is paused."),
    "paused_by": {**_NAME_OR_NULL, "description": "Who has paused the group."},
    "is_unserved": schema.boolean("Whether it waits for a worker, and none that may run it is alive."),
    "forked_from": {**_NAME_OR_NULL, "description": "The id of the execution that it is a fork of."},
    "unread": _UNREAD,
}
_OPTIONAL = {*OUTCOME_FIELDS, "args", "args_msgpack", "kwargs", "kwargs_msgpack"} - {"state"}

_CALL_FIELDS: dict[str, Schema] = {
    "number": schema.text("Its number in the journal; of a step that of the first attempt."),
    "id": schema.text("Its id."),
    "kind": schema.text("`step`, `timer`, `child`, `promise`, `receive`, `send`, `settle` and others."),
    "name": schema.text("Its function, its channel, or the name that the code gave it; else empty."),
    "state": STATE,
    "began_at_ms": schema.integer("When it was made, in ms since 1970."),
    "is_exact": schema.boolean("Whether `began_at_ms` is known to a ms; else it is when the execution began."),
    "ended_at_ms": schema.instant_ms("When it settled."),
    "due_at_ms": schema.instant_ms("While it is pending, when it is due or times out."),
    "late_ms": schema.integer("For how long a pending one is overdue; else 0."),
    "attempts": schema.integer("How often a step was called; else 1."),
    "error": {**_NAME_OR_NULL, "description": "Why it failed."},
    "to": {**_NAME_OR_NULL, "description": "For whom a message is, or which promise is settled."},
    "took_ms": {"type": ["integer", "null"], "description": "How long it took; null while it is pending."},
    **values.answer_fields("value", "What it returned, if `with_values` asks for it."),
}
_GROUP_FIELDS: dict[str, Schema] = {
    "name": schema.text("Its name."),
    "workers": schema.array({"type": "string"}, "Names of its workers that are alive."),
    "queued": schema.integer("How many of its executions wait for a worker, or run."),
    "paused_since_ms": schema.instant_ms("Since when it is paused."),
    "paused_by": {**_NAME_OR_NULL, "description": "Who has paused it."},
    "unaware": schema.array({"type": "string"}, "Workers too old to know of pauses: they go on."),
}
_VIEW_HEAD: dict[str, Schema] = {
    **values.answer_fields("values", "What the workflow or task publishes, by name."),
    "progress": _PROGRESS,
}

SCHEMAS: Mapping[str, Schema] = {
    "Start": calls.call_schema("An execution that is to begin."),
    "Started": schema.record(
        "What was found or begun under an id, and how it stands.",
        {
            "id": schema.text("The id."),
            "disposition": schema.text(
                "`created`: it has begun. `attached`: it was there, and goes on. `finished`: it had ended. `debounced`:"
                " a pending start was put off. `dropped`: the limit of the function had no room; nothing was made.",
                enum=[str(one) for one in Disposition],
            ),
            **OUTCOME_FIELDS,
            "state": {"anyOf": [STATE, {"type": "null"}], "description": "The state; null if it was dropped."},
        },
        required=["id", "disposition", "state"],
    ),
    "Execution": schema.record(
        "Everything there is to see of an execution.",
        _EXECUTION_FIELDS,
        required=[name for name in _EXECUTION_FIELDS if name not in _OPTIONAL],
    ),
    "Pending": schema.record("Something that an execution waits for.", _PENDING_FIELDS, required=[*_PENDING_FIELDS]),
    "FailedAttempt": schema.record("A call that raised.", _FAILED_FIELDS, required=[*_FAILED_FIELDS]),
    "Summary": schema.record(
        "One execution in a list.",
        {
            **_PLACE_FIELDS,
            "due_at_ms": schema.instant_ms("When its earliest timer ends, if the search has found one."),
            "error": {**_NAME_OR_NULL, "description": "Why it has failed: a word or a sentence."},
            "target_worker": {**_NAME_OR_NULL, "description": "The only worker that may run it."},
            "channels": schema.array({"type": "string"}, "The channels on which it waits for a message."),
        },
        required=[*_PLACE_FIELDS, "due_at_ms", "error", "target_worker", "channels"],
    ),
    "Found": schema.record(
        "A page of a list.",
        {
            "executions": schema.array(
                schema.ref("Summary"), "What was found. It may be empty although there is more."
            ),
            "cursor": {**_NAME_OR_NULL, "description": "For the next page; null after the last one."},
            "is_all": schema.boolean("Whether nothing was left out, here and on the pages before."),
            "notes": schema.array({"type": "string"}, "Notes for people."),
            "looked_at": schema.integer("How many executions were looked at, if no index has helped; else 0."),
        },
        required=["executions", "cursor", "is_all", "notes", "looked_at"],
    ),
    "View": schema.record(
        "What an execution publishes.",
        {
            "id": schema.text("The id."),
            "state": STATE,
            **_VIEW_HEAD,
            "steps": schema.mapping(
                schema.ref("StepView"), "What its steps publish, by the numbers of their first attempts."
            ),
            **values.NOTES_FIELD,
        },
        required=["id", "state", "progress", "steps"],
    ),
    "Progress": schema.record(
        "How far something has come.",
        {
            "done": {"type": "number", "description": "How much is done."},
            "total": {"type": ["number", "null"], "description": "How much there is."},
            "text": schema.text("What it does now."),
        },
        required=["done", "total", "text"],
    ),
    "Unread": schema.record(
        "Messages that nobody has asked for.",
        {
            "messages": schema.integer("How many there are."),
            "bytes": schema.integer("The size of all of them."),
            "channels": schema.mapping({"type": "integer"}, "How many there are of each channel."),
        },
        required=["messages", "bytes", "channels"],
    ),
    "StepView": schema.record(
        "What a step publishes.",
        {**_VIEW_HEAD, "at_ms": schema.integer("When it published last, in ms since 1970.")},
        required=["progress", "at_ms"],
    ),
    "HistoryCall": schema.record(
        "One durable call.", _CALL_FIELDS, required=[name for name in _CALL_FIELDS if not name.startswith("value")]
    ),
    "Group": schema.record("A group.", _GROUP_FIELDS, required=[*_GROUP_FIELDS]),
    "History": schema.record(
        "What an execution has called.",
        {
            "id": schema.text("The id."),
            "at_ms": schema.integer("When it was read, in ms since 1970."),
            "calls": schema.array(schema.ref("HistoryCall"), "The calls, in the order in which the code made them."),
            "total": schema.integer("How many there are, also those that are not shown."),
            **values.NOTES_FIELD,
        },
        required=["id", "at_ms", "calls", "total"],
    ),
    "Groups": schema.record(
        "The groups that have workers or work, or are paused.",
        {"groups": schema.array(schema.ref("Group"), "The groups, by name.")},
        required=["groups"],
    ),
    "Controlled": schema.record(
        "What was done.",
        {
            "id": schema.text("The id."),
            "word": schema.text("What happened."),
            "state": {**STATE, "description": "The state after that; of `wake` and `reschedule` that of the timer."},
        },
        required=["id", "word", "state"],
    ),
    "Cancel": schema.body(
        "How to cancel.", {"force": schema.boolean("End it without running its code again; by default false.")}
    ),
    "Halt": schema.body("Why it is halted.", {"reason": schema.text("Shown to people.", minLength=1, maxLength=1_000)}),
    "Reschedule": schema.body(
        "The new time.",
        {"due": calls.duration("From now; or an instant such as `2027-03-01T12:00:00Z`.")},
        required=["due"],
    ),
}

_STARTED = {
    201: ("It has begun.", "Started"),
    200: ("Something was there under this id; see `disposition`.", "Started"),
}
_START_PROBLEMS = (
    "invalid",
    "other-function",
    "not-allowed",
    "limit-full",
    "too-large",
    "too-many-waits",
    "unconfirmed",
    "unsupported",
)


def _control(
    verb: str,
    handle: Handler,
    summary: str,
    description: str,
    body: str | None = None,
    *,
    needs_body: bool = False,
    does_more: bool = False,
) -> Route:
    return Route(
        method="POST",
        path=f"/v1/executions/{{id}}:{verb}",
        name=f"{verb}Execution",
        tag=_TAG,
        summary=summary,
        description=description,
        handle=handle,
        answers={200: ("What was done; `word` says it.", "Controlled")},
        problems=("not-found", "not-allowed", "invalid"),
        body=body,
        needs_body=needs_body,
        takes_key=True,
        does_more=does_more,
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/executions",
        name="searchExecutions",
        tag=_TAG,
        summary="List executions",
        description="Executions by status, group, function and labels. By default those that have not ended. Repeat the"
        " same parameters with the `cursor` of the answer for the next page; `limit` may change.",
        handle=executions.search,
        answers={200: ("A page of what was found.", "Found")},
        problems=("invalid", "cursor-gone"),
        parameters=(
            repeated("status", "Only those in one of these statuses. May stand several times.", enum=[*STATUSES]),
            Parameter("group", schema.text("Only those of this group.")),
            Parameter("function", schema.text("Only those of this function.")),
            repeated("label", "Only those with this label, `NAME=VALUE`. May stand several times."),
            Parameter("since", schema.text("Only those made in this time, such as `1h`, or since an instant.")),
            Parameter("limit", schema.integer("At most so many on a page.", minimum=1, maximum=1_000), 100),
            Parameter("cursor", schema.text("Where the page before has ended.", maxLength=100)),
        ),
    ),
    Route(
        method="POST",
        path="/v1/executions",
        name="startNewExecution",
        tag=_TAG,
        summary="Start an execution under a new id",
        description="The id is made here. With an Idempotency-Key it is made of that and of the request, so a repeated "
        "request finds the same execution.",
        handle=executions.start_new,
        answers={201: _STARTED[201], 200: ("It was dropped, because a limit had no room.", "Started")},
        problems=_START_PROBLEMS,
        parameters=(WAIT, VALUES),
        body="Start",
        takes_key=True,
        is_repeatable=True,
    ),
    Route(
        method="POST",
        path="/v1/executions/{id}",
        name="startExecution",
        tag=_TAG,
        summary="Start an execution, or attach to it",
        description="The same id is the same execution: a repeated request finds it. With `wait` the answer has its "
        "result, if it ends in this time.",
        handle=executions.start,
        answers=_STARTED,
        problems=_START_PROBLEMS,
        parameters=(WAIT, VALUES),
        body="Start",
        takes_key=True,
        is_repeatable=True,
    ),
    Route(
        method="GET",
        path="/v1/executions/{id}",
        name="getExecution",
        tag=_TAG,
        summary="Describe an execution, or wait for its result",
        description="Its state, result or error, and what it waits for. With `wait` the answer comes when it ends, and "
        "after this time at the latest.",
        handle=executions.get,
        answers={200: ("The execution as it is now.", "Execution")},
        problems=("not-found", "invalid", "too-many-waits"),
        parameters=(WAIT, VALUES),
    ),
    Route(
        method="GET",
        path="/v1/executions/{id}/view",
        name="viewExecution",
        tag=_TAG,
        summary="Show what an execution publishes",
        description="What it has published, and how far it has come. No code of it runs.",
        handle=executions.view,
        answers={200: ("What it publishes now.", "View")},
        problems=("not-found", "invalid"),
        parameters=(VALUES,),
    ),
    Route(
        method="GET",
        path="/v1/executions/{id}/history",
        name="getHistory",
        tag=_TAG,
        summary="List what an execution has called",
        description="Its steps, timers, children and messages, with their times and what came of them.",
        handle=executions.history,
        answers={200: ("The last calls.", "History")},
        problems=("not-found", "invalid"),
        parameters=(
            Parameter("limit", schema.integer("The last so many calls.", minimum=1, maximum=1_000), 100),
            Parameter("with_values", schema.boolean("Whether to show what each call returned."), default=False),
            VALUES,
        ),
    ),
    _control(
        "wake",
        executions.wake,
        "End a sleep now",
        "Ends the only sleep that it waits for, or starts a delayed execution now. `word` is `woken` or `already`.",
        does_more=True,
    ),
    _control(
        "reschedule",
        executions.reschedule,
        "Move a timer",
        "Moves its only timer, its deadline or its delayed start. `word` is `rescheduled` or `already`.",
        "Reschedule",
        needs_body=True,
        does_more=True,
    ),
    _control(
        "cancel",
        executions.cancel,
        "Cancel an execution",
        "Its code is canceled, and may clean up. `word` is `canceling`, `canceled`, `canceled while delayed`, `canceled"
        " while halted` or `already`.",
        "Cancel",
    ),
    _control(
        "halt",
        executions.halt,
        "Halt an execution",
        "Stops it where it is, until it is resumed. `word` is `halted` or `already`.",
        "Halt",
    ),
    _control(
        "resume",
        executions.resume,
        "Resume a halted execution",
        "`word` is `resumed`, `running` or `already`.",
        does_more=True,
    ),
    _control(
        "retry",
        executions.retry,
        "Run a failed execution again",
        "Runs it again from its beginning, with its arguments. `word` is `retrying`, `running` or `halted`.",
        does_more=True,
    ),
    Route(
        method="GET",
        path="/v1/groups",
        name="listGroups",
        tag="groups",
        summary="List groups",
        description="The groups that have workers or work, or are paused.",
        handle=executions.groups,
        answers={200: ("The groups, by name.", "Groups")},
    ),
)
