"""The scenarios with limits to explore."""

from __future__ import annotations

from tests.model.explore import Scenario
from tests.model.gate import Limit, Numbers
from tests.model.moves import Create
from tests.model.scenarios import ONE, TWO
from tests.model.state import Declared

ONE_OF_KEY = Numbers(per_key=1)
ONE_OF_ALL = Numbers(total=1)
BOTH = Numbers(per_key=1, total=2)
FOR_LIFE = Numbers(per_key=1, is_for_life=True)
FOR_LIFE_OF_ALL = Numbers(total=1, is_for_life=True)
RATE = Numbers(step_ms=1_000)
RATE_OF_SOME = Numbers(step_ms=1_000, total=1)
REPLACING = Numbers(per_key=1, parked_max=1, overflow="replace")
DROPPING = Numbers(per_key=1, parked_max=0, overflow="drop")


def calls(*wanted: str) -> tuple[Create, ...]:
    """Executions, each as its id, its function, and its key: ``p nap a``."""
    made = [one.split() for one in wanted]
    return tuple([Create(id, function=function, key=key) for id, function, key in made])


def limited(
    numbers: Numbers,
    roots: tuple[Create, ...],
    hands: tuple[str, ...] = ONE,
    *,
    functions: tuple[str, ...] = ("nap", "quick", "two_naps", "rounds", "attempts", "late"),
    changes: tuple[Numbers, ...] = (),
    is_batched: bool = False,
    **budget: int,
) -> Scenario:
    """Executions with a limit; the names of faults with ``_`` for spaces."""
    return Scenario(
        roots,
        hands,
        {what.replace("_", " "): n for what, n in budget.items()},
        is_batched,
        limits=(("L", Limit(numbers, numbers)),),
        declared=tuple([(function, Declared("L")) for function in functions]),
        changes=changes,
    )


TWO_OF_A = calls("p nap a", "r nap a")
THREE_OF_A = calls("p nap a", "r quick a", "t quick a")
A_AND_B = calls("p nap a", "r quick a", "t quick b")
URGENT = (
    Create("p", function="nap", key="a"),
    Create("r", function="quick", key="a", priority=4),
    Create("t", function="quick", key="a", priority=1),
)
THREE_NAPS = calls("p nap a", "r nap a", "t nap b")
LATE = (Create("p", function="quick", key="a"), Create("r", function="nap", key="a", start="+1", deadline="+2"))

LIMITED: dict[str, Scenario] = {
    "one of a key": limited(ONE_OF_KEY, THREE_NAPS, TWO, lost_reply=1),
    "three of a key": limited(ONE_OF_KEY, THREE_OF_A, TWO, crash=1),
    "one of all": limited(ONE_OF_ALL, THREE_NAPS, TWO, lost_reply=1, crash=1),
    "one of each, two of all": limited(BOTH, calls("p nap a", "r nap a", "t nap b", "x nap b"), TWO),
    "one of a key, two of all": limited(BOTH, A_AND_B, TWO, crash=1),
    "one of a key for life": limited(FOR_LIFE, THREE_NAPS, TWO, crash=1),
    "one of all for life": limited(FOR_LIFE_OF_ALL, THREE_NAPS, TWO, lost_reply=1, late_duplicate=1),
    "a limit, and a crash": limited(ONE_OF_KEY, TWO_OF_A, TWO, crash=1, lost_reply=1),
    "a limit for life, and a crash": limited(FOR_LIFE, TWO_OF_A, TWO, crash=1, lost_reply=1),
    "a limit, and a pause of a worker": limited(ONE_OF_ALL, TWO_OF_A, TWO, pause=1, late_duplicate=1),
    "a limit, and a give-back": limited(ONE_OF_KEY, TWO_OF_A, release=1, defer=1),
    "a limit, and a failover": limited(ONE_OF_KEY, TWO_OF_A, failover=1),
    "a limit for life, and a failover": limited(FOR_LIFE_OF_ALL, TWO_OF_A, failover=1),
    "a limit, and a cancel": limited(ONE_OF_KEY, TWO_OF_A, cancel=2),
    "a limit for life, and a cancel": limited(FOR_LIFE_OF_ALL, TWO_OF_A, cancel=1, force=1),
    "a limit, and people": limited(ONE_OF_ALL, TWO_OF_A, force=1, halt=1, retry=1),
    "a limit for life, and people": limited(FOR_LIFE, TWO_OF_A, force=1, halt=1, retry=1),
    "a limit, priorities and a wake": limited(ONE_OF_KEY, URGENT, wake=1),
    "a limit, a delayed start and a deadline": limited(ONE_OF_ALL, LATE, wake=1, reschedule=1, force=1),
    "a limit, and new runs": limited(ONE_OF_KEY, calls("p rounds a", "r quick a"), TWO, cancel=1),
    "a limit, and attempts": limited(ONE_OF_KEY, calls("p attempts a", "r attempts a"), TWO, cancel=1),
    "a limit for life, and attempts": limited(FOR_LIFE, calls("p attempts a", "r attempts a"), cancel=1, halt=1),
    "a limit of children": limited(BOTH, (Create("p", function="three"),), TWO, force=1),
    "a limit of children for life": limited(FOR_LIFE_OF_ALL, (Create("p", function="three"),), force=1),
    "a rate": limited(RATE, TWO_OF_A, TWO, crash=1),
    "a rate of some": limited(RATE_OF_SOME, THREE_NAPS, TWO, crash=1),
    "a rate, and a failover": limited(RATE, TWO_OF_A, failover=1),
    "a rate, and people": limited(RATE, TWO_OF_A, cancel=1, wake=1, force=1),
    "a rate that is given up": limited(RATE, TWO_OF_A, changes=(ONE_OF_KEY,), set_limit=1, reset_limit=1),
    "a rate that is changed": limited(RATE, THREE_OF_A, TWO, changes=(Numbers(step_ms=5),), set_limit=1, reset_limit=1),
    "a rate of some that is given up": limited(RATE_OF_SOME, TWO_OF_A, changes=(ONE_OF_ALL,), set_limit=1),
    "a limit that is paused": limited(ONE_OF_KEY, THREE_NAPS, pause_limit=1, force=1),
    "a limit that is paused, and a crash": limited(ONE_OF_ALL, TWO_OF_A, TWO, pause_limit=1, crash=1),
    "a limit that is changed": limited(
        ONE_OF_KEY, THREE_NAPS, changes=(ONE_OF_ALL, Numbers(per_key=2)), set_limit=1, reset_limit=1
    ),
    "a limit that is changed before one comes": limited(
        ONE_OF_KEY,
        calls("p quick a", "r nap a", "t nap a"),
        changes=(Numbers(per_key=2),),
        set_limit=1,
        create_again=1,
        expiry=1,
    ),
    "a hold that is changed": limited(FOR_LIFE, THREE_NAPS, changes=(ONE_OF_KEY,), set_limit=1, reset_limit=1),
    "a rate that is paused": limited(RATE, TWO_OF_A, pause_limit=1, halt=1),
    "the newest wins": limited(REPLACING, THREE_OF_A, force=1, retry=1),
    "what is too much is dropped": limited(DROPPING, TWO_OF_A, create_again=1, expiry=1),
}
