"""Watches whether the event loop of a worker is blocked. While it is, the worker must not count as alive for long."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

from durasleep.settings import Settings

logger = logging.getLogger("durasleep")


class LoopWatch:
    """The heartbeats to all nodes ask it, each in its own thread."""

    def __init__(self, settings: Settings, loop_thread: int) -> None:
        """``loop_thread`` is the thread of the event loop."""
        self._settings = settings
        self._loop_thread = loop_thread
        self._pulse = time.monotonic()
        self._warned_at = 0.0
        self._lock = threading.Lock()

    def pulse(self) -> None:
        """The event loop calls this to show that it is not blocked."""
        self._pulse = time.monotonic()

    def is_stalled(self) -> bool:
        """Whether it has been blocked so long that the worker must not count as alive. Warns before that, with the
        stack.
        """
        with self._lock:
            now = time.monotonic()
            stalled_s, warn_s = now - self._pulse, self._settings.stall_warn_s
            if stalled_s > warn_s and now - self._warned_at > warn_s:
                self._warned_at = now
                frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage] - no other way
                stack = "".join(traceback.format_stack(frame)) if frame else ""
                logger.warning("the event loop has been blocked for %.0f s, here:\n%s", stalled_s, stack)
            return stalled_s > self._settings.stall_max_s
