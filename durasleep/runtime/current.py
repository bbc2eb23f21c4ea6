"""The facts that a task or step can ask for: its id, its attempt, and its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from durasleep.codec.published import progress_of
from durasleep.errors import UsageError
from durasleep.model import group_of, scheduled_at
from durasleep.runtime.waits import Attempt, inside


@dataclass(frozen=True, slots=True)
class Current:
    """The running call of a task or step."""

    id: str
    """The id of the task, or of the workflow that the step belongs to."""
    step: str | None
    """The number of the step in its workflow, the same for all its attempts; None for a task."""
    function: str
    """The name of the task, or of the step."""
    group: str
    """The group that its worker serves."""
    attempt: int
    """From 1: the number of failed attempts, plus one. An attempt that was cut short by a dead worker does not
    count."""
    deadline: datetime | None
    """When its time ends, in UTC: that of this attempt or of the whole execution, whichever comes first; None if
    neither has a limit."""
    idempotency_key: str
    """The same in every attempt of this task or step, on every worker. It differs for all other calls, and for another
    incarnation of the id. Pass it to services that accept such a key, so that a repeated attempt has its effect
    once."""
    checkpoint: Any = None
    """What this task or step has kept last by ``durasleep.checkpoint``, in this attempt or in an earlier one, as plain
    data; None if there is nothing."""

    @property
    def scheduled_at(self) -> datetime | None:
        """For which time a schedule has started this task, or the workflow of this step; None if its id is not that of
        a schedule, ``<name>@<time>``.
        """
        return scheduled_at(self.id)


class Source(Protocol):
    """Makes the description of a call when it is asked for; ``ends_at`` is the end of its time, in s since 1970."""

    def __call__(self, *, ends_at: float | None = None) -> Current: ...


def current() -> Current:
    """The running task or step, and its attempt; UsageError anywhere else.

    Threads with a copy of the context know it, too: those of sync tasks and steps and of ``asyncio.to_thread``, but not
    those of ``threading.Thread``.
    """
    call = inside()
    if call is None:
        raise UsageError(
            "durasleep.current() works only in tasks and steps: a workflow has ctx.info; a thread that your code has "
            "started must run in a copy of the context, `contextvars.copy_context().run(...)`"
        )
    source: Source = call[2]
    return source()


def checkpoint(data: object) -> None:
    """Keep ``data`` for the next attempt of the running task or step, which finds it in ``current().checkpoint``::

        start = durasleep.current().checkpoint or 0
        for number in range(start, len(files)):
            upload(files[number])
            durasleep.checkpoint(number + 1)

    It returns at once. The worker sends the data within a second, and before the attempt ends; later data replaces it.
    So after a kill of the worker the last second may be missing. When the step has ended, the data is removed.

    Raises UsageError anywhere else than in a task or step, and for data that cannot be kept: what is no result of a
    step, either, and more than 32 KiB (PayloadTooLarge).
    """
    call = inside()
    if call is None or call[3] is None:
        raise UsageError(
            "durasleep.checkpoint() works only in tasks and steps: the journal of a workflow keeps what it has done"
        )
    call[3].keep(data)


def publish(**values: Any) -> None:
    """Let others see these values of the running task or step: in ``app.view(id)`` and ``app.watch(id)``::

        durasleep.publish(file=name, rows=1_000)

    It returns at once. The worker sends what was published last, at most once a second for each execution, and in any
    case when the attempt ends. Values of other names stay as they are. Each attempt begins with nothing, and the values
    of the last one are kept as long as the execution; of a workflow those of the 64 steps that spoke last.

    Raises UsageError anywhere else than in a task or step (a workflow has ``ctx.publish``), for a name that is no
    label, and for a value that cannot be sent: what is no result of a step, either, and more than 4 KiB in all
    (PayloadTooLarge).
    """
    _attempt("publish").publish(values, None)


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Let others see how far the running task or step has come::

        for number, file in enumerate(files):
            durasleep.progress(number, len(files), file.name)
            upload(file)

    Without a ``total`` only the number is shown. It is sent as ``publish`` sends values, and ``durasleep rpc`` shows it
    as a bar. ``text`` is cut to 255 characters. Raises UsageError anywhere else than in a task or step, and for what is
    no number or no text.
    """
    _attempt("progress").publish({}, progress_of(done, total, text))


def _attempt(verb: str) -> Attempt:
    call = inside()
    if call is None or call[3] is None:
        raise UsageError(
            f"durasleep.{verb}() works only in tasks and steps: in a workflow, use ctx.publish(...); a thread that "
            "your code has started must run in a copy of the context, `contextvars.copy_context().run(...)`"
        )
    return call[3]


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
    checkpoint: Any = None,
) -> Current:
    """The description of a call; ``deadline_ms`` is that of its execution, 0 for none."""
    ends = [] if ends_at is None else [ends_at]
    if deadline_ms:
        ends.append(deadline_ms / 1000)
    return Current(
        id=id,
        step=step,
        function=function,
        group=group_of(queue),
        attempt=attempt,
        deadline=datetime.fromtimestamp(min(ends), UTC) if ends else None,
        idempotency_key=f"{id}:{incarnation}" if step is None else f"{id}:{incarnation}:{step}",
        checkpoint=checkpoint,
    )
