"""What the log says of an activation: until when it sleeps, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from durasleep import humanize
from durasleep.model import DUE_MS_MAX, Due, Entry, Kind, Number, Op, PromiseId, StartPromise, StartTimer, State
from durasleep.protocol.journal import PromiseRecord
from durasleep.runtime.outcome import CanceledOutcome, Continued, Halted, Progress, Rejected, Resolved, WorkflowOutcome
from durasleep.worker.execution import execution_log
from durasleep.worker.execution.execution_log import ExecutionLog, describe_since
from tests.worker.clock import HeldClock

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def entry(number: str, due_ms: int, state: State = State.PENDING) -> Entry:
    return Entry(Number(number), Kind.TIMER, state, "", 0, due_ms, "", b"", 0)


@pytest.fixture
def clock(hold_clock: Callable[[ModuleType], HeldClock]) -> HeldClock:
    return hold_clock(execution_log)


def until(line: str) -> str:
    return line.removeprefix("a suspended ")


def test_it_names_the_earliest_of_what_it_waits_for(clock: HeldClock) -> None:
    entries = [entry("1", NOW_MS + 3 * HOUR_MS), entry("2", NOW_MS + HOUR_MS), entry("3", 0)]
    assert "(1 h)" in until(ExecutionLog("a", entries).suspended(NOW_MS))
    log = ExecutionLog("a", [*entries, entry("4", NOW_MS + 1000, State.RESOLVED)])
    assert "(1 h)" in until(log.suspended(NOW_MS)), "that one has settled"
    log.wake([Number("2")])
    assert "(3 h)" in until(log.suspended(NOW_MS))
    log.wake([Number("1")])
    assert log.suspended(NOW_MS) == "a suspended until something it waits for settles"


def test_what_it_has_asked_for_since_counts_from_when_it_asked(clock: HeldClock) -> None:
    """Redis computes the real instant; an instant it names is that."""
    log = ExecutionLog("a", ())
    ops: list[Op] = [StartPromise(Number("1"), "p", None), StartTimer(Number("2"), "", Due(f"+{2 * HOUR_MS}"))]
    log.asked.append((ops, clock.now_s))
    assert "(2 h)" in until(log.suspended(NOW_MS))
    clock.move(3600)
    assert "(1 h)" in until(log.suspended(NOW_MS))
    log.asked.append(([StartTimer(Number("3"), "", Due(f"={NOW_MS + HOUR_MS // 2}"))], clock.now_s))
    assert ".000 (30 min)" in until(log.suspended(NOW_MS)), "to the millisecond"
    log.settled.append(Number("3"))
    assert "(1 h)" in until(log.suspended(NOW_MS))


def test_a_time_beyond_all_calendars_is_the_last_there_is(clock: HeldClock) -> None:
    log = ExecutionLog("a", ())
    log.asked.append(([StartTimer(Number("1"), "", Due(f"+{DUE_MS_MAX}"))], clock.now_s))
    last = ExecutionLog("a", [entry("1", DUE_MS_MAX)])
    assert log.suspended(NOW_MS) == last.suspended(NOW_MS)


HEAD = PromiseRecord(
    id=PromiseId("a"), kind=Kind.EXECUTION, incarnation=1, created_ms=NOW_MS - 2 * HOUR_MS, begun_ms=NOW_MS - HOUR_MS
)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Resolved(b""), "a resolved after 2 h"),
        (Rejected(b"", "ValueError: no"), "a rejected after 2 h: ValueError: no"),
        (CanceledOutcome(), "a canceled after 2 h"),
        (Continued(b"", 5), "a goes on as a new run after 1 h"),
        (Halted("why"), "a waits for a person: durasleep get a"),
    ],
)
def test_it_says_how_it_ended_and_how_long_it_has_lived(outcome: WorkflowOutcome, line: str) -> None:
    progress = Progress((), (), (), waiting=False, outcome=outcome)
    assert ExecutionLog("a", ()).ended(progress, HEAD, NOW_MS) == line


def test_clocks_of_two_machines_may_differ() -> None:
    assert describe_since(NOW_MS + 5000, NOW_MS) == humanize.describe_ms(0) != humanize.describe_ms(1)
    assert describe_since(NOW_MS - 5000, NOW_MS) == "5 s"
