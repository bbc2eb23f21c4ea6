"""A clock that stands still until a test moves it."""

from __future__ import annotations


class HeldClock:
    """What a module of ours uses of ``time``."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.tick_s = 0.0
        """What each look at it takes."""

    def monotonic(self) -> float:
        seen_s = self.now_s
        self.now_s += self.tick_s
        return seen_s

    def monotonic_us(self) -> int:
        return round(self.now_s * 1e6)

    def move(self, by_s: float) -> None:
        self.now_s += by_s
