"""control.lua: what a person does to what is pending, in each place it may be in."""

from __future__ import annotations

import pytest

from durasleep.errors import CorruptData, Fenced, NotAllowed, NotFound, UsageError
from durasleep.model import CANCEL, CommitAction, Due, Kind, Number, Place, PromiseId, StartPromise, StartTimer, State
from durasleep.protocol import promises
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, F
from durasleep.query import control
from durasleep.query.audit import latest
from tests.service.workers import eventually
from tests.store.driver import FAR, OTHER, PAST, Driver, child


async def put(driver: Driver, place: str) -> Lease | None:
    """Bring execution ``a`` into a place."""
    match place:
        case "queued":
            await driver.create("a")
        case "delayed":
            await driver.create("a", start=FAR)
        case _:
            lease = await driver.start("a")
            await driver.beat(lease)
            ops = [StartTimer(Number("1"), "nap", FAR), StartPromise(Number("2"), "p", None)]
            if place == "running":
                await driver.commit(lease, CommitAction.CONTINUE, *ops)
                return lease
            outcome = {"suspended": CommitAction.SUSPEND, "retrying": CommitAction.RETRY, "halted": CommitAction.HALT}[
                place
            ]
            await driver.commit(lease, outcome, *ops, payload=b"why", due="+3600000")
    return None


async def test_what_is_done_by_somebody_is_in_the_audit_if_it_has_changed_anything(driver: Driver) -> None:
    await driver.create("a")
    control = promises.control
    await driver.store.call(control(driver.keys, "halt", PromiseId("a"), reason="why", by="ada"))
    await driver.store.call(control(driver.keys, "resume", PromiseId("a"), by="grace"))
    await driver.store.call(control(driver.keys, "resume", PromiseId("a"), by="grace"))
    await driver.control("halt", "a")  # by nobody
    with pytest.raises(NotFound):
        await driver.store.call(control(driver.keys, "halt", PromiseId("b"), by="ada"))
    found = await driver.store.run(latest(driver.store.keyspaces, limit=10, since=None))
    assert [(one.by, one.verb, one.id, one.word) for one in found] == [
        ("grace", "resume", "a", "resumed"),
        ("ada", "halt", "a", "halted"),
    ]


async def test_an_audit_that_cannot_be_written_fails_nothing(driver: Driver) -> None:
    await driver.create("a")
    await driver.redis.set(driver.keys.audit, "of another program", px=60_000)
    answer = await driver.store.call(promises.control(driver.keys, "halt", PromiseId("a"), by="ada"))
    assert answer.word == "halted"
    await driver.redis.delete(driver.keys.audit)


PLACES = ("queued", "running", "suspended", "delayed", "retrying", "halted")


@pytest.mark.parametrize("place", PLACES)
async def test_cancel_ends_at_once_what_has_no_code_to_tell(driver: Driver, place: str) -> None:
    lease = await put(driver, place)
    answer = await driver.control("cancel", "a")
    if place in ("running", "suspended"):
        assert (answer.word, answer.state) == ("canceling", State.PENDING)
        assert await driver.place("a") is Place.QUEUED
        before = await driver.snapshot()
        assert (await driver.control("cancel", "a")).word == "canceling"  # told once
        assert await driver.snapshot() == before
        lease = lease or await driver.take()
        answered = await driver.commit(lease, CommitAction.SUSPEND)
        assert [entry.number for entry in answered.entries] == [CANCEL]
        # It may go on to clean up, and then says so.
        await driver.commit(lease, CommitAction.CANCEL, seen=answered.entries[0])
    else:
        words = {"queued": "canceled", "halted": "canceled while halted"}
        assert answer.word == words.get(place, "canceled while delayed")
    assert (await driver.record("a")).state is State.CANCELED
    assert await driver.place("a") is None
    assert await driver.timers() == {}
    assert (await driver.control("cancel", "a")).word == "already"


async def test_cancel_notifies_the_worker_that_runs_it(driver: Driver) -> None:
    lease = await put(driver, "running")
    await driver.control("cancel", "a")
    [told] = await driver.inbox("w1/aaaaaaaa")
    assert told == {b"n": b"a"}
    assert lease is not None
    beat = await driver.beat(lease)
    assert beat.orders["a"] == (await driver.entry("a", CANCEL)).stamp


