"""Calls: the same id again, several waiters, and the clients that an application may already have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durasleep import Durasleep, Retry, RetryAfter, WaitTimeout
from durasleep.client.client import inbox_of, store_of
from durasleep.errors import ClientClosed
from durasleep.model import PromiseId
from durasleep.protocol import promises
from durasleep.protocol.keys import F
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.transport.connector import AnyClient
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import nap, passage, waiting
from tests.service.workers import Effects, eventually, serving, until


async def test_many_waiters_in_many_places_all_hear_of_the_end(
    app: Durasleep, new_app: NewApp, effects: Effects
) -> None:
    """More than one inbox, more than one waiter per inbox, and waiters by handle and by id."""
    others = [new_app() for _ in range(4)]
    async with serving(app):
        await app.rpc("passage", passage, effects.path)
        waiters = [asyncio.create_task(other.get("passage").result()) for other in others for _ in range(25)]
        handle = await app.rpc("passage", passage, effects.path)
        waiters += [asyncio.create_task(handle.result()) for _ in range(25)]
        await effects.standing("gate")
        effects.open("gate")
        assert set(await asyncio.gather(*waiters)) == {"through gate"}


@pytest.mark.usefixtures("in_one_partition")
async def test_a_client_that_stops_waiting_or_closes_is_not_waited_for(
    app: Durasleep, new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]

    def waiters() -> bytes:
        return client.hget(keys.promise("passage"), F["waiters"]) or b""

    async with serving(app):
        await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        before = waiters()
        other = new_app()
        for _ in range(3):
            with pytest.raises(WaitTimeout):
                await other.get("passage").result(timeout=0.2)
        await eventually(lambda: waiters() == before, "who gave up to be removed")
        for hurried in [new_app() for _ in range(3)]:  # they give up while their connection is being made
            await store_of(hurried)
            giving_up = asyncio.create_task(hurried.get("passage").result())
            for _ in range(5):
                await asyncio.sleep(0)
            giving_up.cancel()
            await hurried.describe("passage")
            assert waiters() == before
        with SyncClient(real_server.url, namespace=app.namespace) as sync:
            with pytest.raises(WaitTimeout):
                await asyncio.to_thread(sync.get("passage").result, timeout=0.2)
            assert waiters() == before
        waiting = asyncio.create_task(other.get("passage").result())
        await eventually(lambda: waiters() != before, "another one to wait")
        inbox = waiters().removeprefix(before).decode().strip()[1:]
        assert client.exists(keys.inbox(inbox))
        await other.aclose()
        with pytest.raises(ClientClosed):
            await waiting
        assert not client.exists(keys.inbox(inbox))
        effects.open("gate")
        assert await app.get("passage").result(timeout=30) == "through gate"


@pytest.mark.usefixtures("in_one_partition")
async def test_a_client_hears_at_once_however_many_others_have_come_and_gone(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    """Three hundred processes that waited for one id and were killed."""
    client: Any = real_server.sync_client()
    store = await store_of(app)
    async with serving(app):
        await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        for number in range(300):
            await store.call(promises.attach(store.keyspaces[-1], PromiseId("passage"), inbox=f"killed-{number}"))
        waiting = asyncio.create_task(app.get("passage").result())
        mine = f"i{inbox_of(app).name}"
        members = store.keyspaces[-1].waiters("passage")
        await eventually(lambda: client.sismember(members, mine), "the last one to wait")
        effects.open("gate")
        async with asyncio.timeout(DEFAULTS.client_check_s / 2):
            assert await waiting == "through gate"


Connect = Callable[[Server], AnyClient]
CLIENTS: dict[str, Connect] = {
    "asyncio": lambda server: server.client(),
    "asyncio, decoding": lambda server: server.client(decode_responses=True),
    "sync": lambda server: server.sync_client(),
    "sync, decoding": lambda server: server.sync_client(decode_responses=True),
}


@pytest.mark.parametrize("kind", CLIENTS)
async def test_an_existing_client_of_either_kind_serves_both_clients_and_the_worker(
    real_server: Server, new_app: NewApp, namespace: str, effects: Effects, kind: str
) -> None:
    """Bytes that are no text survive a client that decodes; the application's own client stays as it was."""
    theirs = CLIENTS[kind](real_server)
    app = new_app(theirs)
    raw = b"\xff\x00\xfe"
    async with serving(app):
        waits = await app.rpc("waits", waiting)
        await until(app, "waits", "suspended")
        assert await app.promises.resolve("waits~1", raw)
        assert await waits == raw

        def use() -> list[Any]:
            with SyncClient(theirs, namespace=namespace) as client:
                first = client.rpc("nap", nap, effects.path, 0.1)
                again = client.rpc("nap", nap, effects.path, 0.1)
                results = [first.disposition, again.disposition, first.result(timeout=30), again.result()]
                finished = client.rpc("nap", nap, effects.path, 0.1)
                assert client.get("waits").result() == raw
                assert client.describe("waits~1").state == "resolved"
                return [*results, finished.disposition, finished.done(), finished.result()]

        slept = "nap slept for 0.1 seconds"
        assert await asyncio.to_thread(use) == ["created", "attached", slept, slept, "finished", True, slept]


async def test_a_task_that_asks_for_another_attempt_gets_it_then_while_it_has_one_left(app: Durasleep) -> None:
    began: list[float] = []

    @app.task(retry=Retry(attempts=3, delay=3600, retry_on=()))
    async def throttled() -> str:
        began.append(time.monotonic())
        raise RetryAfter(0.05 if len(began) == 1 else timedelta(seconds=1)) from ConnectionError("429")

    @app.task
    def throttled_once() -> None:
        raise RetryAfter(3600)

    async with serving(app):
        with pytest.raises(ConnectionError, match="429"):
            await (await app.rpc("throttled", throttled)).result(timeout=20)
        with pytest.raises(RetryAfter, match="asks for another attempt in 3600 s"):
            await (await app.rpc("once", throttled_once)).result(timeout=20)
    assert len(began) == 3
    assert began[1] - began[0] >= 0.05
    assert began[2] - began[1] >= 1
