"""What becomes of a schedule, as functions of what is stored: what is started, what waits, and when it is due next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from durasleep.cron import NEVER
from durasleep.errors import UsageError
from durasleep.model import PromiseId
from durasleep.protocol.schedules import (
    ALL,
    ALLOW,
    CANCEL,
    FIRST,
    NONE,
    QUEUE,
    QUEUE_ALL,
    Change,
    Schedule,
    ids_text,
    ticks_text,
)

CATCH_UP_MAX = 1_000  # missed times that are made up for, and times of one backfill
QUEUED_MAX = 100  # times that wait for the end of an execution
LATE_MS = 60_000  # with the policy "none", a time has been missed after this: a worker that starts again takes as long
_AGAIN = "+0"
_ROOM = {QUEUE: 1, QUEUE_ALL: QUEUED_MAX}


@dataclass(frozen=True, slots=True)
class Step:
    """The next change of a schedule that may be due."""

    change: Change
    begins: Sequence[PromiseId] = ()
    """All executions that it starts."""
    elsewhere: Sequence[PromiseId] = ()
    """Those of them that belong to other partitions."""
    cancels: PromiseId | None = None
    """The execution that has to make room for another one."""
    skipped: Sequence[PromiseId] = ()
    """Those that are not started, because another one runs."""


@dataclass(slots=True)
class _Queue:
    """The times that wait, and what becomes of them and of those that are due now."""

    waiting: list[int]
    starts: list[int] = field(default_factory=list[int])
    skipped: list[int] = field(default_factory=list[int])


def step(schedule: Schedule, now_ms: int, is_here: Callable[[PromiseId], bool]) -> Step:
    """What to do now; ``is_here`` says whether an execution belongs to the partition of the schedule.

    ``schedule.running`` is empty if that execution has ended. Nothing is due while it is paused, and while what it has
    begun to start in another partition is not known to be there.
    """
    if schedule.paused_ms is not None:
        return Step(Change(schedule.due_ms, ""))
    if schedule.starting:
        ids = [PromiseId(id) for id in schedule.starting]
        return Step(Change(schedule.due_ms, "+1000"), elsewhere=ids)
    ticks, next_due_ms = due_ticks(schedule, now_ms)
    queue = _Queue(list(schedule.waiting))
    _queue_up(schedule, ticks, queue)
    fields: dict[str, str] = {}
    if schedule.remaining is not None:
        del queue.starts[schedule.remaining :]
        remaining = schedule.remaining - len(queue.starts)
        fields["remaining"] = str(remaining)
        if remaining == 0:
            next_due_ms, queue.waiting = NEVER, []
    if queue.waiting != list(schedule.waiting):
        fields["waiting"] = ticks_text(queue.waiting)
    begins = [schedule.id_of(tick) for tick in queue.starts]
    elsewhere = [id for id in begins if not is_here(id)]
    timer = _AGAIN if queue.waiting and schedule.overlap == ALLOW else timer_of(schedule, next_due_ms)
    if elsewhere and schedule.is_exclusive:
        fields["running"], fields["starting"], timer = elsewhere[-1], ids_text(elsewhere), "+1000"
    starts = [id for id in begins if is_here(id)]
    cancels = PromiseId(schedule.running) if schedule.overlap == CANCEL and schedule.running and ticks else None
    return Step(
        Change(next_due_ms, timer, starts, fields),
        begins,
        elsewhere,
        cancels,
        [schedule.id_of(tick) for tick in queue.skipped],
    )


def timer_of(schedule: Schedule, due_ms: int) -> str:
    """The timer for its next time, if it has one."""
    return "" if due_ms == NEVER else f"={schedule.spec.due_of(schedule.name, due_ms)}"


def due_ticks(schedule: Schedule, now_ms: int) -> tuple[list[int], int]:
    """The times that are due and are not missed for good, and the next time."""
    spec, due_ms = schedule.spec, schedule.due_ms
    if spec.due_of(schedule.name, due_ms) > now_ms or due_ms == NEVER:
        return [], due_ms
    windows = [one for one in (schedule.window_ms, LATE_MS if schedule.catch_up == NONE else None) if one is not None]
    first_ms = max(due_ms, now_ms - min(windows) - spec.jitter_ms) if windows else due_ms
    next_ms = spec.next_after(due_ms)
    if next_ms > now_ms:  # nearly always
        return ([due_ms] if due_ms >= first_ms else []), next_ms
    next_ms = _first_to_come(schedule, max(due_ms, now_ms - spec.jitter_ms), now_ms)
    if schedule.catch_up == FIRST:
        first = spec.next_after(first_ms - 1) if first_ms > due_ms else due_ms
        return ([first] if first < next_ms else []), next_ms
    return spec.last_ticks(first_ms, next_ms - 1, CATCH_UP_MAX if schedule.catch_up == ALL else 1), next_ms


def _first_to_come(schedule: Schedule, from_ms: int, now_ms: int) -> int:
    """The first time from an instant on that is not due yet, with its jitter."""
    spec = schedule.spec
    for tick_ms in spec.ticks(from_ms, now_ms):
        if spec.due_of(schedule.name, tick_ms) > now_ms:
            return tick_ms
    return spec.next_after(now_ms)


def _queue_up(schedule: Schedule, ticks: list[int], queue: _Queue) -> None:
    """Which of the times that wait or are due now are started, by the policy for executions that would overlap."""
    if schedule.overlap == ALLOW:
        queue.waiting += ticks
        queue.starts = queue.waiting[: schedule.starts_max]
        del queue.waiting[: schedule.starts_max]
        return
    if schedule.overlap == CANCEL and ticks:
        queue.skipped, queue.waiting = queue.waiting + ticks[:-1], ticks[-1:]
        ticks = []
    if queue.waiting and not schedule.running:
        queue.starts = [queue.waiting.pop(0)]
    for tick in ticks:
        if not schedule.running and not queue.starts:
            queue.starts = [tick]
        elif len(queue.waiting) < _ROOM.get(schedule.overlap, 0):
            queue.waiting.append(tick)
        else:
            queue.skipped.append(tick)


def confirmed(schedule: Schedule, *, is_pending: bool) -> Change:
    """The change after all that it was ``starting`` elsewhere is there. ``is_pending`` if the last has not ended."""
    fields = {"starting": ""} | ({} if is_pending else {"running": ""})
    timer = _AGAIN if schedule.waiting and not is_pending else timer_of(schedule, schedule.due_ms)
    return Change(schedule.due_ms, timer, fields=fields)


# -- what people do


def pause(schedule: Schedule, now_ms: int, note: str | None) -> Change:
    """It starts nothing until it is resumed."""
    return Change(schedule.due_ms, "", fields={"paused": str(now_ms)} | _noted(note))


def resume(schedule: Schedule, now_ms: int, note: str | None) -> Change:
    """It goes on with its next time. What has come while it was paused is not made up for; what waited goes on."""
    has_ended = schedule.due_ms == NEVER
    due_ms = NEVER if has_ended else max(schedule.due_ms, schedule.spec.next_after(now_ms))
    is_busy = schedule.waiting or schedule.starting
    return Change(due_ms, _AGAIN if is_busy else timer_of(schedule, due_ms), fields={"paused": ""} | _noted(note))


def _noted(note: str | None) -> dict[str, str]:
    return {} if note is None else {"note": note}


def backfill(schedule: Schedule, first_ms: int, until_ms: int, now_ms: int) -> tuple[Change, list[PromiseId]]:
    """Start the executions of all times from one instant until another; UsageError if there are too many, or if they
    have not all passed.

    If its executions do not overlap, they wait for one another.
    """
    spec, most = schedule.spec, QUEUED_MAX if schedule.is_exclusive else CATCH_UP_MAX
    ticks: list[int] = []
    for tick in spec.ticks(first_ms, until_ms):
        if tick > now_ms:
            raise UsageError(f"schedule {schedule.name}: a backfill is for times that have passed: end it before now")
        if len(ticks) == most:
            raise UsageError(f"schedule {schedule.name} has more than {most} times in there: backfill a shorter time")
        ticks.append(tick)
    waiting = sorted({*schedule.waiting, *ticks})
    if len(waiting) > most:
        raise UsageError(f"schedule {schedule.name}: {len(schedule.waiting)} times wait already, and {most} may wait")
    timer = "" if schedule.paused_ms is not None else _AGAIN
    ids = [schedule.id_of(tick) for tick in ticks]
    return Change(schedule.due_ms, timer, fields={"waiting": ticks_text(waiting)}), ids


def after(schedule: Schedule, change: Change, revision: str) -> Schedule:
    """The schedule after a step that has started executions elsewhere."""
    fields = change.fields
    waiting = fields.get("waiting")
    return replace(
        schedule,
        due_ms=change.next_due_ms,
        waiting=schedule.waiting if waiting is None else tuple(map(int, waiting.split())),
        running=fields.get("running", schedule.running),
        starting=tuple(fields.get("starting", "").split()),
        revision=revision,
        is_newer=True,
    )
