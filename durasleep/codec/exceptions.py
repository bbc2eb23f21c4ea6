"""Errors as payloads and back: with their class if it is loaded, their notes, causes and a shortened traceback."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import types
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import EnumType
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import msgpack

from durasleep import tracebacks
from durasleep.codec.marks import class_name, loaded_class
from durasleep.codec.packing import PLAIN_WRITER, ProvenWriter
from durasleep.codec.type_hints import is_named_tuple
from durasleep.codec.values import (
    EXT_ERROR,
    EXT_MEMBER,
    EXT_RECORD,
    EXT_SHOWN,
    ON_STACK_MAX,
    QUICK_UNPACKER,
    ThoroughUnpacker,
    Unsendable,
    can_pack,
    dataclass_parts,
)
from durasleep.errors import CorruptData, RemoteError

RAISED_THERE = "it was raised there:\n"  # begins the note of an error that has a traceback from another process
ERROR_TEXT_MAX = 8_192  # of a message or traceback: enough to find the error
_ERROR_FRAMES_MAX = 20
_ERROR_DEPTH_MAX = 8  # causes of causes, groups in groups
_NOTES_MAX = 16  # of one error; each level that it passes through adds one
_NOTES_TEXT_MAX = 4_096  # all together
_NOTES_LEFT_OUT = "(notes in between are left out)"
_LINE_DEPTH_MAX = 3  # how deep one line shows groups in groups; then how many of each, and how long
_LINE_MEMBERS_MAX = 5
_LINE_MEMBER_MAX = 300
_LINE_MAX = 4000  # characters of a message as it is logged and listed
_ERRORS_MAX = 100  # in one payload, even if they refer to each other
ErrorAttributes = Callable[[BaseException, dict[str, object]], dict[str, object]]


def type_name(error: BaseException) -> str:
    return class_name(type(error))


def shorten(text: str, text_max: int) -> str:
    """The head and the tail of a text, without characters that UTF-8 cannot encode."""
    if len(text) > text_max:
        text = f"{text[: text_max // 2]} ... {text[len(text) - text_max // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def _shown(value: object, how: Callable[[object], str] = str) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001 - a user's object may raise anything when it is read
        return "(it cannot be shown)"


def error_line(error: BaseException) -> str:
    """Type and message of any error, for people; also those of the members of a small group."""
    return f"{type(error).__name__}: {shorten(_message_with_members(error, _LINE_DEPTH_MAX), _LINE_MAX)}"


def _message_with_members(error: BaseException, depth: int) -> str:
    message = _shown(error)
    if not isinstance(error, BaseExceptionGroup) or not depth:
        return message
    members = cast("BaseExceptionGroup[BaseException]", error).exceptions
    shown = [shorten(_member_line(one, depth - 1), _LINE_MEMBER_MAX) for one in members[:_LINE_MEMBERS_MAX]]
    more = [f"and {len(members) - len(shown)} more"] if len(shown) < len(members) else []
    counted = f" ({len(members)} sub-exception{'s' * (len(members) != 1)})"
    return f"{message.removesuffix(counted)} ({'; '.join(shown + more)})"


def _member_line(error: BaseException, depth: int) -> str:
    message = _message_with_members(error, depth)
    return message if isinstance(error, RemoteError) else f"{type(error).__name__}: {message}"


_KEPT_BESIDE = frozenset({"__notes__", "__said__"})  # among the attributes of an error, but not shown as attributes
_BUILTIN_FIELDS = {OSError: ("filename", "filename2"), ImportError: ("name", "path"), NameError: ("name",)}
"""What errors of Python itself have beside their arguments. Their methods may read these, whatever the values are."""
_EXACT = (tuple, set, frozenset, datetime, date, time, timedelta, UUID, Decimal, complex, int)


class ErrorMapper:
    """Makes the maps that payloads of errors consist of. The keys of a map:

    - with any detail ``t``, the type, and ``m``, the message;
    - from detail 1 on ``tb``, the traceback; ``c``, the map of the cause; ``x``, the maps of the members of a group;
      and ``n``, the notes;
    - with detail 2 the data of the error: ``d``, attributes that are plain data; ``a``, the arguments if all of them
      are plain data; and ``s``, the attributes and arguments that must be packed with their classes.

    Errors may refer to each other in circles. ``has_room`` bounds how deep and how many errors one payload has.
    """

    def __init__(self, detail: int, text_max: int, attributes: ErrorAttributes | None) -> None:
        self.text_max = text_max
        self._detail = detail
        self._attributes = attributes
        self._left = _ERRORS_MAX

    def has_room(self, depth: int) -> bool:
        """Whether another error fits; if so, it counts as stored."""
        if depth > _ERROR_DEPTH_MAX or not self._left:
            return False
        self._left -= 1
        return True

    def to_map(self, error: BaseException, depth: int) -> dict[str, Any]:
        """The map of an error; ``has_room`` was asked before."""
        found = self._outline(error)
        if not self._detail:
            return found
        notes = self._notes_of(error)
        found["tb"] = self._traceback_of(error)
        if self._detail > 1 and not isinstance(error, RemoteError):
            found |= self._carried_by(error, depth)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None and self.has_room(depth + 1):
            found["c"] = self.to_map(cause, depth + 1)
        if depth < _ERROR_DEPTH_MAX and isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            found["x"] = [self.to_map(one, depth + 1) for one in group.exceptions if self.has_room(depth + 1)]
            found["m"] = shorten(group.message, self.text_max)  # Python adds a count to the text
            if more := len(group.exceptions) - len(found["x"]):
                notes.append(f"{more} more errors are not shown")
        if notes:
            found["n"] = notes
        return found

    def _outline(self, error: BaseException) -> dict[str, Any]:
        """Type and message; for an error from another process, those that it had there."""
        if isinstance(error, RemoteError):
            return {"t": shorten(error.type, self.text_max), "m": shorten(error.message, self.text_max)}
        return {"t": type_name(error), "m": shorten(_shown(error), self.text_max)}

    def _traceback_of(self, error: BaseException) -> str:
        is_remote = isinstance(error, RemoteError)
        text = error.remote_traceback if is_remote else tracebacks.of_user(error, _ERROR_FRAMES_MAX)
        return shorten(text, self.text_max)

    def _notes_of(self, error: BaseException) -> list[str]:
        return _few(dict.fromkeys(str(note) for note in vars(error).get("__notes__", ())), self.text_max)

    def _carried_by(self, error: BaseException, depth: int) -> dict[str, Any]:
        """Its arguments, and those of its attributes that can be sent.

        An attribute is stored in the first way that works: as plain data that is unchanged when it is read; packed with
        its classes; as plain data that loses its class. If none works, it is left out. Arguments stay together: one
        that can only be shown is stored as its text.
        """
        attributes: dict[str, object] = {"args": _args_of(error), **_state_of(error)}
        if self._attributes is not None:
            attributes = self._attributes(error, attributes)
        args: Any = attributes.get("args")
        plain, special = self._sort({name: value for name, value in attributes.items() if name != "args"}, depth)
        found: dict[str, Any] = {"d": plain}
        if isinstance(args, tuple) and not isinstance(error, BaseExceptionGroup):
            if can_pack(_PLAIN_IN_ERRORS, cast("object", args)):
                found["a"] = list(cast("tuple[object, ...]", args))
            else:
                special["args"] = cast("object", args)
        if special:
            found["s"] = self._pack_special(special, depth)
        return found

    def _sort(self, attributes: dict[str, object], depth: int) -> tuple[dict[str, object], dict[str, object]]:
        """The attributes that are stored as plain data, and those that are packed with their classes."""
        plain = {name: value for name, value in attributes.items() if can_pack(_PLAIN_IN_ERRORS, value)}
        others = {name: value for name, value in attributes.items() if name not in plain}
        if not others:
            return plain, {}
        exact = _InErrors(self, depth, shows=False)
        special = {name: value for name, value in others.items() if can_pack(exact, value)}
        plain |= {
            name: value for name, value in others.items() if name not in special and can_pack(PLAIN_WRITER, value)
        }
        return plain, special

    def _pack_special(self, special: dict[str, object], depth: int) -> bytes:
        """Packed with their classes; without the arguments, if these cannot even be shown."""
        shows = _InErrors(self, depth, shows=True)
        if "args" in special and not can_pack(shows, special["args"]):
            special = {name: value for name, value in special.items() if name != "args"}
        return shows.pack(special)


def _few(notes: Collection[str], text_max: int) -> list[str]:
    """Each note once. If they are many, those in the middle are left out: the first and the last say most."""
    cut = [shorten(note, min(text_max, _NOTES_TEXT_MAX // 2)) for note in notes if note != _NOTES_LEFT_OUT]
    is_all = len(cut) == len(notes)  # false if some were left out before
    if is_all and len(cut) <= _NOTES_MAX and sum(map(len, cut)) <= _NOTES_TEXT_MAX:
        return cut
    first = _within(cut)
    last = _within(reversed(cut[len(first) :]))
    return [*first, _NOTES_LEFT_OUT, *reversed(last)]


def _within(notes: Iterable[str]) -> list[str]:
    """The first notes, up to half of the space for all."""
    kept: list[str] = []
    left = _NOTES_TEXT_MAX // 2
    for note in notes:
        left -= len(note)
        if left < 0 or len(kept) == _NOTES_MAX // 2:
            break
        kept.append(note)
    return kept


def _args_of(error: BaseException) -> tuple[object, ...]:
    args = error.args
    if isinstance(error, OSError) and len(args) == 2 and error.filename is not None:
        return (*args, error.filename) if error.filename2 is None else (*args, error.filename, None, error.filename2)
    return args


def _state_of(error: BaseException) -> dict[str, object]:
    """All its attributes except those that every error has."""
    found: dict[str, object] = {}
    for name, slot in _slots_of(type(error)).items():
        with contextlib.suppress(AttributeError):  # it is not set
            if (value := slot.__get__(error)) is not None or slot.__objclass__ not in _BUILTIN_FIELDS:
                found[name] = value
    if isinstance(error, OSError) and len(error.args) == 2:  # then it is one of the arguments
        found = {name: value for name, value in found.items() if name not in _BUILTIN_FIELDS[OSError]}
    return found | {name: value for name, value in vars(error).items() if name not in _KEPT_BESIDE}


@lru_cache(maxsize=1024)
def _slots_of(kind: type) -> dict[str, types.MemberDescriptorType]:
    """The slots in which instances of a class keep attributes outside their ``__dict__``."""
    found: dict[str, types.MemberDescriptorType] = {}
    for cls in kind.__mro__:
        names = _BUILTIN_FIELDS.get(cls, vars(cls) if "__slots__" in vars(cls) else ())
        for name in names:
            slot = vars(cls).get(name)
            if isinstance(slot, types.MemberDescriptorType):
                found.setdefault(name, slot)
    return found


class _PlainInErrors(ProvenWriter):
    """Packs only values that are unchanged when they are read without a type hint."""

    def extend(self, depth: int, value: Any) -> Any:
        if type(value) in _EXACT:
            return super().extend(depth, value)
        raise Unsendable("has a class of its own")


_PLAIN_IN_ERRORS = _PlainInErrors()


class _InErrors(ProvenWriter):
    """Packs the data of errors with its classes; with ``shows`` the rest as its text."""

    def __init__(self, teller: ErrorMapper, depth: int, *, shows: bool) -> None:
        super().__init__()
        self._mapper = teller
        self._depth = depth
        self._shows = shows

    def extend(self, depth: int, value: Any) -> Any:
        if type(value) in _EXACT:
            return super().extend(depth, value)
        kind = value.__class__
        name = class_name(kind)
        if isinstance(kind, EnumType) and value.name in kind.__members__:  # otherwise it is several flags
            return msgpack.ExtType(EXT_MEMBER, self.pack_items(depth, [name, value.name]))
        if isinstance(value, BaseException):
            if self._mapper.has_room(self._depth + 1):
                return msgpack.ExtType(EXT_ERROR, PLAIN_WRITER.pack(self._mapper.to_map(value, self._depth + 1)))
        elif is_named_tuple(kind):
            return msgpack.ExtType(EXT_RECORD, self.pack_items(depth, [name, [*value]]))
        elif dataclasses.is_dataclass(kind):
            return msgpack.ExtType(EXT_RECORD, self.pack_items(depth, [name, dataclass_parts(value)]))
        if not self._shows:
            raise Unsendable("can be read only by the process that made it")
        shown = [shorten(_shown(value, how), self._mapper.text_max) for how in (str, repr)]
        return msgpack.ExtType(EXT_SHOWN, PLAIN_WRITER.pack(shown))


class _Shown(str):  # noqa: SLOT000 - it needs an attribute for its other text
    """A placeholder for a value that could not be sent: it is shown as that value was."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


