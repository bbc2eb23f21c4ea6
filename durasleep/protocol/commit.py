"""The commits of an activation, made by the holder of its lease."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from durasleep.model import (
    CancelEntry,
    Checkpoint,
    CommitAction,
    Entry,
    Mark,
    Op,
    PromiseId,
    Publish,
    SendMessage,
    SettlePromise,
    StartChild,
    StartPromise,
    StartReceive,
    StartTimer,
    StepResult,
    TracePoint,
    Transaction,
)
from durasleep.protocol.command import BatchItem, Route, route
from durasleep.protocol.entry import parse_entry
from durasleep.protocol.foreign import write_traits
from durasleep.protocol.keys import KIND, LIMIT, STATE, Keyspace
from durasleep.protocol.partitions import PARTITIONS_MAX
from durasleep.protocol.promises import NO_TRAITS
from durasleep.protocol.script import Value
from durasleep.protocol.view import view_field

_BEGIN_MS_MIN = LIMIT["begin_ms_min"]


EntryKey = tuple[int, str, str]
"""A partition, a queue, and an entry of its stream."""


class Lease(msgspec.Struct, frozen=True):
    """An execution that a worker holds: its stream entry and its epoch are the fencing token."""

    id: PromiseId
    queue: str
    entry: str
    epoch: int
    snapshot: bytes = b""
    """The fields of the stream entry, see ``journal.read_snapshot``; none if the entry is read again."""
    partition: int = 0
    labels: str = ""
    """Its labels, if it has a snapshot."""
    trace: str = ""
    """Its traces, likewise; see ``journal.PromiseRecord``."""

    @property
    def entry_key(self) -> EntryKey:
        """What distinguishes it from all others: entries of two queues or partitions may have the same id."""
        return self.partition, self.queue, self.entry


NOT_KNOWN = "no worker here knows"
"""The beginning of the reason of a deferred execution whose function its worker lacks."""


class Committed(msgspec.Struct, frozen=True):
    """The answer to a commit; ``redrive`` means that it is still running, and that there are new settlements."""

    redrive: bool
    more: bool
    entries: list[Entry]
    offered: bool = False
    """Whether another worker holds it now, which may know its function."""
    kept: bool = False
    """Whether the lease was kept, because no other worker may know its function."""
    unread: int = 0
    """How many messages an execution that has ended has never read."""


def _parse_committed(answer: list[Any] | bytes) -> Committed:
    if isinstance(answer, bytes):
        return _ANSWERED.get(answer, _NO_NEWS)
    word, more = answer[:2]
    if word == b"unread":
        return Committed(redrive=False, more=False, entries=[], unread=int(more))
    entries: list[Entry] = []
    for at in range(2, len(answer), 2):
        entries.append(parse_entry(answer[at], answer[at + 1]))  # noqa: PERF401 - nearly always there is one
    return Committed(word == b"redrive", more == b"1", entries)


_NO_NEWS = Committed(redrive=False, more=False, entries=[])
_ANSWERED = {
    b"offered": Committed(redrive=False, more=False, entries=[], offered=True),
    b"kept": Committed(redrive=False, more=False, entries=[], kept=True),
}


def _op_values(op: Op, keys: Keyspace) -> list[Value]:
    # The most frequent ops are not matched by pattern: that takes five times as long.
    if isinstance(op, StartTimer):
        return ["4", "timer", op.number, op.name, op.due]
    if isinstance(op, StepResult):
        began = str(op.begun_ms) if op.begun_ms >= _BEGIN_MS_MIN else ""
        return ["6", "step", op.number, op.name, STATE[op.state], op.payload, began]
    match op:
        case StartPromise(number, name, due):
            return ["4", "promise", number, name, due or ""]
        case StartChild(number, function, args, queue, due, child_id, detached, retention_ms, start, traits, trace):
            op_name = "detached" if detached else "child"
            retention = "" if retention_ms is None else str(retention_ms)
            words: list[Value] = [op_name, number, function, queue or "", args, due or ""]
            there = keys.elsewhere(child_id) if child_id else None
            if there is not None:
                traits = write_traits(traits, trace)
            elif trace:
                traits = f"{traits or NO_TRAITS}{trace}"
            words += [child_id or "", retention, start or "", traits]
            if there is not None:
                words.append(str(there))
            return [str(len(words)), *words]
        case CancelEntry(number, kind, name):
            return ["4", "cancel", number, KIND[kind], name]
        case Checkpoint(number, payload):
            return ["3", "checkpoint", number, payload]
        case StartReceive(number, name, due):
            return ["4", "receive", number, name, due or ""]
        case SendMessage(number, name, target, payload):
            return _toward(target, keys, ["send", number, name, target, payload])
        case SettlePromise(number, target, state, payload):
            return _toward(target, keys, ["settle", number, target, STATE[state], payload])
        case Publish(payload, step, number):
            return ["4", "publish", number, view_field(step), payload]
        case TracePoint(context, is_later, number):
            return ["4", "trace", number, "now" if is_later else "first", context]
        case Mark(number, kind, name):
            return ["4", "mark", number, KIND[kind], name]
        case Transaction(number, commands):
            words: list[Value] = ["transaction", number]
            for command in commands:
                words += [str(len(command)), *command]
            return [str(len(words)), *words]


def _toward(target: PromiseId, keys: Keyspace, words: list[Value]) -> list[Value]:
    """An op on another promise, with its partition if that is another one."""
    if (there := keys.elsewhere(target)) is not None:
        words.append(str(there))
    return [str(len(words)), *words]


def op_bytes(op: Op) -> int:
    """The bytes of the user's values in an op."""
    if isinstance(op, StartTimer):
        return 0
    if isinstance(op, StepResult):
        return len(op.payload)
    match op:
        case StartChild():
            return len(op.args)
        case Checkpoint() | SendMessage() | SettlePromise() | Publish():
            return len(op.payload)
        case Transaction():
            return sum([len(word) for command in op.commands for word in command])
        case _:
            return 0


