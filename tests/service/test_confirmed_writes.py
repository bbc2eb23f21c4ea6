"""Writes that count only once a replica has them, or the disk."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from durasleep import Disposition, NotReplicated, StoreUnavailable, UsageError
from durasleep.client.client import store_of
from durasleep.devserver import DevServer
from durasleep.errors import UnsupportedServer
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from harness.servers import MakeServer, Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, passage
from tests.service.workers import Effects, batcher_of, eventually, serving

pytestmark = pytest.mark.long

CONFIRMED = replace(DEFAULTS, min_replicas=1, confirm_timeout_s=0.1)


async def replicated(make_server: MakeServer) -> tuple[DevServer, DevServer]:
    """A primary, and a replica that follows it."""
    primary, replica = make_server(), make_server()
    client: Any = Redis.from_url(replica.url)
    await client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))

    async def is_up() -> bool:
        return (await client.info("replication"))["master_link_status"] == "up"

    await eventually(is_up, "the replica to follow")
    await client.aclose()
    return primary, replica


async def test_a_replica_that_is_cut_off_holds_up_what_is_to_be_kept(
    make_server: MakeServer,
    real_server: Server,
    new_app: NewApp,
    namespace: str,
    effects: Effects,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    primary, replica = await replicated(make_server)
    app, plain = new_app(primary.url, settings=CONFIRMED), new_app(primary.url)
    async with serving(app):
        handle = await app.rpc("a", passage, effects.path)
        await effects.standing("gate")
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            effects.open("gate")
            await eventually(lambda: "received by 0 replicas of 1" in caplog.text, "the worker to say why it waits")
            monkeypatch.setattr(await batcher_of(app), "_patience_s", 0.3)
            with pytest.raises(StoreUnavailable, match="received by 0 replicas of 1"):
                await app.rpc("b", double, 2)
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        assert await plain.get("a").result() == "through gate"
        assert await handle.result() == "through gate"
        assert await (await app.rpc("b", double, 2)) == 4  # it was written; the same id is the same execution
    assert effects.count("a goes") == 1


async def test_one_call_alone_waits_for_a_replica(
    make_server: MakeServer, new_app: NewApp, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.app.CALL_PATIENCE_S", 0.5)
    primary, replica = await replicated(make_server)
    app = new_app(primary.url, settings=replace(DEFAULTS, confirm_timeout_s=0.1))
    await app.rpc("copied", double, 1, min_replicas=1)
    with SyncClient(primary.url, namespace=namespace) as client:
        assert client.rpc("copied", "double", 1, min_replicas=1).disposition is Disposition.ATTACHED
    os.kill(replica.pid, signal.SIGSTOP)
    try:
        with pytest.raises(NotReplicated, match="received by 0 replicas of 1"):
            await app.rpc("here", double, 2, min_replicas=1)
        assert (await app.rpc("here", double, 2)).disposition is Disposition.ATTACHED  # stored, not copied
    finally:
        os.kill(replica.pid, signal.SIGCONT)
    assert (await app.rpc("here", double, 2, min_replicas=1)).disposition is Disposition.ATTACHED
    async with Redis.from_url(primary.url) as client, client.pipeline() as pipeline:
        with pytest.raises(UsageError, match="caller's own EXEC"):
            await app.rpc("x", double, 1, pipeline=pipeline, min_replicas=1)
    async with serving(app):
        assert await app.get("here").result() == 4
        assert await app.get("copied").result() == 2


async def test_a_write_waits_for_the_disk_where_the_server_can_say_so(
    make_server: MakeServer, real_server: Server, new_app: NewApp, namespace: str
) -> None:
    server = make_server(fsync="everysec")
    settings = replace(DEFAULTS, fsync=True, confirm_timeout_s=5.0)
    app = new_app(server.url, settings=settings)
    if real_server.version < (7, 2) and real_server.kind.startswith("redis"):
        with pytest.raises(UnsupportedServer, match="WAITAOF"):
            await app.rpc("a", double, 1)
        return
    async with serving(app):
        assert await (await app.rpc("a", double, 1)) == 2
    with SyncClient(server.url, namespace=namespace, settings=settings) as client:
        assert client.rpc("a", "double", 1).result() == 2


async def test_a_disk_that_is_not_there_is_refused(
    make_server: MakeServer, real_server: Server, new_app: NewApp
) -> None:
    server = make_server(persist=False)
    with pytest.raises(UnsupportedServer):
        await store_of(new_app(server.url, settings=replace(DEFAULTS, fsync=True)))
