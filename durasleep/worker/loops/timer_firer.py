"""The firer: settles timers when they are due. Any worker may do it; the script decides; there is no election."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from durasleep import humanize
from durasleep.observe.meter import Meter
from durasleep.protocol import command, server, timers
from durasleep.protocol.foreign import Question, Tell
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.timers import Fired
from durasleep.settings import Settings
from durasleep.transport.server_clock import monotonic_us
from durasleep.transport.store import Store
from durasleep.worker.turns import Turns

logger = logging.getLogger("durasleep")

AIM_EARLY_S = 0.001  # epoll wakes up to 1 ms late, and the call takes a while; a call that comes too early is repeated
BATCHES_MAX = 2  # in one write: Redis serves no other client between them
LOOK_AGAIN_S = 60.0  # if no timer is known; wake-ups are hints, and a hint may be lost
RECKON_S = 1.0  # a longer wait is computed again: beats may have shown that the server's clock was changed
HELD_LOOK_S = 1.0  # while the server's clock is not accepted
DEAF_LOOK_S = 0.25  # while there can be no wake-ups, because the key of their stream holds something else
SAID_S = 60.0  # between two lines about a lasting problem


def _nowhere(_asks: Sequence[Question], _tells: Sequence[Tell]) -> None:
    """There is only one partition."""


class TimerFirer:
    """Waits for the next due time by its own timer, corrected by the offset to the server's clock.

    A better rank fires first: rank r waits r times ``rank_delay_ms`` longer, so a dead rank 0 costs 50 ms.
    """

    def __init__(
        self,
        store: Store,
        keys: Keyspace,
        settings: Settings,
        on_schedules: Callable[[list[str]], None],
        on_foreign: Callable[[Sequence[Question], Sequence[Tell]], None] = _nowhere,
        turns: Turns | None = None,
        room_for_schedules: Callable[[], int] = lambda: timers.SCHEDULES_MAX,
        meter: Meter | None = None,
    ) -> None:
        """``on_foreign`` gets what is to be carried to other partitions; ``turns`` are those of all firers.
        ``room_for_schedules`` says how many due schedules a firing may find; if there are more, see ``find_schedules``.
        """
        self._meter = meter
        self._store = store
        self._keys = keys
        self._clock = store.clock(keys)
        self._settings = settings
        self._on_schedules = on_schedules
        self._on_foreign = on_foreign
        self._room_for_schedules = room_for_schedules
        self._has_more_schedules = False
        self._turns = turns or Turns(store.partitions.node_of)
        self._rank = 0
        self._next_due_ms: int | None = None
        self._hinted_ms: int | None = None
        self._hint = asyncio.Event()
        self._last_wake = b""
        self._look_again_s = LOOK_AGAIN_S
        self._firing = asyncio.Lock()
        self._held_from_ms: int | None = None
        self._said_at = -SAID_S
        self._newer_said_at = -SAID_S

    def set_rank(self, rank: int) -> None:
        self._rank = rank

    @property
    def rank(self) -> int:
        """0 fires first."""
        return self._rank

    def hint(self, due_ms: int = 0) -> None:
        """A timer may be due earlier than the one we wait for; 0: look now."""
        self._hinted_ms = due_ms if self._hinted_ms is None else min(due_ms, self._hinted_ms)
        self._hint.set()

    def find_schedules(self) -> None:
        """There is room for due schedules again."""
        if self._has_more_schedules:
            self.hint()

    def on_wake(self, last_wake: bytes, due_ms: int = 0) -> None:
        """The last entry of ``wake``, from a heartbeat or from the stream; a new one is a hint. Empty: there can be
        none.
        """
        self._look_again_s = LOOK_AGAIN_S if last_wake else DEAF_LOOK_S
        if last_wake != self._last_wake:
            self._last_wake = last_wake
            self.hint(due_ms)

    def join(self, accepted_ms: int | None) -> None:
        """Start with the time that the others accept, if they do not accept the server's."""
        if accepted_ms is not None and self._settings.clock_ahead_max_s != math.inf:
            self._clock.seed(accepted_ms)

    async def once(self, batches: int = 1) -> Fired:
        """Settle at most this many batches of due timers, after a running call; returns the last result."""
        async with self._firing:
            self._hinted_ms = None  # a hint that comes while we ask may be newer than the answer
            clock, sent_us = self._clock, monotonic_us()
            fire = timers.fire(
                self._keys,
                limit=self._settings.fire_items_max,
                latest_ms=clock.latest_ms,
                schedules_max=self._room_for_schedules() // batches,
            )
            answers = await self._turns.run(self._keys, lambda: self._store.ask([fire] * batches))
            received_us = monotonic_us()
            for answer in answers:
                await self._take(command.unwrap(answer), sent_us, received_us)
            return answers[-1]

    async def _take(self, fired: Fired, sent_us: int, received_us: int) -> None:
        clock = self._clock
        clock.observe(fired.server_us, sent_us, received_us)
        if self._meter is not None:
            self._count(self._meter, fired)
        if clock.ahead_s or self._held_from_ms is not None:
            await self._hold(fired.server_us // 1000)
        self._next_due_ms = fired.next_due_ms
        self._last_wake = fired.last_wake
        self._has_more_schedules = fired.has_more_schedules
        for line in fired.quarantined:
            logger.error("a timer was quarantined: %s", line)
        if fired.newer and monotonic_us() / 1e6 - self._newer_said_at >= SAID_S:
            self._newer_said_at = monotonic_us() / 1e6
            logger.warning("%d timers wait for a worker of a newer version, the only one that knows them", fired.newer)
        self._on_schedules(fired.schedules)
        if fired.asks or fired.tells:
            self._on_foreign(fired.asks, fired.tells)

    def _count(self, meter: Meter, fired: Fired) -> None:
        if fired.oldest_due_ms is not None:
            meter.lateness.observe(max(0.0, fired.server_us / 1e6 - fired.oldest_due_ms / 1e3))
        for function, state, count in fired.ended:
            meter.end(function, state.value, count)

    async def _hold(self, server_ms: int) -> None:
        """Wait until the clock is accepted or a person has released it; logged at times, and told to new workers."""
        clock, keys = self._clock, self._keys
        if not clock.ahead_s:
            self._held_from_ms = None
            logger.warning("the clock of Redis is accepted again: timers fire")
            return
        if self._held_from_ms is None:
            self._held_from_ms = server_ms
        released_ms = await self._store.call(server.read_number(keys.clock_released))
        if released_ms is not None and released_ms >= self._held_from_ms:
            clock.accept_next()
            self._held_from_ms = None
            logger.warning("the clock of Redis was released by hand: timers fire by it")
            return
        await self._store.call(server.keep_number(keys.clock_held, clock.now_ms(), ttl_s=10 * HELD_LOOK_S))
        if monotonic_us() / 1e6 - self._said_at >= SAID_S:
            self._said_at = monotonic_us() / 1e6
            logger.error(
                "the clock of Redis is %s too far ahead: NO TIMER FIRES until it comes back. If the clock is right, "
                "confirm it with `durasleep namespace release-clock`",
                humanize.describe_ms(round(clock.ahead_s * 1000)),
            )

    async def run(self) -> None:
        batches = 1
        while True:
            fired = await self.once(batches)
            is_full = fired.due >= self._settings.fire_items_max
            # If many are due, Redis settles the next batch while the worker begins the executions that the last one
            # woke.
            batches = BATCHES_MAX if is_full else 1
            if not is_full and fired.closing == 0:
                await self._wait()

    async def _wait(self) -> None:
        """Wait for the next due time of our rank; a hint moves it, and so does a change of the clock."""
        began_at = monotonic_us() / 1e6
        while (wait_s := self.seconds_left()) > 0 and monotonic_us() / 1e6 < began_at + self._look_again_s:
            self._hint.clear()
            try:
                async with asyncio.timeout(min(wait_s, RECKON_S)):
                    await self._hint.wait()
            except TimeoutError:
                if wait_s <= RECKON_S:
                    return

    def seconds_left(self) -> float:
        """The time to the next due time of our rank, by our own clock; 0 or less: it is due."""
        if self._clock.ahead_s:  # as the last beat or firing has shown
            return HELD_LOOK_S
        known = [due for due in (self._next_due_ms, self._hinted_ms) if due is not None]
        if not known:
            return self._look_again_s
        delay_ms = min(self._rank, self._settings.rank_max) * self._settings.rank_delay_ms
        return min(self._clock.seconds_until(min(known) + delay_ms) - AIM_EARLY_S, self._look_again_s)
