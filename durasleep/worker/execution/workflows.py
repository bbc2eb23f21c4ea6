"""Runs workflows: their code runs until it waits, its calls are committed, and it goes on with new settlements."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import msgspec

from durasleep.codec import Codec
from durasleep.errors import Fenced
from durasleep.model import (
    Checkpoint,
    CommitAction,
    Entry,
    Number,
    Op,
    Publish,
    State,
    StepResult,
    group_of,
    priority_of,
    root_of,
)
from durasleep.observe import logs, tracing
from durasleep.observe.meter import Meter
from durasleep.observe.tracing import Activity
from durasleep.protocol import commit
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.journal import Loaded, PromiseRecord
from durasleep.runtime import nondeterminism
from durasleep.runtime.activation import Activation
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import WorkflowDefinition
from durasleep.runtime.journal import StepCall
from durasleep.runtime.outcome import CanceledOutcome, Continued, Halted, Progress, Rejected, Resolved, WorkflowOutcome
from durasleep.settings import Settings
from durasleep.traits import read_labels
from durasleep.worker.execution.checkpoints import MAKING, Keeper
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.execution_log import ExecutionLog
from durasleep.worker.execution.function_runner import FunctionRunner, note_stopped
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.log_sampler import LogSampler
from durasleep.worker.execution.publishing import Publisher
from durasleep.worker.execution.threads import NotBegun
from durasleep.worker.execution.workflow_cache import WorkflowCache

LEAKED_MAX = 100  # tasks that did not end and are never freed; with more, the process must be restarted
WATCHED_FIRST = 10  # activations of each function: most calls that do not replay show early, and watching costs time
SUSPECT_DEATHS = 2  # with this many crashes, an execution may be the one that kills its workers

logger = logging.getLogger("durasleep")


class InHand(Protocol):
    """The methods of the executor that a workflow calls."""

    def let_go(self, running: HeldExecution) -> None:
        """It is suspended or has ended."""
        ...

    def release(self, running: HeldExecution) -> None:
        """It goes on in another worker."""
        ...

    def load_again(self, running: HeldExecution, go_on: Callable[[Loaded], None]) -> None:
        """Load its journal again, and call ``go_on`` with it from a plain callback."""
        ...


class Workflows:
    """Runs the workflows of a worker, from the loaded journal to the commit that gives up the lease.

    Methods that run user code must be called from a plain callback, outside any task: the private loop has its own
    tasks.
    """

    def __init__(
        self,
        codec: Codec,
        commits: Commits,
        code: FunctionRunner,
        sampler: LogSampler,
        settings: Settings,
        in_hand: InHand,
        meter: Meter | None = None,
    ) -> None:
        self.meter = meter
        self.codec = codec
        self.commits = commits
        self.code = code
        self.sampler = sampler
        self.settings = settings
        self.in_hand = in_hand
        self.kept = WorkflowCache(settings, self._close_soon)
        self._gap_ms = settings.trace_gap // timedelta(milliseconds=1)
        self._leaked = 0
        self._watched: Counter[str] = Counter()

    def begin(self, running: HeldExecution, loaded: Loaded, definition: WorkflowDefinition) -> None:
        """Replay the loaded journal, let the code run until it waits, and commit its calls."""
        record, entries = loaded.record, loaded.entries.values()
        began = time.monotonic()
        if self.meter is not None and not (entries or record.crash_count or _is_continued(record)):
            self.meter.start(record.function)
        spans = self._begin_spans(running.lease, record, entries, record.unseen)
        activation = self.activation(
            definition, _info(record, definition, self.commits.keys(running.lease).own), record, spans
        )
        work = running.work = ActiveWorkflow(self, running, record, ExecutionLog(record.id, entries), activation)
        work.spans = spans
        if spans is not None:
            activation.note_trace(spans.trace_id)
        running.order = record.order
        if loaded.checkpoints:
            work.checkpoints = work.make_keeper(asyncio.get_running_loop(), loaded.checkpoints)
        work.drive(began, activation.start, entries, record.unseen)

    def wake(self, running: HeldExecution, loaded: Loaded | None) -> bool:
        """Go on with a kept workflow and its new settlements; false if it must be replayed."""
        lease = running.lease
        kept = self.kept.take(lease.id, lease.epoch)
        if kept is None:
            return False
        if (
            loaded is None
            or not is_ours(lease, loaded.record)
            or loaded.record.incarnation != kept.incarnation
            or loaded.record.crash_count >= SUSPECT_DEATHS
        ):
            self.close(kept.activation)
            return False
        began = time.monotonic()
        kept.log.wake(loaded.entries)
        spans = self._begin_spans(lease, loaded.record, loaded.entries.values(), loaded.entries, kept.activation.seen)
        work = running.work = ActiveWorkflow(self, running, loaded.record, kept.log, kept.activation)
        running.function = loaded.record.function
        work.spans = spans
        if spans is not None:
            kept.activation.note_trace(spans.trace_id)
        running.order = loaded.record.order
        if kept.checkpoints:
            work.checkpoints = work.make_keeper(asyncio.get_running_loop(), kept.checkpoints)
        work.drive(began, kept.activation.feed, loaded.entries.values())
        return True

    def close(self, activation: Activation) -> None:
        """Evict a workflow; call it from a plain callback."""
        report = activation.close()
        if report.leaked:
            self._log_leaked(activation.id, report.leaked)

    def _begin_spans(
        self,
        lease: Lease,
        record: PromiseRecord,
        entries: Collection[Entry],
        unseen: Collection[str],
        seen_ms: int = 0,
    ) -> Activity | None:
        """The spans of an activation that has these entries, some of them new; the last one that was seen settled at
        ``seen_ms``, if that is none of them.
        """
        if not tracing.is_recorded(record):
            return tracing.pass_on(record)
        new = [entry for entry in entries if entry.number in unseen]
        spans = tracing.begin(
            record,
            is_new=not (entries or seen_ms),
            # Our estimate of the server's clock may be behind what has just happened there.
            now_ms=max(self.commits.now_ms(lease), *[entry.stamp for entry in new], record.created_ms),
            last_ms=max(seen_ms, tracing.last_event_ms(record, entries, unseen)),
            ready_ms=tracing.ready_since_ms(record, new, is_clock_moved=self.settings.movable_clock),
            gap_ms=self._gap_ms,
            attempt=record.crash_count + 1,
        )
        if spans is not None:
            spans.note_heard(new)
        return spans

    def activation(
        self, definition: WorkflowDefinition, info: ExecutionInfo, record: PromiseRecord, spans: Activity | None
    ) -> Activation:
        watched = self._watched
        is_watched = self.settings.debug or watched[info.function] < WATCHED_FIRST
        if is_watched:
            watched[info.function] += 1
        watch = nondeterminism.watch if is_watched else None
        return Activation(
            definition,
            info,
            record.args,
            self.codec,
            settings=self.settings,
            base=record.base,
            watch=watch,
            prepare=None if spans is None else spans.enter,
        )

    def _close_soon(self, activation: Activation) -> None:
        asyncio.get_running_loop().call_soon(self.close, activation)

    def _log_leaked(self, id: str, positions: Sequence[str]) -> None:
        """Code that swallows its own cancellation stays in memory for ever: it is logged and counted."""
        self._leaked += len(positions)
        where = ", ".join(positions)
        logger.warning("%s was evicted, but its code did not end at %s", id, where, extra=logs.about(id))
        if self._leaked > LEAKED_MAX:
            logger.error("%d tasks of workflows did not end: restart this worker", self._leaked)


_LAST = (CommitAction.RESOLVE, CommitAction.REJECT, CommitAction.CANCEL, CommitAction.CONTINUE_AS_NEW)
"""After these, no attempt of a step follows."""
_STATE_OF: dict[type[WorkflowOutcome | None], State] = {
    Resolved: State.RESOLVED,
    Rejected: State.REJECTED,
    CanceledOutcome: State.CANCELED,
}
"""The outcomes that are an end."""
_ENDS = (CommitAction.RESOLVE, CommitAction.REJECT, CommitAction.CANCEL)
_NOTHING = Progress((), (), (), waiting=False, outcome=None)


class ActiveWorkflow(msgspec.Struct, eq=False):
    """A workflow that is being run: its code runs until it waits, its calls are committed, and so on.

    1. ``drive`` lets the code run until it waits or ends, and ``_go_on`` decides what to do then.
    2. ``commit`` returns what to write: the calls of the code, the results of steps, and the outcome if the code has
    ended.
       If it is too much for one call, it is written in parts; only the last part has the outcome.
    3. ``take`` gets the answer. If it has settlements, they are delivered to the code, which is 1 again. Otherwise the
       workflow waits for its steps, is suspended, or has ended, and its lease is given up.

    Steps run beside this. ``_end_step`` adds a result to the next write, and a commit is due: 2.

    If other ops came together with a step, the step begins only in 3, because it may refer to them: until then it is
    held back. There is one commit at a time: results that come meanwhile go into the next one.
    """

    workflows: Workflows
    running: HeldExecution
    record: PromiseRecord
    log: ExecutionLog
    activation: Activation | None
    """None once it was evicted, or is kept."""
    progress: Progress = _NOTHING
    """The last requests of its code."""
    sent: Sequence[Op] = ()
    """The ops of the last commit."""
    rest: list[Sequence[Op]] = []
    """The ops that did not fit into one commit."""
    held_back: Sequence[StepCall] = ()
    """Steps that begin when the ops beside them have been committed, because they may refer to them."""
    is_released: bool = False
    """Whether it goes on in another worker, when its running steps have ended."""
    checkpoints: Keeper | None = None
    """What its steps keep for their next attempts; None as long as that is nothing."""
    published: Publisher | None = None
    """What its steps publish; None as long as that is nothing."""
    spans: Activity | None = None
    """Of this activation; None if it is part of no trace."""

    # -- its code

    def drive(self, began: float, go_on: Callable[..., Progress], *with_what: Any) -> None:
        """Let the code run until it waits, and carry out its requests."""
        progress = go_on(*with_what)
        ended = time.monotonic()
        settings = self.workflows.settings
        if ended - began > settings.slow_drain_s:
            activation = self._activation
            logger.warning(
                "the code of %s (%s) blocked this worker for %.1f s: code that takes time or blocks belongs in a step, "
                "`await ctx.run(...)`",
                activation.id,
                activation.function,
                ended - began,
                extra=self._about(),
            )
        if settings.debug:
            progress = nondeterminism.checked(self._activation, progress)
        if progress.forgotten:
            progress = nondeterminism.reminded(self._activation, progress, halt=settings.debug)
        if progress.warning:
            logger.warning("%s", progress.warning, extra=self._about())
        if progress.ops:
            self.log.asked.append((progress.ops, ended))
            if self.spans is not None:
                progress = msgspec.structs.replace(progress, ops=self.spans.trace_ops(progress.ops))
        self.progress = progress
        self._act(progress)

    @property
    def _activation(self) -> Activation:
        assert self.activation is not None, "a workflow that was evicted"
        return self.activation

    def _act(self, progress: Progress) -> None:
        running = self.running
        if progress.stop_steps:
            self._stop(progress.stop_steps)
        if progress.outcome is not None:
            said = () if self.published is None else [op for op in running.ops if type(op) is Publish]
            running.ops = (*progress.ops, *said) if said else progress.ops
        else:
            ops = self._publish_first(progress.ops) if progress.ops else ()
            running.ops += ops
            if ops:
                self.held_back = progress.steps
            elif progress.steps:
                self._start_steps(progress.steps)
        self._go_on()

    def _publish_first(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """What the code publishes goes before everything else: it is not published again in a replay, so it must not
        be missing from the first of several commits. No step refers to it. Returns the other ops.
        """
        if type(ops[0]) is not Publish:
            return ops
        self.running.ops = (ops[0], *self.running.ops)
        return ops[1:]

    def _go_on(self) -> None:
        """Release the lease, commit or wait.

        - The lease is released if another worker must go on, everything is written, and no step runs.
        - A commit is due if there is something to write or to ask, or nothing to wait for here: that suspends it.
        - Otherwise its steps run, and the next one that ends makes a commit due.
        """
        running = self.running
        is_written = not (running.ops or self.rest)
        if self.is_released and is_written and not running.steps:
            self.workflows.in_hand.release(running)
            return
        has_ended = self.progress.outcome is not None
        if running.ops or running.has_unseen or has_ended or not running.steps:
            self.workflows.commits.due(running)

    def keeper(self, loop: asyncio.AbstractEventLoop) -> Keeper:
        """See ``Keeping``."""
        with MAKING:
            if self.checkpoints is None:
                self.checkpoints = self.make_keeper(loop)
            return self.checkpoints

    def make_keeper(self, loop: asyncio.AbstractEventLoop, kept: Mapping[str, bytes] | None = None) -> Keeper:
        """The checkpoints of its steps; ``kept`` are those of earlier attempts."""
        running = self.running
        return Keeper(self.workflows.commits, running.lease, running.steps.__contains__, loop, kept)

    def publisher(self, loop: asyncio.AbstractEventLoop) -> Publisher:
        """See ``Publishing``."""
        with MAKING:
            if self.published is None:
                running = self.running
                self.published = Publisher(self.workflows.commits, running.lease, running.steps.__contains__, loop)
            return self.published

    def _start_steps(self, calls: Sequence[StepCall]) -> None:
        running = self.running
        if self.workflows.code.is_leaving:
            self.is_released = True
            return
        begun_ms = self.workflows.commits.now_ms(running.lease) - self.record.incarnation
        code, spans = self.workflows.code, self.spans
        for call in calls:
            if spans is None:
                task = code.start_step(call, self.record, self)
            else:
                begin = partial(code.start_step, call, self.record, self)
                task = spans.start_step(call.name, call.number, call.attempt, begin)
            running.steps[call.number] = task
            task.add_done_callback(partial(self._end_step, call, begun_ms, time.monotonic() + call.delay_s))

    def _end_step(self, call: StepCall, begun_ms: int, began: float, task: asyncio.Task[Any]) -> None:
        running = self.running
        if running.is_gone or running.steps.get(call.number) is not task:
            note_stopped(task, call.shown_of(running.lease.id))
            return
        del running.steps[call.number]
        if not task.cancelled() and isinstance(task.exception(), NotBegun):
            self.is_released = True
            if not running.is_committing:  # otherwise it goes on with the answer
                self._go_on()
            return
        result = self.workflows.code.result_of(call, task, running.lease.id, begun_ms, self.record.trace)
        if (meter := self.workflows.meter) is not None:
            meter.step(call.name, time.monotonic() - began)
            meter.step_retries += bool(result.is_retried)
        running.ops += (result,)
        if self.checkpoints is not None and self.checkpoints.kept:
            running.ops += self.checkpoints.end(call.first or call.number, is_retried=result.is_retried)
        if self.published is not None:
            running.ops += self.published.end(call.first or call.number)
        self.workflows.commits.due(running)

    def _stop(self, numbers: Collection[Number]) -> None:
        """The code does not want these steps any more: a late result is dropped.

        Nothing else waits to be written: what the code has asked for was committed before it was fed anything new.
        """
        running = self.running
        for number in numbers:
            if step := running.steps.pop(number, None):
                step.cancel()
        running.ops = tuple([op for op in running.ops if op.number not in numbers])
        if self.checkpoints is not None:
            self.checkpoints.forget_unsent(numbers)
        if self.published is not None:
            self.published.forget(set(numbers))

    # -- its commits

    def commit(self) -> BatchItem[Committed] | None:
        running, activation, commits = self.running, self._activation, self.workflows.commits
        if self.rest or len(running.ops) > 1:
            ops = self._next_part()
        else:  # nearly always: a call less for each commit
            ops, running.ops = running.ops, ()
        is_last = not self.rest
        outcome, payload, due = self._outcome() if is_last else (CommitAction.CONTINUE, b"", "")
        if self.checkpoints is not None and self.checkpoints.kept and outcome in _LAST:
            ops = (*ops, *self.checkpoints.end_all())
        if outcome is CommitAction.CONTINUE and not (ops or running.has_unseen):
            return None
        self.sent = ops
        if self.spans is not None and self.spans.point is not None and outcome not in _ENDS:
            ops = (*ops, self.spans.point)
        running.has_unseen = False
        lease = running.lease
        return commit.commit(
            commits.keys(lease),
            commits.consumer,
            lease,
            outcome,
            seen=activation.seen,
            seen_number=activation.seen_number,
            asked=activation.last_op_number,
            ops=ops,
            payload=payload,
            due=due,
            open=activation.is_open,
        )

    def _next_part(self) -> Sequence[Op]:
        """The ops of the next commit; ``rest`` are those that follow it."""
        if self.rest:
            return self.rest.pop(0)
        ops, self.running.ops = self.running.ops, ()
        first, *self.rest = self.workflows.commits.parts(ops)
        return first

    def _outcome(self) -> tuple[CommitAction, bytes, str]:
        if self.progress.outcome is not None:
            return _ending(self.running.lease, self.progress.outcome)
        running = self.running
        # A step may have ended between two parts of a commit: its result comes with the next one.
        is_held = running.steps or running.ops or self.held_back or self.is_released
        return CommitAction.CONTINUE if is_held else CommitAction.SUSPEND, b"", ""

    def take(self, answer: Committed) -> None:
        running, activation = self.running, self._activation
        activation.note_committed(self.sent)
        if self.spans is not None:
            self.spans.point = None
        if self.rest:
            self.workflows.commits.due(running)
            return
        if self.held_back:
            calls, self.held_back = self.held_back, ()
            self._start_steps(calls)
        if self.progress.outcome is not None:
            if (meter := self.workflows.meter) is not None and self.ending is not None:
                meter.end(self.record.function, self.ending)
            self._log_ended(answer.unread)
            self.workflows.in_hand.let_go(running)
        elif answer.entries:
            running.note_order(answer.entries)
            running.has_unseen = running.has_unseen or answer.more
            self._feed(answer.entries)
        elif running.steps or running.ops or self.is_released:
            self._go_on()
        else:
            self._suspend()

    def _feed(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.log.settled.append(entry.number)
        if self.spans is not None:
            self.spans.note_heard(entries)
        if self.workflows.settings.always_suspend:
            self.running.is_committing = True  # until its journal has been loaded again
            self.workflows.in_hand.load_again(self.running, self._replay)
        else:
            self.drive(time.monotonic(), self._activation.feed, entries)

    def _replay(self, loaded: Loaded) -> None:
        """As if it had been suspended, and woken in another worker; its steps go on."""
        running = self.running
        running.is_committing = False
        old = self._activation
        if not is_ours(running.lease, loaded.record):
            raise Fenced(f"{running.lease.id} is not ours any more")
        self.workflows.close(old)
        self.activation = self.workflows.activation(old.definition, old.info, self.record, self.spans)
        handed_out = (*running.steps, *(op.number for op in running.ops if not isinstance(op, Checkpoint | Publish)))
        self.drive(time.monotonic(), self.activation.start, loaded.entries.values(), loaded.record.unseen, handed_out)

    @property
    def ending(self) -> State | None:
        return _STATE_OF.get(type(self.progress.outcome))

    def take_back(self) -> bool:
        """Whether steps would have to run again if the lease were given up."""
        self.rest.insert(0, self.sent)
        results = any(isinstance(op, StepResult) for op in (*self.sent, *self.running.ops))
        return results or len(self.running.steps) > 0

    # -- giving up the lease

    def _suspend(self) -> None:
        record, lease = self.record, self.running.lease
        workflows = self.workflows
        if workflows.kept.put(
            record.id,
            self._activation,
            self.log,
            epoch=lease.epoch,
            incarnation=record.incarnation,
            checkpoints={} if self.checkpoints is None else self.checkpoints.kept,
        ):
            self.activation = None
        if workflows.sampler.allow("suspended"):
            logger.info("%s", self.log.suspended(workflows.commits.now_ms(lease)), extra=self._about())
        workflows.in_hand.let_go(self.running)

    def _log_ended(self, unread: int) -> None:
        outcome = self.progress.outcome
        if self.spans is not None:
            self.spans.end(*_said_of(outcome))
        what = "unread" if unread else "resolved"
        if not isinstance(outcome, Resolved) or self.workflows.sampler.allow(what):
            level = logging.WARNING if isinstance(outcome, Rejected) else logging.INFO
            now_ms = self.workflows.commits.now_ms(self.running.lease)
            left = f"; {unread} {'message was' if unread == 1 else 'messages were'} never read" if unread else ""
            failure = None
            if isinstance(outcome, Rejected):
                failure = partial(self.workflows.codec.decode_error, outcome.payload)
            said = self.log.ended(self.progress, self.record, now_ms)
            logger.log(level, "%s%s", said, left, extra=self._about(failure))

    def _about(self, failure: logs.Failure | None = None) -> dict[str, Any]:
        """See ``logs.about``."""
        record = self.record
        return logs.about(
            record.id,
            record.function,
            attempt=record.crash_count + 1,
            group=group_of(record.queue),
            trace=record.trace if self.spans is None else self.spans.trace,
            failure=failure,
        )

    def close(self) -> None:
        if self.spans is not None:
            self.spans.end()
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self.published is not None:
            self.published.close()
        activation, self.activation = self.activation, None
        if activation is not None:
            self.workflows.close(activation)


def is_ours(lease: Lease, record: PromiseRecord) -> bool:
    """Whether an execution is still the one of this lease."""
    return record.entry == lease.entry and record.epoch == lease.epoch


def _is_continued(record: PromiseRecord) -> bool:
    """Whether earlier runs of it have ended with continue_as_new."""
    return record.base > 0 or record.begun_ms > record.created_ms


def _info(record: PromiseRecord, definition: WorkflowDefinition, own_keys: str) -> ExecutionInfo:
    return ExecutionInfo(
        id=record.id,
        root_id=root_of(record.id),
        function=record.function,
        group=group_of(record.queue),
        crash_count=record.crash_count,
        created_ms=record.created_ms,
        begun_ms=record.begun_ms,
        version=definition.version,
        incarnation=record.incarnation,
        priority=priority_of(record.queue),
        labels=read_labels(record.labels),
        own_keys=own_keys,
        origins=record.origins,
    )


def _said_of(ending: WorkflowOutcome | None) -> tuple[str, str]:
    """The outcome of a whole execution for its span, empty if it goes on, and the error."""
    match ending:
        case Resolved():
            return "resolved", ""
        case Rejected(text=text):
            return "rejected", text
        case CanceledOutcome():
            return "canceled", ""
        case Halted(reason):
            return "", f"Halted: {reason.partition(chr(10))[0]}"
        case _:
            return "", ""


def _ending(lease: Lease, ending: WorkflowOutcome) -> tuple[CommitAction, bytes, str]:
    """The end of a workflow for a commit: the outcome, its payload and its due time."""
    if isinstance(ending, Resolved):  # most end like this: matching its pattern takes as long as all the rest
        return CommitAction.RESOLVE, ending.payload, ""
    match ending:
        case Rejected(payload=payload):
            return CommitAction.REJECT, payload, ""
        case CanceledOutcome():
            return CommitAction.CANCEL, b"", ""
        case Continued(payload, base):
            return CommitAction.CONTINUE_AS_NEW, payload, str(base)
        case Halted(reason):
            logger.error("%s halted: %s", lease.id, reason, extra=logs.about(lease.id))
            return CommitAction.HALT, reason.encode(), ""
