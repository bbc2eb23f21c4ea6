"""A gateway is killed at each step of the bridge, before it and after it: another one goes on, and nothing is lost.

The worker inside the gateway fires all timers, so its relay is killed, too: it carries what executions have to tell.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from durasleep import Canceled, Context, Durasleep, Settings, TimedOut
from durasleep.client.client import store_of
from durasleep.errors import NotFound
from durasleep.protocol import bridge, resonate, sorted_sets
from durasleep.transport.store import Store
from harness.servers import Server
from tests.crash_points import chosen
from tests.gateway.assassin import NAME, Assassin
from tests.gateway.gateways import FAR_MS, data_of, serving
from tests.gateway.nursery import Nursery
from tests.service.workers import PATIENCE_S, eventually, until
from tests.service.workers import serving as working

LATE_S = 6.0
AT_A_TIME = 16
BEHIND = Settings(rank_delay_ms=3_600_000)
"""Of the application, whose worker never comes to fire a timer: workers in gateways do."""


class Resonate:
    """What a worker or caller of another language does, straight on Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keyspaces[0]
        self.taken: list[str] = []

    async def ask(self, kind: str, **data: Any) -> Any:
        answer = await self._store.call(resonate.rpc(self._keys, bridge.request(kind, data)))
        return bridge.answer_of(answer)[1]

    async def take(self) -> dict[str, Any]:
        """The next task of group ``ts``, acquired."""

        async def look() -> Any:
            await self._store.call(resonate.tick(self._keys))
            [messages] = await self._store.call(resonate.take(self._keys, ["poll://any@ts"], limit=1))
            return json.loads(messages[0].body)["data"]["task"] if messages else None

        task = await eventually(look, "a task")
        self.taken.append(task["id"])
        return (await self.ask("task.acquire", **task, pid="p", ttl=60_000))["task"]

    async def settled(self, id: str) -> dict[str, Any]:
        async def look() -> Any:
            promise = (await self.ask("promise.get", id=id))["promise"]
            return promise if promise["state"] != "pending" else None

        return await eventually(look, f"{id} to settle")

    async def create(self, id: str, *, at_ms: int = FAR_MS, **call: Any) -> None:
        tags = {"resonate:target": "durasleep://workers"}
        await self.ask("promise.create", id=id, timeoutAt=at_ms, param=data_of(call), tags=tags)

    async def is_carried(self) -> bool:
        """Whether neither a promise nor an execution has anything left to tell."""
        queue = f"{self._keys.resonate}queue:{resonate.OURS}"
        [ours, timers] = await self._store.ask([sorted_sets.list_members(key) for key in (queue, self._keys.timers)])
        return not ours and not any(name.endswith("~tell") for name, _ in timers)


def add_functions(app: Durasleep) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep("1h")


Program = Callable[[Durasleep, Resonate, str], Coroutine[Any, Any, None]]


