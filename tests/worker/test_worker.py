"""A worker as a whole: from its first beat to the last entry it gives back."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from durasleep.codec import Codec
from durasleep.errors import (
    CorruptData,
    InvalidId,
    SchemaMismatch,
    StoreRefused,
    StoreUnavailable,
    ThreadsLost,
    UnsupportedServer,
)
from durasleep.model import Place, PromiseId, State
from durasleep.protocol.commit import EntryKey
from durasleep.protocol.keys import Keyspace, meta_key
from durasleep.protocol.membership import Beat, Peer, Reclaimed
from durasleep.runtime.definition import Registry
from durasleep.runtime.waits import Wait
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.connector import Connector
from durasleep.transport.outage import Outage
from durasleep.worker import worker as module
from durasleep.worker.loops.heartbeats import Heartbeats
from durasleep.worker.worker import Worker, default_name
from harness.servers import Server
from tests.service.workers import eventually
from tests.store.driver import FAR, OTHER, PAST, Driver
from tests.worker.hand import BEAT

# pyright: reportPrivateUsage=false

QUICK = replace(DEFAULTS, heartbeat_s=0.05, grace_s=20.0)


class Served:
    """A worker in this loop, its task that stands at a gate, and what has run in it."""

    def __init__(
        self,
        server: Server,
        namespace: str,
        *,
        settings: Settings = QUICK,
        concurrency: int = 2,
        source: str = "",
        lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self.codec, self.registry = Codec(), Registry()
        self.ran: list[str] = []
        self.stopped: list[str] = []
        self.may_end = asyncio.Event()
        options: dict[str, Any] = {} if lifespan is None else {"lifespan": lifespan}
        self.worker = Worker(
            Connector.of(source or server.url),
            self.registry,
            self.codec,
            namespace=namespace,
            group="workers",
            concurrency=concurrency,
            settings=settings,
            name="w1",
            **options,
        )
        self.running: asyncio.Task[None] | None = None

        async def stand(name: str) -> str:
            self.ran.append(name)
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return name

        self.registry.task(stand, name="stand")

    async def begin(self, **options: Any) -> None:
        """Until it serves, or cannot."""
        self.running = asyncio.create_task(self.worker.run(**options))
        ready = asyncio.create_task(self.worker.ready.wait())
        await asyncio.wait((self.running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def call(self, driver: Driver, *ids: str) -> None:
        for id in ids:
            await driver.create(id, "stand", args=self.codec.encode_args((id,), {}, "stand"))

    async def end(self) -> None:
        """At once."""
        self.worker.abort()
        if self.running is not None:
            await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def served(real_server: Server, namespace: str) -> AsyncIterator[Served]:
    """Two slots; not begun yet."""
    served = Served(real_server, namespace)
    yield served
    await served.end()


async def consumers(driver: Driver) -> dict[str, int]:
    """Those of the group, and how many entries each holds."""
    found = await driver.redis.xinfo_consumers(driver.keys.queue("workers"), "workers")
    return {one["name"].decode(): one["pending"] for one in found}


# -- its name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("plain-host_1.example", "plain-host_1.example"),
        ("a b/c", "a-b-c"),
        ("bücher", "bcher-kva"),
        ("x" * 60, "x" * 50),
        ("", "worker"),
    ],
)
def test_its_name_says_where_it_runs(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert default_name() == f"{name}-{os.getpid()}"


async def test_two_starts_of_one_name_are_two_consumers(served: Served, real_server: Server, namespace: str) -> None:
    other = Served(real_server, namespace)
    for worker in (served.worker, other.worker):
        assert re.fullmatch(r"w1/[0-9a-f]{8}", worker.consumer)
        assert (worker.name, worker.group, worker.grace_s) == ("w1", "workers", 20.0)
    assert served.worker.consumer != other.worker.consumer
    for names in ({"name": "no name"}, {"group": "no group"}):
        with pytest.raises(InvalidId, match=next(iter(names))):
            make_worker(real_server, namespace, **names)
    assert make_worker(real_server, namespace).name == default_name()


def make_worker(server: Server, namespace: str, **other: Any) -> Worker:
    options: dict[str, Any] = {"group": "workers", "concurrency": 1, "settings": QUICK, **other}
    return Worker(Connector.of(server.url), Registry(), Codec(), namespace=namespace, **options)


# -- its life


async def test_it_serves_until_it_is_told_to_stop(
    served: Served, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    await served.begin()
    assert "worker w1 of group workers is ready: stand" in caplog.messages
    await served.call(driver, "a", "b", "c")
    await eventually(lambda: len(served.ran) == 2, "two to begin")
    worker = served.worker
    assert worker.running == 2
    assert {lease.id for lease in worker.held()} == set(served.ran)
    assert (worker.waits(), worker.in_threads) == ([], 0)
    worker.stop()
    assert served.running is not None
    await eventually(lambda: "worker w1 is leaving: 2 still running" in caplog.messages, "it to leave")
    assert not served.running.done(), "what runs may end"
    served.may_end.set()
    await served.running
    assert (len(served.ran), served.stopped) == (2, [])
    [left] = {"a", "b", "c"} - set(served.ran)
    record = await driver.record(left)
    assert (record.place, record.epoch) == (Place.QUEUED, 1), "it reads nothing new"
    assert [(await driver.record(id)).state for id in served.ran] == [State.RESOLVED] * 2
    assert await consumers(driver) == {}
    assert caplog.messages[-1] == "worker w1 has left"
    assert await driver.redis.zrange(driver.keys.workers, 0, -1) == []
    assert worker._heartbeats is not None
    assert not beats(worker._heartbeats)
    await driver.control("force", left)


def beats(heartbeats: Heartbeats) -> bool:
    """Whether the thread of the only one runs, and was not told to end."""
    one = heartbeats._all.get(None)
    return one is not None and one._thread is not None and one._thread.is_alive() and not one._stop.is_set()


@pytest.mark.parametrize("how", ["stop twice", "abort", "the grace time ends"])
async def test_at_the_end_it_gives_back_what_it_holds(
    real_server: Server, namespace: str, driver: Driver, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Without an attempt that counts."""
    caplog.set_level(logging.INFO, "durasleep")
    grace_s = 0.05 if how == "the grace time ends" else 20.0
    served = Served(real_server, namespace, settings=replace(QUICK, grace_s=grace_s))
    await served.begin()
    await served.call(driver, "a", "b")
    await eventually(lambda: len(served.ran) == 2, "both to begin")
    match how:
        case "stop twice":
            served.worker.stop()
            served.worker.stop()
        case "abort":
            served.worker.abort()
        case _:
            served.worker.stop()
    assert served.running is not None
    await served.running
    assert sorted(served.stopped) == ["a", "b"]
    assert await consumers(driver) == {}
    assert caplog.messages[-1] == "worker w1 has left: 2 executions given to others"
    for lease in await driver.read(10, consumer=OTHER):
        assert (lease.epoch, (await driver.record(lease.id)).crash_count) == (2, 0)
        await driver.control("force", lease.id)


