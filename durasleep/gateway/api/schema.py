"""JSON Schema: the few words of it that describe our requests and answers, and a check of requests by them.

The check and the OpenAPI file read the same schemas, so they cannot differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from durasleep.gateway.api.problems import ERRORS_MAX, FieldError

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_PART_MAX = 100  # characters of a name that an error shows
_HALF = re.compile("[\ud800-\udfff]")
_TYPE_NAMES = {
    "object": "an object",
    "array": "an array",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def text(description: str, **more: Any) -> Schema:
    """A text."""
    return {"type": "string", "description": description, **more}


def integer(description: str, **more: Any) -> Schema:
    """A whole number."""
    return {"type": "integer", "description": description, **more}


def boolean(description: str, **more: Any) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": description, **more}


def instant_ms(description: str) -> Schema:
    """An instant."""
    return {"type": ["integer", "null"], "description": f"{description} In ms since 1970; null for never."}


def array(items: Schema, description: str, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "description": description, **more}


def mapping(values: Schema, description: str, **more: Any) -> Schema:
    """An object with any names."""
    return {"type": "object", "additionalProperties": values, "description": description, **more}


def record(description: str, properties: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    """An object of an answer: later versions may add fields."""
    return {"type": "object", "description": description, "properties": dict(properties), "required": list(required)}


def body(description: str, properties: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    """An object of a request: a name that it does not have is refused."""
    return {**record(description, properties, required=required), "additionalProperties": False}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    kinds = cast("list[str]", schema["type"] if isinstance(schema["type"], list) else [schema["type"]])
    return {**schema, "type": [*kinds, "null"]}


def anything(description: str) -> Schema:
    """Any JSON value."""
    return {"description": description}


def ref(name: str) -> Schema:
    """The schema of this name."""
    return {"$ref": f"{_REF}{name}"}


class Checker:
    """Checks values by schemas, of which some have names."""

    def __init__(self, named: Mapping[str, Schema]) -> None:
        self._named = named

    def resolve(self, schema: Schema) -> Schema:
        """The schema itself, if it is only the name of one."""
        return self._named[schema["$ref"].removeprefix(_REF)] if "$ref" in schema else schema

    def check(self, value: Any, schema: Schema, at: str = "") -> list[FieldError]:
        """What is wrong with a value, with its place as a JSON pointer; empty if nothing is.

        It looks no further than an answer tells, and long names are cut off.
        """
        schema = self.resolve(schema)
        if "anyOf" in schema:
            found = [self.check(value, one, at) for one in schema["anyOf"]]
            if not all(found):
                return []
            return min(found, key=lambda errors: (errors[0].at == at, len(errors)))  # one that fits in part
        kinds = schema.get("type")
        if kinds is not None:
            allowed = [kinds] if isinstance(kinds, str) else cast("list[str]", kinds)
            if not any(_is_of(value, kind) for kind in allowed):
                return [FieldError(at, f"it must be {' or '.join(_TYPE_NAMES[kind] for kind in allowed)}")]
        if "enum" in schema and value not in schema["enum"]:
            return [FieldError(at, f"it must be {' or '.join(map(repr, schema['enum']))}")]
        match value:
            case str():
                return _check_text(value, schema, at)
            case bool() | None:
                return []
            case int() | float():
                return _check_number(value, schema, at)
            case list():
                return self._check_items(cast("list[Any]", value), schema, at)
            case dict():
                return self._check_fields(cast("dict[str, Any]", value), schema, at)
            case _:
                return []

    def _check_items(self, value: list[Any], schema: Schema, at: str) -> list[FieldError]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not least <= len(value) <= most:
            return [FieldError(at, _range("items", least, most))]
        items: Schema = schema.get("items", {})
        if not items:  # anything: a list of users may be long
            return []
        errors: list[FieldError] = []
        for index, one in enumerate(value):
            errors += self.check(one, items, f"{at}/{index}")
            if len(errors) >= ERRORS_MAX:
                break
        return errors

    def _check_fields(self, value: dict[str, Any], schema: Schema, at: str) -> list[FieldError]:
        known: Mapping[str, Schema] = schema.get("properties", {})
        errors = [
            FieldError(f"{at}/{name}", "it is missing") for name in schema.get("required", ()) if name not in value
        ]
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        if not least <= len(value) <= most:
            return [FieldError(at, _range("fields", least, most))]
        others: bool | Schema = schema.get("additionalProperties", True)
        if others in (True, {}) and not known:
            return errors
        for name, one in value.items():
            if len(errors) >= ERRORS_MAX:
                break
            below = f"{at}/{escape(name if len(name) <= _PART_MAX else f'{name[:_PART_MAX]}…')}"
            if not is_unicode(name):
                shown = below.encode("ascii", "backslashreplace").decode()
                errors.append(FieldError(shown, "the name is not valid Unicode"))
            elif name in known:
                errors += self.check(one, known[name], below)
            elif wrong := self.check(name, schema.get("propertyNames", {}), below):
                errors += wrong
            elif others is False:
                errors.append(FieldError(below, f"there is no such field: there are {', '.join(known) or 'none'}"))
            elif isinstance(others, dict):
                errors += self.check(one, cast("Schema", others), below)
        return errors


def is_unicode(text: str) -> bool:
    """Whether a text can be sent: JSON may say half of a character that needs two."""
    return text.isascii() or not _HALF.search(text)


def escape(name: str) -> str:
    """A name as a part of a JSON pointer, RFC 6901."""
    return name.replace("~", "~0").replace("/", "~1")


def _is_of(value: Any, kind: str) -> bool:
    match kind:
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "integer":
            is_whole = isinstance(value, float) and value.is_integer()
            return (isinstance(value, int) or is_whole) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return value is None


def _check_text(value: str, schema: Schema, at: str) -> list[FieldError]:
    if not is_unicode(value):
        return [FieldError(at, "it is not valid Unicode")]
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if not least <= len(value) <= most:
        return [FieldError(at, _range("characters", least, most))]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [FieldError(at, f"it does not match {schema['pattern']}")]
    return []


def _check_number(value: float, schema: Schema, at: str) -> list[FieldError]:
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    return [] if least <= value <= most else [FieldError(at, f"it must be {_from_to(least, most)}")]


def _range(what: str, least: float, most: float) -> str:
    return f"it must have {_from_to(least, most)} {what}"


def _from_to(least: float, most: float) -> str:
    if most == math.inf:
        return f"at least {least}"
    return f"at most {most}" if least == -math.inf else f"{least} to {most}"
