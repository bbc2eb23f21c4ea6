"""The laws that data can violate, a function each: it returns the problem of a state or step, "" for none.

They have the numbers of docs/develop/architecture.md.
"""

from __future__ import annotations

from collections.abc import Callable

from durasleep.model import CommitAction, Kind, Place, State
from tests.model import channel_laws, limit_laws
from tests.model.moves import BEAT_MS, CANCEL, Committed, Refused
from tests.model.state import Entry, Promise, Redis, owner_of, partition_of
from tests.model.workers import Service, Step

StateLaw = Callable[[Redis], str]
StepLaw = Callable[[Service, Step], str]


# -- of every state


def law_02_a_pending_execution_is_in_exactly_one_place(redis: Redis) -> str:
    timers = dict(redis.timers)
    for id, promise in redis.promises:
        entries = [(entry.entry, entry.epoch) for entry in redis.stream if entry.id == id]
        delays = [timers[member] for member in (f"{id}~start", f"{id}~retry") if member in timers]
        is_queued = promise.place is Place.QUEUED
        if entries != ([(promise.entry, promise.epoch)] if is_queued else []):
            return f"{id} is {promise.place or promise.state}, its stream entries are {entries}"
        if delays != ([promise.due] if promise.place is Place.DELAYED else []):
            return f"{id} is {promise.place or promise.state}, its delays are {delays}"
        if (promise.place is Place.HALTED) != (id in redis.halted):
            return f"{id} is {promise.place or promise.state}, halted are {sorted(redis.halted)}"
        if (promise.place is None) == (promise.is_pending and promise.kind is Kind.EXECUTION):
            return f"{id} is {promise.state} and in place {promise.place}"
    return ""


def law_02_a_suspended_execution_waits_for_something_that_can_come(redis: Redis) -> str:
    for id, promise in redis.promises:
        if promise.place is not Place.SUSPENDED:
            continue
        pending = [(number, entry) for number, entry in promise.journal if entry.state is State.PENDING]
        if not pending:
            return f"{id} is suspended and nothing is pending"
        for number, entry in pending:
            if wrong := _nothing_brings(redis, id, promise, number, entry):
                return wrong
    return ""


def _nothing_brings(redis: Redis, id: str, promise: Promise, number: str, entry: Entry) -> str:
    member = f"{id}~{number}"
    if entry.due is not None and member not in dict(redis.timers):
        return f"{member} is due some time, and no timer says so"
    if entry.child_id and partition_of(entry.child_id) != partition_of(id):
        return "" if f"{member}~ask" in dict(redis.timers) else f"{member} is asked for by nobody"
    if entry.kind is not Kind.CHILD:
        return ""
    child = redis.promise(entry.child_id or member)
    if child is None or not child.is_pending:
        return f"{member} waits for a child that has ended or is gone"
    if entry.child_id and not any((one.who, one.incarnation) == (member, promise.incarnation) for one in child.waiters):
        return f"{member} waits for {entry.child_id}, which will not tell it"
    if not entry.child_id and child.incarnation != promise.incarnation:
        return f"{member} waits for a child of another execution"
    return ""


def law_03_a_sleeper_is_owned_by_nobody(redis: Redis) -> str:
    for id, promise in redis.promises:
        if promise.is_pending and promise.expires:
            return f"{id} is pending and expires"
        if promise.place is Place.SUSPENDED and promise.entry is not None:
            return f"{id} is suspended and has a stream entry"
    return ""


def law_05_a_wake_up_is_not_lost(redis: Redis) -> str:
    for id, promise in redis.promises:
        journal = dict(promise.journal)
        if promise.place is Place.SUSPENDED and promise.unseen:
            return f"{id} is suspended, and has not seen {promise.unseen}"
        stamps = [journal[number].stamp for number in promise.unseen if number in journal]
        if stamps != sorted(set(stamps)) or len(stamps) != len(promise.unseen):
            return f"{id} has not seen {promise.unseen}, which were settled at {stamps}"
    return ""


def law_05_who_takes_up_what_was_canceled_knows_it(redis: Redis) -> str:
    """It was canceled before it began: a task that is to be canceled is not called."""
    for entry in redis.stream:
        promise = redis.promise(entry.id)
        if (
            promise
            and entry.snapshot
            and CANCEL in dict(promise.journal)
            and CANCEL not in dict(entry.snapshot.journal)
        ):
            return f"{entry.id} is to be canceled, and its entry does not say so"
    return ""


