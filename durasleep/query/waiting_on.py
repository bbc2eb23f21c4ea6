"""What a client asks and what the answers mean, with no I/O: shared by the async and the sync client."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self, TypedDict, TypeVar
from uuid import UUID

import msgspec

from durasleep.codec import Codec
from durasleep.codec.exceptions import RAISED_THERE, error_line
from durasleep.deprecation import warn_renamed
from durasleep.errors import (
    Canceled,
    DurasleepError,
    InvalidId,
    NotAllowed,
    NotFound,
    RemoteError,
    TimedOut,
    UsageError,
)
from durasleep.model import (
    Due,
    Duration,
    Entry,
    Kind,
    Place,
    PromiseId,
    Recording,
    State,
    check_id,
    check_new_id,
    check_time_left,
    due_at,
    due_in,
    owner_of,
    parse_target,
    retention_ms,
)
from durasleep.protocol import command, journal, promises, streams
from durasleep.protocol.command import BatchItem, Command, Plan
from durasleep.protocol.journal import Loaded, PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Controlled, Created, Settled
from durasleep.protocol.script import to_bytes
from durasleep.query.circles import describe_circle, find_circle
from durasleep.settings import Settings
from durasleep.transport import batching

T = TypeVar("T")

SHOWN_ATTEMPTS_MAX = 20  # of those that failed: the last ones tell what is wrong
MANY_MAX = 1_024  # calls on their way at a time
CLOSED = "the client was closed while this was waited for; what was started goes on"
NAMED_MAX = 5  # timers in one sentence


class PromiseStatus(msgspec.Struct, frozen=True, gc=False):
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
    since_ms: int
    """Since when it is waited for."""


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
    crash_count: int
    """Workers in a row that died while it was in their hands; what it commits, and ``resume``, begin that anew."""
    waiting_on: list[Pending]
    failed_attempts: list[FailedAttempt]
    """The latest, at most ``SHOWN_ATTEMPTS_MAX``, oldest first."""
    since_ms: int
    """Since when it is where it is."""
    traceback: str | None
    """Of what it was rejected with, as it was where that was raised."""
    args: list[Any] | None
    """What it was called with, as it travelled; None for no execution, and where it cannot be read."""
    kwargs: dict[str, Any] | None

    @property
    def deaths(self) -> int:
        """The old name of ``crash_count``."""
        warn_renamed("deaths", "crash_count")
        return self.crash_count


# Not the generator that all of a program shares: two that seeded it alike, or a child and its parent, would take one
# another's calls for their own.
_chance = random.Random()
os.register_at_fork(after_in_child=_chance.seed)


class IdSource:
    """Names nobody else has: of a client's inbox, and of its calls, which may be repeated.

    They are short, because every promise keeps the name of the call that made it and of the inbox that waits.
    """

    def __init__(self) -> None:
        self.inbox = secrets.token_urlsafe(6)

    def call(self) -> str:
        """The name of one more call: it is only compared with that of another call for the same id."""
        return str(_chance.getrandbits(31))


def new_id() -> str:
    """An id nobody else has, a UUID of version 7: what is made later sorts behind, to a quarter of a microsecond."""
    ms, ns = divmod(time.time_ns(), 1_000_000)
    fraction = ns * 4096 // 1_000_000
    return str(UUID(int=ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)))


class Pipeline(Protocol):
    """What we use of a redis-py pipeline, async or sync."""

    def execute_command(self, *args: Any, **options: Any) -> Any: ...


class Options(TypedDict, total=False):
    """What a call may be told apart from the arguments of its function; None is as if it were left out."""

    target: str | None
    """Who runs it: any worker of a group, ``"gpu"`` or ``"poll://any@gpu"``, or one worker of it by its name,
    ``"poll://uni@gpu/w1"``. By default the group of the application or client."""
    timeout: Duration | None
    """The deadline of the execution, from now: seconds, a timedelta, or text such as ``"1h30m"``. Then it is
    ``timedout``, whatever it does. By default there is none."""
    delay: Duration | datetime | None
    """It starts after so long (as for ``timeout``), or at an aware datetime; the deadline counts from now all the
    same, so that a timeout no longer than the delay is refused."""
    retention: Duration | None
    """How long it is kept after its end, so that a repeated call finds its result (as for ``timeout``), or
    ``"forever"``. All of its family is kept as long, and what it starts under an id of its own, unless that is told
    otherwise. By default as in the settings."""
    pipeline: Pipeline | None
    """A part of the caller's own MULTI: it exists once that was executed, and the answer is the pipeline's."""
    min_replicas: int | None
    """It counts once so many replicas have received it, else NotReplicated. By default as in the settings."""
    fsync: bool | None
    """It counts once it is on disk there, too."""


class CallOptions(msgspec.Struct, frozen=True):
    """The same as they are kept: TypeError for one that is not known."""

    target: str | None = None
    timeout: Duration | None = None
    delay: Duration | datetime | None = None
    retention: Duration | None = None
    pipeline: Pipeline | None = None
    min_replicas: int | None = None
    fsync: bool | None = None

    def checked(self) -> Self:
        """Itself; UsageError for a value that cannot be used."""
        if self.target is not None:
            if not isinstance(self.target, str):  # pyright: ignore[reportUnnecessaryIsInstance] - whoever calls may err
                raise InvalidId(f"target {self.target!r}: write poll://any@<group> or poll://uni@<group>/<worker>")
            parse_target(self.target)
        check_time_left(self.start(), self.deadline())
        if self.retention is not None:
            retention_ms(self.retention)
        if self.min_replicas is not None and type(self.min_replicas) is not int:
            raise UsageError(f"min_replicas {self.min_replicas!r}: give a whole number")
        if self.fsync is not None and type(self.fsync) is not bool:
            raise UsageError(f"fsync {self.fsync!r}: say True or False")
        return self

    def start(self) -> Due | None:
        """When it starts, if it is delayed."""
        if self.delay is None:
            return None
        return due_at(self.delay) if isinstance(self.delay, datetime) else due_in(self.delay, "delay")

    def deadline(self) -> Due | None:
        """When it is over, if it has a timeout."""
        return None if self.timeout is None else due_in(self.timeout, "timeout")


def rpc_maker(
    keys: Keyspace, function: str, options: CallOptions, *, group: str, inbox: str, settings: Settings
) -> Callable[[str, bytes, str], BatchItem[Created]]:
    """What makes calls of one function, each of an id, its arguments and a name for the call.

    A call starts an execution, or attaches to the one that has this id. What all have in common is worked out once.
    """
    start, deadline = options.start(), options.deadline()
    check_time_left(start, deadline)
    common = promises.create(
        keys,
        PromiseId(""),
        kind=Kind.EXECUTION,
        function=function,
        queue=parse_target(options.target or group).queue,
        start=start,
        deadline=deadline,
        inbox=inbox,
        retention_ms=retention_ms(settings.retention if options.retention is None else options.retention),
    )
    make = promises.create_like(common)

    def rpc(id: str, args: bytes, call: str) -> BatchItem[Created]:
        return make(check_new_id(id), args, call)

    return rpc


def encoder(
    codec: Codec,
    function: str,
    called: Callable[..., Any] | None,
    check: Callable[[Sequence[Any], dict[str, Any]], None] | None,
) -> Callable[[Sequence[Any]], bytes]:
    """What makes payloads of the arguments for many calls of one function; UsageError for those it would not take."""

    def encode(args: Sequence[Any]) -> bytes:
        payload = codec.encode_args(args, {}, function, called)
        if check is not None:
            check(args, {})
        return payload

    return encode


def check_unpipelined(options: CallOptions) -> None:
    """UsageError for many calls at once in a caller's own MULTI: each of them would bring its script along."""
    if options.pipeline is not None:
        raise UsageError("rpc_many does not go with pipeline: call rpc for each")


