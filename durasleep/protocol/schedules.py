"""Executions that are started again and again, at the times of a ``cron.Spec``.

A schedule is a hash. Older versions know those with one cron line, whose executions may overlap, and they write nothing
else. All others have times that begin with "= ". An older worker cannot read these, and leaves them to a newer one: it
quarantines the name, and tells all workers to look at it. Fields that only newer versions know count only in these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from durasleep import cron
from durasleep.cron import Spec
from durasleep.errors import NewerVersion
from durasleep.model import Kind, PromiseId
from durasleep.protocol import promises, sorted_sets
from durasleep.protocol.command import BatchItem, Command, route, to_text
from durasleep.protocol.keys import LIMIT, Keyspace, S
from durasleep.protocol.promises import Created, retention_word

ALLOW, SKIP, QUEUE, QUEUE_ALL, CANCEL = "allow", "skip", "queue", "queue_all", "cancel"
OVERLAPS = (SKIP, QUEUE, QUEUE_ALL, ALLOW, CANCEL)
"""What happens to a time whose execution before is still pending: nothing is started; one waits for it, or many; it is
started beside it, or instead of it."""
FIRST, LAST, NONE, ALL = "first", "last", "none", "all"
CATCH_UPS = (LAST, FIRST, NONE, ALL)
"""Which times are made up for that passed while no worker ran: the latest, the first, none, or all."""

STARTS_MAX = LIMIT["starts_max"]
LEFT_TO_NEWER = "= "
_STARTED_BYTES_MAX = 1 << 20  # arguments that one call copies


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it is stored."""

    name: str
    cron: str
    """Its times, as the text of a ``Spec``."""
    zone: str
    function: str
    queue: str
    args: bytes
    due_ms: int
    """Its next time; ``cron.NEVER`` if there is none."""
    retention_ms: int | None = None
    """Of the executions it starts, -1 for ever; None for the default."""
    overlap: str = ALLOW
    catch_up: str = FIRST
    window_ms: int | None = None
    """Times that were missed by more are dropped; None for no limit."""
    note: str = ""
    limit: int | None = None
    """How many starts it was given; None for no limit."""
    remaining: int | None = None
    """How many of them are left."""
    paused_ms: int | None = None
    """Since when it is paused."""
    running: str = ""
    """The execution for whose end the next one waits; empty if they overlap."""
    waiting: tuple[int, ...] = ()
    """Times whose executions are still to be started, in ms."""
    starting: tuple[str, ...] = ()
    """Ids that are being started in other partitions."""
    revision: str = field(default="", compare=False)
    """Grows with each change."""
    is_newer: bool = field(default=False, compare=False)
    """Whether it is stored so that older versions leave it alone."""

    @property
    def spec(self) -> Spec:
        """Its times; UsageError if only a newer version can read them."""
        return cron.parse(self.cron, self.zone)

    @property
    def is_exclusive(self) -> bool:
        """Whether its executions do not overlap."""
        return self.overlap != ALLOW

    @property
    def is_plain(self) -> bool:
        """Whether older versions can run it."""
        is_as_before = (self.overlap, self.catch_up, self.window_ms) == (ALLOW, FIRST, None)
        return is_as_before and self.limit is None and not self.note and self.spec.is_plain

    @property
    def starts_max(self) -> int:
        """How many executions one call starts."""
        return max(1, min(STARTS_MAX, _STARTED_BYTES_MAX // max(len(self.args), 1)))

    def id_of(self, tick_ms: int) -> PromiseId:
        """The execution of one of its times."""
        return PromiseId(cron.tick_id(self.name, tick_ms, self.zone))


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a schedule, and what it starts."""

    next_due_ms: int
    timer: str
    """When to look at it again: a due time as scripts read it, or empty for never."""
    starts: Sequence[PromiseId] = ()
    """Executions that are made with the change, in the partition of the schedule."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """New values of fields by their names in ``S``; an empty value removes the field."""


def ticks_text(ticks: Sequence[int]) -> str:
    """Times as they are stored."""
    return "".join(f"{tick} " for tick in ticks)


def ids_text(ids: Sequence[str]) -> str:
    """Ids as they are stored: those of a schedule have no spaces."""
    return "".join(f"{id} " for id in ids)


def _word(answer: list[Any]) -> str:
    return to_text(answer[0])


def put_schedule(keys: Keyspace, schedule: Schedule, *, paused: bool | None = None) -> BatchItem[int]:
    """Store a schedule, new or changed; returns when its next execution is due, in ms.

    That is ``due_ms``, unless its times are the same as before: then the due time does not change. What runs, what
    waits and what remains stays, and so does a pause if ``paused`` is None.
    """
    to = route("schedule", keys)
    fields = {
        "retention": retention_word(schedule.retention_ms),
        "overlap": "" if schedule.overlap == ALLOW else schedule.overlap,
        "catch_up": "" if schedule.catch_up == FIRST else schedule.catch_up,
        "window_ms": "" if schedule.window_ms is None else str(schedule.window_ms),
        "note": schedule.note,
    }
    if not schedule.is_exclusive:
        fields["running"] = ""
    item = to.script.item(
        f"={schedule.due_ms}",
        schedule.cron,
        schedule.zone,
        "1" if schedule.is_plain else "",
        "" if schedule.limit is None else str(schedule.limit),
        "" if paused is None else str(int(paused)),
        schedule.function,
        schedule.queue,
        schedule.args,
        *_flat(fields),
        action="put",
        name=schedule.name,
    )
    return BatchItem(to, item, lambda answer: int(answer[1]))


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [word for name, value in fields.items() for word in (S[name], value)]


def start_scheduled(keys: Keyspace, schedule: Schedule, id: PromiseId, *, waiter: str = "") -> BatchItem[Created]:
    """Start a due execution in another partition than that of its schedule; if it exists, nothing happens.

    ``waiter`` is the schedule, if it has to know of the end, see ``waiter_of``.
    """
    return promises.create(
        keys,
        id,
        kind=Kind.EXECUTION,
        function=schedule.function,
        queue=schedule.queue,
        args=schedule.args,
        retention=retention_word(schedule.retention_ms),
        waiter=waiter,
    )


def waiter_of(keys: Keyspace, schedule: Schedule) -> str:
    """A schedule as a waiter in another partition, see ``foreign``."""
    return f"{keys.partition} 0 {schedule.name}~cron"


@dataclass(frozen=True, slots=True)
class Advanced:
    """``word`` is ``advanced``, ``missing``, or ``stale`` if somebody has changed it meanwhile."""

    word: str
    revision: str


def advance_schedule(keys: Keyspace, seen: Schedule, change: Change) -> BatchItem[Advanced]:
    """Change a schedule and start its executions, if it is still as it was ``seen``."""
    to = route("schedule", keys)
    fields = dict(change.fields)
    if fields and not seen.is_newer:
        fields["cron"] = f"{LEFT_TO_NEWER}{seen.cron}"
    item = to.script.item(
        f"={change.next_due_ms}",
        str(seen.due_ms),
        seen.revision,
        change.timer,
        "1" if seen.is_exclusive else "",
        str(len(change.starts)),
        *change.starts,
        *_flat(fields),
        action="advance",
        name=seen.name,
    )
    return BatchItem(to, item, lambda answer: Advanced(to_text(answer[0]), to_text(answer[1])))


def quarantine_schedule(
    keys: Keyspace, name: str, due_ms: int | None, reason: str, *, is_offered: bool
) -> BatchItem[str]:
    """It is due, and cannot be read here: its name is kept, and it is offered again in a minute.

    If it is ``offered`` by a firing, the other workers are told. ``stale`` if it has a new due time by now, which is
    checked only with ``due_ms``.
    """
    to = route("schedule", keys)
    item = to.script.item(
        reason, "" if due_ms is None else str(due_ms), "1" if is_offered else "", action="aside", name=name
    )
    return BatchItem(to, item, _word)


def list_quarantined(keys: Keyspace, count: int) -> Command[list[str]]:
    """The schedules among the first ``count`` quarantined names: a worker could not read them."""

    def names_of(found: sorted_sets.Members) -> list[str]:
        parts = [member.split(":", 2) for member, _ in found]
        return [part[1] for part in parts if len(part) == 3 and part[0] == "schedule"]

    return sorted_sets.list_members(keys.halted, count=count).map(names_of)


def remove_schedule(keys: Keyspace, name: str) -> BatchItem[str]:
    """Remove a schedule; ``missing`` if there is none."""
    to = route("schedule", keys)
    return BatchItem(to, to.script.item(action="remove", name=name), _word)


_FIELDS = ("cron", "zone", "func", "queue", "args", "due", "retention", "revision")
_NEWER_FIELDS = (
    *("overlap", "catch_up", "window_ms", "note", "limit", "remaining", "paused", "running", "waiting", "starting"),
)

_FIELD_NAMES = tuple([S[name].encode() for name in (*_FIELDS, *_NEWER_FIELDS)])


def read_schedule(keys: Keyspace, name: str) -> Command[Schedule | None]:
    """A schedule by its name, or None; NewerVersion if only a newer version can run it."""

    def parse(values: list[Any]) -> Schedule | None:
        times, zone, function, queue, args, due, retention, revision = values[: len(_FIELDS)]
        if due is None:
            return None
        text = to_text(times)
        return Schedule(
            name,
            text.removeprefix(LEFT_TO_NEWER),
            to_text(zone),
            to_text(function),
            to_text(queue),
            args or b"",
            int(due),
            int(retention) if retention else None,
            *(_parse_newer(name, values[len(_FIELDS) :]) if text.startswith(LEFT_TO_NEWER) else ()),
            revision=to_text(revision),
            is_newer=text.startswith(LEFT_TO_NEWER),
        )

    return Command([b"HMGET", keys.schedule(name).encode(), *_FIELD_NAMES], parse)


def _parse_newer(name: str, values: Sequence[bytes | None]) -> tuple[Any, ...]:
    """The values of the fields of ``Schedule`` that older versions do not know."""
    overlap, catch_up, window, note, limit, remaining, paused, running, waiting, starting = values
    words = to_text(overlap) or ALLOW, to_text(catch_up) or FIRST
    if words[0] not in OVERLAPS or words[1] not in CATCH_UPS:
        raise NewerVersion(f"only a newer version of durasleep knows how schedule {name} runs: {', '.join(words)}")
    return (
        *words,
        _number(window),
        to_text(note),
        _number(limit),
        _number(remaining),
        _number(paused),
        to_text(running),
        tuple(map(int, to_text(waiting).split())),
        tuple(to_text(starting).split()),
    )


def _number(value: bytes | None) -> int | None:
    return int(value) if value else None
