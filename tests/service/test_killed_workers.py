"""Workers killed with -9: while their executions sleep, in the middle of a step, and by a step."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Durasleep, Settings
from durasleep.client.client import store_of
from durasleep.errors import Fenced
from durasleep.model import CommitAction, PromiseId
from durasleep.protocol import commit, journal, streams
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import F
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, kill_own_process, nap, passage
from tests.service.workers import Effects, Workers, beats_of, eventually, load_from_hash, serving, until

TAKEOVER_S = 2.5  # in the median, an execution of a killed worker must go on elsewhere in this time
ROUNDS = 10  # of the kinds of servers together
LAG_STEP_S = 0.05


async def test_a_sleeper_outlives_its_worker_and_finishes_once(
    app: Durasleep, workers: Workers, effects: Effects, real_server: Server, namespace: str
) -> None:
    client: Any = real_server.client()
    [first] = await workers.start("first")
    handle = await app.rpc("nap", nap, effects.path, 1.5)
    due_ms = (await until(app, "nap", "suspended")).waiting_on[0].due_ms
    assert due_ms
    await first.line("nap suspended until")
    await first.kill()

    async def is_due() -> bool:
        seconds, _ = await client.time()
        return int(seconds) * 1000 > due_ms

    await eventually(is_due, "the timer to be due")
    assert (await app.describe("nap")).status == "suspended"
    assert effects.lines() == ["nap lies down"]

    await workers.start("second")
    assert await handle == "nap slept for 1.5 seconds"
    assert effects.lines() == ["nap lies down", "nap gets up"]


async def test_of_three_workers_one_dies_in_a_step_and_another_finishes(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    await workers.start("one", "two", "three")
    naps = [await app.rpc(f"nap-{number}", nap, effects.path, 2.0) for number in range(30)]
    for handle in naps:
        await until(app, handle.id, "suspended")
    handle = await app.rpc("passage", passage, effects.path)
    [(pid, _)] = await effects.standing("gate")
    store = await store_of(app)
    keys = store.keys("passage")
    record = await store.call(journal.read_record(keys, PromiseId("passage")))
    assert record
    holder = await store.call(streams.read_holder(keys, record.queue, record.entry))
    assert holder
    await workers.of_pid(pid).kill()

    (_, _), (other, _) = await effects.standing("gate", times=2)
    assert other != pid
    # The next calls are those that the dead worker would make if it had only been slow.
    lease = Lease(record.id, record.queue, record.entry, record.epoch, partition=keys.partition)
    before = await store.load(record.id)
    late = commit.commit(keys, holder, lease, CommitAction.RESOLVE, payload=app.codec.encode("late", "a result"))
    with pytest.raises(Fenced, match="passage"):
        await store.call(late)
    assert await store.load(record.id) == before

    effects.open("gate")
    assert await handle == "through gate"
    assert sorted(await asyncio.gather(*naps)) == sorted(f"nap-{number} slept for 2 seconds" for number in range(30))
    assert effects.count("passage comes") == effects.count("passage goes") == 1
    for number in range(30):
        assert effects.count(f"nap-{number} lies down") == effects.count(f"nap-{number} gets up") == 1


@pytest.mark.long
async def test_a_step_goes_on_soon_after_its_worker_was_killed(
    app: Durasleep,
    workers: Workers,
    effects: Effects,
    share: Callable[[Sequence[int]], Sequence[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The limit is extended by the delay of this test's own loop: a busy machine proves nothing."""
    await workers.start("a", "b", "c")
    took_s: list[float] = []
    lag = asyncio.create_task(_largest_lag())
    for number in share(range(ROUNDS)):
        id = f"passage-{number}"
        handle = await app.rpc(id, passage, effects.path, id)
        [(pid, _)] = await effects.standing(id)
        killed_at = time.time()
        await workers.of_pid(pid).kill()
        _, (_, at) = await effects.standing(id, times=2)
        took_s.append(at - killed_at)
        effects.open(id)
        await handle
        await workers.start(f"d{number}")
    lag.cancel()
    lag_s = await lag
    median_s = statistics.median(took_s)
    with capsys.disabled():
        print(f"\ntakeover after kill -9: median {median_s:.2f} s, of {', '.join(f'{s:.2f}' for s in took_s)}")  # noqa: T201
    assert median_s <= TAKEOVER_S + 2 * lag_s


