"""The requests of a client, built without I/O. The async and the sync client both use them."""

from __future__ import annotations

import getpass
import itertools
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, Self, TypedDict, TypeVar, cast
from uuid import UUID

import msgspec

from durasleep.codec import Codec
from durasleep.errors import (
    DurasleepError,
    InvalidId,
    UsageError,
)
from durasleep.limit import PARKED_MAX, Limit, check_count, check_weight, parse_rate
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
    duration_ms,
    parse_target,
    retention_ms,
)
from durasleep.protocol import command, promises, script, streams, view
from durasleep.protocol.command import BatchItem, Command, Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created, Settled
from durasleep.protocol.view import RawView
from durasleep.query.status import PromiseStatus
from durasleep.settings import Settings
from durasleep.traits import Traits, check_labels, check_limit_key, check_priority
from durasleep.transport import batching

T = TypeVar("T")

DEBOUNCED_TIMES = 10  # of its duration, a call is put off by later ones, if nothing else is said
_BY_MAX = 128  # characters of a user and a host
_MANY_MAX = 1_024  # calls in flight at a time
CLOSED = "the client was closed during this wait; the execution goes on"

# A generator of its own, not the one that the whole program shares. Two programs that seed the shared one alike, or a
# child and its parent, would make the same keys, and each would take the other's calls for its own.
_chance = random.Random()
os.register_at_fork(after_in_child=_chance.seed)


_CALL_KEY_MAX = 12  # each promise keeps it


class IdSource:
    """Ids that nobody else has: one for a client's inbox, and an idempotency key for each call that it makes.

    They are short, because every promise keeps the key of the call that made it and the id of each inbox that waits.
    """

    def __init__(self) -> None:
        self.inbox = secrets.token_urlsafe(6)

    def idempotency_key(self) -> str:
        """The key of one more call. A repeated call has the same key, so the promise that it made recognizes it.

        It is compared only with the keys of other calls for the same id.
        """
        return str(_chance.getrandbits(31))


def call_key(unique: str) -> str:
    """The idempotency key of a call that its caller may repeat, who has a text for it that nobody else has."""
    return unique[:_CALL_KEY_MAX]


def new_id(tag: str = "", unique: str = "") -> str:
    """An id that nobody else has, a UUID of version 7: later ids sort behind, to a quarter of a microsecond. All with
    the same ``tag`` are in one partition. ``unique`` is what stands instead of the UUID.
    """
    if unique:
        return f"{{{tag}}}{unique}" if tag else unique
    ms, ns = divmod(time.time_ns(), 1_000_000)
    fraction = ns * 4096 // 1_000_000
    id = str(UUID(int=ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)))
    return f"{{{tag}}}{id}" if tag else id


