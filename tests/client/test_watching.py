"""What executions publish, as clients see it: once, and change by change."""

from __future__ import annotations

import pytest

from durasleep import ClientClosed, NotFound, Settings, State, View, WaitTimeout
from durasleep.errors import InvalidId
from durasleep.protocol.keys import VIEW
from harness.servers import Server
from tests.client.async_side import Client, NewClient, eventually, store_of, until
from tests.client.functions import Serving, telling
from tests.service.functions import sleeping_workflow

SOON = Settings(client_check_s=0.2, read_block_s=0.2)
"""What was missed is looked for soon."""


async def test_a_view_is_one_call_and_shows_what_is_kept(
    client: Client, serving: Serving, exchanges: list[int]
) -> None:
    with serving():
        handle = await client.rpc("a", telling, ["one", "two"])
        await until(client, "a", "suspended")
        await client.view("a")  # the server knows the script
        exchanges.clear()
        view = await client.view("a")
        assert len(exchanges) == 1
        assert (view.id, view.state, view.status, dict(view.steps)) == ("a", State.PENDING, "one", {})
        assert view.progress is None
        assert not view.has_ended
        for number in ("1", "2"):
            await until(client, "a", "suspended")
            await client.promises.resolve(f"a~{number}")
        await handle.result(30)
        assert await client.view("a") == View("a", State.RESOLVED, {"status": "two"})
    await client.promises.create("promise")
    for id in ("nobody", "promise", "a~1"):
        with pytest.raises(NotFound):
            await client.view(id)
    with pytest.raises(InvalidId):
        await client.view("")


async def test_a_watch_gives_the_view_at_once_and_after_each_change(client: Client, serving: Serving) -> None:
    with serving():
        await client.rpc("a", telling, ["one", "two", "three"])
        await until(client, "a", "suspended")
        seen: list[str] = []
        async for view in client.watch("a", timeout="30s"):
            seen.append(f"{view.status} {view.state}")
            if not view.has_ended:
                await until(client, "a", "suspended")
                await client.promises.resolve(f"a~{len(seen)}")
        assert seen == ["one pending", "two pending", "three pending", "three resolved"]
        assert [view.status async for view in client.watch("a")] == ["three"]


async def test_a_watch_may_wait_for_results_between_two_changes(client: Client, serving: Serving) -> None:
    """One inbox is read by both, and each hears what is for it."""
    with serving():
        await client.rpc("a", telling, ["one", "two"])
        await until(client, "a", "suspended")
        seen: list[str] = []
        async for view in client.watch("a", timeout=30):
            seen.append(view.status)
            if not view.has_ended:
                await until(client, "a", "suspended")
                await client.promises.resolve(f"a~{len(seen)}")
                await (await client.rpc(f"nap {len(seen)}", sleeping_workflow, 0.01)).result(30)
        assert seen == ["one", "two", "two"]


async def test_a_watch_that_is_left_is_struck(client: Client, real_server: Server) -> None:
    await client.rpc("a", telling, ["one"])
    keys = (await store_of(client)).keys("a")
    redis = real_server.sync_client()

    def is_struck() -> bool:
        return redis.hlen(keys.view("a")) == 0

    one, other = client.watch("a"), client.watch("a")
    assert (await anext(one)).state is State.PENDING
    assert (await anext(other)).state is State.PENDING
    await one.aclose()
    assert redis.hkeys(keys.view("a")) == [VIEW["watchers"].encode()]
    await other.aclose()
    await eventually(is_struck, "the line to be struck")
    short = client.watch("a", timeout=0.1)
    assert (await anext(short)).state is State.PENDING
    with pytest.raises(WaitTimeout, match=r"a has not settled within 0.1 s; it goes on"):
        await anext(short)
    await eventually(is_struck, "the line to be struck")
    await client.cancel("a", force=True)


async def test_a_watch_of_what_is_not_there_is_refused(client: Client) -> None:
    for id, kind in (("nobody", NotFound), ("", InvalidId)):
        with pytest.raises(kind):
            await anext(client.watch(id))


async def test_a_change_that_was_missed_is_found(new_client: NewClient, client: Client, real_server: Server) -> None:
    watcher = new_client(settings=SOON)
    await client.rpc("a", telling, ["one"])
    watch = watcher.watch("a", timeout=30)
    await anext(watch)
    keys = (await store_of(client)).keys("a")
    real_server.sync_client().hdel(keys.view("a"), VIEW["watchers"])
    await client.cancel("a", force=True)
    assert (await anext(watch)).state is State.CANCELED


async def test_a_client_that_is_closed_ends_its_watches(new_client: NewClient, client: Client) -> None:
    watcher = new_client(settings=SOON)
    await client.rpc("a", telling, ["one"])
    watch = watcher.watch("a", timeout=30)
    await anext(watch)
    await watcher.aclose()
    with pytest.raises(ClientClosed):
        await anext(watch)
    await client.cancel("a", force=True)
