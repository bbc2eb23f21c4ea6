"""Executions that are started again and again, by a cron expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.model import Kind, PromiseId
from durasleep.protocol import promises
from durasleep.protocol.command import BatchItem, Command, route, to_text
from durasleep.protocol.keys import Keyspace, S
from durasleep.protocol.promises import Created, retention_word


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron schedule as it is stored."""

    name: str
    cron: str
    zone: str
    function: str
    queue: str
    args: bytes
    due_ms: int
    retention_ms: int | None = None
    """Of the executions it starts, -1 for ever; None for the default."""


def _word(answer: list[Any]) -> str:
    return to_text(answer[0])


def put_schedule(keys: Keyspace, schedule: Schedule) -> BatchItem[int]:
    """Store a schedule, new or changed; returns when its next execution is due, in ms.

    That is ``due_ms``, unless line and zone are the same as before: then the due time does not change.
    """
    to = route("schedule", keys)
    values = (schedule.cron, schedule.zone, schedule.function, schedule.queue, schedule.args)
    retention = retention_word(schedule.retention_ms)
    item = to.script.item(f"={schedule.due_ms}", *values, retention, action="put", name=schedule.name)
    return BatchItem(to, item, lambda answer: int(answer[1]))


def start_scheduled(keys: Keyspace, schedule: Schedule, id: PromiseId) -> BatchItem[Created]:
    """Start a due execution in another partition than that of its schedule; if it exists, nothing happens."""
    return promises.create(
        keys,
        id,
        kind=Kind.EXECUTION,
        function=schedule.function,
        queue=schedule.queue,
        args=schedule.args,
        retention=retention_word(schedule.retention_ms),
    )


def advance_schedule(keys: Keyspace, schedule: Schedule, *, next_due_ms: int, id: PromiseId | None) -> BatchItem[str]:
    """Start the due execution under ``id``, if it is given, and set the next due time; ``stale`` if another worker has
    done it.
    """
    to = route("schedule", keys)
    item = to.script.item(f"={next_due_ms}", str(schedule.due_ms), id or "", action="advance", name=schedule.name)
    return BatchItem(to, item, _word)


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


def remove_schedule(keys: Keyspace, name: str) -> BatchItem[str]:
    """Remove a schedule; ``missing`` if there is none."""
    to = route("schedule", keys)
    return BatchItem(to, to.script.item(action="remove", name=name), _word)


def read_schedule(keys: Keyspace, name: str) -> Command[Schedule | None]:
    """A schedule by its name, or None."""
    fields = (S["cron"], S["zone"], S["func"], S["queue"], S["args"], S["due"], S["retention"])

    def parse(values: list[Any]) -> Schedule | None:
        cron, zone, function, queue, args, due, retention = values
        if due is None:
            return None
        return Schedule(
            name,
            to_text(cron),
            to_text(zone),
            to_text(function),
            to_text(queue),
            args or b"",
            int(due),
            int(retention) if retention else None,
        )

    return Command([b"HMGET", keys.schedule(name).encode(), *(name.encode() for name in fields)], parse)
