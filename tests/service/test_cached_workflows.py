"""Workflows that stay in memory between two wake-ups: this only saves time, whoever else runs the execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from durasleep import Context, Durasleep
from durasleep.model import PromiseId
from durasleep.runtime.recording import check
from durasleep.settings import DEFAULTS, Settings
from durasleep.worker.execution.execution_log import ExecutionLog
from durasleep.worker.execution.workflow_cache import ENTRY_BYTES, WorkflowCache
from tests.service.fixtures import NewApp
from tests.service.workers import eventually, serving

ROUNDS = 60
SETTINGS = replace(DEFAULTS, always_suspend=False)  # with it, no workflow is ever kept


class Body:
    """A loop that counts how often its code began, and which worker ran each of its steps."""

    def __init__(self, app: Durasleep, worker: str, taken: list[tuple[int, str]]) -> None:
        self.begun = 0
        self.ended = 0

        async def take(number: int) -> int:
            taken.append((number, worker))
            return number

        async def looping(ctx: Context, rounds: int) -> int:
            self.begun += 1
            total = 0
            try:
                for number in range(rounds):
                    await ctx.sleep(0.001)
                    total += await ctx.run(take, number)
            finally:
                self.ended += 1
            return total

        self.looping = app.workflow(looping)


async def test_a_loop_that_is_kept_is_not_replayed_at_each_wake_up(new_app: NewApp) -> None:
    app = new_app(settings=SETTINGS)
    taken: list[tuple[int, str]] = []
    body = Body(app, "w", taken)
    async with serving(app):
        assert await (await app.rpc("loop", body.looping, ROUNDS)).result(timeout=30) == sum(range(ROUNDS))
        assert body.begun <= SETTINGS.kept_entries_min < ROUNDS
        assert [number for number, _ in taken] == list(range(ROUNDS))
        verdict = check(await app.export("loop"), app.registry, app.codec, app.settings)
        assert verdict.ok, verdict.text
    assert body.ended >= body.begun  # the others ended when they were evicted


async def test_what_another_worker_did_meanwhile_is_not_missed(new_app: NewApp) -> None:
    """Two workers take turns at random; each has an older state of the same executions in memory."""
    apps = [new_app(settings=replace(SETTINGS, kept_entries_min=1)) for _ in range(2)]
    taken: list[tuple[int, str]] = []
    bodies = [Body(app, name, taken) for app, name in zip(apps, "ab", strict=True)]
    async with serving(apps[0], name="a"), serving(apps[1], name="b"):
        handles = [await apps[0].rpc(f"loop-{n}", bodies[0].looping, ROUNDS) for n in range(4)]
        for handle in handles:
            assert await handle.result(timeout=60) == sum(range(ROUNDS))
    assert sorted(number for number, _ in taken) == sorted(list(range(ROUNDS)) * 4)
    assert {worker for _, worker in taken} == {"a", "b"}


async def test_a_cancel_reaches_what_is_kept(new_app: NewApp) -> None:
    app = new_app(settings=replace(SETTINGS, kept_entries_min=1))
    heard: list[str] = []

    @app.workflow
    async def patient(ctx: Context) -> str:
        await ctx.sleep(0.001)
        try:
            await ctx.sleep(3600)
        finally:
            heard.append("canceled" if not ctx.evicting else "put away")
        return "woken"

    async with serving(app) as worker:
        handle = await app.rpc("c", patient)

        async def sleeps_long() -> bool:
            return [one.id for one in (await app.describe("c")).waiting_on] == ["c~2"] and not worker.running

        await eventually(sleeps_long, "the second sleep")
        await handle.cancel()
        await eventually(handle.done, "the end")
    assert heard[-1] == "canceled"


class Suspended:
    """The part of an activation that the cache uses."""

    def __init__(self, size: int, payload_bytes: int = 0) -> None:
        self.size = size
        self.payload_bytes = payload_bytes


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (replace(SETTINGS, kept_max=3), ["2", "3", "4"]),
        (replace(SETTINGS, kept_bytes_max=2 * 100 * ENTRY_BYTES), ["3", "4"]),
        (replace(SETTINGS, kept_entries_min=101), []),
        (replace(SETTINGS, always_suspend=True), []),
    ],
    ids=["number", "bytes", "short", "always suspended"],
)
def test_what_is_kept_is_bounded_and_the_oldest_goes_first(settings: Settings, kept: list[str]) -> None:
    closed: list[Suspended] = []
    workflows = WorkflowCache(settings, closed.append)  # type: ignore[arg-type]
    all_of_them = [Suspended(100) for _ in range(5)]
    put: Callable[..., bool] = workflows.put
    stayed = [
        put(PromiseId(str(n)), one, ExecutionLog(str(n), ()), epoch=1, incarnation=7)
        for n, one in enumerate(all_of_them)
    ]
    assert all(stayed) == bool(kept)
    found = [str(n) for n in range(5) if workflows.take(PromiseId(str(n)), 2)]
    assert found == kept
    assert len(closed) == (5 - len(kept) if any(stayed) else 0)


def test_one_that_somebody_else_has_had_since_is_closed() -> None:
    closed: list[Suspended] = []
    workflows = WorkflowCache(SETTINGS, closed.append)  # type: ignore[arg-type]
    put: Callable[..., bool] = workflows.put
    put(PromiseId("a"), Suspended(100), ExecutionLog("a", ()), epoch=1, incarnation=7)
    assert workflows.take(PromiseId("a"), 3) is None
    assert len(closed) == 1
    put(PromiseId("a"), Suspended(100), ExecutionLog("a", ()), epoch=4, incarnation=7)
    workflows.drop_old(float("inf"))
    assert workflows.take(PromiseId("a"), 5) is None
    assert len(closed) == 2
