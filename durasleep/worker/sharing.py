"""A worker as a member of its group: it serves its share of the partitions, and others that have executions for it."""

from __future__ import annotations

import asyncio
import logging

from durasleep.errors import DurasleepError
from durasleep.settings import Settings
from durasleep.transport.store import Store
from durasleep.worker.loops.muster import Muster
from durasleep.worker.loops.own_queues import OwnQueues
from durasleep.worker.serving import Begin, cancel
from durasleep.worker.servings import Servings

logger = logging.getLogger("durasleep")


class Sharing:
    """Tells the servings of a worker which partitions to serve."""

    def __init__(self, store: Store, servings: Servings, *, group: str, consumer: str, settings: Settings) -> None:
        """The store must be open."""
        store = self._store = store.second_connection()  # no commit waits while the members cannot be asked
        self._servings = servings
        self._settings = settings
        self._muster = Muster(store, group=group, consumer=consumer, settings=settings, on_share=self._take_share)
        own = f"{group}/{consumer.partition('/')[0]}"
        self._own_queues = OwnQueues(store, own, lambda: self._share, self._take_own)
        self._share = frozenset[int]()
        self._own = frozenset[int]()
        self._loops: list[asyncio.Task[None]] = []

    async def choose(self) -> frozenset[int]:
        """Become a member; returns the partitions to begin with."""
        return await self._muster.once()

    def begin(self, begin: Begin) -> None:
        """Follow the other members from now on."""
        self._loops = [begin("muster", self._muster.run), begin("own queues", self._own_queues.run)]

    async def end(self) -> None:
        """Follow them no more."""
        loops, self._loops = self._loops, []
        await cancel(*loops)

    async def leave(self) -> None:
        """Others take the share now, and not only when they miss this worker."""
        try:
            async with asyncio.timeout(self._settings.dead_after_s):
                await self._muster.leave()
        except (TimeoutError, DurasleepError) as error:
            logger.info("the group could not be told that this worker leaves: %s", error or "no answer")

    async def close(self) -> None:
        await self._store.aclose()

    def _take_share(self, share: frozenset[int]) -> None:
        self._share = share
        self._serve()

    def _take_own(self, partitions: frozenset[int]) -> None:
        self._own = partitions
        self._serve()

    def _serve(self) -> None:
        if self._loops:
            self._servings.want(self._share | self._own)
