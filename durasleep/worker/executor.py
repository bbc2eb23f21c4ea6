"""The executor: takes executions on, drives each until a commit lets go of it, and knows what it holds.

What was read together is loaded, driven and committed together, for most workflows are through then: they wait, or
have ended. Whatever goes on gets an asyncio task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from durasleep.codec import Codec
from durasleep.errors import CorruptData, DurasleepError, Fenced
from durasleep.runtime.definition import Definition, Registry, TaskDefinition, WorkflowDefinition
from durasleep.runtime.replay import version_of
from durasleep.settings import Settings
from durasleep.store import commands, reads
from durasleep.store.commands import Beat, Committed, Item, Lease
from durasleep.store.reads import Loaded, Page
from durasleep.store.store import Store
from durasleep.worker.commits import Commits
from durasleep.worker.lines import Lines
from durasleep.worker.running import Running
from durasleep.worker.tasks import Tasks
from durasleep.worker.usercode import StandIns, UserCode
from durasleep.worker.workflows import SUSPECT_DEATHS, Driven, GiveBack, Workflows, is_ours, plainly

TOGETHER_MAX = 48  # two script calls: while one is answered the other is read
TOGETHER_S = 0.005  # of user code in one turn of the loop; what is left is driven in the next

logger = logging.getLogger("durasleep")


class Executor:
    """Runs what the reader takes, loaded by way of ``incoming``; commits through the store; knows what it holds."""

    def __init__(
        self,
        store: Store,
        incoming: Store,
        registry: Registry,
        codec: Codec,
        *,
        consumer: str,
        concurrency: int,
        settings: Settings,
        stand_ins: StandIns,
    ) -> None:
        self._store = store
        self._incoming = incoming
        self._registry = registry
        self._consumer = consumer
        self._concurrency = concurrency
        self._stand_ins = stand_ins
        self._settings = settings
        self._code = UserCode(concurrency, codec, stand_ins)
        self._commits = Commits(store, consumer, settings)
        lines = Lines(settings.log_lines_max)
        self._tasks = Tasks(codec, self._commits, self._code, lines)
        self._workflows = Workflows(store, codec, self._commits, self._code, lines, settings)
        self._running: dict[str, Running] = {}
        self._together: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

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
        fresh: list[Running] = []
        for lease in leases:
            if lease.entry in self._running:
                continue
            if self.free == 0:  # two streams were read at once
                await self.give_back(lease.queue, [lease.entry])
                continue
            self._running[lease.entry] = running = Running(lease)
            if lease.id and not self._workflows.keeps(lease.id):
                fresh.append(running)
            else:
                self._run_alone(running, self._execute(running))
        for start in range(0, len(fresh), TOGETHER_MAX):
            many = fresh[start : start + TOGETHER_MAX]
            task = asyncio.get_running_loop().create_task(self._begin_together(many), name="durasleep-together")
            task.add_done_callback(partial(self._end_together, many))
            self._together.add(task)

    def nudge(self, id: str) -> None:
        """Something may have settled for this execution."""
        for running in self._running.values():
            if running.lease.id == id:
                running.tell()

    def nudge_all(self) -> None:
        """Hints may have been missed."""
        for running in self._running.values():
            running.tell()

    def hear_beat(self, beat: Beat) -> None:
        """Drop what was lost; look at what has moved on."""
        self._workflows.drop_old()
        lost = set(beat.lost)
        for running in tuple(self._running.values()):
            if running.lease.entry in lost and running.task is not None:
                logger.info("%s was taken over or has ended elsewhere", running.lease.id)
                running.task.cancel()
            elif beat.orders.get(running.lease.id, 0) > running.order:
                running.tell()

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
        self._workflows.leave()
        for running in self._running.values():
            running.changed.set()
        give_up_at = time.monotonic() + grace_s
        while (tasks := self._open_tasks()) and (left_s := give_up_at - time.monotonic()) > 0:
            await asyncio.wait(tasks, timeout=left_s)
        return not self._running

    async def abort(self) -> None:
        """Cancel everything in hand, without another commit."""
        while tasks := self._open_tasks():
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for the callbacks that let go of them: of what has ended, gather waits for nothing
        self._workflows.drop_all()
        await asyncio.sleep(0)  # they are put away in plain callbacks
        self._code.close()

    def _open_tasks(self) -> list[asyncio.Task[None]]:
        own = [running.task for running in self._running.values() if running.task is not None]
        return [*self._together, *own]

    # -- together

    async def _begin_together(self, many: list[Running]) -> None:
        """The first activation of what was read together. Whatever is unusual about one gives it a task of its own."""
        keys = self._store.keys()
        pages = await self._incoming.ask([reads.read_page(keys, running.lease.id) for running in many])
        rest = list(zip(many, pages, strict=True))
        asked: list[tuple[list[Driven], asyncio.Future[list[Any]]]] = []
        while rest:
            begun, rest = await plainly(self._begin_some, rest)
            if begun:
                asked.append(([driven for driven, _ in begun], self._store.ask([commit for _, commit in begun])))
        for all_driven, answers in asked:
            await plainly(self._take_each, all_driven, await answers)

    def _begin_some(
        self, many: list[tuple[Running, Page | DurasleepError]]
    ) -> tuple[list[tuple[Driven, Item[Committed]]], list[tuple[Running, Page | DurasleepError]]]:
        """Drive as many as there is time for: those that one commit lets go of, and those still to be driven."""
        until = time.monotonic() + TOGETHER_S
        begun: list[tuple[Driven, Item[Committed]]] = []
        for place, (running, page) in enumerate(many):
            try:
                driven = self._begin(running, page)
                commit = driven and self._workflows.only_commit(driven)
            except Exception as error:  # noqa: BLE001 - it fails alone, as it would have in a task of its own
                self._run_alone(running, _fail(error))
                continue
            if driven is not None and commit is not None:
                begun.append((driven, commit))
            elif driven is not None:
                self._run_alone(running, self._workflows.run(driven))
            if time.monotonic() > until:
                return begun, many[place + 1 :]
        return begun, []

    def _begin(self, running: Running, page: Page | DurasleepError) -> Driven | None:
        """A workflow's first activation; None for what needs a closer look, in a task of its own."""
        if isinstance(page, DurasleepError) or page.head is None or page.cursor:
            self._run_alone(running, self._execute(running))
            return None
        loaded = reads.loaded_of(page.head, page.entries)
        definition = self._definition(loaded)
        if (
            not isinstance(definition, WorkflowDefinition)
            or not is_ours(running.lease, loaded.head)
            or loaded.head.deaths >= SUSPECT_DEATHS
        ):
            self._run_alone(running, self._execute(running, loaded))
            return None
        running.order = loaded.head.order
        return self._workflows.begin(running, loaded, definition)

    def _take_each(self, all_driven: Sequence[Driven], answers: Sequence[Committed | DurasleepError]) -> None:
        for driven, answer in zip(all_driven, answers, strict=True):
            running = driven.running
            if isinstance(answer, DurasleepError):
                self._run_alone(running, _fail(answer))
            elif self._workflows.take(driven, answer):
                self._let_go(running)
            else:
                self._run_alone(running, self._workflows.run(driven, answer))

    def _end_together(self, many: Sequence[Running], task: asyncio.Task[None]) -> None:
        self._together.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what was read together goes on one by one", exc_info=error)
        for running in many:
            if running.task is not None or self._running.get(running.lease.entry) is not running:
                continue
            if task.cancelled():
                self._let_go(running)
            else:
                self._put_away(running)
                self._run_alone(running, self._execute(running))

    # -- alone

    def _run_alone(self, running: Running, work: Coroutine[Any, Any, None]) -> None:
        running.task = asyncio.get_running_loop().create_task(
            self._run(running.lease, work), name=f"durasleep:{running.lease.id}"
        )

        def end(_: asyncio.Task[None]) -> None:
            work.close()  # a task that is cancelled at once never began it
            self._let_go(running)

        running.task.add_done_callback(end)

    async def _run(self, lease: Lease, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Fenced as error:
            logger.info("%s dropped: %s", lease.id, error)
        except GiveBack:
            await self.give_back(lease.queue, [lease.entry])
        except CorruptData as error:
            logger.error("%s halted: %s", lease.id, error)
            await self._commits.halt(lease, str(error))
        except DurasleepError as error:
            logger.exception("%s halted", lease.id)
            await self._commits.halt(lease, f"{type(error).__name__}: {error}")
        except Exception as error:
            logger.exception("%s halted by a fault in durasleep", lease.id)
            await self._commits.halt(lease, f"a fault in durasleep: {error!r}")

    async def _execute(self, running: Running, loaded: Loaded | None = None) -> None:
        lease = running.lease
        driven = await self._workflows.wake(running)
        if driven is not None:
            await self._workflows.run(driven)
            return
        if loaded is None and lease.id:
            loaded = await self._store.load(lease.id)
        if loaded is None or not is_ours(lease, loaded.head):
            await self._commits.drop(lease)
            return
        head = loaded.head
        if head.deaths >= SUSPECT_DEATHS:
            if any(other.is_suspect for other in self._running.values()):
                await self._commits.defer(lease, "waits apart: workers have died while running it", 1.0)
                return
            running.is_suspect = True
        running.order = head.order
        match self._definition(loaded):
            case WorkflowDefinition() as workflow:
                await self._workflows.run(await plainly(self._workflows.begin, running, loaded, workflow))
            case TaskDefinition() as task:
                await self._tasks.run(running, loaded, task)
            case None if (version := version_of(loaded.entries.values())) and self._registry.get(head.function):
                await self._commits.defer_unknown(
                    lease, head, f"version {version} of {head.function}, with which it began"
                )
            case None:
                await self._commits.defer_unknown(lease, head, f"the function {head.function!r}")

    def _definition(self, loaded: Loaded) -> Definition | None:
        """What it runs: of a workflow the version it began with."""
        function = loaded.head.function
        definition = self._registry.get(function)
        if not isinstance(definition, WorkflowDefinition):
            return definition
        if definition.fn in self._stand_ins:
            return TaskDefinition(definition.name, self._stand_ins[definition.fn])
        version = version_of(loaded.entries.values())
        return definition if version is None else self._registry.get_version(function, version)

    # -- letting go

    def _let_go(self, running: Running) -> None:
        """It is not in hand any more. In a plain callback: user code may run as it is put away."""
        for step in running.steps.values():
            step.cancel()
        self._put_away(running)
        if self._running.get(running.lease.entry) is running:
            del self._running[running.lease.entry]
        self._freed.set()

    def _put_away(self, running: Running) -> None:
        activation, running.activation = running.activation, None
        if activation is not None:
            self._workflows.close(activation)


async def _fail(error: Exception) -> None:
    raise error
