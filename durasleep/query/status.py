"""The status of a promise, and where an execution is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from durasleep.errors import (
    NotFound,
)
from durasleep.model import (
    Entry,
    Place,
    PromiseId,
    State,
    owner_of,
)
from durasleep.protocol import command, journal, streams
from durasleep.protocol.command import Plan
from durasleep.protocol.journal import Loaded, PromiseRecord
from durasleep.protocol.keys import Keyspace


class PromiseStatus(msgspec.Struct, frozen=True, gc=False):
    """The status of a promise: its state, and its value or error once it has settled."""

    id: PromiseId
    state: State
    payload: bytes

    @property
    def is_final(self) -> bool:
        return self.state is not State.PENDING


def read(keys: Keyspace, id: PromiseId) -> Plan[PromiseStatus]:
    """The status of a promise; NotFound if there is none."""
    [record] = yield [journal.read_outcome(keys, id)]
    if command.unwrap(record) is not None:
        return PromiseStatus(id, record.state, record.value)
    owner, entry = yield from find_entry(keys, id)
    return PromiseStatus(id, state_of(entry, owner), entry.payload)


def find_entry(keys: Keyspace, id: PromiseId) -> Plan[tuple[Loaded, Entry]]:
    """The journal entry of a promise, and the execution that owns it; NotFound if there is none."""
    where = owner_of(id)
    owner = (yield from journal.load(keys, where[0])) if where else None
    entry = owner.entries.get(where[1]) if where and owner else None
    if owner is None or entry is None:
        raise NotFound(f"there is no promise {id}")
    return owner, entry


def state_of(entry: Entry, owner: Loaded) -> State:
    """The state of an entry. If it was pending when its owner ended, it ended with the owner."""
    is_left = entry.state is State.PENDING and owner.record.state is not State.PENDING
    return State.CANCELED if is_left else entry.state


def holders(keys_of: Callable[[str], Keyspace], records: Sequence[PromiseRecord]) -> Plan[list[str | None]]:
    """The worker that runs each; None for one that no worker runs."""
    queued = [record for record in records if record.place is Place.QUEUED and record.entry]
    answers = (
        (yield [streams.read_holder(keys_of(record.id), record.queue, record.entry) for record in queued])
        if queued
        else []
    )
    found = {
        record.id: holder.partition("/")[0]
        for record, holder in zip(queued, answers, strict=True)
        if isinstance(holder, str)  # else no worker has ever served its group
    }
    return [found.get(record.id) for record in records]


def status_of(record: PromiseRecord, worker: str | None) -> str:
    """Where it is, in one word: its place, or ``running`` on a worker, or ``done``."""
    if record.state is not State.PENDING:
        return "done"
    if record.place is Place.QUEUED:
        return "running" if worker else "queued"
    return record.place.value if record.place else "suspended"
