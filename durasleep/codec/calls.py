"""The arguments of a function: shaped by its type hints when they arrive, and checked when they are sent."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec

from durasleep.codec.shapes import shape
from durasleep.codec.type_hints import ARRIVE, SCALARS, alike_in, function_name, type_hints_of
from durasleep.errors import UsageError
from durasleep.signatures import signature_of


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """How a function is called: its signature, its type hints, and those of its positional parameters."""

    signature: inspect.Signature
    type_hints: dict[str, Any]
    by_position: tuple[tuple[str, Any], ...]
    required: int
    """The least number of positional arguments that is a complete call; impossibly many if keywords are needed."""
    types: tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]
    """The type hints of all positional parameters, and of all but the first, if these are a complete call."""
    alike_in_arguments: frozenset[type]
    """The classes whose values must name their class."""
    alike_in_result: frozenset[type]


@lru_cache(maxsize=1024)
def call_of(fn: Callable[..., Any]) -> _Call:
    signature, type_hints = signature_of(fn), type_hints_of(fn)
    parameters = signature.parameters.values()
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    others = any(
        one.kind is one.VAR_POSITIONAL or (one.kind is one.KEYWORD_ONLY and one.default is one.empty)
        for one in parameters
    )
    required = len(plain) + 1 if others else sum(one.default is one.empty for one in plain)
    by_position = tuple((one.name, type_hints.get(one.name, Any)) for one in plain)
    types = tuple(type_hint for _, type_hint in by_position)
    return _Call(
        signature,
        type_hints,
        by_position,
        required,
        (None, None) if others else (types, types[1:]),
        alike_in(*(type_hint for name, type_hint in type_hints.items() if name != "return")),
        alike_in(type_hints.get("return", Any)),
    )


def shape_args(
    fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], skip_first: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    call = call_of(fn)
    if not kwargs and call.required <= len(args) + skip_first <= len(call.by_position):  # binding costs 5 us
        shaped = [
            value
            if type_hint is Any or type(value) is type_hint
            else shape(value, type_hint, f"argument {name!r} of {function_name(fn)}")
            for value, (name, type_hint) in zip(args, call.by_position[skip_first:], strict=False)
        ]
        return tuple(shaped), {}
    bound = _bind(call, fn, args, kwargs, skip_first)
    for index, (name, value) in enumerate(bound.arguments.items()):
        if name not in call.type_hints or (skip_first and index == 0):
            continue
        type_hint, what = call.type_hints[name], f"argument {name!r} of {function_name(fn)}"
        match call.signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(shape(one, type_hint, what) for one in value)
            case inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: shape(one, type_hint, what) for key, one in value.items()}
            case _:
                bound.arguments[name] = shape(value, type_hint, what)
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
        raise UsageError(f"{function_name(fn)}{call.signature}: {error}{more}") from None


PLAIN_TYPES = frozenset({types.NoneType, bool, int, float, str, bytes, date, datetime, time, timedelta, UUID, Decimal})
_HOLDING = frozenset({list, dict, tuple, set, frozenset})


class _Parameter(msgspec.Struct, frozen=True):
    """What can be checked of a parameter's values without looking into them."""

    name: str
    type_hint: Any
    fitting: frozenset[Any]
    """Classes that certainly fit."""
    checked: frozenset[Any]
    """Classes whose values are shaped here as they will be at the receiver."""


class _Check(msgspec.Struct, frozen=True):
    """What a call of a function needs; the context parameter is left out."""

    by_position: tuple[_Parameter, ...]
    fewest: int
    """The number of positional arguments that is a complete call; impossibly many if keywords are needed."""
    most: int
    by_name: dict[str, _Parameter]
    """All parameters that may be given by keyword."""
    required: frozenset[str]
    is_simple: bool
    """Whether every parameter has a name by which it may be given."""

    def takes(self, count: int, names: AbstractSet[str]) -> bool:
        """Whether this many positional arguments and these keywords are a complete call; certain only if simple."""
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
    """UsageError, naming the parameter, if ``fn`` would not take this call; ``skip_first`` is as in ``decode_args``.

    A value that does not fit its type hint is found if nothing has to be looked into: a text for a number, a number for
    a list or a dataclass. Other misfits are found at the receiver. Returns whether the answer depends only on the
    classes of the arguments: then other arguments of these classes need no check.
    """
    check = _check_of(fn, skip_first)
    if check is None:
        return True
    if not check.takes(len(args), kwargs.keys()):
        _bind(call_of(fn), fn, args, kwargs, skip_first)
    by_name = [(value, check.by_name[name]) for name, value in kwargs.items() if name in check.by_name]
    doubtful = [
        (value, parameter)
        for value, parameter in (*zip(args, check.by_position, strict=False), *by_name)
        if type(value) not in parameter.fitting and type(value) in parameter.checked
    ]
    for value, parameter in doubtful:
        shape(value, parameter.type_hint, f"argument {parameter.name!r} of {function_name(fn)}")
    return not doubtful


@lru_cache(maxsize=1024)
def _check_of(fn: Callable[..., Any], skip_first: bool) -> _Check | None:
    """None for a function whose signature is not known, such as some functions of C."""
    try:
        call = call_of(fn)
    except (TypeError, ValueError):
        return None
    parameters = list(call.signature.parameters.values())[skip_first:]
    known = {one.name: _parameter(one.name, call.type_hints.get(one.name, Any)) for one in parameters}
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


def _parameter(name: str, type_hint: Any) -> _Parameter:
    kinds = (
        typing.get_args(type_hint) if typing.get_origin(type_hint) in (typing.Union, types.UnionType) else (type_hint,)
    )
    kinds = [typing.get_origin(kind) or kind for kind in kinds]
    classes = {kind for kind in kinds if isinstance(kind, type)}
    if len(classes) < len(kinds):
        return _Parameter(name, type_hint, frozenset(), frozenset())
    if classes <= PLAIN_TYPES:
        return _Parameter(name, type_hint, frozenset(classes | {int} if float in classes else classes), ARRIVE)
    is_checked = all(
        kind in PLAIN_TYPES
        or kind in _HOLDING
        or dataclasses.is_dataclass(kind)
        or issubclass(kind, Enum | msgspec.Struct)
        for kind in classes
    )
    return _Parameter(name, type_hint, frozenset(), SCALARS if is_checked else frozenset())
