"""The span that has asked for an execution stands in its hash and comes with its entry."""

from __future__ import annotations

import pytest

from durasleep.model import CommitAction, Due, Number, PromiseId, StartChild, StartTimer, TracePoint
from durasleep.protocol import promises
from durasleep.protocol.foreign import _parse_traits, write_traits  # pyright: ignore[reportPrivateUsage]
from durasleep.protocol.keys import F
from durasleep.traits import Traits
from durasleep.worker.loops.task_reader import _lease  # pyright: ignore[reportPrivateUsage]
from tests.store.driver import Driver

FIRST, LATER = "A" * 33 + "Q", "-_09" + "z" * 29 + "A"
PAST = Due("=1")
TIMER = StartTimer(Number("1"), "", PAST)


async def told(driver: Driver, id: str) -> tuple[str, str]:
    """Trace and labels, as the entry of a queued execution tells them."""
    record = await driver.record(id)
    [(entry, fields)] = await driver.redis.xrange(driver.keys.queue(record.queue), record.entry, record.entry)
    lease = _lease(0, record.queue, entry, [one for pair in fields.items() for one in pair], is_new=True)
    assert lease.snapshot
    assert lease.trace == record.trace
    return lease.trace, lease.labels


@pytest.mark.parametrize("labels", [{}, {"customer": "7"}])
async def test_a_trace_stays_and_comes_with_each_entry(driver: Driver, labels: dict[str, str]) -> None:
    await driver.create("a", trace=FIRST, traits=Traits(labels=labels).words())
    said = (await driver.record("a")).labels
    assert await told(driver, "a") == (FIRST, said)
    await driver.commit(await driver.take(), CommitAction.SUSPEND, TIMER)
    await driver.fire()
    assert await told(driver, "a") == (FIRST, said)
    ops = (StartTimer(Number("2"), "", PAST), TracePoint(LATER, is_later=True))
    await driver.commit(await driver.take(), CommitAction.SUSPEND, *ops, seen=await driver.entry("a", "1"))
    await driver.fire()
    assert await told(driver, "a") == (f"{FIRST} {LATER}", said)
    assert set((await driver.load("a")).entries) == {"1", "2"}, "it is no entry"


@pytest.mark.parametrize(("is_later", "trace"), [(False, LATER), (True, f" {LATER}")])
async def test_a_worker_may_begin_one(driver: Driver, is_later: bool, trace: str) -> None:
    await driver.create("a")
    assert await told(driver, "a") == ("", "")
    await driver.commit(await driver.take(), CommitAction.RETRY, TracePoint(LATER, is_later), due=PAST)
    await driver.fire()
    assert (await told(driver, "a"))[0] == trace
    await driver.commit(await driver.take(), CommitAction.CONTINUE_AS_NEW, payload=b"", due="7")
    assert (await driver.record("a")).trace == trace


async def test_an_execution_without_a_trace_has_no_more_fields_than_before(driver: Driver) -> None:
    await driver.create("a")
    fields = await driver.redis.hkeys(driver.keys.promise("a"))
    assert not {F["trace"].encode(), F["trace_now"].encode()} & set(fields)


@pytest.mark.parametrize("traits", ["", Traits(priority=2).words()])
async def test_children_have_the_trace_of_their_call(driver: Driver, traits: str) -> None:
    lease = await driver.start("a", trace=FIRST)
    child = StartChild(Number("1"), "f", b"", None, None, None, traits=traits, trace=LATER)
    own = StartChild(Number("2"), "f", b"", None, None, PromiseId("own"), detached=True, trace=LATER)
    without = StartChild(Number("3"), "f", b"", None, None, None, traits=traits)
    await driver.commit(lease, CommitAction.SUSPEND, child, own, without)
    found = [(await driver.record(id)).trace for id in ("a~1", "own", "a~3")]
    assert found == [LATER, LATER, ""]


async def test_a_retry_begins_a_trace_of_its_own(driver: Driver) -> None:
    lease = await driver.start("a", trace=FIRST)
    await driver.commit(lease, CommitAction.CONTINUE, TracePoint(LATER, is_later=True))
    await driver.commit(lease, CommitAction.REJECT, payload=b"no")
    await driver.control("retry", "a")
    assert (await driver.record("a")).trace == ""


@pytest.mark.parametrize("traits", ["", Traits(priority=2, labels={"customer": "7"}).words()])
async def test_a_relay_of_an_earlier_version_passes_a_trace_on_unread(driver: Driver, traits: str) -> None:
    """Between partitions it is a number among the traits, where its scripts expect one."""
    words = write_traits(traits, LATER)
    assert _parse_traits(words) == (traits or promises.NO_TRAITS, LATER)
    assert _parse_traits(traits) == (traits, "")
    assert _parse_traits(promises.NO_TRAITS + "9" * 80) == (promises.NO_TRAITS + "9" * 80, "")
    await driver.create("a", traits=words)
    again = await driver.create("a", traits=words)
    assert (await driver.record("a")).trace == ""
    assert again.disposition == "attached"
