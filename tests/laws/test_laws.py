"""The eleven laws of docs/develop/architecture.md, each with one short test; other tests go deeper."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import socket
import threading
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durasleep import Context, Disposition, Durasleep, Handle, OtherFunction, Settings, TimedOut
from durasleep.client.client import store_of
from durasleep.errors import Fenced, InvalidId, PayloadTooLarge
from durasleep.model import CommitAction, Due, Number, Place, PromiseId, StartPromise, StartTimer, State, StepResult
from durasleep.protocol import commit, journal, membership
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import LIMIT
from durasleep.runtime.definition import step_name_of
from durasleep.settings import DEFAULTS
from durasleep.transport.store import Store
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp
from tests.service.functions import QUICK, double, make_app, nap, note, passage, sleeping_workflow, waiting
from tests.service.workers import Effects, eventually, load_from_hash, serving, until

CONSUMER = "by-hand/00000000"


async def taken(server: Server, store: Store, id: str) -> Lease:
    """An execution that the test reads from its stream, as a worker would."""
    client: Any = server.sync_client()
    stream = store.keyspaces[-1].queue("workers")
    if not client.exists(stream) or not client.xinfo_groups(stream):
        client.xgroup_create(stream, "workers", "0", mkstream=True)
    [[_, rows]] = client.xreadgroup("workers", CONSUMER, {stream: ">"}, count=1)
    [(entry, fields)] = rows
    assert fields[b"i"] == id.encode()
    return Lease(PromiseId(id), "workers", entry.decode(), int(fields[b"e"]), partition=store.keys(id).partition)


# -- 1


async def test_law_01_one_script_one_transition(
    make_server: MakeServer, real_server: Server, namespace: str, effects: Effects
) -> None:
    """Redis's own write log, cut after each transaction: from every such state the execution still finishes."""
    server = make_server()

    async def journey(ctx: Context) -> list[Any]:
        await ctx.run(note, effects.path, "step")
        await ctx.sleep(0.05)
        return list(await asyncio.gather(ctx.rpc(double, 1), ctx.rpc(sleeping_workflow, 0.05)))

    def made(name: str) -> Durasleep:
        app = make_app(server.url, name, settings=QUICK)
        app.workflow(journey)
        return app

    recorded = made(namespace)
    async with recorded, serving(recorded):
        expected = await (await recorded.rpc("journey", journey))
    log = _write_log(server.directory)
    server.stop()
    server = make_server()
    begun = log.index(b"journey")
    ends = [match.end() for match in re.finditer(rb"\*1\r\n\$4\r\nEXEC\r\n", log) if match.end() > begun]
    assert len(ends) >= 8
    async with AsyncExitStack() as stack:
        handles: list[Handle[Any]] = []
        for number, end in enumerate(ends):
            name = f"u{number:012x}"
            assert len(name) == len(namespace)
            _replay(server.port, log[:end].replace(namespace.encode(), name.encode()))
            app = await stack.enter_async_context(made(name))
            await stack.enter_async_context(serving(app))
            handles.append(app.get("journey"))
        assert await asyncio.gather(*handles) == [expected] * len(ends)


def _write_log(directory: Path) -> bytes:
    [log] = directory.glob("appendonlydir/*.incr.aof")
    return log.read_bytes()


