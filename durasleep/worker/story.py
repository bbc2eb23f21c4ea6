"""What the log says of one activation: how it ended, or until when it is suspended."""

from __future__ import annotations

import time
from collections.abc import Iterable

from durasleep import telemetry
from durasleep.model import DUE_MS_MAX, Entry, Number, Op, StartTimer, State
from durasleep.runtime.replay import CanceledOutcome, Continued, Halted, Progress, Rejected


class Story:
    """Keeps the dues of what an execution waits for, for people only: Redis computes the real ones."""

    def __init__(self, id: str, entries: Iterable[Entry]) -> None:
        self._id = id
        self._began = time.monotonic()
        self._dues = {entry.number: entry.due_ms for entry in entries if entry.state is State.PENDING}

    def wake(self, numbers: Iterable[Number]) -> None:
        """It goes on, for these have settled."""
        self._began = time.monotonic()
        self.settle(numbers)

    def ask(self, ops: Iterable[Op], now_ms: int) -> None:
        """Timers were just asked for."""
        for op in ops:
            if isinstance(op, StartTimer):
                instant = int(op.due[1:]) + (now_ms if op.due[0] == "+" else 0)
                self._dues[op.number] = min(instant, DUE_MS_MAX)

    def settle(self, numbers: Iterable[Number]) -> None:
        """Some of it is not waited for any more."""
        for number in numbers:
            self._dues.pop(number, None)

    def suspended(self, now_ms: int) -> str:
        """That it is suspended, and until when."""
        due_ms = min((due for due in self._dues.values() if due), default=0)
        until = telemetry.describe_until(due_ms, now_ms) if due_ms else "until something it waits for settles"
        return f"{self._id} suspended {until}"

    def ended(self, progress: Progress) -> str:
        """How it ended."""
        after = describe_since(self._began)
        match progress.outcome:
            case Rejected(text=text):
                return f"{self._id} rejected after {after}: {text}"
            case CanceledOutcome():
                return f"{self._id} canceled"
            case Continued():
                return f"{self._id} goes on as a new run after {after}"
            case Halted():
                return f"{self._id} waits for a person: durasleep get {self._id}"
            case _:
                return f"{self._id} resolved after {after}"


def describe_since(began: float) -> str:
    """How long ago a monotonic instant was."""
    return telemetry.describe_ms(round((time.monotonic() - began) * 1000))
