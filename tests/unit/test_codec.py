"""Values, arguments and errors as bytes and back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import functools
import json
import os
import re
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import threading
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
    cast,
)
from urllib.error import HTTPError, URLError
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from durasleep.codec import Codec
from durasleep.codec.calls import call_of, check_call  # pyright: ignore[reportPrivateUsage]
from durasleep.codec.exceptions import error_line
from durasleep.errors import CorruptData, NotSerializable, PayloadTooLarge, RemoteError, UsageError
from durasleep.model import State
from durasleep.query.result import error_text

codec = Codec()

# A zone may move an instant by a day; beyond these it would leave the calendar.
OLDEST, NEWEST = datetime(1900, 1, 2), datetime(9998, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
ZONES = st.sampled_from([UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns"), timezone(timedelta(hours=-3))])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=ZONES, min_value=OLDEST, max_value=NEWEST)
    | st.timedeltas()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-5, 5), inner, max_size=4)
        | st.sets(SCALARS, max_size=4)
        | st.frozensets(SCALARS, max_size=4)
    ),
    max_leaves=15,
)


T = TypeVar("T")


def pack(value: object) -> bytes:
    return cast("bytes", msgpack.packb(value))


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Movie(TypedDict):
    title: str
    year: int


@dataclass
class Line:
    sku: str
    price: Decimal
    color: Color


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    due: datetime
    tags: frozenset[str]


class Struct(msgspec.Struct):
    a: int
    b: bytes


class Size(enum.Enum):
    LARGE = (3, 4)


class Renamed(msgspec.Struct, rename="camel"):
    line_count: int


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Pair(msgspec.Struct, array_like=True):
    a: int
    b: int


class Refused(Exception):
    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: Page[T] | None = None


class Box(msgspec.Struct, Generic[T]):
    value: T


class Tagged(TypedDict, Generic[T]):
    tag: T


class Part(TypedDict):
    order: Order
    extra: NotRequired[bytes]


@dataclass
class DearLine(Line):
    dearer_by: int


@dataclass
class Choice:
    one: Line | Order
    many: list[Line | Order]
    none: Order | Line | None = None


OrderId = NewType("OrderId", int)
LINE = Line("tea", Decimal("1.10"), Color.RED)
ORDER = Order(UUID(int=7), [LINE], datetime(2026, 1, 1, tzinfo=UTC), frozenset("ab"))


@given(VALUES)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    back = codec.decode(codec.encode(value, "it"))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("hour", "fold"), [((3, 29, 2, 30), 0), ((3, 29, 2, 30), 1), ((10, 25, 2, 30), 0), ((10, 25, 2, 30), 1)]
)
def test_a_clock_that_is_changed_keeps_both_instant_and_reading(hour: tuple[int, int, int, int], fold: int) -> None:
    value = datetime(2026, *hour, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))
    back = codec.decode(codec.encode(value, "it"))
    assert (back, back.astimezone(UTC)) == (value, value.astimezone(UTC))


def test_an_aware_datetime_keeps_its_zone() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert str(codec.decode(codec.encode(noon, "it")).tzinfo) == "Europe/Berlin"


@pytest.mark.parametrize(
    ("value", "type_hint"),
    [
        (Color.RED, Color),
        (Level.HIGH, Level),
        (Point(1, 2), Point),
        ({"title": "Brazil", "year": 1985}, Movie),
        (Struct(1, b"\xff"), Struct),
        (
            Order(
                UUID(int=7),
                [Line("tea", Decimal("12.50"), Color.RED)],
                datetime(2026, 1, 1, tzinfo=UTC),
                frozenset("ab"),
            ),
            Order,
        ),
        ([Line("tea", Decimal(1), Color.RED)], list[Line]),
        ({1: {2, 3}}, dict[int, set[int]]),
        ("12", int | str),
        (None, Order | None),
        (PurePosixPath("/a/b"), PurePosixPath),
        (date(2026, 1, 1), date),
        (time(12, 1), time),
        (Size.LARGE, Size),
        (Renamed(1), Renamed),
        ([Cat(9), Dog("Rex")], list[Cat | Dog]),
        (Pair(1, 2), Pair),
        ("2026-01-01", date | str),
        (Page([LINE], Page([])), Page[Line]),
        (Box(LINE), Box[Line]),
        ({"tag": Color.RED}, Tagged[Color]),
        ({"order": ORDER, "extra": b"\xff"}, Part),
        ((1, LINE), tuple[int, Line]),
        ((LINE, LINE), tuple[Line, ...]),
        ({"a": [ORDER, None]}, dict[str, list[Order | None]]),
        ({Color.RED: UUID(int=1)}, dict[Color, UUID]),
        ([Color.RED, 3], list[Color | int]),
        (OrderId(3), OrderId),
        ("b", Literal["a", "b"]),
        (b"\xff", bytes | str),
        ("bytes", bytes | str),
        (b"\xff", Any),
        (frozenset({Color.RED}), frozenset[Color] | None),
        ({1, 2}, set[int] | None),
        (timedelta(days=1), timedelta | int),
        (Decimal("1.50"), Decimal | str),
        (UUID(int=1), UUID | str),
        (str(UUID(int=1)), UUID | str),
        (complex(1, 2), complex),
        # unions of what travels as maps
        (LINE, Order | Line),
        (ORDER, Line | Order),
        ([LINE, ORDER, None], list[Order | Line | None]),
        ({"a": (LINE, ORDER)}, dict[str, tuple[Line | Order, ...]]),
        (Choice(LINE, [ORDER, LINE]), Choice),
        (LINE, Line | DearLine),
        (DearLine("tea", Decimal(1), Color.RED, 3), Line | DearLine),
        (Struct(1, b""), Line | Struct),
        ([Size.LARGE], list[Size]),
    ],
)
def test_a_hint_gives_a_value_its_shape_back(value: Any, type_hint: Any) -> None:
    back = codec.decode(codec.encode(value, "it"), type_hint)
    assert back == value
    assert type(back) is type(value)


def test_a_model_of_pydantic_travels_as_a_map() -> None:
    model = pydantic.create_model("Model", a=(int, ...))
    assert codec.decode(codec.encode(model(a=1), "it"), model) == model(a=1)


def test_a_model_travels_under_its_names_whatever_its_aliases() -> None:
    model = pydantic.create_model("Model", a=(int, pydantic.Field(alias="A")))
    assert codec.decode(codec.encode(model(A=1), "it"), model) == model(A=1)
    assert codec.decode(codec.encode({"A": 1}, "it"), model) == model(A=1)
    with pytest.raises(UsageError, match="does not fit Model"):
        codec.decode(codec.encode({"B": 1}, "it"), model)
    pair = pydantic.RootModel[tuple[int, int]]
    assert codec.decode(codec.encode(pair((1, 2)), "it"), pair) == pair((1, 2))


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)
    color: Color
    path: PurePosixPath = PurePosixPath("a")
    id: UUID = UUID(int=1)
    day: date = date(2026, 1, 1)
    seen: frozenset[Color] = frozenset({Color.RED})
    pair: tuple[int, ...] = (1, 2)
    frozen: Point | None = None


class Secretive(pydantic.BaseModel):
    shown: int
    hidden: int = pydantic.Field(exclude=True, default=1)
    needed: int = pydantic.Field(exclude=True)


class Serialized(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    tags: set[str]

    @pydantic.field_serializer("tags")
    def joined(self, tags: set[str]) -> str:
        return ",".join(tags)

    @pydantic.model_serializer(mode="wrap")
    def wrapped(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {"wrapped": handler(self)}

    @pydantic.computed_field
    @property
    def count(self) -> int:
        return len(self.tags)


class Doubling(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    number: int
    words: tuple[str, ...] = ()

    @pydantic.field_validator("number")
    @classmethod
    def doubled(cls, number: int) -> int:
        return number * 2

    @pydantic.field_validator("words", mode="before")
    @classmethod
    def split(cls, words: str) -> list[str]:
        return words.split(",")


class Counting(pydantic.BaseModel):
    a: int
    _count: int = pydantic.PrivateAttr(default=0)
    _seen: set[Color] = pydantic.PrivateAttr(default_factory=set[Color])
    _lock: Any = pydantic.PrivateAttr(default_factory=threading.Lock)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002 - its signature is given
        self._count += 1
        self.a += 1

    def see(self, color: Color) -> Counting:
        self._seen.add(color)
        return self

    @property
    def state(self) -> tuple[int, int, set[Color], bool]:
        return self.a, self._count, self._seen, self._lock.acquire(blocking=False)


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    a: int = pydantic.Field(alias="A")
    b: int = pydantic.Field(validation_alias=pydantic.AliasPath("x", "y"))
    color: Color = pydantic.Field(serialization_alias="zzz")


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True)
    color: Color


class CatModel(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    color: Color = Color.RED


class DogModel(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    color: Color = Color.RED


class Home(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    pet: Annotated[CatModel | DogModel, pydantic.Field(discriminator="kind")]
    pets: list[Annotated[CatModel | DogModel, pydantic.Field(discriminator="kind")]]


class Parcel(pydantic.BaseModel, Generic[T]):
    model_config = pydantic.ConfigDict(strict=True)
    item: T
    inner: list[Parcel[T]] = []
    named: dict[str, Doubling] = {}
    when: pydantic.AwareDatetime | None = None


class DoubledRoot(pydantic.RootModel[int]):
    @pydantic.field_validator("root")
    @classmethod
    def doubled(cls, root: int) -> int:
        return root * 2


class OfRoots(pydantic.BaseModel):
    root: DoubledRoot
    color: pydantic.RootModel[Color]


STRICT = Strict(color=Color.RED, frozen=Point(1, 2))
DOUBLED = Doubling.model_validate({"number": 1, "words": "a,b"})
COLOR_PARCEL = Parcel[Color](item=Color.RED, named={"a": DOUBLED}, when=datetime(2026, 1, 1, tzinfo=UTC))
MODELS: list[tuple[Any, Any]] = [
    (STRICT, Strict),
    ([STRICT, None], list[Strict | None]),
    (cast("Any", dict)([(STRICT, cast("Any", set)([DOUBLED]))]), dict[Strict, set[Doubling]]),
    (Secretive(shown=1, hidden=2, needed=3), Secretive),
    (Serialized(tags={"a", "b", "c"}), Serialized),
    (DOUBLED, Doubling),
    (DOUBLED, Doubling | dict[str, int]),
    ({"number": 1}, Doubling | dict[str, int]),
    ([DOUBLED, STRICT], list[Strict | Doubling]),
    (Aliased.model_validate({"A": 1, "x": {"y": 2}, "color": Color.RED}), Aliased),
    (Open.model_validate({"color": Color.RED, "more": [1], "self": "x"}), Open),
    (Home(pet=DogModel(), pets=[CatModel(), DogModel()]), Home),
    (DogModel(), CatModel | DogModel),
    (COLOR_PARCEL, Parcel[Color]),
    (Parcel[Strict](item=STRICT), Parcel[Strict]),
    (DoubledRoot(2), DoubledRoot),
    ({"a": DoubledRoot(2)}, dict[str, DoubledRoot]),
    (OfRoots(root=DoubledRoot(2), color=pydantic.RootModel[Color](Color.RED)), OfRoots),
]


@pytest.mark.parametrize(("value", "type_hint"), MODELS)
def test_a_model_is_read_as_it_was_whatever_its_class_does_with_what_it_is_given(value: Any, type_hint: Any) -> None:
    def f(given: Any) -> Any: ...

    f.__annotations__ = {"given": type_hint, "return": type_hint}
    read = codec.decode_args(codec.encode_args([value], {}, "f", f), f, skip_first=False)[0][0]
    for back in (read, codec.decode(codec.encode(value, "it", f), type_hint)):
        assert back == value
        assert type(back) is type(value)
        passed_on = codec.decode(codec.encode(codec.decode(codec.encode(value, "it", f)), "it"), type_hint)
        assert passed_on == value


def test_a_model_keeps_its_private_attributes_and_makes_its_own_locks() -> None:
    value = Counting(a=1).see(Color.RED)
    assert value.state == (2, 1, {Color.RED}, True)
    back = codec.decode(codec.encode(value, "it"), Counting)
    assert back.state == (2, 1, {Color.RED}, True)
    assert "_seen" not in codec.decode(codec.encode(value, "it"))
    assert back.model_fields_set == {"a"}
    forged = codec.decode(codec.encode({"a": 1, "_count": 7}, "it"), Counting)
    assert forged.state == (2, 1, set(), True)


def test_a_model_that_could_not_be_read_is_refused_by_the_names_of_it_and_its_field() -> None:
    wrong = Strict.model_construct(color="blue")
    short = Strict.model_construct()
    for value, said in (
        (wrong, "Strict, which cannot be sent: field 'color' does not fit Color"),
        (short, "Strict, which cannot be sent: field 'color' is missing"),
        ({"a": [Parcel[Any](item=socket.socket)]}, r"\['a'\]\[0\].item is a type, which cannot be sent"),
        (Parcel[Color](item=Color.RED, inner=[Parcel[Color](item=Color.RED)]), "is a .*Parcel.*: field 'inner' has"),
        (Parcel[Any](item=[wrong]), r"item\[0\] is a Strict, which cannot be sent: field 'color'"),
    ):
        with pytest.raises(NotSerializable, match=said):
            codec.encode(value, "it")


def test_what_was_set_past_the_validation_of_a_model_becomes_what_its_field_says() -> None:
    made: Any = pydantic.create_model("Made", tags=(set[str], ["a"]), wait=(timedelta, 5), price=(Decimal, 0.5))
    assert codec.decode(codec.encode(made(), "it"), made) == made(tags={"a"}, wait=timedelta(seconds=5), price="0.5")


def test_a_model_taken_as_it_is_fits_what_its_class_has_become_or_is_refused() -> None:
    payload = codec.encode(DOUBLED, "it")
    config = pydantic.ConfigDict(extra="forbid")
    shorter = pydantic.create_model("Shorter", number=(int, ...))
    longer: Any = pydantic.create_model("Longer", number=(int, ...), note=(str, "none"), time=(list[int], []))
    assert codec.decode(payload, shorter) == shorter(number=2)
    assert codec.decode(payload, longer) == longer(number=2)
    for type_hint, said in (
        (pydantic.create_model("Missing", number=(int, ...), needed=(int, ...)), "field 'needed' is missing"),
        (pydantic.create_model("Other", number=(date, ...)), "field 'number' does not fit date"),
        (pydantic.create_model("Forbids", number=(int, ...), __config__=config), "it has no field 'words'"),
    ):
        with pytest.raises(UsageError, match=said):
            codec.decode(payload, type_hint)


def test_models_written_before_are_read() -> None:
    assert codec.decode(pack({"color": "red", "more": 1}), CatModel) == CatModel()
    assert codec.decode(pack({"number": 1, "words": "a,b"}), Doubling) == DOUBLED
    marked = {msgpack.ExtType(12, b"somewhere.CatModel"): None, "kind": "cat", "color": "red"}
    assert codec.decode(pack(marked), CatModel) == CatModel()


@pytest.mark.parametrize("kept", [1, None, [], [1], {}, [[]], [{}, 1], [{"_count": "x"}], [{"_other": 1}, ["b"]]])
def test_what_a_model_is_said_to_hold_may_be_anything(kept: object) -> None:
    payload = pack({msgpack.ExtType(12, b""): kept, "a": 1})
    with contextlib.suppress(UsageError):
        assert codec.decode(payload, Counting).a in (1, 2)
    assert codec.decode(payload) == {"a": 1}


def test_models_dataclasses_and_their_unions_travel_in_one_another() -> None:
    model: Any = pydantic.create_model(
        "Model", id=(UUID, ...), line=(Line, ...), raw=(bytes, ...), tags=(set[Color], ...)
    )
    outer = pydantic.create_model("Outer", inner=(cast("Any", list)[model], ...))
    holder = make_dataclass("Holder", [("model", model), ("data", bytes)])
    one = model(id=UUID(int=1), line=LINE, raw=b"\xff", tags={Color.RED})
    for value, type_hint in (
        (outer(inner=[one]), outer),
        ([one, None], list[model | None]),
        (holder(one, b"\xff"), holder),
        (one, Line | model),
        (LINE, model | Line),
        ({"a": one}, dict[str, model]),
    ):
        back = codec.decode(codec.encode(value, "it"), type_hint)
        assert back == value
        assert type(back) is type(value)


def test_what_fits_no_part_of_a_union_is_an_error_that_names_it() -> None:
    def f(what: Order | Line) -> None: ...

    payload = codec.encode_args(({"x": 1},), {}, "f")
    with pytest.raises(UsageError, match=r"argument 'what' of .*f does not fit .*Order \| .*Line: it fits none of"):
        codec.decode_args(payload, f, skip_first=False)
    with pytest.raises(UsageError, match="does not fit Choice"):
        codec.decode(codec.encode({"one": 1, "many": []}, "it"), Choice)


def test_a_class_that_refuses_its_values_is_an_error_that_says_so() -> None:
    @dataclass
    class Picky:
        a: int

        def __post_init__(self) -> None:
            raise KeyError("never")

    with pytest.raises(UsageError, match=r"does not fit .*Picky"):
        codec.decode(codec.encode({"a": 1}, "it"), Picky)


def test_what_is_received_is_made_anew_by_its_own_rules() -> None:
    @dataclass
    class Order:
        cents: int
        made: int = 0

        def __post_init__(self) -> None:
            self.made += 1

    sent = Order(5)
    received = codec.decode(codec.encode(sent, "it"), Order)
    assert (sent.made, received.made) == (1, 2)


def test_what_was_sent_as_json_fits_where_nothing_is_lost() -> None:
    assert codec.decode(codec.encode("5", "it"), int) == 5
    assert codec.decode(codec.encode(5, "it"), float) == 5.0
    with pytest.raises(UsageError, match="does not fit int"):
        codec.decode(codec.encode("five", "it"), int)


def test_what_cannot_be_sent_is_named_with_its_place() -> None:
    with pytest.raises(NotSerializable, match=r"argument 2 of ship_order: \['items'\]\[1\] is a Codec, which cannot"):
        codec.encode_args((1, {"items": [2, codec]}), {}, "ship_order")
    with pytest.raises(NotSerializable, match=r"^argument 'to' of ship_order is a Codec, which cannot"):
        codec.encode_args((1,), {"to": codec}, "ship_order")


def test_a_value_that_contains_itself_is_refused_in_words() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerializable, match="contains itself"):
        codec.encode(loop, "it")
    deep: Any = ()
    for _ in range(5_000):
        deep = (deep,)
    with pytest.raises(NotSerializable, match="nested too deeply"):
        codec.encode(deep, "it")


@pytest.mark.skipif(sys.platform == "emscripten", reason="WebAssembly has no threads")
def test_what_can_be_sent_can_be_read_at_any_depth_even_in_a_small_thread() -> None:
    """Each tuple is a payload inside a payload: reading 200 of them once overflowed the C stack."""
    value: Any = ()
    for _ in range(32):  # one more is refused
        value = (value,)
    with pytest.raises(NotSerializable, match="nested too deeply"):
        codec.encode(value, "it")
    payload = codec.encode(value[0], "it")
    nested = pack([])
    for _ in range(1_000):
        nested = pack([msgpack.ExtType(9, nested)])
    answers: list[object] = []

    def read() -> None:
        answers.append(codec.decode(payload))
        answers.append(codec.decode_error(nested))

    size = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    assert isinstance(answers[0], tuple)
    assert isinstance(answers[1], RemoteError)


def test_an_integer_nobody_could_print_is_refused_before_it_is_written() -> None:
    assert codec.decode(codec.encode(-(1 << 13_999), "it")) == -(1 << 13_999)
    with pytest.raises(NotSerializable, match=r"it: \['n'\] is an integer of more than 14000 bits"):
        codec.encode({"n": 1 << 14_000}, "it")


@pytest.mark.parametrize("zone", ["Europe", "x" * 5_000, "Mars/Base", "../../etc/passwd"])
def test_an_instant_outlives_a_zone_nobody_knows(zone: str) -> None:
    payload = pack(msgpack.ExtType(1, f"2026-01-01T00:00:00+02:00|{zone}".encode()))
    assert codec.decode(payload) == datetime(2025, 12, 31, 22, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/St_Johns"])
def test_the_ends_of_the_calendar_keep_their_zone(zone: str) -> None:
    for end in (datetime.min, datetime.max):  # noqa: DTZ901 - the zone is added here
        moment = end.replace(tzinfo=ZoneInfo(zone))
        back = codec.decode(codec.encode(moment, "it"))
        assert (back.replace(tzinfo=None), str(back.tzinfo)) == (end, zone)
    opens = time(9, tzinfo=ZoneInfo(zone))
    assert str(codec.decode(codec.encode(opens, "it")).tzinfo) == zone


def test_the_second_two_o_clock_of_an_autumn_night_is_the_second_one() -> None:
    twice = [datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1)]
    back = codec.decode(codec.encode(twice, "it"))
    assert [moment.timestamp() for moment in back] == [moment.timestamp() for moment in twice]
    assert [moment.fold for moment in back] == [0, 1]


def test_a_timestamp_of_another_language_is_an_instant() -> None:
    assert codec.decode(pack(msgpack.Timestamp(5, 0))) == datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)


def test_a_payload_over_the_cap_is_refused() -> None:
    small = Codec(payload_bytes_max=100)
    with pytest.raises(PayloadTooLarge, match="the result of f: 202 bytes are over the cap of 100"):
        small.encode("x" * 200, "the result of f")
    with pytest.raises(PayloadTooLarge, match="the arguments of f"):
        small.encode_args(("x" * 200,), {}, "f")
    with pytest.raises(PayloadTooLarge, match="303 of them in argument 'b'"):
        small.encode_args((1,), {"a": "x" * 100, "b": b"x" * 300}, "f")


@given(st.binary(max_size=200))
def test_garbage_is_never_more_than_an_error(payload: bytes) -> None:
    with contextlib.suppress(CorruptData):
        codec.decode(payload)
    assert isinstance(codec.decode_error(payload), Exception)


@pytest.mark.parametrize("code", range(1, 13))
def test_a_broken_extension_is_corrupt_data(code: int) -> None:
    with pytest.raises(CorruptData):
        codec.decode(pack(msgpack.ExtType(code, b"\xc1nonsense")))


def test_arguments_are_shaped_by_the_signature() -> None:
    async def workflow(ctx: object, order: Line, *rest: float, color: Color = Color.RED, **more: set[int]) -> None: ...

    payload = codec.encode_args(
        (Line("tea", Decimal(1), Color.RED), 1, 2), {"color": Color.RED, "x": {1}}, workflow.__name__
    )
    args, kwargs = codec.decode_args(payload, workflow, skip_first=True)
    assert args == (Line("tea", Decimal(1), Color.RED), 1.0, 2.0)
    assert kwargs == {"color": Color.RED, "x": {1}}


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"nope": 1}), (("x",), {})])
def test_arguments_that_do_not_fit_name_the_function(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def task(n: int, m: int = 0) -> None: ...

    with pytest.raises(UsageError, match="task"):
        codec.decode_args(codec.encode_args(args, kwargs, "task"), task, skip_first=False)


def test_a_hint_that_cannot_be_resolved_costs_no_more_than_itself() -> None:
    def workflow(ctx: object, n: int) -> None: ...

    workflow.__annotations__["ctx"] = "ImportedForTypeCheckersOnly"

    assert codec.decode_args(codec.encode_args(("5",), {}, "it"), workflow, skip_first=True) == ((5,), {})


@given(st.integers(0, 4), st.sets(st.sampled_from("abcz")))
def test_arguments_bind_as_python_would_bind_them(count: int, names: set[str]) -> None:
    def call(a: int, b: int = 0, /, c: int = 0, *, z: int = 0) -> tuple[int, ...]:
        return (a, b, c, z)

    args, kwargs = tuple(range(1, count + 1)), dict.fromkeys(sorted(names), 9)
    payload = codec.encode_args(args, dict[str, object](kwargs), "call")
    try:
        expected = call(*args, **kwargs)  # type: ignore[misc]
    except TypeError:
        with pytest.raises(UsageError, match="call"):
            codec.decode_args(payload, call, skip_first=False)
    else:
        back_args, back_kwargs = codec.decode_args(payload, call, skip_first=False)
        assert call(*back_args, **back_kwargs) == expected


@pytest.mark.parametrize("found", [["ab", {}], [[], []], [], None, [[], {}, 1]])
def test_what_is_no_list_of_arguments_is_corrupt(found: object) -> None:
    def task(*rest: str) -> None: ...

    with pytest.raises(CorruptData, match="task"):
        codec.decode_args(pack(found), task, skip_first=False)


def test_an_error_comes_back_as_its_own_class_with_what_it_carried() -> None:
    def fail() -> None:
        try:
            {}["missing"]
        except KeyError as error:
            raise Refused("no money", code=402) from error

    with pytest.raises(Refused) as raised:
        fail()
    raised.value.add_note("asked twice")
    back = codec.decode_error(codec.encode_error(raised.value))
    assert isinstance(back, Refused)
    assert str(back) == "no money (402)"
    assert back.code == 402
    assert isinstance(back.__cause__, KeyError)
    assert "asked twice" in back.__notes__
    assert any("in fail" in note for note in back.__notes__)


def test_an_error_of_the_system_comes_back_whole() -> None:
    with pytest.raises(FileNotFoundError) as raised:
        Path("/nope").read_text()
    back = codec.decode_error(codec.encode_error(raised.value))
    assert isinstance(back, FileNotFoundError)
    assert (str(back), back.errno, back.filename) == (str(raised.value), errno.ENOENT, "/nope")


def test_what_an_error_carries_but_cannot_send_does_not_cost_it_its_class() -> None:
    error = Refused("no money", code=402)
    error.__dict__["response"] = codec
    error.__cause__ = ValueError(codec)
    back = codec.decode_error(codec.encode_error(error))
    assert isinstance(back, Refused)
    assert vars(back).keys() & {"code", "response"} == {"code"}
    assert isinstance(back.__cause__, ValueError)
    assert isinstance(codec.decode_error(codec.encode_error(Refused("x" * 20_000, code=1))), Refused)


def test_an_error_of_an_unknown_class_is_remote() -> None:
    payload = pack({"t": "shop.Refused", "m": "no money", "tb": "  File shop.py"})
    back = codec.decode_error(payload)
    assert isinstance(back, RemoteError)
    assert (back.type, back.message, back.remote_traceback) == ("shop.Refused", "no money", "  File shop.py")
    again = codec.decode_error(codec.encode_error(back))
    assert isinstance(again, RemoteError)
    assert again.type == "shop.Refused"


def test_a_name_in_data_imports_nothing_and_calls_no_code() -> None:
    sys.modules.pop("antigravity", None)
    payload = pack({"t": "antigravity.Anything", "m": "", "a": [], "d": {}})
    assert isinstance(codec.decode_error(payload), RemoteError)
    assert "antigravity" not in sys.modules
    for name in ("os.system", "subprocess.Popen", "builtins.eval", "SystemExit", "asyncio.exceptions.CancelledError"):
        payload = pack({"t": name, "m": "", "a": ["true"], "d": {}})
        assert isinstance(codec.decode_error(payload), RemoteError)


def test_groups_come_back_as_groups() -> None:
    group = ExceptionGroup("both", [ValueError("a"), ExceptionGroup("inner", [KeyError("k")])])
    back = codec.decode_error(codec.encode_error(group))
    assert repr(back) == repr(group)


class Refusals(ExceptionGroup[Exception]):
    """A group of the user's own."""


