"""What a client asks and what the answers mean, with no I/O: shared by the async and the sync client."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from durasleep.codec import Codec
from durasleep.errors import Canceled, NotFound, RemoteError, TimedOut, UsageError
from durasleep.model import (
    Due,
    Kind,
    Place,
    PromiseId,
    State,
    check_id,
    check_new_id,
    due_at,
    due_in,
    owner_of,
    parse_target,
)
from durasleep.settings import Settings
from durasleep.store import batch, commands
from durasleep.store.commands import Command, Created, Head, Item, Loaded, Settled
from durasleep.store.keys import Keyspace

Duration = float | timedelta

SHOWN_ATTEMPTS_MAX = 20  # of those that failed: the last ones tell what is wrong


@dataclass(frozen=True, slots=True)
class Ending:
    """How a promise stands: its state, and its value or error once it has settled."""

    id: PromiseId
    state: State
    payload: bytes

    @property
    def is_final(self) -> bool:
        return self.state is not State.PENDING


@dataclass(frozen=True, slots=True)
class Pending:
    """Something an execution waits for."""

    id: str
    kind: str
    name: str
    due_ms: int | None


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A call of a step or task that raised; ``at_ms`` is when that was journaled."""

    id: str
    name: str
    error: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Description:
    """One promise as people and programs see it; instants in ms since 1970, None for never."""

    id: str
    kind: str
    state: str
    status: str
    func: str | None
    group: str | None
    created_at_ms: int
    timeout_at_ms: int | None
    settled_at_ms: int | None
    value: Any
    error: str | None
    reason: str | None
    worker: str | None
    waiting_on: list[Pending]
    failed_attempts: list[FailedAttempt]
    """The latest, at most ``SHOWN_ATTEMPTS_MAX``, oldest first."""


def new_name(what: str) -> str:
    """A name nobody else has: for a client's inbox, or for one call that may be repeated."""
    return f"{what}-{secrets.token_hex(8)}"


def rpc(
    keys: Keyspace,
    id: str,
    function: str,
    args: bytes,
    *,
    target: str,
    timeout: Duration | None,
    delay: Duration | datetime | None,
    inbox: str,
    settings: Settings,
) -> Item[Created]:
    """Start an execution, or attach to the one that has this id."""
    return commands.create(
        keys,
        check_new_id(id),
        kind=Kind.EXECUTION,
        function=function,
        queue=parse_target(target).queue,
        args=args,
        start=None if delay is None else due_at(delay) if isinstance(delay, datetime) else due_in(delay, "delay"),
        deadline=None if timeout is None else due_in(timeout, "timeout"),
        call=new_name("call"),
        inbox=inbox,
        retention_ms=round(settings.retention.total_seconds() * 1000),
    )


class Pipeline(Protocol):
    """What we use of a redis-py pipeline, async or sync."""

    def execute_command(self, *args: Any, **options: Any) -> Any: ...


def enqueue(pipeline: Pipeline, call: Item[Any], settings: Settings) -> None:
    """Put a call into a caller's own MULTI, with the script before it: NOSCRIPT there would drop just our part."""
    [(command, _)] = batch.join([call], settings)
    pipeline.execute_command("SCRIPT LOAD", call.script.source)
    pipeline.execute_command("EVALSHA", *command[1:])


def create_promise(
    keys: Keyspace, id: str, *, timeout: Duration | datetime | None, timer: bool, settings: Settings
) -> Item[Created]:
    """Make a bare promise; its timeout rejects it (``timedout``), or resolves it if it is a timer."""
    if timer and timeout is None:
        raise UsageError(f"timer {id!r} needs a timeout: it is what a timer resolves at")
    deadline: Due | None = None
    if timeout is not None:
        deadline = due_at(timeout) if isinstance(timeout, datetime) else due_in(timeout, "timeout")
    return commands.create(
        keys,
        check_new_id(id),
        kind=Kind.TIMER if timer else Kind.PROMISE,
        deadline=deadline,
        call=new_name("call"),
        retention_ms=round(settings.retention.total_seconds() * 1000),
    )


def settle(keys: Keyspace, id: str, state: State, payload: bytes) -> Item[Settled]:
    """Resolve, reject or cancel a promise."""
    return commands.settle(keys, check_id(id), state, payload)


def ending_of_created(id: PromiseId, created: Created) -> Ending:
    return Ending(id, created.state, created.value)


def ending_of_loaded(id: PromiseId, loaded: Loaded | None, owner: Loaded | None) -> Ending:
    """How a promise stands, given its own hash or its owner's; NotFound if neither has it."""
    if loaded is not None:
        return Ending(id, loaded.head.state, loaded.head.value)
    where = owner_of(id)
    entry = owner.entries.get(where[1]) if owner is not None and where is not None else None
    if owner is None or entry is None:
        raise NotFound(f"there is no promise {id}")
    state = State.CANCELED if entry.state is State.PENDING and owner.head.state is not State.PENDING else entry.state
    return Ending(id, state, entry.payload)


