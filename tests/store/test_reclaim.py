"""reclaim.lua: the work of the dead goes back to the living, under a new epoch; a killer of workers is halted."""

from __future__ import annotations

import pytest

from durasleep.errors import Fenced
from durasleep.model import CommitAction, Number, Place, StartTimer
from durasleep.protocol.keys import F
from durasleep.protocol.membership import Reclaimed
from tests.store.driver import FAR, OTHER, WORKER, Driver


async def die(driver: Driver, consumer: str = WORKER, *, max_attempts: int = 5) -> Reclaimed:
    """The worker beats, dies, and is found dead."""
    await driver.beat(consumer=consumer)
    return await driver.reclaim(consumer=consumer, max_attempts=max_attempts)


async def test_a_dead_workers_executions_go_back_under_a_new_epoch(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.beat(lease)
    await driver.commit(await driver.start("sleeper"), CommitAction.SUSPEND, StartTimer(Number("1"), "nap", FAR))
    answer = await driver.reclaim()
    assert (answer.alive, answer.more, answer.given, answer.poison) == (False, False, 1, [])
    assert await driver.place("a") is Place.QUEUED
    assert await driver.place("sleeper") is Place.SUSPENDED  # nobody owned it: nothing to recover
    again = await driver.take(consumer=OTHER)
    assert (again.id, again.epoch) == ("a", lease.epoch + 1)
    with pytest.raises(Fenced):
        await driver.commit(lease, CommitAction.RESOLVE)
    # Nothing is left of the dead: neither beat nor inbox nor consumer.
    assert not await driver.redis.exists(driver.keys.worker(WORKER), driver.keys.inbox(WORKER))
    assert (await driver.beat(consumer=OTHER)).consumers == [OTHER]


async def test_a_worker_that_has_beaten_meanwhile_lives(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.beat(lease)
    before = await driver.snapshot()
    for beat in ("", "1"):
        answer = await driver.reclaim(beat=beat)
        assert (answer.alive, answer.more, answer.given, answer.poison) == (True, False, 0, [])
    assert await driver.snapshot() == before
    await driver.commit(lease, CommitAction.RESOLVE)


async def test_a_consumer_without_any_beat_is_reclaimed_as_such(driver: Driver) -> None:
    await driver.start("a")
    assert (await driver.reclaim(beat="1")).alive
    assert (await driver.reclaim(beat="")).given == 1
    assert (await driver.reclaim(beat="")).given == 0  # a repeat changes nothing
    assert (await driver.record("a")).epoch == 2


async def test_a_large_load_is_reclaimed_in_parts(driver: Driver) -> None:
    for n in range(7):
        await driver.create(f"x{n}")
    await driver.read(7)
    answers = [await driver.reclaim(beat="", limit=3) for _ in range(3)]
    assert [(answer.given, answer.more) for answer in answers] == [(3, True), (3, True), (1, False)]
    assert len(await driver.read(10, consumer=OTHER)) == 7


async def test_a_worker_gives_back_the_entries_it_names_and_no_others(driver: Driver) -> None:
    for n in range(5):
        await driver.create(f"x{n}")
    leases = await driver.read(5)
    other = await driver.start("other", consumer=OTHER)
    # Also beyond the first page of what it holds, and never what is somebody else's.
    answer = await driver.reclaim(leases[4].entry, other.entry, "1-1", release="some", limit=2)
    assert (answer.given, answer.more) == (1, False)
    assert [lease.id for lease in await driver.read(10, consumer=OTHER)] == ["x4"]
    await driver.commit(leases[0], CommitAction.RESOLVE)
    await driver.commit(other, CommitAction.RESOLVE, consumer=OTHER)


async def test_what_has_ended_or_moved_on_is_only_removed(driver: Driver) -> None:
    stream = driver.keys.queue("workers")
    lease = await driver.start("a")
    for id, epoch in (("a", 1), ("a", 7), ("nobody", 1)):
        await driver.redis.xadd(stream, {"i": id, "e": str(epoch)})
    await driver.read(10)
    await driver.commit(lease, CommitAction.SUSPEND, StartTimer(Number("1"), "nap", FAR))
    assert (await driver.reclaim()).given == 0
    assert await driver.redis.xlen(stream) == 0
    assert await driver.place("a") is Place.SUSPENDED


@pytest.mark.leaves_keys("names that were quarantined")
async def test_garbage_in_the_stream_is_quarantined_by_name_and_the_rest_goes_on(driver: Driver) -> None:
    stream = driver.keys.queue("workers")
    await driver.redis.xadd(stream, {"garbage": b"\xff"})
    await driver.create("broken")
    await driver.create("a")
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    await driver.join()
    await driver.redis.xreadgroup("workers", WORKER, {stream: ">"})
    assert (await driver.reclaim()).given == 1
    assert await driver.queued() == ["a"]
    halted = await driver.halted()
    assert len(halted) == 2
    assert all(name.startswith("queue:workers:") and "CORRUPT" in name for name in halted)


async def test_an_execution_that_keeps_killing_its_workers_is_halted_as_poison(driver: Driver) -> None:
    await driver.create("killer")
    for death in range(1, 5):
        await driver.take()
        assert (await die(driver)).given == 1
        assert (await driver.record("killer")).crash_count == death
    await driver.take()
    answer = await die(driver)
    assert (answer.given, answer.poison) == (0, ["killer"])
    assert await driver.place("killer") is Place.HALTED
    record = await driver.record("killer")
    assert (record.reason, record.entry) == ("poison: 5 workers in a row died while running it", "")
    # A person may let it try again, from the beginning of the count.
    await driver.control("resume", "killer")
    assert ((await driver.record("killer")).crash_count, await driver.place("killer")) == (0, Place.QUEUED)
    assert not await driver.redis.hexists(driver.keys.promise("killer"), F["lone_crash_count"])


async def test_deaths_in_a_row_end_with_an_accepted_commit_or_a_graceful_return(driver: Driver) -> None:
    await driver.create("a")
    await driver.take()
    await die(driver)
    lease = await driver.take()
    await driver.commit(lease)
    assert (await driver.record("a")).crash_count == 0
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["lone_crash_count"])
    await die(driver)
    await driver.take()
    await driver.reclaim(release="all")
    assert (await driver.record("a")).crash_count == 0
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["lone_crash_count"])


