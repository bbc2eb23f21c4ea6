"""Schedules for people: how each runs, and when it is due next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from durasleep.cron import NEVER
from durasleep.errors import DurasleepError, NotFound, UsageError
from durasleep.protocol import sorted_sets
from durasleep.protocol.command import Plan, unwrap
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.schedules import Schedule, read_schedule
from durasleep.query.search import PARTLY_ASKED

NEXT_MAX = 5
LISTED_MAX = 10_000
_PAGE = 500


@dataclass(frozen=True, slots=True)
class ScheduleDescription:
    """A schedule. Times are in ms since 1970, durations in ms."""

    name: str
    """Its name."""
    function: str
    """The name of the function that it starts."""
    queue: str
    """Who runs it: the group, or ``<group>/<worker>``."""
    cron: list[str]
    """Its cron lines."""
    every_ms: int | None
    """The distance of its times, if it has no lines."""
    zone: str
    """The time zone of the lines."""
    start_ms: int | None
    """No time is before it."""
    end_ms: int | None
    """No time is after it."""
    jitter_ms: int
    """How far a start may be put off."""
    overlap: str
    """What happens if the execution before has not ended."""
    catch_up: str
    """Which missed times are made up for."""
    window_ms: int | None
    """How late a missed time may be; None for no limit."""
    retention_ms: int | None
    """How long its executions are kept, -1 for ever; None for the default."""
    note: str
    """A text for people."""
    remaining: int | None
    """How many starts are left; None for no limit."""
    paused_at_ms: int | None
    """Since when it is paused."""
    running: str | None
    """The execution for whose end the next one waits, if executions do not overlap."""
    waiting: list[str]
    """Executions that are still to be started."""
    next_at_ms: list[int]
    """Its next times, without jitter: up to five from ``get``, one from ``ls``. A paused one starts nothing then."""

    @property
    def next(self) -> list[datetime]:
        """Its next times as datetimes in UTC."""
        return [datetime.fromtimestamp(ms / 1000, UTC) for ms in self.next_at_ms]


class SchedulePage(list[ScheduleDescription]):
    """Some schedules, in the order of their names."""

    def __init__(self, *, is_all: bool) -> None:
        super().__init__()
        self.is_all = is_all
        """Whether there are no others."""
        self.notes: list[str] = []
        """What could not be read."""

    def note_missed(self) -> None:
        """A part of the cluster could not be asked, so something may have been missed."""
        self.is_all = False
        self.notes.append(f"{PARTLY_ASKED}: some schedules may be missing. List them again.")


def describe(schedule: Schedule, count: int) -> ScheduleDescription:
    """A schedule with its next times; UsageError if only a newer version can read it."""
    spec, due_ms = schedule.spec, schedule.due_ms
    upcoming = [] if due_ms == NEVER else [due_ms, *(spec.next_times(due_ms, count - 1) if count > 1 else ())]
    if schedule.remaining is not None:
        upcoming = upcoming[: schedule.remaining]
    running = schedule.starting[-1] if schedule.starting else schedule.running
    return ScheduleDescription(
        name=schedule.name,
        function=schedule.function,
        queue=schedule.queue,
        cron=list(spec.lines),
        every_ms=spec.every_ms or None,
        zone=schedule.zone,
        start_ms=spec.start_ms or None,
        end_ms=None if spec.end_ms == NEVER else spec.end_ms,
        jitter_ms=spec.jitter_ms,
        overlap=schedule.overlap,
        catch_up=schedule.catch_up,
        window_ms=schedule.window_ms,
        retention_ms=schedule.retention_ms,
        note=schedule.note,
        remaining=schedule.remaining,
        paused_at_ms=schedule.paused_ms,
        running=running or None,
        waiting=[schedule.id_of(tick) for tick in schedule.waiting],
        next_at_ms=upcoming,
    )


def read(keys: Keyspace, name: str) -> Plan[Schedule]:
    """A schedule; NotFound if there is none."""
    [found] = yield [read_schedule(keys, name)]
    schedule = cast("Schedule | None", unwrap(found))
    if schedule is None:
        raise NotFound(f"there is no schedule {name}")
    return schedule


def list_schedules(keyspaces: Sequence[Keyspace], limit: int, *, next_count: int = 1) -> Plan[SchedulePage]:
    """The first schedules of some partitions by their names, each with so many of its next times; one that cannot be
    read becomes a note.
    """
    if not 1 <= limit <= LISTED_MAX:
        raise UsageError(f"limit {limit}: use 1 to {LISTED_MAX:,}")
    names: list[tuple[str, Keyspace]] = []
    is_all = True
    for keys in keyspaces:
        [answer] = yield [sorted_sets.list_members(keys.schedules, count=LISTED_MAX + 1)]
        found = [name for name, _ in unwrap(answer)]
        is_all = is_all and len(found) <= LISTED_MAX
        names += [(name, keys) for name in found]
    names.sort(key=lambda one: one[0])
    listed = SchedulePage(is_all=is_all and len(names) <= limit)
    for first in range(0, min(len(names), limit), _PAGE):
        part = names[first : min(first + _PAGE, limit)]
        for (name, _), found_one in zip(part, (yield [read_schedule(keys, name) for name, keys in part]), strict=True):
            _add(listed, name, found_one, next_count)
    return listed


def _add(listed: SchedulePage, name: str, found: Any, next_count: int) -> None:
    try:
        schedule = cast("Schedule | None", unwrap(found))
        if schedule is not None:
            listed.append(describe(schedule, next_count))
    except DurasleepError as error:
        listed.notes.append(f"schedule {name} cannot be read: {error}")
