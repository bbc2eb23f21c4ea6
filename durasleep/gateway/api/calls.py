"""What a request says of an execution that is to begin: its function, arguments and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from durasleep.client import Client
from durasleep.client.client import Caller
from durasleep.errors import UsageError
from durasleep.gateway.api import schema, values
from durasleep.gateway.api.schema import Schema
from durasleep.gateway.api.values import invalid

_DATE = re.compile(r"\d{4}-\d\d|\d{8}T")
DURATION: Schema = {"type": ["number", "string"]}


def duration(description: str) -> Schema:
    """A duration."""
    return {**DURATION, "description": f'{description} Seconds, or text such as `"1h30m"`.'}


OPTIONS: dict[str, Schema] = {
    "target": schema.text(
        'Who runs it: a group, `"gpu"` or `"poll://any@gpu"`, or one worker of it, `"poll://uni@gpu/w1"`. By default '
        "the group of the application that the gateway was started with, else `workers`."
    ),
    "delay": duration("It starts after this time, or at an instant such as `2027-03-01T12:00:00Z`."),
    "timeout": duration("Its deadline, from now; then it is `timedout`. By default there is none."),
    "retention": duration('How long it is kept after its end; also `"forever"`. By default as in the settings.'),
    "priority": schema.integer("1 comes first, 5 last; by default that of its function, or 3.", minimum=1, maximum=5),
    "labels": schema.mapping({"type": "string"}, "Names and values by which people find it.", maxProperties=8),
    "key": schema.text(
        "For whom it is, where the limit of its function counts by key. By default what the function makes of its "
        "arguments, if the gateway has the application."
    ),
    "if_finished": schema.text(
        "If the execution of this id has ended: answer its result, which is the default, or start it anew.",
        enum=["attach", "start"],
    ),
    "debounce": {
        "description": "It starts so long after the last of several calls under its id, with the arguments of that one."
        " Of two durations, the second one is the longest time after the first call.",
        "anyOf": [DURATION, {"type": "array", "items": DURATION, "minItems": 2, "maxItems": 2}],
    },
    "min_replicas": schema.integer("Answer once so many replicas have received it.", minimum=0, maximum=100),
    "fsync": schema.boolean("Answer once the server's disk has it."),
}

_ARGS = "args"
_KWARGS = "kwargs"


def call_schema(description: str, *, with_kwargs: bool = True, also: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of a call."""
    arguments = {
        _ARGS: schema.array({}, "The arguments, in order, as plain JSON."),
        "args_msgpack": schema.text("Instead of `args`: base64 of a MessagePack array.", contentEncoding="base64"),
    }
    named = {
        _KWARGS: schema.mapping({}, "The arguments by name, as plain JSON."),
        "kwargs_msgpack": schema.text("Instead of `kwargs`: base64 of a MessagePack map.", contentEncoding="base64"),
    }
    return schema.body(
        description,
        {
            "function": schema.text("The name of a workflow or task.", minLength=1, maxLength=255),
            **arguments,
            **(named if with_kwargs else {}),
            **OPTIONS,
            **(also or {}),
        },
        required=["function"],
    )


def caller(client: Client, body: Mapping[str, Any], at: str = "") -> Caller:
    """The verbs of a client with the options in a body; Problem for those that cannot be used.

    ``at`` is the JSON pointer of ``body``.
    """
    given = {name: body[name] for name in OPTIONS if name in body}
    options: dict[str, Any] = {**given}
    if "delay" in given:
        options["delay"] = read_instant(given["delay"], f"{at}/delay")
    if isinstance(given.get("debounce"), list):
        options["debounce"] = tuple(given["debounce"])
    for name in ("priority", "min_replicas"):
        if name in given:
            options[name] = int(given[name])  # JSON may write 3 as 3.0
    for name in given:  # one by one first: the error names its field
        try:
            client.options(**{name: options[name]})
        except UsageError as error:
            raise invalid(f"{at}/{name}", str(error)) from None
    try:
        return client.options(**options)
    except UsageError as error:
        raise invalid(at, str(error)) from None


def read_instant(given: Any, at: str) -> Any:
    """An instant of ISO 8601; anything else is a duration, or nothing. Problem for an instant that cannot be used."""
    if not isinstance(given, str) or not _DATE.match(given):
        return given
    try:
        instant = datetime.fromisoformat(given)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise invalid(at, "write an instant with its date, time and zone, such as 2027-03-01T12:00:00Z")
    return instant


def read_arguments(body: Mapping[str, Any], at: str = "") -> tuple[list[Any], dict[str, Any]]:
    """The arguments in a body: those in order, and those by name."""
    args = values.read_value(body, _ARGS, [], at)
    kwargs = values.read_value(body, _KWARGS, {}, at)
    if not isinstance(args, list | tuple):
        raise invalid(f"{at}/args_msgpack", "it is not an array")
    if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in cast("dict[Any, Any]", kwargs)):
        raise invalid(f"{at}/kwargs_msgpack", "it is not a map with names")
    return list(cast("list[Any]", args)), cast("dict[str, Any]", kwargs)
