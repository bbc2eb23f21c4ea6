"""How the processes of the chaos reach Redis: by a URL, or a cluster's nodes through the proxies before them.

The environment says it, so that workers and clients start with nothing but their names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import redis.asyncio
from redis.asyncio.cluster import ClusterNode

from durasleep.settings import Settings

HOST = "127.0.0.1"

_URL = "DURASLEEP_REDIS_URL"  # found by durasleep itself
_PROXIES = "DURASLEEP_CHAOS_PROXIES"
_REPLICAS = "DURASLEEP_CHAOS_REPLICAS"


def by_url(url: str) -> dict[str, str]:
    """The environment of a process that connects to one server."""
    return {_URL: url}


def by_proxies(proxies: Mapping[int, int], min_replicas: int) -> dict[str, str]:
    """The environment of a process that connects to a cluster; for the port of each node that of its proxy."""
    return {_PROXIES: json.dumps(dict(proxies)), _REPLICAS: str(min_replicas)}


def is_cluster() -> bool:
    return _PROXIES in os.environ


def source() -> str | redis.asyncio.RedisCluster:
    """What an application or client of this process connects to; an empty text if its environment names nothing."""
    if not is_cluster():
        return os.environ.get(_URL, "")
    proxies = {int(port): proxy for port, proxy in json.loads(os.environ[_PROXIES]).items()}
    return redis.asyncio.RedisCluster(
        startup_nodes=[ClusterNode(HOST, proxy) for proxy in proxies.values()],
        address_remap=lambda node: (node[0], proxies[node[1]]),
    )


def client() -> Any:
    """An asyncio client of redis-py for the same."""
    found = source()
    return redis.asyncio.Redis.from_url(found) if isinstance(found, str) else found


def settings() -> Settings:
    """The settings of every application and worker."""
    return Settings(min_replicas=int(os.environ.get(_REPLICAS, "0")))
