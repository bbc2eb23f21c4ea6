"""Python values as MessagePack and back, without type hints: the format.

Extension types: 1 datetime (ISO text and zone key), 2 date, 3 time, 4 timedelta (microseconds), 5 UUID, 6 Decimal, 7
set, 8 frozenset, 9 tuple, 10 integers beyond 64 bits, 11 complex, 12 the class of a map and 13 of another value, where
a union has several alike. Dataclasses, structs and models are sent as maps, enums as their values. The data of errors
has no hints: 14 another error, 15 a member of an enum, 16 a dataclass or named tuple, 17 a value that can only be
shown.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec

from durasleep.codec.marks import MARKED_AS, HashedMap, Mark, MarkedMap, as_subclass, hashable, map_of, with_mark
from durasleep.errors import CorruptData

_msgpack: Any = msgpack  # its stubs say less than it can, and a cast costs a call
(
    _EXT_DATETIME,
    _EXT_DATE,
    _EXT_TIME,
    _EXT_TIMEDELTA,
    _EXT_UUID,
    _EXT_DECIMAL,
    _EXT_SET,
    _EXT_FROZENSET,
    _EXT_TUPLE,
    _EXT_INT,
    _EXT_COMPLEX,
) = range(1, 12)
EXT_MARK, EXT_MARKED, EXT_ERROR, EXT_MEMBER, EXT_RECORD, EXT_SHOWN = range(12, 18)
_MICROSECOND = timedelta(microseconds=1)
_INT_BITS_MAX = 14_000  # beyond 4300 digits Python refuses to show a number, so no screen or log could
_NESTED_MAX = 32  # tuples and sets inside one another: each may contain 511 lists in lists, 300 bytes of C stack each
ON_STACK_MAX = (
    4  # levels of them that unpackb reads: each takes 40 KB of C stack, which would overflow a small thread's
)
# Errors that reading arbitrary bytes may raise. Not Exception: the error of a signal handler must pass.
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


class Unsendable(TypeError):
    """Its text continues the name of a value: ``is a socket, which cannot be sent``."""


class Writer:
    """Packs values as plainly as possible, and models without a check."""

    def __init__(self) -> None:
        self._extend_at = tuple([partial(self.extend, depth) for depth in range(_NESTED_MAX + 1)])

    def pack(self, value: object, depth: int = 0) -> bytes:
        return _msgpack.packb(value, default=self._extend_at[depth], strict_types=True)

    def pack_call(self, args: Iterable[object], kwargs: dict[str, object]) -> bytes:
        """The arguments of a call."""
        return _msgpack.packb([list(args), kwargs], default=self._extend_at[0], strict_types=True)

    def extend(self, depth: int, value: Any) -> Any:
        """A value that MessagePack does not know, as one that it knows; ``Unsendable`` if it cannot be sent."""
        match value:
            case None:
                return None
            case Enum():
                return self.extend(depth, value.value)
            case bool():
                return value
            case int():
                return int(value) if -(1 << 63) <= value < 1 << 64 else msgpack.ExtType(_EXT_INT, _pack_int(value))
            case str():
                return str.__str__(value)
            case datetime() | time():
                zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else ""
                kind = _EXT_DATETIME if isinstance(value, datetime) else _EXT_TIME
                return msgpack.ExtType(kind, f"{value.isoformat()}|{zone or ''}".encode())
            case date():
                return msgpack.ExtType(_EXT_DATE, value.isoformat().encode())
            case timedelta():
                return msgpack.ExtType(_EXT_TIMEDELTA, b"%d" % (value // _MICROSECOND))
            case UUID():
                return msgpack.ExtType(_EXT_UUID, value.bytes)
            case Decimal():
                return msgpack.ExtType(_EXT_DECIMAL, str(value).encode())
            case tuple():
                return msgpack.ExtType(_EXT_TUPLE, self.pack_items(depth, value))
            case set():
                return msgpack.ExtType(_EXT_SET, self.pack_items(depth, value))
            case frozenset():
                return msgpack.ExtType(_EXT_FROZENSET, self.pack_items(depth, value))
            case complex():
                return msgpack.ExtType(_EXT_COMPLEX, repr(complex(value)).strip("()").encode())
            case float():
                return float(value)
            case bytes() | bytearray() | memoryview():
                return bytes(cast("bytes", value))
            case list() | deque():
                return list(cast("Iterable[object]", value))
            case MarkedMap() | HashedMap():
                marks = {KEPT_KEY: value.kept} if value.kept is not None else {}
                named = {msgpack.ExtType(EXT_MARK, value.mark.encode()): None} if value.mark is not None else {}
                return {**marks, **named, **value}
            case dict():
                return dict(cast("dict[object, object]", value))
            case PurePath():
                return str(value)
            case msgspec.Struct():
                return _struct_parts(value)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return dataclass_parts(value)
            case _ if is_model(value.__class__):
                parts = self.model_parts(value)
                return cast("Any", parts) if type(parts) is dict else self.extend(depth, parts)
            case _:
                raise Unsendable(f"is a {type(value).__qualname__}, which cannot be sent")

    def pack_items(self, depth: int, items: Any) -> bytes:
        if depth >= _NESTED_MAX:
            raise RecursionError
        return self.pack(list(items), depth + 1)

    def model_parts(self, value: Any) -> Any:
        """A model as it is sent: a map, or the value of a root model."""
        fields, _ = model_state(value)
        return fields["root"] if is_root(value) else fields


class _ModelessWriter(Writer):
    """Packs values without models, because references between models may form a circle."""

    def model_parts(self, value: Any) -> Any:
        raise Unsendable(f"is a {type(value).__qualname__}, which may contain this value")


DATA_WRITER, _MODELESS_WRITER = Writer(), _ModelessWriter()


def is_model(kind: Any) -> bool:
    """Whether this is a model of pydantic, which need not be installed."""
    return hasattr(kind, "model_dump") and hasattr(kind, "model_validate")


KEPT_KEY = msgpack.ExtType(EXT_MARK, b"")
"""The key of a list in a map. It says that the map is a model to be taken as it is; the list has its private attributes
and the names of the fields that were set.

