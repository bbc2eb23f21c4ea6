"""Values, arguments and errors as bytes and back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
import threading
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.codec import Codec, check_call
from durasleep.errors import CorruptData, NotSerializable, PayloadTooLarge, RemoteError, UsageError

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
    ("value", "hint"),
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
def test_a_hint_gives_a_value_its_shape_back(value: Any, hint: Any) -> None:
    back = codec.decode(codec.encode(value, "it"), hint)
    assert back == value
    assert type(back) is type(value)


def test_a_model_of_pydantic_travels_as_a_map() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", a=(int, ...))
    assert codec.decode(codec.encode(model(a=1), "it"), model) == model(a=1)


def test_a_model_travels_under_its_names_whatever_its_aliases() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", a=(int, pydantic.Field(alias="A")))
    assert codec.decode(codec.encode(model(A=1), "it"), model) == model(A=1)
    assert codec.decode(codec.encode({"A": 1}, "it"), model) == model(A=1)
    with pytest.raises(UsageError, match="does not fit Model"):
        codec.decode(codec.encode({"B": 1}, "it"), model)
    pair = pydantic.RootModel[tuple[int, int]]
    assert codec.decode(codec.encode(pair((1, 2)), "it"), pair) == pair((1, 2))


def test_models_dataclasses_and_their_unions_travel_in_one_another() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", id=(UUID, ...), line=(Line, ...), raw=(bytes, ...), tags=(set[Color], ...))
    outer = pydantic.create_model("Outer", inner=(list[model], ...))
    holder = make_dataclass("Holder", [("model", model), ("data", bytes)])
    one = model(id=UUID(int=1), line=LINE, raw=b"\xff", tags={Color.RED})
    for value, hint in (
        (outer(inner=[one]), outer),
        ([one, None], list[model | None]),
        (holder(one, b"\xff"), holder),
        (one, Line | model),
        (LINE, model | Line),
        ({"a": one}, dict[str, model]),
    ):
        back = codec.decode(codec.encode(value, "it"), hint)
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
    assert (str(back), back.errno, back.filename) == (str(raised.value), 2, "/nope")


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
    (max, (1, 2), {}),  # it does not tell how it is called
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
