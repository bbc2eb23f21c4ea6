"""The partitions that a worker serves: it takes over what its share gains, and hands over what its share loses.

A partition is joined in this order: a heartbeat, the group, reading. It is left in this order:

1. Heartbeats there say that the worker does not stay.
2. When another worker of the group is seen to stay, it reads no more.
3. It goes on with heartbeats, timers and hints until nothing of the partition is in hand.
4. Its heartbeats end, and it is no consumer any more.

Each step follows an answer to a heartbeat there. If the share gains the partition again before step 4, it reads on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial

from durasleep.errors import StoreUnavailable
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.transport.store import Store
from durasleep.worker.serving import Begin, Serving, cancel

logger = logging.getLogger("durasleep")


class Servings:
    """One ``Serving`` for each partition that the worker serves, takes over or hands over."""

    def __init__(
        self,
        store: Store,
        make: Callable[[Keyspace], Serving],
        begin: Begin,
        beat_settled: Callable[[], Awaitable[None]],
    ) -> None:
        """``beat_settled`` waits for the heartbeat under way."""
        self._store = store
        self._make = make
        self._begin = begin
        self._beat_settled = beat_settled
        self._all: dict[int, Serving] = {}
        self._wanted = frozenset[int]()
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._is_ending = False

    def __iter__(self) -> Iterator[Serving]:
        return iter(tuple(self._all.values()))

    def __getitem__(self, partition: int) -> Serving:
        return self._all[partition]

    def get(self, partition: int) -> Serving | None:
        return self._all.get(partition)

    def beating(self) -> list[Keyspace]:
        """The partitions in which heartbeats are sent; may be called from another thread."""
        return [serving.keys for serving in self if serving.beats]

    def stays(self, keys: Keyspace) -> bool:
        """Whether other workers may rely on this one there; may be called from another thread."""
        serving = self.get(keys.partition)
        return serving is not None and serving.stays and not self._is_ending

    # -- at the beginning and at the end of the worker

    def prepare(self, partitions: Iterable[int]) -> None:
        """Make those that the worker begins with; others that have joined already stay."""
        spaces = [self._store.keyspaces[number] for number in sorted(partitions)]
        known = {serving.keys: serving for serving in self}
        joined = [keys for keys, serving in known.items() if serving.has_joined and keys not in spaces]
        self._all = {keys.partition: known.get(keys) or self._make(keys) for keys in (*spaces, *joined)}

    async def join(self, partitions: frozenset[int]) -> None:
        """Become a consumer in each of these; may be repeated if that fails, and then with others.

        Those whose node does not answer are joined later. StoreUnavailable if that is true of all.
        """
        self.prepare(partitions)
        found = await asyncio.gather(*map(self._join_at_first, self), return_exceptions=True)
        problems = [problem for problem in found if problem is not None]
        if final := [problem for problem in problems if not isinstance(problem, StoreUnavailable)]:
            raise final[0]
        if problems and not any(serving.has_joined for serving in self):
            raise problems[0]
        self._wanted = partitions

    async def _join_at_first(self, serving: Serving) -> StoreUnavailable | None:
        try:
            await serving.learn_clock()
            await serving.join()
        except StoreUnavailable as problem:
            serving.beats = False
            return problem
        serving.beats = True
        return None

    def begin(self) -> None:
        """Serve these partitions."""
        for serving in self:
            if serving.has_joined:
                serving.begin()
            self._begin_life(serving)

    async def stop_reading(self) -> None:
        """Take no more executions, and take over no partition."""
        self._is_ending = True
        await asyncio.gather(*[serving.stop_reading() for serving in self])

    async def end(self) -> None:
        """End all loops."""
        self._is_ending = True
        lives, self._lives = self._lives, {}
        await cancel(*lives.values())
        await asyncio.gather(*[serving.end() for serving in self])

    # -- while it runs

    def want(self, partitions: frozenset[int]) -> None:
        """Serve these from now on, and leave the others."""
        self._wanted = partitions
        for serving in self:
            serving.want(serving.keys.partition in partitions)
        for partition in partitions - self._all.keys():
            self._take_over(partition)

    def _take_over(self, partition: int) -> None:
        serving = self._all[partition] = self._make(self._store.keyspaces[partition])
        serving.beats = False
        self._begin_life(serving)

    def _begin_life(self, serving: Serving) -> None:
        self._lives[serving.keys.partition] = self._begin("handover", partial(self._live, serving))

    async def _live(self, serving: Serving) -> None:
        """From before the first heartbeat in a partition until it is left. If it fails, it goes on from there."""
        if not serving.beats:
            await serving.learn_clock()
            serving.beats = True
        while True:
            beat, sent_us = await serving.next_beat()
            if not self._is_ending and await self._is_left(serving, beat, sent_us):
                return

    async def _is_left(self, serving: Serving, beat: Beat, sent_us: int) -> bool:
        """One step after a heartbeat; true when the last one is done."""
        if serving.is_wanted:
            if not serving.has_joined:
                await self._join(serving)
            elif not serving.is_reading:
                serving.begin_reading()
        elif serving.is_reading:
            if await serving.is_in_other_hands(beat, sent_us):
                await serving.stop_reading()
        elif not serving.has_joined or serving.is_idle(beat, sent_us):
            await self._leave(serving)
            return True
        return False

    async def _join(self, serving: Serving) -> None:
        await serving.join()
        if not self._is_ending:
            serving.begin()
            logger.info("partition %d is taken over", serving.keys.partition)

    async def _leave(self, serving: Serving) -> None:
        serving.beats = False
        await self._beat_settled()  # a heartbeat after the end would make the worker known there again
        await serving.end()
        given = await serving.leave()
        await serving.close()
        partition = serving.keys.partition
        del self._all[partition], self._lives[partition]
        logger.info("partition %d is left to others%s", partition, f", with {given} executions" if given else "")
        if partition in self._wanted:
            self._take_over(partition)
