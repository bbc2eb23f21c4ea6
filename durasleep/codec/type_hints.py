"""What a hint means, without any value: its class, its fields, what it stands for, what travels alike with it."""

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

_HINTS_MAX = 1_000  # looked at in one function: those that refer to each other end, too
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
    """The class of a hint that stands for another one, which is found where a value has come; Any if there is none."""

    meaning: Callable[[], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def later_hint(hint: Any, meaning: Callable[[], Any]) -> LaterHint:
    return LaterHint(show_hint(hint), (), {"meaning": staticmethod(meaning)})


ONLY_SAYS_HOW = (typing.Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired)
ABSTRACT = (Collection, Sequence, MutableSequence, AbstractSet, MutableSet)
MAPS = (dict, Mapping, MutableMapping)


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def is_unpacked(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Unpack or getattr(hint, "__unpacked__", False)


def alias_of(hint: Any) -> Any:
    """What ``type X = ...`` has made, of a hint that is one, or one with parameters."""
    alias = typing.get_origin(hint) or hint
    return alias if type(alias).__name__ == "TypeAliasType" else None


def meaning_of(hint: Any) -> Any:
    alias = alias_of(hint)
    module = sys.modules.get(alias.__module__)
    names = {alias.__name__: alias} | {one.__name__: one for one in alias.__type_params__}
    value = SimpleNamespace(__annotations__={"value": alias.__value__})
    meaning = typing.get_type_hints(value, vars(module) if module else {}, names, include_extras=True)["value"]
    return _with_parameters(meaning, dict(zip(alias.__type_params__, typing.get_args(hint), strict=False)))


def meaning_of_variable(hint: TypeVar) -> Any:
    return cast("Any", typing.Union)[hint.__constraints__] if hint.__constraints__ else hint.__bound__ or Any


def _with_parameters(hint: Any, given: dict[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    if isinstance(hint, type) or not given or not (left_open := getattr(hint, "__parameters__", ())):
        return hint
    return hint[tuple(given.get(one, one) for one in left_open)]


def class_of(hint: Any) -> Any:
    """The class behind a hint that only says more of it."""
    while (origin := typing.get_origin(hint)) in ONLY_SAYS_HOW:
        hint = typing.get_args(hint)[0]
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return origin or hint


def fields_of(kind: Any) -> set[str]:
    kind = class_of(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(getattr(kind, "model_fields", None) or getattr(kind, "__struct_encode_fields__", ()))


def field_hints(hint: Any) -> dict[str, Any]:
    """The hints of what a class consists of, with the parameters it is given; none of one that has no such parts."""
    kind: Any = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or not (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(cast("Any", kind))
        or is_named_tuple(kind)
        or (issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like)
    ):
        return {}
    parameters: tuple[Any, ...] = getattr(cast("Any", kind), "__parameters__", ())
    given = dict(zip(parameters, typing.get_args(hint), strict=False))
    return {name: _with_parameters(part, given) for name, part in hints_of(kind).items()}


def is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(cast("Any", kind), "_fields")


def all_in(hints: Iterable[Any], *, with_fields: bool = True) -> Iterator[Any]:
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
            left += field_hints(hint).values()
        if hasattr(hint, "__supertype__"):
            left.append(hint.__supertype__)
        if isinstance(hint, TypeVar):
            left.append(meaning_of_variable(hint))
        if alias_of(hint) is not None:
            with contextlib.suppress(Exception):  # a name in it may not be known
                left.append(meaning_of(hint))


def alike_in(*hints: Any) -> frozenset[type]:
    """The classes in unions whose bytes would fit another of the same union, too, wherever in it they are."""
    found: set[type] = set()
    for hint in all_in(hints):
        if is_union(hint) or typing.get_origin(hint) is typing.Literal:
            kinds = set(_classes_in(hint))
            found.update(
                named_as(one) for one in kinds if any(other is not one and _is_alike(one, other) for other in kinds)
            )
    return frozenset(found)


def _classes_in(union: Any) -> Iterator[type]:
    for hint in all_in([union], with_fields=False):
        if typing.get_origin(hint) is typing.Literal:
            yield from map(type, typing.get_args(hint))
        elif isinstance(kind := class_of(hint), type):
            yield kind


def _is_alike(one: type, other: type) -> bool:
    """Whether the values of one would be taken for those of the other, unless they say what they are."""
    if isinstance(one, EnumType):
        values = [member.value for member in cast("Iterable[Enum]", one)]
        if isinstance(other, EnumType):
            return any(member.value in values for member in cast("Iterable[Enum]", other))
        return any(_takes(other, travels_as(type(value))) for value in values)
    if _travels_as_map(one) and _travels_as_map(other):
        return fields_of(one) == fields_of(other)
    if is_plain_map(one):  # written before, the class had no name: so it is the map that has one
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
    """The class of what arrives of it, where no hint is known; None for what has none of its own."""
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
    """Whether a class is read from what arrives as an instance of this one."""
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


def show_hint(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint)


def function_name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


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
        return later_hint(hint.__forward_arg__, partial(_meaning_of_name, hint, names))
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (None, typing.Literal, typing.Annotated, Callable):
        return hint
    closed = tuple(_closed(part, names) for part in parts)
    if all(map(operator.is_, closed, parts)):
        return hint
    if is_union(hint):
        return cast("Any", typing.Union)[closed]
    return hint.copy_with(closed) if hasattr(hint, "copy_with") else origin[closed]


def _meaning_of_name(hint: typing.ForwardRef, names: dict[str, Any]) -> Any:
    annotated = SimpleNamespace(__annotations__={"value": hint})
    try:
        return _closed(typing.get_type_hints(annotated, names, None, include_extras=True)["value"], names)
    except Exception:  # noqa: BLE001 - a name that only type checkers know says nothing
        return Any


SCALARS = frozenset({types.NoneType, bool, int, float, str, bytes})
"""They hold nothing, and arrive as what they were."""
ARRIVE = SCALARS | {list, dict, tuple, set, frozenset, date, datetime, time, timedelta, UUID, Decimal, complex}
"""Of these at least the class arrives."""
