"""The laws of Resonate's protocol, a function each: it returns the problem of a state or move, "" for none."""

from __future__ import annotations

from tests.model.resonate import ACQUIRED, FULFILLED, HALTED, NEVER, PENDING, SUSPENDED, Promise, Redis, Task
from tests.model.resonate_world import Move, World

FENCED = ("task.release", "task.fulfill", "task.suspend", "task.fence")


# -- of every state


def a_pending_task_is_offered_again(at: World) -> str:
    """It is queued, or will be, whatever happens to its message; that of a timer is not offered at all."""
    turns, queued = dict(at.redis.turns), dict(at.redis.queued)
    for id, promise, task in _tasks(at.redis):
        if task.state == PENDING and (id in turns or id in queued) == promise.made.is_timer:
            return f"{id} is pending, its next execution is at {turns.get(id)}, it is queued since {queued.get(id)}"
        if task.state == ACQUIRED and id not in turns:
            return f"{id} is acquired, and its lease never ends"
    return ""


def a_suspended_task_waits_for_something_that_can_come(at: World) -> str:
    armed = dict(at.redis.deadlines)
    for id, _, task in _tasks(at.redis):
        waits = [one for one, promise in at.redis.promises if id in promise.callbacks and promise.state == PENDING]
        if task.state == SUSPENDED and not any(one in armed for one in waits):
            return f"{id} is suspended, and waits for {waits}"
    return ""


def a_wake_up_is_not_lost(at: World) -> str:
    """Nobody is suspended who has asked to be told of something that has settled."""
    for id, awaited in at.waits:
        settled = [one for one in awaited if (promise := at.redis.promise(one)) and promise.state != PENDING]
        if settled:
            return f"{id} is suspended, and {settled} has settled"
    return ""


def a_sleeper_costs_nothing(at: World) -> str:
    """No message, no lease and no further execution is for whoever waits, is halted or has ended."""
    busy = {id for id, _ in (*at.redis.turns, *at.redis.queued)}
    for id, promise, task in _tasks(at.redis):
        is_asleep = task.state in (SUSPENDED, HALTED, FULFILLED) or (promise.made.is_timer and task.state == PENDING)
        if is_asleep and id in busy:
            return f"{id} is {task.state}, and has a turn or a message"
    return ""


def only_what_is_pending_is_queued(at: World) -> str:
    states = {id: task.state for id, _, task in _tasks(at.redis)}
    wrong = [id for id, _ in at.redis.queued if states[id] != PENDING]
    return f"{wrong} are queued" if wrong else ""


def a_deadline_is_armed_as_long_as_it_matters(at: World) -> str:
    wanted = {id: one.made.timeout for id, one in at.redis.promises if one.state == PENDING and one.is_by_itself}
    found = dict(at.redis.deadlines)
    return f"armed are {found}, and not {wanted}" if found != wanted else ""


def a_task_ends_with_its_promise(at: World) -> str:
    for id, promise in at.redis.promises:
        is_settled = promise.state != PENDING
        if promise.task and (promise.task.state == FULFILLED) != is_settled:
            return f"{id} is {promise.state}, its task is {promise.task.state}"
        if is_settled and (promise.callbacks or promise.listeners):
            return f"{id} is {promise.state}, and {promise.callbacks} {promise.listeners} wait for it"
    return ""


def whoever_delivers_knows_what_to_wait_for(at: World) -> str:
    """If no gateway is about to look, nothing is ready, and nothing is due before one looks again."""
    if any(one.is_taking or one.heard < at.redis.wakes for one in at.gateways):
        return ""
    first, until = _earliest(at.redis), min(one.until for one in at.gateways)
    if at.redis.queued or at.redis.inbox:
        return f"{at.redis.queued} {at.redis.inbox} are ready, and nobody looks"
    return f"something is due at {first}, and nobody looks before {until}" if first < until else ""


# -- of every move


def what_has_settled_never_changes(at: World, move: Move) -> str:
    """It has one outcome, whoever asks, and however often it is settled or created again."""
    for id, promise in at.redis.promises if not move.is_rollback else ():
        after = move.after.redis.promise(id)
        if not after:
            return f"{id} is gone"
        if promise.state != PENDING and _outcome(after) != _outcome(promise):
            return f"{id} was {promise}, and is {after}"
        if (after.made, after.created) != (promise.made, promise.created):
            return f"{id} was made again"
    return ""


