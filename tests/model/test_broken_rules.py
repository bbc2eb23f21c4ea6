"""Each rule of the protocol is needed: without it the named law is violated. So the laws are not empty, either."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from durasleep.model import Kind, Place, State
from tests.model import laws
from tests.model.explore import explore
from tests.model.moves import CANCEL, Hear, Lease, Scripts
from tests.model.scenarios import LARGER, SCENARIOS
from tests.model.state import Entry, Promise, Snapshot, Waiter

pytestmark = pytest.mark.long


class WithoutAFence(Scripts):
    """A commit is accepted from any sender."""

    def is_fenced(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        return False


class WithoutTheEntry(Scripts):
    """The epoch alone is the fence."""

    def is_fenced(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        return promise.epoch != lease.epoch or self.holder(promise) is None


class WithoutTheHolder(Scripts):
    """Anybody who has once read an entry may commit."""

    def is_fenced(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        return promise.entry != lease.entry or promise.epoch != lease.epoch


class WithoutANewEpoch(Scripts):
    """The next holder of an execution gets it under the same epoch."""

    def next_epoch(self, promise: Promise) -> int:
        return max(promise.epoch, 1)


class WithoutRedrive(Scripts):
    """A workflow that wants to suspend is suspended, whatever has happened meanwhile."""

    def wants_redrive(self, promise: Promise) -> bool:
        return False


class WithoutHistory(Scripts):
    """The stamp that a worker says it has seen is accepted without a check."""

    def has_other_history(self, promise: Promise, seen: int, seen_number: str) -> bool:
        return False


class WithoutMemoryOfCommits(Scripts):
    """The last number that a worker has asked for is accepted without a check."""

    def has_never_asked(self, promise: Promise, asked: str) -> bool:
        return False


class WithCountedStamps(Scripts):
    """Settlements are counted: two histories share their numbers."""

    def next_stamp(self, promise: Promise) -> int:
        return promise.order + 1


class WithoutNumbers(Scripts):
    """An op that is repeated is carried out again."""

    def is_repeated(self, promise: Promise, number: str) -> bool:
        return False


class WithoutTheDueTime(Scripts):
    """A due member fires, whatever its promise says."""

    def is_moved(self, score: int, due: int) -> bool:
        return False


class WithoutBirths(Scripts):
    """A reference to an id means any incarnation under it."""

    def is_of(self, owner: Promise, incarnation: int) -> bool:
        return True


class WithoutANewBirth(Scripts):
    """An execution that begins again is taken for its old incarnation, and so are its children."""

    def next_incarnation(self, promise: Promise) -> int:
        return promise.incarnation


class WithACancelForSleepersOnly(Scripts):
    """A cancel that meets a running execution is lost."""

    def journal_cancel(self, id: str) -> None:
        if self.promises[id].place is Place.SUSPENDED:
            super().journal_cancel(id)


class WithACancelNobodyIsToldOf(Scripts):
    """A cancel is stored, but does not count as unseen."""

    def journal_cancel(self, id: str) -> None:
        self.put_entry(id, CANCEL, Entry(Kind.CANCEL, State.RESOLVED, self.next_stamp(self.promises[id])))


class WithAttemptsAfterACancel(Scripts):
    """A cancel during a failing attempt is told only after the wait for the next attempt."""

    def is_tried_no_more(self, promise: Promise) -> bool:
        return False


class WithForgetfulRuns(Scripts):
    """A new run does not get the unseen cancel of the old one."""

    def carries_over(self, promise: Promise) -> tuple[str, ...]:
        return ()


class WithoutWakeUps(Scripts):
    """A settlement is stored, and nobody is woken."""

    def rouse(self, id: str, *, tells: bool = False) -> None:
        return


class WithWakeUpsForTheDelayed(Scripts):
    """A settlement dispatches every execution that is not running, also a delayed one."""

    def rouse(self, id: str, *, tells: bool = False) -> None:
        if self.promises[id].place is Place.DELAYED:
            self.dispatch(id)
        else:
            super().rouse(id, tells=tells)


class WithEntriesThatStay(Scripts):
    """An execution that leaves its place leaves its stream entry behind."""

    def leave(self, id: str) -> None:
        stream = dict(self.stream)
        super().leave(id)
        self.stream = stream


class WithDeadlinesThatStay(Scripts):
    """An ending forgets its deadline's timer."""

    def forget_timers(self, id: str, promise: Promise) -> None:
        return


