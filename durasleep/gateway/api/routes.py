"""Routes: what each of them takes and answers, and how a path finds its own.

A route is declared once. Requests are checked by it, and the OpenAPI file is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from durasleep.client import Client
from durasleep.gateway.api import schema
from durasleep.gateway.api.idempotency import Noted, Repeats
from durasleep.gateway.api.problems import FieldError, Problem
from durasleep.gateway.api.schema import Checker, Schema, array, integer, text
from durasleep.gateway.api.shared import Shared

_TEMPLATE = re.compile(r"\{(\w+)\}")
_QUERY_FIELDS_MAX = 100
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
WAIT_MAX_S = 60


class Answer(NamedTuple):
    """What a route has to say."""

    status: int
    document: Any
    """What is written as JSON; None for no body."""
    headers: Sequence[tuple[str, str]] = ()
    on_unsent: Callable[[], None] | None = None
    """See ``Response.on_unsent``."""


@dataclass(slots=True)
class Call:
    """One request to a route, checked by what it declares."""

    shared: Shared
    path: Mapping[str, str]
    """The parts of the path, decoded."""
    query: Mapping[str, Any]
    """The parameters of the query, as the types that they are declared with. Those left out have their defaults."""
    body: Mapping[str, Any]
    """The body; empty if there is none."""
    idempotency_key: str | None = None
    """The key of a request that may be repeated under it."""
    repeats: Repeats | None = None
    """What was done under this key; None without one."""

    @property
    def client(self) -> Client:
        """The client of the gateway."""
        return self.shared.client

    @property
    def id(self) -> str:
        """The id in the path."""
        return self.path["id"]

    async def once(self, act: Callable[[], Awaitable[Noted]]) -> Noted:
        """Do what the request asks for; or find what was done, if it was made before under its key. With a key it is
        done and noted even if the client goes away.
        """
        return await (act() if self.repeats is None else self.shared.carry_out(self.repeats.once(act)))


Handler = Callable[[Call], Awaitable[Answer]]


class Parameter(NamedTuple):
    """A parameter in the query."""

    name: str
    schema: Schema
    """A text, a whole number, a number or a boolean, or a list of texts for one that may stand several times."""
    default: Any = None


WAIT = Parameter(
    "wait",
    integer(
        "Wait for the end, at most so many seconds. The answer comes at once when it ends.",
        minimum=0,
        maximum=WAIT_MAX_S,
    ),
    0,
)
VALUES = Parameter(
    "values",
    text("How values are written: as plain JSON, or as base64 of MessagePack.", enum=["json", "msgpack"]),
    "json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    """``/v1/executions/{id}:wake``: names in braces stand for parts of any text, percent-encoded."""
    name: str
    """The name of the operation, in camelCase: generators make the names of functions from it."""
    tag: str
    summary: str
    """A few words."""
    description: str
    handle: Handler
    answers: Mapping[int, tuple[str, str]]
    """For each status that is no problem: a sentence, and the name of the schema of the answer."""
    problems: Sequence[str] = ()
    """The kinds of problems that it may answer, beside those of all routes."""
    parameters: Sequence[Parameter] = ()
    body: str | None = None
    """The name of the schema of the body; None if it takes none."""
    needs_body: bool = True
    """Whether the body may not be left out."""
    takes_key: bool = False
    """Whether it honours Idempotency-Key: what it answered first is answered again."""
    is_repeatable: bool = False
    """Whether its handler calls ``once`` itself, and makes the answer anew each time."""
    may_last: bool = False
    """Whether its body says how long it may take."""
    does_more: bool = False
    """Whether doing it again would do more. Then its key is held while nobody knows whether it was done."""


PARTS: dict[str, Schema] = {
    "id": text("The id, percent-encoded: `/` is `%2F`, and `:` is `%3A`."),
    "channel": text("The name of the channel, percent-encoded."),
    "group": text("The name of the group."),
}
"""What stands in paths."""


_NO_BODY = schema.body("Nothing: but many clients send an empty object.", {})


class _Pattern(NamedTuple):
    matches: re.Pattern[str]
    routes: dict[str, Route]


class Table:
    """All routes, and the schemas that they name."""

    def __init__(self, routes: Sequence[Route], schemas: Mapping[str, Schema]) -> None:
        self.routes = routes
        self.schemas = schemas
        self.checker = Checker(schemas)
        self._patterns: list[_Pattern] = []
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        # The longest path first: `{id}:wake` before `{id}`, which would match it, too.
        for path in sorted(by_path, key=lambda path: (path.count("/"), len(path)), reverse=True):
            self._patterns.append(_Pattern(_pattern_of(path), by_path[path]))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route for a request, and the parts of its path; Problem if there is none."""
        for pattern in self._patterns:
            match = pattern.matches.fullmatch(path)
            if match is None:
                continue
            route = pattern.routes.get(method)
            if route is None:
                allowed = ", ".join(sorted(pattern.routes))
                raise Problem(
                    "method-not-allowed", f"this path knows {allowed}, not {method}", headers=[("Allow", allowed)]
                )
            return route, {name: _decoded(part, name) for name, part in match.groupdict().items()}
        raise Problem("no-such-route", "there is no such path; /v1/openapi.json describes those that there are")

    def read_query(self, route: Route, query: str) -> dict[str, Any]:
        """The parameters of a query; Problem for one that is unknown or cannot be used."""
        try:
            given = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_FIELDS_MAX)
        except ValueError as error:
            raise Problem("unreadable", f"the query cannot be read: {error}") from None
        known = {one.name: one for one in route.parameters}
        found: dict[str, Any] = {one.name: one.default for one in route.parameters}
        errors: list[FieldError] = []
        seen: set[str] = set()
        for name, value in given:
            if name not in known:
                errors.append(FieldError(f"query {name}", f"there is no such parameter: there are {_names(known)}"))
                continue
            schema = known[name].schema
            is_list = schema["type"] == "array"
            if name in seen and not is_list:
                errors.append(FieldError(f"query {name}", "it stands twice"))
            read = _read_text(value, schema["items"] if is_list else schema)
            found[name] = [*(found[name] if name in seen else ()), read] if is_list else read
            seen.add(name)
        for name in seen:
            errors += [
                FieldError(f"query {name}", one.detail) for one in self.checker.check(found[name], known[name].schema)
            ]
        raise_invalid(errors)
        return found

    def check_body(self, route: Route, value: Any) -> Mapping[str, Any]:
        """The body of a request; Problem if it is not as the route declares it."""
        raise_invalid(self.checker.check(value, _NO_BODY if route.body is None else self.schemas[route.body]))
        return value


