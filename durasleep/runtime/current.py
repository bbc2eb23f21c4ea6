"""What a task or step may ask of the call it is in: which one it is, which attempt, and until when it has time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from durasleep.errors import UsageError
from durasleep.runtime.waits import inside


@dataclass(frozen=True, slots=True)
class Current:
    """The call of a task or step that is under way."""

    id: str
    """Of the execution: of the task, or of the workflow whose step it is."""
    step: str | None
    """The number of the step in its workflow, the same for all its attempts; None for a task."""
    function: str
    """The name of the task, or of the step."""
    group: str
    """The group its worker serves."""
    attempt: int
    """From 1 on: one more than the attempts that have failed. One that a dead worker cut short is not counted."""
    deadline: datetime | None
    """When its time is over, in UTC: that of this attempt or that of the whole execution, whichever is sooner; None if
    neither has a limit."""
    idempotency_key: str
    """The same in every attempt of this task or step, whichever worker makes it, and in no other: not in another life
    of the id either. For services that take such a key, so that what is tried again is done once."""


class Source(Protocol):
    """Makes the description of a call, once it is asked for; ``ends_at`` is the end of its time, in s since 1970."""

    def __call__(self, *, ends_at: float | None = None) -> Current: ...


def current() -> Current:
    """Which task or step this is, and which attempt of it; UsageError anywhere else.

    Threads that are given a copy of the context know it, too: those of sync tasks and steps and of
    ``asyncio.to_thread``, but not those of ``threading.Thread``.
    """
    call = inside()
    if call is None:
        raise UsageError(
            "durasleep.current() belongs to tasks and steps: a workflow has ctx.info, and a thread that user code has "
            "begun itself knows it only in a copy of the context, `contextvars.copy_context().run(...)`"
        )
    source: Source = call[2]
    return source()


def describe(
    id: str,
    step: str | None,
    *,
    function: str,
    queue: str,
    incarnation: int,
    attempt: int,
    deadline_ms: int,
    ends_at: float | None,
) -> Current:
    """The description of a call; ``deadline_ms`` is that of its execution, 0 for none."""
    ends = [] if ends_at is None else [ends_at]
    if deadline_ms:
        ends.append(deadline_ms / 1000)
    return Current(
        id=id,
        step=step,
        function=function,
        group=queue.partition("/")[0],
        attempt=attempt,
        deadline=datetime.fromtimestamp(min(ends), UTC) if ends else None,
        idempotency_key=f"{id}:{incarnation}" if step is None else f"{id}:{incarnation}:{step}",
    )
