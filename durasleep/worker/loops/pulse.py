"""The pulse: shows twice a second that the event loop runs, from the start of a worker to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from durasleep.observe.meter import Meter

PULSE_S = 0.5  # how often the event loop shows that it is not blocked


class Pulse:
    """Shows it to everybody who wants to know, and measures how late the event loop is."""

    def __init__(self, meter: Meter | None = None) -> None:
        self.shown_to: list[Callable[[], None]] = []
        self._meter = meter

    async def run(self) -> None:
        while True:
            for show in self.shown_to:
                show()
            began = time.monotonic()
            await asyncio.sleep(PULSE_S)
            if self._meter is not None:
                self._meter.loop_lag.observe(max(0.0, time.monotonic() - began - PULSE_S))
