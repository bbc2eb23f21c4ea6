"""Shapes decoded values by their type hints.

Received objects are made again: the ``__post_init__`` of a dataclass runs again, on the fields that the first run has
left. A model is validated again. If validation would change it, it has a mark without a name, and is taken as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    MutableSet,
)
from collections.abc import Set as AbstractSet
from enum import EnumType
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any, TypeVar, cast

import msgspec

from durasleep.codec.marks import MarkedTuple, as_subclass, class_name, has_hash, kept_of, loaded_class, mark_of
from durasleep.codec.type_hints import (
    ABSTRACT,
    ARRIVE,
    MAPS,
    ONLY_SAYS_HOW,
    TRAVELS_AS,
    LaterHint,
    alias_of,
    alike_in,
    all_in,
    class_of,
    field_hints,
    fields_of,
    is_named_tuple,
    is_plain_map,
    is_union,
    is_unpacked,
    later_hint,
    meaning_of,
    meaning_of_variable,
    named_as,
    show_hint,
    travels_as,
    type_hints_of,
)
from durasleep.codec.values import DATA_WRITER, is_model, unpack
from durasleep.errors import UsageError

_STRICT, _LENIENT = (True,), (False,)


def shape(value: Any, type_hint: Any, what: str, modes: tuple[bool, ...] = (True, False)) -> Any:
    """A decoded value as its type hint says: strictly if that fits, else leniently (``"5"`` as an int)."""
    if type_hint is Any or type(value) is type_hint:
        return value
    if _is_misread(type_hint):
        type_hint = _known(type_hint)
    misfit: Exception | None = None
    for strict in modes:
        try:
            return msgspec.convert(value, type_hint, strict=strict, dec_hook=_convert)
        except Exception as error:  # noqa: BLE001 - a class may check itself and raise anything
            misfit = misfit or error
        known = _known(type_hint)
        if known is not type_hint:
            return value if known is Any else shape(value, known, what, modes)
        if isinstance(misfit, TypeError | NameError):  # the type hint itself cannot be used
            return value
    raise UsageError(f"{what} does not fit {show_hint(type_hint)}: {' '.join(str(misfit).split())}") from misfit


def _convert(kind: Any, value: Any) -> Any:
    """Types that msgspec leaves to us: generic collections, models, paths, and users' own classes."""
    if isinstance(kind, _ReaderOfHint):
        return kind.read(value)
    if isinstance(kind, LaterHint):
        return shape(value, kind.meaning(), "the value")
    origin = typing.get_origin(kind) or kind
    if origin in _COLLECTIONS:
        return _COLLECTIONS[origin](value, typing.get_args(kind))
    if getattr(origin, "_is_protocol", False):
        return value
    if isinstance(value, origin):
        parts = typing.get_args(kind)
        return _shape_items(value, parts[0]) if parts and inspect.isabstract(origin) else value
    if is_model(kind):
        return validate_model(kind, value) if kept_of(value) is None else take_model_as_it_is(kind, value)
    if isinstance(value, MarkedTuple) and issubclass(origin, list):
        return cast("Any", origin)(value)
    if issubclass(origin, PurePath | complex):
        return cast("Any", origin)(value)
    if any(isinstance(value, base) and issubclass(origin, base) for base in TRAVELS_AS):
        return as_subclass(origin, value)
    raise ValueError(f"expected a {origin.__qualname__}, got {type(value).__qualname__}")


def validate_model(kind: Any, value: Any) -> Any:
    """A model from a map with the names of its fields or their aliases."""
    try:
        return kind.model_validate(value, by_alias=True, by_name=True)
    except TypeError:  # pydantic before 2.11
        return kind.model_validate(value)


def take_model_as_it_is(kind: Any, value: Any) -> Any:
    """A model with the fields and private attributes that were sent, each shaped by its hint, and not validated."""
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
    type_hints = type_hints_of(kind)
    for name in kind.__private_attributes__.keys() & private:
        made.__pydantic_private__[name] = shape(private[name], type_hints.get(name, Any), f"attribute {name!r}")
    made.__setstate__({**state, "__dict__": vars(made) | fields, "__pydantic_private__": made.__pydantic_private__})
    return made


