"""What a namespace gets from another one: part by part, and visible at once when it is complete."""

from __future__ import annotations

from typing import Any

import pytest

from durasleep.errors import CorruptData, NotAllowed
from durasleep.model import CommitAction, Place, State
from durasleep.protocol import moving
from durasleep.protocol.keys import PLACE, STATE, F
from durasleep.protocol.moving import Adopted, Fields, Word
from harness.servers import Server
from tests.store.driver import Driver

FIELDS: dict[str, str] = {"incarnation": "1000", "func": "f", "args": "", "epoch": "3", "idempotency_key": "call"}
FAR_MS = 4_000_000_000_000


def fields(**more: str) -> Fields:
    """Those of an execution, as they are stored."""
    return [(F.get(name, name).encode(), value.encode()) for name, value in (FIELDS | more).items()]


def suspended(**entries: str) -> Fields:
    return [
        *fields(place=PLACE[Place.SUSPENDED]),
        *((n.removeprefix("n").encode(), e.encode()) for n, e in entries.items()),
    ]


async def adopt(driver: Driver, id: str, last: Fields, **more: Any) -> Adopted:
    options: dict[str, Any] = {
        "origin": b"1000 call",
        "size": len(last),
        "ttl_ms": -1,
        "halted_ms": b"",
        "is_closing": False,
        "timers": [],
    }
    return await driver.store.call(moving.adopt(driver.keys, id, last, **options | more))


async def test_a_sleeper_gets_its_timers_with_its_name(driver: Driver) -> None:
    timer = f"tp\t\t{FAR_MS}\t\t\n"
    await adopt(driver, "a", suspended(n1=timer, n2=timer), timers=[("a~1", FAR_MS), ("a~2", FAR_MS)])
    assert await driver.place("a") is Place.SUSPENDED
    assert await driver.timers() == {"a~1": FAR_MS, "a~2": FAR_MS}
    await driver.control("wake", "a~1")
    lease = await driver.take()
    assert (lease.id, lease.epoch) == ("a", 4)
    await driver.commit(lease, CommitAction.RESOLVE)


async def test_what_was_queued_is_queued_anew(driver: Driver) -> None:
    assert (await adopt(driver, "a", fields(place=PLACE[Place.QUEUED]))).word is Word.ADOPTED
    assert await driver.place("a") is Place.QUEUED
    lease = await driver.take()
    assert lease.epoch == 4
    await driver.commit(lease, CommitAction.RESOLVE)


async def test_what_was_halted_is_halted_since_then(driver: Driver) -> None:
    await adopt(driver, "a", fields(place=PLACE[Place.HALTED], reason="look"), halted_ms=b"5000")
    await adopt(driver, "b", fields(place=PLACE[Place.HALTED]))
    assert await driver.place("a") is Place.HALTED
    first, since = await driver.redis.zmscore(driver.keys.halted, ["a", "b"])
    assert first == 5000
    assert since > 1_600_000_000_000  # nobody knows since when: since now
    for id in ("a", "b"):
        await driver.control("cancel", id)


async def test_what_has_ended_is_kept_as_long_as_it_had_left(driver: Driver) -> None:
    ended = fields(state=STATE[State.RESOLVED], value="v", settled="2000")
    await adopt(driver, "a", ended, ttl_ms=100_000)
    await adopt(driver, "b", ended)
    assert 90_000 < await driver.ttl_ms("a") <= 100_000
    await adopt(driver, "c", ended, ttl_ms=0)
    assert await driver.ttl_ms("b") == -1
    assert await driver.ttl_ms("c") in (-2, 0, 1)  # as long as that, which is nearly nothing
    assert (await driver.record("a")).value == b"v"
    await driver.redis.delete(driver.keys.promise("b"))


async def test_a_family_that_is_not_closed_yet_is_closed_here(driver: Driver) -> None:
    ended = fields(state=STATE[State.RESOLVED], settled="2000")
    await adopt(driver, "a", ended, is_closing=True)
    await driver.fire_all()
    await driver.assert_kept_together("a")


