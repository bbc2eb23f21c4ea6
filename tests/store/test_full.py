"""A full Redis: what is there comes to its end, and nothing makes much more of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from durasleep.errors import StoreFull, StoreRefused, StoreUnavailable
from durasleep.model import (
    CancelEntry,
    Checkpoint,
    CommitAction,
    Disposition,
    Kind,
    Number,
    Op,
    Place,
    PromiseId,
    Publish,
    SendMessage,
    StartReceive,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from durasleep.protocol import commit, membership, promises, schedules, view
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, F
from durasleep.protocol.schedules import Change, Schedule
from durasleep.query import forking, fsck
from harness.servers import Server
from tests.store.driver import FAR, OTHER, WORKER, Driver, child

ENTRY = LIMIT["full_entry_bytes"] + 2
"""Of a step without a value: its name and how it ended have a byte each."""
EACH = 8000
LAST = LIMIT["full_bytes_max"] - 2 * (ENTRY + EACH) - ENTRY
"""What a third step may have, behind two of ``EACH``."""


@pytest.fixture
async def driver(real_server: Server, namespace: str) -> AsyncIterator[Driver]:
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        yield driver
        await driver.redis.config_set("maxmemory", 0)


async def fill(driver: Driver) -> None:
    await driver.redis.config_set("maxmemory", 1)


def step(number: int, payload_bytes: int) -> StepResult:
    return StepResult(Number(str(number)), "s", State.RESOLVED, b"x" * payload_bytes)


async def grown(driver: Driver, id: str) -> int:
    return int(await driver.redis.hget(driver.keys.promise(id), F["grown"]) or 0)


async def assert_refused(driver: Driver, lease: Lease, outcome: CommitAction, *ops: Op, payload: bytes = b"") -> None:
    before = await driver.snapshot()
    with pytest.raises(StoreFull, match=f"{lease.id} waits: its commit needs more memory"):
        await driver.commit(lease, outcome, *ops, payload=payload, due="+1")
    assert await driver.snapshot() == before


async def test_an_execution_adds_a_little_to_its_journal(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, step(1, 50_000))
    await fill(driver)
    for number in (2, 3):
        await driver.commit(lease, CommitAction.CONTINUE, step(number, EACH))
    assert await grown(driver, "a") == 2 * (ENTRY + EACH)
    await assert_refused(driver, lease, CommitAction.CONTINUE, step(4, LAST + 1))
    await driver.commit(lease, CommitAction.CONTINUE, step(4, LAST))
    assert await grown(driver, "a") == LIMIT["full_bytes_max"]
    await assert_refused(driver, lease, CommitAction.CONTINUE, step(5, 0))
    # What asks for nothing, what was written before, and a cancel are no more.
    await driver.commit(lease, CommitAction.CONTINUE)
    await driver.commit(lease, CommitAction.CONTINUE, step(1, 50_000), CancelEntry(Number("9"), Kind.STEP, ""))
    assert await grown(driver, "a") == LIMIT["full_bytes_max"]
    await driver.redis.config_set("maxmemory", 0)
    await driver.commit(lease, CommitAction.CONTINUE, step(5, 50_000))
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="9")
    assert await grown(driver, "a") == 0


async def test_nothing_is_published_and_nobody_waits_for_it(driver: Driver) -> None:
    async def seen() -> bytes | None:
        found = await driver.store.call(view.read_view(driver.keys, PromiseId("a"), inbox="me"))
        return None if found.workflow is None else found.workflow.payload

    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"before"))
    await fill(driver)
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"x" * 4000), step(1, 10))
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"x" * 4000))
    assert await grown(driver, "a") == ENTRY + 10
    assert await seen() == b"before", "it can be read, and watched by reading again"
    with pytest.raises(StoreFull):
        await driver.store.call(commit.publish(driver.keys, WORKER, lease, "2", "2", b"x"))
    await driver.redis.config_set("maxmemory", 0)
    await driver.commit(lease, CommitAction.RESOLVE, Publish(b"after"))
    assert await seen() == b"after"


async def test_the_steps_of_one_commit_count_together(driver: Driver) -> None:
    lease = await driver.start("a")
    await fill(driver)
    await assert_refused(driver, lease, CommitAction.CONTINUE, step(1, EACH), step(2, EACH), step(3, LAST + 1))
    await assert_refused(driver, lease, CommitAction.RESOLVE, step(1, EACH), step(2, EACH), step(3, LAST + 1))
    await driver.commit(lease, CommitAction.RESOLVE, step(1, EACH), step(2, EACH), step(3, LAST))
    assert await grown(driver, "a") == 0  # who has ended adds nothing any more
    assert (await driver.record("a")).state is State.RESOLVED


async def test_what_makes_more_waits_unless_it_was_made_before(driver: Driver) -> None:
    lease = await driver.start("a")
    counts = Transaction(Number("1"), ((b"INCR", driver.own_key("n").encode()),))
    makes = (counts, child("2"), replace(child("3", "own"), detached=True))
    await driver.commit(lease, CommitAction.CONTINUE, *makes)
    await fill(driver)
    for number, op in enumerate(makes, 4):
        await assert_refused(driver, lease, CommitAction.CONTINUE, replace(op, number=Number(str(number))))
        await assert_refused(driver, lease, CommitAction.CONTINUE, replace(op, number=Number(str(number))), step(9, 1))
    await driver.commit(lease, CommitAction.CONTINUE, *makes)
    await driver.redis.config_set("maxmemory", 0)
    await driver.control("force", "own")
    await driver.commit(lease, CommitAction.RESOLVE)
    await driver.redis.delete(driver.own_key("n"))


async def test_a_value_may_end_it_that_is_too_large_to_go_on_with(driver: Driver) -> None:
    large, largest = LIMIT["full_bytes_max"], LIMIT["full_value_bytes_max"]
    for id, outcome, most in (("a", CommitAction.RETRY, large), ("b", CommitAction.RESOLVE, largest)):
        lease = await driver.start(id)
        await fill(driver)
        await assert_refused(driver, lease, outcome, payload=b"x" * (most + 1))
        await driver.commit(lease, outcome, payload=b"x" * most, due="+3600000")
        await driver.redis.config_set("maxmemory", 0)


async def test_who_looks_after_it_is_told_at_any_length(driver: Driver) -> None:
    lease = await driver.start("a")
    await fill(driver)
    await driver.commit(lease, CommitAction.HALT, payload=b"x" * 100_000)
    await driver.redis.config_set("maxmemory", 0)
    assert await driver.halted() == ["a"]


async def test_a_promise_takes_no_large_value(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE)
    await fill(driver)
    with pytest.raises(StoreFull, match="no large value for p"):
        await driver.settle("p", value=b"x" * (LIMIT["full_value_bytes_max"] + 1))
    assert (await driver.settle("p", value=b"x" * LIMIT["full_value_bytes_max"])).by_us


async def test_who_only_attaches_is_answered_and_told(driver: Driver) -> None:
    lease = await driver.start("a")
    await fill(driver)
    for inbox in ("one", "two"):
        made = await driver.store.call(promises.attach(driver.keys, PromiseId("a"), inbox=inbox))
        assert made.disposition is Disposition.ATTACHED
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    assert [(await driver.inbox(inbox))[0][b"v"] for inbox in ("one", "two")] == [b"v", b"v"]


async def test_a_person_controls_and_a_worker_joins(driver: Driver) -> None:
    await driver.create("a", start=FAR)
    await fill(driver)
    assert (await driver.control("wake", "a")).word == "woken"
    assert await driver.store.call(membership.join(driver.keys, OTHER, "others", ["others"])) == "joined"
    assert (await driver.control("halt", "a")).word == "halted"


async def test_what_is_broken_is_repaired(driver: Driver) -> None:
    await driver.create("a")
    await driver.redis.xtrim(driver.keys.queue("workers"), maxlen=0)
    await fill(driver)
    [finding] = (await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=True))).findings
    assert (finding.kind, finding.repaired) == ("unqueued", True)
    await driver.redis.config_set("maxmemory", 0)
    assert await driver.place("a") is Place.QUEUED


async def test_who_may_not_set_timers_is_told_so_before_anything_is_written(one_server: Server, namespace: str) -> None:
    """By the same write that shows whether Redis is full."""
    driver = Driver(one_server.client(), namespace)
    async with driver.store.opened():
        lease = await driver.start("a")
        before = await driver.snapshot()
        rules = ["+@all", "-zadd"]
        await driver.redis.acl_setuser("refused", enabled=True, nopass=True, keys=["*"], commands=rules, reset=True)
        refused = Driver(one_server.client(username="refused", password=""), namespace)
        async with refused.store.opened():
            with pytest.raises(StoreRefused):
                await refused.commit(lease, CommitAction.RESOLVE)
        await driver.redis.acl_deluser("refused")
        assert await driver.snapshot() == before


async def test_a_schedule_whose_time_has_come_stays_due(driver: Driver) -> None:
    nightly = Schedule("nightly", "0 0 * * *", "UTC", "f", "workers", b"", 1000)
    await driver.store.call(schedules.put_schedule(driver.keys, nightly))
    await fill(driver)
    assert (await driver.fire()).schedules == ["nightly"]
    advance = schedules.advance_schedule(driver.keys, nightly, Change(2000, "=2000", [PromiseId("nightly@1000")]))
    [refused] = await driver.store.ask_once([advance])
    assert isinstance(refused, StoreUnavailable), "who waits for it repeats it"
    assert await driver.store.call(schedules.read_schedule(driver.keys, "nightly")) == nightly
    await driver.redis.config_set("maxmemory", 0)
    assert (await driver.store.call(advance)).word == "advanced"
    assert await driver.place("nightly@1000") is Place.QUEUED


def receive(number: str) -> StartReceive:
    return StartReceive(Number(number), "x", None)


async def test_a_message_reaches_who_waits_for_it_and_none_is_stored(driver: Driver) -> None:
    await driver.suspended("waits", receive("1"), receive("2"), receive("3"))
    await driver.suspended("reads", StartTimer(Number("1"), "", FAR))
    await driver.send("reads", "x", b"stored before")
    await fill(driver)
    for call in ("c", "d", "d"):  # the last one is a repeat
        assert (await driver.send("waits", "x", b"small", key=call, call=call)).delivery == "delivered"
    before = await driver.snapshot()
    for sending in (
        driver.send("reads", "x", b"small"),
        driver.send("waits", "y", b"small"),
        driver.send("waits", "x", b"x" * (LIMIT["full_value_bytes_max"] + 1)),
        driver.send("waits", "x", b"?", reply="reply", due=FAR, inbox="me"),
        driver.send("new", "x", b"small", start="f"),
    ):
        with pytest.raises(StoreFull, match="Redis has reached its maxmemory"):
            await sending
    assert await driver.snapshot() == before
    lease = await driver.take()
    await assert_refused(driver, lease, CommitAction.CONTINUE, SendMessage(Number("9"), "x", PromiseId("reads"), b""))
    got = await driver.entry("waits", "2")
    await driver.commit(lease, CommitAction.CONTINUE, CancelEntry(Number("2"), Kind.RECEIVE, "x"), seen=got)
    assert (await driver.entry("waits", "3")).payload == b"small", "what returns passes"
    ended = await driver.commit(lease, CommitAction.RESOLVE)
    assert ended.unread == 1
    await driver.control("wake", "reads~1")
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.CONTINUE, receive("2"))
    assert [one.payload for one in answer.entries if one.number == "2"] == [b"stored before"]
    await driver.commit(lease, CommitAction.RESOLVE)


async def test_a_checkpoint_waits_and_is_always_removed(driver: Driver) -> None:
    lease = await driver.start("a")
    noted = [commit.note(driver.keys, WORKER, lease, "1", "1", payload) for payload in (b"one", b"two")]
    await driver.store.call(noted[0])
    await driver.commit(lease, CommitAction.CONTINUE, step(2, LIMIT["full_bytes_max"] - ENTRY))
    await fill(driver)
    await driver.commit(lease, CommitAction.CONTINUE, step(3, LIMIT["full_bytes_max"] - ENTRY))
    before = await driver.snapshot()
    with pytest.raises(StoreFull, match="the checkpoint of a is not kept yet"):
        await driver.store.call(noted[1])
    assert await driver.snapshot() == before
    await driver.commit(lease, CommitAction.RESOLVE, Checkpoint(Number("1")))
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["checkpoint"] + "1")


async def test_nothing_is_forked(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, step(1, 5))
    await fill(driver)
    with pytest.raises(StoreFull, match="b is not forked"):
        await driver.store.run(forking.fork(driver.store.keys, "a", "b", 1))
    assert not await driver.redis.exists(driver.keys.promise("b"))