def test_one_line_names_the_errors_of_a_group_within_bounds() -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("no money"), KeyError("x")])
    line = "ExceptionGroup: unhandled errors in a TaskGroup (ValueError: no money; KeyError: 'x')"
    assert error_line(group) == line
    for error in (group, BaseExceptionGroup("of all kinds", [asyncio.CancelledError(), group])):
        assert line in str(error_text(State.REJECTED, codec.encode_error(error), codec))
    remote = ExceptionGroup("elsewhere", [RemoteError("billing.Declined", "no money")])
    assert error_line(remote) == "ExceptionGroup: elsewhere (billing.Declined: no money)"
    nested = ValueError("the innermost")
    for depth in range(100):
        nested = ExceptionGroup(f"level {depth}", [nested, *[ValueError("x" * 10_000)] * 100])
    assert "level 99 (ExceptionGroup: level 98 (" in error_line(nested)
    assert error_line(nested).endswith("; and 96 more)")
    assert len(error_line(nested)) < 2_000


def test_a_group_keeps_its_class_its_notes_and_what_caused_its_members() -> None:
    cause = KeyError("k")
    member = Refused("no money", code=402)
    member.__cause__ = cause
    member.add_note("asked twice")
    group = Refusals("both", [member, ValueError("other")])
    group.add_note("on Monday")
    back = codec.decode_error(codec.encode_error(group))
    assert isinstance(back, Refusals)
    assert "on Monday" in back.__notes__
    first, second = back.exceptions
    assert isinstance(first, Refused)
    assert (first.code, first.__notes__, repr(first.__cause__)) == (402, ["asked twice"], "KeyError('k')")
    assert repr(second) == "ValueError('other')"
    refused, rest = back.split(Refused)
    assert (refused and refused.exceptions, rest and rest.exceptions) == ((first,), (second,))


