"""A sleeping workflow exists only in Redis, and wakes when the server's clock says so, not before."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from typing import Any

import pytest

from durasleep import Durasleep
from durasleep.client.client import store_of
from durasleep.protocol import timers
from durasleep.runtime.activation import Activation
from harness.servers import Server
from tests.service.functions import measured_sleep, sleeping_workflow
from tests.service.workers import eventually, serving, until

SLEEPERS = 10_000
AT_ONCE = 500  # how many calls run at a time
STOP_S = 1.0  # a worker whose workflows all sleep must end in this time


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("in_one_partition")
async def test_ten_thousand_sleepers_hold_nothing_in_the_worker(
    app: Durasleep, real_server: Server, namespace: str
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    gc.collect()
    of_others = {id(found) for found in gc.get_objects() if isinstance(found, Activation)}
    async with serving(app) as worker:
        await (await app.rpc("first", sleeping_workflow, 0))
        await app.rpc("sleeper-0", sleeping_workflow, 3600)
        await eventually(lambda: client.zcard(keys.timers) == 1 and not worker.running, "the first sleeper")
        tasks, threads = _names_of_tasks(), set(threading.enumerate())
        for start in range(1, SLEEPERS, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, SLEEPERS))
            await asyncio.gather(*(app.rpc(f"sleeper-{number}", sleeping_workflow, 3600) for number in numbers))
        await eventually(lambda: client.zcard(keys.timers) == SLEEPERS, "all to be asleep")
        await eventually(lambda: worker.running == 0, "all to be let go of")

        assert client.xlen(keys.queue("workers")) == 0
        assert client.xpending(keys.queue("workers"), "workers")["pending"] == 0
        assert _names_of_tasks() == tasks
        assert set(threading.enumerate()) == threads
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Activation) and id(one) not in of_others]
        assert client.ttl(keys.promise("sleeper-7")) == -1

        began = time.monotonic()
        worker.stop()
        await eventually(lambda: not _worker_tasks(), "the worker to have left")
        assert time.monotonic() - began < STOP_S
    assert client.zcard(keys.timers) == SLEEPERS
    real_server.flush()  # while they all sleep, there is nothing to check


def _names_of_tasks() -> list[str]:
    """Connections that stay; those of a batch, and of the client's own reads, come and go."""
    passing = {"durasleep-batcher", "durasleep-inbox"}
    return sorted(name for task in asyncio.all_tasks() if (name := task.get_name()) not in passing)


def _worker_tasks() -> list[str]:
    return [name for name in _names_of_tasks() if name in ("durasleep-reader", "durasleep-firer", "durasleep-beats")]


async def test_no_sleep_is_early_by_the_servers_clock(app: Durasleep, real_server: Server) -> None:
    """Measured with the server's clock before and after: whole and broken milliseconds, some at once."""
    chance = random.Random(7)
    lengths_s = [0, 0.001, 0.0005, 0.0101, *(round(chance.uniform(0, 1.2), 4) for _ in range(300))]
    async with serving(app):
        handles = [
            await app.rpc(f"sleep-{number}", measured_sleep, real_server.url, length_s)
            for number, length_s in enumerate(lengths_s)
        ]
        took_us = await asyncio.gather(*handles)
    early = {length: took for length, took in zip(lengths_s, took_us, strict=True) if took < length * 1e6}
    assert early == {}


async def test_a_timer_made_by_another_client_moves_the_firer_forward(app: Durasleep) -> None:
    """A worker that waits for a far timer fires a nearer one in time: it is told."""
    async with serving(app):
        await app.promises.create("far", timeout=3600, timer=True)
        near = await app.promises.create("near", timeout=0.2, timer=True)
        assert await near.result(timeout=5) is None
        assert not await (app.get("far")).done()
        assert (await app.wake("far")).word == "woken"
        assert await app.get("far") is None


@pytest.mark.usefixtures("in_one_partition")
async def test_sleeps_end_where_no_worker_can_be_woken(app: Durasleep, real_server: Server) -> None:
    """The key of the wake-ups holds another type: workers look by themselves, and often."""
    client: Any = real_server.sync_client()
    wake = (await store_of(app)).keyspaces[-1].wake
    client.set(wake, "not a stream")
    async with serving(app):
        for number in range(3):
            result = (await app.rpc(f"nap-{number}", sleeping_workflow, 1)).result(timeout=20)
            assert await result == "Slept for 1 seconds"
    client.delete(wake)


async def test_a_running_sleep_can_be_seen_moved_and_woken(app: Durasleep) -> None:
    async with serving(app):
        handle = await app.rpc("sleep", sleeping_workflow, 3600)
        await until(app, "sleep", "suspended")
        [timer] = (await app.describe("sleep")).waiting_on
        assert (timer.id, timer.kind) == ("sleep~1", "timer")
        assert (await app.reschedule("sleep~1", 7200)).word == "rescheduled"
        [moved] = (await app.describe("sleep")).waiting_on
        assert moved.due_ms
        assert timer.due_ms
        assert 3_590_000 < moved.due_ms - timer.due_ms < 3_660_000
        await app.wake("sleep~1")
        assert await handle == "Slept for 3600 seconds"
        assert (
            await (await store_of(app)).call(timers.fire((await store_of(app)).keys("sleep"), limit=10))
        ).next_due_ms is None
