"""Values in requests and answers: plain JSON, or base64 of MessagePack.

In a request a value stands in one of two fields: ``value`` as JSON, or ``value_msgpack`` as base64. In an answer it is
JSON, unless the request says ``values=msgpack``. What JSON cannot carry is written as near as it can be, and
``json_notes`` names each such place and its type.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from durasleep.codec import Codec
from durasleep.codec.packing import pack
from durasleep.codec.values import unpack
from durasleep.errors import CorruptData, DurasleepError
from durasleep.gateway.api.problems import FieldError, Problem
from durasleep.gateway.api.schema import Schema, anything, array, escape, is_unicode, ref, text

MSGPACK = "_msgpack"
NOTES = "json_notes"
_EXACT_MAX = 2**53 - 1  # larger whole numbers lose digits where numbers are doubles, as in JavaScript
_NOTES_MAX = 100
_NOTES_CHARS_MAX = 64 << 10  # of all places together
_DEPTH_MAX = 200  # json writes and reads nested lists by recursion

NOTE: Schema = {
    "type": "object",
    "description": "A place where JSON says less than the value.",
    "properties": {
        "at": text("The place, as a JSON pointer into this answer."),
        "type": text(
            "What is there: `bytes` (written as base64), `datetime`, `date`, `time` (ISO 8601), `timedelta` (seconds), "
            "`uuid`, `decimal`, `complex` (text), `set` (an array), `integer` (exact here, but beyond 2^53 - 1, so many"
            " readers round it), `nan`, `infinity`, `-infinity` (null), `key` (the name of a field that was no text), "
            "`nested` (left out, too deep for JSON), or `more` (there are more places than 100, or their"
            " names are long)."
        ),
    },
    "required": ["at", "type"],
}


def fields(name: str, description: str) -> dict[str, Schema]:
    """The fields of a value in a request."""
    return {
        name: anything(f"{description} As plain JSON."),
        f"{name}{MSGPACK}": text(f"Instead of `{name}`: base64 of it as MessagePack.", contentEncoding="base64"),
    }


def answer_fields(name: str, description: str) -> dict[str, Schema]:
    """The fields of a value in an answer."""
    return {
        name: anything(f"{description} As plain JSON; see `{NOTES}`."),
        f"{name}{MSGPACK}": text(
            f"Instead of `{name}`, with `values=msgpack`: base64 of it as MessagePack.", contentEncoding="base64"
        ),
    }


NOTES_FIELD: dict[str, Schema] = {
    NOTES: array(ref("JsonNote"), "Where JSON says less than a value; absent if nowhere. `values=msgpack` is exact.")
}


def read_json(data: bytes) -> Any:
    """What a body says; Problem with the place if it is no JSON, or if readers could disagree about it."""
    try:
        return json.loads(
            data.decode(), parse_constant=_refuse_constant, parse_float=_read_float, object_pairs_hook=_read_object
        )
    except UnicodeDecodeError as error:
        raise Problem("unreadable", f"the body is not UTF-8: byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Problem("unreadable", f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise Problem("unreadable", "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem("unreadable", f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; send null, or the value as MessagePack")


def _read_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is beyond the largest double")
    return number


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {json.dumps(twice[:40])} stands twice in one object")
    return found


def read_value(body: Mapping[str, Any], name: str, default: Any = None, at: str = "") -> Any:
    """The value that stands in one of its two fields; Problem if it stands in both, or is no MessagePack.

    ``at`` is the JSON pointer of ``body``.
    """
    packed = body.get(f"{name}{MSGPACK}")
    if packed is None:
        return body.get(name, default)
    if name in body:
        raise invalid(f"{at}/{name}", f"give {name} or {name}{MSGPACK}, not both")
    return from_msgpack(packed, f"{at}/{name}{MSGPACK}")


def invalid(at: str, detail: str) -> Problem:
    """That a field cannot be used."""
    return Problem("invalid", f"{at}: {detail}" if at else detail, errors=[FieldError(at, detail)])


def from_msgpack(packed: str, at: str) -> Any:
    """The value of a text of base64; Problem if it is none."""
    try:
        payload = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(at, "it is not base64") from None
    try:
        return unpack(payload)
    except CorruptData as error:
        raise invalid(at, f"it is not MessagePack: {error}") from None


def text_of(value: object, at: str) -> str:
    """A value for people: a text, or the JSON of another value. Problem if it cannot be sent on."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not is_unicode(text):
        raise invalid(at, "it is not valid Unicode")
    return text


def to_msgpack(value: object) -> str:
    """Base64 of a value as MessagePack."""
    return base64.b64encode(pack(value, "the value", None)).decode()


