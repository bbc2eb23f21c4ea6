"""Values that name their class, for type hints that could be read in two ways; and values that can be keys."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID


class MarkedMap(dict[Any, Any]):
    """A map that names its class, or the private data of a model; other code sees a dict."""

    mark: str | None = None
    kept: Any = None


class MarkedTuple(tuple[Any, ...]):  # noqa: SLOT001 - it needs an attribute for its mark
    mark: str


class _MarkedText(str):  # noqa: SLOT000 - likewise
    mark: str


class _MarkedInt(int):
    mark: str


MARKED_AS: dict[type, Any] = {
    list: MarkedTuple,
    tuple: MarkedTuple,
    str: _MarkedText,
    int: _MarkedInt,
    bool: _MarkedInt,
    **{
        kind: type(f"_Marked{kind.__name__.title()}", (kind,), {})
        for kind in (float, bytes, frozenset, set, datetime, date, time, timedelta, Decimal, UUID, complex)
    },
}


class HashedMap(dict[Any, Any]):
    """A map that was a key or an item of a set. The final value will have a hash, so this one needs one until then."""

    mark: str | None = None
    kept: Any = None

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - its only purpose
        return hash(frozenset((key, hashable(value)) for key, value in self.items()))

    def __eq__(self, other: object) -> bool:
        differ = isinstance(other, HashedMap) and (other.mark, other.kept) != (self.mark, self.kept)
        return not differ and dict.__eq__(self, other) is True


def hashable(value: Any) -> Any:
    """A value that was a key or an item of a set, as a value that can be one."""
    match value:
        case _ if has_hash(value):
            return value
        case list() | tuple():
            return _marked_alike(tuple(map(hashable, cast("list[Any]", value))), cast("object", value))
        case dict():
            hashed = HashedMap(cast("dict[Any, Any]", value))
            hashed.kept = kept_of(cast("object", value))
            return with_mark(hashed, mark_of(cast("object", value)))
        case set():
            return _marked_alike(frozenset(cast("set[Any]", value)), cast("object", value))
        case _:
            return value


def _marked_alike(made: Any, value: object) -> Any:
    mark = mark_of(value)
    return made if mark is None else with_mark(MARKED_AS[type(made)](made), mark)


def has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class Mark(str):
    """The key in a map for the name of its class or, if it is empty, for the private data of a model."""

    __slots__ = ()


def with_mark(value: Any, mark: str | None) -> Any:
    object.__setattr__(value, "mark", mark)
    return value


def mark_of(value: object) -> str | None:
    """The name of the class that a value had where it was sent, if it was stored."""
    return getattr(value, "mark", None) if isinstance(value, _HAVE_MARKS) else None


def kept_of(value: object) -> Any:
    """The private data of a model, if it is to be taken as it is."""
    return value.kept if isinstance(value, MarkedMap | HashedMap) else None


_HAVE_MARKS = (MarkedMap, HashedMap, *set(MARKED_AS.values()))


def map_of(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    mark, kept, found = None, None, dict[Any, Any]()
    for key, value in pairs:
        if type(key) is not Mark:
            found[hashable(key)] = value
        elif key:
            mark = str(key)
        else:
            kept = value
    if mark is None and kept is None:
        return found
    marked = MarkedMap(found)
    marked.kept = kept
    return with_mark(marked, mark)


def as_subclass(kind: Any, value: Any) -> Any:
    """A value as an instance of the subclass with which it was sent."""
    if isinstance(value, date | time | timedelta):
        return kind(*cast("tuple[Any, ...]", value.__reduce_ex__(4)[1]))
    return kind(int=value.int) if isinstance(value, UUID) else kind(value)


def class_name(kind: type) -> str:
    """The name of a class in payloads: qualified, except for built-in classes."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def loaded_class(name: str) -> type | None:
    """The class with this name in payloads, if its module has been imported."""
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
