"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints.

Extension types: 1 datetime (ISO text and zone key), 2 date, 3 time, 4 timedelta (microseconds), 5 UUID,
6 Decimal, 7 set, 8 frozenset, 9 tuple, 10 integers beyond 64 bits, 11 complex. Dataclasses, structs and models
travel as maps, enums as their values; the hints of the function that receives them give them their shape back.
Never pickle, and never an import by a name from data. The only importer of msgpack.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import inspect
import sys
import threading
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum, EnumType
from functools import lru_cache, partial
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec

from durasleep.errors import CorruptData, NotSerializable, PayloadTooLarge, RemoteError, UsageError
from durasleep.model import PAYLOAD_BYTES_MAX

_msgpack: Any = msgpack  # its stubs say less than it does, and a cast is a call

_DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _DECIMAL, _SET, _FROZENSET, _TUPLE, _INT, _COMPLEX = range(1, 12)

_MICROSECOND = timedelta(microseconds=1)
_INT_BITS_MAX = 14_000  # beyond 4300 digits Python refuses to show one, so no screen or log could
_NESTED_MAX = 32  # tuples and sets inside one another: each may hold 511 lists in lists, 300 bytes of C stack apiece
_ON_STACK_MAX = 4  # levels of them read by unpackb, whose 40 KB of C stack each would overflow a small thread's
# What bytes that are anyone's can raise as they are read: not all there is, for that of a signal handler is its own.
_BAD_BYTES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    msgpack.exceptions.UnpackException,
)
_SHORT = 1024  # a kept packer keeps its buffer: nothing longer goes through it
_SMALL = (int, bool)
_LIST = (list, tuple)
_ARGUMENTS = (list, dict)
_NEITHER: Any = (None, None)
_SHOWN_PATH_DEPTH = 50
_ERROR_TEXT_MAX = 8_192  # of a message or traceback: the place of an error, not its history
_ERROR_FRAMES_MAX = 20
_ERROR_DEPTH_MAX = 8  # causes of causes, groups in groups
_ERRORS_MAX = 100  # told in one payload, however they refer to each other


class _Packers(threading.local):
    """A kept packer for each thread: making one costs more than packing a number."""

    def __init__(self) -> None:
        self.pack = cast("Callable[[object], bytes]", msgpack.Packer(autoreset=True).pack)


_packers = _Packers()


class PayloadHook(Protocol):
    """Encrypts or compresses payloads on their way; ``unwrap`` undoes ``wrap``."""

    def wrap(self, payload: bytes) -> bytes: ...
    def unwrap(self, payload: bytes) -> bytes: ...