async def test_who_picks_up_what_was_canceled_in_the_queue_knows_of_it(driver: Driver) -> None:
    """Its entry may tell what was before the cancel, so it gets a new one, once, of which nothing is told."""
    await driver.suspended("a", StartTimer(Number("1"), "", PAST))
    await driver.fire()
    old = await driver.record("a")
    for _ in range(2):
        told = await driver.control("cancel", "a")
        assert told.word == "canceling"
    assert await driver.place("a") is Place.QUEUED
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert b"x" not in fields
    lease = await driver.take()
    assert (lease.id, lease.epoch) == ("a", old.epoch + 1)
    assert lease.entry != old.entry
    assert Number("0") in (await driver.load("a")).entries
    await driver.commit(lease, CommitAction.CANCEL)


async def test_what_a_person_ends_is_kept_as_long_as_it_says(driver: Driver) -> None:
    await driver.create("a", retention_ms=60_000)
    await driver.create("p", kind=Kind.PROMISE, retention_ms=60_000)
    for id in ("a", "p"):
        await driver.control("force", id)
        await driver.assert_kept_together(id, retention_ms=60_000)


async def test_among_the_latest_endings_a_child_has_begun_when_it_was_asked_for(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.another_life()
    await driver.commit(lease, CommitAction.CONTINUE, child("1"))
    await driver.control("force", "a~1")
    record = await driver.record("a~1")
    assert record.created_ms > record.incarnation
    [(_, ending), *_] = await driver.redis.xrevrange(driver.keys.recent)
    assert (ending[b"i"], int(ending[b"c"])) == (b"a~1", record.created_ms)


async def test_a_cancel_that_meets_an_ending_changes_nothing(driver: Driver) -> None:
    lease = await put(driver, "running")
    await driver.control("cancel", "a")
    assert lease is not None
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"done")
    record = await driver.record("a")
    assert (record.state, record.value) == (State.RESOLVED, b"done")


@pytest.mark.parametrize("place", PLACES)
async def test_force_settles_in_any_place_and_takes_the_family_along(driver: Driver, place: str) -> None:
    lease = await put(driver, place)
    if lease:
        await driver.commit(lease, CommitAction.CONTINUE, child("3"))
    assert (await driver.control("force", "a")).word == "canceled"
    assert await driver.place("a") is None
    assert await driver.timers() == {}
    assert await driver.queued() == []
    assert await driver.halted() == []
    await driver.assert_kept_together("a", *(["a~3"] if lease else []))
    before = await driver.snapshot()
    assert (await driver.control("force", "a")).word == "already"
    assert await driver.snapshot() == before


@pytest.mark.parametrize("place", PLACES)
async def test_halt_and_resume_from_any_place(driver: Driver, place: str) -> None:
    await put(driver, place)
    assert (await driver.control("halt", "a", reason="look at this")).word == "halted"
    assert await driver.place("a") is Place.HALTED
    before = await driver.snapshot()
    assert (await driver.control("halt", "a", reason="again")).word == "halted"
    assert await driver.snapshot() == before
    reason = (await driver.record("a")).reason
    assert reason == ("why" if place == "halted" else "look at this")
    assert (await driver.control("resume", "a")).word == "resumed"
    assert await driver.place("a") is Place.QUEUED
    record = await driver.record("a")
    assert (record.reason, record.due_ms) == ("", 0)
    before = await driver.snapshot()
    assert (await driver.control("resume", "a")).word == "running"
    assert await driver.snapshot() == before


async def test_a_halted_execution_hears_after_resume_what_happened_meanwhile(driver: Driver) -> None:
    await put(driver, "halted")
    await driver.settle("a~2", value=b"v")
    await driver.control("resume", "a")
    answer = await driver.commit(await driver.take(), CommitAction.SUSPEND)
    assert [(entry.number, entry.payload) for entry in answer.entries] == [("2", b"v")]


@pytest.mark.parametrize("place", ["delayed", "retrying"])
async def test_wake_starts_what_is_delayed_and_can_be_repeated(driver: Driver, place: str) -> None:
    await put(driver, place)
    assert (await driver.control("wake", "a")).word == "woken"
    assert await driver.place("a") is Place.QUEUED
    before = await driver.snapshot()
    assert (await driver.control("wake", "a")).word == "already"
    assert await driver.snapshot() == before