def test_a_chain_of_causes_and_of_contexts_comes_back_in_its_order() -> None:
    def fail() -> None:
        try:
            {}["first"]
        except KeyError:
            int("second")

    def fail_because() -> None:
        try:
            fail()
        except ValueError as error:
            raise OSError("third") from error

    with pytest.raises(OSError, match="third") as raised:
        fail_because()
    back = codec.decode_error(codec.encode_error(raised.value))
    chain = [back, back.__cause__, back.__cause__ and back.__cause__.__cause__]
    assert [type(error) for error in chain] == [OSError, ValueError, KeyError]


def test_a_traceback_is_trimmed_to_where_it_happened() -> None:
    def fail(depth: int) -> None:
        if depth == 0:
            raise ValueError("deep")
        fail(depth - 1)

    with pytest.raises(ValueError, match="deep") as raised:
        fail(200)
    [note] = codec.decode_error(codec.encode_error(raised.value)).__notes__
    assert 'raise ValueError("deep")' in note
    assert note.count("in fail") <= 20


def test_the_notes_of_an_error_are_bounded_however_many_levels_it_passes() -> None:
    error: Exception = ValueError("where it began")
    error.add_note("the first one")
    sizes: list[int] = []
    for level in range(100):
        with pytest.raises(ValueError, match="where it began") as raised:
            exec(f"{chr(10) * level}raise error", {"error": error})
        payload = codec.encode_error(raised.value)
        sizes.append(len(payload))
        error = codec.decode_error(payload)
    assert max(sizes) < 16_384
    assert len(set(sizes[50:])) < 10
    assert error.__notes__[-1] == "the first one"
    assert error.__notes__[0].startswith("it was raised there")
    assert "line 1, in <module>" in error.__notes__[-2]
    assert len(error.__notes__) <= 18
    assert sum("left out" in one for one in error.__notes__) == 1


