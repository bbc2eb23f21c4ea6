"""Calls from one partition to another: what a firing finds to be asked and told there, and what is sent for it.

Nothing is sent from script to script. The entry of the caller is kept, and asked for again and again until it has heard
of the end; and an ending is told again and again until its waiters have heard of it. So each message may be lost, and
may come twice.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

from durasleep.model import Due, Kind, PromiseId, State
from durasleep.protocol import promises
from durasleep.protocol.command import KIND_OF, BatchItem, route, state_of, to_text
from durasleep.protocol.keys import STATE, Keyspace
from durasleep.protocol.promises import Created, Settled

_TRACE_BYTES = 25  # of a trace: its id, that of a span, and flags


@dataclass(frozen=True, slots=True)
class Heard:
    """What an entry hears of what it has asked for in another partition."""

    state: State
    value: bytes


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
    trace: str = ""
    """See ``promises.create``."""


@dataclass(frozen=True, slots=True)
class Message:
    """An entry of an execution sends a message to one that belongs to another partition."""

    entry_id: str
    incarnation: str
    child_id: PromiseId
    """Whose mailbox it is for."""
    channel: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
    """An entry of an execution settles a promise that belongs to another partition."""

    entry_id: str
    incarnation: str
    child_id: PromiseId
    """The promise."""
    state: State
    value: bytes


Question = Ask | Message | Settlement
"""What is asked of another partition, again and again until it has answered."""


@dataclass(frozen=True, slots=True)
class Tell:
    """An execution has ended, or has got a message, and entries of other partitions wait to hear of it."""

    id: PromiseId
    incarnation: str
    state: State
    value: bytes | None
    """None if it is too large to be answered here."""
    waiters: list[str]
    """Each the partition, the incarnation of the execution that waits, and its entry; see ``waiter_of``. Promises of
    Resonate are among them, see ``bridge.waiter``."""


def parse_question(raw: list[bytes]) -> Question:
    entry_id, incarnation, to = to_text(raw[0]), to_text(raw[1]), PromiseId(to_text(raw[2]))
    kind, function, body = KIND_OF[raw[3]], raw[4], raw[5]
    what, args = body.split(b"\n", 1)
    if kind is Kind.SEND:
        return Message(entry_id, incarnation, to, to_text(function), args)
    if kind is Kind.SETTLE:
        return Settlement(entry_id, incarnation, to, state_of(what.split(b"\t")[1]), args)
    _, queue, deadline, start, retention, *traits = to_text(what).split("\t", 5)
    traits, trace = _parse_traits("".join(traits))
    return Ask(
        entry_id=entry_id,
        incarnation=incarnation,
        child_id=to,
        is_detached=kind is Kind.DETACHED,
        function=to_text(function),
        queue=queue,
        deadline=Due(deadline) if deadline else None,
        start=Due(start) if start else None,
        retention_ms=int(retention) if retention else None,
        traits=traits,
        args=args,
        trace=trace,
    )


def write_traits(traits: str, trace: str) -> str:
    """The traits of a child in another partition, with its trace as a number: a relay of an earlier version passes that
    on, too, and its scripts leave it alone.
    """
    if not trace:
        return traits
    return f"{traits or promises.NO_TRAITS}{int.from_bytes(urlsafe_b64decode(trace + '=='))}"


def _parse_traits(words: str) -> tuple[str, str]:
    traits, tab, last = words.rpartition("\t")
    if not last.isdecimal() or int(last).bit_length() > 8 * _TRACE_BYTES:
        return words, ""
    trace = urlsafe_b64encode(int(last).to_bytes(_TRACE_BYTES)).decode().rstrip("=")
    return traits + tab, trace


def parse_tell(raw: list[Any]) -> Tell:
    id, incarnation, state, has_value, value, waiters = raw
    return Tell(
        PromiseId(to_text(id)),
        to_text(incarnation),
        state_of(state),
        value if has_value else None,
        [to_text(one) for one in waiters],
    )


def waiter_of(ask: Question, keys: Keyspace) -> str:
    """The line that stands for the one who asks in another partition, among the waiters there or in the mailbox."""
    return f"{keys.partition} {ask.incarnation} {ask.entry_id}"


def pose(there: Keyspace, ask: Question, here: Keyspace) -> BatchItem[Any]:
    """Do what was asked for; a repeated question gets the same answer, see ``heard_of``."""
    if isinstance(ask, Message):
        to = route("send", there)
        memo = f"x{waiter_of(ask, here)}"
        nobody = {"caller": "", "reply": "", "due": "", "inbox": ""}
        item = to.script.item(id=ask.child_id, channel=ask.channel, memo=memo, value=ask.value, **nobody)
        return BatchItem(to, item, lambda word: Heard(State.RESOLVED, word[:1]), len(ask.value))
    if isinstance(ask, Settlement):
        item = promises.settle(there, ask.child_id, ask.state, ask.value)
        return BatchItem(item.route, [str(len(item.args)), *item.args[1:], "1"], item.parse)
    return _begin(there, ask, here)


def heard_of(answer: Heard | Created | Settled) -> Heard:
    """What the entry that asks hears."""
    match answer:
        case Created():
            return Heard(answer.state, answer.value)
        case Settled():
            return Heard(State.RESOLVED, b"1" if answer.by_us else b"0")
        case Heard():
            return answer


def _begin(there: Keyspace, ask: Ask, here: Keyspace) -> BatchItem[Created]:
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
        trace=ask.trace,
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
    """A waiter of another partition has heard of the end of this one, or of what has become of its message."""
    to = route("told", keys)
    return BatchItem(to, to.script.item(id=id, waiter=waiter), bool)
