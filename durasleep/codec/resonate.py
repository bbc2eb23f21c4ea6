"""Values as the SDKs of Resonate write them: base64 of JSON, in the ``data`` of a promise's ``param`` or ``value``.

What goes there must be plain JSON: nothing may change on its way to another language.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from durasleep.codec.codec import Codec
from durasleep.codec.exceptions import shorten
from durasleep.codec.packing import name_arguments
from durasleep.errors import Canceled, NotSerializable, RemoteError, TimedOut, UsageError
from durasleep.model import State

Value = dict[str, Any]
"""A ``param`` or ``value`` of a promise."""

_VERSION = 1  # of a function, in a call that names none
_DEPTH_MAX = 100  # of lists and dicts in each other
_INT_MAX = (1 << 53) - 1  # JavaScript rounds larger numbers
_TEXT_MAX = 8_192  # of a message of an error
_PLAIN = (
    "what goes to another language is plain JSON: text, finite numbers (whole ones less than 2^53), true, false, null, "
    "lists, and dicts whose keys are text"
)


class _NotPlain(Exception):
    """Where a value is not plain JSON, and what is there."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path = path
        self.what = what


def encode_call(function: str, args: Sequence[object], kwargs: Mapping[str, object]) -> Value:
    """The ``param`` of a promise that stands for a call; NotSerializable names an argument that is no plain JSON."""
    for name, value in name_arguments(args, dict(kwargs)):
        _check(value, f"argument {name} of {function}")
    return _encode({"func": function, "args": list(args), "kwargs": dict(kwargs), "version": _VERSION})


def decode_call(param: Value) -> tuple[str, list[Any], dict[str, Any]]:
    """Function, positional and keyword arguments of such a call; UsageError if it is none."""
    call = _decode(param, "the call")
    match call:
        case {"func": str(function), **rest} if function:
            args: object = rest.get("args") or []
            kwargs: object = rest.get("kwargs") or {}
        case _:
            raise UsageError(f"this promise calls no function: its param has to be {_CALL_FORM}")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise UsageError(f"the arguments of {function} cannot be read: a call is {_CALL_FORM}")
    return function, cast("list[Any]", args), cast("dict[str, Any]", kwargs)


_CALL_FORM = '{"func": "name", "args": [...], "kwargs": {...}} as base64 of JSON'


def encode_value(value: object, what: str) -> Value:
    """A result; NotSerializable says where ``what`` is no plain JSON."""
    _check(value, what)
    return _encode(value)


def decode_value(value: Value, what: str) -> Any:
    """A result as plain data, None if there is none; UsageError if it cannot be read."""
    return _decode(value, what)


def encode_error(error: BaseException) -> Value:
    """An error: its name and message. The name is that of its class without its module."""
    remote = error if isinstance(error, RemoteError) else None
    name = type(error).__name__ if remote is None else remote.type.rpartition(".")[2]
    try:
        message = str(error) if remote is None else remote.message
    except Exception:  # noqa: BLE001 - an error of a user may raise anything when it is shown
        message = "(it cannot be shown)"
    return _encode({"__type": "error", "name": name, "message": shorten(message, _TEXT_MAX)})


def decode_error(value: Value, where: str) -> RemoteError:
    """The error of a rejected promise: ``where`` and the name that it has there, its message and its stack. A pickled
    Python object in it is left alone: it could run any code.
    """
    try:
        found = _decode(value, "the error")
    except UsageError as problem:
        return RemoteError(f"{where}.Error", str(problem))
    if not isinstance(found, dict):
        message = found if isinstance(found, str) else "" if found is None else _shown(found)
        return RemoteError(f"{where}.Error", shorten(message, _TEXT_MAX))
    fields = cast("dict[str, Any]", found)
    name, message, stack = fields.get("name"), fields.get("message"), fields.get("stack")
    named = name if isinstance(name, str) and name else "Error"
    said = message if isinstance(message, str) else _shown(fields)
    return RemoteError(
        f"{where}.{shorten(named, 200)}",
        shorten(said, _TEXT_MAX),
        shorten(stack, _TEXT_MAX) if isinstance(stack, str) else "",
    )


def encode_ending(codec: Codec, id: str, state: State, payload: bytes) -> tuple[str, Value]:
    """How an execution has ended, as the state and value that its promise gets.

    CorruptData if the codec cannot read it: another one may, as that of the application.
    """
    match state:
        case State.RESOLVED:
            try:
                return "resolved", encode_value(codec.decode(payload), f"the result of {id}")
            except UsageError as problem:
                return "rejected", encode_error(problem)
        case State.CANCELED:
            return "rejected_canceled", encode_error(Canceled(f"{id} was canceled"))
        case State.TIMEDOUT:
            return "rejected", encode_error(TimedOut(f"the deadline of {id} passed"))
        case _:
            return "rejected", encode_error(codec.read_error(payload) if payload else codec.decode_error(payload))


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _encode(value: object) -> Value:
    return {"data": base64.b64encode(msgspec.json.encode(value)).decode()}


def _decode(value: Value, what: str) -> Any:
    data = value.get("data")
    if not data:
        return None
    text = b""
    try:
        text = base64.b64decode(data, validate=True)
        return msgspec.json.decode(text)
    except (TypeError, ValueError, RecursionError) as error:
        if _has_half_a_pair(text):
            raise UsageError(f"{what} has text that is not Unicode: half of a pair, such as \\ud800") from None
        raise UsageError(f"{what} cannot be read as base64 of JSON (is it encrypted?): {error}") from None


def _has_half_a_pair(text: bytes) -> bool:
    """Whether that is what is wrong with this JSON, as JavaScript may write it."""
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _check(value: object, what: str) -> None:
    try:
        _find(value, "", 0)
    except _NotPlain as found:
        where = f" at {found.path}" if found.path else ""
        verb = "has" if found.path or found.what.startswith("the key") else "is"
        raise NotSerializable(f"{what} {verb} {found.what}{where}; {_PLAIN}") from None


def _find(value: object, path: str, depth: int) -> None:
    """_NotPlain for the first part that is no plain JSON."""
    if depth > _DEPTH_MAX:
        raise _NotPlain(path[:50] + "...", f"more than {_DEPTH_MAX} lists and dicts in each other")
    match value:
        case None | bool():
            return
        case int():
            if abs(value) > _INT_MAX:
                raise _NotPlain(path, f"the whole number {shorten(str(value), 40)}")
        case float():
            if not math.isfinite(value):
                raise _NotPlain(path, f"the number {value}")
        case str():
            _check_text(value, path)
        case list() | tuple():
            for index, item in enumerate(cast("Sequence[object]", value)):
                _find(item, f"{path}[{index}]", depth + 1)
        case dict():
            for key, item in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    raise _NotPlain(path, f"the key {key!r:.40}")
                _check_text(key, path)
                _find(item, f"{path}.{key}" if path else f".{key}", depth + 1)
        case _:
            raise _NotPlain(path, _named(type(value).__name__))


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _NotPlain(path, "text that is not Unicode") from None


def _named(kind: str) -> str:
    if kind == "bytes":
        return kind
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind.lstrip('_')}"
