"""The worker dies at every point of a run, just before and just after each write: it always ends in the same way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from durasleep import Durasleep, testing
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.protocol import sorted_sets
from durasleep.protocol.command import Call, Command, Plan
from durasleep.protocol.limits import list_limits, read_gate
from harness.servers import Server
from tests.crash_points import chosen
from tests.laws import crashing, crashing_limits
from tests.laws.crashing import ABROAD, PARTITIONS, PROGRAMS, TALKING, WRITES, Crash, effects, refused_abroad
from tests.laws.crashing_limits import LIMITED

pytestmark = pytest.mark.long


async def ending(env: testing.Env, program: Callable[..., Any], id: str) -> str:
    """How it ends; by then other partitions have heard of all that has ended."""
    end = await own_ending(env, program, id)
    await env.skip(seconds=10)
    return end


async def own_ending(env: testing.Env, program: Callable[..., Any], id: str) -> str:
    try:
        return f"{await env.run(program, id=id)}"
    except testing.Stalled:
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise
        return f"{type(error).__name__}: {error}".replace(id, "ID")


async def ending_with(crash: Crash, env: testing.Env, program: Callable[..., Any], id: str) -> str:
    """How it ends, with the crash if its point is reached."""
    running = asyncio.create_task(ending(env, program, id))
    dying = asyncio.create_task(crash.happened.wait())
    await asyncio.wait((running, dying), return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if running.done() and not crash.happened.is_set():
        return running.result()
    running.cancel()
    await asyncio.gather(running, dying, return_exceptions=True)
    await env.crash_worker()
    return await ending(env, program, id)


CASES = [
    *((crashing.app, program, end, 1) for program, end in PROGRAMS.items()),
    *((crashing_limits.app, program, end, 1) for program, end in LIMITED.items()),
    *((crashing.app, program, end, PARTITIONS) for program, end in ABROAD.items()),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("app", "program", "end", "partitions"), CASES, ids=[program.__name__ for _, program, _, _ in CASES]
)
async def test_wherever_the_worker_dies_a_workflow_ends_as_if_it_had_not(
    real_server: Server,
    share: Callable[[Sequence[int]], Sequence[int]],
    app: Durasleep,
    program: Callable[..., Any],
    end: str,
    partitions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crash = Crash()
    async with testing.env(app, redis=real_server.client(), debug=False, partitions=partitions) as env:
        crash.install(monkeypatch, next(iter(env._workers.values()))[0].name)  # pyright: ignore[reportPrivateUsage]
        if program in TALKING:
            assert await ending(env, program, "first") == end
        effects.clear()
        crash.arm(None)
        assert await ending_with(crash, env, program, "undisturbed") == end
        plan, usual = crash.passed[:], Counter(effects)
        if partitions > 1:
            crossed = {*WRITES.values()} - ({WRITES["told"]} if program is refused_abroad else {*()})
            assert {f"{when} {what}" for when in ("before", "after") for what in crossed} <= {*plan}
        points, died = share(chosen(len(plan))), 0
        for point in points:
            id = f"dies-at-{point}"
            effects.clear()
            crash.arm(point)
            assert await ending_with(crash, env, program, id) == end, f"{id}, {plan[point]}"
            died += crash.happened.is_set()
            assert effects.keys() == usual.keys(), id
            for label, times in effects.items():
                assert usual[label] <= times <= usual[label] + 1, f"{id}: {label} ran {times} times"
            store = await store_of(env.app)
            timers = await store.ask([sorted_sets.list_members(keys.timers) for keys in store.keyspaces])
            left = [member for members in timers for member, _ in members if not member.endswith("~mail")]
            assert not left, id
            assert (await env.app.fsck()).findings == [], id
            assert crashing_limits.too_many == [], id
            assert await slots_of(env) == [], id
            await check_counter(env, PromiseId(id))
        assert died >= min(0.8 * len(points), len(points) - 1)  # no two runs pass quite the same


@pytest.mark.parametrize(("program", "end"), ABROAD.items(), ids=[program.__name__ for program in ABROAD])
async def test_evicted_at_each_await_what_calls_other_partitions_ends_as_if_it_had_not_been(
    kit_server: Server, program: Callable[..., Any], end: str
) -> None:
    effects.clear()
    async with testing.env(crashing.app, redis=kit_server.client(), always_suspend=True, partitions=PARTITIONS) as env:
        assert await ending(env, program, "evicted") == end
        assert (await env.app.fsck()).findings == []


def exchange_all(calls: Sequence[Call]) -> Plan[list[Any]]:
    return (yield calls)


async def slots_of(env: testing.Env) -> list[str]:
    """What limits have beside their numbers and counters, when all has ended."""
    store = await store_of(env.app)
    gates = [
        (name, await store.run(exchange_all(read_gate(keys, name))))
        for keys in store.keyspaces
        for name in await store.call(list_limits(keys))
    ]
    return [name for name, (_, *counts) in gates if any(counts)]


async def check_counter(env: testing.Env, id: PromiseId) -> None:
    """The sum of ``counting`` in Redis itself, exactly once."""
    store = await store_of(env.app)
    loaded = await store.load(id)
    if loaded is not None and loaded.record.function == "counting":
        counter = f"{id}-counter".encode()
        assert await store.call(Command([b"GET", counter], int)) == 5
        await store.call(Command([b"DEL", counter], int))
