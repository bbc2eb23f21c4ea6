"""Lines about what goes well: so many a second, the rest counted in one line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import ModuleType

import pytest

from durasleep.worker.execution import log_sampler
from durasleep.worker.execution.log_sampler import LogSampler
from tests.service.workers import eventually
from tests.worker.clock import HeldClock


async def test_so_many_lines_a_second_and_one_for_the_others(
    hold_clock: Callable[[ModuleType], HeldClock], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    clock, lines = hold_clock(log_sampler), LogSampler(2)
    assert [lines.allow("resolved") for _ in range(3)] == [True, True, False]
    clock.move(0.999)
    assert [lines.allow(word) for word in ("suspended", "resolved")] == [False, False]
    clock.move(0.001)
    assert [lines.allow("resolved") for _ in range(2)] == [True, True]
    assert caplog.messages == []
    await eventually(lambda: caplog.messages, "the others to be counted")
    assert caplog.messages == ["and in the same second: 2 resolved, 1 suspended"]


def test_the_first_line_is_written_whatever_the_clock_shows(
    hold_clock: Callable[[ModuleType], HeldClock], caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine that was started in this second."""
    caplog.set_level(logging.INFO, "durasleep")
    clock = hold_clock(log_sampler)
    clock.now_s = 0.0
    assert LogSampler(1).allow("resolved")


async def test_the_others_are_counted_when_the_second_is_over(
    hold_clock: Callable[[ModuleType], HeldClock], caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each second."""
    caplog.set_level(logging.INFO, "durasleep")
    clock, lines = hold_clock(log_sampler), LogSampler(0)
    loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    for _ in range(1200):
        assert not lines.allow("resolved")
        clock.move(0.0005)
    await eventually(lambda: caplog.messages, "the first second to be over")
    assert loop.time() - began >= 0.9
    assert caplog.messages == ["and in the same second: 1,200 resolved"]
    clock.move(10)
    assert not lines.allow("suspended")
    clock.move(0.99)
    assert not lines.allow("suspended")
    await eventually(lambda: len(caplog.messages) == 2, "the next")
    assert caplog.messages[1] == "and in the same second: 2 suspended"


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_where_nobody_reads_them_nothing_is_counted(level: int, caplog: pytest.LogCaptureFixture) -> None:
    """And no loop is needed."""
    caplog.set_level(level, "durasleep")
    lines = LogSampler(1)
    assert lines.allow("resolved") is (level == logging.INFO)
    if level == logging.WARNING:
        assert not lines.allow("resolved")


async def test_at_the_end_the_others_are_said_at_once(
    hold_clock: Callable[[ModuleType], HeldClock], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    hold_clock(log_sampler)
    lines = LogSampler(1)
    assert [lines.allow("resolved") for _ in range(3)] == [True, False, False]
    lines.end()
    lines.end()
    assert caplog.messages == ["and in the same second: 2 resolved"]
