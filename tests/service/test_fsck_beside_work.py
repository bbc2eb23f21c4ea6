"""fsck beside workers at full speed: it reports nothing that is not so, and what it repairs comes to its end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from durasleep import Context, Durasleep, Settings
from durasleep.client.client import store_of
from durasleep.errors import DurasleepError
from durasleep.protocol.keys import F
from durasleep.sync import Client as SyncClient
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, sleeping_workflow, waiting
from tests.service.workers import eventually, serving

BUSY = 300
SHARED = 5  # executions that many wait for
PATIENT = 40
LOST = 150
KINDS = 3


async def family(ctx: Context) -> int:
    """A family of its own."""
    return sum(await asyncio.gather(*(ctx.rpc(double, number) for number in range(3))))


LOOKED_AT = ("promise", "timer", "entry")
"""What it must have looked at while there was work."""


async def busy(ctx: Context, runs: int) -> None:
    """A little of everything, then all of it again."""
    chance = int(ctx.random() * 1000)
    await ctx.transaction().incr(ctx.key("counter"))
    doing: list[Any] = [ctx.sleep(0.05 * ctx.random()) for _ in range(3)]
    doing += [ctx.rpc(family), ctx.rpc(sleeping_workflow, 0.01), ctx.run(double, 4)]
    doing.append(ctx.rpc(sleeping_workflow, 0.2, id=f"shared-{chance % SHARED}"))
    await asyncio.gather(*doing)
    waits = (asyncio.ensure_future(ctx.rpc(waiting)), asyncio.ensure_future(ctx.promise(timeout=3600)))
    await asyncio.wait((*waits, asyncio.ensure_future(ctx.sleep(0.02))), return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if runs > 1:
        ctx.continue_as_new(runs - 1)


async def _control(app: Durasleep, id: str, chance: random.Random) -> None:
    """What people do to an execution, if it is not over yet."""
    match chance.randrange(8):
        case 0:
            await app.cancel(id)
        case 1:
            await app.cancel(id, force=True)
        case 2:
            await app.halt(id)
            await app.resume(id)
        case 3:
            await app.wake(id)
        case _:
            pass


async def test_beside_busy_workers_it_reports_nothing(new_app: NewApp) -> None:
    app = new_app(settings=Settings(retention=timedelta(seconds=1)))
    app.workflow(busy)
    app.workflow(family)
    chance = random.Random(7)
    looked_at = Counter[str]()
    looks = 0

    async def start(number: int) -> None:
        id = f"busy-{number}"
        delay = 0.1 * chance.random() if chance.random() < 0.3 else None
        handle = await app.rpc(id, busy, 2, delay=delay, timeout=60)
        with suppress(DurasleepError):  # canceled, or controlled when there was nothing to control
            await _control(app, id, chance)
            await handle

    async def look() -> None:
        nonlocal looks
        while True:
            report = await app.fsck(repair=looks % 2 == 1)
            assert report.findings == []
            looked_at.update(report.checked)
            looks += 1

    async with serving(app, "w1"), serving(app, "w2"):
        looking = asyncio.create_task(look())
        try:
            first = 0
            while (first < BUSY or min(looked_at[kind] for kind in LOOKED_AT) <= 100) and not looking.done():
                await asyncio.gather(*(start(number) for number in range(first, first + 50)))
                first += 50
            await eventually(lambda: looks > 5 or looking.done(), "some more looks")
        finally:
            looking.cancel()
            [ended] = await asyncio.gather(looking, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
    assert min(looked_at[kind] for kind in LOOKED_AT) > 100, looked_at


async def patient(ctx: Context, number: int) -> int:
    """Sleeps and waits for children, of which some have an id of their own, again and again."""
    for again in range(5):
        await ctx.sleep(0.05)
        own = f"own-{number}-{again}"
        await asyncio.gather(ctx.rpc(sleeping_workflow, 0.05), ctx.rpc(sleeping_workflow, 0.1, id=own))
    return number


@pytest.mark.usefixtures("in_one_partition")
async def test_whatever_is_lost_while_workers_run_they_finish_when_it_is_repaired(
    app: Durasleep, real_server: Server
) -> None:
    app.workflow(patient)
    chance, client = random.Random(7), cast("Any", real_server.client())
    keys = (await store_of(app)).keyspaces[-1]
    repaired = Counter[str]()

    async def lose_something(first: int) -> None:
        """A timer, a stream entry, the place of an execution, or its list of those who wait."""
        number, again = first + chance.randrange(PATIENT), chance.randrange(5)
        match chance.randrange(4):
            case 0:
                await client.zpopmax(keys.timers)
            case 1:
                for entry, _ in await client.xrange(keys.queue("workers"), count=1):
                    await client.xdel(keys.queue("workers"), entry)
            case 2:
                await client.hdel(keys.promise(f"patient-{number}"), F["place"])
            case _:
                await client.hdel(keys.promise(f"own-{number}-{again}"), F["waiters"])

    async with serving(app, "w1"), serving(app, "w2"):
        first = 0
        while repaired.total() < LOST or len(repaired) < KINDS:
            numbers = range(first, first + PATIENT)
            handles = [await app.rpc(f"patient-{number}", patient, number) for number in numbers]
            results = asyncio.gather(*handles)
            while not results.done():
                if repaired.total() < LOST or len(repaired) < KINDS:
                    for _ in range(20):
                        await lose_something(first)
                report = await app.fsck(repair=True)
                assert report.is_clean, report
                repaired.update(finding.kind for finding in report.findings)
            assert await results == list(numbers)
            first += PATIENT


@pytest.mark.usefixtures("in_one_partition")
async def test_the_sync_client_checks_and_forgets_what_was_quarantined(app: Durasleep, real_server: Server) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    client.xadd(keys.queue("workers"), {"what": "ever"})
    async with serving(app):
        await eventually(lambda: client.zcard(keys.halted) == 1, "it to be quarantined")
    with SyncClient(real_server.url, namespace=app.namespace) as sync:
        [finding] = sync.fsck().findings
        assert finding.kind == "aside"
        assert not finding.repairable
        assert sync.discard_quarantined(finding.id)
        assert not sync.discard_quarantined(finding.id)
        assert sync.fsck().is_clean