def test_one_note_said_again_and_again_is_said_once() -> None:
    error = ValueError("no")
    for _ in range(1000):
        error.add_note("again")
    assert codec.decode_error(codec.encode_error(error)).__notes__ == ["again"]


def test_errors_that_lead_to_one_another_are_told_once_around() -> None:
    inner = [ValueError(n) for n in range(100)]
    group = ExceptionGroup("many", inner)
    for error in inner:
        error.__cause__ = group
    payload = codec.encode_error(group)
    assert len(payload) < 100_000
    back = codec.decode_error(payload)
    assert isinstance(back, ExceptionGroup)
    assert any("more errors are not shown" in note for note in back.__notes__)


def test_every_error_can_be_told_whatever_it_carries() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not telling")

    assert isinstance(codec.decode_error(codec.encode_error(Hostile())), RemoteError)
    assert isinstance(codec.decode_error(codec.encode_error(ValueError(object()))), ValueError)
    assert isinstance(codec.decode_error(codec.encode_error(asyncio.CancelledError())), RemoteError)
    long = Codec(payload_bytes_max=1_000).encode_error(ValueError("x" * 100_000))
    assert len(long) <= 1_000
    assert isinstance(codec.decode_error(long), ValueError)
    assert "\\ud800" in str(codec.decode_error(codec.encode_error(ValueError("\ud800"))))


