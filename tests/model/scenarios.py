"""What is explored: small workflows, and for each what may go wrong how often.

Every one is small enough to be looked at whole. ``LARGER`` lets more go wrong at once.
"""

from __future__ import annotations

from tests.model.explore import Scenario
from tests.model.moves import Create

TWO = ("w1", "w2")
ONE = ("w1",)
TWO_SLOTS = ("w1", "w1")


def root(function: str, **options: str) -> Create:
    return Create("p", function=function, **options)  # type: ignore[arg-type]


def scenario(
    function: str, hands: tuple[str, ...] = TWO, *others: Create, is_batched: bool = False, **budget: int
) -> Scenario:
    """One execution of ``function``; the names of faults with ``_`` for spaces."""
    return Scenario(
        (root(function), *others), hands, {what.replace("_", " "): n for what, n in budget.items()}, is_batched
    )


DELAYED = Create("d", function="nap", start="+1")
LIMITED = Create("l", function="nap", deadline="+1")

SCENARIOS: dict[str, Scenario] = {
    "nothing goes wrong": scenario("race"),
    "a lost reply": scenario("race", lost_reply=1),
    "a late duplicate": scenario("race", late_duplicate=1),
    "a pause": scenario("race", pause=1),
    "a crash": scenario("race", crash=1),
    "a lost read": scenario("race", lost_read=1),
    "a give-back": scenario("race", give_back=1),
    "a defer": scenario("race", defer=1),
    "a cancel": scenario("race", cancel=1),
    "a forced cancel": scenario("race", force=1),
    "a halt": scenario("race", ONE, halt=1),
}