def law_07_a_child_is_of_the_execution_that_asked_for_it(redis: Redis) -> str:
    """An entry has the result of its own child, not of another one under the same id."""
    for id, promise in redis.promises:
        for number, entry in promise.journal:
            child = redis.promise(f"{id}~{number}")
            if entry.kind is not Kind.CHILD or entry.child_id or child is None:
                continue
            is_delivered = entry.state is not State.PENDING and entry.stamp > 0
            if (
                promise.is_pending
                and is_delivered
                and (child.incarnation, child.state) != (promise.incarnation, entry.state)
            ):
                return f"{id}~{number} is {entry.state}, its child is {child.state} (incarnation {child.incarnation})"
    return ""


def law_10_a_timer_belongs_to_something_pending(redis: Redis) -> str:
    """Or to a family that is still being closed."""
    for member, _ in redis.timers:
        id, number = owner_of(member) or (member, "")
        promise = redis.promise(id)
        if promise is None or promise.is_pending or _is_closing(redis, id):
            continue
        if number in dict(promise.journal) or (number == "timeout" and promise.deadline is not None):
            return f"{member} is still to fire, {id} has been {promise.state}"
    return ""


def law_10_who_waits_is_still_there(redis: Redis) -> str:
    """An execution that gave up, ended or began again is removed from the waiters."""
    for id, promise in redis.promises:
        for waiter in promise.waiters if promise.is_pending else ():
            owner_id, number = owner_of(waiter.who) or (waiter.who, "")
            owner = redis.promise(owner_id)
            if not waiter.incarnation or waiter.is_foreign or _is_closing(redis, owner_id):
                continue
            entry = dict(owner.journal).get(number) if owner and owner.incarnation == waiter.incarnation else None
            if owner is None or not owner.is_pending or entry is None or entry.state is not State.PENDING:
                return f"{waiter.who} is among those who wait for {id}, and does not"
    return ""


def _is_closing(redis: Redis, id: str) -> bool:
    owner = owner_of(id)
    return id in redis.closing or (owner is not None and _is_closing(redis, owner[0]))


def law_09_a_transaction_is_carried_out_once(redis: Redis) -> str:
    return ", ".join(f"{member} was carried out {count} times" for (member, _), count in redis.effects if count > 1)


def law_07_what_another_partition_asks_for_begins_once(redis: Redis) -> str:
    return ", ".join(f"{id} was begun {count} times" for id, count in redis.begun if count > 1)


# -- of every step


def law_04_a_stale_fence_writes_nothing(at: Service, step: Step) -> str:
    for consumer, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        held = [(entry.entry, entry.epoch) for entry in at.redis.stream if entry.holder == consumer]
        lease = (call.lease.entry, call.lease.epoch)
        is_holder = promise is not None and (promise.entry, promise.epoch) == lease and lease in held
        if isinstance(answer, Committed) and answer.word != "dropped" and not is_holder:
            return f"{consumer} does not hold {call.lease.id}, and its commit was taken"
    return ""


def law_04_a_stale_fence_keeps_no_checkpoint(at: Service, step: Step) -> str:
    for consumer, lease, answer in step.notes:
        promise = at.redis.promise(lease.id)
        held = [(entry.entry, entry.epoch) for entry in at.redis.stream if entry.holder == consumer]
        is_holder = promise is not None and (promise.entry, promise.epoch) == (lease.entry, lease.epoch) in held
        if not isinstance(answer, Refused) and not is_holder:
            return f"{consumer} does not hold {lease.id}, and its checkpoint was taken"
    return ""


def law_04_an_epoch_never_comes_back(at: Service, step: Step) -> str:
    """Every entry in a stream is under an epoch that this execution never had before."""
    for id, before, after in _same(at, step):
        is_anew = after.entry is not None and after.entry != before.entry
        if after.epoch < before.epoch or (is_anew and after.epoch == before.epoch):
            return f"{id} had epoch {before.epoch}, and now has {after.epoch} in another entry"
    return ""


def law_05_news_stays_until_it_is_seen(at: Service, step: Step) -> str:
    for id, before, after in _same(at, step):
        calls = [call for _, call, answer in step.commits if call.lease.id == id and isinstance(answer, Committed)]
        seen = max([call.seen for call in calls], default=0)
        is_anew = any(call.outcome is CommitAction.CONTINUE_AS_NEW for call in calls)
        journal = dict(before.journal)
        for number in before.unseen:
            is_seen = number in journal and (journal[number].stamp <= seen or _is_taken_back(after, number))
            if after.is_pending and number not in after.unseen and not is_seen and (not is_anew or number == CANCEL):
                return f"{id} will never see {number}"
    return ""


