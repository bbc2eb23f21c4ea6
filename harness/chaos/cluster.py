"""Three masters, each with a replica, and a network to each of them, and the faults that break them.

Clients and workers reach every node through a proxy of its own. The nodes reach one another without one. So nodes and
clients may disagree about who is alive.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import redis
import redis.asyncio

from durasleep.devserver import Fsync
from durasleep.protocol.keyspaces import Keyspaces
from harness.chaos import reach
from harness.chaos.plan import OF_NODES, Fault
from harness.chaos.site import Site
from harness.cluster import HOST, Cluster
from harness.proxy import Proxy

T = TypeVar("T")
MASTERS = 3
NODES = 2 * MASTERS
NAMESPACE = "durasleep"
NOBODY = 1
"""A port on which nothing listens."""


class ClusterSite(Site):
    """A cluster under a namespace whose partitions are on all masters."""

    partitions = 8

    def __init__(self, directory: Path, *, kind: str, workers: int, fsync: Fsync, min_replicas: int, seed: int) -> None:
        """With ``min_replicas`` every client and worker waits for so many replicas, so nothing confirmed is lost."""
        super().__init__(directory, workers=workers)
        self.rolls_back = () if min_replicas else ("kill-master", "pause-node")
        self._min_replicas = min_replicas
        self._cluster = Cluster(kind, directory / "nodes", masters=MASTERS, replicas=1, fsync=fsync)
        self._slots = [keys.slot for keys in Keyspaces(NAMESPACE, self.partitions)]
        self._proxies = [Proxy() for _ in range(NODES)]
        self._chance = random.Random(seed + 3)

    @property
    def environment(self) -> dict[str, str]:
        proxies = {node.port: proxy.port for node, proxy in zip(self._cluster.nodes, self._proxies, strict=True)}
        return reach.by_proxies(proxies, self._min_replicas)

    async def start(self) -> None:
        await asyncio.to_thread(self._cluster.start)
        for node, proxy in zip(self._cluster.nodes, self._proxies, strict=True):
            await proxy.start(node.port)

    async def stop_servers(self) -> None:
        for proxy in self._proxies:
            await proxy.close()
        await asyncio.to_thread(self._cluster.stop)

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        client = cast("Any", redis.asyncio.RedisCluster(host=HOST, port=self._cluster.nodes[0].port))
        try:
            return [await client.get(key) for key in keys]
        finally:
            await client.aclose()

    # -- the nodes

    def can(self, fault: Fault) -> bool:
        """A fault of the nodes is left out while they have not yet recovered from the last one: else no master would
        have a replica that can replace it.
        """
        return fault.name not in OF_NODES or not self._server_lock.locked()

    async def kill_master(self, fault: Fault) -> None:
        """Kill -9 under load; it comes back with its data, before or after its replica has replaced it."""
        async with self._server_lock:
            master = (await self._do(self._cluster.masters))[fault.which % MASTERS]
            await self._do(self._cluster.kill, master)
            await asyncio.sleep(fault.lasts_s)
            await self._do(self._cluster.revive, master)
            await self._do(self._cluster.await_health)

    async def pause_node(self, fault: Fault) -> None:
        """SIGSTOP of a master or a replica, for longer or shorter than it takes until it is replaced."""
        async with self._server_lock:
            node = self._cluster.nodes[fault.which % NODES]
            await self._do(self._cluster.pause, node)
            await asyncio.sleep(fault.lasts_s)
            await self._do(self._cluster.resume, node)
            await self._do(self._cluster.await_health)

    async def hand_over(self, fault: Fault) -> None:
        """CLUSTER FAILOVER: a master and its replica change their places, and lose nothing."""
        async with self._server_lock:
            master = (await self._do(self._cluster.masters))[fault.which % MASTERS]
            [replica] = await self._do(self._cluster.replicas_of, master)
            await self._do(self._cluster.failover, replica)
            await self._do(self._cluster.await_health)

    async def move_slot(self, fault: Fault) -> None:
        """A partition goes to another master under load, in steps.

        MIGRATE waits for no replica. So the next fault waits until the replicas have the keys.
        """
        async with self._server_lock:
            slot = self._chance.choice(self._slots)
            home = await self._do(self._cluster.node_of, slot)
            to = self._chance.choice([node for node in await self._do(self._cluster.masters) if node is not home])
            await self._do(self._cluster.begin_move, slot, to)
            await asyncio.sleep(fault.lasts_s / 2)
            await self._do(self._cluster.move_some_keys, slot)
            await asyncio.sleep(fault.lasts_s / 2)
            await self._do(self._cluster.finish_move, slot)
            await self._do(self._cluster.await_in_step)

    async def kill_clients(self, _fault: Fault) -> None:
        async with self._server_lock:  # it would end a MIGRATE, too
            await self._ask_all("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def flush_scripts(self, _fault: Fault) -> None:
        await self._ask_all("SCRIPT", "FLUSH")

    async def _ask_all(self, *command: str) -> None:
        for node in self._cluster.nodes:
            with suppress(redis.RedisError):  # it may be down just now
                await self._do(node.ask, *command)

    async def _do(self, blocking: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(blocking, *args)

    # -- the network between clients and nodes

    def _proxy(self, fault: Fault) -> Proxy:
        return self._proxies[fault.which % NODES]

    async def cut(self, _fault: Fault) -> None:
        for proxy in self._proxies:
            proxy.cut()

    async def cut_off(self, fault: Fault) -> None:
        """No client reaches one node, though all other nodes do."""
        proxy, node = self._proxy(fault), self._cluster.nodes[fault.which % NODES]
        proxy.target_port = NOBODY
        proxy.cut()
        await asyncio.sleep(fault.lasts_s)
        proxy.target_port = node.port

    async def stall(self, fault: Fault) -> None:
        await self._proxy(fault).stall(fault.lasts_s)

    async def black_hole(self, fault: Fault) -> None:
        self._proxy(fault).black_hole()

    async def delay(self, fault: Fault) -> None:
        await asyncio.gather(*[proxy.slow(0.05, fault.lasts_s) for proxy in self._proxies])
