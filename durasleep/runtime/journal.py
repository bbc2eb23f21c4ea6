"""The events of one execution, and the calls of its code; the difference is what a commit writes."""

# pyright: reportPrivateUsage=false
# The fields of a durable future are hidden from users, not from the journal.

from __future__ import annotations

import functools
import random
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from durasleep.codec import Codec
from durasleep.errors import (
    Canceled,
    CorruptData,
    DurasleepError,
    Ended,
    LimitFull,
    MailboxFull,
    NewerVersion,
    NotAllowed,
    NotFound,
    OtherFunction,
    RemoteError,
    TimedOut,
    UsageError,
)
from durasleep.model import (
    CANCEL,
    MARKS,
    RECEIVES_MAX,
    CancelEntry,
    Due,
    Entry,
    Kind,
    Mark,
    Number,
    Op,
    PromiseId,
    Publish,
    StartTimer,
    State,
    delivery_of,
)
from durasleep.runtime.event_loop import CallNumbers, WorkflowFuture, WorkflowLoop, WorkflowTimer, find_call_site
from durasleep.runtime.retry import Retry, failure_of
from durasleep.runtime.transaction_reply import read_reply

T = TypeVar("T")

TIMER_MS_MIN = 1_000  # a shorter wait between two attempts is cheaper in the worker than in Redis
_AWAITED = (
    Kind.TIMER,
    Kind.STEP,
    Kind.CHILD,
    Kind.RECEIVE,
)  # a promise is for others, and a detached execution needs no waiter
_SENT = (Kind.SEND, Kind.SETTLE)
_NO_NUMBERS: frozenset[Number] = frozenset()
_DEPLOY = "Deploy the code this execution began with and resume it, or cancel it."
_FIT = "Deploy code that can read it, such as with a corrected type hint, and resume it, or cancel it."
_SHOWN_BEFORE = 3  # matching entries that are shown before a mismatch, to help find the position


class StepCall(msgspec.Struct, frozen=True):
    """A function to run now, outside the workflow."""

    number: Number
    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout_s: float | None
    delay_s: float = 0.0
    """How long the worker waits before it begins: between two attempts, if the wait is too short for a timer."""
    retry: Retry | None = None
    """Decides whether another attempt follows, if this one fails."""
    attempt: int = 1
    first: Number = Number("")
    """For a further attempt: the number of the first one."""

    def shown_of(self, owner: str) -> str:
        """Its name for people, with the number that all attempts share: ``step 1 (charge), attempt 2, of order-7``."""
        attempt = f", attempt {self.attempt}," if self.attempt > 1 else ""
        return f"step {self.first or self.number} ({self.name}){attempt} of {owner}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One durable call as debug mode compares it."""

    kind: Kind
    name: str
    wanted: Op | StepCall | None
    """The op it asked for; None if the journal had it."""
    call_site: str
    """Its position in the code."""


class Forgotten(msgspec.Struct, frozen=True):
    """A durable call that is not awaited."""

    what: str
    number: Number
    call_site: str = ""
    """Its position in the code; empty if it must be found by its number."""


class _Awaiting(Protocol):
    """The receiver of a settlement."""

    def deliver(self, entry: Entry) -> None: ...


