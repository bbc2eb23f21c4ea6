"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints.

Extension types: 1 datetime (ISO text and zone key), 2 date, 3 time, 4 timedelta (microseconds), 5 UUID,
6 Decimal, 7 set, 8 frozenset, 9 tuple, 10 integers beyond 64 bits, 11 complex. Dataclasses, structs and models
travel as maps, enums as their values; the hints of the function that receives them give them their shape back.
Never pickle, and never an import by a name from data. The only importer of msgpack.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import sys
import traceback
import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack
import msgspec

from durasleep.errors import CorruptData, NotSerializable, PayloadTooLarge, RemoteError, UsageError
from durasleep.model import PAYLOAD_BYTES_MAX

_DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _DECIMAL, _SET, _FROZENSET, _TUPLE, _INT, _COMPLEX = range(1, 12)

_MICROSECOND = timedelta(microseconds=1)
_INT_DIGITS_MAX = 4_000  # CPython refuses to parse more
_ERROR_TEXT_MAX = 8_192  # of a message or traceback: the place of an error, not its history
_ERROR_FRAMES_MAX = 20
_ERROR_DEPTH_MAX = 8  # causes of causes, groups in groups
_ERROR_GROUP_MAX = 100
_SHOWN_PATH_DEPTH = 50


class PayloadHook(Protocol):
    """Encrypts or compresses payloads on their way; ``unwrap`` undoes ``wrap``."""

    def wrap(self, payload: bytes) -> bytes: ...
    def unwrap(self, payload: bytes) -> bytes: ...