def _as_shown(text: str, shown: str) -> _Shown:
    value = _Shown(text)
    value.shown = shown
    return value


class _OfErrors(ThoroughUnpacker):
    """Restores the classes in the data of errors, if they are loaded; it runs none of their code."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth

    def restore(self, depth: int, code: int, data: bytes) -> Any:
        match code:
            case 14:
                return _error_from(QUICK_UNPACKER.unpack(data, ON_STACK_MAX), self._depth + 1)
            case 15:
                name, member = self.items(depth, data)
                kind: Any = loaded_class(str(name))
                return kind._member_map_[member] if isinstance(kind, EnumType) else member
            case 16:
                name, parts = self.items(depth, data)
                return _record(loaded_class(str(name)), parts)
            case 17:
                text, shown = QUICK_UNPACKER.unpack(data, ON_STACK_MAX)
                return _as_shown(str(text), str(shown))
            case _:
                return super().restore(depth, code, data)


def _record(kind: type | None, parts: Any) -> Any:
    if kind is not None and isinstance(parts, list) and is_named_tuple(kind):
        return cast("Any", tuple).__new__(kind, parts)
    if kind is not None and isinstance(parts, dict) and dataclasses.is_dataclass(kind):
        made = object.__new__(kind)
        _fill(made, cast("dict[str, Any]", parts))
        return cast("Any", made)
    return tuple(cast("list[Any]", parts)) if isinstance(parts, list) else cast("Any", parts)


def _fill(made: object, attributes: dict[str, Any]) -> None:
    """Set attributes where they are stored, without the code that a class may have for it."""
    slots = _slots_of(type(made))
    for name, value in attributes.items():
        if name in slots:
            slots[name].__set__(made, value)
        else:
            vars(made)[name] = value


def error_of(found: Any) -> Exception:
    try:
        return _error_from(found, 0)
    except Exception as problem:  # noqa: BLE001 - a hostile payload may raise anything; the answer is an error
        return unreadable_error(problem)


def unreadable_error(problem: Exception) -> RemoteError:
    return RemoteError("unknown", f"the error cannot be read: {problem}")


def _error_from(found: Any, depth: int) -> Exception:
    if depth > _ERROR_DEPTH_MAX or not isinstance(found, dict):
        raise CorruptData("it is not an error of ours")
    data = cast("dict[str, Any]", found)
    name, message, remote = str(data["t"]), str(data.get("m", "")), str(data.get("tb", ""))
    inner = [_error_from(one, depth + 1) for one in data.get("x", ())]
    kind = _loaded_error(name)
    error = _group(kind, message, inner, data, depth) if inner else _known_error(kind, message, data, depth)
    notes = [str(note) for note in data.get("n", ())]
    if error is None:
        error = RemoteError(name, message, remote)
    elif remote:
        notes.insert(0, f"{RAISED_THERE}{remote.rstrip()}")
    if notes:  # the same as add_note, which would run the class's code for a missing attribute
        vars(error)["__notes__"] = notes
    if "c" in data:
        error.__cause__ = _error_from(data["c"], depth + 1)
    return error


def _carried(data: dict[str, Any], depth: int) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """The arguments of an error, None if they are not known, and its attributes."""
    special: dict[str, Any] = _OfErrors(depth).unpack(data["s"], ON_STACK_MAX) if "s" in data else {}
    args = special.pop("args", data.get("a"))
    return None if args is None else tuple(args), data.get("d", {}) | special


def _group(
    kind: type[Exception] | None, message: str, inner: list[Exception], data: dict[str, Any], depth: int
) -> Exception:
    if kind is not None and issubclass(kind, ExceptionGroup):
        with contextlib.suppress(Exception):
            made: Any = cast("Any", ExceptionGroup).__new__(kind, message, inner)
            group: Exception = made
            _fill(group, _carried(data, depth)[1])
            return group
    return ExceptionGroup(message, inner)


def _known_error(kind: type[Exception] | None, message: str, data: dict[str, Any], depth: int) -> Exception | None:
    """An instance of a class, made without its code; None if that is not possible.

    If its arguments could not be sent, its message is its only argument.
    """
    if kind is None or issubclass(kind, RemoteError):
        return None
    try:
        args, attributes = _carried(data, depth)
        if args is None:
            args = (_as_shown(message, message),)
        error = _made(kind, args, attributes)
        if _message_of(error) != message:
            error = _made(_with_message(kind), args, attributes | {"__said__": message})
    except Exception:  # noqa: BLE001 - a class that has other bases than Python's own errors, or bytes from anywhere
        return None
    return error


def _made(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    base: Any = kind
    while vars(builtins).get(base.__name__) is not base:
        base = base.__base__
    if base.__name__.startswith("Unicode") and any(isinstance(arg, int) and arg < 0 for arg in args):
        raise ValueError("a position before the beginning, where Python 3.11 would look")
    error: Exception = base.__new__(kind, *args)
    try:
        base.__init__(error, *args)  # in C, because it is built in
    except Exception:  # noqa: BLE001 - its own class may have replaced these arguments
        BaseException.__init__(error, *args)
    _fill(error, attributes)
    return error


def _message_of(error: Exception) -> str | None:
    try:
        return shorten(str(error), ERROR_TEXT_MAX)
    except Exception:  # noqa: BLE001 - it lacks an attribute that could not be sent
        return None


@lru_cache(maxsize=64)
def _with_message(kind: type[Exception]) -> type[Exception]:
    """A class that looks like ``kind``, for an instance that lacks the data for its message."""
    same = {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    message: Callable[[Exception], str] = lambda error: vars(error)["__said__"]  # noqa: E731 - a def would be named
    return type(kind)(kind.__name__, (kind,), {**same, "__str__": message})


def _loaded_error(name: str) -> type[Exception] | None:
    """The class of errors with this name in payloads; None if it is not loaded, or controls Python itself."""
    kind = loaded_class(name)
    is_control_flow = (
        kind is None or not issubclass(kind, Exception) or issubclass(kind, StopIteration | StopAsyncIteration)
    )
    return None if is_control_flow else cast("type[Exception]", kind)
