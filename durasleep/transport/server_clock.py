"""What a process believes of the server's clock, and when it does not believe it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

_DRIFT = 50e-6  # by which two good clocks part: what is known widens by it
_STEADY_US = 2_000_000  # a wall clock that moved by more, against our own, was set
_COUNTS_SLEEP: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The bounds of the offset from our monotonic clock to the server's, and what our clocks showed meanwhile."""

    low_us: float
    high_us: float
    at_us: int
    """The monotonic clock as the answer came."""
    slept_us: int
    """How long this machine had slept by then, since some instant long ago."""
    wall_us: int
    """The offset from our monotonic clock to our wall clock."""

    def drift_until(self, at_us: int) -> float:
        """How far two good clocks may have parted since."""
        return (at_us - self.at_us) * _DRIFT

    def narrowed_by(self, older: _Bounds) -> _Bounds:
        """What both allow. If they have nothing in common a clock was set, and only the newer one counts."""
        drift_us = older.drift_until(self.at_us)
        low_us, high_us = max(self.low_us, older.low_us - drift_us), min(self.high_us, older.high_us + drift_us)
        return replace(self, low_us=low_us, high_us=high_us) if low_us <= high_us else self


class Clock:
    """The server's clock, as its answers tell it, carried on by our monotonic clock.

    The idea: nobody sets the monotonic clock, so it is enough to know the offset from it to the server's clock. The
    server writes an answer after we send and before we receive. So each answer bounds the offset: it is at least the
    server's time minus the time of receiving, and at most the server's time minus the time of sending. The bounds of
    several answers together are narrower than any of them. The offset that is used lies in the middle.

    A clock set back is always believed: it only makes us wait. A clock set ahead is dangerous: what was to happen in a
    month would happen now. So an answer that is ahead of what is known by more than ``ahead_max_s`` is not believed,
    unless there is an innocent reason:

    - This machine has slept, and its monotonic clock stood still meanwhile.
    - The server agrees with our wall clock, and nobody has set that one: then the server's clock was put right.
    """

    def __init__(self, ahead_max_s: float = math.inf) -> None:
        self._ahead_us_max = ahead_max_s * 1e6
        self._known: _Bounds | None = None
        """What is believed; None before the server was ever heard, or if the next answer is taken as it comes."""
        self._offset_ms = 0.0
        """The middle between the bounds, kept apart because it is asked for all the time."""
        self.ahead_s = 0.0
        """How far the last answer was ahead of what is believed; 0.0 as long as it was believed."""

    def observe(self, server_us: int, sent_us: int, received_us: int) -> None:
        """Take note of the time in an answer, received at monotonic ``received_us`` to what was sent at ``sent_us``."""
        wall_us = wall_us_now() - received_us
        told = _Bounds(server_us - received_us, server_us - sent_us, received_us, _slept_us(), wall_us)
        if (known := self._known) is not None:
            slept_us = told.slept_us - known.slept_us
            ahead_us = told.low_us - known.high_us - known.drift_until(received_us) - slept_us
            if ahead_us > self._ahead_us_max and not self._is_put_right(known, told):
                self.ahead_s = ahead_us / 1e6
                return
            told = told.narrowed_by(known)
        self._believe(told)
        self.ahead_s = 0.0

    def _is_put_right(self, known: _Bounds, told: _Bounds) -> bool:
        """Whether the server shows what our wall clock shows, and that one has only gone on since."""
        slept_us = told.slept_us - known.slept_us
        is_steady = abs(told.wall_us - known.wall_us - slept_us) <= _STEADY_US
        return is_steady and abs(told.low_us - told.wall_us) <= self._ahead_us_max

    def _believe(self, bounds: _Bounds) -> None:
        self._known = bounds
        self._offset_ms = (bounds.low_us + bounds.high_us) / 2000

    def accept_next(self) -> None:
        """Take the next answer as it comes."""
        self._known = None
        self.ahead_s = 0.0

    def seed(self, server_ms: int) -> None:
        """Believe what others believe, before the server was ever heard."""
        at_us = monotonic_us()
        offset_us = server_ms * 1000 - at_us
        self._believe(_Bounds(offset_us, offset_us, at_us, _slept_us(), wall_us_now() - at_us))

    @property
    def latest_ms(self) -> int | None:
        """The latest the server's clock can show, as far as we believe it; None if anything goes."""
        known = self._known
        if known is None or self._ahead_us_max == math.inf:
            return None
        slept_us = _slept_us() - known.slept_us
        return int(known.high_us + monotonic_us() + slept_us + self._ahead_us_max) // 1000

    def seconds_until(self, instant_ms: int) -> float:
        """How long until the server's clock shows ``instant_ms``; 0 before it was ever heard."""
        if self._known is None:
            return 0.0
        return (instant_ms - self._offset_ms) / 1000 - monotonic_us() / 1e6

    def now_ms(self) -> int:
        """The server's now; the local clock before it was ever heard."""
        return int(self._offset_ms + monotonic_us() / 1000) if self._known is not None else wall_us_now() // 1000


def monotonic_us() -> int:
    """The process's own clock, which nobody sets, in microseconds. It stands while the machine sleeps."""
    return time.monotonic_ns() // 1000


def wall_us_now() -> int:
    """What this machine takes for the time of day, in microseconds since 1970."""
    return time.time_ns() // 1000


def _slept_us() -> int:
    """How long this machine has slept since some instant long ago."""
    return 0 if _COUNTS_SLEEP is None else time.clock_gettime_ns(_COUNTS_SLEEP) // 1000 - monotonic_us()
