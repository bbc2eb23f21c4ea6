"""The muster: who is a member of a group, and since when nobody has heard of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from durasleep.errors import CorruptData
from durasleep.protocol import members, membership
from durasleep.protocol.keys import LIMIT, members_key
from durasleep.protocol.members import Scores
from tests.store.driver import OTHER, WORKER, Driver


class Group:
    """The members of one group."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.key = members_key(driver.namespace, "workers")

    async def muster(self, consumer: str = WORKER, gone: Scores | None = None) -> Scores:
        return await self.driver.store.call(
            members.muster(self.driver.namespace, "workers", consumer, gone={} if gone is None else gone)
        )

    async def server_ms(self) -> int:
        seconds, micros = await self.driver.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


@pytest.fixture
async def group(driver: Driver) -> AsyncIterator[Group]:
    group = Group(driver)
    yield group
    await driver.redis.delete(group.key)


async def test_who_musters_is_a_member_and_hears_of_the_others(group: Group) -> None:
    before = await group.server_ms()
    first = await group.muster()
    assert first.keys() == {WORKER}
    assert before <= first[WORKER] <= await group.server_ms()
    both = await group.muster(OTHER)
    assert list(both) == [OTHER, WORKER], "the latest first" if both[OTHER] > both[WORKER] else "by name"
    assert both[WORKER] == first[WORKER]


async def test_who_leaves_is_no_member_any_more(group: Group) -> None:
    await group.muster()
    await group.muster(OTHER)
    assert await group.driver.store.call(members.leave(group.driver.namespace, "workers", WORKER)) == 1
    assert (await group.muster(OTHER)).keys() == {OTHER}


async def test_who_is_gone_is_struck_unless_it_has_come_back(group: Group) -> None:
    gone = await group.muster()
    await group.driver.redis.zadd(group.key, {WORKER: gone[WORKER] + 1})
    assert (await group.muster(OTHER, gone)).keys() == {OTHER, WORKER}
    gone = {WORKER: gone[WORKER] + 1, "never/there": 5}
    assert (await group.muster(OTHER, gone)).keys() == {OTHER}


async def test_a_group_that_nobody_musters_in_is_forgotten(group: Group) -> None:
    await group.muster()
    assert 0 < await group.driver.redis.pttl(group.key) <= LIMIT["members_ttl_ms"]


async def test_a_key_of_another_type_is_left_alone(group: Group) -> None:
    await group.driver.redis.set(group.key, "mine")
    with pytest.raises(CorruptData, match="members:workers holds a string, not a zset"):
        await group.muster()
    assert await group.driver.redis.get(group.key) == b"mine"


async def test_so_many_are_told_at_most_the_latest(group: Group) -> None:
    old = {f"old-{number}": number for number in range(LIMIT["members_max"])}
    await group.driver.redis.zadd(group.key, old)
    found = await group.muster()
    assert len(found) == LIMIT["members_max"]
    assert WORKER in found
    assert "old-0" not in found


async def test_what_a_worker_says_of_its_functions_can_be_read(driver: Driver) -> None:
    await driver.beat(functions="some")
    assert await driver.store.call(membership.read_functions(driver.keys, WORKER)) == "some"
    assert await driver.store.call(membership.read_functions(driver.keys, OTHER)) == ""
