"""Times and durations in logs and on screens."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from durasleep.humanize import describe_ms, describe_until, local
from durasleep.model import DUE_MS_MAX

NOON_MS = int(datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Generator[Zone]:
    """Sets the zone of this machine for one test."""

    if not hasattr(time, "tzset"):
        pytest.skip("this system does not change its zone")

    @contextmanager
    def restored() -> Generator[Zone]:
        with monkeypatch.context() as patch:

            def use(name: str) -> None:
                patch.setenv("TZ", name)
                time.tzset()

            yield use
        time.tzset()

    with restored() as use:
        yield use


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (1_500, "1.5 s"),
        (9_999, "10.0 s"),
        (59_999, "59 s"),
        (90_000, "1 min 30 s"),
        (3_600_000, "1 h"),
        (3_601_000, "1 h"),
        (DAY_MS + 3_600_000, "1 d 1 h"),
        (30 * DAY_MS, "30 d"),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(ms: int, text: str) -> None:
    assert describe_ms(ms) == text


@pytest.mark.parametrize(("name", "shown"), [("UTC", "12:00:05.007"), ("EST5", "07:00:05.007")])
def test_today_is_told_by_its_time_in_the_local_zone(zone: Zone, name: str, shown: str) -> None:
    zone(name)
    assert describe_until(NOON_MS + 5_007, NOON_MS) == f"until {shown} (5.0 s)"
    assert describe_until(NOON_MS + 5_007, NOON_MS + 5_257) == f"until {shown} (250 ms ago)"


@pytest.mark.parametrize(
    ("name", "shown"), [("UTC", "2026-12-23 12:00:00.000"), ("EST5", "2026-12-23 07:00:00.000"), ("<+09>-9", "21:00")]
)
def test_another_day_is_told_with_its_date_and_no_offset(zone: Zone, name: str, shown: str) -> None:
    zone(name)
    text = describe_until(NOON_MS + 30 * DAY_MS, NOON_MS)
    assert shown in text
    assert text.endswith(".000 (30 d)")


@pytest.mark.parametrize("name", ["UTC", "<+14>-14", "<-12>12"])
@pytest.mark.parametrize("ms", [0, DUE_MS_MAX, 2**62, -(2**62)])
def test_no_instant_is_beyond_what_can_be_shown(zone: Zone, name: str, ms: int) -> None:
    zone(name)
    assert local(ms).tzinfo is not None
    assert describe_until(ms, NOON_MS).startswith("until ")
