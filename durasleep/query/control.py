"""Control of executions from outside: wake, reschedule, cancel, force, halt, resume, retry."""

from __future__ import annotations

from datetime import datetime

from durasleep.errors import (
    NotAllowed,
)
from durasleep.model import (
    Duration,
    Kind,
    Place,
    PromiseId,
    check_id,
    due_at,
    due_in,
)
from durasleep.protocol import command, journal, promises
from durasleep.protocol.command import Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Controlled
from durasleep.query.waiting_on import Pending, pending_of

NAMED_MAX = 5  # timers in one sentence


def apply(
    keys: Keyspace, action: str, id: str, *, due: Duration | datetime | None = None, reason: str = "", by: str = ""
) -> Plan[Controlled]:
    """``wake``, ``reschedule``, ``cancel``, ``force``, ``halt``, ``resume`` or ``retry``; ``by`` whom, if that is to be
    kept.

    The id of a sleeping execution means the only timer that it waits for. That timer is then controlled by its own id,
    so that a call repeated after a lost answer never ends the next sleep as well.
    """
    when = None if due is None else due_at(due) if isinstance(due, datetime) else due_in(due)
    [answer] = yield [promises.control(keys, action, check_id(id), due=when, reason=reason, by=by)]
    controlled = command.unwrap(answer)
    while controlled.word == "closing":  # a long journal is deleted in parts
        [answer] = yield [promises.control(keys, action, PromiseId(id), by=by)]
        controlled = command.unwrap(answer)
    if controlled.word != "asleep":
        return controlled
    loaded = yield from journal.load(keys, PromiseId(id))
    if loaded is None or loaded.record.place is not Place.SUSPENDED:
        return Controlled("already", loaded.record.state if loaded else controlled.state)
    sleeps = [one for one in pending_of(loaded) if one.kind == Kind.TIMER]
    if len(sleeps) != 1:
        raise NotAllowed(f"{id} {_name_sleeps(sleeps)}")
    [answer] = yield [promises.control(keys, action, PromiseId(sleeps[0].id), due=when, reason=reason, by=by)]
    return command.unwrap(answer)


def _name_sleeps(sleeps: list[Pending]) -> str:
    if not sleeps:
        return "waits for no timer of its own"
    names = [f"{one.id} ({one.name})" if one.name else one.id for one in sleeps[:NAMED_MAX]]
    more = len(sleeps) - len(names)
    return f"waits for {len(sleeps)} timers, name one: {', '.join(names)}{f' and {more} more' if more else ''}"
