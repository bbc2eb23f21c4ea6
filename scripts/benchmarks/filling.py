"""Many executions that sleep, made fast: by the store's own calls, 64 to a script, without running any workflow.

``put_to_sleep`` does the work of a client and a worker: create, read from the stream, commit a timer and suspend. It
leaves the same data as they do, and a worker can wake the executions. ``delay`` only creates executions with a delayed
start. Each also has a timer, for less than half of the work: use it where only the number of timers counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from durasleep.client import requests
from durasleep.client.client import store_of
from durasleep.model import CommitAction, Due, Number, StartTimer
from durasleep.protocol import command, commit
from durasleep.runtime.definition import name_of
from durasleep.settings import DEFAULTS
from durasleep.transport.store import Store
from durasleep.worker.loops.task_reader import TaskReader
from scripts.benchmarks import workflows
from scripts.benchmarks.bench import GROUP, Bench

FAR = timedelta(days=3_650)  # never due during a measurement
CONSUMER = "filler/1"
BATCH = 4_096  # calls in flight
WAKING = name_of(workflows.waking)


async def put_to_sleep(
    bench: Bench, count: int, due_ms_of: Callable[[int], int], *, prefix: str = "s", args: bytes | None = None
) -> None:
    """Make ``count`` ``waking`` workflows that sleep until the instants of ``due_ms_of``; ``args`` replaces theirs."""
    store = await store_of(bench.client)
    keys, names = store.keyspaces[0], requests.IdSource()
    reader = TaskReader(store.link(keys), keys, group=GROUP, consumer=CONSUMER, settings=DEFAULTS)
    await reader.join()
    for numbers in _batches(count):
        dues = {f"{prefix}{number}": due_ms_of(number) for number in numbers}
        payloads = {id: args or bench.client.codec.encode_args((due_ms,), {}, WAKING) for id, due_ms in dues.items()}
        await _gather(store, (_rpc(store, id, WAKING, payload, names) for id, payload in payloads.items()))
        await _suspend(store, reader, dues)
    await reader.close()
    await bench.redis.xgroup_delconsumer(keys.queue(GROUP), GROUP, CONSUMER)
    await bench.redis.delete(keys.queue(f"{GROUP}/{CONSUMER.partition('/')[0]}"))


async def delay(bench: Bench, count: int, *, prefix: str = "d") -> None:
    """Make ``count`` executions whose start is delayed for years."""
    store = await store_of(bench.client)
    name, names = name_of(workflows.leaf), requests.IdSource()
    payload = bench.client.codec.encode_args((0,), {}, name)
    for numbers in _batches(count):
        await _gather(store, (_rpc(store, f"{prefix}{n}", name, payload, names, FAR) for n in numbers))


def _rpc(
    store: Store, id: str, function: str, payload: bytes, names: requests.IdSource, delay: timedelta | None = None
) -> command.BatchItem[Any]:
    options = requests.CallOptions(delay=delay)
    make = requests.rpc_maker(
        store.keys, function, options, group=GROUP, inbox=lambda _: names.inbox, settings=DEFAULTS
    )
    return make(id, payload, names.idempotency_key(), "")


async def _suspend(store: Store, reader: TaskReader, dues: dict[str, int]) -> None:
    """Read all of them from the stream, and suspend each with its timer set."""
    left = len(dues)
    while left:
        leases = await reader.once(left)
        commits: list[command.BatchItem[Any]] = []
        for lease in leases:
            timer = StartTimer(Number("1"), "", Due(f"={dues[lease.id]}"))
            commits.append(commit.commit(store.keyspaces[0], CONSUMER, lease, CommitAction.SUSPEND, ops=[timer]))
        await _gather(store, commits)
        left -= len(leases)


async def _gather(store: Store, items: Iterable[command.BatchItem[Any]]) -> None:
    await asyncio.gather(*map(store.call, items))


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))