async def test_parts_are_seen_by_nobody_before_the_last(driver: Driver) -> None:
    whole = suspended(n1="pp\t\t\t\t\n", n2=f"tp\t\t{FAR_MS}\t\t\n")
    await driver.store.call(moving.fill(driver.keys, "a", [(b"5", b"of an earlier try")], is_first=True))
    await driver.store.call(moving.fill(driver.keys, "a", whole[:3], is_first=True))
    assert await driver.store.load("a") is None  # type: ignore[arg-type]
    assert await driver.redis.pttl(driver.keys.arriving("promise:a")) > 0
    await driver.store.call(moving.fill(driver.keys, "a", whole[3:6], is_first=False))
    await adopt(driver, "a", whole[6:], size=len(whole))
    assert dict(await driver.redis.hgetall(driver.keys.promise("a"))) == dict(whole)
    assert await driver.ttl_ms("a") == -1
    await driver.store.call(moving.add_timers(driver.keys, "a", [("a~2", FAR_MS)]))
    assert await driver.timers() == {"a~2": FAR_MS}
    await driver.control("force", "a")


async def test_nothing_is_left_of_an_earlier_try(driver: Driver) -> None:
    await driver.store.call(moving.fill(driver.keys, "a", [(b"5", b"of an earlier try")], is_first=True))
    whole = suspended(n1="pp\t\t\t\t\n")
    await adopt(driver, "a", whole)
    assert dict(await driver.redis.hgetall(driver.keys.promise("a"))) == dict(whole)
    await driver.control("force", "a")


async def test_an_incomplete_one_is_refused(driver: Driver) -> None:
    """Two moves at a time may delete each other's parts."""
    whole = suspended(n1="pp\t\t\t\t\n")
    with pytest.raises(NotAllowed, match="two moves"):
        await adopt(driver, "a", whole[3:], size=len(whole))
    assert await driver.snapshot() == {}


async def test_the_same_one_is_known_and_another_one_is_not(driver: Driver) -> None:
    one = suspended(n1="pp\t\t\t\t\n")
    await adopt(driver, "a", one)
    before = await driver.snapshot()
    assert await adopt(driver, "a", one) == Adopted(Word.KNOWN, "f")
    for origin in (b"1001 call", b"1000 other", b"1000 "):
        assert await adopt(driver, "a", one, origin=origin) == Adopted(Word.OTHER, "f")
    assert await driver.snapshot() == before
    await driver.control("force", "a")


async def test_who_waits_for_replicas_waits_for_a_known_one_too(real_server: Server, namespace: str) -> None:
    """A call that writes nothing is confirmed at once, even if the promise was never replicated."""
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        one = suspended(n1="pp\t\t\t\t\n")
        await adopt(driver, "a", one)
        changes = (await driver.redis.info("persistence"))["rdb_changes_since_last_save"]
        await adopt(driver, "a", one)
        assert (await driver.redis.info("persistence"))["rdb_changes_since_last_save"] == changes + 1
        await driver.control("force", "a")


async def test_many_waiters_arrive_before_it(driver: Driver) -> None:
    await driver.store.call(moving.add_waiters(driver.keys, "a", [b"x1 5 b~1", b"x1 5 c~1"]))
    await adopt(driver, "a", [*fields(place=PLACE[Place.QUEUED]), (F["waiters"].encode(), b"+")])
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    [ending] = (await driver.fire()).tells
    assert sorted(ending.waiters) == ["1 5 b~1", "1 5 c~1"]
    await driver.redis.delete(driver.keys.waiters("a"), driver.keys.promise("a"), driver.keys.timers)


async def test_a_schedule_that_is_there_stays(driver: Driver) -> None:
    one: Fields = [(b"x", b"* * * * *"), (b"d", b"%d" % FAR_MS)]
    assert (await driver.store.call(moving.adopt_schedule(driver.keys, "s", one))).word is Word.ADOPTED
    assert await driver.timers() == {"s~cron": FAR_MS}
    other: Fields = [(b"x", b"1 * * * *"), (b"d", b"5")]
    assert (await driver.store.call(moving.adopt_schedule(driver.keys, "s", other))).word is Word.KNOWN
    assert await driver.redis.hgetall(driver.keys.schedule("s")) == dict(one)
    await driver.redis.delete(driver.keys.schedule("s"), driver.keys.timers, driver.keys.schedules)


@pytest.mark.parametrize("broken", ["timers", "halted", "closing"])
async def test_nothing_is_written_beside_a_key_of_another_type(driver: Driver, broken: str) -> None:
    key = getattr(driver.keys, broken)
    await driver.redis.set(key, "nonsense")
    with pytest.raises(CorruptData, match="holds a string"):
        await adopt(driver, "a", suspended(n1="pp\t\t\t\t\n"))
    if broken == "timers":
        with pytest.raises(CorruptData, match="holds a string"):
            await driver.store.call(moving.adopt_schedule(driver.keys, "s", [(b"x", b"* * * * *")]))
    assert await driver.redis.getdel(key) == b"nonsense"
    assert await driver.snapshot() == {}
