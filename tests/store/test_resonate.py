"""Resonate's protocol: its rules, request by request. tests/gateway compares the scripts with the SDK's own server."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durasleep.protocol import resonate, resonate_requests
from durasleep.protocol.keys import LIMIT, RS, R
from durasleep.protocol.keyspaces import Keyspaces
from durasleep.protocol.resonate import VERSION, Answer, Ticked
from durasleep.query import fsck
from harness.servers import Server
from tests.store.driver import Driver

NOW = 1_800_000_000_000
FAR = NOW + 10_000_000
DAY = 86_400_000
WEEK = LIMIT["retention_ms"]
HEAD = {"corrId": "c", "version": VERSION}
GROUP = "poll://any@w"
TARGET = {"resonate:target": GROUP}


def request(kind: str, **data: Any) -> dict[str, Any]:
    return {"kind": kind, "head": HEAD, "data": data}


def creating(id: str, tags: dict[str, str], timeout_at: float = FAR, **more: Any) -> dict[str, Any]:
    return {"id": id, "timeoutAt": timeout_at, "param": {}, "tags": tags, **more}


def waiting(awaiter: str, *awaited: str) -> list[dict[str, Any]]:
    return [request("promise.register_callback", awaited=id, awaiter=awaiter) for id in awaited]


class Sdk:
    """Sends requests, at a time that it says."""

    def __init__(self, driver: Driver, partitions: int = 1) -> None:
        self.driver = driver
        self.keyspaces = Keyspaces(driver.namespace, partitions) if partitions > 1 else driver.store.keyspaces
        self.now = NOW

    async def send(self, body: str | bytes) -> Answer:
        raw = body if isinstance(body, bytes) else body.encode()
        if len(self.keyspaces) == 1 and b"schedule" not in raw:
            return await self.driver.store.call(resonate.rpc(self.keyspaces[0], raw, now_ms=self.now))
        timed = json.loads(raw)
        timed["head"]["resonate:debug_time"] = self.now
        body = json.dumps(timed, ensure_ascii=False)
        return await self.driver.store.run(resonate_requests.ask(self.keyspaces, body.encode(), may_simulate=True))

    async def ask(self, kind: str, **data: Any) -> tuple[int, Any]:
        answer = await self.send(json.dumps(request(kind, **data)))
        read = json.loads(answer.body)
        assert (read["kind"], read["head"]) == (kind, {"corrId": "c", "status": answer.status, "version": VERSION})
        return answer.status, read["data"]

    async def ok(self, kind: str, status: int = 200, **data: Any) -> Any:
        found, answer = await self.ask(kind, **data)
        assert found == status, answer
        return answer

    async def tick(self, forward_ms: int = 0) -> Ticked:
        self.now += forward_ms
        ticks = [
            await self.driver.store.run(resonate_requests.tick(self.keyspaces, keys, now_ms=self.now))
            for keys in self.keyspaces
        ]
        return ticks[0]

    async def take(self, *addresses: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for keys in self.keyspaces:
            for messages in await self.driver.store.call(resonate.take(keys, addresses, now_ms=self.now)):
                found += [json.loads(message.body) for message in messages]
        return found

    async def retain(self, forward_ms: int = 0) -> int:
        self.now += forward_ms
        plans = [resonate_requests.retain(self.keyspaces, keys, now_ms=self.now) for keys in self.keyspaces]
        return sum([(await self.driver.store.run(plan)).removed for plan in plans])

    async def start(self, id: str) -> int:
        """Make a promise with a task and hold it; returns the version."""
        made = await self.ok(
            "task.create",
            pid="p",
            ttl=60_000,
            action=request("promise.create", **creating(id, {**TARGET, "resonate:branch": id})),
        )
        return made["task"]["version"]

    async def task(self, id: str) -> str:
        return (await self.ok("task.get", id=id))["task"]["state"]

    async def state(self, id: str) -> str:
        status, data = await self.ask("promise.get", id=id)
        return data["promise"]["state"] if status == 200 else "gone"


async def keys_left(sdk: Sdk) -> list[bytes]:
    """Without timers and the hint."""
    return [name for keys in sdk.keyspaces for name in await sdk.driver.redis.keys(f"{keys.tag}r:[^tw]*")]


@pytest.fixture
async def sdk(driver: Driver) -> Sdk:
    return Sdk(driver)


@pytest.fixture
async def real_sdk(real_server: Server, namespace: str) -> AsyncIterator[Sdk]:
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        yield Sdk(driver)


@pytest.fixture
async def sdk4(real_server: Server, namespace: str) -> AsyncIterator[Sdk]:
    """In a namespace of four partitions."""
    driver = Driver(real_server.client(), namespace)
    async with driver.store.opened():
        yield Sdk(driver, 4)


# -- what comes in, and what goes out


async def test_what_was_sent_comes_back_letter_by_letter(sdk: Sdk) -> None:
    param = r'{"headers":{"z":"\u00e9\/","a":"\"\\","é":""},"data":"eyJ\\"}'
    tags = r'{"resonate:target":"poll://any@w","z":"1","a":"\t\"","resonate:branch":"o:\u0031","":"","true":"true"}'
    body = '{"data": {"tags": %s,"timeoutAt":%d, "param" :%s,"id":"o:1"}, "kind":"promise.create", "head":%s}'
    answer = await sdk.send(body % (tags, FAR, param, json.dumps(HEAD)))
    assert f'"param":{param},"value":{{}},"tags":{tags},"timeoutAt":{FAR},"createdAt":{NOW}' in answer.body.decode()
    assert answer.body == (await sdk.send(body % ("{}", 0, "{}", json.dumps(HEAD)))).body


@pytest.mark.parametrize("id", ["a", "a:1", "a.1.2", "é:1", 'a"\\:1', ":"])
async def test_tags_come_back_as_they_were_sent_whether_they_follow_from_the_id_or_not(sdk: Sdk, id: str) -> None:
    values = (id, "a", id[:-2], "global", "local", "true", "false", "", GROUP, "x", "o", "=", "/", "^", "t", "é")
    for number, value in enumerate(values):
        name, names = f"{id}x{number}", ("branch", "parent", "scope", "timer", "external", "schedule", "other")
        tags = {f"resonate:{tag}": value for tag in names} | {"o": value} | TARGET | {"resonate:origin": name}
        made = await sdk.ok("promise.create", **creating(name, tags))
        assert list(made["promise"]["tags"].items()) == list(tags.items())
        assert await sdk.ok("promise.get", id=name) == made


@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 126, 1022, 1024, 1026, 100_000])
async def test_values_of_all_sizes_come_back(sdk: Sdk, size: int) -> None:
    value = {"headers": {"h": "x" * size}, "data": "y" * size}
    await sdk.ok("promise.create", **creating("a", {"resonate:external": "true"}, param=value))
    await sdk.ok("promise.settle", id="a", state="rejected", value=value)
    found = (await sdk.ok("promise.get", id="a"))["promise"]
    assert (found["param"], found["value"], found["state"]) == (value, value, "rejected")


async def test_times_beyond_what_languages_read_exactly_are_the_last_one_that_they_do(sdk: Sdk) -> None:
    for number, sent in enumerate((2**53 - 1, 2**53, 2**62, 1e300)):
        made = await sdk.ok("promise.create", **creating(f"a{number}", TARGET, sent))
        assert made["promise"]["timeoutAt"] == 2**53 - 1
    answer = await sdk.send(json.dumps(request("promise.create", **creating("b", {}, -0.0))))
    assert b'"timeoutAt":0,"createdAt":0,"settledAt":0' in answer.body


CREATE = creating("a", TARGET)
SETTLE: dict[str, Any] = {"id": "a", "state": "resolved", "value": {}}
ACQUIRE = {"id": "a", "version": 0, "pid": "p", "ttl": 1}
INNER = request("promise.create", **creating("b", {}))


def each(kind: str, data: dict[str, Any], name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    """A request with each of some values in one place."""
    return [(kind, data | {name: value}) for value in values]


def with_tag(name: str, *values: str) -> list[tuple[str, dict[str, Any]]]:
    return each("promise.create", CREATE, "tags", *[TARGET | {f"resonate:{name}": value} for value in values])


FULFILL = {"id": "a", "version": 1, "action": request("promise.settle", **SETTLE)}
MANY = waiting("a", *["b"] * (LIMIT["resonate_actions_max"] + 1))
BAD: list[tuple[str, dict[str, Any]]] = [
    *each("promise.get", {}, "id", "", None, 1, [], {}, True, "a\0b", "x" * 1025),
    *each("promise.create", CREATE, "timeoutAt", -1, 1.5, "1", None, [], {}, True),
    *each(
        "promise.create", CREATE, "tags", [], ["a"], "a", 1, {"a": 1}, {"a": None}, {"a": {}}, {"resonate:delay": "5"}
    ),
    *each("promise.create", CREATE, "tags", {"x": "y" * LIMIT["resonate_tags_bytes_max"]}),
    *with_tag("target", "", "w", "//w", "1://w", "a://\0"),
    *with_tag("delay", "", "x", "1.5", str(FAR)),
    *each("promise.create", CREATE, "param", [], "a", 1, {"data": 1}, {"data": {}}),
    *each("promise.create", CREATE, "param", *[{"headers": all} for all in ([1], "a", {"a": 1}, {"a": None})]),
    *each("promise.create", CREATE, "param", {"headers": {str(n): "" for n in range(LIMIT["resonate_members_max"])}}),
    *each("promise.settle", SETTLE, "state", "pending", "rejected_timedout", "", None, {}),
    *each("promise.settle", SETTLE, "value", [], "a", {"data": 1}),
    *each("promise.register_callback", {"awaited": "a"}, "awaiter", "a", None, ""),
    *each("promise.register_listener", {"awaited": "a"}, "address", None, "", "w", "é://w"),
    *each("task.acquire", ACQUIRE, "ttl", 0, -1, 1.5, "1", None),
    *each("task.acquire", ACQUIRE, "version", -1, 0.5, "0", None),
    *each("task.acquire", ACQUIRE, "pid", "", None, 1),
    *each("task.create", {"pid": "p", "ttl": 1}, "action", None, [], INNER, {"data": CREATE}, FULFILL["action"]),
    *each("task.create", {"pid": "p", "action": request("promise.create", **CREATE)}, "ttl", 0, None),
    *each("task.release", {"id": "a"}, "version", None, -1, "1"),
    *each("task.fulfill", FULFILL, "id", "b", "", None),
    *each("task.fulfill", FULFILL, "action", request("promise.settle", **SETTLE | {"state": "x"}), INNER, None),
    *each("task.suspend", {"id": "a", "version": 1}, "actions", [], {}, None, "a", {"0": 1}, [1], [{}], MANY),
    *each("task.suspend", {"id": "a", "version": 1}, "actions", waiting("a", "a"), waiting("b", "c")),
    *each("task.fence", {"id": "b", "version": 1}, "action", INNER, None, request("task.get", id="a")),
    *each("task.fence", {"id": "a", "version": 1}, "action", request("promise.create", **creating("b", {}, -1))),
    *each("task.heartbeat", {"pid": "p"}, "tasks", None, "a", {"a": 1}, [1], [{}], [{"id": "a"}]),
    *each("task.heartbeat", {"pid": "p"}, "tasks", [{"id": "a", "version": 1}] * (LIMIT["resonate_tasks_max"] + 1)),
    *each("task.heartbeat", {"tasks": []}, "pid", None, ""),
    ("promise.nothing", {}),
    ("tick", {}),
]
RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"1",
    b"{}",
    b'"x"',
    b'{"kind":"promise.get"}',
    b'{"kind":"promise.get","head":[],"data":{"id":"a"}}',
    b'{"kind":"promise.get","head":{"corrId":1,"version":"1"},"data":{"id":"a"}}',
    b'{"kind":1,"head":{"version":"2026-04-01"},"data":{"id":"a"}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":["a"]}',
    b'{"kind":"promise.create","head":{"version":"2026-04-01"},"data":[{"id":"b"}]}',
    b'{"kind":"promise.create","head":{"version":"2026-04-01"},"data":{"id":"b","timeoutAt":1e999}}',
    b'{"kind":"promise.create","head":{"version":"2026-04-01"},"data":{"id":"b","timeoutAt":nan}}',
    b'{"kind":"promise.create","head":{"version":"2026-04-01"},"data":{"id":"b","timeoutAt":1,"tags":{"a":1,"a":"b"}}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"\\ud800"}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"\xff"}}',
    b'{"kind":"promise.get","head":{},"data":{"id":"a"}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"a","x":NaN}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"a","x":-Infinity}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"a","x":0x10}}',
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"a","x":[' + b"[]," * 60_000 + b"1]}}",
    b'{"kind":"promise.get","head":{"version":"2026-04-01"},"data":{"id":"a","x":' + b"[" * 2000 + b"]" * 2000 + b"}}",
]


async def test_a_bad_request_is_refused_and_changes_nothing(sdk: Sdk) -> None:
    version = await sdk.start("a")
    assert version == 1
    before = await sdk.driver.snapshot()
    for kind, data in BAD:
        status, said = await sdk.ask(kind, **data)
        assert (status, type(said)) == (400, str), (kind, data)
    for body in RAW:
        plans = [resonate_requests.ask(Keyspaces(sdk.driver.namespace, count), body) for count in (1, 4)]
        answers = [await sdk.driver.store.run(plan) for plan in plans]
        call = resonate_requests.plain(sdk.keyspaces, body)
        answers += [await sdk.driver.store.call(call)] if call else []
        assert {answer.status for answer in answers} == {400}, body
        said = [json.loads(answer.body) for answer in answers]
        assert isinstance(said[0]["data"], str)
        assert said[1:] == said[:1] * len(said[1:])
    assert await sdk.driver.snapshot() == before


async def test_what_is_null_or_missing_is_empty(sdk: Sdk) -> None:
    sent: list[dict[str, Any]] = [{}, {"tags": None, "param": None}, {"param": {"headers": None, "data": None}}]
    for number, data in enumerate(sent):
        made = await sdk.ok("promise.create", id=f"a{number}", timeoutAt=FAR, **data)
        assert (made["promise"]["param"], made["promise"]["tags"]) == ({}, {})
    made = await sdk.ok("promise.settle", id="a1", state="resolved")
    assert made["promise"]["value"] == {}
    assert (await sdk.ask("promise.search"))[0] == 501


# -- sleeping and waking


async def test_a_sleeper_causes_nothing_until_its_time_and_then_one_message(sdk: Sdk) -> None:
    await sdk.ok("promise.create", **creating("a", TARGET | {"resonate:target": f"{GROUP}/p1"}))
    [message] = (await sdk.driver.store.call(resonate.take(sdk.keyspaces[0], [GROUP], now_ms=NOW)))[0]
    assert message.preferred == "p1"
    assert json.loads(message.body)["data"] == {"task": {"id": "a", "version": 0}}
    await sdk.ok("task.acquire", id="a", version=0, pid="p", ttl=60_000)
    timer = creating("a:1", TARGET | {"resonate:timer": "true"}, NOW + 5_000_000)
    await sdk.ok("task.fence", id="a", version=1, action=request("promise.create", **timer))
    await sdk.ok("task.suspend", id="a", version=1, actions=waiting("a", "a:1"))
    keys = [name async for name in sdk.driver.redis.scan_iter(match=f"{{{sdk.driver.namespace}:*}}:r:*")]
    assert len(keys) == 4, "two promises, the timers, and the hint"
    assert (await sdk.tick(4_999_999)).next_due_ms == NOW + 5_000_000
    assert (await sdk.take(GROUP), await sdk.task("a")) == ([], "suspended")
    await sdk.tick(1)
    assert (await sdk.state("a:1"), await sdk.task("a")) == ("resolved", "pending")
    assert [message["data"]["task"] for message in await sdk.take(GROUP)] == [{"id": "a", "version": 1}]


async def test_a_sleeper_takes_less_than_1000_bytes_in_redis_7(real_sdk: Sdk, real_server: Server) -> None:
    """As the SDKs make it. Two members of a sorted set, and places in the table of keys, take some 360 more."""
    id = "0b4f1c62-6d1e-4d34-9e59-6c0d8a0f2f5e"
    tags = {f"resonate:{name}": id for name in ("origin", "branch", "parent")} | {
        "resonate:scope": "global",
        "resonate:target": "poll://any@default/0123456789abcdef0123456789abcdef",
    }
    call: dict[str, Any] = {"func": "trial", "args": ["ada"], "kwargs": {}, "version": 1}
    param: dict[str, Any] = {"headers": {}, "data": base64.b64encode(json.dumps(call).encode()).decode()}
    action = request("promise.create", **creating(id, tags, param=param))
    await real_sdk.ok("task.create", pid="p", ttl=60_000, action=action)
    timer = creating(f"{id}:1", tags | {"resonate:branch": f"{id}:1", "resonate:timer": "true"})
    await real_sdk.ok("task.fence", id=id, version=1, action=request("promise.create", **timer))
    await real_sdk.ok("task.suspend", id=id, version=1, actions=waiting(id, f"{id}:1"))
    names = [f"{real_sdk.keyspaces[0].resonate}promise:{one}" for one in (id, f"{id}:1")]
    redis: Any = real_sdk.driver.redis
    assert {await redis.object("ENCODING", name) for name in names} <= {b"listpack", b"ziplist"}
    if real_server.kind == "redis7":
        assert sum([await redis.memory_usage(name, samples=0) for name in names]) <= 630


async def test_a_message_that_nobody_answers_is_sent_again_and_one_that_waits_is_not(sdk: Sdk) -> None:
    await sdk.ok("promise.create", **creating("a", TARGET))
    assert (await sdk.tick(100_000)).due == 0
    for _ in range(2):
        assert len(await sdk.take(GROUP)) == 1
        await sdk.tick(29_999)
        assert await sdk.take(GROUP) == []
        await sdk.tick(1)


async def test_a_lease_ends_unless_its_process_says_that_it_lives(sdk: Sdk) -> None:
    version = await sdk.start("a")
    for _ in range(3):
        await sdk.tick(50_000)
        await sdk.ok("task.heartbeat", pid="p", tasks=[{"id": "a", "version": version}, {"id": "b", "version": 1}])
        await sdk.ok("task.heartbeat", pid="q", tasks=[{"id": "a", "version": version}])
    await sdk.tick(59_999)
    assert await sdk.task("a") == "acquired"
    await sdk.tick(1)
    assert await sdk.task("a") == "pending"
    assert (await sdk.ask("task.release", id="a", version=version))[0] == 409


async def test_a_task_that_nobody_can_run_is_not_offered_all_the_time(sdk: Sdk) -> None:
    await sdk.ok("promise.create", **creating("a", TARGET))
    often = LIMIT["resonate_refused_min"]
    for version in range(often):
        assert len(await sdk.take(GROUP)) == 1
        await sdk.ok("task.acquire", id="a", version=version, pid="p", ttl=60_000)
        await sdk.ok("task.release", id="a", version=version + 1)
    assert await sdk.take(GROUP) == []
    await sdk.tick(1000)
    assert len(await sdk.take(GROUP)) == 1
    await sdk.ok("task.acquire", id="a", version=often, pid="p", ttl=60_000)
    sdk.now += 1000
    await sdk.ok("task.release", id="a", version=often + 1)
    assert len(await sdk.take(GROUP)) == 1


async def test_an_ending_tells_a_few_at_once_and_a_tick_the_others(real_sdk: Sdk) -> None:
    """Those who listen stand for all who wait."""
    await real_sdk.ok("promise.create", **creating("a", TARGET))
    count = 2 * LIMIT["resonate_waiters_max"] + 10
    addresses = [f"poll://uni@w/{number}" for number in range(count)]
    for address in (*addresses, *addresses[:3]):
        await real_sdk.ok("promise.register_listener", awaited="a", address=address)
    await real_sdk.ok("promise.settle", id="a", state="resolved", value={})
    told = len(await real_sdk.take(*addresses))
    assert told == LIMIT["resonate_waiters_max"]
    while (await real_sdk.tick()).due:
        told += len(await real_sdk.take(*addresses))
    assert told == count


# -- retention


async def test_a_lineage_is_kept_until_a_week_after_the_end_of_its_root(sdk: Sdk) -> None:
    await sdk.start("a")
    local = {"resonate:branch": "a", "resonate:scope": "local"}
    await sdk.ok("promise.create", **creating("a:1", local))
    await sdk.ok("promise.create", **creating("a:2", {"resonate:external": "true"}, NOW + 100 * DAY))
    await sdk.ok("promise.create", **creating("a:3", {"resonate:external": "true"}, NOW + 100 * DAY))
    for id in ("a:1", "a:2"):
        await sdk.ok("promise.settle", id=id, state="resolved", value={})
    assert await sdk.retain(WEEK + DAY) == 0, "its root is pending"
    await sdk.tick()
    assert await sdk.state("a") == "rejected_timedout"
    assert await sdk.retain(WEEK - 1) == 0, "all who were away have a week from now"
    assert await sdk.retain(20 * DAY) == 0, "a:3 is pending: what it needs is kept, too"
    await sdk.ok("promise.settle", id="a:3", state="resolved", value={})
    assert await sdk.retain(WEEK + DAY) == 4
    assert await keys_left(sdk) == []


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_child_with_an_id_of_its_own_is_kept_as_long_as_a_task_may_make_it_again(
    driver: Driver, partitions: int
) -> None:
    """Else an order that wakes after a week would be charged twice. Such a child is a root itself."""
    sdk = Sdk(driver, partitions)
    charge = elsewhere("a")
    await sdk.ok("task.create", pid="p", ttl=60_000, action=request("promise.create", **creating("a", TARGET, FAR * 2)))
    child = request("promise.create", **creating(charge, TARGET))
    await sdk.ok("task.fence", id="a", version=1, action=child)
    await sdk.ok("promise.settle", id=charge, state="resolved", value={"data": "eA=="})
    assert [await sdk.retain(WEEK + DAY) for _ in range(3)] == [0, 0, 0]
    await sdk.tick()
    await sdk.ok("task.acquire", id="a", version=1, pid="p", ttl=60_000)
    made = await sdk.ok("task.fence", id="a", version=2, action=child)
    assert made["action"]["data"]["promise"]["value"] == {"data": "eA=="}
    await sdk.ok("promise.settle", id="a", state="resolved", value={})
    assert sum([await sdk.retain(DAY) for _ in range(9)]) == 2
    assert await keys_left(sdk) == []


@pytest.mark.parametrize("partitions", [1, 4])
async def test_each_of_many_tasks_that_have_waited_for_a_signal_keeps_it(driver: Driver, partitions: int) -> None:
    """Also one that came when it had settled already."""
    sdk = Sdk(driver, partitions)
    await sdk.ok("promise.create", **creating("signal", {"resonate:external": "true"}))
    tasks = [f"{number}{'x' * 100}" for number in range(60)]
    for id in tasks:
        await sdk.ok("promise.create", **creating(id, TARGET, NOW + 100 * DAY))
    for id in tasks[:50]:
        await sdk.ok("promise.register_callback", awaited="signal", awaiter=id)
    for id in ("signal", *tasks[1:50]):
        await sdk.ok("promise.settle", id=id, state="resolved", value={})
    for id in tasks[50:]:
        await sdk.ok("promise.register_callback", awaited="signal", awaiter=id)
    assert sum([await sdk.retain(WEEK + DAY), *[await sdk.retain(1) for _ in range(20)]]) == 49
    for id in tasks[50:]:
        assert await sdk.state("signal") == "resolved"
        await sdk.ok("promise.settle", id=id, state="resolved", value={})
    assert (sum([await sdk.retain(WEEK + DAY) for _ in range(3)]), await sdk.state("signal")) == (10, "resolved")
    await sdk.ok("promise.settle", id=tasks[0], state="resolved", value={})
    assert sum([await sdk.retain(WEEK + DAY) for _ in range(9)]) == 2
    assert await keys_left(sdk) == []


async def test_a_task_that_finds_what_it_awaits_settled_keeps_it(sdk: Sdk) -> None:
    await sdk.ok("promise.create", **creating("signal", {"resonate:external": "true"}))
    await sdk.ok("promise.settle", id="signal", state="resolved", value={})
    await sdk.start("a")
    assert (await sdk.ask("task.suspend", id="a", version=1, actions=waiting("a", "signal")))[0] == 300
    assert (await sdk.retain(WEEK + DAY), await sdk.state("signal")) == (0, "resolved")


async def test_a_long_branch_is_removed_in_parts(real_sdk: Sdk) -> None:
    sdk = real_sdk
    await sdk.start("a")
    for number in range(300):
        await sdk.ok("promise.create", **creating(f"a:{number}", {"resonate:branch": "a"}))
    await sdk.ok("promise.settle", id="a", state="resolved", value={})
    sdk.now += WEEK
    removed = [await sdk.retain()]
    while sum(removed) < 301:
        assert 0 < removed[-1] < 300
        removed.append(await sdk.retain())
    assert len(removed) > 1
    assert await keys_left(sdk) == []


async def test_one_answer_has_at_most_some_megabytes_of_messages(real_sdk: Sdk) -> None:
    sdk = real_sdk
    for number in range(5):
        await sdk.ok("promise.create", **creating(f"a{number}", TARGET, param={"data": "x" * (1 << 20)}))
        await sdk.ok("promise.register_listener", awaited=f"a{number}", address="poll://uni@w/p")
        await sdk.ok("promise.settle", id=f"a{number}", state="resolved", value={"data": "x" * (1 << 20)})
    assert [len(await sdk.take("poll://uni@w/p")) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_promise_with_an_own_origin_counts_there(sdk: Sdk) -> None:
    await sdk.start("v1.2-job")
    await sdk.ok("promise.create", **creating("v1.2-job:1", TARGET | {"resonate:origin": "v1.2-job"}, NOW + 100 * DAY))
    await sdk.ok("promise.settle", id="v1.2-job", state="resolved", value={})
    assert await sdk.retain(20 * DAY) == 0
    await sdk.ok("promise.settle", id="v1.2-job:1", state="resolved", value={})
    assert await sdk.retain(8 * DAY) == 2


# -- schedules


async def test_a_schedule_makes_a_promise_for_each_of_its_times(sdk: Sdk) -> None:
    data: dict[str, Any] = {
        "id": "s",
        "cron": "0 * * * *",
        "promiseId": "{{.id}}-{{.timestamp}}",
        "promiseTimeout": DAY,
        "promiseParam": {"data": "eA=="},
        "promiseTags": TARGET,
    }
    wrong: dict[str, Any] = {
        "cron": "x",
        "promiseTags": [],
        "promiseTimeout": -1,
        "promiseParam": [],
        "promiseId": None,
        "id": "",
    }
    for name in wrong:
        assert (await sdk.ask("schedule.create", **data | {name: wrong[name]}))[0] == 400
    assert (await sdk.ask("schedule.create", **data | {"promiseTags": {}}))[0] == 400
    made = (await sdk.ok("schedule.create", **data))["schedule"]
    first: int = made["nextRunAt"]
    other: dict[str, Any] = data | {"cron": "1 * * * *"}
    assert made == data | {"createdAt": NOW, "nextRunAt": first}
    assert (await sdk.ok("schedule.create", **other))["schedule"] == made
    sdk.now = first + 2 * 3_600_000
    await sdk.tick()
    for at in range(first, sdk.now + 1, 3_600_000):
        promise = (await sdk.ok("promise.get", id=f"s-{at}"))["promise"]
        assert promise["timeoutAt"] == at + DAY
        assert promise["tags"] == TARGET | {
            **{f"resonate:{name}": f"s-{at}" for name in ("origin", "branch", "parent")},
            "resonate:schedule": "s",
        }
    found = (await sdk.ok("schedule.get", id="s"))["schedule"]
    assert (found["nextRunAt"], found["lastRunAt"]) == (sdk.now + 3_600_000, sdk.now)
    assert len(await sdk.take(GROUP)) == 3
    await sdk.ok("schedule.delete", id="s")
    assert [(await sdk.ask(f"schedule.{what}", id="s"))[0] for what in ("get", "delete")] == [404, 404]


async def test_a_schedule_that_cannot_be_followed_stops_no_other_one_and_no_word_to_other_partitions(sdk4: Sdk) -> None:
    ids = [id for id in (f"s{number}" for number in range(99)) if resonate.partition_of(id, 4) == 0]
    keys, redis, asleep = sdk4.keyspaces[0], sdk4.driver.redis, elsewhere(ids[0])
    data: dict[str, Any] = {"cron": "0 * * * *", "promiseTimeout": DAY, "promiseTags": TARGET}
    made = [await sdk4.ok("schedule.create", id=id, promiseId="{{.id}}:{{.timestamp}}", **data) for id in ids[:3]]
    at: int = made[0]["schedule"]["nextRunAt"]
    await redis.set(f"{keys.resonate}promise:{ids[0]}:{at}", "no hash")
    await redis.hset(f"{keys.resonate}schedule:{ids[1]}", RS["tags"], "?")
    await sdk4.ok("promise.create", **creating(ids[3], {"resonate:external": "true"}))
    await sdk4.start(asleep)
    await sdk4.ok("task.suspend", id=asleep, version=1, actions=waiting(asleep, ids[3]))
    await sdk4.ok("promise.settle", id=ids[3], state="resolved", value={})
    sdk4.now = at
    said = (await sdk4.tick()).problems
    assert [(await sdk4.task(asleep)), await sdk4.state(f"{ids[2]}:{at}")] == ["pending", "pending"]
    assert all(any(id in one for one in said) for id in ids[:2])
    await redis.delete(f"{keys.resonate}promise:{ids[0]}:{at}")
    await sdk4.tick(5_000)
    assert await sdk4.state(f"{ids[0]}:{at}") == "pending"


# -- a full server


async def test_on_a_full_server_nothing_begins_and_everything_ends(real_sdk: Sdk) -> None:
    sdk, redis = real_sdk, real_sdk.driver.redis
    await sdk.start("a")
    await sdk.start("b")
    await sdk.ok("promise.create", **creating("c", TARGET, NOW + 1000))
    await sdk.ok("promise.create", **creating("d", TARGET))
    await redis.config_set("maxmemory", 1)
    try:
        assert (await sdk.ask("promise.create", **creating("e", {})))[0] == 503
        fence = {"id": "a", "version": 1, "action": request("promise.create", **creating("a:1", {}))}
        assert (await sdk.ask("task.fence", **fence))[0] == 503
        assert (await sdk.ask("promise.register_listener", awaited="a", address=GROUP))[0] == 503
        large = {"data": "x" * LIMIT["full_value_bytes_max"]}
        assert (await sdk.ask("promise.settle", id="d", state="resolved", value=large))[0] == 503
        await sdk.ok("task.suspend", id="a", version=1, actions=waiting("a", "c"))
        await sdk.ok("task.heartbeat", pid="p", tasks=[{"id": "b", "version": 1}])
        await sdk.tick(1000)
        assert (await sdk.state("c"), await sdk.task("a")) == ("rejected_timedout", "pending")
        assert {message["data"]["task"]["id"] for message in await sdk.take(GROUP)} == {"a", "d"}
        await sdk.ok("task.acquire", id="a", version=1, pid="p", ttl=1000)
        settle = request("promise.settle", id="a", state="resolved", value={"data": "eA=="})
        await sdk.ok("task.fulfill", id="a", version=2, action=settle)
        assert await sdk.retain(30 * DAY) == 2
    finally:
        await redis.config_set("maxmemory", 0)


# -- damage


async def test_what_is_damaged_stops_nothing_else(sdk: Sdk) -> None:
    own, redis = sdk.keyspaces[0].resonate, sdk.driver.redis
    for id in ("list", "field", "here", "a"):
        await sdk.start(id)
    await sdk.ok("promise.create", **creating("wake", {"resonate:external": "true"}, NOW + 1000))
    for id in ("list", "here"):
        await sdk.ok("task.suspend", id=id, version=1, actions=waiting(id, "wake"))
    for id in ("queued", "good"):
        await sdk.ok("promise.create", **creating(id, TARGET))
    for id in ("ended", "over"):
        await sdk.ok("promise.create", **creating(id, TARGET))
        await sdk.ok("promise.settle", id=id, state="resolved", value={})
    for id in ("list", "queued", "ended"):
        await redis.delete(f"{own}promise:{id}")
        await redis.set(f"{own}promise:{id}", "x")
    await redis.hdel(f"{own}promise:field", R["target"])
    await redis.zadd(f"{own}timers", {"nothing of ours": 1, "pgood": 5})
    await redis.set(f"{own}queue:poll://uni@w/p", "x")
    await sdk.tick(60_000)
    assert (await sdk.state("wake"), await sdk.task("here"), await sdk.task("a")) == (
        "rejected_timedout",
        "pending",
        "pending",
    )
    taking = resonate.take(sdk.keyspaces[0], ["poll://uni@w/p", GROUP], now_ms=sdk.now)
    single, group = await sdk.driver.store.call(taking)
    assert (len(single), single.problem[:9]) == (0, "WRONGTYPE")
    assert {json.loads(message.body)["data"]["task"]["id"] for message in group} == {"here", "a", "good"}
    failures = (await sdk.tick()).problems
    assert {one.split(" fails: ")[0] for one in failures} == {"the timer tlist", "the timer tqueued"}
    assert (await sdk.tick()).due == 0, "none of them spins"
    timers = dict(await redis.zrange(f"{own}timers", 0, -1, withscores=True))
    assert (timers[b"pgood"], timers[b"tfield"]) == (FAR, sdk.now + 3_600_000)
    sdk.now += WEEK
    retained = await sdk.driver.store.call(resonate.retain(sdk.keyspaces[0], now_ms=sdk.now))
    assert retained.removed == 1
    cannot = {one.split(" cannot be removed: ")[0] for one in retained.failures}
    assert cannot == {"the promise ended", "the promise wake"}, "nobody knows whether list needs wake"
    assert (await sdk.driver.store.call(resonate.retain(sdk.keyspaces[0], now_ms=sdk.now))).looked_at == 0
    await redis.delete(*await redis.keys(f"{own}*"))


# -- several partitions


def elsewhere(id: str) -> str:
    """An id of another of four partitions."""
    here = resonate.partition_of(id, 4)
    return next(other for other in (f"x{number}" for number in range(99)) if resonate.partition_of(other, 4) != here)


async def test_a_lineage_is_in_one_partition() -> None:
    for id in ("a", "{a}", "{a", "a}", "é", ""):
        assert len({resonate.partition_of(f"{id}{rest}", 4) for rest in ("", ":1", ".1", ":1.2", ".1:2")}) == 1
    assert resonate.partition_of("{a}b", 4) == resonate.partition_of("a", 4)


async def test_a_task_makes_a_promise_of_another_partition_and_is_woken_by_its_end(sdk4: Sdk) -> None:
    other = elsewhere("a")
    await sdk4.start("a")
    child = request("promise.create", **creating(other, TARGET, param={"data": "eA=="}))
    assert (await sdk4.ask("task.fence", id="a", version=2, action=child))[0] == 409
    assert await sdk4.state(other) == "gone"
    fenced = await sdk4.ok("task.fence", id="a", version=1, action=child)
    assert fenced["action"]["data"]["promise"]["id"] == other
    assert (fenced["action"]["kind"], fenced["action"]["head"]["status"]) == ("promise.create", 200)
    bad = request("promise.create", **creating(other, TARGET, -1))
    assert (await sdk4.ask("task.fence", id="a", version=1, action=bad))[0] == 400
    missing = waiting("a", other, elsewhere(other) + "-none")
    assert (await sdk4.ask("task.suspend", id="a", version=1, actions=missing))[0] == 422
    await sdk4.ok("task.suspend", id="a", version=1, actions=waiting("a", other))
    assert await sdk4.task("a") == "suspended"
    await sdk4.ok("promise.settle", id=other, state="resolved", value={})
    await sdk4.tick()
    assert await sdk4.task("a") == "pending"
    await sdk4.ok("task.acquire", id="a", version=1, pid="p", ttl=1000)
    assert await sdk4.ok("task.suspend", 300, id="a", version=2, actions=waiting("a", other)) == {"preload": []}
    assert (await sdk4.tick()).due == 0, "it was told once"


async def test_a_task_hears_of_an_end_in_another_partition_before_it_sleeps(sdk4: Sdk) -> None:
    """Between two steps of its suspension: the other one knows that it waits, and it does not sleep yet."""
    other = elsewhere("a")
    await sdk4.start("a")
    await sdk4.ok("promise.create", **creating(other, TARGET))
    body = json.dumps(request("task.suspend", id="a", version=1, actions=waiting("a", other))).encode()
    here, there = (resonate.keys_of(sdk4.keyspaces, id) for id in ("a", other))
    store = sdk4.driver.store
    said = await store.call(resonate.rpc(there, body, part="there", now_ms=NOW))
    assert json.loads(said.body)["data"] == {"settled": False}
    await sdk4.ok("promise.settle", id=other, state="resolved", value={})
    await sdk4.tick()
    empty = json.dumps(request("task.suspend", id="a", version=1, actions=[])).encode()
    answer = await store.call(resonate.rpc(here, empty, part="here", others=[other], now_ms=NOW))
    assert (answer.status, await sdk4.task("a")) == (300, "acquired")


async def test_a_task_that_has_heard_of_very_many_ends_is_resumed_at_once(sdk4: Sdk) -> None:
    await sdk4.start("a")
    other, long = elsewhere("a"), "x" * 1000
    await sdk4.ok("promise.create", **creating(other, TARGET))
    keys, store = resonate.keys_of(sdk4.keyspaces, "a"), sdk4.driver.store
    for number in range(20):
        note = resonate.settled(resonate.Tell("a", f"{long}{number}"))
        await store.call(resonate.tick(keys, limit=0, now_ms=NOW, notes=[note]))
    assert await sdk4.driver.redis.hstrlen(f"{keys.resonate}promise:a", R["heard"]) <= LIMIT["resonate_heard_bytes_max"]
    for version, state in enumerate(("pending", "suspended"), start=1):
        await sdk4.ok("task.suspend", id="a", version=version, actions=waiting("a", other))
        assert await sdk4.task("a") == state
        await sdk4.ask("task.acquire", id="a", version=version, pid="p", ttl=60_000)


async def test_callbacks_and_heartbeats_go_to_all_partitions(sdk4: Sdk) -> None:
    ids = ["a", elsewhere("a"), elsewhere(elsewhere("a")), "b", "c"]
    for id in ids:
        await sdk4.start(id)
    await sdk4.tick(50_000)
    tasks = [{"id": id, "version": 1} for id in ids]
    assert (await sdk4.ask("task.heartbeat", pid="p", tasks=[*tasks, {"id": "", "version": 1}]))[0] == 400
    await sdk4.ok("task.heartbeat", pid="p", tasks=tasks * 500)
    await sdk4.tick(50_000)
    assert {await sdk4.task(id) for id in ids} == {"acquired"}
    awaited, awaiter = ids[1], ids[0]
    await sdk4.ok("promise.create", **creating("plain", {"resonate:external": "true"}))
    asks = [(awaited, awaiter, 200), ("none", awaiter, 404), (awaited, "none", 422), ("plain", awaiter, 200)]
    for one, other, status in asks:
        assert (await sdk4.ask("promise.register_callback", awaited=one, awaiter=other))[0] == status, (one, other)
    await sdk4.ok("promise.settle", id=awaited, state="resolved", value={})
    await sdk4.tick()
    assert (await sdk4.ok("task.get", id=awaiter))["task"]["resumes"] == 1


# -- fsck


async def test_fsck_finds_and_repairs_what_would_sleep_for_ever(sdk: Sdk) -> None:
    for id in ("a", "b", "s"):
        await sdk.start(id)
    await sdk.ok("promise.create", **creating("s:1", TARGET | {"resonate:timer": "true"}))
    await sdk.ok("promise.create", **creating("q", TARGET))
    await sdk.ok("promise.create", **creating("t", {"resonate:branch": "a"}))
    await sdk.ok("task.suspend", id="s", version=1, actions=waiting("s", "s:1"))
    await sdk.ok("promise.settle", id="b", state="resolved", value={})
    tag, redis = sdk.keyspaces[0].resonate, sdk.driver.redis
    report = await sdk.driver.store.run(fsck.fsck(sdk.keyspaces))
    assert report.findings == []
    assert report.checked["r:promise"] == 6
    await redis.zrem(f"{tag}timers", "ta", "ps:1")
    await redis.zadd(f"{tag}timers", {"pnobody": 1, "pq": 5})
    await redis.zadd(f"{tag}queue:{GROUP}", {"nobody": 1})
    await redis.zrem(f"{tag}queue:{GROUP}", "q")
    await redis.delete(f"{tag}settled")
    await redis.hdel(f"{tag}promise:s:1", "w")
    await redis.sadd(f"{tag}branch:a", "nobody")
    await redis.set(f"{tag}nothing", "x")
    found = (await sdk.driver.store.run(fsck.fsck(sdk.keyspaces))).findings
    assert {(one.kind, one.id) for one in found} == {
        ("untimed", "a"),
        ("untimed", "s:1"),
        ("timer", "pnobody"),
        ("mistimed", "q"),
        ("unqueued", "q"),
        ("entry", f"{GROUP} nobody"),
        ("kept", "b"),
        ("stuck", "s"),
        ("entry", "a nobody"),
        ("unknown", f"{tag}nothing"),
    }
    await redis.delete(f"{tag}nothing")
    assert all(one.repaired for one in (await sdk.driver.store.run(fsck.fsck(sdk.keyspaces, repair=True))).findings)
    assert (await sdk.driver.store.run(fsck.fsck(sdk.keyspaces))).findings == []
    assert await sdk.task("s") == "pending"
    await sdk.start("a:1")
    await sdk.ok("promise.create", **creating("+b", TARGET))
    await sdk.ok("task.suspend", id="a:1", version=1, actions=waiting("a:1", "+b"))
    assert (await sdk.driver.store.run(fsck.fsck(sdk.keyspaces))).findings == []


@pytest.mark.parametrize("partitions", [1, 4])
async def test_fsck_finds_a_task_that_nothing_of_another_root_wakes(driver: Driver, partitions: int) -> None:
    sdk, other = Sdk(driver, partitions), elsewhere("a")
    await sdk.start("a")
    await sdk.ok("promise.create", **creating(other, {"resonate:external": "true"}))
    await sdk.ok("task.suspend", id="a", version=1, actions=waiting("a", other))
    assert (await driver.store.run(fsck.fsck(sdk.keyspaces))).findings == []
    key = f"{resonate.keys_of(sdk.keyspaces, other).resonate}promise:{other}"
    for damage in ("hdel", "delete"):
        await (driver.redis.hdel(key, R["waiters"]) if damage == "hdel" else driver.redis.delete(key))
        found = (await driver.store.run(fsck.fsck(sdk.keyspaces, repair=True))).findings
        assert ("stuck", "a", True) in {(one.kind, one.id, one.repaired) for one in found}
        assert await sdk.task("a") == "pending"
        if damage == "hdel":
            await sdk.ok("task.acquire", id="a", version=1, pid="p", ttl=60_000)
            await sdk.ok("task.suspend", id="a", version=2, actions=waiting("a", other))
    assert (await driver.store.run(fsck.fsck(sdk.keyspaces))).findings == []


async def test_a_queue_and_an_inbox_of_another_type_stop_nothing_else(sdk: Sdk) -> None:
    own, redis = sdk.keyspaces[0].resonate, sdk.driver.redis
    await sdk.ok(
        "promise.create", **creating("lost", {"resonate:target": "poll://any@odd", "resonate:delay": str(NOW + 1)})
    )
    await sdk.ok("promise.create", **creating("late", {**TARGET, "resonate:delay": str(NOW + 2)}))
    await sdk.ok("promise.create", **creating("wake", {"resonate:external": "true"}, NOW + 1000))
    await sdk.start("a")
    await sdk.ok("task.suspend", id="a", version=1, actions=waiting("a", "wake"))
    await sdk.ok("promise.register_listener", awaited="wake", address="poll://uni@odd/p")
    for key in ("queue:poll://any@odd", "inbox:poll://uni@odd/p"):
        await redis.set(f"{own}{key}", "x")
    problems = (await sdk.tick(1000)).problems
    assert [one.split(" fails: ")[0] for one in problems] == ["the timer tlost"]
    assert (await sdk.state("wake"), await sdk.task("a")) == ("rejected_timedout", "pending")
    assert {one["data"]["task"]["id"] for one in await sdk.take(GROUP)} == {"late", "a"}
    for key in ("queue:poll://any@odd", "inbox:poll://uni@odd/p"):
        await redis.delete(f"{own}{key}")


async def test_a_damaged_promise_of_durasleep_does_not_lose_what_was_taken_with_it(sdk: Sdk) -> None:
    own, redis = sdk.keyspaces[0].resonate, sdk.driver.redis
    await sdk.ok("promise.create", **creating("mine", {"resonate:target": "durasleep://w"}))
    await sdk.ok("promise.create", **creating("theirs", TARGET))
    await redis.delete(f"{own}promise:mine")
    await redis.set(f"{own}promise:mine", "x")
    group, ours = await sdk.driver.store.call(resonate.take(sdk.keyspaces[0], [GROUP, resonate.OURS], now_ms=sdk.now))
    assert (len(group), len(ours), ours.problem[:4]) == (1, 0, "mine")
    assert await redis.zscore(f"{own}timers", "ttheirs") == sdk.now + 30_000, "it is sent again if the message is lost"
    await redis.delete(f"{own}promise:mine")
    await sdk.driver.store.run(fsck.fsck(sdk.keyspaces, repair=True))


async def test_a_damaged_root_does_not_keep_its_promises_from_ending(sdk: Sdk) -> None:
    await sdk.ok("promise.create", **creating("root", TARGET))
    await sdk.ok("promise.create", **creating("root:1", {"resonate:external": "true"}, NOW + 1000))
    await sdk.start("a")
    await sdk.ok("task.suspend", id="a", version=1, actions=waiting("a", "root:1"))
    key = f"{sdk.keyspaces[0].resonate}promise:root"
    await sdk.driver.redis.delete(key)
    await sdk.driver.redis.set(key, "x")
    await sdk.ok("promise.create", **creating("root:2", {"resonate:external": "true"}))
    await sdk.tick(1000)
    assert (await sdk.state("root:1"), await sdk.task("a")) == ("rejected_timedout", "pending")
    report = await sdk.driver.store.run(fsck.fsck(sdk.keyspaces))
    assert {one.id for one in report.findings if one.kind == "corrupt"} == {"root"}
    await sdk.driver.redis.delete(key)
    await sdk.driver.store.run(fsck.fsck(sdk.keyspaces, repair=True))
