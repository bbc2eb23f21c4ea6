"""What the doctor says of servers, well or not; and what a worker does not serve, for it may vanish."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from durasleep import Durasleep
from durasleep.client import store_of
from durasleep.devserver import DevServer
from durasleep.errors import StoreRefused, UnsupportedServer
from durasleep.settings import DEFAULTS
from durasleep.store import doctor
from durasleep.store.doctor import Diagnosis, Facts, Level, diagnose
from durasleep.store.keys import Keyspace
from durasleep.store.script import NAMES, load
from durasleep.sync import Client
from tests.servers import ACL, MakeServer, Server, limit
from tests.service.fixtures import NewApp
from tests.service.functions import double, sleeping_workflow, waiting
from tests.service.workers import eventually, serving, until


@pytest.fixture
def own_server(make_server: MakeServer, real_server: Server) -> DevServer:
    return make_server()


@pytest.fixture
async def admin(own_server: DevServer) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(own_server.url)
    yield client
    await client.aclose()


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
    subjects = ("work", "halted", "broken data", "workers", "schedules", "timers")
    return {one.subject: (one.text, one.advice) for one in await app.diagnose() if one.subject in subjects}


@pytest.fixture
def raw(app: Durasleep, real_server: Server) -> tuple[Any, Keyspace]:
    return real_server.client(), Keyspace(app.namespace)


async def test_nothing_is_said_of_work_that_is_done(app: Durasleep) -> None:
    async with serving(app):
        await (await app.rpc("a", double, 1))
        await app.rpc("b", sleeping_workflow, 0.01)
        assert (await said_of(app)).keys() == {"work"}


async def test_what_is_halted_or_put_aside_is_said(app: Durasleep, raw: tuple[Any, Keyspace]) -> None:
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
    assert said["broken data"][0].startswith("1 name was put aside")
    assert await app.forget(name)
    for handle in handles:
        await handle.cancel(force=True)
    assert (await said_of(app)).keys() == {"work"}


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


async def test_a_worker_that_left_no_word_is_said_and_the_advice_helps(
    app: Durasleep, raw: tuple[Any, Keyspace]
) -> None:
    client, keys = raw
    async with serving(app, "w1"):
        await (await app.rpc("a", double, 1))
    await client.zadd(keys.workers, {"dead/0123": (time.time() - 3600) * 1000})
    await client.xgroup_createconsumer(keys.queue("workers"), "workers", "dead/0123")
    text, advice = (await said_of(app))["workers"]
    assert text.startswith("1 worker has ended without a word and nobody has taken over; the first was dead, 1 h ago")
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
    assert any(text.startswith("not all can be seen: ") for text in found)
    assert "1 execution waits for group 'workers': no worker of it is alive" in found
    await client.delete(keys.halted)
    await app.cancel("a", force=True)


def test_the_client_without_asyncio_says_the_same(app: Durasleep, real_server: Server) -> None:
    with Client(real_server.url, namespace=app.namespace) as client:
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
    assert diagnose(unseen)[0].text == "the server's clock is 90 s behind ours: all times go by the server's"


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
    assert [one.text for one in rights] == ["our user may do all that is needed"]
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


def test_every_command_of_the_scripts_is_among_the_rights() -> None:
    named = {right[0] for right in doctor.RIGHTS}
    for name in NAMES:
        text = re.sub(r"--.*", "", load(name).source.decode())
        called = set(re.findall(r"redis\.p?call(?:\(\s*|, )'(\w+)'", text)) | set(
            re.findall(r"in_chunks\(\w+,\s*'(\w+)'", text)
        )
        assert called <= named, name


def test_the_example_names_every_right_that_the_doctor_looks_for() -> None:
    given = set(re.findall(r"\+([a-z]+(?:\|[a-z]+)?)", ACL.read_text()))
    for right in doctor.RIGHTS:
        assert {right[0].lower(), "|".join(right[:2]).lower()} & given, right[0]
