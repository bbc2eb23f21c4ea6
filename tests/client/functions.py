"""The functions of the worker in these tests, and the worker itself: in a thread, beside clients of either kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from durasleep import Channel, Context, Durasleep
from tests.service.functions import make_app, note, sleeping_workflow, stand_at

Serving = Callable[..., AbstractContextManager[None]]
"""``with serving("w1"):`` runs a worker of this name during the block."""


async def odd(ctx: Context, target: str, timeout: int, delay: int = 0, id: str = "", fn: str = "") -> str:
    """Its parameters have the names of options and of parameters of the client's methods."""
    return f"{target} {timeout} {delay} {id} {fn}".rstrip()


def self_named(self: str, many: int = 0, *, retention: str = "") -> str:
    return f"{self} {many} {retention}".rstrip()


@dataclass
class Order:
    number: int
    tags: list[str]


async def grown(ctx: Context, order: Order, tag: str) -> Order:
    return Order(order.number + 1, [*order.tags, tag])


async def wide(ctx: Context, effects: str) -> Any:
    """A step, two sleeps, a promise, a child and an independent execution at the same time."""
    await ctx.run(note, effects, "begun")
    return await asyncio.gather(
        ctx.sleep(3600, name="short"),
        ctx.sleep(7200, name="long"),
        ctx.promise(name="approval"),
        ctx.rpc(sleeping_workflow, 60),
        ctx.rpc(sleeping_workflow, 5400, id="beside"),
    )


@dataclass
class Payment:
    cents: int


@dataclass
class Answer:
    answer: int
    asked: bool


PAYMENT = Channel("payment", Payment)


async def collecting(ctx: Context, count: int, channel: str = "item") -> list[Any]:
    """The values of so many messages, in order."""
    return [await ctx.receive(channel) for _ in range(count)]


async def paid(ctx: Context) -> Payment:
    return await ctx.receive(PAYMENT)


async def answering(ctx: Context) -> int:
    """Answers each message, as that says; returns how many there were."""
    count = 0
    async for message in ctx.messages("question"):
        count += 1
        match message.value:
            case "end":
                break
            case "last":
                await message.reply("the last one")
                break
            case "fail":
                await message.reply(error=LookupError("not here"))
            case "be silent":
                pass
            case value:
                await message.reply({"answer": value, "asked": message.wants_reply})
    return count


async def telling(ctx: Context, words: list[str]) -> None:
    """Publishes one after the other, and waits for a promise after each."""
    for word in words:
        ctx.publish(status=word)
        await ctx.promise()


def served_app(url: str, namespace: str) -> Durasleep:
    """An application with these functions, and those of the service tests."""
    app = make_app(url, namespace)
    for workflow in (odd, grown, wide, collecting, paid, answering, telling):
        app.workflow(workflow)
    for task in (self_named, stand_at):
        app.task(task)
    return app


@contextmanager
def serving_in_thread(app: Durasleep, name: str = "w1") -> Generator[None]:
    """A worker in an event loop of its own; it leaves at once at the end."""
    is_ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        worker = app.worker(name=name)
        running = asyncio.create_task(worker.run())
        await asyncio.wait((running, asyncio.create_task(worker.ready.wait())), return_when=asyncio.FIRST_COMPLETED)
        is_ready.set()
        await asyncio.to_thread(stop.wait)
        worker.abort()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="worker")
    thread.start()
    try:
        assert is_ready.wait(30)
        yield
    finally:
        stop.set()
        thread.join()


served_app("redis://localhost:1/0", "never-served")  # what is registered nowhere cannot be called