async def test_wake_resolves_a_running_sleep_early(driver: Driver) -> None:
    await put(driver, "suspended")
    assert (await driver.control("wake", "a~1")).word == "woken"
    assert (await driver.entry("a", "1")).state is State.RESOLVED
    assert await driver.place("a") is Place.QUEUED
    assert await driver.timers() == {}
    assert (await driver.control("wake", "a~1")).word == "already"
    await driver.create("t", kind=Kind.TIMER, deadline=FAR)
    assert [(await driver.control("wake", "t")).word for _ in range(2)] == ["woken", "already"]


async def test_reschedule_moves_a_sleep_a_start_and_a_deadline(driver: Driver) -> None:
    await put(driver, "suspended")
    await driver.create("d", start=FAR)
    await driver.create("e", deadline=FAR)
    await driver.create("t", kind=Kind.TIMER, deadline=FAR)
    members = {"a~1": "a~1", "d": "d~start", "e": "e~timeout", "t": "t~timeout"}
    for id, member in members.items():
        last_wake = (await driver.fire()).last_wake
        for _ in range(2):
            await driver.control("reschedule", id, due=Due("=9000000000000"))
        assert (await driver.timers())[member] == 9_000_000_000_000
        await driver.control("reschedule", id, due=PAST)
        fired = await driver.fire()
        assert fired.due == 1, id
        assert fired.last_wake > last_wake
    assert await driver.queued() == ["a", "d"]
    assert (await driver.record("e")).state is State.TIMEDOUT
    assert (await driver.record("t")).state is State.RESOLVED
    for id in ("a~1", "e", "t"):
        assert (await driver.control("reschedule", id, due=FAR)).word == "already"


async def test_cancel_of_a_sleep_wakes_its_workflow_with_that(driver: Driver) -> None:
    await put(driver, "suspended")
    for id in ("a~1", "a~2"):
        assert (await driver.control("cancel", id)).word == "canceled"
        assert (await driver.control("cancel", id)).word == "already"
    assert await driver.timers() == {}
    assert await driver.place("a") is Place.QUEUED
    answer = await driver.commit(await driver.take(), CommitAction.SUSPEND)
    assert [entry.state for entry in answer.entries] == [State.CANCELED] * 2


async def test_what_does_not_apply_is_refused_with_a_reason_and_nothing_is_written(driver: Driver) -> None:
    await put(driver, "suspended")
    await driver.create("p", kind=Kind.PROMISE)
    before = await driver.snapshot()
    for action, id, error in (
        ("wake", "a~2", "is not a timer"),
        ("wake", "p", "not asleep"),
        ("reschedule", "a~2", "has no due time"),
        ("halt", "p", "is not an execution"),
        ("halt", "a~1", "is not an execution"),
        ("resume", "p", "is not an execution"),
    ):
        with pytest.raises(NotAllowed, match=error):
            await driver.control(action, id, due=FAR)
    for action in ("wake", "reschedule", "cancel", "force", "halt", "resume"):
        for id in ("nobody", "a~9", "nobody~1"):
            with pytest.raises(NotFound, match=id):
                await driver.control(action, id, due=FAR)
    assert await driver.snapshot() == before


@pytest.mark.leaves_keys("a queue of a wrong type")
async def test_a_broken_queue_refuses_to_resume_but_not_to_end(driver: Driver) -> None:
    await driver.create("a", queue="other")
    await driver.control("halt", "a")
    await driver.redis.set(driver.keys.queue("other"), "garbage")
    before = await driver.snapshot()
    with pytest.raises(CorruptData, match="queue:other"):
        await driver.control("resume", "a")
    assert await driver.snapshot() == before
    assert (await driver.control("cancel", "a")).word == "canceled while halted"


@pytest.mark.leaves_keys("keys of a wrong type")
async def test_what_could_not_be_carried_out_is_refused_before_the_first_write(driver: Driver) -> None:
    await driver.create("a", queue="other", start=FAR)
    for key in (driver.keys.queue("other"), driver.keys.halted):
        await driver.redis.set(key, "garbage")
    before = await driver.snapshot()
    for action, named in (("wake", "queue:other"), ("halt", "halted")):
        with pytest.raises(CorruptData, match=named):
            await driver.control(action, "a")
    assert await driver.snapshot() == before


