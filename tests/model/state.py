"""The data in Redis, as immutable records, as the scripts see it: a script sees one partition of it.

Instants are whole milliseconds; ids of stream entries are whole numbers that grow. Data that only people read (reasons,
arguments, the times of creation and ending) is left out.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from durasleep.model import Kind, Place, State
from durasleep.protocol import partitions
from tests.model import gate
from tests.model.gate import Limit


class Entry(NamedTuple):
    """One entry of a journal."""

    kind: Kind
    state: State = State.PENDING
    stamp: int = 0
    due: int | None = None
    name: str = ""
    child_id: str = ""
    payload: bytes = b""


class Waiter(NamedTuple):
    """The waiter of an ending: an inbox (without incarnation), or entry ``who`` of an execution of ``incarnation``."""

    who: str
    incarnation: int = 0
    is_foreign: bool = False
    """Of another partition: it stays until that has heard of the ending."""


class Message(NamedTuple):
    """An unread message; ``reply`` is the promise of its answer."""

    text: bytes
    reply: str = ""


class Line(NamedTuple):
    """What an execution of another partition was answered that has sent a message here."""

    sender: Waiter
    word: str
    """Or the letter of an error."""
    told: int | None = None
    """When it has heard it; only late copies of its question may still come."""


class Mailbox(NamedTuple):
    """The messages that an execution has not read, by channel, and the calls that have sent some."""

    unread: tuple[tuple[str, tuple[Message, ...]], ...] = ()
    keys: tuple[tuple[str, str, str, str], ...] = ()
    """The last ones, each with its channel, the call and the word it was answered."""
    calls: tuple[tuple[str, str], ...] = ()
    """Those without a key."""
    lines: tuple[Line, ...] = ()
    expires: bool = False


class Taken(NamedTuple):
    """For the laws: a message that was taken by the execution ``id``."""

    id: str
    channel: str
    text: bytes


class Promise(NamedTuple):
    """One hash: a promise or an execution, with its journal by number."""

    incarnation: int
    kind: Kind = Kind.EXECUTION
    function: str = ""
    queue: str = ""
    state: State = State.PENDING
    place: Place | None = None
    epoch: int = 0
    entry: int | None = None
    due: int | None = None
    deadline: int | None = None
    order: int = 0
    unseen: tuple[str, ...] = ()
    crash_count: int = 0
    lone_crash_count: int = 0
    lacking: tuple[str, ...] = ()
    """Sets of functions that lack its own."""
    base: int = 0
    has_family: bool = False
    waiters: tuple[Waiter, ...] = ()
    idempotency_key: str = ""
    value: bytes = b""
    retention_ms: int | None = None
    """None for the default, -1 for ever."""
    expires: bool = False
    limit: str = ""
    """"+" if it holds a slot, else "-"; then the name of its limit, "/" and its key."""
    created: int | None = None
    """When it was made, if that is not its incarnation."""
    checkpoints: tuple[tuple[str, bytes], ...] = ()
    """What its steps have kept for their next attempts, by the number of the first one."""
    is_unquoted: bool = False
    """None of its entries carries a snapshot."""
    is_being_forked: bool = False
    """It is halted only until all of another journal is there."""
    has_mailbox: bool = False
    """Also if that is empty: it was sent a message."""
    receives: tuple[tuple[str, str], ...] = ()
    """Those that wait for a message, the oldest first, each with its channel."""
    calls: tuple[str, ...] = ()
    """The last calls without a key whose messages were delivered; further ones are in its mailbox."""
    journal: tuple[tuple[str, Entry], ...] = ()

    @property
    def is_pending(self) -> bool:
        return self.state is State.PENDING


class Snapshot(NamedTuple):
    """The data of an execution in its stream entry, from its dispatch."""

    function: str
    incarnation: int
    base: int = 0
    order: int = 0
    unseen: tuple[str, ...] = ()
    journal: tuple[tuple[str, Entry], ...] = ()


class StreamEntry(NamedTuple):
    """An execution that is ready to run; ``holder`` is the consumer to which it is pending.

    The first reader may begin from its ``snapshot``; a later reader may not.
    """

    entry: int
    queue: str
    id: str
    epoch: int
    holder: str | None = None
    snapshot: Snapshot | None = None


class Declared(NamedTuple):
    """What workers have declared of a function."""

    limit: str = ""
    priority: int | None = None
    needs_key: bool = False


class Redis(NamedTuple):
    """Everything in a namespace, and the clock of its servers. ``partition_of`` says where an id belongs."""

    now: int = 0
    last_entry: int = 0
    promises: tuple[tuple[str, Promise], ...] = ()
    timers: tuple[tuple[str, int], ...] = ()
    stream: tuple[StreamEntry, ...] = ()
    """Of all queues together, in the order in which they were added."""
    beats: tuple[tuple[str, int], ...] = ()
    presence: tuple[tuple[str, str], ...] = ()
    """Workers with a recent heartbeat, and the functions they report: keys of their own, which expire."""
    halted: frozenset[str] = frozenset()
    """Executions that wait for a person, and quarantined names, as ``<where>:<what>``."""
    closing: tuple[str, ...] = ()
    schedules: tuple[tuple[str, int], ...] = ()
    inboxes: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = ()
    """Hints; ``wake`` is one, too: the last instant that the firers were told."""
    wake: int | None = None
    effects: tuple[tuple[tuple[str, int], int], ...] = ()
    """How often each transaction was carried out, by its id and the incarnation of its execution."""
    begun: tuple[tuple[str, int], ...] = ()
    """How often what another partition has asked for was begun there."""
    declared: tuple[tuple[str, Declared], ...] = ()
    limits: tuple[tuple[str, Limit], ...] = ()
    is_paused: bool = False
    """Whether the group takes no executions."""
    mail: tuple[tuple[str, Mailbox], ...] = ()
    taken: tuple[Taken, ...] = ()
    """For the laws: every message that a mailbox has taken in, in this order;"""
    been_read: tuple[Taken, ...] = ()
    """those that a run had read which has ended, in the order of its journal;"""
    unread_at_end: tuple[Taken, ...] = ()
    """and those that nobody had read at the end of an execution."""

    def promise(self, id: str) -> Promise | None:
        return next((promise for name, promise in self.promises if name == id), None)


@cache
def partition_of(id: str) -> int:
    """There are two partitions; a timer belongs to that of its id."""
    return partitions.partition_of(id, 2)


def owner_of(id: str) -> tuple[str, str] | None:
    """The part before the last ``~`` of an id or timer member, and the part after it; None for a root."""
    owner, mark, rest = id.rpartition("~")
    return (owner, rest) if mark else None


def root_of(id: str) -> str:
    return id.partition("~")[0]


# -- the same state at any time


LONG_AGO = -1_000_000
SPACE = 10
"""The distance between two neighbouring instants of a normalised state, so that new instants fit between them."""


def instants(redis: Redis) -> set[int]:
    """Every instant that may be compared with another one."""
    found = {redis.now, *(due for _, due in redis.timers), *(due for _, due in redis.schedules)}
    found.update(beat for _, beat in redis.beats)
    found.update(incarnation for (_, incarnation), _ in redis.effects)
    for _, promise in redis.promises:
        found.update(_told(promise))
        found.update(waiter.incarnation for waiter in promise.waiters)
        found.update(instant for instant in (promise.due, promise.deadline) if instant is not None)
        if promise.created is not None and _is_to_begin(promise):
            found.add(promise.created)
    for entry in redis.stream:
        if entry.snapshot:
            found.update(_told(entry.snapshot))
    for _, limit in redis.limits:
        found.update(gate.instants(limit, redis.now))
    for _, box in redis.mail:
        found.update(line.sender.incarnation for line in box.lines)
    return found


def _is_to_begin(promise: Promise) -> bool:
    """Only then it matters when it was made."""
    return promise.place is Place.DELAYED and promise.epoch == 0


def _told(of: Promise | Snapshot) -> set[int]:
    found = {of.incarnation, of.order, *(entry.stamp for _, entry in of.journal)}
    return found | {entry.due for _, entry in of.journal if entry.due is not None}


class Ranks:
    """Instants and entry ids by their order: two states that differ only in their times become equal."""

    def __init__(self, instants: set[int], entries: set[int]) -> None:
        self.instants = {instant: rank * SPACE for rank, instant in enumerate(sorted(instants | {0}))}
        self.entries = {entry: rank for rank, entry in enumerate(sorted(entries | {0}))}

    def instant(self, instant: int | None) -> int | None:
        return None if instant is None else self.instants[instant]

    def entry(self, entry: Entry) -> Entry:
        if not entry.stamp and entry.due is None:
            return entry  # as most are
        return entry._replace(stamp=self.instants[entry.stamp], due=self.instant(entry.due))

    def journal(self, journal: tuple[tuple[str, Entry], ...]) -> tuple[tuple[str, Entry], ...]:
        return tuple([(number, self.entry(entry)) for number, entry in journal])

    def promise(self, promise: Promise) -> Promise:
        return promise._replace(
            incarnation=self.instants[promise.incarnation],
            entry=None if promise.entry is None else self.entries[promise.entry],
            due=self.instant(promise.due),
            deadline=self.instant(promise.deadline),
            order=self.instants[promise.order],
            created=self.instant(promise.created) if _is_to_begin(promise) else None,
            waiters=tuple([self.waiter(waiter) for waiter in promise.waiters]),
            journal=self.journal(promise.journal),
        )

    def waiter(self, waiter: Waiter) -> Waiter:
        return waiter._replace(incarnation=self.instants[waiter.incarnation])

    def mailbox(self, box: Mailbox) -> Mailbox:
        return box._replace(lines=tuple(sorted([self.line(line) for line in box.lines], key=repr)))

    def line(self, line: Line) -> Line:
        """Any sender has heard it long ago, or not at all."""
        return line._replace(sender=self.waiter(line.sender), told=None if line.told is None else LONG_AGO)

    def stream_entry(self, entry: StreamEntry) -> StreamEntry:
        told = entry.snapshot
        if told:
            incarnation, order = self.instants[told.incarnation], self.instants[told.order]
            told = told._replace(incarnation=incarnation, order=order, journal=self.journal(told.journal))
        return entry._replace(entry=self.entries[entry.entry], snapshot=told)

    def redis(self, redis: Redis) -> Redis:
        """The same without hints: nothing may depend on them."""
        return redis._replace(
            now=self.instants[redis.now],
            last_entry=max(self.entries.values()),
            promises=tuple([(id, self.promise(promise)) for id, promise in redis.promises]),
            timers=tuple([(member, self.instants[due]) for member, due in redis.timers]),
            stream=tuple([self.stream_entry(entry) for entry in redis.stream]),
            beats=tuple([(name, self.instants[beat]) for name, beat in redis.beats]),
            schedules=tuple([(name, self.instants[due]) for name, due in redis.schedules]),
            effects=tuple(
                [((member, self.instants[incarnation]), count) for (member, incarnation), count in redis.effects]
            ),
            limits=tuple([(name, gate.in_order(limit, redis.now, self.instants)) for name, limit in redis.limits]),
            mail=tuple([(id, self.mailbox(box)) for id, box in redis.mail]),
            inboxes=(),
            wake=None,
        )


def entries(redis: Redis) -> set[int]:
    """Every id of a stream entry that somebody may know."""
    found = {entry.entry for entry in redis.stream}
    found.update(promise.entry for _, promise in redis.promises if promise.entry is not None)
    return found
