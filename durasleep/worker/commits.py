"""What a worker writes about the executions it holds: each of these is one call of the commit script."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from durasleep.errors import CorruptData, Fenced, StoreError
from durasleep.model import Op, Outcome
from durasleep.runtime.replay import Activation
from durasleep.settings import Settings
from durasleep.store import batch, commands
from durasleep.store.commands import Committed, Item, Lease
from durasleep.store.reads import Head
from durasleep.store.store import Store

logger = logging.getLogger("durasleep")


class Commits:
    """Commits as one consumer."""

    def __init__(self, store: Store, consumer: str, settings: Settings) -> None:
        self._store = store
        self._consumer = consumer
        self._settings = settings

    def item(
        self,
        lease: Lease,
        outcome: Outcome,
        *,
        payload: bytes = b"",
        due: str = "",
        ops: Sequence[Op] = (),
        activation: Activation | None = None,
        open: bool = True,
    ) -> Item[Committed]:
        """See ``commands.commit``; what was seen and is open is the activation's, if it is one that commits."""
        return commands.commit(
            self._store.keys(lease.id),
            self._consumer,
            lease,
            outcome,
            seen=activation.seen if activation else 0,
            seen_number=activation.seen_number if activation else "",
            asked=activation.asked_number if activation else "",
            ops=ops,
            payload=payload,
            due=due,
            open=activation.is_open if activation else open,
        )

    def one(
        self,
        lease: Lease,
        outcome: Outcome,
        *,
        payload: bytes = b"",
        due: str = "",
        ops: Sequence[Op] = (),
        open: bool = True,
    ) -> asyncio.Future[Committed]:
        """A commit of what is no workflow, or says nothing of its code."""
        return self._store.send(self.item(lease, outcome, payload=payload, due=due, ops=ops, open=open))

    async def of(
        self,
        activation: Activation,
        lease: Lease,
        outcome: Outcome,
        *,
        payload: bytes = b"",
        due: str = "",
        ops: Sequence[Op] = (),
    ) -> Committed:
        """What an activation asks for: one commit, or several if it asks for more than one script call may do."""
        *parts, last = self.parts(ops)
        for part in parts:
            await self._store.send(self.item(lease, Outcome.CONTINUE, ops=part, activation=activation))
            activation.note_committed(part)
        answer = await self._store.send(
            self.item(lease, outcome, ops=last, payload=payload, due=due, activation=activation)
        )
        activation.note_committed(last)
        return answer

    def parts(self, ops: Sequence[Op]) -> Sequence[Sequence[Op]]:
        """What is asked for, as much in each part as one script call may do; at least one part."""
        return batch.split_ops(ops, self._settings) if len(ops) > 1 else (ops,)

    async def defer(self, lease: Lease, reason: str, delay_s: float) -> None:
        """Offer it again after a while."""
        await self.one(lease, Outcome.DEFER, payload=reason.encode(), due=f"+{round(delay_s * 1000)}")

    async def defer_unknown(self, lease: Lease, head: Head, what: str) -> None:
        """A newer worker may know it: offered again after 1, 2, 4, ... seconds, as long again as it has waited."""
        waits_s = (self._store.clock.now_ms() - head.created_ms) / 1000
        delay_s = min(max(1.0, waits_s), self._settings.defer_s_max)
        logger.warning("%s deferred: no worker here knows %s; next try in %.0f s", lease.id, what, delay_s)
        await self.defer(lease, f"no worker here knows {what}", delay_s)

    async def drop(self, lease: Lease) -> None:
        """The entry's execution is gone, has ended or was dispatched anew; garbage is put aside by name."""
        reason = b"" if lease.id else b"not an entry of ours"
        try:
            await self.one(lease, Outcome.DROP, payload=reason)
        except Fenced:
            return  # it was dispatched here while we looked: the next read brings it
        if reason:
            logger.error("entry %s of queue %s is not one of ours: put aside", lease.entry, lease.queue)

    async def halt(self, lease: Lease, reason: str) -> None:
        """A person must look at it; of what cannot even be halted, being no record of ours, the entry is put aside."""
        try:
            await self.one(lease, Outcome.HALT, payload=reason.encode())
        except CorruptData as error:
            logger.error("%s could not be halted (%s): its entry is put aside", lease.id, error)
            try:
                await self.one(lease, Outcome.DROP, payload=reason.encode())
            except StoreError:
                return
        except Fenced:
            return
        except StoreError as error:
            logger.error("%s could not be halted (%s): it is offered again", lease.id, error)
