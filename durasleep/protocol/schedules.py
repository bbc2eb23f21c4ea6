"""What is started again and again, by its cron expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.model import PromiseId
from durasleep.protocol.command import BatchItem, Command, route, to_text
from durasleep.protocol.keys import Keyspace, S
from durasleep.protocol.promises import retention_word


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron schedule as it is kept."""

    name: str
    cron: str
    zone: str
    function: str
    queue: str
    args: bytes
    due_ms: int
    retention_ms: int | None = None
    """Of what it starts, -1 for ever; None for the default."""


def _word(answer: list[Any]) -> str:
    return to_text(answer[0])


def put_schedule(keys: Keyspace, schedule: Schedule) -> BatchItem[int]:
    """Keep a schedule, new or changed; answers when its next execution is due, in ms.

    That is ``due_ms``, unless it has the same line and zone as before: then it stays as it was.
    """
    to = route("schedule", keys)
    values = (schedule.cron, schedule.zone, schedule.function, schedule.queue, schedule.args)
    retention = retention_word(schedule.retention_ms)
    item = to.script.item(f"={schedule.due_ms}", *values, retention, action="put", name=schedule.name)
    return BatchItem(to, item, lambda answer: int(answer[1]))


def advance_schedule(keys: Keyspace, schedule: Schedule, *, next_due_ms: int, id: PromiseId) -> BatchItem[str]:
    """Start the execution that is due, under ``id``, and move on; ``stale`` if another worker did."""
    to = route("schedule", keys)
    item = to.script.item(f"={next_due_ms}", str(schedule.due_ms), id, action="advance", name=schedule.name)
    return BatchItem(to, item, _word)


def quarantine_schedule(
    keys: Keyspace, name: str, due_ms: int | None, reason: str, *, is_offered: bool
) -> BatchItem[str]:
    """It is due, and cannot be read here: kept by name, and offered again in a minute.

    The other workers are told of one that is ``offered``, which it is by a firing. ``stale`` if it has been moved on
    meanwhile, which is not asked without ``due_ms``.
    """
    to = route("schedule", keys)
    item = to.script.item(
        reason, "" if due_ms is None else str(due_ms), "1" if is_offered else "", action="aside", name=name
    )
    return BatchItem(to, item, _word)


def remove_schedule(keys: Keyspace, name: str) -> BatchItem[str]:
    """Forget a schedule; ``missing`` if there is none."""
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
