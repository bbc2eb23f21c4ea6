"""What a task or step keeps for its next attempt: after a failure, after a kill, and nothing after its end."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from durasleep import Context, Durasleep, Retry, UsageError, checkpoint, current
from durasleep.client.client import store_of
from durasleep.errors import PayloadTooLarge
from durasleep.model import PromiseId
from durasleep.protocol import journal
from durasleep.worker.execution import checkpoints, sending
from durasleep.worker.execution.commits import Commits
from harness.servers import Server
from tests.service.functions import keeping
from tests.service.workers import Effects, Workers, eventually, serving, until

OFTEN = Retry(attempts=5, delay=0.001, jitter=0)


async def kept(app: Durasleep, id: str) -> dict[str, Any]:
    """What the steps of an execution have kept, by their numbers."""
    store = await store_of(app)
    loaded = await store.run(journal.load(store.keys(id), PromiseId(id)))
    assert loaded is not None
    return {number: app.codec.decode(payload) for number, payload in loaded.checkpoints.items()}


async def test_the_next_attempt_finds_what_the_last_one_has_kept(app: Durasleep) -> None:
    seen: dict[str, list[Any]] = {"in_loop": [], "in_thread": [], "as_task": []}

    def go(name: str) -> int:
        so_far = seen[name]
        so_far.append(current().checkpoint)
        for number in range(3):
            checkpoint({"attempt": len(so_far), "number": number})
            assert current().checkpoint == {"attempt": len(so_far), "number": number}
        if len(so_far) < 3:
            raise ConnectionError("not yet")
        return len(so_far)

    async def in_loop() -> int:
        await asyncio.to_thread(current)
        return go("in_loop")

    def in_thread() -> int:
        return go("in_thread")

    @app.task(retry=OFTEN)
    async def as_task() -> int:
        return go("as_task")

    @app.workflow
    async def steps(ctx: Context) -> list[int]:
        with pytest.raises(UsageError, match="only in tasks and steps"):
            checkpoint(1)
        return list(await asyncio.gather(ctx.run(in_loop, retry=OFTEN), ctx.run(in_thread, retry=OFTEN, timeout=60)))

    async with serving(app):
        assert await (await app.rpc("steps", steps)).result(20) == [3, 3]
        assert await (await app.rpc("task", as_task)).result(20) == 3
    expected = [None, {"attempt": 1, "number": 2}, {"attempt": 2, "number": 2}]
    assert seen == dict.fromkeys(seen, expected)
    for id in ("steps", "task"):
        assert await kept(app, id) == {}


async def test_another_worker_finds_it_after_a_long_wait(app: Durasleep) -> None:
    seen: list[Any] = []

    async def step() -> str:
        seen.append(current().checkpoint)
        checkpoint(len(seen))
        if len(seen) == 1:
            raise ConnectionError("not yet")
        return "done"

    @app.workflow
    async def steps(ctx: Context) -> str:
        return await ctx.run(step, retry=Retry(attempts=2, delay=3600, jitter=0))

    @app.task(retry=Retry(attempts=2, delay=3600, jitter=0))
    async def task() -> str:
        return await step()

    for name, function, number in (("steps", steps, "1"), ("task", task, "1")):
        seen.clear()
        async with serving(app, "w1"):
            handle = await app.rpc(name, function)
            await until(app, name, "suspended" if name == "steps" else "delayed")
        assert await kept(app, name) == {number: 1}
        async with serving(app, "w2"):
            await app.wake(name)
            assert await handle.result(20) == "done"
        assert seen == [None, 1]
        assert await kept(app, name) == {}


async def test_a_workflow_that_ends_without_its_step_keeps_nothing(app: Durasleep) -> None:
    stands = asyncio.Event()

    async def slow() -> None:
        checkpoint("half")
        stands.set()
        await asyncio.Event().wait()

    @app.workflow
    async def impatient(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.5):
                await ctx.run(slow)
        except TimeoutError:
            return "gave up"
        return "done"

    async with serving(app):
        assert await (await app.rpc("a", impatient)).result(20) == "gave up"
        assert stands.is_set()
    assert await kept(app, "a") == {}


async def test_an_execution_sends_at_most_one_write_a_second_and_the_latest_data(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[float, list[Any]]] = []
    note = Commits.note

    def counting(self: Commits, lease: Any, noted: Any) -> Any:
        sent.append((asyncio.get_running_loop().time(), [app.codec.decode(payload) for *_, payload in noted]))
        return note(self, lease, noted)

    monkeypatch.setattr(Commits, "note", counting)
    monkeypatch.setattr(sending, "EVERY_S", 0.2)

    async def step(first: int) -> None:
        number = first
        while len(sent) < 4:
            checkpoint(number)
            number += 1
            await asyncio.sleep(0)

    @app.workflow
    async def steps(ctx: Context) -> None:
        await asyncio.gather(ctx.run(step, 0), ctx.run(step, 1000))

    async with serving(app):
        await (await app.rpc("a", steps)).result(20)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(sent)]
    assert min(gaps) >= 0.19
    numbers = [max(payloads) for _, payloads in sent]
    assert numbers == sorted(set(numbers))
    assert all(len(payloads) <= 2 for _, payloads in sent)


async def test_what_cannot_be_kept_is_refused_in_a_sentence(app: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "STEPS_MAX", 1)
    problems: list[str] = []

    async def step(data: Any) -> None:
        try:
            checkpoint(data)
        except UsageError as error:
            problems.append(str(error))

    @app.workflow
    async def steps(ctx: Context) -> None:
        await ctx.run(step, "x" * 40_000)
        await asyncio.gather(ctx.run(blocked), ctx.run(step, "second"))

    gate = asyncio.Event()

    async def blocked() -> None:
        checkpoint("first")
        await gate.wait()

    async with serving(app):
        handle = await app.rpc("a", steps)
        await eventually(lambda: len(problems) == 2, "both to be refused")
        gate.set()
        await handle.result(20)
    assert "bytes are over the cap of 32768" in problems[0]
    assert "1 steps of a have kept checkpoints" in problems[1]
    assert issubclass(PayloadTooLarge, UsageError)
    with pytest.raises(UsageError, match="only in tasks and steps"):
        checkpoint(1)


async def test_it_outlives_a_killed_worker(app: Durasleep, workers: Workers, effects: Effects) -> None:
    [first] = await workers.start("w1")
    handle = await app.rpc("a", keeping, effects.path)
    await effects.standing("gate")

    async def is_kept() -> bool:
        return await kept(app, "a") == {"1": 7}

    await eventually(is_kept, "the checkpoint")
    await first.kill()
    effects.open("gate")
    await workers.start("w2")
    assert await handle.result(30) == 7
    assert await kept(app, "a") == {}


async def test_what_nobody_uses_writes_nothing(app: Durasleep, real_server: Server) -> None:
    calls: list[Any] = []
    async with serving(app):
        await (await app.rpc("a", counted_nothing(app, calls))).result(20)
    store = await store_of(app)
    names = await real_server.client().hkeys(store.keys("a").promise("a"))
    assert b"q1" not in names
    assert calls == [None]


def counted_nothing(app: Durasleep, calls: list[Any]) -> Any:
    """A workflow whose step only asks."""

    async def step() -> None:
        calls.append(current().checkpoint)

    @app.workflow
    async def asks(ctx: Context) -> None:
        await ctx.run(step)

    return asks
