"""No script call does very much, however large what it is about: the rest is done by the next ones, and all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest

from durasleep.errors import PayloadTooLarge, UsageError
from durasleep.model import (
    CommitAction,
    Due,
    Kind,
    Number,
    Place,
    PromiseId,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from durasleep.protocol import promises, streams
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, F
from durasleep.protocol.script import Value
from durasleep.query import fsck
from durasleep.runtime.transaction import TRANSACTION_COMMANDS_MAX, check_transaction
from durasleep.runtime.transaction_reply import read_reply
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import Reply
from tests.store.driver import FAR, WORKER, Driver, bytes_of, child

MEGABYTE = b"x" * (1 << 20)
BYTES_MAX = LIMIT["call_bytes_max"] + 2 * len(MEGABYTE)


def timers(first: int, last: int) -> list[StartTimer]:
    return [StartTimer(Number(str(number)), "", FAR) for number in range(first, last + 1)]


async def long_run(driver: Driver, count: int = 1000) -> Lease:
    """One that waits for very many timers and children, one of them with an id of its own."""
    await driver.create("single", "g")
    await driver.take()
    lease = await driver.start("a", deadline=FAR)
    for first in range(1, count, 250):
        await driver.commit(lease, CommitAction.CONTINUE, *timers(first, first + 249))
    own = child(str(count + 3), "single")
    await driver.commit(lease, CommitAction.CONTINUE, child(str(count + 1)), child(str(count + 2)), own)
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    return lease


async def test_a_long_run_that_begins_anew_is_closed_in_parts(driver: Driver) -> None:
    lease = await long_run(driver)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1003", payload=b"new")
    loaded = await driver.load("a")
    assert (loaded.entries, loaded.record.args, loaded.record.base) == ({}, b"new", 1003)
    assert loaded.record.deadline_ms > 0
    assert loaded.record.place is Place.QUEUED
    assert len(await driver.timers()) > 500  # not all at once
    new = next(one for one in await driver.read(9) if one.id == "a")
    await driver.commit(new, CommitAction.SUSPEND, *timers(1004, 1004))
    await driver.fire_all()
    assert set(await driver.timers()) == {"a~1004", "a~timeout"}
    assert await driver.redis.exists(driver.keys.run("a")) == 0
    assert (await driver.record("a~1002")).state is State.CANCELED
    await driver.assert_kept_together("a~1001", "a~1002")
    await driver.control("cancel", "single")
    assert list((await driver.load("a")).entries) == ["1004"]


async def test_timers_of_a_run_that_is_being_closed_are_no_findings(driver: Driver) -> None:
    lease = await long_run(driver)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1003")
    assert len(await driver.timers()) > 500
    assert (await driver.store.run(fsck.fsck(driver.store.keyspaces))).findings == []
    await driver.fire_all()
    await driver.control("force", "a")


async def test_who_begins_anew_before_the_last_run_is_closed_loses_nothing(driver: Driver) -> None:
    lease = await long_run(driver)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1003")
    lease = next(one for one in await driver.read(9) if one.id == "a")
    await driver.commit(lease, CommitAction.CONTINUE, *timers(1004, 1200))
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1200")
    await driver.fire_all()
    assert set(await driver.timers()) == {"a~timeout"}
    assert (await driver.record("a~1002")).state is State.CANCELED
    await driver.control("force", "a")


async def test_a_cancel_that_a_long_run_has_not_heard_of_is_heard_by_the_next(driver: Driver) -> None:
    lease = await long_run(driver)
    assert (await driver.control("cancel", "a")).word == "canceling"
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1003")
    loaded = await driver.load("a")
    assert [entry.kind for entry in loaded.entries.values()] == [Kind.CANCEL]
    assert loaded.record.unseen == {"0"}
    await driver.fire_all()
    await driver.control("force", "a")


async def large_family(driver: Driver, id: str, count: int = 40) -> Lease:
    """Results of a megabyte each, and a child."""
    lease = await driver.start(id)
    seen = None
    for number in range(1, count + 1):
        step = StepResult(Number(str(number)), "step", State.RESOLVED, MEGABYTE)
        seen = (await driver.commit(lease, CommitAction.CONTINUE, step, seen=seen)).entries[-1]
    await driver.commit(lease, CommitAction.CONTINUE, child("900"), seen=seen)
    return lease


@pytest.mark.parametrize("how", [CommitAction.RESOLVE, CommitAction.CONTINUE_AS_NEW])
async def test_a_family_with_large_results_is_closed_in_parts(driver: Driver, how: CommitAction) -> None:
    lease = await large_family(driver, "a")
    await driver.commit(lease, how, due="900")
    key = driver.keys.promise("a") if how is CommitAction.RESOLVE else driver.keys.run("a")
    parts, cursors = 0, set[bytes]()
    while (await driver.fire()).closing:
        parts += 1
        cursors.add(await driver.redis.hget(key, F["cursor"]))
    assert len(cursors) == parts >= 2  # each goes on where the one before has ended
    assert not await driver.redis.hexists(key, F["cursor"])
    assert (await driver.record("a~900")).state is State.CANCELED
    if how is CommitAction.RESOLVE:
        await driver.assert_kept_together("a", "a~900")
    else:
        await driver.control("force", "a")


async def test_no_call_ends_very_many_children(driver: Driver) -> None:
    """To end another one takes several commands, so that they are fewer than what a call otherwise looks at."""
    lease, numbers = await driver.start("a"), [str(number) for number in range(1, 201)]
    large = StepResult(Number("201"), "step", State.RESOLVED, b"x" * 100)  # a small hash is looked at in one go
    await driver.commit(lease, CommitAction.CONTINUE, *map(child, numbers), large)
    await driver.commit(lease, CommitAction.RESOLVE)
    states = [(await driver.record(f"a~{number}")).state for number in numbers]
    assert 0 < states.count(State.CANCELED) < LIMIT["family_max"] / 4
    await driver.fire_all()
    assert {(await driver.record(f"a~{number}")).state for number in numbers} == {State.CANCELED}


async def test_answers_that_are_large_together_come_one_call_after_the_other(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        await driver.commit(await driver.start(f"v{number}"), CommitAction.RESOLVE, payload=MEGABYTE)
    largest: list[int] = []
    exchange = Link.exchange

    async def watched(self: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        replies = await exchange(self, commands, block_s=block_s)
        largest.extend(map(bytes_of, replies))
        return replies

    monkeypatch.setattr(Link, "exchange", watched)
    calls = [promises.attach(driver.keys, PromiseId(f"v{number}")) for number in range(20)]
    assert [len(one.value) for one in await driver.store.ask(calls)] == [len(MEGABYTE)] * 20
    assert max(largest) <= BYTES_MAX
    assert len(largest) >= 4


async def test_whoever_asks_for_many_large_results_at_once_gets_them_all(driver: Driver) -> None:
    for number in range(12):
        await driver.commit(await driver.start(f"v{number}"), CommitAction.RESOLVE, payload=MEGABYTE)
    lease = await driver.start("a")
    await driver.commit(
        lease, CommitAction.SUSPEND, *[child(str(number + 1), f"v{number}", function="f") for number in range(12)]
    )
    pending = [entry for entry in (await driver.load("a")).entries.values() if entry.state is State.PENDING]
    assert len(pending) >= 6
    assert await driver.redis.pttl(driver.keys.promise("v11")) == -1
    await driver.fire_all()
    entries = (await driver.load("a")).entries.values()
    assert [len(entry.payload) for entry in entries] == [len(MEGABYTE)] * 12
    await driver.assert_kept_together(*[f"v{number}" for number in range(12)])


async def test_one_large_result_is_told_to_many_in_parts(driver: Driver) -> None:
    lease = await driver.start("own", function="g")
    for number in range(12):
        await driver.commit(await driver.start(f"a{number}"), CommitAction.SUSPEND, child("1", "own"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=MEGABYTE)
    heard = [(await driver.record(f"a{number}")).place for number in range(12)]
    assert heard.count(Place.QUEUED) <= BYTES_MAX // len(MEGABYTE)
    await driver.fire_all()
    for number in range(12):
        assert len((await driver.entry(f"a{number}", "1")).payload) == len(MEGABYTE)


async def test_executions_with_much_in_them_fire_together(driver: Driver) -> None:
    for number in range(12):
        lease = await driver.start(f"a{number}")
        step = StepResult(Number("1"), "step", State.RESOLVED, MEGABYTE)
        seen = (await driver.commit(lease, CommitAction.CONTINUE, step)).entries[-1]
        await driver.commit(lease, CommitAction.SUSPEND, StartTimer(Number("2"), "", FAR), seen=seen)
    await asyncio.gather(*[driver.control("reschedule", f"a{n}~2", due=Due("=1")) for n in range(12)])
    assert (await driver.fire()).due == 12
    assert len(await driver.queued()) == 12


async def test_thousands_of_timers_are_set_at_once_and_fire_at_once(driver: Driver) -> None:
    """No command takes as many values as these have."""
    await driver.beat()
    lease, count = await driver.start("a"), 4501
    due = Due("=1")
    await driver.commit(
        lease, CommitAction.CONTINUE, *[StartTimer(Number(str(number)), "", due) for number in range(1, count + 1)]
    )
    assert (await driver.fire(limit=5000)).due == count
    told = await driver.store.send(streams.list_entries(driver.keys.inbox(WORKER).encode(), count=100))
    assert [len(fields) for _, fields in told[1:]] == [1000] * 9 + [2]
    await driver.control("force", "a")
    await driver.fire_all()


async def test_endings_are_noted_together_in_entries_of_sixteen(driver: Driver) -> None:
    """Those that failed are noted once more, but not promises, which no code has failed."""
    leases = await driver.start_all([f"a{number}" for number in range(40)])
    await driver.create("p", kind=Kind.PROMISE)
    outcomes = [CommitAction.REJECT if number % 2 else CommitAction.RESOLVE for number in range(40)]
    calls = [driver.commit(lease, outcome) for lease, outcome in zip(leases, outcomes, strict=True)]
    await asyncio.gather(*calls)
    await driver.control("force", "p")

    async def noted(stream: str) -> list[list[bytes]]:
        rows = await driver.store.send(streams.list_entries(stream.encode(), count=100))
        return [fields[3::8] for _, fields in rows]

    recent = await noted(driver.keys.recent)
    assert [len(ids) for ids in recent] == [16, 16, 8, 1]
    assert sorted(chain(*recent)) == sorted([*(lease.id.encode() for lease in leases), b"p"])
    failed = await noted(driver.keys.failed)
    assert sorted(chain(*failed)) == sorted(lease.id.encode() for lease in leases[1::2])


# -- transactions


async def carried_out(driver: Driver, *asked: tuple[bytes, ...]) -> tuple[State, bytes]:
    lease = await driver.start("a")
    [entry] = (await driver.commit(lease, CommitAction.CONTINUE, Transaction(Number("1"), asked))).entries
    return entry.state, entry.payload


async def test_a_transaction_that_answers_too_much_says_so_and_keeps_none_of_it(driver: Driver) -> None:
    key = driver.own_key("large").encode()
    await driver.redis.set(key, b"x" * 5_000_000)
    state, payload = await carried_out(driver, (b"INCR", key + b"-n"), (b"GET", key), (b"INCR", key + b"-n"))
    assert state is State.REJECTED
    assert b"command 2 (GET) was carried out" in payload
    assert b"more than 1048576 bytes" in payload
    assert len(payload) < 1000
    assert await driver.redis.get(key + b"-n") == b"1"
    await driver.redis.delete(key, key + b"-n")


@pytest.mark.parametrize("each", [b"", b"x" * 100])
async def test_lists_count_by_all_that_is_in_them(driver: Driver, each: bytes) -> None:
    key = driver.own_key("list").encode()
    for _ in range(40):
        await driver.redis.rpush(key, *[each] * 2000)
    state, payload = await carried_out(driver, (b"LRANGE", key, b"0", b"-1"))
    assert (state, len(payload) < 1000) == (State.REJECTED, True)
    await driver.redis.delete(key)


async def test_a_transaction_that_answers_as_much_as_it_may_is_kept(driver: Driver) -> None:
    key = driver.own_key("large").encode()
    await driver.redis.set(key, b"x" * 1_000_000)
    asked = (b"GET", key), (b"HGETALL", key + b"-none"), (b"GET", key + b"-none"), (b"PING",)
    state, payload = await carried_out(driver, *asked)
    assert state is State.RESOLVED
    assert read_reply(payload) == [b"x" * 1_000_000, [], None, "PONG"]
    await driver.redis.delete(key)


def test_a_transaction_is_bounded_before_it_is_sent() -> None:
    check_transaction([(b"SET", b"key", b"x" * 900)], 1000)
    with pytest.raises(PayloadTooLarge, match="1017 bytes, over the cap of 1000: nothing was sent"):
        check_transaction([(b"SET", b"key", b"x" * 1000), (b"GET", b"key12345")], 1000)
    with pytest.raises(UsageError, match="1,001 commands"):
        check_transaction([(b"GET", b"key")] * (TRANSACTION_COMMANDS_MAX + 1), 1 << 20)