async def _largest_lag() -> float:
    """The longest delay of this loop, until it is cancelled."""
    worst = 0.0
    try:
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_STEP_S)
            worst = max(worst, time.monotonic() - began - LAG_STEP_S)
    except asyncio.CancelledError:
        return worst


@pytest.mark.usefixtures("in_one_partition")
async def test_a_suspect_waits_for_another_one_a_while_and_no_longer(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    """However long the steps take that occupy every worker."""
    app = new_app(settings=replace(QUICK, suspect_wait_s=1.0))
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    names = ("long-1", "long-2", *[f"quick-{number}" for number in range(4)])
    for name in names:
        await (app.rpc(name, passage, effects.path, name) if name[0] == "l" else app.rpc(name, double, 21))
        load_from_hash(client, keys, name)
        client.hset(keys.promise(name), F["crash_count"], 2)  # as if two workers had died during it
    async with serving(app, "w1"), serving(app, "w2"):
        waited = await until(app, "quick-0", "delayed")
        assert (waited.crash_count, waited.reason) == (2, "waits apart: 2 workers in a row have died while running it")
        assert await app.gather([app.get(name) for name in names[2:]]) == [42] * 4
        assert (await app.describe("quick-0")).crash_count == 0
        await effects.standing("long-1")
        for name in names[:2]:
            effects.open(name)
        assert await app.gather([app.get(name) for name in names[:2]]) == ["through long-1", "through long-2"]


async def test_names_of_workers_of_long_ago_do_not_keep_a_dead_one_from_being_found(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    """For example, workers of a group that was retired while no other worker was there."""
    app, other = new_app(settings=QUICK), new_app(settings=QUICK, group="others")
    client: Any = real_server.sync_client()
    members = (await store_of(app)).keyspaces[0].workers
    handle = await app.rpc("passage", passage, effects.path)
    async with serving(app, "w1") as first:
        await effects.standing("gate")
        first.crash()
        client.zadd(members, {f"a{number}/00000000": number for number in range(5_000)})
        async with serving(app, "w2"), serving(other, "w3"):
            await effects.standing("gate", times=2)
            effects.open("gate")
            assert await handle == "through gate"
            await eventually(lambda: client.zcard(members) == 2, "only those that live to be workers")


SLOW = Settings(heartbeat_s=1.5, dead_after_s=4.5)


async def test_who_beats_more_seldom_than_its_judge_is_alive_until_it_misses_its_own_beats(
    new_app: NewApp, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead worker is also found by workers with fewer heartbeats than it had."""
    quick, slow = new_app(settings=QUICK), new_app(settings=SLOW)
    async with serving(slow, "slow") as first:
        handle = await quick.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        async with serving(quick, "quick") as second:
            await beats_of(quick, first.consumer, 3)
            assert "is dead" not in caplog.text
            assert effects.count("gate") == 1
            first.crash()
            await effects.standing("gate", times=2)
            assert "worker slow is dead" in caplog.text
            async with serving(slow, "third") as third:
                await beats_of(quick, third.consumer, 2)
                second.crash()
                await effects.standing("gate", times=3)
                effects.open("gate")
                assert await handle == "through gate"


async def test_what_kills_its_workers_is_halted_and_its_neighbours_finish(
    new_app: NewApp, workers: Workers, effects: Effects
) -> None:
    app = new_app(settings=QUICK)
    neighbours = [await app.rpc(f"nap-{number}", nap, effects.path, 0.5) for number in range(10)]
    poison = await app.rpc("poison", kill_own_process, effects.path)
    alive = [workers.begin(name, app="quick_app") for name in ("one", "two")]
    started = 2

    async def is_halted() -> bool:
        """A supervisor: a worker that dies is started again."""
        nonlocal alive, started
        for worker in alive:
            if not worker.alive:
                started += 1
                alive = [other for other in alive if other.alive]
                alive.append(workers.begin(f"again-{started}", app="quick_app"))
        return (await app.describe("poison")).status == "halted"

    await eventually(is_halted, "the poison to be halted")
    # The last two deaths must have been of workers that held no other suspect: a few more may be needed.
    crash_count = effects.count("poison taken")
    assert crash_count >= QUICK.max_attempts
    reason = f"poison: {crash_count} workers in a row died while running it"
    assert (await app.describe("poison")).reason == reason
    await asyncio.gather(*neighbours)
    assert not await poison.done()
    await app.cancel("poison")
