"""Due schedules: each starts its execution and gets its next time. The firer does not wait for this."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from durasleep import humanize
from durasleep.cron import NEVER
from durasleep.errors import DurasleepError, NotAllowed, NotFound, OtherFunction
from durasleep.model import PromiseId, State
from durasleep.protocol import due_schedules, journal, promises, schedules, timers
from durasleep.protocol.command import BatchItem
from durasleep.protocol.due_schedules import Step
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created
from durasleep.protocol.schedules import Advanced, Schedule
from durasleep.transport.store import Store
from durasleep.worker.execution.log_sampler import LogSampler

TOGETHER_MAX = 16  # looked at in one turn of the loop, half a millisecond: sleeps wake up between them
PARTS_MAX = 2  # at a time: Redis starts one while the next is computed
SAID_S = 60.0  # between two lines about a schedule that cannot be started
REASON_MAX = 200  # characters of the reason
UNREADABLE = (DurasleepError, ArithmeticError, LookupError, OSError, ValueError)
"""What a schedule raises that only another version, or another machine, can read."""

logger = logging.getLogger("durasleep")


@dataclass(frozen=True, slots=True)
class _Due:
    """A schedule that was looked at, and what to do."""

    schedule: Schedule
    step: Step


class Schedules:
    """Takes the names that a firing found due. If several workers see a schedule due, the script lets one start it."""

    def __init__(self, store: Store, keys: Keyspace, on_room: Callable[[], None] = lambda: None) -> None:
        """``on_room`` is called when there is room for more due schedules."""
        self._on_room = on_room
        self._store = store
        self._keys = keys
        self._clock = store.clock(keys)
        self._due: dict[str, bool] = {}
        """By name; true if a firing found it due, false if another worker could not read it."""
        self._is_any_due = asyncio.Event()
        self._has_gap = False
        self._lines = LogSampler(store.settings.log_lines_max)
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

    def note_gap(self) -> None:
        """The word about some may have been missed."""
        self._has_gap = True
        self._is_any_due.set()

    @property
    def room(self) -> int:
        """How many more it takes: others are for other workers, or for later."""
        return max(timers.SCHEDULES_MAX - len(self._due), 0)

    async def once(self) -> None:
        """Start some of the due schedules, those that have waited longest first."""
        names = list(self._due)[:TOGETHER_MAX]
        offered = {name: self._due.pop(name) for name in names}  # what is due again meanwhile is looked at again
        if len(self._due) < timers.SCHEDULES_MAX // 2:
            self._on_room()
        await self._start(offered)

    async def run(self) -> None:
        while True:
            self._is_any_due.clear()
            if self._has_gap:
                await self._find_refused()
            parts = min(-(-len(self._due) // TOGETHER_MAX), PARTS_MAX)
            await asyncio.gather(*[self._start_all() for _ in range(parts)])
            await self._is_any_due.wait()

    async def _find_refused(self) -> None:
        """Look at those that other workers could not read."""
        [names] = await self._store.ask([schedules.list_quarantined(self._keys, timers.SCHEDULES_MAX)])
        self._has_gap = False
        for name in () if isinstance(names, DurasleepError) else names:  # without them it takes a minute longer
            self.note_refused(name)

    async def _start_all(self) -> None:
        while self._due:
            await self.once()

    async def _start(self, offered: dict[str, bool]) -> None:
        keys = self._keys
        kept = await self._store.ask([schedules.read_schedule(keys, name) for name in offered])
        items: list[BatchItem[Any]] = []
        readable: list[Schedule] = []
        for (name, is_offered), schedule in zip(offered.items(), kept, strict=True):
            if isinstance(schedule, DurasleepError):
                items.append(self._quarantine(name, None, schedule, is_offered=is_offered))
            elif schedule is None:
                items.append(schedules.remove_schedule(keys, name))
            else:
                readable.append(schedule)
        due: list[_Due] = []
        for schedule in await self._note_ended(readable):
            try:
                due.append(_Due(schedule, await self._step(schedule)))
            except UNREADABLE as error:
                is_offered = offered[schedule.name]
                items.append(self._quarantine(schedule.name, schedule.due_ms, error, is_offered=is_offered))
        await self._cancel([one for one in due if one.step.cancels is not None])
        due = await self._start_elsewhere(due)
        items += [schedules.advance_schedule(keys, one.schedule, one.step.change) for one in due]
        answers = await self._store.ask(items)
        begun: list[tuple[Schedule, Step]] = []
        for one, answer in zip(due, answers[len(items) - len(due) :], strict=True):
            if isinstance(answer, DurasleepError):
                self._log(one.schedule.name, answer)
            elif answer.word == "advanced":
                self._log_step(one)
                if one.schedule.is_exclusive and one.step.elsewhere:
                    after = due_schedules.after(one.schedule, one.step.change, answer.revision)
                    begun.append((after, one.step))
            elif answer.word == "stale" and one.schedule.is_newer:
                self.note_due([one.schedule.name])  # an execution that it waits for may have ended
        if begun:
            await self._begin_elsewhere(begun)

    async def _step(self, schedule: Schedule) -> Step:
        now_ms = self._clock.now_ms()
        if schedule.catch_up == schedules.ALL and schedule.due_ms < now_ms - due_schedules.LATE_MS:
            # A thousand times may have been missed.
            return await asyncio.to_thread(due_schedules.step, schedule, now_ms, self._is_here)
        return due_schedules.step(schedule, now_ms, self._is_here)

    def _is_here(self, id: PromiseId) -> bool:
        return self._store.keys(id) is self._keys

    async def _note_ended(self, found: list[Schedule]) -> list[Schedule]:
        """The same without executions that have ended: the word of that may have been lost."""
        running = {one.name: PromiseId(one.running) for one in found if one.running and not one.starting}
        if not running:
            return found
        reads = [journal.read_record(self._store.keys(id), id, outline=True) for id in running.values()]
        ended: set[str] = set()
        for name, record in zip(running, await self._store.ask(reads), strict=True):
            if record is None or (not isinstance(record, DurasleepError) and record.state is not State.PENDING):
                ended.add(name)
        return [replace(one, running="") if one.name in ended else one for one in found]

    async def _cancel(self, due: Sequence[_Due]) -> None:
        """Ask the executions that have to make room to end. It is done before the change is written: a worker that
        dies in between leaves both to another worker.
        """
        ids = [one.step.cancels for one in due if one.step.cancels is not None]
        calls = [promises.control(self._store.keys(id), "cancel", id) for id in ids]
        for one, answer in zip(due, await self._store.ask(calls), strict=True):
            if isinstance(answer, DurasleepError) and not isinstance(answer, NotFound | NotAllowed):
                self._log(one.schedule.name, answer)

    async def _start_elsewhere(self, due: list[_Due]) -> list[_Due]:
        """Start the executions that may overlap and belong to other partitions; returns all that may go on.

        It is done before the next due time is set: a worker that dies in between leaves both to another worker.
        """
        others = [(one, id) for one in due if not one.schedule.is_exclusive for id in one.step.elsewhere]
        if not others:
            return due
        starts = [schedules.start_scheduled(self._store.keys(id), one.schedule, id) for one, id in others]
        failed: set[str] = set()
        for (one, _), answer in zip(others, await self._store.ask(starts), strict=True):
            if isinstance(answer, DurasleepError) and not isinstance(answer, OtherFunction):  # then the id is in use
                self._log(one.schedule.name, answer)
                failed.add(one.schedule.name)
        return [one for one in due if one.schedule.name not in failed]

    async def _begin_elsewhere(self, begun: Sequence[tuple[Schedule, Step]]) -> None:
        """Start the executions that do not overlap and belong to other partitions, which their schedules name already.

        So an end that is told at once is understood. A worker that dies in between leaves this to another worker.
        """
        others = [(schedule, id) for schedule, step in begun for id in step.elsewhere]
        calls = [
            schedules.start_scheduled(
                self._store.keys(id), schedule, id, waiter=schedules.waiter_of(self._keys, schedule)
            )
            for schedule, id in others
        ]
        changes: dict[str, BatchItem[Advanced]] = {}
        for (schedule, _), answer in zip(others, await self._store.ask(calls), strict=True):
            if isinstance(answer, DurasleepError) and not isinstance(answer, OtherFunction):
                self._log(schedule.name, answer)
                continue
            is_pending = isinstance(answer, Created) and answer.state is State.PENDING
            change = due_schedules.confirmed(schedule, is_pending=is_pending)
            changes[schedule.name] = schedules.advance_schedule(self._keys, schedule, change)
        for name, answer in zip(changes, await self._store.ask([*changes.values()]), strict=True):
            if isinstance(answer, Advanced) and answer.word == "stale":
                self.note_due([name])

    def _quarantine(self, name: str, due_ms: int | None, error: Exception, *, is_offered: bool) -> BatchItem[str]:
        """It is quarantined by name, and offered again in a minute."""
        self._log(name, error)
        reason = " ".join((str(error) if isinstance(error, DurasleepError) else repr(error)).split())[:REASON_MAX]
        return schedules.quarantine_schedule(self._keys, name, due_ms, reason, is_offered=is_offered)

    def _log_step(self, one: _Due) -> None:
        name, due_ms = one.schedule.name, one.step.change.next_due_ms
        if one.step.begins and self._lines.allow("schedules started executions"):
            until = "never" if due_ms == NEVER else humanize.describe_until(due_ms, self._clock.now_ms())
            logger.info("schedule %s started %s, next %s", name, ", ".join(one.step.begins), until)
        for id in one.step.skipped:
            if self._lines.allow("times were skipped"):
                logger.info(
                    "schedule %s does not start %s: %s has not ended", name, id, one.schedule.running or "another"
                )

    def _log(self, name: str, error: Exception) -> None:
        """It stays due, and is offered again to this worker or another one; logged once a minute."""
        now = time.monotonic()
        if now - self._said_at.get(name, -SAID_S) < SAID_S:
            return
        self._said_at = {known: at for known, at in self._said_at.items() if now - at < SAID_S} | {name: now}
        reason = error if isinstance(error, DurasleepError) else repr(error)
        logger.error("schedule %s is due, but cannot be started here: %s; other schedules go on", name, reason)
