"""When a schedule is due: cron lines, which cronsim reads the way Debian's cron does, or a fixed distance."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from durasleep.errors import UsageError
from durasleep.model import DUE_MS_MAX, shown

NEVER = DUE_MS_MAX
"""The due time of a schedule that has come to its end: no timer is set so far ahead."""

LINES_MAX = 8
LINE_MAX = 256  # characters
EVERY_MS_MIN = 1_000
JITTER_MS_MAX = 24 * 3600 * 1000
_FIRST_LOOK_MS = 60_000  # back from an instant, for the ticks before it; each further look is twice as far

_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_BETWEEN = "; "  # a cron line has no semicolon


@dataclass(frozen=True, slots=True)
class Spec:
    """The times of a schedule, its *ticks*: those of some cron lines, or all multiples of a distance since 1970."""

    zone: str
    lines: tuple[str, ...] = ()
    every_ms: int = 0
    start_ms: int = 0
    """No tick is before it."""
    end_ms: int = NEVER
    """No tick is after it."""
    jitter_ms: int = 0
    """Each tick is put off by a time up to this, which is the same for every worker."""

    def __str__(self) -> str:
        """The text that is stored, without the zone."""
        parts = [*self.lines] or [f"every {self.every_ms}"]
        options = (("start", self.start_ms, 0), ("end", self.end_ms, NEVER), ("jitter", self.jitter_ms, 0))
        return _BETWEEN.join([*parts, *(f"{name} {value}" for name, value, default in options if value != default)])

    @property
    def is_plain(self) -> bool:
        """Whether it is one cron line and nothing else, as all schedules once were."""
        return str(self) == self.lines[0] if self.lines else False

    def checked(self) -> Spec:
        """Itself; UsageError for what cannot be used."""
        if bool(self.lines) == bool(self.every_ms):
            raise UsageError("a schedule needs either cron lines or every=")
        if len(self.lines) > LINES_MAX:
            raise UsageError(f"{len(self.lines)} cron lines: a schedule has at most {LINES_MAX}")
        for line in self.lines:
            if len(line) > LINE_MAX:
                raise UsageError(f"{shown(line)} is not a cron line: it has more than {LINE_MAX} characters")
            next_due_ms(line, self.zone, datetime.now(UTC))
        _zone_of(self.zone)
        if self.every_ms and self.every_ms < EVERY_MS_MIN:
            raise UsageError(f"every={self.every_ms / 1000:g} s is too short: it is at least a second")
        if self.jitter_ms > JITTER_MS_MAX:
            raise UsageError(f"jitter={self.jitter_ms / 1000:g} s is too long: it is at most a day")
        if self.end_ms <= self.start_ms:
            raise UsageError("the end of a schedule comes after its start")
        return self

    def next_after(self, after_ms: int) -> int:
        """The first tick after an instant; ``NEVER`` if there is none."""
        after_ms = max(after_ms, self.start_ms - 1)
        if self.every_ms:
            tick_ms = (after_ms // self.every_ms + 1) * self.every_ms
        else:
            tick_ms = min(_next_of(line, self.zone, after_ms) for line in self.lines)
        return tick_ms if tick_ms <= self.end_ms else NEVER

    def ticks(self, first_ms: int, until_ms: int) -> Iterator[int]:
        """Those from one instant until another, both included."""
        tick_ms = self.next_after(first_ms - 1)
        while tick_ms <= until_ms and tick_ms != NEVER:
            yield tick_ms
            tick_ms = self.next_after(tick_ms)

    def last_ticks(self, first_ms: int, until_ms: int, count: int) -> list[int]:
        """The latest of them, at most ``count``. It looks at a few times as many, however long the time is."""
        look_ms = _FIRST_LOOK_MS
        while True:
            from_ms = max(first_ms, until_ms - look_ms)
            found = deque(self.ticks(from_ms, until_ms), count)
            if len(found) == count or from_ms == first_ms:
                return list(found)
            look_ms *= 2

    def next_times(self, after_ms: int, count: int) -> list[int]:
        """The next ticks after an instant."""
        return list(islice(self.ticks(after_ms + 1, NEVER), count))

    def jitter_of(self, name: str, tick_ms: int) -> int:
        """By how much a tick of a schedule is put off, in ms."""
        if not self.jitter_ms:
            return 0
        digest = hashlib.blake2s(f"{name}@{tick_ms}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) % (self.jitter_ms + 1)

    def due_of(self, name: str, tick_ms: int) -> int:
        """When a tick of a schedule is due."""
        return min(tick_ms + self.jitter_of(name, tick_ms), NEVER)


@lru_cache(maxsize=4096)
def parse(text: str, zone: str) -> Spec:
    """The spec that was stored as this text; UsageError for a text that only a newer version can have written."""
    lines: list[str] = []
    options: dict[str, int] = {}
    for part in text.split(_BETWEEN):
        word, _, value = part.partition(" ")
        if word in ("every", "start", "end", "jitter") and value.isdigit():
            options[f"{word}_ms"] = int(value)
        else:
            lines.append(part)
    return Spec(zone, tuple(lines), **options)


def translated(line: str) -> str:
    """A cron line for a name such as ``@daily``; any other text stays as it is."""
    return _NAMES.get(line.strip().lower(), line)


def tick_id(name: str, tick_ms: int, zone: str) -> str:
    """The id of the execution that a schedule starts for a tick: its name and the time in its zone."""
    return f"{name}@{datetime.fromtimestamp(tick_ms / 1000, _zone_of(zone)).isoformat()}"


def next_due_ms(line: str, zone: str, after: datetime) -> int:
    """The first instant after ``after`` that the line names in its zone, in ms; UsageError for a wrong line or zone.

    When clocks change, it does the same as Debian's cron. A job whose fixed time is skipped runs right after the
    change. A job whose time comes twice runs once.
    """
    try:
        for due in CronSim(line, after.astimezone(_zone_of(zone))):
            if due > after:  # in an hour that comes twice, a fixed time is only in the first
                return round(due.timestamp() * 1000)
    except CronSimError as error:
        raise UsageError(f"{line!r} is not a cron line: {error}") from None
    raise UsageError(f"{line!r} is never due")


@lru_cache(maxsize=4096)
def _next_of(line: str, zone: str, after_ms: int) -> int:
    """The same in ms. At one instant, thousands of schedules ask for few different lines."""
    return next_due_ms(line, zone, datetime.fromtimestamp(after_ms / 1000, UTC))


def _zone_of(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"{zone!r} is not a time zone: this machine does not know it") from error
