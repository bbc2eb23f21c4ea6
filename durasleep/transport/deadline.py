"""One timer for all the exchanges of a connection."""

from __future__ import annotations

import asyncio


class Deadline:
    """Raises TimeoutError in a wait that takes too long, one wait after the other: call ``begin``, and always ``end``.

    ``asyncio.timeout`` makes a timer for each wait and cancels it again: a fifth of the cost of a short exchange.
    Nearly all waits end in time, so here one timer stays, and looks again when it is due.
    """

    __slots__ = ("_at", "_cancels", "_is_over", "_task", "_timer")

    def __init__(self) -> None:
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancels = 0
        self._is_over = False

    def begin(self, timeout_s: float) -> None:
        """The current task must finish its wait within ``timeout_s``."""
        task = asyncio.current_task()
        assert task is not None, "an exchange outside a task"
        loop = task.get_loop()
        self._task, self._cancels, self._is_over = task, task.cancelling(), False
        self._at = loop.time() + timeout_s
        if self._timer is not None and self._timer.when() > self._at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(self._at, self._check)

    def end(self) -> None:
        """The wait is over, or has failed."""
        self._at = self._task = None

    def is_over(self) -> bool:
        """Whether a CancelledError means that the time has passed, and nobody else canceled the task."""
        task = self._task
        return self._is_over and task is not None and task.uncancel() <= self._cancels

    def close(self) -> None:
        """There are no more waits for now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        task = self._task
        if task is None or self._at is None:
            return
        loop = task.get_loop()
        if loop.time() < self._at:
            self._timer = loop.call_at(self._at, self._check)
            return
        self._is_over = True
        task.cancel()
