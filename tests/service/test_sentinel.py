"""Redis behind Sentinel: a dead primary is replaced, and everything finishes on the new one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.sentinel import Sentinel

from durasleep import Durasleep, StoreUnavailable, UsageError
from durasleep.client.client import store_of
from durasleep.devserver import DevServer
from durasleep.sync import Client as SyncClient
from durasleep.transport.connector import Connector
from harness.servers import MakeServer, free_port
from tests.service.fixtures import NewApp
from tests.service.functions import nap, passage
from tests.service.workers import Effects, Workers, eventually, serving, until

pytestmark = pytest.mark.long

SERVICE = "main"
DOWN_AFTER_MS = 500
PASSAGES = 10


class Watched:
    """A primary with a replica and one sentinel: enough for a failover."""

    def __init__(self, primary: DevServer, replica: DevServer, directory: Path) -> None:
        self.primary = primary
        self.replica = replica
        self.port = free_port()
        config = directory / "sentinel.conf"
        lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
        )
        config.write_text("\n".join(lines))
        with (directory / "sentinel.log").open("wb") as log:
            command = [primary.binary.path, config, "--sentinel"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"

    async def follows(self) -> None:
        """The replica has all, and the sentinel knows it."""
        primary, replica = redis.Redis.from_url(self.primary.url), redis.Redis.from_url(self.replica.url)
        sentinel: Any = redis.Redis(port=self.port, decode_responses=True)

        def does() -> bool:
            told: Any = replica.info("replication")
            here: Any = primary.info("replication")
            if told.get("master_link_status") != "up" or told["slave_repl_offset"] != here["master_repl_offset"]:
                return False
            try:
                known: Any = sentinel.sentinel_master(SERVICE)
            except redis.RedisError:
                return False
            return int(known["num-slaves"]) == 1

        await eventually(does, "the replica to follow, and the sentinel to know it")
        for client in (primary, replica, sentinel):
            client.close()


@pytest.fixture
def watched(make_server: MakeServer, tmp_path: Path) -> Iterator[Watched]:
    primary, replica = make_server(), make_server()
    with redis.Redis.from_url(replica.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(primary.port))
    watched = Watched(primary, replica, tmp_path)
    yield watched
    watched.process.kill()
    watched.process.wait()


async def test_a_primary_that_dies_is_replaced_and_all_finish_once(
    watched: Watched, new_app: NewApp, workers: Workers, effects: Effects, namespace: str
) -> None:
    await watched.follows()
    app = new_app(watched.url)
    for name in ("w1", "w2"):
        await workers.begin(name, "--url", watched.url).ready()
    naps = [await app.rpc(f"nap-{number}", nap, effects.path, 4) for number in range(PASSAGES)]
    for handle in naps:
        await until(app, handle.id, "suspended")
    passages = [await app.rpc(f"passage-{number}", passage, effects.path) for number in range(PASSAGES)]
    await effects.standing("gate", times=PASSAGES)
    await watched.follows()
    watched.primary.kill()
    effects.open("gate")
    for handle in naps:
        assert await handle.result(timeout=60) == f"{handle.id} slept for 4 seconds"
    for handle in passages:
        assert await handle.result(timeout=60) == "through gate"
        assert effects.count(f"{handle.id} goes") == 1
    assert (await app.fsck()).is_clean
    with SyncClient(watched.url, namespace=namespace) as client:  # this client never knew the first one
        assert client.rpc("passage-0", "passage", effects.path).result(timeout=5) == "through gate"


async def test_a_primary_that_hands_over_is_left_at_once(
    watched: Watched, new_app: NewApp, effects: Effects, namespace: str
) -> None:
    """A failover that a person asks for: the old primary lives on as a replica, and takes no writes."""
    await watched.follows()
    app = new_app(watched.url)
    with SyncClient(watched.url, namespace=namespace) as client:
        async with serving(app):
            first = await app.rpc("first", nap, effects.path, 3)
            await until(app, "first", "suspended")
            await watched.follows()
            with redis.Redis(port=watched.port) as sentinel:
                sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)

                def is_replica() -> bool:
                    with suppress(redis.RedisError), redis.Redis.from_url(watched.primary.url) as old:
                        told: Any = old.info("replication")
                        return told["role"] == "slave"
                    return False  # the sentinel cuts all connections as it makes it one

                await eventually(is_replica, "the old primary to follow the new one")
            second = await asyncio.to_thread(client.rpc, "second", "nap", effects.path, 0.1)
            assert await asyncio.to_thread(second.result, 30) == "second slept for 0.1 seconds"
            assert await first.result(timeout=30) == "first slept for 3 seconds"


async def test_the_clients_that_redis_py_makes_by_its_own_sentinel_are_taken(
    watched: Watched, effects: Effects, namespace: str
) -> None:
    asked = [("127.0.0.1", watched.port)]
    await watched.follows()
    theirs, sync_theirs = AsyncSentinel(asked).master_for(SERVICE), Sentinel(asked).master_for(SERVICE)
    app = Durasleep(theirs, namespace=namespace)
    app.workflow(nap)
    async with app, serving(app):
        with SyncClient(sync_theirs, namespace=namespace) as client:
            handle = await asyncio.to_thread(client.rpc, "a", "nap", effects.path, 0.1)
            assert await asyncio.to_thread(handle.result, 30) == "a slept for 0.1 seconds"
    with pytest.raises(UsageError, match="a client of replicas"):
        Durasleep(AsyncSentinel(asked).slave_for(SERVICE))
    await theirs.aclose()
    sync_theirs.close()


async def test_without_a_primary_it_is_said_who_was_asked(namespace: str) -> None:
    port = free_port()
    app = Durasleep(f"redis+sentinel://localhost:{port},127.0.0.1:{port}/orders", namespace=namespace)
    with pytest.raises(StoreUnavailable, match=f"orders of localhost:{port},127.0.0.1:{port} cannot be reached"):
        await store_of(app)


def test_the_url_says_whom_to_ask_and_how_to_connect() -> None:
    found = Connector.of(
        "rediss+sentinel://me:secret@one,[::1]:8000,two:7000/orders/3"
        "?sentinel_password=theirs&ssl_ca_certs=ca.pem&health_check_interval=3"
    )
    assert found.sentinels is not None
    assert found.sentinels.addresses == (("one", 26379), ("::1", 8000), ("two", 7000))
    assert found.sentinels.service == "orders"
    assert found.sentinels.options | {"password": "theirs", "ssl": True, "ssl_ca_certs": "ca.pem"} == (
        found.sentinels.options
    )
    assert found.arguments["username"] == "me"
    assert found.arguments["password"] == "secret"
    assert found.arguments["db"] == 3
    assert found.arguments["ssl_ca_certs"] == "ca.pem"
    assert not {"host", "port"} & found.arguments.keys()
    assert "secret" not in found.address
    assert "theirs" not in found.address


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://localhost",
        "redis+sentinel:///orders",
        "redis+sentinel://one:x/orders",
        "redis+sentinel://a/b/c",
    ],
)
def test_a_url_that_says_too_little_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="sentinel"):
        Connector.of(url)
