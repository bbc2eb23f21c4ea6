"""graft.lua: a fork is made in parts, halted until its end; a repeated part changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from durasleep.errors import NotAllowed, NotFound, UsageError
from durasleep.model import (
    CancelEntry,
    CommitAction,
    Kind,
    Number,
    Place,
    PromiseId,
    StartReceive,
    StartTimer,
    State,
    StepResult,
)
from durasleep.protocol import grafting
from durasleep.protocol.grafting import Fork, Standing
from durasleep.protocol.keys import F
from durasleep.query import forking
from tests.store.driver import FAR, PAST, Driver

FORK = Fork(PromiseId("b"), "fork 1", "it is being made")


async def begin(driver: Driver, fork: Fork = FORK, **other: Any) -> Standing:
    what: dict[str, Any] = {
        "function": "f",
        "queue": "workers",
        "args": b"args " * 50,
        "begun_ms": 5,
        "base": 2,
        "lasts_ms": 60_000,
        "retention": "1000",
        "origins": "9 1 a",
        "labels": "",
        "limit": "",
    }
    return await driver.store.call(grafting.begin(driver.keys, fork, **(what | other)))


async def add(driver: Driver, *numbers: str, order: int, fork: Fork = FORK) -> Standing:
    entries = [(number.encode(), b"sr\t%d\t\tstep\t\nv" % order) for number in numbers]
    return await driver.store.call(grafting.add_entries(driver.keys, fork, entries, order=order))


async def end(driver: Driver, fork: Fork = FORK) -> Standing:
    return await driver.store.call(grafting.end(driver.keys, fork))


async def test_a_fork_is_halted_until_its_end_and_repeated_parts_change_nothing(driver: Driver) -> None:
    for _ in range(2):
        assert await begin(driver) is Standing.BEGUN
    record = await driver.record("b")
    assert (record.place, record.reason, record.base, record.begun_ms) == (Place.HALTED, "it is being made", 2, 5)
    assert (record.args, record.origins, record.deadline_ms - record.incarnation) == (b"args " * 50, "9 1 a", 60_000)
    assert await driver.timers() == {"b~timeout": record.deadline_ms}
    for _ in range(2):
        assert await add(driver, "3", "4", order=7) is Standing.BEGUN
        assert await add(driver, "5", order=9) is Standing.BEGUN
    assert await end(driver) is Standing.FORKED
    for again in (begin(driver), add(driver, "6", order=10), end(driver)):
        assert await again is Standing.DONE
    record = await driver.record("b")
    assert (record.place, record.order, record.reason) == (Place.QUEUED, 9, "")
    lease = await driver.take()
    assert lease.snapshot == b""
    seen = await driver.entry("b", "5")
    await driver.commit(lease, CommitAction.SUSPEND, StartTimer(Number("6"), "", PAST), seen=seen)
    await driver.fire()
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert b"x" not in fields, "who reads it has to load where it comes from"
    await driver.control("force", "b")


async def test_an_id_that_is_in_use_is_left_alone(driver: Driver) -> None:
    await driver.create("b", start=FAR)
    before = await driver.snapshot()
    for call in (begin(driver), add(driver, "3", order=7), end(driver)):
        with pytest.raises(NotAllowed, match="id b is in use by something else"):
            await call
    assert await driver.snapshot() == before
    nobody = Fork(PromiseId("nobody"), "fork 1", "")
    for call in (add(driver, "3", order=7, fork=nobody), end(driver, nobody)):
        with pytest.raises(NotFound):
            await call
    await driver.redis.set(driver.keys.queue("broken"), "x", px=60_000)
    with pytest.raises(Exception, match="not a stream"):
        await begin(driver, Fork(PromiseId("c"), "fork 1", ""), queue="broken")
    assert not await driver.redis.exists(driver.keys.promise("c"))
    await driver.redis.delete(driver.keys.queue("broken"))


async def test_a_person_who_lets_it_go_early_gets_a_history_that_could_have_been(driver: Driver) -> None:
    await begin(driver, lasts_ms=None)
    await add(driver, "3", order=7)
    assert (await driver.control("resume", "b")).word == "resumed"
    assert await add(driver, "4", order=9) is Standing.DONE
    assert (await driver.record("b")).order == 7


async def test_an_execution_is_forked_with_what_its_scripts_have_written(driver: Driver) -> None:
    lease = await driver.start("a")
    steps = [StepResult(Number(str(n)), f"s{n}", State.RESOLVED, b"v%d" % n, 5_000) for n in (1, 2, 3)]
    await driver.commit(lease, CommitAction.CONTINUE, *steps, StartTimer(Number("4"), "nap", FAR))
    forked = await driver.store.run(forking.fork(driver.store.keys, "a", "b", "s3"))
    assert forked == forking.Forked(is_new=True, copied=2)
    for number in ("1", "2"):
        entry, copy = await driver.entry("a", number), await driver.entry("b", number)
        assert (copy.stamp, copy.payload, copy.begun_ms) == (entry.stamp, entry.payload, 0)
    with pytest.raises(UsageError):
        await driver.store.run(forking.fork(driver.store.keys, "a", "b~1", "s3"))
    assert (await driver.store.run(forking.fork(driver.store.keys, "a", "c", "nap"))).copied == 3


async def test_a_fork_has_the_messages_that_were_received_and_no_mailbox(driver: Driver) -> None:
    lease = await driver.start("a")
    waiting = [StartReceive(Number(n), "x", None) for n in ("1", "2", "3")]
    await driver.commit(lease, CommitAction.CONTINUE, *waiting)
    await driver.send("a", "x", b"read", key="k")
    await driver.send("a", "x", b"returned")
    await driver.send("a", "y", b"unread")
    seen = await driver.entry("a", "1")
    unwanted = CancelEntry(Number("2"), Kind.RECEIVE, "x"), CancelEntry(Number("3"), Kind.RECEIVE, "x")
    step = StepResult(Number("5"), "s", State.RESOLVED, b"")
    await driver.commit(lease, CommitAction.CONTINUE, *unwanted, StartReceive(Number("4"), "z", None), step, seen=seen)
    mail = await driver.mail("a")
    forked = await driver.store.run(forking.fork(driver.store.keys, "a", "b", "s"))
    assert forked.copied == 2
    found = {number: (one.state, one.payload) for number, one in (await driver.load("b")).entries.items()}
    assert found == {"1": (State.RESOLVED, b"read"), "2": (State.CANCELED, b"")}
    assert await driver.mail("b") == {}
    assert (
        not {F["extras"].encode(), F["receives"].encode()}
        & (await driver.redis.hgetall(driver.keys.promise("b"))).keys()
    )
    taken = await driver.take()
    await driver.commit(taken, CommitAction.CONTINUE, StartReceive(Number("4"), "z", None))
    assert await driver.waiting("b") == await driver.waiting("a") == ["4"]
    assert (await driver.send("b", "x", b"again", key="k")).delivery == "stored", "its keys are its own"
    assert await driver.mail("a") == mail
    for id in ("a", "b"):
        await driver.control("force", id)
