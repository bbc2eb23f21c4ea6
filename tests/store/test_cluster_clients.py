"""Connections to the nodes of a cluster, made the way a client or a URL makes its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.cluster import ClusterNode

from durasleep.transport.cluster import AnyClusterClient
from durasleep.transport.connection import Link, SyncLink
from durasleep.transport.connector import Connector
from harness.cluster import Cluster
from harness.servers import LIMITED, limit

SLOTS = (0, 9000, 16_383)

# A client of redis-py with hiredis 2 crashes by itself as it reads the commands of a server by protocol 3.
OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2 if hiredis.__version__.startswith("2.") else 3,
    "socket_timeout": 0.5,
}
READ_FROM_REPLICAS = pytest.mark.filterwarnings("ignore:.*read_from_replicas:DeprecationWarning")
"""It has another name in newer releases of redis-py."""


async def exercise(connector: Connector, cluster: Cluster, user: str = "default") -> None:
    """Connections of both kinds reach the node of each slot, as the client's user and by our rules."""
    for slot in SLOTS:
        node = cluster.node_of(slot)
        link, sync_link = Link(connector, "test", 5.0, slot), SyncLink(connector, "test", 5.0, slot)
        commands = [[b"ACL", b"WHOAMI"], [b"CLIENT", b"GETNAME"], [b"ECHO", b"\xff"]]
        expected = [user.encode(), b"test", b"\xff"]
        assert await link.exchange(commands) == expected
        assert await asyncio.to_thread(sync_link.exchange, commands) == expected
        connections = [line for line in node.ask("CLIENT", "LIST").splitlines() if " name=test " in line]
        assert len(connections) == 2
        await link.close()
        sync_link.close()
    at_node = Link(connector.at(("127.0.0.1", cluster.nodes[0].port)), "test", 5.0)
    assert await at_node.exchange([[b"ECHO", b"here"]]) == [b"here"]
    await at_node.close()


@asynccontextmanager
async def async_client(**options: Any) -> AsyncGenerator[redis.asyncio.RedisCluster]:
    client = redis.asyncio.RedisCluster(**options)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
def user(cluster: Cluster) -> str:
    """A user with the rights of the example, and those for clusters, on every node; a sync client needs COMMAND."""
    for node in cluster.nodes:
        limit(node.url, "t*", "+cluster|slots", "+acl|whoami", "+client|getname", "+echo", "+command")
    return LIMITED


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
async def test_a_url_with_some_of_the_nodes_is_enough(cluster: Cluster, scheme: str) -> None:
    url = cluster.url.replace("redis+", f"{scheme}+")
    await exercise(Connector.of(f"{url}/0?socket_timeout=1&health_check_interval=3"), cluster)
    await exercise(Connector.of(f"{scheme}+cluster://{cluster.nodes[0]}"), cluster)


async def test_a_url_may_name_nodes_that_are_gone(cluster: Cluster) -> None:
    await exercise(Connector.of(f"redis+cluster://127.0.0.1:1,{cluster.nodes[0]}"), cluster)


async def test_a_user_with_the_least_rights_is_enough(cluster: Cluster, user: str) -> None:
    url = cluster.url.replace("://", f"://{user}:change-me@")
    await exercise(Connector.of(url), cluster, user)
    port, access = cluster.nodes[0].port, {"username": user, "password": "change-me"}
    async with async_client(host="127.0.0.1", port=port, **access) as client:
        await exercise(Connector.of(client), cluster, user)


@READ_FROM_REPLICAS
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=str)
async def test_a_client_for_asyncio_is_taken_before_its_first_call_and_after_it(
    cluster: Cluster, options: dict[str, Any]
) -> None:
    nodes = [AsyncClusterNode("127.0.0.1", node.port) for node in cluster.nodes[:2]]
    async with async_client(startup_nodes=nodes, **options) as client:
        await exercise(Connector.of(client), cluster)
        await client.initialize()
        await exercise(Connector.of(client), cluster)
    async with async_client(host="127.0.0.1", port=cluster.nodes[0].port, read_from_replicas=True) as client:
        await exercise(Connector.of(client), cluster)
    client = redis.asyncio.RedisCluster.from_url(cluster.nodes[0].url, **options)
    await exercise(Connector.of(client), cluster)
    await client.aclose()


@READ_FROM_REPLICAS
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=str)
async def test_a_client_without_asyncio_is_taken(cluster: Cluster, options: dict[str, Any]) -> None:
    nodes = [ClusterNode("127.0.0.1", node.port) for node in cluster.nodes[:2]]
    makers: list[Callable[[], redis.RedisCluster]] = [
        lambda: redis.RedisCluster(startup_nodes=nodes, **options),
        lambda: redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, read_from_replicas=True, **options),
        lambda: redis.RedisCluster.from_url(cluster.nodes[0].url, **options),
    ]
    for make in makers:
        client = make()
        await exercise(Connector.of(client), cluster)
        client.close()


async def test_what_an_application_does_as_it_connects_is_done_for_our_connections(cluster: Cluster, user: str) -> None:
    def greet(connection: Any) -> None:
        connection.send_command("AUTH", user, "change-me")
        connection.read_response()

    client = redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, redis_connect_func=greet)
    await exercise(Connector.of(client), cluster, user)
    client.close()


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_the_addresses_of_nodes_are_changed_as_the_client_says(cluster: Cluster, is_async: bool) -> None:
    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return "localhost", address[1]

    options: Any = {"host": "127.0.0.1", "port": cluster.nodes[0].port, "address_remap": remap}
    client: AnyClusterClient = redis.asyncio.RedisCluster(**options) if is_async else redis.RedisCluster(**options)
    connector = Connector.of(client)
    await exercise(connector, cluster)
    assert connector.topology is not None
    assert {host for host, _ in connector.topology.masters} == {"localhost"}
    if isinstance(client, redis.RedisCluster):
        client.close()
    else:
        await client.aclose()
