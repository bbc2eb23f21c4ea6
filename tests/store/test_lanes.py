"""What is done about each answer of a node that does not serve a call; on real clusters, by both kinds of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from durasleep.errors import StoreError, StoreUnavailable
from durasleep.model import Kind, PromiseId
from durasleep.protocol import promises, server
from durasleep.protocol.command import BatchItem, Command, slot_of_call
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import Connector
from durasleep.transport.reply_errors import refusal
from durasleep.transport.store import Store
from durasleep.transport.sync_store import SyncStore
from harness.cluster import Cluster, Node

PARTITIONS = 6
Call = Callable[[Any], Any]


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[Store]:
    store = Store(Connector.of(cluster.url), namespace="lanes", settings=DEFAULTS, patience_s=20.0)
    await store.init(PARTITIONS)
    yield store
    await store.aclose()


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, store: Store) -> Iterator[Call]:
    """Makes a call with a store of each kind; both know where each slot was at first."""
    if request.param == "async":
        yield store.call
        return
    sync = SyncStore(store.connector, namespace="lanes", settings=DEFAULTS, patience_s=20.0)
    sync.open()
    yield lambda call: asyncio.to_thread(sync.call, call)
    sync.close()


def create(keys: Keyspace, id: str) -> BatchItem[Created]:
    return promises.create(keys, PromiseId(id), kind=Kind.PROMISE, idempotency_key=id)


def at_home(keys: Keyspace, cluster: Cluster) -> tuple[Node, Node]:
    """The master that has a partition, and another one."""
    node = cluster.node_of(keys.slot)
    return node, next(other for other in cluster.masters() if other is not node)


async def test_calls_go_to_the_nodes_of_their_keys_and_come_back_in_order(store: Store, cluster: Cluster) -> None:
    created = await store.ask([create(keys, f"p-{n}") for n in range(40) for keys in store.keyspaces])
    assert all(isinstance(one, Created) for one in created)
    for keys in store.keyspaces:
        assert cluster.node_of(keys.slot).ask("EXISTS", keys.promise("p-7")) == 1
    looks: list[Command[bool]] = [server.exists(keys.promise(id)) for id in ("p-1", "no") for keys in store.keyspaces]
    assert await store.ask(looks) == [True] * PARTITIONS + [False] * PARTITIONS
    assert len({cluster.node_of(keys.slot).port for keys in store.keyspaces}) == 3


async def test_moved_the_new_node_is_asked_at_once(call: Call, store: Store, cluster: Cluster) -> None:
    keys = store.keyspaces[0]
    await call(create(keys, "before"))
    _, other = at_home(keys, cluster)
    cluster.move_slot(keys.slot, other)
    await call(create(keys, "after"))
    assert other.ask("EXISTS", keys.promise("before"), keys.promise("after")) == 2


async def test_ask_and_tryagain_the_call_waits_until_all_keys_are_there(
    call: Call, store: Store, cluster: Cluster
) -> None:
    keys, neighbour = store.keyspaces[0], store.keyspaces[1]
    for n in range(30):
        await call(create(keys, f"p-{n}"))
    source, other = at_home(keys, cluster)
    cluster.begin_move(keys.slot, other)
    cluster.move_some_keys(keys.slot)
    waiting = asyncio.ensure_future(call(create(keys, "new")))
    # A call of another slot, on whatever node, does not wait for it.
    assert isinstance(await call(create(neighbour, "beside")), Created)
    assert not waiting.done()
    cluster.finish_move(keys.slot)
    assert (await waiting).disposition == "created"
    assert other.ask("EXISTS", keys.promise("new")) == 1
    assert source.ask("CLUSTER", "COUNTKEYSINSLOT", keys.slot) == 0


async def test_readonly_masterdown_and_lost_the_replica_that_took_over_serves(
    call: Call, store: Store, cluster: Cluster
) -> None:
    keys = store.keyspaces[0]
    await call(create(keys, "before"))
    home, _ = at_home(keys, cluster)
    [replica] = cluster.replicas_of(home)
    cluster.failover(replica)
    assert (await call(create(keys, "readonly"))).disposition == "created"
    cluster.await_health()
    cluster.kill(replica)
    assert (await call(create(keys, "lost"))).disposition == "created"
    assert home.ask("EXISTS", keys.promise("before"), keys.promise("readonly"), keys.promise("lost")) == 3


async def test_moved_by_a_replica_that_cannot_confirm_either_the_new_master_is_asked(
    store: Store, cluster: Cluster
) -> None:
    """A replica answers WAIT with an error, too, and a PING as a master does."""
    keys = store.keyspaces[0]
    confirmed = store.confirming(1, None)
    await confirmed.call(create(keys, "before"))
    home, _ = at_home(keys, cluster)
    [replica] = cluster.replicas_of(home)
    cluster.failover(replica)
    cluster.await_health()
    assert (await confirmed.call(create(keys, "after"))).disposition == "created"
    assert replica.ask("EXISTS", keys.promise("before"), keys.promise("after")) == 2


async def test_clusterdown_it_waits_until_the_cluster_is_whole(call: Call, store: Store, cluster: Cluster) -> None:
    """Without a node for each slot, no node serves any."""
    keys = store.keyspaces[0]
    home, _ = at_home(keys, cluster)
    for node in cluster.masters():
        node.ask("CLUSTER", "DELSLOTS", keys.slot)
    waiting = asyncio.ensure_future(call(create(keys, "late")))
    with pytest.raises(Exception, match=r"CLUSTERDOWN|not served"):
        home.ask("EXISTS", keys.promise("late"))
    home.ask("CLUSTER", "ADDSLOTS", keys.slot)
    assert (await waiting).disposition == "created"


def test_loading_it_is_repeated() -> None:
    error = refusal("LOADING Redis is loading the dataset in memory")
    assert isinstance(error, StoreUnavailable)
    assert error.reason == "LOADING"


async def test_crossslot_is_our_own_mistake(store: Store) -> None:
    one, two = store.keyspaces[0], store.keyspaces[PARTITIONS - 1]
    wrong = Command([b"EXISTS", one.promise("a"), two.promise("a")], bool)
    with pytest.raises(StoreError, match="keys of two slots") as refused:
        await store.call(wrong)
    assert not isinstance(refused.value, StoreUnavailable)


async def test_a_command_that_names_no_key_says_where_it_runs(store: Store) -> None:
    with pytest.raises(StoreError, match="names neither a key nor the node"):
        slot_of_call(server.ping())
    assert await store.call(server.ping().at(3)) == b"PONG"


async def test_a_node_that_is_gone_holds_up_no_call_to_another(store: Store, cluster: Cluster) -> None:
    keys = store.keyspaces[0]
    home, other = at_home(keys, cluster)
    neighbour = next(one for one in store.keyspaces if cluster.node_of(one.slot) is other)
    await store.ask([create(keys, "a"), create(neighbour, "a")])
    cluster.pause(home)
    waiting = asyncio.ensure_future(store.call(create(keys, "b")))
    for n in range(20):
        await store.call(create(neighbour, f"b-{n}"))
    assert not waiting.done()
    cluster.resume(home)
    assert (await waiting).disposition == "created"


async def test_patience_ends_with_the_reason(cluster: Cluster) -> None:
    hasty = Store(Connector.of(cluster.url), namespace="lanes", settings=DEFAULTS, patience_s=0.2)
    await hasty.init(PARTITIONS)
    keys = hasty.keyspaces[0]
    home, other = at_home(keys, cluster)
    await hasty.ask([create(keys, f"p-{n}") for n in range(30)])
    cluster.begin_move(keys.slot, other)
    cluster.move_some_keys(keys.slot)
    with pytest.raises(StoreUnavailable, match=r"TRYAGAIN|ASK"):
        await hasty.call(create(keys, "new"))
    cluster.finish_move(keys.slot)
    assert (await hasty.call(create(keys, "new"))).disposition == "created"
    assert home.ask("CLUSTER", "COUNTKEYSINSLOT", keys.slot) == 0
    await hasty.aclose()


async def test_where_a_partition_is_does_not_change_because_a_call_was_refused(store: Store, cluster: Cluster) -> None:
    """The node is asked anew before the next call; what is shown is what the nodes say."""
    keys = store.keyspaces[0]
    before = await store.locate()
    assert [one.node for one in before] == [str(cluster.node_of(keys.slot)) for keys in store.keyspaces]
    store.connector.distrust(keys.slot)
    assert store.partitions.locate({}) == before
    assert sum(map(len, store.keyspaces.by_node())) == PARTITIONS
    assert len(store.keyspaces.by_node()) == 3
