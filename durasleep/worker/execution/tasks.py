"""Tasks as executions: called, retried, committed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from durasleep import humanize
from durasleep.codec import Codec
from durasleep.codec.exceptions import error_line
from durasleep.codec.published import StepProgress
from durasleep.errors import UsageError
from durasleep.model import (
    CANCEL,
    CommitAction,
    Entry,
    Kind,
    Number,
    Op,
    State,
    StepResult,
    TracePoint,
    duration_ms,
    group_of,
)
from durasleep.observe import logs, tracing
from durasleep.observe.meter import Meter
from durasleep.observe.tracing import Activity, last_event_ms, ready_since_ms
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed
from durasleep.protocol.journal import Loaded
from durasleep.runtime.current import Current, describe
from durasleep.runtime.definition import TaskDefinition
from durasleep.runtime.journal import TIMER_MS_MIN
from durasleep.runtime.retry import failure_of, vain_wish
from durasleep.runtime.waits import CALLER_PREFIX
from durasleep.settings import Settings
from durasleep.worker.execution.batches import Batches
from durasleep.worker.execution.checkpoints import MAKING, Keeper
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.execution_log import describe_since
from durasleep.worker.execution.function_runner import FunctionRunner, as_exception, note_stopped
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.log_sampler import LogSampler
from durasleep.worker.execution.publishing import Publisher
from durasleep.worker.execution.threads import NotBegun

logger = logging.getLogger("durasleep")

ATTEMPT = Number("1")
"""The number of the running attempt, among the steps of its execution."""
FIRST = "1"
"""By this number the checkpoint of a task is named: that of its first attempt."""
WHOLE = ""
"""What a task publishes is that of no step."""
_stamp = attrgetter("stamp")
_STATE_OF = {
    CommitAction.RESOLVE: State.RESOLVED,
    CommitAction.REJECT: State.REJECTED,
    CommitAction.CANCEL: State.CANCELED,
}
"""The outcomes that are an end."""
_WORDS = {CommitAction.RESOLVE: "resolved", CommitAction.CANCEL: "canceled"}


class Tasks:
    """Runs the tasks of a worker, from plain callbacks."""

    def __init__(
        self,
        codec: Codec,
        commits: Commits,
        code: FunctionRunner,
        sampler: LogSampler,
        settings: Settings,
        let_go: Callable[[HeldExecution], None],
        meter: Meter | None = None,
    ) -> None:
        self.meter = meter
        self.codec = codec
        self.commits = commits
        self.code = code
        self.sampler = sampler
        self.let_go = let_go
        self.batches = Batches(code)
        self.is_clock_moved = settings.movable_clock
        self.gap_ms = settings.trace_gap // timedelta(milliseconds=1)

    def begin(self, running: HeldExecution, loaded: Loaded, definition: TaskDefinition) -> None:
        """Call it, unless it was canceled. Its journal has the failed attempts; its outcome is the last one."""
        running.order = loaded.record.order
        task = running.work = Task(self, running, definition, loaded)
        if CANCEL in loaded.entries:
            task.end(CommitAction.CANCEL, b"")
            return
        try:
            args, kwargs = self.codec.decode_args(loaded.record.args, definition.fn, skip_first=False)
        except UsageError as misfit:
            self._end_unfit(task, running, loaded, misfit)
            return
        if self.code.is_leaving:
            task.leave_to_others(0)
            return
        if self.meter is not None and not (loaded.entries or loaded.record.crash_count):
            self.meter.start(loaded.record.function)
        if running.has_unseen:  # it may be a cancel
            task.ask_first(args, kwargs)
        else:
            task.attempt(args, kwargs)

    def _end_unfit(self, task: Task, running: HeldExecution, loaded: Loaded, misfit: UsageError) -> None:
        """Arguments that never fitted are the caller's error, and end it; if the code has changed, it waits."""
        if not loaded.entries:
            task.end(CommitAction.REJECT, self.codec.encode_error(misfit), f"rejected: {misfit}")
            return
        reason = "\n".join(
            [
                f"the arguments with which {running.lease.id} has begun no longer fit its code:",
                f"  - {self.codec.show_args(loaded.record.args)}",
                f"  + {self.codec.show_misfit(misfit)}",
                "Deploy the code this execution began with and resume it, or cancel it.",
            ]
        )
        task.end(CommitAction.HALT, reason.encode(), f"halted: {reason}")


