"""What a worker inside the gateway does with the executions of its group: it lends each to one that polls over HTTP.

The worker reads, fires timers, shares the partitions, and takes over from the dead, like any other one. But its
executions do not run here. Each goes, with its lease, to a consumer of its own (see lend.lua), which lives as long as
somebody extends the lease; and the worker over HTTP gets a token that says all of it. So no gateway has to remember
anything: a lease outlives the gateway that lent it.

There are as many free slots as polls that wait. What was read, and fits no poll, goes back to the queue, to another
worker, or waits here for the next poll, if the workers that poll here have its function.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from durasleep.codec import Codec
from durasleep.errors import CorruptData, DurasleepError, Fenced, NewerVersion, StoreError, StoreFull, StoreUnavailable
from durasleep.gateway.tasks.leases import RetryPolicy, Token, release_lent
from durasleep.model import CANCEL, Kind, PromiseId, worker_of
from durasleep.observe import logs
from durasleep.protocol import journal, membership
from durasleep.protocol.commit import EntryKey, Lease
from durasleep.protocol.journal import Loaded
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.runtime.definition import fingerprint_of
from durasleep.runtime.waits import Wait
from durasleep.transport import handshake
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.held import HeldExecution
from durasleep.worker.execution.holder import Surroundings
from durasleep.worker.execution.workflows import is_ours

logger = logging.getLogger("durasleep")

KNOWN_S = 600.0  # after a poll that named it, a function counts as served here
FUNCTIONS_MAX = 10_000  # that are remembered
SOON_S = 0.1  # that each poll waits at least: what is there comes one round trip later
WAITING_MAX = 500  # executions that wait here for a poll: no more than one heartbeat can well name
_OF_TASKS = frozenset({Kind.STEP, Kind.CANCEL})
"""What the journal of a task has: with anything else it has begun as a workflow."""


@dataclass(frozen=True, slots=True)
class Leased:
    """An execution that was lent, with all that its worker has to know."""

    token: Token
    loaded: Loaded
    args: list[Any]
    kwargs: dict[str, Any]
    deadline_ms: int
    """0 if there is none."""
    lost_leases: int
    """How many workers in a row have lost it while they ran it."""


@dataclass(slots=True, eq=False)
class Asked:
    """A poll that waits."""

    worker: str
    functions: Mapping[str, RetryPolicy | None]
    lease_ms: int
    lent: asyncio.Future[Leased | None]
    """None at the end of the gateway."""
    is_gone: bool = False
    """Whether nobody waits for the answer any more."""


@dataclass(slots=True)
class _Waiting:
    """A lease that waits here for a poll."""

    lease: Lease
    loaded: Loaded
    since: float = field(default_factory=time.monotonic)


class Lender:
    """Holds the leases of a worker until it has lent them."""

    def __init__(self, around: Surroundings, codec: Codec, group: str, info: str) -> None:
        self._around = around
        self._codec = codec
        self._store = around.store
        self._group = group
        self._info = info
        self._commits = Commits(
            around.store, around.consumer, around.settings, self._on_error, lambda: self.functions, self._require
        )
        self._polls: dict[Asked, None] = {}
        """Those that wait, the oldest first."""
        self._known: dict[str, float] = {}
        """Functions, and when a poll has last named them."""
        self._held: dict[EntryKey, Lease] = {}
        """Leases that are under way."""
        self._waiting: dict[EntryKey, _Waiting] = {}
        self._reading = 0
        self._dispatching = 0
        """So many may still get one of the polls that wait."""
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    # -- polls

    async def poll(self, asked: Asked, wait_s: float) -> Leased | None:
        """Wait for an execution: so long at most, but long enough that one which is there can be read.

        If this is cancelled, one may have been lent all the same: ``asked.lent`` has it.
        """
        if self._is_leaving:
            return None
        now = time.monotonic()
        for name in asked.functions:
            self._known.pop(name, None)
            self._known[name] = now
        while len(self._known) > FUNCTIONS_MAX:
            del self._known[next(iter(self._known))]
        one = next((one for one in self._waiting.values() if one.loaded.record.function in asked.functions), None)
        if one is None:
            self._polls[asked] = None
            self._freed.set()
        else:
            del self._waiting[one.lease.entry_key]
            self._lend_waiting(one, asked)
        try:
            await asyncio.wait((asked.lent,), timeout=max(wait_s, SOON_S))
            if asked not in self._polls:  # one is being lent
                await asyncio.wait((asked.lent,))
            return asked.lent.result() if asked.lent.done() else None
        finally:
            asked.is_gone = True
            self._polls.pop(asked, None)

    def waiting(self) -> set[str]:
        """The workers whose polls wait."""
        return {asked.worker for asked in self._polls}

    # -- what the loops of the worker ask, see ``Holder``

    @property
    def functions(self) -> str:
        """See ``Holder.functions``: what polls have named lately."""
        since = time.monotonic() - KNOWN_S
        return fingerprint_of([name for name, at in tuple(self._known.items()) if at >= since])

    def described(self) -> str:
        return "it passes executions on"

    @property
    def free(self) -> int:
        """Polls that wait, and that no execution is under way for."""
        return 0 if self._is_leaving else max(0, len(self._polls) - self._dispatching - self._reading)

    @property
    def running(self) -> int:
        return len(self._held) + len(self._waiting)

    @property
    def in_threads(self) -> int:
        return 0

    @property
    def lost_threads(self) -> int:
        return 0

    def slots(self) -> dict[str, int]:
        return {"running": self.running, "free": self.free, "waiting": len(self._waiting), "lost": 0}

    def own_loop(self) -> None:
        """It runs no functions of users."""

    def begin_reading(self, count: int) -> None:
        self._reading += count

    def end_reading(self, count: int) -> None:
        self._reading -= count
        self._freed.set()

    async def wait_until_free(self) -> int:
        while self.free == 0:
            self._freed.clear()
            await self._freed.wait()
        return self.free

    def held(self) -> list[Lease]:
        """May be called from another thread."""
        return [*[one.lease for one in tuple(self._waiting.values())], *tuple(self._held.values())]

    def in_slots(self) -> list[Lease]:
        return []

    def waits(self) -> list[Wait]:
        return []

    async def submit(self, leases: Iterable[Lease]) -> None:
        """Lend executions that were read for the polls that wait."""
        for lease in leases:
            self._take(lease, is_offered=False)

    def take_offer(self, lease: Lease) -> None:
        """Another worker does not know its function. It waits here for a poll."""
        self._take(lease, is_offered=True)

    async def release_waiting(self, partition: int) -> None:
        """Release what waits for a poll."""
        leases = [one.lease for entry_key, one in self._waiting.items() if entry_key[0] == partition]
        for lease in leases:
            del self._waiting[lease.entry_key]
        for lease in leases:
            await self._release(lease)

    async def return_unheard(self, entry_key: EntryKey) -> bool:
        """See ``Executor.return_unheard``."""
        if entry_key in self._held or entry_key in self._waiting:
            return False
        partition, queue, entry = entry_key
        await self._release(Lease(PromiseId(""), queue, entry, 0, partition=partition))
        return True

    def notify(self, id: str) -> None:
        """A worker over HTTP hears of news with its next heartbeat."""

    def notify_all(self) -> None:
        """See ``notify``."""

    def on_beat(self, beat: Beat) -> None:
        """Drop what was lost; what has waited here since the heartbeat before is offered to other workers."""
        for entry_key in set(beat.lost) & self._waiting.keys():
            del self._waiting[entry_key]
        since = time.monotonic() - self._around.settings.heartbeat_s
        for entry_key, one in tuple(self._waiting.items()):
            if entry_key[0] == beat.partition and one.since < since:
                del self._waiting[entry_key]
                self._begin(self._offer_again(one))

    def holds(self, partition: int) -> bool:
        return any(lease.partition == partition for lease in self.held())

    def leave_partition(self, keys: Keyspace) -> None:
        """Nothing of it is kept."""

    def leave(self) -> None:
        """Lend nothing more: all polls are answered that there is nothing."""
        self._is_leaving = True
        polls, self._polls = self._polls, {}
        for asked in polls:
            if not asked.lent.done():
                asked.lent.set_result(None)

    async def drain(self, grace_s: float) -> bool:
        """Wait until what is under way was lent, or given back."""
        if self._tasks:
            _, left = await asyncio.wait(tuple(self._tasks), timeout=grace_s)
            return not left
        return True

    async def abort(self) -> None:
        """Leave it all as it is: what is still held is released with the other leases of the worker."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._held.clear()
        self._waiting.clear()

    # -- lending

    def _take(self, lease: Lease, *, is_offered: bool) -> None:
        if lease.entry_key in self._held or lease.entry_key in self._waiting:
            return
        self._held[lease.entry_key] = lease
        self._dispatching += 1
        self._begin(self._dispatch(lease, is_offered=is_offered))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="durasleep-lend")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dispatch(self, lease: Lease, *, is_offered: bool) -> None:
        asked: Asked | None = None
        try:
            try:
                loaded = journal.read_snapshot(lease) or await self._around.incoming.load(lease.id)
                if loaded is None or not is_ours(lease, loaded.record):
                    await self._commits.drop(lease)
                elif CANCEL in loaded.entries:
                    await self._commits.cancel(lease)
                elif any(entry.kind not in _OF_TASKS for entry in loaded.entries.values()):
                    await self._commits.defer_unknown(lease, "how to run a workflow")
                else:
                    asked = self._match(loaded.record.function)
                    if asked is None:
                        await self._keep_or_return(lease, loaded, is_offered=is_offered)
            finally:
                self._dispatching -= 1
                self._freed.set()
            if asked is not None and loaded is not None:
                await self._lend(lease, loaded, asked)
        except DurasleepError as error:
            await self._end_with(lease, error)
        finally:
            self._held.pop(lease.entry_key, None)
            if asked is not None and not asked.lent.done():
                asked.lent.set_result(None)

    def _match(self, function: str) -> Asked | None:
        """The poll that has waited longest for such an execution; it waits no longer."""
        asked = next((asked for asked in self._polls if function in asked.functions), None)
        if asked is not None:
            del self._polls[asked]
        return asked

    async def _keep_or_return(self, lease: Lease, loaded: Loaded, *, is_offered: bool) -> None:
        """No poll waits for it."""
        function = loaded.record.function
        if time.monotonic() - self._known.get(function, -KNOWN_S) >= KNOWN_S:
            await self._commits.defer_unknown(lease, f"the function {function!r}")
        elif self._is_leaving or not (self._polls or is_offered):
            await self._release(lease)
        elif len(self._waiting) >= WAITING_MAX:
            await self._store.call(self._commits.offer_again(lease, unless_alone=False))
        else:
            self._waiting[lease.entry_key] = _Waiting(lease, loaded)

    async def _lend(self, lease: Lease, loaded: Loaded, asked: Asked) -> None:
        """Give it to a poll. If its client is gone by then, others may have it at once."""
        keys, record = self._keys(lease), loaded.record
        args, kwargs = self._codec.read_args(record.args, record.function)
        heir = f"{worker_of(lease.queue) or asked.worker}/{secrets.token_hex(6)}"
        lent = await self._store.call(
            membership.lend(
                keys,
                self._around.consumer,
                heir,
                lease,
                group=self._group,
                info=self._info,
                knows=handshake.KNOWS,
                lease_ms=asked.lease_ms,
            )
        )
        if asked.is_gone:
            await release_lent(self._store, keys, lease, heir)
            return
        token = Token(
            partition=lease.partition,
            queue=lease.queue,
            entry=lease.entry,
            epoch=lease.epoch,
            id=lease.id,
            consumer=heir,
            function=record.function,
            attempt=1 + sum(entry.kind is Kind.STEP for entry in loaded.entries.values()),
            begun_ms=max(0, lent.at_ms - record.incarnation),
            lease_ms=asked.lease_ms,
            info=self._info,
            retry=asked.functions[record.function],
        )
        asked.lent.set_result(Leased(token, loaded, args, kwargs, lent.deadline_ms, record.crash_count))

    def _lend_waiting(self, one: _Waiting, asked: Asked) -> None:
        """A poll has come for what has waited here."""
        self._held[one.lease.entry_key] = one.lease
        self._begin(self._lend_to(one, asked))

    async def _lend_to(self, one: _Waiting, asked: Asked) -> None:
        try:
            await self._lend(one.lease, one.loaded, asked)
        except DurasleepError as error:
            await self._end_with(one.lease, error)
        finally:
            self._held.pop(one.lease.entry_key, None)
            if not asked.lent.done():
                asked.lent.set_result(None)

    async def _offer_again(self, one: _Waiting) -> None:
        """Let another worker have what waits here; if none may know its function, it waits on."""
        is_kept = False
        self._held[one.lease.entry_key] = one.lease
        try:
            is_kept = (await self._store.call(self._commits.offer_again(one.lease, unless_alone=True))).kept
        except DurasleepError as error:
            await self._end_with(one.lease, error)
        finally:
            self._held.pop(one.lease.entry_key, None)
        if not is_kept or self._is_leaving:
            return
        asked = self._match(one.loaded.record.function)
        if asked is None:
            self._waiting[one.lease.entry_key] = _Waiting(one.lease, one.loaded)
        else:
            self._lend_waiting(one, asked)

    async def _end_with(self, lease: Lease, error: DurasleepError) -> None:
        about = logs.about(lease.id)
        match error:
            case Fenced() | StoreUnavailable():
                logger.info("%s dropped: %s", lease.id, error, extra=about)
            case NewerVersion():
                await self._commits.defer_newer(lease, str(error))
            case StoreFull():
                await self._try(self._commits.defer_full(lease))
            case CorruptData():
                logger.error("%s halted: %s", lease.id, error, extra=about)
                await self._commits.halt(lease, str(error))
            case _:
                logger.error("%s could not be lent (%s): it is offered again", lease.id, error, extra=about)
                await self._try(self._release(lease))

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        """What fails here is released after the next heartbeats, because nobody holds it."""
        try:
            await work
        except StoreError as error:
            logger.info("a lease could not be released yet: %s", error)

    async def _release(self, lease: Lease) -> None:
        await self._store.call(
            membership.reclaim(
                self._keys(lease),
                self._around.consumer,
                lease.queue,
                beat="",
                release="some",
                max_attempts=self._around.settings.max_attempts,
                entries=[lease.entry],
            )
        )

    def _keys(self, lease: Lease) -> Keyspace:
        return self._store.keyspaces[lease.partition]

    async def _require(self, feature: str) -> None:
        await self._around.require(feature)

    def _on_error(self, running: HeldExecution, error: Exception) -> None:
        """Nothing is committed here in the way of executions that run."""
        logger.error("%s: %s", running.lease.id, error)
