"""Ids, targets, durations: what is accepted, and what is refused before anything is written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durasleep.errors import InvalidDuration, InvalidId
from durasleep.model import (
    DUE_MS_MAX,
    Target,
    check_id,
    check_label,
    check_name,
    check_new_id,
    due_at,
    due_in,
    duration_ms,
    owner_of,
    parse_target,
    retention_ms,
    root_of,
    seconds_of,
)


class Seconds(float):
    pass


class Count(int):
    pass


class Level(IntEnum):
    HIGH = 3


class Pause(timedelta):
    pass


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("nobody may look")


@pytest.mark.parametrize("id", ["order-42", "a", "ü" * 256, "x" * 512, "with spaces: and/more"])
def test_an_id_of_1_to_512_bytes_is_accepted(id: str) -> None:
    assert check_new_id(id) == id


@pytest.mark.parametrize("id", ["", "x" * 513, "ü" * 257, "a\nb", "a\x00", "a\x7f", "a\x85", "\ud800"])
def test_an_id_that_is_empty_too_long_or_has_control_characters_is_refused(id: str) -> None:
    with pytest.raises(InvalidId):
        check_id(id)


def test_a_tilde_is_ours() -> None:
    with pytest.raises(InvalidId, match="reserved"):
        check_new_id("order~3")
    assert check_id("order~3") == "order~3"


def test_root_and_owner_are_read_off_an_id() -> None:
    assert root_of("order-42~3~1") == "order-42"
    assert owner_of("order-42~3~1") == ("order-42~3", "1")
    assert owner_of("order-42~2.1") == ("order-42", "2.1")
    assert owner_of("order-42") is None


@pytest.mark.parametrize(
    ("text", "target", "queue"),
    [
        ("poll://any@workers", Target("workers"), "workers"),
        ("poll://uni@workers/w-1", Target("workers", "w-1"), "workers/w-1"),
        ("gpu", Target("gpu"), "gpu"),
    ],
)
def test_a_target_names_a_queue(text: str, target: Target, queue: str) -> None:
    assert parse_target(text) == target
    assert target.queue == queue
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "poll://any@", "poll://any@a/b", "poll://uni@a", "poll://all@a", "a b", "{a}", "http://x", "a/b"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        parse_target(text)


@pytest.mark.parametrize("name", ["", "a" * 65, "a{b}", "a:b", "a b", "a/b", "ä"])
def test_a_name_that_would_break_a_hash_tag_or_a_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidId):
        check_name(name, "group")


@pytest.mark.parametrize(
    "duration",
    [
        *(-1, -0.001, math.nan, math.inf, -math.inf, True, "5", None, timedelta(seconds=-1), 5j, [5]),
        *(-(10**5000), Decimal("nan"), Decimal("-inf"), Decimal(-1), Fraction(-1, 3), Unprintable()),
    ],
    ids=lambda duration: type(duration).__name__,
)
def test_what_cannot_be_waited_for_is_refused(duration: Any) -> None:
    with pytest.raises(InvalidDuration):
        duration_ms(duration)


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        *((Seconds(1.5), 1500), (Count(2), 2000), (Level.HIGH, 3000), (Pause(seconds=4), 4000)),
        *((Decimal("0.1"), 100), (Decimal("1E-400000000"), 1), (Decimal("1E+400000000"), DUE_MS_MAX)),
        *((Fraction(1, 3), 334), (Fraction(7, 2), 3500), (Fraction(0), 0), (Decimal("0.1000000000000000001"), 101)),
        *((10**5000, DUE_MS_MAX), (1 << 2000, DUE_MS_MAX)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_number_is_a_duration(duration: Any, ms: int) -> None:
    assert duration_ms(duration) == ms


def test_the_numbers_of_numpy_are_durations() -> None:
    numpy: Any = pytest.importorskip("numpy")
    durations = [numpy.float64(1.5), numpy.float32(0.1), numpy.float16(2), numpy.longdouble(1), numpy.uint8(5)]
    assert [duration_ms(one) for one in durations] == [1500, 100, 2000, 1000, 5000]
    for one in (numpy.float64("nan"), numpy.float32(-1), numpy.int8(-1), numpy.bool_(1), numpy.timedelta64(1, "D")):
        with pytest.raises(InvalidDuration):
            duration_ms(one)


@given(st.decimals(min_value=0, max_value=10**6) | st.fractions(min_value=0, max_value=10**6))
def test_exact_numbers_are_rounded_up_exactly(duration: Any) -> None:
    ms = duration_ms(duration)
    assert ms - 1 < Fraction(duration) * 1000 <= ms


@given(st.floats(min_value=0, max_value=1e12) | st.timedeltas(min_value=timedelta(0)))
def test_a_duration_is_rounded_up_so_that_nothing_is_early(duration: float | timedelta) -> None:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    assert duration_ms(duration) >= min(seconds * 1000 - 0.0006, DUE_MS_MAX)
    assert duration_ms(duration) <= seconds * 1000 + 1


def test_a_tenth_of_a_second_is_a_hundred_milliseconds() -> None:
    assert [due_in(0.1), due_in(0), due_in(0.0001), due_in(1e300)] == ["+100", "+0", "+1", f"+{DUE_MS_MAX}"]


def test_what_is_no_instant_is_refused_and_the_last_one_is_the_last() -> None:
    for instant in (5, "2026-01-01", None):
        with pytest.raises(InvalidDuration, match="not an instant"):
            due_at(instant)  # pyright: ignore[reportArgumentType] - that is the point
    assert due_at(datetime.max.replace(tzinfo=UTC)) == f"={DUE_MS_MAX}"


def test_an_instant_needs_a_zone() -> None:
    assert due_at(datetime(2026, 1, 1, tzinfo=UTC)) == "=1767225600000"
    with pytest.raises(InvalidDuration, match="no time zone"):
        due_at(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize("label", ["a\tb", "a\nb", "\x00", "x" * 256])
def test_a_label_that_would_break_a_line_is_refused(label: str) -> None:
    with pytest.raises(InvalidId):
        check_label(label)
    assert check_label("until the invoice is due") == "until the invoice is due"


def test_text_that_says_its_units_is_a_duration() -> None:
    texts = {"500ms": 500, "30s": 30_000, "1.5m": 90_000, "1h30m": 5_400_000, "2d": 172_800_000, "1w": 604_800_000}
    assert {text: duration_ms(text) for text in texts} == texts
    assert due_in("1h") == "+3600000"
    assert [seconds_of(wait) for wait in ("30s", 5, -1, timedelta(minutes=1))] == [30, 5, -1, 60]


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "1x", "-1s", "forever", "1h30", "٣s", "1" * 400 + "w"])
def test_text_that_says_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidDuration):
        duration_ms(text)
    if text != "forever":
        with pytest.raises(InvalidDuration):
            retention_ms(text)


def test_what_is_kept_for_ever_has_a_number_of_its_own() -> None:
    assert [retention_ms(kept) for kept in ("forever", 0, "1h", timedelta.max)] == [-1, 0, 3_600_000, DUE_MS_MAX]
