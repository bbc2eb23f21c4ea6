"""The janitor: removes what is gone from the indexes of a partition. The worker that fires first there does it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from durasleep.errors import CorruptData
from durasleep.protocol import indexes
from durasleep.protocol.indexes import Tidied
from durasleep.protocol.keys import Keyspace
from durasleep.transport.store import Store

LOOK_S = 60.0  # between two looks at which indexes there are
PART_S = 1.0  # between two parts of an index
PART_MAX = 500  # members looked at together: a millisecond of Redis
MANY_GONE = 10  # if one in so many is gone, the next part is looked at without a pause

logger = logging.getLogger("durasleep")


class Janitor:
    """Goes through the indexes, part by part, again and again."""

    def __init__(self, store: Store, keys: Keyspace, is_first: Callable[[], bool]) -> None:
        """``is_first`` says whether this worker fires first in this partition."""
        self._store = store
        self._keys = keys
        self._is_first = is_first
        self._at: dict[str, bytes] = {}
        """Of each index, where to go on."""

    async def once(self) -> list[Tidied]:
        """Look at the next part of each index; returns what each look has found."""
        labels = await self._store.call(indexes.read_indexed(self._keys))
        self._at = {label: self._at.get(label, b"") for label in labels}
        return [await self._tidy(label) for label in labels]

    async def _tidy(self, label: str) -> Tidied:
        try:
            found = await self._store.call(indexes.tidy(self._keys, label, self._at[label], count=PART_MAX))
        except CorruptData as error:
            logger.error("index %s cannot be read: %s", label, error)
            return Tidied(b"", 0, 0)
        self._at[label] = found.after
        return found

    async def run(self) -> None:
        while True:
            found = await self.once() if self._is_first() else []
            if not any(self._at.values()):
                await asyncio.sleep(LOOK_S)
            elif not any(one.removed * MANY_GONE > one.looked for one in found):
                await asyncio.sleep(PART_S)
