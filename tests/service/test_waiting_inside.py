"""Tasks and steps that wait for results of others: each holds a slot of its worker meanwhile."""

from __future__ import annotations

import asyncio
import functools
import logging

import pytest

from durasleep import Context, Durasleep
from durasleep.errors import NotFound, Stuck
from durasleep.sync import Client
from harness.servers import Server
from tests.service.workers import eventually, serving


async def test_a_worker_full_of_calls_that_wait_says_who_waits_for_whom(
    app: Durasleep, caplog: pytest.LogCaptureFixture
) -> None:
    all_are_in = asyncio.Barrier(3)

    @app.task
    async def inner() -> str:
        return "done"

    @app.task
    async def outer(number: int) -> str:
        await all_are_in.wait()
        if number:
            return await (await app.rpc(f"in-{number}", inner))
        handles = [await app.rpc(f"in-{one}", inner) for one in (0, 10)]
        return "".join(await asyncio.gather(*handles))

    async def calling() -> str:
        await all_are_in.wait()
        return await (await app.rpc("in-2", inner))

    @app.workflow
    async def through_a_step(ctx: Context) -> str:
        return await ctx.run(calling)

    with caplog.at_level(logging.WARNING, "durasleep"):
        async with serving(app, concurrency=3):
            handles = [await app.rpc(f"out-{number}", outer, number) for number in (0, 1)]
            handles.append(await app.rpc("out-2", through_a_step))
            [line] = await eventually(lambda: [one for one in caplog.messages if "wait for results" in one], "the line")
            assert line.startswith("all 3 slots of this worker are held by tasks and steps that wait for results: ")
            for said in ("out-0 for in-0", "out-0 for in-10", "out-1 for in-1", "out-2~1 for in-2", "--concurrency"):
                assert said in line
            async with serving(app, "w2", concurrency=3):
                assert [await handle for handle in handles] == ["donedone", "done", "done"]


async def test_what_would_wait_for_itself_or_its_caller_is_told_so(app: Durasleep, real_server: Server) -> None:
    @app.task
    async def asking(id: str) -> str:
        return await app.get(id)

    @app.task
    def asking_in_a_thread(id: str) -> str:
        with Client(real_server.url, namespace=app.namespace) as client:
            return str(client.get(id).result())

    @app.workflow
    async def calling(ctx: Context, how: str) -> str:
        me = ctx.info.id
        if how == "a step":
            return await ctx.run(asking, me)
        if how == "a child":
            return await ctx.rpc(asking, me)
        if how == "a child in a thread":
            return await ctx.rpc(asking_in_a_thread, me)
        if how == "itself":
            return await ctx.rpc(calling, how, id=me)
        return await ctx.rpc(attaching, me)

    @app.workflow
    async def attaching(ctx: Context, id: str) -> str:
        return await ctx.rpc(calling, "its family", id=id)

    async with serving(app), asyncio.timeout(30):
        for how in ("a step", "a child", "a child in a thread", "itself", "its family"):
            id = how.replace(" ", "-")
            with pytest.raises(Stuck, match=f"would wait for {id}, and {id} waits for it"):
                await (await app.rpc(id, calling, how))
        with pytest.raises(Stuck, match="w-1 would wait for w-1,"):
            await (await app.rpc("w-1", asking, "w-1"))


async def test_what_was_called_may_wait_for_others_of_its_family(app: Durasleep) -> None:
    async def settled_by_another(id: str) -> str:
        return str(await app.get(id))

    @app.workflow
    async def family(ctx: Context) -> str:
        promise = ctx.promise()
        waiting = ctx.run(settled_by_another, promise.id)
        await ctx.run(app.promises.resolve, promise.id, "settled")
        return await waiting

    async with serving(app), asyncio.timeout(30):
        assert await (await app.rpc("f-1", family)) == "settled"


async def _shows(app: Durasleep, id: str, reason: str) -> bool:
    try:
        return (await app.describe(id)).reason == reason
    except NotFound:
        return False


async def test_executions_that_wait_for_one_another_in_a_circle_are_shown(app: Durasleep) -> None:
    @app.workflow
    async def waiting_for(ctx: Context, *ids: str) -> str:
        return await ctx.rpc(waiting_for, *ids[1:], *ids[:1], id=ids[0] or None)

    async with serving(app):
        await app.rpc("a", waiting_for, "b", "c", "a")
        await app.rpc("top", waiting_for, "", "x", "top")
        for id, circle in (
            ("a", "a -> b -> c -> a"),
            ("c", "c -> a -> b -> c"),
            ("x", "x -> top -> top~1 -> x"),
        ):
            await eventually(functools.partial(_shows, app, id, f"it waits in a circle: {circle}"), circle)
        for id in ("a", "b", "c", "top", "x"):
            await app.cancel(id, force=True)
