"""What a cluster adds: commands of an idle worker, calls to another partition, and how late work is when a node dies or
a slot moves.

The cluster has three masters with a replica each, and one worker process. Timers fall due all the time, in all
partitions, while one master is killed as by kill -9, and while the slot of a partition with many sleepers is moved key
by key, as redis-cli does. A timer's lateness is what its workflow answers.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import redis.asyncio

from durasleep.client.client import store_of
from durasleep.protocol.keyspaces import Keyspaces
from harness.cluster import Cluster
from scripts.benchmarks import workflows
from scripts.benchmarks.bench import WorkerBench, bench_on, cluster_bench, cpu_s
from scripts.benchmarks.lateness import now_ms
from scripts.benchmarks.report import Report

NODE_TIMEOUT_MS = 2_000
SETTLE_S = 4.0  # until a worker that has started does no more than an idle one
EVERY_MS = 20  # from one timer to the next
LEAD_S = 2.0  # in which all go to sleep
BEFORE_S = 1.0  # timers that fire before the fault, and after it
KILL_S = 15.0
BATCH = 4_096

IDLE_MAX = 1.5
IDLE_CORE_PERCENT_MAX = 0.5
FOREIGN_MS_MAX = 5.0
KILLED_S_MAX = 6.0
MOVED_S_MAX = 2.0


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--partitions", type=int, default=16, help="of the namespace (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the idle worker is watched (%(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind, one at a time (%(default)s)")
    parser.add_argument("--sleepers", type=int, default=20_000, help="in the slot that is moved (%(default)s)")


async def measure(options: Namespace) -> Report:
    report = Report("nodes", options.server, f"{options.partitions} partitions on three masters, one worker")
    async with bench_on(options.server, partitions=options.partitions) as bench, bench.worker():
        await asyncio.sleep(SETTLE_S)
        before = cpu_s(bench.server_process)
        await asyncio.sleep(options.seconds)
        share = (cpu_s(bench.server_process) - before) / options.seconds
        report.add("idle_one_server_core_percent", share * 100, at_most=IDLE_CORE_PERCENT_MAX)
    async with (
        cluster_bench(options.server, options.partitions, replicas=1, node_timeout_ms=NODE_TIMEOUT_MS) as (
            cluster,
            bench,
        ),
        bench.worker(),
    ):
        await asyncio.sleep(SETTLE_S)
        sent = await _commands_per_s(cluster, options.seconds)
        report.add("idle_commands_per_partition_per_s", sent / options.partitions, at_most=IDLE_MAX)
        keyspaces = (await store_of(bench.client)).keyspaces
        local_ms, foreign_ms = await _call_ms(bench, keyspaces, options.calls)
        report.add("local_call_p50_ms", local_ms)
        report.add("foreign_call_p50_ms", foreign_ms, at_most=local_ms + FOREIGN_MS_MAX)
        moved_s, late_s = await _move_slot(cluster, bench, keyspaces, options.sleepers)
        report.add("slot_moved_s", moved_s)
        report.add("slot_moved_late_max_s", late_s, at_most=moved_s + MOVED_S_MAX)
        outage_s, late_s = await _kill(cluster, bench, keyspaces)
        report.add("master_killed_outage_s", outage_s)
        report.add("master_killed_late_max_s", late_s, at_most=KILLED_S_MAX)
    return report


async def _commands_per_s(cluster: Cluster, seconds: float) -> float:
    """What clients send to all masters together."""
    counts = await asyncio.gather(*[_count(node.url, seconds) for node in cluster.masters()])
    return sum(counts) / seconds


async def _count(url: str, seconds: float) -> int:
    sent = 0
    async with redis.asyncio.Redis.from_url(url, socket_timeout=None) as watching, watching.monitor() as monitor:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    command = await monitor.next_command()
                    sent += command["client_type"] != "lua"
        except TimeoutError:
            return sent


async def _call_ms(bench: WorkerBench, keyspaces: Keyspaces, calls: int) -> tuple[float, float]:
    """The medians of how long a workflow takes that calls another one: in its own partition, and in another one."""
    local: list[float] = []
    foreign: list[float] = []
    for number in range(calls):
        for took, is_same in ((local, True), (foreign, False)):
            parent = f"{is_same}-{number}"
            home = keyspaces.of(parent).partition
            ids = (f"{parent}-{other}" for other in count())
            child = next(id for id in ids if (keyspaces.of(id).partition == home) == is_same)
            began = time.perf_counter()
            await (await bench.client.rpc(parent, workflows.calling, child))
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(local), statistics.median(foreign)


async def _move_slot(cluster: Cluster, bench: WorkerBench, keyspaces: Keyspaces, sleepers: int) -> tuple[float, float]:
    """How long the move of a slot took, and how late the latest timer was."""
    keys = keyspaces[0]
    there = _ids_in(keyspaces, keys.partition)
    for first in range(0, sleepers, BATCH):
        many = [(next(there), 0) for _ in range(min(BATCH, sleepers - first))]
        await bench.client.rpc_many(workflows.leaf, many, delay=24 * 3600)
    home = cluster.node_of(keys.slot)
    other = next(node for node in cluster.masters() if node is not home)

    async def move() -> float:
        began = time.perf_counter()
        await asyncio.to_thread(cluster.move_slot, keys.slot, other)
        return time.perf_counter() - began

    return await _late_s(bench, there, 10.0, move)


async def _kill(cluster: Cluster, bench: WorkerBench, keyspaces: Keyspaces) -> tuple[float, float]:
    """How long no node served the partitions of the killed master, and how late the latest timer was."""
    victim = cluster.masters()[0]
    slot = next(keys.slot for keys in keyspaces if cluster.node_of(keys.slot) is victim)

    async def kill() -> float:
        await asyncio.to_thread(cluster.await_in_step)
        await asyncio.to_thread(cluster.kill, victim)
        began = time.perf_counter()
        await asyncio.to_thread(cluster.await_health)
        assert cluster.node_of(slot) is not victim
        return time.perf_counter() - began

    return await _late_s(bench, (f"k-{number}" for number in count()), KILL_S, kill)


async def _late_s(
    bench: WorkerBench, ids: Iterator[str], seconds: float, fault: Callable[[], Awaitable[float]]
) -> tuple[float, float]:
    """Let timers fall due for so long; returns what ``fault`` meanwhile returns, and the lateness of the latest."""
    first_ms = now_ms() + round(LEAD_S * 1000)
    dues = range(first_ms, first_ms + round(seconds * 1000), EVERY_MS)
    handles = await bench.client.rpc_many(workflows.waking, [(next(ids), due) for due in dues])
    await asyncio.sleep(LEAD_S + BEFORE_S)
    took_s = await fault()
    late_us = await bench.client.gather(handles)
    return took_s, max(late_us) / 1e6


def _ids_in(keyspaces: Keyspaces, partition: int) -> Iterator[str]:
    return (id for id in (f"m-{number}" for number in count()) if keyspaces.of(id).partition == partition)