class DurableFuture(WorkflowFuture[T]):
    """The awaitable of a durable call; to cancel it cancels the call."""

    __slots__ = ("_given_id", "_journal", "_kind", "_name", "_type_hint", "number")
    number: Number
    _kind: Kind
    _name: str
    _journal: Journal | None
    _type_hint: Any
    _given_id: PromiseId | None

    @property
    def id(self) -> PromiseId:
        """The id by which it can be settled, controlled or found from outside."""
        if self._given_id is not None:
            return self._given_id
        owner = self._journal.owner if self._journal is not None else ""
        return PromiseId(f"{owner}~{self.number}")

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call, unless it has settled."""
        if not super().cancel(msg):
            return False
        if self._journal is not None:
            self._take_back(self._journal)
        return True

    def remove_done_callback(self, fn: Any, /) -> int:
        """A waiter has stopped waiting. A call that was once awaited does not count as forgotten."""
        if self._journal is not None:
            self._journal.note_listened(self.number)
        return super().remove_done_callback(fn)

    def _take_back(self, journal: Journal) -> None:
        journal.cancel(self.number, self._kind, self._name)

    def _refuse(self, journal: Journal, entry: Entry, misfit: Exception) -> None:
        """The value does not fit. That is no error of the awaited call: corrected code can read it."""
        journal.halt_unread(entry, misfit)

    @property
    def is_unawaited(self) -> bool:
        """Whether nobody awaits it now, although its kind has no effect without a waiter."""
        return not self._callbacks and self._given_id is None and self._kind in _AWAITED

    def describe(self) -> Forgotten:
        """The call, described as a forgotten one."""
        return Forgotten(f"{self._kind} {self._name!r}" if self._name else self._kind.value, self.number)

    def deliver(self, entry: Entry) -> None:
        """Complete with the settlement of the entry."""
        journal = self._journal
        if journal is None or self.done():
            return
        if not (self._callbacks or journal.loop.replaying):
            journal.unawaited = self
        try:
            if entry.state is not State.RESOLVED:
                if is_given_back(entry):
                    return
                error = _error_of(entry, journal.codec, self.id)
                self.set_exception(error)
                return
            value = _result_of(entry, journal.codec, self._type_hint, self)
        except (CorruptData, UsageError) as misfit:
            self._refuse(journal, entry, misfit)
            return
        self.set_result(value)


class RetriedStep(DurableFuture[T]):
    """A step with further attempts. The first is entry n; the waits and attempts after it are n.1, n.2, and so on."""

    __slots__ = ("_attempt", "_call", "_current", "_numbers", "_retry")
    _attempt: int
    _call: StepCall
    _current: tuple[Number, Kind, str]
    """The entry it waits for now."""
    _numbers: CallNumbers
    _retry: Retry

    @classmethod
    def begin(cls, journal: Journal, call: StepCall, type_hint: Any, retry: Retry) -> RetriedStep[Any]:
        """Ask for the first attempt."""
        future: RetriedStep[Any] = cls(loop=journal.loop)
        future._retry = retry
        future._call = call
        future._attempt = 0
        number = journal.enter(
            future, Kind.STEP, call.name, type_hint, lambda number: msgspec.structs.replace(call, number=number)
        )
        future._current = (number, Kind.STEP, call.name)
        future._numbers = CallNumbers(f"{number}.")
        future._attempt = 1
        return future

    def deliver(self, entry: Entry) -> None:
        """Complete, or wait for and begin the next attempt."""
        journal = self._journal
        if self.done() or journal is None:
            return
        if entry.kind is Kind.TIMER and entry.state is State.RESOLVED:
            self._try_again(journal, 0.0)
            return
        if entry.kind is Kind.STEP and entry.state is State.REJECTED and self._is_retried(journal, entry.payload):
            self._wait(journal, journal.codec.decode_error(entry.payload))
            return
        super().deliver(entry)

    def _is_retried(self, journal: Journal, payload: bytes) -> bool:
        """As the worker that ran the attempt decided; older journals do not say."""
        try:
            was_retried = journal.codec.was_retried(payload)
        except CorruptData:
            return False
        if was_retried is None:
            return self._retry.wants(journal.codec.decode_error(payload), self._attempt)
        return was_retried

    def _wait(self, journal: Journal, error: Exception) -> None:
        chance = random.Random(f"{journal.owner} {self.number} {self._attempt}").random()
        delay_ms = self._retry.delay_ms(error, self._attempt, chance)
        self._attempt += 1
        if delay_ms < TIMER_MS_MIN:
            self._try_again(journal, delay_ms / 1000)
            return
        name = f"{self._name}, attempt {self._attempt}"
        self._ask(journal, Kind.TIMER, name, lambda number: StartTimer(number, name, Due(f"+{delay_ms}")))

    def _try_again(self, journal: Journal, delay_s: float) -> None:
        call, first, attempt = self._call, self.number, self._attempt
        self._ask(
            journal,
            Kind.STEP,
            call.name,
            lambda number: msgspec.structs.replace(call, number=number, delay_s=delay_s, attempt=attempt, first=first),
        )

    def _ask(self, journal: Journal, kind: Kind, name: str, make: Callable[[Number], Op | StepCall]) -> None:
        number = self._numbers.next()
        self._current = (number, kind, name)
        journal.ask(number, kind, name, self, make)

    def _take_back(self, journal: Journal) -> None:
        journal.cancel(*self._current)


class _TimerEntry:
    """A timer of the loop, made by asyncio.sleep or a timeout. If it was canceled from outside, it never fires."""

    __slots__ = ("_timer",)

    def __init__(self, timer: WorkflowTimer) -> None:
        self._timer = timer

    def deliver(self, entry: Entry) -> None:
        if entry.state is not State.CANCELED:
            self._timer.fire()


class Journal:
    """The entries of one execution by number, and every call of its code by the same numbers."""

    __slots__ = (
        "_asked",
        "_buried",
        "_entries",
        "_listened",
        "_marks",
        "_matched",
        "_patches",
        "_running",
        "_stopped",
        "_wanted",
        "channels",
        "codec",
        "forgotten",
        "handed_out",
        "loop",
        "open_calls",
        "owner",
        "payload_bytes",
        "trace",
        "unawaited",
    )

    def __init__(self, owner: PromiseId, codec: Codec, loop: WorkflowLoop) -> None:
        self.owner = owner
        self.codec = codec
        self.loop = loop
        self.trace: dict[Number, Asked] | None = None
        """Everything the code has asked for, in debug mode."""
        self.payload_bytes = 0
        """The bytes of their payloads; the other bytes of an entry are few, and the number of entries is bounded."""
        self.handed_out: Collection[Number] = ()
        """Steps that run already, begun by an earlier activation."""
        self._marks: dict[tuple[Kind, str], Number] = {}
        self._patches: dict[str, bool] = {}
        self._entries: dict[Number, Entry] = {}
        self._asked: dict[Number, _Awaiting | None] = {}  # None once delivered or canceled
        self.open_calls = 0
        """How many calls have neither settled nor been canceled."""
        self._matched = 0  # how many of them were in the loaded journal
        self._buried: set[Number] = set()  # asked for, although the workflow has canceled them in the journal
        self._wanted: dict[Number, Op | StepCall] = {}  # the difference, in the order of the calls
        self._running: dict[Number, None] = {}  # steps handed out
        self._stopped: list[Number] = []
        self.channels: dict[Number, Kind] = {}  # open calls that receive or send something; few workflows have any
        self._listened: frozenset[Number] = _NO_NUMBERS  # few are ever awaited and then left, or forgotten
        self.forgotten: tuple[Forgotten, ...] = ()
        """Calls that were not awaited and that nobody can await any more; those still open are added at the end."""
        self.unawaited: DurableFuture[Any] | None = None
        """The call that was delivered last, if nobody awaited it."""

    # -- what has happened

    def load(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take entries in any order; returns the settled ones in the order in which they must be delivered."""
        known = self._entries
        settled: list[Entry] = []
        for entry in entries:
            if entry.kind in MARKS:
                self._marks[entry.kind, entry.name] = entry.number
                continue
            known[entry.number] = entry
            if entry.stamp:
                self.payload_bytes += len(entry.payload)
                settled.append(entry)
        if len(settled) > 1:
            settled.sort(key=_order)
        return settled

    def feed(self, entry: Entry) -> None:
        """Deliver one settlement; a settlement without a call is a mismatch."""
        number = entry.number
        try:
            asked = self._asked[number]
        except KeyError:
            self.loop.halt(self._unasked(entry))
            return
        if asked is None:
            return
        self._asked[number] = None
        self.open_calls -= 1
        self._running.pop(number, None)
        if self.channels:
            self.channels.pop(number, None)
        asked.deliver(entry)
        if self.unawaited is not None:
            asked = None
            self._note_if_forgotten()

    def note_heard(self, entry: Entry) -> None:
        """One settlement after the end of the code, to which nothing is delivered any more."""
        number = entry.number
        if entry.kind is Kind.RECEIVE:
            return  # its message returns with the end, see ``return_late``
        if self.channels.pop(number, None) is not None and self._asked.get(number) is not None:
            self._asked[number] = None
            self.open_calls -= 1

    def return_late(self) -> None:
        """Messages that came after the end of the code return, all of them at once: so they stay in order."""
        for number, kind in [*self.channels.items()]:
            entry = self._entries.get(number)
            if kind is Kind.RECEIVE and entry is not None and entry.state is State.RESOLVED:
                self.cancel(number, kind, entry.name)

    def _note_if_forgotten(self) -> None:
        """Look at calls that were delivered without a waiter: if the code holds no reference, they can never be
        awaited.
        """
        future, self.unawaited = self.unawaited, None
        if future is None or not future.is_unawaited or future.number in self._listened:
            return
        described, kept = future.describe(), weakref.ref(future)
        future = None
        if kept() is None:
            self.forgotten += (described,)

    def note_listened(self, number: Number) -> None:
        """The call was awaited."""
        self._listened |= {number}

    def note_unsent(self, call_site: str) -> None:
        """A transaction was built at this position, and was dropped before it was sent."""
        loop = self.loop
        if not (loop.replaying or loop.evicting or loop.halted):
            self.forgotten += (Forgotten("transaction", Number(""), call_site),)

    def take_forgotten(self, *, is_end: bool) -> tuple[Forgotten, ...]:
        """Calls that are not awaited, found since the last time; at the end also all that are still open."""
        found, self.forgotten = self.forgotten, ()
        if is_end:
            futures: list[DurableFuture[Any]] = [one for one in self._asked.values() if isinstance(one, DurableFuture)]
            found += tuple([one.describe() for one in futures if one.is_unawaited and one.number not in self._listened])
        return found

    def halt_unread(self, entry: Entry, misfit: Exception) -> None:
        """Halt because the code cannot read an entry of the journal."""
        number = entry.number
        code_line = f"  + {number:<6} {self.codec.show_misfit(misfit)}"
        self.loop.halt(self._difference(_line("-", number, entry), code_line, _FIT))

    def halt_unfit(self, args: bytes, misfit: Exception) -> None:
        """Halt because the arguments with which this execution began do not fit its code."""
        self.loop.halt(self._difference(f"  - {self.codec.show_args(args)}", f"  + {self.codec.show_misfit(misfit)}"))

    def check_all_asked(self) -> None:
        """Halt if the loaded journal has an entry that the code has not asked for, or waits for one it canceled."""
        if self._matched < len(self._entries):
            for number in sorted(self._entries, key=sort_key):
                entry = self._entries[number]
                if not (number in self._asked or number == CANCEL or _is_tombstone(entry)):
                    self.loop.halt(self._unasked(entry))
                    return
        for number in self._buried:
            self.loop.halt(
                self._difference(
                    _line("-", number, self._entries[number], "canceled by the workflow"),
                    _line("+", number, self._entries[number], "still awaited"),
                )
            )
            return

    def knows(self, number: Number) -> bool:
        """Whether the loaded journal has this entry."""
        return number in self._entries

    # -- what the code asks for

    def call(
        self,
        kind: Kind,
        name: str,
        type_hint: Any,
        make: Callable[[Number], Op | StepCall],
        given_id: PromiseId | None = None,
    ) -> DurableFuture[Any]:
        """One durable call: takes the next number; ``make`` is called only if the journal lacks it."""
        future: DurableFuture[Any] = DurableFuture(loop=self.loop)
        self.enter(future, kind, name, type_hint, make, given_id)
        return future

    def enter(
        self,
        future: DurableFuture[Any],
        kind: Kind,
        name: str,
        type_hint: Any,
        make: Callable[[Number], Op | StepCall],
        given_id: PromiseId | None = None,
    ) -> Number:
        """Give a new future its number and ask for its entry.

        Every durable call comes through here. The future's fields are set one by one, because a constructor would cost
        as much as all of this. The order of the steps matters:

        1. The future gets its fields, so that it can be hashed and described, whatever happens next.
        2. During an eviction nothing is asked for: the first call of each task raises, further ones stay pending.
        3. The number is taken, and the call is asked for. That may raise, for instance if an argument cannot be sent.
        4. Only then the future knows its journal. From here on, to cancel it cancels the call.
        """
        loop = self.loop
        numbers = loop.call_numbers()
        numbers.made += 1
        future.serial = numbers.made  # the same as `next_serial`, which would be one more call
        future._given_id = given_id
        future._kind = kind
        future._name = name
        future._type_hint = type_hint
        future._journal = None
        if loop.evicting and loop.is_call_refused(numbers):
            future.number = Number("")
            return future.number
        number = future.number = numbers.next()
        self.ask(number, kind, name, future, make)
        future._journal = self
        return number

    def start_timer(self, timer: WorkflowTimer, due: Due) -> None:
        """A durable call of the loop itself."""
        if timer.number is not None:
            make = functools.partial(StartTimer, name="", due=due)
            self.ask(timer.number, Kind.TIMER, "", _TimerEntry(timer), make)

    def ask(
        self, number: Number, kind: Kind, name: str, asked: _Awaiting, make: Callable[[Number], Op | StepCall]
    ) -> None:
        """Wait for entry ``number``; if the journal lacks it, the next commit makes it."""
        entry = self._entries.get(number) if self._entries else None
        if self.trace is not None:
            self.trace[number] = Asked(kind, name, make(number) if entry is None else None, find_call_site())
        if entry is None:
            self._want(number, make)
        else:
            if entry.kind is not kind or entry.name != name:
                self.loop.halt(self._difference(_line("-", number, entry), f"  + {number:<6} {kind:<11} {name!r}"))
                return
            self._matched += 1
            if entry.state is State.PENDING:
                if kind is Kind.STEP:  # a step without a result runs again
                    self._want(number, make)
            elif entry.state is State.CANCELED and (not entry.stamp or kind is Kind.RECEIVE):
                self._buried.add(number)
        self._asked[number] = asked
        self.open_calls += 1

    def _want(self, number: Number, make: Callable[[Number], Op | StepCall]) -> None:
        if number in self.handed_out:
            self._running[number] = None
        else:
            self._wanted[number] = make(number)

    def cancel_timer(self, number: Number) -> None:
        """The loop does not need this timer any more."""
        self.cancel(number, Kind.TIMER, "")

    def cancel(self, number: Number, kind: Kind, name: str) -> None:
        """The code does not need this any more; it gets no result."""
        if self.loop.evicting or self._asked.get(number) is None:
            return
        self._asked[number] = None
        self.open_calls -= 1
        self._buried.discard(number)
        self.channels.pop(number, None)
        if number in self._wanted:
            del self._wanted[number]
            return
        entry = self._entries.get(number)
        if entry is None or entry.state is State.PENDING or (kind is Kind.RECEIVE and entry.state is State.RESOLVED):
            self._wanted[number] = CancelEntry(number, kind, name)  # a message that was not delivered is given back
        if number in self._running:
            del self._running[number]
            self._stopped.append(number)

    def patched(self, change: str) -> bool:
        """Whether this execution runs the code with ``change``; it is noted when that code is first reached."""
        known = self._patches.get(change)
        if known is None:
            known = (Kind.PATCH, change) in self._marks
            if not known and not self.loop.has_history:
                self.mark(Kind.PATCH, change)
                known = True
            self._patches[change] = known
        return known

    def mark(self, kind: Kind, name: str) -> None:
        """Note the version of the code, with the next commit."""
        number = Number(f"{CANCEL}.{len(self._marks) + 1}")  # calls of the code have numbers above that of the cancel
        self._marks[kind, name] = number
        self._wanted[number] = Mark(number, kind, name)

    # -- channels

    def check_receive(self) -> None:
        """UsageError if as many messages are waited for as can be."""
        if sum(kind is Kind.RECEIVE for kind in self.channels.values()) >= RECEIVES_MAX:
            raise UsageError(f"{self.owner} waits for {RECEIVES_MAX} messages already: await some, or cancel them")

    def call_channel(
        self,
        future: DurableFuture[Any],
        kind: Kind,
        name: str,
        type_hint: Any,
        make: Callable[[Number], Op],
        given_id: PromiseId | None = None,
    ) -> None:
        """A durable call that receives or sends something."""
        number = self.enter(future, kind, name, type_hint, make, given_id)
        if future._journal is not None:
            self.channels[number] = kind

    def ask_channel(
        self, number: Number, kind: Kind, name: str, asked: _Awaiting, make: Callable[[Number], Op]
    ) -> None:
        """The same for an entry whose number is known."""
        self.ask(number, kind, name, asked, make)
        self.channels[number] = kind

    @property
    def is_sending(self) -> bool:
        """Whether something that was sent has not been heard of: an ending waits for it."""
        return any(kind in _SENT for kind in self.channels.values())

    def publish(self, op: Publish) -> None:
        """With the next commit, as its first op: it must not be missing if only a part of the ops is committed."""
        if op.number in self._wanted:
            self._wanted[op.number] = op
        else:
            self._wanted = {op.number: op, **self._wanted}

    # -- the difference

    def take_difference(self) -> tuple[tuple[Op, ...], tuple[StepCall, ...], tuple[Number, ...]]:
        """New ops, steps to begin and steps to stop since the last time; from now on they count as done."""
        if not (self._wanted or self._stopped):
            return (), (), ()
        steps: list[StepCall] = []
        ops: list[Op] = []
        for wanted in self._wanted.values():
            if isinstance(wanted, StepCall):
                steps.append(wanted)
                self._running[wanted.number] = None
            else:
                ops.append(wanted)
        self._wanted.clear()
        stopped = tuple(self._stopped)
        self._stopped.clear()
        return tuple(ops), tuple(steps), stopped

    @property
    def has_undelivered_cancel(self) -> bool:
        """Whether it has a cancel of the execution that the code has not been told yet."""
        return CANCEL in self._entries and not (self.loop.canceled or self.loop.evicting)

    @property
    def running(self) -> tuple[Number, ...]:
        """The steps that were handed out and have neither settled nor been stopped."""
        return (*self._stopped, *self._running)

    @property
    def size(self) -> int:
        """How many entries it has, or will have."""
        asked, known = len(self._asked), len(self._entries)
        return (asked if asked > known else known) + len(self._marks)  # noqa: FURB136 - hot: max() costs twice as much

    def filled(self, entries_max: int, bytes_max: int) -> float:
        """How much of its limits is used: 1 is all."""
        asked, known = len(self._asked), len(self._entries)  # as in `size`, which would be one more call
        entries = ((asked if asked > known else known) + len(self._marks)) / entries_max  # noqa: FURB136
        carried = self.payload_bytes / bytes_max
        return entries if entries > carried else carried  # noqa: FURB136 - as in `size`

    def forget(self) -> None:
        """Drop the futures, so that no cycle is left for the garbage collector."""
        self._asked.clear()
        self._wanted.clear()

    def entries(self) -> list[Entry]:
        """All entries that are known to be written, marks included."""
        marks = [Entry(number, kind, State.RESOLVED, name) for (kind, name), number in self._marks.items()]
        return [*self._entries.values(), *marks]

    # -- messages about differences

    def _unasked(self, entry: Entry) -> str:
        return self._difference(_line("-", entry.number, entry), f"  + {entry.number:<6} nothing")

    def _difference(self, journal_line: str, code_line: str, advice: str = _DEPLOY) -> str:
        before = [number for number in self._asked if number in self._entries][-_SHOWN_BEFORE:]
        return "\n".join(
            [
                f"the code of {self.owner} and its journal disagree (- the journal has, + the code asks for):",
                *(_line("=", number, self._entries[number]) for number in before),
                journal_line,
                code_line,
                advice,
            ]
        )


