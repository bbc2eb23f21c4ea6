"""lend.lua and part.lua: a lease is passed on to a consumer that has no other one, is extended there, and judged like a
worker.
"""

from __future__ import annotations

import pytest

from durasleep.errors import Fenced
from durasleep.model import CommitAction
from durasleep.protocol import membership
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, W
from durasleep.protocol.membership import Lent
from tests.store.driver import OTHER, WORKER, Driver

HEIR = "a-worker/1"


async def lend(driver: Driver, lease: Lease, *, consumer: str = WORKER) -> Lent:
    return await driver.store.call(
        membership.lend(driver.keys, consumer, HEIR, lease, group="workers", info="http", knows="2", lease_ms=9_000)
    )


async def test_who_gets_a_lease_has_it_and_nobody_else(driver: Driver) -> None:
    lease = await driver.start("a")
    lent = await lend(driver, lease)
    assert (lent.is_canceled, lent.deadline_ms) == (False, 0)
    for late in (lambda: driver.commit(lease, CommitAction.RESOLVE), lambda: lend(driver, lease)):
        before = await driver.snapshot()
        with pytest.raises(Fenced):
            await late()
        assert await driver.snapshot() == before
    await lend(driver, lease, consumer=HEIR)
    await driver.commit(lease, CommitAction.RESOLVE, consumer=HEIR)
    with pytest.raises(Fenced):
        await lend(driver, lease, consumer=HEIR)


async def test_a_lease_that_is_not_extended_is_reclaimed_like_a_worker(driver: Driver) -> None:
    lease = await driver.start("a")
    await lend(driver, lease)
    beat = await driver.beat(consumer=OTHER)
    [peer] = [peer for peer in beat.peers if peer.consumer == HEIR]
    assert (peer.client_id, peer.beat_ms) == ("", 3_000)
    assert HEIR in beat.consumers
    assert (await driver.reclaim(consumer=HEIR)).given == 1
    assert (await driver.record("a")).crash_count == 1
    with pytest.raises(Fenced):
        await lend(driver, lease, consumer=HEIR)
    assert HEIR not in (await driver.beat(consumer=OTHER)).consumers


async def test_a_lease_that_has_run_out_is_found_among_many_that_have_not(driver: Driver) -> None:
    lease = await driver.start("a")
    await lend(driver, lease)
    await lend(driver, lease, consumer=HEIR)
    workers, group = driver.keys.workers, driver.keys.queue("workers")
    now_ms = int(await driver.redis.zscore(workers, HEIR))
    others = [f"a-worker/0{n}" for n in range(LIMIT["consumers_max"] + 10)]  # their names come before that of this one
    async with driver.redis.pipeline(transaction=False) as pipe:
        for name in others:
            pipe.xgroup_createconsumer(group, "workers", name)
            pipe.hset(driver.keys.worker(name), mapping={W["client"]: "", W["beat_ms"]: "3000"})
        pipe.zadd(workers, dict.fromkeys(others, now_ms))
        pipe.zadd(workers, {HEIR: now_ms - 100})
        await pipe.execute()
    beat = await driver.beat(consumer=OTHER)
    assert HEIR in beat.consumers
    assert HEIR in [peer.consumer for peer in beat.peers]
    assert len(beat.consumers) == LIMIT["consumers_max"]
    await driver.store.ask([membership.part(driver.keys, name, "workers") for name in others])


async def test_what_stands_for_a_lease_fires_nothing_so_it_has_no_rank(driver: Driver) -> None:
    await lend(driver, await driver.start("a"))  # its name comes first
    beat = await driver.beat()
    assert beat.rank == 0
    assert HEIR not in beat.fresh(1_000)


async def test_a_consumer_parts_when_it_holds_nothing(driver: Driver) -> None:
    await driver.start("first")  # so that the queue of the group is there
    await driver.create("a", queue="workers!1")
    lease = await driver.take(queue="workers!1")
    await lend(driver, lease)
    part = membership.part(driver.keys, HEIR, lease.queue)
    assert not await driver.store.call(part)
    await driver.commit(lease, CommitAction.RESOLVE, consumer=HEIR)
    assert await driver.store.call(part)
    assert HEIR not in (await driver.beat()).consumers
    assert not await driver.redis.exists(driver.keys.worker(HEIR))