def raise_invalid(errors: Sequence[FieldError]) -> None:
    """Problem if there are errors in fields."""
    if errors:
        first = errors[0]
        raise Problem("invalid", f"{first.at or 'the body'}: {first.detail}", errors=errors)


def repeated(name: str, description: str, **items: Any) -> Parameter:
    """A parameter that may stand several times."""
    return Parameter(name, array({"type": "string", **items}, description), None)


def _names(known: Mapping[str, object]) -> str:
    return ", ".join(known) or "none"


def _pattern_of(path: str) -> re.Pattern[str]:
    """A pattern of the paths that a template stands for.

    No part begins with a `:`. So a path whose id was left out, such as `/v1/promises/:resolve`, is none.
    """
    pattern, end = "", 0
    for match in _TEMPLATE.finditer(path):
        pattern += f"{re.escape(path[end : match.start()])}(?P<{match[1]}>(?!:)[^/]+)"
        end = match.end()
    return re.compile(f"{pattern}{re.escape(path[end:])}")


def _decoded(part: str, name: str) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise Problem("unreadable", f"the {name} in the path is not UTF-8 in percent-encoding") from None


def _read_text(value: str, schema: Schema) -> Any:
    """A parameter as its type; the text itself if it is none of that type, so that the check refuses it."""
    match schema["type"]:
        case "integer" if re.fullmatch(r"-?\d{1,15}", value, re.ASCII):
            return int(value)
        case "number" if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", value, re.ASCII):
            return float(value)
        case "boolean":
            return _TRUTH.get(value, value)
        case _:
            return value
