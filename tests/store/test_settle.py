"""settle.lua: a promise settles once, from outside, and whoever waits hears of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from durasleep.errors import CorruptData, NotAllowed, NotFound, UsageError
from durasleep.model import CommitAction, Kind, Number, Place, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol import promises
from durasleep.protocol.keys import LIMIT
from tests.store.driver import FAR, Driver, child

EVERY_BYTE = bytes(range(256))


def promise(number: str) -> StartPromise:
    return StartPromise(Number(number), "p", FAR)


@pytest.mark.parametrize("state", [State.RESOLVED, State.REJECTED, State.CANCELED])
async def test_a_promise_settles_once_and_a_repeat_answers_the_same(driver: Driver, state: State) -> None:
    await driver.create("p", kind=Kind.PROMISE, deadline=FAR)
    first = await driver.settle("p", state, EVERY_BYTE)
    assert (first.by_us, first.state, first.value) == (True, state, EVERY_BYTE)
    before = await driver.snapshot()
    assert await driver.settle("p", state, EVERY_BYTE) == first
    other = await driver.settle("p", State.RESOLVED, b"other")
    assert (other.by_us, other.state, other.value) == (False, state, EVERY_BYTE)
    assert await driver.snapshot() == before
    assert await driver.timers() == {}
    assert 0 < await driver.ttl_ms("p") <= LIMIT["retention_ms"]


@pytest.mark.parametrize("state", [State.RESOLVED, State.REJECTED, State.CANCELED])
async def test_an_entry_of_a_journal_settles_once_and_wakes_its_owner(driver: Driver, state: State) -> None:
    await driver.suspended("a", promise("1"), StartTimer(Number("2"), "nap", FAR))
    first = await driver.settle("a~1", state, EVERY_BYTE)
    assert first.by_us
    assert await driver.place("a") is Place.QUEUED
    entry = await driver.entry("a", "1")
    assert (entry.state, entry.payload) == (state, EVERY_BYTE)
    before = await driver.snapshot()
    assert await driver.settle("a~1", state, EVERY_BYTE) == first
    assert not (await driver.settle("a~1", State.RESOLVED, b"other")).by_us
    assert await driver.snapshot() == before
    assert list(await driver.timers()) == ["a~2"]


async def test_what_has_settled_says_when_it_began_and_no_more_when_it_was_due(driver: Driver) -> None:
    await driver.suspended("a", promise("1"), promise("2"))
    key = driver.keys.promise("a")
    raw = await driver.redis.hget(key, "2")
    await driver.redis.hset(key, "2", raw.replace(b"pp\t\t", b"pp\t1500\t"))
    for number, began in (("1", b""), ("2", b"1500")):
        await driver.settle(f"a~{number}")
        assert (await driver.redis.hget(key, number)).split(b"\t")[2] == began


async def test_of_many_who_settle_at_once_one_wins(driver: Driver) -> None:
    await driver.suspended("a", promise("1"))
    answers = await asyncio.gather(*(driver.settle("a~1", value=b"%d" % n) for n in range(100)))
    assert [answer.by_us for answer in answers].count(True) == 1
    assert len({answer.value for answer in answers}) == 1
    assert (await driver.record("a")).epoch == 2


async def test_only_promises_and_timers_can_be_settled_from_outside(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"))
    before = await driver.snapshot()
    for id in ("a", "a~1"):
        with pytest.raises(NotAllowed, match="is an execution"):
            await driver.settle(id)
    for id in ("nobody", "a~2", "nobody~1"):
        with pytest.raises(NotFound, match=id):
            await driver.settle(id)
    for state in (State.PENDING, State.TIMEDOUT):
        with pytest.raises(UsageError, match="state"):
            await driver.settle("a", state)
    assert await driver.snapshot() == before


async def test_of_what_an_execution_has_asked_for_promises_and_timers_are_settled(driver: Driver) -> None:
    step = StepResult(Number("3"), "step", State.RESOLVED, b"v")
    lease = await driver.start("a")
    await driver.create("own", "g")
    await driver.commit(lease, CommitAction.CONTINUE, StartTimer(Number("1"), "nap", FAR), child("2", "own"), step)
    assert (await driver.settle("a~1")).by_us
    assert await driver.timers() == {}
    for id in ("a~2", "a~3"):
        with pytest.raises(NotAllowed, match="is not a promise to settle from outside"):
            await driver.settle(id)


async def test_a_value_that_is_none_of_ours_is_not_answered(driver: Driver) -> None:
    await driver.suspended("a", promise("1"))
    await driver.create("p", kind=Kind.PROMISE)
    for id in ("a~1", "p"):
        await driver.settle(id, value=b"x" * 200)
        with pytest.raises(CorruptData, match=f"{id} has 2.. bytes"):
            await driver.store.call(
                promises.settle(replace(driver.keys, value_bytes_max=100), PromiseId(id), State.RESOLVED, b"")
            )


async def test_what_is_left_of_an_ended_owner_reads_as_canceled(driver: Driver) -> None:
    await driver.suspended("a", promise("1"))
    await driver.control("force", "a")
    answer = await driver.settle("a~1", value=b"late")
    assert (answer.by_us, answer.state, answer.value) == (False, State.CANCELED, b"")


async def test_the_promise_of_this_life_is_settled_not_the_child_left_over_from_another(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.take()
    await driver.redis.delete(driver.keys.promise("a"), driver.keys.queue("workers"))
    await driver.another_life()
    await driver.suspended("a", promise("1"))
    assert (await driver.settle("a~1", value=b"v")).by_us
    assert (await driver.entry("a", "1")).payload == b"v"
    assert await driver.place("a") is Place.QUEUED
    await driver.redis.delete(driver.keys.promise("a~1"))


@pytest.mark.leaves_keys("an owner that is gone and its name")
async def test_a_broken_owner_is_quarantined_by_name_and_the_child_ends(driver: Driver) -> None:
    await driver.suspended("a", child("1", "own"))
    lease = await driver.take()
    await driver.redis.set(driver.keys.promise("a"), "garbage")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"r")
    assert (await driver.record("own")).value == b"r"
    assert [name.startswith("promise:a: CORRUPT") for name in await driver.halted()] == [True]


async def test_only_a_full_server_minds_how_large_a_value_is(driver: Driver) -> None:
    value = b"x" * (LIMIT["full_value_bytes_max"] + 1)
    await driver.create("p", kind=Kind.PROMISE)
    await driver.settle("p", value=value)
    assert (await driver.record("p")).value == value