def in_parts(many: Iterable[T]) -> Iterator[list[T]]:
    """As many as may travel together, again and again."""
    rest = iter(many)
    while part := list(itertools.islice(rest, MANY_MAX)):
        yield part


def all_of(made: Sequence[BatchItem[T] | Command[T]]) -> Plan[list[T]]:
    """The answers to all of some calls, or the first error, once all have been answered."""
    answers = yield made
    return [command.unwrap(answer) for answer in answers]


def check_unconfirmed(min_replicas: int | None, fsync: bool | None) -> None:
    """UsageError if what goes into a caller's MULTI is to be confirmed: only the caller can, once it was executed."""
    if min_replicas or fsync:
        raise UsageError("min_replicas and fsync do not go with pipeline: WAIT must follow the caller's own EXEC")


def enqueue(pipeline: Pipeline, call: BatchItem[Any], settings: Settings) -> None:
    """Put a call into a caller's own MULTI, with the script before it: NOSCRIPT there would drop just our part."""
    [joined] = batching.join([call], settings)
    pipeline.execute_command("SCRIPT LOAD", call.script.source)
    pipeline.execute_command("EVALSHA", *map(to_bytes, joined.command[1:]))


def create_promise(
    keys: Keyspace, id: str, *, timeout: Duration | datetime | None, timer: bool, call: str, settings: Settings
) -> BatchItem[Created]:
    """Make a bare promise; its timeout rejects it (``timedout``), or resolves it if it is a timer."""
    if timer and timeout is None:
        raise UsageError(f"timer {id!r} needs a timeout: it is what a timer resolves at")
    deadline: Due | None = None
    if timeout is not None:
        deadline = due_at(timeout) if isinstance(timeout, datetime) else due_in(timeout, "timeout")
    return promises.create(
        keys,
        check_new_id(id),
        kind=Kind.TIMER if timer else Kind.PROMISE,
        deadline=deadline,
        call=call,
        retention_ms=retention_ms(settings.retention),
    )


