"""Workflows, workers and clients on a real Redis Cluster, while its masters die and its slots move."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from durasleep import Context, Durasleep, State, View
from durasleep.client.client import store_of
from durasleep.errors import StoreUnavailable, UsageError
from durasleep.protocol.keys import meta_key
from durasleep.protocol.partitions import slot_of
from durasleep.sync import Client as SyncClient
from durasleep.transport import topology
from durasleep.transport.connector import AnyClient
from harness.cluster import Cluster, free_port
from harness.servers import MakeServer, limit
from tests.service.functions import QUICK, double, gathering, make_app, nap, passage, sleeping_workflow
from tests.service.workers import Effects, Workers, eventually, serving, until

PARTITIONS = 8
USER = "durasleep:change-me"
Source = Callable[[Cluster], AnyClient | str]


@pytest.fixture
async def wide(cluster: Cluster, namespace: str) -> AsyncIterator[Durasleep]:
    """An application whose namespace has partitions on all masters."""
    app = make_app(cluster.url, namespace, settings=QUICK)
    await app.init(partitions=PARTITIONS)
    yield app
    await eventually(lambda: _is_sound(app), "nothing for fsck to find")
    await app.aclose()


async def _is_sound(app: Durasleep) -> bool:
    return not (await app.fsck()).findings


@pytest.fixture
def workers(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    """Starts worker processes on the cluster."""
    workers = Workers(cluster.url, namespace, tmp_path)
    yield workers
    workers.clean_up()


SOURCES: dict[str, Source] = {
    "url": lambda cluster: cluster.url,
    "sync client": lambda cluster: redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port),
    "async client": lambda cluster: redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port),
}


async def test_what_is_published_is_seen_and_watched_on_every_node(
    wide: Durasleep, cluster: Cluster, namespace: str, effects: Effects
) -> None:
    effects.open("gate")
    ids = [f"p-{n}" for n in range(12)]

    async def last_of(id: str) -> View:
        return [view async for view in wide.watch(id, timeout=30)][-1]

    def last_of_thread(id: str) -> View:
        with closing(SyncClient(cluster.url, namespace=namespace)) as client:
            return list(client.watch(id, timeout=30))[-1]

    async with serving(wide):
        await wide.rpc_many("publishing", [(id, effects.path) for id in ids])
        seen = await asyncio.gather(*map(last_of, ids), asyncio.to_thread(last_of_thread, "p-0"))
    assert {view.status for view in seen} == {"through"}
    assert {view.progress.fraction for view in seen if view.progress} == {1.0}
    assert [(await wide.view(id)).state for id in ids] == [State.RESOLVED] * 12


async def summing(ctx: Context, count: int) -> int:
    """The sum of so many messages; each is answered with the sum so far."""
    total = 0
    async for message in ctx.messages("add", int):
        total += message.value
        count -= 1
        await message.reply(total)
        if not count:
            break
    return total


async def passing_on(ctx: Context, ids: list[str]) -> list[str]:
    return [str(await ctx.send(id, "add", 3)) for id in ids]


async def test_messages_and_answers_reach_every_node(wide: Durasleep, cluster: Cluster, namespace: str) -> None:
    wide.workflow(summing)
    wide.workflow(passing_on)
    ids = [f"m-{n}" for n in range(12)]

    def ask_in_thread(id: str) -> int:
        with closing(SyncClient(cluster.url, namespace=namespace)) as client:
            return client.ask(id, "add", 2, timeout=30, returns=int)

    async with serving(wide):
        asked = [wide.ask(id, "add", 1, timeout=30, start=(summing, 3)) for id in ids]
        assert await asyncio.gather(*asked) == [1] * 12
        assert await asyncio.gather(*[asyncio.to_thread(ask_in_thread, id) for id in ids]) == [3] * 12
        assert len(await (await wide.rpc("passing", passing_on, ids)).result(30)) == 12
        assert [await wide.get(id).result(30) for id in ids] == [6] * 12


@pytest.mark.parametrize("source", SOURCES)
async def test_a_namespace_of_a_cluster_serves_all_kinds_of_calls(
    cluster: Cluster, namespace: str, source: str
) -> None:
    app = make_app(SOURCES[source](cluster), namespace)
    await app.init(partitions=PARTITIONS)
    store = await store_of(app)
    assert {cluster.node_of(keys.slot) for keys in store.keyspaces} == set(cluster.masters())
    async with serving(app):
        handles = [await app.rpc(f"s-{n}", sleeping_workflow, 0.1) for n in range(20)]
        assert await app.gather(handles) == ["Slept for 0.1 seconds"] * 20
        assert await app.gather(await app.rpc_many(double, [(f"d-{n}", n) for n in range(100)])) == [
            2 * n for n in range(100)
        ]
        sync_client = SyncClient(cluster.url, namespace=namespace)
        handle = await asyncio.to_thread(sync_client.rpc, "from-a-thread", gathering, 4)
        assert await asyncio.to_thread(handle.result) == [0, 2, 4, 6]
        assert await asyncio.to_thread(sync_client.gather, [sync_client.get(f"d-{n}") for n in range(20)]) == [
            2 * n for n in range(20)
        ]
        sync_client.close()
        assert {one.id for one in await app.search(status="done")} >= {f"s-{n}" for n in range(20)}
        await app.rpc("later", sleeping_workflow, 3600)
        await until(app, "later", "suspended")
        assert [timer.id for timer in await app.timers()] == ["later~1"]
        await app.cancel("later")
    assert (await app.fsck()).findings == []
    await app.aclose()


async def test_a_master_that_dies_is_replaced_and_all_finish_once(
    cluster: Cluster, wide: Durasleep, effects: Effects, workers: Workers
) -> None:
    await workers.start("w1", "w2", app="quick_app")
    handles = [await wide.rpc(f"nap-{n}", nap, effects.path, 1.0) for n in range(2 * PARTITIONS)]
    for n in range(2 * PARTITIONS):
        await until(wide, f"nap-{n}", "suspended")
    await asyncio.to_thread(cluster.await_in_step)
    cluster.kill(cluster.masters()[0])
    assert await wide.gather(handles) == [f"nap-{n} slept for 1 seconds" for n in range(2 * PARTITIONS)]
    for n in range(2 * PARTITIONS):
        assert effects.count(f"nap-{n} lies down") == 1


async def test_slots_that_move_under_load_lose_nothing_and_double_nothing(cluster: Cluster, wide: Durasleep) -> None:
    store = await store_of(wide)
    ended = asyncio.Event()

    async def move_about() -> int:
        for count, keys in enumerate(itertools.cycle(store.keyspaces)):
            home = cluster.node_of(keys.slot)
            other = next(node for node in cluster.masters() if node is not home)
            await asyncio.to_thread(cluster.move_slot, keys.slot, other)
            if ended.is_set():
                return count
        raise AssertionError

    async with serving(wide, "w1"), serving(wide, "w2"):
        moving = asyncio.create_task(move_about())
        for part in range(5):
            done = await wide.gather(await wide.rpc_many(double, [(f"d-{part}-{n}", n) for n in range(200)]))
            assert done == [2 * n for n in range(200)]
        sums = [await wide.rpc(f"sum-{n}", gathering, 10) for n in range(10)]
        assert await wide.gather(sums) == [[2 * n for n in range(10)]] * 10
        ended.set()
        assert await moving >= PARTITIONS, "every partition has moved under load"


async def test_a_lease_lasts_while_its_slot_moves(cluster: Cluster, wide: Durasleep, effects: Effects) -> None:
    store = await store_of(wide)
    async with serving(wide, "w1"), serving(wide, "w2"):
        handle = await wide.rpc("standing", passage, effects.path)
        await effects.standing("gate")
        keys = store.keys("standing")
        for _ in range(4):
            home = cluster.node_of(keys.slot)
            other = next(node for node in cluster.masters() if node is not home)
            await asyncio.to_thread(cluster.move_slot, keys.slot, other)
        effects.open("gate")
        assert await handle == "through gate"
    assert effects.count("gate") == 1


async def test_a_node_given_as_a_single_server_is_refused_and_nothing_is_written(
    cluster: Cluster, namespace: str
) -> None:
    for node in cluster.masters():
        app = make_app(node.url, namespace)
        with pytest.raises(UsageError, match=r"is a node of a Redis Cluster.*redis\+cluster://"):
            await app.rpc("a", double, 1)
        with pytest.raises(UsageError, match="is a node of a Redis Cluster"):
            await asyncio.to_thread(SyncClient(node.url, namespace=namespace).rpc, "a", double, 1)
        with pytest.raises(UsageError, match="is a node of a Redis Cluster"):
            await app.worker().run()
        await app.aclose()
    assert sum(node.ask("DBSIZE") for node in cluster.masters()) == 0


async def test_a_cluster_that_does_not_serve_all_slots_is_refused_and_nothing_is_written(
    make_server: MakeServer, namespace: str
) -> None:
    args = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    node = make_server(port=free_port(), extra_args=args)
    client: Any = redis.Redis(port=node.port)
    client.execute_command("CLUSTER", "ADDSLOTS", *range(10_000))
    app = make_app(f"redis+cluster://127.0.0.1:{node.port}", namespace)
    with pytest.raises(StoreUnavailable, match=r"serves slot 10000: 6384 of its 16384 slots are served by none"):
        await app.rpc("a", double, 1)
    with pytest.raises(StoreUnavailable, match="6384 of its 16384 slots"):
        await app.worker().run(start_timeout_s=0.2)
    assert client.dbsize() == 0
    client.close()
    await app.aclose()


async def test_a_user_with_the_rights_of_the_example_can_do_all_of_it(cluster: Cluster, namespace: str) -> None:
    for node in cluster.nodes:
        limit(node.url, namespace)
    app = make_app(cluster.url.replace("://", f"://{USER}@"), namespace)
    await app.init(partitions=PARTITIONS)
    async with serving(app, concurrency=1):
        assert await app.gather(await app.rpc_many(double, [(f"d-{n}", n) for n in range(20)])) == [
            2 * n for n in range(20)
        ]
        assert await (await app.rpc("parent", gathering, 4)) == [0, 2, 4, 6]
        assert [one.moving_to for one in await app.partitions()] == [""] * PARTITIONS
        assert not [one for one in await app.diagnose() if one.subject == "rights" and one.level != "good"]
    assert (await app.fsck()).findings == []
    await app.aclose()
    for node in cluster.nodes:
        node.ask("ACL", "DELUSER", USER.partition(":")[0])


async def test_while_a_slot_moves_lists_leave_its_partition_out_and_say_so(cluster: Cluster, wide: Durasleep) -> None:
    store = await store_of(wide)
    async with serving(wide):
        ids = {f"s-{n}": store.keys(f"s-{n}").partition for n in range(30)}
        await wide.rpc_many(sleeping_workflow, [(id, 3600) for id in ids])
        for id in ids:
            await until(wide, id, "suspended")
        home = cluster.node_of(store.keyspaces[0].slot)
        other = next(node for node in cluster.masters() if node is not home)
        cluster.begin_move(store.keyspaces[0].slot, other)
        moving = {id for id, partition in ids.items() if partition == 0}
        found = await wide.search()
        assert {one.id for one in found} == ids.keys() - moving
        assert not found.is_all
        timers = await wide.timers(100)
        assert {timer.id.partition("~")[0] for timer in timers} == ids.keys() - moving
        assert not timers.is_all
        assert not (await wide.fsck()).is_whole
        seen = await wide.overview()
        assert (seen.sleepers, seen.partitions[0].is_asked, seen.is_all) == (len(ids) - len(moving), False, False)
        first, *others = await wide.partitions()
        assert (first.node, first.moving_to, first.timers) == (str(home), str(other), None)
        assert sum(one.timers or 0 for one in others) == len(ids) - len(moving)
        said = [one.text for one in await wide.diagnose() if one.subject == "partitions"]
        assert any(f"partition 0 is moving to {other}" in text for text in said)
        await asyncio.to_thread(cluster.finish_move, store.keyspaces[0].slot)
        assert {one.id for one in await wide.search()} == ids.keys()
        assert (await wide.fsck()).is_whole
        seen = await wide.overview()
        assert (seen.sleepers, len(seen.groups), seen.is_all) == (len(ids), 1, True)
        assert {row.node for row in seen.partitions} == {str(node) for node in cluster.masters()}
        for id in ids:
            await wide.cancel(id)
            await until(wide, id, "done")


async def test_another_number_of_partitions_is_refused(wide: Durasleep) -> None:
    with pytest.raises(UsageError, match=f"has {PARTITIONS} partitions already"):
        await wide.init(partitions=2 * PARTITIONS)


async def test_a_namespace_of_a_cluster_is_made_by_init_alone(cluster: Cluster, namespace: str) -> None:
    """Not by the first who looks; and there is no trace of him."""
    app = make_app(cluster.url, namespace)
    with (
        SyncClient(cluster.url, namespace=namespace) as sync_client,
        pytest.raises(UsageError, match=f"no namespace '{namespace}' in this cluster: make it with `durasleep init"),
    ):
        await asyncio.to_thread(sync_client.rpc, "a", double, 1)
    with pytest.raises(UsageError, match="there is no namespace"):
        await app.partitions()
    with pytest.raises(UsageError, match="there is no namespace"):
        async with serving(app):
            pass
    assert [node.ask("DBSIZE") for node in cluster.masters()] == [0, 0, 0]
    await app.init(partitions=PARTITIONS)
    assert len(await app.partitions()) == PARTITIONS
    await app.aclose()


async def test_a_worker_restores_the_number_of_partitions_that_a_node_has_lost(
    cluster: Cluster, wide: Durasleep, namespace: str
) -> None:
    meta = meta_key(namespace)
    home = cluster.node_of(slot_of(namespace))
    async with serving(wide):
        before = home.ask("HGET", meta, "partitions")
        home.ask("DEL", meta)
        await eventually(lambda: home.ask("HGET", meta, "partitions") == before, "the worker to restore the number")
        newcomer = make_app(cluster.url, namespace)
        assert await (await newcomer.rpc("d", double, 2)) == 4
        await newcomer.aclose()


async def test_where_one_node_does_not_answer_all_others_are_used_and_shown(
    cluster: Cluster, wide: Durasleep, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By those who come meanwhile, too. What is in its partitions waits, and goes on when the node is back."""
    monkeypatch.setattr(topology, "ANSWER_S", 0.3)
    for node in cluster.masters():
        node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    spaces = (await store_of(wide)).keyspaces
    meta_home = cluster.node_of(slot_of(namespace))
    home = next(node for node in cluster.masters() if node is not meta_home)
    [replica] = cluster.replicas_of(home)
    lost = {keys.partition for keys in spaces if cluster.node_of(keys.slot) is home}
    ids = {f"s-{n}": spaces.of(f"s-{n}").partition for n in range(30)}
    await wide.rpc_many(sleeping_workflow, [(id, 3600) for id in ids])
    async with serving(wide):
        for id in ids:
            await until(wide, id, "suspended")
    living = [id for id, partition in ids.items() if partition not in lost]
    await asyncio.to_thread(cluster.await_in_step)
    cluster.kill(replica)
    cluster.kill(home)
    newcomer = make_app(cluster.url, namespace, settings=QUICK)
    found = await newcomer.search(status="suspended")
    assert ({one.id for one in found}, found.is_all) == (set(living), False)
    assert not (await newcomer.fsck()).is_whole
    assert {one.number for one in await newcomer.partitions() if not one.answers} == lost
    seen = await newcomer.overview()
    assert ({row.number for row in seen.partitions if not row.is_asked}, seen.is_all) == (lost, False)
    assert seen.sleepers == len(living)
    assert not (await newcomer.stats()).is_all
    said = [one.text for one in await newcomer.diagnose() if one.subject == "cluster"]
    assert any(f"{home} does not answer" in text for text in said)
    async with serving(newcomer, "w2"):
        for id in living:
            await newcomer.wake(id)
            assert await newcomer.get(id).result(30) == "Slept for 3600 seconds"
        cluster.revive(home)
        cluster.revive(replica)
        await asyncio.to_thread(cluster.await_health)
        for id in ids.keys() - set(living):  # without a disk, its data is lost: they are called again
            await newcomer.rpc(id, sleeping_workflow, 0)
            assert await newcomer.get(id).result(30) == "Slept for 0 seconds"
    await newcomer.aclose()


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_call_in_a_pipeline_of_a_cluster_client_starts_with_it(
    cluster: Cluster, wide: Durasleep, namespace: str, transaction: bool
) -> None:
    port = cluster.nodes[0].port
    async with serving(wide), redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as client:
        pipeline = client.pipeline(transaction=transaction)
        handle = await wide.rpc("piped", double, 2, pipeline=pipeline)
        pipeline.incr(await wide.key("piped", "counter"))
        await pipeline.execute()
        assert await handle == 4
        assert await client.delete(await wide.key("piped", "counter")) == 1
        sync_client = redis.RedisCluster(host="127.0.0.1", port=port)
        with SyncClient(sync_client, namespace=namespace) as starter:
            sync_pipeline = sync_client.pipeline(transaction=transaction)
            await asyncio.to_thread(starter.rpc, "piped too", double, 3, pipeline=sync_pipeline)
            await asyncio.to_thread(sync_pipeline.execute)
            assert await wide.get("piped too") == 6
