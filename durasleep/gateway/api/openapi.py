"""The OpenAPI 3.1 file, made of the routes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from durasleep import __version__
from durasleep.gateway.api import problems, schema
from durasleep.gateway.api.problems import CONTENT_TYPE, KINDS
from durasleep.gateway.api.routes import PARTS, Parameter, Route, Table
from durasleep.gateway.api.schema import Schema

_ALWAYS = (
    "unreadable",
    "unauthorized",
    "forbidden",
    "too-slow",
    "too-large",
    "media-type",
    "invalid",
    "head-too-large",
    "internal",
    "unavailable",
    "busy",
)
_TAGS = {
    "executions": "Starting, awaiting, listing and controlling executions.",
    "messages": "Messages to executions.",
    "promises": "Promises that somebody outside settles.",
    "groups": "Groups of workers, and their work.",
}
_KEY_HEADER = "IdempotencyKey"

_PROBLEM: Schema = schema.record(
    "What went wrong, RFC 9457.",
    {
        "type": schema.text(f"What kind of problem it is: `{problems.TYPES}` and a word.", format="uri"),
        "title": schema.text("The kind in a few words."),
        "status": schema.integer("The HTTP status."),
        "detail": schema.text("What is wrong here, in a sentence."),
        "instance": schema.text("The path of the request."),
        "errors": schema.array(
            schema.record(
                "What is wrong with a field.",
                {
                    "at": schema.text("A JSON pointer into the body, or `query` and the name of a parameter."),
                    "detail": schema.text("What is wrong with it."),
                },
                required=["at", "detail"],
            ),
            "The fields that cannot be used.",
        ),
        "state": schema.text("With `settled-otherwise`, how the promise has settled."),
    },
    required=["type", "title", "status", "detail"],
)


def describe(table: Table) -> dict[str, Any]:
    """The description of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in table.routes:
        operations = paths.setdefault(route.path, _parts_of(route.path))
        operations[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "durasleep",
            "version": __version__,
            "description": "Durable timers, workflows and tasks on Redis, for programs in any language. "
            "`durasleep serve` answers here.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(table.schemas.items())), "Problem": _PROBLEM},
            "parameters": {
                _KEY_HEADER: {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                    "description": "A text that this request alone has. The same request under the same key is carried "
                    "out once in a day, and gets the same answer.",
                }
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token that `durasleep serve` was started with, if it was.",
                }
            },
        },
    }


def render(table: Table) -> bytes:
    """The file."""
    return json.dumps(describe(table), ensure_ascii=False, indent=2).encode() + b"\n"


def _parts_of(path: str) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", path)
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": PARTS[name]["type"], "minLength": 1},
            "description": PARTS[name]["description"],
        }
        for name in names
    ]
    return {"parameters": parameters} if parameters else {}


def _operation(route: Route) -> dict[str, Any]:
    parameters = [_parameter(one) for one in route.parameters]
    kinds = [*_ALWAYS, *route.problems]
    if route.takes_key:
        parameters.append({"$ref": f"#/components/parameters/{_KEY_HEADER}"})
        kinds += ["in-progress", "answer-not-kept", "key-reused"]
    answers = {str(status): _answer(*answer) for status, answer in route.answers.items()}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description,
        **({"parameters": parameters} if parameters else {}),
        "responses": {**answers, **_problems(kinds)},
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.needs_body,
            "content": {"application/json": {"schema": schema.ref(route.body)}},
        }
    return operation


def _parameter(one: Parameter) -> dict[str, Any]:
    described = {name: value for name, value in one.schema.items() if name != "description"}
    if one.default is not None:
        described["default"] = one.default
    return {"name": one.name, "in": "query", "description": one.schema["description"], "schema": described}


def _answer(description: str, name: str) -> dict[str, Any]:
    if not name:
        return {"description": description}
    return {"description": description, "content": {"application/json": {"schema": schema.ref(name)}}}


def _problems(kinds: Sequence[str]) -> Mapping[str, Any]:
    by_status: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(KINDS[kind].status, []).append(kind)
    return {
        str(status): {
            "description": "; ".join(f"`{kind}`: {KINDS[kind].title.lower()}" for kind in named) + ".",
            "content": {CONTENT_TYPE: {"schema": schema.ref("Problem")}},
        }
        for status, named in sorted(by_status.items())
    }
