"""publish.lua, view.lua and the op ``publish``: what executions publish, and who is notified of it."""

from __future__ import annotations

import pytest

from durasleep.errors import CorruptData, Fenced, NotFound, UsageError
from durasleep.model import CommitAction, Kind, Number, PromiseId, Publish, StartTimer, State, StepResult
from durasleep.protocol import commit, streams, view
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT, VIEW, F
from durasleep.protocol.view import RawView
from durasleep.query import fsck
from tests.store.driver import FAR, OTHER, PAST, WORKER, Driver, child


async def publish(
    driver: Driver, lease: Lease, payload: bytes, *, number: str = "1", step: str = "1", consumer: str = WORKER
) -> None:
    await driver.store.call(commit.publish(driver.keys, consumer, lease, number, step, payload))


async def read(driver: Driver, id: str = "a", *, inbox: str = "") -> RawView:
    return await driver.store.call(view.read_view(driver.keys, PromiseId(id), inbox=inbox))


async def seen(driver: Driver, id: str = "a") -> dict[str | None, bytes]:
    """What is published, by step; under None that of the workflow."""
    found = await read(driver, id)
    steps: dict[str | None, bytes] = {step: one.payload for step, one in found.steps.items()}
    return steps | ({} if found.workflow is None else {None: found.workflow.payload})


async def told(driver: Driver, inbox: str) -> list[str]:
    """The ids of which an inbox was told, in order."""
    rows = await driver.redis.xrange(driver.keys.inbox(inbox))
    return [
        value.decode() for _, fields in rows for name, value in fields.items() if name == b"w"
    ]  # one change in each entry here


async def letters(driver: Driver, id: str = "a") -> bytes | None:
    return await driver.redis.hget(driver.keys.promise(id), F["extras"])


async def test_a_commit_publishes_what_the_workflow_says_and_the_last_word_counts(driver: Driver) -> None:
    lease = await driver.start("a")
    assert await seen(driver) == {}
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"one"), StartTimer(Number("1"), "", FAR))
    assert await seen(driver) == {None: b"one"}
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"two\n\t"))
    found = await read(driver)
    assert found.workflow is not None
    assert found.workflow.payload == b"two\n\t"
    assert found.workflow.at_ms > 0
    assert found.state is State.PENDING
    assert found.base == 0
    loaded = await driver.load("a")
    assert set(loaded.entries) == {"1"}, "it is no entry"
    await driver.commit(lease, CommitAction.RESOLVE, Publish(b"three"), payload=b"done")
    assert await seen(driver) == {None: b"three"}
    assert (await read(driver)).state is State.RESOLVED


async def test_the_first_word_may_come_with_the_end(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.RESOLVE, Publish(b"late"), payload=b"done")
    assert await seen(driver) == {None: b"late"}
    assert await driver.redis.pttl(driver.keys.view("a")) > 0


async def test_steps_and_tasks_publish_one_field_each(driver: Driver) -> None:
    lease = await driver.start("a")
    await publish(driver, lease, b"10 %")
    await publish(driver, lease, b"20 %")
    await publish(driver, lease, b"other", number="2.1", step="2")
    await driver.commit(lease, CommitAction.CONTINUE, StepResult(Number("1"), "s", State.RESOLVED, b"v"))
    await publish(driver, lease, b"late")
    assert await seen(driver) == {"1": b"20 %", "2": b"other"}
    op = Publish(b"100 %", step="1")
    await driver.commit(lease, CommitAction.CONTINUE, StepResult(Number("3"), "s", State.RESOLVED, b"v"), op)
    assert await seen(driver) == {"1": b"100 %", "2": b"other"}
    task = await driver.start("t")
    await publish(driver, task, b"half", step="")
    assert await seen(driver, "t") == {"": b"half"}


