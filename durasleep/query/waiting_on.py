"""The things that an execution waits for."""

from __future__ import annotations

from dataclasses import dataclass

from durasleep.model import (
    Entry,
    Place,
    State,
)
from durasleep.protocol.journal import Loaded, PromiseRecord


@dataclass(frozen=True, slots=True)
class Pending:
    """Something an execution waits for."""

    id: str
    """The id by which it can be controlled."""
    kind: str
    """``timer``, ``promise``, ``step`` or ``child``."""
    name: str
    """The name that the workflow gave it, or that of its function; else empty."""
    due_ms: int | None
    """When it is due or times out, in ms since 1970; None for never."""
    since_ms: int
    """Since when the execution waits for it, in ms since 1970."""


def began_ms(entry: Entry, owner: PromiseRecord) -> int:
    """When the durable call of an entry was made; if that is not recorded, when this incarnation began."""
    return max(owner.incarnation + entry.begun_ms, owner.created_ms)


def pending_of(loaded: Loaded) -> list[Pending]:
    record = loaded.record
    if record.state is not State.PENDING:
        return []
    waiting = [
        Pending(
            entry.child_id or f"{record.id}~{entry.number}",
            entry.kind.value,
            entry.name,
            entry.due_ms or None,
            began_ms(entry, record),
        )
        for entry in loaded.entries.values()
        if entry.state is State.PENDING
    ]
    if record.place is Place.DELAYED:
        what = "retry" if record.reason else "start"
        waiting.append(Pending(f"{record.id}~{what}", "timer", what, record.due_ms or None, record.created_ms))
    return sorted(waiting, key=lambda one: (one.due_ms or float("inf"), one.id))
