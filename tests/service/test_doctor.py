"""What the doctor says of servers, well or not; and what a worker does not serve, for it may vanish."""

from __future__ import annotations

import ast
import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

import durasleep
from durasleep import Context, Durasleep
from durasleep.client.client import store_of
from durasleep.devserver import DevServer
from durasleep.errors import NotReplicated, StoreRefused, UnsupportedServer
from durasleep.model import PromiseId, State
from durasleep.protocol import promises, rights
from durasleep.protocol.keys import Keyspace, S
from durasleep.protocol.script import NAMES, load
from durasleep.query.doctor import Diagnosis, Facts, Level, diagnose
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.transport.connection import Link
from durasleep.transport.connector import Connector
from durasleep.transport.store import Store
from harness.servers import ACL, MakeServer, Server, limit
from tests.service.fixtures import NewApp
from tests.service.functions import double, failing, gathering, sleeping_workflow, stand_in_thread_at, waiting
from tests.service.workers import Effects, eventually, serving, until


def levels(found: list[Diagnosis]) -> dict[str, Level]:
    """The worst of each subject."""
    return {one.subject: one.level for one in reversed(found)}


async def test_a_server_that_keeps_every_write_is_well(new_app: NewApp, own_server: DevServer) -> None:
    found = await new_app(own_server.url).diagnose()
    assert set(levels(found).values()) == {Level.GOOD}
    assert set(levels(found)) >= {"server", "eviction", "persistence", "replicas", "clock", "latency", "rights"}


async def test_what_can_be_lost_is_said(new_app: NewApp, own_server: DevServer, admin: Any) -> None:
    app = new_app(own_server.url)
    await admin.config_set("appendonly", "no")
    await admin.config_set("save", "")
    assert levels(await app.diagnose())["persistence"] is Level.DANGER
    await admin.config_set("save", "3600 1")
    assert levels(await app.diagnose())["persistence"] is Level.WARNING
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    assert levels(await app.diagnose())["eviction"] is Level.WARNING
    await admin.config_set("maxmemory", 1 << 30)
    assert levels(await app.diagnose())["eviction"] is Level.DANGER
    await admin.config_set("maxmemory-policy", "volatile-lru")
    assert levels(await app.diagnose())["eviction"] is Level.WARNING
    used = (await admin.info("memory"))["used_memory"]
    await admin.config_set("maxmemory-policy", "noeviction")
    await admin.config_set("maxmemory", int(used * 1.1))
    assert levels(await app.diagnose())["memory"] in (Level.WARNING, Level.DANGER)


async def test_a_replica_is_no_place_to_be(
    new_app: NewApp, own_server: DevServer, admin: Any, make_server: MakeServer
) -> None:
    replica = make_server()
    client: Any = Redis.from_url(replica.url)
    app = new_app(replica.url)
    await store_of(app)
    host, port = own_server.url.rpartition("/")[2].split(":")
    await client.execute_command("REPLICAOF", host, port)
    await client.aclose()
    assert levels(await app.diagnose())["replicas"] is Level.DANGER
    found = [one.text for one in await new_app(own_server.url).diagnose() if one.subject == "replicas"]
    assert re.search("^replica .*(follows|behind)", found[0])


async def test_a_worker_serves_nothing_that_may_vanish_unless_told_to(
    new_app: NewApp, own_server: DevServer, admin: Any
) -> None:
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await admin.config_set("maxmemory", 1 << 30)
    app = new_app(own_server.url)
    with pytest.raises(UnsupportedServer, match="--i-accept-eviction"):
        await app.worker().run()
    daring = new_app(own_server.url, settings=replace(DEFAULTS, accept_eviction=True))
    async with serving(daring):
        assert await (await daring.rpc("a", double, 1)) == 2


# -- what waits for somebody


async def said_of(app: Durasleep) -> dict[str, tuple[str, str]]:
    """What waits for a person or a worker: text and advice of each subject."""
    subjects = ("work", "halted", "failed", "broken data", "workers", "threads", "schedules", "timers", "functions")
    return {one.subject: (one.text, one.advice) for one in await app.diagnose() if one.subject in subjects}