async def test_who_has_lost_the_lease_publishes_nothing(driver: Driver) -> None:
    lease = await driver.start("a")
    with pytest.raises(Fenced):
        await publish(driver, lease, b"x", consumer=OTHER)
    with pytest.raises(UsageError, match="entry number"):
        await publish(driver, lease, b"x", step="v")
    await driver.commit(lease, CommitAction.RETRY, due="+3600000")
    for late in (lease, driver.lease("nobody", lease.entry, 1)):
        with pytest.raises(Fenced):
            await publish(driver, late, b"x")
    assert await driver.redis.exists(driver.keys.view("a")) == 0
    assert await letters(driver) is None


async def test_it_does_not_count_as_a_sign_of_life(driver: Driver) -> None:
    """A step that publishes and kills its worker again and again is halted all the same."""
    lease = await driver.start("a")
    await driver.redis.hset(driver.keys.promise("a"), F["crash_count"], "2")
    await publish(driver, lease, b"x")
    assert await driver.redis.hget(driver.keys.promise("a"), F["crash_count"]) == b"2"


async def test_the_step_that_was_silent_longest_makes_room(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"w"))
    most = LIMIT["view_steps_max"]
    for number in range(1, most + 1):
        await publish(driver, lease, b"x", number=str(number), step=str(number))
    await driver.redis.hset(driver.keys.view("a"), f"{VIEW['step']}7", "5\tlong ago")
    await publish(driver, lease, b"x", number="1000", step="1000")
    expected = {None, "1000", *map(str, range(1, most + 1))} - {"7"}
    assert set(await seen(driver)) == expected


async def test_a_watcher_is_notified_once_until_it_reads_again(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.store.call(streams.open_inbox(driver.keys.inbox("me").encode()))
    assert (await read(driver, inbox="me")).is_watched
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"one"))
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"two"))
    assert await told(driver, "me") == ["a"]
    assert (await read(driver, inbox="me")).workflow is not None
    await publish(driver, lease, b"x")
    await publish(driver, lease, b"y")
    assert await told(driver, "me") == ["a", "a"]
    await read(driver, inbox="me")
    await read(driver, inbox="me")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"")
    assert await told(driver, "me") == ["a", "a", "a"], "of the end, too"
    assert not (await read(driver, inbox="me")).is_watched, "nothing will change any more"


async def test_who_watches_what_publishes_nothing_leaves_nothing_behind(driver: Driver) -> None:
    await driver.start("a")
    await read(driver, inbox="me")
    await read(driver, inbox="you")
    assert await letters(driver) == b"v"
    for inbox in ("me", "nobody", "you"):
        await driver.store.call(view.unwatch(driver.keys, PromiseId("a"), inbox))
    assert await letters(driver) is None
    assert await driver.redis.exists(driver.keys.view("a")) == 0
    lease = await driver.start("b")
    await read(driver, "b", inbox="me")
    await driver.commit(lease, CommitAction.RESOLVE, payload=b"")
    assert await letters(driver, "b") is None
    assert await driver.redis.exists(driver.keys.view("b")) == 0
    assert await told(driver, "me") == ["b"]


async def test_watchers_are_bounded_and_those_that_are_gone_make_room(driver: Driver) -> None:
    await driver.start("a")
    most = LIMIT["watchers_max"]
    for number in range(most):
        assert (await read(driver, inbox=f"in{number}")).is_watched
    assert not (await read(driver, inbox="late")).is_watched
    await driver.redis.delete(driver.keys.inbox("in3"), driver.keys.inbox("in4"))
    assert (await read(driver, inbox="late")).is_watched
    assert (await read(driver, inbox="later")).is_watched
    assert not (await read(driver, inbox="latest")).is_watched


