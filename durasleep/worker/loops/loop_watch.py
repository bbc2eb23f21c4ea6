"""Watches whether the event loop of a worker is blocked. While it is, the worker must not count as alive for long."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

from durasleep.settings import Settings

logger = logging.getLogger("durasleep")

AGAIN_S = 60.0
"""How often a loop that stays blocked is reported."""
BLOCKED_MS = 2_000  # it shows itself twice a second, and a busy machine makes it late


class LoopWatch:
    """The heartbeats to all nodes ask it, each in its own thread."""

    def __init__(self, settings: Settings, loop_thread: int) -> None:
        """``loop_thread`` is the thread of the event loop."""
        self._settings = settings
        self._loop_thread = loop_thread
        self._pulse = time.monotonic()
        self._warned_of, self._warned_at = 0.0, 0.0  # the last pulse before a report, and when that was
        self._lock = threading.Lock()

    def pulse(self) -> None:
        """The event loop calls this to show that it is not blocked."""
        self._pulse = time.monotonic()

    def blocked_ms(self) -> int:
        """For how many ms it has been blocked; 0 if it is only late."""
        silent_ms = int((time.monotonic() - self._pulse) * 1000)
        return silent_ms if silent_ms > BLOCKED_MS else 0

    def is_stalled(self) -> bool:
        """Whether it has been blocked so long that the worker must not count as alive. Warns before that, with the
        stack.
        """
        with self._lock:
            now = time.monotonic()
            pulse = self._pulse
            stalled_s = now - pulse
            is_new = pulse != self._warned_of or now - self._warned_at > AGAIN_S
            if stalled_s > self._settings.stall_warn_s and is_new:
                self._warned_of, self._warned_at = pulse, now
                frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage] - no other way
                stack = "".join(traceback.format_stack(frame)) if frame else ""
                logger.warning("the event loop has been blocked for %.0f s, here:\n%s", stalled_s, stack)
            return stalled_s > self._settings.stall_max_s
