"""The muster: tells the group each second that this worker is there, and finds out which partitions are its share.

It runs in the event loop: while that is blocked, the worker begins nothing new, so others must take its share. While
the members cannot be asked, the last answer holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from durasleep.protocol import members
from durasleep.settings import Settings
from durasleep.transport.store import Store
from durasleep.worker.shares import Share


class Muster:
    """Keeps a worker among the members of its group, and passes on its share after each muster."""

    def __init__(
        self,
        store: Store,
        *,
        group: str,
        consumer: str,
        settings: Settings,
        on_share: Callable[[frozenset[int]], None],
    ) -> None:
        """The store must be open: the number of partitions is known then."""
        self._store = store
        self._group = group
        self._consumer = consumer
        self._on_share = on_share
        self._share = Share(
            consumer,
            len(store.keyspaces),
            workers_min=settings.partition_workers_min,
            shrink_s=settings.share_shrink_s,
        )

    async def once(self) -> frozenset[int]:
        """One muster; returns the share."""
        call = members.muster(self._store.namespace, self._group, self._consumer, gone=self._share.gone())
        share = self._share.note(await self._store.call(call), time.monotonic())
        self._on_share(share)
        return share

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._share.muster_s)
            await self.once()

    async def leave(self) -> None:
        """Be no member any more, so that others take the share at once."""
        await self._store.call(members.leave(self._store.namespace, self._group, self._consumer))