@pytest.mark.leaves_keys("a key of a wrong type")
async def test_what_is_halted_ends_even_where_its_name_cannot_be_removed(driver: Driver) -> None:
    await put(driver, "halted")
    await driver.redis.delete(driver.keys.halted)
    await driver.redis.set(driver.keys.halted, "garbage")
    assert (await driver.control("cancel", "a")).word == "canceled while halted"
    assert (await driver.record("a")).state is State.CANCELED


@pytest.mark.leaves_keys("a hash of somebody else")
async def test_what_has_ended_before_it_was_made_is_none_of_ours(driver: Driver) -> None:
    await driver.redis.hset(driver.keys.promise("a"), F["state"], "r")
    with pytest.raises(CorruptData, match="promise:a is not a promise of ours"):
        await driver.control("force", "a")


async def test_what_has_ended_is_neither_halted_nor_resumed(driver: Driver) -> None:
    await driver.commit(await driver.start("a"), CommitAction.REJECT)
    before = await driver.snapshot()
    for action in ("halt", "resume"):
        answer = await driver.control(action, "a")
        assert (answer.word, answer.state) == ("already", State.REJECTED)
    assert await driver.snapshot() == before


async def test_of_a_journal_promises_and_timers_are_canceled_by_themselves(driver: Driver) -> None:
    await driver.create("own", "g")
    await driver.take()
    ops = (StartTimer(Number("1"), "", FAR), StartPromise(Number("2"), "p", FAR), child("3", "own"))
    await driver.suspended("a", *ops)
    assert (await driver.control("force", "a~1")).word == "canceled"
    assert (await driver.control("cancel", "a~2")).word == "canceled"
    for action in ("cancel", "force"):
        with pytest.raises(NotAllowed, match="a~3 cannot be canceled by itself"):
            await driver.control(action, "a~3")
    assert await driver.timers() == {}
    states = {number: entry.state for number, entry in (await driver.load("a")).entries.items()}
    assert states == {"1": State.CANCELED, "2": State.CANCELED, "3": State.PENDING}


