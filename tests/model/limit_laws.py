"""The laws of limits: of every state, and of every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from durasleep.model import Place
from tests.model.gate import Limit, Parked
from tests.model.limits import WAKES_UP, parts_of, priority_of
from tests.model.state import Promise, Redis
from tests.model.workers import Service, Step


def _of(redis: Redis, limit: str) -> Iterator[tuple[str, Promise, str]]:
    """The executions of a limit, each with its key."""
    for id, promise in redis.promises:
        _, name, key = parts_of(promise.limit)
        if name == limit:
            yield id, promise, key


def _inside(redis: Redis, name: str, limit: Limit) -> dict[str, str]:
    """The executions that count for a limit, each with its key."""
    found: dict[str, str] = {}
    for id, promise, key in _of(redis, name):
        counts_asleep = limit.numbers.is_for_life and promise.is_pending and promise.limit.startswith("+")
        if promise.place is Place.QUEUED or counts_asleep:
            found[id] = key
    return found


def law_02_what_is_parked_waits_at_its_gate(redis: Redis) -> str:
    """In the order of its key, or it has made room for another one and is about to end."""
    timers = dict(redis.timers)
    for name, limit in redis.limits:
        waiting = {one.id: key for key, parked in limit.parked for one in parked}
        for id, promise, key in _of(redis, name):
            is_parked = promise.place is Place.PARKED
            if is_parked and f"{id}~replaced" in timers and id not in waiting:
                continue
            if (waiting.get(id) == key) != is_parked:
                return f"{id} is {promise.place or promise.state}, for {key!r} wait {sorted(waiting)}"
        if dict(limit.parked).keys() != dict(limit.waiting).keys():
            return f"keys with parked work are {limit.parked}, those that wait for their turn {limit.waiting}"
        if limit.parked_count != len(waiting):
            return f"{limit.parked_count} are said to be parked, and {len(waiting)} are"
    return ""


def law_11_slots_are_held_by_those_that_count(redis: Redis) -> str:
    for name, limit in redis.limits:
        held, inside = dict(limit.held), _inside(redis, name, limit)
        marked = {id: key for id, promise, key in _of(redis, name) if promise.limit.startswith("+")}
        if limit.is_by_hand or limit.code.is_for_life != limit.numbers.is_for_life:
            inside = inside | marked
        if not held == marked == inside:
            return f"slots of {name} are held by {held}, {inside} count, {marked} say that they hold one"
        if dict(limit.in_use) != dict(Counter(held.values())):
            return f"slots of {name} in use are {limit.in_use}, held by {held}"
    return ""


def law_01_who_may_begin_is_about_to(redis: Redis) -> str:
    """After what is due has fired, no key has parked work, room, and no timer."""
    timers = dict(redis.timers)
    for name, limit in redis.limits:
        total = limit.numbers.total
        if limit.is_paused or (total is not None and len(limit.held) >= total) or f"{name}/~gates" in timers:
            continue
        in_use, used_up = dict(limit.in_use), dict(limit.used_up)
        for key, parked in limit.parked:
            if limit.numbers.per_key is not None and in_use.get(key, 0) >= limit.numbers.per_key:
                continue
            needs_token = limit.numbers.step_ms is not None and parked[0].level != WAKES_UP
            latest = max(redis.now, used_up.get(key, 0)) if needs_token else redis.now
            if timers.get(f"{name}/{key}~gate", latest + 1) > latest:
                return f"{parked[0].id} may begin at {latest}, and nothing lets it; timers are {timers}"
    return ""


def law_11_a_slot_for_life_is_kept(at: Service, step: Step) -> str:
    before = dict(at.redis.limits)
    for name, limit in step.after.redis.limits if not step.is_outside else ():
        for id, promise, _ in _of(step.after.redis, name) if limit.numbers.is_for_life else ():
            was = at.redis.promise(id)
            if was is None or was.incarnation != promise.incarnation or not promise.is_pending:
                continue
            if before[name].numbers.is_for_life and was.limit[0] == "+" != promise.limit[0]:
                return f"{id} had a slot of {name}, and has given it up before its end"
    return ""


def law_11_no_limit_is_broken(at: Service, step: Step) -> str:
    """No more run than the limit says; those that ran before it was changed go on."""
    before = dict(at.redis.limits)
    for name, limit in step.after.redis.limits if not step.is_outside else ():
        was, now = _inside(at.redis, name, before[name]), _inside(step.after.redis, name, limit)
        total, per_key = limit.numbers.total, limit.numbers.per_key
        if total is not None and len(now) > max(total, len(was)):
            return f"{len(now)} of {name} run: {sorted(now)}"
        for key, count in Counter(now.values()).items():
            if per_key is not None and count > max(per_key, Counter(was.values())[key]):
                return f"{count} of {name}/{key} run: {sorted(now)}"
        if limit.is_paused and now.keys() - was.keys():
            return f"{now.keys() - was.keys()} began while {name} was paused"
    return ""


def law_11_the_first_of_a_key_begins_first(at: Service, step: Step) -> str:
    """Of those that wait for one key, those that begin have waited longest, and nobody overtakes them."""
    for name, limit in step.after.redis.limits if not step.is_outside else ():
        was, after = dict(dict(at.redis.limits)[name].parked), dict(limit.parked)
        for key, parked in was.items():
            begun = [one for one in parked if _has_begun(step.after.redis, one)]
            left = [one for one in after.get(key, ()) if one in parked]
            if begun and left and max(begun) > min(left):
                return f"{max(begun).id} began, and {min(left).id} of the same key still waits"
            for id, promise, its_key in _of(step.after.redis, name):
                is_new = at.redis.promise(id) is None and promise.place is Place.QUEUED and its_key == key
                if is_new and left and left[0].level <= priority_of(promise.queue):
                    return f"{id} has come and begun, and {left[0].id} of the same key still waits"
    return ""


def _has_begun(redis: Redis, parked: Parked) -> bool:
    promise = redis.promise(parked.id)
    return promise is not None and promise.place is Place.QUEUED


def law_11_only_who_is_replaced_is_dropped(at: Service, step: Step) -> str:
    """Who is parked when the timer of an earlier one fires goes on waiting."""
    before = {one.id for _, limit in at.redis.limits for _, parked in limit.parked for one in parked}
    for id in before if step.is_firing else ():
        member = f"{id}~replaced"
        promise = step.after.redis.promise(id)
        if member in dict(at.redis.timers) and promise is not None and not promise.is_pending:
            return f"{id} was parked, and ended for one that had been replaced"
    return ""


def left(redis: Redis) -> Iterator[str]:
    """What limits have, if all executions have ended."""
    for name, limit in redis.limits:
        if limit.held or limit.in_use or limit.parked or limit.waiting or limit.parked_count or limit.is_looked_through:
            yield f"limit {name} has {limit}"


OF_STATES = (
    law_02_what_is_parked_waits_at_its_gate,
    law_11_slots_are_held_by_those_that_count,
    law_01_who_may_begin_is_about_to,
)
OF_STEPS = (
    law_11_a_slot_for_life_is_kept,
    law_11_no_limit_is_broken,
    law_11_the_first_of_a_key_begins_first,
    law_11_only_who_is_replaced_is_dropped,
)
