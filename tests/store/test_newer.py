"""What a newer version has written is left to it: the scripts do not touch it, and do the rest."""

from __future__ import annotations

import pytest

from durasleep.errors import NewerVersion
from durasleep.model import CommitAction, Due, Number, Place, StartTimer, State
from durasleep.protocol.keys import LIMIT, PLACE, STATE, F
from tests.store.driver import FAR, PAST, Driver, child

UNKNOWN_ENTRY = "zp\t\t1\tx\t\n"
"""Of a kind of which we know nothing, and due."""
UNKNOWN_KIND = "m"
UNKNOWN_PLACE = "n"

pytestmark = pytest.mark.leaves_keys("what fsck says is of a newer version")


async def left_open(driver: Driver) -> list[str]:
    """What waits in `closing` for a newer version."""
    found = await driver.redis.zrangebyscore(driver.keys.closing, LIMIT["closing_newer"], "+inf")
    return [id.decode() for id in found]


async def place_of(driver: Driver, id: str) -> Place:
    """Where a journal that cannot be loaded is."""
    code = await driver.redis.hget(driver.keys.promise(id), F["place"])
    return next(place for place, known in PLACE.items() if known.encode() == code)


async def assert_fire_leaves(driver: Driver, *members: str) -> None:
    before = await driver.timers()
    fired = await driver.fire()
    assert (fired.due, fired.newer, fired.stale, fired.quarantined) == (len(members), len(members), 0, [])
    assert await driver.timers() == before
    assert await driver.halted() == []


async def test_timers_of_an_unknown_kind_stay_and_are_no_reason_to_come_again(driver: Driver) -> None:
    await driver.create("a", start=FAR)
    await driver.redis.zadd(driver.keys.timers, {"x~later": 1, "y~later": 2, "a~7b": 3})
    await assert_fire_leaves(driver, "x~later", "y~later", "a~7b")
    assert (await driver.fire()).next_due_ms == (await driver.timers())["a~start"]


async def test_where_they_are_many_they_make_room_for_others(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.timers, {"w~later": 1, "x~later": 2, "y~later": 3, "z~later": 4})
    fired = await driver.fire(limit=4)
    again_ms = fired.server_us // 1000 + 10_000
    assert await driver.timers() == {"w~later": 1, "x~later": 2, "y~later": again_ms, "z~later": again_ms}
    assert (fired.newer, fired.next_due_ms) == (4, again_ms)


async def test_the_timer_of_an_unknown_entry_stays(driver: Driver) -> None:
    await driver.suspended("a", StartTimer(Number("1"), "", FAR))
    await driver.redis.hset(driver.keys.promise("a"), "1", UNKNOWN_ENTRY)
    await driver.redis.zadd(driver.keys.timers, {"a~1": 1})
    await assert_fire_leaves(driver, "a~1")
    assert await place_of(driver, "a") is Place.SUSPENDED


@pytest.mark.parametrize(
    ("due", "field", "code"),
    [
        ({"start": PAST}, "place", UNKNOWN_PLACE),
        ({"start": PAST}, "kind", UNKNOWN_KIND),
        ({"deadline": PAST}, "place", UNKNOWN_PLACE),
        ({"deadline": PAST}, "kind", UNKNOWN_KIND),
    ],
)
async def test_an_execution_of_an_unknown_kind_or_in_an_unknown_place_stays_there(
    driver: Driver, due: dict[str, Due], field: str, code: str
) -> None:
    await driver.create("a", start=due.get("start"), deadline=due.get("deadline"))
    await driver.redis.hset(driver.keys.promise("a"), F[field], code)
    before = await driver.redis.hgetall(driver.keys.promise("a"))
    await assert_fire_leaves(driver, *await driver.timers())
    assert await driver.redis.hgetall(driver.keys.promise("a")) == before


async def test_what_is_to_be_closed_in_an_unknown_way_waits_behind_all_others(driver: Driver) -> None:
    await driver.redis.zadd(driver.keys.closing, {"x~later": 1, "x~1": 2, "nobody": 3})
    for _ in range(2):
        assert (await driver.fire()).closing == 0
        assert await left_open(driver) == ["x~later"]
        assert await driver.redis.zcard(driver.keys.closing) == 1


@pytest.mark.parametrize("others", [0, 100])
async def test_who_waits_in_an_unknown_way_is_kept_until_somebody_knows_it(driver: Driver, others: int) -> None:
    lease = await driver.start("a", inbox="one")
    for number in range(others):  # so many that they are members of a set
        await driver.create("a", inbox=f"inbox{number}")
    if others:
        await driver.redis.sadd(driver.keys.waiters("a"), "znightly")
    else:
        await driver.redis.hset(driver.keys.promise("a"), F["waiters"], "znightly\nione\n")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    await driver.fire()
    assert (await driver.inbox("one"))[0][b"v"] == b"v"
    if others:
        assert await driver.redis.smembers(driver.keys.waiters("a")) == {b"znightly"}
    else:
        assert await driver.redis.hget(driver.keys.promise("a"), F["waiters"]) == b"znightly\n"
    assert await left_open(driver) == ["a"]
    assert await driver.ttl_ms("a") > 0
    assert await driver.halted() == []


