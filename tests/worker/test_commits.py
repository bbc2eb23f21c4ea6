"""What is due is committed at the end of the turn, together; what fails fails alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from durasleep.errors import Fenced, NotAllowed, StoreFull
from durasleep.model import CommitAction, Number, Op, Place, PromiseId, StartTimer, State
from durasleep.protocol.command import BatchItem
from durasleep.protocol.commit import Committed, Lease
from durasleep.protocol.keys import F
from durasleep.protocol.versions import CHANNELS
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connector import Connector
from durasleep.transport.store import Store
from durasleep.worker.execution import commits
from durasleep.worker.execution.commits import Commits
from durasleep.worker.execution.held import HeldExecution
from tests.service.workers import eventually
from tests.store.driver import FAR, OTHER, WORKER, Driver
from tests.worker.clock import HeldClock

HoldClock = Callable[[ModuleType], HeldClock]


class Work:
    """What is done with one execution: it commits what it is given, and notes what it is answered."""

    ending: State | None = None

    def __init__(self, all: Committing, running: HeldExecution, *says: BatchItem[Committed] | Exception | None) -> None:
        self.running = running
        self.answers: list[Committed] = []
        self.fails_with: Exception | None = None
        self._all = all
        self._says = list(says)
        running.work = self

    def commit(self) -> BatchItem[Committed] | None:
        self._all.order.append(f"commit {self.running.lease.id}")
        said = self._says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def take(self, answer: Committed) -> None:
        self._all.order.append(f"take {self.running.lease.id}")
        if self.fails_with:
            raise self.fails_with
        self.answers.append(answer)

    def take_back(self) -> bool:
        return False

    def close(self) -> None: ...


async def _nothing(_feature: str) -> None:
    """Nothing is needed."""


class Committing:
    """Commits of one worker, and what became of them in order."""

    def __init__(self, driver: Driver, settings: Settings = DEFAULTS) -> None:
        self.driver = driver
        self.order: list[str] = []
        self.failed: list[tuple[HeldExecution, Exception]] = []
        self.has_older = False
        """Whether a worker of an older version is alive."""
        self.commits = Commits(driver.store, WORKER, settings, self._fail, lambda: "some", self._require)

    async def _require(self, feature: str) -> None:
        if self.has_older:
            raise NotAllowed("there is an older worker")
        self.driver.store.partitions.features.add(feature)

    def _fail(self, running: HeldExecution, error: Exception) -> None:
        self.failed.append((running, error))

    async def running(self, id: str) -> HeldExecution:
        lease = await self.driver.start(id)
        return HeldExecution(lease, lease.entry_key, is_kept=False)

    async def work(self, id: str, *outcomes: CommitAction) -> Work:
        """One that commits these, one after the other."""
        running = await self.running(id)
        return Work(self, running, *[self.commits.item(running.lease, outcome) for outcome in outcomes])

    async def answered(self, *works: Work) -> None:
        await eventually(lambda: all(work.answers for work in works), "all to be answered")


@pytest.fixture
def committing(driver: Driver) -> Committing:
    return Committing(driver)


# -- at the end of a turn


async def test_all_that_is_due_in_one_turn_is_committed_together(committing: Committing, driver: Driver) -> None:
    """In the order of the stream, each once, however often it is asked for."""
    works = [await committing.work(id, CommitAction.RESOLVE) for id in "abc"]
    before = await driver.calls()
    for work in (*reversed(works), works[0]):
        committing.commits.due(work.running)
        assert work.running.is_due
    assert committing.order == []
    await committing.answered(*works)
    assert committing.order == ["commit a", "commit b", "commit c", "take a", "take b", "take c"]
    assert await driver.calls() == before + 1
    for work in works:
        assert not work.running.is_due
        assert not work.running.is_committing
        assert (await driver.record(work.running.lease.id)).state == "resolved"


async def test_of_many_each_call_has_so_many(driver: Driver) -> None:
    committing = Committing(driver, replace(DEFAULTS, batch_items_max=2))
    works = [await committing.work(id, CommitAction.RESOLVE) for id in "abcde"]
    for work in works:
        committing.commits.due(work.running)
    await committing.answered(*works)
    assert committing.order[:5] == [f"commit {id}" for id in "abcde"]
    assert sorted(committing.order[5:]) == [f"take {id}" for id in "abcde"]


async def test_until_a_commit_is_answered_there_is_no_other(committing: Committing) -> None:
    work = await committing.work("a", CommitAction.CONTINUE, CommitAction.RESOLVE)
    committing.commits.due(work.running)
    await asyncio.sleep(0)
    assert work.running.is_committing
    committing.commits.due(work.running)
    assert not work.running.is_due
    await committing.answered(work)
    committing.commits.due(work.running)
    await eventually(lambda: len(work.answers) == 2, "the second")
    assert committing.order == ["commit a", "take a"] * 2


async def test_one_that_has_nothing_to_say_may_have_later(committing: Committing) -> None:
    running = await committing.running("a")
    Work(committing, running, None, None)
    for count in (1, 2):
        committing.commits.due(running)
        await asyncio.sleep(0)
        assert committing.order == ["commit a"] * count
        assert not running.is_committing


@pytest.mark.parametrize("when", ["before it is asked", "before its turn", "before the answer"])
@pytest.mark.parametrize("what", ["gone", "without work"])
async def test_one_that_is_not_in_hand_any_more_is_passed_over(committing: Committing, when: str, what: str) -> None:
    work, other = await committing.work("a", CommitAction.RESOLVE), await committing.work("b", CommitAction.RESOLVE)

    def let_go() -> None:
        if what == "gone":
            work.running.is_gone = True
        else:
            work.running.work = None

    if when == "before it is asked":
        let_go()
    committing.commits.due(work.running)
    committing.commits.due(other.running)
    assert work.running.is_due is (what != "gone" or when != "before it is asked")
    if when == "before its turn":
        let_go()
    await asyncio.sleep(0)
    if when == "before the answer":
        let_go()
    await committing.answered(other)
    assert committing.failed == []
    said = ["commit a"] if when == "before the answer" else []
    assert committing.order == [*said, "commit b", "take b"]
    assert not work.running.is_committing
    await committing.driver.control("force", "a")


async def test_what_fails_fails_alone(committing: Committing) -> None:
    wrong, late = await committing.running("wrong"), await committing.running("late")
    Work(committing, wrong, ValueError("wrong"))
    stale = structs.replace(late.lease, epoch=99)
    Work(committing, late, committing.commits.item(stale, CommitAction.RESOLVE))
    failing, well = (
        await committing.work("failing", CommitAction.CONTINUE),
        await committing.work("well", CommitAction.RESOLVE),
    )
    failing.fails_with = ValueError("failing")
    for running in (wrong, late, failing.running, well.running):
        committing.commits.due(running)
    await committing.answered(well)
    assert [(running.lease.id, type(error)) for running, error in committing.failed] == [
        ("wrong", ValueError),
        ("late", Fenced),
        ("failing", ValueError),
    ]
    assert not any(running.is_committing for running, _ in committing.failed)


async def test_what_cannot_be_sent_fails_for_all_it_was_sent_with(committing: Committing, driver: Driver) -> None:
    works = [await committing.work(id, CommitAction.RESOLVE) for id in "ab"]
    for work in works:
        committing.commits.due(work.running)
    await asyncio.sleep(0)
    await driver.store.aclose(StoreFull("closed"))
    await eventually(lambda: len(committing.failed) == 2, "both to fail")
    assert [(running.lease.id, str(error)) for running, error in committing.failed] == [
        ("a", "closed"),
        ("b", "closed"),
    ]


async def test_what_a_worker_that_leaves_has_asked_for_is_heard_by_nobody(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    work = await committing.work("a", CommitAction.RESOLVE)
    committing.commits.due(work.running)
    await asyncio.sleep(0)
    await driver.store.aclose()
    await asyncio.sleep(0)
    assert (work.answers, committing.failed, caplog.text) == ([], [], "")


@pytest.mark.parametrize("ids", ["ab", "abc", "abcd"])
async def test_code_that_takes_long_lets_the_loop_go_on_between_two_answers(
    committing: Committing, hold_clock: HoldClock, ids: str
) -> None:
    """Five milliseconds in one turn; a last one needs no other."""
    clock = hold_clock(commits)
    works = [await committing.work(id, CommitAction.RESOLVE) for id in ids]
    loop = asyncio.get_running_loop()
    turns: list[int] = []
    count = 0

    def turn() -> None:
        nonlocal count
        count += 1
        loop.call_soon(turn)

    for work in works:
        work.running.work = Slow(work, lambda: (turns.append(count), clock.move(0.003))[0])
        committing.commits.due(work.running)
    await asyncio.sleep(0)
    turn()
    await committing.answered(*works)
    assert [number - turns[0] for number in turns] == [0, 0, 1, 1][: len(ids)]


class Slow:
    """Takes its time with an answer."""

    ending: State | None = None

    def __init__(self, inner: Work, spend: Callable[[], object]) -> None:
        self._inner, self._spend = inner, spend
        self.commit, self.take_back, self.close = inner.commit, inner.take_back, inner.close

    def take(self, answer: Committed) -> None:
        self._spend()
        self._inner.take(answer)


@pytest.mark.parametrize(("ops_max", "count", "sizes"), [(2, 5, [2, 2, 1]), (1, 2, [1, 1]), (2, 2, [2])])
def test_what_is_asked_for_is_split_as_one_call_may_do(
    driver: Driver, ops_max: int, count: int, sizes: list[int]
) -> None:
    committing = Committing(driver, replace(DEFAULTS, commit_ops_max=ops_max))
    ops: list[Op] = [StartTimer(Number(str(number)), "", FAR) for number in range(count)]
    assert [len(part) for part in committing.commits.parts(ops)] == sizes
    assert committing.commits.parts(ops[:1]) == (ops[:1],)
    assert committing.commits.parts([]) == ([],)


# -- by itself


async def test_one_that_was_canceled_ends_so(committing: Committing, driver: Driver) -> None:
    lease = await driver.start("a")
    await committing.commits.cancel(lease)
    assert (await driver.record("a")).state == "canceled"


async def test_what_is_deferred_is_offered_again_after_a_while(committing: Committing, driver: Driver) -> None:
    await committing.commits.defer(await driver.start("a"), "not now", 2.5)
    assert await driver.place("a") is Place.DELAYED
    assert await reason_of(driver, "a") == "not now"
    now_ms = (await driver.beat()).server_us // 1000
    assert 0 <= now_ms + 2_500 - (await driver.timers())["a~retry"] < 2_000
    await driver.control("force", "a")


async def reason_of(driver: Driver, id: str) -> str:
    return (await driver.redis.hget(driver.keys.promise(id), F["reason"])).decode()


def delay_ms(committing: Committing, id: str) -> int:
    """How long it would be deferred now."""
    item: Any = committing.commits.offer_again(committing.driver.lease(id, "1-1", 1), unless_alone=False)
    due: str = item.args[3].split("\t")[5]
    return int(due.removeprefix("+"))


def test_each_time_it_is_deferred_for_twice_as_long(committing: Committing, hold_clock: HoldClock) -> None:
    """For a minute at most; each execution by itself. What has not come again when it was offered begins anew."""
    clock = hold_clock(commits)
    assert [delay_ms(committing, "a") for _ in range(8)] == [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]
    assert delay_ms(committing, "b") == 1000
    clock.move(2 * 60 + 60 - 0.001)
    assert delay_ms(committing, "a") == 60000
    clock.move(2 * 60 + 60)
    assert delay_ms(committing, "a") == 1000
    assert delay_ms(committing, "b") == 1000
    clock.move(2 * 1 + 60 - 0.001)
    assert delay_ms(committing, "b") == 2000


def test_it_remembers_of_so_many_how_long_they_were_deferred(
    committing: Committing, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commits.DEFERRED_MAX == 10_000
    monkeypatch.setattr(commits, "DEFERRED_MAX", 2)
    assert [delay_ms(committing, id) for id in "aabc"] == [1000, 2000, 1000, 1000]
    assert [delay_ms(committing, id) for id in "cba"] == [2000, 2000, 1000]


def test_what_may_wait_here_is_offered_unless_this_worker_is_alone(committing: Committing) -> None:
    item: Any = committing.commits.offer_again(committing.driver.lease("a", "1-1", 1), unless_alone=True)
    assert item.args[3].split("\t")[5] == "+1000 ="
    assert delay_ms(committing, "a") == 1000, "that was no delay"


async def test_where_redis_is_full_it_comes_again_later(committing: Committing, driver: Driver) -> None:
    await committing.commits.defer_full(await driver.start("a"))
    assert await driver.place("a") is Place.DELAYED
    assert await reason_of(driver, "a") == "Redis has reached its maxmemory"
    await driver.control("force", "a")


async def test_what_nobody_knows_is_offered_again_and_said(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.beat(functions="some")
    await committing.commits.defer_unknown(await driver.start("a"), "the function 'f'")
    assert await driver.place("a") is Place.DELAYED
    assert "a deferred: no worker here knows the function 'f'; next try in 1 s" in caplog.text
    assert delay_ms(committing, "a") == 2000
    await driver.control("force", "a")


async def test_what_another_may_know_is_offered_straight_to_it(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """And whoever knows it is not asked to wait for longer and longer."""
    await driver.beat(functions="some")
    await driver.start("other", consumer=OTHER)
    await driver.beat(consumer=OTHER, functions="others")
    await committing.commits.defer_unknown(await driver.start("a"), "the function 'f'")
    assert await driver.place("a") is Place.QUEUED
    assert caplog.text == ""
    assert delay_ms(committing, "a") == 1000
    await driver.reclaim(consumer=OTHER, release="all")


async def test_what_a_newer_version_wrote_is_left_to_one(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await driver.start("a")
    await committing.commits.defer_newer(lease, "only a newer version knows it")
    assert "a deferred: only a newer version knows it; next try in 1 s" in caplog.text
    caplog.clear()
    await committing.commits.defer_newer(lease, "only a newer version knows it")
    assert caplog.text == "", "it is not ours any more"
    await driver.control("force", "a")


@pytest.mark.leaves_keys("a broken hash")
@pytest.mark.parametrize("what", ["defer_newer", "halt"])
async def test_of_a_broken_one_it_is_said_that_nothing_could_be_done(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    lease = await driver.start("a")
    await driver.redis.set(driver.keys.promise("a"), "garbage")
    if what == "defer_newer":
        await committing.commits.defer_newer(lease, "newer")
        assert "a could not be deferred (" in caplog.text
        return
    await committing.commits.halt(lease, "broken")
    [said] = caplog.messages
    assert said.startswith("a could not be halted (")
    assert said.endswith("): its entry is quarantined")
    assert await driver.queued() == []
    [line] = await driver.halted()
    assert line.startswith(f"queue:workers:{lease.entry}: ")


async def test_where_the_list_of_the_halted_is_broken_it_is_offered_again(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await driver.start("a")
    await driver.redis.set(driver.keys.halted, "garbage")
    await committing.commits.halt(lease, "look at it")
    [said] = caplog.messages
    assert said.startswith("a could not be halted (")
    assert said.endswith("): it is offered again")
    assert (await driver.record("a")).entry == lease.entry
    await driver.redis.delete(driver.keys.halted)
    await driver.control("force", "a")


@pytest.mark.parametrize("what", ["halted", "deferred"])
async def test_where_redis_does_not_answer_it_is_offered_again(caplog: pytest.LogCaptureFixture, what: str) -> None:
    """Whoever has it next tries that, too."""
    store = Store(Connector.of("redis://127.0.0.1:1"), namespace="t", settings=DEFAULTS, patience_s=0.0)
    alone = Commits(store, WORKER, DEFAULTS, lambda _, __: None, lambda: "some", _nothing)
    lease = Lease(PromiseId("a"), "workers", "1-1", 1)
    if what == "halted":
        await alone.halt(lease, "look at it")
    else:
        await alone.defer_newer(lease, "newer")
    assert f"a could not be {what} (Redis at 127.0.0.1:1 cannot be reached" in caplog.text
    assert ": it is offered again" in caplog.text
    await store.aclose()


async def test_that_published_values_wait_is_said_once_and_only_while_an_older_worker_is_alive(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    features = driver.store.partitions.features
    features.discard(CHANNELS)
    assert not committing.commits.may_publish()
    await eventually(committing.commits.may_publish, "the namespace to need it")
    assert caplog.messages == []
    features.discard(CHANNELS)
    committing.has_older = True
    for _ in range(4):
        assert not committing.commits.may_publish()
        await asyncio.sleep(0)
    assert caplog.messages == ["what steps publish has to wait until no worker of an older version is left"]


async def test_one_that_is_gone_is_dropped_quietly(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await driver.start("a")
    await driver.control("force", "a")
    await committing.commits.drop(lease)
    assert await driver.queued() == []
    assert await driver.halted() == []
    again = await driver.start("b")
    await committing.commits.drop(again)
    assert (await driver.record("b")).entry == again.entry, "it was dispatched while we looked"
    assert caplog.text == ""
    await committing.commits.cancel(again)


async def test_what_is_not_one_of_ours_is_quarantined_by_name(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    await driver.join()
    entry = (await driver.redis.xadd(driver.keys.queue("workers"), {"foo": "bar"})).decode()
    await driver.redis.xreadgroup("workers", WORKER, {driver.keys.queue("workers"): ">"})
    await committing.commits.drop(driver.lease("", entry, -1))
    assert f"entry {entry} of queue workers is not one of ours: quarantined" in caplog.text
    assert await driver.halted() == [f"queue:workers:{entry}: not an entry of ours"]
    await driver.redis.delete(driver.keys.halted)


async def test_a_person_must_look_at_one_that_is_halted(
    committing: Committing, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await driver.start("a")
    await committing.commits.halt(lease, "look at it")
    assert await driver.place("a") is Place.HALTED
    assert await reason_of(driver, "a") == "look at it"
    await committing.commits.halt(lease, "again")
    assert caplog.text == ""
    await driver.control("force", "a")
