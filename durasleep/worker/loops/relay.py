"""The relay: carries what a firing finds from its partition to others and to promises of Resonate, and answers back.

It tries each once. What is lost comes again with the next firing of its timer, here or on another worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from durasleep.codec import Codec
from durasleep.codec import resonate as values
from durasleep.errors import CorruptData, DurasleepError, LimitFull, OtherFunction, StoreError
from durasleep.model import Disposition, PromiseId, State
from durasleep.protocol import bridge, foreign, journal, resonate
from durasleep.protocol.command import Call
from durasleep.protocol.foreign import Message, Question, Tell
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created
from durasleep.transport.store import Store

HELD_S = 30.0  # what waits longer here is dropped, and comes again

logger = logging.getLogger("durasleep")


class Relay:
    """Carries what is found in one partition. One batch is under way to each other partition; what is found meanwhile
    follows it.
    """

    def __init__(self, store: Store, keys: Keyspace, codec: Codec) -> None:
        """``codec`` makes the payload of a call that was refused, and reads the ending that a promise gets."""
        self._store = store
        self._keys = keys
        self._codec = codec
        self._to_ask: dict[int, dict[str, tuple[Question, float]]] = {}
        """For each partition what is to be asked there, by the entry that asks, and since when it waits here."""
        self._to_tell: dict[int, dict[tuple[str, str], Tell]] = {}
        """For each partition what is to be told there, by its id and waiter."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.begun = 0
        """How often it has begun to carry something."""

    def take(self, asks: Sequence[Question], tells: Sequence[Tell]) -> None:
        """Carry these, without waiting for it."""
        now = time.monotonic()
        for ask in asks:
            there = self._store.keys(ask.child_id).partition
            self._to_ask.setdefault(there, {})[ask.entry_id] = ask, now
        for tell in tells:
            for waiter in tell.waiters:
                there = self._partition_of(waiter)
                self._to_tell.setdefault(there, {})[tell.id, waiter] = tell
        self._begin()

    def _partition_of(self, waiter: str) -> int:
        """Where it waits. The promises of Resonate may have been moved since."""
        if (promise_id := bridge.waiting_promise(waiter)) is not None:
            return resonate.keys_of(self._store.keyspaces, promise_id).partition
        return int(waiter.partition(" ")[0])

    def _begin(self) -> None:
        for there in {*self._to_ask, *self._to_tell} - self._tasks.keys():
            self.begun += 1
            self._tasks[there] = task = asyncio.get_running_loop().create_task(
                self._carry(self._store.keyspaces[there]), name="durasleep-relay"
            )
            task.add_done_callback(partial(self._end, there))

    def _end(self, there: int, task: asyncio.Task[None]) -> None:
        del self._tasks[there]
        if task.cancelled():
            return
        if error := task.exception():
            logger.warning("what is asked of another partition is asked again: %s", error)
        self._begin()  # something may have come as it ended

    @property
    def is_carrying(self) -> bool:
        """Whether anything is under way."""
        return bool(self._tasks)

    async def close(self) -> None:
        """Stop; what was under way comes again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, there: Keyspace) -> None:
        """Ask and tell until nothing is left. Nothing old is asked: it may have ended and expired meanwhile."""
        while True:
            asks = self._to_ask.pop(there.partition, {})
            told = self._to_tell.pop(there.partition, {})
            oldest = time.monotonic() - HELD_S
            if fresh := [ask for ask, since in asks.values() if since > oldest]:
                await self._ask(there, fresh)
            if told:
                await self._tell(there, [(tell, waiter) for (_, waiter), tell in told.items()])
            if there.partition not in self._to_ask and there.partition not in self._to_tell:
                return

    async def _ask(self, there: Keyspace, asks: list[Question]) -> None:
        answers = await self._store.ask([foreign.pose(there, ask, self._keys) for ask in asks])
        heard = [
            (ask, call)
            for ask, answer in zip(asks, answers, strict=True)
            if (call := self._heard(ask, answer)) is not None
        ]
        answers = await self._store.ask([call for _, call in heard])
        await self._store.ask(
            [
                foreign.told(there, ask.child_id, foreign.waiter_of(ask, self._keys))
                for (ask, _), answer in zip(heard, answers, strict=True)
                if isinstance(ask, Message) and not isinstance(answer, DurasleepError)
            ]
        )

    def _heard(self, ask: Question, answer: Any) -> Call | None:
        """What the caller's entry hears; None if it is asked again."""
        entry, child_id = (ask.entry_id, ask.incarnation), ask.child_id
        if isinstance(answer, Created) and answer.disposition is Disposition.DROPPED:
            answer = LimitFull(f"the limit of its function has no room for another one: {child_id} was not started")
        if not isinstance(answer, Exception):
            heard = foreign.heard_of(answer)
            return foreign.hear(self._keys, *entry, child_id, heard.state, heard.value)
        if isinstance(answer, StoreError):
            return None
        value = b"" if isinstance(answer, OtherFunction) else self._codec.encode_error(answer)
        return foreign.hear(self._keys, *entry, child_id, State.REJECTED, value, is_refused=True)

    async def _tell(self, there: Keyspace, told: list[tuple[Tell, str]]) -> None:
        large = {tell.id for tell, _ in told if tell.value is None}
        large_values = dict(
            zip(large, await self._store.ask([journal.read_value(self._keys, id) for id in large]), strict=True)
        )
        calls: list[Call] = []
        heard: list[tuple[PromiseId, str]] = []
        promises: list[tuple[Tell, str, str, bytes]] = []
        for tell, waiter in told:
            value = large_values[tell.id] if tell.value is None else tell.value
            if not isinstance(value, bytes):
                continue
            _, incarnation, entry_id = waiter.split(" ", 2)
            if (promise_id := bridge.waiting_promise(waiter)) is not None:
                promises.append((tell, waiter, promise_id, value))
            else:
                calls.append(foreign.hear(there, entry_id, incarnation, tell.id, tell.state, value))
                heard.append((tell.id, waiter))
        answers = await self._store.ask(calls)
        if promises:
            heard_too = await self._settle_promises(there, promises)
            heard += heard_too
            answers += [True] * len(heard_too)
        await self._store.ask(
            [
                foreign.told(self._keys, id, waiter)
                for (id, waiter), answer in zip(heard, answers, strict=True)
                if not isinstance(answer, DurasleepError)
            ]
        )

    async def _find_promises(
        self, there: Keyspace, ended: list[tuple[Tell, str, str, bytes]]
    ) -> list[bridge.Promise | StoreError | None]:
        """The promises of Resonate that wait for these executions.

        An outward one that is not there is made, for no worker: a gateway that has made it wait and was killed may have
        sent a request that makes it for a worker, and nobody would settle that one.
        """
        answers = await self._store.ask([resonate.rpc(there, bridge.get(promise_id)) for *_, promise_id, _ in ended])
        found = [bridge.promise_of(answer) for answer in answers]
        missing = [
            at for at, (_, waiter, *_) in enumerate(ended) if found[at] is None and bridge.is_outward_waiter(waiter)
        ]
        requests = [bridge.create_unsent(ended[at][2], ended[at][0].id, ended[at][0].incarnation) for at in missing]
        answers = await self._store.ask([resonate.rpc(there, request) for request in requests])
        for at, answer in zip(missing, answers, strict=True):
            found[at] = bridge.promise_of(answer)
        return found

    async def _settle_promises(
        self, there: Keyspace, ended: list[tuple[Tell, str, str, bytes]]
    ) -> list[tuple[PromiseId, str]]:
        """Settle promises of Resonate as their executions have ended; returns who has heard. A promise that is gone, or
        stands for something else, needs to hear nothing. An ending that our codec cannot read is left to a gateway.
        """
        found = await self._find_promises(there, ended)
        heard: list[tuple[PromiseId, str]] = []
        calls: list[Call] = []
        settling: list[tuple[PromiseId, str, str]] = []
        unread: list[tuple[str, CorruptData]] = []
        for (tell, waiter, promise_id, value), promise in zip(ended, found, strict=True):
            if isinstance(promise, StoreError):
                continue
            if not promise or promise["state"] != "pending" or not bridge.belongs(promise, tell.id, tell.incarnation):
                heard.append((tell.id, waiter))
                continue
            try:
                ending = values.encode_ending(self._codec, tell.id, tell.state, value)
            except CorruptData as problem:
                if bridge.is_inward(promise):
                    unread.append((promise_id, problem))
                    continue
                ending = "rejected", values.encode_error(problem)  # nobody waits for it
            calls.append(resonate.rpc(there, bridge.settle(promise_id, *ending)))
            settling.append((tell.id, waiter, promise_id))
        if unread:
            which, why = unread[0]
            logger.warning(
                "%d endings that cannot be read here, the first of %s, are left to a gateway: %s",
                len(unread),
                which,
                why,
            )
            await self._store.ask([resonate.keep_telling(there, promise_id) for promise_id, _ in unread])
        answers = await self._store.ask(calls)
        done = [one for one, answer in zip(settling, answers, strict=True) if bridge.has_done(answer)]
        await self._store.ask([resonate.carried(there, promise_id) for *_, promise_id in done])
        return heard + [(id, waiter) for id, waiter, _ in done]
