"""Each rule of Resonate's tasks and promises is needed: without it the named law is violated, or it gets stuck."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.model import resonate_laws as laws
from tests.model.resonate import ACQUIRED, PENDING, SUSPENDED, Ask, Made, Promise, Task
from tests.model.resonate_scenarios import QUICK, SCENARIOS, SLEEPER, P, create, faults, make, wait
from tests.model.resonate_search import STUCK, explore
from tests.model.resonate_world import ANY, RETRY, Quick, Scenario

pytestmark = pytest.mark.long


class WithoutAVersion(Quick):
    """Whoever has once acquired a task may speak for it while it is acquired."""

    def is_held(self, promise: Promise, version: int) -> bool:
        return promise.task is not None and promise.task.state == ACQUIRED and promise.state == PENDING


class WithoutALeaseToHold(Quick):
    """Who has lost a task to time may speak for it, as long as nobody else has acquired it."""

    def is_held(self, promise: Promise, version: int) -> bool:
        task = promise.task
        return task is not None and task.version == version > 0 and promise.state == PENDING


class WithTheSameVersion(Quick):
    """The next holder of a task gets it in the same version."""

    def next_version(self, task: Task) -> int:
        return max(task.version, 1)


class WithDeadlinesForTheGatewayOnly(Quick):
    """A request does not look at the deadlines of what it names."""

    is_ticking = False

    def touch(self, id: str) -> Promise | None:
        return super().touch(id) if self.is_ticking else self.promises.get(id)

    def tick(self) -> None:
        self.is_ticking = True
        super().tick()


class WithEarlyDeadlines(Quick):
    """What is due soon is done now."""

    def is_due(self, at: int) -> bool:
        return at <= self.now + 1


class WithDelaysThatAreIgnored(Quick):
    def is_delayed(self, made: Made) -> bool:
        return False


class WithTasksThatOutliveTheirPromise(Quick):
    def end_task(self, id: str) -> None:
        return


class WithDeadlinesThatStay(Quick):
    def disarm(self, id: str) -> None:
        return


class WithSilentSettlements(Quick):
    """Nobody who awaits it is resumed."""

    def resume(self, awaiter: str, awaited: str) -> None:
        return


class WithoutTheSecondLook(Quick):
    """A task is suspended although what it waits for has settled meanwhile."""

    def is_redriven(self, awaited: Iterable[str]) -> bool:
        return False


class WithoutCallbacks(Quick):
    """A task is suspended, and what it waits for does not know it."""

    def add_callback(self, awaited: str, awaiter: str) -> None:
        return


class WithListenersNobodyTells(Quick):
    def notify(self, address: str, id: str) -> None:
        return


class WithMessagesThatComeOnce(Quick):
    """A message is sent once, and may be lost."""

    def arm_retry(self, id: str, at: int) -> None:
        return


class WithMessagesThatAreNotOfferedAgain(Quick):
    """When it is to be executed again, nothing happens but that the time is put off."""

    def take_turn(self, id: str) -> None:
        task = self.promises[id].task
        if task and task.state == ACQUIRED:
            self.release(id)
        else:
            self.arm_retry(id, self.now + RETRY)


class WithLeasesForEver(Quick):
    def arm_lease(self, id: str, ttl: int) -> None:
        return


class WithLeasesThatNobodyEnds(Quick):
    """A lease that has ended is left to who has it."""

    def take_turn(self, id: str) -> None:
        task = self.promises[id].task
        if task and task.state == ACQUIRED:
            self.arm_lease(id, task.ttl)
        else:
            super().take_turn(id)


class WithTimersThatAreExecuted(Quick):
    def is_sleeper(self, id: str) -> bool:
        return False


class WithMessagesForWhoIsTaken(Quick):
    """Who takes up a task leaves its message in the queue."""

    def leave(self, id: str) -> None:
        self.turns.pop(id, None)


class WithTurnsForWhoSleeps(Quick):
    """Who goes to sleep, is halted or ends has its lease on."""

    def leave(self, id: str) -> None:
        self.queued.pop(id, None)


class WithHaltedTasksThatRun(Quick):
    """Who is halted is executed when what it awaits has settled."""

    def resume(self, awaiter: str, awaited: str) -> None:
        task = self.promises[awaiter].task
        super().resume(awaiter, awaited)
        if task and task.state == "halted" and self.promises[awaiter].state == PENDING:
            self.execute(awaiter)


class WithResumesOfTheDead(Quick):
    """Who is resumed past its own deadline is executed."""

    def resume(self, awaiter: str, awaited: str) -> None:
        task = self.promises[awaiter].task
        if task and task.state == SUSPENDED:
            self.put(awaiter, task._replace(state=PENDING))
            self.execute(awaiter)


class WithPromisesThatSettleTwice(Quick):
    def is_settled(self, promise: Promise) -> bool:
        return False


class WithPromisesThatAreMadeAgain(Quick):
    def is_there(self, id: str) -> bool:
        return False


class WithWaitsForAnything(Quick):
    """A task may wait for what is inside of it, which no deadline ends."""

    def can_be_awaited(self, promise: Promise) -> bool:
        return True


class WithBeatsOfOthers(Quick):
    """Whoever names a task prolongs its lease."""

    def is_beating(self, promise: Promise, version: int, pid: str) -> bool:
        return promise.task is not None and promise.task.state == ACQUIRED and promise.state == PENDING


class WithBeatsThatCountForNothing(Quick):
    def is_beating(self, promise: Promise, version: int, pid: str) -> bool:
        return False


class WithoutAWord(Quick):
    """Those that deliver find out for themselves that there is something to send."""

    def is_worth_a_look(
        self, until: int, queued: tuple[tuple[str, int], ...], inbox: tuple[tuple[str, str], ...]
    ) -> bool:
        return False


class WithAWordForMessagesOnly(Quick):
    """Those that deliver sleep until what was due when they went to sleep."""

    def is_worth_a_look(
        self, until: int, queued: tuple[tuple[str, int], ...], inbox: tuple[tuple[str, str], ...]
    ) -> bool:
        return super().is_worth_a_look(1 << 60, queued, inbox)


FENCE = laws.who_has_lost_a_task_changes_nothing.__name__
OFFERED = laws.a_pending_task_is_offered_again.__name__
BROUGHT = laws.a_suspended_task_waits_for_something_that_can_come.__name__
WAKE_UP = laws.a_wake_up_is_not_lost.__name__
ASLEEP = laws.a_sleeper_costs_nothing.__name__
QUEUED = laws.only_what_is_pending_is_queued.__name__
ARMED = laws.a_deadline_is_armed_as_long_as_it_matters.__name__
ENDS = laws.a_task_ends_with_its_promise.__name__
KNOWS = laws.whoever_delivers_knows_what_to_wait_for.__name__
OUTCOME = laws.what_has_settled_never_changes.__name__
EARLY = laws.nothing_happens_early.__name__
LATE = laws.nothing_settles_after_its_deadline.__name__
DEAD = laws.nobody_is_executed_after_its_deadline.__name__
TOLD = laws.every_listener_is_told.__name__

INWARD = Scenario((("p", (make("i", Made(branch="p")), wait("i"))),), (P,))
"""It waits for what is inside of it: kept by the rules, it is refused for ever."""
BEATING = Scenario(QUICK, (P, (create("z", Made(5, is_timer=True)),)), 2, faults=faults(heartbeat=1, pause=2))
"""Time passes while another one has the task."""
LOOKED_AT = Scenario(SLEEPER, ((create("p", Made(1, ANY)),), (Ask("promise.get", ("t",)),)))
"""Somebody reads the timer first when both are due."""

BROKEN: tuple[tuple[type[Quick], Scenario, str], ...] = (
    (WithoutAVersion, SCENARIOS["a sleep, and a slow worker"], FENCE),
    (WithoutALeaseToHold, SCENARIOS["a sleep, and a slow worker"], FENCE),
    (WithTheSameVersion, SCENARIOS["a sleep, and a slow worker"], FENCE),
    (WithBeatsOfOthers, BEATING, FENCE),
    (WithBeatsThatCountForNothing, SCENARIOS["a sleep, and a slow worker"], EARLY),
    (WithDeadlinesForTheGatewayOnly, SCENARIOS["a deadline"], LATE),
    (WithEarlyDeadlines, SCENARIOS["a sleep"], EARLY),
    (WithDelaysThatAreIgnored, SCENARIOS["a delay"], EARLY),
    (WithTasksThatOutliveTheirPromise, SCENARIOS["a deadline"], ENDS),
    (WithDeadlinesThatStay, SCENARIOS["a sleep"], ARMED),
    (WithSilentSettlements, SCENARIOS["a sleep"], WAKE_UP),
    (WithoutTheSecondLook, SCENARIOS["the first of two"], WAKE_UP),
    (WithoutCallbacks, SCENARIOS["a sleep"], BROUGHT),
    (WithListenersNobodyTells, SCENARIOS["a sleep"], TOLD),
    (WithMessagesThatComeOnce, SCENARIOS["a gateway that crashes"], OFFERED),
    (WithMessagesThatAreNotOfferedAgain, SCENARIOS["a gateway that crashes"], STUCK),
    (WithLeasesForEver, SCENARIOS["a sleep"], OFFERED),
    (WithLeasesThatNobodyEnds, SCENARIOS["a sleep"], STUCK),
    (WithTimersThatAreExecuted, SCENARIOS["a sleep"], OFFERED),
    (WithMessagesForWhoIsTaken, SCENARIOS["a delay"], QUEUED),
    (WithTurnsForWhoSleeps, SCENARIOS["a sleep"], ASLEEP),
    (WithHaltedTasksThatRun, SCENARIOS["people"], ASLEEP),
    (WithResumesOfTheDead, LOOKED_AT, DEAD),
    (WithPromisesThatSettleTwice, SCENARIOS["two settle it"], OUTCOME),
    (WithPromisesThatAreMadeAgain, SCENARIOS["two settle it"], OUTCOME),
    (WithWaitsForAnything, INWARD, BROUGHT),
    (WithoutAWord, SCENARIOS["a sleep"], KNOWS),
    (WithAWordForMessagesOnly, SCENARIOS["a sleep"], KNOWS),
)


@pytest.mark.parametrize(("rules", "scenario", "law"), BROKEN, ids=[rules.__name__ for rules, _, _ in BROKEN])
def test_without_its_rule_the_law_falls(rules: type[Quick], scenario: Scenario, law: str) -> None:
    found = explore(scenario, rules)
    assert found.law == law, str(found)
    assert found.way
