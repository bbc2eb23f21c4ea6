"""Keeps what this worker declares of its functions, as soon as no worker of an older version is left."""

from __future__ import annotations

import asyncio
import logging
import time

from durasleep.errors import NotAllowed
from durasleep.protocol import versions
from durasleep.query import declaring, indexes
from durasleep.runtime.definition import Registry
from durasleep.transport.store import Store

TRY_AGAIN_S = 1.0  # a deployment replaces the older workers
SAID_S = 60.0  # between two lines

logger = logging.getLogger("durasleep")


class Declaring:
    """Declares once; and then whenever something turns out to be needed that older versions do not know."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._is_wanted = asyncio.Event()
        self._wanted: set[str] = set()
        self._said_at = -SAID_S

    async def require(self, feature: str) -> None:
        """Something needs a namespace whose versions all have this feature. NotAllowed while a worker of an older
        version is alive; then it is tried again and again.
        """
        try:
            await self._require(feature)
        except NotAllowed as error:
            self._log(error)
            self._want(feature)
            raise

    def _want(self, feature: str) -> None:
        self._wanted.add(feature)
        self._is_wanted.set()

    async def begin(self) -> None:
        """At the start: what cannot be declared yet is tried again while the worker runs."""
        declared = self._registry.declared()
        meta = await self._store.call(versions.read_meta(self._store.namespace))
        known = self._store.partitions.features
        known |= {one for one in (versions.FLOW, versions.CHANNELS) if versions.needs(meta, one)}
        try:
            await self._declare(is_needed=declaring.is_declaring(declared) or bool(self._registry.index))
        except NotAllowed as error:
            self._log(error)
            self._want(versions.FLOW)

    async def once(self) -> None:
        """NotAllowed while workers of an older version are left."""
        for feature in sorted(self._wanted - {versions.FLOW}):
            await self._require(feature)
            self._wanted.remove(feature)
        await self._declare(is_needed=versions.FLOW in self._wanted)
        self._wanted.discard(versions.FLOW)

    async def _require(self, feature: str) -> None:
        store = self._store
        if feature not in store.partitions.features:
            await store.run(declaring.require(store.keyspaces, feature))
            store.partitions.features.add(feature)

    async def _declare(self, *, is_needed: bool) -> None:
        store = self._store
        if is_needed:
            await self._require(versions.FLOW)
        if versions.FLOW in store.partitions.features:
            await store.run(declaring.declare(store.keyspaces, self._registry.declared()))
            if self._registry.index:
                await store.run(indexes.add_indexes(store.keyspaces, self._registry.index))

    async def run(self) -> None:
        while True:
            await self._is_wanted.wait()
            try:
                await self.once()
                self._is_wanted.clear()
            except NotAllowed as error:
                self._log(error)
                await asyncio.sleep(TRY_AGAIN_S)

    def _log(self, error: NotAllowed) -> None:
        if time.monotonic() - self._said_at >= SAID_S:
            self._said_at = time.monotonic()
            logger.warning("what this worker declares or does has to wait: %s", error)
