"""heartbeat.lua: a beat shows a worker alive and tells it what became of what it holds."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from durasleep.errors import CorruptData
from durasleep.model import CommitAction, Number, PromiseId, StartPromise
from durasleep.protocol import groups, membership
from durasleep.protocol.keys import LIMIT, F, W
from harness.servers import Server
from tests.store.driver import OTHER, WORKER, Driver


async def test_a_beat_notes_the_worker_and_keeps_its_keys_alive(driver: Driver) -> None:
    beat = await driver.beat()
    assert [(peer.consumer, peer.client_id) for peer in beat.peers] == [(WORKER, "1")]
    assert int(beat.peers[0].beat) == beat.server_us // 1000
    for key in (driver.keys.worker(WORKER), driver.keys.inbox(WORKER)):
        assert 0 < await driver.redis.pttl(key) <= 60_000
    assert beat.last_notified != b"0-0"
    assert (await driver.beat()).last_notified == beat.last_notified


async def test_ranks_are_stable_and_different_for_everyone(driver: Driver) -> None:
    names = [f"w{n}/aaaaaaaa" for n in range(5)]
    for _ in range(2):
        for name in reversed(names):
            await driver.beat(consumer=name)
    assert [(await driver.beat(consumer=name)).rank for name in names] == [0, 1, 2, 3, 4]


async def test_who_has_been_heard_of_lately_is_fresh(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, beat_ms=1000)
    beat = await driver.beat(beat_ms=None)
    assert sorted(beat.fresh(1000)) == [WORKER, OTHER]
    later = dataclasses.replace(beat, server_us=beat.server_us + 3_000_000)
    assert later.fresh(2000) == [WORKER], "it does not say how often it beats"
    earlier = dataclasses.replace(beat, server_us=beat.server_us - 4_000_000)
    assert earlier.fresh(2000) == [WORKER]


async def retired(driver: Driver, count: int, *, score: int = 1) -> None:
    """Members of a group that nobody serves any more: their own keys have expired."""
    await driver.redis.zadd(driver.keys.workers, {f"a{n}/00000000": score for n in range(count)})


async def test_who_was_not_heard_of_for_long_is_no_worker_any_more(driver: Driver) -> None:
    await retired(driver, 25)
    await driver.beat(consumer=OTHER)
    await driver.redis.delete(driver.keys.worker(OTHER))
    beat = await driver.beat()
    assert beat.rank == 0
    assert [peer.consumer for peer in beat.peers] == [WORKER]
    assert await driver.redis.zrange(driver.keys.workers, 0, -1) == [WORKER.encode()]


async def test_thousands_of_them_hide_nobody_and_go_in_parts(driver: Driver) -> None:
    """They are older than the living, or younger, by a clock that was set."""
    for score in (1, 4_000_000_000_000):
        await driver.beat(consumer=OTHER)
        await driver.join()
        for consumer in (WORKER, OTHER):
            await driver.redis.xgroup_createconsumer(driver.keys.queue("workers"), "workers", consumer)
        await retired(driver, 2 * LIMIT["workers_max"], score=score)
        beat = await driver.beat()
        assert sorted(peer.consumer for peer in beat.peers) == [WORKER, OTHER]
        assert beat.rank == 0
        for _ in range(20):
            await driver.beat()
        assert await driver.redis.zcard(driver.keys.workers) == 2
        await driver.redis.delete(driver.keys.queue("workers"))


async def test_where_very_many_live_the_oldest_are_removed_and_nobody_judged_is_hidden(
    one_server: Server, namespace: str
) -> None:
    """More than one answer looks at have beaten later than the one that is to be judged."""
    driver = Driver(one_server.client(), namespace)
    async with driver.store.opened():
        await driver.join()
        await driver.redis.xgroup_createconsumer(driver.keys.queue("workers"), "workers", OTHER)
        await driver.beat(consumer=OTHER)
        now_ms = (await driver.beat()).server_us // 1000
        living = [f"z{n}/00000000" for n in range(LIMIT["workers_max"])]
        pipeline = driver.redis.pipeline(transaction=False)
        for name in living:
            pipeline.hset(driver.keys.worker(name), W["client"], "1")
            pipeline.pexpire(driver.keys.worker(name), 60_000)
        await pipeline.execute()
        await driver.redis.zadd(driver.keys.workers, dict.fromkeys(living, now_ms + 60_000) | {OTHER: 2})
        await retired(driver, LIMIT["struck_max"] + 1)
        peers = [peer.consumer for peer in (await driver.beat()).peers]
        assert OTHER in peers
        left = await driver.redis.zrangebyscore(driver.keys.workers, 1, 1)
        assert len(left) == 1
        await driver.redis.delete(driver.keys.queue("workers"), driver.keys.workers)


async def test_who_has_missed_beats_has_no_rank(driver: Driver) -> None:
    """Nobody waits for one that does not fire; it is still there to be judged."""
    early = "a0/00000000"
    for seen, rank in ((False, 1), (True, 0)):
        await driver.beat(consumer=early, beat_ms=1_000)
        if seen:
            await driver.redis.zincrby(driver.keys.workers, -5_000, early)
        beat = await driver.beat()
        assert beat.rank == rank
        assert early in [peer.consumer for peer in beat.peers]
    await driver.beat(consumer=early, beat_ms=10_000)
    await driver.redis.zincrby(driver.keys.workers, -5_000, early)
    assert (await driver.beat()).rank == 1, "it beats more seldom"
    await driver.redis.zincrby(driver.keys.workers, 3_600_000, early)
    assert (await driver.beat()).rank == 0, "it beat before the clock was set back"


async def test_who_does_not_say_how_often_it_beats_is_taken_for_one_like_us(driver: Driver) -> None:
    early = "a0/00000000"
    await driver.beat(consumer=early)
    await driver.redis.hdel(driver.keys.worker(early), W["beat_ms"])  # as of an earlier version
    await driver.redis.zincrby(driver.keys.workers, -5_000, early)
    ranks = [(await driver.beat(beat_ms=beat_ms)).rank for beat_ms in (10_000, 1_000, None)]
    assert ranks == [1, 0, 0]


async def test_a_beat_tells_how_far_apart_those_of_the_others_are(driver: Driver) -> None:
    await driver.beat(consumer=OTHER, beat_ms=20_000)
    await driver.beat(consumer="w3/cccccccc")
    await driver.redis.hdel(driver.keys.worker("w3/cccccccc"), W["beat_ms"])  # as of an earlier version
    peers = {peer.consumer: peer.beat_ms for peer in (await driver.beat(beat_ms=250)).peers}
    assert peers == {WORKER: 250, OTHER: 20_000, "w3/cccccccc": None}


async def test_a_beat_answers_the_order_of_what_is_held_and_what_was_lost(driver: Driver) -> None:
    held, taken, ended = [await driver.start(id) for id in "abc"]
    await driver.commit(held, CommitAction.CONTINUE, StartPromise(Number("1"), "p", None))
    await driver.settle("a~1")
    await driver.reclaim(taken.entry, release="some")
    await driver.commit(ended, CommitAction.RESOLVE)
    gone = replace(held, id=PromiseId("nobody"), entry="1-1")
    beat = await driver.beat(held, taken, ended, gone)
    assert beat.lost == [taken.entry_key, ended.entry_key, gone.entry_key]
    assert beat.orders["a"] == (await driver.record("a")).order > 0
    assert beat.unnamed == []


async def test_what_is_gone_or_lives_in_another_entry_is_lost_to_whoever_has_its_entry_still(driver: Driver) -> None:
    gone, moved = await driver.start("a"), await driver.start("b")
    await driver.redis.delete(driver.keys.promise("a"))
    await driver.redis.hset(driver.keys.promise("b"), F["entry"], "1-1")
    assert (await driver.beat(gone, moved)).lost == [gone.entry_key, moved.entry_key]
    await driver.redis.delete(driver.keys.promise("b"), driver.keys.queue("workers"))


async def test_a_beat_never_takes_a_lease_back(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.reclaim(release="all")
    other = await driver.take(consumer=OTHER)
    assert (await driver.beat(lease)).lost == [lease.entry_key]
    assert (await driver.beat(other)).lost == [other.entry_key]
    assert (await driver.beat(other, consumer=OTHER)).lost == []


async def test_entries_the_worker_does_not_name_are_told_it_from_both_its_queues(driver: Driver) -> None:
    shared = await driver.start("a")
    await driver.create("b", queue="workers/w1")
    own = await driver.take(queue="workers/w1")
    await driver.beat(consumer=OTHER)
    beat = await driver.beat(own)
    assert beat.unnamed == [shared.entry_key]
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
    assert beat.lost == [broken.entry_key]
    assert beat.last_wake == b"", "there are no wake-ups"


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


async def test_who_joins_is_a_consumer_of_each_of_its_queues(driver: Driver) -> None:
    shared, own = driver.keys.queue("workers"), driver.keys.queue("workers/w1")
    await driver.redis.xgroup_create(shared, "others", "0", mkstream=True)
    for consumer in (WORKER, OTHER, WORKER):
        call = membership.join(driver.keys, consumer, "workers", ["workers", "workers/w1"])
        assert await driver.store.call(call) == "joined"
    for stream in (shared, own):
        consumers = await driver.redis.xinfo_consumers(stream, "workers")
        assert {one["name"] for one in consumers} == {WORKER.encode(), OTHER.encode()}


@pytest.mark.leaves_keys("a key of a wrong type")
async def test_who_cannot_join_one_queue_joins_none(real_server: Server, namespace: str) -> None:
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        await driver.redis.set(driver.keys.queue("broken"), "garbage")
        before = await driver.snapshot()
        for queues in (["broken", "workers"], ["workers", "broken"]):
            with pytest.raises(CorruptData, match="queue:broken"):
                await driver.store.call(membership.join(driver.keys, WORKER, "workers", queues))
            assert await driver.snapshot() == before


async def test_before_anybody_served_a_group_a_beat_answers_empty(driver: Driver) -> None:
    beat = await driver.beat(group="nobody")
    assert (beat.consumers, beat.unnamed, beat.lost, beat.rank) == ([], [], [], 0)


async def test_a_beat_says_whether_the_group_is_paused(driver: Driver) -> None:
    assert not (await driver.beat()).is_paused
    for command in groups.pause(driver.keys, "workers", 5, "ada"):
        assert await driver.store.call(command)
    assert (await driver.beat()).is_paused
    for command in groups.pause(driver.keys, "workers", 9, "grace"):
        assert not await driver.store.call(command)
    assert await driver.store.call(groups.read_pause(driver.keys, "workers")) == groups.Pause(5, "ada")
    assert await driver.store.call(groups.resume(driver.keys, "workers"))
    assert not (await driver.beat()).is_paused
    await driver.redis.set(driver.keys.group("workers"), "of another program")
    assert not (await driver.beat()).is_paused
    await driver.redis.delete(driver.keys.group("workers"))
