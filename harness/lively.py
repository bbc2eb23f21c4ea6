"""A namespace in which something of everything happens, for people and programs that look at the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from durasleep import Context, Durasleep, Limit, Worker, progress

HOSTILE_ID = '<img src=x onerror="alert(1)">/\u202egnp.exe \'"&?#%2e{{7*7}}'
HOSTILE_TEXT = "<script>alert(1)</script>\n\u202e{{7*7}} </style><svg onload=alert(2)>"
PLAIN_TEXT = "the card is refused"
ORDER = "order-42"
FAILED = "invoice-7"
PATIENCE_S = 30.0


def make_app(url: str, namespace: str) -> Durasleep:
    """An application of a shop."""
    app = Durasleep(url, namespace=namespace, by="ada@shop", index=("func",))

    @app.workflow
    async def order(ctx: Context, customer: str) -> str:
        ctx.publish(status="reserving", customer=customer)
        await asyncio.gather(ctx.run(reserve, "book"), ctx.run(reserve, "lamp"))
        await ctx.run(take_payment, 4_200)
        receipt = await ctx.rpc(send_mail, customer, "Thank you")
        ctx.publish(status=f"sent {receipt}, waits for reviews", customer=customer)
        await ctx.sleep("30d", name="review")
        return "reviewed"

    @app.workflow
    async def invoice(ctx: Context, cents: int, text: str) -> None:
        await ctx.run(take_payment, cents)
        raise ValueError(text)

    @app.workflow
    async def approval(ctx: Context) -> str:
        return await ctx.receive("decision", str)

    @app.task
    async def send_mail(to: str, subject: str) -> str:
        return f"mail to {to}: {subject}"

    @app.task
    async def convert(pages: int) -> None:
        progress(pages // 3, pages, "page")
        await asyncio.Event().wait()  # until its worker leaves

    @app.task(limit=Limit("per-shop", total=2))
    async def export() -> None:
        await asyncio.Event().wait()

    @app.task
    async def report(day: str = "today") -> str:
        return day

    return app


async def reserve(what: str) -> str:
    return f"{what} is reserved"


async def take_payment(cents: int) -> int:
    return cents


async def _fill(app: Durasleep, other: str, text: str) -> None:
    """Everything that is to be seen; it takes about a second."""
    labeled = app.options(labels={"customer": "ada", "plan": "pro"})
    await labeled.rpc(ORDER, "order", "ada")
    await app.rpc_many("order", [(f"order-{number}", "bob") for number in range(43, 52)])
    await app.rpc_many("report", [(f"report-{number:02}",) for number in range(24)])
    await app.rpc(FAILED, "invoice", 700, text)
    await app.rpc(other, "invoice", 700, text)
    await app.rpc("approval-1", "approval")
    await app.rpc("convert-1", "convert", 90)
    await app.rpc_many("export", [(f"export-{number}",) for number in range(5)])
    await app.rpc("newsletter", "report", delay="2d")
    await app.options(target="reports").rpc("report-late", "report")
    await app.schedules.put("nightly", "report", cron="0 3 * * *", zone="Europe/Berlin", note="for the shop")
    await app.schedules.put("hourly", "report", every="1h")
    for id, status in ((ORDER, "suspended"), (FAILED, "done"), ("approval-1", "suspended"), ("convert-1", "running")):
        await _until(app, id, status)
    await _until(app, other, "done")
    await app.send("approval-1", "note", {"text": "soon"})
    await app.halt("order-50", text)
    await app.reschedule("order-51", "3h")
    await app.cancel("order-49")
    await app.schedules.pause("hourly", "while the shop moves")
    await app.pause_group("reports")


async def _until(app: Durasleep, id: str, status: str) -> None:
    async def is_so() -> bool:
        return (await app.describe(id)).status == status

    await eventually(is_so, f"{id} to be {status}")


async def eventually(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something is so; AssertionError if that takes too long."""
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while not await is_so():
        assert asyncio.get_running_loop().time() < give_up_at, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def lively(url: str, namespace: str, *, hostile: bool = True) -> AsyncGenerator[Durasleep]:
    """The application with a worker, and everything that is to be seen; ``hostile`` texts are among it."""
    app = make_app(url, namespace)
    worker = app.worker(name="desk-1", concurrency=20)
    running = asyncio.create_task(worker.run())
    try:
        await _ready(worker, running)
        await _fill(app, HOSTILE_ID if hostile else "invoice-8", HOSTILE_TEXT if hostile else PLAIN_TEXT)
        yield app
    finally:
        worker.abort()
        await running
        await app.aclose()


async def _ready(worker: Worker, running: asyncio.Task[None]) -> None:
    ready = asyncio.create_task(worker.ready.wait())
    await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
