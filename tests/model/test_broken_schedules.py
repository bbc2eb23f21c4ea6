"""Each rule of schedules whose executions may not overlap is needed: without it the law is violated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durasleep.protocol.schedules import QUEUE_ALL, SKIP, Change, Schedule
from tests.model.schedules import Hand, Rules, World, explore

pytestmark = pytest.mark.long


class WithoutACheck(Rules):
    """A worker changes what another one has changed meanwhile."""

    def is_stale(self, hand: Hand) -> bool:
        return False


class WithEndsNobodyHears(Rules):
    """The end of an execution is for nobody, and nobody looks whether it has ended."""

    def end_scheduled(self, at: World, id: str) -> World:
        return at

    def has_ended(self, at: World, seen: Schedule) -> bool:
        return False


class WithStartsNobodyNames(Rules):
    """What is to be started elsewhere is not named before."""

    def marked(self, change: Change) -> Change:
        fields = {name: value for name, value in change.fields.items() if name != "starting"}
        return replace(change, fields=fields)


@pytest.mark.parametrize(
    ("rules", "overlap", "is_here", "wrong"),
    [
        (WithoutACheck, SKIP, True, "run at a time"),
        (WithEndsNobodyHears, QUEUE_ALL, True, "it is stuck"),
        (WithStartsNobodyNames, QUEUE_ALL, False, "run at a time"),
    ],
)
def test_without_its_rule_the_law_falls(rules: type[Rules], overlap: str, is_here: bool, wrong: str) -> None:
    found = explore(rules(overlap, "all", is_here=is_here))
    assert wrong in found.wrong
