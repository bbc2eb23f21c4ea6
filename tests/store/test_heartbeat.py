"""heartbeat.lua: a beat shows a worker alive and tells it what became of what it holds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from durasleep.model import Number, Outcome, PromiseId, StartPromise
from durasleep.store.keys import LIMIT
from tests.store.driver import OTHER, WORKER, Driver


async def test_a_beat_notes_the_worker_and_keeps_its_keys_alive(driver: Driver) -> None:
    beat = await driver.beat()
    assert [(peer.consumer, peer.client_id) for peer in beat.peers] == [(WORKER, "1")]
    assert int(beat.peers[0].beat) == beat.server_us // 1000
    for key in (driver.keys.worker(WORKER), driver.keys.inbox(WORKER)):
        assert 0 < await driver.redis.pttl(key) <= 60_000
    assert beat.last_told != b"0-0"
    assert (await driver.beat()).last_told == beat.last_told


async def test_ranks_are_stable_and_different_for_everyone(driver: Driver) -> None:
    names = [f"w{n}/aaaaaaaa" for n in range(5)]
    for _ in range(2):
        for name in reversed(names):
            await driver.beat(consumer=name)
    assert [(await driver.beat(consumer=name)).rank for name in names] == [0, 1, 2, 3, 4]


async def test_a_beat_answers_the_order_of_what_is_held_and_what_was_lost(driver: Driver) -> None:
    held, taken, ended = [await driver.start(id) for id in "abc"]
    await driver.commit(held, Outcome.CONTINUE, StartPromise(Number("1"), "p", None))
    await driver.settle("a~1")
    await driver.reclaim(taken.entry, give_back="some")
    await driver.commit(ended, Outcome.RESOLVE)
    gone = replace(held, id=PromiseId("nobody"), entry="1-1")
    beat = await driver.beat(held, taken, ended, gone)
    assert beat.lost == [taken.place, ended.place, gone.place]
    assert beat.orders["a"] == (await driver.head("a")).order > 0
    assert beat.unnamed == []


async def test_a_beat_never_takes_a_lease_back(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.reclaim(give_back="all")
    other = await driver.take(consumer=OTHER)
    assert (await driver.beat(lease)).lost == [lease.place]
    assert (await driver.beat(other)).lost == [other.place]
    assert (await driver.beat(other, consumer=OTHER)).lost == []


async def test_entries_the_worker_does_not_name_are_told_it_from_both_its_queues(driver: Driver) -> None:
    shared = await driver.start("a")
    await driver.create("b", queue="workers/w1")
    own = await driver.take(queue="workers/w1")
    await driver.beat(consumer=OTHER)
    beat = await driver.beat(own)
    assert beat.unnamed == [("workers", shared.entry)]
    assert set(beat.consumers) == {WORKER}
    assert (await driver.beat(shared, own)).unnamed == []
    assert (await driver.beat(consumer=OTHER)).unnamed == []


@pytest.mark.leaves_keys("a broken hash")
async def test_a_broken_hash_or_queue_costs_one_entry_and_not_the_beat(driver: Driver) -> None:
    broken, well = await driver.start("a"), await driver.start("b")
    await driver.redis.set(driver.keys.promise("a"), "garbage")
    await driver.redis.set(driver.keys.queue("workers/w1"), "garbage")
    await driver.redis.delete(driver.keys.wake)
    await driver.redis.set(driver.keys.wake, "garbage")
    beat = await driver.beat(broken, well)
    assert beat.lost == [broken.place]
    assert beat.last_wake == b"0-0"


@pytest.mark.leaves_keys("its stream is taken away")
async def test_a_worker_that_holds_more_than_one_answer_looks_at_loses_nothing(driver: Driver) -> None:
    count = LIMIT["pending_max"] + 3
    for first in range(0, count, 250):
        for n in range(first, min(first + 250, count)):
            await driver.redis.xadd(driver.keys.queue("workers"), {"i": f"x{n}", "e": "1"})
    await driver.create("last")
    leases = await driver.read(count + 1)
    assert leases[-1].id == "last"
    beat = await driver.beat(leases[-1])
    assert beat.lost == []
    assert len(beat.unnamed) == LIMIT["pending_max"]
    await driver.redis.delete(driver.keys.queue("workers"))


async def test_before_anybody_served_a_group_a_beat_answers_empty(driver: Driver) -> None:
    beat = await driver.beat(group="nobody")
    assert (beat.consumers, beat.unnamed, beat.lost, beat.rank) == ([], [], [], 0)
