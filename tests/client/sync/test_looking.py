# Written by scripts/generate_sync.py from tests/client/test_looking.py: change that one.
"""What a namespace does, what has ended, and what an execution has called."""

from __future__ import annotations

import pytest

from durasleep import NotFound, UsageError
from tests.client.functions import Serving, wide
from tests.client.sync_side import Client, until
from tests.service.functions import double, failing
from tests.service.workers import Effects


def test_it_is_seen_who_works_and_what_waits(client: Client, serving: Serving, effects: Effects) -> None:
    with serving():
        client.rpc("wide", wide, effects.path)
        for id in ("wide", "wide~5", "beside"):
            until(client, id, "suspended")
        client.rpc("d", double, 2).result(20)
        bad = client.rpc("bad", failing, "no")
        with pytest.raises(ValueError, match="no"):
            bad.result(20)
        client.rpc("lonely", double, 1, target="gpu")
        seen = client.overview()
        assert [(group.name, group.queued, len(group.workers)) for group in seen.groups] == [
            ("gpu", 1, 0),
            ("workers", 0, 1),
        ]
        assert seen.sleepers == 4
        stats = client.stats("10m")
        assert {one.name: (one.ended, one.failed) for one in stats.functions} == {"double": (1, 0), "failing": (1, 1)}
        assert [(one.id, one.error) for one in client.last_failures()] == [("bad", "ValueError: no")]
        for id in ("wide", "beside", "lonely"):
            client.cancel(id, force=True)


def test_the_history_of_an_execution_has_its_calls_in_the_order_of_the_code(
    client: Client, serving: Serving, effects: Effects
) -> None:
    with serving():
        client.rpc("wide", wide, effects.path)
        for id in ("wide", "wide~5", "beside"):
            until(client, id, "suspended")
        history = client.history("wide", values=True)
        assert [(call.number, call.kind, call.name, call.state) for call in history.calls] == [
            ("1", "step", "note", "resolved"),
            ("2", "timer", "short", "pending"),
            ("3", "timer", "long", "pending"),
            ("4", "promise", "approval", "pending"),
            ("5", "child", "sleeping_workflow", "pending"),
            ("6", "child", "sleeping_workflow", "pending"),
        ]
        step, short, *_, other = history.calls
        assert (step.attempts, step.is_exact, step.error, step.due_at_ms) == (1, False, None, None)
        assert step.took_ms is not None
        assert (short.took_ms, short.late_ms) == (None, 0)
        assert short.due_at_ms is not None
        assert abs(short.due_at_ms - short.began_at_ms - 3_600_000) < 2_000
        assert other.id == "beside"
        last = client.history("wide", limit=2)
        assert ([call.number for call in last.calls], last.total) == (["5", "6"], 6)
        for id in ("wide", "beside"):
            client.cancel(id, force=True)
        ended = client.history("wide")
        assert {call.state for call in ended.calls} == {"resolved", "canceled"}
        with pytest.raises(NotFound):
            client.history("nobody")
        with pytest.raises(UsageError, match="limit 0"):
            client.history("wide", limit=0)
