"""What the answers of a node say about where a call belongs, whatever release of redis-py reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from durasleep.transport.connection import Link
from durasleep.transport.connector import Connector
from durasleep.transport.reply_errors import Routing, is_of_wrong_node, routing
from harness import cluster as clusters
from harness.cluster import Cluster, Node
from harness.servers import MakeServer
from tests.service.workers import eventually

KEY, OTHER = b"{a}1", b"{a}2"
SLOT = key_slot(b"a")
GET, MGET = [b"GET", KEY], [b"MGET", KEY, OTHER]


async def answers(node: Node | Any, *commands: list[bytes]) -> list[Routing | None]:
    link = Link(Connector.of(f"redis://127.0.0.1:{node.port}"), "test", 5.0)
    try:
        return [routing(reply) for reply in await link.exchange(commands)]
    finally:
        await link.close()


async def test_a_node_that_does_not_have_the_slot_says_so(cluster: Cluster) -> None:
    node = cluster.node_of(SLOT)
    other = next(one for one in cluster.masters() if one is not node)
    [replica] = cluster.replicas_of(node)
    assert await answers(other, GET, MGET) == [Routing.MOVED, Routing.MOVED]
    assert await answers(replica, GET, [b"SET", KEY, b"v"]) == [Routing.MOVED, Routing.MOVED]
    assert await answers(node, GET, MGET) == [None, None]


async def test_a_slot_that_moves_refuses_what_is_not_there_any_more(cluster: Cluster) -> None:
    node = cluster.node_of(SLOT)
    to = next(one for one in cluster.masters() if one is not node)
    node.ask("SET", KEY.decode(), "v")
    cluster.begin_move(SLOT, to)
    assert await answers(node, GET, [b"GET", OTHER], MGET) == [None, Routing.ASK, Routing.TRYAGAIN]
    assert cluster.move_some_keys(SLOT) == 1
    assert await answers(node, GET, MGET) == [Routing.ASK, Routing.ASK]
    assert await answers(to, GET) == [Routing.MOVED]


async def test_keys_of_two_slots_are_our_mistake(cluster: Cluster) -> None:
    node = cluster.node_of(SLOT)
    numbers = (b"%d" % number for number in range(100))
    elsewhere = next(key for key in numbers if cluster.node_of(key_slot(key)) is not node)
    undeclared = [b"EVAL", b"return redis.call('GET', ARGV[1])", b"1", KEY, elsewhere]
    found = await answers(node, [b"MGET", KEY, elsewhere], undeclared)
    assert found == [Routing.CROSSSLOT, Routing.CROSSSLOT]


async def test_a_cluster_with_slots_that_nobody_serves_is_down(make_server: MakeServer) -> None:
    alone = make_server(persist=False, port=clusters.free_port(), extra_args=("--cluster-enabled", "yes"))
    assert await answers(alone, GET) == [Routing.CLUSTERDOWN]


async def test_a_replica_without_its_master_and_one_that_is_written_to_say_so(make_server: MakeServer) -> None:
    replica = make_server(persist=False)
    with redis.Redis(port=replica.port) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert await answers(replica, [b"SET", KEY, b"v"]) == [Routing.READONLY]
        client.config_set("replica-serve-stale-data", "no")
        assert await answers(replica, GET) == [Routing.MASTERDOWN]


async def test_a_blocked_read_ends_as_its_node_becomes_a_replica(cluster: Cluster) -> None:
    node = cluster.node_of(SLOT)
    [replica] = cluster.replicas_of(node)
    read = asyncio.ensure_future(answers(node, [b"XREAD", b"BLOCK", b"0", b"STREAMS", KEY, b"$"]))
    await eventually(lambda: "blocked_clients:1" in node.ask("INFO", "clients"), "the read to block")
    await asyncio.to_thread(cluster.failover, replica, "TAKEOVER")
    [ending] = await read
    assert ending in {Routing.UNBLOCKED, Routing.MOVED}


def read(text: str) -> Exception:
    any_connection: Any = redis.Connection()
    return any_connection._parser.parse_error(text)


@pytest.mark.parametrize("code", Routing)
def test_each_is_told_by_its_code_as_redis_py_reads_it(code: Routing) -> None:
    """Newer releases have a class for each, older ones for some."""
    text = f"{code} 7 127.0.0.1:1" if code in {Routing.MOVED, Routing.ASK} else f"{code} something"
    assert routing(read(text)) is code
    assert routing(redis.ResponseError(text)) is code


@pytest.mark.parametrize(
    "reply", [b"MOVED", None, [b"MOVED"], redis.ResponseError("ERR MOVED"), redis.ResponseError("")]
)
def test_any_other_answer_is_about_the_call(reply: object) -> None:
    assert routing(reply) is None
    assert not is_of_wrong_node(reply)


def test_another_node_may_serve_what_this_one_never_will() -> None:
    found = {code for code in Routing if is_of_wrong_node(redis.ResponseError(f"{code} something"))}
    assert found == set(Routing) - {Routing.ASK, Routing.TRYAGAIN, Routing.LOADING, Routing.CROSSSLOT}
