"""Executions found by their function or a label, with an index and without."""

from __future__ import annotations

from typing import Any

import pytest

from durasleep import Durasleep, UsageError
from durasleep.client.client import store_of
from durasleep.errors import CorruptData, NotFound
from durasleep.protocol.keys import Keyspace
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, waiting
from tests.service.workers import eventually, serving


def member_count(server: Server, keyspaces: Any, label: str) -> int:
    client: Any = server.sync_client()
    return sum(client.zcard(keys.index(label)) for keys in keyspaces)


async def make(app: Durasleep, customer: str, count: int) -> list[str]:
    labeled = app.options(labels={"customer": customer, "plan": "pro"}, delay="1h")
    return [one.id for one in await labeled.rpc_many(double, [(f"{customer}-{n}", n) for n in range(count)])]


@pytest.fixture
async def indexed(new_app: NewApp) -> Durasleep:
    """An application whose worker has made its indexes, and has left."""
    app = new_app()
    app.registry.index = ("func", "customer")
    async with serving(app):
        pass
    return app


async def test_what_has_a_label_is_found_the_latest_first(indexed: Durasleep) -> None:
    assert await indexed.indexes.ls() == ["func", "customer"]
    ids = await make(indexed, "7", 3)
    await make(indexed, "77", 3)
    await make(indexed, "8", 3)
    found = await indexed.search(labels={"customer": "7"})
    assert sorted(one.id for one in found) == sorted(ids)
    assert (found.notes, found.looked_at) == ([], 0)
    assert [one.id for one in await indexed.search(labels={"customer": "7", "plan": "free"})] == []
    assert len(await indexed.search(function="double", labels={"customer": "8"})) == 3
    assert len(await indexed.search(function="double")) == 9
    assert await indexed.search(labels={"customer": "7"}, since=0) == []
    assert len(await indexed.search(labels={"customer": "7"}, since="1h")) == 3


async def test_a_worker_without_functions_makes_the_indexes(real_server: Server, namespace: str) -> None:
    async with Durasleep(real_server.url, namespace=namespace, index=("func",)) as app, serving(app):
        assert await app.indexes.ls() == ["func"]


def test_one_name_is_no_list_of_indexes() -> None:
    with pytest.raises(UsageError, match=r"index 'func': give a tuple of names, such as \('func',\)"):
        Durasleep(index="func")


async def test_an_index_that_is_not_ours_is_named_and_nothing_is_made(indexed: Durasleep, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    key = (await store_of(indexed)).keys("a").index("customer")
    client.set(key, "not ours")
    with pytest.raises(CorruptData, match="holds a string, not a zset"):
        await indexed.options(labels={"customer": "7"}).rpc("a", double, 1)
    with pytest.raises(NotFound):
        await indexed.describe("a")
    assert [one.kind for one in (await indexed.fsck()).findings] == ["corrupt"]
    client.delete(key)


async def test_without_an_index_it_says_how_many_were_looked_at(app: Durasleep) -> None:
    await make(app, "7", 3)
    found = await app.search(labels={"customer": "7"})
    assert len(found) == 3
    assert found.looked_at == 3


async def test_an_index_is_built_from_what_is_there_and_dropped(app: Durasleep, real_server: Server) -> None:
    ids = await make(app, "7", 3)
    assert await app.indexes.build("customer") >= 3
    assert await app.indexes.build("customer") >= 3, "it may be repeated"
    found = await app.search(labels={"customer": "7"})
    assert (sorted(one.id for one in found), found.looked_at) == (sorted(ids), 0)
    assert await app.indexes.drop("customer")
    assert not await app.indexes.drop("customer")
    assert member_count(real_server, (await store_of(app)).keyspaces, "customer") == 0
    with pytest.raises(UsageError, match="index 'No': give the name of a label"):
        await app.indexes.build("No")


async def test_children_are_found_and_an_ending_changes_nothing(indexed: Durasleep) -> None:
    async with serving(indexed):
        handle = await indexed.options(labels={"customer": "9"}).rpc("w", waiting)
        await eventually(lambda: is_waiting(indexed, "w"), "it to wait")
        await indexed.promises.resolve("w~1", 1)
        assert await handle.result(30) == 1
    assert [one.id for one in await indexed.search(status="done", labels={"customer": "9"})] == ["w"]


async def is_waiting(app: Durasleep, id: str) -> bool:
    return (await app.describe(id)).status == "suspended"


async def test_the_janitor_removes_what_is_gone(
    indexed: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.worker.loops.janitor.LOOK_S", 0.05)
    ids = await make(indexed, "7", 20)
    for id in ids[:15]:
        await indexed.get(id).cancel(force=True)
    client: Any = real_server.sync_client()
    keyspaces = (await store_of(indexed)).keyspaces
    for id in ids[:15]:
        keys: Keyspace = keyspaces.of(id)
        client.delete(keys.promise(id))
    async with serving(indexed):
        await eventually(lambda: member_count(real_server, keyspaces, "customer") == 5, "it to be tidied")
    assert len(await indexed.search(labels={"customer": "7"})) == 5


async def test_of_very_many_the_few_that_are_wanted_are_found_with_few_commands(
    indexed: Durasleep, real_server: Server
) -> None:
    late = indexed.options(delay="1h")
    await late.rpc_many(double, [(f"many-{n}", n) for n in range(3_000)])
    await indexed.options(delay="1h", labels={"customer": "rare"}).rpc_many(
        double, [(f"rare-{n}", n) for n in range(5)]
    )
    client: Any = real_server.sync_client()
    before = client.info("stats")["total_commands_processed"]
    found = await indexed.search(labels={"customer": "rare"})
    assert len(found) == 5
    assert client.info("stats")["total_commands_processed"] - before <= 100