Readers that do not know this key see a map."""


def unsendable_model(kind: type, reason: str) -> Unsendable:
    return Unsendable(f"is a {kind.__qualname__}, which cannot be sent: {' '.join(reason.split())}")


def model_state(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a model and its extra values; and those of its private attributes that can be sent.

    The class itself makes the other private attributes, such as a lock or a client.
    """
    kind: Any = value.__class__
    given = cast("dict[str, Any]", vars(value))
    extra: dict[str, Any] = getattr(value, "__pydantic_extra__", None) or {}
    if both := extra.keys() & kind.model_fields.keys():
        raise unsendable_model(kind, f"{min(both)!r} is a field, and there is a second value of this name")
    private: dict[str, Any] = getattr(value, "__pydantic_private__", None) or {}
    fields: dict[str, Any] = {name: given[name] for name in kind.model_fields if name in given}
    return {**fields, **extra}, {name: one for name, one in private.items() if can_pack(_MODELESS_WRITER, one)}


def is_root(value: Any) -> bool:
    return getattr(value, "__pydantic_root_model__", False) is True and "root" in vars(value)


def _struct_parts(value: Any) -> Any:
    """A struct as ``msgspec.convert`` expects it: its external names, its tag, or a list for ``array_like``."""
    config = value.__struct_config__
    parts = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return parts if config.tag is None else [config.tag, *parts]
    found: dict[str, object] = {} if config.tag is None else {config.tag_field: config.tag}
    named = zip(value.__struct_encode_fields__, parts, strict=True)
    return found | {name: part for name, part in named if part is not msgspec.UNSET}


def dataclass_parts(value: Any) -> dict[str, object]:
    lost = _lost_in(value.__class__)
    if lost:
        raise Unsendable(f"cannot be sent: its class needs {lost!r} to make it again, and it does not keep that")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@lru_cache(maxsize=1024)
def _lost_in(kind: Any) -> str:
    """An ``InitVar`` of a dataclass that must be given, if there is one: its value is not stored anywhere."""
    declared: dict[str, dataclasses.Field[Any]] = kind.__dataclass_fields__
    of_init = dataclasses._FIELD_INITVAR  # type: ignore[attr-defined]
    needed = [one for one in declared.values() if one._field_type is of_init and one.default is dataclasses.MISSING]  # type: ignore[attr-defined]
    return needed[0].name if needed else ""


def _pack_int(value: int) -> bytes:
    if value.bit_length() > _INT_BITS_MAX:
        raise Unsendable(f"is an integer of more than {_INT_BITS_MAX} bits, which cannot be sent")
    return b"%x" % value


class _Special(Exception):
    """A payload has marks or keys that only the thorough unpacker can read."""


class _Unpacker:
    """Unpacks values. The quick one reads no marks, and no keys or items of sets without a hash."""

    _pairs_hook: Callable[[Any], Any] | None = None

    def __init__(self) -> None:
        self._restore_at = tuple([partial(self.restore, depth) for depth in range(_NESTED_MAX + 1)])

    def hook(self, depth: int) -> Callable[[int, bytes], Any]:
        """The function that restores the extensions in a value at a depth."""
        return self._restore_at[depth]

    def unpack(self, payload: bytes, depth: int = 0) -> Any:
        """One value. The payload's size bounds its lengths; msgpack and ``_NESTED_MAX`` bound its depth."""
        hook = self.hook(depth)
        if depth < ON_STACK_MAX:
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


class ThoroughUnpacker(_Unpacker):
    """Reads everything, at a third of the speed."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs_hook = map_of

    def restore(self, depth: int, code: int, data: bytes) -> Any:
        match code:
            case 12:
                return Mark(data.decode())
            case 13:
                mark, parts = self.items(depth, data)
                kind = MARKED_AS.get(parts.__class__)
                return parts if kind is None else with_mark(as_subclass(kind, parts), str(mark))
            case _:
                return super().restore(depth, code, data)

    def set_of(self, kind: type[Any], depth: int, data: bytes) -> Any:
        return kind(map(hashable, self.items(depth, data)))


QUICK_UNPACKER, THOROUGH_UNPACKER = _Unpacker(), ThoroughUnpacker()
_restore = QUICK_UNPACKER.hook(0)


def unpack(payload: bytes) -> Any:
    try:  # the same as `QUICK_UNPACKER.unpack`, without inner calls, which were half the time of a call
        return _msgpack.unpackb(payload, ext_hook=_restore, strict_map_key=False, timestamp=3)
    except (TypeError, _Special):
        pass  # a key without a hash is a TypeError
    except _BAD_BYTES as error:
        raise _corrupt(error) from None
    try:
        return THOROUGH_UNPACKER.unpack(payload)
    except _BAD_BYTES as error:
        raise _corrupt(error) from None


def _corrupt(error: Exception) -> CorruptData:
    return CorruptData(f"a payload is not one of ours: {error or type(error).__name__}")


def _datetime(text: str) -> datetime:
    """Read an instant in its zone. If the zone is not known, it keeps the offset, because only the instant matters."""
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
    return found.astimezone(zone)  # the rules of the zone have changed since then


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal") from None


def can_pack(writer: Writer, value: object) -> bool:
    try:
        writer.pack(value)
    except Exception:  # noqa: BLE001 - whatever it raised, it cannot be packed
        return False
    return True