def _replay(port: int, log: bytes) -> None:
    """Send a part of a write log to a server, and wait until it has taken all of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as answers:
        connection.sendall(log + b"*2\r\n$4\r\nECHO\r\n$4\r\ndone\r\n")
        while (line := answers.readline()) != b"done\r\n":
            assert line, "the server hung up"


# -- 2


@pytest.mark.usefixtures("in_one_partition")
async def test_law_02_a_pending_execution_is_in_exactly_one_place(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]

    async def places(id: str) -> list[str]:
        """Its places by the data of Redis, whatever its hash says."""
        stream = [row for row in client.xrange(keys.queue("workers")) if row[1][b"i"] == id.encode()]
        found = ["queued"] * len(stream)
        found += ["delayed" for what in ("start", "retry") if client.zscore(keys.timers, f"{id}~{what}") is not None]
        found += ["halted"] * (client.zscore(keys.halted, id) is not None)
        record = await (await store_of(app)).call(journal.read_record(keys, PromiseId(id)))
        assert record
        assert bool(record.entry) == bool(stream)
        if not found and record.place is Place.SUSPENDED:
            assert (await app.describe(id)).waiting_on, "something pending must wake it"
            found = ["suspended"]
        assert [record.place] == found
        return found

    await app.rpc("queued", double, 1)
    await app.rpc("delayed", double, 1, delay=3600)
    await app.rpc("halted", double, 1)
    await app.halt("halted")
    seen = [await places(id) for id in ("queued", "delayed", "halted")]
    async with serving(app):
        await app.rpc("running", passage, effects.path)
        await app.rpc("suspended", waiting)
        await app.rpc("unknown", "no_such_function")
        await effects.standing("gate")
        await until(app, "suspended", "suspended")
        await until(app, "unknown", "delayed")
        seen += [await places(id) for id in ("running", "suspended", "unknown")]
    assert [place for [place] in seen] == ["queued", "delayed", "halted", "queued", "suspended", "delayed"]


# -- 3


@pytest.mark.usefixtures("in_one_partition")
async def test_law_03_a_sleeper_is_owned_by_nobody(app: Durasleep, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    async with serving(app) as worker:
        await (await app.rpc("first", sleeping_workflow, 0))
        threads = set(threading.enumerate())
        for number in range(50):
            await app.rpc(f"sleeper-{number}", sleeping_workflow, 3600)
        await eventually(lambda: client.zcard(keys.timers) == 50 and worker.running == 0, "all to sleep")
        assert client.xpending(keys.queue("workers"), "workers")["pending"] == 0
        assert client.xlen(keys.queue("workers")) == 0
        assert set(threading.enumerate()) <= threads
        assert not [task for task in asyncio.all_tasks() if "sleeper" in task.get_name()]
        assert {client.ttl(keys.promise(f"sleeper-{number}")) for number in range(50)} == {-1}
        assert client.ttl(keys.timers) == -1


# -- 4


@pytest.mark.usefixtures("in_one_partition")
async def test_law_04_a_stale_fence_writes_nothing(app: Durasleep, real_server: Server) -> None:
    store = await store_of(app)
    keys = store.keyspaces[-1]
    await app.rpc("order", nap, "", 1)
    lease = await taken(real_server, store, "order")
    stale = {
        "an earlier entry": (CONSUMER, msgspec.structs.replace(lease, entry="1-1")),
        "an earlier epoch": (CONSUMER, msgspec.structs.replace(lease, epoch=lease.epoch - 1)),
        "another consumer": ("by-hand/11111111", lease),
        "the same worker, started anew": ("by-hand/00000001", lease),
    }
    ops = [StepResult(Number("1"), "note", State.RESOLVED, b"\xc0"), StartTimer(Number("2"), "", Due("+1"))]
    before = real_server.contents(keys.tag)
    for consumer, held in stale.values():
        for outcome in set(CommitAction) - {CommitAction.DROP}:
            call = commit.commit(keys, consumer, held, outcome, ops=ops, payload=b"\xc0", due="+1")
            with pytest.raises(Fenced, match="order"):
                await store.call(call)
    assert real_server.contents(keys.tag) == before


# -- 5


@pytest.mark.usefixtures("in_one_partition")
async def test_law_05_a_wake_up_cannot_be_lost(app: Durasleep, real_server: Server) -> None:
    """A promise settles while its workflow is about to be suspended: the worker is told to go on."""
    store = await store_of(app)
    keys = store.keyspaces[-1]
    await app.rpc("waits", waiting)
    lease = await taken(real_server, store, "waits")
    ask = [StartPromise(Number("1"), "", None)]
    await store.call(commit.commit(keys, CONSUMER, lease, CommitAction.CONTINUE, ops=ask))
    assert await app.promises.resolve("waits~1", "now")
    suspend = commit.commit(keys, CONSUMER, lease, CommitAction.SUSPEND, ops=ask)
    answer = await store.call(suspend)
    assert await store.call(suspend) == answer, "an answer may be lost, and the commit repeated"
    assert answer.redrive
    [entry] = answer.entries
    assert (entry.number, entry.state) == ("1", State.RESOLVED)
    end = commit.commit(
        keys,
        CONSUMER,
        lease,
        CommitAction.RESOLVE,
        seen=entry.stamp,
        seen_number=entry.number,
        payload=entry.payload,
    )
    assert not (await store.call(end)).redrive
    assert await app.get("waits") == "now"


# -- 6


async def test_law_06_a_promise_settles_once(app: Durasleep, new_app: NewApp) -> None:
    others = [new_app() for _ in range(5)]
    promise = await app.promises.create("contested", timeout=0.05)
    async with serving(app):
        resolves = [other.promises.resolve("contested", number) for number, other in enumerate(others)]
        rejects = [other.promises.reject("contested", f"no {number}") for number, other in enumerate(others)]
        by_us = await asyncio.gather(*resolves, *rejects)
        outcomes = {repr(await _outcome(one)) for one in (promise, *(other.get("contested") for other in others))}
    assert len(outcomes) == 1
    if any(by_us):
        assert by_us.count(True) == 1
        won = by_us.index(True)
        assert outcomes == {f"{won}" if won < len(others) else f"RuntimeError('no {won - len(others)}')"}
    else:  # its timeout was quicker than all of them
        assert "TimedOut" in outcomes.pop()


async def _outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except (RuntimeError, TimedOut) as error:
        return error


# -- 7


@pytest.mark.usefixtures("in_one_partition")
async def test_law_07_the_same_id_is_the_same_execution(app: Durasleep, effects: Effects, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    week_ms = DEFAULTS.retention / timedelta(milliseconds=1)
    async with serving(app):
        calls = await asyncio.gather(*(app.rpc("once", passage, effects.path) for _ in range(20)))
        effects.open("gate")
        assert set(await asyncio.gather(*calls)) == {"through gate"}
        assert [call.disposition for call in calls].count(Disposition.CREATED) == 1
        assert (await app.rpc("once", passage, "other arguments")).disposition == "finished"
        with pytest.raises(OtherFunction, match=r"passage.*double"):
            await app.rpc("once", double, 1)
    assert effects.count("passage comes") == 0
    assert effects.count("once comes") == 1
    left_ms = client.pttl((await store_of(app)).keyspaces[-1].promise("once"))
    assert week_ms - 60_000 < left_ms <= week_ms


# -- 8


async def test_law_08_redis_owns_the_clock(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of worker and client are a day ahead, or behind: a sleep follows the server's clock."""
    client: Any = real_server.sync_client()

    async def times(ctx: Context, secs: float) -> float:
        before = ctx.now()
        await ctx.sleep(secs)
        return (ctx.now() - before).total_seconds()

    app.workflow(times)
    true_time, true_time_ns = time.time, time.time_ns
    for offset_s in (86_400, -86_400):
        monkeypatch.setattr(time, "time", lambda offset_s=offset_s: true_time() + offset_s)
        monkeypatch.setattr(time, "time_ns", lambda offset_s=offset_s: true_time_ns() + offset_s * 10**9)
        async with serving(app):
            handle = await app.rpc(f"times{offset_s}", times, 0.2)
            assert 0.2 <= await handle.result(timeout=30) < 10
            settled_ms = (await app.describe(handle.id)).settled_at_ms
            assert settled_ms
            seconds, _ = client.time()
            assert abs(settled_ms / 1000 - seconds) < 60


