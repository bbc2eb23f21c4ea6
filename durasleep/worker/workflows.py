"""Drives workflows: their code runs until it waits, what it asked for is committed, and it goes on with the news."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from durasleep.codec import Codec
from durasleep.errors import Fenced
from durasleep.model import Entry, Op, Outcome, PromiseId, root_of
from durasleep.runtime import debug
from durasleep.runtime.context import ExecutionInfo
from durasleep.runtime.definition import WorkflowDefinition
from durasleep.runtime.journal import StepCall
from durasleep.runtime.replay import (
    Activation,
    CanceledOutcome,
    Continued,
    Ending,
    Halted,
    Progress,
    Rejected,
    Resolved,
)
from durasleep.settings import Settings
from durasleep.store.commands import Committed, Item, Lease
from durasleep.store.reads import Head, Loaded
from durasleep.store.store import Store
from durasleep.worker.commits import Commits
from durasleep.worker.kept import KeptWorkflows
from durasleep.worker.lines import Lines
from durasleep.worker.running import Running
from durasleep.worker.story import Story
from durasleep.worker.usercode import UserCode

T = TypeVar("T")

STUBBORN_MAX = 100  # tasks that would not end, kept for good; beyond it the process needs a new start
WATCHED_FIRST = 10  # activations of each function: what does not replay mostly shows early, and watching costs
SUSPECT_DEATHS = 2  # from here on an execution may be what kills its workers

logger = logging.getLogger("durasleep")


class GiveBack(Exception):
    """The worker is leaving: this execution goes on elsewhere."""


class Driven(msgspec.Struct, eq=False):
    """A workflow in hand, and what its code last asked for."""

    running: Running
    head: Head
    activation: Activation
    story: Story
    progress: Progress


class Workflows:
    """Everything a worker does with workflows, from the loaded journal to the commit that lets go of it.

    What runs user code (``begin``, ``take``) must be called from a plain callback, outside any task: the private loop
    has tasks of its own. ``plainly`` does that for coroutines.
    """

    def __init__(
        self, store: Store, codec: Codec, commits: Commits, code: UserCode, lines: Lines, settings: Settings
    ) -> None:
        self._store = store
        self._codec = codec
        self._commits = commits
        self._code = code
        self._lines = lines
        self._settings = settings
        self._kept = KeptWorkflows(settings, self._close_soon)
        self._stubborn = 0
        self._watched: Counter[str] = Counter()
        self._leaving = False

    # -- one activation

    def begin(self, running: Running, loaded: Loaded, definition: WorkflowDefinition) -> Driven:
        """Replay what was loaded and let the code run until it waits."""
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
        running.activation = activation = self._activation(definition, info, head)
        entries = loaded.entries.values()
        story = Story(head.id, entries)
        progress = self._drive(activation, story, partial(activation.start, entries, head.unseen))
        return Driven(running, head, activation, story, progress)

    def only_commit(self, driven: Driven) -> Item[Committed] | None:
        """The commit that lets go of it, if one will do: None if there are steps to run, or more than fits in one."""
        progress, ops = driven.progress, driven.progress.ops
        if progress.steps or len(self._commits.parts(ops)) > 1:
            return None
        lease, activation = driven.running.lease, driven.activation
        if progress.outcome is None:
            return self._commits.item(lease, Outcome.SUSPEND, ops=ops, activation=activation)
        outcome, payload, due = _ending(lease, progress.outcome)
        return self._commits.item(lease, outcome, ops=ops, payload=payload, due=due, activation=activation)

    def take(self, driven: Driven, answer: Committed) -> bool:
        """What ``only_commit`` was answered: true if that was all, false if ``run`` must go on with it."""
        driven.activation.note_committed(driven.progress.ops)
        if driven.progress.outcome is not None:
            self._say_ended(driven)
        elif answer.entries:
            return False
        else:
            self._suspend(driven)
        return True

    # -- until it is let go of

    def keeps(self, id: PromiseId) -> bool:
        """Whether this workflow may go on from where it was here."""
        return id in self._kept

    async def wake(self, running: Running) -> Driven | None:
        """A workflow that was kept, gone on with what has settled since; None if it must be replayed."""
        lease = running.lease
        kept = self._kept.take(lease.id, lease.epoch)
        if kept is None:
            return None
        running.activation = kept.activation
        loaded = await self._store.load_news(lease.id)
        if (
            loaded is None
            or not is_ours(lease, loaded.head)
            or loaded.head.birth != kept.birth
            or loaded.head.deaths >= SUSPECT_DEATHS
        ):
            running.activation = None
            self._close_soon(kept.activation)
            return None
        running.order = loaded.head.order
        kept.story.wake(loaded.entries)
        feed = partial(kept.activation.feed, loaded.entries.values())
        progress = await plainly(self._drive, kept.activation, kept.story, feed)
        return Driven(running, loaded.head, kept.activation, kept.story, progress)

    async def run(self, driven: Driven, answer: Committed | None = None) -> None:
        """Commit and drive on until it is suspended or has ended; first with the news in ``answer``, if given."""
        if answer is not None:
            await self._feed(driven, _heard(driven.running, answer))
        while driven.progress.outcome is None:
            entries = await self._go_on(driven)
            if entries is None:
                self._suspend(driven)
                return
            await self._feed(driven, entries)
        await self._end(driven)

    def leave(self) -> None:
        """Begin no more steps."""
        self._leaving = True

    def drop_old(self) -> None:
        """Put away what has been kept long enough."""
        self._kept.drop_old(time.monotonic())

    def drop_all(self) -> None:
        """Put away all that is kept."""
        self._kept.drop_all()

    def close(self, activation: Activation) -> None:
        """Put a workflow away; call it from a plain callback."""
        report = activation.close()
        if report.stubborn:
            self._say_stubborn(activation.id, report.stubborn)

    # -- driving

    def _activation(self, definition: WorkflowDefinition, info: ExecutionInfo, head: Head) -> Activation:
        self._watched[info.function] += 1
        is_watched = self._settings.debug or self._watched[info.function] <= WATCHED_FIRST
        watch = debug.watch if is_watched else None
        return Activation(
            definition, info, head.args, self._codec, settings=self._settings, base=head.base, watch=watch
        )

    def _drive(self, activation: Activation, story: Story, go_on: Callable[[], Progress]) -> Progress:
        """Let the workflow's code run until it waits; said if that takes long, for nothing else runs meanwhile."""
        began = time.monotonic()
        progress = go_on()
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
            progress = debug.checked(activation, progress)
        if progress.warning:
            logger.warning(progress.warning)
        if progress.ops:
            story.ask(progress.ops, self._store.clock.now_ms())
        return progress

    async def _feed(self, driven: Driven, entries: Sequence[Entry]) -> None:
        """Go on with what a commit has answered."""
        driven.story.settle(entry.number for entry in entries)
        if self._settings.always_suspend:
            lease, old = driven.running.lease, driven.activation
            driven.running.activation = None
            self._close_soon(old)
            again = await self._load_again(lease)
            driven.running.activation = driven.activation = self._activation(old.definition, old.info, driven.head)
            known = (again.entries.values(), again.head.unseen, tuple(driven.running.steps))
            go_on = partial(driven.activation.start, *known)
        else:
            go_on = partial(driven.activation.feed, entries)
        driven.progress = await plainly(self._drive, driven.activation, driven.story, go_on)

    async def _load_again(self, lease: Lease) -> Loaded:
        loaded = await self._store.load(lease.id)
        if loaded is None or not is_ours(lease, loaded.head):
            raise Fenced(f"{lease.id} is not ours any more")
        return loaded

    async def _go_on(self, driven: Driven) -> list[Entry] | None:
        """Commit what the workflow asked for and wait for news: the entries to feed, or None if it is suspended."""
        running, activation, progress = driven.running, driven.activation, driven.progress
        lease = running.lease
        for number in progress.stop_steps:
            if step := running.steps.pop(number, None):
                step.cancel()
        if self._leaving and progress.steps:
            await self._commits.of(activation, lease, Outcome.CONTINUE, ops=progress.ops)
            raise GiveBack
        for call in progress.steps:
            self._start_step(running, call)
        ops: Sequence[Op] = progress.ops
        while True:
            if ops or running.news or not running.steps:
                running.news = False
                outcome = Outcome.CONTINUE if running.steps else Outcome.SUSPEND
                answer = await self._commits.of(activation, lease, outcome, ops=ops)
                if answer.entries:
                    return _heard(running, answer)
                if outcome is Outcome.SUSPEND:
                    return None
            await running.changed.wait()
            running.changed.clear()
            done = [number for number, task in running.steps.items() if task.done() and not task.cancelled()]
            ops = [result for number in done if (result := running.steps.pop(number).result()) is not None]

    def _start_step(self, running: Running, call: StepCall) -> None:
        task = asyncio.get_running_loop().create_task(
            self._code.step(call), name=f"durasleep:{running.lease.id}~{call.number}"
        )
        task.add_done_callback(lambda _: running.changed.set())
        running.steps[call.number] = task

    # -- letting go

    def _suspend(self, driven: Driven) -> None:
        running, head = driven.running, driven.head
        lease = running.lease
        if self._kept.put(head.id, driven.activation, driven.story, epoch=lease.epoch, birth=head.birth):
            running.activation = None
        if self._lines.has_room("suspended"):
            logger.info(driven.story.suspended(self._store.clock.now_ms()))

    async def _end(self, driven: Driven) -> None:
        progress, lease = driven.progress, driven.running.lease
        assert progress.outcome is not None
        outcome, payload, due = _ending(lease, progress.outcome)
        await self._commits.of(driven.activation, lease, outcome, payload=payload, due=due, ops=progress.ops)
        self._say_ended(driven)

    def _say_ended(self, driven: Driven) -> None:
        if not isinstance(driven.progress.outcome, Resolved) or self._lines.has_room("resolved"):
            logger.info(driven.story.ended(driven.progress))

    def _close_soon(self, activation: Activation) -> None:
        asyncio.get_running_loop().call_soon(self.close, activation)

    def _say_stubborn(self, id: str, positions: Sequence[str]) -> None:
        """Code that swallows its own cancellation stays in memory for good: it is named and counted."""
        self._stubborn += len(positions)
        logger.warning("%s was put away, but would not end at %s", id, ", ".join(positions))
        if self._stubborn > STUBBORN_MAX:
            logger.error("%d tasks of workflows would not end: restart this worker", self._stubborn)


def plainly(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Call from a plain callback, outside any task."""
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


def is_ours(lease: Lease, head: Head) -> bool:
    """Whether an execution is still where the lease says."""
    return head.entry == lease.entry and head.epoch == lease.epoch


def _heard(running: Running, answer: Committed) -> list[Entry]:
    """The news a commit has answered."""
    running.order = max(running.order, *(entry.stamp for entry in answer.entries))
    running.news = running.news or answer.more
    return answer.entries


def _ending(lease: Lease, ending: Ending) -> tuple[Outcome, bytes, str]:
    """How a workflow ends, as a commit says it: the outcome, its payload and its due."""
    match ending:
        case Resolved(payload):
            return Outcome.RESOLVE, payload, ""
        case Rejected(payload=payload):
            return Outcome.REJECT, payload, ""
        case CanceledOutcome():
            return Outcome.CANCEL, b"", ""
        case Continued(payload, base):
            return Outcome.CONTINUE_AS_NEW, payload, str(base)
        case Halted(reason):
            logger.error("%s halted: %s", lease.id, reason)
            return Outcome.HALT, reason.encode(), ""
