"""Due schedules: each starts its execution and gets its next time. The firer does not wait for this."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from durasleep import cron, humanize
from durasleep.errors import DurasleepError, UsageError
from durasleep.model import PromiseId
from durasleep.protocol import schedules
from durasleep.protocol.command import BatchItem
from durasleep.protocol.schedules import Schedule
from durasleep.transport.store import Store

TOGETHER_MAX = 16  # computed in one turn of the loop: a line takes a tenth of a millisecond
SAID_S = 60.0  # between two lines about a schedule that cannot be started
REASON_MAX = 200  # characters of the reason

logger = logging.getLogger("durasleep")


class Schedules:
    """Takes the names that a firing found due. If several workers see a schedule due, the script lets one start it."""

    def __init__(self, store: Store) -> None:
        self._store = store
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
        keys = self._store.keys()
        kept = await self._store.ask([schedules.read_schedule(keys, name) for name in names])
        items: list[BatchItem[str]] = []
        planned: list[tuple[str, PromiseId, int] | None] = []
        for name, schedule in zip(names, kept, strict=True):
            if isinstance(schedule, DurasleepError):
                items.append(self._quarantine(name, None, schedule))
                planned.append(None)
            elif schedule is None:
                items.append(schedules.remove_schedule(keys, name))
                planned.append(None)
            elif schedule.due_ms > self._store.clock.now_ms():
                continue  # another worker has started it
            else:
                try:
                    id, next_due_ms = self._moved(schedule)
                except (UsageError, ArithmeticError, LookupError, OSError, ValueError) as error:
                    items.append(self._quarantine(name, schedule.due_ms, error))
                    planned.append(None)
                else:
                    items.append(schedules.advance_schedule(keys, schedule, next_due_ms=next_due_ms, id=id))
                    planned.append((name, id, next_due_ms))
        for one, answer in zip(planned, await self._store.ask(items), strict=True):
            if one is None:
                continue
            name, id, next_due_ms = one
            if isinstance(answer, DurasleepError):
                self._log(name, answer)
            elif answer == "advanced":
                until = humanize.describe_until(next_due_ms, self._store.clock.now_ms())
                logger.info("schedule %s started %s, next %s", name, id, until)

    def _moved(self, schedule: Schedule) -> tuple[PromiseId, int]:
        """The execution to start now, and the next due time in ms; an error if the schedule cannot be read here."""
        due = datetime.fromtimestamp(schedule.due_ms / 1000, ZoneInfo(schedule.zone))
        now = datetime.fromtimestamp(self._store.clock.now_ms() / 1000, UTC)
        next_due_ms = cron.next_due_ms(schedule.cron, schedule.zone, max(due, now))
        return PromiseId(f"{schedule.name}@{due.isoformat()}"), next_due_ms

    def _quarantine(self, name: str, due_ms: int | None, error: Exception) -> BatchItem[str]:
        """It is quarantined by name, and offered again in a minute."""
        self._log(name, error)
        reason = " ".join((str(error) if isinstance(error, DurasleepError) else repr(error)).split())[:REASON_MAX]
        return schedules.quarantine_schedule(self._store.keys(), name, due_ms, reason, is_offered=self._due[name])

    def _log(self, name: str, error: Exception) -> None:
        """It stays due, and is offered again to this worker or another one; logged once a minute."""
        now = time.monotonic()
        if now - self._said_at.get(name, -SAID_S) < SAID_S:
            return
        self._said_at = {known: at for known, at in self._said_at.items() if now - at < SAID_S} | {name: now}
        reason = error if isinstance(error, DurasleepError) else repr(error)
        logger.error("schedule %s is due, but cannot be started here: %s; other schedules go on", name, reason)