async def test_a_member_of_a_family_whose_head_is_gone_is_still_controlled(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.redis.delete(driver.keys.promise("a"))
    assert (await driver.control("halt", "a~1")).word == "halted"
    assert (await driver.control("force", "a~1")).word == "canceled"


async def test_the_worker_of_a_halted_execution_is_fenced_and_the_next_one_is_not(driver: Driver) -> None:
    lease = await put(driver, "running")
    await driver.control("halt", "a")
    await driver.control("resume", "a")
    again = await driver.take(consumer=OTHER)
    assert lease is not None
    assert again.epoch == lease.epoch + 1
    assert (await driver.beat(lease)).lost == [lease.entry_key]
    await driver.commit(again, CommitAction.RESOLVE, consumer=OTHER)


async def test_an_execution_may_be_canceled_by_its_own_child(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.SUSPEND, child("1"))
    inner = await driver.take()
    await driver.control("cancel", "a~1")
    assert (await driver.record("a")).state is State.PENDING
    answer = await driver.commit(inner, CommitAction.SUSPEND)
    await driver.commit(inner, CommitAction.CANCEL, seen=answer.entries[0])
    assert (await driver.entry("a", "1")).state is State.CANCELED
    assert await driver.redis.hget(driver.keys.promise("a"), F["place"]) == b"q"


async def test_an_execution_that_sleeps_is_left_alone_and_said_to_be_asleep(driver: Driver) -> None:
    """Its timers are controlled under their own ids, so that a repeated call never ends the next sleep."""
    await put(driver, "suspended")
    before = await driver.snapshot()
    for action in ("wake", "reschedule"):
        answer = await driver.control(action, "a", due=PAST)
        assert (answer.word, answer.state) == ("asleep", State.PENDING)
    assert await driver.snapshot() == before


@pytest.mark.parametrize("place", ["running", "queued", "halted"])
async def test_what_is_not_asleep_has_no_sleep_to_move(driver: Driver, place: str) -> None:
    await put(driver, place)
    before = await driver.snapshot()
    with pytest.raises(NotAllowed, match="a has nothing to reschedule"):
        await driver.control("reschedule", "a", due=FAR)
    if place == "halted":
        with pytest.raises(NotAllowed, match="a is not asleep"):
            await driver.control("wake", "a")
    else:
        assert (await driver.control("wake", "a")).word == "already"
    assert await driver.snapshot() == before


async def test_the_only_timer_of_a_sleeper_is_controlled_by_a_plan(driver: Driver) -> None:
    await put(driver, "suspended")
    moved = await driver.store.run(control.apply(driver.keys, "reschedule", "a", due=7200))
    assert moved.word == "rescheduled"
    assert (await driver.entry("a", "1")).due_ms == (await driver.timers())["a~1"]
    assert (await driver.store.run(control.apply(driver.keys, "wake", "a"))).word == "woken"
    assert await driver.place("a") is Place.QUEUED
    assert await driver.timers() == {}
    assert (await driver.store.run(control.apply(driver.keys, "wake", "a"))).word == "already"


# -- retry


@pytest.mark.parametrize("end", [CommitAction.REJECT, CommitAction.CANCEL, "timedout"])
async def test_what_has_failed_begins_anew_as_another_life(driver: Driver, end: CommitAction | str) -> None:
    lease = await driver.start("a", args=b"x" * 200, deadline=FAR, idempotency_key="call", retention_ms=60_000)
    await driver.commit(lease, CommitAction.CONTINUE, StartTimer(Number("1"), "nap", FAR))
    before = await driver.record("a")
    if isinstance(end, CommitAction):
        await driver.commit(lease, end, payload=b"why")
    else:
        await driver.redis.hset(driver.keys.promise("a"), F["deadline"], "1")
        await driver.redis.zadd(driver.keys.timers, {"a~timeout": 1})
        await driver.fire()
        await driver.redis.hset(driver.keys.promise("a"), F["deadline"], str(before.deadline_ms))
    assert await driver.place("a") is None
    assert (await driver.control("retry", "a")).word == "retrying"
    assert (await driver.control("retry", "a")).word == "running"  # its answer may have been lost
    loaded = await driver.load("a")
    assert (loaded.record.state, loaded.record.value, loaded.entries) == (State.PENDING, b"", {})
    assert (loaded.record.function, loaded.record.args, loaded.record.queue) == ("f", b"x" * 200, "workers")
    assert loaded.record.incarnation > before.incarnation
    assert loaded.record.deadline_ms - loaded.record.incarnation == before.deadline_ms - before.incarnation
    assert await driver.timers() == {"a~timeout": loaded.record.deadline_ms}
    assert await driver.place("a") is Place.QUEUED
    assert await driver.ttl_ms("a") == -1
    # Who still holds the old life is fenced, whatever it wants to say.
    for outcome in (CommitAction.SUSPEND, CommitAction.RESOLVE):
        with pytest.raises(Fenced):
            await driver.commit(lease, outcome)
    anew = await driver.take()
    assert anew.epoch > lease.epoch
    await driver.commit(anew, CommitAction.RESOLVE, payload=b"done")
    assert (await driver.record("a")).value == b"done"
    assert await driver.ttl_ms("a") <= 60_000
    with pytest.raises(NotAllowed, match="has not failed"):
        await driver.control("retry", "a")


@pytest.mark.leaves_keys("keys of a wrong type")
async def test_what_cannot_begin_anew_is_left_as_it_has_failed(driver: Driver) -> None:
    await driver.commit(await driver.start("a"), CommitAction.REJECT)
    for key in (driver.keys.queue("workers"), driver.keys.closing):
        kept = await driver.redis.dump(key)
        await driver.redis.delete(key)
        await driver.redis.set(key, "garbage")
        before = await driver.snapshot()
        with pytest.raises(CorruptData, match=key.partition(":")[2]):
            await driver.control("retry", "a")
        assert await driver.snapshot() == before
        await driver.redis.delete(key)
        if kept:
            await driver.redis.restore(key, 0, kept)


async def test_another_life_is_later_whatever_the_clock_shows(driver: Driver) -> None:
    await driver.commit(await driver.start("a"), CommitAction.REJECT)
    later = (await driver.record("a")).incarnation + 3_600_000
    await driver.redis.hset(driver.keys.promise("a"), F["incarnation"], later)
    await driver.redis.zadd(driver.keys.closing, {"a": 1})
    assert (await driver.control("retry", "a")).word == "retrying"
    record = await driver.record("a")
    assert record.incarnation == later + 1
    assert record.created_ms < later
    assert await driver.redis.exists(driver.keys.closing) == 0


async def test_what_is_halted_is_not_tried_again_but_resumed(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.HALT, payload=b"why")
    assert (await driver.control("retry", "a")).word == "halted"
    assert await driver.place("a") is Place.HALTED


async def test_the_family_of_a_life_that_is_over_goes_and_the_next_one_has_its_own(driver: Driver) -> None:
    """However long its journal is: each call forgets a part of it."""
    lease = await driver.start("a")
    count = 2 * LIMIT["family_max"] + 10
    await driver.commit(lease, CommitAction.CONTINUE, *(child(str(n)) for n in range(1, count)))
    await driver.commit(lease, CommitAction.CONTINUE, child(str(count), "shared"))
    [first, *_] = await driver.read(count)
    await driver.commit(first, CommitAction.RESOLVE, payload=b"old")
    await driver.commit(lease, CommitAction.REJECT, payload=b"why")
    words: list[str] = []
    while "retrying" not in words:
        words.append((await driver.control("retry", "a")).word)
    assert set(words[:-1]) == {"closing"}
    assert words[:-1]
    anew = await driver.take()
    assert anew.id == "a"
    await driver.commit(anew, CommitAction.SUSPEND, child("1"))
    await driver.fire_all()
    assert (await driver.record("a~1")).incarnation == (await driver.record("a")).incarnation

    async def are_gone() -> bool:  # they are kept for another millisecond
        return [await driver.store.load(PromiseId(f"a~{n}")) for n in (2, count - 1)] == [None, None]

    await eventually(are_gone, "the old family to be gone")
    assert (await driver.record("shared")).state is State.PENDING
    await driver.commit(await driver.take(), CommitAction.RESOLVE, payload=b"new")
    assert (await driver.entry("a", "1")).payload == b"new"
    for id in ("a", "shared"):
        await driver.control("force", id)


async def test_only_an_execution_of_its_own_that_has_failed_is_tried_again(driver: Driver) -> None:
    await driver.suspended("a", child("1"))
    await driver.commit(await driver.take(), CommitAction.REJECT, payload=b"why")
    await driver.create("p", kind=Kind.PROMISE)
    await driver.settle("p", State.REJECTED)
    for id, error, text in (
        ("a~1", NotAllowed, "a part of a: retry that"),
        ("p", NotAllowed, "not an execution"),
        ("nobody", NotFound, "no promise"),
    ):
        with pytest.raises(error, match=text):
            await driver.control("retry", id)
    assert (await driver.control("retry", "a")).word == "running"
    await driver.control("force", "a")


async def test_what_ends_and_begins_again_in_one_call_is_kept(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.SUSPEND, child("1"), StartTimer(Number("2"), "", FAR))
    actions = [promises.control(driver.keys, action, PromiseId("a")) for action in ("force", "retry")]
    assert [answer.word for answer in await driver.store.ask(actions)] == ["canceled", "retrying"]
    await driver.fire_all()
    assert await driver.ttl_ms("a") == -1
    assert (await driver.record("a")).place is Place.QUEUED

    async def child_is_gone() -> bool:
        return not await driver.redis.exists(driver.keys.promise("a~1"))

    await eventually(child_is_gone, "its child to be gone")
    assert await driver.timers() == {}
    await driver.control("force", "a")


# -- what was quarantined


async def test_a_name_that_was_looked_at_is_discarded_once(driver: Driver) -> None:
    await driver.create("pending")
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    for name in ("queue:workers:1-1: CORRUPT", "broken", "pending"):
        await driver.redis.zadd(driver.keys.halted, {name: 1})
        for word in ("discarded", "already"):
            answer = await driver.control("discard", name)
            assert (answer.word, answer.state) == (word, State.RESOLVED)
    assert await driver.halted() == []
    await driver.redis.delete(driver.keys.promise("broken"))


async def test_an_execution_that_is_halted_is_no_name_to_discard(driver: Driver) -> None:
    await put(driver, "halted")
    before = await driver.snapshot()
    with pytest.raises(NotAllowed, match="a is an execution: resume or cancel it"):
        await driver.control("discard", "a")
    with pytest.raises(UsageError, match="action nonsense"):
        await driver.control("nonsense", "a")
    assert await driver.snapshot() == before
