"""What a client asks for, built without I/O: both clients use it."""

from __future__ import annotations

import itertools
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol, Self, TypedDict, TypeVar
from uuid import UUID

import msgspec

from durasleep.codec import Codec
from durasleep.errors import (
    DurasleepError,
    InvalidId,
    UsageError,
)
from durasleep.model import (
    Due,
    Duration,
    Kind,
    PromiseId,
    State,
    check_id,
    check_new_id,
    check_time_left,
    due_at,
    due_in,
    parse_target,
    retention_ms,
)
from durasleep.protocol import command, promises, script, streams
from durasleep.protocol.command import BatchItem, Command, Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created, Settled
from durasleep.query.status import PromiseStatus
from durasleep.settings import Settings
from durasleep.transport import batching

T = TypeVar("T")

_MANY_MAX = 1_024  # calls on their way at a time
CLOSED = "the client was closed while this was waited for; what was started goes on"

# Not the generator that all of a program shares: two that seeded it alike, or a child and its parent, would take one
# another's calls for their own.
_chance = random.Random()


class IdSource:
    """Ids that nobody else has: one for a client's inbox, and an idempotency key for each call that it makes.

    They are short, because every promise keeps the key of the call that made it and the id of each inbox that waits.
    """

    def __init__(self) -> None:
        self.inbox = secrets.token_urlsafe(6)

    def idempotency_key(self) -> str:
        """The key of one more call. A repeated call has the same key: so it is known by the promise it has made.

        It is compared only with the keys of other calls for the same id.
        """
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
    """What makes calls of one function, each of an id, its arguments and its idempotency key.

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

    def rpc(id: str, args: bytes, idempotency_key: str) -> BatchItem[Created]:
        return make(check_new_id(id), args, idempotency_key)

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
    while part := list(itertools.islice(rest, _MANY_MAX)):
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
    """Put a call into a caller's own MULTI."""
    [joined] = batching.join([call], settings)
    for words in script.in_multi(call.script, joined.command):
        pipeline.execute_command(*words)


def create_promise(
    keys: Keyspace,
    id: str,
    *,
    timeout: Duration | datetime | None,
    timer: bool,
    idempotency_key: str,
    settings: Settings,
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
        idempotency_key=idempotency_key,
        retention_ms=retention_ms(settings.retention),
    )


def settle(keys: Keyspace, id: str, state: State, payload: bytes) -> BatchItem[Settled]:
    """Resolve, reject or cancel a promise."""
    return promises.settle(keys, check_id(id), state, payload)


def status_of_created(id: PromiseId, created: Created) -> PromiseStatus:
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
