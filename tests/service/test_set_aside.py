"""What cannot go on is put aside by name: code that changed, functions nobody knows, groups without workers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from durasleep import Context, Durasleep, WaitTimeout
from durasleep.client import store_of
from durasleep.store.keys import F
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, note, sleeping_workflow
from tests.service.workers import Effects, eventually, load_from_hash, serving, until

Workflow = Callable[..., Coroutine[Any, Any, Any]]


def _versions(effects: Effects) -> tuple[Workflow, Workflow, Workflow]:
    """Three deployments of one workflow: the first, one that forgot a step, and the first with a longer end."""

    def old() -> Workflow:
        async def order(ctx: Context) -> str:
            await ctx.run(note, effects.path, "charged")
            await ctx.promise(name="approval")
            return "shipped"

        return order

    def broken() -> Workflow:
        async def order(ctx: Context) -> str:
            await ctx.sleep(1, name="grace")
            await ctx.promise(name="approval")
            return "shipped"

        return order

    def fixed() -> Workflow:
        async def order(ctx: Context) -> str:
            await ctx.run(note, effects.path, "charged")
            await ctx.promise(name="approval")
            await ctx.run(note, effects.path, "shipped")
            return "shipped and noted"

        return order

    return old(), broken(), fixed()


async def test_code_that_left_its_journal_halts_with_a_diff_and_resumes_when_fixed(
    new_app: NewApp, effects: Effects, real_server: Server
) -> None:
    client: Any = real_server.sync_client()
    apps: list[Durasleep] = []
    for version in _versions(effects):
        app = new_app()
        app.workflow(version)
        apps.append(app)
    old, broken, fixed = apps
    async with serving(old, "old"):
        handle = await old.rpc("order-1", "order")
        await until(old, "order-1", "suspended")
    async with serving(broken, "broken"):
        await old.promises.resolve("order-1~2", "yes")
        described = await until(old, "order-1", "halted")
        reason = described.reason or ""
        for line in (
            "the code of order-1 and its journal disagree (- the journal has, + the code asks for):",
            "- 1      step        'note' (resolved)",
            "+ 1      timer       'grace'",
            "Deploy the code this execution began with and resume it, or cancel it.",
        ):
            assert line in reason
        assert client.zrange((await store_of(old)).keys().halted, 0, -1) == [b"order-1"]
        assert not await handle.done()
    async with serving(fixed, "fixed"):
        assert (await old.resume("order-1")).word == "resumed"
        assert await handle == "shipped and noted"
    assert effects.lines() == ["charged", "shipped"]
    assert client.zcard((await store_of(old)).keys().halted) == 0


async def test_a_workflow_only_itself_could_wake_is_halted_and_says_where_it_stands(app: Durasleep) -> None:
    async def stuck(ctx: Context) -> None:
        await ctx.sleep(0)
        import asyncio

        await asyncio.Event().wait()

    app.workflow(stuck)
    async with serving(app):
        await app.rpc("stuck", stuck)
        reason = (await until(app, "stuck", "halted")).reason or ""
        assert "only itself could produce" in reason
        assert "test_set_aside.py" in reason
        assert (await app.cancel("stuck")).word == "canceled while halted"


async def test_an_unknown_function_waits_for_a_newer_worker(new_app: NewApp, app: Durasleep) -> None:
    newer = new_app()

    async def brand_new(ctx: Context, number: int) -> int:
        return number + 1

    newer.workflow(brand_new)
    handle = await app.rpc("new-1", "brand_new", 1)
    async with serving(app, "older"):
        described = await until(app, "new-1", "delayed")
        assert described.reason == "no worker here knows the function 'brand_new'"
        assert [one.id for one in described.waiting_on] == ["new-1~retry"]
        assert await (await app.rpc("other", double, 2)) == 4
        async with serving(newer, "newer"):
            assert await handle == 2


async def test_a_group_without_workers_keeps_what_it_was_given(app: Durasleep, new_app: NewApp) -> None:
    handle = await app.rpc("early", sleeping_workflow, 0, target="poll://any@nobody-yet")
    described = await app.describe("early")
    assert (described.status, described.group, described.worker) == ("queued", "nobody-yet", None)
    assert await app.workers("nobody-yet") == []
    with pytest.raises(WaitTimeout, match="early"):
        await handle.result(timeout=0.1)
    async with serving(new_app(group="nobody-yet"), "late"):
        assert await app.workers("nobody-yet") == ["late"]
        assert await handle == "Slept for 0 seconds"


async def test_halt_and_resume_by_hand(app: Durasleep) -> None:
    """Timers go on meanwhile; what they brought is there after the resume."""
    async with serving(app):
        handle = await app.rpc("sleeper", sleeping_workflow, 0.3)
        await until(app, "sleeper", "suspended")
        assert (await app.halt("sleeper", "let me look")).word == "halted"
        described = await app.describe("sleeper")
        assert (described.status, described.reason) == ("halted", "let me look")
        assert await app.get("sleeper~1").result(timeout=30) is None
        assert (await app.describe("sleeper")).status == "halted"
        assert (await app.resume("sleeper")).word == "resumed"
        assert await handle == "Slept for 0.3 seconds"


async def test_a_journal_over_its_limit_is_halted(app: Durasleep, new_app: NewApp) -> None:
    from durasleep import Settings

    small = new_app(settings=Settings(journal_entries_max=50))

    async def endless(ctx: Context) -> None:
        while True:
            await ctx.run(double, 1)

    small.workflow(endless)
    async with serving(small):
        await small.rpc("endless", endless)
        reason = (await until(app, "endless", "halted")).reason or ""
        assert "51 journal entries of at most 50" in reason
        await app.cancel("endless")


async def test_an_unknown_function_is_offered_again_after_1_2_4_seconds_however_old_the_execution_is(
    app: Durasleep, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Not after as long again as it has slept, or its start was delayed: a newer worker may come any time."""
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keys()
    await app.rpc("old", "brand_new")
    client.hset(keys.promise("old"), F["created"], "1000")
    load_from_hash(client, keys, "old")
    async with serving(app):
        for seconds in (1, 2, 4):
            await eventually(lambda after=f"next try in {seconds} s": after in caplog.text, "it to be deferred")
            await until(app, "old", "delayed")
            await app.wake("old")
