# Written by scripts/generate_sync.py from tests/client/test_searching.py: change that one.
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
from tests.client.functions import Serving, wide
from tests.client.sync_side import Client, eventually, until
from tests.service.functions import double, stand_at, waiting
from tests.service.workers import Effects


def ids(found: SearchPage) -> list[str]:
    return [one.id for one in found]


def test_each_execution_is_listed_once_with_where_it_is(
    client: Client, serving: Serving, effects: Effects, real_server: Server
) -> None:
    with serving():
        client.rpc("wide", wide, effects.path)
        client.rpc("approval", waiting)  # in no timer, no stream
        client.rpc("later", double, 1, delay=600)
        client.rpc("runs", stand_at, effects.path, "gate", timeout=900)
        client.rpc("stopped", waiting)
        client.rpc("over", double, 1)
        for id in ("wide", "wide~5", "beside", "approval", "stopped"):
            until(client, id, "suspended")
        client.halt("stopped", "a look")
        eventually(lambda: effects.count("gate"), "the gate to be reached")
        until(client, "over", "done")
        client.rpc("lonely", double, 1, target="gpu")

        found = client.search()
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

        assert ids(client.search(status="halted")) == ["stopped"]
        assert sorted(ids(client.search(status=["running", "queued"]))) == ["lonely", "runs"]
        assert ids(client.search(status="done")) == ["over"]
        assert ids(client.search(group="gpu")) == ["lonely"]
        assert sorted(ids(client.search(function="sleeping_workflow"))) == ["beside", "wide~5"]
        assert client.search(function="nobody") == []
        cut = client.search(limit=3)
        assert (len(cut), cut.is_all) == (3, False)
        with pytest.raises(UsageError, match="status 'asleep'"):
            client.search(status="asleep")
        with pytest.raises(UsageError, match="limit 0"):
            client.search(limit=0)
        effects.open("gate")
        assert client.get("runs").result(30) == "through gate"
    real_server.flush()


@pytest.mark.usefixtures("in_one_partition")
def test_pages_of_timers_miss_none_and_show_none_twice(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are due at the same instant, and pages end among them."""
    monkeypatch.setattr("durasleep.query.search.PAGE", 7)
    due = datetime.now(UTC) + timedelta(hours=1)
    names = [f"order-{number}" for number in range(60)]
    for number, name in enumerate(names):
        client.rpc(name, double, 1, delay=due + timedelta(seconds=number // 20))
    found = client.search(status="delayed")
    assert sorted(ids(found)) == sorted(names)
    dues = [one.due_at_ms or 0 for one in found]
    assert dues == sorted(dues)
    for name in names:
        client.cancel(name)
    assert client.search() == []
    assert sorted(ids(client.search(status="done"))) == sorted(names)


def test_any_number_is_halted_resumed_and_canceled_in_one_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durasleep.query.search.LOOKED_MAX", 100)
    names = [f"order-{number}" for number in range(400)]
    client.rpc_many(double, [(name, 1) for name in names])
    for act, status, word in (
        (client.halt, "queued", "halted"),
        (client.resume, "halted", "resumed"),
        (partial(client.cancel, force=True), "queued", "canceled"),
    ):
        done: list[str] = []
        for found in client.search_all(status=status, function="double"):
            for one in found:
                assert act(one.id).word == word
            done += ids(found)
        assert sorted(done) == sorted(names), act
    assert client.search() == []


def test_timers_are_shown_soonest_first_by_what_controls_them(
    client: Client, serving: Serving, effects: Effects, real_server: Server
) -> None:
    with serving():
        client.rpc("wide", wide, effects.path, timeout=9000)
        client.rpc("later", double, 1, delay=600)
        client.promises.create("bare", timeout=1200)
        client.promises.create("alarm", timeout=1800, timer=True)
        client.schedule("monthly", "0 0 1 * *", double, 1)
        for id in ("wide", "wide~5", "beside"):
            until(client, id, "suspended")
        shown = [(one.id, one.kind, one.name, one.func) for one in client.timers()]
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
    assert [one.id for one in client.timers(2)] == ["wide~5~1", "later"]
    real_server.flush()


def shape(node: Node) -> tuple[Any, ...]:
    return (node.id, node.kind, node.name, node.state, [shape(child) for child in node.children])


def test_a_tree_shows_what_an_execution_has_called(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        client.rpc("wide", wide, effects.path)
        for id in ("wide", "beside", "wide~5"):
            until(client, id, "suspended")
        tree = client.tree("wide")
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
        client.cancel("wide", force=True)
        tree = client.tree("wide")
        assert {child.state for child in tree.root.children} == {"resolved", "canceled", "pending"}
        with pytest.raises(NotFound):
            client.tree("nobody")
        client.cancel("beside")
