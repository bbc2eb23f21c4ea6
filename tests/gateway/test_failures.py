"""Workers, gateways and Redis die, and come back: what was begun is finished, by somebody."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any, cast

import pytest
import redis

from durasleep import Durasleep
from durasleep.devserver import DevServer
from durasleep.gateway.tasks import groups
from durasleep.gateway.tasks.leases import Token
from durasleep.settings import Settings
from harness.servers import MakeServer, Server
from tests.gateway.gateways import FAR_MS, Gateways, Poll, Served, fetch, rpc, serving
from tests.gateway.http_worker import HttpWorker
from tests.gateway.raw_worker import RawWorker, create, settled
from tests.service.workers import PATIENCE_S, eventually


async def is_refused(admin: Any, user: str, command: str) -> bool:
    """Whether Redis has refused this command of a user."""
    return any((one["username"], one["object"]) == (user, command) for one in await admin.acl_log())


@pytest.fixture
def own_server(make_server: MakeServer, one_server: Server) -> DevServer:
    """A server that a test may stop; it has each write on disk."""
    return make_server(one_server.kind)


async def test_a_task_of_a_worker_that_died_is_finished_by_another(gateway: Served) -> None:
    first = await RawWorker(gateway.url, "p1").connect()
    await create(gateway.url, "a")
    lost = await first.acquire(ttl_ms=500)
    await first.poll.close()
    second = await RawWorker(gateway.url, "p2").connect()
    task = await second.acquire()
    assert (task["id"], task["version"]) == ("a", lost["version"] + 1)
    assert await first.finish(lost) == 409
    assert await second.finish(task) == 200
    assert (await settled(gateway.url, "a"))["value"]["data"] == "p2"


async def test_another_gateway_goes_on_for_one_that_was_killed(gateways: Gateways) -> None:
    first, second = await asyncio.gather(gateways.start(), gateways.start())
    doomed = await RawWorker(first.url, "p1").connect()
    await create(first.url, "asleep")
    await doomed.sleep(await doomed.acquire(), 500)
    await create(first.url, "held")
    held = await doomed.acquire()
    await first.kill()
    await doomed.poll.ended()
    worker = await RawWorker(second.url, "p1").connect()
    assert (await worker.acquire())["id"] == "asleep"
    assert await worker.finish(held) == 200  # a lease is of a process, not of a connection or gateway


async def test_a_gateway_outlives_redis(own_server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    async with Durasleep(own_server.url) as client, serving(client) as served:
        worker = await RawWorker(served.url, "p1").connect()
        await create(served.url, "a")
        await worker.sleep(await worker.acquire(), 1_000)
        own_server.kill()
        asked = asyncio.create_task(rpc(served.url, "promise.get", id="a"))
        ready = await fetch(f"{served.url}/ready")
        assert (ready.status, "Redis" in ready.json()["detail"]) == (503, True)
        assert (await fetch(f"{served.url}/health")).status == 200
        status, sentence = await asked
        assert (status, "cannot be reached" in sentence) == (503, True)
        own_server.start()
        assert await worker.finish(await worker.acquire()) == 200
        assert (await settled(served.url, "a"))["state"] == "resolved"
        assert (await fetch(f"{served.url}/ready")).status == 200
    assert "this gateway waits, nothing is lost" in caplog.text
    assert "Redis serves this gateway again" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_gateway_ends_soon_while_redis_is_away(own_server: DevServer) -> None:
    async with Durasleep(own_server.url, settings=Settings(heartbeat_s=0.2, dead_after_s=0.6)) as client:
        async with serving(client) as served:
            polls = [asyncio.create_task(HttpWorker(served.port, f"w{n}").poll(wait=60)) for n in range(10)]

            async def are_listed() -> bool:
                return len([one for one in (await client.overview()).workers if one.name[0] == "w"]) == len(polls)

            await eventually(are_listed, "the workers to be listed")
            own_server.kill()
            began = time.monotonic()
        assert time.monotonic() - began < 8, "no worker costs a wait for Redis"
        assert await asyncio.gather(*polls) == [None] * len(polls)


async def test_what_a_gateway_begins_while_it_ends_keeps_it_no_longer(
    own_server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LEAVE_S", 0.2)
    async with Durasleep(own_server.url) as client:
        shared = groups.Groups(client)
        await shared.open()
        own_server.kill()
        lost = Token(0, "go", "1-1", 1, "t1", "w1/1", "f", 1, 0, 3_000, "")
        shared.release_lent(lost)
        closing = asyncio.create_task(shared.aclose())
        await asyncio.sleep(0)
        shared.release_lent(lost)
        await asyncio.wait_for(closing, 5)
        assert not [one for one in asyncio.all_tasks() if one.get_name() == "durasleep-groups"]


async def test_a_gateway_waits_for_redis_at_its_start(own_server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    url = own_server.url
    own_server.kill()
    client = Durasleep(url)
    async with serving(client, waits=False):
        pass  # it can be stopped meanwhile
    async with serving(client, waits=False) as served:
        assert (await fetch(f"{served.url}/health")).status == 200
        assert (await fetch(f"{served.url}/ready")).status == 503
        assert (await rpc(served.url, "promise.get", id="a"))[0] == 503
        assert (await fetch(f"{served.url}/v1/executions")).status == 503
        worker = await RawWorker(served.url, "p1").connect()
        assert "this gateway waits, nothing is lost" in caplog.text
        own_server.start()
        await asyncio.wait_for(served.gateway.ready.wait(), PATIENCE_S)
        await create(served.url, "a")
        assert await worker.finish(await worker.acquire()) == 200
        assert (await fetch(f"{served.url}/ready")).status == 200
    await client.aclose()
    assert "Redis serves this gateway again" in caplog.text


async def test_a_gateway_outlives_a_change_of_its_permissions(
    one_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("durasleep.gateway.gateway.CHECK_S", 0.05)
    monkeypatch.setattr("durasleep.transport.store.CHECK_S", 0.0)
    admin = one_server.client()
    await admin.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all")
    url = one_server.url.replace("://", f"://{namespace}:secret@")
    try:
        async with Durasleep(url, namespace=namespace) as client, serving(client) as served:
            await admin.execute_command("ACL", "SETUSER", namespace, "-@all")
            await eventually(lambda: "this gateway waits, nothing is lost" in caplog.text, "a look at Redis")
            assert (await rpc(served.url, "promise.get", id="a"))[0] == 503
            await eventually(lambda: is_refused(admin, namespace, "hmget"), "a check of the namespace")
            await admin.execute_command("ACL", "SETUSER", namespace, "+@all")
            assert (await rpc(served.url, "promise.get", id="a"))[0] == 404
    finally:
        await admin.execute_command("ACL", "DELUSER", namespace)


async def test_what_was_begun_is_finished_while_redis_is_full(own_server: DevServer) -> None:
    async with Durasleep(own_server.url) as client, serving(client) as served:
        worker = await RawWorker(served.url, "p1").connect()
        await create(served.url, "a")
        due = await worker.sleep(await worker.acquire(), 500)
        with closing(cast("Any", redis.Redis).from_url(own_server.url)) as admin:
            admin.config_set("maxmemory", 1)
            status, sentence = await rpc(served.url, "promise.create", id="b", timeoutAt=FAR_MS, tags={})
            assert (status, "maxmemory" in sentence) == (503, True)
            task = await worker.acquire()
            assert time.time() * 1000 >= due
            assert await worker.finish(task) == 200
            assert (await rpc(served.url, "promise.get", id="a"))[1]["promise"]["state"] == "resolved"
            admin.config_set("maxmemory", 0)
            assert (await rpc(served.url, "promise.create", id="b", timeoutAt=FAR_MS, tags={}))[0] == 200


async def test_a_worker_keeps_its_lease_and_ends_its_task_while_redis_is_full(own_server: DevServer) -> None:
    async with Durasleep(own_server.url) as client, serving(client) as served:
        worker = HttpWorker(served.port)
        await client.rpc("t1", "thumbnail", target="go")
        lease = (await worker.poll())["lease"]
        with closing(cast("Any", redis.Redis).from_url(own_server.url)) as admin:
            admin.config_set("maxmemory", 1)
            began = time.monotonic()
            assert (await worker.ask("heartbeat", lease=lease, progress={"done": 1, "total": 2})).status == 200
            assert (await worker.ask("heartbeat", lease=lease, checkpoint=1)).status == 503
            assert (await worker.ask("complete", lease=lease, value=1)).status == 200
            assert time.monotonic() - began < 9, "each of them would wait for ten seconds"
            admin.config_set("maxmemory", 0)


async def test_no_time_of_a_schedule_is_lost_while_redis_is_full(own_server: DevServer) -> None:
    async with Durasleep(own_server.url) as client, serving(client, debug=True) as served:
        await rpc(served.url, "debug.start")
        asked: dict[str, Any] = {"id": "s", "promiseId": "{{.timestamp}}", "promiseTimeout": 600_000}
        asked |= {"promiseTags": {"resonate:target": "poll://any@raw"}, "head": {"resonate:debug_time": 1_000}}
        assert (await rpc(served.url, "schedule.create", **asked, cron="*/5 * * * *"))[0] == 200
        with closing(cast("Any", redis.Redis).from_url(own_server.url)) as admin:
            admin.config_set("maxmemory", 1)
            assert (await rpc(served.url, "debug.tick", time=300_000))[0] == 200
            admin.config_set("maxmemory", 0)
        await rpc(served.url, "debug.tick", time=310_000)
        assert (await rpc(served.url, "promise.get", id="300000"))[0] == 200
        assert (await rpc(served.url, "schedule.get", id="s"))[1]["schedule"]["nextRunAt"] == 600_000


async def test_a_message_to_a_connection_that_dies_is_sent_again(gateway: Served, one_server: Server) -> None:
    poll = await Poll.open(gateway.port, "raw", "p1")
    await create(gateway.url, "a")
    await poll.message()
    await poll.close()
    again = await Poll.open(gateway.port, "raw", "p2")
    timers = f"{gateway.gateway.store.keyspaces[0].resonate}timers"
    now_ms = time.time() * 1000
    again_ms = await one_server.client().zscore(timers, "ta")
    assert again_ms is not None
    assert 25_000 < again_ms - now_ms < 31_000
    await one_server.client().zadd(timers, {"ta": now_ms})  # as if half a minute had passed
    gateway.gateway.delivery.wake()
    assert (await again.message())["data"]["task"] == {"id": "a", "version": 0}
