"""Promises without an execution: made, settled and read by a client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from durasleep import Canceled, Disposition, NotFound, TimedOut, UsageError
from tests.client.async_side import Client, NewClient, until
from tests.client.functions import Serving
from tests.service.functions import waiting


async def test_a_promise_is_settled_once_and_says_how(client: Client) -> None:
    for id in ("resolved", "rejected", "canceled"):
        assert (await client.promises.create(id)).disposition is Disposition.CREATED
    assert (await client.promises.create("resolved")).disposition is Disposition.ATTACHED
    assert await client.promises.resolve("resolved", [1, "two"])
    assert not await client.promises.reject("resolved", "too late")
    assert await client.promises.reject("rejected", LookupError("not here"))
    assert not await client.promises.resolve("rejected", 1)
    assert await client.promises.cancel("canceled")
    assert await client.get("resolved").result() == [1, "two"]
    with pytest.raises(LookupError, match="not here"):
        await client.get("rejected").result()
    with pytest.raises(Canceled):
        await client.get("canceled").result()
    assert (await client.promises.create("resolved")).disposition is Disposition.FINISHED
    assert (await client.promises.get("resolved")).value == [1, "two"]
    with pytest.raises(NotFound):
        await client.promises.get("nobody")
    with pytest.raises(NotFound):
        await client.promises.resolve("nobody", 1)


async def test_to_settle_a_promise_alike_again_is_no_other_outcome(
    client: Client, new_client: NewClient, serving: Serving
) -> None:
    with serving():
        handle = await client.rpc("a", waiting)
        await until(client, "a", "suspended")
        await client.promises.create("p")
        for id in ("a~1", "p"):
            for one in (client, client, new_client()):
                assert await one.promises.resolve(id, {"cents": 5})
            assert not await client.promises.resolve(id, {"cents": 6})
            assert not await client.promises.reject(id, "no")
            assert not await client.promises.cancel(id)
            assert (await client.describe(id)).value == {"cents": 5}
        assert await handle.result(30) == {"cents": 5}


async def test_a_timeout_ends_a_promise_and_resolves_a_timer(client: Client, serving: Serving) -> None:
    with serving():
        promise = await client.promises.create("promise", timeout=0.1)
        timer = await client.promises.create("timer", timeout=0.1, timer=True)
        at = await client.promises.create("at", timeout=datetime.now(UTC) + timedelta(seconds=0.1), timer=True)
        with pytest.raises(TimedOut):
            await promise.result(30)
        assert await timer.result(30) is None
        assert await at.result(30) is None
    with pytest.raises(UsageError, match="timer 'odd' needs a timeout"):
        await client.promises.create("odd", timer=True)
