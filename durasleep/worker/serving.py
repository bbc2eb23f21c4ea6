"""What a worker does in one partition: reads, listens, fires, starts schedules, and judges which workers are dead."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from durasleep.protocol import command, membership, server
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.protocol.timers import Fired
from durasleep.settings import Settings
from durasleep.transport.store import Store
from durasleep.worker.execution.executor import Executor
from durasleep.worker.loops.hint_listener import HintListener
from durasleep.worker.loops.reaper import Reaper
from durasleep.worker.loops.relay import Relay
from durasleep.worker.loops.schedules import Schedules
from durasleep.worker.loops.task_reader import TaskReader
from durasleep.worker.loops.timer_firer import TimerFirer

logger = logging.getLogger("durasleep")


class Serving:
    """The loops of one partition, around the executor that all partitions of a worker share."""

    def __init__(
        self,
        store: Store,
        incoming: Store,
        keys: Keyspace,
        executor: Executor,
        *,
        consumer: str,
        group: str,
        settings: Settings,
        client_id: Callable[[], int],
        encode_error: Callable[[BaseException], bytes],
    ) -> None:
        """``client_id`` is that of the connection on which this worker sends its heartbeats; ``encode_error`` makes the
        payload of a call to another partition that was refused there.
        """
        self.keys = keys
        self._store = store
        self._executor = executor
        self._consumer = consumer
        self._group = group
        self._settings = settings
        self._clock = store.clock(keys)
        self.schedules = Schedules(store, keys)
        self._relay = Relay(incoming, keys, encode_error)
        self.firer = TimerFirer(incoming, keys, settings, self.schedules.note_due, self._relay.take)
        self._reader = TaskReader(store.link(keys), keys, group=group, consumer=consumer, settings=settings)
        self._listener = HintListener(
            store.link(keys),
            keys,
            consumer=consumer,
            settings=settings,
            on_wake=self.firer.on_wake,
            on_schedule=self.schedules.note_refused,
            on_settlement=executor.notify,
            on_offer=executor.take_offer,
            on_gap=self._on_gap,
        )
        self._reaper = Reaper(store, keys, consumer=consumer, group=group, settings=settings, client_id=client_id)

    async def join(self) -> None:
        """Begin with the time that the other workers accept, and become a consumer of the group."""
        [accepted_ms] = await self._store.ask_once([server.read_number(self.keys.clock_held)])
        self.firer.join(command.unwrap(accepted_ms))
        await self._reader.join()

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What runs for as long as the worker serves this partition, beside ``read``."""
        return [
            ("listener", self._listener.run),
            ("firer", self.firer.run),
            ("schedules", self.schedules.run),
        ]

    async def fire(self) -> Fired:
        """Settle one batch of timers that are due now; the firer also does this by itself."""
        fired = await self.firer.once()
        if fired.next_due_ms is not None:
            self.firer.hint(fired.next_due_ms)  # its wait began with an older clock
        return fired

    async def read(self) -> None:
        """Take executions for ever, as many as there are free slots."""
        while True:
            free = await self._executor.wait_until_free()
            await self._executor.submit(await self._reader.once(free))

    async def take_beat(self, beat: Beat, sent_us: int, received_us: int) -> None:
        """Follow the answer to a heartbeat, which was sent and received at these times of our own clock."""
        self._clock.observe(beat.server_us, sent_us, received_us)
        self.firer.set_rank(beat.rank)
        self.firer.on_wake(beat.last_wake)
        self._executor.on_beat(beat)
        for entry_key in self._reader.never_arrived(beat.unnamed, sent_us, received_us):
            if await self._executor.return_unheard(entry_key):
                logger.info("entry %s was delivered here but never arrived: released", entry_key[-1])
        await self._reaper.once(beat, received_us / 1e6)

    def _on_gap(self) -> None:
        self.firer.hint()
        self._executor.notify_all()

    async def leave(self) -> int:
        """Release all leases, and stop being a consumer; returns how many executions others get."""
        given = 0
        for queue in (f"{self._group}/{self._consumer.partition('/')[0]}", self._group):
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

    async def close(self) -> None:
        await self._relay.close()
        await self._reader.close()
        await self._listener.close()
