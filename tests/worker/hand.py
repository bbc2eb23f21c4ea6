"""An executor without the loops around it: a test reads for it, and looks at what it does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from msgspec import structs

from durasleep import Context
from durasleep.codec import Codec
from durasleep.protocol.commit import Lease
from durasleep.protocol.membership import Beat
from durasleep.runtime.definition import Registry
from durasleep.settings import DEFAULTS, Settings
from durasleep.worker.execution.executor import Executor
from durasleep.worker.execution.function_runner import Overrides
from tests.service.workers import eventually
from tests.store.driver import WORKER, Driver

BEAT = Beat(0, 0, b"", b"", [], {}, [], [], [], [])
"""The answer to a heartbeat that tells nothing."""


class Hand:
    """An executor with a task that stands at gates, and what has run in it."""

    def __init__(
        self,
        driver: Driver,
        *,
        concurrency: int = 2,
        settings: Settings = DEFAULTS,
        overrides: Overrides = MappingProxyType({}),
    ) -> None:
        self.driver = driver
        self.codec = Codec()
        self.registry = Registry()
        self.ran: list[str] = []
        self.stopped: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}
        self.incoming = driver.store.second_connection()
        self.executor = Executor(
            driver.store,
            self.incoming,
            self.registry,
            self.codec,
            consumer=WORKER,
            concurrency=concurrency,
            settings=settings,
            overrides=overrides,
            on_used_up=lambda: None,
            require=self._require,
        )

        async def stand(name: str) -> str:
            self.ran.append(name)
            try:
                await self.gate(name).wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return name

        async def asking(ctx: Context, name: str) -> str:
            self.ran.append(name)
            return await ctx.promise(name="approval")

        self.registry.task(stand, name="stand")
        self.registry.workflow(asking, name="asking")

    async def _require(self, feature: str) -> None:
        self.driver.store.partitions.features.add(feature)

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def beat(self, **told: Any) -> Beat:
        """The answer to a heartbeat in the partition of the driver, which tells this."""
        return replace(BEAT, partition=self.driver.keys.partition, **told)

    async def create(self, *ids: str, function: str = "stand", queue: str = "workers") -> None:
        for id in ids:
            args = self.codec.encode_args((id,), {}, function)
            await self.driver.create(id, function, args=args, queue=queue)

    async def read(self, *ids: str, function: str = "stand", queue: str = "workers") -> list[Lease]:
        """New executions, read by this worker."""
        await self.create(*ids, function=function, queue=queue)
        return await self.driver.read(len(ids), queue=queue)

    async def read_with_snapshot(self, id: str) -> Lease:
        """One whose entry tells all there is to know; nothing else may be queued."""
        [lease] = await self.read(id)
        return await self.with_snapshot(lease)

    async def with_snapshot(self, lease: Lease) -> Lease:
        """As the reader would have it, with what its entry tells."""
        [(_, fields)] = await self.driver.redis.xrange(self.driver.keys.queue(lease.queue), lease.entry, lease.entry)
        return structs.replace(lease, snapshot=fields[b"x"])

    async def standing(self, *ids: str, function: str = "stand", queue: str = "workers") -> list[Lease]:
        """New executions in hand, that run."""
        leases = await self.read(*ids, function=function, queue=queue)
        await self.executor.submit(leases)
        await self.begun(*ids)
        return leases

    async def begun(self, *ids: str) -> None:
        await eventually(lambda: set(ids) <= set(self.ran), f"{ids} to begin")

    async def let_go(self, *ids: str) -> None:
        for id in ids:
            self.gate(id).set()
        await eventually(lambda: not {lease.id for lease in self.executor.held()} & set(ids), f"{ids} to be let go of")

    async def status(self, id: str) -> str:
        record = await self.driver.record(id)
        return str(record.place or record.state)

    async def becomes(self, status: str) -> None:
        """Wait until ``a`` has this status, and nothing is held any more."""

        async def is_so() -> bool:
            return await self.status("a") == status

        await eventually(is_so, f"a to be {status}")
        await eventually(lambda: not self.executor.held(), "it to be let go of")

    async def value(self) -> Any:
        """The result of ``a``."""
        return self.codec.decode((await self.driver.record("a")).value)

    async def end(self) -> None:
        await self.executor.abort()
        await self.incoming.aclose()
        await self.driver.reclaim(release="all")