def _field_of_model(name: str, field: Any, found: dict[str, Any]) -> Any:
    if name in found:
        if found[name] and "PydanticRecursiveRef(" in str(field.annotation):
            raise ValueError(
                f"field {name!r} has a type hint that names no class: a generic model that contains itself"
            )
        return shape(found[name], field.annotation, f"field {name!r}", _STRICT)
    if field.is_required():
        raise ValueError(f"field {name!r} is missing")
    if getattr(field, "default_factory_takes_validated_data", False):
        return field.default_factory(found)
    return field.get_default(call_default_factory=True)


def _map_hint(parts: tuple[Any, ...]) -> Any:
    return cast("Any", dict)[parts] if parts else dict


_COLLECTIONS: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
    Counter: lambda value, parts: Counter[Any](shape(value, _map_hint((*parts, int) if parts else ()), "the counter")),
    OrderedDict: lambda value, parts: OrderedDict(shape(value, _map_hint(parts), "the map")),
    defaultdict: lambda value, parts: defaultdict(_factory(*parts), shape(value, _map_hint(parts), "the map")),
    deque: lambda value, parts: deque(shape(value, cast("Any", list)[parts or Any], "the queue")),
}


def _factory(_: Any = Any, type_hint: Any = Any) -> Callable[[], Any] | None:
    """The default factory of such a map, if the type hint of its values is one."""
    kind = class_of(type_hint)
    return kind if kind in (int, float, str, list, dict, set) else None


def _shape_items(value: Any, type_hint: Any) -> Any:
    """A value that fits an abstract collection keeps its own class."""
    for kind, known in (
        (list, list[type_hint]),
        (tuple, tuple[type_hint, ...]),
        (set, set[type_hint]),
        (frozenset, frozenset[type_hint]),
    ):
        if isinstance(value, kind):
            return shape(value, known, "the items")
    return shape(value, dict[type_hint, Any], "the keys") if isinstance(value, dict) else value


class _ReaderOfHint(type):
    """The class of type hints that we read ourselves; every value read so counts as an instance of it."""

    read: Callable[[Any], Any]

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def _reader(type_hint: Any, read: Callable[[Any], Any]) -> _ReaderOfHint:
    return _ReaderOfHint(show_hint(type_hint), (), {"read": staticmethod(read)})


def _known(type_hint: Any) -> Any:
    """A type hint as msgspec knows it; Any if msgspec does not know it, because then it says nothing about bytes."""
    return _find_known(type_hint, str(type_hint))


# Functions and awaitables have no data: a value for such a type hint is taken as it is.
_WITHOUT_INSTANCES = (Callable, type, Iterator, Generator, Awaitable, Coroutine, AsyncIterable, AsyncIterator)


@lru_cache(maxsize=256)
def _find_known(
    type_hint: Any, _shown: str
) -> Any:  # the shown text is part of the cache key: unions are equal in any order
    if isinstance(type_hint, _ReaderOfHint | LaterHint) or _is_known(type_hint):
        return type_hint
    origin, parts = typing.get_origin(type_hint), typing.get_args(type_hint)
    if (origin or type_hint) in _WITHOUT_INSTANCES:
        return Any
    if isinstance(type_hint, EnumType):  # msgspec knows only enums of names and numbers
        return _reader(type_hint, partial(_read_member, type_hint))
    if is_union(type_hint):  # msgspec knows no union of two types that are sent alike
        return _reader(type_hint, partial(_read_one_of, parts, alike_in(type_hint)))
    if alias_of(type_hint) is not None:
        return later_hint(type_hint, partial(meaning_of, type_hint))
    if isinstance(type_hint, TypeVar):
        return _known(meaning_of_variable(type_hint))
    if field_hints(type_hint):
        return _reader(type_hint, partial(_read_fields, type_hint))
    if origin in ABSTRACT:
        return _reader(type_hint, partial(_read_abstract, type_hint, _known_container(origin, parts)))
    if origin in MAPS and parts and not _is_plain_key(parts[0]):
        return _reader(type_hint, partial(_read_map, parts))
    if origin is typing.Literal:  # literals that are neither text nor numbers
        return _reader(type_hint, partial(_read_literal, parts))
    if origin in ONLY_SAYS_HOW:
        return _known(parts[0])
    if origin in _COLLECTIONS or (isinstance(origin, type) and origin not in ARRIVE and travels_as(origin)):
        return _reader(type_hint, partial(_convert, type_hint))
    if isinstance(origin, type) and issubclass(origin, tuple) and any(map(is_unpacked, parts)):
        return tuple
    if origin in MAPS or origin in (list, set, frozenset, tuple):
        return _known_container(origin, parts)
    return Any


