"""Executions that cannot go on are halted, or wait: changed code, unknown functions, groups without workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

import pytest

from durasleep import Context, Durasleep, Retry, WaitTimeout
from durasleep.client.client import store_of
from durasleep.errors import UsageError
from durasleep.protocol.keys import F
from harness.servers import Server
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


@pytest.mark.usefixtures("in_one_partition")
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
        assert client.zrange((await store_of(old)).keyspaces[-1].halted, 0, -1) == [b"order-1"]
        assert not await handle.done()
    async with serving(fixed, "fixed"):
        assert (await old.resume("order-1")).word == "resumed"
        assert await handle == "shipped and noted"
    assert effects.lines() == ["charged", "shipped"]
    assert client.zcard((await store_of(old)).keyspaces[-1].halted) == 0


async def test_what_no_longer_fits_its_code_halts_and_resumes_once_it_is_mended(new_app: NewApp) -> None:
    attempts: list[str] = []

    def take(order: str) -> str:
        attempts.append(order)
        raise ConnectionError("not yet")

    def take_with(order: str, cents: int) -> str:
        return f"{order} for {cents}"

    def take_again(order: str) -> str:
        return f"{order} taken"

    async def ship(ctx: Context, order: str) -> str:
        await ctx.promise(name="approval")
        return f"{order} shipped"

    async def ship_with(ctx: Context, order: str, cents: int) -> str:
        return f"{order} for {cents}"

    retry = Retry(attempts=9, delay=1)
    old, changed, repaired = new_app(), new_app(), new_app()
    deployed: list[tuple[Durasleep, Callable[..., str], Workflow]] = [
        (old, take, ship),
        (changed, take_with, ship_with),
        (repaired, take_again, ship),
    ]
    for app, task, workflow in deployed:
        app.task(name="take", retry=retry)(task)
        app.workflow(name="ship")(workflow)
    async with serving(old, "old"):
        handles = [await old.rpc(name, name, "tea") for name in ("take", "ship")]
        await until(old, "take", "delayed")
        await until(old, "ship", "suspended")
    async with serving(changed, "changed"):
        await old.promises.resolve("ship~1")
        for name in ("take", "ship"):
            reason = (await until(old, name, "halted")).reason or ""
            assert "- 1 argument\n" in reason
            assert "missing a required argument: 'cents'" in reason
            assert "resume it" in reason
        never = await new_app().rpc("never", "ship", "tea")  # by an application that does not know the function
        with pytest.raises(UsageError, match="'cents'"):  # nothing of it has begun: it is its caller's mistake
            await never.result(timeout=30)
    async with serving(repaired, "repaired"):
        for name in ("take", "ship"):
            assert (await old.resume(name)).word == "resumed"
        assert [await handle.result(timeout=30) for handle in handles] == ["tea taken", "tea shipped"]


async def test_a_step_or_task_is_given_up_for_what_it_raised_and_not_for_the_copy(app: Durasleep) -> None:
    calls: list[str] = []

    class OfHere(LookupError):
        """No copy of it can be made: nobody finds it by its name."""

    def raising(kind: str) -> None:
        calls.append(kind)
        raise {"own": OfHere("own"), "exit": asyncio.CancelledError(), "url": URLError(OSError(2, "gone"))}[kind]

    async def trying(ctx: Context, kind: str) -> str:
        try:
            await ctx.run(raising, kind, retry=retry)
        except Exception as error:  # noqa: BLE001 - a copy, of whatever class
            return type(error).__name__
        return ""

    retry = Retry(attempts=5, delay=0, give_up_on=(LookupError, asyncio.CancelledError, URLError))
    app.workflow(trying)
    app.task(name="task", retry=retry)(raising)
    async with serving(app):
        for kind, name in (("own", "RemoteError"), ("exit", "RuntimeError"), ("url", "URLError")):
            calls.clear()
            assert await (await app.rpc(f"trying-{kind}", trying, kind)).result(timeout=30) == name
            assert calls == [kind]
        with pytest.raises(URLError, match="gone") as raised:
            await (await app.rpc("task", "task", "url")).result(timeout=30)
        assert (raised.value.reason.errno, calls) == (2, ["url", "url"])  # type: ignore[union-attr]


async def test_the_member_of_a_union_that_was_meant_is_what_arrives(app: Durasleep) -> None:
    async def turn(ctx: Context, way: Left | Right) -> Left | Right:
        assert isinstance(way, Right)
        return await ctx.run(turned, way)

    app.workflow(turn)
    async with serving(app):
        assert await (await app.rpc("turn", turn, Right(3))).result(timeout=30) == Right(4)


@dataclass(frozen=True)
class Left:
    steps: int


@dataclass(frozen=True)
class Right:
    steps: int


def turned(way: Left | Right) -> Left | Right:
    return type(way)(way.steps + 1)


async def test_a_workflow_only_itself_could_wake_is_halted_and_says_where_it_stands(app: Durasleep) -> None:
    async def stuck(ctx: Context) -> None:
        await ctx.sleep(0)
        await asyncio.Event().wait()

    app.workflow(stuck)
    async with serving(app):
        await app.rpc("stuck", stuck)
        reason = (await until(app, "stuck", "halted")).reason or ""
        assert "only its own code or a thread could set" in reason
        assert "test_halted_executions.py" in reason
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
    """Timers go on meanwhile; their results are there after the resume."""
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


@pytest.mark.usefixtures("in_one_partition")
async def test_an_unknown_function_is_offered_again_after_1_2_4_seconds_however_old_the_execution_is(
    app: Durasleep, real_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The delay does not grow with the time that it has slept or waited to start: a newer worker may come any time."""
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.rpc("old", "brand_new")
    client.hset(keys.promise("old"), F["created"], "1000")
    load_from_hash(client, keys, "old")
    async with serving(app):
        for seconds in (1, 2, 4):
            await eventually(lambda after=f"next try in {seconds} s": after in caplog.text, "it to be deferred")
            await until(app, "old", "delayed")
            await app.wake("old")
