"""Log lines about executions that go well: a limited number a second; the others are only counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

logger = logging.getLogger("durasleep")


class LogSampler:
    """At most ``each_second`` lines; the others are summed up in one line when the second is over."""

    _left: int
    """Lines of this second that may still be written."""

    def __init__(self, each_second: int) -> None:
        self._each_second = each_second
        self._until = 0.0
        self._more: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def allow(self, word: str) -> bool:
        """Whether to write a line now; otherwise it is counted under ``word``."""
        if not logger.isEnabledFor(logging.INFO):
            return False
        now = time.monotonic()
        if now >= self._until:
            self._left, self._until = self._each_second, now + 1.0
        if self._left:
            self._left -= 1
            return True
        if not self._more:
            self._timer = asyncio.get_running_loop().call_later(self._until - now, self._log_more)
        self._more[word] += 1
        return False

    def end(self) -> None:
        """Nothing more comes: what was only counted is summed up now."""
        if self._timer is not None:
            self._timer.cancel()
            self._log_more()

    def _log_more(self) -> None:
        self._timer = None
        words = ", ".join(f"{count:,} {word}" for word, count in sorted(self._more.items()))
        self._more.clear()
        logger.info("and in the same second: %s", words)
