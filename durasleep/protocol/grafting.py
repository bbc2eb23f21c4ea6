"""The calls that make a fork: an execution that begins with a part of the journal of another one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from durasleep.model import PromiseId
from durasleep.protocol.command import BatchItem, route, to_text
from durasleep.protocol.keys import Keyspace


class Standing(StrEnum):
    """How far a fork is."""

    BEGUN = "begun"
    """It is being made."""
    FORKED = "forked"
    """It was made, and has begun to run."""
    DONE = "done"
    """It had been made before."""


class Fork(msgspec.Struct, frozen=True):
    """What stays the same in all calls that make one fork."""

    id: PromiseId
    key: str
    """Which fork it is: a call for another one under this id is refused."""
    reason: str
    """Why it is halted while it is being made."""


def begin(
    keys: Keyspace,
    fork: Fork,
    *,
    function: str,
    queue: str,
    args: bytes,
    begun_ms: int,
    base: int,
    lasts_ms: int | None,
    retention: str,
    origins: str,
    labels: str,
    limit: str,
) -> BatchItem[Standing]:
    """Make it, halted. ``limit`` is the name of its limit, a slash and its key."""
    words = ["" if lasts_ms is None else str(lasts_ms), retention, origins, labels, limit]
    return _graft(keys, "begin", fork, [function, queue, args, str(begun_ms), str(base), *words], len(args))


def add_entries(
    keys: Keyspace, fork: Fork, entries: Sequence[tuple[bytes, bytes]], *, order: int
) -> BatchItem[Standing]:
    """Add settled entries, each by its number and as it is stored; the stamp of the last one is ``order``."""
    flat = [value for entry in entries for value in entry]
    return _graft(keys, "entries", fork, [str(order), *flat], sum(map(len, flat)))


def end(keys: Keyspace, fork: Fork) -> BatchItem[Standing]:
    """Let it run."""
    return _graft(keys, "end", fork, [], 0)


def _graft(keys: Keyspace, action: str, fork: Fork, rest: Sequence[Any], size: int) -> BatchItem[Standing]:
    to = route("graft", keys)
    item = to.script.item(*rest, action=action, id=fork.id, key=fork.key, reason=fork.reason)
    return BatchItem(to, item, lambda answer: Standing(to_text(answer)), size)
