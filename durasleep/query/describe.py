"""Everything there is to see of a promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from durasleep.codec import Codec
from durasleep.codec.exceptions import RAISED_THERE
from durasleep.deprecation import warn_renamed
from durasleep.errors import (
    CorruptData,
    DurasleepError,
    NotFound,
    RemoteError,
)
from durasleep.model import Entry, Kind, Place, PromiseId, Recording, State, group_of, priority_of, worker_of
from durasleep.protocol import channels, command, groups, journal, limits, server, streams
from durasleep.protocol.command import Plan
from durasleep.protocol.groups import Pause
from durasleep.protocol.journal import Loaded, PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.query.circles import describe_circle, find_circle
from durasleep.query.result import error_text
from durasleep.query.status import find_entry, holders, state_of, status_of
from durasleep.query.waiting_on import Pending, began_ms, pending_of
from durasleep.traits import read_labels

_MAILBOX_PAGES_MAX = 100  # of a thousand fields: ten times as many as it can have
_WORKERS_MAX = 1_000  # of a group, looked at to see whether one is alive
_SHOWN_ATTEMPTS_MAX = 20  # of the failed ones: the last ones show what is wrong


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A call of a step or task that raised."""

    id: str
    """The id of the call: that of the execution, with its number."""
    name: str
    """The name of the function."""
    error: str
    """The error, with its type, in a line or more."""
    at_ms: int
    """When it was journaled, in ms since 1970."""


@dataclass(frozen=True, slots=True)
class Unread:
    """The messages that an execution was sent, and that its code has not asked for."""

    messages: int
    """How many there are; at most 1,000."""
    bytes: int
    """The size of all of them; at most 1 MiB, if there is more than one."""
    channels: dict[str, int]
    """How many there are of each channel."""


@dataclass(frozen=True, slots=True)
class Description:
    """One promise as people and programs see it; instants in ms since 1970, None for never."""

    id: str
    """Its id."""
    kind: str
    """``execution``, ``promise`` or ``timer``; or another kind of journal entry, such as ``step``."""
    state: str
    """``pending``, ``resolved``, ``rejected``, ``canceled`` or ``timedout``."""
    status: str
    """``queued``, ``running``, ``suspended``, ``delayed``, ``parked``, ``halted`` or ``done``."""
    func: str | None
    """The name of its function; of a journal entry, its own name. None for a promise on its own."""
    group: str | None
    """The group whose workers run it; None if it is no execution."""
    created_at_ms: int
    """When it was created; of a journal entry, when its execution was."""
    timeout_at_ms: int | None
    """When its deadline passes; when a timer is due."""
    settled_at_ms: int | None
    """When it settled."""
    value: Any
    """Its result, as plain data, if it has resolved; a text that says why if it cannot be read here; else None."""
    error: str | None
    """Why it was rejected, timed out or canceled: a word or a sentence."""
    reason: str | None
    """Why it is where it is, for example halted; None if there is nothing to say."""
    worker: str | None
    """The name of the worker that runs it."""
    crash_count: int
    """Workers in a row that died while they ran it. A commit of it, and ``resume``, set this back to 0."""
    waiting_on: list[Pending]
    """What it waits for, soonest due first."""
    failed_attempts: list[FailedAttempt]
    """Its latest failed attempts, at most 20, oldest first."""
    since_ms: int
    """Since when it is in its present place."""
    traceback: str | None
    """The traceback of the error that it was rejected with, as it was where the error was raised."""
    args: list[Any] | None
    """Its arguments, as they were sent; None if it is no execution, and if they cannot be read."""
    kwargs: dict[str, Any] | None
    """Its keyword arguments, in the same way."""
    priority: int | None = None
    """From 1, which comes first, to 5; None if it is no execution."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names and values by which people find it."""
    limit: str | None = None
    """The name of the limit that counts it."""
    limit_key: str | None = None
    """Its key there; None if the limit counts all together."""
    place_in_line: int | None = None
    """If it is parked: how many of its key begin before it, plus one."""
    limit_paused_since_ms: int | None = None
    """If it is parked: since when its limit is paused; None if it is not."""
    paused_since_ms: int | None = None
    """If it waits for a worker: since when its group is paused; else None."""
    paused_by: str | None = None
    """Who has paused the group."""
    is_unserved: bool = False
    """Whether it waits for a worker, and none that may run it is alive."""
    forked_from: str | None = None
    """The id of the execution whose journal it has begun with, if it is a fork."""
    unread: Unread | None = None
    """The messages that its code has not asked for; None if there are none."""

    @property
    def deaths(self) -> int:
        """The old name of ``crash_count``."""
        warn_renamed("deaths", "crash_count")
        return self.crash_count


