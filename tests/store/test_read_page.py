"""read_page.lua on every server: pages of bounded size, from which all of a promise comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from durasleep.errors import CorruptData
from durasleep.model import CommitAction, Number, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol.journal import Page, read_page
from durasleep.protocol.keys import LIMIT
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


async def test_results_that_are_larger_than_a_page_still_come(driver: Driver) -> None:
    await fill(driver, "a", 5, b"x" * (LIMIT["answer_bytes_max"] + 1))
    assert len(await pages(driver, "a")) > 1  # how many come at once is up to how the server hashes their names
    assert sorted((await driver.load("a")).entries) == ["1", "2", "3", "4", "5"]


async def test_several_that_are_loaded_together_share_the_bound_and_all_arrive(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        await fill(driver, f"e-{n}", 4, bytes([n]) * 150_000)
    store = driver.store
    answers: list[int] = []
    exchange = Link.exchange

    async def noted(self: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        replies = await exchange(self, commands, block_s=block_s)
        answers.extend(map(bytes_of, replies))
        return replies

    monkeypatch.setattr(Link, "exchange", noted)
    loaded = await asyncio.gather(*(store.load(PromiseId(f"e-{n}")) for n in range(6)), store.load(PromiseId("none")))
    assert loaded.pop() is None
    for n, one in enumerate(loaded):
        assert one is not None
        assert [entry.payload for entry in one.entries.values()] == [bytes([n]) * 150_000] * 4
    assert 500_000 < max(answers) <= LIMIT["answer_bytes_max"] + ROOM_BYTES


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
    news = await driver.store.load_unseen(PromiseId("a"))
    assert news is not None
    assert news.record == await driver.record("a")
    assert news.entries == {Number("1"): await driver.entry("a", "1")}
    assert await driver.store.load_unseen(PromiseId("nobody")) is None


async def test_more_news_than_one_answer_may_carry_are_not_told(driver: Driver) -> None:
    numbers = [Number(str(n)) for n in range(1, 301)]
    await driver.suspended("a", *(StartPromise(number, "", None) for number in numbers))
    for number in numbers:
        await driver.settle(f"a~{number}", value=b"v")
    assert await driver.store.load_unseen(PromiseId("a")) is None
    assert len((await driver.load("a")).entries) == 300
