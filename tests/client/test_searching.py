"""Lists of executions and due items, and trees."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from durasleep import NotFound, UsageError
from durasleep.query.call_tree import Node
from durasleep.query.search import SearchPage
from harness.servers import Server
from tests.client.async_side import Client, eventually, until
from tests.client.functions import Serving, wide
from tests.service.functions import double, stand_at, waiting
from tests.service.workers import Effects


def ids(found: SearchPage) -> list[str]:
    return [one.id for one in found]


async def test_each_execution_is_listed_once_with_where_it_is(
    client: Client, serving: Serving, effects: Effects, real_server: Server
) -> None:
    with serving():
        await client.rpc("wide", wide, effects.path)
        await client.rpc("approval", waiting)  # in no timer, no stream
        await client.rpc("later", double, 1, delay=600)
        await client.rpc("runs", stand_at, effects.path, "gate", timeout=900)
        await client.rpc("stopped", waiting)
        await client.rpc("over", double, 1)
        for id in ("wide", "wide~5", "beside", "approval", "stopped"):
            await until(client, id, "suspended")
        await client.halt("stopped", "a look")
        await eventually(lambda: effects.count("gate"), "the gate to be reached")
        await until(client, "over", "done")
        await client.rpc("lonely", double, 1, target="gpu")

        found = await client.search()
        statuses = {one.id: one.status for one in found}
        assert statuses == {
            "stopped": "halted",
            "lonely": "queued",
            "runs": "running",
            "later": "delayed",
            "wide": "suspended",
            "wide~5": "suspended",
            "beside": "suspended",
            "approval": "suspended",
        }
        assert len(found) == len(statuses)
        assert (found.is_all, found.notes) == (True, [])
        by_id = {one.id: one for one in found}
        assert (by_id["stopped"].reason, by_id["runs"].worker, by_id["lonely"].group) == ("a look", "w1", "gpu")
        now_ms = time.time_ns() // 1_000_000
        for id, seconds in (("later", 600), ("wide", 3600), ("wide~5", 60), ("beside", 5400)):
            assert abs((by_id[id].due_at_ms or 0) - now_ms - seconds * 1000) < 30_000, id
        assert by_id["approval"].due_at_ms is None
        assert by_id["runs"].timeout_at_ms

        assert ids(await client.search(status="halted")) == ["stopped"]
        assert sorted(ids(await client.search(status=["running", "queued"]))) == ["lonely", "runs"]
        assert ids(await client.search(status="done")) == ["over"]
        assert ids(await client.search(group="gpu")) == ["lonely"]
        assert sorted(ids(await client.search(function="sleeping_workflow"))) == ["beside", "wide~5"]
        assert await client.search(function="nobody") == []
        cut = await client.search(limit=3)
        assert (len(cut), cut.is_all) == (3, False)
        with pytest.raises(UsageError, match="status 'asleep'"):
            await client.search(status="asleep")
        with pytest.raises(UsageError, match="limit 0"):
            await client.search(limit=0)
        effects.open("gate")
        assert await client.get("runs").result(30) == "through gate"
    real_server.flush()


@pytest.mark.usefixtures("in_one_partition")
async def test_pages_of_timers_miss_none_and_show_none_twice(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are due at the same instant, and pages end among them."""
    monkeypatch.setattr("durasleep.query.search.PAGE", 7)
    due = datetime.now(UTC) + timedelta(hours=1)
    names = [f"order-{number}" for number in range(60)]
    for number, name in enumerate(names):
        await client.rpc(name, double, 1, delay=due + timedelta(seconds=number // 20))
    found = await client.search(status="delayed")
    assert sorted(ids(found)) == sorted(names)
    dues = [one.due_at_ms or 0 for one in found]
    assert dues == sorted(dues)
    for name in names:
        await client.cancel(name)
    assert await client.search() == []
    assert sorted(ids(await client.search(status="done"))) == sorted(names)


async def test_any_number_is_halted_resumed_and_canceled_in_one_go(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durasleep.query.search.LOOKED_MAX", 100)
    names = [f"order-{number}" for number in range(400)]
    await client.rpc_many(double, [(name, 1) for name in names])
    for act, status, word in (
        (client.halt, "queued", "halted"),
        (client.resume, "halted", "resumed"),
        (partial(client.cancel, force=True), "queued", "canceled"),
    ):
        done: list[str] = []
        async for found in client.search_all(status=status, function="double"):
            for one in found:
                assert (await act(one.id)).word == word
            done += ids(found)
        assert sorted(done) == sorted(names), act
    assert await client.search() == []


async def test_timers_are_shown_soonest_first_by_what_controls_them(
    client: Client, serving: Serving, effects: Effects, real_server: Server
) -> None:
    with serving():
        await client.rpc("wide", wide, effects.path, timeout=9000)
        await client.rpc("later", double, 1, delay=600)
        await client.promises.create("bare", timeout=1200)
        await client.promises.create("alarm", timeout=1800, timer=True)
        await client.schedule("monthly", "0 0 1 * *", double, 1)
        for id in ("wide", "wide~5", "beside"):
            await until(client, id, "suspended")
        shown = [(one.id, one.kind, one.name, one.func) for one in await client.timers()]
    assert shown[:-1] == [
        ("wide~5~1", "timer", "", "sleeping_workflow"),
        ("later", "start", "", "double"),
        ("bare", "promise", "", None),
        ("alarm", "timer", "", None),
        ("wide~2", "timer", "short", "wide"),
        ("beside~1", "timer", "", "sleeping_workflow"),
        ("wide~3", "timer", "long", "wide"),
        ("wide", "deadline", "", "wide"),
    ]
    assert shown[-1] == ("monthly", "cron", "0 0 1 * * UTC", "double")
    assert [one.id for one in await client.timers(2)] == ["wide~5~1", "later"]
    real_server.flush()


def shape(node: Node) -> tuple[Any, ...]:
    return (node.id, node.kind, node.name, node.state, [shape(child) for child in node.children])


async def test_a_tree_shows_what_an_execution_has_called(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        await client.rpc("wide", wide, effects.path)
        for id in ("wide", "beside", "wide~5"):
            await until(client, id, "suspended")
        tree = await client.tree("wide")
        asleep: list[Any] = [("timer", "", "pending", [])]
        named = shape(tree.root)
        assert named[:4] == ("wide", "execution", "wide", "pending")
        assert [(*child[1:4], child[4] and [leaf[1:] for leaf in child[4]]) for child in named[4]] == [
            ("step", "note", "resolved", []),
            ("timer", "short", "pending", []),
            ("timer", "long", "pending", []),
            ("promise", "approval", "pending", []),
            ("execution", "sleeping_workflow", "pending", asleep),
            ("execution", "sleeping_workflow", "pending", asleep),
        ]
        assert [child.id for child in tree.root.children][4:] == ["wide~5", "beside"]
        assert tree.is_all
        step, sleep, *_ = tree.root.children
        assert step.settled_at_ms
        assert sleep.due_at_ms
        assert tree.root.created_at_ms
        await client.cancel("wide", force=True)
        tree = await client.tree("wide")
        assert {child.state for child in tree.root.children} == {"resolved", "canceled", "pending"}
        with pytest.raises(NotFound):
            await client.tree("nobody")
        await client.cancel("beside")
