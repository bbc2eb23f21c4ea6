"""Drives one execution from its journal: the same code gets the same settlements, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any

from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.errors import CorruptData, NotDurable, UsageError
from durasleep.model import (
    CANCEL,
    Entry,
    Kind,
    Mark,
    Number,
    Op,
    PromiseId,
    Publish,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
)
from durasleep.runtime import asyncio_patches
from durasleep.runtime.context import Context, ExecutionInfo, run_with_cleanup
from durasleep.runtime.definition import WorkflowDefinition
from durasleep.runtime.event_loop import DRAIN_CALLBACKS_MAX, Watch, WorkflowLoop, leak_coroutine, position_of
from durasleep.runtime.journal import Asked, Forgotten, Journal
from durasleep.runtime.outcome import (
    CanceledOutcome,
    CloseReport,
    Continued,
    Halted,
    Progress,
    Rejected,
    Resolved,
    WorkflowOutcome,
)
from durasleep.settings import Settings

_POSITIONS_MAX = 20  # tasks whose positions are named: a fan-out of thousands waits in one line
_JOURNAL_WARNED = 0.5  # the part of a journal's limits at which a warning is logged

asyncio_patches.install()


_CLEAN = CloseReport(())


class Activation:
    """One execution in memory: ``start`` once, ``feed`` as commits are answered, ``close`` always.

    It raises no error of user code. It runs in a plain callback of a real loop, on one thread.
    """

    __slots__ = (
        "_args",
        "_base",
        "_definition",
        "_fill_before",
        "_info",
        "_journal",
        "_loop",
        "_settings",
        "_unseen",
        "codec",
        "last_op_number",
        "seen",
        "seen_number",
    )

    seen: int
    """The stamp of the last settlement that was delivered; 0 at first."""
    seen_number: Number
    """The number of that entry."""
    last_op_number: Number
    """The last number that was asked for and committed: a pending entry has no stamp that identifies it."""

    def __init__(
        self,
        definition: WorkflowDefinition,
        info: ExecutionInfo,
        args: bytes,
        codec: Codec,
        *,
        settings: Settings,
        base: int = 0,
        watch: Watch | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """``base`` is the last number of the runs before this one; ``watch`` sees the calls of the code; ``prepare`` is
        called in its context, before it.
        """
        self._definition = definition
        self._info = info
        self._args = args
        self.codec = codec
        self._settings = settings
        self._unseen: Collection[str] = ()
        self._fill_before = 0.0
        self._base = base
        loop = self._loop = WorkflowLoop(info.begun_ms or info.created_ms)
        if base:
            loop.root_numbers.taken = base
        if watch is not None:
            loop.watch = watch
        if prepare is not None:
            loop.prepare = prepare
        loop.info = info
        self._journal = loop.timers = Journal(info.id, codec, loop)
        if settings.debug:
            self._journal.trace = {}
        self.seen = 0
        self.seen_number = self.last_op_number = Number("")

    def start(
        self, entries: Iterable[Entry], unseen: Collection[str] | None = None, handed_out: Collection[Number] = ()
    ) -> Progress:
        """Replay the whole journal, given in any order.

        ``unseen`` are the numbers that no commit has named as seen: from the first of them on, it is no longer a
        replay, and log lines are new. Without them, only the newest settlement is new. Steps ``handed_out`` run
        already.
        """
        entries = list(entries)
        self._journal.handed_out = handed_out
        settled = self._journal.load(entries) if entries else []
        self._loop.has_history = _has_begun(entries)
        if not self._loop.has_history and self._definition.version > 1:
            self._journal.mark(Kind.VERSION, str(self._definition.version))
        if entries:
            self._fill_before = self._journal.filled(
                self._settings.journal_entries_max, self._settings.journal_bytes_max
            )
        self._unseen = unseen if unseen is not None else [entry.number for entry in settled[-1:]]
        loop = self._loop
        try:
            coro = self._call()
        except CorruptData as error:
            loop.halt(f"the arguments of {self._info.id} cannot be read: {error}")
            return self._progress()
        except UsageError as misfit:
            is_first_run = self._info.begun_ms <= self._info.created_ms
            if is_first_run and not self._loop.has_history:  # they never fitted: that is an error of the caller
                return self._ended(self._rejected(misfit))
            self._journal.halt_unfit(self._args, misfit)
            return self._progress()
        except Exception as error:  # noqa: BLE001 - any error that user code raises when called ends the execution
            return self._ended(self._rejected(error))
        if settled or loop.is_shadow:
            loop.replaying = True
        loop.enter()
        try:
            loop.begin(coro)
            if not loop.drain():
                self._ran_away()
            self._feed(settled)
        finally:
            loop.leave()
        loop.end_replay()
        if entries:
            self._journal.check_all_asked()
        return self._progress()

    def feed(self, entries: Iterable[Entry]) -> Progress:
        """Go on with all the settlements that a commit has returned; those delivered before are skipped."""
        settled = self._journal.load(entries)
        if self._settings.debug:
            self._unseen = {*self._unseen, *(entry.number for entry in settled)}
        self._loop.enter()
        try:
            self._feed(settled)
        finally:
            self._loop.leave()
        return self._progress()

    def note_committed(self, ops: Sequence[Op]) -> None:
        """The server has these ops now."""
        if ops and (number := _last_entry(ops)):
            self.last_op_number = number

    def positions(self) -> str:
        """The positions at which the code waits, for people."""
        shown = [f"at {position_of(task)}" for task in self._loop.unfinished()[:_POSITIONS_MAX]]
        return ", ".join(shown)

    @property
    def asked(self) -> dict[Number, Asked]:
        """Everything the code has asked for so far; only kept in debug mode and in repeated runs."""
        return self._journal.trace or {}

    def run_again(self) -> tuple[Activation, Progress]:
        """Another run of the same code over the same journal, which logs nothing and keeps everything it asks for."""
        twin = Activation(
            self._definition,
            self._info,
            self._args,
            self.codec,
            settings=self._settings,
            base=self._base,
            prepare=self._loop.prepare,
        )
        twin._loop.is_shadow = True
        twin._journal.trace = {}
        return twin, twin.start(self._journal.entries(), self._unseen)

    def close(self) -> CloseReport:
        """Evict the workflow: cancel its tasks, within bounds, while durable calls raise WorkflowEvicted."""
        loop = self._loop
        if not loop.drop() and (leaked := loop.evict(self._journal.size)):
            for task in leaked:
                leak_coroutine(task)
            return CloseReport(tuple(map(position_of, leaked)))
        loop.forget()
        self._journal.forget()
        return _CLEAN

    def note_trace(self, trace_id: str) -> None:
        """The trace in which it goes on, for log lines."""
        self._loop.trace_id = trace_id

    @property
    def definition(self) -> WorkflowDefinition:
        return self._definition

    @property
    def info(self) -> ExecutionInfo:
        return self._info

    @property
    def size(self) -> int:
        """How many entries its journal has, or will have."""
        return self._journal.size

    @property
    def payload_bytes(self) -> int:
        """The bytes of their payloads."""
        return self._journal.payload_bytes

    @property
    def is_open(self) -> bool:
        """Whether something it has asked for has neither settled nor been canceled."""
        return self._journal.open_calls > 0

    @property
    def id(self) -> PromiseId:
        """The id of the execution."""
        return self._info.id

    @property
    def function(self) -> str:
        """The name of its workflow."""
        return self._info.function

    # -- driving

    def _call(self) -> Coroutine[Any, Any, Any]:
        definition = self._definition
        args, kwargs = self.codec.decode_args(self._args, definition.fn, skip_first=True)
        context = Context(self._info, self.codec, self._loop, self._journal, definition, self._base)
        self._loop.context = context
        return run_with_cleanup(context, definition.fn(context, *args, **kwargs))

    def _feed(self, settled: list[Entry]) -> None:
        loop = self._loop
        for entry in settled:
            if entry.stamp <= self.seen:
                continue
            if self._is_over():
                if loop.halted is not None or not self._journal.is_sending:
                    return
                self._note_heard(entry)
                continue
            self.seen = loop.now_ms = entry.stamp
            self.seen_number = entry.number
            if entry.number in self._unseen:
                loop.end_replay()
            if entry.number != CANCEL:
                self._journal.feed(entry)
            elif not loop.canceled:
                loop.on_cancel_asked()
            if not loop.drain():
                self._ran_away()

    def _note_heard(self, entry: Entry) -> None:
        """One settlement after the end of the code, which waits for what was sent. A message that comes now returns to
        the mailbox with the end.
        """
        self.seen, self.seen_number = entry.stamp, entry.number
        self._journal.note_heard(entry)

    def _ran_away(self) -> None:
        loop = self._loop
        if loop.ready:
            positions = _positions(loop)
            loop.halt(
                f"{self._info.id} ran {DRAIN_CALLBACKS_MAX:,} callbacks without waiting for anything durable{positions}"
            )

    def _is_over(self) -> bool:
        loop = self._loop
        return (
            loop.halted is not None
            or loop.fatal is not None
            or loop.continued is not None
            or (loop.root is not None and loop.root.done())
        )

    # -- what came of it

    def _progress(self) -> Progress:
        loop, journal = self._loop, self._journal
        if loop.halted is not None:
            return self._ended(Halted(loop.halted))
        if journal.channels and journal.is_sending and self._is_over():
            return self._sending()
        if loop.fatal is not None:
            return self._ended(self._rejected(loop.fatal))
        if loop.continued is not None:
            if journal.has_undelivered_cancel:  # it came while the end waited for what was sent
                return self._ended(CanceledOutcome())
            return self._ended(Continued(loop.continued, loop.root_numbers.taken))
        root = loop.root
        if root is None or root.done():
            return self._ended(self._result())
        filled = journal.filled(self._settings.journal_entries_max, self._settings.journal_bytes_max)
        if filled > 1:
            return self._ended(
                Halted(
                    f"{self._info.id} {self._amount()}: let children do a part of the work, "
                    "or begin a new run now and then, ctx.continue_as_new(...)"
                )
            )
        if not journal.open_calls:
            return self._ended(
                Halted(
                    f"{self._info.id} cannot go on: it waits for something that only its own code or a thread could "
                    f"set, and a thread cannot wake a workflow{_positions(loop)}"
                )
            )
        ops, steps, stop_steps = journal.take_difference()
        warning = ""
        if self._fill_before < _JOURNAL_WARNED <= filled:
            warning = f"{self._info.id} {self._amount()}: beyond this limit it is halted; see ctx.continue_as_new"
        self._fill_before = filled
        forgotten = journal.take_forgotten(is_end=False) if journal.forgotten else ()
        return Progress(ops, steps, stop_steps, True, None, warning, forgotten)

    def _amount(self) -> str:
        journal, settings = self._journal, self._settings
        return (
            f"has {journal.size:,} journal entries of at most {settings.journal_entries_max:,}, "
            f"with {journal.payload_bytes:,} bytes of at most {settings.journal_bytes_max:,}"
        )

    def _sending(self) -> Progress:
        """An ending waits until what was sent to another partition is heard of; here that is the answer of a commit.

        No code runs meanwhile.
        """
        root = self._loop.root
        if root is not None and root.done() and not root.cancelled():
            root.exception()  # it counts as seen, whether this activation is there at the end or not
        running = self._journal.running
        ops, _, _ = self._journal.take_difference()
        return Progress(tuple([op for op in ops if _outlives(op, Resolved(b""))]), (), running, True, None)

    def _ended(self, outcome: WorkflowOutcome) -> Progress:
        journal = self._journal
        running = journal.running
        if journal.channels:
            journal.return_late()
        ops, _, _ = journal.take_difference()
        if ops:
            ops = tuple([op for op in ops if _outlives(op, outcome)])
        forgotten: tuple[Forgotten, ...] = ()
        if (journal.open_calls or journal.forgotten) and isinstance(outcome, Resolved | Continued):
            forgotten = journal.take_forgotten(is_end=True)
        return Progress(ops, (), running, False, outcome, forgotten=forgotten)

    def _result(self) -> WorkflowOutcome:
        loop = self._loop
        root = loop.root
        if root is None:
            return Halted(f"{self._info.id} was fed after it was closed")
        if root.cancelled():
            if loop.canceled:
                return CanceledOutcome()
            return self._rejected(asyncio.CancelledError("the workflow raised CancelledError, but nobody canceled it"))
        error = root.exception()
        if error is not None:
            return self._rejected(error)
        try:
            function = self._info.function
            return Resolved(self.codec.encode(root.result(), f"result of {function}", self._definition.fn))
        except Exception as unencodable:  # noqa: BLE001 - any error of the result's own code ends the execution
            return self._rejected(unencodable)

    def _rejected(self, error: BaseException) -> Rejected:
        error = _explained(error)
        return Rejected(self.codec.encode_error(error), error_line(error))


def _has_begun(entries: Sequence[Entry]) -> bool:
    return len(entries) > 1 or (len(entries) == 1 and entries[0].number != CANCEL)


def version_of(entries: Iterable[Entry]) -> int | None:
    """The version of its workflow that an execution began with, from its journal; None if it has not begun."""
    begun = False
    for entry in entries:
        if entry.kind is Kind.VERSION:
            return int(entry.name)
        begun = begun or entry.number != CANCEL
    return 1 if begun else None


def _last_entry(ops: Sequence[Op]) -> Number | None:
    """The number of the last op that is an entry of the journal."""
    for op in reversed(ops):
        if type(op) is not Publish:
            return op.number
    return None


def _outlives(op: Op, outcome: WorkflowOutcome) -> bool:
    """Whether it matters after its workflow has ended; other ops would be made and canceled in one commit.

    What has been published is seen, also if a person has to look at the execution; only a new run begins without it.
    """
    if isinstance(op, Publish):
        return not isinstance(outcome, Continued)
    if isinstance(outcome, Halted):
        return False
    match op:
        case StartTimer() | StartPromise() | StartReceive() | Mark():
            return False
        case StartChild():
            return op.child_id is not None
        case _:
            return True


def _explained(error: BaseException) -> BaseException:
    text = str(error) if isinstance(error, RuntimeError) else ""
    if "bound to a different event loop" in text or "attached to a different loop" in text:
        explained = NotDurable(
            f"{text}: a Queue, Lock, Event or future made outside of this workflow cannot be awaited in it; "
            "make it inside, and use ctx.promise() to wait for others"
        )
        explained.__cause__ = error
        return explained
    return error


def _positions(loop: WorkflowLoop) -> str:
    shown = [f"  {task.get_name()}: {position_of(task)}" for task in loop.unfinished()[:_POSITIONS_MAX]]
    return "\n".join(["; its tasks are at", *shown]) if shown else ""
