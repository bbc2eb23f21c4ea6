"""Drives one execution from its journal: the same code, fed the same settlements, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from durasleep.codec import Codec
from durasleep.errors import CorruptData, NotDurable
from durasleep.model import CANCEL, Entry, Number, Op, StartChild, StartPromise, StartTimer
from durasleep.runtime import ordering
from durasleep.runtime.context import Context, ExecutionInfo
from durasleep.runtime.definition import WorkflowDefinition
from durasleep.runtime.journal import Journal, StepCall
from durasleep.runtime.loop import DRAIN_CALLBACKS_MAX, WorkflowLoop, keep_for_ever, position_of
from durasleep.settings import Settings

ordering.install()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The workflow returned."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """The workflow raised."""

    payload: bytes
    text: str
    """For logs: type and message."""


@dataclass(frozen=True, slots=True)
class CanceledOutcome:
    """The workflow was canceled from outside, and let it happen."""


@dataclass(frozen=True, slots=True)
class Halted:
    """It needs a person; ``reason`` says what for, in one or more lines."""

    reason: str


Ending = Resolved | Rejected | CanceledOutcome | Halted


@dataclass(frozen=True, slots=True)
class Progress:
    """What an activation asks for, now that its code is blocked, finished or halted."""

    ops: tuple[Op, ...]
    """New durable things to commit, in the order asked. With an ending: only what outlives it."""
    steps: tuple[StepCall, ...]
    """Steps to begin now."""
    stop_steps: tuple[Number, ...]
    """Running steps to stop: those the code took back (each has a CancelEntry); with an ending, all of them."""
    waiting: bool
    """Whether something pending, an op or a step can still wake it."""
    outcome: Ending | None


@dataclass(frozen=True, slots=True)
class CloseReport:
    """How putting a workflow away went."""

    stubborn: tuple[str, ...]
    """Positions of the tasks that refused to end. They stay in memory until the process ends."""


_CLEAN = CloseReport(())


class Activation:
    """One execution in memory: ``start`` once, ``feed`` as commits answer, ``close`` always.

    Never raises for what user code does. Runs in a plain callback of a real loop, on one thread.
    """

    __slots__ = (
        "_args",
        "_canceled",
        "_codec",
        "_definition",
        "_info",
        "_journal",
        "_loop",
        "_news",
        "_settings",
        "seen",
        "seen_number",
    )

    seen: int
    """The stamp last fed; 0 at first."""
    seen_number: Number
    """The number of the entry that has it."""

    def __init__(
        self, definition: WorkflowDefinition, info: ExecutionInfo, args: bytes, codec: Codec, *, settings: Settings
    ) -> None:
        self._definition = definition
        self._info = info
        self._args = args
        self._codec = codec
        self._settings = settings
        self._canceled = False
        self._news: Collection[str] = ()
        self._loop = WorkflowLoop(info.created_ms)
        self._journal = self._loop.timers = Journal(info.id, codec, self._loop)
        self.seen = 0
        self.seen_number = Number("")

    def start(self, entries: Iterable[Entry], unseen: Collection[str] | None = None) -> Progress:
        """Replay the whole journal, given in any order.

        ``unseen`` are the numbers no commit has named as seen: from the first of them on it is no replay, and what
        is logged is new. Without them, only the newest settlement is.
        """
        settled = self._journal.load(entries)
        self._news = unseen if unseen is not None else [entry.number for entry in settled[-1:]]
        loop = self._loop
        try:
            coro = self._call()
        except CorruptData as error:
            loop.halt(f"the arguments of {self._info.id} cannot be read: {error}")
            return self._progress()
        except Exception as error:  # noqa: BLE001 - arguments that do not fit are the caller's error, and end it
            return self._ended(self._rejected(error))
        loop.begin(coro)
        loop.quiet = bool(settled)
        self._drain()
        self._feed(settled)
        loop.speak()
        self._journal.check_all_asked()
        return self._progress()

    def feed(self, entries: Iterable[Entry]) -> Progress:
        """Go on with what a commit answered, all of it; what was fed before is skipped."""
        self._feed(self._journal.load(entries))
        return self._progress()

    def close(self) -> CloseReport:
        """Put the workflow away: cancel its tasks, within bounds, while durable calls raise Detached."""
        loop = self._loop
        stubborn = loop.detach(self._journal.size)
        if stubborn:
            for task in stubborn:
                keep_for_ever(task)
            return CloseReport(tuple(map(position_of, stubborn)))
        loop.forget()
        self._journal.forget()
        return _CLEAN

    # -- driving

    def _call(self) -> Coroutine[Any, Any, Any]:
        definition = self._definition
        args, kwargs = self._codec.decode_args(self._args, definition.fn, skip_first=True)
        return definition.fn(Context(self._info, self._codec, self._loop, self._journal), *args, **kwargs)

    def _feed(self, settled: list[Entry]) -> None:
        loop = self._loop
        for entry in settled:
            if entry.stamp <= self.seen:
                continue
            if self._is_over():
                return
            self.seen = loop.now_ms = entry.stamp
            self.seen_number = entry.number
            if entry.number in self._news:
                loop.speak()
            if entry.number != CANCEL:
                self._journal.feed(entry)
            elif loop.root is not None and not self._canceled:
                self._canceled = True
                loop.root.cancel()
            self._drain()

    def _drain(self) -> None:
        loop = self._loop
        if not loop.drain() and loop.ready:
            positions = _positions(loop)
            loop.halt(
                f"{self._info.id} ran {DRAIN_CALLBACKS_MAX:,} callbacks without waiting for anything durable{positions}"
            )

    def _is_over(self) -> bool:
        loop = self._loop
        return loop.halted is not None or loop.fatal is not None or (loop.root is not None and loop.root.done())

    # -- what came of it

    def _progress(self) -> Progress:
        loop, journal = self._loop, self._journal
        if loop.halted is not None:
            return self._ended(Halted(loop.halted))
        if loop.fatal is not None:
            return self._ended(self._rejected(loop.fatal))
        root = loop.root
        if root is None or root.done():
            return self._ended(self._result())
        if journal.size > self._settings.journal_entries_max:
            return self._ended(
                Halted(
                    f"{self._info.id} has asked for {journal.size} journal entries, and "
                    f"{self._settings.journal_entries_max} is the limit: let children do a part of the work"
                )
            )
        if not journal.waiting:
            return self._ended(
                Halted(f"{self._info.id} waits for something that only itself could produce{_positions(loop)}")
            )
        ops, steps, stop_steps = journal.take_difference()
        return Progress(ops, steps, stop_steps, True, None)

    def _ended(self, outcome: Ending) -> Progress:
        running = self._journal.running
        ops, _, _ = self._journal.take_difference()
        ops = () if isinstance(outcome, Halted) else tuple(op for op in ops if _outlives(op))
        return Progress(ops, (), running, False, outcome)

    def _result(self) -> Ending:
        root = self._loop.root
        if root is None:
            return Halted(f"{self._info.id} was fed after it was closed")
        if root.cancelled():
            if self._canceled:
                return CanceledOutcome()
            return self._rejected(asyncio.CancelledError("the workflow ended by a CancelledError of its own"))
        error = root.exception()
        if error is not None:
            return self._rejected(error)
        try:
            return Resolved(self._codec.encode(root.result(), f"result of {self._info.function}"))
        except Exception as unencodable:  # noqa: BLE001 - whatever the result does when looked at, it ends the execution
            return self._rejected(unencodable)

    def _rejected(self, error: BaseException) -> Rejected:
        error = _explained(error)
        return Rejected(self._codec.encode_error(error), f"{type(error).__name__}: {error}")


def _outlives(op: Op) -> bool:
    """Whether it matters once its workflow has ended; the rest would be made and taken back in one commit."""
    match op:
        case StartTimer() | StartPromise():
            return False
        case StartChild():
            return op.child_id is not None
        case _:
            return True


def _explained(error: BaseException) -> BaseException:
    text = str(error)
    if isinstance(error, RuntimeError) and (
        "bound to a different event loop" in text or "attached to a different loop" in text
    ):
        explained = NotDurable(
            f"{text}: a Queue, Lock, Event or future made outside of this workflow cannot be awaited in it; "
            "make it inside, and use ctx.promise() to wait for others"
        )
        explained.__cause__ = error
        return explained
    return error


def _positions(loop: WorkflowLoop) -> str:
    shown = [f"  {task.get_name()}: {position_of(task)}" for task in loop.unfinished()[:20]]
    return "\n".join(["; its tasks are at", *shown]) if shown else ""
