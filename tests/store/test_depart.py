"""What leaves a namespace: taken out of everybody's reach, read as it is, and deleted."""

from __future__ import annotations

import pytest

from durasleep.errors import CorruptData, NotFound
from durasleep.model import CommitAction, Kind, Number, State, StepResult
from durasleep.protocol import moving
from durasleep.protocol.keys import LIMIT, F
from durasleep.protocol.moving import Page
from tests.store.driver import FAR, Driver


async def take(driver: Driver, name: str, cursor: bytes = b"0") -> Page | None:
    return await driver.store.call(moving.take(driver.keys, name, cursor))


async def drop(driver: Driver, name: str, page: Page | None) -> None:
    assert page is not None
    fields = dict(page.fields)
    origin = moving.origin_of(fields.get(F["incarnation"].encode()), fields.get(F["idempotency_key"].encode()))
    await driver.store.call(moving.drop(driver.keys, name, origin))


async def take_all(driver: Driver, name: str) -> tuple[dict[bytes, bytes], int]:
    """All its fields, and on how many pages they were."""
    fields: dict[bytes, bytes] = {}
    cursor, pages = b"0", 0
    while True:
        page = await take(driver, name, cursor)
        assert page is not None
        fields |= dict(page.fields)
        cursor, pages = page.cursor, pages + 1
        if cursor == b"0":
            return fields, pages


async def test_nobody_can_change_what_is_taken_out(driver: Driver) -> None:
    await driver.create("a", kind=Kind.PROMISE, deadline=FAR)
    kept = await driver.redis.hgetall(driver.keys.promise("a"))
    page = await take(driver, "promise:a")
    assert page is not None
    assert (dict(page.fields), page.cursor, page.ttl_ms, page.halted_ms) == (kept, b"0", -1, b"")
    with pytest.raises(NotFound):
        await driver.settle("a")
    assert await take(driver, "promise:a") == page
    await drop(driver, "promise:a", page)
    assert await take(driver, "promise:a") is None
    await driver.redis.delete(driver.keys.timers)


async def test_a_new_one_under_its_id_comes_after_it(driver: Driver) -> None:
    await driver.create("a", kind=Kind.PROMISE, idempotency_key="first")
    await take(driver, "promise:a")
    await driver.create("a", kind=Kind.PROMISE, idempotency_key="second")
    key = F["idempotency_key"].encode()
    for expected in (b"first", b"second"):
        page = await take(driver, "promise:a")
        assert page is not None
        assert dict(page.fields)[key] == expected
        await drop(driver, "promise:a", page)
    assert await take(driver, "promise:a") is None


async def test_only_what_is_meant_is_deleted(driver: Driver) -> None:
    """Somebody else may have deleted it, and have taken out the next one under its id."""
    await driver.create("a", kind=Kind.PROMISE, idempotency_key="first")
    first = await take(driver, "promise:a")
    await drop(driver, "promise:a", first)
    await driver.create("a", kind=Kind.PROMISE, idempotency_key="second")
    second = await take(driver, "promise:a")
    await drop(driver, "promise:a", first)
    assert await take(driver, "promise:a") == second
    await drop(driver, "promise:a", second)


async def test_when_it_was_halted_and_how_long_it_is_kept_is_known(driver: Driver) -> None:
    await driver.create("a")
    await driver.control("halt", "a", reason="look")
    [at] = await driver.redis.zmscore(driver.keys.halted, ["a"])
    await driver.create("b", kind=Kind.PROMISE, retention_ms=100_000)
    await driver.settle("b")
    halted, ended = await take(driver, "promise:a"), await take(driver, "promise:b")
    assert halted is not None
    assert ended is not None
    assert (float(halted.halted_ms), halted.ttl_ms) == (at, -1)
    assert (ended.halted_ms, ended.is_closing) == (b"", False)
    assert 90_000 < ended.ttl_ms <= 100_000
    await drop(driver, "promise:a", halted)
    assert await driver.halted() == []
    await driver.redis.delete(driver.keys.leaving("promise:b"), driver.keys.queue("workers"))


@pytest.mark.parametrize(("count", "size", "pages"), [(1_200, 1, (3, 4)), (60, 100_000, (3, 6))])
async def test_a_large_one_is_read_in_pages(driver: Driver, count: int, size: int, pages: tuple[int, int]) -> None:
    """Of so many fields, or of so many bytes."""
    steps = [StepResult(Number(str(n)), "s", State.RESOLVED, b"x" * size) for n in range(1, count)]
    lease = await driver.start("a")
    for start in range(0, len(steps), 100):
        await driver.commit(lease, CommitAction.CONTINUE, *steps[start : start + 100])
    kept = await driver.redis.hgetall(driver.keys.promise("a"))
    fields, read = await take_all(driver, "promise:a")
    assert fields == kept
    assert pages[0] <= read <= pages[1]
    await driver.redis.delete(driver.keys.leaving("promise:a"), driver.keys.queue("workers"))


async def test_a_value_that_is_too_large_to_be_ours_is_not_answered(driver: Driver) -> None:
    await driver.create("a", kind=Kind.PROMISE)
    await driver.redis.hset(driver.keys.promise("a"), F["value"], b"x" * (LIMIT["value_bytes_max"] + 1))
    with pytest.raises(CorruptData, match="more than a value of ours"):
        await take(driver, "promise:a")
    await driver.redis.delete(driver.keys.leaving("promise:a"))


async def test_what_is_no_promise_stays_where_it_is(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("a"), "nonsense")
    with pytest.raises(CorruptData, match="holds a string"):
        await take(driver, "promise:a")
    assert await driver.redis.getdel(driver.keys.promise("a")) == b"nonsense"
    assert await take(driver, "promise:nothing") is None


async def test_a_schedule_leaves_in_the_same_way(driver: Driver) -> None:
    await driver.redis.hset(driver.keys.schedule("s"), mapping={"x": "* * * * *", "d": "5"})
    page = await take(driver, "schedule:s")
    assert page is not None
    assert dict(page.fields) == {b"x": b"* * * * *", b"d": b"5"}
    await drop(driver, "schedule:s", page)
    assert await take(driver, "schedule:s") is None