def test_a_hook_sees_every_payload_both_ways() -> None:
    class Flip:
        def wrap(self, payload: bytes) -> bytes:
            return bytes(byte ^ 0xFF for byte in payload)

        unwrap = wrap

    flipped = Codec(outer=Flip())
    assert flipped.decode(flipped.encode("secret", "it")) == "secret"
    assert b"secret" not in flipped.encode("secret", "it")
    assert isinstance(flipped.decode_error(flipped.encode_error(ValueError("x"))), ValueError)

    class Broken(Flip):
        def unwrap(self, payload: bytes) -> bytes:  # noqa: ARG002 - it is refused unread
            raise ValueError("wrong key")

    with pytest.raises(CorruptData, match="wrong key"):
        Codec(outer=Broken()).decode(b"\x01")


# -- errors of every kind


@dataclass(frozen=True)
class Detail:
    code: int
    color: Color


@dataclass
class DeclinedError(Exception):
    detail: Detail
    at: datetime


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("__hidden", "shown")

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.__hidden = Color.RED

    def __str__(self) -> str:
        return f"{self.shown} {self.__hidden}"


class TwoBases(RuntimeError, OSError):
    """Only the class itself knows its layout."""


class HttpError(OSError):
    """As HTTP clients have it: its keywords are not arguments of its base."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.response = kwargs.pop("response", None)
        super().__init__(*args)


def test_an_error_that_was_raised_says_where_whatever_its_class_does_for_a_missing_attribute() -> None:
    def fail() -> None:
        raise HTTPError("http://shop/", 404, "not there", cast("Any", None), BytesIO())

    with pytest.raises(HTTPError) as raised:
        fail()
    back = codec.decode_error(codec.encode_error(raised.value))
    raised.value.close()
    assert isinstance(back, HTTPError)
    assert (back.code, back.filename) == (404, "http://shop/")
    assert "in fail" in back.__notes__[0]


def raised_by(call: Any, *args: object) -> Exception:
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001 - the error is what is tested
        return error.with_traceback(None)
    raise AssertionError("it raised nothing")


ERRORS: list[Exception] = [
    URLError(ConnectionRefusedError(111, "refused")),
    HTTPError("http://shop/", 404, "not there", cast("Any", None), BytesIO()),
    HttpError("404 Client Error", response=codec),
    HttpError(2, "no", "file"),
    raised_by(b"\xff".decode),
    raised_by("\u1234".encode, "ascii"),
    UnicodeTranslateError("abc", 0, 1, "no reason"),
    KeyError(Color.RED),
    KeyError(("a", [Color.RED, Size.LARGE])),
    KeyError(Detail(1, Color.RED)),
    KeyError(object()),
    ValueError(Point(1, 2), ValueError("inner"), Path("/a"), {Detail}),
    ValueError(1 << 70, b"x", {1, 2}, None, Decimal("1.10")),
    raised_by(Path("/nope").read_text),
    raised_by(os.rename, "/nope/a", "/nope/b"),
    raised_by(json.loads, "{"),
    raised_by(re.compile, "("),
    raised_by(compile, "a b", "file", "exec"),
    raised_by(ZoneInfo, "No/Such"),
    raised_by(Decimal, "x"),
    raised_by(__import__, "no_such_module"),
    raised_by(struct.unpack, "i", b""),
    sqlite3.IntegrityError("UNIQUE"),
    ssl.SSLCertVerificationError(1, "expired"),
    socket.gaierror(-2, "unknown"),
    subprocess.CalledProcessError(1, ["rm", "x"], b"out", b"err"),
    asyncio.IncompleteReadError(b"a", 4),
    TimeoutError(),
    DeclinedError(Detail(1, Color.RED), datetime(2026, 1, 1, tzinfo=UTC)),
    KeywordOnly(code=3),
    Slotted("a"),
    TwoBases("both"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_any_kind_comes_back_as_it_was(error: Exception) -> None:
    once = codec.decode_error(codec.encode_error(error))
    for back in (once, codec.decode_error(codec.encode_error(once))):
        assert type(back) is type(error)
        assert (str(back), repr(back.args)) == (str(error), repr(error.args))
        kept = {name: value for name, value in vars(error).items() if " object at " not in repr(value)}
        assert {name: repr(value) for name, value in vars(back).items() if name != "__notes__"} == {
            name: repr(value) for name, value in kept.items()
        }
        for name in {"filename", "filename2", "errno", "start", "end", "object", "name", "shown"} & {*dir(type(error))}:
            assert getattr(back, name) == getattr(error, name)


def test_to_make_an_error_again_runs_no_code_of_its_class() -> None:
    error = Careful("a", b=1)
    error.extra = Detail(1, Color.RED)
    payload = codec.encode_error(error)
    Careful.made.clear()
    back = codec.decode_error(payload)
    assert isinstance(back, Careful)
    assert (str(back), back.b, back.extra) == ("a", 1, Detail(1, Color.RED))
    assert Careful.made == []


class Careful(Exception):
    made: ClassVar[list[str]] = []
    extra: Detail

    def __new__(cls, *args: object, **_: object) -> Careful:  # pyright: ignore[reportInconsistentConstructor]
        cls.made.append("new")
        return super().__new__(cls, *args)

    def __init__(self, text: str, *, b: int) -> None:  # pyright: ignore[reportInconsistentConstructor]
        self.made.append("init")
        super().__init__(text)
        self.b = b

    def __setattr__(self, name: str, value: object) -> None:
        self.made.append("set")
        super().__setattr__(name, value)


class ApiError(Exception):
    """Makes its message from a value that cannot be sent."""

    def __init__(self, response: Any) -> None:
        self.response = response

    def __str__(self) -> str:
        return f"answered {self.response.status}"


def test_what_an_error_cannot_say_without_what_it_lost_is_said_for_it() -> None:
    class Response:
        status = 404

    error = codec.decode_error(codec.encode_error(ApiError(Response())))
    again = codec.decode_error(codec.encode_error(error))
    for back in (error, again):
        assert isinstance(back, ApiError)
        assert (type(back).__name__, str(back)) == ("ApiError", "answered 404")
        assert not hasattr(back, "response")


def test_what_only_looks_like_an_error_of_python_is_not_read_beyond_its_ends() -> None:
    for kind, args in (
        ("UnicodeDecodeError", ["ascii", b"abc", -(10**15), 1 - 10**15, "no"]),
        ("UnicodeEncodeError", ["ascii", "abc", -(10**15), 1 - 10**15, "no"]),
        ("UnicodeTranslateError", ["abc", -(10**15), 1 - 10**15, "no"]),
        ("durasleep.errors.RemoteError", []),
    ):
        back = codec.decode_error(pack({"t": kind, "m": "no", "a": args, "d": {}}))
        assert isinstance(back, RemoteError)
        assert back.type == kind
    for attributes in ({"object": 7, "start": 0}, {"__class__": 7, "__cause__": 7, "args": 7}):
        back = codec.decode_error(pack({"t": "UnicodeDecodeError", "m": "x", "a": ["x"], "d": attributes}))
        assert str(back)


def test_a_hook_says_what_is_stored_of_an_error() -> None:
    class Discreet:
        seen: ClassVar[list[type]] = []

        def wrap(self, payload: bytes) -> bytes:
            return payload

        unwrap = wrap

        def error_attributes(self, error: BaseException, attributes: dict[str, object]) -> dict[str, object]:
            self.seen.append(type(error))
            if isinstance(error, KeyError):
                raise RuntimeError("it fails itself")  # noqa: TRY004 - whatever it is
            return {name: value for name, value in attributes.items() if name not in ("args", "code", "hidden")}

    discreet = Codec(outer=Discreet())
    error = Refused("no money", code=4711)
    error.__dict__.update(hidden="hunter2", kept=Color.RED)
    payload = discreet.encode_error(error)
    back = discreet.decode_error(payload)
    assert isinstance(back, Refused)
    assert (str(back), vars(back).keys() & {"code", "hidden", "kept"}) == ("no money (4711)", {"kept"})
    assert b"hunter2" not in payload
    assert (error.code, vars(error)["hidden"]) == (4711, "hunter2")
    group = ExceptionGroup("both", [Refused("a", code=1)])
    group.__cause__ = TimeoutError()
    discreet.encode_error(group)
    assert {ExceptionGroup, Refused, TimeoutError} <= set(Discreet.seen)
    assert isinstance(discreet.decode_error(discreet.encode_error(KeyError("k"))), KeyError)


# -- keys, items and hints of every kind


@dataclass(frozen=True)
class Frozen:
    a: int


@dataclass(frozen=True)
class Twin:
    a: int


@dataclass(frozen=True)
class Start:
    """Like ``Stop``, it has nothing but its class."""


@dataclass(frozen=True)
class Stop:
    pass


class FrozenStruct(msgspec.Struct, frozen=True):
    a: int


class Hue(enum.Enum):
    RED = "red"


class Place(NamedTuple):
    x: int
    y: int


class Tags(list[str]):
    pass


class Text(str):
    __slots__ = ()


class Moment(datetime):
    pass


class Flags(enum.Flag):
    A = 1
    B = 2


class Stages(enum.Enum):
    FIRST = Frozen(1)
    LAST = Frozen(2)


class Routes(enum.Enum):
    SHORT = [Frozen(1)]  # noqa: RUF012 - a value, as any
    LONG = [Frozen(1), {"via": (Frozen(2), [Frozen(3)])}]  # noqa: RUF012


class Spots(enum.Enum):
    HERE = Point(1, 2)


@dataclass(frozen=True)
class Nest:
    inner: Frozen
    more: tuple[Frozen | Twin, ...] = ()


@dataclass
class Add:
    left: Term
    right: Term


@dataclass
class Multiply:
    left: Term
    right: Term


class Duo(msgspec.Struct, array_like=True, frozen=True):
    x: int
    y: int


class Couple(msgspec.Struct, array_like=True, frozen=True):
    x: int
    y: int


class Triple(NamedTuple):
    x: int
    y: int
    z: int


class Odd(enum.Enum):
    DAY = date(2026, 1, 1)
    PAIR = (1, 2)
    PRICE = Decimal("1.5")
    ID = UUID(int=5)
    SOME = frozenset({1})
    HALF = 0.5
    BYTES = b"x"
    WAIT = timedelta(1)
    NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
    TRUE = True
    LIST = [1]  # noqa: RUF012 - a member
    MAP = {"a": 1}  # noqa: RUF012


class Modelled(pydantic.BaseModel):
    a: int


class AlsoModelled(pydantic.BaseModel):
    a: int


class OfFrozen(TypedDict):
    pair: Frozen


class OfTwin(TypedDict):
    pair: Twin


FrozenList = NewType("FrozenList", list[Frozen])
TwinList = NewType("TwinList", list[Twin])


class Pairs(TypedDict):
    pair: Frozen | Twin


class Named(NamedTuple):
    pair: Frozen | Twin


class Camel(msgspec.Struct, rename="camel"):
    the_pair: Frozen | Twin


@dataclass
class Late:
    a: int
    b: int = field(init=False, default=0)


Term = int | Add | Multiply
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | int | str | None")
Tree = TypeAliasType("Tree", "T | list[Tree[T]]", type_params=(T,))  # pyright: ignore[reportGeneralTypeIssues]
LATE = Late(1)
LATE.b = 7
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEEP: Any = functools.reduce(lambda term, n: (Add if n % 2 else Multiply)(term, n), range(60), cast("Any", 1))
HINTS: list[tuple[Any, Any]] = [
    # keys and items
    ({Frozen(1)}, set[Frozen]),
    ({Frozen(1): 2}, dict[Frozen, int]),
    (frozenset({FrozenStruct(1)}), frozenset[FrozenStruct]),
    ({(Frozen(1), (Color.RED, NOON)): {Frozen(2)}}, dict[tuple[Frozen, tuple[Color, datetime]], set[Frozen]]),
    ({frozenset({Frozen(1)}): 1}, dict[frozenset[Frozen], int]),
    ({Nest(Frozen(1), (Frozen(2), Twin(2)))}, set[Nest]),
    ({Point(1, 2): Point(3, 4)}, dict[Point, Point]),
    ({NOON: 1, NOON + timedelta(1): 2}, dict[datetime, int]),
    ({PurePosixPath("/a"): 1}, dict[PurePosixPath, int]),
    ({Stages.LAST: Stages.FIRST}, dict[Stages, Stages]),
    ({(Stages.LAST, Twin(1))}, set[tuple[Stages, Frozen | Twin]]),
    ({(Routes.LONG, Twin(1)): Routes.SHORT}, dict[tuple[Routes, Frozen | Twin], Routes]),
    ({Frozen(1), Twin(1)}, set[Frozen | Twin]),
    # classes derived from what is sent
    (Tags(["a"]), Tags),
    (Text("a"), Text),
    (Moment(2026, 1, 1, tzinfo=UTC), Moment),
    (Flags.A | Flags.B, Flags),
    (LATE, Late),
    # hints of other origins
    ([1], Iterable[int]),
    ((Frozen(1),), Sequence[Frozen]),
    ({Frozen(1)}, Collection[Frozen]),
    ({"a": Frozen(1)}, Mapping[str, Frozen]),
    (Counter("aab"), Counter[str]),
    (OrderedDict(b=Frozen(1), a=Frozen(2)), OrderedDict[str, Frozen]),
    (defaultdict(list, a=[Frozen(1)]), defaultdict[str, list[Frozen]]),
    (deque([Frozen(1)]), deque[Frozen]),
    (["x"], list[Callable[[int], int]]),
    ({"a": [1, {"b": ["x", None]}]}, Json),
    ([Frozen(1), [Frozen(2), [Frozen(3)]]], Tree[Frozen]),
    ([Frozen(1)], list[Annotated[Frozen, "x"]]),
    (Page([Frozen(1), Twin(1)], Page([])), Page[Frozen | Twin]),
    # members of a union that travel alike
    (Twin(1), Frozen | Twin),
    (Frozen(1), Twin | Frozen),
    (FrozenStruct(1), Frozen | FrozenStruct),
    (Stop(), Start | Stop),
    (Start(), Stop | Start),
    (Place(1, 2), Point | Place),
    (Hue.RED, Color | Hue),
    (Color.RED, str | Color),
    ("red", Color | str),
    (Level.HIGH, int | Level),
    (PurePosixPath("/a"), str | PurePosixPath),
    (Text("a"), str | Text),
    (["5"], list[int] | list[str]),
    ({"a": "5"}, dict[str, int] | dict[str, str]),
    (Box("5"), Box[int] | Box[str]),
    (Multiply(Add(1, 2), Multiply(3, Add(4, 5))), Term),
    (DEEP, Term),
    ({"pair": Twin(1)}, Pairs),
    (Named(Twin(1)), Named),
    (Camel(Twin(1)), Camel),
    ((Frozen(1), Twin(1), [None, Twin(2)]), tuple[Frozen, Twin, list[Frozen | Twin | None]]),
    ({"a": [(Twin(1),)]}, dict[str, Sequence[tuple[Frozen | Twin, ...]]]),
    # collections that differ only in what is in them
    ([Twin(1)], list[Frozen] | list[Twin]),
    ({"a": Twin(1)}, dict[str, Frozen] | dict[str, Twin]),
    ({Twin(1): "a"}, dict[Frozen, str] | dict[Twin, str]),
    ((Twin(1),), tuple[Frozen] | tuple[Twin]),
    ((Twin(1), Frozen(1)), tuple[Frozen, Twin] | tuple[Twin, Frozen]),
    ((1, Twin(1)), tuple[int, Frozen] | tuple[int, Twin]),
    ({Twin(1)}, set[Frozen] | set[Twin]),
    (frozenset({Twin(1)}), frozenset[Frozen] | frozenset[Twin]),
    (Box(Twin(1)), Box[Frozen] | Box[Twin]),
    (Page([Twin(1)], Page([])), Page[Frozen] | Page[Twin]),
    ([Twin(1)], Sequence[Frozen] | Sequence[Twin]),
    ({"a": Twin(1)}, Mapping[str, Frozen] | Mapping[str, Twin]),
    (deque([Twin(1)]), deque[Frozen] | deque[Twin]),
    ([Twin(1)], list[Frozen | Twin] | Frozen),
    ([[{"a": Twin(1)}]], list[list[dict[str, Frozen]]] | list[list[dict[str, Twin]]]),
    ([Hue.RED], list[Color] | list[Hue]),
    (["red"], list[Color] | list[str]),
    ([Color.RED], list[str] | list[Color]),
    ([PurePosixPath("/a")], list[str] | list[PurePosixPath]),
    ([Twin(1)], FrozenList | TwinList),
    ({"pair": Twin(1)}, OfFrozen | OfTwin),
    ([1, [2, Twin(1)]], Tree[int | Frozen] | Tree[int | Twin]),
    # members of enums as they are named
    (Color.RED, Literal[Color.RED]),
    (Hue.RED, Literal[Color.RED, Hue.RED]),
    ("red", Literal[Color.RED, "red"]),
    ([Color.RED, None], list[Literal[Color.RED] | None]),
    ({Color.RED: Stages.LAST}, dict[Literal[Color.RED], Literal[Stages.FIRST, Stages.LAST]]),
    (b"x", Literal[b"x", "x"]),
    (Color.RED, str | Literal[Color.RED]),
    # what travels as something plain, beside that
    (Duo(1, 2), Duo | Couple),
    (Couple(1, 2), Duo | Couple),
    (Couple(1, 2), list[int] | Couple),
    ([1, 2], Couple | list[int]),
    (Couple(1, 2), tuple[int, int] | Couple),
    ((1, 2), Couple | tuple[int, int]),
    (Place(1, 2), Couple | Place),
    (Place(1, 2), tuple[int, int] | Place),
    ((1, 2), Place | tuple[int, int]),
    (Triple(1, 2, 3), Place | Triple),
    (deque([1]), list[int] | deque[int]),
    (Counter("a"), dict[str, int] | Counter[str]),
    ({"a": 1}, Counter[str] | dict[str, int]),
    (Tags(["a"]), list[str] | Tags),
    (Moment(2026, 1, 1, tzinfo=UTC), datetime | Moment),
    (Odd.DAY, date | Odd),
    (date(2026, 1, 1), Odd | date),
    (Odd.PAIR, tuple[int, int] | Odd),
    ((1, 2), Odd | tuple[int, int]),
    (Odd.PRICE, Decimal | Odd),
    (Decimal("1.5"), Odd | Decimal),
    (Odd.ID, UUID | Odd),
    (Odd.SOME, frozenset[int] | Odd),
    (Odd.HALF, float | Odd),
    (Odd.BYTES, bytes | Odd),
    (Odd.WAIT, timedelta | Odd),
    (Odd.NOON, datetime | Odd),
    (Odd.TRUE, bool | Odd),
    (True, Odd | bool),
    (Odd.LIST, list[int] | Odd),
    (Odd.MAP, dict[str, int] | Odd),
    (Stages.FIRST, Frozen | Stages),
    (Stages.FIRST, Frozen | Stages | Twin),
    ({Routes.SHORT: (Twin(1),)}, dict[Routes | tuple[Frozen | Twin, ...], tuple[Frozen | Twin, ...] | Routes]),
    ([Spots.HERE, Point(1, 2), Place(1, 2)], list[Spots | Point | Place]),
    ({Spots.HERE: Point(1, 2)}, dict[Point | Spots | Place, Point | Place]),
    (Frozen(1), Stages | Frozen),
    (Level.HIGH, float | Level),
    ({"a": 1}, Frozen | dict[str, int]),
    (Frozen(1), dict[str, int] | Frozen),
    ({"a": {"a": 1}}, dict[str, Frozen | dict[str, int]]),
    ([{"a": 1}, Frozen(1)], list[Frozen | Mapping[str, int]]),
    ({"inner": {"a": 1}}, Nest | dict[str, Any]),
    (Nest(Frozen(1)), dict[str, Any] | Nest),
    ({"a": 1}, FrozenStruct | dict[str, int]),
    ([{"a": 1}], list[Frozen] | list[dict[str, int]]),
    (Modelled(a=1), dict[str, int] | Modelled),
    ({"a": 1}, Modelled | dict[str, int]),
    ({"k": AlsoModelled(a=1)}, dict[str, Modelled] | dict[str, AlsoModelled]),
]


@pytest.mark.parametrize(("value", "type_hint"), HINTS)
def test_what_a_function_gives_or_takes_comes_back_as_its_hint_says(value: Any, type_hint: Any) -> None:
    def function(what: Any) -> Any: ...

    function.__annotations__ = {"what": type_hint, "return": type_hint}
    payload = codec.encode(value, "it", function)
    back = codec.decode(payload, type_hint)
    [argument], _ = codec.decode_args(codec.encode_args((value,), {}, "f", function), function, skip_first=False)
    for one in (back, argument):
        assert one == value
        assert type(one) is type(value)
    codec.decode(payload)  # whoever knows no hints can look at it, too


def test_only_what_could_be_taken_for_something_else_is_sent_with_its_name() -> None:
    def function() -> Any: ...

    for value, type_hint in (
        (LINE, Line | Order),
        (Frozen(1), Frozen | None),
        ([Frozen(1)], list[Frozen]),
        (Color.RED, Color | int),
        (Cat(9), Cat | Dog),
    ):
        function.__annotations__ = {"return": type_hint}
        call_of.cache_clear()
        assert codec.encode(value, "it", function) == codec.encode(value, "it")
    before = pack({"a": 1})
    assert codec.decode(before, Frozen | Twin) == Frozen(1)
    assert codec.decode(before, Twin | Frozen) == Twin(1)


BARE: list[tuple[str, Any]] = [
    *[(name, {"a": [1]}) for name in ("Dict", "Mapping", "MutableMapping", "OrderedDict", "DefaultDict")],
    *[(name, [1, "a"]) for name in ("List", "Sequence", "MutableSequence", "Collection", "Iterable", "Deque")],
    *[(name, {1}) for name in ("Set", "AbstractSet", "MutableSet", "Container")],
    *[("Tuple", (1, "a")), ("FrozenSet", frozenset({1})), ("Counter", Counter("a")), ("Optional", 5), ("Final", 5)],
    *[("ClassVar", 5), ("Type", "x"), ("Callable", "x"), ("Hashable", "x"), ("Sized", "x")],
]


@pytest.mark.parametrize(("name", "value"), BARE)
def test_a_hint_of_typing_without_parameters_says_no_more_than_its_class(name: str, value: Any) -> None:
    type_hint = getattr(typing, name)

    def function(what: Any) -> None: ...

    wrapped: list[tuple[Any, Any]] = [(type_hint, value)]
    if name not in ("Optional", "Final", "ClassVar"):
        made = make_dataclass("Made", [("d", type_hint)])
        wrapped += [
            (type_hint | None, value),
            (list[type_hint], [value]),
            (dict[str, type_hint], {"a": value}),
            (made, made(value)),
        ]
        wrapped += [(tuple[type_hint, int], (value, 1)), (type_hint | int, value), (type_hint | Frozen, value)]
    for one, sent in wrapped:
        function.__annotations__ = {"what": one}
        call_of.cache_clear()
        payload = codec.encode_args((sent,), {}, "f", function)
        [back], _ = codec.decode_args(payload, function, skip_first=False)
        if name == "Deque":
            assert codec.encode(back, "it") == codec.encode(sent, "it")
        else:
            assert back == sent


def test_what_was_sent_without_names_is_read_as_before() -> None:
    """The names are newer than the payload: then the data decides, or else the order in the type hint."""
    for sent, type_hint, meant in [
        ({"a": 1}, Frozen | dict[str, int], Frozen(1)),
        ({"a": 1}, dict[str, int] | Frozen, Frozen(1)),
        ({"b": 1}, Frozen | dict[str, int], {"b": 1}),
        ([{"a": 1}], list[Frozen] | list[Twin], [Frozen(1)]),
        ([{"a": 1}], list[Twin] | list[Frozen], [Twin(1)]),
        ([1, 2], Duo | Couple, Duo(1, 2)),
        ((1, 2), tuple[int, int] | Place, (1, 2)),
        (date(2026, 1, 1), date | Odd, date(2026, 1, 1)),
        ("red", Literal[Color.RED], Color.RED),
    ]:
        back = codec.decode(pack(sent) if type(sent) in (dict, list, str) else codec.encode(sent, "it"), type_hint)
        assert (back, type(back)) == (meant, type(meant))


def test_what_says_it_is_another_class_is_not_taken_for_one_that_is_like_it() -> None:
    def function() -> list[Frozen | Twin] | Frozen: ...

    payload = codec.encode(Twin(1), "it", function)
    with pytest.raises(UsageError, match="fits none of"):
        codec.decode(payload, list[Frozen | Twin] | Frozen)
    renamed = pack({msgpack.ExtType(12, b"elsewhere.Old"): None, "a": 1})
    assert codec.decode(renamed, list[Frozen | Twin] | Frozen) == Frozen(1)
    with pytest.raises(UsageError, match="none of"):
        codec.decode(pack("blue"), Literal[Color.RED])


Folder = list["Folder | Frozen"]


def test_a_hint_that_names_itself_is_read_as_deep_as_its_values_go() -> None:
    def function(what: Folder) -> None: ...

    value = [Frozen(1), [Frozen(2), [Frozen(3), [Frozen(4)]]]]
    [back], _ = codec.decode_args(codec.encode_args((value,), {}, "f", function), function, skip_first=False)
    assert back == value


def test_what_could_not_be_made_again_is_refused_before_it_is_written() -> None:
    @dataclass
    class Salted:
        a: int
        salt: InitVar[int]

    with pytest.raises(NotSerializable, match=r"it: \[0\] cannot be sent: its class needs 'salt'"):
        codec.encode([Salted(1, 2)], "it")


HINTED: st.SearchStrategy[tuple[Any, Any]] = st.recursive(
    st.sampled_from(
        [
            (st.integers(), int),
            (st.text(max_size=3), str),
            (st.builds(Frozen, st.integers(0, 3)), Frozen),
            (st.builds(FrozenStruct, st.integers(0, 3)), FrozenStruct),
            (st.builds(Point, st.integers(0, 3), st.integers(0, 3)), Point),
            (st.builds(Nest, st.builds(Frozen, st.integers(0, 3))), Nest),
            (st.sampled_from(list(Stages)), Stages),
            (st.sampled_from(list(Color)), Color),
            (st.dates(), date),
            (st.sampled_from([Twin(1), Frozen(1), None]), Twin | Frozen | None),
            (st.sampled_from([Hue.RED, "red"]), Hue | str),
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: (st.lists(one[0], max_size=2), list[one[1]])),
        inner.map(lambda one: (st.lists(one[0], max_size=2).map(tuple), tuple[one[1], ...])),
        inner.map(lambda one: (st.dictionaries(st.text(max_size=2), one[0], max_size=2), dict[str, one[1]])),
        inner.map(lambda one: (one[0], one[1] | None)),
        inner.map(lambda one: (st.lists(one[0], max_size=2).map(deque), deque[one[1]])),
        st.tuples(inner, inner).map(lambda two: (st.tuples(two[0][0], two[1][0]), tuple[two[0][1], two[1][1]])),
    ),
    max_leaves=4,
)


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("inner", [list, set, dict])
def test_what_came_without_a_hint_is_sent_on_as_what_it_was(inner: type) -> None:
    items = (Frozen(1), Twin(1))
    item: Any = tuple[Frozen | Twin | dict[str, int], ...]
    value: Any = {items: 1} if inner is dict else inner([items])
    type_hint: Any = {list: list[item], set: set[item], dict: dict[item, int]}[inner]

    def function() -> Any: ...

    function.__annotations__ = {"return": type_hint}
    unread = codec.decode(codec.encode(value, "it", function))
    assert codec.decode(codec.encode(unread, "it", function), type_hint) == value


@given(st.data())
def test_what_is_sent_with_a_hint_comes_back_by_it(data: st.DataObject) -> None:
    values, type_hint = data.draw(HINTED)
    value = data.draw(values)
    if _is_hashable(value):
        value, type_hint = ({value: {value}}, dict[type_hint, set[type_hint]])

    def function() -> Any: ...

    function.__annotations__ = {"return": type_hint}
    back = codec.decode(codec.encode(value, "it", function), type_hint)
    assert back == value


# -- calls, before they are sent


@dataclass
class _Place:
    row: int


class _Colour(enum.Enum):
    RED = "red"


def _plain(a: int, b: str = "", *, c: float = 0.0) -> None: ...
def _open(a: int, *rest: int, **more: str) -> None: ...
def _by_position(a: int, /, b: int | None = None) -> None: ...
def _holding(a: list[int], b: _Place | None = None, c: _Colour = _Colour.RED, d: Literal[1, 2] = 1) -> None: ...
def _listed(a: list[int] = [], *, b: dict[str, int] = {}) -> None: ...  # noqa: B006 - defaults may be anything
def _bare(a, b=None): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202


FITTING: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (_plain, (1,), {}),
    (_plain, (1, "b"), {"c": 1}),
    (_plain, (), {"b": "b", "a": 1}),
    (_plain, ("1",), {}),  # as it is read there, too
    (_plain, (_Colour.RED,), {}),  # it travels as something else
    (_open, (1, 2, 3), {"d": "x"}),
    (_by_position, (1,), {"b": None}),
    (_holding, ([1], {"row": 1}, "red", 2), {}),
    (_holding, (["looked into there"],), {}),
    (_bare, (1,), {"b": object()}),
    (_listed, ([1],), {"b": {}}),
    (print, (1, 2), {"sep": ""}),
    (max, (1, 2), {}),  # its signature is not known
]
MISFITTING: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (_plain, (), {}, "'a'"),
    (_plain, (1, "b", 2.0), {}, "positional"),
    (_plain, (1,), {"a": 2}, "'a'"),
    (_plain, (), {"a": 1, "e": 2}, "'e'"),
    (_plain, (), {"e": 2}, "'e'"),
    (_plain, (1,), {"c": "many"}, "'c'"),
    (_plain, (None,), {}, "'a'"),
    (_plain, ([1],), {}, "'a'"),
    (_plain, (1, 2), {}, "'b'"),
    (_open, (), {"d": "x"}, "'a'"),
    (_open, ("x",), {}, "'a'"),
    (_by_position, (), {"a": 1}, "'a'"),
    (_by_position, (1, "x"), {}, "'b'"),
    (_holding, (1,), {}, "'a'"),
    (_holding, ([], 1), {}, "'b'"),
    (_holding, ([], None, "blue"), {}, "'c'"),
    (_bare, (), {"b": 1}, "'a'"),
]


def test_a_call_that_fits_is_taken_and_one_that_does_not_names_the_parameter() -> None:
    for fn, args, kwargs in FITTING:
        check_call(fn, args, kwargs, skip_first=False)
    for fn, args, kwargs, named in MISFITTING:
        with pytest.raises(UsageError, match=named):
            check_call(fn, args, kwargs, skip_first=False)


def test_what_is_refused_before_it_is_sent_would_be_refused_where_it_arrives() -> None:
    codec = Codec()
    for fn, args, kwargs, _ in MISFITTING:
        with pytest.raises(UsageError):
            codec.decode_args(codec.encode_args(args, kwargs, "call"), fn, skip_first=False)


def test_whether_a_call_fits_is_remembered_only_where_it_does_not_depend_on_values() -> None:
    assert check_call(_plain, (1, "b"), {}, skip_first=False)
    assert not check_call(_plain, ("1",), {}, skip_first=False)
    assert not check_call(_holding, ([], None, "red"), {}, skip_first=False)


def test_a_message_without_end_is_cut_where_it_is_shown() -> None:
    line = error_line(ValueError("a" * 1_000_000 + "z"))
    assert line.startswith("ValueError: aaa")
    assert line.endswith("az")
    assert len(line) < 5000
