"""When schedules are due: days on which the clocks change, distances, jitter, and what is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim, CronSimError

from durasleep import UsageError
from durasleep.cron import NEVER, Spec, next_due_ms, parse, tick_id, translated
from durasleep.protocol import schedules

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def day(text: str, zone: str) -> int:
    """The first instant of a day, in ms."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def ticks(line: str, zone: str, date: str) -> list[str]:
    """The times of a line until 5 o'clock of one day, each with its offset."""
    first_ms = day(date, zone)
    until_ms = first_ms + 5 * HOUR_MS - 1
    return [tick_id("", tick, zone)[len("@2025-01-01T") :] for tick in Spec(zone, (line,)).ticks(first_ms, until_ms)]


CHANGES = [
    # zone, the day on which clocks go ahead, the day on which they go back
    ("Europe/Berlin", "2025-03-30", "2025-10-26"),
    ("America/New_York", "2025-03-09", "2025-11-02"),
    ("Australia/Lord_Howe", "2025-10-05", "2025-04-06"),  # by half an hour
]


@pytest.mark.parametrize(("zone", "ahead", "back"), CHANGES)
def test_the_zone_database_changes_its_clocks_on_these_days(zone: str, ahead: str, back: str) -> None:
    for date, is_longer in ((ahead, False), (back, True)):
        after = (datetime.fromisoformat(date) + timedelta(days=1)).date().isoformat()
        length = day(after, zone) - day(date, zone)
        assert (length > DAY_MS) == is_longer
        assert length != DAY_MS


@pytest.mark.parametrize(("zone", "ahead", "back"), CHANGES)
@pytest.mark.parametrize("line", ["*/30 * * * *", "*/10 * * * *", "0 * * * *"])
def test_a_line_for_all_hours_runs_as_often_as_time_passes(zone: str, ahead: str, back: str, line: str) -> None:
    """Each instant at which the clock shows a time of the line, each of them once: as the zone database says."""
    for date in (ahead, back):
        first_ms = day(date, zone)
        until_ms = first_ms + 8 * HOUR_MS
        step = {"*/30": 30, "*/10": 10, "0": 60}[line.split(maxsplit=1)[0]]
        shown = [
            at
            for at in range(first_ms, until_ms, 60_000)
            if datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).minute % step == 0
        ]
        assert list(Spec(zone, (line,)).ticks(first_ms, until_ms - 1)) == shown


@pytest.mark.parametrize(("zone", "ahead", "back"), CHANGES)
@pytest.mark.parametrize("line", [f"{minute} {hour} * * *" for hour in (0, 1, 2, 3) for minute in (0, 15, 30, 45)])
def test_a_fixed_time_runs_once_on_each_day(zone: str, ahead: str, back: str, line: str) -> None:
    """If the clock skips it, it runs right after the change; if the clock shows it twice, it runs the first time."""
    minute, hour, *_ = map(int, line.split()[:2])
    for date in (ahead, back):
        first_ms = day(date, zone)
        after = (datetime.fromisoformat(date) + timedelta(days=1)).date().isoformat()
        [tick] = Spec(zone, (line,)).ticks(first_ms, day(after, zone) - 1)
        named = [
            at
            for at in range(first_ms, day(after, zone), 60_000)
            if (there := datetime.fromtimestamp(at / 1000, ZoneInfo(zone))).hour == hour and there.minute == minute
        ]
        if named:
            assert tick in named
        else:
            offsets = [datetime.fromtimestamp(tick / 1000 + s, ZoneInfo(zone)).utcoffset() for s in (-1, 0)]
            assert offsets[0] != offsets[1], "it is the first instant after the change"
        for later in range(tick, day(after, zone), 15 * 60_000):  # wherever one looks from
            assert Spec(zone, (line,)).next_after(later) >= day(after, zone)


def test_berlin_runs_half_past_two_on_both_days_and_all_half_hours() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2025-03-30") == ["03:00:00+02:00"]
    assert ticks("30 2 * * *", "Europe/Berlin", "2025-10-26") == ["02:30:00+02:00"]
    assert [one for one in ticks("*/30 * * * *", "Europe/Berlin", "2025-10-26") if one.startswith("02")] == [
        "02:00:00+02:00",
        "02:30:00+02:00",
        "02:00:00+01:00",
        "02:30:00+01:00",
    ]


def test_several_lines_are_due_together() -> None:
    spec = Spec("UTC", ("0 3 * * *", "30 4 * * *", "0 3 * * 1"))
    first_ms = day("2025-06-02", "UTC")  # a Monday
    assert [tick - first_ms for tick in spec.ticks(first_ms, first_ms + DAY_MS)] == [3 * HOUR_MS, 4.5 * HOUR_MS]


