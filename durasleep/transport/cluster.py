"""A cluster, as a URL or an application's client of one names it: its nodes, and how to connect to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio

from durasleep.errors import UsageError
from durasleep.protocol.slots import Address
from durasleep.transport import addresses
from durasleep.transport.topology import Remap

AnyClusterClient = redis.RedisCluster | redis.asyncio.RedisCluster

PORT = 6379
_AS_WRITTEN = "the URL of a cluster is redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][?OPTIONS]"


@dataclass(frozen=True, slots=True)
class Named:
    """What a client of a cluster says."""

    seeds: tuple[Address, ...]
    connection_class: type
    arguments: dict[str, Any]
    remap: Remap | None


def parse(url: str) -> tuple[tuple[Address, ...], str]:
    """``redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][?OPTIONS]`` in two parts.

    The parts are the nodes, of which one that answers is enough, and the URL of a node with a placeholder address.
    ``rediss+cluster`` asks for TLS. UsageError for a wrong URL.
    """
    split = urlsplit(url)
    user, _, hosts = split.netloc.rpartition("@")
    try:
        seeds = addresses.read(hosts, PORT)
    except ValueError:
        raise UsageError(f"the address of a node is not valid, or may be a password: {_AS_WRITTEN}") from None
    if split.path.strip("/") and not split.path.strip("/").isdigit():
        raise UsageError(f"there is no path in the URL of a cluster: {_AS_WRITTEN}")
    scheme, host = split.scheme.partition("+")[0], f"{user}@localhost" if user else "localhost"
    return seeds, urlunsplit((scheme, host, split.path, split.query, ""))


def check_database(arguments: dict[str, Any]) -> None:
    """UsageError for another database than 0."""
    if database := int(arguments.get("db") or 0):
        raise UsageError(f"a cluster has database 0 only, not {database}: leave the number out")


def of_client(client: AnyClusterClient) -> Named:
    """The nodes that a client knows, and its arguments for a connection to one of them."""
    manager: Any = client.nodes_manager
    seeds = tuple((str(node.host), int(node.port)) for node in manager.startup_nodes.values())
    if isinstance(client, redis.RedisCluster):
        connection_class, arguments = _of_sync(client)
    else:
        arguments = dict(client.get_connection_kwargs())
        connection_class = cast("type", arguments["connection_class"])
        # It makes a connection one to a replica; applications cannot give a function of their own here.
        arguments.pop("redis_connect_func", None)
    return Named(seeds, connection_class, arguments, manager.address_remap)


def _of_sync(client: redis.RedisCluster) -> tuple[type, dict[str, Any]]:
    """As its own connections to a node are made: releases of redis-py differ in what they keep, and where."""
    any_client: Any = client
    node = next(iter(any_client.nodes_manager.startup_nodes.values()))
    pool = any_client.get_redis_connection(node).connection_pool
    arguments = dict(pool.connection_kwargs)
    arguments.pop("redis_connect_func", None)  # the cluster client's own
    if any_client.user_on_connect_func is not None:
        arguments["redis_connect_func"] = _greeting(any_client.user_on_connect_func)
    return cast("type", pool.connection_class), arguments


def _greeting(own: Callable[[Any], object]) -> Callable[[Any], None]:
    """For a single server such a function replaces the greeting of redis-py; in a client of a cluster it follows it."""

    def greet(connection: Any) -> None:
        connection.on_connect()
        own(connection)

    return greet
