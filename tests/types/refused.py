"""Calls that type checkers refuse: the lines that end with ``# refused``, and no others."""

from __future__ import annotations

from durasleep import Channel, Context, Handle, progress
from tests.types.functions import Receipt, app, charge, client, no_arguments, order, send


async def by_options() -> None:
    plain = app.options()
    await plain.rpc("a", order)  # refused
    await plain.rpc("a", order, 5)  # refused
    await plain.rpc("a", order, "a", "five")  # refused
    await plain.rpc("a", order, "a", 5, 6)  # refused
    await plain.rpc("a", order, "a", cent=5)  # refused
    await plain.rpc("a", no_arguments, "a")  # refused
    await plain.rpc("a", charge, "a")  # refused
    await plain.rpc("a", charge, "a", timeout="5")  # refused
    await plain.rpc("a", send, "a")  # refused
    await plain.rpc("a", send, "a", "b", target="c")  # refused
    await plain.rpc(5, send, "a", "b")  # refused
    await plain.rpc_many(send, [5])  # refused


async def by_unknown_options() -> None:
    app.options(urgency=1)  # refused
    app.options(timeout=[5])  # refused
    app.options(target=5)  # refused
    app.options(min_replicas="one")  # refused
    client.options(retention=None, zone="UTC")  # refused


async def by_view(ctx: Context) -> None:
    await app.view(5)  # refused
    app.watch("a", 5)  # refused
    await ctx.publish(status="paid")  # refused
    ctx.publish("paid")  # refused
    progress("1")  # refused
    (await app.view("a")).state = "resolved"  # refused


async def by_start() -> None:
    await app.start(order)  # refused
    await app.start(order, 5)  # refused
    await app.start(order, "a", "five")  # refused
    await app.start(order, "a", cent=5)  # refused
    await app.start(charge, "a", timeout="5")  # refused
    await app.start(send, "a", "b", "c")  # refused
    await app.start(send, target=5, text="b")  # refused
    await app.options(delay=5).start(send, "a")  # refused


RECEIPTS = Channel("receipts", Receipt)


async def by_messages(receipt: Receipt, ctx: Context) -> None:
    await app.send("a", RECEIPTS, 5)  # refused
    await app.send("a", RECEIPTS)  # refused
    await app.send("a", RECEIPTS, receipt, start=order)  # refused
    await app.send("a", RECEIPTS, receipt, start=())  # refused
    await app.send("a", "go", start=(5,))  # refused
    await app.send("a", "go", key=5)  # refused
    await app.send("a", "go", timeout=5)  # refused
    await app.send(5, "go")  # refused
    await app.ask("a", "go")  # refused
    await app.ask("a", RECEIPTS, 5, timeout=5)  # refused
    client.send("a", RECEIPTS, 5)  # refused
    client.ask("a", "go", timeout=[5])  # refused
    await ctx.send("a", RECEIPTS, 5)  # refused


async def by_results() -> None:
    handle: Handle[str] = await app.rpc("a", charge, "a")  # refused
    many: list[Handle[str]] = await app.rpc_many(send, [("a", "a", "b")])  # refused
    texts: list[str] = await app.gather(await app.rpc_many(send, [("a", "a", "b")]))  # refused
    text: str = await app.get("a", int)  # refused
    assert all((handle, many, texts, text))


def without_asyncio() -> None:
    client.start(order)  # refused
    client.options(timeout=5).rpc("a", charge, "a", timeout="5")  # refused
    client.options(timeout=5).start(send, "a", text=5)  # refused
    text: str = client.rpc("a", send, "a", "b").result()  # refused
    texts: list[str] = client.gather(client.rpc_many(send, [("a", "a", "b")]))  # refused
    assert all((text, texts))


async def in_a_workflow(ctx: Context) -> None:
    plain = ctx.options()
    await plain.rpc(order, 5)  # refused
    await plain.rpc(send, "a")  # refused
    await plain.rpc(charge, "a", timeout="5")  # refused
    await plain.detached(order, "a", cent=5)  # refused
    text: str = await ctx.promise(int)  # refused
    other: str = (await ctx.race(ctx.promise(int), ctx.sleep(5))).value  # refused
    assert text + other
