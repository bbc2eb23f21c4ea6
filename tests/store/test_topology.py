"""Which node of a cluster serves a slot: known after one question, and asked again after trouble, by all together."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from durasleep.errors import StoreError, StoreRefused, StoreUnavailable
from durasleep.protocol.partitions import SLOTS
from durasleep.protocol.slots import Address
from durasleep.transport.cluster import AnyClusterClient
from durasleep.transport.connection import Link, SyncLink
from durasleep.transport.connector import Connector
from durasleep.transport.topology import ANSWER_S, Remap, Topology
from harness import cluster as clusters
from harness.cluster import Cluster, Node
from harness.servers import MakeServer, Server, free_port
from tests.side_by_side import in_forked_child, in_threads

SLOT = 7
ALONE = ("--cluster-enabled", "yes")
"""What makes a server the only node of a cluster without any slots."""


def address_of(node: Node) -> Address:
    return "127.0.0.1", node.port


def topology_of(source: str | AnyClusterClient) -> Topology:
    topology = Connector.of(source).topology
    assert topology is not None
    return topology


def url_of(*nodes: Node) -> str:
    return f"redis+cluster://{','.join(map(str, nodes))}"


def questions(*nodes: Node) -> int:
    """How often nodes were asked for their slots, by us and by the cluster's own methods."""
    found = 0
    for node in nodes:
        for line in node.ask("INFO", "commandstats").splitlines():
            if line.startswith(("cmdstat_cluster|slots:", "cmdstat_cluster:")):  # the latter before Redis 7
                found += int(line.partition("calls=")[2].partition(",")[0])
    return found