async def test_it_is_kept_as_long_as_its_family(driver: Driver) -> None:
    parent = await driver.start("p", retention_ms=60_000)
    await driver.commit(parent, CommitAction.SUSPEND, child("1"))
    lease = await driver.take()
    await driver.commit(lease, CommitAction.RESOLVE, Publish(b"done"), payload=b"")
    assert await driver.redis.pttl(driver.keys.view("p~1")) == -1, "the parent may be replayed"
    parent = await driver.take()
    await driver.commit(parent, CommitAction.RESOLVE, payload=b"")
    for key in (driver.keys.view("p~1"), driver.keys.promise("p~1")):
        assert 0 < await driver.redis.pttl(key) <= 60_000


async def test_another_incarnation_begins_without_it(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.REJECT, Publish(b"x"), payload=b"")
    await driver.control("retry", "a")
    assert await seen(driver) == {}
    assert await letters(driver) is None
    lease = await driver.take()
    await driver.commit(lease, CommitAction.RESOLVE, Publish(b"y"), payload=b"")


async def test_the_next_run_has_another_base(driver: Driver) -> None:
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE_AS_NEW, Publish(b"x"), due="7", payload=b"args")
    assert (await read(driver)).base == 7


async def test_only_executions_have_a_view(driver: Driver) -> None:
    await driver.create("bare", kind=Kind.PROMISE)
    for id in ("bare", "nobody", "bare~1"):
        with pytest.raises(NotFound):
            await read(driver, id)


async def test_a_key_of_another_program_stops_nothing(driver: Driver) -> None:
    await driver.redis.set(driver.keys.view("a"), "theirs")
    lease = await driver.start("a")
    await driver.commit(lease, CommitAction.CONTINUE, Publish(b"x"), StartTimer(Number("1"), "", PAST))
    await publish(driver, lease, b"x", number="5", step="5")
    assert (await read(driver, inbox="me")).workflow is None
    await driver.redis.hset(driver.keys.promise("a"), F["extras"], "v")
    with pytest.raises(CorruptData):
        await read(driver)
    await driver.redis.delete(driver.keys.view("a"))
    assert await seen(driver) == {}
    await driver.redis.hdel(driver.keys.promise("a"), F["extras"])


async def test_a_value_that_is_no_view_is_refused(driver: Driver) -> None:
    lease = await driver.start("a")
    await publish(driver, lease, b"x")
    await driver.redis.hset(driver.keys.view("a"), f"{VIEW['step']}1", "nothing of ours")
    with pytest.raises(CorruptData):
        await read(driver)
    await publish(driver, lease, b"x")


async def test_fsck_finds_views_without_owners_and_owners_without_views(driver: Driver) -> None:
    async def findings(*, repair: bool = False) -> list[tuple[str, str]]:
        report = await driver.store.run(fsck.fsck(driver.store.keyspaces, repair=repair))
        return sorted((one.kind, one.id) for one in report.findings)

    ended = await driver.start("ended")
    await driver.commit(ended, CommitAction.RESOLVE, Publish(b"x"), payload=b"")
    await driver.suspended("a", Publish(b"x"), StartTimer(Number("1"), "", FAR))
    await driver.suspended("b", Publish(b"x"), StartTimer(Number("1"), "", FAR))
    await driver.suspended("c", Publish(b"x"), StartTimer(Number("1"), "", FAR))
    assert await findings() == []
    await driver.redis.hset(driver.keys.view("gone"), VIEW["workflow"], "1\tx")
    await driver.redis.delete(driver.keys.view("a"))
    await driver.redis.hdel(driver.keys.promise("b"), F["extras"])
    await driver.redis.pexpire(driver.keys.view("c"), 60_000)
    await driver.redis.persist(driver.keys.view("ended"))
    wrong = sorted(
        [
            *(("view", id) for id in ("gone", "a", "b")),
            ("expiring", driver.keys.view("c")),
            ("kept", driver.keys.view("ended")),
        ]
    )
    assert await findings() == wrong
    assert await findings(repair=True) == wrong
    assert await findings() == []
    assert await letters(driver, "b") == b"v"
    assert await letters(driver) is None
    assert await driver.redis.pttl(driver.keys.view("ended")) > 0
