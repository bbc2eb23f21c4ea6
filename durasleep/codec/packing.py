"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints.

Extension types: 1 datetime (ISO text and zone key), 2 date, 3 time, 4 timedelta (microseconds), 5 UUID,
6 Decimal, 7 set, 8 frozenset, 9 tuple, 10 integers beyond 64 bits, 11 complex, 12 the class of a map and 13 of another
value, where a union has several alike. Dataclasses, structs and models travel as maps, enums as their values; the hints
of the function that receives them give them their shape back. What is received is made anew: the ``__post_init__`` of a
dataclass runs again, on what the first one has left in its fields. A model is validated again; one that this would
change has a mark without a name, and is taken as it is. Only what errors carry has no hints: 14 another error, 15 a
member of an enum, 16 a dataclass or named tuple, 17 what can only be shown.
Never pickle, and never an import by a name from data. The only importer of msgpack.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import inspect
import operator
import sys
import threading
import types
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum, EnumType
from functools import lru_cache, partial
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec

from durasleep import tracebacks
from durasleep.errors import CorruptData, NotSerializable, PayloadTooLarge, RemoteError, UsageError
from durasleep.model import PAYLOAD_BYTES_MAX

_msgpack: Any = msgpack  # its stubs say less than it does, and a cast is a call

_DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _DECIMAL, _SET, _FROZENSET, _TUPLE, _INT, _COMPLEX = range(1, 12)
_MARK, _MARKED, _ERROR, _MEMBER, _RECORD, _SHOWN = range(12, 18)

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
RAISED_THERE = "it was raised there:\n"  # begins the note of an error that has the traceback of elsewhere
_HINTS_MAX = 1_000  # looked at in one function: those that refer to each other end, too
_ERROR_TEXT_MAX = 8_192  # of a message or traceback: the place of an error, not its history
_ERROR_FRAMES_MAX = 20
_ERROR_DEPTH_MAX = 8  # causes of causes, groups in groups
_NOTES_MAX = 16  # of one error; each level it passes through adds one
_NOTES_TEXT_MAX = 4_096  # all together
_NOTES_LEFT_OUT = "(notes in between are left out)"
_LINE_DEPTH_MAX = 3  # groups in groups that one line tells of, and how many of each, so long at most
_LINE_MEMBERS_MAX = 5
_LINE_MEMBER_MAX = 300
_LINE_MAX = 4000  # characters of a message as it is logged and listed
_ERRORS_MAX = 100  # told in one payload, however they refer to each other


class _Packers(threading.local):
    """A kept packer for each thread: making one costs more than packing a number."""

    def __init__(self) -> None:
        self.pack = cast("Callable[[object], bytes]", msgpack.Packer(autoreset=True).pack)


_packers = _Packers()


class PayloadHook(Protocol):
    """Encrypts or compresses payloads on their way; ``unwrap`` undoes ``wrap``.

    Payloads are arguments, results and errors. An error is stored with its message, notes and traceback, and with its
    ``args`` and attributes as far as they can be sent: a request, a password, whatever its class keeps in them. A hook
    that has ``error_attributes``, see ``ErrorHook``, says which of them are. The worker's log has type and message.
    """

    def wrap(self, payload: bytes) -> bytes: ...
    def unwrap(self, payload: bytes) -> bytes: ...


ErrorAttributes = Callable[[BaseException, dict[str, object]], dict[str, object]]


class ErrorHook(PayloadHook, Protocol):
    """A hook that also decides what is stored of an error."""

    def error_attributes(self, error: BaseException, attributes: dict[str, object]) -> dict[str, object]:
        """Answer what is stored of these: by name the attributes of the error, its ``args`` among them.

        It is asked for each cause and each member of a group, too. Leave the error itself as it is: retries look at it.
        Where it raises, nothing of them is stored. The message and the notes are always, so they are for no secrets.
        """
        ...


