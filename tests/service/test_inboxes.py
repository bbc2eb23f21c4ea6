"""Inboxes: they exist while somebody waits, are bounded in bytes, and work again after they were made again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Durasleep
from durasleep.client import inbox as inbox_module
from durasleep.client.client import inbox_of, store_of
from durasleep.model import Kind, PromiseId, State
from durasleep.protocol import promises
from durasleep.protocol.keys import LIMIT
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.transport.server_clock import Clock
from durasleep.worker.loops.hint_listener import HintListener
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double
from tests.service.workers import eventually, serving

FAR_AHEAD = "9999999999999-0"
"""The id of an entry that was written while the server's clock stood far ahead."""


@pytest.mark.usefixtures("in_one_partition")
async def test_no_inbox_is_made_for_who_never_waits(new_app: NewApp, real_server: Server, namespace: str) -> None:
    starter, waiter = new_app(), new_app()
    client: Any = real_server.client()
    pipeline = client.pipeline(transaction=True)
    await starter.rpc("a", double, 1)
    await starter.rpc_many(double, [(f"b-{n}", n) for n in range(10)])
    await starter.rpc("c", double, 1, pipeline=pipeline)
    await pipeline.execute()
    assert [key async for key in client.scan_iter(f"{{{namespace}:*}}:inbox:*")] == []
    async with serving(starter):
        assert await waiter.get("c").result() == 2
        assert not await client.exists((await store_of(starter)).keyspaces[-1].inbox(inbox_of(starter).name))


@pytest.mark.usefixtures("in_one_partition")
async def test_an_inbox_that_nobody_reads_is_bounded_in_bytes(app: Durasleep, real_server: Server) -> None:
    """For any results: many small ones in one call, some large ones, and ones too large for an inbox."""
    store = await store_of(app)
    keys = store.keyspaces[-1]
    sizes = {"small": 1_000, "large": 15_000, "larger": LIMIT["inbox_value_bytes_max"], "huge": 60_000}
    for name, size in sizes.items():
        value = os.urandom(size)
        for part in range(3):
            ids = [PromiseId(f"{name}-{part}-{n}") for n in range(500)]
            await store.ask([promises.create(keys, id, kind=Kind.PROMISE, inbox="idle", retention="1") for id in ids])
            answers = await store.ask([promises.settle(keys, id, State.RESOLVED, value) for id in ids])
            assert all(answer.by_us for answer in answers)
    used: int = await real_server.client().memory_usage(keys.inbox("idle"), samples=0) or 0
    assert 0 < used < 1.5 * LIMIT["inbox_entries_max"] * LIMIT["inbox_entry_bytes_max"]


@pytest.mark.usefixtures("in_one_partition")
async def test_a_result_too_large_to_be_told_is_read(app: Durasleep) -> None:
    sizes = (1_000, LIMIT["inbox_value_bytes_max"], 60_000, 500_000)
    handles = [await app.promises.create(f"p-{size}") for size in sizes]
    gathering = asyncio.create_task(app.gather(handles))
    await eventually(lambda: inbox_of(app).stream("any").is_listening, "the inbox to be read")
    for size in sizes:
        await app.promises.resolve(f"p-{size}", "x" * size)
    async with asyncio.timeout(DEFAULTS.client_check_s / 2):
        assert await gathering == ["x" * size for size in sizes]


@pytest.mark.usefixtures("in_one_partition")
async def test_an_inbox_that_begins_anew_while_the_clock_is_set_back_is_heard(
    new_app: NewApp, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "LOOK_S", 0.1)
    app = new_app(settings=replace(DEFAULTS, read_block_s=0.5))
    client, key = real_server.client(), (await store_of(app)).keyspaces[-1].inbox(inbox_of(app).name)
    pending = await app.promises.create("pending")
    waiting = asyncio.create_task(pending.result())
    inbox: Any = inbox_of(app).stream("any")
    await eventually(lambda: inbox.is_listening and inbox._last != b"0-0", "the inbox to be read")
    await client.xadd(key, {"o": ""}, id=FAR_AHEAD)
    await eventually(lambda: inbox._last == FAR_AHEAD.encode(), "the client to have read that")
    await client.delete(key)
    async with serving(app), asyncio.timeout(app.settings.client_check_s / 2):
        assert await (await app.rpc("a", double, 1)) == 2
        for n in range(3):
            assert await (await app.rpc(f"b-{n}", double, n)) == 2 * n
        await app.promises.resolve("pending", 7)
        assert await waiting == 7


@pytest.mark.usefixtures("in_one_partition")
async def test_a_sync_client_hears_at_once_of_what_an_inbox_that_began_anew_tells(
    app: Durasleep, real_server: Server, namespace: str
) -> None:
    client: Any = real_server.client()
    with SyncClient(real_server.url, namespace=namespace, settings=replace(DEFAULTS, read_block_s=20.0)) as sync:

        async def wait_for(id: str) -> asyncio.Task[Any]:
            """In a thread; once the inbox is told."""
            await app.promises.create(id)
            waiting = asyncio.create_task(asyncio.to_thread(lambda: sync.get(id).result(timeout=30)))
            keys = (await store_of(app)).keyspaces[-1]
            await eventually(lambda: client.hget(keys.promise(id), "w"), "the inbox to be told")
            await eventually(blocked, "the thread to listen")
            return waiting

        async def blocked() -> bool:
            return any(one["cmd"] == "xread" and "b" in one["flags"] for one in await client.client_list())

        waiting = await wait_for("a")
        [key] = [key async for key in client.scan_iter(f"{{{namespace}:*}}:inbox:*")]
        await client.xadd(key, {"o": ""}, id=FAR_AHEAD)
        await app.promises.resolve("a", 1)
        assert await waiting == 1
        await client.delete(key)
        waiting = await wait_for("b")
        await app.promises.resolve("b", 2)
        assert await asyncio.wait_for(waiting, 10) == 2


@pytest.fixture
async def woken(app: Durasleep) -> AsyncIterator[list[int]]:
    """The due times that a listener was told."""
    store = await store_of(app)
    heard: list[int] = []
    listener = HintListener(
        store.link(store.keyspaces[-1]),
        store.keyspaces[-1],
        consumer="w1/aaaaaaaa",
        settings=replace(DEFAULTS, read_block_s=0.2),
        clock=Clock(),
        on_wake=lambda _entry, due_ms: heard.append(due_ms),
        on_schedule=lambda _name: None,
        on_settlement=lambda _id: None,
        on_offer=lambda _lease: None,
        on_gap=lambda: heard.append(0),
    )
    listening = asyncio.create_task(listener.run())
    yield heard
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await listener.close()


@pytest.mark.leaves_keys("hints of ours")
@pytest.mark.usefixtures("in_one_partition")
async def test_a_worker_hears_hints_of_a_stream_that_began_anew(
    app: Durasleep, woken: list[int], real_server: Server
) -> None:
    client, keys = real_server.client(), (await store_of(app)).keyspaces[-1]
    await eventually(lambda: woken == [0], "the first look")
    await client.xadd(keys.wake, {"d": 1}, id=FAR_AHEAD)
    await eventually(lambda: woken == [0, 1], "a hint")
    await client.delete(keys.wake)
    await client.xadd(keys.wake, {"d": 2})
    await eventually(lambda: woken == [0, 1, 0], "the gap to be noticed")
    await client.xadd(keys.wake, {"d": 3})
    await eventually(lambda: woken == [0, 1, 0, 3], "the next hint")
