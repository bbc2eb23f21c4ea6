"""Debug mode: calls that do not replay are logged with their position, and two runs over one journal are compared."""

from __future__ import annotations

import linecache
import os
import random
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from durasleep.runtime.context import Context
from durasleep.runtime.definition import Registry
from durasleep.runtime.outcome import Halted
from tests.unit.runtime_world import DebugWorld, WorkflowFn, World, unwrap


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in caplog.records if "a workflow calls" in (text := record.getMessage())]


def reason_of(fn: WorkflowFn) -> str:
    world = DebugWorld(fn)
    world.activate()
    outcome = world.halts[0].outcome
    assert isinstance(outcome, Halted)
    return outcome.reason


@dataclass
class Named:
    """Its ``__init__`` is code without a file, made by ``dataclass``."""

    id: uuid.UUID = field(default_factory=uuid.uuid4)


@pytest.mark.parametrize(
    ("call", "name", "instead"),
    [
        (time.time, "time.time()", "ctx.now()"),
        (lambda: datetime.now(UTC), "datetime.now()", "ctx.now()"),
        (lambda: date.today(), "date.today()", "ctx.now()"),  # noqa: DTZ011, PLW0108 - what is looked out for
        (random.random, "random.random()", "ctx.random()"),
        (lambda: random.choice([1, 2]), "random.choice()", "ctx.random()"),
        (lambda: random.shuffle([1, 2]), "random.shuffle()", "ctx.random()"),
        (uuid.uuid4, "uuid.uuid4()", "ctx.uuid()"),
        (lambda: os.urandom(4), "os.urandom()", "ctx.random()"),
        (lambda: secrets.token_hex(4), "secrets.token_hex()", "ctx.random()"),
        pytest.param(
            *(lambda: time.sleep(0), "time.sleep()", "await ctx.sleep(...)"),
            marks=pytest.mark.skipif(sys.platform == "emscripten", reason="WebAssembly has a time.sleep of its own"),
        ),
        (lambda: Path(__file__).open().close(), "Path.open()", "await ctx.run(...)"),
        (lambda: open(__file__).close(), "open()", "await ctx.run(...)"),  # noqa: PTH123 - likewise
        (lambda: Path(__file__).read_bytes(), "Path.read_bytes()", "await ctx.run(...)"),
        (lambda: subprocess.run(["true"], check=True), "subprocess.run()", "await ctx.run(...)"),
        (lambda: Named(), "uuid.uuid4()", "ctx.uuid()"),  # noqa: PLW0108 - the call is in a method made for it
        (lambda: linecache.getline(__file__, 1), "", ""),
    ],
)
def test_what_does_not_replay_is_named_once_with_what_to_use(
    call: Callable[[], Any], name: str, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def calling(ctx: Context) -> str:
        call()
        return "done"

    for _ in range(2):
        DebugWorld(calling).play()
    warnings = warned(caplog)
    if not name:  # calls inside a library are not looked at
        assert warnings == []
        return
    [warning] = warnings
    assert Path(__file__).name in warning
    assert name in warning
    assert instead in warning


def pack(parcels: int) -> str:
    return f"{parcels} parcels"


def test_a_task_that_is_called_as_plain_python_is_named(caplog: pytest.LogCaptureFixture) -> None:
    Registry().task(pack)

    async def calling(ctx: Context) -> str:
        return f"{pack(2)}, {await ctx.run(pack, 2)}"

    DebugWorld(calling).play()
    [warning] = warned(caplog)
    assert "a workflow calls pack(), which every replay does again: use a step, await ctx.run(...)" in warning


def test_a_generator_of_its_own_and_the_context_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def choosing(ctx: Context) -> list[Any]:
        return [random.Random(7).randint(1, 6), ctx.now().isoformat(), ctx.random(), str(ctx.uuid())]

    world = DebugWorld(choosing)
    world.play()
    assert warned(caplog) == []
    assert world.checked.outcome == world.progress.outcome if world.progress else False


def test_without_it_nothing_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    async def calling(ctx: Context) -> str:
        return str(uuid.uuid1())[:0]

    World(calling).play()
    assert warned(caplog) == []


def test_another_profiler_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    def mine(*_: Any) -> None: ...

    async def calling(ctx: Context) -> str:
        uuid.uuid4()
        return "watched" if sys.getprofile() is mine else "taken away"

    sys.setprofile(mine)
    try:
        assert unwrap(DebugWorld(calling).play()) == "watched"
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    assert warned(caplog) == []


class Restless:
    """Another number at each call, as from a clock or a random generator."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def test_another_duration_argument_name_result_or_way_halts_with_both_runs() -> None:
    number = Restless()

    async def sleeping(ctx: Context) -> None:
        await ctx.sleep(number())

    async def passing(ctx: Context) -> None:
        await ctx.run(abs, number())

    async def naming(ctx: Context) -> None:
        await ctx.promise(name=f"p{number()}")

    async def answering(ctx: Context) -> int:
        return number()

    async def failing(ctx: Context) -> None:
        raise ValueError(number())

    async def turning(ctx: Context) -> None:
        if number() % 2:
            await ctx.sleep(1)
        await ctx.promise()

    for fn in (sleeping, passing, naming, answering, failing, turning):
        reason = reason_of(fn)
        assert "not deterministic" in reason, fn
        signs = [line[2] for line in reason.splitlines() if line.startswith("  ")]
        assert signs == ["-", "+"], reason


def test_what_agrees_goes_on_as_it_was() -> None:
    async def ordering(ctx: Context, count: int) -> list[Any]:
        results: list[Any] = []
        for index in range(count):
            results.append(await ctx.run(abs, -index))
            await ctx.sleep(1)
            winner = await ctx.race(ctx.promise(timeout=3), ctx.sleep(2))
            results.append([winner.index, ctx.patched("change"), ctx.now().isoformat()])
        return results

    for keep in (True, False):
        world = DebugWorld(ordering, 4, keep=keep)
        plain = World(ordering, 4, keep=keep)
        assert unwrap(world.play()) == unwrap(plain.play())
        assert world.shape() == plain.shape()
        assert world.checked is world.progress


def test_arguments_that_cannot_be_written_are_not_compared() -> None:
    def done(_: object) -> str:
        return "done"

    async def passing(ctx: Context) -> str:
        return await ctx.run(done, object())

    world = DebugWorld(passing)
    assert unwrap(world.play()) == "done"
    assert world.checked is world.progress
