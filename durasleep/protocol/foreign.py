"""Calls from one partition to another: what a firing finds to be asked and told there, and what is sent for it.

Nothing is sent from script to script. The entry of the caller is kept, and asked for again and again until it has heard
of the end; and an ending is told again and again until its waiters have heard of it. So each message may be lost, and
may come twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from durasleep.model import Due, Kind, PromiseId, State
from durasleep.protocol import promises
from durasleep.protocol.command import KIND_OF, BatchItem, route, state_of, to_text
from durasleep.protocol.keys import STATE, Keyspace
from durasleep.protocol.promises import Created


@dataclass(frozen=True, slots=True)
class Ask:
    """An entry of an execution asks for an execution that belongs to another partition."""

    entry_id: str
    incarnation: str
    child_id: PromiseId
    is_detached: bool
    """Whether nobody waits for its end."""
    function: str
    queue: str
    deadline: Due | None
    start: Due | None
    retention_ms: int | None
    traits: str
    args: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """An execution has ended, and entries of other partitions wait for it."""

    id: PromiseId
    state: State
    value: bytes | None
    """None if it is too large to be answered here."""
    waiters: list[str]
    """Each the partition, the incarnation of the execution that waits, and its entry; see ``waiter_of``."""


def parse_ask(raw: list[bytes]) -> Ask:
    entry_id, incarnation, child_id, kind, function, body = raw
    what, args = body.split(b"\n", 1)
    _, queue, deadline, start, retention, *traits = to_text(what).split("\t", 5)
    return Ask(
        entry_id=to_text(entry_id),
        incarnation=to_text(incarnation),
        child_id=PromiseId(to_text(child_id)),
        is_detached=KIND_OF[kind] is Kind.DETACHED,
        function=to_text(function),
        queue=queue,
        deadline=Due(deadline) if deadline else None,
        start=Due(start) if start else None,
        retention_ms=int(retention) if retention else None,
        traits="".join(traits),
        args=args,
    )


def parse_tell(raw: list[Any]) -> Tell:
    id, _, state, has_value, value, waiters = raw
    return Tell(
        PromiseId(to_text(id)), state_of(state), value if has_value else None, [to_text(one) for one in waiters]
    )


def waiter_of(ask: Ask, keys: Keyspace) -> str:
    """The line that stands among the waiters of what is asked for, in another partition."""
    return f"{keys.partition} {ask.incarnation} {ask.entry_id}"


def begin(there: Keyspace, ask: Ask, here: Keyspace) -> BatchItem[Created]:
    """Start what was asked for, or attach to it."""
    return promises.create(
        there,
        ask.child_id,
        kind=Kind.EXECUTION,
        function=ask.function,
        queue=ask.queue,
        args=ask.args,
        start=ask.start,
        deadline=ask.deadline,
        idempotency_key=f"{ask.incarnation} {ask.entry_id}",
        retention="" if ask.retention_ms is None else str(ask.retention_ms),
        traits=ask.traits,
        waiter="" if ask.is_detached else waiter_of(ask, here),
    )


def hear(
    keys: Keyspace,
    entry_id: str,
    incarnation: str,
    child_id: PromiseId,
    state: State,
    value: bytes,
    *,
    is_refused: bool = False,
) -> BatchItem[bool]:
    """An entry hears of what it has asked for; false if it does not wait for it (any more).

    ``is_refused``: nothing was started, and ``value`` is the error, empty if the id belongs to another function.
    """
    to = route("hear", keys)
    item = to.script.item(
        entry_id=entry_id,
        incarnation=incarnation,
        child_id=child_id,
        state=STATE[state],
        refused="1" if is_refused else "",
        value=value,
    )
    return BatchItem(to, item, lambda word: word == b"heard", len(value))


def told(keys: Keyspace, id: PromiseId, waiter: str) -> BatchItem[object]:
    """A waiter of another partition has heard of the end of this one."""
    to = route("told", keys)
    return BatchItem(to, to.script.item(id=id, waiter=waiter), bool)
