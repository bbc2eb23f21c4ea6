"""Due schedules: each starts its execution and gets its next time. The firer does not wait for this."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from durasleep import cron, humanize
from durasleep.errors import DurasleepError, OtherFunction, UsageError
from durasleep.model import PromiseId
from durasleep.protocol import schedules
from durasleep.protocol.command import BatchItem
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.schedules import Schedule
from durasleep.transport.store import Store

TOGETHER_MAX = 16  # computed in one turn of the loop: a line takes a tenth of a millisecond
SAID_S = 60.0  # between two lines about a schedule that cannot be started
REASON_MAX = 200  # characters of the reason

logger = logging.getLogger("durasleep")


class Schedules:
    """Takes the names that a firing found due. If several workers see a schedule due, the script lets one start it."""

    def __init__(self, store: Store, keys: Keyspace) -> None:
        self._store = store
        self._keys = keys
        self._clock = store.clock(keys)
        self._due: dict[str, bool] = {}
        """By name; true if a firing found it due, false if another worker could not read it."""
        self._is_any_due = asyncio.Event()
        self._said_at: dict[str, float] = {}

    def note_due(self, names: Iterable[str]) -> None:
        """These are due; one that is known already, and offered again, is started once."""
        self._due.update(dict.fromkeys(names, True))
        if self._due:
            self._is_any_due.set()

    def note_refused(self, name: str) -> None:
        """This one is due, and the worker that found it cannot read it; this worker may be able to."""
        self._due.setdefault(name, False)
        self._is_any_due.set()

    async def once(self) -> None:
        """Start some of the due schedules, those that have waited longest first."""
        names = list(self._due)[:TOGETHER_MAX]
        try:
            await self._start(names)
        finally:
            for name in names:
                self._due.pop(name, None)

    async def run(self) -> None:
        while True:
            self._is_any_due.clear()
            while self._due:
                await self.once()
            await self._is_any_due.wait()

    async def _start(self, names: list[str]) -> None:
        keys = self._keys
        kept = await self._store.ask([schedules.read_schedule(keys, name) for name in names])
        items: list[BatchItem[str]] = []
        due: list[tuple[Schedule, PromiseId, int]] = []
        for name, schedule in zip(names, kept, strict=True):
            if isinstance(schedule, DurasleepError):
                items.append(self._quarantine(name, None, schedule))
            elif schedule is None:
                items.append(schedules.remove_schedule(keys, name))
            elif schedule.due_ms <= self._clock.now_ms():  # else another worker has started it
                try:
                    due.append((schedule, *self._moved(schedule)))
                except (UsageError, ArithmeticError, LookupError, OSError, ValueError) as error:
                    items.append(self._quarantine(name, schedule.due_ms, error))
        due = await self._start_elsewhere(due)
        items += [
            schedules.advance_schedule(keys, schedule, next_due_ms=next_due_ms, id=id if self._is_here(id) else None)
            for schedule, id, next_due_ms in due
        ]
        answers = await self._store.ask(items)
        for (schedule, id, next_due_ms), answer in zip(due, answers[len(items) - len(due) :], strict=True):
            if isinstance(answer, DurasleepError):
                self._log(schedule.name, answer)
            elif answer == "advanced":
                until = humanize.describe_until(next_due_ms, self._clock.now_ms())
                logger.info("schedule %s started %s, next %s", schedule.name, id, until)

    def _is_here(self, id: PromiseId) -> bool:
        return self._store.keys(id) is self._keys

    async def _start_elsewhere(
        self, due: list[tuple[Schedule, PromiseId, int]]
    ) -> list[tuple[Schedule, PromiseId, int]]:
        """Start the executions that belong to other partitions than their schedules; returns all that may go on.

        It is done before the next due time is set: a worker that dies in between leaves both to another worker.
        """
        others = [one for one in due if not self._is_here(one[1])]
        starts = [schedules.start_scheduled(self._store.keys(id), schedule, id) for schedule, id, _ in others]
        failed: list[Schedule] = []
        for (schedule, _, _), answer in zip(others, await self._store.ask(starts), strict=True):
            if isinstance(answer, DurasleepError) and not isinstance(answer, OtherFunction):  # then the id is in use
                self._log(schedule.name, answer)
                failed.append(schedule)
        return [one for one in due if one[0] not in failed]

    def _moved(self, schedule: Schedule) -> tuple[PromiseId, int]:
        """The execution to start now, and the next due time in ms; an error if the schedule cannot be read here."""
        due = datetime.fromtimestamp(schedule.due_ms / 1000, ZoneInfo(schedule.zone))
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        next_due_ms = cron.next_due_ms(schedule.cron, schedule.zone, max(due, now))
        return PromiseId(f"{schedule.name}@{due.isoformat()}"), next_due_ms

    def _quarantine(self, name: str, due_ms: int | None, error: Exception) -> BatchItem[str]:
        """It is quarantined by name, and offered again in a minute."""
        self._log(name, error)
        reason = " ".join((str(error) if isinstance(error, DurasleepError) else repr(error)).split())[:REASON_MAX]
        return schedules.quarantine_schedule(self._keys, name, due_ms, reason, is_offered=self._due[name])

    def _log(self, name: str, error: Exception) -> None:
        """It stays due, and is offered again to this worker or another one; logged once a minute."""
        now = time.monotonic()
        if now - self._said_at.get(name, -SAID_S) < SAID_S:
            return
        self._said_at = {known: at for known, at in self._said_at.items() if now - at < SAID_S} | {name: now}
        reason = error if isinstance(error, DurasleepError) else repr(error)
        logger.error("schedule %s is due, but cannot be started here: %s; other schedules go on", name, reason)
