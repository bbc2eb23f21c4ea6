"""Packs values so that their type hints can be read in one way only, and so that models come back unchanged."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache, partial
from typing import Any, cast

import msgpack
import msgspec

from durasleep.codec.calls import PLAIN_TYPES, call_of
from durasleep.codec.marks import MARKED_AS, HashedMap, MarkedMap, class_name
from durasleep.codec.shapes import take_model_as_it_is, validate_model
from durasleep.codec.values import (
    EXT_MARK,
    EXT_MARKED,
    KEPT_KEY,
    THOROUGH_UNPACKER,
    Unsendable,
    Writer,
    is_model,
    is_root,
    model_state,
    unsendable_model,
)
from durasleep.errors import NotSerializable

_SHORT = 1024  # a reused packer keeps its buffer: longer values do not use it
_SMALL = (int, bool)
_SHOWN_PATH_DEPTH = 50


class _Packers(threading.local):
    """A reused packer for each thread: making one costs more than packing a number."""

    def __init__(self) -> None:
        self.pack = cast("Callable[[object], bytes]", msgpack.Packer(autoreset=True).pack)


_packers = _Packers()


def pack(value: object, what: str, fn: Callable[..., Any] | None) -> bytes:
    if value is None or type(value) in _SMALL or (type(value) is str and len(value) < _SHORT):
        try:
            return _packers.pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a large integer is an extension; a broken string is reported below
    try:
        return (PLAIN_WRITER if fn is None else writer_for(fn, of_result=True)).pack(value)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything when its parts are read
        if isinstance(error, RecursionError) or "recursion limit" in str(error):
            raise NotSerializable(f"{what} is nested too deeply, or contains itself") from None
        path = _find_culprit(value)
        reason = str(error) if isinstance(error, Unsendable) else f"cannot be sent: {error or type(error).__name__}"
        raise NotSerializable(f"{what}: {path} {reason}" if path else f"{what} {reason}") from None


def name_arguments(args: Iterable[object], kwargs: dict[str, object]) -> list[tuple[str, object]]:
    return [(str(index), value) for index, value in enumerate(args, 1)] + [
        (repr(name), value) for name, value in kwargs.items()
    ]


class ProvenWriter(Writer):
    """Packs values to send: models are checked to come back unchanged."""

    def model_parts(self, value: Any) -> Any:
        return _proven_parts(value)


class _MarkingWriter(ProvenWriter):
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
        # The value of an enum member may be of a named class, too; then the name belongs to the member.
        extend = PLAIN_WRITER.extend if isinstance(value, Enum) else super().extend
        parts: Any = [*value] if isinstance(value, tuple) else extend(depth, value)
        if isinstance(parts, dict):
            found = cast("dict[Any, object]", parts)
            extra = {KEPT_KEY: found.pop(KEPT_KEY)} if KEPT_KEY in found else {}
            return {**extra, msgpack.ExtType(EXT_MARK, mark.encode()): None, **found}
        if type(parts) not in MARKED_AS and not isinstance(parts, msgpack.ExtType):
            return parts
        return msgpack.ExtType(EXT_MARKED, self.pack_items(depth, [mark, parts]))


class _MapMarkingWriter(_MarkingWriter):
    """Also marks plain maps, if there are classes that are sent as maps."""

    def pack(self, value: object, depth: int = 0) -> bytes:
        return super().pack(_with_plain_maps(value), depth)

    def pack_call(self, args: Iterable[object], kwargs: dict[str, object]) -> bytes:
        named = {name: _with_plain_maps(value) for name, value in kwargs.items()}
        return super().pack([[_with_plain_maps(value) for value in args], named])

    def extend(self, depth: int, value: Any) -> Any:
        if self._is_plain(value):
            return {msgpack.ExtType(EXT_MARK, class_name(dict).encode()): None, **value}
        parts = super().extend(depth, value)
        if type(parts) is dict:
            return {name: _with_plain_maps(part) for name, part in cast("dict[Any, Any]", parts).items()}
        return _with_plain_maps(parts)

    def _is_plain(self, value: Any) -> bool:
        """The packer does not ask about a plain dict; so a dict here is a model or a member of an enum."""
        kind = value.__class__
        is_map = issubclass(kind, dict) and kind not in (dict, MarkedMap, HashedMap)
        return is_map and self._marked.isdisjoint(kind.__mro__)


def _with_plain_maps(value: Any) -> Any:
    """A value whose plain dicts are replaced, so that the packer asks about them."""
    if type(value) is dict:
        return _PlainMap({name: _with_plain_maps(part) for name, part in cast("dict[Any, Any]", value).items()})
    return [_with_plain_maps(part) for part in cast("list[Any]", value)] if type(value) is list else value


class _PlainMap(dict[Any, Any]):
    pass


class _ProofWriter(Writer):
    """Packs values to compare them: models with all their data, and sets in one order."""

    def __init__(self, *, roots_as_maps: bool) -> None:
        super().__init__()
        self._roots_as_maps = roots_as_maps

    def pack_items(self, depth: int, items: Any) -> bytes:
        if isinstance(items, set | frozenset):
            items = sorted(cast("set[object]", items), key=partial(self.pack, depth=depth))
        return super().pack_items(depth, items)

    def model_parts(self, value: Any) -> Any:
        fields, private = model_state(value)
        is_bare = is_root(value) and not (private or self._roots_as_maps)
        return fields["root"] if is_bare else {KEPT_KEY: [private], **fields}


PLAIN_WRITER = ProvenWriter()
_PROOF_WRITER, _AS_IT_IS_WRITER = _ProofWriter(roots_as_maps=False), _ProofWriter(roots_as_maps=True)


@lru_cache(maxsize=256)
def _writer_of(marked: frozenset[type]) -> Writer:
    return _MapMarkingWriter(marked - {dict}) if dict in marked else _MarkingWriter(marked)


def writer_for(fn: Callable[..., Any], *, of_result: bool) -> Writer:
    """The writer for a function's arguments or result, so that its type hints can be read in one way only."""
    try:
        call = call_of(fn)
    except (TypeError, ValueError):  # it has no hash, or no signature
        return PLAIN_WRITER
    marked = call.alike_in_result if of_result else call.alike_in_arguments
    return _writer_of(marked) if marked else PLAIN_WRITER


