"""A worker all of whose slots are held by calls that wait for others says so."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from durasleep.model import PromiseId
from durasleep.protocol.commit import Lease
from durasleep.runtime.waits import Wait
from durasleep.worker.execution import jam
from durasleep.worker.execution.jam import Jam
from tests.worker.clock import HeldClock

Look = tuple[list[Lease], list[Wait]]


def held(*ids: str) -> list[Lease]:
    return [Lease(PromiseId(id), "workers", f"{number}-1", 1) for number, id in enumerate(ids)]


def waits(*callers: str) -> list[Wait]:
    return [Wait(PromiseId(caller), PromiseId(f"what {caller} needs")) for caller in callers]


@pytest.fixture
def clock(hold_clock: Callable[[ModuleType], HeldClock]) -> HeldClock:
    return hold_clock(jam)


def lines(clock: HeldClock, caplog: pytest.LogCaptureFixture, looks: list[tuple[float, Look]]) -> list[int]:
    """How many lines there are after each look, which comes so many seconds after the one before it."""
    looking, said = Jam(), list[int]()
    for after_s, look in looks:
        clock.move(after_s)
        looking.look(*look)
        said.append(len(caplog.messages))
    return said


ALL: Look = (held("a", "b"), waits("a", "b~2"))
SOME: Look = (held("a", "b"), waits("a"))


def test_a_jam_of_three_seconds_is_said_once_a_minute(clock: HeldClock, caplog: pytest.LogCaptureFixture) -> None:
    """A task waits itself, a workflow by one of its steps."""
    assert lines(clock, caplog, [(0, ALL), (2.9, ALL), (0.1, ALL), (59.9, ALL), (0.1, ALL)]) == [0, 0, 1, 1, 2]
    assert "all 2 slots of this worker are held by tasks and steps that wait for results: " in caplog.text
    assert "a for what a needs, b~2 for what b~2 needs. " in caplog.text


@pytest.mark.parametrize("free", [SOME, (ALL[0], waits()), (held(), ALL[1])])
def test_it_begins_anew_once_one_does_not_wait(clock: HeldClock, caplog: pytest.LogCaptureFixture, free: Look) -> None:
    assert lines(clock, caplog, [(0, ALL), (2.9, free), (0.1, ALL), (2.9, ALL), (0.1, ALL)]) == [0, 0, 0, 0, 1]


def test_where_one_goes_on_or_there_is_a_place_there_is_no_jam(
    clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    for free in (SOME, (ALL[0], waits()), (held(), ALL[1]), (ALL[0], waits("a", "b2~1"))):
        assert lines(clock, caplog, [(0, free), (60, free)]) == [0, 0]


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, ", and 1 more")])
def test_of_many_a_few_are_named(clock: HeldClock, caplog: pytest.LogCaptureFixture, count: int, more: str) -> None:
    ids = [f"x{number}" for number in range(count)]
    many = (held(*ids), waits(*ids))
    assert lines(clock, caplog, [(0, many), (3, many)]) == [0, 1]
    assert f"x4 for what x4 needs{more}. The calls they wait for" in caplog.text
