"""Turns: what the partitions on one node do one after the other, so that each finds more to do at once.

Sixteen partitions have sixteen timers and sixteen streams. If each fired and read for itself, a node would run many
small scripts; while one waits for its turn, more becomes due for the others.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from durasleep.protocol.keys import Keyspace

T = TypeVar("T")

TURN_MAX_S = 0.1  # then the next one has its turn: a slot that moves must not hold up the others of its node


class Turns:
    """For one kind of work: at most one at a time for each node, first come, first served."""

    def __init__(self, node_of: Callable[[int], object]) -> None:
        """``node_of`` says which node of a cluster serves a slot."""
        self._node_of = node_of
        self._locks: defaultdict[object, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, keys: Keyspace, begin: Callable[[], Awaitable[T]]) -> T:
        """The result of what ``begin`` does in a partition when its turn has come."""
        if keys.partitions == 1:
            return await begin()
        async with self._locks[self._node_of(keys.slot)]:
            work = asyncio.ensure_future(begin())
            try:
                await asyncio.wait((work,), timeout=TURN_MAX_S)
            except asyncio.CancelledError:
                work.cancel()
                raise
        return await work