def _line(sign: str, number: Number, entry: Entry, state: str | None = None) -> str:
    return f"  {sign} {number:<6} {entry.kind:<11} {entry.name!r} ({state or entry.state})"


def _order(entry: Entry) -> tuple[int, Number]:
    return entry.stamp, entry.number


def sort_key(number: Number) -> list[int]:
    """Sorts numbers in the order of the calls: ``1.10`` comes after ``1.9``."""
    return [int(part) for part in number.split(".")]


def is_given_back(entry: Entry) -> bool:
    """Whether this was a receive whose message was given back, because the code did not want it any more."""
    return entry.kind is Kind.RECEIVE and entry.state is State.CANCELED


def _is_tombstone(entry: Entry) -> bool:
    return entry.state is State.CANCELED and not entry.stamp


# -- values


def _result_of(entry: Entry, codec: Codec, type_hint: Any, future: DurableFuture[Any]) -> Any:
    if entry.kind is Kind.TRANSACTION:
        return read_reply(entry.payload)
    if entry.kind is Kind.DETACHED:
        return future.id
    if entry.kind is Kind.SEND:
        return delivery_of(entry.payload)
    if entry.kind is Kind.SETTLE:
        return entry.payload == b"1"
    return None if entry.kind is Kind.TIMER else codec.decode(entry.payload, type_hint)