class WithWaitersThatStay(Scripts):
    """An execution that gives up stays among the waiters."""

    def remove_waiter(self, child_id: str, waiter: Waiter) -> None:
        return


class WithSnapshotsThatStay(Scripts):
    """An entry repeats the data of the one before it: the next worker never learns what was seen in between."""

    def snapshot_again(self, id: str) -> Snapshot | None:
        promise = self.promises[id]
        return Snapshot(promise.function, promise.incarnation)


class WithACancelBehindASnapshot(Scripts):
    """A cancel of an execution whose entry nobody has read is stored, and the entry still says nothing of it."""

    def rouse_canceled(self, id: str) -> None:
        self.rouse(id)


class WithoutReclaim(Scripts):
    """Dead workers count as alive for ever."""

    def is_beat(self, consumer: str, beat: int | None) -> bool:
        return False


class WithOffersToAnybody(Scripts):
    """An unknown execution is passed on again and again."""

    def may_know(self, promise: Promise, name: str) -> bool:
        return True


class WithOffersThatStay(Scripts):
    """A worker is told of an execution that another one does not know, and is not made its holder."""

    def hand_over(self, promise: Promise, other: str) -> None:
        return


class WithoutTurningAway(Scripts):
    """A worker without a slot keeps the execution."""

    def is_kept(self, promise: Promise, consumer: str) -> bool:
        return True


class WithOffersOfCopies(Scripts):
    """An offered execution is added once more, for that worker."""

    def hand_over(self, promise: Promise, other: str) -> None:
        entry = promise.entry
        assert entry is not None
        self.last_entry += 1
        self.stream[self.last_entry] = self.stream[entry]._replace(entry=self.last_entry, holder=other)


class WithMembersForGood(Scripts):
    """A worker is never removed."""

    def remove_the_gone(self) -> None:
        return


class WithQuestionsAskedOnce(Scripts):
    """A call to another partition is forgotten as soon as it was sent."""

    def asks_again(self) -> bool:
        return False


class WithAnswersForEverybody(Scripts):
    """An answer to an earlier entry under the same number stops the later one from asking."""

    def goes_on_asking(self, owner: Promise, item: Hear) -> bool:
        return False


class WithEndingsThatExpireUntold(Scripts):
    """What has ended expires, whoever in another partition still waits for it."""

    def is_kept_to_tell(self, promise: Promise) -> bool:
        return False


class WithWaitersToldOnce(Scripts):
    """A waiter in another partition is forgotten at the end of what it waits for, whether it has heard of it or not."""

    def kept_waiters(self, foreign: tuple[Waiter, ...]) -> tuple[Waiter, ...]:
        return ()


class WithCheckpointsOfAnybody(Scripts):
    """A checkpoint is accepted from any sender."""

    def may_note(self, promise: Promise, consumer: str, lease: Lease) -> bool:
        return True


class WithStartsPutOffForAnybody(Scripts):
    """A call puts off whatever is delayed, also the next attempt of what has run."""

    def is_debounced(self, promise: Promise) -> bool:
        return promise.place is Place.DELAYED


class Broken(NamedTuple):
    rule: type[Scripts]
    scenario: str
    law: str
    is_timed: bool = False