def _proven_parts(value: Any) -> Any:
    """The parts from which a model will be restored unchanged; ``Unsendable`` if that is not possible.

    It is read here in the same way as at the receiver. A map is validated. If validation would change it (a strict
    field whose class is sent as text, a validator that does not accept its own result, a private attribute), it gets a
    mark that says it is not to be validated. A value that was set without validation may change to what the hint of its
    field says.
    """
    kind = value.__class__
    fields, private = model_state(value)
    parts = fields.get("root") if is_root(value) else fields
    if not private and _is_given_back(kind, fields, parts):
        return parts
    sent, validated = _PROOF_WRITER.pack(value), None
    with contextlib.suppress(Exception):  # any error of its validators
        again = validate_model(kind, THOROUGH_UNPACKER.unpack(sent))
        validated = _PROOF_WRITER.pack(again)
        if validated == sent or again == value:
            return parts
    exact = {KEPT_KEY: [private, sorted(value.model_fields_set)], **fields}
    try:
        again = take_model_as_it_is(kind, THOROUGH_UNPACKER.unpack(_AS_IT_IS_WRITER.pack(exact)))
    except Exception as misfit:  # noqa: BLE001 - any error of a class that checks itself, or whose __post_init__ fails
        if validated is not None and not private and _is_stable(kind, validated):
            return parts
        raise unsendable_model(kind, str(misfit)) from None
    found = _PROOF_WRITER.pack(again)
    if found == validated:
        return parts
    if found == sent or again == value:
        return exact
    changed = [
        name
        for name, one in fields.items()
        if _PROOF_WRITER.pack(one) != _PROOF_WRITER.pack(getattr(again, name, None))
    ]
    what = f"field {changed[0]!r}" if changed else "a private attribute"
    raise unsendable_model(kind, f"{what} would be read as a different value")


def _is_stable(kind: Any, validated: bytes) -> bool:
    """Whether a model that was read once would be read the same again."""
    with contextlib.suppress(Exception):  # any error of its validators
        return _PROOF_WRITER.pack(validate_model(kind, THOROUGH_UNPACKER.unpack(validated))) == validated
    return False


def _is_given_back(kind: Any, fields: dict[str, Any], parts: Any) -> bool:
    """Whether a model has only plain values, and validation gives the same."""
    if not PLAIN_TYPES.issuperset(map(type, fields.values())):
        return False
    with contextlib.suppress(Exception):  # any error of its validators
        found, private = model_state(validate_model(kind, {**parts} if parts is fields else parts))
        same = found.keys() == fields.keys() and [*map(type, found.values())] == [*map(type, fields.values())]
        return same and not private and found == fields
    return False


def _find_culprit(value: Any, path: str = "") -> str:
    """The part of a value that cannot be sent, as a path such as ``['items'][3]``."""
    for _ in range(_SHOWN_PATH_DEPTH):
        for where, child in _parts_of(value):
            try:
                PLAIN_WRITER.pack(child)
            except Exception:  # noqa: BLE001 - whatever it raised, this is the part
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
        case _ if is_model(value.__class__):
            with contextlib.suppress(Exception):
                return [(f".{name}", one) for name, one in model_state(value)[0].items()]
            return []
        case _:
            return []