@pytest.fixture
async def raw(app: Durasleep, real_server: Server, in_one_partition: None) -> tuple[Any, Keyspace]:
    """A client, and the partition to which all ids of the test belong."""
    return real_server.client(), (await store_of(app)).keyspaces[-1]


async def test_nothing_is_said_of_work_that_is_done(app: Durasleep) -> None:
    async with serving(app):
        await (await app.rpc("a", double, 1))
        await app.rpc("b", sleeping_workflow, 0.01)
        assert (await said_of(app)).keys() == {"work"}


async def test_what_is_halted_or_quarantined_is_said(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
    client, keys = raw
    async with serving(app):
        handles = [await app.rpc(id, waiting) for id in ("h1", "h2", "h3")]
        for id in ("h1", "h2", "h3"):
            await until(app, id, "suspended")
            await app.halt(id)
    name = "timers:x~1: CORRUPT x is not a promise"
    await client.zadd(keys.halted, {name: 1})
    said = await said_of(app)
    assert re.fullmatch(
        r"3 executions are halted and wait for a person; the oldest is h1, for \d.*s", said["halted"][0]
    )
    assert "durasleep resume --status halted --yes" in said["halted"][1]
    assert said["broken data"][0].startswith("1 name was quarantined")
    assert await app.discard_quarantined(name)
    for handle in handles:
        await handle.cancel(force=True)
    assert (await said_of(app)).keys() == {"work"}


async def test_what_has_failed_is_said_until_it_is_tried_again(app: Durasleep) -> None:
    async with serving(app):
        for n in range(3):
            handle = await app.rpc(f"f{n}", failing, "no money")
            with pytest.raises(ValueError, match="no money"):
                await handle
        text, advice = (await said_of(app))["failed"]
        assert re.fullmatch(r"3 executions have failed within a day; the latest is f2, \d.*s ago", text)
        assert "durasleep retry --status failed --yes" in advice
        await app.rpc("stopped", waiting)
        await app.cancel("stopped", force=True)
        for n in range(3):
            await app.retry(f"f{n}")
            await app.cancel(f"f{n}", force=True)
        assert (await said_of(app)).keys() <= {"work", "failed"}


async def test_a_schedule_nobody_can_read_is_said_with_what_mends_it(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
    client, keys = raw
    await app.schedule("nightly", "0 3 * * *", double, 1)
    await client.hset(keys.schedule("nightly"), mapping={S["zone"]: "Mars/Base", S["due"]: 1000})
    await client.zadd(keys.timers, {"nightly~cron": 1000})
    async with serving(app):
        await eventually(lambda: client.zcard(keys.halted), "it to be quarantined")
    text, advice = (await said_of(app))["schedules"]
    assert text.startswith("schedule nightly is due, and no worker can read it: ")
    assert "Mars/Base" in text
    assert "app.unschedule('nightly')" in advice
    await app.unschedule("nightly")
    assert (await said_of(app)).keys() == {"work"}


async def test_lost_threads_are_said_by_worker(app: Durasleep, effects: Effects) -> None:
    @app.task(timeout=0.1)
    def stuck() -> None:
        stand_in_thread_at(effects.path, "gate")

    async with serving(app, "w1"):
        with pytest.raises(TimeoutError):
            await (await app.rpc("a", stuck))

        async def is_said() -> bool:
            return "worker w1 has lost 1 thread " in (await said_of(app)).get("threads", ("", ""))[0]

        await eventually(is_said, "the doctor to know")
        effects.open("gate")


async def test_timers_of_a_newer_version_are_said_to_be_so(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
    client, keys = raw
    await client.zadd(keys.timers, {"customers/7~later": 1000})
    text, advice = (await said_of(app))["timers"]
    assert text == "1 timer is due that only a newer version knows, such as customers/7~later"
    assert "start workers of that version" in advice
    await client.delete(keys.timers)


@pytest.mark.parametrize(
    ("target", "text", "advice"),
    [
        ("workers", "1 execution waits for group 'workers': no worker of it is alive", "durasleep worker"),
        ("gpu", "1 execution waits for group 'gpu': no worker of it is alive", "durasleep worker --group gpu"),
        (
            "poll://uni@workers/w9",
            "1 execution waits for worker 'w9' of group 'workers', which is not alive",
            "durasleep worker --name w9",
        ),
    ],
)
async def test_work_without_a_worker_is_said(app: Durasleep, target: str, text: str, advice: str) -> None:
    handle = await app.rpc("a", double, 1, target=target)
    assert (await said_of(app))["workers"] == (text, advice)
    async with serving(app, "w1"):
        if target == "workers":
            assert await handle == 2
            assert (await said_of(app)).keys() == {"work"}
        else:
            assert (await said_of(app))["workers"] == (text, advice)
    await handle.cancel(force=True)


async def test_a_function_that_no_worker_of_the_group_has_is_said(app: Durasleep, new_app: NewApp) -> None:
    async with serving(new_app(), "w1"):
        handles = [await app.rpc(f"a{n}", "brand_new") for n in range(2)]
        wanted = "2 executions wait for a worker of group 'workers' that has the function 'brand_new'"

        async def is_said() -> bool:  # not while they are offered again
            text, advice = (await said_of(app)).get("functions", ("", ""))
            return text == wanted and "durasleep worker" in advice

        await eventually(is_said, "it to be said")
        for handle in handles:
            await handle.cancel(force=True)
        assert "functions" not in await said_of(app)


async def test_a_worker_that_left_no_word_is_said_and_the_advice_helps(
    app: Durasleep, raw: tuple[Any, Keyspace]
) -> None:
    client, keys = raw
    async with serving(app, "w1"):
        await (await app.rpc("a", double, 1))
    await client.zadd(keys.workers, {"dead/0123": (time.time() - 3600) * 1000})
    await client.xgroup_createconsumer(keys.queue("workers"), "workers", "dead/0123")
    text, advice = (await said_of(app))["workers"]
    assert text.startswith("1 worker has died and no other worker has taken over; the first was dead, 1 h ago")
    assert advice == "a worker of the same group takes over: durasleep worker"
    async with serving(app, "w2"):

        async def is_well() -> bool:
            return (await said_of(app)).keys() == {"work"}

        await eventually(is_well, "the other worker to take over")


async def test_what_is_overdue_is_said(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
    client, keys = raw
    await app.schedule("nightly", "0 3 * * *", double, 1)
    await app.rpc("later", double, 1, delay=600)
    assert (await said_of(app)).keys() == {"work"}
    hour_ago = (time.time() - 3600) * 1000
    await client.zadd(keys.timers, {"nightly~cron": hour_ago, "later~start": hour_ago - 1}, xx=True)
    said = await said_of(app)
    assert said["schedules"] == (
        "1 schedule is overdue; the oldest, nightly, for 1 h",
        "no worker is alive: durasleep worker",
    )
    assert said["timers"][0] == "1 timer is overdue; the oldest, later~start, for 1 h"
    await app.unschedule("nightly")
    await app.cancel("later", force=True)


async def test_a_fact_that_cannot_be_seen_hides_no_other(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
    client, keys = raw
    await app.rpc("a", double, 1)
    await client.set(keys.halted, "not ours")
    found = [one.text for one in await app.diagnose() if one.subject in ("work", "workers")]
    assert any(text.startswith("some of this cannot be read: ") for text in found)
    assert "1 execution waits for group 'workers': no worker of it is alive" in found
    await client.delete(keys.halted)
    await app.cancel("a", force=True)


def test_the_client_without_asyncio_says_the_same(app: Durasleep, real_server: Server) -> None:
    with SyncClient(real_server.url, namespace=app.namespace) as client:
        handle = client.rpc("a", double, 1)
        assert "workers" in [one.subject for one in client.diagnose()]
        handle.cancel(force=True)


# -- clocks


def test_a_clock_that_is_off_and_what_cannot_be_seen_are_said() -> None:
    unseen = Facts(info={}, config={}, missing_rights=None, clock_off_s=-90.0, pings_ms=(9.0, 30.0))
    assert levels(diagnose(unseen)) == {
        "clock": Level.DANGER,
        "server": Level.WARNING,
        "eviction": Level.WARNING,
        "latency": Level.WARNING,
        "rights": Level.GOOD,
    }
    assert diagnose(unseen)[0].text == "the server's clock is 90 s behind ours: all due times follow the server's clock"


# -- rights


async def test_the_example_gives_all_rights_that_are_needed_and_no_others(
    new_app: NewApp, own_server: DevServer, admin: Any, namespace: str
) -> None:
    app = new_app(limit(own_server.url, namespace))
    async with serving(app):
        assert await (await app.rpc("a", sleeping_workflow, 0.01)) == "Slept for 0.01 seconds"
    if own_server.binary.kind == "redis" and (await admin.info("server"))["redis_version"].startswith("6."):
        pytest.skip("Redis 6 cannot say which rights are missing")
    limit(own_server.url, namespace, "+acl")
    rights = [one for one in await app.diagnose() if one.subject == "rights"]
    assert [one.text for one in rights] == ["our user has all rights that are needed"]
    client: Any = Redis.from_url(limit(own_server.url, namespace))
    for command in (("FLUSHALL",), ("KEYS", "*"), ("GET", "other"), ("CONFIG", "GET", "*"), ("SCRIPT", "FLUSH")):
        with pytest.raises(Exception, match=r"(?i)permission"):
            await client.execute_command(*command)
    await client.aclose()


async def test_a_right_that_is_missing_is_named(
    new_app: NewApp, own_server: DevServer, admin: Any, namespace: str
) -> None:
    if own_server.binary.kind == "redis" and (await admin.info("server"))["redis_version"].startswith("6."):
        pytest.skip("Redis 6 cannot say which rights are missing")
    app = new_app(limit(own_server.url, namespace, "-zadd", "-xack", "+acl"))
    rights = [one for one in await app.diagnose() if one.subject == "rights"]
    assert rights[0].level is Level.DANGER
    assert "XACK, ZADD" in rights[0].text
    with pytest.raises(StoreRefused):
        await app.rpc("a", double, 1, delay=60)


BY_REDIS_PY = {"select", "client|setname"}  # as it connects
BY_PIPELINES = {"script|load", "multi", "exec"}
BY_CLUSTERS = {"cluster|slots"}
SENT_TO_FAKEREDIS = {"command|info"}
SENT_IN_VAIN = {"client|setinfo"}  # by redis-py, who goes on without
ASKED_IF_ALLOWED = {"acl|whoami", "acl|dryrun", "config|get"}  # by the doctor, who goes on without
FOR_TESTS = {"testing.py"}  # these modules flush a namespace of their own, or move its clock


def words_of_package() -> set[str]:
    """Whatever in the package looks like a command, or a command and its part, of Redis."""
    words: set[str] = set()
    for path in Path(durasleep.__file__).parent.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text())) if path.name not in FOR_TESTS else ()
        for node in nodes:
            if isinstance(node, ast.List | ast.Tuple):
                literals = [element.value for element in node.elts[:2] if isinstance(element, ast.Constant)]
                words |= _joined([word.decode() for word in literals if isinstance(word, bytes)])
    for name in NAMES:
        text = re.sub(r"--.*", "", load(name).source.decode())
        words |= {word.lower() for word in re.findall(r"'([A-Z]+)'", text)}
        words |= {f"{first}|{second}".lower() for first, second in re.findall(r"'([A-Z]+)', '([A-Z]+)'", text)}
    return words


def _joined(words: list[str]) -> set[str]:
    return {"|".join(words[:count]).lower() for count in range(1, len(words) + 1)}


async def commands_of(client: Any) -> set[str]:
    """Of a server, as a rule of its ACL names them."""
    link = Link(Connector.of(client), "test", 5.0)
    [entries] = await link.exchange([[b"COMMAND"]])
    await link.close()
    if len(entries[0]) < 10:
        pytest.skip("Redis 6 does not tell the parts of its commands")
    return {part[0].decode() for name, *_, parts in entries for part in parts or [[name]]}


async def test_the_example_grants_what_is_sent_or_used_in_a_script_and_nothing_else(admin: Any) -> None:
    granted = set(re.findall(r"\+([a-z]+(?:\|[a-z]+)?)", ACL.read_text()))
    known = await commands_of(admin)
    assert {"xgroup|create", "xinfo|groups", "hset"} <= known
    used = words_of_package() & known - ASKED_IF_ALLOWED - SENT_TO_FAKEREDIS | BY_REDIS_PY | BY_PIPELINES
    assert granted & known == used
    assert granted - known <= {"waitaof"}
    named = {
        word
        for right in rights.RIGHTS + rights.OF_SEVERAL_PARTITIONS + rights.OF_CLUSTERS
        for word in _joined(list(right[:2]))
    }
    assert granted - {"wait", "waitaof"} - BY_PIPELINES - BY_CLUSTERS - BY_REDIS_PY <= named


async def calling_and_counting(ctx: Context) -> list[Any]:
    """Four executions, which belong to any partition, and a transaction."""
    found = [await ctx.rpc("double", n, id=f"{ctx.info.id}-{n}") for n in range(4)]
    counter = ctx.key("counter")
    return [*found, *await ctx.transaction().set(counter, "1").get(counter)]


@pytest.mark.parametrize("partitions", [1, 4])
async def test_with_the_rights_of_the_example_nothing_that_is_sent_is_refused(
    new_app: NewApp, own_server: DevServer, admin: Any, namespace: str, partitions: int
) -> None:
    """Every verb there is, by both clients; a call in a pipeline, and confirmed writes."""
    waits_for_disk = "waitaof" in await commands_of(admin)
    url = limit(own_server.url, namespace, *(["+waitaof"] if waits_for_disk else []))
    app = new_app(url)
    app.workflow(calling_and_counting)
    await app.init(partitions=partitions)
    keys = (await store_of(app)).keys("piped")
    hasty = replace(DEFAULTS, min_replicas=1, confirm_timeout_s=0.01)
    async with serving(app), Redis.from_url(url) as own:
        pipeline = own.pipeline(transaction=True)
        await app.rpc("piped", double, 1, pipeline=pipeline)
        await pipeline.execute()
        assert await app.get("piped") == 2
        await app.schedule("daily", "0 3 * * *", double, 1)
        assert await app.gather(await app.rpc_many(double, [(f"d-{n}", n) for n in range(50)])) == [
            2 * n for n in range(50)
        ]
        assert await (await app.rpc("family", gathering, 20)) == [2 * n for n in range(20)]
        assert await (await app.rpc("abroad", calling_and_counting)) == [0, 2, 4, 6, "OK", b"1"]
        await app.partitions()
        pending = await app.promises.create("pending", timeout=3600)
        await app.reschedule("pending", 7200)
        held = await app.rpc("held", sleeping_workflow, 3600)
        await until(app, "held", "suspended")
        await app.halt("held")
        await app.resume("held")
        await until(app, "held", "suspended")
        await app.tree("held")
        await app.export("held")
        await app.timers()
        await app.search(status=["queued", "running", "suspended", "delayed", "halted", "done"])
        await app.workers()
        await app.fsck(repair=True)
        await app.discard_quarantined("nothing")
        await app.release_clock()
        await app.unschedule("daily")
        await app.cancel(held.id, force=True)
        await app.promises.cancel(pending.id)
        store = Store(Connector.of(url), namespace=namespace, settings=hasty, patience_s=0.1)
        with pytest.raises(NotReplicated):
            await store.call(promises.settle(keys, PromiseId("piped"), State.RESOLVED, b""))
        await store.aclose()
        if waits_for_disk:
            assert await (await app.rpc("on disk", double, 1, fsync=True)) == 2
        await asyncio.to_thread(_use_sync_client, url, namespace)
    assert {entry["object"] for entry in await admin.acl_log()} <= SENT_IN_VAIN


def _use_sync_client(url: str, namespace: str) -> None:
    with SyncClient(url, namespace=namespace) as client:
        assert client.rpc("sync", double, 2).result(timeout=20) == 4
        client.describe("sync")


async def test_a_refusal_is_seen_by_the_test_of_refusals(own_server: DevServer, admin: Any, namespace: str) -> None:
    async with Redis.from_url(limit(own_server.url, namespace, "-ping")) as client:
        with pytest.raises(NoPermissionError):
            await client.ping()
    assert {entry["object"] for entry in await admin.acl_log()} - SENT_IN_VAIN == {"ping"}
