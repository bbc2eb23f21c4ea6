"""The bridge, both ways: functions of another language for our workflows, and our functions for theirs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from durasleep import Canceled, Codec, Context, Durasleep, RemoteError, TimedOut
from durasleep.client.client import store_of
from durasleep.errors import NotSerializable
from durasleep.model import PromiseId
from durasleep.protocol import bridge, journal, resonate, sorted_sets
from durasleep.protocol.command import Command
from harness.servers import MakeServer, Server
from tests.gateway.gateways import FAR_MS, Poll, Served, data_of, rpc, serving
from tests.service.workers import eventually, until
from tests.service.workers import serving as working


def read(value: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(value["data"]))


class Worker:
    """A worker of another language, in plain requests."""

    def __init__(self, served: Served, poll: Poll) -> None:
        self._served = served
        self._poll = poll

    @classmethod
    async def open(cls, served: Served, group: str = "ts") -> Worker:
        return cls(served, await Poll.open(served.port, group, "p1"))

    async def take(self) -> tuple[dict[str, Any], Any]:
        """The next task, acquired, and its call."""
        task = (await self._poll.message())["data"]["task"]
        status, data = await rpc(self._served.url, "task.acquire", **task, pid="p1", ttl=60_000)
        assert status == 200, data
        return data, read(data["promise"]["param"])

    async def fulfill(self, taken: dict[str, Any], state: str, value: object) -> None:
        task = taken["task"]
        action = {
            "kind": "promise.settle",
            "head": {},
            "data": {"id": task["id"], "state": state, "value": data_of(value)},
        }
        status, data = await rpc(
            self._served.url, "task.fulfill", id=task["id"], version=task["version"], action=action
        )
        assert status == 200, data

    async def close(self) -> None:
        await self._poll.close()


def add_functions(client: Durasleep) -> None:
    """Workflows that call another language, and functions for it."""

    @client.workflow
    async def calls(ctx: Context, *args: Any, within: str | None = None) -> Any:
        return await ctx.rpc("resize", *args, target="poll://any@ts", timeout=within)

    @client.task
    async def double(n: int) -> int:
        return 2 * n

    @client.workflow
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep("1h")

    @client.workflow
    async def asks(ctx: Context) -> Any:
        return await ctx.promise()


@pytest.fixture
async def app(client: Durasleep) -> Durasleep:
    """With these functions."""
    add_functions(client)
    return client


@pytest.fixture
async def bridged(app: Durasleep) -> AsyncIterator[Served]:
    """A gateway that bridges the group ``ts``. At the end it has carried everything, and fsck finds nothing."""
    async with serving(app, bridge=["ts"]) as served:
        yield served
        store = await store_of(app)
        queues = [f"{keys.resonate}queue:{resonate.OURS}".encode() for keys in store.keyspaces]

        async def is_carried() -> bool:
            return not any([await store.call(Command([b"ZCARD", queue], int)) for queue in queues])

        await eventually(is_carried, "everything to be carried")
        assert not (await app.fsck()).findings


async def test_a_workflow_calls_a_function_of_another_language(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("a.b:1", "calls", {"width": 3}, 2)
        taken, call = await worker.take()
        assert call == {"func": "resize", "args": [{"width": 3}, 2], "kwargs": {}, "version": 1}
        assert taken["promise"]["id"] == "a%2Eb%3A1~1"
        await worker.fulfill(taken, "resolved", ["small", None])
        assert await handle.result(timeout=20) == ["small", None]
    await worker.close()


async def test_what_it_raises_there_is_raised_here_with_its_name_and_message(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("c", "calls", 1)
        taken, _ = await worker.take()
        error = {
            "__type": "error",
            "name": "RangeError",
            "message": "too wide",
            "stack": "RangeError: too wide\n  at resize",
        }
        await worker.fulfill(taken, "rejected", error)
        with pytest.raises(RemoteError, match=r"^ts\.RangeError: too wide$") as raised:
            await handle.result(timeout=20)
        assert "at resize" in raised.value.remote_traceback or any("at resize" in n for n in raised.value.__notes__)
    await worker.close()


async def test_a_cancel_reaches_the_promise_there(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("c", "calls", 1)
        taken, _ = await worker.take()
        await app.cancel("c")
        with pytest.raises(Canceled):
            await handle.result(timeout=20)
        assert (await settled(bridged, taken["task"]["id"]))["state"] == "rejected_canceled"
    await worker.close()


async def test_a_forced_cancel_too_for_which_no_code_runs(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        await app.rpc("c", "calls", 1)
        taken, _ = await worker.take()
        await app.cancel("c", force=True)
        assert (await settled(bridged, taken["task"]["id"]))["state"] == "rejected_canceled"
    await worker.close()


async def test_a_request_of_a_killed_gateway_that_comes_after_the_end_of_its_call_calls_nobody(
    app: Durasleep, bridged: Served
) -> None:
    """It has made the promise wait for the execution. Then it is killed, and its request is still on the way."""
    store = await store_of(app)
    await app.rpc("a", "resize", 1, target="nobody")  # no gateway here takes it
    keys, id = store.keys(PromiseId("a")), PromiseId("a")
    record = await store.call(journal.read_record(keys, id))
    assert record
    await store.call(bridge.attach(keys, id, waiter=bridge.waiter(0, "a", is_outward=True)))
    await app.cancel("a", force=True)

    async def is_told() -> bool:
        return "a~tell" not in dict(await store.call(sorted_sets.list_members(keys.timers)))

    await eventually(is_told, "its timer to be gone")
    late = bridge.create_outward("a", "ts", data_of({}), deadline_ms=FAR_MS, answers=f"{record.incarnation} a~1")
    await store.call(resonate.rpc(keys, late))
    promise = (await rpc(bridged.url, "promise.get", id="a"))[1]["promise"]
    assert promise["state"] == "rejected_canceled"
    assert "resonate:target" not in promise["tags"]


async def test_a_cancel_there_cancels_the_call_here(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("c", "calls", 1)
        taken, _ = await worker.take()
        await rpc(bridged.url, "promise.settle", id=taken["task"]["id"], state="rejected_canceled", value={})
        with pytest.raises(Canceled):
            await handle.result(timeout=20)
    await worker.close()


async def test_a_deadline_is_that_of_the_promise_there(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("c", "calls", 1, within="1s")
        taken, _ = await worker.take()
        with pytest.raises(TimedOut):
            await handle.result(timeout=20)
        promise = await settled(bridged, taken["task"]["id"])
        assert promise["state"] == "rejected_timedout"
    await worker.close()


async def test_an_argument_that_is_no_plain_json_is_a_final_error_that_names_it(
    app: Durasleep, bridged: Served
) -> None:
    async with working(app):
        handle = await app.rpc("c", "calls", 1, {"when": [datetime(2026, 1, 1, tzinfo=UTC)]})
        with pytest.raises(
            NotSerializable, match=r"^argument 2 of resize has a datetime at \.when\[0\]; .* plain JSON"
        ):
            await handle.result(timeout=20)


async def test_a_retried_call_is_another_promise(app: Durasleep, bridged: Served) -> None:
    worker = await Worker.open(bridged)
    async with working(app):
        handle = await app.rpc("c", "resize", 1, target="ts")
        taken, _ = await worker.take()
        await worker.fulfill(taken, "rejected", {"__type": "error", "message": "no"})
        with pytest.raises(RemoteError, match="no"):
            await handle.result(timeout=20)
        await app.retry("c")
        again, _ = await worker.take()
        assert again["promise"]["id"].startswith("c~i")
        await worker.fulfill(again, "resolved", "yes")
        assert await app.get("c").result(timeout=20) == "yes"
    await worker.close()


async def test_a_promise_that_others_have_made_is_left_alone(app: Durasleep, bridged: Served) -> None:
    tags = {"resonate:target": "poll://any@nobody"}
    await rpc(bridged.url, "promise.create", id="c", timeoutAt=FAR_MS, param={}, tags=tags)
    handle = await app.rpc("c", "resize", 1, target="ts")
    with pytest.raises(ValueError, match="already a promise 'c' that durasleep has not made"):
        await handle.result(timeout=20)
    assert (await rpc(bridged.url, "promise.get", id="c"))[1]["promise"]["state"] == "pending"


async def test_an_id_that_is_too_long_for_a_promise_concerns_nobody_else(app: Durasleep, bridged: Served) -> None:
    with pytest.raises(ValueError, match="too long for a promise of another language"):
        await (await app.rpc(":" * 400, "resize", 1, target="ts")).result(timeout=20)
    worker = await Worker.open(bridged)
    await app.rpc(":" * 341, "resize", 1, target="ts")  # only the id of a second promise would be too long
    assert (await worker.take())[0]["promise"]["id"] == "%3A" * 341
    await app.cancel(":" * 341)
    await create(bridged, "a", {"func": "double", "args": [4]})
    await until(app, "a", "queued")
    store = await store_of(app)
    keys = store.keys(PromiseId("a"))
    await store.call(bridge.attach(keys, PromiseId("a"), waiter=bridge.waiter(0, "%" * 1025)))
    async with working(app):
        assert read((await settled(bridged, "a"))["value"]) == 8

        async def is_told() -> bool:
            return "a~tell" not in dict(await store.call(sorted_sets.list_members(keys.timers)))

        await eventually(is_told, "its timer to be gone")


async def test_a_tag_that_durasleep_has_not_made_says_nothing(bridged: Served) -> None:
    for n, tag in enumerate(("9" * 5000 + " a~1", "\N{SUPERSCRIPT TWO} a~1", "1 a", "")):
        tags = {"resonate:external": "true", bridge.ANSWERS: tag}
        await rpc(bridged.url, "promise.create", id=f"f{n}", timeoutAt=FAR_MS, param={}, tags=tags)
        await rpc(bridged.url, "promise.register_listener", awaited=f"f{n}", address="durasleep://ts")
        await rpc(bridged.url, "promise.settle", id=f"f{n}", state="resolved", value={})


# -- inward


async def ended(app: Durasleep, id: str, state: str) -> None:
    assert (await until(app, id, "done")).state == state


async def create(served: Served, id: str, call: dict[str, Any], *, group: str = "workers", at: int = FAR_MS) -> Any:
    tags = {"resonate:target": f"durasleep://{group}", "resonate:origin": id}
    status, data = await rpc(served.url, "promise.create", id=id, timeoutAt=at, param=data_of(call), tags=tags)
    assert status == 200, data
    return data["promise"]


async def settled(served: Served, id: str) -> dict[str, Any]:
    """The promise, once it has settled."""

    async def look() -> Any:
        _, data = await rpc(served.url, "promise.get", id=id)
        return data["promise"] if data["promise"]["state"] != "pending" else None

    return await eventually(look, f"{id} to settle")


async def test_a_promise_for_our_group_is_an_execution_of_it(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        await create(bridged, "r:1.2~%", {"func": "double", "args": [21], "version": 1})
        promise = await settled(bridged, "r:1.2~%")
        assert (promise["state"], read(promise["value"])) == ("resolved", 42)
        assert await app.get("r:1.2%7E%25").result() == 42


async def test_what_our_function_raises_is_the_error_there(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        await create(bridged, "r", {"func": "double", "args": []})
        promise = await settled(bridged, "r")
        assert promise["state"] == "rejected"
        error = read(promise["value"])
        assert (error["__type"], error["name"]) == ("error", "UsageError")
        assert "missing a required argument: 'n'" in error["message"]


async def test_a_cancel_of_the_promise_cancels_the_execution(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        await create(bridged, "r", {"func": "sleeper"})
        await until(app, "r", "suspended")
        await rpc(bridged.url, "promise.settle", id="r", state="rejected_canceled", value={})
        await ended(app, "r", "canceled")


async def test_a_cancel_of_the_execution_cancels_the_promise(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        await create(bridged, "r", {"func": "sleeper"})
        await until(app, "r", "suspended")

        async def is_held(version: int) -> bool:
            task = (await rpc(bridged.url, "task.get", id="r"))[1]["task"]
            return (task["state"], task.get("pid"), task["version"]) == ("acquired", "durasleep", version)

        await eventually(lambda: is_held(1), "its task to be held")
        await rpc(bridged.url, "task.release", id="r", version=1)  # as at the end of its lease
        await eventually(lambda: is_held(2), "its task to be held again")
        await app.cancel("r")
        assert (await settled(bridged, "r"))["state"] == "rejected_canceled"


async def test_the_deadline_of_the_promise_is_that_of_the_execution(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        promise = await create(bridged, "r", {"func": "sleeper"}, at=int(time.time() * 1000) + 1500)
        assert promise["state"] == "pending"
        assert (await settled(bridged, "r"))["state"] == "rejected_timedout"
        await ended(app, "r", "timedout")


async def test_an_execution_that_is_there_already_is_attached_to_or_refused(app: Durasleep, bridged: Served) -> None:
    async with working(app):
        await (await app.rpc("done", "double", 4)).result(timeout=20)
        await create(bridged, "done", {"func": "double", "args": [100]})
        assert read((await settled(bridged, "done"))["value"]) == 8
        await app.rpc("open", "sleeper")
        await create(bridged, "open", {"func": "double", "args": [1]})
        refused = await settled(bridged, "open")
        assert (refused["state"], read(refused["value"])["message"]) == (
            "rejected",
            "id open belongs to function sleeper, not to function double",
        )
        await create(bridged, "open.2", {"func": "sleeper"})
        await until(app, "open.2", "suspended")
        await until(app, "open", "suspended")  # the refusal has not canceled it


async def test_a_function_that_nobody_knows_is_refused_when_it_is_looked_at_again(
    app: Durasleep, bridged: Served
) -> None:
    async with working(app):
        await create(bridged, "r", {"func": "missing"})
        await until(app, "r", "delayed")
        await rpc(bridged.url, "task.release", id="r", version=1)  # as at the end of its lease
        promise = await settled(bridged, "r")
        assert (promise["state"], read(promise["value"])["message"]) == (
            "rejected",
            "no worker of group workers knows the function 'missing'",
        )
        await ended(app, "r", "canceled")


@pytest.mark.parametrize(
    ("param", "sentence"),
    [
        ({}, "this promise calls no function"),
        ({"data": "%%%"}, "the call cannot be read as base64 of JSON"),
        (data_of({"func": "double", "args": 3}), "the arguments of double cannot be read"),
        (data_of({"func": "double", "args": ["\ud800"]}), "the call has text that is not Unicode: half of a pair"),
    ],
)
async def test_a_promise_that_calls_nothing_is_rejected(bridged: Served, param: dict[str, Any], sentence: str) -> None:
    tags = {"resonate:target": "durasleep://workers"}
    await rpc(bridged.url, "promise.create", id="r", timeoutAt=FAR_MS, param=param, tags=tags)
    promise = await settled(bridged, "r")
    assert promise["state"] == "rejected"
    assert sentence in read(promise["value"])["message"]


async def test_both_ways_work_over_several_partitions_and_through_a_restart_of_redis(
    make_server: MakeServer, namespace: str
) -> None:
    """Executions and their promises may be in different partitions; all of them are pending when Redis goes away."""
    redis = make_server()
    async with Durasleep(redis.url, namespace=namespace) as app:
        await app.init(partitions=3)
        add_functions(app)
        async with serving(app, bridge=["ts"]) as served, working(app):
            worker = await Worker.open(served)
            ids = [f"{number}.x" for number in range(5)]
            handles = [await app.rpc(id, "calls", id) for id in ids]
            taken = [await worker.take() for _ in ids]
            for id in ids:
                await create(served, f"in-{id}", {"func": "asks"})
            for id in ids:
                await until(app, f"in-{id}", "suspended")
            redis.restart()
            for id in ids:
                await app.promises.resolve(f"in-{id}~1", id)
            for one, call in taken:
                await worker.fulfill(one, "resolved", call["args"])
            assert [await handle.result(timeout=30) for handle in handles] == [[id] for id in ids]
            assert [read((await settled(served, f"in-{id}"))["value"]) for id in ids] == ids
            await worker.close()


async def test_several_gateways_start_each_call_once(app: Durasleep, bridged: Served) -> None:
    async with serving(app, bridge=["ts"]) as other, working(app):
        worker = await Worker.open(other)
        calls = [f"call-{number}" for number in range(30)]
        handles = [await app.rpc(id, "resize", id, target="ts") for id in calls]
        for id in calls:
            await create(bridged if int(id[-1]) % 2 else other, f"in-{id}", {"func": "double", "args": [1]})
        taken = [await worker.take() for _ in calls]
        for one, call in taken:
            await worker.fulfill(one, "resolved", call["args"][0])
        assert sorted(call["args"][0] for _, call in taken) == sorted(calls)
        assert [await handle.result(timeout=30) for handle in handles] == calls
        assert [read((await settled(bridged, f"in-{id}"))["value"]) for id in calls] == [2] * len(calls)
        await worker.close()


async def test_without_a_bridge_the_call_waits_and_is_seen_waiting(app: Durasleep, gateway: Served) -> None:
    assert gateway.port
    handle = await app.rpc("c", "resize", 1, target="poll://any@ts")
    assert (await app.describe("c")).is_unserved
    async with serving(app, bridge=["ts"]) as bridging:
        worker = await Worker.open(bridging)
        taken, _ = await worker.take()
        await worker.fulfill(taken, "resolved", None)
        assert await handle.result(timeout=30) is None
        await worker.close()


class Reversed:
    """A payload hook that hides what it gets."""

    def wrap(self, payload: bytes) -> bytes:
        return payload[::-1]

    def unwrap(self, payload: bytes) -> bytes:
        return payload[::-1]


async def test_the_gateway_reads_and_writes_payloads_with_the_codec_of_the_application(
    one_server: Server, namespace: str
) -> None:
    async with (
        Durasleep(one_server.url, namespace=namespace, codec=Codec(outer=Reversed())) as app,
        Durasleep(one_server.url, namespace=namespace) as other,
    ):
        add_functions(app)
        add_functions(other)
        async with serving(app, bridge=["ts"]) as served, working(app):
            worker = await Worker.open(served)
            handle = await app.rpc("c", "calls", "hello")
            taken, call = await worker.take()
            assert call["args"] == ["hello"]
            async with serving(other):  # a gateway that cannot read the call, nor write its answer
                await worker.fulfill(taken, "resolved", "there")
                assert await handle.result(timeout=30) == "there"
            await create(served, "r", {"func": "double", "args": [4]})
            assert read((await settled(served, "r"))["value"]) == 8
            await worker.close()


class Sealed(Reversed):
    """Reads arguments, but no results."""

    def unwrap(self, payload: bytes) -> bytes:
        if not payload.endswith(b"\x92"):  # the two parts of arguments
            raise ValueError("sealed")
        return super().unwrap(payload)


async def test_an_ending_waits_for_a_gateway_that_can_read_it(
    one_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Durasleep(one_server.url, namespace=namespace, codec=Codec(outer=Reversed())) as app,
        Durasleep(one_server.url, namespace=namespace, codec=Codec(outer=Sealed())) as sealed,
    ):
        add_functions(sealed)
        async with serving(sealed) as served, working(sealed):
            await create(served, "r", {"func": "double", "args": [4]})
            await until(app, "r", "done")
            await eventually(lambda: "cannot be read here, and is left to another" in caplog.text, "it to be tried")
        store = await store_of(app)
        await store.call(resonate.look_later(store.keyspaces[0], "r", 60_000))  # as after a minute
        said = [one.text for one in await app.diagnose() if one.subject == "other languages"]
        assert said == ["1 call to or from another language: no gateway can read the values"]
        await store.call(resonate.look_later(store.keyspaces[0], "r", 3_600_000))  # as if it were damaged
        said = [one.text for one in await app.diagnose() if one.subject == "other languages"]
        assert said == ["1 call has to tell something, but the data are damaged"]
        await store.call(resonate.look_later(store.keyspaces[0], "r", -3_720_000))
        async with serving(app) as served:
            promise = await settled(served, "r")
            assert (promise["state"], read(promise["value"])) == ("resolved", 8)