BROKEN = (
    Broken(WithoutAFence, "a pause", laws.law_04_a_stale_fence_writes_nothing.__name__),
    Broken(WithoutTheEntry, "a failover between two workers", laws.law_04_a_stale_fence_writes_nothing.__name__),
    Broken(WithoutTheHolder, "a failover between two workers", laws.law_04_a_stale_fence_writes_nothing.__name__),
    Broken(WithoutANewEpoch, "a crash", laws.law_04_an_epoch_never_comes_back.__name__),
    Broken(WithoutRedrive, "children, of the family and not", laws.law_05_a_wake_up_is_not_lost.__name__),
    Broken(WithoutHistory, "a failover", laws.law_09_a_commit_builds_on_what_this_server_knows.__name__),
    Broken(
        WithoutMemoryOfCommits,
        "votes, and a failover",
        laws.law_02_a_suspended_execution_waits_for_something_that_can_come.__name__,
    ),
    Broken(
        WithCountedStamps,
        "votes, and a failover",
        laws.law_09_a_commit_builds_on_what_this_server_knows.__name__,
        is_timed=True,
    ),
    Broken(WithoutNumbers, "a lost reply", laws.law_09_a_transaction_is_carried_out_once.__name__),
    Broken(WithoutTheDueTime, "a timer nobody of ours has made", laws.law_08_nothing_fires_early.__name__),
    Broken(WithoutBirths, "an id used again", laws.law_07_a_child_is_of_the_execution_that_asked_for_it.__name__),
    Broken(WithoutANewBirth, "a retry of a family", laws.law_06_a_promise_settles_once.__name__),
    Broken(
        WithoutANewBirth,
        "a call that begins a family anew",
        laws.law_04_an_epoch_never_comes_back.__name__,
    ),
    Broken(WithCheckpointsOfAnybody, "a checkpoint", laws.law_04_a_stale_fence_keeps_no_checkpoint.__name__),
    Broken(
        WithStartsPutOffForAnybody,
        "a start that is put off",
        laws.law_02_a_pending_execution_is_in_exactly_one_place.__name__,
    ),
    Broken(WithACancelForSleepersOnly, "a cancel", laws.law_05_a_cancel_is_heard.__name__),
    Broken(WithACancelBehindASnapshot, "a cancel", laws.law_05_who_takes_up_what_was_canceled_knows_it.__name__),
    Broken(
        WithSnapshotsThatStay,
        "two crashes",
        laws.law_02_a_suspended_execution_waits_for_something_that_can_come.__name__,
    ),
    Broken(WithACancelNobodyIsToldOf, "a cancel", laws.law_05_a_settlement_is_news.__name__),
    Broken(
        WithAttemptsAfterACancel,
        "attempts, a crash and a cancel",
        laws.law_05_what_was_canceled_is_not_tried_again.__name__,
    ),
    Broken(WithForgetfulRuns, "new runs, and a cancel", laws.law_05_news_stays_until_it_is_seen.__name__),
    Broken(WithoutWakeUps, "nothing goes wrong", laws.law_05_a_wake_up_is_not_lost.__name__),
    Broken(WithWakeUpsForTheDelayed, "a defer", laws.law_02_a_pending_execution_is_in_exactly_one_place.__name__),
    Broken(WithEntriesThatStay, "nothing goes wrong", laws.law_02_a_pending_execution_is_in_exactly_one_place.__name__),
    Broken(WithWaitersThatStay, "who gives up waiting", laws.law_10_who_waits_is_still_there.__name__),
    Broken(WithDeadlinesThatStay, "a deadline", laws.law_10_a_timer_belongs_to_something_pending.__name__),
    Broken(WithoutReclaim, "a crash", laws.NO_DEAD_END),
    Broken(WithOffersToAnybody, "an offer", laws.law_10_nothing_is_offered_twice_to_who_lacks_it.__name__),
    Broken(WithOffersThatStay, "an offer", laws.law_10_nothing_is_offered_twice_to_who_lacks_it.__name__),
    Broken(WithoutTurningAway, "an offer", laws.law_10_what_is_kept_is_for_nobody_else.__name__),
    Broken(WithOffersOfCopies, "an offer", laws.law_02_a_pending_execution_is_in_exactly_one_place.__name__),
    Broken(
        WithQuestionsAskedOnce,
        "a child in another partition",
        laws.law_02_a_suspended_execution_waits_for_something_that_can_come.__name__,
    ),
    Broken(
        WithAnswersForEverybody,
        "a child in another partition, and a retry",
        laws.law_02_a_suspended_execution_waits_for_something_that_can_come.__name__,
    ),
    Broken(
        WithEndingsThatExpireUntold,
        "a child in another partition that expires",
        laws.law_07_what_another_partition_asks_for_begins_once.__name__,
    ),
    Broken(
        WithWaitersToldOnce,
        "a child in another partition that expires",
        laws.law_07_what_another_partition_asks_for_begins_once.__name__,
    ),
    Broken(
        WithMembersForGood,
        "a worker that is not heard of any more",
        laws.law_11_only_who_was_heard_of_stays_a_worker.__name__,
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=[f"{broken.rule.__name__}, {broken.scenario}" for broken in BROKEN])
def test_without_its_rule_the_law_falls(broken: Broken) -> None:
    report = explore((SCENARIOS | LARGER)[broken.scenario], broken.rule, is_timed=broken.is_timed)
    assert report.law == broken.law, str(report)
    assert report.trace
