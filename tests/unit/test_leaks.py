"""The check for leaked keys: which keys count as owned, and which as leaked."""

from __future__ import annotations

import pytest

from durasleep.model import State
from durasleep.protocol.keys import STATE, F
from tests.leaks import Key, Partition, leaks

PENDING = {F["incarnation"]: "1"}
RESOLVED = {F["incarnation"]: "1", F["state"]: STATE[State.RESOLVED]}


def key(fields: dict[str, str] | None = None, items: tuple[str, ...] = (), ttl_ms: int | None = None) -> Key:
    return Key(ttl_ms, fields or {}, items)


OWNED = {
    "a pending promise": {("promise", "a"): key(PENDING)},
    "a settled one that expires": {("promise", "a"): key(RESOLVED, ttl_ms=1)},
    "a settled child of a pending root": {("promise", "a"): key(PENDING), ("promise", "a~1"): key(RESOLVED)},
    "a settled one that was to be kept for ever": {("promise", "a"): key(RESOLVED | {F["retention"]: "-1"})},
    "one that waits to be closed": {
        ("promise", "a"): key(RESOLVED, ttl_ms=1),
        ("promise", "a~1"): key(RESOLVED),
        ("closing", ""): key(items=("a",)),
    },
    "a timer of a pending execution": {("promise", "a"): key(PENDING), ("timers", ""): key(items=("a~1", "a~timeout"))},
    "a queue nobody waits in": {("queue", "workers"): key()},
    "a schedule and its timer": {("schedule", "s"): key(), ("timers", ""): key(items=("s~cron",))},
    "an inbox that expires": {("inbox", "me"): key(ttl_ms=1)},
    "a member quarantined by its name": {("halted", ""): key(items=("timers:x: INVALID member",))},
}
LEAKED = {
    "a pending promise that expires": {("promise", "a"): key(PENDING, ttl_ms=1)},
    "a settled one that does not": {("promise", "a"): key(RESOLVED)},
    "a child of a root that is gone": {("promise", "a~1"): key(RESOLVED)},
    "no promise at all": {("promise", "a"): key({"x": "1"})},
    "a timer of a settled execution": {
        ("promise", "a"): key(RESOLVED, ttl_ms=1),
        ("timers", ""): key(items=("a~1",)),
    },
    "an entry of a settled execution": {
        ("promise", "a"): key(RESOLVED, ttl_ms=1),
        ("queue", "workers"): key(items=("a",)),
    },
    "a schedule that never starts": {("schedule", "s"): key()},
    "an inbox that stays": {("inbox", "me"): key()},
    "a key of no known kind": {("surprise", ""): key(ttl_ms=1)},
    "two wake-ups": {("wake", ""): key(items=("", ""))},
}


@pytest.mark.parametrize("what", OWNED)
def test_what_has_an_owner_or_a_ttl_is_no_leak(what: str) -> None:
    assert leaks(Partition(OWNED[what])) == []


@pytest.mark.parametrize("what", LEAKED)
def test_what_nobody_will_remove_is_one_leak(what: str) -> None:
    assert len(leaks(Partition(LEAKED[what]))) == 1
