"""note.lua: a running attempt keeps data for the next one, under the fence of its lease."""

from __future__ import annotations

import pytest

from durasleep.errors import Fenced, UsageError
from durasleep.model import Checkpoint, CommitAction, Number, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol import commit, journal
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import F
from durasleep.query import fsck
from tests.store.driver import OTHER, PAST, WORKER, Driver


async def note(
    driver: Driver, lease: Lease, payload: bytes, *, number: str = "1", first: str = "1", consumer: str = WORKER
) -> None:
    await driver.store.call(commit.note(driver.keys, consumer, lease, number, first, payload))


async def kept(driver: Driver, id: str = "a") -> dict[str, bytes]:
    loaded = await driver.store.run(journal.load(driver.keys, PromiseId(id)))
    assert loaded is not None
    return loaded.checkpoints


def step(number: str = "1", state: State = State.RESOLVED) -> StepResult:
    return StepResult(Number(number), "step", state, b"v")


async def test_later_data_replaces_earlier_data_and_whoever_loads_it_finds_it(driver: Driver) -> None:
    lease = await driver.start("a")
    assert await kept(driver) == {}
    await note(driver, lease, b"one")
    await note(driver, lease, b"two")
    await note(driver, lease, b"other", number="2.1", first="2")
    assert await kept(driver) == {"1": b"two", "2": b"other"}
    ops = [StartPromise(Number(str(n)), "", None) for n in range(3, 600)]
    await driver.commit(lease, CommitAction.CONTINUE, *ops)
    assert await kept(driver) == {"1": b"two", "2": b"other"}, "its journal has several pages"


async def test_who_has_lost_the_lease_keeps_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    with pytest.raises(Fenced):
        await note(driver, lease, b"x", consumer=OTHER)
    await driver.commit(lease, CommitAction.RETRY, due="+3600000")
    for late in (lease, driver.lease("nobody", lease.entry, 1)):
        with pytest.raises(Fenced):
            await note(driver, late, b"x")
    await driver.control("wake", "a")
    again = await driver.take()
    with pytest.raises(Fenced):
        await note(driver, lease, b"x")
    with pytest.raises(UsageError, match="entry number"):
        await note(driver, again, b"x", first="v")
    assert await kept(driver) == {}
    await note(driver, again, b"x")
    await driver.commit(again, CommitAction.RESOLVE, Checkpoint(Number("1")))
    assert F["checkpoint"] + "1" not in {name.decode() for name in await driver.redis.hkeys(driver.keys.promise("a"))}


async def test_what_an_ended_attempt_keeps_comes_too_late(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, step())
    await note(driver, lease, b"late")
    assert await kept(driver) == {}


async def test_the_end_of_an_attempt_keeps_it_or_ends_it(driver: Driver) -> None:
    lease = await driver.start("a")
    await note(driver, lease, b"one")
    await driver.commit(lease, CommitAction.CONTINUE, step(state=State.REJECTED), Checkpoint(Number("1"), b"two"))
    assert await kept(driver) == {"1": b"two"}
    await driver.commit(lease, CommitAction.CONTINUE, step("1.2"), Checkpoint(Number("1")))
    assert await kept(driver) == {}


async def test_a_wake_up_loads_it(driver: Driver) -> None:
    """A stream entry does not carry it, so it carries nothing."""
    lease = await driver.start("a")
    await note(driver, lease, b"one")
    await driver.commit(lease, CommitAction.SUSPEND, StartTimer(Number("2"), "", PAST))
    await driver.fire()
    await driver.take()
    [(_, fields)] = await driver.redis.xrange(driver.keys.queue("workers"))
    assert b"x" not in fields
    assert await kept(driver) == {"1": b"one"}


async def test_the_next_run_and_the_next_incarnation_find_nothing(driver: Driver) -> None:
    for id, more in (("small", 1), ("large", 100)):
        lease = await driver.start(id)
        await note(driver, lease, b"one")
        ops = [StartPromise(Number(str(n)), "", None) for n in range(2, more + 2)]
        await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, *ops, due=str(more + 1), payload=b"args")
        assert await kept(driver, id) == {}
        lease = await driver.take_of(id)
        await note(driver, lease, b"two", number="200", first="200")
        await driver.control("force", id)
        while (await driver.control("retry", id)).word == "closing":
            pass
        assert await kept(driver, id) == {}
        await driver.control("force", id)
    await driver.fire()


async def test_fsck_finds_what_a_resolved_step_has_left(driver: Driver) -> None:
    lease = await driver.start("a")
    await note(driver, lease, b"one")
    await driver.commit(lease, CommitAction.SUSPEND, step(), StartPromise(Number("2"), "", None))
    report = await driver.store.run(fsck.fsck(driver.store.keyspaces))
    assert [(one.kind, one.id) for one in report.findings] == [("checkpoint", "a~1")]
    assert (await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=True))).is_clean
    assert await kept(driver) == {}
