"""The executor: load, drive, commit. The only place where runtime and store meet.

Each execution in hand is one asyncio task here, from its stream entry to the commit that lets go of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from durasleep import telemetry
from durasleep.codec import Codec
from durasleep.errors import CorruptData, DurasleepError, Fenced, StoreError, UsageError
from durasleep.model import (
    CANCEL,
    Entry,
    Kind,
    Number,
    Op,
    Outcome,
    State,
    StepResult,
    duration_ms,
    root_of,
)
from durasleep.runtime import debug
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import Registry, TaskDefinition, WorkflowDefinition
from durasleep.runtime.journal import TIMER_MS_MIN, StepCall
from durasleep.runtime.replay import (
    Activation,
    CanceledOutcome,
    Continued,
    Halted,
    Progress,
    Rejected,
    Resolved,
    version_of,
)
from durasleep.settings import Settings
from durasleep.store import batch, commands
from durasleep.store.commands import Beat, Committed, Lease
from durasleep.store.reads import Head, Loaded
from durasleep.store.store import Store
from durasleep.worker.kept import Kept, KeptWorkflows
from durasleep.worker.lines import Lines
from durasleep.worker.story import Story, describe_since
from durasleep.worker.usercode import StandIns, UserCode

T = TypeVar("T")

STUBBORN_MAX = 100  # tasks that would not end, kept for good; beyond it the process needs a new start
WATCHED_FIRST = 10  # activations of each function: what does not replay mostly shows early, and watching costs
SUSPECT_DEATHS = 2  # from here on an execution may be what kills its workers

logger = logging.getLogger("durasleep")


class _GiveBack(Exception):
    """The worker is leaving: this execution goes on elsewhere."""


@dataclass(slots=True, eq=False)
class Running:
    """An execution in hand."""

    lease: Lease
    task: asyncio.Task[None] | None = None
    order: int = 0
    """The newest order stamp heard of; above what was fed, there is news."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a finished step, by news, and when the worker starts to leave."""
    steps: dict[Number, asyncio.Task[StepResult | None]] = field(default_factory=dict[Number, Any])
    news: bool = False
    is_suspect: bool = False
    kept: Kept | None = None
    """Its workflow from the time before, until that goes on."""

    def drop_kept(self, close: Callable[[Activation], None]) -> None:
        """It will not go on here."""
        kept, self.kept = self.kept, None
        if kept is not None:
            close(kept.activation)


