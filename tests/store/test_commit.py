"""commit.lua: all of what an activation asked for or, without the fence, nothing; repeated, it changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from msgspec.structs import replace

from durasleep.errors import CorruptData, Fenced, NotAllowed, UsageError
from durasleep.model import (
    CANCEL,
    CancelEntry,
    CommitAction,
    Disposition,
    Due,
    Entry,
    Kind,
    Mark,
    Number,
    Op,
    Place,
    PromiseId,
    StartChild,
    StartPromise,
    StartTimer,
    State,
    StepResult,
    Transaction,
)
from durasleep.protocol import commit
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, F
from durasleep.query import fsck
from harness.servers import Server
from tests.store.driver import FAR, OTHER, PAST, WORKER, Driver, child

EVERY_BYTE = bytes(range(256))


def timer(number: str, due: Due = FAR) -> StartTimer:
    return StartTimer(Number(number), f"nap-{number}", due)


def step(number: str, payload: bytes = b"") -> StepResult:
    return StepResult(Number(number), f"step-{number}", State.RESOLVED, payload)


def transaction(number: str, *commands: tuple[str | bytes, ...]) -> Transaction:
    words = tuple(tuple(w.encode() if isinstance(w, str) else w for w in command) for command in commands)
    return Transaction(Number(number), words)


def drop_kind(kind: Kind, number: str) -> CancelEntry:
    return CancelEntry(Number(number), kind, "g" if kind is Kind.CHILD else f"nap-{number}")


# -- the fence


@pytest.mark.parametrize("outcome", [one for one in CommitAction if one is not CommitAction.DROP])
async def test_a_late_worker_writes_nothing_whatever_the_outcome(driver: Driver, outcome: CommitAction) -> None:
    lease = await driver.start("a")
    await driver.reclaim(release="all")
    current = await driver.take(consumer=OTHER)
    before = await driver.snapshot()
    strangers: list[tuple[Lease, str]] = [
        (lease, WORKER),  # its own entry is gone
        (current, WORKER),  # it is somebody else's
        (replace(current, epoch=current.epoch + 1), OTHER),
        (replace(current, entry=lease.entry), OTHER),
        (replace(current, id=PromiseId("nobody")), OTHER),
    ]
    for stranger, consumer in strangers:
        with pytest.raises(Fenced):
            await driver.commit(
                stranger, outcome, timer("1"), child("2"), step("3"), due="+1000", consumer=consumer, payload=b"x"
            )
    assert await driver.snapshot() == before


async def test_what_is_gone_is_said_to_be_so(driver: Driver) -> None:
    lease = await driver.start("a")
    with pytest.raises(Fenced, match="there is no nobody"):
        await driver.commit(replace(lease, id=PromiseId("nobody")), CommitAction.CONTINUE)


async def test_an_execution_whose_epoch_is_no_number_is_not_committed(driver: Driver) -> None:
    lease, key = await driver.start("a"), driver.keys.promise("a")
    await driver.redis.hset(key, F["epoch"], "x")
    with pytest.raises(CorruptData, match="promise:a is not a promise of ours"):
        await driver.commit(lease, CommitAction.CONTINUE, step("1"))
    await driver.redis.hset(key, F["epoch"], lease.epoch)


async def test_an_entry_nobody_has_read_yet_is_no_lease(driver: Driver) -> None:
    await driver.create("a")
    record = await driver.record("a")
    await driver.join()
    with pytest.raises(Fenced, match="not held by"):
        await driver.commit(driver.lease("a", record.entry, 1), CommitAction.RESOLVE)


async def test_after_a_rollback_a_worker_whose_started_timers_are_gone_is_fenced(driver: Driver) -> None:
    # What is pending has no stamp: without its number a worker would be suspended with nothing to wake it.
    lease = await driver.start("a")
    key = driver.keys.promise("a")
    dump = await driver.redis.dump(key)
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"))
    await driver.redis.restore(key, 0, dump, replace=True)
    with pytest.raises(Fenced, match="no entry 1"):
        await driver.commit(lease, CommitAction.SUSPEND, asked="1")
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"))
    await driver.commit(lease, CommitAction.SUSPEND, asked="1")
    assert await driver.place("a") is Place.SUSPENDED


async def test_after_a_rollback_of_the_server_a_worker_that_remembers_more_is_fenced(driver: Driver) -> None:
    lease = await driver.start("a")
    keys = [driver.keys.promise("a"), driver.keys.queue("workers")]
    dumps = [await driver.redis.dump(key) for key in keys]
    [seen] = (await driver.commit(lease, CommitAction.CONTINUE, step("1"))).entries
    for key, dump in zip(keys, dumps, strict=True):
        await driver.redis.restore(key, 0, dump, replace=True)
    before = await driver.snapshot()
    with pytest.raises(Fenced, match=f"no stamp {seen.stamp}"):
        await driver.commit(lease, CommitAction.SUSPEND, timer("2"), seen=seen)
    assert await driver.snapshot() == before
    # The same number settles again there, under another stamp: two histories are never taken for one.
    [again] = (await driver.commit(lease, CommitAction.CONTINUE, step("1"))).entries
    assert again.stamp > seen.stamp
    with pytest.raises(Fenced):
        await driver.commit(lease, CommitAction.RESOLVE, seen=seen)


# -- repeats


async def test_a_repeated_commit_changes_nothing_and_answers_the_same(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.create("free", "g")
    other = await driver.take(consumer=OTHER)
    await driver.commit(other, CommitAction.RESOLVE, payload=b"r", consumer=OTHER)
    ops: list[Op] = [
        timer("1"),
        StartPromise(Number("2"), "p", Due("+5000")),
        StartPromise(Number("3"), "p", None),
        child("4"),
        child("5", "own"),
        child("6", "free"),
        step("7", EVERY_BYTE),
        transaction("8", ("INCR", driver.own_key("counter"))),
        drop_kind(Kind.TIMER, "1"),
    ]
    first = await driver.commit(lease, CommitAction.CONTINUE, *ops)
    assert [(entry.number, entry.state) for entry in first.entries] == [
        ("6", State.RESOLVED),
        ("7", State.RESOLVED),
        ("8", State.RESOLVED),
    ]
    before = await driver.snapshot()
    assert await driver.commit(lease, CommitAction.CONTINUE, *ops) == first
    assert await driver.snapshot() == before
    # Late: others have settled meanwhile, and more has been seen.
    await driver.settle("a~3", value=b"v")
    later = await driver.commit(lease, CommitAction.CONTINUE, seen=first.entries[-1])
    assert [entry.number for entry in later.entries] == ["3"]
    before = await driver.snapshot()
    assert (await driver.commit(lease, CommitAction.CONTINUE, *ops)).entries == later.entries
    assert await driver.snapshot() == before
    assert await driver.redis.get(driver.own_key("counter")) == b"1"
    await driver.redis.delete(driver.own_key("counter"))


async def test_a_tombstone_keeps_a_late_duplicate_from_starting_what_was_canceled(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"))
    await driver.commit(lease, CommitAction.CONTINUE, drop_kind(Kind.TIMER, "1"), drop_kind(Kind.STEP, "2"))
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"), step("2", b"late"))
    assert await driver.timers() == {}
    entries = (await driver.load("a")).entries
    assert [(entry.number, entry.state, entry.stamp) for entry in entries.values()] == [
        ("1", State.CANCELED, 0),
        ("2", State.CANCELED, 0),
    ]
    assert not (await driver.commit(lease, CommitAction.CONTINUE)).entries


# -- suspend and redrive


async def test_a_suspended_execution_is_one_hash_and_one_member_and_in_no_stream(driver: Driver) -> None:
    await driver.suspended("a", timer("1"))
    assert await driver.place("a") is Place.SUSPENDED
    assert await driver.queued() == []
    assert (await driver.redis.xpending(driver.keys.queue("workers"), "workers"))["pending"] == 0
    record = await driver.record("a")
    assert (record.entry, await driver.ttl_ms("a")) == ("", -1)
    assert await driver.timers() == {"a~1": (await driver.entry("a", "1")).due_ms}


async def test_a_settlement_between_load_and_suspend_is_answered_with_redrive(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, StartPromise(Number("1"), "p", None))
    await driver.settle("a~1", value=EVERY_BYTE)
    answer = await driver.commit(lease, CommitAction.SUSPEND, timer("2"))
    assert answer.redrive
    assert [(entry.number, entry.payload) for entry in answer.entries] == [("1", EVERY_BYTE)]
    assert await driver.place("a") is Place.QUEUED
    # The worker still holds it, and suspends once it says that it has seen this.
    assert not (await driver.commit(lease, CommitAction.SUSPEND, seen=answer.entries[0])).redrive
    assert await driver.place("a") is Place.SUSPENDED


async def test_a_commit_whose_own_step_is_unseen_is_not_suspended(driver: Driver) -> None:
    lease = await driver.start("a")
    answer = await driver.commit(lease, CommitAction.SUSPEND, step("1", EVERY_BYTE), step("2"))
    assert answer.redrive
    assert [entry.payload for entry in answer.entries] == [EVERY_BYTE, b""]
    # Seen to the first only: the second is answered again.
    again = await driver.commit(lease, CommitAction.SUSPEND, seen=answer.entries[0])
    assert again.redrive
    assert again.entries == answer.entries[1:]


async def test_stamps_grow_and_order_everything_that_settles_in_one_millisecond(driver: Driver) -> None:
    lease = await driver.start("a")
    answer = await driver.commit(lease, CommitAction.CONTINUE, *(step(str(n)) for n in range(1, 51)))
    stamps = [entry.stamp for entry in answer.entries]
    assert stamps == sorted(set(stamps))
    assert [entry.number for entry in answer.entries] == [str(n) for n in range(1, 51)]
    assert (await driver.record("a")).order == stamps[-1]


async def test_what_has_been_seen_is_no_news_any_more(driver: Driver) -> None:
    lease = await driver.start("a")
    first, second = (await driver.commit(lease, CommitAction.CONTINUE, step("1"), step("2"))).entries
    assert (await driver.commit(lease, CommitAction.CONTINUE, seen=first)).entries == [second]
    assert (await driver.record("a")).unseen == {"2"}
    assert (await driver.commit(lease, CommitAction.CONTINUE, seen=second)).entries == []
    assert (await driver.record("a")).unseen == set()


async def test_a_stamp_is_newer_than_all_before_whatever_the_clock_shows(driver: Driver) -> None:
    lease = await driver.start("a")
    order = (await driver.fire()).server_us // 1000 + 3_600_000
    for ending in (False, True):
        await driver.redis.hset(driver.keys.promise("a"), F["order"], order)
        outcome = CommitAction.RESOLVE if ending else CommitAction.CONTINUE
        number = str(int(ending) + 1)
        await driver.commit(lease, outcome, step(number))
        assert (await driver.entry("a", number)).stamp == order + 1
    await driver.suspended("b", StartPromise(Number("1"), "p", None))
    await driver.redis.hset(driver.keys.promise("b"), F["order"], order)
    await driver.settle("b~1")
    assert (await driver.entry("b", "1")).stamp == order + 1


@pytest.mark.leaves_keys("an execution that waits for nothing")
async def test_an_answer_carries_at_most_256_entries_and_says_that_there_is_more(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, *(step(str(n)) for n in range(1, 251)))
    answer = await driver.commit(lease, CommitAction.CONTINUE, *(step(str(n)) for n in range(251, 301)))
    assert (len(answer.entries), answer.more) == (256, True)
    rest = await driver.commit(lease, CommitAction.SUSPEND, seen=answer.entries[-1])
    assert (rest.redrive, rest.more) == (True, False)
    assert [entry.number for entry in rest.entries] == [str(n) for n in range(257, 301)]
    # What was seen is not kept as unseen.
    assert not (await driver.commit(lease, CommitAction.SUSPEND, seen=rest.entries[-1])).redrive
    assert await driver.redis.hget(driver.keys.promise("a"), F["unseen"]) is None


async def test_an_answer_carries_at_most_a_megabyte_or_one_entry(driver: Driver) -> None:
    lease = await driver.start("a")
    big = b"x" * 700_000
    for number in ("1", "2", "3"):
        await driver.commit(lease, CommitAction.CONTINUE, step(number, big * 2 if number == "3" else big))
    answer = await driver.commit(lease)
    numbers: list[str] = []
    while True:
        assert len(answer.entries) == 1
        numbers.append(answer.entries[0].number)
        if not answer.more:
            break
        answer = await driver.commit(lease, seen=answer.entries[-1])
    assert numbers == ["1", "2", "3"]


async def test_numbers_without_entries_do_not_keep_an_execution_awake_forever(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.redis.hset(driver.keys.promise("a"), F["unseen"], "7 8 ")
    assert not (await driver.commit(lease, CommitAction.SUSPEND, timer("1"))).redrive
    assert await driver.place("a") is Place.SUSPENDED


# -- outcomes


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (CommitAction.RESOLVE, State.RESOLVED),
        (CommitAction.REJECT, State.REJECTED),
        (CommitAction.CANCEL, State.CANCELED),
    ],
)
async def test_an_ending_leaves_no_entry_no_timer_and_no_member(
    driver: Driver, outcome: CommitAction, state: State
) -> None:
    lease = await driver.start("a", deadline=FAR, inbox="one")
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"), StartPromise(Number("2"), "p", FAR), child("3"))
    await driver.commit(lease, outcome, timer("4"), payload=EVERY_BYTE)
    record = await driver.record("a")
    assert (record.state, record.value, record.place, record.entry) == (state, EVERY_BYTE, None, "")
    assert await driver.timers() == {}
    assert await driver.queued() == []
    assert (await driver.record("a~3")).state is State.CANCELED
    assert [told[b"v"] for told in await driver.inbox("one")] == [EVERY_BYTE]
    await driver.assert_kept_together("a", "a~3")
    with pytest.raises(Fenced, match="has ended"):
        await driver.commit(lease, outcome, payload=b"other")
    assert (await driver.record("a")).value == EVERY_BYTE


@pytest.mark.parametrize("ops", [(), (step("9"),)])
async def test_an_ending_does_all_that_its_promise_says(driver: Driver, ops: tuple[Op, ...]) -> None:
    options: tuple[dict[str, Any], ...] = ({}, {"deadline": FAR}, {"inbox": "one"}, {"retention_ms": 60_000})
    for id, said in zip("abcd", options, strict=True):
        lease = await driver.start(id, function=f"f-{id}", **said)
        await driver.commit(lease, CommitAction.CONTINUE, step("1"))
        before_ms = (await driver.fire()).server_us // 1000
        await driver.commit(lease, CommitAction.REJECT, *ops, payload=b"v")
        record = await driver.record(id)
        assert (record.state, record.unseen, record.value) == (State.REJECTED, set(), b"v")
        assert not await driver.redis.hexists(driver.keys.promise(id), F["waiters"])
        assert before_ms <= record.settled_ms <= (await driver.fire()).server_us // 1000
        [(_, ending), *_] = await driver.redis.xrevrange(driver.keys.failed)
        told = {b"i": id.encode(), b"s": b"j", b"f": f"f-{id}".encode(), b"c": str(record.incarnation).encode()}
        assert told.items() <= ending.items()
        await driver.assert_kept_together(id, retention_ms=said.get("retention_ms", LIMIT["retention_ms"]))
        assert await driver.timers() == {}
    assert [(told[b"i"], told[b"v"]) for told in await driver.inbox("one")] == [(b"c", b"v")]


async def test_what_a_member_has_asked_for_is_closed_with_the_root(driver: Driver) -> None:
    """However it was asked for: only its own hash says that it has a family."""
    await driver.suspended("a", child("1"))
    middle = await driver.take()
    await driver.commit(middle, CommitAction.CONTINUE, step("1"))
    await driver.commit(middle, CommitAction.CONTINUE, step("2"), child("3"))
    await driver.commit(middle, CommitAction.RESOLVE)
    root = next(lease for lease in await driver.read(9) if lease.id == "a")
    await driver.commit(root, CommitAction.RESOLVE)
    await driver.fire_all()
    await driver.assert_kept_together("a", "a~1", "a~1~3")


@pytest.mark.parametrize("outcome", [CommitAction.RETRY, CommitAction.DEFER])
async def test_a_delayed_execution_comes_back_when_it_is_due(driver: Driver, outcome: CommitAction) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, outcome, payload=b"why", due="+3600000")
    record = await driver.record("a")
    assert (await driver.place("a"), record.reason, record.due_ms) == (
        Place.DELAYED,
        "why",
        (await driver.timers())["a~retry"],
    )
    await driver.control("reschedule", "a", due=PAST)
    await driver.fire()
    assert await driver.place("a") is Place.QUEUED
    again = await driver.take()
    assert (again.epoch, (await driver.record("a")).reason) == (lease.epoch + 1, "")


async def test_a_settlement_of_a_delayed_or_halted_execution_is_journaled_and_wakes_nobody(driver: Driver) -> None:
    for id, outcome in (("d", CommitAction.DEFER), ("h", CommitAction.HALT)):
        lease = await driver.start(id)
        await driver.commit(lease, CommitAction.CONTINUE, StartPromise(Number("1"), "p", PAST))
        await driver.commit(lease, outcome, payload=b"why", due="+3600000")
        place, order = await driver.place(id), (await driver.record(id)).order
        assert (await driver.fire()).due == 1
        assert await driver.place(id) is place
        assert (await driver.record(id)).order > order
        assert (await driver.entry(id, "1")).state is State.TIMEDOUT


async def test_what_was_canceled_while_its_attempt_failed_is_not_tried_again(driver: Driver) -> None:
    """The cancel was answered, so nobody will ask for it again: the wait may last for hours."""
    parent = await driver.start("a", deadline=FAR, inbox="one")
    await driver.commit(parent, CommitAction.SUSPEND, child("1"))
    lease = await driver.take()
    assert (await driver.control("cancel", "a~1")).word == "canceling"
    await driver.commit(lease, CommitAction.RETRY, step("1"), payload=b"why", due="+3600000")
    record = await driver.record("a~1")
    assert (record.state, record.place, record.unseen) == (State.CANCELED, None, frozenset())
    assert (await driver.entry("a~1", "1")).kind is Kind.STEP
    assert set(await driver.timers()) == {"a~timeout"}
    parent = await driver.take()
    assert (await driver.entry("a", "1")).state is State.CANCELED
    await driver.commit(parent, CommitAction.RESOLVE, payload=b"done")
    [told] = await driver.inbox("one")
    assert told[b"v"] == b"done"


async def test_a_delay_without_a_due_time_or_an_unknown_outcome_writes_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    before = await driver.snapshot()
    for outcome in (CommitAction.RETRY, CommitAction.DEFER):
        with pytest.raises(UsageError, match="due"):
            await driver.commit(lease, outcome, step("1"), timer("2"), due="")
    with pytest.raises(UsageError, match="outcome nonsense"):
        await driver.commit(lease, cast("CommitAction", "nonsense"), step("1"), timer("2"))
    item = commit.commit(driver.keys, WORKER, lease, CommitAction.CONTINUE, ops=[timer("2"), step("1")])
    item.args[item.args.index("step")] = "nonsense"
    with pytest.raises(UsageError, match="op nonsense"):
        await driver.store.call(item)
    assert await driver.snapshot() == before


async def test_what_an_op_may_not_say_is_found_before_the_first_write(driver: Driver) -> None:
    lease = await driver.start("a")
    before = await driver.snapshot()
    named = (step("2"), timer("2"), StartPromise(Number("2"), "", None), Mark(Number("2"), Kind.PATCH, ""))
    for op in (
        *(replace(op, name="a\tb") for op in (*named, drop_kind(Kind.TIMER, "2"))),
        step("x"),
        timer("2", Due("soon")),
        StartPromise(Number("2"), "p", Due("soon")),
        child("2", due=Due("soon")),
        replace(child("2"), start=Due("soon")),
        child("2", "own", function="a\nb"),
        replace(child("2", "own", function="a\nb"), detached=True),
        replace(child("2", "own"), retention_ms=cast("int", "x")),
    ):
        with pytest.raises(UsageError, match=r"tab|due soon|entry number x|retention x"):
            await driver.commit(lease, CommitAction.SUSPEND, step("1"), timer("3"), op)
        assert await driver.snapshot() == before


async def test_drop_removes_an_entry_nobody_lives_in_and_never_a_living_one(driver: Driver) -> None:
    lease = await driver.start("a")
    with pytest.raises(Fenced, match="lives in this entry"):
        await driver.commit(lease, CommitAction.DROP)
    await driver.commit(lease, CommitAction.RESOLVE)
    stream = driver.keys.queue("workers")
    entry = (await driver.redis.xadd(stream, {"i": "a", "e": "1"})).decode()
    stale = (await driver.read())[0]
    assert stale.entry == entry
    before = await driver.record("a")
    for _ in range(2):  # a repeat finds it gone
        await driver.commit(stale, CommitAction.DROP)
        assert await driver.pending(WORKER, but=lease) == []
    assert await driver.queued() == []
    assert await driver.record("a") == before
    assert await driver.halted() == []


@pytest.mark.leaves_keys("a broken hash, and the name of its entry")
async def test_the_entry_of_a_broken_hash_is_dropped_by_name(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.redis.set(driver.keys.promise("a"), "garbage")
    with pytest.raises(CorruptData, match="promise:a"):
        await driver.commit(lease, CommitAction.HALT, payload=b"cannot be read")
    await driver.commit(lease, CommitAction.DROP)
    [name] = await driver.halted()
    assert name.startswith(f"queue:workers:{lease.entry}: CORRUPT")
    assert "promise:a" in name
    assert await driver.redis.xlen(driver.keys.queue("workers")) == 0


async def test_continue_as_new_ends_what_was_pending_and_keeps_the_rest(driver: Driver) -> None:
    lease = await driver.start("a", deadline=FAR, inbox="one", args=b"first")
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"), child("2"), child("3", "own"), step("4"))
    old = await driver.record("a")
    deadline = (await driver.timers())["a~timeout"]
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=EVERY_BYTE, due="4")
    loaded = await driver.load("a")
    assert (loaded.record.args, loaded.record.base, loaded.record.incarnation, loaded.entries) == (
        EVERY_BYTE,
        4,
        old.incarnation,
        {},
    )
    assert loaded.record.order >= old.order
    assert await driver.timers() == {"a~timeout": deadline}
    assert (await driver.record("a~2")).state is State.CANCELED
    assert (await driver.record("own")).state is State.PENDING
    assert await driver.place("a") is Place.QUEUED
    with pytest.raises(Fenced):
        await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=b"again", due="4")
    # `own` ends: the new run never asked for it.
    again = next(one for one in await driver.read(2) if one.id == "a")
    await driver.control("force", "own")
    assert not (await driver.commit(again, CommitAction.SUSPEND, timer("5"))).redrive
    # Who waited for the first run hears of the last.
    await driver.fire()
    await driver.control("force", "a")
    assert [told[b"s"] for told in await driver.inbox("one")] == [b"c"]


@pytest.mark.parametrize("due", [FAR, PAST])
async def test_what_the_last_commit_of_a_run_asks_for_ends_with_that_run(driver: Driver, due: Due) -> None:
    lease = await driver.start("a")
    detached = replace(child("3", "d"), detached=True)
    ops = (timer("1", due), child("2"), detached, StepResult(Number("4"), "step", State.RESOLVED, b""))
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, *ops, due="4")
    assert (await driver.load("a")).entries == {}
    assert await driver.timers() == {}
    assert (await driver.record("a~2")).state is State.CANCELED
    assert await driver.place("d") is Place.QUEUED  # what is detached outlives it
    await driver.fire_all()
    assert (await driver.record("a")).unseen == frozenset()


async def test_a_new_run_knows_when_it_began_and_its_new_marks_are_kept(driver: Driver) -> None:
    lease = await driver.start("a")
    old = await driver.record("a")
    assert old.begun_ms == old.created_ms
    await driver.commit(lease, CommitAction.CONTINUE, Mark(Number("0.1"), Kind.VERSION, "2"))
    await driver.another_life()
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="1")
    new = await driver.load("a")
    assert (new.record.begun_ms > old.created_ms, new.record.created_ms, new.entries) == (True, old.created_ms, {})
    await driver.commit(await driver.take(), CommitAction.CONTINUE, Mark(Number("0.1"), Kind.VERSION, "3"))
    assert (await driver.entry("a", "0.1")).name == "3"


async def test_a_run_with_values_is_closed_to_its_end(driver: Driver) -> None:
    """Such a hash is read in pages."""
    lease = await driver.start("a")
    asked = [timer(str(number)) for number in range(1, 11)] + [child(str(number)) for number in range(11, 21)]
    steps = [step(str(number), b"x" * 100) for number in range(21, 41)]
    await driver.commit(lease, CommitAction.CONTINUE, *asked, *steps)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, due="40")
    assert (await driver.load("a")).entries == {}
    assert await driver.timers() == {}
    assert {(await driver.record(f"a~{number}")).state for number in range(11, 21)} == {State.CANCELED}
    assert await driver.redis.exists(driver.keys.run("a")) == 0


async def test_of_the_arguments_of_the_run_before_nothing_is_left(driver: Driver) -> None:
    largest = b"x" * (LIMIT["args_part_bytes"] * LIMIT["args_parts_max"])
    lease = await driver.start("a", args=largest)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=b"new", due="3")
    fields = await driver.redis.hkeys(driver.keys.promise("a"))
    assert [field for field in fields if field.startswith(b"a")] == [b"a"]
    assert (await driver.record("a")).args == b"new"


async def test_a_mark_is_written_once_and_wakes_nobody(driver: Driver) -> None:
    lease = await driver.start("a")
    mark = Mark(Number("0.1"), Kind.PATCH, "two steps")
    for again in (mark, replace(mark, name="other")):
        assert not (await driver.commit(lease, CommitAction.CONTINUE, again)).entries
    assert await driver.entry("a", "0.1") == Entry(Number("0.1"), Kind.PATCH, State.RESOLVED, "two steps")
    assert not (await driver.commit(lease, CommitAction.SUSPEND, timer("1"))).redrive
    assert await driver.place("a") is Place.SUSPENDED


async def test_a_cancel_the_old_run_has_not_heard_of_is_told_the_new_one_and_no_other(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.control("cancel", "a")
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=b"", due="1")
    lease = await driver.take()
    answer = await driver.commit(lease, CommitAction.SUSPEND, timer("2"))
    assert [entry.number for entry in answer.entries] == [CANCEL]
    # It has heard of it, and goes on all the same: that is its right, once.
    await driver.commit(lease, CommitAction.CONTINUE, seen=answer.entries[0])
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=b"", due="2", seen=answer.entries[0])
    assert (await driver.load("a")).entries == {}


# -- detached executions


async def test_a_detached_execution_settles_when_started_and_outlives_who_started_it(driver: Driver) -> None:
    lease = await driver.start("a")
    detached = replace(child("1", "own"), detached=True)
    answer = await driver.commit(lease, CommitAction.SUSPEND, detached, timer("2"))
    assert answer.redrive
    [entry] = answer.entries
    assert (entry.kind, entry.state, entry.child_id) == (Kind.DETACHED, State.RESOLVED, "own")
    again = await driver.commit(lease, CommitAction.SUSPEND, detached, seen=entry)  # the answer was lost
    assert not again.redrive
    own = await driver.take()
    assert (own.id, own.epoch) == ("own", 1)
    await driver.commit(own, CommitAction.RESOLVE, payload=b"r")
    assert await driver.place("a") is Place.SUSPENDED  # nobody waits for it
    await driver.control("force", "a")
    assert (await driver.record("own")).value == b"r"


async def test_a_detached_execution_under_a_used_id_is_left_alone_or_refused(driver: Driver) -> None:
    await driver.start("own", function="g")
    await driver.start("other", function="h")
    before = await driver.record("own")
    lease = await driver.start("a")
    same, wrong = (replace(child(number, id), detached=True) for number, id in (("1", "own"), ("2", "other")))
    answer = await driver.commit(lease, CommitAction.CONTINUE, same, wrong)
    assert [(entry.number, entry.state) for entry in answer.entries] == [("1", State.RESOLVED), ("2", State.REJECTED)]
    assert await driver.record("own") == before
    with pytest.raises(UsageError, match="id of its own"):
        await driver.commit(lease, CommitAction.CONTINUE, replace(child("3"), detached=True))


# -- children


async def test_a_child_runs_for_its_parent_and_its_result_wakes_it(driver: Driver) -> None:
    await driver.suspended("a", child("1", due=FAR))
    lease = await driver.take()
    assert (lease.id, (await driver.record("a~1")).args) == ("a~1", b"args")
    await driver.commit(lease, CommitAction.REJECT, payload=EVERY_BYTE)
    assert await driver.place("a") is Place.QUEUED
    entry = await driver.entry("a", "1")
    assert (entry.state, entry.payload) == (State.REJECTED, EVERY_BYTE)
    assert await driver.timers() == {}
    # It is kept as long as the root lives, then as long as the root is kept.
    assert await driver.ttl_ms("a~1") == -1
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.assert_kept_together("a", "a~1")


async def test_children_with_an_id_of_their_own_are_shared_and_outlive_their_parents(driver: Driver) -> None:
    await driver.suspended("a", child("1", "own"))
    lease = await driver.take()
    await driver.suspended("b", child("1", "own"))
    await driver.suspended("wrong", child("1", "own", function="other"), timer("2"))
    await driver.control("force", "b")
    assert (await driver.record("own")).state is State.PENDING
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"r")
    assert (await driver.entry("a", "1")).payload == b"r"
    assert await driver.place("a") is Place.QUEUED
    # Under a used id another function is refused; a finished one answers at once.
    assert (await driver.entry("wrong", "1")).state is State.REJECTED
    await driver.read(10)
    assert (await driver.create("own", "g")).disposition is Disposition.FINISHED
    late = await driver.start("late")
    answer = await driver.commit(late, CommitAction.SUSPEND, child("1", "own"))
    assert [(entry.state, entry.payload) for entry in answer.entries] == [(State.RESOLVED, b"r")]


async def test_every_one_of_many_parents_that_share_a_child_is_woken(driver: Driver) -> None:
    parents = [f"p{n}" for n in range(LIMIT["family_max"] + 10)]
    await driver.create("first", inbox="one")
    await driver.commit(await driver.take(), CommitAction.SUSPEND, child("1", "own"))
    lease = await driver.take()
    await driver.commit_all(await driver.start_all(parents), CommitAction.SUSPEND, child("1", "own"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"r")
    await driver.fire_all()
    assert sorted(await driver.queued()) == sorted(["first", *parents])
    assert (await driver.entry(parents[-1], "1")).payload == b"r"
    assert await driver.ttl_ms("own") > 0


async def test_a_canceled_child_ends_at_once_and_tells_its_parent_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2", "own"))
    order = (await driver.record("a")).order
    answer = await driver.commit(
        lease, CommitAction.SUSPEND, drop_kind(Kind.CHILD, "1"), drop_kind(Kind.CHILD, "2"), timer("3")
    )
    assert not answer.redrive
    assert (await driver.record("a~1")).state is State.CANCELED
    await driver.control("force", "own")
    assert await driver.place("a") is Place.SUSPENDED
    assert (await driver.record("a")).order == order


async def test_a_cancel_leaves_what_has_settled_as_it_is(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, step("1", b"v"), child("2"))
    await driver.commit(await driver.take(), CommitAction.RESOLVE, payload=b"v")
    before = (await driver.load("a")).entries
    await driver.commit(lease, CommitAction.CONTINUE, drop_kind(Kind.STEP, "1"), drop_kind(Kind.CHILD, "2"))
    assert (await driver.load("a")).entries == before


async def test_a_cancel_takes_nothing_from_a_child_that_is_gone_or_of_another_life(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"), child("3"))
    await driver.redis.delete(driver.keys.promise("a~1"))
    await driver.redis.hset(driver.keys.promise("a~2"), F["incarnation"], 1)
    await driver.redis.hset(driver.keys.promise("a~3"), mapping={F["state"]: "r", F["value"]: "v"})
    others = [await driver.redis.hgetall(driver.keys.promise(f"a~{number}")) for number in (2, 3)]
    await driver.commit(lease, CommitAction.CONTINUE, *[drop_kind(Kind.CHILD, str(number)) for number in (1, 2, 3)])
    assert [entry.state for entry in (await driver.load("a")).entries.values()] == [State.CANCELED] * 3
    assert [await driver.redis.hgetall(driver.keys.promise(f"a~{number}")) for number in (2, 3)] == others
    await driver.redis.delete(driver.keys.promise("a~2"), driver.keys.queue("workers"), driver.keys.promise("a~3"))
    await driver.redis.delete(driver.keys.promise("a"))


async def test_a_tombstone_says_when_it_began(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, timer("1"))
    key = driver.keys.promise("a")
    raw = await driver.redis.hget(key, "1")
    await driver.redis.hset(key, "1", raw.replace(b"tp\t\t", b"tp\t1500\t"))
    await driver.commit(lease, CommitAction.CONTINUE, drop_kind(Kind.TIMER, "1"))
    assert await driver.redis.hget(key, "1") == b"tc\t\t1500\tnap-1\t\n"


@pytest.mark.parametrize("ops", [(), (step("9"),)])
async def test_who_ends_with_nothing_pending_is_kept_with_its_family(driver: Driver, ops: tuple[Op, ...]) -> None:
    async def end_quietly(lease: Lease, *ops: Op) -> None:
        await driver.store.call(commit.commit(driver.keys, WORKER, lease, CommitAction.RESOLVE, ops=ops, open=False))

    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"))
    await end_quietly(await driver.take())
    assert await driver.ttl_ms("a~1") == -1  # as long as its root is pending
    await end_quietly(lease, *ops)
    await driver.assert_kept_together("a", "a~1")


async def test_a_child_that_is_there_already_is_attached_to(driver: Driver) -> None:
    """After a rollback that the journal of its parent has lost it, and it itself has not been."""
    lease = await driver.start("a")
    key = driver.keys.promise("a")
    dump = await driver.redis.dump(key)
    await driver.commit(lease, CommitAction.CONTINUE, child("1"))
    await driver.redis.restore(key, 0, dump, replace=True)
    await driver.commit(lease, CommitAction.SUSPEND, child("1"))
    assert not await driver.redis.hexists(driver.keys.promise("a~1"), F["waiters"])
    assert await driver.redis.exists(driver.keys.closing) == 0
    await driver.commit(await driver.take(), CommitAction.RESOLVE, payload=b"v")
    assert (await driver.entry("a", "1")).payload == b"v"


async def test_only_who_has_children_of_its_own_has_a_family(driver: Driver) -> None:
    await driver.create("own", "g")
    await driver.take()
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("1", "own"), child("2", "new"))
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["family"])
    await driver.commit(lease, CommitAction.CONTINUE, child("3"))
    assert await driver.redis.hexists(driver.keys.promise("a"), F["family"])


async def test_a_child_whose_parent_has_ended_is_told_so_when_it_commits(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    lease = await driver.take()
    # As if the family had not been closed yet.
    await driver.redis.hset(driver.keys.promise("a"), mapping={F["state"]: "r"})
    await driver.redis.hdel(driver.keys.promise("a"), F["place"])
    with pytest.raises(Fenced, match="parent of a~1 has ended"):
        await driver.commit(lease, CommitAction.SUSPEND, timer("1"))
    assert (await driver.record("a~1")).state is State.CANCELED
    assert await driver.timers() == {}
    await driver.redis.delete(driver.keys.promise("a"))


async def test_a_family_larger_than_one_ending_is_closed_in_parts_and_kept_together(driver: Driver) -> None:
    lease = await driver.start("a", retention_ms=60_000)
    for first in (1, 151):
        await driver.commit(lease, CommitAction.CONTINUE, *(child(str(n)) for n in range(first, first + 150)))
    leases = {str(one.id): one for one in await driver.read(300)}
    inner, fast = leases["a~7"], leases["a~9"]
    await driver.commit(inner, CommitAction.SUSPEND, timer("1"), child("2"))
    last_wake = (await driver.fire()).last_wake
    await driver.commit(lease, CommitAction.RESOLVE)
    # Until all is closed its head is kept: whoever goes on closing has to find it.
    assert await driver.ttl_ms("a") == -1
    # A child that is faster than the closing is told, and kept as long as the others.
    with pytest.raises(Fenced, match="parent of a~9 has ended"):
        await driver.commit(fast, CommitAction.RESOLVE)
    await driver.assert_kept_together("a~9", retention_ms=60_000)
    fired = await driver.fire()
    assert fired.closing > 0
    assert fired.last_wake > last_wake
    await driver.fire_all()
    states = {(await driver.record(f"a~{n}")).state for n in range(1, 301)}
    assert states == {State.CANCELED}
    assert (await driver.record("a~7~2")).state is State.CANCELED
    assert await driver.timers() == {}
    assert await driver.queued() == []
    await driver.assert_kept_together("a", "a~1", "a~300", "a~7~2", retention_ms=60_000)


def detached(number: str, id: str, *, retention_ms: int | None = None) -> StartChild:
    return StartChild(Number(number), "g", b"", None, None, PromiseId(id), detached=True, retention_ms=retention_ms)


async def test_what_has_an_id_of_its_own_is_kept_as_long_as_the_family_that_started_it(driver: Driver) -> None:
    """Whoever of the family started it, in whichever run, unless it says otherwise."""
    lease = await driver.start("a", retention_ms=60_000)
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, child("1", "first"), due="1")
    await driver.commit(await driver.take_of("first"), CommitAction.RESOLVE)
    lease = await driver.take_of("a")
    await driver.commit(lease, CommitAction.CONTINUE, child("2"), detached("3", "second"))
    await driver.commit(await driver.take_of("second"), CommitAction.RESOLVE)
    week = detached("3", "week", retention_ms=LIMIT["retention_ms"])
    inner = await driver.take_of("a~2")
    await driver.commit(inner, CommitAction.CONTINUE, child("1", "third"), detached("2", "ever", retention_ms=-1), week)
    for id in ("third", "ever", "week"):
        await driver.commit(await driver.take_of(id), CommitAction.RESOLVE)
    await driver.assert_kept_together("first", "second", "third", retention_ms=60_000)
    await driver.assert_kept_together("week")
    assert await driver.ttl_ms("ever") == -1
    assert not await driver.redis.hexists(driver.keys.promise("week"), F["retention"])
    assert not await driver.redis.hexists(driver.keys.promise("a~2"), F["retention"])
    await driver.commit(inner, CommitAction.RESOLVE)
    await driver.commit(lease, CommitAction.RESOLVE)
    await driver.assert_kept_together("a", "a~2", retention_ms=60_000)


async def test_a_child_may_start_later_and_never_if_its_parent_ends_before(driver: Driver) -> None:
    later = [StartChild(Number(n), "g", b"", None, None, None, start=due) for n, due in (("1", PAST), ("2", FAR))]
    stranger = StartChild(Number("3"), "g", b"", None, None, PromiseId("stranger"), detached=True, start=FAR)
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, *later, stranger)
    assert [await driver.place(id) for id in ("a~1", "a~2", "stranger")] == [Place.DELAYED] * 3
    assert set(await driver.timers()) == {"a~1~start", "a~2~start", "stranger~start"}
    await driver.fire_all()
    assert (await driver.take()).id == "a~1"
    await driver.commit(lease, CommitAction.RESOLVE)
    await driver.fire_all()
    assert (await driver.record("a~2")).state is State.CANCELED
    assert set(await driver.timers()) == {"stranger~start"}


async def test_a_family_kept_for_ever_expires_in_none_of_its_parts(driver: Driver) -> None:
    lease = await driver.start("a", retention_ms=-1)
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"), child("3", "named"))
    leases = {str(one.id): one for one in await driver.read(3)}
    await driver.commit(leases["a~1"], CommitAction.RESOLVE)
    await driver.commit(lease, CommitAction.RESOLVE)
    with pytest.raises(Fenced):
        await driver.commit(leases["a~2"], CommitAction.RESOLVE)
    await driver.commit(leases["named"], CommitAction.RESOLVE)
    await driver.fire_all()
    assert [await driver.ttl_ms(id) for id in ("a", "a~1", "a~2", "named")] == [-1] * 4
    assert (await driver.store.run(fsck.fsck(driver.store.keyspaces))).is_clean


async def test_a_family_kept_for_no_time_at_all_goes_whole(driver: Driver) -> None:
    lease = await driver.start("a", retention_ms=0)
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"))
    await driver.commit(lease, CommitAction.RESOLVE)
    await driver.fire_all()
    for id in ("a", "a~1", "a~2"):
        assert await driver.ttl_ms(id) in (-2, 0, 1)


async def test_a_finished_subtree_expires_with_the_root_not_before(driver: Driver) -> None:
    root = await driver.start("a")
    await driver.commit(root, CommitAction.CONTINUE, child("1"))
    inner = await driver.take()
    await driver.commit(inner, CommitAction.CONTINUE, child("1"), child("2"))
    first, second = await driver.read(2)
    await driver.commit(first, CommitAction.RESOLVE)
    assert await driver.ttl_ms("a~1~1") == -1
    # The root and a grandchild end in one script.
    await asyncio.gather(
        driver.commit(root, CommitAction.RESOLVE),
        driver.commit(second, CommitAction.RESOLVE, payload=b"r"),
    )
    assert (await driver.record("a~1~2")).value == b"r"
    await driver.assert_kept_together("a", "a~1", "a~1~1", "a~1~2")


# -- ids used again


async def test_a_child_id_left_over_from_another_life_is_made_room_for(driver: Driver) -> None:
    await driver.suspended("a", child("1"), child("2"))
    first, second = await driver.read(2)
    await driver.commit(first, CommitAction.RESOLVE, payload=b"old")
    await driver.commit(second, CommitAction.SUSPEND, timer("1"), child("2"))
    await driver.read(10)
    # The root vanishes (expired, or lost in a failover) and is made again.
    await driver.redis.delete(driver.keys.promise("a"))
    await driver.redis.delete(driver.keys.queue("workers"))
    await driver.join()
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.SUSPEND, child("1"), child("2"), timer("3"))
    assert [(await driver.record(f"a~{n}")).state for n in (1, 2)] == [State.PENDING] * 2
    assert (await driver.entry("a", "1")).state is State.PENDING
    incarnations = {(await driver.record(id)).incarnation for id in ("a", "a~1", "a~2")}
    assert len(incarnations) == 1
    # The old life's timer and grandchild are nobody's.
    await driver.fire_all()
    assert "a~2~1" not in await driver.timers()
    assert await driver.ttl_ms("a~2~2") in (-2, 0, 1)
    with pytest.raises(Fenced):
        await driver.commit(second, CommitAction.RESOLVE)


async def test_an_outcome_of_another_life_reaches_nobody(driver: Driver) -> None:
    await driver.suspended("a", child("1", "own"))
    lease = await driver.take()
    await driver.redis.delete(driver.keys.promise("a"))
    await driver.another_life()
    again = await driver.start("a")
    await driver.commit(again, CommitAction.SUSPEND, child("1", "other"))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"old")
    assert (await driver.entry("a", "1")).state is State.PENDING
    assert await driver.place("a") is Place.SUSPENDED


# -- transactions


async def test_a_transaction_happens_with_its_journal_entry_and_its_replies_keep_every_byte(driver: Driver) -> None:
    lease = await driver.start("a")
    key = driver.own_key("key")
    answer = await driver.commit(
        lease,
        CommitAction.CONTINUE,
        transaction(
            "1",
            ("SET", key, EVERY_BYTE),
            ("GET", key),
            ("STRLEN", key),
            ("GET", f"{key}-none"),
            ("HSET", f"{key}-h", "f", EVERY_BYTE),
            ("HGETALL", f"{key}-h"),
        ),
    )
    [entry] = answer.entries
    value = b"$256\n" + EVERY_BYTE
    assert entry.state is State.RESOLVED
    assert entry.payload == b"*6\n+OK\n" + value + b":256\n_\n:1\n*2\n$1\nf" + value
    await driver.redis.delete(key, f"{key}-h")


async def test_a_failing_command_ends_its_transaction_and_says_how_far_it_came(driver: Driver) -> None:
    lease = await driver.start("a")
    key = driver.own_key("key")
    answer = await driver.commit(
        lease, CommitAction.SUSPEND, transaction("1", ("SET", key, "v"), ("INCR", key), ("SET", key, "w")), timer("2")
    )
    [entry] = answer.entries
    assert entry.state is State.REJECTED
    assert b"command 2 (INCR) failed, 1 before it were carried out" in entry.payload
    assert await driver.redis.get(key) == b"v"
    assert "a~2" in await driver.timers()
    await driver.redis.delete(key)


async def test_a_transaction_cannot_touch_what_is_ours_nor_leave_the_database(driver: Driver) -> None:
    lease = await driver.start("a")
    before = await driver.snapshot()
    key = driver.own_key("key")
    refused: list[tuple[str, ...]] = [
        ("DEL", driver.keys.promise("a")),
        ("RENAME", key, driver.keys.timers),
        ("HSET", f"{{{driver.namespace}}}:meta", "schema", "9"),
        ("HSET", f"{{{driver.namespace}:7}}:promise:x", "s", "p"),
        ("FLUSHDB",),
        ("flushall",),
        ("SELECT", "1"),
        ("SWAPDB", "0", "1"),
        ("SADD", key, *(str(n) for n in range(8000))),
        (),
    ]
    for command in refused:
        with pytest.raises(UsageError, match=command[0] if len(command) == 1 else None):
            await driver.commit(lease, CommitAction.CONTINUE, step("1"), transaction("2", ("SET", key, "v"), command))
    assert await driver.snapshot() == before
    assert not await driver.redis.exists(key)


# -- garbage


@pytest.mark.leaves_keys("a queue of a wrong type")
async def test_a_parent_whose_queue_is_broken_is_halted_with_what_it_waited_for(driver: Driver) -> None:
    await driver.create("a", queue="broken")
    lease = await driver.take(queue="broken")
    away = StartChild(Number("1"), "g", b"", "workers", None, None)
    await driver.commit(lease, CommitAction.SUSPEND, away, child("2", "own"))
    await driver.redis.delete(driver.keys.queue("broken"))
    await driver.redis.set(driver.keys.queue("broken"), "garbage")
    result = await driver.take()
    await driver.commit(result, CommitAction.RESOLVE, payload=b"r")  # the child itself is well
    record = await driver.record("a")
    assert (await driver.halted(), record.place) == (["a"], Place.HALTED)
    assert "queue:broken holds a string, not a stream" in record.reason
    assert (await driver.entry("a", "1")).payload == b"r"
    # Mended and resumed, it goes on.
    await driver.redis.delete(driver.keys.queue("broken"))
    assert (await driver.control("resume", "a")).word == "resumed"
    await driver.join("broken")
    again = await driver.take(queue="broken")
    assert [one.number for one in (await driver.commit(again, CommitAction.SUSPEND)).entries] == ["1"]


@pytest.mark.leaves_keys("keys of a wrong type")
async def test_a_broken_relative_is_named_and_keeps_nobody_from_ending(driver: Driver) -> None:
    lease = await driver.start("a", inbox="one")
    await driver.commit(lease, CommitAction.CONTINUE, child("1"), child("2"))
    await driver.redis.set(driver.keys.promise("a~1"), "garbage")
    await driver.redis.delete(driver.keys.inbox("one"))
    await driver.redis.set(driver.keys.inbox("one"), "garbage")
    await driver.redis.set(driver.keys.wake, "garbage")
    await driver.redis.delete(driver.keys.recent)
    await driver.redis.set(driver.keys.recent, "garbage")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"done")
    assert (await driver.record("a")).value == b"done"
    assert (await driver.record("a~2")).state is State.CANCELED
    assert await driver.ttl_ms("a") > 0
    [name] = await driver.halted()
    assert name.startswith("closing:a~1: CORRUPT")


@pytest.mark.leaves_keys("keys of a wrong type")
async def test_what_an_op_would_break_on_is_found_before_the_first_write(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.redis.set(driver.keys.queue("broken"), "garbage")
    await driver.create("many", "g", queue="other")
    await driver.redis.hset(driver.keys.promise("many"), F["waiters"], "+")
    await driver.redis.set(driver.keys.waiters("many"), "garbage")
    for key in (driver.keys.promise("own"), driver.keys.promise("a~7"), driver.keys.halted):
        await driver.redis.set(key, "garbage")
    await driver.redis.hset(driver.keys.promise("a"), "8", "garbage")
    before = await driver.snapshot()
    broken = child("2", "own"), child("2", "many"), drop_kind(Kind.CHILD, "7"), step("8")
    for op in (StartChild(Number("2"), "g", b"", "broken", None, None), *broken):
        with pytest.raises(CorruptData, match=r"queue:broken|promise:own|waiters:many holds|promise:a~7|entry a~8"):
            await driver.commit(lease, CommitAction.SUSPEND, step("1"), op)
    with pytest.raises(CorruptData, match="halted"):
        await driver.commit(lease, CommitAction.HALT, timer("1"))
    assert await driver.snapshot() == before


@pytest.mark.leaves_keys("what nobody can tell to be alive or gone")
async def test_too_many_executions_that_wait_for_one_are_refused_before_they_are_lost(driver: Driver) -> None:
    await driver.create("own", "g")
    await driver.redis.hset(driver.keys.promise("own"), F["waiters"], "+")
    await driver.redis.set(driver.keys.promise("x"), "garbage")
    for first in range(0, LIMIT["promise_waiters_max"], 1000):
        await driver.redis.sadd(driver.keys.waiters("own"), *[f"p1 x~{n}" for n in range(first, first + 1000)])
    await driver.take()
    lease = await driver.start("a")
    with pytest.raises(NotAllowed, match="wait for own already"):
        await driver.commit(lease, CommitAction.SUSPEND, child("1", "own"))
    await driver.create("own", "g", inbox="late")  # which is a hint, and is answered
    assert not await driver.redis.sismember(driver.keys.waiters("own"), "ilate")
    assert await driver.place("a") is Place.QUEUED


# -- hints


async def test_a_running_execution_is_notified_through_the_inbox_of_its_holder(driver: Driver) -> None:
    lease = await driver.start("a", consumer=OTHER)
    await driver.beat(lease, consumer=OTHER)
    await driver.commit(lease, CommitAction.CONTINUE, StartPromise(Number("1"), "p", None), consumer=OTHER)
    await driver.settle("a~1")
    assert await driver.inbox(OTHER) == [{b"n": b"a"}]
    assert await driver.queued() == ["a"]  # in one place still


async def test_a_journal_is_loaded_as_of_its_order_in_pages(driver: Driver) -> None:
    lease = await driver.start("a")
    seen: Entry | None = None
    for first in range(1, 1000, 250):
        answer: Any = await driver.commit(
            lease, CommitAction.CONTINUE, *(step(str(n), b"x" * 20) for n in range(first, first + 250)), seen=seen
        )
        seen = answer.entries[-1]
    loaded = await driver.load("a")
    assert len(loaded.entries) == 1000
    assert max(entry.stamp for entry in loaded.entries.values()) == loaded.record.order


async def test_other_servers_are_asked_nothing_newer_than_they_know(server: Server, driver: Driver) -> None:
    assert server.version >= (6, 2)
    await driver.suspended("a", timer("1", PAST))
    assert (await driver.fire()).due == 1


# -- what leaves the front of a stream together


async def left_in_stream(driver: Driver) -> list[str]:
    return [entry.decode() for entry, _ in await driver.redis.xrange(driver.keys.queue("workers"))]


async def leave_together(driver: Driver, leases: list[Lease]) -> None:
    await asyncio.gather(*(driver.commit(lease, CommitAction.RESOLVE) for lease in leases))


async def test_those_that_are_the_oldest_leave_their_stream_together(driver: Driver) -> None:
    for number in range(10):
        await driver.create(f"a{number}")
    leases = await driver.read(8)
    await leave_together(driver, leases[:6])
    undelivered = await left_in_stream(driver)
    assert undelivered[:2] == [lease.entry for lease in leases[6:]]
    assert len(undelivered) == 4
    await leave_together(driver, [*leases[6:], *await driver.read(8)])
    assert await left_in_stream(driver) == []


async def test_what_another_worker_holds_among_them_stays(driver: Driver) -> None:
    for number in range(12):
        await driver.create(f"a{number}")
    first, theirs, second = await driver.read(5), await driver.read(2, consumer=OTHER), await driver.read(5)
    await leave_together(driver, [*first, *second])
    assert await left_in_stream(driver) == [lease.entry for lease in theirs]
    await asyncio.gather(*(driver.commit(lease, CommitAction.RESOLVE, consumer=OTHER) for lease in theirs))
    assert await left_in_stream(driver) == []


async def test_what_goes_on_in_front_of_them_stays(driver: Driver) -> None:
    for number in range(8):
        await driver.create(f"a{number}")
    oldest, *leases = await driver.read(8)
    await asyncio.gather(
        driver.commit(oldest, CommitAction.CONTINUE),
        *(driver.commit(lease, CommitAction.RESOLVE) for lease in leases[1:]),
    )
    assert await left_in_stream(driver) == [oldest.entry, leases[0].entry]
    await leave_together(driver, [oldest, leases[0]])
    assert await left_in_stream(driver) == []


async def test_the_oldest_leave_together_wherever_they_stand_among_the_others(driver: Driver) -> None:
    leases = await driver.start_all([f"a{number}" for number in range(8)])
    await leave_together(driver, [*leases[5:], *leases[:4]])
    assert await left_in_stream(driver) == [leases[4].entry]
