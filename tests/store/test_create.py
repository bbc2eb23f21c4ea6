"""create.lua: executions and bare promises are made once, whoever asks, however often."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio

from durasleep.errors import CorruptData, NotFound, OtherFunction, StoreError, UsageError
from durasleep.model import DUE_MS_MAX, CommitAction, Disposition, Due, Kind, Place, PromiseId, State
from durasleep.protocol import promises
from durasleep.protocol.keys import F
from durasleep.traits import Traits
from harness.servers import FAKE, MakeServer, Server
from tests.store.driver import FAR, PAST, Driver, child

EVERY_BYTE = bytes(range(256))


async def test_a_new_execution_is_queued_under_its_first_epoch(driver: Driver) -> None:
    created = await driver.create("a", args=EVERY_BYTE)
    assert (created.disposition, created.state, created.place) == (
        Disposition.CREATED,
        State.PENDING,
        Place.QUEUED,
    )
    assert await driver.place("a") is Place.QUEUED
    record = await driver.record("a")
    assert (record.epoch, record.args, record.function, record.incarnation) == (1, EVERY_BYTE, "f", created.incarnation)


async def test_a_new_execution_takes_no_more_room_than_it_needs(driver: Driver) -> None:
    """What is as nearly always is not written."""
    await driver.create("a")
    needed = {"func", "args", "incarnation", "idempotency_key", "place", "epoch", "entry"}
    assert {name.decode() for name in await driver.redis.hkeys(driver.keys.promise("a"))} == {
        F[name] for name in needed
    }


async def test_a_repeated_create_changes_nothing_and_answers_the_same(driver: Driver) -> None:
    first = await driver.create("a", idempotency_key="mine", inbox="client-1", deadline=FAR, start=FAR)
    before = await driver.snapshot()
    assert await driver.create("a", idempotency_key="mine", inbox="client-1", deadline=FAR, start=FAR) == first
    assert await driver.snapshot() == before
    assert (await driver.create("a", idempotency_key="other")).disposition is Disposition.ATTACHED


async def test_a_create_repeated_after_the_end_answers_created_with_the_outcome(driver: Driver) -> None:
    lease = await driver.start("a", idempotency_key="mine")
    await driver.commit(lease, CommitAction.RESOLVE, payload=EVERY_BYTE)
    repeated = await driver.create("a", idempotency_key="mine")
    assert (repeated.disposition, repeated.state, repeated.value) == (Disposition.CREATED, State.RESOLVED, EVERY_BYTE)
    assert (await driver.create("a", idempotency_key="other")).disposition is Disposition.FINISHED


async def test_a_used_id_with_another_function_is_refused_and_nothing_is_written(driver: Driver) -> None:
    await driver.create("a", "f")
    before = await driver.snapshot()
    with pytest.raises(OtherFunction, match=r"id a belongs to function f, not to function g"):
        await driver.create("a", "g")
    with pytest.raises(OtherFunction, match="not to a promise"):
        await driver.create("a", kind=Kind.PROMISE)
    assert await driver.snapshot() == before


async def test_a_delayed_execution_starts_when_it_is_due_and_not_before(driver: Driver) -> None:
    await driver.create("later", start=FAR)
    await driver.create("now", start=PAST)
    assert await driver.place("later") is Place.DELAYED
    fired = await driver.fire()
    assert (fired.due, fired.next_due_ms) == (1, (await driver.record("later")).due_ms)
    assert await driver.place("later") is Place.DELAYED
    assert await driver.place("now") is Place.QUEUED


async def test_dues_are_computed_by_the_server_and_end_with_the_year_9999(driver: Driver) -> None:
    before_ms = (await driver.fire()).server_us // 1000
    await driver.create("soon", kind=Kind.TIMER, deadline=Due("+5000"))
    after_ms = (await driver.fire()).server_us // 1000 + 1
    await driver.create("never", kind=Kind.TIMER, deadline=Due(f"+{10**18}"))
    timers = await driver.timers()
    assert before_ms + 5000 <= timers["soon~timeout"] <= after_ms + 5000
    assert timers["never~timeout"] == DUE_MS_MAX
    with pytest.raises(UsageError, match="due soon"):
        await driver.create("wrong", start=Due("soon"))
    with pytest.raises(AssertionError):
        await driver.load("wrong")


async def test_a_promise_settles_by_its_deadline_timers_resolve_others_time_out(driver: Driver) -> None:
    await driver.create("timer", kind=Kind.TIMER, deadline=PAST)
    await driver.create("promise", kind=Kind.PROMISE, deadline=PAST)
    assert (await driver.fire()).due == 2
    assert (await driver.record("timer")).state is State.RESOLVED
    assert (await driver.record("promise")).state is State.TIMEDOUT
    assert await driver.timers() == {}


async def test_each_waiting_inbox_is_told_once_with_the_value(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE, inbox="one")
    for who in ("two", "two", "one"):
        await driver.store.call(promises.attach(driver.keys, PromiseId("p"), inbox=who))
    await driver.settle("p", value=EVERY_BYTE)
    incarnation = str((await driver.record("p")).incarnation).encode()
    for who in ("one", "two"):
        assert await driver.inbox(who) == [{b"i": b"p", b"b": incarnation, b"s": b"r", b"v": EVERY_BYTE}]
    assert (await driver.record("p")).value == EVERY_BYTE


async def test_a_large_value_is_left_for_its_reader_to_fetch(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE, inbox="one")
    await driver.settle("p", value=b"x" * 65_537)
    [told] = await driver.inbox("one")
    assert b"v" not in told
    assert len((await driver.record("p")).value) == 65_537


async def test_an_inbox_that_is_gone_is_not_made_again(driver: Driver) -> None:
    await driver.create("p", kind=Kind.PROMISE, inbox="one")
    await driver.redis.delete(driver.keys.inbox("one"))
    await driver.settle("p")
    assert not await driver.redis.exists(driver.keys.inbox("one"))


async def test_attaching_to_nothing_is_not_found(driver: Driver) -> None:
    with pytest.raises(NotFound, match="no promise nobody"):
        await driver.store.call(promises.attach(driver.keys, PromiseId("nobody"), inbox="one"))
    assert await driver.snapshot() == {}


async def test_only_a_timer_that_is_now_the_earliest_wakes_the_firers(driver: Driver) -> None:
    last_wakes: list[bytes] = []
    for id, due in (("a", "+60000"), ("b", "+70000"), ("c", "+50000")):
        await driver.create(id, kind=Kind.TIMER, deadline=Due(due))
        last_wakes.append((await driver.fire()).last_wake)
    assert last_wakes[0] == last_wakes[1] != last_wakes[2]
    [(_, hint)] = await driver.redis.xrange(driver.keys.wake)
    assert int(hint[b"d"]) == (await driver.timers())["c~timeout"]


@pytest.mark.leaves_keys("keys of a wrong type are left as they are")
@pytest.mark.parametrize("kind", ["promise", "queue", "timers"])
async def test_a_key_that_holds_something_else_refuses_the_create_and_is_left_alone(driver: Driver, kind: str) -> None:
    key = {"promise": driver.keys.promise("a"), "queue": driver.keys.queue("workers"), "timers": driver.keys.timers}[
        kind
    ]
    await driver.redis.set(key, "garbage")
    before = await driver.snapshot()
    for start, deadline in ((FAR, None), (None, FAR)) if kind == "timers" else ((None, FAR),):
        with pytest.raises(CorruptData, match=kind):
            await driver.create("a", start=start, deadline=deadline)
    assert await driver.snapshot() == before


@pytest.mark.leaves_keys("a hash of somebody else")
@pytest.mark.parametrize("fields", [{"x": "1"}, {"s": "p"}, {"s": "p", "k": "e", "b": "birth", "g": "workers"}])
async def test_a_hash_that_is_not_a_promise_is_named(driver: Driver, fields: dict[str, str]) -> None:
    await driver.redis.hset(driver.keys.promise("a"), mapping=fields)
    with pytest.raises(CorruptData, match="promise:a"):
        await driver.create("a")
    with pytest.raises(CorruptData, match="promise:a"):
        await driver.create("a", inbox="one", idempotency_key="again")


async def test_who_does_not_wait_is_nowhere_among_those_who_do(driver: Driver) -> None:
    for _ in range(2):
        await driver.create("a")
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["waiters"])
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.create("a", inbox="one")
    assert not await driver.redis.hexists(driver.keys.promise("a"), F["waiters"])
    assert await driver.redis.exists(driver.keys.inbox(""), driver.keys.inbox("one")) == 0


async def test_a_full_server_refuses_creates_whole_and_lets_what_runs_finish(
    server: Server, make_server: MakeServer, namespace: str
) -> None:
    if server.kind == FAKE:
        pytest.skip("fakeredis has no memory limit")
    client: Any = redis.asyncio.Redis.from_url(make_server().url)
    driver = Driver(client, namespace)
    hasty = Driver(client, namespace, patience_s=0.1)  # a full server is asked again until the patience ends
    async with driver.store.opened(), hasty.store.opened():
        await driver.suspended("sleeper")
        lease = await driver.start("runs", inbox="one", deadline=FAR)
        await driver.create("waits", kind=Kind.PROMISE)
        await driver.create("timer", kind=Kind.TIMER, deadline=PAST)
        await driver.create("halts")
        await client.config_set("maxmemory", 1)
        before = await driver.snapshot()
        refused: list[dict[str, Any]] = [
            {},
            {"start": FAR},
            {"kind": Kind.PROMISE},
            {"kind": Kind.TIMER, "deadline": FAR},
        ]
        for options in refused:
            with pytest.raises(StoreError, match="maxmemory"):
                await hasty.create("new", inbox="one", **options)
        assert await driver.snapshot() == before
        # Each of the others is let through.
        await driver.beat(lease)
        assert (await driver.fire()).due == 1
        await driver.settle("waits", value=b"v")
        await driver.control("halt", "halts", reason="a person")
        await driver.commit(lease, CommitAction.RESOLVE, payload=b"done")
        await driver.control("force", "sleeper")
        assert not (await driver.reclaim()).alive
        assert (await driver.record("runs")).value == b"done"
        assert (await driver.record("timer")).state is State.RESOLVED
        assert await driver.place("halts") is Place.HALTED
        await client.config_set("maxmemory", 0)
        await driver.create("new")
    await client.aclose()


async def test_arguments_come_back_whole_whatever_their_size(driver: Driver) -> None:
    for size in (0, 1, 64, 65, 128, 1000, 1024, 1025, 5000):
        args = bytes(n % 251 for n in range(size))
        await driver.create(f"a-{size}", args=args)
        assert (await driver.record(f"a-{size}")).args == args


async def test_a_hash_with_some_arguments_stays_in_one_piece(server: Server, driver: Driver) -> None:
    if server.kind == FAKE:
        pytest.skip("fakeredis has no encodings")
    await driver.create("a", args=b"x" * 1000)
    assert await driver.redis.object("ENCODING", driver.keys.promise("a")) in (b"listpack", b"ziplist")


async def test_the_next_run_has_only_its_own_arguments(driver: Driver) -> None:
    lease = await driver.start("a", args=b"x" * 500)
    for args in (b"y" * 100, b"z" * 900, b"w"):
        await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, payload=args, due="7")
        assert (await driver.record("a")).args == args
        lease = await driver.take()


async def test_a_debounced_one_starts_no_later_than_its_longest(driver: Driver) -> None:
    late, longest = Due("+60000"), Traits(mode="sd90000").words()
    await driver.create("a", args=b"1", start=late, traits=longest)
    made = await driver.create("a", args=b"2", start=late, traits=longest)
    assert made.disposition is Disposition.DEBOUNCED
    record = await driver.record("a")
    assert record.args == b"2"
    assert record.due_ms <= record.created_ms + 90_000
    assert (await driver.timers())["a~start"] == record.due_ms
    await driver.create("a", args=b"3" * 300, start=Due("+3600000"), traits=longest)
    record = await driver.record("a")
    assert (record.due_ms, record.args) == (record.created_ms + 90_000, b"3" * 300)
    await driver.create("a", args=b"4", start=late, traits=longest)
    assert (await driver.record("a")).args == b"4", "nothing of longer arguments is left"


async def test_a_repeated_call_begins_nothing_anew(driver: Driver) -> None:
    """The answer to the first one was lost, and what it began has ended meanwhile."""
    again = Traits(mode="s").words()
    await driver.create("a", idempotency_key="first", traits=again)
    await driver.commit(await driver.take(), CommitAction.RESOLVE, payload=b"v")
    repeated = await driver.create("a", idempotency_key="first", traits=again)
    assert (repeated.disposition, repeated.state, repeated.value) == (Disposition.CREATED, State.RESOLVED, b"v")
    other = await driver.create("a", idempotency_key="other", traits=again)
    assert (other.disposition, other.state) == (Disposition.CREATED, State.PENDING)
    assert other.incarnation > repeated.incarnation
    assert await driver.ttl_ms("a") == -1


async def test_what_begins_anew_leaves_nothing_of_its_family(driver: Driver) -> None:
    again = Traits(mode="s").words()
    await driver.create("a", traits=again)
    await driver.commit(await driver.take(), CommitAction.SUSPEND, child("1"))
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.commit(await driver.take(), CommitAction.RESOLVE)
    await driver.fire_all()
    await driver.create("a", traits=again)
    assert -1 != await driver.ttl_ms("a~1") <= 1, "it is gone, or nearly"
    await driver.control("force", "a")
