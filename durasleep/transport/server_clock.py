"""What a process knows of the server's clock, and when it does not accept it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

_DRIFT = 50e-6  # by which two good clocks drift apart: the bounds widen by it
_STEADY_US = 2_000_000  # a wall clock that moved by more, against our own, was changed
_COUNTS_SLEEP: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The bounds of the offset from our monotonic clock to the server's, and the state of our clocks at that time."""

    low_us: float
    high_us: float
    at_us: int
    """Our monotonic clock when the answer came."""
    slept_us: int
    """How long this machine had slept until then, since some instant long ago."""
    wall_us: int
    """The offset from our monotonic clock to our wall clock."""

    def drift_until(self, at_us: int) -> float:
        """How far two good clocks may have drifted apart since then."""
        return (at_us - self.at_us) * _DRIFT

    def narrowed_by(self, older: _Bounds) -> _Bounds:
        """What both allow. If they do not overlap, a clock was changed, and only the newer bounds count."""
        drift_us = older.drift_until(self.at_us)
        low_us, high_us = max(self.low_us, older.low_us - drift_us), min(self.high_us, older.high_us + drift_us)
        return replace(self, low_us=low_us, high_us=high_us) if low_us <= high_us else self


class Clock:
    """The server's clock, as its answers show it, continued by our monotonic clock.

    The idea: nobody sets the monotonic clock, so it is enough to know the offset from it to the server's clock. The
    server writes an answer after we send and before we receive. So each answer bounds the offset: it is at least the
    server's time minus the time of receiving, and at most the server's time minus the time of sending. The bounds of
    several answers together are narrower than any of them. The offset that is used lies in the middle.

    A clock that was set back is always accepted: we only wait longer. A clock that was set ahead is dangerous: a timer
    that is due in a month would fire now. So an answer that is ahead of our bounds by more than ``ahead_max_s`` is not
    accepted, unless there is an innocent reason:

    - This machine has slept, and its monotonic clock stood still meanwhile.
    - The server agrees with our wall clock, and nobody has changed that one: then the server's clock was corrected.
    """

    def __init__(self, ahead_max_s: float = math.inf) -> None:
        self._ahead_us_max = ahead_max_s * 1e6
        self._known: _Bounds | None = None
        """The accepted bounds; None before the first answer, or if the next answer is accepted without a check."""
        self._offset_ms = 0.0
        """The middle between the bounds, stored because it is read all the time."""
        self.ahead_s = 0.0
        """How far the last answer was ahead of the accepted bounds; 0.0 if it was accepted."""

    def observe(self, server_us: int, sent_us: int, received_us: int) -> None:
        """Take the time in an answer, received at monotonic ``received_us``, to a call that was sent at ``sent_us``."""
        wall_us = wall_us_now() - received_us
        bounds = _Bounds(server_us - received_us, server_us - sent_us, received_us, _slept_us(), wall_us)
        if (known := self._known) is not None:
            slept_us = bounds.slept_us - known.slept_us
            ahead_us = bounds.low_us - known.high_us - known.drift_until(received_us) - slept_us
            if ahead_us > self._ahead_us_max and not self._is_put_right(known, bounds):
                self.ahead_s = ahead_us / 1e6
                return
            bounds = bounds.narrowed_by(known)
        self._accept(bounds)
        self.ahead_s = 0.0

    def _is_put_right(self, known: _Bounds, bounds: _Bounds) -> bool:
        """Whether the server agrees with our wall clock, and nobody has changed that one."""
        slept_us = bounds.slept_us - known.slept_us
        is_steady = abs(bounds.wall_us - known.wall_us - slept_us) <= _STEADY_US
        return is_steady and abs(bounds.low_us - bounds.wall_us) <= self._ahead_us_max

    def _accept(self, bounds: _Bounds) -> None:
        self._known = bounds
        self._offset_ms = (bounds.low_us + bounds.high_us) / 2000

    def accept_next(self) -> None:
        """Accept the next answer without a check."""
        self._known = None
        self.ahead_s = 0.0

    def seed(self, server_ms: int) -> None:
        """Accept the time that others accept, before the first answer of the server."""
        at_us = monotonic_us()
        offset_us = server_ms * 1000 - at_us
        self._accept(_Bounds(offset_us, offset_us, at_us, _slept_us(), wall_us_now() - at_us))

    @property
    def latest_ms(self) -> int | None:
        """The latest time that the server's clock can show, as far as we accept it; None if there is no limit."""
        known = self._known
        if known is None or self._ahead_us_max == math.inf:
            return None
        slept_us = _slept_us() - known.slept_us
        return int(known.high_us + monotonic_us() + slept_us + self._ahead_us_max) // 1000

    def seconds_until(self, instant_ms: int) -> float:
        """How long until the server's clock shows ``instant_ms``; 0 before the first answer."""
        if self._known is None:
            return 0.0
        return (instant_ms - self._offset_ms) / 1000 - monotonic_us() / 1e6

    def now_ms(self) -> int:
        """The server's now; the local clock before the first answer."""
        return int(self._offset_ms + monotonic_us() / 1000) if self._known is not None else wall_us_now() // 1000


def monotonic_us() -> int:
    """The process's own clock in microseconds, which nobody changes. It stands still while the machine sleeps."""
    return time.monotonic_ns() // 1000


def wall_us_now() -> int:
    """The time of day of this machine, in microseconds since 1970."""
    return time.time_ns() // 1000


def _slept_us() -> int:
    """How long this machine has slept since some instant long ago."""
    return 0 if _COUNTS_SLEEP is None else time.clock_gettime_ns(_COUNTS_SLEEP) // 1000 - monotonic_us()
