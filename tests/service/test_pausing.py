"""A group that is paused: its workers take nothing more, what runs goes on, and timers fire."""

from __future__ import annotations

from typing import Any

import pytest

from durasleep import Durasleep, InvalidId
from durasleep.client.client import store_of
from durasleep.protocol.keys import W
from durasleep.query.doctor import Level
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, passage, sleeping_workflow
from tests.service.workers import Effects, beats_of, eventually, serving, until


async def waiting_reads(app: Durasleep, server: Server) -> int:
    """How many connections wait for entries of a queue."""
    store = await store_of(app)
    found: list[dict[str, str]] = await server.client().client_list()
    ours = [one for one in found if one["name"].startswith(f"durasleep/{store.namespace}/")]
    return len([one for one in ours if one["cmd"] == "xreadgroup" and "b" in one["flags"]])


async def all_read(app: Durasleep, server: Server, readers: int) -> None:
    async def look() -> bool:
        return await waiting_reads(app, server) == readers

    await eventually(look, f"{readers} reads that wait")


async def test_a_paused_group_takes_nothing_and_goes_on_when_it_is_resumed(app: Durasleep, real_server: Server) -> None:
    partitions = len((await store_of(app)).keyspaces)
    async with serving(app, "w1"), serving(app, "w2"):
        assert await (await app.rpc("before", double, 1)).result(20) == 2
        await all_read(app, real_server, 2 * partitions)
        assert await app.pause_group("workers")
        assert not await app.pause_group("workers")
        await all_read(app, real_server, 0)
        handles = [await app.rpc(f"d{n}", double, n) for n in range(5)]
        async with serving(app, "w3") as late:  # it has heard of the pause before it reads
            await beats_of(app, late.consumer, 1)
            assert await waiting_reads(app, real_server) == 0
            assert [(await app.describe(handle.id)).status for handle in handles] == ["queued"] * 5
        assert await app.resume_group("workers")
        assert not await app.resume_group("workers")
        assert [await handle.result(20) for handle in handles] == [0, 2, 4, 6, 8]


async def test_what_runs_goes_on_may_sleep_and_end_and_timers_fire(
    app: Durasleep, effects: Effects, real_server: Server
) -> None:
    async with serving(app):
        ends = await app.rpc("ends", passage, effects.path)
        await effects.standing("gate")
        sleeps = await app.rpc("sleeps", sleeping_workflow, 3600)
        await until(app, "sleeps", "suspended")
        await app.pause_group("workers")
        await all_read(app, real_server, 0)
        effects.open("gate")
        assert await ends.result(20) == "through gate"
        await app.reschedule("sleeps", 0.001)
        await until(app, "sleeps", "queued")  # its timer has fired
        await app.resume_group("workers")
        assert await sleeps.result(20) == "Slept for 3600 seconds"


async def test_another_group_goes_on(new_app: NewApp) -> None:
    one, other = new_app(group="one"), new_app(group="other")
    await one.pause_group("one")
    async with serving(one), serving(other, "w2"):
        await one.rpc("waits", double, 1)
        assert await (await other.rpc("runs", double, 2)).result(20) == 4
        assert (await one.describe("waits")).status == "queued"
    await one.resume_group("one")
    await one.cancel("waits")


async def test_who_asks_why_nothing_runs_is_told(app: Durasleep, real_server: Server) -> None:
    async with serving(app):
        await app.pause_group("workers")
        await all_read(app, real_server, 0)
        await app.rpc("a", double, 1)
        await until(app, "a", "queued")
        found = await app.describe("a")
        assert found.paused_since_ms is not None
        assert "@" in (found.paused_by or "")
        page = await app.search(status="queued")
        assert [one.id for one in page] == ["a"]
        assert page.notes[0].startswith("group workers is paused")
        [said] = [one for one in await app.diagnose() if one.subject == "groups"]
        assert said.level is Level.WARNING
        assert "was paused" in said.text
        assert said.advice.startswith("durasleep group resume workers ")
        [group] = await app.groups()
        assert (group.name, group.workers, group.unaware, group.queued) == ("workers", ["w1"], [], 1)
        assert (group.paused_since_ms, group.paused_by) == (found.paused_since_ms, found.paused_by)
        await app.resume_group("workers")
        await until(app, "a", "done")
        assert (await app.describe("a")).paused_since_ms is None
        assert [one for one in await app.diagnose() if one.subject == "groups"] == []
    with pytest.raises(InvalidId):
        await app.pause_group("a b")
    await app.pause_group("idle")
    assert "idle" in [one.name for one in await app.groups()]
    await app.resume_group("idle")


async def test_workers_that_know_no_pause_are_named(app: Durasleep, real_server: Server) -> None:
    """As one of an earlier version reports itself."""
    async with serving(app) as worker:
        keys = (await store_of(app)).keyspaces[0]
        await app.pause_group("workers")
        await all_read(app, real_server, 0)
        await real_server.client().zadd(keys.workers, {"old/aaaaaaaa": await now_ms(real_server)})
        fields = {W["group"]: "workers", W["knows"]: "2", W["beat_ms"]: "60000"}
        client: Any = real_server.client()
        await client.hset(keys.worker("old/aaaaaaaa"), mapping=fields)
        await real_server.client().pexpire(keys.worker("old/aaaaaaaa"), 60_000)
        [group] = await app.groups()
        assert (group.workers, group.unaware) == (["old", worker.name], ["old"])
        said = [one.text for one in await app.diagnose() if one.subject == "groups"]
        assert said[1] == "old of group 'workers': of an earlier version, which knows no pause"
        await app.resume_group("workers")


async def now_ms(server: Server) -> int:
    seconds, micros = await server.client().time()
    return 1000 * seconds + micros // 1000