def test_a_distance_counts_from_1970_whenever_it_begins() -> None:
    spec = Spec("UTC", every_ms=7 * HOUR_MS)
    assert spec.next_after(1) == 7 * HOUR_MS
    assert spec.next_after(7 * HOUR_MS) == 14 * HOUR_MS
    late = Spec("UTC", every_ms=7 * HOUR_MS, start_ms=50 * HOUR_MS)
    assert list(late.ticks(0, 64 * HOUR_MS)) == [56 * HOUR_MS, 63 * HOUR_MS]


def test_nothing_is_due_before_the_start_and_after_the_end() -> None:
    spec = Spec("UTC", ("0 * * * *",), start_ms=HOUR_MS, end_ms=3 * HOUR_MS)
    assert list(spec.ticks(0, NEVER)) == [HOUR_MS, 2 * HOUR_MS, 3 * HOUR_MS]
    assert spec.next_after(3 * HOUR_MS) == NEVER


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 3, 1000])
@pytest.mark.parametrize(
    "spec", [Spec("Europe/Berlin", ("*/7 * * * *",)), Spec("UTC", every_ms=1000), Spec("UTC", ("0 0 1 * *",))], ids=str
)
def test_the_latest_of_many_are_found_without_looking_at_all(spec: Spec, count: int) -> None:
    until_ms = day("2025-06-02", "UTC") + 1234
    first_ms = until_ms - 2 * HOUR_MS
    assert spec.last_ticks(first_ms, until_ms, count) == list(spec.ticks(first_ms, until_ms))[-count:]
    assert spec.last_ticks(0, until_ms, count)[-1] == list(spec.ticks(until_ms - 40 * DAY_MS, until_ms))[-1]


def test_jitter_depends_on_the_name_and_the_time_only() -> None:
    spec = Spec("UTC", ("0 * * * *",), jitter_ms=60_000)
    found = {spec.jitter_of(f"s{number}", HOUR_MS) for number in range(200)}
    assert len(found) > 190
    assert all(0 <= one <= 60_000 for one in found)
    assert spec.jitter_of("s", HOUR_MS) == Spec("UTC", every_ms=5000, jitter_ms=60_000).jitter_of("s", HOUR_MS)
    assert spec.due_of("s", HOUR_MS) == HOUR_MS + spec.jitter_of("s", HOUR_MS)


@pytest.mark.parametrize(
    "spec",
    [
        Spec("UTC", ("0 3 * * *",)),
        Spec("Europe/Berlin", ("0 3 * * *", "*/5 * * * 1-5"), start_ms=5, end_ms=10**13, jitter_ms=7),
        Spec("UTC", every_ms=60_000),
        Spec("UTC", every_ms=60_000, jitter_ms=1000),
    ],
    ids=str,
)
def test_what_is_stored_is_read_again_and_left_alone_by_older_versions(spec: Spec) -> None:
    assert parse(str(spec), spec.zone) == spec
    assert spec.is_plain == (str(spec) == "0 3 * * *")
    with pytest.raises(CronSimError):  # as these read it
        CronSim(schedules.LEFT_TO_NEWER + str(spec), datetime.now(UTC))


@pytest.mark.parametrize(
    ("name", "line"),
    [("@daily", "0 0 * * *"), ("@Hourly", "0 * * * *"), ("@weekly", "0 0 * * 0"), ("@reboot", "@reboot"), ("1", "1")],
)
def test_names_are_translated(name: str, line: str) -> None:
    assert translated(name) == line


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Spec("UTC"), "either cron lines or every="),
        (Spec("UTC", ("* * * * *",), every_ms=1000), "either cron lines or every="),
        (Spec("UTC", ("* * * * *",) * 9), "at most 8"),
        (Spec("UTC", ("0 " + "0," * 200 + "0 * * *",)), "more than 256 characters"),
        (Spec("UTC", ("every day",)), "'every day' is not a cron line: Wrong number of fields"),
        (Spec("UTC", ("0 0 30 2 *",)), "'0 0 30 2 *' is not a cron line"),
        (Spec("Mars/Base", ("* * * * *",)), "'Mars/Base' is not a time zone"),
        (Spec("../etc", every_ms=1000), "is not a time zone"),
        (Spec("UTC", every_ms=999), "at least a second"),
        (Spec("UTC", every_ms=-1), "at least a second"),
        (Spec("UTC", every_ms=1000, jitter_ms=DAY_MS + 1), "at most a day"),
        (Spec("UTC", every_ms=1000, start_ms=5, end_ms=5), "the end of a schedule comes after its start"),
    ],
)
def test_what_cannot_be_used_is_said(spec: Spec, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        spec.checked()
    assert said in str(caught.value)


def test_a_line_that_is_never_due_is_refused() -> None:
    with pytest.raises(UsageError, match=r"never due|not a cron line"):
        next_due_ms("0 0 31 2 *", "UTC", datetime.now(UTC))
