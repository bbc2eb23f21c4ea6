"""Workers that share the partitions of a namespace: all are served, none is left alone, and none serves twice."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from durasleep import Durasleep, Worker
from durasleep.client.client import store_of
from durasleep.devserver import DevServer
from durasleep.errors import NotFound, UsageError
from durasleep.protocol import sorted_sets, streams
from durasleep.protocol.keys import members_key
from durasleep.worker.shares import WORKERS_MIN, shares_of, size_of
from tests.service.fixtures import NewApp
from tests.service.functions import SHARING, loop_passage, nap, passage
from tests.service.workers import Effects, Workers, beats_of, eventually, serving

PARTITIONS = 8
LATE_S = 5.0  # no execution waits longer for its worker while partitions are handed over
LOAD_MIN = 50  # executions


@pytest.fixture
async def wide(new_app: NewApp) -> Durasleep:
    """An application whose namespace has several partitions, which a few workers share."""
    app = new_app(settings=SHARING)
    await app.init(partitions=PARTITIONS)
    return app


async def consumers_of(app: Durasleep) -> list[set[str]]:
    """The consumers of the group in each partition."""
    store = await store_of(app)
    answers = await store.ask([streams.read_consumers(keys, "workers") for keys in store.keyspaces])
    return [set() if isinstance(one, NotFound) else set(one) for one in answers]


def shared_by(workers: Sequence[Worker]) -> list[set[str]]:
    """Who is to serve each partition, if these workers are the members."""
    return _by_partition([worker.consumer for worker in workers])


def _by_partition(consumers: Sequence[str]) -> list[set[str]]:
    shares = shares_of(consumers, PARTITIONS, size_of(len(consumers), PARTITIONS, SHARING.partition_workers_min))
    return [{name for name, share in shares.items() if number in share} for number in range(PARTITIONS)]


async def shared(app: Durasleep, *workers: Worker) -> None:
    """Wait until each partition is served as it is to be, and by nobody else."""
    expected = shared_by(workers)

    async def is_so() -> bool:
        return await consumers_of(app) == expected

    await eventually(is_so, "the workers to share the partitions")


async def ids_in(app: Durasleep, partition: int, name: str, count: int = 1) -> list[str]:
    """Some ids of one partition."""
    store = await store_of(app)
    ids = (f"{name}-{number}" for number in itertools.count())
    return list(itertools.islice((id for id in ids if store.keys(id).partition == partition), count))


@asynccontextmanager
async def five(app: Durasleep) -> AsyncGenerator[list[Worker]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(app, f"w{number}")) for number in range(5)]


class Load:
    """Executions that are begun all the time, and how long each of them has taken to begin its first step."""

    def __init__(self, app: Durasleep, effects: Effects) -> None:
        self._app = app
        self._effects = effects
        self._handles: list[Any] = []
        self._slowest_s = 0.0
        self._is_ending = False

    async def run(self) -> None:
        while not self._is_ending or len(self._handles) < LOAD_MIN:
            handle = await self._app.rpc(f"nap-{len(self._handles)}", nap, self._effects.path, 0.05)
            self._handles.append(asyncio.create_task(self._wait(handle)))
            await asyncio.sleep(0.01)

    async def _wait(self, handle: Any) -> None:
        began = time.monotonic()
        await handle
        self._slowest_s = max(self._slowest_s, time.monotonic() - began)

    def stop(self) -> None:
        self._is_ending = True

    async def check(self) -> None:
        """All have ended, and each step has run once."""
        await asyncio.gather(*self._handles)
        lines = Counter(self._effects.lines())
        assert len(lines) == 2 * len(self._handles)
        assert set(lines.values()) == {1}
        assert self._slowest_s < LATE_S


@asynccontextmanager
async def under_load(app: Durasleep, effects: Effects) -> AsyncGenerator[None]:
    """Executions begin and end in all partitions meanwhile, each of them once, and none waits for long."""
    load = Load(app, effects)
    running = asyncio.create_task(load.run())
    try:
        yield
    finally:
        load.stop()
        await running
        await load.check()


async def test_each_partition_has_workers_and_each_worker_a_share(wide: Durasleep, effects: Effects) -> None:
    async with five(wide) as workers, under_load(wide, effects):
        await shared(wide, *workers)
        served = await consumers_of(wide)
        assert all(len(consumers) >= WORKERS_MIN for consumers in served)
        assert {name for consumers in served for name in consumers} == {worker.consumer for worker in workers}
        assert await wide.workers() == ["w0", "w1", "w2", "w3", "w4"]
        assert [one.workers for one in await wide.partitions()] == [
            sorted(name.partition("/")[0] for name in consumers) for consumers in served
        ]


async def test_few_workers_serve_all_of_it(new_app: NewApp) -> None:
    app = new_app()
    await app.init(partitions=PARTITIONS)
    async with serving(app, "w1") as first, serving(app, "w2") as second:
        assert await consumers_of(app) == [{first.consumer, second.consumer}] * PARTITIONS


async def test_a_worker_that_comes_takes_its_share_over_and_the_others_leave_it(
    wide: Durasleep, effects: Effects
) -> None:
    async with serving(wide, "w1") as w1, serving(wide, "w2") as w2, under_load(wide, effects):
        await shared(wide, w1, w2)
        async with serving(wide, "w3") as w3, serving(wide, "w4") as w4:
            await shared(wide, w1, w2, w3, w4)
            assert any(w1.consumer not in consumers for consumers in await consumers_of(wide))
            w4.stop()
            await shared(wide, w1, w2, w3)
            w3.stop()  # here, as at the end of the block it would leave at once, and break off its steps
            await shared(wide, w1, w2)


async def test_what_is_in_hand_in_a_partition_that_is_left_goes_on(wide: Durasleep, effects: Effects) -> None:
    """Its worker stays until then: it sends heartbeats, and reads nothing new there."""
    async with AsyncExitStack() as stack:
        w1 = await stack.enter_async_context(serving(wide, "w1"))
        handles = {
            n: await wide.rpc((await ids_in(wide, n, "held"))[0], passage, effects.path, f"gate-{n}")
            for n in range(PARTITIONS)
        }
        await eventually(lambda: w1.running == PARTITIONS, "all to be in hand")
        others = [await stack.enter_async_context(serving(wide, f"w{n}")) for n in range(2, 6)]
        share = [number for number, consumers in enumerate(shared_by([w1, *others])) if w1.consumer in consumers]
        left = [number for number in range(PARTITIONS) if number not in share]
        await eventually(lambda: not any(_reads(w1, number) for number in left), "w1 to read no more there")
        for number in left:
            [id] = await ids_in(wide, number, "later")
            assert await (await wide.rpc(id, nap, effects.path, 0.01)) == f"{id} slept for 0.01 seconds"
        assert w1.running == PARTITIONS
        assert all(w1.consumer in consumers for consumers in await consumers_of(wide))
        for number, handle in handles.items():
            effects.open(f"gate-{number}")
            assert await handle == f"through gate-{number}"
            assert effects.count(f"gate-{number} ") == 1
        await shared(wide, w1, *others)


def _reads(worker: Worker, partition: int) -> bool:
    serving = worker._servings.get(partition)  # pyright: ignore[reportPrivateUsage]
    return serving is not None and serving.is_reading


async def test_what_is_for_one_worker_only_is_found_where_it_does_not_serve(wide: Durasleep, effects: Effects) -> None:
    async with five(wide) as workers:
        await shared(wide, *workers)
        handles: list[Any] = []
        for number, consumers in enumerate(await consumers_of(wide)):
            worker = next(one for one in workers if one.consumer not in consumers)
            [id] = await ids_in(wide, number, "own")
            target = f"poll://uni@workers/{worker.name}"
            handles.append(await wide.options(target=target).rpc(id, nap, effects.path, 0.01))
        await asyncio.gather(*handles)


async def test_a_pinned_worker_serves_its_partitions_and_counts_for_no_share(wide: Durasleep, effects: Effects) -> None:
    pinned = (*range(3), 5)
    async with serving(wide, "w1") as w1, serving(wide, "w2") as w2:
        await shared(wide, w1, w2)
        async with wide.serving(name="pinned", partitions=pinned) as w3:
            for number, consumers in enumerate(await consumers_of(wide)):
                assert consumers - {w3.consumer} == shared_by([w1, w2])[number]
                assert (w3.consumer in consumers) == (number in pinned)
            [id] = await ids_in(wide, 5, "there")
            await (await wide.options(target="poll://uni@workers/pinned").rpc(id, nap, effects.path, 0.01))
            assert w3.consumer not in await members_of(wide)
        await shared(wide, w1, w2)


async def members_of(app: Durasleep) -> list[str]:
    store = await store_of(app)
    members = await store.call(sorted_sets.list_members(members_key(app.namespace, "workers")))
    return [name for name, _ in members]


async def test_pinned_workers_alone_serve_what_they_have_and_nothing_else(wide: Durasleep, effects: Effects) -> None:
    [here], [there] = await ids_in(wide, 1, "a"), await ids_in(wide, 2, "a")
    async with wide.serving(name="one", partitions=[1]):
        await wide.rpc(there, nap, effects.path, 0.01)
        await (await wide.rpc(here, nap, effects.path, 0.01))
        assert (await wide.describe(there)).status == "queued"
        assert await members_of(wide) == []
    async with wide.serving(name="two", partitions=[2]):
        await wide.get(there).result()


@pytest.mark.parametrize(
    ("partitions", "says"),
    [
        ([PARTITIONS], rf"has partitions 0 to {PARTITIONS - 1}: there is no partition {PARTITIONS}$"),
        ([0, 256], r"^a worker serves partitions from 0 to 255, not 256$"),
        ([-1], r"not -1$"),
        ([], r"not none$"),
    ],
)
async def test_a_worker_for_partitions_that_there_are_not_does_not_begin(
    wide: Durasleep, partitions: list[int], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        async with wide.serving(partitions=partitions):
            pytest.fail("it serves")
    assert await wide.workers() == []


async def test_while_the_members_cannot_be_asked_the_last_shares_hold(
    new_app: NewApp, admin: Any, own_server: DevServer, namespace: str, effects: Effects
) -> None:
    """Nor is a worker struck that nobody could hear of meanwhile."""
    app = new_app(own_server.url, settings=SHARING)
    await app.init(partitions=PARTITIONS)
    async with serving(app, "w1") as w1, serving(app, "w2") as w2, serving(app, "w3") as w3:
        await shared(app, w1, w2, w3)
        await admin.execute_command(
            "ACL", "SETUSER", "default", "resetkeys", f"~{{{namespace}:*", f"~{{{namespace}}}:meta"
        )
        await eventually(lambda: admin.execute_command("ACL", "LOG", "1"), "a muster to be refused")
        w1.crash()
        expected = [consumers - {w1.consumer} for consumers in shared_by([w1, w2, w3])]

        async def is_taken_over() -> bool:
            return await consumers_of(app) == expected

        await eventually(is_taken_over, "w1 to be found dead")
        for number in range(PARTITIONS):
            [id] = await ids_in(app, number, "later")
            await (await app.rpc(id, nap, effects.path, 0.01))
        await admin.execute_command("ACL", "SETUSER", "default", "allkeys")
        await shared(app, w2, w3)


async def test_the_share_of_a_killed_worker_is_made_good(wide: Durasleep, workers: Workers, effects: Effects) -> None:
    processes = await workers.start("w1", "w2", "w3", "w4", "w5", app="sharing_app")
    names = [f"w{n}" for n in range(1, 6)]
    consumers = await eventually(lambda: _settled(wide, names), "the workers to share the partitions")
    killed = processes[0]
    its = next(name for name in consumers if name.startswith("w1/"))
    number = next(number for number, who in enumerate(_by_partition(consumers)) if its in who)
    handles = [await wide.rpc(id, passage, effects.path, "gate") for id in await ids_in(wide, number, "held", count=10)]
    begun = [pid for pid, _ in await effects.standing("gate", 10)]
    await killed.kill()
    await effects.standing("gate", 10 + begun.count(killed.pid))
    effects.open("gate")
    assert await asyncio.gather(*handles) == ["through gate"] * 10
    left = await eventually(lambda: _settled(wide, names[1:]), "the others to share the partitions")
    assert its not in left
    assert effects.count("held") == 20
    for number in range(PARTITIONS):
        [id] = await ids_in(wide, number, "later")
        assert await (await wide.rpc(id, nap, effects.path, 0.01)) == f"{id} slept for 0.01 seconds"
    for process in processes[1:]:
        process.signal(signal.SIGTERM)
    for process in processes[1:]:
        await process.exited()


async def _settled(app: Durasleep, names: Sequence[str]) -> list[str] | None:
    """The consumers, if they are those of these workers, and each partition is served as it is to be."""
    served = await consumers_of(app)
    consumers = sorted({name for consumers in served for name in consumers})
    is_so = [name.partition("/")[0] for name in consumers] == list(names) and served == _by_partition(consumers)
    return consumers if is_so else None


async def left_alone(worker: Worker, partitions: frozenset[int]) -> None:
    """From now on it is to serve these, whatever its group says."""
    assert worker._sharing  # pyright: ignore[reportPrivateUsage]
    await worker._sharing.end()  # pyright: ignore[reportPrivateUsage]
    worker._servings.want(partitions)  # pyright: ignore[reportPrivateUsage]


async def test_two_workers_never_leave_a_partition_to_one_another(wide: Durasleep, effects: Effects) -> None:
    async with serving(wide, "w1") as w1, serving(wide, "w2") as w2:
        await shared(wide, w1, w2)
        everything = frozenset(range(PARTITIONS))
        await asyncio.gather(*[left_alone(worker, everything - {1}) for worker in (w1, w2)])
        for consumer in (w1.consumer, w2.consumer):
            await beats_of(wide, consumer, 4)
        assert _reads(w1, 1) or _reads(w2, 1)
        async with serving(wide, "w3") as w3:
            await eventually(lambda: not _reads(w1, 1) and not _reads(w2, 1), "both to leave it to w3")
            await left_alone(w1, everything)
            await left_alone(w3, everything - {1})
            [id] = await ids_in(wide, 1, "later")
            await (await wide.rpc(id, nap, effects.path, 0.01))
            await eventually(lambda: _reads(w1, 1) and not _reads(w3, 1), "w1 to serve it again")


async def test_a_partition_that_comes_back_before_it_is_left_is_read_again(wide: Durasleep, effects: Effects) -> None:
    """What is in hand meanwhile goes on undisturbed."""
    async with serving(wide, "w1") as w1, serving(wide, "w2") as w2:
        await shared(wide, w1, w2)
        [held, later] = await ids_in(wide, 0, "held", count=2)
        target = "poll://uni@workers/w1"
        handle = await wide.options(target=target).rpc(held, passage, effects.path, "gate")
        await effects.standing("gate")
        await left_alone(w1, frozenset(range(1, PARTITIONS)))
        await eventually(lambda: not _reads(w1, 0), "w1 to read no more there")
        waiting = await wide.options(target=target).rpc(later, nap, effects.path, 0.01)
        await left_alone(w1, frozenset(range(PARTITIONS)))
        await waiting
        effects.open("gate")
        assert await handle == "through gate"
        assert effects.count("gate") == 1


async def test_a_worker_whose_event_loop_is_blocked_is_no_member(
    wide: Durasleep, workers: Workers, effects: Effects
) -> None:
    """It keeps what it holds, and begins nothing new: others serve its share meanwhile."""
    [blocked] = await workers.start("blocked", app="sharing_app")
    async with serving(wide, "w1") as w1, serving(wide, "w2") as w2:
        names = ["blocked", "w1", "w2"]
        await eventually(lambda: _settled(wide, names), "the workers to share the partitions")
        handle = await wide.options(target="poll://uni@workers/blocked").rpc("a", loop_passage, effects.path)
        await effects.standing("gate")

        async def is_made_good() -> bool:
            return all({w1.consumer, w2.consumer} <= consumers for consumers in await consumers_of(wide))

        await eventually(is_made_good, "the others to serve everything")
        assert "blocked" in await wide.workers()
        effects.open("gate")
        assert await handle == "through gate"
        assert effects.count("gate") == 1
        await eventually(lambda: _settled(wide, names), "the workers to share the partitions again")
        blocked.signal(signal.SIGTERM)
        await blocked.exited()
