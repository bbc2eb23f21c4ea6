"""A gateway is killed at each step of the bridge, before it and after it: another one goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from durasleep import Canceled, Context, Durasleep
from durasleep.client.client import store_of
from durasleep.protocol import bridge, resonate
from durasleep.transport.store import Store
from harness.servers import Server
from tests.crash_points import POINTS_MAX
from tests.gateway.assassin import Assassin
from tests.gateway.gateways import serving
from tests.gateway.nursery import Nursery
from tests.service.workers import eventually, until
from tests.service.workers import serving as working

NAME = "the-call"
FAR_MS = 4_000_000_000_000


def data_of(value: object) -> dict[str, Any]:
    return {"data": base64.b64encode(json.dumps(value).encode()).decode()}


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

    async def create(self, id: str, **call: Any) -> None:
        tags = {"resonate:target": "durasleep://workers"}
        await self.ask("promise.create", id=id, timeoutAt=FAR_MS, param=data_of(call), tags=tags)


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
    action = {"kind": "promise.settle", "data": {"id": id, "state": "resolved", "value": data_of("small")}}
    await other.ask("task.fulfill", id=id, version=task["version"], action=action)
    assert await handle.result(timeout=30) == "small"
    assert other.taken == [id]


async def outward_canceled(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts")
    await other.take()
    await app.cancel(id)
    with pytest.raises(Canceled):
        await handle.result(timeout=30)
    assert (await other.settled(id))["state"] == "rejected_canceled"


async def outward_canceled_there(app: Durasleep, other: Resonate, id: str) -> None:
    handle = await app.rpc(id, "resize", 1, target="poll://any@ts")
    await other.take()
    await other.ask("promise.settle", id=id, state="rejected_canceled", value={})
    with pytest.raises(Canceled):
        await handle.result(timeout=30)


async def inward(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="double", args=[4])
    promise = await other.settled(id)
    assert (promise["state"], promise["value"]) == ("resolved", data_of(8))


async def inward_canceled(app: Durasleep, other: Resonate, id: str) -> None:
    await other.create(id, func="sleeper")
    await until(app, id, "suspended")
    await other.ask("promise.settle", id=id, state="rejected_canceled", value={})
    assert (await until(app, id, "done")).state == "canceled"


REQUESTS: dict[Program, int] = {
    outward: 14,
    outward_canceled: 9,
    outward_canceled_there: 9,
    inward: 2,
    inward_canceled: 5,
}
"""How many requests of a gateway name the execution."""
SOME = 3  # points of each
AT_A_TIME = 12


@asynccontextmanager
async def application(url: str, namespace: str) -> AsyncGenerator[Durasleep]:
    async with Durasleep(url, namespace=namespace) as app:
        add_functions(app)
        async with working(app):
            yield app


async def run(program: Program, server: Server, namespace: str, nursery: Nursery, assassin: Assassin) -> None:
    """The program, with a gateway that is killed, and then another one."""
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(application(server.url, namespace))
        await assassin.start(urlsplit(server.url).port or 0)
        stack.push_async_callback(assassin.close)
        assassin.victim = nursery.fork(f"redis://127.0.0.1:{assassin.port}/0", namespace, "--bridge", "ts")
        await assassin.victim.ready()
        running = asyncio.create_task(program(app, Resonate(await store_of(app)), NAME))
        killed = asyncio.create_task(assassin.has_killed.wait())
        await asyncio.wait((running, killed), return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        if not running.done():
            await stack.enter_async_context(serving(app, bridge=["ts"]))
        await running


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def points(program: Program) -> list[tuple[int, bool]]:
    """At which requests to kill, before or after them: some, at equal distances, or all."""
    all = list(itertools.product(range(REQUESTS[program]), (False, True)))
    return all[:: 1 if POINTS_MAX == 0 else max(1, len(all) // SOME)]


@pytest.mark.timeout(180)  # on a busy machine: some gateways are started at the same time
async def test_wherever_a_gateway_is_killed_another_one_goes_on(
    one_server: Server, namespace: str, nursery: Nursery
) -> None:
    at_a_time = asyncio.Semaphore(AT_A_TIME)

    async def one(number: int, program: Program, assassin: Assassin) -> None:
        async with at_a_time:
            await run(program, one_server, f"{namespace}-{number}", nursery, assassin)

    async with asyncio.TaskGroup() as group:
        for number, (program, (point, after)) in enumerate((each, at) for each in REQUESTS for at in points(each)):
            work = one(number, program, Assassin(NAME, point, after=after))
            group.create_task(work, name=f"{program.__name__} {point} {after}")
