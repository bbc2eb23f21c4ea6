"""The options of a schedule: what users give, with its bounds, and the schedule that is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, Literal, TypedDict

import msgspec

from durasleep import cron
from durasleep.cron import Spec
from durasleep.errors import InvalidDuration, UsageError
from durasleep.model import KEPT_FOR_EVER, Duration, due_at, duration_ms, parse_target, retention_ms, shown
from durasleep.protocol.schedules import CATCH_UPS, OVERLAPS, Schedule

NOTE_MAX = 1_000  # characters
REMAINING_MAX = 1_000_000_000
WINDOW_MS_MIN = 10_000  # a worker that starts again takes as long

Overlap = Literal["skip", "queue", "queue_all", "allow", "cancel"]
CatchUp = Literal["last", "first", "none", "all"]


class ScheduleOptions(TypedDict, total=False):
    """The options of a schedule. None means that an option is left out.

    Durations are seconds, a timedelta, or text such as ``"1h30m"``; instants are aware datetimes.
    """

    cron: str | Sequence[str] | None
    """One to eight cron lines, or names such as ``"@daily"``."""
    every: Duration | None
    """Instead of lines: a distance between two times, at least a second. Times are multiples of it since 1970."""
    zone: str
    """The time zone of the lines, by default UTC."""
    args: Sequence[Any]
    """The arguments of the function."""
    kwargs: Mapping[str, Any] | None
    """Its arguments by name."""
    start: datetime | None
    """No time is before it."""
    end: datetime | None
    """No time is after it."""
    jitter: Duration | None
    """Each start is put off by a part of this, at most a day. The part depends on the name and the time only."""
    overlap: Overlap
    """If the execution before has not ended at a time: ``"skip"`` starts none, which is the default. ``"queue"`` starts
    one after its end, ``"queue_all"`` all, at most 100. ``"allow"`` starts it at once. ``"cancel"`` cancels the one
    before, and starts it after that."""
    catch_up: CatchUp
    """For times at which no worker ran: ``"last"`` makes up for the last of them, which is the default, ``"first"`` for
    the first, ``"none"`` for none, ``"all"`` for all, at most the last 1,000."""
    window: Duration
    """Times that were missed by more are not made up for; by default a year, ``"forever"`` for no limit."""
    note: str
    """A text for people, at most 1,000 characters."""
    remaining: int | None
    """How many executions it starts until it ends. With the same number again, it goes on counting."""
    paused: bool | None
    """Whether it is paused; by default a new one is not, and one that is there stays as it is."""
    target: str | None
    """Who runs its executions, as in ``rpc``."""
    retention: Duration | None
    """How long they are kept, as in ``options``; by default as in the settings."""


class KeptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The same as they are kept; TypeError for an unknown one."""

    cron: str | Sequence[str] | None = None
    every: Duration | None = None
    zone: str = "UTC"
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    start: datetime | None = None
    end: datetime | None = None
    jitter: Duration | None = None
    overlap: str = "skip"
    catch_up: str = "last"
    window: Duration = "365d"
    note: str = ""
    remaining: int | None = None
    paused: bool | None = None
    target: str | None = None
    retention: Duration | None = None

    def spec(self) -> Spec:
        """Its times; UsageError if they cannot be used."""
        self._check_types()
        lines = [self.cron] if isinstance(self.cron, str) else list(self.cron or ())
        if wrong := [line for line in lines if not isinstance(line, str)]:  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise UsageError(f"{shown(wrong[0])} is not a cron line: give a text")
        every_ms = 0 if self.every is None else duration_ms(self.every, "every")
        if self.every is not None and every_ms == 0:
            raise UsageError("every=0 s is too short: it is at least a second")
        return Spec(
            self.zone,
            tuple(map(cron.translated, lines)),
            every_ms,
            0 if self.start is None else _instant(self.start),
            cron.NEVER if self.end is None else _instant(self.end),
            0 if self.jitter is None else duration_ms(self.jitter, "jitter"),
        ).checked()

    def _check_types(self) -> None:
        """UsageError for an option of another type: callers may be untyped."""
        for name, value, known, what in (
            ("cron", self.cron, (str, Sequence, NoneType), "a cron line, or a list of lines"),
            ("zone", self.zone, str, "the name of a time zone"),
            ("args", "" if isinstance(self.args, str) else self.args, (list, tuple), "a list of arguments"),
            ("kwargs", self.kwargs, (Mapping, NoneType), "a dict of arguments"),
            ("note", self.note, str, "a text"),
        ):
            if not isinstance(value, known):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"{name} {shown(getattr(self, name))}: give {what}")

    def check(self) -> None:
        """UsageError for a value that cannot be used, beside its times."""
        if self.overlap not in OVERLAPS:
            raise UsageError(f"overlap {shown(self.overlap)}: use one of {', '.join(OVERLAPS)}")
        if self.catch_up not in CATCH_UPS:
            raise UsageError(f"catch_up {shown(self.catch_up)}: use one of {', '.join(CATCH_UPS)}")
        if (window_ms := self.window_ms()) is not None and window_ms < WINDOW_MS_MIN:
            raise UsageError(f"window {shown(self.window)} is too short: it is at least ten seconds")
        if len(self.note) > NOTE_MAX:
            raise UsageError(f"a note of {len(self.note)} characters is too long: it has at most {NOTE_MAX}")
        if self.remaining is not None and not (type(self.remaining) is int and 1 <= self.remaining <= REMAINING_MAX):
            raise UsageError(f"remaining {shown(self.remaining)}: give a whole number from 1 to {REMAINING_MAX:,}")
        if self.paused is not None and type(self.paused) is not bool:
            raise UsageError(f"paused {shown(self.paused)}: say True or False")

    def window_ms(self) -> int | None:
        """The window, if there is a limit."""
        window_ms = retention_ms(self.window, "window")
        return None if window_ms == KEPT_FOR_EVER else window_ms

    def made(self, name: str, function: str, args: bytes, *, group: str, retention: Duration, now_ms: int) -> Schedule:
        """The schedule to be stored; UsageError for a value that cannot be used."""
        spec = self.spec()
        self.check()
        return Schedule(
            name,
            str(spec),
            spec.zone,
            function,
            parse_target(self.target or group).queue,
            args,
            spec.next_after(now_ms),
            retention_ms(retention if self.retention is None else self.retention),
            self.overlap,
            self.catch_up,
            self.window_ms(),
            self.note,
            self.remaining,
        )


def _instant(instant: datetime) -> int:
    """An instant in ms since 1970; UsageError for one without a time zone."""
    return int(due_at(instant)[1:])


def span(start: datetime, end: datetime) -> tuple[int, int]:
    """Two instants in ms; UsageError if the second is not behind the first, or if one has no time zone."""
    first_ms, until_ms = _instant(start), _instant(end)
    if until_ms < first_ms:
        raise InvalidDuration("a backfill ends after its start")
    return first_ms, until_ms