# -- 9


@pytest.mark.usefixtures("in_one_partition")
async def test_law_09_a_step_counts_once(app: Durasleep, real_server: Server, effects: Effects) -> None:
    """Done twice, with two results, in any order of commits: one result is journaled and stays."""

    def draw() -> int:
        note(effects.path, "drawn")
        return 3

    async def lottery(ctx: Context) -> int:
        return await ctx.run(draw)

    app.workflow(lottery)
    store = await store_of(app)
    keys = store.keyspaces[-1]
    handle = await app.rpc("lottery", lottery)
    lease = await taken(real_server, store, "lottery")
    name = step_name_of(draw)
    for value in (b"\x01", b"\x02"):
        ops = [StepResult(Number("1"), name, State.RESOLVED, value)]
        answer = await store.call(commit.commit(keys, CONSUMER, lease, CommitAction.CONTINUE, ops=ops))
        assert [entry.payload for entry in answer.entries] == [b"\x01"]
    given = membership.reclaim(keys, CONSUMER, "workers", beat="", release="all", max_attempts=5)
    assert (await store.call(given)).given == 1
    async with serving(app):
        assert await handle == 1
    assert effects.lines() == [], "a journaled step is not run again"


# -- 10


@pytest.mark.usefixtures("in_one_partition")
async def test_law_10_nothing_is_dropped_in_silence(
    app: Durasleep, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    client.xadd(keys.queue("workers"), {"not": "ours"})
    client.zadd(keys.timers, {"not ours": 1})
    await app.rpc("bad-payload", double, 1)
    client.hset(keys.promise("bad-payload"), "a", b"\xc1")
    load_from_hash(client, keys, "bad-payload")
    await app.rpc("unknown", "no_such_function")
    async with serving(app):
        assert await (await app.rpc("healthy", double, 1)) == 2
        assert "no_such_function" in ((await until(app, "unknown", "delayed")).reason or "")
        assert (await until(app, "bad-payload", "halted")).reason
        await eventually(lambda: client.zcard(keys.halted) == 3, "three to be quarantined")
    quarantined = b"\n".join(client.zrange(keys.halted, 0, -1)).decode()
    for name in ("bad-payload", "queue:workers:", "timers:not ours"):
        assert name in quarantined
    for line in (
        "entry .* of queue workers is not one of ours",
        "timer was quarantined: not ours",
        "bad-payload halted: ",
    ):
        assert re.search(line, caplog.text)
    assert "unknown deferred: no worker here knows the function 'no_such_function'" in caplog.text
    client.zrem(keys.halted, *(name for name in client.zrange(keys.halted, 0, -1) if name != b"bad-payload"))


# -- 11


@pytest.mark.usefixtures("in_one_partition")
async def test_law_11_everything_has_a_bound(new_app: NewApp, real_server: Server, effects: Effects) -> None:
    client: Any = real_server.sync_client()
    for name, value in [*dataclasses.asdict(DEFAULTS).items(), *LIMIT.items()]:
        number = value.total_seconds() if isinstance(value, timedelta) else value
        if isinstance(value, bool):
            continue
        assert math.isfinite(number), name
        assert number > 0 or name == "min_replicas", name  # most want none
    app = new_app(settings=Settings(payload_bytes_max=1000))
    keys = (await store_of(app)).keyspaces[-1]
    concurrency = 3
    peak = 0
    async with serving(app, concurrency=concurrency) as worker:
        handles = [await app.rpc(f"passage-{number}", passage, effects.path) for number in range(20)]
        await effects.standing("gate", times=concurrency)
        peak = max(worker.running, client.xpending(keys.queue("workers"), "workers")["pending"])
        effects.open("gate")
        await asyncio.gather(*handles)
        assert peak == concurrency
        for number in range(50):
            await app.promises.create(f"timer-{number}", timeout=50 - number, timer=True)
        assert client.xlen(keys.wake) == 1
        many = LIMIT["recent_max"] + 300
        await asyncio.gather(*(app.promises.create(f"p-{number}") for number in range(many)))
        await asyncio.gather(*(app.promises.resolve(f"p-{number}") for number in range(many)))
        assert client.xlen(keys.recent) < LIMIT["recent_max"] + 200  # Redis trims whole nodes
        with pytest.raises(InvalidId):
            await app.rpc("x" * 513, double, 1)
        with pytest.raises(PayloadTooLarge):
            await app.rpc("large", note, "x", "x" * 1000)
