"""Programs that type checkers accept; results have the type that the function returns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, assert_type

from durasleep import (
    Batch,
    Channel,
    Context,
    Delivery,
    Handle,
    Limit,
    Message,
    State,
    View,
    Winner,
    progress,
    publish,
)
from durasleep.sync import Handle as SyncHandle
from tests.types.functions import Receipt, app, charge, client, no_arguments, order, send


async def by_rpc() -> None:
    assert_type(await app.rpc("a", order, "a", 5), Handle[Receipt])
    assert_type(await app.rpc("a", order, "a", timeout="1h", delay=5, target="others"), Handle[Receipt])
    assert_type(await app.rpc("a", charge, "a"), Handle[int])
    assert_type(await app.rpc("a", send, "a", "b", timeout=timedelta(days=1)), Handle[bool])
    assert_type(await app.rpc("a", "order", 5, anything=True), Handle[Any])
    assert_type(await app.rpc_many(order, [("a", "a", 5)]), list[Handle[Receipt]])
    assert_type(await app.rpc_many(send, [("a", "a", "b")], delay=5), list[Handle[bool]])
    assert_type(await (await app.rpc("a", order, "a")), Receipt)
    assert_type(await (await app.rpc("a", send, "a", "b")).result("30s"), bool)


async def by_options() -> None:
    hourly = app.options(target="others", timeout="1h", delay=5.0, retention="forever", min_replicas=1, fsync=True)
    assert_type(await hourly.rpc("a", order, "a", cents=5), Handle[Receipt])
    assert_type(await hourly.rpc("a", no_arguments), Handle[None])
    assert_type(await hourly.rpc("a", charge, "a", timeout=5, delay=True), Handle[int])
    assert_type(await hourly.rpc("a", send, target="a", text="b"), Handle[bool])
    assert_type(await hourly.rpc("a", "order", 5, id="anything"), Handle[Any])
    assert_type(await hourly.rpc_many(charge, [("a", "b")]), list[Handle[int]])
    assert_type(await hourly.start(order, "a", 5), Handle[Receipt])
    await app.options(retention=timedelta(days=1)).schedule("daily", "@daily", send, "a", "b", zone="Europe/Berlin")


async def by_start() -> None:
    assert_type(await app.start(order, id="a"), Handle[Receipt])
    assert_type(await app.start(charge, "a", timeout=5), Handle[int])
    assert_type(await app.start(send, "a", "b"), Handle[bool])
    assert_type(await app.start("send", "a", "b"), Handle[Any])


RECEIPTS = Channel("receipts", Receipt)


async def by_messages(receipt: Receipt, ctx: Context) -> None:
    assert_type(RECEIPTS, Channel[Receipt])
    assert_type(await app.send("a", RECEIPTS, receipt), Delivery)
    assert_type(await app.send("a", RECEIPTS, receipt, key="k", start=(order, "a", 5)), Delivery)
    assert_type(await app.send("a", "receipts", {"any": 5}, start=("order", "a")), Delivery)
    assert_type(await app.send("a", "go"), Delivery)
    assert_type(await app.options(labels={"a": "b"}).send("a", "go", start=(no_arguments,)), Delivery)
    assert_type(client.send("a", RECEIPTS, receipt), Delivery)
    assert_type(await app.ask("a", "go", timeout=5), Any)
    assert_type(await app.ask("a", RECEIPTS, receipt, timeout="5s", returns=Receipt), Receipt)
    assert_type(await app.ask("a", "price", 5, timeout="5s", returns=int, start=(order, "a")), int)
    optional: Receipt | None = await app.ask("a", "go", timeout=5, returns=Receipt | None)
    assert_type(client.ask("a", RECEIPTS, receipt, timeout=5, returns=list[int]), list[int])
    assert_type(await ctx.receive(RECEIPTS), Receipt)
    assert_type(await ctx.receive("price", int, timeout=5), int)
    assert_type(await ctx.send("a", RECEIPTS, receipt), Delivery)
    async for message in ctx.messages(RECEIPTS):
        assert_type(message, Message[Receipt])
        assert_type(await message.reply(optional), bool)


async def by_view(ctx: Context) -> None:
    assert_type(await app.view("a"), View)
    assert_type([view async for view in app.watch("a", timeout="1h")], list[View])
    assert_type(client.view("a"), View)
    assert_type(list(client.watch("a", timeout=5)), list[View])
    assert_type(ctx.publish(status="paid", cents=5), None)
    assert_type(publish(rows=5), None)
    assert_type(progress(1, 4.5, "reading"), None)
    view = await app.view("a")
    assert_type(view.state, State)
    assert view.progress
    assert_type(view.progress.fraction, float | None)


async def gathered() -> None:
    handles = await app.rpc_many(order, [("a", "a", 5)])
    assert_type(await app.gather(handles), list[Receipt])
    assert_type(await app.gather(handles, return_exceptions=True), list[Receipt | Exception])
    assert_type(await app.get("a", Receipt), Receipt)
    assert_type(await app.get("a", list[Receipt]), list[Receipt])
    assert_type(await app.get("a"), Any)
    optional: Receipt | None = await app.get("a", Receipt | None)
    assert optional
    await show(handles)


async def show(handles: Sequence[Handle[object]]) -> None:
    assert_type(await app.gather(handles), list[object])


def without_asyncio() -> None:
    assert_type(client.rpc("a", order, "a", timeout=5), SyncHandle[Receipt])
    assert_type(client.rpc("a", send, "a", "b"), SyncHandle[bool])
    assert_type(client.rpc_many(charge, [("a", "b")]), list[SyncHandle[int]])
    assert_type(client.options(delay="1h").rpc("a", charge, "a", timeout=5), SyncHandle[int])
    assert_type(client.options(delay="1h").start(send, "a", text="b"), SyncHandle[bool])
    assert_type(client.start(order, "a", 5).result(), Receipt)
    assert_type(client.get("a", int).result(), int)
    assert_type(client.gather(client.rpc_many(order, [("a", "a", 5)])), list[Receipt])
    assert_type(client.gather([client.start(charge, "a", timeout=5)], return_exceptions=True), list[int | Exception])
    client.options(retention=timedelta(days=1)).schedule("daily", "@daily", send, "a", "b", zone="Europe/Berlin")


async def in_a_workflow(ctx: Context) -> None:
    assert_type(await ctx.rpc(order, "a", 5, timeout="1h"), Receipt)
    assert_type(await ctx.rpc(send, "a", "b"), bool)
    mine = ctx.options(id="a", target="others", timeout="1h", retention=3600)
    assert_type(await mine.rpc(order, "a", cents=5), Receipt)
    assert_type(await mine.rpc(charge, "a", timeout=5), int)
    assert_type(await mine.rpc(send, target="a", text="b"), bool)
    assert_type(await mine.rpc("send", 1, 2), Any)
    assert_type(await mine.detached(order, "a"), str)
    assert_type(await ctx.promise(int, timeout="3d", name="count"), int)
    assert_type(await ctx.promise(), Any)
    approval, pause = ctx.promise(Receipt), ctx.sleep("3d")
    assert_type(await ctx.race(approval, pause), Winner[Receipt | None])
    assert_type((await ctx.race(approval, pause, ctx.rpc(charge, "a"))).value, Receipt | int | None)
    assert_type(await ctx.race(*[ctx.rpc(charge, "a")]), Winner[int])


@app.workflow
async def gathering(ctx: Context, a: str, **more: int) -> bool:
    return bool(a and more)


@app.workflow(name="of-any-number", version=2)
async def of_any_number(ctx: Context, *all_of_them: str, cents: int = 0, **more: int) -> bool:
    return bool(all_of_them and cents and more)


async def with_arguments_of_any_name(ctx: Context) -> None:
    assert_type(await ctx.rpc(gathering, "a", more=5), bool)
    assert_type(await app.rpc("a", of_any_number, "a", more=5), Handle[bool])


@app.task(batch=Batch(size=10))
async def lengths(words: list[str]) -> list[int]:
    return [len(word) for word in words]


def itself(word: str) -> str:
    return word


@app.task(limit=Limit("l", total=1), by=itself, priority=1, retention="1d")
async def limited(word: str) -> int:
    return len(word)


async def with_one_of_a_batch(ctx: Context) -> None:
    assert_type(await ctx.rpc(lengths, "a"), int)
    assert_type(await app.options(key="a", labels={"a": "b"}).rpc("a", lengths, "a"), Handle[int])
    assert_type(await ctx.options(priority=1).rpc(limited, "a"), int)