class Codec:
    """Encodes and decodes arguments, results and errors; one object may serve all threads."""

    def __init__(
        self, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX, outer: PayloadHook | ErrorHook | None = None
    ) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._outer = outer
        self._error_attributes: ErrorAttributes | None = getattr(outer, "error_attributes", None)

    @property
    def payload_bytes_max(self) -> int:
        """The cap of one payload."""
        return self._payload_bytes_max

    def encode(self, value: object, what: str, fn: Callable[..., Any] | None = None) -> bytes:
        """The payload for a value; NotSerializable or PayloadTooLarge name ``what`` and the place in it.

        Where it is the result of ``fn``, whose hints could be read in two ways, it says which is meant.
        """
        payload = self._wrap(_pack(value, what, fn))
        if len(payload) > self._payload_bytes_max:
            raise PayloadTooLarge(f"{what}: {len(payload)} bytes are over the cap of {self._payload_bytes_max}")
        return payload

    def decode(self, payload: bytes, hint: Any = Any) -> Any:
        """The value, shaped by a type hint; CorruptData for what is no payload, UsageError for what does not fit."""
        value = _unpack(self._unwrap(payload)) if payload else None
        return value if hint is Any else _shape(value, hint, "the value")

    def encode_args(
        self,
        args: Sequence[object],
        kwargs: dict[str, object],
        what: str,
        fn: Callable[..., Any] | None = None,
    ) -> bytes:
        """The payload for the arguments of ``what``; errors as ``encode``, naming the argument.

        ``fn`` is the function they are for, where it is known here.
        """
        writer = _PLAIN if fn is None else _writer_for(fn, of_result=False)
        try:
            payload = self._wrap(writer.pack_call(args, kwargs))
        except Exception:  # packed one by one, the one that failed is named
            for name, value in _named(args, kwargs):
                _pack(value, f"argument {name} of {what}", None)
            raise
        if len(payload) > self._payload_bytes_max:
            sizes = {name: len(writer.pack(value)) for name, value in _named(args, kwargs)}
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

    def show_args(self, payload: bytes) -> str:
        """What arguments there are, without their values: ``2 arguments, and 'days'``."""
        found: Any = _unpack(self._unwrap(payload))
        args, kwargs = found if type(found) in _LIST and len(found) == 2 else _NEITHER
        if (type(args), type(kwargs)) != _ARGUMENTS:
            return "no list of arguments"
        return ", and ".join([f"{len(args)} argument{'s' * (len(args) != 1)}", *map(repr, kwargs)])

    def show_misfit(self, misfit: Exception) -> str:
        """What an error of ``decode`` says, for a place that no hook encrypts: with a hook, without values."""
        text = str(misfit)
        return text if self._outer is None else text.partition(": ")[0]

    def encode_error(self, error: BaseException, *, retried: bool | None = None) -> bytes:
        """The payload for an error: type, message, arguments, attributes, notes, causes and a trimmed traceback.

        Whatever the error is made of, there is a payload within the cap; only a failing hook can prevent it. With
        ``retried`` it says whether another attempt follows the one that failed so.
        """
        verdict = {} if retried is None else {"r": retried}
        for detail, text_max in ((2, _ERROR_TEXT_MAX), (1, _ERROR_TEXT_MAX), (0, self._payload_bytes_max // 4)):
            teller = _Teller(detail, min(text_max, _ERROR_TEXT_MAX), self._error_attributes)
            try:
                packed = _PLAIN.pack(teller.tell(error, 0) | verdict)
            except Exception:  # noqa: BLE001, S112 - a user's error may do anything when looked at; less is told of it
                continue
            payload = self._wrap(packed)
            if len(payload) <= self._payload_bytes_max:
                return payload
        return self._wrap(_PLAIN.pack({"t": _cut(_type_name(error), 200), "m": "(it cannot be shown)"} | verdict))

    def decode_error(self, payload: bytes) -> Exception:
        """An exception for any payload: of its own class if that is loaded here, else RemoteError."""
        try:
            return self.read_error(payload)
        except CorruptData as problem:
            return _unreadable(problem)

    def read_error(self, payload: bytes) -> Exception:
        """As ``decode_error``, but CorruptData for what the hook cannot read, or what is none of our payloads."""
        return _error_of(_unpack(self._unwrap(payload)))

    def was_retried(self, payload: bytes) -> bool | None:
        """What ``encode_error`` was told of another attempt; CorruptData as ``read_error``."""
        found = _unpack(self._unwrap(payload))
        retried = cast("dict[str, Any]", found).get("r") if isinstance(found, dict) else None
        return retried if isinstance(retried, bool) else None

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


def _pack(value: object, what: str, fn: Callable[..., Any] | None) -> bytes:
    if value is None or type(value) in _SMALL or (type(value) is str and len(value) < _SHORT):
        try:
            return _packers.pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a large integer is an extension; a broken string is told below
    try:
        return (_PLAIN if fn is None else _writer_for(fn, of_result=True)).pack(value)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything when asked for its parts
        if isinstance(error, RecursionError) or "recursion limit" in str(error):
            raise NotSerializable(f"{what} is nested too deeply, or contains itself") from None
        path = _find_culprit(value)
        reason = str(error) if isinstance(error, _Unsendable) else f"cannot be sent: {error or type(error).__name__}"
        raise NotSerializable(f"{what}: {path} {reason}" if path else f"{what} {reason}") from None


def _named(args: Iterable[object], kwargs: dict[str, object]) -> list[tuple[str, object]]:
    return [(str(index), value) for index, value in enumerate(args, 1)] + [
        (repr(name), value) for name, value in kwargs.items()
    ]


class _Unsendable(TypeError):
    """Its text goes on from the name of a value: ``is a socket, which cannot be sent``."""


class _Writer:
    """Packs values, as plain as they can be, and models as they are."""

    def __init__(self) -> None:
        self._extend_at = tuple([partial(self.extend, depth) for depth in range(_NESTED_MAX + 1)])

    def pack(self, value: object, depth: int = 0) -> bytes:
        return _msgpack.packb(value, default=self._extend_at[depth], strict_types=True)

    def pack_call(self, args: Iterable[object], kwargs: dict[str, object]) -> bytes:
        """The arguments of a call."""
        return _msgpack.packb([list(args), kwargs], default=self._extend_at[0], strict_types=True)

    def extend(self, depth: int, value: Any) -> Any:
        """What MessagePack does not know as something it does; ``_Unsendable`` for what cannot be sent."""
        match value:
            case None:
                return None
            case Enum():
                return self.extend(depth, value.value)
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
                return msgpack.ExtType(_TUPLE, self.pack_items(depth, value))
            case set():
                return msgpack.ExtType(_SET, self.pack_items(depth, value))
            case frozenset():
                return msgpack.ExtType(_FROZENSET, self.pack_items(depth, value))
            case complex():
                return msgpack.ExtType(_COMPLEX, repr(complex(value)).strip("()").encode())
            case float():
                return float(value)
            case bytes() | bytearray() | memoryview():
                return bytes(cast("bytes", value))
            case list() | deque():
                return list(cast("Iterable[object]", value))
            case _MarkedMap() | _HashedMap():
                marks = {_KEPT: value.kept} if value.kept is not None else {}
                named = {msgpack.ExtType(_MARK, value.mark.encode()): None} if value.mark is not None else {}
                return {**marks, **named, **value}
            case dict():
                return dict(cast("dict[object, object]", value))
            case PurePath():
                return str(value)
            case msgspec.Struct():
                return _struct_parts(value)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return _dataclass_parts(value)
            case _ if _is_model(value.__class__):
                parts = self.model_parts(value)
                return cast("Any", parts) if type(parts) is dict else self.extend(depth, parts)
            case _:
                raise _Unsendable(f"is a {type(value).__qualname__}, which cannot be sent")

    def pack_items(self, depth: int, items: Any) -> bytes:
        if depth >= _NESTED_MAX:
            raise RecursionError
        return self.pack(list(items), depth + 1)

    def model_parts(self, value: Any) -> Any:
        """What a model travels as: a map, or the value of a root model."""
        fields, _ = _model_state(value)
        return fields["root"] if _is_root(value) else fields


class _ProvenWriter(_Writer):
    """Packs what is sent: models so that they are what they were where they arrive."""

    def model_parts(self, value: Any) -> Any:
        return _proven_parts(value)


class _MarkingWriter(_ProvenWriter):
    """Packs instances of some classes with the name of their class."""

    def __init__(self, marked: frozenset[type]) -> None:
        super().__init__()
        self._marked = marked

    def extend(self, depth: int, value: Any) -> Any:
        for kind in type(value).__mro__:
            if kind in self._marked:
                return self._with_mark(depth, value, class_name(kind))
        return super().extend(depth, value)

    def _with_mark(self, depth: int, value: Any, mark: str) -> Any:
        # The value of a member of an enum may be of a class that is named, too: it is the member that has the name.
        extend = _PLAIN.extend if isinstance(value, Enum) else super().extend
        parts: Any = [*value] if isinstance(value, tuple) else extend(depth, value)
        if isinstance(parts, dict):
            found = cast("dict[Any, object]", parts)
            beside = {_KEPT: found.pop(_KEPT)} if _KEPT in found else {}
            return {**beside, msgpack.ExtType(_MARK, mark.encode()): None, **found}
        if type(parts) not in _MARKED_AS and not isinstance(parts, msgpack.ExtType):
            return parts
        return msgpack.ExtType(_MARKED, self.pack_items(depth, [mark, parts]))


class _MapMarkingWriter(_MarkingWriter):
    """Also names maps that are no more than that, beside classes that travel as maps."""

    def pack(self, value: object, depth: int = 0) -> bytes:
        return super().pack(_with_plain_maps(value), depth)

    def pack_call(self, args: Iterable[object], kwargs: dict[str, object]) -> bytes:
        named = {name: _with_plain_maps(value) for name, value in kwargs.items()}
        return super().pack([[_with_plain_maps(value) for value in args], named])

    def extend(self, depth: int, value: Any) -> Any:
        if self._is_plain(value):
            return {msgpack.ExtType(_MARK, class_name(dict).encode()): None, **value}
        parts = super().extend(depth, value)
        if type(parts) is dict:
            return {name: _with_plain_maps(part) for name, part in cast("dict[Any, Any]", parts).items()}
        return _with_plain_maps(parts)

    def _is_plain(self, value: Any) -> bool:
        """Of a dict itself, which the packer never asks about, it is a model or a member of an enum."""
        kind = value.__class__
        is_map = issubclass(kind, dict) and kind not in (dict, _MarkedMap, _HashedMap)
        return is_map and self._marked.isdisjoint(kind.__mro__)


def _with_plain_maps(value: Any) -> Any:
    """A value whose maps the packer asks about: those that are plain dicts it would not."""
    if type(value) is dict:
        return _PlainMap({name: _with_plain_maps(part) for name, part in cast("dict[Any, Any]", value).items()})
    return [_with_plain_maps(part) for part in cast("list[Any]", value)] if type(value) is list else value


class _PlainMap(dict[Any, Any]):
    pass


class _ProofWriter(_Writer):
    """Packs values to compare them: models with all they hold, and sets in one order."""

    def __init__(self, *, roots_as_maps: bool) -> None:
        super().__init__()
        self._roots_as_maps = roots_as_maps

    def pack_items(self, depth: int, items: Any) -> bytes:
        if isinstance(items, set | frozenset):
            items = sorted(cast("set[object]", items), key=partial(self.pack, depth=depth))
        return super().pack_items(depth, items)

    def model_parts(self, value: Any) -> Any:
        fields, private = _model_state(value)
        is_bare = _is_root(value) and not (private or self._roots_as_maps)
        return fields["root"] if is_bare else {_KEPT: [private], **fields}


class _ModelessWriter(_Writer):
    """Packs what holds no models: who holds whom may go round."""

    def model_parts(self, value: Any) -> Any:
        raise _Unsendable(f"is a {type(value).__qualname__}, of which something may hold this")


_DATA, _MODELESS = _Writer(), _ModelessWriter()
_PLAIN = _ProvenWriter()
_PROOF, _AS_IT_IS = _ProofWriter(roots_as_maps=False), _ProofWriter(roots_as_maps=True)


@lru_cache(maxsize=256)
def _writer_of(marked: frozenset[type]) -> _Writer:
    return _MapMarkingWriter(marked - {dict}) if dict in marked else _MarkingWriter(marked)


def _writer_for(fn: Callable[..., Any], *, of_result: bool) -> _Writer:
    """What packs a function's arguments or result, so that its hints can be read in one way only."""
    try:
        call = _call_of(fn)
    except (TypeError, ValueError):  # it has no hash, or no signature
        return _PLAIN
    marked = call.alike_in_result if of_result else call.alike_in_arguments
    return _writer_of(marked) if marked else _PLAIN


def _is_model(kind: Any) -> bool:
    """Whether this is a model of pydantic, which need not be installed."""
    return hasattr(kind, "model_dump") and hasattr(kind, "model_validate")


_KEPT = msgpack.ExtType(_MARK, b"")
"""The key of a list in a map: it is a model to be taken as it is, with these private attributes, and these fields set.

What was written for readers that do not know this is a map to them."""


def _proven_parts(value: Any) -> Any:
    """What a model will be made of again as it is; ``_Unsendable`` if it will not.

    It is read here as it will be there. A map is validated; if that would change it (a strict field of a class that
    travels as text, a validator that does not take what it has made, a private attribute), it says that it is not to
    be. What was set past all validation may become what the hint of its field says.
    """
    kind = value.__class__
    fields, private = _model_state(value)
    parts = fields.get("root") if _is_root(value) else fields
    if not private and _is_given_back(kind, fields, parts):
        return parts
    sent, validated = _PROOF.pack(value), None
    with contextlib.suppress(Exception):  # of its validators
        again = _validated(kind, _THOROUGH.unpack(sent))
        validated = _PROOF.pack(again)
        if validated == sent or again == value:
            return parts
    exact = {_KEPT: [private, sorted(value.model_fields_set)], **fields}
    try:
        again = _taken_as_it_is(kind, _THOROUGH.unpack(_AS_IT_IS.pack(exact)))
    except Exception as misfit:  # noqa: BLE001 - of a class that checks itself, or has a __post_init__ that fails
        if validated is not None and not private and _is_stable(kind, validated):
            return parts
        raise _unsendable_model(kind, str(misfit)) from None
    found = _PROOF.pack(again)
    if found == validated:
        return parts
    if found == sent or again == value:
        return exact
    changed = [name for name, one in fields.items() if _PROOF.pack(one) != _PROOF.pack(getattr(again, name, None))]
    what = f"field {changed[0]!r}" if changed else "a private attribute"
    raise _unsendable_model(kind, f"{what} would be read as something else")


def _is_stable(kind: Any, validated: bytes) -> bool:
    """Whether a model, as it is read, would be read so again."""
    with contextlib.suppress(Exception):  # of its validators
        return _PROOF.pack(_validated(kind, _THOROUGH.unpack(validated))) == validated
    return False


def _unsendable_model(kind: type, reason: str) -> _Unsendable:
    return _Unsendable(f"is a {kind.__qualname__}, which cannot be sent: {' '.join(reason.split())}")


def _is_given_back(kind: Any, fields: dict[str, Any], parts: Any) -> bool:
    """Whether a model holds but plain values, and validation gives the same."""
    if not _PLAIN_TYPES.issuperset(map(type, fields.values())):
        return False
    with contextlib.suppress(Exception):  # of its validators
        found, private = _model_state(_validated(kind, {**parts} if parts is fields else parts))
        same = found.keys() == fields.keys() and [*map(type, found.values())] == [*map(type, fields.values())]
        return same and not private and found == fields
    return False


def _model_state(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a model with what it has beyond them, and those of its private attributes that can be sent.

    The others, a lock or a client, are the class's own to make.
    """
    kind: Any = value.__class__
    given = cast("dict[str, Any]", vars(value))
    extra: dict[str, Any] = getattr(value, "__pydantic_extra__", None) or {}
    if both := extra.keys() & kind.model_fields.keys():
        raise _unsendable_model(kind, f"{min(both)!r} is a field, and there is another value of this name")
    private: dict[str, Any] = getattr(value, "__pydantic_private__", None) or {}
    fields: dict[str, Any] = {name: given[name] for name in kind.model_fields if name in given}
    return {**fields, **extra}, {name: one for name, one in private.items() if _can(_MODELESS, one)}


def _is_root(value: Any) -> bool:
    return getattr(value, "__pydantic_root_model__", False) is True and "root" in vars(value)


def _struct_parts(value: Any) -> Any:
    """A struct as ``msgspec.convert`` expects it: its names outside, its tag, or a list for ``array_like``."""
    config = value.__struct_config__
    parts = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return parts if config.tag is None else [config.tag, *parts]
    found: dict[str, object] = {} if config.tag is None else {config.tag_field: config.tag}
    named = zip(value.__struct_encode_fields__, parts, strict=True)
    return found | {name: part for name, part in named if part is not msgspec.UNSET}


def _dataclass_parts(value: Any) -> dict[str, object]:
    lost = _lost_in(value.__class__)
    if lost:
        raise _Unsendable(f"needs {lost!r} to be made again, which it does not keep: it cannot be sent")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@lru_cache(maxsize=1024)
def _lost_in(kind: Any) -> str:
    """An ``InitVar`` of a dataclass that must be given, if there is one: nothing tells what it was."""
    declared: dict[str, dataclasses.Field[Any]] = kind.__dataclass_fields__
    of_init = dataclasses._FIELD_INITVAR  # type: ignore[attr-defined]
    needed = [one for one in declared.values() if one._field_type is of_init and one.default is dataclasses.MISSING]  # type: ignore[attr-defined]
    return needed[0].name if needed else ""


def _pack_int(value: int) -> bytes:
    if value.bit_length() > _INT_BITS_MAX:
        raise _Unsendable(f"is an integer of more than {_INT_BITS_MAX} bits, which cannot be sent")
    return b"%x" % value


def _find_culprit(value: Any, path: str = "") -> str:
    """Where in a value the part is that cannot be sent: a path such as ``['items'][3]``."""
    for _ in range(_SHOWN_PATH_DEPTH):
        for where, child in _parts_of(value):
            try:
                _PLAIN.pack(child)
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
        case _ if _is_model(value.__class__):
            with contextlib.suppress(Exception):
                return [(f".{name}", one) for name, one in _model_state(value)[0].items()]
            return []
        case _:
            return []


class _MarkedMap(dict[Any, Any]):
    """A map that says of which class it was, or what a model held beside its fields; to everybody else a dict."""

    mark: str | None = None
    kept: Any = None


class _MarkedTuple(tuple[Any, ...]):  # noqa: SLOT001 - it needs a place for its mark
    mark: str


class _MarkedText(str):  # noqa: SLOT000 - likewise
    mark: str


class _MarkedInt(int):
    mark: str


_MARKED_AS: dict[type, Any] = {
    list: _MarkedTuple,
    tuple: _MarkedTuple,
    str: _MarkedText,
    int: _MarkedInt,
    bool: _MarkedInt,
    **{
        kind: type(f"_Marked{kind.__name__.title()}", (kind,), {})
        for kind in (float, bytes, frozenset, set, datetime, date, time, timedelta, Decimal, UUID, complex)
    },
}


class _HashedMap(dict[Any, Any]):
    """A map that was a key or an item of a set: what it is to become has a hash, so it must have one until then."""

    mark: str | None = None
    kept: Any = None

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - that is what it is for
        return hash(frozenset((key, _hashable(value)) for key, value in self.items()))

    def __eq__(self, other: object) -> bool:
        differ = isinstance(other, _HashedMap) and (other.mark, other.kept) != (self.mark, self.kept)
        return not differ and dict.__eq__(self, other) is True


def _hashable(value: Any) -> Any:
    """What was a key or an item of a set, as something that can be one."""
    match value:
        case _ if _has_hash(value):
            return value
        case list() | tuple():
            return _marked_alike(tuple(map(_hashable, cast("list[Any]", value))), cast("object", value))
        case dict():
            hashed = _HashedMap(cast("dict[Any, Any]", value))
            hashed.kept = kept_of(cast("object", value))
            return _with_mark(hashed, mark_of(cast("object", value)))
        case set():
            return _marked_alike(frozenset(cast("set[Any]", value)), cast("object", value))
        case _:
            return value


def _marked_alike(made: Any, value: object) -> Any:
    mark = mark_of(value)
    return made if mark is None else _with_mark(_MARKED_AS[type(made)](made), mark)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class _Special(Exception):
    """A payload has marks or keys that only the thorough one takes."""


class _Unpacker:
    """Unpacks values; the quick one knows no marks, and no keys or items of sets but those that have a hash."""

    _pairs_hook: Callable[[Any], Any] | None = None

    def __init__(self) -> None:
        self._restore_at = tuple([partial(self.restore, depth) for depth in range(_NESTED_MAX + 1)])

    def hook(self, depth: int) -> Callable[[int, bytes], Any]:
        """What restores the extensions in a value at a depth."""
        return self._restore_at[depth]

    def unpack(self, payload: bytes, depth: int = 0) -> Any:
        """One value; its lengths are bounded by the payload's own, its depth by msgpack and ``_NESTED_MAX``."""
        hook = self.hook(depth)
        if depth < _ON_STACK_MAX:
            return _msgpack.unpackb(
                payload, ext_hook=hook, strict_map_key=False, timestamp=3, object_pairs_hook=self._pairs_hook
            )
        unpacker = _msgpack.Unpacker(
            ext_hook=hook,
            strict_map_key=False,
            timestamp=3,
            max_buffer_size=len(payload),
            object_pairs_hook=self._pairs_hook,
        )
        unpacker.feed(payload)
        found = unpacker.unpack()
        if unpacker.tell() != len(payload):
            raise ValueError("there is more than one value")
        return found

    def restore(self, depth: int, code: int, data: bytes) -> Any:
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
                return self.set_of(set, depth, data)
            case 8:
                return self.set_of(frozenset, depth, data)
            case 9:
                return tuple(self.items(depth, data))
            case 10:
                if len(data) > _INT_BITS_MAX // 4 + 1:
                    raise ValueError("an integer of too many digits")
                return int(data, 16)
            case 11:
                return complex(data.decode())
            case 12 | 13:
                raise _Special
            case _:
                raise ValueError(f"extension type {code} is unknown")

    def items(self, depth: int, data: bytes) -> list[Any]:
        if depth >= _NESTED_MAX:
            raise ValueError("it is nested too deeply")
        found = self.unpack(data, depth + 1)
        if not isinstance(found, list):
            raise ValueError("a list was expected")  # noqa: TRY004 - it becomes CorruptData, as all of these
        return cast("list[Any]", found)

    def set_of(self, kind: type[Any], depth: int, data: bytes) -> Any:
        try:
            return kind(self.items(depth, data))
        except TypeError:
            raise _Special from None


class _ThoroughUnpacker(_Unpacker):
    """Reads everything, at a third of the speed."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs_hook = _map_of

    def restore(self, depth: int, code: int, data: bytes) -> Any:
        match code:
            case 12:
                return _Mark(data.decode())
            case 13:
                mark, parts = self.items(depth, data)
                kind = _MARKED_AS.get(parts.__class__)
                return parts if kind is None else _with_mark(_as_subclass(kind, parts), str(mark))
            case _:
                return super().restore(depth, code, data)

    def set_of(self, kind: type[Any], depth: int, data: bytes) -> Any:
        return kind(map(_hashable, self.items(depth, data)))


class _Mark(str):
    """The key under which a map has the name of its class, or, if it is empty, what a model held beside its fields."""

    __slots__ = ()


def _with_mark(value: Any, mark: str | None) -> Any:
    object.__setattr__(value, "mark", mark)
    return value


def mark_of(value: object) -> str | None:
    """The name of the class a value had where it was sent, if that was told."""
    return getattr(value, "mark", None) if isinstance(value, _HAVE_MARKS) else None


def kept_of(value: object) -> Any:
    """What a model held beside its fields, if it is to be taken as it is."""
    return value.kept if isinstance(value, _MarkedMap | _HashedMap) else None


_HAVE_MARKS = (_MarkedMap, _HashedMap, *set(_MARKED_AS.values()))


def _map_of(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    mark, kept, found = None, None, dict[Any, Any]()
    for key, value in pairs:
        if type(key) is not _Mark:
            found[_hashable(key)] = value
        elif key:
            mark = str(key)
        else:
            kept = value
    if mark is None and kept is None:
        return found
    marked = _MarkedMap(found)
    marked.kept = kept
    return _with_mark(marked, mark)


_QUICK, _THOROUGH = _Unpacker(), _ThoroughUnpacker()
_restore = _QUICK.hook(0)


def _unpack(payload: bytes) -> Any:
    try:  # as `_QUICK.unpack` does: nearly all that is read, and half the time of a call were the calls in between
        return _msgpack.unpackb(payload, ext_hook=_restore, strict_map_key=False, timestamp=3)
    except (TypeError, _Special):
        pass  # a key without a hash is a TypeError
    except _BAD_BYTES as error:
        raise _corrupt(error) from None
    try:
        return _THOROUGH.unpack(payload)
    except _BAD_BYTES as error:
        raise _corrupt(error) from None


def _corrupt(error: Exception) -> CorruptData:
    return CorruptData(f"a payload is not one of ours: {error or type(error).__name__}")


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


_STRICT, _LENIENT = (True,), (False,)


def _shape(value: Any, hint: Any, what: str, modes: tuple[bool, ...] = (True, False)) -> Any:
    """A decoded value as its hint says; strictly if it fits so, else leniently (``"5"`` as an int)."""
    if hint is Any or type(value) is hint:
        return value
    if _is_misread(hint):
        hint = _known(hint)
    misfit: Exception | None = None
    for strict in modes:
        try:
            return msgspec.convert(value, hint, strict=strict, dec_hook=_convert)
        except Exception as error:  # noqa: BLE001 - a class may check itself and raise anything
            misfit = misfit or error
        known = _known(hint)
        if known is not hint:
            return value if known is Any else _shape(value, known, what, modes)
        if isinstance(misfit, TypeError | NameError):  # of a hint that nobody knows
            return value
    raise UsageError(f"{what} does not fit {_show_hint(hint)}: {' '.join(str(misfit).split())}") from misfit


def _convert(kind: Any, value: Any) -> Any:
    """What msgspec leaves to us: generic collections, models, paths, and classes of the user's own."""
    if isinstance(kind, _ReaderOfHint):
        return kind.read(value)
    if isinstance(kind, _LaterHint):
        return _shape(value, kind.meaning(), "the value")
    origin = typing.get_origin(kind) or kind
    if origin in _COLLECTIONS:
        return _COLLECTIONS[origin](value, typing.get_args(kind))
    if getattr(origin, "_is_protocol", False):
        return value
    if isinstance(value, origin):
        parts = typing.get_args(kind)
        return _shape_items(value, parts[0]) if parts and inspect.isabstract(origin) else value
    if _is_model(kind):
        return _validated(kind, value) if kept_of(value) is None else _taken_as_it_is(kind, value)
    if isinstance(value, _MarkedTuple) and issubclass(origin, list):
        return cast("Any", origin)(value)
    if issubclass(origin, PurePath | complex):
        return cast("Any", origin)(value)
    if any(isinstance(value, base) and issubclass(origin, base) for base in _TRAVELS_AS):
        return _as_subclass(origin, value)
    raise ValueError(f"expected a {origin.__qualname__}, got {type(value).__qualname__}")


def _validated(kind: Any, value: Any) -> Any:
    """A model of what came as a map, under the names of its fields or their aliases."""
    try:
        return kind.model_validate(value, by_alias=True, by_name=True)
    except TypeError:  # pydantic before 2.11
        return kind.model_validate(value)


def _taken_as_it_is(kind: Any, value: Any) -> Any:
    """A model with the fields and private attributes it was sent with, each as its hint says, and not validated."""
    private, *rest = kept_of(value)
    fields = {name: _field_of_model(name, field, value) for name, field in kind.model_fields.items()}
    fields_set = fields.keys() & rest[0] if rest else fields.keys()
    others = {name: one for name, one in value.items() if name not in fields}
    takes_others = kind.model_config.get("extra")
    if others and takes_others == "forbid":
        raise ValueError(f"it has no field {next(iter(others))!r}")
    made = kind.__new__(kind)
    state: dict[str, Any] = {"__dict__": {**fields}, "__pydantic_fields_set__": set(fields_set)}
    state["__pydantic_extra__"] = others if takes_others == "allow" else None
    made.__setstate__({**state, "__pydantic_private__": None})
    if kind.__pydantic_post_init__:
        made.model_post_init(None)
    hints = hints_of(kind)
    for name in kind.__private_attributes__.keys() & private:
        made.__pydantic_private__[name] = _shape(private[name], hints.get(name, Any), f"attribute {name!r}")
    made.__setstate__({**state, "__dict__": vars(made) | fields, "__pydantic_private__": made.__pydantic_private__})
    return made


def _field_of_model(name: str, field: Any, found: dict[str, Any]) -> Any:
    if name in found:
        if found[name] and "PydanticRecursiveRef(" in str(field.annotation):
            raise ValueError(f"field {name!r} has the hint of a generic model in itself, which names no class")
        return _shape(found[name], field.annotation, f"field {name!r}", _STRICT)
    if field.is_required():
        raise ValueError(f"field {name!r} is missing")
    if getattr(field, "default_factory_takes_validated_data", False):
        return field.default_factory(found)
    return field.get_default(call_default_factory=True)


def _map_hint(parts: tuple[Any, ...]) -> Any:
    return cast("Any", dict)[parts] if parts else dict


_COLLECTIONS: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
    Counter: lambda value, parts: Counter[Any](_shape(value, _map_hint((*parts, int) if parts else ()), "the counter")),
    OrderedDict: lambda value, parts: OrderedDict(_shape(value, _map_hint(parts), "the map")),
    defaultdict: lambda value, parts: defaultdict(_factory(*parts), _shape(value, _map_hint(parts), "the map")),
    deque: lambda value, parts: deque(_shape(value, cast("Any", list)[parts or Any], "the queue")),
}


def _factory(_: Any = Any, hint: Any = Any) -> Callable[[], Any] | None:
    """What a missing value of such a map is, where its hint says so."""
    kind = _class_of(hint)
    return kind if kind in (int, float, str, list, dict, set) else None


def _shape_items(value: Any, hint: Any) -> Any:
    """What fits an abstract collection keeps its own class."""
    for kind, known in ((list, list[hint]), (tuple, tuple[hint, ...]), (set, set[hint]), (frozenset, frozenset[hint])):
        if isinstance(value, kind):
            return _shape(value, known, "the items")
    return _shape(value, dict[hint, Any], "the keys") if isinstance(value, dict) else value


_TRAVELS_AS: tuple[type, ...] = (
    int,
    str,
    float,
    bytes,
    list,
    tuple,
    set,
    frozenset,
    dict,
    datetime,
    date,
    time,
    timedelta,
    Decimal,
    UUID,
    complex,
)


def _as_subclass(kind: Any, value: Any) -> Any:
    """A value as the class derived from its own that it was sent as."""
    if isinstance(value, date | time | timedelta):
        return kind(*cast("tuple[Any, ...]", value.__reduce_ex__(4)[1]))
    return kind(int=value.int) if isinstance(value, UUID) else kind(value)


class _ReaderOfHint(type):
    """The class of a hint that we read ourselves; whatever it has read is an instance of it."""

    read: Callable[[Any], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _LaterHint(type):
    """The class of a hint that stands for another one, which is found where a value has come; Any if there is none."""

    meaning: Callable[[], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def _later(hint: Any, meaning: Callable[[], Any]) -> _LaterHint:
    return _LaterHint(_show_hint(hint), (), {"meaning": staticmethod(meaning)})


def _reader(hint: Any, read: Callable[[Any], Any]) -> _ReaderOfHint:
    return _ReaderOfHint(_show_hint(hint), (), {"read": staticmethod(read)})


def _known(hint: Any) -> Any:
    """A hint as msgspec knows it; Any for one that nobody does: it says nothing about bytes."""
    return _find_known(hint, str(hint))


# Of what is called or awaited there is no data: whatever comes for it is taken as it is.
_SAYS_NOTHING = (Callable, type, Iterator, Generator, Awaitable, Coroutine, AsyncIterable, AsyncIterator)
_ONLY_SAYS_HOW = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired)


@lru_cache(maxsize=256)
def _find_known(hint: Any, _shown: str) -> Any:  # as it is shown: unions are equal whatever their order
    if isinstance(hint, _ReaderOfHint | _LaterHint) or _is_known(hint):
        return hint
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if (origin or hint) in _SAYS_NOTHING:
        return Any
    if isinstance(hint, EnumType):  # msgspec knows only those of names and numbers
        return _reader(hint, partial(_read_member, hint))
    if _is_union(hint):  # and no union of two that travel alike
        return _reader(hint, partial(_read_one_of, parts, _alike_in(hint)))
    if _alias_of(hint) is not None:
        return _later(hint, partial(_meaning_of, hint))
    if isinstance(hint, TypeVar):
        return _known(_meaning_of_variable(hint))
    if _field_hints(hint):
        return _reader(hint, partial(_read_fields, hint))
    if origin in _ABSTRACT:
        return _reader(hint, partial(_read_abstract, hint, _known_container(origin, parts)))
    if origin in _MAPS and parts and not _is_plain_key(parts[0]):
        return _reader(hint, partial(_read_map, parts))
    if origin is typing.Literal:  # of what is neither text nor a number
        return _reader(hint, partial(_read_literal, parts))
    if origin in _ONLY_SAYS_HOW:
        return _known(parts[0])
    if origin in _COLLECTIONS or (isinstance(origin, type) and origin not in _ARRIVE and _travels_as(origin)):
        return _reader(hint, partial(_convert, hint))
    if isinstance(origin, type) and issubclass(origin, tuple) and any(map(_is_unpacked, parts)):
        return tuple
    if origin in _MAPS or origin in (list, set, frozenset, tuple):
        return _known_container(origin, parts)
    return Any


_ABSTRACT = (Collection, Sequence, MutableSequence, AbstractSet, MutableSet)
_MAPS = (dict, Mapping, MutableMapping)


def _known_container(origin: Any, parts: tuple[Any, ...]) -> Any:
    kind: Any = origin
    if origin in _ABSTRACT:
        kind = set if origin in (AbstractSet, MutableSet) else list
    elif origin in _MAPS:
        kind = dict
    return kind[tuple(part if part is ... else _known(part) for part in parts)] if parts else kind


def _read_abstract(hint: Any, known: Any, value: Any) -> Any:
    """What fits keeps its class; what was sent as JSON gets the usual one."""
    return _convert(hint, value) if isinstance(value, typing.get_origin(hint)) else _shape(value, known, "the value")


def _read_map(parts: tuple[Any, Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"expected a map, got {type(value).__qualname__}")  # noqa: TRY004 - for msgspec
    found = cast("dict[Any, Any]", value)
    return {_shape(key, parts[0], "a key"): _shape(one, parts[1], f"{key!r}") for key, one in found.items()}


def _is_plain_key(hint: Any) -> bool:
    """Whether msgspec reads keys of this kind; text it leaves as it is where it would have to ask us."""
    try:
        return not isinstance(msgspec.inspect.type_info(hint), msgspec.inspect.CustomType)
    except Exception:  # noqa: BLE001 - it knows nothing of such a hint
        return False


def _is_known(hint: Any) -> bool:
    """Whether msgspec reads a hint, and all in it, as it is meant."""
    try:
        msgspec.msgpack.Decoder(hint)
    except (TypeError, NameError):
        return False
    return not (_is_misread(hint) or any(map(_says_nothing, _all_in([hint]))))


def _says_nothing(hint: Any) -> bool:
    if isinstance(hint, type) and hasattr(hint, "__get_pydantic_core_schema__") and hint.__init__ is object.__init__:
        return True  # nothing is an instance of it: it says what pydantic is to check, as EmailStr
    return _is_unpacked(hint) or (_has_hash(hint) and (typing.get_origin(hint) or hint) in _SAYS_NOTHING)


def _is_misread(hint: Any) -> bool:
    """Whether something in a hint is read otherwise by msgspec than it is meant, without a word."""
    try:
        return _has_misread(hint)
    except TypeError:  # it has no hash
        return False


@lru_cache(maxsize=1024)
def _has_misread(hint: Any) -> bool:
    for part in _all_in([hint]):
        origin, parts = typing.get_origin(part), typing.get_args(part)
        if origin in _ABSTRACT or (origin in _MAPS and parts and not _is_plain_key(parts[0])):
            return True
        if _is_union(part) and _alike_in(part):
            return True
    return False


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_unpacked(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Unpack or getattr(hint, "__unpacked__", False)


def _alias_of(hint: Any) -> Any:
    """What ``type X = ...`` has made, of a hint that is one, or one with parameters."""
    alias = typing.get_origin(hint) or hint
    return alias if type(alias).__name__ == "TypeAliasType" else None


def _meaning_of(hint: Any) -> Any:
    alias = _alias_of(hint)
    module = sys.modules.get(alias.__module__)
    names = {alias.__name__: alias} | {one.__name__: one for one in alias.__type_params__}
    value = SimpleNamespace(__annotations__={"value": alias.__value__})
    meaning = typing.get_type_hints(value, vars(module) if module else {}, names, include_extras=True)["value"]
    return _with_parameters(meaning, dict(zip(alias.__type_params__, typing.get_args(hint), strict=False)))


def _meaning_of_variable(hint: TypeVar) -> Any:
    return cast("Any", typing.Union)[hint.__constraints__] if hint.__constraints__ else hint.__bound__ or Any


def _with_parameters(hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    if isinstance(hint, type) or not given or not (left_open := getattr(hint, "__parameters__", ())):
        return hint
    return hint[tuple(given.get(one, one) for one in left_open)]


def _read_one_of(kinds: tuple[Any, ...], alike: frozenset[type], value: Any) -> Any:
    mark = mark_of(value)
    nearest = sorted(kinds, key=lambda kind: _distance(value, kind) if mark is None else not _is_named(kind, mark))
    if mark is not None and not _is_named(nearest[0], mark):
        nearest = [kind for kind in nearest if not _is_another(kind, mark)]
    elif alike and (mark is None or _is_named(nearest[1], mark)):
        nearest.sort(key=lambda kind: not _has_names(kind, value, alike))
    if mark == class_name(dict):
        value = dict(value)
    for modes in (_STRICT, _LENIENT) if kept_of(value) is None else (_STRICT,):
        for kind in nearest:
            with contextlib.suppress(UsageError):
                return _shape(value, kind, "the value", modes)
    raise ValueError(f"it fits none of {', '.join(map(_show_hint, kinds))}")


def _read_literal(meant: tuple[Any, ...], value: Any) -> Any:
    """The one of these that travels as this value."""
    mark, sent = mark_of(value), _data_in(value)
    is_far: Callable[[Any], bool] = lambda one: type(one) is not type(value)  # noqa: E731 - the other is one, too
    for one in sorted(meant, key=is_far if mark is None else lambda one: not _is_named(type(one), mark)):
        if _data_of(one) == sent:
            return one
    raise ValueError(f"it is none of {', '.join(map(repr, meant))}")


def _data_of(value: object) -> object:
    """What travels of a value, to be compared with what has come."""
    return _data_in(_unpack(_DATA.pack(value)))


def _data_in(value: Any) -> object:
    """What has come, to be compared: without names of classes, and alike whether it was a key, as which a list becomes
    a tuple.
    """
    match value:
        case dict():
            items = cast("dict[Any, Any]", value).items()
            return dict, frozenset((_data_in(key), _data_in(one)) for key, one in items)
        case list() | tuple():
            return list, tuple(map(_data_in, cast("list[Any]", value)))
        case set() | frozenset():
            return set, frozenset(map(_data_in, cast("set[Any]", value)))
        case _:
            return _DATA.pack(value)


def _is_named(kind: Any, name: str) -> bool:
    kind = _class_of(kind)
    if kind is typing.Literal or not isinstance(kind, type):
        return False
    return class_name(kind) == name or (name == "dict" and _is_plain_map(kind))


def _is_another(kind: Any, name: str) -> bool:
    """Whether a class is for certain not the one with this name, or one of its bases, under whatever name by now."""
    kind, named = _class_of(kind), loaded_class(name)
    if named is None or not isinstance(kind, type) or kind in (dict, list, tuple):
        return False
    return _travels_as(kind) is not None and not issubclass(named, kind) and named.__qualname__ != kind.__qualname__


def _has_names(hint: Any, value: Any, alike: frozenset[type]) -> bool:
    """Whether the names of classes in a value stand where a hint has these classes."""
    while hasattr(hint, "__supertype__") or typing.get_origin(hint) in _ONLY_SAYS_HOW:
        hint = hint.__supertype__ if hasattr(hint, "__supertype__") else typing.get_args(hint)[0]
    if _alias_of(hint) is not None:
        return _has_names(_meaning_of(hint), value, alike)
    if isinstance(hint, TypeVar):
        return _has_names(_meaning_of_variable(hint), value, alike)
    mark, parts = mark_of(value), typing.get_args(hint)
    if _is_union(hint):
        return any(_has_names(part, value, alike) for part in parts)
    if typing.get_origin(hint) is typing.Literal:
        return mark is None or any(_is_named(type(one), mark) for one in parts)
    kind = _class_of(hint)
    if isinstance(kind, type) and (_named_as(kind) in alike if mark is None else not _is_named(kind, mark)):
        return False
    return all(_has_names(part, one, alike) for part, one in _placed(hint, parts, value))


def _placed(hint: Any, parts: tuple[Any, ...], value: Any) -> Iterable[tuple[Any, Any]]:
    """What a value consists of, each with its hint."""
    fields = _field_hints(hint)
    if isinstance(value, dict):
        found = cast("dict[Any, Any]", value)
        if len(parts) == 2 and not fields:
            return [(part, one) for item in found.items() for part, one in zip(parts, item, strict=True)]
        return [(part, found[name]) for name, part in fields.items() if name in found]
    if not isinstance(value, list | tuple | set | frozenset):
        return ()
    items = list(cast("Iterable[Any]", value))
    if _class_of(hint) is tuple and parts[1:] != (...,):
        return zip(parts, items, strict=False)
    return zip(fields.values(), items, strict=False) if fields else [(part, one) for part in parts[:1] for one in items]


def _distance(value: Any, kind: Any) -> int:
    """How far a value is from a kind: the nearest of a union is tried first."""
    if _known(kind) is Any:
        return 2
    if isinstance(value, dict):
        if _fields_of(kind) == set(cast("dict[object, object]", value)):
            return 0
        kind = _class_of(kind)
        return 2 if isinstance(kind, type) and issubclass(kind, dict) and kind is not dict else 1
    return 0 if type(value) is (typing.get_origin(kind) or kind) else 1


def _class_of(hint: Any) -> Any:
    """The class behind a hint that only says more of it."""
    while (origin := typing.get_origin(hint)) in _ONLY_SAYS_HOW:
        hint = typing.get_args(hint)[0]
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return origin or hint


def _fields_of(kind: Any) -> set[str]:
    kind = _class_of(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(getattr(kind, "model_fields", None) or getattr(kind, "__struct_encode_fields__", ()))


def _field_hints(hint: Any) -> dict[str, Any]:
    """The hints of what a class consists of, with the parameters it is given; none of one that has no such parts."""
    kind: Any = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or not (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(cast("Any", kind))
        or _is_named_tuple(kind)
        or (issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like)
    ):
        return {}
    parameters: tuple[Any, ...] = getattr(cast("Any", kind), "__parameters__", ())
    given = dict(zip(parameters, typing.get_args(hint), strict=False))
    return {name: _with_parameters(part, given) for name, part in hints_of(kind).items()}


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(cast("Any", kind), "_fields")


def _read_fields(hint: Any, value: Any) -> Any:
    kind: Any = typing.get_origin(hint) or hint
    hints = _field_hints(hint)
    if _is_named_tuple(kind) and isinstance(value, list | tuple):
        value = dict(zip(kind._fields, cast("list[Any]", value), strict=False))
    if not isinstance(value, dict):
        raise ValueError(f"expected a {kind.__qualname__}, got {type(value).__qualname__}")  # noqa: TRY004 - for msgspec
    found = cast("dict[str, Any]", value)
    if issubclass(kind, msgspec.Struct):
        sent_as = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        found = {name: found[sent] for name, sent in sent_as if sent in found}
    given = {name: _shape(found[name], part, f"field {name!r}") for name, part in hints.items() if name in found}
    if not dataclasses.is_dataclass(kind):
        return kind(**given)
    later = [field.name for field in dataclasses.fields(kind) if not field.init and field.name in given]
    made = kind(**{name: one for name, one in given.items() if name not in later})
    for name in later:
        object.__setattr__(made, name, given[name])
    return made


def _read_member(kind: Any, value: Any) -> Any:
    """A member of an enum by its value, or by what its value is as data."""
    try:
        return kind(value)
    except ValueError:
        sent = _data_in(value)
        for member in kind:
            if _data_of(member) == sent:
                return member
        raise


# -- what travels alike


def _all_in(hints: Iterable[Any], *, with_fields: bool = True) -> Iterator[Any]:
    """These hints and all they consist of, each once; without the fields of what has a class of its own, if so."""
    left, seen = list(hints), set[str]()
    while left:
        hint = left.pop()
        shown = f"{id(hint)} {hint}" if isinstance(hint, type) else str(hint)
        if shown in seen or len(seen) > _HINTS_MAX:
            continue
        seen.add(shown)
        yield hint
        parts = typing.get_args(hint)
        left += [part for part in parts if not isinstance(part, list)]
        if with_fields or typing.is_typeddict(typing.get_origin(hint) or hint):
            left += _field_hints(hint).values()
        if hasattr(hint, "__supertype__"):
            left.append(hint.__supertype__)
        if isinstance(hint, TypeVar):
            left.append(_meaning_of_variable(hint))
        if _alias_of(hint) is not None:
            with contextlib.suppress(Exception):  # a name in it may not be known
                left.append(_meaning_of(hint))


def _alike_in(*hints: Any) -> frozenset[type]:
    """The classes in unions whose bytes would fit another of the same union, too, wherever in it they are."""
    found: set[type] = set()
    for hint in _all_in(hints):
        if _is_union(hint) or typing.get_origin(hint) is typing.Literal:
            kinds = set(_classes_in(hint))
            found.update(
                _named_as(one) for one in kinds if any(other is not one and _is_alike(one, other) for other in kinds)
            )
    return frozenset(found)


def _classes_in(union: Any) -> Iterator[type]:
    for hint in _all_in([union], with_fields=False):
        if typing.get_origin(hint) is typing.Literal:
            yield from map(type, typing.get_args(hint))
        elif isinstance(kind := _class_of(hint), type):
            yield kind


def _is_alike(one: type, other: type) -> bool:
    """Whether the values of one would be taken for those of the other, unless they say what they are."""
    if isinstance(one, EnumType):
        values = [member.value for member in cast("Iterable[Enum]", one)]
        if isinstance(other, EnumType):
            return any(member.value in values for member in cast("Iterable[Enum]", other))
        return any(_takes(other, _travels_as(type(value))) for value in values)
    if _travels_as_map(one) and _travels_as_map(other):
        return _fields_of(one) == _fields_of(other)
    if _is_plain_map(one):  # written before, the class had no name: so it is the map that has one
        return _travels_as_map(other)
    if one in _ARRIVE or _travels_as_map(one) or inspect.isabstract(one) or typing.is_typeddict(one):
        return False
    if issubclass(one, msgspec.Struct) and issubclass(other, msgspec.Struct):
        return one.__struct_config__.array_like and _tag_of(one) == _tag_of(other)
    return _takes(other, _travels_as(one))


def _tag_of(kind: Any) -> Any:
    return kind.__struct_config__.tag


def _named_as(kind: type) -> type:
    return dict if _is_plain_map(kind) else kind


def _is_plain_map(kind: Any) -> bool:
    return kind in _MAPS or typing.is_typeddict(kind)


def _travels_as(kind: Any) -> type | None:
    """The class of what arrives of it, where no hint is known; None for what has none of its own."""
    if issubclass(kind, msgspec.Struct):
        return list if kind.__struct_config__.array_like else dict
    if _travels_as_map(kind) or _is_plain_map(kind):
        return dict
    if issubclass(kind, PurePath):
        return str
    if issubclass(kind, deque):
        return list
    return next((base for base in kind.__mro__ if base in _TRAVELS_AS), None)


_ARRAYS = (list, tuple, set, frozenset)
_TAKEN_FOR: dict[type, tuple[type, ...]] = {
    list: _ARRAYS,
    tuple: _ARRAYS,
    set: _ARRAYS,
    frozenset: _ARRAYS,
    str: (str, date, datetime, time, timedelta, Decimal, bytes),
    int: (int, float, Decimal),
}


def _takes(kind: type, arrived: type | None) -> bool:
    """Whether a class is read from what arrives as an instance of this one."""
    if arrived is None or kind is types.NoneType:
        return False
    if isinstance(kind, EnumType):
        return any(_travels_as(type(member.value)) is arrived for member in cast("Iterable[Enum]", kind))
    if kind in _ABSTRACT:
        return arrived in _ARRAYS
    return _travels_as(kind) in _TAKEN_FOR.get(arrived, (arrived,)) or (kind is UUID and arrived is str)


def _travels_as_map(kind: Any) -> bool:
    if issubclass(kind, msgspec.Struct):
        return not kind.__struct_config__.array_like and kind.__struct_config__.tag is None
    return dataclasses.is_dataclass(kind) or _is_model(kind)


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
    alike_in_arguments: frozenset[type]
    """The classes that have to be told apart by name."""
    alike_in_result: frozenset[type]


@lru_cache(maxsize=1024)
def _call_of(fn: Callable[..., Any]) -> _Call:
    signature, hints = inspect.signature(fn), hints_of(fn)
    parameters = signature.parameters.values()
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    others = any(
        one.kind is one.VAR_POSITIONAL or (one.kind is one.KEYWORD_ONLY and one.default is one.empty)
        for one in parameters
    )
    required = len(plain) + 1 if others else sum(one.default is one.empty for one in plain)
    by_position = tuple((one.name, hints.get(one.name, Any)) for one in plain)
    types = tuple(hint for _, hint in by_position)
    return _Call(
        signature,
        hints,
        by_position,
        required,
        (None, None) if others else (types, types[1:]),
        _alike_in(*(hint for name, hint in hints.items() if name != "return")),
        _alike_in(hints.get("return", Any)),
    )


def hints_of(fn: Any) -> dict[str, Any]:
    """The hints that can be resolved; a name imported for type checkers only costs no more than its own."""
    names = _names_at(fn)
    try:
        hints: dict[str, Any] = typing.get_type_hints(fn, include_extras=True)
    except Exception:  # noqa: BLE001 - a hint is an expression of the user's; each is tried for itself
        hints = {}
        for name, hint in getattr(fn, "__annotations__", {}).items():
            with contextlib.suppress(Exception):
                hints |= typing.get_type_hints(SimpleNamespace(__annotations__={name: hint}), names, None, True)
    return {name: _closed(hint, names) for name, hint in hints.items()}


def _names_at(fn: Any) -> dict[str, Any]:
    """What is known where a function or a class was written."""
    if isinstance(fn, type):
        return vars(sys.modules[fn.__module__]) if fn.__module__ in sys.modules else {}
    return getattr(inspect.unwrap(fn), "__globals__", {})


def _closed(hint: Any, names: dict[str, Any]) -> Any:
    """A hint that refers to itself by its name, as one that is read as deep as its values go."""
    if isinstance(hint, str):
        hint = typing.ForwardRef(hint)
    if isinstance(hint, typing.ForwardRef):
        return _later(hint.__forward_arg__, partial(_meaning_of_name, hint, names))
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (None, typing.Literal, typing.Annotated, Callable):
        return hint
    closed = tuple(_closed(part, names) for part in parts)
    if all(map(operator.is_, closed, parts)):
        return hint
    if _is_union(hint):
        return cast("Any", typing.Union)[closed]
    return hint.copy_with(closed) if hasattr(hint, "copy_with") else origin[closed]


def _meaning_of_name(hint: typing.ForwardRef, names: dict[str, Any]) -> Any:
    annotated = SimpleNamespace(__annotations__={"value": hint})
    try:
        return _closed(typing.get_type_hints(annotated, names, None, include_extras=True)["value"], names)
    except Exception:  # noqa: BLE001 - a name that only type checkers know says nothing
        return Any


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
    bound = _bind(call, fn, args, kwargs, skip_first)
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


def _bind(
    call: _Call, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], skip_first: bool
) -> inspect.BoundArguments:
    try:
        return call.signature.bind(*([None] if skip_first else []), *args, **kwargs)
    except TypeError as error:
        names = call.signature.parameters
        unknown = [] if any(one.kind is one.VAR_KEYWORD for one in names.values()) else sorted(kwargs.keys() - names)
        more = f"; it has no parameter {unknown[0]!r}" if unknown and repr(unknown[0]) not in str(error) else ""
        raise UsageError(f"{_name(fn)}{call.signature}: {error}{more}") from None


# -- calls, before they are sent ---------------------------------------------


_SCALARS = frozenset({types.NoneType, bool, int, float, str, bytes})
"""They hold nothing, and arrive as what they were."""
_ARRIVE = _SCALARS | {list, dict, tuple, set, frozenset, date, datetime, time, timedelta, UUID, Decimal, complex}
"""Of these at least the class arrives."""
_PLAIN_TYPES = frozenset({types.NoneType, bool, int, float, str, bytes, date, datetime, time, timedelta, UUID, Decimal})
_HOLDING = frozenset({list, dict, tuple, set, frozenset})


class _Parameter(msgspec.Struct, frozen=True):
    """What may be told of its values without reading what is in them."""

    name: str
    hint: Any
    fitting: frozenset[Any]
    """Classes that fit for certain."""
    told: frozenset[Any]
    """Classes whose values are shaped here as they will be there."""


class _Check(msgspec.Struct, frozen=True):
    """What a call of a function needs, without its context if it has one."""

    by_position: tuple[_Parameter, ...]
    fewest: int
    """Arguments by position that are a whole call; more than there can be if keywords are needed."""
    most: int
    by_name: dict[str, _Parameter]
    """All that may be given by keyword."""
    required: frozenset[str]
    is_simple: bool
    """Whether every parameter has a name of its own, by which it may be given."""

    def takes(self, count: int, names: AbstractSet[str]) -> bool:
        """Whether so many by position and these by keyword are a whole call; for certain only if it is simple."""
        if not names:
            return self.fewest <= count <= self.most
        given = {one.name for one in self.by_position[:count]}
        return (
            self.is_simple
            and count <= self.most
            and names <= self.by_name.keys()
            and names.isdisjoint(given)
            and self.required <= names | given
        )


def check_call(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], *, skip_first: bool) -> bool:
    """UsageError, naming the parameter, for a call that ``fn`` would not take; ``skip_first`` is as in ``decode_args``.

    A value that does not fit its hint is told if nothing has to be looked into: a text for a number, a number for a
    list or a dataclass. All else shows where it arrives. Answers whether nothing depended on the values themselves:
    other arguments of these classes need not be checked.
    """
    check = _check_of(fn, skip_first)
    if check is None:
        return True
    if not check.takes(len(args), kwargs.keys()):
        _bind(_call_of(fn), fn, args, kwargs, skip_first)
    by_name = [(value, check.by_name[name]) for name, value in kwargs.items() if name in check.by_name]
    doubtful = [
        (value, parameter)
        for value, parameter in (*zip(args, check.by_position, strict=False), *by_name)
        if type(value) not in parameter.fitting and type(value) in parameter.told
    ]
    for value, parameter in doubtful:
        _shape(value, parameter.hint, f"argument {parameter.name!r} of {_name(fn)}")
    return not doubtful


@lru_cache(maxsize=1024)
def _check_of(fn: Callable[..., Any], skip_first: bool) -> _Check | None:
    """None for a function that does not tell how it is called, as some of C."""
    try:
        call = _call_of(fn)
    except (TypeError, ValueError):
        return None
    parameters = list(call.signature.parameters.values())[skip_first:]
    known = {one.name: _parameter(one.name, call.hints.get(one.name, Any)) for one in parameters}
    by_position = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    by_name = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    required = {one.name for one in (*by_position, *by_name) if one.default is one.empty}
    is_open = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    needs_names = any(one.kind is one.KEYWORD_ONLY and one.name in required for one in parameters)
    most = sys.maxsize if is_open else len(by_position)
    return _Check(
        by_position=tuple([known[one.name] for one in by_position]),
        fewest=sys.maxsize if needs_names else sum(one.name in required for one in by_position),
        most=most,
        by_name={one.name: known[one.name] for one in by_name},
        required=frozenset(required),
        is_simple=len(by_name) == len(parameters),
    )


def _parameter(name: str, hint: Any) -> _Parameter:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [typing.get_origin(kind) or kind for kind in kinds]
    classes = {kind for kind in kinds if isinstance(kind, type)}
    if len(classes) < len(kinds):
        return _Parameter(name, hint, frozenset(), frozenset())
    if classes <= _PLAIN_TYPES:
        return _Parameter(name, hint, frozenset(classes | {int} if float in classes else classes), _ARRIVE)
    is_told = all(
        kind in _PLAIN_TYPES
        or kind in _HOLDING
        or dataclasses.is_dataclass(kind)
        or issubclass(kind, Enum | msgspec.Struct)
        for kind in classes
    )
    return _Parameter(name, hint, frozenset(), _SCALARS if is_told else frozenset())


# -- errors ------------------------------------------------------------------


def class_name(kind: type) -> str:
    """The name a class has in payloads: qualified, but for what is built in."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _type_name(error: BaseException) -> str:
    return class_name(type(error))


def _cut(text: str, text_max: int) -> str:
    """The head and the tail of a text, without what UTF-8 has no bytes for."""
    if len(text) > text_max:
        text = f"{text[: text_max // 2]} ... {text[len(text) - text_max // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def _shown(value: object, how: Callable[[object], str] = str) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001 - a user's object may do anything when looked at
        return "(it cannot be shown)"


def error_line(error: BaseException) -> str:
    """Type and message of any error, as one shows it to people; those of a group, too, as far as they are few."""
    return f"{type(error).__name__}: {_cut(_told(error, _LINE_DEPTH_MAX), _LINE_MAX)}"


def _told(error: BaseException, depth: int) -> str:
    said = _shown(error)
    if not isinstance(error, BaseExceptionGroup) or not depth:
        return said
    members = cast("BaseExceptionGroup[BaseException]", error).exceptions
    shown = [_cut(_member_line(one, depth - 1), _LINE_MEMBER_MAX) for one in members[:_LINE_MEMBERS_MAX]]
    more = [f"and {len(members) - len(shown)} more"] if len(shown) < len(members) else []
    counted = f" ({len(members)} sub-exception{'s' * (len(members) != 1)})"
    return f"{said.removesuffix(counted)} ({'; '.join(shown + more)})"


def _member_line(error: BaseException, depth: int) -> str:
    told = _told(error, depth)
    return told if isinstance(error, RemoteError) else f"{type(error).__name__}: {told}"


_KEPT_BESIDE = frozenset({"__notes__", "__said__"})  # in the attributes of an error, but no attributes
_BUILTIN_FIELDS = {OSError: ("filename", "filename2"), ImportError: ("name", "path"), NameError: ("name",)}
"""What errors of Python itself have beside their arguments, and whatever it is, their methods may read it."""
_EXACT = (tuple, set, frozenset, datetime, date, time, timedelta, UUID, Decimal, complex, int)


class _Teller:
    """Makes maps of errors: type, message; with detail 1 traceback, notes and causes; with detail 2 what they carry."""

    def __init__(self, detail: int, text_max: int, attributes: ErrorAttributes | None) -> None:
        self.text_max = text_max
        self._detail = detail
        self._attributes = attributes
        self._left = _ERRORS_MAX

    def has_room(self, depth: int) -> bool:
        """Whether another error may be told, and takes its place."""
        if depth > _ERROR_DEPTH_MAX or not self._left:
            return False
        self._left -= 1
        return True

    def tell(self, error: BaseException, depth: int) -> dict[str, Any]:
        text_max = self.text_max
        found: dict[str, Any] = {"t": _type_name(error), "m": _cut(_shown(error), text_max)}
        if isinstance(error, RemoteError):  # of elsewhere already
            found |= {"t": _cut(error.type, text_max), "m": _cut(error.message, text_max)}
        if not self._detail:
            return found
        notes = _few(dict.fromkeys(str(note) for note in vars(error).get("__notes__", ())), text_max)
        if isinstance(error, RemoteError):
            found["tb"] = _cut(error.remote_traceback, text_max)
        else:
            found["tb"] = _cut(tracebacks.of_user(error, _ERROR_FRAMES_MAX), text_max)
            found |= self._carried_by(error, depth) if self._detail > 1 else {}
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None and self.has_room(depth + 1):
            found["c"] = self.tell(cause, depth + 1)
        if depth < _ERROR_DEPTH_MAX and isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            found["x"] = [self.tell(one, depth + 1) for one in group.exceptions if self.has_room(depth + 1)]
            found["m"] = _cut(group.message, text_max)
            if more := len(group.exceptions) - len(found["x"]):
                notes.append(f"{more} more errors are not shown")
        return found | ({"n": notes} if notes else {})

    def _carried_by(self, error: BaseException, depth: int) -> dict[str, Any]:
        """Its arguments, and those of its attributes that can be sent: as plain data if that is all they are."""
        attributes: dict[str, object] = {"args": _args_of(error), **_state_of(error)}
        if self._attributes is not None:
            attributes = self._attributes(error, attributes)
        named = {name: value for name, value in attributes.items() if name != "args"}
        plain = {name: value for name, value in named.items() if _can(_PLAIN_IN_ERRORS, value)}
        special = {name: value for name, value in named.items() if name not in plain}
        exact = _InErrors(self, depth, shows=False) if special else _PLAIN
        kept = {name: value for name, value in special.items() if _can(exact, value)}
        plain |= {name: value for name, value in special.items() if name not in kept and _can(_PLAIN, value)}
        found: dict[str, Any] = {"d": plain}
        args: Any = attributes.get("args")
        if isinstance(args, tuple) and not isinstance(error, BaseExceptionGroup):
            if _can(_PLAIN_IN_ERRORS, cast("object", args)):
                found["a"] = list(cast("tuple[object, ...]", args))
            else:
                kept["args"] = cast("object", args)
        if kept:
            shows = _InErrors(self, depth, shows=True)
            if "args" in kept and not _can(shows, kept["args"]):
                del kept["args"]
            found["s"] = shows.pack(kept)
        return found


def _few(notes: Collection[str], text_max: int) -> list[str]:
    """Each note once, and those in the middle left out if they are many: the ends tell where it began, and came to."""
    cut = [_cut(note, min(text_max, _NOTES_TEXT_MAX // 2)) for note in notes if note != _NOTES_LEFT_OUT]
    is_all = len(cut) == len(notes)  # else some were left out before
    if is_all and len(cut) <= _NOTES_MAX and sum(map(len, cut)) <= _NOTES_TEXT_MAX:
        return cut
    first = _within(cut)
    last = _within(reversed(cut[len(first) :]))
    return [*first, _NOTES_LEFT_OUT, *reversed(last)]


def _within(notes: Iterable[str]) -> list[str]:
    """The first of them, as many as make half of what may be told."""
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
    """All its attributes but those of every error."""
    found: dict[str, object] = {}
    for name, slot in _slots_of(type(error)).items():
        with contextlib.suppress(AttributeError):  # it is not set
            if (value := slot.__get__(error)) is not None or slot.__objclass__ not in _BUILTIN_FIELDS:
                found[name] = value
    if isinstance(error, OSError) and len(error.args) == 2:  # there it is an argument
        found = {name: value for name, value in found.items() if name not in _BUILTIN_FIELDS[OSError]}
    return found | {name: value for name, value in vars(error).items() if name not in _KEPT_BESIDE}


@lru_cache(maxsize=1024)
def _slots_of(kind: type) -> dict[str, types.MemberDescriptorType]:
    """Where the instances of a class keep what is not in their ``__dict__``; only what may hold anything."""
    found: dict[str, types.MemberDescriptorType] = {}
    for cls in kind.__mro__:
        names = _BUILTIN_FIELDS.get(cls, vars(cls) if "__slots__" in vars(cls) else ())
        for name in names:
            slot = vars(cls).get(name)
            if isinstance(slot, types.MemberDescriptorType):
                found.setdefault(name, slot)
    return found


def _can(writer: _Writer, value: object) -> bool:
    try:
        writer.pack(value)
    except Exception:  # noqa: BLE001 - whatever it raised, it cannot
        return False
    return True


class _PlainInErrors(_ProvenWriter):
    """Packs only what comes back as it was without any hint."""

    def extend(self, depth: int, value: Any) -> Any:
        if type(value) in _EXACT:
            return super().extend(depth, value)
        raise _Unsendable("has a class of its own")


_PLAIN_IN_ERRORS = _PlainInErrors()


class _InErrors(_ProvenWriter):
    """Packs with their classes what errors carry; with ``shows`` the rest as it is shown."""

    def __init__(self, teller: _Teller, depth: int, *, shows: bool) -> None:
        super().__init__()
        self._teller = teller
        self._depth = depth
        self._shows = shows

    def extend(self, depth: int, value: Any) -> Any:
        if type(value) in _EXACT:
            return super().extend(depth, value)
        kind = value.__class__
        name = class_name(kind)
        if isinstance(kind, EnumType) and value.name in kind.__members__:  # else it is several flags
            return msgpack.ExtType(_MEMBER, self.pack_items(depth, [name, value.name]))
        if isinstance(value, BaseException):
            if self._teller.has_room(self._depth + 1):
                return msgpack.ExtType(_ERROR, _PLAIN.pack(self._teller.tell(value, self._depth + 1)))
        elif _is_named_tuple(kind):
            return msgpack.ExtType(_RECORD, self.pack_items(depth, [name, [*value]]))
        elif dataclasses.is_dataclass(kind):
            return msgpack.ExtType(_RECORD, self.pack_items(depth, [name, _dataclass_parts(value)]))
        if not self._shows:
            raise _Unsendable("is only known where it was made")
        shown = [_cut(_shown(value, how), self._teller.text_max) for how in (str, repr)]
        return msgpack.ExtType(_SHOWN, _PLAIN.pack(shown))


class _Shown(str):  # noqa: SLOT000 - it needs a place for its other text
    """In place of a value that could not be sent: it is shown as that was."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


def _as_shown(text: str, shown: str) -> _Shown:
    value = _Shown(text)
    value.shown = shown
    return value


class _OfErrors(_ThoroughUnpacker):
    """Gives what errors carry its classes back, of those that are loaded; none of their own code is run."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth

    def restore(self, depth: int, code: int, data: bytes) -> Any:
        match code:
            case 14:
                return _error_from(_QUICK.unpack(data, _ON_STACK_MAX), self._depth + 1)
            case 15:
                name, member = self.items(depth, data)
                kind: Any = loaded_class(str(name))
                return kind._member_map_[member] if isinstance(kind, EnumType) else member
            case 16:
                name, parts = self.items(depth, data)
                return _record(loaded_class(str(name)), parts)
            case 17:
                text, shown = _QUICK.unpack(data, _ON_STACK_MAX)
                return _as_shown(str(text), str(shown))
            case _:
                return super().restore(depth, code, data)


def _record(kind: type | None, parts: Any) -> Any:
    if kind is not None and isinstance(parts, list) and _is_named_tuple(kind):
        return cast("Any", tuple).__new__(kind, parts)
    if kind is not None and isinstance(parts, dict) and dataclasses.is_dataclass(kind):
        made = object.__new__(kind)
        _fill(made, cast("dict[str, Any]", parts))
        return cast("Any", made)
    return tuple(cast("list[Any]", parts)) if isinstance(parts, list) else cast("Any", parts)


def _fill(made: object, attributes: dict[str, Any]) -> None:
    """Set attributes where they are kept, past whatever code the class has for that."""
    slots = _slots_of(type(made))
    for name, value in attributes.items():
        if name in slots:
            slots[name].__set__(made, value)
        else:
            vars(made)[name] = value


def _error_of(found: Any) -> Exception:
    try:
        return _error_from(found, 0)
    except Exception as problem:  # noqa: BLE001 - whatever a hostile payload does, the answer is an error
        return _unreadable(problem)


def _unreadable(problem: Exception) -> RemoteError:
    return RemoteError("unknown", f"the error cannot be read: {problem}")


def _error_from(found: Any, depth: int) -> Exception:
    if depth > _ERROR_DEPTH_MAX or not isinstance(found, dict):
        raise CorruptData("it is not an error of ours")
    data = cast("dict[str, Any]", found)
    name, message, remote = str(data["t"]), str(data.get("m", "")), str(data.get("tb", ""))
    inner = [_error_from(one, depth + 1) for one in data.get("x", ())]
    kind = loaded_error(name)
    error = _group(kind, message, inner, data, depth) if inner else _known_error(kind, message, data, depth)
    notes = [str(note) for note in data.get("n", ())]
    if error is None:
        error = RemoteError(name, message, remote)
    elif remote:
        notes.insert(0, f"{RAISED_THERE}{remote.rstrip()}")
    if notes:  # as add_note does, which would run what the class does for a missing attribute
        vars(error)["__notes__"] = notes
    if "c" in data:
        error.__cause__ = _error_from(data["c"], depth + 1)
    return error


def _carried(data: dict[str, Any], depth: int) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """The arguments of an error, None if they are not known, and its attributes."""
    special: dict[str, Any] = _OfErrors(depth).unpack(data["s"], _ON_STACK_MAX) if "s" in data else {}
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
    """An instance of a class, made without any code of it; None if that cannot be.

    Where its arguments could not be sent, its message is its only one.
    """
    if kind is None or issubclass(kind, RemoteError):
        return None
    try:
        args, attributes = _carried(data, depth)
        if args is None:
            args = (_as_shown(message, message),)
        error = _made(kind, args, attributes)
        if _says(error) != message:
            error = _made(_speaking(kind), args, attributes | {"__said__": message})
    except Exception:  # noqa: BLE001 - a class that is not made of Python's own errors alone, or bytes of anyone
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
        base.__init__(error, *args)  # in C, as it is built in
    except Exception:  # noqa: BLE001 - arguments that its own class has put in place of these
        BaseException.__init__(error, *args)
    _fill(error, attributes)
    return error


def _says(error: Exception) -> str | None:
    try:
        return _cut(str(error), _ERROR_TEXT_MAX)
    except Exception:  # noqa: BLE001 - it lacks what could not be sent
        return None


@lru_cache(maxsize=64)
def _speaking(kind: type[Exception]) -> type[Exception]:
    """A class that is ``kind`` to everybody, for an instance that lacks what it would make its message of."""
    same = {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    said: Callable[[Exception], str] = lambda error: vars(error)["__said__"]  # noqa: E731 - a def would be named
    return type(kind)(kind.__name__, (kind,), {**same, "__str__": said})


def loaded_error(name: str) -> type[Exception] | None:
    """The class of errors that goes by a name in payloads; None for one that is not loaded, or steers Python itself."""
    kind = loaded_class(name)
    steers = kind is None or not issubclass(kind, Exception) or issubclass(kind, StopIteration | StopAsyncIteration)
    return None if steers else cast("type[Exception]", kind)


def loaded_class(name: str) -> type | None:
    """The class that goes by a name in payloads, in a module that has been imported."""
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
    return found if isinstance(found, type) else None
