"""Arguments read from text, and results printed on stdout: text raw, anything else as JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import Any, cast

from durasleep import printable


def read_argument(text: str) -> Any:
    """JSON if it parses as JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON, whatever Python says")


def visible(text: str) -> str:
    """A text for a terminal: characters that would move its cursor, clear it or reverse its lines are shown escaped."""
    return printable.visible(text)


def data(text: str) -> None:
    """A result on stdout; a program gets it unchanged."""
    sys.stdout.write((visible(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def as_text(value: object) -> str:
    """A result: text raw, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)


def as_json(value: object) -> str:
    """One line of JSON. Instants are ISO 8601, durations seconds, bytes base64; other values are their text."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> Any:
    match value:
        case Enum():
            return _plain(value.value)
        case float() if not math.isfinite(value):
            return None  # as JavaScript does
        case str() | int() | float() | None:
            return value
        case bytes():
            return base64.b64encode(value).decode()
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {_key(key): _plain(item) for key, item in cast("Mapping[object, object]", value).items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in cast("Iterable[object]", value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return str(value)


def _key(key: object) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