async def test_each_slot_is_found_where_it_is(cluster: Cluster) -> None:
    topology = topology_of(url_of(cluster.nodes[-1]))
    assert topology.masters == ()
    for slot in (0, SLOT, SLOTS // 2, SLOTS - 1):
        assert await topology.find(slot) == topology.find_sync(slot) == address_of(cluster.node_of(slot))
    assert topology.masters == tuple(map(address_of, cluster.masters()))


async def test_a_moved_slot_is_found_anew_when_it_is_distrusted(cluster: Cluster) -> None:
    topology = topology_of(cluster.url)
    source = cluster.node_of(SLOT)
    assert await topology.find(SLOT) == address_of(source)
    [to] = [node for node in cluster.masters()[1:] if node is not source][:1]
    cluster.move_slot(SLOT, to)
    cluster.await_health()
    asked = questions(*cluster.nodes)
    assert await topology.find(SLOT) == address_of(source), "nobody has told it"
    topology.distrust(SLOT, address_of(to))
    assert await topology.find(SLOT) == address_of(source), "that another node does not serve it is no news"
    assert questions(*cluster.nodes) == asked
    topology.distrust(SLOT, address_of(source))
    assert topology.find_sync(SLOT) == address_of(to)
    topology.distrust(SLOT, address_of(source))
    assert await topology.find(SLOT) == address_of(to)
    assert questions(*cluster.nodes) == asked + 1
    cluster.move_slot(SLOT, source)
    cluster.await_health()
    await topology.refresh()
    assert topology.find_sync(SLOT) == address_of(source)
    cluster.move_slot(SLOT, to)
    cluster.await_health()
    topology.refresh_sync()
    assert topology.find_sync(SLOT) == address_of(to)


async def test_whoever_asks_at_the_same_time_shares_one_question(cluster: Cluster) -> None:
    """Threads, and the loops in some of them."""
    topology = topology_of(cluster.url)
    expected = address_of(cluster.node_of(SLOT))

    def find(number: int) -> set[Address]:
        async def find_many() -> set[Address]:
            return set(await asyncio.gather(*(topology.find(SLOT) for _ in range(5))))

        return asyncio.run(find_many()) if number % 2 else {topology.find_sync(SLOT)}

    assert await asyncio.to_thread(in_threads, find) == [{expected}] * 8
    assert topology._turn == 1  # pyright: ignore[reportPrivateUsage] - one question, to as many nodes as it takes


async def test_questions_keep_a_distance(cluster: Cluster) -> None:
    topology = topology_of(cluster.url)
    await topology.find(SLOT)
    asked, began = questions(*cluster.nodes), time.monotonic()
    for _ in range(3):
        topology.distrust(SLOT)
        await topology.find(SLOT)
    assert questions(*cluster.nodes) == asked + 3
    assert time.monotonic() - began > 0.2


async def test_a_waiter_that_is_cancelled_leaves_the_question_to_the_others(cluster: Cluster) -> None:
    topology = topology_of(cluster.url)
    first, second = (asyncio.ensure_future(topology.find(SLOT)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == address_of(cluster.node_of(SLOT))
    assert first.cancelled()


def test_a_forked_child_knows_what_its_parent_knew_and_asks_for_itself(cluster: Cluster) -> None:
    topology = topology_of(cluster.url)
    expected = topology.find_sync(SLOT)
    asked = questions(*cluster.nodes)

    def ask() -> None:
        assert topology.find_sync(SLOT) == expected
        topology.distrust(SLOT)
        assert topology.find_sync(SLOT) == expected

    assert in_forked_child(ask)() == 0
    assert questions(*cluster.nodes) == asked + 1
    assert topology.find_sync(SLOT) == expected


async def test_a_failover_is_followed_although_the_only_node_that_was_named_is_gone(cluster: Cluster) -> None:
    master = cluster.node_of(SLOT)
    [replica] = cluster.replicas_of(master)
    topology = topology_of(url_of(master))
    assert await topology.find(SLOT) == address_of(master)
    cluster.kill(master)
    cluster.failover(replica, "TAKEOVER")
    topology.distrust(SLOT, address_of(master))
    assert await topology.find(SLOT) == address_of(replica)


async def test_each_master_is_asked_in_its_turn(cluster: Cluster) -> None:
    """One alone may be cut off from the others, and not know it."""
    topology, masters = topology_of(url_of(cluster.nodes[0])), cluster.masters()
    await topology.refresh()
    asked = [questions(master) for master in masters]
    for _ in cluster.nodes:
        await topology.refresh()
    assert all(questions(master) > before for master, before in zip(masters, asked, strict=True))


async def test_a_node_that_stands_still_delays_only_the_first_who_ask(cluster: Cluster) -> None:
    node = next(one for one in cluster.nodes if one not in cluster.masters())
    topology = topology_of(url_of(node, *cluster.nodes))
    cluster.pause(node)
    began = time.monotonic()
    await topology.find(SLOT)
    assert time.monotonic() - began >= ANSWER_S
    for _ in range(2 * len(cluster.nodes)):
        began = time.monotonic()
        await topology.refresh()
        assert time.monotonic() - began < ANSWER_S


async def test_a_node_that_has_not_served_is_asked_last(cluster: Cluster) -> None:
    topology, master = topology_of(cluster.url), cluster.node_of(SLOT)
    await topology.find(SLOT)
    cluster.pause(master)
    for _ in cluster.nodes:
        topology.distrust(SLOT)
        began = time.monotonic()
        await topology.find(SLOT)
        assert time.monotonic() - began < ANSWER_S


# -- answers of all kinds


async def test_a_slot_that_nobody_serves_is_said(make_server: MakeServer) -> None:
    with alone(make_server) as (node, url):
        node.execute_command("CLUSTER", "ADDSLOTS", *range(100))
        topology = topology_of(url)
        assert await topology.find(99) == ("127.0.0.1", node.connection_pool.connection_kwargs["port"])
        with pytest.raises(
            StoreUnavailable, match=r"no node of the cluster of 127.*serves slot 100: 16284 of its 16384 slots"
        ):
            await topology.find(100)
        node.execute_command("CLUSTER", "ADDSLOTS", 100)
        assert await topology.find(100) == await topology.find(99)


@pytest.mark.parametrize("announced", ["ip", "hostname", "unknown-endpoint"])
async def test_a_node_that_does_not_know_its_own_address_has_the_one_we_asked(
    make_server: MakeServer, announced: str
) -> None:
    with alone(make_server) as (node, url):
        if announced != "ip":
            try:
                node.config_set("cluster-preferred-endpoint-type", announced)
            except redis.ResponseError:
                pytest.skip("this server announces addresses only")
        node.execute_command("CLUSTER", "ADDSLOTS", 1)
        topology = topology_of(url.replace("127.0.0.1", "localhost"))
        assert await topology.find(1) == ("localhost", node.connection_pool.connection_kwargs["port"])


async def test_an_application_says_how_to_reach_the_address_that_a_node_announces(make_server: MakeServer) -> None:
    with alone(make_server, "--cluster-announce-ip", "10.255.255.1", "--cluster-announce-port", "7") as (node, url):
        node.execute_command("CLUSTER", "ADDSLOTS", 1)
        here = "127.0.0.1", int(node.connection_pool.connection_kwargs["port"])
        assert await topology_of(url).find(1) == ("10.255.255.1", 7)
        asked: list[Address] = []

        def remap(address: Address) -> Address:
            asked.append(address)
            return here

        def client(remap: Remap) -> redis.asyncio.RedisCluster:
            any_remap: Any = remap  # redis-py declares two arguments in older releases, and gives one in all
            return redis.asyncio.RedisCluster(host=here[0], port=here[1], address_remap=any_remap)

        assert await topology_of(client(remap)).find(1) == here
        assert asked == [("10.255.255.1", 7)]

        def fail(address: Address) -> Address:
            raise KeyError(address)

        topology = topology_of(client(fail))
        for _ in range(2):
            with pytest.raises(KeyError):
                await topology.find(1)


async def test_nobody_there_is_said_with_the_nodes_that_were_asked() -> None:
    port = free_port()
    topology = topology_of(f"redis+cluster://127.0.0.1:{port},localhost:{port},[::1]:{port},127.0.0.2:{port}")
    with pytest.raises(StoreUnavailable) as raised:
        await topology.find(1)
    assert str(raised.value) == (
        f"no node of the cluster of 127.0.0.1:{port},localhost:{port},::1:{port},... says where its slots are: "
        f"Redis at 127.0.0.1:{port} cannot be reached: Connection refused"
    )
    with pytest.raises(StoreUnavailable):
        topology.find_sync(1)


async def test_who_does_not_answer_is_given_up_after_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        topology = topology_of(f"redis+cluster://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await topology.find(1)
        assert time.monotonic() - began < 3 * ANSWER_S


async def test_a_server_that_is_in_no_cluster_is_said(one_server: Server) -> None:
    topology = topology_of(one_server.admin_url.replace("redis://", "redis+cluster://"))
    with pytest.raises(StoreError, match=r"is no node of a cluster: .*cluster support disabled") as raised:
        await topology.find(1)
    assert not isinstance(raised.value, StoreUnavailable)


async def test_a_refusal_is_final(make_server: MakeServer) -> None:
    with alone(make_server) as (node, url):
        node.execute_command("ACL", "SETUSER", "default", "-cluster")
        with pytest.raises(StoreRefused, match="refuses us"):
            await topology_of(url).find(1)
        node.execute_command("CONFIG", "SET", "requirepass", "secret")
        with pytest.raises(StoreRefused, match="refuses us"):
            await topology_of(url).find(1)


@contextmanager
def alone(make_server: MakeServer, *more: str) -> Generator[tuple[redis.Redis, str]]:
    """The only node of a cluster, and the URL of that."""
    server = make_server(persist=False, port=clusters.free_port(), extra_args=(*ALONE, *more))
    with redis.Redis(port=server.port) as client:
        yield client, server.url.replace("redis://", "redis+cluster://")


# -- connections to the node of a slot


async def test_a_connection_to_a_slot_goes_with_it(cluster: Cluster) -> None:
    connector = Connector.of(cluster.url)
    link, sync_link = Link(connector, "test", 5.0, SLOT), SyncLink(connector, "test", 5.0, SLOT)
    source, ask, read = cluster.node_of(SLOT), [[b"CLUSTER", b"MYID"]], [[b"GET", key_in(SLOT)]]
    assert await link.exchange(ask) == sync_link.exchange(ask) == [source.id.encode()]
    to = next(node for node in cluster.masters() if node is not source)
    cluster.move_slot(SLOT, to)
    cluster.await_health()
    [moved] = await link.exchange(read)
    assert isinstance(moved, redis.ResponseError)
    assert not link.connected
    [moved] = sync_link.exchange(read)
    assert isinstance(moved, redis.ResponseError)
    assert await link.exchange([*ask, *read]) == sync_link.exchange([*ask, *read]) == [to.id.encode(), None]
    await link.close()
    sync_link.close()


@pytest.mark.parametrize(
    ("fault", "says"),
    [(Cluster.kill, "cannot be reached|closed|does not answer"), (Cluster.pause, "does not answer")],
    ids=["it dies", "it stands still"],
)
async def test_a_node_that_is_lost_is_left_for_the_one_that_took_over(
    cluster: Cluster, fault: Callable[[Cluster, Node], None], says: str
) -> None:
    connector = Connector.of(cluster.url)
    link, sync_link, ask = Link(connector, "test", 0.5, SLOT), SyncLink(connector, "test", 0.5, SLOT), [[b"PING"]]
    master = cluster.node_of(SLOT)
    [replica] = cluster.replicas_of(master)
    assert await link.exchange(ask) == sync_link.exchange(ask) == [b"PONG"]
    fault(cluster, master)
    cluster.failover(replica, "TAKEOVER")
    with pytest.raises(StoreUnavailable, match=says):
        await link.exchange(ask)
    with pytest.raises(StoreUnavailable, match=says):
        sync_link.exchange(ask)
    ask = [[b"CLUSTER", b"MYID"]]
    assert await link.exchange(ask) == sync_link.exchange(ask) == [replica.id.encode()]
    await link.close()
    sync_link.close()


def key_in(slot: int) -> bytes:
    """A key of a slot."""
    return next(b"%d" % number for number in range(10 * SLOTS) if key_slot(b"%d" % number) == slot)
