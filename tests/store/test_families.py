"""Families, deep and wide: each member is closed once, and no call does very much at a time."""

from __future__ import annotations

import pytest

from durasleep.model import CommitAction, Number, Place, StartPromise, StartTimer, State
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import F
from harness.servers import Server
from tests.store.driver import FAR, Driver, child


async def begin_chain(driver: Driver, root: str, depth: int) -> list[Lease]:
    """Each has asked for the next one; the leases are of the root first, and only the last one still runs."""
    await driver.create(root)
    leases = [await driver.take()]
    for _ in range(depth - 1):
        await driver.commit(leases[-1], CommitAction.SUSPEND, child("1"))
        leases.append(await driver.take())
    return leases


async def end_chain(driver: Driver, leases: list[Lease]) -> None:
    """From the last one up, each ends as it hears of the next."""
    await driver.commit(leases[-1], CommitAction.RESOLVE, payload=b"v")
    for lease in reversed(leases[:-1]):
        entry = (await driver.load(lease.id)).entries
        await driver.commit(
            await driver.take(), CommitAction.RESOLVE, payload=b"v", seen=max(entry.values(), key=_stamp)
        )
    await driver.fire_all()


def _stamp(entry: object) -> int:
    return entry.stamp  # type: ignore[attr-defined]


async def commands_of_scripts(driver: Driver) -> dict[str, int]:
    stats = await driver.redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}


async def cost_of_chain(driver: Driver, root: str, depth: int) -> int:
    """How many commands its end takes."""
    leases = await begin_chain(driver, root, depth)
    before = await commands_of_scripts(driver)
    await end_chain(driver, leases)
    after = await commands_of_scripts(driver)
    await driver.assert_kept_together(*[lease.id for lease in leases])
    return sum(count - before.get(name, 0) for name, count in after.items())


async def test_a_chain_of_calls_ends_in_as_many_commands_a_member_however_deep_it_is(
    real_server: Server, namespace: str
) -> None:
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        short, long = await cost_of_chain(driver, "a", 20), await cost_of_chain(driver, "b", 120)
    assert long / 120 < 1.3 * short / 20


async def test_a_chain_that_is_canceled_ends_in_as_many_commands_a_member(real_server: Server, namespace: str) -> None:
    driver = Driver(real_server.client(), namespace)

    async def cost(root: str, depth: int) -> int:
        leases = await begin_chain(driver, root, depth)
        before = await commands_of_scripts(driver)
        await driver.control("force", root)
        await driver.fire_all()
        after = await commands_of_scripts(driver)
        await driver.assert_kept_together(*[lease.id for lease in leases])
        return sum(count - before.get(name, 0) for name, count in after.items())

    async with driver.store.opened():
        short, long = await cost("a", 20), await cost("b", 120)
    assert long / 120 < 1.3 * short / 20


async def test_what_has_ended_below_a_run_that_is_over_goes_with_it(driver: Driver) -> None:
    """However deep it is: its root goes on, and nothing leads from there to it any more."""
    leases = await begin_chain(driver, "a", 6)
    await driver.commit(leases[5], CommitAction.RESOLVE)
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.control("cancel", "a~1")
    middle = next(lease for lease in await driver.read(9) if lease.id == "a~1")
    assert await driver.ttl_ms(leases[5].id) == -1  # as long as its root is pending
    await driver.commit(middle, CommitAction.CONTINUE_AS_NEW, due="2")
    await driver.fire_all()
    await driver.assert_kept_together(*[lease.id for lease in leases[2:]])
    await driver.control("force", "a")
    await driver.fire_all()


async def test_an_ending_under_the_number_of_something_else_settles_nothing(driver: Driver) -> None:
    """As after a rollback of a part: the journal has a timer where a child was."""
    await driver.suspended("a", StartTimer(Number("1"), "", FAR))
    incarnation = (await driver.record("a")).incarnation
    await driver.redis.hset(driver.keys.promise("a~1"), mapping={F["func"]: "g", F["incarnation"]: incarnation})
    await driver.control("force", "a~1")
    assert (await driver.entry("a", "1")).state is State.PENDING
    assert await driver.place("a") is Place.SUSPENDED
    await driver.redis.delete(driver.keys.promise("a~1"))


async def test_what_is_gone_of_a_family_or_of_another_life_keeps_it_from_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"))
    await driver.redis.delete(driver.keys.promise("a~1"))
    other = {F["func"]: "g", F["incarnation"]: "1"}
    await driver.redis.delete(driver.keys.promise("a~2"))
    await driver.redis.hset(driver.keys.promise("a~2"), mapping=other)
    await driver.commit(lease, CommitAction.RESOLVE)
    assert await driver.halted() == []
    assert set(await driver.redis.hkeys(driver.keys.promise("a~2"))) == {field.encode() for field in other}
    await driver.redis.delete(driver.keys.promise("a~2"), driver.keys.queue("workers"))


