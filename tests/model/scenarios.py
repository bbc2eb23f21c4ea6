"""The scenarios to explore: small workflows, and how often each fault may happen.

Each one is small enough to be explored completely. ``LARGER`` allows more faults at once.
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
    "a give-back": scenario("race", release=1),
    "a defer": scenario("race", defer=1),
    "a cancel": scenario("race", cancel=1),
    "a forced cancel": scenario("race", force=1),
    "a halt": scenario("race", halt=1),
    "a wake": scenario("race", wake=1),
    "a timer is moved": scenario("race", reschedule=1),
    "a timer nobody of ours has made": scenario("race", stray_timer=1),
    "the clock is set back": scenario("race", clock_back=1),
    "everything fires at once, commits go together": scenario("race", TWO_SLOTS, is_batched=True, lost_reply=1),
    "a failover": scenario("race", ONE, failover=1),
    "a failover between two workers": scenario("two_naps", failover=1),
    "a failover and a lost reply": scenario("two_naps", failover=1, lost_reply=1),
    "votes, and a failover": scenario("votes", ONE, failover=1),
    "children, of the family and not": scenario("parent"),
    "children, and a failover": scenario("parent", ONE, failover=1),
    "children, and a cancel": scenario("parent", cancel=1),
    "children, and a forced cancel during a crash": scenario("parent", ONE, force=1, crash=1),
    "who gives up waiting": scenario("impatient"),
    "who gives up waiting, and is canceled": scenario("impatient", ONE, force=1, lost_reply=1),
    "new runs": scenario("rounds"),
    "new runs, and a cancel": scenario("rounds", cancel=1),
    "new runs, and a lost reply": scenario("rounds", lost_reply=1),
    "new runs, and a late duplicate": scenario("rounds", late_duplicate=1),
    "new runs, and a crash": scenario("rounds", crash=1),
    "new runs, and a failover": scenario("rounds", ONE, failover=1),
    "a promise settled from outside, or its time is over": scenario("approval", pause=1, reschedule=1),
    "attempts": scenario("attempts", lost_reply=1, wake=1, reschedule=1),
    "attempts, a crash and a cancel": scenario("attempts", crash=1, cancel=1),
    "a delayed start": scenario("nap", ONE, DELAYED, wake=1, reschedule=1, cancel=1),
    "a deadline": scenario("nap", ONE, LIMITED, lost_reply=1, reschedule=1),
    "an id used again": scenario("race", ONE, force=1, expiry=2, create_again=1),
    "an id used again while a worker sleeps": scenario("nap", pause=1, force=1, expiry=1, create_again=1),
    "a retry": scenario("race", ONE, force=1, retry=1),
    "a retry while a worker sleeps": scenario("nap", pause=1, force=1, retry=1),
    "a retry of a family": scenario("parent", ONE, force=1, retry=1),
    "a child in another partition": scenario("away", ONE, lost_mail=1, mail_twice=1),
    "a child in another partition, and a failover": scenario("away", ONE, failover=1),
    "a child in another partition that expires": scenario("away", ONE, lost_mail=1, mail_twice=1, expiry=2),
    "a child in another partition, and a forced cancel": scenario("away", ONE, force=1, lost_mail=1),
    "what is sent to another partition": scenario("sends_away", ONE, lost_mail=1, mail_twice=1),
    "what is sent to another partition, and a failover": scenario("sends_away", ONE, failover=1),
    "who gives up waiting for another partition": scenario("impatient_away", ONE, lost_reply=1, lost_mail=1),
    "two lost replies": scenario("two_naps", lost_reply=2),
    "two late duplicates": scenario("two_naps", late_duplicate=2),
    "two crashes": scenario("two_naps", crash=2),
    "two pauses": scenario("two_naps", pause=2),
    "a crash and a lost read": scenario("two_naps", crash=1, lost_read=1),
    "a halt while a worker is paused": scenario("two_naps", halt=1, pause=1),
    "an offer": scenario("two_naps", offer=2),
    "an offer, and a crash": scenario("nap", offer=2, crash=1, lost_reply=1),
    "an offer, and a late duplicate": scenario("nap", offer=2, late_duplicate=1),
    "an offer, and a failover": scenario("nap", offer=2, failover=1),
    "a worker that is not heard of any more": scenario("nap", beat=4, pause=1),
    "a worker that is not heard of any more, and a crash": scenario("nap", beat=4, crash=1),
    "a paused group": scenario("race", pause_group=2, cancel=1),
    "a paused group, and a crash": scenario("two_naps", pause_group=1, crash=1, lost_read=1),
    "a paused group, and a delayed start": scenario("nap", ONE, DELAYED, pause_group=1, wake=1, release=1),
    "a checkpoint": scenario("attempts", note=2, pause=1, crash=1),
    "a checkpoint, and a failover": scenario("attempts", note=2, failover=1, lost_reply=1),
    "a checkpoint, and a retry": scenario("attempts", ONE, note=2, force=1, retry=1, release=1),
    "a call that begins anew": scenario("race", ONE, begin_anew=2, force=1),
    "a call that begins anew while a worker sleeps": scenario("nap", begin_anew=2, pause=1, force=1),
    "a call that begins a family anew": scenario("parent", ONE, begin_anew=1, force=1, crash=1),
    "a start that is put off": scenario("nap", ONE, DELAYED, debounce=1, wake=1, defer=1, cancel=1),
    "a clock set back while a worker is paused": scenario("two_naps", pause=1, clock_back=1),
}

LARGER: dict[str, Scenario] = {
    "what is sent to another partition, and every fault": scenario(
        "sends_away", ONE, lost_mail=1, mail_twice=1, failover=1
    ),
    "an offer, and every fault": scenario("nap", offer=2, crash=1, lost_reply=1, late_duplicate=1),
    "a worker that is not heard of any more, and every fault": scenario("nap", beat=4, pause=1, crash=1),
    "two faults of each kind": scenario("race", lost_reply=2, crash=2),
    "two late duplicates and a pause": scenario("race", late_duplicate=2, pause=1),
    "two pauses of a race": scenario("race", pause=2),
    "two failovers": scenario("two_naps", ONE, failover=2),
    "children, two workers and a failover": scenario("parent", failover=1),
    "children, a failover and a crash": scenario("race", ONE, failover=1, crash=1),
    "new runs, a failover and a cancel": scenario("rounds", ONE, failover=1, cancel=1),
    "an id used again, two workers": scenario("race", force=1, expiry=2, create_again=1),
    "an id used again after a failover": scenario("race", ONE, failover=1, force=1, expiry=1, create_again=1),
    "people": scenario("race", cancel=1, halt=1, wake=1, reschedule=1),
    "a child in another partition, and a retry": scenario("away", ONE, force=1, retry=1, mail_twice=1),
    "a child in another partition, and two failovers": scenario("away", ONE, failover=2, lost_mail=1),
    "a clock set back, and a failover": scenario("two_naps", ONE, clock_back=1, failover=1),
}
