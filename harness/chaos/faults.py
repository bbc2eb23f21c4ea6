"""The servers, the workers and the network between them, and the faults that break them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, cast

import redis.asyncio
import redis.exceptions as redis_errors

from durasleep.devserver import DevServer, Fsync
from harness import versions
from harness.chaos.plan import Fault
from harness.chaos.work import EFFECTS
from harness.proxy import HOST, Proxy

DOWN_S = 0.5  # how long a killed server stays down
SYNCED_S = 10.0
ROOT = Path(__file__).parents[2]


class Site:
    """Everything that can break."""

    def __init__(
        self, directory: Path, *, workers: int, fsync: Fsync, with_replica: bool, other: Path | None = None
    ) -> None:
        """Every second start of a worker uses the version in ``other``, if that is given."""
        self.proxy = Proxy()
        self.effects = directory / "effects"
        self.log = directory / "workers.log"
        self.done: Counter[str] = Counter()
        """How often each fault happened."""
        self.deserted = 0
        """Workers that ended although nobody had killed them."""
        self._servers = [
            DevServer(directory / f"server-{n}", fsync=fsync, extra_args=("--enable-debug-command", "local"))
            for n in range(2 if with_replica else 1)
        ]
        self._other = other
        self._starts = 0
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * workers
        self._lasting: set[asyncio.Task[None]] = set()
        self._server_lock = asyncio.Lock()  # one fault of the servers' processes at a time

    @property
    def url(self) -> str:
        """Where clients and workers connect: through the proxy."""
        return f"redis://{HOST}:{self.proxy.port}"

    @property
    def primary_url(self) -> str:
        """The server itself, without the proxy."""
        return self._servers[0].url

    async def start(self) -> None:
        self.effects.touch()
        for server in self._servers:
            await asyncio.to_thread(server.start)
        await self.proxy.start(self._servers[0].port)
        await self._follow()
        for n in range(len(self._workers)):
            self._start_worker(n)

    async def stop(self) -> None:
        for task in tuple(self._lasting):
            task.cancel()
        for worker in self._workers:
            if worker is not None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
        await self.proxy.close()
        for server in self._servers:
            await asyncio.to_thread(server.stop)

    async def repair(self) -> None:
        """Repair everything: lasting faults have ended, and every worker runs."""
        await asyncio.gather(*self._lasting)  # if a fault could not be done, that is an error of this program
        for n, worker in enumerate(self._workers):
            if worker is None or worker.poll() is not None:
                self.deserted += worker is not None
                self._start_worker(n)

    async def do(self, fault: Fault) -> None:
        """Break something; a lasting fault goes on by itself."""
        act = getattr(self, fault.name.replace("-", "_"))
        task = asyncio.get_running_loop().create_task(act(fault))
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
        self.done[fault.name] += 1

    # -- workers

    def _start_worker(self, n: int) -> None:
        self._starts += 1
        durasleep = versions.command(self._other if self._starts % 2 else None)
        with self.log.open("ab") as log:
            self._workers[n] = subprocess.Popen(
                [*durasleep, "worker", "harness.chaos.work:app", "--url", self.url],
                cwd=ROOT,
                env=os.environ | {EFFECTS: str(self.effects)},
                stdout=log,
                stderr=log,
            )

    async def kill_worker(self, fault: Fault) -> None:
        """Kill -9; another worker takes its place."""
        if worker := self._workers[fault.which]:
            worker.kill()
            await asyncio.to_thread(worker.wait)
        self._start_worker(fault.which)

    async def pause_worker(self, fault: Fault) -> None:
        """SIGSTOP, for longer or shorter than it takes until others count the worker as dead."""
        worker = self._workers[fault.which]
        if worker is not None:
            worker.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.lasts_s)
            worker.send_signal(signal.SIGCONT)

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
