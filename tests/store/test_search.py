"""search.py on every server: what the pages of its sources find, and what their bounds leave out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from durasleep.codec import Codec
from durasleep.model import CommitAction, Due, Kind, Number, StartPromise, StartTimer, due_at
from durasleep.protocol.keys import LIMIT
from durasleep.query import search
from durasleep.query.search import SearchPage
from tests.store.driver import FAR, PAST, Driver, child


async def find(driver: Driver, *statuses: str, limit: int = 1_000) -> SearchPage:
    return await driver.store.run(search.Search(status=statuses or None).part(driver.store.keyspaces, limit))


@pytest.mark.parametrize("page", [1, 3, 256])
async def test_every_execution_is_found_once_whatever_the_size_of_a_page(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(search, "PAGE", page)
    monkeypatch.setattr(search, "SCAN_COUNT", page)
    due = due_at(datetime.now(UTC) + timedelta(hours=2))
    await driver.suspended("family", child("1"), StartTimer(Number("2"), "", FAR), StartTimer(Number("3"), "", due))
    await driver.commit(await driver.take(), CommitAction.SUSPEND, StartTimer(Number("1"), "", Due("+1000000")))
    await driver.suspended("promised", StartPromise(Number("1"), "", None), deadline=FAR)
    await driver.suspended("nowhere", StartPromise(Number("1"), "", None))
    for number in range(5):
        await driver.create(f"delayed-{number}", start=due)
        await driver.create(f"halted-{number}")
        await driver.control("halt", f"halted-{number}")
    await driver.create("bare", kind=Kind.PROMISE, deadline=FAR)
    running = await driver.start("running")
    for number in range(5):
        await driver.create(f"queued-{number}", queue="workers" if number else "workers/w7")
    found = await find(driver)
    assert {one.id: one.status for one in found} == {
        "family": "suspended",
        "family~1": "suspended",
        "promised": "suspended",
        "nowhere": "suspended",
        "running": "running",
        **{f"{status}-{number}": status for status in ("delayed", "halted", "queued") for number in range(5)},
    }
    assert len(found) == 20
    assert found.is_all
    assert [one.status for one in found[:11]] == ["halted"] * 5 + [one.status for one in found[5:11]]
    dues = {one.id: one.due_at_ms for one in found}
    timers = await driver.timers()
    assert (dues["family"], dues["family~1"]) == (timers["family~2"], timers["family~1~1"])
    assert dues["delayed-3"] == timers["delayed-3~start"]
    assert dues["nowhere"] is None
    [running_one] = await find(driver, "running")
    assert (running_one.id, running_one.worker) == ("running", "w1")
    assert await find(driver, "done") == []
    await driver.commit(running, CommitAction.RESOLVE)
    assert [one.id for one in await find(driver, "done")] == ["running"]


async def test_a_limit_that_is_met_exactly_left_nothing_out(driver: Driver) -> None:
    for number in range(4):
        await driver.create(f"a{number}", start=FAR)
    for limit, is_all in ((3, False), (4, True), (5, True)):
        found = await find(driver, "delayed", limit=limit)
        assert (len(found), found.is_all) == (min(limit, 4), is_all)


async def test_a_search_gives_up_where_too_much_was_looked_at(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAGE", 2)
    monkeypatch.setattr(search, "LOOKED_MAX", 5)
    for number in range(20):
        await driver.create(f"a{number}", start=FAR)
    found = await driver.store.run(search.Search(function="nobody").part(driver.store.keyspaces))
    assert (len(found), found.is_all) == (0, False)
    monkeypatch.setattr(search, "STEPS_MAX", 0)
    assert not (await find(driver, "queued")).is_all


async def test_a_search_goes_on_part_by_part_while_what_it_shows_is_controlled(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PAGE", 3)
    monkeypatch.setattr(search, "LOOKED_MAX", 5)
    names = [f"a{number}" for number in range(40)]
    due = due_at(datetime.now(UTC) + timedelta(hours=2))
    for number, name in enumerate(names):
        await driver.create(name, function="odd" if number % 2 else "even", start=due)
    looking = search.Search(function="odd")
    shown: list[str] = []
    while not looking.is_over:
        part = await driver.store.run(looking.part(driver.store.keyspaces, 4))
        assert len(part) <= 4
        assert part.is_all == looking.is_over
        for one in part:
            await driver.control("cancel", one.id)
        shown += [one.id for one in part]
    assert sorted(shown) == sorted(names[1::2])


async def test_what_is_in_a_stream_and_the_hash_disagree_is_shown_where_the_hash_says(driver: Driver) -> None:
    """An entry that nobody has dropped yet is not a second place."""
    lease = await driver.start("a")
    await driver.redis.xadd(driver.keys.queue("workers"), {"i": "a", "e": "7"})
    await driver.redis.xadd(driver.keys.queue("workers"), {"i": "gone", "e": "1"})
    assert [(one.id, one.status) for one in await find(driver)] == [("a", "running")]
    await driver.control("halt", "a")
    assert [(one.id, one.status) for one in await find(driver)] == [("a", "halted")]
    await driver.control("force", "a")
    assert await find(driver) == []
    await driver.commit(lease, CommitAction.DROP)
    for stale in await driver.read(count=2):
        await driver.commit(stale, CommitAction.DROP)


async def test_timers_of_every_kind_are_named_by_what_controls_them(driver: Driver) -> None:
    lease = await driver.start("a", function="order", deadline=Due("+9000000"))
    ops = [StartTimer(Number("1"), "nap", Due("+1000")), StartPromise(Number("2"), "yes", Due("+2000"))]
    await driver.commit(lease, CommitAction.RETRY, *ops, payload=b"why", due="+3000")
    await driver.create("b", start=Due("+4000"))
    await driver.create("p", kind=Kind.PROMISE, deadline=Due("+5000"))
    await driver.create("t", kind=Kind.TIMER, deadline=Due("+6000"))
    found = await driver.store.run(search.timers(driver.store.keyspaces))
    assert [(one.id, one.kind, one.name, one.func) for one in found] == [
        ("a~1", "timer", "nap", "order"),
        ("a~2", "promise", "yes", "order"),
        ("a", "retry", "", "order"),
        ("b", "start", "", "f"),
        ("p", "promise", "", None),
        ("t", "timer", "", None),
        ("a", "deadline", "", "order"),
    ]
    assert [one.due_at_ms for one in found] == list((await driver.timers()).values())
    assert await driver.store.run(search.timers(driver.store.keyspaces, 1)) == found[:1]


async def test_what_has_failed_is_found_behind_any_number_of_successes_with_its_error(driver: Driver) -> None:
    codec = Codec()
    for id, end in (("rejected", CommitAction.REJECT), ("canceled", CommitAction.CANCEL)):
        payload = codec.encode_error(ValueError("no such customer")) if end is CommitAction.REJECT else b""
        await driver.commit(await driver.start(id), end, payload=payload)
    await driver.create("timedout", deadline=PAST)
    await driver.fire()
    many = LIMIT["recent_max"] + 300
    for start in range(0, many, 100):
        leases = await driver.start_all([f"ok-{n}" for n in range(start, start + 100)], retention_ms=60_000)
        await driver.commit_all(leases, CommitAction.RESOLVE)
    for status, ids in (
        ("failed", ["timedout", "rejected"]),
        ("rejected", ["rejected"]),
        ("timedout", ["timedout"]),
        ("canceled", ["canceled"]),
        (("failed", "canceled"), ["timedout", "canceled", "rejected"]),
    ):
        found = await driver.store.run(search.Search(status=status, codec=codec).part(driver.store.keyspaces))
        assert [one.id for one in found] == ids
        assert {one.id: one.error for one in found}.items() <= {
            "rejected": "ValueError: no such customer",
            "timedout": "timed out",
            "canceled": "canceled",
        }.items()
    done = await driver.store.run(search.Search(status="done").part(driver.store.keyspaces))
    assert {"timedout", "canceled", "rejected"} < {one.id for one in done}
    resolved = await driver.store.run(search.Search(status="resolved", function="f").part(driver.store.keyspaces))
    assert len(resolved) >= LIMIT["recent_max"]
    assert {one.state for one in resolved} == {"resolved"}
    await driver.control("retry", "rejected")
    failed = await driver.store.run(search.Search(status="failed").part(driver.store.keyspaces))
    assert [one.id for one in failed] == ["timedout"]
    await driver.control("force", "rejected")