def user_and_host() -> str:
    """Who uses this machine, for people, if nobody has said so."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no such user
        user = "somebody"
    return f"{user}@{socket.gethostname()}".encode("ascii", "replace").decode()[:_BY_MAX]


class Pipeline(Protocol):
    """The part of a redis-py pipeline, async or sync, that we use."""

    def execute_command(self, *args: Any, **options: Any) -> Any: ...


class Options(TypedDict, total=False):
    """The options of a call, apart from the arguments of its function. None means that an option is left out."""

    target: str | None
    """Who runs it: any worker of a group, ``"gpu"`` or ``"poll://any@gpu"``, or one worker of it by its name,
    ``"poll://uni@gpu/w1"``. By default the group of the application or client."""
    timeout: Duration | None
    """The deadline of the execution, from now: seconds, a timedelta, or text such as ``"1h30m"``. At the deadline it
    becomes ``timedout``, whatever it does. By default there is none."""
    delay: Duration | datetime | None
    """It starts after this time (written as for ``timeout``), or at an aware datetime. The deadline still counts from
    now, so a timeout that is not longer than the delay is refused."""
    retention: Duration | None
    """How long it is kept after its end, so that a repeated call finds its result: written as for ``timeout``, or
    ``"forever"``. All of its family is kept as long. So is an execution that it starts under an id of its own, unless
    that one is given another retention. By default as in the settings."""
    priority: int | None
    """From 1, which comes first, to 5; by default that of its function, or 3. Its children have the same, if nothing
    else is said for them. Only work that any worker of a group may run has a priority."""
    key: str | None
    """For whom it is, where the limit of its function counts by key; by default what the function makes of its
    arguments."""
    labels: Mapping[str, str] | None
    """Names and values by which people find it, at most 8: ``{"customer": "7"}``. Its children have them, too."""
    if_finished: Literal["attach", "start"] | None
    """If the execution of this id has ended: ``"attach"``, the default, answers its result, ``"start"`` starts it anew.
    """
    debounce: Duration | tuple[Duration, Duration] | None
    """It starts so long after the last of several calls under its id, with the arguments of that one; and no later than
    the second duration after the first of them, by default ten times the first duration."""
    pipeline: Pipeline | None
    """The call becomes part of the caller's own MULTI. It exists once the MULTI was executed, and the pipeline has the
    answer."""
    min_replicas: int | None
    """The call is confirmed once so many replicas have received it, else NotReplicated. By default as in the
    settings."""
    fsync: bool | None
    """The call is confirmed once it is on the disk of the server, and of these replicas, too. By default as in
    the settings."""


_NAMES_ELSEWHERE = {
    **dict.fromkeys(("countdown", "eta", "defer_by", "defer_until", "start_delay"), "delay"),
    **dict.fromkeys(("expires", "ttl", "execution_timeout"), "timeout"),
    **dict.fromkeys(("queue", "queue_name", "task_queue", "group"), "target"),
    **dict.fromkeys(("result_ttl", "keep_result", "result_expires"), "retention"),
}
"""What options are called in other systems."""
_IDS_ELSEWHERE = ("id", "task_id", "job_id", "workflow_id")
_DECLARED_ELSEWHERE = {
    **dict.fromkeys(
        (
            "max_retries",
            "autoretry_for",
            "dont_autoretry_for",
            "retry_backoff",
            "retry_backoff_max",
            "retry_jitter",
            "default_retry_delay",
            "retry_kwargs",
            "retries",
            "attempts",
            "backoff",
            "max_tries",
            "retry_policy",
        ),
        "say retry=Retry(attempts=..., retry_on=...)",
    ),
    "bind": "the function takes its own arguments only, and current() has the id and the attempt",
    "rate_limit": 'say limit=Limit("a name", rate="10/m")',
    **dict.fromkeys(("time_limit", "soft_time_limit", "job_timeout", "execution_timeout"), "say timeout="),
    **dict.fromkeys(
        ("queue", "queue_name", "task_queue", "routing_key", "group", "target"),
        "the group stands in the call, options(target=...), or is that of the application, Durasleep(group=...)",
    ),
    **dict.fromkeys(
        ("ignore_result", "store_errors_even_if_ignored", "result_ttl", "keep_result", "result_expires"),
        "every result is kept, and retention= says how long",
    ),
    **dict.fromkeys(("acks_late", "acks_on_failure_or_timeout", "reject_on_worker_lost"), "leave it out, it is so"),
    **dict.fromkeys(("expires", "ttl"), "it stands in the call, options(timeout=...)"),
    **dict.fromkeys(("countdown", "eta", "delay"), "it stands in the call, options(delay=...)"),
    **dict.fromkeys(("cron", "schedule", "every"), "put @app.cron(...) above the decorator"),
    **dict.fromkeys(("serializer", "codec"), "it is that of the application, Durasleep(codec=...)"),
    **dict.fromkeys(("labels", "key"), "it stands in the call, options(...)"),
}
"""What decorators of other systems take, and what to do here."""


def check_declared(options: Mapping[str, Any], what: str) -> None:
    """TypeError for options that ``@app.task`` or ``@app.workflow`` does not have, which says what there is instead."""
    for name in options:
        known = _DECLARED_ELSEWHERE.get(name)
        raise TypeError(f"@app.{what} has no {name!r}" + (f": {known}" if known else ""))


def call_options(options: Mapping[str, Any]) -> CallOptions:
    """These options, checked; TypeError, which says what it may be called here, for one that there is not."""
    for name in options:
        if name in CallOptions.__struct_fields__:
            continue
        if name in _IDS_ELSEWHERE:
            raise TypeError(f"options have no {name!r}: the id stands first, rpc(id, function, ...)")
        known = _NAMES_ELSEWHERE.get(name)
        hint = f"it is called {known}" if known else f"there are {', '.join(CallOptions.__struct_fields__)}"
        raise TypeError(f"options have no {name!r}: {hint}")
    return CallOptions(**options).checked()


def check_id_stands_first(id: object) -> None:
    """InvalidId for a function where the id stands: who knows other systems forgets the id."""
    if callable(id):
        name = getattr(id, "__name__", repr(id))
        raise InvalidId(
            f"{name} stands where the id does: rpc(id, {name}, ...), or start({name}, ...), which makes an id"
        )


class CallOptions(msgspec.Struct, frozen=True):
    """The options of a call as they are kept; TypeError for an unknown one."""

    target: str | None = None
    timeout: Duration | None = None
    delay: Duration | datetime | None = None
    retention: Duration | None = None
    pipeline: Pipeline | None = None
    min_replicas: int | None = None
    fsync: bool | None = None
    priority: int | None = None
    labels: Mapping[str, str] | None = None
    key: str | None = None
    if_finished: Literal["attach", "start"] | None = None
    debounce: Duration | tuple[Duration, Duration] | None = None

    def checked(self) -> Self:
        """Itself; UsageError for a value that cannot be used."""
        if self.target is not None:
            if not isinstance(self.target, str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
                raise InvalidId(f"target {self.target!r}: write poll://any@<group> or poll://uni@<group>/<worker>")
            parse_target(self.target)
        check_time_left(self.start(), self.deadline())
        if self.retention is not None:
            retention_ms(self.retention)
        if self.priority is not None:
            check_priority(self.priority)
            check_target_has_levels(self.target)
        if self.if_finished not in (None, "attach", "start"):
            raise UsageError(f"if_finished {self.if_finished!r}: use 'attach' or 'start'")
        self.mode()
        if self.key is not None:
            check_limit_key(self.key)
        if self.labels is not None:
            check_labels(self.labels)
        if self.min_replicas is not None and type(self.min_replicas) is not int:
            raise UsageError(f"min_replicas {self.min_replicas!r}: give a whole number")
        if self.fsync is not None and type(self.fsync) is not bool:
            raise UsageError(f"fsync {self.fsync!r}: say True or False")
        return self

    @property
    def has_traits(self) -> bool:
        """Whether it has any, which older versions do not know."""
        return self.priority is not None or bool(self.labels) or self.key is not None

    def mode(self) -> str:
        """See ``Traits.mode``; UsageError for durations that cannot be."""
        if self.debounce is None:
            return "s" if self.if_finished == "start" else ""
        if self.delay is not None:
            raise UsageError("debounce says when it starts: leave delay out")
        delay_ms, longest_ms = self._debounce_ms()
        if not 1 <= delay_ms <= longest_ms:
            raise UsageError(f"debounce {self.debounce!r}: give a duration, and a second one that is not shorter")
        return f"{'' if self.if_finished == 'attach' else 's'}d{longest_ms}"

    def _debounce_ms(self) -> tuple[int, int]:
        if isinstance(self.debounce, tuple):
            if len(self.debounce) != 2:  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
                raise UsageError(f"debounce {self.debounce!r}: give a duration, or two: how long, and at most how long")
            return duration_ms(self.debounce[0], "debounce"), duration_ms(self.debounce[1], "debounce")
        assert self.debounce is not None
        delay_ms = duration_ms(self.debounce, "debounce")
        return delay_ms, DEBOUNCED_TIMES * delay_ms

    def traits(self, key: str = "", weight: str = "") -> str:
        """See ``Traits.words``; ``key`` is that of the arguments."""
        mode = self.mode()
        if not (self.has_traits or key or mode):
            return ""
        return Traits(self.priority, self.key or key, weight, self.labels or {}, mode).words()

    def group(self, default: str) -> str:
        """The group whose workers run it."""
        return default if self.target is None else parse_target(self.target).group

    def start(self) -> Due | None:
        """Its start, if it is delayed."""
        if self.debounce is not None:
            return Due(f"+{self._debounce_ms()[0]}")
        if self.delay is None:
            return None
        return due_at(self.delay) if isinstance(self.delay, datetime) else due_in(self.delay, "delay")

    def deadline(self) -> Due | None:
        """Its deadline, if it has a timeout."""
        return None if self.timeout is None else due_in(self.timeout, "timeout")


def check_target_has_levels(target: str | None) -> None:
    """UsageError for a priority among what is for one worker only."""
    if target is not None and parse_target(target).worker is not None:
        raise UsageError(
            f"target {target!r}: what only one worker may run has no priority; name a group, or leave it out"
        )


def rpc_maker(
    keys_of: Callable[[str], Keyspace],
    function: str,
    options: CallOptions,
    *,
    group: str,
    inbox: Callable[[Keyspace], str],
    settings: Settings,
    limit: Limit | None = None,
    trace: str = "",
) -> Callable[[str, bytes, str, str], BatchItem[Created]]:
    """A function that makes calls of ``function``, each from an id, arguments, an idempotency key, and the key for its
    limit.

    A call starts an execution, or attaches to the one that has this id. ``inbox`` is the name of the inbox to notify in
    a partition, or empty. ``trace`` is the span of the call, see ``observe.tracing``. What all calls of one partition
    share is computed once.
    """
    start, deadline = options.start(), options.deadline()
    check_time_left(start, deadline)
    queue = parse_target(options.target or group).queue
    traits = options.traits()
    if options.retention is None:
        retention = promises.retention_of_settings(retention_ms(settings.retention))
    else:
        retention = str(retention_ms(options.retention))

    def maker(keys: Keyspace) -> Callable[[PromiseId, bytes, str, str | None], BatchItem[Created]]:
        common = promises.create(
            keys,
            PromiseId(""),
            kind=Kind.EXECUTION,
            function=function,
            queue=queue,
            start=start,
            deadline=deadline,
            inbox=inbox(keys),
            retention=retention,
            traits=traits,
            trace=trace,
        )
        return promises.create_like(common)

    makers: dict[Keyspace, Callable[[PromiseId, bytes, str, str | None], BatchItem[Created]]] = {}

    def rpc(id: str, args: bytes, idempotency_key: str, key: str = "") -> BatchItem[Created]:
        keys = keys_of(check_new_id(id))
        make = makers.get(keys)
        if make is None:
            make = makers[keys] = maker(keys)
        if limit is None:
            return make(PromiseId(id), args, idempotency_key, None)
        key = options.key or key
        return make(PromiseId(id), args, idempotency_key, options.traits(key, limit.weight_of(key)))

    return rpc


def encoder(
    codec: Codec,
    function: str,
    called: Callable[..., Any] | None,
    check: Callable[[Sequence[Any], dict[str, Any]], None] | None,
) -> Callable[[Sequence[Any]], bytes]:
    """A function that encodes arguments for many calls of ``function``; UsageError for arguments that do not fit it."""

    def encode(args: Sequence[Any]) -> bytes:
        payload = codec.encode_args(args, {}, function, called)
        if check is not None:
            check(args, {})
        return payload

    return encode


def check_numbers(name: str, numbers: Mapping[str, object], weights: Mapping[str, float | None]) -> None:
    """UsageError for numbers of a limit that cannot be, and for unknown ones."""
    for what, value in numbers.items():
        if what not in ("per_key", "total", "rate", "burst", "parked_max"):
            raise UsageError(
                f"limit {name!r} has no number {what!r}: there are per_key, total, rate, burst, parked_max"
            )
        if what == "rate" and value is not None:
            parse_rate(cast("str", value))
        elif what == "parked_max":
            check_count(f"limit {name!r}: parked_max", cast("int", value), least=0, most=PARKED_MAX)
        elif what == "burst" or (what != "rate" and value is not None):
            check_count(f"limit {name!r}: {what}", cast("int", value))
    for key, weight in weights.items():
        if weight is not None:
            check_weight(weight, check_limit_key(key))


def check_unpipelined(options: CallOptions) -> None:
    """UsageError for many calls at once in a caller's own MULTI: each of them would carry its script."""
    if options.pipeline is not None:
        raise UsageError("rpc_many takes no pipeline: call rpc for each")


