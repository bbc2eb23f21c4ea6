"""Executions of a schedule that may not overlap never do, and none is stuck, whichever worker dies when."""

from __future__ import annotations

import pytest

from durasleep.protocol.schedules import CANCEL, QUEUE, QUEUE_ALL, SKIP
from tests.model.schedules import Rules, explore

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]  # it computes, also on a busy machine


OVERLAPS = (SKIP, QUEUE, QUEUE_ALL, CANCEL)


@pytest.mark.parametrize("catch_up", ["last", "all"])
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_exclusive_executions_never_overlap_and_nothing_is_stuck(overlap: str, catch_up: str) -> None:
    found = explore(Rules(overlap, catch_up, is_here=True), crashes=2, delays=1)
    assert not found.wrong, "\n".join([found.wrong, *found.way])


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_neither_do_those_of_other_partitions(overlap: str) -> None:
    found = explore(Rules(overlap, "all", is_here=False), crashes=1, delays=0)
    assert not found.wrong, "\n".join([found.wrong, *found.way])
