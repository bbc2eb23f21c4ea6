"""Each rule of the limits is needed: without it the named law is violated."""

from __future__ import annotations

import pytest

from durasleep.model import Place
from tests.model import limit_laws
from tests.model.explore import explore
from tests.model.gate import Gate, Parked
from tests.model.limit_scenarios import LIMITED
from tests.model.moves import Scripts
from tests.model.test_broken_rules import Broken

pytestmark = pytest.mark.long


class WithReleasesThatForgetTheNext(Scripts):
    """A slot that is given up lets nobody begin."""

    def release(self, name: str, key: str) -> None:
        return


class WithReleasesOfTheSameKey(Scripts):
    """A slot of the total that is given up is only for the key that had it."""

    def release(self, name: str, key: str) -> None:
        self.release_of_key(name, key)


class WithASecondSlot(Scripts):
    """Who takes up the work of a dead worker takes a slot for it, too."""

    def has_passed(self, sign: str) -> bool:
        return False


class WithKeysThatStay(Scripts):
    """A key whose last parked execution was canceled goes on waiting for its turn."""

    def end_waiting(self, name: str, gate: Gate, key: str) -> None:
        return


class WithSlotsForGood(Scripts):
    """Who goes to sleep keeps its slot."""

    def is_held_on(self, gate: Gate, *, has_ended: bool) -> bool:
        return not has_ended


class WithSlotsForAnActivation(Scripts):
    """Who is to hold its slot for life gives it up when it goes to sleep."""

    def is_held_on(self, gate: Gate, *, has_ended: bool) -> bool:
        return False


class WithEndingsThatHold(Scripts):
    """Who has a slot for life has it beyond its end."""

    def is_held_on(self, gate: Gate, *, has_ended: bool) -> bool:
        return gate.numbers.is_for_life


class WithoutRoomForAKey(Scripts):
    """Only the total counts."""

    def has_room(self, gate: Gate, key: str) -> bool:
        return True


class WithoutATotal(Scripts):
    """The total does not count, and neither does a pause."""

    def is_open(self, gate: Gate) -> bool:
        return True


class WithTheLastFirst(Scripts):
    """Of those that wait for a key, the last one begins first."""

    def first_of(self, parked: tuple[Parked, ...]) -> Parked:
        return parked[-1]


class WithoutALine(Scripts):
    """Who comes looks at the limit, and not at those that wait."""

    def is_behind(self, gate: Gate, key: str) -> bool:
        return False


class WithTokensNobodyWaitsFor(Scripts):
    """Who waits for the rate has no timer."""

    def set_token_timer(self, gate: str, key: str, at: int) -> None:
        return


class WithTokensForSleepers(Scripts):
    """Who wakes up waits for the token of those behind it."""

    def may_go(self, gate: Gate, name: str, key: str, level: int) -> bool:
        return self.has_room(gate, key) and not self.is_timed(name, key)


class WithoutALookAtTheTimed(Scripts):
    """After a change, nobody looks at a key that waits for its rate."""

    def is_looked_at(self, name: str, key: str) -> bool:
        return not self.is_timed(name, key)


class WithoutALook(Scripts):
    """A change of a limit is for those that come."""

    def look_again(self, name: str) -> None:
        return


class WithAnyReplaced(Scripts):
    """The timer of a replaced execution ends whatever is parked under its id."""

    def is_replaced(self, id: str) -> bool:
        promise = self.promises.get(id)
        return promise is not None and promise.place is Place.PARKED


class WithoutUnparking(Scripts):
    """Who is canceled while it is parked stays in the line."""

    def unpark(self, id: str) -> None:
        return


class WithPlacesThatAreNotCounted(Scripts):
    """A slot that is given up is not taken from those of its key."""

    def count(self, gate: Gate, key: str, more: int) -> None:
        super().count(gate, key, max(more, 0))


class WithRatesForWhoWakesUp(Scripts):
    """Who wakes up is counted by the rate."""

    def needs_token(self, level: int) -> bool:
        return True


SLOTS = limit_laws.law_11_slots_are_held_by_those_that_count.__name__
GATE = limit_laws.law_02_what_is_parked_waits_at_its_gate.__name__
BEGINS = limit_laws.law_01_who_may_begin_is_about_to.__name__
KEPT = limit_laws.law_11_a_slot_for_life_is_kept.__name__
BOUND = limit_laws.law_11_no_limit_is_broken.__name__
LINE = limit_laws.law_11_the_first_of_a_key_begins_first.__name__
REPLACED = limit_laws.law_11_only_who_is_replaced_is_dropped.__name__

BROKEN = (
    Broken(WithReleasesThatForgetTheNext, "one of a key", BEGINS),
    Broken(WithReleasesOfTheSameKey, "one of all", BEGINS),
    Broken(WithASecondSlot, "a limit, and a crash", SLOTS),
    Broken(WithKeysThatStay, "a limit, and a cancel", GATE),
    Broken(WithSlotsForGood, "one of a key", SLOTS),
    Broken(WithSlotsForAnActivation, "one of a key for life", KEPT),
    Broken(WithEndingsThatHold, "one of a key for life", SLOTS),
    Broken(WithoutRoomForAKey, "one of a key", BOUND),
    Broken(WithoutATotal, "one of all", BOUND),
    Broken(WithoutATotal, "a limit that is paused", BOUND),
    Broken(WithTheLastFirst, "three of a key", LINE),
    Broken(WithoutALine, "a limit that is changed before one comes", LINE),
    Broken(WithTokensNobodyWaitsFor, "a rate", BEGINS),
    Broken(WithTokensForSleepers, "a rate", BEGINS),
    Broken(WithoutALookAtTheTimed, "a rate that is given up", BEGINS),
    Broken(WithoutALook, "a limit that is paused", BEGINS),
    Broken(WithAnyReplaced, "the newest wins", REPLACED),
    Broken(WithoutUnparking, "a limit, and a cancel", GATE),
    Broken(WithPlacesThatAreNotCounted, "one of a key", SLOTS),
    Broken(WithRatesForWhoWakesUp, "a rate", BEGINS),
)


@pytest.mark.parametrize("broken", BROKEN, ids=[f"{broken.rule.__name__}, {broken.scenario}" for broken in BROKEN])
def test_without_its_rule_the_law_falls(broken: Broken) -> None:
    report = explore(LIMITED[broken.scenario], broken.rule)
    assert report.law == broken.law, str(report)
    assert report.trace
