"""The executor: takes executions, runs each until a commit gives up its lease, and knows which ones it holds.

It works on many executions at once. Executions that were read together begin together, and all commits that are due in
one turn of the loop are one call, in plain callbacks. Only an unusual execution gets an asyncio task. The common way:

    submit ── all that is needed stands in its entry ───────────────────────> _begin_each ─> _begin_loaded
       └───── the journal, or what is new in it, has to be read ─> _load ─> _begin_each ─> _begin

An execution that cannot begin in this way, for example because its journal has several pages, gets a task of its own,
see ``_load_alone``, and comes back to ``_begin_loaded``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from durasleep.codec import Codec
from durasleep.errors import CorruptData, DurasleepError, Fenced, NewerVersion, StoreFull
from durasleep.model import CANCEL, PromiseId, State
from durasleep.observe import logs
from durasleep.observe.meter import Meter
from durasleep.protocol import journal, membership
from durasleep.protocol.commit import Committed, EntryKey, Lease
from durasleep.protocol.journal import Loaded, Page, PromiseRecord
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.runtime.activation import version_of
from durasleep.runtime.definition import Definition, Overrides, Registry, TaskDefinition, WorkflowDefinition
from durasleep.runtime.middleware import Middleware
from durasleep.runtime.waits import Wait
from durasleep.settings import Settings
from durasleep.transport.outage import Outage
from durasleep.transport.store import Store
from durasleep.worker.execution.commits import TURN_S, Commits
from durasleep.worker.execution.function_runner import FunctionRunner
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.log_sampler import LogSampler
from durasleep.worker.execution.tasks import Tasks
from durasleep.worker.execution.threads import Threads
from durasleep.worker.execution.workflows import SUSPECT_DEATHS, Workflows, is_ours

T = TypeVar("T")

FULL_S = 0.02  # without a free slot, until reads that block are ended: the slots may be free again at once
FULL_RETRY_S = 1.0  # while Redis is full, a commit that is refused is repeated this often
TOGETHER_MAX = 48  # executions loaded in one exchange, or begun in one turn of the loop
WAITING_MAX = 500  # executions held without a slot: no more than one heartbeat can well name
APART_S = 1.0  # until a suspect is offered again
APART_MAX = 10_000  # suspects whose waiting time is remembered

logger = logging.getLogger("durasleep")


class Executor:
    """Runs the executions that the reader takes, loads them through ``incoming``, and commits through the store."""

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
        overrides: Overrides,
        middleware: Sequence[Middleware] = (),
        on_used_up: Callable[[], None],
        on_full: Callable[[], None] | None = None,
        require: Callable[[str], Coroutine[Any, Any, None]],
        meter: Meter | None = None,
    ) -> None:
        """``on_used_up`` is called when no thread is left for sync functions, see ``Threads``; ``on_full`` when no slot
        has been free for a while; ``require`` makes the namespace need a feature.
        """
        self._meter = meter
        self._store = store
        self._incoming = incoming
        self._registry = registry
        self._consumer = consumer
        self._concurrency = concurrency
        self._overrides = overrides
        self._settings = settings
        self._freed = asyncio.Event()
        self._reading = 0
        self._on_full = on_full
        self._full_check: asyncio.TimerHandle | None = None
        self._threads = Threads(
            concurrency, lost_max_s=settings.threads_lost_s, on_back=self._note_freed, on_used_up=on_used_up
        )
        self._code = FunctionRunner(self._threads, codec, overrides, middleware)
        self._commits = Commits(store, consumer, settings, self._fail, lambda: registry.fingerprint, require)
        self._sampler = sampler = LogSampler(settings.log_lines_max)
        self._tasks = Tasks(codec, self._commits, self._code, sampler, settings, self.let_go, meter)
        self._workflows = Workflows(codec, self._commits, self._code, sampler, settings, self, meter)
        self._running: dict[EntryKey, HeldExecution] = {}
        self._waiting: dict[EntryKey, Lease] = {}
        """Leases that have no slot yet, the oldest first."""
        self._late: set[EntryKey] = set()
        """Those of them that were already waiting at the last heartbeat, and that other workers may run, too."""
        self._returning: set[EntryKey] = set()
        """Entries that are released because they never arrived: if one arrives now, it is too late."""
        self._apart: dict[PromiseId, tuple[float, float]] = {}
        """Suspects that have to wait: since when, and when they came last, by the monotonic clock."""
        self._loading: set[asyncio.Future[Any]] = set()
        self._full = Outage()

    def own_loop(self) -> None:
        """See ``Threads.own_loop``."""
        self._threads.own_loop()

    # -- for the other loops

    @property
    def functions(self) -> str:
        """Which functions it has, see ``Registry.fingerprint``."""
        return self._registry.fingerprint

    def described(self) -> str:
        """The same for people, see ``Registry.described``."""
        return self._registry.described()

    @property
    def free(self) -> int:
        """Slots that are not in use, and that no lease waits for, or may wait for soon."""
        return max(0, self._slots - len(self._running) - len(self._waiting) - self._reading)

    def begin_reading(self, count: int) -> None:
        """See ``Slots.begin_reading``."""
        self._reading += count

    def end_reading(self, count: int) -> None:
        """See ``Slots.end_reading``."""
        self._reading -= count
        self._freed.set()

    @property
    def _slots(self) -> int:
        """How many executions may run; each lost thread takes one slot."""
        return self._concurrency - self._threads.lost

    @property
    def running(self) -> int:
        return len(self._running)

    def slots(self) -> dict[str, int]:
        """How many slots are in which state; may be called from another thread."""
        running, lost = len(self._running), self._threads.lost
        free = max(0, self._concurrency - lost - running)
        return {"running": running, "free": free, "waiting": len(self._waiting), "lost": lost}

    @property
    def in_threads(self) -> int:
        """Calls in threads that have not returned; they cannot be stopped."""
        return self._threads.running

    @property
    def lost_threads(self) -> int:
        """Threads that run a function nobody waits for any more."""
        return self._threads.lost

    def waits(self) -> list[Wait]:
        """Running tasks and steps that wait for other results; may be called from another thread."""
        return self._code.waits.now()

    async def wait_until_free(self) -> int:
        """Wait until at least one execution may be read; returns how many."""
        while self.free == 0:
            self._freed.clear()
            await self._freed.wait()
        return self.free

    def held(self) -> list[Lease]:
        """The leases it holds; may be called from another thread."""
        waiting = tuple(self._waiting.values())  # first: a lease that begins meanwhile is among the running ones
        return [*waiting, *[running.lease for running in tuple(self._running.values())]]

    def in_slots(self) -> list[Lease]:
        """Those of them that have a slot."""
        return [running.lease for running in self._running.values()]

    async def submit(self, leases: Iterable[Lease]) -> None:
        """Take executions. One that is held already is left alone. One without a free slot waits for a slot, or is
        released if too many are waiting.
        """
        loaded: list[tuple[HeldExecution, Loaded]] = []
        to_load: list[HeldExecution] = []
        too_many: list[Lease] = []
        slots = self._slots
        for lease in leases:
            if self._is_known(lease.entry_key):
                continue
            if len(self._running) >= slots:  # two streams were read at once, or on a new connection
                if len(self._waiting) < WAITING_MAX:
                    self._waiting[lease.entry_key] = lease
                else:
                    too_many.append(lease)
                continue
            running = self._hold(lease)
            if not running.is_kept and (snapshot := journal.read_snapshot(lease)):
                loaded.append((running, snapshot))
            else:
                to_load.append(running)
        if loaded:
            asyncio.get_running_loop().call_soon(self._begin_each, self._begin_loaded, loaded)
        self._load(to_load)
        self._check_full()
        for lease in too_many:
            await self.release_entry(lease.entry_key)

    def _check_full(self) -> None:
        if self._on_full is not None and self._full_check is None and self._is_full:
            self._full_check = asyncio.get_running_loop().call_later(FULL_S, self._end_full_check)

    @property
    def _is_full(self) -> bool:
        return len(self._running) + len(self._waiting) >= self._slots

    def _end_full_check(self) -> None:
        self._full_check = None
        if self._on_full is not None and self._is_full:
            self._on_full()

    def _hold(self, lease: Lease) -> HeldExecution:
        """From here on it has a slot."""
        entry_key = lease.entry_key
        running = self._running[entry_key] = HeldExecution(lease, entry_key, is_kept=lease.id in self._workflows.kept)
        if self._meter is not None:
            running.held_at = time.monotonic()
        return running

    def take_offer(self, lease: Lease) -> None:
        """Another worker does not know its function, and has made us the holder of its lease."""
        if self._is_known(lease.entry_key):
            return
        if self._code.is_leaving or len(self._waiting) >= WAITING_MAX:
            self._release_waiting([lease], unless_alone=False)
            return
        self._waiting[lease.entry_key] = lease
        self._begin_waiting()

    def _release_waiting(self, leases: Sequence[Lease], *, unless_alone: bool) -> None:
        """Release leases that would have to wait for a slot here. Leases that are lost meanwhile need nothing."""
        asked = self._store.ask([self._commits.offer_again(lease, unless_alone=unless_alone) for lease in leases])
        self._loading.add(asked)
        asked.add_done_callback(partial(self._end_release, leases))

    def _end_release(self, leases: Sequence[Lease], asked: asyncio.Future[list[Any]]) -> None:
        self._loading.discard(asked)
        if asked.cancelled():
            return
        if error := asked.exception():
            logger.info("%s: the executions that wait for a slot here are released after the next heartbeats", error)
            return
        for lease, answer in zip(leases, asked.result(), strict=True):
            if isinstance(answer, Committed) and answer.kept and not self._is_known(lease.entry_key):
                self._waiting[lease.entry_key] = lease
        self._begin_waiting()

    def _is_known(self, entry_key: EntryKey) -> bool:
        return entry_key in self._running or entry_key in self._waiting or entry_key in self._returning

    def _release_late(self, partition: int) -> None:
        """If other workers may run it, a lease waits for a slot no longer than from one heartbeat to the next."""
        late = {
            entry_key: lease
            for entry_key, lease in self._waiting.items()
            if entry_key[0] == partition and "/" not in lease.queue
        }
        too_long = [lease for entry_key, lease in late.items() if entry_key in self._late]
        for lease in too_long:
            del self._waiting[lease.entry_key]
        if too_long:
            self._release_waiting(too_long, unless_alone=True)
        self._late = {entry_key for entry_key in self._late if entry_key[0] != partition}.union(late)

    async def release_waiting(self, partition: int) -> None:
        """Release the leases of a partition that have no slot yet: they are not to begin now."""
        waiting = [entry_key for entry_key in self._waiting if entry_key[0] == partition]
        for entry_key in waiting:
            del self._waiting[entry_key]
        for entry_key in waiting:
            await self.release_entry(entry_key)

    def _begin_waiting(self) -> None:
        """There is a slot for a waiting lease."""
        to_load: list[HeldExecution] = []
        while self._waiting and len(self._running) < self._slots and not self._code.is_leaving:
            entry_key, lease = next(iter(self._waiting.items()))
            to_load.append(self._hold(lease))
            del self._waiting[entry_key]
        self._load(to_load)

    async def return_unheard(self, entry_key: EntryKey) -> bool:
        """Release an entry that is pending to us and has never arrived; false if it has arrived."""
        if self._is_known(entry_key):
            return False
        self._returning.add(entry_key)
        try:
            await self.release_entry(entry_key)
        finally:
            self._returning.discard(entry_key)
        return True

    def notify(self, id: str) -> None:
        """An entry of this execution may have settled."""
        for running in self._running.values():
            if running.lease.id == id:
                self._notify(running)

    def notify_all(self) -> None:
        """Hints may have been missed."""
        for running in self._running.values():
            self._notify(running)

    def on_beat(self, beat: Beat) -> None:
        """Drop lost leases; look at executions with new settlements."""
        self._workflows.kept.drop_old(time.monotonic())
        lost = set(beat.lost)
        for entry_key in lost & self._waiting.keys():
            del self._waiting[entry_key]
        self._release_late(beat.partition)
        for running in tuple(self._running.values()):
            if running.entry_key in lost:
                # A commit on its way may just have given up the lease: its answer will tell.
                if not (running.is_committing or running.is_due):
                    if self._meter is not None:
                        self._meter.fenced += 1
                    id = running.lease.id
                    logger.info("%s was taken over or has ended elsewhere", id, extra=logs.about(id))
                    asyncio.get_running_loop().call_soon(self.let_go, running)
            elif beat.orders.get(running.lease.id, 0) > running.order:
                self._notify(running)

    def holds(self, partition: int) -> bool:
        """Whether it holds leases of this partition."""
        return any(lease.partition == partition for lease in self.held())

    def leave_partition(self, keys: Keyspace) -> None:
        """Other workers serve this partition now: the workflows that are kept of it are dropped."""
        self._workflows.kept.drop_where(lambda one: self._store.keys(one) is keys)

    def leave(self) -> None:
        """Start nothing new from here on."""
        self._code.leave()

    async def drain(self, grace_s: float) -> bool:
        """After ``leave``, let running steps finish; returns whether all leases were given up within ``grace_s``."""
        try:
            async with asyncio.timeout(grace_s):
                while self._running:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return False
        return True

    async def abort(self) -> None:
        """Cancel everything, without another commit."""
        self._waiting.clear()
        while self._running or self._loading:
            tasks = [running.task for running in self._running.values() if running.task is not None]
            for waiting in (*tasks, *self._loading):
                waiting.cancel()
            for running in tuple(self._running.values()):
                asyncio.get_running_loop().call_soon(self.let_go, running)
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for these callbacks: gather does not wait for those that have ended
        self._sampler.end()
        self._workflows.kept.drop_all()
        await asyncio.sleep(0)  # they are evicted in plain callbacks
        self._threads.close()

    def _notify(self, running: HeldExecution) -> None:
        running.has_unseen = True
        self._commits.due(running)

    # -- beginning

    def _load(self, many: list[HeldExecution]) -> None:
        """Read the first page of each in one exchange, as many as begin in one turn, and begin them."""
        for start in range(0, len(many), TOGETHER_MAX):
            self._load_together(many[start : start + TOGETHER_MAX])

    def _load_together(self, many: list[HeldExecution]) -> None:
        pages = [
            journal.read_page(self._commits.keys(running.lease), running.lease.id, unseen_only=running.is_kept)
            for running in many
        ]
        asked = self._incoming.ask(pages)
        self._loading.add(asked)
        asked.add_done_callback(partial(self._take_pages, many))

    def _take_pages(self, many: list[HeldExecution], asked: asyncio.Future[list[Any]]) -> None:
        self._loading.discard(asked)
        if asked.cancelled():
            return  # the worker is leaving, and lets go of all it holds
        error = asked.exception()
        pages: Sequence[Page | BaseException] = asked.result() if error is None else [error] * len(many)
        loaded = [(running, _loaded_of(page)) for running, page in zip(many, pages, strict=True)]
        self._begin_each(self._begin, loaded)

    def _begin_each(
        self, begin: Callable[[HeldExecution, T], None], many: Sequence[tuple[HeldExecution, T]], first: int = 0
    ) -> None:
        """Begin them from ``first`` on, until one call is full of their commits or this turn of the loop is over.

        The next turn goes on with the others. If one fails, the others go on.
        """
        until = time.monotonic() + TURN_S
        for index in range(first, len(many)):
            running, loaded = many[index]
            if not running.is_gone:
                try:
                    begin(running, loaded)
                except Exception as error:  # noqa: BLE001 - see above
                    self._fail(running, error)
            following = index + 1
            is_turn_over = following - first == TOGETHER_MAX or time.monotonic() > until
            if is_turn_over and following < len(many):
                asyncio.get_running_loop().call_soon(self._begin_each, begin, many, following)
                return

    def _begin(self, running: HeldExecution, loaded: Loaded | None) -> None:
        """Begin with one page of its journal; if that is not enough, all of it is loaded in a task of its own."""
        if running.is_kept:  # only the new settlements were loaded
            if self._workflows.wake(running, loaded):
                return
        elif loaded is not None and is_ours(running.lease, loaded.record):
            self._begin_loaded(running, loaded)
            return
        self._run_alone(running, self._load_alone(running))

    def _begin_loaded(self, running: HeldExecution, loaded: Loaded) -> None:
        """Pass it to the workflows or the tasks, unless other workers must run it, or it has to wait apart."""
        if running.is_gone:
            return
        running.function = loaded.record.function
        definition = self._definition(loaded)
        if definition is None:
            self._end_unknown(running, loaded)
            return
        if _is_suspect(loaded, definition):
            if self._waits_apart(running.lease.id):
                reason = f"waits apart: {loaded.record.crash_count} workers in a row have died while running it"
                self._end_alone(running, self._commits.defer(running.lease, reason, APART_S))
                return
            running.is_suspect = True
        if isinstance(definition, WorkflowDefinition):
            self._workflows.begin(running, loaded, definition)
        else:
            self._tasks.begin(running, loaded, definition)

    def _end_unknown(self, running: HeldExecution, loaded: Loaded) -> None:
        """Leave it to others if this worker does not know its function; if it was canceled before it began, end it
        here.
        """
        if loaded.entries.keys() == {CANCEL}:
            last = self._cancel(running, loaded.record.function)
        else:
            last = self._commits.defer_unknown(running.lease, self._describe_needed(loaded))
        self._end_alone(running, last)

    async def _cancel(self, running: HeldExecution, function: str) -> None:
        await self._commits.cancel(running.lease)
        if self._meter is not None:
            self._meter.end(function, State.CANCELED)

    def _describe_needed(self, loaded: Loaded) -> str:
        """The function, or its version, that is missing here."""
        function = loaded.record.function
        if self._registry.get(function):
            return f"version {version_of(loaded.entries.values())} of {function}, the version it began with"
        return f"the function {function!r}"

    def _waits_apart(self, id: PromiseId) -> bool:
        """Whether a suspect must not run here, because this worker runs another one. After a long wait it may.

        Then a death does not count as lonely for any of them (see reclaim.lua): more workers may die before the right
        one is halted, but no other execution is halted in its place.
        """
        now, longest = time.monotonic(), self._settings.suspect_wait_s
        since, last = self._apart.pop(id, (now, now))
        if not any(other.is_suspect for other in self._running.values()):
            return False
        if now - last > longest + APART_S:  # it has run on another worker meanwhile
            since = now
        if now - since >= longest:
            return False
        self._apart[id] = since, now
        if len(self._apart) > APART_MAX:
            del self._apart[next(iter(self._apart))]
        return True

    def _definition(self, loaded: Loaded) -> Definition | None:
        """The definition it runs; for a workflow, the version it began with."""
        function = loaded.record.function
        definition = self._registry.get(function)
        if not isinstance(definition, WorkflowDefinition):
            return definition
        if definition.fn in self._overrides:
            return TaskDefinition(definition.name, self._overrides[definition.fn])
        version = version_of(loaded.entries.values())
        return definition if version is None else self._registry.get_version(function, version)

    # -- alone

    async def _load_alone(self, running: HeldExecution) -> None:
        """For an execution with several pages, or one that is not where its entry says."""
        lease = running.lease
        loaded = await self._store.load(lease.id)
        if loaded is None or not is_ours(lease, loaded.record):
            await self._commits.drop(lease)
            await call_outside_task(self.let_go, running)
        else:
            await call_outside_task(self._begin_loaded, running, loaded)

    def load_again(self, running: HeldExecution, go_on: Callable[[Loaded], None]) -> None:
        """Load the journal of a held execution, and call ``go_on`` with it from a plain callback."""
        self._run_alone(running, self._load_again(running, go_on))

    async def _load_again(self, running: HeldExecution, go_on: Callable[[Loaded], None]) -> None:
        loaded = await self._store.load(running.lease.id)
        if loaded is None:
            raise Fenced(f"{running.lease.id} is not there any more")
        if not running.is_gone:
            await call_outside_task(go_on, loaded)

    def release(self, running: HeldExecution) -> None:
        """Let other workers go on with a held execution."""
        self._end_alone(running, self.release_entry(running.entry_key))

    async def release_entry(self, entry_key: EntryKey) -> None:
        """Let other workers have an entry that was read here; no attempt is counted."""
        partition, queue, entry = entry_key
        await self._store.call(
            membership.reclaim(
                self._store.keyspaces[partition],
                self._consumer,
                queue,
                beat="",
                release="some",
                max_attempts=self._settings.max_attempts,
                entries=[entry],
            )
        )

    def _end_alone(self, running: HeldExecution, last: Coroutine[Any, Any, None]) -> None:
        """After this, its lease is given up."""

        async def end() -> None:
            await last
            await call_outside_task(self.let_go, running)

        self._run_alone(running, end(), last)

    def _run_alone(
        self, running: HeldExecution, work: Coroutine[Any, Any, None], inner: Coroutine[Any, Any, None] | None = None
    ) -> None:
        if running.is_gone:
            _close(work, inner)
            return
        running.task = task = asyncio.get_running_loop().create_task(
            self._run(running, work), name=f"durasleep:{running.lease.id}"
        )

        def end(_: asyncio.Task[None]) -> None:
            _close(work, inner)  # a task that is cancelled at once has never begun it
            if running.task is task:
                running.task = None

        task.add_done_callback(end)

    async def _run(self, running: HeldExecution, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - it is logged, and the execution halted
            await self._end_with(running, error)

    def _fail(self, running: HeldExecution, error: Exception) -> None:
        """It cannot go on here."""
        self._run_alone(running, self._end_with(running, error))

    async def _end_with(self, running: HeldExecution, error: Exception) -> None:
        lease = running.lease
        if running.is_gone:
            return
        match error:
            case Fenced():
                if self._meter is not None:
                    await self._count_fenced(self._meter, running)
                logger.info("%s dropped: %s", lease.id, error, extra=logs.about(lease.id))
            case NewerVersion():
                await self._commits.defer_newer(lease, str(error))
            case StoreFull():
                self._full.report(error)
                if running.work is not None and running.work.take_back():
                    await asyncio.sleep(FULL_RETRY_S)
                    await call_outside_task(self._commits.due, running)
                    return
                await self._commits.defer_full(lease)
            case CorruptData():
                logger.error("%s halted: %s", lease.id, error, extra=logs.about(lease.id))
                await self._commits.halt(lease, str(error))
            case DurasleepError():
                logger.error("%s halted", lease.id, exc_info=error, extra=logs.about(lease.id))
                await self._commits.halt(lease, f"{type(error).__name__}: {error}")
            case _:
                logger.error("%s halted by a fault in durasleep", lease.id, exc_info=error, extra=logs.about(lease.id))
                await self._commits.halt(lease, f"a fault in durasleep: {error!r}")
        await call_outside_task(self.let_go, running)

    async def _count_fenced(self, meter: Meter, running: HeldExecution) -> None:
        """If the answer to its last commit was lost, that commit stands, and is refused when it is repeated."""
        ending = None if running.work is None else running.work.ending
        if ending is not None:
            lease = running.lease
            [found] = await self._store.ask([journal.read_record(self._commits.keys(lease), lease.id)])
            if isinstance(found, PromiseRecord) and (found.state, found.epoch) == (ending, lease.epoch):
                meter.end(running.function, ending)
                return
        meter.fenced += 1

    # -- letting go

    def let_go(self, running: HeldExecution) -> None:
        """Its lease was given up. Call it in a plain callback, because an eviction may run user code."""
        if running.is_gone:
            return
        running.is_gone = True
        if self._meter is not None and running.function:
            self._meter.activation(running.function, time.monotonic() - running.held_at)
        for step in running.steps.values():
            step.cancel()
        work, running.work = running.work, None  # so that no cycle is left for the garbage collector
        if work is not None:
            work.close()
        del self._running[running.entry_key]
        self._note_freed()

    def _note_freed(self) -> None:
        """There may be a free slot again."""
        self._freed.set()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_waiting)


def _close(*work: Coroutine[Any, Any, None] | None) -> None:
    for coroutine in work:
        if coroutine is not None:
            coroutine.close()


def _is_suspect(loaded: Loaded, definition: Definition) -> bool:
    """Whether it may be the execution that kills its workers. A canceled task is not: its code runs no more."""
    if loaded.record.crash_count < SUSPECT_DEATHS:
        return False
    return not (isinstance(definition, TaskDefinition) and CANCEL in loaded.entries)


def _loaded_of(page: Page | BaseException) -> Loaded | None:
    """The execution, if one page has all of it; None if it must be loaded in another way."""
    if isinstance(page, BaseException) or page.record is None or page.cursor:
        return None
    return journal.loaded_of(page.record, page)


def call_outside_task(call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
    """Call from a plain callback, outside any task."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call(*args)
        except BaseException as error:  # noqa: BLE001 - awaiting the future raises it
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    loop.call_soon(run)
    return future
