"""The writes of a worker about its executions: all that are due in one turn of the loop are one script call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any

from durasleep.errors import CorruptData, Fenced, NewerVersion, NotAllowed, StoreError
from durasleep.model import (
    CommitAction,
    Op,
    PromiseId,
    Publish,
    SendMessage,
    SettlePromise,
    StartChild,
    StartReceive,
)
from durasleep.observe import logs
from durasleep.protocol import commit
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.versions import CHANNELS, FLOW
from durasleep.settings import Settings
from durasleep.transport import batching
from durasleep.transport.store import Store
from durasleep.worker.execution.held import HeldExecution

_place_of = attrgetter("entry_key")

DEFER_FIRST_S = 1.0
DEFERRED_MAX = 10_000  # executions whose last delay is remembered
TURN_S = 0.005  # of user code in one turn of the loop; the rest goes on in the next turn

_FEATURE_OF: dict[type[Op], str] = {
    StartChild: FLOW,
    StartReceive: CHANNELS,
    SendMessage: CHANNELS,
    SettlePromise: CHANNELS,
    Publish: CHANNELS,
}
_WHAT = {FLOW: "priorities, labels and keys", CHANNELS: "messages and published values"}

logger = logging.getLogger("durasleep")


class Commits:
    """The commits of one consumer."""

    def __init__(
        self,
        store: Store,
        consumer: str,
        settings: Settings,
        on_error: Callable[[HeldExecution, Exception], None],
        functions: Callable[[], str],
        require: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        """``on_error`` is called for an execution that cannot go on, from a plain callback; ``functions`` says which
        ones this worker has; ``require`` makes the namespace need a feature, or raises NotAllowed while a worker of an
        older version is alive.
        """
        self._store = store
        self.consumer = consumer
        self._settings = settings
        self._on_error = on_error
        self._functions = functions
        self._require = require
        self._held: dict[str, tuple[asyncio.Task[None], list[HeldExecution]]] = {}
        """What waits until the namespace needs a feature."""
        self._due: list[HeldExecution] = []
        self._has_said_why = False
        self._deferred: dict[PromiseId, tuple[float, float]] = {}
        """The last delay of each execution and its time, by the monotonic clock; the latest last."""

    def keys(self, lease: Lease) -> Keyspace:
        """The partition of a lease."""
        return self._store.keyspaces[lease.partition]

    def now_ms(self, lease: Lease) -> int:
        """The time of the server that has this lease."""
        return self._store.clock(self.keys(lease)).now_ms()

    def _missing_feature(self, running: HeldExecution) -> str | None:
        """What the namespace must need before this may be committed: no worker of an older version may see it."""
        lease, features = running.lease, self._store.partitions.features
        for op in running.ops:
            if (feature := _FEATURE_OF.get(type(op))) is None or feature in features:
                continue
            if isinstance(op, StartChild):
                if not op.traits:
                    continue
                if lease.labels or "!" in lease.queue:  # whoever began it has made sure of it
                    features.add(FLOW)
                    continue
            return feature
        return None

    def _hold(self, running: HeldExecution, feature: str) -> None:
        """Its commit is due when the namespace needs this. It is deferred if an older version is in the way. If that
        lacks only what steps publish, this is left out.
        """
        running.is_due = True
        self._held_for(feature).append(running)

    def _held_for(self, feature: str) -> list[HeldExecution]:
        """What waits until the namespace needs this; from now on it is asked for."""
        if feature not in self._held:
            required = asyncio.get_running_loop().create_task(self._require(feature), name="durasleep-require")
            self._held[feature] = required, []
            required.add_done_callback(partial(self._end_hold, feature))
        return self._held[feature][1]

    def may_publish(self) -> bool:
        """Whether the namespace is known to need versions that know published values. If not, this is asked for: in a
        new namespace the next call says yes, and while a worker of an older version is alive, one of the later ones.
        """
        if CHANNELS in self._store.partitions.features:
            return True
        self._held_for(CHANNELS)
        return False

    def _end_hold(self, feature: str, required: asyncio.Task[None]) -> None:
        _, held = self._held.pop(feature)
        error = None if required.cancelled() else required.exception()
        if feature == CHANNELS and isinstance(error, NotAllowed) and not self._has_said_why:
            self._has_said_why = True
            logger.info("what steps publish has to wait until no worker of an older version is left")
        for running in held:
            running.is_due = False
            if running.is_gone or required.cancelled():
                continue
            if error is not None:
                running.ops = tuple([op for op in running.ops if not (isinstance(op, Publish) and op.step is not None)])
            if error is None or not self._missing_feature(running):
                self.due(running)
            else:
                why = f"its {_WHAT[feature]} have to wait until no worker of an older version is left"
                self._on_error(running, NewerVersion(why if isinstance(error, NotAllowed) else f"{why}: {error}"))

    def due(self, running: HeldExecution) -> None:
        """It may have something to commit. It is asked at the end of this turn, or when its last commit is answered."""
        if running.is_due or running.is_committing or running.is_gone:
            return
        running.is_due = True
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.append(running)

    def _flush(self) -> None:
        due, self._due = self._due, []
        due.sort(key=_place_of)  # neighbours in the stream are committed together
        many: list[HeldExecution] = []
        items: list[BatchItem[Committed]] = []
        for running in due:
            running.is_due = False
            if running.is_gone or running.work is None:
                continue
            if running.ops and (feature := self._missing_feature(running)):
                self._hold(running, feature)
                continue
            try:
                item = running.work.commit()
            except Exception as error:  # noqa: BLE001 - only this one fails
                self._on_error(running, error)
                continue
            if item is not None:
                running.is_committing = True
                many.append(running)
                items.append(item)
        size = self._settings.batch_items_max
        for start in range(0, len(many), size):
            answers = self._store.ask(items[start : start + size])
            answers.add_done_callback(partial(self._take_answers, many[start : start + size]))

    def _take_answers(self, many: Sequence[HeldExecution], asked: asyncio.Future[list[Any]]) -> None:
        if asked.cancelled():
            return  # the worker is leaving
        error = asked.exception()
        answers = asked.result() if error is None else [error] * len(many)
        self._take_each(zip(many, answers, strict=True))

    def _take_each(self, answered: Iterator[tuple[HeldExecution, Any]]) -> None:
        """Go on with each that is left; as many as one turn of the loop has time for."""
        until = time.monotonic() + TURN_S
        for running, answer in answered:
            running.is_committing = False
            if running.is_gone or running.work is None:
                continue
            if isinstance(answer, Exception):
                self._on_error(running, answer)
            else:
                try:
                    running.work.take(answer)
                except Exception as failed:  # noqa: BLE001 - only this one fails
                    self._on_error(running, failed)
            if time.monotonic() > until:
                asyncio.get_running_loop().call_soon(self._take_each, answered)
                return

    def item(
        self,
        lease: Lease,
        outcome: CommitAction,
        *,
        seen: int = 0,
        seen_number: str = "",
        payload: bytes = b"",
        due: str = "",
        ops: Sequence[Op] = (),
        open: bool = True,
    ) -> BatchItem[Committed]:
        """A commit of an execution that is not a workflow, or without a word about its code."""
        return commit.commit(
            self.keys(lease),
            self.consumer,
            lease,
            outcome,
            seen=seen,
            seen_number=seen_number,
            ops=ops,
            payload=payload,
            due=due,
            open=open,
        )

    def note(self, lease: Lease, noted: Sequence[tuple[str, str, bytes]]) -> asyncio.Future[list[Any]]:
        """Keep checkpoints of running attempts: the number of each, that of its first attempt, and the data."""
        keys, consumer = self.keys(lease), self.consumer
        return self._store.ask([commit.note(keys, consumer, lease, *one) for one in noted])

    def publish(self, lease: Lease, said: Sequence[tuple[str, str, bytes]]) -> asyncio.Future[list[Any]]:
        """Let others see what attempts publish: the number of each, that of its first attempt (empty for a task), and
        the payload.
        """
        keys, consumer = self.keys(lease), self.consumer
        return self._store.ask([commit.publish(keys, consumer, lease, *one) for one in said])

    def parts(self, ops: Sequence[Op]) -> Sequence[Sequence[Op]]:
        """The ops, as many in each part as one script call may do; at least one part."""
        return batching.split_ops(ops, self._settings) if len(ops) > 1 else (ops,)

    async def commit(self, lease: Lease, outcome: CommitAction, *, payload: bytes = b"", due: str = "") -> Committed:
        """A single commit, without a word about any code."""
        return await self._store.call(self.item(lease, outcome, payload=payload, due=due))

    async def cancel(self, lease: Lease) -> None:
        """It was canceled before any of its code has run."""
        await self.commit(lease, CommitAction.CANCEL)

    async def defer(self, lease: Lease, reason: str, delay_s: float) -> None:
        """Offer it again after this delay."""
        await self.commit(lease, CommitAction.DEFER, payload=reason.encode(), due=f"+{round(delay_s * 1000)}")

    async def defer_unknown(self, lease: Lease, what: str) -> None:
        """Another worker may know it. It goes at once to a worker with other functions than the workers that have had
        it. If there is none, it is offered again after 1, 2, 4, ... seconds since it first came here.
        """
        await self._defer_to_others(lease, f"{commit.NOT_KNOWN} {what}")

    async def defer_newer(self, lease: Lease, reason: str) -> None:
        """A newer version has written it: leave it to a worker of that version."""
        try:
            await self._defer_to_others(lease, reason)
        except Fenced:
            return
        except StoreError as error:
            about = logs.about(lease.id)
            logger.error("%s could not be deferred (%s): it is offered again", lease.id, error, extra=about)

    async def _defer_to_others(self, lease: Lease, reason: str) -> None:
        delay_s = self._next_delay_s(lease.id)
        due = f"+{round(delay_s * 1000)} {self._functions()}"
        answer = await self.commit(lease, CommitAction.DEFER, payload=reason.encode(), due=due)
        if answer.offered:
            self._deferred.pop(lease.id, None)
            logger.debug("%s offered to another worker: %s", lease.id, reason, extra=logs.about(lease.id))
        else:
            logger.warning("%s deferred: %s; next try in %.0f s", lease.id, reason, delay_s, extra=logs.about(lease.id))

    def offer_again(self, lease: Lease, *, unless_alone: bool) -> BatchItem[Committed]:
        """There is no slot for it: offered again like an unknown one. With ``unless_alone``, it goes at once to another
        worker that may know its function; if there is none, it waits here.
        """
        due = f"+{round(DEFER_FIRST_S * 1000)} =" if unless_alone else f"+{round(self._next_delay_s(lease.id) * 1000)}"
        return self.item(
            lease, CommitAction.DEFER, payload=b"the workers that know its function have no free slot", due=due
        )

    async def defer_full(self, lease: Lease) -> None:
        """Redis is too full for its commit. It comes back later; others, which can complete, get its slot."""
        await self.defer(lease, "Redis has reached its maxmemory", self._next_delay_s(lease.id))

    def _next_delay_s(self, id: PromiseId) -> float:
        """Twice its last delay; back to the first one if it did not come again when it was offered."""
        now, longest = time.monotonic(), self._settings.defer_s_max
        delay_s = DEFER_FIRST_S
        if last := self._deferred.pop(id, None):
            last_s, at = last
            if now - at < 2 * last_s + longest:
                delay_s = min(2 * last_s, longest)
        self._deferred[id] = delay_s, now
        if len(self._deferred) > DEFERRED_MAX:
            del self._deferred[next(iter(self._deferred))]
        return delay_s

    async def drop(self, lease: Lease) -> None:
        """The execution of the entry is gone, has ended or was dispatched again; garbage is quarantined by name."""
        reason = b"" if lease.id else b"not an entry of ours"
        with suppress(Fenced):  # it was dispatched here meanwhile: the next read brings it
            await self.commit(lease, CommitAction.DROP, payload=reason)
            if reason:
                logger.error("entry %s of queue %s is not one of ours: quarantined", lease.entry, lease.queue)

    async def halt(self, lease: Lease, reason: str) -> None:
        """A person must look at it. If it cannot be halted, it is not a record of ours: its entry is quarantined."""
        about = logs.about(lease.id)
        try:
            await self.commit(lease, CommitAction.HALT, payload=reason.encode())
        except CorruptData as error:
            try:
                await self.commit(lease, CommitAction.DROP, payload=reason.encode())
            except StoreError:  # it may be a record of ours, and only what lists the halted is broken
                logger.error("%s could not be halted (%s): it is offered again", lease.id, error, extra=about)
            else:
                logger.error("%s could not be halted (%s): its entry is quarantined", lease.id, error, extra=about)
        except Fenced:
            return
        except StoreError as error:
            logger.error("%s could not be halted (%s): it is offered again", lease.id, error, extra=about)