async def test_after_a_crash_all_is_as_a_kill_leaves_it(
    served: Served, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    closed = closings(served.worker, monkeypatch)
    await served.begin()
    await served.call(driver, "a")
    await eventually(lambda: served.ran, "it to begin")
    served.worker.crash()
    assert served.running is not None
    await served.running
    assert await consumers(driver) == {served.worker.consumer: 1}
    assert closed == [1]
    assert [line for line in caplog.messages if "leaving" in line or "has left" in line] == []
    await driver.control("force", "a")


async def test_its_lifespan_is_around_all_of_it(
    real_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it sets up a log of its own, that holds."""
    told: list[str] = []
    monkeypatch.setattr(module.humanize, "be_heard", lambda: told.append("be heard"))

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        told.append(f"opened {served.worker.ready.is_set()}")
        yield
        told.append(f"closed {served.worker.ready.is_set()}")

    served = Served(real_server, namespace, lifespan=lifespan)
    await served.begin()
    assert told == ["opened False", "be heard"]
    await served.end()
    assert told == ["opened False", "be heard", "closed True"]


async def test_without_functions_it_says_so(
    real_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    worker = make_worker(real_server, namespace, name="idle")
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    worker.stop()
    await running
    assert caplog.messages == ["worker idle of group workers is ready: no functions", "worker idle has left"]


async def test_it_counts_what_is_lost_of_a_loop_of_its_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(served.worker._executor, "own_loop", lambda: told.append("own"))
    served.worker.own_loop()
    assert told == ["own"]
    await served.worker._close()


@pytest.mark.one_partition("each has these parts of its own")
async def test_each_of_its_parts_has_ended_before_the_next_step(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader before it waits for what is in hand, the other loops before it gives back, and then all is closed."""
    worker, told = served.worker, list[str]()

    def noting(name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def note(*args: Any) -> Any:
            told.append(name)
            return await call(*args)

        return note

    [serving] = worker._servings
    monkeypatch.setattr(serving, "read", slow_to_end(told, "reader"))
    monkeypatch.setattr(serving.firer, "run", slow_to_end(told, "firer"))
    monkeypatch.setattr(worker, "_drain", noting("drain", worker._drain))
    monkeypatch.setattr(worker._executor, "abort", noting("abort", worker._executor.abort))
    for name in ("_store", "_incoming"):
        store = getattr(worker, name)
        monkeypatch.setattr(store, "aclose", noting(name, store.aclose))
    for name in ("_reader", "_listener"):
        part = getattr(serving, name)
        monkeypatch.setattr(part, "close", noting(name, part.close))
    await served.begin()
    await asyncio.sleep(0)
    worker.stop()
    assert served.running is not None
    await served.running
    assert told == ["reader", "drain", "firer", "abort", "_store", "_incoming", "_reader", "_listener"]


async def test_what_it_waits_for_no_longer_has_ended_before_it_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, told = served.worker, list[str]()
    monkeypatch.setattr(worker._executor, "drain", slow_to_end(told, "drain"))
    worker.abort()
    assert not await worker._unless_stopped(slow_to_end(told, "join")())
    assert told == ["join"]
    await worker._drain()
    assert told == ["join", "drain"]
    await worker._close()


def slow_to_end(told: list[str], name: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """It runs until it is canceled, and then takes some turns of the loop to end."""

    async def run(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _turn in range(9):
                await asyncio.sleep(0)
            told.append(name)

    return run


@pytest.mark.one_partition("each has these parts of its own")
async def test_what_is_due_can_be_settled_at_once(
    served: Served, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its own firer hears when the next is due."""
    hints: list[int] = []
    monkeypatch.setattr(served.worker._servings[0].firer, "hint", hints.append)
    await driver.create("past", "stand", start=PAST)
    fired = await served.worker.fire()
    assert (fired.due, hints) == (1, [])
    await driver.create("far", "stand", start=FAR)
    fired = await served.worker.fire()
    assert fired.due == 0
    assert hints == [fired.next_due_ms]
    await served.worker._close()
    for id in ("past", "far"):
        await driver.control("force", id)


async def test_without_threads_it_leaves(served: Served, driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """Its process has to begin anew."""
    caplog.set_level(logging.INFO, "durasleep")
    await served.begin()
    served.worker._leave_used_up()
    assert served.running is not None
    with pytest.raises(ThreadsLost, match=r"worker w1 has left its work to others: for 60 s all its threads"):
        await served.running
    assert "worker w1 leaves: all its threads are lost" in caplog.text
    assert "in hand" not in caplog.text
    assert await consumers(driver) == {}


async def test_in_a_namespace_of_other_versions_nothing_is_written_any_more(
    served: Served, driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even to give back what is in hand."""
    await served.begin()
    await served.call(driver, "a")
    await eventually(lambda: served.ran, "it to begin")
    await driver.redis.hset(meta_key(driver.namespace), "schema", "99")
    assert served.running is not None
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await served.running
    assert "this worker ends, and leaves its executions to others" in caplog.text
    assert served.stopped == ["a"]
    assert await consumers(driver) == {served.worker.consumer: 1}
    await driver.redis.hdel(meta_key(driver.namespace), "schema")
    await driver.control("force", "a")


# -- its beginning


@pytest.mark.parametrize("begins", [True, False])
async def test_a_redis_that_is_not_there_is_waited_for(
    real_server: Server, namespace: str, driver: Driver, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, begins: bool,
) -> None:  # fmt: skip
    """Longer from time to time; within its time, if it has one."""
    served, waited = Served(real_server, namespace), list[float]()
    join, failures = served.worker._join, 9 if begins else 1000

    async def fail(heartbeats: Any) -> None:
        if len(waited) < failures:
            raise StoreUnavailable(f"down {len(waited)}")
        await join(heartbeats)

    async def wait(delay_s: float) -> None:
        waited.append(delay_s)
        await sleep(0 if begins else 0.01)

    sleep = asyncio.sleep
    monkeypatch.setattr(served.worker, "_join", fail)
    monkeypatch.setattr(module, "asyncio", Patched(sleep=wait))
    if begins:
        await served.begin(start_timeout_s=20.0)
        assert served.worker.ready.is_set()
        assert waited[:9] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        assert "down 0: this worker waits" in caplog.text
        assert "Redis serves this worker again" in caplog.text
        await served.end()
    else:
        with pytest.raises(StoreUnavailable, match=r"^down [1-9]\d*$") as caught:
            await served.worker.run(start_timeout_s=0.1)
        assert str(caught.value) == f"down {len(waited) - 1}", "the last of them"


class Patched(ModuleType):
    """asyncio, with something in the place of its own."""

    def __init__(self, **instead: Any) -> None:
        super().__init__("asyncio")
        self.__dict__.update(asyncio.__dict__ | instead)


async def test_a_redis_that_does_not_answer_is_named(real_server: Server, namespace: str) -> None:
    served = Served(real_server, namespace)

    async def hang(_: Any) -> None:
        await asyncio.Event().wait()

    served.worker._join = hang  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match=r"^Redis at .*:\d+.* does not answer$"):
        await served.worker.run(start_timeout_s=0.01)


async def test_a_timeout_that_is_not_that_of_its_start_is_raised(served: Served) -> None:
    async def fail(_: Any) -> None:
        raise TimeoutError("another")

    served.worker._join = fail  # type: ignore[method-assign]
    with pytest.raises(TimeoutError, match="another"):
        await served.worker.run(start_timeout_s=20.0)


@pytest.mark.parametrize("how", ["it fails", "it is stopped"])
async def test_who_does_not_become_ready_beats_no_more(
    served: Served, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Even if its first beat has been."""
    made: list[Heartbeats] = []

    async def join(begun: Heartbeats) -> None:
        made.append(begun)
        await served.worker._store.open(moves=True)
        await begun.start()
        assert beats(begun)
        if how == "it fails":
            raise UnsupportedServer("not this one")
        served.worker.stop()
        await asyncio.Event().wait()

    monkeypatch.setattr(served.worker, "_join", join)
    closed = closings(served.worker, monkeypatch)
    await asyncio.gather(served.worker.run(), return_exceptions=True)
    [heartbeats] = made
    assert not beats(heartbeats)
    assert closed == [1]


@pytest.mark.one_partition("each has these parts of its own")
async def test_it_joins_in_order(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may bring the namespace to its own version; it fires by the clock that was believed last; it beats at last."""
    worker, told = served.worker, list[Any]()
    open_store, join_reader, join_firer = (
        worker._store.open,
        worker._servings[0]._reader.join,
        worker._servings[0].firer.join,
    )

    async def opened(*, moves: bool) -> Any:
        told.append(("store", moves))
        return await open_store(moves=moves)

    async def joined() -> None:
        told.append("reader")
        await join_reader()

    def accepted(number: Any) -> None:
        told.append(("firer", number))
        join_firer(number)

    monkeypatch.setattr(worker._store, "open", opened)
    monkeypatch.setattr(worker._servings[0]._reader, "join", joined)
    monkeypatch.setattr(worker._servings[0].firer, "join", accepted)
    heartbeats = worker._make_heartbeats()
    assert not beats(heartbeats)
    await worker._join(heartbeats)
    assert beats(heartbeats)
    assert told == [("store", True), ("firer", None), "reader"]
    await heartbeats.leave()
    await worker._close()


async def test_it_may_be_stopped_before_it_is_ready(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    canceled: list[int] = []

    async def hang(_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            canceled.append(1)

    served.worker._join = hang  # type: ignore[method-assign]
    running = asyncio.create_task(served.worker.run())
    await asyncio.sleep(0)
    served.worker.stop()
    await running
    assert not served.worker.ready.is_set()
    assert canceled == [1]
    assert caplog.messages == ["worker w1 has left before it was ready"]


INFO = "maxmemory:{memory}\r\nmaxmemory_policy:{policy}\r\n"
EVICTING = INFO.format(memory=100, policy="allkeys-lru").encode()


@pytest.mark.parametrize("accepts", [False, True])
async def test_where_what_sleeps_could_vanish_it_does_not_serve(
    real_server: Server, namespace: str, caplog: pytest.LogCaptureFixture, accepts: bool
) -> None:
    """Unless that is accepted."""
    served = Served(real_server, namespace, settings=replace(QUICK, accept_eviction=accepts))
    check = served.worker._check_eviction
    for info in (INFO.format(memory=100, policy="noeviction").encode(), b"", StoreRefused("INFO is forbidden")):
        check(info)
    assert caplog.messages == []
    if accepts:
        check(EVICTING)
        assert (
            "this Redis may drop sleeping workflows when it is full (maxmemory-policy allkeys-lru)" in caplog.messages
        )
    else:
        with pytest.raises(UnsupportedServer, match=r"\(maxmemory-policy allkeys-lru\): set maxmemory-policy"):
            check(EVICTING)
    with pytest.raises(StoreUnavailable, match="down"):
        check(StoreUnavailable("down"))
    await served.worker._close()


async def test_what_keeps_it_from_serving_is_raised_and_nothing_is_left(
    served: Served, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise UnsupportedServer("not this one")

    monkeypatch.setattr(served.worker, "_check_eviction", refuse)
    closed = closings(served.worker, monkeypatch)
    with pytest.raises(UnsupportedServer, match="not this one"):
        await served.worker.run()
    assert len(closed) == 1
    assert not served.worker.ready.is_set()
    await driver.create("a", "stand")
    assert await driver.redis.zrange(driver.keys.workers, 0, -1) == [], "it has not beaten"
    await driver.control("force", "a")


def closings(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    closed: list[int] = []
    close = worker._close

    async def note() -> None:
        closed.append(1)
        await close()

    monkeypatch.setattr(worker, "_close", note)
    return closed


async def test_the_first_beat_tells_what_it_knows_and_the_last_that_it_leaves(served: Served, driver: Driver) -> None:
    """Who leaves is offered nothing any more."""
    heartbeats = served.worker._make_heartbeats()
    [keys] = served.worker._servings.beating()
    assert served.worker._functions_at(keys) == "", "it has not joined yet"
    await served.worker._join(heartbeats)
    heartbeat = heartbeats._all[None]
    assert heartbeat._functions(keys) == served.registry.fingerprint
    served.worker.stop()
    assert heartbeat._functions(keys) == ""
    assert heartbeat._lost_threads() == 0
    await heartbeats.leave()
    await served.worker._close()


# -- its loops


async def test_a_beat_is_passed_on_to_whom_it_concerns(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, told = served.worker, list[Any]()

    def note(what: str) -> Callable[..., Any]:
        return lambda *args: told.append((what, *args))

    async def unheard(entry_key: EntryKey) -> bool:
        told.append(("unheard", entry_key))
        return entry_key[2] == "1-1"

    async def once(beat: Beat, at: float) -> None:
        told.append(("reaper", beat, at))

    monkeypatch.setattr(worker._store.clock(worker._store.keyspaces[0]), "observe", note("clock"))
    monkeypatch.setattr(worker._servings[0].firer, "set_rank", note("rank"))
    monkeypatch.setattr(worker._servings[0].firer, "on_wake", note("wake"))
    monkeypatch.setattr(worker._executor, "on_beat", note("executor"))
    monkeypatch.setattr(worker._executor, "return_unheard", unheard)
    monkeypatch.setattr(worker._executor, "held", lambda: ["held"])
    monkeypatch.setattr(worker._jam, "look", note("jam"))
    monkeypatch.setattr(worker._servings[0]._reader, "never_arrived", never_arrived)
    monkeypatch.setattr(worker._servings[0], "_reaper", type("", (), {"once": staticmethod(once)}))
    beat = replace(BEAT, rank=3, server_us=5, last_wake=b"w")
    worker._take_beat(beat, 6, 7_000_000)
    assert await worker._servings[0].next_beat() == (beat, 6)
    assert told == [
        ("jam", [], []),
        ("clock", 5, 6, 7_000_000),
        ("rank", 3),
        ("wake", b"w"),
        ("executor", beat),
        ("unheard", (0, "q", "1-1")),
        ("unheard", (0, "q", "1-2")),
        ("reaper", beat, 7.0),
    ]
    await worker._close()


async def test_in_each_partition_another_worker_is_the_first_to_fire(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks: list[int] = []
    [serving] = served.worker._servings
    monkeypatch.setattr(serving.firer, "set_rank", ranks.append)
    peers = [Peer(f"w{number}/1", "1", "1", 1000) for number in range(3)]
    for partition in range(4):
        monkeypatch.setattr(serving, "keys", Keyspace("n", partition, 4))
        for rank in range(3):
            await serving.take_beat(replace(BEAT, rank=rank, peers=peers), 1, 2)
    assert ranks == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    await served.worker._close()


async def test_once_it_has_stopped_to_read_all_that_it_does_not_know_is_given_back(
    served: Served, driver: Driver
) -> None:
    """It was in an answer that nobody waited for any more."""
    await served.begin()
    await served.call(driver, "held")
    await eventually(lambda: served.ran, "it to begin")
    [serving] = served.worker._servings
    serving.want(False)
    await serving.stop_reading()
    await served.call(driver, "a")
    [lease] = await driver.read(1, consumer=served.worker.consumer)
    await eventually(lambda: _is_given_back(driver, "a", lease.entry), "it to be given back")
    assert served.ran == ["held"]
    serving.want(True)
    await eventually(lambda: served.ran == ["held", "a"], "it to be read")
    for id in served.ran:
        await driver.control("force", id)


async def _is_given_back(driver: Driver, id: str, entry: str) -> bool:
    record = await driver.record(id)
    return record.entry != entry and record.crash_count == 0


def never_arrived(*_: Any) -> list[EntryKey]:
    """Two entries, of which only the first really has not."""
    return [(0, "q", "1-1"), (0, "q", "1-2")]


async def test_only_without_a_free_slot_is_there_a_jam(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, waits = [object()], [Wait(PromiseId("a"), PromiseId("b"))]
    looked: list[Any] = []
    monkeypatch.setattr(served.worker, "_executor", Busy(held, waits))

    def look(*seen: Any) -> None:
        looked.append(seen)

    monkeypatch.setattr(served.worker._jam, "look", look)
    served.worker._take_beat(BEAT, 1, 2)
    assert looked == [(held, waits)]
    await served.worker._close()


class Busy:
    """An executor without a slot."""

    free = 0

    def __init__(self, held: list[Any], waits: list[Wait]) -> None:
        self._held, self._waits = held, waits

    def in_slots(self) -> list[Any]:
        return self._held

    def waits(self) -> list[Wait]:
        return self._waits

    def on_beat(self, _: Beat) -> None: ...


async def test_a_loop_that_is_far_behind_judges_nobody(served: Served) -> None:
    """What it has not looked at by now is old."""
    for number in range(17):
        served.worker._take_beat(replace(BEAT, rank=number), 1, 2)
    beats = served.worker._servings[0]._beats
    assert beats.qsize() == 16
    assert [beats.get_nowait()[0].rank for _ in range(16)] == list(range(16))
    await served.worker._close()


async def test_what_is_given_back_as_it_never_arrived_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")

    async def unheard(entry_key: EntryKey) -> bool:
        return entry_key[2] == "1-1"

    monkeypatch.setattr(served.worker._executor, "return_unheard", unheard)
    monkeypatch.setattr(served.worker._servings[0]._reader, "never_arrived", never_arrived)
    served.worker._take_beat(BEAT, 1, 2)
    await served.worker._servings[0].next_beat()
    assert caplog.messages == ["entry 1-1 was delivered here but never arrived: released"]
    await served.worker._close()


async def test_after_a_gap_everything_is_looked_at(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(served.worker._servings[0].firer, "hint", lambda: told.append("firer"))
    monkeypatch.setattr(served.worker._executor, "notify_all", lambda: told.append("executor"))
    served.worker._servings[0]._on_gap()
    assert told == ["firer", "executor"]
    await served.worker._close()


async def test_its_loop_shows_that_it_is_alive(served: Served, driver: Driver) -> None:
    await served.begin()
    watch = served.worker._loop_watch
    assert watch is not None
    first = watch._pulse
    await eventually(lambda: watch._pulse > first, "the next pulse")


async def test_it_reads_as_much_as_is_free(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    submitted: list[Any] = []

    async def once(free: int) -> list[Any]:
        asked.append(free)
        if len(asked) > 1:
            await asyncio.Event().wait()
        return ["leases"]

    async def submit(leases: Any) -> None:
        submitted.append(leases)

    monkeypatch.setattr(served.worker._servings[0]._reader, "once", once)
    monkeypatch.setattr(served.worker._executor, "submit", submit)
    reading = asyncio.create_task(served.worker._servings[0].read())
    await eventually(lambda: len(asked) == 2, "it to read again")
    reading.cancel()
    assert (asked, submitted) == ([2, 2], [["leases"]])
    await served.worker._close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailable("down"), "down: this worker waits, nothing is lost"),
        (StoreRefused("no"), "no: this worker waits, nothing is lost"),
        (CorruptData("odd"), "third: odd"),
        (ZeroDivisionError("by us"), "the third loop failed and begins again"),
    ],
)
async def test_a_loop_that_fails_begins_again_after_a_while(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, waited, goes_on = list[int](), list[float](), asyncio.Event()

    async def run() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise error
        goes_on.set()
        await asyncio.Event().wait()

    async def wait(delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr(module, "asyncio", Patched(sleep=wait))
    keeping = asyncio.create_task(module._keep_going("third", run, Outage()))
    await goes_on.wait()
    keeping.cancel()
    assert waited == [module.LOOP_RETRY_S] * 2
    assert said in caplog.messages
    assert bool(caplog.records[0].exc_info) is (type(error) is ZeroDivisionError)


# -- giving back


@pytest.mark.parametrize("error", [StoreUnavailable("down"), TimeoutError()])
async def test_what_cannot_be_given_back_is_taken_over(
    served: Served,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    await served.begin()

    async def fail(_: Any) -> Any:
        raise error

    monkeypatch.setattr(served.worker._store, "call", fail)
    closed = closings(served.worker, monkeypatch)
    await served.end()
    assert (
        f"the leases could not be released ({str(error) or 'no answer'}): other workers will take them over"
        in caplog.text
    )
    assert closed == [1]


async def test_it_gives_back_what_is_for_it_alone_too(served: Served, driver: Driver) -> None:
    await served.begin()
    args = served.codec.encode_args(("own",), {}, "stand")
    await driver.create("own", "stand", args=args, queue="workers/w1")
    await eventually(lambda: served.ran, "it to begin")
    await served.end()
    assert (await driver.record("own")).epoch == 2
    await driver.control("force", "own")


@pytest.mark.one_partition("each has these parts of its own")
async def test_what_one_answer_does_not_give_back_the_next_does(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    await served.begin()
    answers = [reclaimed(3, more=True), reclaimed(4), *[reclaimed(1)] * 5]  # of its own queue, and of five levels
    asked: list[Any] = []

    async def call(item: Any) -> Any:
        asked.append(item)
        return answers[len(asked) - 1]

    monkeypatch.setattr(served.worker._store, "call", call)
    await served.end()
    assert len(asked) == len(answers)
    assert caplog.messages[-1] == "worker w1 has left: 12 executions given to others"


def reclaimed(given: int, *, more: bool = False) -> Reclaimed:
    return Reclaimed(alive=False, more=more, given=given, poison=[])
