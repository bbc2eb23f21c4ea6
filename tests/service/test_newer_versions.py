"""What a newer version has written is left to it: nothing is quarantined or halted for it, and the rest goes on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from durasleep import Context, Durasleep, StoreUnavailable
from durasleep.client.client import store_of
from durasleep.errors import NewerVersion, SchemaMismatch
from durasleep.model import Place, PromiseId
from durasleep.protocol import promises
from durasleep.protocol.keys import PLACE, F, Keyspace, W, meta_key
from durasleep.transport import handshake
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap, passage, sleeping_workflow
from tests.service.workers import Effects, eventually, serving, until

PARKED = "n"
"""A place of which we know nothing."""


@pytest.mark.usefixtures("in_one_partition")
async def test_a_timer_of_an_unknown_kind_stays_due_and_the_others_fire(
    app: Durasleep, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    odd = ("a~future:2", "a~rate.x", "a~a b", "a~7b", "\u00fc~\u00fc")
    due = {f"customers/{n}~later": n for n in range(300)} | dict.fromkeys(odd, 5)
    client.zadd(keys.timers, due | {"customers/late~later": 4e12})
    async with serving(app):
        for n in range(3):
            assert await (await app.rpc(f"sleep-{n}", sleeping_workflow, 0.05)).result(timeout=30)
        await eventually(lambda: "newer version" in caplog.text, "a line about them")
    assert set(client.zrange(keys.timers, 0, -1)) == {name.encode() for name in (*due, "customers/late~later")}
    assert client.zcard(keys.halted) == 0
    report = await app.fsck(repair=True)
    assert {finding.kind for finding in report.findings} == {"newer"}
    assert client.zcard(keys.timers) == len(due) + 1
    client.delete(keys.timers)


@pytest.mark.parametrize("entry", ["zp\t\t\tx\t\n", "sz\t1\t\tx\t\n"])
@pytest.mark.usefixtures("in_one_partition")
async def test_a_journal_with_an_unknown_code_waits_for_a_worker_that_knows_it(
    app: Durasleep, real_server: Server, effects: Effects, entry: str
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    handle = await app.rpc("later", nap, effects.path, 3600)
    async with serving(app):
        await until(app, "later", "suspended")
    client.hset(keys.promise("later"), "9", entry)
    async with serving(app):
        await app.wake("later~2")
        await eventually(lambda: client.hget(keys.promise("later"), F["place"]) == b"d", "it to be deferred")
        assert b"newer version" in client.hget(keys.promise("later"), F["reason"])
        with pytest.raises(NewerVersion, match="journal entry 9"):
            await app.describe("later")
        client.hdel(keys.promise("later"), "9")  # as if the newer version had taken it up
        assert await handle.result(timeout=30) == "later slept for 3600 seconds"
    assert client.zcard(keys.halted) == 0


async def waits_for_a_child(ctx: Context) -> str:
    return await ctx.rpc(sleeping_workflow, 3600)


@pytest.mark.usefixtures("in_one_partition")
async def test_an_execution_in_an_unknown_place_is_left_there(app: Durasleep, real_server: Server) -> None:
    """Its deadline, its control and the end of its parent wait for a worker that knows the place."""
    app.workflow(waits_for_a_child)
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.rpc("parked", sleeping_workflow, 3600, timeout=1)
    parent = await app.rpc("family", waits_for_a_child)
    async with serving(app):
        for id in ("parked", "family~1"):
            await until(app, id, "suspended")
            client.hset(keys.promise(id), F["place"], PARKED)
        await eventually(lambda: client.zscore(keys.timers, "parked~timeout") < time.time() * 1000, "its deadline")
        assert (await (await app.rpc("other", sleeping_workflow, 0.05)).result(timeout=30)).startswith("Slept")
        with pytest.raises(NewerVersion, match="place n"):
            await app.cancel("parked", force=True)
        await parent.cancel(force=True)
        await eventually(lambda: client.zscore(keys.closing, "family~1"), "its child to be left open")
        for id in ("parked", "family~1"):
            assert client.hget(keys.promise(id), F["place"]) == PARKED.encode()
        assert client.zcard(keys.halted) == 0
        for id in ("parked", "family~1"):  # as if the newer version had let them go
            client.hset(keys.promise(id), F["place"], PLACE[Place.SUSPENDED])
        await (await app.rpc("another", sleeping_workflow, 0.05)).result(timeout=30)
        await eventually(lambda: client.hget(keys.promise("parked"), F["state"]) == b"t", "it to be timed out")
        await eventually(lambda: client.hget(keys.promise("family~1"), F["state"]) == b"c", "it to be canceled")
        await eventually(lambda: client.zcard(keys.closing) == 0, "nothing to be left to close")


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.usefixtures("in_one_partition")
async def test_who_waits_in_an_unknown_way_is_left_to_a_newer_version(
    app: Durasleep, real_server: Server, others: int
) -> None:
    """The others hear of the ending, and nobody is forgotten."""
    client: Any = real_server.sync_client()
    store = await store_of(app)
    keys = store.keyspaces[-1]
    handle = await app.rpc("nightly-1", sleeping_workflow, 3600)
    async with serving(app):
        await until(app, "nightly-1", "suspended")
        for n in range(others):  # so many that they stand in a key of their own
            await store.call(promises.attach(keys, PromiseId("nightly-1"), inbox=f"other-{n}"))
        waiting = asyncio.create_task(handle.result(timeout=30))
        await eventually(lambda: _waiters(client, keys), "somebody to wait")
        if client.exists(keys.waiters("nightly-1")):
            client.sadd(keys.waiters("nightly-1"), "ynightly")
        else:
            field = client.hget(keys.promise("nightly-1"), F["waiters"])
            client.hset(keys.promise("nightly-1"), F["waiters"], b"ynightly\n" + field)
        await app.wake("nightly-1")
        assert await waiting == "Slept for 3600 seconds"
        for n in range(3):
            assert await (await app.rpc(f"other-{n}", sleeping_workflow, 0.01)).result(timeout=30)
    assert _waiters(client, keys) == {b"ynightly"}
    assert client.zscore(keys.closing, "nightly-1")
    assert client.zcard(keys.halted) == 0
    assert client.ttl(keys.promise("nightly-1")) > 0
    client.delete(keys.waiters("nightly-1"), keys.closing)


def _waiters(client: Any, keys: Keyspace) -> set[bytes]:
    field = client.hget(keys.promise("nightly-1"), F["waiters"]) or b""
    return client.smembers(keys.waiters("nightly-1")) if field == b"+" else set(field.split())


@pytest.mark.usefixtures("in_one_partition")
async def test_an_ending_of_an_unknown_state_stays_as_it_is(app: Durasleep, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    async with serving(app):
        assert await (await app.rpc("dropped", double, 1)) == 2
        client.hset(keys.promise("dropped"), F["state"], "z")
        for verb in (app.retry, app.cancel, app.describe):
            with pytest.raises(NewerVersion):
                await verb("dropped")
        with pytest.raises(NewerVersion):
            await app.rpc("dropped", double, 1)
        client.hset(keys.promise("dropped"), mapping={F["state"]: "r", F["kind"]: "m"})
        for verb in (app.retry, app.halt, app.resume):
            with pytest.raises(NewerVersion):
                await verb("dropped")
        with pytest.raises(NewerVersion):
            await app.rpc("dropped", double, 1)
    client.hdel(keys.promise("dropped"), F["kind"])


@pytest.mark.one_partition("the schema before knows one")
async def test_a_namespace_is_moved_from_the_schema_before_once_no_worker_of_that_is_left(
    app: Durasleep, new_app: NewApp, real_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_server.sync_client()
    handle = await app.rpc("sleeper", sleeping_workflow, 3600)
    async with serving(app):
        await until(app, "sleeper", "suspended")
    keys = (await store_of(app)).keyspaces[0]
    client.hset(meta_key(namespace), "schema", "1")
    client.hset(keys.worker("old-1/ab"), W["group"], "workers")
    client.zadd(keys.workers, {"old-1/ab": time.time() * 1000, "dead-1/cd": 1})
    for _ in range(2):  # who only looks or calls moves nothing
        with pytest.raises(
            StoreUnavailable, match="is of the previous version: the first worker of this version moves"
        ):
            await store_of(new_app())
    waiting = new_app().worker(name="newer")
    running = asyncio.create_task(waiting.run())
    await eventually(lambda: "have left: old-1/ab" in caplog.text, "a worker that waits for the others to leave")
    assert client.hget(meta_key(namespace), "schema") == b"1"
    client.zrem(keys.workers, "old-1/ab", "dead-1/cd")
    client.delete(keys.worker("old-1/ab"))
    await waiting.ready.wait()
    assert client.hget(meta_key(namespace), "schema") == b"2"
    newer = new_app()
    await newer.wake("sleeper")
    assert await handle.result(timeout=30) == "Slept for 3600 seconds"
    waiting.stop()
    await running


@pytest.mark.parametrize("change", [{"schema": "3"}, {"features": "limits"}])
async def test_a_worker_ends_when_its_namespace_has_become_that_of_a_newer_version(
    app: Durasleep,
    real_server: Server,
    namespace: str,
    effects: Effects,
    change: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It writes nothing any more, and what it held goes on elsewhere."""
    client: Any = real_server.sync_client()
    worker = app.worker(name="older")
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    assert client.hget(worker_key(client), W["knows"]) == handshake.KNOWS.encode()
    await app.rpc("held", passage, effects.path)
    await effects.standing("gate")
    client.hset(meta_key(namespace), mapping=change)
    with pytest.raises(SchemaMismatch, match=r"schema 3|needs limits"):
        await asyncio.wait_for(running, 30)
    assert "taken over" not in caplog.text
    client.hset(meta_key(namespace), mapping={"schema": "2", "features": ""})
    effects.open("gate")
    async with serving(app, "newer"):
        assert await app.get("held") == "through gate"


def worker_key(client: Any) -> bytes:
    """In any of its partitions."""
    return next(iter(client.scan_iter(match="*:worker:older/*")))