async def test_what_waits_for_no_other_part_is_closed_at_once(driver: Driver) -> None:
    await driver.create("own")
    await driver.take()
    lease = await driver.start("a")
    asked = [StartTimer(Number("1"), "", FAR), StartPromise(Number("2"), "", None), child("3"), child("4", id="own")]
    await driver.commit(lease, CommitAction.CONTINUE, *asked)
    await driver.commit(lease, CommitAction.RESOLVE)
    assert await driver.redis.exists(driver.keys.closing) == 0


@pytest.mark.leaves_keys("a journal with garbage, and keys of a wrong type")
async def test_garbage_keeps_no_family_open(driver: Driver) -> None:
    lease = await driver.start("a")
    timers = [StartTimer(Number(str(number)), "", FAR) for number in range(1, 301)]
    await driver.commit(lease, CommitAction.CONTINUE, *timers)
    await driver.redis.hset(driver.keys.promise("a"), mapping={"0.9": "garbage", F["cursor"]: "7"})
    await driver.commit(lease, CommitAction.RESOLVE)
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["cursor"])  # from its beginning
    await driver.fire_all()
    assert (await driver.timers(), await driver.halted()) == ({}, [])
    assert await driver.ttl_ms("a") > 0
    lease = await driver.start("b")
    await driver.commit(lease, CommitAction.CONTINUE, *timers)
    await driver.redis.set(driver.keys.closing, "garbage")
    await driver.commit(lease, CommitAction.RESOLVE)
    assert (await driver.record("b")).state is State.RESOLVED
    assert await driver.halted() == []


@pytest.mark.leaves_keys("a set of a wrong type")
@pytest.mark.parametrize("field", ["pgarbage\nione\n", "+"])
async def test_whoever_waits_under_no_name_keeps_nothing_from_ending(driver: Driver, field: str) -> None:
    lease = await driver.start("a", inbox="one")
    await driver.redis.hset(driver.keys.promise("a"), F["waiters"], field)
    await driver.redis.set(driver.keys.waiters("a"), "garbage")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    assert (await driver.record("a")).state is State.RESOLVED
    assert [told[b"v"] for told in await driver.inbox("one")] == ([b"v"] if "one" in field else [])
    assert await driver.halted() == []


async def test_what_a_pending_root_may_come_by_again_is_kept_until_it_ends(driver: Driver) -> None:
    """Though who asked for it has ended, and it is so large that it is closed later."""
    await driver.suspended("a", child("1"))
    middle = await driver.take()
    await driver.commit(middle, CommitAction.CONTINUE, child("2"))
    timers = [StartTimer(Number(str(number)), "", FAR) for number in range(1, 301)]
    await driver.commit(await driver.take(), CommitAction.SUSPEND, *timers)
    await driver.commit(middle, CommitAction.RESOLVE)
    await driver.fire_all()
    assert (await driver.record("a~1~2")).state is State.CANCELED
    assert await driver.ttl_ms("a~1~2") == -1
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.fire_all()
    await driver.assert_kept_together("a", "a~1", "a~1~2")


@pytest.mark.leaves_keys("a broken root, and what was named for it")
async def test_a_member_whose_root_cannot_be_read_is_named(driver: Driver) -> None:
    await driver.suspended("a", child("1", due=FAR))
    await driver.redis.set(driver.keys.promise("a"), "garbage")
    await driver.redis.hset(driver.keys.promise("a~1"), F["deadline"], "1")
    await driver.redis.zadd(driver.keys.timers, {"a~1~timeout": 1})
    assert (await driver.fire()).quarantined == []
    assert (await driver.record("a~1")).state is State.TIMEDOUT
    assert sorted(name.partition(": ")[0] for name in await driver.halted()) == ["closing:a~1", "promise:a"]


async def test_what_another_incarnation_has_ended_makes_room_without_ending_again(driver: Driver) -> None:
    await driver.commit(await driver.start("a"), CommitAction.SUSPEND, child("1"))
    await driver.commit(await driver.take(), CommitAction.RESOLVE, payload=b"first")
    await driver.control("force", "a")
    await driver.redis.delete(driver.keys.promise("a"))
    await driver.another_life()
    await driver.commit(await driver.start("a"), CommitAction.SUSPEND, child("1"))
    assert (await driver.record("a~1")).place is Place.QUEUED
    assert [fields[b"i"] for _, fields in await driver.redis.xrange(driver.keys.failed)] == [b"a"]
    await driver.control("force", "a")
