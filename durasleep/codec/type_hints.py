"""What a type hint means, without a value: its class, its fields, its target, and the types that are sent alike."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import operator
import sys
import types
import typing
from collections import deque
from collections.abc import (
    Callable,
    Collection,
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
from decimal import Decimal
from enum import Enum, EnumType
from functools import partial
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec

from durasleep.codec.values import is_model
from durasleep.signatures import annotations_of

_HINTS_MAX = 1_000  # hints of one function that are looked at; hints that refer to each other end, too
TRAVELS_AS: tuple[type, ...] = (
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


class LaterHint(type):
    """The class of a type hint that stands for another one, resolved when a value arrives; Any if there is none."""

    meaning: Callable[[], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def later_hint(type_hint: Any, meaning: Callable[[], Any]) -> LaterHint:
    return LaterHint(show_hint(type_hint), (), {"meaning": staticmethod(meaning)})


ONLY_SAYS_HOW = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired)
ABSTRACT = (Collection, Sequence, MutableSequence, AbstractSet, MutableSet)
MAPS = (dict, Mapping, MutableMapping)


def is_union(type_hint: Any) -> bool:
    return typing.get_origin(type_hint) in (typing.Union, types.UnionType)


def is_unpacked(type_hint: Any) -> bool:
    return typing.get_origin(type_hint) is typing.Unpack or getattr(type_hint, "__unpacked__", False)


def alias_of(type_hint: Any) -> Any:
    """The target of ``type X = ...``, for a hint that is such an alias, also one with parameters."""
    alias = typing.get_origin(type_hint) or type_hint
    return alias if type(alias).__name__ == "TypeAliasType" else None


def meaning_of(type_hint: Any) -> Any:
    alias = alias_of(type_hint)
    module = sys.modules.get(alias.__module__)
    names = {alias.__name__: alias} | {one.__name__: one for one in alias.__type_params__}
    value = SimpleNamespace(__annotations__={"value": alias.__value__})
    meaning = typing.get_type_hints(value, vars(module) if module else {}, names, include_extras=True)["value"]
    return _with_parameters(meaning, dict(zip(alias.__type_params__, typing.get_args(type_hint), strict=False)))


def meaning_of_variable(type_hint: TypeVar) -> Any:
    return (
        cast("Any", typing.Union)[type_hint.__constraints__]
        if type_hint.__constraints__
        else type_hint.__bound__ or Any
    )


def _with_parameters(type_hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(type_hint, TypeVar):
        return given.get(type_hint, type_hint)
    if isinstance(type_hint, type) or not given or not (left_open := getattr(type_hint, "__parameters__", ())):
        return type_hint
    return type_hint[tuple(given.get(one, one) for one in left_open)]


def class_of(type_hint: Any) -> Any:
    """The class behind a type hint that only adds to it."""
    while (origin := typing.get_origin(type_hint)) in ONLY_SAYS_HOW:
        type_hint = typing.get_args(type_hint)[0]
    while hasattr(type_hint, "__supertype__"):
        type_hint = type_hint.__supertype__
    return origin or type_hint


def fields_of(kind: Any) -> set[str]:
    kind = class_of(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(getattr(kind, "model_fields", None) or getattr(kind, "__struct_encode_fields__", ()))


def field_hints(type_hint: Any) -> dict[str, Any]:
    """The type hints of the fields of a class, with the parameters given to it; none for a class without fields."""
    kind: Any = typing.get_origin(type_hint) or type_hint
    if not isinstance(kind, type) or not (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(cast("Any", kind))
        or is_named_tuple(kind)
        or (issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like)
    ):
        return {}
    parameters: tuple[Any, ...] = getattr(cast("Any", kind), "__parameters__", ())
    given = dict(zip(parameters, typing.get_args(type_hint), strict=False))
    return {name: _with_parameters(part, given) for name, part in type_hints_of(kind).items()}


def is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(cast("Any", kind), "_fields")


def all_in(type_hints: Iterable[Any], *, with_fields: bool = True) -> Iterator[Any]:
    """These type hints and all their parts, each once; optionally without the fields of classes."""
    left, seen = list(type_hints), set[str]()
    while left:
        type_hint = left.pop()
        shown = f"{id(type_hint)} {type_hint}" if isinstance(type_hint, type) else str(type_hint)
        if shown in seen or len(seen) > _HINTS_MAX:
            continue
        seen.add(shown)
        yield type_hint
        parts = typing.get_args(type_hint)
        left += [part for part in parts if not isinstance(part, list)]
        if with_fields or typing.is_typeddict(typing.get_origin(type_hint) or type_hint):
            left += field_hints(type_hint).values()
        if hasattr(type_hint, "__supertype__"):
            left.append(type_hint.__supertype__)
        if isinstance(type_hint, TypeVar):
            left.append(meaning_of_variable(type_hint))
        if alias_of(type_hint) is not None:
            with contextlib.suppress(Exception):  # a name in it may be unknown
                left.append(meaning_of(type_hint))


def alike_in(*type_hints: Any) -> frozenset[type]:
    """The classes in unions whose bytes would also fit another class of the same union, at any depth."""
    found: set[type] = set()
    for type_hint in all_in(type_hints):
        if is_union(type_hint) or typing.get_origin(type_hint) is typing.Literal:
            kinds = set(_classes_in(type_hint))
            found.update(
                named_as(one) for one in kinds if any(other is not one and _is_alike(one, other) for other in kinds)
            )
    return frozenset(found)


def _classes_in(union: Any) -> Iterator[type]:
    for type_hint in all_in([union], with_fields=False):
        if typing.get_origin(type_hint) is typing.Literal:
            yield from map(type, typing.get_args(type_hint))
        elif isinstance(kind := class_of(type_hint), type):
            yield kind


def _is_alike(one: type, other: type) -> bool:
    """Whether values of one class would be taken for those of the other, unless they name their class."""
    if isinstance(one, EnumType):
        values = [member.value for member in cast("Iterable[Enum]", one)]
        if isinstance(other, EnumType):
            return any(member.value in values for member in cast("Iterable[Enum]", other))
        return any(_takes(other, travels_as(type(value))) for value in values)
    if _travels_as_map(one) and _travels_as_map(other):
        return fields_of(one) == fields_of(other)
    if is_plain_map(one):  # older payloads have no name for this class: so the map is the one that names itself
        return _travels_as_map(other)
    if one in ARRIVE or _travels_as_map(one) or inspect.isabstract(one) or typing.is_typeddict(one):
        return False
    if issubclass(one, msgspec.Struct) and issubclass(other, msgspec.Struct):
        return one.__struct_config__.array_like and _tag_of(one) == _tag_of(other)
    return _takes(other, travels_as(one))


def _tag_of(kind: Any) -> Any:
    return kind.__struct_config__.tag


def named_as(kind: type) -> type:
    return dict if is_plain_map(kind) else kind


def is_plain_map(kind: Any) -> bool:
    return kind in MAPS or typing.is_typeddict(kind)


def travels_as(kind: Any) -> type | None:
    """The class that arrives if no type hint is known; None if there is none of its own."""
    if issubclass(kind, msgspec.Struct):
        return list if kind.__struct_config__.array_like else dict
    if _travels_as_map(kind) or is_plain_map(kind):
        return dict
    if issubclass(kind, PurePath):
        return str
    if issubclass(kind, deque):
        return list
    return next((base for base in kind.__mro__ if base in TRAVELS_AS), None)


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
    """Whether a class can be read from an instance of the class that arrives."""
    if arrived is None or kind is types.NoneType:
        return False
    if isinstance(kind, EnumType):
        return any(travels_as(type(member.value)) is arrived for member in cast("Iterable[Enum]", kind))
    if kind in ABSTRACT:
        return arrived in _ARRAYS
    return travels_as(kind) in _TAKEN_FOR.get(arrived, (arrived,)) or (kind is UUID and arrived is str)


def _travels_as_map(kind: Any) -> bool:
    if issubclass(kind, msgspec.Struct):
        return not kind.__struct_config__.array_like and kind.__struct_config__.tag is None
    return dataclasses.is_dataclass(kind) or is_model(kind)


def show_hint(type_hint: Any) -> str:
    return type_hint.__qualname__ if isinstance(type_hint, type) else str(type_hint)


def function_name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def type_hints_of(fn: Any) -> dict[str, Any]:
    """The type hints that can be resolved. If a name is imported only for type checkers, only its own hint is lost."""
    names = _names_at(fn)
    try:
        type_hints: dict[str, Any] = typing.get_type_hints(fn, include_extras=True)
    except Exception:  # noqa: BLE001 - a type hint is a user's expression; each one is tried by itself
        type_hints = {}
        for name, type_hint in annotations_of(fn).items():
            with contextlib.suppress(Exception):
                type_hints |= typing.get_type_hints(
                    SimpleNamespace(__annotations__={name: type_hint}), names, None, True
                )
    return {name: _closed(type_hint, names) for name, type_hint in type_hints.items()}


def _names_at(fn: Any) -> dict[str, Any]:
    """The names that are known where a function or a class was written."""
    if isinstance(fn, type):
        return vars(sys.modules[fn.__module__]) if fn.__module__ in sys.modules else {}
    return getattr(inspect.unwrap(fn), "__globals__", {})


def _closed(type_hint: Any, names: dict[str, Any]) -> Any:
    """A type hint that refers to itself by its name, in a form that is read as deep as its values go."""
    if isinstance(type_hint, str):
        type_hint = typing.ForwardRef(type_hint)
    if isinstance(type_hint, typing.ForwardRef):
        return later_hint(type_hint.__forward_arg__, partial(_meaning_of_name, type_hint, names))
    origin, parts = typing.get_origin(type_hint), typing.get_args(type_hint)
    if origin in (None, typing.Literal, typing.Annotated, Callable):
        return type_hint
    closed = tuple(_closed(part, names) for part in parts)
    if all(map(operator.is_, closed, parts)):
        return type_hint
    if is_union(type_hint):
        return cast("Any", typing.Union)[closed]
    return type_hint.copy_with(closed) if hasattr(type_hint, "copy_with") else origin[closed]


def _meaning_of_name(type_hint: typing.ForwardRef, names: dict[str, Any]) -> Any:
    annotated = SimpleNamespace(__annotations__={"value": type_hint})
    try:
        return _closed(typing.get_type_hints(annotated, names, None, include_extras=True)["value"], names)
    except Exception:  # noqa: BLE001 - a name that only type checkers know says nothing
        return Any


SCALARS = frozenset({types.NoneType, bool, int, float, str, bytes})
"""They contain nothing, and arrive unchanged."""
ARRIVE = SCALARS | {list, dict, tuple, set, frozenset, date, datetime, time, timedelta, UUID, Decimal, complex}
"""For these, at least the class arrives."""
