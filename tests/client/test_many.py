"""Many executions: started together, awaited together, and no result is missed."""

from __future__ import annotations

from typing import Any

import pytest

from durasleep import Disposition, NotFound, OtherFunction
from tests.client.async_side import Client, Handle, NewClient
from tests.client.functions import Serving
from tests.service.functions import double, failing, sleeping_workflow

MANY = 1_500  # more than one part


async def test_many_are_started_and_awaited_in_order(client: Client, serving: Serving, exchanges: list[int]) -> None:
    with serving():
        await (await client.rpc("warm", double, 1)).result(30)
        exchanges.clear()
        handles = await client.rpc_many(double, ((f"d-{n}", n) for n in range(MANY)))
        assert len(exchanges) < MANY / 10
        assert [handle.id for handle in handles] == [f"d-{n}" for n in range(MANY)]
        assert await client.gather(handles) == [2 * n for n in range(MANY)]
        assert len(exchanges) < MANY / 2
        again = await client.rpc_many(double, [("d-1", 7), ("new", 8)])
        assert [handle.disposition for handle in again] == [Disposition.FINISHED, Disposition.CREATED]
        assert await client.gather([*again, client.get("d-2", int)]) == [2, 16, 4]


async def test_what_has_ended_is_gathered_in_a_few_exchanges(
    client: Client, new_client: NewClient, exchanges: list[int]
) -> None:
    for n in range(100):
        await client.promises.create(f"p-{n}")
        await client.promises.resolve(f"p-{n}", n)
    other = new_client()
    await other.describe("p-0")
    exchanges.clear()
    assert await other.gather([other.get(f"p-{n}", int) for n in range(100)]) == list(range(100))
    assert len(exchanges) < 10


async def test_what_one_raises_is_raised_or_stands_in_its_place(client: Client, serving: Serving) -> None:
    with serving():
        handles: list[Handle[Any]] = [
            await client.rpc("good", double, 1),
            await client.rpc("bad", failing, "no such luck"),
        ]
        with pytest.raises(ValueError, match="no such luck"):
            await client.gather(handles)
        good, bad = await client.gather(handles, return_exceptions=True)
        assert good == 2
        assert isinstance(bad, ValueError)


async def test_one_that_is_refused_does_not_keep_those_beside_it_from_beginning(
    client: Client, serving: Serving
) -> None:
    await client.rpc("used", sleeping_workflow, 3600)
    with pytest.raises(OtherFunction, match="used"):
        await client.rpc_many(double, [("a", 1), ("used", 2), ("b", 3)])
    with serving():
        assert await client.gather([client.get("a"), client.get("b")]) == [2, 6]
        await client.cancel("used", force=True)


async def test_handles_of_another_client_are_gathered_by_that_client(client: Client, new_client: NewClient) -> None:
    other = new_client()
    await client.promises.create("ours")
    await client.promises.create("theirs")
    await client.promises.resolve("ours", 1)
    await client.promises.resolve("theirs", 2)
    handles = [client.get("ours"), other.get("theirs"), client.get("ours~1")]
    ours, theirs, missing = await client.gather(handles, return_exceptions=True)
    assert (ours, theirs, type(missing)) == (1, 2, NotFound)


async def test_what_is_not_there_is_told_one_by_one(client: Client) -> None:
    await client.promises.create("here")
    await client.promises.resolve("here", 1)
    handles = [client.get(id) for id in ("nobody", "here", "nobody else")]
    found = await client.gather(handles, return_exceptions=True)
    assert [type(one) for one in found] == [NotFound, int, NotFound]


async def test_one_id_may_be_gathered_several_times(client: Client, serving: Serving) -> None:
    with serving():
        handles = [await client.rpc("sleep", sleeping_workflow, 0.3) for _ in range(3)]
        assert await client.gather([*handles, *handles]) == ["Slept for 0.3 seconds"] * 6
