"""The log lines about one activation: how it ended, or until when it is suspended."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import msgspec

from durasleep import humanize
from durasleep.model import DUE_MS_MAX, Entry, Number, Op, StartTimer, State
from durasleep.protocol.journal import PromiseRecord
from durasleep.runtime.outcome import CanceledOutcome, Continued, Halted, Progress, Rejected


class ExecutionLog(msgspec.Struct, eq=False):
    """Notes what an execution waits for. It makes text only when a line is written, which is seldom at a high rate."""

    id: str
    entries: Collection[Entry]
    """The journal at its beginning."""
    asked: list[tuple[Sequence[Op], float]] = []
    """The ops since then, and when they were made."""
    settled: list[Number] = []

    def wake(self, numbers: Iterable[Number]) -> None:
        """It goes on, because these have settled."""
        self.settled += numbers

    def suspended(self, now_ms: int) -> str:
        """That it is suspended, and until when: roughly, because Redis computes the real instant."""
        due_ms = min((due for due in self._dues(now_ms).values() if due), default=0)
        until = humanize.describe_until(due_ms, now_ms) if due_ms else "until something it waits for settles"
        return f"{self.id} suspended {until}"

    def _dues(self, now_ms: int) -> dict[Number, int]:
        dues = {entry.number: entry.due_ms for entry in self.entries if entry.state is State.PENDING}
        for ops, at in self.asked:
            then_ms = now_ms - round((time.monotonic() - at) * 1000)
            for op in ops:
                if isinstance(op, StartTimer):
                    instant = int(op.due[1:]) + (then_ms if op.due[0] == "+" else 0)
                    dues[op.number] = min(instant, DUE_MS_MAX)
        for number in self.settled:
            dues.pop(number, None)
        return dues

    def ended(self, progress: Progress, record: PromiseRecord, now_ms: int) -> str:
        """How it ended, and how long it has lived; most of that time it was suspended."""
        after = describe_since(record.created_ms, now_ms)
        match progress.outcome:
            case Rejected(text=text):
                return f"{self.id} rejected after {after}: {text}"
            case CanceledOutcome():
                return f"{self.id} canceled after {after}"
            case Continued():
                return f"{self.id} goes on as a new run after {describe_since(record.begun_ms, now_ms)}"
            case Halted():
                return f"{self.id} waits for a person: durasleep get {self.id}"
            case _:
                return f"{self.id} resolved after {after}"


def describe_since(then_ms: int, now_ms: int) -> str:
    """How long ago something was; the clocks of two machines may differ a little."""
    return humanize.describe_ms(max(0, now_ms - then_ms))
