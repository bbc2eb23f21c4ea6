"""What is delivered to whom, and when."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from durasleep import Durasleep
from durasleep.protocol import resonate
from durasleep.query.attention import LOOKED_MAX
from harness.servers import Server
from tests.gateway.gateways import FAR_MS, Poll, Served, rpc, serving
from tests.gateway.raw_worker import RawWorker, create, settled, tags
from tests.service.workers import eventually


async def test_a_sleep_ends_when_it_is_due_and_never_earlier(gateway: Served, one_server: Server) -> None:
    worker = await RawWorker(gateway.url, "p1").connect()
    late_ms: list[int] = []
    for number in range(10):
        await create(gateway.url, f"a{number}")
        due_ms = await worker.sleep(await worker.acquire(), 40)
        message = await worker.poll.message()
        seconds, us = one_server.sync_client().time()
        late_ms.append(int(seconds) * 1000 + int(us) // 1000 - due_ms)
        assert message["data"]["task"]["id"] == f"a{number}"
        timer = (await rpc(gateway.url, "promise.get", id=f"a{number}:1"))[1]["promise"]
        assert (timer["state"], timer["settledAt"]) == ("resolved", due_ms)
    assert 0 <= min(late_ms) < 50


async def test_sleepers_cause_no_message(gateway: Served) -> None:
    poll = await Poll.open(gateway.port, "raw", "p1")
    ids = [f"sleeper-{number}" for number in range(1_000)]
    asked: list[list[Any]] = []
    for id in ids:
        made = {"id": id, "timeoutAt": FAR_MS, "param": {}, "tags": tags(id, "raw")}
        timer = made | {"id": f"{id}:1", "tags": tags(f"{id}:1", "raw", timer="true")}
        create, fenced = request("promise.create", **made), request("promise.create", **timer)
        wait = request("promise.register_callback", awaited=f"{id}:1", awaiter=id)
        asked.append(
            [
                request("task.create", pid="p1", ttl=60_000, action=create),
                request("task.fence", id=id, version=1, action=fenced),
                request("task.suspend", id=id, version=1, actions=[wait]),
            ]
        )
    store = gateway.gateway.store
    for step in zip(*asked, strict=True):
        calls = [resonate.rpc(store.keyspaces[0], json.dumps(one).encode()) for one in step]
        assert {answer.status for answer in await store.ask(calls)} == {200}
    await rpc(gateway.url, "promise.create", id="last", timeoutAt=FAR_MS, tags=tags("last", "raw"))
    assert (await poll.message())["data"]["task"]["id"] == "last"


def request(kind: str, **data: Any) -> dict[str, Any]:
    return {"kind": kind, "head": {"corrId": "c", "version": resonate.VERSION}, "data": data}


async def test_processes_of_a_group_take_turns_and_the_preferred_one_comes_first(gateway: Served) -> None:
    polls = [await Poll.open(gateway.port, "raw", f"p{n}") for n in range(4)]
    for n in range(40):
        await create(gateway.url, f"a{n}")
    for poll in polls:
        assert len([await poll.message() for _ in range(10)]) == 10
    for n in range(5):
        await create(gateway.url, f"b{n}", target="poll://any@raw/p2")
    assert [(await polls[2].message())["data"]["task"]["id"] for _ in range(5)] == [f"b{n}" for n in range(5)]
    await create(gateway.url, "c", target="poll://any@raw/nobody")
    first = asyncio.wait([asyncio.create_task(poll.message()) for poll in polls], return_when=asyncio.FIRST_COMPLETED)
    done, waiting = await first
    assert [task.result()["data"]["task"]["id"] for task in done] == ["c"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_queue_that_nobody_polls_waits(gateway: Served, one_server: Server) -> None:
    await create(gateway.url, "a")
    client = gateway.gateway.client
    assert "other languages" not in {one.subject for one in await client.diagnose()}
    queue = f"{gateway.gateway.store.keyspaces[0].resonate}queue:poll://any@raw"
    await one_server.client().zadd(queue, {"a": time.time() * 1000 - 61_000})  # as if it had waited for a minute
    said = [one.text for one in await client.diagnose() if one.subject == "other languages"]
    assert said == ["1 task has waited for a worker at poll://any@raw for more than a minute"]
    many = one_server.client().pipeline()
    for n in range(LOOKED_MAX):
        many.zadd(queue.replace("raw", f"a{n}"), {"a": time.time() * 1000})
    await many.execute()
    said = [one.text for one in await client.diagnose() if one.subject == "other languages"]
    assert said == ["more addresses have messages than are named here, or there are too many keys to see all"]
    await one_server.client().delete(*[queue.replace("raw", f"a{n}") for n in range(LOOKED_MAX)])
    poll = await Poll.open(gateway.port, "other", "p1")
    await create(gateway.url, "b", "other")
    assert (await poll.message())["data"]["task"]["id"] == "b"
    late = await Poll.open(gateway.port, "raw", "p1")
    assert (await late.message())["data"]["task"]["id"] == "a"


async def test_who_listens_for_a_promise_is_told_of_its_end(gateway: Served) -> None:
    poll = await Poll.open(gateway.port, "raw", "p1")
    await rpc(gateway.url, "promise.create", id="a", timeoutAt=FAR_MS, tags={"resonate:external": "true"})
    address = "poll://uni@raw/p1"
    assert (await rpc(gateway.url, "promise.register_listener", awaited="a", address=address))[0] == 200
    await rpc(gateway.url, "promise.settle", id="a", state="rejected", value={"data": "eA=="})
    message = await poll.message()
    assert (message["kind"], message["data"]["promise"]["value"]) == ("unblock", {"data": "eA=="})
    preferred = await Poll.open(gateway.port, "raw", "p2")
    for n in range(4):
        await create(gateway.url, f"b{n}", target="poll://any@nobody")
        await rpc(gateway.url, "promise.register_listener", awaited=f"b{n}", address="poll://any@raw/p2")
        await rpc(gateway.url, "promise.settle", id=f"b{n}", state="resolved", value={})
    assert {(await preferred.message())["data"]["promise"]["id"] for _ in range(4)} == {f"b{n}" for n in range(4)}


async def test_an_address_that_is_damaged_stops_no_other(
    gateway: Served, one_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    own, redis = gateway.gateway.store.keyspaces[0].resonate, one_server.client()
    await redis.set(f"{own}queue:poll://any@broken", "x")
    await redis.set(f"{own}promise:x", "x")
    await redis.zadd(f"{own}timers", {"tx": 1})
    polls = [await Poll.open(gateway.port, group, "p1") for group in ("broken", "raw")]
    await create(gateway.url, "a")
    assert (await polls[1].message())["data"]["task"]["id"] == "a"
    damaged = "the messages for poll://any@broken cannot be read: WRONGTYPE"
    for what in ("the timer tx fails: WRONGTYPE", damaged):
        await eventually(lambda what=what: what in caplog.text, what)
    for id in ("b", "c"):
        await create(gateway.url, id)
        assert (await polls[1].message())["data"]["task"]["id"] == id
    assert caplog.text.count(damaged) == 1, "it is said once a minute"
    assert "this gateway waits" not in caplog.text, "it is no outage of Redis"


async def test_several_gateways_need_not_agree(gateway: Served, one_server: Server, namespace: str) -> None:
    async with Durasleep(one_server.url, namespace=namespace) as other, serving(other) as second:
        workers = [await RawWorker(one.url, f"p{n}").connect() for n, one in enumerate([gateway, gateway, second])]
        for n in range(24):
            await create((gateway, second)[n % 2].url, f"a{n}")
        tasks = [worker.finishing() for worker in workers]
        found = [await settled(gateway.url, f"a{n}") for n in range(24)]
        assert not any(task.done() for task in tasks), "none was refused"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert {promise["state"] for promise in found} == {"resolved"}
        assert len({promise["value"]["data"] for promise in found}) > 1


async def test_a_schedule_makes_its_promises(client: Durasleep) -> None:
    async with serving(client, debug=True) as served:
        await rpc(served.url, "debug.start")
        poll = await Poll.open(served.port, "raw", "p1")
        asked: dict[str, Any] = {"promiseId": "{{.id}}-{{.timestamp}}", "promiseTimeout": 600_000}
        asked |= {
            "id": "s",
            "promiseTags": {"resonate:target": "poll://any@raw"},
            "head": {"resonate:debug_time": 1_000},
        }
        assert (await rpc(served.url, "schedule.create", **asked, cron="every day"))[0] == 400
        status, data = await rpc(served.url, "schedule.create", **asked, cron="*/5 * * * *")
        assert (status, data["schedule"]["nextRunAt"]) == (200, 300_000)
        await rpc(served.url, "debug.tick", time=600_000)
        assert [(await poll.message())["data"]["task"]["id"] for _ in range(2)] == ["s-300000", "s-600000"]
        schedule = (await rpc(served.url, "schedule.get", id="s"))[1]["schedule"]
        assert (schedule["lastRunAt"], schedule["nextRunAt"]) == (600_000, 900_000)
        asked |= {"id": "t", "promiseId": "{{.id}}" * 1024 + "!"}
        assert (await rpc(served.url, "schedule.create", **asked, cron="*/5 * * * *"))[0] == 400


@pytest.mark.parametrize("partitions", [5])
async def test_all_partitions_are_served(one_server: Server, namespace: str, partitions: int) -> None:
    async with Durasleep(one_server.url, namespace=namespace) as client:
        await client.init(partitions=partitions)
        async with serving(client) as served:
            worker = await RawWorker(served.url, "p1").connect()
            ids = [f"a{n}" for n in range(20)]
            for id in ids:
                await create(served.url, id)
            asleep = [await worker.acquire() for _ in ids]
            for task in asleep:
                await worker.sleep(task, 1000)  # a timer that is due already would not suspend it
            finishing = worker.finishing()
            assert {(await settled(served.url, id))["state"] for id in ids} == {"resolved"}
            assert not finishing.done(), "nothing was refused"
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
            beats = [{"id": task["id"], "version": task["version"]} for task in asleep]
            assert (await rpc(served.url, "task.heartbeat", pid="p1", tasks=beats))[0] == 200