def _is_taken_back(promise: Promise, number: str) -> bool:
    """Whether a receive was canceled, before its code was told of its message."""
    entry = dict(promise.journal).get(number)
    return entry is not None and entry.kind is Kind.RECEIVE and entry.state is State.CANCELED


def law_05_a_settlement_is_news(at: Service, step: Step) -> str:
    """A settlement that the workflow has not made is reported to it, under a new stamp."""
    for id, before, after in _same(at, step):
        known = dict(before.journal)
        for number, entry in after.journal:
            was_pending = number not in known or known[number].state is State.PENDING
            is_new = entry.stamp > 0 and was_pending
            if after.is_pending and is_new and (number not in after.unseen or entry.stamp <= before.order):
                return f"{id}~{number} has settled at {entry.stamp} after {before.order}, unseen is {after.unseen}"
    return ""


def law_05_a_cancel_is_heard(at: Service, step: Step) -> str:
    """A caller that got "canceling" can rely on it: the cancel is in the journal."""
    promise = step.after.redis.promise(step.canceling)
    if promise and promise.is_pending and CANCEL not in dict(promise.journal):
        return f"{step.canceling} is to be canceled, and does not know"
    return ""


def law_05_what_was_canceled_is_not_tried_again(at: Service, step: Step) -> str:
    """A cancel must not wait for the end of the delay between two attempts, which may be hours away."""
    for _, call, answer in step.commits:
        promise, after = at.redis.promise(call.lease.id), step.after.redis.promise(call.lease.id)
        if (
            call.outcome is CommitAction.RETRY
            and isinstance(answer, Committed)
            and promise
            and CANCEL in dict(promise.journal)
            and after
            and after.is_pending
        ):
            return f"{call.lease.id} was canceled, and is to be tried again"
    return ""


def law_06_a_promise_settles_once(at: Service, step: Step) -> str:
    for id, before, after in _same(at, step):
        if not before.is_pending and (before.state, before.value) != (after.state, after.value):
            return f"{id} was {before.state}, and is now {after.state}"
        journal = dict(after.journal)
        for number, entry in before.journal:
            now = journal.get(number)
            if now is None or entry.state is State.PENDING:
                continue
            is_another_cancel = number == CANCEL and now.stamp > entry.stamp  # of a new run
            is_same = is_another_cancel or (_is_taken_back(after, number) and now.stamp in (entry.stamp, 0))
            if (entry.state, entry.stamp) != (now.state, now.stamp) and not is_same:
                return f"{id}~{number} was {entry.state}, and is now {now.state}"
    return ""


def law_08_nothing_fires_early(at: Service, step: Step) -> str:
    """Not before its due time, and not by the member of another one."""
    for id, before, after in _same(at, step) if step.is_firing else ():
        now, journal = step.after.redis.now, dict(after.journal)
        for number, entry in before.journal:
            is_settled = number in journal and journal[number].state in (State.RESOLVED, State.TIMEDOUT)
            if entry.state is State.PENDING and is_settled and entry.due is not None and entry.due > now:
                return f"{id}~{number} was due at {entry.due}, and fired at {now}"
        if before.place is Place.DELAYED and after.place is Place.QUEUED and before.due and before.due > now:
            return f"{id} was delayed until {before.due}, and began at {now}"
    return ""


def law_10_nothing_is_offered_twice_to_who_lacks_it(at: Service, step: Step) -> str:
    for _, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        if not isinstance(answer, Committed) or answer.word != "offered" or promise is None:
            continue
        holders = [entry.holder for entry in step.after.redis.stream if entry.entry == call.lease.entry]
        has = [dict(at.redis.presence).get(holder or "") for holder in holders]
        if len(has) != 1 or has[0] in (None, "", call.functions, *promise.lacking):
            return f"{call.lease.id} was offered to {holders}, which has {has}: not known there"
    return ""


def law_10_what_is_kept_is_for_nobody_else(at: Service, step: Step) -> str:
    for consumer, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        if not isinstance(answer, Committed) or answer.word != "kept" or promise is None:
            continue
        if consumer not in [entry.holder for entry in step.after.redis.stream if entry.entry == call.lease.entry]:
            return f"{consumer} keeps {call.lease.id}, and does not hold it"
        heard = [name for name, beat in at.redis.beats if at.redis.now - beat < BEAT_MS and name != consumer]
        others = [name for name in heard if dict(at.redis.presence).get(name, "") not in ("", *promise.lacking)]
        if others:
            return f"{consumer} keeps {call.lease.id}, which {others} may know"
    return ""


