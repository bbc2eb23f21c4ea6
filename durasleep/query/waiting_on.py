"""The things that an execution waits for."""

from __future__ import annotations

from dataclasses import dataclass

from durasleep.model import (
    Entry,
    Kind,
    Place,
    PromiseId,
    State,
)
from durasleep.protocol.journal import Loaded, PromiseRecord

_BY_MESSAGE = (Kind.RECEIVE, Kind.SEND, Kind.SETTLE)


@dataclass(frozen=True, slots=True)
class Pending:
    """Something an execution waits for."""

    id: str
    """The id by which it can be controlled."""
    kind: str
    """``timer``, ``promise``, ``step`` or ``child``; ``receive`` for a message, ``send`` and ``settle`` for one on its
    way to another partition."""
    name: str
    """The name that the workflow gave it, or that of its function or channel; else empty."""
    due_ms: int | None
    """When it is due or times out, in ms since 1970; None for never."""
    since_ms: int
    """Since when the execution waits for it, in ms since 1970."""
    to: str | None = None
    """For whom a message is, or which promise is settled."""

    @property
    def text(self) -> str:
        """What it is, in words."""
        match self.kind:
            case "receive":
                return f"message {self.name!r}"
            case "send":
                return f"message {self.name!r} to arrive at {self.to}"
            case "settle":
                return f"promise {self.to} to be settled by it"
            case _:
                return f"{self.kind} {self.id}{f' ({self.name})' if self.name else ''}"


def began_ms(entry: Entry, owner: PromiseRecord) -> int:
    """When the durable call of an entry was made; if that is not recorded, when this incarnation began."""
    return max(owner.incarnation + entry.begun_ms, owner.created_ms)


def id_of(entry: Entry, owner: PromiseId) -> PromiseId:
    """The id of what an entry has made; for a message or a settlement, that of the entry."""
    made = "" if entry.kind in _BY_MESSAGE else entry.child_id
    return PromiseId(made or f"{owner}~{entry.number}")


def target_of(entry: Entry) -> str | None:
    """For whom a message is, or which promise is settled; None for other entries."""
    return entry.child_id if entry.kind in (Kind.SEND, Kind.SETTLE) else None


def pending_of(loaded: Loaded) -> list[Pending]:
    record = loaded.record
    if record.state is not State.PENDING:
        return []
    waiting = [
        Pending(
            id_of(entry, record.id),
            entry.kind.value,
            entry.name,
            entry.due_ms or None,
            began_ms(entry, record),
            target_of(entry),
        )
        for entry in loaded.entries.values()
        if entry.state is State.PENDING
    ]
    if record.place is Place.DELAYED:
        what = "retry" if record.reason else "start"
        waiting.append(Pending(f"{record.id}~{what}", "timer", what, record.due_ms or None, record.created_ms))
    return sorted(waiting, key=lambda one: (one.due_ms or float("inf"), one.id))