class Codec:
    """Encodes and decodes arguments, results and errors; one object may serve all threads."""

    def __init__(self, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX, outer: PayloadHook | None = None) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._outer = outer

    def encode(self, value: object, what: str) -> bytes:
        """The payload for a value; NotSerializable or PayloadTooLarge name ``what`` and the place in it."""
        payload = self._wrap(_pack(value, what))
        if len(payload) > self._payload_bytes_max:
            raise PayloadTooLarge(f"{what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}")
        return payload

    def decode(self, payload: bytes, hint: Any = Any) -> Any:
        """The value, shaped by a type hint; CorruptData for what is no payload, UsageError for what does not fit."""
        value = _unpack(self._unwrap(payload)) if payload else None
        return value if hint is Any else _shape(value, hint, "the value")

    def encode_args(self, args: tuple[object, ...], kwargs: dict[str, object], what: str) -> bytes:
        """The payload for the arguments of ``what``."""
        try:
            payload = self._wrap(_pack([list(args), kwargs], what))
        except NotSerializable:
            for index, value in enumerate(args, 1):
                _pack(value, f"argument {index} of {what}")
            for name, value in kwargs.items():
                _pack(value, f"argument {name!r} of {what}")
            raise
        if len(payload) > self._payload_bytes_max:
            raise PayloadTooLarge(
                f"the arguments of {what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}"
            )
        return payload

    def decode_args(
        self, payload: bytes, fn: Callable[..., Any], *, skip_first: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments shaped by the annotations of ``fn``; UsageError if they do not fit it.

        ``skip_first`` leaves out the context parameter of a workflow.
        """
        found = _unpack(self._unwrap(payload))
        if not (isinstance(found, list) and len(cast("list[Any]", found)) == 2):
            raise CorruptData(f"the arguments of {_name(fn)} are not a list of arguments")
        args, kwargs = cast("tuple[list[Any], dict[str, Any]]", found)
        return _shape_args(fn, args, kwargs, skip_first)

    def encode_error(self, error: BaseException) -> bytes:
        """The payload for an error: type, message, arguments, notes, causes and a trimmed traceback. Never fails."""
        for detail in (2, 1, 0):
            try:
                payload = self._wrap(_pack(_error_map(error, detail, 0), "an error"))
            except Exception:  # noqa: BLE001, S112 - a user's error may do anything when looked at; less is told of it
                continue
            if len(payload) <= self._payload_bytes_max:
                return payload
        return self._wrap(_pack({"t": _type_name(error), "m": "(it cannot be shown)"}, "an error"))

    def decode_error(self, payload: bytes) -> Exception:
        """An exception for any payload: of its own class if that is loaded here, else RemoteError."""
        try:
            found = _unpack(self._unwrap(payload))
            return _error_from(found, 0)
        except Exception as problem:  # noqa: BLE001 - whatever a hostile payload does, the answer is an error
            return RemoteError("unknown", f"the error cannot be read: {problem}")

    def _wrap(self, payload: bytes) -> bytes:
        return payload if self._outer is None else self._outer.wrap(payload)

    def _unwrap(self, payload: bytes) -> bytes:
        if self._outer is None:
            return payload
        try:
            return self._outer.unwrap(payload)
        except Exception as error:
            raise CorruptData(f"the payload hook cannot read a payload: {error}") from error


# -- values ------------------------------------------------------------------


def _pack(value: object, what: str) -> bytes:
    try:
        return cast("bytes", msgpack.packb(value, default=_extend, strict_types=True))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotSerializable(f"{what}{_find_culprit(value)}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError) or "recursion limit" in str(error):
        return "it is nested too deeply, or contains itself"
    return str(error) or type(error).__name__


def _extend(value: Any) -> Any:
    """What MessagePack does not know as something it does; TypeError for what cannot be sent."""
    match value:
        case Enum():
            return value.value
        case bool():
            return bool(value)
        case int():
            return int(value) if -(1 << 63) <= value < 1 << 64 else msgpack.ExtType(_INT, b"%x" % value)
        case str():
            return str.__str__(value)
        case datetime():
            return msgpack.ExtType(_DATETIME, _pack_datetime(value))
        case date():
            return msgpack.ExtType(_DATE, value.isoformat().encode())
        case time():
            return msgpack.ExtType(_TIME, value.isoformat().encode())
        case timedelta():
            return msgpack.ExtType(_TIMEDELTA, b"%d" % (value // _MICROSECOND))
        case UUID():
            return msgpack.ExtType(_UUID, value.bytes)
        case Decimal():
            return msgpack.ExtType(_DECIMAL, str(value).encode())
        case tuple():
            return msgpack.ExtType(_TUPLE, _pack_items(value))
        case set():
            return msgpack.ExtType(_SET, _pack_items(value))
        case frozenset():
            return msgpack.ExtType(_FROZENSET, _pack_items(value))
        case complex():
            return msgpack.ExtType(_COMPLEX, repr(value).strip("()").encode())
        case float():
            return float(value)
        case bytes() | bytearray() | memoryview():
            return bytes(cast("bytes", value))
        case list():
            return list(cast("list[object]", value))
        case dict():
            return dict(cast("dict[object, object]", value))
        case PurePath():
            return str(value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        case msgspec.Struct():
            return msgspec.structs.asdict(value)
        case _ if _is_model(value.__class__):
            return value.model_dump()
        case _:
            raise TypeError(f"a {type(value).__qualname__} cannot be sent")


def _is_model(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _pack_items(items: Any) -> bytes:
    return cast("bytes", msgpack.packb(list(items), default=_extend, strict_types=True))


def _pack_datetime(value: datetime) -> bytes:
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else ""
    return f"{value.isoformat()}|{zone}".encode()


def _find_culprit(value: object, path: str = "", depth: int = 0) -> str:
    """Where in a value the part is that cannot be sent: a path such as ``['items'][3]``."""
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        children = [(f"{path}[{key!r}]", child) for key, child in items]
    elif isinstance(value, list | tuple):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(cast("list[object]", value))]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = [(f"{path}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    if depth < _SHOWN_PATH_DEPTH:
        for where, child in children:
            try:
                msgpack.packb(child, default=_extend, strict_types=True)
            except (TypeError, ValueError, OverflowError):
                return _find_culprit(child, where, depth + 1)
            except RecursionError:
                return ""
    return path


def _unpack(payload: bytes) -> Any:
    try:
        return cast("Any", msgpack.unpackb(payload, ext_hook=_restore, strict_map_key=False))
    except (
        ValueError,
        TypeError,
        RecursionError,
        ArithmeticError,
        ZoneInfoNotFoundError,
        msgpack.UnpackException,
    ) as error:
        raise CorruptData(f"a payload is not one of ours: {str(error) or type(error).__name__}") from None


def _restore(code: int, data: bytes) -> Any:
    match code:
        case 1:
            text, _, zone = data.decode().rpartition("|")
            return _in_zone(datetime.fromisoformat(text), zone)
        case 2:
            return date.fromisoformat(data.decode())
        case 3:
            return time.fromisoformat(data.decode())
        case 4:
            return timedelta(microseconds=int(data))
        case 5:
            return UUID(bytes=data)
        case 6:
            return _decimal(data.decode())
        case 7:
            return set(cast("list[Any]", _unpack(data)))
        case 8:
            return frozenset(cast("list[Any]", _unpack(data)))
        case 9:
            return tuple(cast("list[Any]", _unpack(data)))
        case 10:
            if len(data) > _INT_DIGITS_MAX:
                raise ValueError("an integer of too many digits")
            return int(data, 16)
        case 11:
            return complex(data.decode())
        case _:
            raise ValueError(f"extension type {code} is unknown")


def _in_zone(found: datetime, zone: str) -> datetime:
    """The same instant in its zone, and the same reading of the clock too if the zone still has it."""
    if not zone:
        return found
    for fold in (0, 1):
        reading = found.replace(tzinfo=ZoneInfo(zone), fold=fold)
        if reading.utcoffset() == found.utcoffset():
            return reading
    return found.astimezone(ZoneInfo(zone))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no decimal") from None


# -- shapes ------------------------------------------------------------------


def _shape(value: Any, hint: Any, what: str) -> Any:
    """A decoded value as its hint says; strictly if it fits so, else leniently (``"5"`` as an int)."""
    if type(value) is hint:
        return value
    try:
        return msgspec.convert(value, hint, dec_hook=_convert)
    except msgspec.ValidationError as strict:
        try:
            return msgspec.convert(value, hint, strict=False, dec_hook=_convert)
        except msgspec.ValidationError:
            raise UsageError(f"{what} does not fit {_show_hint(hint)}: {strict}") from None
    except (TypeError, NameError):
        return value  # a hint msgspec does not know says nothing about bytes: the value as it came


def _convert(kind: type, value: Any) -> Any:
    if _is_model(kind):
        return cast("Any", kind).model_validate(value)
    if issubclass(kind, PurePath | complex) and isinstance(value, str):
        return kind(value)
    if isinstance(value, kind):
        return value
    raise ValueError(f"expected a {kind.__qualname__}, got {type(value).__qualname__}")


def _show_hint(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


@lru_cache(maxsize=1024)
def _signature_of(fn: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Signature and resolved hints; no hints if they cannot be resolved."""
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return inspect.signature(fn), {name: hint for name, hint in hints.items() if hint is not Any}


def _shape_args(
    fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], skip_first: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    signature, hints = _signature_of(fn)
    try:
        bound = signature.bind(*([None] if skip_first else []), *args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{_name(fn)}{signature}: {error}") from None
    for index, (name, value) in enumerate(bound.arguments.items()):
        if name not in hints or (skip_first and index == 0):
            continue
        hint, what = hints[name], f"argument {name!r} of {_name(fn)}"
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(_shape(one, hint, what) for one in value)
            case inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: _shape(one, hint, what) for key, one in value.items()}
            case _:
                bound.arguments[name] = _shape(value, hint, what)
    return bound.args[1:] if skip_first else bound.args, bound.kwargs


# -- errors ------------------------------------------------------------------


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    return (
        text if len(text) <= _ERROR_TEXT_MAX else text[: _ERROR_TEXT_MAX // 2] + " ... " + text[-_ERROR_TEXT_MAX // 2 :]
    )


def _error_map(error: BaseException, detail: int, depth: int) -> dict[str, Any]:
    """An error as a map: type, message; with detail 1 traceback, notes and causes; with detail 2 its arguments."""
    found: dict[str, Any] = {"t": _type_name(error), "m": _cut(str(error))}
    if isinstance(error, RemoteError):  # of elsewhere already
        found |= {"t": error.type, "m": _cut(error.message), "tb": _cut(error.remote_traceback)}
    elif detail:
        found["tb"] = _cut("".join(traceback.format_tb(error.__traceback__, limit=-_ERROR_FRAMES_MAX)))
    if detail and (notes := getattr(error, "__notes__", None)):
        found["n"] = [_cut(str(note)) for note in notes]
    if detail > 1 and not isinstance(error, BaseExceptionGroup | RemoteError):
        found["a"] = list(error.args)
        found["d"] = {name: value for name, value in vars(error).items() if name != "__notes__"}
        _pack([found["a"], found["d"]], "its arguments")
    if detail and depth < _ERROR_DEPTH_MAX:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            found["c"] = _error_map(cause, detail, depth + 1)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            found["m"] = group.message
            found["x"] = [_error_map(one, detail, depth + 1) for one in group.exceptions[:_ERROR_GROUP_MAX]]
    return found


def _error_from(found: Any, depth: int) -> Exception:
    if depth > _ERROR_DEPTH_MAX + 1 or not isinstance(found, dict):
        raise CorruptData("it is not an error of ours")
    data = cast("dict[str, Any]", found)
    name, message, remote = str(data["t"]), str(data.get("m", "")), str(data.get("tb", ""))
    inner = [_error_from(one, depth + 1) for one in data.get("x", ())]
    error = _known_error(name, message, data, inner) or RemoteError(name, message, remote)
    if remote and not isinstance(error, RemoteError):
        error.add_note(f"it was raised there:\n{remote.rstrip()}")
    for note in data.get("n", ()):
        error.add_note(str(note))
    if "c" in data:
        error.__cause__ = _error_from(data["c"], depth + 1)
    return error


def _known_error(name: str, message: str, data: dict[str, Any], inner: list[Exception]) -> Exception | None:
    """An instance of the class of this name, made without running its code; None unless it is loaded already."""
    if inner:
        return ExceptionGroup(message, inner)
    kind = _loaded_class(name)
    if kind is None or "a" not in data:
        return None
    try:
        error = kind.__new__(kind, *data["a"])
        error.args = tuple(data["a"])
        vars(error).update(data.get("d", {}))
        if str(error) == message:
            return error
    except Exception:  # noqa: BLE001 - a class that needs its __init__ is shown as a RemoteError
        return None
    return None


def _loaded_class(name: str) -> type[Exception] | None:
    parts = name.split(".")
    if len(parts) == 1:
        found = getattr(builtins, name, None)
    else:
        found = None
        for cut in range(len(parts) - 1, 0, -1):
            module = sys.modules.get(".".join(parts[:cut]))
            if module is not None:
                found = module
                for part in parts[cut:]:
                    found = vars(found).get(part) if hasattr(found, "__dict__") else None
                break
    return found if isinstance(found, type) and issubclass(found, Exception) else None
