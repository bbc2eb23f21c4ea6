"""Task workers that speak plain HTTP: they poll, send heartbeats, complete and fail, and are fenced like ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any

import msgpack
import msgspec
import pytest

from durasleep import Canceled, Durasleep, Limit
from durasleep.client.client import store_of
from durasleep.gateway.tasks import groups
from durasleep.gateway.tasks.leases import read_token, write_token
from durasleep.protocol import membership
from durasleep.settings import Settings
from durasleep.worker.loops.reaper import take_over
from harness.servers import Server
from tests.gateway.gateways import HOST, Gateways, Served, serving
from tests.gateway.http_worker import HttpWorker, post, problem_of
from tests.service.workers import ROOT, eventually, until

FENCED = (409, "fenced")


@pytest.fixture
async def client(one_server: Server, namespace: str) -> AsyncIterator[Durasleep]:
    """An application without functions, whose gateways notice the dead soon."""
    settings = Settings(heartbeat_s=0.2, dead_after_s=0.6)
    async with Durasleep(one_server.url, namespace=namespace, settings=settings) as made:
        yield made


@pytest.fixture
def worker(gateway: Served) -> HttpWorker:
    """A worker of group ``go``."""
    return HttpWorker(gateway.port)


async def call(client: Durasleep, id: str, *args: Any, function: str = "thumbnail", **kwargs: Any) -> Any:
    return await client.options(target="go").rpc(id, function, *args, **kwargs)


async def listed(client: Durasleep, *names: str) -> dict[str, int]:
    """How many executions each worker of the group runs, when these workers are listed."""

    async def look() -> dict[str, int] | None:
        workers = [one for one in (await client.overview()).workers if one.group == "go" and not one.is_leaving]
        found = {one.name: one.running for one in workers}
        return found if found.keys() >= set(names) else None

    return await eventually(look, f"{names} to be listed")


async def beats(client: Durasleep, count: int) -> None:
    """Wait for heartbeats of the gateway as a worker of the group."""
    seen: set[int] = set()

    async def look() -> bool:
        workers = [one for one in (await client.overview()).workers if one.name.startswith("gateway-")]
        seen.update(one.beat_ms for one in workers)
        return len(seen) > count

    await eventually(look, f"{count} heartbeats")


async def test_a_worker_gets_a_task_extends_its_lease_and_completes_it(client: Durasleep, worker: HttpWorker) -> None:
    assert await worker.poll(wait=0) is None
    handle = await client.options(target="go", labels={"user": "ada"}, timeout=60).rpc(
        "t1", "thumbnail", "a.png", size=3
    )
    task = await worker.poll()
    assert (task["id"], task["function"], task["args"], task["kwargs"]) == ("t1", "thumbnail", ["a.png"], {"size": 3})
    assert (task["attempt"], task["lost_leases"], task["labels"]) == (1, 0, {"user": "ada"})
    assert 60_000 <= task["timeout_at_ms"] - task["created_at_ms"] < 61_000
    extended = await worker.done(
        "heartbeat", lease=task["lease"], progress={"done": 1, "total": 2}, published={"at": "x"}
    )
    assert extended == {"canceled": False, "lease_s": 30, "timeout_at_ms": task["timeout_at_ms"]}
    view = await client.view("t1")
    assert (view.values, view.progress and view.progress.fraction) == ({"at": "x"}, 0.5)
    assert (await client.describe("t1")).worker == "w1"
    ended = {"state": "resolved", "next_in_ms": None}
    assert await worker.done("complete", lease=task["lease"], value={"url": "t.png"}) == ended
    assert await worker.done("complete", lease=task["lease"], value={"url": "t.png"}) == ended, "a repeat"
    assert await handle.result(10) == {"url": "t.png"}
    assert await worker.refused("complete", lease=task["lease"], value="other") == FENCED
    assert await worker.refused("heartbeat", lease=task["lease"]) == FENCED
    assert await worker.refused("fail", lease=task["lease"], error={"message": "late"}) == FENCED
    assert (await client.fsck()).findings == []


async def test_a_failed_attempt_is_repeated_by_the_policy_of_its_worker(client: Durasleep, worker: HttpWorker) -> None:
    functions = {"thumbnail": {"retry": {"attempts": 3, "delay": 0.01, "give_up_on": ["Declined"]}}, "other": {}}
    handle = await call(client, "f1")
    task = await worker.poll(functions)
    await worker.done("heartbeat", lease=task["lease"], checkpoint={"page": 7})
    error = {"type": "TypeError", "message": "no image", "details": {"at": [1, 2]}}
    failed = await worker.done("fail", lease=task["lease"], error=error)
    assert failed["state"] == "pending"
    assert 10 <= failed["next_in_ms"] <= 12
    task = await worker.poll(functions)
    assert (task["attempt"], task["checkpoint"]) == (2, {"page": 7})
    assert (await worker.done("fail", lease=task["lease"], error=error, delay="20ms"))["next_in_ms"] == 20
    task = await worker.poll(functions)
    assert (await worker.done("fail", lease=task["lease"], error=error))["state"] == "rejected"
    with pytest.raises(TypeError, match="no image") as failure:
        await handle.result(10)
    assert failure.value.__notes__ == ['{"at":[1,2]}']
    assert [one.error for one in (await client.describe("f1")).failed_attempts] == ["TypeError: no image"] * 2
    for id, said in (
        ("declined", {"error": {"type": "shop.Declined", "message": "no"}}),
        ("declined later", {"error": {"type": "shop.Declined", "message": "no"}, "delay": 5}),
        ("final", {"error": {"message": "no"}, "retryable": False}),
    ):
        await call(client, id)
        task = await worker.poll(functions)
        assert (await worker.done("fail", lease=task["lease"], **said))["state"] == "rejected", id
    await call(client, "without a policy", function="other")
    task = await worker.poll(functions)
    assert (await worker.done("fail", lease=task["lease"], error={"message": "no"}, retryable=True))[
        "state"
    ] == "pending"


async def test_a_poll_that_does_not_wait_gets_what_is_there(client: Durasleep, worker: HttpWorker) -> None:
    assert await worker.poll(wait=0) is None
    await call(client, "n1")
    # A read that was under way for the poll before may bring it to nobody.
    assert any([await worker.poll(wait=0) for _ in range(3)])


async def test_a_failure_whose_answer_was_lost_is_said_again(client: Durasleep, worker: HttpWorker) -> None:
    retry = {"attempts": 3, "delay": 0}
    await call(client, "again")
    first = await worker.poll(retry=retry)
    error = {"message": "no image", "details": [1]}

    async def repeat() -> Any:
        return await worker.done("fail", lease=first["lease"], error=error)

    assert await repeat() == await repeat() == {"state": "pending", "next_in_ms": 0}
    assert await worker.refused("fail", lease=first["lease"], error={"message": "another"}) == FENCED
    second = await worker.poll(retry=retry)
    assert (second["attempt"], await repeat()) == (2, {"state": "pending", "next_in_ms": 0})
    await worker.done("complete", lease=second["lease"])
    assert await repeat() == {"state": "resolved", "next_in_ms": None}
    assert len((await client.describe("again")).failed_attempts) == 1
    both = [worker.ask("fail", lease=second["lease"], error=error) for second in [await new_task(client, worker)] * 2]
    assert [one.json() for one in await asyncio.gather(*both)] == [{"state": "rejected", "next_in_ms": None}] * 2


async def new_task(client: Durasleep, worker: HttpWorker, id: str = "new") -> Any:
    await call(client, id)
    return await worker.poll()


async def test_no_policy_is_too_long_for_a_lease_and_no_attempt_too_late(client: Durasleep, worker: HttpWorker) -> None:
    names = ["\U0001f600" * 255] * 20
    await call(client, "long")
    task = await worker.poll(retry={"retry_on": names, "give_up_on": names})
    await worker.done("heartbeat", lease=task["lease"])
    token = read_token(task["lease"], "go", await store_of(client))
    lease = write_token(msgspec.structs.replace(token, attempt=5_000))
    await worker.done("complete", lease=lease)


async def test_a_cancel_is_heard_with_the_next_heartbeat(client: Durasleep, worker: HttpWorker) -> None:
    handle = await call(client, "c1")
    task = await worker.poll()
    assert await worker.refused("fail", lease=task["lease"], canceled=True) == (409, "not-allowed")
    await handle.cancel()
    assert (await worker.done("heartbeat", lease=task["lease"]))["canceled"]
    for _ in range(2):
        assert (await worker.done("fail", lease=task["lease"], canceled=True))["state"] == "canceled"
    with pytest.raises(Canceled):
        await handle.result(10)
    stubborn = await call(client, "c2")
    task = await worker.poll(retry={"attempts": 5})
    await stubborn.cancel()
    assert (await worker.done("fail", lease=task["lease"], error={"message": "no"}))["state"] == "rejected"
    await call(client, "c3", function="thumbnail")
    task = await worker.poll()
    await client.cancel("c3", force=True)
    assert await worker.refused("heartbeat", lease=task["lease"]) == FENCED


async def judge(client: Durasleep, task: dict[str, Any], beat: int | None = None) -> int | None:
    """What another worker does when a lease was not extended in time: returns how many executions others get, or None
    if there was a heartbeat since ``beat``, by default the last one.
    """
    store = await store_of(client)
    keys, consumer = store.keyspaces[0], read_token(task["lease"], "go", store).consumer
    seen = beat or await beat_of(client, task)
    return await take_over(store, keys, consumer, "go", beat=str(seen), max_attempts=2)


async def beat_of(client: Durasleep, task: dict[str, Any]) -> int | None:
    """When a lease was extended last."""
    store = await store_of(client)
    return await store.call(membership.read_beat(store.keyspaces[0], read_token(task["lease"], "go", store).consumer))


async def test_a_lease_that_nobody_extends_goes_to_another_worker(client: Durasleep, worker: HttpWorker) -> None:
    handle = await call(client, "l1")
    task = await worker.poll(lease_s=20)
    beat = await beat_of(client, task)
    await asyncio.sleep(0.002)  # beats are told apart by their ms
    await worker.done("heartbeat", lease=task["lease"])
    assert await judge(client, task, beat) is None, "it was extended meanwhile"
    assert await judge(client, task) == 1
    other = HttpWorker(worker.port, "w2")
    again = await other.poll()
    assert (again["id"], again["attempt"], again["lost_leases"]) == ("l1", 1, 1)
    for verb, more in (("complete", {"value": 1}), ("heartbeat", {}), ("fail", {"error": {"message": "x"}})):
        assert await worker.refused(verb, lease=task["lease"], **more) == FENCED
    await other.done("complete", lease=again["lease"], value=2)
    assert await handle.result(10) == 2


async def test_a_task_that_kills_its_workers_is_halted(client: Durasleep, worker: HttpWorker) -> None:
    await call(client, "k1")
    for lost in range(2):
        task = await worker.poll()
        assert task["lost_leases"] == lost
        await judge(client, task)
    assert (await until(client, "k1", "halted")).reason == "poison: 2 workers in a row died while running it"


async def test_a_task_taken_in_the_instant_of_a_disconnect_is_returned_at_once(
    client: Durasleep, worker: HttpWorker
) -> None:
    await worker.poll(wait=0)
    handle = await call(client, "d1")
    asked = json.dumps({"worker": "w1", "functions": ["thumbnail"]})
    head = f"POST /v1/groups/go:poll HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json"
    request = f"{head}\r\nContent-Length: {len(asked)}\r\n\r\n{asked}".encode()
    for n in range(30):  # from before the request is read until after the answer is written
        with socket.create_connection((HOST, worker.port)) as connection:
            connection.sendall(request)
            await asyncio.sleep(n * 0.0005)
            connection.setblocking(False)
            try:
                answer = connection.recv(1 << 16)
            except BlockingIOError:
                continue
        await worker.done("complete", lease=json.loads(answer.partition(b"\r\n\r\n")[2])["lease"])
        handle = await call(client, f"d{n + 2}")
    task = await worker.poll()
    assert (task["id"], task["lost_leases"]) == (handle.id, 0)
    await worker.done("complete", lease=task["lease"])


async def test_a_client_that_has_its_answer_may_close_in_any_way(client: Durasleep, worker: HttpWorker) -> None:
    asked = json.dumps({"worker": "w1", "functions": ["thumbnail"]})
    head = f"POST /v1/groups/go:poll HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json"
    await call(client, "d1")
    reader, writer = await asyncio.open_connection(HOST, worker.port)
    writer.write(f"{head}\r\nContent-Length: {len(asked)}\r\n\r\n{asked}".encode())
    answer = await reader.read(1 << 16)
    writer.write_eof()
    await asyncio.sleep(0.05)  # its end is there before its reset
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    assert await worker.poll(wait=0.3) is None
    await worker.done("complete", lease=json.loads(answer.partition(b"\r\n\r\n")[2])["lease"])


async def test_another_gateway_goes_on_with_the_leases_of_one_that_was_killed(
    client: Durasleep, gateways: Gateways
) -> None:
    await client.init(partitions=3)
    store = await store_of(client)
    killed = await gateways.start()
    worker = HttpWorker(killed.port)
    ids = [f"x{n}" for n in range(100)]
    ids = [id for part in range(3) for id in [id for id in ids if store.keys(id).partition == part][:3]]
    handles = [await call(client, id, n) for n, id in enumerate(ids)]
    tasks = [await worker.poll(retry={"attempts": 2, "delay": 0}) for _ in handles]
    waiting = asyncio.create_task(worker.ask("poll", worker="w1", functions=["thumbnail"]))
    await killed.kill()
    with pytest.raises((OSError, ValueError)):
        await waiting
    async with serving(client) as other:
        worker.port = other.port
        assert not (await worker.done("heartbeat", lease=tasks[0]["lease"]))["canceled"]
        for task in tasks[:-1]:
            await worker.done("complete", lease=task["lease"], value=task["args"][0])
        await worker.done("fail", lease=tasks[-1]["lease"], error={"message": "once"})
        again = await worker.poll()
        await worker.done("complete", lease=again["lease"], value=again["args"][0])
        assert [await handle.result(10) for handle in handles] == list(range(9))
        polling = asyncio.create_task(worker.poll())
        await listed(client, "w1")
    assert await polling is None, "a gateway that ends answers its polls"
    assert (await client.fsck()).findings == []


async def test_limits_priorities_and_pauses_hold_for_these_workers(client: Durasleep, worker: HttpWorker) -> None:
    client.task(limit=Limit("cpu", total=1))(thumbnail)
    async with client.serving(group="elsewhere"):  # declares the limit
        pass
    for id in ("p1", "p2"):
        await call(client, id)
    first = await worker.poll()
    assert await worker.poll(wait=0.05) is None, "the only slot is in use"
    assert (await client.describe("p2")).status == "parked"
    await worker.done("complete", lease=first["lease"])
    second = await worker.poll()
    assert second["id"] == "p2"
    await worker.done("complete", lease=second["lease"])
    await client.pause_group("go")
    for id, priority in (("last", 5), ("first", 1)):
        await client.options(target="go", priority=priority).rpc(id, "other")
    await beats(client, 2)
    polling = asyncio.create_task(worker.poll(["other"]))
    await listed(client, "w1")
    [seen] = [group for group in (await client.overview()).groups if group.name == "go"]
    assert (seen.queued, seen.running, seen.paused_since_ms is None) == (2, 0, False)
    await client.resume_group("go")
    found = [await polling, await worker.poll(["other"])]
    assert [task["id"] for task in found] == ["first", "last"]


def thumbnail() -> None:
    """What the worker runs, as far as we know."""


async def test_workers_are_listed_by_name_while_they_wait_and_while_they_run(
    client: Durasleep, worker: HttpWorker
) -> None:
    polling = [asyncio.create_task(HttpWorker(worker.port, name).poll()) for name in ("w1", "w2")]

    assert set((await listed(client, "w1", "w2")).values()) == {0}
    await call(client, "o1")
    done, _ = await asyncio.wait(polling, return_when=asyncio.FIRST_COMPLETED)
    assert sorted((await listed(client, "w1", "w2")).values()) == [0, 0, 1]
    await worker.done("complete", lease=done.pop().result()["lease"])
    await call(client, "o2")
    await asyncio.wait(polling)


async def test_there_is_a_last_group(worker: HttpWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUPS_MAX", 1)
    assert await worker.poll(wait=0) is None
    assert await HttpWorker(worker.port, group="other").refused("poll", worker="w", functions=["f"]) == (503, "busy")
    assert await worker.poll(wait=0) is None


async def test_a_worker_gets_only_functions_that_it_has(client: Durasleep, worker: HttpWorker) -> None:
    thumbnails = asyncio.create_task(worker.poll())
    mails = asyncio.create_task(HttpWorker(worker.port, "w2").poll(["mail"]))
    await call(client, "m1", function="mail")
    await call(client, "m2")
    assert ((await mails)["id"], (await thumbnails)["id"]) == ("m1", "m2")
    await call(client, "m3", function="mail")
    assert await worker.poll(wait=0.05) is None
    assert (await HttpWorker(worker.port, "w2").poll(["mail"]))["id"] == "m3"


async def test_values_are_plain_json_or_messagepack(client: Durasleep, worker: HttpWorker) -> None:
    handle = await call(client, "v1", b"\x00\xff")
    asked = {"worker": "w1", "functions": ["thumbnail"]}
    task = (await post(worker.port, "/v1/groups/go:poll?values=msgpack", asked)).json()
    assert msgpack.unpackb(base64.b64decode(task["args_msgpack"])) == [b"\x00\xff"]
    await worker.done("complete", lease=task["lease"], value_msgpack="gQHEAQE=")
    assert await handle.result(10) == {1: b"\x01"}


def broken_bodies(lease: str) -> list[tuple[str, Any]]:
    """Requests that cannot be used."""
    right: dict[str, dict[str, Any]] = {
        "poll": {"worker": "w1", "functions": ["thumbnail"], "wait": 0, "lease_s": 5, "retry": {"attempts": 2}},
        "heartbeat": {"lease": lease, "progress": {"done": 1, "total": 2, "text": "x"}, "published": {}},
        "complete": {"lease": lease},
        "fail": {"lease": lease, "error": {"message": "x", "type": "T"}, "retryable": True, "delay": 1},
    }
    wrong: list[Any] = [
        None,
        True,
        -1,
        1e300,
        "",
        "\x00\n",
        "ü" * 9000,
        [],
        [1],
        {},
        {"a": 1},
        [[]],
        {"retry": {"delay": "soon"}},
    ]
    bodies: list[tuple[str, Any]] = [("poll", b"{"), ("fail", b"\xff"), ("complete", b"[]"), ("heartbeat", b"")]
    for verb, body in right.items():
        bodies += [(verb, {**body, name: value}) for name in (*body, "more") for value in wrong]
        bodies += [(verb, {other: body[other] for other in body if other != name}) for name in body if name != "wait"]
    bytes_of = base64.urlsafe_b64decode(lease + "==")
    chance = random.Random(18)
    for n in range(60):
        changed = bytearray(bytes_of)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        text = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        bodies.append((("heartbeat", "complete")[n % 2], {"lease": text}))
    return bodies


async def test_wrong_requests_are_problems_and_change_nothing(client: Durasleep, worker: HttpWorker) -> None:
    other = await call(client, "other", function="other")
    await call(client, "z1")
    task = await worker.poll()
    seen: set[int] = set()
    for verb, body in broken_bodies(task["lease"]):
        answered = await post(worker.port, f"/v1/groups/go:{verb}", body)
        seen.add(answered.status)
        if answered.status not in (200, 204):
            assert problem_of(answered)[0] in (400, 409, 413, 415, 422), (verb, body, answered)
    assert {200, 400, 409, 422} <= seen
    misnamed: list[tuple[Any, str]] = [({"": {}}, "/functions/"), ({"f": {"nosuch": 1}}, "/functions/f/nosuch")]
    for functions, at in misnamed:
        refused = await worker.ask("poll", worker="w1", functions=functions)
        assert (refused.status, refused.json()["errors"][0]["at"]) == (422, at)
    assert await worker.refused("steal", lease=task["lease"]) == (404, "no-such-route")
    for details in ("\ud800", {"a": ["\ud800"]}):
        error = {"message": "", "details": details}
        assert await worker.refused("fail", lease=task["lease"], error=error) == (422, "invalid")
    for group in ("a%2Fb", "%00", "%FF", "x" * 300):
        answered = await post(worker.port, f"/v1/groups/{group}:complete", {"lease": task["lease"]})
        assert problem_of(answered)[0] in (400, 422), group
    assert not await other.done()
    assert (await client.fsck()).findings == []


@contextmanager
def node(gateway: Served) -> Generator[subprocess.Popen[bytes]]:
    """The example of a worker in JavaScript."""
    arguments = [str(ROOT / "examples" / "http" / "worker.mjs"), gateway.url, "js", "1"]
    with subprocess.Popen(["node", *arguments], stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def shell(gateway: Served) -> Generator[None]:
    """The example of a worker with curl and jq."""
    arguments = [str(ROOT / "examples" / "http" / "worker.sh"), gateway.url, "shell"]
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def test_the_worker_in_javascript_is_killed_in_a_task_and_another_one_finishes_it(
    client: Durasleep, gateway: Served
) -> None:
    js = client.options(target="js")

    async def runs(id: str, process: subprocess.Popen[bytes]) -> None:
        async def look() -> bool:
            return (await client.describe(id)).worker == f"js-{process.pid}"

        await eventually(look, f"{process.pid} to run {id}")

    handle = await js.rpc("t1", "thumbnail", "cat.png", ms=200)
    with node(gateway) as first:
        await runs("t1", first)
        first.kill()
        with node(gateway) as second:
            assert await handle.result(20) == {"name": "64-cat.png", "by": f"js-{second.pid}"}
            large = await js.rpc("large", "thumbnail", "x" * 1_048_560)
            with pytest.raises(RuntimeError, match="over the cap"):
                await large.result(20)
            assert (await client.describe("large")).failed_attempts == []
            handle = await js.rpc("t2", "thumbnail", "dog.png", ms=400)
            await runs("t2", second)
            await handle.cancel()
            with pytest.raises(Canceled):
                await handle.result(20)


async def test_the_worker_in_the_shell_runs_a_command(client: Durasleep, gateway: Served) -> None:
    handle = await client.options(target="shell").rpc("s1", "checksum", "abc")
    with shell(gateway):
        assert await handle.result(20) == hashlib.sha256(b"abc").hexdigest()