class Codec:
    """Encodes and decodes arguments, results and errors; one object may serve all threads."""

    def __init__(self, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX, outer: PayloadHook | None = None) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._outer = outer

    @property
    def payload_bytes_max(self) -> int:
        """The cap of one payload."""
        return self._payload_bytes_max

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

    def encode_args(self, args: Sequence[object], kwargs: dict[str, object], what: str) -> bytes:
        """The payload for the arguments of ``what``; errors as ``encode``, naming the argument."""
        try:
            payload = self._wrap(_packb([list(args), kwargs]))
        except Exception:  # packed one by one, the one that failed is named
            for name, value in _named(args, kwargs):
                _pack(value, f"argument {name} of {what}")
            raise
        if len(payload) > self._payload_bytes_max:
            sizes = {name: len(_packb(value)) for name, value in _named(args, kwargs)}
            largest = max(sizes, key=sizes.__getitem__)
            raise PayloadTooLarge(
                f"the arguments of {what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}, "
                f"{sizes[largest]} of them in argument {largest}"
            )
        return payload

    def decode_args(
        self, payload: bytes, fn: Callable[..., Any], *, skip_first: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments shaped by the annotations of ``fn``; UsageError if they do not fit it.

        ``skip_first`` leaves out the context parameter of a workflow.
        """
        found: Any = _unpack(payload if self._outer is None else self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:  # hot: to match a pattern takes twice as long
            raise CorruptData(f"the arguments of {_name(fn)} are not a list of arguments")
        if not kwargs and tuple(map(type, args)) == _call_of(fn).types[skip_first]:
            return tuple(args), kwargs  # as most are: whole, and of the types that the function names
        return _shape_args(fn, args, kwargs, skip_first)

    def encode_error(self, error: BaseException) -> bytes:
        """The payload for an error: type, message, arguments, notes, causes and a trimmed traceback.

        Whatever the error is made of, there is a payload within the cap; only a failing hook can prevent it.
        """
        for detail, text_max in ((2, _ERROR_TEXT_MAX), (1, _ERROR_TEXT_MAX), (0, self._payload_bytes_max // 4)):
            try:
                packed = _packb(_error_map(error, detail, min(text_max, _ERROR_TEXT_MAX), 0, iter(range(_ERRORS_MAX))))
            except Exception:  # noqa: BLE001, S112 - a user's error may do anything when looked at; less is told of it
                continue
            payload = self._wrap(packed)
            if len(payload) <= self._payload_bytes_max:
                return payload
        return self._wrap(_packb({"t": _cut(_type_name(error), 200), "m": "(it cannot be shown)"}))

    def decode_error(self, payload: bytes) -> Exception:
        """An exception for any payload: of its own class if that is loaded here, else RemoteError."""
        try:
            return _error_from(_unpack(self._unwrap(payload)), 0)
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
    if value is None or type(value) in _SMALL or (type(value) is str and len(value) < _SHORT):
        try:
            return _packers.pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a large integer is an extension; a broken string is told below
    try:
        return _packb(value)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything when asked for its parts
        if isinstance(error, RecursionError) or "recursion limit" in str(error):
            raise NotSerializable(f"{what} is nested too deeply, or contains itself") from None
        path = _find_culprit(value)
        reason = str(error) if isinstance(error, _Unsendable) else f"cannot be sent: {error or type(error).__name__}"
        raise NotSerializable(f"{what}: {path} {reason}" if path else f"{what} {reason}") from None


def _packb(value: object, depth: int = 0) -> bytes:
    return _msgpack.packb(value, default=_EXTEND[depth], strict_types=True)


def _named(args: Iterable[object], kwargs: dict[str, object]) -> list[tuple[str, object]]:
    return [(str(index), value) for index, value in enumerate(args, 1)] + [
        (repr(name), value) for name, value in kwargs.items()
    ]


class _Unsendable(TypeError):
    """Its text goes on from the name of a value: ``is a socket, which cannot be sent``."""


def _extend(depth: int, value: Any) -> Any:
    """What MessagePack does not know as something it does; ``_Unsendable`` for what cannot be sent."""
    match value:
        case None:
            return None
        case Enum():
            return _extend(depth, value.value)
        case bool():
            return value
        case int():
            return int(value) if -(1 << 63) <= value < 1 << 64 else msgpack.ExtType(_INT, _pack_int(value))
        case str():
            return str.__str__(value)
        case datetime() | time():
            zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else ""
            kind = _DATETIME if isinstance(value, datetime) else _TIME
            return msgpack.ExtType(kind, f"{value.isoformat()}|{zone or ''}".encode())
        case date():
            return msgpack.ExtType(_DATE, value.isoformat().encode())
        case timedelta():
            return msgpack.ExtType(_TIMEDELTA, b"%d" % (value // _MICROSECOND))
        case UUID():
            return msgpack.ExtType(_UUID, value.bytes)
        case Decimal():
            return msgpack.ExtType(_DECIMAL, str(value).encode())
        case tuple():
            return msgpack.ExtType(_TUPLE, _pack_items(depth, value))
        case set():
            return msgpack.ExtType(_SET, _pack_items(depth, value))
        case frozenset():
            return msgpack.ExtType(_FROZENSET, _pack_items(depth, value))
        case complex():
            return msgpack.ExtType(_COMPLEX, repr(complex(value)).strip("()").encode())
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
        case msgspec.Struct():
            return _struct_parts(value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        case _ if _is_model(value.__class__):
            return _extend(depth, value.model_dump(round_trip=True))
        case _:
            raise _Unsendable(f"is a {type(value).__qualname__}, which cannot be sent")


def _is_model(kind: Any) -> bool:
    """Whether this is a model of pydantic, which need not be installed."""
    return hasattr(kind, "model_dump") and hasattr(kind, "model_validate")


def _struct_parts(value: Any) -> Any:
    """A struct as ``msgspec.convert`` expects it: its names outside, its tag, or a list for ``array_like``."""
    config = value.__struct_config__
    parts = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return parts if config.tag is None else [config.tag, *parts]
    found: dict[str, object] = {} if config.tag is None else {config.tag_field: config.tag}
    named = zip(value.__struct_encode_fields__, parts, strict=True)
    return found | {name: part for name, part in named if part is not msgspec.UNSET}


def _pack_items(depth: int, items: Any) -> bytes:
    if depth >= _NESTED_MAX:
        raise RecursionError
    return _packb(list(items), depth + 1)


def _pack_int(value: int) -> bytes:
    if value.bit_length() > _INT_BITS_MAX:
        raise _Unsendable(f"is an integer of more than {_INT_BITS_MAX} bits, which cannot be sent")
    return b"%x" % value


_EXTEND = tuple(partial(_extend, depth) for depth in range(_NESTED_MAX + 1))


def _find_culprit(value: Any, path: str = "") -> str:
    """Where in a value the part is that cannot be sent: a path such as ``['items'][3]``."""
    for _ in range(_SHOWN_PATH_DEPTH):
        for where, child in _parts_of(value):
            try:
                _packb(child)
            except Exception:  # noqa: BLE001 - whatever it raised, here it is
                path, value = path + where, child
                break
        else:
            break
    return path


def _parts_of(value: Any) -> list[tuple[str, object]]:
    match value:
        case dict():
            items = cast("dict[object, object]", value).items()
            shown = {key: repr(key) if isinstance(key, str | int) else type(key).__qualname__ for key, _ in items}
            keys = [(f" the key {shown[key]}", key) for key, _ in items if not isinstance(key, str | int)]
            return keys + [(f"[{shown[key]}]", child) for key, child in items]
        case list() | tuple():
            return [(f"[{index}]", child) for index, child in enumerate(cast("list[object]", value))]
        case set() | frozenset():
            return [(" an item", child) for child in cast("set[object]", value)]
        case msgspec.Struct():
            return [(f".{name}", getattr(value, name)) for name in value.__struct_fields__]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [(f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value)]
        case _:
            return []


def _unpack(payload: bytes) -> Any:
    try:
        return _unpackb(payload, 0)
    except _BAD_BYTES as error:
        raise CorruptData(f"a payload is not one of ours: {error or type(error).__name__}") from None


def _unpackb(payload: bytes, depth: int) -> Any:
    """One value; its lengths are bounded by the payload's own, its depth by msgpack and ``_NESTED_MAX``."""
    if depth < _ON_STACK_MAX:
        return _msgpack.unpackb(payload, ext_hook=_RESTORE[depth], strict_map_key=False, timestamp=3)
    unpacker = _msgpack.Unpacker(
        ext_hook=_RESTORE[depth], strict_map_key=False, timestamp=3, max_buffer_size=len(payload)
    )
    unpacker.feed(payload)
    found = unpacker.unpack()
    if unpacker.tell() != len(payload):
        raise ValueError("there is more than one value")
    return found


def _restore(depth: int, code: int, data: bytes) -> Any:
    match code:
        case 1:
            return _datetime(data.decode())
        case 2:
            return date.fromisoformat(data.decode())
        case 3:
            text, _, zone = data.decode().partition("|")
            found = time.fromisoformat(text)
            return found.replace(tzinfo=ZoneInfo(zone)) if zone else found
        case 4:
            return timedelta(microseconds=int(data))
        case 5:
            return UUID(bytes=data)
        case 6:
            return _decimal(data.decode())
        case 7:
            return set(_items(depth, data))
        case 8:
            return frozenset(_items(depth, data))
        case 9:
            return tuple(_items(depth, data))
        case 10:
            if len(data) > _INT_BITS_MAX // 4 + 1:
                raise ValueError("an integer of too many digits")
            return int(data, 16)
        case 11:
            return complex(data.decode())
        case _:
            raise ValueError(f"extension type {code} is unknown")


def _items(depth: int, data: bytes) -> list[Any]:
    if depth >= _NESTED_MAX:
        raise ValueError("it is nested too deeply")
    found = _unpackb(data, depth + 1)
    if not isinstance(found, list):
        raise ValueError("a list was expected")  # noqa: TRY004 - it becomes CorruptData, as all of these
    return cast("list[Any]", found)


_RESTORE = tuple(partial(_restore, depth) for depth in range(_NESTED_MAX + 1))


def _datetime(text: str) -> datetime:
    """Read an instant in its zone; where the zone is not known it keeps the offset, for the instant is what counts."""
    moment, _, key = text.partition("|")
    found = datetime.fromisoformat(moment)
    if not key:
        return found
    try:
        zone = ZoneInfo(key)
    except (KeyError, ValueError, OSError):
        return found
    for fold in (0, 1):
        local = found.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == found.utcoffset():
            return local
    return found.astimezone(zone)  # the rules of the zone have changed since


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no decimal") from None


# -- shapes ------------------------------------------------------------------


def _shape(value: Any, hint: Any, what: str) -> Any:
    """A decoded value as its hint says; strictly if it fits so, else leniently (``"5"`` as an int)."""
    if hint is Any or type(value) is hint:
        return value
    misfit: Exception | None = None
    for strict in (True, False):
        try:
            return msgspec.convert(value, hint, strict=strict, dec_hook=_convert)
        except msgspec.ValidationError as error:
            misfit = misfit or error
        except (TypeError, NameError):
            known = _known(hint)
            return value if known is hint or known is Any else _shape(value, known, what)
        except Exception as error:  # noqa: BLE001 - a class may check itself and raise anything
            misfit = misfit or error
    raise UsageError(f"{what} does not fit {_show_hint(hint)}: {' '.join(str(misfit).split())}") from misfit


def _convert(kind: Any, value: Any) -> Any:
    """What msgspec leaves to us: models, paths, complex numbers, and classes of the user's own."""
    if isinstance(kind, _Reader):
        return kind.read(value)
    if getattr(kind, "_is_protocol", False) or isinstance(value, kind):
        return value
    if _is_model(kind):
        try:
            return kind.model_validate(value, by_alias=True, by_name=True)
        except TypeError:  # pydantic before 2.11
            return kind.model_validate(value)
    if issubclass(kind, PurePath | complex):
        return cast("Any", kind)(value)
    raise ValueError(f"expected a {kind.__qualname__}, got {type(value).__qualname__}")


class _Reader(type):
    """The class of a hint that we read ourselves; whatever it has read is an instance of it."""

    read: Callable[[Any], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def _reader(hint: Any, read: Callable[[Any], Any]) -> _Reader:
    return _Reader(_show_hint(hint), (), {"read": staticmethod(read)})


def _known(hint: Any) -> Any:
    """A hint as msgspec knows it; Any for one that nobody does: it says nothing about bytes."""
    return _find_known(hint, str(hint))


@lru_cache(maxsize=256)
def _find_known(hint: Any, _shown: str) -> Any:  # as it is shown: unions are equal whatever their order
    with contextlib.suppress(TypeError, NameError):
        msgspec.msgpack.Decoder(hint)
        return hint
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, EnumType):  # it knows only those of names and numbers
        return _reader(hint, hint)
    if origin in (typing.Union, types.UnionType):  # and no union of two that travel as maps
        return _reader(hint, partial(_read_one_of, parts))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _reader(hint, partial(_read_fields, hint))
    if origin is typing.Annotated:
        return _known(parts[0])
    if origin in (list, set, frozenset, tuple, dict):
        return cast("Any", origin)[tuple(part if part is ... else _known(part) for part in parts)]
    return Any


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in sorted(kinds, key=lambda kind: _distance(value, kind)):
        with contextlib.suppress(UsageError):
            return _shape(value, kind, "the value")
    raise ValueError(f"it fits none of {', '.join(map(_show_hint, kinds))}")


def _distance(value: Any, kind: Any) -> int:
    """How far a value is from a kind: the nearest of a union is tried first."""
    if _known(kind) is Any:
        return 2
    if isinstance(value, dict):
        return 0 if _fields_of(kind) == set(cast("dict[object, object]", value)) else 1
    return 0 if type(value) is (typing.get_origin(kind) or kind) else 1


def _fields_of(kind: Any) -> set[str]:
    kind = typing.get_origin(kind) or kind
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(getattr(kind, "model_fields", None) or getattr(kind, "__struct_encode_fields__", ()))


def _read_fields(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"expected a {kind.__qualname__}, got {type(value).__qualname__}")  # noqa: TRY004 - for msgspec
    found, hints = cast("dict[str, Any]", value), _hints_of(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name in found]
    return kind(**{name: _shape(found[name], hints.get(name, Any), f"field {name!r}") for name in names})


def _show_hint(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """How a function is called: its signature, its hints, and those of what it takes by position."""

    signature: inspect.Signature
    hints: dict[str, Any]
    by_position: tuple[tuple[str, Any], ...]
    required: int
    """Fewest arguments by position that are a whole call; more than there are if keywords are needed."""
    types: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]
    """The hints of all that is taken by position, and of all but the first, if that is a whole call."""


@lru_cache(maxsize=1024)
def _call_of(fn: Callable[..., Any]) -> _Call:
    signature, hints = inspect.signature(fn), _hints_of(fn)
    parameters = signature.parameters.values()
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    others = any(
        one.kind is one.VAR_POSITIONAL or (one.kind is one.KEYWORD_ONLY and one.default is one.empty)
        for one in parameters
    )
    required = len(plain) + 1 if others else sum(one.default is one.empty for one in plain)
    by_position = tuple((one.name, hints.get(one.name, Any)) for one in plain)
    types = tuple(hint for _, hint in by_position)
    return _Call(signature, hints, by_position, required, (None, None) if others else (types, types[1:]))


def _hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The hints that can be resolved; a name imported for type checkers only costs no more than its own."""
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except Exception:  # noqa: BLE001 - a hint is an expression of the user's; each is tried for itself
        hints: dict[str, Any] = {}
        known = getattr(inspect.unwrap(fn), "__globals__", {})
        for name, hint in getattr(fn, "__annotations__", {}).items():
            with contextlib.suppress(Exception):
                hints |= typing.get_type_hints(SimpleNamespace(__annotations__={name: hint}), known, None, True)
        return hints


def _shape_args(
    fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], skip_first: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call = _call_of(fn)
    if not kwargs and call.required <= len(args) + skip_first <= len(call.by_position):  # binding costs 5 us
        shaped = [
            value if hint is Any or type(value) is hint else _shape(value, hint, f"argument {name!r} of {_name(fn)}")
            for value, (name, hint) in zip(args, call.by_position[skip_first:], strict=False)
        ]
        return tuple(shaped), {}
    try:
        bound = call.signature.bind(*([None] if skip_first else []), *args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{_name(fn)}{call.signature}: {error}") from None
    for index, (name, value) in enumerate(bound.arguments.items()):
        if name not in call.hints or (skip_first and index == 0):
            continue
        hint, what = call.hints[name], f"argument {name!r} of {_name(fn)}"
        match call.signature.parameters[name].kind:
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


def _cut(text: str, text_max: int) -> str:
    """The head and the tail of a text, without what UTF-8 has no bytes for."""
    if len(text) > text_max:
        text = f"{text[: text_max // 2]} ... {text[len(text) - text_max // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's error may do anything when looked at
        return "(it cannot be shown)"


def _error_map(error: BaseException, detail: int, text_max: int, depth: int, places: Iterator[int]) -> dict[str, Any]:
    """An error as a map: type, message; with detail 1 traceback, notes and causes; with detail 2 what it carries.

    ``places`` counts down the errors that may still be told.
    """
    found: dict[str, Any] = {"t": _type_name(error), "m": _cut(_message_of(error), text_max)}
    if isinstance(error, RemoteError):  # of elsewhere already
        found |= {"t": _cut(error.type, text_max), "m": _cut(error.message, text_max)}
    if not detail:
        return found
    notes: list[str] = [_cut(str(note), text_max) for note in getattr(error, "__notes__", ())]
    if isinstance(error, RemoteError):
        found["tb"] = _cut(error.remote_traceback, text_max)
    else:
        frames = traceback.format_tb(error.__traceback__, limit=-_ERROR_FRAMES_MAX)
        found["tb"] = _cut("".join(frames), text_max)
        found |= _carried_by(error) if detail > 1 else {}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if depth < _ERROR_DEPTH_MAX and cause is not None and next(places, None) is not None:
        found["c"] = _error_map(cause, detail, text_max, depth + 1, places)
    if depth < _ERROR_DEPTH_MAX and isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        told = (one for one in group.exceptions if next(places, None) is not None)
        found["x"] = [_error_map(one, detail, text_max, depth + 1, places) for one in told]
        found["m"] = _cut(group.message, text_max)
        if more := len(group.exceptions) - len(found["x"]):
            notes.append(f"{more} more errors are not shown")
    return found | ({"n": notes} if notes else {})


def _carried_by(error: BaseException) -> dict[str, Any]:
    """Its arguments, if all of them can be sent, and those of its attributes that can."""
    args = error.args
    if isinstance(error, OSError) and len(args) == 2 and error.filename is not None:
        args = (*args, error.filename) if error.filename2 is None else (*args, error.filename, None, error.filename2)
    found: dict[str, Any] = {"a": list(args)} if _is_sendable(args) else {}
    kept = {name: value for name, value in vars(error).items() if name != "__notes__" and _is_sendable(value)}
    return found | {"d": kept}


def _is_sendable(value: object) -> bool:
    try:
        _packb(value)
    except Exception:  # noqa: BLE001 - whatever it raised, it cannot
        return False
    return True


def _error_from(found: Any, depth: int) -> Exception:
    if depth > _ERROR_DEPTH_MAX or not isinstance(found, dict):
        raise CorruptData("it is not an error of ours")
    data = cast("dict[str, Any]", found)
    name, message, remote = str(data["t"]), str(data.get("m", "")), str(data.get("tb", ""))
    inner = [_error_from(one, depth + 1) for one in data.get("x", ())]
    kind = _loaded_class(name)
    error = _group(kind, message, inner) if inner else _known_error(kind, message, data)
    if error is None:
        error = RemoteError(name, message, remote)
    elif remote:
        error.add_note(f"it was raised there:\n{remote.rstrip()}")
    for note in data.get("n", ()):
        error.add_note(str(note))
    if "c" in data:
        error.__cause__ = _error_from(data["c"], depth + 1)
    return error


def _group(kind: type[Exception] | None, message: str, inner: list[Exception]) -> Exception:
    if kind is not None and issubclass(kind, ExceptionGroup):
        with contextlib.suppress(Exception):
            return kind.__new__(cast("type[ExceptionGroup[Exception]]", kind), message, inner)
    return ExceptionGroup(message, inner)


def _known_error(kind: type[Exception] | None, message: str, data: dict[str, Any]) -> Exception | None:
    """An instance of a class, made without its ``__init__``; None if it would not say what was said there.

    Where its arguments could not be sent, its message is its only one.
    """
    if kind is None:
        return None
    try:
        args = tuple(data.get("a", (message,)))
        error = kind.__new__(kind, *args)
        if not isinstance(error, OSError):  # which sorts its own: the file name is no argument afterwards
            error.args = args
        vars(error).update(data.get("d", {}))
        return error if _cut(str(error), _ERROR_TEXT_MAX) == message else None
    except Exception:  # noqa: BLE001 - a class that needs its __init__ is shown as a RemoteError
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
