# Written by scripts/generate_sync.py from tests/client/test_promises.py: change that one.
"""Promises without an execution: made, settled and read by a client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from durasleep import Canceled, Disposition, NotFound, TimedOut, UsageError
from tests.client.functions import Serving
from tests.client.sync_side import Client, NewClient, until
from tests.service.functions import waiting


def test_a_promise_is_settled_once_and_says_how(client: Client) -> None:
    for id in ("resolved", "rejected", "canceled"):
        assert client.promises.create(id).disposition is Disposition.CREATED
    assert client.promises.create("resolved").disposition is Disposition.ATTACHED
    assert client.promises.resolve("resolved", [1, "two"])
    assert not client.promises.reject("resolved", "too late")
    assert client.promises.reject("rejected", LookupError("not here"))
    assert not client.promises.resolve("rejected", 1)
    assert client.promises.cancel("canceled")
    assert client.get("resolved").result() == [1, "two"]
    with pytest.raises(LookupError, match="not here"):
        client.get("rejected").result()
    with pytest.raises(Canceled):
        client.get("canceled").result()
    assert client.promises.create("resolved").disposition is Disposition.FINISHED
    assert client.promises.get("resolved").value == [1, "two"]
    with pytest.raises(NotFound):
        client.promises.get("nobody")
    with pytest.raises(NotFound):
        client.promises.resolve("nobody", 1)


def test_to_settle_a_promise_alike_again_is_no_other_outcome(
    client: Client, new_client: NewClient, serving: Serving
) -> None:
    with serving():
        handle = client.rpc("a", waiting)
        until(client, "a", "suspended")
        client.promises.create("p")
        for id in ("a~1", "p"):
            for one in (client, client, new_client()):
                assert one.promises.resolve(id, {"cents": 5})
            assert not client.promises.resolve(id, {"cents": 6})
            assert not client.promises.reject(id, "no")
            assert not client.promises.cancel(id)
            assert client.describe(id).value == {"cents": 5}
        assert handle.result(30) == {"cents": 5}


def test_a_timeout_ends_a_promise_and_resolves_a_timer(client: Client, serving: Serving) -> None:
    with serving():
        promise = client.promises.create("promise", timeout=0.1)
        timer = client.promises.create("timer", timeout=0.1, timer=True)
        at = client.promises.create("at", timeout=datetime.now(UTC) + timedelta(seconds=0.1), timer=True)
        with pytest.raises(TimedOut):
            promise.result(30)
        assert timer.result(30) is None
        assert at.result(30) is None
    with pytest.raises(UsageError, match="timer 'odd' needs a timeout"):
        client.promises.create("odd", timer=True)
