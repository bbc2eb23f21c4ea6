"""What a process believes of the server's clock, and when it does not believe it."""

from __future__ import annotations

import math
import time

_DRIFT = 50e-6  # by which two good clocks part: what is known widens by it
_STEADY_US = 2_000_000  # a wall clock that moved by more, against our own, was set
_COUNTS_SLEEP: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class Clock:
    """The server's clock, as its answers tell it, carried on by our monotonic clock.

    An answer was written between our sending and our receiving, which bounds the offset between the clocks from
    both sides; the bounds of several answers together are narrower than any of them.

    A clock that has run ahead of ours by more than ``ahead_max_s`` is not believed: what was to happen in a month
    would happen now. It is, if this machine has slept meanwhile, or if the server agrees with our wall clock and
    nobody has set that one: then it is the one that was put right. A clock set back is always believed: it only waits.
    """

    def __init__(self, ahead_max_s: float = math.inf) -> None:
        self._ahead_us_max = ahead_max_s * 1e6
        self._low_us: float = 0.0
        self._high_us: float = 0.0
        self._offset_ms = 0.0
        """From our monotonic clock to what is believed of the server's, in the middle between the bounds."""
        self._heard_us = 0
        self._slept_us = 0
        self._wall_us = 0
        self.ahead_s = 0.0
        """How far the last answer was ahead of what is believed; 0.0 as long as it was believed."""

    def observe(self, server_us: int, sent_us: int, received_us: int) -> None:
        """Take note of the time in an answer, received at monotonic ``received_us`` to what was sent at ``sent_us``."""
        low: float = server_us - received_us
        high: float = server_us - sent_us
        slept_us, wall_us = _slept_us(), wall_us_now() - received_us
        if self._heard_us:
            widened = (received_us - self._heard_us) * _DRIFT
            slept_since = slept_us - self._slept_us
            ahead_us = low - self._high_us - widened - slept_since
            if ahead_us > self._ahead_us_max:
                was_set = abs(wall_us - self._wall_us - slept_since) > _STEADY_US
                if was_set or abs(low - wall_us) > self._ahead_us_max:
                    self.ahead_s = ahead_us / 1e6
                    return
            both_low, both_high = max(low, self._low_us - widened), min(high, self._high_us + widened)
            if both_low <= both_high:  # else a clock was set: only the newest answer counts
                low, high = both_low, both_high
        self._low_us, self._high_us, self._heard_us = low, high, received_us
        self._offset_ms = (low + high) / 2000
        self._slept_us, self._wall_us = slept_us, wall_us
        self.ahead_s = 0.0

    def accept_next(self) -> None:
        """Take the next answer as it comes."""
        self._heard_us = 0
        self.ahead_s = 0.0

    def seed(self, server_ms: int) -> None:
        """Believe what others believe, before the server was ever heard."""
        self._low_us = self._high_us = server_ms * 1000 - monotonic_us()
        self._offset_ms = self._low_us / 1000
        self._heard_us, self._slept_us = monotonic_us(), _slept_us()
        self._wall_us = wall_us_now() - self._heard_us

    @property
    def latest_ms(self) -> int | None:
        """The latest the server's clock can show, as far as we believe it; None if anything goes."""
        if not self._heard_us or self._ahead_us_max == math.inf:
            return None
        slept_since = _slept_us() - self._slept_us
        return int(self._high_us + monotonic_us() + slept_since + self._ahead_us_max) // 1000

    def seconds_until(self, instant_ms: int) -> float:
        """How long until the server's clock shows ``instant_ms``; 0 before it was ever heard."""
        if not self._heard_us:
            return 0.0
        return (instant_ms - self._offset_ms) / 1000 - monotonic_us() / 1e6

    def now_ms(self) -> int:
        """The server's now; the local clock before it was ever heard."""
        return int(self._offset_ms + monotonic_us() / 1000) if self._heard_us else wall_us_now() // 1000


def monotonic_us() -> int:
    """The process's own clock, which nobody sets, in microseconds. It stands while the machine sleeps."""
    return time.monotonic_ns() // 1000


def wall_us_now() -> int:
    """What this machine takes for the time of day, in microseconds since 1970."""
    return time.time_ns() // 1000


def _slept_us() -> int:
    """How long this machine has slept since some instant long ago."""
    return 0 if _COUNTS_SLEEP is None else time.clock_gettime_ns(_COUNTS_SLEEP) // 1000 - monotonic_us()