def since_ms(since: Duration | datetime | None) -> int | None:
    """An instant in ms since 1970, from a time until now by our own clock; None for none."""
    if since is None:
        return None
    if isinstance(since, datetime):
        return int(due_at(since)[1:])
    return max(0, time.time_ns() // 1_000_000 - duration_ms(since, "since"))


def in_parts(many: Iterable[T]) -> Iterator[list[T]]:
    """Split ``many`` into parts that are small enough to be sent together."""
    rest = iter(many)
    while part := list(itertools.islice(rest, _MANY_MAX)):
        yield part


def all_of(made: Sequence[BatchItem[T] | Command[T]]) -> Plan[list[T]]:
    """The answers to some calls, or the first error, once all have been answered."""
    answers = yield made
    return [command.unwrap(answer) for answer in answers]


def check_sending(options: CallOptions, start: object) -> None:
    """UsageError for options that say nothing about a message: most are about how an execution begins."""
    if options.pipeline is not None:
        raise UsageError("a message cannot be sent in a pipeline: call send after its EXEC")
    if start is None and options != CallOptions(min_replicas=options.min_replicas, fsync=options.fsync):
        raise UsageError("these options say how an execution begins: give start=, too")
    if start is not None and (not isinstance(start, tuple) or not start):
        raise UsageError(f"start {start!r}: give a function and its arguments, such as (checkout, cart)")


def check_unconfirmed(min_replicas: int | None, fsync: bool | None) -> None:
    """UsageError for a call in a caller's MULTI that is to be confirmed: only the caller can do it, after EXEC."""
    if min_replicas or fsync:
        raise UsageError("min_replicas and fsync cannot be used with pipeline: WAIT must follow the caller's own EXEC")


def enqueue(pipeline: Pipeline, call: BatchItem[Any], settings: Settings, *, of_cluster: bool) -> None:
    """Add a call to a caller's own MULTI."""
    [joined] = batching.join([call], settings)
    for words in script.in_multi(call.script, joined.command, of_cluster=of_cluster):
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
        raise UsageError(f"timer {id!r} needs a timeout: a timer resolves at its timeout")
    deadline: Due | None = None
    if timeout is not None:
        deadline = due_at(timeout) if isinstance(timeout, datetime) else due_in(timeout, "timeout")
    return promises.create(
        keys,
        check_new_id(id),
        kind=Kind.TIMER if timer else Kind.PROMISE,
        deadline=deadline,
        idempotency_key=idempotency_key,
        retention=promises.retention_word(retention_ms(settings.retention)),
    )


def settle(keys: Keyspace, id: str, state: State, payload: bytes) -> BatchItem[Settled]:
    """Resolve, reject or cancel a promise."""
    return promises.settle(keys, check_id(id), state, payload)


def status_of_created(id: PromiseId, created: Created) -> PromiseStatus:
    return PromiseStatus(id, created.state, created.value)


def attach_from(
    keys: Keyspace, ids: Sequence[PromiseId], inbox: str
) -> Plan[tuple[bytes, list[Created | DurasleepError]]]:
    """The last entry of an inbox before it notifies of some promises, and the status of each promise."""
    last, *created = yield [
        streams.read_end(keys.inbox(inbox).encode()),
        *(promises.attach(keys, id, inbox=inbox) for id in ids),
    ]
    return command.unwrap(last), created


def view_from(keys: Keyspace, id: PromiseId, inbox: str) -> Plan[tuple[bytes, RawView]]:
    """The last entry of an inbox before it is notified of the next change of a view, and the view."""
    last, found = yield [streams.read_end(keys.inbox(inbox).encode()), view.read_view(keys, id, inbox=inbox)]
    return command.unwrap(last), command.unwrap(found)
