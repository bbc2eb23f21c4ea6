"""One timer for all the exchanges of a connection."""

from __future__ import annotations

import asyncio


class Deadline:
    """Ends with TimeoutError what takes too long, one wait after the other: ``begin``, and in any case ``end``.

    ``asyncio.timeout`` makes a timer for each wait and cancels it again: a fifth of what a short exchange costs. Nearly
    all waits are over in time, so here one timer stays, and looks again when it is due.
    """

    __slots__ = ("_at", "_cancels", "_is_over", "_task", "_timer")

    def __init__(self) -> None:
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancels = 0
        self._is_over = False

    def begin(self, timeout_s: float) -> None:
        """The current task is to be done with something within ``timeout_s``."""
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
        """It is done, or has failed."""
        self._at = self._task = None

    def is_over(self) -> bool:
        """Whether a CancelledError means that the time was over, and nobody else canceled the task meanwhile."""
        task = self._task
        return self._is_over and task is not None and task.uncancel() <= self._cancels

    def close(self) -> None:
        """There will be no more waits for now."""
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
