"""The transitions: one method per script in ``durasleep/protocol/lua``, named as there, on one state of Redis.

They do what the scripts do, in the same order: each item is checked, then written, and gathered writes happen at the
end. The small methods are the rules: a test breaks a rule by overriding it (see ``test_broken_rules``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from durasleep.model import (
    DUE_MS_MAX,
    KEPT_FOR_EVER,
    CancelEntry,
    Checkpoint,
    CommitAction,
    Kind,
    Mark,
    Op,
    Place,
    Publish,
    SendMessage,
    SettlePromise,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
    TracePoint,
    Transaction,
    levels_of,
)
from durasleep.protocol.keys import LIMIT, STATE
from tests.model.channels import ASK_AGAIN_MS, CODE, OUTGOING, Channels, Send
from tests.model.limits import GATE_TIMERS
from tests.model.records import Refused
from tests.model.state import Entry, Promise, Redis, Snapshot, StreamEntry, Waiter, owner_of, partition_of, root_of

T = TypeVar("T")
R = TypeVar("R")

CANCEL = "0"
TIMERS = ("cron", "timeout", "start", "retry", "ask", "tell", "mail", *GATE_TIMERS)
HEARD_MS = 60_000  # the next question, if what was asked for goes on
GROUP = "workers"  # the group of the workers
REPLY_KEPT_MS = 90_000  # who has asked reads the answer at once
BEAT_MS = 1_000  # between two beats of every worker
KEEP = "="  # the word of a worker without a slot: it keeps an execution that nobody else may know
ENDING = {
    CommitAction.RESOLVE: State.RESOLVED,
    CommitAction.REJECT: State.REJECTED,
    CommitAction.CANCEL: State.CANCELED,
}


def group_of(queue: str) -> str:
    """The group whose workers take from a queue."""
    return queue.partition("/")[0].partition("!")[0]


def is_asking(entry: Entry) -> bool:
    """Whether it may wait for another partition."""
    kinds = (Kind.CHILD, Kind.DETACHED, *OUTGOING)
    return entry.state is State.PENDING and entry.kind in kinds and entry.child_id != ""


def is_number(text: str) -> bool:
    """Whether this can be the number of a journal entry."""
    return text[:1].isdigit() and text.replace(".", "").isdigit()


class Lease(NamedTuple):
    """The fencing token that a worker reads in a stream entry."""

    id: str
    queue: str
    entry: int
    epoch: int


class Commit(NamedTuple):
    lease: Lease
    outcome: CommitAction = CommitAction.CONTINUE
    ops: tuple[Op, ...] = ()
    seen: int = 0
    seen_number: str = ""
    payload: bytes = b""
    due: str = ""
    is_open: bool = True
    asked: str = ""
    functions: str = ""
    """The functions of a worker that defers an unknown execution; or ``KEEP``."""


class Committed(NamedTuple):
    """``word`` is "ok", "redrive", "dropped", "offered" or "kept"; the entries were settled after what was seen."""

    word: str
    entries: tuple[tuple[str, Entry], ...] = ()


class Create(NamedTuple):
    """``kind`` is None to attach only."""

    id: str
    kind: Kind | None = Kind.EXECUTION
    function: str = "f"
    queue: str = "workers"
    start: str = ""
    deadline: str = ""
    idempotency_key: str = ""
    inbox: str = ""
    retention_ms: int | None = None
    waiter: Waiter | None = None
    """An entry of an execution in another partition."""
    priority: int | None = None
    key: str = ""
    """For whom it is, where a limit counts by key."""
    mode: str = ""
    """``s`` to begin anew what has ended, ``d`` and a number to put a start off, at most by so many ms."""


class Ask(NamedTuple):
    """What a firing finds: an entry of an execution asks for one that belongs to another partition."""

    entry: str
    incarnation: int
    child_id: str
    function: str
    """Or the channel of a message."""
    is_detached: bool
    kind: Kind = Kind.CHILD
    body: bytes = b""
    """The message, or the value of the promise that is to be settled."""


class Hear(NamedTuple):
    """What an entry hears of what it has asked for: the answer to an ``Ask``, or the end of what it waits for."""

    entry: str
    incarnation: int
    child_id: str
    state: State
    value: bytes = b""
    is_told: bool = False
    """Whether the one that has ended keeps a waiter until this was heard."""
    is_refused: bool = False
    """Whether nothing was begun, because the id belongs to another function."""
    again_ms: int = HEARD_MS
    """Until the next question, if it goes on."""


class Told(NamedTuple):
    """The waiter of another partition has heard of the end of ``id``, or of the message that it has sent."""

    id: str
    waiter: Waiter


class Note(NamedTuple):
    """The checkpoint of an attempt; ``first`` is the number of the first one."""

    lease: Lease
    number: str
    first: str
    payload: bytes


class Graft(NamedTuple):
    """A part of what makes a fork: ``begin``, ``entries`` or ``end``."""

    action: str
    id: str
    key: str
    entries: tuple[tuple[str, Entry], ...] = ()
    order: int = 0
    limit: str = ""


class Created(NamedTuple):
    disposition: str
    state: State
    place: Place | None
    incarnation: int
    function: str
    value: bytes


class Fired(NamedTuple):
    due: int
    next_due: int | None
    stale: int
    schedules: tuple[str, ...]
    quarantined: tuple[str, ...]
    closing: int
    newer: int
    asks: tuple[Ask, ...] = ()
    tells: tuple[Hear, ...] = ()


class Beat(NamedTuple):
    rank: int
    lost: tuple[int, ...]
    orders: tuple[tuple[str, int], ...]
    unnamed: frozenset[tuple[str, int]]


class Reclaimed(NamedTuple):
    word: str
    given: int = 0
    poison: tuple[str, ...] = ()


class Scripts(Channels):
    """Redis while a script runs. Each method returns ``(the state after it, its answer)``."""

    family_max = 256  # journal entries that one script closes; the rest waits in `closing`

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._gone: set[str] = set()
        self._tells_all = False
        self._families: list[tuple[str, Promise, bool]] = []
        self._hints: dict[str, tuple[str, ...]] = {}
        self._asks: list[Ask] = []
        self._tells: list[Hear] = []

    # -- the scripts

    def create(self, items: Iterable[Create]) -> tuple[Redis, list[Created | Refused]]:
        answers = [_item(self._create, item) for item in items]
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def commit(self, consumer: str, items: Iterable[Commit]) -> tuple[Redis, list[Committed | Refused]]:
        answers = [_item(lambda item: self._commit(consumer, item), item) for item in items]
        self._close_families()
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def settle(self, items: Iterable[tuple[str, State, bytes]]) -> tuple[Redis, list[tuple[bool, State] | Refused]]:
        """Whether this call has settled it, and its state."""
        answers = [_item(lambda item: self.settle_one(*item), item) for item in items]
        self._close_families()
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def control(self, items: Iterable[tuple[str, str, str]]) -> tuple[Redis, list[tuple[str, State] | Refused]]:
        """Each item is action, id and due; answers a word and the state."""
        answers = [_item(self._control, item) for item in items]
        self._close_families()
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def fire(self, limit: int = 64) -> tuple[Redis, Fired]:
        due = sorted([(due, member) for member, due in self.timers.items() if due <= self.now])[:limit]
        stale: list[str] = []
        crons: list[str] = []
        quarantined: list[str] = []
        newer = [member for _, member in due if self.is_newer(member)]
        for score, member in due:
            if member not in newer:
                self._fire_one(member, score, stale, crons, quarantined)
        for member in newer[limit // 2 :]:
            self.set_timer(member, self.now + 10_000)
        self._drain_closing()
        self._close_families()
        self.write_gathered()
        staying = newer[: limit // 2]
        next_due = min([due for member, due in self.timers.items() if member not in staying], default=None)
        counts = len(due), next_due, len(stale), tuple(crons), tuple(quarantined), len(self.closing), len(newer)
        return self.redis(), Fired(*counts, tuple(self._asks), tuple(self._tells))

    def hear(self, items: Iterable[Hear]) -> tuple[Redis, list[str]]:
        """Each answers "heard", or "stale" if nobody waits for it any more."""
        answers = [self._hear(item) for item in items]
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def told(self, items: Iterable[Told]) -> Redis:
        for item in items:
            if not self.note_mail_told(item.id, item.waiter):
                self._note_told(item)
        return self.redis()

    def send(self, items: Iterable[Send]) -> tuple[Redis, list[str | Refused]]:
        """Each answers "delivered", "stored" or "duplicate"."""
        answers = [_item(self.send_one, item) for item in items]
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def note(self, consumer: str, items: Iterable[Note]) -> tuple[Redis, list[str | Refused]]:
        """Each answers "kept", or "settled" if the attempt has ended."""
        answers = [_item(lambda item: self._note(consumer, item), item) for item in items]
        return self.redis(), answers

    def graft(self, items: Iterable[Graft]) -> tuple[Redis, list[str | Refused]]:
        """Each answers "begun" as long as it is being made, "forked" at its end, and "done" after it."""
        answers = [_item(self._graft, item) for item in items]
        self.write_gathered()
        self.notify_firers()
        return self.redis(), answers

    def pause(self, *, is_paused: bool) -> Redis:
        """A group takes no executions, or goes on."""
        self.is_paused = is_paused
        return self.redis()

    def heartbeat(self, consumer: str, group: str, held: Sequence[Lease], functions: str = "") -> tuple[Redis, Beat]:
        self.beats[consumer] = self.now
        self.presence[consumer] = functions
        self.inboxes.setdefault(consumer, ())
        own = (*levels_of(group), f"{group}/{consumer.partition('/')[0]}")
        unnamed = {
            (entry.queue, entry.entry)
            for entry in self.stream.values()
            if entry.holder == consumer and entry.queue in own
        }
        lost: list[int] = []
        orders: list[tuple[str, int]] = []
        for lease in held:
            promise = self.promises.get(lease.id)
            entry = self.stream.get(lease.entry)
            is_ours = entry is not None and entry.queue == lease.queue and entry.holder == consumer
            if promise is None or promise.entry != lease.entry or not is_ours:
                lost.append(lease.entry)
            orders.append((lease.id, promise.order if promise else 0))
            unnamed.discard((lease.queue, lease.entry))
        self.remove_the_gone()
        rank = sum(name < consumer and self.has_beaten(name) for name in self.beats)
        return self.redis(), Beat(rank, tuple(lost), tuple(orders), frozenset(unnamed))

    def reclaim(
        self,
        consumer: str,
        queue: str = "workers",
        *,
        beat: int | None = None,
        release: str = "",
        max_attempts: int = 5,
        limit: int = 256,
        entries: Sequence[int] = (),
    ) -> tuple[Redis, Reclaimed]:
        if not release and not self.is_beat(consumer, beat):
            return self.redis(), Reclaimed("alive")
        if release != "some":
            mine = [entry for entry in self.stream.values() if (entry.queue, entry.holder) == (queue, consumer)]
            entries = sorted([entry.entry for entry in mine])[:limit]
        taken = [self.stream[name] for name in entries if self._holds(consumer, queue, name)]
        lives = [entry for entry in taken if self._lives_in(entry)]
        suspects = sum(self.promises[entry.id].crash_count >= 2 for entry in lives)
        given, poison = 0, list[str]()
        for entry in taken:
            del self.stream[entry.entry]
            if entry not in lives:
                if not entry.id:
                    self.halted.add(f"queue:{queue}:{entry.entry}")
                continue
            if release:
                self.put(entry.id, crash_count=0, lone_crash_count=0)
            elif self._count_death(entry.id, suspects, len(taken)) >= max_attempts and self._is_killer(entry.id):
                self.put(entry.id, entry=None)
                self._halt(entry.id)
                poison.append(entry.id)
                continue
            self.dispatch(entry.id, self.snapshot_again(entry.id))
            given += 1
        if release != "some" and len(entries) >= limit:
            return self.redis(), Reclaimed("more", given, tuple(poison))
        if release != "some" and queue == group_of(queue):
            self.beats.pop(consumer, None)
            self.presence.pop(consumer, None)
            self.inboxes.pop(consumer, None)
        return self.redis(), Reclaimed("done", given, tuple(poison))

    def schedule(
        self, action: str, name: str, due: str = "", seen_due: int = 0, id: str = "", is_changed: bool = False
    ) -> tuple[Redis, str]:
        """``put``, ``advance`` or ``remove``; it starts an execution of ``f`` for the default queue."""
        word = self._schedule(action, name, due, seen_due, id, is_changed)
        self.write_gathered()
        self.notify_firers()
        return self.redis(), word

    # -- events of Redis itself

    def read(self, consumer: str, entry: int) -> tuple[Redis, Lease]:
        """XREADGROUP gives an entry to a worker."""
        self.stream[entry] = self.stream[entry]._replace(holder=consumer, snapshot=None)
        found = self.stream[entry]
        return self.redis(), Lease(found.id, found.queue, entry, found.epoch)

    def expire(self, id: str) -> Redis:
        """The retention of a promise has passed."""
        self.remove(id)
        return self.redis()

    def fade(self, consumer: str) -> Redis:
        """A worker has sent no heartbeat for so long that its key has expired."""
        self.presence.pop(consumer, None)
        return self.redis()

    # -- rules; a test breaks each of them

    def remove_the_gone(self) -> None:
        """Every heartbeat removes workers that are gone, of any group."""
        for name in self.beats.keys() - self.presence.keys():
            del self.beats[name]

    def may_know(self, promise: Promise, name: str) -> bool:
        """Whether the functions of a worker are none of those that lack the execution's."""
        functions = self.presence.get(name) if group_of(promise.queue) == GROUP and self.has_beaten(name) else ""
        return bool(functions) and functions not in promise.lacking

    def is_kept(self, promise: Promise, consumer: str) -> bool:
        """Whether no other worker may know it, so that a worker without a slot keeps it until it has one."""
        return not self._others(promise, consumer)

    def hand_over(self, promise: Promise, other: str) -> None:
        """The entry gets another holder; nobody else can read it meanwhile."""
        assert promise.entry is not None
        self.stream[promise.entry] = self.stream[promise.entry]._replace(holder=other)

    def has_beaten(self, name: str) -> bool:
        """Whether the other workers let this one go first."""
        return abs(self.now - self.beats[name]) < LIMIT["beats_missed"] * BEAT_MS

    def is_fenced(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        """Whether the sender of a commit does not hold the execution (any more)."""
        return promise.entry != lease.entry or promise.epoch != lease.epoch or self.holder(promise) != consumer

    def has_other_history(self, promise: Promise, seen: int, seen_number: str) -> bool:
        """Whether a worker has seen a settlement that never happened here."""
        if seen == 0:
            return False
        entry = dict(promise.journal).get(seen_number)
        return entry is None or entry.stamp != seen

    def has_never_asked(self, promise: Promise, asked: str) -> bool:
        """Whether a worker remembers a commit that never happened here."""
        return asked != "" and asked not in dict(promise.journal)

    def next_stamp(self, promise: Promise) -> int:
        return max(promise.order + 1, self.now)

    def wants_redrive(self, promise: Promise) -> bool:
        """Whether there are settlements that a worker that wants to suspend has not seen."""
        return bool(promise.unseen)

    def is_moved(self, score: int, due: int) -> bool:
        """Whether a due member differs from its promise, because somebody else has moved it."""
        return score != due

    def is_newer(self, member: str) -> bool:
        """Whether only a newer version knows a timer: it stays for that version."""
        named = owner_of(member)
        return named is not None and all(named) and named[1] not in TIMERS and not is_number(named[1])

    def is_repeated(self, promise: Promise, number: str) -> bool:
        """Whether an op has been carried out before: its answer was lost."""
        return number in dict(promise.journal)

    def is_beat(self, consumer: str, beat: int | None) -> bool:
        """Whether the last heartbeat of a worker is still the one that the judge has seen."""
        return self.beats.get(consumer) == beat

    def is_of(self, owner: Promise, incarnation: int) -> bool:
        """Whether a reference to an execution means this incarnation, and not another one under the same id."""
        return owner.incarnation == incarnation

    def next_incarnation(self, promise: Promise) -> int:
        """The incarnation of an execution that begins again under its id: nothing of the old is taken for its own."""
        return max(self.now, promise.incarnation + 1)

    def remove_waiter(self, child_id: str, waiter: Waiter) -> None:
        """One that does not wait any more is removed from the waiters."""
        child = self.promises.get(child_id)
        if child:
            self.put(child_id, waiters=tuple([one for one in child.waiters if one != waiter]))

    def journal_cancel(self, id: str) -> None:
        """A cancel is an event like any settlement, delivered in its order."""
        self.journal(id, CANCEL, Entry(Kind.CANCEL), State.RESOLVED)

    def forget_timers(self, id: str, promise: Promise) -> None:
        """An ending removes the deadline; the members of its journal go with the family."""
        if promise.deadline is not None:
            self.unset_timer(f"{id}~timeout")

    def may_note(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        """Whether the sender of a checkpoint holds the execution."""
        return not self.is_fenced(promise, consumer, lease)

    def is_debounced(self, promise: Promise) -> bool:
        """Whether it waits for its start, and has never run."""
        return promise.is_pending and promise.place is Place.DELAYED and promise.epoch == 0

    def is_tried_no_more(self, promise: Promise) -> bool:
        """If it was canceled while its attempt failed, it ends with that."""
        return CANCEL in dict(promise.journal)

    def asks_again(self) -> bool:
        """Whether what was asked of another partition is asked again, until it has settled."""
        return True

    def goes_on_asking(self, owner: Promise, item: Hear) -> bool:  # noqa: ARG002 - for a test that breaks it
        """Whether an entry goes on that hears what an earlier one under its number has asked for."""
        return True

    def kept_waiters(self, foreign: tuple[Waiter, ...]) -> tuple[Waiter, ...]:
        """The waiters that an ending leaves: those of other partitions, until they have heard of it."""
        return foreign

    def is_kept_to_tell(self, promise: Promise) -> bool:
        """Whether it must not expire yet: a waiter of another partition may not have heard of its end."""
        return any(waiter.is_foreign for waiter in promise.waiters)

    def carries_over(self, promise: Promise) -> tuple[str, ...]:
        """The unseen settlements that a new run takes over: a cancel that nobody has seen."""
        return (CANCEL,) if CANCEL in promise.unseen else ()

    def snapshot_of(self, promise: Promise) -> Snapshot | None:
        """The data in the entry of a new execution, or of one that its timer has woken."""
        if promise.crash_count or promise.is_unquoted:
            return None
        journal, order = promise.journal, promise.order
        return Snapshot(promise.function, promise.incarnation, promise.base, order, promise.unseen, journal)

    def snapshot_again(self, id: str) -> Snapshot | None:  # noqa: ARG002 - for a test that breaks it
        """A worker that goes on after another one loads the journal."""
        return None

    def rouse_canceled(self, id: str) -> None:
        """The next worker of a canceled execution must know it: an older entry is removed."""
        promise = self.promises[id]
        if promise.place is Place.QUEUED and self.holder(promise) is None:
            self.leave(id)
            self.dispatch(id)
        else:
            self.rouse(id)

    # -- shared: places

    def _halt(self, id: str) -> None:
        self.free(id)
        self.put(id, place=Place.HALTED)
        self.halted.add(id)

    def dispatch(self, id: str, snapshot: Snapshot | None = None, *, begins: bool = False) -> None:
        """It is queued, or parked at the gate of its limit. One that ``begins`` does not wake up."""
        if not self.promises[id].limit or self.passes(id, begins=begins):
            self.enqueue(id, snapshot)

    def leave(self, id: str) -> None:
        promise = self.promises[id]
        if promise.entry is not None:
            self.stream.pop(promise.entry, None)
            self.put(id, entry=None)
        if promise.place is Place.DELAYED:
            self.unset_timer(f"{id}~start")
            self.unset_timer(f"{id}~retry")
            self.put(id, due=None)
        elif promise.place is Place.HALTED:
            self.halted.discard(id)
            self.put(id, is_being_forked=False)
        elif promise.place is Place.PARKED:
            self.unpark(id)

    # -- shared: settlements

    def journal(self, id: str, number: str, entry: Entry, state: State, payload: bytes = b"") -> None:
        """Entry ``number`` has settled: its execution has not seen it yet."""
        promise = self.promises[id]
        stamp = self.next_stamp(promise)
        self.put_entry(id, number, entry._replace(state=state, stamp=stamp, payload=payload))
        self.put(id, order=stamp, unseen=(*promise.unseen, number))

    def rouse(self, id: str, *, tells: bool = False) -> None:
        promise = self.promises[id]
        if promise.place is Place.SUSPENDED:
            self.dispatch(id, self.snapshot_of(promise) if tells else None)
        elif promise.place is Place.QUEUED:
            consumer = self.holder(promise)
            if consumer:
                self.notify_inbox(consumer, "n", id)

    def settle_entry(
        self, id: str, number: str, entry: Entry, state: State, payload: bytes = b"", *, tells: bool = False
    ) -> None:
        if entry.due is not None:
            self.unset_timer(f"{id}~{number}")
        if entry.kind is Kind.RECEIVE:
            self.leave_line(id, number)
        self.journal(id, number, entry._replace(due=None), state, payload)
        self.rouse(id, tells=tells)

    # -- shared: hints

    def notify_inbox(self, who: str, *fields: str) -> None:
        self._hints[who] = (*self._hints.get(who, ()), *fields)

    def write_gathered(self) -> None:
        made = [self.timers[member] for member in self.made]
        others = [due for member, due in self.timers_before if member in self.timers and due > self.now]
        if made and min(made) < min(others, default=DUE_MS_MAX + 1):
            self.earliest_made = min(made) if self.earliest_made is None else min(*made, self.earliest_made)
        for who, fields in self._hints.items():
            if who in self.inboxes:
                self.inboxes[who] = (*self.inboxes[who], fields)
        for id in self._gone:
            self.remove(id)

    def notify_firers(self) -> None:
        if self.earliest_made is not None:
            self.wake = self.earliest_made
        elif self._tells_all:
            self.wake = None  # its content is no instant

    # -- shared: beginnings

    def _make(
        self, id: str, incarnation: int, made: Promise, start: int | None = None, deadline: int | None = None
    ) -> Promise:
        if start is None and made.limit:
            self.replace_oldest(made)
        created = None if incarnation == self.now else self.now
        self.promises[id] = made._replace(incarnation=incarnation, deadline=deadline, created=created)
        self._gone.discard(id)
        if made.kind is Kind.EXECUTION and start is None:
            self.dispatch(id, self.snapshot_of(self.promises[id]), begins=True)
        elif made.kind is Kind.EXECUTION and start is not None:
            self.put(id, place=Place.DELAYED, due=start)
            self.set_timer(f"{id}~start", start)
        if deadline is not None:
            self.set_timer(f"{id}~timeout", deadline)
        return self.promises[id]

    def _make_room(self, id: str) -> None:
        """For a new promise under an id: the rest of another incarnation is removed."""
        if self.promises[id].is_pending:
            self.finish(id, State.CANCELED)
        promise = self.promises[id]
        if promise.has_family:
            self._close_members(id, promise, promise.journal, "gone")
        self.remove(id)

    def _wait_for(self, id: str, waiter: Waiter) -> None:
        waiters = self.promises[id].waiters
        if waiter not in waiters:
            self.put(id, waiters=(*waiters, waiter))

    def _create(self, item: Create) -> Created:
        found, incarnation = self.promises.get(item.id), self.now
        if found:
            is_again = item.mode != "" and found.function == item.function
            is_again = is_again and found.idempotency_key != item.idempotency_key
            if is_again and "d" in item.mode and self.is_debounced(found):
                return self._debounce(item, found)
            if not is_again or item.mode[:1] != "s" or found.is_pending or found.waiters:
                return self._attach(item, found)
            incarnation = self.next_incarnation(found)
        if item.kind is None:
            raise Refused("NOT_FOUND")
        waiters = (Waiter(item.inbox),) if item.inbox else ()
        waiters += (item.waiter,) if item.waiter else ()
        made = Promise(0, item.kind, item.function, item.queue, idempotency_key=item.idempotency_key, waiters=waiters)
        made = made._replace(retention_ms=item.retention_ms)
        if item.kind is Kind.EXECUTION:
            made = self.complete(made, item.key, item.priority)
        refused = self.refusal_of(made, is_delayed=item.start != "")
        if refused == "drop":
            return Created("dropped", State.PENDING, None, 0, item.function, b"")
        if refused:
            raise Refused("LIMIT_FULL" if refused == "refuse" else "INVALID")
        start = self.due_at(item.start) if item.start else None
        deadline = self.due_at(item.deadline) if item.deadline else None
        if found:
            self._make_room(item.id)
            self._close_families()
        promise = self._make(item.id, incarnation, made, start, deadline)
        if item.waiter:
            self.begun[item.id] = self.begun.get(item.id, 0) + 1
        if item.inbox:
            self.inboxes.setdefault(item.inbox, ())
        return _created("created", promise)

    def _debounce(self, item: Create, found: Promise) -> Created:
        """A later call puts the start off."""
        made_at = found.incarnation if found.created is None else found.created
        due = min(self.due_at(item.start), made_at + int(item.mode.partition("d")[2]))
        self.put(item.id, due=due, idempotency_key=item.idempotency_key)
        self.set_timer(f"{item.id}~start", due)
        self._attach(item, self.promises[item.id])
        return _created("debounced", self.promises[item.id])

    def _attach(self, item: Create, found: Promise) -> Created:
        if item.kind is not None and (found.kind, found.function) != (item.kind, item.function):
            raise Refused("OTHER_FUNCTION")
        if found.is_pending and item.waiter:
            self._wait_for(item.id, item.waiter)
        if found.is_pending and item.inbox:
            self._wait_for(item.id, Waiter(item.inbox))
            self.inboxes.setdefault(item.inbox, ())
        if found.idempotency_key and found.idempotency_key == item.idempotency_key:
            return _created("created", found)
        return _created("attached" if found.is_pending else "finished", found)

    def begin(self, id: str, function: str) -> None:
        self._create(Create(id, function=function))

    def has_asked(self, item: Send) -> bool:
        """Whether the promise of its answer is there: the answer to its call was lost."""
        found = self.promises.get(item.reply)
        if found and found.is_pending:
            self._wait_with(item, item.reply)
            self._wait_with(item, item.id)
        return found is not None

    def make_reply(self, item: Send) -> None:
        """Who asks waits for the answer, and for the end of who is asked."""
        self._wait_with(item, item.id)
        made = Promise(0, Kind.PROMISE, retention_ms=REPLY_KEPT_MS)
        self._make(item.reply, self.now, made, None, self.due_at(item.due))
        self._wait_with(item, item.reply)

    def _wait_with(self, item: Send, id: str) -> None:
        found = self.promises.get(id)
        if item.inbox and found and found.is_pending:
            self._wait_for(id, Waiter(item.inbox))
            self.inboxes.setdefault(item.inbox, ())

    # -- shared: endings

    def finish(self, id: str, state: State, payload: bytes = b"", *, is_quiet: bool = False) -> None:
        """End a pending promise: it leaves its place, settles, its waiters are notified, its family is to be closed."""
        before = self.promises[id]
        self.leave(id)
        self.free(id, has_ended=True)
        self.forget_timers(id, before)
        self.end_mailbox(id)
        foreign = tuple([waiter for waiter in before.waiters if waiter.is_foreign])
        fresh = {"unseen": (), "crash_count": 0, "lone_crash_count": 0, "waiters": self.kept_waiters(foreign)}
        promise = self.put(id, state=state, value=payload, place=None, **fresh)
        for waiter in before.waiters:
            if not waiter.is_foreign:
                self._notify_waiter(id, promise, waiter)
        if foreign:
            self.set_timer(f"{id}~tell", self.now)
        owner = owner_of(id)
        if owner:
            self._notify_owner(*owner, promise.incarnation, state, payload)
        self._families.append((id, promise, is_quiet))

    def _notify_waiter(self, id: str, promise: Promise, waiter: Waiter) -> None:
        if not waiter.incarnation:
            state, value = STATE[promise.state], promise.value.decode()
            self.notify_inbox(waiter.who, "i", id, "b", str(promise.incarnation), "s", state, "v", value)
        else:
            owner = owner_of(waiter.who)
            if owner:
                self._notify_owner(*owner, waiter.incarnation, promise.state, promise.value)

    def _notify_owner(self, owner_id: str, number: str, incarnation: int, state: State, payload: bytes) -> None:
        """The owner of a child is notified of its ending, if it is still the one that asked for it."""
        owner = self.promises.get(owner_id)
        if owner is None or not owner.is_pending or not self.is_of(owner, incarnation):
            return
        entry = self.entry(owner_id, number)
        if entry and entry.state is State.PENDING and entry.kind is Kind.CHILD:
            self.settle_entry(owner_id, number, entry, state, payload)

    def _is_remembered(self, id: str) -> bool:
        """Whether each journal up to the root has an entry for it."""
        owner = owner_of(id)
        return owner is None or (self.entry(*owner) is not None and self._is_remembered(owner[0]))

    def _time_to_keep(self, id: str, promise: Promise) -> str | None:
        """ "kept" for its retention, or "for ever"; "later" with its root, "gone" at once; None if another lives."""
        found, root = self.promises.get(id), self.promises.get(root_of(id))
        if found is None or found.is_pending or found.incarnation != promise.incarnation:
            return None
        if owner_of(id) is None:
            return self._kept_as(id)
        if root is None or root.incarnation != promise.incarnation:
            return "gone"
        return "later" if root.is_pending and self._is_remembered(id) else self._kept_as(root_of(id))

    def _retention_ms(self, root_id: str) -> int | None:
        root = self.promises.get(root_id)
        return None if root is None else root.retention_ms

    def _kept_as(self, root_id: str) -> str:
        """How long members below a root are kept after their end."""
        return "for ever" if self._retention_ms(root_id) == KEPT_FOR_EVER else "kept"

    def _keep(self, id: str, how: str | None) -> None:
        if how in ("kept", "gone") and not self.is_kept_to_tell(self.promises[id]):
            self.put(id, expires=True)
        if how == "gone":
            self._gone.add(id)

    def _close_members(self, id: str, promise: Promise, journal: Iterable[tuple[str, Entry]], keep: str | None) -> None:
        """Pending members of a journal end with it, stored ones expire with it."""
        for number, entry in journal:
            member = f"{id}~{number}"
            if entry.due is not None and entry.state is State.PENDING:
                self.unset_timer(member)
            if entry.child_id and entry.state is State.PENDING:
                self._wait_no_more(id, number, entry, promise.incarnation)
            child = self.promises.get(member)
            if (
                entry.kind is not Kind.CHILD
                or entry.child_id
                or child is None
                or not self.is_of(child, promise.incarnation)
            ):
                continue
            if child.is_pending:
                self.finish(member, State.CANCELED)
            elif child.has_family:
                self._families.append((member, child, False))
            else:
                self._keep(member, keep)

    def _close_families(self) -> None:
        """Close families that have ended in this script, at most ``family_max``; the rest waits in ``closing``."""
        room = self.family_max
        while self._families:
            id, promise, is_quiet = self._families.pop()
            keep = self._time_to_keep(id, promise)
            if keep is None:
                continue
            if is_quiet and not promise.has_family:
                self._keep(id, keep)
                continue
            size = len(self.promises[id].journal)
            if size > room:
                self._close_later(id)
                continue
            room -= size
            self._close_members(id, promise, self.promises[id].journal, keep)
            self._keep(id, keep)

    def _close_later(self, id: str) -> None:
        if id not in self.closing:
            self.closing.append(id)
        self.earliest_made = self.now

    def is_orphan(self, id: str, promise: Promise) -> bool:
        """Whether the execution that asked for a child has ended, is gone, or has begun again."""
        owner = owner_of(id)
        if owner is None:
            return False
        found = self.promises.get(owner[0])
        return (
            found is None
            or not found.is_pending
            or found.incarnation != promise.incarnation
            or self.entry(*owner) is None
        )

    def _drain_closing(self) -> None:
        for id in list(self.closing):
            self.closing.remove(id)
            promise = self.promises.get(id)
            if promise is None:
                continue
            if promise.is_pending:
                if self.is_orphan(id, promise):
                    self.finish(id, State.CANCELED)
                continue
            keep = self._time_to_keep(id, promise)
            self._close_members(id, promise, promise.journal, keep)
            self._keep(id, keep)

    # -- checkpoints and forks

    def _note(self, consumer: str, item: Note) -> str:
        promise = self.promises.get(item.lease.id)
        if promise is None or not self.may_note(promise, consumer, item.lease):
            raise Refused("FENCED")
        if item.number in dict(promise.journal):
            return "settled"
        checkpoints = dict(promise.checkpoints) | {item.first: item.payload}
        self.put(item.lease.id, checkpoints=tuple(sorted(checkpoints.items())), is_unquoted=True)
        return "kept"

    def _graft(self, item: Graft) -> str:
        found = self.promises.get(item.id)
        if found and found.idempotency_key != item.key:
            raise Refused("NOT_ALLOWED")
        if found and not found.is_being_forked:
            return "done"
        if item.action == "begin":
            if found is None:
                limit = f"-{item.limit}" if item.limit else ""
                made = Promise(self.now, function="f", queue=GROUP, idempotency_key=item.key, limit=limit)
                self.promises[item.id] = made._replace(is_unquoted=True, is_being_forked=True)
                self._halt(item.id)
            return "begun"
        if found is None:
            raise Refused("NOT_FOUND")
        if item.action == "entries":
            journal = tuple(sorted((dict(found.journal) | dict(item.entries)).items()))
            self.put(item.id, journal=journal, order=max(item.order, found.order))
            return "begun"
        self.leave(item.id)
        self.dispatch(item.id, begins=True)
        return "forked"

    # -- commit

    def _commit(self, consumer: str, item: Commit) -> Committed:
        id = item.lease.id
        promise = self.promises.get(id)
        if item.outcome is CommitAction.DROP:
            return self._drop_entry(item.lease, promise, item.payload)
        if promise is None or not promise.is_pending or self.is_fenced(promise, consumer, item.lease):
            raise Refused("FENCED")
        has_other_history = self.has_other_history(promise, item.seen, item.seen_number)
        if has_other_history or self.has_never_asked(promise, item.asked):
            raise Refused("FENCED")
        self._check_dues(item)
        if self.is_orphan(id, promise):
            self.finish(id, State.CANCELED)
            raise Refused("FENCED")
        if item.seen_number in promise.unseen:
            promise = self.put(id, unseen=promise.unseen[promise.unseen.index(item.seen_number) + 1 :])
        returning = {op.number for op in item.ops if self._is_of_receive(id, op)}
        for op in item.ops:
            if isinstance(op, CancelEntry):
                if returning:
                    is_run_end = item.outcome is CommitAction.CONTINUE_AS_NEW
                    self.take_all_back(id, {str(number) for number in returning}, is_run_end=is_run_end)
                    returning.clear()
                self._cancel_entry(id, op)
            elif isinstance(op, Checkpoint) or not self.is_repeated(self.promises[id], op.number):
                self._apply(id, op)
        if item.outcome is not CommitAction.DEFER:
            self.put(id, crash_count=0, lone_crash_count=0)
        return self._outcome(id, consumer, item)

    def _is_of_receive(self, id: str, op: Op) -> bool:
        entry = self.entry(id, op.number)
        is_canceled = isinstance(op, CancelEntry) and op.kind is Kind.RECEIVE
        return is_canceled and entry is not None and entry.kind is Kind.RECEIVE

    def _drop_entry(self, lease: Lease, promise: Promise | None, reason: bytes) -> Committed:
        """An entry without its execution leaves its stream; with a reason it is quarantined by name."""
        if promise and promise.is_pending and promise.entry == lease.entry:
            raise Refused("FENCED")
        self.stream.pop(lease.entry, None)
        if reason:
            self.halted.add(f"queue:{lease.queue}:{lease.entry}")
        return Committed("dropped")

    def _check_dues(self, item: Commit) -> None:
        for op in item.ops:
            if isinstance(op, StartTimer | StartPromise | StartChild) and op.due is not None:
                self.due_at(op.due)
            if isinstance(op, StartChild) and op.start is not None:
                self.due_at(op.start)
            if isinstance(op, StartChild) and op.detached and not op.child_id:
                raise Refused("INVALID")
        if item.outcome in (CommitAction.RETRY, CommitAction.DEFER):
            self.due_at(item.due)

    def _offer(self, id: str, consumer: str, functions: str) -> bool:
        """Whether it is passed at once, in the stream, to a worker of the group that may know its function."""
        promise = self.promises[id]
        if "/" in promise.queue:
            return False
        if functions not in (KEEP, *promise.lacking):
            promise = self.put(id, lacking=(*promise.lacking, functions)[-LIMIT["lacking_max"] :])
        found = self._others(promise, consumer)
        if not found:
            return False
        other = found[id.encode()[-1] % len(found)]
        self.hand_over(promise, other)
        self.notify_inbox(other, "t", f"{promise.queue}\t#{promise.entry}\t{promise.epoch}\t{id}")
        return True

    def _others(self, promise: Promise, consumer: str) -> list[str]:
        """The other workers that may know it, the youngest first."""
        youngest = sorted([(beat, name) for name, beat in self.beats.items()], reverse=True)
        return [name for _, name in youngest if name != consumer and self.may_know(promise, name)]

    def _outcome(self, id: str, consumer: str, item: Commit) -> Committed:
        match item.outcome:
            case CommitAction.RESOLVE | CommitAction.REJECT | CommitAction.CANCEL:
                self.finish(id, ENDING[item.outcome], item.payload, is_quiet=not item.is_open)
            case CommitAction.CONTINUE:
                return Committed("ok", self._unseen(id))
            case CommitAction.SUSPEND if self.wants_redrive(self.promises[id]):
                return Committed("redrive", self._unseen(id))
            case CommitAction.SUSPEND:
                self.leave(id)
                self.free(id)
                self.put(id, place=Place.SUSPENDED)
            case CommitAction.DEFER if item.functions == KEEP and self.is_kept(self.promises[id], consumer):
                return Committed("kept")
            case CommitAction.DEFER if item.functions and self._offer(id, consumer, item.functions):
                return Committed("offered")
            case CommitAction.RETRY if self.is_tried_no_more(self.promises[id]):
                self.finish(id, State.CANCELED)
            case CommitAction.RETRY | CommitAction.DEFER:
                self.leave(id)
                self.free(id)
                due = self.due_at(item.due)
                self.put(id, place=Place.DELAYED, due=due)
                self.set_timer(f"{id}~retry", due)
            case CommitAction.HALT:
                self.leave(id)
                self._halt(id)
            case CommitAction.CONTINUE_AS_NEW:
                self._continue_as_new(id, int(item.due))
            case CommitAction.DROP:
                raise AssertionError("dropped before")
        return Committed("ok")

    def _unseen(self, id: str) -> tuple[tuple[str, Entry], ...]:
        promise = self.promises[id]
        journal = dict(promise.journal)
        return tuple([(number, journal[number]) for number in promise.unseen])

    def _continue_as_new(self, id: str, base: int) -> None:
        """The next run under the same id: pending entries of the old run end with it."""
        old = self.promises[id]
        carried = self.carries_over(old)
        self.pass_on_mail(id)
        self.leave(id)
        kept = tuple([(number, entry) for number, entry in old.journal if number in carried])
        self.put(id, journal=kept, unseen=carried, base=base, lacking=(), checkpoints=())
        self.dispatch(id)
        self._close_members(id, old, old.journal, self._kept_as(root_of(id)))

    # -- the ops of a commit

    def _apply(self, id: str, op: Op) -> None:
        match op:
            case StartTimer(number, name, due):
                self._start(id, number, Entry(Kind.TIMER, name=name, due=self.due_at(due)))
            case StartPromise(number, name, due):
                instant = None if due is None else self.due_at(due)
                self._start(id, number, Entry(Kind.PROMISE, name=name, due=instant))
            case StepResult(number, name, state, payload):
                self.journal(id, number, Entry(Kind.STEP, name=name), state, payload)
            case Publish() | TracePoint():
                pass  # it changes no place and no entry
            case Mark(number, kind, name):
                self.put_entry(id, number, Entry(kind, State.RESOLVED, name=name))
            case Transaction(number, _):
                effect = (f"{id}~{number}", self.promises[id].incarnation)
                self.effects[effect] = self.effects.get(effect, 0) + 1
                self.journal(id, number, Entry(Kind.TRANSACTION), State.RESOLVED, TRANSACTED)
            case StartChild():
                self._start_child(id, op)
            case Checkpoint(number, payload):
                self._put_checkpoint(id, number, payload)
            case StartReceive():
                self.start_receive(id, op)
            case SendMessage():
                self.send_out(id, op)
            case SettlePromise():
                self.settle_out(id, op)
            case CancelEntry():
                raise AssertionError("a tombstone may be written over what is there")

    def _start(self, id: str, number: str, entry: Entry) -> None:
        self.put_entry(id, number, entry)
        if entry.due is not None:
            self.set_timer(f"{id}~{number}", entry.due)

    def _put_checkpoint(self, id: str, number: str, payload: bytes) -> None:
        checkpoints = dict(self.promises[id].checkpoints)
        checkpoints.pop(number, None)
        if payload:
            checkpoints[number] = payload
            self.put(id, is_unquoted=True)
        self.put(id, checkpoints=tuple(sorted(checkpoints.items())))

    def _cancel_entry(self, id: str, op: CancelEntry) -> None:
        """An entry that the workflow has canceled: a tombstone, never delivered."""
        entry = self.entry(id, op.number) or Entry(op.kind, name=op.name)
        if entry.state is not State.PENDING:
            return
        self.leave_line(id, op.number)
        member = f"{id}~{op.number}"
        if entry.due is not None:
            self.unset_timer(member)
        self.put_entry(id, op.number, entry._replace(state=State.CANCELED, stamp=0, due=None))
        if entry.child_id:
            self._wait_no_more(id, op.number, entry, self.promises[id].incarnation)
        child = self.promises.get(member)
        is_ours = child is not None and child.is_pending and self.is_of(child, self.promises[id].incarnation)
        if is_ours and entry.kind is Kind.CHILD and not entry.child_id:
            self.finish(member, State.CANCELED)

    def _start_child(self, id: str, op: StartChild) -> None:
        owner = self.promises[id]
        kind = Kind.DETACHED if op.detached else Kind.CHILD
        entry = Entry(kind, name=op.function, child_id=op.child_id or "")
        child_id = op.child_id or f"{id}~{op.number}"
        if partition_of(child_id) != partition_of(id):
            self.put_entry(id, op.number, entry)
            self.set_timer(f"{id}~{op.number}~ask", self.now)
            return
        child = self.promises.get(child_id)
        if child and not op.child_id and not self.is_of(child, owner.incarnation):
            self._make_room(child_id)
            child = None
        if child and child.function != op.function:
            self.journal(id, op.number, entry, State.REJECTED)
            return
        if child and not op.detached and not child.is_pending:
            self.journal(id, op.number, entry, child.state, child.value)
            return
        deadline = None if op.due is None else self.due_at(op.due)
        start = None if op.start is None else self.due_at(op.start)
        priority, key = _traits(op)
        made = self.complete(Promise(0, Kind.EXECUTION, op.function, op.queue or owner.queue), key, priority)
        refused = "" if child else self.refusal_of(made, is_delayed=op.start is not None)
        if refused:
            self.journal(id, op.number, entry, State.REJECTED, REFUSED_AS[refused])
            return
        if op.child_id:
            made = made._replace(retention_ms=op.retention_ms or self._retention_ms(root_of(id)))
        if op.detached:
            if child is None:
                self._make(child_id, self.now, made, start, deadline)
            self.journal(id, op.number, entry, State.RESOLVED)
            return
        self.put_entry(id, op.number, entry)
        waiters = (Waiter(f"{id}~{op.number}", owner.incarnation),) if op.child_id else ()
        if child:
            for waiter in waiters:
                self._wait_for(child_id, waiter)
            return
        if not op.child_id:
            self.put(id, has_family=True)
        incarnation = self.now if op.child_id else owner.incarnation
        self._make(child_id, incarnation, made._replace(waiters=waiters), start, deadline)

    # -- calls to another partition

    def _fire_ask(self, id: str, member: str, stale: list[str]) -> None:
        """The entry is asked for again and again until it has settled: the question, or its answer, may be lost."""
        owner_id, number = owner_of(id) or (id, "")
        owner, entry = self.promises.get(owner_id), self.entry(owner_id, number)
        if owner is None or not owner.is_pending or entry is None or not is_asking(entry):
            self.unset_timer(member)
            stale.append(member)
            return
        if self.asks_again():
            self.set_timer(member, self.now + ASK_AGAIN_MS)
        else:
            self.unset_timer(member)
        body = entry.payload if entry.kind in OUTGOING else b""
        is_detached = entry.kind is Kind.DETACHED
        kind = entry.kind if entry.kind in OUTGOING else Kind.CHILD
        self._asks.append(Ask(id, owner.incarnation, entry.child_id, entry.name, is_detached, kind, body))

    def _fire_tell(self, id: str, member: str, stale: list[str]) -> None:
        promise = self.promises.get(id)
        foreign = [one for one in promise.waiters if one.is_foreign] if promise and not promise.is_pending else []
        if promise is None or not foreign:
            self.unset_timer(member)
            stale.append(member)
            return
        self.set_timer(member, self.now + ASK_AGAIN_MS)
        for waiter in foreign:
            self._tells.append(Hear(waiter.who, waiter.incarnation, id, promise.state, promise.value, is_told=True))

    def _fire_mail(self, id: str, member: str, stale: list[str]) -> None:
        untold = self.untold_of(id)
        if not untold:
            stale.append(member)
        for line in untold:
            sender, state = line.sender, State.REJECTED if line.word in CODE else State.RESOLVED
            self._tells.append(Hear(sender.who, sender.incarnation, id, state, line.word[:1].encode(), is_told=True))

    def _hear(self, item: Hear) -> str:
        owner_id, number = owner_of(item.entry) or (item.entry, "")
        owner, entry = self.promises.get(owner_id), self.entry(owner_id, number)
        member = f"{item.entry}~ask"
        if owner is None or not owner.is_pending or entry is None or not is_asking(entry):
            self.unset_timer(member)
            return "stale"
        if not self.is_of(owner, item.incarnation) or entry.child_id != item.child_id:
            if not self.goes_on_asking(owner, item):
                self.unset_timer(member)
            return "stale"
        if item.state is State.PENDING and entry.kind is not Kind.DETACHED:
            self.set_timer(member, self.now + item.again_ms)
            return "heard"
        self.unset_timer(member)
        is_started = entry.kind is Kind.DETACHED and not item.is_refused
        state, value = (State.RESOLVED, b"") if is_started else (item.state, item.value)
        self.settle_entry(owner_id, number, entry, state, value)
        return "heard"

    def _note_told(self, item: Told) -> None:
        self.remove_waiter(item.id, item.waiter)
        promise = self.promises.get(item.id)
        if promise is None or promise.is_pending or self.is_kept_to_tell(promise):
            return
        self.unset_timer(f"{item.id}~tell")
        self._keep(item.id, self._time_to_keep(item.id, promise))

    def _wait_no_more(self, id: str, number: str, entry: Entry, incarnation: int) -> None:
        """For something with an id of its own: it goes on, and nobody here waits for it."""
        if partition_of(entry.child_id) != partition_of(id):
            self.unset_timer(f"{id}~{number}~ask")
        elif entry.kind is Kind.CHILD:
            self.remove_waiter(entry.child_id, Waiter(f"{id}~{number}", incarnation))

    # -- fire

    def _fire_one(self, member: str, score: int, stale: list[str], crons: list[str], quarantined: list[str]) -> None:
        named = owner_of(member)
        if named is None or named[0] == "" or not (named[1] in TIMERS or is_number(named[1])):
            quarantined.append(member)
            self.unset_timer(member)
            self.halted.add(f"timers:{member}")
            return
        id, what = named
        if what in GATE_TIMERS:
            self._fire_gate(id, what, member, quarantined)
            return
        if what in ("ask", "tell", "mail"):
            {"ask": self._fire_ask, "tell": self._fire_tell, "mail": self._fire_mail}[what](id, member, stale)
            return
        if what == "cron" and id in self.schedules:
            self.set_timer(member, self.now + 1000)
            crons.append(id)
            return
        due = self._due_of(id, what)
        if due is None:
            self.unset_timer(member)
            stale.append(member)
        elif self.is_moved(score, due):
            self.set_timer(member, due)
            stale.append(member)
        elif what == "timeout":
            is_timer = self.promises[id].kind is Kind.TIMER
            self.finish(id, State.RESOLVED if is_timer else State.TIMEDOUT)
        elif what in ("start", "retry"):
            self.leave(id)
            self.dispatch(id, self.snapshot_of(self.promises[id]), begins=what == "start")
        else:
            entry = dict(self.promises[id].journal)[what]
            state = State.RESOLVED if entry.kind is Kind.TIMER else State.TIMEDOUT
            self.settle_entry(id, what, entry, state, tells=True)

    def _fire_gate(self, id: str, what: str, member: str, quarantined: list[str]) -> None:
        if what == "replaced":
            self.unset_timer(member)
            if self.is_replaced(id):
                self.finish(id, State.CANCELED)
            return
        name, slash, key = id.partition("/")
        if not name or not slash:
            quarantined.append(member)
            self.unset_timer(member)
            self.halted.add(f"timers:{member}")
        elif name not in self.limits:
            self.unset_timer(f"{name}/~gates" if what == "gates" else member)
        elif what == "gate":
            self.open_key(name, key)
        else:
            self.open_all(name)

    def _due_of(self, id: str, what: str) -> int | None:
        """When a member's promise falls due; None if nobody waits for it (any more)."""
        promise = self.promises.get(id)
        if what == "cron" or promise is None or not promise.is_pending:
            return None
        if what == "timeout":
            return promise.deadline
        if what in ("start", "retry"):
            return promise.due if promise.place is Place.DELAYED else None
        entry = dict(promise.journal).get(what)
        return entry.due if entry and entry.state is State.PENDING else None

    # -- settle and control

    def _find(self, id: str) -> tuple[Promise | None, Entry | None]:
        """A promise with its own hash, or its entry in the journal of its owner."""
        promise, owner = self.promises.get(id), owner_of(id)
        if owner is None:
            if promise is None:
                raise Refused("NOT_FOUND")
            return promise, None
        holder = self.promises.get(owner[0])
        if promise and (holder is None or holder.incarnation == promise.incarnation):
            return promise, None
        entry = self.entry(*owner)
        if holder is None or entry is None:
            raise Refused("NOT_FOUND")
        if not holder.is_pending and entry.state is State.PENDING:
            entry = entry._replace(state=State.CANCELED, payload=b"")
        return None, entry

    def settle_one(self, id: str, state: State, payload: bytes, *, is_own: bool = False) -> tuple[bool, State]:
        """For a client, or for an execution (``is_own``), which settles no timers."""
        promise, entry = self._find(id)
        kinds = (Kind.PROMISE,) if is_own else (Kind.PROMISE, Kind.TIMER)
        if entry:
            if entry.kind not in kinds:
                raise Refused("NOT_ALLOWED")
            if entry.state is not State.PENDING:
                return (entry.state, entry.payload) == (state, payload), entry.state
            self._settle_in_journal(id, entry, state, payload)
            return True, state
        assert promise
        if promise.kind not in kinds:
            raise Refused("NOT_ALLOWED")
        if not promise.is_pending:
            return (promise.state, promise.value) == (state, payload), promise.state
        self.finish(id, state, payload)
        return True, state

    def _settle_in_journal(self, id: str, entry: Entry, state: State, payload: bytes = b"") -> None:
        owner, _, number = id.rpartition("~")
        self.settle_entry(owner, number, entry, state, payload)

    def _control(self, item: tuple[str, str, str]) -> tuple[str, State]:
        action, id, due = item
        promise, entry = self._find(id)
        match action:
            case "wake":
                return self._wake(id, promise, entry)
            case "reschedule":
                return self._reschedule(id, promise, entry, self.due_at(due))
            case "force" if promise:
                if not promise.is_pending:
                    return "already", promise.state
                self.finish(id, State.CANCELED)
                return "canceled", State.CANCELED
            case "cancel" | "force":
                return self._cancel(id, promise, entry)
            case "halt" | "resume" if promise and promise.kind is Kind.EXECUTION:
                return self._halt_or_resume(action, id, promise)
            case "halt" | "resume":
                raise Refused("NOT_ALLOWED")
            case "retry":
                return self._retry(id, promise)
            case _:
                raise Refused("INVALID")

    def _wake(self, id: str, promise: Promise | None, entry: Entry | None) -> tuple[str, State]:
        if entry:
            if entry.kind is not Kind.TIMER:
                raise Refused("NOT_ALLOWED")
            if entry.state is not State.PENDING:
                return "already", entry.state
            self._settle_in_journal(id, entry, State.RESOLVED)
            return "woken", State.RESOLVED
        assert promise
        if promise.place is Place.DELAYED:
            self.leave(id)
            self.dispatch(id)
            return "woken", State.PENDING
        if promise.kind is Kind.TIMER and promise.is_pending:
            self.finish(id, State.RESOLVED)
            return "woken", State.RESOLVED
        if not promise.is_pending or promise.place in (Place.QUEUED, Place.PARKED):
            return "already", promise.state
        if promise.place is Place.SUSPENDED:
            return "asleep", promise.state
        raise Refused("NOT_ALLOWED")

    def _reschedule(self, id: str, promise: Promise | None, entry: Entry | None, due: int) -> tuple[str, State]:
        if entry:
            if entry.state is not State.PENDING:
                return "already", entry.state
            if entry.due is None:
                raise Refused("NOT_ALLOWED")
            owner, _, number = id.rpartition("~")
            self.put_entry(owner, number, entry._replace(due=due))
            self.set_timer(id, due)
            return "rescheduled", entry.state
        assert promise
        if not promise.is_pending:
            return "already", promise.state
        if promise.place is Place.DELAYED:
            self.put(id, due=due)
            self.set_timer(f"{id}~start" if f"{id}~start" in self.timers else f"{id}~retry", due)
        elif promise.deadline is not None:
            self.put(id, deadline=due)
            self.set_timer(f"{id}~timeout", due)
        elif promise.place is Place.SUSPENDED:
            return "asleep", promise.state
        else:
            raise Refused("NOT_ALLOWED")
        return "rescheduled", promise.state

    def _cancel(self, id: str, promise: Promise | None, entry: Entry | None) -> tuple[str, State]:
        if entry:
            if entry.state is not State.PENDING:
                return "already", entry.state
            if entry.kind not in (Kind.PROMISE, Kind.TIMER):
                raise Refused("NOT_ALLOWED")
            self._settle_in_journal(id, entry, State.CANCELED)
            return "canceled", State.CANCELED
        assert promise
        if not promise.is_pending:
            return "already", promise.state
        never_ran = (promise.place is Place.QUEUED and promise.epoch == 1 and self.holder(promise) is None) or (
            promise.place is Place.PARKED and promise.epoch == 0
        )
        if promise.kind is not Kind.EXECUTION or never_ran or promise.place in (Place.DELAYED, Place.HALTED):
            self.finish(id, State.CANCELED)
            shown = f" while {promise.place}" if promise.place in (Place.DELAYED, Place.HALTED) else ""
            return f"canceled{shown}", State.CANCELED
        if self.entry(id, CANCEL) is None:
            self.journal_cancel(id)
            self.rouse_canceled(id)
        return "canceling", State.PENDING

    def _halt_or_resume(self, action: str, id: str, promise: Promise) -> tuple[str, State]:
        if not promise.is_pending:
            return "already", promise.state
        if (action == "halt") == (promise.place is Place.HALTED):
            return "halted" if action == "halt" else "running", promise.state
        self.leave(id)
        if action == "halt":
            self._halt(id)
            return "halted", promise.state
        self.put(id, crash_count=0, lone_crash_count=0)
        self.dispatch(id)
        return "resumed", promise.state

    def _retry(self, id: str, promise: Promise | None) -> tuple[str, State]:
        if promise is None or promise.kind is not Kind.EXECUTION or owner_of(id):
            raise Refused("NOT_ALLOWED")
        if promise.place is Place.HALTED:
            return "halted", promise.state
        if promise.is_pending:
            return "running", promise.state
        if promise.state is State.RESOLVED:
            raise Refused("NOT_ALLOWED")
        for number, entry in promise.journal:
            if entry.kind is Kind.CHILD and not entry.child_id:
                self._close_later(f"{id}~{number}")
        incarnation = self.next_incarnation(promise)
        deadline = (
            None if promise.deadline is None else min(incarnation + promise.deadline - promise.incarnation, DUE_MS_MAX)
        )
        fresh: dict[str, object] = {"state": State.PENDING, "value": b"", "journal": (), "base": 0, "expires": False}
        fresh |= {"has_family": False, "checkpoints": (), "is_unquoted": False, "lacking": ()}
        fresh["created"] = None if incarnation == self.now else self.now
        self.put(id, incarnation=incarnation, deadline=deadline, **fresh)
        if deadline is not None:
            self.set_timer(f"{id}~timeout", deadline)
        self.dispatch(id, begins=True)
        if id in self.closing:
            self.closing.remove(id)
        return "retrying", State.PENDING

    # -- reclaim and schedule

    def _holds(self, consumer: str, queue: str, name: int) -> bool:
        entry = self.stream.get(name)
        return entry is not None and (entry.queue, entry.holder) == (queue, consumer)

    def _lives_in(self, entry: StreamEntry) -> bool:
        promise = self.promises.get(entry.id)
        return (
            promise is not None and promise.is_pending and (promise.entry, promise.epoch) == (entry.entry, entry.epoch)
        )

    def _count_death(self, id: str, suspects: int, taken: int) -> int:
        promise = self.promises[id]
        crash_count = promise.crash_count + 1
        is_alone = (suspects == 1 and promise.crash_count >= 2) or taken == 1
        self.put(id, crash_count=crash_count, lone_crash_count=promise.lone_crash_count + 1 if is_alone else 0)
        return crash_count

    def _is_killer(self, id: str) -> bool:
        return self.promises[id].lone_crash_count >= 2

    def _schedule(self, action: str, name: str, due: str, seen_due: int, id: str, is_changed: bool) -> str:
        if action == "aside":
            return self._quarantine_schedule(name, seen_due, is_offered=not is_changed)
        if action == "remove":
            self.halted.discard(f"schedule:{name}")
            self.unset_timer(f"{name}~cron")
            return "missing" if self.schedules.pop(name, None) is None else "removed"
        if action == "advance" and name not in self.schedules:
            self.unset_timer(f"{name}~cron")
            return "missing"
        if action == "advance" and self.schedules[name] != seen_due:
            return "stale"
        if action == "advance" and id not in self.promises:
            self._make(id, self.now, Promise(0, function="f", queue="workers"))
        self.halted.discard(f"schedule:{name}")
        if action == "advance" or is_changed or name not in self.schedules:
            self.schedules[name] = self.due_at(due)
        self.set_timer(f"{name}~cron", self.schedules[name])
        return str(self.schedules[name]) if action == "put" else "advanced"

    def _quarantine_schedule(self, name: str, seen_due: int, *, is_offered: bool) -> str:
        if name not in self.schedules:
            return "missing"
        if self.schedules[name] != seen_due:
            return "stale"
        if is_offered:
            self.halted.add(f"schedule:{name}")
            self.set_timer(f"{name}~cron", self.now + 60_000)
            self._tells_all = True
        return "aside"


REFUSED_AS = {"keyless": b"K", "refuse": b"F", "drop": b"D"}
"""Why a child was not made, as the payload of its entry."""


def _traits(op: StartChild) -> tuple[int | None, str]:
    """The priority and the key of a child."""
    priority, _, rest = op.traits.partition("\t")
    return int(priority) if priority else None, rest.partition("\t")[0]


TRANSACTED = b"*1\n:1\n"
"""The reply of a transaction that counts how often it is carried out: once."""


def _item(handle: Callable[[T], R], item: T) -> R | Refused:
    """Items do not depend on each other: the error of one is its own answer."""
    try:
        return handle(item)
    except Refused as refused:
        return refused


def _created(disposition: str, promise: Promise) -> Created:
    return Created(disposition, promise.state, promise.place, promise.incarnation, promise.function, promise.value)
