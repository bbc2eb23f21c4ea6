"""The firer: settles timers the moment they fall due. Any worker may; the script decides; nobody is elected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from durasleep.settings import Settings
from durasleep.store import commands
from durasleep.store.commands import Fired
from durasleep.store.store import Store, monotonic_us

logger = logging.getLogger("durasleep")

AIM_EARLY_S = 0.0005  # epoll wakes up to 1 ms late and the call takes a while to arrive; too early is asked again
LOOK_AGAIN_S = 60.0  # with no timer known; wake-ups are hints and a hint may be lost


class Firer:
    """Waits for the next due time by its own timer, corrected by the offset to the server's clock.

    A better rank fires first: rank r waits r times ``rank_delay_ms`` longer, so that a dead rank 0 costs 50 ms.
    """

    def __init__(self, store: Store, settings: Settings, on_schedule: Callable[[str], Awaitable[None]]) -> None:
        self._store = store
        self._settings = settings
        self._on_schedule = on_schedule
        self._rank = 0
        self._next_due_ms: int | None = None
        self._hinted_ms: int | None = None
        self._hint = asyncio.Event()
        self._last_wake = b""
        self._firing = asyncio.Lock()

    def set_rank(self, rank: int) -> None:
        self._rank = rank

    def hint(self, due_ms: int = 0) -> None:
        """A timer may be due earlier than the one we wait for; 0: look now."""
        self._hinted_ms = due_ms if self._hinted_ms is None else min(due_ms, self._hinted_ms)
        self._hint.set()

    def hear_wake(self, last_wake: bytes, due_ms: int = 0) -> None:
        """The last entry of ``wake``, from a heartbeat or as it came; a new one is a hint."""
        if last_wake != self._last_wake:
            self._last_wake = last_wake
            self.hint(due_ms)

    async def once(self) -> Fired:
        """Settle at most one batch of due timers, after a batch that is under way with its schedules."""
        async with self._firing:
            return await self._once()

    async def _once(self) -> Fired:
        self._hinted_ms = None  # a hint that comes while we ask may be news to the answer
        sent_us = monotonic_us()
        fired = await self._store.call(commands.fire(self._store.keys(), limit=self._settings.fire_items_max))
        self._store.clock.hear(fired.server_us, sent_us, monotonic_us())
        self._next_due_ms = fired.next_due_ms
        self._last_wake = fired.last_wake
        for line in fired.put_aside:
            logger.error("a timer was put aside: %s", line)
        for name in fired.schedules:
            await self._on_schedule(name)
        return fired

    async def run(self) -> None:
        while True:
            fired = await self.once()
            if fired.due < self._settings.fire_items_max and fired.closing == 0:
                await self._wait()

    async def _wait(self) -> None:
        """Until the next due time of our rank; a hint moves it."""
        while (wait_s := self._seconds_left()) > 0:
            self._hint.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._hint.wait()
            except TimeoutError:
                return

    def _seconds_left(self) -> float:
        known = [due for due in (self._next_due_ms, self._hinted_ms) if due is not None]
        if not known:
            return LOOK_AGAIN_S
        delay_ms = min(self._rank, self._settings.rank_max) * self._settings.rank_delay_ms
        return min(self._store.clock.seconds_until(min(known) + delay_ms) - AIM_EARLY_S, LOOK_AGAIN_S)