async def outward(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts")
    task = await other.take()
    await until(app, id, "suspended")
    action = {"kind": "promise.settle", "data": {"id": id, "state": "resolved", "value": data_of("small")}}
    await other.ask("task.fulfill", id=id, version=task["version"], action=action)
    assert await handle.result(timeout=PATIENCE_S) == "small"
    assert other.taken == [id]


async def outward_canceled(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts")
    await other.take()
    await until(app, id, "suspended")
    await app.cancel(id)
    with pytest.raises(Canceled):
        await handle.result(timeout=PATIENCE_S)
    assert (await other.settled(id))["state"] == "rejected_canceled"


async def outward_canceled_there(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts")
    await other.take()
    await until(app, id, "suspended")
    await other.ask("promise.settle", id=id, state="rejected_canceled", value={})
    with pytest.raises(Canceled):
        await handle.result(timeout=PATIENCE_S)


async def outward_late(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts", timeout=LATE_S)
    with pytest.raises(TimedOut):
        await handle.result(timeout=PATIENCE_S)
    found = await other.ask("promise.get", id=id)
    # "rejected" if the execution had ended before any gateway had made its promise
    assert not found or (await other.settled(id))["state"] in {"rejected_timedout", "rejected"}


async def inward(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="double", args=[4])
    promise = await other.settled(id)
    assert (promise["state"], promise["value"]) == ("resolved", data_of(8))


async def inward_failed(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="double", args=[])
    assert (await other.settled(id))["state"] == "rejected"


async def inward_canceled(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="sleeper")
    await until(app, id, "suspended")
    await app.cancel(id)
    assert (await other.settled(id))["state"] == "rejected_canceled"


async def inward_canceled_there(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="sleeper")
    await until(app, id, "suspended")
    await other.ask("promise.settle", id=id, state="rejected_canceled", value={})
    assert (await until(app, id, "done")).state == "canceled"


async def inward_late(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="sleeper", at_ms=round((time.time() + LATE_S) * 1000))
    assert (await other.settled(id))["state"] == "rejected_timedout"
    await eventually(other.is_carried, "everything to be carried")
    with suppress(NotFound):  # the gateway was killed before it had made an execution
        await app.describe(id)
        assert (await until(app, id, "done")).state == "timedout"


BEGUN = "continue attach continue promise.create promise.register_listener attach suspend suspend"
STEPS: dict[Program, str] = {
    outward: f"{BEGUN} HMGET settle ZREM resolve promise.get told",
    outward_canceled: f"{BEGUN} cancel promise.get promise.settle ZREM told HMGET? ZREM?",
    outward_canceled_there: f"{BEGUN} HMGET cancel ZREM cancel promise.get told",
    outward_late: f"{BEGUN} HMGET ZREM promise.get told",
    inward: "create task.acquire promise.get promise.settle ZREM told attach? ZREM?",
    inward_failed: "create task.acquire promise.get promise.settle ZREM told attach? ZREM?",
    inward_canceled: "create task.acquire promise.get promise.settle ZREM told attach? ZREM?",
    inward_canceled_there: "create task.acquire attach cancel ZREM promise.get told",
    inward_late: "create task.acquire ZREM promise.get told",
}
"""What a gateway does for each, in about this order: see ``assassin``. It may load a journal, too, or repeat a step.
With a "?", it has nothing to do if the relay was quicker.
"""


def steps_of(program: Program) -> list[str]:
    return STEPS[program].replace("?", "").split()


def certain_steps_of(program: Program) -> list[str]:
    """Those that always come."""
    return [step for step in STEPS[program].split() if not step.endswith("?")]


async def run(program: Program, server: Server, namespace: str, nursery: Nursery, assassin: Assassin) -> None:
    """The program, with a gateway that is killed, and then another one. A step may come less often than otherwise."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        other = await enter(Durasleep(server.url, namespace=namespace))
        raw = Resonate(await store_of(other))
        await assassin.start(urlsplit(server.url).port or 0)
        stack.push_async_callback(assassin.close)
        assassin.victim = nursery.fork(f"redis://127.0.0.1:{assassin.port}/0", namespace, "--bridge", "ts")
        await assassin.victim.ready()
        app = await enter(Durasleep(server.url, namespace=namespace, settings=BEHIND))
        add_functions(app)
        worker = await enter(working(app))
        [serving_it] = worker._servings  # pyright: ignore[reportPrivateUsage]
        serving_it.firer.set_rank(1)
        serving_it.firer.set_rank = lambda _: None  # pyright: ignore[reportAttributeAccessIssue]

        async def run_program() -> None:
            await program(app, raw, NAME)
            await eventually(raw.is_carried, "everything to be carried")

        running = asyncio.create_task(run_program())
        killing = asyncio.create_task(assassin.has_killed.wait())
        await asyncio.wait({running, killing}, return_when=asyncio.FIRST_COMPLETED)
        if not killing.cancel():
            await enter(serving(other, bridge=["ts"]))
        await running


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def points(program: Program) -> list[tuple[str, int, bool]]:
    """At which occurrence of which step to kill, before or after it: some, at equal distances, or all."""
    steps = steps_of(program)
    all = [(step, steps[:at].count(step), after) for at, step in enumerate(steps) for after in (False, True)]
    return [all[at] for at in chosen(len(all), times=0.25)]


@pytest.mark.timeout(180)  # on a busy machine: some gateways are started at the same time
async def test_wherever_a_gateway_is_killed_another_one_goes_on(
    one_server: Server, namespace: str, nursery: Nursery
) -> None:
    at_a_time = asyncio.Semaphore(AT_A_TIME)
    chosen_points = [(program, point) for program in STEPS for point in points(program)]
    survived: list[tuple[Program, str, int]] = []

    async def one(number: int, program: Program, step: str, nth: int, *, after: bool) -> None:
        assassin = Assassin(step, nth, after=after)
        async with at_a_time:
            await run(program, one_server, f"{namespace}-{number}", nursery, assassin)
        if not assassin.has_killed.is_set():
            survived.append((program, step, nth))

    async with asyncio.TaskGroup() as group:
        for number, (program, (step, nth, after)) in enumerate(chosen_points):
            work = one(number, program, step, nth, after=after)
            group.create_task(work, name=f"{program.__name__} {step} {nth} {after}")
    # Two suspensions, or two answers, may become one. The first of each kind comes, if it is certain.
    assert all(nth or step not in certain_steps_of(program) for program, step, nth in survived), survived
    assert len(survived) <= len(chosen_points) // 5, survived


async def test_these_are_all_steps(one_server: Server, namespace: str, nursery: Nursery) -> None:
    async def one(program: Program) -> None:
        assassin = Assassin()
        await run(program, one_server, f"{namespace}-{program.__name__}", nursery, assassin)
        assert not assassin.unknown
        assert set(assassin.steps) - {"load"} <= set(steps_of(program)), program.__name__
        assert not Counter(certain_steps_of(program)) - Counter(assassin.steps), program.__name__

    async with asyncio.TaskGroup() as group:
        for program in STEPS:
            group.create_task(one(program))