class Document:
    """Makes one answer, with values of users in it."""

    def __init__(self, *, as_msgpack: bool = False) -> None:
        self._as_msgpack = as_msgpack
        self._notes: list[dict[str, str]] = []
        self._noted_chars = 0
        self._path: list[str | int] = []
        """Where we are: the place of the value, and then the names and numbers on the way down. A pointer is made of it
        only where there is something to note, since names may be long, and below them may be much.
        """

    def value(self, name: str, value: object, at: str = "") -> dict[str, Any]:
        """The field of a value; ``at`` is the JSON pointer of the object that it is a part of."""
        if self._as_msgpack:
            return {f"{name}{MSGPACK}": to_msgpack(value)}
        return {name: self.plain(value, f"{at}/{name}")}

    def plain(self, value: object, at: str) -> Any:
        """A value as JSON has it; ``at`` is its JSON pointer in the answer."""
        self._path = [at]
        return self._plain(value)

    def decoded(self, name: str, codec: Codec, payload: bytes, at: str = "") -> dict[str, Any]:
        """The field of a value that is kept; ``<name>_unreadable`` says why, if it cannot be read here."""
        try:
            return self.value(name, codec.decode(payload), at)
        except (DurasleepError, TypeError, ValueError) as error:
            return {f"{name}_unreadable": str(error)}

    def notes(self) -> dict[str, Any]:
        """The field that says where JSON says less; empty if nowhere."""
        return {NOTES: self._notes} if self._notes else {}

    def _plain(self, value: object) -> Any:
        if is_exact(value):
            return value
        match value:
            case bool():
                return bool(value)
            case str():
                return str(value)
            case int():
                return int(value) if abs(value) <= _EXACT_MAX else self._noted(int(value), "integer")
            case float():
                return float(value) if math.isfinite(value) else self._noted(None, _name_of(value))
            case _ if len(self._path) - 1 > _DEPTH_MAX:
                return self._noted(None, "nested")
            case dict():
                return self._plain_map(cast("dict[Any, Any]", value))
            case list() | tuple():
                return self._plain_items(cast("Iterable[Any]", value))
            case set() | frozenset():
                return self._noted(self._plain_items(cast("Iterable[Any]", value)), "set")
            case _:
                return self._plain_other(value)

    def _plain_items(self, items: Iterable[Any]) -> list[Any]:
        found: list[Any] = []
        for index, item in enumerate(items):
            if is_exact(item):  # most items need no look, and a value may have a million of them
                found.append(item)
                continue
            self._path.append(index)
            found.append(self._plain(item))
            self._path.pop()
        return found

    def _plain_map(self, value: dict[Any, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(key, str) and is_exact(item):
                found[key] = item
                continue
            name = key if isinstance(key, str) else _text_of(key)
            self._path.append(name)
            if not isinstance(key, str):
                self._noted(None, "key")
            found[name] = self._plain(item)
            self._path.pop()
        return found

    def _plain_other(self, value: object) -> Any:
        for kind, name, write in _WRITTEN:
            if isinstance(value, kind):
                return self._noted(write(value), name)
        return self._noted(str(value), type(value).__name__.lower())

    def _noted(self, written: Any, kind: str) -> Any:
        if len(self._notes) > _NOTES_MAX or self._noted_chars > _NOTES_CHARS_MAX:
            return written  # it says already that there are more
        root, *parts = self._path
        at = "/".join((str(root), *(escape(str(part)) for part in parts)))
        self._noted_chars += len(at)
        if len(self._notes) < _NOTES_MAX and self._noted_chars <= _NOTES_CHARS_MAX:
            self._notes.append({"at": at, "type": kind})
        else:
            self._notes.append({"at": "", "type": "more"})
        return written


def is_exact(value: object) -> bool:
    """Whether JSON has the value as it is; false also if that needs a closer look."""
    if type(value) is int:
        return -_EXACT_MAX <= value <= _EXACT_MAX
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) is str or type(value) is bool


def _name_of(number: float) -> str:
    return "nan" if math.isnan(number) else "infinity" if number > 0 else "-infinity"


def _text_of(key: object) -> str:
    """The name for a key that is no text."""
    return json.dumps(Document().plain(key, ""), ensure_ascii=False)


_WRITTEN: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (bytes, "bytes", lambda value: base64.b64encode(value).decode()),
    (datetime, "datetime", lambda value: value.isoformat()),
    (date, "date", lambda value: value.isoformat()),
    (time, "time", lambda value: value.isoformat()),
    (timedelta, "timedelta", lambda value: value.total_seconds()),
    (UUID, "uuid", str),
    (Decimal, "decimal", str),
    (complex, "complex", str),
)


def dump(document: object) -> bytes:
    """An answer as bytes."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
