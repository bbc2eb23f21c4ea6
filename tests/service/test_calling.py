"""Calling: the same id again, waiting at several places, and the clients an application may already have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from durasleep import Context, Disposition, Durasleep, NotFound, OtherFunction, Retry, RetryAfter, WaitTimeout
from durasleep.client.client import inbox_of, store_of
from durasleep.errors import ClientClosed
from durasleep.model import PromiseId
from durasleep.protocol import promises
from durasleep.protocol.keys import F
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.transport.connector import AnyClient
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, failing, nap, note, passage, sleeping_workflow, waiting
from tests.service.workers import Effects, eventually, serving, until


async def test_the_same_id_attaches_while_pending_and_returns_the_kept_result_after(
    app: Durasleep, new_app: NewApp, effects: Effects
) -> None:
    async with serving(app):
        first = await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        second = await new_app().rpc("passage", passage, effects.path)
        assert (first.disposition, second.disposition) == (Disposition.CREATED, Disposition.ATTACHED)
        assert not await second.done()
        effects.open("gate")
        assert await first == await second == "through gate"
        third = await app.rpc("passage", passage, "arguments that differ change nothing")
        assert third.disposition is Disposition.FINISHED
        assert await third.done()
        assert await third == "through gate"
    assert effects.count("passage comes") == effects.count("gate") == 1


async def test_another_function_under_a_used_id_is_an_error_that_names_both(app: Durasleep, effects: Effects) -> None:
    async with serving(app):
        await app.rpc("order", passage, effects.path)
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            await app.rpc("order", double, 1)
        effects.open("gate")
        assert await app.get("order") == "through gate"
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            await app.rpc("order", "double", 1)
        with pytest.raises(OtherFunction, match="order"):
            await app.promises.create("order")


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


async def test_giving_up_waiting_does_not_end_what_is_waited_for(app: Durasleep, effects: Effects) -> None:
    async with serving(app):
        handle = await app.rpc("passage", passage, effects.path)
        with pytest.raises(WaitTimeout, match=r"passage.*goes on"):
            await handle.result(timeout=0.05)
        effects.open("gate")
        assert await handle.result(timeout=30) == "through gate"


async def test_a_client_that_stops_waiting_or_closes_is_not_waited_for(
    app: Durasleep, new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keys()

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
        await eventually(lambda: waiters() == before, "who gave up to be struck")
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


async def test_a_client_hears_at_once_however_many_others_have_come_and_gone(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    """Three hundred processes that asked for one id and were killed."""
    client: Any = real_server.sync_client()
    store = await store_of(app)
    async with serving(app):
        await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        for number in range(300):
            await store.call(promises.attach(store.keys(), PromiseId("passage"), inbox=f"killed-{number}"))
        waiting = asyncio.create_task(app.get("passage").result())
        mine = f"i{inbox_of(app).name}"
        members = store.keys().waiters("passage")
        await eventually(lambda: client.sismember(members, mine), "the last one to wait")
        effects.open("gate")
        async with asyncio.timeout(DEFAULTS.client_check_s / 2):
            assert await waiting == "through gate"


@pytest.mark.parametrize("limit", [0, 0.0, timedelta(0), 1e-9, -1])
async def test_no_time_to_wait_means_to_look_once(
    app: Durasleep, new_app: NewApp, real_server: Server, namespace: str, limit: float | timedelta
) -> None:
    await app.promises.create("pending")
    await app.promises.create("done")
    await app.promises.resolve("done", 7)

    def look(sync: SyncClient) -> None:
        assert sync.get("done").result(timeout=limit) == 7
        with pytest.raises(WaitTimeout):
            sync.get("pending").result(timeout=limit)
        with pytest.raises(NotFound):
            sync.get("nothing").result(timeout=limit)

    for client in (app, new_app()):
        assert await client.get("done").result(timeout=limit) == 7
        with pytest.raises(WaitTimeout):
            await client.get("pending").result(timeout=limit)
        with pytest.raises(NotFound):
            await client.get("nothing").result(timeout=limit)
    with SyncClient(real_server.url, namespace=namespace) as sync:
        await asyncio.to_thread(look, sync)
    await app.promises.cancel("pending")


async def test_what_was_raised_there_is_raised_here(app: Durasleep) -> None:
    async with serving(app):
        with pytest.raises(ValueError, match="no such luck"):
            await (await app.rpc("fails", failing, "no such luck"))
        described = await app.describe("fails")
        assert (described.state, described.error) == ("rejected", "ValueError: no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            await app.get("fails")


async def test_waiting_for_an_unknown_id_says_so(app: Durasleep) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await app.get("nobody").result(timeout=5)
    with pytest.raises(NotFound, match="nobody~3"):
        await app.describe("nobody~3")


@dataclass
class Order:
    number: int
    tags: list[str]


async def test_results_and_arguments_take_the_shape_of_their_hints(app: Durasleep) -> None:
    async def grown(ctx: Context, order: Order, tag: str) -> Order:
        return Order(order.number + 1, [*order.tags, tag])

    app.workflow(grown)
    async with serving(app):
        assert await (await app.rpc("grown", grown, Order(1, ["a"]), tag="b")) == Order(2, ["a", "b"])
        assert await app.get("grown", Order) == Order(2, ["a", "b"])


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


async def test_the_sync_client_says_the_same_things(
    app: Durasleep, real_server: Server, namespace: str, effects: Effects
) -> None:
    def use() -> None:
        with SyncClient(real_server.url, namespace=namespace) as client:
            handle = client.rpc("passage", "passage", effects.path)
            with pytest.raises(WaitTimeout, match=r"passage"):
                handle.result(timeout=0.05)
            with pytest.raises(OtherFunction, match=r"passage"):
                client.rpc("passage", double, 1)
            with pytest.raises(NotFound, match="nobody"):
                client.get("nobody").result(timeout=5)
            effects.open("gate")
            assert handle.result(timeout=30) == "through gate"
            with pytest.raises(ValueError, match="no such luck"):
                client.rpc("fails", failing, "no such luck").result(timeout=30)
            assert client.promises.create("promise").disposition is Disposition.CREATED
            assert client.promises.resolve("promise", [1, "two"])
            assert not client.promises.reject("promise", "too late")
            assert client.get("promise").result() == [1, "two"]
            sleeps = client.rpc("sleeps", sleeping_workflow, 3600)
            assert sleeps.cancel(force=True) == "canceled"

    async with serving(app):
        await asyncio.to_thread(use)


async def test_to_settle_a_promise_alike_again_is_no_other_outcome(app: Durasleep, real_server: Server) -> None:
    @app.workflow
    async def approving(ctx: Context) -> dict[str, int]:
        return await ctx.promise(name="approval")

    async with serving(app):
        handle = await app.rpc("a", approving)
        await until(app, "a", "suspended")
        await app.promises.create("p")
        with SyncClient(real_server.url, namespace=app.namespace) as client:
            for id in ("a~1", "p"):
                assert await app.promises.resolve(id, {"cents": 5})
                assert await app.promises.resolve(id, {"cents": 5})
                assert await asyncio.to_thread(client.promises.resolve, id, {"cents": 5})
                assert not await app.promises.resolve(id, {"cents": 6})
                assert not await app.promises.reject(id, "no")
                assert not await app.promises.cancel(id)
                assert (await app.describe(id)).value == {"cents": 5}
        assert await handle == {"cents": 5}


async def test_a_delayed_call_starts_when_due_or_when_woken(app: Durasleep, effects: Effects) -> None:
    async with serving(app):
        later = await app.rpc("later", note, effects.path, "later", delay=3600)
        soon = await app.rpc("soon", note, effects.path, "soon", delay=0.1)
        await soon
        described = await app.describe("later")
        assert (described.status, [one.id for one in described.waiting_on]) == ("delayed", ["later~start"])
        assert (await app.wake("later")).word == "woken"
        await later
    assert effects.lines() == ["soon", "later"]


async def test_one_worker_can_be_named(app: Durasleep, new_app: NewApp, effects: Effects) -> None:
    """What is meant for one worker waits for it, and is not taken by others of its group."""
    handle = await app.rpc("mine", note, effects.path, "mine", target="poll://uni@workers/w2")
    async with serving(app, "w1"):
        await (await app.rpc("any", note, effects.path, "any", target="poll://any@workers"))
        assert (await app.describe("mine")).status == "queued"
        async with serving(new_app(), "w2"):
            await handle
    assert effects.lines() == ["any", "mine"]


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
