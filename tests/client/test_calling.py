"""Calls: the same id again, the result or error of a wait, and the worker that runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Disposition, NotFound, OtherFunction, WaitTimeout
from harness.servers import Server
from tests.client.async_side import Client, NewClient, eventually, store_of
from tests.client.functions import Order, Serving, grown
from tests.service.functions import double, failing, note, passage, sleeping_workflow
from tests.service.workers import Effects


async def test_the_same_id_attaches_while_pending_and_returns_the_kept_result_after(
    client: Client, new_client: NewClient, serving: Serving, effects: Effects
) -> None:
    with serving():
        first = await client.rpc("passage", passage, effects.path)
        await eventually(lambda: effects.count("gate"), "the gate to be reached")
        second = await new_client().rpc("passage", passage, effects.path)
        assert (first.disposition, second.disposition) == (Disposition.CREATED, Disposition.ATTACHED)
        assert not await second.done()
        effects.open("gate")
        assert await first.result(30) == await second.result(30) == "through gate"
        third = await client.rpc("passage", passage, "arguments that differ change nothing")
        assert third.disposition is Disposition.FINISHED
        assert await third.done()
        assert await third.result() == "through gate"
    assert effects.count("passage comes") == effects.count("gate") == 1


async def test_another_function_under_a_used_id_is_an_error_that_names_both(
    client: Client, serving: Serving, effects: Effects
) -> None:
    with serving():
        await client.rpc("order", passage, effects.path)
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            await client.rpc("order", double, 1)
        effects.open("gate")
        assert await client.get("order").result(30) == "through gate"
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            await client.rpc("order", "double", 1)
        with pytest.raises(OtherFunction, match="order"):
            await client.promises.create("order")


async def test_giving_up_waiting_does_not_end_what_is_waited_for(
    client: Client, serving: Serving, effects: Effects
) -> None:
    with serving():
        handle = await client.rpc("passage", passage, effects.path)
        with pytest.raises(WaitTimeout, match=r"passage.*goes on"):
            await handle.result(timeout=0.05)
        effects.open("gate")
        assert await handle.result(timeout=30) == "through gate"


@pytest.mark.parametrize("limit", [0, 0.0, timedelta(0), 1e-9, -1])
async def test_no_time_to_wait_means_to_look_once(
    client: Client, new_client: NewClient, limit: float | timedelta
) -> None:
    await client.promises.create("pending")
    await client.promises.create("done")
    await client.promises.resolve("done", 7)
    for one in (client, new_client()):
        assert await one.get("done").result(timeout=limit) == 7
        with pytest.raises(WaitTimeout):
            await one.get("pending").result(timeout=limit)
        with pytest.raises(NotFound):
            await one.get("nothing").result(timeout=limit)
    await client.promises.cancel("pending")


async def test_what_was_raised_there_is_raised_here(client: Client, serving: Serving) -> None:
    with serving():
        handle = await client.rpc("fails", failing, "no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            await handle.result(30)
        described = await client.describe("fails")
        assert (described.state, described.error) == ("rejected", "ValueError: no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            await client.get("fails").result()


async def test_waiting_for_an_unknown_id_says_so(client: Client) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await client.get("nobody").result(timeout=5)
    with pytest.raises(NotFound, match="nobody~3"):
        await client.get("nobody~3").result(timeout=5)
    with pytest.raises(NotFound, match="nobody~3"):
        await client.describe("nobody~3")
    with pytest.raises(NotFound, match="nobody"):
        await client.get("nobody").done()


async def test_results_and_arguments_take_the_shape_of_their_hints(client: Client, serving: Serving) -> None:
    with serving():
        handle = await client.rpc("grown", grown, Order(1, ["a"]), tag="b")
        assert await handle.result(30) == Order(2, ["a", "b"])
        assert await client.get("grown", Order).result() == Order(2, ["a", "b"])


async def test_a_delayed_call_starts_when_due_or_when_woken(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        later = await client.rpc("later", note, effects.path, "later", delay=3600)
        soon = await client.rpc("soon", note, effects.path, "soon", delay=0.1)
        await soon.result(30)
        described = await client.describe("later")
        assert (described.status, [one.id for one in described.waiting_on]) == ("delayed", ["later~start"])
        assert (await client.wake("later")).word == "woken"
        await later.result(30)
    assert effects.lines() == ["soon", "later"]


async def test_one_worker_can_be_named(client: Client, serving: Serving, effects: Effects) -> None:
    """A call for one worker waits for that worker; others of its group do not take it."""
    handle = await client.rpc("mine", note, effects.path, "mine", target="poll://uni@workers/w2")
    with serving("w1"):
        await (await client.rpc("any", note, effects.path, "any", target="poll://any@workers")).result(30)
        assert (await client.describe("mine")).status == "queued"
        with serving("w2"):
            await handle.result(30)
    assert effects.lines() == ["any", "mine"]


async def test_the_workers_of_a_group_are_named_while_they_live(client: Client, serving: Serving) -> None:
    assert await client.workers() == []
    with serving("w1"), serving("w2"):
        assert sorted(await client.workers()) == ["w1", "w2"]
        assert await client.workers("others") == []
    assert await client.workers() == []


@pytest.mark.usefixtures("in_one_partition")
async def test_a_clock_that_is_released_is_kept_and_answered(client: Client, real_server: Server) -> None:
    redis: Any = real_server.sync_client()
    shown = await client.release_clock()
    assert abs(shown - datetime.now(UTC)) < timedelta(seconds=30)
    kept_ms = int(redis.get((await store_of(client)).keyspaces[-1].clock_released))
    assert shown == datetime.fromtimestamp(kept_ms / 1000, UTC)


async def test_what_is_exported_has_its_journal(client: Client, serving: Serving) -> None:
    with serving():
        await (await client.rpc("sleep", sleeping_workflow, 0.01)).result(30)
        recording = await client.export("sleep")
        assert (recording.function, len(recording.entries)) == ("sleeping_workflow", 1)
        with pytest.raises(NotFound, match="nobody"):
            await client.export("nobody")


async def test_a_closed_client_connects_again_when_it_is_called(
    client: Client, serving: Serving, real_server: Server
) -> None:
    with serving():
        assert await (await client.rpc("one", double, 1)).result(30) == 2
        await client.aclose()
        assert await (await client.rpc("two", double, 2)).result(30) == 4
        async with client:
            assert await client.get("one", int).result() == 2


async def test_a_call_in_a_pipeline_exists_once_that_was_executed(
    client: Client, serving: Serving, real_server: Server
) -> None:
    with serving(), real_server.sync_client().pipeline() as pipeline:
        handle = await client.rpc("one", double, 1, pipeline=pipeline)
        assert handle.disposition is None
        with pytest.raises(NotFound):
            await handle.result(timeout=1)
        pipeline.execute()
        assert await handle.result(30) == 2
