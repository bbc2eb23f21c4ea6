"""Looks for executions that are for this worker only, in partitions outside its share: nobody else would run them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from durasleep.protocol import streams
from durasleep.transport.store import Store

LOOK_S = 5.0  # between two looks: 240 partitions cost one node less than a millisecond
KEPT_S = 30.0  # after its last execution, a partition is served so much longer: more may come


class OwnQueues:
    """Finds the partitions that the worker has to serve beside its share."""

    def __init__(
        self,
        store: Store,
        queue: str,
        share: Callable[[], frozenset[int]],
        on_found: Callable[[frozenset[int]], None],
    ) -> None:
        """``on_found`` gets the partitions that have executions in the worker's own ``queue``, or had some lately."""
        self._store = store
        self._queue = queue
        self._share = share
        self._on_found = on_found
        self._until: dict[int, float] = {}
        """Until when the partitions that were found are served."""

    async def once(self) -> frozenset[int]:
        """One look; returns the partitions."""
        share = self._share()
        others = [keys for keys in self._store.keyspaces if keys.partition not in share]
        lengths = await self._store.ask([streams.count_entries(keys.queue(self._queue)) for keys in others])
        now = time.monotonic()
        self._until = {number: until for number, until in self._until.items() if until > now}
        self._until |= {
            keys.partition: now + KEPT_S
            for keys, length in zip(others, lengths, strict=True)
            if isinstance(length, int) and length > 0  # a key of another type cannot be read
        }
        found = frozenset(self._until)
        self._on_found(found)
        return found

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.once()
