"""Values, arguments and errors as bytes and back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypedDict, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.codec import Codec
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


class Refused(Exception):
    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


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


def test_what_was_sent_as_json_fits_where_nothing_is_lost() -> None:
    assert codec.decode(codec.encode("5", "it"), int) == 5
    assert codec.decode(codec.encode(5, "it"), float) == 5.0
    with pytest.raises(UsageError, match="does not fit int"):
        codec.decode(codec.encode("five", "it"), int)


def test_what_cannot_be_sent_is_named_with_its_place() -> None:
    with pytest.raises(NotSerializable, match=r"argument 2 of ship_order\['items'\]\[1\]: a Codec cannot be sent"):
        codec.encode_args((1, {"items": [2, codec]}), {}, "ship_order")
    with pytest.raises(NotSerializable, match=r"argument 'to' of ship_order: a Codec"):
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


def test_a_payload_over_the_cap_is_refused() -> None:
    small = Codec(payload_bytes_max=100)
    with pytest.raises(PayloadTooLarge, match="the result of f: 202 bytes are over the cap of 100"):
        small.encode("x" * 200, "the result of f")
    with pytest.raises(PayloadTooLarge, match="the arguments of f"):
        small.encode_args(("x" * 200,), {}, "f")


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


def test_every_error_can_be_told_whatever_it_carries() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not telling")

    assert isinstance(codec.decode_error(codec.encode_error(Hostile())), RemoteError)
    assert isinstance(codec.decode_error(codec.encode_error(ValueError(object()))), RemoteError)
    assert isinstance(codec.decode_error(codec.encode_error(asyncio.CancelledError())), RemoteError)
    long = Codec(payload_bytes_max=1_000).encode_error(ValueError("x" * 100_000))
    assert isinstance(codec.decode_error(long), RemoteError)


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
