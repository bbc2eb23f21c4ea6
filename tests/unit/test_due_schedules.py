"""What becomes of a schedule: policies for overlaps and missed times, pauses, backfills; without a server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from durasleep import UsageError
from durasleep.cron import NEVER, Spec
from durasleep.protocol import due_schedules
from durasleep.protocol.due_schedules import CATCH_UP_MAX, QUEUED_MAX, Step
from durasleep.protocol.schedules import STARTS_MAX, Schedule

MINUTE_MS = 60_000
NOW_MS = 1_000_000 * MINUTE_MS
"""The last due time of a schedule that is due each minute."""


def minutely(**fields: Any) -> Schedule:
    """Due each minute; by default its next time is now, and nothing is missed."""
    known: dict[str, Any] = {"due_ms": NOW_MS, "overlap": "skip", "catch_up": "last", "is_newer": True}
    return Schedule("s", str(Spec("UTC", every_ms=MINUTE_MS)), "UTC", "f", "workers", b"", **known | fields)


def stepped(schedule: Schedule, now_ms: int = NOW_MS, *, here: bool = True) -> Step:
    return due_schedules.step(schedule, now_ms, lambda _: here)


def ids(schedule: Schedule, *minutes: int) -> list[str]:
    """The ids of some times, in minutes from now."""
    return [schedule.id_of(NOW_MS + minute * MINUTE_MS) for minute in minutes]


def ticks(*minutes: int) -> tuple[int, ...]:
    return tuple(NOW_MS + minute * MINUTE_MS for minute in minutes)


def waiting(step: Step) -> tuple[int, ...] | None:
    text = step.change.fields.get("waiting")
    return None if text is None else tuple((int(tick) - NOW_MS) // MINUTE_MS for tick in text.split())


# -- one time


@pytest.mark.parametrize("overlap", ["skip", "queue", "queue_all", "allow", "cancel"])
def test_what_is_due_starts_if_nothing_runs(overlap: str) -> None:
    schedule = minutely(overlap=overlap)
    step = stepped(schedule)
    assert step.begins == step.change.starts == ids(schedule, 0)
    assert step.change.next_due_ms == NOW_MS + MINUTE_MS
    assert step.change.timer == f"={NOW_MS + MINUTE_MS}"
    assert (step.elsewhere, step.cancels, step.skipped, step.change.fields) == ([], None, [], {})


def test_what_is_not_due_is_only_looked_at_again_in_time() -> None:
    step = stepped(minutely(), NOW_MS - 1)
    assert (step.begins, step.change.next_due_ms, step.change.timer) == ([], NOW_MS, f"={NOW_MS}")


@pytest.mark.parametrize(
    ("overlap", "before", "after", "skipped", "cancels"),
    [
        ("skip", (), None, [0], False),
        ("queue", (), (0,), [], False),
        ("queue", (-1,), None, [0], False),
        ("queue_all", (-2, -1), (-2, -1, 0), [], False),
        ("cancel", (), (0,), [], True),
        ("cancel", (-1,), (0,), [-1], True),
    ],
)
def test_beside_one_that_runs_the_policy_decides(
    overlap: str, before: tuple[int, ...], after: tuple[int, ...] | None, skipped: list[int], cancels: bool
) -> None:
    schedule = minutely(overlap=overlap, running="s@old", waiting=ticks(*before))
    step = stepped(schedule)
    assert step.begins == []
    assert waiting(step) == after
    assert step.skipped == ids(schedule, *skipped)
    assert step.cancels == ("s@old" if cancels else None)
    assert step.change.timer == f"={NOW_MS + MINUTE_MS}"


def test_executions_that_may_overlap_all_start() -> None:
    schedule = minutely(overlap="allow", catch_up="all", due_ms=NOW_MS - 2 * MINUTE_MS)
    assert stepped(schedule).begins == ids(schedule, -2, -1, 0)


@pytest.mark.parametrize(
    ("overlap", "begins", "left", "skipped"),
    [("skip", -9, (-8,), [0]), ("queue", -9, (-8,), [0]), ("queue_all", -9, (-8, 0), []), ("cancel", 0, (), [-9, -8])],
)
def test_what_waits_comes_first_when_nothing_runs(
    overlap: str, begins: int, left: tuple[int, ...], skipped: list[int]
) -> None:
    schedule = minutely(overlap=overlap, waiting=ticks(-9, -8))
    if overlap == "cancel":
        step = stepped(schedule)
        assert step.begins == ids(schedule, 0)
        assert step.skipped == ids(schedule, *skipped)
        assert waiting(step) == left
        return
    step = stepped(schedule)
    assert step.begins == ids(schedule, begins)
    assert waiting(step) == left
    assert step.skipped == ids(schedule, *skipped)


def test_a_hundred_wait_at_most() -> None:
    schedule = minutely(
        overlap="queue_all", catch_up="all", running="s@old", due_ms=NOW_MS - (QUEUED_MAX + 4) * MINUTE_MS
    )
    step = stepped(schedule)
    assert waiting(step) == tuple(range(-QUEUED_MAX - 4, -4))
    assert step.skipped == ids(schedule, -4, -3, -2, -1, 0)


# -- missed times


@pytest.mark.parametrize(
    ("catch_up", "begins"), [("last", [0]), ("first", [-5]), ("none", [0]), ("all", [-5, -4, -3, -2, -1, 0])]
)
def test_after_an_outage_the_policy_says_which_times_are_made_up_for(catch_up: str, begins: list[int]) -> None:
    schedule = minutely(overlap="allow", catch_up=catch_up, due_ms=NOW_MS - 5 * MINUTE_MS)
    step = stepped(schedule, NOW_MS + 10)
    assert step.begins == ids(schedule, *begins)
    assert step.change.next_due_ms == NOW_MS + MINUTE_MS


@pytest.mark.parametrize("catch_up", ["last", "first", "none", "all"])
def test_an_only_time_that_was_missed_by_too_much_is_dropped(catch_up: str) -> None:
    hourly = minutely(overlap="allow", catch_up=catch_up, window_ms=10 * MINUTE_MS)
    hourly = replace(hourly, cron=str(Spec("UTC", every_ms=60 * MINUTE_MS)), due_ms=NOW_MS - NOW_MS % (60 * MINUTE_MS))
    assert stepped(hourly, hourly.due_ms + 30_000).begins == [hourly.id_of(hourly.due_ms)]
    late = stepped(hourly, hourly.due_ms + 9 * MINUTE_MS)
    assert bool(late.begins) == (catch_up != "none")
    too_late = stepped(hourly, hourly.due_ms + 11 * MINUTE_MS)
    assert too_late.begins == []
    assert too_late.change.next_due_ms == hourly.due_ms + 60 * MINUTE_MS


def test_the_first_time_inside_the_window_is_made_up_for() -> None:
    schedule = minutely(overlap="allow", catch_up="first", window_ms=3 * MINUTE_MS, due_ms=NOW_MS - 9 * MINUTE_MS)
    assert stepped(schedule).begins == ids(schedule, -3)


def test_a_thousand_are_made_up_for_at_most_in_parts() -> None:
    schedule = minutely(overlap="allow", catch_up="all", due_ms=NOW_MS - 5_000 * MINUTE_MS)
    begun: list[str] = []
    for part in range(CATCH_UP_MAX // STARTS_MAX + 1):
        step = stepped(schedule)
        begun += step.begins
        assert len(step.begins) <= STARTS_MAX
        is_last = part == CATCH_UP_MAX // STARTS_MAX
        assert step.change.timer == (f"={NOW_MS + MINUTE_MS}" if is_last else "+0")
        schedule = due_schedules.after(schedule, step.change, "1")
    assert begun == ids(schedule, *range(-CATCH_UP_MAX + 1, 1))
    assert schedule.waiting == ()


def test_large_arguments_are_copied_for_few_executions_at_a_time() -> None:
    assert minutely().starts_max == STARTS_MAX
    assert replace(minutely(), args=bytes(300_000)).starts_max == 3
    assert replace(minutely(), args=bytes(2_000_000)).starts_max == 1


# -- jitter, ends


def test_a_time_that_is_put_off_is_due_later_under_its_own_name() -> None:
    spec = Spec("UTC", every_ms=10 * MINUTE_MS, jitter_ms=5 * MINUTE_MS)
    schedule = replace(minutely(), cron=str(spec), due_ms=1000 * 10 * MINUTE_MS)
    at_ms = spec.due_of("s", schedule.due_ms)
    assert schedule.due_ms < at_ms
    assert stepped(schedule, at_ms - 1).begins == []
    assert stepped(schedule, at_ms - 1).change.timer == f"={at_ms}"
    step = stepped(schedule, at_ms)
    assert step.begins == [schedule.id_of(schedule.due_ms)]
    next_ms = schedule.due_ms + 10 * MINUTE_MS
    assert (step.change.next_due_ms, step.change.timer) == (next_ms, f"={spec.due_of('s', next_ms)}")


def test_with_jitter_missed_times_are_made_up_for_in_order() -> None:
    spec = Spec("UTC", every_ms=MINUTE_MS, jitter_ms=5 * MINUTE_MS)
    schedule = replace(minutely(overlap="allow", catch_up="all"), cron=str(spec), due_ms=NOW_MS - 20 * MINUTE_MS)
    step = stepped(schedule)
    begun = [one - NOW_MS for one in range(schedule.due_ms, step.change.next_due_ms, MINUTE_MS)]
    assert step.begins == ids(schedule, *(ms // MINUTE_MS for ms in begun))
    assert spec.due_of("s", step.change.next_due_ms) > NOW_MS
    assert len(begun) >= 15


def test_after_its_end_it_is_never_due() -> None:
    spec = Spec("UTC", every_ms=MINUTE_MS, end_ms=NOW_MS)
    step = stepped(replace(minutely(), cron=str(spec)))
    assert len(step.begins) == 1
    assert (step.change.next_due_ms, step.change.timer) == (NEVER, "")


def test_the_last_of_its_starts_ends_it() -> None:
    schedule = minutely(remaining=2, limit=5)
    first = stepped(schedule)
    assert first.change.fields == {"remaining": "1"}
    last = stepped(replace(schedule, remaining=1, waiting=ticks(-3)))
    assert last.begins == ids(schedule, -3)
    assert last.change.fields == {"remaining": "0", "waiting": ""}
    assert (last.change.next_due_ms, last.change.timer) == (NEVER, "")
    many = stepped(minutely(overlap="allow", catch_up="all", remaining=2, limit=5, due_ms=NOW_MS - 9 * MINUTE_MS))
    assert many.begins == ids(schedule, -9, -8)


# -- other partitions


def test_one_that_must_not_overlap_is_named_before_it_is_started_elsewhere() -> None:
    schedule = minutely(revision="7")
    step = stepped(schedule, here=False)
    [id] = ids(schedule, 0)
    assert (step.change.starts, step.elsewhere) == ([], [id])
    assert step.change.fields == {"running": id, "starting": f"{id} "}
    assert step.change.timer == "+1000", "another worker goes on if this one dies"
    after = due_schedules.after(schedule, step.change, "8")
    assert (after.running, after.starting, after.revision) == (id, (id,), "8")
    again = stepped(after, NOW_MS + 5 * MINUTE_MS, here=False)
    assert (again.begins, again.elsewhere, again.change.timer) == ((), [id], "+1000")
    done = due_schedules.confirmed(after, is_pending=True)
    assert (done.fields, done.timer) == ({"starting": ""}, f"={NOW_MS + MINUTE_MS}")
    ended = due_schedules.confirmed(replace(after, waiting=(1,)), is_pending=False)
    assert (ended.fields, ended.timer) == ({"starting": "", "running": ""}, "+0")


def test_those_that_may_overlap_are_started_elsewhere_before_the_change() -> None:
    step = stepped(minutely(overlap="allow"), here=False)
    assert (step.change.starts, step.elsewhere, step.change.fields) == ([], step.begins, {})
    assert step.begins


# -- what people do


def test_nothing_is_due_while_it_is_paused() -> None:
    paused = minutely(paused_ms=5, waiting=ticks(-1))
    step = stepped(paused, NOW_MS + 99 * MINUTE_MS)
    assert (step.begins, step.change.timer, step.change.fields) == ((), "", {})
    assert due_schedules.pause(minutely(), 7, None).fields == {"paused": "7"}
    assert due_schedules.pause(minutely(), 7, "why").fields == {"paused": "7", "note": "why"}


def test_what_comes_in_a_pause_is_not_made_up_for_and_what_waited_goes_on() -> None:
    paused = minutely(paused_ms=5, due_ms=NOW_MS - 9 * MINUTE_MS)
    change = due_schedules.resume(paused, NOW_MS, "")
    assert change.next_due_ms == NOW_MS + MINUTE_MS
    assert (change.fields, change.timer) == ({"paused": "", "note": ""}, f"={NOW_MS + MINUTE_MS}")
    assert due_schedules.resume(replace(paused, waiting=ticks(-1)), NOW_MS, None).timer == "+0"
    later = replace(paused, due_ms=NOW_MS + 5 * MINUTE_MS)
    assert due_schedules.resume(later, NOW_MS, None).next_due_ms == later.due_ms
    over = due_schedules.resume(replace(paused, due_ms=NEVER), NOW_MS, None)
    assert (over.next_due_ms, over.timer) == (NEVER, "")


def test_a_backfill_waits_in_order_with_what_waits_already() -> None:
    schedule = minutely(waiting=ticks(-5))
    change, begun = due_schedules.backfill(schedule, *ticks(-6, -4, 0))
    assert begun == ids(schedule, -6, -5, -4)
    assert change.fields == {"waiting": "".join(f"{tick} " for tick in ticks(-6, -5, -4))}
    assert (change.timer, change.next_due_ms) == ("+0", NOW_MS)
    assert due_schedules.backfill(replace(schedule, paused_ms=5), *ticks(-6, -4, 0))[0].timer == ""


@pytest.mark.parametrize(("overlap", "most"), [("skip", QUEUED_MAX), ("allow", CATCH_UP_MAX)])
def test_a_backfill_has_a_limit(overlap: str, most: int) -> None:
    schedule = minutely(overlap=overlap)
    assert len(due_schedules.backfill(schedule, *ticks(1 - most, 0, 0))[1]) == most
    with pytest.raises(UsageError, match=f"more than {most} times in there"):
        due_schedules.backfill(schedule, *ticks(-most, 0, 0))
    with pytest.raises(UsageError, match=f"1 times wait already, and {most} may wait"):
        due_schedules.backfill(replace(schedule, waiting=ticks(5)), *ticks(1 - most, 0, 0))
