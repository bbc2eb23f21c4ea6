"""The words of the design as types: states, kinds, ids, entries, and what an activation asks of its commit.

The records are frozen and only read and check themselves. Every layer may import this one.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, NewType

import msgspec

from durasleep.errors import CorruptData, InvalidDuration, InvalidId, UsageError

PromiseId = NewType("PromiseId", str)
"""The id of anything awaitable: ``order-42``, ``order-42~3``, ``order-42~2.1``."""

Number = NewType("Number", str)
"""The number of an entry in its journal: ``3``, or ``2.1`` for the first entry of the second task."""

Due = NewType("Due", str)
"""When something falls due: ``+5000`` (ms from the server's now) or ``=1893456000000`` (ms since 1970)."""

_ID_BYTES_MAX = 512  # of an id that a caller gives; ids below it, made by workflows, may be longer
PAYLOAD_BYTES_MAX = 1 << 20  # by default: a field of megabytes blocks Redis for everyone
INBOX_TTL_MS = 90_000  # after this time without its reader, an inbox is gone
DUE_MS_MAX = 253_402_300_799_000  # the end of year 9999, the last instant datetime can show
PRIORITIES = (1, 2, 3, 4, 5)
"""1 is the first."""
PRIORITY = 3
"""The one that most have."""
_NOT_OF_GROUP = re.compile("[/!]")  # what follows the group in the name of a queue
_LABEL_MAX = 255  # characters of a name that is only shown
SHOWN_MAX = 100  # characters of a value in a message
_NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # braces would break hash tags
RECEIVES_MAX = 256  # that wait in one execution
CANCEL = Number("0")  # the journal entry of a cancel

_MS = Fraction(1, 1000)
KEPT_FOR_EVER = -1  # instead of a retention in ms

Duration = float | timedelta | str
"""Seconds, a timedelta, or text with units: ``"30s"``, ``"1h30m"``, ``"2d"``, ``"500ms"``."""

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN_ID = re.compile(rf"[ -}}]{{1,{_ID_BYTES_MAX}}}")  # nearly every id: ASCII before '~'


class State(StrEnum):
    """The state of a promise; all except ``pending`` are final."""

    PENDING = "pending"
    RESOLVED = "resolved"
    REJECTED = "rejected"
    CANCELED = "canceled"
    TIMEDOUT = "timedout"


class Place(StrEnum):
    """The one place a pending execution is in (law 2)."""

    QUEUED = "queued"
    SUSPENDED = "suspended"
    DELAYED = "delayed"
    HALTED = "halted"
    PARKED = "parked"


class Kind(StrEnum):
    """The kind of a promise, or of a journal entry."""

    EXECUTION = "execution"
    PROMISE = "promise"
    TIMER = "timer"
    STEP = "step"
    CHILD = "child"
    TRANSACTION = "transaction"
    CANCEL = "cancel"
    DETACHED = "detached"
    PATCH = "patch"
    VERSION = "version"
    RECEIVE = "receive"
    SEND = "send"
    SETTLE = "settle"


MARKS = (Kind.PATCH, Kind.VERSION)
"""Entries that only say which code an execution runs. They are never awaited, and settle nothing."""


class Disposition(StrEnum):
    """What ``create`` found under its id."""

    CREATED = "created"
    ATTACHED = "attached"
    FINISHED = "finished"
    DROPPED = "dropped"
    DEBOUNCED = "debounced"


class Delivery(StrEnum):
    """What has become of a message."""

    DELIVERED = "delivered"
    """The execution waited for it."""
    STORED = "stored"
    """It is in the mailbox of the execution, until its code asks for it."""
    DUPLICATE = "duplicate"
    """Another call has sent a message with the same key: this one was not sent."""


_DELIVERIES = {b"d": Delivery.DELIVERED, b"s": Delivery.STORED}


def delivery_of(letter: bytes) -> Delivery:
    """What the entry of a message says of it; CorruptData for anything else."""
    try:
        return _DELIVERIES[letter]
    except KeyError:
        raise CorruptData(f"{letter[:20]!r} does not say what has become of a message") from None


class CommitAction(StrEnum):
    """How an activation ends, or goes on, after its commit."""

    CONTINUE = "continue"
    SUSPEND = "suspend"
    RESOLVE = "resolve"
    REJECT = "reject"
    CANCEL = "cancel"
    RETRY = "retry"
    DEFER = "defer"
    HALT = "halt"
    CONTINUE_AS_NEW = "continue_as_new"
    DROP = "drop"


class Entry(msgspec.Struct, frozen=True):
    """One entry of a journal: the durable call with this ``number``, and its result."""

    number: Number
    kind: Kind
    """What was called."""
    state: State
    """``pending``, or how it settled."""
    name: str = ""
    """The name of the function, or the name that the workflow gave the call."""
    stamp: int = 0
    """Order stamp of its settlement, in ms; 0 while pending, and if the workflow itself canceled it."""
    due_ms: int = 0
    """For a pending timer, or a pending promise with a timeout: its due time; 0 for never."""
    child_id: str = ""
    """For a child with an id of its own: that id."""
    payload: bytes = b""
    """Its result or error; empty while pending."""
    begun_ms: int = 0
    """When the call was made, in ms since the creation of its execution; 0 for the first second, or if not known."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An execution with its journal, as it was when it was read."""

    id: PromiseId
    """Its id."""
    function: str
    """The name of its function."""
    group: str
    """The group whose workers run it."""
    state: State
    """Its state."""
    incarnation: int
    """The stamp of its creation, which tells it from others under the same id."""
    created_ms: int
    """When it was created, in ms since 1970."""
    begun_ms: int
    """When its present run began, in ms since 1970."""
    base: int
    """The last entry number of its earlier runs; 0 in the first run."""
    args: bytes
    """The payload of its arguments."""
    value: bytes
    """The payload of its result or error; empty if there is none."""
    unseen: frozenset[str]
    """The numbers of the entries that have settled since its last commit."""
    entries: tuple[Entry, ...]
    """Its journal."""
    origins: str = ""
    """Of a fork: whose journal it has, up to which stamps; lines of a stamp, an incarnation and an id."""
    priority: int = PRIORITY
    """From 1, which comes first, to 5."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names and values by which people find it."""


class StartTimer(msgspec.Struct, frozen=True):
    number: Number
    name: str
    due: Due


class StartPromise(msgspec.Struct, frozen=True):
    number: Number
    name: str
    due: Due | None


class StartChild(msgspec.Struct, frozen=True):
    number: Number
    function: str
    args: bytes
    queue: str | None
    """Where it runs (see ``Target.queue``); None for the queue of the parent."""
    due: Due | None
    """Its deadline, if it has one."""
    child_id: PromiseId | None
    """An id of its own, or None for ``<owner>~<number>``. With its own id it outlives its parent."""
    detached: bool = False
    """The parent does not wait for it: its entry settles when it has been started. It needs an id of its own."""
    retention_ms: int | None = None
    """How long it is kept after its end; it may be ``KEPT_FOR_EVER``. None is as long as the family of its parent. A
    child without an id of its own has none, because it is kept with that family."""
    start: Due | None = None
    """When it starts, if not at once."""
    traits: str = ""
    """See ``durasleep.traits``: ``Traits.words``."""
    trace: str = ""
    """The span that asks for it, see ``observe.tracing``."""


class StepResult(msgspec.Struct, frozen=True):
    number: Number
    name: str
    state: State
    payload: bytes
    begun_ms: int = 0
    """When it began, see ``Entry.begun_ms``."""
    is_retried: bool = False
    """Whether another attempt follows."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What the step whose first attempt is ``number`` finds at its next attempt; empty if that is nothing any more.

    It is in a commit behind the result of an attempt.
    """

    number: Number
    payload: bytes = b""


class CancelEntry(msgspec.Struct, frozen=True):
    """The workflow itself has canceled entry ``number``: a tombstone is left, and nothing is delivered.

    Kind and name are those of the call, because a running step has no entry yet.
    """

    number: Number
    kind: Kind
    name: str


class Transaction(msgspec.Struct, frozen=True):
    """Redis commands that the commit script executes, together with their journal entry."""

    number: Number
    commands: tuple[tuple[bytes, ...], ...]


class StartReceive(msgspec.Struct, frozen=True):
    """Take the oldest unread message of this channel, or wait for the next one."""

    number: Number
    name: str
    due: Due | None
    """How long it waits at most."""


class SendMessage(msgspec.Struct, frozen=True):
    """A message for the mailbox of an execution. The entry settles in the same commit, if that is in this partition."""

    number: Number
    name: str
    """The channel."""
    target: PromiseId
    payload: bytes


class SettlePromise(msgspec.Struct, frozen=True):
    """Settle a promise of anybody."""

    number: Number
    target: PromiseId
    state: State
    payload: bytes


class Publish(msgspec.Struct, frozen=True):
    """All that the workflow publishes from now on, as one map; or what a step or task has published last. It is no
    entry of the journal.
    """

    payload: bytes
    step: str | None = None
    """The number of the first attempt of a step, empty for a task; None for the workflow."""
    number: Number = Number(f"{CANCEL}.0")
    """No entry has it."""


class TracePoint(msgspec.Struct, frozen=True):
    """The span under which the next activations stand. It is no entry of the journal."""

    context: str
    """See ``observe.tracing``."""
    is_later: bool
    """Whether it is not the first one of its execution."""
    number: Number = Number(f"{CANCEL}.0")
    """No entry has it."""


class Mark(msgspec.Struct, frozen=True):
    """A note in the journal about the code of this execution: a change that it knows, or the version it began with."""

    number: Number
    kind: Kind
    name: str


Op = (
    StartTimer
    | StartPromise
    | StartChild
    | StepResult
    | CancelEntry
    | Transaction
    | Mark
    | Checkpoint
    | StartReceive
    | SendMessage
    | SettlePromise
    | Publish
    | TracePoint
)
"""One thing that an activation asks of its commit. Each has a number, so that repeating it changes nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an execution runs: any worker of a group, or one of them."""

    group: str
    """The name of the group."""
    worker: str | None = None
    """The name of the only worker that may run it; None for any worker of the group."""

    @property
    def queue(self) -> str:
        """The name of its stream: ``<group>`` or ``<group>/<worker>``."""
        return self.group if self.worker is None else f"{self.group}/{self.worker}"

    def __str__(self) -> str:
        kind = "any" if self.worker is None else "uni"
        return f"poll://{kind}@{self.queue}"


def group_of(queue: str) -> str:
    """The group whose workers read a queue."""
    return _NOT_OF_GROUP.split(queue, maxsplit=1)[0]


def worker_of(queue: str) -> str | None:
    """The name of the only worker that reads a queue; None if any worker of its group does."""
    return queue.partition("/")[2] or None


def priority_of(queue: str) -> int:
    """The priority of what waits in a queue."""
    return int(queue.rpartition("!")[2]) if "!" in queue else PRIORITY


def levels_of(group: str) -> tuple[str, ...]:
    """The queues of a group, one for each priority, the first first."""
    return tuple(group if level == PRIORITY else f"{group}!{level}" for level in PRIORITIES)


def parse_target(text: str) -> Target:
    """Read ``poll://any@<group>``, ``poll://uni@<group>/<worker>`` or a bare group name; InvalidId otherwise."""
    match = re.fullmatch(r"poll://(any|uni)@([^/]*)(?:/(.*))?", text, re.DOTALL)
    if match is None and "://" not in text:
        return Target(check_name(text, "group"))
    kind, group, worker = match.groups() if match else ("", "", None)
    if not kind or (kind == "uni") != (worker is not None):
        raise InvalidId(f"target {text!r}: write poll://any@<group> or poll://uni@<group>/<worker>")
    return Target(check_name(group, "group"), None if worker is None else check_name(worker, "worker"))


def check_name(name: str, what: str) -> str:
    """Return the name of a namespace, group, worker or schedule, or raise InvalidId."""
    if not isinstance(name, str) or not _NAME_PATTERN.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidId(f"{what} name {name!r}: use 1 to 64 letters, digits, '_', '.' or '-'")
    return name


def check_label(label: str) -> str:
    """Return the name of a timer or promise, which is only shown to people, or raise InvalidId."""
    if label and (len(label) > _LABEL_MAX or _CONTROL.search(label)):
        raise InvalidId(f"name {label!r}: use at most {_LABEL_MAX} characters, none of them a control character")
    return label


def check_by(by: str) -> str:
    """Return the name of a person or program for the audit, or raise InvalidId."""
    if not by.strip() or len(by) > _LABEL_MAX or _CONTROL.search(by):
        raise InvalidId(f"by {by!r}: use 1 to {_LABEL_MAX} characters, none of them a control character")
    return by


def check_new_id(id: str) -> PromiseId:
    """Return an id for something new, or raise InvalidId; ``~`` is reserved for the promises that workflows make."""
    if _PLAIN_ID.fullmatch(id):
        return PromiseId(id)
    if "~" in id:
        raise InvalidId(f"id {id!r}: '~' is reserved for the promises a workflow makes")
    return check_id(id)


def check_message_key(key: str) -> str:
    """Return the idempotency key of a message, or raise InvalidId."""
    if not isinstance(key, str) or not 1 <= len(key) <= _LABEL_MAX or _CONTROL.search(key):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidId(f"key {shown(key)}: use 1 to {_LABEL_MAX} characters, none of them a control character")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidId(f"key {shown(key)}: it is not valid Unicode") from None
    return key


def check_key_name(name: str) -> str:
    """Return the name of a key beside an execution, or raise UsageError: the empty one names none."""
    if not name:
        raise UsageError("a key has a name: ctx.key('counter')")
    return name


def check_id(id: str) -> PromiseId:
    """Return an id of something that may exist, or raise InvalidId."""
    try:
        size = len(root_of(id).encode())
    except UnicodeEncodeError:
        raise InvalidId(f"id {id!r}: it is not valid Unicode") from None
    if id and not size:
        raise InvalidId(f"id {id!r}: the id of an execution stands before the first '~', and here is none")
    if not 1 <= size <= _ID_BYTES_MAX:
        raise InvalidId(f"an id has 1 to {_ID_BYTES_MAX} bytes, this one has {size}")
    if _CONTROL.search(id):
        raise InvalidId(f"id {id!r}: control characters cannot be used")
    return PromiseId(id)


def root_of(id: str) -> PromiseId:
    """The execution at the root of a family: the part before the first ``~``."""
    return PromiseId(id.partition("~")[0]) if "~" in id else id  # pyright: ignore[reportReturnType] - see ``due_in``


def scheduled_at(id: str) -> datetime | None:
    """The time of a schedule's line for which it has started an execution with the id ``<name>@<time>``; None for an id
    of another form.
    """
    name, _, time = id.rpartition("@")
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return None
    return at if name and at.tzinfo is not None else None


def owner_of(id: str) -> tuple[PromiseId, Number] | None:
    """The execution whose journal holds this promise, and its number there; None for a root."""
    owner, mark, number = id.rpartition("~")
    return (PromiseId(owner), Number(number)) if mark else None


def parse_duration(text: str, what: str = "") -> timedelta:
    """The duration that a text with units means; InvalidDuration for any other text."""
    if not text or _DURATION_PART.sub("", text):
        raise InvalidDuration(f"{what} {text!r} is not a duration: write 30s, 5m, 1h30m, 2d or 500ms".lstrip())
    try:
        return timedelta(seconds=sum(float(n) * _DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(text)))
    except OverflowError:
        raise InvalidDuration(f"{what} {text!r} is too long: no calendar reaches so far".lstrip()) from None


def seconds_of(duration: Duration, what: str = "timeout") -> float:
    """Seconds of a wait in this process; a negative wait ends at once. InvalidDuration if it is no duration."""
    if isinstance(duration, str):
        duration = parse_duration(duration, what)
    number = duration.total_seconds() if isinstance(duration, timedelta) else plain_number(duration)
    try:
        seconds = math.nan if number is None else float(number)
    except OverflowError:
        return math.inf
    if math.isnan(seconds):
        raise InvalidDuration(f"{what} {shown(duration)}: give seconds as a number, a timedelta, or text such as '30s'")
    return seconds


def retention_ms(retention: Duration, what: str = "retention") -> int:
    """How long a finished execution is kept: whole milliseconds, or ``KEPT_FOR_EVER`` for ``"forever"``."""
    return KEPT_FOR_EVER if retention == "forever" else duration_ms(retention, what)


def duration_ms(duration: Duration, what: str = "duration") -> int:
    """Whole milliseconds, rounded up so that nothing is early; InvalidDuration for a negative or infinite one.

    Seconds may be any number: an int, a float, a Decimal, a Fraction or a number of numpy, but not a bool.
    """
    seconds: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if type(seconds) not in (int, float):
        if isinstance(seconds, str):
            return duration_ms(parse_duration(seconds, what), what)
        return _ms_of_number(seconds, what)
    if not 0 <= seconds < math.inf:  # nan is neither
        raise _no_duration(duration, what)
    if seconds >= DUE_MS_MAX // 1000:
        return DUE_MS_MAX
    ms = seconds * 1000
    whole = int(ms)
    return whole if whole == ms else math.ceil(round(ms, 3))


def _ms_of_number(seconds: object, what: str) -> int:
    """As ``duration_ms``, for a number whose type is neither int nor float."""
    number = plain_number(seconds)
    if number is None:
        raise InvalidDuration(f"{what} {shown(seconds)}: give seconds as a number, a timedelta, or text such as '30s'")
    if not isinstance(number, Decimal | Fraction):
        return duration_ms(number, what)
    if (isinstance(number, Decimal) and not number.is_finite()) or number < 0:
        raise _no_duration(seconds, what)
    if number >= DUE_MS_MAX // 1000:  # checked before it becomes a Fraction, because its exponent may be huge
        return DUE_MS_MAX
    if number < _MS:
        return 1 if number else 0
    return math.ceil(Fraction(number) * 1000)


def plain_number(value: object) -> int | float | Decimal | Fraction | None:
    """A number as one of Python's own types, without loss; None for a bool, and for a value that is no number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal | Fraction):
        return value
    try:
        if isinstance(value, numbers.Integral):
            return operator.index(value)
        return float(value) if isinstance(value, numbers.Real) else None
    except (TypeError, OverflowError):  # numpy claims that a timedelta is a number
        return None


def _no_duration(duration: object, what: str) -> InvalidDuration:
    return InvalidDuration(f"{what} {shown(duration)}: it must be finite and not negative")


def shown(value: object) -> str:
    """A value as messages show it, even if its ``repr`` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of thousands of digits has no text, and other types may raise
        return f"of type {type(value).__name__}"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def due_in(duration: Duration, what: str = "duration") -> Due:
    """A due time, counted from the server's now."""
    return f"+{duration_ms(duration, what)}"  # pyright: ignore[reportReturnType] - hot: calling a NewType costs 0.1 µs


def check_time_left(start: Due | None, deadline: Due | None) -> None:
    """UsageError for a deadline that passes before a delayed start; both count from now."""
    if start is None or deadline is None or not start.startswith("+") or not deadline.startswith("+"):
        return
    delay_ms, timeout_ms = int(start), int(deadline)
    if 0 < delay_ms >= timeout_ms:
        raise UsageError(
            f"delay {delay_ms / 1000:g} s, timeout {timeout_ms / 1000:g} s: the timeout counts from the call, not from "
            "the start, so it would pass before the start; give a longer timeout"
        )


def due_at(instant: datetime) -> Due:
    """Due at an instant; InvalidDuration for a naive datetime, whose time zone is not known."""
    if not isinstance(instant, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidDuration(f"{shown(instant)} is not an instant: use an aware datetime, such as datetime.now(UTC)")
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidDuration(f"{instant!r} has no time zone: use an aware datetime, such as datetime.now(UTC)")
    return Due(f"={min(max(0, math.ceil(round(instant.timestamp() * 1000, 3))), DUE_MS_MAX)}")
