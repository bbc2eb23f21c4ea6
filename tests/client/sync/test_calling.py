# Written by scripts/generate_sync.py from tests/client/test_calling.py: change that one.
"""Calls: the same id again, the result or error of a wait, and the worker that runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durasleep import Disposition, NotFound, OtherFunction, WaitTimeout
from harness.servers import Server
from tests.client.functions import Order, Serving, grown
from tests.client.sync_side import Client, NewClient, eventually, store_of
from tests.service.functions import double, failing, note, passage, sleeping_workflow
from tests.service.workers import Effects


def test_the_same_id_attaches_while_pending_and_returns_the_kept_result_after(
    client: Client, new_client: NewClient, serving: Serving, effects: Effects
) -> None:
    with serving():
        first = client.rpc("passage", passage, effects.path)
        eventually(lambda: effects.count("gate"), "the gate to be reached")
        second = new_client().rpc("passage", passage, effects.path)
        assert (first.disposition, second.disposition) == (Disposition.CREATED, Disposition.ATTACHED)
        assert not second.done()
        effects.open("gate")
        assert first.result(30) == second.result(30) == "through gate"
        third = client.rpc("passage", passage, "arguments that differ change nothing")
        assert third.disposition is Disposition.FINISHED
        assert third.done()
        assert third.result() == "through gate"
    assert effects.count("passage comes") == effects.count("gate") == 1


def test_another_function_under_a_used_id_is_an_error_that_names_both(
    client: Client, serving: Serving, effects: Effects
) -> None:
    with serving():
        client.rpc("order", passage, effects.path)
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            client.rpc("order", double, 1)
        effects.open("gate")
        assert client.get("order").result(30) == "through gate"
        with pytest.raises(OtherFunction, match=r"id order .*function passage.*function double"):
            client.rpc("order", "double", 1)
        with pytest.raises(OtherFunction, match="order"):
            client.promises.create("order")


def test_giving_up_waiting_does_not_end_what_is_waited_for(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        handle = client.rpc("passage", passage, effects.path)
        with pytest.raises(WaitTimeout, match=r"passage.*goes on"):
            handle.result(timeout=0.05)
        effects.open("gate")
        assert handle.result(timeout=30) == "through gate"


@pytest.mark.parametrize("limit", [0, 0.0, timedelta(0), 1e-9, -1])
def test_no_time_to_wait_means_to_look_once(client: Client, new_client: NewClient, limit: float | timedelta) -> None:
    client.promises.create("pending")
    client.promises.create("done")
    client.promises.resolve("done", 7)
    for one in (client, new_client()):
        assert one.get("done").result(timeout=limit) == 7
        with pytest.raises(WaitTimeout):
            one.get("pending").result(timeout=limit)
        with pytest.raises(NotFound):
            one.get("nothing").result(timeout=limit)
    client.promises.cancel("pending")


def test_what_was_raised_there_is_raised_here(client: Client, serving: Serving) -> None:
    with serving():
        handle = client.rpc("fails", failing, "no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            handle.result(30)
        described = client.describe("fails")
        assert (described.state, described.error) == ("rejected", "ValueError: no such luck")
        with pytest.raises(ValueError, match="no such luck"):
            client.get("fails").result()


def test_waiting_for_an_unknown_id_says_so(client: Client) -> None:
    with pytest.raises(NotFound, match="nobody"):
        client.get("nobody").result(timeout=5)
    with pytest.raises(NotFound, match="nobody~3"):
        client.get("nobody~3").result(timeout=5)
    with pytest.raises(NotFound, match="nobody~3"):
        client.describe("nobody~3")
    with pytest.raises(NotFound, match="nobody"):
        client.get("nobody").done()


def test_results_and_arguments_take_the_shape_of_their_hints(client: Client, serving: Serving) -> None:
    with serving():
        handle = client.rpc("grown", grown, Order(1, ["a"]), tag="b")
        assert handle.result(30) == Order(2, ["a", "b"])
        assert client.get("grown", Order).result() == Order(2, ["a", "b"])


def test_a_delayed_call_starts_when_due_or_when_woken(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        later = client.rpc("later", note, effects.path, "later", delay=3600)
        soon = client.rpc("soon", note, effects.path, "soon", delay=0.1)
        soon.result(30)
        described = client.describe("later")
        assert (described.status, [one.id for one in described.waiting_on]) == ("delayed", ["later~start"])
        assert client.wake("later").word == "woken"
        later.result(30)
    assert effects.lines() == ["soon", "later"]


def test_one_worker_can_be_named(client: Client, serving: Serving, effects: Effects) -> None:
    """A call for one worker waits for that worker; others of its group do not take it."""
    handle = client.rpc("mine", note, effects.path, "mine", target="poll://uni@workers/w2")
    with serving("w1"):
        client.rpc("any", note, effects.path, "any", target="poll://any@workers").result(30)
        assert client.describe("mine").status == "queued"
        with serving("w2"):
            handle.result(30)
    assert effects.lines() == ["any", "mine"]


def test_the_workers_of_a_group_are_named_while_they_live(client: Client, serving: Serving) -> None:
    assert client.workers() == []
    with serving("w1"), serving("w2"):
        assert sorted(client.workers()) == ["w1", "w2"]
        assert client.workers("others") == []
    assert client.workers() == []


@pytest.mark.usefixtures("in_one_partition")
def test_a_clock_that_is_released_is_kept_and_answered(client: Client, real_server: Server) -> None:
    redis: Any = real_server.sync_client()
    shown = client.release_clock()
    assert abs(shown - datetime.now(UTC)) < timedelta(seconds=30)
    kept_ms = int(redis.get(store_of(client).keyspaces[-1].clock_released))
    assert shown == datetime.fromtimestamp(kept_ms / 1000, UTC)


def test_what_is_exported_has_its_journal(client: Client, serving: Serving) -> None:
    with serving():
        client.rpc("sleep", sleeping_workflow, 0.01).result(30)
        recording = client.export("sleep")
        assert (recording.function, len(recording.entries)) == ("sleeping_workflow", 1)
        with pytest.raises(NotFound, match="nobody"):
            client.export("nobody")


def test_a_closed_client_connects_again_when_it_is_called(
    client: Client, serving: Serving, real_server: Server
) -> None:
    with serving():
        assert client.rpc("one", double, 1).result(30) == 2
        client.close()
        assert client.rpc("two", double, 2).result(30) == 4
        with client:
            assert client.get("one", int).result() == 2


def test_a_call_in_a_pipeline_exists_once_that_was_executed(
    client: Client, serving: Serving, real_server: Server
) -> None:
    with serving(), real_server.sync_client().pipeline() as pipeline:
        handle = client.rpc("one", double, 1, pipeline=pipeline)
        assert handle.disposition is None
        with pytest.raises(NotFound):
            handle.result(timeout=1)
        pipeline.execute()
        assert handle.result(30) == 2