async def test_of_very_many_who_wait_in_an_unknown_way_no_call_looks_at_all(driver: Driver) -> None:
    lease, waiters = await driver.start("a"), driver.keys.waiters("a")
    await driver.redis.hset(driver.keys.promise("a"), F["waiters"], "+")
    await driver.redis.sadd(waiters, *[f"znightly{number}" for number in range(9000)])
    await driver.commit(lease, CommitAction.RESOLVE)
    assert (await driver.record("a")).state is State.RESOLVED
    assert await driver.redis.scard(waiters) == 9000
    await driver.redis.delete(driver.keys.closing, waiters)


async def test_what_it_has_asked_for_in_an_unknown_way_is_left_open(driver: Driver) -> None:
    lease = await driver.start("a")
    incarnation = (await driver.record("a")).incarnation
    unknown = {"8": "zp\t\t\tx\t\n", "9": "zp\t\t\tx\t\n"}
    await driver.redis.hset(driver.keys.promise("a"), mapping=unknown)
    member = {F["kind"]: UNKNOWN_KIND, F["incarnation"]: str(incarnation)}
    await driver.redis.hset(driver.keys.promise("a~9"), mapping=member)
    await driver.commit(lease, CommitAction.RESOLVE)
    await driver.fire_all()
    assert await left_open(driver) == ["a~9"]
    assert await driver.redis.hget(driver.keys.promise("a~9"), F["state"]) is None
    assert await driver.halted() == []


async def test_an_entry_that_waits_in_an_unknown_way_does_not_settle_with_its_child(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.redis.hset(driver.keys.promise("a"), "1", UNKNOWN_ENTRY)
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    assert await driver.redis.hget(driver.keys.promise("a"), "1") == UNKNOWN_ENTRY.encode()
    assert await left_open(driver) == ["a~1"]
    assert await place_of(driver, "a") is Place.SUSPENDED
    assert await driver.halted() == []


async def test_a_member_in_an_unknown_place_keeps_its_family_from_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"))
    await driver.redis.hset(driver.keys.promise("a~1"), F["place"], UNKNOWN_PLACE)
    await driver.commit(lease, CommitAction.RESOLVE)
    assert (await driver.record("a~2")).state is State.CANCELED
    await driver.fire()
    assert await left_open(driver) == ["a~1"]
    assert await driver.halted() == []
    await driver.redis.hset(driver.keys.promise("a~1"), F["place"], PLACE[Place.QUEUED])
    await driver.fire_all()
    assert await driver.redis.hget(driver.keys.promise("a~1"), F["state"]) == STATE[State.CANCELED].encode()
    assert await left_open(driver) == []


async def test_who_waits_so_for_a_child_of_another_life_waits_for_the_next_one(driver: Driver) -> None:
    left = {F["func"]: "g", F["incarnation"]: "1", F["state"]: STATE[State.RESOLVED], F["waiters"]: "znightly\n"}
    await driver.redis.hset(driver.keys.promise("a~1"), mapping=left)
    await driver.suspended("a", child("1"))
    assert await driver.redis.hget(driver.keys.promise("a~1"), F["waiters"]) == b"znightly\n"
    assert (await driver.record("a~1")).state is State.PENDING


async def test_nobody_attaches_to_what_is_of_an_unknown_kind(driver: Driver) -> None:
    await driver.create("a")
    await driver.redis.hset(driver.keys.promise("a"), F["kind"], UNKNOWN_KIND)
    with pytest.raises(NewerVersion, match="is of kind m"):
        await driver.create("a")


async def test_nobody_controls_what_is_in_an_unknown_place(driver: Driver) -> None:
    await driver.create("a")
    await driver.redis.hset(driver.keys.promise("a"), F["place"], UNKNOWN_PLACE)
    before = await driver.snapshot()
    for action in ("force", "halt", "resume", "retry"):
        with pytest.raises(NewerVersion, match="is in place n"):
            await driver.control(action, "a")
    assert await driver.snapshot() == before


async def test_what_has_ended_in_an_unknown_state_is_not_tried_again(driver: Driver) -> None:
    await driver.commit(await driver.start("a"), CommitAction.REJECT)
    await driver.redis.hset(driver.keys.promise("a"), F["state"], "z")
    with pytest.raises(NewerVersion, match="has ended in state z"):
        await driver.control("retry", "a")


async def test_where_nothing_can_be_left_open_what_ends_ends_all_the_same(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.redis.hset(driver.keys.promise("a"), "1", UNKNOWN_ENTRY)
    await driver.redis.set(driver.keys.closing, "garbage")
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    assert (await driver.record("a~1")).state is State.RESOLVED