def nothing_happens_early(at: World, move: Move) -> str:
    """Neither a deadline, nor the first execution of what is delayed, nor the end of a lease."""
    if move.is_rollback:
        return ""
    now, queued, leases = at.redis.now, dict(at.redis.queued), dict(at.holders)
    for id, promise in _settled(at, move):
        if not promise.value and promise.made.timeout > now:
            return f"{id} has fired at {now}, before {promise.made.timeout}"
    for id, _ in move.after.redis.queued:
        promise = move.after.redis.promise(id)
        if id not in queued and promise and promise.made.delay > now:
            return f"{id} is executed at {now}, before {promise.made.delay}"
    for id, before, task in _tasks(at.redis):
        after = move.after.redis.task(id)
        is_taken = task.state == ACQUIRED and after is not None and after.state == PENDING and not move.ask
        if is_taken and id in leases and leases[id].lease > now and before.state == PENDING:
            return f"{id} is taken from {leases[id]} at {now}"
    return ""


def nothing_settles_after_its_deadline(at: World, move: Move) -> str:
    for id, promise in _settled(at, move):
        if promise.value and promise.made.timeout <= at.redis.now:
            return f"{id} was settled as {promise.state} at {at.redis.now}, after {promise.made.timeout}"
    return ""


def nobody_is_executed_after_its_deadline(at: World, move: Move) -> str:
    queued = dict(at.redis.queued)
    for id, since in move.after.redis.queued:
        promise = move.after.redis.promise(id)
        if queued.get(id) != since and promise and promise.made.timeout <= at.redis.now:
            return f"{id} is executed at {at.redis.now}, after {promise.made.timeout}"
    return ""


def who_has_lost_a_task_changes_nothing(at: World, move: Move) -> str:
    """Only who has acquired a task last, in that version, may speak for it, until it is somebody else's turn."""
    ask = move.ask
    if not ask or move.after.is_rolled_back or ask.kind not in (*FENCED, "task.heartbeat"):
        return ""
    meant = [(ask.args[0], ask.args[1])] if ask.kind in FENCED else ask.args[1]
    holders = {id: (holder.worker, holder.version) for id, holder in at.holders}
    if all(holders.get(id) == (move.who, version) for id, version in meant):
        return ""
    named = [promise for id, promise in at.redis.promises if id in ask.named]
    if any(promise.made.timeout <= at.redis.now for promise in named):
        return ""  # whoever names it, settles it
    after = move.after.redis
    return "" if at.redis == after else f"{move.who} is not {holders}, and has changed {at.redis} to {after}"


def every_listener_is_told(at: World, move: Move) -> str:
    told = move.after.redis.inbox
    for id, _ in _settled(at, move):
        before = at.redis.promise(id)
        missing = [one for one in (before.listeners if before else ()) if (one, id) not in told]
        if missing:
            return f"{id} has settled, and {missing} does not hear of it"
    return ""


def nothing_is_left(at: World) -> str:
    """When all is over."""
    redis = at.redis
    return "" if not (redis.deadlines or redis.turns or redis.queued) else f"there is still {redis}"


OF_STATES = (
    a_pending_task_is_offered_again,
    a_wake_up_is_not_lost,
    a_suspended_task_waits_for_something_that_can_come,
    a_sleeper_costs_nothing,
    only_what_is_pending_is_queued,
    a_deadline_is_armed_as_long_as_it_matters,
    a_task_ends_with_its_promise,
    whoever_delivers_knows_what_to_wait_for,
)
OF_MOVES = (
    what_has_settled_never_changes,
    nothing_happens_early,
    nothing_settles_after_its_deadline,
    nobody_is_executed_after_its_deadline,
    who_has_lost_a_task_changes_nothing,
    every_listener_is_told,
)


def _tasks(redis: Redis) -> list[tuple[str, Promise, Task]]:
    return [(id, promise, promise.task) for id, promise in redis.promises if promise.task]


def _earliest(redis: Redis) -> int:
    return min([when for _, when in (*redis.deadlines, *redis.turns)], default=NEVER)


def _outcome(promise: Promise) -> tuple[object, ...]:
    return promise.state, promise.value, promise.settled


def _settled(at: World, move: Move) -> list[tuple[str, Promise]]:
    """What a move has settled, unless it was born dead."""
    before = {id for id, promise in at.redis.promises if promise.state == PENDING}
    return [(id, one) for id, one in move.after.redis.promises if id in before and one.state != PENDING]