def law_11_only_who_was_heard_of_stays_a_worker(at: Service, step: Step) -> str:
    """The set of workers does not grow for ever: a heartbeat of any worker removes dead ones."""
    redis = step.after.redis
    gone = dict(redis.beats).keys() - dict(redis.presence).keys()
    if step.beats in gone:
        return f"{step.beats} has beaten, and is not known"
    return f"{step.beats} has beaten, and still there is {min(gone)}" if step.beats and gone else ""


def law_09_a_commit_builds_on_what_this_server_knows(at: Service, step: Step) -> str:
    """After a failover a worker may remember events that never happened here: nothing builds on them."""
    for consumer, call, answer in step.commits:
        promise = at.redis.promise(call.lease.id)
        if not isinstance(answer, Committed) or promise is None:
            continue
        journal = {number: (entry.state, entry.stamp) for number, entry in promise.journal}
        for hand in at.hands:
            if hand.consumer == consumer and hand.call == call:
                for number, entry in hand.known:
                    is_seen = 0 < entry.stamp <= call.seen and not _is_taken_back(promise, number)
                    if is_seen and journal.get(number) != (entry.state, entry.stamp):
                        return f"{consumer} saw {call.lease.id}~{number} {entry.state}, this server never did"
    return ""


def _same(at: Service, step: Step) -> list[tuple[str, Promise, Promise]]:
    """The promises that exist before and after a step, if a script made the step."""
    if step.is_outside:
        return []
    after = dict(step.after.redis.promises)
    both = [(id, before, after[id]) for id, before in at.redis.promises if id in after]
    return [(id, before, now) for id, before, now in both if before.incarnation == now.incarnation]


# -- when all is over


def law_10_nothing_is_left_when_all_has_ended(redis: Redis) -> str:
    """No timers, no stream entries, nothing to close; and all finished promises have an expiry."""
    left = [*[member for member, _ in redis.timers], *[f"entry of {entry.id}" for entry in redis.stream]]
    left += [*redis.closing, *redis.halted, *limit_laws.left(redis), *channel_laws.left(redis)]
    left += [f"{id} for good" for id, promise in redis.promises if not promise.expires]
    return ", ".join(left)


def is_over(redis: Redis) -> bool:
    """Whether every execution has ended."""
    return all(not promise.is_pending for _, promise in redis.promises)


# If several laws are violated at once, the first is shown.
OF_STATES: tuple[StateLaw, ...] = (
    *channel_laws.OF_STATES,
    *limit_laws.OF_STATES,
    law_09_a_transaction_is_carried_out_once,
    law_05_a_wake_up_is_not_lost,
    law_05_who_takes_up_what_was_canceled_knows_it,
    law_02_a_pending_execution_is_in_exactly_one_place,
    law_02_a_suspended_execution_waits_for_something_that_can_come,
    law_03_a_sleeper_is_owned_by_nobody,
    law_07_a_child_is_of_the_execution_that_asked_for_it,
    law_07_what_another_partition_asks_for_begins_once,
    law_10_a_timer_belongs_to_something_pending,
    law_10_who_waits_is_still_there,
)
OF_STEPS: tuple[StepLaw, ...] = (
    *channel_laws.OF_STEPS,
    *limit_laws.OF_STEPS,
    law_04_a_stale_fence_writes_nothing,
    law_04_a_stale_fence_keeps_no_checkpoint,
    law_04_an_epoch_never_comes_back,
    law_05_news_stays_until_it_is_seen,
    law_05_a_settlement_is_news,
    law_05_a_cancel_is_heard,
    law_05_what_was_canceled_is_not_tried_again,
    law_06_a_promise_settles_once,
    law_08_nothing_fires_early,
    law_10_nothing_is_offered_twice_to_who_lacks_it,
    law_10_what_is_kept_is_for_nobody_else,
    law_11_only_who_was_heard_of_stays_a_worker,
    law_09_a_commit_builds_on_what_this_server_knows,
)
NO_DEAD_END = "law_01_from_every_state_everything_can_still_finish"
NOTHING_LEFT = law_10_nothing_is_left_when_all_has_ended