def _known_container(origin: Any, parts: tuple[Any, ...]) -> Any:
    kind: Any = origin
    if origin in ABSTRACT:
        kind = set if origin in (AbstractSet, MutableSet) else list
    elif origin in MAPS:
        kind = dict
    return kind[tuple(part if part is ... else _known(part) for part in parts)] if parts else kind


def _read_abstract(type_hint: Any, known: Any, value: Any) -> Any:
    """A value that fits keeps its class; a value that was sent as JSON gets the usual class."""
    return (
        _convert(type_hint, value)
        if isinstance(value, typing.get_origin(type_hint))
        else shape(value, known, "the value")
    )


def _read_map(parts: tuple[Any, Any], value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"expected a map, got {type(value).__qualname__}")  # noqa: TRY004 - msgspec needs a ValueError
    found = cast("dict[Any, Any]", value)
    return {shape(key, parts[0], "a key"): shape(one, parts[1], f"{key!r}") for key, one in found.items()}


def _is_plain_key(type_hint: Any) -> bool:
    """Whether msgspec reads keys of this kind. It leaves text as it is where it would have to ask us."""
    try:
        return not isinstance(msgspec.inspect.type_info(type_hint), msgspec.inspect.CustomType)
    except Exception:  # noqa: BLE001 - msgspec does not know such a type hint
        return False


def _is_known(type_hint: Any) -> bool:
    """Whether msgspec reads a type hint, and all parts of it, as it is meant."""
    try:
        msgspec.msgpack.Decoder(type_hint)
    except (TypeError, NameError):
        return False
    return not (_is_misread(type_hint) or any(map(_has_no_instances, all_in([type_hint]))))


def _has_no_instances(type_hint: Any) -> bool:
    if (
        isinstance(type_hint, type)
        and hasattr(type_hint, "__get_pydantic_core_schema__")
        and type_hint.__init__ is object.__init__
    ):
        return True  # it has no instances, and only says what pydantic must check, as EmailStr
    return is_unpacked(type_hint) or (
        has_hash(type_hint) and (typing.get_origin(type_hint) or type_hint) in _WITHOUT_INSTANCES
    )


def _is_misread(type_hint: Any) -> bool:
    """Whether msgspec would silently read some part of a type hint differently than it is meant."""
    try:
        return _has_misread(type_hint)
    except TypeError:  # it has no hash
        return False


@lru_cache(maxsize=1024)
def _has_misread(type_hint: Any) -> bool:
    for part in all_in([type_hint]):
        origin, parts = typing.get_origin(part), typing.get_args(part)
        if origin in ABSTRACT or (origin in MAPS and parts and not _is_plain_key(parts[0])):
            return True
        if is_union(part) and alike_in(part):
            return True
    return False


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
                return shape(value, kind, "the value", modes)
    raise ValueError(f"it fits none of {', '.join(map(show_hint, kinds))}")


def _read_literal(meant: tuple[Any, ...], value: Any) -> Any:
    """The literal that is sent as this value."""
    mark, sent = mark_of(value), _data_in(value)
    is_far: Callable[[Any], bool] = lambda one: type(one) is not type(value)  # noqa: E731 - so is the other
    for one in sorted(meant, key=is_far if mark is None else lambda one: not _is_named(type(one), mark)):
        if _data_of(one) == sent:
            return one
    raise ValueError(f"it is none of {', '.join(map(repr, meant))}")


def _data_of(value: object) -> object:
    """A value as it is sent, to compare it with a received one."""
    return _data_in(unpack(DATA_WRITER.pack(value)))