def _error_of(entry: Entry, codec: Codec, id: PromiseId) -> Exception:
    match entry.state:
        case State.REJECTED:
            return _rejection(entry, codec, id)
        case State.CANCELED:
            return Canceled(f"{entry.kind} {id} was canceled")
        case State.TIMEDOUT if entry.kind is Kind.RECEIVE:
            return TimedOut(f"no message came to channel {entry.name!r} of {id.rpartition('~')[0]} in time")
        case State.TIMEDOUT:
            return TimedOut(f"{entry.kind} {id} was not settled before its deadline")
        case _:
            raise CorruptData(f"{entry.kind} {id} has an order stamp, but is pending")


def _refusal(entry: Entry, id: PromiseId) -> Exception:
    """Why a script has not started a child. It cannot write payloads, so it writes a letter; no error is so short."""
    match entry.payload:
        case b"":
            return OtherFunction(f"id {id} belongs to another function than {entry.name}; nothing was started")
        case b"F" | b"D":
            return LimitFull(f"the limit of {entry.name} has no room for another one to wait: {id} was not started")
        case b"K":
            return UsageError(
                f"the limit of {entry.name} counts by key, and {id} has none: it was not started; give "
                "one, by options(key=...), or by=lambda ... beside limit="
            )
        case b"T":
            return UsageError(f"the limit of {entry.name} counts by key, and {id} has no key in braces: not started")
        case _:
            return CorruptData(f"{entry.kind} {id} was rejected without an error")