class Executor:
    """Runs what the reader takes; commits through the store; knows what it holds."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        codec: Codec,
        *,
        consumer: str,
        concurrency: int,
        settings: Settings,
        stand_ins: StandIns,
    ) -> None:
        self._store = store
        self._registry = registry
        self._codec = codec
        self._consumer = consumer
        self._concurrency = concurrency
        self._stand_ins = stand_ins
        self._settings = settings
        self._code = UserCode(concurrency, codec, stand_ins)
        self._running: dict[str, Running] = {}
        self._kept = KeptWorkflows(settings, self._close_soon)
        self._lines = Lines(settings.log_lines_max)
        self._stubborn = 0
        self._watched: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._leaving = False

    # -- what the other loops use

    @property
    def free(self) -> int:
        """Slots nobody uses."""
        return max(0, self._concurrency - len(self._running))

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def in_threads(self) -> int:
        """Calls of sync functions that have not returned; nothing can stop them."""
        return self._code.in_threads

    async def wait_until_free(self) -> int:
        """How many executions may be read, once that is at least one."""
        while self.free == 0:
            self._freed.clear()
            await self._freed.wait()
        return self.free

    def held(self) -> list[Lease]:
        """The leases in hand; may be called from another thread."""
        return [running.lease for running in tuple(self._running.values())]

    async def submit(self, leases: Iterable[Lease]) -> None:
        """Take executions on; one that is in hand already is left alone, one for which there is no slot given back."""
        for lease in leases:
            if lease.entry in self._running:
                continue
            if self.free == 0:  # two streams were read at once
                await self.give_back(lease.queue, [lease.entry])
            else:
                running = Running(lease)
                self._running[lease.entry] = running
                running.task = asyncio.get_running_loop().create_task(self._run(running), name=f"durasleep:{lease.id}")

    def nudge(self, id: str) -> None:
        """Something may have settled for this execution."""
        for running in self._running.values():
            if running.lease.id == id:
                running.news = True
                running.changed.set()

    def nudge_all(self) -> None:
        """Hints may have been missed."""
        for running in self._running.values():
            running.news = True
            running.changed.set()

    def hear_beat(self, beat: Beat) -> None:
        """Drop what was lost; look at what has moved on."""
        self._kept.drop_old(time.monotonic())
        lost = set(beat.lost)
        for running in tuple(self._running.values()):
            if running.lease.entry in lost and running.task is not None:
                logger.info("%s was taken over or has ended elsewhere", running.lease.id)
                running.task.cancel()
            elif beat.orders.get(running.lease.id, 0) > running.order:
                running.news = True
                running.changed.set()

    async def give_back(self, queue: str, entries: Sequence[str]) -> None:
        """Let others have entries that were read here; no attempt is counted."""
        await self._store.call(
            commands.reclaim(
                self._store.keys(),
                self._consumer,
                queue,
                beat="",
                give_back="some",
                max_attempts=self._settings.max_attempts,
                entries=entries,
            )
        )

    async def drain(self, grace_s: float) -> bool:
        """Let running steps finish, start nothing new; whether everything was let go of within ``grace_s``."""
        self._leaving = True
        for running in self._running.values():
            running.changed.set()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        return not self._running

    async def abort(self) -> None:
        """Cancel everything in hand, without another commit."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.drop_all()
        await asyncio.sleep(0)  # they are put away in plain callbacks
        self._code.close()

    # -- one execution

    async def _run(self, running: Running) -> None:
        lease = running.lease
        try:
            await self._execute(running)
        except Fenced as error:
            logger.info("%s dropped: %s", lease.id, error)
        except _GiveBack:
            await self.give_back(lease.queue, [lease.entry])
        except CorruptData as error:
            logger.error("%s halted: %s", lease.id, error)
            await self._halt(lease, str(error))
        except DurasleepError as error:
            logger.exception("%s halted", lease.id)
            await self._halt(lease, f"{type(error).__name__}: {error}")
        except Exception as error:
            logger.exception("%s halted by a fault in durasleep", lease.id)
            await self._halt(lease, f"a fault in durasleep: {error!r}")
        finally:
            running.drop_kept(self._close_soon)
            for step in running.steps.values():
                step.cancel()
            self._running.pop(lease.entry, None)
            self._freed.set()

    async def _execute(self, running: Running) -> None:
        lease = running.lease
        loaded = await self._load(running)
        head = loaded.head if loaded else None
        if loaded is None or head is None or head.entry != lease.entry or head.epoch != lease.epoch:
            await self._drop(lease)
            return
        if head.deaths >= SUSPECT_DEATHS:
            if any(other.is_suspect for other in self._running.values()):
                await self._defer(lease, "waits apart: workers have died while running it", 1.0)
                return
            running.is_suspect = True
        running.order = head.order
        if running.kept is not None:
            kept, running.kept = running.kept, None
            kept.story.wake(loaded.entries)
            feed = partial(kept.activation.feed, loaded.entries.values())
            await self._run_workflow(running, head, kept.activation, kept.story, feed)
            return
        definition = self._registry.get(head.function)
        if isinstance(definition, WorkflowDefinition) and definition.fn in self._stand_ins:
            definition = TaskDefinition(definition.name, self._stand_ins[definition.fn])
        if definition is None:
            await self._defer_unknown(lease, head, f"the function {head.function!r}")
        elif isinstance(definition, TaskDefinition):
            await self._run_task(running, loaded, definition)
        else:
            version = version_of(loaded.entries.values())
            pinned = definition if version is None else self._registry.get_version(head.function, version)
            if pinned is None:
                await self._defer_unknown(lease, head, f"version {version} of {head.function}, with which it began")
            else:
                await self._begin_workflow(running, loaded, pinned)

    async def _run_task(self, running: Running, loaded: Loaded, definition: TaskDefinition) -> None:
        """A task as an execution of its own: its journal holds the attempts that failed, its outcome is the last."""
        lease, head = running.lease, loaded.head
        attempt = 1 + sum(entry.kind is Kind.STEP for entry in loaded.entries.values())
        began = time.monotonic()
        try:
            args, kwargs = self._codec.decode_args(head.args, definition.fn, skip_first=False)
        except UsageError as error:  # arguments that do not fit are the caller's error, and end it
            logger.warning("%s rejected: %s", lease.id, error)
            await self._commit(lease, Outcome.REJECT, payload=self._codec.encode_error(error))
            return
        while True:
            outcome, value = await self._attempt(running, definition, args, kwargs)
            retry = definition.retry
            if outcome is not Outcome.REJECT or retry is None or not retry.wants(value, attempt):
                break
            delay_ms = retry.delay_ms(attempt, random.random())
            failed = StepResult(Number(str(attempt)), definition.name, State.REJECTED, self._codec.encode_error(value))
            said = f"attempt {attempt} of {retry.attempts} failed: {type(value).__name__}: {value}"
            logger.warning("%s: %s; next in %s", lease.id, said, telemetry.describe_ms(delay_ms))
            if delay_ms >= TIMER_MS_MIN:
                await self._commit(lease, Outcome.RETRY, ops=[failed], payload=said.encode(), due=f"+{delay_ms}")
                return
            await self._commit(lease, Outcome.CONTINUE, ops=[failed])
            await asyncio.sleep(delay_ms / 1000)
            attempt += 1
        payload = self._codec.encode_error(value) if outcome is Outcome.REJECT else value
        is_open = any(entry.state is State.PENDING for entry in loaded.entries.values())
        await self._commit(lease, outcome, payload=payload, open=is_open)
        word = {Outcome.RESOLVE: "resolved", Outcome.REJECT: "rejected", Outcome.CANCEL: "canceled"}[outcome]
        if outcome is Outcome.REJECT or self._lines.has_room(word):
            level = logging.WARNING if outcome is Outcome.REJECT else logging.INFO
            logger.log(level, "%s %s after %s", lease.id, word, describe_since(began))

    async def _attempt(
        self, running: Running, definition: TaskDefinition, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[Outcome, Any]:
        """One call of a task: its outcome, and the encoded result or the error. A cancel is passed on to it."""
        timeout_s = None if definition.timeout is None else duration_ms(definition.timeout) / 1000
        task = asyncio.get_running_loop().create_task(self._code.call(definition.fn, args, kwargs, timeout_s))
        task.add_done_callback(lambda _: running.changed.set())
        try:
            while not task.done():
                await running.changed.wait()
                running.changed.clear()
                if running.news:
                    running.news = False
                    answer = await self._commit(running.lease, Outcome.CONTINUE)
                    if any(entry.number == CANCEL for entry in answer.entries):
                        task.cancel()
        except BaseException:
            task.cancel()
            raise
        try:
            return Outcome.RESOLVE, self._codec.encode(await task, f"the result of {definition.name}")
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr] - we run in a task
                raise
            return Outcome.CANCEL, b""
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises is its outcome
            return Outcome.REJECT, error

    async def _load(self, running: Running) -> Loaded | None:
        """What the lease is for: all of it, or for a workflow that is kept here only what has settled since."""
        lease = running.lease
        kept = running.kept = self._kept.take(lease.id, lease.epoch)
        if kept is not None:
            loaded = await self._store.load_news(lease.id)
            if loaded is not None and loaded.head.birth == kept.birth:
                return loaded
            running.drop_kept(self._close_soon)
        return await self._store.load(lease.id) if lease.id else None

    async def _begin_workflow(self, running: Running, loaded: Loaded, definition: WorkflowDefinition) -> None:
        head = loaded.head
        info = ExecutionInfo(
            id=head.id,
            root_id=root_of(head.id),
            function=head.function,
            group=head.queue.partition("/")[0],
            deaths=head.deaths,
            created_ms=head.created_ms,
            begun_ms=head.begun_ms,
            version=definition.version,
            birth=head.birth,
        )
        activation = self._activation(definition, info, head)
        entries = loaded.entries.values()
        start = partial(activation.start, entries, head.unseen)
        await self._run_workflow(running, head, activation, Story(head.id, entries), start)

    async def _run_workflow(
        self, running: Running, head: Head, activation: Activation, story: Story, go_on: Callable[[], Progress]
    ) -> None:
        """Drive a workflow, first by ``go_on``, until it is suspended or has ended."""
        lease = running.lease
        is_kept = False
        try:
            progress = await self._drive(activation, go_on)
            while True:
                if progress.warning:
                    logger.warning(progress.warning)
                story.ask(progress.ops, self._store.clock.now_ms())
                if progress.outcome is not None:
                    await self._end_workflow(running, activation, progress)
                    if not isinstance(progress.outcome, Resolved) or self._lines.has_room("resolved"):
                        logger.info(story.ended(progress))
                    return
                entries = await self._go_on(running, activation, progress)
                if entries is None:
                    is_kept = self._kept.put(head.id, activation, story, epoch=lease.epoch, birth=head.birth)
                    if self._lines.has_room("suspended"):
                        logger.info(story.suspended(self._store.clock.now_ms()))
                    return
                story.settle(entry.number for entry in entries)
                if self._settings.always_suspend:
                    self._close_soon(activation)
                    again = await self._load_again(lease)
                    activation = self._activation(activation.definition, activation.info, head)
                    known = (again.entries.values(), again.head.unseen, tuple(running.steps))
                    progress = await self._drive(activation, partial(activation.start, *known))
                else:
                    progress = await self._drive(activation, partial(activation.feed, entries))
        finally:
            if not is_kept:
                self._close_soon(activation)

    def _activation(self, definition: WorkflowDefinition, info: ExecutionInfo, head: Head) -> Activation:
        self._watched[info.function] += 1
        is_watched = self._settings.debug or self._watched[info.function] <= WATCHED_FIRST
        watch = debug.watch if is_watched else None
        return Activation(
            definition, info, head.args, self._codec, settings=self._settings, base=head.base, watch=watch
        )

    async def _drive(self, activation: Activation, go_on: Callable[[], Progress]) -> Progress:
        """Let the workflow's code run until it waits; said if that takes long, for nothing else runs meanwhile."""
        began = time.monotonic()
        progress = await _plainly(go_on)
        took_s = time.monotonic() - began
        if took_s > self._settings.slow_drain_s:
            logger.warning(
                "the code of %s (%s) held up this worker for %.1f s: what takes time or blocks belongs in a step, "
                "`await ctx.run(...)`",
                activation.id,
                activation.function,
                took_s,
            )
        if self._settings.debug:
            progress = await _plainly(debug.checked, activation, progress)
        return progress

    def _close_soon(self, activation: Activation) -> None:
        """Put a workflow away, in a plain callback, outside any task: its loop has tasks of its own."""
        asyncio.get_running_loop().call_soon(self._close, activation)

    def _close(self, activation: Activation) -> None:
        report = activation.close()
        if report.stubborn:
            self._say_stubborn(activation.id, report.stubborn)

    async def _load_again(self, lease: Lease) -> Loaded:
        loaded = await self._store.load(lease.id)
        if loaded is None or loaded.head.entry != lease.entry or loaded.head.epoch != lease.epoch:
            raise Fenced(f"{lease.id} is not ours any more")
        return loaded

    async def _go_on(self, running: Running, activation: Activation, progress: Progress) -> list[Entry] | None:
        """Commit what the workflow asked for and wait for news: the entries to feed, or None if it is suspended."""
        lease = running.lease
        for number in progress.stop_steps:
            if step := running.steps.pop(number, None):
                step.cancel()
        if self._leaving and progress.steps:
            await self._commit_ops(lease, activation, progress.ops, Outcome.CONTINUE)
            raise _GiveBack
        for call in progress.steps:
            self._start_step(running, call)
        ops: Sequence[Op] = progress.ops
        while True:
            if ops or running.news or not running.steps:
                running.news = False
                outcome = Outcome.CONTINUE if running.steps else Outcome.SUSPEND
                answer = await self._commit_ops(lease, activation, ops, outcome)
                if answer.entries:
                    running.order = max(running.order, *(entry.stamp for entry in answer.entries))
                    running.news = running.news or answer.more
                    return answer.entries
                if outcome is Outcome.SUSPEND:
                    return None
            await running.changed.wait()
            running.changed.clear()
            ops = [result for step in _finished(running) if (result := step.result()) is not None]

    def _say_stubborn(self, id: str, positions: Sequence[str]) -> None:
        """Code that swallows its own cancellation stays in memory for good: it is named and counted."""
        self._stubborn += len(positions)
        logger.warning("%s was put away, but would not end at %s", id, ", ".join(positions))
        if self._stubborn > STUBBORN_MAX:
            logger.error("%d tasks of workflows would not end: restart this worker", self._stubborn)

    def _start_step(self, running: Running, call: StepCall) -> None:
        task = asyncio.get_running_loop().create_task(
            self._code.step(call), name=f"durasleep:{running.lease.id}~{call.number}"
        )
        task.add_done_callback(lambda _: running.changed.set())
        running.steps[call.number] = task

    # -- commits

    def _commit(
        self,
        lease: Lease,
        outcome: Outcome,
        *,
        payload: bytes = b"",
        due: str = "",
        ops: Sequence[Op] = (),
        activation: Activation | None = None,
        open: bool = True,
    ) -> asyncio.Future[Committed]:
        return self._store.send(
            commands.commit(
                self._store.keys(lease.id),
                self._consumer,
                lease,
                outcome,
                seen=activation.seen if activation else 0,
                seen_number=activation.seen_number if activation else "",
                ops=ops,
                payload=payload,
                due=due,
                open=activation.is_open if activation else open,
            )
        )

    async def _commit_ops(
        self,
        lease: Lease,
        activation: Activation,
        ops: Sequence[Op],
        outcome: Outcome,
        payload: bytes = b"",
        due: str = "",
    ) -> Committed:
        """One commit, or several if it asks for more than one script call may do."""
        *parts, last = batch.split_ops(ops, self._settings) if len(ops) > 1 else (ops,)
        for part in parts:
            await self._commit(lease, Outcome.CONTINUE, ops=part, activation=activation)
        return await self._commit(lease, outcome, ops=last, payload=payload, due=due, activation=activation)

    async def _end_workflow(self, running: Running, activation: Activation, progress: Progress) -> None:
        due = ""
        match progress.outcome:
            case Resolved(payload):
                outcome, value = Outcome.RESOLVE, payload
            case Rejected(payload=payload):
                outcome, value = Outcome.REJECT, payload
            case CanceledOutcome():
                outcome, value = Outcome.CANCEL, b""
            case Continued(payload, base):
                due = str(base)
                outcome, value = Outcome.CONTINUE_AS_NEW, payload
            case Halted(reason):
                logger.error("%s halted: %s", running.lease.id, reason)
                outcome, value = Outcome.HALT, reason.encode()
            case None:
                raise AssertionError("called with an outcome")
        await self._commit_ops(running.lease, activation, progress.ops, outcome, value, due)

    async def _defer(self, lease: Lease, reason: str, delay_s: float) -> None:
        await self._commit(lease, Outcome.DEFER, payload=reason.encode(), due=f"+{round(delay_s * 1000)}")

    async def _defer_unknown(self, lease: Lease, head: Head, what: str) -> None:
        """A newer worker may know it: offered again after 1, 2, 4, ... seconds, as long again as it has waited."""
        waits_s = (self._store.clock.now_ms() - head.created_ms) / 1000
        delay_s = min(max(1.0, waits_s), self._settings.defer_s_max)
        logger.warning("%s deferred: no worker here knows %s; next try in %.0f s", lease.id, what, delay_s)
        await self._defer(lease, f"no worker here knows {what}", delay_s)

    async def _drop(self, lease: Lease) -> None:
        """The entry's execution is gone, has ended or was dispatched anew; garbage is put aside by name."""
        reason = b"" if lease.id else b"not an entry of ours"
        try:
            await self._commit(lease, Outcome.DROP, payload=reason)
        except Fenced:
            return  # it was dispatched here while we looked: the next read brings it
        if reason:
            logger.error("entry %s of queue %s is not one of ours: put aside", lease.entry, lease.queue)

    async def _halt(self, lease: Lease, reason: str) -> None:
        try:
            await self._commit(lease, Outcome.HALT, payload=reason.encode())
        except StoreError as error:
            logger.error("%s could not be halted (%s): its entry is put aside", lease.id, error)
            try:
                await self._commit(lease, Outcome.DROP, payload=reason.encode())
            except StoreError:
                return


def _plainly(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Call from a plain callback, outside any task: the private loop has tasks of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call(*args)
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is awaited
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    loop.call_soon(run)
    return future


def _finished(running: Running) -> list[asyncio.Task[StepResult | None]]:
    done = [number for number, task in running.steps.items() if task.done() and not task.cancelled()]
    return [running.steps.pop(number) for number in done]
