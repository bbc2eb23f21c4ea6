"""What all requests to one gateway share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from durasleep.client import Client
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.searches import Searches
from durasleep.gateway.tasks.groups import Groups

WAITS_MAX = 1_000


class Waits:
    """The requests that wait; those beyond the limit are refused."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.waiting = 0
        """How many wait now."""
        self._limits: set[asyncio.Timeout] = set()
        self._is_over = False

    @contextmanager
    def one(self) -> Generator[None]:
        """A wait that ends by itself, while the block runs; Problem if too many wait already."""
        if self.waiting >= self._most:
            raise Problem(
                "too-many-waits",
                f"{self._most} requests wait here already: ask again, or without wait",
                headers=[("Retry-After", "1")],
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncGenerator[None]:
        """The same for one that ends with a TimeoutError, after so many seconds, or when the gateway ends."""
        with self.one():
            async with asyncio.timeout(0 if self._is_over else seconds) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)

    def end(self) -> None:
        """End those waits: nobody may wait so any more."""
        self._is_over = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)


class Shared:
    """Lives as long as its gateway. Whoever made the client closes it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.waits = Waits(WAITS_MAX)
        self.searches = Searches()
        self.groups = Groups(client)
        """Task workers, and what they poll."""

    async def aclose(self) -> None:
        """Answer those that wait, and end what requests have left behind. Others may still be answered."""
        self.waits.end()
        self.searches.clear()
        await self.groups.aclose()
