"""What calls cost: the commands that the server runs for them, told by name.

A script that asks for the same thing twice answers as well as one that does not, and only here is the difference seen.
Whoever changes these figures knows why.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from durasleep.model import (
    CommitAction,
    Due,
    Kind,
    Number,
    Op,
    Publish,
    StartPromise,
    StartReceive,
    StartTimer,
    State,
    StepResult,
)
from durasleep.protocol import commit, resonate
from durasleep.protocol.commit import Lease
from durasleep.settings import DEFAULTS
from harness.servers import Server
from tests.store.driver import FAR, OTHER, WORKER, Driver, child

COUNT = 10
STEP = StepResult(Number("1"), "", State.RESOLVED, b"")
CALL = {"evalsha": 1, "time": 1, "get": 1}
"""Whatever it does. The clock stands still, so that no new minute of the counters begins."""
COMMITS = {**CALL, "zadd": 1, "hmget": COUNT, "xpending": 1}
ENDED = {"hset": COUNT + 1, "hmget": COUNT + 1}
"""Endings are counted, once a call."""
LEAVE = {"xrange": 1, "xack": 1, "xtrim": 1}
"""Entries have left a queue, as its oldest."""


@pytest.fixture
async def driver(one_server: Server, namespace: str) -> AsyncIterator[Driver]:
    """On a server that has seen every script before."""
    driver = Driver(one_server.client(), namespace, dataclasses.replace(DEFAULTS, movable_clock=True))
    async with driver.store.opened():
        await driver.redis.set(driver.keys.clock, f"={(await driver.redis.time())[0] * 1000}")
        await driver.create("warm-child", function="g")
        await driver.commit(await driver.take(), CommitAction.RESOLVE)
        await driver.create("warm")
        await driver.commit(await driver.take(), CommitAction.RESOLVE)
        await driver.create("warm-too", kind=Kind.PROMISE)
        await driver.settle("warm-too")
        await driver.fire()
        yield driver
        await driver.redis.delete(driver.keys.clock)


async def cost(driver: Driver, *calls: Callable[[], Awaitable[object]]) -> dict[str, int]:
    """Of these calls, which travel together."""
    await driver.redis.config_resetstat()
    await asyncio.gather(*[call() for call in calls])
    stats: dict[str, dict[str, Any]] = await driver.redis.info("commandstats")
    found = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
    return {name: count for name, count in found.items() if name.partition("|")[0] not in ("config", "info", "eval")}


async def cost_of_commits(driver: Driver, leases: Sequence[Lease], outcome: CommitAction, *ops: Op) -> dict[str, int]:
    return await cost(driver, *[lambda lease=lease: driver.commit(lease, outcome, *ops) for lease in leases])


async def started(driver: Driver, count: int = COUNT) -> list[Lease]:
    return await driver.start_all([f"a{number:03}" for number in range(count)])


async def ended(driver: Driver, leases: Sequence[Lease]) -> None:
    await driver.commit_all(leases, CommitAction.RESOLVE)


async def test_executions_that_are_made_together(driver: Driver) -> None:
    calls = [lambda n=n: driver.create(f"a{n}", inbox="reader") for n in range(COUNT)]
    assert await cost(driver, *calls) == {
        **CALL,
        "hmget": 1,
        "exists": COUNT + 1,
        "type": 1,
        "xlen": 1,
        "xadd": COUNT + 1,
        "hset": COUNT,
        "pexpire": 1,
    }
    assert await cost(driver, *calls) == {**CALL, "exists": COUNT + 1, "hmget": COUNT, "pexpire": 1}
    await ended(driver, await driver.read(COUNT))


async def test_executions_that_sleep_and_wake(driver: Driver) -> None:
    leases = await started(driver)
    assert await cost_of_commits(driver, leases, CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("=1"))) == {
        **COMMITS,
        **LEAVE,
        "zadd": 2,
        "hset": COUNT,
        "hdel": COUNT,
        "type": 2,
        "zrangebyscore": 1,
        "xadd": 1,
    }
    assert await cost(driver, driver.fire) == {
        **CALL,
        "hlen": COUNT,
        "hgetall": COUNT,
        "hset": COUNT,
        "xadd": COUNT,
        "type": 3,
        "xlen": 1,
        "xrevrange": 1,
        "zcard": 1,
        "zrange": 2,
        "zrangebyscore": 1,
        "zrem": 2,
    }
    await ended(driver, await driver.read(COUNT))


async def test_children_that_end(driver: Driver) -> None:
    for lease in await started(driver):
        await driver.commit(lease, CommitAction.SUSPEND, child("1"))
    found = await cost_of_commits(driver, await driver.read(COUNT), CommitAction.RESOLVE)
    closed = {"hset": 2 * COUNT + 1, "hdel": COUNT, "hlen": COUNT, "hscan": COUNT, "xadd": COUNT + 1}
    assert found == {**COMMITS, **LEAVE, **closed, "hmget": 6 * COUNT + 1, "type": 2}
    await ended(driver, await driver.read(COUNT))


async def test_executions_with_much_in_them_are_not_read_whole_once_a_call_has_moved_enough(driver: Driver) -> None:
    """What they need then is left to whoever takes them."""
    for lease in await started(driver, 6):
        seen = (await driver.commit(lease, CommitAction.CONTINUE, replace(STEP, payload=b"x" * (1 << 20)))).entries[0]
        nap = StartTimer(Number("2"), "", Due("=1"))
        await driver.commit(lease, CommitAction.SUSPEND, nap, seen=seen)
    found = await cost(driver, driver.fire)
    assert (found["hgetall"], found["hmget"]) == (4, 2)
    await ended(driver, await driver.read(6))


async def test_executions_that_publish(driver: Driver) -> None:
    """The first time it is noted that they do. Who publishes nothing pays nothing: see all others here."""
    leases = await started(driver)
    first = await cost_of_commits(driver, leases, CommitAction.CONTINUE, Publish(b"one"))
    assert first == {**COMMITS, "type": COUNT, "hset": 2 * COUNT, "hget": 2 * COUNT}
    again = await cost_of_commits(driver, leases, CommitAction.CONTINUE, Publish(b"two"))
    assert again == {**COMMITS, "type": COUNT, "hset": COUNT, "hget": COUNT}
    calls = [
        lambda lease=lease: driver.store.call(commit.publish(driver.keys, WORKER, lease, "1", "1", b"x"))
        for lease in leases
    ]
    await cost(driver, *calls)
    assert await cost(driver, *calls) == {
        **COMMITS,
        "xpending": COUNT,
        "type": COUNT,
        "hset": COUNT,
        "hget": COUNT,
    }
    await ended(driver, leases)


async def test_executions_that_go_on(driver: Driver) -> None:
    leases = await started(driver)
    assert await cost_of_commits(driver, leases, CommitAction.CONTINUE, STEP, replace(STEP, number=Number("2"))) == {
        **COMMITS,
        "hset": COUNT,
    }
    seen = [await driver.entry(lease.id, "1") for lease in leases]
    calls = [
        lambda lease=lease, entry=entry: driver.commit(lease, CommitAction.CONTINUE, seen=entry, asked="2")
        for lease, entry in zip(leases, seen, strict=True)
    ]
    assert await cost(driver, *calls) == {**COMMITS, "hset": COUNT}
    assert await cost(driver, lambda: driver.beat(*leases)) == {
        **CALL,
        "zadd": 1,
        "hget": 1,
        "hset": 1,
        "hmget": COUNT + 1,
        "exists": 2,
        "pexpire": 2,
        "type": 1,
        "xadd": 1,
        "xinfo|consumers": 1,
        "xpending": 2,
        "xrevrange": 2,
        "zcard": 1,
        "zrange": 1,
        "zrem": 1,
    }
    assert await cost_of_commits(driver, leases, CommitAction.RESOLVE) == {
        **COMMITS,
        **LEAVE,
        **ENDED,
        "hdel": COUNT,
        "hlen": COUNT,
        "hscan": COUNT,
        "pexpire": COUNT,
        "type": 2,
        "xadd": 1,
    }


async def test_executions_that_leave_nothing_open(driver: Driver) -> None:
    calls = [
        lambda lease=lease: driver.store.call(
            commit.commit(driver.keys, WORKER, lease, CommitAction.RESOLVE, open=False)
        )
        for lease in await started(driver)
    ]
    found = await cost(driver, *calls)
    assert found == {**COMMITS, **LEAVE, **ENDED, "hdel": COUNT, "pexpire": COUNT, "type": 2, "xadd": 1}


async def test_entries_that_do_not_come_in_their_order(driver: Driver) -> None:
    """Behind the first all are asked for, and behind each that was not among them about as many as that spared."""
    leases = await started(driver, 48)
    last_first = [*leases[46:], *leases[:46]]
    found = await cost_of_commits(driver, last_first, CommitAction.CONTINUE)
    assert found == {**COMMITS, "hmget": 48, "xpending": 6}
    await ended(driver, leases)


async def test_entries_between_those_of_another_worker(driver: Driver) -> None:
    await asyncio.gather(*[driver.create(f"a{n}") for n in range(2 * COUNT)])
    ours, theirs = list[Lease](), list[Lease]()
    for _ in range(COUNT):
        ours += await driver.read()
        theirs += await driver.read(consumer=OTHER)
    assert await cost_of_commits(driver, ours, CommitAction.CONTINUE) == {**COMMITS, "xpending": 2}
    assert await cost(driver, lambda: driver.reclaim(consumer=OTHER, beat="")) == {
        **CALL,
        "hmget": COUNT,
        "hset": COUNT,
        "xrange": COUNT,
        "xack": COUNT,
        "xdel": COUNT,
        "xadd": COUNT,
        "del": 1,
        "type": 1,
        "xgroup|delconsumer": 1,
        "xpending": 1,
        "zrem": 2,
        "zscore": 1,
    }
    await ended(driver, [*ours, *await driver.read(COUNT)])


async def test_promises_that_settle(driver: Driver) -> None:
    await asyncio.gather(*[driver.create(f"p{n}", kind=Kind.PROMISE) for n in range(COUNT)])
    assert await cost(driver, *[lambda n=n: driver.settle(f"p{n}") for n in range(COUNT)]) == {
        **CALL,
        "zadd": 1,
        "hmget": COUNT,
        "hset": COUNT,
        "hdel": COUNT,
        "hlen": COUNT,
        "hscan": COUNT,
        "pexpire": COUNT,
        "type": 1,
        "xadd": 1,
    }
    assert await cost(driver, *[lambda n=n: driver.load(f"p{n}") for n in range(COUNT)]) == {
        "evalsha": 1,
        "hlen": COUNT,
        "hgetall": COUNT,
    }


async def test_families_that_end(driver: Driver) -> None:
    """Of what has settled before, only a child is read again; and whoever ends with its owner asks for no root."""
    await driver.commit(await driver.start("own"), CommitAction.RESOLVE)
    parents = await started(driver)
    for lease in parents:
        asked = child("1"), child("2", id="own", function="f"), child("3")
        await driver.commit(lease, CommitAction.CONTINUE, *asked)
        await driver.commit(await driver.take_of(f"{lease.id}~3"), CommitAction.RESOLVE)
    closed = {
        "hset": 2 * COUNT + 1,
        "hdel": 2 * COUNT,
        "hlen": 2 * COUNT + 1,
        "hscan": 2 * COUNT,
        "pexpire": 3 * COUNT + 1,
    }
    found = await cost_of_commits(driver, parents, CommitAction.RESOLVE)
    assert found == {**COMMITS, **LEAVE, **closed, "hmget": 4 * COUNT + 1, "type": 3, "xadd": 4, "xdel": 1}


async def test_children_that_end_and_leave_nothing_open(driver: Driver) -> None:
    for lease in await started(driver):
        await driver.commit(lease, CommitAction.SUSPEND, child("1"))
    calls = [
        lambda lease=lease: driver.store.call(
            commit.commit(driver.keys, WORKER, lease, CommitAction.RESOLVE, open=False)
        )
        for lease in await driver.read(COUNT)
    ]
    told = {"hmget": 6 * COUNT + 1, "hset": 2 * COUNT + 1, "hdel": COUNT, "xadd": COUNT + 1}
    assert await cost(driver, *calls) == {**COMMITS, **LEAVE, **told, "type": 2}
    await ended(driver, await driver.read(COUNT))


async def test_children_whose_own_children_have_ended(driver: Driver) -> None:
    """These are not asked for, as long as their root is pending."""
    for lease in await started(driver):
        await driver.commit(lease, CommitAction.SUSPEND, child("1"))
    middle = await driver.read(COUNT)
    for lease in middle:
        await driver.commit(lease, CommitAction.CONTINUE, child("1"))
        await driver.commit(await driver.take(), CommitAction.RESOLVE)
    found = await cost_of_commits(driver, middle, CommitAction.RESOLVE)
    closed = {"hset": 2 * COUNT + 1, "hdel": COUNT, "hlen": COUNT, "hscan": COUNT, "xadd": COUNT + 1}
    assert found == {**COMMITS, **LEAVE, **closed, "hmget": 6 * COUNT + 1, "type": 2}
    await ended(driver, await driver.read(COUNT))


async def test_a_family_that_is_closed_later(driver: Driver) -> None:
    """Its root is read once, and once more for how long it is kept."""
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, *[StartTimer(Number(str(n)), "", FAR) for n in range(1, 301)])
    await driver.commit(lease, CommitAction.RESOLVE)
    found = await cost(driver, driver.fire)
    assert (found["hmget"], found.get("pttl", 0)) == (2, 0)
    await driver.fire_all()


async def test_messages_to_executions_that_wait_and_to_mailboxes(driver: Driver) -> None:
    """A message for code that waits costs the commands of a settlement; one that is stored, those of its mailbox."""
    receive, promise = StartReceive(Number("1"), "x", None), StartPromise(Number("1"), "", None)
    for lease in await started(driver):
        await driver.commit(lease, CommitAction.SUSPEND, receive)
    for lease in await driver.start_all([f"p{number:03}" for number in range(COUNT)]):
        await driver.commit(lease, CommitAction.SUSPEND, promise)
    await driver.send("a000", "y")  # the server knows the script
    sends = [lambda n=n: driver.send(f"a{n:03}", "x", b"1") for n in range(1, COUNT)]
    settles = [lambda n=n: driver.settle(f"p{n:03}~1", value=b"1") for n in range(1, COUNT)]
    few = COUNT - 1
    settled = {**CALL, "hset": few, "hget": few, "zadd": 1, "xadd": few, "type": 1, "hmget": 2 * few}
    assert await cost(driver, *settles) == settled
    sent = {**settled, "hmget": few}  # to whom a promise belongs is looked up
    assert await cost(driver, *sends) == sent
    del sent["xadd"], sent["hget"], sent["type"]
    assert await cost(driver, *sends) == {**sent, "hset": 2 * few, "hmget": 2 * few}, "it says that it has a mailbox"
    assert await cost(driver, *sends) == {**sent, "hset": few, "hmget": 2 * few}
    await ended(driver, await driver.read(2 * COUNT))
    await driver.control("force", "a000")
    await driver.control("force", "p000")


async def test_a_sleeper_of_another_language(driver: Driver) -> None:
    """Of each request of an SDK, and of its timer; the first one is to let the server know the scripts."""
    keys, target, far = driver.keys, {"resonate:target": "poll://any@w"}, 1 << 52
    head = {"corrId": "c", "version": resonate.VERSION}

    def asking(kind: str, **data: object) -> Callable[[], Awaitable[object]]:
        body = json.dumps({"kind": kind, "head": head, "data": data}).encode()
        return lambda: driver.store.call(resonate.rpc(keys, body))

    def inner(kind: str, **data: object) -> dict[str, object]:
        return {"kind": kind, "head": head, "data": data}

    timer = {"id": "a:1", "timeoutAt": far, "param": {}, "tags": target | {"resonate:timer": "true"}}
    wait = inner("promise.register_callback", awaited="a:1", awaiter="a")
    await asking("promise.get", id="none")()
    await driver.store.call(resonate.take(keys, ["poll://any@w"]))
    begun = {**CALL, "zadd": 1}
    got = {**begun, "hgetall": 1}
    create = asking("promise.create", id="a", timeoutAt=far, param={}, tags=target)
    assert await cost(driver, create) == {**got, "zadd": 3, "hset": 1, "xadd": 1}
    assert await cost(driver, create) == got
    took = await cost(driver, lambda: driver.store.call(resonate.take(keys, ["poll://any@w"])))
    assert took == {**CALL, "zadd": 1, "zrem": 2, "xrange": 1, "hmget": 1, "zrange": 2, "xadd": 1}
    acquire = asking("task.acquire", id="a", version=0, pid="p", ttl=60_000)
    assert await cost(driver, acquire) == {**got, "hset": 1, "zadd": 2, "zrem": 1, "zrange": 1}
    fence = asking("task.fence", id="a", version=1, action=inner("promise.create", **timer))
    assert await cost(driver, fence) == {**got, "hmget": 1, "hset": 2, "zadd": 2, "zrange": 1}
    suspend = asking("task.suspend", id="a", version=1, actions=[wait])
    assert await cost(driver, suspend) == {**begun, "hmget": 2, "hset": 2, "hdel": 1, "zrem": 1}
    await driver.redis.delete(*[name async for name in driver.redis.scan_iter(match=f"{keys.resonate}*")])
