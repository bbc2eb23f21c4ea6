"""One server, or one with a replica, and the network before it, and the faults that break them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import redis.asyncio
import redis.exceptions as redis_errors

from durasleep.devserver import DevServer, Fsync
from harness.chaos import reach
from harness.chaos.plan import Fault
from harness.chaos.site import Site
from harness.proxy import HOST, Proxy

DOWN_S = 0.5  # how long a killed server stays down
SYNCED_S = 10.0


class ServerSite(Site):
    """A server that clients and workers reach through a proxy."""

    partitions = 1
    rolls_back = ("failover",)

    def __init__(
        self, directory: Path, *, workers: int, fsync: Fsync, with_replica: bool, other: Path | None = None
    ) -> None:
        super().__init__(directory, workers=workers, other=other)
        self.proxy = Proxy()
        self._servers = [
            DevServer(directory / f"server-{n}", fsync=fsync, extra_args=("--enable-debug-command", "local"))
            for n in range(2 if with_replica else 1)
        ]

    @property
    def environment(self) -> dict[str, str]:
        return reach.by_url(f"redis://{HOST}:{self.proxy.port}")

    async def start(self) -> None:
        for server in self._servers:
            await asyncio.to_thread(server.start)
        await self.proxy.start(self._servers[0].port)
        await self._follow()

    async def stop_servers(self) -> None:
        await self.proxy.close()
        for server in self._servers:
            await asyncio.to_thread(server.stop)

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        client = cast("Any", redis.asyncio.Redis.from_url(self._servers[0].url))
        try:
            return [await client.get(key) for key in keys]
        finally:
            await client.aclose()

    # -- the server

    async def kill_redis(self, _fault: Fault) -> None:
        """Kill -9; the server comes back with the data it had written."""
        async with self._server_lock:
            server = self._servers[0]
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(server.start)

    async def failover(self, _fault: Fault) -> None:
        """The replica becomes the primary; writes that it had not received are lost."""
        async with self._server_lock:
            old, new = self._servers
            await asyncio.to_thread(old.kill)
            await self._notify(new, "REPLICAOF", "NO", "ONE")
            self._servers = [new, old]
            self.proxy.target_port = new.port
            self.proxy.cut()
            await asyncio.to_thread(old.start)
            await self._follow()

    async def flush_scripts(self, _fault: Fault) -> None:
        await self._notify(self._servers[0], "SCRIPT", "FLUSH")

    async def kill_clients(self, _fault: Fault) -> None:
        await self._notify(self._servers[0], "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def block_redis(self, fault: Fault) -> None:
        await self._notify(self._servers[0], "DEBUG", "SLEEP", f"{fault.lasts_s}")

    # -- a server that serves only some calls

    async def full_redis(self, fault: Fault) -> None:
        """For a while the server refuses calls that make something new."""
        async with self._server_lock:
            await self._notify(self._servers[0], "CONFIG", "SET", "maxmemory", "1")
            await asyncio.sleep(fault.lasts_s)
            await self._notify(self._servers[0], "CONFIG", "SET", "maxmemory", "0")

    async def begin_while_full(self, fault: Fault) -> None:
        """A worker dies, and another one starts while the server is full."""
        full = asyncio.create_task(self.full_redis(fault))
        await self.kill_worker(fault)
        await full

    async def begin_while_read_only(self, fault: Fault) -> None:
        """A worker dies, and another one starts while the server follows a primary that does not exist."""
        async with self._server_lock:
            await self._notify(self._servers[0], "REPLICAOF", HOST, "1")
            await self.kill_worker(fault)
            await asyncio.sleep(fault.lasts_s)
            await self._notify(self._servers[0], "REPLICAOF", "NO", "ONE")

    async def _follow(self) -> None:
        """The second server is a replica of the first, and has received all its data."""
        if len(self._servers) < 2:
            return
        first, second = self._servers
        await self._notify(second, "REPLICAOF", HOST, str(first.port))
        async with asyncio.timeout(SYNCED_S):
            while dict(await self._notify(second, "INFO", "replication") or {}).get("master_link_status") != "up":
                await asyncio.sleep(0.05)

    async def _notify(self, server: DevServer, *command: str) -> Any:
        client = cast("Any", redis.asyncio.Redis.from_url(server.url))
        try:
            return await client.execute_command(*command)
        except redis_errors.RedisError:  # it may be down just now
            return None
        finally:
            await client.aclose()

    # -- the network

    async def cut(self, _fault: Fault) -> None:
        self.proxy.cut()

    async def stall(self, fault: Fault) -> None:
        await self.proxy.stall(fault.lasts_s)

    async def black_hole(self, _fault: Fault) -> None:
        self.proxy.black_hole()

    async def delay(self, fault: Fault) -> None:
        await self.proxy.slow(0.05, fault.lasts_s)
