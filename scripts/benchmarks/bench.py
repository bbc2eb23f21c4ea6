"""Every benchmark runs on this: a server of its own, a client on it, and worker processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis.asyncio

from durasleep import Durasleep
from durasleep.devserver import DevServer
from durasleep.errors import DurasleepError
from durasleep.protocol.keys import Keyspace
from harness import servers
from harness.cluster import Cluster

ROOT = Path(__file__).parents[2]
APP = "scripts.benchmarks.workflows:app"
GROUP = "workers"
START_S = 30.0  # in which a worker starts on a loaded machine
STOP_S = 40.0  # a worker that is told to stop may take its grace of 30 s
LOOK_S = 0.02
LOG_LINES = 5  # shown of a worker that did not start

CPUCLOCK_SCHED = 2  # the processor time, among Linux's clocks of a process

KINDS = tuple(kind for kind in servers.KINDS if kind != servers.FAKE)


def found_kinds() -> list[str]:
    """The kinds of servers on this machine, Debian's Redis first."""
    return sorted((kind for kind in KINDS if servers.find(kind)), key=lambda kind: kind != "redis7")


def cpu_s(process: psutil.Process) -> float:
    """The processor time of a process in seconds, with that of its ended threads.

    Linux has a clock for it in each process, in nanoseconds, whose number clock_getcpuclockid(3) tells. The figures of
    psutil count in ticks of 10 ms.
    """
    if sys.platform == "linux":
        return time.clock_gettime(~process.pid << 3 | CPUCLOCK_SCHED)
    times = process.cpu_times()
    return times.user + times.system


@dataclass(frozen=True, kw_only=True)
class WorkerBench:
    """A client and worker processes, on one server or on a cluster."""

    url: str
    directory: Path
    """For files of this measurement; removed with it."""
    name: str
    """The server's kind and version, to show."""
    client: Durasleep
    client_process: psutil.Process
    server_processes: tuple[psutil.Process, ...]

    @asynccontextmanager
    async def worker(self, *arguments: str, wait: bool = True, app: str = APP) -> AsyncGenerator[psutil.Process]:
        """A worker process, with default settings except ``arguments``: ready if ``wait``, and stopped at the end."""
        log = self.directory / "worker.log"
        before = set(await self.client.workers())
        with log.open("ab") as output:
            command = [sys.executable, "-m", "durasleep", "worker", app, "--url", self.url, *arguments]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("DURASLEEP_")}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            if wait:
                await self._until_ready(process, before, log)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def _until_ready(self, process: subprocess.Popen[bytes], before: set[str], log: Path) -> None:
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at and process.poll() is None:
            if set(await self.client.workers()) - before:
                return
            await asyncio.sleep(LOOK_S)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise DurasleepError(f"the worker did not start; its log ends with:\n{tail}")


@dataclass(frozen=True, kw_only=True)
class Bench(WorkerBench):
    """The same on one server, which can be looked into."""

    redis: redis.asyncio.Redis
    """A second connection beside the client's, to inspect the server."""

    @property
    def server_process(self) -> psutil.Process:
        [process] = self.server_processes
        return process

    @property
    def keys(self) -> Keyspace:
        return Keyspace(self.client.namespace)

    async def info(self, section: str) -> dict[str, Any]:
        return await self.redis.info(section)

    async def script_us(self) -> int:
        """Microseconds the server has spent in scripts so far."""
        stats = await self.info("commandstats")
        return sum(int(stats[name]["usec"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)

    async def in_queue(self) -> int:
        """Executions that wait for a worker, or that a worker holds."""
        return int(await self.redis.xlen(self.keys.queue(GROUP)))

    async def in_timers(self) -> int:
        return int(await self.redis.zcard(self.keys.timers))


async def initialized(url: str, partitions: int) -> Durasleep:
    """A client of a new namespace."""
    client = Durasleep(url)
    if partitions > 1:  # another checkout may not know partitions
        await client.init(partitions=partitions)
    return client


@asynccontextmanager
async def bench_on(kind: str, *, extra_args: Sequence[str] = (), partitions: int = 1) -> AsyncGenerator[Bench]:
    """A server of this kind without persistence, and a client on it, whose namespace has so many partitions."""
    found = servers.find(kind)
    if found is None:
        raise DurasleepError(f"there is no {kind} on this machine, only {', '.join(found_kinds()) or 'none at all'}")
    binary, version = found
    with (
        tempfile.TemporaryDirectory(prefix="durasleep-bench-") as directory,
        DevServer(Path(directory), persist=False, binary=binary, extra_args=extra_args) as server,
    ):
        async with (
            redis.asyncio.Redis.from_url(server.url, socket_timeout=None) as extra,
            await initialized(server.url, partitions) as client,
        ):
            yield Bench(
                url=server.url,
                directory=server.directory,
                name=f"{binary.kind} {'.'.join(map(str, version))}",
                redis=extra,
                client=client,
                client_process=psutil.Process(),
                server_processes=(psutil.Process(server.pid),),
            )


@asynccontextmanager
async def cluster_bench(
    kind: str, partitions: int, *, replicas: int = 0, node_timeout_ms: int = 2000
) -> AsyncGenerator[tuple[Cluster, WorkerBench]]:
    """The same on a cluster of three masters, each with so many replicas."""
    if servers.find(kind) is None:
        raise DurasleepError(f"there is no {kind} on this machine")
    with tempfile.TemporaryDirectory(prefix="durasleep-bench-") as directory:
        cluster = Cluster(
            kind, Path(directory), masters=3, replicas=replicas, node_timeout_ms=node_timeout_ms, persist=False
        ).start()
        try:
            async with await initialized(cluster.url, partitions) as client:
                yield (
                    cluster,
                    WorkerBench(
                        url=cluster.url,
                        directory=Path(directory),
                        name=f"a cluster of {kind}",
                        client=client,
                        client_process=psutil.Process(),
                        server_processes=tuple(psutil.Process(node.server.pid) for node in cluster.nodes),
                    ),
                )
        finally:
            cluster.stop()
