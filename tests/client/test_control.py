"""Executions are woken, rescheduled, canceled, halted, resumed or retried; and which of these is allowed when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Canceled, NotFound, UsageError
from durasleep.errors import InvalidDuration, NotAllowed
from harness.servers import Server
from tests.client.async_side import Client, NewClient, attach, store_of, until
from tests.client.functions import Serving, wide
from tests.service.functions import double, failing, sleeping_workflow, waiting
from tests.service.workers import Effects


async def test_the_verbs_take_the_id_of_what_sleeps(client: Client, serving: Serving) -> None:
    with serving():
        handles = {
            id: await client.rpc(id, sleeping_workflow, 3600) for id in ("woken", "moved", "canceled", "stopped")
        }
        for id in handles:
            await until(client, id, "suspended")
        assert (await client.wake("woken")).word == "woken"
        assert await handles["woken"].result(30) == "Slept for 3600 seconds"
        assert (await client.wake("woken")).word == "already"

        at = datetime.now(UTC) + timedelta(hours=2)
        assert (await client.reschedule("moved", at)).word == "rescheduled"
        [timer] = (await client.describe("moved")).waiting_on
        assert abs((timer.due_ms or 0) - at.timestamp() * 1000) < 2
        assert (await client.reschedule("moved", 0.001)).word == "rescheduled"
        assert await handles["moved"].result(30) == "Slept for 3600 seconds"

        assert await handles["canceled"].cancel() == "canceling"
        with pytest.raises(Canceled):
            await handles["canceled"].result(30)
        assert (await client.cancel("canceled")).word == "already"

        assert (await client.halt("stopped", "why")).word == "halted"
        assert [one.reason for one in await client.search(status="halted")] == ["why"]
        with pytest.raises(NotAllowed):
            await client.wake("stopped")
        with pytest.raises(NotAllowed):
            await client.reschedule("stopped", 5)
        assert (await client.resume("stopped")).word == "resumed"
        assert (await client.cancel("stopped", force=True)).word == "canceled"
        with pytest.raises(NotFound):
            await client.wake("nobody")
        with pytest.raises(InvalidDuration, match="no time zone"):
            await client.reschedule("stopped", datetime(2030, 1, 1))  # noqa: DTZ001 - the point


async def test_only_a_client_that_says_who_it_is_writes_into_the_audit(new_client: NewClient) -> None:
    quiet, ada = new_client(), new_client(by="ada")
    handle = await quiet.rpc("a", double, 5, delay="1h")
    await quiet.rpc("b", double, 5, delay="1h")
    assert await handle.cancel() == "canceled while delayed"
    assert await quiet.audit() == []
    assert await ada.get("b").cancel(force=True) == "canceled"
    await ada.release_clock()
    assert [(one.by, one.verb, one.id) for one in await quiet.audit(since="1h")] == [
        ("ada", "release-clock", ""),
        ("ada", "force", "b"),
    ]
    assert await quiet.audit(since=datetime.now(UTC) + timedelta(hours=1)) == []
    for wrong in (0, 10_001):
        with pytest.raises(UsageError):
            await quiet.audit(limit=wrong)
    with pytest.raises(UsageError):
        new_client(by="")


async def test_a_group_is_paused_and_an_execution_forked(new_client: NewClient, serving: Serving) -> None:
    client = new_client(by="ada")
    with serving():
        assert await (await client.rpc("a", sleeping_workflow, 0.001)).result(30) == "Slept for 0.001 seconds"
        fork = await client.fork("a", "b", before=1)
        assert (fork.id, fork.disposition) == ("b", "created")
        assert await fork.result(30) == "Slept for 0.001 seconds"
        assert (await client.fork("a", "b", before=1)).disposition == "attached"
    assert await client.pause_group("idle")
    [group] = [group for group in await client.groups() if group.name == "idle"]
    assert (group.paused_by, group.queued, group.workers) == ("ada", 0, [])
    assert await client.resume_group("idle")
    assert not await client.resume_group("idle")
    await client.promises.create("p")
    assert await client.promises.resolve("p", 1)
    assert await client.promises.resolve("p", 1)
    told = [(one.verb, one.id, one.word) for one in await client.audit()]
    assert told == [
        ("settle", "p", "resolved"),
        ("settle", "p", "resolved"),
        ("resume-group", "idle", ""),
        ("pause-group", "idle", ""),
        ("fork", "b", "of a before 1"),
    ]


async def test_of_several_timers_one_has_to_be_named(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        await client.rpc("wide", wide, effects.path)
        await client.rpc("approval", waiting)
        await until(client, "wide", "suspended")
        await until(client, "approval", "suspended")
        with pytest.raises(NotAllowed, match=r"wide waits for 2 timers, name one: wide~2 \(short\), wide~3 \(long\)"):
            await client.wake("wide")
        with pytest.raises(NotAllowed, match="approval waits for no timer"):
            await client.reschedule("approval", 5)
        assert (await client.wake("wide~2")).word == "woken"
        await until(client, "wide", "suspended")
        assert (await client.wake("wide")).word == "woken"
        for id in ("wide", "beside", "approval"):
            await client.cancel(id, force=True)


async def test_what_has_failed_is_tried_again(client: Client, serving: Serving) -> None:
    with serving():
        handle = await client.rpc("fails", failing, "no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            await handle.result(30)
        assert (await client.retry("fails")).word == "retrying"
        with pytest.raises(ValueError, match="no such luck"):
            await client.get("fails").result(30)
        slept = await client.rpc("sleeps", sleeping_workflow, 0.1, delay=3600)
        assert await slept.cancel(force=True) == "canceled"
        await attach([slept])  # it gets the cancel
        with pytest.raises(Canceled):
            await client.get("sleeps").result(30)
        assert (await client.retry("sleeps")).word == "retrying"
        await client.wake("sleeps")
        assert await client.get("sleeps").result(30) == "Slept for 0.1 seconds"
        assert await (await client.rpc("fine", double, 1)).result(30) == 2
        with pytest.raises(NotAllowed):
            await client.retry("fine")


@pytest.mark.leaves_keys("what nobody but a person can put right")
@pytest.mark.usefixtures("in_one_partition")
async def test_what_was_quarantined_is_noted_until_it_is_removed(client: Client, real_server: Server) -> None:
    keys = (await store_of(client)).keyspaces[-1]
    redis: Any = real_server.sync_client()
    redis.zadd(keys.halted, {"timers:broken~1: CORRUPT due time": 1})
    await client.rpc("fine", double, 1)
    found = await client.search()
    assert ([one.id for one in found], len(found.notes)) == (["fine"], 1)
    assert "quarantined: timers:broken~1: CORRUPT due time" in found.notes[0]
    assert [one.id for one in (await client.fsck()).findings if "broken" in one.id + one.text]
    assert await client.discard_quarantined("timers:broken~1")
    assert not await client.discard_quarantined("timers:broken~1")
    assert (await client.search()).notes == []
    real_server.flush()


async def test_a_server_and_what_waits_on_it_are_diagnosed(client: Client) -> None:
    await client.rpc("lonely", double, 1, target="gpu")
    said = await client.diagnose()
    assert any("gpu" in f"{one}" for one in said), said
    await client.cancel("lonely", force=True)
