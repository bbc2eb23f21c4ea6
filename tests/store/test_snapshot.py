"""What a stream entry tells of its execution: no more than it may, only while it can be true, and to its first reader.

That it tells the truth is shown beside the model, see ``test_scripts_follow_the_model``.
"""

from __future__ import annotations

import pytest

from durasleep.model import CommitAction, Due, Number, Place, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol import journal
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT
from durasleep.settings import DEFAULTS
from durasleep.worker.loops.task_reader import TaskReader
from tests.store.driver import FAR, OTHER, PAST, WORKER, Driver

BYTES_MAX = LIMIT["snapshot_bytes_max"]
TIMER = StartTimer(Number("1"), "", PAST)


async def told(driver: Driver, id: str) -> bytes:
    """What the entry of a queued execution tells, after checking that it is what a worker would load."""
    record = await driver.record(id)
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue(record.queue), record.entry, record.entry)
    snapshot = fields.get(b"x", b"")
    if snapshot:
        lease = driver.lease(id, record.entry, record.epoch, queue=record.queue, snapshot=snapshot)
        assert journal.read_snapshot(lease) == await driver.load(id)
    return snapshot


async def test_what_is_larger_than_an_entry_may_be_is_not_told(driver: Driver) -> None:
    await driver.create("empty")
    room = BYTES_MAX - len(await told(driver, "empty")) - 2  # its size takes three digits instead of one
    await driver.create("fits", args=b"x" * room)
    await driver.create("large", args=b"x" * (room + 1))
    await driver.create("huge", args=b"x" * 100_000)
    assert len(await told(driver, "fits")) == BYTES_MAX
    assert await told(driver, "large") == await told(driver, "huge") == b""
    assert (await driver.record("huge")).args == b"x" * 100_000


async def test_a_journal_that_has_grown_too_large_is_not_told(driver: Driver) -> None:
    for id, size in (("small", 10), ("large", BYTES_MAX)):
        done = StepResult(Number("2"), "step", State.RESOLVED, b"x" * size)
        lease = await driver.start(id)
        [seen] = (await driver.commit(lease, CommitAction.CONTINUE, done)).entries
        await driver.commit(lease, CommitAction.SUSPEND, TIMER, seen=seen)
    await driver.fire()
    assert await told(driver, "small")
    assert await told(driver, "large") == b""


async def test_a_journal_of_many_entries_is_not_even_read_for_it(driver: Driver) -> None:
    """However small they are."""
    many = [StartPromise(Number(str(n)), "", None) for n in range(2, LIMIT["snapshot_fields_max"])]
    await driver.suspended("few", TIMER, *many[:20])
    await driver.suspended("many", TIMER, *many)
    await driver.fire()
    assert await told(driver, "few")
    assert await told(driver, "many") == b""


async def test_a_deadline_is_told_along_with_the_rest(driver: Driver) -> None:
    """Of one that is new, and of one that was waked."""
    await driver.create("new", deadline=FAR)
    assert await told(driver, "new")
    lease = await driver.take()
    done = StepResult(Number("2"), "step", State.RESOLVED, b"done")
    [seen] = (await driver.commit(lease, CommitAction.CONTINUE, done)).entries
    await driver.commit(lease, CommitAction.SUSPEND, TIMER, seen=seen)
    assert (await driver.record("new")).deadline_ms
    await driver.fire()
    assert await told(driver, "new")


async def test_what_is_queued_behind_thousands_is_only_named(driver: Driver) -> None:
    """Each costs memory for as long as it waits."""
    queue, most = driver.keys.queue("workers"), LIMIT["snapshots_queued_max"]
    pipe = driver.redis.pipeline(transaction=False)
    for _ in range(most - 1):
        pipe.xadd(queue, {"what": "ever"})
    await pipe.execute()
    await driver.create("last")
    await driver.create("next")
    assert await told(driver, "last")
    assert await told(driver, "next") == b""
    await driver.redis.xtrim(queue, maxlen=2, approximate=False)
    await driver.create("later")
    assert await told(driver, "later")


async def test_what_workers_died_of_is_told_again_only_after_a_commit(driver: Driver) -> None:
    """Who takes it must know of the deaths: it holds one such execution at a time."""
    await driver.beat()
    await driver.start("a")
    await driver.reclaim()
    assert await told(driver, "a") == b""
    await driver.commit(await driver.take(consumer=OTHER), CommitAction.DEFER, due="=1", consumer=OTHER)
    await driver.fire()
    assert await told(driver, "a") == b""
    assert (await driver.record("a")).crash_count == 1
    await driver.commit(await driver.take(consumer=OTHER), CommitAction.SUSPEND, TIMER, consumer=OTHER)
    await driver.fire()
    assert await told(driver, "a")


@pytest.mark.parametrize("how", ["given back", "resumed", "woken", "begun anew", "waked by a person's answer"])
async def test_only_what_is_new_or_was_waked_by_its_timer_is_told(driver: Driver, how: str) -> None:
    lease = await driver.start("a")
    match how:
        case "given back":
            await driver.reclaim(lease.entry, release="some")
        case "resumed":
            await driver.control("halt", "a")
            await driver.control("resume", "a")
        case "woken":
            await driver.commit(lease, CommitAction.RETRY, due="+3600000")
            await driver.control("wake", "a")
        case "begun anew":
            await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="0")
        case _:
            await driver.commit(lease, CommitAction.SUSPEND, StartPromise(Number("1"), "", None))
            await driver.settle("a~1")
    assert await driver.place("a") is Place.QUEUED
    assert await told(driver, "a") == b""


async def test_an_entry_that_is_read_again_tells_nothing(driver: Driver) -> None:
    """After a reconnect it may have been worked on for long: it is loaded."""
    link = driver.store.link(driver.keys)
    reader = TaskReader(link, driver.keys, group="workers", consumer=WORKER, settings=DEFAULTS)
    await driver.create("a")
    [first] = await reader.once(1)
    assert journal.read_snapshot(first) == await driver.load("a")
    await driver.commit(first, CommitAction.CONTINUE, StartTimer(Number("1"), "", Due("+3600000")))
    await link.close()
    [again] = await reader.once(1)
    assert (again.id, again.entry, again.epoch) == (first.id, first.entry, first.epoch)
    assert journal.read_snapshot(again) is None
    await reader.close()


@pytest.mark.parametrize(
    "snapshot",
    [
        b"nonsense",
        b"1\t2",
        b"\n",
        b"1\t\t\t\t\t\tx\nf",
        b"1\t\t\t\t\t\t0\tsoon\nf",
        b"1\t\t\t\t\t\t0\t1\t3\nabcf",
        b"\xff\xfe",
    ],
)
def test_what_is_not_told_in_our_words_is_loaded(snapshot: bytes) -> None:
    assert journal.read_snapshot(Lease(PromiseId("a"), "workers", "1-0", 1, snapshot)) is None