def settle(keys: Keyspace, id: str, state: State, payload: bytes) -> BatchItem[Settled]:
    """Resolve, reject or cancel a promise."""
    return promises.settle(keys, check_id(id), state, payload)


def steer(
    keys: Keyspace, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = ""
) -> Plan[Controlled]:
    """``wake``, ``reschedule``, ``cancel``, ``force``, ``halt``, ``resume`` or ``retry``.

    An execution that sleeps stands for the only timer it waits for. That timer is then steered by its own id,
    so that a call repeated after a lost answer never ends the next sleep as well.
    """
    when = None if due is None else due_at(due) if isinstance(due, datetime) else due_in(due)
    [answer] = yield [promises.control(keys, action, check_id(id), due=when, reason=reason)]
    controlled = command.unwrap(answer)
    while controlled.word == "closing":  # a long journal is forgotten in parts
        [answer] = yield [promises.control(keys, action, PromiseId(id))]
        controlled = command.unwrap(answer)
    if controlled.word != "asleep":
        return controlled
    loaded = yield from journal.load(keys, PromiseId(id))
    if loaded is None or loaded.record.place is not Place.SUSPENDED:
        return Controlled("already", loaded.record.state if loaded else controlled.state)
    sleeps = [one for one in _waiting_on(loaded) if one.kind == Kind.TIMER]
    if len(sleeps) != 1:
        raise NotAllowed(f"{id} {_describe_sleeps(sleeps)}")
    [answer] = yield [promises.control(keys, action, PromiseId(sleeps[0].id), due=when, reason=reason)]
    return command.unwrap(answer)


def _describe_sleeps(sleeps: list[Pending]) -> str:
    if not sleeps:
        return "waits for no timer of its own"
    names = [f"{one.id} ({one.name})" if one.name else one.id for one in sleeps[:NAMED_MAX]]
    more = len(sleeps) - len(names)
    return f"waits for {len(sleeps)} timers, name one: {', '.join(names)}{f' and {more} more' if more else ''}"


def ending_of_created(id: PromiseId, created: Created) -> PromiseStatus:
    return PromiseStatus(id, created.state, created.value)