_COMMIT = ("id", "entry", "words", "payload")
"""The first arguments of an item of commit.lua. This item is the most frequent, so it is built by position, not by
name."""
_COMMIT_SIZE = str(len(_COMMIT))


@lru_cache(maxsize=4 * PARTITIONS_MAX)
def _commit_route(keys: Keyspace, consumer: str) -> Route:
    to = route("commit", keys, (consumer,))
    if to.script.item_names != _COMMIT:
        raise TypeError(f"an item of commit.lua begins with {to.script.item_names}, not {_COMMIT}")
    return to


def commit(
    keys: Keyspace,
    consumer: str,
    lease: Lease,
    outcome: CommitAction,
    *,
    seen: int = 0,
    seen_number: str = "",
    asked: str = "",
    ops: Iterable[Op] = (),
    payload: bytes = b"",
    due: str = "",
    open: bool = True,
) -> BatchItem[Committed]:
    """The commit of one activation. ``payload`` is the result, the error, or the reason of a delay or halt. ``due`` is
    the delay of ``retry`` and ``defer`` (a space and the fingerprint of a worker that lacks the function may follow),
    or the base of ``continue_as_new``. ``open`` is false if all its calls have settled. ``seen`` is the last settlement
    it knows, ``asked`` the last number of its previous commit. Fenced if the lease is lost, or if the server does not
    know these two, after a failover.
    """
    # An outcome is a str itself: asking an enum for its value takes longer than all of this.
    words = "\t".join((lease.queue, str(lease.epoch), str(seen), seen_number, outcome, due, "1" if open else "", asked))
    args: list[Value] = [_COMMIT_SIZE, lease.id, lease.entry, words, payload]
    size = len(payload)
    if ops:
        for op in ops:
            args += _op_values(op, keys)
            size += op_bytes(op)
        args[0] = str(len(args) - 1)
    return BatchItem(_commit_route(keys, consumer), args, _parse_committed, size)


def note(keys: Keyspace, consumer: str, lease: Lease, number: str, first: str, payload: bytes) -> BatchItem[object]:
    """Keep the checkpoint of an attempt; Fenced if the lease is lost. Nothing changes if the attempt has ended."""
    to = route("note", keys, (consumer,))
    item = to.script.item(
        id=lease.id, entry=lease.entry, epoch=str(lease.epoch), number=number, first=first, payload=payload
    )
    return BatchItem(to, item, bool)


def publish(keys: Keyspace, consumer: str, lease: Lease, number: str, step: str, payload: bytes) -> BatchItem[object]:
    """Let others see what an attempt publishes; Fenced if the lease is lost. Nothing changes if the attempt has ended.
    ``step`` is the number of the first attempt, empty for a task.
    """
    to = route("publish", keys, (consumer,))
    item = to.script.item(
        id=lease.id, entry=lease.entry, epoch=str(lease.epoch), number=number, first=step, payload=payload
    )
    return BatchItem(to, item, bool)
