"""What a worker does in one partition: reads, listens, fires, starts schedules, and judges which workers are dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from durasleep.codec import Codec
from durasleep.observe.meter import Meter
from durasleep.protocol import command, membership, server
from durasleep.protocol.command import Command
from durasleep.protocol.commit import EntryKey
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.protocol.timers import Fired
from durasleep.settings import Settings
from durasleep.transport.server_clock import monotonic_us
from durasleep.transport.store import Store
from durasleep.worker.execution.holder import Holder
from durasleep.worker.loops.hint_listener import HintListener
from durasleep.worker.loops.janitor import Janitor
from durasleep.worker.loops.reaper import Reaper
from durasleep.worker.loops.relay import Relay
from durasleep.worker.loops.schedules import Schedules
from durasleep.worker.loops.task_reader import TaskReader
from durasleep.worker.loops.timer_firer import TimerFirer
from durasleep.worker.turns import Turns

logger = logging.getLogger("durasleep")

BEATS_MAX = 16  # that the event loop has not looked at yet
LOOKED_AT_MAX = 100  # other workers, before this one leaves a partition to them

Begin = Callable[[str, Callable[[], Awaitable[None]]], asyncio.Task[None]]
"""Begins a loop with this name, which goes on until it is cancelled."""


class Serving:
    """The loops of one partition, around the executor that all partitions of a worker share.

    A worker may leave a partition to others while it runs. From then on its heartbeats there say that it has no
    functions, as those of a worker that stops: it is offered nothing, and counts for nobody as one that stays.
    """

    _is_to_read = False
    """Whether it reads, or would if the group were not paused."""
    _is_paused = False
    _stopped_us: int | None = None
    """When it stopped to read, by our own clock; None while it reads, and before."""
    _unwanted_us: int | None = None
    """Since when it is to be left to others."""
    beats = True
    """Whether heartbeats are sent there."""
    has_joined = False

    def __init__(
        self,
        store: Store,
        incoming: Store,
        keys: Keyspace,
        executor: Holder,
        *,
        consumer: str,
        group: str,
        settings: Settings,
        client_id: Callable[[], int],
        codec: Codec,
        begin: Begin,
        reading_turns: Turns,
        firing_turns: Turns,
        meter: Meter | None = None,
        fires_only: bool = False,
    ) -> None:
        """``client_id`` is that of the connection on which this worker sends its heartbeats; ``codec`` reads and
        writes what is told to other partitions. A worker that ``fires_only`` takes no executions.
        """
        self._fires_only = fires_only
        self.keys = keys
        self._store = store
        self._executor = executor
        self._consumer, self._group = consumer, group
        self._settings = settings
        self._begin = begin
        self._beat_ms = round(settings.heartbeat_s * 1000)
        self._beats = asyncio.Queue[tuple[Beat, int, int]]()
        self._reading: asyncio.Task[None] | None = None
        self._looping: list[asyncio.Task[None]] = []
        self._clock = store.clock(keys)
        self.schedules = Schedules(store, keys, self._find_schedules)
        self.relay = Relay(incoming, keys, codec)
        found = (self.schedules.note_due, self.relay.take, firing_turns, self._room_for_schedules)
        self.firer = TimerFirer(incoming, keys, settings, *found, meter=meter)
        turns = None if keys.partitions == 1 else reading_turns
        self._reader = TaskReader(
            store.link(keys), keys, group=group, consumer=consumer, settings=settings, turns=turns
        )
        self._listener = HintListener(
            store.link(keys),
            keys,
            consumer=consumer,
            settings=settings,
            clock=store.clock(keys),
            on_wake=self.firer.on_wake,
            on_schedule=self.schedules.note_refused,
            on_settlement=executor.notify,
            on_offer=executor.take_offer,
            on_gap=self._on_gap,
        )
        self._janitor = Janitor(store, keys, lambda: self.firer.rank == 0)
        self._reaper = Reaper(
            store, keys, consumer=consumer, group=group, settings=settings, client_id=client_id, meter=meter
        )

    # -- its life

    async def learn_clock(self) -> None:
        """Begin with the time that the other workers accept."""
        [accepted_ms] = await self._store.ask_once([server.read_number(self.keys.clock_held)])
        self.firer.join(command.unwrap(accepted_ms))

    async def join(self) -> None:
        """Become a consumer of the group, unless it only fires timers."""
        if not self._fires_only:
            await self._reader.join()
        self.has_joined = True

    def begin(self) -> None:
        """Read, and run the other loops, for as long as the worker serves this partition."""
        self.begin_reading()
        loops = (
            ("listener", self._listener.run),
            ("firer", self.firer.run),
            ("schedules", self.schedules.run),
            ("janitor", self._janitor.run),
        )
        self._looping = [self._begin(name, run) for name, run in loops]

    @property
    def is_reading(self) -> bool:
        """Whether it takes executions, or would if the group were not paused."""
        return self._is_to_read

    def begin_reading(self) -> None:
        """Take executions, if it does not do so already; while the group is paused, as soon as it goes on."""
        if self._fires_only:
            return
        self._is_to_read = True
        if self._is_paused:
            self._stopped_us = self._stopped_us or monotonic_us()
            logger.info("group %s is paused: its executions wait%s", self._group, self._where)
        elif self._reading is None:
            self._stopped_us = None
            self._reading = self._begin("reader", self.read)

    async def stop_reading(self) -> None:
        """Take no more executions."""
        self._is_to_read = False
        await self._end_reading()

    async def _end_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            await cancel(reading)
            self._stopped_us = monotonic_us()

    @property
    def _where(self) -> str:
        return f" in partition {self.keys.partition}" if self.keys.partitions > 1 else ""

    async def _follow_pause(self) -> None:
        """Begin or end to read, as the group goes on or is paused."""
        if not self._is_to_read or self._is_paused == (self._reading is None):
            return
        if self._is_paused:
            await self._end_reading()
            await self._executor.release_waiting(self.keys.partition)
        else:
            logger.info("group %s goes on%s", self._group, self._where)
        self.begin_reading()

    async def end(self) -> None:
        """End all loops."""
        await self.stop_reading()
        looping, self._looping = self._looping, []
        await cancel(*looping)

    async def close(self) -> None:
        await self.relay.close()
        await self._reader.close()
        await self._listener.close()

    # -- leaving it to others

    @property
    def is_wanted(self) -> bool:
        return self._unwanted_us is None

    def want(self, is_wanted: bool) -> None:
        """Serve it, or leave it to others as soon as that is possible."""
        if is_wanted:
            self._unwanted_us = None
        elif self._unwanted_us is None:
            self._unwanted_us = monotonic_us()

    @property
    def stays(self) -> bool:
        """Whether others may rely on it here, and offer it executions."""
        return self.has_joined and self.is_wanted

    async def is_in_other_hands(self, beat: Beat, sent_us: int) -> bool:
        """Whether another worker of the group stays here, as found after a heartbeat of ours that said that we do not.

        If two workers leave at the same time, one of them says so first, and the other one finds that; so they never
        leave a partition to one another.
        """
        since_us = self._unwanted_us
        if since_us is None or sent_us < since_us:
            return False
        consumers = {*beat.consumers} - {self._consumer}
        fresh = [name for name in beat.fresh(self._beat_ms) if name in consumers][:LOOKED_AT_MAX]
        functions = await self._store.ask([membership.read_functions(self.keys, name) for name in fresh])
        return any(isinstance(one, str) and one for one in functions) and self._unwanted_us == since_us

    def is_idle(self, beat: Beat, sent_us: int) -> bool:
        """Whether it has stopped to read, and nothing of it is in hand."""
        has_stopped = self._stopped_us is not None and self._stopped_us < sent_us
        return has_stopped and not beat.unnamed and not self._executor.holds(self.keys.partition)

    # -- what it does

    def _find_schedules(self) -> None:
        self.firer.find_schedules()

    def _room_for_schedules(self) -> int:
        return self.schedules.room

    async def fire(self) -> Fired:
        """Settle one batch of timers that are due now; the firer also does this by itself."""
        fired = await self.firer.once()
        if fired.next_due_ms is not None:
            self.firer.hint(fired.next_due_ms)  # its wait began with an older clock
        return fired

    async def read(self) -> None:
        """Take executions for ever, as many as there are free slots."""
        executor, reader = self._executor, self._reader
        while True:
            free = await executor.wait_until_free()
            is_alone = self.keys.partitions == 1
            await executor.submit(await (reader.once(free) if is_alone else reader.once_of_several(executor)))

    def unblock(self) -> Command[int] | None:
        """See ``TaskReader.unblock``."""
        return self._reader.unblock()

    def note_beat(self, beat: Beat, sent_us: int, received_us: int) -> None:
        """The answer to a heartbeat, which was sent and received at these times of our own clock."""
        self._is_paused = beat.is_paused
        if self._beats.qsize() < BEATS_MAX:  # else the event loop is too far behind to judge others
            self._beats.put_nowait((beat, sent_us, received_us))

    async def next_beat(self) -> tuple[Beat, int]:
        """Follow the next answer to a heartbeat; returns it, and when it was sent."""
        beat, sent_us, received_us = await self._beats.get()
        await self.take_beat(beat, sent_us, received_us)
        return beat, sent_us

    async def take_beat(self, beat: Beat, sent_us: int, received_us: int) -> None:
        """Follow the answer to one heartbeat."""
        self._clock.observe(beat.server_us, sent_us, received_us)
        await self._follow_pause()
        self.firer.set_rank(self._rank(beat))
        self.firer.on_wake(beat.last_wake)
        self._executor.on_beat(beat)
        self._reader.on_beat(beat)
        for entry_key in self._never_arrived(beat, sent_us, received_us):
            if await self._executor.return_unheard(entry_key):
                logger.info("entry %s was delivered here but never arrived: released", entry_key[-1])
        await self._reaper.once(beat, received_us / 1e6)

    def _rank(self, beat: Beat) -> int:
        """The rank by name, turned by one for each partition: otherwise one worker would fire everywhere first."""
        workers = max(len(beat.fresh(self._beat_ms)), beat.rank + 1)
        return (beat.rank + self.keys.partition) % workers

    def _never_arrived(self, beat: Beat, sent_us: int, received_us: int) -> list[EntryKey]:
        """Entries to be released: they are pending to us, and we never got them. Nothing arrives when the reading has
        stopped.
        """
        if self._stopped_us is not None and self._stopped_us < sent_us:
            return beat.unnamed
        return self._reader.never_arrived(beat.unnamed, sent_us, received_us)

    def _on_gap(self) -> None:
        self.firer.hint()
        self.schedules.note_gap()
        self._executor.notify_all()

    async def leave(self) -> int:
        """Release all leases, and stop being a consumer; returns how many executions others get."""
        self.has_joined = False
        self._executor.leave_partition(self.keys)
        given = 0
        for queue in membership.queues_to_reclaim(self._group, self._consumer):
            more = True
            while more:
                answer = await self._store.call(
                    membership.reclaim(
                        self.keys,
                        self._consumer,
                        queue,
                        beat="",
                        release="all",
                        max_attempts=self._settings.max_attempts,
                    )
                )
                given += answer.given
                more = answer.more
        return given


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