async def test_of_what_has_ended_no_deaths_are_kept(driver: Driver) -> None:
    await driver.start("a")
    await die(driver)
    key = driver.keys.promise("a")
    assert await driver.redis.hmget(key, F["crash_count"], F["lone_crash_count"]) == [b"1", b"1"]
    await driver.control("force", "a")
    assert await driver.redis.hmget(key, F["crash_count"], F["lone_crash_count"]) == [None, None]


async def test_a_defer_is_no_sign_of_life(driver: Driver) -> None:
    await driver.create("a")
    await driver.take()
    await die(driver)
    lease = await driver.take()
    await driver.commit(lease, CommitAction.DEFER, payload=b"unknown", due="+0")
    assert (await driver.record("a")).crash_count == 1
    await driver.control("wake", "a")


async def test_the_neighbours_of_a_killer_are_not_halted_with_it(driver: Driver) -> None:
    await driver.create("killer")
    await driver.create("victim")
    for _ in range(2):  # together, before anybody is suspected
        assert len(await driver.read(2)) == 2
        await die(driver, max_attempts=3)
    # Two suspects at once: no telling which of them it was.
    await driver.read(2)
    answer = await die(driver, max_attempts=3)
    assert (answer.given, answer.poison) == (2, [])
    # From now on they are kept apart: the killer with a newcomer, who is not suspected.
    await driver.create("newcomer")
    leases = {str(lease.id): lease for lease in await driver.read(3, consumer=OTHER)}
    await driver.reclaim(leases["victim"].entry, consumer=OTHER, release="some")
    assert (await die(driver, OTHER, max_attempts=3)).poison == []
    leases = {str(lease.id): lease for lease in await driver.read(3, consumer=OTHER)}
    await driver.reclaim(leases["victim"].entry, consumer=OTHER, release="some")
    answer = await die(driver, OTHER, max_attempts=3)
    assert answer.poison == ["killer"]
    assert await driver.place("victim") is Place.QUEUED
    # The newcomer has seen as many die, but only one while nobody else could have done it.
    newcomer = next(lease for lease in await driver.read(2, consumer=OTHER) if lease.id == "newcomer")
    await driver.reclaim(*await driver.pending(OTHER, but=newcomer), consumer=OTHER, release="some")
    assert (await die(driver, OTHER, max_attempts=3)).poison == []
    assert (await driver.record("newcomer")).crash_count == 3


async def test_what_was_meant_for_one_worker_waits_for_it_in_its_own_stream(driver: Driver) -> None:
    await driver.create("a", queue="workers/w1")
    await driver.take(queue="workers/w1")
    await driver.beat()
    assert (await driver.reclaim(queue="workers/w1")).given == 1
    assert await driver.queued("workers/w1") == ["a"]
    assert (await driver.take(queue="workers/w1", consumer="w1/cccccccc")).epoch == 2
    # Its group is reclaimed after that: only then is the worker gone.
    assert WORKER in [peer.consumer for peer in (await driver.beat(consumer=OTHER)).peers]


async def test_a_worker_that_leaves_takes_its_own_empty_stream_along(driver: Driver) -> None:
    await driver.join("workers/w1")
    await driver.read(queue="workers/w1")
    assert await driver.redis.exists(driver.keys.queue("workers/w1"))
    await driver.reclaim(queue="workers/w1", beat="", release="all")
    assert not await driver.redis.exists(driver.keys.queue("workers/w1"))
    await driver.create("a", queue="workers/w1")
    assert (await driver.take(queue="workers/w1")).id == "a"


async def test_a_dead_worker_leaves_its_stream_to_the_next_of_its_name(driver: Driver) -> None:
    stream, successor = driver.keys.queue("workers/w1"), "w1/cccccccc"
    await driver.join("workers/w1")
    for consumer in (WORKER, successor):
        await driver.redis.xgroup_createconsumer(stream, "workers", consumer)
    await driver.reclaim(queue="workers/w1", beat="")
    assert await driver.redis.exists(stream)
    await driver.reclaim(queue="workers/w1", consumer=successor, beat="")
    assert not await driver.redis.exists(driver.keys.queue("workers/w1"))


async def test_reclaiming_from_a_queue_nobody_made_does_nothing(driver: Driver) -> None:
    for release in ("", "all"):
        answer = await driver.reclaim(queue="nobody", beat="", release=release)  # type: ignore[arg-type]
        assert (answer.given, answer.more, answer.alive) == (0, False, False)
    assert await driver.snapshot() == {}


async def test_a_suspect_beside_others_that_are_none_dies_alone(driver: Driver) -> None:
    """Two workers have died of it: from the next death on it is counted as the one that may kill."""
    await driver.start("a")
    await driver.start("b")
    await driver.redis.hset(driver.keys.promise("a"), F["crash_count"], 2)
    assert (await driver.reclaim(beat="", max_attempts=3)).poison == []
    assert len(await driver.read(2)) == 2
    assert (await driver.reclaim(beat="", max_attempts=3)).poison == ["a"]
    assert await driver.place("b") is Place.QUEUED