def _not_sent(entry: Entry) -> Exception:
    """Why a script has sent or settled nothing."""
    what = f"a message for {entry.child_id}" if entry.kind is Kind.SEND else f"the settlement of {entry.child_id}"
    error, why = _NOT_SENT.get(entry.payload, (CorruptData, "what is there is not ours"))
    return error(f"{what} was not made: {why}")


_NOT_SENT: dict[bytes, tuple[type[DurasleepError], str]] = {
    b"N": (NotFound, "there is none"),
    b"E": (Ended, "it has ended"),
    b"M": (MailboxFull, "its mailbox is full"),
    b"A": (NotAllowed, "an execution takes messages and a promise is settled, nothing else"),
    b"V": (NewerVersion, "only a newer version can use it"),
}


def _rejection(entry: Entry, codec: Codec, id: PromiseId) -> Exception:
    if len(entry.payload) <= 1:
        if entry.kind in (Kind.CHILD, Kind.DETACHED):
            return _refusal(entry, id)
        if entry.kind in _SENT:
            return _not_sent(entry)
    if entry.kind is Kind.TRANSACTION:
        return RemoteError("ResponseError", entry.payload[1:].decode(errors="replace").strip())
    error = codec.read_error(entry.payload)
    failure = failure_of(error)
    return failure if isinstance(failure, Exception) else error