class Task:
    """One task: its function runs, it waits for the next attempt, or its outcome is being committed."""

    __slots__ = (
        "_all",
        "_args",
        "_began",
        "_begun_ms",
        "_definition",
        "_end",
        "_error",
        "_head",
        "_is_canceled",
        "_is_ending",
        "_is_open",
        "_kwargs",
        "_last_ms",
        "_loop",
        "_number",
        "_point",
        "_running",
        "_said",
        "_seen",
        "_seen_number",
        "_sent",
        "_spans",
        "_wait_s",
        "checkpoints",
        "published",
    )

    _args: Sequence[Any]
    _began: float
    """The same by the monotonic clock."""
    _begun_ms: int
    """When the running attempt began, see ``Entry.begun_ms``."""
    _kwargs: dict[str, Any]

    def __init__(self, all: Tasks, running: HeldExecution, definition: TaskDefinition, loaded: Loaded) -> None:
        self._all = all
        self._running = running
        self._head = loaded.record
        self._definition = definition
        self._number = 1
        self._loop = asyncio.get_running_loop()
        self.checkpoints = self._make_keeper(loaded.checkpoints) if loaded.checkpoints else None
        self.published: Publisher | None = None
        """What its attempts publish; None as long as that is nothing."""
        self._is_open = False
        self._is_canceled = False
        self._spans: Activity | None = None
        """Of the running attempt; None if that is part of no trace."""
        self._point: TracePoint | None = None
        """See ``Activity.point``."""
        self._last_ms = loaded.record.begun_ms
        """When something of it happened last."""
        self._seen, self._seen_number = 0, ""
        """Stamp and number of the last settlement that it has seen."""
        if loaded.entries:
            self._read(loaded.entries.values())
        self._end: tuple[CommitAction, bytes, str] | None = None
        """How it ends, or until when it waits: outcome, payload, due."""
        self._is_ending = False
        """Whether that was the last commit."""
        self._sent: tuple[Op, ...] = ()
        """The ops of the last commit."""
        self._said = ""
        self._error: Exception | None = None
        """With which it has failed."""
        self._wait_s: float | None = None
        """How long until the next attempt, after the failed one was committed and there is no cancel."""

    def _read(self, entries: Collection[Entry]) -> None:
        """Read its journal: whether it was tried before, or canceled."""
        self._number += sum([entry.kind is Kind.STEP for entry in entries])
        self._is_open = any(entry.state is State.PENDING for entry in entries)
        self._last_ms = last_event_ms(self._head, entries, ())
        self._note_seen([entry for entry in entries if entry.stamp])

    # -- attempts

    def ask_first(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Read new settlements first, then call it."""
        self._args, self._kwargs = args, kwargs
        self._wait_s = 0.0
        self._all.commits.due(self._running)

    def attempt(self, args: Sequence[Any], kwargs: dict[str, Any], delay_s: float = 0.0) -> None:
        """Call it, after a delay if it has failed before."""
        self._args, self._kwargs = args, kwargs
        self._begun_ms = self._all.commits.now_ms(self._running.lease) + round(1000 * delay_s) - self._head.incarnation
        self._began = time.monotonic() + delay_s
        definition, running = self._definition, self._running
        timeout_s = None if definition.timeout is None else duration_ms(definition.timeout) / 1000
        name = f"{CALLER_PREFIX}{running.lease.id}"
        if definition.batch is not None and not self._all.code.is_replaced(definition.fn):
            call = self._all.batches.call(definition, args, kwargs, running.lease.id, delay_s)
            begin = partial(self._loop.create_task, call, name=name)
        else:
            begin = partial(
                self._all.code.start,
                definition.fn,
                args,
                kwargs,
                about=self.about,
                attempt=self,
                timeout_s=timeout_s,
                delay_s=delay_s,
                name=name,
            )
        self._begin_spans()
        task = begin() if self._spans is None else self._spans.inside(begin)
        running.steps[ATTEMPT] = task
        task.add_done_callback(self._end_attempt)

    def _begin_spans(self) -> None:
        record = self._head
        if not tracing.is_recorded(record):
            self._spans = tracing.pass_on(record)
            return
        now_ms = self._all.commits.now_ms(self._running.lease)
        self._spans = spans = tracing.begin(
            record,
            is_new=self._number == 1,
            now_ms=now_ms,
            last_ms=self._last_ms,
            ready_ms=0 if self._spans else ready_since_ms(record, (), is_clock_moved=self._all.is_clock_moved),
            gap_ms=self._all.gap_ms,
            attempt=self._number,
        )
        self._last_ms = now_ms
        if spans is not None and spans.point is not None:
            self._point = spans.point
            self._head = msgspec.structs.replace(record, trace=spans.trace)

    def about(self, *, ends_at: float | None = None) -> Current:
        """The description of the running attempt, for its function."""
        record, keeper = self._head, self.checkpoints
        return describe(
            record.id,
            None,
            function=record.function,
            queue=record.queue,
            incarnation=record.incarnation,
            attempt=self._number,
            deadline_ms=record.deadline_ms,
            ends_at=ends_at,
            checkpoint=None if keeper is None else keeper.read(FIRST, self._all.codec),
        )

    def ids(self) -> Mapping[str, object]:
        """What log lines say of the running attempt."""
        record = self._head
        return {
            "execution": record.id,
            "function": record.function,
            "attempt": self._number,
            "group": group_of(record.queue),
            "trace": tracing.trace_id_of(record.trace),
        }

    def _about(self, failure: BaseException | None = None) -> dict[str, Any]:
        """See ``logs.about``."""
        record = self._head
        return logs.about(
            record.id,
            record.function,
            attempt=self._number,
            group=group_of(record.queue),
            trace=record.trace,
            failure=failure,
        )

    def keep(self, data: object) -> None:
        """Keep data for the next attempt, for the function of the running one."""
        with MAKING:
            if self.checkpoints is None:
                self.checkpoints = self._make_keeper()
        self.checkpoints.keep(self._attempt, FIRST, data, f"task {self._definition.name}", self._all.codec)

    def publish(self, values: Mapping[str, object], progress: StepProgress | None) -> None:
        """Publish something, for the function of the running attempt."""
        with MAKING:
            if self.published is None:
                self.published = Publisher(self._all.commits, self._running.lease, self._is_running, self._loop)
        self.published.publish(self._attempt, WHOLE, values, progress, f"task {self._definition.name}", self._all.codec)

    def _make_keeper(self, kept: Mapping[str, bytes] | None = None) -> Keeper:
        return Keeper(self._all.commits, self._running.lease, self._is_running, self._loop, kept)

    @property
    def _attempt(self) -> Number:
        return Number(str(self._number))

    def _is_running(self, number: Number) -> bool:
        return number == self._attempt and ATTEMPT in self._running.steps

    def _end_attempt(self, task: asyncio.Task[Any]) -> None:
        running, codec = self._running, self._all.codec
        if running.is_gone:
            note_stopped(task, running.lease.id)
            return
        del running.steps[ATTEMPT]
        if (meter := self._all.meter) is not None:
            meter.step(self._definition.name, time.monotonic() - self._began)
        try:
            payload = codec.encode(task.result(), f"the result of {self._definition.name}", self._definition.fn)
            self._end_spans("resolved")
            self.end(CommitAction.RESOLVE, payload)
        except asyncio.CancelledError as error:
            if self._is_canceled:
                self._end_spans("canceled")
                self.end(CommitAction.CANCEL, b"")
            else:  # a CancelledError of its own: nobody canceled it
                self._fail(error)
        except NotBegun:
            self.leave_to_others(0)
        except BaseException as error:  # noqa: BLE001 - any error of a user's function is its outcome
            self._fail(error)

    def _fail(self, raised: BaseException) -> None:
        retry, running = self._definition.retry, self._running
        if retry is None or self._is_canceled or not retry.wants(raised, self._number):
            error = as_exception(failure_of(raised), self._definition.name)
            self._end_spans("rejected", error)
            payload = self._all.codec.encode_error(error)
            said = f"rejected after {self._lifetime()}: {error_line(error)}{vain_wish(raised, retry)}"
            self._error = error
            self.end(CommitAction.REJECT, payload, said)
            return
        error = as_exception(raised, self._definition.name)
        self._end_spans("", error)
        payload = self._all.codec.encode_error(error)
        delay_ms = retry.delay_ms(raised, self._number, random.random())
        said = f"attempt {self._number} of {retry.attempts} failed: {error_line(error)}"
        next_in = humanize.describe_ms(delay_ms)
        logger.warning("%s: %s; next in %s", running.lease.id, said, next_in, extra=self._about(error))
        if (meter := self._all.meter) is not None:
            meter.step_retries += 1
        number = Number(str(self._number))
        running.ops += (StepResult(number, self._definition.name, State.REJECTED, payload, self._begun_ms),)
        if self.checkpoints is not None:
            running.ops += self.checkpoints.end(FIRST, is_retried=True)
        if self.published is not None:
            running.ops += self.published.end(WHOLE)
        self._number += 1
        if delay_ms >= TIMER_MS_MIN or self._all.code.is_leaving:
            self._end = (CommitAction.RETRY, said.encode(), f"+{delay_ms}")
        else:
            self._wait_s = delay_ms / 1000
        self._all.commits.due(running)

    def _end_spans(self, outcome: str, error: Exception | str = "") -> None:
        if self._spans is not None:
            self._spans.end(outcome, error)

    def leave_to_others(self, delay_ms: int) -> None:
        """The next attempt is made by any worker, when it is due."""
        self._end = (CommitAction.RETRY, b"its worker has left", f"+{delay_ms}")
        self._all.commits.due(self._running)

    def end(self, outcome: CommitAction, payload: bytes, said: str = "") -> None:
        """It is over."""
        self._end = (outcome, payload, "")
        self._said = said
        if self.checkpoints is not None and outcome is not CommitAction.HALT:
            self._running.ops += self.checkpoints.end(FIRST, is_retried=False)
        if self.published is not None:
            self._running.ops += self.published.end(WHOLE)
        self._all.commits.due(self._running)

    # -- its commits

    def commit(self) -> BatchItem[Committed] | None:
        running, commits = self._running, self._all.commits
        ops, running.ops = running.ops, ()
        self._sent = ops
        if self._end is not None:
            self._is_ending = True
            outcome, payload, due = self._end
            if self._point is not None and outcome is CommitAction.RETRY:
                ops = (*ops, self._point)
            return commits.item(
                running.lease,
                outcome,
                seen=self._seen,
                seen_number=self._seen_number,
                ops=ops,
                payload=payload,
                due=due,
                open=self._is_open,
            )
        if not ops and not running.has_unseen:
            return None
        running.has_unseen = False
        seen, seen_number = self._seen, self._seen_number
        return commits.item(running.lease, CommitAction.CONTINUE, seen=seen, seen_number=seen_number, ops=ops)

    def take(self, answer: Committed) -> None:
        running = self._running
        if self._is_ending:
            if (meter := self._all.meter) is not None and self.ending is not None:
                meter.end(self._definition.name, self.ending)
            self._log_ended()
            self._all.let_go(running)
            return
        running.note_order(answer.entries)
        self._note_seen(answer.entries)
        running.has_unseen = running.has_unseen or answer.more
        if any(entry.number == CANCEL for entry in answer.entries):
            self._cancel()
        elif self._wait_s is not None and not (running.ops or running.has_unseen):  # the failed one has been committed
            wait_s, self._wait_s = self._wait_s, None
            if self._all.code.is_leaving:
                self.leave_to_others(round(1000 * wait_s))
            else:
                self.attempt(self._args, self._kwargs, wait_s)
        if self._end is not None or running.ops or running.has_unseen:
            self._all.commits.due(running)

    def _note_seen(self, settled: Sequence[Entry]) -> None:
        if settled:
            last = max(settled, key=_stamp)
            self._seen, self._seen_number = last.stamp, last.number

    @property
    def ending(self) -> State | None:
        return None if self._end is None or not self._is_ending else _STATE_OF.get(self._end[0])

    def _log_ended(self) -> None:
        word = _WORDS.get(self._end[0]) if self._end is not None else None
        if self._said:
            logger.warning("%s %s", self._running.lease.id, self._said, extra=self._about(self._error))
        elif word and self._all.sampler.allow(word):
            logger.info("%s %s after %s", self._running.lease.id, word, self._lifetime(), extra=self._about())

    def _lifetime(self) -> str:
        return describe_since(self._head.created_ms, self._all.commits.now_ms(self._running.lease))

    def _cancel(self) -> None:
        """It is told once, at its await; between two attempts it ends at once."""
        if self._is_canceled:
            return
        self._is_canceled = True
        if attempt := self._running.steps.get(ATTEMPT):
            attempt.cancel()
        elif self._end is None:
            self.end(CommitAction.CANCEL, b"")

    def take_back(self) -> bool:
        """If its lease were given up, its function would be called again."""
        self._running.ops = (*self._sent, *self._running.ops)
        return True

    def close(self) -> None:
        """Nothing of it is left in memory."""
        self._end_spans("")
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self.published is not None:
            self.published.close()