def attach_from(
    keys: Keyspace, ids: Sequence[PromiseId], inbox: str
) -> Plan[tuple[bytes, list[Created | DurasleepError]]]:
    """The entry of an inbox from which on it tells of some promises, and how each of them stands."""
    last, *created = yield [
        streams.read_end(keys.inbox(inbox).encode()),
        *(promises.attach(keys, id, inbox=inbox) for id in ids),
    ]
    return command.unwrap(last), created


def status(keys: Keyspace, id: PromiseId) -> Plan[PromiseStatus]:
    """How a promise stands; NotFound if there is none."""
    [record] = yield [journal.read_outcome(keys, id)]
    if command.unwrap(record) is not None:
        return PromiseStatus(id, record.state, record.value)
    owner, entry = yield from _entry(keys, id)
    return PromiseStatus(id, _state_of(entry, owner), entry.payload)


def _entry(keys: Keyspace, id: PromiseId) -> Plan[tuple[Loaded, Entry]]:
    """The journal entry a promise is, and whose; NotFound if there is none."""
    where = owner_of(id)
    owner = (yield from journal.load(keys, where[0])) if where else None
    entry = owner.entries.get(where[1]) if where and owner else None
    if owner is None or entry is None:
        raise NotFound(f"there is no promise {id}")
    return owner, entry


def _state_of(entry: Entry, owner: Loaded) -> State:
    """What was pending when its owner ended has ended with it."""
    is_left = entry.state is State.PENDING and owner.record.state is not State.PENDING
    return State.CANCELED if is_left else entry.state


def result_of(ending: PromiseStatus, codec: Codec, hint: Any = Any) -> Any:
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


def holders(keys: Keyspace, records: Sequence[PromiseRecord]) -> Plan[list[str | None]]:
    """Which worker runs each, None for those that run nowhere."""
    queued = [record for record in records if record.place is Place.QUEUED and record.entry]
    answers = (yield [streams.read_holder(keys, record.queue, record.entry) for record in queued]) if queued else []
    found = {
        record.id: holder.partition("/")[0]
        for record, holder in zip(queued, answers, strict=True)
        if isinstance(holder, str)  # else nobody has ever served its group
    }
    return [found.get(record.id) for record in records]


def status_of(record: PromiseRecord, worker: str | None) -> str:
    """Where it is, in one word: its place, or ``running`` on a worker, or ``done``."""
    if record.state is not State.PENDING:
        return "done"
    if record.place is Place.QUEUED:
        return "running" if worker else "queued"
    return record.place.value if record.place else "suspended"


def describe(keys: Keyspace, id: PromiseId, codec: Codec) -> Plan[Description]:
    """Everything there is to see of a promise; NotFound if there is none."""
    loaded = yield from journal.load(keys, id)
    if loaded is None:
        owner, entry = yield from _entry(keys, id)
        return _describe_entry(id, entry, owner, codec)
    [worker] = yield from holders(keys, [loaded.record])
    halted_ms = 0
    if loaded.record.place is Place.HALTED:
        [answer] = yield [journal.read_halted_at(keys, id)]
        halted_ms = command.unwrap(answer) or 0
    found = _describe(loaded, worker, halted_ms, codec)
    if loaded.record.place is Place.SUSPENDED and (circle := (yield from find_circle(keys, loaded))):
        found = dataclasses.replace(found, reason=describe_circle(circle))
    return found


def export(keys: Keyspace, id: PromiseId) -> Plan[Recording]:
    """An execution with its journal, to be kept in a file or replayed; NotFound if there is none."""
    loaded = yield from journal.load(keys, id)
    if loaded is None or loaded.record.kind is not Kind.EXECUTION:
        raise NotFound(f"there is no execution {id}")
    record = loaded.record
    return Recording(
        id=record.id,
        function=record.function,
        group=record.queue.partition("/")[0],
        state=record.state,
        incarnation=record.incarnation,
        created_ms=record.created_ms,
        begun_ms=record.begun_ms,
        base=record.base,
        args=record.args,
        value=record.value,
        unseen=record.unseen,
        entries=tuple(loaded.entries.values()),
    )


