"""What all requests to one gateway share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from durasleep.client import Client
from durasleep.gateway.api.problems import Problem
from durasleep.gateway.api.searches import Searches
from durasleep.gateway.tasks.groups import Groups

T = TypeVar("T")
WAITS_MAX = 1_000
_GRACE_S = 3.0  # for what was begun, when the gateway ends


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
        self._begun: set[asyncio.Task[Any]] = set()

    async def carry_out(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, even if the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._begun.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone: nobody else asks for it

    async def aclose(self) -> None:
        """Answer those that wait, and end what requests have left behind. Others may still be answered."""
        self.waits.end()
        self.searches.clear()
        if self._begun:
            await asyncio.wait(self._begun, timeout=_GRACE_S)
        await self.groups.aclose()