def describe(keys_of: Callable[[str], Keyspace], id: PromiseId, codec: Codec) -> Plan[Description]:
    """Everything there is to see of a promise; NotFound if there is none."""
    keys = keys_of(id)
    loaded = yield from journal.load(keys, id)
    if loaded is None:
        owner, entry = yield from find_entry(keys, id)
        return _describe_entry(id, entry, owner, codec)
    [worker] = yield from holders(keys_of, [loaded.record])
    halted_ms = 0
    if loaded.record.place is Place.HALTED:
        [answer] = yield [journal.read_halted_at(keys, id)]
        halted_ms = command.unwrap(answer) or 0
    found = _describe(loaded, worker, halted_ms, codec)
    if loaded.record.place is Place.SUSPENDED and (circle := (yield from find_circle(keys_of, loaded))):
        found = dataclasses.replace(found, reason=describe_circle(circle))
    if loaded.record.has_mailbox and (unread := (yield from _unread_of(keys, id))):
        found = dataclasses.replace(found, unread=unread)
    if found.status == "queued" and found.group and (paused := (yield from _pause_of(keys, found.group))):
        found = dataclasses.replace(found, paused_since_ms=paused.since_ms, paused_by=paused.by)
    if found.status == "queued" and (yield from _is_unserved(keys, loaded.record.queue)):
        found = dataclasses.replace(found, is_unserved=True)
    if found.status == "parked" and found.limit:
        before, paused_ms = yield [
            limits.read_place(keys, found.limit, found.limit_key or "", id),
            limits.read_paused(keys, found.limit),
        ]
        place = None if (count := command.unwrap(before)) is None else count + 1
        found = dataclasses.replace(found, place_in_line=place, limit_paused_since_ms=command.unwrap(paused_ms))
    return found


def _unread_of(keys: Keyspace, id: PromiseId) -> Plan[Unread | None]:
    [answer] = yield [channels.read_mailbox(keys, id)]
    mailbox = command.unwrap(answer)
    if mailbox is None or not mailbox.messages:
        return None
    cursor, unread = b"0", dict[str, int]()
    for _ in range(_MAILBOX_PAGES_MAX):
        [page] = yield [channels.read_unread(keys, id, cursor)]
        cursor, found = command.unwrap(page)
        unread |= found
        if cursor == b"0":
            break
    return Unread(mailbox.messages, mailbox.bytes, dict(sorted(unread.items())))


def _pause_of(keys: Keyspace, group: str) -> Plan[Pause | None]:
    [answer] = yield [groups.read_pause(keys, group)]
    return answer if isinstance(answer, Pause) else None


def _is_unserved(keys: Keyspace, queue: str) -> Plan[bool]:
    """Whether no worker that may take an entry of this queue is alive."""
    name = worker_of(queue)
    [answer] = yield [streams.read_consumers(keys, group_of(queue))]
    if isinstance(answer, DurasleepError):
        return True  # nobody has ever served the group
    consumers: list[str] = answer
    asked = [one for one in consumers if name is None or one.partition("/")[0] == name][:_WORKERS_MAX]
    alive: list[Any] = (yield [server.exists(keys.worker(one)) for one in asked]) if asked else []
    return len(asked) < _WORKERS_MAX and all(sign is False for sign in alive)


def export(keys: Keyspace, id: PromiseId) -> Plan[Recording]:
    """An execution with its journal, for a file or a replay; NotFound if there is none."""
    loaded = yield from journal.load(keys, id)
    if loaded is None or loaded.record.kind is not Kind.EXECUTION:
        raise NotFound(f"there is no execution {id}")
    record = loaded.record
    return Recording(
        id=record.id,
        function=record.function,
        group=group_of(record.queue),
        state=record.state,
        incarnation=record.incarnation,
        created_ms=record.created_ms,
        begun_ms=record.begun_ms,
        base=record.base,
        args=record.args,
        value=record.value,
        unseen=record.unseen,
        entries=tuple(loaded.entries.values()),
        origins=record.origins,
        priority=priority_of(record.queue),
        labels=read_labels(record.labels),
    )


