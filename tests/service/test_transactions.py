"""Transactions happen exactly once, whenever the worker that asked for them dies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from durasleep import Durasleep
from harness.servers import Server
from tests.service.functions import counting
from tests.service.workers import Workers, eventually

pytestmark = pytest.mark.long

WORKFLOWS, TIMES = 50, 20  # of the kinds of servers together
KILL_EACH = (50, 110)  # increments between two kills


@pytest.mark.timeout(180)
async def test_a_thousand_increments_under_kills_are_a_thousand(
    app: Durasleep,
    workers: Workers,
    real_server: Server,
    namespace: str,
    share: Callable[[Sequence[int]], Sequence[int]],
) -> None:
    client: Any = real_server.client()
    key, chance = f"{namespace}-counter", random.Random(7)
    crew = await workers.start("w1", "w2", "w3", app="sturdy_app")
    ours = share(range(WORKFLOWS))
    increments = len(ours) * TIMES
    handles = [await app.rpc(f"count-{number}", counting, key, TIMES) for number in ours]
    results = asyncio.gather(*handles)
    kills, target = 0, 0
    try:
        while target < increments:
            target += chance.randint(*KILL_EACH)

            async def is_reached(target: int = target) -> bool:
                return results.done() or int(await client.get(key) or 0) >= target

            await eventually(is_reached, f"{target} increments")
            await asyncio.sleep(chance.random() * 0.02)  # at a random point of the others
            victim = crew.pop(0)
            crew.append(workers.begin(f"r{kills}", app="sturdy_app"))
            await victim.kill()
            kills += 1
        values = [value for result in await results for value in result]
        assert int(await client.get(key)) == increments
        assert sorted(values) == list(range(1, increments + 1))  # each answer was journaled once, too
        assert kills > increments / 100
    finally:
        results.cancel()
        await client.delete(key)


async def test_a_transaction_is_not_repeated_when_its_workflow_is_replayed(
    app: Durasleep, workers: Workers, real_server: Server, namespace: str
) -> None:
    client: Any = real_server.client()
    key = f"{namespace}-counter"
    try:
        for name in ("first", "second", "third"):
            [worker] = await workers.start(name)
            handle = await app.rpc("count", counting, key, 3)
            assert await handle == [1, 2, 3]
            await worker.kill()
        assert await client.get(key) == b"3"
    finally:
        await client.delete(key)
