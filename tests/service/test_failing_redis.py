"""Redis killed and restarted, its scripts flushed, its connections cut: everything still finishes, once."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from durasleep import Durasleep, StoreUnavailable
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import membership, streams
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.transport.store import Store
from harness.proxy import Proxy
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp
from tests.service.functions import nap, passage
from tests.service.workers import Effects, Workers, eventually, serving, until

NAPS = 20


async def test_all_finish_once_after_redis_was_killed_and_restarted(
    make_server: MakeServer, real_server: Server, new_app: NewApp, effects: Effects
) -> None:
    """Sleepers due while it is down, sleepers due later, and steps that end while it is down."""
    server = make_server()
    app = new_app(server.url)
    async with serving(app):
        running = [await app.rpc(f"passage-{number}", passage, effects.path) for number in range(NAPS)]
        late = [await app.rpc(f"late-{number}", nap, effects.path, 4) for number in range(NAPS)]
        soon = [await app.rpc(f"soon-{number}", nap, effects.path, 2) for number in range(NAPS)]
        await effects.standing("gate", times=NAPS)
        dues_ms = [(await until(app, handle.id, "suspended")).waiting_on[0].due_ms or 0 for handle in soon + late]
        server.kill()
        effects.open("gate")
        await eventually(lambda: time.time() * 1000 > max(dues_ms[:NAPS]), "the first half to be due")
        assert not [line for line in effects.lines() if "gets up" in line or "goes" in line]
        server.start()
        results = await asyncio.gather(*soon, *late, *running)
    assert set(results[2 * NAPS :]) == {"through gate"}
    for number in range(NAPS):
        for name in ("soon", "late"):
            assert effects.count(f"{name}-{number} lies down") == effects.count(f"{name}-{number} gets up") == 1
        assert effects.count(f"passage-{number} comes") == effects.count(f"passage-{number} goes") == 1
    assert effects.count("gate") == NAPS


async def test_forgotten_scripts_and_cut_connections_are_not_noticed(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    rounds = 5
    async with serving(app):
        handles = [await app.rpc(f"passage-{number}", passage, effects.path, "gate-0") for number in range(NAPS)]
        for number in range(rounds):
            handles += [
                await app.rpc(f"nap-{number}-{which}", nap, effects.path, 0.05 * which) for which in range(NAPS)
            ]
            await effects.standing("gate-0", times=NAPS)
            client.script_flush()
            client.client_kill_filter(_type="normal", skipme=True)
        effects.open("gate-0")
        await asyncio.gather(*handles)
    assert effects.count("gate-0") == NAPS
    for handle in handles:
        lines = ("comes", "goes") if handle.id.startswith("passage") else ("lies down", "gets up")
        assert [effects.count(f"{handle.id} {line}") for line in lines] == [1, 1]


async def test_a_worker_whose_connections_were_cut_is_not_taken_for_dead(
    app: Durasleep, real_server: Server, workers: Workers, effects: Effects, namespace: str
) -> None:
    """A closed connection is the early sign of a death, but one that beats on has not died."""
    client: Any = real_server.sync_client()
    store = await store_of(app)

    async def beats_again(name: str, times: int) -> None:
        for _ in range(times):
            seen = await _beat_of(store, name)

            async def has_changed(seen: str = seen) -> bool:
                return await _beat_of(store, name) != seen

            await eventually(has_changed, f"another beat of {name}")

    [cut] = await workers.start("cut")
    handle = await app.rpc("passage", passage, effects.path)
    await effects.standing("gate")
    [judge] = await workers.start("judge")
    await beats_again("judge", 4)  # from now on it judges
    for _ in range(2):
        for connection in client.client_list():
            if connection["name"] == f"durasleep/{namespace}/cut":
                client.client_kill_filter(_id=connection["id"])
        await beats_again("judge", 2)
    effects.open("gate")
    assert await handle == "through gate"
    assert effects.count("gate") == 1
    assert "is dead" not in judge.log()
    assert cut.alive


async def _beat_of(store: Store, name: str) -> str:
    keys = store.keyspaces[0]
    consumers = await store.call(streams.read_consumers(keys, "workers"))
    [consumer] = [one for one in consumers if one.startswith(f"{name}/")]
    return str(await store.call(membership.read_beat(keys, consumer)))


async def test_an_emptied_redis_loses_its_executions_and_nothing_else(
    app: Durasleep, real_server: Server, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    """FLUSHALL under a worker: what ran is dropped, the stream and group are made anew, new calls are served."""
    async with serving(app) as worker:
        await app.rpc("lost", passage, effects.path)
        await effects.standing("gate")
        real_server.flush()
        effects.open("gate")
        await eventually(lambda: worker.running == 0, "the lost execution to be dropped")
        await eventually(lambda: "Redis has lost namespace" in caplog.text, "it to be said")
        assert effects.count("lost goes") == 0
        assert await (await app.rpc("new", nap, effects.path, 0.05)).result(timeout=30) == "new slept for 0.05 seconds"
        assert await (await store_of(app)).load(PromiseId("lost")) is None


async def test_an_unreachable_redis_is_said_at_once(
    make_server: MakeServer, real_server: Server, new_app: NewApp
) -> None:
    server = make_server()
    server.kill()
    app = new_app(server.url)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port} cannot be reached"):
        await app.rpc("nap", "nap", "", 1)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{server.port}"):
        SyncClient(server.url).rpc("nap", "nap", "", 1)


async def test_connections_that_went_silent_are_noticed_and_made_anew(
    new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    """Half-open: nobody closes them, and nothing comes through any more. The deadlines are short, to be waited for."""
    proxy = Proxy()
    await proxy.start(int(real_server.url.rpartition(":")[2]))
    settings = replace(DEFAULTS, command_timeout_s=1.0, read_block_s=0.5)
    app = new_app(f"redis://127.0.0.1:{proxy.port}", settings=settings)
    try:
        async with serving(app):
            asleep = await app.rpc("asleep", nap, effects.path, 0.5)
            running = await app.rpc("running", passage, effects.path)
            await effects.standing("gate")
            proxy.black_hole()
            effects.open("gate")
            async with asyncio.timeout(10 * (settings.command_timeout_s + settings.read_block_s)):
                await asyncio.gather(asleep, running)
                await (await app.rpc("later", nap, effects.path, 0.1))
        assert effects.count("running goes") == 1
    finally:
        await app.aclose()
        await proxy.close()


async def test_an_outage_is_said_once_a_minute_by_the_whole_worker_and_when_it_is_over(
    make_server: MakeServer, new_app: NewApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_s = 1.5  # for a minute
    monkeypatch.setattr("durasleep.transport.outage.SAID_S", every_s)
    server = make_server()

    def said(text: str) -> list[float]:
        return [record.created for record in caplog.records if text in record.getMessage()]

    async with serving(new_app(server.url)):
        server.kill()
        await eventually(lambda: len(said("this worker waits")) == 3, "three lines")
        server.start()
        await eventually(lambda: said("Redis serves this worker again"), "the end of it")
    lines = said("this worker waits")
    assert all(later - earlier >= every_s - 0.1 for earlier, later in pairwise(lines))
    all_said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(all_said) == len(lines) + len(said("Redis serves this worker again")), all_said