def _describe(loaded: Loaded, worker: str | None, halted_ms: int, codec: Codec) -> Description:
    """An execution or a bare promise, as it is kept."""
    record = loaded.record
    is_execution = record.kind is Kind.EXECUTION
    args, kwargs = _arguments(record, codec) if is_execution else (None, None)
    waiting_on = pending_of(loaded)
    return Description(
        id=record.id,
        kind=record.kind.value,
        state=record.state.value,
        status=status_of(record, worker),
        func=record.function if is_execution else None,
        group=group_of(record.queue) if is_execution else None,
        created_at_ms=record.created_ms,
        timeout_at_ms=record.deadline_ms or None,
        settled_at_ms=record.settled_ms or None,
        value=_value(record.value, codec) if record.state is State.RESOLVED else None,
        error=error_text(record.state, record.value, codec),
        reason=record.reason or None,
        worker=worker,
        waiting_on=waiting_on,
        failed_attempts=_failed_attempts(loaded, codec),
        since_ms=record.settled_ms or halted_ms or _since_ms(record, waiting_on),
        crash_count=record.crash_count,
        traceback=_traceback(codec.decode_error(record.value)) if record.state is State.REJECTED else None,
        args=args,
        kwargs=kwargs,
        priority=priority_of(record.queue) if is_execution else None,
        labels=read_labels(record.labels),
        limit=record.limit_name or None,
        limit_key=record.limit_key or None,
        forked_from=record.origins.rpartition("\n")[2].split(" ", 2)[2] if record.origins else None,
    )


def _since_ms(record: PromiseRecord, waiting_on: list[Pending]) -> int:
    """A queued one: since its entry was added. Else since the last settlement for it, or its last durable call."""
    if record.entry:
        return int(record.entry.partition("-")[0])
    return max(record.created_ms, record.begun_ms, record.order, *[one.since_ms for one in waiting_on])


def _arguments(record: PromiseRecord, codec: Codec) -> tuple[list[Any] | None, dict[str, Any] | None]:
    try:
        args, kwargs = codec.decode(record.args)
    except (DurasleepError, TypeError, ValueError):
        return None, None
    return args, kwargs


def _value(payload: bytes, codec: Codec) -> Any:
    """Everything else is shown, too, if it was encrypted by another codec."""
    try:
        return codec.decode(payload)
    except CorruptData as error:
        return f"cannot be read: {error}"


def _traceback(error: Exception) -> str | None:
    """Where the error was raised. For the error of a child: where the child was awaited, then where it was raised."""
    own = [error.remote_traceback] if isinstance(error, RemoteError) and error.remote_traceback else []
    notes = [note.removeprefix(RAISED_THERE) for note in getattr(error, "__notes__", ()) if RAISED_THERE in note]
    return "\n".join([*own, *notes]) or None


def _describe_entry(id: PromiseId, entry: Entry, owner: Loaded, codec: Codec) -> Description:
    """A promise that is an entry of its owner's journal."""
    state = state_of(entry, owner)
    return Description(
        id=id,
        kind=entry.kind.value,
        state=state.value,
        status="suspended" if state is State.PENDING else "done",
        func=entry.name or None,
        group=None,
        created_at_ms=owner.record.created_ms,
        timeout_at_ms=entry.due_ms or None,
        settled_at_ms=entry.stamp or None,
        value=_value(entry.payload, codec) if state is State.RESOLVED and entry.payload else None,
        error=error_text(state, entry.payload, codec),
        reason=None,
        worker=None,
        crash_count=0,
        waiting_on=[],
        failed_attempts=[],
        since_ms=entry.stamp or began_ms(entry, owner.record),
        traceback=_traceback(codec.decode_error(entry.payload)) if state is State.REJECTED else None,
        args=None,
        kwargs=None,
    )


def _failed_attempts(loaded: Loaded, codec: Codec) -> list[FailedAttempt]:
    failed = [entry for entry in loaded.entries.values() if entry.kind is Kind.STEP and entry.state is State.REJECTED]
    failed.sort(key=lambda entry: entry.stamp)
    return [
        FailedAttempt(
            f"{loaded.record.id}~{entry.number}",
            entry.name,
            error_text(entry.state, entry.payload, codec) or "",
            entry.stamp,
        )
        for entry in failed[-_SHOWN_ATTEMPTS_MAX:]
    ]
