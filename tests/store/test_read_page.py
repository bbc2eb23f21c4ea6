"""read_page.lua on every server: pages of bounded size, from which all of a promise comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from durasleep.errors import CorruptData
from durasleep.model import CommitAction, Number, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol.journal import Page, read_outcome, read_page, read_record
from durasleep.protocol.keys import LIMIT, F
from durasleep.protocol.script import Value
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import Reply
from tests.store.driver import FAR, PAST, Driver, bytes_of

ROOM_BYTES = 4096  # what is not payload: the head, and the names of entries


async def fill(driver: Driver, id: str, count: int, payload: bytes) -> None:
    """An execution with the results of some steps."""
    lease = await driver.start(id)
    seen = None
    each = 20 if payload else 100
    for first in range(1, count + 1, each):
        numbers = map(str, range(first, min(first + each, count + 1)))
        steps = [StepResult(Number(number), "step", State.RESOLVED, payload) for number in numbers]
        while (answer := await driver.commit(lease, CommitAction.CONTINUE, *steps, seen=seen)).more:
            steps, seen = [], answer.entries[-1]
        seen = answer.entries[-1]


async def pages(driver: Driver, id: str) -> list[Page]:
    found = [await driver.store.call(read_page(driver.keys, PromiseId(id)))]
    while found[-1].cursor:
        found.append(await driver.store.call(read_page(driver.keys, PromiseId(id), found[-1].cursor)))
    return found


def size_of(page: Page) -> int:
    return sum(len(entry.payload) for entry in page.entries)


async def test_large_results_come_in_pages_that_are_bounded_in_bytes(driver: Driver) -> None:
    await fill(driver, "a", 240, b"x" * 25_000)
    found = await pages(driver, "a")
    assert max(map(size_of, found)) <= LIMIT["answer_bytes_max"]
    assert len(found) >= 6
    assert found[0].record is not None
    assert found[0].record.function == "f"
    assert len((await driver.load("a")).entries) == 240


async def test_small_results_come_in_pages_that_are_bounded_in_entries(driver: Driver) -> None:
    await fill(driver, "a", 700, b"")
    found = await pages(driver, "a")
    assert max(len(page.entries) for page in found) < 2 * LIMIT["answer_entries_max"]
    assert len((await driver.load("a")).entries) == 700


async def test_the_first_of_several_pages_has_each_field_that_a_record_has(driver: Driver) -> None:
    await fill(driver, "a", 700, b"")
    await driver.control("halt", "a")
    key = driver.keys.promise("a")
    before = await driver.redis.hgetall(key)
    texts = {"value": b"v", "settled": b"9", "labels": b"k=v", "limit": b"+l/k", "receives": b"5\tx\n", "extras": b"r"}
    await driver.redis.hset(key, mapping={F[name]: text for name, text in texts.items()})
    for name in (
        "origins",
        "trace",
        "trace_now",
        "base",
        "begun",
        "reason",
        "due",
        "deadline",
        "crash_count",
        "args",
        "entry",
    ):
        await driver.redis.hset(key, F[name], b"7")
    whole = await driver.store.call(read_record(driver.keys, PromiseId("a")))
    assert whole is not None
    unset = {field for field in whole.__struct_fields__ if not getattr(whole, field)}
    assert unset <= {"unseen"}, "each has a value here"
    first, *rest = await pages(driver, "a")
    assert rest
    assert first.record == whole
    await driver.redis.delete(key)
    await driver.redis.hset(key, mapping=before)


async def test_results_that_are_larger_than_a_page_still_come(driver: Driver) -> None:
    await fill(driver, "a", 5, b"x" * (LIMIT["answer_bytes_max"] + 1))
    assert len(await pages(driver, "a")) > 1  # how many come at once is up to how the server hashes their names
    assert sorted((await driver.load("a")).entries) == ["1", "2", "3", "4", "5"]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each answer of the server has."""
    noted: list[int] = []
    exchange = Link.exchange

    async def watched(self: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        replies = await exchange(self, commands, block_s=block_s)
        noted.extend(map(bytes_of, replies))
        return replies

    monkeypatch.setattr(Link, "exchange", watched)
    return noted


async def test_several_that_are_loaded_together_share_the_bound_and_all_arrive(
    driver: Driver, answers: list[int]
) -> None:
    for n in range(6):
        await fill(driver, f"e-{n}", 4, bytes([n]) * 150_000)
    store = driver.store
    answers.clear()
    loaded = await asyncio.gather(*(store.load(PromiseId(f"e-{n}")) for n in range(6)), store.load(PromiseId("none")))
    assert loaded.pop() is None
    for n, one in enumerate(loaded):
        assert one is not None
        assert [entry.payload for entry in one.entries.values()] == [bytes([n]) * 150_000] * 4
    assert 500_000 < max(answers) <= LIMIT["answer_bytes_max"] + ROOM_BYTES


async def together(driver: Driver, *ids: str) -> list[Page]:
    """The first page of each, in one call."""
    return await driver.store.ask([read_page(driver.keys, PromiseId(id)) for id in ids])


@pytest.mark.parametrize(("count", "payload_bytes"), [(4, 26_000), (40, 40_000), (20, 3_000)])
async def test_what_finds_no_room_beside_another_comes_with_the_next_call(
    driver: Driver, count: int, payload_bytes: int
) -> None:
    await fill(driver, "large", 10, b"x" * 101_000)
    await fill(driver, "other", count, b"x" * payload_bytes)
    large, other = await together(driver, "large", "other")
    assert (len(large.entries), large.cursor) == (10, b"")
    assert (other.record, other.entries, other.cursor) == (None, [], b"0")
    assert len((await driver.load("other")).entries) == count


async def test_what_finds_room_beside_another_comes_along(driver: Driver) -> None:
    await fill(driver, "small", 4, b"")
    await fill(driver, "long", 40, b"")
    small, long = await together(driver, "small", "long")
    assert (len(small.entries), len(long.entries), long.cursor) == (4, 40, b"")


async def test_what_is_larger_than_an_answer_fills_each_of_its_pages(driver: Driver) -> None:
    await fill(driver, "a", 20, b"x" * 60_000)
    first, last = await pages(driver, "a")
    assert size_of(first) > LIMIT["answer_bytes_max"] / 2
    assert len(first.entries) + len(last.entries) == 20


async def test_a_record_is_read_without_its_journal(driver: Driver, answers: list[int]) -> None:
    args = bytes(range(256)) * 4
    assert len(args) == LIMIT["args_parts_max"] * LIMIT["args_part_bytes"]  # as many parts as there may be
    step = StepResult(Number("1"), "step", State.RESOLVED, b"x" * 10_000)
    await driver.commit(await driver.start("a", args=args), CommitAction.RESOLVE, step, payload=b"value")
    answers.clear()
    outcomes = await driver.store.ask([read_outcome(driver.keys, PromiseId(id)) for id in ("a", "nobody")])
    assert max(answers) < 10_000
    assert outcomes == [await driver.record("a"), None]
    record = outcomes[0]
    assert record is not None
    assert (record.args, record.value) == (args, b"value")


@pytest.mark.parametrize("count", [4, 40])
async def test_a_value_that_nobody_of_ours_has_written_takes_no_reader_down(
    driver: Driver, answers: list[int], count: int
) -> None:
    await fill(driver, "a", count, b"")
    large = b"x" * (LIMIT["value_bytes_max"] + 1)
    await driver.redis.hset(driver.keys.promise("a"), "3", large)
    with pytest.raises(CorruptData, match=f"3 of .*a has {len(large)} bytes, more than a value of ours"):
        await driver.load("a")
    await driver.redis.hdel(driver.keys.promise("a"), "3")
    await driver.redis.hset(driver.keys.promise("a"), F["waiters"], large)  # which no reader is given
    assert len((await driver.load("a")).entries) == count - 1
    assert max(answers) < len(large)
    await driver.redis.hdel(driver.keys.promise("a"), F["waiters"])


async def test_a_key_that_is_no_promise_is_said_to_be_none(driver: Driver) -> None:
    await driver.redis.set(driver.keys.promise("odd"), "text")
    await driver.redis.hset(driver.keys.promise("torn"), mapping={"s": "p", "k": "e", "b": "x"})
    for id in ("odd", "torn"):
        with pytest.raises(CorruptData):
            await driver.store.load(PromiseId(id))
    await driver.redis.delete(driver.keys.promise("odd"), driver.keys.promise("torn"))


async def test_news_are_the_head_and_what_has_settled_since_the_last_commit(driver: Driver) -> None:
    timers = [StartTimer(Number("1"), "", PAST), StartTimer(Number("2"), "", FAR)]
    await driver.suspended("a", *timers)
    await driver.fire()
    loaded = await driver.store.load_unseen(PromiseId("a"))
    assert loaded is not None
    assert loaded.record == await driver.record("a")
    assert loaded.entries == {Number("1"): await driver.entry("a", "1")}
    assert await driver.store.load_unseen(PromiseId("nobody")) is None


async def test_unseen_numbers_without_an_entry_are_passed_over(driver: Driver) -> None:
    await driver.suspended("a", StartTimer(Number("1"), "", PAST))
    await driver.fire()
    await driver.redis.hset(driver.keys.promise("a"), F["unseen"], "7 1 ")
    unseen = await driver.store.load_unseen(PromiseId("a"))
    assert unseen is not None
    assert list(unseen.entries) == ["1"]


async def test_large_settlements_are_not_answered_at_once(driver: Driver) -> None:
    numbers = [Number(str(n)) for n in range(1, 4)]
    await driver.suspended("a", *(StartPromise(number, "", None) for number in numbers))
    for number in numbers:
        await driver.settle(f"a~{number}", value=b"x" * (LIMIT["answer_bytes_max"] // 2))
    assert await driver.store.load_unseen(PromiseId("a")) is None


async def test_settlements_that_come_together_share_the_bound_with_their_records(driver: Driver) -> None:
    ids = [f"e-{n}" for n in range(4)]
    for id in ids:
        await driver.suspended(id, StartTimer(Number("1"), "", PAST), args=b"x" * 400_000)
    await driver.fire()
    pages = [read_page(driver.keys, PromiseId(id), unseen_only=True) for id in ids]
    assert [page.cursor for page in await driver.store.ask(pages)] == [b"", b"", b"0", b"0"]


async def test_more_news_than_one_answer_may_carry_are_not_told(driver: Driver) -> None:
    numbers = [Number(str(n)) for n in range(1, 301)]
    await driver.suspended("a", *(StartPromise(number, "", None) for number in numbers))
    for number in numbers:
        await driver.settle(f"a~{number}", value=b"v")
    assert await driver.store.load_unseen(PromiseId("a")) is None
    assert len((await driver.load("a")).entries) == 300