def _describe(loaded: Loaded, worker: str | None, halted_ms: int, codec: Codec) -> Description:
    """An execution or a bare promise, as it is kept."""
    record = loaded.record
    is_execution = record.kind is Kind.EXECUTION
    args, kwargs = _arguments(record, codec) if is_execution else (None, None)
    waiting_on = _waiting_on(loaded)
    return Description(
        id=record.id,
        kind=record.kind.value,
        state=record.state.value,
        status=status_of(record, worker),
        func=record.function if is_execution else None,
        group=record.queue.partition("/")[0] if is_execution else None,
        created_at_ms=record.created_ms,
        timeout_at_ms=record.deadline_ms or None,
        settled_at_ms=record.settled_ms or None,
        value=codec.decode(record.value) if record.state is State.RESOLVED else None,
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
    )


def _since_ms(record: PromiseRecord, waiting_on: list[Pending]) -> int:
    """Queued since its entry was added; else since the last that settled for it, or that it asked for."""
    if record.entry:
        return int(record.entry.partition("-")[0])
    return max(record.created_ms, record.begun_ms, record.order, *[one.since_ms for one in waiting_on])


def _arguments(record: PromiseRecord, codec: Codec) -> tuple[list[Any] | None, dict[str, Any] | None]:
    try:
        args, kwargs = codec.decode(record.args)
    except (DurasleepError, TypeError, ValueError):
        return None, None
    return args, kwargs


def _traceback(error: Exception) -> str | None:
    """Where it was raised; of what a child has raised, where that was awaited, and then where it was raised."""
    own = [error.remote_traceback] if isinstance(error, RemoteError) and error.remote_traceback else []
    notes = [note.removeprefix(RAISED_THERE) for note in getattr(error, "__notes__", ()) if RAISED_THERE in note]
    return "\n".join([*own, *notes]) or None


def _describe_entry(id: PromiseId, entry: Entry, owner: Loaded, codec: Codec) -> Description:
    """A promise that is an entry of its owner's journal."""
    state = _state_of(entry, owner)
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
        value=codec.decode(entry.payload) if state is State.RESOLVED and entry.payload else None,
        error=error_text(state, entry.payload, codec),
        reason=None,
        worker=None,
        crash_count=0,
        waiting_on=[],
        failed_attempts=[],
        since_ms=entry.stamp or _began_ms(entry, owner.record),
        traceback=_traceback(codec.decode_error(entry.payload)) if state is State.REJECTED else None,
        args=None,
        kwargs=None,
    )


def _began_ms(entry: Entry, owner: PromiseRecord) -> int:
    """When an entry of its journal was asked for; what does not say so came right after the birth."""
    return max(owner.incarnation + entry.begun_ms, owner.created_ms)


def error_text(state: State, payload: bytes, codec: Codec) -> str | None:
    """Why something failed, in a word or a sentence; None for what has not."""
    match state:
        case State.REJECTED:
            error = codec.decode_error(payload)
            return str(error) if isinstance(error, RemoteError) else error_line(error)
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
            f"{loaded.record.id}~{entry.number}",
            entry.name,
            error_text(entry.state, entry.payload, codec) or "",
            entry.stamp,
        )
        for entry in failed[-SHOWN_ATTEMPTS_MAX:]
    ]


def _waiting_on(loaded: Loaded) -> list[Pending]:
    record = loaded.record
    if record.state is not State.PENDING:
        return []
    waiting = [
        Pending(
            entry.child_id or f"{record.id}~{entry.number}",
            entry.kind.value,
            entry.name,
            entry.due_ms or None,
            _began_ms(entry, record),
        )
        for entry in loaded.entries.values()
        if entry.state is State.PENDING
    ]
    if record.place is Place.DELAYED:
        what = "retry" if record.reason else "start"
        waiting.append(Pending(f"{record.id}~{what}", "timer", what, record.due_ms or None, record.created_ms))
    return sorted(waiting, key=lambda one: (one.due_ms or float("inf"), one.id))