def result_of(ending: Ending, codec: Codec, hint: Any = Any) -> Any:
    """The value of a settled promise, shaped by ``hint``; raises what it was rejected with, Canceled or TimedOut."""
    match ending.state:
        case State.RESOLVED:
            return codec.decode(ending.payload, hint)
        case State.REJECTED:
            raise codec.decode_error(ending.payload)
        case State.CANCELED:
            raise Canceled(f"{ending.id} was canceled")
        case State.TIMEDOUT:
            raise TimedOut(f"{ending.id} did not settle before its timeout")
        case State.PENDING:
            raise UsageError(f"{ending.id} has not settled")


def holder_of(keys: Keyspace, head: Head) -> Command[str | None] | None:
    """The command that tells which worker runs it, if it may be running."""
    if head.place is not Place.QUEUED or not head.entry:
        return None
    return commands.read_holder(keys, head.queue, head.entry)


def describe(loaded: Loaded, holder: str | None, codec: Codec) -> Description:
    """An execution or a bare promise, as it is kept."""
    head = loaded.head
    if head.state is not State.PENDING:
        status = "done"
    elif head.place is Place.QUEUED:
        status = "running" if holder else "queued"
    else:
        status = head.place.value if head.place else "suspended"
    is_execution = head.kind is Kind.EXECUTION
    return Description(
        id=head.id,
        kind=head.kind.value,
        state=head.state.value,
        status=status,
        func=head.function if is_execution else None,
        group=head.queue.partition("/")[0] if is_execution else None,
        created_at_ms=head.created_ms,
        timeout_at_ms=head.deadline_ms or None,
        settled_at_ms=head.settled_ms or None,
        value=codec.decode(head.value) if head.state is State.RESOLVED else None,
        error=_error_text(head.state, head.value, codec),
        reason=head.reason or None,
        worker=holder.partition("/")[0] if holder else None,
        waiting_on=_waiting_on(loaded),
        failed_attempts=_failed_attempts(loaded, codec),
    )


def describe_entry(id: PromiseId, owner: Loaded | None, codec: Codec) -> Description:
    """A promise that is an entry of its owner's journal; NotFound if there is none."""
    ending = ending_of_loaded(id, None, owner)
    where = owner_of(id)
    if owner is None or where is None:
        raise NotFound(f"there is no promise {id}")
    entry = owner.entries[where[1]]
    return Description(
        id=id,
        kind=entry.kind.value,
        state=ending.state.value,
        status="suspended" if ending.state is State.PENDING else "done",
        func=entry.name or None,
        group=None,
        created_at_ms=owner.head.created_ms,
        timeout_at_ms=entry.due_ms or None,
        settled_at_ms=entry.stamp or None,
        value=codec.decode(entry.payload) if ending.state is State.RESOLVED and entry.payload else None,
        error=_error_text(ending.state, entry.payload, codec),
        reason=None,
        worker=None,
        waiting_on=[],
        failed_attempts=[],
    )


def _error_text(state: State, payload: bytes, codec: Codec) -> str | None:
    match state:
        case State.REJECTED:
            error = codec.decode_error(payload)
            return str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
        case State.CANCELED:
            return "canceled"
        case State.TIMEDOUT:
            return "timed out"
        case State.PENDING | State.RESOLVED:
            return None


def _failed_attempts(loaded: Loaded, codec: Codec) -> list[FailedAttempt]:
    failed = [entry for entry in loaded.entries.values() if entry.kind is Kind.STEP and entry.state is State.REJECTED]
    failed.sort(key=lambda entry: entry.stamp)
    return [
        FailedAttempt(
            f"{loaded.head.id}~{entry.number}",
            entry.name,
            _error_text(entry.state, entry.payload, codec) or "",
            entry.stamp,
        )
        for entry in failed[-SHOWN_ATTEMPTS_MAX:]
    ]


def _waiting_on(loaded: Loaded) -> list[Pending]:
    head = loaded.head
    if head.state is not State.PENDING:
        return []
    waiting = [
        Pending(entry.child_id or f"{head.id}~{entry.number}", entry.kind.value, entry.name, entry.due_ms or None)
        for entry in loaded.entries.values()
        if entry.state is State.PENDING
    ]
    if head.place is Place.DELAYED:
        what = "retry" if head.reason else "start"
        waiting.append(Pending(f"{head.id}~{what}", "timer", what, head.due_ms or None))
    return sorted(waiting, key=lambda one: (one.due_ms or float("inf"), one.id))
