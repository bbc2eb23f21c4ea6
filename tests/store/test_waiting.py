"""Who waits for a promise: few or very many, who gives up, and who is gone without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from durasleep.model import CancelEntry, CommitAction, Kind, Number, Place, PromiseId, StartTimer, State
from durasleep.protocol import commit, streams
from durasleep.protocol.keys import LIMIT, F
from harness.servers import Server
from tests.store.driver import FAR, PAST, Driver, child

SINGLE = "single"
MANY = 1500


async def waiting(driver: Driver) -> list[str]:
    """Who waits for the single one, wherever that is kept."""
    text = (await driver.redis.hget(driver.keys.promise(SINGLE), F["waiters"]) or b"").decode()
    if text == "+":
        return sorted([one.decode() for one in await driver.redis.smembers(driver.keys.waiters(SINGLE))])
    return text.splitlines()


async def wait_as(driver: Driver, id: str) -> commit.Lease:
    """An execution that waits for the single one beside a timer."""
    lease = await driver.start(id)
    await driver.commit(lease, CommitAction.SUSPEND, child("1", SINGLE), StartTimer(Number("2"), "", FAR))
    return lease


async def wait_as_many(driver: Driver, ids: Sequence[str]) -> None:
    leases = await driver.start_all(ids)
    await driver.commit_all(leases, CommitAction.SUSPEND, child("1", SINGLE), StartTimer(Number("2"), "", FAR))


async def commands_run(driver: Driver) -> int:
    """So far, by this server, those of scripts among them."""
    stats = await driver.redis.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name != "cmdstat_info")


async def single(driver: Driver) -> commit.Lease:
    await driver.create(SINGLE, "g")
    return await driver.take()


async def give_up(driver: Driver, id: str, outcome: CommitAction, due: str = "") -> None:
    """Its timer has won."""
    await driver.control("wake", f"{id}~2")
    lease = await driver.take()
    seen = await driver.entry(id, "2")
    loser = CancelEntry(Number("1"), Kind.CHILD, "g")
    ops = (loser,) if outcome is CommitAction.SUSPEND else ()
    await driver.commit(lease, outcome, *ops, StartTimer(Number("3"), "", FAR), seen=seen, due=due)


@pytest.mark.parametrize(
    ("outcome", "due"), [(CommitAction.SUSPEND, ""), (CommitAction.RESOLVE, ""), (CommitAction.CONTINUE_AS_NEW, "4")]
)
@pytest.mark.parametrize("others", [0, 100])
async def test_who_waits_no_longer_is_removed(driver: Driver, outcome: CommitAction, due: str, others: int) -> None:
    lease = await single(driver)
    if others:
        await wait_as_many(driver, [f"other-{number}" for number in range(others)])
    before = await waiting(driver)
    await wait_as(driver, "a")
    assert len(await waiting(driver)) == others + 1
    await give_up(driver, "a", outcome, due)
    assert await waiting(driver) == before
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    await driver.fire_all()
    assert await driver.redis.exists(driver.keys.waiters(SINGLE)) == 0
    for number in range(others):
        assert (await driver.entry(f"other-{number}", "1")).payload == b"v"


async def test_races_that_are_lost_again_and_again_leave_nothing(driver: Driver) -> None:
    await single(driver)
    for number in range(50):
        await wait_as(driver, f"a{number}")
        await driver.control("force", f"a{number}")
    assert await waiting(driver) == []


async def test_very_many_wait_and_all_of_them_hear(driver: Driver) -> None:
    lease = await single(driver)
    await driver.create(SINGLE, "g", inbox="reader")
    ids = [f"a{number}" for number in range(MANY)]
    await wait_as_many(driver, ids)
    assert len(await waiting(driver)) == MANY + 1
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    await driver.fire_all()
    for record in await asyncio.gather(*map(driver.record, ids)):
        assert (record.place, record.unseen) == (Place.QUEUED, {"1"})
    [told] = await driver.inbox("reader")
    assert told[b"v"] == b"v"
    assert await driver.redis.exists(driver.keys.waiters(SINGLE)) == 0
    assert not await driver.redis.hexists(driver.keys.promise(SINGLE), F["waiters"])


async def test_who_comes_last_costs_as_much_as_who_came_first(real_server: Server, namespace: str) -> None:
    driver = Driver(real_server.client(), namespace)
    counts: list[int] = []
    kept: list[int] = []
    async with driver.store.opened():
        await single(driver)
        for lease in await driver.start_all([f"a{number}" for number in range(600)]):
            before = await commands_run(driver)
            await driver.commit(lease, CommitAction.SUSPEND, child("1", SINGLE))
            counts.append(await commands_run(driver) - before)
            kept.append(await driver.redis.hstrlen(driver.keys.promise(SINGLE), F["waiters"]))
    assert max(kept) <= LIMIT["waiters_bytes_max"]
    assert max(counts[300:]) <= counts[0] + 12


async def test_inboxes_whose_readers_are_gone_make_room(driver: Driver) -> None:
    lease = await single(driver)
    for start in range(0, 2000, 50):
        inboxes = [f"inbox{number:05}" for number in range(start, start + 50)]
        await asyncio.gather(*(driver.create(SINGLE, "g", inbox=inbox) for inbox in inboxes))
        await driver.redis.delete(*map(driver.keys.inbox, inboxes))
    await driver.create(SINGLE, "g", inbox="living")
    assert "iliving" in await waiting(driver)
    assert len(await waiting(driver)) < 100
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    [told] = await driver.inbox("living")
    assert told[b"v"] == b"v"


async def test_who_waits_twice_is_one_whatever_its_name(driver: Driver) -> None:
    await single(driver)
    for _ in range(2):
        await driver.create(SINGLE, "g", inbox="one-a+b.c")
    assert await waiting(driver) == ["ione-a+b.c"]
    for inbox, left in (("unknown", ["ione-a+b.c"]), ("one-a+b.c", [])):
        await driver.store.call(streams.unwait(driver.keys, PromiseId(SINGLE), inbox))
        assert await waiting(driver) == left
    assert not await driver.redis.hexists(driver.keys.promise(SINGLE), F["waiters"])


@pytest.mark.leaves_keys("those who are gone, and who nobody can tell to be alive or gone")
async def test_where_the_list_is_full_those_who_are_gone_make_room(driver: Driver) -> None:
    await single(driver)
    await driver.create(SINGLE, "g", inbox="living")
    await wait_as(driver, "a")
    here, inbox = (await waiting(driver))[::-1]
    await driver.suspended("settled", StartTimer(Number("1"), "", PAST))
    await driver.fire()
    await driver.take()
    await driver.suspended("ended", StartTimer(Number("1"), "", FAR))
    lives = {id: (await driver.record(id)).incarnation for id in ("a", "settled", "ended")}
    await driver.redis.hset(driver.keys.promise("ended"), F["state"], "r")
    await driver.redis.set(driver.keys.promise("broken"), "garbage")
    left = [inbox, here, "znewer", "p1 broken~1"]
    gone = [
        f"p{lives['settled']} settled~1",
        f"p{lives['ended']} ended~1",
        f"p{lives['a']} a~9",
        "p1 a~1",
        "p1 nobody~1",
    ]
    lines = [*gone, "pgarbage", *left]
    field = "".join(f"{line}\n" for line in lines)
    field = "igone\n" * ((LIMIT["waiters_bytes_max"] - len(field)) // len("igone\n")) + field
    await driver.redis.hset(driver.keys.promise(SINGLE), F["waiters"], field)
    await wait_as(driver, "b")
    assert await waiting(driver) == [*left, f"p{(await driver.record('b')).incarnation} b~1"]


async def test_hundreds_of_inboxes_are_told_and_none_is_turned_away(driver: Driver) -> None:
    lease = await single(driver)
    inboxes = [f"i{number}" for number in range(700)]
    await asyncio.gather(*(driver.create(SINGLE, "g", inbox=inbox) for inbox in inboxes))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    assert await driver.redis.zcard(driver.keys.closing) == 1  # not all of them by one call
    await driver.fire_all()
    for inbox in inboxes:
        assert [told[b"v"] for told in await driver.inbox(inbox)] == [b"v"]


@pytest.mark.parametrize(("payload_bytes", "entries"), [(10, 1), (10_000, 4)])
async def test_what_one_inbox_is_told_is_one_entry_unless_it_is_much(
    driver: Driver, payload_bytes: int, entries: int
) -> None:
    leases = await driver.start_all(["a", "b", "c", "d"], inbox="reader")
    calls = [driver.commit(lease, CommitAction.RESOLVE, payload=b"x" * payload_bytes) for lease in leases]
    await asyncio.gather(*calls)
    assert len(await driver.inbox("reader")) == entries


async def test_a_client_that_gives_up_is_removed_and_others_are_not(driver: Driver) -> None:
    await single(driver)
    for number in range(80):
        await driver.create(SINGLE, "g", inbox=f"inbox{number:05}")
    await driver.store.call(streams.unwait(driver.keys, PromiseId(SINGLE), "inbox00003"))
    await driver.store.call(streams.unwait(driver.keys, PromiseId(SINGLE), "unknown"))
    await driver.store.call(streams.unwait(driver.keys, PromiseId("nobody"), "inbox00003"))
    assert "iinbox00003" not in await waiting(driver)
    assert len(await waiting(driver)) == 79


async def test_a_long_list_as_it_was_kept_before_is_taken_over(driver: Driver) -> None:
    """All of them in one field."""
    lease = await single(driver)
    for number in range(40):
        await wait_as(driver, f"a{number}")
    old = "".join(f"{line}\n" for line in await waiting(driver)) + "".join(f"igone{n}\n" for n in range(300))
    await driver.redis.delete(driver.keys.waiters(SINGLE))
    await driver.redis.hset(driver.keys.promise(SINGLE), F["waiters"], old)
    await wait_as(driver, "b")
    assert await driver.redis.hget(driver.keys.promise(SINGLE), F["waiters"]) == b"+"
    await driver.redis.hset(
        driver.keys.promise(SINGLE), F["waiters"], old + f"p{(await driver.record('b')).incarnation} b~1\n"
    )
    await driver.redis.delete(driver.keys.waiters(SINGLE))
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    await driver.fire_all()
    for id in (*[f"a{number}" for number in range(40)], "b"):
        assert (await driver.entry(id, "1")).state is State.RESOLVED


async def test_two_that_one_execution_asks_for_at_once_are_both_told(driver: Driver) -> None:
    """Whoever is not written yet is not taken for one that is gone."""
    lease = await single(driver)
    asking = await driver.start("a")
    await driver.commit(asking, CommitAction.SUSPEND, *[child(str(number), SINGLE) for number in range(1, 101)])
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"v")
    await driver.fire_all()
    entries: Any = (await driver.load("a")).entries
    assert {entry.state for entry in entries.values()} == {State.RESOLVED}


@pytest.mark.leaves_keys("a set of a wrong type")
async def test_who_gives_up_is_answered_where_those_who_wait_cannot_be_read(driver: Driver) -> None:
    await single(driver)
    await driver.redis.hset(driver.keys.promise(SINGLE), F["waiters"], "+")
    await driver.redis.set(driver.keys.waiters(SINGLE), "garbage")
    await driver.store.call(streams.unwait(driver.keys, PromiseId(SINGLE), "reader"))
    assert await driver.redis.get(driver.keys.waiters(SINGLE)) == b"garbage"