def _data_in(value: Any) -> object:
    """A received value for comparison: without names of classes, and a list as a tuple, because a key that was a list
    arrives as one.
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
            return DATA_WRITER.pack(value)


def _is_named(kind: Any, name: str) -> bool:
    kind = class_of(kind)
    if kind is typing.Literal or not isinstance(kind, type):
        return False
    return class_name(kind) == name or (name == "dict" and is_plain_map(kind))


def _is_another(kind: Any, name: str) -> bool:
    """Whether a class is certainly not the one with this name, nor a subclass of it, even if it was renamed."""
    kind, named = class_of(kind), loaded_class(name)
    if named is None or not isinstance(kind, type) or kind in (dict, list, tuple):
        return False
    return travels_as(kind) is not None and not issubclass(named, kind) and named.__qualname__ != kind.__qualname__


def _has_names(type_hint: Any, value: Any, alike: frozenset[type]) -> bool:
    """Whether the classes that a value names are those that its type hint has in these places."""
    while hasattr(type_hint, "__supertype__") or typing.get_origin(type_hint) in ONLY_SAYS_HOW:
        type_hint = type_hint.__supertype__ if hasattr(type_hint, "__supertype__") else typing.get_args(type_hint)[0]
    if alias_of(type_hint) is not None:
        return _has_names(meaning_of(type_hint), value, alike)
    if isinstance(type_hint, TypeVar):
        return _has_names(meaning_of_variable(type_hint), value, alike)
    mark, parts = mark_of(value), typing.get_args(type_hint)
    if is_union(type_hint):
        return any(_has_names(part, value, alike) for part in parts)
    if typing.get_origin(type_hint) is typing.Literal:
        return mark is None or any(_is_named(type(one), mark) for one in parts)
    kind = class_of(type_hint)
    if isinstance(kind, type) and (named_as(kind) in alike if mark is None else not _is_named(kind, mark)):
        return False
    return all(_has_names(part, one, alike) for part, one in _placed(type_hint, parts, value))


def _placed(type_hint: Any, parts: tuple[Any, ...], value: Any) -> Iterable[tuple[Any, Any]]:
    """The parts of a value, each with its type hint."""
    fields = field_hints(type_hint)
    if isinstance(value, dict):
        found = cast("dict[Any, Any]", value)
        if len(parts) == 2 and not fields:
            return [(part, one) for item in found.items() for part, one in zip(parts, item, strict=True)]
        return [(part, found[name]) for name, part in fields.items() if name in found]
    if not isinstance(value, list | tuple | set | frozenset):
        return ()
    items = list(cast("Iterable[Any]", value))
    if class_of(type_hint) is tuple and parts[1:] != (...,):
        return zip(parts, items, strict=False)
    return zip(fields.values(), items, strict=False) if fields else [(part, one) for part in parts[:1] for one in items]


def _distance(value: Any, kind: Any) -> int:
    """How different a value is from a type; of a union, the nearest type is tried first."""
    if _known(kind) is Any:
        return 2
    if isinstance(value, dict):
        if fields_of(kind) == set(cast("dict[object, object]", value)):
            return 0
        kind = class_of(kind)
        return 2 if isinstance(kind, type) and issubclass(kind, dict) and kind is not dict else 1
    return 0 if type(value) is (typing.get_origin(kind) or kind) else 1


def _read_fields(type_hint: Any, value: Any) -> Any:
    kind: Any = typing.get_origin(type_hint) or type_hint
    type_hints = field_hints(type_hint)
    if is_named_tuple(kind) and isinstance(value, list | tuple):
        value = dict(zip(kind._fields, cast("list[Any]", value), strict=False))
    if not isinstance(value, dict):
        raise ValueError(f"expected a {kind.__qualname__}, got {type(value).__qualname__}")  # noqa: TRY004 - for msgspec
    found = cast("dict[str, Any]", value)
    if issubclass(kind, msgspec.Struct):
        sent_as = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        found = {name: found[sent] for name, sent in sent_as if sent in found}
    given = {name: shape(found[name], part, f"field {name!r}") for name, part in type_hints.items() if name in found}
    if not dataclasses.is_dataclass(kind):
        return kind(**given)
    later = [field.name for field in dataclasses.fields(kind) if not field.init and field.name in given]
    made = kind(**{name: one for name, one in given.items() if name not in later})
    for name in later:
        object.__setattr__(made, name, given[name])
    return made


def _read_member(kind: Any, value: Any) -> Any:
    """A member of an enum by its value, or by its value as data."""
    try:
        return kind(value)
    except ValueError:
        sent = _data_in(value)
        for member in kind:
            if _data_of(member) == sent:
                return member
        raise
