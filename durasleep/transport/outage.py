"""The log lines of a worker about a Redis that does not serve it."""

from __future__ import annotations

import logging
import time

from durasleep.transport.reply_errors import is_of_moving_slot

SAID_S = 60.0  # between two lines

logger = logging.getLogger("durasleep")


class Outage:
    """One line a minute for each kind of problem, whichever part of the worker notices it first, and one when it is
    over.

    Any thread may use it.
    """

    def __init__(self, who: str = "this worker") -> None:
        self._who = who
        self._began_s: float | None = None
        self._said_s: dict[type[Exception], float] = {}

    def report(self, problem: Exception) -> None:
        """Redis does not serve us. A slot that an operator moves is no outage."""
        if is_of_moving_slot(problem):
            return
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        if now_s - self._said_s.get(type(problem), -SAID_S) >= SAID_S:
            self._said_s[type(problem)] = now_s
            logger.error("%s: %s waits, nothing is lost", problem, self._who)

    def recovered(self) -> None:
        """Redis serves us again; logged if the outage was."""
        began_s, self._began_s = self._began_s, None
        if began_s is not None and max(self._said_s.values(), default=0.0) >= began_s:
            logger.warning("Redis serves %s again, after %.1f s", self._who, time.monotonic() - began_s)
