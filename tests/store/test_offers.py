"""What one worker cannot run is another's at once: who may have the function, and who has not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from durasleep.errors import Fenced
from durasleep.model import CommitAction, Place
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.keys import LIMIT, F
from harness.servers import Server
from tests.store.driver import OTHER, WORKER, Driver

MINE, THEIRS = "mine", "theirs"
BEAT_MS = 1_000_000
THIRD = "w3/cccccccc"


async def defer(driver: Driver, lease: Lease, functions: str = MINE, *, consumer: str = WORKER) -> Committed:
    """By a worker with these functions, which lack the one that is asked for."""
    return await driver.commit(
        lease, CommitAction.DEFER, due=f"+3600000 {functions}", payload=b"not here", consumer=consumer
    )


async def lacking(driver: Driver, id: str) -> bytes | None:
    return await driver.redis.hget(driver.keys.promise(id), F["lacking"])


async def holders_of(driver: Driver, leases: Sequence[Lease]) -> dict[str, str]:
    rows = await driver.redis.xpending_range(driver.keys.queue("workers"), "workers", "-", "+", 100)
    holders = {row["message_id"].decode(): row["consumer"].decode() for row in rows}
    return {lease.id: holders[lease.entry] for lease in leases}


async def age(driver: Driver, consumer: str, ms: int) -> None:
    """It has last beaten so long ago."""
    await driver.redis.zincrby(driver.keys.workers, -ms, consumer)


async def test_what_a_worker_lacks_is_held_by_another_one_that_may_have_it(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, functions=THEIRS)
    await driver.beat(functions=MINE)
    lease = await driver.start("a")
    assert (await defer(driver, lease)).offered
    assert await driver.place("a") is Place.QUEUED
    assert await driver.inbox(OTHER) == [{b"t": f"workers\t{lease.entry}\t1\ta".encode()}]
    assert await driver.inbox(WORKER) == []
    assert await lacking(driver, "a") == b"mine "
    with pytest.raises(Fenced, match="not held by"):
        await driver.commit(lease, CommitAction.RESOLVE)
    await driver.commit(lease, CommitAction.RESOLVE, consumer=OTHER)


async def test_it_is_fenced_from_its_first_holder_in_the_same_call(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, functions=THEIRS)
    lease = await driver.start("a")
    offered, late = await asyncio.gather(
        defer(driver, lease), driver.commit(lease, CommitAction.RESOLVE), return_exceptions=True
    )
    assert isinstance(offered, Committed)
    assert offered.offered
    assert isinstance(late, Fenced)


async def test_it_is_not_offered_to_those_that_lack_it_too(driver: Driver) -> None:
    """Each says what it lacks, until nobody is left who may have it."""
    for consumer, functions in ((WORKER, MINE), (OTHER, THEIRS), (THIRD, "theirs-too")):
        await driver.beat(consumer=consumer, functions=functions)
    lease = await driver.start("a")
    await driver.redis.hset(driver.keys.promise("a"), F["lacking"], "theirs-too ")
    assert (await defer(driver, lease)).offered
    assert await holders_of(driver, [lease]) == {"a": OTHER}
    assert not (await defer(driver, lease, THEIRS, consumer=OTHER)).offered
    assert await driver.place("a") is Place.DELAYED
    assert await lacking(driver, "a") == b"theirs-too mine theirs "
    await driver.control("wake", "a")
    for functions in ("theirs-too", MINE, THEIRS):
        assert not (await defer(driver, await driver.take(), functions)).offered
        assert await lacking(driver, "a") == b"theirs-too mine theirs "
        await driver.control("wake", "a")


async def test_of_what_it_lacks_the_latest_are_remembered(driver: Driver) -> None:
    sets = [f"f{number}" for number in range(LIMIT["lacking_max"])]
    lease = await driver.start("a")
    await driver.redis.hset(driver.keys.promise("a"), F["lacking"], "".join(f"{one} " for one in sets))
    await defer(driver, lease)
    assert await lacking(driver, "a") == "".join(f"{one} " for one in [*sets[1:], MINE]).encode()


async def test_it_is_offered_to_living_workers_of_its_group_that_say_what_they_have(driver: Driver) -> None:
    await driver.beat(functions=THEIRS)  # itself, with what it has got since
    await driver.beat(consumer="w4/dddddddd", functions=THEIRS, group="others")
    await driver.beat(consumer="w5/eeeeeeee", functions="")  # it leaves
    await driver.beat(consumer="w6/ffffffff", functions=THEIRS, beat_ms=None)
    for consumer, ms in ((OTHER, 3 * BEAT_MS + 60_000), (THIRD, -3 * BEAT_MS - 60_000)):
        await driver.beat(consumer=consumer, functions=THEIRS, beat_ms=BEAT_MS)
        await age(driver, consumer, ms)
    lease = await driver.start("a")
    assert not (await defer(driver, lease)).offered
    assert await driver.place("a") is Place.DELAYED
    await age(driver, OTHER, -120_000)
    await driver.control("wake", "a")
    assert (await defer(driver, await driver.take())).offered


async def test_a_worker_whose_key_is_broken_is_passed_over(driver: Driver) -> None:
    for consumer in (OTHER, THIRD):
        await driver.beat(consumer=consumer, functions=THEIRS)
    await driver.redis.delete(driver.keys.worker(OTHER))
    await driver.redis.set(driver.keys.worker(OTHER), "garbage", px=60_000)
    lease = await driver.start("a")
    assert (await defer(driver, lease)).offered
    await driver.commit(lease, CommitAction.RESOLVE, consumer=THIRD)


async def test_many_are_not_offered_to_the_same(driver: Driver) -> None:
    for consumer in (OTHER, THIRD):
        await driver.beat(consumer=consumer, functions=THEIRS)
    leases = await driver.start_all(["a", "b", "c", "d"])
    for lease in leases:
        assert (await defer(driver, lease)).offered
    holders = await holders_of(driver, leases)
    assert holders["a"] == holders["c"] != holders["b"] == holders["d"]


async def test_who_has_the_function_and_no_room_keeps_what_nobody_else_may_have(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.redis.hset(driver.keys.promise("a"), F["lacking"], "theirs ")
    await driver.beat(consumer=OTHER, functions=THEIRS)
    before = await driver.snapshot()
    assert (await defer(driver, lease, "=")).kept
    assert await driver.snapshot() == before
    await driver.beat(consumer=THIRD, functions="theirs-too")
    assert (await defer(driver, lease, "=")).offered
    assert await lacking(driver, "a") == b"theirs "
    assert await holders_of(driver, [lease]) == {"a": THIRD}


async def test_who_has_the_function_and_no_room_offers_it_before_anybody_lacks_it(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.beat(consumer=OTHER, functions=THEIRS)
    assert (await defer(driver, lease, "=")).offered
    assert await lacking(driver, "a") is None


async def test_what_is_for_one_worker_is_offered_to_no_other(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, functions=THEIRS)
    await driver.beat(consumer=THIRD, functions=THEIRS, group="workers/w1")
    await driver.create("a", queue="workers/w1")
    lease = await driver.take(queue="workers/w1")
    assert (await defer(driver, lease, "=")).kept
    assert not (await defer(driver, lease)).offered
    assert await driver.place("a") is Place.DELAYED
    assert await lacking(driver, "a") is None


async def test_who_does_not_say_what_it_has_waits_for_its_time(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, functions=THEIRS)
    lease = await driver.start("a")
    assert not (await defer(driver, lease, "")).offered
    assert await driver.place("a") is Place.DELAYED
    assert await lacking(driver, "a") is None


async def test_the_next_run_may_be_known_to_those_that_lacked_this_one(driver: Driver) -> None:
    lease = await driver.start("a")
    await defer(driver, lease)
    await driver.control("wake", "a")
    await driver.commit(await driver.take(), CommitAction.CONTINUE_AS_NEW, due="3")
    assert await lacking(driver, "a") is None


async def test_where_nothing_may_be_handed_over_it_waits_for_its_time(one_server: Server, namespace: str) -> None:
    """By the rules for a user that were made before there were offers."""
    admin: Any = one_server.client()
    await admin.acl_setuser("before", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-xclaim"], reset=True)
    driver = Driver(one_server.client(username="before", password=""), namespace)
    async with driver.store.opened():
        await driver.beat(consumer=OTHER, functions=THEIRS)
        lease = await driver.start("a")
        assert not (await defer(driver, lease)).offered
        assert await driver.place("a") is Place.DELAYED
        assert await driver.inbox(OTHER) == []
    await admin.acl_deluser("before")
