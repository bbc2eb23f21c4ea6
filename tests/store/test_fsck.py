"""Data broken by hand: each break is found and named, nothing else is, and what is mended goes on as it should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from durasleep.model import CommitAction, Due, Kind, Number, Place, StartPromise, StartTimer, State, StepResult
from durasleep.protocol.keys import F
from durasleep.query import fsck
from durasleep.query.fsck import Report
from tests.store.driver import FAR, PAST, Driver, child

TIMER = StartTimer(Number("1"), "", FAR)


async def check(driver: Driver, *, repair: bool = False) -> Report:
    return await driver.store.run(fsck.fsck(driver.keys, repair=repair))


async def healthy(driver: Driver) -> None:
    """One of everything, all of it as it should be."""
    await driver.suspended("sleeper", TIMER, StartPromise(Number("2"), "approval", None))
    await driver.suspended("parent", child("1"), child("2", id="named"))
    for lease in await driver.read(2):
        await driver.commit(lease, CommitAction.SUSPEND, TIMER)
    await driver.create("p", kind=Kind.PROMISE, deadline=FAR)
    await driver.create("later", start=FAR, deadline=Due("+7200000"))
    lease = await driver.start("done")
    await driver.commit(lease, CommitAction.RESOLVE, StepResult(Number("1"), "step", State.RESOLVED, b"x"))
    await driver.start("stopped")
    await driver.control("halt", "stopped", reason="why")
    await driver.create("queued", args=b"the arguments")
    await driver.beat()


async def test_what_the_scripts_write_is_clean(driver: Driver) -> None:
    await healthy(driver)
    report = await check(driver)
    assert report.findings == []
    assert report.is_clean
    assert report.checked["promise"] == 9
    assert report.checked["timer"] == 6
    assert report.checked["entry"] == 1
    assert report.checked["member"] == 1


async def test_an_empty_namespace_is_clean(driver: Driver) -> None:
    assert (await check(driver)).is_clean


Break = Callable[[Driver], Awaitable[object]]


async def misquote(driver: Driver, old: bytes, new: bytes) -> None:
    """An entry that tells something else of its execution, in place of the one that "queued" has."""
    queue, promise = driver.keys.queue("workers"), driver.keys.promise("queued")
    [(entry, fields)] = await driver.redis.xrange(queue)
    assert fields[b"x"].count(old) == 1
    await driver.redis.xdel(queue, entry)
    other = await driver.redis.xadd(queue, fields | {b"x": fields[b"x"].replace(old, new)})
    await driver.redis.hset(promise, F["entry"], other)


async def another_birth(driver: Driver) -> None:
    incarnation = str((await driver.record("queued")).incarnation).encode()
    await misquote(driver, incarnation, b"1" * len(incarnation))


async def add_waiter(driver: Driver) -> None:
    promise = driver.keys.promise("named")
    waiters = await driver.redis.hget(promise, F["waiters"])
    await driver.redis.hset(promise, F["waiters"], waiters + b"p1 gone~7\n")


async def add_clients(driver: Driver) -> None:
    """As of clients that were killed: nothing keeps their inboxes alive."""
    for number in range(60):
        await driver.create("sleeper", inbox=f"dead{number}")
    for key in await driver.redis.keys(driver.keys.inbox("dead*")):
        await driver.redis.delete(key)


BREAKS: dict[str, tuple[str, str, Break]] = {
    "a lost stream entry": ("unqueued", "queued", lambda d: d.redis.xtrim(d.keys.queue("workers"), maxlen=0)),
    "an entry delivered to nobody": (
        "undelivered",
        "queued",
        lambda d: d.redis.xgroup_setid(d.keys.queue("workers"), "workers", "$"),
    ),
    "an entry with another birth": ("misquoted", "queued", another_birth),
    "an entry with other arguments": ("misquoted", "queued", lambda d: misquote(d, b"arguments", b"augments ")),
    "an entry with another function": ("misquoted", "queued", lambda d: misquote(d, b"argumentsf", b"argumentsg")),
    "an entry that breaks off": ("misquoted", "queued", lambda d: misquote(d, b"\t13\n", b"\t")),
    "another epoch": ("unqueued", "queued", lambda d: d.redis.hset(d.keys.promise("queued"), F["epoch"], 7)),
    "a lost timer": ("untimed", "sleeper~1", lambda d: d.redis.zrem(d.keys.timers, "sleeper~1")),
    "a moved timer": ("mistimed", "sleeper~1", lambda d: d.redis.zadd(d.keys.timers, {"sleeper~1": 4e12})),
    "a lost start": ("untimed", "later~start", lambda d: d.redis.zrem(d.keys.timers, "later~start")),
    "a lost deadline": ("untimed", "later~timeout", lambda d: d.redis.zrem(d.keys.timers, "later~timeout")),
    "a lost timeout": ("untimed", "p~timeout", lambda d: d.redis.zrem(d.keys.timers, "p~timeout")),
    "a stray timer": ("timer", "nobody~1", lambda d: d.redis.zadd(d.keys.timers, {"nobody~1": 4e12})),
    "a stray timer of what has ended": ("timer", "done~5", lambda d: d.redis.zadd(d.keys.timers, {"done~5": 4e12})),
    "an unnamed halt": ("unnamed", "stopped", lambda d: d.redis.zrem(d.keys.halted, "stopped")),
    "a name without a halt": ("halted", "sleeper", lambda d: d.redis.zadd(d.keys.halted, {"sleeper": 1})),
    "no place": ("nowhere", "sleeper", lambda d: d.redis.hdel(d.keys.promise("sleeper"), F["place"])),
    "news unheard": ("unwoken", "sleeper", lambda d: d.redis.hset(d.keys.promise("sleeper"), F["unseen"], "1 ")),
    "a lost child": ("gone", "parent~1", lambda d: d.redis.delete(d.keys.promise("parent~1"))),
    "a forgotten waiter": ("untold", "parent~2", lambda d: d.redis.hdel(d.keys.promise("named"), F["waiters"])),
    "a pending promise that expires": (
        "expiring",
        "sleeper",
        lambda d: d.redis.pexpire(d.keys.promise("sleeper"), 9_000_000),
    ),
    "a result kept for ever": ("kept", "done", lambda d: d.redis.persist(d.keys.promise("done"))),
    "a worker of long ago": ("stale", "gone/00000000", lambda d: d.redis.zadd(d.keys.workers, {"gone/00000000": 1})),
    "a waiter that does not wait": ("waiter", "named", add_waiter),
    "clients that were killed": ("client", "sleeper", add_clients),
    "a list of those who wait for nobody": (
        "waiters",
        "nobody",
        lambda d: d.redis.sadd(d.keys.waiters("nobody"), "p1 sleeper~1"),
    ),
    "a run that nobody closes": ("run", "sleeper", lambda d: d.redis.hset(d.keys.run("sleeper"), F["incarnation"], 1)),
    "a family gone": ("closing", "nobody", lambda d: d.redis.zadd(d.keys.closing, {"nobody": 1})),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_is_found_by_name_and_mended(driver: Driver, name: str) -> None:
    kind, id, break_it = BREAKS[name]
    await healthy(driver)
    await break_it(driver)
    found = (await check(driver)).findings
    assert (kind, id) in [(finding.kind, finding.id) for finding in found]
    for finding in found:  # what it has left behind is told as well
        assert finding.id.startswith(id.partition("~")[0]) or finding.kind in ("timer", "entry"), found
    assert not any(finding.repaired for finding in found)
    assert all(finding.repairable for finding in found)
    repaired = await check(driver, repair=True)
    assert repaired.findings
    assert repaired.is_clean
    await check(driver, repair=True)  # a child that is gone leaves a timer that is met only now
    assert (await check(driver)).findings == []


async def test_what_is_queued_anew_runs_once_and_its_old_holder_is_fenced(driver: Driver) -> None:
    old = await driver.start("a")
    await driver.redis.xdel(driver.keys.queue("workers"), old.entry)
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["unqueued"]
    new = await driver.take()
    assert (new.id, new.epoch) == ("a", old.epoch + 1)
    await driver.commit(new, CommitAction.RESOLVE)
    assert (await check(driver)).is_clean


async def test_a_parent_hears_of_a_child_whose_ending_it_missed(driver: Driver) -> None:
    await driver.suspended("parent", child("1"))
    lease = await driver.take()
    before = await driver.redis.hgetall(driver.keys.promise("parent"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"result")
    await driver.redis.delete(driver.keys.promise("parent"))
    await driver.redis.hset(driver.keys.promise("parent"), mapping=before)  # as if it had never been told
    await driver.redis.delete(driver.keys.queue("workers"))
    found = (await check(driver, repair=True)).findings
    assert [(finding.kind, finding.id) for finding in found] == [("untold", "parent~1")]
    assert (await driver.entry("parent", "1")).payload == b"result"
    assert (await driver.record("parent")).place is Place.QUEUED


async def test_a_child_without_its_parent_is_ended(driver: Driver) -> None:
    await driver.suspended("parent", child("1"))
    await driver.redis.delete(driver.keys.promise("parent"))
    found = (await check(driver, repair=True)).findings
    assert [(finding.kind, finding.id) for finding in found] == [("orphan", "parent~1")]
    assert await driver.read() == []  # with its family gone it is not even kept
    assert (await check(driver)).is_clean


async def test_a_sleeper_that_waits_for_nothing_is_given_to_a_worker(driver: Driver) -> None:
    await driver.suspended("a", TIMER)
    await driver.redis.hdel(driver.keys.promise("a"), "1")
    await driver.redis.zrem(driver.keys.timers, "a~1")
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["stuck"]
    assert (await driver.take()).id == "a"


async def test_what_was_misquoted_is_given_out_as_its_hash_says(driver: Driver) -> None:
    await driver.create("queued", args=b"the arguments")
    await misquote(driver, b"the", b"any")
    await check(driver, repair=True)
    [(entry, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert b"x" not in fields
    record = await driver.record((await driver.take()).id)
    assert (record.args, record.entry, record.epoch) == (b"the arguments", entry.decode(), 2)


async def test_an_entry_that_is_only_older_than_its_hash_is_left_alone(driver: Driver) -> None:
    """Arguments in parts, a journal that has grown meanwhile."""
    long = b"x" * 200
    await driver.suspended("a", StartTimer(Number("1"), "", PAST), StartPromise(Number("2"), "", None), args=long)
    await driver.fire()
    await driver.settle("a~2")
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert long in fields[b"x"]
    assert (await check(driver)).findings == []


async def test_an_entry_that_leads_nowhere_leaves_the_stream(driver: Driver) -> None:
    await driver.join()
    await driver.redis.xadd(driver.keys.queue("workers"), {"i": "nobody", "e": "1"})
    await driver.redis.xadd(driver.keys.queue("workers"), {"what": "is this"})
    assert [finding.kind for finding in (await check(driver, repair=True)).findings] == ["entry", "entry"]
    assert await driver.redis.xlen(driver.keys.queue("workers")) == 0


@pytest.mark.leaves_keys("they are not ours")
async def test_what_nobody_can_mend_is_left_to_a_person(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("text"), "text")
    await driver.redis.set(f"{driver.keys.tag}surprise", "x")
    await driver.redis.zadd(driver.keys.halted, {"timers:x: CORRUPT x": 1})
    await driver.suspended("sleeper", TIMER)
    await driver.redis.hset(driver.keys.promise("sleeper"), "2", "nonsense")
    report = await check(driver, repair=True)
    assert {finding.kind for finding in report.findings} == {"corrupt", "unknown", "aside"}
    assert len(report.findings) == 4
    assert not report.is_clean
    assert not any(finding.repairable for finding in report.findings)


async def test_a_long_journal_is_looked_at_to_its_end(driver: Driver) -> None:
    lease, last = await driver.start("long"), None
    for start in range(1, 1001, 200):
        ops = [StepResult(Number(str(n)), "s", State.RESOLVED, b"x" * 100) for n in range(start, start + 200)]
        seen = (await driver.commit(lease, CommitAction.CONTINUE, *ops)).entries
        while seen:
            last = max(seen, key=lambda entry: entry.stamp)
            seen = (await driver.commit(lease, CommitAction.CONTINUE, seen=last)).entries
    lost = StartTimer(Number("1001"), "", FAR)
    await driver.commit(lease, CommitAction.SUSPEND, lost, seen=last)
    assert (await driver.record("long")).place is Place.SUSPENDED
    assert (await check(driver)).findings == []
    await driver.redis.zrem(driver.keys.timers, "long~1001")
    assert [finding.id for finding in (await check(driver)).findings] == ["long~1001"]
    await check(driver, repair=True)


async def test_many_checks_beside_what_moves_find_nothing(driver: Driver) -> None:
    done = asyncio.Event()

    async def move() -> None:
        for n in range(40):
            await driver.suspended(f"a-{n}", StartTimer(Number("1"), "", PAST), child("2"))
            await driver.fire()
            for lease in await driver.read(10):
                outcome = CommitAction.RESOLVE if "~" in lease.id else CommitAction.CONTINUE
                await driver.commit(lease, outcome)
                if "~" not in lease.id:
                    await driver.control("force", lease.id)
        done.set()

    moving = asyncio.create_task(move())
    checks = 0
    while not done.is_set() and not moving.done():
        assert (await check(driver)).findings == []
        checks += 1
    await moving
    assert checks > 3
